//! One group at the secondary: from the runs of its streams to its volumes.

use super::ask::Ask;
use super::attest::Attest;
use super::codec::Writer;
use super::failover::Takeover;
use super::handover::Handed;
use super::inlets::Inlets;
use super::intake::Effects;
use super::io::{Io, Op};
use super::meta::{Checkpoint, GroupMeta, Life, key_of};
use super::overlay::{Overlay, State};
use super::recover::Scan;
use super::restore::Restore;
use super::touched::Touched;
use super::trouble::Trouble;
use super::unit::Hold;
use super::{Downlink, GroupConfig, PairConfig, SecondaryConfig};
use crate::account::{Step, within};
use crate::apply::{Applied, Applier, Target};
use crate::blank::BlankCheck;
use crate::journal::format::Area;
use crate::journal::{Item, Journal, Point};
use crate::merge::Waiting;
use crate::message::{Message, OpenStream};
use crate::ports::{DeviceError, LocalIo, LocalToken, OperatorAnswer, Ticket};
use crate::types::{
    Epoch, Generation, GroupId, LinkId, Mono, PairId, Record, RecordKind, Seq, StreamId, SystemId, Time, VolumeId,
};
use smallvec::{SmallVec, smallvec};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// How far the group's opening is.
pub(crate) enum Phase<S> {
    /// The superblock is to be read, not before this time.
    Start { not_before: Mono },
    /// It is being read.
    Super,
    /// It is being written.
    Format,
    /// The new recovery epoch is being made durable.
    Raise,
    /// The journal is being searched for its end.
    Scan(Box<Scan>),
    /// Open.
    Ready(Box<Ready<S>>),
    /// The journal is closed for ever.
    TakenOver,
    /// The journal cannot be used.
    Failed(String),
    /// The superblock is being zeroed; the ticket waits.
    Wiping(Ticket),
}

/// An open group's machines.
pub(crate) struct Ready<S> {
    pub(crate) journal: Journal<S, Op>,
    pub(crate) applier: Applier<S>,
}

/// What waits for a metadata write.
pub(crate) enum After {
    /// The recovery epoch is durable.
    Raised,
    /// The superblock may be written.
    Formatting,
    Send(LinkId, Message),
    Opened(StreamId, LinkId),
    /// A stream's part in a unit is durable: its tips count again.
    Admitted,
    /// The unit's end is durable.
    UnitDone,
    /// What the overlay is is durable.
    OverlayOpens,
    /// That the unit uses the overlay is durable.
    Overlaid,
    /// That what the overlay saved is back is durable.
    Restored,
    /// How far the volumes may go is durable.
    Reached(Option<Time>),
    Answer(Ticket, OperatorAnswer),
    Checkpointed(Point),
    Sealed,
    Closed,
    /// That this system, a primary before, follows one is durable.
    Follows,
    /// That the journal is durable, and its limit, is durable.
    Attested,
    /// That the overlay's log is whole up to its end was written down.
    OverlayAttested,
    Deleted(Ticket),
}

/// A metadata write that is under way.
#[derive(Default)]
struct Kept {
    after: SmallVec<[After; 1]>,
    /// See [`Group::attestation`].
    attestation: (u64, Time),
    /// The same of the overlay's log.
    overlay_end: u64,
}

/// An operator's pair that is not established yet.
pub(crate) struct Candidate {
    pub(crate) config: PairConfig,
    pub(crate) ticket: Ticket,
    pub(crate) check: Option<BlankCheck>,
}

/// A group.
pub(crate) struct Group<S> {
    pub(crate) id: GroupId,
    pub(crate) config: GroupConfig,
    pub(crate) area: Area,
    pub(crate) meta: GroupMeta,
    pub(crate) phase: Phase<S>,
    pub(crate) inlets: Inlets,
    /// In their streams' runs, not released.
    pub(crate) waiting: Waiting<Item<S>>,
    /// Everything not later was released.
    pub(crate) limit: Time,
    /// Everything not later is durable.
    pub(crate) journaled: Time,
    /// The recovery point: as [`Group::journaled`], but a unit holds it back until it is complete.
    pub(crate) recovery_point: Time,
    /// A unit is under way, or its end is not durable yet.
    pub(crate) hold: Option<Hold>,
    /// What records of the unit change.
    pub(crate) touched: Touched,
    /// Streams whose unit begins when all that was released is journaled.
    pub(crate) unit_opens: Vec<(LinkId, SystemId, OpenStream)>,
    /// Openings that are being made durable: until they are, no tip of theirs may move the limit.
    pub(crate) admitting: u32,
    /// Ends of streams that were announced while the journal was being searched.
    pub(crate) closing: BTreeMap<StreamId, (Epoch, Seq)>,
    /// As [`GroupMeta::reach`], as far as it is durable.
    pub(crate) reach: Option<Time>,
    /// A pair is to be deleted: the volumes go on whatever the delay.
    pub(crate) is_hurried: bool,
    /// A new reach is being made durable.
    pub(crate) reaching: bool,
    pub(crate) overlay: Overlay<S>,
    /// What a test view shows was on the volumes at this position of the journal.
    pub(crate) view_gate: Option<u64>,
    /// A test view reads the journal behind the volumes, which must stay there.
    pub(crate) is_view_loading: bool,
    pub(crate) restore: Option<Restore<S>>,
    pub(crate) asks: VecDeque<Ask>,
    pub(crate) asks_made: u64,
    /// Volumes in memory that were attached again and not judged yet.
    pub(crate) volatile: BTreeSet<PairId>,
    /// Pairs that were deleted, and up to which position the journal may hold records of theirs; `u64::MAX`: not known yet.
    pub(crate) buried: BTreeMap<PairId, u64>,
    /// Released, in order, not in the journal.
    pub(crate) released: VecDeque<Item<S>>,
    /// What they take in journal blocks, in bytes.
    released_bytes: u64,
    /// Durable blocks of a commit that goes on.
    pub(crate) commit: Vec<crate::journal::Committed<S>>,
    pub(crate) volumes: BTreeMap<PairId, (VolumeId, String)>,
    pub(crate) candidates: BTreeMap<PairId, Candidate>,
    after: HashMap<u64, Kept>,
    pub(crate) takeover: Option<Takeover>,
    /// Hosts may have written to its volumes here without a mark: it was taken over, and nobody took it up as a primary.
    pub(crate) has_unmarked: bool,
    /// The embedding has said how it would be a primary here.
    pub(crate) is_reversible: bool,
    /// It was taken over, and taken up again without its journal.
    pub(crate) has_no_journal: bool,
    /// Its old primary goes on without the generation that was begun here: hosts are served no more.
    pub(crate) is_given_up: bool,
    /// Which takeover was a swap's.
    pub(crate) handed: Option<Handed>,
    /// It was a primary here until now, and that it follows one is not durable yet.
    pub(crate) is_beginning: bool,
    /// The link on which each stream's owner was heard last.
    pub(crate) links: BTreeMap<SystemId, LinkId>,
    pub(crate) checkpoint_due: Option<Mono>,
    /// A device that fails.
    pub(crate) trouble: Option<Trouble>,
    /// Its metadata is being emptied. *A stream that it shared was closed meanwhile and written down: the next group of its
    /// name found a journal that was wiped.*
    pub(crate) is_forgotten: bool,
    pub(crate) attest: Attest,
    checkpoint_interval_ns: u64,
    checkpointing: bool,
    /// Where its metadata is kept.
    key: String,
    /// The storage of the last value.
    value: Vec<u8>,
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    pub(crate) fn new(config: GroupConfig, meta: GroupMeta, now: Mono, pace: SecondaryConfig) -> Self {
        let phase = match &meta.life {
            Life::TakenOver => Phase::TakenOver,
            Life::Lost(reason) => Phase::Failed(reason.clone()),
            _ => Phase::Start { not_before: now },
        };
        let limit = meta.certificate.as_ref().map_or(meta.checkpoint.limit, |it| it.recovery_point);
        let has_unmarked = meta.life == Life::TakenOver;
        let id = GroupId::of_name(&config.name);
        let key = key_of(id);
        Group {
            id,
            area: Area::new(config.journal, config.journal_geometry),
            config,
            meta,
            phase,
            inlets: Inlets::default(),
            waiting: Waiting::default(),
            limit,
            journaled: limit,
            recovery_point: limit,
            hold: None,
            touched: Touched::default(),
            unit_opens: Vec::new(),
            admitting: 0,
            closing: BTreeMap::new(),
            reach: None,
            is_hurried: false,
            reaching: false,
            overlay: Overlay::new(),
            view_gate: None,
            is_view_loading: false,
            restore: None,
            asks: VecDeque::new(),
            asks_made: 0,
            volatile: BTreeSet::new(),
            buried: BTreeMap::new(),
            released: VecDeque::new(),
            released_bytes: 0,
            commit: Vec::new(),
            volumes: BTreeMap::new(),
            candidates: BTreeMap::new(),
            after: HashMap::new(),
            takeover: None,
            has_unmarked,
            is_reversible: false,
            has_no_journal: false,
            is_given_up: false,
            handed: None,
            is_beginning: false,
            links: BTreeMap::new(),
            trouble: None,
            is_forgotten: false,
            checkpoint_due: None,
            attest: Attest::new(pace, limit),
            checkpoint_interval_ns: pace.checkpoint_interval_ns,
            checkpointing: false,
            key,
            value: Vec::new(),
        }
    }

    /// Whether records of streams are taken now.
    pub(crate) fn is_receiving(&self) -> bool {
        matches!(self.phase, Phase::Ready(_)) && self.takeover.is_none() && self.meta.life == Life::Open
    }

    /// Whether it stays at its last cut until a resync.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.meta.life, Life::Suspended(..) | Life::Frozen(_))
    }

    /// Makes the metadata durable as it is now; `after` follows when it is.
    pub(crate) fn persist<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        after: impl IntoIterator<Item = After>,
    ) {
        if self.is_forgotten {
            return;
        }
        for (id, inlet) in self.inlets.iter() {
            if let Some(stream) = self.meta.stream_mut(*id) {
                stream.durable = inlet.durable;
            }
        }
        self.meta.proven = self.meta.proven.max(self.journaled);
        let mut overlay_end = 0;
        if let (State::Open(log), Some(meta)) = (&self.overlay.state, &mut self.meta.overlay) {
            overlay_end = log.committed_end();
            meta.durable_end = overlay_end;
        }
        let attestation = self.attestation();
        let mut value = Writer::over(std::mem::take(&mut self.value));
        self.meta.encode_to(&mut value);
        let value = value.finish();
        let token = io.persist(&self.key, &value);
        self.value = value;
        self.after.insert(token.id, Kept { after: after.into_iter().collect(), attestation, overlay_end });
    }

    /// A metadata write is durable.
    pub(crate) fn persisted<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        token: LocalToken,
        effects: &mut Effects,
    ) {
        let kept = self.after.remove(&token.id).unwrap_or_default();
        self.attested(io.now.mono, kept.attestation);
        self.overlay.attest(kept.overlay_end);
        for after in kept.after {
            match after {
                // A process that was killed left blocks that the device had taken and not flushed. What is found and
                // reported as durable has to be: *it was acknowledged, the primary freed it, the power went.*
                After::Raised => io.submit(Op::OpenFlush, self.area.volume, LocalIo::Flush),
                After::Formatting => self.write_super(io),
                After::Send(link, message) => io.ports.send_message(link, message),
                After::Opened(stream, link) => effects.opened.push((stream, link)),
                After::Admitted => self.admitting -= 1,
                After::UnitDone => self.unit_done(effects),
                After::OverlayOpens => self.overlay_persisted(),
                After::Overlaid => self.overlaid(),
                After::Restored => self.restored(io),
                After::Reached(reach) => self.reached(reach),
                After::Answer(ticket, answer) => io.ports.answer_operator(ticket, Ok(answer)),
                After::Checkpointed(point) => self.checkpointed(point),
                After::Sealed => self.sealed(io, effects),
                After::Closed => {
                    self.closed(io);
                    effects.role_news = true;
                }
                After::Attested => self.attest.ended(),
                After::OverlayAttested => self.overlay.is_attesting = false,
                After::Follows => {
                    self.follows_now(io);
                    effects.role_news = true;
                }
                After::Deleted(ticket) => {
                    effects.is_deleted = true;
                    io.ports.answer_operator(ticket, Ok(OperatorAnswer::Deleted));
                }
            }
        }
    }

    /// Something follows when the metadata write of this token is durable.
    pub(crate) fn await_persisted(&mut self, token: LocalToken, after: After) {
        self.after.insert(token.id, Kept { after: smallvec![after], ..Kept::default() });
    }

    /// A record of this group continued its stream's run.
    ///
    /// # Errors
    /// The limit that it is not above: a protocol error.
    pub(crate) fn take(&mut self, record: Record<S>, epoch: Epoch, effects: &mut Effects) -> Result<(), Time> {
        let (stamp, pair) = (record.head.stamp, record.head.pair);
        let charge = record.head.charge_bytes();
        let Some(inlet) = self.inlets.of_epoch_mut(stamp.stream, epoch) else {
            effects.freed.push((stamp.stream, epoch, charge));
            effects.durable.push(stamp.stream);
            return Ok(());
        };
        if stamp.seq <= inlet.durable {
            // Sent again after a restart, because another group of the stream lacked a lower number.
            effects.freed.push((stamp.stream, epoch, charge));
            effects.durable.push(stamp.stream);
            return Ok(());
        }
        let limit = inlet.floor().max(self.limit);
        if stamp.time <= limit {
            effects.freed.push((stamp.stream, epoch, charge));
            return Err(limit);
        }
        let generation = (self.meta.generation.number, self.meta.generation.id);
        if record.head.kind.changes_volume() {
            if self.meta.unit.is_some() {
                self.touched.insert(pair, record.head.extent);
            }
            if let Some(pair) = self.meta.pair_mut(pair) {
                pair.touched = true;
            }
        }
        inlet.undurable.push_back(stamp.seq);
        self.waiting.push(Item { record, epoch, generation, charged: true });
        Ok(())
    }

    /// Releases what the tips allow.
    pub(crate) fn merge(&mut self, effects: &mut Effects) {
        // Frozen, suspended: what could not be released was thrown away, so the limit must not pass it, whatever a shared
        // stream says later. *G1 was frozen at 10 and threw 12 away; the records of G3 moved the tip that had held
        // G1 back, and with it G1's recovery point.*
        if self.meta.life != Life::Open || self.holds_limit() {
            return;
        }
        let _step = within(Step::Merge);
        let Some(limit) = self.inlets.limit().filter(|limit| *limit > self.limit) else { return };
        self.limit = limit;
        let before = self.released.len();
        self.waiting.release(limit, &mut self.released);
        self.released_bytes += self.released.range(before..).map(Item::entry_bytes).sum::<u64>();
        effects.is_busy |= self.released.len() > before;
    }

    /// Everything that can go on now.
    pub(crate) fn turn<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        self.open_on(io, effects);
        self.watch_devices(io);
        self.check_candidates(io, effects);
        if !matches!(self.phase, Phase::Ready(_)) {
            return;
        }
        // A shared stream may live on for other groups: what it brings is no business of this one any more, also while
        // the journal's closing is being made durable.
        let is_sealed = matches!(self.meta.life, Life::Sealed { .. } | Life::TakenOver);
        if !is_sealed {
            self.merge(effects);
            self.journal(io, effects);
            self.copies_on(io, effects);
        }
        self.reach_on(io);
        self.attest_on(io);
        self.overlay_on(io, effects);
        self.apply(io, effects);
        self.checkpoint(io);
        self.asks_on(io, effects);
        self.take_over_on(io, effects);
    }

    /// Whether there is something to journal, and the journal cannot take it now.
    pub(crate) fn is_held_up(&self, ready: &Ready<S>) -> bool {
        !self.released.is_empty() && !ready.journal.is_busy()
    }

    /// Takes what was released and is in no block.
    pub(crate) fn take_released(&mut self) -> VecDeque<Item<S>> {
        self.released_bytes = 0;
        std::mem::take(&mut self.released)
    }

    /// Starts the next block, if there is something for it and the journal takes it now.
    fn journal<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        let _step = within(Step::Journal);
        let Phase::Ready(ready) = &mut self.phase else { return };
        ready.journal.poll(io);
        if !ready.journal.takes_more(self.released_bytes) {
            return;
        }
        // A takeover to an earlier point needs nothing more, and a journal that is full of what lies behind that point would
        // never take it: nothing of that is applied.
        if self.takeover.as_ref().is_some_and(|takeover| takeover.at.is_some()) {
            return;
        }
        if self.released.is_empty() {
            self.set_journaled(self.limit);
            return;
        }
        let (count, continues) = cut(&self.released, ready.journal.block_bytes_max());
        let bytes = self.released.iter().take(count).map(Item::entry_bytes).sum();
        if !ready.journal.has_room(bytes) {
            return;
        }
        // The cut behind the block: with what stays in memory, everything before the next record's time.
        let limit = match self.released.get(count) {
            _ if continues => self.journaled.max(ready.journal.limit()),
            None => self.limit,
            Some(next) => Time(next.record.head.stamp.time.0 - 1),
        };
        let mut items = ready.applier.spare_items();
        items.extend(self.released.drain(..count));
        match ready.journal.begin(io, items, limit, continues) {
            Ok(()) => {
                self.released_bytes -= bytes;
                effects.is_busy = true;
            }
            Err(items) => {
                for item in items.into_iter().rev() {
                    self.released.push_front(item);
                }
            }
        }
    }

    /// A block is durable.
    fn committed(&mut self, now: Mono, block: crate::journal::Committed<S>, effects: &mut Effects) {
        let continues = block.continues;
        self.commit.push(block);
        if continues {
            return;
        }
        let Phase::Ready(ready) = &mut self.phase else { return };
        for block in self.commit.drain(..) {
            for item in &block.items {
                let stamp = item.record.head.stamp;
                if let Some(inlet) = self.inlets.of_epoch_mut(stamp.stream, item.epoch) {
                    inlet.durable = stamp.seq;
                    inlet.undurable.pop_front();
                    effects.durable.push(stamp.stream);
                }
                let head = &item.record.head;
                if let (RecordKind::Bookmark, Some(name)) = (head.kind, &item.record.payload) {
                    self.meta.add_bookmark(head, name.as_ref());
                }
                assert!(
                    self.hold.is_none_or(|hold| stamp.time > hold.base || block.end <= hold.position),
                    "a commit of the unit holds nothing of the image before it"
                );
            }
            self.journaled = self.journaled.max(block.limit);
            self.attest.committed(now, block.limit);
            ready.applier.attest(block.durable_end);
            ready.applier.push(block);
        }
        ready.applier.take_freed(&mut effects.freed);
        self.set_journaled(self.journaled);
    }

    fn apply<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        let _step = within(Step::Apply);
        let Phase::Ready(ready) = &mut self.phase else { return };
        let (volumes, meta) = (&self.volumes, &self.meta);
        let target = |pair: PairId| match (volumes.get(&pair), meta.pair(pair)) {
            (Some((volume, _)), Some(known)) => Target::Volume(*volume, known.geometry.block_bytes),
            (None, _) if meta.pair(pair).is_some() => Target::Missing,
            _ => Target::Gone,
        };
        while let Some(applied) = ready.applier.poll(io, target) {
            let Applied::Round(mut items, mut verdicts) = applied else { break };
            for verdict in verdicts.drain(..) {
                let owner = meta.stream(verdict.stamp.stream).map(|stream| stream.owner);
                if let Some(link) = owner.and_then(|owner| self.links.get(&owner)) {
                    let (stream, seq) = (verdict.stamp.stream, verdict.stamp.seq);
                    let (pair, differing) = (verdict.pair, verdict.differing);
                    let verified = Message::Verified { group: self.id, pair, stream, seq, differing };
                    io.ports.send_message(*link, verified);
                }
            }
            effects.is_busy = true;
            for item in items.drain(..) {
                let stamp = item.record.head.stamp;
                if item.charged {
                    effects.freed.push((stamp.stream, item.epoch, item.record.head.charge_bytes()));
                }
                if let Some(inlet) = self.inlets.of_epoch_mut(stamp.stream, item.epoch) {
                    inlet.applied = stamp.seq;
                }
            }
            ready.applier.recycle(items, verdicts);
            if self.checkpoint_due.is_none() {
                self.checkpoint_due = Some(io.now.mono.after_ns(self.checkpoint_interval_ns));
            }
        }
        ready.applier.take_freed(&mut effects.freed);
        if let Some((at, known)) = ready.applier.damaged() {
            self.fail_damaged(io, at, known);
            effects.is_busy = true;
        }
    }

    /// Flushes the volumes for a checkpoint when it is time, or the journal has become a quarter full.
    fn checkpoint<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        let Phase::Ready(ready) = &mut self.phase else { return };
        // Blocks that are held back fill the journal too, and no checkpoint frees them.
        let freeable = ready.applier.freeable() * u64::from(self.area.block_bytes);
        let total = ready.journal.total_bytes();
        let is_filling = ready.journal.used_bytes() > total / 4 && (freeable > total / 16 || !self.released.is_empty());
        let is_due = self.checkpoint_due.is_some_and(|at| at <= io.now.mono);
        let is_idle = !self.checkpointing && !ready.applier.is_flushing() && !self.is_view_loading;
        if is_idle && (is_due || is_filling) && ready.applier.has_news() {
            self.checkpoint_due = None;
            if let Some(Applied::Flushed(point)) = ready.applier.flush(io, []) {
                self.volumes_flushed(io, point);
            }
        } else if is_due && !ready.applier.has_news() {
            self.checkpoint_due = None;
        }
    }

    /// The volumes are flushed up to the point: makes the checkpoint durable.
    pub(crate) fn volumes_flushed<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, point: Point) {
        let Phase::Ready(ready) = &mut self.phase else { return };
        self.meta.checkpoint = Checkpoint {
            position: point.position,
            previous: point.previous,
            limit: point.limit,
            durable_end: ready.journal.committed_end(),
        };
        self.meta.greatest_time = self.meta.greatest_time.max(self.limit);
        if self.is_last_flush() {
            self.close(io);
            return;
        }
        self.checkpointing = true;
        self.persist(io, [After::Checkpointed(point)]);
    }

    fn checkpointed(&mut self, point: Point) {
        self.checkpointing = false;
        if let Phase::Ready(ready) = &mut self.phase {
            ready.applier.checkpointed(point);
            ready.journal.free(point.position);
        }
        self.exhume();
    }

    pub(crate) fn is_checkpointing(&self) -> bool {
        self.checkpointing
    }

    /// A local I/O of this group ended.
    pub(crate) fn local_done<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        (op, token): (Op, LocalToken),
        result: Result<(), DeviceError>,
        data: Option<&[u8]>,
        effects: &mut Effects,
    ) {
        effects.is_busy = true;
        let mono = io.now.mono;
        let _step = within(match op {
            Op::BatchWrite(_) | Op::BatchFlush => Step::Journal,
            _ => Step::Apply,
        });
        match (op, &mut self.phase) {
            (Op::SuperRead | Op::SuperWrite | Op::SuperFlush | Op::OpenFlush | Op::Wipe | Op::WipeFlush, _) => {
                self.super_done(io, op, result, data, effects);
            }
            (Op::Scan, Phase::Scan(scan)) => scan.search.done(mono, result, data),
            (Op::Replay, Phase::Ready(ready)) => ready.applier.replay_read(mono, result, data),
            (Op::BatchWrite(lane), Phase::Ready(ready)) => ready.journal.written(io, lane, result),
            (Op::BatchFlush, Phase::Ready(ready)) => {
                for block in ready.journal.flushed(io, result) {
                    self.committed(mono, block, effects);
                }
            }
            (Op::Apply(job), Phase::Ready(ready)) => ready.applier.written(mono, job, result, data),
            (Op::OverlayOpen, _) => {
                if let State::Opening(opening) = &mut self.overlay.state {
                    opening.done(mono, result, data);
                }
            }
            (Op::OverlayWrite, _) => {
                if let State::Open(log) = &mut self.overlay.state {
                    log.written(io, 0, result);
                }
            }
            (Op::OverlayFlush, _) => {
                if let State::Open(log) = &mut self.overlay.state {
                    for block in log.flushed(io, result) {
                        self.overlay_committed(block);
                    }
                }
            }
            (Op::OverlayRead(read), _) => self.overlay_read(io, read, result, data),
            (Op::RestoreRead, _) => self.restore_read(mono, result, data),
            (Op::Restore(id), _) => self.restore_written(mono, id, result),
            (Op::RestoreFlush, _) => self.restore_flushed(io, result),
            (Op::Ask(ask), Phase::Ready(_)) => self.ask_read(ask, result, data),
            (Op::Discard, Phase::Ready(_)) => self.discard_read(mono, result, data),
            (Op::ApplyFlush(volume), Phase::Ready(ready)) => {
                if let Some(Applied::Flushed(point)) = ready.applier.volume_flushed(mono, volume, result) {
                    self.volumes_flushed(io, point);
                }
            }
            (Op::Blank(pair), _) => {
                let check = self.candidates.get_mut(&pair).and_then(|candidate| candidate.check.as_mut());
                if let Some(check) = check {
                    check.done(token, result, data);
                }
            }
            _ => {}
        }
    }

    /// A first history for a group that has none.
    pub(crate) fn ensure_generation(&mut self, random: u64) -> Generation {
        if self.meta.generation.number == 0 {
            self.meta.generation = Generation { number: 1, id: random.max(1), parent: 0 };
        }
        self.meta.generation
    }

    /// Whether the OPEN's generation is one to follow: its primary's own next one, after a swap of which this system never
    /// heard was abandoned. All was here before that swap, so a resync of what is marked since makes both equal.
    pub(crate) fn may_follow(&self, from: SystemId, open: &OpenStream) -> bool {
        let mine = self.meta.generation;
        let leaves_one_out = mine.number > 0 && open.generation.number == mine.number + 2;
        let is_only_owner = self.meta.streams.iter().all(|stream| stream.closed || stream.owner == from);
        leaves_one_out && open.generation.succeeds(mine) && open.unit.is_some() && is_only_owner
    }

    /// Follows it from here on; durable with the unit that begins.
    pub(crate) fn follow_successor(&mut self, open: &OpenStream) {
        assert!(self.takeover.is_none(), "a secondary that takes over follows nobody");
        self.meta.generation = open.generation;
    }

    /// Everything up to this number of the stream is durable as far as this group goes; `None` if nothing waits.
    pub(crate) fn durable_of(&self, stream: StreamId, epoch: Epoch) -> Option<Seq> {
        let inlet = self.inlets.of_epoch(stream, epoch)?;
        inlet.undurable.front().map(|seq| seq.previous())
    }
}

/// How many of the released records go into the next block, and whether their commit goes on behind it. A commit ends
/// where the time changes: a cut between records of one time is none. (*A commit ended between A and B, both stamped 7;
/// the crash left A: the volumes showed A without B, and no limit names that state.*)
pub(crate) fn cut<S>(released: &VecDeque<Item<S>>, bytes_max: u64) -> (usize, bool) {
    let time_at = |index: usize| released.get(index).map(|item| item.record.head.stamp.time);
    let mut bytes = 0;
    let mut fits = 0;
    for item in released {
        bytes += item.entry_bytes();
        if bytes > bytes_max && fits > 0 {
            break;
        }
        fits += 1;
    }
    if fits == released.len() {
        return (fits, false);
    }
    match (1..=fits).rev().find(|count| time_at(*count) != time_at(count - 1)) {
        Some(count) => (count, false),
        None => (fits, true),
    }
}
