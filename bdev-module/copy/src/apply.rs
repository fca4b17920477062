//! From the journal to the volumes, and the checkpoint that frees the journal.
//!
//! Rounds of whole journal blocks: inside a round, a record that later ones of the round cover wholly is not written at
//! all (write folding), the others wait only for earlier ones that share a block with them, and up to [`DEPTH`] are in
//! flight. Between rounds nothing overlaps in time, so order holds. A crash anywhere is healed by doing everything
//! behind the checkpoint again in the same order.
//!
//! What the design gives up: a slow write at a round's end holds the next round back.

pub(crate) use crate::journal::Point;
use crate::journal::format::{Area, Expect};
use crate::journal::walk::{Next, Walk};
use crate::journal::{Committed, Item, RETRY_NS};
use crate::ports::{DeviceError, LocalIo};
use crate::secondary::Downlink;
use crate::secondary::io::{Io, Op};
use crate::types::{Extent, Mono, PairId, Record, RecordKind, VolumeId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

#[cfg(test)]
mod tests;

/// Writes to volumes in flight at most.
const DEPTH: usize = 64;
/// A round takes blocks until it has this many payload bytes.
const ROUND_BYTES: u64 = 4 << 20;
/// Blocks that were read back and wait for their round.
const REPLAYED_BLOCKS_MAX: usize = 2;

/// Where a pair's records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To this volume.
    Volume(VolumeId),
    /// Nowhere: the pair was deleted.
    Gone,
    /// The volume was not attached again since the restart.
    Missing,
}

/// What one job waits for, and what waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Later records of the round cover it.
    folded: bool,
    /// How many earlier jobs it waits for.
    waits: u32,
    /// Jobs that wait for it.
    dependents: SmallVec<[u32; 2]>,
}

struct Round<S> {
    items: Vec<Item<S>>,
    volumes: Vec<Option<VolumeId>>,
    plans: Vec<Plan>,
    ready: Vec<u32>,
    in_flight: usize,
    left: usize,
    end: Point,
}

struct Flushing {
    at: Point,
    left: usize,
    volumes: BTreeSet<VolumeId>,
}

/// What an [`Applier`] tells its group.
pub(crate) enum Applied<S> {
    /// A round is on the volumes (not flushed).
    Round(Vec<Item<S>>),
    /// Everything up to here is on the flushed volumes.
    Flushed(Point),
}

/// A group's apply.
pub(crate) struct Applier<S> {
    area: Area,
    queue: VecDeque<Committed<S>>,
    replay: Option<(Walk<Op>, u64)>,
    round: Option<Round<S>>,
    /// What rounds reached.
    applied: Point,
    /// What the last durable checkpoint says.
    checkpoint: Point,
    /// Volumes that rounds wrote to since their last flush began.
    dirty: BTreeSet<VolumeId>,
    flushing: Option<Flushing>,
    /// A flush failed: everything behind the checkpoint is applied again.
    rewind: bool,
    blocked: Option<PairId>,
    /// Where a block behind the checkpoint, whole when the group was opened, is not any more.
    damaged: Option<u64>,
    error: Option<DeviceError>,
    retry_at: Option<Mono>,
    recovery: (u64, u64),
    pub(crate) applied_records: u64,
    pub(crate) folded_records: u64,
}

impl<S: AsRef<[u8]> + Clone + 'static> Applier<S> {
    /// Starts at a checkpoint of the journal `journal_id` at `recovery_epoch`; the blocks up to `until` are read back.
    pub(crate) fn new(area: Area, journal_id: u64, recovery_epoch: u64, checkpoint: Point, until: u64) -> Self {
        let mut applier = Applier {
            area,
            queue: VecDeque::new(),
            replay: None,
            round: None,
            applied: checkpoint,
            checkpoint,
            dirty: BTreeSet::new(),
            flushing: None,
            rewind: false,
            blocked: None,
            damaged: None,
            error: None,
            retry_at: None,
            recovery: (journal_id, recovery_epoch),
            applied_records: 0,
            folded_records: 0,
        };
        applier.replay_until(until);
        applier
    }

    fn replay_until(&mut self, until: u64) {
        let expect = Expect {
            journal_id: self.recovery.0,
            position: self.checkpoint.position,
            previous: self.checkpoint.previous,
            epoch_min: 0,
            epoch_max: self.recovery.1,
        };
        self.applied = self.checkpoint;
        let walk = Walk::new(self.area, Op::Replay, expect, until);
        self.replay = (until > self.checkpoint.position).then_some((walk, until));
    }

    /// A block is durable in the journal: its records may go to the volumes.
    pub(crate) fn push(&mut self, block: Committed<S>) {
        self.queue.push_back(block);
    }

    /// Whether everything that was pushed or is to be replayed is on the volumes (not necessarily flushed).
    pub(crate) fn is_idle(&self) -> bool {
        self.replay.is_none() && self.queue.is_empty() && self.round.is_none() && !self.rewind
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
        let walk_error = self.replay.as_ref().and_then(|(walk, _)| walk.error());
        match (self.blocked, self.error, walk_error) {
            (Some(pair), _, _) => Some(Stuck::Missing(pair)),
            (_, Some(error), _) => Some(Stuck::Volume(error)),
            (_, _, Some(error)) => Some(Stuck::Journal(error)),
            _ => None,
        }
    }

    /// Where the journal lost a block that was whole when the group was opened, and up to where it was durable: what is
    /// behind it can never be applied.
    pub(crate) fn damaged(&self) -> Option<(u64, u64)> {
        self.damaged.zip(self.replay.as_ref().map(|(_, until)| *until))
    }

    /// When to call [`Applier::poll`] for another try.
    pub(crate) fn retry_at(&self) -> Option<Mono> {
        let walk = self.replay.as_ref().and_then(|(walk, _)| walk.retry_at());
        self.retry_at.into_iter().chain(walk).min()
    }

    /// A read of the journal ended.
    pub(crate) fn replay_read(&mut self, now: Mono, result: Result<(), DeviceError>, data: Option<&[u8]>) {
        if let Some((walk, _)) = &mut self.replay {
            walk.done(now, result, data);
        }
    }

    /// Reads back, starts rounds and submits writes, as far as it goes.
    pub(crate) fn poll<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        target: impl Fn(PairId) -> Target,
    ) -> Option<Applied<S>> {
        if self.rewind && self.round.is_none() && self.retry_at.is_none_or(|at| at <= io.now.mono) {
            self.rewind = false;
            self.retry_at = None;
            // What a replay had read already is read again; what came by push since stays queued behind.
            let until = self.replay.take().map_or(self.applied.position, |(_, until)| until);
            self.queue.retain(|block| block.end > until);
            self.replay_until(until);
        }
        self.read_back(io);
        if self.round.is_none() && !self.rewind {
            self.start_round(&target);
        }
        self.submit(io);
        self.finish_round()
    }

    fn read_back<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        while let Some((walk, until)) = &mut self.replay {
            let ahead = self.queue.iter().take_while(|block| block.end <= *until).count();
            if walk.expect().position >= *until {
                self.replay = None;
                return;
            }
            if ahead >= REPLAYED_BLOCKS_MAX {
                return;
            }
            let info = match walk.next(io) {
                Next::Wait => return,
                Next::Block(info) => info,
                Next::End => {
                    self.damaged = Some(walk.expect().position);
                    return;
                }
            };
            let mut items = Vec::new();
            let mut short = false;
            let whole = walk.entries(&info, |entry, payload| {
                let copied = match (entry.head.kind.has_payload(), short) {
                    (_, true) => return,
                    (false, _) => None,
                    (true, _) => match io.ports.alloc(payload.len()) {
                        Some(mut buf) => {
                            buf.as_mut()[..payload.len()].copy_from_slice(payload);
                            Some(io.ports.freeze(buf, payload.len()))
                        }
                        None => {
                            short = true;
                            return;
                        }
                    },
                };
                items.push(Item {
                    record: Record { head: entry.head, payload: copied },
                    epoch: entry.epoch,
                    generation: entry.generation,
                    charged: false,
                });
            });
            if !whole {
                self.damaged = Some(walk.expect().position);
                return;
            }
            // Without memory: again in a later turn.
            if short {
                return;
            }
            walk.advance(&info);
            let after = walk.expect();
            let block = Committed {
                continues: info.continues,
                items,
                end: after.position,
                checksum: after.previous,
                limit: info.limit,
            };
            self.queue.insert(ahead, block);
        }
    }

    fn start_round(&mut self, target: &impl Fn(PairId) -> Target) {
        self.blocked = None;
        let until = self.replay.as_ref().map(|(_, until)| *until);
        let mut bytes = 0;
        let mut count = 0;
        for block in &self.queue {
            // Blocks that came by push wait for those that are still to be read back.
            if until.is_some_and(|until| block.end > until) || bytes >= ROUND_BYTES {
                break;
            }
            let missing = block.items.iter().find(|item| target(item.record.head.pair) == Target::Missing);
            if let Some(item) = missing {
                self.blocked = Some(item.record.head.pair);
                break;
            }
            bytes += block.items.iter().map(|item| u64::from(item.record.head.payload_bytes)).sum::<u64>();
            count += 1;
        }
        let mut items = Vec::new();
        let mut end = None;
        for block in self.queue.drain(..count) {
            end = Some(Point { position: block.end, previous: block.checksum, limit: block.limit });
            items.extend(block.items);
        }
        let Some(end) = end else { return };
        let volumes: Vec<Option<VolumeId>> = items
            .iter()
            .map(|item| match target(item.record.head.pair) {
                Target::Volume(volume) if item.record.head.kind.changes_volume() => Some(volume),
                Target::Volume(_) | Target::Gone | Target::Missing => None,
            })
            .collect();
        let places: Vec<Option<(VolumeId, Extent)>> =
            volumes.iter().zip(&items).map(|(volume, item)| volume.map(|it| (it, item.record.head.extent))).collect();
        let plans = plan(&places);
        let is_written = |index: &usize| volumes[*index].is_some() && !plans[*index].folded;
        let written: Vec<usize> = (0..items.len()).filter(is_written).collect();
        let ready = written.iter().rev().filter(|index| plans[**index].waits == 0).map(|index| *index as u32).collect();
        self.folded_records += plans.iter().filter(|plan| plan.folded).count() as u64;
        self.applied_records += items.len() as u64;
        self.dirty.extend(volumes.iter().flatten());
        self.round = Some(Round { ready, in_flight: 0, left: written.len(), items, volumes, plans, end });
    }

    fn submit<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        if self.retry_at.is_some_and(|at| at > io.now.mono) {
            return;
        }
        let Some(round) = &mut self.round else { return };
        while round.in_flight < DEPTH
            && let Some(job) = round.ready.pop()
        {
            let head = &round.items[job as usize].record.head;
            let extent = head.extent;
            let payload = round.items[job as usize].record.payload.clone();
            let write = match (head.kind, payload) {
                (RecordKind::Write | RecordKind::Repair | RecordKind::Copy, Some(data)) => {
                    LocalIo::Write { extent, data, fua: false }
                }
                (RecordKind::Unmap, _) => LocalIo::Unmap { extent },
                (RecordKind::WriteZeroes, _) => LocalIo::WriteZeroes { extent, fua: false },
                (kind, _) => {
                    unreachable!("a {kind:?} without payload is no record, and one that writes nothing no job")
                }
            };
            if let Some(volume) = round.volumes[job as usize] {
                round.in_flight += 1;
                io.submit(Op::Apply(job), volume, write);
            }
        }
    }

    /// A write to a volume ended.
    pub(crate) fn written(&mut self, now: Mono, job: u32, result: Result<(), DeviceError>) {
        let Some(round) = &mut self.round else { return };
        round.in_flight -= 1;
        if let Err(error) = result {
            self.error = Some(error);
            self.retry_at = Some(now.after_ns(RETRY_NS));
            round.ready.push(job);
            return;
        }
        if self.retry_at.is_none_or(|at| at <= now) {
            self.error = None;
            self.retry_at = None;
        }
        round.left -= 1;
        for dependent in std::mem::take(&mut round.plans[job as usize].dependents) {
            let plan = &mut round.plans[dependent as usize];
            plan.waits -= 1;
            if plan.waits == 0 {
                round.ready.push(dependent);
            }
        }
    }

    fn finish_round(&mut self) -> Option<Applied<S>> {
        let done = self.round.take_if(|round| round.left == 0)?;
        self.applied = done.end;
        Some(Applied::Round(done.items))
    }

    /// Flushes what rounds wrote, for a checkpoint at what rounds reached. Returns it at once if there is nothing to
    /// flush. The caller saw that none is under way.
    pub(crate) fn flush<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        also: impl IntoIterator<Item = VolumeId>,
    ) -> Option<Applied<S>> {
        assert!(self.flushing.is_none(), "one checkpoint at a time");
        let mut volumes = std::mem::take(&mut self.dirty);
        // A round in flight keeps its volumes dirty: what it writes after this flush began is not in it.
        if let Some(round) = &self.round {
            self.dirty.extend(round.volumes.iter().flatten());
        }
        volumes.extend(also);
        if volumes.is_empty() {
            return Some(Applied::Flushed(self.applied));
        }
        for volume in &volumes {
            io.submit(Op::ApplyFlush, *volume, LocalIo::Flush);
        }
        self.flushing = Some(Flushing { at: self.applied, left: volumes.len(), volumes });
        None
    }

    /// A volume's flush ended.
    pub(crate) fn volume_flushed(&mut self, now: Mono, result: Result<(), DeviceError>) -> Option<Applied<S>> {
        let flushing = self.flushing.as_mut()?;
        flushing.left -= 1;
        if let Err(error) = result {
            // The device may have forgotten what it could not make durable: all behind the checkpoint goes there again.
            self.error = Some(error);
            self.retry_at = Some(now.after_ns(RETRY_NS));
            self.rewind = true;
        }
        if flushing.left > 0 {
            return None;
        }
        let flushing = self.flushing.take()?;
        if self.rewind {
            self.dirty.extend(flushing.volumes);
            return None;
        }
        Some(Applied::Flushed(flushing.at))
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
    /// A volume's device fails.
    Volume(DeviceError),
    /// The journal's device fails.
    Journal(DeviceError),
}

/// Who waits for whom: jobs in order of history, `None` for one that goes nowhere.
fn plan(jobs: &[Option<(VolumeId, Extent)>]) -> Vec<Plan> {
    let mut plans = vec![Plan::default(); jobs.len()];
    // From the last to the first: what is covered by what comes later.
    let mut covered: HashMap<VolumeId, BTreeMap<u64, u64>> = HashMap::new();
    for (plan, job) in plans.iter_mut().zip(jobs).rev() {
        if let Some((volume, extent)) = job {
            plan.folded = !cover(covered.entry(*volume).or_default(), *extent);
        }
    }
    // From the first to the last: who wrote these blocks before.
    let mut writers: HashMap<VolumeId, BTreeMap<u64, (u64, u32)>> = HashMap::new();
    for (index, job) in jobs.iter().enumerate() {
        let Some((volume, extent)) = job else { continue };
        if plans[index].folded {
            continue;
        }
        let earlier = overwrite(writers.entry(*volume).or_default(), *extent, index as u32);
        plans[index].waits = earlier.len() as u32;
        for job in earlier {
            plans[job as usize].dependents.push(index as u32);
        }
    }
    plans
}

/// Adds the extent to disjoint, never touching intervals; returns whether that added any block.
fn cover(intervals: &mut BTreeMap<u64, u64>, extent: Extent) -> bool {
    let (mut start, mut end) = (extent.lba, extent.end());
    if let Some((_, last)) = intervals.range(..=start).next_back()
        && *last >= end
    {
        return false;
    }
    while let Some((first, last)) = intervals.range(..=end).next_back().map(|(first, last)| (*first, *last))
        && last >= start
    {
        intervals.remove(&first);
        start = start.min(first);
        end = end.max(last);
    }
    intervals.insert(start, end);
    true
}

/// Makes `job` the last writer of the extent; returns those who were, each once.
fn overwrite(writers: &mut BTreeMap<u64, (u64, u32)>, extent: Extent, job: u32) -> SmallVec<[u32; 8]> {
    let (start, end) = (extent.lba, extent.end());
    let mut earlier = SmallVec::new();
    while let Some((first, (last, writer))) = writers.range(..end).next_back().map(|(first, rest)| (*first, *rest))
        && last > start
    {
        writers.remove(&first);
        if !earlier.contains(&writer) {
            earlier.push(writer);
        }
        if last > end {
            writers.insert(end, (last, writer));
        }
        if first < start {
            writers.insert(first, (start, writer));
            break;
        }
    }
    writers.insert(start, (end, job));
    earlier
}
