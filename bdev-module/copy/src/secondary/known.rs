//! What a group knows of its streams and pairs: in the order in which they came, and found by their ids.

use std::ops::{Deref, DerefMut};

/// What is found by an id, which never changes.
pub(crate) trait Named {
    /// The id's type.
    type Id: Copy + Ord;

    /// Its id.
    fn id(&self) -> Self::Id;
}

/// A list, found by id as well: a look-up takes log2(entries) steps, so that a write costs the same whether its group has
/// one pair or a thousand. An entry that comes or goes costs as much as there are.
#[derive(Clone, Debug)]
pub(crate) struct Known<T: Named> {
    list: Vec<T>,
    /// Places in the list, in order of ids.
    places: Vec<(T::Id, usize)>,
}

impl<T: Named> Known<T> {
    pub(crate) fn find(&self, id: T::Id) -> Option<&T> {
        self.place_of(id).map(|place| &self.list[place])
    }

    pub(crate) fn find_mut(&mut self, id: T::Id) -> Option<&mut T> {
        self.place_of(id).map(|place| &mut self.list[place])
    }

    fn place_of(&self, id: T::Id) -> Option<usize> {
        let at = self.places.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.places[at].1)
    }

    pub(crate) fn push(&mut self, entry: T) {
        let at = self.places.partition_point(|(id, _)| *id < entry.id());
        self.places.insert(at, (entry.id(), self.list.len()));
        self.list.push(entry);
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.list.retain(keep);
        *self = std::mem::take(&mut self.list).into();
    }
}

impl<T: Named> From<Vec<T>> for Known<T> {
    fn from(list: Vec<T>) -> Known<T> {
        let mut places: Vec<_> = list.iter().enumerate().map(|(place, entry)| (entry.id(), place)).collect();
        places.sort_unstable();
        Known { list, places }
    }
}

impl<T: Named> FromIterator<T> for Known<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Known<T> {
        entries.into_iter().collect::<Vec<_>>().into()
    }
}

impl<T: Named> Default for Known<T> {
    fn default() -> Known<T> {
        Known { list: Vec::new(), places: Vec::new() }
    }
}

/// Two are equal that know the same in the same order.
impl<T: Named + PartialEq> PartialEq for Known<T> {
    fn eq(&self, other: &Known<T>) -> bool {
        self.list == other.list
    }
}

impl<T: Named + Eq> Eq for Known<T> {}

impl<T: Named> Deref for Known<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.list
    }
}

impl<T: Named> DerefMut for Known<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Entry(u64, char);

    impl Named for Entry {
        type Id = u64;

        fn id(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn an_entry_is_found_by_its_id_whatever_came_or_went_before() {
        let mut known: Known<Entry> = vec![Entry(7, 'a'), Entry(3, 'b')].into();
        known.push(Entry(5, 'c'));
        known.push(Entry(1, 'd'));
        known.retain(|entry| entry.0 != 3);
        known.push(Entry(3, 'e'));
        assert_eq!(
            &*known,
            [Entry(7, 'a'), Entry(5, 'c'), Entry(1, 'd'), Entry(3, 'e')],
            "in the order of their coming"
        );
        for entry in known.iter() {
            assert_eq!(known.find(entry.0), Some(entry));
        }
        assert_eq!(known.find(4), None);
        if let Some(entry) = known.find_mut(5) {
            entry.1 = 'x';
        }
        assert_eq!(known.find(5), Some(&Entry(5, 'x')));
    }
}
