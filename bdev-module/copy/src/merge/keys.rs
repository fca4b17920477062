//! Sorting and merging what stands for the records: a time, and where the record is kept.

use crate::types::Time;
use std::cmp::Ordering;

/// Below this many keys a comparison sort is as fast.
const RADIX_MIN: usize = if cfg!(test) { 8 } else { 128 };

/// A record's time, and where it is kept. Its stream, which breaks ties, is read from there: ties are rare, and a key of
/// 16 bytes sorts faster than one of 24.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) time: Time,
    pub(super) slot: usize,
}

/// Keys in rising order; those before `start` are released.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) keys: Vec<Key>,
    pub(super) start: usize,
}

impl Run {
    pub(super) fn waiting(&self) -> &[Key] {
        &self.keys[self.start..]
    }

    /// Uses the room of what is released again, once that is more than what waits. And when a key that comes is not later
    /// than what is released: it is one that was put back. *It was merged among the released keys, which moved some of them
    /// behind `start`: they were looked up once more, and it was forgotten.*
    pub(super) fn forget_released(&mut self, first_new: Option<&Key>) {
        let last = self.keys[..self.start].last();
        let is_put_back = last.zip(first_new).is_some_and(|(last, new)| new.time <= last.time);
        if is_put_back || self.start * 2 > self.keys.len() {
            self.keys.drain(..self.start);
            self.start = 0;
        }
    }

    /// An empty list in the run's memory.
    pub(super) fn into_room(self) -> Vec<Key> {
        let mut room = self.keys;
        room.clear();
        room
    }
}

/// Sorts by time, and where times are equal by `ties`. `scratch` is empty before and after.
///
/// A network keeps most of the order: the keys that are later than all before them stay, and only the others are sorted and
/// merged among them. That gives up a pass over the keys where there was no order to keep.
pub(super) fn sort(keys: &mut [Key], scratch: &mut Vec<Key>, ties: impl Fn(Key, Key) -> Ordering + Copy) {
    let on_time = set_late_aside(keys, scratch);
    if !scratch.is_empty() {
        sort_all(scratch, &mut keys[on_time..], ties);
        merge_back(keys, on_time, scratch, ties);
        scratch.clear();
    }
}

/// Moves the keys that are not later than all before them to `late`, and the others together. How many those are; behind them
/// in `keys` is room.
fn set_late_aside(keys: &mut [Key], late: &mut Vec<Key>) -> usize {
    let (mut kept, mut latest) = (0, None);
    for at in 0..keys.len() {
        let key = keys[at];
        if Some(key.time) > latest {
            latest = Some(key.time);
            keys[kept] = key;
            kept += 1;
        } else {
            late.push(key);
        }
    }
    kept
}

/// Merges `late` among the first keys, from the back, where there is room for them.
fn merge_back(keys: &mut [Key], mut kept: usize, mut late: &[Key], ties: impl Fn(Key, Key) -> Ordering) {
    while let [late_rest @ .., last] = late {
        let is_late = kept == 0
            || last.time > keys[kept - 1].time
            || (last.time == keys[kept - 1].time && ties(*last, keys[kept - 1]).is_gt());
        let to = kept + late.len() - 1;
        if is_late {
            keys[to] = *last;
            late = late_rest;
        } else {
            keys[to] = keys[kept - 1];
            kept -= 1;
        }
    }
}

/// By digits of eight bits from the lowest, as many as the times differ in: three for 16 ms (Knuth, The Art of Computer Programming
/// 3, 5.2.5). What `room` holds, as many keys, is of no use before and after.
fn sort_all(keys: &mut [Key], room: &mut [Key], ties: impl Fn(Key, Key) -> Ordering) {
    if keys.len() < RADIX_MIN {
        keys.sort_unstable_by(|a, b| a.time.cmp(&b.time).then_with(|| ties(*a, *b)));
        return;
    }
    let least = keys.iter().map(|key| key.time.0).min().unwrap_or(0);
    let most = keys.iter().map(|key| key.time.0).max().unwrap_or(0);
    let digits = (u64::BITS - (most - least).leading_zeros()).div_ceil(8);
    let (mut from, mut to) = (&mut *keys, &mut *room);
    for digit in 0..digits {
        let digit_of = |key: &Key| ((key.time.0 - least) >> (digit * 8)) as u8 as usize;
        let mut ends = [0_usize; 256];
        for key in &*from {
            ends[digit_of(key)] += 1;
        }
        let mut end = 0;
        for count in &mut ends {
            end += std::mem::replace(count, end);
        }
        for key in &*from {
            let place = &mut ends[digit_of(key)];
            to[*place] = *key;
            *place += 1;
        }
        std::mem::swap(&mut from, &mut to);
    }
    if !digits.is_multiple_of(2) {
        keys.copy_from_slice(room);
    }
    for equal in keys.chunk_by_mut(|a, b| a.time == b.time).filter(|equal| equal.len() > 1) {
        equal.sort_unstable_by(|a, b| ties(*a, *b));
    }
}

/// Merges `from` into `into`, both in order. What of `into` is earlier than all of `from` stays where it is: nearly
/// everything, if the network nearly kept the order. `scratch` is empty before and after.
pub(super) fn merge_into(
    into: &mut Vec<Key>,
    from: &[Key],
    scratch: &mut Vec<Key>,
    ties: impl Fn(Key, Key) -> Ordering,
) {
    let Some(first) = from.first() else { return };
    let overlap = into.partition_point(|key| key.time < first.time);
    scratch.extend(into.drain(overlap..));
    let (mut left, mut right) = (scratch.as_slice(), from);
    while let ([a, left_rest @ ..], [b, right_rest @ ..]) = (left, right) {
        let is_left = a.time < b.time || (a.time == b.time && ties(*a, *b).is_lt());
        if is_left {
            into.push(*a);
            left = left_rest;
        } else {
            into.push(*b);
            right = right_rest;
        }
    }
    into.extend_from_slice(left);
    into.extend_from_slice(right);
    scratch.clear();
}
