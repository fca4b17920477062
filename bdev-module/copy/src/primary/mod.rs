//! The primary roles of an engine: stamping, and everything that waits for it.
//!
//! [`Primary`] holds all primary groups of one engine, hence of one core: one [`crate::stamp::Stamper`] gives the stamps
//! of all of them. Where to find what:
//!
//! - a write's life, design section 3: `host`; after a local failure: `repair`
//! - how pairs and streams come to be, and what restarts find: `create`, `open`; how they end: `delete`
//! - what the secondary may lack, durably, before a write is stamped: `marks` (the map itself: [`crate::dirty`])
//! - why a group stops copying, and how that becomes durable before a host runs on: `suspend`, `operator`
//! - how it comes back, as one unit: `resync`; what is copied, and the pieces that are read for it: `copy`, `job`
//! - names for points of the history, and online verify: `verify`
//! - what the link cannot keep, and what a restart finds of it: `spill`
//! - time: `turn`; what a silent stream says: `beacons`; the send buffer and the ramp: `budget`; what is kept across restarts: `meta`
//!
//! | a group is | shown as | hosts' writes | ends by |
//! | --- | --- | --- | --- |
//! | running | PAIR, PFUL, COPY (a pair's first copy) | marked, stamped, sent | overflow, error, operator |
//! | suspending | PFUS, PSUS, PSUE | wait | the suspension is durable |
//! | suspended | the same, SSWS | marked, local only | a resync: by itself after an overflow or what passes, else by its operator |
//! | resyncing, not durable | COPY | marked, local only | the new epochs are durable |
//! | resyncing | COPY | marked, stamped, sent, slowed | `CopyDone`: running; overflow, error, operator: suspended |
//! | fenced | as before | fail | never here |
//!
//! What makes promise 3 (no silent loss) hold: a write that a host was told is done is here, and in a stream's queue or
//! under a mark that is durable, until the secondary has it and the volume here was flushed. At a suspension and after an
//! unclean start everything marked counts as missing there. A region's copy is read under its overlap lock and stamped
//! before the lock is let go, so that what any later write brings is later there too.
//!
//! Bounds, each with its next step: host requests per pair ([`PrimaryConfig::requests_max`]; the next is answered
//! `Aborted`, which hosts retry), the send buffer ([`GroupConfig::buffer_bytes`]; hosts are slowed, then the group
//! suspends), memory for reading back after a failure (waits, then the group suspends), the check for emptiness (waits), pieces
//! that are read for copies and verifies (4 MiB at a time and a quarter of the send buffer; the next one waits).

mod adopt;
mod beacons;
mod budget;
mod config;
mod copy;
mod create;
mod delete;
mod fence;
mod group;
mod handover;
mod host;
mod job;
mod leave;
mod marks;
mod meta;
mod open;
mod operator;
mod pair;
mod repair;
mod request;
mod resize;
mod resync;
mod spill;
mod status;
mod stream;
mod suspend;
#[cfg(test)]
mod tests;
mod trouble;
mod turn;
mod uplink;
mod verify;
mod view;

pub use config::{GroupConfig, PairConfig, PrimaryConfig};
pub(crate) use handover::Fenced;
pub use status::{CopyProgress, GroupStatus, PairStatus, SpillStatus, StreamStanding, VerifyProgress, Waiting};
pub use uplink::{Backlog, Beacon, Uplink};

use crate::dirty::{FlushNumber, Round};
use crate::engine::OperatorError;
use crate::message::Message;
use crate::ports::{DeviceError, HostIo, HostToken, LocalToken, Memory, MetaToken, Owner, Ticket};
use crate::secondary::StreamStatus;
use crate::spill::SpillOp;
use crate::stamp::Stamper;
use crate::types::{Epoch, GroupId, LinkId, Mono, Now, PairId, Seq, StreamId, Time};
use budget::{Budget, BudgetKey};
use group::Group;
use handover::HandOver;
use job::Job;
use pair::Pair;
use request::Request;
use slab::Slab;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use stream::Stream;

/// The ports of this engine: those with its kind of memory.
pub(crate) trait Up<M: Memory>: Uplink<Buf = M::Buf, Shared = M::Shared> {}
impl<M: Memory, U: Uplink<Buf = M::Buf, Shared = M::Shared>> Up<M> for U {}

/// All primary roles of one engine. A state machine without I/O: every call submits to `ports` and returns.
pub struct Primary<M: Memory> {
    config: PrimaryConfig,
    stamper: Stamper,
    groups: BTreeMap<GroupId, Group>,
    /// What the secondaries said of their devices that fail.
    troubles: BTreeMap<GroupId, trouble::Trouble>,
    pairs: BTreeMap<PairId, Pair>,
    streams: BTreeMap<StreamId, Stream>,
    budgets: BTreeMap<BudgetKey, Budget>,
    spills: BTreeMap<GroupId, spill::Owned<M::Shared>>,
    requests: Slab<Request<M>>,
    /// What the tokens that are out stand for.
    waits: Slab<Wait>,
    /// Writes whose turn has come; worked off before a call returns, so that long chains need no deep stack.
    ready: VecDeque<Work>,
    /// Pairs whose marks changed in this turn.
    unasked: BTreeSet<PairId>,
    /// Pieces of volumes that are read to be copied, asked about or verified.
    jobs: Slab<Job<M>>,
    /// Of these, what waits for the timeline's lease to move.
    jobs_out_of_lease: Vec<usize>,
    /// Bytes of the pieces that hold memory.
    reading_bytes: u64,
    /// Pairs with something to copy.
    copying: BTreeSet<PairId>,
    /// Pairs that are being deleted.
    leaving: BTreeSet<PairId>,
    /// Groups with a verify.
    verifying: BTreeSet<GroupId>,
    /// When to look for pieces to start, if nothing else happens.
    pump_at: Option<Mono>,
    /// Answers that wait for the timeline to pass a stamp: the stamp, which request, its serial.
    committing: BinaryHeap<Reverse<(Time, usize, u64)>>,
    /// Writes and repairs that wait for the timeline's lease to move.
    out_of_lease: VecDeque<usize>,
    /// Repairs that wait for memory.
    out_of_memory: VecDeque<usize>,
    /// The last serial given to a request, pair or group.
    serial: u64,
    /// When [`Primary::turn`] has to look at more than the queues: at everything.
    due: Mono,
    /// The same, at what is never asleep and at the pairs that are awake.
    awake_due: Mono,
    /// Pairs that have something to be looked after, each once, and some that are no more.
    awake: Vec<PairId>,
    shutdown: Stopping,
    /// Groups that go to the other site in a planned swap.
    handovers: BTreeMap<GroupId, HandOver>,
    /// Pairs that are made larger.
    resizes: BTreeMap<PairId, resize::Resize>,
    /// Groups that become secondaries here: hosts are told so already.
    retiring: BTreeSet<GroupId>,
    /// What peers said that cannot be.
    misdeeds: u64,
}

/// What a token stands for.
#[derive(Clone, Copy, Debug)]
enum Wait {
    /// The local I/O of a request: its key.
    Request(usize),
    /// The read-back of a failed write: its key.
    Repair(usize),
    /// A read of the check for emptiness.
    Check(PairId, u64),
    /// A stream's epoch is becoming durable.
    Epoch(StreamId, Epoch),
    /// That a pair may stamp is becoming durable.
    PairRecorded(PairId, u64),
    /// A pair's own suspension is becoming durable.
    PairHalted(PairId, u64),
    /// A group's suspension is becoming durable.
    GroupSuspended(GroupId, u64),
    /// A volume of a drained stream is being flushed.
    DrainFlush(StreamId),
    /// That a stream was drained is becoming durable.
    Drained,
    /// A round of a pair's dirty marks is becoming durable.
    Marked(PairId, u64, Round),
    /// A flush of a pair's volume, so that marks can be cleared.
    MarkFlush(PairId, u64, FlushNumber),
    /// A piece of a volume is being read: its key.
    Job(usize),
    /// A resync of this number is becoming durably begun.
    ResyncBegun(GroupId, u64, u64),
    /// A volume of a group that is being handed over is being flushed.
    HandOverFlush(GroupId),
    /// How far a hand-over is is becoming durable.
    HandOver(GroupId),
    /// A pair's new size is becoming durable.
    Resized(PairId, u64),
    /// One of a spill's I/Os.
    Spill(GroupId, u64, SpillOp),
    /// Where a spill begins is becoming durable.
    SpillMeta(GroupId, u64),
    /// A metadata write that nothing waits for.
    Note,
}

/// What has a place in a pair's overlap order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// A host's write: its key.
    Host(usize),
    /// A piece of the volume that is read: its key.
    Job(usize),
}

/// How far the clean shutdown is.
#[derive(Clone, Debug)]
enum Stopping {
    No,
    Draining {
        deadline: Mono,
        /// "Drained" marks that are not durable yet.
        marks: usize,
    },
    Done {
        undrained: Vec<StreamId>,
    },
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

impl<M: Memory> Primary<M> {
    /// No groups yet.
    pub fn new(config: PrimaryConfig) -> Primary<M> {
        Primary {
            config,
            stamper: Stamper::new(),
            groups: BTreeMap::new(),
            troubles: BTreeMap::new(),
            pairs: BTreeMap::new(),
            streams: BTreeMap::new(),
            budgets: BTreeMap::new(),
            spills: BTreeMap::new(),
            requests: Slab::new(),
            waits: Slab::new(),
            ready: VecDeque::new(),
            unasked: BTreeSet::new(),
            jobs: Slab::new(),
            jobs_out_of_lease: Vec::new(),
            reading_bytes: 0,
            copying: BTreeSet::new(),
            leaving: BTreeSet::new(),
            verifying: BTreeSet::new(),
            pump_at: None,
            committing: BinaryHeap::new(),
            out_of_lease: VecDeque::new(),
            out_of_memory: VecDeque::new(),
            serial: 0,
            due: Mono(0),
            awake_due: Mono(0),
            awake: Vec::new(),
            shutdown: Stopping::No,
            handovers: BTreeMap::new(),
            resizes: BTreeMap::new(),
            retiring: BTreeSet::new(),
            misdeeds: 0,
        }
    }

    /// Creates a group, or takes up one that metadata knows from before. It has no stream before its first pair.
    ///
    /// # Errors
    /// [`OperatorError::Exists`], or [`OperatorError::Invalid`] when metadata knows it with another scope or the
    /// configuration makes no sense.
    pub fn group_create<U>(&mut self, now: Now, config: GroupConfig, ports: &mut U) -> Result<GroupId, OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let created = self.create_group(now, config, ports);
        self.due = Mono(0);
        created
    }

    /// Deletes a group without pairs and forgets what metadata knows of it.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] while it has pairs.
    pub fn group_delete<U>(&mut self, now: Now, group: GroupId, ports: &mut U) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        self.settle(now, ports);
        self.delete_group(group, ports)
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
        let created = self.create_pair(now, config, ticket, ports);
        self.settle(now, ports);
        created
    }

    /// Ends a pair. Hosts' requests are answered [`crate::ports::HostError::Aborted`] from here on. A copying pair first
    /// drains; answered [`crate::ports::OperatorAnswer::Deleted`], or [`OperatorError::TimedOut`]: then the pair goes on
    /// as before.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`], [`OperatorError::WrongState`]; the ticket is not answered then.
    pub fn pair_delete<U>(&mut self, now: Now, pair: PairId, ticket: Ticket, ports: &mut U) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let deleted = self.delete_pair(now, pair, ticket, ports);
        self.settle(now, ports);
        deleted
    }

    /// Suspends a group (PSUS): nothing is stamped any more from one time on, what was stamped still goes to the secondary,
    /// so that all pairs of the group stop at one limit time; hosts run on locally and marked. Answered
    /// [`crate::ports::OperatorAnswer::Suspended`].
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] when it is suspended already, or fenced. The ticket is
    /// not answered then.
    pub fn group_suspend<U>(
        &mut self,
        now: Now,
        group: GroupId,
        ticket: Ticket,
        ports: &mut U,
    ) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let suspended = self.suspend_by_operator(now, group, ticket, ports);
        self.settle(now, ports);
        suspended
    }

    /// Begins to resync a suspended group as soon as there is a session: from its dirty maps only, or (`full`) all of its
    /// volumes. [`GroupStatus::copy`] shows how far it is.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] when there is nothing to resync, or a resync cannot help.
    pub fn group_resync<U>(&mut self, now: Now, group: GroupId, full: bool, ports: &mut U) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let begun = self.resync_by_operator(now, group, full, ports);
        self.settle(now, ports);
        begun
    }

    /// Puts a name on one point of the group's history. The stamp's time is returned; every write that was answered
    /// before is earlier, every write that comes after is later.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::Invalid`] name; [`OperatorError::WrongState`] unless the group copies.
    pub fn group_bookmark<U>(
        &mut self,
        now: Now,
        group: GroupId,
        name: &str,
        ports: &mut U,
    ) -> Result<Time, OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let marked = self.bookmark(now, group, name, ports);
        self.settle(now, ports);
        marked
    }

    /// Begins to compare all volumes of the group (or one of its pairs) with the secondary's, at one stamp on both sides per
    /// piece, while hosts go on. [`GroupStatus::verify`] shows how far it is. `repair`: what differs is copied again.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] unless the group copies, or while another verify runs.
    pub fn group_verify<U>(
        &mut self,
        now: Now,
        group: GroupId,
        pair: Option<PairId>,
        repair: bool,
        ports: &mut U,
    ) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let begun = self.verify(now, group, pair, repair, ports);
        self.settle(now, ports);
        begun
    }

    /// Takes a host's request on a pair's replica device. Answered by `complete_host`, also when there is no such pair.
    pub fn host_io<U>(&mut self, now: Now, pair: PairId, io: HostIo<M::Buf, M::Shared>, token: HostToken, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        self.take_host_io(now, pair, io, token, ports);
        self.settle(now, ports);
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
        let key = usize::try_from(token.id).ok();
        match key.and_then(|key| self.waits.try_remove(key)) {
            Some(Wait::Request(request)) => self.request_done(now, request, result, buf, ports),
            Some(Wait::Repair(request)) => self.repair_read(now, request, result, buf, ports),
            Some(Wait::Check(pair, serial)) => self.check_read(now, pair, serial, token, result, buf, ports),
            Some(Wait::HandOverFlush(group)) => self.hand_over_flushed(group, result, ports),
            Some(Wait::DrainFlush(stream)) => self.drain_flushed(stream, result, ports),
            Some(Wait::Spill(group, serial, op)) => self.spill_done(now, (group, serial, op), result, buf, ports),
            Some(Wait::Job(job)) => self.job_read(now, job, result, buf, ports),
            Some(Wait::MarkFlush(pair, serial, flush)) => {
                self.mark_flushed(now, (pair, serial), flush, result, ports);
            }
            _ => debug_assert!(false, "no local I/O has the token {token:?}"),
        }
        self.settle(now, ports);
    }

    /// A metadata write of [`crate::ports::Owner::Primary`] is durable.
    pub fn persisted<U>(&mut self, now: Now, token: MetaToken, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let key = usize::try_from(token.id).ok();
        match key.and_then(|key| self.waits.try_remove(key)) {
            Some(Wait::Epoch(stream, epoch)) => self.epoch_durable(now, stream, epoch, ports),
            Some(Wait::PairRecorded(pair, serial)) => self.pair_recorded(now, pair, serial, ports),
            Some(Wait::PairHalted(pair, serial)) => self.pair_halted(now, pair, serial),
            Some(Wait::GroupSuspended(group, serial)) => self.group_suspended(group, serial),
            Some(Wait::ResyncBegun(group, serial, unit)) => self.resync_begun(now, group, serial, unit, ports),
            Some(Wait::Drained) => self.drained_durable(),
            Some(Wait::Marked(pair, serial, round)) => self.marked(pair, serial, round),
            Some(Wait::Resized(pair, serial)) => self.resize_recorded(now, pair, serial, ports),
            Some(Wait::HandOver(group)) => self.hand_over_durable(now, group, ports),
            Some(Wait::SpillMeta(group, serial)) => self.spill_persisted(group, serial),
            Some(Wait::Note) => {}
            _ => debug_assert!(false, "no metadata write has the token {token:?}"),
        }
        self.settle(now, ports);
    }

    /// A session with the peer of this link came up. Calls [`Uplink::send_message`] for all that has to be said again.
    pub fn link_up<U>(&mut self, now: Now, link: LinkId, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        self.session_up(now, link, ports);
        self.settle(now, ports);
    }

    /// The session went away.
    pub fn link_down<U>(&mut self, now: Now, link: LinkId, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        self.session_down(now, link);
        self.settle(now, ports);
    }

    /// A message from the peer of the link. Those that are not for a primary, or not about a group on this link, are
    /// passed over.
    pub fn message<U>(&mut self, now: Now, link: LinkId, message: Message, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        self.take_message(now, link, message, ports);
        self.settle(now, ports);
    }

    /// The secondary reports everything of the stream up to `seq` durable. The link has freed it already.
    pub fn durable<U>(&mut self, now: Now, link: LinkId, stream: StreamId, epoch: Epoch, seq: Seq, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        self.take_durable(link, stream, epoch, seq, ports);
        self.settle(now, ports);
    }

    /// The secondary reports where the stream stands: what is durable, and whether that counts in a takeover.
    pub fn status<U>(&mut self, now: Now, link: LinkId, status: StreamStatus, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let ours = |stream: &&mut stream::Stream| stream.link == link && stream.epoch == status.epoch;
        if let Some(stream) = self.streams.get_mut(&status.stream).filter(ours) {
            stream.held = Some(status.held);
        }
        self.durable(now, link, status.stream, status.epoch, status.durable, ports);
    }

    /// The end of a turn: answers whose wait is over, beacons, repetitions, time-outs.
    pub fn turn<U>(&mut self, now: Now, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        self.take_turn(now, ports);
        self.settle(now, ports);
    }

    /// When [`Primary::turn`] has to be called at the latest if nothing happens.
    pub fn next_timeout(&self, now: Now) -> Option<Mono> {
        self.timeout(now)
    }

    /// Begins a clean shutdown: hosts' requests are answered [`crate::ports::HostError::Aborted`] from here on, those in
    /// flight end, the streams drain, their volumes are flushed, and "drained" is made durable. See [`Primary::shutdown_state`].
    pub fn shutdown<U>(&mut self, now: Now, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        self.begin_shutdown(now, ports);
        self.settle(now, ports);
    }

    /// How the clean shutdown stands.
    pub fn shutdown_state(&self) -> Shutdown {
        match &self.shutdown {
            Stopping::No => Shutdown::Serving,
            Stopping::Draining { .. } => Shutdown::Draining,
            Stopping::Done { undrained } => Shutdown::Done { undrained: undrained.clone() },
        }
    }

    /// Whether this engine is the primary of the pair.
    pub fn has_pair(&self, pair: PairId) -> bool {
        self.pairs.contains_key(&pair)
    }

    /// Whether this engine is the primary of the group.
    pub fn has_group(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// All groups, by id.
    pub fn groups(&self) -> Vec<GroupId> {
        self.groups.keys().copied().collect()
    }

    /// All pairs, by id.
    pub fn pairs(&self) -> Vec<PairId> {
        self.pairs.keys().copied().collect()
    }

    /// A group for `group_get`. Not for the data path: allocates.
    pub fn group_status<U>(&self, now: Now, group: GroupId, ports: &U) -> Option<GroupStatus>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        self.show_group(now, group, ports)
    }

    /// A pair for `pair_get`. Not for the data path: allocates.
    pub fn pair_status(&self, now: Now, pair: PairId) -> Option<PairStatus> {
        self.show_pair(now, pair)
    }

    /// What peers said that cannot be, for the metrics: counted, otherwise passed over.
    pub fn misdeeds(&self) -> u64 {
        self.misdeeds
    }

    /// A number that was not given before.
    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// A token for what the engine will wait for.
    fn token(&mut self, wait: Wait) -> LocalToken {
        token(&mut self.waits, wait)
    }

    /// Makes a value durable; `wait` says what follows.
    fn keep(&mut self, key: &str, value: &[u8], wait: Wait, ports: &mut impl Up<M>) {
        let token = self.token(wait);
        ports.persist(key, value, token);
    }
}

/// As [`Primary::token`], where the rest of the machine is borrowed.
fn token(waits: &mut Slab<Wait>, wait: Wait) -> LocalToken {
    LocalToken { owner: Owner::Primary, id: waits.insert(wait) as u64 }
}

/// Where a group's record is kept.
pub(crate) fn group_key(group: GroupId) -> String {
    meta::group_key(group)
}
