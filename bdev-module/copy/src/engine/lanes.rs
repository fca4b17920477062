//! A link that serves groups of other cores.
//!
//! ```text
//!   core of the group                              core of the link
//!   Primary, Secondary ─> Away ──Command──────────> Lane ─> Link ══datagrams══
//!                          ^                         │
//!                          └───News, parcels─────────┘
//! ```
//!
//! A lane is what a link and the groups of one other core have between them. Each direction is first in, first out, and as
//! slow as it happens to be: to a group its link is one that is further away, no more. What a group asks for within a
//! session that has ended meanwhile has the effect that it would have had right before that end; so the two sides never
//! disagree about what a session was told.
//!
//! **Records.** [`Away`] keeps the same [`Store`] of records as the link, by which it tells backlog and what is kept. Both hold
//! references to one payload.
//!
//! **Data frames** travel in parcels. A parcel comes back with what became of each frame, and only then are these
//! acknowledged. Its memory is the link's core's, all of the time; what is kept is copied to where it belongs.
//!
//! What this gives up: a frame that finds all parcels on their way is dropped and comes again; and a group of scope `system`
//! has to be on its link's core, because all of them share a stream.

use super::Heard;
use super::strands::Bound;
use crate::link::store::Store;
use crate::link::{DataFrame, DownReason, Ticket, Verdict, parcel};
use crate::message::{Message, Refusal, Subject};
use crate::ports::{CoreId, Ports};
use crate::primary::Beacon;
use crate::secondary::StreamStatus;
use crate::types::{Epoch, Generation, GroupId, LinkId, Record, Scope, Seq, StreamId, SystemId};
use std::collections::BTreeMap;
use std::fmt;

/// Parcels of a lane at most, each of [`super::TRAIN_BYTES`]: what the link receives while the group's core is at something
/// else.
pub const PARCELS_MAX: usize = 64;
/// Of these, the empty ones that are kept to be filled again.
const SPARES_MAX: usize = 8;
/// Streams whose way a link remembers at most. Those beyond have none that is open.
pub(super) const STREAMS_MAX: usize = 64 << 10;

/// What one core's engine says to another's, to be given to that one as [`crate::ports::Event::Crossed`], in order.
pub struct Crossing<B, S>(pub(super) Inner<B, S>);

impl<B, S> fmt::Debug for Crossing<B, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::ToLink { .. } => "Crossing to a link",
            Inner::ToGroups { .. } => "Crossing to groups",
        })
    }
}

pub(super) enum Inner<B, S> {
    /// For a link, as it is known at its core, from the groups of another one.
    ToLink { link: LinkId, from: CoreId, command: Command<B, S> },
    /// From a link, as it is known at the groups' core.
    ToGroups { link: LinkId, news: News<B> },
}

/// What groups ask of their link. With the session that they mean, where that matters.
pub(super) enum Command<B, S> {
    Start {
        session: u64,
        stream: StreamId,
        epoch: Epoch,
        generation: Generation,
        durable: Seq,
        is_replay: bool,
    },
    Push {
        epoch: Epoch,
        record: Record<S>,
    },
    Drop {
        stream: StreamId,
    },
    Beacon {
        session: u64,
        beacon: Beacon,
    },
    Status {
        session: u64,
        status: StreamStatus,
    },
    Message {
        session: u64,
        message: Box<Message>,
    },
    Judged {
        parcel: Parcel<B>,
    },
    /// A strand's session is to end, and later ones are of this round at least.
    End {
        session: u64,
        round: u64,
    },
    /// A strand brings this stream for groups of this core.
    Expect {
        stream: StreamId,
    },
}

/// What a link has for groups.
pub(super) enum News<B> {
    Up {
        session: u64,
        round: u64,
    },
    Down(DownReason),
    Beacon {
        generation: u64,
        beacon: Beacon,
    },
    Status(StreamStatus),
    Message {
        from: SystemId,
        message: Box<Message>,
    },
    Data {
        parcel: Parcel<B>,
    },
    /// Of a link of several strands: a session begins, of these sessions of the strands.
    Tied {
        sessions: Vec<u64>,
    },
    /// It ends.
    Loose(DownReason),
}

/// Data frames on their way to a group, or back.
pub(super) struct Parcel<B> {
    pub(super) session: u64,
    pub(super) buf: B,
    pub(super) bytes: usize,
}

/// A link of another core, as the groups here see it.
pub(super) struct Away<S> {
    /// This core, the link's, and the link's number there.
    pub(super) here: CoreId,
    pub(super) core: CoreId,
    pub(super) link: LinkId,
    /// The session that is up, as far as was heard here; of a strand, as part of the link's.
    session: Option<u64>,
    /// What it is a strand of, and its own session with its round, as far as was heard here.
    pub(super) bound: Option<Bound>,
    pub(super) own: Option<(u64, u64)>,
    store: Store<S>,
    /// Statuses that were heard: a later one counts.
    heard: u64,
}

impl<S: AsRef<[u8]> + Clone> Away<S> {
    pub(super) fn new(here: CoreId, core: CoreId, link: LinkId) -> Away<S> {
        // Nothing is cut into fragments here.
        Away { here, core, link, session: None, bound: None, own: None, store: Store::new(u32::MAX), heard: 0 }
    }

    pub(super) fn session_is_up(&self) -> bool {
        self.session.is_some()
    }

    pub(super) fn store(&self) -> &Store<S> {
        &self.store
    }

    pub(super) fn tell<P: Ports<Shared = S>>(&self, command: Command<P::Buf, S>, ports: &mut P) {
        ports.cross(self.core, Crossing(Inner::ToLink { link: self.link, from: self.here, command }));
    }

    pub(super) fn start<P: Ports<Shared = S>>(
        &mut self,
        (stream, epoch, generation, durable): (StreamId, Epoch, Generation, Seq),
        is_replay: bool,
        ports: &mut P,
    ) {
        let Some(session) = self.session else { return };
        self.store.start(stream, epoch, generation, durable, true);
        if is_replay {
            self.store.believe(stream);
        }
        self.tell(Command::Start { session, stream, epoch, generation, durable, is_replay }, ports);
    }

    pub(super) fn push<P: Ports<Shared = S>>(&mut self, epoch: Epoch, record: Record<S>, ports: &mut P) {
        self.store.push(epoch, record.clone());
        self.tell(Command::Push { epoch, record }, ports);
    }

    pub(super) fn drop_stream<P: Ports<Shared = S>>(&mut self, stream: StreamId, ports: &mut P) {
        self.store.drop_stream(stream);
        self.tell(Command::Drop { stream }, ports);
    }

    pub(super) fn send_beacon<P: Ports<Shared = S>>(&mut self, beacon: Beacon, ports: &mut P) {
        if let Some(session) = self.session.filter(|_| self.store.is_started(beacon.stream, beacon.epoch)) {
            self.tell(Command::Beacon { session, beacon }, ports);
        }
    }

    pub(super) fn send_status<P: Ports<Shared = S>>(&mut self, status: StreamStatus, ports: &mut P) {
        if let Some(session) = self.session {
            self.tell(Command::Status { session, status }, ports);
        }
    }

    pub(super) fn send_message<P: Ports<Shared = S>>(&mut self, message: Message, ports: &mut P) {
        if let Some(session) = self.session {
            self.tell(Command::Message { session, message: Box::new(message) }, ports);
        }
    }

    /// A parcel goes back whence it came.
    pub(super) fn judged<P: Ports<Shared = S>>(&self, parcel: Parcel<P::Buf>, ports: &mut P) {
        self.tell(Command::Judged { parcel }, ports);
    }

    /// It is a strand from here on; gives the session that it has.
    pub(super) fn bind(&mut self, bound: Bound) -> Option<(u64, u64)> {
        self.bound = Some(bound);
        self.session = None;
        self.own
    }

    pub(super) fn up(&mut self, session: u64) {
        self.session = Some(session);
    }

    pub(super) fn down(&mut self) {
        self.session = None;
        self.store.end_session();
    }

    /// The link has judged this status and freed what it says; whether it is about a stream as it is known here.
    pub(super) fn status(&mut self, status: StreamStatus) -> bool {
        if !self.store.is_started(status.stream, status.epoch) {
            return false;
        }
        self.heard += 1;
        // Nothing is sent from here, so nothing is granted.
        self.store.status(self.heard, StreamStatus { grant_records: 0, grant_bytes: 0, ..status }).is_some()
    }
}

/// Between a link and the groups of one other core.
struct Lane<B> {
    core: CoreId,
    /// The link's number there.
    link: LinkId,
    /// The parcel that is being filled.
    open: Option<Parcel<B>>,
    /// Parcels that are empty again.
    spare: Vec<B>,
    /// Parcels that there are, wherever.
    parcels: usize,
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static> Lane<B> {
    fn tell<P: Ports<Buf = B>>(&self, news: News<B>, ports: &mut P) {
        ports.cross(self.core, Crossing(Inner::ToGroups { link: self.link, news }));
    }

    fn ship<P: Ports<Buf = B>>(&mut self, ports: &mut P) {
        if let Some(parcel) = self.open.take() {
            self.tell(News::Data { parcel }, ports);
        }
    }

    /// An empty parcel, if there may be another.
    fn empty<P: Ports<Buf = B>>(&mut self, session: u64, ports: &mut P) -> Option<Parcel<B>> {
        let buf = match self.spare.pop() {
            Some(buf) => buf,
            None if self.parcels == PARCELS_MAX => return None,
            None => {
                let buf = ports.alloc(super::TRAIN_BYTES)?;
                self.parcels += 1;
                buf
            }
        };
        Some(Parcel { session, buf, bytes: 0 })
    }

    fn carry<P: Ports<Buf = B>>(&mut self, frame: &DataFrame<'_>, ticket: Ticket, ports: &mut P) -> Verdict {
        for _ in 0..2 {
            let open = match self.open.take() {
                Some(open) => Some(open),
                None => self.empty(ticket.session, ports),
            };
            let Some(mut open) = open else { return Verdict::Drop };
            let fits = (open.session == ticket.session)
                .then(|| parcel::put(open.buf.as_mut(), open.bytes, frame, ticket.number))
                .flatten();
            open.bytes = fits.unwrap_or(open.bytes);
            self.open = Some(open);
            if fits.is_some() {
                return Verdict::Later;
            }
            self.ship(ports);
        }
        Verdict::Drop
    }
}

/// A link's lanes.
pub(super) struct Lanes<B> {
    lanes: Vec<Lane<B>>,
    /// Which group is where, and with it its streams: those that are sent from there, and those that were opened there
    /// by the peer.
    groups: BTreeMap<GroupId, usize>,
    streams: BTreeMap<StreamId, usize>,
}

impl<B> Default for Lanes<B> {
    fn default() -> Self {
        Lanes { lanes: Vec::new(), groups: BTreeMap::new(), streams: BTreeMap::new() }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static> Lanes<B> {
    /// A lane to another core, where the link has this number. `session` is up.
    pub(super) fn open<P: Ports<Buf = B>>(
        &mut self,
        core: CoreId,
        link: LinkId,
        session: Option<(u64, u64)>,
        ports: &mut P,
    ) {
        let lane = Lane { core, link, open: None, spare: Vec::with_capacity(SPARES_MAX), parcels: 0 };
        if let Some((session, round)) = session {
            lane.tell(News::Up { session, round }, ports);
        }
        self.lanes.push(lane);
    }

    fn of_core(&self, core: CoreId) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.core == core)
    }

    /// The group is at home on another core from here on; `None`: on this one.
    pub(super) fn route(&mut self, group: GroupId, core: Option<CoreId>) {
        match core.and_then(|core| self.of_core(core)) {
            Some(lane) => _ = self.groups.insert(group, lane),
            None => _ = self.groups.remove(&group),
        }
    }

    /// Remembers that a stream is sent from a core.
    pub(super) fn sends(&mut self, core: CoreId, stream: StreamId) {
        if let Some(lane) = self.of_core(core)
            && self.streams.get(&stream) != Some(&lane)
        {
            self.streams.insert(stream, lane);
        }
    }

    /// Remembers that the peer sends a stream to a core.
    pub(super) fn expects(&mut self, core: CoreId, stream: StreamId) {
        if self.streams.len() < STREAMS_MAX || self.streams.contains_key(&stream) {
            self.sends(core, stream);
        }
    }

    pub(super) fn no_longer_sends(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// Puts a frame on its way, if that leads to another core.
    pub(super) fn carry<P: Ports<Buf = B>>(
        &mut self,
        frame: &DataFrame<'_>,
        ticket: Ticket,
        ports: &mut P,
    ) -> Option<Verdict> {
        let lane = *self.streams.get(&frame.stream)?;
        Some(self.lanes[lane].carry(frame, ticket, ports))
    }

    /// What was gathered in this turn leaves.
    pub(super) fn ship<P: Ports<Buf = B>>(&mut self, ports: &mut P) {
        for lane in &mut self.lanes {
            lane.ship(ports);
        }
    }

    /// A parcel has come back and was looked at.
    pub(super) fn take_back(&mut self, core: CoreId, buf: B) {
        if let Some(lane) = self.of_core(core) {
            let lane = &mut self.lanes[lane];
            match lane.spare.len() < SPARES_MAX {
                true => lane.spare.push(buf),
                false => lane.parcels -= 1,
            }
        }
    }

    /// The answer to a message that must not be passed on.
    pub(super) fn refuses(&self, heard: &Heard) -> Option<Message> {
        let Heard::Message(_, Message::OpenStream(open)) = heard else { return None };
        let is_elsewhere = open.scope == Scope::System && self.groups.contains_key(&open.group);
        is_elsewhere.then(|| Message::Refused {
            group: open.group,
            subject: Subject::Stream(open.stream, open.epoch),
            refusal: Refusal::Never,
            text: format!(
                "group {} is on another core than its link there, and with sequence scope \"system\" all groups of a link \
                 share a stream: make it again at that system without a core of its own",
                open.group_name
            ),
        })
    }

    /// Passes on what the link heard, if it is for groups of another core only: else what it heard is given back.
    pub(super) fn pass<P: Ports<Buf = B>>(&mut self, heard: Heard, ports: &mut P) -> Option<Heard> {
        let (lane, news) = match heard {
            Heard::Up { session, round } => {
                self.ship(ports);
                for lane in &self.lanes {
                    lane.tell(News::Up { session, round }, ports);
                }
                return Some(Heard::Up { session, round });
            }
            Heard::Down(reason) => {
                self.ship(ports);
                for lane in &self.lanes {
                    lane.tell(News::Down(reason), ports);
                }
                return Some(Heard::Down(reason));
            }
            Heard::Beacon(generation, beacon) => match self.streams.get(&beacon.stream) {
                Some(lane) => (*lane, News::Beacon { generation, beacon }),
                None => return Some(Heard::Beacon(generation, beacon)),
            },
            Heard::Status(status) => match self.streams.get(&status.stream) {
                Some(lane) => (*lane, News::Status(status)),
                None => return Some(Heard::Status(status)),
            },
            Heard::Message(from, message) => {
                let Some(lane) = self.groups.get(&message.group()).copied() else {
                    return Some(Heard::Message(from, message));
                };
                if let Message::OpenStream(open) = &message
                    && (self.streams.len() < STREAMS_MAX || self.streams.contains_key(&open.stream))
                {
                    self.streams.insert(open.stream, lane);
                }
                (lane, News::Message { from, message: Box::new(message) })
            }
        };
        self.lanes[lane].tell(news, ports);
        None
    }
}
