//! Where an engine's links are, and the way to each of them.

use super::World;
use super::lanes::{Away, Command, Lanes};
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
    /// What was to be sent through a link while its slot was empty.
    pub(super) deferred: Vec<(LinkId, Deferred)>,
}

/// Where a link is.
pub(super) enum Place<B, S> {
    /// It was deleted, or handles a train just now.
    Nowhere,
    /// On this core.
    Here(Box<Here<B, S>>),
    /// On another core.
    Away(Box<Away<S>>),
}

/// A link of this core.
pub(super) struct Here<B, S> {
    pub(super) link: Link<S>,
    /// `None`: it serves groups of this core alone.
    pub(super) lanes: Option<Lanes<B>>,
}

pub(super) enum Deferred {
    Status(StreamStatus),
    Message(Message),
}

impl<B, S: AsRef<[u8]> + Clone> Links<B, S> {
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

    /// A link of another core.
    fn away(&self, id: LinkId) -> Option<&Away<S>> {
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

    pub(super) fn session_is_up(&self, id: LinkId) -> bool {
        match self.slots.get(id.0 as usize) {
            Some(Place::Here(here)) => here.link.session_is_up(),
            Some(Place::Away(away)) => away.session_is_up(),
            _ => false,
        }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone> Here<B, S> {
    /// Does what groups of another core want of the link.
    pub(super) fn obey(&mut self, now: Now, from: CoreId, command: Command<B, S>) {
        let is_up = |session: u64| self.link.session_is_up() && self.link.session_number() == session;
        match command {
            Command::Start { session, stream, epoch, generation, durable, is_replay } => {
                if let Some(lanes) = &mut self.lanes {
                    lanes.sends(from, stream);
                }
                match is_up(session) {
                    true => self.link.stream_start(stream, epoch, generation, durable),
                    false => self.link.stream_started_late(stream, epoch, generation, durable),
                }
                if is_replay {
                    self.link.stream_is_replay(stream);
                }
            }
            Command::Push { epoch, record } => {
                if let Some(lanes) = &mut self.lanes {
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
            Command::Beacon { session, beacon } if is_up(session) => self.link.send_beacon(beacon),
            Command::Status { session, status } if is_up(session) => self.link.send_status(status),
            Command::Message { session, message } if is_up(session) => self.link.send_message(&message),
            Command::Beacon { .. } | Command::Status { .. } | Command::Message { .. } => {}
            Command::Judged { parcel: judged } => {
                for (number, body_bytes, is_kept) in parcel::verdicts(&judged.buf.as_ref()[..judged.bytes]) {
                    let ticket = Ticket { session: judged.session, number };
                    self.link.judged(now, ticket, body_bytes, is_kept);
                }
                if let Some(lanes) = &mut self.lanes {
                    lanes.take_back(from, judged.buf);
                }
            }
        }
    }
}

impl<P: Ports> World<'_, P> {
    pub(super) fn send_deferred(&mut self) {
        let mut deferred = std::mem::take(&mut self.links.deferred);
        for (id, item) in deferred.drain(..) {
            let Some(link) = self.links.get_mut(id) else { continue };
            match item {
                Deferred::Status(status) => link.send_status(status),
                Deferred::Message(message) => link.send_message(&message),
            }
        }
        self.links.deferred = deferred;
    }

    fn later(&mut self, id: LinkId, item: Deferred) {
        self.links.deferred.push((id, item));
    }
}

/// Calls on a link that is gone do nothing: a group never outlives its link, only its last words do.
impl<P: Ports> Uplink for World<'_, P> {
    fn stream_start(&mut self, link: LinkId, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq) {
        match self.links.place_mut(link) {
            Place::Here(here) => here.link.stream_start(stream, epoch, generation, durable),
            Place::Away(away) => away.start((stream, epoch, generation, durable), false, self.ports),
            Place::Nowhere => {}
        }
    }

    fn stream_replay(&mut self, link: LinkId, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq) {
        match self.links.place_mut(link) {
            Place::Here(here) => here.link.stream_replay(stream, epoch, generation, durable),
            Place::Away(away) => away.start((stream, epoch, generation, durable), true, self.ports),
            Place::Nowhere => {}
        }
    }

    fn stream_push(&mut self, link: LinkId, epoch: Epoch, record: Record<P::Shared>) {
        match self.links.place_mut(link) {
            Place::Here(here) => here.link.stream_push(epoch, record),
            Place::Away(away) => away.push(epoch, record, self.ports),
            Place::Nowhere => {}
        }
    }

    fn stream_drop(&mut self, link: LinkId, stream: StreamId) {
        match self.links.place_mut(link) {
            Place::Here(here) => here.link.stream_drop(stream),
            Place::Away(away) => away.drop_stream(stream, self.ports),
            Place::Nowhere => {}
        }
    }

    fn stream_kept(&self, link: LinkId, stream: StreamId, each: &mut dyn FnMut(&Record<P::Shared>)) {
        if let Some(link) = self.links.get(link) {
            link.stream_kept(stream).for_each(each);
        } else if let Some(away) = self.links.away(link) {
            away.store().kept(stream).for_each(each);
        }
    }

    fn stream_backlog(&self, link: LinkId, stream: StreamId) -> Backlog {
        match self.links.get(link) {
            Some(link) => link.stream_backlog(stream),
            None => self.links.away(link).map(|away| away.store().backlog(stream)).unwrap_or_default(),
        }
    }

    fn send_beacon(&mut self, link: LinkId, beacon: Beacon) {
        match self.links.place_mut(link) {
            Place::Here(here) => here.link.send_beacon(beacon),
            Place::Away(away) => away.send_beacon(beacon, self.ports),
            Place::Nowhere => {}
        }
    }

    fn send_message(&mut self, link: LinkId, message: Message) {
        match self.links.place_mut(link) {
            Place::Here(here) => here.link.send_message(&message),
            Place::Away(away) => away.send_message(message, self.ports),
            Place::Nowhere => self.later(link, Deferred::Message(message)),
        }
    }

    fn session_is_up(&self, link: LinkId) -> bool {
        self.links.session_is_up(link)
    }
}

impl<P: Ports> Downlink for World<'_, P> {
    fn send_status(&mut self, link: LinkId, status: StreamStatus) {
        match self.links.place_mut(link) {
            Place::Here(here) => here.link.send_status(status),
            Place::Away(away) => away.send_status(status, self.ports),
            Place::Nowhere => self.later(link, Deferred::Status(status)),
        }
    }

    fn send_message(&mut self, link: LinkId, message: Message) {
        Uplink::send_message(self, link, message);
    }
}
