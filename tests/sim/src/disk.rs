//! A disk that completes in any order and forgets, tears and reorders what was not flushed.

use crate::chance::Chance;
use crate::memory::{Buf, Bytes};
use longrun_copy::types::{Extent, Geometry};
use std::collections::{BTreeMap, BTreeSet};

/// The unit that a disk never tears.
pub const SECTOR_BYTES: usize = 512;

/// What a sector holds.
#[derive(Clone, Debug)]
pub enum Blob {
    /// Zeroes.
    Zero,
    /// A sector of these bytes, from this offset.
    Part(Bytes, usize),
}

impl Blob {
    /// Sector `index` of these bytes, or of zeroes.
    pub fn of(data: Option<&Bytes>, index: usize) -> Blob {
        data.map_or(Blob::Zero, |data| Blob::Part(data.clone(), index * SECTOR_BYTES))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Blob::Zero => &[0; SECTOR_BYTES],
            Blob::Part(bytes, at) => &bytes[*at..*at + SECTOR_BYTES],
        }
    }

    /// Whether both hold the same; what is the same piece of memory is not read.
    pub fn is_same(&self, other: &Blob) -> bool {
        match (self, other) {
            (Blob::Zero, Blob::Zero) => true,
            (Blob::Part(a, at), Blob::Part(b, bt)) if Bytes::ptr_eq(a, b) && at == bt => true,
            _ => self.bytes() == other.bytes(),
        }
    }
}

#[derive(Clone, Debug)]
struct Sector {
    durable: Blob,
    /// What was written since, in order, by which operation; the last is what reads see.
    pending: Vec<(u64, Blob)>,
}

impl Sector {
    fn seen(&self) -> &Blob {
        self.pending.last().map_or(&self.durable, |(_, blob)| blob)
    }
}

/// What a disk is asked.
#[derive(Debug)]
pub enum DiskIo {
    /// Fill the buffer.
    Read(Extent, Buf),
    /// Write these bytes (or zeroes), durably if so asked.
    Write(Extent, Option<Bytes>, bool),
    /// Make durable what had completed.
    Flush,
}

struct Flying {
    io: DiskIo,
    /// Completions before this one's submission.
    completed_before: u64,
    took_effect: bool,
    fails: Option<Failure>,
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Of a write any sectors are written; a flush that fails may forget what it should have made durable: it is there
    /// until the power goes, and no later flush brings it back.
    Any,
    /// So many sectors are written.
    Prefix(usize),
    /// Nothing is done, with this errno.
    Nothing(i32),
}

impl Failure {
    /// As the engine hears it.
    pub fn errno(self) -> i32 {
        match self {
            Failure::Any | Failure::Prefix(_) => 5,
            Failure::Nothing(errno) => errno,
        }
    }
}

/// One disk.
pub struct Disk {
    geometry: Geometry,
    sectors: BTreeMap<u64, Sector>,
    /// Sectors with something pending.
    unflushed: BTreeSet<u64>,
    flying: BTreeMap<u64, Flying>,
    next: u64,
    completions: u64,
    completed_at: BTreeMap<u64, u64>,
    /// Writes in flight must not overlap: who submits them orders what must be ordered.
    pub must_not_overlap: bool,
}

/// How a disk loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The process died: what took effect stays.
    Process,
    /// The power went: of what was not flushed, any sectors stay.
    Power,
    /// The power went: nothing that was not flushed stays.
    All,
}

impl Disk {
    /// A disk of zeroes.
    pub fn new(geometry: Geometry) -> Disk {
        Disk {
            geometry,
            sectors: BTreeMap::new(),
            unflushed: BTreeSet::new(),
            flying: BTreeMap::new(),
            next: 0,
            completions: 0,
            completed_at: BTreeMap::new(),
            must_not_overlap: true,
        }
    }

    /// Another, empty disk in its place.
    pub fn replaced(&self) -> Disk {
        Disk { next: self.next, ..Disk::new(self.geometry) }
    }

    /// It has so many blocks from here on; what is new holds zeroes.
    pub fn enlarge(&mut self, blocks: u64) {
        assert!(blocks > self.geometry.blocks);
        self.geometry.blocks = blocks;
    }

    /// Its size.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The sectors of these blocks.
    pub fn sectors_of(&self, extent: Extent) -> std::ops::Range<u64> {
        let per_block = u64::from(self.geometry.block_bytes) / SECTOR_BYTES as u64;
        extent.lba * per_block..extent.end() * per_block
    }

    /// Takes an operation; it does nothing before [`Disk::effect`].
    pub fn submit(&mut self, io: DiskIo, fails: Option<Failure>) -> u64 {
        if let DiskIo::Read(extent, _) | DiskIo::Write(extent, ..) = &io {
            assert!(self.geometry.holds(*extent), "{extent:?} lies outside of a disk of {:?}", self.geometry);
        }
        if let DiskIo::Write(extent, ..) = &io
            && self.must_not_overlap
        {
            for other in self.flying.values() {
                if let DiskIo::Write(other, ..) = &other.io {
                    assert!(!extent.overlaps(*other), "writes to {extent:?} and {other:?} are in flight together");
                }
            }
        }
        if let DiskIo::Read(extent, buf) = &io {
            let bytes = extent.blocks as usize * self.geometry.block_bytes as usize;
            assert_eq!(buf.as_ref().len(), bytes, "a read's buffer has its extent's size");
        }
        if let DiskIo::Write(extent, Some(data), _) = &io {
            let bytes = extent.blocks as usize * self.geometry.block_bytes as usize;
            assert_eq!(data.len(), bytes, "a write's data has its extent's size");
        }
        let op = self.next;
        self.next += 1;
        self.flying.insert(op, Flying { io, completed_before: self.completions, took_effect: false, fails });
        op
    }

    /// The operation takes effect: others see a write from here on, a read has what is there now.
    pub fn effect(&mut self, op: u64, chance: &mut Chance) {
        let Some(mut flying) = self.flying.remove(&op) else { return };
        flying.took_effect = true;
        match &mut flying.io {
            DiskIo::Read(extent, buf) => {
                let extent = *extent;
                if flying.fails.is_none() {
                    self.copy_out(extent, buf.as_mut());
                }
            }
            DiskIo::Write(extent, data, fua) => {
                let (first, fails) = (self.sectors_of(*extent).start, flying.fails);
                self.put(op, *extent, data.as_ref(), |sector| match fails {
                    None => true,
                    Some(Failure::Any) => chance.hits(0.5),
                    Some(Failure::Prefix(sectors)) => sector < first + sectors as u64,
                    Some(Failure::Nothing(_)) => false,
                });
                if *fua && fails.is_none() {
                    for sector in self.sectors_of(*extent) {
                        self.settle(sector, |by| by <= op);
                    }
                }
            }
            DiskIo::Flush => {
                if flying.fails.is_none() {
                    let before = flying.completed_before;
                    for sector in std::mem::take(&mut self.unflushed) {
                        self.unflushed.insert(sector);
                        let completed_at = std::mem::take(&mut self.completed_at);
                        self.settle(sector, |by| completed_at.get(&by).is_some_and(|at| *at < before));
                        self.completed_at = completed_at;
                    }
                }
            }
        }
        self.flying.insert(op, flying);
    }

    /// Ends an operation: whether it succeeded, and a read's buffer.
    pub fn finish(&mut self, op: u64) -> Option<(Result<(), i32>, Option<Buf>)> {
        let flying = self.flying.remove(&op)?;
        assert!(flying.took_effect);
        self.completed_at.insert(op, self.completions);
        self.completions += 1;
        let buf = match flying.io {
            DiskIo::Read(_, buf) => Some(buf),
            _ => None,
        };
        Some((flying.fails.map_or(Ok(()), |failure| Err(failure.errno())), buf))
    }

    fn put(&mut self, op: u64, extent: Extent, data: Option<&Bytes>, mut which: impl FnMut(u64) -> bool) {
        let range = self.sectors_of(extent);
        for (index, sector) in range.enumerate() {
            if !which(sector) {
                continue;
            }
            let blob = Blob::of(data, index);
            let slot =
                self.sectors.entry(sector).or_insert_with(|| Sector { durable: Blob::Zero, pending: Vec::new() });
            slot.pending.push((op, blob));
            self.unflushed.insert(sector);
        }
    }

    /// Makes durable what of a sector's pending writes is said to be.
    fn settle(&mut self, sector: u64, is_covered: impl Fn(u64) -> bool) {
        let Some(slot) = self.sectors.get_mut(&sector) else { return };
        if let Some(last) = slot.pending.iter().rposition(|(by, _)| is_covered(*by)) {
            slot.durable = slot.pending[last].1.clone();
            slot.pending.drain(..=last);
        }
        if slot.pending.is_empty() {
            self.unflushed.remove(&sector);
        }
    }

    fn copy_out(&self, extent: Extent, out: &mut [u8]) {
        let range = self.sectors_of(extent);
        out.fill(0);
        let first = range.start;
        for (sector, slot) in self.sectors.range(range) {
            if let Blob::Part(bytes, at) = slot.seen() {
                let to = (*sector - first) as usize * SECTOR_BYTES;
                out[to..to + SECTOR_BYTES].copy_from_slice(&bytes[*at..*at + SECTOR_BYTES]);
            }
        }
    }

    /// What reads see now, sector by sector.
    pub fn image(&self) -> Vec<Blob> {
        let mut out = vec![Blob::Zero; self.sectors_in_all()];
        for (sector, slot) in &self.sectors {
            out[*sector as usize] = slot.seen().clone();
        }
        out
    }

    /// How many sectors it has.
    pub fn sectors_in_all(&self) -> usize {
        self.geometry.bytes() as usize / SECTOR_BYTES
    }

    /// What reads of a sector see now.
    pub fn seen(&self, sector: u64) -> Blob {
        self.sectors.get(&sector).map_or(Blob::Zero, |slot| slot.seen().clone())
    }

    /// Something else writes, durably, over whatever is there.
    pub fn preset(&mut self, extent: Extent, data: &Bytes) {
        let op = self.next;
        self.next += 1;
        self.put(op, extent, Some(data), |_| true);
        for sector in self.sectors_of(extent) {
            self.settle(sector, |_| true);
        }
    }

    /// The number that the next operation will have.
    pub fn next_op(&self) -> u64 {
        self.next
    }

    /// A bit of some sector that was written turns over. Returns the sector.
    pub fn rot(&mut self, chance: &mut Chance) -> Option<u64> {
        let written: Vec<u64> = self.sectors.keys().copied().collect();
        let sector = *written.get(chance.below(written.len().max(1)))?;
        let slot = self.sectors.get_mut(&sector)?;
        let mut bytes = slot.seen().bytes().to_vec();
        let bit = chance.below(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let blob = Blob::Part(Bytes::new(bytes), 0);
        match slot.pending.last_mut() {
            Some((_, last)) => *last = blob,
            None => slot.durable = blob,
        }
        Some(sector)
    }

    /// Another disk's contents become this one's, durably.
    pub fn copy_from(&mut self, other: &Disk) {
        assert!(self.flying.is_empty(), "a disk is copied that somebody writes to");
        self.unflushed.clear();
        self.sectors = other.sectors.clone();
        for slot in self.sectors.values_mut() {
            *slot = Sector { durable: slot.seen().clone(), pending: Vec::new() };
        }
    }

    /// Makes everything durable.
    pub fn settle_all(&mut self) {
        for sector in self.unflushed.clone() {
            self.settle(sector, |_| true);
        }
    }

    /// The disk after a crash: nothing in flight, and of what was not flushed what the loss leaves.
    pub fn crashed(&self, loss: Loss, chance: &mut Chance) -> Disk {
        let mut after = Disk {
            geometry: self.geometry,
            sectors: self.sectors.clone(),
            unflushed: self.unflushed.clone(),
            flying: BTreeMap::new(),
            next: self.next,
            completions: self.completions,
            completed_at: self.completed_at.clone(),
            must_not_overlap: self.must_not_overlap,
        };
        for (op, flying) in &self.flying {
            if let DiskIo::Write(extent, data, _) = &flying.io
                && !flying.took_effect
            {
                after.put(*op, *extent, data.as_ref(), |_| chance.hits(0.5));
            }
        }
        if loss == Loss::Process {
            // Whoever flushes next makes durable what the dead process had written.
            for slot in after.unflushed.iter().filter_map(|sector| after.sectors.get(sector)) {
                for (op, _) in &slot.pending {
                    after.completed_at.entry(*op).or_insert(0);
                }
            }
            after.completions += 1;
            return after;
        }
        for sector in std::mem::take(&mut after.unflushed) {
            let Some(slot) = after.sectors.get_mut(&sector) else { continue };
            let kept = match loss {
                Loss::All => 0,
                _ => chance.below(slot.pending.len() + 1),
            };
            if kept > 0 {
                slot.durable = slot.pending[kept - 1].1.clone();
            }
            slot.pending.clear();
        }
        after
    }
}
