//! What time brings: answers whose wait is over, beacons, repetitions, time-outs.
//!
//! The queues are looked at in every turn; all else only when something is due, so that a turn of a busy core is cheap. A
//! pair that has nothing to wait for sleeps: a thousand of them cost what their beacons do.

use super::pair::Phase;
use super::{Primary, Stopping, Up};
use crate::engine::OperatorError;
use crate::keys::next_key;
use crate::message::Content;
use crate::ports::Memory;
use crate::types::{Mono, Now, PairId, PairState, Time};
use std::cmp::Reverse;

use super::host::is_past;
use super::suspend::FirstMissed;

/// How often all streams and pairs are looked at, also those that nothing has happened to.
const LOOK_AT_ALL_NS: u64 = 1_000_000_000;
/// How soon to look again when the timeline's lease has to move.
pub(super) const LEASE_RETRY_NS: u64 = 500_000;

impl<M: Memory> Primary<M> {
    pub(super) fn take_turn(&mut self, now: Now, ports: &mut impl Up<M>) {
        self.retry_lease(now, ports);
        self.retry_memory(now, ports);
        self.commit(now, ports);
        self.let_go(now, ports);
        self.pump(now, ports);
        self.turn_spills(now, ports);
        if now.mono >= self.due {
            (self.due, self.awake_due) = (Mono(u64::MAX), Mono(u64::MAX));
            let again = self.look_after_streams(now, ports);
            self.due = self.due.min(again);
            if !self.pairs.is_empty() {
                self.due = self.due.min(now.mono.after_ns(LOOK_AT_ALL_NS));
            }
            self.wake_all();
            self.look_after(now, ports);
        } else if now.mono >= self.awake_due {
            self.awake_due = Mono(u64::MAX);
            self.look_after(now, ports);
        }
        self.keep_marks(ports);
    }

    /// Stamps what waited for the lease, in order, as far as it goes.
    fn retry_lease(&mut self, now: Now, ports: &mut impl Up<M>) {
        for _ in 0..self.out_of_lease.len() {
            let Some(key) = self.out_of_lease.pop_front() else { return };
            let before = self.out_of_lease.len();
            self.issue(now, key, ports);
            if self.out_of_lease.len() > before {
                // It went to the end: the lease has not moved (far enough). Back to where it was.
                self.out_of_lease.rotate_right(1);
                return;
            }
        }
    }

    /// Lets go the answers whose stamps the timeline has passed.
    fn commit(&mut self, now: Now, ports: &mut impl Up<M>) {
        while let Some(Reverse((time, key, serial))) = self.committing.peek().copied() {
            if !is_past(now, time) {
                return;
            }
            self.committing.pop();
            if self.is_answering(key, serial) {
                self.throttle(now, key, ports);
            }
        }
    }

    /// Lets go the answers that were held back long enough; all, once the send buffer has room again.
    fn let_go(&mut self, now: Now, ports: &mut impl Up<M>) {
        let mut last = None;
        while let Some(id) = next_key(&self.groups, last) {
            last = Some(id);
            if self.groups[&id].delayed.is_empty() {
                continue;
            }
            if self.throttle_ns(id) == 0 {
                self.release_delayed(id, ports);
                continue;
            }
            while let Some(Reverse((until, key, serial))) = self.groups[&id].delayed.peek().copied() {
                if until > now.mono {
                    break;
                }
                self.groups.get_mut(&id).map(|group| group.delayed.pop());
                if self.is_answering(key, serial) {
                    self.answer(key, ports);
                }
            }
        }
    }

    /// Streams that are not open yet. Returns when to look again.
    fn look_after_streams(&mut self, now: Now, ports: &mut impl Up<M>) -> Mono {
        let mut due = Mono(u64::MAX);
        let mut last = None;
        while let Some(id) = next_key(&self.streams, last) {
            last = Some(id);
            due = due.min(self.ask_to_open(now, id, ports).unwrap_or(due));
        }
        due
    }

    /// The pair has something to be looked after.
    pub(super) fn wake(&mut self, id: PairId) {
        if let Some(pair) = self.pairs.get_mut(&id)
            && !std::mem::replace(&mut pair.is_awake, true)
        {
            self.awake.push(id);
        }
    }

    fn wake_all(&mut self) {
        self.awake.clear();
        self.awake.extend(self.pairs.keys());
        self.pairs.values_mut().for_each(|pair| pair.is_awake = true);
    }

    /// Beacons, the pairs that are awake, groups. Notes when to look again.
    fn look_after(&mut self, now: Now, ports: &mut impl Up<M>) {
        let mut due = self.beacons(now, ports);
        let mut nth = 0;
        while let Some(id) = self.awake.get(nth).copied() {
            let each = [
                self.join_pair(now, id, ports),
                self.attend(now, id, ports),
                self.try_leave(now, id, ports),
                self.tend_marks(now, id, ports),
                self.expire_marks(now, id, ports),
            ];
            match each.into_iter().flatten().min() {
                Some(at) => (due, nth) = (due.min(at), nth + 1),
                None => {
                    self.awake.swap_remove(nth);
                    if let Some(pair) = self.pairs.get_mut(&id) {
                        pair.is_awake = false;
                    }
                }
            }
        }
        let mut last = None;
        while let Some(id) = next_key(&self.resizes, last) {
            last = Some(id);
            due = due.min(self.tend_resize(now, id, ports).unwrap_or(due));
        }
        let mut last = None;
        while let Some(id) = next_key(&self.handovers, last) {
            last = Some(id);
            due = due.min(self.hand_over_on(now, id, ports).unwrap_or(due));
        }
        let mut last = None;
        while let Some(id) = next_key(&self.groups, last) {
            last = Some(id);
            self.say_copy_ends(id, ports);
            for at in
                [self.tend_drain(now, id, ports), self.tend_replay(now, id, ports), self.tend_resync(now, id, ports)]
            {
                due = due.min(at.unwrap_or(due));
            }
        }
        let mut last = None;
        while let Some(key) = next_key(&self.budgets, last) {
            last = Some(key);
            self.refresh_budget(key, ports);
        }
        self.try_stop(now, ports);
        if let Stopping::Draining { deadline, .. } = self.shutdown {
            due = due.min(deadline);
        }
        self.awake_due = self.awake_due.min(due);
    }

    /// A pair that is being created: memory for its check, its hosts' and its operator's patience.
    fn attend(&mut self, now: Now, id: PairId, ports: &mut impl Up<M>) -> Option<Mono> {
        self.poll_check(id, ports);
        let pair = self.pairs.get(&id).filter(|pair| pair.is_opening())?;
        let mut due = match pair.phase {
            Phase::Checking(_) => Some(now.mono.after_ns(self.config.retry_ns)),
            _ => None,
        };
        let hosts_until = pair.parked_since.map(|since| since.after_ns(self.config.open_wait_ns));
        let operator_until = pair.ticket.and_then(|(_, until)| until);
        if hosts_until.is_some_and(|until| now.mono >= until) {
            self.give_up_opening(now, id, ports);
            return None;
        }
        if operator_until.is_some_and(|until| now.mono >= until) {
            let waits =
                self.waiting(id).map_or(String::new(), |waiting| format!(": {} ({})", waiting.reason, waiting.owner));
            let pair = self.pairs.get_mut(&id)?;
            let text = format!(
                "pair {} exists but does not copy yet{waits}; it goes on by itself, see pair_get",
                pair.config.name
            );
            if let Some((ticket, _)) = pair.ticket.take() {
                ports.answer_operator(ticket, Err(OperatorError::TimedOut(text)));
            }
        }
        let still_waits = self.pairs.get(&id).and_then(|pair| pair.ticket).and_then(|(_, until)| until);
        for at in [hosts_until, still_waits].into_iter().flatten() {
            due = Some(due.map_or(at, |due| due.min(at)));
        }
        due
    }

    /// Hosts have waited long enough for their pair to be opened: they run on locally.
    fn give_up_opening(&mut self, now: Now, id: PairId, ports: &mut impl Up<M>) {
        let waits =
            self.waiting(id).map_or(String::new(), |waiting| format!(" ({}: {})", waiting.owner, waiting.reason));
        let Some(pair) = self.pairs.get(&id) else { return };
        let seconds = self.config.open_wait_ns / 1_000_000_000;
        let reason = format!(
            "pair {} was not opened within {seconds} s of a host's write{waits}, so hosts go on without the secondary",
            pair.config.name
        );
        match pair.content {
            Content::Established => {
                let group = pair.config.group;
                self.suspend_for_now(now, group, PairState::SuspendedError, reason, FirstMissed::Known, ports);
            }
            _ => {
                let reason = format!("{reason}; delete the pair at both sites and create it again");
                self.halt_pair(now, id, reason, ports);
            }
        }
    }

    pub(super) fn timeout(&self, now: Now) -> Option<Mono> {
        let committing = self.committing.peek().map(|Reverse((time, ..))| {
            let until = time.after_ns(now.error_bound_ns).after_ns(1);
            now.mono.after_ns(until.since_ns(now.time))
        });
        let delayed =
            self.groups.values().filter_map(|group| group.delayed.peek()).map(|Reverse((until, ..))| *until).min();
        let lease = (!self.out_of_lease.is_empty()).then(|| now.mono.after_ns(LEASE_RETRY_NS));
        let unasked = (!self.unasked.is_empty()).then_some(now.mono);
        let due = Some(self.due.min(self.awake_due)).filter(|due| *due != Mono(u64::MAX));
        [committing, delayed, lease, self.memory_retry_at(now), unasked, self.pump_at, self.spill_timeout(now), due]
            .into_iter()
            .flatten()
            .min()
    }

    /// The newest time that was stamped or promised: no stamp from here on is at or below it.
    pub fn stamped_up_to(&self) -> Time {
        self.stamper.floor()
    }
}
