//! How far two cores' counters can differ: measured by messages between two pinned threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::affinity::{AffinityError, pin_current_thread};

use super::counter::Counter;
use super::segment::{Segment, rate_of};

/// Messages each way per pair of cores; a few ms when both threads run.
const ROUNDS: u64 = 20_000;
/// The least and most possible difference this far apart are near enough: a few us on any machine.
const WIDTH_COUNTS_GOOD: u64 = 10_000;
/// Rounds end after this time whatever they gave: on a busy machine the threads run in turns, a time slice per round.
const TIME_NS_MAX: u64 = 1_000_000_000;

/// Measures how far the counters of these cores can differ, in ns; blocks for some ms per core, on a
/// busy machine up to a second. Use the result as the
/// timeline's error bound. Two cores and more: it is never 0, since no message takes no time.
pub fn measure_skew_ns(cores: &[usize]) -> Result<u64, AffinityError> {
    let counter = Counter::best();
    let Some((&first, others)) = cores.split_first() else { return Ok(0) };
    let mut counts = 0;
    for &other in others {
        counts = counts.max(measure_pair(counter, first, other)?.bound());
    }
    // Two cores differ by at most the sum of what each differs from the first.
    let counts = if others.len() > 1 { counts.saturating_mul(2) } else { counts };
    let scale = Segment { start: 0, end: u64::MAX, base_ns: 0, rate: rate_of(counter.calibrate()) };
    Ok(if others.is_empty() { 0 } else { scale.time_ns(counts) + 1 })
}

/// What the messages say of (second counter - first counter): not below `least`, not above `most`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) least: i64,
    pub(super) most: i64,
}

impl Bounds {
    pub(super) const UNKNOWN: Bounds = Bounds { least: i64::MIN, most: i64::MAX };

    /// One exchange: the first sent at `sent`, the second answered at `answered` by its own counter, the first had the
    /// answer at `received`. The answer was read in between, so second - first lies between the two differences.
    pub(super) fn exchange(&mut self, sent: u64, answered: u64, received: u64) {
        self.least = self.least.max(answered.wrapping_sub(received) as i64);
        self.most = self.most.min(answered.wrapping_sub(sent) as i64);
    }

    fn width(&self) -> u64 {
        self.most.abs_diff(self.least)
    }

    /// The greatest difference either way that is not ruled out.
    pub(super) fn bound(&self) -> u64 {
        self.least.unsigned_abs().max(self.most.unsigned_abs())
    }
}

fn measure_pair(counter: Counter, first: usize, second: usize) -> Result<Bounds, AffinityError> {
    let ping = CachePadded::new(AtomicU64::new(0));
    let pong = CachePadded::new(AtomicU64::new(0));
    let answer = CachePadded::new(AtomicU64::new(0));
    // Set by either side when it leaves, so that the other does not wait for it.
    let over = AtomicBool::new(false);
    let respond = || {
        pin_current_thread(second).inspect_err(|_| over.store(true, Ordering::Relaxed))?;
        let mut round = 0;
        while !over.load(Ordering::Relaxed) {
            if ping.load(Ordering::Acquire) == round + 1 {
                round += 1;
                answer.store(counter.read(), Ordering::Relaxed);
                pong.store(round, Ordering::Release);
            } else {
                pause(first == second);
            }
        }
        Ok(())
    };
    let measure = || {
        let mut bounds = Bounds::UNKNOWN;
        pin_current_thread(first).inspect_err(|_| over.store(true, Ordering::Relaxed))?;
        let start_ns = super::mono_ns();
        for round in 1.. {
            let sent = counter.read();
            ping.store(round, Ordering::Release);
            while pong.load(Ordering::Acquire) != round {
                if over.load(Ordering::Relaxed) {
                    return Ok(bounds);
                }
                pause(first == second);
            }
            bounds.exchange(sent, answer.load(Ordering::Relaxed), counter.read());
            let spent_ns = super::mono_ns().saturating_sub(start_ns);
            if spent_ns > TIME_NS_MAX || (round >= ROUNDS && bounds.width() < WIDTH_COUNTS_GOOD) {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        Ok(bounds)
    };
    std::thread::scope(|scope| {
        let responder = scope.spawn(respond);
        let measurer = scope.spawn(measure);
        // Neither panics: they only pin themselves, read counters and touch atomics.
        let bounds = measurer.join().unwrap_or(Ok(Bounds::UNKNOWN));
        responder.join().unwrap_or(Ok(())).and(bounds)
    })
}

/// Two threads on one core have to take turns.
fn pause(same_core: bool) {
    if same_core {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}
