//! Keeps the timeline: steers it towards the wall clock, and leases time from the metadata store before it is used.
//!
//! The lease is what makes a restart start above every stamp that was ever given: a time may be used only once a mark
//! above it is durable, and the next start begins at the mark. It is short, because a restart jumps ahead by what is left
//! of it.

use crate::metadata::{Entries, Metadata};
use crate::reactor::ReactorHandle;
use longrun_hal::clock::{Timeline, TimelineConfig, measure_skew_ns};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The durable mark: 8 bytes, little-endian, nanoseconds.
const KEY: &str = "timeline/high_water";
const STEP: Duration = Duration::from_millis(100);
/// How far ahead time is leased, and when it is leased again. A commit may take a second on a busy disk.
const LEASE_NS: u64 = 3_000_000_000;
const RENEW_NS: u64 = 2_000_000_000;
/// As other clocks slew.
const SLEW_PPM_MAX: u32 = 500;
/// Taken for the skew where it cannot be measured.
const SKEW_UNKNOWN_NS: u64 = 10_000;

/// The control plane's hold on the timeline.
pub struct Timekeeper {
    timeline: Timeline,
    metadata: Metadata,
}

impl Timekeeper {
    /// Starts the timeline above everything that was leased before, with a first lease that is durable.
    pub fn start(processors: &[usize], entries: &Entries, metadata: Metadata) -> Timekeeper {
        let floor_ns =
            entries.get(KEY).and_then(|mark| Some(u64::from_le_bytes(mark.as_slice().try_into().ok()?))).unwrap_or(0);
        let error_bound_ns = measure_skew_ns(processors).unwrap_or(SKEW_UNKNOWN_NS);
        let timeline = Timeline::start(TimelineConfig { floor_ns, error_bound_ns, slew_ppm_max: SLEW_PPM_MAX });
        let mark_ns = timeline.reader().now_ns() + LEASE_NS;
        metadata.put_and_wait(KEY, &mark_ns.to_le_bytes());
        timeline.extend_lease(mark_ns);
        Timekeeper { timeline, metadata }
    }

    /// The timeline.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Steers and leases for as long as the process runs.
    pub async fn keep(self, reactors: Vec<ReactorHandle>) {
        let mut warned = false;
        // Greatest mark that was asked for; the store keeps the order of the calls. One is asked for at a time: a disk that
        // takes none for hours must not have a queue of them.
        let mut asked_ns = 0;
        let is_asking = Arc::new(AtomicBool::new(false));
        loop {
            tokio::time::sleep(STEP).await;
            let found = self.timeline.discipline();
            if found.single_stamper_only && !std::mem::replace(&mut warned, true) {
                tracing::warn!(
                    "the processors' counters cannot be trusted to agree; stamps are given on one core only"
                );
            }
            let mut seen_ns = 0;
            for reactor in &reactors {
                let seen = reactor.call(|reactor| reactor.core().0.engine().greatest_time_seen()).await;
                seen_ns = seen_ns.max(seen.0);
            }
            let due = found.lease_ns < found.now_ns + RENEW_NS || seen_ns > asked_ns;
            if due && !is_asking.swap(true, Ordering::AcqRel) {
                let mark_ns = (found.now_ns + LEASE_NS).max(seen_ns);
                asked_ns = mark_ns;
                let (timeline, is_asking) = (self.timeline.clone(), Arc::clone(&is_asking));
                self.metadata.put(KEY, &mark_ns.to_le_bytes(), move || {
                    timeline.extend_lease(mark_ns);
                    is_asking.store(false, Ordering::Release);
                });
            }
        }
    }
}
