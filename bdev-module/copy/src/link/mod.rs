//! The link between two systems: authenticated datagrams, acknowledged and retransmitted, in one machine without I/O.
//!
//! One [`Link`] per peer system, or per strand of what is one link to those who use it ([`Strand`]), the same code on both
//! sides; either may begin, and if both do, one handshake wins. It carries what the primary roles send (records in
//! fragments, beacons), what the secondary roles answer (a [`StreamStatus`] per stream) and control
//! [messages](crate::message::Message), in order within a session. It is the store of records that are not known to be
//! durable on the other side, and it does not reassemble what arrives: fragments go to the [`LinkSink`] as they come.
//!
//! What it promises: each pushed record arrives whole, as often as it takes, as long as sessions come up at all; each
//! message arrives once and in order, or the session ends; nothing beyond a stream's grant is sent; nothing that is not
//! the peer's is handed on, and nothing of it twice. What it gives up: one datagram carries one frame, so that small
//! records pay a header of 88 bytes each; and loss below a tolerance is not taken for congestion ([`LinkConfig`]).
//!
//! Memory is bounded by the configuration: a table of 32 Ki datagrams, [`CONTROL_QUEUE_MAX`] messages, 1024 ranges, 2 KiB of
//! replay window, and the records that the engine pushed, whose budget is the engine's.

mod ack;
mod arrivals;
mod beacons;
mod codec;
mod config;
mod congestion;
mod control;
mod fuzz;
mod handshake;
mod header;
mod integer;
mod noise;
mod numbers;
pub(crate) mod parcel;
mod receive;
mod recovery;
mod seal;
mod session;
mod sink;
mod stats;
pub(crate) mod store;
mod train;
mod transmit;

pub use codec::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX};
pub use config::{LinkConfig, LinkConfigError, MTU_BYTES_MAX, MTU_BYTES_MIN, STRANDS_MAX, Security, Strand};
pub use control::CONTROL_QUEUE_MAX;
#[doc(hidden)]
pub use fuzz::fuzz_datagram;
pub use noise::{generate_keypair, public_of};
pub use sink::{DataFrame, DownReason, FRAGMENT_UNIT_BYTES, LinkSink, PAYLOAD_BYTES_MAX, Ticket, Verdict};
pub use stats::LinkStats;
pub use train::{Spacing, TRAIN_BYTES_MAX, Train};

use crate::message::Message;
use crate::primary::{Backlog, Beacon};
use crate::secondary::StreamStatus;
use crate::types::{Epoch, Generation, Mono, Now, Record, Seq, StreamId, SystemId};
use arrivals::Fate;
use handshake::Handshake;
use header::HEADER_BYTES;
use recovery::Outcome;
use session::Session;
use std::net::SocketAddr;
use store::Store;

/// Room for what one call works on, kept so that no call allocates.
struct Scratch {
    ack: ack::Ack,
    outcome: Outcome,
    /// Beacons as read.
    beacons: Vec<beacons::Entry>,
    /// Body of an acknowledgement, or of beacons, to be sent.
    body: Vec<u8>,
    /// The acknowledgement's statuses and their versions.
    statuses: Vec<StreamStatus>,
    versions: Vec<(StreamId, u64)>,
    body_bytes_max: usize,
}

/// Counters of sessions that ended.
#[derive(Default)]
struct Past {
    congestion_events: u64,
}

/// One link to one peer system. `S` is a handle to an immutable payload, cheap to clone.
///
/// Each turn: [`Link::handle_datagrams`] for what came in, [`Link::handle_timeout`] once, then
/// [`Link::poll_transmit`] until it gives `None`; by the time of [`Link::next_timeout`] there has to be another turn.
pub struct Link<S> {
    config: LinkConfig,
    peer: SystemId,
    learned_addr: Option<SocketAddr>,
    handshake: Handshake,
    session: Option<Session>,
    store: Store<S>,
    stats: LinkStats,
    past: Past,
    scratch: Scratch,
    spacing: Option<Spacing>,
    /// Set when the link is to end.
    closing: Option<()>,
}

impl<S: AsRef<[u8]> + Clone> Link<S> {
    /// A link that is down and begins to call its peer, if it knows where that is. `seed` must be 32 fresh bytes of the
    /// operating system's randomness: ephemeral keys come from it.
    ///
    /// # Errors
    /// A parameter out of range.
    pub fn new(config: LinkConfig, seed: [u8; 32]) -> Result<Link<S>, LinkConfigError> {
        config.check()?;
        let body_bytes_max = config.mtu_bytes - HEADER_BYTES - seal::TAG_BYTES_MAX;
        Ok(Link {
            peer: config.peer(),
            learned_addr: None,
            handshake: Handshake::new(&config, seed),
            session: None,
            store: Store::new(body_bytes_max as u32),
            stats: LinkStats::default(),
            past: Past::default(),
            scratch: Scratch {
                ack: ack::Ack::default(),
                outcome: Outcome::default(),
                beacons: Vec::new(),
                body: Vec::new(),
                statuses: Vec::new(),
                versions: Vec::new(),
                body_bytes_max,
            },
            spacing: None,
            closing: None,
            config,
        })
    }

    /// The system at the other end.
    pub fn peer(&self) -> SystemId {
        self.peer
    }

    /// Where datagrams go: as configured, or as learned from the peer's last authenticated handshake.
    pub fn address(&self) -> Option<SocketAddr> {
        self.config.remote_addr.or(self.learned_addr)
    }

    /// As made.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Whether a session is up.
    pub fn session_is_up(&self) -> bool {
        self.session.is_some()
    }

    /// How many sessions there were, with the one that is up: its number.
    pub fn session_number(&self) -> u64 {
        self.stats.sessions
    }

    /// The round of the session that is up, if one is.
    pub fn session_round(&self) -> Option<u64> {
        self.session.as_ref().map(|session| session.round)
    }

    /// See [`crate::primary::Uplink::stream_start`]. Nothing is sent before the peer's first status of this session has
    /// granted room. A stream of another epoch is dropped first.
    pub fn stream_start(&mut self, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq) {
        if self.session.is_some() {
            self.store.start(stream, epoch, generation, durable, true);
        }
    }

    /// As [`Link::stream_start`], for an epoch of an earlier process: the peer may have more of it than is pushed here.
    pub fn stream_replay(&mut self, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq) {
        self.stream_start(stream, epoch, generation, durable);
        self.store.believe(stream);
    }

    /// As if the stream had been started just before the session ended: whoever did it has not heard yet that it did.
    pub fn stream_started_late(&mut self, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq) {
        self.store.start(stream, epoch, generation, durable, false);
    }

    /// As [`Link::stream_replay`] says of a stream that was started.
    pub fn stream_is_replay(&mut self, stream: StreamId) {
        self.store.believe(stream);
    }

    /// Whether a data frame is kept that was to be told later ([`Verdict::Later`]), of `body_bytes`.
    pub fn judged(&mut self, now: Now, ticket: Ticket, body_bytes: usize, is_kept: bool) {
        let is_of_now = ticket.session == self.session_number();
        let Some(session) = self.session.as_mut().filter(|_| is_of_now) else { return };
        let fate = if is_kept { Fate::Noted { eliciting: true } } else { Fate::Dropped };
        if !session.arrivals.settle(ticket.number, fate) {
            return;
        }
        if is_kept {
            self.stats.data_frames_accepted += 1;
            self.stats.payload_bytes_accepted += body_bytes as u64;
        } else {
            self.stats.data_frames_refused += 1;
        }
        session.note_settled(now.mono);
    }

    /// What the stream keeps, in order of numbers.
    pub fn stream_kept(&self, stream: StreamId) -> impl Iterator<Item = &Record<S>> {
        self.store.kept(stream)
    }

    /// See [`crate::primary::Uplink::stream_push`].
    ///
    /// # Panics
    /// If the number is not the stream's next, its time is not above the one before, or the payload's length is not
    /// what the head says: these are the stamper's promises.
    pub fn stream_push(&mut self, epoch: Epoch, record: Record<S>) {
        self.store.push(epoch, record);
    }

    /// See [`crate::primary::Uplink::stream_drop`].
    pub fn stream_drop(&mut self, stream: StreamId) {
        self.store.drop_stream(stream);
    }

    /// See [`crate::primary::Uplink::stream_backlog`].
    pub fn stream_backlog(&self, stream: StreamId) -> Backlog {
        self.store.backlog(stream)
    }

    /// Sends a beacon of a stream that was started in this session; dropped otherwise. May be lost; the newest replaces
    /// an older one that waits.
    pub fn send_beacon(&mut self, beacon: Beacon) {
        self.store.beacon(beacon);
    }

    /// Tells where a stream stands here. Sent within half a millisecond, together with others, and again until the peer
    /// has it or a newer one. Dropped without a session.
    pub fn send_status(&mut self, status: StreamStatus) {
        if let Some(session) = &mut self.session {
            session.set_status(status);
        }
    }

    /// Sends a message, in order and reliably within the session; dropped without one. If more than [`CONTROL_QUEUE_MAX`]
    /// wait, the session ends ([`DownReason::ControlOverflow`]).
    pub fn send_message(&mut self, message: &Message) {
        if let Some(session) = &mut self.session
            && !session.control_out.push(message)
        {
            session.doomed = Some(DownReason::ControlOverflow);
        }
    }

    /// Ends the link: the next [`Link::poll_transmit`] tells the peer, after that nothing is sent or taken. The engine is
    /// not told by `session_down`, since it asked.
    pub fn close(&mut self) {
        self.closing = Some(());
    }

    /// Ends the session that is up, if it is this one, for another strand's sake; the next one is begun at once. Later ones
    /// are of `round` at least.
    pub fn end_session_of(&mut self, number: u64, round: u64) {
        self.handshake.want_round(round);
        if number != self.stats.sessions {
            return;
        }
        if let Some(session) = &mut self.session {
            session.doomed.get_or_insert(DownReason::Sibling);
        }
    }

    /// When [`Link::handle_timeout`] has to be called, and [`Link::poll_transmit`] after it, even if nothing else happens.
    pub fn next_timeout(&self) -> Option<Mono> {
        if self.closing.is_some() {
            return self.session.is_some().then_some(Mono(0));
        }
        if self.store.has_recheck() {
            return Some(Mono(0));
        }
        let callable = self.address().is_some();
        let handshake = [
            self.handshake_due().filter(|_| callable),
            self.handshake.resend_at().filter(|_| callable),
            self.handshake.pending_expires(),
        ];
        let session = self.session.as_ref().map(|session| self.session_timeout(session));
        handshake.into_iter().flatten().chain(session).min()
    }

    fn session_timeout(&self, session: &Session) -> Mono {
        if session.doomed.is_some() {
            return Mono(0);
        }
        let recovery = &session.recovery;
        let window_open = recovery.in_flight_bytes() + self.config.mtu_bytes as u64 <= session.congestion.window()
            && recovery.has_room();
        let sendable = (self.store.has_next() && window_open).then(|| session.congestion.free_at());
        let timers = [
            recovery.loss_deadline(),
            recovery.probe_deadline(),
            session.ack_deadline().filter(|_| recovery.has_room()),
            session.previous.as_ref().map(|(_, expires)| *expires),
            sendable,
            Some(session.last_asked.after_ns(self.config.keepalive_ns)),
        ];
        let dead = session.last_heard.after_ns(self.config.dead_after_ns);
        timers.into_iter().flatten().fold(dead, Mono::min)
    }

    /// Does what is due by now. Cheap if nothing is.
    pub fn handle_timeout(&mut self, now: Now, sink: &mut impl LinkSink) {
        if self.closing.is_some() {
            return;
        }
        self.recheck_statuses(sink);
        self.handshake.expire(now.mono);
        let Some(session) = &mut self.session else { return };
        let worn_out = session.keys.sent >= self.config.rekey_after_packets.saturating_mul(4);
        let doomed = if now.mono.since_ns(session.last_heard) >= self.config.dead_after_ns {
            Some(DownReason::Silence)
        } else if worn_out && self.config.security == Security::Noise {
            Some(DownReason::KeyWornOut)
        } else {
            session.doomed
        };
        if let Some(reason) = doomed {
            self.end_session(now.mono, reason, sink);
            return;
        }
        session.previous.take_if(|(_, expires)| *expires <= now.mono);
        let outcome = &mut self.scratch.outcome;
        if session.recovery.loss_deadline().is_some_and(|due| due <= now.mono) {
            session.recovery.on_loss_timer(now.mono, outcome);
            self.stats.datagrams_lost += outcome.lost.len() as u64;
            session.congestion.on_lost(outcome.lost.len() as u64);
            session.settle(&mut self.store, outcome);
        }
        if session.recovery.probe_deadline().is_some_and(|due| due <= now.mono) {
            session.recovery.on_probe_timer(now.mono, outcome);
            self.stats.probe_timeouts += 1;
            self.stats.datagrams_lost += outcome.lost.len() as u64;
            session.settle(&mut self.store, outcome);
            session.ping = true;
            session.probe_credit = 2;
            if session.recovery.probes() == PROBES_PERSISTENT {
                session.congestion.on_persistent();
            }
        }
        if now.mono.since_ns(session.last_asked) >= self.config.keepalive_ns {
            session.ping = true;
        }
    }

    /// Counters and present values.
    pub fn stats(&self) -> LinkStats {
        let mut stats = self.stats;
        stats.congestion_events = self.past.congestion_events;
        if let Some(session) = &self.session {
            let rtt = session.recovery.rtt();
            if rtt.is_sampled() {
                stats.rtt_ns = rtt.smoothed();
                stats.rtt_min_ns = rtt.least();
            }
            stats.reorder_window_ns = session.recovery.reorder_ns();
            stats.window_bytes = session.congestion.window();
            stats.in_flight_bytes = session.recovery.in_flight_bytes();
            stats.congestion_events += session.congestion.events;
            stats.session_up = true;
        }
        stats
    }
}

/// Probe time-outs in a row after which the path counts as interrupted.
const PROBES_PERSISTENT: u32 = 3;

#[cfg(test)]
mod tests;
