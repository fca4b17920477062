//! A planned swap, seen from the primary: everything that a host was told is done goes to the secondary before that
//! becomes the primary.
//!
//! ```text
//! Draining   hosts are answered Transition; what is at the device and on its way ends
//! Flushing   the volumes here, so that they are what the secondary's are, whatever happens to the power
//! Recording  "handing over", with how far the streams are: durable before the secondary hears of it
//! Told       HandOver, once in each session; no time-out from here on: the secondary may be the primary already
//!   Refused ─> Returning: "handing over" is taken back, durably, then hosts are served again
//!   HandedOver ─> Over: the engine makes this system the secondary
//!   the operator's word ─> Abandoned: this system goes on in a generation that leaves the secondary's out
//! ```
//!
//! One HandOver per session and attempt, and one answer to each: a second one could be accepted while the refusal of the
//! first is on its way, and then both sites would serve hosts.

mod abandon;

use super::meta::Suspension;
use super::pair::Phase;
use super::suspend::FirstMissed;
use super::{Primary, Stopping, Up, Uplink, Wait, Waiting};
use crate::engine::OperatorError;
use crate::message::{Message, Refusal};
use crate::ports::{DeviceError, HostError, LocalIo, Memory, Ticket};
use crate::role::{Former, FormerPair};
use crate::types::{Extent, Generation, Geometry, GroupId, LinkId, Mono, Now, PairState, StreamId, Time};

const VERSION: u8 = 1;

/// A group that is being handed over.
#[derive(Debug)]
pub(super) struct HandOver {
    ticket: Option<Ticket>,
    since: Mono,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Draining { until: Mono },
    Flushing { left: usize, error: Option<DeviceError> },
    Recording(Note),
    Told { note: Note, is_said: bool },
    Returning(String),
    Over { generation: Generation, end: Time },
    Abandoned(Generation),
}

/// What is kept across restarts from [`Stage::Recording`] on, under `primary/handover/<group>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    generation: Generation,
    /// Every record has this time or an earlier one.
    end: Time,
    last_sum: Option<u64>,
}

pub(super) fn key_of(group: GroupId) -> String {
    format!("primary/handover/{:016x}", group.0)
}

/// What the engine asks before it makes a primary a secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// It is not.
    No,
    /// It is not, but another site began a generation of the same number.
    Split {
        /// The other site's.
        other: Generation,
        /// This system's own.
        ours: Generation,
    },
    /// By this generation, which this system's (the second) does not have to precede.
    By {
        /// The newer one.
        newer: Generation,
        /// This system's own.
        ours: Generation,
    },
}

impl HandOver {
    /// Whether its end is fixed: no stamp comes after it.
    pub(super) fn has_ended(&self) -> bool {
        self.is_told() || matches!(self.stage, Stage::Recording(_))
    }

    /// Whether the secondary may have heard of it: only its word brings the group back.
    pub(super) fn is_told(&self) -> bool {
        matches!(self.stage, Stage::Told { .. } | Stage::Returning(_) | Stage::Over { .. } | Stage::Abandoned(_))
    }
}

impl<M: Memory> Primary<M> {
    /// Begins a planned swap. Answered [`crate::ports::OperatorAnswer::Swapped`] when this system is the secondary.
    ///
    /// # Errors
    /// [`OperatorError::NotFound`]; [`OperatorError::WrongState`] unless the group copies, whole, with a session. The ticket
    /// is not answered then, and nothing was changed.
    pub fn group_swap<U>(&mut self, now: Now, id: GroupId, ticket: Ticket, ports: &mut U) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(group) = self.groups.get(&id) else {
            return Err(OperatorError::NotFound("there is no such group here".to_string()));
        };
        if let Some(obstacle) = self.swap_obstacle(id, ports) {
            return Err(OperatorError::WrongState(format!(
                "group {} cannot be swapped: {obstacle}",
                group.config.name
            )));
        }
        ports.log(format_args!("group {}: swap begins, hosts wait", group.config.name));
        let until = now.mono.after_ns(self.config.operator_wait_ns);
        let members = group.pairs.clone();
        self.handovers.insert(id, HandOver { ticket: Some(ticket), since: now.mono, stage: Stage::Draining { until } });
        for pair in members {
            self.fail_waiting(pair, HostError::Transition, ports);
        }
        self.due = Mono(0);
        self.settle(now, ports);
        Ok(())
    }

    /// Why the group cannot be handed over now.
    pub(super) fn swap_obstacle(&self, id: GroupId, ports: &impl Up<M>) -> Option<String> {
        let group = &self.groups[&id];
        if self.handovers.contains_key(&id) {
            return Some("it is being handed over already; wait for that".to_string());
        }
        if self.retiring.contains(&id) {
            return Some("it is becoming a secondary".to_string());
        }
        if !matches!(self.shutdown, Stopping::No) {
            return Some("the system is shutting down".to_string());
        }
        if let Some(newer) = group.fenced {
            return Some(format!(
                "another site took it over already (generation {}); see group_failback",
                newer.number
            ));
        }
        if let Some(suspension) = group.suspension() {
            return Some(format!(
                "it is suspended ({}: {}); group_resync it first",
                suspension.state.code(),
                suspension.reason
            ));
        }
        if !group.is_running() {
            return Some("it is being resynced; wait until its pairs are in PAIR state".to_string());
        }
        if let Some(name) = self.resizing_in(id) {
            return Some(format!("pair {name} is being resized; wait for that"));
        }
        if group.pairs.is_empty() {
            return Some("it has no pairs".to_string());
        }
        for pair in &group.pairs {
            let pair = &self.pairs[pair];
            let name = &pair.config.name;
            if !matches!(pair.phase, Phase::Member) || pair.content != crate::message::Content::Established {
                return Some(format!("pair {name} is not in PAIR state"));
            }
            if pair.leaving.is_some() {
                return Some(format!("pair {name} is being deleted"));
            }
            if pair.dirty.missing_bytes() > 0 || pair.is_copying {
                return Some(format!("pair {name} still has regions to copy; wait for that"));
            }
            if pair.verify.as_ref().is_some_and(|verify| !verify.is_over) {
                return Some(format!("pair {name} is being verified; wait for that"));
            }
        }
        let streams = self.streams_of(id).map(|(stream, _)| &self.streams[&stream]);
        let is_open = streams.into_iter().all(|stream| stream.started && !stream.is_broken());
        if !ports.session_is_up(group.config.link) || !is_open {
            return Some("the link to the secondary is down; wait for it".to_string());
        }
        None
    }

    /// What hosts wait for meanwhile.
    pub(super) fn hand_over_waiting(&self, id: GroupId) -> Option<Waiting> {
        let handover = self.handovers.get(&id)?;
        let (owner, reason) = match &handover.stage {
            Stage::Draining { .. } => {
                let left = self.undrained(id).unwrap_or_else(|| "all is there".to_string());
                ("secondary", format!("the group is handed over: {left}"))
            }
            Stage::Flushing { .. } => {
                ("local volume", "the group is handed over: the volumes are being flushed".into())
            }
            Stage::Recording(_) | Stage::Returning(_) | Stage::Abandoned(_) => {
                ("metadata", "how far the hand-over is is becoming durable".to_string())
            }
            Stage::Told { note, is_said: false } => {
                let given_up = note.generation.number + 1;
                let text = format!(
                    "the group is handed over: the secondary hears of it in the next session; if that system is lost for \
                     good and cut from its hosts, group_swap with abandon and discard_generation {given_up} goes on here"
                );
                ("link", text)
            }
            Stage::Told { .. } => {
                ("secondary", "it was told to be the primary; only its word, yes or no, lets hosts go on".to_string())
            }
            Stage::Over { .. } => {
                ("operator", "the other site is the primary; this one needs a journal to be its secondary".to_string())
            }
        };
        let timeout = match &handover.stage {
            Stage::Draining { until } => Some(*until),
            _ => None,
        };
        Some(Waiting { owner, reason, since: handover.since, timeout })
    }

    /// Why nothing else can be asked of the group: it changes its part.
    pub(super) fn part_obstacle(&self, id: GroupId) -> Result<(), OperatorError> {
        let Some(group) = self.groups.get(&id) else { return Ok(()) };
        let what = if self.retiring.contains(&id) {
            "is becoming a secondary here"
        } else if self.is_handing_over(id) {
            "is being handed over to the other site (group_swap)"
        } else {
            return Ok(());
        };
        Err(OperatorError::WrongState(format!("group {} {what}; wait for that", group.config.name)))
    }

    /// Whether hosts have to wait, or to go to the other site.
    pub(super) fn is_handing_over(&self, id: GroupId) -> bool {
        self.handovers.contains_key(&id)
    }

    /// Since when.
    pub(super) fn handing_over_since(&self, id: GroupId) -> Option<Mono> {
        self.handovers.get(&id).map(|handover| handover.since)
    }

    /// What a pair's hosts are told while its group changes its part.
    pub(super) fn role_refusal(&self, id: GroupId) -> Option<HostError> {
        if self.retiring.contains(&id) {
            Some(HostError::Secondary)
        } else {
            self.is_handing_over(id).then_some(HostError::Transition)
        }
    }

    /// Goes on with a hand-over. Returns when to look again.
    pub(super) fn hand_over_on(&mut self, now: Now, id: GroupId, ports: &mut impl Up<M>) -> Option<Mono> {
        match &self.handovers.get(&id)?.stage {
            Stage::Draining { until } => {
                let until = *until;
                let ended = self.groups.get(&id).and_then(|group| group.suspension()).map(|it| it.reason.clone());
                if let Some(reason) = ended {
                    self.give_up_hand_over(
                        id,
                        OperatorError::WrongState(format!("suspended meanwhile: {reason}")),
                        ports,
                    );
                    return None;
                }
                match self.undrained(id) {
                    None => {
                        self.flush_for_hand_over(id, ports);
                        None
                    }
                    Some(reason) if now.mono >= until => {
                        self.give_up_hand_over(id, OperatorError::TimedOut(reason), ports);
                        None
                    }
                    // Durability is reported as an event of its own, but a group that shares its stream hears of it late.
                    Some(_) => Some(until.min(now.mono.after_ns(self.config.retry_ns))),
                }
            }
            Stage::Told { is_said: false, .. } => {
                self.say_hand_over(id, ports);
                None
            }
            _ => None,
        }
    }

    /// What still has to arrive before the group can be handed over.
    fn undrained(&self, id: GroupId) -> Option<String> {
        for pair in self.groups[&id].pairs.iter().map(|pair| &self.pairs[pair]) {
            if pair.requests > 0 {
                return Some(format!("{} host requests of pair {} are not finished", pair.requests, pair.config.name));
            }
            if !pair.copy.is_idle(&pair.dirty) {
                return Some(format!("regions of pair {} are copied again", pair.config.name));
            }
            // What an earlier epoch brought is there: a resync began this one, or it was drained.
            let stream = self.streams.get(&pair.stream).filter(|stream| stream.epoch == pair.last_epoch);
            if pair.last_stamp.zip(stream).is_some_and(|(last, stream)| last.seq > stream.durable) {
                return Some(format!("the secondary does not have all records of pair {} yet", pair.config.name));
            }
        }
        None
    }

    /// The group goes on as before. Only while the secondary has not heard of it.
    fn give_up_hand_over(&mut self, id: GroupId, error: OperatorError, ports: &mut impl Up<M>) {
        let Some(handover) = self.handovers.remove(&id) else { return };
        assert!(
            !matches!(handover.stage, Stage::Told { .. } | Stage::Over { .. }),
            "taken back behind the secondary's back"
        );
        let name = self.groups.get(&id).map_or("?", |group| &group.config.name);
        ports.log(format_args!("group {name}: swap given up, hosts are served here: {error}"));
        if let Some(ticket) = handover.ticket {
            ports.answer_operator(ticket, Err(error));
        }
        self.due = Mono(0);
    }

    /// Drained: the volumes here must hold what the secondary's do, also after a power cut. *An answered write was in the
    /// device's cache only, lost after the swap, and no mark was left of it: the sites differed for ever.*
    fn flush_for_hand_over(&mut self, id: GroupId, ports: &mut impl Up<M>) {
        let volumes: Vec<_> = self.groups[&id].pairs.iter().map(|pair| self.pairs[pair].config.volume).collect();
        let Some(handover) = self.handovers.get_mut(&id) else { return };
        handover.stage = Stage::Flushing { left: volumes.len(), error: None };
        for volume in volumes {
            let token = self.token(Wait::HandOverFlush(id));
            ports.local(volume, LocalIo::Flush, token);
        }
    }

    /// A volume was flushed, or could not be.
    pub(super) fn hand_over_flushed(&mut self, id: GroupId, result: Result<(), DeviceError>, ports: &mut impl Up<M>) {
        let Some(HandOver { stage: Stage::Flushing { left, error }, .. }) = self.handovers.get_mut(&id) else { return };
        *left -= 1;
        *error = error.or(result.err());
        if *left > 0 {
            return;
        }
        if let Some(error) = *error {
            let text = format!("a volume here could not be flushed ({error}); hosts are served here as before");
            return self.give_up_hand_over(id, OperatorError::Device(text), ports);
        }
        // *An earlier flush failed behind its back: what it covered was copied again while the volumes were flushed.*
        let ended = self.groups.get(&id).and_then(|group| group.suspension()).map(|it| it.reason.clone());
        if let Some(reason) = ended.or_else(|| self.undrained(id)) {
            let text = format!("while the volumes were flushed: {reason}; swap again");
            return self.give_up_hand_over(id, OperatorError::WrongState(text), ports);
        }
        self.record_hand_over(id, ports);
    }

    fn record_hand_over(&mut self, id: GroupId, ports: &mut impl Up<M>) {
        assert!(self.undrained(id).is_none(), "zero loss: handed over while records were on their way");
        let group = &self.groups[&id];
        // A shared stream's numbers are other groups' too.
        let is_shared = group.config.scope == crate::types::Scope::System;
        let last = |(stream, _): (StreamId, LinkId)| self.streams[&stream].count(&self.stamper).last.0;
        let last_sum = (!is_shared).then(|| self.streams_of(id).map(last).fold(0, u64::wrapping_add));
        let note = Note { generation: group.generation, end: self.stamper.floor(), last_sum };
        let value = note.encode();
        let Some(handover) = self.handovers.get_mut(&id) else { return };
        handover.stage = Stage::Recording(note);
        self.keep(&key_of(id), &value, Wait::HandOver(id), ports);
    }

    /// The note is durable, or its end is.
    pub(super) fn hand_over_durable(&mut self, now: Now, id: GroupId, ports: &mut impl Up<M>) {
        let Some(handover) = self.handovers.get_mut(&id) else { return };
        match &handover.stage {
            Stage::Recording(note) => {
                handover.stage = Stage::Told { note: *note, is_said: false };
                self.say_hand_over(id, ports);
            }
            Stage::Returning(reason) => {
                let error = OperatorError::WrongState(reason.clone());
                self.give_up_hand_over(id, error, ports);
                self.serve_again(now, id, ports);
            }
            Stage::Abandoned(generation) => {
                let generation = *generation;
                self.abandoned(id, generation, ports);
            }
            _ => {}
        }
    }

    /// Says it, once in a session.
    pub(super) fn say_hand_over(&mut self, id: GroupId, ports: &mut impl Up<M>) {
        let Some(group) = self.groups.get(&id) else { return };
        let Some(HandOver { stage: Stage::Told { note, is_said }, .. }) = self.handovers.get_mut(&id) else { return };
        if *is_said || !ports.session_is_up(group.config.link) {
            return;
        }
        *is_said = true;
        let Note { generation, end, last_sum } = *note;
        ports.send_message(group.config.link, Message::HandOver { group: id, generation, end, last_sum });
    }

    /// What was said in the session before may be lost.
    pub(super) fn unsay_hand_overs(&mut self, link: LinkId) {
        for (id, handover) in &mut self.handovers {
            if self.groups.get(id).is_some_and(|group| group.config.link == link)
                && let Stage::Told { is_said, .. } = &mut handover.stage
            {
                *is_said = false;
            }
        }
        self.due = Mono(0);
    }

    /// The secondary will not be the primary, and has said so for good.
    pub(super) fn hand_over_refused(&mut self, id: GroupId, refusal: Refusal, text: String, ports: &mut impl Up<M>) {
        let Some(handover) = self.handovers.get_mut(&id) else { return };
        if !matches!(handover.stage, Stage::Told { is_said: true, .. }) {
            self.misdeeds += 1;
            return;
        }
        let _ = refusal;
        // Hosts are served when that is durable. *A write was answered, the process died, its next start found "handing
        // over" and offered the secondary the state before that write.*
        handover.stage = Stage::Returning(format!("the secondary refused to become the primary: {text}"));
        self.keep(&key_of(id), &[], Wait::HandOver(id), ports);
    }

    /// The secondary is the primary now.
    pub(super) fn handed_over(&mut self, now: Now, id: GroupId, generation: Generation, ports: &mut impl Up<M>) {
        let Some(group) = self.groups.get(&id) else { return };
        let is_next = generation.is_child_of(group.generation);
        match self.handovers.get_mut(&id) {
            Some(handover) if is_next => {
                let end = match &handover.stage {
                    Stage::Told { note, .. } => note.end,
                    Stage::Over { end, .. } => *end,
                    _ => return self.misdeeds += 1,
                };
                ports.log(format_args!("group {}: handed over as generation {}", group.config.name, generation.number));
                handover.stage = Stage::Over { generation, end };
            }
            _ => self.take_fenced(now, id, generation, ports),
        }
    }

    /// Another site took the group over otherwise: the swap is over.
    pub(super) fn fence_hand_over(&mut self, id: GroupId, newer: Generation, ports: &mut impl Up<M>) {
        let Some(handover) = self.handovers.remove(&id) else { return };
        if let Some(ticket) = handover.ticket {
            let text = format!("the group was taken over meanwhile (generation {}); see group_failback", newer.number);
            ports.answer_operator(ticket, Err(OperatorError::WrongState(text)));
        }
        self.keep(&key_of(id), &[], Wait::Note, ports);
    }

    /// Hosts are served again.
    fn serve_again(&mut self, now: Now, id: GroupId, ports: &mut impl Up<M>) {
        let Some(group) = self.groups.get(&id) else { return };
        // After a restart its pairs were not opened: a resync, with next to nothing to copy, does it.
        let has_streams = group.pairs.iter().all(|pair| self.streams.contains_key(&self.pairs[pair].stream));
        if group.is_running() && !has_streams {
            let reason = "restarted while a swap was under way, which the secondary refused".to_string();
            self.suspend(now, id, PairState::SuspendedError, reason, FirstMissed::Unknown, ports);
        }
    }

    /// A restart found the group: it may be on its way to the other site.
    pub(super) fn resume_hand_over(&mut self, now: Now, id: GroupId, ports: &impl Up<M>) {
        let Some(group) = self.groups.get(&id) else { return };
        let note = ports.recall(&key_of(id)).and_then(|value| Note::decode(&value));
        if let Some(note) = note.filter(|note| note.generation == group.generation && group.fenced.is_none()) {
            self.handovers
                .insert(id, HandOver { ticket: None, since: now.mono, stage: Stage::Told { note, is_said: false } });
            self.due = Mono(0);
        }
    }

    /// Groups that the secondary has taken: the generation it began, and the time up to which both hold the same.
    pub(crate) fn given_away(&self) -> Vec<(GroupId, Generation, Time)> {
        let over = |(id, handover): (&GroupId, &HandOver)| match handover.stage {
            Stage::Over { generation, end } if !self.retiring.contains(id) => Some((*id, generation, end)),
            _ => None,
        };
        self.handovers.iter().filter_map(over).collect()
    }

    /// Whether another site took the group over, and the generations of both.
    pub(crate) fn fenced_by(&self, id: GroupId) -> Option<Fenced> {
        let group = self.groups.get(&id)?;
        let ours = group.generation;
        Some(match (group.fenced, group.rival) {
            (Some(newer), _) => Fenced::By { newer, ours },
            (None, Some(other)) => Fenced::Split { other, ours },
            (None, None) => Fenced::No,
        })
    }

    /// From here on hosts are told that this is a secondary. The engine goes on when nothing is at the devices any more.
    pub(crate) fn retire<U>(&mut self, now: Now, id: GroupId, ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(group) = self.groups.get(&id) else { return };
        let members = group.pairs.clone();
        self.retiring.insert(id);
        self.kill_jobs(now, |_, group| group == id);
        for pair in members {
            self.fail_waiting(pair, HostError::Secondary, ports);
        }
    }

    /// What a secondary needs of the primary that was here; `None` while a request is at a device.
    pub(crate) fn former(&self, id: GroupId, generation: Generation, equal_at: Option<Time>) -> Option<Former> {
        let group = self.groups.get(&id)?;
        let mut pairs = Vec::new();
        for pair_id in &group.pairs {
            let pair = &self.pairs[pair_id];
            if pair.requests > 0 {
                return None;
            }
            let ours = group.generation;
            let marked = match equal_at {
                // Of a swap nothing differs: all was durable at both sites when the secondary was told.
                Some(_) => Vec::new(),
                None if generation.is_child_of(ours) || generation.gives_up(ours) => marked_extents(&pair.dirty),
                // *Both sites took the history over at points of their own: what lay between these was in neither's map.*
                None => everything(pair.config.geometry),
            };
            pairs.push(FormerPair {
                pair: *pair_id,
                name: pair.config.name.clone(),
                volume: pair.config.volume,
                geometry: pair.config.geometry,
                volatile: pair.config.volatile,
                marked,
            });
        }
        let greatest_time = self.stamper.floor();
        Some(Former { generation, primary: group.config.remote, equal_at, greatest_time, pairs })
    }

    /// The ticket of a swap that is over.
    pub(crate) fn take_swap_ticket(&mut self, id: GroupId) -> Option<Ticket> {
        self.handovers.get_mut(&id)?.ticket.take()
    }
}

/// Everything that a map marks, runs of regions together.
fn marked_extents(map: &crate::dirty::DirtyMap) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut from = 0;
    while let Some(region) = map.next_marked(from) {
        from = region + 1;
        let extent = map.extent(region);
        match extents.last_mut() {
            Some(last) if last.end() == extent.lba && last.blocks.checked_add(extent.blocks).is_some() => {
                last.blocks += extent.blocks;
            }
            _ => extents.push(extent),
        }
    }
    extents
}

/// All of a volume.
fn everything(geometry: Geometry) -> Vec<Extent> {
    let piece = |lba: u64| Extent { lba, blocks: u32::try_from(geometry.blocks - lba).unwrap_or(u32::MAX) };
    (0..geometry.blocks).step_by(u32::MAX as usize).map(piece).collect()
}

impl Note {
    fn encode(self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.last_sum.is_some())];
        let Generation { number, id, parent } = self.generation;
        for number in [number, id, parent, self.end.0, self.last_sum.unwrap_or(0)] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Note> {
        let [VERSION, has_sum @ 0..=1, rest @ ..] = bytes else { return None };
        let numbers =
            rest.chunks(8).map(|it| it.try_into().ok().map(u64::from_le_bytes)).collect::<Option<Vec<_>>>()?;
        let [number, id, parent, end, sum] = *numbers else { return None };
        let generation = Generation { number, id, parent };
        Some(Note { generation, end: Time(end), last_sum: (*has_sum == 1).then_some(sum) })
    }
}

/// Why a group that was taken over does not copy.
pub(super) fn taken_over(is_swap: bool) -> Suspension {
    let reason = match is_swap {
        true => "handed over to this system; it copies back as soon as the old primary follows",
        false => {
            "taken over: hosts are served here; group_failback at the old primary makes that the secondary, then \
             group_failback here brings it up to date"
        }
    };
    Suspension { state: PairState::TakenOver, reason: reason.to_string(), first_missed: None, auto: is_swap }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_of_a_hand_over_is_read_back_and_a_cut_one_is_not() {
        let generation = Generation { number: 3, id: 4, parent: 5 };
        for last_sum in [None, Some(7)] {
            let note = Note { generation, end: Time(9), last_sum };
            let whole = note.encode();
            assert_eq!(Note::decode(&whole), Some(note));
            for len in 0..whole.len() {
                assert_eq!(Note::decode(&whole[..len]), None, "{len} bytes");
            }
        }
    }
}
