//! What the host does: writes and reads across all volumes at queue depth, some of which depend on each other and some of
//! which overlap; all of it logged.
//!
//! A *slot* is one place of the queue depth: it issues a command, waits for its end and issues the next. After a write a
//! slot often writes to another volume, as a database writes its log and then its table; after a read that returned a
//! write's data it does so too, which makes the new write depend on one that may not be answered yet. A fair share of
//! the commands aims at the range of a write that is in flight.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use longrun_checker::{BlockSays, Contents, Extent, Log, Volume};
use longrun_nvmf::host::Command;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::clock::HostClock;
use super::connection::Connection;
use super::host::{self, Namespace};

#[cfg(test)]
mod tests;

/// Sizes of commands in bytes, each with its share in percent. Those above 16 KiB do not fit into a capsule.
const SIZES: &[(u32, u32)] =
    &[(512, 5), (2048, 5), (4096, 50), (8192, 15), (16_384, 12), (32_768, 6), (65_536, 4), (131_072, 3)];
/// Ranges of recent writes that overlapping commands aim at.
const RECENT: usize = 24;
/// The hot region's share of a volume, as a divisor.
const HOT: u64 = 16;
const READ_PERCENT: u32 = 20;
const FLUSH_PERCENT: u32 = 1;
const OVERLAP_PERCENT: u32 = 25;
const HOT_PERCENT: u32 = 50;
const DEPENDENT_PERCENT: u32 = 50;
/// A pause longer than this is not made up for, so that a stall is not followed by a flood.
const CREDIT_MAX: Duration = Duration::from_millis(50);

/// How the host works.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadOptions {
    /// Commands in flight, over all queue pairs.
    pub slots: usize,
    /// Payload written and read at most, bytes per second.
    pub bytes_per_second: u64,
    /// What all choices are drawn from.
    pub seed: u64,
}

/// Counters that the status line reads while the host works.
#[derive(Debug, Default)]
pub struct Progress {
    /// Writes issued.
    pub issued: AtomicU64,
    /// Writes acknowledged.
    pub acknowledged: AtomicU64,
}

/// What is left when the host has stopped.
#[derive(Clone)]
pub struct Outcome {
    /// The host's log.
    pub log: Log,
    /// From issue to answer of each acknowledged write, in microseconds.
    pub write_us: Histogram<u64>,
    /// Commands that were answered with an error, and the first of them.
    pub errors: u64,
    /// The first error's words.
    pub first_error: Option<String>,
}

/// One command to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Write(Extent),
    Read(Extent),
    Flush(u16),
}

/// Draws the commands.
struct Plan {
    volumes: Vec<Volume>,
    rng: SmallRng,
    recent: VecDeque<Extent>,
}

impl Plan {
    fn new(volumes: Vec<Volume>, seed: u64) -> Self {
        Plan { volumes, rng: SmallRng::seed_from_u64(seed), recent: VecDeque::with_capacity(RECENT) }
    }

    fn percent(&mut self, share: u32) -> bool {
        self.rng.random_ratio(share, 100)
    }

    fn next(&mut self) -> Step {
        if self.percent(FLUSH_PERCENT) {
            return Step::Flush(self.rng.random_range(0..self.volumes.len()) as u16);
        }
        if self.percent(READ_PERCENT) {
            return Step::Read(self.extent(None));
        }
        Step::Write(self.write_extent(None))
    }

    /// A write that depends on one of `volume` goes to another volume, if there is one.
    fn dependent(&mut self, volume: u16) -> Option<Step> {
        if !self.percent(DEPENDENT_PERCENT) {
            return None;
        }
        let volumes = self.volumes.len() as u16;
        let step = if volumes > 1 { self.rng.random_range(1..volumes) } else { 0 };
        Some(Step::Write(self.write_extent(Some((volume + step) % volumes))))
    }

    fn write_extent(&mut self, volume: Option<u16>) -> Extent {
        let extent = self.extent(volume);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(extent);
        extent
    }

    fn extent(&mut self, volume: Option<u16>) -> Extent {
        let volume = volume.unwrap_or_else(|| self.rng.random_range(0..self.volumes.len()) as u16);
        let Volume { block_bytes, blocks: volume_blocks } = self.volumes[usize::from(volume)];
        let blocks = u64::from(self.size()).div_ceil(block_bytes.get() as u64).clamp(1, volume_blocks);
        let last = volume_blocks - blocks;
        let near = self.recent.iter().rev().find(|recent| recent.volume == volume).copied();
        let lba = match near {
            Some(near) if self.percent(OVERLAP_PERCENT) => {
                // From touching its first block to touching its last one.
                let from = near.lba.saturating_sub(blocks - 1).min(last);
                self.rng.random_range(from..=(near.end() - 1).min(last).max(from))
            }
            _ if self.percent(HOT_PERCENT) => self.rng.random_range(0..=(volume_blocks / HOT).min(last)),
            _ => self.rng.random_range(0..=last),
        };
        Extent::new(volume, lba, blocks as u32)
    }

    fn size(&mut self) -> u32 {
        let mut drawn = self.rng.random_range(0..SIZES.iter().map(|(_, share)| share).sum());
        for &(bytes, share) in SIZES {
            if drawn < share {
                return bytes;
            }
            drawn -= share;
        }
        4096
    }
}

/// What the slots share; they live on one thread.
struct Shared {
    namespaces: Vec<Namespace>,
    contents: Contents,
    clock: HostClock,
    bytes_per_second: u64,
    plan: RefCell<Plan>,
    log: RefCell<Log>,
    write_us: RefCell<Histogram<u64>>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    /// When the next command may be issued.
    free_at: Cell<Instant>,
    progress: Arc<Progress>,
}

/// Works on `namespaces` over `queues` until `stop`, or until the connections end; to be called on a `LocalSet`.
///
/// Namespace `i` is volume `i` of the log.
pub async fn run(
    queues: &[Connection],
    namespaces: Vec<Namespace>,
    contents: Contents,
    clock: HostClock,
    options: WorkloadOptions,
    progress: Arc<Progress>,
    stop: impl Future<Output = ()>,
) -> Outcome {
    let volumes = namespaces.iter().map(|n| Volume { block_bytes: n.block_bytes, blocks: n.blocks }).collect();
    let shared = Rc::new(Shared {
        namespaces,
        contents,
        clock,
        bytes_per_second: options.bytes_per_second.max(1),
        plan: RefCell::new(Plan::new(volumes, options.seed)),
        log: RefCell::new(Log::new(0)),
        write_us: RefCell::new(empty_histogram()),
        errors: Cell::new(0),
        first_error: RefCell::new(None),
        free_at: Cell::new(Instant::now()),
        progress,
    });
    let mut slots = tokio::task::JoinSet::new();
    for (_, queue) in (0..options.slots).zip(queues.iter().cycle()) {
        slots.spawn_local(slot(Rc::clone(&shared), queue.clone()));
    }
    tokio::select! {
        () = stop => slots.abort_all(),
        // Every slot ends when its connection does.
        () = async { while slots.join_next().await.is_some() {} } => {}
    }
    while slots.join_next().await.is_some() {}
    Outcome {
        log: shared.log.replace(Log::new(0)),
        write_us: shared.write_us.replace(empty_histogram()),
        errors: shared.errors.get(),
        first_error: shared.first_error.take(),
    }
}

/// Microseconds up to a minute, three digits.
fn empty_histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap_or_else(|_| {
        unreachable!("the bounds are constants that hdrhistogram takes");
    });
    histogram.auto(true);
    histogram
}

async fn slot(shared: Rc<Shared>, queue: Connection) {
    let mut dependent = None;
    loop {
        let step = dependent.take().unwrap_or_else(|| shared.plan.borrow_mut().next());
        let done = match step {
            Step::Write(extent) => shared.write(&queue, extent).await.map(|()| Some(extent.volume)),
            Step::Read(extent) => shared.read(&queue, extent).await.map(|seen| seen.then_some(extent.volume)),
            Step::Flush(volume) => shared.flush(&queue, volume).await.map(|()| None),
        };
        match done {
            Some(Some(volume)) => dependent = shared.plan.borrow_mut().dependent(volume),
            Some(None) => {}
            None => return,
        }
    }
}

impl Shared {
    /// Keeps the pace: each command takes up the time that its bytes take at the rate asked for.
    async fn pace(&self, bytes: usize) {
        let now = Instant::now();
        let from = self.free_at.get().max(now.checked_sub(CREDIT_MAX).unwrap_or(now));
        self.free_at.set(from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64));
        if from > now {
            tokio::time::sleep_until(from).await;
        }
    }

    fn namespace(&self, volume: u16) -> Namespace {
        self.namespaces[usize::from(volume)]
    }

    fn note_error(&self, what: &str, status: impl std::fmt::Display) {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| format!("{what}: {status}"));
    }

    /// Nothing if the connection has ended.
    async fn write(&self, queue: &Connection, extent: Extent) -> Option<()> {
        let Namespace { nsid, block_bytes, .. } = self.namespace(extent.volume);
        let mut data = vec![0; extent.blocks as usize * block_bytes.get()];
        self.pace(data.len()).await;
        let issued = self.clock.now();
        let id = self.log.borrow_mut().write_issued(issued, extent);
        self.progress.issued.fetch_add(1, Ordering::Relaxed);
        self.contents.fill(&mut data, id, extent, block_bytes);
        let answer = queue.execute(host::write(nsid, extent.lba, extent.blocks, data)).await.ok()?;
        if answer.completion.status.is_success() {
            self.log.borrow_mut().write_acknowledged(id, answer.at);
            self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
            self.write_us.borrow_mut().saturating_record((answer.at.0 - issued.0) / 1000);
        } else {
            self.log.borrow_mut().write_failed(id, answer.at);
            self.note_error("write", answer.completion.status);
        }
        Some(())
    }

    /// Whether a write's data was seen; nothing if the connection has ended.
    async fn read(&self, queue: &Connection, extent: Extent) -> Option<bool> {
        let Namespace { nsid, block_bytes, .. } = self.namespace(extent.volume);
        self.pace(extent.blocks as usize * block_bytes.get()).await;
        let id = self.log.borrow_mut().read_issued(self.clock.now(), extent);
        let answer = queue.execute(host::read(nsid, extent.lba, extent.blocks, block_bytes)).await.ok()?;
        if !answer.completion.status.is_success() {
            self.log.borrow_mut().read_failed(id, answer.at);
            self.note_error("read", answer.completion.status);
            return Some(false);
        }
        let says = identify(&self.contents, &answer.completion.data, extent, block_bytes.get());
        let seen = says.iter().any(|says| matches!(says, BlockSays::Write(_)));
        self.log.borrow_mut().read_completed(id, answer.at, says);
        Some(seen)
    }

    async fn flush(&self, queue: &Connection, volume: u16) -> Option<()> {
        let answer = queue.execute(Command::flush(self.namespace(volume).nsid)).await.ok()?;
        if !answer.completion.status.is_success() {
            self.note_error("flush", answer.completion.status);
        }
        Some(())
    }
}

/// What each block of a read says; a block that did not come says that it is not ours.
pub fn identify(contents: &Contents, data: &[u8], extent: Extent, block_bytes: usize) -> Vec<BlockSays> {
    (0..extent.blocks as usize)
        .map(|index| {
            let block = data.get(index * block_bytes..(index + 1) * block_bytes).unwrap_or_default();
            contents.identify(block, extent.volume, extent.lba + index as u64)
        })
        .collect()
}
