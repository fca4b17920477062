//! Blocks of copies that something else than Longrun alters, and whether verify finds them.
//!
//! A verify lists pieces of 64 KiB. It lists none that has no altered block, and, when it could read everything, each that
//! has one. After a verify with repair a cut has no altered block any more, from the stamp on up to which its copies went.

use crate::disk::{Blob, SECTOR_BYTES};
use crate::host::content;
use crate::memory::Bytes;
use crate::world::{What, World};
use longrun_copy::digest::PIECE_BYTES;
use longrun_copy::primary::VerifyProgress;
use longrun_copy::types::{Extent, Now, Time};
use std::collections::BTreeSet;

const SECOND: u64 = 1_000_000_000;

/// What altered blocks hold is numbered from here on.
const ALTERED: u64 = 1 << 42;

/// Sectors that are altered while hosts write.
const ALTERED_MAX: usize = 40;

const PIECE_SECTORS: u64 = (PIECE_BYTES / SECTOR_BYTES) as u64;

/// A sector of a copy that was altered.
pub struct Altered {
    pub pair: usize,
    pub sector: u64,
    pub blob: Blob,
    at: u64,
    /// Whether a repair of it was sent: a cut that is not earlier does not have it.
    repaired: Repaired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repaired {
    No,
    /// Its verify is over; by this primary, in this life of it.
    Listed(usize, u32),
    From(Time),
}

/// A verify under way, by primary and group.
pub struct Verifying {
    life: u32,
    begun: u64,
    /// Altered sectors that were there when it began.
    there: BTreeSet<usize>,
    is_repair: bool,
}

impl World {
    /// Something alters a copy, or an operator compares.
    pub fn verify_turn(&mut self) {
        if !self.are_asides_on {
            return;
        }
        let next = self.at + self.aside.range(1, 3 * self.plan.fault_every_ns);
        self.later(next, What::Verify);
        if self.altered.len() < ALTERED_MAX && self.aside.hits(0.5) {
            let pair = self.aside.below(self.pairs.len());
            return self.alter(pair);
        }
        let (node, group) = (self.aside.below(self.plan.primaries), self.aside.below(self.groups.len()));
        let is_repair = self.aside.hits(0.5);
        self.verify(node, group, is_repair);
    }

    /// Alters some blocks of a copy, below all that keeps it.
    fn alter(&mut self, pair: usize) {
        let (geometry, volume) = (self.pairs[pair].geometry, self.pairs[pair].secondary_volume);
        let lba = self.aside.range(0, geometry.blocks - 1);
        let blocks = self.aside.range(1, 3).min(geometry.blocks - lba) as u32;
        let extent = Extent { lba, blocks };
        let bytes = Bytes::new(content(ALTERED + self.altered.len() as u64, pair, extent, geometry.block_bytes));
        let node = self.secondary();
        let disk = self.disks.get_mut(&(node, volume)).expect("a disk stays");
        disk.preset(extent, &bytes);
        let at = self.at;
        for (index, sector) in disk.sectors_of(extent).enumerate() {
            let blob = Blob::of(Some(&bytes), index);
            self.altered.push(Altered { pair, sector, blob, at, repaired: Repaired::No });
        }
        self.totals.altered += 1;
        self.note(61, pair as u64, lba);
        self.say(node, format_args!("{blocks} blocks from {lba} of pair {pair} are altered"));
    }

    /// Whether a sector of a copy is what it should be, or was altered and not repaired at `point`.
    pub fn is_sound(&self, pair: usize, sector: usize, is: &Blob, should: &Blob, point: Option<Time>) -> bool {
        is.is_same(should)
            || self.altered.iter().any(|it| {
                let is_due = matches!((it.repaired, point), (Repaired::From(from), Some(point)) if from <= point);
                !is_due && it.pair == pair && it.sector == sector as u64 && it.blob.is_same(is)
            })
    }

    /// The first of so many sectors of a copy that is not what it should be.
    pub fn first_unsound(&self, pair: usize, is: &[Blob], should: &[Blob], count: usize, point: Time) -> Option<usize> {
        assert!(is.len() >= count && should.len() >= count, "pair {pair} has {} sectors, not {count}", is.len());
        (0..count).find(|sector| !self.is_sound(pair, *sector, &is[*sector], &should[*sector], Some(point)))
    }

    /// Altered sectors that are there now.
    fn altered_now(&self) -> BTreeSet<usize> {
        let node = self.secondary();
        let is_there = |it: &Altered| {
            let disk = &self.disks[&(node, self.pairs[it.pair].secondary_volume)];
            disk.seen(it.sector).is_same(&it.blob)
        };
        self.altered.iter().enumerate().filter(|(_, it)| is_there(it)).map(|(index, _)| index).collect()
    }

    /// An operator compares a group's pairs. Returns whether that began.
    fn verify(&mut self, node: usize, group: usize, is_repair: bool) -> bool {
        if self.nodes[node].engine.is_none() || self.trouble[node].is_shutting_down {
            return false;
        }
        let id = self.groups[group].id;
        let answer = self.operate(node, |engine, ports, now| {
            let (roles, mut world) = engine.primary(ports);
            roles.group_verify(now, id, None, is_repair, &mut world)
        });
        self.say(node, format_args!("operator: group_verify of group {group}, repair {is_repair}: {answer:?}"));
        if answer.is_ok() {
            self.verify_began(node, group, is_repair);
        }
        answer.is_ok()
    }

    /// A verify has begun.
    pub fn verify_began(&mut self, node: usize, group: usize, is_repair: bool) {
        let run = Verifying { life: self.nodes[node].life, begun: self.at, there: self.altered_now(), is_repair };
        self.verifying.insert((node, group), run);
    }

    /// After a turn of a primary: what its verify found.
    pub fn check_verify(&mut self, node: usize, now: Now) {
        for group in 0..self.groups.len() {
            let Some(run) = self.verifying.get(&(node, group)) else { continue };
            if run.life != self.nodes[node].life {
                self.verifying.remove(&(node, group));
                continue;
            }
            let id = self.groups[group].id;
            let it = &mut self.nodes[node];
            let Some(engine) = &mut it.engine else { return };
            let (roles, world) = engine.primary(&mut it.ports);
            let Some(status) = roles.group_status(now, id, &world) else { continue };
            if !status.verify.is_some_and(|verify| verify.is_over) {
                continue;
            }
            let found: Vec<(usize, VerifyProgress)> = (0..self.pairs.len())
                .filter(|pair| self.pairs[*pair].primary == node && self.pairs[*pair].group == group)
                .filter_map(|pair| Some((pair, roles.pair_status(now, self.pairs[pair].id)?.verify?)))
                .collect();
            let run = self.verifying.remove(&(node, group)).expect("looked up above");
            for (pair, progress) in found {
                self.check_found(node, pair, &run, &progress);
            }
        }
    }

    fn check_found(&mut self, node: usize, pair: usize, run: &Verifying, found: &VerifyProgress) {
        let now = self.altered_now();
        let sectors = |extent: Extent| self.disks[&(node, self.pairs[pair].primary_volume)].sectors_of(extent);
        let listed: BTreeSet<u64> =
            found.differing.iter().flat_map(|extent| sectors(*extent)).map(|sector| sector / PIECE_SECTORS).collect();
        for piece in &listed {
            let is_meant = self.altered.iter().enumerate().any(|(index, it)| {
                let is_there = run.there.contains(&index) || it.at >= run.begun;
                it.pair == pair && is_there && it.sector / PIECE_SECTORS == *piece
            });
            assert!(is_meant, "verify lists piece {piece} of pair {pair}, which nobody altered: {found:?}");
        }
        self.totals.verified += 1;
        self.totals.verified_differing += listed.len() as u64;
        let is_whole = found.reason.is_none() && found.bytes_unreadable == 0;
        if !is_whole {
            return;
        }
        for index in run.there.intersection(&now) {
            let it = &self.altered[*index];
            assert!(
                it.pair != pair || listed.contains(&(it.sector / PIECE_SECTORS)),
                "verify does not list sector {} of pair {pair}, which was altered: {found:?}",
                it.sector
            );
        }
        let life = self.nodes[node].life;
        for index in run.there.iter().filter(|_| run.is_repair) {
            let it = &mut self.altered[*index];
            if it.pair == pair && it.repaired == Repaired::No {
                it.repaired = Repaired::Listed(node, life);
            }
        }
    }

    /// All that a pair's secondary lacked was sent up to this time.
    pub fn altered_sent(&mut self, pair: usize, until: Time) {
        for it in self.altered.iter_mut().filter(|it| it.pair == pair) {
            if let Repaired::Listed(node, life) = it.repaired {
                // What was to be repaired is forgotten in a crash.
                let is_same = life == self.nodes[node].life;
                it.repaired = if is_same { Repaired::From(until) } else { Repaired::No };
            }
        }
    }

    /// At the end, without hosts: a verify lists what was altered, exactly, and repairs it.
    pub fn end_verify(&mut self) {
        for group in 0..self.groups.len() {
            if !self.is_copying(group) || self.groups[group].has_rotten {
                continue;
            }
            for is_repair in [false, true, false] {
                for pair in 0..self.pairs.len() {
                    let is_ours = self.pairs[pair].group == group;
                    if is_ours && !is_repair && self.aside.hits(0.3) {
                        self.alter(pair);
                    }
                }
                for node in 0..self.plan.primaries {
                    let is_ours = |pair: &&crate::world::PairInfo| pair.group == group && pair.primary == node;
                    if !self.pairs.iter().filter(is_ours).all(|pair| pair.is_copied) {
                        continue;
                    }
                    let (deadline, mut is_begun) = (self.at + 40 * SECOND, false);
                    self.run_until("a verify that is over", deadline, |world| {
                        is_begun = is_begun || world.verify(node, group, is_repair);
                        is_begun && !world.verifying.contains_key(&(node, group)) || !world.is_copying(group)
                    });
                }
            }
            if self.is_copying(group) {
                self.verify_once_more(group);
            }
        }
    }

    fn verify_once_more(&mut self, group: usize) {
        let deadline = self.at + 40 * SECOND;
        for node in 0..self.plan.primaries {
            let mut is_begun = false;
            self.run_until("a repair that is over", deadline, |world| {
                is_begun = is_begun || world.verify(node, group, true);
                let is_over = is_begun && !world.verifying.contains_key(&(node, group));
                let is_sent =
                    !world.altered.iter().any(|it| it.repaired == Repaired::Listed(node, world.nodes[node].life));
                is_over && is_sent || !world.is_copying(group)
            });
        }
    }
}
