//! A log of records on one device, as a circle (design 4a, "Torn tail"): a secondary group's journal, its overlay of old
//! blocks, and a primary group's spill are each one. It is written by [`Journal`], read by [`walk::Walk`], and opened
//! again after a restart by the parts in [`open`]; what a log wants of the world it asks through [`device::LogPorts`].
//!
//! Group commit: everything released while one block is being written forms the next; one block is in flight at a time,
//! written, then flushed, durable when the flush is done. So a crash tears at most the last block, and every block found
//! proves that all before it were durable. Room is freed by the owner alone ([`Journal::free`]). A full log takes nothing: its
//! owner sees that before and waits ([`Journal::has_room`]).
//!
//! What the design gives up: a payload is copied once, into the block; and two flushes are never in flight together.

#[doc(hidden)]
pub mod alone;
pub(crate) mod device;
pub(crate) mod format;
pub(crate) mod open;
pub(crate) mod walk;

#[cfg(test)]
mod tests;

use crate::ports::{DeviceError, LocalIo, Memory};
use crate::types::{Epoch, Extent, Mono, Record, Time};
use device::LogPorts;
use format::{Area, BLOCK_BYTES_MAX, Entry, EntryHead, HEAD_BYTES, NewBlock};
use smallvec::SmallVec;
use zerocopy::IntoBytes;

/// Smallest journal, in bytes: the superblock, and two blocks of the largest size beside the one that is being freed.
pub const BYTES_MIN: u64 = if cfg!(test) { 64 << 10 } else { 8 << 20 };

/// Memory that a journal and the apply behind it take of the arena beside the streams' grants, in bytes: a block that is
/// being written, two that are being replayed, and a read; as much as two for an overlay's block and what it is made of;
/// and as much as two for what is read to answer questions and verify records, which waits when there is none.
pub const ARENA_BYTES: u64 = 8 * BLOCK_BYTES_MAX;

/// Bytes of one write or read.
const CHUNK_BYTES: u64 = 256 << 10;

/// How long after a device error the same is tried again, in nanoseconds.
pub(crate) const RETRY_NS: u64 = 1_000_000_000;

/// A point between two blocks of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    /// Position behind the block.
    pub(crate) position: u64,
    /// The block's checksum.
    pub(crate) previous: u32,
    /// Every record not later is before this point.
    pub(crate) limit: Time,
}

/// A released record on its way through the journal to its volume.
#[derive(Clone, Debug)]
pub(crate) struct Item<S> {
    pub(crate) record: Record<S>,
    pub(crate) epoch: Epoch,
    /// (number, id).
    pub(crate) generation: (u64, u64),
    /// Whether its charge is counted in its stream's grant (not for what was read back from the journal).
    pub(crate) charged: bool,
}

impl<S> crate::merge::Stamped for Item<S> {
    fn stamp(&self) -> crate::types::Stamp {
        self.record.head.stamp
    }
}

impl<S> Item<S> {
    /// What it takes in a journal block, in bytes.
    pub(crate) fn entry_bytes(&self) -> u64 {
        format::entry_bytes(self.record.head.payload_bytes)
    }
}

/// A block that is durable.
pub(crate) struct Committed<S> {
    /// The commit goes on: nothing of it counts yet.
    pub(crate) continues: bool,
    pub(crate) items: Vec<Item<S>>,
    /// Position behind it.
    pub(crate) end: u64,
    pub(crate) checksum: u32,
    pub(crate) limit: Time,
    /// What the block says of the log before it: it was durable up to here.
    pub(crate) durable_end: u64,
}

impl<S> Committed<S> {
    /// The point behind the block.
    pub(crate) fn point(&self) -> Point {
        Point { position: self.end, previous: self.checksum, limit: self.limit }
    }
}

/// A block's pieces: one for each [`CHUNK_BYTES`], one more at the circle's seam, and both ends may be odd.
type Pieces<B> = SmallVec<[(Extent, B); (BLOCK_BYTES_MAX / CHUNK_BYTES) as usize + 3]>;

struct Batch<S> {
    items: Vec<Item<S>>,
    chunks: Pieces<S>,
    blocks: u64,
    checksum: u32,
    limit: Time,
    durable_end: u64,
    continues: bool,
    writing: usize,
    error: Option<DeviceError>,
    retry_at: Option<Mono>,
}

/// What a [`Journal`] submits its I/O for, in its owner's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purposes<T> {
    /// A piece of a block is being written; ends in [`Journal::written`].
    pub(crate) write: T,
    /// The flush behind it; ends in [`Journal::flushed`].
    pub(crate) flush: T,
}

/// An open log, for appending.
pub(crate) struct Journal<S, T> {
    area: Area,
    purposes: Purposes<T>,
    id: u64,
    recovery_epoch: u64,
    /// Everything before this position is free.
    tail: u64,
    /// Everything before this position is durable; the next block goes here.
    end: u64,
    /// End of the last whole commit; not after `end`.
    committed: u64,
    previous: u32,
    batch: Option<Batch<S>>,
    /// Kept for its storage only.
    heads: Vec<EntryHead>,
}

impl<S: AsRef<[u8]> + Clone + 'static, T: Copy> Journal<S, T> {
    /// A log whose valid blocks lie from `tail` to `end`. `recovery_epoch` is durable and greater than that of any block.
    pub(crate) fn new(area: Area, purposes: Purposes<T>, id: u64, recovery_epoch: u64, tail: u64, end: Point) -> Self {
        let (end, previous) = (end.position, end.previous);
        Journal {
            area,
            purposes,
            id,
            recovery_epoch,
            tail,
            end,
            committed: end,
            previous,
            batch: None,
            heads: Vec::new(),
        }
    }

    /// Position up to which whole commits are durable.
    pub(crate) fn committed_end(&self) -> u64 {
        self.committed
    }

    /// The point behind the last block; its limit means nothing.
    pub(crate) fn point(&self) -> Point {
        Point { position: self.end, previous: self.previous, limit: Time(0) }
    }

    /// Whether a block is being written.
    pub(crate) fn is_busy(&self) -> bool {
        self.batch.is_some()
    }

    /// Bytes that a checkpoint has not freed, a block in flight included.
    pub(crate) fn used_bytes(&self) -> u64 {
        let flying = self.batch.as_ref().map_or(0, |batch| batch.blocks);
        (self.end - self.tail + flying) * u64::from(self.area.block_bytes)
    }

    /// Bytes of the circle.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.area.capacity * u64::from(self.area.block_bytes)
    }

    /// Entries of one block are at most this many bytes, so that a few blocks always fit into the circle.
    pub(crate) fn block_bytes_max(&self) -> u64 {
        BLOCK_BYTES_MAX.min(self.total_bytes() / 4)
    }

    /// Whether a block with entries of this many bytes has room now.
    pub(crate) fn has_room(&self, entries_bytes: u64) -> bool {
        let blocks = self.area.blocks_for(HEAD_BYTES as u64 + entries_bytes);
        self.end - self.tail + blocks <= self.area.capacity
    }

    /// Frees everything before the position; a checkpoint there is durable.
    pub(crate) fn free(&mut self, position: u64) {
        assert!(position >= self.tail && position <= self.committed, "a checkpoint lies inside the journal");
        self.tail = position;
    }

    /// The device's error, if it stands in the way; the write is tried again.
    pub(crate) fn error(&self) -> Option<DeviceError> {
        self.batch.as_ref().and_then(|batch| batch.error)
    }

    /// The device's error while nothing of the block is under way: now it may be given up ([`Journal::abandon`]).
    pub(crate) fn fault(&self) -> Option<DeviceError> {
        let idle = self.batch.as_ref().filter(|batch| batch.writing == 0 && batch.retry_at.is_some());
        idle.and_then(|batch| batch.error)
    }

    /// When to call [`Journal::poll`] for another try.
    pub(crate) fn retry_at(&self) -> Option<Mono> {
        self.batch.as_ref().and_then(|batch| batch.retry_at)
    }

    /// Starts writing the items as one block; every record not later than `limit` is in it or before. With `continues`
    /// the commit takes more blocks. The caller saw that there is room and that none is in flight. Without memory gives
    /// the items back: again in a later turn.
    pub(crate) fn begin<I: LogPorts<T, Shared = S>>(
        &mut self,
        io: &mut I,
        items: Vec<Item<S>>,
        limit: Time,
        continues: bool,
    ) -> Result<(), Vec<Item<S>>> {
        assert!(self.batch.is_none(), "one block is in flight at a time");
        let body_bytes: u64 = items.iter().map(Item::entry_bytes).sum();
        assert!(body_bytes <= BLOCK_BYTES_MAX && self.has_room(body_bytes));
        let blocks = self.area.blocks_for(HEAD_BYTES as u64 + body_bytes);
        let Some(mut chunks) = Chunks::alloc(&self.area, self.end, blocks, io) else { return Err(items) };

        let mut heads = std::mem::take(&mut self.heads);
        heads.extend(items.iter().map(|item| {
            let entry = Entry { head: item.record.head, epoch: item.epoch, generation: item.generation };
            entry.encode(payload_of(item))
        }));
        let (head, checksum) = format::block_head(&NewBlock {
            journal_id: self.id,
            position: self.end,
            recovery_epoch: self.recovery_epoch,
            previous: self.previous,
            durable_end: self.committed,
            limit,
            blocks: blocks as u32,
            body_bytes: body_bytes as u32,
            continues,
            heads: &heads,
        });
        chunks.write(&head);
        for (item, head) in items.iter().zip(&heads) {
            let payload = payload_of(item);
            chunks.write(head.as_bytes());
            chunks.write(payload);
            chunks.zero(payload.len().next_multiple_of(8) - payload.len());
        }
        heads.clear();
        self.heads = heads;
        let chunks = chunks.finish(io);
        self.batch = Some(Batch {
            items,
            chunks,
            blocks,
            checksum,
            limit,
            durable_end: self.committed,
            continues,
            writing: 0,
            error: None,
            retry_at: None,
        });
        self.write(io);
        Ok(())
    }

    fn write<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I) {
        let Some(batch) = &mut self.batch else { return };
        batch.retry_at = None;
        batch.writing = batch.chunks.len();
        for (extent, data) in &batch.chunks {
            let write = LocalIo::Write { extent: *extent, data: data.clone(), fua: false };
            io.submit_log(self.purposes.write, self.area.volume, write);
        }
    }

    /// A piece of the block was written, or not.
    pub(crate) fn written<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I, result: Result<(), DeviceError>) {
        let Some(batch) = &mut self.batch else { return };
        batch.writing = batch.writing.saturating_sub(1);
        if let Err(error) = result {
            batch.error = Some(error);
            batch.retry_at = Some(io.mono().after_ns(RETRY_NS));
        }
        if batch.writing == 0 && batch.retry_at.is_none() {
            io.submit_log(self.purposes.flush, self.area.volume, LocalIo::Flush);
        }
    }

    /// The flush behind the block ended: the block, if it is durable now. After a failure all of it is written again: a
    /// device may have forgotten what it could not make durable.
    pub(crate) fn flushed<I: LogPorts<T, Shared = S>>(
        &mut self,
        io: &mut I,
        result: Result<(), DeviceError>,
    ) -> Option<Committed<S>> {
        if let Err(error) = result {
            let batch = self.batch.as_mut()?;
            batch.error = Some(error);
            batch.retry_at = Some(io.mono().after_ns(RETRY_NS));
            return None;
        }
        let batch = self.batch.take()?;
        self.end += batch.blocks;
        self.previous = batch.checksum;
        if !batch.continues {
            self.committed = self.end;
        }
        Some(Committed {
            continues: batch.continues,
            items: batch.items,
            end: self.end,
            checksum: batch.checksum,
            limit: batch.limit,
            durable_end: batch.durable_end,
        })
    }

    /// Tries again what failed, when it is time.
    pub(crate) fn poll<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I) {
        let due = self.retry_at().is_some_and(|at| at <= io.mono());
        if due && self.batch.as_ref().is_some_and(|batch| batch.writing == 0) {
            self.write(io);
        }
    }

    /// Gives a block up that the device does not take: its items, which count as never journaled. What of it may be on
    /// the device lies beyond [`Journal::end`], and the caller sees to it that no recovery reads that far.
    pub(crate) fn abandon(&mut self) -> Vec<Item<S>> {
        self.batch.take().map_or_else(Vec::new, |batch| batch.items)
    }
}

fn payload_of<S: AsRef<[u8]>>(item: &Item<S>) -> &[u8] {
    let bytes = item.record.head.payload_bytes as usize;
    item.record.payload.as_ref().map_or(&[], |payload| &payload.as_ref()[..bytes])
}

/// The pieces of a block that is being put together: each inside the circle's seam and of at most [`CHUNK_BYTES`].
struct Chunks<B> {
    pieces: Pieces<B>,
    piece: usize,
    offset: usize,
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static> Chunks<B> {
    fn alloc<P: Memory<Buf = B>>(area: &Area, position: u64, blocks: u64, ports: &mut P) -> Option<Self> {
        let end = position + blocks;
        let per_chunk = CHUNK_BYTES / u64::from(area.block_bytes);
        let mut pieces = Pieces::new();
        let mut at = position;
        while at < end {
            let extent = area.extent(at, per_chunk.min(end - at));
            pieces.push((extent, ports.alloc(extent.blocks as usize * area.block_bytes as usize)?));
            at += u64::from(extent.blocks);
        }
        Some(Chunks { pieces, piece: 0, offset: 0 })
    }

    fn each(&mut self, mut length: usize, mut put: impl FnMut(&mut [u8])) {
        while length > 0 {
            let (_, buf) = &mut self.pieces[self.piece];
            let room = &mut buf.as_mut()[self.offset..];
            let count = room.len().min(length);
            put(&mut room[..count]);
            length -= count;
            if count == room.len() {
                self.piece += 1;
                self.offset = 0;
            } else {
                self.offset += count;
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        self.each(bytes.len(), |room| {
            let (now, later) = rest.split_at(room.len());
            room.copy_from_slice(now);
            rest = later;
        });
    }

    fn zero(&mut self, length: usize) {
        self.each(length, |room| room.fill(0));
    }

    /// Zeroes what is left and freezes.
    fn finish<P: Memory<Buf = B>>(mut self, ports: &mut P) -> Pieces<P::Shared> {
        if let Some((_, buf)) = self.pieces.get_mut(self.piece) {
            buf.as_mut()[self.offset..].fill(0);
        }
        let freeze = |(extent, buf): (Extent, B)| {
            let bytes = buf.as_ref().len();
            (extent, ports.freeze(buf, bytes))
        };
        self.pieces.into_iter().map(freeze).collect()
    }
}

/// Parses bytes as everything that a journal device may hold. For fuzzing: no bytes panic or allocate without bound.
#[doc(hidden)]
pub fn fuzz_journal(bytes: &[u8]) {
    let _ = format::parse_super(bytes);
    for block_bytes in [512, 4096] {
        for journal_id in [0, bytes.first_chunk::<8>().map_or(1, |id| u64::from_le_bytes(*id))] {
            for at in [0, 8] {
                let Some(block) = bytes.get(at..) else { continue };
                if let Ok(info) = format::parse_head(block, journal_id, block_bytes) {
                    let _ = format::parse_block(block, &info, |_, _| ());
                }
            }
        }
    }
    let _ = crate::secondary::fuzz_meta(bytes);
}
