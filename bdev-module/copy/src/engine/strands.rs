//! A link of several strands: what one core cannot frame, seal and send alone.
//!
//! ```text
//!   core of the group                       core of strand 0         core of strand 1
//!   Primary, Secondary ─> Several ─────────> Link ══datagrams══
//!                            ^   └──────────────────────────────────> Link ══datagrams══
//!                            └── Tied, Loose ─── Knot <── Up, Down ─────┘
//! ```
//!
//! Each strand is a link by itself, between addresses of its own. To the roles they are one: each stream goes over one of
//! them, with its records, beacons and statuses; all messages go over the first. The sender deals its streams, and says of each
//! as it opens it which strand will bring it.
//!
//! **Sessions.** A session of the link is a session of each strand. The knot, on the first strand's core, ties them once every
//! strand has one, and tells all cores. When one of them ends, the link's session ends, and the knot has the others end too:
//! *each strand's session is part of one session of the link at most*. What a peer said within a session of the link is
//! therefore never taken for a part of another one, whichever strand brought it, and however late.
//!
//! What this gives up: a strand that loses its session interrupts the others for the time of a handshake.

use super::lanes::{Command, Crossing, Inner, News, STREAMS_MAX};
use super::links::{Links, Place};
use super::{Engine, Heard, World};
use crate::link::{CONTROL_QUEUE_MAX, DownReason, STRANDS_MAX};
use crate::message::{Message, Refusal, Subject};
use crate::ports::{CoreId, Memory, Ports};
use crate::primary::Uplink;
use crate::types::{LinkId, Now, StreamId, SystemId};
use std::collections::BTreeMap;

#[cfg(test)]
mod tests;

/// In place of the session of a strand while the link has none. The first is 1.
const NO_SESSION: u64 = 0;

/// What a place is of a link of several strands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// The link, as it is known to the same engine.
    pub(super) of: LinkId,
    pub(super) index: usize,
}

/// A link of several strands, as the groups of one core know it.
pub(super) struct Several {
    strands: Vec<LinkId>,
    /// Each strand's, in the session that is up; none: there is none.
    sessions: Vec<u64>,
    /// The strand of the first stream sent from here.
    begins_with: usize,
    /// Which strand a stream goes over.
    sent: BTreeMap<StreamId, usize>,
    /// Which strand brings it.
    received: BTreeMap<StreamId, usize>,
    /// At the first strand's core.
    knot: Option<Knot>,
}

impl Several {
    pub(super) fn session_is_up(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// Whether the knot is here.
    pub(super) fn is_at_home(&self) -> bool {
        self.knot.is_some()
    }

    /// The strand of messages.
    pub(super) fn first(&self) -> (LinkId, Option<u64>) {
        (self.strands[0], Some(self.sessions.first().copied().unwrap_or(NO_SESSION)))
    }

    /// Which strand a stream goes over. One that has none yet gets the one with the fewest; each core begins with another, as
    /// none knows of the others' streams.
    pub(super) fn strand(&mut self, stream: StreamId) -> u8 {
        if let Some(index) = self.sent.get(&stream) {
            return *index as u8;
        }
        let mut loads = [0usize; STRANDS_MAX];
        for index in self.sent.values() {
            loads[*index] += 1;
        }
        let strands = self.strands.len();
        let in_turn = (0..strands).map(|place| (self.begins_with + place) % strands);
        let index = in_turn.min_by_key(|index| loads[*index]).unwrap_or(0);
        self.sent.insert(stream, index);
        index as u8
    }

    /// That strand, and its session.
    pub(super) fn deal(&mut self, stream: StreamId) -> (LinkId, Option<u64>) {
        let index = usize::from(self.strand(stream));
        (self.strands[index], Some(self.sessions.get(index).copied().unwrap_or(NO_SESSION)))
    }

    /// The strand that a stream goes over, where it has one.
    pub(super) fn sends(&self, stream: StreamId) -> Option<LinkId> {
        self.sent.get(&stream).map(|index| self.strands[*index])
    }

    pub(super) fn no_longer_sends(&mut self, stream: StreamId) -> Option<LinkId> {
        self.sent.remove(&stream).map(|index| self.strands[index])
    }

    /// Where to say how far a stream was received.
    pub(super) fn answers(&self, stream: StreamId) -> Option<(LinkId, Option<u64>)> {
        let index = *self.received.get(&stream)?;
        Some((self.strands[index], Some(self.sessions.get(index).copied().unwrap_or(NO_SESSION))))
    }

    /// Whether this session of a strand is part of the one that is up.
    fn is_of(&self, index: usize, session: u64) -> bool {
        self.sessions.get(index) == Some(&session)
    }

    /// Whether it is, and this stream comes that way.
    pub(super) fn brings(&self, index: usize, session: u64, stream: StreamId) -> bool {
        self.is_of(index, session) && self.received.get(&stream) == Some(&index)
    }
}

/// What ties the sessions of strands into the link's.
#[derive(Debug)]
struct Knot {
    /// Of each strand the session that is up, is of this round, and was part of no session of the link before the present one.
    sessions: Vec<Option<u64>>,
    /// Rises with each session of the link that ends, at whichever side that is noticed; agreed on in each handshake.
    round: u64,
    is_tied: bool,
    /// Messages of the first strand's session, of a peer whose knot is tied already.
    waiting: Vec<(SystemId, Message)>,
    /// Other cores whose groups use the link, and its number there.
    users: Vec<(CoreId, LinkId)>,
}

/// What a strand's news lead to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// The link's session has ended.
    is_loose: bool,
    /// Strands' sessions that have to end, or where there is none, strands that have to hear of the round.
    end: Vec<(usize, u64)>,
    /// Then one begins, of these.
    tied: Option<Vec<u64>>,
}

impl Knot {
    fn new(strands: usize) -> Knot {
        let sessions = vec![None; strands];
        Knot { sessions, round: 0, is_tied: false, waiting: Vec::new(), users: Vec::new() }
    }

    /// A strand has a session.
    fn up(&mut self, index: usize, session: u64, round: u64) -> Outcome {
        let mut outcome = Outcome::default();
        if round < self.round {
            outcome.end.push((index, session));
            return outcome;
        }
        if round > self.round {
            outcome = self.loosen(round);
        }
        self.sessions[index] = Some(session);
        if index == 0 {
            self.waiting.clear();
        }
        outcome.tied = self.sessions.iter().copied().collect();
        self.is_tied = outcome.tied.is_some();
        outcome
    }

    /// A strand's session has ended.
    fn down(&mut self, index: usize) -> Outcome {
        // It may be one that was told to end, and is forgotten.
        if self.sessions[index].take().is_none() {
            return Outcome::default();
        }
        if index == 0 {
            self.waiting.clear();
        }
        // *Each side had the other strands' sessions end for the one that was lost at the other: without a round both did so for
        // ever.*
        if self.is_tied { self.loosen(self.round.saturating_add(1)) } else { Outcome::default() }
    }

    /// Begins a round. No session of before is of it.
    fn loosen(&mut self, round: u64) -> Outcome {
        self.round = round;
        self.waiting.clear();
        let sessions = self.sessions.iter_mut().enumerate();
        let end = sessions.map(|(index, session)| (index, session.take().unwrap_or(NO_SESSION)));
        Outcome { end: end.collect(), is_loose: std::mem::take(&mut self.is_tied), tied: None }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone> Links<B, S> {
    pub(super) fn several(&self, id: LinkId) -> Option<&Several> {
        match self.slots.get(id.0 as usize)? {
            Place::Several(several) => Some(several),
            _ => None,
        }
    }

    fn several_mut(&mut self, id: LinkId) -> Option<&mut Several> {
        match self.slots.get_mut(id.0 as usize)? {
            Place::Several(several) => Some(several),
            _ => None,
        }
    }

    fn knot_mut(&mut self, id: LinkId) -> Option<&mut Knot> {
        self.several_mut(id)?.knot.as_mut()
    }

    /// Has a strand do something in one of its sessions.
    fn order<P>(&mut self, now: Now, strand: LinkId, command: Command<B, S>, ports: &mut P)
    where
        P: Ports<Buf = B, Shared = S>,
    {
        match self.slots.get_mut(strand.0 as usize) {
            Some(Place::Here(here)) => here.obey(now, None, command),
            Some(Place::Away(away)) => away.tell(command, ports),
            _ => {}
        }
    }
}

/// What the operator does with strands.
impl<M: Memory> Engine<M> {
    /// Makes one link of these strands, which were made or reached on this core, `here`, before, each with its
    /// [`crate::link::Strand`], from the first on; its number for groups here. The first strand's core has to do this in the
    /// same event that made that strand, so that nothing is heard between; every other core with groups of the link after it.
    pub fn link_bind(&mut self, here: CoreId, strands: Vec<LinkId>) -> LinkId {
        let of = LinkId(self.links.slots.len() as u32);
        let mut knot = self.links.get(strands[0]).is_some().then(|| Knot::new(strands.len()));
        for (index, strand) in strands.iter().enumerate() {
            let bound = Bound { of, index };
            let session = match self.links.slots.get_mut(strand.0 as usize) {
                Some(Place::Here(here)) => {
                    here.bound = Some(bound);
                    here.link.session_round().map(|round| (here.link.session_number(), round))
                }
                Some(Place::Away(away)) => away.bind(bound),
                _ => None,
            };
            if let (Some(knot), Some((session, round))) = (&mut knot, session) {
                // The first has none yet, so nothing is tied here.
                knot.up(index, session, round);
            }
        }
        let (sent, received) = (BTreeMap::new(), BTreeMap::new());
        let begins_with = usize::from(here.0) % strands.len();
        let several = Several { strands, sessions: Vec::new(), begins_with, sent, received, knot };
        self.links.slots.push(Place::Several(Box::new(several)));
        of
    }

    /// Lets the first strand's core tell another one, where the link is known as `there`, when there is a session.
    pub fn link_bind_serve<P>(&mut self, of: LinkId, core: CoreId, there: LinkId, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(several) = self.links.several_mut(of) else { return };
        let Some(knot) = &mut several.knot else { return };
        knot.users.push((core, there));
        if knot.is_tied {
            let sessions = several.sessions.clone();
            ports.cross(core, Crossing(Inner::ToGroups { link: there, news: News::Tied { sessions } }));
        }
    }

    /// What a strand of this core has heard, in this session of it.
    pub(super) fn strand_heard<P>(
        &mut self,
        now: Now,
        (id, bound): (LinkId, Bound),
        session: u64,
        heard: Heard,
        ports: &mut P,
    ) where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        if let Heard::Message(from, message) = heard {
            return self.strand_message(now, (id, bound), session, (from, message), ports);
        }
        let for_here = match self.links.lanes_mut(id) {
            Some(lanes) => lanes.pass(heard, ports),
            None => Some(heard),
        };
        match for_here {
            Some(Heard::Up { session, round }) => self.strand_up(now, bound, (session, round), ports),
            Some(Heard::Down(reason)) => self.strand_down(now, bound, reason, ports),
            Some(heard) => self.strand_news(now, bound, session, heard, ports),
            None => {}
        }
    }

    pub(super) fn strand_up<P>(&mut self, now: Now, bound: Bound, (session, round): (u64, u64), ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(knot) = self.links.knot_mut(bound.of) else { return };
        let outcome = knot.up(bound.index, session, round);
        // If it ends one, then another strand had lost its session at the peer.
        self.knot_did(now, bound.of, outcome, DownReason::Sibling, ports);
    }

    pub(super) fn strand_down<P>(&mut self, now: Now, bound: Bound, reason: DownReason, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(knot) = self.links.knot_mut(bound.of) else { return };
        let outcome = knot.down(bound.index);
        self.knot_did(now, bound.of, outcome, reason, ports);
    }

    fn knot_did<P>(&mut self, now: Now, of: LinkId, outcome: Outcome, reason: DownReason, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(several) = self.links.several_mut(of) else { return };
        let strands = several.strands.clone();
        let Some(knot) = &mut several.knot else { return };
        let (round, users) = (knot.round, knot.users.clone());
        for (index, session) in outcome.end {
            self.links.order(now, strands[index], Command::End { session, round }, ports);
        }
        if outcome.is_loose {
            for (core, link) in &users {
                ports.cross(*core, Crossing(Inner::ToGroups { link: *link, news: News::Loose(reason) }));
            }
            self.loose(now, of, reason, ports);
        }
        let Some(sessions) = outcome.tied else { return };
        for (core, link) in users {
            let news = News::Tied { sessions: sessions.clone() };
            ports.cross(core, Crossing(Inner::ToGroups { link, news }));
        }
        let waiting = self.links.knot_mut(of).map(|knot| std::mem::take(&mut knot.waiting)).unwrap_or_default();
        let first = sessions[0];
        self.tied(now, of, sessions, ports);
        for heard in waiting {
            self.strand_message(now, (strands[0], Bound { of, index: 0 }), first, heard, ports);
        }
    }

    /// A session of the link begins.
    pub(super) fn tied<P>(&mut self, now: Now, of: LinkId, sessions: Vec<u64>, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(several) = self.links.several_mut(of) else { return };
        let strands = several.strands.clone();
        several.sessions.clone_from(&sessions);
        for (strand, session) in strands.into_iter().zip(sessions) {
            if let Some(away) = self.links.away_mut(strand) {
                away.up(session);
            }
        }
        self.hear(now, of, Heard::Up { session: 0, round: 0 }, ports);
    }

    /// It ends.
    pub(super) fn loose<P>(&mut self, now: Now, of: LinkId, reason: DownReason, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(several) = self.links.several_mut(of) else { return };
        several.sessions.clear();
        for strand in several.strands.clone() {
            if let Some(away) = self.links.away_mut(strand) {
                away.down();
            }
        }
        self.hear(now, of, Heard::Down(reason), ports);
    }

    /// A message has come, to the knot's core.
    fn strand_message<P>(
        &mut self,
        now: Now,
        (id, bound): (LinkId, Bound),
        session: u64,
        (from, message): (SystemId, Message),
        ports: &mut P,
    ) where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        // A peer says nothing over the others.
        let Some(knot) = self.links.knot_mut(bound.of).filter(|_| bound.index == 0) else { return };
        if knot.sessions[0] != Some(session) {
            return;
        }
        if !knot.is_tied {
            // Until the session is up here too; a peer never has more on their way.
            if knot.waiting.len() < CONTROL_QUEUE_MAX {
                knot.waiting.push((from, message));
            } else {
                let round = knot.round;
                self.links.order(now, id, Command::End { session, round }, ports);
            }
            return;
        }
        let heard = Heard::Message(from, message);
        let for_here = match self.links.lanes_mut(id) {
            None => Some(heard),
            Some(lanes) => match lanes.refuses(&heard) {
                Some(refused) => {
                    let mut world = World { links: &mut self.links, ports };
                    return Uplink::send_message(&mut world, bound.of, refused);
                }
                None => lanes.pass(heard, ports),
            },
        };
        if let Some(Heard::Message(from, message)) = for_here {
            self.message_for_groups(now, bound.of, from, message, ports);
        }
    }

    /// A message has come to the core of its group.
    pub(super) fn message_for_groups<P>(
        &mut self,
        now: Now,
        of: LinkId,
        from: SystemId,
        message: Message,
        ports: &mut P,
    ) where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        if let Message::OpenStream(open) = &message {
            let Some(several) = self.links.several_mut(of) else { return };
            let (index, stream) = (usize::from(open.strand), open.stream);
            let Some(strand) = several.strands.get(index).copied() else {
                let refused = Message::Refused {
                    group: open.group,
                    subject: Subject::Stream(stream, open.epoch),
                    refusal: Refusal::Never,
                    text: format!(
                        "strand {index} of the link is to bring a stream of group {}, and there are {}",
                        open.group_name,
                        several.strands.len()
                    ),
                };
                return Uplink::send_message(&mut World { links: &mut self.links, ports }, of, refused);
            };
            if several.received.len() < STREAMS_MAX || several.received.contains_key(&stream) {
                several.received.insert(stream, index);
                self.links.order(now, strand, Command::Expect { stream }, ports);
            }
        }
        self.hear(now, of, Heard::Message(from, message), ports);
    }

    /// A beacon or a status has come to the core of its group.
    pub(super) fn strand_news<P>(&mut self, now: Now, bound: Bound, session: u64, heard: Heard, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(several) = self.links.several(bound.of) else { return };
        let is_meant = match &heard {
            Heard::Beacon(_, beacon) => several.brings(bound.index, session, beacon.stream),
            Heard::Status(status) => {
                several.is_of(bound.index, session) && several.sent.get(&status.stream) == Some(&bound.index)
            }
            Heard::Message(..) | Heard::Up { .. } | Heard::Down(_) => false,
        };
        if is_meant {
            self.hear(now, bound.of, heard, ports);
        }
    }
}
