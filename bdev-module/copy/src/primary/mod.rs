//! The primary roles of an engine: stamping, and everything that waits for it.
//!
//! [`Primary`] holds all primary groups of one engine, hence of one core: one [`crate::stamp::Stamper`] gives the
//! stamps of all of them.

mod config;
mod status;
mod uplink;

pub use config::{GroupConfig, PairConfig, PrimaryConfig};
pub use status::{GroupStatus, PairStatus, StreamStanding, Waiting};
pub use uplink::{Backlog, Beacon, Uplink};

use crate::engine::OperatorError;
use crate::message::Message;
use crate::ports::{DeviceError, HostIo, HostToken, LocalToken, Memory, MetaToken, Ticket};
use crate::types::{Epoch, GroupId, LinkId, Mono, Now, PairId, Seq, StreamId};

/// All primary roles of one engine. A state machine without I/O: every call submits to `ports` and returns.
pub struct Primary<M: Memory> {
    config: PrimaryConfig,
    memory: std::marker::PhantomData<M>,
}

/// How a clean shutdown stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Not asked for.
    Serving,
    /// Asked for; requests in flight end and streams drain.
    Draining,
    /// Over. Each stream named here was not drained in time: its pairs come up suspended (PSUE) after the restart.
    Done {
        /// Streams with records that the secondary may lack.
        undrained: Vec<StreamId>,
    },
}

#[allow(unused_variables)]
impl<M: Memory> Primary<M> {
    /// No groups yet.
    pub fn new(config: PrimaryConfig) -> Primary<M> {
        Primary { config, memory: std::marker::PhantomData }
    }

    /// Creates a group, or takes up one that metadata knows from before. It has no stream before its first pair.
    ///
    /// # Errors
    /// [`OperatorError::Exists`], or [`OperatorError::Invalid`] when metadata knows it with another scope or the
    /// configuration makes no sense.
    pub fn group_create<U>(
        &mut self,
        now: Now,
        config: GroupConfig,
        ports: &mut U,
    ) -> Result<GroupId, OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        Ok(GroupId(0))
    }

    /// Deletes a group without pairs and forgets what metadata knows of it.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] while it has pairs.
    pub fn group_delete<U>(&mut self, now: Now, group: GroupId, ports: &mut U) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        Ok(())
    }

    /// Creates a pair, or takes up one that metadata knows from before (which is answered at once, whatever its state).
    ///
    /// The ticket is answered with [`crate::ports::OperatorAnswer::PairCreated`] when the pair is in PAIR state; with
    /// [`OperatorError::TimedOut`] when that takes too long: the pair exists then and goes on by itself as `pair_get`
    /// says; with any other error when it cannot be: no pair is left then.
    ///
    /// # Errors
    /// What is known at once; the ticket is not answered then, and there is no pair.
    pub fn pair_create<U>(
        &mut self,
        now: Now,
        config: PairConfig,
        ticket: Ticket,
        ports: &mut U,
    ) -> Result<PairId, OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        Ok(PairId(0))
    }

    /// Ends a pair. Hosts' requests are answered [`crate::ports::HostError::Aborted`] from here on. A copying pair first
    /// drains; answered [`crate::ports::OperatorAnswer::Deleted`], or [`OperatorError::TimedOut`]: then the pair goes on
    /// as before.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`], [`OperatorError::WrongState`]; the ticket is not answered then.
    pub fn pair_delete<U>(
        &mut self,
        now: Now,
        pair: PairId,
        ticket: Ticket,
        ports: &mut U,
    ) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        Ok(())
    }

    /// Takes a host's request on a pair's replica device. Answered by `complete_host`, also when there is no such pair.
    pub fn host_io<U>(&mut self, now: Now, pair: PairId, io: HostIo<M::Buf, M::Shared>, token: HostToken, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
    }

    /// A local I/O of [`crate::ports::Owner::Primary`] ended.
    pub fn local_done<U>(
        &mut self,
        now: Now,
        token: LocalToken,
        result: Result<(), DeviceError>,
        buf: Option<M::Buf>,
        ports: &mut U,
    ) where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
    }

    /// A metadata write of [`crate::ports::Owner::Primary`] is durable.
    pub fn persisted<U>(&mut self, now: Now, token: MetaToken, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
    }

    /// A session with the peer of this link came up. Calls [`Uplink::send_message`] for all that has to be said again.
    pub fn link_up<U>(&mut self, now: Now, link: LinkId, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
    }

    /// The session went away.
    pub fn link_down<U>(&mut self, now: Now, link: LinkId, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
    }

    /// A message from the peer of the link. Those that are not for a primary, or not about a group on this link, are
    /// passed over.
    pub fn message<U>(&mut self, now: Now, link: LinkId, message: Message, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
    }

    /// The secondary reports everything of the stream up to `seq` durable. The link has freed it already.
    pub fn durable<U>(&mut self, now: Now, link: LinkId, stream: StreamId, epoch: Epoch, seq: Seq, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
    }

    /// The end of a turn: answers whose wait is over, beacons, repetitions, time-outs.
    pub fn turn<U>(&mut self, now: Now, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
    }

    /// When [`Primary::turn`] has to be called at the latest if nothing happens.
    pub fn next_timeout(&self, now: Now) -> Option<Mono> {
        None
    }

    /// Begins a clean shutdown: hosts' requests are answered [`crate::ports::HostError::Aborted`] from here on, those in
    /// flight end, the streams drain, and "drained" is made durable. See [`Primary::shutdown_state`].
    pub fn shutdown<U>(&mut self, now: Now, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
    }

    /// How the clean shutdown stands.
    pub fn shutdown_state(&self) -> Shutdown {
        Shutdown::Serving
    }

    /// Whether this engine is the primary of the pair.
    pub fn has_pair(&self, pair: PairId) -> bool {
        false
    }

    /// Whether this engine is the primary of the group.
    pub fn has_group(&self, group: GroupId) -> bool {
        false
    }

    /// All groups, by id.
    pub fn groups(&self) -> Vec<GroupId> {
        Vec::new()
    }

    /// All pairs, by id.
    pub fn pairs(&self) -> Vec<PairId> {
        Vec::new()
    }

    /// A group for `group_get`. Not for the data path: allocates.
    pub fn group_status<U>(&self, now: Now, group: GroupId, ports: &U) -> Option<GroupStatus>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        None
    }

    /// A pair for `pair_get`. Not for the data path: allocates.
    pub fn pair_status(&self, now: Now, pair: PairId) -> Option<PairStatus> {
        None
    }
}
