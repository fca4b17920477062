//! Where records are kept while their keys are sorted.

/// Records of one page.
const PAGE_RECORDS: usize = 64;

#[derive(Debug)]
struct Page<R> {
    records: Vec<Option<R>>,
    kept: usize,
}

/// Records by the slot that they were given. Filled in order, page by page, and a page is used again as a whole: so what came
/// together lies together. (With a list of free slots each record goes to where an unrelated one was, a cache miss that
/// has to be waited for to find the next.) What that gives up: one record keeps
/// its page's memory.
#[derive(Debug)]
pub(super) struct Shelf<R> {
    pages: Vec<Page<R>>,
    /// The page that is being filled, if there is one.
    open: usize,
    empty: Vec<usize>,
    kept: usize,
}

impl<R> Default for Shelf<R> {
    fn default() -> Self {
        Shelf { pages: Vec::new(), open: 0, empty: Vec::new(), kept: 0 }
    }
}

impl<R> Shelf<R> {
    pub(super) fn is_empty(&self) -> bool {
        self.kept == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &R> {
        self.pages.iter().flat_map(|page| &page.records).flatten()
    }

    /// The record's slot.
    pub(super) fn insert(&mut self, record: R) -> usize {
        if self.pages.get(self.open).is_none_or(|page| page.records.len() == PAGE_RECORDS) {
            self.open = self.empty.pop().unwrap_or_else(|| {
                self.pages.push(Page { records: Vec::with_capacity(PAGE_RECORDS), kept: 0 });
                self.pages.len() - 1
            });
        }
        let page = &mut self.pages[self.open];
        let slot = self.open * PAGE_RECORDS + page.records.len();
        page.records.push(Some(record));
        page.kept += 1;
        self.kept += 1;
        slot
    }

    /// The record of a slot that was given and not removed.
    pub(super) fn get(&self, slot: usize) -> Option<&R> {
        self.pages[slot / PAGE_RECORDS].records[slot % PAGE_RECORDS].as_ref()
    }

    /// Takes the record out; `None` if it was taken before.
    pub(super) fn remove(&mut self, slot: usize) -> Option<R> {
        let index = slot / PAGE_RECORDS;
        let page = &mut self.pages[index];
        let record = page.records[slot % PAGE_RECORDS].take()?;
        page.kept -= 1;
        self.kept -= 1;
        if page.kept == 0 {
            page.records.clear();
            if index != self.open {
                self.empty.push(index);
            }
        }
        Some(record)
    }
}
