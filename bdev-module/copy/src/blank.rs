//! The check that a volume is empty: reads all of it and says whether every byte is zero.
//!
//! Used at both sites before a pair may be taken for equal without an operator's word. A small machine of its own, so
//! that it holds neither side's state: the owner gives it tokens, hands back what the tokens brought, and calls
//! [`BlankCheck::poll`] in each turn.

use crate::ports::{DeviceError, LocalIo, LocalToken, Ports};
use crate::types::{Extent, Geometry, VolumeId};
use smallvec::SmallVec;

/// Bytes per read.
const READ_BYTES: u64 = 1 << 20;
/// Reads in flight at most: what the check holds of the memory is this times [`READ_BYTES`].
const READS_MAX: usize = 4;

/// A volume being checked.
#[derive(Debug)]
pub struct BlankCheck {
    volume: VolumeId,
    geometry: Geometry,
    next_lba: u64,
    checked_blocks: u64,
    in_flight: SmallVec<[(LocalToken, Extent); READS_MAX]>,
    found: Option<Verdict>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every byte is zero.
    Blank,
    /// There is data: this is a block that is not zero.
    HasData {
        /// The block.
        lba: u64,
    },
    /// A read failed.
    Unreadable {
        /// First block of the read.
        lba: u64,
        /// The device's word.
        error: DeviceError,
    },
}

/// How far a check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that were read and found to be zero.
    pub checked_bytes: u64,
    /// Size of the volume.
    pub total_bytes: u64,
}

impl BlankCheck {
    /// A check of the volume; the first [`BlankCheck::poll`] starts it.
    pub fn new(volume: VolumeId, geometry: Geometry) -> BlankCheck {
        BlankCheck { volume, geometry, next_lba: 0, checked_blocks: 0, in_flight: SmallVec::new(), found: None }
    }

    /// Submits the reads that there is room and memory for, each under a token from `token`. Call at the start, in each
    /// turn (memory may have come free), and after [`BlankCheck::done`].
    pub fn poll<P: Ports>(&mut self, ports: &mut P, mut token: impl FnMut() -> LocalToken) {
        while self.found.is_none() && self.next_lba < self.geometry.blocks && self.in_flight.len() < READS_MAX {
            let per_read = (READ_BYTES / u64::from(self.geometry.block_bytes)).max(1);
            let blocks = per_read.min(self.geometry.blocks - self.next_lba) as u32;
            let extent = Extent { lba: self.next_lba, blocks };
            let Some(buf) = ports.alloc(blocks as usize * self.geometry.block_bytes as usize) else { return };
            let token = token();
            self.in_flight.push((token, extent));
            self.next_lba = extent.end();
            ports.local(self.volume, LocalIo::Read { extent, buf }, token);
        }
    }

    /// Takes the end of a read that carried one of its tokens.
    pub fn done(&mut self, token: LocalToken, result: Result<(), DeviceError>, data: Option<&[u8]>) {
        let Some(at) = self.in_flight.iter().position(|(known, _)| *known == token) else { return };
        let (_, extent) = self.in_flight.swap_remove(at);
        let bytes = u64::from(extent.blocks) * u64::from(self.geometry.block_bytes);
        let finding = match (result, data) {
            (Err(error), _) => Some(Verdict::Unreadable { lba: extent.lba, error }),
            (Ok(()), Some(data)) if data.len() as u64 >= bytes => first_data_byte(&data[..bytes as usize])
                .map(|at| Verdict::HasData { lba: extent.lba + (at / self.geometry.block_bytes as usize) as u64 }),
            (Ok(()), _) => Some(Verdict::Unreadable { lba: extent.lba, error: DeviceError { errno: 5 } }),
        };
        match finding {
            None => self.checked_blocks += u64::from(extent.blocks),
            Some(finding) => _ = self.found.get_or_insert(finding),
        }
    }

    /// How it ended; only when none of its reads is in flight any more.
    pub fn verdict(&self) -> Option<Verdict> {
        if !self.in_flight.is_empty() {
            return None;
        }
        self.found.or((self.checked_blocks == self.geometry.blocks).then_some(Verdict::Blank))
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress {
            checked_bytes: self.checked_blocks * u64::from(self.geometry.block_bytes),
            total_bytes: self.geometry.bytes(),
        }
    }
}

/// Index of the first byte that is not zero. Looks at 64 bytes at a time without a branch inside, so that the compiler
/// can use wide registers.
fn first_data_byte(data: &[u8]) -> Option<usize> {
    const STEP: usize = 64;
    let whole = data.chunks_exact(STEP).position(|chunk| chunk.iter().fold(0, |any, byte| any | byte) != 0);
    let from = whole.map_or(data.len() - data.len() % STEP, |chunk| chunk * STEP);
    data[from..].iter().position(|byte| *byte != 0).map(|at| from + at)
}

#[cfg(test)]
mod tests;
