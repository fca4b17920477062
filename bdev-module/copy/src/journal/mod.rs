//! A log of records on one device, as a circle (design 4a, "Torn tail"): a secondary group's journal, its overlay of old
//! blocks, and a primary group's spill are each one. It is written by [`Journal`], read by [`walk::Walk`], and opened
//! again after a restart by the parts in [`open`]; what a log wants of the world it asks through [`device::LogPorts`].
//!
//! Group commit: everything released while a block is being made durable forms the next one. When there is little, one block
//! is in flight at a time: written, then flushed, durable when the flush is done. When more waits than one block takes, up to
//! [`DEPTH`] are in flight ([`Journal::takes_more`]): the next is put together while others are written and flushed, and a
//! flush covers all that were written when it began, so that the device waits for no copy, and pays fewer flushes the longer
//! they take. A crash tears any of the blocks in flight: recovery cuts at the first that does not check. What a block proves is
//! what it says: the end of what was durable when it was begun.
//!
//! Room is freed by the owner alone ([`Journal::free`]). A full log takes nothing: its owner sees that before and waits
//! ([`Journal::has_room`]).
//!
//! What the design gives up: a payload is copied once, into the block; and two flushes are never in flight together. One
//! error sends all blocks in flight again, those too that had no part in it.

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
pub use format::BLOCK_BYTES_MAX;
use format::{Area, Entry, HEAD_BYTES, NewBlock, NewHead};
use smallvec::SmallVec;
use std::collections::VecDeque;
use zerocopy::IntoBytes;

/// Smallest journal, in bytes: the superblock, and two blocks of the largest size beside the one that is being freed.
pub const BYTES_MIN: u64 = if cfg!(test) { 64 << 10 } else { 8 << 20 };

/// Memory that a journal and the apply behind it take of the arena beside the streams' grants, in bytes: the blocks that are
/// in flight, two that are being replayed, and a read; as much as two for an overlay's block and what it is made of;
/// and as much as two for what is read to answer questions and verify records, which waits when there is none.
pub const ARENA_BYTES: u64 = (7 + DEPTH as u64) * BLOCK_BYTES_MAX;

/// Blocks in flight at most.
pub(crate) const DEPTH: usize = 6;

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

/// What a flush made durable, oldest first.
pub(crate) type Flushed<S> = SmallVec<[Committed<S>; DEPTH]>;

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

/// A block that is in flight.
struct Batch<S> {
    /// No other one in flight has it: its writes are known by it.
    lane: u8,
    /// Pieces that are being written.
    writing: u16,
    chunks: Pieces<S>,
    block: Committed<S>,
}

/// What a [`Journal`] submits its I/O for, in its owner's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purposes<T> {
    /// A piece of the block in this lane is being written; ends in [`Journal::written`]. A log whose owner begins a block only
    /// when none is in flight uses the first lane alone.
    pub(crate) write: [T; DEPTH],
    /// The flush behind it; ends in [`Journal::flushed`].
    pub(crate) flush: T,
}

/// An open log, for appending.
pub(crate) struct Journal<S, T> {
    area: Area,
    purposes: Purposes<T>,
    /// Entries of one block are at most this many bytes.
    block_bytes_max: u64,
    id: u64,
    recovery_epoch: u64,
    /// Everything before this position is free.
    tail: u64,
    /// Everything before this point is durable.
    end: Point,
    /// End of the last whole commit; not after `end`.
    committed: u64,
    /// Behind the blocks in flight: the next one goes here.
    head: Point,
    /// In flight, oldest first.
    flying: VecDeque<Batch<S>>,
    /// The flush under way covers so many of them; 0: none is under way.
    flushing: usize,
    /// Since the last flush that went well; no block begins behind it.
    error: Option<DeviceError>,
    /// When all that is in flight is written again.
    retry_at: Option<Mono>,
    /// A flush was asked for, and [`Journal::takes_more`] not since.
    is_flush_new: bool,
}

impl<S: AsRef<[u8]> + Clone + 'static, T: Copy> Journal<S, T> {
    /// A log whose valid blocks lie from `tail` to `end`. `recovery_epoch` is durable and greater than that of any block.
    pub(crate) fn new(area: Area, purposes: Purposes<T>, id: u64, recovery_epoch: u64, tail: u64, end: Point) -> Self {
        Journal {
            area,
            purposes,
            block_bytes_max: BLOCK_BYTES_MAX.min(area.capacity * u64::from(area.block_bytes) / 4),
            id,
            recovery_epoch,
            tail,
            end,
            committed: end.position,
            head: end,
            flying: VecDeque::with_capacity(DEPTH),
            flushing: 0,
            error: None,
            retry_at: None,
            is_flush_new: false,
        }
    }

    /// With blocks of at most this many bytes of entries, if they are not smaller anyway.
    pub(crate) fn with_block_bytes_max(self, bytes: u64) -> Self {
        Journal { block_bytes_max: self.block_bytes_max.min(bytes), ..self }
    }

    /// Position up to which whole commits are durable.
    pub(crate) fn committed_end(&self) -> u64 {
        self.committed
    }

    /// The point behind the last durable block; its limit is that of the last block.
    pub(crate) fn point(&self) -> Point {
        self.end
    }

    /// Every record not later is in a block that was begun.
    pub(crate) fn limit(&self) -> Time {
        self.head.limit
    }

    /// Whether a block is in flight.
    pub(crate) fn is_busy(&self) -> bool {
        !self.flying.is_empty()
    }

    /// Whether a block may begin now: none is in flight, or more waits than one block takes, which is worth a further one.
    /// `waiting_bytes`: of entries that wait for a block. The copy takes a while and a flush that was just asked for goes out
    /// before it: so it is no once, behind each flush.
    pub(crate) fn takes_more(&mut self, waiting_bytes: u64) -> bool {
        let goes_out = std::mem::take(&mut self.is_flush_new);
        if self.flying.is_empty() {
            return true;
        }
        let has_lane = self.error.is_none() && self.flying.len() < DEPTH;
        has_lane && !goes_out && waiting_bytes > self.block_bytes_max()
    }

    /// Bytes that a checkpoint has not freed, blocks in flight included.
    pub(crate) fn used_bytes(&self) -> u64 {
        (self.head.position - self.tail) * u64::from(self.area.block_bytes)
    }

    /// Bytes of the circle.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.area.capacity * u64::from(self.area.block_bytes)
    }

    /// Entries of one block are at most this many bytes, so that a few blocks always fit into the circle.
    pub(crate) fn block_bytes_max(&self) -> u64 {
        self.block_bytes_max
    }

    /// Whether a block with entries of this many bytes has room now.
    pub(crate) fn has_room(&self, entries_bytes: u64) -> bool {
        let blocks = self.area.blocks_for(HEAD_BYTES as u64 + entries_bytes);
        self.head.position - self.tail + blocks <= self.area.capacity
    }

    /// Frees everything before the position; a checkpoint there is durable.
    pub(crate) fn free(&mut self, position: u64) {
        assert!(position >= self.tail && position <= self.committed, "a checkpoint lies inside the journal");
        self.tail = position;
    }

    /// The device's error, if it stands in the way; the write is tried again.
    pub(crate) fn error(&self) -> Option<DeviceError> {
        self.error
    }

    /// The device's error while nothing is under way: now what is in flight may be given up ([`Journal::abandon`]).
    pub(crate) fn fault(&self) -> Option<DeviceError> {
        self.error.filter(|_| self.is_resting() && self.retry_at.is_some())
    }

    fn is_resting(&self) -> bool {
        self.flushing == 0 && self.flying.iter().all(|batch| batch.writing == 0)
    }

    /// When to call [`Journal::poll`] for another try.
    pub(crate) fn retry_at(&self) -> Option<Mono> {
        self.retry_at
    }

    /// Starts writing the items as one block; every record not later than `limit` is in it or before. With `continues`
    /// the commit takes more blocks. The caller saw that there is room and that the log takes it. Without memory gives
    /// the items back: again in a later turn.
    pub(crate) fn begin<I: LogPorts<T, Shared = S>>(
        &mut self,
        io: &mut I,
        items: Vec<Item<S>>,
        limit: Time,
        continues: bool,
    ) -> Result<(), Vec<Item<S>>> {
        assert!(self.flying.len() < DEPTH && self.error.is_none(), "no block begins behind an error, or behind many");
        let body_bytes: u64 = items.iter().map(Item::entry_bytes).sum();
        assert!(body_bytes <= BLOCK_BYTES_MAX && self.has_room(body_bytes));
        let blocks = self.area.blocks_for(HEAD_BYTES as u64 + body_bytes);
        let Some(mut chunks) = Chunks::alloc(&self.area, self.head.position, blocks, io) else { return Err(items) };

        let mut head = NewHead::new(&NewBlock {
            journal_id: self.id,
            position: self.head.position,
            recovery_epoch: self.recovery_epoch,
            previous: self.head.previous,
            durable_end: self.committed,
            limit,
            blocks: blocks as u32,
            body_bytes: body_bytes as u32,
            continues,
            entries: items.len() as u32,
        });
        // Its checksum is known last.
        chunks.zero(HEAD_BYTES);
        for item in &items {
            let payload = payload_of(item);
            let entry = Entry { head: item.record.head, epoch: item.epoch, generation: item.generation };
            let entry = entry.encode(payload);
            head.add(&entry);
            chunks.write(entry.as_bytes());
            // While the checksum has it in the cache.
            chunks.write(payload);
            chunks.zero(payload.len().next_multiple_of(8) - payload.len());
        }
        let (head, checksum) = head.finish();
        let chunks = chunks.finish(&head, io);
        self.head = Point { position: self.head.position + blocks, previous: checksum, limit };
        let (end, durable_end) = (self.head.position, self.committed);
        let block = Committed { continues, items, end, checksum, limit, durable_end };
        let is_free = |lane: &u8| self.flying.iter().all(|batch| batch.lane != *lane);
        let lane = (0..DEPTH as u8).find(is_free).unwrap_or_default();
        self.flying.push_back(Batch { lane, writing: 0, chunks, block });
        self.write(io, self.flying.len() - 1);
        Ok(())
    }

    /// Writes the blocks in flight from this one on.
    fn write<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I, from: usize) {
        for batch in self.flying.range_mut(from..) {
            batch.writing = batch.chunks.len() as u16;
            for (extent, data) in &batch.chunks {
                let write = LocalIo::Write { extent: *extent, data: data.clone(), fua: false };
                io.submit_log(self.purposes.write[usize::from(batch.lane)], self.area.volume, write);
            }
        }
    }

    /// A piece of the block in this lane was written, or not.
    pub(crate) fn written<I: LogPorts<T, Shared = S>>(
        &mut self,
        io: &mut I,
        lane: u8,
        result: Result<(), DeviceError>,
    ) {
        let Some(batch) = self.flying.iter_mut().find(|batch| batch.lane == lane) else { return };
        batch.writing = batch.writing.saturating_sub(1);
        if let Err(error) = result {
            self.fail(io, error);
        }
        self.flush(io);
    }

    /// Flushes what is written, if no flush is under way.
    fn flush<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I) {
        if self.flushing > 0 || self.retry_at.is_some() {
            return;
        }
        self.flushing = self.flying.iter().take_while(|batch| batch.writing == 0).count();
        if self.flushing > 0 {
            self.is_flush_new = true;
            io.submit_log(self.purposes.flush, self.area.volume, LocalIo::Flush);
        }
    }

    fn fail<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I, error: DeviceError) {
        self.error = Some(error);
        self.retry_at = Some(io.mono().after_ns(RETRY_NS));
    }

    /// The flush ended: the blocks that are durable now. After a failure all that is in flight is written again: a device
    /// may have forgotten what it could not make durable.
    pub(crate) fn flushed<I: LogPorts<T, Shared = S>>(
        &mut self,
        io: &mut I,
        result: Result<(), DeviceError>,
    ) -> Flushed<S> {
        let covered = std::mem::take(&mut self.flushing);
        if covered == 0 {
            return Flushed::new();
        }
        if let Err(error) = result {
            self.fail(io, error);
            return Flushed::new();
        }
        if self.retry_at.is_none() {
            self.error = None;
        }
        let durable: Flushed<S> = self.flying.drain(..covered).map(|batch| batch.block).collect();
        for block in &durable {
            self.end = block.point();
            if !block.continues {
                self.committed = block.end;
            }
        }
        self.flush(io);
        durable
    }

    /// Tries again what failed, when it is time.
    pub(crate) fn poll<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I) {
        if self.is_resting() && self.retry_at.is_some_and(|at| at <= io.mono()) {
            self.retry_at = None;
            self.write(io, 0);
        }
    }

    /// Gives up what is in flight and the device does not take: the items, in order, which count as never journaled. What of
    /// them may be on the device lies beyond the log's end, and the caller sees to it that no recovery reads that far.
    pub(crate) fn abandon(&mut self) -> Vec<Item<S>> {
        (self.head, self.flushing) = (self.end, 0);
        (self.error, self.retry_at) = (None, None);
        self.flying.drain(..).flat_map(|batch| batch.block.items).collect()
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

    /// Zeroes what is left, puts the head in front and freezes.
    fn finish<P: Memory<Buf = B>>(mut self, head: &[u8; HEAD_BYTES], ports: &mut P) -> Pieces<P::Shared> {
        if let Some((_, buf)) = self.pieces.get_mut(self.piece) {
            buf.as_mut()[self.offset..].fill(0);
        }
        (self.piece, self.offset) = (0, 0);
        self.write(head);
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
