//! Free lists of power-of-two blocks, by index; no memory is touched here, so no unsafe.

/// End of a list.
const NONE: u32 = u32::MAX;
/// What stands at a block's index: its order, with this bit set while it is in a free list, or with the next while it is among
/// the recent, with neither while it is used; and [`INSIDE`] where no block starts.
const FREE: u8 = 0x80;
const RECENT: u8 = 0x40;
const INSIDE: u8 = 0x7f;
/// How many blocks of an order are kept unjoined.
const RECENT_MAX: usize = 64;

/// The buddy allocator: `alloc` and `free` cost at most one step per order. Blocks just freed are kept as they are, for the
/// next of their size: a reactor takes and gives the same few sizes all the time, and splitting and joining a whole arena
/// for each cost more than the rest of the allocation. They are joined before an allocation fails.
pub(super) struct Buddy {
    /// Freed blocks of each order, not yet joined with their buddies; the warmest last.
    recent: Vec<Vec<u32>>,
    /// First free block of each order.
    heads: Vec<u32>,
    next: Box<[u32]>,
    prev: Box<[u32]>,
    tags: Box<[u8]>,
    free_blocks: u32,
}

impl Buddy {
    /// `blocks` smallest blocks, all free; need not be a power of two.
    pub(super) fn new(blocks: u32) -> Buddy {
        assert!(blocks > 0 && blocks < NONE);
        let n = blocks as usize;
        let mut buddy = Buddy {
            recent: (0..=blocks.ilog2()).map(|_| Vec::with_capacity(RECENT_MAX)).collect(),
            heads: vec![NONE; blocks.ilog2() as usize + 1],
            next: vec![NONE; n].into(),
            prev: vec![NONE; n].into(),
            tags: vec![INSIDE; n].into(),
            free_blocks: blocks,
        };
        // The binary digits of `blocks`, largest first: each start is a multiple of its size.
        let mut start = 0;
        for order in (0..=blocks.ilog2()).rev() {
            if blocks & (1 << order) != 0 {
                buddy.push(start, order);
                start += 1 << order;
            }
        }
        buddy
    }

    /// How many smallest blocks' worth is free.
    pub(super) fn free_blocks(&self) -> u32 {
        self.free_blocks
    }

    /// Takes a block of `1 << order` smallest blocks and gives its index.
    pub(super) fn alloc(&mut self, order: u32) -> Option<u32> {
        let index = match self.recent.get_mut(order as usize)?.pop() {
            Some(index) => index,
            None => self.split(order).or_else(|| {
                self.join_recent();
                self.split(order)
            })?,
        };
        self.tags[index as usize] = order as u8;
        self.free_blocks -= 1 << order;
        Some(index)
    }

    /// Gives back a block that [`alloc`](Buddy::alloc) gave.
    pub(super) fn free(&mut self, index: u32) {
        let tag = self.tags[index as usize];
        assert!(tag & (FREE | RECENT) == 0, "block {index} freed twice or never allocated");
        self.free_blocks += 1 << tag;
        let recent = &mut self.recent[usize::from(tag)];
        if recent.len() < RECENT_MAX {
            recent.push(index);
            self.tags[index as usize] = RECENT | tag;
        } else {
            self.join(index, u32::from(tag));
        }
    }

    /// Cuts the smallest block that is large enough out of the free lists.
    fn split(&mut self, order: u32) -> Option<u32> {
        let found = (order..self.heads.len() as u32).find(|&o| self.heads[o as usize] != NONE)?;
        let index = self.heads[found as usize];
        self.unlink(index, found);
        for half in (order..found).rev() {
            self.push(index + (1 << half), half);
        }
        Some(index)
    }

    fn join_recent(&mut self) {
        for order in 0..self.recent.len() {
            while let Some(index) = self.recent[order].pop() {
                self.join(index, order as u32);
            }
        }
    }

    /// Puts a block into the free lists, joined with its free buddies.
    fn join(&mut self, mut index: u32, mut order: u32) {
        self.tags[index as usize] = INSIDE;
        loop {
            let buddy = index ^ (1 << order);
            // A buddy past the end has no tag; one that is split, used or recent has another tag.
            if self.tags.get(buddy as usize) != Some(&(FREE | order as u8)) {
                break;
            }
            self.unlink(buddy, order);
            index = index.min(buddy);
            order += 1;
        }
        self.push(index, order);
    }

    fn push(&mut self, index: u32, order: u32) {
        let head = std::mem::replace(&mut self.heads[order as usize], index);
        self.tags[index as usize] = FREE | order as u8;
        self.next[index as usize] = head;
        self.prev[index as usize] = NONE;
        if head != NONE {
            self.prev[head as usize] = index;
        }
    }

    fn unlink(&mut self, index: u32, order: u32) {
        let (next, prev) = (self.next[index as usize], self.prev[index as usize]);
        match prev {
            NONE => self.heads[order as usize] = next,
            prev => self.next[prev as usize] = next,
        }
        if next != NONE {
            self.prev[next as usize] = prev;
        }
        self.tags[index as usize] = INSIDE;
    }
}
