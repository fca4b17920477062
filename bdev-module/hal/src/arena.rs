//! DMA memory: one mapping per core, cut into blocks by a buddy allocator that only its owner touches.
//!
//! A [`Buf`] is the only reference to its block and may be written; [`Buf::freeze`] turns it into a [`Shared`], which any
//! number of threads may read and hand on. The last reference to go gives the block back: on the owner's thread straight
//! to the free lists, on any other through a queue which has a place for every block there is, so it is never full and no
//! thread ever waits for another. The mapping lives until the arena's handles and all its buffers are gone.
//!
//! What this gives up: sizes are rounded up to powers of two, and a block is reused without being cleared. Memory is never
//! uninitialised (the kernel maps zeroes), but a new `Buf` may hold what an earlier one held: who sends or stores a `Buf`
//! fills it first.

mod buddy;
mod buf;
mod map;
#[cfg(all(test, not(loom)))]
mod tests;

use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;

use buddy::Buddy;
pub use buf::{Buf, Shared};
use map::Mapping;

/// A huge page on the machines this runs on; arenas are sized in these.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// How large an arena is and how it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaConfig {
    /// Size in bytes, rounded up to whole huge pages. Sum up the arena's users to get it.
    pub bytes: usize,
    /// The smallest block in bytes: a power of two from 512 to 4096. A block of 512 bytes costs 29 bytes of bookkeeping.
    pub min_block_bytes: usize,
    /// Touch every page at start, so that no page fault comes later. Costs about 0.3 s per GiB.
    pub populate: bool,
}

impl ArenaConfig {
    /// An arena of `bytes` with blocks down to 512 bytes, its pages mapped when first touched.
    pub const fn new(bytes: usize) -> ArenaConfig {
        ArenaConfig { bytes, min_block_bytes: 512, populate: false }
    }
}

/// Why an arena could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    #[error("arena of {bytes} bytes: give between 1 and {max} bytes")]
    Size { bytes: usize, max: usize },
    #[error("smallest arena block of {got} bytes: it must be 512, 1024, 2048 or 4096")]
    MinBlock { got: usize },
    #[error(
        "no memory for an arena of {bytes} bytes ({source}): lower the configured memory or free some on this machine"
    )]
    Map { bytes: usize, source: std::io::Error },
}

/// What an arena holds at a moment, in bytes; `free_bytes + used_bytes == total_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaStats {
    pub total_bytes: usize,
    pub free_bytes: usize,
    pub used_bytes: usize,
    /// Allocations refused since the start because no block was large enough.
    pub refused: u64,
    /// Is the mapping made of huge pages?
    pub huge_pages: bool,
}

/// The owner's handle. Neither `Send` nor `Sync`: the thread that makes an arena is its owner for good. Cloning gives
/// another handle for the same thread (a reactor's modules each keep one).
#[derive(Clone)]
pub struct Arena {
    inner: Arc<Inner>,
    /// Keeps the handle on the owner's thread.
    _owner: PhantomData<*mut ()>,
}

/// What handles and buffers share.
struct Inner {
    mapping: Mapping,
    min_block_bytes: usize,
    /// References to the block that starts at this index; 0 when it is free.
    refs: Box<[AtomicU32]>,
    /// Blocks whose last reference went on a foreign thread.
    returned: ArrayQueue<u32>,
    /// [`thread_token`] of the owner.
    owner: u64,
    /// The free lists: touched by the owner's thread only, and never across a call out of this module.
    buddy: UnsafeCell<Buddy>,
    refused: Cell<u64>,
}

// SAFETY: `buddy` and `refused` are touched only after `thread_token()` was found equal to `owner` (in `Inner::release`)
// or through `Arena`, which is neither Send nor Sync and so stays on the owner's thread. All else is Sync by itself:
// `mapping` hands out addresses only, whose bytes are governed by `Buf` and `Shared`.
unsafe impl Sync for Inner {}
// SAFETY: dropping on another thread drops plain memory and unmaps; nothing is bound to the owner's thread.
unsafe impl Send for Inner {}

/// How many returned blocks one allocation takes back at most, so that its cost is bounded.
const RECLAIM_PER_ALLOC: usize = 32;
/// Above this, indices of 512-byte blocks would not fit in 32 bits.
const ARENA_BYTES_MAX: usize = 1 << 40;

impl Arena {
    /// Maps an arena; the calling thread becomes its owner. Takes huge pages if the machine has enough of them, else
    /// normal pages and a [`notice`](Arena::notice).
    pub fn new(config: ArenaConfig) -> Result<Arena, ArenaError> {
        let ArenaConfig { bytes, min_block_bytes, populate } = config;
        if bytes == 0 || bytes > ARENA_BYTES_MAX {
            return Err(ArenaError::Size { bytes, max: ARENA_BYTES_MAX });
        }
        if !min_block_bytes.is_power_of_two() || !(512..=4096).contains(&min_block_bytes) {
            return Err(ArenaError::MinBlock { got: min_block_bytes });
        }
        let bytes = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        let mapping = Mapping::new(bytes, populate).map_err(|source| ArenaError::Map { bytes, source })?;
        let blocks = bytes / min_block_bytes;
        let inner = Inner {
            mapping,
            min_block_bytes,
            refs: (0..blocks).map(|_| AtomicU32::new(0)).collect(),
            returned: ArrayQueue::new(blocks),
            owner: thread_token(),
            buddy: UnsafeCell::new(Buddy::new(blocks as u32)),
            refused: Cell::new(0),
        };
        Ok(Arena { inner: Arc::new(inner), _owner: PhantomData })
    }

    /// A sentence for the operator when the arena could not have huge pages.
    pub fn notice(&self) -> Option<&str> {
        self.inner.mapping.notice.as_deref()
    }

    /// A buffer of `bytes`, or `None` when no free block is large enough: the caller's documented next step follows.
    ///
    /// Aligned to its size rounded up to a power of two, at most to 2 MiB; so every buffer of 4096 bytes and more suits
    /// direct I/O. The content is whatever was there before. No system call, no heap allocation.
    pub fn alloc(&self, bytes: usize) -> Option<Buf> {
        let inner = &self.inner;
        inner.reclaim(RECLAIM_PER_ALLOC);
        let blocks = bytes.max(1).div_ceil(inner.min_block_bytes).checked_next_power_of_two()?;
        let order = blocks.trailing_zeros();
        // SAFETY: an `Arena` stays on the owner's thread, and `Buddy` calls nothing outside itself: the only reference.
        let index = match unsafe { &mut *inner.buddy.get() }.alloc(order) {
            Some(index) => index,
            None => {
                inner.reclaim(usize::MAX);
                // SAFETY: as above; `reclaim` has returned.
                match unsafe { &mut *inner.buddy.get() }.alloc(order) {
                    Some(index) => index,
                    None => {
                        inner.refused.set(inner.refused.get() + 1);
                        return None;
                    }
                }
            }
        };
        let was = inner.refs[index as usize].swap(1, Ordering::Relaxed);
        assert_eq!(was, 0, "a free block had references");
        Some(Buf::from_arena(Arc::clone(inner), index, bytes, blocks * inner.min_block_bytes))
    }

    /// The arena's memory as a whole, for what registers it with the kernel; any thread may have it.
    pub fn region(&self) -> Region {
        Region(Arc::clone(&self.inner))
    }

    /// What is free and used now, blocks on their way back counted as free.
    pub fn stats(&self) -> ArenaStats {
        self.inner.reclaim(usize::MAX);
        // SAFETY: an `Arena` stays on the owner's thread, and no other reference is live here.
        let free_blocks = unsafe { &*self.inner.buddy.get() }.free_blocks() as usize;
        let total_bytes = self.inner.mapping.bytes;
        let free_bytes = free_blocks * self.inner.min_block_bytes;
        ArenaStats {
            total_bytes,
            free_bytes,
            used_bytes: total_bytes - free_bytes,
            refused: self.inner.refused.get(),
            huge_pages: self.inner.mapping.huge,
        }
    }
}

/// All the memory of an arena, which it keeps mapped. Gives no access to a byte of it.
#[derive(Clone)]
pub struct Region(Arc<Inner>);

impl Region {
    pub(crate) fn base(&self) -> *mut u8 {
        self.0.mapping.base.as_ptr()
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.mapping.bytes
    }

    /// Where in the region the buffer lies, or `None` if it is not of this arena.
    pub(crate) fn offset(&self, buf: &Buf) -> Option<usize> {
        let offset = buf.as_ptr().addr().checked_sub(self.base().addr())?;
        (offset < self.bytes()).then_some(offset)
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena")
            .field("bytes", &self.inner.mapping.bytes)
            .field("huge", &self.inner.mapping.huge)
            .finish()
    }
}

impl Inner {
    /// Takes up to `at_most` returned blocks back into the free lists. Owner's thread only.
    fn reclaim(&self, at_most: usize) {
        for _ in 0..at_most {
            let Some(index) = self.returned.pop() else { return };
            // SAFETY: called through `Arena` only, so on the owner's thread; no other reference is live.
            unsafe { &mut *self.buddy.get() }.free(index);
        }
    }

    /// Where block `index` starts.
    fn address(&self, index: u32) -> NonNull<u8> {
        let offset = index as usize * self.min_block_bytes;
        assert!(offset < self.mapping.bytes);
        // SAFETY: the offset is inside the mapping, so the sum is inside one allocation and not null.
        unsafe { self.mapping.base.add(offset) }
    }

    /// Takes a block whose last reference is gone. Any thread.
    fn release(&self, index: u32) {
        if thread_token() == self.owner {
            // SAFETY: this is the owner's thread, and neither `Buddy` nor `Arena` drop a buffer while they hold a
            // reference to the lists: the only one.
            unsafe { &mut *self.buddy.get() }.free(index);
        } else {
            // Each entry is another block that is not free, and the queue has a place for each block.
            assert!(self.returned.push(index).is_ok(), "more blocks returned than there are");
        }
    }
}

/// A number that no other thread of this process has or ever had; 0 while a thread's locals are being destroyed, which
/// then counts as foreign everywhere.
fn thread_token() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static TOKEN: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    TOKEN.try_with(|token| *token).unwrap_or(0)
}
