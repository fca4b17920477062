//! A journal by itself, for its benchmark: what a secondary group does with the records that it has released, and nothing of
//! what comes before or behind.

use super::device::LogPorts;
use super::format::Area;
use super::{Item, Journal, Point, Purposes};
use crate::ports::{LocalIo, Memory};
use crate::types::{Epoch, Geometry, Mono, Record, Time, VolumeId};
use std::collections::VecDeque;

/// What an I/O of the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A piece of the block in this lane is being written.
    Write(u8),
    /// The flush behind a block.
    Flush,
}

/// The journal's device.
pub trait Device: Memory {
    /// Submits and returns; [`Alone::done`] hears of its end.
    fn submit(&mut self, step: Step, io: LocalIo<Self::Buf, Self::Shared>);
}

/// An empty journal.
pub struct Alone<S> {
    journal: Journal<S, Step>,
    released: VecDeque<Item<S>>,
    released_bytes: u64,
}

impl<S: AsRef<[u8]> + Clone + 'static> Alone<S> {
    /// On a device of this size.
    pub fn new(geometry: Geometry) -> Alone<S> {
        let purposes = Purposes { write: std::array::from_fn(|lane| Step::Write(lane as u8)), flush: Step::Flush };
        let end = Point { position: 0, previous: 0, limit: Time(0) };
        let journal = Journal::new(Area::new(VolumeId(0), geometry), purposes, 1, 1, 0, end);
        Alone { journal, released: VecDeque::new(), released_bytes: 0 }
    }

    /// A record was released.
    pub fn release(&mut self, record: Record<S>) {
        let item = Item { record, epoch: Epoch(1), generation: (1, 1), charged: true };
        self.released_bytes += item.entry_bytes();
        self.released.push_back(item);
    }

    /// Records that are released and in no block yet.
    pub fn waiting(&self) -> usize {
        self.released.len()
    }

    /// Begins the next block, if the journal takes one and there is something for it. A circle that is full is checkpointed at
    /// once, as if all were applied. Whether one was begun.
    pub fn go_on(&mut self, device: &mut impl Device<Shared = S>) -> bool {
        if self.released.is_empty() || !self.journal.takes_more(self.released_bytes) {
            return false;
        }
        let (count, continues) = crate::secondary::block_of(&self.released, self.journal.block_bytes_max());
        let bytes = self.released.iter().take(count).map(Item::entry_bytes).sum();
        if !self.journal.has_room(bytes) {
            self.journal.free(self.journal.committed_end());
            if !self.journal.has_room(bytes) {
                return false;
            }
        }
        let limit = self.released.get(count).map_or(Time(u64::MAX - 1), |next| Time(next.record.head.stamp.time.0 - 1));
        let items = self.released.drain(..count).collect();
        match self.journal.begin(&mut World(device), items, limit, continues) {
            Ok(()) => self.released_bytes -= bytes,
            Err(items) => {
                items.into_iter().rev().for_each(|item| self.released.push_front(item));
                return false;
            }
        }
        true
    }

    /// A step ended well. How many records it made durable.
    pub fn done(&mut self, step: Step, device: &mut impl Device<Shared = S>) -> usize {
        match step {
            Step::Write(lane) => self.journal.written(&mut World(device), lane, Ok(())),
            Step::Flush => {
                return self.journal.flushed(&mut World(device), Ok(())).iter().map(|block| block.items.len()).sum();
            }
        }
        0
    }
}

struct World<'a, D>(&'a mut D);

impl<D: Device> Memory for World<'_, D> {
    type Buf = D::Buf;
    type Shared = D::Shared;

    fn alloc(&mut self, bytes: usize) -> Option<D::Buf> {
        self.0.alloc(bytes)
    }

    fn freeze(&mut self, buf: D::Buf, bytes: usize) -> D::Shared {
        self.0.freeze(buf, bytes)
    }
}

impl<D: Device> LogPorts<Step> for World<'_, D> {
    fn mono(&self) -> Mono {
        Mono(0)
    }

    fn submit_log(&mut self, step: Step, _: VolumeId, io: LocalIo<D::Buf, D::Shared>) {
        self.0.submit(step, io);
    }
}
