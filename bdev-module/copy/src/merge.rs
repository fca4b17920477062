//! The limit-time merge (claims 14 and 22-24): the limit is the earliest of the streams' tips; everything not later is
//! released, earliest first.
//!
//! The limit makes a window, so no record is ever compared with all the others' heads as in a tree or a heap over the
//! streams: what waits is kept in sorted runs of 16-byte keys, the window is the front of each run, and the records themselves
//! move twice, in and out, however many streams there are. `cargo bench -p longrun-benches --bench merge` has the figures.

mod keys;
mod shelf;
mod tips;

use crate::types::{Record, Stamp, StreamId, Time};
use keys::{Key, Run};
use shelf::Shelf;
use std::cmp::Ordering;
pub use tips::Tips;

#[cfg(test)]
mod tests;

/// What the merge orders.
pub trait Stamped {
    /// Its place in history.
    fn stamp(&self) -> Stamp;
}

impl<S> Stamped for Record<S> {
    fn stamp(&self) -> Stamp {
        self.head.stamp
    }
}

/// The limit time: the least tip. `None` without streams.
pub fn limit_of(tips: impl IntoIterator<Item = Time>) -> Option<Time> {
    tips.into_iter().min()
}

/// Records that are in their streams' runs and wait for the limit.
///
/// As in a log-structured tree: what came since the last limit is sorted by itself and becomes a run; a run that is not
/// longer than half of the one before is left, else the two are merged where they overlap. So there are at most
/// log2(records) runs, and a key is moved among them at most as often. Nothing is allocated once it has grown to what
/// waits at most.
#[derive(Debug)]
pub struct Waiting<R> {
    records: Shelf<R>,
    /// Since the last limit, in the order in which they came.
    fresh: Vec<Key>,
    /// None is empty; each is at most half as long as the one before.
    runs: Vec<Run>,
    /// What is released now; empty between two calls, as are the others below.
    window: Vec<Key>,
    scratch: Vec<Key>,
    /// For the next runs.
    spare: Vec<Vec<Key>>,
}

impl<R> Default for Waiting<R> {
    fn default() -> Self {
        Waiting {
            records: Shelf::default(),
            fresh: Vec::new(),
            runs: Vec::new(),
            window: Vec::new(),
            scratch: Vec::new(),
            spare: Vec::new(),
        }
    }
}

impl<R: Stamped> Waiting<R> {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &R> {
        self.records.iter()
    }

    /// One more waits. Its time is above every limit that was released, unless it was released and is put back.
    pub fn push(&mut self, record: R) {
        let time = record.stamp().time;
        let slot = self.records.insert(record);
        self.fresh.push(Key { time, slot });
    }

    /// Moves every record that is not later than `limit` to the end of `released`, in order of (time, stream).
    pub fn release(&mut self, limit: Time, released: &mut impl Extend<R>) {
        self.sort_fresh();
        let ties = ties(&self.records);
        // The shortest first, so that a key is moved as rarely as may be.
        for run in self.runs.iter_mut().rev() {
            let count = run.waiting().partition_point(|key| key.time <= limit);
            keys::merge_into(&mut self.window, &run.waiting()[..count], &mut self.scratch, ties);
            run.start += count;
        }
        self.drop_empty();
        let records = &mut self.records;
        released.extend(self.window.drain(..).filter_map(|key| records.remove(key.slot)));
    }

    /// Takes out what waits of one stream, in order of its numbers. Costs as much as there is in all.
    pub fn take_stream(&mut self, stream: StreamId) -> Vec<R> {
        self.sort_fresh();
        let is_its = |key: &Key| self.records.get(key.slot).is_some_and(|record| record.stamp().stream == stream);
        let mut taken: Vec<Key> = Vec::new();
        for run in &mut self.runs {
            run.keys.drain(..run.start);
            run.start = 0;
            taken.extend(run.keys.extract_if(.., |key| is_its(key)));
        }
        self.drop_empty();
        taken.sort_unstable_by_key(|key| key.time);
        taken.into_iter().filter_map(|key| self.records.remove(key.slot)).collect()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Waiting::default();
    }

    /// What came since the last limit becomes a run.
    fn sort_fresh(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let ties = ties(&self.records);
        keys::sort(&mut self.fresh, &mut self.scratch, ties);
        let keys = std::mem::replace(&mut self.fresh, self.spare.pop().unwrap_or_default());
        self.runs.push(Run { keys, start: 0 });
        while let [.., before, last] = &mut self.runs[..]
            && last.waiting().len() * 2 > before.waiting().len()
        {
            before.forget_released(last.waiting().first());
            keys::merge_into(&mut before.keys, last.waiting(), &mut self.scratch, ties);
            let emptied = self.runs.pop();
            self.spare.extend(emptied.map(Run::into_room));
        }
    }

    fn drop_empty(&mut self) {
        let emptied = self.runs.extract_if(.., |run| run.waiting().is_empty());
        self.spare.extend(emptied.map(Run::into_room));
    }
}

/// Which of two records of one time is first.
fn ties<R: Stamped>(records: &Shelf<R>) -> impl Fn(Key, Key) -> Ordering + Copy {
    let stamp_of = |key: Key| records.get(key.slot).map(R::stamp);
    move |a, b| stamp_of(a).cmp(&stamp_of(b))
}
