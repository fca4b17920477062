//! Where an engine's links are, and the way to each of them.

use super::World;
use super::lanes::{Away, Command, Lanes};
use super::strands::{Bound, Several};
use crate::link::{Link, Ticket, parcel};
use crate::message::Message;
use crate::ports::{CoreId, Ports};
use crate::primary::{Backlog, Beacon, Uplink};
use crate::secondary::{Downlink, StreamStatus};
use crate::types::{Epoch, Generation, LinkId, Now, Record, Seq, StreamId};

/// The links by number.
pub(super) struct Links<B, S> {
    pub(super) slots: Vec<Place<B, S>>,
    /// The place of a link that never was.
    pub(super) none: Place<B, S>,
    /// Memory was refused in this turn.
    pub(super) is_starved: bool,
    /// What was to be sent through a link while its slot was empty, and in which session, if that was said.
    pub(super) deferred: Vec<(LinkId, Option<u64>, Deferred)>,
}

/// Where a link is.
pub(super) enum Place<B, S> {
    /// It was deleted, or handles a train just now.
    Nowhere,
    /// On this core.
    Here(Box<Here<B, S>>),
    /// On another core.
    Away(Box<Away<S>>),
    /// On several: it is made of others.
    Several(Box<Several>),
}

/// A link of this core.
pub(super) struct Here<B, S> {
    pub(super) link: Link<S>,
    /// `None`: it serves groups of this core alone.
    pub(super) lanes: Option<Lanes<B>>,
    /// What it is a strand of.
    pub(super) bound: Option<Bound>,
}

pub(super) enum Deferred {
    Status(StreamStatus),
    Message(Message),
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone> Links<B, S> {
    /// A link of this core.
    pub(super) fn get(&self, id: LinkId) -> Option<&Link<S>> {
        match self.slots.get(id.0 as usize)? {
            Place::Here(here) => Some(&here.link),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link<S>> {
        match self.slots.get_mut(id.0 as usize)? {
            Place::Here(here) => Some(&mut here.link),
            _ => None,
        }
    }

    fn place_mut(&mut self, id: LinkId) -> &mut Place<B, S> {
        match self.slots.get_mut(id.0 as usize) {
            Some(place) => place,
            None => &mut self.none,
        }
    }

    pub(super) fn here(&self) -> impl Iterator<Item = &Link<S>> {
        (0..self.slots.len()).filter_map(|index| self.get(LinkId(index as u32)))
    }

    pub(super) fn lanes_mut(&mut self, id: LinkId) -> Option<&mut Lanes<B>> {
        match self.slots.get_mut(id.0 as usize)? {
            Place::Here(here) => here.lanes.as_mut(),
            _ => None,
        }
    }

    /// Whether it is whoever is here that tells of its sessions.
    pub(super) fn is_at_home(&self, id: LinkId) -> bool {
        match self.slots.get(id.0 as usize) {
            Some(Place::Here(_)) => true,
            Some(Place::Several(several)) => several.is_at_home(),
            _ => false,
        }
    }

    /// A link of another core.
    pub(super) fn away(&self, id: LinkId) -> Option<&Away<S>> {
        match self.slots.get(id.0 as usize)? {
            Place::Away(away) => Some(away),
            _ => None,
        }
    }

    pub(super) fn away_mut(&mut self, id: LinkId) -> Option<&mut Away<S>> {
        match self.slots.get_mut(id.0 as usize)? {
            Place::Away(away) => Some(away),
            _ => None,
        }
    }

    /// The strand that carries a stream: of a link that is whole, itself.
    fn carrier_of(&self, link: LinkId, stream: StreamId) -> Option<LinkId> {
        self.several(link).map_or(Some(link), |several| several.sends(stream))
    }

    pub(super) fn session_is_up(&self, id: LinkId) -> bool {
        match self.slots.get(id.0 as usize) {
            Some(Place::Here(here)) => here.link.session_is_up(),
            Some(Place::Away(away)) => away.session_is_up(),
            Some(Place::Several(several)) => several.session_is_up(),
            _ => false,
        }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone> Here<B, S> {
    /// Whether this session is up; `None`: any will do.
    fn is_in(&self, session: Option<u64>) -> bool {
        session.is_none_or(|session| self.link.session_is_up() && self.link.session_number() == session)
    }

    /// Starts a stream, in the session that is up or, for one that has ended meanwhile, as if right before that end.
    fn start(
        &mut self,
        is_live: bool,
        (stream, epoch, generation, durable): (StreamId, Epoch, Generation, Seq),
        is_replay: bool,
    ) {
        match is_live {
            true => self.link.stream_start(stream, epoch, generation, durable),
            false => self.link.stream_started_late(stream, epoch, generation, durable),
        }
        if is_replay {
            self.link.stream_is_replay(stream);
        }
    }

    /// Does what groups of another core want of the link; `None`: what those here want of a strand.
    pub(super) fn obey(&mut self, now: Now, from: Option<CoreId>, command: Command<B, S>) {
        match command {
            Command::Start { session, stream, epoch, generation, durable, is_replay } => {
                if let (Some(lanes), Some(from)) = (&mut self.lanes, from) {
                    lanes.sends(from, stream);
                }
                self.start(self.is_in(Some(session)), (stream, epoch, generation, durable), is_replay);
            }
            Command::Push { epoch, record } => {
                if let (Some(lanes), Some(from)) = (&mut self.lanes, from) {
                    lanes.sends(from, record.head.stamp.stream);
                }
                self.link.stream_push(epoch, record);
            }
            Command::Drop { stream } => {
                if let Some(lanes) = &mut self.lanes {
                    lanes.no_longer_sends(stream);
                }
                self.link.stream_drop(stream);
            }
            Command::Beacon { session, beacon } if self.is_in(Some(session)) => self.link.send_beacon(beacon),
            Command::Status { session, status } if self.is_in(Some(session)) => self.link.send_status(status),
            Command::Message { session, message } if self.is_in(Some(session)) => self.link.send_message(&message),
            Command::Beacon { .. } | Command::Status { .. } | Command::Message { .. } => {}
            Command::End { session, round } => self.link.end_session_of(session, round),
            Command::Expect { stream } => match (&mut self.lanes, from) {
                (Some(lanes), Some(from)) => lanes.expects(from, stream),
                (Some(lanes), None) => lanes.no_longer_sends(stream),
                (None, _) => {}
            },
            Command::Judged { parcel: judged } => {
                for (number, body_bytes, is_kept) in parcel::verdicts(&judged.buf.as_ref()[..judged.bytes]) {
                    let ticket = Ticket { session: judged.session, number };
                    self.link.judged(now, ticket, body_bytes, is_kept);
                }
                if let (Some(lanes), Some(from)) = (&mut self.lanes, from) {
                    lanes.take_back(from, judged.buf);
                }
            }
        }
    }
}

impl<P: Ports> World<'_, P> {
    pub(super) fn send_deferred(&mut self) {
        let mut deferred = std::mem::take(&mut self.links.deferred);
        for (id, session, item) in deferred.drain(..) {
            let Some(link) = self.links.get_mut(id) else { continue };
            if session.is_some_and(|session| session != link.session_number()) {
                continue;
            }
            match item {
                Deferred::Status(status) => link.send_status(status),
                Deferred::Message(message) => link.send_message(&message),
            }
        }
        self.links.deferred = deferred;
    }

    fn later(&mut self, (id, session): (LinkId, Option<u64>), item: Deferred) {
        self.links.deferred.push((id, session, item));
    }

    /// The strand that carries a stream, and the session in which it is to: for a link that is whole itself, and whichever it
    /// is in.
    fn carrier(&mut self, link: LinkId, stream: StreamId) -> (LinkId, Option<u64>) {
        match self.links.place_mut(link) {
            Place::Several(several) => several.deal(stream),
            _ => (link, None),
        }
    }

    /// The strand of messages, and its session, likewise.
    fn speaker(&self, link: LinkId) -> (LinkId, Option<u64>) {
        self.links.several(link).map_or((link, None), Several::first)
    }
}

impl<P: Ports> World<'_, P> {
    fn start(&mut self, link: LinkId, what: (StreamId, Epoch, Generation, Seq), is_replay: bool) {
        if !self.links.session_is_up(link) {
            return;
        }
        let (link, session) = self.carrier(link, what.0);
        match self.links.place_mut(link) {
            Place::Here(here) => here.start(here.is_in(session), what, is_replay),
            Place::Away(away) => away.start(what, is_replay, self.ports),
            Place::Several(_) | Place::Nowhere => {}
        }
    }
}

/// Calls on a link that is gone do nothing: a group never outlives its link, only its last words do.
impl<P: Ports> Uplink for World<'_, P> {
    fn stream_start(&mut self, link: LinkId, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq) {
        self.start(link, (stream, epoch, generation, durable), false);
    }

    fn stream_replay(&mut self, link: LinkId, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq) {
        self.start(link, (stream, epoch, generation, durable), true);
    }

    fn stream_push(&mut self, link: LinkId, epoch: Epoch, record: Record<P::Shared>) {
        let (link, _) = self.carrier(link, record.head.stamp.stream);
        match self.links.place_mut(link) {
            Place::Here(here) => here.link.stream_push(epoch, record),
            Place::Away(away) => away.push(epoch, record, self.ports),
            Place::Several(_) | Place::Nowhere => {}
        }
    }

    fn stream_drop(&mut self, link: LinkId, stream: StreamId) {
        let link = match self.links.place_mut(link) {
            Place::Several(several) => several.no_longer_sends(stream),
            _ => Some(link),
        };
        let Some(link) = link else { return };
        match self.links.place_mut(link) {
            Place::Here(here) => here.link.stream_drop(stream),
            Place::Away(away) => away.drop_stream(stream, self.ports),
            Place::Several(_) | Place::Nowhere => {}
        }
    }

    fn stream_kept(&self, link: LinkId, stream: StreamId, each: &mut dyn FnMut(&Record<P::Shared>)) {
        let Some(link) = self.links.carrier_of(link, stream) else { return };
        if let Some(link) = self.links.get(link) {
            link.stream_kept(stream).for_each(each);
        } else if let Some(away) = self.links.away(link) {
            away.store().kept(stream).for_each(each);
        }
    }

    fn stream_backlog(&self, link: LinkId, stream: StreamId) -> Backlog {
        let Some(link) = self.links.carrier_of(link, stream) else { return Backlog::default() };
        match self.links.get(link) {
            Some(link) => link.stream_backlog(stream),
            None => self.links.away(link).map(|away| away.store().backlog(stream)).unwrap_or_default(),
        }
    }

    fn send_beacon(&mut self, link: LinkId, beacon: Beacon) {
        let (link, session) = self.carrier(link, beacon.stream);
        match self.links.place_mut(link) {
            Place::Here(here) if here.is_in(session) => here.link.send_beacon(beacon),
            Place::Away(away) => away.send_beacon(beacon, self.ports),
            Place::Here(_) | Place::Several(_) | Place::Nowhere => {}
        }
    }

    fn send_message(&mut self, link: LinkId, mut message: Message) {
        if let (Message::OpenStream(open), Place::Several(several)) = (&mut message, self.links.place_mut(link)) {
            open.strand = several.strand(open.stream);
        }
        let (link, session) = self.speaker(link);
        match self.links.place_mut(link) {
            Place::Here(here) if here.is_in(session) => here.link.send_message(&message),
            Place::Away(away) => away.send_message(message, self.ports),
            Place::Here(_) | Place::Several(_) => {}
            Place::Nowhere => self.later((link, session), Deferred::Message(message)),
        }
    }

    fn session_is_up(&self, link: LinkId) -> bool {
        self.links.session_is_up(link)
    }
}

impl<P: Ports> Downlink for World<'_, P> {
    fn send_status(&mut self, link: LinkId, status: StreamStatus) {
        let answer = match self.links.several(link) {
            Some(several) => several.answers(status.stream),
            None => Some((link, None)),
        };
        let Some((link, session)) = answer else { return };
        match self.links.place_mut(link) {
            Place::Here(here) if here.is_in(session) => here.link.send_status(status),
            Place::Away(away) => away.send_status(status, self.ports),
            Place::Here(_) | Place::Several(_) => {}
            Place::Nowhere => self.later((link, session), Deferred::Status(status)),
        }
    }

    fn send_message(&mut self, link: LinkId, message: Message) {
        Uplink::send_message(self, link, message);
    }
}
