//! A resync as one unit (design 4a): from its first OPEN until it commits, every record of the group, copies and host
//! writes alike, replaces the last consistent image as a whole or not at all.
//!
//! ```text
//! OPEN with a unit ─> all that was released is journaled ─> base = limit, durably ─> StreamOpened
//!    records later than the base: journaled and acknowledged, not applied (or applied behind the overlay)
//! CopyEnd of every primary that takes part, journaled up to the last of their ends ─> no unit, durably ─> CopyDone
//! ```
//!
//! The unit begins at a block of its own, so that "not applied" is a position in the journal and a restart needs nothing
//! but that number.

use super::Downlink;
use super::group::{After, Group, Phase};
use super::intake::Effects;
use super::io::Io;
use super::meta::{Image, Life, Share, UnitMeta, UnitOwner};
use super::overlay::State;
use super::status::UnitStatus;
use crate::message::{CopyId, Message, OpenStream};
use crate::types::{Extent, LinkId, PairId, StreamId, SystemId, Time};

/// What a unit holds back, in memory: until its end is durable too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) base: Time,
    /// See [`UnitMeta::position`].
    pub(crate) position: u64,
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// Everything up to here is journaled.
    pub(crate) fn set_journaled(&mut self, journaled: Time) {
        self.journaled = journaled;
        let image = self.hold.map_or(journaled, |hold| journaled.min(hold.base));
        self.recovery_point = self.recovery_point.max(image);
    }

    /// Whether no tip may move the limit now. *A's new epoch counted before it was durable: its first tip let B's records
    /// beyond A's lost ones through; the crash left them in the image and no unit to hold them back.*
    pub(crate) fn holds_limit(&self) -> bool {
        self.admitting > 0 || (self.meta.unit.is_none() && !self.unit_opens.is_empty())
    }

    /// Whether all that was released is in the journal, durably.
    pub(crate) fn is_drained(&self) -> bool {
        let is_busy = match &self.phase {
            Phase::Ready(ready) => ready.journal.is_busy(),
            _ => true,
        };
        // One unit's end is durable before the next one begins.
        let is_ending = self.hold.is_some() && self.meta.unit.is_none();
        !is_busy && !is_ending && self.released.is_empty() && self.journaled == self.limit
    }

    /// A stream's epoch becomes part of the unit, which begins with it if there is none. What the stream still has in its
    /// queue is thrown away: it was not acknowledged, so its primary has it marked.
    pub(crate) fn admit_unit(&mut self, from: SystemId, open: &OpenStream, effects: &mut Effects) {
        let Phase::Ready(ready) = &self.phase else { return };
        if self.meta.unit.is_none() {
            assert!(self.is_drained(), "a unit begins where the journal ends");
            let last = self.inlets.iter().map(|(id, inlet)| (*id, inlet.epoch(), inlet.durable)).collect();
            let unit = UnitMeta {
                base: self.limit,
                position: ready.journal.committed_end(),
                owners: Vec::new(),
                is_overlaid: false,
                last,
            };
            self.hold = Some(Hold { base: unit.base, position: unit.position });
            self.meta.unit = Some(unit);
            self.touched.clear();
            // *B's records 2-4 had come before A's resync began and were released in it: a takeover threw them away and
            // did not say so.*
            for item in self.waiting.iter() {
                let head = &item.record.head;
                if head.kind.changes_volume() {
                    self.touched.insert(head.pair, head.extent);
                }
            }
        }
        self.inlets.remove(open.stream);
        self.throw_away(open.stream, effects);
        let was_stopped = self.meta.life != Life::Open;
        self.meta.life = Life::Open;
        let everyone: Vec<SystemId> = self.meta.streams.iter().filter(|it| !it.closed).map(|it| it.owner).collect();
        let Some(unit) = &mut self.meta.unit else { return };
        let mut take_part =
            |owner: SystemId, number: Option<u64>| match unit.owners.iter_mut().find(|part| part.owner == owner) {
                Some(part) => *part = UnitOwner { owner, number, end: None },
                None => unit.owners.push(UnitOwner { owner, number, end: None }),
            };
        if was_stopped {
            // What the others sent meanwhile was refused.
            everyone.into_iter().for_each(|owner| take_part(owner, None));
        }
        take_part(from, open.unit);
        self.admitting += 1;
        self.set_barrier();
    }

    /// Records that their stream gives up.
    pub(super) fn throw_away(&mut self, stream: StreamId, effects: &mut Effects) {
        for item in self.waiting.take_stream(stream) {
            let head = item.record.head;
            effects.freed.push((stream, item.epoch, head.charge_bytes()));
            self.meta.greatest_time = self.meta.greatest_time.max(head.stamp.time);
            if head.kind.changes_volume() {
                self.meta.discarded.push((head.pair, head.extent));
            }
        }
        self.meta.discarded = super::failover::merged(std::mem::take(&mut self.meta.discarded));
    }

    /// A primary that takes part in the unit has restarted and did not begin a resync: it has to.
    pub(crate) fn expect_unit_of(&mut self, owner: SystemId) {
        let Some(unit) = &mut self.meta.unit else { return };
        unit.owners.retain(|part| part.owner != owner);
        unit.owners.push(UnitOwner { owner, number: None, end: None });
    }

    /// "Everything that this copy was to bring is stamped not later than `end`."
    pub(crate) fn copy_end<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        (link, from): (LinkId, SystemId),
        copy: CopyId,
        end: Time,
    ) {
        if self.meta.life != Life::Open || self.takeover.is_some() {
            return;
        }
        let done = Message::CopyDone { group: self.id, copy };
        match copy {
            CopyId::Unit(number) => {
                let owners = self.meta.unit.iter_mut().flat_map(|unit| &mut unit.owners);
                match owners.into_iter().find(|part| part.owner == from) {
                    Some(part) if part.number == Some(number) && part.end != Some(end) => {
                        part.end = Some(end);
                        self.persist(io, Vec::new());
                    }
                    Some(_) => {}
                    // It is over; the word that said so may have been lost. Behind the write that ends it.
                    None => self.persist(io, vec![After::Send(link, done)]),
                }
            }
            CopyId::Pair(id) => {
                let streams = self.meta.streams.iter().filter(|stream| stream.owner == from);
                let theirs: Vec<_> = streams.map(|stream| stream.id).collect();
                let pair = self.meta.pair_mut(id);
                let Some(pair) = pair.filter(|it| it.stream.is_some_and(|it| theirs.contains(&it))) else { return };
                match pair.image {
                    Image::Copying(known) if known != Some(end) => {
                        pair.image = Image::Copying(Some(end));
                        self.persist(io, Vec::new());
                    }
                    Image::Copying(_) | Image::Lost => {}
                    Image::Whole(_) => self.persist(io, vec![After::Send(link, done)]),
                }
            }
        }
    }

    /// Ends copies that are complete.
    pub(crate) fn copies_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        if self.meta.life != Life::Open || self.takeover.is_some() || self.holds_limit() {
            return;
        }
        self.forget_owners();
        if let Some(unit) = &self.meta.unit {
            let ends: Option<Vec<Time>> = unit.owners.iter().map(|part| part.end).collect();
            // Without anyone to wait for, at once.
            let end = ends.map(|ends| ends.into_iter().max().unwrap_or_default());
            if end.is_some_and(|end| self.journaled >= end) && self.overlay_lets_end() {
                effects.is_busy = true;
                self.commit_unit(io);
            }
            return;
        }
        let mut done = Vec::new();
        for pair in self.meta.pairs.iter_mut() {
            if let Image::Copying(Some(end)) = pair.image
                && self.hold.is_none()
                && self.recovery_point >= end
            {
                pair.image = Image::Whole(end);
                done.push((pair.id, pair.stream));
            }
        }
        for (pair, stream) in done {
            effects.is_busy = true;
            io.ports.log(format_args!("group \"{}\": the first copy of pair {pair} is complete", self.meta.name));
            let owner = stream.and_then(|stream| self.meta.stream(stream)).map(|stream| stream.owner);
            let link = owner.and_then(|owner| self.links.get(&owner)).copied();
            let told = Message::CopyDone { group: self.id, copy: CopyId::Pair(pair) };
            self.persist(io, link.map(|link| After::Send(link, told)));
        }
    }

    /// Whether a resync waits for this stream's primary, which has no pair left that the stream would bring: deleted here or
    /// there while the group was suspended, when a stream is not ended. `is_open`: its primary has opened it in this
    /// session.
    pub(super) fn is_orphan(&self, stream: StreamId, is_open: bool) -> bool {
        let (Some(unit), Some(meta)) = (&self.meta.unit, self.meta.stream(stream)) else { return false };
        // One that has begun its resync and not said which pairs it brings may still do so.
        let are_known = || self.meta.pairs.iter().all(|pair| pair.stream.is_some());
        let is_idle = |part: &UnitOwner| part.number.is_none() || (part.end.is_none() && !is_open && are_known());
        let is_awaited = unit.owners.iter().any(|part| part.owner == meta.owner && is_idle(part));
        is_awaited && !self.meta.pairs.iter().any(|pair| pair.stream == Some(stream) && !pair.left)
    }

    /// Primaries that left the group in the middle of their resync are not waited for; what they brought is no image.
    fn forget_owners(&mut self) {
        let streams = &self.meta.streams;
        let is_here = |owner: SystemId| streams.iter().any(|stream| stream.owner == owner && !stream.closed);
        let Some(unit) = &mut self.meta.unit else { return };
        let gone: Vec<SystemId> = unit
            .owners
            .iter()
            .filter(|part| part.end.is_none() && !is_here(part.owner))
            .map(|part| part.owner)
            .collect();
        if gone.is_empty() {
            return;
        }
        unit.owners.retain(|part| !gone.contains(&part.owner));
        for pair in self.meta.pairs.iter_mut() {
            let owner = pair.stream.and_then(|id| streams.find(id)).map(|it| it.owner);
            if owner.is_some_and(|owner| gone.contains(&owner)) && pair.share != Share::None {
                pair.image = Image::Copying(None);
                pair.share = Share::None;
            }
        }
    }

    /// The unit is complete: its records are the image.
    fn commit_unit<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        let Some(unit) = self.meta.unit.take() else { return };
        let journaled = self.journaled;
        if unit.is_overlaid {
            // Its records went to the volumes whatever the delay. *Some had before a crash; the restart found the unit's end
            // in the journal, and a takeover to the point before it got what was on the volumes.*
            self.meta.reach = self.meta.reach.map(|_| journaled);
            if let Phase::Ready(ready) = &mut self.phase {
                ready.applier.begin_at(journaled);
            }
        }
        io.ports.log(format_args!("group \"{}\": resynced from {} to {journaled}", self.meta.name, unit.base));
        self.meta.leap(unit.base, journaled);
        for pair in self.meta.pairs.iter_mut() {
            if pair.share == Share::Everything && !matches!(pair.image, Image::Whole(_)) {
                pair.image = Image::Whole(journaled);
            }
        }
        // What was thrown away here came again, with what the primary was told of it.
        let pairs = &self.meta.pairs;
        let is_missing = |id: PairId| pairs.iter().any(|pair| pair.id == id && pair.share == Share::None);
        self.meta.discarded.retain(|(pair, _)| is_missing(*pair));
        self.meta.pairs.iter_mut().for_each(|pair| pair.share = Share::None);
        let mut after = vec![After::UnitDone];
        for part in &unit.owners {
            if let Some((link, number)) = self.links.get(&part.owner).copied().zip(part.number) {
                after.push(After::Send(link, Message::CopyDone { group: self.id, copy: CopyId::Unit(number) }));
            }
        }
        self.persist(io, after);
    }

    /// The end of the unit is durable: what it held back goes on.
    pub(crate) fn unit_done(&mut self, effects: &mut Effects) {
        assert!(self.meta.unit.is_none(), "one unit's end is durable before the next one begins");
        self.hold = None;
        self.touched.clear();
        self.overlay_freed();
        self.reach = self.meta.reach;
        self.set_journaled(self.journaled);
        self.set_barrier();
        effects.is_busy = true;
    }

    /// What the unit under way may have changed beyond the image.
    pub(crate) fn touched_extents(&self) -> Vec<(PairId, Extent)> {
        let blocks_of = |pair: PairId| self.meta.pair(pair).map_or(u64::MAX, |pair| pair.geometry.blocks);
        self.touched.extents(blocks_of)
    }

    /// What the unit waits for.
    pub(crate) fn unit_reason(&self) -> Option<String> {
        if !self.unit_opens.is_empty() && self.meta.unit.is_none() {
            return Some("a resync begins when all that came before it is in the journal".to_owned());
        }
        let unit = self.meta.unit.as_ref()?;
        if let Some(reason) = self.overlay_advice() {
            return Some(reason);
        }
        let missing: Vec<String> =
            unit.owners.iter().filter(|part| part.number.is_none()).map(|part| format!("{:x}", part.owner.0)).collect();
        Some(if !missing.is_empty() {
            format!(
                "a resync waits for the other primaries of the group to begin theirs (system {})",
                missing.join(", ")
            )
        } else if unit.owners.iter().any(|part| part.end.is_none()) {
            format!("resync: the image of {} stays until all of it has come", unit.base)
        } else {
            "resync: all of it is sent; it counts when it is in the journal".to_owned()
        })
    }

    /// Why the journal takes nothing.
    pub(crate) fn full_reason(&self) -> String {
        match &self.meta.unit {
            Some(unit) if unit.is_overlaid => {
                self.overlay_advice().unwrap_or_else(|| "the journal is full until the next checkpoint".to_owned())
            }
            Some(_) if self.config.overlay.is_some() => match &self.overlay.state {
                State::Failed(reason) => {
                    format!("the resync fills the journal, and the overlay cannot be used: {reason}")
                }
                _ => "the journal is full until the overlay is open".to_owned(),
            },
            Some(_) => "the journal is full of a resync that may not be applied before it is \
                                                complete: give the group an overlay (group_create), or a larger journal"
                .to_owned(),
            None => "the journal is full until the next checkpoint".to_owned(),
        }
    }

    /// What `group_get` shows of it.
    pub(crate) fn unit_status(&self) -> Option<UnitStatus> {
        let unit = self.meta.unit.as_ref()?;
        let ends: Option<Vec<Time>> = unit.owners.iter().map(|part| part.end).collect();
        Some(UnitStatus {
            base: unit.base,
            unfinished: unit.owners.iter().filter(|part| part.end.is_none()).map(|part| part.owner).collect(),
            end: ends.and_then(|ends| ends.into_iter().max()),
            is_overlaid: unit.is_overlaid,
            reason: self.reason().unwrap_or_default(),
        })
    }
}
