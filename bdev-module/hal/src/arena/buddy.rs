//! Free lists of power-of-two blocks, by index; no memory is touched here, so no unsafe.

/// End of a list.
const NONE: u32 = u32::MAX;
/// What stands at a block's index: its order with this bit set while it is free, without while it is used, and
/// [`INSIDE`] where no block starts.
const FREE: u8 = 0x80;
const INSIDE: u8 = 0x7f;

/// The buddy allocator: `alloc` and `free` cost at most one step per order.
pub(super) struct Buddy {
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
        let found = (order..self.heads.len() as u32).find(|&o| self.heads[o as usize] != NONE)?;
        let index = self.heads[found as usize];
        self.unlink(index, found);
        for half in (order..found).rev() {
            self.push(index + (1 << half), half);
        }
        self.tags[index as usize] = order as u8;
        self.free_blocks -= 1 << order;
        Some(index)
    }

    /// Gives back a block that [`alloc`](Buddy::alloc) gave, and joins it with its free buddies.
    pub(super) fn free(&mut self, index: u32) {
        let tag = self.tags[index as usize];
        assert!(tag & FREE == 0 && tag != INSIDE, "block {index} freed twice or never allocated");
        let (mut index, mut order) = (index, u32::from(tag));
        self.free_blocks += 1 << order;
        self.tags[index as usize] = INSIDE;
        loop {
            let buddy = index ^ (1 << order);
            // A buddy past the end has no tag; one that is split or used has another tag.
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
