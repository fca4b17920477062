//! Groups and pairs come to be, anew or taken up from metadata after a restart.

use super::budget::BudgetKey;
use super::copy::PairCopy;
use super::group::{Group, Life};
use super::marks::{self, Tending};
use super::meta::{ClosedStream, GroupRecord, PairRecord, StreamMark, group_key, pair_key, stream_key};
use super::pair::{Joins, Pair, Phase, Rejoin};
use super::spill;
use super::stream::{Membership, Numbers, Stream};
use super::suspend::FirstMissed;
use super::{GroupConfig, PairConfig, Primary, Stopping, Up, Wait};
use crate::blank::{BlankCheck, Verdict};
use crate::dirty::{self, DirtyMap};
use crate::engine::OperatorError;
use crate::message::Content;
use crate::overlap::OverlapQueue;
use crate::ports::{DeviceError, LocalToken, Memory, OperatorAnswer, Ticket};
use crate::scope::stream_of;
use crate::types::{Epoch, Generation, GroupId, Initial, Mono, Now, PairId, PairState, Scope, Seq, StreamId};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

/// Why a pair cannot have its stream.
enum StreamFault {
    /// An epoch stamped records of which it is not known that the secondary has them.
    Unclean(Option<Epoch>),
    /// The stream is broken in this epoch, by a group that shares it.
    Broken,
    /// Metadata cannot be read.
    Damaged(String),
}

impl<M: Memory> Primary<M> {
    pub(super) fn create_group(
        &mut self,
        now: Now,
        config: GroupConfig,
        ports: &mut impl Up<M>,
    ) -> Result<GroupId, OperatorError> {
        let id = GroupId::of_name(&config.name);
        if self.groups.contains_key(&id) {
            return Err(OperatorError::Exists(format!("group {} exists already; choose another name", config.name)));
        }
        if config.name.is_empty() || config.buffer_bytes == 0 {
            return Err(OperatorError::Invalid(format!(
                "group '{}' with buffer_bytes {}: give a name and a send buffer, of some MiB at least",
                config.name, config.buffer_bytes
            )));
        }
        if let Some((_, geometry)) = config.spill {
            spill::check(&config.name, config.scope, geometry, self.config.spill_bytes_min)?;
        }
        self.serving()?;
        let known = recalled(&group_key(id), GroupRecord::decode, ports)?;
        if let Some(known) = &known
            && (known.scope != config.scope || known.remote != config.remote)
        {
            return Err(OperatorError::Invalid(format!(
                "group {} was created with scope {:?} towards system {:016x}, and these stay; given are {:?} and \
                 {:016x}. Delete the group first to change them",
                config.name, known.scope, known.remote.0, config.scope, config.remote.0
            )));
        }
        let budget = match config.scope {
            Scope::System => BudgetKey::Shared(self.stream_id(&config, id, PairId(0))),
            Scope::Group | Scope::Pair => BudgetKey::Group(id),
        };
        if let Some(other) = self.groups.values().find(|other| other.budget == budget)
            && other.config.link != config.link
        {
            return Err(OperatorError::Invalid(format!(
                "group {} of scope system would share its stream with group {}, which uses link {}; given is link {}. \
                 A stream has one link",
                config.name, other.config.name, other.config.link.0, config.link.0
            )));
        }
        self.create_spill(now, id, config.spill, ports)?;
        let buffer_bytes = config.buffer_bytes;
        let serial = self.next_serial();
        let is_new = known.is_none();
        let mut group = Group {
            config,
            serial,
            generation: Generation::default(),
            life: Life::Running,
            fenced: None,
            split_brain: false,
            rival: None,
            pairs: BTreeSet::new(),
            budget,
            units: 0,
            is_resyncing: false,
            known: BTreeMap::new(),
            opened: BTreeSet::new(),
            drain: None,
            pause_ns: self.config.resync_pause_ns,
            next_attempt: None,
            copy_at: Mono(0),
            verify: None,
            closed: Vec::new(),
            last_write: Mono(0),
            delayed: BinaryHeap::new(),
        };
        if let Some(known) = known {
            (group.units, group.is_resyncing) = (known.units, known.is_resyncing);
            let has_record = |pair: &PairId| ports.recall(&pair_key(*pair)).is_some_and(|record| !record.is_empty());
            group.known = known.pairs.into_iter().filter(|(pair, _)| has_record(pair)).collect();
            let (of, stale) = self.sort_streams(&group, id, known.streams);
            group.opened = of;
            group.generation = known.generation;
            group.life = known.suspension.map_or(Life::Running, Life::Suspended);
            group.split_brain = known.split_brain;
            group.rival = known.fenced.filter(|other| other.number == known.generation.number);
            group.fenced = known.fenced.filter(|other| other.number != known.generation.number);
            group.closed = known.closed;
            self.close_stale(now, &mut group, stale, ports);
        }
        self.groups.insert(id, group);
        self.schedule_attempt(now, id, false);
        self.resume_hand_over(now, id, ports);
        self.budgets.entry(budget).or_default().limit_bytes += buffer_bytes;
        self.tell_suspended(id, ports);
        if is_new {
            self.keep_group(id, ports);
        }
        Ok(id)
    }

    /// Of the streams that the secondary may have open for the group: those that an established pair uses, and the others.
    fn sort_streams(&self, group: &Group, id: GroupId, streams: Vec<StreamId>) -> (BTreeSet<StreamId>, Vec<StreamId>) {
        let used: BTreeSet<StreamId> =
            group.known.keys().map(|pair| self.stream_id(&group.config, id, *pair)).collect();
        let (used, stale): (Vec<_>, Vec<_>) = streams.into_iter().partition(|stream| used.contains(stream));
        (used.into_iter().collect(), stale)
    }

    /// A stream that was opened for a pair that never came to be: nothing was stamped in it, so it ends before its first
    /// number. *Else the secondary's limit waits for it for ever.*
    fn close_stale(&mut self, now: Now, group: &mut Group, stale: Vec<StreamId>, ports: &impl Up<M>) {
        for stream in stale {
            let mark = ports.recall(&stream_key(stream)).and_then(|bytes| StreamMark::decode(&bytes));
            let (epoch, end) = match mark {
                Some(StreamMark::Drained { epoch, last }) => (epoch, last),
                Some(StreamMark::Stamping { epoch, base }) => (epoch, base.previous()),
                Some(StreamMark::Forgotten { .. }) | None => continue,
            };
            if group.closed.iter().all(|closed| (closed.stream, closed.epoch) != (stream, epoch)) {
                group.closed.push(ClosedStream { stream, epoch, end, end_time: now.time });
            }
        }
    }

    pub(super) fn create_pair(
        &mut self,
        now: Now,
        config: PairConfig,
        ticket: Ticket,
        ports: &mut impl Up<M>,
    ) -> Result<PairId, OperatorError> {
        self.serving()?;
        let Some(group) = self.groups.get(&config.group) else {
            return Err(OperatorError::NotFound(format!(
                "there is no group for pair {}; create the group first",
                config.name
            )));
        };
        let id = PairId::of_name(config.group, &config.name);
        if self.pairs.contains_key(&id) {
            return Err(OperatorError::Exists(format!(
                "group {} has a pair {} already; choose another name",
                group.config.name, config.name
            )));
        }
        let geometry = config.geometry;
        if config.name.is_empty() || geometry.blocks == 0 || ![512, 4096].contains(&geometry.block_bytes) {
            return Err(OperatorError::Invalid(format!(
                "pair '{}' on a volume of {} blocks of {} bytes: give a name and a volume with blocks of 512 or 4096",
                config.name, geometry.blocks, geometry.block_bytes
            )));
        }
        if let Some(owner) = self.pairs.values().find(|pair| pair.config.volume == config.volume) {
            return Err(OperatorError::WrongState(format!(
                "the volume belongs to pair {} already; a volume has one owner",
                owner.config.name
            )));
        }
        let known = recalled(&pair_key(id), PairRecord::decode, ports)?;
        // A volume that was made larger stays as large as its pair, until that is resized.
        let is_that = |known: &PairRecord| {
            known.geometry.block_bytes == geometry.block_bytes && known.geometry.blocks <= geometry.blocks
        };
        if let Some(known) = known.as_ref().filter(|known| !is_that(known)) {
            return Err(OperatorError::Invalid(format!(
                "pair {} was established on a volume of {} blocks of {} bytes, this one has {} of {}; give the volume \
                 of before, or delete the pair at both sites",
                config.name, known.geometry.blocks, known.geometry.block_bytes, geometry.blocks, geometry.block_bytes
            )));
        }
        match known {
            Some(record) => {
                let config = PairConfig { geometry: record.geometry, ..config };
                self.take_up(now, id, config, record, ports)?;
                ports.answer_operator(ticket, Ok(OperatorAnswer::PairCreated(id)));
            }
            None => self.begin_pair(now, id, config, ticket, ports)?,
        }
        self.due = Mono(0);
        Ok(id)
    }

    /// A pair that was established before.
    pub(super) fn take_up(
        &mut self,
        now: Now,
        id: PairId,
        config: PairConfig,
        record: PairRecord,
        ports: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        let PairRecord { suspended, region_bytes, is_copying, keeps_image, shown_blocks, .. } = record;
        let dirty = marks::load::<M>(id, config.geometry, (region_bytes, self.config.mark_ahead_bytes), ports)?;
        let group_id = config.group;
        let group = &self.groups[&group_id];
        let goes_on =
            suspended.is_none() && group.is_running() && group.fenced.is_none() && !self.is_handing_over(group_id);
        let stream = self.stream_id(&group.config, group_id, id);
        let is_lost = suspended.is_none() && config.volatile;
        if suspended.is_none() {
            let group = self.groups.get_mut(&group_id).expect("looked up by the caller");
            group.known.insert(id, config.name.clone());
        }
        let fault = match goes_on && !is_lost {
            // Something may lack there, or here. (A first copy goes on where it was: what it lacks is marked.)
            true if !dirty.is_clean() && !is_copying => Some(StreamFault::Unclean(None)),
            true => self.join_stream(now, stream, group_id, true, ports).err(),
            false => None,
        };
        if let Some(StreamFault::Damaged(text)) = fault {
            return Err(OperatorError::Invalid(text));
        }
        let phase = match suspended {
            Some(reason) => Phase::Halted(reason),
            None if goes_on => Phase::Opening,
            None => Phase::Member,
        };
        let name = config.name.clone();
        self.insert_pair(now, id, config, stream, Content::Established, phase, None, (dirty, region_bytes));
        let pair = self.pairs.get_mut(&id).expect("just made");
        (pair.is_copying, pair.keeps_image, pair.is_lost) = (is_copying, keeps_image, is_lost);
        self.resume_resize(now, id, shown_blocks);
        let is_resyncing = self.groups[&group_id].resync().is_some();
        let reason = match fault {
            _ if is_lost && goes_on => {
                let reason =
                    "the volume is in memory and lost its content with the process; take over at the secondary, \
                              or delete the pair at both sides and create it anew"
                        .to_string();
                self.suspend(now, group_id, PairState::SuspendedError, reason, FirstMissed::Unknown, ports);
                return Ok(());
            }
            None if is_resyncing => format!("pair {name} came back while the group was being resynced without it"),
            None | Some(StreamFault::Damaged(_)) => return Ok(()),
            Some(StreamFault::Unclean(epoch)) => format!(
                "restarted with unsent records: the process before ended without draining pair {name}{}, so the secondary \
                 may lack writes that hosts were told are done. Its last cut stays until what is marked is resynced",
                epoch.map_or(String::new(), |epoch| format!(" (epoch {epoch})"))
            ),
            Some(StreamFault::Broken) => format!("pair {name} shares its stream with suspended groups"),
        };
        self.suspend_for_now(now, group_id, PairState::SuspendedError, reason, FirstMissed::Unknown, ports);
        Ok(())
    }

    /// A new pair.
    fn begin_pair(
        &mut self,
        now: Now,
        id: PairId,
        config: PairConfig,
        ticket: Ticket,
        ports: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        self.part_obstacle(config.group)?;
        let group_id = config.group;
        let group = &self.groups[&group_id];
        if let Some(obstacle) = group.obstacle() {
            return Err(OperatorError::WrongState(obstacle));
        }
        let stream = self.stream_id(&group.config, group_id, id);
        let group_name = group.config.name.clone();
        self.join_stream(now, stream, group_id, false, ports).map_err(|fault| match fault {
            StreamFault::Damaged(text) => OperatorError::Invalid(text),
            StreamFault::Broken | StreamFault::Unclean(_) => OperatorError::WrongState(format!(
                "pair {} would use a stream whose last records the secondary may lack: it is shared with pairs that are \
                 suspended or were not created again since the start; delete those (or create them) first. Group {group_name}",
                config.name
            )),
        })?;
        let deadline = now.mono.after_ns(self.config.operator_wait_ns);
        let (content, phase, until) = match config.initial {
            Initial::Identical => (Content::DeclaredIdentical, Phase::Opening, Some(deadline)),
            Initial::Copy | Initial::CopyDifferences => (Content::Copy, Phase::Opening, Some(deadline)),
            Initial::Empty => (Content::Empty, Phase::Checking(BlankCheck::new(config.volume, config.geometry)), None),
        };
        let region_bytes = dirty::region_bytes(config.geometry);
        let dirty = DirtyMap::new(config.geometry, region_bytes, self.config.mark_ahead_bytes);
        for key in marks::kept_chunks::<M>(id, &dirty, ports) {
            // Of a pair of this name that is no more.
            self.keep(&key, &[], Wait::Note, ports);
        }
        self.insert_pair(now, id, config, stream, content, phase, Some((ticket, until)), (dirty, region_bytes));
        self.poll_check(id, ports);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a pair, named where they are made")]
    fn insert_pair(
        &mut self,
        now: Now,
        id: PairId,
        config: PairConfig,
        stream: StreamId,
        content: Content,
        phase: Phase,
        ticket: Option<(Ticket, Option<Mono>)>,
        (dirty, region_bytes): (DirtyMap, u64),
    ) {
        let serial = self.next_serial();
        let group = self.groups.get_mut(&config.group).expect("looked up by the caller");
        group.pairs.insert(id);
        let pair = Pair {
            config,
            serial,
            stream,
            content,
            phase,
            phase_since: now.mono,
            ticket,
            leaving: None,
            overlap: OverlapQueue::new(),
            dirty,
            region_bytes,
            marking: VecDeque::new(),
            tending: Tending::default(),
            is_copying: false,
            keeps_image: false,
            shown_blocks: None,
            is_lost: false,
            rejoin: Rejoin::Done,
            joins: Joins::default(),
            copy: PairCopy::default(),
            verify: None,
            parked: VecDeque::new(),
            parked_since: None,
            requests: 0,
            is_awake: false,
            last_stamp: None,
            last_epoch: Epoch(0),
            repairs: 0,
        };
        self.pairs.insert(id, pair);
    }

    fn serving(&self) -> Result<(), OperatorError> {
        match self.shutdown {
            Stopping::No => Ok(()),
            _ => Err(OperatorError::WrongState("the system is shutting down; try again after its start".to_string())),
        }
    }

    pub(super) fn stream_id(&self, group: &GroupConfig, group_id: GroupId, pair: PairId) -> StreamId {
        stream_of(group.scope, self.config.system, group.remote, group_id, pair)
    }

    /// Makes the group a member of the stream; begins the stream's next epoch if this process has none.
    ///
    /// A pair that was established before may only go on in an epoch that follows a drained one.
    fn join_stream(
        &mut self,
        now: Now,
        id: StreamId,
        group_id: GroupId,
        is_established: bool,
        ports: &mut impl Up<M>,
    ) -> Result<(), StreamFault> {
        if let Some(stream) = self.streams.get_mut(&id) {
            if stream.live().is_none() {
                return Err(StreamFault::Broken);
            }
            if is_established && stream.drained.is_none() {
                return Err(StreamFault::Unclean(None));
            }
            stream.members.entry(group_id).or_default();
            if self.groups.get_mut(&group_id).is_some_and(|group| group.opened.insert(id)) {
                self.keep_group(group_id, ports);
            }
            return Ok(());
        }
        let key = stream_key(id);
        let mark =
            recalled(&key, StreamMark::decode, ports).map_err(|error| StreamFault::Damaged(error.to_string()))?;
        let (epoch, base, drained) = match mark {
            // Only an established pair stamps: the process that wrote this ended before it made one.
            Some(StreamMark::Stamping { epoch, base }) if !is_established && !self.is_known_stream(group_id, id) => {
                (Epoch(epoch.0 + 1), base, Some((epoch, base.previous())))
            }
            Some(StreamMark::Stamping { epoch, .. }) => return Err(StreamFault::Unclean(Some(epoch))),
            Some(StreamMark::Drained { epoch, last }) => (Epoch(epoch.0 + 1), last.next(), Some((epoch, last))),
            None | Some(StreamMark::Forgotten { .. }) if is_established => return Err(StreamFault::Unclean(None)),
            Some(StreamMark::Forgotten { epoch }) => (Epoch(epoch.0 + 1), Seq(1), None),
            None => (Epoch(1), Seq(1), None),
        };
        // No record has this time or an earlier one: whatever the secondary released of other streams up to now stays
        // before this one's records.
        self.stamper.raise(now.time);
        let config = &self.groups[&group_id].config;
        let stream = Stream {
            link: config.link,
            scope: config.scope,
            epoch,
            base,
            base_time: self.stamper.floor(),
            drained,
            numbers: Numbers::Live(self.stamper.open(id, epoch, base)),
            durable: base.previous(),
            held: None,
            buffered_bytes: 0,
            epoch_is_durable: false,
            is_marked: false,
            is_replay: false,
            members: BTreeMap::from([(group_id, Membership::default())]),
            started: false,
            last_sent: now.mono,
            told_handed: false,
            copies: VecDeque::new(),
            units: BTreeMap::new(),
            flushes: 0,
            flush_failed: false,
        };
        self.streams.insert(id, stream);
        // Before the secondary hears of it: a start that has no pair for it closes it there.
        if self.groups.get_mut(&group_id).is_some_and(|group| group.opened.insert(id)) {
            self.keep_group(group_id, ports);
        }
        // A crash before the first stamp leaves nothing unsent, so the new epoch is "drained" until it stamps.
        let mark = StreamMark::Drained { epoch, last: base.previous() };
        self.keep(&key, &mark.encode(), Wait::Epoch(id, epoch), ports);
        Ok(())
    }

    /// Whether an established pair of the group uses the stream.
    fn is_known_stream(&self, id: GroupId, stream: StreamId) -> bool {
        let group = &self.groups[&id];
        group.known.keys().any(|pair| self.stream_id(&group.config, id, *pair) == stream)
    }

    /// Goes on with the check for emptiness.
    pub(super) fn poll_check(&mut self, id: PairId, ports: &mut impl Up<M>) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let (waits, serial) = (&mut self.waits, pair.serial);
        if let Phase::Checking(check) = &mut pair.phase {
            check.poll(ports, || super::token(waits, Wait::Check(id, serial)));
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a completion, as it came")]
    pub(super) fn check_read(
        &mut self,
        now: Now,
        id: PairId,
        serial: u64,
        token: LocalToken,
        result: Result<(), DeviceError>,
        buf: Option<M::Buf>,
        ports: &mut impl Up<M>,
    ) {
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| pair.serial == serial) else { return };
        let Phase::Checking(check) = &mut pair.phase else { return };
        check.done(token, result, buf.as_ref().map(AsRef::as_ref));
        let name = &pair.config.name;
        let error = match check.verdict() {
            None => return self.poll_check(id, ports),
            Some(Verdict::Blank) => {
                pair.enter(Phase::Opening, now.mono);
                if let Some((_, until)) = &mut pair.ticket {
                    *until = Some(now.mono.after_ns(self.config.operator_wait_ns));
                }
                self.due = Mono(0);
                self.join_pair(now, id, ports);
                return;
            }
            Some(Verdict::HasData { lba }) => OperatorError::Invalid(format!(
                "pair {name}: the volume is not empty, block {lba} holds data; give an empty volume, or say \
                 declared_identical if the secondary volume holds the same"
            )),
            Some(Verdict::Unreadable { lba, error }) => {
                OperatorError::Device(format!("pair {name}: the volume cannot be read at block {lba}: {error}"))
            }
        };
        self.fail_creation(id, error, ports);
    }
}

/// A value from metadata, or `None` if there is none.
pub(super) fn recalled<M: Memory, T>(
    key: &str,
    decode: impl FnOnce(&[u8]) -> Option<T>,
    ports: &impl Up<M>,
) -> Result<Option<T>, OperatorError> {
    match ports.recall(key) {
        None => Ok(None),
        Some(bytes) if bytes.is_empty() => Ok(None),
        Some(bytes) => match decode(&bytes) {
            Some(value) => Ok(Some(value)),
            None => Err(OperatorError::Invalid(format!(
                "metadata under {key} cannot be read: it is of another version, or damaged; use the version that wrote it"
            ))),
        },
    }
}
