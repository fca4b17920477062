//! One turn of all groups, and what one group's work means for the streams and for the others.

use super::failover::Remains;
use super::group::Group;
use super::intake::{Effects, Intake, share_bytes};
use super::io::Io;
use super::{Downlink, Secondary, StreamStatus, TakeoverStep};
use crate::keys::next_key;
use crate::message::Message;
use crate::stream::CHARGE_BYTES_MAX;
use crate::types::{GroupId, Now, RecordHead, Scope, Seq, StreamId, Time};
use std::collections::BTreeMap;

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    /// Lets a group do something, then does what follows from it outside the group.
    pub(super) fn act<P: Downlink<Buf = B, Shared = S>, R: Default>(
        &mut self,
        now: Now,
        id: GroupId,
        ports: &mut P,
        what: impl FnOnce(&mut Group<S>, &mut Io<'_, P>, &mut Effects) -> R,
    ) -> R {
        let Some(group) = self.groups.get_mut(&id) else { return R::default() };
        let mut effects = std::mem::take(&mut self.effects);
        let mut io = Io { now, ports, tokens: &mut self.tokens, group: id };
        let hold = group.hold;
        let answer = what(group, &mut io, &mut effects);
        if group.hold != hold {
            self.intakes.say_all_again();
        }
        self.settle(now, id, &mut effects, ports);
        effects.clear();
        self.effects = effects;
        answer
    }

    fn settle(&mut self, now: Now, id: GroupId, effects: &mut Effects, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        for (stream, epoch, charge_bytes) in effects.freed.drain(..) {
            let intake = self.intakes.for_account(stream);
            if let Some(intake) = intake.filter(|intake| epoch >= intake.accounts_from) {
                intake.account.free(charge_bytes);
            }
        }
        for pair in effects.forgotten.drain(..) {
            self.pairs.remove(&pair);
        }
        for (stream, epoch, seq) in effects.lost.drain(..) {
            if let Some(intake) = self.intakes.for_account(stream).filter(|intake| epoch == intake.rx.epoch()) {
                intake.break_at(seq);
            }
        }
        self.role_news |= effects.role_news;
        effects.durable.sort_unstable();
        effects.durable.dedup();
        for stream in effects.durable.drain(..) {
            self.update_durable(stream);
        }
        for (stream, link) in effects.opened.drain(..) {
            self.stream_opened(id, stream, link, ports);
        }
        if effects.detach {
            let remains = self.detach(id);
            let is_sealing =
                self.groups.get(&id).is_some_and(|group| group.takeover_step() == Some(TakeoverStep::Seal));
            if is_sealing {
                self.act(now, id, ports, |group, io, effects| group.seal(io, remains, effects));
            }
        }
        if effects.fence
            && let Some(group) = self.groups.get(&id)
        {
            for link in group.links.values() {
                self.fence_told.insert((*link, id));
                ports.send_message(*link, Message::Fenced { group: id, generation: group.meta.generation });
            }
        }
        if effects.is_deleted {
            self.groups.remove(&id);
        }
    }

    /// More of the stream may be durable.
    pub(super) fn update_durable(&mut self, stream: StreamId) {
        let Some(durable) = self.durable_of(stream) else { return };
        if let Some(intake) = self.intakes.for_account(stream) {
            intake.set_durable(durable);
        }
    }

    /// Up to which number the stream is durable in every group that it feeds.
    fn durable_of(&self, stream: StreamId) -> Option<Seq> {
        let intake = self.intakes.get(&stream)?;
        let epoch = intake.rx.epoch();
        let waiting = intake.groups.iter().filter_map(|group| self.groups.get(group)?.durable_of(stream, epoch)).min();
        // *Record 5 came after its group's limit and was refused, the run was 5 already: the next report said that 5
        // was durable, the primary freed it and took itself for drained.*
        let taken = intake.broken.map_or(intake.rx.run(), Seq::previous);
        Some(waiting.unwrap_or(taken).min(taken))
    }

    /// Takes note of the tips that moved.
    pub(super) fn note_tips(&mut self) {
        if self.intakes.take_all_moved() {
            self.groups.values_mut().for_each(|group| group.inlets.all_moved());
        }
        while let Some((stream, intake)) = self.intakes.next_moved() {
            let said = (intake.rx.epoch(), intake.rx.tip());
            if intake.scope == Scope::System {
                // Also of a group for which it was not opened again yet: what it says holds there too.
                self.groups.values_mut().for_each(|group| group.inlets.moved(stream, said));
                continue;
            }
            for group in &intake.groups {
                if let Some(group) = self.groups.get_mut(group) {
                    group.inlets.moved(stream, said);
                }
            }
        }
        let intakes = &self.intakes;
        let tip_of = |stream| intakes.get(&stream).map(|intake| (intake.rx.epoch(), intake.rx.tip()));
        for group in self.groups.values_mut() {
            group.inlets.set_tips(tip_of);
        }
    }

    /// The group takes nothing more of any stream: what its streams leave behind.
    pub(super) fn detach(&mut self, id: GroupId) -> Vec<Remains> {
        let pairs = &self.pairs;
        let mut remains = Vec::new();
        self.intakes.retain(|stream, intake| {
            if !intake.groups.contains(&id) {
                return true;
            }
            let is_mine = |head: &RecordHead| pairs.get(&head.pair) == Some(&id);
            let heads = || intake.rx.heads_above_run().filter(|head| is_mine(head));
            remains.push(Remains {
                stream,
                seen: intake.rx.whole_above_run(is_mine),
                announced: intake.rx.announced(),
                greatest_time: intake.rx.seen(),
                extents: heads()
                    .filter(|head| head.kind.changes_volume())
                    .map(|head| (head.pair, head.extent))
                    .collect(),
            });
            intake.groups.retain(|group| *group != id);
            !intake.groups.is_empty()
        });
        remains
    }

    /// The end of a turn: merges, journals, applies, reports. Returns whether anything was done.
    pub fn turn(&mut self, now: Now, ports: &mut impl Downlink<Buf = B, Shared = S>) -> bool {
        let mut is_busy = false;
        let mut last = None;
        while let Some(id) = next_key(&self.groups, last) {
            last = Some(id);
            self.note_tips();
            is_busy |= self.act(now, id, ports, |group, io, effects| {
                group.turn(io, effects);
                effects.is_busy
            });
        }
        self.views_on(now, ports);
        self.begin_units(now, ports);
        self.retire_streams(now, ports);
        self.hand_overs_on(now, ports);
        self.report(ports);
        is_busy
    }

    /// Shares out memory that came free, and tells senders where they stand.
    fn report(&mut self, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        if self.intakes.take_all_durable() {
            let mut last = None;
            while let Some(stream) = next_key(&self.intakes, last) {
                last = Some(stream);
                self.update_durable(stream);
            }
        }
        let mut changed = self.intakes.take_changed();
        self.intakes.share_out(&mut changed, self.config.receive_bytes, self.config.streams_max);
        let share = share_bytes(self.config.receive_bytes, self.config.streams_max, self.intakes.len());
        for stream in &changed {
            if let Some(intake) = self.intakes.being_told(*stream)
                && let Some(status) = news_of(*stream, intake, share, &self.groups)
            {
                intake.is_news = false;
                intake.told = (status.durable, status.grant_bytes, status.held);
                ports.send_status(intake.link, status);
            }
        }
        self.intakes.give_back(changed);
        debug_assert!(
            self.intakes.iter().all(|(stream, intake)| {
                self.durable_of(*stream).is_some_and(|durable| durable <= intake.durable)
                    && news_of(*stream, intake, share, &self.groups).is_none()
            }),
            "a stream changed and nobody said so"
        );
    }
}

/// Where the stream stands, if its sender has to be told.
fn news_of<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static>(
    stream: StreamId,
    intake: &Intake<B, S>,
    share: u64,
    groups: &BTreeMap<GroupId, Group<S>>,
) -> Option<StreamStatus> {
    let grant_bytes = intake.account.grant();
    let held = held(stream, intake, groups);
    // With nothing else new, more room is told in pieces worth a frame.
    let is_more = intake.durable == intake.told.0 && grant_bytes >= intake.told.1 + share / 16;
    let was_short = intake.told.1 < CHARGE_BYTES_MAX && grant_bytes > intake.told.1;
    let is_news = intake.is_news || is_more || was_short || held != intake.told.2;
    (intake.is_open && is_news).then(|| StreamStatus {
        stream,
        epoch: intake.rx.epoch(),
        run: intake.rx.run(),
        durable: intake.durable,
        grant_records: intake.rx.window() as u32,
        grant_bytes,
        held,
    })
}

/// The oldest image that a resync of a group of the stream holds back; 0 if none does. Also of a group that was stopped in it
/// and takes nothing more: *its other primary showed no lag until it heard of that, with all of the resync acknowledged.*
pub(super) fn held<B, S>(stream: StreamId, intake: &Intake<B, S>, groups: &BTreeMap<GroupId, Group<S>>) -> Time
where
    B: AsRef<[u8]> + AsMut<[u8]> + 'static,
    S: AsRef<[u8]> + Clone + 'static,
{
    let fed = intake.groups.iter().filter_map(|id| groups.get(id));
    let is_left = |group: &&Group<S>| {
        intake.scope == Scope::System
            && group.is_stopped()
            && group.inlets.of_epoch(stream, intake.rx.epoch()).is_some()
    };
    fed.chain(groups.values().filter(is_left))
        .filter_map(|group| group.hold)
        .map(|hold| hold.base)
        .min()
        .unwrap_or_default()
}
