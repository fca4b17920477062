//! How the segments are published: a list that grows at its end by compare-and-swap, and whose beginning goes when the
//! last reader has passed it.

use std::ptr;

use super::segment::Segment;
use crate::sync::{Arc, AtomicPtr, Ordering};

/// A published segment. Immutable but for `next`, which is set once.
pub(super) struct Node {
    pub(super) segment: Segment,
    /// Null, or one strong count of the next node's `Arc`.
    next: AtomicPtr<Node>,
}

impl Node {
    pub(super) fn new(segment: Segment) -> Arc<Node> {
        Arc::new(Node { segment, next: AtomicPtr::new(ptr::null_mut()) })
    }

    /// The next node, if it has been decided.
    pub(super) fn next(&self) -> Option<Arc<Node>> {
        // Acquire: the node's content comes with its address.
        let next = self.next.load(Ordering::Acquire);
        if next.is_null() {
            return None;
        }
        // SAFETY: not null, so it came from `Arc::into_raw` in `decide_next` and this node holds one of its strong counts,
        // until this node is dropped; `self` is borrowed, so that is not yet.
        unsafe {
            Arc::increment_strong_count(next);
            Some(Arc::from_raw(next))
        }
    }

    /// Proposes what comes next; gives what was decided, by this call or an earlier one. Never waits.
    pub(super) fn decide_next(&self, proposal: Segment) -> Arc<Node> {
        let last = &self.segment;
        assert!(
            proposal.start == last.end && proposal.base_ns == last.time_ns(last.end),
            "the timeline would step: {last:?}, then {proposal:?}"
        );
        let mine = Arc::into_raw(Node::new(proposal)).cast_mut();
        match self.next.compare_exchange(ptr::null_mut(), mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {}
            // SAFETY: made by `Arc::into_raw` above, and nobody else has seen it.
            Err(_) => drop(unsafe { Arc::from_raw(mine) }),
        }
        self.next().expect("decided just now, and never taken back")
    }

    /// Takes the next node out, for the last holder of this one.
    fn take_next(&mut self) -> Option<Arc<Node>> {
        // Nobody else holds `self`; what others wrote came with the last count of its `Arc`.
        let next = self.next.swap(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: if not null it came from `Arc::into_raw`, and the strong count that this node held passes to the result.
        (!next.is_null()).then(|| unsafe { Arc::from_raw(next) })
    }
}

impl Drop for Node {
    /// One after the other, not one inside the other: a reader that slept for a day drops a million nodes.
    fn drop(&mut self) {
        let mut next = self.take_next();
        while let Some(node) = next {
            next = Arc::try_unwrap(node).ok().and_then(|mut node| node.take_next());
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    #[test]
    fn loom_whoever_proposes_all_see_one_decision_and_every_node_is_freed() {
        loom::model(|| {
            let first = Node::new(Segment { start: 0, end: 10, base_ns: 0, rate: 1 << 32 });
            let threads: Vec<_> = [1u64, 2]
                .map(|rate| {
                    let first = first.clone();
                    loom::thread::spawn(move || {
                        let decided = first.decide_next(first.segment.next(10, rate << 32));
                        drop(first);
                        let then = decided.decide_next(decided.segment.next(10, rate << 32));
                        (decided.segment, then.segment)
                    })
                })
                .into();
            drop(first);
            let seen: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            assert_eq!(seen[0], seen[1]);
        });
    }
}
