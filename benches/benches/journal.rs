//! Group commit on a file, beside the same file written in order: direct I/O through one ring, one thread.
//!
//! `group commit` is what a secondary does with the records that its limit time has released, as long as more of them wait than
//! one block takes: assembled, written, flushed, one block after the other. `in order, flushed as often` writes as many bytes
//! with a flush behind each block's length: what the device gives to whoever waits for a flush before he goes on. `in order`
//! keeps the device busy and flushes once at the end: its bandwidth. All three are payload bytes for a second.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longrun_copy::journal::alone::{Alone, Device, Step};
use longrun_copy::ports::{LocalIo, Memory};
use longrun_copy::types::{Extent, Geometry, PairId, Record, RecordHead, RecordKind, Seq, Stamp, StreamId, Time};
use longrun_hal::arena::{Arena, ArenaConfig, Buf, Shared};
use longrun_hal::file::{self, DirectFile};
use longrun_hal::uring::{Durability, Uring, UringConfig};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const BLOCK_BYTES: u32 = 4096;
const FILE_BYTES: u64 = 256 << 20;
/// What one pass writes.
const PASS_BYTES: usize = 32 << 20;
/// Of a group commit, as large as one is.
const COMMIT_BYTES: usize = 2 << 20;
/// Of a write to the device.
const PIECE_BYTES: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
const FLUSH: u64 = u64::MAX;

/// A file under a ring.
struct Disk {
    arena: Arena,
    uring: Uring,
    file: DirectFile,
    path: PathBuf,
}

impl Disk {
    fn new() -> Disk {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("journal-{}", std::process::id()));
        let file = file::create_direct(&path, FILE_BYTES).expect("room for a file beside the build");
        Disk {
            arena: Arena::new(ArenaConfig::new(128 << 20)).expect("memory for an arena"),
            uring: Uring::new(UringConfig::with_entries(64), None).expect("a ring"),
            file,
            path,
        }
    }

    /// Submits, and waits; the steps that ended.
    fn reap(&mut self) -> Vec<Step> {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "the device does not answer");
            let ended = self.turn(Some(Duration::from_millis(100)));
            if !ended.is_empty() {
                return ended;
            }
        }
    }

    /// Submits; the steps that ended.
    fn turn(&mut self, wait: Option<Duration>) -> Vec<Step> {
        let mut ended = Vec::new();
        self.uring.submit_and_reap(wait, &mut ended).expect("the ring works");
        let step = |token| if token == FLUSH { Step::Flush } else { Step::Write(token as u8) };
        let ended = ended.into_iter().inspect(|it| assert!(it.result.is_ok(), "{:?}", it.result));
        ended.map(|completion| step(completion.token)).collect()
    }

    /// Writes a pass in order, `bytes` between two flushes.
    fn write_in_order(&mut self, piece: &Shared, bytes: usize) {
        let mut at = 0;
        for _ in 0..PASS_BYTES / bytes {
            let mut writing = 0;
            for _ in 0..bytes / PIECE_BYTES {
                self.uring.write(0, &self.file.fd, piece.clone(), at, Durability::Cached);
                at += PIECE_BYTES as u64;
                writing += 1;
                while writing >= COMMIT_BYTES / PIECE_BYTES {
                    writing -= self.reap().len();
                }
            }
            while writing > 0 {
                writing -= self.reap().len();
            }
            self.uring.sync(FLUSH, &self.file.fd);
            self.reap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Memory for Disk {
    type Buf = Buf;
    type Shared = Shared;

    fn alloc(&mut self, bytes: usize) -> Option<Buf> {
        self.arena.alloc(bytes)
    }

    fn freeze(&mut self, mut buf: Buf, bytes: usize) -> Shared {
        buf.truncate(bytes);
        buf.freeze()
    }
}

impl Device for Disk {
    fn submit(&mut self, step: Step, io: LocalIo<Buf, Shared>) {
        match (step, io) {
            (Step::Write(lane), LocalIo::Write { extent, data, .. }) => {
                let offset = extent.lba * u64::from(BLOCK_BYTES);
                self.uring.write(u64::from(lane), &self.file.fd, data, offset, Durability::Cached);
            }
            (Step::Flush, LocalIo::Flush) => self.uring.sync(FLUSH, &self.file.fd),
            (step, io) => panic!("a journal does not ask for {io:?} as a {step:?}"),
        }
    }
}

fn payload(disk: &mut Disk, bytes: usize) -> Shared {
    let mut buf = disk.alloc(bytes).expect("memory for a payload");
    buf.fill(0xa5);
    disk.freeze(buf, bytes)
}

/// Journals a pass of records of this size.
fn group_commits(disk: &mut Disk, journal: &mut Alone<Shared>, payloads: &[Shared], time: &mut u64) {
    let count = payloads.len();
    for payload in payloads {
        *time += 1;
        let head = RecordHead {
            stamp: Stamp { time: Time(*time), stream: StreamId(1), seq: Seq(*time) },
            pair: PairId(1),
            kind: RecordKind::Write,
            extent: Extent { lba: *time % 4096, blocks: (payload.len() / BLOCK_BYTES as usize) as u32 },
            payload_bytes: payload.len() as u32,
        };
        journal.release(Record { head, payload: Some(payload.clone()) });
    }
    let (mut durable, mut is_busy) = (0, false);
    while durable < count {
        // As in a reactor: what a turn asks for goes out at its end, and who had something to do looks again before he waits.
        is_busy |= journal.go_on(disk);
        let ended = if is_busy { disk.turn(None) } else { disk.reap() };
        is_busy = !ended.is_empty();
        for step in ended {
            durable += journal.done(step, disk);
        }
    }
    assert_eq!(journal.waiting(), 0);
}

fn commits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).throughput(Throughput::Bytes(PASS_BYTES as u64));
    let mut disk = Disk::new();
    let piece = payload(&mut disk, PIECE_BYTES);
    group.bench_function("in order", |bench| bench.iter(|| disk.write_in_order(&piece, PASS_BYTES)));
    group
        .bench_function("in order, flushed as often", |bench| bench.iter(|| disk.write_in_order(&piece, COMMIT_BYTES)));
    for kib in [4, 128] {
        // Each its own memory, as what a network brings.
        let payloads: Vec<Shared> = (0..PASS_BYTES / (kib << 10)).map(|_| payload(&mut disk, kib << 10)).collect();
        let geometry = Geometry { blocks: FILE_BYTES / u64::from(BLOCK_BYTES), block_bytes: BLOCK_BYTES };
        let (mut journal, mut time) = (Alone::new(geometry), 0);
        group.bench_function(BenchmarkId::new("group commit", format!("{kib} KiB records")), |bench| {
            bench.iter(|| group_commits(&mut disk, &mut journal, &payloads, &mut time));
        });
    }
    group.finish();
}

criterion_group!(benches, commits);
criterion_main!(benches);
