//! Why a group stops copying, and what follows.
//!
//! A suspended group's streams are broken: they send nothing more in their epoch, their buffers are freed, the secondary
//! keeps its last cut. Hosts run on without stamps, but only once the suspension is durable here: else a crash could
//! leave writes that the secondary lacks and a metadata that takes the group for drained.
//!
//! Groups that share a stream (scope `system`) share its fate: were one to go on, the numbers of the other's records
//! would be a gap in its stream.

use super::budget::BudgetKey;
use super::group::{Drain, Life};
use super::meta::{StreamMark, Suspension, group_key, pair_key, stream_key};
use super::pair::{Phase, Rejoin};
use super::stream::Numbers;
use super::{Primary, Up, Wait};
use crate::engine::OperatorError;
use crate::message::{Content, Message};
use crate::ports::Memory;
use crate::types::{Extent, StreamId, Time};
use crate::types::{GroupId, Mono, Now, Overflow, PairId, PairState, RecordHead, RecordKind, Stamp};

/// Whether the first write that the secondary may lack is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstMissed {
    /// It is the oldest that is kept, or the next one.
    Known,
    /// The process that stamped it is gone.
    Unknown,
}

impl<M: Memory> Primary<M> {
    /// Whether a record goes into the send buffer; if not, the group was suspended: a record that cannot be taken ends
    /// its stream, else it would be a gap.
    pub(super) fn has_room(
        &mut self,
        now: Now,
        id: PairId,
        kind: RecordKind,
        payload_bytes: usize,
        ports: &mut impl Up<M>,
    ) -> bool {
        let pair = &self.pairs[&id];
        let stamp = Stamp { time: Time(0), stream: pair.stream, seq: crate::types::Seq(0) };
        let extent = Extent { lba: 0, blocks: 1 };
        let Ok(payload_bytes) = u32::try_from(payload_bytes) else { return false };
        let charge = RecordHead { stamp, pair: id, kind, extent, payload_bytes }.charge_bytes();
        let group_id = pair.config.group;
        let key = self.groups[&group_id].budget;
        if self.budgets[&key].holds(charge) {
            return true;
        }
        self.refresh_budget(key, ports);
        if self.budgets[&key].holds(charge) {
            return true;
        }
        let limit = self.budgets[&key].limit_bytes;
        let reason = format!(
            "the send buffer of {limit} bytes has no room for the next record of {charge} bytes: the link or the \
             secondary was too slow for too long; it is resynced by itself (mend that, or enlarge buffer_bytes)"
        );
        self.suspend_for_now(now, group_id, PairState::SuspendedFull, reason, FirstMissed::Known, ports);
        false
    }

    /// Suspends the group, and those that share a stream with it, until an operator resyncs it.
    pub(super) fn suspend(
        &mut self,
        now: Now,
        id: GroupId,
        state: PairState,
        reason: String,
        missed: FirstMissed,
        ports: &mut impl Up<M>,
    ) {
        let first_missed = self.first_missed(now, id, missed, ports);
        self.suspend_all(now, id, Suspension { state, reason, first_missed, auto: false }, None, ports);
    }

    /// The same; a resync begins by itself.
    pub(super) fn suspend_for_now(
        &mut self,
        now: Now,
        id: GroupId,
        state: PairState,
        reason: String,
        missed: FirstMissed,
        ports: &mut impl Up<M>,
    ) {
        let first_missed = self.first_missed(now, id, missed, ports);
        self.suspend_all(now, id, Suspension { state, reason, first_missed, auto: true }, None, ports);
    }

    /// Suspends the group, and those that share a stream with it. `drain`: what was stamped is still sent.
    pub(super) fn suspend_all(
        &mut self,
        now: Now,
        id: GroupId,
        suspension: Suspension,
        drain: Option<Drain>,
        ports: &mut impl Up<M>,
    ) {
        let Some(group) = self.groups.get(&id) else { return };
        let (key, name) = (group.budget, group.config.name.clone());
        let shares_fate = |other: &GroupId| {
            *other == id || (self.groups[other].budget == key && !self.groups[other].pairs.is_empty())
        };
        let together: Vec<GroupId> = self.groups.keys().copied().filter(shares_fate).collect();
        let together: Vec<GroupId> = together.into_iter().filter(|id| self.groups[id].is_sending()).collect();
        // In a resync the image is older than what any buffer holds.
        let missed = match (suspension.first_missed.is_some(), &drain) {
            (true, None) => FirstMissed::Known,
            _ => FirstMissed::Unknown,
        };
        let since: Vec<Option<Time>> = together
            .iter()
            .map(|other| match *other == id || (drain.is_some() && self.groups[other].is_running()) {
                true => suspension.first_missed,
                false => self.first_missed(now, *other, missed, ports),
            })
            .collect();
        let sharing = self.together(id);
        for group in together.iter().filter(|_| drain.is_none()) {
            self.break_streams(*group, ports);
        }
        if drain.is_none() {
            for other in sharing {
                // A stream that still drained is broken now.
                self.abandon_drain(other, ports);
            }
        }
        for (other, first_missed) in together.into_iter().zip(since) {
            let reason = match other == id {
                true => suspension.reason.clone(),
                false => format!("shares its stream with group {name}, which was suspended: {}", suspension.reason),
            };
            self.suspend_one(
                now,
                other,
                Suspension { reason, first_missed, ..suspension.clone() },
                drain.clone(),
                ports,
            );
        }
        self.due = Mono(0);
    }

    /// The first write that the secondary may lack, if the group is suspended now.
    pub(super) fn first_missed(&self, now: Now, id: GroupId, missed: FirstMissed, ports: &impl Up<M>) -> Option<Time> {
        if let Some(resync) = self.groups.get(&id).and_then(super::Group::resync) {
            return resync.was.first_missed;
        }
        let oldest = self.streams_of(id).filter_map(|(stream, link)| ports.stream_backlog(link, stream).oldest).min();
        let oldest = [oldest, self.spilled_since(id), self.held(id)].into_iter().flatten().min();
        match missed {
            // Whether another primary's resync holds the image back is not known.
            FirstMissed::Known if self.is_unheard(id) => None,
            FirstMissed::Known => Some(oldest.unwrap_or(now.time.max(self.stamper.floor()))),
            FirstMissed::Unknown => None,
        }
    }

    /// From here on the group's streams send neither record nor beacon, and keep nothing.
    pub(super) fn break_streams(&mut self, group: GroupId, ports: &mut impl Up<M>) {
        let ids: Vec<StreamId> = self.streams_of(group).map(|(id, _)| id).collect();
        for id in ids {
            self.forget_copies(id);
            let stream = self.streams.get_mut(&id).expect("just listed");
            let count = match stream.numbers {
                Numbers::Live(numbering) => self.stamper.close(numbering),
                Numbers::Ending(count) => count,
                Numbers::Broken(_) | Numbers::Drained(_) => continue,
            };
            stream.numbers = Numbers::Broken(count);
            stream.started = false;
            ports.stream_drop(stream.link, id);
        }
        self.discard_spill(group);
    }

    fn suspend_one(
        &mut self,
        now: Now,
        id: GroupId,
        suspension: Suspension,
        drain: Option<Drain>,
        ports: &mut impl Up<M>,
    ) {
        self.kill_jobs(now, |_, group| group == id);
        self.end_verify(id, Some(format!("the group was suspended: {}", suspension.reason)), ports);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let was_resyncing = group.resync().is_some();
        let drains = drain.is_some();
        ports.log(format_args!(
            "group {} suspended ({}): {}",
            group.config.name,
            suspension.state.code(),
            suspension.reason
        ));
        let reason = suspension.reason.clone();
        group.life = Life::Suspending(suspension);
        group.drain = drain;
        let (record, serial, members) = (group.record(), group.serial, group.pairs.clone());
        self.keep(&group_key(id), &record.encode(), Wait::GroupSuspended(id, serial), ports);
        self.schedule_attempt(now, id, was_resyncing);
        if !drains {
            self.tell_suspended(id, ports);
        }
        for pair_id in members {
            let Some(pair) = self.pairs.get_mut(&pair_id) else { continue };
            // What was in the queues may never arrive.
            pair.dirty.miss_all();
            pair.copy.stop();
            (pair.copy.end, pair.copy.is_told, pair.rejoin) = (None, false, Rejoin::Done);
            self.copying.remove(&pair_id);
            match (pair.is_opening(), pair.content) {
                (true, Content::Established) => pair.enter(Phase::Member, now.mono),
                (true, _) => self.fail_creation(pair_id, OperatorError::WrongState(reason.clone()), ports),
                (false, _) => {}
            }
        }
        self.release_delayed(id, ports);
        self.refresh_budget(self.groups[&id].budget, ports);
    }

    /// Tells the secondary, if it can be told now; it is told again at each session's start.
    pub(super) fn tell_suspended(&self, id: GroupId, ports: &mut impl Up<M>) {
        let group = &self.groups[&id];
        let Some(suspension) = group.suspension() else { return };
        if self.is_replaying(id) || group.drain.as_ref().is_some_and(|drain| drain.until > Mono(0)) {
            // It takes what is left first; then it is told.
            return;
        }
        if ports.session_is_up(group.config.link) {
            let (state, reason) = (suspension.state.code().to_string(), suspension.reason.clone());
            ports.send_message(group.config.link, Message::GroupSuspended { group: id, state, reason });
        }
    }

    /// The suspension is durable: hosts run on.
    pub(super) fn group_suspended(&mut self, id: GroupId, serial: u64) {
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.serial == serial) else { return };
        if let Life::Suspending(suspension) = &group.life {
            group.life = Life::Suspended(suspension.clone());
        }
        for pair in group.pairs.clone() {
            self.unpark(pair);
        }
        self.due = Mono(0);
    }

    /// Lets go all answers that the throttle holds back.
    pub(super) fn release_delayed(&mut self, id: GroupId, ports: &mut impl Up<M>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        for std::cmp::Reverse((_, key, serial)) in
            std::mem::take(&mut group.delayed).into_sorted_vec().into_iter().rev()
        {
            if self.is_answering(key, serial) {
                self.answer(key, ports);
            }
        }
    }

    /// Makes the group's record durable; nothing waits for it.
    pub(super) fn keep_group(&mut self, id: GroupId, ports: &mut impl Up<M>) {
        let record = self.groups[&id].record().encode();
        self.keep(&group_key(id), &record, Wait::Note, ports);
    }

    /// Suspends a pair that never was part of its group: it was not opened in time and its hosts cannot wait longer.
    pub(super) fn halt_pair(&mut self, now: Now, id: PairId, reason: String, ports: &mut impl Up<M>) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        ports.log(format_args!("pair {} suspended (PSUE): {reason}", pair.config.name));
        let told = matches!(pair.phase, Phase::Joining { .. } | Phase::Recording);
        pair.enter(Phase::Halting(reason.clone()), now.mono);
        let (record, serial) = (pair.record(), pair.serial);
        let ticket = pair.ticket.take();
        let name = pair.config.name.clone();
        if told {
            self.tell_left(id, ports);
        }
        self.keep(&pair_key(id), &record.encode(), Wait::PairHalted(id, serial), ports);
        if let Some((ticket, _)) = ticket {
            let error = OperatorError::TimedOut(format!("pair {name} exists, but is suspended (PSUE): {reason}"));
            ports.answer_operator(ticket, Err(error));
        }
    }

    /// A pair's own suspension is durable: its hosts run on.
    pub(super) fn pair_halted(&mut self, now: Now, id: PairId, serial: u64) {
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| pair.serial == serial) else { return };
        if let Phase::Halting(reason) = &pair.phase {
            let reason = reason.clone();
            pair.enter(Phase::Halted(reason), now.mono);
            self.unpark(id);
        }
    }

    /// The group's streams that are kept in memory, with their links.
    pub(super) fn streams_of(&self, group: GroupId) -> impl Iterator<Item = (StreamId, crate::types::LinkId)> + '_ {
        let feeding = self.streams.iter().filter(move |(_, stream)| stream.members.contains_key(&group));
        feeding.map(|(id, stream)| (*id, stream.link))
    }

    /// Takes the links' word for what a send buffer holds. Costs as much as there are streams.
    pub(super) fn refresh_budget(&mut self, key: BudgetKey, ports: &impl Up<M>) {
        let used: u64 = match key {
            BudgetKey::Shared(id) => {
                self.streams.get(&id).map_or(0, |stream| ports.stream_backlog(stream.link, id).bytes)
            }
            BudgetKey::Group(group) => {
                let feeding = self.streams.iter_mut().filter(|(_, stream)| stream.members.contains_key(&group));
                let links = feeding.map(|(id, stream)| {
                    stream.buffered_bytes = ports.stream_backlog(stream.link, *id).bytes;
                    stream.buffered_bytes
                });
                links.sum::<u64>() + self.spill_memory_bytes(group)
            }
        };
        if let Some(budget) = self.budgets.get_mut(&key) {
            budget.set_used(used);
        }
    }

    /// The link has got rid of some of a stream: takes its word for that stream alone.
    pub(super) fn refresh_stream(&mut self, id: StreamId, key: BudgetKey, ports: &impl Up<M>) {
        let BudgetKey::Group(group) = key else { return self.refresh_budget(key, ports) };
        if self.spills.contains_key(&group) {
            // What it keeps moves between memory, its device and the link.
            return self.refresh_budget(key, ports);
        }
        let (Some(stream), Some(budget)) = (self.streams.get_mut(&id), self.budgets.get_mut(&key)) else { return };
        let now_bytes = ports.stream_backlog(stream.link, id).bytes;
        let before_bytes = std::mem::replace(&mut stream.buffered_bytes, now_bytes);
        budget.gone(before_bytes.saturating_sub(now_bytes));
        debug_assert!(
            self.budgets[&key].used_bytes()
                >= self.streams_of(group).map(|(id, link)| ports.stream_backlog(link, id).bytes).sum(),
            "the send buffer holds more than it counts"
        );
    }

    /// How long answers are held back in this group now.
    pub(super) fn throttle_ns(&self, id: GroupId) -> u64 {
        let group = &self.groups[&id];
        let is_slowed = match group.life {
            Life::Running => group.config.overflow == Overflow::Throttle,
            // Whatever the policy: else a busy host would end every attempt.
            Life::Resyncing(_) => true,
            _ => false,
        };
        match is_slowed && group.fenced.is_none() {
            true => self.budgets[&group.budget].delay_ns(u64::from(group.config.throttle_ms_max) * 1_000_000),
            false => 0,
        }
    }

    /// Nobody depends on the stream any more: numbers begin anew, epochs go on.
    pub(super) fn forget_stream(&mut self, id: StreamId, ports: &mut impl Up<M>) {
        let mark = ports.recall(&stream_key(id)).and_then(|bytes| StreamMark::decode(&bytes));
        let Some(mark) = mark else { return };
        self.keep(&stream_key(id), &StreamMark::Forgotten { epoch: mark.epoch() }.encode(), Wait::Note, ports);
    }
}
