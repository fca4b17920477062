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

mod lanes;
mod links;
mod roles;
mod strands;
#[cfg(test)]
mod tests;

use crate::account::{Step, within};
pub use lanes::{Crossing, PARCELS_MAX};

use crate::link::{
    DataFrame, DownReason, Link, LinkConfig, LinkConfigError, LinkSink, LinkStats, Spacing, Ticket as FrameTicket,
    Verdict, parcel,
};
use crate::message::Message;
use crate::ports::{
    CoreId, Event, HostError, HostIo, HostToken, LocalIo, LocalToken, Memory, MetaToken, OperatorAnswer, Owner, Ports,
    Ticket,
};
use crate::primary::{Backlog, Beacon, Primary, PrimaryConfig, Uplink};
use crate::role::Role;
use crate::secondary::{Secondary, SecondaryConfig, StreamStatus};
use crate::stream::Fragment;
use crate::types::{Epoch, Generation, GroupId, LinkId, Mono, Now, PairId, Record, SystemId, Time, VolumeId};
use lanes::{Away, Inner, Lanes, News, Parcel};
use links::{Here, Links, Place};
use std::fmt;
use std::net::SocketAddr;
use strands::Bound;

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
/// After how long there is another turn when memory was refused in one.
const STARVED_NS: u64 = 1_000_000;
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
    links: Links<M::Buf, M::Shared>,
    primary: Primary<M>,
    secondary: Secondary<M::Buf, M::Shared>,
    roles: roles::Roles,
    seed: [u8; 32],
    /// Kept between turns for its storage.
    heard: Vec<Heard>,
    /// Memory was refused in the last turn: whoever tries again in a later one has it by then.
    starved_until: Option<Mono>,
    /// A train's buffer that a link had nothing for.
    spare_train: Option<M::Buf>,
}

/// What a link heard beside fragments.
enum Heard {
    Beacon(u64, Beacon),
    Status(StreamStatus),
    Message(SystemId, Message),
    Up { session: u64, round: u64 },
    Down(DownReason),
}

impl<M: Memory> Engine<M> {
    /// An engine without links, groups and pairs.
    pub fn new(config: EngineConfig) -> Engine<M> {
        let secondary_seed = u64::from_le_bytes(child_seed(&config.seed, u64::MAX)[..8].try_into().unwrap_or_default());
        Engine {
            links: Links { slots: Vec::new(), none: Place::Nowhere, is_starved: false, deferred: Vec::new() },
            primary: Primary::new(config.primary),
            secondary: Secondary::new(config.secondary, secondary_seed),
            roles: roles::Roles::default(),
            seed: config.seed,
            heard: Vec::new(),
            starved_until: None,
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
            Event::Crossed(crossing) => self.crossed(now, crossing, ports),
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
            let link = self.links.get(LinkId(index as u32));
            if link.and_then(Link::next_timeout).is_some_and(|due| due <= now.mono) {
                self.with_link(now, LinkId(index as u32), ports, |link, sink| link.handle_timeout(now, sink));
            }
        }
        self.links.is_starved = false;
        let mut world = World { links: &mut self.links, ports };
        self.primary.turn(now, &mut world);
        self.secondary.turn(now, &mut world);
        self.starved_until = self.links.is_starved.then(|| now.mono.after_ns(STARVED_NS));
        for index in 0..self.links.slots.len() {
            self.transmit(now, LinkId(index as u32), ports);
            if let Some(Place::Here(here)) = self.links.slots.get_mut(index)
                && let Some(lanes) = &mut here.lanes
            {
                lanes.ship(ports);
            }
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
        let Some(slot) = self.links.slots.get_mut(id.0 as usize) else { return };
        if !matches!(slot, Place::Here(_)) {
            return;
        }
        let Place::Here(mut here) = std::mem::replace(slot, Place::Nowhere) else { return };
        let mut heard = std::mem::take(&mut self.heard);
        let world = World { links: &mut self.links, ports };
        let bound = here.bound;
        let mut heard_in = here.link.session_number();
        let lanes = here.lanes.as_mut();
        let secondary = &mut self.secondary;
        run(&mut here.link, &mut Sink { now, id, bound, secondary, world, lanes, heard: &mut heard });
        let mut session = here.link.session_number();
        for heard in heard.iter_mut().rev() {
            if let Heard::Up { session: number, .. } = heard {
                *number = session;
                session -= 1;
            }
        }
        let has_lanes = here.lanes.is_some();
        self.links.slots[id.0 as usize] = Place::Here(here);
        let mut world = World { links: &mut self.links, ports };
        world.send_deferred();
        for heard in heard.drain(..) {
            if let Some(bound) = bound {
                if let Heard::Up { session, .. } = heard {
                    heard_in = session;
                }
                self.strand_heard(now, (id, bound), heard_in, heard, ports);
                continue;
            }
            let for_here = match self.links.lanes_mut(id).filter(|_| has_lanes) {
                None => Some(heard),
                Some(lanes) => {
                    if let Some(refused) = lanes.refuses(&heard) {
                        Uplink::send_message(&mut World { links: &mut self.links, ports }, id, refused);
                        continue;
                    }
                    lanes.pass(heard, ports)
                }
            };
            if let Some(heard) = for_here {
                self.hear(now, id, heard, ports);
            }
        }
        self.heard = heard;
    }

    /// What a link heard is for the roles here.
    fn hear<P>(&mut self, now: Now, id: LinkId, heard: Heard, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let is_here = self.links.is_at_home(id);
        let mut world = World { links: &mut self.links, ports };
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
            Heard::Up { .. } => {
                if is_here {
                    world.log(format_args!("link {}: session up", id.0));
                }
                self.primary.link_up(now, id, &mut world);
                self.secondary.link_up(now, id, &mut world);
            }
            Heard::Down(reason) => {
                if is_here {
                    world.log(format_args!("link {}: session down: {reason:?}", id.0));
                }
                self.primary.link_down(now, id, &mut world);
                self.secondary.link_down(now, id, &mut world);
            }
        }
    }

    /// Another core has said something.
    fn crossed<P>(&mut self, now: Now, crossing: Crossing<M::Buf, M::Shared>, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        match crossing.0 {
            Inner::ToLink { link, from, command } => {
                if let Some(Place::Here(here)) = self.links.slots.get_mut(link.0 as usize) {
                    here.obey(now, Some(from), command);
                }
            }
            Inner::ToGroups { link, news } => self.told(now, link, news, ports),
        }
    }

    /// A link of another core has something for groups here.
    fn told<P>(&mut self, now: Now, id: LinkId, news: News<M::Buf>, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        match news {
            News::Tied { sessions } => return self.tied(now, id, sessions, ports),
            News::Loose(reason) => return self.loose(now, id, reason, ports),
            _ => {}
        }
        // A parcel for a link that is deleted goes back to its memory by itself.
        let Some(away) = self.links.away_mut(id) else { return };
        let bound = away.bound;
        let heard = match news {
            News::Up { session, round } => {
                away.own = Some((session, round));
                if let Some(bound) = bound {
                    return self.strand_up(now, bound, (session, round), ports);
                }
                away.up(session);
                Heard::Up { session, round }
            }
            News::Down(reason) => {
                away.own = None;
                if let Some(bound) = bound {
                    return self.strand_down(now, bound, reason, ports);
                }
                away.down();
                Heard::Down(reason)
            }
            News::Beacon { generation, beacon } => Heard::Beacon(generation, beacon),
            News::Status(status) => {
                if !away.status(status) {
                    return;
                }
                Heard::Status(status)
            }
            News::Message { from, message } => match bound {
                Some(bound) => return self.message_for_groups(now, bound.of, from, *message, ports),
                None => Heard::Message(from, *message),
            },
            News::Data { parcel } => return self.parcel(now, id, parcel, ports),
            News::Tied { .. } | News::Loose(_) => return,
        };
        if let Some(bound) = bound {
            let session = self.links.away(id).and_then(|away| away.own).map_or(0, |(session, _)| session);
            return self.strand_news(now, bound, session, heard, ports);
        }
        self.hear(now, id, heard, ports);
    }

    /// A parcel of data frames has come from a link of another core, and goes back.
    fn parcel<P>(&mut self, now: Now, id: LinkId, mut came: Parcel<M::Buf>, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let _step = within(Step::Run);
        let bound = self.links.away(id).and_then(|away| away.bound);
        let mut world = World { links: &mut self.links, ports };
        parcel::judge(&mut came.buf.as_mut()[..came.bytes], |frame| {
            world.take_frame(now, (id, bound), came.session, frame, &mut self.secondary)
        });
        if let Some(away) = self.links.away_mut(id) {
            away.judged(came, ports);
        }
    }

    /// When [`Event::Turn`] has to be given even if nothing happens.
    pub fn next_timeout(&self, now: Now) -> Option<Mono> {
        let links = self.links.here().filter_map(Link::next_timeout).min();
        [links, self.starved_until, self.primary.next_timeout(now), self.secondary.next_timeout()]
            .into_iter()
            .flatten()
            .min()
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
        self.links.slots.push(Place::Here(Box::new(Here { link, lanes: None, bound: None })));
        Ok(id)
    }

    /// Makes a link of another core, where it is `link`, known to this core, which is `here`; its number for groups here.
    /// Then [`Engine::link_serve`] there.
    pub fn link_reach(&mut self, here: CoreId, core: CoreId, link: LinkId) -> LinkId {
        self.links.slots.push(Place::Away(Box::new(Away::new(here, core, link))));
        LinkId(self.links.slots.len() as u32 - 1)
    }

    /// Lets a link of this core serve groups of another, where it is known as `there`. Nothing without such a link.
    pub fn link_serve<P>(&mut self, id: LinkId, core: CoreId, there: LinkId, ports: &mut P)
    where
        P: Ports<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(Place::Here(here)) = self.links.slots.get_mut(id.0 as usize) else { return };
        let session = here.link.session_round().map(|round| (here.link.session_number(), round));
        here.lanes.get_or_insert_default().open(core, there, session, ports);
    }

    /// Says on which core a group of this link is at home, if that is one that the link serves; `None`: here, as at first.
    pub fn link_route(&mut self, id: LinkId, group: GroupId, core: Option<CoreId>) {
        if let Some(lanes) = self.links.lanes_mut(id) {
            lanes.route(group, core);
        }
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
            *slot = Place::Nowhere;
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
        self.links.get(id).map(Link::stats)
    }

    /// Whether the link has a session.
    pub fn link_is_up(&self, id: LinkId) -> bool {
        self.links.session_is_up(id)
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

impl<P: Ports> World<'_, P> {
    /// A data frame for a group here, that a link brings in this session of it.
    fn take_frame(
        &mut self,
        now: Now,
        (id, bound): (LinkId, Option<Bound>),
        session: u64,
        frame: DataFrame<'_>,
        secondary: &mut Secondary<P::Buf, P::Shared>,
    ) -> Verdict {
        let is_brought = |bound: Bound| {
            self.links.several(bound.of).is_some_and(|several| several.brings(bound.index, session, frame.stream))
        };
        if bound.is_some_and(|bound| !is_brought(bound)) {
            return Verdict::Drop;
        }
        let link = bound.map_or(id, |bound| bound.of);
        let fragment = Fragment {
            epoch: frame.epoch,
            generation: frame.generation,
            head: frame.head,
            offset: frame.fragment_offset,
            body: frame.body,
        };
        if secondary.frame(now, link, fragment, self) { Verdict::Accept } else { Verdict::Drop }
    }
}

/// A link's ear while it takes a train apart.
struct Sink<'a, M: Memory, P: Ports> {
    now: Now,
    id: LinkId,
    bound: Option<Bound>,
    secondary: &'a mut Secondary<M::Buf, M::Shared>,
    world: World<'a, P>,
    lanes: Option<&'a mut Lanes<M::Buf>>,
    heard: &'a mut Vec<Heard>,
}

impl<M, P> LinkSink for Sink<'_, M, P>
where
    M: Memory,
    P: Ports<Buf = M::Buf, Shared = M::Shared>,
{
    fn data(&mut self, _from: SystemId, frame: DataFrame<'_>, ticket: FrameTicket) -> Verdict {
        let _step = within(Step::Run);
        let carried = self.lanes.as_mut().and_then(|lanes| lanes.carry(&frame, ticket, self.world.ports));
        carried.unwrap_or_else(|| {
            let link = (self.id, self.bound);
            self.world.take_frame(self.now, link, ticket.session, frame, self.secondary)
        })
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

    fn session_up(&mut self, _peer: SystemId, round: u64) {
        // Which one is known when the link is back in its place.
        self.heard.push(Heard::Up { session: 0, round });
    }

    fn session_down(&mut self, _peer: SystemId, reason: DownReason) {
        self.heard.push(Heard::Down(reason));
    }
}

/// The world as the roles see it: the engine's ports and its links.
pub struct World<'a, P: Ports> {
    links: &'a mut Links<P::Buf, P::Shared>,
    ports: &'a mut P,
}

impl<P: Ports> Memory for World<'_, P> {
    type Buf = P::Buf;
    type Shared = P::Shared;

    fn alloc(&mut self, bytes: usize) -> Option<P::Buf> {
        let buf = self.ports.alloc(bytes);
        self.links.is_starved |= buf.is_none();
        buf
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
