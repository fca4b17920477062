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

/// What each thread's heap takes of the address space when it begins, and what is given as a block of its own from then on: half
/// of what glibc lets a thread's heap be.
const STEP_BYTES: libc::c_int = 32 << 20;

/// Has the system's allocator take memory in large steps and keep it, for threads that are made from now on.
///
/// Every page that a thread's heap grows by is else an `mprotect`, and that waits for whoever has the process's address space
/// locked. *The kernel thread that makes huge pages held it, at the lowest priority, on processors on which reactors polled: a
/// secondary stood still for three seconds, once in ten runs on a machine whose memory was full of cached files.* Costs address
/// space, not memory. Does nothing where the C library is not glibc.
pub fn keep_memory() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        (libc::M_TOP_PAD, STEP_BYTES),
        (libc::M_MMAP_THRESHOLD, STEP_BYTES),
        // Nothing is given back.
        (libc::M_TRIM_THRESHOLD, libc::c_int::MAX),
    ] {
        // SAFETY: sets a number of the allocator's, which locks for it.
        // JUSTIFICATION: there is no safe way to it, and the one by the environment has to be known to whoever starts the program.
        unsafe { libc::mallopt(option, value) };
    }
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

#[cfg(all(test, not(loom), target_env = "gnu"))]
mod tests {
    use super::*;

    /// Bytes of the mapping that this is in, which may be read and written.
    fn mapped_around<T>(what: &T) -> usize {
        let at = std::ptr::from_ref(what).addr();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let of = |line: &str| {
            let (range, rights) = line.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            let (from, to) = (number(from)?, number(to)?);
            (rights.starts_with("rw") && (from..to).contains(&at)).then_some(to - from)
        };
        maps.lines().find_map(of).expect("what is on the heap is mapped")
    }

    #[test]
    fn a_thread_s_heap_has_room_from_the_start() {
        keep_memory();
        // Threads take turns with heaps that are there; so many at a time that some are new.
        let barrier = std::sync::Barrier::new(64);
        let largest = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..64)
                .map(|_| {
                    scope.spawn(|| {
                        let there = Box::new([1u8; 100]);
                        barrier.wait();
                        mapped_around(&*there)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).max()
        });
        assert!(largest >= Some(STEP_BYTES as usize), "{largest:?}");
    }
}
