//! What must hold after every event.

use crate::coverage::{at_primary, at_secondary};
use crate::plan::Fault;
use crate::world::World;
use longrun_copy::secondary::{GroupPhase, TakeoverStep};
use longrun_copy::types::{Now, PairState, Time};

/// What clocks that are not the same make of a span of time, beside the error bound.
const DRIFT_NS: u64 = 100_000;

impl World {
    /// After a turn of the secondary.
    pub fn check_secondary(&mut self, now: Now) {
        let node = self.secondary();
        let life = self.nodes[node].life;
        for group in 0..self.groups.len() {
            let it = &mut self.nodes[node];
            let Some(engine) = &mut it.engine else { return };
            let Some(status) = engine.secondary(&mut it.ports).0.group_status(now, self.groups[group].id) else {
                continue;
            };
            let at = self.at;
            let test = engine.secondary(&mut it.ports).0.test_status(now, self.groups[group].id);
            self.stands(node, group, at_secondary(&status, test));
            let info = &mut self.groups[group];
            let name = &info.name;
            match status.phase {
                GroupPhase::Failed => {
                    let reason = status.reason.clone().unwrap_or_default();
                    assert!(info.has_rotten, "group {name} failed at the secondary: {reason}");
                    assert!(!reason.is_empty(), "group {name} rotted and does not say so");
                    self.totals.failed_groups += u64::from(!info.has_failed);
                    info.has_failed = true;
                    continue;
                }
                GroupPhase::Opening => continue,
                _ => {}
            }
            let is_stopped = status.unit.is_some() || !matches!(status.phase, GroupPhase::Active);
            info.is_caught_up = !is_stopped;
            // A resync that neither journal nor overlay can hold waits for an operator, and says so.
            let unit = status.unit.as_ref();
            let waits = |what: &str| unit.is_some_and(|unit| unit.reason.contains(what));
            info.is_too_large = unit.is_some()
                && (info.is_too_large
                    || waits("full of a resync")
                    || waits("overlay is full")
                    || waits("cannot be used"));
            let is_half_full = status.journal_used_bytes > status.journal_bytes / 2;
            self.totals.half_full += u64::from(is_half_full);
            self.totals.full += u64::from(waits("full of a resync"));
            self.totals.overlay_full += u64::from(waits("overlay is full"));
            self.totals.overlaid += u64::from(unit.is_some_and(|unit| unit.is_overlaid));
            self.totals.restores += u64::from(status.takeover_step == Some(TakeoverStep::Restore));
            let is_refused = status.streams.iter().any(|view| view.drops.future > 0);
            info.is_ahead |= is_refused && self.plan.faults.contains(&Fault::ClockStep);
            if let (Some(base), None) = (info.unit_base, &status.unit) {
                self.totals.units += 1;
                info.unit_spans.push((base, status.recovery_point));
            }
            info.unit_base = status.unit.as_ref().map(|unit| unit.base);
            info.had_unit = status.unit.is_some();
            for view in &status.streams {
                let durable = info.journaled.entry((view.stream, view.epoch)).or_default();
                *durable = (*durable).max(view.durable);
                if let Some(error) = &view.error {
                    panic!("group {name}: stream {} broke the protocol: {error}", view.stream);
                }
            }
            let point = status.recovery_point;
            // A takeover may be asked to go to an earlier point.
            if info.takeover_begun {
                continue;
            }
            if info.reported_in_life.0 == life {
                let before = info.reported_in_life.1;
                assert!(point >= before, "group {name}: the recovery point went from {before} back to {point}");
            }
            info.reported_in_life = (life, point);
            // Neither records nor the time behind the last of them are lost in a crash.
            assert!(
                point >= info.reported || info.has_rotten,
                "promise 1 (cut): group {name} reported recovery point {}, and now {point}: {:?} is lost",
                info.reported,
                info.history.first_after(point).filter(|lost| lost.stamp.time <= info.reported)
            );
            info.reported = info.reported.max(point);
            info.limit = info.limit.max(status.limit);
            // Everything up to the recovery point is durable.
            let mut streams: Vec<_> = status.streams.iter().collect();
            for (epoch, head) in info.history.up_to(point) {
                if streams.is_empty() {
                    break;
                }
                if let Some(index) = streams.iter().position(|view| view.stream == head.stamp.stream) {
                    let view = streams.swap_remove(index);
                    assert!(
                        view.durable >= head.stamp.seq || view.epoch > epoch,
                        "promise 1 (cut): group {name}: recovery point {point}, but {head:?} is durable only up to {}",
                        view.durable
                    );
                }
            }
            // Honest lag: by its own clock, and by the true time, as far as clocks agree.
            if let Some(missing) = info.history.first_after(point)
                && info.certificate.is_none()
            {
                let age = status.recovery_point_age_ns;
                let by_clock = now.time.since_ns(missing.stamp.time);
                assert!(
                    age >= by_clock,
                    "promise 9: group {name} shows an age of {age} ns, {missing:?} is {by_clock} ns old"
                );
                let truth = at - info.stamped_at[&missing.stamp];
                let slack = 2 * self.plan.error_bound_ns + DRIFT_NS;
                let are_clocks_right = !self.plan.faults.contains(&Fault::ClockStep);
                assert!(
                    !are_clocks_right || age + slack >= truth,
                    "promise 9: group {name} shows an age of {age} ns, {missing:?} was stamped {truth} ns ago"
                );
            }
            let held: u64 = status.streams.iter().map(|view| view.held_bytes).sum();
            assert!(held <= self.plan.receive_bytes, "promise 10: {held} bytes held of {}", self.plan.receive_bytes);
            assert!(status.journal_used_bytes <= status.journal_bytes, "promise 10: a journal beyond its end");
        }
    }

    /// After a turn of a primary.
    pub fn check_primary(&mut self, node: usize, now: Now) {
        self.finish_shutdown(node);
        if self.totals.events.is_multiple_of(16) {
            let it = &mut self.nodes[node];
            let Some(engine) = &mut it.engine else { return };
            for pair in self.pairs.iter_mut().filter(|pair| pair.primary == node && !pair.is_copied) {
                let status = engine.primary(&mut it.ports).0.pair_status(now, pair.id);
                pair.is_copied = status.is_some_and(|status| status.state.is_copying());
            }
        }
        for group in 0..self.groups.len() {
            let it = &mut self.nodes[node];
            let Some(engine) = &mut it.engine else { return };
            let id = self.groups[group].id;
            let (roles, world) = engine.primary(&mut it.ports);
            let Some(status) = roles.group_status(now, id, &world) else { continue };
            self.stands(node, group, at_primary(&status));
            let it = &mut self.nodes[node];
            let Some(engine) = &mut it.engine else { return };
            let (roles, _) = engine.primary(&mut it.ports);
            let info = &mut self.groups[group];
            let name = &info.name;
            if let Some(spill) = &status.spill {
                let is_full = spill.used_bytes + 2 * self.plan.write_blocks_max * u64::from(self.plan.block_bytes)
                    > spill.total_bytes;
                self.totals.spilling += u64::from(spill.unsent_records > 0);
                self.totals.spill_full += u64::from(is_full);
                self.totals.replaying += u64::from(spill.is_replaying);
                assert!(spill.used_bytes <= spill.total_bytes, "promise 10: a spill beyond its end: {spill:?}");
            }
            if status.throttle_ns > 0 {
                self.totals.throttled += 1;
            }
            assert!(
                status.backlog.bytes <= status.buffer_bytes * self.plan.groups as u64,
                "promise 10: group {name} keeps {} bytes in a buffer of {}",
                status.backlog.bytes,
                status.buffer_bytes
            );
            if status.fenced.is_some() && !info.fenced[node] {
                assert!(info.takeover_begun, "group {name} is fenced, but nobody took it over");
                info.fenced[node] = true;
                self.totals.fenced += 1;
            }
            let is_suspended =
                !matches!(status.state, PairState::Simplex | PairState::Copy | PairState::Pair | PairState::NearlyFull);
            if !is_suspended && info.suspended.remove(&node).is_some() {
                self.totals.resyncs += 1;
            }
            if is_suspended && info.suspended.get(&node).is_some_and(|(state, _)| state != status.state.code()) {
                info.suspended.remove(&node);
            }
            if is_suspended && !info.suspended.contains_key(&node) {
                match status.state {
                    PairState::SuspendedFull => self.totals.suspended_full += 1,
                    PairState::SuspendedOperator => {}
                    _ => self.totals.suspended_error += 1,
                }
                let reason = status.reason.clone().unwrap_or_default();
                assert!(info.has_rotten || !reason.contains("lost data"), "group {name}: {reason}");
                info.was_suspended.push((node, status.state.code().to_owned(), reason.clone()));
                info.suspended.insert(node, (status.state.code().to_owned(), reason));
            }
            let is_replaying = status.spill.as_ref().is_some_and(|spill| spill.is_replaying);
            if !is_suspended && !is_replaying {
                for pair in self.pairs.iter().filter(|pair| pair.primary == node && pair.group == group) {
                    if !info.history.is_waiting(pair.id) {
                        continue;
                    }
                    let Some(shown) = roles.pair_status(now, pair.id) else { continue };
                    let standing = status.streams.iter().find(|it| it.stream == shown.stream && !it.broken);
                    let is_sending = shown.state.is_copying() || shown.state == PairState::Copy;
                    if let (Some(standing), true) = (standing, is_sending) {
                        info.history.stamps(pair.id, (shown.stream, standing.epoch), standing.last_time);
                    }
                }
            }
            // A takeover may have gone to an earlier point than the secondary had.
            if !is_suspended && !info.takeover_begun && self.totals.events.is_multiple_of(4) {
                // Honest lag: not below the age of the oldest record that the secondary has not journaled.
                let missing = info.history.first_after(info.reported.max(Time(1)));
                let ours = |stream| status.streams.iter().any(|standing| standing.stream == stream);
                if let (Some(missing), Some(lag)) = (missing.filter(|it| ours(it.stamp.stream)), status.lag_ns) {
                    let truth = self.at - info.stamped_at[&missing.stamp];
                    let slack = 2 * self.plan.error_bound_ns + DRIFT_NS;
                    let are_clocks_right = !self.plan.faults.contains(&Fault::ClockStep);
                    assert!(
                        !are_clocks_right || lag + slack >= truth,
                        "promise 9: group {name} ({:?}) shows a lag of {lag} ns, {missing:?} was stamped {truth} ns ago; \
                         it is {} at {} ns, {} primaries, bound {} ns",
                        status.state,
                        now.time,
                        self.at,
                        self.plan.primaries,
                        self.plan.error_bound_ns
                    );
                }
            }
        }
    }

    /// A word on where everything stands, for failures.
    pub fn describe(&mut self) -> String {
        let mut text = format!("{} of {} requests answered", self.ops_answered, self.plan.ops);
        for node in 0..self.nodes.len() {
            let it = &mut self.nodes[node];
            let now = it.clock.read(self.at);
            text += &format!(
                "; node {node}: {:?}, next {:?}",
                it.ports.pool,
                it.engine.as_ref().map(|e| e.next_timeout(now))
            );
            let Some(engine) = &mut it.engine else {
                text += &format!("; node {node} is down");
                continue;
            };
            for info in &self.groups {
                if node == self.plan.primaries {
                    let status = engine.secondary(&mut it.ports).0.group_status(now, info.id);
                    text += &format!("; secondary: {status:?}");
                } else {
                    let (roles, world) = engine.primary(&mut it.ports);
                    text += &format!("; primary {node}: {:?}", roles.group_status(now, info.id, &world));
                    for pair in self.pairs.iter().filter(|pair| pair.primary == node) {
                        text += &format!("; {:?}", roles.pair_status(now, pair.id));
                    }
                }
            }
        }
        text
    }
}
