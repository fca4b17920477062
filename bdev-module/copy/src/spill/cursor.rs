//! Reading the spill back for the link, in order.

use crate::journal::device::LogPorts;
use crate::journal::format::{Area, Expect};
use crate::journal::walk::{Next, Walk};
use crate::journal::{Item, Point};
use crate::ports::DeviceError;
use crate::types::{Mono, Record};
use std::collections::VecDeque;

/// Where the link is in the log.
pub(super) struct Cursor<S, T> {
    walk: Walk<T>,
    /// Place of the first entry of the next block.
    place: u64,
    /// Entries of the last block that the link was not given: the last ones before `place`.
    block: VecDeque<Item<S>>,
    bytes: u64,
}

/// What [`Cursor::fill`] found.
pub(super) enum Filled<S> {
    /// The wanted entry.
    Item(Item<S>),
    /// A read is under way, or (`starved`) there is no memory.
    Wait { starved: bool },
    /// Everything that is in the log was handed out.
    CaughtUp,
    /// The block at this position is not what was written.
    Damaged(u64),
}

impl<S: AsRef<[u8]> + Clone + 'static, T: Copy> Cursor<S, T> {
    /// In the log (id, recovery epoch), from the point on, whose first entry has this place. Reads nothing before
    /// [`Cursor::extend`].
    pub(super) fn new(area: Area, purpose: T, (id, epoch): (u64, u64), from: Point, place: u64) -> Self {
        let expect =
            Expect { journal_id: id, position: from.position, previous: from.previous, epoch_min: 0, epoch_max: epoch };
        let walk = Walk::new(area, purpose, expect, from.position);
        Cursor { walk, place, block: VecDeque::new(), bytes: 0 }
    }

    /// Everything before the position is durable.
    pub(super) fn extend(&mut self, stop: u64) {
        self.walk.extend(stop);
    }

    /// Charge of what was read and not handed out.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_reading(&self) -> bool {
        self.walk.is_reading()
    }

    pub(super) fn error(&self) -> Option<DeviceError> {
        self.walk.error()
    }

    pub(super) fn retry_at(&self) -> Option<Mono> {
        self.walk.retry_at()
    }

    /// A read ended.
    pub(super) fn done(&mut self, now: Mono, result: Result<(), DeviceError>, data: Option<&[u8]>) {
        self.walk.done(now, result, data);
    }

    /// The entry at the place `wanted`; the log holds those before `until`.
    pub(super) fn fill<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I, wanted: u64, until: u64) -> Filled<S> {
        loop {
            if let Some(item) = self.block.pop_front() {
                self.bytes -= item.record.head.charge_bytes();
                return Filled::Item(item);
            }
            if self.place >= until {
                return Filled::CaughtUp;
            }
            let info = match self.walk.next(io) {
                Next::Wait => {
                    let starved = !self.walk.is_reading() && self.walk.retry_at().is_none();
                    return Filled::Wait { starved };
                }
                Next::End => return Filled::Damaged(self.walk.expect().position),
                Next::Block(info) => info,
            };
            let (mut place, mut starved) = (self.place, false);
            let (block, bytes) = (&mut self.block, &mut self.bytes);
            let whole = self.walk.entries(&info, |entry, payload| {
                place += 1;
                if place <= wanted || starved {
                    return;
                }
                let payload = match entry.head.kind.has_payload() {
                    false => None,
                    true => match io.alloc(payload.len()) {
                        Some(mut buf) => {
                            buf.as_mut()[..payload.len()].copy_from_slice(payload);
                            Some(io.freeze(buf, payload.len()))
                        }
                        None => return starved = true,
                    },
                };
                *bytes += entry.head.charge_bytes();
                let record = Record { head: entry.head, payload };
                block.push_back(Item { record, epoch: entry.epoch, generation: entry.generation, charged: false });
            });
            if !whole {
                return Filled::Damaged(self.walk.expect().position);
            }
            if starved {
                (self.bytes, starved) = (0, true);
                self.block.clear();
                return Filled::Wait { starved };
            }
            self.walk.advance(&info);
            self.place = place;
        }
    }
}
