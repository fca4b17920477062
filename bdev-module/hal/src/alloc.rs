//! The system's allocator, with a count of how often each thread uses it.
//!
//! A program that takes [`Counting`] as its global allocator can show of each of its threads that it allocates nothing, at
//! the price of one addition in memory that is the thread's own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Needs no initialising and no dropping, so the allocator may use it at any time of a thread's life.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// How often the calling thread has allocated, reallocated and freed. 0 for ever if [`Counting`] is not the program's
/// allocator.
pub fn calls() -> u64 {
    CALLS.get()
}

/// The system's allocator, counted. `#[global_allocator] static ALLOCATOR: Counting = Counting;`
#[derive(Clone, Copy, Debug)]
pub struct Counting;

fn count() {
    CALLS.set(CALLS.get().wrapping_add(1));
}

// SAFETY: every call is handed to `System` as it came, and what it answers is handed back; counting touches neither.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, bytes) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}
