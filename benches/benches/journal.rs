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

    /// Waits; the steps that ended.
    fn reap(&mut self) -> Vec<Step> {
        let (mut ended, begun) = (Vec::new(), Instant::now());
        while ended.is_empty() {
            assert!(begun.elapsed() < PATIENCE, "the device does not answer");
            self.uring.submit_and_reap(Some(Duration::from_millis(100)), &mut ended).expect("the ring works");
        }
        let step = |token| if token == 0 { Step::Write } else { Step::Flush };
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
            self.uring.sync(1, &self.file.fd);
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
            (Step::Write, LocalIo::Write { extent, data, .. }) => {
                let offset = extent.lba * u64::from(BLOCK_BYTES);
                self.uring.write(0, &self.file.fd, data, offset, Durability::Cached);
            }
            (Step::Flush, LocalIo::Flush) => self.uring.sync(1, &self.file.fd),
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
fn group_commits(disk: &mut Disk, journal: &mut Alone<Shared>, payload: &Shared, time: &mut u64) {
    let count = PASS_BYTES / payload.len();
    for _ in 0..count {
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
    let mut durable = 0;
    while durable < count {
        journal.go_on(disk);
        for step in disk.reap() {
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
        let payload = payload(&mut disk, kib << 10);
        let geometry = Geometry { blocks: FILE_BYTES / u64::from(BLOCK_BYTES), block_bytes: BLOCK_BYTES };
        let (mut journal, mut time) = (Alone::new(geometry), 0);
        group.bench_function(BenchmarkId::new("group commit", format!("{kib} KiB records")), |bench| {
            bench.iter(|| group_commits(&mut disk, &mut journal, &payload, &mut time));
        });
    }
    group.finish();
}

criterion_group!(benches, commits);
criterion_main!(benches);
