//! The journal's layout on its device, and its parser. Everything that is read here may be torn, stale or hostile.
//!
//! The first 4096 bytes hold the superblock. Behind it lies a circle of device blocks, addressed by a position that only
//! rises. A *journal block* (below: block) is what one group commit wrote: a head, then entries, each with its own head
//! and its payload padded to 8 bytes, then zeroes up to a whole device block. A block's checksum covers its head and its
//! entries' heads; these hold their payloads' checksums, so that each byte is summed once.
//!
//! Records with one time (of several streams) belong to one commit, so that every commit ends at a cut. If they need more
//! than one block, all but the last say that they continue; a commit whose last block is missing never was.

use crate::crc::{Crc32c, crc32c};
use crate::types::{
    Epoch, Extent, Geometry, GroupId, PairId, RecordHead, RecordKind, Seq, Stamp, StreamId, Time, VolumeId,
};
use std::mem::size_of;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the layout.
const VERSION: u32 = 1;
const SUPER_MAGIC: [u8; 8] = *b"LONGRUNJ";
const BLOCK_MAGIC: [u8; 8] = *b"LRJBLOCK";
const ENTRY_MAGIC: u32 = 0x4e45_524c;
/// Bytes before the circle.
const SUPER_BYTES: u64 = 4096;

/// Payload and entry heads of one block are at most this many bytes; one largest record always fits.
pub const BLOCK_BYTES_MAX: u64 = 2 << 20;

/// Size of [`BlockHead`] in bytes.
pub(crate) const HEAD_BYTES: usize = size_of::<BlockHead>();

/// Where the circle lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) volume: VolumeId,
    pub(crate) block_bytes: u32,
    first: u64,
    /// Device blocks in the circle.
    pub(crate) capacity: u64,
}

impl Area {
    pub(crate) fn new(volume: VolumeId, geometry: Geometry) -> Area {
        let first = SUPER_BYTES / u64::from(geometry.block_bytes);
        let capacity = geometry.blocks.saturating_sub(first);
        Area { volume, block_bytes: geometry.block_bytes, first, capacity }
    }

    /// The device blocks from this position on, at most `blocks` and not beyond the circle's seam.
    pub(crate) fn extent(&self, position: u64, blocks: u64) -> Extent {
        let at = position % self.capacity;
        let blocks = blocks.min(self.capacity - at);
        Extent { lba: self.first + at, blocks: blocks as u32 }
    }

    pub(crate) fn blocks_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(u64::from(self.block_bytes))
    }

    /// The superblock's extent.
    pub(crate) fn super_extent(&self) -> Extent {
        Extent { lba: 0, blocks: self.first as u32 }
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Superblock {
    magic: [u8; 8],
    version: U32,
    crc: U32,
    journal_id: U64,
    group: U64,
    blocks: U64,
    block_bytes: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<Superblock>() == 48);

/// What stands in a journal's first blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Super {
    /// All zeroes.
    Blank,
    /// A journal.
    Journal { id: u64, group: GroupId, geometry: Geometry },
    /// Something else.
    Foreign,
}

/// The superblock's bytes.
pub(crate) fn super_bytes(id: u64, group: GroupId, geometry: Geometry, out: &mut [u8]) {
    out.fill(0);
    let mut head = Superblock {
        magic: SUPER_MAGIC,
        version: VERSION.into(),
        crc: 0.into(),
        journal_id: id.into(),
        group: group.0.into(),
        blocks: geometry.blocks.into(),
        block_bytes: geometry.block_bytes.into(),
        reserved: 0.into(),
    };
    head.crc = crc32c(head.as_bytes()).into();
    out[..size_of::<Superblock>()].copy_from_slice(head.as_bytes());
}

/// Reads a superblock.
pub(crate) fn parse_super(bytes: &[u8]) -> Super {
    if bytes.iter().all(|byte| *byte == 0) {
        return Super::Blank;
    }
    let Ok((mut head, _)) = Superblock::read_from_prefix(bytes) else { return Super::Foreign };
    let crc = head.crc.get();
    head.crc = 0.into();
    if head.magic != SUPER_MAGIC || head.version.get() != VERSION || crc != crc32c(head.as_bytes()) {
        return Super::Foreign;
    }
    Super::Journal {
        id: head.journal_id.get(),
        group: GroupId(head.group.get()),
        geometry: Geometry { blocks: head.blocks.get(), block_bytes: head.block_bytes.get() },
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BlockHead {
    magic: [u8; 8],
    version: U32,
    /// Over this head with 0 here, then over the entries' heads.
    checksum: U32,
    /// Over this head alone, with 0 here and in `checksum`.
    head_crc: U32,
    previous: U32,
    journal_id: U64,
    position: U64,
    recovery_epoch: U64,
    durable_end: U64,
    limit: U64,
    blocks: U32,
    entries: U32,
    body_bytes: U32,
    /// 1 if the commit goes on in the next block, else 0.
    continues: U32,
}
const _: () = assert!(size_of::<BlockHead>() == 80);

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct EntryHead {
    magic: U32,
    /// Over this head, with 0 here.
    head_crc: U32,
    payload_crc: U32,
    payload_bytes: U32,
    stream: U64,
    epoch: U64,
    seq: U64,
    time: U64,
    generation_number: U64,
    generation_id: U64,
    pair: U64,
    lba: U64,
    blocks: U32,
    kind: u8,
    reserved: [u8; 3],
}
const _: () = assert!(size_of::<EntryHead>() == 88);

/// Size of an entry's head, in bytes.
pub(crate) const ENTRY_BYTES: usize = size_of::<EntryHead>();

/// What a record takes in a block, in bytes.
pub(crate) fn entry_bytes(payload_bytes: u32) -> u64 {
    ENTRY_BYTES as u64 + u64::from(payload_bytes).next_multiple_of(8)
}

/// A record's entry without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) head: RecordHead,
    pub(crate) epoch: Epoch,
    /// (number, id).
    pub(crate) generation: (u64, u64),
}

impl Entry {
    pub(crate) fn encode(&self, payload: &[u8]) -> EntryHead {
        let head = &self.head;
        let mut out = EntryHead {
            magic: ENTRY_MAGIC.into(),
            head_crc: 0.into(),
            payload_crc: crc32c(payload).into(),
            payload_bytes: head.payload_bytes.into(),
            stream: head.stamp.stream.0.into(),
            epoch: self.epoch.0.into(),
            seq: head.stamp.seq.0.into(),
            time: head.stamp.time.0.into(),
            generation_number: self.generation.0.into(),
            generation_id: self.generation.1.into(),
            pair: head.pair.0.into(),
            lba: head.extent.lba.into(),
            blocks: head.extent.blocks.into(),
            kind: head.kind.code(),
            reserved: [0; 3],
        };
        out.head_crc = crc32c(out.as_bytes()).into();
        out
    }
}

/// What a block says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockInfo {
    pub(crate) position: u64,
    pub(crate) recovery_epoch: u64,
    /// Everything before this position was durable when the block was written.
    pub(crate) durable_end: u64,
    /// Every record not later is in this block or before.
    pub(crate) limit: Time,
    /// Device blocks it takes.
    pub(crate) blocks: u64,
    pub(crate) checksum: u32,
    /// Whether the commit goes on in the next block; without that one it never was.
    pub(crate) continues: bool,
    previous: u32,
    entries: u32,
    body_bytes: u32,
}

/// What the head of a block that is to be written says.
pub(crate) struct NewBlock {
    pub(crate) journal_id: u64,
    pub(crate) position: u64,
    pub(crate) recovery_epoch: u64,
    pub(crate) previous: u32,
    pub(crate) durable_end: u64,
    pub(crate) limit: Time,
    pub(crate) blocks: u32,
    pub(crate) body_bytes: u32,
    pub(crate) continues: bool,
    pub(crate) entries: u32,
}

/// A block's head, whose checksum grows with each entry.
pub(crate) struct NewHead {
    head: BlockHead,
    checksum: Crc32c,
}

impl NewHead {
    pub(crate) fn new(new: &NewBlock) -> NewHead {
        let mut head = BlockHead {
            magic: BLOCK_MAGIC,
            version: VERSION.into(),
            checksum: 0.into(),
            head_crc: 0.into(),
            previous: new.previous.into(),
            journal_id: new.journal_id.into(),
            position: new.position.into(),
            recovery_epoch: new.recovery_epoch.into(),
            durable_end: new.durable_end.into(),
            limit: new.limit.0.into(),
            blocks: new.blocks.into(),
            entries: new.entries.into(),
            body_bytes: new.body_bytes.into(),
            continues: u32::from(new.continues).into(),
        };
        head.head_crc = crc32c(head.as_bytes()).into();
        let checksum = Crc32c::of(head.as_bytes());
        NewHead { head, checksum }
    }

    /// The next entry's head.
    pub(crate) fn add(&mut self, entry: &EntryHead) {
        self.checksum.add(entry.as_bytes());
    }

    /// Its bytes, and its checksum.
    pub(crate) fn finish(mut self) -> ([u8; HEAD_BYTES], u32) {
        let checksum = self.checksum.value();
        self.head.checksum = checksum.into();
        let mut bytes = [0; HEAD_BYTES];
        bytes.copy_from_slice(self.head.as_bytes());
        (bytes, checksum)
    }
}

/// Why bytes are not the block that was expected. At the journal's end every one of these is normal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BlockError {
    /// No head there.
    #[error("no journal block")]
    NoHead,
    /// A head of another journal, position or recovery epoch.
    #[error("a stale journal block")]
    Stale,
    /// Does not continue the block before it.
    #[error("a journal block that does not continue the one before it")]
    NotChained,
    /// The head is whole, what follows is not.
    #[error("a torn journal block")]
    Torn,
}

/// What the next block must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expect {
    pub(crate) journal_id: u64,
    pub(crate) position: u64,
    /// Checksum of the block before.
    pub(crate) previous: u32,
    /// Recovery epoch of the block before: it never falls.
    pub(crate) epoch_min: u64,
    /// The newest recovery epoch that was ever made durable.
    pub(crate) epoch_max: u64,
}

impl Expect {
    /// What must come after this block.
    pub(crate) fn after(self, block: &BlockInfo) -> Expect {
        Expect {
            position: block.position + block.blocks,
            previous: block.checksum,
            epoch_min: block.recovery_epoch,
            ..self
        }
    }
}

/// Reads a block's head, of whatever position, if it is one of this journal.
pub(crate) fn parse_head(bytes: &[u8], journal_id: u64, block_bytes: u32) -> Result<BlockInfo, BlockError> {
    let (mut head, _) = BlockHead::read_from_prefix(bytes).map_err(|_| BlockError::NoHead)?;
    if head.magic != BLOCK_MAGIC || head.version.get() != VERSION {
        return Err(BlockError::NoHead);
    }
    let (checksum, head_crc) = (head.checksum.get(), head.head_crc.get());
    head.checksum = 0.into();
    head.head_crc = 0.into();
    if head_crc != crc32c(head.as_bytes()) {
        return Err(BlockError::NoHead);
    }
    let blocks = u64::from(head.blocks.get());
    let body = u64::from(head.body_bytes.get());
    let least = (HEAD_BYTES as u64 + body).div_ceil(u64::from(block_bytes));
    if head.journal_id.get() != journal_id || blocks != least || body > BLOCK_BYTES_MAX {
        return Err(BlockError::Stale);
    }
    Ok(BlockInfo {
        position: head.position.get(),
        recovery_epoch: head.recovery_epoch.get(),
        durable_end: head.durable_end.get(),
        limit: Time(head.limit.get()),
        blocks,
        checksum,
        continues: head.continues.get() != 0,
        previous: head.previous.get(),
        entries: head.entries.get(),
        body_bytes: head.body_bytes.get(),
    })
}

/// Judges a head against what the journal's order demands.
pub(crate) fn check_head(info: &BlockInfo, expect: &Expect) -> Result<(), BlockError> {
    if info.position != expect.position || info.recovery_epoch > expect.epoch_max {
        return Err(BlockError::Stale);
    }
    if info.recovery_epoch < expect.epoch_min || info.durable_end > info.position {
        return Err(BlockError::Stale);
    }
    if info.previous != expect.previous {
        return Err(BlockError::NotChained);
    }
    Ok(())
}

/// Checks a whole block and hands its entries to `each`, in order, with their payloads. `bytes` starts with the block.
/// Nothing is handed out unless everything holds.
pub(crate) fn parse_block(
    bytes: &[u8],
    info: &BlockInfo,
    mut each: impl FnMut(Entry, &[u8]),
) -> Result<(), BlockError> {
    let end = HEAD_BYTES + info.body_bytes as usize;
    let body = bytes.get(HEAD_BYTES..end).ok_or(BlockError::Torn)?;
    let (mut head, _) = BlockHead::read_from_prefix(bytes).map_err(|_| BlockError::NoHead)?;
    head.checksum = 0.into();
    let mut checksum = Crc32c::of(head.as_bytes());
    walk(body, info.entries, |entry, head, payload| {
        checksum.add(head.as_bytes());
        let _ = entry;
        if crc32c(payload) == head.payload_crc.get() { Ok(()) } else { Err(BlockError::Torn) }
    })?;
    if checksum.value() != info.checksum {
        return Err(BlockError::Torn);
    }
    walk(body, info.entries, |entry, _, payload| {
        each(entry, payload);
        Ok(())
    })
}

fn walk(
    body: &[u8],
    entries: u32,
    mut each: impl FnMut(Entry, &EntryHead, &[u8]) -> Result<(), BlockError>,
) -> Result<(), BlockError> {
    let mut rest = body;
    for _ in 0..entries {
        let (head, after) = EntryHead::read_from_prefix(rest).map_err(|_| BlockError::Torn)?;
        let entry = parse_entry(&head)?;
        let length = head.payload_bytes.get() as usize;
        let payload = after.get(..length).ok_or(BlockError::Torn)?;
        rest = after.get(length.next_multiple_of(8)..).ok_or(BlockError::Torn)?;
        each(entry, &head, payload)?;
    }
    if rest.is_empty() { Ok(()) } else { Err(BlockError::Torn) }
}

fn parse_entry(head: &EntryHead) -> Result<Entry, BlockError> {
    let mut zeroed = *head;
    zeroed.head_crc = 0.into();
    if head.magic.get() != ENTRY_MAGIC || head.head_crc.get() != crc32c(zeroed.as_bytes()) {
        return Err(BlockError::Torn);
    }
    let kind = RecordKind::from_code(head.kind).ok_or(BlockError::Torn)?;
    if kind.has_payload() != (head.payload_bytes.get() > 0) {
        return Err(BlockError::Torn);
    }
    Ok(Entry {
        head: RecordHead {
            stamp: Stamp { time: Time(head.time.get()), stream: StreamId(head.stream.get()), seq: Seq(head.seq.get()) },
            pair: PairId(head.pair.get()),
            kind,
            extent: Extent { lba: head.lba.get(), blocks: head.blocks.get() },
            payload_bytes: head.payload_bytes.get(),
        },
        epoch: Epoch(head.epoch.get()),
        generation: (head.generation_number.get(), head.generation_id.get()),
    })
}
