//! What primaries ask of this secondary: opening and closing streams, pairs joining and leaving.

use super::group::{After, Group, Inlet, Phase};
use super::intake::{Account, Intake};
use super::meta::{Life, StreamMeta};
use super::{Downlink, Secondary};
use crate::message::{Content, JoinPair, Message, OpenStream, Refusal, StreamOpened, Subject};
use crate::stream::{BASE_MAX, Drops, RxStream, StreamStart};
use crate::takeover::TakeoverStep;
use crate::types::{Epoch, GroupId, LinkId, Now, PairId, Scope, Seq, StreamId, SystemId, Time};
use smallvec::smallvec;
use std::collections::VecDeque;

/// Streams that a group remembers, those that left included: their epochs must never come again.
const STREAMS_KNOWN_MAX: usize = 4096;

/// A refusal before it is addressed.
type Refused = (Refusal, String);

/// What an OPEN comes to.
enum Opening {
    /// The epoch is the known one: go on where it was.
    Again,
    /// A new epoch (or stream).
    New,
    /// The group has a newer history.
    Fenced,
    /// No.
    Refused(Refused),
    /// No, and the group's recovery point stays where it is for ever.
    Freeze(String),
}

fn never<T>(text: String) -> Result<T, Refused> {
    Err((Refusal::Never, text))
}

fn not_yet<T>(text: String) -> Result<T, Refused> {
    Err((Refusal::NotYet, text))
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    pub(super) fn on_message(
        &mut self,
        now: Now,
        link: LinkId,
        from: SystemId,
        message: Message,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        match message {
            Message::OpenStream(open) => {
                // A CLOSE of the epoch before may have come in the same train: without it the new epoch would look like
                // a primary that lost its records.
                self.retire_streams(now, ports);
                self.open_stream(now, link, from, &open, ports);
            }
            Message::JoinPair(join) => {
                let answer = self.join_pair(now, link, from, &join, ports);
                if let Err((refusal, text)) = answer {
                    let subject = Subject::Pair(join.pair);
                    ports.send_message(link, Message::Refused { group: join.group, subject, refusal, text });
                }
            }
            Message::LeavePair { group, pair, .. } => self.leave_pair(now, from, group, pair, ports),
            Message::CloseStream { group, stream, epoch, end, .. } => {
                self.close_stream(from, group, stream, epoch, end)
            }
            Message::GroupSuspended { group, state, reason } => {
                self.suspend(now, link, from, group, (state, reason), ports);
            }
            _ => {}
        }
    }

    fn open_stream(
        &mut self,
        now: Now,
        link: LinkId,
        from: SystemId,
        open: &OpenStream,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let refuse = |refusal: Refusal, text: String| Message::Refused {
            group: open.group,
            subject: Subject::Stream(open.stream),
            refusal,
            text,
        };
        match self.judge_open(now, from, open, ports) {
            Opening::Refused((refusal, text)) => ports.send_message(link, refuse(refusal, text)),
            Opening::Fenced => {
                if let Some(group) = self.groups.get(&open.group) {
                    let generation = group.meta.generation;
                    ports.send_message(link, Message::Fenced { group: open.group, generation });
                }
            }
            Opening::Freeze(text) => {
                // What the tips allow is still released; only then is the rest thrown away.
                self.act(now, open.group, ports, |group, _, effects, tips| group.merge(tips, effects));
                let remains = self.detach(open.group);
                let mut after = vec![After::Send(link, refuse(Refusal::UnsentRecords, text.clone()))];
                if let Some(group) = self.groups.get(&open.group) {
                    after.extend(group.refusals_to_others(link, &text));
                }
                self.act(now, open.group, ports, |group, io, effects, _| {
                    group.freeze(io, text, remains, after, effects);
                });
            }
            opening @ (Opening::Again | Opening::New) => {
                let is_new = matches!(opening, Opening::New);
                self.admit(now, link, from, open, is_new, ports);
            }
        }
    }

    /// Decides what an OPEN comes to, without changing anything.
    fn judge_open(
        &self,
        now: Now,
        from: SystemId,
        open: &OpenStream,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Opening {
        let refused = |refusal, text| Opening::Refused((refusal, text));
        let name = &open.group_name;
        let Some(group) = self.groups.get(&open.group) else {
            let text = format!("the secondary has no group \"{name}\": create it there with group_create");
            return refused(Refusal::NotYet, text);
        };
        let mine = group.meta.generation;
        let is_of_mine = open.generation.number == 0 && mine.number <= 1 || open.generation == mine;
        if matches!(group.meta.life, Life::Sealed { .. } | Life::TakenOver) {
            return if open.generation.number > mine.number {
                let text = format!(
                    "group \"{name}\" was taken over at the secondary as generation {}, the primary is at {}: two \
                     histories; keep one and delete the other",
                    mine.number, open.generation.number
                );
                refused(Refusal::Never, text)
            } else {
                Opening::Fenced
            };
        }
        match &group.phase {
            Phase::Failed(reason) => return refused(Refusal::Never, format!("group \"{name}\": {reason}")),
            Phase::Ready(_) => {}
            _ => return refused(Refusal::NotYet, format!("the secondary still opens the journal of group \"{name}\"")),
        }
        if group.takeover.is_some() {
            return refused(Refusal::NotYet, format!("group \"{name}\" is being taken over at the secondary"));
        }
        match &group.meta.life {
            Life::Frozen(reason) => return refused(Refusal::UnsentRecords, reason.clone()),
            Life::Suspended(state, reason) => {
                let text = format!(
                    "group \"{name}\" was suspended ({state}: {reason}) and the secondary stays at its last cut: create \
                     the group anew"
                );
                return refused(Refusal::UnsentRecords, text);
            }
            _ => {}
        }
        if !is_of_mine {
            if open.generation.number != 0 && open.generation.number < mine.number {
                return Opening::Fenced;
            }
            let text = format!(
                "group \"{name}\" is at generation {} (id {:x}) at the secondary, the primary says {} (id {:x}): not one \
                 history; create the group anew at one of them",
                mine.number, mine.id, open.generation.number, open.generation.id
            );
            return refused(Refusal::Never, text);
        }
        if open.base.0 == 0 || open.base.0 > BASE_MAX || open.acknowledged.0 > BASE_MAX {
            return refused(Refusal::Never, format!("a stream cannot begin at number {}", open.base));
        }
        if open.base_time > self.ceiling(now) {
            let text = format!(
                "the primary's clock is more than {} ms ahead of the secondary's: set the clocks",
                open.base_time.since_ns(now.time) / 1_000_000
            );
            return refused(Refusal::NotYet, text);
        }
        let asked = self.intakes.get(&open.stream).filter(|intake| intake.owner == from);
        if let Some(error) = asked.filter(|intake| intake.rx.epoch() == open.epoch).and_then(|it| it.rx.error()) {
            // The session in which that was said may have ended before it arrived.
            return refused(Refusal::Never, format!("the stream broke the protocol and is stopped: {error}"));
        }
        let Some(known) = group.meta.stream(open.stream) else {
            if group.meta.streams.len() >= STREAMS_KNOWN_MAX {
                let text = format!(
                    "group \"{name}\" has known {STREAMS_KNOWN_MAX} streams, as many as it can remember: create the group anew"
                );
                return refused(Refusal::Never, text);
            }
            let is_there = self.intakes.contains_key(&open.stream);
            if !is_there && self.intakes.len() >= self.config.streams_max {
                let text = format!(
                    "the secondary has {} streams open, its limit: close some or raise streams_max",
                    self.intakes.len()
                );
                return refused(Refusal::Never, text);
            }
            return match self.intakes.get(&open.stream) {
                Some(intake) if intake.owner != from || intake.scope != open.scope => {
                    refused(Refusal::Never, "the stream belongs to another system".to_owned())
                }
                Some(intake) if intake.rx.epoch() > open.epoch => refused(
                    Refusal::Never,
                    "the stream's epoch is over: a newer start of the primary has it".to_owned(),
                ),
                _ => Opening::New,
            };
        };
        if known.owner != from {
            return refused(Refusal::Never, format!("the stream of group \"{name}\" belongs to another system"));
        }
        if known.scope != open.scope {
            let text = format!("the sequence scope of group \"{name}\" is fixed when it is created");
            return refused(Refusal::Never, text);
        }
        if open.epoch < known.epoch {
            let text = format!("epoch {} of the stream is over, it is at {}", open.epoch, known.epoch);
            return refused(Refusal::Never, text);
        }
        let intake = self.intakes.get(&open.stream).filter(|intake| intake.rx.epoch() == known.epoch);
        let inlet = group.inlets.get(&open.stream);
        let durable = match (intake, inlet) {
            (Some(intake), _) => intake.durable,
            (None, Some(inlet)) => inlet.durable,
            (None, None) => known.durable,
        };
        if open.epoch == known.epoch {
            if known.closed {
                return refused(Refusal::Never, "the stream was closed in this epoch".to_owned());
            }
            let lost = match (intake, known.scope) {
                (None, Scope::System) => match self.most_durable(open.stream, known.epoch, ports) {
                    Ok(most) => open.acknowledged > most,
                    Err(text) => return refused(Refusal::NotYet, text),
                },
                _ => open.acknowledged > durable,
            };
            if lost {
                let text = format!(
                    "the secondary of group \"{name}\" has records up to {durable}, but had acknowledged {}: its journal \
                     lost data; take over at the primary's word only, and create the group anew",
                    open.acknowledged
                );
                return refused(Refusal::LostData, text);
            }
            return Opening::Again;
        }
        let is_broken = intake.is_some_and(|intake| intake.rx.error().is_some());
        let is_drained = known.closed
            || match open.drained {
                // What a stream gave that broke the protocol was thrown away, whatever its owner believes.
                _ if is_broken => false,
                Some((epoch, last)) if epoch >= known.epoch => match (intake, known.scope) {
                    (None, Scope::System) => last >= durable,
                    _ => last == durable,
                },
                _ => false,
            };
        let is_empty = inlet.is_none_or(|inlet| inlet.queue.is_empty() && inlet.undurable.is_empty());
        match open.drained {
            Some((epoch, last))
                if !known.closed && !is_broken && epoch >= known.epoch && last > durable && intake.is_some() =>
            {
                let text = format!(
                    "the primary had record {last} of group \"{name}\" acknowledged, the secondary has records up to \
                     {durable}: its journal lost data; create the group anew"
                );
                refused(Refusal::LostData, text)
            }
            _ if is_drained && is_empty => Opening::New,
            _ => Opening::Freeze(format!(
                "restarted with unsent records: the primary of group \"{name}\" began epoch {} and cannot prove that all \
                 of epoch {} had arrived; the secondary stays at its last cut: take it over, or create the group anew",
                open.epoch, known.epoch
            )),
        }
    }

    /// The greatest number of the stream that any of its groups has durable. A number belongs to one group, so nothing
    /// above it can have been acknowledged.
    fn most_durable(
        &self,
        stream: StreamId,
        epoch: Epoch,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<Seq, String> {
        let value = ports.recall(&stream_key(stream)).unwrap_or_default();
        let mut most = Seq(0);
        for id in value.chunks_exact(8).filter_map(|id| id.first_chunk()).map(|id| GroupId(u64::from_le_bytes(*id))) {
            let is_deleted = ports.recall(&super::meta::key_of(id)).is_none_or(|value| value.is_empty());
            if is_deleted {
                continue;
            }
            match self.groups.get(&id) {
                Some(group) if matches!(group.phase, Phase::Ready(_)) => {
                    if let Some(inlet) = group.inlets.get(&stream).filter(|inlet| inlet.epoch == epoch) {
                        most = most.max(inlet.durable);
                    }
                }
                Some(group) if matches!(group.phase, Phase::TakenOver | Phase::Failed(_)) => most = Seq(u64::MAX),
                _ => return Err("another group of this stream is not open again at the secondary yet".to_owned()),
            }
        }
        Ok(most)
    }

    /// Makes a stream part of the group's set (again), and answers when that is durable.
    fn admit(
        &mut self,
        now: Now,
        link: LinkId,
        from: SystemId,
        open: &OpenStream,
        is_new: bool,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let random = self.random();
        // Limits may have risen in this turn: a new stream's base time must be above what was released.
        self.act(now, open.group, ports, |group, _, effects, tips| group.merge(tips, effects));
        let Some(group) = self.groups.get_mut(&open.group) else { return };
        let generation = group.ensure_generation(random);
        group.links.insert(from, link);
        if is_new {
            let base_time = open.base_time.max(group.limit);
            let meta = StreamMeta {
                id: open.stream,
                owner: from,
                scope: open.scope,
                epoch: open.epoch,
                base: open.base,
                base_time,
                durable: open.base.previous(),
                closed: false,
                seen: Vec::new(),
                announced: open.base.previous(),
            };
            group.inlets.insert(open.stream, Inlet::new(&meta, meta.durable, group.limit));
            group.meta.streams.retain(|stream| stream.id != open.stream);
            group.meta.streams.push(meta);
        }
        let inlet_durable = group.inlets.get(&open.stream).map_or(open.acknowledged, |inlet| inlet.durable);
        let floor = group.meta.stream(open.stream).map_or(open.base_time, |stream| stream.base_time);
        let durable = match (is_new, open.scope) {
            (true, _) => open.base.previous(),
            // A shared stream: what was acknowledged is durable in whatever group it belongs to.
            (false, Scope::System) => open.acknowledged,
            (false, _) => inlet_durable,
        };
        self.intake(link, from, open, durable, floor, generation.number);
        self.remember_group(now, open, ports);
        self.act(now, open.group, ports, |group, io, _, _| {
            group.persist(io, vec![After::Opened(open.stream, link)]);
        });
    }

    /// The stream's ring, new if this is not its epoch's.
    fn intake(&mut self, link: LinkId, from: SystemId, open: &OpenStream, durable: Seq, floor: Time, generation: u64) {
        let old = self.intakes.remove(&open.stream);
        let mut account = Account::default();
        let intake = match old {
            Some(mut intake) if intake.rx.epoch() == open.epoch => {
                intake.link = link;
                intake
            }
            old => {
                if let Some(old) = &old {
                    // Groups that did not open the new epoch yet stay where the old one ended.
                    for id in &old.groups {
                        let inlet = self.groups.get_mut(id).and_then(|group| group.inlets.get_mut(&open.stream));
                        if let Some(inlet) = inlet.filter(|inlet| inlet.epoch == old.rx.epoch()) {
                            inlet.floor = inlet.floor.max(old.rx.tip());
                        }
                    }
                    account = old.account.next_epoch();
                }
                // A shared stream's own records may be older than what this group has released.
                let floor = if open.scope == Scope::System { open.base_time.min(floor) } else { floor };
                Intake {
                    rx: RxStream::new(StreamStart {
                        id: open.stream,
                        epoch: open.epoch,
                        base: open.base,
                        durable,
                        floor,
                        slots: self.config.stream_records,
                    }),
                    link,
                    owner: from,
                    scope: open.scope,
                    generation,
                    groups: smallvec![],
                    is_open: false,
                    account,
                    ledger: VecDeque::new(),
                    durable,
                    drops: Drops::default(),
                    is_news: true,
                    told: (durable, 0),
                    broken: None,
                    was_refused: false,
                }
            }
        };
        let intake = self.intakes.entry(open.stream).or_insert(intake);
        intake.is_news = true;
        intake.generation = generation;
        if !intake.groups.contains(&open.group) {
            intake.groups.push(open.group);
        }
    }

    /// A shared stream's groups must be known after a restart before it is judged what was lost.
    fn remember_group(&mut self, now: Now, open: &OpenStream, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        if open.scope != Scope::System {
            return;
        }
        let key = stream_key(open.stream);
        let mut value = ports.recall(&key).unwrap_or_default();
        let id = open.group.0.to_le_bytes();
        if !value.chunks_exact(8).any(|known| known == id) {
            value.extend_from_slice(&id);
            self.act(now, open.group, ports, |_, io, _, _| {
                io.persist(&key, &value);
            });
        }
    }

    /// Answers an OPEN whose stream is durably part of the group.
    pub(super) fn stream_opened(
        &mut self,
        group: GroupId,
        stream: StreamId,
        link: LinkId,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let (Some(group), Some(intake)) = (self.groups.get(&group), self.intakes.get_mut(&stream)) else { return };
        let Some(meta) = group.meta.stream(stream).filter(|meta| meta.epoch == intake.rx.epoch()) else { return };
        intake.is_open = true;
        // The sender starts anew from the answer: its grant comes with the status that follows.
        intake.is_news = true;
        let opened = StreamOpened {
            group: group.id,
            generation: group.meta.generation,
            stream,
            epoch: meta.epoch,
            durable: intake.durable,
            base_time: meta.base_time,
        };
        ports.send_message(link, Message::StreamOpened(opened));
    }

    fn join_pair(
        &mut self,
        now: Now,
        link: LinkId,
        from: SystemId,
        join: &JoinPair,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> Result<(), Refused> {
        let name = &join.name;
        let Some(group) = self.groups.get_mut(&join.group) else {
            return not_yet("the secondary does not have the group: create it there with group_create".to_owned());
        };
        let group_name = &group.meta.name;
        if let Phase::Failed(reason) = &group.phase {
            return never(format!("group \"{group_name}\" of the secondary: {reason}"));
        }
        if let Life::Frozen(reason) | Life::Suspended(_, reason) = &group.meta.life {
            // Suspended by another of its primaries: that does not end by itself.
            let text = format!("group \"{group_name}\" of the secondary stays at its last cut: {reason}");
            return Err((Refusal::UnsentRecords, text));
        }
        if !group.is_receiving() {
            return not_yet(format!("group \"{group_name}\" of the secondary does not receive now"));
        }
        let Some((_, volume)) = group.volumes.get(&join.pair) else {
            return not_yet(format!(
                "the secondary has no pair \"{name}\" in group \"{group_name}\" (or its volume is still being checked): \
                 create it there with pair_create"
            ));
        };
        if !join.remote_volume.is_empty() && *volume != join.remote_volume {
            return never(format!(
                "pair \"{name}\" has volume \"{volume}\" at the secondary, the primary names \"{}\"",
                join.remote_volume
            ));
        }
        let is_open = group.meta.stream(join.stream).is_some_and(|stream| stream.owner == from && !stream.closed);
        let Some(pair) = group.meta.pair_mut(join.pair).filter(|_| is_open) else {
            return not_yet(format!("pair \"{name}\" names a stream that is not open in its group"));
        };
        if (pair.geometry.blocks, pair.geometry.block_bytes) != (join.blocks, join.block_bytes) {
            return never(format!(
                "pair \"{name}\" has {} blocks of {} bytes at the primary, volume \"{volume}\" has {} of {}: both must be \
                 of one size",
                join.blocks, join.block_bytes, pair.geometry.blocks, pair.geometry.block_bytes
            ));
        }
        if pair.stream.is_some_and(|stream| stream != join.stream) {
            return never(format!(
                "pair \"{name}\" is joined through another stream: delete it at the secondary first"
            ));
        }
        match (join.content, pair.content) {
            (Content::Established, _) if pair.stream.is_some() => {}
            (Content::Established, _) => {
                return never(format!(
                    "the primary has pair \"{name}\" as established, the secondary does not know it: delete it at the \
                     primary and create it anew"
                ));
            }
            _ if pair.touched => {
                return never(format!(
                    "volume \"{volume}\" was written by an earlier pair \"{name}\": delete the pair at the secondary, and \
                     create it anew on a volume of zeroes (or declared_identical)"
                ));
            }
            (Content::Empty, Content::Empty) | (Content::DeclaredIdentical, Content::DeclaredIdentical) => {}
            (theirs, mine) => {
                let words = |content| match content {
                    Content::Empty => "found empty",
                    Content::DeclaredIdentical => "declared identical",
                    Content::Established => "established",
                    Content::Copy => "to be copied",
                };
                return never(format!(
                    "pair \"{name}\" was {} at the primary and {} at the secondary: create both alike",
                    words(theirs),
                    words(mine)
                ));
            }
        }
        pair.stream = Some(join.stream);
        pair.left = false;
        let joined = Message::PairJoined { group: join.group, pair: join.pair };
        self.act(now, join.group, ports, |group, io, _, _| group.persist(io, vec![After::Send(link, joined)]));
        Ok(())
    }

    /// The group, if this system owns the stream that feeds what it speaks of.
    fn owned(&mut self, from: SystemId, group: GroupId) -> Option<&mut Group<S>> {
        let group = self.groups.get_mut(&group)?;
        group.meta.streams.iter().any(|stream| stream.owner == from).then_some(group)
    }

    fn leave_pair(
        &mut self,
        now: Now,
        from: SystemId,
        group: GroupId,
        pair: PairId,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let Some(owned) = self.owned(from, group) else { return };
        if let Some(pair) = owned.meta.pair_mut(pair).filter(|pair| !pair.left) {
            pair.left = true;
            self.act(now, group, ports, |group, io, _, _| group.persist(io, Vec::new()));
        }
    }

    fn close_stream(&mut self, from: SystemId, group: GroupId, stream: StreamId, epoch: Epoch, end: Seq) {
        let Some(group) = self.owned(from, group) else { return };
        let is_theirs = group.meta.stream(stream).is_some_and(|stream| stream.owner == from);
        let inlet = group.inlets.get_mut(&stream).filter(|inlet| is_theirs && inlet.epoch == epoch);
        if let Some(inlet) = inlet {
            inlet.end = Some(end);
        }
    }

    /// Streams whose announced end is durable leave their groups: the limit no longer waits for them.
    pub(super) fn retire_streams(&mut self, now: Now, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let mut ended = Vec::new();
        for (id, group) in &self.groups {
            for (stream, inlet) in &group.inlets {
                let is_shared = group.meta.stream(*stream).is_some_and(|stream| stream.scope == Scope::System);
                let durable = match self.intakes.get(stream) {
                    Some(intake) => intake.durable,
                    // A stream that ended before this process started is not opened again: the journal says what is
                    // durable. The end of a shared one may be another group's; it was said when all was acknowledged.
                    None if is_shared => Seq(u64::MAX),
                    None => inlet.durable,
                };
                if inlet.end.is_some_and(|end| durable >= end) && inlet.undurable.is_empty() {
                    ended.push((*id, *stream));
                }
            }
        }
        for (group, stream) in ended {
            if let Some(intake) = self.intakes.get_mut(&stream) {
                intake.groups.retain(|id| *id != group);
                if intake.groups.is_empty() {
                    self.intakes.remove(&stream);
                }
            }
            self.act(now, group, ports, |group, io, _, _| {
                let durable = group.inlets.remove(&stream).map(|inlet| inlet.durable);
                if let Some((stream, durable)) = group.meta.stream_mut(stream).zip(durable) {
                    stream.durable = durable;
                    stream.closed = true;
                }
                group.persist(io, Vec::new());
            });
        }
    }

    fn suspend(
        &mut self,
        now: Now,
        link: LinkId,
        from: SystemId,
        group: GroupId,
        (state, reason): (String, String),
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let Some(owned) = self.owned(from, group) else { return };
        if matches!(owned.meta.life, Life::Sealed { .. } | Life::TakenOver)
            && owned.takeover_step() != Some(TakeoverStep::Seal)
        {
            // A suspended primary opens no stream and sends no frame, so this is where it learns that it is fenced.
            let generation = owned.meta.generation;
            ports.send_message(link, Message::Fenced { group, generation });
            return;
        }
        if owned.meta.life != Life::Open {
            return;
        }
        ports.log(format_args!("group \"{}\": the primary suspended it ({state}): {reason}", owned.meta.name));
        let mut reason = reason;
        let end = (0..=reason.len().min(400)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason.truncate(end);
        let text = format!("another primary of group \"{}\" suspended it ({state}): {reason}", owned.meta.name);
        owned.meta.life = Life::Suspended(state.chars().take(8).collect(), reason);
        self.act(now, group, ports, |group, io, _, _| {
            let after = group.refusals_to_others(link, &text);
            group.persist(io, after);
        });
    }
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// The group stays at its last cut: its other primaries must not believe that they still copy.
    fn refusals_to_others(&self, link: LinkId, text: &str) -> Vec<After> {
        let streams = self.meta.streams.iter().filter(|stream| !stream.closed);
        let others = streams.filter_map(|stream| Some((*self.links.get(&stream.owner)?, stream.id)));
        let refused = others.filter(|(other, _)| *other != link).map(|(other, stream)| {
            let subject = Subject::Stream(stream);
            let (refusal, text) = (Refusal::UnsentRecords, text.to_owned());
            After::Send(other, Message::Refused { group: self.id, subject, refusal, text })
        });
        refused.collect()
    }
}

fn stream_key(stream: StreamId) -> String {
    format!("secondary/stream/{:016x}", stream.0)
}
