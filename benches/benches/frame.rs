//! One 4 KiB record through the link alone: into datagrams at its sender, out of them at its receiver, and the
//! acknowledgements back. Without security, and sealed; in datagrams for Ethernet and for jumbo frames. The record's way
//! through the engines is not in it, nor are system calls.
//!
//! The floor is what every such link does: a copy of the payload into a datagram, beside its CRC32C or its AES-256-GCM.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longrun_copy::link::{
    DataFrame, DownReason, Link, LinkConfig, LinkSink, Security, TRAIN_BYTES_MAX, Ticket, Verdict, generate_keypair,
};
use longrun_copy::message::Message;
use longrun_copy::primary::{Backlog, Beacon};
use longrun_copy::secondary::StreamStatus;
use longrun_copy::types::{
    Epoch, Extent, Generation, Mono, Now, PairId, Record, RecordHead, RecordKind, Seq, Stamp, StreamId, SystemId, Time,
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

const STREAM: StreamId = StreamId(7);
const EPOCH: Epoch = Epoch(1);
const RECORD_BYTES: usize = 4096;
/// Records in one turn: what a reactor sends and receives at once under load.
const BATCH: u64 = 16;

/// What each end makes of what arrives: nothing, but for counting it.
#[derive(Default)]
struct Counting {
    payload_bytes: usize,
    durable: Seq,
}

impl LinkSink for Counting {
    fn data(&mut self, _: SystemId, frame: DataFrame<'_>, _: Ticket) -> Verdict {
        self.payload_bytes += black_box(frame.body).len();
        Verdict::Accept
    }
    fn beacon(&mut self, _: SystemId, _: u64, _: Beacon) {}
    fn status(&mut self, _: SystemId, status: StreamStatus, _: Backlog) {
        self.durable = status.durable;
    }
    fn message(&mut self, _: SystemId, _: Message) {}
    fn session_up(&mut self, _: SystemId, _: u64) {}
    fn session_down(&mut self, _: SystemId, reason: DownReason) {
        panic!("the session ended: {reason:?}");
    }
}

/// Two links and what is between them.
struct Pair {
    links: [Link<Rc<[u8]>>; 2],
    ends: [Counting; 2],
    now_ns: u64,
    last: u64,
    payload: Rc<[u8]>,
    trains: Vec<(Vec<u8>, usize)>,
    buffer: Vec<u8>,
}

/// What a batch took at each end.
#[derive(Default)]
struct Cost {
    sender: Duration,
    receiver: Duration,
}

fn address(of: usize) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 4700 + of as u16).into()
}

impl Pair {
    fn new(security: Security, mtu_bytes: usize) -> Pair {
        let keys = [generate_keypair([1; 32]), generate_keypair([2; 32])];
        let link = |own: usize| {
            let mut config = LinkConfig::new(keys[own].0, keys[1 - own].1, Some(address(1 - own)));
            (config.security, config.mtu_bytes) = (security, mtu_bytes);
            Link::new(config, [3 + own as u8; 32]).expect("a good configuration")
        };
        let mut pair = Pair {
            links: [link(0), link(1)],
            ends: Default::default(),
            now_ns: 1_000_000_000,
            last: 0,
            payload: (0..RECORD_BYTES).map(|at| at as u8).collect(),
            trains: Vec::new(),
            buffer: vec![0; TRAIN_BYTES_MAX],
        };
        while !pair.links.iter().all(Link::session_is_up) {
            pair.send(0);
            pair.send(1);
        }
        pair.links[0].stream_start(STREAM, EPOCH, Generation::default(), Seq(0));
        pair.acknowledge();
        // Until the window is no longer that of a path of which nothing is known.
        pair.records(256 * BATCH);
        pair
    }

    fn now(&self) -> Now {
        Now { time: Time(self.now_ns), mono: Mono(self.now_ns), lease: Time(u64::MAX), error_bound_ns: 0 }
    }

    /// All that one end has to send, to the other. Answers what either took.
    fn send(&mut self, from: usize) -> [Duration; 2] {
        // Far enough on for the pacer and for a delayed acknowledgement.
        self.now_ns += 2_000_000;
        let now = self.now();
        let begun = Instant::now();
        self.links[from].handle_timeout(now, &mut self.ends[from]);
        let mut count = 0;
        while let Some(train) = self.links[from].poll_transmit(now, &mut self.buffer) {
            if count == self.trains.len() {
                self.trains.push((vec![0; TRAIN_BYTES_MAX], 0));
            }
            // As from the kernel: the next train is written to the same place.
            std::mem::swap(&mut self.trains[count].0, &mut self.buffer);
            let (bytes, segment_bytes) = (train.bytes, train.segment_bytes);
            self.trains[count].1 = bytes << 32 | segment_bytes;
            count += 1;
        }
        let sent = begun.elapsed();
        let begun = Instant::now();
        for (train, lengths) in &mut self.trains[..count] {
            let (bytes, segment_bytes) = (*lengths >> 32, *lengths & 0xffff_ffff);
            let (link, end) = (&mut self.links[1 - from], &mut self.ends[1 - from]);
            link.handle_datagrams(now, address(from), &mut train[..bytes], segment_bytes, end);
        }
        [sent, begun.elapsed()]
    }

    /// All that was pushed is durable at the receiver, which says so and grants more.
    fn acknowledge(&mut self) -> Cost {
        let status = StreamStatus {
            stream: STREAM,
            epoch: EPOCH,
            run: Seq(self.last),
            durable: Seq(self.last),
            grant_records: 4096,
            grant_bytes: 64 << 20,
            held: Time(0),
        };
        let begun = Instant::now();
        self.links[1].send_status(status);
        let told = begun.elapsed();
        let [receiver, sender] = self.send(1);
        assert_eq!(self.ends[0].durable, Seq(self.last));
        Cost { sender, receiver: told + receiver }
    }

    fn batch(&mut self) -> Cost {
        let before = self.ends[1].payload_bytes;
        let begun = Instant::now();
        for _ in 0..BATCH {
            self.last += 1;
            let head = RecordHead {
                stamp: Stamp { time: Time(self.last), stream: STREAM, seq: Seq(self.last) },
                pair: PairId(1),
                kind: RecordKind::Write,
                extent: Extent { lba: self.last, blocks: 1 },
                payload_bytes: RECORD_BYTES as u32,
            };
            self.links[0].stream_push(EPOCH, Record { head, payload: Some(Rc::clone(&self.payload)) });
        }
        let pushed = begun.elapsed();
        let [sent, received] = self.send(0);
        let mut cost = Cost { sender: pushed + sent, receiver: received };
        // A young window does not take all of it at once.
        for _ in 0..BATCH {
            if self.ends[1].payload_bytes - before == BATCH as usize * RECORD_BYTES {
                break;
            }
            let ([receiver, sender], [more_sent, more_received]) = (self.send(1), self.send(0));
            cost.sender += sender + more_sent;
            cost.receiver += receiver + more_received;
        }
        assert_eq!(self.ends[1].payload_bytes - before, BATCH as usize * RECORD_BYTES, "all of it arrives");
        let acknowledged = self.acknowledge();
        Cost { sender: cost.sender + acknowledged.sender, receiver: cost.receiver + acknowledged.receiver }
    }

    fn records(&mut self, count: u64) -> Cost {
        let batches = count.div_ceil(BATCH);
        let mut all = Cost::default();
        for _ in 0..batches {
            let cost = self.batch();
            all.sender += cost.sender;
            all.receiver += cost.receiver;
        }
        let share = |cost: Duration| cost.mul_f64(count as f64 / (batches * BATCH) as f64);
        Cost { sender: share(all.sender), receiver: share(all.receiver) }
    }
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    group.sample_size(20).throughput(Throughput::Elements(1));
    for (name, security) in [("plain", Security::None), ("sealed", Security::Noise)] {
        for mtu_bytes in [1400, 8952] {
            let mut pair = Pair::new(security, mtu_bytes);
            let name = format!("{name}, {mtu_bytes} bytes");
            group.bench_function(BenchmarkId::new("sender", &name), |bench| {
                bench.iter_custom(|count| pair.records(count).sender);
            });
            group.bench_function(BenchmarkId::new("receiver", &name), |bench| {
                bench.iter_custom(|count| pair.records(count).receiver);
            });
        }
    }
    let record = vec![7_u8; RECORD_BYTES];
    group.bench_function("floor (copy and CRC32C)", |bench| {
        let mut datagram = vec![0; RECORD_BYTES];
        bench.iter(|| {
            datagram.copy_from_slice(black_box(&record));
            black_box(crc_fast::crc32_iscsi(&datagram))
        });
    });
    group.bench_function("floor (copy and AES-256-GCM)", |bench| {
        let key = UnboundKey::new(&AES_256_GCM, &[9; 32]).expect("a key of the right length");
        let key = LessSafeKey::new(key);
        let (mut datagram, mut number) = (vec![0; RECORD_BYTES], 0_u64);
        bench.iter(|| {
            number += 1;
            let mut nonce = [0; 12];
            nonce[..8].copy_from_slice(&number.to_le_bytes());
            datagram.copy_from_slice(black_box(&record));
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::from([0; 88]), &mut datagram);
            black_box(tag.expect("short enough"))
        });
    });
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
