//! The secondary roles of an engine: from frames to volumes.

mod status;

pub use crate::takeover::TakeoverStep;
pub use status::{GroupPhase, GroupStatus, PairStatus, StreamView};

use crate::engine::OperatorError;
use crate::message::Message;
use crate::ports::{DeviceError, HostIo, HostToken, LocalToken, MetaToken, Ports, Ticket};
use crate::primary::Beacon;
use crate::stream::Fragment;
use crate::types::{Epoch, Geometry, GroupId, LinkId, Mono, Now, PairId, Seq, StreamId, SystemId, Time, VolumeId};
use std::marker::PhantomData;

/// What a secondary tells a stream's sender; one such replaces the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// The stream.
    pub stream: StreamId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The end of the longest run that was received.
    pub run: Seq,
    /// Everything up to this number is durable in every group that it belongs to.
    pub durable: Seq,
    /// How many records above `durable` the sender may have sent.
    pub grant_records: u32,
    /// How many bytes ([`crate::types::RecordHead::charge_bytes`]) above `durable` the sender may have sent. Sent in
    /// order of numbers, so the record that closes a gap always has its room.
    pub grant_bytes: u64,
}

/// What the secondary roles ask of the links, beside the world's ports.
pub trait Downlink: Ports {
    /// Tells a stream's sender where it stands; sent soon, coalesced, repeated until replaced.
    fn send_status(&mut self, link: LinkId, status: StreamStatus);
    /// Sends a message reliably within the session; dropped if there is none.
    fn send_message(&mut self, link: LinkId, message: Message);
}

/// Sizes of everything that the secondary roles of one engine hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondaryConfig {
    /// Memory for received records of all streams, in bytes as [`crate::types::RecordHead::charge_bytes`] counts. Each of
    /// `streams_max` streams has room for one largest record of it; the rest is shared out evenly.
    pub receive_bytes: u64,
    /// Streams that may be open at once; the next OPEN is refused with a sentence.
    pub streams_max: usize,
    /// Slots of a stream's ring; rounded up to a power of two.
    pub stream_records: usize,
    /// How far a stamp may lie beyond this system's timeline, in nanoseconds, beside the clocks' error bound.
    pub stamp_ahead_ns_max: u64,
    /// A group checkpoints after this long, in nanoseconds, if records were applied; sooner when its journal fills.
    pub checkpoint_interval_ns: u64,
}

impl Default for SecondaryConfig {
    fn default() -> Self {
        SecondaryConfig {
            receive_bytes: 192 << 20,
            streams_max: 64,
            stream_records: 8192,
            stamp_ahead_ns_max: 10_000_000_000,
            checkpoint_interval_ns: 1_000_000_000,
        }
    }
}

/// A group as its operator creates it here; created again alike after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// The name both sites use.
    pub name: String,
    /// The device for its journal, held exclusively.
    pub journal: VolumeId,
    /// The journal's size; at least [`crate::journal::BYTES_MIN`].
    pub journal_geometry: Geometry,
}

/// A pair as its operator creates it here; created again alike after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairConfig {
    /// The group's name.
    pub group: String,
    /// The pair's name, unique in its group; both sites use it.
    pub name: String,
    /// The secondary volume, held exclusively.
    pub volume: VolumeId,
    /// Its name here, compared with what the primary's operator named as the remote volume.
    pub volume_name: String,
    /// Its size.
    pub geometry: Geometry,
    /// The operator vouches that both volumes hold the same; else the volume is read and must be all zeroes.
    pub declared_identical: bool,
}

/// What the operator knows about the old primary when taking over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakeoverConsent {
    /// It cannot serve hosts any more (powered off, cut from its hosts).
    pub old_primary_fenced: bool,
    /// It may, and the operator takes two diverging histories.
    pub accept_split: bool,
}

/// All secondary roles of one engine.
pub struct Secondary<B, S> {
    config: SecondaryConfig,
    seed: u64,
    memory: PhantomData<(B, S)>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    /// None yet. `seed` is the source of every random identifier; it must be fresh at each start.
    pub fn new(config: SecondaryConfig, seed: u64) -> Self {
        Secondary { config, seed, memory: PhantomData }
    }

    /// Creates a group, or opens it again after a restart. Returns at once; the journal is opened (or formatted, if this
    /// system never knew the group) in later turns. A journal that cannot be used shows as [`GroupPhase::Failed`] with a
    /// sentence, and fails the creation of pairs with it.
    ///
    /// # Errors
    /// `Exists` for a group that was created already, `Invalid` for a journal that is too small or of odd blocks.
    pub fn group_create(
        &mut self,
        now: Now,
        config: GroupConfig,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<GroupId, OperatorError> {
        let _ = (now, ports, self.config, self.seed);
        Ok(GroupId::of_name(&config.name))
    }

    /// Forgets a group without pairs; `ticket` is answered when its journal is wiped.
    ///
    /// # Errors
    /// `NotFound`; `WrongState` while it has pairs.
    pub fn group_delete(
        &mut self,
        now: Now,
        group: GroupId,
        ticket: Ticket,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<(), OperatorError> {
        let _ = (now, group, ticket, ports);
        Ok(())
    }

    /// Creates a pair, or attaches its volume again after a restart. `ticket` is answered when the volume was found
    /// empty (or was declared identical, or the pair was established before) and that is durable: from then on the
    /// primary may join it.
    ///
    /// # Errors
    /// `NotFound` (group), `Exists`, `Invalid` (the geometry is not what it was), `WrongState` (journal failed).
    pub fn pair_create(
        &mut self,
        now: Now,
        config: PairConfig,
        ticket: Ticket,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<PairId, OperatorError> {
        let _ = (now, ticket, ports);
        Ok(PairId::of_name(GroupId::of_name(&config.group), &config.name))
    }

    /// Forgets a pair; what is journaled for it is not applied any more. `ticket` is answered when that is durable and
    /// the volume is free.
    ///
    /// # Errors
    /// `NotFound`; `WrongState` while its primary still sends to it.
    pub fn pair_delete(
        &mut self,
        now: Now,
        pair: PairId,
        ticket: Ticket,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<(), OperatorError> {
        let _ = (now, pair, ticket, ports);
        Ok(())
    }

    /// Takes a group over (design 4a, claim of promise 5): needs no peer. `ticket` is answered with the certificate when
    /// the volumes serve hosts. Asked again afterwards, answers the same certificate.
    ///
    /// # Errors
    /// `NotFound`; `WrongState` without consent, or for a group that cannot be a cut.
    pub fn group_takeover(
        &mut self,
        now: Now,
        group: GroupId,
        consent: TakeoverConsent,
        ticket: Ticket,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<(), OperatorError> {
        let _ = (now, group, consent, ticket, ports);
        Ok(())
    }

    /// A record's fragment came. Returns whether the link may acknowledge it: false if it must come again.
    pub fn frame(
        &mut self,
        now: Now,
        link: LinkId,
        fragment: Fragment<'_>,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> bool {
        let _ = (now, link, fragment, ports);
        false
    }

    /// A beacon came.
    pub fn beacon(&mut self, now: Now, link: LinkId, beacon: Beacon, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let _ = (now, link, beacon, ports);
    }

    /// A message came from the system `from`; those that are not for a secondary are ignored.
    pub fn message(
        &mut self,
        now: Now,
        link: LinkId,
        from: SystemId,
        message: Message,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let _ = (now, link, from, message, ports);
    }

    /// A session came up on the link. Nothing to do until the primary opens its streams.
    pub fn link_up(&mut self, now: Now, link: LinkId, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let _ = (now, link, ports);
    }

    /// The link's session ended. What was received stays.
    pub fn link_down(&mut self, now: Now, link: LinkId, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let _ = (now, link, ports);
    }

    /// A local I/O with [`crate::ports::Owner::Secondary`] ended.
    pub fn local_done(
        &mut self,
        now: Now,
        token: LocalToken,
        result: Result<(), DeviceError>,
        buf: Option<B>,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let _ = (now, token, result, buf, ports);
    }

    /// A metadata write with [`crate::ports::Owner::Secondary`] is durable.
    pub fn persisted(&mut self, now: Now, token: MetaToken, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let _ = (now, token, ports);
    }

    /// A host's request on a pair of this engine. Refused with [`crate::ports::HostError::Secondary`] until takeover.
    pub fn host_io(
        &mut self,
        now: Now,
        pair: PairId,
        io: HostIo<B, S>,
        token: HostToken,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let _ = (now, pair, io, token, ports);
    }

    /// The end of a turn: merges, journals, applies, reports. Returns whether anything was done.
    pub fn turn(&mut self, now: Now, ports: &mut impl Downlink<Buf = B, Shared = S>) -> bool {
        let _ = (now, ports);
        false
    }

    /// When [`Secondary::turn`] has to be called even if nothing happens.
    pub fn next_timeout(&self) -> Option<Mono> {
        None
    }

    /// Whether a stream was opened here (its frames are for this machine).
    pub fn has_stream(&self, stream: StreamId) -> bool {
        let _ = stream;
        false
    }

    /// Whether the pair is one of this machine.
    pub fn has_pair(&self, pair: PairId) -> bool {
        let _ = pair;
        false
    }

    /// The groups, in order of their names.
    pub fn groups(&self) -> Vec<GroupId> {
        Vec::new()
    }

    /// What `group_get` shows.
    pub fn group_status(&self, now: Now, group: GroupId) -> Option<GroupStatus> {
        let _ = (now, group);
        None
    }

    /// What `pair_get` shows.
    pub fn pair_status(&self, now: Now, pair: PairId) -> Option<PairStatus> {
        let _ = (now, pair);
        None
    }

    /// The greatest stamp or beacon that any group ever saw: the timeline must start above it.
    pub fn greatest_time_seen(&self) -> Time {
        Time(0)
    }

    /// Everything up to this number is durable in every group of the stream.
    pub fn stream_durable(&self, stream: StreamId) -> Option<Seq> {
        let _ = stream;
        None
    }
}
