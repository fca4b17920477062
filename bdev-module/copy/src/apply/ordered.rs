//! A map from places to values for a set of places that is known before: what an interval map of a round needs, without
//! a node for each entry. All storage is kept for the next round.

/// Entries by index, `0 .. len`, with the last entry not behind an index found in a few steps: each level has a bit for each
/// word of the one below.
#[derive(Debug, Default)]
pub(super) struct Ordered<V> {
    values: Vec<V>,
    levels: Vec<Vec<u64>>,
}

impl<V: Copy + Default> Ordered<V> {
    /// Empties it, for indices below `len`.
    pub(super) fn reset(&mut self, len: usize) {
        self.values.clear();
        self.values.resize(len, V::default());
        let mut bits = len.max(1);
        let mut level = 0;
        loop {
            let words = bits.div_ceil(64);
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            self.levels[level].clear();
            self.levels[level].resize(words, 0);
            level += 1;
            if words == 1 {
                break;
            }
            bits = words;
        }
        // Levels of a larger round before this one.
        for unused in &mut self.levels[level..] {
            unused.clear();
        }
    }

    pub(super) fn insert(&mut self, index: usize, value: V) {
        self.values[index] = value;
        let mut at = index;
        for level in self.levels.iter_mut().filter(|level| !level.is_empty()) {
            level[at / 64] |= 1 << (at % 64);
            at /= 64;
        }
    }

    pub(super) fn remove(&mut self, index: usize) {
        let mut at = index;
        for level in self.levels.iter_mut().filter(|level| !level.is_empty()) {
            level[at / 64] &= !(1 << (at % 64));
            if level[at / 64] != 0 {
                return;
            }
            at /= 64;
        }
    }

    /// The last entry not behind `index`.
    pub(super) fn last_at(&self, index: usize) -> Option<(usize, V)> {
        // Up until a word has a bit not behind, then down along the last bits.
        let mut at = index;
        for (level, words) in self.levels.iter().enumerate().take_while(|(_, words)| !words.is_empty()) {
            let up_to = u64::MAX >> (63 - at % 64);
            let word = words[at / 64] & up_to;
            if word != 0 {
                let mut found = at / 64 * 64 + last_bit(word);
                for below in self.levels[..level].iter().rev() {
                    found = found * 64 + last_bit(below[found]);
                }
                return Some((found, self.values[found]));
            }
            if at / 64 == 0 {
                return None;
            }
            at = at / 64 - 1;
        }
        None
    }
}

fn last_bit(word: u64) -> usize {
    63 - word.leading_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_finds_what_an_ordered_map_finds(
            len in prop_oneof![1..70_usize, 4000..5000_usize, 262_100..262_200_usize],
            steps in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..200),
        ) {
            let (mut ordered, mut model) = (Ordered::default(), BTreeMap::new());
            // What was there before leaves no trace.
            ordered.reset(len * 3);
            (0..len * 3).step_by(7).for_each(|index| ordered.insert(index, 9));
            ordered.reset(len);
            for (number, (index, is_insert)) in steps.into_iter().enumerate() {
                let index = index.index(len);
                if is_insert {
                    ordered.insert(index, number);
                    model.insert(index, number);
                } else {
                    ordered.remove(index);
                    model.remove(&index);
                }
                for index in [0, index.saturating_sub(1), index, (index + 1).min(len - 1), len - 1] {
                    let expected = model.range(..=index).next_back().map(|(index, value)| (*index, *value));
                    prop_assert_eq!(ordered.last_at(index), expected);
                }
            }
        }
    }
}
