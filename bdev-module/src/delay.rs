//! A device that answers late, on top of another.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use longrun_copy::types::Mono;
use longrun_hal::Buf;

use crate::device::{Bdev, Env, RequestKey};
use crate::io::{BdevId, Io, IoError};

/// How late. Reads wait by the read latencies, everything else by the write latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Added to reads, microseconds.
    pub avg_read_us: u64,
    /// Added to every hundredth read instead, microseconds.
    pub p99_read_us: u64,
    /// Added to other requests, microseconds.
    pub avg_write_us: u64,
    /// Added to every hundredth of them instead, microseconds.
    pub p99_write_us: u64,
}

/// Passes requests on, and holds their ends back. The delay starts when the base is done.
pub struct Delay {
    base: BdevId,
    latencies: Latencies,
    reads: u64,
    writes: u64,
    held: BinaryHeap<Reverse<Due>>,
    /// What `held` refers to; a heap of small entries moves less.
    ends: slab::Slab<(RequestKey, Result<(), IoError>, Option<Buf>)>,
    order: u64,
}

/// `order` lets ends that are due together leave in the order they came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Mono,
    order: u64,
    end: usize,
}

/// The top bit of a tag tells a read from the rest; the lower ones are the request.
const READ: u32 = 1 << 31;

impl Delay {
    /// On top of `base`.
    pub fn new(base: BdevId, latencies: Latencies) -> Delay {
        Delay { base, latencies, reads: 0, writes: 0, held: BinaryHeap::new(), ends: slab::Slab::new(), order: 0 }
    }

    fn delay_ns(&mut self, is_read: bool) -> u64 {
        let Latencies { avg_read_us, p99_read_us, avg_write_us, p99_write_us } = self.latencies;
        let (count, average_us, p99_us) = if is_read {
            (&mut self.reads, avg_read_us, p99_read_us)
        } else {
            (&mut self.writes, avg_write_us, p99_write_us)
        };
        *count += 1;
        1000 * if count.is_multiple_of(100) { p99_us } else { average_us }
    }
}

impl Bdev for Delay {
    fn submit(&mut self, env: &mut Env<'_>, request: RequestKey, io: Io) {
        assert!(request.0 < READ, "more requests than tags");
        let kind = if matches!(io, Io::Read { .. }) { READ } else { 0 };
        env.submit_base(self.base, request.0 | kind, io);
    }

    fn base_done(&mut self, env: &mut Env<'_>, tag: u32, result: Result<(), IoError>, buf: Option<Buf>) {
        let request = RequestKey(tag & !READ);
        let delay_ns = self.delay_ns(tag & READ != 0);
        if delay_ns == 0 {
            return env.complete(request, result, buf);
        }
        let end = self.ends.insert((request, result, buf));
        self.order += 1;
        let at = env.now.after_ns(delay_ns);
        self.held.push(Reverse(Due { at, order: self.order, end }));
        env.wake_at(at);
    }

    fn tick(&mut self, env: &mut Env<'_>) {
        while let Some(Reverse(due)) = self.held.peek().copied()
            && due.at <= env.now
        {
            self.held.pop();
            let (request, result, buf) = self.ends.remove(due.end);
            env.complete(request, result, buf);
        }
    }

    fn next_timeout(&self) -> Option<Mono> {
        self.held.peek().map(|Reverse(due)| due.at)
    }
}
