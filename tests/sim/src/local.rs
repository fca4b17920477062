//! What primary volumes hold: everything that they were told, in order, and after a crash at least what hosts were told is
//! durable (promise 4).

use crate::disk::{Blob, DiskIo, Loss};
use crate::host::Kind;
use crate::memory::Bytes;
use crate::world::World;
use longrun_copy::types::{Extent, RecordHead, RecordKind, VolumeId};
use std::collections::BTreeMap;

/// A write that the engine submitted in the call under way; its stamp, if it gets one, follows in the same call.
pub struct Fresh {
    pair: usize,
    extent: Extent,
    data: Option<Bytes>,
    flight: (usize, VolumeId, u64),
}

/// A write in flight.
pub struct Flight {
    pair: usize,
    extent: Extent,
    /// Its number in history, if it has no stamp.
    unstamped: Option<u64>,
}

/// What a sector of a primary volume may hold after a crash, oldest first. The first version is durable.
type Versions = Vec<Version>;

pub struct Version {
    blob: Blob,
    /// The request that wrote it, as far as it is known.
    op: Option<usize>,
    /// When its host heard that it is done.
    heard_at: Option<u64>,
    /// Its write as the device knows it, until it is done there: zeroes of requests that overlap are all alike.
    flying: Option<u64>,
}

/// By sector; one that is not here was never written.
pub type Kept = BTreeMap<u64, Versions>;

impl World {
    /// A primary sends a write to its volume.
    pub fn primary_submits(&mut self, node: usize, volume: VolumeId, io: &DiskIo, op: u64) {
        let DiskIo::Write(extent, data, _) = io else { return };
        let pair = self.pairs.iter().position(|pair| pair.primary == node && pair.primary_volume == volume);
        // A spill belongs to none.
        let Some(pair) = pair else { return };
        let writer = data.as_ref().map(|data| {
            let mut first = [0; 8];
            first.copy_from_slice(&data[..8]);
            u64::from_le_bytes(first) as usize - 1
        });
        let info = &self.pairs[pair];
        let latest = self.groups[info.group].history.latest(info.id);
        for (index, sector) in self.disks[&(node, volume)].sectors_of(*extent).enumerate() {
            let versions = self.kept[pair].entry(sector).or_insert_with(|| {
                let blob = latest[sector as usize].clone();
                vec![Version { blob, op: None, heard_at: Some(0), flying: None }]
            });
            let blob = Blob::of(data.as_ref(), index);
            versions.push(Version { blob, op: writer, heard_at: None, flying: Some(op) });
        }
        let flight = (node, volume, op);
        self.flights.insert(flight, Flight { pair, extent: *extent, unstamped: None });
        self.fresh.push(Fresh { pair, extent: *extent, data: data.clone(), flight });
    }

    /// A record was stamped: its write was submitted in the same call.
    /// Returns false for a copy: that carries what the volume holds.
    pub fn stamp_of_fresh(&mut self, pair: usize, head: &RecordHead, payload: Option<&Bytes>) -> bool {
        match head.kind {
            RecordKind::Write | RecordKind::WriteZeroes | RecordKind::Unmap => {}
            RecordKind::Copy => {
                self.check_copy(pair, head, payload);
                return false;
            }
            _ => return true,
        }
        let at = self.fresh.iter().position(|fresh| {
            let is_same = match (&fresh.data, payload) {
                (Some(data), Some(payload)) => Bytes::ptr_eq(data, payload),
                (None, None) => true,
                _ => false,
            };
            fresh.pair == pair && fresh.extent == head.extent && is_same
        });
        match at {
            Some(at) => {
                self.fresh.remove(at);
                true
            }
            // A copy of zeroes travels as such.
            None => {
                assert!(
                    head.kind == RecordKind::WriteZeroes,
                    "{head:?} was stamped, but its local write was not submitted with it"
                );
                self.check_copy(pair, head, None);
                false
            }
        }
    }

    /// A copy carries what the volume holds at its stamp, and no write that may change that is in flight.
    fn check_copy(&mut self, pair: usize, head: &RecordHead, payload: Option<&Bytes>) {
        self.totals.copies += 1;
        let info = &self.pairs[pair];
        let disk = &self.disks[&(info.primary, info.primary_volume)];
        for (index, sector) in disk.sectors_of(head.extent).enumerate() {
            assert!(
                disk.seen(sector).is_same(&Blob::of(payload, index)),
                "{head:?} is a copy, but not of what sector {sector} of pair {} holds",
                info.name
            );
        }
        let overlapping =
            self.flights.values().find(|flight| flight.pair == pair && flight.extent.overlaps(head.extent));
        if let Some(flight) = overlapping {
            panic!("{head:?} is a copy, but a write to {:?} is in flight", flight.extent);
        }
    }

    /// What was submitted without a stamp in the call that ended.
    pub fn rest_of_fresh(&mut self) {
        for fresh in std::mem::take(&mut self.fresh) {
            let info = &self.pairs[fresh.pair];
            let id = self.groups[info.group].history.unstamped(info.id, fresh.extent, fresh.data.as_ref());
            if let Some(flight) = self.flights.get_mut(&fresh.flight) {
                flight.unstamped = Some(id);
            }
            self.totals.unstamped += 1;
        }
    }

    /// A primary's write ended.
    pub fn flight_done(&mut self, node: usize, volume: VolumeId, op: u64, is_done: bool) {
        let Some(flight) = self.flights.remove(&(node, volume, op)) else { return };
        let info = &self.pairs[flight.pair];
        let disk = &self.disks[&(node, volume)];
        if is_done {
            for sector in disk.sectors_of(flight.extent) {
                let versions = self.kept[flight.pair].get_mut(&sector).into_iter().flatten();
                versions.filter(|it| it.flying == Some(op)).for_each(|it| it.flying = None);
            }
            return;
        }
        let history = &mut self.groups[info.group].history;
        for sector in disk.sectors_of(flight.extent) {
            let is = disk.seen(sector);
            if !is.is_same(&history.latest(info.id)[sector as usize]) {
                match flight.unstamped {
                    Some(write) => history.found_of(info.id, write, sector, is),
                    None => history.found(info.id, sector, is),
                }
            }
        }
    }

    /// A host heard that its request is done: what it may rely on.
    pub fn host_relies(&mut self, id: usize) {
        let op = &self.ops[id];
        let (pair, kind, extent, is_fua, issued_at) = (op.pair, op.kind, op.extent, op.is_fua, op.issued_at);
        let now = self.totals.events;
        let kept = &mut self.kept[pair];
        match kind {
            Kind::Read => {}
            Kind::Flush => {
                self.totals.flushed_checks += 1;
                for versions in kept.values_mut() {
                    let last = versions.iter().rposition(|it| it.heard_at.is_some_and(|at| at < issued_at));
                    versions.drain(..last.unwrap_or(0));
                }
            }
            _ => {
                let sectors =
                    self.disks[&(self.pairs[pair].primary, self.pairs[pair].primary_volume)].sectors_of(extent);
                for sector in sectors {
                    let Some(versions) = kept.get_mut(&sector) else { continue };
                    let at = versions.iter().position(|it| match kind {
                        Kind::Write => it.op == Some(id),
                        _ => it.heard_at.is_none() && it.flying.is_none() && matches!(it.blob, Blob::Zero),
                    });
                    let Some(at) = at else { continue };
                    versions[at].heard_at = Some(now);
                    if is_fua {
                        versions.drain(..at);
                    }
                }
            }
        }
    }

    /// A primary died, and this is what its disks hold now.
    pub fn primary_died(&mut self, node: usize, loss: Loss) {
        self.flights.retain(|(at, ..), _| *at != node);
        self.fresh.clear();
        for index in 0..self.pairs.len() {
            let info = &self.pairs[index];
            if info.primary != node {
                continue;
            }
            let disk = &self.disks[&(node, info.primary_volume)];
            let history = &mut self.groups[info.group].history;
            for (sector, versions) in &mut self.kept[index] {
                let is = disk.seen(*sector);
                let name = &info.name;
                assert!(
                    versions.iter().any(|version| version.blob.is_same(&is)),
                    "promise 4 (local durability): after a crash sector {sector} of pair {name} is none of the {} versions \
                     that may be there",
                    versions.len()
                );
                if !is.is_same(&history.latest(info.id)[*sector as usize]) {
                    history.found(info.id, *sector, is.clone());
                }
                // What only a process lost is not durable yet: the power may go next.
                if loss != Loss::Process {
                    versions.clear();
                }
                versions.push(Version { blob: is, op: None, heard_at: Some(self.totals.events), flying: None });
            }
        }
    }
}
