//! Streams are opened at the secondary and pairs join it: what is asked in each session, and what the answers mean.
//!
//! Every request may be repeated; the secondary answers each alike. They are repeated until they are answered.

use super::group::Life;
use super::handover::HandOver;
use super::meta::{StreamMark, pair_key, stream_key};
use super::pair::{Phase, Rejoin};
use super::stream::{Numbers, Stream};
use super::suspend::FirstMissed;
use super::{Primary, Stopping, Up, Wait};
use crate::engine::OperatorError;
use crate::identity;
use crate::keys::next_key;
use crate::message::{Content, JoinPair, Message, OpenStream, Refusal, StreamOpened, Subject};
use crate::ports::{Memory, OperatorAnswer};
use crate::types::{Epoch, GroupId, Initial, LinkId, Mono, Now, PairId, PairState, Seq, StreamId};
use std::collections::{BTreeMap, BTreeSet};

/// How far ahead of the timeline a secondary may ask the next stamps to be. Writes wait until the timeline is there.
const BASE_TIME_AHEAD_NS_MAX: u64 = 5_000_000_000;

impl<M: Memory> Primary<M> {
    pub(super) fn session_up(&mut self, now: Now, link: LinkId, ports: &mut impl Up<M>) {
        self.session_down(now, link);
        let groups: Vec<GroupId> =
            self.groups.iter().filter(|(_, group)| group.config.link == link).map(|(id, _)| *id).collect();
        for id in groups {
            self.say_hand_over(id, ports);
            self.tell_suspended(id, ports);
            for closed in &self.groups[&id].closed {
                let (stream, epoch, end, end_time) = (closed.stream, closed.epoch, closed.end, closed.end_time);
                ports.send_message(link, Message::CloseStream { group: id, stream, epoch, end, end_time });
            }
        }
        let streams: Vec<StreamId> =
            self.streams.iter().filter(|(_, stream)| stream.link == link).map(|(id, _)| *id).collect();
        for stream in streams {
            self.ask_to_open(now, stream, ports);
        }
    }

    pub(super) fn session_down(&mut self, now: Now, link: LinkId) {
        self.unsay_hand_overs(link);
        for stream in self.streams.values_mut().filter(|stream| stream.link == link) {
            stream.lose_session();
        }
        for pair in self.pairs.values_mut() {
            if self.groups[&pair.config.group].config.link == link {
                pair.copy.is_told = false;
                pair.joins = Default::default();
                if pair.rejoin != Rejoin::Done {
                    pair.rejoin = Rejoin::Due { asked: None, put_off: None };
                }
            }
            let is_joining = matches!(pair.phase, Phase::Joining { .. });
            if is_joining && self.groups[&pair.config.group].config.link == link {
                pair.enter(Phase::Opening, now.mono);
            }
        }
        let ids: Vec<GroupId> =
            self.groups.iter().filter(|(_, group)| group.config.link == link).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(Life::Resyncing(resync)) = self.groups.get_mut(&id).map(|group| &mut group.life) {
                resync.is_told = false;
            }
            self.verify_lost_session(id);
        }
        // Their answers are lost: what they ask about is copied.
        let meant: BTreeSet<PairId> = self
            .pairs
            .iter()
            .filter(|(_, pair)| self.groups[&pair.config.group].config.link == link)
            .map(|(id, _)| *id)
            .collect();
        self.give_up_asking(now, |pair| meant.contains(&pair), true);
        self.due = Mono(0);
    }

    /// The stream's epoch is durable: the secondary may be told of it.
    pub(super) fn epoch_durable(&mut self, now: Now, id: StreamId, epoch: Epoch, ports: &mut impl Up<M>) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.epoch == epoch) {
            stream.epoch_is_durable = true;
            self.ask_to_open(now, id, ports);
            // Asked outside of the regular look: it has to be repeated if it is put off.
            self.due = Mono(0);
        }
    }

    /// Asks for every group that waits for it. Returns when to ask again.
    pub(super) fn ask_to_open(&mut self, now: Now, id: StreamId, ports: &mut impl Up<M>) -> Option<Mono> {
        let stopping = !matches!(self.shutdown, Stopping::No);
        let stream = self.streams.get_mut(&id)?;
        // A clean shutdown opens nothing new, but goes on with what has to drain.
        let may_ask = stream.epoch_is_durable && stream.sends() && (stream.is_marked || !stopping);
        if !may_ask || !ports.session_is_up(stream.link) {
            return None;
        }
        let mut again: Option<Mono> = None;
        // A group that is handed over says nothing but that.
        let is_told = |id: &GroupId| self.handovers.get(id).is_some_and(HandOver::is_told);
        let unanswered = stream.members.iter_mut().filter(|(_, member)| member.answered.is_none());
        for (group_id, member) in unanswered.filter(|(id, _)| !is_told(id)) {
            let at = member.asked.map(|asked| asked.after_ns(self.config.retry_ns));
            if let Some(at) = at.filter(|at| now.mono < *at) {
                again = Some(again.map_or(at, |again| again.min(at)));
                continue;
            }
            (member.asked, member.was_asked) = (Some(now.mono), true);
            let acknowledged = *member.acknowledged.get_or_insert(stream.durable);
            let at = now.mono.after_ns(self.config.retry_ns);
            again = Some(again.map_or(at, |again| again.min(at)));
            let group = &self.groups[group_id];
            let open = OpenStream {
                group: *group_id,
                group_name: group.config.name.clone(),
                generation: group.generation,
                stream: id,
                scope: stream.scope,
                epoch: stream.epoch,
                base: stream.base,
                base_time: stream.base_time,
                acknowledged,
                drained: stream.drained,
                unit: stream.units.get(group_id).copied(),
                strand: 0,
            };
            ports.send_message(stream.link, Message::OpenStream(open));
        }
        again
    }

    pub(super) fn take_message(&mut self, now: Now, link: LinkId, message: Message, ports: &mut impl Up<M>) {
        let group = match &message {
            Message::StreamOpened(opened) => opened.group,
            Message::PairJoined { group, .. }
            | Message::Resized { group, .. }
            | Message::Refused { group, .. }
            | Message::Fenced { group, .. }
            | Message::CopyDone { group, .. }
            | Message::Differs { group, .. }
            | Message::DigestAnswer { group, .. }
            | Message::Verified { group, .. }
            | Message::HandedOver { group, .. }
            | Message::Trouble { group, .. } => *group,
            _ => return,
        };
        if self.groups.get(&group).is_none_or(|known| known.config.link != link) {
            return;
        }
        match message {
            Message::StreamOpened(opened) => self.stream_opened(now, opened, ports),
            Message::PairJoined { group, pair } => self.pair_joined(now, group, pair, ports),
            Message::Refused { group, subject, refusal, text } => {
                self.refused(now, group, subject, refusal, text, ports)
            }
            Message::Resized { pair, blocks, .. } => self.resized(pair, blocks, ports),
            Message::Fenced { group, generation } => self.take_fenced(now, group, generation, ports),
            Message::CopyDone { group, copy } => self.copy_done(group, copy, ports),
            Message::Differs { group, pair, extents } => self.take_differs(group, pair, &extents),
            Message::DigestAnswer { pair, ask, differing, .. } => self.asked_answered(now, pair, ask, differing),
            Message::Verified { group, stream, seq, differing, .. } => {
                self.take_verified(now, group, (stream, seq), differing);
            }
            Message::HandedOver { group, generation } => self.handed_over(now, group, generation, ports),
            Message::Trouble { group, pair, text } => self.take_trouble(now, group, pair, text, ports),
            _ => {}
        }
    }

    fn stream_opened(&mut self, now: Now, opened: StreamOpened, ports: &mut impl Up<M>) {
        let StreamOpened { group: group_id, generation, stream: id, epoch, durable, base_time, held } = opened;
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        let known = group.generation;
        if known.number > 0 && generation.number > known.number {
            return self.take_fenced(now, group_id, generation, ports);
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.epoch == epoch) else { return };
        let has_ended = !stream.sends();
        stream.believe(durable);
        let last = stream.count(&self.stamper).last;
        // A group that joins a running stream has no records below; all others have what was acknowledged.
        let before = stream.base.previous();
        let Some(member) = stream.members.get_mut(&group_id) else { return };
        let Some(acknowledged) = member.acknowledged else { return };
        if has_ended || member.answered.is_some() {
            return;
        }
        let name = &group.config.name;
        let fault = if known.number > 0 && generation != known {
            let text = format!(
                "group {name} is at generation {} ({:016x}) here and {} ({:016x}) at the secondary: its data is of \
                 another history; delete the group at both sites and create it again",
                known.number, known.id, generation.number, generation.id
            );
            Some((text, false))
        } else if base_time > now.time.after_ns(BASE_TIME_AHEAD_NS_MAX) {
            let text = format!(
                "group {name}: the secondary holds history up to {} s ahead of this system's timeline; correct the \
                 clocks of both systems, it goes on then",
                base_time.since_ns(now.time) / 1_000_000_000
            );
            Some((text, true))
        } else if durable > last {
            Some((format!("group {name}: the secondary reports number {durable}, the last one given is {last}"), false))
        } else if durable < if member.opened { acknowledged } else { before } {
            // Marks were cleared for what it had acknowledged: only all of the volumes bring it back.
            let text = format!(
                "group {name}: the secondary has lost data: it had acknowledged number {acknowledged} and now has \
                 {durable}; group_resync with full copies all of it again"
            );
            Some((text, false))
        } else {
            None
        };
        if let Some((reason, passes)) = fault {
            self.misdeeds += 1;
            return self.end_opening(now, group_id, reason, passes, ports);
        }
        // A resync stamps before the answer. *The streams of a group that had come back as a secondary were opened one by one;
        // the first one's tip moved the limit, and the next one had stamped before it already.*
        let is_first_answer = !member.opened && stream.units.contains_key(&group_id);
        if is_first_answer && last >= stream.base && base_time > stream.base_time {
            let reason =
                format!("group {name}: the secondary went on to {base_time} before it had all streams of the resync");
            return self.end_opening(now, group_id, reason, true, ports);
        }
        (member.opened, member.answered, member.put_off) = (true, Some(durable), None);
        stream.held = Some(held);
        self.stamper.raise(base_time);
        if known.number == 0 {
            group.generation = generation;
            self.keep_group(group_id, ports);
        }
        self.start_stream(id, ports);
        let pairs = self.groups[&group_id].pairs.iter().copied();
        // Those of other streams are told with theirs: *256 streams of one group, each telling of all 256 pairs, were more
        // messages than a session holds; it ended, and so did every one after it.*
        let fed: Vec<PairId> = pairs.filter(|pair| self.pairs[pair].stream == id).collect();
        for pair in fed {
            self.tell_identity(pair, ports);
            self.tell_size(pair, ports);
            self.join_pair(now, pair, ports);
        }
        self.due = Mono(0);
    }

    /// Says under which identity hosts see the volume of a pair that is about to be created, if it has none from before.
    pub fn identify<U>(&mut self, pair: PairId, identity: [u8; 16], ports: &mut U)
    where
        U: super::Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        if identity::of_pair(pair, ports).is_none() {
            self.set_identity(pair, identity, ports);
        }
    }

    /// The pair's volume has this identity from here on.
    pub(super) fn set_identity(&mut self, pair: PairId, identity: [u8; 16], ports: &mut impl Up<M>) {
        if identity::of_pair(pair, ports) != Some(identity) {
            self.keep(&identity::key(pair), &identity::encode(identity), Wait::Note, ports);
            ports.volume_changed(pair);
        }
    }

    /// Says the volume's identity, if there is one.
    fn tell_identity(&self, id: PairId, ports: &mut impl Up<M>) {
        let Some(identity) = identity::of_pair(id, ports) else { return };
        let Some(pair) = self.pairs.get(&id) else { return };
        let group = pair.config.group;
        ports.send_message(self.groups[&group].config.link, Message::Identity { group, pair: id, identity });
    }

    /// Lets records flow once all groups that may have some in the stream are open again.
    fn start_stream(&mut self, id: StreamId, ports: &mut impl Up<M>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.started {
            return;
        }
        let Some(durable) = stream.resume_from() else { return };
        let durable = durable.max(stream.durable);
        let first = stream.members.iter().find(|(_, member)| member.opened);
        let Some((group, _)) = first else { return };
        let generation = self.groups[group].generation;
        stream.started = true;
        // A beacon soon: the secondary's tip may be old.
        stream.last_sent = Mono(0);
        if stream.is_replay {
            stream.durable = durable;
            ports.stream_replay(stream.link, id, stream.epoch, generation, durable);
            return;
        }
        ports.stream_start(stream.link, id, stream.epoch, generation, durable);
    }

    /// Tells the secondary of a pair whose stream is open. Returns when to tell it again.
    pub(super) fn join_pair(&mut self, now: Now, id: PairId, ports: &mut impl Up<M>) -> Option<Mono> {
        let pair = self.pairs.get_mut(&id)?;
        let group = &self.groups[&pair.config.group];
        let answered = self.streams.get(&pair.stream)?.members.get(&pair.config.group)?.answered;
        if answered.is_none() || !matches!(self.shutdown, Stopping::No) {
            return None;
        }
        if matches!(pair.phase, Phase::Opening) {
            pair.enter(Phase::Joining { asked: None, put_off: None }, now.mono);
        }
        let content = pair.content_told();
        let asked = match (&mut pair.phase, &mut pair.rejoin) {
            (Phase::Joining { asked, .. }, _) => asked,
            (Phase::Member, Rejoin::Due { asked, .. }) if group.resync().is_some() => asked,
            _ => return None,
        };
        if let Some(at) = asked.map(|asked| asked.after_ns(self.config.retry_ns)).filter(|at| now.mono < *at) {
            return Some(at);
        }
        let is_first = asked.replace(now.mono).is_none();
        pair.joins.ask(is_first);
        let join = JoinPair {
            group: pair.config.group,
            pair: id,
            name: pair.config.name.clone(),
            remote_volume: pair.config.remote_volume.clone(),
            stream: pair.stream,
            blocks: pair.config.geometry.blocks,
            block_bytes: pair.config.geometry.block_bytes,
            content,
        };
        let link = group.config.link;
        self.tell_identity(id, ports);
        ports.send_message(link, Message::JoinPair(join));
        Some(now.mono.after_ns(self.config.retry_ns))
    }

    fn pair_joined(&mut self, now: Now, group: GroupId, id: PairId, ports: &mut impl Up<M>) {
        if !matches!(self.shutdown, Stopping::No) {
            return;
        }
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| pair.config.group == group) else { return };
        if !pair.joins.answer() {
            return;
        }
        if let (Phase::Member, Rejoin::Due { asked: Some(_), .. }) = (&pair.phase, &pair.rejoin) {
            pair.rejoin = Rejoin::Done;
            self.due = Mono(0);
            return;
        }
        let Phase::Joining { asked: Some(_), .. } = pair.phase else { return };
        pair.enter(Phase::Recording, now.mono);
        if pair.content == Content::Copy {
            pair.is_copying = true;
            pair.dirty.miss_everything(pair.config.initial == Initial::CopyDifferences);
        }
        let name = pair.config.name.clone();
        let (record, serial, stream_id) = (pair.record().encode(), pair.serial, pair.stream);
        // The marks first, then that the pair belongs to the group, then that it does.
        self.keep_marks_of(id, ports);
        self.groups.get_mut(&group).expect("a pair's group exists").known.insert(id, name);
        self.keep_group(group, ports);
        let stream = self.streams.get(&stream_id).expect("a pair that joins has its stream");
        let base = stream.base;
        // From here on the process may stamp: one that finds this mark knows that records may be missing. It becomes
        // durable before the pair's record does, whose durability opens the gate.
        let stream = self.streams.get_mut(&stream_id).expect("a pair that joins has its stream");
        if !stream.is_marked {
            stream.is_marked = true;
            let mark = StreamMark::Stamping { epoch: stream.epoch, base }.encode();
            self.keep(&stream_key(stream_id), &mark, Wait::Note, ports);
        }
        self.keep(&pair_key(id), &record, Wait::PairRecorded(id, serial), ports);
    }

    /// All is durable: the pair copies.
    pub(super) fn pair_recorded(&mut self, now: Now, id: PairId, serial: u64, ports: &mut impl Up<M>) {
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| pair.serial == serial) else { return };
        if !matches!(pair.phase, Phase::Recording) {
            return;
        }
        pair.enter(Phase::Member, now.mono);
        pair.content = Content::Established;
        if pair.is_copying {
            self.copying.insert(id);
            self.due = Mono(0);
        }
        let pair = self.pairs.get_mut(&id).expect("looked up above");
        if let Some((ticket, _)) = pair.ticket.take() {
            ports.answer_operator(ticket, Ok(OperatorAnswer::PairCreated(id)));
        }
        self.unpark(id);
    }

    fn refused(
        &mut self,
        now: Now,
        group: GroupId,
        subject: Subject,
        refusal: Refusal,
        text: String,
        ports: &mut impl Up<M>,
    ) {
        match subject {
            Subject::Stream(id, epoch) => {
                let stream = self.streams.get_mut(&id).filter(|stream| stream.epoch == epoch && stream.sends());
                let Some(member) = stream.and_then(|stream| stream.members.get_mut(&group)) else { return };
                // What was opened is only taken back when another primary of the group ended it, or when the secondary
                // found the stream to break the protocol and takes nothing more of it.
                if member.answered.is_some() && !matches!(refusal, Refusal::UnsentRecords | Refusal::Never) {
                    return;
                }
                match refusal {
                    Refusal::NotYet => member.put_off = Some(text),
                    Refusal::Never | Refusal::LostData | Refusal::UnsentRecords => {
                        self.end_opening(now, group, text, refusal == Refusal::UnsentRecords, ports);
                    }
                }
            }
            Subject::Group => self.hand_over_refused(group, refusal, text, ports),
            Subject::Pair(id) if self.resize_refused(id, refusal != Refusal::NotYet, &text, ports) => {
                self.due = Mono(0)
            }
            Subject::Pair(id) => {
                let Some(pair) = self.pairs.get_mut(&id).filter(|pair| pair.config.group == group) else { return };
                if !pair.joins.answer() {
                    return;
                }
                let content = pair.content;
                let put_off = match (&mut pair.phase, &mut pair.rejoin) {
                    (Phase::Joining { put_off, asked: Some(_) }, _) => put_off,
                    (Phase::Member, Rejoin::Due { put_off, asked: Some(_) }) => put_off,
                    _ => return,
                };
                match (refusal, content) {
                    (Refusal::NotYet, _) => *put_off = Some(text),
                    (_, Content::Established) => {
                        self.end_opening(now, group, text, refusal == Refusal::UnsentRecords, ports);
                    }
                    _ => self.fail_creation(id, OperatorError::WrongState(text), ports),
                }
            }
        }
    }

    /// The group cannot go on with its secondary: suspended if it ever copied, else its new pairs fail.
    /// `passes`: a resync may end it.
    fn end_opening(&mut self, now: Now, id: GroupId, reason: String, passes: bool, ports: &mut impl Up<M>) {
        self.abandon_drain(id, ports);
        // *While the spill of a group that runs was still being opened, a refusal of its stream was taken for one of what the
        // spill holds: another primary's resync waited for this one's for ever.*
        if self.end_replay(id, ports) {
            return ports.log(format_args!("what the spill holds cannot be sent: {reason}"));
        }
        let members = &self.groups[&id].pairs;
        let has_history = members.iter().any(|pair| self.pairs[pair].content == Content::Established);
        match has_history {
            true if passes => {
                self.suspend_for_now(now, id, PairState::SuspendedError, reason, FirstMissed::Known, ports)
            }
            true => self.suspend(now, id, PairState::SuspendedError, reason, FirstMissed::Known, ports),
            false => self.fail_opening(id, reason, ports),
        }
    }

    /// All pairs of the group that are being created fail.
    pub(super) fn fail_opening(&mut self, id: GroupId, reason: String, ports: &mut impl Up<M>) {
        for pair in self.groups[&id].pairs.clone() {
            if self.pairs[&pair].is_opening() {
                self.fail_creation(pair, OperatorError::WrongState(reason.clone()), ports);
            }
        }
    }

    pub(super) fn take_durable(&mut self, link: LinkId, id: StreamId, epoch: Epoch, seq: Seq, ports: &mut impl Up<M>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.link != link || stream.epoch != epoch || !stream.sends() {
            return;
        }
        stream.believe(seq);
        if seq > stream.count(&self.stamper).last {
            self.misdeeds += 1;
            return;
        }
        if seq > stream.durable {
            stream.durable = seq;
            let mut gone = 0;
            while let Some((_, bytes)) = stream.copies.front().filter(|(copy, _)| *copy <= seq) {
                gone += bytes;
                stream.copies.pop_front();
            }
            if let Some(budget) = Self::budget_of(&self.groups, id, stream).and_then(|key| self.budgets.get_mut(&key)) {
                budget.copies_gone(gone);
            }
            let is_ending = matches!(stream.numbers, Numbers::Ending(_));
            let (mut member, mut is_left) = (None, false);
            let next = |streams: &BTreeMap<StreamId, Stream>, last| next_key(&streams.get(&id)?.members, last);
            while let Some(group) = next(&self.streams, member) {
                member = Some(group);
                self.spill_durable(group, id, epoch, seq);
                is_left |= self.leaving.iter().any(|pair| self.groups[&group].pairs.contains(pair));
            }
            // What waits for durability, is looked at in the next turn.
            let is_awaited = is_ending || !matches!(self.shutdown, Stopping::No) || is_left;
            if is_awaited {
                self.due = Mono(0);
            }
            if let Some(first) = next(&self.streams, None) {
                self.refresh_stream(id, self.groups[&first].budget, ports);
            }
        }
    }
}
