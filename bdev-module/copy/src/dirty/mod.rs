//! The dirty map of a volume: which regions may hold what the other side does not have, durably.
//!
//! A small machine without I/O. Its owner makes its chunks durable ([`DirtyMap::ask`], [`DirtyMap::durable`]) in the order
//! in which they were asked for, and tells it of every write's begin, stamp and end. What it promises:
//!
//! - **A write is submitted only when each region that it touches is durably marked** ([`DirtyMap::begin`]). A region that
//!   is marked already costs nothing; marks that are made in one turn go out together, one value per chunk.
//! - **A mark goes only when nothing needs it**: no write is in flight in the region, the last record stamped for it is
//!   durable at the other side, a local flush that began after its last local completion has ended, and no copy is due
//!   (design 4a; *a write was acknowledged, not flushed, lost by a power cut, yet its record was sent: without the mark
//!   the sites differ for ever*). A write that meets a clear in flight marks again, and waits for that.
//! - **After a restart every mark counts**: what it stands for is due to be copied.
//!
//! **Marks are made ahead.** A write that has to wait for its mark has the whole stretch around it marked, so that the
//! next writes nearby find their marks there: durable marks cost a flush of the metadata, and a host that writes all over
//! a few gigabytes would pay that for each 64 KiB of them. A region that is marked only ahead is known to be clean while
//! this process lives: nothing copies it. After an unclean stop it is compared like the others, by its digest. A stretch's
//! marks go when all of it was quiet for a while.
//!
//! Memory: five bits per region, and 2 KiB per 64 neighbouring regions of which one was written lately. A region is a
//! 2^20th of the volume, between 64 KiB and 16 MiB: 512 KiB of bits for volumes up to 16 TiB. What that gives up: one
//! written block is copied as its whole region.

mod bits;
mod sparse;
#[cfg(test)]
mod tests;

use crate::types::{Epoch, Extent, Geometry, Mono, Seq};
use bits::Bits;
use sparse::Sparse;
use std::collections::{BTreeMap, BTreeSet};

/// Regions whose marks are made durable together, as one value.
pub const CHUNK_REGIONS: u64 = 2048;
const REGION_BYTES_MIN: u64 = 64 << 10;
const REGION_BYTES_MAX: u64 = 16 << 20;
const VERSION: u8 = 1;
/// Bytes of a chunk's value: a version and a bit per region, little-endian.
const CHUNK_BYTES: usize = 1 + CHUNK_REGIONS as usize / 8;

/// Marks that are made durable together; later ones have higher numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(u64);

/// A local flush that counts for the clearing of marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlushNumber(u64);

/// A chunk's number and the value that is to be made durable for it; empty if no region of it is marked.
pub type ChunkValue = (u32, Vec<u8>);

/// What is kept of a region that was written lately: half a cache line, since each write comes to another one.
#[derive(Clone, Copy, Debug, Default)]
struct Hot {
    /// The last record that was stamped for it, if `is_stamped`.
    last: (Epoch, Seq),
    /// A flush of at least this number, begun after the last local completion, has to end.
    flush: u64,
    /// Writes between [`DirtyMap::begin`] and [`DirtyMap::end`].
    in_flight: u32,
    is_stamped: bool,
}

const _: () = assert!(size_of::<Hot>() == 32);

impl Hot {
    fn last(&self) -> Option<(Epoch, Seq)> {
        self.is_stamped.then_some(self.last)
    }

    fn set_last(&mut self, last: Option<(Epoch, Seq)>) {
        (self.is_stamped, self.last) = (last.is_some(), last.unwrap_or_default());
    }
}

/// What a sweep for marks to clear found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Marks that were cleared.
    pub cleared: u64,
    /// Marks that only wait for a flush.
    pub want_flush: u64,
    /// Where to go on; `None` when all was looked at.
    pub next: Option<u64>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct DirtyMap {
    geometry: Geometry,
    region_blocks: u64,
    regions: u64,
    /// Regions that are marked together.
    stretch: u64,
    /// As metadata says, or was or will be asked to say.
    marked: Bits,
    /// Of these: what is here has to be copied, no record in a queue brings it.
    missing: Bits,
    /// Of these: whether the other side has it is not known (the process that wrote is gone), so it is worth to ask.
    doubtful: Bits,
    /// Of these: the mark is durable.
    settled: Bits,
    /// Of these: marked ahead, not written since.
    ahead: Bits,
    hot: Sparse<Hot>,
    /// When each stretch with marks that may be cleared was last written.
    touched: Sparse<Mono>,
    /// Regions whose mark is not durable yet, and the round that brings it.
    pending: BTreeMap<u64, Round>,
    /// All regions were marked at once: the others that are not settled are with this round.
    pending_all: Option<Round>,
    /// Chunks that changed since they were last asked for.
    changed: BTreeSet<u32>,
    /// The round that [`DirtyMap::ask`] closes next.
    round: Round,
    flushes_begun: u64,
    flushed: u64,
    /// The last flush that ended did not end well.
    flush_fails: bool,
}

/// The size of a volume's regions in bytes: a power of two.
pub fn region_bytes(geometry: Geometry) -> u64 {
    let part = geometry.bytes().div_ceil(1 << 20);
    part.checked_next_power_of_two().unwrap_or(REGION_BYTES_MAX).clamp(REGION_BYTES_MIN, REGION_BYTES_MAX)
}

/// Regions of a map that was grown at most: their size stays.
const GROWN_REGIONS_MAX: u64 = 1 << 24;

/// How many blocks a volume with such regions can grow to.
pub fn blocks_max(region_bytes: u64, block_bytes: u32) -> u64 {
    (region_bytes / u64::from(block_bytes)).max(1).saturating_mul(GROWN_REGIONS_MAX)
}

/// How many chunks the map of such a volume has.
pub fn chunks_of(geometry: Geometry, region_bytes: u64) -> u32 {
    let regions = geometry.blocks.div_ceil((region_bytes / u64::from(geometry.block_bytes)).max(1));
    u32::try_from(regions.div_ceil(CHUNK_REGIONS)).unwrap_or(u32::MAX)
}

/// Where a chunk's value is kept.
pub fn chunk_key(pair: crate::types::PairId, chunk: u32) -> String {
    format!("primary/dirty/{:016x}/{chunk:04x}", pair.0)
}

impl DirtyMap {
    /// A map without marks. `region_bytes` is a multiple of the block size; `stretch_bytes` of it: what is marked together,
    /// one region at least.
    pub fn new(geometry: Geometry, region_bytes: u64, stretch_bytes: u64) -> DirtyMap {
        let region_blocks = (region_bytes / u64::from(geometry.block_bytes)).max(1);
        let regions = geometry.blocks.div_ceil(region_blocks);
        DirtyMap {
            geometry,
            region_blocks,
            regions,
            stretch: (stretch_bytes / region_bytes).max(1),
            marked: Bits::new(regions),
            missing: Bits::new(regions),
            doubtful: Bits::new(regions),
            settled: Bits::new(regions),
            ahead: Bits::new(regions),
            hot: Sparse::default(),
            touched: Sparse::default(),
            pending: BTreeMap::new(),
            pending_all: None,
            changed: BTreeSet::new(),
            round: Round(1),
            flushes_begun: 0,
            flushed: 0,
            flush_fails: false,
        }
    }

    /// The volume has grown. The new blocks are marked as due to be copied; no write touches them before their chunks are
    /// durable. `false`, and nothing has changed: marks of the whole volume are becoming durable; try again.
    #[must_use]
    pub fn grow(&mut self, geometry: Geometry) -> bool {
        assert!(geometry.blocks > self.geometry.blocks && geometry.block_bytes == self.geometry.block_bytes);
        if self.pending_all.is_some() {
            return false;
        }
        let (regions, last) = (self.regions, self.regions - 1);
        let is_last_larger = u64::from(self.extent(last).blocks) < self.region_blocks;
        self.geometry = geometry;
        self.regions = geometry.blocks.div_ceil(self.region_blocks);
        for bits in [&mut self.marked, &mut self.missing, &mut self.doubtful, &mut self.settled, &mut self.ahead] {
            bits.grow(self.regions);
        }
        if is_last_larger {
            // Hosts write to its first blocks.
            self.mark(last);
            self.missing.set(last);
        }
        for region in regions..self.regions {
            self.marked.set(region);
            self.missing.set(region);
            self.settled.set(region);
            self.changed.insert(chunk_of(region));
        }
        true
    }

    /// How many chunks the map has.
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.regions.div_ceil(CHUNK_REGIONS)).unwrap_or(u32::MAX)
    }

    /// Takes a chunk up after a restart: what it marks is due to be copied. `false`: it cannot be read.
    #[must_use]
    pub fn load(&mut self, chunk: u32, value: &[u8]) -> bool {
        let Some((version, bytes)) = value.split_first() else { return true };
        if *version != VERSION || bytes.len() != CHUNK_BYTES - 1 {
            return false;
        }
        let first = u64::from(chunk) * CHUNK_REGIONS;
        for (at, byte) in bytes.iter().enumerate() {
            for bit in (0..8).filter(|bit| byte & 1 << bit != 0) {
                let region = first + at as u64 * 8 + bit;
                if region >= self.regions {
                    // The volume was to grow, and a crash came before it had: nothing is there.
                    continue;
                }
                self.marked.set(region);
                self.missing.set(region);
                self.doubtful.set(region);
                self.settled.set(region);
            }
        }
        true
    }

    /// A write takes its place. `None`: every region that it touches is durably marked, it may be stamped and submitted.
    /// Else it waits until that round is durable. Each begin has an end.
    pub fn begin(&mut self, now: Mono, extent: Extent) -> Option<Round> {
        let flush = self.flushes_begun + 1;
        let mut wait = None;
        for region in self.regions_of(extent) {
            self.hot.get_or_insert_with(region, || Hot { flush, ..Hot::default() }).in_flight += 1;
            if !self.marked.get(region) {
                self.mark_ahead(region);
            }
            self.mark(region);
            self.touch(now, region);
            wait = wait.max(self.awaited(region));
        }
        wait
    }

    /// Marks what is clean around a region.
    fn mark_ahead(&mut self, region: u64) {
        let first = self.stretch_of(region);
        for near in first..(first + self.stretch).min(self.regions) {
            if near != region && !self.marked.get(near) {
                self.mark(near);
                self.ahead.set(near);
            }
        }
    }

    /// The record of a write that began got this number.
    pub fn stamped(&mut self, extent: Extent, epoch: Epoch, seq: Seq) {
        for region in self.regions_of(extent) {
            debug_assert!(self.marked.get(region) && self.awaited(region).is_none(), "stamped before it was marked");
            self.doubtful.unset(region);
            if let Some(hot) = self.hot.get_mut(region) {
                hot.set_last(Some((epoch, seq)));
            }
        }
    }

    /// A write that began is submitted without a stamp: the other side will lack it.
    pub fn unstamped(&mut self, extent: Extent) {
        for region in self.regions_of(extent) {
            debug_assert!(self.marked.get(region) && self.awaited(region).is_none(), "written before it was marked");
            self.missing.set(region);
            self.doubtful.unset(region);
        }
    }

    /// A write that began is over: done at the device, failed there, or never submitted.
    pub fn end(&mut self, now: Mono, extent: Extent) {
        let flush = self.flushes_begun + 1;
        for region in self.regions_of(extent) {
            let Some(hot) = self.hot.get_mut(region) else {
                debug_assert!(false, "a write ends that did not begin");
                continue;
            };
            hot.in_flight -= 1;
            hot.flush = flush;
            if hot.in_flight == 0 && self.missing.get(region) {
                // What it knew is of no use before the region is copied.
                self.hot.remove(region);
            }
            self.touch(now, region);
        }
    }

    /// From here on nothing brings what is marked: all of it is due to be copied, but for what was only marked ahead.
    pub fn miss_all(&mut self) {
        self.missing.join_without(&self.marked, &self.ahead);
        self.hot.retain(|hot| hot.in_flight > 0);
    }

    /// Marks what is found to differ (or may), and makes it due to be copied.
    pub fn miss(&mut self, extent: Extent) {
        for region in self.regions_of(extent) {
            self.mark(region);
            self.missing.set(region);
        }
    }

    /// Marks the whole volume as due to be copied. `doubtful`: it is worth to ask what the other side has.
    pub fn miss_everything(&mut self, doubtful: bool) {
        if self.pending_all.is_some() {
            // What came with that round stays with it: writes may wait for it.
            (0..self.regions).for_each(|region| self.mark(region));
        } else if self.marked.count() < self.regions {
            self.pending_all = Some(self.round);
            self.changed.extend(0..self.chunks());
            self.marked.set_all();
        }
        self.missing.set_all();
        self.ahead = Bits::new(self.regions);
        self.doubtful = if doubtful { self.marked.clone() } else { Bits::new(self.regions) };
        self.hot.retain(|hot| hot.in_flight > 0);
    }

    /// The region's content is stamped as a whole, last under this number; or (`None`) the other side was found to hold it.
    pub fn copied(&mut self, now: Mono, region: u64, stamp: Option<(Epoch, Seq)>) {
        self.missing.unset(region);
        self.doubtful.unset(region);
        if !self.marked.get(region) {
            return;
        }
        let flush = self.flushes_begun + 1;
        let hot = self.hot.get_or_insert_with(region, || Hot { flush, ..Hot::default() });
        hot.flush = flush;
        // Of an epoch before nothing counts any more: what it did not bring, this copy did.
        let earlier = hot.last().filter(|(epoch, _)| stamp.is_none_or(|(new, _)| *epoch >= new));
        hot.set_last(earlier.max(stamp));
        self.touch(now, region);
    }

    /// The chunks that are to be made durable now, in any order but together, and the round that they close. `None`: none.
    pub fn ask(&mut self) -> Option<(Round, Vec<ChunkValue>)> {
        if self.changed.is_empty() {
            return None;
        }
        let chunks = std::mem::take(&mut self.changed).into_iter().map(|chunk| (chunk, self.value(chunk))).collect();
        let round = self.round;
        self.round = Round(round.0 + 1);
        Some((round, chunks))
    }

    /// Whether [`DirtyMap::ask`] has something.
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// A round is durable, hence all before it.
    pub fn durable(&mut self, round: Round) {
        if self.pending_all.is_some_and(|at| at <= round) {
            self.pending_all = None;
            self.settled = self.marked.clone();
            for region in self.pending.keys() {
                self.settled.unset(*region);
            }
        }
        let settled = &mut self.settled;
        self.pending.retain(|region, at| {
            if *at <= round {
                settled.set(*region);
            }
            *at > round
        });
    }

    /// A local flush begins.
    pub fn flush_begins(&mut self) -> FlushNumber {
        self.flushes_begun += 1;
        FlushNumber(self.flushes_begun)
    }

    /// A local flush ended well. Flushes may end in any order: one that began later covers more. Returns whether there is
    /// more to be copied now, see [`DirtyMap::flush_failed`].
    pub fn flush_ended(&mut self, flush: FlushNumber) -> bool {
        // What was written while flushes failed may be forgotten too: this one made durable what is left.
        let is_news = std::mem::take(&mut self.flush_fails) && self.miss_unflushed();
        self.flushed = self.flushed.max(flush.0);
        is_news
    }

    /// A local flush failed: the device may have forgotten whatever it was to make durable (*a page cache drops what it
    /// could not write back, and the next flush succeeds*), and the other side has it. What the device holds now is due to
    /// be copied, once now and once when a flush has ended well again. Returns whether that is anything.
    pub fn flush_failed(&mut self) -> bool {
        !std::mem::replace(&mut self.flush_fails, true) && self.miss_unflushed()
    }

    fn miss_unflushed(&mut self) -> bool {
        let mut is_news = false;
        for (region, _) in self.hot.iter().filter(|(_, hot)| hot.flush > self.flushed) {
            is_news |= !self.missing.get(region);
            self.missing.set(region);
        }
        is_news
    }

    /// Clears marks that nothing needs any more, of stretches that were quiet for so long; from region `from` on, until
    /// `most` regions were looked at. `is_durable` says whether the other side has a record durably.
    pub fn sweep(
        &mut self,
        now: Mono,
        quiet_ns: u64,
        is_durable: impl Fn(Epoch, Seq) -> bool,
        from: u64,
        most: usize,
    ) -> Sweep {
        let mut sweep = Sweep::default();
        let (mut looked, mut done, mut cold) = (0, Vec::new(), Vec::new());
        for (stretch, &touched) in self.touched.range(from / self.stretch..self.regions.div_ceil(self.stretch)) {
            let first = stretch * self.stretch;
            if looked >= most {
                sweep.next = Some(first);
                break;
            }
            looked += 1;
            if now.since_ns(touched) < quiet_ns {
                continue;
            }
            let (whole, mut kept) = (first..first + self.stretch, 0);
            done.extend(self.ahead.iter_from(first).take_while(|region| *region < whole.end));
            for (region, hot) in self.hot.range(whole) {
                looked += 1;
                let is_there = hot.last().is_none_or(|(epoch, seq)| is_durable(epoch, seq));
                let is_needed = hot.in_flight > 0 || !is_there || self.missing.get(region);
                if !is_needed && hot.flush <= self.flushed {
                    done.push(region);
                } else {
                    kept += 1;
                    sweep.want_flush += u64::from(!is_needed);
                }
            }
            if kept == 0 {
                cold.push(stretch);
            }
        }
        sweep.cleared = done.len() as u64;
        for region in done {
            self.clear(region);
        }
        for stretch in cold {
            self.touched.remove(stretch);
        }
        if sweep.next.is_none() {
            self.hot.trim();
            self.touched.trim();
        }
        sweep
    }

    /// Whether there is a mark that a sweep may clear some time.
    pub fn may_clear(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Clears every mark. The caller knows that both sides hold the same, durably, and that no write is in flight.
    pub fn clear_all(&mut self) {
        assert!(
            self.missing.count() == 0 && self.hot.iter().all(|(_, hot)| hot.in_flight == 0),
            "cleared what is needed"
        );
        for region in self.marked.iter_from(0).collect::<Vec<_>>() {
            self.clear(region);
        }
        self.touched.clear();
    }

    /// The first region at or after `from` that is marked.
    pub fn next_marked(&self, from: u64) -> Option<u64> {
        self.marked.iter_from(from).next()
    }

    /// The first region at or after `from` that is due to be copied.
    pub fn next_missing(&self, from: u64) -> Option<u64> {
        self.missing.iter_from(from).next()
    }

    /// Whether the region is due to be copied.
    pub fn is_missing(&self, region: u64) -> bool {
        self.missing.get(region)
    }

    /// Whether it is worth to ask what the other side has of the region.
    pub fn is_doubtful(&self, region: u64) -> bool {
        self.doubtful.get(region)
    }

    /// The region's blocks.
    pub fn extent(&self, region: u64) -> Extent {
        let lba = region * self.region_blocks;
        let blocks = self.region_blocks.min(self.geometry.blocks - lba);
        Extent { lba, blocks: u32::try_from(blocks).unwrap_or(u32::MAX) }
    }

    /// Bytes in marked regions.
    pub fn marked_bytes(&self) -> u64 {
        self.bytes(&self.marked)
    }

    /// Bytes in regions that are due to be copied.
    pub fn missing_bytes(&self) -> u64 {
        self.bytes(&self.missing)
    }

    /// Whether no region is marked.
    pub fn is_clean(&self) -> bool {
        self.marked.count() == 0
    }

    fn bytes(&self, bits: &Bits) -> u64 {
        let whole = bits.count() * self.region_blocks;
        let last = self.regions - 1;
        let short = if bits.get(last) { self.region_blocks - u64::from(self.extent(last).blocks) } else { 0 };
        (whole - short) * u64::from(self.geometry.block_bytes)
    }

    fn stretch_of(&self, region: u64) -> u64 {
        region - region % self.stretch
    }

    fn touch(&mut self, now: Mono, region: u64) {
        *self.touched.get_or_insert_with(region / self.stretch, || now) = now;
    }

    fn regions_of(&self, extent: Extent) -> std::ops::RangeInclusive<u64> {
        debug_assert!(self.geometry.holds(extent));
        extent.lba / self.region_blocks..=(extent.end() - 1) / self.region_blocks
    }

    /// When a region's mark is durable, if it is not.
    fn awaited(&self, region: u64) -> Option<Round> {
        if self.settled.get(region) {
            return None;
        }
        self.pending.get(&region).copied().or(self.pending_all)
    }

    fn mark(&mut self, region: u64) {
        self.ahead.unset(region);
        if self.marked.set(region) {
            self.changed.insert(chunk_of(region));
            self.pending.insert(region, self.round);
        }
    }

    fn clear(&mut self, region: u64) {
        self.marked.unset(region);
        self.changed.insert(chunk_of(region));
        self.ahead.unset(region);
        self.hot.remove(region);
        self.pending.remove(&region);
        self.settled.unset(region);
    }

    fn value(&self, chunk: u32) -> Vec<u8> {
        let first = u64::from(chunk) * CHUNK_REGIONS;
        let mut value = vec![0; CHUNK_BYTES];
        let mut is_clean = true;
        for region in self.marked.iter_from(first).take_while(|region| *region < first + CHUNK_REGIONS) {
            let at = (region - first) as usize;
            value[1 + at / 8] |= 1 << (at % 8);
            is_clean = false;
        }
        value[0] = VERSION;
        if is_clean { Vec::new() } else { value }
    }
}

fn chunk_of(region: u64) -> u32 {
    u32::try_from(region / CHUNK_REGIONS).unwrap_or(u32::MAX)
}
