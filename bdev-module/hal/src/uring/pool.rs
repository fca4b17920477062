//! Buffers that receives share: the kernel takes one when something has come, so a connection that is silent holds none.

#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::arena::Buf;

/// The group that the one pool of a ring is registered as.
pub(super) const GROUP: u16 = 0;

/// The most buffers of a pool; the kernel's own limit.
pub const POOL_BUFFERS_MAX: usize = 1 << 15;

/// What the kernel takes buffers from, and the buffers that it has.
pub(super) struct Pool {
    /// The entries, which the kernel reads while the pool is registered.
    entries: Buf,
    mask: u16,
    tail: u16,
    /// What each buffer holds at least.
    bytes: usize,
    /// By their number; `None`: not the kernel's.
    lent: Vec<Option<Buf>>,
    /// Numbers of those that the kernel does not have.
    free: Vec<u16>,
}

impl Pool {
    /// How much memory the entries of so many buffers take. It has to begin at a page.
    pub(super) fn entries_bytes(buffers: usize) -> usize {
        (buffers.next_power_of_two() * size_of::<BufRingEntry>()).max(4096)
    }

    /// A pool with room for so many buffers of `bytes` or more, and none in it. The entries are a page's or more.
    pub(super) fn new(mut entries: Buf, buffers: usize, bytes: usize) -> Pool {
        assert!(entries.len() >= Pool::entries_bytes(buffers) && entries.as_ptr().addr().is_multiple_of(4096));
        assert!((1..=POOL_BUFFERS_MAX).contains(&buffers));
        // The tail is in there too.
        entries.fill(0);
        let slots = buffers.next_power_of_two();
        Pool {
            entries,
            mask: (slots - 1) as u16,
            tail: 0,
            bytes,
            lent: (0..buffers).map(|_| None).collect(),
            free: (0..buffers as u16).rev().collect(),
        }
    }

    /// Where the entries are, and how many the kernel is to know of.
    pub(super) fn registration(&self) -> (u64, u16) {
        (self.entries.as_ptr().addr() as u64, self.mask + 1)
    }

    /// Gives the kernel all of a buffer. Gives it back if there is no room, or it has too little.
    pub(super) fn give(&mut self, mut buf: Buf) -> Result<(), Buf> {
        if buf.capacity() < self.bytes {
            return Err(buf);
        }
        let Some(number) = self.free.pop() else { return Err(buf) };
        buf.set_len(buf.capacity());
        let at = usize::from(self.tail & self.mask);
        let (address, bytes) = (buf.as_mut_ptr(), buf.len() as u32);
        let base = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: `at` is below the number of entries, for which `entries` has room, aligned to a page. The kernel does not
        // look at this one before the tail says so: it has as many buffers at most as there are entries, and this is not
        // one of them. The entry's last field, which in the first one is the tail, stays.
        unsafe {
            let entry = &mut *base.add(at);
            entry.set_addr(address.addr() as u64);
            entry.set_len(bytes);
            entry.set_bid(number);
        }
        self.lent[usize::from(number)] = Some(buf);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, two bytes aligned to two, which the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        // Release: the kernel finds the entry filled when it sees the tail.
        tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// The buffer that the kernel has put `bytes` into; those are in view.
    pub(super) fn take(&mut self, number: u16, bytes: usize) -> Option<Buf> {
        let mut buf = self.lent.get_mut(usize::from(number))?.take()?;
        self.free.push(number);
        buf.truncate(bytes);
        Some(buf)
    }

    /// Buffers that the kernel has.
    pub(super) fn len(&self) -> usize {
        self.lent.len() - self.free.len()
    }
}
