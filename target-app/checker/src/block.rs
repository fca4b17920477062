//! What a block holds: the name of its write, or nothing.
//!
//! Layout, little endian: a header of 64 bytes (magic, run, write id, volume, block index in the write, LBA, blocks in
//! the write, block size, CRC32C), then a pattern drawn from the header, so that no two blocks of a run are alike and a
//! block put together from parts of two writes never passes. The CRC32C covers the whole block with its own field
//! zero.

use crc_fast::{CrcAlgorithm, Digest};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::history::{BlockBytes, Extent, WriteId};

const MAGIC: [u8; 8] = *b"LRblock1";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    run: U64,
    write: U64,
    lba: U64,
    volume: U32,
    index: U32,
    blocks: U32,
    block_bytes: U32,
    crc: U32,
    zero: [u8; 12],
}

const HEADER_BYTES: usize = 64;
const CRC_AT: usize = 48;
const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(std::mem::offset_of!(Header, crc) == CRC_AT);

/// What one block says about where its content came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockSays {
    /// All zero: never written.
    Initial,
    /// Written by this write, in this place.
    Write(WriteId),
    /// Neither: no copy of this run may hold it.
    Foreign(Foreign),
}

/// Why a block is neither initial nor of a known write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Foreign {
    /// It has no header of ours, and is not all zero either.
    #[error("it is neither a named block nor all zero")]
    NotOurs,
    /// It has a header, but the checksum does not match: torn or damaged.
    #[error("its checksum does not match: it is torn or damaged")]
    Damaged,
    /// It was written in another run.
    #[error("it was written in another run")]
    OtherRun,
    /// It is a good block of this run, but belongs elsewhere.
    #[error("it is a good block that belongs in another place")]
    Misplaced,
    /// It names a write that the history has not, or that had not been issued yet.
    #[error("it names a write that the host had not issued")]
    Unknown,
    /// Nobody read it.
    #[error("it was not read back")]
    Unread,
}

const FOREIGN: [Foreign; 6] =
    [Foreign::NotOurs, Foreign::Damaged, Foreign::OtherRun, Foreign::Misplaced, Foreign::Unknown, Foreign::Unread];

impl BlockSays {
    /// One word: 0 for initial, 1..=6 for foreign, else the write's id, which is never below 2^40.
    pub(crate) fn pack(self) -> u64 {
        match self {
            BlockSays::Initial => 0,
            BlockSays::Foreign(why) => 1 + FOREIGN.iter().position(|f| *f == why).unwrap_or(0) as u64,
            BlockSays::Write(id) => id.raw(),
        }
    }

    pub(crate) fn unpack(word: u64) -> Self {
        if word == 0 {
            return BlockSays::Initial;
        }
        match WriteId::from_raw(word) {
            Some(id) => BlockSays::Write(id),
            None => BlockSays::Foreign(FOREIGN.get(word as usize - 1).copied().unwrap_or(Foreign::NotOurs)),
        }
    }
}

/// Fills and recognises the blocks of one run. The run's number tells its blocks from what an earlier run left behind.
#[derive(Clone, Copy, Debug)]
pub struct Contents {
    run: u64,
}

impl Contents {
    /// The contents of run `run`.
    pub const fn new(run: u64) -> Self {
        Contents { run }
    }

    /// Writes into `data` what write `id` puts into `extent`. Costs about a nanosecond for each 8 bytes.
    ///
    /// # Panics
    ///
    /// If `data` is not as long as the extent's blocks.
    pub fn fill(&self, data: &mut [u8], id: WriteId, extent: Extent, block_bytes: BlockBytes) {
        let size = block_bytes.get();
        assert_eq!(data.len(), extent.blocks as usize * size, "the buffer is as long as the extent");
        for (index, block) in data.chunks_exact_mut(size).enumerate() {
            let header = Header {
                magic: MAGIC,
                run: self.run.into(),
                write: id.raw().into(),
                lba: (extent.lba + index as u64).into(),
                volume: u32::from(extent.volume).into(),
                index: (index as u32).into(),
                blocks: extent.blocks.into(),
                block_bytes: (size as u32).into(),
                crc: 0.into(),
                zero: [0; 12],
            };
            let (head, rest) = block.split_at_mut(HEADER_BYTES);
            head.copy_from_slice(header.as_bytes());
            let mut state = self.run ^ id.raw().rotate_left(17) ^ (index as u64).rotate_left(48);
            for word in rest.chunks_exact_mut(8) {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                word.copy_from_slice(&mix(state).to_le_bytes());
            }
            let crc = crc_fast::crc32_iscsi(block);
            block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        }
    }

    /// What `block`, read from block `lba` of volume `volume`, says. Any bytes are an answer, never a panic.
    pub fn identify(&self, block: &[u8], volume: u16, lba: u64) -> BlockSays {
        let Ok((header, _)) = Header::ref_from_prefix(block) else {
            return BlockSays::Foreign(Foreign::NotOurs);
        };
        if header.magic != MAGIC {
            let any = block.iter().fold(0, |any, byte| any | byte);
            return if any == 0 { BlockSays::Initial } else { BlockSays::Foreign(Foreign::NotOurs) };
        }
        let mut crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
        for part in [&block[..CRC_AT], &[0; 4], &block[CRC_AT + 4..]] {
            crc.update(part);
        }
        if crc.finalize() as u32 != header.crc.get() || header.block_bytes.get() as usize != block.len() {
            return BlockSays::Foreign(Foreign::Damaged);
        }
        if header.run.get() != self.run {
            return BlockSays::Foreign(Foreign::OtherRun);
        }
        if header.volume.get() != u32::from(volume) || header.lba.get() != lba {
            return BlockSays::Foreign(Foreign::Misplaced);
        }
        match WriteId::from_raw(header.write.get()) {
            Some(id) if header.index.get() < header.blocks.get() => BlockSays::Write(id),
            _ => BlockSays::Foreign(Foreign::Damaged),
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): spreads a counter over 64 bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
