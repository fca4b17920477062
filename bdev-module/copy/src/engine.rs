//! The engine: the links, the primary roles and the secondary roles of one core, as one machine.
//!
//! ```text
//!   host request ──> Primary ──push──> Link ══datagrams══> Link ──frame──> Secondary ──> journal ──> volumes
//!                      │  ^                                 ^                 │
//!                      v  └──────── durable, messages ──────┴── status ───────┘
//!                  local volume
//! ```
//!
//! The engine routes and nothing else. What a link hears while it takes a train apart is kept until the link is back in
//! its place, because the answers go through that same link; only fragments are handed on at once, since the link
//! acknowledges what was taken.

mod roles;
#[cfg(test)]
mod tests;

use crate::account::{Step, within};
use crate::link::{DataFrame, DownReason, Link, LinkConfig, LinkConfigError, LinkSink, LinkStats, Spacing, Verdict};
use crate::message::Message;
use crate::ports::{
    Event, HostError, HostIo, HostToken, LocalIo, LocalToken, Memory, MetaToken, OperatorAnswer, Owner, Ports, Ticket,
};
use crate::primary::{Backlog, Beacon, Primary, PrimaryConfig, Uplink};
use crate::role::Role;
use crate::secondary::{Downlink, Secondary, SecondaryConfig, StreamStatus};
use crate::stream::Fragment;
use crate::types::{
    Epoch, Generation, GroupId, LinkId, Mono, Now, PairId, Record, Seq, StreamId, SystemId, Time, VolumeId,
};
use std::fmt;
use std::net::SocketAddr;

/// Why an operator's request was not done. Each text says what was given, what was expected and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// There is no such object.
    #[error("{0}")]
    NotFound(String),
    /// There is one of that name already.
    #[error("{0}")]
    Exists(String),
    /// Not in this state.
    #[error("{0}")]
    WrongState(String),
    /// A parameter does not fit.
    #[error("{0}")]
    Invalid(String),
    /// A wait ended without what was waited for.
    #[error("{0}")]
    TimedOut(String),
    /// A device failed.
    #[error("{0}")]
    Device(String),
}

/// Trains that one turn sends over one link at most, so that a turn stays bounded.
const TRAINS_PER_TURN: usize = 16;
/// Room for one train of datagrams.
pub const TRAIN_BYTES: usize = 63 << 10;

/// What one engine is made of.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The primary roles' parameters.
    pub primary: PrimaryConfig,
    /// The secondary roles' sizes.
    pub secondary: SecondaryConfig,
    /// The source of all chance: fresh at each start, or a test's.
    pub seed: [u8; 32],
}

/// All remote copy of one core.
pub struct Engine<M: Memory> {
    links: Links<M::Shared>,
    primary: Primary<M>,
    secondary: Secondary<M::Buf, M::Shared>,
    roles: roles::Roles,
    seed: [u8; 32],
    /// Kept between turns for its storage.
    heard: Vec<Heard>,
    /// A train's buffer that a link had nothing for.
    spare_train: Option<M::Buf>,
}

/// The links by number. A slot is empty while its link handles a train, and after the link was deleted.
struct Links<S> {
    slots: Vec<Option<Link<S>>>,
    /// What was to be sent through a link while its slot was empty.
    deferred: Vec<(LinkId, Deferred)>,
}

enum Deferred {
    Status(StreamStatus),
    Message(Message),
}

/// What a link heard beside fragments.
enum Heard {
    Beacon(u64, Beacon),
    Status(StreamStatus),
    Message(SystemId, Message),
    Up,
    Down(DownReason),
}

impl<M: Memory> Engine<M> {
    /// An engine without links, groups and pairs.
    pub fn new(config: EngineConfig) -> Engine<M> {
        let secondary_seed = u64::from_le_bytes(child_seed(&config.seed, u64::MAX)[..8].try_into().unwrap_or_default());
        Engine {
            links: Links { slots: Vec::new(), deferred: Vec::new() },
            primary: Primary::new(config.primary),
            secondary: Secondary::new(config.secondary, secondary_seed),
            roles: roles::Roles::default(),
            seed: config.seed,
            heard: Vec::new(),
            spare_train: None,
        }
    }

    /// Handles one event. Calls on `ports` submit and return; their results are later events.
    pub fn handle<P>(&mut self, now: Now, event: Event<'_, M::Buf, M::Shared>, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        if self.has_role_news() {
            self.settle_roles(now, ports);
        }
        match event {
            Event::Host { pair, io, token } => {
                let _step = within(Step::Request);
                self.host(now, pair, io, token, ports);
            }
            Event::View { pair, io, token } => {
                let mut world = World { links: &mut self.links, ports };
                self.secondary.view_io(now, pair, io, token, &mut world);
            }
            Event::LocalDone { token, result, buf } => {
                let mut world = World { links: &mut self.links, ports };
                match token.owner {
                    Owner::Primary => {
                        let _step = within(Step::Complete);
                        self.primary.local_done(now, token, result, buf, &mut world);
                    }
                    Owner::Secondary => self.secondary.local_done(now, token, result, buf, &mut world),
                }
            }
            Event::Datagrams { link, from, train, segment_bytes } => {
                let _step = within(Step::Open);
                self.with_link(now, link, ports, |link, sink| {
                    link.handle_datagrams(now, from, train, segment_bytes, sink);
                });
            }
            Event::Persisted { token } => {
                let mut world = World { links: &mut self.links, ports };
                match token.owner {
                    Owner::Primary => self.primary.persisted(now, token, &mut world),
                    Owner::Secondary => self.secondary.persisted(now, token, &mut world),
                }
            }
            Event::Turn => self.turn(now, ports),
        }
        if self.has_role_news() {
            self.settle_roles(now, ports);
        }
    }

    fn host<P>(&mut self, now: Now, pair: PairId, io: HostIo<M::Buf, M::Shared>, token: HostToken, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let mut world = World { links: &mut self.links, ports };
        if self.primary.has_pair(pair) {
            self.primary.host_io(now, pair, io, token, &mut world);
        } else if self.secondary.has_pair(pair) {
            self.secondary.host_io(now, pair, io, token, &mut world);
        } else {
            // The pair was deleted while the request was on its way.
            let buf = if let HostIo::Read { buf, .. } = io { Some(buf) } else { None };
            world.complete_host(token, Err(HostError::Aborted), buf);
        }
    }

    /// The end of a turn: timers, then everything that waits to be sent.
    fn turn<P>(&mut self, now: Now, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        for index in 0..self.links.slots.len() {
            let due = self.links.slots[index].as_ref().and_then(Link::next_timeout).is_some_and(|due| due <= now.mono);
            if due {
                self.with_link(now, LinkId(index as u32), ports, |link, sink| link.handle_timeout(now, sink));
            }
        }
        let mut world = World { links: &mut self.links, ports };
        self.primary.turn(now, &mut world);
        self.secondary.turn(now, &mut world);
        for index in 0..self.links.slots.len() {
            self.transmit(now, LinkId(index as u32), ports);
        }
    }

    fn transmit<P>(&mut self, now: Now, id: LinkId, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(link) = self.links.get_mut(id) else { return };
        for _ in 0..TRAINS_PER_TURN {
            // Without memory the link waits for the next turn; nothing is lost.
            let Some(mut buf) = self.spare_train.take().or_else(|| ports.alloc(TRAIN_BYTES)) else { return };
            let framing = within(Step::Frame);
            let Some(train) = link.poll_transmit(now, buf.as_mut()) else {
                self.spare_train = Some(buf);
                return;
            };
            drop(framing);
            let _step = within(Step::Send);
            ports.transmit(id, train.to, buf, train.bytes, train.segment_bytes);
        }
    }

    /// Takes the link out of its slot, lets it handle something, and then acts on what it heard.
    fn with_link<P>(
        &mut self,
        now: Now,
        id: LinkId,
        ports: &mut P,
        run: impl FnOnce(&mut Link<M::Shared>, &mut Sink<'_, M, P>),
    ) where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        // A datagram for a deleted link is of no use to anybody.
        let Some(mut link) = self.links.slots.get_mut(id.0 as usize).and_then(Option::take) else { return };
        let mut heard = std::mem::take(&mut self.heard);
        let world = World { links: &mut self.links, ports };
        run(&mut link, &mut Sink { now, id, secondary: &mut self.secondary, world, heard: &mut heard });
        self.links.slots[id.0 as usize] = Some(link);
        let mut world = World { links: &mut self.links, ports };
        world.send_deferred();
        for heard in heard.drain(..) {
            match heard {
                Heard::Beacon(generation, beacon) => self.secondary.beacon(now, id, generation, beacon, &mut world),
                Heard::Status(status) => {
                    self.primary.status(now, id, status, &mut world);
                }
                Heard::Message(from, message) => {
                    if let Some(fenced) = roles::answer_to_primary(&self.primary, &self.secondary, from, &message) {
                        Uplink::send_message(&mut world, id, fenced);
                    } else if for_secondary(&message) {
                        self.secondary.message(now, id, from, message, &mut world);
                    } else {
                        let is_role_news = Self::is_role_message(&message);
                        self.primary.message(now, id, message, &mut world);
                        if is_role_news {
                            self.roles.note_news();
                        }
                    }
                }
                Heard::Up => {
                    world.log(format_args!("link {}: session up", id.0));
                    self.primary.link_up(now, id, &mut world);
                    self.secondary.link_up(now, id, &mut world);
                }
                Heard::Down(reason) => {
                    world.log(format_args!("link {}: session down: {reason:?}", id.0));
                    self.primary.link_down(now, id, &mut world);
                    self.secondary.link_down(now, id, &mut world);
                }
            }
        }
        self.heard = heard;
    }

    /// When [`Event::Turn`] has to be given even if nothing happens.
    pub fn next_timeout(&self, now: Now) -> Option<Mono> {
        let links = self.links.slots.iter().flatten().filter_map(Link::next_timeout).min();
        [links, self.primary.next_timeout(now), self.secondary.next_timeout()].into_iter().flatten().min()
    }

    /// The greatest stamp or beacon that any secondary group here ever saw: the timeline of the next start lies above it.
    pub fn greatest_time_seen(&self) -> Time {
        self.secondary.greatest_time_seen()
    }
}

/// What the operator does. Each call checks and begins; what takes longer ends with [`Ports::answer_operator`].
impl<M: Memory> Engine<M> {
    /// Makes a link; its socket is the embedding's.
    pub fn link_create(&mut self, config: LinkConfig) -> Result<LinkId, LinkConfigError> {
        let id = LinkId(self.links.slots.len() as u32);
        let link = Link::new(config, child_seed(&self.seed, u64::from(id.0)))?;
        self.links.slots.push(Some(link));
        Ok(id)
    }

    /// Ends a link, with a last word to the peer. The caller has made sure that no group uses it.
    pub fn link_delete<P>(&mut self, now: Now, id: LinkId, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        if let Some(link) = self.links.get_mut(id) {
            link.close();
            self.transmit(now, id, ports);
        }
        if let Some(slot) = self.links.slots.get_mut(id.0 as usize) {
            *slot = None;
        }
    }

    /// See [`Link::set_spacing`].
    pub fn link_set_spacing(&mut self, id: LinkId, spacing: Option<Spacing>) {
        if let Some(link) = self.links.get_mut(id) {
            link.set_spacing(spacing);
        }
    }

    /// Counters and state of a link.
    pub fn link_stats(&self, id: LinkId) -> Option<LinkStats> {
        self.links.slots.get(id.0 as usize)?.as_ref().map(Link::stats)
    }

    /// Whether the link has a session.
    pub fn link_is_up(&self, id: LinkId) -> bool {
        self.links.get(id).is_some_and(Link::session_is_up)
    }

    /// The system at the link's other end.
    pub fn link_peer(&self, id: LinkId) -> Option<SystemId> {
        self.links.get(id).map(Link::peer)
    }

    /// The primary roles, and the world for their operator calls.
    pub fn primary<'a, P>(&'a mut self, ports: &'a mut P) -> (&'a mut Primary<M>, World<'a, P>)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        (&mut self.primary, World { links: &mut self.links, ports })
    }

    /// The secondary roles, and the world for their operator calls.
    pub fn secondary<'a, P>(&'a mut self, ports: &'a mut P) -> (&'a mut Secondary<M::Buf, M::Shared>, World<'a, P>)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        (&mut self.secondary, World { links: &mut self.links, ports })
    }
}

/// A seed for one part of the engine. Different parts must not draw the same numbers.
fn child_seed(seed: &[u8; 32], part: u64) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(seed);
    context.update(&part.to_le_bytes());
    let mut child = [0; 32];
    child.copy_from_slice(context.finish().as_ref());
    child
}

/// Whether a message is one that primaries send.
fn for_secondary(message: &Message) -> bool {
    match message {
        Message::OpenStream(_)
        | Message::JoinPair(_)
        | Message::Identity { .. }
        | Message::Resize { .. }
        | Message::LeavePair { .. }
        | Message::CloseStream { .. }
        | Message::GroupSuspended { .. }
        | Message::CopyEnd { .. }
        | Message::DigestAsk { .. }
        | Message::HandOver { .. } => true,
        Message::StreamOpened(_)
        | Message::PairJoined { .. }
        | Message::Resized { .. }
        | Message::Refused { .. }
        | Message::Fenced { .. }
        | Message::CopyDone { .. }
        | Message::DigestAnswer { .. }
        | Message::Verified { .. }
        | Message::Differs { .. }
        | Message::HandedOver { .. }
        | Message::Trouble { .. } => false,
    }
}

impl<S: AsRef<[u8]> + Clone> Links<S> {
    fn get(&self, id: LinkId) -> Option<&Link<S>> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: LinkId) -> Option<&mut Link<S>> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }
}

/// A link's ear while it takes a train apart.
struct Sink<'a, M: Memory, P: Ports> {
    now: Now,
    id: LinkId,
    secondary: &'a mut Secondary<M::Buf, M::Shared>,
    world: World<'a, P>,
    heard: &'a mut Vec<Heard>,
}

impl<M, P> LinkSink for Sink<'_, M, P>
where
    M: Memory,
    P: Ports<Buf = M::Buf, Shared = M::Shared>,
{
    fn data(&mut self, _from: SystemId, frame: DataFrame<'_>) -> Verdict {
        let _step = within(Step::Run);
        let fragment = Fragment {
            epoch: frame.epoch,
            generation: frame.generation,
            head: frame.head,
            offset: frame.fragment_offset,
            body: frame.body,
        };
        if self.secondary.frame(self.now, self.id, fragment, &mut self.world) { Verdict::Accept } else { Verdict::Drop }
    }

    fn beacon(&mut self, _from: SystemId, generation: u64, beacon: Beacon) {
        self.heard.push(Heard::Beacon(generation, beacon));
    }

    fn status(&mut self, _from: SystemId, status: StreamStatus, _freed: Backlog) {
        self.heard.push(Heard::Status(status));
    }

    fn message(&mut self, from: SystemId, message: Message) {
        self.heard.push(Heard::Message(from, message));
    }

    fn session_up(&mut self, _peer: SystemId) {
        self.heard.push(Heard::Up);
    }

    fn session_down(&mut self, _peer: SystemId, reason: DownReason) {
        self.heard.push(Heard::Down(reason));
    }
}

/// The world as the roles see it: the engine's ports and its links.
pub struct World<'a, P: Ports> {
    links: &'a mut Links<P::Shared>,
    ports: &'a mut P,
}

impl<P: Ports> World<'_, P> {
    fn send_deferred(&mut self) {
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

impl<P: Ports> Memory for World<'_, P> {
    type Buf = P::Buf;
    type Shared = P::Shared;

    fn alloc(&mut self, bytes: usize) -> Option<P::Buf> {
        self.ports.alloc(bytes)
    }

    fn freeze(&mut self, buf: P::Buf, bytes: usize) -> P::Shared {
        self.ports.freeze(buf, bytes)
    }
}

impl<P: Ports> Ports for World<'_, P> {
    fn local(&mut self, volume: VolumeId, io: LocalIo<P::Buf, P::Shared>, token: LocalToken) {
        self.ports.local(volume, io, token);
    }

    fn complete_host(&mut self, token: HostToken, outcome: Result<(), HostError>, buf: Option<P::Buf>) {
        self.ports.complete_host(token, outcome, buf);
    }

    fn transmit(&mut self, link: LinkId, to: SocketAddr, train: P::Buf, bytes: usize, segment_bytes: usize) {
        self.ports.transmit(link, to, train, bytes, segment_bytes);
    }

    fn persist(&mut self, key: &str, value: &[u8], token: MetaToken) {
        self.ports.persist(key, value, token);
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.ports.recall(key)
    }

    fn answer_operator(&mut self, ticket: Ticket, answer: Result<OperatorAnswer, OperatorError>) {
        self.ports.answer_operator(ticket, answer);
    }

    fn stamped(&mut self, epoch: Epoch, record: &Record<P::Shared>) {
        self.ports.stamped(epoch, record);
    }

    fn role_changed(&mut self, group: GroupId, role: Role, generation: Generation) {
        self.ports.role_changed(group, role, generation);
    }

    fn volume_changed(&mut self, pair: PairId) {
        self.ports.volume_changed(pair);
    }

    fn volume_blocks(&self, volume: VolumeId) -> Option<u64> {
        self.ports.volume_blocks(volume)
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        self.ports.log(line);
    }
}

/// Calls on a link that is gone do nothing: a group never outlives its link, only its last words do.
impl<P: Ports> Uplink for World<'_, P> {
    fn stream_start(&mut self, link: LinkId, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq) {
        if let Some(link) = self.links.get_mut(link) {
            link.stream_start(stream, epoch, generation, durable);
        }
    }

    fn stream_replay(&mut self, link: LinkId, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq) {
        if let Some(link) = self.links.get_mut(link) {
            link.stream_replay(stream, epoch, generation, durable);
        }
    }

    fn stream_push(&mut self, link: LinkId, epoch: Epoch, record: Record<P::Shared>) {
        if let Some(link) = self.links.get_mut(link) {
            link.stream_push(epoch, record);
        }
    }

    fn stream_drop(&mut self, link: LinkId, stream: StreamId) {
        if let Some(link) = self.links.get_mut(link) {
            link.stream_drop(stream);
        }
    }

    fn stream_kept(&self, link: LinkId, stream: StreamId, each: &mut dyn FnMut(&Record<P::Shared>)) {
        if let Some(link) = self.links.get(link) {
            link.stream_kept(stream).for_each(each);
        }
    }

    fn stream_backlog(&self, link: LinkId, stream: StreamId) -> Backlog {
        self.links.get(link).map(|link| link.stream_backlog(stream)).unwrap_or_default()
    }

    fn send_beacon(&mut self, link: LinkId, beacon: Beacon) {
        if let Some(link) = self.links.get_mut(link) {
            link.send_beacon(beacon);
        }
    }

    fn send_message(&mut self, link: LinkId, message: Message) {
        match self.links.get_mut(link) {
            Some(link) => link.send_message(&message),
            None => self.later(link, Deferred::Message(message)),
        }
    }

    fn session_is_up(&self, link: LinkId) -> bool {
        self.links.get(link).is_some_and(Link::session_is_up)
    }
}

impl<P: Ports> Downlink for World<'_, P> {
    fn send_status(&mut self, link: LinkId, status: StreamStatus) {
        match self.links.get_mut(link) {
            Some(link) => link.send_status(status),
            None => self.later(link, Deferred::Status(status)),
        }
    }

    fn send_message(&mut self, link: LinkId, message: Message) {
        Uplink::send_message(self, link, message);
    }
}
