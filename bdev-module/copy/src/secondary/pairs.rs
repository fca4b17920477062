//! Pairs as the operator creates and deletes them here.

use super::group::{After, Candidate, Group, Phase};
use super::intake::Effects;
use super::io::{Io, Op};
use super::meta::{Image, Life, PairMeta, Share};
use super::{Downlink, PairConfig};
use crate::apply::Gate;
use crate::blank::{BlankCheck, Verdict};
use crate::engine::OperatorError;
use crate::message::Content;
use crate::ports::{OperatorAnswer, Ticket};
use crate::types::{Initial, PairId, Time};

/// Whether the operator gives up what the volume holds.
fn gives_up(initial: Initial) -> bool {
    matches!(initial, Initial::Copy | Initial::CopyDifferences)
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// Takes a pair in, or attaches its volume again.
    pub(crate) fn create_pair<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        config: PairConfig,
        ticket: Ticket,
    ) -> Result<PairId, OperatorError> {
        let id = PairId::of_name(self.id, &config.name);
        let (name, group) = (&config.name, &self.meta.name);
        if self.volumes.contains_key(&id) || self.candidates.contains_key(&id) {
            return Err(OperatorError::Exists(format!("group \"{group}\" has a pair \"{name}\" already")));
        }
        if let Some(known) = self.meta.pair(id) {
            // A volume that was made larger stays as large as its pair, until that is resized.
            let (was, is) = (known.geometry, config.geometry);
            if was.block_bytes != is.block_bytes || was.blocks > is.blocks {
                return Err(OperatorError::Invalid(format!(
                    "pair \"{name}\" was established with {} blocks of {} bytes, volume \"{}\" has {} of {}: give the \
                     volume it was created with",
                    known.geometry.blocks,
                    known.geometry.block_bytes,
                    config.volume_name,
                    config.geometry.blocks,
                    config.geometry.block_bytes
                )));
            }
            if let Some(pair) = self.meta.pair_mut(id) {
                pair.overwritable |= gives_up(config.initial);
            }
            self.volumes.insert(id, (config.volume, config.volume_name));
            if config.volatile {
                self.volatile.insert(id);
                self.lose_volatile(io);
            }
            io.ports.answer_operator(ticket, Ok(OperatorAnswer::PairCreated(id)));
            return Ok(id);
        }
        if let Phase::Failed(reason) = &self.phase {
            return Err(OperatorError::WrongState(format!("group \"{group}\" cannot take pairs: {reason}")));
        }
        if matches!(self.meta.life, Life::Sealed { .. } | Life::TakenOver | Life::Lost(_)) || self.takeover.is_some() {
            return Err(OperatorError::WrongState(format!(
                "group \"{group}\" no longer follows a primary, so it takes no new pair \"{name}\": create another group"
            )));
        }
        self.candidates.insert(id, Candidate { config, ticket, check: None });
        Ok(id)
    }

    /// Goes on with pairs that are not established.
    pub(super) fn check_candidates<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        if let Phase::Failed(reason) = &self.phase {
            for (id, candidate) in std::mem::take(&mut self.candidates) {
                effects.forgotten.push(id);
                let name = &candidate.config.name;
                let error = format!("pair \"{name}\" cannot be created in group \"{}\": {reason}", self.meta.name);
                io.ports.answer_operator(candidate.ticket, Err(OperatorError::WrongState(error)));
            }
        }
        if !matches!(self.phase, Phase::Ready(_)) || self.candidates.is_empty() {
            return;
        }
        let mut decided = Vec::new();
        for (id, candidate) in &mut self.candidates {
            if candidate.config.initial == Initial::Identical {
                decided.push((*id, Ok(Content::DeclaredIdentical)));
                continue;
            }
            if gives_up(candidate.config.initial) {
                decided.push((*id, Ok(Content::Copy)));
                continue;
            }
            let config = &candidate.config;
            let check = candidate.check.get_or_insert_with(|| BlankCheck::new(config.volume, config.geometry));
            let (tokens, group) = (&mut *io.tokens, io.group);
            check.poll(io.ports, || tokens.issue(group, Op::Blank(*id)));
            let volume = &config.volume_name;
            match check.verdict() {
                None => {}
                Some(Verdict::Blank) => decided.push((*id, Ok(Content::Empty))),
                Some(Verdict::HasData { lba }) => decided.push((
                    *id,
                    Err(OperatorError::Invalid(format!(
                        "volume \"{volume}\" holds data (block {lba} is not zero): a new pair needs a volume of zeroes, \
                         or declared_identical if both sites hold the same data already"
                    ))),
                )),
                Some(Verdict::Unreadable { lba, error }) => decided.push((
                    *id,
                    Err(OperatorError::Device(format!("volume \"{volume}\" cannot be read at block {lba}: {error}"))),
                )),
            }
        }
        for (id, verdict) in decided {
            let verdict = match (self.buried.contains_key(&id) && verdict.is_ok(), self.hold) {
                // Until the next checkpoint.
                (true, None) => continue,
                (true, Some(_)) => Err(OperatorError::WrongState(format!(
                    "the journal still holds records of an earlier pair of this name, which was deleted in the middle of a \
                     resync: create it when that has ended (group_resync at the primary), or give the pair another name: \
                     group \"{}\"",
                    self.meta.name
                ))),
                (false, _) => verdict,
            };
            let Some(candidate) = self.candidates.remove(&id) else { continue };
            let Candidate { config, ticket, .. } = candidate;
            effects.is_busy = true;
            match verdict {
                Ok(content) => {
                    self.meta.pairs.push(PairMeta {
                        id,
                        name: config.name,
                        geometry: config.geometry,
                        shown_blocks: None,
                        content,
                        stream: None,
                        touched: false,
                        left: false,
                        overwritable: gives_up(config.initial),
                        // What an operator gave up is no picture of anything until it was copied, joined or not.
                        image: if gives_up(config.initial) { Image::Copying(None) } else { Image::Whole(Time(0)) },
                        share: Share::None,
                    });
                    self.volumes.insert(id, (config.volume, config.volume_name));
                    self.persist(io, vec![After::Answer(ticket, OperatorAnswer::PairCreated(id))]);
                }
                Err(error) => {
                    effects.forgotten.push(id);
                    io.ports.answer_operator(ticket, Err(error));
                }
            }
        }
    }

    /// The content of volumes in memory ended with an earlier process, if there was any.
    pub(crate) fn lose_volatile<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        // Not before the journal says which pairs had records.
        if !matches!(self.phase, Phase::Ready(_)) || matches!(self.meta.life, Life::Sealed { .. }) {
            return;
        }
        let mut lost = false;
        for id in std::mem::take(&mut self.volatile) {
            let Some(pair) = self.meta.pair_mut(id) else { continue };
            if pair.image != Image::Lost && (pair.touched || pair.content != Content::Empty) {
                pair.image = Image::Lost;
                lost = true;
            }
        }
        if lost {
            self.persist(io, Vec::new());
        }
    }

    /// The journal may hold records of a pair that is no more: they are not the ones of the next pair of its name. *Deleted
    /// in the middle of a resync and created again on a volume of zeroes: when the resync ended, what it had held back went
    /// there.*
    fn bury(&mut self, id: PairId) {
        let Phase::Ready(ready) = &self.phase else { return };
        let queued = self.waiting.iter().chain(&self.released);
        if ready.journal.is_busy() || queued.into_iter().any(|item| item.record.head.pair == id) {
            self.buried.insert(id, u64::MAX);
        } else if ready.journal.committed_end() > self.meta.checkpoint.position {
            self.buried.insert(id, ready.journal.committed_end());
        }
    }

    /// A checkpoint is durable: nothing before it is ever applied again.
    pub(super) fn exhume(&mut self) {
        let Phase::Ready(ready) = &self.phase else { return };
        let (end, is_busy) = (ready.journal.committed_end(), ready.journal.is_busy());
        let checkpoint = self.meta.checkpoint.position;
        let (waiting, released) = (&self.waiting, &self.released);
        self.buried.retain(|id, until| {
            let mut queued = waiting.iter().chain(released);
            if *until == u64::MAX && !is_busy && queued.all(|item| item.record.head.pair != *id) {
                *until = end;
            }
            *until > checkpoint
        });
    }

    /// Forgets a pair.
    pub(crate) fn delete_pair<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        id: PairId,
        is_open: bool,
        ticket: Ticket,
    ) -> Result<(), OperatorError> {
        let Some(pair) = self.meta.pair(id) else {
            return Err(OperatorError::WrongState(
                "the pair's volume is still being checked: wait until pair_create ends".to_owned(),
            ));
        };
        // A primary that did not open the stream in this session may have forgotten the pair while it was not heard.
        let is_fed = is_open && pair.stream.is_some() && !pair.left && self.is_receiving();
        if is_fed {
            return Err(OperatorError::WrongState(format!(
                "pair \"{}\" still receives: delete it at its primary first, or take the group over",
                pair.name
            )));
        }
        let (is_writing, is_gated) = match (&self.phase, self.hold) {
            // What a resync holds back comes when it ends, and then to no pair: the volume keeps what it has.
            (Phase::Ready(ready), Some(hold)) => {
                let is_behind = ready.applier.is_rewinding() || ready.applier.applied().position < hold.position;
                (is_behind || !ready.applier.is_resting(), ready.applier.is_gated(Gate::Overlay))
            }
            (Phase::Ready(ready), None) => (!ready.applier.is_done(), false),
            (Phase::TakenOver | Phase::Failed(_), _) => (false, false),
            _ => (true, false),
        };
        // *An interrupted resync whose overlay was full: its round never ends, nobody could delete the pair.*
        if let Some(reason) = self.overlay_reason().filter(|_| is_gated) {
            return Err(OperatorError::WrongState(format!(
                "the resync is in the middle of writing to the volume of pair \"{}\" and does not go on: {reason}; to delete \
                 it all the same, take the group over first, which brings the image before the resync back",
                pair.name
            )));
        }
        if is_writing || self.takeover.is_some() {
            // The delay would never be over where the recovery point stands still.
            self.is_hurried = true;
            return Err(OperatorError::WrongState(format!(
                "records are still being put on the volume of pair \"{}\": try again in a moment",
                pair.name
            )));
        }
        self.is_hurried = false;
        if self.hold.is_some() {
            let (name, group) = (&pair.name, &self.meta.name);
            io.ports.log(format_args!("group \"{group}\": pair \"{name}\" was deleted in the middle of a resync"));
        }
        self.bury(id);
        self.meta.pairs.retain(|pair| pair.id != id);
        self.volumes.remove(&id);
        io.persist(&crate::identity::key(id), &[]);
        self.persist(io, vec![After::Answer(ticket, OperatorAnswer::Deleted)]);
        Ok(())
    }
}
