//! The timeline as its users see it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::chain::Node;
use super::counter::{Counter, Sample};
use super::segment::{Segment, rate_of, slewed_rate};
use super::wall_ns;
use crate::sync::Arc;

/// How long a segment is: the time between two changes of the rate.
const SEGMENT_NS: u64 = 250_000_000;
/// How far the chain is kept decided ahead of now by the control plane: what a busy machine may keep it waiting, so that no
/// core has to decide, which takes memory.
const AHEAD_NS: u64 = 4 * SEGMENT_NS;
/// How long segments that are over are kept, so that no core is the last to hold one and has to free it.
const KEPT_NS: u64 = 10_000_000_000;
/// A counter that differs more than this from MONOTONIC_RAW over [`DRIFT_WINDOW_NS`] is not to be trusted across cores.
const DRIFT_PPM_MAX: u64 = 500;
/// Long enough that the uncertainty of two samples (some us on a busy machine) and of the calibration is far below.
const DRIFT_WINDOW_NS: u64 = 2_000_000_000;

/// What a timeline starts from.
#[derive(Clone, Copy, Debug)]
pub struct TimelineConfig {
    /// The greatest of the leased high-water mark and every stamp ever seen, discarded ones too. 0 on a new system. The
    /// timeline starts above it.
    pub floor_ns: u64,
    /// The measured bound of the difference between two cores' counters, from [`measure_skew_ns`](super::measure_skew_ns).
    pub error_bound_ns: u64,
    /// How much faster or slower than real time it may run to come back to the wall clock, in parts per million (500 is
    /// what other clocks do: two hours take 167 days).
    pub slew_ppm_max: u32,
}

/// The system's time, one function of the counter for all cores. The control plane holds it and steers it; each core has
/// a [`TimelineReader`]. Clones are the same timeline.
#[derive(Clone)]
pub struct Timeline {
    shared: Arc<Shared>,
}

struct Shared {
    counter: Counter,
    slew_ppm_max: u32,
    error_bound_ns: u64,
    /// Stamps up to and including this are allowed. Starts at the floor: none.
    lease_ns: AtomicU64,
    single_stamper_only: AtomicBool,
    /// The counter's own rate as last measured, in units of [`Segment::rate`].
    nominal: AtomicU64,
    steering: Mutex<Steering>,
}

/// The control plane's part.
struct Steering {
    /// A node not after the one that now lies in.
    current: Arc<Node>,
    /// The first that is kept, and so are all from there on.
    kept: Arc<Node>,
    /// Where the drift window began.
    since: Sample,
}

/// What one steering step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discipline {
    /// The timeline now.
    pub now_ns: u64,
    /// Wall clock minus timeline; below 0 while the timeline waits for the wall clock to catch up.
    pub behind_ns: i64,
    /// The lease in force; extend it well before the timeline gets there.
    pub lease_ns: u64,
    /// Must all stamping be done on one core?
    pub single_stamper_only: bool,
}

impl Timeline {
    /// Starts at the wall clock, or just above the floor if that is later. Blocks for 20 ms to calibrate the counter.
    pub fn start(config: TimelineConfig) -> Timeline {
        Timeline::start_with(config, Counter::best(), wall_ns())
    }

    pub(super) fn start_with(config: TimelineConfig, counter: Counter, wall_ns: u64) -> Timeline {
        let rate = rate_of(counter.calibrate());
        let since = counter.sample();
        let start = counter.read();
        let base_ns = wall_ns.max(config.floor_ns.saturating_add(1));
        let first = Segment { start, end: start.saturating_add(counts_of(SEGMENT_NS, rate)), base_ns, rate };
        let current = Node::new(first);
        let steering = Steering { kept: Arc::clone(&current), current, since };
        Timeline {
            shared: Arc::new(Shared {
                counter,
                slew_ppm_max: config.slew_ppm_max,
                error_bound_ns: config.error_bound_ns,
                lease_ns: AtomicU64::new(config.floor_ns),
                // The kernel's clock rises on all cores, but how far it can differ between two was not measured on it.
                single_stamper_only: AtomicBool::new(counter != Counter::Tsc),
                nominal: AtomicU64::new(rate),
                steering: Mutex::new(steering),
            }),
        }
    }

    /// A reader of one's own, for a core or for the control plane.
    pub fn reader(&self) -> TimelineReader {
        TimelineReader { current: Arc::clone(&self.steering().current), latest_ns: 0, shared: Arc::clone(&self.shared) }
    }

    /// Steers towards the wall clock and looks for drift of the counter. Call it every 100 ms or so from the control
    /// plane; when it is late the timeline goes on at the counter's own rate.
    pub fn discipline(&self) -> Discipline {
        self.discipline_towards(wall_ns)
    }

    pub(super) fn discipline_towards(&self, wall_ns: impl Fn() -> u64) -> Discipline {
        let shared = &*self.shared;
        let mut steering = self.steering();
        let nominal = shared.nominal.load(Ordering::Relaxed);
        let (count, wall_ns) = shared.counter.beside(wall_ns);
        while count >= steering.current.segment.end {
            steering.current = shared.after(&steering.current);
        }
        let now_ns = steering.current.segment.time_ns(count);
        let behind_ns = difference(wall_ns, now_ns);
        // The last decided segment; it may lie ahead already.
        let mut last = Arc::clone(&steering.current);
        loop {
            while let Some(next) = last.next() {
                last = next;
            }
            if last.segment.time_ns(last.segment.end).saturating_sub(now_ns) >= AHEAD_NS {
                break;
            }
            // Where the timeline will stand against the wall clock when the proposal begins: what is decided until then
            // makes good its own part.
            let begins_ns = last.segment.time_ns(last.segment.end);
            let counts = u128::from(last.segment.end.saturating_sub(count));
            let wall_then = u128::from(wall_ns) + ((counts * u128::from(nominal)) >> 32);
            let behind_then = difference(u64::try_from(wall_then).unwrap_or(u64::MAX), begins_ns);
            let rate = slewed_rate(nominal, behind_then, SEGMENT_NS, shared.slew_ppm_max);
            last.decide_next(last.segment.next(counts_of(SEGMENT_NS, nominal), rate));
        }
        while now_ns.saturating_sub(steering.kept.segment.base_ns) > KEPT_NS
            && let Some(next) = steering.kept.next()
        {
            steering.kept = next;
        }
        match steering.watch(shared.counter, nominal) {
            Some((true, _)) => shared.single_stamper_only.store(true, Ordering::Release),
            Some((false, measured)) => shared.nominal.store(measured, Ordering::Relaxed),
            None => {}
        }
        Discipline {
            now_ns,
            behind_ns,
            lease_ns: shared.lease_ns.load(Ordering::Acquire),
            single_stamper_only: shared.single_stamper_only.load(Ordering::Acquire),
        }
    }

    /// Allows stamps up to and including `up_to_ns`. Call it *after* that high-water mark was made durable: a start reads
    /// it back as its floor, and so begins above every stamp of before. Never lowers the lease.
    pub fn extend_lease(&self, up_to_ns: u64) {
        self.shared.lease_ns.fetch_max(up_to_ns, Ordering::AcqRel);
    }

    fn steering(&self) -> std::sync::MutexGuard<'_, Steering> {
        // What a thread that panicked leaves behind is still a valid chain.
        self.shared.steering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// The node after one whose end has passed. Decided here if it is not yet: the timeline then runs at the counter's own
    /// rate until the control plane steers again.
    fn after(&self, node: &Node) -> Arc<Node> {
        node.next().unwrap_or_else(|| {
            let nominal = self.nominal.load(Ordering::Relaxed);
            node.decide_next(node.segment.next(counts_of(SEGMENT_NS, nominal), nominal))
        })
    }
}

impl Steering {
    /// Has the counter's rate gone away from the `nominal` one it had against MONOTONIC_RAW? At the end of each window gives
    /// the answer and the rate measured.
    fn watch(&mut self, counter: Counter, nominal: u64) -> Option<(bool, u64)> {
        let sample = counter.sample();
        let raw_ns = sample.raw_ns.saturating_sub(self.since.raw_ns);
        if raw_ns < DRIFT_WINDOW_NS {
            return None;
        }
        let counts = sample.count.saturating_sub(self.since.count);
        self.since = sample;
        let measured = rate_of(raw_ns as f64 / counts.max(1) as f64);
        Some((drifted(nominal, measured), measured))
    }
}

/// Are two measured rates too far apart for one and the same counter?
pub(super) fn drifted(nominal: u64, measured: u64) -> bool {
    u128::from(measured.abs_diff(nominal)) * 1_000_000 > u128::from(nominal) * u128::from(DRIFT_PPM_MAX)
}

fn counts_of(ns: u64, rate: u64) -> u64 {
    u64::try_from((u128::from(ns) << 32) / u128::from(rate)).unwrap_or(u64::MAX).max(1)
}

fn difference(a: u64, b: u64) -> i64 {
    i64::try_from(i128::from(a) - i128::from(b)).unwrap_or(if a > b { i64::MAX } else { i64::MIN })
}

/// A core's view of the timeline. One reader's times never fall; two readers' differ by at most the error bound.
pub struct TimelineReader {
    current: Arc<Node>,
    /// The greatest time given: holds when the thread has moved to a core whose counter is behind.
    latest_ns: u64,
    shared: Arc<Shared>,
}

impl TimelineReader {
    /// The time now, some 30 ns. The counter read is fenced: it comes after everything this core has seen before the call.
    /// Read it *after* a batch was taken from kernel or ring, never before.
    pub fn now_ns(&mut self) -> u64 {
        let count = self.shared.counter.read();
        while count >= self.current.segment.end {
            self.current = self.shared.after(&self.current);
        }
        self.latest_ns = self.latest_ns.max(self.current.segment.time_ns(count));
        self.latest_ns
    }

    /// Times up to and including this one may be used as stamps. Whoever stamps compares each stamp with it, and holds the
    /// write back until the lease is extended if the stamp is above.
    pub fn lease_ns(&self) -> u64 {
        self.shared.lease_ns.load(Ordering::Acquire)
    }

    /// Wait until this reader is past stamp + this before answering a host: then every core's reader is past the stamp.
    pub fn error_bound_ns(&self) -> u64 {
        self.shared.error_bound_ns
    }

    /// Must all stamping be done on one core, since the counter is not invariant or drifts?
    pub fn single_stamper_only(&self) -> bool {
        self.shared.single_stamper_only.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Timeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timeline").field("counter", &self.shared.counter).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for TimelineReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TimelineReader").field("segment", &self.current.segment).finish_non_exhaustive()
    }
}
