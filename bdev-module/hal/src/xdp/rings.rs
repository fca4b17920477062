//! The four rings between a process and the kernel (Documentation/networking/af_xdp.rst): single producer, single consumer,
//! in memory mapped from the socket.

use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// One ring's mapping. Unmapped on drop: it holds the socket open as a descriptor does.
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `Shared::map` mapped; the pointers into it go with the ring that owns this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// What both kinds of ring see.
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _mapping: Mapping,
    _entries: PhantomData<T>,
}

// SAFETY: the pointers lead into a mapping that this owns, and which any thread may use.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// Maps a ring of `size` entries, a power of two, that was asked for by `setsockopt`.
    fn map(socket: RawFd, size: u32, page: libc::off_t, at: &libc::xdp_ring_offset) -> io::Result<Shared<T>> {
        assert!(size.is_power_of_two());
        let place = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
        let [producer, consumer, flags, entries] =
            [place(at.producer)?, place(at.consumer)?, place(at.flags)?, place(at.desc)?];
        let bytes = entries + size as usize * size_of::<T>();
        // The kernel says where things are; were it wrong, this is where it would be noticed.
        let whole = |offset: usize| offset + 4 <= bytes && offset.is_multiple_of(4);
        if !(whole(producer) && whole(consumer) && whole(flags) && entries.is_multiple_of(align_of::<T>())) {
            return Err(io::Error::other("the kernel's ring offsets lie outside of the ring"));
        }
        let (protection, flags_of_map) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping of the socket's ring at an address of the kernel's choice replaces nothing.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags_of_map, socket, page) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::other("the kernel mapped address 0"))?;
        let mapping = Mapping { base, bytes };
        // SAFETY: all offsets were found to be within the mapping, and aligned; a mapping begins at a page.
        unsafe {
            Ok(Shared {
                producer: base.add(producer).cast(),
                consumer: base.add(consumer).cast(),
                flags: base.add(flags).cast(),
                entries: base.add(entries).cast(),
                size,
                _mapping: mapping,
                _entries: PhantomData,
            })
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, which lives as long as `self`; the kernel too accesses it atomically only.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn entry(&self, number: u32) -> NonNull<T> {
        // SAFETY: the masked number is below the ring's size, for which the mapping was made.
        unsafe { self.entries.add((number & (self.size - 1)) as usize) }
    }

    /// Whether the kernel wants a call before it goes on (XDP_RING_NEED_WAKEUP).
    fn wants_call(&self) -> bool {
        // What was published must not pass this look: the kernel sets the flag, then looks at the ring once more.
        fence(Ordering::SeqCst);
        // SAFETY: as in `producer`.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that this process fills: fill, transmit.
pub(super) struct Producer<T> {
    ring: Shared<T>,
    /// What was written; the kernel sees it after [`Producer::publish`].
    written: u32,
}

impl<T: Copy> Producer<T> {
    pub(super) fn map(
        socket: RawFd,
        size: u32,
        page: libc::off_t,
        at: &libc::xdp_ring_offset,
    ) -> io::Result<Producer<T>> {
        let ring = Shared::map(socket, size, page, at)?;
        let written = ring.producer().load(Ordering::Relaxed);
        Ok(Producer { ring, written })
    }

    /// Entries that the kernel has not taken yet.
    pub(super) fn waiting(&self) -> u32 {
        self.written.wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
    }

    /// How many can be written.
    pub(super) fn room(&self) -> u32 {
        self.ring.size.saturating_sub(self.waiting())
    }

    /// Writes an entry; false if there was no room.
    pub(super) fn put(&mut self, entry: T) -> bool {
        if self.room() == 0 {
            return false;
        }
        // SAFETY: the entry is in the ring, and the kernel has done with it: it is not among those waiting.
        unsafe { self.ring.entry(self.written).as_ptr().write_volatile(entry) };
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Shows the kernel what was written.
    pub(super) fn publish(&mut self) {
        self.ring.producer().store(self.written, Ordering::Release);
    }

    /// See [`Shared::wants_call`].
    pub(super) fn wants_call(&self) -> bool {
        self.ring.wants_call()
    }
}

/// A ring that this process empties: receive, completion.
pub(super) struct Consumer<T> {
    ring: Shared<T>,
    /// What was read; the kernel may use their places after [`Consumer::release`].
    read: u32,
}

impl<T: Copy> Consumer<T> {
    pub(super) fn map(
        socket: RawFd,
        size: u32,
        page: libc::off_t,
        at: &libc::xdp_ring_offset,
    ) -> io::Result<Consumer<T>> {
        let ring = Shared::map(socket, size, page, at)?;
        let read = ring.consumer().load(Ordering::Relaxed);
        Ok(Consumer { ring, read })
    }

    /// Entries to be read now.
    pub(super) fn available(&self) -> u32 {
        self.ring.producer().load(Ordering::Acquire).wrapping_sub(self.read).min(self.ring.size)
    }

    /// Reads the next entry.
    pub(super) fn take(&mut self) -> Option<T> {
        if self.available() == 0 {
            return None;
        }
        // SAFETY: the entry is in the ring, and the kernel has finished writing it: `available` has acquired that.
        let entry = unsafe { self.ring.entry(self.read).as_ptr().read_volatile() };
        self.read = self.read.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of what was read back.
    pub(super) fn release(&mut self) {
        self.ring.consumer().store(self.read, Ordering::Release);
    }
}
