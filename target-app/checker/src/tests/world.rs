//! A host and a right primary, drawn from a seed: every write takes effect at one moment (its stamp) between its issue
//! and its answer, reads see what has taken effect, and the primary dies at a known time.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::{BlockBytes, BlockSays, Cut, Extent, History, HostTime, Image, Log, Verdict, Volume, WriteId, judge};

pub const CLOCK_ERROR_NS: u64 = 3;

pub struct SimWrite {
    pub extent: Extent,
    pub worker: u16,
    pub issued: u64,
    pub stamp: u64,
    pub answered: Option<u64>,
    /// The write was answered with an error after only this many of its blocks took effect.
    pub failed_after: Option<u32>,
}

struct SimRead {
    extent: Extent,
    worker: u16,
    issued: u64,
    moment: u64,
    answered: u64,
}

pub struct World {
    pub volumes: Vec<Volume>,
    /// In the order of their stamps.
    pub writes: Vec<SimWrite>,
    reads: Vec<SimRead>,
    killed_at: u64,
    clock_skew: i64,
}

/// What a copy holds, by place in [`World::writes`].
#[derive(Clone)]
pub struct Copy {
    pub volumes: Vec<Vec<Option<usize>>>,
}

impl Copy {
    pub fn image(&self, ids: &[WriteId]) -> Image {
        let shape: Vec<Volume> =
            self.volumes.iter().map(|v| Volume { block_bytes: BlockBytes::B512, blocks: v.len() as u64 }).collect();
        let mut image = Image::all_initial(&shape);
        for (v, blocks) in self.volumes.iter().enumerate() {
            for (lba, by) in blocks.iter().enumerate() {
                if let Some(by) = by {
                    image.set(v as u16, lba as u64, BlockSays::Write(ids[*by]));
                }
            }
        }
        image
    }

    pub fn put(&mut self, place: usize, extent: Extent, blocks: u32) {
        let from = extent.lba as usize;
        self.volumes[usize::from(extent.volume)][from..from + blocks as usize].fill(Some(place));
    }
}

impl World {
    pub fn new(seed: u64, writes: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (volumes, blocks) = (rng.random_range(1..4), rng.random_range(6..60));
        World::sized(seed, volumes, blocks, writes)
    }

    pub fn sized(seed: u64, volumes: u16, blocks: u64, writes: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let volumes = vec![Volume { block_bytes: BlockBytes::B512, blocks }; usize::from(volumes)];
        let workers = 16;
        // Short steps make equal times common, long ones make long overlaps.
        let step = [2, 20, 200][rng.random_range(0..3)];
        let fails = rng.random_bool(0.3);
        let mut clocks: Vec<u64> = (0..workers).map(|_| 1000 + rng.random_range(0..step)).collect();
        let (mut all, mut reads) = (Vec::new(), Vec::new());
        for _ in 0..writes {
            let worker = rng.random_range(0..workers);
            let length = rng.random_range(1..=6.min(blocks));
            let extent = Extent::new(
                rng.random_range(0..volumes.len()) as u16,
                rng.random_range(0..=blocks - length),
                length as u32,
            );
            let issued = clocks[worker] + rng.random_range(0..step);
            let moment = issued + rng.random_range(0..step);
            let answered = moment + rng.random_range(0..step);
            clocks[worker] = answered;
            let worker = worker as u16;
            if rng.random_bool(0.25) {
                reads.push(SimRead { extent, worker, issued, moment, answered });
            } else {
                let failed_after = (fails && rng.random_bool(0.05)).then(|| rng.random_range(0..=extent.blocks));
                all.push(SimWrite { extent, worker, issued, stamp: moment, answered: Some(answered), failed_after });
            }
        }
        let killed_at = all.iter().filter_map(|w| w.answered).max().unwrap_or(1000) - rng.random_range(0..step);
        all.retain(|w| w.issued <= killed_at);
        for write in &mut all {
            write.answered = write.answered.filter(|at| *at <= killed_at);
            write.failed_after = write.failed_after.filter(|_| write.answered.is_some());
        }
        reads.retain(|r: &SimRead| r.answered <= killed_at);
        all.sort_by_key(|w| w.stamp);
        let clock_skew = rng.random_range(-(CLOCK_ERROR_NS as i64)..=CLOCK_ERROR_NS as i64);
        World { volumes, writes: all, reads, killed_at, clock_skew }
    }

    /// The stamp that a part of the writes has at or before it.
    pub fn stamp_at(&self, part: f64) -> u64 {
        let place = ((self.writes.len() - 1) as f64 * part) as usize;
        self.writes[place].stamp.min(self.killed_at)
    }

    pub fn history(&self) -> (History, Vec<WriteId>) {
        let mut logs: Vec<Log> = (0..16).map(Log::new).collect();
        let mut ids = Vec::with_capacity(self.writes.len());
        for write in &self.writes {
            let log = &mut logs[usize::from(write.worker)];
            let id = log.write_issued(HostTime(write.issued), write.extent);
            match (write.answered, write.failed_after) {
                (None, _) => {}
                (Some(at), None) => log.write_acknowledged(id, HostTime(at)),
                (Some(at), Some(_)) => log.write_failed(id, HostTime(at)),
            }
            ids.push(id);
        }
        let mut reads: Vec<&SimRead> = self.reads.iter().collect();
        reads.sort_by_key(|r| r.moment);
        let mut state = self.empty();
        let mut next = 0;
        for read in reads {
            while next < self.writes.len() && self.writes[next].stamp <= read.moment {
                self.apply(&mut state, next);
                next += 1;
            }
            let log = &mut logs[usize::from(read.worker)];
            let id = log.read_issued(HostTime(read.issued), read.extent);
            let range = read.extent.lba as usize..read.extent.end() as usize;
            let shown = state.volumes[usize::from(read.extent.volume)][range]
                .iter()
                .map(|by| by.map_or(BlockSays::Initial, |by| BlockSays::Write(ids[by])));
            log.read_completed(id, HostTime(read.answered), shown);
        }
        (History::merge(&self.volumes, logs), ids)
    }

    pub fn empty(&self) -> Copy {
        Copy { volumes: self.volumes.iter().map(|v| vec![None; v.blocks as usize]).collect() }
    }

    pub fn apply(&self, copy: &mut Copy, place: usize) {
        let write = &self.writes[place];
        copy.put(place, write.extent, write.failed_after.unwrap_or(write.extent.blocks));
    }

    /// The writes that `which` picks, in the order of their stamps.
    pub fn replay(&self, which: impl Fn(&SimWrite) -> bool) -> Copy {
        let mut copy = self.empty();
        for place in (0..self.writes.len()).filter(|&place| which(&self.writes[place])) {
            self.apply(&mut copy, place);
        }
        copy
    }

    pub fn cut(&self, stamp: u64) -> Cut {
        Cut {
            recovery_point: HostTime(stamp.saturating_add_signed(self.clock_skew)),
            clock_error_ns: CLOCK_ERROR_NS,
            killed_at: HostTime(self.killed_at),
            age_bound_ns: u64::MAX,
            suspended: false,
        }
    }

    pub fn judge_copy(&self, stamp: u64, copy: &Copy) -> Verdict {
        let (history, ids) = self.history();
        judge(&history, &copy.image(&ids), &self.cut(stamp))
    }
}
