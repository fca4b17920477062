//! Directed worlds: one cell of the table is theirs. The plan makes the cell's state likely, and whenever a group is seen in
//! it, the cell's fault happens to that group's system.

use crate::chance::Chance;
use crate::coverage::{Hit, Standing, State, aims, is_device};
use crate::disk::Loss;
use crate::plan::{Ending, Fault, LOG_BYTES_MIN, Plan};
use crate::sick::{Ailment, Sick};
use crate::world::{What, World};
use longrun_copy::stream::CHARGE_BYTES_MAX;
use longrun_copy::types::{Initial, Overflow, Scope};

const MS: u64 = 1_000_000;

/// So often the fault happens at most.
const SHOTS: u32 = 6;

/// One of so many seeds is directed.
const EVERY: u64 = 2;

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
            State::Overlaid | State::StepRestore | State::JournalFull | State::Unit => {
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

    /// Small volumes, and logs that hold a few records of them.
    fn small(&mut self) {
        (self.block_bytes, self.volume_blocks, self.write_blocks_max) = (512, 64, 4);
        (self.journal_bytes, self.overlay_bytes) = (128 << 10, Some(256 << 10));
        self.buffer_bytes = self.buffer_bytes.min(1 << 20);
    }
}

impl Aim {
    /// The next step is the cell's state, and the fault has to be there when it comes.
    fn is_near(&self, standing: Standing, has_rotten: bool, is_ending: bool) -> bool {
        let is_device = is_device(self.hit);
        match self.state {
            // A crash is the way there.
            State::Replaying => standing.is(State::Spilling),
            State::StepClose => is_device && standing.is(State::StepFlush),
            State::StepJournal => is_device && is_ending && standing.is(State::Ready),
            State::StepFlush => is_device && standing.is(State::StepApply),
            State::HandingOver => is_device && standing.is(State::Pair),
            State::Failed => is_device && has_rotten,
            _ => false,
        }
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
        let is_ending = !self.are_asides_on && self.ops_answered > 0;
        let is_near = aim.shots_left > SHOTS / 2 && aim.is_near(standing, self.groups[group].has_rotten, is_ending);
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
        if !standing.is(aim.state) && !aim.is_near(standing, self.groups[group].has_rotten, !self.are_asides_on) {
            return;
        }
        if !standing.is(aim.state) && aim.state == State::Replaying {
            self.kill(node, Loss::Process);
            self.abandon(node);
            self.later(self.at + MS, What::Start(node));
            return;
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

    /// All devices of a node have what the fault says, if it is one of devices, for a while.
    pub fn ill_of(&mut self, node: usize, hit: Hit, for_ns: u64) {
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
        self.trouble[node].sick.push(Sick { ailment, volume: None, until, is_lasting });
    }
}
