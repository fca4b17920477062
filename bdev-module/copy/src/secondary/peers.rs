//! What primaries say to this secondary: pairs joining and leaving, streams that end, groups that stop.

use super::group::{After, Group, Phase};
use super::handover::Asked;
use super::meta::{Image, Life, PairMeta, Share};
use super::{Downlink, Secondary};
use crate::identity;
use crate::message::{Content, EXTENTS_MAX, JoinPair, Message, Refusal, Subject};
use crate::takeover::TakeoverStep;
use crate::types::{Epoch, GroupId, LinkId, Now, PairId, Scope, Seq, StreamId, SystemId};

/// A refusal before it is addressed.
pub(super) type Refused = (Refusal, String);

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
            Message::Resize { group, pair, blocks, is_done } => {
                self.resize_pair(now, link, from, (group, pair), blocks, is_done, ports);
            }
            Message::Identity { group, pair, identity } => {
                self.take_identity(now, from, group, pair, identity, ports);
            }
            Message::LeavePair { group, pair, .. } => self.leave_pair(now, from, group, pair, ports),
            Message::CloseStream { group, stream, epoch, end, .. } => {
                self.close_stream(from, group, stream, epoch, end)
            }
            Message::HandOver { group, generation, end, last_sum } => {
                self.asked_to_take(group, Asked { link, from, generation, end, last_sum });
            }
            Message::CopyEnd { group, copy, end } => {
                if let Some(group) = self.owned(from, group).map(|group| group.id) {
                    self.act(now, group, ports, |group, io, _| group.copy_end(io, (link, from), copy, end));
                }
            }
            Message::DigestAsk { group, pair, ask, extent, digests } => {
                self.act(now, group, ports, |group, io, _| {
                    group.asked(io, (link, from), (pair, ask, extent), digests);
                });
            }
            Message::GroupSuspended { group, state, reason } => {
                self.suspend(now, link, from, group, (state, reason), ports);
            }
            _ => {}
        }
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
        let volume = volume.clone();
        let grown = match join.content {
            Content::Established => group.follow_size(join, ports).unwrap_or_default(),
            // A full resync brings all of it. *It was refused for ever after a growth that had come to nothing.*
            Content::Copy if group.meta.pair(join.pair).is_some_and(|pair| pair.stream.is_some()) => {
                group.follow_size(join, ports);
                Vec::new()
            }
            _ => Vec::new(),
        };
        // *A first copy began while another primary was resynced; that one's end called the copy complete.*
        let is_unit = group.meta.unit.as_ref().is_some_and(|unit| unit.owners.iter().any(|part| part.owner == from));
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
        if let Err(text) = may_join(pair, join, &volume) {
            return never(text);
        }
        let is_known = pair.stream.is_some() && !pair.left;
        if join.content == Content::Copy && !(is_known && matches!(pair.image, Image::Whole(_))) {
            pair.image = Image::Copying(None);
        }
        let mut after = Vec::new();
        if is_unit {
            let is_all = join.content == Content::Copy || pair.share == Share::Everything;
            pair.share = if is_all { Share::Everything } else { Share::Differences };
        }
        pair.stream = Some(join.stream);
        pair.left = false;
        let joined = Message::PairJoined { group: join.group, pair: join.pair };
        if group.meta.unit.is_some() && join.content == Content::Established {
            let mine = group.meta.discarded.iter().filter(|(pair, _)| *pair == join.pair).map(|(_, extent)| *extent);
            // What is new here is nothing that the primary has sent.
            for extents in mine.chain(grown).collect::<Vec<_>>().chunks(EXTENTS_MAX) {
                let (group, pair) = (join.group, join.pair);
                after.push(After::Send(link, Message::Differs { group, pair, extents: extents.to_vec() }));
            }
        }
        after.push(After::Send(link, joined));
        self.act(now, join.group, ports, |group, io, _| group.persist(io, after));
        Ok(())
    }

    /// The group, if this system owns the stream that feeds what it speaks of.
    pub(super) fn owned(&mut self, from: SystemId, group: GroupId) -> Option<&mut Group<S>> {
        let group = self.groups.get_mut(&group)?;
        group.meta.streams.iter().any(|stream| stream.owner == from).then_some(group)
    }

    /// The volume is to be the same disk to hosts as the primary's.
    fn take_identity(
        &mut self,
        now: Now,
        from: SystemId,
        group: GroupId,
        pair: PairId,
        identity: [u8; 16],
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let Some(owned) = self.owned(from, group) else { return };
        let follows = owned.is_receiving() && owned.meta.pair(pair).is_some();
        if !follows || identity::of_pair(pair, ports) == Some(identity) {
            return;
        }
        self.act(now, group, ports, |_, io, _| {
            io.persist(&identity::key(pair), &identity::encode(identity));
            io.ports.volume_changed(pair);
        });
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
            self.act(now, group, ports, |group, io, _| group.persist(io, Vec::new()));
        }
    }

    fn close_stream(&mut self, from: SystemId, group: GroupId, stream: StreamId, epoch: Epoch, end: Seq) {
        let Some(group) = self.owned(from, group) else { return };
        let is_theirs = group.meta.stream(stream).is_some_and(|stream| stream.owner == from);
        if is_theirs && !matches!(group.phase, Phase::Ready(_)) {
            // Its inlet comes with the end of the journal's search.
            group.closing.insert(stream, (epoch, end));
        }
        if is_theirs {
            group.inlets.announce_end(stream, epoch, end);
        }
    }

    /// Streams whose announced end is durable leave their groups: the limit no longer waits for them.
    pub(super) fn retire_streams(&mut self, now: Now, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let mut ended = Vec::new();
        for (id, group) in &self.groups {
            if !group.inlets.have_ends() && group.meta.unit.is_none() {
                continue;
            }
            for (stream, inlet) in group.inlets.iter() {
                let is_shared = group.meta.stream(*stream).is_some_and(|stream| stream.scope == Scope::System);
                let durable = match self.intakes.get(stream) {
                    Some(intake) => intake.durable,
                    // A stream that ended before this process started is not opened again: the journal says what is
                    // durable. The end of a shared one may be another group's; it was said when all was acknowledged.
                    None if is_shared => Seq(u64::MAX),
                    None => inlet.durable,
                };
                let is_open = self.intakes.get(stream).is_some_and(|intake| intake.is_open);
                let is_over = inlet.end().is_some_and(|end| durable >= end) && inlet.undurable.is_empty();
                if is_over || group.is_orphan(*stream, is_open) {
                    ended.push((*id, *stream));
                }
            }
        }
        for (group, stream) in ended {
            if let Some(intake) = self.intakes.get_mut(stream) {
                intake.groups.retain(|id| *id != group);
                if intake.groups.is_empty() {
                    self.intakes.remove(stream);
                }
                self.update_durable(stream);
            }
            self.act(now, group, ports, |group, io, effects| {
                let inlet = group.inlets.remove(stream);
                let durable = inlet.map(|inlet| inlet.durable);
                group.throw_away(stream, effects);
                if let Some((stream, durable)) = group.meta.stream_mut(stream).zip(durable) {
                    stream.durable = durable;
                    stream.closed = true;
                }
                group.persist(io, Vec::new());
            });
            self.forget_group(now, group, stream, ports);
        }
    }

    /// The group has durably left a shared stream: it no longer counts when it is judged what was lost.
    fn forget_group(
        &mut self,
        now: Now,
        group: GroupId,
        stream: StreamId,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let key = stream_key(stream);
        let Some(value) = ports.recall(&key).filter(|value| !value.is_empty()) else { return };
        let id = group.0.to_le_bytes();
        let left: Vec<u8> = value.chunks_exact(8).filter(|known| *known != id).flatten().copied().collect();
        if left.len() < value.len() {
            self.act(now, group, ports, |_, io, _| {
                io.persist(&key, &left);
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
            if !owned.handed_by(Some(from)) {
                ports.send_message(link, Message::Fenced { group, generation });
            }
            return;
        }
        if owned.meta.life != Life::Open {
            // *Suspended, resumed, and suspended again before the journal had all of the first time: the resync that had
            // waited for that began, and nobody sent it anything.*
            owned.unit_opens.retain(|(_, waiting, _)| *waiting != from);
            return;
        }
        ports.log(format_args!("group \"{}\": the primary suspended it ({state}): {reason}", owned.meta.name));
        let mut reason = reason;
        let end = (0..=reason.len().min(400)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason.truncate(end);
        let text = format!("another primary of group \"{}\" suspended it ({state}): {reason}", owned.meta.name);
        let life = Life::Suspended(state.chars().take(8).collect(), reason);
        self.stop_group(now, link, group, life, &text, Vec::new(), ports);
    }
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// The group stays at its last cut: its other primaries must not believe that they still copy.
    pub(super) fn refusals_to_others(&self, link: LinkId, text: &str) -> Vec<After> {
        let streams = self.meta.streams.iter().filter(|stream| !stream.closed);
        let others = streams.filter_map(|stream| Some((*self.links.get(&stream.owner)?, stream)));
        let refused = others.filter(|(other, _)| *other != link).map(|(other, stream)| {
            let subject = Subject::Stream(stream.id, stream.epoch);
            let (refusal, text) = (Refusal::UnsentRecords, text.to_owned());
            After::Send(other, Message::Refused { group: self.id, subject, refusal, text })
        });
        refused.collect()
    }
}

/// Whether what the two sites say of a pair's content fits together; else a sentence.
fn may_join(pair: &PairMeta, join: &JoinPair, volume: &str) -> Result<(), String> {
    let name = &join.name;
    let is_known = pair.stream.is_some() && !pair.left;
    match (join.content, pair.content) {
        (Content::Established, _) if pair.image == Image::Lost => Err(format!(
            "volume \"{volume}\" of pair \"{name}\" is in memory and lost its content with the process: copy all of it \
             (group_resync --full)"
        )),
        (Content::Established, _) if pair.stream.is_some() => Ok(()),
        // This side was its primary.
        (Content::Established, Content::Established) => Ok(()),
        (Content::Established, _) => Err(format!(
            "the primary has pair \"{name}\" as established, the secondary does not know it: delete it at the primary and \
             create it anew"
        )),
        (Content::Copy, _) if is_known || pair.overwritable => Ok(()),
        (Content::Copy, Content::Empty) if !pair.touched => Ok(()),
        (Content::Copy, _) => Err(format!(
            "volume \"{volume}\" of pair \"{name}\" holds data that the copy would overwrite: create the pair at the \
             secondary with initial copy to give it up"
        )),
        _ if pair.touched => Err(format!(
            "volume \"{volume}\" was written by an earlier pair \"{name}\": delete the pair at the secondary, and create it \
             anew on a volume of zeroes (or declared_identical)"
        )),
        (Content::Empty, Content::Empty) | (Content::DeclaredIdentical, Content::DeclaredIdentical) => Ok(()),
        (theirs, mine) => {
            let words = |content| match content {
                Content::Empty => "found empty",
                Content::DeclaredIdentical => "declared identical",
                Content::Established => "established",
                Content::Copy => "to be copied",
            };
            Err(format!(
                "pair \"{name}\" was {} at the primary and {} at the secondary: create both alike",
                words(theirs),
                words(mine)
            ))
        }
    }
}

pub(super) fn stream_key(stream: StreamId) -> String {
    format!("secondary/stream/{:016x}", stream.0)
}
