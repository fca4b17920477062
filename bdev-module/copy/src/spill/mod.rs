//! The spill of a primary group: stamped records that memory cannot hold, on a device of their own, in the journal's
//! format, as the continuation of what the link keeps.
//!
//! ```text
//!                  ┌──────────── while it spills ────────────┐
//! stamp ─> append ─> memory ─> log on the device ─> cursor ─> link, as soon as that keeps less than its share
//!      └─────────────────── while it does not ──────────────> link
//! ```
//!
//! Spilling begins when the link keeps more than its share of the send buffer (nearly half), with what it keeps, so that the log is whole from
//! the first number that the secondary lacks; it ends when everything was handed to the link and that keeps less than a
//! quarter. A record is handed over when it is stamped; nobody waits for its write. What is not durable in the log is in
//! memory, and counts against the send buffer ([`Spill::memory_bytes`]).
//!
//! What the link keeps can become durable at the secondary only when the tips of all streams have passed it, and a stream
//! may have all of its next records here. So the secondary is told how far each stream was handed to the link
//! ([`Spill::handed`]): *two pairs with streams of their own; the link's share was full of one's records, which waited for
//! the other's tip, which waited for room in the share.*
//!
//! After a restart the log is searched as a journal is. What is found there ([`Spill::found`]) may be sent once more, in its
//! old epoch ([`Spill::replay`]): per stream a contiguous run from the first number that the secondary lacks; what lies
//! behind a hole is not used.
//!
//! | when | then |
//! | --- | --- |
//! | the device is full | memory takes what is appended, so the send buffer fills: the group's overflow policy acts |
//! | a write fails | tried again every second; meanwhile as above |
//! | a write fails for good (`ENOSPC`, the device is gone) | nothing more is written, what is there is still read; as above |
//! | a read fails | tried again every second; meanwhile the link runs dry and memory fills; as above |
//! | a read fails for good, or a block is not what was written | [`Spill::lost`]: the group suspends |
//! | at the opening: torn behind the durable end | cut off; what is before it is used |
//! | at the opening: damaged before the durable end | told; what is before the damage is used, nothing behind it |
//! | at the opening: an empty device in place of the one before | formatted; what was in the other is resynced |
//! | at the opening: another log's device | [`Spill::reason`]; the group runs without a spill |
//! | a crash at any moment | as much as was durable is found; see above |
//!
//! What the design gives up: a record that goes through the device is copied twice, once into a block and once out of it.

mod cursor;
mod log;
mod tail;

#[cfg(test)]
mod tests;

use crate::journal::device::LogPorts;
use crate::journal::format::Area;
use crate::journal::open::{Identity, LogMeta, Opening};
use crate::journal::{self, Item, Journal, Point};
use crate::ports::DeviceError;
use crate::types::{Epoch, Geometry, GroupId, Mono, Record, Seq, Stamp, StreamId, Time, VolumeId};
use cursor::{Cursor, Filled};
use std::collections::{BTreeMap, VecDeque};
use tail::Tail;

/// Smallest spill, in bytes.
pub const BYTES_MIN: u64 = journal::BYTES_MIN;

/// The tail is made durable at most this often while there is room.
const TAIL_INTERVAL_NS: u64 = 100_000_000;
/// How soon to look again when there was no memory.
const MEMORY_RETRY_NS: u64 = 1_000_000;

/// What of a send buffer the link is to keep while records are spilled: a little less than half, so that hosts are not slowed
/// by it (the ramp of their answers begins at half).
pub(crate) fn link_share_bytes(limit_bytes: u64) -> u64 {
    limit_bytes / 16 * 7
}

/// Which of a spill's I/O ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SpillOp {
    /// One of the opening.
    Open,
    /// A piece of a block was written.
    Write,
    /// The flush behind it.
    Flush,
    /// A read for the link.
    Read,
}

/// A spill's I/O in its owner's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purposes<T> {
    pub(crate) open: T,
    pub(crate) write: T,
    pub(crate) flush: T,
    pub(crate) read: T,
}

/// What a restart found of a stream: of its newest epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) epoch: Epoch,
    /// (number, id).
    pub(crate) generation: (u64, u64),
    /// The least number.
    pub(crate) first: Seq,
    /// The greatest number.
    pub(crate) last: Seq,
    /// All numbers from this one on were found.
    pub(crate) whole_from: Seq,
}

/// A record on its way to the link.
#[derive(Debug)]
pub(crate) struct Spilled<S> {
    pub(crate) epoch: Epoch,
    pub(crate) record: Record<S>,
}

/// How full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes of the device that are not free.
    pub(crate) used_bytes: u64,
    /// Bytes of the device that records can take.
    pub(crate) total_bytes: u64,
    /// Records that were not handed to the link.
    pub(crate) unsent_records: u64,
    /// Their charge.
    pub(crate) unsent_bytes: u64,
}

enum Phase<S, T> {
    Opening(Box<Opening<T>>),
    Open(Box<Journal<S, T>>),
    /// Never opened in this process; nothing is written to the device.
    Failed(String),
}

/// How the metadata stands to what was last made durable of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Durable,
    Wanted,
    /// Being made durable; then everything before the position is free.
    Flying(Option<u64>),
}

/// A group's spill.
pub(crate) struct Spill<S, T> {
    area: Area,
    identity: Identity,
    purposes: Purposes<T>,
    meta: LogMeta,
    kept: Kept,
    phase: Phase<S, T>,
    is_spilling: bool,
    /// Records are counted as they are appended; a record's place in this count never changes. This is the next one's.
    appended: u64,
    /// The next one for the link. All before were handed to it, or are not wanted any more.
    next: u64,
    /// Everything before is in the log, durably, or never will be.
    on_disk: u64,
    /// End of the durable log.
    end: Point,
    /// Being written: from `on_disk` on.
    flying: VecDeque<Item<S>>,
    /// Appended, not being written: up to `appended`.
    pending: VecDeque<Item<S>>,
    /// Charge of what in `flying` and `pending` is for the link yet.
    unsent_bytes: u64,
    /// Charge of everything from `next` on, on the device too.
    waiting_bytes: u64,
    /// Nothing from `next` on was stamped before this.
    waiting_since: Time,
    /// Everything before `next` was stamped up to here, everything from it on later.
    handed_up_to: Time,
    /// Streams of which something from `next` on is for the link: its epoch, first and last number.
    waiting: BTreeMap<StreamId, (Epoch, Seq, Seq)>,
    cursor: Option<Cursor<S, T>>,
    /// A read whose cursor is gone is under way.
    orphan: bool,
    tail: Tail,
    tail_due: Mono,
    acknowledged: BTreeMap<StreamId, (Epoch, Seq)>,
    /// What comes before is not wanted any more, whatever was acknowledged.
    discarded: u64,
    found: BTreeMap<StreamId, Found>,
    complete_up_to: Time,
    /// While what a restart found is sent: what comes next of each stream that takes part.
    replay: Option<BTreeMap<StreamId, (Epoch, Option<Seq>)>>,
    /// Nothing more is written.
    closed: Option<DeviceError>,
    damage: Option<String>,
    lost: Option<String>,
    starved: bool,
}

impl<S: AsRef<[u8]> + Clone + 'static, T: Copy> Spill<S, T> {
    /// A spill on its device. `meta`: decoded from what [`Spill::take_meta`] gave last and the owner made durable, or that
    /// of a new log. Opens in later calls of [`Spill::turn`].
    pub(crate) fn new(
        volume: VolumeId,
        geometry: Geometry,
        group: GroupId,
        purposes: Purposes<T>,
        meta: LogMeta,
    ) -> Self {
        let area = Area::new(volume, geometry);
        let identity = Identity { name: "spill", id: meta.id, group, geometry, is_scratch: false };
        Spill {
            area,
            identity,
            purposes,
            meta,
            kept: Kept::Durable,
            phase: Phase::Opening(Box::new(Opening::new(area, identity, purposes.open))),
            is_spilling: false,
            appended: 0,
            next: 0,
            on_disk: 0,
            end: meta.tail,
            flying: VecDeque::new(),
            pending: VecDeque::new(),
            unsent_bytes: 0,
            waiting_bytes: 0,
            waiting_since: Time(0),
            handed_up_to: Time(0),
            waiting: BTreeMap::new(),
            cursor: None,
            orphan: false,
            tail: Tail::new(area.capacity),
            tail_due: Mono(0),
            acknowledged: BTreeMap::new(),
            discarded: 0,
            found: BTreeMap::new(),
            complete_up_to: Time(0),
            replay: None,
            closed: None,
            damage: None,
            lost: None,
            starved: false,
        }
    }

    fn opening(&self) -> Phase<S, T> {
        Phase::Opening(Box::new(Opening::new(self.area, self.identity, self.purposes.open)))
    }

    /// Whether it is open: what a restart found is known.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Whether it will never be open in this process.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.phase, Phase::Failed(_))
    }

    /// Whether records go here and not to the link.
    pub(crate) fn is_spilling(&self) -> bool {
        self.is_spilling
    }

    /// Whether spilling should begin, the link keeping this much of a send buffer of `limit_bytes`.
    pub(crate) fn should_begin(&self, link_bytes: u64, limit_bytes: u64) -> bool {
        let usable = self.is_open() && self.closed.is_none() && self.lost.is_none() && self.replay.is_none();
        usable && !self.is_spilling && self.next == self.appended && link_bytes > link_share_bytes(limit_bytes)
    }

    /// Whether the link, keeping this much, should be given more.
    pub(crate) fn should_pump(&self, link_bytes: u64, limit_bytes: u64) -> bool {
        self.next < self.appended && link_bytes < link_share_bytes(limit_bytes)
    }

    /// Begins to spill; `kept` is all that the link keeps of the group's streams, in order of stamps.
    pub(crate) fn begin(&mut self, kept: impl IntoIterator<Item = (Epoch, (u64, u64), Record<S>)>) {
        assert!(!self.is_spilling && self.next == self.appended && self.replay.is_none());
        self.is_spilling = true;
        self.drop_cursor();
        for (epoch, generation, record) in kept {
            self.pending.push_back(Item { record, epoch, generation, charged: false });
            self.appended += 1;
        }
        self.next = self.appended;
    }

    /// Takes a record that was just stamped, while spilling.
    pub(crate) fn append(&mut self, epoch: Epoch, generation: (u64, u64), record: Record<S>) {
        assert!(self.is_spilling, "what is not spilled goes to the link");
        self.unsent_bytes += record.head.charge_bytes();
        self.waiting_bytes += record.head.charge_bytes();
        let stamp = record.head.stamp;
        if self.next == self.appended {
            self.waiting_since = stamp.time;
            self.handed_up_to = Time(stamp.time.0.saturating_sub(1));
        }
        match self.waiting.get_mut(&stamp.stream).filter(|(known, ..)| *known == epoch) {
            Some((.., last)) => *last = stamp.seq,
            None => {
                self.waiting.insert(stamp.stream, (epoch, stamp.seq, stamp.seq));
            }
        }
        self.pending.push_back(Item { record, epoch, generation, charged: false });
        self.appended += 1;
    }

    /// Ends spilling when everything was handed to the link and that keeps little.
    pub(crate) fn end_if_idle(&mut self, link_bytes: u64, limit_bytes: u64) {
        if self.is_spilling && self.next == self.appended && link_bytes <= limit_bytes / 4 {
            self.is_spilling = false;
            self.pending.clear();
        }
    }

    /// The next record for the link, if it is here. Nothing of what a restart found before [`Spill::replay`].
    pub(crate) fn next<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I) -> Option<Spilled<S>> {
        let is_held = !self.found.is_empty() && self.replay.is_none();
        while self.next < self.appended && self.lost.is_none() && !is_held {
            let item = match &mut self.cursor {
                Some(_) if self.orphan => return None,
                Some(cursor) => match cursor.fill(io, self.next, self.on_disk) {
                    Filled::Item(item) => item,
                    Filled::Wait { starved } => {
                        self.starved |= starved;
                        return None;
                    }
                    Filled::CaughtUp => {
                        self.cursor = None;
                        continue;
                    }
                    Filled::Damaged(at) => {
                        self.lost = Some(format!("block {at} of the spill is not what was written there"));
                        return None;
                    }
                },
                None => {
                    let item = self.in_memory(self.next)?.clone();
                    self.unsent_bytes -= item.record.head.charge_bytes();
                    item
                }
            };
            self.next += 1;
            self.waiting_bytes -= item.record.head.charge_bytes();
            self.waiting_since = item.record.head.stamp.time;
            self.handed_up_to = item.record.head.stamp.time;
            if self.is_wanted(&item) {
                self.count_handed(item.epoch, item.record.head.stamp);
                return Some(Spilled { epoch: item.epoch, record: item.record });
            }
        }
        None
    }

    /// Whether a record that a restart found continues what the secondary has.
    fn is_wanted(&mut self, item: &Item<S>) -> bool {
        let Some(replay) = &mut self.replay else { return true };
        let stamp = item.record.head.stamp;
        let Some((epoch, expected)) = replay.get_mut(&stamp.stream) else { return false };
        if *epoch != item.epoch || expected.is_none_or(|expected| stamp.seq < expected) {
            return false;
        }
        let is_next = *expected == Some(stamp.seq);
        *expected = is_next.then(|| stamp.seq.next());
        is_next
    }

    fn count_handed(&mut self, epoch: Epoch, stamp: Stamp) {
        if let Some((known, first, last)) = self.waiting.get_mut(&stamp.stream)
            && *known == epoch
        {
            *first = stamp.seq.next();
            if *first > *last {
                self.waiting.remove(&stamp.stream);
            }
        }
    }

    /// If records of the stream wait here for the link: a time and a number, so that all of the stream's records up to that
    /// time have that number at most, and were handed to the link, as all of the other streams' up to that time were.
    pub(crate) fn handed(&self, stream: StreamId, epoch: Epoch) -> Option<(Time, Seq)> {
        let (_, first, _) = self.waiting.get(&stream).filter(|(known, ..)| *known == epoch)?;
        Some((self.handed_up_to, first.previous()))
    }

    fn in_memory(&self, place: u64) -> Option<&Item<S>> {
        let pending_from = self.appended - self.pending.len() as u64;
        if place >= pending_from {
            return self.pending.get((place - pending_from) as usize);
        }
        self.flying.get(place.checked_sub(self.on_disk)? as usize)
    }

    /// The secondary has everything of the stream up to `seq`.
    pub(crate) fn acknowledged(&mut self, stream: StreamId, epoch: Epoch, seq: Seq) {
        let known = self.acknowledged.entry(stream).or_insert((epoch, seq));
        *known = (*known).max((epoch, seq));
        self.release();
    }

    fn release(&mut self) {
        let acknowledged = &self.acknowledged;
        let has = |stream: StreamId, epoch: Epoch, seq: Seq| {
            acknowledged.get(&stream).is_some_and(|known| *known >= (epoch, seq))
        };
        // What the secondary has needs no writing. Only at the front: behind it, it would make a hole.
        let sent = self.pending.len() as u64 - (self.appended - self.next).min(self.pending.len() as u64);
        for _ in 0..sent {
            let Some(front) = self.pending.front().map(|item| (item.record.head.stamp, item.epoch)) else { break };
            let (stamp, epoch) = front;
            if !has(stamp.stream, epoch, stamp.seq) {
                break;
            }
            self.pending.pop_front();
        }
        self.tail.release(self.discarded, has);
    }

    /// The stream is no more: nothing waits for what it has to say.
    pub(crate) fn forget(&mut self, stream: StreamId) {
        self.acknowledged.remove(&stream);
        self.found.remove(&stream);
        self.waiting.remove(&stream);
        self.tail.forget(stream);
        self.release();
    }

    fn drop_cursor(&mut self) {
        if self.cursor.take().is_some_and(|cursor| cursor.is_reading()) {
            self.orphan = true;
        }
    }

    /// Nothing that is here is wanted any more: the group's streams were broken, or what a restart found was sent. What a
    /// device refused for good is tried anew with what comes next. Nothing happens before it is open.
    pub(crate) fn discard(&mut self) {
        if !self.is_open() {
            return;
        }
        self.is_spilling = false;
        self.next = self.appended;
        self.discarded = self.appended;
        self.pending.clear();
        self.unsent_bytes = 0;
        self.waiting_bytes = 0;
        self.waiting.clear();
        self.drop_cursor();
        self.replay = None;
        self.found.clear();
        self.closed = None;
        self.lost = None;
        self.release();
    }

    /// What a restart found, of the newest epoch of each stream; empty from [`Spill::discard`] on.
    pub(crate) fn found(&self) -> impl Iterator<Item = (StreamId, &Found)> {
        self.found.iter().map(|(id, found)| (*id, found))
    }

    /// Every record of the group that was stamped up to here is durable at the secondary, or was found here.
    pub(crate) fn complete_up_to(&self) -> Time {
        self.complete_up_to
    }

    /// Hands out what a restart found, of these streams, each in its epoch and above the number that the secondary has.
    pub(crate) fn replay(&mut self, streams: impl IntoIterator<Item = (StreamId, Epoch, Seq)>) {
        assert!(self.is_open() && !self.is_spilling, "a replay comes before anything new");
        let streams: BTreeMap<_, _> =
            streams.into_iter().map(|(id, epoch, durable)| (id, (epoch, Some(durable.next())))).collect();
        for (id, (epoch, next)) in &streams {
            if let (Some(next), Some(found)) = (next, self.found.get(id))
                && *epoch == found.epoch
                // Of a stream with a hole nothing is known.
                && (found.whole_from..=found.last).contains(next)
            {
                self.waiting.insert(*id, (*epoch, *next, found.last));
            }
        }
        self.replay = Some(streams);
    }

    /// Whether everything that [`Spill::replay`] hands out was handed out.
    pub(crate) fn is_replayed(&self) -> bool {
        self.next == self.appended || self.lost.is_some()
    }

    /// How far the replay of a stream went: its next number; `None` from a hole on, or if it took no part.
    pub(crate) fn replayed_up_to(&self, stream: StreamId) -> Option<Seq> {
        self.replay.as_ref()?.get(&stream)?.1
    }

    /// How full it is.
    pub(crate) fn usage(&self) -> Usage {
        let (used_bytes, total_bytes) = match &self.phase {
            Phase::Open(journal) => (journal.used_bytes(), journal.total_bytes()),
            _ => (0, self.area.capacity * u64::from(self.area.block_bytes)),
        };
        let (unsent_records, unsent_bytes) = (self.appended - self.next, self.waiting_bytes);
        Usage { used_bytes, total_bytes, unsent_records, unsent_bytes }
    }

    /// Charge of what counts against the send buffer.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.unsent_bytes + self.cursor.as_ref().map_or(0, Cursor::bytes)
    }

    /// Nothing that the link was not given was stamped before this; `None`: it was given everything.
    pub(crate) fn waiting_since(&self) -> Option<Time> {
        self.holds_unsent().then_some(self.waiting_since)
    }

    /// Whether it holds records that the link was not given.
    pub(crate) fn holds_unsent(&self) -> bool {
        self.next < self.appended
    }

    /// Why what is here can't all be handed to the link: what comes behind is no continuation. The group suspends, then
    /// calls [`Spill::discard`].
    pub(crate) fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// What is wrong with it, if something is.
    pub(crate) fn reason(&self) -> Option<String> {
        if let Some(lost) = &self.lost {
            return Some(lost.clone());
        }
        let opening = match &self.phase {
            Phase::Failed(reason) => return Some(reason.clone()),
            Phase::Opening(opening) => opening.error(),
            Phase::Open(journal) => {
                if let Some(error) = self.closed {
                    return Some(format!(
                        "the spill device takes nothing more ({error}): the group goes on without it"
                    ));
                }
                if let Some(error) = journal.error() {
                    return Some(format!("the spill cannot be written ({error}); tried again every second"));
                }
                self.cursor.as_ref().and_then(Cursor::error)
            }
        };
        let reading = opening.map(|error| format!("the spill cannot be read ({error}); tried again every second"));
        let is_full = || self.is_full().then(|| "the spill is full".to_owned());
        reading.or_else(is_full).or_else(|| self.damage.clone())
    }

    /// Whether it takes or gives nothing, now or for good.
    pub(crate) fn is_failing(&self) -> bool {
        let is_sick = match &self.phase {
            Phase::Failed(_) => true,
            Phase::Opening(opening) => opening.error().is_some(),
            Phase::Open(journal) => journal.error().is_some(),
        };
        let reading = self.cursor.as_ref().and_then(Cursor::error);
        is_sick || self.closed.is_some() || self.lost.is_some() || reading.is_some()
    }

    fn is_full(&self) -> bool {
        let Phase::Open(journal) = &self.phase else { return false };
        !journal.is_busy() && self.pending.front().is_some_and(|item| !journal.has_room(item.entry_bytes()))
    }

    /// The metadata, when it is to be made durable; then [`Spill::persisted`] is called. One at a time.
    pub(crate) fn take_meta(&mut self) -> Option<[u8; LogMeta::BYTES]> {
        if self.kept != Kept::Wanted {
            return None;
        }
        let mut free_to = None;
        if let Phase::Open(journal) = &self.phase {
            if let Some(tail) = self.tail.freed() {
                self.meta.tail = tail;
                free_to = Some(tail.position);
            }
            self.meta.durable_end = journal.committed_end();
        }
        self.kept = Kept::Flying(free_to);
        Some(self.meta.encode())
    }

    /// What [`Spill::take_meta`] gave is durable.
    pub(crate) fn persisted(&mut self) {
        let Kept::Flying(free_to) = std::mem::replace(&mut self.kept, Kept::Durable) else { return };
        match (&mut self.phase, free_to) {
            (Phase::Opening(opening), _) => opening.persisted(),
            (Phase::Open(journal), Some(position)) => journal.free(position),
            _ => {}
        }
    }

    /// An I/O ended.
    pub(crate) fn done<I: LogPorts<T, Shared = S>>(
        &mut self,
        io: &mut I,
        op: SpillOp,
        result: Result<(), DeviceError>,
        data: Option<&[u8]>,
    ) {
        match (op, &mut self.phase) {
            (SpillOp::Open, Phase::Opening(opening)) => opening.done(io.mono(), result, data),
            (SpillOp::Write, Phase::Open(journal)) => journal.written(io, 0, result),
            (SpillOp::Flush, Phase::Open(journal)) => {
                for block in journal.flushed(io, result) {
                    self.committed(&block);
                }
            }
            (SpillOp::Read, _) if self.orphan => self.orphan = false,
            (SpillOp::Read, _) => {
                if let Some(cursor) = &mut self.cursor {
                    cursor.done(io.mono(), result, data);
                    if let Some(error) = result.err().filter(|error| is_for_good(*error)) {
                        self.lost = Some(format!("the spill device cannot be read any more ({error})"));
                    }
                }
            }
            _ => {}
        }
        self.give_up();
    }

    /// Everything that can go on now; to be called at each turn's end.
    pub(crate) fn turn<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I) {
        self.starved = false;
        if let Phase::Opening(_) = self.phase {
            self.open_on(io);
        }
        self.write(io);
        self.keep_tail(io.mono());
    }

    /// When to call [`Spill::turn`] (and to pump) even if nothing happens.
    pub(crate) fn retry_at(&self, now: Mono) -> Option<Mono> {
        let machine = match &self.phase {
            Phase::Opening(opening) => opening.retry_at(),
            Phase::Open(journal) => journal.retry_at(),
            Phase::Failed(_) => None,
        };
        let reading = self.cursor.as_ref().and_then(Cursor::retry_at);
        let starved = self.starved.then(|| now.after_ns(MEMORY_RETRY_NS));
        let tail = self.tail.freed().filter(|freed| freed.position > self.meta.tail.position).map(|_| self.tail_due);
        [machine, reading, starved, tail.filter(|due| *due > now)].into_iter().flatten().min()
    }
}

/// Whether trying again is of no use: no such device (or address), no space, read-only.
fn is_for_good(error: DeviceError) -> bool {
    const ENXIO: i32 = 6;
    const ENODEV: i32 = 19;
    const ENOSPC: i32 = 28;
    const EROFS: i32 = 30;
    matches!(error.errno, ENXIO | ENODEV | ENOSPC | EROFS)
}
