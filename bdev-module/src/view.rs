//! A writable view of another device that never changes it: what is written stays in memory, block by block.
//!
//! For test failover: while the secondary's apply stands still, a view of each of its volumes shows one consistent moment,
//! hosts may write to it, and the volume below stays what it was.

use std::collections::BTreeMap;

use longrun_copy::types::{Extent, Geometry};
use longrun_hal::Buf;

use crate::device::{Bdev, Env, RequestKey};
use crate::io::{BdevId, Io, IoError};

/// Blocks that are kept together.
const GRANULE_BLOCKS: u64 = 16;

/// Blocks of one granule that were written through the view.
struct Granule {
    /// Bit n: block n of the granule is here and no longer the base's.
    written: u16,
    bytes: Box<[u8]>,
}

/// Writes into memory, reads from there what was written and from the base what was not. Flush and FUA have nothing to do:
/// what is written lives as long as the view.
///
/// Bounded: at most `bytes_max` of memory for what is written, in granules of 16 blocks; a write beyond fails with ENOSPC
/// and changes nothing. A read costs one read of the base and a copy of what was written in its extent.
pub struct View {
    base: BdevId,
    block_bytes: usize,
    granules: BTreeMap<u64, Granule>,
    granules_max: usize,
    /// Extents of the reads that the base has, by request.
    reading: BTreeMap<u32, Extent>,
}

impl View {
    /// On top of `base`, which has this geometry; keeps at most `bytes_max` bytes.
    pub fn new(base: BdevId, geometry: Geometry, bytes_max: u64) -> View {
        let granule_bytes = GRANULE_BLOCKS * u64::from(geometry.block_bytes);
        View {
            base,
            block_bytes: geometry.block_bytes as usize,
            granules: BTreeMap::new(),
            granules_max: usize::try_from(bytes_max / granule_bytes).unwrap_or(usize::MAX),
            reading: BTreeMap::new(),
        }
    }

    /// Whether there is memory for everything that the extent touches.
    fn has_room(&self, extent: Extent) -> bool {
        let touched = extent.lba / GRANULE_BLOCKS..=(extent.end() - 1) / GRANULE_BLOCKS;
        let kept = self.granules.range(touched.clone()).count() as u64;
        let new = touched.end() - touched.start() + 1 - kept;
        (self.granules_max - self.granules.len()) as u64 >= new
    }

    /// Puts bytes, or zeroes, over the extent.
    fn put(&mut self, extent: Extent, data: Option<&[u8]>) -> Result<(), IoError> {
        if !self.has_room(extent) {
            return Err(IoError::Device { errno: libc::ENOSPC });
        }
        let block_bytes = self.block_bytes;
        for piece in pieces(extent) {
            let granule = self.granules.entry(piece.granule).or_insert_with(|| Granule {
                written: 0,
                bytes: vec![0; GRANULE_BLOCKS as usize * block_bytes].into_boxed_slice(),
            });
            granule.written |= piece.mask();
            let target = &mut granule.bytes[piece.first * block_bytes..][..piece.blocks * block_bytes];
            match data {
                Some(data) => target.copy_from_slice(&data[piece.offset * block_bytes..][..target.len()]),
                None => target.fill(0),
            }
        }
        Ok(())
    }

    /// Puts what was written over what the base gave.
    fn overlay(&self, extent: Extent, buf: &mut [u8]) {
        for piece in pieces(extent) {
            let Some(granule) = self.granules.get(&piece.granule) else { continue };
            for block in 0..piece.blocks {
                if granule.written & 1 << (piece.first + block) != 0 {
                    let from = &granule.bytes[(piece.first + block) * self.block_bytes..][..self.block_bytes];
                    buf[(piece.offset + block) * self.block_bytes..][..self.block_bytes].copy_from_slice(from);
                }
            }
        }
    }
}

impl Bdev for View {
    fn submit(&mut self, env: &mut Env<'_>, request: RequestKey, io: Io) {
        let done = match io {
            Io::Read { extent, buf } => {
                self.reading.insert(request.0, extent);
                return env.submit_base(self.base, request.0, Io::Read { extent, buf });
            }
            Io::Write { extent, data, .. } => self.put(extent, Some(&data)),
            Io::WriteZeroes { extent, .. } | Io::Unmap { extent } => self.put(extent, None),
            Io::Flush => Ok(()),
        };
        env.complete(request, done, None);
    }

    fn base_done(&mut self, env: &mut Env<'_>, tag: u32, result: Result<(), IoError>, mut buf: Option<Buf>) {
        if let (Some(extent), Some(buf)) = (self.reading.remove(&tag), &mut buf) {
            self.overlay(extent, buf);
        }
        env.complete(RequestKey(tag), result, buf);
    }
}

/// A run of blocks inside one granule.
struct Piece {
    granule: u64,
    /// Its first block, counted in the granule.
    first: usize,
    blocks: usize,
    /// Its first block, counted in the extent.
    offset: usize,
}

impl Piece {
    fn mask(&self) -> u16 {
        (((1u32 << self.blocks) - 1) << self.first) as u16
    }
}

/// The extent cut at the borders of granules.
fn pieces(extent: Extent) -> impl Iterator<Item = Piece> {
    let mut at = extent.lba;
    std::iter::from_fn(move || {
        if at >= extent.end() {
            return None;
        }
        let granule = at / GRANULE_BLOCKS;
        let end = ((granule + 1) * GRANULE_BLOCKS).min(extent.end());
        let piece = Piece {
            granule,
            first: (at - granule * GRANULE_BLOCKS) as usize,
            blocks: (end - at) as usize,
            offset: (at - extent.lba) as usize,
        };
        at = end;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::testing::{Rig, extent, malloc};

    const BLOCK: u32 = 512;

    /// A base whose every block holds 7s, and a view of it.
    fn rig(bytes_max: u64) -> (Rig, BdevId, BdevId) {
        let mut rig = Rig::new();
        let base = rig.create(malloc("base", 64, BLOCK));
        rig.write(base, extent(0, 64), 7).unwrap();
        let geometry = Geometry { blocks: 64, block_bytes: BLOCK };
        let view = BdevId(base.0 + 1);
        rig.layer.install(Device::new(view, geometry, Some(base), Box::new(View::new(base, geometry, bytes_max))));
        (rig, base, view)
    }

    #[test]
    fn what_is_written_shows_in_the_view_alone() {
        let (mut rig, base, view) = rig(1 << 20);
        rig.write(view, extent(14, 5), 9).unwrap();
        rig.run(view, Io::WriteZeroes { extent: extent(40, 2), fua: false }).unwrap();
        let mut expected = vec![7; 64 * BLOCK as usize];
        expected[14 * BLOCK as usize..19 * BLOCK as usize].fill(9);
        expected[40 * BLOCK as usize..42 * BLOCK as usize].fill(0);
        assert_eq!(rig.read(view, extent(0, 64)).unwrap(), expected);
        assert_eq!(rig.read(view, extent(13, 3)).unwrap(), expected[13 * BLOCK as usize..16 * BLOCK as usize]);
        assert_eq!(rig.read(base, extent(0, 64)).unwrap(), vec![7; 64 * BLOCK as usize]);
    }

    #[test]
    fn a_write_beyond_its_memory_fails_whole() {
        let granule_bytes = GRANULE_BLOCKS * u64::from(BLOCK);
        let (mut rig, _, view) = rig(2 * granule_bytes);
        rig.write(view, extent(0, 20), 9).unwrap();
        let error = rig.write(view, extent(31, 2), 8).unwrap_err();
        assert_eq!(error, IoError::Device { errno: libc::ENOSPC });
        assert_eq!(rig.read(view, extent(31, 2)).unwrap(), vec![7; 2 * BLOCK as usize], "no part of it was written");
        rig.write(view, extent(20, 12), 8).unwrap();
    }
}
