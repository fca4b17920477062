//! Streams that primaries open: what an OPEN comes to, and what is made durable before it is answered.

use super::group::{After, Group, Phase};
use super::inlets::Inlet;
use super::intake::{Account, Intake};
use super::meta::{Life, StreamMeta};
use super::peers::{Refused, stream_key};
use super::turn::held;
use super::{Downlink, Secondary};
use crate::message::{Message, OpenStream, Refusal, StreamOpened, Subject};
use crate::stream::{BASE_MAX, Drops, RxStream, StreamStart};
use crate::types::{Epoch, Extent, GroupId, LinkId, Now, PairId, RecordHead, Scope, Seq, StreamId, SystemId, Time};
use smallvec::smallvec;
use std::collections::VecDeque;

/// Streams that a group remembers, those that left included: their epochs must never come again.
const STREAMS_KNOWN_MAX: usize = 4096;

/// What an OPEN comes to.
enum Opening {
    /// The epoch is the known one: go on where it was.
    Again,
    /// A new epoch (or stream).
    New,
    /// The group has a newer history.
    Fenced,
    /// The primary has gone on without the generation that this system began.
    GivenUp(String),
    /// No.
    Refused(Refused),
    /// A new epoch that is part of a resync.
    Unit,
    /// No, and the group's recovery point stays where it is until a resync.
    Freeze(String),
    /// No: the primary restarted in the middle of the group's resync, and has to begin its own again.
    Expect(String),
    /// No, never again: what was acknowledged is not here.
    Lost(String),
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    pub(super) fn open_stream(
        &mut self,
        now: Now,
        link: LinkId,
        from: SystemId,
        open: &OpenStream,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let refuse = |refusal: Refusal, text: String| Message::Refused {
            group: open.group,
            subject: Subject::Stream(open.stream, open.epoch),
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
            Opening::GivenUp(text) => {
                if let Some(group) = self.groups.get_mut(&open.group) {
                    group.is_given_up = true;
                }
                ports.send_message(link, refuse(Refusal::UnsentRecords, text));
            }
            Opening::Unit => self.begin_unit(now, link, from, open, ports),
            Opening::Freeze(text) => {
                let refusal = After::Send(link, refuse(Refusal::UnsentRecords, text.clone()));
                self.stop_group(now, link, open.group, Life::Frozen(text.clone()), &text, vec![refusal], ports);
            }
            Opening::Expect(text) => {
                let after = vec![After::Send(link, refuse(Refusal::UnsentRecords, text))];
                self.act(now, open.group, ports, |group, io, _| {
                    group.expect_unit_of(from);
                    group.persist(io, after);
                });
            }
            Opening::Lost(text) => {
                let refusal = After::Send(link, refuse(Refusal::LostData, text.clone()));
                let reason = format!("lost data: {text}");
                self.stop_group(now, link, open.group, Life::Lost(reason.clone()), &text, vec![refusal], ports);
                self.act(now, open.group, ports, |group, io, _| group.fail(io, reason));
            }
            opening @ (Opening::Again | Opening::New) => {
                let is_new = matches!(opening, Opening::New);
                self.admit(now, link, from, open, is_new, ports);
            }
        }
    }

    /// The group takes nothing more until a resync (or for ever). What the tips allow is still released; only then is the
    /// rest thrown away.
    #[allow(clippy::too_many_arguments, reason = "one call with all that the stop needs")]
    pub(super) fn stop_group(
        &mut self,
        now: Now,
        link: LinkId,
        id: GroupId,
        life: Life,
        text: &str,
        mut after: Vec<After>,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        self.note_tips();
        self.act(now, id, ports, |group, _, effects| group.merge(effects));
        let remains = self.detach(id);
        if let Some(group) = self.groups.get(&id) {
            after.extend(group.refusals_to_others(link, text));
        }
        self.act(now, id, ports, |group, io, effects| group.stop(io, life, remains, after, effects));
    }

    /// A stream's epoch that is part of a resync. A unit begins when all that was released is in the journal; until then
    /// the OPEN waits and nothing more is released.
    fn begin_unit(
        &mut self,
        now: Now,
        link: LinkId,
        from: SystemId,
        open: &OpenStream,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        self.note_tips();
        self.act(now, open.group, ports, |group, _, effects| group.merge(effects));
        let Some(group) = self.groups.get_mut(&open.group) else { return };
        group.links.insert(from, link);
        if group.meta.unit.is_some() || group.is_drained() {
            self.admit(now, link, from, open, true, ports);
            return;
        }
        group.unit_opens.retain(|(_, _, waiting)| waiting.stream != open.stream);
        group.unit_opens.push((link, from, open.clone()));
    }

    /// Goes on with OPENs that wait for their unit to begin.
    pub(super) fn begin_units(&mut self, now: Now, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let ready = |group: &Group<S>| !group.unit_opens.is_empty() && group.is_drained() && group.takeover.is_none();
        let due: Vec<GroupId> = self.groups.iter().filter(|(_, group)| ready(group)).map(|(id, _)| *id).collect();
        for id in due {
            let opens = self.groups.get_mut(&id).map(|group| std::mem::take(&mut group.unit_opens));
            for (link, from, open) in opens.unwrap_or_default() {
                // Judged again: much may have happened since.
                self.open_stream(now, link, from, &open, ports);
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
            // *Swapped back: the new primary's OPEN came before the word that it is one, and was taken for a split.*
            return if open.generation.gives_up(mine) {
                let text = format!(
                    "the other site of group \"{name}\" began generation {}, which was given up here, and does not follow \
                     generation {} yet: group_failback there, with discard_generation {}",
                    mine.number, open.generation.number, mine.number
                );
                Opening::GivenUp(text)
            } else if open.generation.succeeds(mine) {
                let text = format!(
                    "group \"{name}\" goes on from here as generation {}, and this system, its primary before, does not \
                     follow that yet: by itself when it is swapped, else by group_failback here",
                    open.generation.number
                );
                refused(Refusal::NotYet, text)
            } else if open.generation.number > mine.number {
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
        if let Life::Lost(reason) = &group.meta.life {
            return refused(Refusal::LostData, reason.clone());
        }
        match &group.phase {
            Phase::Failed(reason) => return refused(Refusal::Never, format!("group \"{name}\": {reason}")),
            Phase::Ready(_) => {}
            _ => return refused(Refusal::NotYet, format!("the secondary still opens the journal of group \"{name}\"")),
        }
        if group.takeover.is_some() {
            return refused(Refusal::NotYet, format!("group \"{name}\" is being taken over at the secondary"));
        }
        if !is_of_mine && !group.may_follow(from, open) {
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
        let known = group.meta.stream(open.stream);
        // Only a new epoch can bring a resync: what the group was sent of the old one meanwhile was refused.
        let is_unit = open.unit.is_some() && known.is_none_or(|known| known.epoch < open.epoch);
        match &group.meta.life {
            Life::Frozen(reason) if !is_unit => return refused(Refusal::UnsentRecords, reason.clone()),
            Life::Suspended(state, reason) if !is_unit => {
                let text = format!(
                    "group \"{name}\" was suspended ({state}: {reason}) and the secondary stays at its last cut until it \
                     is resynced (group_resync)"
                );
                return refused(Refusal::UnsentRecords, text);
            }
            _ => {}
        }
        let part = group.meta.unit.iter().flat_map(|unit| &unit.owners).find(|part| part.owner == from);
        if !is_unit && part.is_some_and(|part| part.number.is_none()) {
            let text = format!("group \"{name}\" is being resynced at the secondary: this primary has to resync too");
            return refused(Refusal::UnsentRecords, text);
        }
        if let (true, Some(newest), Some(number)) = (is_unit, part.and_then(|part| part.number), open.unit)
            && number < newest
        {
            let text = format!("resync {number} of group \"{name}\" is over, the secondary is at {newest}");
            return refused(Refusal::Never, text);
        }
        let Some(known) = known else {
            if group.meta.streams.len() >= STREAMS_KNOWN_MAX {
                let text = format!(
                    "group \"{name}\" has known {STREAMS_KNOWN_MAX} streams, as many as it can remember: create the group anew"
                );
                return refused(Refusal::Never, text);
            }
            let is_there = self.intakes.contains_key(&open.stream);
            if !is_there && self.intakes.len() >= self.config.streams_max {
                let text = format!(
                    "the secondary has {} streams open, as many as its memory has room for: serve it with more \
                     (--memory-mib), or create the group with sequence_scope group, which has one stream for all its pairs",
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
                _ if is_unit => Opening::Unit,
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
                     lost data, and its volumes are no cut; create the group anew",
                    open.acknowledged
                );
                return Opening::Lost(text);
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
        let is_empty = inlet.is_none_or(|inlet| inlet.undurable.is_empty());
        match open.drained {
            Some((epoch, last))
                if !known.closed
                    && !is_broken
                    && epoch == known.epoch
                    && last > durable
                    && (intake.is_some() || known.scope != Scope::System) =>
            {
                let text = format!(
                    "the primary had record {last} of group \"{name}\" acknowledged, the secondary has records up to \
                     {durable}: its journal lost data, and its volumes are no cut; create the group anew"
                );
                Opening::Lost(text)
            }
            _ if is_unit => Opening::Unit,
            _ if part.is_some_and(|part| part.end.is_none()) || (group.meta.unit.is_some() && !is_drained) => {
                Opening::Expect(format!(
                    "the primary of group \"{name}\" began epoch {} in the middle of a resync: it has to resync again",
                    open.epoch
                ))
            }
            _ if is_drained && is_empty => Opening::New,
            _ => Opening::Freeze(format!(
                "restarted with unsent records: the primary of group \"{name}\" began epoch {} and cannot prove that all \
                 of epoch {} had arrived; the secondary stays at its last cut until it is resynced (group_resync) or taken \
                 over",
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
                    if let Some(inlet) = group.inlets.of_epoch(stream, epoch) {
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
        let is_unit = is_new && open.unit.is_some();
        // Limits may have risen in this turn: a new stream's base time must be above what was released.
        let ring = self.ring_of(open);
        self.note_tips();
        self.act(now, open.group, ports, |group, _, effects| {
            group.merge(effects);
            if is_unit {
                group.meta.discarded.extend(ring);
                group.admit_unit(from, open, effects);
                if open.generation.number > 0 && open.generation != group.meta.generation {
                    group.follow_successor(open);
                }
            } else if is_new {
                let left = group.waiting.take_stream(open.stream).into_iter();
                effects.freed.extend(left.map(|item| (open.stream, item.epoch, item.record.head.charge_bytes())));
            }
        });
        let Some(group) = self.groups.get_mut(&open.group) else { return };
        let generation = group.ensure_generation(random);
        group.links.insert(from, link);
        if is_new {
            if group.meta.streams.is_empty() && group.meta.unit.is_none() {
                group.begin_history(open.base_time);
            }
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
        self.act(now, open.group, ports, |group, io, _| {
            let admitted = is_unit.then_some(After::Admitted);
            group.persist(io, admitted.into_iter().chain([After::Opened(open.stream, link)]));
        });
    }

    /// What records of the group above the stream's run would have changed.
    fn ring_of(&self, open: &OpenStream) -> Vec<(PairId, Extent)> {
        let is_mine = |head: &RecordHead| self.pairs.get(&head.pair) == Some(&open.group);
        let intake = self.intakes.get(&open.stream).filter(|intake| intake.rx.epoch() < open.epoch);
        let heads = intake.into_iter().flat_map(|intake| intake.rx.heads_above_run());
        let changing = heads.filter(|head| is_mine(head) && head.kind.changes_volume());
        changing.map(|head| (head.pair, head.extent)).collect()
    }

    /// The stream's ring, new if this is not its epoch's.
    fn intake(&mut self, link: LinkId, from: SystemId, open: &OpenStream, durable: Seq, floor: Time, generation: u64) {
        let old = self.intakes.remove(open.stream);
        let mut account = Account::default();
        let mut accounts_from = open.epoch;
        let mut intake = match old {
            Some(mut intake) if intake.rx.epoch() == open.epoch => {
                intake.link = link;
                intake
            }
            old => {
                if let Some(old) = &old {
                    // Groups that did not open the new epoch yet stay where the old one ended.
                    for id in &old.groups {
                        if let Some(group) = self.groups.get_mut(id) {
                            group.inlets.raise_floor(open.stream, old.rx.epoch(), old.rx.tip());
                        }
                    }
                    // What waits in the ring for a gap goes with it.
                    let mut before = old.account;
                    before.free(old.rx.heads_above_run().map(RecordHead::charge_bytes).sum());
                    account = before.next_epoch();
                    accounts_from = old.accounts_from;
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
                    accounts_from,
                    ledger: VecDeque::new(),
                    durable,
                    drops: Drops::default(),
                    is_news: true,
                    told: (durable, 0, Time(0)),
                    broken: None,
                    was_refused: false,
                    is_changed: false,
                    is_moved: false,
                }
            }
        };
        intake.is_news = true;
        intake.generation = generation;
        if !intake.groups.contains(&open.group) {
            intake.groups.push(open.group);
        }
        self.intakes.insert(open.stream, intake);
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
            self.act(now, open.group, ports, |_, io, _| {
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
        let Some(held) = self.intakes.get(&stream).map(|intake| held(stream, intake, &self.groups)) else { return };
        let (Some(group), Some(intake)) = (self.groups.get(&group), self.intakes.get_mut(stream)) else { return };
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
            held,
        };
        ports.send_message(link, Message::StreamOpened(opened));
    }
}
