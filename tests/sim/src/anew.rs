//! What an operator does about suspended groups before there is a resync: delete everything at both sites, copy the
//! volumes by other means, create everything again.

#[cfg(test)]
mod tests;

use crate::coverage::Hit;
use crate::disk::Loss;
use crate::history::History;
use crate::plan::Fault;
use crate::world::{What, World};
use longrun_copy::engine::OperatorError;
use longrun_copy::secondary::{TakeoverAt, TakeoverConsent};
use longrun_copy::types::{Initial, Time};

const SECOND: u64 = 1_000_000_000;

impl World {
    /// Deletes all pairs and groups, copies the volumes, creates all again, and lets the hosts go on for a while.
    pub fn create_anew(&mut self) {
        self.totals.created_anew += 1;
        // Operators are slower than messages.
        self.run_for(3 * SECOND);
        let forks_left = std::mem::take(&mut self.forks_left);
        self.are_deleted = true;
        let secondary = self.secondary();
        self.give_up_resyncs();
        self.aim_is(false);
        // Suspended ones first, site by site: a suspended primary that forgot its pairs no longer resyncs, and the others' resync waits for it
        // until its pairs are deleted at the secondary too.
        let mut nodes: Vec<usize> = (0..self.plan.primaries).collect();
        nodes.sort_by_key(|node| !self.groups.iter().any(|group| group.suspended.contains_key(node)));
        for node in nodes {
            for pair in (0..self.pairs.len()).filter(|pair| self.pairs[*pair].primary == node).collect::<Vec<_>>() {
                let id = self.pairs[pair].id;
                let ticket = self.ticket(node);
                self.operate(node, |engine, ports, now| {
                    let (roles, mut world) = engine.primary(ports);
                    roles.pair_delete(now, id, ticket, &mut world)
                })
                .expect("a pair can be deleted");
            }
            self.await_deleted("all pairs deleted at a primary");
            self.delete_there(node);
        }
        for group in 0..self.groups.len() {
            let id = self.groups[group].id;
            for node in 0..self.plan.primaries {
                self.operate(node, |engine, ports, now| {
                    let (roles, mut world) = engine.primary(ports);
                    roles.group_delete(now, id, &mut world)
                })
                .expect("a group without pairs can be deleted");
            }
        }
        for group in 0..self.groups.len() {
            let id = self.groups[group].id;
            self.insist("a group deleted at the secondary", |world| {
                let ticket = world.ticket(secondary);
                let answer = world.operate(secondary, |engine, ports, now| {
                    let (roles, mut ports) = engine.secondary(ports);
                    roles.group_delete(now, id, ticket, &mut ports)
                });
                world.forget_if_refused(ticket.0, answer)
            });
        }
        self.await_deleted("all groups deleted at the secondary");
        self.begin_again(forks_left);
    }

    /// A resync that neither journal nor overlay can hold, or that waits for a primary which is suspended, is ended by
    /// whoever deletes its pairs: they do not leave while the secondary has not all of their records.
    fn give_up_resyncs(&mut self) {
        let is_any_too_large = self.groups.iter().any(|group| group.is_too_large);
        for group in 0..self.groups.len() {
            if !is_any_too_large && self.groups[group].suspended.is_empty() {
                continue;
            }
            let id = self.groups[group].id;
            for node in 0..self.plan.primaries {
                let ticket = self.ticket(node);
                let answer = self.operate(node, |engine, ports, now| {
                    let (roles, mut world) = engine.primary(ports);
                    roles.group_suspend(now, id, ticket, &mut world)
                });
                self.forget_if_refused(ticket.0, answer);
            }
        }
        self.await_deleted("resyncs that cannot end suspended");
    }

    /// Deletes the pairs of a primary at the secondary.
    fn delete_there(&mut self, primary: usize) {
        let secondary = self.secondary();
        for pair in (0..self.pairs.len()).filter(|pair| self.pairs[*pair].primary == primary).collect::<Vec<_>>() {
            let id = self.pairs[pair].id;
            self.insist("a pair deleted at the secondary", |world| {
                let ticket = world.ticket(secondary);
                let answer = world.operate(secondary, |engine, ports, now| {
                    let (roles, mut ports) = engine.secondary(ports);
                    roles.pair_delete(now, id, ticket, &mut ports)
                });
                if answer.is_ok() {
                    world.cover_group(secondary, world.pairs[pair].group, Hit::Legal);
                }
                let error = world.forget_if_refused(ticket.0, answer)?;
                if error.to_string().contains("take the group over first, which brings") {
                    world.end_by_takeover(world.pairs[pair].group);
                }
                Some(error)
            });
        }
        self.await_deleted("all pairs of a primary deleted at the secondary");
    }

    /// A resync of a primary that gave its pairs up, in the middle of writing to volumes whose overlay is full, never goes
    /// on: a takeover brings the image before it back.
    fn end_by_takeover(&mut self, group: usize) {
        if self.groups[group].takeover_begun {
            return;
        }
        let (secondary, id) = (self.secondary(), self.groups[group].id);
        let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
        let ticket = self.ticket(secondary);
        let answer = self.operate(secondary, |engine, ports, now| {
            let (roles, mut world) = engine.secondary(ports);
            roles.group_takeover(now, id, consent, TakeoverAt::Newest, ticket, &mut world)
        });
        self.groups[group].takeover_begun = self.forget_if_refused(ticket.0, answer).is_none();
    }

    fn begin_again(&mut self, forks_left: usize) {
        let secondary = self.secondary();
        self.plan.initial = Initial::Identical;
        let life = self.nodes[secondary].life;
        for info in &mut self.groups {
            info.history = History::default();
            info.stamped_at.clear();
            (info.known, info.reported, info.limit) = (None, Time(0), Time(0));
            info.reported_in_life = (life, Time(0));
            info.suspended.clear();
            info.charged.fill(0);
            info.was_suspended.clear();
            info.unit_base = None;
            info.unit_spans.clear();
            info.journaled.clear();
            if std::mem::take(&mut info.has_rotten) {
                // What was refused is not wiped; the operator gives another device.
                let journal = self.disks.get_mut(&(secondary, info.journal)).expect("a disk stays");
                *journal = journal.replaced();
            }
            info.has_failed = false;
            info.takeover_begun = false;
            info.fenced.fill(false);
        }
        self.sizes_anew();
        self.altered.clear();
        for index in 0..self.pairs.len() {
            let pair = &self.pairs[index];
            let here = (pair.primary, pair.primary_volume);
            self.disks.get_mut(&here).expect("a disk stays").settle_all();
            let contents = self.disks[&here].image();
            self.groups[pair.group].history.pair(pair.id, pair.geometry, contents);
            let mut there = self.disks.remove(&(secondary, pair.secondary_volume)).expect("a disk stays");
            there.copy_from(&self.disks[&here]);
            self.disks.insert((secondary, pair.secondary_volume), there);
            self.kept[index].clear();
        }
        self.are_deleted = false;
        if self.may(Fault::ClockStep) {
            self.start_with_clocks_that_agree();
        } else {
            self.operate_secondary(secondary);
            for node in 0..self.plan.primaries {
                self.operate_primary(node);
            }
        }
        self.await_copying();
        self.forks_left = forks_left;
        self.ops_left += 40;
        for client in 0..self.clients.len() {
            self.later(self.at, What::Client(client));
        }
        let deadline = self.at + 60 * SECOND;
        self.run_until("caught up after everything was created again", deadline, |world| world.has_caught_up());
    }

    /// As long as a primary's clock is ahead, the secondary takes nothing and says that the clocks have to be set: whoever
    /// creates a pair then is answered that it does not copy yet. (*Starts in quick succession, each of which begins where
    /// the lease of the one before ends, put a primary half a minute ahead; a timeline that runs falls back 1 s in 2000.*)
    /// Both systems start anew, at one time.
    fn start_with_clocks_that_agree(&mut self) {
        let deadline = self.at + SECOND;
        self.run_until("all deletions durable", deadline, |world| {
            world.nodes.iter().all(|node| node.writing_meta.is_empty())
        });
        let at = self.at;
        let latest = self.nodes.iter_mut().map(|node| node.clock.read(at).lease).max().expect("there are nodes");
        for node in (0..self.nodes.len()).rev() {
            self.kill(node, Loss::Process);
            self.nodes[node].clock.set_wall(at, latest);
            self.start_node(node);
        }
        self.groups.iter_mut().for_each(|group| group.is_ahead = false);
    }

    fn await_deleted(&mut self, what: &str) {
        let deadline = self.at + 40 * SECOND;
        self.run_until(what, deadline, |world| world.open_tickets.is_empty());
        let failed = self.tickets.values().find_map(|answer| answer.as_ref().err().cloned());
        if let Some(error) = failed {
            panic!("not {what}: {error}: {}", self.describe());
        }
    }

    /// Asks until it is granted: an operator is told to try again in a moment.
    fn insist(&mut self, what: &str, mut ask: impl FnMut(&mut World) -> Option<OperatorError>) {
        let mut last = None;
        for _ in 0..2000 {
            let Some(error) = ask(self) else { return };
            assert!(matches!(error, OperatorError::WrongState(_)), "not {what}: {error}");
            last = Some(error);
            self.run_for(10_000_000);
        }
        panic!("not {what}: {last:?} {}", self.describe());
    }

    fn forget_if_refused(&mut self, ticket: u64, answer: Result<(), OperatorError>) -> Option<OperatorError> {
        let error = answer.err()?;
        self.open_tickets.remove(&ticket);
        Some(error)
    }
}
