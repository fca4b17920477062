//! In steady state no request allocates: everything that a request needs is kept from those before it.

use std::alloc::System;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use longrun_bdev::catalog::Spec;
use longrun_bdev::delay::Latencies;
use longrun_bdev::device::Hardware;
use longrun_bdev::{BdevId, BlockLayer, Catalog, Io, Origin};
use longrun_copy::overlap::{OverlapQueue, Place};
use longrun_copy::types::{Extent, Mono};
use longrun_hal::{Arena, ArenaConfig, Completion, Uring, UringConfig};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What is counted is the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

struct Bench {
    layer: BlockLayer,
    uring: Uring,
    arena: Arena,
    now: Mono,
    completions: Vec<Completion>,
}

impl Bench {
    /// Rounds of 32 writes and 32 reads in flight together.
    fn rounds(&mut self, bdev: BdevId, rounds: u64) {
        for round in 0..rounds {
            for lba in 0..32 {
                let extent = Extent { lba: (lba + round) % 64, blocks: 1 };
                let mut hardware = Hardware { now: self.now, uring: &mut self.uring, arena: &self.arena };
                let data = self.arena.alloc(4096).expect("memory is returned").freeze();
                let write = Io::Write { extent, data, fua: false };
                self.layer.submit(&mut hardware, bdev, write, Origin::Host(lba));
                let read = Io::Read { extent, buf: self.arena.alloc(4096).expect("memory is returned") };
                self.layer.submit(&mut hardware, bdev, read, Origin::Host(lba));
            }
            let (mut ended, mut turns) = (0, 0);
            while ended < 64 {
                turns += 1;
                assert!(turns < 100_000, "{} of 64 requests did not end", 64 - ended);
                let wait = (self.uring.in_flight() > 0).then_some(Duration::from_secs(5));
                self.uring.submit_and_reap(wait, &mut self.completions).expect("the ring works");
                self.now = self.now.after_ns(1_000_000);
                let mut hardware = Hardware { now: self.now, uring: &mut self.uring, arena: &self.arena };
                for completion in self.completions.drain(..) {
                    self.layer.on_completion(&mut hardware, completion);
                }
                self.layer.tick(&mut hardware);
                self.layer.settle(&mut hardware);
                while let Some(done) = self.layer.pop_done() {
                    done.result.expect("nothing fails here");
                    ended += 1;
                }
            }
        }
    }
}

#[test]
fn no_request_allocates_in_steady_state() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("volume");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let mut catalog = Catalog::new();
    let mut bench = Bench {
        layer: BlockLayer::new(),
        uring: Uring::new(UringConfig::default(), None).unwrap(),
        arena: Arena::new(ArenaConfig::new(8 << 20)).unwrap(),
        now: Mono(1),
        completions: Vec::with_capacity(1024),
    };
    let latencies = Latencies { avg_read_us: 1, p99_read_us: 9, avg_write_us: 1, p99_write_us: 9 };
    let mut devices = Vec::new();
    for spec in [
        Spec::Malloc { name: Some("memory".to_owned()), num_blocks: 256, block_size: 4096, uuid: None },
        Spec::Uring { name: "file".to_owned(), filename: path, block_size: Some(4096), uuid: None },
        Spec::Error { base_name: "memory".to_owned(), uuid: None },
        Spec::Delay { name: "slow".to_owned(), base_bdev_name: "EE_memory".to_owned(), latencies, uuid: None },
    ] {
        let created = catalog.create(spec, 0).unwrap();
        devices.push(created.device.id());
        bench.layer.install(created.device);
    }
    for bdev in [devices[1], devices[3]] {
        bench.rounds(bdev, 20);
        let region = Region::new(GLOBAL);
        bench.rounds(bdev, 50);
        let change = region.change();
        assert_eq!(change.allocations + change.reallocations, 0, "3200 requests on {bdev:?}: {change:?}");
    }
}

/// A large write, small ones that wait for it, and a large one that waits for those.
fn overlapping(queue: &mut OverlapQueue<u64>, places: &mut Vec<Place>) {
    const SMALL: u64 = 32;
    let large = Extent { lba: 0, blocks: SMALL as u32 };
    places.push(queue.arrive(large, 0).0);
    places.extend((0..SMALL).map(|lba| queue.arrive(Extent { lba, blocks: 1 }, 1 + lba).0));
    places.push(queue.arrive(large, 1 + SMALL).0);
    let mut started = 0;
    for place in places.drain(..) {
        queue.release(place, |_| started += 1);
    }
    assert_eq!(started, SMALL + 1);
}

#[test]
fn writes_that_wait_for_each_other_allocate_nothing_in_steady_state() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut queue, mut places) = (OverlapQueue::new(), Vec::new());
    overlapping(&mut queue, &mut places);
    let region = Region::new(GLOBAL);
    overlapping(&mut queue, &mut places);
    let change = region.change();
    assert_eq!(change.allocations + change.reallocations, 0, "{change:?}");
}
