//! The limit-time merge (claims 14 and 22-24): the limit is the earliest of the streams' tips; everything not later is
//! released, earliest first.
//!
//! The limit makes a window: draining each stream up to it and sorting the window costs O(n log n) on contiguous memory
//! and beats a tree or heap over the streams; within a stream the records are in order already, which the sort's run
//! detection uses.

use crate::types::{Record, Stamp, Time};
use std::collections::VecDeque;

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

/// Moves every record that is not later than `limit` from the front of each list to the end of `window`, in order of
/// (time, stream). Each list must be in order of time, and nothing already in `window` is moved: the caller's limits
/// rise.
pub fn release<'a, R: Stamped + 'a>(
    lists: impl IntoIterator<Item = &'a mut VecDeque<R>>,
    limit: Time,
    window: &mut Vec<R>,
) {
    let start = window.len();
    for list in lists {
        let count = list.partition_point(|record| record.stamp().time <= limit);
        window.extend(list.drain(..count));
    }
    window[start..].sort_by_key(Stamped::stamp);
}
