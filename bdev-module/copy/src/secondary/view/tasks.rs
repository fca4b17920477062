//! What changes the store: old content that is saved, what hosts write, what the journal held. For each granule in the order
//! in which it was asked for, one at a time, so that none of them overtakes another.

use super::store::{Granule, Run, pieces, runs};
use super::{DEPTH, RETRY_NS, View, ViewOp};
use crate::apply::Gate;
use crate::ports::{DeviceError, HostError, LocalIo};
use crate::secondary::Downlink;
use crate::secondary::group::{Group, Phase};
use crate::secondary::io::{Io, Op};
use crate::types::Extent;
use std::collections::BTreeSet;

/// Where a piece's bytes are.
pub(super) enum Data<S> {
    /// All of it.
    Whole(S),
    /// From this byte on.
    Part(S, usize),
    /// Of the journal.
    Bytes(Vec<u8>),
}

/// For whom a piece is.
#[derive(Clone, Copy)]
pub(super) enum From {
    Host(u64),
    Journal,
}

pub(super) struct Task<S> {
    granule: Granule,
    work: Work<S>,
}

pub(super) enum Work<S> {
    /// What the volume holds of the granule, as far as nothing else is kept; the run at a device.
    Save(Option<Run>),
    Put(From, Run, Data<S>),
    Zero(From, Run),
}

enum Step {
    /// At a device.
    Begun,
    Done,
    /// Without memory.
    Starved,
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> View<B, S> {
    /// Asks for it.
    pub(super) fn add_task(&mut self, granule: Granule, work: Work<S>) {
        let id = self.number();
        self.tasks.insert(id, Task { granule, work });
        let queue = self.queues.entry(granule).or_default();
        queue.push_back(id);
        if queue.len() == 1 {
            self.ready.push_back(id);
        }
    }

    /// Submits what may be, as far as it goes.
    pub(super) fn run_tasks<P: Downlink<Buf = B, Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        while self.failing.is_none()
            && self.running < DEPTH
            && let Some(id) = self.ready.pop_front()
        {
            match self.run_task(io, id) {
                Step::Begun => {
                    self.running += 1;
                    self.in_flight += 1;
                }
                Step::Done => self.end_task(io, id, Ok(())),
                Step::Starved => {
                    self.ready.push_front(id);
                    self.retry_at = Some(io.now.mono.after_ns(RETRY_NS));
                    return;
                }
            }
        }
    }

    fn block_bytes(&self, granule: Granule) -> u32 {
        self.volumes.get(&granule.0).map_or(512, |(_, geometry)| geometry.block_bytes)
    }

    /// The blocks of a granule that its volume has.
    fn all_of(&self, granule: Granule) -> u128 {
        let Some((_, geometry)) = self.volumes.get(&granule.0) else { return 0 };
        let per_granule = super::store::GRANULE_BYTES / u64::from(geometry.block_bytes);
        let left = geometry.blocks.saturating_sub(granule.1 * per_granule).min(per_granule) as u32;
        if left == 0 { 0 } else { Run { first: 0, blocks: left }.mask() }
    }

    /// The blocks of a granule that show what the volume holds.
    fn missing(&self, granule: Granule) -> u128 {
        let kept = self.store.kept(granule);
        self.all_of(granule) & !(kept.stored | kept.zero)
    }

    fn run_task<P: Downlink<Buf = B, Shared = S>>(&mut self, io: &mut Io<'_, P>, id: u64) -> Step {
        let Some(task) = self.tasks.get(&id) else { return Step::Done };
        let granule = task.granule;
        let block_bytes = self.block_bytes(granule);
        match &task.work {
            Work::Zero(_, run) => {
                self.store.note_zero(granule, *run);
                Step::Done
            }
            Work::Put(_, run, data) => {
                let Some(extent) = self.store.place(granule, *run, block_bytes) else {
                    unreachable!("a piece that is put was given its place")
                };
                let bytes = run.blocks as usize * block_bytes as usize;
                let from = match data {
                    Data::Whole(data) => Ok(data.clone()),
                    Data::Part(data, offset) => Err(&data.as_ref()[*offset..*offset + bytes]),
                    Data::Bytes(data) => Err(data.as_slice()),
                };
                let data = match from {
                    Ok(data) => data,
                    Err(from) => {
                        let Some(mut buf) = io.ports.alloc(bytes) else { return Step::Starved };
                        buf.as_mut()[..bytes].copy_from_slice(from);
                        io.ports.freeze(buf, bytes)
                    }
                };
                let write = LocalIo::Write { extent, data, fua: false };
                io.submit(Op::View(ViewOp::Put(id)), self.store.volume, write);
                Step::Begun
            }
            Work::Save(_) => {
                let Some(run) = runs(self.missing(granule)).next() else { return Step::Done };
                let Some((volume, _)) = self.volumes.get(&granule.0).copied() else { return Step::Done };
                let Some(buf) = io.ports.alloc(run.blocks as usize * block_bytes as usize) else {
                    return Step::Starved;
                };
                let per_granule = super::store::GRANULE_BYTES / u64::from(block_bytes);
                let extent = Extent { lba: granule.1 * per_granule + u64::from(run.first), blocks: run.blocks };
                if let Some(task) = self.tasks.get_mut(&id) {
                    task.work = Work::Save(Some(run));
                }
                io.submit(Op::View(ViewOp::SaveRead(id)), volume, LocalIo::Read { extent, buf });
                Step::Begun
            }
        }
    }

    /// It is done: the next of its granule, and whoever waits for it.
    fn end_task<P: Downlink<Buf = B, Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        id: u64,
        result: Result<(), DeviceError>,
    ) {
        let Some(task) = self.tasks.remove(&id) else { return };
        if let Some(queue) = self.queues.get_mut(&task.granule) {
            queue.pop_front();
            match queue.front() {
                Some(next) => self.ready.push_back(*next),
                None => _ = self.queues.remove(&task.granule),
            }
        }
        match task.work {
            Work::Save(_) => self.saving = self.saving.map(|left| left - 1),
            Work::Put(From::Journal, ..) | Work::Zero(From::Journal, _) => {
                if let Some(load) = &mut self.load {
                    load.left -= 1;
                }
                if let Err(error) = result {
                    self.give_up(format!("the store cannot be written ({error})"));
                }
            }
            Work::Put(From::Host(write), ..) | Work::Zero(From::Host(write), _) => {
                self.piece_done(io, write, result.map_err(HostError::from));
            }
        }
    }

    /// Old content was read.
    pub(super) fn save_read<P: Downlink<Buf = B, Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        id: u64,
        result: Result<(), DeviceError>,
        buf: Option<B>,
    ) {
        self.running -= 1;
        let Some(Task { granule, work: Work::Save(Some(run)) }) = self.tasks.get(&id) else { return };
        let (granule, run) = (*granule, *run);
        let Some(buf) = buf.filter(|_| result.is_ok()) else {
            let error = result.err().unwrap_or(DeviceError { errno: 5 });
            return self.give_up(format!("a secondary volume cannot be read ({error})"));
        };
        let block_bytes = self.block_bytes(granule);
        let bytes = run.blocks as usize * block_bytes as usize;
        let is_zero = buf.as_ref()[..bytes].iter().all(|byte| *byte == 0);
        if !self.store.reserve([granule].into_iter(), !is_zero) {
            return self.give_up("the store is full: start a test with a larger one");
        }
        if is_zero {
            self.store.note_zero(granule, run);
            return self.ready.push_front(id);
        }
        let Some(extent) = self.store.place(granule, run, block_bytes) else { return };
        let data = io.ports.freeze(buf, bytes);
        self.running += 1;
        self.in_flight += 1;
        io.submit(Op::View(ViewOp::SaveWrite(id)), self.store.volume, LocalIo::Write { extent, data, fua: false });
    }

    /// And is in the store.
    pub(super) fn save_written(&mut self, id: u64, result: Result<(), DeviceError>) {
        self.running -= 1;
        let Some(Task { granule, work: Work::Save(Some(run)) }) = self.tasks.get(&id) else { return };
        if let Err(error) = result {
            return self.give_up(format!("the store cannot be written ({error})"));
        }
        self.store.note_stored(*granule, *run);
        // What else of the granule is missing.
        self.ready.push_front(id);
    }

    /// A piece is in the store.
    pub(super) fn put_written<P: Downlink<Buf = B, Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        id: u64,
        result: Result<(), DeviceError>,
    ) {
        self.running -= 1;
        let Some(Task { granule, work: Work::Put(_, run, _) }) = self.tasks.get(&id) else { return };
        if result.is_ok() {
            self.store.note_stored(*granule, *run);
        }
        self.end_task(io, id, result);
    }

    /// Saves what the round at the gate overwrites, and lets it through when all of that is in the store.
    pub(super) fn save_on(&mut self, group: Option<&mut Group<S>>) {
        if self.is_failed() || self.failing.is_some() || self.load.is_some() {
            return;
        }
        let Some(Phase::Ready(ready)) = group.map(|group| &mut group.phase) else { return };
        if !ready.applier.is_gated(Gate::View) {
            return;
        }
        let left = match self.saving {
            Some(left) => left,
            None => {
                let mut needed: BTreeSet<Granule> = BTreeSet::new();
                for (pair, extent) in ready.applier.gated() {
                    if let Some((_, geometry)) = self.volumes.get(&pair) {
                        needed.extend(pieces(pair, extent, geometry.block_bytes).map(|piece| piece.granule));
                    }
                }
                needed.retain(|granule| self.missing(*granule) != 0);
                for granule in &needed {
                    self.add_task(*granule, Work::Save(None));
                }
                needed.len()
            }
        };
        self.saving = (left > 0).then_some(left);
        if left == 0 {
            ready.applier.open_gate(Gate::View);
        }
    }
}
