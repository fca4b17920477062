//! Views of a block: [`Buf`], the only one and writable, and [`Shared`], one of many and immutable.

use std::fmt;
use std::ops::{Bound, Deref, DerefMut, RangeBounds};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::Inner;

/// One counted reference to a block of memory.
enum Block {
    /// A block of an arena. The block's references together own one strong count of the `Arc<Inner>` this came from.
    Arena { inner: NonNull<Inner>, index: u32 },
    /// Memory of the heap, for the control plane and for tests.
    Heap(NonNull<HeapBlock>),
    /// Constant bytes: nothing to count.
    Static,
}

struct HeapBlock {
    refs: AtomicU32,
    /// Kept to be freed; read and written through the views' pointers only.
    bytes: *mut [u8],
}

impl Drop for HeapBlock {
    fn drop(&mut self) {
        // SAFETY: `bytes` came from `Box::into_raw` in `Buf::from_vec`, and the last view is gone.
        drop(unsafe { Box::from_raw(self.bytes) });
    }
}

impl Block {
    fn refs(&self) -> Option<&AtomicU32> {
        match self {
            // SAFETY: this reference keeps the block's strong count of `Inner`, so it is alive.
            Block::Arena { inner, index } => Some(&unsafe { inner.as_ref() }.refs[*index as usize]),
            // SAFETY: the heap block lives until its last reference is dropped, and this is one.
            Block::Heap(heap) => Some(&unsafe { heap.as_ref() }.refs),
            Block::Static => None,
        }
    }
}

impl Clone for Block {
    fn clone(&self) -> Block {
        if let Some(refs) = self.refs() {
            let was = refs.fetch_add(1, Ordering::Relaxed);
            // Two thousand million leaked references would wrap the count: stop long before.
            assert!(was < u32::MAX / 2, "a buffer has too many references");
        }
        match self {
            Block::Arena { inner, index } => Block::Arena { inner: *inner, index: *index },
            Block::Heap(heap) => Block::Heap(*heap),
            Block::Static => Block::Static,
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(refs) = self.refs() else { return };
        // Release: what this thread read or wrote comes before the block's next use.
        if refs.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Acquire: and what every other thread did before it dropped its reference, too.
        fence(Ordering::Acquire);
        match self {
            Block::Arena { inner, index } => {
                // SAFETY: `Buf::from_arena` gave up one strong count for this block's references together; the last of
                // them takes it back, once.
                let inner = unsafe { Arc::from_raw(inner.as_ptr().cast_const()) };
                inner.release(*index);
            }
            // SAFETY: made by `Box::into_raw` in `Buf::from_vec`; this was the last reference.
            Block::Heap(heap) => drop(unsafe { Box::from_raw(heap.as_ptr()) }),
            Block::Static => {}
        }
    }
}

/// A block of memory with one holder, who may write it. `len` bytes are in view, up to `capacity`.
///
/// Dereferences to `[u8]`. May be dropped on any thread.
pub struct Buf {
    block: Block,
    ptr: NonNull<u8>,
    len: usize,
    capacity: usize,
}

// SAFETY: a `Buf` is the only access to its bytes, its count is atomic, and `Inner::release` accepts any thread.
unsafe impl Send for Buf {}
// SAFETY: `&Buf` only reads.
unsafe impl Sync for Buf {}

impl Buf {
    /// Takes block `index`, whose count the arena has set to 1.
    pub(super) fn from_arena(inner: Arc<Inner>, index: u32, len: usize, capacity: usize) -> Buf {
        debug_assert!(len <= capacity);
        let ptr = inner.address(index);
        // SAFETY: `Arc::into_raw` is never null.
        let inner = unsafe { NonNull::new_unchecked(Arc::into_raw(inner).cast_mut()) };
        Buf { block: Block::Arena { inner, index }, ptr, len, capacity }
    }

    /// A buffer on the heap with the vector's bytes: for the control plane and for tests. Aligned to nothing, so not for
    /// direct I/O. One heap allocation (two if the vector has spare capacity).
    pub fn from_vec(bytes: Vec<u8>) -> Buf {
        let len = bytes.len();
        let bytes = Box::into_raw(bytes.into_boxed_slice());
        // SAFETY: `Box::into_raw` is never null.
        let ptr = unsafe { NonNull::new_unchecked(bytes.cast::<u8>()) };
        let heap = Box::new(HeapBlock { refs: AtomicU32::new(1), bytes });
        // SAFETY: as above.
        let heap = unsafe { NonNull::new_unchecked(Box::into_raw(heap)) };
        Buf { block: Block::Heap(heap), ptr, len, capacity: len }
    }

    /// Bytes in view.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is nothing in view?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that can be brought into view by [`set_len`](Buf::set_len).
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Shortens the view; does nothing if it is not longer than `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Puts the first `len` bytes in view, whatever they hold.
    ///
    /// # Panics
    /// If `len` is above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "length {len} above the buffer's capacity {}", self.capacity);
        self.len = len;
    }

    /// Makes the bytes in view immutable and shareable. Free of cost.
    pub fn freeze(self) -> Shared {
        let Buf { block, ptr, len, .. } = self;
        Shared { block, ptr, len }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: ptr..ptr + len lies in the block (len <= capacity), the block is initialised and lives as long as
        // `self.block`, and nobody else can write it.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and a `Buf` is its block's only reference, held exclusively here.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for Buf {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} of {} bytes)", self.len, self.capacity)
    }
}

/// An immutable view of a block that others may view too. Cloning and slicing count one reference, no copy, no heap.
///
/// Dereferences to `[u8]`. May be sent to, read on and dropped on any thread.
#[derive(Clone)]
pub struct Shared {
    block: Block,
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes are immutable while any `Shared` exists, the count is atomic, and `Inner::release` accepts any thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Constant bytes (zeroes, a fixed header), never freed.
    pub const fn from_static(bytes: &'static [u8]) -> Shared {
        // SAFETY: a reference is never null. The pointer is only ever read through.
        let ptr = unsafe { NonNull::new_unchecked(bytes.as_ptr().cast_mut()) };
        Shared { block: Block::Static, ptr, len: bytes.len() }
    }

    /// Bytes in view.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is nothing in view?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A view of a part of this view.
    ///
    /// # Panics
    /// If the range is not within `0..len`.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Shared {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len,
        };
        assert!(start <= end && end <= self.len, "slice {start}..{end} of {} bytes", self.len);
        // SAFETY: start is within the view, so within the block.
        let ptr = unsafe { self.ptr.add(start) };
        Shared { block: self.block.clone(), ptr, len: end - start }
    }

    /// The whole block as a `Buf` again if this is its only reference (the view becomes this one's), else itself.
    pub fn try_into_buf(self) -> Result<Buf, Shared> {
        match self.block.refs() {
            // Acquire: what other threads read before they dropped their references comes before our writes.
            Some(refs) if refs.load(Ordering::Acquire) == 1 => {
                let Shared { block, ptr, len } = self;
                Ok(Buf { block, ptr, len, capacity: len })
            }
            _ => Err(self),
        }
    }
}

impl Deref for Shared {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: ptr..ptr + len lies in the block, which is initialised, lives as long as `self.block` and is written by
        // nobody while a `Shared` exists.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Shared {
    fn from(bytes: Vec<u8>) -> Shared {
        Buf::from_vec(bytes).freeze()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} bytes)", self.len)
    }
}
