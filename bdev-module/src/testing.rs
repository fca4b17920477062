//! A core with a real ring for tests.

use std::time::Duration;

use longrun_copy::types::{Extent, Mono};
use longrun_hal::uring::Submission;
use longrun_hal::{Arena, ArenaConfig, Buf, Uring, UringConfig};

use crate::catalog::{Catalog, Spec};
use crate::device::{Control, ControlError, Hardware};
use crate::io::{BdevId, Io, IoDone, IoError, Origin};
use crate::layer::BlockLayer;

pub(crate) struct Rig {
    pub(crate) catalog: Catalog,
    pub(crate) layer: BlockLayer,
    pub(crate) uring: Uring,
    pub(crate) arena: Arena,
    pub(crate) now: Mono,
    pub(crate) ended: Vec<IoDone>,
    next_origin: u64,
}

pub(crate) fn extent(lba: u64, blocks: u32) -> Extent {
    Extent { lba, blocks }
}

pub(crate) fn malloc(name: &str, num_blocks: u64, block_size: u32) -> Spec {
    Spec::Malloc { name: Some(name.to_owned()), num_blocks, block_size, uuid: None }
}

/// What a ring's submissions may go by.
pub(crate) const SUBMISSIONS: [Submission; 2] =
    [Submission::Enter, Submission::Polled { processor: None, idle: Duration::from_millis(10) }];

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::submitting(Submission::Enter)
    }

    pub(crate) fn submitting(submission: Submission) -> Rig {
        Rig {
            catalog: Catalog::new(),
            layer: BlockLayer::new(),
            uring: Uring::new(UringConfig { entries: 64, submission }, None).unwrap(),
            arena: Arena::new(ArenaConfig::new(16 << 20)).unwrap(),
            now: Mono(1_000_000),
            ended: Vec::new(),
            next_origin: 0,
        }
    }

    pub(crate) fn create(&mut self, spec: Spec) -> BdevId {
        let created = self.catalog.create(spec, 0).unwrap();
        let id = created.device.id();
        self.layer.install(created.device);
        id
    }

    fn hardware<'a>(now: Mono, uring: &'a mut Uring, arena: &'a Arena) -> Hardware<'a> {
        Hardware { now, uring, arena }
    }

    /// Submits; the answer is the request's number in `ended`.
    pub(crate) fn submit(&mut self, bdev: BdevId, io: Io) -> u64 {
        let origin = self.submit_of_batch(bdev, io);
        self.collect();
        origin
    }

    /// As [`Rig::submit`], but for the end of the batch.
    pub(crate) fn submit_of_batch(&mut self, bdev: BdevId, io: Io) -> u64 {
        self.next_origin += 1;
        let mut hardware = Self::hardware(self.now, &mut self.uring, &self.arena);
        self.layer.submit(&mut hardware, bdev, io, Origin::Host(self.next_origin));
        self.drain();
        self.next_origin
    }

    pub(crate) fn control(&mut self, bdev: BdevId, control: Control) -> Result<(), ControlError> {
        let mut hardware = Self::hardware(self.now, &mut self.uring, &self.arena);
        let answer = self.layer.control(&mut hardware, bdev, control);
        self.collect();
        answer
    }

    /// The end of a batch.
    pub(crate) fn collect(&mut self) {
        let mut hardware = Self::hardware(self.now, &mut self.uring, &self.arena);
        self.layer.settle(&mut hardware);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(done) = self.layer.pop_done() {
            self.ended.push(done);
        }
    }

    /// Lets the ring work until this request has ended.
    pub(crate) fn wait(&mut self, origin: u64) -> IoDone {
        let mut completions = Vec::new();
        for _ in 0..100_000 {
            if let Some(at) = self.ended.iter().position(|done| done.origin == origin) {
                return self.ended.swap_remove(at);
            }
            self.reap(&mut completions);
        }
        panic!("request {origin} did not end");
    }

    fn reap(&mut self, completions: &mut Vec<longrun_hal::Completion>) {
        self.uring.submit_and_reap(Some(Duration::from_secs(1)), completions).unwrap();
        for completion in completions.drain(..) {
            let mut hardware = Self::hardware(self.now, &mut self.uring, &self.arena);
            self.layer.on_completion(&mut hardware, completion);
        }
        self.collect();
    }

    /// Lets the ring work until nothing is in flight.
    pub(crate) fn settle(&mut self) {
        while self.uring.in_flight() > 0 {
            self.reap(&mut Vec::new());
        }
    }

    /// Advances the clock and lets what is due happen; the numbers of requests that ended.
    pub(crate) fn advance(&mut self, ns: u64) -> Vec<u64> {
        self.now = self.now.after_ns(ns);
        let mut hardware = Self::hardware(self.now, &mut self.uring, &self.arena);
        self.layer.tick(&mut hardware);
        self.collect();
        self.ended.drain(..).map(|done| done.origin).collect()
    }

    pub(crate) fn run(&mut self, bdev: BdevId, io: Io) -> Result<Option<Buf>, IoError> {
        let origin = self.submit(bdev, io);
        let done = self.wait(origin);
        done.result.map(|()| done.buf)
    }

    pub(crate) fn read(&mut self, bdev: BdevId, at: Extent) -> Result<Vec<u8>, IoError> {
        let bytes = at.blocks as usize * self.layer.geometry(bdev).unwrap().block_bytes as usize;
        let mut buf = self.arena.alloc(bytes).unwrap();
        // What was there before must not pass for what was read.
        buf.fill(0xa5);
        Ok(self.run(bdev, Io::Read { extent: at, buf })?.unwrap().to_vec())
    }

    pub(crate) fn write(&mut self, bdev: BdevId, at: Extent, byte: u8) -> Result<(), IoError> {
        let bytes = at.blocks as usize * self.layer.geometry(bdev).unwrap().block_bytes as usize;
        let mut buf = self.arena.alloc(bytes).unwrap();
        buf.fill(byte);
        self.run(bdev, Io::Write { extent: at, data: buf.freeze(), fua: false }).map(drop)
    }
}
