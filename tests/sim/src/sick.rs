//! Devices that fail: errors, no space, short writes, gone, rot.

use crate::chance::Chance;
use crate::coverage::Hit;
use crate::disk::{DiskIo, Failure};
use crate::world::{What, World};
use longrun_copy::types::VolumeId;

/// What ails a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ailment {
    /// EIO; of a write any sectors may have been written.
    Errors,
    /// ENOSPC; nothing was written.
    NoSpace,
    /// A first part was written.
    ShortWrites,
    /// ENODEV, whatever is asked.
    Gone,
}

/// A device that fails for a while.
#[derive(Clone, Debug)]
pub struct Sick {
    pub ailment: Ailment,
    /// `None`: all devices of the node.
    pub volume: Option<VolumeId>,
    pub until: u64,
    /// Each request fails, not only some.
    pub is_lasting: bool,
}

impl Sick {
    /// Whether this request fails, and how.
    fn fails(&self, io: &DiskIo, sectors: usize, chance: &mut Chance) -> Option<Failure> {
        let is_write = matches!(io, DiskIo::Write(..));
        let failure = match self.ailment {
            Ailment::Errors => Failure::Any,
            Ailment::NoSpace if is_write => Failure::Nothing(28),
            Ailment::ShortWrites if is_write && sectors > 1 => Failure::Prefix(chance.below(sectors)),
            Ailment::Gone => Failure::Nothing(19),
            _ => return None,
        };
        (self.is_lasting || chance.hits(0.3)).then_some(failure)
    }

    fn hit(&self) -> Hit {
        match (self.ailment, self.is_lasting) {
            (Ailment::Errors, false) => Hit::Errors,
            (Ailment::Errors, true) => Hit::LastingErrors,
            (Ailment::NoSpace, false) => Hit::NoSpace,
            (Ailment::NoSpace, true) => Hit::LastingNoSpace,
            (Ailment::ShortWrites, _) => Hit::ShortWrite,
            (Ailment::Gone, _) => Hit::Gone,
        }
    }
}

impl World {
    /// Whether a request to a device fails.
    pub fn failure_of(&mut self, node: usize, volume: VolumeId, io: &DiskIo) -> Option<(Failure, Hit)> {
        let at = self.at;
        self.trouble[node].sick.retain(|sick| at < sick.until);
        let sectors = match io {
            DiskIo::Read(extent, _) | DiskIo::Write(extent, ..) => {
                let range = self.disks[&(node, volume)].sectors_of(*extent);
                (range.end - range.start) as usize
            }
            DiskIo::Flush => 0,
        };
        let ours = self.trouble[node].sick.iter().filter(|sick| sick.volume.is_none_or(|it| it == volume));
        let chance = &mut self.chance;
        let (failure, hit) = ours.filter_map(|sick| Some((sick.fails(io, sectors, chance)?, sick.hit()))).next()?;
        if let Some(group) = self.group_of(node, volume) {
            self.cover_group(node, group, hit);
        }
        if node == self.secondary() {
            self.totals.disk_errors += 1;
        } else if matches!(io, DiskIo::Write(..)) {
            self.totals.failed_writes += 1;
        }
        Some((failure, hit))
    }

    /// A system hears that a request failed, if it did.
    pub fn failed(&mut self, node: usize, volume: VolumeId, op: u64) {
        let life = self.nodes[node].life;
        if let Some((hit, _)) = self.failing.remove(&(node, life, volume, op))
            && let Some(group) = self.group_of(node, volume)
        {
            self.cover_group(node, group, hit);
        }
    }

    /// A device of the node falls ill.
    pub fn fall_ill(&mut self, node: usize, ailment: Ailment, is_lasting: bool, until: u64) {
        let volumes: Vec<VolumeId> =
            self.disks.keys().filter(|(at, _)| *at == node).map(|(_, volume)| *volume).collect();
        let volume = self.chance.pick(&volumes);
        let volume = (is_lasting || self.chance.hits(0.5)).then_some(volume);
        self.trouble[node].sick.push(Sick { ailment, volume, until, is_lasting });
    }

    /// Whose device this is.
    fn group_of(&self, node: usize, volume: VolumeId) -> Option<usize> {
        let is_secondary = node == self.secondary();
        let of_pair = self.pairs.iter().find(|pair| {
            let here = if is_secondary { pair.secondary_volume } else { pair.primary_volume };
            here == volume && (is_secondary || pair.primary == node)
        });
        // Journals, overlays and spills are numbered by their group, from a multiple of 500 on.
        of_pair.map(|pair| pair.group).or_else(|| {
            let group = volume.0 as usize % 500;
            // A view's store is nobody's state.
            ((1000..6000).contains(&volume.0) && group < self.groups.len()).then_some(group)
        })
    }

    /// A bit of a journal turns over.
    pub fn rot(&mut self) {
        let group = self.chance.below(self.groups.len());
        self.rot_of(group);
    }

    /// A bit of this group's journal turns over, and often the system dies with it.
    pub fn rot_of(&mut self, group: usize) {
        let node = self.secondary();
        if self.rot_sector(group) && self.nodes[node].engine.is_some() && self.chance.hits(0.4) {
            let (loss, pause) = (self.draw_loss(), self.chance.log_range(1_000_000, 100_000_000));
            self.totals.secondary_crashes += 1;
            self.kill(node, loss);
            self.later(self.at + pause, What::Start(node));
        }
    }

    /// A bit of this group's journal turns over. Returns whether anything was written there.
    pub fn rot_sector(&mut self, group: usize) -> bool {
        let node = self.secondary();
        let journal = self.groups[group].journal;
        let disk = self.disks.get_mut(&(node, journal)).expect("a disk stays");
        let Some(sector) = disk.rot(&mut self.chance) else { return false };
        self.groups[group].has_rotten = true;
        self.totals.rotten += 1;
        self.say(node, format_args!("sector {sector} of the journal of group {group} rots"));
        self.cover_group(node, group, Hit::BitRot);
        true
    }
}
