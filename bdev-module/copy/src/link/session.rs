//! What lives as long as a session: packet numbers, acknowledgements, control messages, statuses.

use super::arrivals::{Arrivals, Fate};
use super::config::LinkConfig;
use super::congestion::Congestion;
use super::control;
use super::handshake::Keys;
use super::numbers::{RangeSet, ReplayWindow};
use super::recovery::{Content, Outcome, Recovery};
use super::sink::DownReason;
use super::store::Store;
use crate::secondary::StreamStatus;
use crate::types::{Mono, StreamId};
use std::collections::{BTreeMap, BTreeSet};

/// Datagrams after which an acknowledgement is due at once.
const ACK_EVERY: u32 = 64;
/// It waits no longer than this.
const ACK_DELAY_NS: u64 = 1_000_000;
/// Statuses are coalesced over this time.
const STATUS_INTERVAL_NS: u64 = 500_000;
/// Keys that were replaced are good for datagrams under way for so long.
const PREVIOUS_KEYS_NS: u64 = 10_000_000_000;

struct OutStatus {
    status: StreamStatus,
    version: u64,
}

/// One session with the peer.
pub(crate) struct Session {
    /// See [`Keys::round`]: new keys change nothing about it.
    pub(crate) round: u64,
    pub(crate) keys: Keys,
    pub(crate) previous: Option<(Keys, Mono)>,
    pub(crate) replay: ReplayWindow,
    pub(crate) next_packet: u64,
    pub(crate) recovery: Recovery,
    pub(crate) congestion: Congestion,
    pub(crate) control_out: control::Sender,
    pub(crate) control_in: control::Receiver,
    pub(crate) received: RangeSet,
    pub(crate) arrivals: Arrivals,
    highest_received_at: Mono,
    unacked: u32,
    ack_due: Option<Mono>,
    last_ack_at: Mono,
    statuses: BTreeMap<StreamId, OutStatus>,
    dirty: BTreeSet<StreamId>,
    status_version: u64,
    pub(crate) last_heard: Mono,
    pub(crate) last_asked: Mono,
    pub(crate) ping: bool,
    /// Datagrams that may go beyond window and pace, to find out whether anything gets through.
    pub(crate) probe_credit: u32,
    /// It ends at the next opportunity.
    pub(crate) doomed: Option<DownReason>,
}

impl Session {
    pub(crate) fn new(config: &LinkConfig, keys: Keys, now: Mono) -> Session {
        Session {
            round: keys.round,
            keys,
            previous: None,
            replay: ReplayWindow::new(),
            next_packet: 0,
            recovery: Recovery::new(),
            congestion: Congestion::new(
                config.mtu_bytes,
                config.window_bytes_max,
                config.loss_tolerance,
                config.rate_limit_bytes_per_s,
            ),
            control_out: control::Sender::default(),
            control_in: control::Receiver::default(),
            received: RangeSet::default(),
            arrivals: Arrivals::default(),
            highest_received_at: now,
            unacked: 0,
            ack_due: None,
            last_ack_at: Mono(0),
            statuses: BTreeMap::new(),
            dirty: BTreeSet::new(),
            status_version: 0,
            last_heard: now,
            last_asked: now,
            // The first datagram under new keys tells the peer that its answer arrived.
            ping: true,
            probe_credit: 1,
            doomed: None,
        }
    }

    /// New keys for the same session.
    pub(crate) fn rekey(&mut self, keys: Keys, now: Mono) {
        let old = std::mem::replace(&mut self.keys, keys);

        self.previous = Some((old, now.after_ns(PREVIOUS_KEYS_NS)));
        self.ping = true;
        self.last_heard = now;
    }

    /// A genuine datagram was taken. It is noted behind those that came before it.
    pub(crate) fn arrived(&mut self, now: Mono, packet: u64, eliciting: bool) {
        match self.arrivals.is_empty() {
            true => self.note_received(now, packet, eliciting),
            false => self.arrivals.push(packet, Fate::Noted { eliciting }),
        }
    }

    /// Notes what no longer waits.
    pub(crate) fn note_settled(&mut self, now: Mono) {
        while let Some((packet, fate)) = self.arrivals.pop() {
            if let Fate::Noted { eliciting } = fate {
                self.note_received(now, packet, eliciting);
            }
        }
    }

    fn note_received(&mut self, now: Mono, packet: u64, eliciting: bool) {
        if self.received.highest().is_none_or(|highest| packet > highest) {
            self.highest_received_at = now;
        }
        self.received.insert(packet);
        if eliciting {
            self.unacked += 1;
            let due = if self.unacked >= ACK_EVERY { now } else { now.after_ns(ACK_DELAY_NS) };
            self.ack_due = Some(self.ack_due.map_or(due, |before| before.min(due)));
        }
    }

    /// When an acknowledgement has to go out.
    pub(crate) fn ack_deadline(&self) -> Option<Mono> {
        let statuses = (!self.dirty.is_empty()).then(|| self.last_ack_at.after_ns(STATUS_INTERVAL_NS));
        [self.ack_due, statuses].into_iter().flatten().min()
    }

    pub(crate) fn set_status(&mut self, status: StreamStatus) {
        if self.statuses.get(&status.stream).is_some_and(|known| known.status == status) {
            return;
        }
        self.status_version += 1;
        self.statuses.insert(status.stream, OutStatus { status, version: self.status_version });
        self.dirty.insert(status.stream);
    }

    /// Statuses for the next acknowledgement, with their versions.
    pub(crate) fn waiting_statuses(&self) -> impl Iterator<Item = (StreamStatus, u64)> + '_ {
        self.dirty.iter().filter_map(|id| self.statuses.get(id)).map(|known| (known.status, known.version))
    }

    /// How long the acknowledgement of the highest packet was held back.
    pub(crate) fn ack_delay_ns(&self, now: Mono) -> u64 {
        now.since_ns(self.highest_received_at)
    }

    /// An acknowledgement with these statuses went out.
    pub(crate) fn ack_sent(&mut self, now: Mono, statuses: &[(StreamId, u64)]) {
        for (stream, _) in statuses {
            self.dirty.remove(stream);
        }
        self.unacked = 0;
        self.ack_due = None;
        self.last_ack_at = now;
    }

    /// Puts back what was lost.
    pub(crate) fn on_lost<S: AsRef<[u8]> + Clone>(&mut self, store: &mut Store<S>, content: Content) {
        match content {
            Content::Data { stream, epoch, seq, fragment } => store.on_lost(stream, epoch, seq, fragment),
            Content::Message(number) => self.control_out.on_lost(number),
            Content::Statuses(statuses) => {
                for (stream, version) in statuses {
                    if self.statuses.get(&stream).is_some_and(|known| known.version == version) {
                        self.dirty.insert(stream);
                    }
                }
            }
            Content::Ping => {}
        }
    }

    /// Draws the consequences of what recovery found, but for growth of the window.
    pub(crate) fn settle<S: AsRef<[u8]> + Clone>(&mut self, store: &mut Store<S>, outcome: &mut Outcome) {
        for (content, was_lost) in outcome.acked.drain(..) {
            match content {
                Content::Data { stream, epoch, seq, fragment } if was_lost => {
                    store.on_found(stream, epoch, seq, fragment);
                }
                Content::Message(number) => self.control_out.on_acked(number),
                _ => {}
            }
        }
        for content in outcome.lost.drain(..) {
            self.on_lost(store, content);
        }
    }
}
