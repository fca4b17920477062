//! Pairs and groups end, and the whole engine comes to a clean stop.

use super::group::{CLOSED_MAX, Life};
use super::marks::kept_chunks;
use super::meta::{ClosedStream, StreamMark, group_key, pair_key, stream_key};
use super::pair::Phase;
use super::request::Stage;
use super::stream::Numbers;
use super::{Primary, Stopping, Up, Wait, Work};
use crate::engine::OperatorError;
use crate::message::Message;
use crate::ports::{DeviceError, HostError, LocalIo, Memory, OperatorAnswer, Ticket};
use crate::types::{GroupId, Mono, Now, PairId, StreamId, VolumeId};

impl<M: Memory> Primary<M> {
    pub(super) fn delete_group(&mut self, id: GroupId, ports: &mut impl Up<M>) -> Result<(), OperatorError> {
        let Some(group) = self.groups.get(&id) else {
            return Err(OperatorError::NotFound("there is no such group here".to_string()));
        };
        if !group.pairs.is_empty() {
            let names: Vec<&str> = group.pairs.iter().map(|pair| self.pairs[pair].config.name.as_str()).collect();
            return Err(OperatorError::WrongState(format!(
                "group {} has pairs: {}; delete them first",
                group.config.name,
                names.join(", ")
            )));
        }
        self.delete_spill(id, ports);
        let open: Vec<StreamId> = self.streams_of(id).map(|(stream, _)| stream).collect();
        for stream in open {
            self.leave_stream(id, stream, ports);
        }
        let Some(group) = self.groups.remove(&id) else { return Ok(()) };
        self.troubles.remove(&id);
        if let Some(budget) = self.budgets.get_mut(&group.budget) {
            budget.limit_bytes = budget.limit_bytes.saturating_sub(group.config.buffer_bytes);
        }
        if !self.groups.values().any(|other| other.budget == group.budget) {
            self.budgets.remove(&group.budget);
        }
        self.keep(&group_key(id), &[], Wait::Note, ports);
        Ok(())
    }

    pub(super) fn delete_pair(
        &mut self,
        now: Now,
        id: PairId,
        ticket: Ticket,
        ports: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        let Some(pair) = self.pairs.get_mut(&id) else {
            return Err(OperatorError::NotFound("there is no such pair here".to_string()));
        };
        let (name, group) = (pair.config.name.clone(), pair.config.group);
        self.part_obstacle(group)?;
        let pair = self.pairs.get_mut(&id).expect("looked up above");
        if pair.leaving.is_some() {
            return Err(OperatorError::WrongState(format!("pair {name} is being deleted already; wait for that")));
        }
        if !matches!(self.shutdown, Stopping::No) {
            return Err(OperatorError::WrongState(
                "the system is shutting down; delete the pair after its start".into(),
            ));
        }
        let group = pair.config.group;
        self.end_replay(group, ports);
        let Some(pair) = self.pairs.get_mut(&id) else { return Ok(()) };
        if pair.is_opening() {
            let error = OperatorError::WrongState(format!("pair {name} was deleted while it was being created"));
            self.fail_creation(id, error, ports);
            ports.answer_operator(ticket, Ok(OperatorAnswer::Deleted));
            return Ok(());
        }
        pair.leaving = Some((ticket, now.mono.after_ns(self.config.operator_wait_ns)));
        self.leaving.insert(id);
        self.due = Mono(0);
        let copies = matches!(pair.phase, Phase::Member) && self.groups[&self.pairs[&id].config.group].is_sending();
        // What is left of its copies is nobody's any more.
        self.kill_jobs(now, |pair, _| pair == id);
        self.verify_without(self.pairs[&id].config.group, id);
        self.copying.remove(&id);
        if !copies {
            self.fail_waiting(id, HostError::Aborted, ports);
        }
        Ok(())
    }

    /// Ends a pair that is being deleted if nothing of it is left. Returns when to give up.
    pub(super) fn try_leave(&mut self, now: Now, id: PairId, ports: &mut impl Up<M>) -> Option<Mono> {
        let pair = self.pairs.get(&id)?;
        let (ticket, deadline) = pair.leaving?;
        let obstacle = self.leave_obstacle(id, ports);
        match obstacle {
            None => {
                self.remove_pair(id, ports);
                ports.answer_operator(ticket, Ok(OperatorAnswer::Deleted));
                None
            }
            Some(obstacle) if now.mono >= deadline => {
                let pair = self.pairs.get_mut(&id)?;
                pair.leaving = None;
                self.leaving.remove(&id);
                pair.copy.stop();
                self.copying.insert(id);
                let pair = self.pairs.get_mut(&id)?;
                let text = format!("pair {} was not deleted and goes on as before: {obstacle}", pair.config.name);
                ports.answer_operator(ticket, Err(OperatorError::TimedOut(text)));
                None
            }
            Some(_) => Some(deadline),
        }
    }

    /// What still has to happen before the pair can go.
    pub(super) fn leave_obstacle(&self, id: PairId, ports: &impl Up<M>) -> Option<String> {
        let pair = &self.pairs[&id];
        let group = &self.groups[&pair.config.group];
        if pair.requests > 0 {
            return Some(format!("{} host requests are not finished", pair.requests));
        }
        if !group.is_sending() || !matches!(pair.phase, Phase::Member) {
            return None;
        }
        let stream = self.streams.get(&pair.stream)?;
        let last = pair.last_stamp.filter(|_| pair.last_epoch == stream.epoch).map(|stamp| stamp.seq);
        if last.is_some_and(|last| last > stream.durable) {
            return Some(
                "the secondary does not have all its records yet; wait for the link, or suspend the group (group_suspend) \
                 and delete the pair then"
                    .to_string(),
            );
        }
        match ports.session_is_up(group.config.link) {
            true => None,
            false => Some("the link is down, so that the secondary cannot be told; wait for the link".to_string()),
        }
    }

    /// A pair that is being created cannot be: its operator is told, nothing of it stays.
    pub(super) fn fail_creation(&mut self, id: PairId, error: OperatorError, ports: &mut impl Up<M>) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        if let Some((ticket, _)) = pair.ticket.take() {
            ports.answer_operator(ticket, Err(error));
        }
        self.remove_pair(id, ports);
    }

    /// Tells the secondary that no record of the pair follows.
    pub(super) fn tell_left(&self, id: PairId, ports: &mut impl Up<M>) {
        let pair = &self.pairs[&id];
        let group = &self.groups[&pair.config.group];
        if ports.session_is_up(group.config.link) {
            let at = self.stamper.floor().after_ns(1);
            ports.send_message(group.config.link, Message::LeavePair { group: pair.config.group, pair: id, at });
        }
    }

    /// Forgets a pair. Reads that the device still holds are answered when they come back.
    fn remove_pair(&mut self, id: PairId, ports: &mut impl Up<M>) {
        self.fail_waiting(id, HostError::Aborted, ports);
        if matches!(self.pairs[&id].phase, Phase::Member | Phase::Joining { .. } | Phase::Recording) {
            self.tell_left(id, ports);
        }
        self.orphan_jobs(id);
        self.copying.remove(&id);
        self.leaving.remove(&id);
        let Some(pair) = self.pairs.remove(&id) else { return };
        let is_ghost = |stage: &Stage<M>| matches!(stage, Stage::Ghost);
        self.requests.retain(|_, request| !(request.pair_serial == pair.serial && is_ghost(&request.stage)));
        let requests = &self.requests;
        let jobs = &self.jobs;
        self.ready.retain(|work| match work {
            Work::Host(key) => requests.contains(*key),
            Work::Job(key) => jobs.contains(*key),
        });
        self.out_of_lease.retain(|key| requests.contains(*key));
        // First the record: without it the chunks mean nothing.
        self.keep(&pair_key(id), &[], Wait::Note, ports);
        self.keep(&crate::identity::key(id), &[], Wait::Note, ports);
        for key in kept_chunks::<M>(id, &pair.dirty, ports) {
            self.keep(&key, &[], Wait::Note, ports);
        }
        let group_id = pair.config.group;
        let group = self.groups.get_mut(&group_id).expect("a pair's group exists");
        group.pairs.remove(&id);
        let was_known = group.known.remove(&id).is_some();
        if was_known {
            self.keep_group(group_id, ports);
        }
        let group = &self.groups[&group_id];
        let is_used = group.pairs.iter().any(|other| self.pairs[other].stream == pair.stream);
        // A group cannot come back into an epoch that it left, so it stays in a stream that goes on with others, until
        // it is deleted.
        let goes_on =
            self.streams.get(&pair.stream).is_some_and(|stream| !stream.is_broken() && stream.members.len() > 1);
        if !is_used && !goes_on {
            self.leave_stream(group_id, pair.stream, ports);
        }
        let group = self.groups.get_mut(&group_id).expect("looked up above");
        // Not while a pair of before was not created again: its volume still lacks there what it lacks.
        if group.pairs.is_empty() && group.known.is_empty() && !group.is_running() && group.fenced.is_none() {
            // All that the secondary may lack was deleted: the group starts anew.
            (group.life, group.is_resyncing) = (Life::Running, false);
            (group.split_brain, group.rival) = (false, None);
            let budget = group.budget;
            if let Some(budget) = self.budgets.get_mut(&budget) {
                budget.is_copying = false;
            }
            self.abandon_drain(group_id, ports);
            self.keep_group(group_id, ports);
        }
    }

    /// The group has no pair in the stream any more.
    fn leave_stream(&mut self, group_id: GroupId, id: StreamId, ports: &mut impl Up<M>) {
        self.spill_forget(group_id, id);
        let Some(stream) = self.streams.get_mut(&id) else {
            // Suspended before this process started, so never opened by it.
            let is_shared = self.pairs.values().any(|pair| pair.stream == id);
            if !is_shared {
                self.forget_stream(id, ports);
            }
            return;
        };
        if stream.members.len() == 1 {
            self.forget_copies(id);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let member = stream.members.remove(&group_id);
        self.groups.get_mut(&group_id).expect("looked up by the caller").opened.remove(&id);
        let was_open = member.is_some_and(|member| member.opened || member.was_asked);
        let count = stream.count(&self.stamper);
        let (link, epoch, is_broken) = (stream.link, stream.epoch, stream.is_broken());
        if was_open && !is_broken {
            let closed = ClosedStream { stream: id, epoch, end: count.last, end_time: count.floor };
            let group = self.groups.get_mut(&group_id).expect("looked up by the caller");
            group.closed.push(closed);
            if group.closed.len() > CLOSED_MAX {
                group.closed.remove(0);
            }
            self.keep_group(group_id, ports);
            if ports.session_is_up(link) {
                let (end, end_time) = (closed.end, closed.end_time);
                let message = Message::CloseStream { group: group_id, stream: id, epoch, end, end_time };
                ports.send_message(link, message);
            }
        }
        let groups = &self.groups;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if is_broken {
            stream.members.retain(|group, _| !groups[group].pairs.is_empty());
        }
        if stream.members.is_empty() {
            if let Some(Numbers::Live(numbering)) = self.streams.remove(&id).map(|stream| stream.numbers) {
                self.stamper.close(numbering);
                ports.stream_drop(link, id);
            }
            let is_used = self.pairs.values().any(|pair| pair.stream == id);
            if !is_used {
                self.forget_stream(id, ports);
            }
        }
        let key = self.groups[&group_id].budget;
        self.refresh_budget(key, ports);
    }

    pub(super) fn begin_shutdown(&mut self, now: Now, ports: &mut impl Up<M>) {
        if !matches!(self.shutdown, Stopping::No) {
            return;
        }
        let deadline = now.mono.after_ns(self.config.shutdown_wait_ns);
        self.shutdown = Stopping::Draining { deadline, marks: 0 };
        self.kill_jobs(now, |_, _| true);
        for id in self.groups.keys().copied().collect::<Vec<_>>() {
            self.abandon_drain(id, ports);
            self.end_verify(id, Some("the system was shut down".to_string()), ports);
        }
        // Writes that wait for a pair to be opened would be the first to be stamped: they are given back.
        for id in self.pairs.keys().copied().collect::<Vec<_>>() {
            let pair = self.pairs.get_mut(&id).expect("just listed");
            if let Some((ticket, _)) = pair.ticket.take() {
                let text = format!("pair {} is not created: the system is shutting down", pair.config.name);
                ports.answer_operator(ticket, Err(OperatorError::WrongState(text)));
            }
            if !self.groups[&self.pairs[&id].config.group].is_sending() || self.pairs[&id].is_opening() {
                self.fail_waiting(id, HostError::Aborted, ports);
            }
        }
        self.due = Mono(0);
    }

    /// Marks the streams drained that are, and ends the shutdown when there is nothing left to wait for.
    pub(super) fn try_stop(&mut self, now: Now, ports: &mut impl Up<M>) {
        let Stopping::Draining { deadline, .. } = self.shutdown else { return };
        let is_over = now.mono >= deadline;
        let mut undrained = Vec::new();
        if self.requests.is_empty() || is_over {
            for id in self.streams.keys().copied().collect::<Vec<_>>() {
                if !self.mark_drained(id, ports) {
                    undrained.push(id);
                }
            }
        }
        let Stopping::Draining { marks, .. } = self.shutdown else { return };
        let may_drain = undrained.iter().any(|id| !self.streams[id].flush_failed);
        let is_quiet = self.requests.is_empty() && !may_drain && marks == 0;
        if is_quiet || is_over {
            self.shutdown = Stopping::Done { undrained };
        }
    }

    /// `false` if the stream has records that the secondary may lack, or that a local volume may lose.
    fn mark_drained(&mut self, id: StreamId, ports: &mut impl Up<M>) -> bool {
        let feeds_nothing_more = self.requests.iter().all(|(_, request)| !self.feeds(request.pair, id));
        let stream = self.streams.get_mut(&id).expect("just listed");
        let Numbers::Live(numbering) = stream.numbers else {
            // Broken: its groups are durably suspended, there is nothing to prove. Or drained: its mark was asked for when
            // the last flush ended.
            return stream.flushes == 0 && !stream.flush_failed;
        };
        if !stream.is_marked {
            return true;
        }
        let count = self.stamper.count(numbering);
        if stream.durable != count.last || !feeds_nothing_more {
            return false;
        }
        stream.numbers = Numbers::Drained(self.stamper.close(numbering));
        // The secondary has it all on its disks; the mark says that the volumes here are equal, so they must have it too.
        let volumes: Vec<VolumeId> =
            self.pairs.values().filter(|pair| pair.stream == id).map(|pair| pair.config.volume).collect();
        stream.flushes = volumes.len();
        if volumes.is_empty() {
            self.keep_drained(id, ports);
            return true;
        }
        for volume in volumes {
            let token = self.token(Wait::DrainFlush(id));
            ports.local(volume, LocalIo::Flush, token);
        }
        false
    }

    /// A volume of a drained stream was flushed, or could not be.
    pub(super) fn drain_flushed(&mut self, id: StreamId, result: Result<(), DeviceError>, ports: &mut impl Up<M>) {
        self.due = Mono(0);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.flushes -= 1;
        if let Err(error) = result {
            stream.flush_failed = true;
            ports.log(format_args!(
                "a volume could not be flushed at the shutdown ({error}): its pairs come up suspended (PSUE) after the \
                 start; check the volume's device"
            ));
        }
        if stream.flushes == 0 && !stream.flush_failed {
            self.clear_drained(id, ports);
            self.keep_drained(id, ports);
        }
    }

    /// Both sites hold the same on their disks: marks are not needed any more. Made durable before "drained" is: a start
    /// that finds that finds no marks.
    fn clear_drained(&mut self, id: StreamId, ports: &mut impl Up<M>) {
        let pairs: Vec<PairId> =
            self.pairs.iter().filter(|(_, pair)| pair.stream == id).map(|(pair, _)| *pair).collect();
        for pair in pairs {
            let dirty = &mut self.pairs.get_mut(&pair).expect("just listed").dirty;
            if dirty.missing_bytes() == 0 {
                dirty.clear_all();
                self.keep_marks_of(pair, ports);
            }
        }
    }

    /// The stream's records are on the disks of both sites: that is made durable, unless the shutdown ended before.
    fn keep_drained(&mut self, id: StreamId, ports: &mut impl Up<M>) {
        let Stopping::Draining { marks, .. } = &mut self.shutdown else { return };
        *marks += 1;
        let stream = &self.streams[&id];
        let mark = StreamMark::Drained { epoch: stream.epoch, last: stream.count(&self.stamper).last };
        self.keep(&stream_key(id), &mark.encode(), Wait::Drained, ports);
    }

    fn feeds(&self, pair: PairId, stream: StreamId) -> bool {
        self.pairs.get(&pair).is_some_and(|pair| pair.stream == stream)
    }

    pub(super) fn drained_durable(&mut self) {
        if let Stopping::Draining { marks, .. } = &mut self.shutdown {
            *marks = marks.saturating_sub(1);
        }
        self.due = Mono(0);
    }
}
