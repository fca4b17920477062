//! The only module that reads a clock: fenced counter reads, and the timeline that stamps come from.
//!
//! All cores evaluate one function of the counter: a chain of straight segments, each beginning where
//! the one before ends. The next segment is decided once, by a compare-and-swap on the one before, and only ever for
//! counter values at which no reader has had an answer: a reader that comes to the end of the chain before the control
//! plane has steered appends the continuation itself (at the counter's own rate). So the function is continuous, a change lies in the
//! future for whoever has not passed it, nobody waits for anybody, and no timing assumption is made.
//!
//! Its time starts at the greatest of the wall clock and the floor (lease and stamps seen), then runs at the counter's
//! rate, slewed towards the wall clock by a bounded rate. It never steps and never runs backwards.

mod chain;
mod counter;
mod segment;
mod skew;
#[cfg(all(test, not(loom)))]
mod tests;
mod timeline;

pub use skew::measure_skew_ns;
pub use timeline::{Discipline, Timeline, TimelineConfig, TimelineReader};

/// Nanoseconds of the machine's monotonic clock, for timers and time-outs. 31 ns, no system call.
pub fn mono_ns() -> u64 {
    kernel_ns(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970 of the wall clock. Steps and runs backwards as operators please: only to steer a timeline by.
pub fn wall_ns() -> u64 {
    kernel_ns(libc::CLOCK_REALTIME)
}

/// Clock sources that are read without entering the kernel (vDSO).
const READ_BY_ITSELF: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];

/// What is to be said of the kernel's clock source, if reading a clock is a system call here.
pub fn notice() -> Option<String> {
    let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource").ok()?;
    about(source.trim())
}

fn about(source: &str) -> Option<String> {
    (!READ_BY_ITSELF.contains(&source)).then(|| {
        format!(
            "with the clock source {source} each look at the clock is a system call; where the processor's counter can be \
             trusted: echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource"
        )
    })
}

/// The counter under the timeline: the processor's own where it can be trusted. For accounts of where time goes; fenced, so
/// that a step's work is not counted as the next one's. No system call.
#[inline]
pub fn cycles() -> u64 {
    COUNTER.with(|counter| counter.read())
}

thread_local! {
    static COUNTER: counter::Counter = counter::Counter::best();
}

/// How fast [`cycles`] counts. Measures for 20 ms, once.
pub fn cycles_per_s() -> f64 {
    static RATE: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *RATE.get_or_init(|| 1e9 / counter::Counter::best().calibrate())
}

fn kernel_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec of ours.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(failed, 0, "the kernel lacks clock {clock}");
    // Before 1970 is as good as 1970: the timeline's floor is above it.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
