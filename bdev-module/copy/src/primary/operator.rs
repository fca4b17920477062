//! What operators ask of a group that exists: to suspend it, and to resync it.

use super::group::{Drain, Life};
use super::meta::{StreamMark, Suspension, group_key, pair_key, stream_key};
use super::pair::Phase;
use super::stream::Numbers;
use super::suspend::FirstMissed;
use super::{Primary, Stopping, Up, Wait};
use crate::engine::OperatorError;
use crate::ports::{Memory, OperatorAnswer, Ticket};
use crate::types::{GroupId, Mono, Now, PairId, PairState, StreamId};

impl<M: Memory> Primary<M> {
    fn is_there(&self, id: GroupId) -> Result<(), OperatorError> {
        if !self.groups.contains_key(&id) {
            return Err(OperatorError::NotFound("there is no such group here".to_string()));
        }
        match self.shutdown {
            Stopping::No => self.part_obstacle(id),
            _ => Err(OperatorError::WrongState("the system is shutting down; try again after its start".to_string())),
        }
    }

    pub(super) fn suspend_by_operator(
        &mut self,
        now: Now,
        id: GroupId,
        ticket: Ticket,
        ports: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        self.is_there(id)?;
        let group = &self.groups[&id];
        let name = group.config.name.clone();
        let wrong = |text: String| Err(OperatorError::WrongState(text));
        if let Some(newer) = group.fenced {
            return wrong(format!("group {name} is fenced (generation {}); it sends nothing any more", newer.number));
        }
        if let Some(suspension) = group.suspension() {
            if suspension.auto && suspension.state != PairState::TakenOver {
                self.stay_suspended(id, ticket, ports);
                return Ok(());
            }
            return wrong(format!(
                "group {name} is suspended already ({}: {})",
                suspension.state.code(),
                suspension.reason
            ));
        }
        if !group.pairs.iter().any(|pair| matches!(self.pairs[pair].phase, Phase::Member)) {
            return wrong(format!("group {name} has no pair that copies; there is nothing to suspend"));
        }
        // What a resync has sent so far is no image: it is not worth to wait for it.
        let is_whole = group.is_running();
        let link = group.config.link;
        let drains = is_whole && ports.session_is_up(link);
        let at = self.stamper.floor();
        if drains {
            self.end_streams(now, id, ports);
        }
        let reason = "suspended by the operator; group_resync goes on".to_string();
        // Until it is drained; in a resync the image stays the one from before it.
        let first_missed = self.first_missed(now, id, FirstMissed::Known, ports);
        let suspension = Suspension { state: PairState::SuspendedOperator, reason, first_missed, auto: false };
        let drain = Drain { ticket: None, at, until: now.mono.after_ns(self.config.operator_wait_ns) };
        self.suspend_all(now, id, suspension, drains.then_some(drain), ports);
        let group = self.groups.get_mut(&id).expect("looked up above");
        match &mut group.drain {
            Some(drain) => drain.ticket = Some(ticket),
            // Answered when it is durable: nothing to wait for at the secondary.
            None => group.drain = Some(Drain { ticket: Some(ticket), at, until: Mono(0) }),
        }
        self.due = Mono(0);
        Ok(())
    }

    /// A group that would be resynced by itself waits for the operator from here on, and so do those whose resyncs go
    /// together with its. The ticket is answered when that is durable.
    fn stay_suspended(&mut self, id: GroupId, ticket: Ticket, ports: &mut impl Up<M>) {
        let at = self.stamper.floor();
        for other in self.together(id) {
            self.abandon_drain(other, ports);
            let group = self.groups.get_mut(&other).expect("just listed");
            let Some(was) = group.suspension().filter(|it| it.auto && it.state != PairState::TakenOver).cloned() else {
                continue;
            };
            let (state, before) = (PairState::SuspendedOperator, was.state.code());
            let reason =
                format!("suspended by the operator; group_resync goes on (before, it was {before}: {})", was.reason);
            ports.log(format_args!("group {} stays suspended: {reason}", group.config.name));
            group.life = Life::Suspending(Suspension { state, reason, auto: false, ..was });
            group.next_attempt = None;
            if other == id {
                group.drain = Some(Drain { ticket: Some(ticket), at, until: Mono(0) });
            }
            let (record, serial) = (group.record().encode(), group.serial);
            self.keep(&group_key(other), &record, Wait::GroupSuspended(other, serial), ports);
            self.tell_suspended(other, ports);
        }
        self.due = Mono(0);
    }

    /// No new numbers: what was stamped is still sent, and that there is no more up to now. One time for all streams.
    fn end_streams(&mut self, now: Now, id: GroupId, ports: &mut impl Up<M>) {
        let at = self.stamper.floor();
        let streams: Vec<StreamId> = self.streams_of(id).map(|(stream, _)| stream).collect();
        for id in streams {
            let stream = self.streams.get_mut(&id).expect("just listed");
            if let Numbers::Live(numbering) = stream.numbers {
                let mut count = self.stamper.close(numbering);
                count.floor = at;
                stream.numbers = Numbers::Ending(count);
                stream.last_sent = Mono(0);
            }
            self.beacon(now, id, ports);
        }
    }

    /// Ends an operator's suspension that is drained, or will not be in time. Returns when to look again.
    pub(super) fn tend_drain(&mut self, now: Now, id: GroupId, ports: &mut impl Up<M>) -> Option<Mono> {
        let group = self.groups.get(&id)?;
        let drain = group.drain.as_ref()?;
        let until = drain.until;
        if !matches!(group.life, Life::Suspended(_)) {
            return Some(until);
        }
        let mut streams = self.streams.values().filter(|stream| stream.members.contains_key(&id)).peekable();
        let is_drained = streams.peek().is_some() && streams.all(|stream| stream.is_drained(&self.stamper));
        if is_drained && until > Mono(0) {
            self.end_drain(id, true, ports);
            return None;
        }
        if now.mono >= until || !ports.session_is_up(group.config.link) {
            self.end_drain(id, false, ports);
            return None;
        }
        Some(until)
    }

    /// A drain comes to nothing, for whatever reason.
    pub(super) fn abandon_drain(&mut self, id: GroupId, ports: &mut impl Up<M>) {
        if self.groups.get(&id).is_some_and(|group| group.drain.is_some()) {
            self.end_drain(id, false, ports);
        }
    }

    fn end_drain(&mut self, id: GroupId, is_drained: bool, ports: &mut impl Up<M>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(drain) = group.drain.take() else { return };
        let did_drain = drain.until > Mono(0);
        let unsent = self.streams_of(id).filter_map(|(stream, link)| ports.stream_backlog(link, stream).oldest).min();
        let unsent = [unsent, self.spilled_since(id)].into_iter().flatten().min().filter(|_| !is_drained);
        // *Another primary's resync held the image back; this one was drained, and its lag counted from the suspension,
        // though a takeover would have lost all since the image.*
        let first = match self.is_unheard(id) {
            true => None,
            false => [unsent, self.held(id), Some(drain.at)].into_iter().flatten().min(),
        };
        let streams: Vec<StreamId> = self.streams_of(id).map(|(stream, _)| stream).collect();
        for stream_id in streams {
            let stream = &self.streams[&stream_id];
            if is_drained {
                let last = stream.count(&self.stamper).last;
                let mark = StreamMark::Drained { epoch: stream.epoch, last };
                self.keep(&stream_key(stream_id), &mark.encode(), Wait::Note, ports);
            }
        }
        let group = self.groups.get_mut(&id).expect("looked up above");
        if let (Life::Suspended(suspension) | Life::Suspending(suspension), true, false) =
            (&mut group.life, did_drain, group.is_resyncing)
        {
            suspension.first_missed = first;
            self.keep_group(id, ports);
        }
        if did_drain && !is_drained {
            // *Two groups of one stream were suspended, the link broke; the first one's end broke the stream and emptied its
            // buffer, and the second one's lag counted from the suspension only.*
            for other in self.together(id) {
                self.abandon_drain(other, ports);
            }
        }
        if did_drain {
            self.break_streams(id, ports);
            self.tell_suspended(id, ports);
        }
        if let Some(ticket) = drain.ticket {
            ports.answer_operator(ticket, Ok(OperatorAnswer::Suspended { at: drain.at, drained: is_drained }));
        }
    }

    pub(super) fn resync_by_operator(
        &mut self,
        now: Now,
        id: GroupId,
        full: bool,
        ports: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        self.is_there(id)?;
        let group = &self.groups[&id];
        let name = group.config.name.clone();
        let wrong = |text: String| Err(OperatorError::WrongState(text));
        if let Some(resync) = group.resync() {
            return wrong(format!(
                "group {name} is being resynced already (unit {}); group_get shows how far",
                resync.unit
            ));
        }
        let Life::Suspended(suspension) = &group.life else {
            return wrong(match group.suspension() {
                Some(_) => format!("group {name} is just being suspended; try again"),
                None => format!("group {name} is not suspended: there is nothing to resync"),
            });
        };
        if let Some(obstacle) = self.resync_obstacle(id) {
            return wrong(obstacle);
        }
        let members: Vec<PairId> =
            group.pairs.iter().filter(|pair| matches!(self.pairs[pair].phase, Phase::Member)).copied().collect();
        if members.is_empty() {
            return wrong(format!("group {name} has no established pair; delete its pairs and create them again"));
        }
        let suspension = Suspension { auto: true, ..suspension.clone() };
        if full {
            for pair_id in &members {
                let pair = self.pairs.get_mut(pair_id).expect("just listed");
                pair.dirty.miss_everything(false);
                (pair.keeps_image, pair.is_copying) = (pair.has_image(), true);
                let record = pair.record().encode();
                // The marks first: a start that finds the pair copying finds them.
                self.keep_marks_of(*pair_id, ports);
                self.keep(&pair_key(*pair_id), &record, Wait::Note, ports);
            }
        }
        let group = self.groups.get_mut(&id).expect("looked up above");
        group.life = Life::Suspended(suspension);
        group.next_attempt = Some(now.mono);
        self.keep_group(id, ports);
        self.due = Mono(0);
        Ok(())
    }
}
