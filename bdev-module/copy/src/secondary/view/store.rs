//! Where a view keeps what its volumes do not show: which blocks, and where in the store.

use super::super::overlay;
use crate::types::{Extent, Geometry, PairId, VolumeId};
use std::collections::BTreeMap;

/// What has a place of its own in the store, in bytes: at most 128 blocks, one bit each.
pub(super) const GRANULE_BYTES: u64 = overlay::GRANULE_BYTES;
/// Granules that a view may keep, so that the memory for them (about 100 bytes each) is bounded.
const GRANULES_MAX: usize = 1 << 20;

/// A granule of a pair's volume, by its index.
pub(super) type Granule = (PairId, u64);

/// A run of blocks inside one granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first, counted in the granule.
    pub(super) first: u32,
    pub(super) blocks: u32,
}

impl Run {
    pub(super) fn mask(self) -> u128 {
        (u128::MAX >> (128 - self.blocks)) << self.first
    }
}

/// The runs of blocks whose bits are set.
pub(super) fn runs(mut mask: u128) -> impl Iterator<Item = Run> {
    std::iter::from_fn(move || {
        let first = (mask != 0).then(|| mask.trailing_zeros())?;
        let run = Run { first, blocks: (mask >> first).trailing_ones() };
        mask &= !run.mask();
        Some(run)
    })
}

/// A part of an extent that lies in one granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) granule: Granule,
    pub(super) run: Run,
    /// Its first block, counted in the extent.
    pub(super) offset: u32,
}

/// The extent cut at the borders of granules.
pub(super) fn pieces(pair: PairId, extent: Extent, block_bytes: u32) -> impl Iterator<Item = Piece> {
    let per_granule = GRANULE_BYTES / u64::from(block_bytes);
    let mut at = extent.lba;
    std::iter::from_fn(move || {
        if at >= extent.end() {
            return None;
        }
        let index = at / per_granule;
        let end = ((index + 1) * per_granule).min(extent.end());
        let run = Run { first: (at - index * per_granule) as u32, blocks: (end - at) as u32 };
        let piece = Piece { granule: (pair, index), run, offset: (at - extent.lba) as u32 };
        at = end;
        Some(piece)
    })
}

/// What is kept of a granule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Its place in the store.
    slot: Option<u32>,
    /// Blocks that are there.
    pub(super) stored: u128,
    /// Blocks that are zeroes, and need no place.
    pub(super) zero: u128,
}

/// The store of a view.
pub(super) struct Store {
    pub(super) volume: VolumeId,
    block_bytes: u32,
    slots_max: u32,
    slots: u32,
    kept: BTreeMap<Granule, Kept>,
}

impl Store {
    pub(super) fn new(volume: VolumeId, geometry: Geometry) -> Store {
        let slots_max = (geometry.bytes() / GRANULE_BYTES).min(GRANULES_MAX as u64) as u32;
        Store { volume, block_bytes: geometry.block_bytes, slots_max, slots: 0, kept: BTreeMap::new() }
    }

    /// Room, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.slots_max) * GRANULE_BYTES
    }

    pub(super) fn used_bytes(&self) -> u64 {
        u64::from(self.slots) * GRANULE_BYTES
    }

    pub(super) fn kept(&self, granule: Granule) -> Kept {
        self.kept.get(&granule).copied().unwrap_or_default()
    }

    /// Gives all these granules a place (or only an entry, for zeroes), or none of them.
    pub(super) fn reserve(&mut self, granules: impl Iterator<Item = Granule> + Clone, with_slots: bool) -> bool {
        let new = granules.clone().filter(|granule| !self.kept.contains_key(granule)).count();
        let slots = granules.clone().filter(|granule| self.kept(*granule).slot.is_none()).count();
        let has_slots = !with_slots || slots <= (self.slots_max - self.slots) as usize;
        if self.kept.len() + new > GRANULES_MAX || !has_slots {
            return false;
        }
        for granule in granules {
            let kept = self.kept.entry(granule).or_default();
            if with_slots && kept.slot.is_none() {
                kept.slot = Some(self.slots);
                self.slots += 1;
            }
        }
        true
    }

    /// Where in the store the run of a granule with a place is.
    pub(super) fn place(&self, granule: Granule, run: Run, block_bytes: u32) -> Option<Extent> {
        let slot = u64::from(self.kept(granule).slot?);
        let byte = slot * GRANULE_BYTES + u64::from(run.first) * u64::from(block_bytes);
        let bytes = u64::from(run.blocks) * u64::from(block_bytes);
        let own = u64::from(self.block_bytes);
        Some(Extent { lba: byte / own, blocks: (bytes / own) as u32 })
    }

    /// The run is in the store now.
    pub(super) fn note_stored(&mut self, granule: Granule, run: Run) {
        let kept = self.kept.entry(granule).or_default();
        kept.stored |= run.mask();
        kept.zero &= !run.mask();
    }

    /// The run is zeroes now.
    pub(super) fn note_zero(&mut self, granule: Granule, run: Run) {
        let kept = self.kept.entry(granule).or_default();
        kept.zero |= run.mask();
        kept.stored &= !run.mask();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: PairId = PairId(7);

    #[test]
    fn runs_and_pieces_cover_exactly_what_was_given() {
        for mask in [0, 1, u128::MAX, 1 << 127, 0b1011_0001, u128::MAX << 64] {
            assert_eq!(runs(mask).fold(0, |all, run| all | run.mask()), mask);
        }
        let extent = Extent { lba: 3, blocks: 9 };
        let cut: Vec<Piece> = pieces(PAIR, extent, 512).collect();
        assert_eq!(cut.iter().map(|piece| piece.run.blocks).sum::<u32>(), 9);
        assert_eq!(
            cut.iter().map(|piece| (piece.granule.1, piece.run.first, piece.offset)).collect::<Vec<_>>(),
            [(0, 3, 0), (1, 0, 1), (2, 0, 5)]
        );
    }

    #[test]
    fn a_place_is_given_to_all_or_none_and_zeroes_need_none() {
        let mut store = Store::new(VolumeId(1), Geometry { blocks: 2 * GRANULE_BYTES / 512, block_bytes: 512 });
        assert!(store.reserve([(PAIR, 9)].into_iter(), false), "zeroes");
        assert!(store.reserve([(PAIR, 0)].into_iter(), true));
        assert!(!store.reserve([(PAIR, 0), (PAIR, 1), (PAIR, 2)].into_iter(), true), "one place is left");
        assert_eq!(store.used_bytes(), GRANULE_BYTES);
        assert!(store.reserve([(PAIR, 0), (PAIR, 1)].into_iter(), true));
        assert!(!store.reserve([(PAIR, 9)].into_iter(), true));
        let run = Run { first: 1, blocks: 2 };
        assert_eq!(store.place((PAIR, 1), run, 512), Some(Extent { lba: GRANULE_BYTES / 512 + 1, blocks: 2 }));
        assert_eq!(store.place((PAIR, 9), run, 512), None);
    }

    #[test]
    fn a_block_is_stored_or_zero_as_it_was_last() {
        let mut store = Store::new(VolumeId(1), Geometry { blocks: 1 << 12, block_bytes: 512 });
        store.note_stored((PAIR, 0), Run { first: 0, blocks: 4 });
        store.note_zero((PAIR, 0), Run { first: 1, blocks: 2 });
        let kept = store.kept((PAIR, 0));
        assert_eq!((kept.stored, kept.zero), (0b1001, 0b0110));
        store.note_stored((PAIR, 0), Run { first: 2, blocks: 1 });
        let kept = store.kept((PAIR, 0));
        assert_eq!((kept.stored, kept.zero), (0b1101, 0b0010));
    }
}
