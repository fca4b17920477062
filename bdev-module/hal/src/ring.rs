//! A bounded ring with one producer and one consumer: how cores talk.
//!
//! Each side keeps a copy of the other's cursor and looks at the real one only when the copy says full or empty, so a
//! batch costs one cache-line transfer, not one per item. Neither side ever waits: a full ring is a return value.
//!
//! What this gives up: one pair of cores per ring, so n cores need n(n-1) of them; and a peer that is gone is noticed by
//! asking ([`Producer::is_abandoned`]), not by an error at each push.

use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicBool, AtomicUsize, Ordering, UnsafeCell};

#[cfg(test)]
mod tests;

struct Core<T> {
    /// Slots with an index in `head..tail` (modulo the length, a power of two) hold items; the others hold nothing.
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Next index to take; written by the consumer only. Indices only rise and wrap with `usize`.
    head: CachePadded<AtomicUsize>,
    /// Next index to fill; written by the producer only.
    tail: CachePadded<AtomicUsize>,
    producer_gone: AtomicBool,
    consumer_gone: AtomicBool,
}

// SAFETY: a slot is touched by the producer alone while outside head..tail and by the consumer alone while inside; the
// Release store and Acquire load of the cursors hand it over. Items move from one thread to the other, hence `T: Send`.
unsafe impl<T: Send> Sync for Core<T> {}
// SAFETY: as above; the owner of a whole `Core` owns all items.
unsafe impl<T: Send> Send for Core<T> {}

impl<T> Drop for Core<T> {
    fn drop(&mut self) {
        let mut head = self.head.load(Ordering::Acquire);
        let tail = self.tail.load(Ordering::Acquire);
        while head != tail {
            let mask = self.slots.len() - 1;
            // SAFETY: both sides are gone, and slots in head..tail hold items that nobody took.
            self.slots[head & mask].with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// The end that puts in. `Send`, one holder.
pub struct Producer<T> {
    core: Arc<Core<T>>,
    tail: usize,
    /// The consumer's cursor as last seen: a lower bound.
    head_seen: usize,
}

/// The end that takes out. `Send`, one holder.
pub struct Consumer<T> {
    core: Arc<Core<T>>,
    head: usize,
    /// The producer's cursor as last seen: a lower bound.
    tail_seen: usize,
}

/// A ring with room for `capacity` items, rounded up to a power of two.
///
/// # Panics
/// If `capacity` is 0 or above 2^32.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!((1..=1 << 32).contains(&capacity), "a ring of {capacity} items");
    let core = Arc::new(Core {
        slots: (0..capacity.next_power_of_two()).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
        producer_gone: AtomicBool::new(false),
        consumer_gone: AtomicBool::new(false),
    });
    (Producer { core: Arc::clone(&core), tail: 0, head_seen: 0 }, Consumer { core, head: 0, tail_seen: 0 })
}

impl<T> Producer<T> {
    /// Free places, looked up afresh when fewer than `want` are known of.
    fn room(&mut self, want: usize) -> usize {
        let capacity = self.core.slots.len();
        let known = capacity - self.tail.wrapping_sub(self.head_seen);
        if known >= want {
            return known;
        }
        // Acquire: the consumer's move out of the slot comes before our write into it.
        self.head_seen = self.core.head.load(Ordering::Acquire);
        capacity - self.tail.wrapping_sub(self.head_seen)
    }

    /// Writes into the next slot without showing it yet. Needs room.
    fn fill(&mut self, item: T) {
        let mask = self.core.slots.len() - 1;
        // SAFETY: the caller made sure of room, so the slot at `tail` is outside head..tail: ours, and empty.
        self.core.slots[self.tail & mask].with_mut(|slot| unsafe {
            (*slot).write(item);
        });
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // Release: the items come before the cursor that shows them.
        self.core.tail.store(self.tail, Ordering::Release);
    }

    /// Puts one item in, or gives it back when the ring is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.room(1) == 0 {
            return Err(item);
        }
        self.fill(item);
        self.publish();
        Ok(())
    }

    /// Puts in as many items from the front of `items` as fit, shows them all at once, and says how many.
    pub fn push_batch(&mut self, items: &mut std::collections::VecDeque<T>) -> usize {
        let count = self.room(items.len()).min(items.len());
        for item in items.drain(..count) {
            self.fill(item);
        }
        if count > 0 {
            self.publish();
        }
        count
    }

    /// Places free now; more may become free at any time.
    pub fn free(&mut self) -> usize {
        self.room(usize::MAX)
    }

    /// Has the consumer been dropped? Items pushed since are dropped with the ring.
    pub fn is_abandoned(&self) -> bool {
        self.core.consumer_gone.load(Ordering::Acquire)
    }
}

impl<T> Consumer<T> {
    /// Items there, looked up afresh when fewer than `want` are known of.
    fn ready(&mut self, want: usize) -> usize {
        let known = self.tail_seen.wrapping_sub(self.head);
        if known >= want {
            return known;
        }
        // Acquire: the producer's write into the slots comes before our read of them.
        self.tail_seen = self.core.tail.load(Ordering::Acquire);
        self.tail_seen.wrapping_sub(self.head)
    }

    /// Moves the next item out without freeing its slot yet. Needs a ready item.
    fn take(&mut self) -> T {
        let mask = self.core.slots.len() - 1;
        // SAFETY: the caller saw an item at `head`, so the slot is inside head..tail: ours, and full. Moving the cursor on
        // makes sure that it is read once.
        let item = self.core.slots[self.head & mask].with_mut(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        item
    }

    fn publish(&self) {
        // Release: our reads of the slots come before the cursor that frees them.
        self.core.head.store(self.head, Ordering::Release);
    }

    /// Takes the oldest item.
    pub fn pop(&mut self) -> Option<T> {
        if self.ready(1) == 0 {
            return None;
        }
        let item = self.take();
        self.publish();
        Some(item)
    }

    /// Appends up to `at_most` of the oldest items to `out`, frees their places all at once, and says how many.
    pub fn pop_batch(&mut self, out: &mut Vec<T>, at_most: usize) -> usize {
        let count = self.ready(at_most).min(at_most);
        // Before the first move: an allocation that fails must not lose items.
        out.reserve(count);
        for _ in 0..count {
            let item = self.take();
            out.push(item);
        }
        if count > 0 {
            self.publish();
        }
        count
    }

    /// Is there nothing to take now? Looks at the producer's real cursor unless items are known of.
    pub fn is_empty(&mut self) -> bool {
        self.ready(1) == 0
    }

    /// Has the producer been dropped? Items it left can still be taken.
    pub fn is_abandoned(&self) -> bool {
        self.core.producer_gone.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.core.producer_gone.store(true, Ordering::Release);
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.core.consumer_gone.store(true, Ordering::Release);
    }
}

impl<T> std::fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Producer({} places)", self.core.slots.len())
    }
}

impl<T> std::fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Consumer({} places)", self.core.slots.len())
    }
}
