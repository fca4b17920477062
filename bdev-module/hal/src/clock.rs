//! The only module that reads a clock: fenced counter reads, and the timeline that stamps come from.

/// Nanoseconds of the machine's monotonic clock, for timers and time-outs. 31 ns, no system call.
pub fn mono_ns() -> u64 {
    unimplemented!()
}

/// Nanoseconds since 1970 of the wall clock. Steps and runs backwards as operators please: only to discipline a timeline.
pub fn wall_ns() -> u64 {
    unimplemented!()
}

/// What a timeline starts from.
#[derive(Clone, Copy, Debug)]
pub struct TimelineConfig {
    /// The greatest of the leased high-water mark and every stamp ever seen, discarded ones too. 0 on a new system.
    pub floor_ns: u64,
    /// The measured bound of the difference between two cores' counters, from [`measure_skew_ns`].
    pub error_bound_ns: u64,
    /// How much faster or slower than real time it may run to come back to the wall clock, in parts per million.
    pub slew_ppm_max: u32,
}

/// The system's time, one function of the counter for all cores. The control plane holds it.
#[derive(Clone, Debug)]
pub struct Timeline {}

impl Timeline {
    /// Starts at the greater of the wall clock and the floor.
    pub fn start(config: TimelineConfig) -> Timeline {
        let _ = config;
        unimplemented!()
    }

    /// A core's own reader.
    pub fn reader(&self) -> TimelineReader {
        unimplemented!()
    }

    /// Steers towards the wall clock and looks for drift. Call every 100 ms or so from the control plane.
    pub fn discipline(&self) -> Discipline {
        unimplemented!()
    }

    /// Allows stamps up to and including `up_to_ns`, after that high-water mark was made durable. Never lowers.
    pub fn extend_lease(&self, up_to_ns: u64) {
        let _ = up_to_ns;
    }
}

/// What one steering step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discipline {
    /// The timeline now.
    pub now_ns: u64,
    /// Wall clock minus timeline.
    pub behind_ns: i64,
    /// The lease in force; extend it well before the timeline gets there.
    pub lease_ns: u64,
    pub single_stamper_only: bool,
}

/// A core's view of the timeline. Each reader's times never fall; two readers' differ by at most the error bound.
#[derive(Debug)]
pub struct TimelineReader {}

impl TimelineReader {
    /// The time now: a fenced counter read, so it is after everything this core has done or seen before the call.
    pub fn now_ns(&mut self) -> u64 {
        unimplemented!()
    }

    /// Times up to and including this one may be used as stamps.
    pub fn lease_ns(&self) -> u64 {
        unimplemented!()
    }

    /// Wait until the timeline is past stamp + this before answering a host.
    pub fn error_bound_ns(&self) -> u64 {
        unimplemented!()
    }

    /// Must all stamping be done on one core?
    pub fn single_stamper_only(&self) -> bool {
        unimplemented!()
    }
}

/// Measures how far the counters of two cores can differ, in ns; blocks for some ms.
pub fn measure_skew_ns(cores: &[usize]) -> Result<u64, crate::affinity::AffinityError> {
    let _ = cores;
    unimplemented!()
}
