//! What comes in.

use super::ack;
use super::arrivals::Fate;
use super::handshake::{Finished, Keys, Refused};
use super::header::{Header, Kind, OUTSTANDING_UNKNOWN};
use super::session::Session;
use super::sink::{DataFrame, DownReason, LinkSink, Ticket, Verdict};
use super::{FRAGMENT_UNIT_BYTES, Link, beacons, control};
use crate::secondary::StreamStatus;
use crate::types::{Epoch, Mono, Now};
use std::net::SocketAddr;

/// Which keys a datagram is under.
#[derive(Clone, Copy)]
enum Under {
    Present,
    Previous,
    Pending,
}

impl<S: AsRef<[u8]> + Clone> Link<S> {
    /// Takes a train of datagrams that came in, each of `segment_bytes` but the last (0: one datagram). They are decrypted
    /// in place. What is not genuine, not new or makes no sense is counted and dropped.
    pub fn handle_datagrams(
        &mut self,
        now: Now,
        from: SocketAddr,
        train: &mut [u8],
        segment_bytes: usize,
        sink: &mut impl LinkSink,
    ) {
        if self.closing.is_some() || train.is_empty() {
            return;
        }
        self.recheck_statuses(sink);
        let segment_bytes = if segment_bytes == 0 { train.len() } else { segment_bytes };
        for datagram in train.chunks_mut(segment_bytes) {
            self.stats.datagrams_received += 1;
            self.stats.bytes_received += datagram.len() as u64;
            self.handle_datagram(now, from, datagram, sink);
        }
    }

    fn handle_datagram(&mut self, now: Now, from: SocketAddr, datagram: &mut [u8], sink: &mut impl LinkSink) {
        // Cheap checks first: nothing is decrypted that could not be meant for us.
        let Some((header, kind)) = Header::read(datagram) else {
            self.stats.dropped_malformed += 1;
            return;
        };
        match kind {
            Kind::Initiation => {
                let present = self.session.as_ref().map_or(0, |session| session.keys.local);
                match self.handshake.on_initiation(now.mono, from, &header, datagram, present) {
                    Ok(used) => {
                        self.stats.handshakes_answered += 1;
                        if let (Some(keys), Some(session)) = (used, &mut self.session) {
                            session.rekey(keys, now.mono);
                            self.stats.rekeys += 1;
                        }
                    }
                    Err(refused) => self.count_refused(refused),
                }
            }
            Kind::Answer => match self.handshake.on_answer(now.mono, &header, datagram) {
                Ok(finished) => self.finish_handshake(now, from, finished, sink),
                Err(refused) => self.count_refused(refused),
            },
            _ => self.handle_sealed(now, from, &header, kind, datagram, sink),
        }
    }

    fn count_refused(&mut self, refused: Refused) {
        match refused {
            Refused::Malformed => self.stats.dropped_malformed += 1,
            Refused::Strand { of } => {
                self.stats.strands_refused = of;
                self.stats.dropped_handshake += 1;
            }
            Refused::Unauthentic | Refused::Unwanted => self.stats.dropped_handshake += 1,
        }
    }

    /// The peer answered: the session begins, or goes on under new keys.
    fn finish_handshake(&mut self, now: Now, from: SocketAddr, finished: Finished, sink: &mut impl LinkSink) {
        let Finished { keys, continues, rtt_ns } = finished;
        match (continues, &mut self.session) {
            (None, _) => {
                self.begin_session(now.mono, from, keys, sink);
                if let (Some(rtt_ns), Some(session)) = (rtt_ns, &mut self.session) {
                    session.recovery.rtt_mut().sample(now.mono, rtt_ns, 0);
                }
            }
            (Some(number), Some(session)) if number == session.keys.remote => {
                session.rekey(keys, now.mono);
                self.stats.rekeys += 1;
            }
            // It goes on at the peer with a session that ended here meanwhile: begin anew.
            (Some(_), _) => self.handshake.wait_until(now.mono),
        }
    }

    fn begin_session(&mut self, now: Mono, from: SocketAddr, keys: Keys, sink: &mut impl LinkSink) {
        self.end_session(now, DownReason::Replaced, sink);
        self.handshake.pending = None;
        self.learned_addr = Some(from);
        let round = keys.round;
        self.session = Some(Session::new(&self.config, keys, now));
        self.stats.sessions += 1;
        self.stats.strands_refused = 0;
        sink.session_up(self.peer, round);
    }

    /// Ends the session if there is one.
    pub(crate) fn end_session(&mut self, now: Mono, reason: DownReason, sink: &mut impl LinkSink) {
        if let Some(session) = self.session.take() {
            self.past.congestion_events += session.congestion.events;
            self.store.end_session();
            self.handshake.session_ended();
            self.handshake.wait_until(now);
            sink.session_down(self.peer, reason);
        }
    }

    fn handle_sealed(
        &mut self,
        now: Now,
        from: SocketAddr,
        header: &Header,
        kind: Kind,
        datagram: &mut [u8],
        sink: &mut impl LinkSink,
    ) {
        let number = header.session.get();
        let packet = header.packet.get();
        let pending = self.handshake.pending.as_ref().filter(|pending| pending.keys.local == number);
        let (under, keys) = match (&self.session, pending) {
            (Some(session), _) if session.keys.local == number => (Under::Present, &session.keys),
            (Some(Session { previous: Some((keys, _)), .. }), _) if keys.local == number => (Under::Previous, keys),
            (_, Some(pending)) => (Under::Pending, &pending.keys),
            _ => {
                self.stats.dropped_stale_session += 1;
                return;
            }
        };
        let begins = matches!(under, Under::Pending) && pending.is_some_and(|pending| !pending.continues);
        let may_be_new = begins || self.session.as_ref().is_some_and(|session| session.replay.may_be_new(packet));
        if !may_be_new {
            self.stats.dropped_replayed += 1;
            return;
        }
        if self.session.as_ref().is_some_and(|session| session.arrivals.is_full()) {
            self.stats.data_frames_refused += 1;
            return;
        }
        let Some(plain) = keys.seal.open(header, datagram) else {
            self.stats.dropped_unauthentic += 1;
            return;
        };
        if let Under::Pending = under
            && let Some(pending) = self.handshake.take_pending()
        {
            if pending.continues {
                if let Some(session) = &mut self.session {
                    session.rekey(pending.keys, now.mono);
                    self.stats.rekeys += 1;
                }
            } else {
                self.begin_session(now.mono, from, pending.keys, sink);
            }
        }
        let Some(session) = &mut self.session else { return };
        if !session.replay.mark(packet) {
            self.stats.dropped_replayed += 1;
            return;
        }
        session.last_heard = now.mono;
        let outstanding = header.outstanding.get();
        if outstanding != OUTSTANDING_UNKNOWN {
            session.received.forget_below(packet.saturating_sub(u64::from(outstanding)));
        }
        let Some(body) = plain.get(..usize::from(header.body_bytes.get())) else {
            self.stats.dropped_invalid += 1;
            return;
        };
        match kind {
            Kind::Data => self.handle_data(now.mono, header, body, sink),
            Kind::Beacons => {
                session.arrived(now.mono, packet, false);
                if !beacons::decode(body, &mut self.scratch.beacons) {
                    self.stats.dropped_invalid += 1;
                }
                for (beacon, generation) in self.scratch.beacons.drain(..) {
                    sink.beacon(self.peer, generation, beacon);
                }
            }
            Kind::Ack => self.handle_ack(now.mono, packet, body, sink),
            Kind::Control => {
                match session.control_in.receive(header.seq.get(), body) {
                    control::Receipt::Accepted => session.arrived(now.mono, packet, true),
                    control::Receipt::TooEarly => return,
                    control::Receipt::Malformed => {
                        self.stats.dropped_invalid += 1;
                        self.end_session(now.mono, DownReason::Protocol, sink);
                        return;
                    }
                }
                while let Some(message) = self.session.as_mut().and_then(|session| session.control_in.pop()) {
                    self.stats.messages_received += 1;
                    sink.message(self.peer, message);
                }
            }
            Kind::Ping => session.arrived(now.mono, packet, true),
            Kind::Close => {
                self.end_session(now.mono, DownReason::Closed, sink);
                self.handshake.wait_until(now.mono.after_ns(CLOSED_NS));
            }
            Kind::Initiation | Kind::Answer => {}
        }
    }

    fn handle_data(&mut self, now: Mono, header: &Header, body: &[u8], sink: &mut impl LinkSink) {
        let Some(session) = &mut self.session else { return };
        let Some(frame) = data_frame(header, body) else {
            // Acknowledged all the same: it would not be better the next time.
            session.arrived(now, header.packet.get(), true);
            self.stats.dropped_invalid += 1;
            return;
        };
        let ticket = Ticket { session: self.stats.sessions, number: session.arrivals.next() };
        match sink.data(self.peer, frame, ticket) {
            Verdict::Later => session.arrivals.push(header.packet.get(), Fate::Open),
            Verdict::Accept => {
                session.arrived(now, header.packet.get(), true);
                self.stats.data_frames_accepted += 1;
                self.stats.payload_bytes_accepted += body.len() as u64;
            }
            Verdict::Drop => self.stats.data_frames_refused += 1,
        }
    }

    fn handle_ack(&mut self, now: Mono, packet: u64, body: &[u8], sink: &mut impl LinkSink) {
        let Some(session) = &mut self.session else { return };
        let acked = &mut self.scratch.ack;
        let sent = |highest: Option<u64>| highest.is_none_or(|highest| highest < session.next_packet);
        if !ack::decode(body, acked) || !sent(acked.ranges.highest()) {
            self.stats.dropped_invalid += 1;
            return;
        }
        session.arrived(now, packet, !acked.statuses.is_empty());
        if let Some(highest) = acked.ranges.highest() {
            let in_flight = session.recovery.in_flight_bytes();
            let outcome = &mut self.scratch.outcome;
            session.recovery.on_ack(now, &acked.ranges, acked.delay_ns, outcome);
            self.stats.losses_spurious += outcome.spurious;
            self.stats.datagrams_lost += outcome.lost.len() as u64;
            session.congestion.on_spurious(outcome.spurious);
            session.congestion.on_lost(outcome.lost.len() as u64);
            if outcome.acked_packets > 0 {
                let round_ended = session.congestion.on_acked(
                    now,
                    outcome.acked_bytes,
                    outcome.acked_packets,
                    highest,
                    session.next_packet,
                    in_flight,
                    outcome.rtt_sample_ns,
                    session.recovery.rtt(),
                );
                if round_ended {
                    session.recovery.fade_reordering();
                }
            }
            session.settle(&mut self.store, outcome);
        }
        let statuses = std::mem::take(&mut self.scratch.ack.statuses);
        for status in &statuses {
            self.apply_status(packet, *status, sink);
        }
        self.scratch.ack.statuses = statuses;
    }

    fn apply_status(&mut self, packet: u64, status: StreamStatus, sink: &mut impl LinkSink) {
        match self.store.status(packet, status) {
            Some(freed) => sink.status(self.peer, status, freed),
            None => self.stats.statuses_ignored += 1,
        }
    }

    /// Judges statuses that had come before their stream was started.
    pub(crate) fn recheck_statuses(&mut self, sink: &mut impl LinkSink) {
        if self.store.has_recheck() {
            for (packet, status) in self.store.take_recheck() {
                self.apply_status(packet, status, sink);
            }
        }
    }
}

/// After the peer said that it goes, it is not called at once.
const CLOSED_NS: u64 = 300_000_000;

/// The data frame, if header and body can be one; see [`DataFrame`] for what holds then.
pub(crate) fn data_frame<'a>(header: &Header, body: &'a [u8]) -> Option<DataFrame<'a>> {
    let head = header.record()?;
    let offset = header.fragment_offset.get();
    let bytes = u32::try_from(body.len()).ok()?;
    let end = offset.checked_add(bytes)?;
    let inside = end <= head.payload_bytes && (bytes > 0 || head.payload_bytes == 0);
    let whole = offset.is_multiple_of(FRAGMENT_UNIT_BYTES)
        && (bytes.is_multiple_of(FRAGMENT_UNIT_BYTES) || end == head.payload_bytes);
    (inside && whole).then_some(DataFrame {
        stream: head.stamp.stream,
        epoch: Epoch(header.epoch.get()),
        generation: header.generation.get(),
        head,
        fragment_offset: offset,
        body,
    })
}
