//! A pair grows while hosts use it.
//!
//! ```text
//! Asking     the secondary makes its side larger, durably, if its volume has room; said again until it is answered
//! Recording  the new blocks are marked as due to be copied, then the pair's record says its new size, durably
//! Copying    what the volume here holds in the new blocks goes to the secondary (zeroes as write-zeroes)
//! Settling   until all of that is durable there
//! Ending     that hosts see the new size is durable; then they do, here first
//! ```
//!
//! **The new blocks are copied, not zeroed**: what an operator put there before the growth stays, and there is one way for
//! all that makes two volumes equal. Hosts see them only when both sites hold the same, so no recovery point is without
//! them.
//!
//! A crash in between: the secondary may be the larger one; a pair that joins again says its size, and the secondary's goes
//! back to that. From [`Stage::Recording`]'s end on the pair has its new size, and what is not copied is marked: the resync
//! that every unclean start begins brings it, and the growth goes on from [`Stage::Copying`]. *A start showed hosts the new
//! size at once: what they read there was not in the copy.*

use super::meta::pair_key;
use super::{Primary, Stopping, Up, Uplink, Wait, Waiting};
use crate::dirty;
use crate::engine::OperatorError;
use crate::message::Message;
use crate::ports::{Memory, OperatorAnswer, Ticket};
use crate::types::{Epoch, Geometry, GroupId, Mono, Now, PairId, PairState, Seq};

/// A pair that is made larger.
#[derive(Debug)]
pub(super) struct Resize {
    ticket: Option<Ticket>,
    /// When the operator is told that it takes long.
    until: Mono,
    since: Mono,
    /// What it is to have.
    blocks: u64,
    /// What hosts see until it is over.
    shown: u64,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Asking { asked: Option<Mono>, put_off: Option<String> },
    Recording,
    Copying,
    Settling(Epoch, Seq),
    Ending,
}

impl<M: Memory> Primary<M> {
    /// Makes a pair larger: `blocks` in all, which the volumes of both sides must have already. Answered
    /// [`OperatorAnswer::Resized`] when hosts may use them; with [`OperatorError::TimedOut`] when that takes long: it goes
    /// on by itself then.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] unless the group is in PAIR state with a session;
    /// [`OperatorError::Invalid`] for a size that is not larger, or that the volume here does not have. The ticket is not
    /// answered then, and nothing was changed.
    pub fn pair_resize<U>(
        &mut self,
        now: Now,
        id: PairId,
        blocks: u64,
        ticket: Ticket,
        ports: &mut U,
    ) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(pair) = self.pairs.get(&id) else {
            return Err(OperatorError::NotFound("there is no such pair here".to_string()));
        };
        let (name, group, has) = (pair.config.name.clone(), pair.config.group, pair.config.geometry);
        let wrong = |text: String| Err(OperatorError::WrongState(format!("pair {name} cannot be resized: {text}")));
        if let Some(obstacle) = self.swap_obstacle(group, ports) {
            return wrong(obstacle);
        }
        if self.member_state(group) != PairState::Pair {
            return wrong(format!("its group is in {} state, not PAIR", self.member_state(group).code()));
        }
        let invalid = |text: String| Err(OperatorError::Invalid(text));
        if blocks <= has.blocks {
            let what = if blocks == has.blocks { "has" } else { "would shrink to" };
            return invalid(format!(
                "pair {name} has {} blocks of {} bytes and {what} {blocks}: a pair only grows; what is to be smaller is \
                 copied to a new pair",
                has.blocks, has.block_bytes
            ));
        }
        let Some(there) = ports.volume_blocks(self.pairs[&id].config.volume) else {
            return wrong("how large its volume is now is not known".to_string());
        };
        if there < blocks {
            return invalid(format!(
                "the volume of pair {name} has {there} blocks of {} bytes here, {blocks} are asked for: make the file or \
                 device larger, then bdev_uring_rescan, then try again",
                has.block_bytes
            ));
        }
        let most = dirty::blocks_max(self.pairs[&id].region_bytes, has.block_bytes);
        if blocks > most {
            return invalid(format!(
                "pair {name} can have {most} blocks at most, {blocks} are asked for: its dirty map stays as fine as it was \
                 made; for more copy to a new pair"
            ));
        }
        ports.log(format_args!("pair {name}: grows from {} to {blocks} blocks", has.blocks));
        let until = now.mono.after_ns(self.config.operator_wait_ns);
        let stage = Stage::Asking { asked: None, put_off: None };
        let resize = Resize { ticket: Some(ticket), until, since: now.mono, blocks, shown: has.blocks, stage };
        self.resizes.insert(id, resize);
        self.due = Mono(0);
        self.settle(now, ports);
        Ok(())
    }

    /// The pair of a group that is being resized, if one is.
    pub(super) fn resizing_in(&self, group: GroupId) -> Option<&str> {
        let in_group = |pair: &&PairId| self.pairs.get(*pair).is_some_and(|pair| pair.config.group == group);
        let id = self.resizes.keys().find(in_group)?;
        Some(&self.pairs[id].config.name)
    }

    /// The size that hosts may see.
    pub(super) fn shown_geometry(&self, id: PairId, geometry: Geometry) -> Geometry {
        self.resizes.get(&id).map_or(geometry, |resize| Geometry { blocks: resize.shown, ..geometry })
    }

    /// What it waits for.
    pub(super) fn resize_waiting(&self, id: PairId) -> Option<Waiting> {
        let resize = self.resizes.get(&id)?;
        let (owner, reason) = match &resize.stage {
            Stage::Asking { put_off: Some(text), .. } => ("secondary", text.clone()),
            Stage::Asking { asked: Some(_), .. } => ("secondary", "it has to make its side larger".to_string()),
            Stage::Asking { .. } => ("link", "no session with the secondary system to grow the pair".to_string()),
            Stage::Recording | Stage::Ending => ("metadata", "the pair's new size is becoming durable".to_string()),
            Stage::Copying | Stage::Settling(..) => {
                ("secondary", "the new blocks are copied before hosts see them".to_string())
            }
        };
        let timeout = resize.ticket.map(|_| resize.until);
        Some(Waiting { owner, reason, since: resize.since, timeout })
    }

    /// Goes on with a resize. Returns when to look again.
    pub(super) fn tend_resize(&mut self, now: Now, id: PairId, ports: &mut impl Up<M>) -> Option<Mono> {
        let resize = self.resizes.get(&id)?;
        let Some(pair) = self.pairs.get(&id) else {
            let error = OperatorError::WrongState("the pair was deleted meanwhile".to_string());
            return self.end_resize(id, Err(error), ports);
        };
        if !matches!(self.shutdown, Stopping::No) {
            return None;
        }
        let group_id = pair.config.group;
        let group = &self.groups[&group_id];
        if matches!(resize.stage, Stage::Asking { .. }) && !group.is_running() {
            // The secondary's size goes back when the pair joins again.
            let text = format!("group {} left PAIR state meanwhile: resize again when it is back", group.config.name);
            return self.end_resize(id, Err(OperatorError::WrongState(text)), ports);
        }
        let retry = now.mono.after_ns(self.config.retry_ns);
        let link = group.config.link;
        let stream = self.streams.get(&pair.stream).filter(|stream| group.is_running() && stream.live().is_some());
        match &resize.stage {
            Stage::Asking { asked, .. } => {
                let is_due = asked.is_none_or(|asked| asked.after_ns(self.config.retry_ns) <= now.mono);
                if is_due && ports.session_is_up(link) {
                    let blocks = resize.blocks;
                    self.resize_enters(id, Stage::Asking { asked: Some(now.mono), put_off: None });
                    ports.send_message(link, Message::Resize { group: group_id, pair: id, blocks, is_done: false });
                }
            }
            Stage::Recording | Stage::Ending => {}
            Stage::Copying => {
                if let Some(stream) = stream.filter(|_| pair.copy.is_idle(&pair.dirty)) {
                    let (epoch, last) = (stream.epoch, stream.count(&self.stamper).last);
                    self.resize_enters(id, Stage::Settling(epoch, last));
                    return Some(now.mono);
                }
            }
            Stage::Settling(epoch, last) => {
                let is_there = stream.map(|stream| stream.epoch == *epoch && stream.durable >= *last);
                match is_there {
                    Some(true) => {
                        self.resize_enters(id, Stage::Ending);
                        let pair = self.pairs.get_mut(&id)?;
                        pair.shown_blocks = None;
                        let (record, serial) = (pair.record().encode(), pair.serial);
                        self.keep(&pair_key(id), &record, Wait::Resized(id, serial), ports);
                    }
                    // A resync has brought it, or will.
                    None => self.resize_enters(id, Stage::Copying),
                    Some(false) => {}
                }
            }
        }
        let resize = self.resizes.get_mut(&id)?;
        if now.mono >= resize.until
            && let Some(ticket) = resize.ticket.take()
        {
            let text = "the pair grows by itself as soon as it can; pair_get shows what it waits for".to_string();
            ports.answer_operator(ticket, Err(OperatorError::TimedOut(text)));
        }
        Some(retry)
    }

    fn resize_enters(&mut self, id: PairId, stage: Stage) {
        if let Some(resize) = self.resizes.get_mut(&id) {
            resize.stage = stage;
        }
    }

    fn end_resize(
        &mut self,
        id: PairId,
        answer: Result<OperatorAnswer, OperatorError>,
        ports: &mut impl Up<M>,
    ) -> Option<Mono> {
        if let Some(ticket) = self.resizes.remove(&id).and_then(|resize| resize.ticket) {
            ports.answer_operator(ticket, answer);
        }
        None
    }

    /// Says which size hosts see, so that the secondary's volume shows the same.
    pub(super) fn tell_size(&self, id: PairId, ports: &mut impl Up<M>) {
        let Some(pair) = self.pairs.get(&id).filter(|_| !self.resizes.contains_key(&id)) else { return };
        let (group, blocks) = (pair.config.group, pair.config.geometry.blocks);
        let link = self.groups[&group].config.link;
        ports.send_message(link, Message::Resize { group, pair: id, blocks, is_done: true });
    }

    /// The secondary's side is larger, durably.
    pub(super) fn resized(&mut self, id: PairId, blocks: u64, ports: &mut impl Up<M>) {
        let Some(resize) = self.resizes.get(&id).filter(|resize| resize.blocks == blocks) else { return };
        let is_asked = matches!(resize.stage, Stage::Asking { asked: Some(_), .. });
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| is_asked && pair.config.geometry.blocks < blocks) else {
            return;
        };
        let geometry = Geometry { blocks, ..pair.config.geometry };
        if !pair.dirty.grow(geometry) {
            // Asked again soon.
            return;
        }
        pair.shown_blocks = Some(pair.config.geometry.blocks);
        pair.config.geometry = geometry;
        let (record, serial) = (pair.record().encode(), pair.serial);
        self.resize_enters(id, Stage::Recording);
        // The marks first: a start that finds the new size finds them.
        self.keep_marks_of(id, ports);
        self.keep(&pair_key(id), &record, Wait::Resized(id, serial), ports);
    }

    /// The secondary cannot, or not yet. `true`: that was about a resize.
    pub(super) fn resize_refused(&mut self, id: PairId, is_final: bool, text: &str, ports: &mut impl Up<M>) -> bool {
        let Some(resize) = self.resizes.get_mut(&id) else { return false };
        let Stage::Asking { asked: Some(_), put_off } = &mut resize.stage else { return false };
        if is_final {
            self.end_resize(id, Err(OperatorError::Invalid(text.to_string())), ports);
        } else {
            *put_off = Some(text.to_string());
        }
        true
    }

    /// The pair's record says its new size, durably; or that hosts see it.
    pub(super) fn resize_recorded(&mut self, now: Now, id: PairId, serial: u64, ports: &mut impl Up<M>) {
        if self.pairs.get(&id).is_none_or(|pair| pair.serial != serial) {
            return;
        }
        let Some(resize) = self.resizes.get(&id) else { return };
        if resize.stage == Stage::Ending {
            let blocks = resize.blocks;
            self.end_resize(id, Ok(OperatorAnswer::Resized { blocks }), ports);
            self.tell_size(id, ports);
            return ports.volume_changed(id);
        }
        self.resize_enters(id, Stage::Copying);
        self.copying.insert(id);
        self.wake_pump(now.mono);
        self.due = Mono(0);
    }

    /// A start found a pair that was growing: hosts see what they saw, until the rest is copied.
    pub(super) fn resume_resize(&mut self, now: Now, id: PairId, shown_blocks: Option<u64>) {
        let Some((pair, shown)) = self.pairs.get_mut(&id).zip(shown_blocks) else { return };
        pair.shown_blocks = shown_blocks;
        let blocks = pair.config.geometry.blocks;
        let (until, since) = (Mono(u64::MAX), now.mono);
        self.resizes.insert(id, Resize { ticket: None, until, since, blocks, shown, stage: Stage::Copying });
        self.due = Mono(0);
    }
}
