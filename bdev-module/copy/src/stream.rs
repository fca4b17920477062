//! A stream's receive ring: from fragments in any order to records in order of their numbers (claims 14 and 22-24: "the
//! longest run from the last released one").
//!
//! A record's slot is `(seq - base) & mask`, so finding it costs nothing whatever the network did to the order. A record
//! that completes the run leaves the ring with everything behind it; the ring holds only what waits for a gap. What the
//! design gives up: a sender may run at most one ring ahead of the gap.

use crate::link::FRAGMENT_UNIT_BYTES;
use crate::ports::Memory;
use crate::types::{Epoch, Record, RecordHead, Seq, StreamId, Time};
use smallvec::SmallVec;
use std::ops::RangeInclusive;

#[cfg(test)]
mod tests;

/// Largest payload of one record, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = 1 << 20;

/// What the largest record counts against a grant ([`RecordHead::charge_bytes`]).
pub const CHARGE_BYTES_MAX: u64 = PAYLOAD_BYTES_MAX as u64 + crate::types::RECORD_OVERHEAD_BYTES;

/// Numbers above this are refused as an epoch's base, so that no sum of a number and a window overflows.
pub const BASE_MAX: u64 = 1 << 62;

/// A piece of a record as the link authenticated it.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    /// The epoch that it was stamped in.
    pub epoch: Epoch,
    /// Number of the generation that it was stamped in.
    pub generation: u64,
    /// The whole record's head; the stream is `head.stamp.stream`.
    pub head: RecordHead,
    /// Where `body` belongs in the payload, in bytes.
    pub offset: u32,
    /// Payload bytes; empty for a record without payload.
    pub body: &'a [u8],
}

/// Why a frame was not taken. It is counted and forgotten: a bad frame is an event, not a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Already there.
    #[error("already received")]
    Duplicate,
    /// Of another epoch.
    #[error("of an epoch that is not open")]
    StaleEpoch,
    /// Of another generation.
    #[error("of a generation that is not this group's")]
    StaleGeneration,
    /// Beyond the granted window.
    #[error("beyond the granted window")]
    OutsideWindow,
    /// No memory for it now; it will come again.
    #[error("no memory now")]
    NoMemory,
    /// Length, offset, extent or kind cannot be.
    #[error("length, offset, extent or kind cannot be")]
    Malformed,
    /// Says something else about a record than the record's first fragment.
    #[error("contradicts the record's first fragment")]
    Contradicting,
    /// Names a pair that has not joined through this stream.
    #[error("names a pair that did not join through this stream")]
    UnknownPair,
    /// Stamped further in the future than clocks may differ.
    #[error("stamped further in the future than clocks may differ")]
    Future,
    /// Came through a link that is not the owner's.
    #[error("came through a link that is not the stream owner's")]
    WrongLink,
    /// The stream or its group takes nothing more.
    #[error("the stream or its group takes nothing more")]
    Closed,
}

/// Frames that were not taken, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// See [`FrameError::Duplicate`].
    pub duplicate: u64,
    /// See [`FrameError::StaleEpoch`].
    pub stale_epoch: u64,
    /// See [`FrameError::StaleGeneration`].
    pub stale_generation: u64,
    /// See [`FrameError::OutsideWindow`].
    pub outside_window: u64,
    /// See [`FrameError::NoMemory`].
    pub no_memory: u64,
    /// See [`FrameError::Malformed`].
    pub malformed: u64,
    /// See [`FrameError::Contradicting`].
    pub contradicting: u64,
    /// See [`FrameError::UnknownPair`].
    pub unknown_pair: u64,
    /// See [`FrameError::Future`].
    pub future: u64,
    /// See [`FrameError::WrongLink`].
    pub wrong_link: u64,
    /// See [`FrameError::Closed`].
    pub closed: u64,
}

impl Drops {
    /// Counts one.
    pub fn count(&mut self, why: FrameError) {
        let counter = match why {
            FrameError::Duplicate => &mut self.duplicate,
            FrameError::StaleEpoch => &mut self.stale_epoch,
            FrameError::StaleGeneration => &mut self.stale_generation,
            FrameError::OutsideWindow => &mut self.outside_window,
            FrameError::NoMemory => &mut self.no_memory,
            FrameError::Malformed => &mut self.malformed,
            FrameError::Contradicting => &mut self.contradicting,
            FrameError::UnknownPair => &mut self.unknown_pair,
            FrameError::Future => &mut self.future,
            FrameError::WrongLink => &mut self.wrong_link,
            FrameError::Closed => &mut self.closed,
        };
        *counter += 1;
    }
}

/// A sender broke the protocol in a way that no retransmission heals: the stream takes nothing more, and nothing of it
/// beyond its tip is ever released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// Times within a stream rise strictly.
    #[error("record {seq} is stamped {time}, not after {floor}, up to which the stream was already complete")]
    NotRising {
        /// The record.
        seq: Seq,
        /// Its time.
        time: Time,
        /// What it had to be above.
        floor: Time,
    },
    /// A beacon said that a record does not exist that does.
    #[error("a beacon says that no record at or before {time} has a number above {seq}, but record {run} is there")]
    Beacon {
        /// The beacon's time.
        time: Time,
        /// The beacon's number.
        seq: Seq,
        /// What was received.
        run: Seq,
    },
    /// A record of a pair came that the group can't take any more.
    #[error("record {seq} is stamped {time}, not after the limit {limit} up to which the group was already released")]
    NotAfterLimit {
        /// The record.
        seq: Seq,
        /// Its time.
        time: Time,
        /// The released limit.
        limit: Time,
    },
}

/// How a stream starts.
#[derive(Clone, Copy, Debug)]
pub struct StreamStart {
    /// The stream.
    pub id: StreamId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Number of the first record of the epoch.
    pub base: Seq,
    /// Everything up to here is durable already; `base - 1` at first.
    pub durable: Seq,
    /// Every record above `durable` has a later time.
    pub floor: Time,
    /// Slots of the ring at most; rounded up to a power of two.
    pub slots: usize,
}

/// Slots of a ring that nothing made larger.
const SLOTS_MIN: usize = if cfg!(test) { 2 } else { 64 };

/// Bits of a record's units, 64 in each.
type Units = SmallVec<[u64; 4]>;

/// Such bits of whole records that are kept for records to come: large ones would be taken anew each time.
const SPARE_UNITS_MAX: usize = 64;

enum Slot<B, S> {
    Partial {
        head: RecordHead,
        buf: B,
        /// One bit per unit, set when it is there.
        units: Units,
        missing: u32,
    },
    Whole(Record<S>),
}

impl<B, S> Slot<B, S> {
    fn head(&self) -> &RecordHead {
        match self {
            Slot::Partial { head, .. } => head,
            Slot::Whole(record) => &record.head,
        }
    }
}

/// One stream as it is received.
pub struct RxStream<B, S> {
    id: StreamId,
    epoch: Epoch,
    base: Seq,
    slots: Box<[Option<Slot<B, S>>]>,
    mask: u64,
    /// What the ring grows to.
    slots_max: usize,
    /// Slots that are not empty.
    filled: usize,
    spare_units: Vec<Units>,
    /// End of the longest contiguous run.
    run: Seq,
    /// The tip: every record up to this time is in the run, none above the run is at or before it.
    floor: Time,
    /// The newest beacon whose number the run has not reached.
    beacon: Option<(Time, Seq)>,
    announced: Seq,
    seen: Time,
    error: Option<StreamError>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> RxStream<B, S> {
    /// An empty ring. It is small at first, so that a thousand streams of which few are busy take little memory, and grows to
    /// what the network ever put out of order; nothing else is allocated but payloads.
    pub fn new(start: StreamStart) -> Self {
        let slots_max = start.slots.clamp(2, 1 << 20).next_power_of_two();
        let slots = slots_max.min(SLOTS_MIN);
        RxStream {
            id: start.id,
            epoch: start.epoch,
            base: start.base,
            slots: std::iter::repeat_with(|| None).take(slots).collect(),
            mask: slots as u64 - 1,
            slots_max,
            filled: 0,
            spare_units: Vec::with_capacity(SPARE_UNITS_MAX),
            run: start.durable,
            floor: start.floor,
            beacon: None,
            announced: start.durable,
            seen: start.floor,
            error: None,
        }
    }

    /// The epoch it receives.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// End of the longest contiguous run.
    pub fn run(&self) -> Seq {
        self.run
    }

    /// How far a number may lie above the run.
    pub fn window(&self) -> u64 {
        self.slots_max as u64
    }

    /// Makes room for numbers as far above the run, at most [`RxStream::window`].
    fn reach(&mut self, ahead: u64) {
        if ahead <= self.slots.len() as u64 {
            return;
        }
        let slots = (ahead as usize).next_power_of_two();
        let larger = std::iter::repeat_with(|| None).take(slots).collect();
        self.mask = slots as u64 - 1;
        for slot in std::mem::replace(&mut self.slots, larger).into_iter().flatten() {
            let index = self.index(slot.head().stamp.seq);
            self.slots[index] = Some(slot);
        }
    }

    /// Highest number that the sender was heard to have given.
    pub fn announced(&self) -> Seq {
        self.announced
    }

    /// Greatest time heard of, in a stamp or a beacon.
    pub fn seen(&self) -> Time {
        self.seen
    }

    /// Why the stream takes nothing more, if so.
    pub fn error(&self) -> Option<StreamError> {
        self.error
    }

    /// Ends the stream with an error that its group found in what the run took in last; the tip goes back to where it was
    /// before.
    pub fn fail(&mut self, error: StreamError, tip: Time) {
        self.error.get_or_insert(error);
        self.floor = self.floor.min(tip);
    }

    /// Up to which time the stream is known to be complete.
    pub fn tip(&self) -> Time {
        self.floor
    }

    /// The slot of a number.
    fn index(&self, seq: Seq) -> usize {
        (seq.0.wrapping_sub(self.base.0) & self.mask) as usize
    }

    /// A fragment came. `ceiling` is the latest time that may be; `check` judges the head of a record not heard of
    /// before. Records that the run now reaches are appended to `ready` in
    /// order of their numbers; returns whether there were any.
    ///
    /// # Errors
    /// Why it was not taken; nothing changed then.
    pub fn accept(
        &mut self,
        fragment: &Fragment<'_>,
        ceiling: Time,
        check: impl FnOnce(&RecordHead) -> Result<(), FrameError>,
        memory: &mut impl Memory<Buf = B, Shared = S>,
        ready: &mut Vec<Record<S>>,
    ) -> Result<Accepted, FrameError> {
        let head = &fragment.head;
        let seq = head.stamp.seq;
        if fragment.epoch != self.epoch {
            return Err(FrameError::StaleEpoch);
        }
        if self.error.is_some() {
            return Err(FrameError::Closed);
        }
        debug_assert_eq!(head.stamp.stream, self.id);
        if seq <= self.run {
            return Err(FrameError::Duplicate);
        }
        if seq.0 - self.run.0 > self.window() {
            return Err(FrameError::OutsideWindow);
        }
        if head.stamp.time > ceiling {
            return Err(FrameError::Future);
        }
        let end = u64::from(fragment.offset) + fragment.body.len() as u64;
        let ends_payload = end == u64::from(head.payload_bytes);
        let aligned = fragment.offset.is_multiple_of(FRAGMENT_UNIT_BYTES)
            && (ends_payload || (end.is_multiple_of(u64::from(FRAGMENT_UNIT_BYTES)) && !fragment.body.is_empty()));
        if !aligned || end > u64::from(head.payload_bytes) || (fragment.body.is_empty() && head.payload_bytes > 0) {
            return Err(FrameError::Malformed);
        }

        self.reach(seq.0 - self.run.0);
        let index = self.index(seq);
        let slot = &mut self.slots[index];
        let mut charge_bytes = 0;
        let mut next = None;
        match slot {
            Some(slot) if slot.head() != head => return Err(FrameError::Contradicting),
            Some(Slot::Whole(_)) => return Err(FrameError::Duplicate),
            Some(Slot::Partial { buf, units, missing, .. }) => {
                if !copy_units(fragment, buf.as_mut(), units, missing) {
                    return Err(FrameError::Duplicate);
                }
            }
            None => {
                if head.payload_bytes > PAYLOAD_BYTES_MAX || head.kind.has_payload() != (head.payload_bytes > 0) {
                    return Err(FrameError::Malformed);
                }
                check(head)?;
                charge_bytes = head.charge_bytes();
                if fragment.body.len() == head.payload_bytes as usize {
                    let payload = match fragment.body {
                        [] => None,
                        body => {
                            let mut buf = memory.alloc(body.len()).ok_or(FrameError::NoMemory)?;
                            buf.as_mut()[..body.len()].copy_from_slice(body);
                            Some(memory.freeze(buf, body.len()))
                        }
                    };
                    let whole = Record { head: *head, payload };
                    // Nearly always: what comes in one piece and in order needs no slot.
                    if seq.0 == self.run.0 + 1 && head.stamp.time > self.floor {
                        next = Some(whole);
                    } else {
                        *slot = Some(Slot::Whole(whole));
                        self.filled += 1;
                    }
                } else {
                    let mut buf = memory.alloc(head.payload_bytes as usize).ok_or(FrameError::NoMemory)?;
                    let mut missing = head.payload_bytes.div_ceil(FRAGMENT_UNIT_BYTES);
                    let mut units = self.spare_units.pop().unwrap_or_default();
                    units.resize(missing.div_ceil(64) as usize, 0);
                    copy_units(fragment, buf.as_mut(), &mut units, &mut missing);
                    *slot = Some(Slot::Partial { head: *head, buf, units, missing });
                    self.filled += 1;
                }
            }
        }
        self.announced = self.announced.max(seq);
        self.seen = self.seen.max(head.stamp.time);
        if let Some(Slot::Partial { missing: 0, .. }) = slot
            && let Some(Slot::Partial { head, buf, mut units, .. }) = slot.take()
        {
            if units.spilled() && self.spare_units.len() < SPARE_UNITS_MAX {
                units.clear();
                self.spare_units.push(units);
            }
            let payload = memory.freeze(buf, head.payload_bytes as usize);
            *slot = Some(Slot::Whole(Record { head, payload: Some(payload) }));
        }
        let mut advanced = false;
        if let Some(record) = next {
            self.take_in(record, ready);
            advanced = true;
        }
        advanced |= self.advance(ready);
        Ok(Accepted { charge_bytes, advanced })
    }

    /// The run's next record.
    fn take_in(&mut self, record: Record<S>, ready: &mut Vec<Record<S>>) {
        let Stamped { seq, time } = Stamped::of(&record.head);
        ready.push(record);
        self.run = seq;
        self.floor = time;
        if let Some((time, seq)) = self.beacon
            && seq <= self.run
        {
            self.beacon = None;
            self.floor = self.floor.max(time);
        }
    }

    /// Moves whole records that continue the run out of the ring.
    fn advance(&mut self, ready: &mut Vec<Record<S>>) -> bool {
        let start = self.run;
        // An empty ring is not looked at: with many streams each look is at memory that is in no cache.
        while self.filled > 0 {
            let index = self.index(self.run.next());
            let slot = &mut self.slots[index];
            let Some(Slot::Whole(record)) = slot else { break };
            let Stamped { seq, time } = Stamped::of(&record.head);
            if time <= self.floor {
                self.error = Some(StreamError::NotRising { seq, time, floor: self.floor });
                break;
            }
            if let Some(Slot::Whole(record)) = slot.take() {
                self.filled -= 1;
                self.take_in(record, ready);
            }
        }
        self.run != start
    }

    /// "No record of mine at or before `time` has a number above `seq`." Returns whether the tip moved.
    ///
    /// # Errors
    /// [`FrameError::Future`] for a time that cannot be yet; it would hold back later streams for ever.
    pub fn beacon(&mut self, time: Time, seq: Seq, ceiling: Time) -> Result<bool, FrameError> {
        if self.error.is_some() {
            return Err(FrameError::Closed);
        }
        if time > ceiling {
            return Err(FrameError::Future);
        }
        self.announced = self.announced.max(seq);
        self.seen = self.seen.max(time);
        if seq < self.run {
            // An older beacon that was overtaken is harmless; one that denies a record that is there is not.
            if time > self.floor {
                self.error = Some(StreamError::Beacon { time, seq, run: self.run });
            }
            return Ok(false);
        }
        if seq == self.run {
            let moved = time > self.floor;
            self.floor = self.floor.max(time);
            return Ok(moved);
        }
        if self.beacon.is_none_or(|(newest, _)| time > newest) {
            self.beacon = Some((time, seq));
        }
        Ok(false)
    }

    /// Numbers above the run that are here whole and whose head is `wanted`, as ranges in order.
    pub fn whole_above_run(&self, wanted: impl Fn(&RecordHead) -> bool) -> Vec<RangeInclusive<u64>> {
        let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
        for ahead in 1..=self.slots.len() as u64 {
            let seq = Seq(self.run.0 + ahead);
            match &self.slots[self.index(seq)] {
                Some(Slot::Whole(record)) if wanted(&record.head) => push_number(&mut ranges, seq.0),
                _ => {}
            }
        }
        ranges
    }

    /// Heads of everything above the run that was heard of, whole or not.
    pub fn heads_above_run(&self) -> impl Iterator<Item = &RecordHead> {
        // Often none is filled, and there are many.
        self.slots.iter().flatten().take(self.filled).map(Slot::head)
    }
}

/// Appends a number to rising ranges.
pub(crate) fn push_number(ranges: &mut Vec<RangeInclusive<u64>>, number: u64) {
    match ranges.last_mut() {
        Some(last) if last.end().checked_add(1) == Some(number) => *last = *last.start()..=number,
        Some(last) if last.contains(&number) => {}
        _ => ranges.push(number..=number),
    }
}

/// What taking a fragment changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What the record counts, if this was its first fragment; else 0.
    pub charge_bytes: u64,
    /// Whether the run grew.
    pub advanced: bool,
}

struct Stamped {
    seq: Seq,
    time: Time,
}

impl Stamped {
    fn of(head: &RecordHead) -> Stamped {
        Stamped { seq: head.stamp.seq, time: head.stamp.time }
    }
}

/// Copies the units of the fragment that are not there yet; returns whether there were any. The fragment's bounds were
/// checked against the record's length, which `payload` has.
fn copy_units(fragment: &Fragment<'_>, payload: &mut [u8], units: &mut [u64], missing: &mut u32) -> bool {
    let unit_bytes = FRAGMENT_UNIT_BYTES as usize;
    let first = fragment.offset as usize / unit_bytes;
    let count = fragment.body.len().div_ceil(unit_bytes);
    let known: u32 = words(first, count).map(|(word, mask)| (units[word] & mask).count_ones()).sum();
    if known == 0 {
        // Nearly always: one copy.
        let at = first * unit_bytes;
        payload[at..at + fragment.body.len()].copy_from_slice(fragment.body);
    } else {
        for (index, bytes) in fragment.body.chunks(unit_bytes).enumerate() {
            let unit = first + index;
            if units[unit / 64] & (1 << (unit % 64)) == 0 {
                let at = unit * unit_bytes;
                payload[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
    for (word, mask) in words(first, count) {
        units[word] |= mask;
    }
    let new = count as u32 - known;
    *missing -= new;
    new > 0
}

/// The bits `first..first + count` as (word, mask).
fn words(first: usize, count: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = first + count;
    (first / 64..end.div_ceil(64)).map(move |word| {
        let low = first.max(word * 64) - word * 64;
        let high = end.min(word * 64 + 64) - word * 64;
        let mask = if high - low == 64 { u64::MAX } else { ((1 << (high - low)) - 1) << low };
        (word, mask)
    })
}
