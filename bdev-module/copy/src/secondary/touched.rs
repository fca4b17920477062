//! Which blocks the records of a unit touch: a superset, in bounded memory.

use crate::types::{Extent, PairId};
use std::collections::BTreeMap;

/// Intervals that are kept; when there are more, all are rounded to larger granules.
const INTERVALS_MAX: usize = if cfg!(test) { 16 } else { 65_536 };

/// Blocks by pair, as disjoint intervals of granules.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Blocks per granule, as a power of two.
    shift: u32,
    /// By first granule: the one behind the last.
    pairs: BTreeMap<PairId, BTreeMap<u64, u64>>,
    intervals: usize,
}

impl Touched {
    /// These blocks are touched.
    pub(crate) fn insert(&mut self, pair: PairId, extent: Extent) {
        let (start, end) = (extent.lba >> self.shift, ((extent.end() - 1) >> self.shift) + 1);
        self.add(pair, start, end);
        while self.intervals > INTERVALS_MAX && self.shift < 40 {
            self.shift += 1;
            self.intervals = 0;
            for (pair, intervals) in std::mem::take(&mut self.pairs) {
                for (start, end) in intervals {
                    self.add(pair, start >> 1, ((end - 1) >> 1) + 1);
                }
            }
        }
    }

    fn add(&mut self, pair: PairId, mut start: u64, mut end: u64) {
        let intervals = self.pairs.entry(pair).or_default();
        while let Some((first, last)) = intervals.range(..=end).next_back().map(|(first, last)| (*first, *last))
            && last >= start
        {
            intervals.remove(&first);
            self.intervals -= 1;
            start = start.min(first);
            end = end.max(last);
        }
        intervals.insert(start, end);
        self.intervals += 1;
    }

    /// Whether one of these blocks may have been touched.
    pub(crate) fn meets(&self, pair: PairId, extent: Extent) -> bool {
        let (start, end) = (extent.lba >> self.shift, ((extent.end() - 1) >> self.shift) + 1);
        let before = self.pairs.get(&pair).and_then(|intervals| intervals.range(..end).next_back());
        before.is_some_and(|(_, last)| *last > start)
    }

    /// All of it, as extents that lie inside the volume if what was inserted did; `blocks_of` tells its size.
    pub(crate) fn extents(&self, blocks_of: impl Fn(PairId) -> u64) -> Vec<(PairId, Extent)> {
        let mut extents = Vec::new();
        for (pair, intervals) in &self.pairs {
            for (start, end) in intervals {
                let (mut lba, end) = (start << self.shift, (end << self.shift).min(blocks_of(*pair)));
                while lba < end {
                    let blocks = (end - lba).min(1 << 31) as u32;
                    extents.push((*pair, Extent { lba, blocks }));
                    lba += u64::from(blocks);
                }
            }
        }
        extents
    }

    /// Nothing is touched.
    pub(crate) fn clear(&mut self) {
        *self = Touched::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_touched_is_never_forgotten_whatever_it_is_rounded_to(
            touched in prop::collection::vec((0_u64..3, 0_u64..4000, 1_u32..40), 0..120),
        ) {
            let mut set = Touched::default();
            for (pair, lba, blocks) in &touched {
                set.insert(PairId(*pair), Extent { lba: *lba, blocks: *blocks });
            }
            prop_assert!(set.intervals <= INTERVALS_MAX);
            let all = set.extents(|_| 4040);
            for (pair, lba, blocks) in touched {
                for lba in lba..lba + u64::from(blocks) {
                    let one = Extent { lba, blocks: 1 };
                    prop_assert!(set.meets(PairId(pair), one));
                    let is_listed = all.iter().any(|(of, extent)| of.0 == pair && extent.range().contains(&lba));
                    prop_assert!(is_listed);
                }
            }
            prop_assert!(all.iter().all(|(_, extent)| extent.end() <= 4040));
        }
    }

    #[test]
    fn what_was_not_touched_is_not_said_to_be_while_there_is_memory() {
        let mut set = Touched::default();
        let at = |lba, blocks| Extent { lba, blocks };
        set.insert(PairId(1), at(8, 8));
        set.insert(PairId(1), at(24, 8));
        assert!(!set.meets(PairId(1), at(16, 8)) && !set.meets(PairId(2), at(8, 8)));
        assert!(set.meets(PairId(1), at(15, 1)) && set.meets(PairId(1), at(0, 100)));
        set.clear();
        assert!(!set.meets(PairId(1), at(0, 100)));
    }
}
