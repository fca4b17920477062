//! Agreeing on keys: who begins, who gives way, what is answered.
//!
//! ```text
//! initiation body = Noise message 1 (time, session, continues, security) | mac (16 bytes)
//! answer body     = Noise message 2 (time, session, continued)
//! ```
//!
//! The mac is keyed with the responder's public key: who does not even know that costs no curve arithmetic. An
//! initiation is longer than its answer, so nothing is amplified; the same initiation is sent again until it is answered
//! (a path may be slower than any retry interval), and the same answer again to the same initiation. An older
//! initiation is refused by its time. Both at once: the one of the system with the greater public key stands, the other
//! gives way. If that one has had no answer for a while, its path may work in one direction only; then it goes on
//! calling and answers as well, and whichever handshake is used first stands.
//!
//! Without security the same exchange runs in the clear, with the CRC of every datagram. The keys are names then: each side
//! says its own, and what it was told to be the other's, if it was; what one side was told and the other says is compared.
//! A side that was told no key knows the other by its address, and takes initiations from there alone.

use super::config::{LinkConfig, Security, Strand};
use super::header::{HEADER_BYTES, Header, Kind};
use super::noise::{Initiation, Received, SplitKeys, public_of};
use super::seal::Seal;
use crate::types::{Mono, Now};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use ring::hmac;
use std::net::SocketAddr;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAC_BYTES: usize = 16;

/// In place of a key that was not told.
const NOBODY: [u8; 32] = [0; 32];

/// First wait for an answer; doubled up to the next.
const RESEND_NS_MIN: u64 = 100_000_000;
const RESEND_NS_MAX: u64 = 500_000_000;
/// An initiation is given up and begun anew after this.
const OUTSTANDING_NS_MAX: u64 = 3_000_000_000;
/// For so long our own initiation stands against the peer's, which is not answered.
const INSIST_NS: u64 = 500_000_000;
/// An answered handshake waits so long for its first datagram.
const PENDING_NS_MAX: u64 = 1_500_000_000;
/// Curve arithmetic for strangers: so many at once, and one more per interval.
const BUDGET_MAX: u64 = 20;
const BUDGET_INTERVAL_NS: u64 = 20_000_000;

/// What an initiation says.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Call {
    /// The sender's timeline, strictly rising from one initiation to the next.
    time: U64,
    /// The sender's number for the session.
    session: U32,
    /// The receiver's number of the session that gets new keys, or 0 for a new session.
    continues: U32,
    /// 1 with Noise, 0 without.
    secure: u8,
    /// Which strand of the link it is, from 0, and of how many, less one.
    strand: u8,
    further_strands: u8,
    reserved: [u8; 5],
    /// The least round that the sender wants the session to be of (see [`Keys::round`]).
    round: U64,
    /// Without security: who calls whom. A slip in a configuration shows, no more. Zero: the caller was not told.
    from_key: [u8; 32],
    to_key: [u8; 32],
}

const CALL_BYTES: usize = 96;
const _: () = assert!(size_of::<Call>() == CALL_BYTES);

/// What an answer says.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Reply {
    /// Of the initiation.
    time: U64,
    /// The sender's number for the session.
    session: U32,
    /// 1 if the session goes on under new keys.
    continued: U32,
    /// The round that it is of.
    round: U64,
}

const _: () = assert!(size_of::<Reply>() < CALL_BYTES);

/// Keys and numbers of one finished handshake.
pub(crate) struct Keys {
    /// The number that the peer puts into datagrams to us.
    pub(crate) local: u32,
    /// The number that we put into datagrams to the peer.
    pub(crate) remote: u32,
    pub(crate) seal: Seal,
    /// The greatest that either side knew of: sessions of strands that belong together are of one round.
    pub(crate) round: u64,
    pub(crate) made_at: Mono,
    /// Datagrams sealed.
    pub(crate) sent: u64,
}

struct Outstanding {
    session: u32,
    continues: u32,
    time: u64,
    /// None without security.
    noise: Option<Box<Initiation>>,
    datagram: Vec<u8>,
    begun: Mono,
    resend_at: Mono,
    interval_ns: u64,
    times_sent: u32,
}

/// Keys that wait for the first datagram under them.
pub(crate) struct Pending {
    pub(crate) keys: Keys,
    /// The present session gets new keys; otherwise it is replaced.
    pub(crate) continues: bool,
    expires: Mono,
}

/// What an answer leads to.
pub(crate) struct Finished {
    pub(crate) keys: Keys,
    /// The number (at the peer) of the session that goes on; `None` for a new one.
    pub(crate) continues: Option<u32>,
    /// If it is known which sending was answered.
    pub(crate) rtt_ns: Option<u64>,
}

/// Why a handshake datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Malformed,
    Unauthentic,
    /// Old, superfluous, or one too many.
    Unwanted,
    /// The caller's link is of so many strands, or its strand is another one.
    Strand {
        of: u8,
    },
}

/// The handshakes of one link.
pub(crate) struct Handshake {
    local_private: [u8; 32],
    local_public: [u8; 32],
    /// `None`: not told, only without security.
    remote_public: Option<[u8; 32]>,
    /// As far as the other's key is known. Looked at in each turn, so the keys are compared once.
    insists: bool,
    remote_addr: Option<SocketAddr>,
    strand: Strand,
    round: u64,
    security: Security,
    rng: ChaCha20Rng,
    /// Over initiations to the peer, and to us.
    mac_out: hmac::Key,
    mac_in: hmac::Key,
    outstanding: Option<Outstanding>,
    pub(crate) pending: Option<Pending>,
    /// Body of the last initiation that was answered, and the answer.
    answered: Option<(Vec<u8>, Vec<u8>)>,
    answer_waits: Option<SocketAddr>,
    /// Of the peer's initiations.
    time_seen: u64,
    /// Of our own.
    time_used: u64,
    next_attempt: Mono,
    budget: u64,
    budget_at: Mono,
}

fn mac_key(public: &[u8; 32]) -> hmac::Key {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(b"longrun initiation");
    context.update(public);
    hmac::Key::new(hmac::HMAC_SHA256, context.finish().as_ref())
}

impl Handshake {
    pub(crate) fn new(config: &LinkConfig, seed: [u8; 32]) -> Handshake {
        let local_public = public_of(&config.local_private_key);
        Handshake {
            local_private: config.local_private_key,
            local_public,
            remote_public: config.remote_public_key,
            insists: local_public > config.remote_public_key.unwrap_or(NOBODY),
            remote_addr: config.remote_addr,
            strand: config.strand,
            round: 0,
            security: config.security,
            rng: ChaCha20Rng::from_seed(seed),
            mac_out: mac_key(&config.remote_public_key.unwrap_or(NOBODY)),
            mac_in: mac_key(&local_public),
            outstanding: None,
            pending: None,
            answered: None,
            answer_waits: None,
            time_seen: 0,
            time_used: 0,
            next_attempt: Mono(0),
            budget: BUDGET_MAX,
            budget_at: Mono(0),
        }
    }

    /// Whose initiation stands if there are two: the one of who has the greater key, as far as the other's is known.
    pub(crate) fn insists(&self) -> bool {
        self.insists
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding.is_none() && self.pending.is_none()
    }

    pub(crate) fn next_attempt(&self) -> Mono {
        self.next_attempt
    }

    /// No session is of an earlier round from here on, as far as it is this side that decides.
    pub(crate) fn want_round(&mut self, round: u64) {
        self.round = self.round.max(round);
    }

    /// Nothing is begun before this time.
    pub(crate) fn wait_until(&mut self, at: Mono) {
        self.next_attempt = self.next_attempt.max(at);
    }

    /// When the initiation is sent (again).
    pub(crate) fn resend_at(&self) -> Option<Mono> {
        self.outstanding.as_ref().map(|outstanding| outstanding.resend_at)
    }

    pub(crate) fn pending_expires(&self) -> Option<Mono> {
        self.pending.as_ref().map(|pending| pending.expires)
    }

    /// The present session ended: what would have continued it is void.
    pub(crate) fn session_ended(&mut self) {
        self.pending.take_if(|pending| pending.continues);
        self.outstanding.take_if(|outstanding| outstanding.continues != 0);
    }

    /// The peer used the keys that it had asked for: what we asked for ourselves is overtaken.
    pub(crate) fn take_pending(&mut self) -> Option<Pending> {
        self.outstanding = None;
        self.pending.take()
    }

    /// Drops what waited too long.
    pub(crate) fn expire(&mut self, now: Mono) {
        self.pending.take_if(|pending| pending.expires <= now);
        if self.outstanding.take_if(|own| now.since_ns(own.begun) >= OUTSTANDING_NS_MAX).is_some() {
            self.next_attempt = self.next_attempt.max(now);
        }
    }

    fn session_number(&mut self) -> u32 {
        loop {
            let number = self.rng.next_u32();
            let taken = self.pending.as_ref().is_some_and(|pending| pending.keys.local == number);
            if number != 0 && !taken {
                return number;
            }
        }
    }

    fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }

    fn datagram(&self, kind: Kind, session: u32, body: &[u8]) -> Vec<u8> {
        let mut header = Header::new(kind, session, 0);
        header.body_bytes = U16::new(body.len() as u16);
        let mut datagram = header.as_bytes().to_vec();
        datagram.extend_from_slice(body);
        match (self.security, kind) {
            (Security::None, _) => {
                datagram.extend_from_slice(&[0; 4]);
                Seal::Crc.seal(&header, body, &mut datagram);
            }
            (Security::Noise, Kind::Initiation) => {
                let mac = hmac::sign(&self.mac_out, &datagram);
                datagram.extend(mac.as_ref().iter().take(MAC_BYTES));
            }
            (Security::Noise, _) => {}
        }
        datagram
    }

    /// Begins a handshake; it goes out with the next [`Handshake::poll`]. `continues` is the peer's number of the session
    /// that wants new keys, or 0.
    pub(crate) fn begin(&mut self, now: Now, continues: u32) {
        let session = self.session_number();
        let time = now.time.0.max(self.time_used + 1);
        self.time_used = time;
        let mut call = Call {
            time: U64::new(time),
            session: U32::new(session),
            continues: U32::new(continues),
            secure: 0,
            strand: self.strand.index,
            further_strands: self.strand.of - 1,
            reserved: [0; 5],
            round: U64::new(self.round),
            from_key: [0; 32],
            to_key: [0; 32],
        };
        let (noise, body) = match self.security {
            Security::None => {
                call.from_key = self.local_public;
                call.to_key = self.remote_public.unwrap_or(NOBODY);
                (None, call.as_bytes().to_vec())
            }
            Security::Noise => {
                call.secure = 1;
                let seed = self.seed();
                let remote_public = self.remote_public.unwrap_or(NOBODY);
                match Initiation::begin(&self.local_private, &remote_public, seed, call.as_bytes()) {
                    Ok((noise, body)) => (Some(Box::new(noise)), body),
                    Err(_) => {
                        // A key of the peer's that is no point worth multiplying: nothing will ever work.
                        self.next_attempt = now.mono.after_ns(OUTSTANDING_NS_MAX);
                        return;
                    }
                }
            }
        };
        let datagram = self.datagram(Kind::Initiation, session, &body);
        self.outstanding = Some(Outstanding {
            session,
            continues,
            time,
            noise,
            datagram,
            begun: now.mono,
            resend_at: now.mono,
            interval_ns: RESEND_NS_MIN,
            times_sent: 0,
        });
    }

    /// A handshake datagram to send: bytes, and where to if not to the usual address.
    pub(crate) fn poll(&mut self, now: Mono) -> Option<(&[u8], Option<SocketAddr>)> {
        if let Some(to) = self.answer_waits.take() {
            return self.answered.as_ref().map(|(_, answer)| (answer.as_slice(), Some(to)));
        }
        let jitter = u64::from(self.rng.next_u32() % 16);
        let outstanding = self.outstanding.as_mut().filter(|outstanding| outstanding.resend_at <= now)?;
        outstanding.resend_at = now.after_ns(outstanding.interval_ns - outstanding.interval_ns / 128 * jitter);
        outstanding.interval_ns = (outstanding.interval_ns * 2).min(RESEND_NS_MAX);
        outstanding.times_sent += 1;
        Some((&outstanding.datagram, None))
    }

    /// Whether curve arithmetic may be done for someone who is not known yet.
    fn afford(&mut self, now: Mono) -> bool {
        let earned = now.since_ns(self.budget_at) / BUDGET_INTERVAL_NS;
        if earned > 0 {
            self.budget = self.budget.saturating_add(earned).min(BUDGET_MAX);
            self.budget_at = now;
        }
        let affordable = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        affordable
    }

    /// The peer's initiation. `present` is our number of the present session, 0 if there is none. May give keys that are
    /// in use from now on: the peer wants them replaced, so it has them, though no datagram under them came yet.
    pub(crate) fn on_initiation(
        &mut self,
        now: Mono,
        from: SocketAddr,
        header: &Header,
        datagram: &mut [u8],
        present: u32,
    ) -> Result<Option<Keys>, Refused> {
        let body = match self.security {
            Security::Noise => {
                let (signed, mac) = datagram.split_at_checked(datagram.len() - MAC_BYTES).ok_or(Refused::Malformed)?;
                let expected = hmac::sign(&self.mac_in, signed);
                if expected.as_ref().get(..MAC_BYTES) != Some(mac) {
                    return Err(Refused::Unauthentic);
                }
                signed.get(HEADER_BYTES..).ok_or(Refused::Malformed)?
            }
            Security::None => &*Seal::Crc.open(header, datagram).ok_or(Refused::Unauthentic)?,
        };
        if usize::from(header.body_bytes.get()) != body.len() {
            return Err(Refused::Malformed);
        }
        if self.answered.as_ref().is_some_and(|(answered, _)| answered == body) {
            // Its answer was lost, or this is a replay, to which it is useless. Nothing changes here.
            self.answer_waits = Some(from);
            return Ok(None);
        }
        let body = body.to_vec();
        let remote_public = match self.security {
            Security::Noise => self.remote_public.ok_or(Refused::Unauthentic)?,
            Security::None => self.named(from, &body)?,
        };
        let insists = self.local_public > remote_public;
        let is_fresh = |own: &Outstanding| now.since_ns(own.begun) < INSIST_NS;
        if insists && self.outstanding.as_ref().is_some_and(is_fresh) || !self.afford(now) {
            return Err(Refused::Unwanted);
        }
        let (call, received) = match self.security {
            Security::Noise => {
                let seed = self.seed();
                let received = Received::read(&self.local_private, &remote_public, seed, &body)
                    .map_err(|_| Refused::Unauthentic)?;
                let call = Call::read_from_bytes(&received.payload).map_err(|_| Refused::Malformed)?;
                (call, Some(received))
            }
            Security::None => (Call::read_from_bytes(&body).map_err(|_| Refused::Malformed)?, None),
        };
        if call.session != header.session || call.session.get() == 0 || call.secure != u8::from(received.is_some()) {
            return Err(Refused::Malformed);
        }
        if call.time.get() <= self.time_seen {
            return Err(Refused::Unwanted);
        }
        self.time_seen = call.time.get();
        let strand = Strand { index: call.strand, of: call.further_strands.saturating_add(1) };
        if strand != self.strand {
            return Err(Refused::Strand { of: strand.of });
        }
        self.want_round(call.round.get());
        if !insists {
            self.outstanding = None;
        }
        let local = self.session_number();
        let continued = call.continues.get();
        let used = self.pending.take_if(|pending| pending.continues && pending.keys.local == continued);
        let continues = continued != 0 && present != 0 && (continued == present || used.is_some());
        let reply = Reply {
            time: call.time,
            session: U32::new(local),
            continued: U32::new(u32::from(continues)),
            round: U64::new(self.round),
        };
        let (answer, seal) = match received {
            Some(received) => {
                let (answer, keys) = received.answer(reply.as_bytes()).map_err(|_| Refused::Unauthentic)?;
                (answer, Seal::aead(&keys).ok_or(Refused::Unauthentic)?)
            }
            None => (reply.as_bytes().to_vec(), Seal::Crc),
        };
        let answer = self.datagram(Kind::Answer, call.session.get(), &answer);
        self.answered = Some((body, answer));
        self.answer_waits = Some(from);
        let keys = Keys { local, remote: call.session.get(), seal, round: self.round, made_at: now, sent: 0 };
        self.pending = Some(Pending { keys, continues, expires: now.after_ns(PENDING_NS_MAX) });
        Ok(used.map(|used| used.keys))
    }

    /// Without security: the key that the caller says is its own, if it is the one that is to call here.
    fn named(&self, from: SocketAddr, body: &[u8]) -> Result<[u8; 32], Refused> {
        let call = Call::read_from_bytes(body).map_err(|_| Refused::Malformed)?;
        let is_expected = match self.remote_public {
            Some(expected) => call.from_key == expected,
            // Without the numbers that an IPv6 address has beside these two.
            None => self.remote_addr.is_some_and(|addr| (addr.ip(), addr.port()) == (from.ip(), from.port())),
        };
        let means_us = call.to_key == NOBODY || call.to_key == self.local_public;
        // A copy of this system's state directory, or our own initiation come back.
        let is_us = call.from_key == self.local_public;
        if is_expected && means_us && !is_us { Ok(call.from_key) } else { Err(Refused::Unauthentic) }
    }

    /// The peer's answer.
    pub(crate) fn on_answer(&mut self, now: Mono, header: &Header, datagram: &mut [u8]) -> Result<Finished, Refused> {
        let outstanding = self
            .outstanding
            .as_mut()
            .filter(|outstanding| outstanding.session == header.session.get())
            .ok_or(Refused::Unwanted)?;
        let (reply, keys): (Reply, Option<SplitKeys>) = match &mut outstanding.noise {
            Some(noise) => {
                let body = datagram.get(HEADER_BYTES..).ok_or(Refused::Malformed)?;
                let (payload, keys) = noise.finish(body).map_err(|_| Refused::Unauthentic)?;
                (Reply::read_from_bytes(&payload).map_err(|_| Refused::Malformed)?, Some(keys))
            }
            None => {
                let body = Seal::Crc.open(header, datagram).ok_or(Refused::Unauthentic)?;
                (Reply::read_from_bytes(body).map_err(|_| Refused::Malformed)?, None)
            }
        };
        if reply.time.get() != outstanding.time || reply.session.get() == 0 {
            return Err(Refused::Malformed);
        }
        let seal = match keys {
            Some(keys) => Seal::aead(&keys).ok_or(Refused::Unauthentic)?,
            None => Seal::Crc,
        };
        let finished = Finished {
            keys: Keys {
                local: outstanding.session,
                remote: reply.session.get(),
                seal,
                round: reply.round.get(),
                made_at: now,
                sent: 0,
            },
            continues: (reply.continued.get() != 0).then_some(outstanding.continues),
            rtt_ns: (outstanding.times_sent == 1).then(|| now.since_ns(outstanding.begun)),
        };
        self.outstanding = None;
        self.want_round(reply.round.get());
        // Whatever the peer had begun before is overtaken by this.
        self.pending = None;
        Ok(finished)
    }
}
