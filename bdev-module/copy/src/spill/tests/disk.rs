//! A device that loses, tears and reorders what was not flushed.

use super::{GEOMETRY, SECTOR};
use crate::journal::device::LogPorts;
use crate::ports::{DeviceError, LocalIo, Memory};
use crate::spill::SpillOp;
use crate::types::{Extent, Mono, VolumeId};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::rc::Rc;

/// An I/O that ended, with what it read.
pub(super) type Ended = (SpillOp, Result<(), DeviceError>, Option<Vec<u8>>);

pub(super) enum Job {
    Write(usize, Rc<[u8]>),
    /// Covers this many of the unflushed writes.
    Flush(u64),
    Read(usize, usize),
}

/// The device.
pub(super) struct Disk {
    pub(super) mono: u64,
    pub(super) stable: Vec<u8>,
    /// Completed and not flushed, each with its number.
    unflushed: Vec<(u64, usize, Rc<[u8]>)>,
    completed: u64,
    pub(super) jobs: Vec<(SpillOp, Job)>,
    pub(super) chance: ChaCha8Rng,
    pub(super) memory: bool,
}

impl Disk {
    pub(super) fn new(seed: u64) -> Disk {
        let chance = ChaCha8Rng::seed_from_u64(seed);
        let stable = vec![0; GEOMETRY.bytes() as usize];
        Disk { mono: 0, stable, unflushed: Vec::new(), completed: 0, jobs: Vec::new(), chance, memory: true }
    }

    pub(super) fn one_in(&mut self, of: u32) -> bool {
        self.chance.next_u32().is_multiple_of(of)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.chance.next_u64() % bound.max(1)
    }

    /// Ends one of the I/Os under way.
    pub(super) fn complete(&mut self, error: impl Fn(SpillOp) -> Option<i32>) -> Option<Ended> {
        let at = self.below(self.jobs.len() as u64) as usize;
        if self.jobs.is_empty() {
            return None;
        }
        let (op, job) = self.jobs.swap_remove(at);
        let failed = error(op).map(|errno| DeviceError { errno });
        let mut data = None;
        match (job, failed) {
            (Job::Write(at, bytes), _) => {
                // A failed write may have changed anything of what it was to change.
                self.unflushed.push((self.completed, at, bytes));
                self.completed += 1;
            }
            (Job::Flush(covers), None) => {
                for (number, at, bytes) in std::mem::take(&mut self.unflushed) {
                    if number < covers {
                        self.stable[at..at + bytes.len()].copy_from_slice(&bytes);
                    } else {
                        self.unflushed.push((number, at, bytes));
                    }
                }
            }
            (Job::Read(at, len), None) => {
                let mut bytes = self.stable.clone();
                for (_, at, written) in &self.unflushed {
                    bytes[*at..at + written.len()].copy_from_slice(written);
                }
                data = Some(bytes[at..at + len].to_vec());
            }
            _ => {}
        }
        Some((op, failed.map_or(Ok(()), Err), data))
    }

    /// The power goes: any sectors of what was not flushed are there, in any order.
    pub(super) fn crash(&mut self) {
        let mut sectors: Vec<(usize, Rc<[u8]>, usize)> = Vec::new();
        for (_, at, bytes) in self.unflushed.drain(..) {
            sectors.extend((0..bytes.len() / SECTOR).map(|index| (at, bytes.clone(), index)));
        }
        for (_, job) in std::mem::take(&mut self.jobs) {
            if let Job::Write(at, bytes) = job {
                sectors.extend((0..bytes.len() / SECTOR).map(|index| (at, bytes.clone(), index)));
            }
        }
        let keeps = self.below(4);
        while !sectors.is_empty() {
            let pick = self.below(sectors.len() as u64) as usize;
            let (at, bytes, index) = sectors.swap_remove(pick);
            if self.below(4) < keeps {
                let range = index * SECTOR..(index + 1) * SECTOR;
                self.stable[at + range.start..at + range.end].copy_from_slice(&bytes[range]);
            }
        }
    }
}

impl Memory for Disk {
    type Buf = Vec<u8>;
    type Shared = Rc<[u8]>;

    fn alloc(&mut self, bytes: usize) -> Option<Vec<u8>> {
        (self.memory || !self.one_in(3)).then(|| vec![0xee; bytes])
    }

    fn freeze(&mut self, buf: Vec<u8>, bytes: usize) -> Rc<[u8]> {
        buf[..bytes].into()
    }
}

impl LogPorts<SpillOp> for Disk {
    fn mono(&self) -> Mono {
        Mono(self.mono)
    }

    fn submit_log(&mut self, op: SpillOp, _: VolumeId, io: LocalIo<Vec<u8>, Rc<[u8]>>) {
        let bytes = |extent: Extent| extent.lba as usize * SECTOR;
        let job = match io {
            LocalIo::Write { extent, data, .. } => Job::Write(bytes(extent), data),
            LocalIo::Read { extent, .. } => Job::Read(bytes(extent), extent.blocks as usize * SECTOR),
            LocalIo::Flush => Job::Flush(self.completed),
            _ => unreachable!("a log writes, flushes and reads"),
        };
        self.jobs.push((op, job));
    }
}
