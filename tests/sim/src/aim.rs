//! Directed worlds: one cell of the table is theirs. The plan makes the cell's state likely, and whenever a group is seen in
//! it, the cell's fault happens to that group's system.

use crate::chance::Chance;
use crate::coverage::{Hit, Standing, State, aims, hardest, is_device};
use crate::disk::Loss;
use crate::plan::{Ending, Fault, LOG_BYTES_MIN, Plan};
use crate::sick::{Ailment, Sick};
use crate::world::{What, World};
use longrun_copy::stream::CHARGE_BYTES_MAX;
use longrun_copy::types::{Initial, Overflow, Scope, VolumeId};

const MS: u64 = 1_000_000;

/// So often the fault happens at most.
const SHOTS: u32 = 6;

/// One of so many seeds is directed.
const EVERY: u64 = 2;

/// And one of so many is directed at one of the hardest cells.
const EVERY_HARD: u64 = 16;

/// What a directed world still does.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    pub state: State,
    pub hit: Hit,
    shots_left: u32,
    not_before: u64,
    /// Now is a time at which anything may happen.
    pub is_on: bool,
}

/// Datagrams that a fault happens to.
#[derive(Clone, Copy, Debug)]
pub struct Forced {
    pub node: usize,
    pub hit: Hit,
    pub left: u32,
}

impl Plan {
    /// Directs every other seed at one of the table's rare cells, one after the other.
    pub fn draw_aim(&mut self, seed: u64, chance: &mut Chance) {
        if seed % EVERY_HARD == EVERY_HARD / 2 {
            let hardest = hardest();
            let (state, hit) = hardest[(seed / EVERY_HARD) as usize % hardest.len()];
            return self.aim_at(state, hit, chance);
        }
        if seed % EVERY != 1 {
            return;
        }
        let aims = aims();
        let (state, hit) = aims[(seed / EVERY) as usize % aims.len()];
        self.aim_at(state, hit, chance);
    }

    /// Makes it likely that a group gets into this state, and allows the fault.
    pub fn aim_at(&mut self, state: State, hit: Hit, chance: &mut Chance) {
        self.aim = Some((state, hit));
        self.forks = self.forks.min(3);
        self.ops = self.ops.min(160);
        self.end_after = self.end_after.min(self.ops);
        (self.grows, self.verifies, self.views) = (false, false, false);
        if self.ending == Ending::Exchange {
            self.ending = Ending::Quiet;
        }
        let is_hard = hardest().contains(&(state, hit));
        let is_late = |state| {
            use State::*;
            matches!(state, StepJournal | StepSeal | StepRestore | StepApply | StepFlush | StepClose)
        };
        if is_late(state) {
            self.ending = Ending::Disaster;
        }
        match state {
            State::Simplex => {
                self.initial = chance.pick(&[Initial::Empty, Initial::Identical]);
                (self.scope, self.spill_bytes) = (Scope::Group, Some(256 << 10));
            }
            State::Overlaid
            | State::StepRestore
            | State::JournalFull
            | State::Unit
            | State::StepFlush
            | State::StepClose
                if !matches!(state, State::StepFlush | State::StepClose) || is_hard =>
            {
                // A resync of both volumes is larger than half of the journal.
                self.small();
                (self.primaries, self.pairs_per_primary, self.groups) = (1, 2, 1);
                self.receive_bytes += 8u64.saturating_sub(self.streams_max as u64) * CHARGE_BYTES_MAX;
                self.streams_max = self.streams_max.max(8);
                (self.journal_bytes, self.buffer_bytes, self.spill_bytes) = (LOG_BYTES_MIN, 64 << 10, None);
                (self.overflow, self.apply_delay_ns, self.initial) = (Overflow::Suspend, 0, Initial::Identical);
                self.faults = vec![Fault::Partition, Fault::SecondaryCrash, Fault::PrimaryCrash];
                (self.ops, self.end_after) = (300, 300);
                self.think_ns_max = self.think_ns_max.min(MS);
                self.fault_every_ns = self.fault_every_ns.min(10 * MS);
                (self.resync_pause_ns, self.copy_bytes_per_s) = (MS, None);
                if state == State::JournalFull {
                    (self.overlay_bytes, self.disk_ns_max) = (None, 3 * MS);
                    // One that is full of a resync rests; one that is full because of a delay does not.
                    if is_device(hit) || hit == Hit::NoMemory {
                        (self.apply_delay_ns, self.buffer_bytes) = (2_000 * MS, 1 << 20);
                        self.faults = vec![Fault::SecondaryCrash];
                    }
                }
                // A request to take over is the command that makes sense to an operator here.
                if hit == Hit::Legal && state != State::JournalFull {
                    self.ending = Ending::Disaster;
                }
            }
            State::StepJournal => {
                // Hosts write until the takeover begins.
                self.ending = Ending::Split;
                (self.disk_ns_max, self.think_ns_max, self.apply_delay_ns) = (3 * MS, 20_000, 0);
            }
            State::Spilling | State::Replaying => {
                self.small();
                (self.ops, self.end_after) = (300, 300);
                self.think_ns_max = self.think_ns_max.min(MS);
                self.fault_every_ns = self.fault_every_ns.min(10 * MS);
                (self.scope, self.spill_bytes, self.buffer_bytes) = (Scope::Group, Some(LOG_BYTES_MIN), 64 << 10);
                self.faults = vec![Fault::Partition, Fault::PrimaryCrash];
            }
            State::NearlyFull => {
                (self.buffer_bytes, self.overflow, self.throttle_ms_max) = (64 << 10, Overflow::Throttle, 5);
                self.spill_bytes = None;
                self.faults = vec![Fault::Partition];
            }
            State::Fenced => self.ending = Ending::Split,
            State::Failed => {
                self.faults = vec![Fault::BitRot, Fault::SecondaryCrash, Fault::Operators];
                self.ending = Ending::Quiet;
            }
            State::Suspended => self.faults = vec![Fault::Partition, Fault::Operators],
            State::Opening => self.faults = vec![Fault::SecondaryCrash],
            State::Viewed => (self.views, self.ops) = (true, self.ops.max(120)),
            State::HandingOver | State::FailingBack | State::Following => {
                self.small();
                (self.primaries, self.initial, self.apply_delay_ns) = (1, Initial::Identical, 0);
                (self.scope, self.groups, self.ending) = (Scope::Group, 1, Ending::Exchange);
                self.overlay_bytes = Some(longrun_copy::journal::BYTES_MIN);
                self.faults = vec![Fault::Partition];
            }
            _ => {}
        }
        if is_hard {
            self.aim_hard(state, hit);
        }
        if !self.faults.contains(&Fault::Operators) && matches!(hit, Hit::Legal | Hit::Illegal) {
            self.faults.push(Fault::Operators);
        }
        let also: &[Fault] = match hit {
            Hit::Killed | Hit::PowerCut => &[Fault::PrimaryCrash, Fault::SecondaryCrash],
            Hit::Restarted => &[Fault::PrimaryRestart],
            Hit::ClockStep => &[Fault::ClockStep],
            Hit::Errors => &[Fault::FailedWrites, Fault::BadDisks],
            Hit::LastingErrors => &[Fault::LastingErrors],
            Hit::NoSpace | Hit::LastingNoSpace => &[Fault::NoSpace],
            Hit::ShortWrite => &[Fault::ShortWrites],
            Hit::Gone => &[Fault::DeviceGone],
            Hit::BitRot => &[Fault::BitRot],
            _ => &[],
        };
        for fault in also {
            if !self.faults.contains(fault) {
                self.faults.push(*fault);
            }
        }
    }

    /// Makes it likelier still: hosts write all the time, and the world ends in the midst of it.
    fn aim_hard(&mut self, state: State, hit: Hit) {
        match state {
            State::Fenced | State::StepJournal | State::HandingOver => {
                (self.ops, self.end_after, self.clients) = (if state == State::Fenced { 2000 } else { 600 }, 100, 8);
                (self.think_ns_max, self.disk_ns_max) = (50_000, 3 * MS);
                self.write_blocks_max = self.write_blocks_max.max(4).min(self.volume_blocks);
                if state == State::StepJournal {
                    self.ending = Ending::Split;
                    // No resync is under way: what a unit still has in memory is not waited for.
                    (self.primaries, self.groups, self.initial) = (1, 1, Initial::Identical);
                    (self.overflow, self.apply_delay_ns, self.fault_every_ns) = (Overflow::Throttle, 0, 10_000 * MS);
                    self.faults_at_setup = false;
                }
            }
            State::Failed => {
                // What has left memory is read back, from a journal that is rotten meanwhile.
                self.small();
                (self.groups, self.faults, self.apply_delay_ns) = (1, vec![Fault::BitRot], 20 * MS);
                (self.ops, self.end_after, self.clients, self.think_ns_max) = (600, 600, 8, 50_000);
                (self.fault_every_ns, self.disk_ns_max) = (1_000 * MS, 3 * MS);
            }
            State::StepRestore if hit == Hit::Damaged => self.ending = Ending::Split,
            State::StepFlush | State::StepClose => {
                (self.ending, self.meta_ns_max, self.overlay_bytes) = (Ending::Split, 50_000, None);
                self.journal_bytes *= 2;
            }
            State::Replaying => {
                (self.ending, self.ops, self.end_after) = (Ending::Quiet, 600, 600);
                (self.clients, self.think_ns_max) = (8, 50_000);
            }
            _ => {}
        }
    }

    /// Small volumes, and logs that hold a few records of them.
    fn small(&mut self) {
        (self.block_bytes, self.volume_blocks, self.write_blocks_max) = (512, 64, 4);
        (self.journal_bytes, self.overlay_bytes) = (128 << 10, Some(256 << 10));
        self.buffer_bytes = self.buffer_bytes.min(1 << 20);
    }
}

impl Aim {
    /// The next step is the cell's state, and the fault has to be there when it comes.
    fn is_near(&self, standing: Standing, has_begun: bool, is_ending: bool) -> bool {
        let is_device = is_device(self.hit);
        match self.state {
            // A crash is the way there.
            State::Replaying => standing.is(State::Spilling),
            State::StepClose => is_device && standing.is(State::StepFlush),
            State::StepJournal => is_device && is_ending && standing.is(State::Ready),
            State::StepFlush => is_device && standing.is(State::StepApply),
            State::HandingOver => is_device && standing.is(State::Pair),
            State::Failed => is_device && has_begun && standing.is(State::Ready),
            _ => false,
        }
    }

    /// Whether it is one of the hardest.
    fn is_hard(&self) -> bool {
        hardest().contains(&(self.state, self.hit))
    }

    /// At this cell.
    pub fn new((state, hit): (State, Hit)) -> Aim {
        Aim { state, hit, shots_left: SHOTS, not_before: 0, is_on: true }
    }
}

impl World {
    /// A directed world may do its work from here on, or not.
    pub fn aim_is(&mut self, is_on: bool) {
        if let Some(aim) = &mut self.aim {
            aim.is_on = is_on;
        }
    }

    /// A group of a node was seen in these states.
    pub fn stands(&mut self, node: usize, group: usize, standing: Standing) {
        self.states[node][group] = standing;
        let at = self.at;
        let Some(aim) = &mut self.aim else { return };
        let has_begun = self.ops_answered > 0;
        let is_ending = !self.are_asides_on && has_begun;
        let is_near = aim.shots_left > SHOTS / 2 && aim.is_near(standing, has_begun, is_ending);
        if aim.is_on && aim.shots_left > 0 && at >= aim.not_before && (standing.is(aim.state) || is_near) {
            aim.shots_left -= 1;
            aim.not_before = at + 2 * MS;
            self.later(at, What::Shot(node, group));
        }
    }

    /// Whether the main part of a directed world ends: its takeover is to find a resync in an overlay.
    pub fn is_time_to_end(&self) -> bool {
        let Some(aim) = &self.aim else { return false };
        let wanted = match aim.state {
            State::StepRestore => State::Overlaid,
            State::StepFlush | State::StepClose if aim.is_hard() => State::Unit,
            state if aim.hit == Hit::Legal => state,
            _ => return false,
        };
        self.states[self.secondary()].iter().any(|standing| standing.is(wanted))
    }

    /// The fault happens to a group's system.
    pub fn shoot(&mut self, node: usize, group: usize) {
        let Some(aim) = self.aim else { return };
        if !aim.is_on || self.nodes[node].engine.is_none() {
            return;
        }
        let standing = self.states[node][group];
        if !standing.is(aim.state) && !aim.is_near(standing, self.ops_answered > 0, !self.are_asides_on) {
            return;
        }
        if !standing.is(aim.state) && aim.state == State::Replaying {
            self.kill(node, Loss::Process);
            self.abandon(node);
            self.later(self.at + MS, What::Start(node));
            return;
        }
        if aim.state == State::Failed && is_device(aim.hit) {
            return self.rot_while_ill(node, group, aim.hit);
        }
        let at = self.at;
        let until = at + self.aside.log_range(MS, 60 * MS);
        self.say(node, format_args!("{} x {} until {:.3} ms", aim.state.name(), aim.hit.name(), until as f64 / 1e6));
        self.note(70, node as u64, aim.hit as u64);
        let is_primary = node != self.secondary();
        let peer = if is_primary { self.secondary() } else { self.aside.below(self.plan.primaries) };
        match aim.hit {
            Hit::OneWay | Hit::BothWays => {
                self.cut(node, peer, until);
                if aim.hit == Hit::BothWays {
                    self.cut(peer, node, until);
                }
                self.cover(node, aim.hit);
            }
            Hit::Lost | Hit::Duplicated | Hit::Overtaken | Hit::Damaged => {
                self.forced = Some(Forced { node, hit: aim.hit, left: 4 });
            }
            Hit::Killed | Hit::PowerCut => {
                let loss =
                    if aim.hit == Hit::Killed { Loss::Process } else { self.aside.pick(&[Loss::Power, Loss::All]) };
                self.kill(node, loss);
                if is_primary && self.exchange.is_none() {
                    self.abandon(node);
                }
                self.later(until, What::Start(node));
            }
            Hit::Restarted => {
                if !self.trouble[node].is_shutting_down {
                    self.trouble[node].is_shutting_down = true;
                    self.cover(node, Hit::Restarted);
                    self.operate(node, |engine, ports, now| {
                        let (roles, mut world) = engine.primary(ports);
                        roles.shutdown(now, &mut world);
                    });
                }
            }
            Hit::Stall => {
                self.cover(node, Hit::Stall);
                let it = &mut self.nodes[node];
                it.busy_until = it.busy_until.max(until);
            }
            Hit::NoMemory => {
                self.trouble[node].no_memory_until = until;
                self.cover(node, Hit::NoMemory);
            }
            Hit::LeaseStall => {
                self.cover(node, Hit::LeaseStall);
                self.nodes[node].clock.lease_stalled_until = until + 2_000 * MS;
            }
            Hit::ClockStep => {
                self.cover(node, Hit::ClockStep);
                self.step_clock(node);
            }
            Hit::SlowDisk => {
                self.trouble[node].slow_until = until;
                self.cover(node, Hit::SlowDisk);
            }
            Hit::Errors | Hit::LastingErrors | Hit::NoSpace | Hit::LastingNoSpace | Hit::ShortWrite | Hit::Gone => {
                self.ill_of(node, aim.hit, until - at);
            }
            // A journal that rots while it is being made is refused like any device that holds something.
            Hit::BitRot if self.ops_answered == 0 => {}
            Hit::BitRot => self.rot_of(group),
            Hit::Legal | Hit::Illegal => {
                for _ in 0..6 {
                    if self.exchange.is_none() {
                        self.operator_does(node);
                    } else {
                        self.exchange_operator(node, group);
                    }
                }
            }
        }
    }

    /// What is on its way fails, while the journal turns out damaged: it can still be read.
    fn rot_while_ill(&mut self, node: usize, group: usize, hit: Hit) {
        let of_group = self.pairs.iter().filter(|pair| pair.group == group);
        let volumes: Vec<VolumeId> = of_group.map(|pair| pair.secondary_volume).collect();
        volumes.iter().for_each(|volume| self.ill_of_one(node, Some(*volume), hit, 100 * MS));
        (self.trouble[node].slow_until, self.trouble[node].slow_only) = (self.at + 100 * MS, volumes.first().copied());
        for _ in 0..16 {
            self.rot_sector(group);
        }
        if let Some(aim) = &mut self.aim {
            aim.not_before = self.at + 20 * MS;
        }
    }

    /// A directed world's takeover begins: what is under way then takes long, and fails if that is the fault.
    pub fn aim_at_takeover(&mut self) {
        let Some(aim) = self.aim else { return };
        let (node, is_hard) = (self.secondary(), aim.is_hard());
        let (until, journal) = (self.at + 200 * MS, self.groups[0].journal);
        match aim.state {
            State::StepJournal => self.trouble[node].slow_until = until,
            State::StepFlush | State::StepClose if is_hard => {
                // What the journal is being given of a resync when the takeover begins is given up, and still under way.
                (self.trouble[node].slow_until, self.trouble[node].slow_only) = (until, Some(journal));
            }
            _ => return,
        }
        if is_hard {
            self.ill_of_one(node, Some(journal), aim.hit, 200 * MS);
            let deadline = self.at + 50 * MS;
            let is_failing = |world: &World| world.failing.keys().any(|(at, _, it, _)| (*at, *it) == (node, journal));
            while self.at < deadline && !is_failing(self) && self.step() {}
        }
    }

    /// A directed world's last steps of a takeover end after what fails under them: what the journal was given and the
    /// takeover gave up.
    pub fn held_until(&self, node: usize, step: State) -> u64 {
        let is_aimed = self.aim.is_some_and(|aim| aim.state == step && aim.is_hard()) && node == self.secondary();
        let standing = self.states[node][0];
        // As it was before this turn.
        let steps = [State::StepSeal, State::StepApply, State::StepFlush, State::StepClose];
        if !is_aimed || !steps.into_iter().any(|step| standing.is(step)) {
            return 0;
        }
        let journal = (node, self.groups[0].journal);
        let under_way = self.failing.iter().filter(|((node, _, volume, _), _)| (*node, *volume) == journal);
        under_way.map(|(_, (_, done))| done + 1).max().unwrap_or(0)
    }

    /// The same where old primaries are to be fenced with something at their devices.
    pub fn aim_at_fence(&mut self) {
        let Some(aim) = self.aim.filter(|aim| aim.state == State::Fenced && aim.is_hard()) else { return };
        for node in 0..self.plan.primaries {
            self.trouble[node].slow_until = self.at + 1_000 * MS;
            self.ill_of(node, aim.hit, 1_000 * MS);
        }
    }

    /// The same where a group is to be handed over.
    pub fn aim_at_swap(&mut self, node: usize) {
        let Some(aim) = &mut self.aim else { return };
        if aim.state != State::HandingOver || !aim.is_hard() || !aim.is_on || aim.shots_left == 0 {
            return;
        }
        aim.shots_left -= 1;
        let hit = aim.hit;
        self.trouble[node].slow_until = self.at + 50 * MS;
        self.ill_of(node, hit, 50 * MS);
        for _ in 0..8 {
            self.exchange_write();
        }
        self.run_for(100_000);
    }

    /// Whether a directed world's takeover follows at once.
    pub fn aim_is_hasty(&self) -> bool {
        self.aim.is_some_and(|aim| aim.state == State::StepJournal)
    }

    /// Whether nothing is cut before a directed world's takeover.
    pub fn aim_needs_network(&self) -> bool {
        self.aim.is_some_and(|aim| {
            aim.state == State::StepJournal
                || aim.is_hard()
                    && matches!(aim.state, State::Fenced | State::StepFlush | State::StepRestore | State::StepClose)
        })
    }

    /// All devices of a node have what the fault says, if it is one of devices, for a while.
    pub fn ill_of(&mut self, node: usize, hit: Hit, for_ns: u64) {
        self.ill_of_one(node, None, hit, for_ns);
    }

    fn ill_of_one(&mut self, node: usize, volume: Option<VolumeId>, hit: Hit, for_ns: u64) {
        let (ailment, is_lasting) = match hit {
            Hit::Errors => (Ailment::Errors, false),
            Hit::LastingErrors => (Ailment::Errors, true),
            Hit::NoSpace => (Ailment::NoSpace, false),
            Hit::LastingNoSpace => (Ailment::NoSpace, true),
            Hit::ShortWrite => (Ailment::ShortWrites, false),
            Hit::Gone => (Ailment::Gone, true),
            _ => return,
        };
        let until = self.at + for_ns;
        self.trouble[node].sick.push(Sick { ailment, volume, until, is_lasting });
    }
}
