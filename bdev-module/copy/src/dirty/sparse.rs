//! A map from small numbers to values, for numbers of which those that are near each other come together: a table of pages
//! of 64. To look one up costs no search, whatever the map's size (*trees of regions led the profile of a primary's writes*).
//!
//! What it gives up: a page is taken whole for one entry, and stays until [`Sparse::trim`], so that what comes and goes in
//! it takes no memory.

use std::ops::Range;

const PAGE: u64 = 64;

/// Begins with a cache line: values whose size divides one are each in one.
#[derive(Debug)]
#[repr(align(64))]
struct Page<T>([T; PAGE as usize]);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Sparse<T> {
    /// As far as an entry ever was.
    pages: Vec<Option<Box<Page<T>>>>,
    /// A bit for each value of a page that counts. Not in the page, so that a value is all that is touched of it.
    there: Vec<u64>,
    len: usize,
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Sparse { pages: Vec::new(), there: Vec::new(), len: 0 }
    }
}

/// Page, and place in it.
fn split(at: u64) -> (usize, usize) {
    ((at / PAGE) as usize, (at % PAGE) as usize)
}

impl<T: Copy + Default> Sparse<T> {
    pub fn get_mut(&mut self, at: u64) -> Option<&mut T> {
        let (page, place) = split(at);
        let is_there = self.there.get(page)? >> place & 1 == 1;
        self.pages[page].as_mut().filter(|_| is_there).map(|page| &mut page.0[place])
    }

    /// The value there; if there is none, what `make` gives.
    pub fn get_or_insert_with(&mut self, at: u64, make: impl FnOnce() -> T) -> &mut T {
        let (page, place) = split(at);
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
            self.there.resize(page + 1, 0);
        }
        let there = &mut self.there[page];
        let page = self.pages[page].get_or_insert_with(|| Box::new(Page([T::default(); PAGE as usize])));
        if *there >> place & 1 == 0 {
            *there |= 1 << place;
            page.0[place] = make();
            self.len += 1;
        }
        &mut page.0[place]
    }

    pub fn remove(&mut self, at: u64) {
        let (page, place) = split(at);
        let Some(there) = self.there.get_mut(page) else { return };
        self.len -= (*there >> place & 1) as usize;
        *there &= !(1 << place);
    }

    /// Takes those out for which `is_kept` is not true.
    pub fn retain(&mut self, is_kept: impl Fn(&T) -> bool) {
        for (page, there) in self.pages.iter().zip(&mut self.there) {
            let Some(page) = page else { continue };
            for place in 0..PAGE as usize {
                if *there >> place & 1 == 1 && !is_kept(&page.0[place]) {
                    *there &= !(1 << place);
                    self.len -= 1;
                }
            }
        }
    }

    /// Gives back the memory of pages without an entry.
    pub fn trim(&mut self) {
        for (page, there) in self.pages.iter_mut().zip(&self.there) {
            page.take_if(|_| *there == 0);
        }
    }

    pub fn clear(&mut self) {
        *self = Sparse::default();
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries of the range, in order. Looks at no page outside of it.
    pub fn range(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &T)> {
        let end = range.end.div_ceil(PAGE).min(self.pages.len() as u64) as usize;
        let first = ((range.start / PAGE) as usize).min(end);
        let pages = self.pages[first..end].iter().zip(&self.there[first..end]).enumerate();
        let pages =
            pages.filter_map(move |(nth, (page, there))| Some(((first + nth) as u64 * PAGE, page.as_ref()?, *there)));
        pages.flat_map(move |(base, page, there)| {
            let mut left = there;
            left &= u64::MAX << range.start.saturating_sub(base).min(PAGE - 1);
            left &= u64::MAX >> PAGE.saturating_sub(range.end - base);
            std::iter::from_fn(move || {
                let place = left.trailing_zeros();
                (u64::from(place) < PAGE).then(|| {
                    left &= left - 1;
                    (base + u64::from(place), &page.0[place as usize])
                })
            })
        })
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.range(0..self.pages.len() as u64 * PAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_holds_what_an_ordered_map_holds(steps in prop::collection::vec((0..300_u64, 0..8_u8, any::<u8>()), 0..300)) {
            let (mut sparse, mut model) = (Sparse::default(), BTreeMap::new());
            for (at, what, value) in steps {
                match what {
                    0 | 1 => {
                        sparse.remove(at);
                        model.remove(&at);
                    }
                    2 => {
                        sparse.retain(|known| *known >= value);
                        model.retain(|_, known| *known >= value);
                    }
                    3 => sparse.trim(),
                    _ => {
                        *sparse.get_or_insert_with(at, || value) |= 1;
                        *model.entry(at).or_insert(value) |= 1;
                    }
                }
                prop_assert_eq!(sparse.get_mut(at), model.get_mut(&at));
                prop_assert_eq!(sparse.is_empty(), model.is_empty());
                let range = at..at + u64::from(value);
                let expected = model.range(range.clone()).map(|(at, value)| (*at, *value));
                prop_assert!(sparse.range(range).map(|(at, value)| (at, *value)).eq(expected));
                let expected = model.iter().map(|(at, value)| (*at, *value));
                prop_assert!(sparse.iter().map(|(at, value)| (at, *value)).eq(expected));
            }
        }
    }

    #[test]
    fn trimming_gives_back_empty_pages_only() {
        let mut sparse = Sparse::default();
        for at in [3, 70, 700] {
            sparse.get_or_insert_with(at, || at);
        }
        sparse.remove(70);
        let pages = |sparse: &Sparse<u64>| sparse.pages.iter().flatten().count();
        assert_eq!(pages(&sparse), 3);
        sparse.trim();
        assert_eq!(pages(&sparse), 2);
        assert!(sparse.iter().map(|(at, _)| at).eq([3, 700]));
    }
}
