//! What operators do: systems, links, groups and pairs, at the start and again after each restart.

use crate::coverage::{Hit, at_primary, at_secondary};
use crate::disk::Disk;
use crate::growth::Size;
use crate::history::History;
use crate::host::{Client, INITIAL, content};
use crate::memory::Bytes;
use crate::plan::{Fault, LOG_BYTES_MIN};
use crate::world::{GroupInfo, PairInfo, What, World};
use longrun_copy::engine::{EngineConfig, OperatorError};
use longrun_copy::link::{LinkConfig, Security, Strand, public_of};
use longrun_copy::ports::Ticket;
use longrun_copy::primary::{self, PrimaryConfig};
use longrun_copy::secondary::{self, SecondaryConfig};
use longrun_copy::types::{Extent, Geometry, GroupId, Initial, LinkId, PairId, SystemId, Time, VolumeId};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A primary's device for records that its memory cannot hold.
fn spill_of(group: usize) -> VolumeId {
    VolumeId(3000 + group as u32)
}

impl World {
    /// Makes disks, pairs and groups, starts every system, and waits until every pair copies.
    pub fn set_up(&mut self) {
        let (primaries, groups, per_primary) = (self.plan.primaries, self.plan.groups, self.plan.pairs_per_primary);
        let secondary = self.secondary();
        for group in 0..groups {
            let name = format!("g{group}");
            let id = GroupId::of_name(&name);
            let journal = VolumeId(1000 + group as u32);
            let journal_block_bytes = self.chance.pick(&[512, 4096]);
            let geometry = Geometry {
                blocks: self.plan.journal_bytes / u64::from(journal_block_bytes),
                block_bytes: journal_block_bytes,
            };
            self.disks.insert((secondary, journal), Disk::new(geometry));
            for node in (0..primaries).filter(|_| self.plan.spill_bytes.is_some()) {
                let geometry = Geometry { blocks: self.plan.spill_bytes.unwrap_or_default() / 4096, block_bytes: 4096 };
                self.disks.insert((node, spill_of(group)), Disk::new(geometry));
            }
            let overlay = self.plan.overlay_bytes.map(|bytes| {
                let volume = VolumeId(2000 + group as u32);
                let geometry = Geometry { blocks: bytes / 4096, block_bytes: 4096 };
                self.disks.insert((secondary, volume), Disk::new(geometry));
                volume
            });
            self.groups.push(GroupInfo {
                name,
                overlay,
                bookmarks: BTreeMap::new(),
                id,
                journal,
                history: History::default(),
                stamped_at: BTreeMap::new(),
                known: None,
                reported: Time(0),
                reported_in_life: (0, Time(0)),
                limit: Time(0),
                certificate: None,
                takeover_begun: false,
                suspended: BTreeMap::new(),
                fenced: vec![false; primaries],
                charged: vec![0; primaries],
                was_suspended: Vec::new(),
                is_caught_up: false,
                had_unit: false,
                is_too_large: false,
                is_ahead: false,
                unit_base: None,
                unit_spans: Vec::new(),
                journaled: BTreeMap::new(),
                has_rotten: false,
                has_failed: false,
            });
            for primary in 0..primaries {
                for index in 0..per_primary {
                    self.make_pair(group, primary, index);
                }
            }
        }
        if self.plan.views {
            self.make_stores();
        }
        for node in (0..=primaries).rev() {
            self.start_node(node);
        }
        self.clients = vec![Client::default(); self.plan.clients];
        if self.plan.faults_at_setup {
            let all = self.plan.faults.clone();
            let harmless = [Fault::Partition, Fault::SecondaryCrash, Fault::Stall, Fault::NoMemory, Fault::SlowDisks];
            self.plan.faults.retain(|fault| harmless.contains(fault));
            self.faults_on = !self.plan.faults.is_empty();
            self.later(self.at, What::Fault);
            self.run_for(self.plan.fault_every_ns * 12);
            self.faults_on = false;
            self.plan.faults = all;
        }
        self.await_copying();
    }

    fn make_pair(&mut self, group: usize, primary: usize, index: usize) {
        let name = format!("p{primary}k{index}");
        let number = self.pairs.len() as u32;
        let geometry = Geometry { blocks: self.plan.volume_blocks, block_bytes: self.plan.block_bytes };
        let pair = PairInfo {
            group,
            primary,
            id: PairId::of_name(self.groups[group].id, &name),
            name,
            primary_volume: VolumeId(number),
            secondary_volume: VolumeId(500 + number),
            geometry,
            sizes: vec![Size { blocks: geometry.blocks, whole_from: Some(Time(0)) }],
            sized_in: 0,
            is_copied: matches!(self.plan.initial, Initial::Empty | Initial::Identical),
        };
        let (mut here, mut there) = (Disk::new(geometry), Disk::new(geometry));
        let of = |salt: u64, extent: Extent| -> Bytes {
            Rc::new(content(INITIAL + salt, number as usize, extent, geometry.block_bytes))
        };
        let all = Extent { lba: 0, blocks: geometry.blocks as u32 };
        match self.plan.initial {
            Initial::Empty => {}
            Initial::Identical => {
                let bytes = of(u64::from(number), all);
                here.preset(all, &bytes);
                there.preset(all, &bytes);
            }
            // What the secondary volume holds is given up.
            Initial::Copy | Initial::CopyDifferences => {
                let blocks = self.chance.range(1, geometry.blocks) as u32;
                let part = Extent { lba: self.chance.range(0, geometry.blocks - u64::from(blocks)), blocks };
                let bytes = of(u64::from(number), part);
                here.preset(part, &bytes);
                if self.chance.hits(0.5) {
                    there.preset(part, &bytes);
                }
                for salt in 0..self.chance.range(0, 4) {
                    let extent = Extent { lba: self.chance.range(0, geometry.blocks - 1), blocks: 1 };
                    there.preset(extent, &of(1000 + salt, extent));
                }
            }
        }
        self.groups[group].history.pair(pair.id, geometry, here.image());
        self.disks.insert((primary, pair.primary_volume), here);
        self.disks.insert((self.secondary(), pair.secondary_volume), there);
        self.pairs.push(pair);
        self.kept.push(Default::default());
    }

    /// Waits until every operator's request is answered, which is when every pair copies.
    pub fn await_copying(&mut self) {
        let deadline = self.at + 60_000_000_000;
        self.run_until("all pairs copy", deadline, |world| world.are_all_pairs_copying());
    }

    fn are_all_pairs_copying(&mut self) -> bool {
        let failed = self.tickets.iter().find_map(|(ticket, answer)| Some((*ticket, answer.as_ref().err()?.clone())));
        if let Some((ticket, error)) = failed {
            // A world that is directed at pairs which do not copy yet makes their devices ill.
            let is_ill = matches!(error, OperatorError::Device(_)) && self.plan.aim.is_some();
            let Some((node, life, pair)) = self.pairs_asked_for.remove(&ticket).filter(|_| is_ill) else {
                panic!("an operator's request failed: {error}: {}", self.describe());
            };
            self.tickets.remove(&ticket);
            if self.nodes[node].life == life && self.nodes[node].engine.is_some() {
                let again = self.ticket(node);
                self.pairs_asked_for.insert(again.0, (node, life, pair));
                self.later(self.at + 10_000_000, What::Create(again.0));
            }
        }
        self.open_tickets.is_empty() && self.nodes.iter().all(|node| node.engine.is_some())
    }

    /// A ticket for an operator's request to a node.
    pub fn ticket(&mut self, node: usize) -> Ticket {
        self.open_tickets.insert(self.next_ticket, node);
        self.next_ticket += 1;
        Ticket(self.next_ticket - 1)
    }

    /// The sizes of a node's roles.
    pub fn engine_config(&mut self, node: usize) -> EngineConfig {
        let mut primary = PrimaryConfig::new(SystemId::of_key(&public_of(&self.keys[node])));
        primary.retry_ns = 20_000_000;
        primary.clear_after_ns = self.plan.clear_after_ns;
        primary.mark_ahead_bytes = self.plan.mark_ahead_bytes;
        primary.resync_pause_ns = self.plan.resync_pause_ns;
        primary.resync_pause_ns_max = 2_000_000_000;
        primary.digest_wait_ns = self.plan.digest_wait_ns;
        primary.shutdown_wait_ns = 2_000_000_000;
        primary.spill_bytes_min = LOG_BYTES_MIN;
        let secondary = SecondaryConfig {
            receive_bytes: self.plan.receive_bytes,
            streams_max: self.plan.streams_max,
            stream_records: self.plan.stream_records,
            stamp_ahead_ns_max: 1_000_000_000,
            checkpoint_interval_ns: self.plan.checkpoint_interval_ns,
            attest_after_ns: self.plan.checkpoint_interval_ns / 4,
            journal_bytes_min: LOG_BYTES_MIN,
            // In half of the worlds a few records fill a block, so that several are in flight.
            journal_block_bytes_max: if self.plan.clients.is_multiple_of(2) { 4 << 10 } else { 2 << 20 },
            ..SecondaryConfig::default()
        };
        EngineConfig { primary, secondary, seed: self.chance.bytes() }
    }

    pub fn link_config(&self, node: usize, peer: usize, strand: u8) -> LinkConfig {
        // One side may not know where the other is.
        let is_called = node == self.secondary() && self.plan.clients.is_multiple_of(2);
        let address = (!is_called).then(|| World::address(peer, strand));
        let mut config = LinkConfig::new(self.keys[node], public_of(&self.keys[peer]), address);
        config.strand = Strand { index: strand, of: self.plan.strands };
        config.security = if self.plan.noise { Security::Noise } else { Security::None };
        config.mtu_bytes = self.plan.mtu_bytes;
        config.dead_after_ns = self.plan.dead_after_ns;
        config.keepalive_ns = (self.plan.dead_after_ns / 5).max(10_000_000);
        config.rekey_after_packets = self.plan.rekey_after_packets;
        config
    }

    /// Starts a node's process and repeats what its operator had asked for.
    pub fn start_node(&mut self, node: usize) {
        self.say(node, "starts");
        self.note(20, node as u64, 0);
        let config = self.engine_config(node);
        let at = self.at;
        self.nodes[node].start(config, at);
        let devices = self.disks.iter().filter(|((of, _), _)| *of == node);
        let devices = devices.map(|((_, volume), disk)| (*volume, disk.geometry().blocks));
        self.nodes[node].ports.blocks = devices.collect();
        let is_secondary = node == self.secondary();
        if is_secondary {
            self.link_secondary(node);
        } else {
            self.link_primary(node);
        }
        match (self.exchange.is_some(), is_secondary) {
            (true, _) => self.operate_exchange(node),
            (false, true) => self.operate_secondary(node),
            (false, false) => self.operate_primary(node),
        }
    }

    fn link_secondary(&mut self, node: usize) {
        for primary in 0..self.plan.primaries {
            self.make_link(node, primary);
        }
    }

    /// Creates the groups and pairs at the secondary.
    pub fn operate_secondary(&mut self, node: usize) {
        for group in 0..self.groups.len() {
            let config = self.secondary_group_config(group);
            self.operate(node, |engine, ports, now| {
                let (roles, mut world) = engine.secondary(ports);
                roles.group_create(now, config, &mut world)
            })
            .expect("a group can be created again as it was");
        }
        for pair in 0..self.pairs.len() {
            let config = self.secondary_pair_config(pair);
            let group = self.pairs[pair].group;
            self.look(node, group);
            let ticket = self.ticket(node);
            let created = self.operate(node, |engine, ports, now| {
                let (roles, mut world) = engine.secondary(ports);
                roles.pair_create(now, config, ticket, &mut world)
            });
            if self.groups[self.pairs[pair].group].has_rotten && created.is_err() {
                self.open_tickets.remove(&ticket.0);
                continue;
            }
            created.expect("a pair can be created again as it was");
            self.cover_group(node, group, Hit::Legal);
        }
    }

    /// Where a group of a node stands now.
    pub fn look(&mut self, node: usize, group: usize) {
        let id = self.groups[group].id;
        let it = &mut self.nodes[node];
        let now = it.clock.read(self.at);
        let Some(engine) = &mut it.engine else { return };
        let standing = if node == self.plan.primaries {
            let (roles, _) = engine.secondary(&mut it.ports);
            let test = roles.test_status(now, id);
            roles.group_status(now, id).map(|status| at_secondary(&status, test))
        } else {
            let (roles, world) = engine.primary(&mut it.ports);
            roles.group_status(now, id, &world).map(|status| at_primary(&status))
        };
        self.states[node][group] = standing.unwrap_or_default();
    }

    fn link_primary(&mut self, node: usize) {
        self.make_link(node, self.secondary());
    }

    /// Creates the groups and pairs at a primary.
    pub fn operate_primary(&mut self, node: usize) {
        for group in 0..self.groups.len() {
            let config = self.primary_group_config(node, group);
            self.operate(node, |engine, ports, now| {
                let (roles, mut world) = engine.primary(ports);
                roles.group_create(now, config, &mut world)
            })
            .expect("a group can be created again as it was");
        }
        for pair in 0..self.pairs.len() {
            if self.pairs[pair].primary != node {
                continue;
            }
            let group = self.pairs[pair].group;
            self.look(node, group);
            let ticket = self.ticket(node);
            self.pairs_asked_for.insert(ticket.0, (node, self.nodes[node].life, pair));
            self.create_pair(node, pair, ticket);
            self.cover_group(node, group, Hit::Legal);
        }
    }

    fn create_pair(&mut self, node: usize, pair: usize, ticket: Ticket) {
        let config = self.primary_pair_config(pair);
        let created = self.operate(node, |engine, ports, now| {
            let (roles, mut world) = engine.primary(ports);
            roles.pair_create(now, config, ticket, &mut world)
        });
        created.expect("a pair can be created again as it was");
    }

    /// An operator whose pair was not created for the sake of a device asks again.
    pub fn create_pair_again(&mut self, ticket: u64) {
        let Some((node, life, pair)) = self.pairs_asked_for.get(&ticket).copied() else { return };
        if self.nodes[node].life == life && self.nodes[node].engine.is_some() {
            self.create_pair(node, pair, Ticket(ticket));
        }
    }

    /// A group as the secondary's operator describes it.
    pub fn secondary_group_config(&self, group: usize) -> secondary::GroupConfig {
        let info = &self.groups[group];
        secondary::GroupConfig {
            name: info.name.clone(),
            journal: info.journal,
            journal_geometry: self.disks[&(self.secondary(), info.journal)].geometry(),
            overlay: info.overlay.map(|volume| (volume, self.disks[&(self.secondary(), volume)].geometry())),
            apply_delay_ns: self.plan.apply_delay_ns,
        }
    }

    /// A pair as the secondary's operator describes it.
    pub fn secondary_pair_config(&self, pair: usize) -> secondary::PairConfig {
        let info = &self.pairs[pair];
        secondary::PairConfig {
            group: self.groups[info.group].name.clone(),
            name: info.name.clone(),
            volume: info.secondary_volume,
            volume_name: format!("copy-{}", info.name),
            geometry: self.disks[&(self.secondary(), info.secondary_volume)].geometry(),
            initial: self.initial(),
            volatile: false,
        }
    }

    /// A group as a primary's operator describes it.
    pub fn primary_group_config(&self, node: usize, group: usize) -> primary::GroupConfig {
        let spill = spill_of(group);
        primary::GroupConfig {
            name: self.groups[group].name.clone(),
            scope: self.plan.scope,
            link: self.nodes[node].links.first_key_value().map_or(LinkId(0), |(_, link)| *link),
            remote: SystemId::of_key(&public_of(&self.keys[self.secondary()])),
            throttle_ms_max: self.plan.throttle_ms_max,
            overflow: self.plan.overflow,
            spill: self.disks.get(&(node, spill)).map(|disk| (spill, disk.geometry())),
            copy_bytes_per_s: self.plan.copy_bytes_per_s,
            buffer_bytes: self.plan.buffer_bytes,
        }
    }

    /// A pair as its primary's operator describes it.
    pub fn primary_pair_config(&self, pair: usize) -> primary::PairConfig {
        let info = &self.pairs[pair];
        primary::PairConfig {
            group: self.groups[info.group].id,
            name: info.name.clone(),
            volume: info.primary_volume,
            geometry: self.disks[&(info.primary, info.primary_volume)].geometry(),
            remote_volume: format!("copy-{}", info.name),
            initial: self.initial(),
            volatile: false,
        }
    }

    fn initial(&self) -> Initial {
        self.plan.initial
    }

    /// Lets the hosts and the faults loose.
    pub fn begin_load(&mut self) {
        for client in 0..self.clients.len() {
            let at = self.at + self.chance.range(0, self.plan.think_ns_max);
            self.later(at, What::Client(client));
        }
        self.faults_on = !self.plan.faults.is_empty();
        let at = self.at + self.chance.range(0, self.plan.fault_every_ns);
        self.later(at, What::Fault);
        self.are_asides_on = true;
        for (is_drawn, what) in
            [(self.plan.grows, What::Grow), (self.plan.verifies, What::Verify), (self.plan.views, What::View)]
        {
            if is_drawn {
                let at = self.at + self.aside.range(0, self.plan.fault_every_ns);
                self.later(at, what);
            }
        }
    }
}
