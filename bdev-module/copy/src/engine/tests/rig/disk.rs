//! A disk with a volatile cache.

use super::*;

/// A disk with a volatile cache.
#[derive(Clone, Default)]
pub struct Disk {
    pub current: HashMap<u64, Block>,
    pub(super) durable: HashMap<u64, Block>,
    /// Blocks that were written and not flushed.
    pub(super) volatile: BTreeSet<u64>,
}

impl Disk {
    pub(super) fn run(&mut self, io: Local) -> Option<Vec<u8>> {
        match io {
            LocalIo::Read { extent, mut buf } => {
                for (lba, out) in extent.range().zip(buf.chunks_mut(BLOCK)) {
                    out.copy_from_slice(self.current.get(&lba).unwrap_or(&[0; BLOCK]));
                }
                return Some(buf);
            }
            LocalIo::Write { extent, data, fua } => {
                for (lba, block) in extent.range().zip(data.chunks(BLOCK)) {
                    self.put(lba, block.try_into().unwrap(), fua);
                }
            }
            LocalIo::WriteZeroes { extent, .. } | LocalIo::Unmap { extent } => {
                extent.range().for_each(|lba| self.put(lba, [0; BLOCK], false));
            }
            LocalIo::Flush => {
                for lba in std::mem::take(&mut self.volatile) {
                    self.durable.insert(lba, self.current[&lba]);
                }
            }
        }
        None
    }

    pub(super) fn put(&mut self, lba: u64, block: Block, is_durable: bool) {
        self.current.insert(lba, block);
        match is_durable {
            true => {
                self.durable.insert(lba, block);
                self.volatile.remove(&lba);
            }
            false => {
                self.volatile.insert(lba);
            }
        }
    }

    /// The power goes: of what was not flushed, any part stays.
    pub(super) fn crash(&mut self, chance: &mut ChaCha8Rng) -> BTreeSet<u64> {
        let volatile = std::mem::take(&mut self.volatile);
        for lba in &volatile {
            if chance.next_u32().is_multiple_of(2) {
                self.durable.insert(*lba, self.current[lba]);
            }
        }
        self.current = self.durable.clone();
        volatile
    }

    pub fn block(&self, lba: u64) -> Block {
        *self.current.get(&lba).unwrap_or(&[0; BLOCK])
    }
}
