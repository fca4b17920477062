//! The end of following a primary: freezing, and takeover in the steps of design 4a.

use super::group::{After, Group, Phase};
use super::intake::Effects;
use super::io::Io;
use super::meta::{Life, UnitMeta};
use super::window::{Discard, Discarding};
use super::{Downlink, TakeoverConsent};
use crate::apply::Applied;
use crate::engine::OperatorError;
use crate::ports::{OperatorAnswer, Ticket};
use crate::stream::push_number;
use crate::takeover::{LossCertificate, StreamLoss, TakeoverAt, TakeoverStep, VolumeIdentity, volume_uuid};
use crate::types::{Extent, Generation, PairId, Seq, StreamId, Time};
use std::ops::RangeInclusive;

/// Regions of discarded records that are kept; more are merged into larger ones.
const DISCARDED_MAX: usize = 1024;
/// Ranges of seen numbers that are kept per stream; the rest shows in the highest announced number.
const SEEN_MAX: usize = 64;

/// A takeover under way.
pub(crate) struct Takeover {
    pub(crate) step: TakeoverStep,
    tickets: Vec<Ticket>,
    /// The new generation's id.
    random: u64,
    /// The operator's consent to two histories.
    accept_split: bool,
    /// The point that the operator chose, if it is not the recovery point.
    pub(crate) at: Option<Time>,
    /// What that throws away of the journal.
    pub(crate) discard: Option<Discard>,
}

impl Takeover {
    fn new(step: TakeoverStep, tickets: Vec<Ticket>) -> Takeover {
        Takeover { step, tickets, random: 0, accept_split: false, at: None, discard: None }
    }

    /// From here on the takeover is for ever.
    pub(crate) fn is_sealed(&self) -> bool {
        self.step > TakeoverStep::Seal
    }
}

/// What a stream leaves behind when its group takes nothing more.
pub(crate) struct Remains {
    pub(crate) stream: StreamId,
    /// Whole records above the run.
    pub(crate) seen: Vec<RangeInclusive<u64>>,
    pub(crate) announced: Seq,
    pub(crate) greatest_time: Time,
    /// Where records above the run would have written.
    pub(crate) extents: Vec<(PairId, Extent)>,
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// How far a takeover is.
    pub(crate) fn takeover_step(&self) -> Option<TakeoverStep> {
        match (&self.takeover, &self.meta.life) {
            (Some(takeover), _) => Some(takeover.step),
            (None, Life::TakenOver) => Some(TakeoverStep::Writable),
            (None, Life::Sealed { .. }) => Some(TakeoverStep::Apply),
            _ => None,
        }
    }

    /// Starts a takeover, or waits with one that is under way. `random` names the new generation.
    pub(crate) fn take_over<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        ticket: Ticket,
        random: u64,
        consent: TakeoverConsent,
        at: TakeoverAt,
    ) -> Result<(), OperatorError> {
        let name = &self.meta.name;
        if let (Phase::TakenOver, Some(certificate)) = (&self.phase, &self.meta.certificate) {
            io.ports.answer_operator(ticket, Ok(OperatorAnswer::TakenOver(certificate.clone())));
            return Ok(());
        }
        if let Some(takeover) = &mut self.takeover {
            takeover.tickets.push(ticket);
            return Ok(());
        }
        let refused = match &self.phase {
            Phase::Failed(reason) => Some(reason.clone()),
            Phase::Ready(_) if self.meta.generation.number == 0 => {
                Some("no primary ever opened it: there is nothing to take over".to_owned())
            }
            Phase::Ready(_)
                if self.meta.unit.as_ref().is_some_and(|unit| unit.is_overlaid) && !self.overlay.is_open() =>
            {
                Some(
                    self.overlay_reason()
                        .unwrap_or_else(|| "the overlay is being opened: try again in a moment".to_owned()),
                )
            }
            Phase::Ready(_) => self.meta.pairs.iter().find(|pair| !self.volumes.contains_key(&pair.id)).map(|pair| {
                format!("the volume of pair \"{}\" is not attached: create the pair again with pair_create", pair.name)
            }),
            _ => Some("its journal is still being opened: try again in a moment".to_owned()),
        };
        if let Some(reason) = refused {
            return Err(OperatorError::WrongState(format!("group \"{name}\" cannot be taken over: {reason}")));
        }
        if let Some(obstacle) = self.follower_obstacle() {
            return Err(OperatorError::WrongState(format!("group \"{name}\" cannot be taken over: {obstacle}")));
        }
        let point = self.point_of(&at)?;
        let whole = self.meta.pairs.iter().any(|pair| pair.is_whole_at(point));
        if !whole && !self.meta.pairs.is_empty() {
            return Err(OperatorError::WrongState(format!(
                "group \"{name}\" cannot be taken over at {point}: no pair of it was ever consistent then"
            )));
        }
        io.ports.log(format_args!("group \"{name}\": takeover begins at {point}"));
        let at_time = (at != TakeoverAt::Newest).then_some(point);
        let accept_split = consent.accept_split;
        let begun = Takeover::new(TakeoverStep::Journal, vec![ticket]);
        // A resync that waits for the journal does not begin any more.
        self.unit_opens.clear();
        self.takeover = Some(Takeover { random, accept_split, at: at_time, ..begun });
        self.set_barrier();
        Ok(())
    }

    /// A planned swap's takeover: all is journaled, nobody waits for it here.
    pub(crate) fn begin_swap(&mut self, random: u64) {
        self.takeover = Some(Takeover { random, ..Takeover::new(TakeoverStep::Journal, Vec::new()) });
        self.set_barrier();
    }

    /// A restart found the seal: from here on the takeover finishes by itself.
    pub(crate) fn resume_takeover<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        if matches!(self.meta.life, Life::Sealed { .. }) {
            io.ports.log(format_args!("group \"{}\": takeover goes on after a restart", self.meta.name));
            self.takeover = Some(Takeover::new(self.first_step(), Vec::new()));
            self.seal_applier();
        }
    }

    /// Goes on with a takeover.
    pub(crate) fn take_over_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        if self.takeover_step() == Some(TakeoverStep::Journal) {
            self.list_on(io, effects);
        }
        if self.takeover_step() == Some(TakeoverStep::Restore) {
            self.restore_on(io, effects);
        }
        let is_checkpointing = self.is_checkpointing();
        let (Phase::Ready(ready), Some(takeover)) = (&mut self.phase, &mut self.takeover) else { return };
        match takeover.step {
            TakeoverStep::Apply => {
                if ready.applier.is_done() && !ready.applier.is_flushing() && !is_checkpointing {
                    takeover.step = TakeoverStep::Flush;
                    let volumes: Vec<_> = self.volumes.values().map(|(volume, _)| *volume).collect();
                    if let Some(Applied::Flushed(point)) = ready.applier.flush(io, volumes) {
                        self.volumes_flushed(io, point);
                    }
                }
            }
            TakeoverStep::Flush => {
                // A flush failed: what it may have lost is applied again first.
                if !ready.applier.is_flushing() {
                    takeover.step = TakeoverStep::Apply;
                }
            }
            TakeoverStep::Journal
            | TakeoverStep::Seal
            | TakeoverStep::Restore
            | TakeoverStep::Close
            | TakeoverStep::Writable => {}
        }
    }

    /// The first step's end: everything that counts is journaled, and what does not is known.
    fn list_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        let Phase::Ready(ready) = &self.phase else { return };
        let is_earlier = self.takeover.as_ref().is_some_and(|takeover| takeover.at.is_some());
        let is_journaled = (is_earlier || self.released.is_empty()) && !ready.journal.is_busy();
        // What the unit still has in memory never counts; a journal that is full of it would never take it.
        if !is_journaled && ready.journal.error().is_none() && self.meta.unit.is_none() {
            return;
        }
        let at = self.takeover.as_ref().and_then(|takeover| takeover.at);
        match at.filter(|at| *at < self.recovery_point).map(|at| self.discard_on(io, at)) {
            Some(Discarding::Wait) => return,
            Some(Discarding::Damaged { at, known }) => return self.fail_damaged(io, at, known),
            Some(Discarding::Done) | None => {}
        }
        if let Some(takeover) = &mut self.takeover {
            takeover.step = TakeoverStep::Seal;
            effects.detach = true;
        }
    }

    /// The step that follows the seal.
    fn first_step(&self) -> TakeoverStep {
        let is_overlaid = self.meta.unit.as_ref().is_some_and(|unit| unit.is_overlaid);
        if is_overlaid { TakeoverStep::Restore } else { TakeoverStep::Apply }
    }

    /// What the seal says is durable: nothing behind it goes to a volume.
    fn seal_applier(&mut self) {
        let cut = self.meta.certificate.as_ref().map_or(self.recovery_point, |it| it.recovery_point);
        if let (Life::Sealed { end }, Phase::Ready(ready)) = (&self.meta.life, &mut self.phase) {
            ready.applier.seal(*end, cut);
        }
    }

    /// The journal cannot be used: whoever waits for a takeover learns why it does not come.
    pub(crate) fn end_takeover<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, reason: &str) {
        for ticket in self.takeover.take().map_or_else(Vec::new, |takeover| takeover.tickets) {
            let text = format!("group \"{}\" cannot be taken over: {reason}", self.meta.name);
            io.ports.answer_operator(ticket, Err(OperatorError::WrongState(text)));
        }
    }

    /// Whether the flush that ends is the takeover's.
    pub(crate) fn is_last_flush(&self) -> bool {
        self.takeover.as_ref().is_some_and(|takeover| takeover.step == TakeoverStep::Flush)
    }

    /// Takes nothing more of its streams: what they leave is remembered, what can't be released is thrown away. Returns
    /// what memory that frees.
    fn absorb(&mut self, remains: Vec<Remains>, keep_released: bool, effects: &mut Effects) {
        if !keep_released {
            let abandoned = match &mut self.phase {
                Phase::Ready(ready) => ready.journal.abandon(),
                _ => Vec::new(),
            };
            let released = self.take_released();
            let begun = self.commit.drain(..).flat_map(|block| block.items).collect::<Vec<_>>();
            for item in begun.into_iter().chain(abandoned).chain(released) {
                // It counts as seen: put back where it came from, in order.
                let head = item.record.head;
                match self.inlets.of_epoch(head.stamp.stream, item.epoch) {
                    Some(_) => self.waiting.push(item),
                    // Of an epoch that is over.
                    None => {
                        effects.freed.push((head.stamp.stream, item.epoch, head.charge_bytes()));
                        if head.kind.changes_volume() {
                            self.meta.discarded.push((head.pair, head.extent));
                        }
                    }
                }
            }
        }
        let mut discarded = std::mem::take(&mut self.meta.discarded);
        for (id, inlet) in self.inlets.iter_mut() {
            let Some(stream) = self.meta.streams.find_mut(id) else { continue };
            let remains = remains.iter().find(|remains| remains.stream == id);
            for item in self.waiting.take_stream(id) {
                let head = item.record.head;
                push_number(&mut stream.seen, head.stamp.seq.0);
                stream.announced = stream.announced.max(head.stamp.seq);
                if head.kind.changes_volume() {
                    discarded.push((head.pair, head.extent));
                }
                effects.freed.push((id, item.epoch, head.charge_bytes()));
                self.meta.greatest_time = self.meta.greatest_time.max(head.stamp.time);
            }
            inlet.undurable.retain(|seq| !stream.seen.iter().any(|range| range.contains(&seq.0)));
            if let Some(remains) = remains {
                // A shared stream's may have come again. *After a crash 97 waited in the ring for another group's 96, and was in
                // the journal: the certificate called it applied and not.*
                let numbers = remains.seen.iter().cloned().flatten();
                for number in numbers.filter(|number| *number > inlet.durable.0) {
                    push_number(&mut stream.seen, number);
                }
                stream.announced = stream.announced.max(remains.announced);
                discarded.extend_from_slice(&remains.extents);
                self.meta.greatest_time = self.meta.greatest_time.max(remains.greatest_time);
            }
            stream.seen.truncate(SEEN_MAX);
        }
        self.meta.discarded = merged(discarded);
    }

    /// The group takes nothing more until a resync: the recovery point stays at the least tip.
    pub(crate) fn stop<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        life: Life,
        remains: Vec<Remains>,
        after: Vec<After>,
        effects: &mut Effects,
    ) {
        io.ports.log(format_args!("group \"{}\": stays at {}: {life:?}", self.meta.name, self.limit));
        let heads =
            self.waiting.iter().map(|item| (item.record.head.stamp.stream, item.epoch, item.record.head.stamp.seq));
        effects.lost.extend(heads);
        self.absorb(remains, true, effects);
        self.unit_opens.clear();
        self.meta.life = life;
        self.persist(io, after);
    }

    /// The takeover's second step: the new generation, the seal and the certificate become durable.
    pub(crate) fn seal<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        remains: Vec<Remains>,
        effects: &mut Effects,
    ) {
        self.absorb(remains, false, effects);
        let discard = self.takeover.as_mut().and_then(|takeover| takeover.discard.take());
        let (Phase::Ready(ready), Some(takeover)) = (&self.phase, &self.takeover) else { return };
        let old = self.meta.generation;
        let generation = Generation { number: old.number + 1, id: takeover.random.max(1), parent: old.id };
        // A unit whose end is being made durable counts: the seal is durable behind it.
        let unit = self.meta.unit.clone();
        let newest = unit.as_ref().map_or(self.journaled, |unit| unit.base);
        let cut = takeover.at.unwrap_or(newest);
        // Behind an overlay the image may be on the volumes already, with the unit's records over it.
        let position = |unit: &UnitMeta| match unit.is_overlaid {
            true => unit.position.max(self.meta.checkpoint.position),
            false => unit.position,
        };
        let end = unit.as_ref().map_or(ready.journal.committed_end(), position);
        let mut losses = Vec::new();
        for stream in self.meta.streams.iter() {
            let durable = self.inlets.get(&stream.id).map_or(stream.durable, |inlet| inlet.durable);
            let at_base = unit.as_ref().map(|unit| {
                let known = unit.last.iter().find(|(id, epoch, _)| (*id, *epoch) == (stream.id, stream.epoch));
                known.map_or(stream.base.previous(), |(_, _, last)| *last)
            });
            let thrown_away = discard.as_ref().and_then(|discard| discard.first.get(&stream.id));
            let first = thrown_away.map(|(epoch, first)| if *epoch == stream.epoch { *first } else { stream.base });
            let last_applied = first.map(Seq::previous).into_iter().chain(at_base).fold(durable, Seq::min);
            let mut seen = Vec::new();
            if last_applied < durable {
                seen.push(last_applied.0 + 1..=durable.0);
            }
            for range in &stream.seen {
                match seen.last_mut() {
                    Some(last) if last.end().checked_add(1) == Some(*range.start()) => {
                        *last = *last.start()..=*range.end()
                    }
                    _ => seen.push(range.clone()),
                }
            }
            losses.push(StreamLoss {
                stream: stream.id,
                epoch: stream.epoch,
                last_applied,
                seen_not_applied: seen,
                highest_announced: stream.announced.max(durable),
            });
        }
        let is_swap = self.handed.is_some_and(|handed| handed.generation == generation);
        assert!(
            !is_swap || losses.iter().all(|loss| loss.seen_not_applied.is_empty()) && self.meta.discarded.is_empty(),
            "zero loss in a swap: {losses:?}"
        );
        let identity = |pair: PairId| VolumeIdentity { pair, uuid: volume_uuid(generation, pair) };
        let (whole, partial): (Vec<_>, Vec<_>) = self.meta.pairs.iter().partition(|pair| pair.is_whole_at(cut));
        self.meta.certificate = Some(LossCertificate {
            recovery_point: cut,
            generation,
            streams: losses,
            // Hosts ride through a swap: the volumes stay what they are to them.
            volumes: if is_swap { Vec::new() } else { whole.iter().map(|pair| identity(pair.id)).collect() },
            never_consistent: partial.iter().map(|pair| pair.id).collect(),
        });
        let mut discarded = std::mem::take(&mut self.meta.discarded);
        discarded.extend(discard.into_iter().flat_map(|discard| discard.extents));
        discarded.extend(self.touched_extents());
        self.meta.discarded = merged(discarded);
        self.meta.bookmarks.retain(|bookmark| bookmark.stamp.time <= cut);
        self.meta.unit = unit.filter(|unit| unit.is_overlaid);
        self.limit = cut;
        self.recovery_point = cut;
        let accept_split = takeover.accept_split;
        self.meta.generation = generation;
        self.meta.split_accepted = accept_split;
        self.meta.life = Life::Sealed { end };
        self.persist(io, vec![After::Sealed]);
    }

    /// The seal is durable.
    pub(crate) fn sealed<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        // A swap's old primary hears that it is over when it is.
        effects.fence = !self.is_handed();
        let next = self.first_step();
        if let Some(takeover) = &mut self.takeover {
            takeover.step = next;
        }
        self.seal_applier();
        io.ports.log(format_args!(
            "group \"{}\": sealed as generation {} at recovery point {}",
            self.meta.name, self.meta.generation.number, self.recovery_point
        ));
    }

    /// The volumes are flushed: the journal is closed for ever.
    pub(crate) fn close<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        if let Some(takeover) = &mut self.takeover {
            takeover.step = TakeoverStep::Close;
        }
        self.meta.life = Life::TakenOver;
        self.persist(io, vec![After::Closed]);
    }

    /// That is durable: the volumes are the hosts'.
    pub(crate) fn closed<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        self.phase = Phase::TakenOver;
        self.inlets.clear();
        self.waiting.clear();
        let tickets = self.takeover.take().map_or_else(Vec::new, |takeover| takeover.tickets);
        io.ports.log(format_args!("group \"{}\": taken over, the volumes serve hosts", self.meta.name));
        for ticket in tickets {
            if let Some(certificate) = &self.meta.certificate {
                io.ports.answer_operator(ticket, Ok(OperatorAnswer::TakenOver(certificate.clone())));
            }
        }
    }
}

/// Sorted, without overlaps, and at most [`DISCARDED_MAX`]: beyond that neighbours become one region that covers both.
pub(super) fn merged(mut extents: Vec<(PairId, Extent)>) -> Vec<(PairId, Extent)> {
    extents.sort_unstable();
    let mut reach = 0;
    loop {
        let mut out: Vec<(PairId, Extent)> = Vec::with_capacity(extents.len());
        for (pair, extent) in extents {
            if let Some((last_pair, last)) = out.last_mut()
                && *last_pair == pair
                && extent.lba <= last.end().saturating_add(reach)
                && let Ok(blocks) = u32::try_from(last.end().max(extent.end()) - last.lba)
            {
                last.blocks = blocks;
            } else {
                out.push((pair, extent));
            }
        }
        if out.len() <= DISCARDED_MAX || reach == u64::MAX {
            return out;
        }
        extents = out;
        reach = reach.saturating_mul(2).max(8);
    }
}
