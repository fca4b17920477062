//! What goes out.

use super::config::Security;
use super::header::{HEADER_BYTES, Header, Kind, OUTSTANDING_UNKNOWN};
use super::recovery::Content;
use super::session::Session;
use super::stats::LinkStats;
use super::store::{Piece, Store};
use super::train::{Spacing, Train, Writer};
use super::{Link, ack, beacons, seal};
use crate::types::{Mono, Now};
use smallvec::SmallVec;
use zerocopy::little_endian::{U16, U32, U64};

/// Datagrams that are not data, in the order in which they go out.
enum Small {
    Close,
    Ack,
    Control,
    /// So many streams'.
    Beacons(usize),
    Ping,
}

impl<S: AsRef<[u8]> + Clone> Link<S> {
    /// Writes the next train into `out`, which holds at least one datagram of the configured size (64 KiB is best).
    /// `None`: nothing may go now. To be called in every turn until it gives `None`.
    pub fn poll_transmit(&mut self, now: Now, out: &mut [u8]) -> Option<Train> {
        let need = self.config.mtu_bytes + self.spacing.map_or(0, |spacing| spacing.headroom_bytes);
        assert!(out.len() >= need, "a buffer of {} bytes for datagrams of {need}", out.len());
        if let Some(train) = self.transmit_handshake(now, out) {
            return Some(train);
        }
        let to = self.address()?;
        let session = self.session.as_mut()?;
        let mut writer = Writer::new(out, self.spacing);
        if self.closing.is_none() {
            session.fill_data(now.mono, &mut self.store, &mut self.stats, &mut writer);
        }
        while let Some((small, bytes)) =
            session.next_small(now.mono, &self.store, self.closing.is_some(), &mut self.scratch)
        {
            if !writer.fits(bytes) {
                break;
            }
            session.write_small(now.mono, small, bytes, &mut self.store, &mut self.stats, &self.scratch, &mut writer);
            if self.closing.is_some() {
                self.session = None;
                break;
            }
        }
        if writer.is_empty() {
            return None;
        }
        let train = Train { bytes: writer.used(), segment_bytes: writer.segment(), to };
        self.stats.trains_sent += 1;
        self.stats.bytes_sent += train.bytes as u64;
        Some(train)
    }

    /// Where the datagrams of trains stand in their buffers from now on; `None`, as at first: back to back.
    ///
    /// # Panics
    /// If the longest datagram does not fit between two.
    pub fn set_spacing(&mut self, spacing: Option<Spacing>) {
        if let Some(Spacing { headroom_bytes, stride_bytes }) = spacing {
            assert!(headroom_bytes + self.config.mtu_bytes <= stride_bytes, "datagrams would overlap");
        }
        self.spacing = spacing;
    }

    fn transmit_handshake(&mut self, now: Now, out: &mut [u8]) -> Option<Train> {
        if self.closing.is_some() {
            return None;
        }
        self.handshake.expire(now.mono);
        let address = self.address();
        if address.is_some() && self.handshake_due().is_some_and(|due| due <= now.mono) {
            let continues = self.session.as_ref().map_or(0, |session| session.keys.remote);
            self.handshake.begin(now, continues);
            self.stats.handshakes_initiated += 1;
        }
        let (datagram, answer_to) = self.handshake.poll(now.mono)?;
        let to = self.config.remote_addr.or(answer_to).or(address)?;
        let headroom = self.spacing.map_or(0, |spacing| spacing.headroom_bytes);
        out.get_mut(headroom..headroom + datagram.len())?.copy_from_slice(datagram);
        let bytes = datagram.len();
        self.stats.datagrams_sent += 1;
        self.stats.bytes_sent += bytes as u64;
        self.stats.trains_sent += 1;
        Some(Train { bytes, segment_bytes: bytes, to })
    }

    /// When the next handshake is to be begun, as far as is known: at once without a session, and when keys are old.
    pub(crate) fn handshake_due(&self) -> Option<Mono> {
        if !self.handshake.is_idle() {
            return None;
        }
        let Some(session) = &self.session else { return Some(self.handshake.next_attempt()) };
        if self.config.security == Security::None {
            return None;
        }
        // One side goes first, so that the two rarely meet.
        let patience = |limit: u64| if self.handshake.insists() { limit } else { limit.saturating_add(limit / 8) };
        let worn = session.keys.sent >= patience(self.config.rekey_after_packets);
        let old = session.keys.made_at.after_ns(patience(self.config.rekey_after_ns));
        let wanted = if worn { Mono(0) } else { old };
        Some(wanted.max(self.handshake.next_attempt()))
    }
}

impl Session {
    /// Adds data fragments while window, pace and the train's size permit.
    fn fill_data<S: AsRef<[u8]> + Clone>(
        &mut self,
        now: Mono,
        store: &mut Store<S>,
        stats: &mut LinkStats,
        writer: &mut Writer<'_>,
    ) {
        let overhead = HEADER_BYTES + self.keys.seal.tag_bytes();
        store.send(|fragment, piece, again| {
            let bytes = overhead + fragment.bytes as usize;
            let permitted = self.probe_credit > 0
                || (self.recovery.in_flight_bytes() + bytes as u64 <= self.congestion.window()
                    && self.congestion.free_at() <= now);
            if !permitted || !self.recovery.has_room() || !writer.fits(bytes) {
                return false;
            }
            let mut header = self.header(Kind::Data, fragment.bytes as usize);
            header.set_record(fragment.epoch, fragment.generation, fragment.head);
            header.fragment_offset = U32::new(fragment.offset);
            self.write(now, header, fragment.body(), bytes, Some(content_of(piece)), stats, writer);
            if again {
                stats.data_frames_retransmitted += 1;
            } else {
                stats.data_frames_sent += 1;
                stats.payload_bytes_sent += u64::from(fragment.bytes);
            }
            self.probe_credit = self.probe_credit.saturating_sub(1);
            true
        });
    }

    /// The next datagram that is not data, and its size. The body of an acknowledgement, or of
    /// beacons, is left in `scratch`.
    fn next_small<S: AsRef<[u8]> + Clone>(
        &self,
        now: Mono,
        store: &Store<S>,
        closing: bool,
        scratch: &mut super::Scratch,
    ) -> Option<(Small, usize)> {
        let overhead = HEADER_BYTES + self.keys.seal.tag_bytes();
        if closing {
            return Some((Small::Close, overhead));
        }
        if self.ack_deadline().is_some_and(|due| due <= now) && self.recovery.has_room() {
            scratch.statuses.clear();
            scratch.versions.clear();
            for (status, version) in self.waiting_statuses().take(ack::STATUSES_MAX) {
                scratch.statuses.push(status);
                scratch.versions.push((status.stream, version));
            }
            let bytes_max = scratch.body_bytes_max;
            let delay_ns = self.ack_delay_ns(now);
            ack::encode(&mut scratch.body, delay_ns, &scratch.statuses, &self.received, bytes_max);
            return Some((Small::Ack, overhead + scratch.body.len()));
        }
        if let Some((_, bytes)) = self.control_out.next().filter(|_| self.recovery.has_room()) {
            return Some((Small::Control, overhead + bytes.len()));
        }
        if store.has_beacons() {
            let count = beacons::encode(&mut scratch.body, store.beacons(), scratch.body_bytes_max);
            return Some((Small::Beacons(count), overhead + scratch.body.len()));
        }
        (self.ping && self.recovery.has_room()).then_some((Small::Ping, overhead))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of the link, borrowed one by one")]
    fn write_small<S: AsRef<[u8]> + Clone>(
        &mut self,
        now: Mono,
        small: Small,
        bytes: usize,
        store: &mut Store<S>,
        stats: &mut LinkStats,
        scratch: &super::Scratch,
        writer: &mut Writer<'_>,
    ) {
        match small {
            Small::Close => {
                let header = self.header(Kind::Close, 0);
                self.write(now, header, &[], bytes, None, stats, writer);
            }
            Small::Ack => {
                let header = self.header(Kind::Ack, scratch.body.len());
                let statuses = SmallVec::from_slice(&scratch.versions);
                let content = (!scratch.versions.is_empty()).then_some(Content::Statuses(statuses));
                self.write(now, header, &scratch.body, bytes, content, stats, writer);
                self.ack_sent(now, &scratch.versions);
                stats.acks_sent += 1;
            }
            Small::Control => {
                let Some((number, body)) = self.control_out.next().map(|(number, body)| (number, body.to_vec())) else {
                    return;
                };
                let mut header = self.header(Kind::Control, body.len());
                header.seq = U64::new(number);
                self.write(now, header, &body, bytes, Some(Content::Message(number)), stats, writer);
                self.control_out.on_sent(number);
                stats.messages_sent += 1;
            }
            Small::Beacons(count) => {
                let header = self.header(Kind::Beacons, scratch.body.len());
                self.write(now, header, &scratch.body, bytes, None, stats, writer);
                store.beacons_sent(count);
                stats.beacons_sent += count as u64;
            }
            Small::Ping => {
                let header = self.header(Kind::Ping, 0);
                self.write(now, header, &[], bytes, Some(Content::Ping), stats, writer);
                self.ping = false;
            }
        }
    }

    /// A header with the next packet number.
    fn header(&mut self, kind: Kind, body_bytes: usize) -> Header {
        let packet = self.next_packet;
        self.next_packet += 1;
        let mut header = Header::new(kind, self.keys.remote, packet);
        header.body_bytes = U16::new(body_bytes as u16);
        let outstanding = packet - self.recovery.oldest().unwrap_or(packet);
        header.outstanding = U16::new(u16::try_from(outstanding).unwrap_or(OUTSTANDING_UNKNOWN));
        header
    }

    /// Writes and seals one datagram; with content it is tracked until it is acknowledged.
    #[expect(clippy::too_many_arguments, reason = "one datagram")]
    fn write(
        &mut self,
        now: Mono,
        header: Header,
        body: &[u8],
        bytes: usize,
        content: Option<Content>,
        stats: &mut LinkStats,
        writer: &mut Writer<'_>,
    ) {
        debug_assert!(self.keys.seal.tag_bytes() <= seal::TAG_BYTES_MAX);
        let datagram = writer.place(bytes);
        self.keys.seal.seal(&header, body, datagram);
        self.keys.sent += 1;
        stats.datagrams_sent += 1;
        let sent_bytes = datagram.len() as u64;
        self.congestion.pay(now, sent_bytes, self.recovery.rtt().smoothed());
        if let Some(content) = content {
            self.recovery.on_sent(now, header.packet.get(), sent_bytes as u32, content);
            self.last_asked = now;
        }
    }
}

fn content_of(piece: &Piece) -> Content {
    Content::Data { stream: piece.stream, epoch: piece.epoch, seq: piece.seq, fragment: piece.fragment }
}
