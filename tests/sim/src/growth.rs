//! Pairs that are made larger while hosts write and anything fails.
//!
//! The volumes grow first, at either site, and a site sees that of its own only after a rescan or a restart. What is new
//! holds something else at each site. Hosts see the new size when the primary shows it; from the stamp on at which the
//! primary has sent all that is new, a cut of the pair is a cut of its whole new size.

use crate::disk::SECTOR_BYTES;
use crate::host::{INITIAL, content};
use crate::memory::Bytes;
use crate::world::{What, World};
use longrun_copy::engine::OperatorError;
use longrun_copy::ports::OperatorAnswer;
use longrun_copy::types::{Extent, Now, PairState, Time, VolumeId};

const SECOND: u64 = 1_000_000_000;

/// Growths of a pair at most.
const GROWTHS_MAX: usize = 2;

/// A size that a pair had or has.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub blocks: u64,
    /// A cut that is not earlier has all of it; `None`: not all was sent yet.
    pub whole_from: Option<Time>,
}

impl World {
    /// How many blocks of a pair a cut at `point` has at least.
    pub fn whole_blocks(&self, pair: usize, point: Time) -> u64 {
        let sizes = self.pairs[pair].sizes.iter();
        let whole = sizes.filter(|size| size.whole_from.is_some_and(|from| from <= point)).map(|size| size.blocks);
        whole.max().expect("a pair has a size from the start")
    }

    /// The same, in sectors.
    pub fn whole_sectors(&self, pair: usize, point: Time) -> usize {
        let block_bytes = self.pairs[pair].geometry.block_bytes as usize;
        self.whole_blocks(pair, point) as usize * (block_bytes / SECTOR_BYTES)
    }

    /// A volume is made larger, rescanned, or a pair is to follow.
    pub fn grow_turn(&mut self) {
        if !self.are_asides_on {
            return;
        }
        let next = self.at + self.aside.range(1, 3 * self.plan.fault_every_ns);
        self.later(next, What::Grow);
        let pair = self.aside.below(self.pairs.len());
        let (primary, secondary) = (self.pairs[pair].primary, self.secondary());
        let (here, there) = (self.pairs[pair].primary_volume, self.pairs[pair].secondary_volume);
        match self.aside.below(8) {
            0 | 1 => self.enlarge_primary(pair),
            2 => self.enlarge_secondary(pair),
            3 => self.rescan(primary, here),
            4 => self.rescan(secondary, there),
            _ => {
                let blocks = self.disks[&(primary, here)].geometry().blocks;
                let blocks = if self.aside.hits(0.1) { self.aside.range(1, 2 * blocks) } else { blocks };
                self.resize(pair, blocks);
            }
        }
    }

    fn enlarge_primary(&mut self, pair: usize) {
        let info = &self.pairs[pair];
        let here = (info.primary, info.primary_volume);
        let has = self.disks[&here].geometry().blocks;
        // One growth after the other.
        if info.sizes.len() > GROWTHS_MAX || has > info.geometry.blocks {
            return;
        }
        let more = self.aside.log_range(1, has);
        self.enlarge(pair, here.0, has + more);
        let (group, id) = (self.pairs[pair].group, self.pairs[pair].id);
        let image = self.disks[&here].image();
        self.groups[group].history.grow(id, &image);
    }

    fn enlarge_secondary(&mut self, pair: usize) {
        let info = &self.pairs[pair];
        let blocks = self.disks[&(info.primary, info.primary_volume)].geometry().blocks;
        let there = (self.secondary(), info.secondary_volume);
        if self.disks[&there].geometry().blocks < blocks {
            self.enlarge(pair, there.0, blocks);
        }
    }

    /// A device has so many blocks from here on; what is new holds something.
    fn enlarge(&mut self, pair: usize, node: usize, blocks: u64) {
        let info = &self.pairs[pair];
        let volume = if node == info.primary { info.primary_volume } else { info.secondary_volume };
        self.note(60, node as u64, blocks);
        let disk = self.disks.get_mut(&(node, volume)).expect("a disk stays");
        let has = disk.geometry();
        disk.enlarge(blocks);
        self.say(node, format_args!("the volume of pair {pair} grows from {} to {blocks} blocks", has.blocks));
        for salt in 0..self.aside.range(0, 3) {
            let lba = self.aside.range(has.blocks, blocks - 1);
            let extent = Extent { lba, blocks: self.aside.range(1, blocks - lba) as u32 };
            let bytes = Bytes::new(content(INITIAL + 2000 + salt, pair ^ node << 4, extent, has.block_bytes));
            self.disks.get_mut(&(node, volume)).expect("a disk stays").preset(extent, &bytes);
        }
    }

    /// A system looks how large one of its devices is.
    fn rescan(&mut self, node: usize, volume: VolumeId) {
        let blocks = self.disks[&(node, volume)].geometry().blocks;
        self.nodes[node].ports.blocks.insert(volume, blocks);
    }

    /// An operator asks for a size.
    fn resize(&mut self, pair: usize, blocks: u64) {
        let info = &self.pairs[pair];
        let (node, id, group) = (info.primary, info.id, info.group);
        if self.nodes[node].engine.is_none() || self.trouble[node].is_shutting_down {
            return;
        }
        let (shown, has) = (info.geometry.blocks, self.disks[&(node, info.primary_volume)].geometry().blocks);
        let ticket = self.loose_ticket(group);
        let answer = self.operate(node, |engine, ports, now| {
            let (roles, mut world) = engine.primary(ports);
            roles.pair_resize(now, id, blocks, ticket, &mut world)
        });
        self.say(node, format_args!("operator: pair_resize of pair {pair} to {blocks}: {answer:?}"));
        let is_sound = shown < blocks && blocks <= has;
        assert!(answer.is_err() || is_sound, "pair {pair} of {shown} blocks, its volume of {has}, resized to {blocks}");
        if answer.is_err() {
            self.loose.remove(&ticket.0);
        }
    }

    /// Such a request was answered.
    pub fn resize_answered(&mut self, answer: &Result<OperatorAnswer, OperatorError>) {
        if matches!(answer, Ok(OperatorAnswer::Resized { .. })) {
            self.totals.resized += 1;
        }
    }

    /// After a turn of a primary: what it shows hosts of its pairs' sizes.
    pub fn check_sizes(&mut self, node: usize, now: Now) {
        for pair in 0..self.pairs.len() {
            let info = &self.pairs[pair];
            if info.primary != node {
                continue;
            }
            let it = &mut self.nodes[node];
            let Some(engine) = &mut it.engine else { return };
            let (roles, world) = engine.primary(&mut it.ports);
            let Some(shown) = roles.pair_status(now, info.id) else { continue };
            let Some(status) = roles.group_status(now, self.groups[info.group].id, &world) else { continue };
            let blocks = shown.geometry.blocks;
            let was = info.geometry.blocks;
            assert!(blocks >= was, "pair {pair} shrinks from {was} to {blocks} blocks");
            let has = self.disks[&(node, info.primary_volume)].geometry().blocks;
            assert!(blocks <= has, "pair {pair} shows {blocks} blocks of a volume of {has}");
            let is_sending = matches!(status.state, PairState::Pair | PairState::NearlyFull);
            let is_all_sent = is_sending && shown.state == status.state && shown.missing_bytes == 0;
            let floor = status.streams.iter().map(|stream| stream.last_time).max();
            let last = self.groups[info.group].history.last().map(|last| last.time);
            let until = last.max(floor).unwrap_or(Time(0));
            let info = &mut self.pairs[pair];
            if blocks > was {
                info.geometry.blocks = blocks;
                // A start shows what its record says, and copies what is marked.
                let is_seen = info.sized_in == self.nodes[node].life;
                info.sizes.push(Size { blocks, whole_from: is_seen.then_some(until) });
                self.totals.grown += 1;
            }
            info.sized_in = self.nodes[node].life;
            if is_all_sent {
                for size in info.sizes.iter_mut().filter(|size| size.whole_from.is_none()) {
                    size.whole_from = Some(until);
                }
                self.altered_sent(pair, until);
            }
        }
    }

    /// At the end: every pair has the size of its volume.
    pub fn end_growth(&mut self) {
        let pairs: Vec<usize> = (0..self.pairs.len()).filter(|pair| self.is_copying(self.pairs[*pair].group)).collect();
        for pair in pairs {
            self.enlarge_secondary(pair);
            let (primary, secondary) = (self.pairs[pair].primary, self.secondary());
            let (here, there) = (self.pairs[pair].primary_volume, self.pairs[pair].secondary_volume);
            self.rescan(primary, here);
            self.rescan(secondary, there);
            let blocks = self.disks[&(primary, here)].geometry().blocks;
            let (deadline, mut next) = (self.at + 40 * SECOND, 0);
            self.run_until("a pair as large as its volumes", deadline, |world| {
                if world.pairs[pair].geometry.blocks < blocks && world.at >= next {
                    next = world.at + 20_000_000;
                    world.resize(pair, blocks);
                }
                let group = world.pairs[pair].group;
                let is_whole = world.pairs[pair].sizes.iter().all(|size| size.whole_from.is_some());
                world.pairs[pair].geometry.blocks >= blocks && is_whole || !world.is_copying(group)
            });
        }
    }

    /// Everything was created again, as large as the volumes are.
    pub fn sizes_anew(&mut self) {
        for pair in 0..self.pairs.len() {
            self.enlarge_secondary(pair);
            let info = &mut self.pairs[pair];
            info.geometry.blocks = self.disks[&(info.primary, info.primary_volume)].geometry().blocks;
            info.sizes = vec![Size { blocks: info.geometry.blocks, whole_from: Some(Time(0)) }];
        }
    }
}
