//! The anonymous mapping under an arena.

use std::io;
use std::ptr::NonNull;

use super::HUGE_PAGE_BYTES;

/// Anonymous memory, zeroed by the kernel, aligned to [`HUGE_PAGE_BYTES`], unmapped on drop.
pub(super) struct Mapping {
    pub(super) base: NonNull<u8>,
    pub(super) bytes: usize,
    pub(super) huge: bool,
    pub(super) notice: Option<String>,
}

impl Mapping {
    /// Maps `bytes` (whole huge pages).
    pub(super) fn new(bytes: usize, populate: bool) -> io::Result<Mapping> {
        assert!(bytes > 0 && bytes.is_multiple_of(HUGE_PAGE_BYTES));
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if populate { libc::MAP_POPULATE } else { 0 };
        match map(bytes, flags | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB) {
            Ok(base) => Ok(Mapping { base, bytes, huge: true, notice: None }),
            Err(refusal) => {
                let base = map_aligned(bytes, flags)?;
                let pages = bytes / HUGE_PAGE_BYTES;
                // Of each arena for itself, so that the commands of several add up.
                let notice = format!(
                    "arena of {bytes} bytes has no huge pages of its own, since {pages} of 2 MiB were not to be had \
                     ({refusal}), and takes what the kernel finds; for steadier latency run `sysctl \
                     vm.nr_hugepages=$(($(cat /proc/sys/vm/nr_hugepages) + {pages}))` and restart"
                );
                Ok(Mapping { base, bytes, huge: false, notice: Some(notice) })
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and bytes are exactly one mapping made by `new`, and whoever could hold an address into it keeps
        // the arena's `Inner`, and so this, alive.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

fn map(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice replaces nothing.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped address 0"))
}

/// Normal pages come at any page address: maps one huge page more and gives the ends back. The kernel makes huge pages of
/// them where it finds some.
fn map_aligned(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    // Not populated before the trim, or the ends would be touched for nothing.
    let wide = map(bytes + HUGE_PAGE_BYTES, flags & !libc::MAP_POPULATE)?;
    let head = wide.as_ptr().align_offset(HUGE_PAGE_BYTES);
    assert!(head < HUGE_PAGE_BYTES && head.is_multiple_of(4096));
    // SAFETY: head is less than the extra huge page, so base..base + bytes lies within the wide mapping.
    let base = unsafe { wide.add(head) };
    if head > 0 {
        // SAFETY: the bytes before `base` belong to the mapping above and nobody has their address.
        unsafe { libc::munmap(wide.as_ptr().cast(), head) };
    }
    let tail = HUGE_PAGE_BYTES - head;
    // SAFETY: the bytes from base + bytes on likewise.
    unsafe { libc::munmap(base.as_ptr().add(bytes).cast(), tail) };
    // Before a page is there: what has come as small pages stays so.
    // SAFETY: advice on exactly the mapping that is kept; it changes no content.
    unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    if flags & libc::MAP_POPULATE != 0 {
        // SAFETY: advice on exactly the mapping that is kept; it faults pages in and changes no content.
        unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
    }
    Ok(base)
}
