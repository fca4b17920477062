//! Two sites exchange their parts: swaps, and takeovers with failback, while hosts write and anything may die.
//!
//! What a host was told is written, durably, is there afterwards: at whichever site serves hosts, after a swap always, after
//! a takeover from its point on. At most one site serves hosts at any event, but for the time in which an operator has
//! taken a group over and its old primary has not heard of it. When all is quiet both sites hold the same.

#[cfg(test)]
mod tests;

use crate::coverage::Hit;
use crate::coverage::{at_primary, at_secondary};
use crate::disk::{Blob, Disk};
use crate::history::first_difference;
use crate::host::content;
use crate::memory::Bytes;
use crate::node::Input;
use crate::plan::Fault;
use crate::world::{What, World};
use longrun_copy::link::public_of;
use longrun_copy::ports::{HostError, HostIo, HostToken, OperatorAnswer};
use longrun_copy::role::{self, Role};
use longrun_copy::secondary::{TakeoverAt, TakeoverConsent};
use longrun_copy::types::{Extent, Initial, Now, PairState, SystemId, VolumeId};
use longrun_copy::{primary, secondary};
use std::collections::BTreeMap;

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// Requests have numbers from here on.
pub const FIRST: u64 = 1 << 34;

/// Requests in flight at most.
const FLYING_MAX: usize = 6;

/// What is known of the two sites' contents.
#[derive(Default)]
pub struct Exchange {
    /// By pair: what each sector holds, as hosts were told.
    told: Vec<Vec<Blob>>,
    /// What a sector may hold too: by requests that failed or were never answered.
    maybe: BTreeMap<(usize, u64), Vec<Blob>>,
    flying: BTreeMap<u64, Asked>,
    next: u64,
    /// The site that hosts use.
    serving: usize,
    /// By group: taken over while the old primary may not know.
    is_split: Vec<bool>,
    /// Hosts write so much more.
    left: u64,
}

/// A host's write.
struct Asked {
    node: usize,
    pair: usize,
    extent: Extent,
    bytes: Bytes,
    /// To a site whose history ends: whatever becomes of it.
    is_doomed: bool,
}

fn other(node: usize) -> usize {
    1 - node
}

impl World {
    /// The volume of a pair at a site.
    fn volume_at(&self, node: usize, pair: usize) -> VolumeId {
        if node == 0 { self.pairs[pair].primary_volume } else { self.pairs[pair].secondary_volume }
    }

    fn image_at(&self, node: usize, pair: usize) -> Vec<Blob> {
        self.disks[&(node, self.volume_at(node, pair))].image()
    }

    /// Some swaps, or takeovers and failbacks, in turn.
    pub fn end_in_exchanges(&mut self) {
        let rounds = self.chance.range(1, 3);
        self.begin_exchange();
        for _ in 0..rounds {
            self.is_fault_free_for_a_while();
            self.write_more();
            if self.chance.hits(0.6) {
                self.swap();
            } else {
                self.fail_over_and_back();
            }
            self.settle_exchange();
        }
    }

    /// From here on both sites may have either part.
    fn begin_exchange(&mut self) {
        self.forks_left = 0;
        // Hosts flush what they wrote so far.
        for pair in 0..self.pairs.len() {
            let volume = self.volume_at(0, pair);
            self.disks.get_mut(&(0, volume)).expect("a disk stays").settle_all();
        }
        let told = (0..self.pairs.len()).map(|pair| self.image_at(0, pair)).collect();
        for group in 0..self.groups.len() {
            let geometry = self.disks[&(1, self.groups[group].journal)].geometry();
            self.disks.insert((0, VolumeId(4000 + group as u32)), Disk::new(geometry));
            if let Some(overlay) = self.groups[group].overlay {
                let geometry = self.disks[&(1, overlay)].geometry();
                self.disks.insert((0, VolumeId(4500 + group as u32)), Disk::new(geometry));
            }
        }
        let is_split = vec![false; self.groups.len()];
        self.exchange = Some(Exchange { told, is_split, next: FIRST, ..Exchange::default() });
        for node in 0..2 {
            for pair in 0..self.pairs.len() {
                let volume = self.volume_at(node, pair);
                self.disks.get_mut(&(node, volume)).expect("a disk stays").must_not_overlap = false;
            }
            self.offer_parts(node);
        }
        let at = self.at;
        self.later(at, What::Exchange);
    }

    fn exchange_of(&mut self) -> &mut Exchange {
        self.exchange.as_mut().expect("two sites exchange their parts")
    }

    /// What a group would be at this site, in either part.
    fn offer_parts(&mut self, node: usize) {
        for group in 0..self.groups.len() {
            let id = self.groups[group].id;
            let (as_primary, as_secondary) = (self.as_primary(node, group), self.as_secondary(node, group));
            self.operate(node, |engine, _, _| match engine.role(id) {
                Some(Role::Primary) => engine.offer_secondary(id, as_secondary),
                _ => engine.offer_primary(id, as_primary),
            });
        }
    }

    fn as_primary(&self, node: usize, group: usize) -> primary::GroupConfig {
        let remote = SystemId::of_key(&public_of(&self.keys[other(node)]));
        primary::GroupConfig { remote, ..self.primary_group_config(node, group) }
    }

    fn as_secondary(&self, node: usize, group: usize) -> secondary::GroupConfig {
        let mut config = self.secondary_group_config(group);
        if node == 0 {
            config.journal = VolumeId(4000 + group as u32);
            config.overlay = config.overlay.map(|(_, geometry)| (VolumeId(4500 + group as u32), geometry));
        }
        config
    }

    /// After a start: each group and pair again, in the part that it had.
    pub fn operate_exchange(&mut self, node: usize) {
        for group in 0..self.groups.len() {
            let id = self.groups[group].id;
            let configured = if node == 0 { Role::Primary } else { Role::Secondary };
            let role = role::recorded(id, &self.nodes[node].ports).unwrap_or(configured);
            let (as_primary, as_secondary) = (self.as_primary(node, group), self.as_secondary(node, group));
            let pairs: Vec<usize> = (0..self.pairs.len()).filter(|pair| self.pairs[*pair].group == group).collect();
            let of_pairs: Vec<_> = pairs
                .into_iter()
                .map(|pair| {
                    let volume = self.volume_at(node, pair);
                    let here = primary::PairConfig {
                        volume,
                        remote_volume: String::new(),
                        initial: Initial::Identical,
                        ..self.primary_pair_config(pair)
                    };
                    let there = secondary::PairConfig { volume, ..self.secondary_pair_config(pair) };
                    let ticket = self.loose_ticket(group);
                    (here, there, ticket)
                })
                .collect();
            self.operate(node, |engine, ports, now| match role {
                Role::Primary => {
                    engine.offer_secondary(id, as_secondary);
                    let (roles, mut world) = engine.primary(ports);
                    roles.group_create(now, as_primary, &mut world).expect("a group can be created again as it was");
                    for (config, _, ticket) in of_pairs {
                        let created = roles.pair_create(now, config, ticket, &mut world);
                        created.expect("a pair can be created again as it was");
                    }
                }
                Role::Secondary => {
                    engine.offer_primary(id, as_primary);
                    let (roles, mut world) = engine.secondary(ports);
                    roles.group_create(now, as_secondary, &mut world).expect("a group can be created again as it was");
                    for (_, config, ticket) in of_pairs {
                        let created = roles.pair_create(now, config, ticket, &mut world);
                        created.expect("a pair can be created again as it was");
                    }
                }
            });
        }
    }

    /// Hosts write where they are served, and where they were.
    pub fn exchange_hosts(&mut self) {
        let Some(exchange) = &self.exchange else { return };
        let (left, count) = (exchange.left, exchange.flying.len());
        let next = self.at + self.chance.log_range(10_000, self.plan.think_ns_max.max(20_000));
        self.later(next, What::Exchange);
        if left == 0 || count >= FLYING_MAX {
            return;
        }
        self.exchange_write();
    }

    /// A host writes.
    pub fn exchange_write(&mut self) {
        let serving = self.exchange_of().serving;
        let pair = self.chance.below(self.pairs.len());
        let group = self.pairs[pair].group;
        let is_doomed = self.exchange_of().is_split[group] && self.chance.hits(0.3);
        let node = if is_doomed { other(serving) } else { serving };
        if self.nodes[node].engine.is_none() {
            return;
        }
        let geometry = self.pairs[pair].geometry;
        let blocks = self.chance.range(1, self.plan.write_blocks_max.min(8)) as u32;
        let extent = Extent { lba: self.chance.range(0, geometry.blocks - u64::from(blocks)), blocks };
        let is_met = |asked: &Asked| asked.pair == pair && asked.extent.overlaps(extent);
        if self.exchange_of().flying.values().any(is_met) {
            return;
        }
        let token = self.exchange_of().next;
        let bytes = content(token, pair, extent, geometry.block_bytes);
        let pool = &self.nodes[node].ports.pool;
        let mut buf = pool.take(bytes.len());
        buf.as_mut().copy_from_slice(&bytes);
        let data = buf.freeze(bytes.len());
        let asked = Asked { node, pair, extent, bytes: Bytes::new(bytes), is_doomed };
        let exchange = self.exchange_of();
        exchange.next += 1;
        exchange.left = exchange.left.saturating_sub(1);
        exchange.flying.insert(token, asked);
        self.totals.exchange_writes += 1;
        // Durable when it is answered, so that a power cut takes nothing of it back.
        let io = HostIo::Write { extent, data, fua: true };
        let (id, life) = (self.pairs[pair].id, self.nodes[node].life);
        self.later(self.at, What::Input(node, life, Input::Host(id, io, HostToken(token))));
    }

    /// A host hears of such a write.
    pub fn exchange_answered(&mut self, token: HostToken, outcome: Result<(), HostError>) {
        let per_block = |world: &World, asked: &Asked| {
            let disk = &world.disks[&(asked.node, world.volume_at(asked.node, asked.pair))];
            disk.sectors_of(asked.extent)
        };
        let Some(asked) = self.exchange.as_mut().and_then(|exchange| exchange.flying.remove(&token.0)) else { return };
        let sectors = per_block(self, &asked);
        let exchange = self.exchange_of();
        if asked.is_doomed {
            return;
        }
        for (index, sector) in sectors.enumerate() {
            let blob = Blob::of(Some(&asked.bytes), index);
            match outcome {
                Ok(()) => {
                    exchange.told[asked.pair][sector as usize] = blob;
                    exchange.maybe.remove(&(asked.pair, sector));
                }
                // Nothing was done.
                Err(HostError::Transition | HostError::Secondary) => {}
                Err(_) => exchange.maybe.entry((asked.pair, sector)).or_default().push(blob),
            }
        }
    }

    /// A site died: what it was asked may be done or not.
    pub fn exchange_died(&mut self, node: usize) {
        let Some(exchange) = &self.exchange else { return };
        let gone = exchange.flying.iter().filter(|(_, asked)| asked.node == node).map(|(token, _)| *token);
        for token in gone.collect::<Vec<_>>() {
            self.exchange_answered(HostToken(token), Err(HostError::Aborted));
        }
    }

    /// After each turn of a site.
    pub fn check_exchange(&mut self, node: usize, now: Now) {
        self.finish_shutdown(node);
        for group in 0..self.groups.len() {
            let id = self.groups[group].id;
            let it = &mut self.nodes[node];
            let Some(engine) = &mut it.engine else { return };
            let state = match engine.role(id) {
                Some(Role::Primary) => {
                    let (roles, world) = engine.primary(&mut it.ports);
                    roles.group_status(now, id, &world).map(|status| at_primary(&status))
                }
                _ => {
                    let (roles, _) = engine.secondary(&mut it.ports);
                    roles.group_status(now, id).map(|status| at_secondary(&status, None))
                }
            };
            self.stands(node, group, state.unwrap_or_default());
            let serves: Vec<bool> = (0..2).map(|node| self.serves(node, group)).collect();
            let is_split = self.exchange_of().is_split[group];
            if !is_split && serves[0] && serves[1] {
                panic!("promise 7: both sites serve hosts of group {group}: {}", self.describe_exchange());
            }
        }
    }

    /// An operator commands something that a directed world wants.
    pub fn exchange_operator(&mut self, node: usize, group: usize) {
        let id = self.groups[group].id;
        // What it would be in the other part may be said at any time.
        self.offer_parts(node);
        self.cover_group(node, group, Hit::Legal);
        let is_primary = self.role_at(node, group) == Some(Role::Primary);
        let before = self.states[node][group];
        let name = format!("mark{}", self.aside.below(4));
        let ticket = self.loose_ticket(group);
        let answer = self.operate(node, |engine, ports, now| {
            if is_primary {
                let (roles, mut world) = engine.primary(ports);
                return roles.group_bookmark(now, id, &name, &mut world).map(drop);
            }
            engine.group_swap(now, id, ticket, ports)
        });
        if answer.is_err() {
            self.loose.remove(&ticket.0);
        }
        let hit = if answer.is_ok() { Hit::Legal } else { Hit::Illegal };
        for state in before.states() {
            self.coverage.count(state, hit);
        }
    }

    fn serves(&self, node: usize, group: usize) -> bool {
        let id = self.groups[group].id;
        self.nodes[node].engine.as_ref().is_some_and(|engine| engine.serves_hosts(id))
    }

    fn role_at(&self, node: usize, group: usize) -> Option<Role> {
        self.nodes[node].engine.as_ref()?.role(self.groups[group].id)
    }

    /// Whether a site follows the other's generation. Its role alone does not say so: right after a start, a system that
    /// took the group over earlier has no more than the record of that, of an older generation, and serves hosts: nobody
    /// has told it yet of a takeover since.
    fn follows(&mut self, node: usize, group: usize) -> bool {
        let roles = (self.role_at(node, group), self.role_at(other(node), group));
        if roles != (Some(Role::Secondary), Some(Role::Primary)) {
            return false;
        }
        let id = self.groups[group].id;
        let it = &mut self.nodes[node];
        let now = it.clock.read(self.at);
        let status = it.engine.as_mut().and_then(|engine| engine.secondary(&mut it.ports).0.group_status(now, id));
        let (_, generation) = self.primary_state(other(node), group).expect("it is the primary there");
        status.is_some_and(|status| status.generation.number == generation)
    }

    /// As the primary's part shows it.
    fn primary_state(&mut self, node: usize, group: usize) -> Option<(PairState, u64)> {
        let id = self.groups[group].id;
        let it = &mut self.nodes[node];
        let now = it.clock.read(self.at);
        let (roles, world) = it.engine.as_mut()?.primary(&mut it.ports);
        roles.group_status(now, id, &world).map(|status| (status.state, status.generation.number))
    }

    /// Faults for a while, then none.
    fn is_fault_free_for_a_while(&mut self) {
        self.heal();
        let pause = self.chance.log_range(MS, 100 * MS);
        self.run_for(pause);
        self.exchange_faults = self.chance.range(0, 6);
    }

    /// Hosts write some more.
    fn write_more(&mut self) {
        self.exchange_of().left = self.chance.range(10, 120);
    }

    /// Something goes wrong now and then.
    fn maybe_disturb(&mut self) {
        if self.exchange_faults == 0 || !self.chance.hits(0.003) {
            return;
        }
        self.exchange_faults -= 1;
        let fault = self.chance.pick(&[
            Fault::Partition,
            Fault::SecondaryCrash,
            Fault::SecondaryCrash,
            Fault::PrimaryCrash,
            Fault::PrimaryCrash,
            Fault::Stall,
            Fault::NoMemory,
            Fault::SlowDisks,
            Fault::BadDisks,
            Fault::FailedWrites,
        ]);
        match fault {
            Fault::SecondaryCrash | Fault::PrimaryCrash => {
                let node = usize::from(fault == Fault::SecondaryCrash);
                if self.nodes[node].engine.is_some() {
                    self.totals.exchange_crashes += 1;
                    let (loss, pause) = (self.draw_loss(), self.chance.log_range(10_000, 300 * MS));
                    self.kill(node, loss);
                    self.later(self.at + pause, What::Start(node));
                }
            }
            fault => self.cause_late_of(fault),
        }
    }

    /// Goes on until something is true, whatever is disturbed; an operator asks again and again.
    fn exchange_until(&mut self, what: &str, mut is_done: impl FnMut(&mut World) -> bool) {
        let deadline = self.at + 120 * SECOND;
        let mut next = 0;
        let mut steps = 0u64;
        loop {
            if self.at >= next {
                next = self.at + 20 * MS;
                if is_done(self) {
                    return;
                }
            }
            self.maybe_disturb();
            self.step();
            steps += 1;
            if self.exchange_faults == 0 && steps.is_multiple_of(20_000) {
                self.heal();
            }
            assert!(
                self.at < deadline && steps < 3_000_000,
                "promise 8: not {what} after {} ms: {}",
                self.at / MS,
                self.describe_exchange()
            );
        }
    }

    fn swap(&mut self) {
        let from = self.exchange_of().serving;
        self.say(from, "an operator swaps");
        self.exchange_until("swapped", |world| {
            let mut is_done = true;
            for group in 0..world.groups.len() {
                if world.follows(from, group) {
                    continue;
                }
                is_done = false;
                if world.role_at(from, group) == Some(Role::Primary) {
                    world.aim_at_swap(from);
                }
                if world.role_at(from, group) == Some(Role::Primary) {
                    let (id, ticket) = (world.groups[group].id, world.loose_ticket(group));
                    let answer = world.operate(from, |engine, ports, now| engine.group_swap(now, id, ticket, ports));
                    if answer.is_err() {
                        world.loose.remove(&ticket.0);
                    }
                    world.say(from, format_args!("operator: group_swap of group {group}: {answer:?}"));
                }
            }
            is_done
        });
        self.totals.swaps += 1;
        self.exchange_of().serving = other(from);
        self.write_more();
    }

    fn fail_over_and_back(&mut self) {
        let old = self.exchange_of().serving;
        let new = other(old);
        self.say(new, "an operator takes over, with failback");
        if self.chance.hits(0.7) {
            let until = self.at + 1000 * SECOND;
            self.cut(old, new, until);
            self.cut(new, old, until);
            let pause = self.chance.log_range(MS, 200 * MS);
            self.run_for(pause);
        }
        self.exchange_of().left = 0;
        let consent = TakeoverConsent { old_primary_fenced: false, accept_split: true };
        let mut asked: Vec<Option<(u32, u64)>> = vec![None; self.groups.len()];
        let mut is_over = vec![false; self.groups.len()];
        self.exchange_until("taken over", |world| {
            for group in 0..world.groups.len() {
                let life = world.nodes[new].life;
                if is_over[group] || world.nodes[new].engine.is_none() {
                    continue;
                }
                if let Some((_, ticket)) = asked[group].filter(|(of, _)| *of == life) {
                    match world.tickets.get(&ticket) {
                        None => continue,
                        Some(Ok(OperatorAnswer::TakenOver(_))) => {
                            is_over[group] = true;
                            continue;
                        }
                        Some(other) => panic!("promise 5: a takeover ended in {other:?}"),
                    }
                }
                let (id, ticket) = (world.groups[group].id, world.ticket(new));
                world.exchange_of().is_split[group] = true;
                let answer = world.operate(new, |engine, ports, now| {
                    let (roles, mut world) = engine.secondary(ports);
                    roles.group_takeover(now, id, consent, TakeoverAt::Newest, ticket, &mut world)
                });
                match answer {
                    Ok(()) => asked[group] = Some((life, ticket.0)),
                    Err(_) => _ = world.open_tickets.remove(&ticket.0),
                }
            }
            is_over.iter().all(|is| *is)
        });
        // What is lost, is lost; from here on nothing is.
        let told = (0..self.pairs.len()).map(|pair| self.image_at(new, pair)).collect();
        let exchange = self.exchange_of();
        (exchange.told, exchange.serving) = (told, new);
        exchange.maybe.clear();
        for asked in exchange.flying.values_mut() {
            asked.is_doomed = true;
        }
        self.write_more();
        self.totals.takeovers += self.groups.len() as u64;
        let pause = self.chance.log_range(MS, 200 * MS);
        self.run_for(pause);
        for wire in self.wires.values_mut() {
            wire.cut_until = 0;
        }
        self.exchange_until("the old primary demoted", |world| {
            let mut is_done = true;
            for group in 0..world.groups.len() {
                if world.nodes[old].engine.is_none() {
                    return false;
                }
                if world.follows(old, group) {
                    world.exchange_of().is_split[group] = false;
                    continue;
                }
                is_done = false;
                let Some((_, ours)) = world.primary_state(old, group) else { continue };
                let (id, ticket) = (world.groups[group].id, world.loose_ticket(group));
                let config = world.as_secondary(old, group);
                let answer =
                    world.operate(old, |engine, ports, now| engine.group_demote(now, id, config, ours, ticket, ports));
                if answer.is_err() {
                    world.loose.remove(&ticket.0);
                }
            }
            is_done
        });
        self.exchange_until("failed back", |world| {
            let mut is_done = true;
            for group in 0..world.groups.len() {
                if world.primary_state(new, group).is_some_and(|(state, _)| state == PairState::Pair) {
                    continue;
                }
                is_done = false;
                if world.nodes[new].engine.is_some() {
                    let id = world.groups[group].id;
                    let answer = world.operate(new, |engine, ports, now| engine.group_failback(now, id, ports));
                    world.say(new, format_args!("operator: group_failback of group {group}: {answer:?}"));
                }
            }
            is_done
        });
        self.totals.failbacks += 1;
    }

    /// Hosts rest, faults stop: both sites hold the same, and that is what hosts were told.
    fn settle_exchange(&mut self) {
        let pause = self.chance.log_range(MS, 300 * MS);
        self.run_for(pause);
        self.exchange_faults = 0;
        self.heal();
        self.exchange_of().left = 0;
        let serving = self.exchange_of().serving;
        self.exchange_until("both sites equal, and in PAIR", |world| {
            let groups = 0..world.groups.len();
            let is_pair = |state: Option<(PairState, u64)>| state.is_some_and(|(state, _)| state == PairState::Pair);
            let is_idle = world.exchange_of().flying.is_empty();
            let is_up = world.nodes.iter().all(|node| node.engine.is_some());
            is_idle
                && is_up
                && groups.into_iter().all(|group| is_pair(world.primary_state(serving, group)))
                && (0..world.pairs.len())
                    .all(|pair| first_difference(&world.image_at(0, pair), &world.image_at(1, pair)).is_none())
        });
        for pair in 0..self.pairs.len() {
            let is = self.image_at(serving, pair);
            self.totals.bytes_compared += 2 * self.pairs[pair].geometry.bytes();
            let exchange = self.exchange.as_ref().expect("two sites exchange their parts");
            for (sector, (is, told)) in is.iter().zip(&exchange.told[pair]).enumerate() {
                let also = exchange.maybe.get(&(pair, sector as u64));
                let is_known = is.is_same(told) || also.is_some_and(|also| also.iter().any(|blob| blob.is_same(is)));
                assert!(
                    is_known,
                    "zero loss: sector {sector} of pair {} is {:x?} at site {serving}, hosts were told {:x?}: {}",
                    self.pairs[pair].name,
                    &is.bytes()[..8],
                    &told.bytes()[..8],
                    "what was answered is not there"
                );
            }
        }
        let told = (0..self.pairs.len()).map(|pair| self.image_at(serving, pair)).collect();
        let exchange = self.exchange_of();
        let before = std::mem::replace(&mut exchange.told, told);
        // What a write left that failed is seen, and not durable: a power cut may bring back what was there before.
        for ((pair, sector), blobs) in &mut exchange.maybe {
            let was = &before[*pair][*sector as usize];
            if !blobs.iter().any(|blob| blob.is_same(was)) {
                blobs.push(was.clone());
            }
        }
    }

    fn describe_exchange(&mut self) -> String {
        let mut text = String::new();
        for node in 0..2 {
            let it = &mut self.nodes[node];
            let now = it.clock.read(self.at);
            let Some(engine) = &mut it.engine else {
                text += &format!("; node {node} is down");
                continue;
            };
            for info in &self.groups {
                text += &format!("; node {node} {}: {:?}, ", info.name, engine.role(info.id));
                let (roles, world) = engine.primary(&mut it.ports);
                text += &format!("{:?}, ", roles.group_status(now, info.id, &world));
                let (roles, _) = engine.secondary(&mut it.ports);
                text += &format!("{:?}", roles.group_status(now, info.id));
            }
        }
        text
    }
}
