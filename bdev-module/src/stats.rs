//! What a bdev counts.

use crate::io::IoType;

/// Requests of one kind that ended well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindStats {
    /// Bytes of their extents; 0 for flushes.
    pub bytes: u64,
    /// How many.
    pub ops: u64,
    /// Sum of their latencies, from submission to this bdev to its end, in nanoseconds.
    pub latency_ns: u64,
    /// Longest latency since the last reset, in nanoseconds.
    pub latency_ns_max: u64,
    /// Shortest latency since the last reset, in nanoseconds; 0 when there was none.
    pub latency_ns_min: u64,
}

/// A bdev's counters since it was created or reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BdevStats {
    kinds: [KindStats; 5],
    /// Requests that failed, of any kind, refused ones too.
    pub failed_ops: u64,
}

/// What a reading of the counters sets to zero afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetMode {
    /// Nothing.
    #[default]
    None,
    /// Longest and shortest latencies.
    MaxMin,
    /// All.
    All,
}

impl BdevStats {
    /// The counters of one kind.
    pub fn of(&self, io_type: IoType) -> &KindStats {
        &self.kinds[index(io_type)]
    }

    /// Counts a request that ended well.
    pub fn succeeded(&mut self, io_type: IoType, bytes: u64, latency_ns: u64) {
        let kind = &mut self.kinds[index(io_type)];
        kind.latency_ns_min = if kind.latency_ns_min == 0 { latency_ns } else { kind.latency_ns_min.min(latency_ns) };
        kind.latency_ns_max = kind.latency_ns_max.max(latency_ns);
        kind.latency_ns += latency_ns;
        kind.bytes += bytes;
        kind.ops += 1;
    }

    /// Sets to zero what the mode says.
    pub fn reset(&mut self, mode: ResetMode) {
        match mode {
            ResetMode::None => {}
            ResetMode::MaxMin => {
                for kind in &mut self.kinds {
                    kind.latency_ns_max = 0;
                    kind.latency_ns_min = 0;
                }
            }
            ResetMode::All => *self = BdevStats::default(),
        }
    }
}

fn index(io_type: IoType) -> usize {
    match io_type {
        IoType::Read => 0,
        IoType::Write => 1,
        IoType::WriteZeroes => 2,
        IoType::Unmap => 3,
        IoType::Flush => 4,
    }
}
