//! One turn of all groups, and what one group's work means for the streams and for the others.

use super::failover::Remains;
use super::group::{Group, Tips};
use super::intake::{Account, Effects, share_bytes, share_out};
use super::io::Io;
use super::{Downlink, Secondary, StreamStatus, TakeoverStep};
use crate::keys::next_key;
use crate::message::Message;
use crate::stream::CHARGE_BYTES_MAX;
use crate::types::{GroupId, Now, RecordHead, Seq, StreamId};
use smallvec::SmallVec;

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    /// Lets a group do something, then does what follows from it outside the group.
    pub(super) fn act<P: Downlink<Buf = B, Shared = S>, R: Default>(
        &mut self,
        now: Now,
        id: GroupId,
        ports: &mut P,
        what: impl FnOnce(&mut Group<S>, &mut Io<'_, P>, &mut Effects, Tips<'_>) -> R,
    ) -> R {
        let Some(group) = self.groups.get_mut(&id) else { return R::default() };
        let mut effects = std::mem::take(&mut self.effects);
        let intakes = &self.intakes;
        let tips = |stream: StreamId| intakes.get(&stream).map(|intake| (intake.rx.epoch(), intake.rx.tip()));
        let mut io = Io { now, ports, tokens: &mut self.tokens, group: id };
        let answer = what(group, &mut io, &mut effects, &tips);
        self.settle(now, id, &mut effects, ports);
        effects.clear();
        self.effects = effects;
        answer
    }

    fn settle(&mut self, now: Now, id: GroupId, effects: &mut Effects, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        for (stream, epoch, charge_bytes) in effects.freed.drain(..) {
            let intake = self.intakes.get_mut(&stream);
            if let Some(intake) = intake.filter(|intake| epoch >= intake.accounts_from) {
                intake.account.free(charge_bytes);
            }
        }
        for pair in effects.forgotten.drain(..) {
            self.pairs.remove(&pair);
        }
        self.role_news |= effects.role_news;
        if effects.is_durable_news {
            self.update_durable();
        }
        for (stream, link) in effects.opened.drain(..) {
            self.stream_opened(id, stream, link, ports);
        }
        if effects.detach {
            let remains = self.detach(id);
            let is_sealing =
                self.groups.get(&id).is_some_and(|group| group.takeover_step() == Some(TakeoverStep::Seal));
            if is_sealing {
                self.act(now, id, ports, |group, io, effects, _| group.seal(io, remains, effects));
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

    pub(super) fn update_durable(&mut self) {
        for (id, intake) in &mut self.intakes {
            let epoch = intake.rx.epoch();
            let waiting = intake.groups.iter().filter_map(|group| self.groups.get(group)?.durable_of(*id, epoch)).min();
            // *Record 5 came after its group's limit and was refused, the run was 5 already: the next report said that 5
            // was durable, the primary freed it and took itself for drained.*
            let taken = intake.broken.map_or(intake.rx.run(), Seq::previous);
            intake.set_durable(waiting.unwrap_or(taken).min(taken));
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
                stream: *stream,
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
            is_busy |= self.act(now, id, ports, |group, io, effects, tips| {
                group.turn(io, tips, effects);
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
        let (total_bytes, streams_max) = (self.config.receive_bytes, self.config.streams_max);
        let share = share_bytes(total_bytes, streams_max, self.intakes.len());
        {
            let accounts = self.intakes.values_mut().map(|intake| &mut intake.account);
            share_out(&mut accounts.collect::<SmallVec<[&mut Account; 16]>>(), total_bytes, streams_max);
        }
        for (id, intake) in &mut self.intakes {
            if !intake.is_open {
                continue;
            }
            let grant_bytes = intake.account.grant();
            let holds = intake.groups.iter().filter_map(|id| self.groups.get(id)?.hold);
            let held = holds.map(|hold| hold.base).min().unwrap_or_default();
            let told = (intake.durable, grant_bytes, held);
            // With nothing else new, more room is told in pieces worth a frame.
            let is_more = told.0 == intake.told.0 && grant_bytes >= intake.told.1 + share / 16;
            let was_short = intake.told.1 < CHARGE_BYTES_MAX && grant_bytes > intake.told.1;
            if intake.is_news || is_more || was_short || held != intake.told.2 {
                intake.is_news = false;
                intake.told = told;
                let status = StreamStatus {
                    stream: *id,
                    epoch: intake.rx.epoch(),
                    run: intake.rx.run(),
                    durable: intake.durable,
                    grant_records: intake.rx.window() as u32,
                    grant_bytes,
                    held,
                };
                ports.send_status(intake.link, status);
            }
        }
    }
}
