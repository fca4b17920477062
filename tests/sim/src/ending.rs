//! How worlds end: they catch up, or are taken over, or both.

use crate::coverage::{Hit, State};
use crate::disk::{Blob, Loss, SECTOR_BYTES};
use crate::history::first_difference;
use crate::host::content;
use crate::memory::{Buf, Bytes};
use crate::node::Input;
use crate::plan::{Ending, Fault};
use crate::world::{What, World};
use longrun_copy::ports::{HostError, HostIo, HostToken, OperatorAnswer};
use longrun_copy::secondary::{GroupPhase, TakeoverAt, TakeoverConsent};
use longrun_copy::takeover::TakeoverStep;
use longrun_copy::types::{Extent, PairState, Scope, Time};

const SECOND: u64 = 1_000_000_000;

/// Requests after a takeover have numbers from here on.
const THERE: u64 = 1 << 32;

/// And those that are asked while everything has ended, from here on.
const LINGERING: u64 = 1 << 33;

/// Whether such a suspension ends only by an operator.
fn stays(state: &str, reason: &str) -> bool {
    state == "PSUS" || reason.contains("lost data")
}

impl World {
    /// A whole life.
    pub fn live(&mut self) {
        self.set_up();
        self.begin_load();
        let (deadline, end_after) = (self.at + 600 * SECOND, self.plan.end_after);
        let ending = self.plan.ending;
        self.run_until("answered", deadline, |world| {
            let is_idle = world.ops_left == 0 && world.clients.iter().all(|client| client.op.is_none());
            let is_early = world.ops_answered >= end_after || world.is_time_to_end();
            is_idle || matches!(ending, Ending::Disaster | Ending::Split) && is_early
        });
        self.aim_is(false);
        self.note(40, ending as u64, 0);
        self.are_asides_on = false;
        match ending {
            Ending::Quiet => self.end_quietly(),
            Ending::Disaster => self.end_in_disaster(),
            Ending::Split => self.end_split(),
            Ending::Exchange => self.end_exchanged(),
        }
        self.count_at_end();
    }

    /// What operators did beside copying comes to its end.
    fn end_asides(&mut self) {
        self.end_views();
        if self.plan.grows {
            self.end_growth();
        }
        if self.plan.verifies {
            self.end_verify();
        }
        let deadline = self.at + 40 * SECOND;
        self.run_until("caught up 40 s after the last command", deadline, |world| world.has_caught_up());
    }

    fn catch_up(&mut self) {
        self.heal();
        self.aim_is(true);
        if self.chance.hits(0.8) {
            let deadline = self.at + 40 * SECOND;
            self.run_until("suspended for good", deadline, |world| {
                world.nodes.iter().all(|node| node.engine.is_some())
            });
            self.run_for(100_000_000);
            self.resync_suspended();
        }
        let deadline = self.at + 40 * SECOND;
        self.run_until("caught up 40 s after the faults stopped", deadline, |world| world.has_caught_up());
        self.aim_is(false);
        self.explain_suspensions();
    }

    fn end_quietly(&mut self) {
        self.catch_up();
        self.end_asides();
        let is_hurt = (0..self.groups.len()).any(|group| !self.is_copying(group));
        if self.chance.hits(if is_hurt { 0.7 } else { 0.1 }) {
            self.create_anew();
        }
        self.totals.quiet += 1;
        for group in 0..self.groups.len() {
            self.compare_local(group);
            if self.is_copying(group) {
                self.compare_primaries(group);
            }
        }
        for node in 0..self.plan.primaries {
            self.end_of_primary(node);
        }
        let copying: Vec<bool> = (0..self.groups.len()).map(|group| self.is_copying(group)).collect();
        self.take_all_over(TakeoverConsent { old_primary_fenced: true, accept_split: false });
        for (group, copying) in copying.into_iter().enumerate() {
            // What rots in the last block while the takeover begins looks like a torn end: it gives an earlier cut.
            if copying && !self.groups[group].has_rotten {
                let (last, certificate) = (self.groups[group].history.last(), self.groups[group].certificate.clone());
                let Some(certificate) = certificate else { continue };
                let point = certificate.recovery_point;
                assert!(
                    last.is_none_or(|last| last.time <= point),
                    "promise 8: the group had caught up, but the takeover is at {point} and not at {last:?}"
                );
            }
        }
        self.serve_hosts_there();
    }

    /// All that copies has caught up; then the sites exchange their parts.
    fn end_exchanged(&mut self) {
        self.catch_up();
        let is_whole = (0..self.groups.len()).all(|group| self.is_copying(group) && !self.groups[group].has_rotten);
        if is_whole {
            self.aim_is(true);
            self.end_in_exchanges();
        }
    }

    fn end_in_disaster(&mut self) {
        for node in 0..self.plan.primaries {
            self.end_of_primary(node);
            let pause = self.chance.log_range(1_000, if self.aim_is_hasty() { 10_000 } else { 3_000_000 });
            self.run_for(pause);
        }
        let pause = self.chance.log_range(1_000, if self.aim_is_hasty() { 10_000 } else { 100_000_000 });
        self.run_for(pause);
        self.take_all_over(TakeoverConsent { old_primary_fenced: true, accept_split: false });
        self.serve_hosts_there();
    }

    fn end_split(&mut self) {
        if !self.aim_needs_network() && self.chance.hits(0.6) {
            let (until, secondary) = (self.at + 1000 * SECOND, self.secondary());
            for node in 0..self.plan.primaries {
                self.cut(node, secondary, until);
                self.cut(secondary, node, until);
            }
            self.totals.partitions += 1;
        }
        self.aim_at_fence();
        self.take_all_over(TakeoverConsent { old_primary_fenced: false, accept_split: true });
        self.serve_hosts_there();
        let before: Vec<Vec<Blob>> = (0..self.pairs.len()).map(|pair| self.contents_there(pair)).collect();
        self.heal();
        // Of a directed world: what is at a device when the word comes, fails.
        if let Some(hit) = self.aim.filter(|aim| aim.state == State::Fenced).map(|aim| aim.hit) {
            (0..self.plan.primaries).for_each(|node| self.ill_of(node, hit, SECOND / 2));
        }
        let deadline = self.at + 40 * SECOND;
        let fenced_at = self.at + SECOND / 2;
        self.run_until("all old primaries fenced 40 s after the network healed", deadline, |world| {
            if world.aim.is_none() || world.at >= fenced_at {
                world.ops_left = 0;
            }
            let mut over = world.groups.iter().filter(|group| group.certificate.is_some());
            over.all(|group| group.fenced.iter().all(|fenced| *fenced))
        });
        for node in 0..self.plan.primaries {
            for pair in 0..self.pairs.len() {
                if self.pairs[pair].primary == node && self.is_over(pair) {
                    let token = HostToken(THERE + 1000 + pair as u64);
                    let io = HostIo::Flush;
                    self.there.remove(&token.0);
                    self.ask(node, pair, io, token);
                    let deadline = self.at + SECOND;
                    self.run_until("a fenced primary's answer", deadline, |world| world.there.contains_key(&token.0));
                    assert_eq!(self.there[&token.0], Err(HostError::Fenced), "promise 7: a fenced primary serves");
                }
            }
        }
        self.run_for(SECOND / 2);
        self.linger(false);
        for (pair, before) in before.iter().enumerate() {
            let is_same = !self.is_over(pair) || first_difference(before, &self.contents_there(pair)).is_none();
            assert!(is_same, "promise 7: an old primary wrote to a volume taken over");
        }
    }

    fn end_of_primary(&mut self, node: usize) {
        self.is_dead[node] = true;
        self.totals.primary_kills += 1;
        if self.nodes[node].engine.is_some() {
            self.kill(node, Loss::Process);
        }
        self.abandon(node);
    }

    /// Whether all primaries of the group and its secondary are in normal operation.
    pub fn is_copying(&self, group: usize) -> bool {
        let goes_on = |info: &crate::world::GroupInfo| {
            let stays = info.suspended.values().any(|(state, reason)| stays(state, reason));
            !info.has_failed && !info.is_too_large && !info.is_ahead && !stays
        };
        // Groups that share a stream share its fate.
        match self.plan.scope {
            Scope::System => self.groups.iter().all(goes_on),
            _ => goes_on(&self.groups[group]),
        }
    }

    pub fn has_caught_up(&mut self) -> bool {
        let is_idle = self.ops_left == 0 && self.clients.iter().all(|client| client.op.is_none());
        let is_up = self.nodes.iter().all(|node| node.engine.is_some());
        if !is_idle || !is_up || self.trouble.iter().any(|trouble| trouble.is_shutting_down) {
            return false;
        }
        (0..self.groups.len()).all(|group| {
            let info = &self.groups[group];
            let is_there = info.history.last().is_none_or(|last| last.time <= info.reported);
            !self.is_copying(group) || is_there && info.suspended.is_empty() && info.is_caught_up
        }) && self.all_settled()
    }

    /// No primary waits for anything: what copies copies, what does not says why.
    fn all_settled(&mut self) -> bool {
        let copying: Vec<bool> = (0..self.groups.len()).map(|group| self.is_copying(group)).collect();
        for node in 0..self.plan.primaries {
            let it = &mut self.nodes[node];
            let now = it.clock.read(self.at);
            let Some(engine) = &mut it.engine else { return false };
            for pair in self.pairs.iter().filter(|pair| pair.primary == node) {
                let Some(status) = engine.primary(&mut it.ports).0.pair_status(now, pair.id) else { return false };
                let is_copying = matches!(status.state, PairState::Simplex | PairState::Copy);
                if is_copying && copying[pair.group] || status.requests > 0 {
                    return false;
                }
            }
        }
        true
    }

    /// Nothing is suspended without one of the reasons that a suspension may have.
    fn explain_suspensions(&self) {
        for info in &self.groups {
            for (node, state, reason) in &info.was_suspended {
                let others = self.groups.iter().flat_map(|group| &group.was_suspended).count();
                let is_explained = match state.as_str() {
                    "PSUS" => self.may(Fault::Operators),
                    "PFUS" => {
                        let charged: u64 = self.groups.iter().map(|group| group.charged[*node]).sum();
                        let largest = self.plan.write_blocks_max * u64::from(self.plan.block_bytes) + 8192;
                        // While a resync goes on, a quarter is kept for its copies.
                        let kept = if others > 1 { self.plan.buffer_bytes / 4 } else { 0 };
                        charged + largest * self.plan.clients as u64 > self.plan.buffer_bytes - kept
                    }
                    _ => {
                        let restarted = self.may(Fault::PrimaryCrash) || self.may(Fault::PrimaryRestart);
                        let follows = self.plan.primaries > 1 && others > 1;
                        let ill = [
                            Fault::FailedWrites,
                            Fault::LastingErrors,
                            Fault::NoSpace,
                            Fault::ShortWrites,
                            Fault::DeviceGone,
                        ];
                        restarted || ill.into_iter().any(|fault| self.may(fault)) || follows || info.has_rotten
                    }
                };
                assert!(
                    is_explained,
                    "group {} is suspended at primary {node} without cause ({state}): {reason}",
                    info.name
                );
            }
        }
    }

    /// A primary's volumes hold what they were told, stamped or not, in the order in which they were told.
    fn compare_local(&mut self, group: usize) {
        let info = &self.groups[group];
        for pair in self.pairs.iter().filter(|pair| pair.group == group) {
            let is = self.disks[&(pair.primary, pair.primary_volume)].image();
            self.totals.bytes_compared += pair.geometry.bytes();
            if let Some(sector) = first_difference(&is, info.history.latest(pair.id)) {
                panic!(
                    "primary {} does not hold in sector {sector} of pair {} what was written there last",
                    pair.primary, pair.name
                );
            }
        }
    }

    /// A primary's volumes hold the replay of all records.
    fn compare_primaries(&mut self, group: usize) {
        for pair in self.pairs.iter().filter(|pair| pair.group == group) {
            let is = self.disks[&(pair.primary, pair.primary_volume)].image();
            self.totals.bytes_compared += pair.geometry.bytes();
            if let Some(sector) = first_difference(&is, self.groups[group].history.image(pair.id, Time(u64::MAX))) {
                panic!(
                    "the replay of all records is not what primary {} has in sector {sector} of pair {}",
                    pair.primary, pair.name
                );
            }
        }
    }

    /// Takes every group over, through crashes at any step.
    fn take_all_over(&mut self, consent: TakeoverConsent) {
        self.aim_is(true);
        self.take_each_over(consent);
        self.aim_is(false);
    }

    fn take_each_over(&mut self, consent: TakeoverConsent) {
        self.faults_on = false;
        let secondary = self.secondary();
        let ending = self.plan.ending;
        let is_free = ending != Ending::Quiet;
        let fault_rate = if self.plan.faults_at_setup { 0.1 } else { 0.0 };
        let mut crashes = if self.chance.hits(0.5) { self.chance.below(4) } else { 0 };
        let trouble = &mut self.trouble[secondary];
        (trouble.slow_until, trouble.no_memory_until) = (0, 0);
        trouble.sick.clear();
        self.aim_at_takeover();
        if self.nodes[secondary].engine.is_none() {
            self.start_node(secondary);
        }
        for group in 0..self.groups.len() {
            let mut asked: Option<(u32, u64)> = None;
            let mut at = TakeoverAt::Newest;
            let mut crash_at = self.next_takeover_crash(&mut crashes);
            let deadline = self.at + 60 * SECOND;
            let mut since = self.at;
            loop {
                assert!(
                    self.at < deadline && self.at - since < 20 * SECOND,
                    "promise 5: a takeover takes longer than 20 s: {}",
                    self.describe()
                );
                if crash_at == Some(0) && self.nodes[secondary].engine.is_some() {
                    self.totals.takeover_crashes += 1;
                    self.totals.secondary_crashes += 1;
                    let loss = self.draw_loss();
                    self.kill(secondary, loss);
                    let pause = self.chance.log_range(10_000, 50_000_000);
                    self.later(self.at + pause, What::Start(secondary));
                    crash_at = self.next_takeover_crash(&mut crashes);
                    since = self.at;
                }
                crash_at = crash_at.map(|steps| steps.saturating_sub(1));
                if self.chance.hits(fault_rate) {
                    self.cause_late(true);
                }
                if !self.step() {
                    self.at += 1_000_000;
                    self.want_turn(secondary, self.at);
                }
                let life = self.nodes[secondary].life;
                if self.nodes[secondary].engine.is_none() {
                    continue;
                }
                if let Some((of, ticket)) = asked
                    && of == life
                {
                    match self.tickets.get(&ticket) {
                        None => continue,
                        Some(Ok(OperatorAnswer::TakenOver(certificate))) => {
                            self.groups[group].certificate = Some(certificate.clone());
                            break;
                        }
                        // Rot may show only now.
                        Some(Err(_)) if self.groups[group].has_rotten => {
                            self.groups[group].has_failed = true;
                            break;
                        }
                        Some(other) => panic!("promise 5: a takeover ended in {other:?}"),
                    }
                }
                let ticket = self.ticket(secondary);
                let id = self.groups[group].id;
                let now = self.nodes[secondary].clock.read(self.at);
                let it = &mut self.nodes[secondary];
                let roles = it.engine.as_mut().map(|engine| engine.secondary(&mut it.ports).0);
                let status = roles.and_then(|roles| roles.group_status(now, id));
                // Once it is sealed, it goes where it went.
                if let Some(status) = status.filter(|_| is_free && !self.groups[group].takeover_begun) {
                    at = World::draw_point(&self.groups[group], &status, &mut self.chance);
                }
                let wanted = at.clone();
                let answer = self.operate(secondary, |engine, ports, now| {
                    let (roles, mut world) = engine.secondary(ports);
                    roles.group_takeover(now, id, consent, wanted, ticket, &mut world)
                });
                if let Err(error) = answer {
                    let text = error.to_string();
                    if self.groups[group].has_failed {
                        break;
                    }
                    // A crash undid a takeover that was not sealed, and the window has moved on.
                    let is_out_of_reach = text.contains("it can go to") || text.contains("in one step");
                    if at != TakeoverAt::Newest && is_out_of_reach {
                        at = TakeoverAt::Newest;
                        continue;
                    }
                    if text.contains("ever consistent") {
                        let is_sure = at == TakeoverAt::Newest && self.is_any_copied(group);
                        assert!(!is_sure, "promise 5: {text}");
                        break;
                    }
                    let early = [
                        "still being opened",
                        "overlay is being opened",
                        "overlay cannot be opened",
                        "is not attached",
                        "about to begin",
                    ];
                    let is_early = early.into_iter().any(|early| text.contains(early));
                    assert!(is_early, "promise 5: {text}");
                    let pause = self.chance.log_range(10_000, 1_000_000);
                    self.run_for(pause);
                } else {
                    asked = Some((life, ticket.0));
                    self.cover_group(secondary, group, Hit::Legal);
                    self.groups[group].takeover_begun = true;
                }
            }
            let Some(certificate) = self.groups[group].certificate.clone() else { continue };
            self.totals.takeovers += 1;
            self.say(secondary, format_args!("taken over at {} ({ending:?})", certificate.recovery_point));
            let contents: std::collections::BTreeMap<_, _> = self
                .pairs
                .iter()
                .filter(|pair| pair.group == group)
                .map(|pair| (pair.secondary_volume, self.disks[&(secondary, pair.secondary_volume)].image()))
                .collect();
            World::check_point(&self.groups[group], &at, &certificate);
            if !self.compare(group, &at, &certificate, "after the takeover", |volume| contents[&volume].clone()) {
                self.groups[group].certificate = None;
            }
        }
    }

    fn next_takeover_crash(&mut self, crashes: &mut usize) -> Option<u64> {
        *crashes = crashes.checked_sub(1)?;
        Some(self.chance.log_range(1, 300))
    }

    fn contents_there(&self, pair: usize) -> Vec<Blob> {
        self.disks[&(self.secondary(), self.pairs[pair].secondary_volume)].image()
    }

    /// A request outside of the clients' play.
    fn ask(&mut self, node: usize, pair: usize, io: HostIo<Buf, crate::memory::Shared>, token: HostToken) {
        let (id, life) = (self.pairs[pair].id, self.nodes[node].life);
        self.later(self.at, What::Input(node, life, Input::Host(id, io, token)));
    }

    /// An answer to such a request.
    pub fn answered_there(&mut self, token: HostToken, outcome: Result<(), HostError>, buf: Option<Buf>) {
        drop(buf);
        if token.0 >= crate::exchange::FIRST {
            return self.exchange_answered(token, outcome);
        }
        self.there.insert(token.0, outcome);
    }

    /// Hosts write to the volumes that were taken over; another crash, and what they flushed is there.
    fn serve_hosts_there(&mut self) {
        let secondary = self.secondary();
        self.trouble[secondary] = crate::world::Trouble::default();
        if self.nodes[secondary].engine.is_none() {
            self.start_node(secondary);
        }
        let deadline = self.at + 20 * SECOND;
        self.run_until("serving after a takeover", deadline, |world| world.serves_there());
        for pair in 0..self.pairs.len() {
            let volume = self.pairs[pair].secondary_volume;
            self.disks.get_mut(&(secondary, volume)).expect("a disk stays").must_not_overlap = false;
        }
        let mut written = Vec::new();
        let mut next = THERE;
        let over: Vec<usize> = (0..self.pairs.len()).filter(|pair| self.is_over(*pair)).collect();
        for pair in over.iter().copied() {
            let geometry = self.pairs[pair].geometry;
            let certificate = self.groups[self.pairs[pair].group].certificate.as_ref();
            let point = certificate.expect("taken over").recovery_point;
            for _ in 0..3 {
                let blocks = self.whole_blocks(pair, point);
                let extent = Extent { lba: self.chance.range(0, blocks - 1), blocks: 1 };
                let bytes = content(next, pair, extent, geometry.block_bytes);
                let pool = &self.nodes[secondary].ports.pool;
                let mut buf = pool.take(bytes.len());
                buf.as_mut().copy_from_slice(&bytes);
                let length = bytes.len();
                self.ask(
                    secondary,
                    pair,
                    HostIo::Write { extent, data: buf.freeze(length), fua: false },
                    HostToken(next),
                );
                self.await_there(next, "a write after the takeover");
                written.push((pair, extent, bytes));
                next += 1;
            }
            self.ask(secondary, pair, HostIo::Flush, HostToken(next));
            self.await_there(next, "a flush after the takeover");
            next += 1;
        }
        let mut should: std::collections::BTreeMap<usize, Vec<Blob>> = over
            .into_iter()
            .map(|pair| {
                let info = &self.pairs[pair];
                let point = self.groups[info.group].certificate.as_ref().expect("taken over").recovery_point;
                (pair, self.groups[info.group].history.image(info.id, point).to_vec())
            })
            .collect();
        for (pair, extent, bytes) in written {
            let bytes = Bytes::new(bytes);
            let sectors = self.disks[&(secondary, self.pairs[pair].secondary_volume)].sectors_of(extent);
            for (index, sector) in sectors.enumerate() {
                should.get_mut(&pair).expect("taken over")[sector as usize] = Blob::of(Some(&bytes), index);
            }
        }
        for is_second in [false, true] {
            if is_second {
                self.linger(true);
                let loss = self.draw_loss();
                self.totals.secondary_crashes += 1;
                self.kill(secondary, loss);
                self.start_node(secondary);
                let deadline = self.at + 20 * SECOND;
                self.run_until("serving again after a restart", deadline, |world| world.serves_there());
            }
            for (&pair, should) in &should {
                let is = self.contents_there(pair);
                self.totals.bytes_compared += self.pairs[pair].geometry.bytes();
                let certificate = self.groups[self.pairs[pair].group].certificate.as_ref();
                let point = certificate.expect("taken over").recovery_point;
                let sector = self.first_unsound(pair, &is, should, self.whole_sectors(pair, point), point);
                assert!(
                    sector.is_none(),
                    "after the takeover and hosts' writes{} sector {sector:?} of pair {} is wrong: {:x?}",
                    if is_second { " and another crash" } else { "" },
                    self.pairs[pair].name,
                    sector.map(|sector| (&is[sector].bytes()[..8], &should[sector].bytes()[..8]))
                );
            }
        }
    }

    /// Whether the pair's group was taken over; one whose journal is damaged was not.
    fn is_over(&self, pair: usize) -> bool {
        let info = &self.pairs[pair];
        let certificate = self.groups[info.group].certificate.as_ref();
        certificate.is_some_and(|certificate| !certificate.never_consistent.contains(&info.id))
    }

    /// Faults go on for a while, where everything has ended.
    fn linger(&mut self, is_secondary: bool) {
        let mut token = HostToken(LINGERING);
        self.aim_is(true);
        for _ in 0..self.chance.below(12) {
            self.cause_late(is_secondary);
            for pair in (0..self.pairs.len()).filter(|pair| self.is_over(*pair)).collect::<Vec<_>>() {
                let node = if is_secondary { self.secondary() } else { self.pairs[pair].primary };
                let volume =
                    if is_secondary { self.pairs[pair].secondary_volume } else { self.pairs[pair].primary_volume };
                // What is there already is written again: whatever becomes of it, nothing changes.
                let geometry = self.pairs[pair].geometry;
                let blocks = self.pairs[pair].sizes[0].blocks;
                let extent = Extent { lba: self.chance.range(0, blocks - 1), blocks: 1 };
                let pool = &self.nodes[node].ports.pool;
                let mut buf = pool.take(geometry.block_bytes as usize);
                let disk = &self.disks[&(node, volume)];
                for (sector, out) in disk.sectors_of(extent).zip(buf.as_mut().chunks_exact_mut(SECTOR_BYTES)) {
                    out.copy_from_slice(disk.seen(sector).bytes());
                }
                let data = buf.freeze(geometry.block_bytes as usize);
                let (is_write, fua) = (self.chance.hits(0.7), self.chance.hits(0.5));
                let io = if is_write { HostIo::Write { extent, data, fua } } else { HostIo::Flush };
                token.0 += 1;
                self.ask(node, pair, io, token);
            }
            let pause = self.chance.log_range(10_000, 50_000_000);
            self.run_for(pause);
        }
        self.aim_is(false);
        self.heal();
    }

    fn serves_there(&mut self) -> bool {
        let secondary = self.secondary();
        let it = &mut self.nodes[secondary];
        let now = it.clock.read(self.at);
        let Some(engine) = &mut it.engine else { return false };
        self.groups.iter().filter(|group| group.certificate.is_some()).all(|group| {
            let status = engine.secondary(&mut it.ports).0.group_status(now, group.id);
            let is_over = status.as_ref().is_some_and(|status| status.phase == GroupPhase::TakenOver);
            if let Some(status) = status.filter(|_| is_over) {
                assert_eq!(status.takeover_step, Some(TakeoverStep::Writable));
                assert_eq!(status.certificate, group.certificate, "a certificate stays as it was");
            }
            is_over
        })
    }

    fn await_there(&mut self, token: u64, what: &str) {
        let deadline = self.at + 10 * SECOND;
        self.run_until(what, deadline, |world| world.there.contains_key(&token));
        assert_eq!(self.there[&token], Ok(()), "{what} failed");
    }

    fn count_at_end(&mut self) {
        self.totals.no_memory = self.nodes.iter().map(|node| node.ports.pool.refusals()).sum();
        for group in &self.groups {
            let written: u64 =
                group.history.up_to(Time(u64::MAX - 1)).map(|(_, head)| u64::from(head.payload_bytes)).sum();
            self.totals.journal_wraps += u64::from(written > self.plan.journal_bytes && self.is_all_there(group.id));
        }
        let packets = self.totals.datagrams;
        self.totals.rekeys += u64::from(self.plan.noise && packets > 4 * self.plan.rekey_after_packets);
    }

    fn is_all_there(&self, id: longrun_copy::types::GroupId) -> bool {
        self.groups
            .iter()
            .any(|group| group.id == id && group.history.last().is_some_and(|last| last.time <= group.reported))
    }
}
