//! Overlap order: of writes that share a block, one is in flight at a time, in order of arrival.
//!
//! Else the local device and the secondary could settle the two in different orders (design section 3, step 3).
//!
//! A map from blocks to the write that came last for them cuts the volume into segments. A new write waits for the
//! owners of the segments that it touches, and becomes their owner; an older write below one of these is waited for by
//! way of it. Each write adds at most two segments net, so arrival and release look up O(1 + k) of them for k neighbours
//! that they touch.

use crate::sorted::Sorted;
use crate::types::Extent;
use slab::Slab;

/// A write in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(usize);

#[derive(Debug)]
struct Entry<T> {
    extent: Extent,
    value: T,
    /// How many owners of its blocks came before and are not released.
    waits_for: usize,
    /// Who waits for this one: the first and the last of a list in [`OverlapQueue::waits`], in order of arrival.
    followers: Option<(usize, usize)>,
    /// How many segments of the map it owns.
    segments: usize,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    end: u64,
    owner: usize,
}

/// That one write waits for another.
#[derive(Clone, Copy, Debug)]
struct Wait {
    follower: usize,
    /// The next one that waits for the same.
    next: Option<usize>,
}

/// The writes of one volume that are in flight or wait for an overlapping one; `T` names a write for its owner.
#[derive(Debug)]
pub struct OverlapQueue<T> {
    entries: Slab<Entry<T>>,
    /// First block -> segment. Segments do not overlap.
    segments: Sorted<u64, Segment>,
    /// All lists of followers. One store, so that none of them is memory that comes and goes.
    waits: Slab<Wait>,
}

impl<T> Default for OverlapQueue<T> {
    fn default() -> Self {
        OverlapQueue { entries: Slab::new(), segments: Sorted::default(), waits: Slab::new() }
    }
}

impl<T: Copy> OverlapQueue<T> {
    /// Empty.
    pub fn new() -> OverlapQueue<T> {
        OverlapQueue::default()
    }

    /// A write arrives. `true`: nothing that it overlaps is before it, it may start. `false`: a later
    /// [`OverlapQueue::release`] names it.
    #[must_use]
    pub fn arrive(&mut self, extent: Extent, value: T) -> (Place, bool) {
        let (start, end) = (extent.lba, extent.end());
        assert!(start < end, "an extent has at least one block");
        let place = self.entries.insert(Entry { extent, value, waits_for: 0, followers: None, segments: 1 });
        // Nearly always nothing is there, and one search tells.
        let at = self.segments.place(start);
        let before = at.checked_sub(1).and_then(|before| self.segments.at(before));
        let is_free = before.is_none_or(|(_, segment)| segment.end <= start)
            && self.segments.at(at).is_none_or(|(first, _)| first >= end);
        if is_free {
            self.segments.insert_at(at, start, Segment { end, owner: place });
            return (Place(place), true);
        }
        self.cut_at(start);
        self.cut_at(end);
        let mut waits_for = 0;
        let next = |segments: &Sorted<u64, Segment>| segments.from(start).next().filter(|(first, _)| *first < end);
        while let Some((first, segment)) = next(&self.segments) {
            self.segments.remove(first);
            self.entries[segment.owner].segments -= 1;
            waits_for += usize::from(self.follow(segment.owner, place));
        }
        self.segments.insert(start, Segment { end, owner: place });
        self.entries[place].waits_for = waits_for;
        (Place(place), waits_for == 0)
    }

    /// A write that had started is over. Calls `start` for each that may start now, in order of arrival.
    pub fn release(&mut self, place: Place, mut start: impl FnMut(T)) {
        let entry = self.entries.remove(place.0);
        assert_eq!(entry.waits_for, 0, "released before it was allowed to start");
        let mut at = if entry.segments > 0 { self.segments.place(entry.extent.lba) } else { 0 };
        for _ in 0..entry.segments {
            while self.segments.at(at).expect("a write owns as many segments as it counts").1.owner != place.0 {
                at += 1;
            }
            self.segments.remove_at(at);
        }
        let mut next = entry.followers.map(|(first, _)| first);
        while let Some(at) = next {
            let wait = self.waits.remove(at);
            next = wait.next;
            let waiting = &mut self.entries[wait.follower];
            waiting.waits_for -= 1;
            if waiting.waits_for == 0 {
                start(waiting.value);
            }
        }
    }

    /// How many writes are in flight or wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The write that arrives waits for `owner`. `false`: it does already, for another segment of the same.
    fn follow(&mut self, owner: usize, arriving: usize) -> bool {
        let followers = &mut self.entries[owner].followers;
        // As it is new, it can only be the last.
        if followers.is_some_and(|(_, last)| self.waits[last].follower == arriving) {
            return false;
        }
        let wait = self.waits.insert(Wait { follower: arriving, next: None });
        *followers = match *followers {
            None => Some((wait, wait)),
            Some((first, last)) => {
                self.waits[last].next = Some(wait);
                Some((first, wait))
            }
        };
        true
    }

    /// Makes `at` the border of a segment, if it lies inside one.
    fn cut_at(&mut self, at: u64) {
        let Some((_, segment)) = self.segments.before_mut(at) else { return };
        if segment.end <= at {
            return;
        }
        let right = Segment { end: segment.end, owner: segment.owner };
        segment.end = at;
        self.entries[right.owner].segments += 1;
        self.segments.insert(at, right);
    }
}

#[cfg(test)]
mod tests;
