//! Two links, a network between them that does what networks do, and a small secondary at each end.

use super::super::header::{Header, Kind};
use super::super::{
    DataFrame, DownReason, Link, LinkConfig, LinkSink, Security, TRAIN_BYTES_MAX, Ticket, Verdict, generate_keypair,
};
use crate::message::Message;
use crate::primary::{Backlog, Beacon};
use crate::secondary::StreamStatus;
use crate::types::{
    Epoch, Extent, Generation, Mono, Now, PairId, Record, RecordHead, RecordKind, Seq, Stamp, StreamId, SystemId, Time,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

pub(super) type Payload = std::sync::Arc<[u8]>;

pub(super) const MS: u64 = 1_000_000;
pub(super) const S: u64 = 1_000_000_000;

/// What the network does to a datagram; probabilities per datagram.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) loss: f64,
    pub(super) reorder: f64,
    /// A reordered datagram is late by up to this.
    pub(super) reorder_ns: u64,
    pub(super) duplicate: f64,
    pub(super) corrupt: f64,
    pub(super) delay_ns: u64,
    pub(super) cut: bool,
    /// Bottleneck with a queue of so many bytes.
    pub(super) bottleneck: Option<(u64, u64)>,
}

impl Network {
    pub(super) fn clean() -> Network {
        Network {
            loss: 0.0,
            reorder: 0.0,
            reorder_ns: 0,
            duplicate: 0.0,
            corrupt: 0.0,
            delay_ns: MS,
            cut: false,
            bottleneck: None,
        }
    }

    /// The demo's defaults.
    pub(super) fn wan() -> Network {
        Network { loss: 0.02, reorder: 0.10, reorder_ns: 5 * MS, duplicate: 0.01, delay_ns: 5 * MS, ..Network::clean() }
    }
}

/// What a stream's receiver has.
pub(super) struct Ring {
    pub(super) epoch: Epoch,
    pub(super) records: BTreeMap<Seq, (RecordHead, Vec<u8>, BTreeSet<u32>, u32)>,
    pub(super) run: Seq,
    pub(super) durable: Seq,
}

/// One end's record of what its link handed on, and a secondary's bookkeeping.
#[derive(Default)]
pub(super) struct End {
    pub(super) rings: BTreeMap<StreamId, Ring>,
    pub(super) grant_records: u32,
    pub(super) grant_bytes: u64,
    pub(super) messages: Vec<Message>,
    pub(super) beacons: Vec<(u64, Beacon)>,
    pub(super) statuses: Vec<StreamStatus>,
    pub(super) freed: Backlog,
    pub(super) ups: u32,
    pub(super) downs: Vec<DownReason>,
    pub(super) fragments: u64,
    pub(super) duplicates: u64,
    pub(super) beyond_grant: u64,
    /// Every so many fragments one is not kept.
    pub(super) refuse_every: u64,
    /// Records complete in the order in which they became so.
    pub(super) completed: Vec<(StreamId, Seq)>,
    pub(super) durable_behind: u64,
}

impl End {
    pub(super) fn open(&mut self, stream: StreamId, epoch: Epoch, base: Seq) {
        let none_yet = base.previous();
        self.rings.insert(stream, Ring { epoch, records: BTreeMap::new(), run: none_yet, durable: none_yet });
    }

    pub(super) fn status(&self, stream: StreamId) -> Option<StreamStatus> {
        let ring = self.rings.get(&stream)?;
        Some(StreamStatus {
            stream,
            epoch: ring.epoch,
            run: ring.run,
            durable: ring.durable,
            grant_records: self.grant_records,
            grant_bytes: self.grant_bytes,
            held: Default::default(),
        })
    }

    fn settle(&mut self) {
        for ring in self.rings.values_mut() {
            while ring.records.get(&ring.run.next()).is_some_and(|record| record.3 == 0) {
                ring.run = ring.run.next();
            }
            ring.durable = ring.durable.max(Seq(ring.run.0.saturating_sub(self.durable_behind)));
        }
    }
}

impl LinkSink for End {
    fn data(&mut self, _: SystemId, frame: DataFrame<'_>, _: Ticket) -> Verdict {
        self.fragments += 1;
        if self.refuse_every > 0 && self.fragments.is_multiple_of(self.refuse_every) {
            return Verdict::Drop;
        }
        let Some(ring) = self.rings.get_mut(&frame.stream).filter(|ring| ring.epoch == frame.epoch) else {
            return Verdict::Drop;
        };
        let seq = frame.head.stamp.seq;
        if seq > Seq(ring.durable.0 + u64::from(self.grant_records)) {
            self.beyond_grant += 1;
        }
        if seq <= ring.durable {
            self.duplicates += 1;
            return Verdict::Accept;
        }
        let (head, bytes, have, missing) = ring.records.entry(seq).or_insert_with(|| {
            (frame.head, vec![0; frame.head.payload_bytes as usize], BTreeSet::new(), frame.head.payload_bytes.max(1))
        });
        assert_eq!(*head, frame.head, "a number's content changed");
        if !have.insert(frame.fragment_offset) {
            self.duplicates += 1;
            return Verdict::Accept;
        }
        let at = frame.fragment_offset as usize;
        bytes[at..at + frame.body.len()].copy_from_slice(frame.body);
        *missing -= (frame.body.len() as u32).max(u32::from(frame.head.payload_bytes == 0));
        if *missing == 0 {
            self.completed.push((frame.stream, seq));
        }
        let unsettled = ring.records.range(ring.durable.next()..);
        let charge: u64 = unsettled.map(|(_, record)| record.0.charge_bytes()).sum();
        if charge > self.grant_bytes {
            self.beyond_grant += 1;
        }
        self.settle();
        Verdict::Accept
    }

    fn beacon(&mut self, _: SystemId, generation: u64, beacon: Beacon) {
        self.beacons.push((generation, beacon));
    }

    fn status(&mut self, _: SystemId, status: StreamStatus, freed: Backlog) {
        self.statuses.push(status);
        self.freed.records += freed.records;
        self.freed.bytes += freed.bytes;
    }

    fn message(&mut self, _: SystemId, message: Message) {
        self.messages.push(message);
    }

    fn session_up(&mut self, _: SystemId, _: u64) {
        assert_eq!(self.ups as usize, self.downs.len(), "up twice");
        self.ups += 1;
    }

    fn session_down(&mut self, _: SystemId, reason: DownReason) {
        self.downs.push(reason);
        assert_eq!(self.ups as usize, self.downs.len(), "down without up");
    }
}

pub(super) struct World {
    pub(super) links: [Link<Payload>; 2],
    pub(super) ends: [End; 2],
    pub(super) net: Network,
    pub(super) now: u64,
    rng: ChaCha8Rng,
    /// (arrival, order) -> (receiver, datagram).
    flying: BTreeMap<(u64, u64), (usize, Vec<u8>)>,
    order: u64,
    numbers: BTreeSet<(usize, u32, u64)>,
    bottleneck_free: [u64; 2],
    /// Everything that was sent, if it is to be kept: sender and datagram.
    pub(super) tape: Option<Vec<(usize, Vec<u8>)>>,
    pub(super) trace: u64,
    buffer: Vec<u8>,
    pub(super) datagrams: u64,
    pub(super) trains: u64,
    /// A turn takes this long at least.
    pub(super) turn_ns: u64,
    /// Streams are started again in each new session, from what the other end has.
    pub(super) resume: bool,
    /// Sessions of end 0 in which its streams were started.
    started_in: u32,
}

pub(super) fn addr(of: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 1000 + of as u16))
}

pub(super) fn seed(seed: u64, salt: u8) -> [u8; 32] {
    let mut bytes = [salt; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

impl World {
    pub(super) fn new(seed_number: u64, net: Network, adjust: impl Fn(&mut LinkConfig)) -> World {
        let keys = [generate_keypair(seed(seed_number, 1)), generate_keypair(seed(seed_number, 2))];
        let link = |own: usize| {
            let mut config = LinkConfig::new(keys[own].0, keys[1 - own].1, Some(addr(1 - own)));
            adjust(&mut config);
            Link::new(config, seed(seed_number, 3 + own as u8)).unwrap()
        };
        let end = || End { grant_records: 4096, grant_bytes: 64 << 20, ..End::default() };
        World {
            links: [link(0), link(1)],
            ends: [end(), end()],
            net,
            now: 1_000 * S,
            rng: ChaCha8Rng::from_seed(seed(seed_number, 9)),
            flying: BTreeMap::new(),
            order: 0,
            numbers: BTreeSet::new(),
            bottleneck_free: [0; 2],
            tape: None,
            trace: 0,
            buffer: vec![0xA5; TRAIN_BYTES_MAX],
            datagrams: 0,
            trains: 0,
            turn_ns: 20_000,
            resume: false,
            started_in: 0,
        }
    }

    pub(super) fn now(&self) -> Now {
        Now { time: Time(self.now + 7), mono: Mono(self.now), lease: Time(u64::MAX), error_bound_ns: 1000 }
    }

    /// A new process with the same keys at this end.
    pub(super) fn restart(&mut self, own: usize, salt: u8) {
        let config = self.links[own].config().clone();
        self.links[own] = Link::new(config, seed(self.now, salt)).unwrap();
        self.ends[own] = End {
            grant_records: self.ends[own].grant_records,
            grant_bytes: self.ends[own].grant_bytes,
            ..End::default()
        };
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && f64::from(self.rng.next_u32()) < probability * f64::from(u32::MAX)
    }

    fn send(&mut self, from: usize, datagram: Vec<u8>) {
        self.datagrams += 1;
        self.trace = self.trace.rotate_left(5) ^ u64::from(crate::crc::crc32c(&datagram)) ^ self.now;
        let (header, kind) = Header::read(&datagram).expect("a link sends well-formed datagrams");
        if !matches!(kind, Kind::Initiation | Kind::Answer) {
            let number = (from, header.session.get(), header.packet.get());
            assert!(self.numbers.insert(number), "packet number used twice: {number:?}");
        }
        if let Some(tape) = &mut self.tape {
            tape.push((from, datagram.clone()));
        }
        if self.net.cut || self.chance(self.net.loss) {
            return;
        }
        let copies = if self.chance(self.net.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let mut copy = datagram.clone();
            if self.chance(self.net.corrupt) {
                let at = self.rng.next_u32() as usize % copy.len();
                copy[at] ^= 1 << (self.rng.next_u32() % 8);
            }
            let mut arrival = self.now + self.net.delay_ns;
            if let Some((bytes_per_s, queue_bytes)) = self.net.bottleneck {
                let start = self.bottleneck_free[from].max(self.now);
                if (start - self.now) > queue_bytes * S / bytes_per_s {
                    continue;
                }
                self.bottleneck_free[from] = start + copy.len() as u64 * S / bytes_per_s;
                arrival = self.bottleneck_free[from] + self.net.delay_ns;
            }
            if self.chance(self.net.reorder) {
                arrival += u64::from(self.rng.next_u32()) % self.net.reorder_ns.max(1);
            }
            self.order += 1;
            self.flying.insert((arrival, self.order), (1 - from, copy));
        }
    }

    pub(super) fn inject(&mut self, to: usize, mut datagram: Vec<u8>) {
        let now = self.now();
        self.links[to].handle_datagrams(now, addr(1 - to), &mut datagram, 0, &mut self.ends[to]);
    }

    /// One event: time moves on, what is due arrives, both ends take a turn.
    pub(super) fn step(&mut self) {
        let timers = self.links.iter().filter_map(|link| link.next_timeout()).map(|at| at.0);
        let next = self.flying.first_key_value().map(|(key, _)| key.0).into_iter().chain(timers).min();
        self.now = next.unwrap_or(0).max(self.now + self.turn_ns);
        let now = self.now();
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, mut datagram) = entry.remove();
            self.links[to].handle_datagrams(now, addr(1 - to), &mut datagram, 0, &mut self.ends[to]);
        }
        for own in 0..2 {
            self.turn(own);
        }
    }

    pub(super) fn turn(&mut self, own: usize) {
        let now = self.now();
        if own == 0 && self.ends[0].ups != self.started_in && self.links[0].session_is_up() {
            self.started_in = self.ends[0].ups;
            if self.resume {
                for (stream, ring) in &self.ends[1].rings {
                    self.links[0].stream_start(*stream, ring.epoch, generation(), ring.durable);
                }
            }
        }
        self.links[own].handle_timeout(now, &mut self.ends[own]);
        let streams: Vec<StreamId> = self.ends[own].rings.keys().copied().collect();
        for stream in streams {
            self.ends[own].settle();
            if let Some(status) = self.ends[own].status(stream) {
                self.links[own].send_status(status);
            }
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(train) = self.links[own].poll_transmit(now, &mut buffer) {
            assert_eq!(train.to, addr(1 - own));
            self.trains += 1;
            for datagram in buffer[..train.bytes].chunks(train.segment_bytes) {
                assert!(datagram.len() <= self.links[own].config().mtu_bytes);
                self.send(own, datagram.to_vec());
            }
        }
        self.buffer = buffer;
        if let Some(next) = self.links[own].next_timeout() {
            assert!(next > now.mono, "the link asks for a turn at {next} that it had at {}", now.mono);
        }
    }

    /// Steps until the condition holds; panics after `limit_ns`.
    pub(super) fn until(&mut self, limit_ns: u64, what: &str, mut condition: impl FnMut(&World) -> bool) {
        let end = self.now + limit_ns;
        while !condition(self) {
            assert!(self.now < end, "not within {} ms: {what}\n{:#?}", limit_ns / MS, self.links[0].stats());
            self.step();
        }
    }

    /// Steps for a while.
    pub(super) fn run(&mut self, for_ns: u64) {
        let end = self.now + for_ns;
        while self.now < end {
            self.step();
        }
    }

    pub(super) fn up(&mut self) {
        self.until(20 * S, "both ends up", |world| world.links.iter().all(|link| link.session_is_up()));
    }

    /// Opens a stream from end 0 to end 1.
    pub(super) fn open(&mut self, stream: StreamId) {
        self.ends[1].open(stream, Epoch(1), Seq(1));
        self.links[0].stream_start(stream, Epoch(1), generation(), Seq(0));
    }

    /// Steps until everything pushed on the stream is durable, and checks every byte of it.
    pub(super) fn drain(&mut self, stream: StreamId, records: &[Record<Payload>], limit_ns: u64) {
        let last = records.last().unwrap().head.stamp.seq;
        self.until(limit_ns, "every record durable", |world| {
            world.ends[1].rings.get(&stream).is_some_and(|ring| ring.run >= last)
                && world.links[0].stream_backlog(stream).records == 0
        });
        self.check(stream, records);
    }

    pub(super) fn check(&self, stream: StreamId, records: &[Record<Payload>]) {
        let ring = &self.ends[1].rings[&stream];
        for record in records {
            let (head, bytes, _, missing) = &ring.records[&record.head.stamp.seq];
            assert_eq!((*head, *missing), (record.head, 0));
            assert_eq!(bytes.as_slice(), record.payload.as_deref().unwrap_or_default());
        }
        assert_eq!(ring.records.len(), records.len());
    }
}

pub(super) fn generation() -> Generation {
    Generation { number: 3, id: 33, parent: 22 }
}

/// The record `seq` of a stream; its content follows from its number.
pub(super) fn record(stream: StreamId, seq: u64, payload_bytes: usize) -> Record<Payload> {
    let kind = if payload_bytes == 0 { RecordKind::Unmap } else { RecordKind::Write };
    let fill = seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ stream.0;
    let payload: Vec<u8> = (0..payload_bytes).map(|at| (fill >> (at % 8 * 8)) as u8 ^ (at >> 8) as u8).collect();
    Record {
        head: RecordHead {
            stamp: Stamp { time: Time(1000 + seq * 10), stream, seq: Seq(seq) },
            pair: PairId(77),
            kind,
            extent: Extent { lba: seq * 8, blocks: 8 },
            payload_bytes: payload_bytes as u32,
        },
        payload: (payload_bytes > 0).then(|| payload.into()),
    }
}

/// Pushes records of mixed sizes.
pub(super) fn push(world: &mut World, stream: StreamId, numbers: std::ops::Range<u64>) -> Vec<Record<Payload>> {
    let sizes = [512, 4096, 0, 4096, 8192, 16384, 4096, 65536, 1, 131_072, 777];
    numbers
        .map(|seq| {
            let record = record(stream, seq, sizes[seq as usize % sizes.len()]);
            world.links[0].stream_push(Epoch(1), record.clone());
            record
        })
        .collect()
}

pub(super) fn insecure(config: &mut LinkConfig) {
    config.security = Security::None;
}
