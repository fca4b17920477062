//! What of the spill is still needed, from its tail on.

use crate::journal::Point;
use crate::types::{Epoch, Seq, StreamId};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Notes at most, about: each stands for the blocks of this part of the circle.
const NOTES: u64 = 1024;

/// A stretch of whole blocks.
struct Note {
    /// Where it begins.
    start: u64,
    end: Point,
    /// Place behind its last entry.
    place: u64,
    /// Its last number of each stream.
    last: SmallVec<[(StreamId, Epoch, Seq); 2]>,
}

/// The log's blocks from the tail on, in order.
pub(super) struct Tail {
    notes: VecDeque<Note>,
    stretch: u64,
    /// Everything before is not needed any more.
    freed: Option<Point>,
}

impl Tail {
    pub(super) fn new(capacity: u64) -> Tail {
        Tail { notes: VecDeque::new(), stretch: (capacity / NOTES).max(1), freed: None }
    }

    /// Entries of the block that ends at the point, the last of them before `place`. May be called several times for a
    /// block.
    pub(super) fn add(&mut self, end: Point, place: u64, entries: impl IntoIterator<Item = (StreamId, Epoch, Seq)>) {
        let joins = self
            .notes
            .back()
            .is_some_and(|note| end.position == note.end.position || end.position - note.start <= self.stretch);
        if !joins {
            let start = self.notes.back().map_or(end.position, |note| note.end.position);
            self.notes.push_back(Note { start, end, place, last: SmallVec::new() });
        }
        let Some(note) = self.notes.back_mut() else { return };
        (note.end, note.place) = (end, place);
        for (stream, epoch, seq) in entries {
            match note.last.iter_mut().find(|(known, ..)| *known == stream) {
                Some(known) => (known.1, known.2) = (known.1, known.2).max((epoch, seq)),
                None => note.last.push((stream, epoch, seq)),
            }
        }
    }

    /// Drops what is before the place `discarded` or all of which the secondary has.
    pub(super) fn release(&mut self, discarded: u64, has: impl Fn(StreamId, Epoch, Seq) -> bool) {
        while let Some(note) = self.notes.front() {
            let is_needed = note.place > discarded && !note.last.iter().all(|(id, epoch, seq)| has(*id, *epoch, *seq));
            if is_needed {
                break;
            }
            self.freed = Some(note.end);
            self.notes.pop_front();
        }
    }

    /// The stream's records are not needed.
    pub(super) fn forget(&mut self, stream: StreamId) {
        for note in &mut self.notes {
            note.last.retain(|(id, ..)| *id != stream);
        }
    }

    /// Up to where nothing is needed, if that moved since the opening.
    pub(super) fn freed(&self) -> Option<Point> {
        self.freed
    }

    #[cfg(test)]
    pub(super) fn notes(&self) -> usize {
        self.notes.len()
    }
}
