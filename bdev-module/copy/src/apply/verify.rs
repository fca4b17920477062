//! A verify record's turn: the volume's blocks against the primary's digests, when all that is earlier is on the volume
//! and nothing later.

use crate::digest::{self, Digest, PIECE_BYTES};
use crate::types::{Extent, PairId, RecordHead, Stamp};

/// Pieces of one read.
const PIECES_PER_READ: u64 = 4;

/// What a verify record found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) pair: PairId,
    pub(crate) stamp: Stamp,
    /// Bit n: piece n differs. `None`: the volume could not be read.
    pub(crate) differing: Option<u64>,
}

/// One verify record at work.
pub(super) struct Verifying {
    head: RecordHead,
    digests: Vec<Digest>,
    block_bytes: u32,
    piece: u64,
    /// `None`: it could not be read.
    differing: Option<u64>,
}

impl Verifying {
    pub(super) fn new(head: RecordHead, payload: &[u8], block_bytes: u32) -> Verifying {
        let digests = payload.as_chunks().0.to_vec();
        Verifying { head, digests, block_bytes, piece: 0, differing: Some(0) }
    }

    /// What to read next, and how many bytes that is; `None` when nothing is left to do.
    pub(super) fn next_read(&self) -> Option<(Extent, usize)> {
        self.differing?;
        let blocks_per_piece = (PIECE_BYTES / self.block_bytes as usize) as u64;
        let lba = self.head.extent.lba + self.piece * blocks_per_piece;
        let left = self.head.extent.end().checked_sub(lba).filter(|left| *left > 0)?;
        let blocks = left.min(PIECES_PER_READ * blocks_per_piece) as u32;
        Some((Extent { lba, blocks }, blocks as usize * self.block_bytes as usize))
    }

    /// That was read.
    pub(super) fn compare(&mut self, bytes: &[u8]) {
        let theirs = self.digests.get(self.piece as usize..).unwrap_or_default();
        let mask = digest::differing(bytes, theirs).checked_shl(self.piece as u32).unwrap_or(0);
        self.differing = self.differing.map(|before| before | mask);
        self.piece += PIECES_PER_READ;
    }

    /// That could not be read.
    pub(super) fn give_up(&mut self) {
        self.differing = None;
    }

    /// When nothing is left to do.
    pub(super) fn verdict(&self) -> Verdict {
        Verdict { pair: self.head.pair, stamp: self.head.stamp, differing: self.differing }
    }
}
