//! From the journal to the volumes, and the checkpoint that frees the journal.
//!
//! Rounds of whole journal blocks: inside a round, a record that later ones of the round cover wholly is not written at
//! all (write folding), the others wait only for earlier ones that share a block with them, and up to [`DEPTH`] are in
//! flight. Between rounds nothing overlaps in time, so order holds. A crash anywhere is healed by doing everything
//! behind the checkpoint again in the same order.
//!
//! **What may not be applied yet** ([`Barrier`]) leaves memory as soon as it is in the journal and is read back when its
//! time has come: a resync that must not touch the last image, and the delay that an operator asked for.
//!
//! What the design gives up: a slow write at a round's end holds the next round back; and what comes while older blocks
//! are still being read back is read back too.

mod flush;
mod ordered;
mod plan;
mod replay;
mod verify;

#[cfg(test)]
mod tests;

use crate::journal::format::{Area, Expect};
use crate::journal::walk::Walk;
use crate::journal::{Committed, Item, Point, RETRY_NS};
use crate::ports::{DeviceError, LocalIo};
use crate::secondary::Downlink;
use crate::secondary::io::{Io, Op};
use crate::types::{Epoch, Extent, Mono, PairId, RecordKind, StreamId, Time, VolumeId};
use flush::{Flushing, Volumes};
use plan::{Job, Plans};
use std::collections::{HashMap, VecDeque};
pub(crate) use verify::Verdict;
use verify::Verifying;

/// Writes to volumes in flight at most.
const DEPTH: usize = 64;
/// A round takes blocks until it has this many payload bytes.
const ROUND_BYTES: u64 = 4 << 20;
/// Emptied lists of blocks that are kept.
const SPARE_LISTS_MAX: usize = 64;
/// Blocks that were read back and wait for their round.
const REPLAYED_BLOCKS_MAX: usize = 2;

/// Where a pair's records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To this volume, which has logical blocks of this size in bytes.
    Volume(VolumeId, u32),
    /// Nowhere: the pair was deleted.
    Gone,
    /// The volume was not attached again since the restart.
    Missing,
}

/// What may be applied: blocks that end not behind the position and hold nothing later than the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Barrier {
    pub(crate) position: u64,
    pub(crate) time: Time,
}

impl Barrier {
    /// Everything may.
    pub(crate) const NONE: Barrier = Barrier { position: u64::MAX, time: Time(u64::MAX) };

    fn lets<S>(self, block: &Committed<S>) -> bool {
        block.end <= self.position && latest_in(block).is_none_or(|time| time <= self.time)
    }
}

/// The time of the block's last record. Its limit says less: a commit's first blocks carry the limit before it.
fn latest_in<S>(block: &Committed<S>) -> Option<Time> {
    block.items.last().map(|item| item.record.head.stamp.time)
}

/// Why rounds wait before they change anything ([`Applier::gated`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// What they overwrite is the last image, which goes to the overlay first.
    Overlay,
    /// What they overwrite is what a test view shows.
    View,
}

struct Round<S> {
    items: Vec<Item<S>>,
    jobs: Vec<Option<Job>>,
    plans: Plans,
    verifying: HashMap<u32, Verifying>,
    verdicts: Vec<Verdict>,
    ready: Vec<u32>,
    in_flight: usize,
    left: usize,
    end: Point,
    /// By gate: what it overwrites is not safe yet (see [`Applier::gated`]).
    closed: [bool; 2],
}

impl<S> Round<S> {
    fn new() -> Round<S> {
        Round {
            items: Vec::new(),
            jobs: Vec::new(),
            plans: Plans::default(),
            verifying: HashMap::new(),
            verdicts: Vec::new(),
            ready: Vec::new(),
            in_flight: 0,
            left: 0,
            end: Point::default(),
            closed: [false; 2],
        }
    }

    fn is_let(&self) -> bool {
        !self.closed.contains(&true)
    }
}

/// What an [`Applier`] tells its group.
pub(crate) enum Applied<S> {
    /// A round is on the volumes (not flushed), and what its verify records found.
    Round(Vec<Item<S>>, Vec<Verdict>),
    /// Everything up to here is on the flushed volumes.
    Flushed(Point),
}

/// Blocks behind the queue that are in the journal only.
struct Disk {
    walk: Walk<Op>,
    until: u64,
}

/// A group's apply.
pub(crate) struct Applier<S> {
    area: Area,
    recovery: (u64, u64),
    barrier: Barrier,
    /// Records later than this are thrown away: the takeover's cut.
    cut: Option<Time>,
    /// Nothing durable says yet that blocks behind this position are: one that does not check after a crash would be
    /// taken for a torn one, so that its records must not be on a volume.
    attested: u64,
    /// By gate: blocks behind this position change what must be kept elsewhere first.
    gates: [Option<u64>; 2],
    queue: VecDeque<Committed<S>>,
    /// Where the queue ends.
    queued: Point,
    disk: Option<Disk>,
    /// Where all that was pushed or is to be replayed ends.
    end: u64,
    round: Option<Box<Round<S>>>,
    /// The last round's storage, for the next.
    spare: Option<Box<Round<S>>>,
    /// Emptied lists of blocks.
    spare_items: Vec<Vec<Item<S>>>,
    /// What rounds reached.
    applied: Point,
    /// The latest record of any round that was begun.
    latest: Time,
    /// Verify records before this position are not looked at: what comes later may be on the volumes already.
    verify_from: u64,
    /// What the last durable checkpoint says.
    checkpoint: Point,
    /// Volumes that rounds wrote to since their last flush began.
    dirty: Volumes,
    flushing: Option<Flushing>,
    /// A flush failed: everything behind the checkpoint is applied again.
    rewind: bool,
    /// How often that was.
    rewinds: u64,
    blocked: Option<PairId>,
    /// Where a block behind the checkpoint, whole when the group was opened, is not any more.
    damaged: Option<u64>,
    error: Option<DeviceError>,
    /// Whose error it is.
    failing: Option<VolumeId>,
    retry_at: Option<Mono>,
    /// Charges of records that left memory.
    freed: Vec<(StreamId, Epoch, u64)>,
    pub(crate) applied_records: u64,
    pub(crate) folded_records: u64,
}

impl<S: AsRef<[u8]> + Clone + 'static> Applier<S> {
    /// Starts at a checkpoint of the journal `journal_id` at `recovery_epoch`; the blocks up to `until` are read back.
    /// Nothing later than `latest` is on the volumes.
    pub(crate) fn new(
        area: Area,
        journal_id: u64,
        recovery_epoch: u64,
        checkpoint: Point,
        until: u64,
        latest: Time,
    ) -> Self {
        let mut applier = Applier {
            area,
            recovery: (journal_id, recovery_epoch),
            barrier: Barrier::NONE,
            cut: None,
            attested: 0,
            gates: [None; 2],
            queue: VecDeque::new(),
            queued: checkpoint,
            disk: None,
            end: until,
            round: None,
            spare: None,
            spare_items: Vec::new(),
            applied: checkpoint,
            latest,
            verify_from: until,
            checkpoint,
            dirty: Volumes::default(),
            flushing: None,
            rewind: false,
            rewinds: 0,
            blocked: None,
            damaged: None,
            error: None,
            failing: None,
            retry_at: None,
            freed: Vec::new(),
            applied_records: 0,
            folded_records: 0,
        };
        applier.read_from(checkpoint);
        applier
    }

    /// Everything from this point on is in the journal only.
    fn read_from(&mut self, point: Point) {
        self.queued = point;
        let expect = Expect {
            journal_id: self.recovery.0,
            position: point.position,
            previous: point.previous,
            epoch_min: 0,
            epoch_max: self.recovery.1,
        };
        let walk = Walk::new(self.area, Op::Replay, expect, self.end);
        self.disk = (self.end > point.position).then_some(Disk { walk, until: self.end });
    }

    /// A block is durable in the journal. It stays in memory if it may be applied now.
    pub(crate) fn push(&mut self, block: Committed<S>) {
        let point = block.point();
        self.end = point.position;
        if self.disk.is_none() && !self.rewind && self.barrier.lets(&block) {
            self.queue.push_back(block);
            self.queued = point;
            return;
        }
        self.forget(&block.items);
        match &mut self.disk {
            Some(disk) => {
                disk.until = point.position;
                disk.walk.extend(point.position);
            }
            // A rewind reads all of it.
            None if self.rewind => {}
            None => self.read_from(self.queued),
        }
    }

    fn forget(&mut self, items: &[Item<S>]) {
        let charged = items.iter().filter(|item| item.charged);
        self.freed.extend(charged.map(|item| {
            let head = &item.record.head;
            (head.stamp.stream, item.epoch, head.charge_bytes())
        }));
    }

    /// Moves the charges of records that left memory since the last call to the end of `freed`.
    pub(crate) fn take_freed(&mut self, freed: &mut Vec<(StreamId, Epoch, u64)>) {
        freed.append(&mut self.freed);
    }

    /// An empty list for the records of a block, with the storage of one that was applied.
    pub(crate) fn spare_items(&mut self) -> Vec<Item<S>> {
        self.spare_items.pop().unwrap_or_default()
    }

    /// Takes the storage of a round back that [`Applied::Round`] brought.
    pub(crate) fn recycle(&mut self, mut items: Vec<Item<S>>, mut verdicts: Vec<Verdict>) {
        items.clear();
        verdicts.clear();
        if let Some(spare) = &mut self.spare {
            (spare.items, spare.verdicts) = (items, verdicts);
        }
    }

    /// What may be applied from now on; a round under way is not called back.
    pub(crate) fn set_barrier(&mut self, barrier: Barrier) {
        self.barrier = barrier;
    }

    /// Something durable says that the journal is, up to here.
    pub(crate) fn attest(&mut self, end: u64) {
        self.attested = self.attested.max(end);
    }

    /// How far something durable says that the journal is.
    pub(crate) fn attested(&self) -> u64 {
        self.attested
    }

    /// The takeover's cut is durable: what is behind this position, or later, never was.
    pub(crate) fn seal(&mut self, end: u64, cut: Time) {
        self.cut = Some(cut);
        self.barrier = Barrier::NONE;
        // The seal says where the journal ends.
        self.attested = u64::MAX;
        self.end = self.end.min(end);
        while self.queue.back().is_some_and(|block| block.end > end) {
            if let Some(block) = self.queue.pop_back() {
                self.forget(&block.items);
            }
        }
        if let Some(disk) = &mut self.disk {
            disk.until = disk.until.min(end);
        }
        // A round that waits at the gate has changed nothing.
        if let Some(round) = self.round.take_if(|round| !round.is_let()) {
            self.forget(&round.items);
        }
        self.gates = [None; 2];
    }

    /// Blocks behind this position wait until what they overwrite is safe ([`Applier::gated`]).
    pub(crate) fn set_gate(&mut self, gate: Gate, position: Option<u64>) {
        self.gates[gate as usize] = position;
    }

    /// Whether a round waits at this gate.
    pub(crate) fn is_gated(&self, gate: Gate) -> bool {
        self.round.as_ref().is_some_and(|round| round.closed[gate as usize])
    }

    /// What the round that waits at a gate changes.
    pub(crate) fn gated(&self) -> impl Iterator<Item = (PairId, Extent)> {
        let round = self.round.iter().filter(|round| !round.is_let());
        let records = round.flat_map(|round| round.items.iter().zip(&round.jobs));
        let changed = records.filter(|(_, job)| job.is_some_and(|job| !job.is_read));
        changed.map(|(item, _)| (item.record.head.pair, item.record.head.extent))
    }

    /// All that the round overwrites is safe, as far as this gate goes.
    pub(crate) fn open_gate(&mut self, gate: Gate) {
        if let Some(round) = &mut self.round {
            round.closed[gate as usize] = false;
        }
    }

    /// Nothing behind this position is on a volume or on its way there.
    pub(crate) fn reached(&self) -> u64 {
        self.round.as_ref().map_or(self.applied, |round| round.end).position
    }

    /// Whether everything behind the checkpoint is about to be applied again.
    pub(crate) fn is_rewinding(&self) -> bool {
        self.rewind
    }

    /// How often a failing flush made all behind the checkpoint due again: then volumes go back in time for a while.
    pub(crate) fn rewinds(&self) -> u64 {
        self.rewinds
    }

    /// Whether all that may be applied now is on the volumes (not necessarily flushed).
    pub(crate) fn is_idle(&self) -> bool {
        let may_read = |disk: &Disk| disk.walk.expect().position < disk.until.min(self.barrier.position);
        let waits = match self.queue.front() {
            Some(block) => self.barrier.lets(block),
            None => self.disk.as_ref().is_some_and(may_read),
        };
        self.round.is_none() && !self.rewind && !waits
    }

    /// Whether everything that was pushed or is to be replayed is on the volumes (not necessarily flushed).
    pub(crate) fn is_done(&self) -> bool {
        self.disk.is_none() && self.queue.is_empty() && self.round.is_none() && !self.rewind
    }

    /// Whether nothing of it is under way on a volume.
    pub(crate) fn is_resting(&self) -> bool {
        self.round.is_none() && self.flushing.is_none()
    }

    /// What rounds reached.
    pub(crate) fn applied(&self) -> Point {
        self.applied
    }

    /// What the volumes hold is what they held at this time.
    pub(crate) fn begin_at(&mut self, time: Time) {
        self.latest = self.latest.max(time);
    }

    /// Nothing later may be on the volumes.
    pub(crate) fn latest(&self) -> Time {
        self.latest
    }

    /// Journal blocks that are not in memory and may not be applied yet.
    pub(crate) fn held(&self) -> u64 {
        if self.is_idle() { self.end.saturating_sub(self.applied.position) } else { 0 }
    }

    /// Journal blocks that a checkpoint now would free.
    pub(crate) fn freeable(&self) -> u64 {
        self.applied.position.saturating_sub(self.checkpoint.position)
    }

    /// Whether a checkpoint is being flushed.
    pub(crate) fn is_flushing(&self) -> bool {
        self.flushing.is_some()
    }

    /// Whether a checkpoint now would say more than the last.
    pub(crate) fn has_news(&self) -> bool {
        self.applied.position > self.checkpoint.position && !self.rewind
    }

    /// Records and payload bytes in memory that are not on the volumes yet.
    pub(crate) fn lag(&self) -> (u64, u64) {
        let queued = self.queue.iter().flat_map(|block| &block.items);
        let flying = self.round.iter().flat_map(|round| &round.items);
        queued
            .chain(flying)
            .fold((0, 0), |(records, bytes), item| (records + 1, bytes + u64::from(item.record.head.payload_bytes)))
    }

    /// Why it does not move, if it does not.
    pub(crate) fn stuck(&self) -> Option<Stuck> {
        let walk_error = self.disk.as_ref().and_then(|disk| disk.walk.error());
        match (self.blocked, self.error, walk_error) {
            (Some(pair), _, _) => Some(Stuck::Missing(pair)),
            (_, Some(error), _) => Some(Stuck::Volume(error, self.failing)),
            (_, _, Some(error)) => Some(Stuck::Journal(error)),
            _ => None,
        }
    }

    /// Where the journal lost a block that was whole when the group was opened, and up to where it was durable: what is
    /// behind it can never be applied.
    pub(crate) fn damaged(&self) -> Option<(u64, u64)> {
        self.damaged.zip(self.disk.as_ref().map(|disk| disk.until))
    }

    /// When to call [`Applier::poll`] for another try.
    pub(crate) fn retry_at(&self) -> Option<Mono> {
        let walk = self.disk.as_ref().and_then(|disk| disk.walk.retry_at());
        self.retry_at.into_iter().chain(walk).min()
    }

    /// A read of the journal ended.
    pub(crate) fn replay_read(&mut self, now: Mono, result: Result<(), DeviceError>, data: Option<&[u8]>) {
        if let Some(disk) = &mut self.disk {
            disk.walk.done(now, result, data);
        }
    }

    /// Reads back, starts rounds and submits writes, as far as it goes.
    pub(crate) fn poll<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        target: impl Fn(PairId) -> Target,
    ) -> Option<Applied<S>> {
        // A read under way would be taken for one of the next reader's.
        let is_reading = self.disk.as_ref().is_some_and(|disk| disk.walk.is_reading());
        if self.rewind && self.round.is_none() && !is_reading && self.retry_at.is_none_or(|at| at <= io.now.mono) {
            self.rewind = false;
            self.retry_at = None;
            for block in std::mem::take(&mut self.queue) {
                self.forget(&block.items);
            }
            self.verify_from = self.verify_from.max(self.applied.position);
            self.applied = self.checkpoint;
            self.read_from(self.checkpoint);
        }
        self.read_back(io);
        if self.round.is_none() && !self.rewind {
            self.start_round(&target);
        }
        self.submit(io);
        self.finish_round()
    }

    fn start_round(&mut self, target: &impl Fn(PairId) -> Target) {
        self.blocked = None;
        let mut bytes = 0;
        let mut count = 0;
        let mut closed = [false; 2];
        for block in &self.queue {
            if bytes >= ROUND_BYTES || !self.barrier.lets(block) || block.end > self.attested {
                break;
            }
            let is_behind = self.gates.map(|gate| gate.is_some_and(|gate| block.end > gate));
            if count > 0 && is_behind != closed {
                break;
            }
            closed = is_behind;
            let missing = block.items.iter().find(|item| target(item.record.head.pair) == Target::Missing);
            if let Some(item) = missing {
                self.blocked = Some(item.record.head.pair);
                break;
            }
            bytes += block.items.iter().map(|item| u64::from(item.record.head.payload_bytes)).sum::<u64>();
            count += 1;
        }
        if count == 0 {
            return;
        }
        let mut round = self.spare.take().unwrap_or_else(|| Box::new(Round::new()));
        let Round { items, jobs, plans, verifying, ready, end, .. } = &mut *round;
        for mut block in self.queue.drain(..count) {
            let point = block.point();
            *end = point;
            self.latest = self.latest.max(latest_in(&block).unwrap_or_default());
            for item in &block.items {
                let head = item.record.head;
                let is_cut_off = self.cut.is_some_and(|cut| head.stamp.time > cut);
                jobs.push(match (target(head.pair), &item.record.payload) {
                    (Target::Volume(volume, _), _) if head.kind.changes_volume() && !is_cut_off => {
                        Some(Job { volume, extent: head.extent, is_read: false })
                    }
                    (Target::Volume(volume, block_bytes), Some(digests))
                        if head.kind == RecordKind::Verify && !is_cut_off && point.position > self.verify_from =>
                    {
                        let digests = &digests.as_ref()[..head.payload_bytes as usize];
                        verifying.insert(jobs.len() as u32, Verifying::new(head, digests, block_bytes));
                        Some(Job { volume, extent: head.extent, is_read: true })
                    }
                    _ => None,
                });
            }
            items.append(&mut block.items);
            if self.spare_items.len() < SPARE_LISTS_MAX {
                self.spare_items.push(block.items);
            }
        }
        plans.make(jobs);
        let plans = plans.all();
        let done = || (0..items.len()).rev().filter(|index| jobs[*index].is_some() && !plans[*index].folded);
        ready.extend(done().filter(|index| plans[*index].waits == 0).map(|index| index as u32));
        self.folded_records += plans.iter().filter(|plan| plan.folded).count() as u64;
        self.applied_records += items.len() as u64;
        for job in jobs.iter().flatten().filter(|job| !job.is_read) {
            self.dirty.insert(job.volume);
        }
        let left = done().count();
        (round.in_flight, round.left, round.closed) = (0, left, closed);
        self.round = Some(round);
    }

    fn submit<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        if self.retry_at.is_some_and(|at| at > io.now.mono) {
            return;
        }
        let Some(round) = self.round.as_mut().filter(|round| round.is_let()) else { return };
        while round.in_flight < DEPTH
            && let Some(job) = round.ready.pop()
        {
            let Some(Job { volume, extent, .. }) = round.jobs[job as usize] else { continue };
            let record = &round.items[job as usize].record;
            let work = match (record.head.kind, record.payload.clone()) {
                (RecordKind::Write | RecordKind::Repair | RecordKind::Copy, Some(data)) => {
                    LocalIo::Write { extent, data, fua: false }
                }
                (RecordKind::Unmap, _) => LocalIo::Unmap { extent },
                (RecordKind::WriteZeroes, _) => LocalIo::WriteZeroes { extent, fua: false },
                (RecordKind::Verify, _) if let Some(verifying) = round.verifying.get(&job) => {
                    let Some((extent, bytes)) = verifying.next_read() else { continue };
                    let Some(buf) = io.ports.alloc(bytes) else {
                        // Without memory: again in a later turn.
                        round.ready.push(job);
                        return;
                    };
                    LocalIo::Read { extent, buf }
                }
                (kind, _) => unreachable!("a {kind:?} without what it needs is no job"),
            };
            round.in_flight += 1;
            io.submit(Op::Apply(job), volume, work);
        }
    }

    /// A write to a volume (or a verify record's read) ended.
    pub(crate) fn written(&mut self, now: Mono, job: u32, result: Result<(), DeviceError>, data: Option<&[u8]>) {
        let Some(round) = &mut self.round else { return };
        round.in_flight -= 1;
        if let Some(verifying) = round.verifying.get_mut(&job) {
            match (result, data) {
                (Ok(()), Some(data)) => verifying.compare(data),
                _ => verifying.give_up(),
            }
            if verifying.next_read().is_some() {
                round.ready.push(job);
                return;
            }
            round.verdicts.push(verifying.verdict());
        } else if let Err(error) = result {
            self.error = Some(error);
            self.failing = round.jobs.get(job as usize).and_then(Option::as_ref).map(|job| job.volume);
            self.retry_at = Some(now.after_ns(RETRY_NS));
            round.ready.push(job);
            return;
        }
        if self.retry_at.is_none_or(|at| at <= now) {
            self.error = None;
            self.retry_at = None;
        }
        round.left -= 1;
        let Round { plans, ready, .. } = &mut **round;
        plans.done(job, |dependent| ready.push(dependent));
    }

    fn finish_round(&mut self) -> Option<Applied<S>> {
        let mut done = self.round.take_if(|round| round.left == 0)?;
        self.applied = done.end;
        let (items, verdicts) = (std::mem::take(&mut done.items), std::mem::take(&mut done.verdicts));
        done.jobs.clear();
        done.verifying.clear();
        done.ready.clear();
        self.spare = Some(done);
        Some(Applied::Round(items, verdicts))
    }

    /// A checkpoint is durable.
    pub(crate) fn checkpointed(&mut self, at: Point) {
        self.checkpoint = at;
    }
}

/// Why the apply does not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// A pair's volume was not attached again.
    Missing(PairId),
    /// A volume's device fails, this one as far as it is known.
    Volume(DeviceError, Option<VolumeId>),
    /// The journal's device fails.
    Journal(DeviceError),
}
