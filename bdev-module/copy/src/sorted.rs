//! A map in order of its keys that keeps its storage: what comes and goes with every write takes no memory once it has been as
//! long as it gets. (A tree gives a node back and takes one whenever its length passes a multiple of the node's.)
//!
//! What it gives up: an entry in the middle moves up to half of the others, some bytes each; the maps that are kept so hold
//! what is in flight, a few thousand at most, and mostly change at their ends.

use std::collections::VecDeque;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Sorted<K, V = ()> {
    entries: VecDeque<(K, V)>,
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Sorted { entries: VecDeque::new() }
    }
}

impl<K: Copy + Ord, V: Copy> Sorted<K, V> {
    /// Where the first entry is whose key is not below `key`: the number of those before it.
    pub(crate) fn place(&self, key: K) -> usize {
        self.entries.partition_point(|(known, _)| *known < key)
    }

    /// The entry at a place.
    pub(crate) fn at(&self, place: usize) -> Option<(K, V)> {
        self.entries.get(place).copied()
    }

    /// Adds an entry at the place that [`Sorted::place`] gave for its key, which is new.
    pub(crate) fn insert_at(&mut self, place: usize, key: K, value: V) {
        debug_assert!(self.place(key) == place && self.at(place).is_none_or(|(known, _)| known != key));
        self.entries.insert(place, (key, value));
    }

    /// Takes the entry at a place out.
    pub(crate) fn remove_at(&mut self, place: usize) {
        self.entries.remove(place);
    }

    /// Adds an entry, in the place of one with the same key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let at = self.place(key);
        match self.entries.get_mut(at).filter(|(known, _)| *known == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.insert(at, (key, value)),
        }
    }

    /// Takes an entry out; whether it was there.
    pub(crate) fn remove(&mut self, key: K) -> bool {
        let at = self.place(key);
        let is_there = self.entries.get(at).is_some_and(|(known, _)| *known == key);
        if is_there {
            self.entries.remove(at);
        }
        is_there
    }

    /// The entries whose keys are not below `key`, in order.
    pub(crate) fn from(&self, key: K) -> impl Iterator<Item = (K, V)> {
        self.entries.range(self.place(key)..).copied()
    }

    /// The last entry whose key is below `key`.
    pub(crate) fn before_mut(&mut self, key: K) -> Option<(K, &mut V)> {
        let at = self.place(key).checked_sub(1)?;
        self.entries.get_mut(at).map(|(key, value)| (*key, value))
    }

    /// The first entry.
    pub(crate) fn first(&self) -> Option<(K, V)> {
        self.entries.front().copied()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes all out.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Takes those out for which `is_kept` is not true.
    pub(crate) fn retain(&mut self, mut is_kept: impl FnMut(&K) -> bool) {
        self.entries.retain(|(key, _)| is_kept(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_holds_what_an_ordered_map_holds(steps in prop::collection::vec((0..40_u8, 0..4_u8, any::<u8>()), 0..200)) {
            let (mut sorted, mut model) = (Sorted::default(), BTreeMap::new());
            for (key, what, value) in steps {
                match what {
                    0 => prop_assert_eq!(sorted.remove(key), model.remove(&key).is_some()),
                    1 => {
                        let before = sorted.before_mut(key).map(|(key, value)| { *value = 7; key });
                        let known = model.range_mut(..key).next_back().map(|(key, value)| { *value = 7; *key });
                        prop_assert_eq!(before, known);
                    }
                    2 => {
                        sorted.insert(key, value);
                        model.insert(key, value);
                    }
                    _ => {
                        let place = sorted.place(key);
                        prop_assert_eq!(place, model.range(..key).count());
                        if sorted.at(place).is_some_and(|(known, _)| known == key) {
                            sorted.remove_at(place);
                            model.remove(&key);
                        } else {
                            sorted.insert_at(place, key, value);
                            model.insert(key, value);
                        }
                    }
                }
                prop_assert_eq!(sorted.first(), model.first_key_value().map(|(key, value)| (*key, *value)));
                prop_assert_eq!(sorted.is_empty(), model.is_empty());
                let expected = model.range(key..).map(|(key, value)| (*key, *value));
                prop_assert!(sorted.from(key).eq(expected));
            }
            sorted.retain(|key| key % 2 == 0);
            model.retain(|key, _| key % 2 == 0);
            prop_assert!(sorted.from(0).eq(model.into_iter()));
        }
    }
}
