//! What goes wrong.

use crate::coverage::Hit;
use crate::disk::Loss;
use crate::plan::Fault;
use crate::sick::Ailment;
use crate::world::{What, World};
use longrun_copy::primary::Shutdown;

impl World {
    /// Something goes wrong, and the next thing is planned.
    pub fn next_fault(&mut self) {
        if !self.faults_on {
            return;
        }
        let next = self.at + self.chance.range(1, 2 * self.plan.fault_every_ns);
        self.later(next, What::Fault);
        let faults = self.plan.faults.clone();
        let fault = self.chance.pick(&faults);
        self.cause(fault);
    }

    /// How a process ends.
    pub fn draw_loss(&mut self) -> Loss {
        let loss = self.chance.pick(&[Loss::Process, Loss::Power, Loss::Power, Loss::All]);
        if loss != Loss::Process {
            self.totals.torn_crashes += 1;
        }
        loss
    }

    /// Causes this fault now.
    pub fn cause(&mut self, fault: Fault) {
        self.cause_there(fault, None);
    }

    /// As [`World::cause`], at the secondary or at a primary.
    fn cause_there(&mut self, fault: Fault, is_secondary: Option<bool>) {
        self.note(30, fault as u64, 0);
        let at = self.at;
        let secondary = self.secondary();
        let primary = self.chance.below(self.plan.primaries);
        let any = match is_secondary {
            None => self.chance.below(self.plan.primaries + 1),
            Some(true) => secondary,
            Some(false) => primary,
        };
        let long = self.chance.log_range(1_000_000, 40 * self.plan.fault_every_ns);
        let until = at + long.min(if is_secondary.is_some() { 200_000_000 } else { 6_000_000_000 });
        self.say(any, format_args!("fault {fault:?} until {:.3} ms", until as f64 / 1e6));
        match fault {
            Fault::Partition => {
                self.totals.partitions += 1;
                let ways = self.chance.below(3);
                if ways != 0 {
                    self.cut(primary, secondary, until);
                }
                if ways != 1 {
                    self.cut(secondary, primary, until);
                }
                for node in [primary, secondary] {
                    self.cover(node, if ways == 2 { Hit::BothWays } else { Hit::OneWay });
                }
            }
            Fault::SecondaryCrash => {
                if self.nodes[secondary].engine.is_some() {
                    self.totals.secondary_crashes += 1;
                    let loss = self.draw_loss();
                    self.kill(secondary, loss);
                    self.later(until, What::Start(secondary));
                }
            }
            Fault::PrimaryCrash => {
                if self.nodes[primary].engine.is_some() && self.chance.hits(0.3) {
                    self.totals.primary_crashes += 1;
                    let loss = self.draw_loss();
                    self.kill(primary, loss);
                    self.abandon(primary);
                    self.later(until, What::Start(primary));
                }
            }
            Fault::PrimaryRestart => {
                if self.nodes[primary].engine.is_some() && !self.trouble[primary].is_shutting_down {
                    self.trouble[primary].is_shutting_down = true;
                    self.cover(primary, Hit::Restarted);
                    self.operate(primary, |engine, ports, now| {
                        let (roles, mut world) = engine.primary(ports);
                        roles.shutdown(now, &mut world);
                    });
                }
            }
            Fault::Stall => {
                self.totals.stalls += 1;
                self.cover(any, Hit::Stall);
                let stall = self.chance.range(10_000_000, 70_000_000);
                let it = &mut self.nodes[any];
                it.busy_until = it.busy_until.max(at + stall);
            }
            Fault::NoMemory => {
                self.trouble[any].no_memory_until = until;
                self.cover(any, Hit::NoMemory);
            }
            // A lease is renewed now and then, or nobody could write for ever.
            Fault::LeaseStall if at < self.nodes[any].clock.lease_stalled_until + 1_000_000_000 => {}
            Fault::LeaseStall => {
                self.totals.lease_stalls += 1;
                if any != secondary {
                    self.cover(any, Hit::LeaseStall);
                }
                self.nodes[any].clock.lease_stalled_until = until + 2_000_000_000;
            }
            Fault::ClockStep => {
                self.totals.clock_steps += 1;
                self.cover(any, Hit::ClockStep);
                self.step_clock(any);
            }
            Fault::SlowDisks => {
                self.trouble[any].slow_until = until;
                self.cover(any, Hit::SlowDisk);
            }
            Fault::BadDisks => self.fall_ill(secondary, Ailment::Errors, false, until),
            Fault::FailedWrites => self.fall_ill(primary, Ailment::Errors, false, until),
            Fault::LastingErrors => self.fall_ill(any, Ailment::Errors, true, until),
            Fault::NoSpace => {
                let is_lasting = self.chance.hits(0.5);
                self.fall_ill(any, Ailment::NoSpace, is_lasting, until);
            }
            Fault::ShortWrites => self.fall_ill(any, Ailment::ShortWrites, false, until),
            Fault::DeviceGone => self.fall_ill(any, Ailment::Gone, true, until),
            Fault::BitRot => self.rot(),
            Fault::Operators => self.operator_does(any),
        }
    }

    /// An operator sets a wall clock. Those of two primaries of one group are kept by a clock synchronisation, whose bound
    /// a step would break: there only the secondary's steps.
    pub fn step_clock(&mut self, node: usize) {
        let is_alone = node == self.secondary() || self.plan.primaries == 1;
        let node = if is_alone { node } else { self.secondary() };
        let is_ahead = self.chance.hits(0.5);
        // A primary's clock that runs far ahead is refused by the secondary until it is right again.
        let most = if is_ahead && node != self.secondary() { 2_000_000_000 } else { 7_200_000_000_000 };
        let by = self.chance.log_range(1_000, most) as i64;
        let at = self.at;
        self.nodes[node].clock.step_wall(at, if is_ahead { by } else { -by });
    }

    /// Something goes wrong at a system that was taken over, takes over, or is fenced.
    pub fn cause_late(&mut self, is_secondary: bool) {
        let faults = [
            Fault::Partition,
            Fault::Stall,
            Fault::NoMemory,
            Fault::LeaseStall,
            Fault::ClockStep,
            Fault::SlowDisks,
            Fault::LastingErrors,
            Fault::NoSpace,
            Fault::ShortWrites,
            Fault::DeviceGone,
            Fault::Operators,
            if is_secondary { Fault::BadDisks } else { Fault::FailedWrites },
            if is_secondary { Fault::SecondaryCrash } else { Fault::PrimaryCrash },
            if is_secondary { Fault::BitRot } else { Fault::PrimaryRestart },
        ];
        let mut fault = self.chance.pick(&faults);
        if fault == Fault::ClockStep && !self.may(Fault::ClockStep) {
            fault = Fault::Stall;
        }
        self.cause_there(fault, Some(is_secondary));
    }

    /// Causes this fault now, for less than a second, at either system.
    pub fn cause_late_of(&mut self, fault: Fault) {
        let is_secondary = self.chance.hits(0.5);
        self.cause_there(fault, Some(is_secondary));
    }

    /// Nothing gets from one node to the other for a while.
    pub fn cut(&mut self, from: usize, to: usize, until: u64) {
        let wire = self.wires.entry((from, to)).or_default();
        wire.cut_until = wire.cut_until.max(until);
    }

    /// All passing troubles end, and nothing new goes wrong. What is down is started.
    pub fn heal(&mut self) {
        self.note(31, 0, 0);
        self.faults_on = false;
        for wire in self.wires.values_mut() {
            wire.cut_until = 0;
        }
        (self.plan.loss, self.plan.corrupt, self.plan.stall_probability) = (0.0, 0.0, 0.0);
        for node in 0..self.nodes.len() {
            let is_shutting_down = self.trouble[node].is_shutting_down;
            self.trouble[node] = crate::world::Trouble { is_shutting_down, ..Default::default() };
            self.nodes[node].clock.lease_stalled_until = 0;
            if self.nodes[node].engine.is_none() && !self.is_dead[node] {
                self.start_node(node);
            }
        }
    }

    /// A primary whose clean shutdown is done, is started again.
    pub fn finish_shutdown(&mut self, node: usize) {
        if !self.trouble[node].is_shutting_down {
            return;
        }
        let it = &mut self.nodes[node];
        let Some(engine) = &mut it.engine else { return };
        let state = engine.primary(&mut it.ports).0.shutdown_state();
        if matches!(state, Shutdown::Done { .. }) && self.nodes[node].writing_meta.is_empty() {
            self.totals.primary_restarts += 1;
            self.kill(node, Loss::Process);
            self.abandon(node);
            let pause = self.chance.log_range(100_000, 200_000_000);
            self.later(self.at + pause, What::Start(node));
        }
    }
}
