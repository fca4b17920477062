//! A device in memory.

use std::ops::Range;

use longrun_copy::types::{Extent, Geometry};
use longrun_hal::Shared;
use longrun_hal::copy::ColdCopies;
use memmap2::{Advice, MmapMut};

use crate::device::{Bdev, Env, RequestKey};
use crate::io::Io;

/// Deallocated memory is remembered in units of this; it is cleared when first written again.
const HOLE_BYTES: usize = 16 << 10;

/// Bytes of writes that are put off to the end of the batch at most: what caches hold with much beside it.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Memory left to the rest of the machine when a device is made.
const RESERVE_BYTES: u64 = 64 << 20;

/// Why there is no memory for a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MallocError {
    /// The machine has less.
    #[error(
        "{bytes} bytes asked for, {available_bytes} available on this machine ({reserve} of them stay free); make the bdev smaller or delete another",
        reserve = RESERVE_BYTES
    )]
    Short {
        /// The device's size.
        bytes: u64,
        /// As the kernel estimates it.
        available_bytes: u64,
    },
    /// The kernel refused.
    #[error(
        "{bytes} bytes asked for, and the kernel refused ({source}); make the bdev smaller or raise the memory limit of this process"
    )]
    Map {
        /// The device's size.
        bytes: u64,
        /// Its reason.
        source: std::io::Error,
    },
}

/// A device in memory, all of it taken at creation. Flush and FUA have nothing to do: it lives and dies with the process.
///
/// Unmap and write zeroes cost one bit per 16 KiB, whatever the length: whole units become holes, which read as zeroes
/// and are cleared when next written. What this gives up: deallocated memory stays taken.
pub struct Malloc {
    memory: MmapMut,
    block_bytes: usize,
    /// One bit per [`HOLE_BYTES`]: reads as zeroes whatever the memory holds.
    holes: Vec<u64>,
    /// Writes of the present batch, whose data is copied together: each copy past the cache would otherwise be waited for
    /// at the next counter that is changed atomically, a buffer's for example.
    batch: Vec<(RequestKey, Extent, Shared)>,
    batch_bytes: usize,
}

impl Malloc {
    /// Takes the memory. May block for about 0.3 s per GiB.
    pub fn new(geometry: Geometry) -> Result<Malloc, MallocError> {
        let bytes = geometry.bytes();
        // Without this look the kernel would promise more than it has, and kill a process when the promise falls due.
        if let Some(available_bytes) = available_memory_bytes()
            && bytes.saturating_add(RESERVE_BYTES) > available_bytes
        {
            return Err(MallocError::Short { bytes, available_bytes });
        }
        let map_error = |source| MallocError::Map { bytes, source };
        let length = usize::try_from(bytes).map_err(|_| map_error(std::io::Error::from_raw_os_error(libc::ENOMEM)))?;
        let memory = MmapMut::map_anon(length).map_err(map_error)?;
        // Huge pages are a favour, so a refusal is no error; that the pages are there is the promise.
        let _ = memory.advise(Advice::HugePage);
        match memory.advise(Advice::PopulateWrite) {
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(map_error(error)),
            _ => {}
        }
        let units = length.div_ceil(HOLE_BYTES);
        Ok(Malloc {
            memory,
            block_bytes: geometry.block_bytes as usize,
            holes: vec![0; units.div_ceil(64)],
            batch: Vec::new(),
            batch_bytes: 0,
        })
    }

    fn bytes_of(&self, extent: Extent) -> Range<usize> {
        let start = extent.lba as usize * self.block_bytes;
        start..start + extent.blocks as usize * self.block_bytes
    }

    fn is_hole(&self, unit: usize) -> bool {
        self.holes[unit / 64] & (1 << (unit % 64)) != 0
    }

    fn read(&self, range: Range<usize>, buf: &mut [u8]) {
        let start = range.start;
        for piece in pieces(range) {
            let target = &mut buf[piece.start - start..piece.end - start];
            if self.is_hole(piece.start / HOLE_BYTES) {
                target.fill(0);
            } else {
                target.copy_from_slice(&self.memory[piece]);
            }
        }
    }

    fn write(&mut self, range: Range<usize>, data: &[u8], copies: &mut ColdCopies) {
        let start = range.start;
        for piece in pieces(range) {
            self.fill_hole(&piece);
            copies.copy(&mut self.memory[piece.clone()], &data[piece.start - start..piece.end - start]);
        }
    }

    /// Does the writes of the batch and ends them.
    fn write_batch(&mut self, env: &mut Env<'_>) {
        let mut batch = std::mem::take(&mut self.batch);
        let mut copies = ColdCopies::begin();
        for (_, extent, data) in &batch {
            self.write(self.bytes_of(*extent), data, &mut copies);
        }
        drop(copies);
        for (request, ..) in batch.drain(..) {
            env.complete(request, Ok(()), None);
        }
        (self.batch, self.batch_bytes) = (batch, 0);
    }

    fn zero(&mut self, range: Range<usize>) {
        let first_whole = range.start.div_ceil(HOLE_BYTES);
        // The device's last unit is whole when the device ends in it.
        let end_whole =
            if range.end == self.memory.len() { range.end.div_ceil(HOLE_BYTES) } else { range.end / HOLE_BYTES };
        if first_whole >= end_whole {
            for piece in pieces(range) {
                self.zero_part(piece);
            }
            return;
        }
        self.zero_part(range.start..first_whole * HOLE_BYTES);
        self.zero_part((end_whole * HOLE_BYTES).min(range.end)..range.end);
        let (first_word, last_word) = (first_whole / 64, (end_whole - 1) / 64);
        for word in first_word..=last_word {
            let low = if word == first_word { first_whole % 64 } else { 0 };
            let high = if word == last_word { (end_whole - 1) % 64 } else { 63 };
            self.holes[word] |= (u64::MAX << low) & (u64::MAX >> (63 - high));
        }
    }

    /// Zeroes part of one unit.
    fn zero_part(&mut self, piece: Range<usize>) {
        if !piece.is_empty() && !self.is_hole(piece.start / HOLE_BYTES) {
            self.memory[piece].fill(0);
        }
    }

    /// Makes the piece's unit memory again, zeroes but for the piece, which is about to be written.
    fn fill_hole(&mut self, piece: &Range<usize>) {
        let unit = piece.start / HOLE_BYTES;
        if self.is_hole(unit) {
            self.holes[unit / 64] &= !(1 << (unit % 64));
            let end = ((unit + 1) * HOLE_BYTES).min(self.memory.len());
            self.memory[unit * HOLE_BYTES..piece.start].fill(0);
            self.memory[piece.end..end].fill(0);
        }
    }
}

/// The range cut at the borders of units.
fn pieces(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let end = ((at / HOLE_BYTES + 1) * HOLE_BYTES).min(range.end);
        let piece = at..end;
        at = end;
        Some(piece)
    })
}

/// The kernel's estimate of memory that can be had without swapping; `None` where it gives none.
fn available_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

impl Bdev for Malloc {
    /// Writes are put off to the end of their batch. A read may pass them: requests that are in flight together have no
    /// order (NVMe base specification, command ordering requirements).
    fn submit(&mut self, env: &mut Env<'_>, request: RequestKey, io: Io) {
        let buf = match io {
            Io::Read { extent, mut buf } => {
                self.read(self.bytes_of(extent), &mut buf);
                Some(buf)
            }
            Io::Write { extent, data, .. } => {
                if self.batch.is_empty() {
                    env.put_off();
                }
                self.batch_bytes += data.len();
                self.batch.push((request, extent, data));
                if self.batch_bytes >= BATCH_BYTES_MAX {
                    self.write_batch(env);
                }
                return;
            }
            Io::WriteZeroes { extent, .. } | Io::Unmap { extent } => {
                self.zero(self.bytes_of(extent));
                None
            }
            Io::Flush => None,
        };
        env.complete(request, Ok(()), buf);
    }

    fn settle(&mut self, env: &mut Env<'_>) {
        self.write_batch(env);
    }
}
