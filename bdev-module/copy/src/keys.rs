//! Walking over a map whose entries come and go under the walk, without a copy of its keys: a turn allocates nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

/// The first key behind `last`; the first of all if there is no last.
///
/// `let mut at = None; while let Some(key) = next_key(&self.map, at) { at = Some(key); self.change(key); }`
pub(crate) fn next_key<K: Copy + Ord, V>(map: &BTreeMap<K, V>, last: Option<K>) -> Option<K> {
    map.range((last.map_or(Unbounded, Excluded), Unbounded)).next().map(|(key, _)| *key)
}

/// The same of a set.
pub(crate) fn next_of<K: Copy + Ord>(set: &BTreeSet<K>, last: Option<K>) -> Option<K> {
    set.range((last.map_or(Unbounded, Excluded), Unbounded)).next().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_sees_each_key_once_though_keys_go_under_it() {
        let mut map = BTreeMap::from([(1, 'a'), (2, 'b'), (5, 'c'), (9, 'd')]);
        let (mut at, mut seen) = (None, Vec::new());
        while let Some(key) = next_key(&map, at) {
            at = Some(key);
            seen.push(key);
            map.remove(&key);
            map.remove(&2);
        }
        assert_eq!(seen, [1, 5, 9]);
        let set = BTreeSet::from([3, 4]);
        assert_eq!((next_of(&set, None), next_of(&set, Some(3)), next_of(&set, Some(4))), (Some(3), Some(4), None));
    }
}
