//! The timeline's arithmetic: no clock, no sharing.

/// A straight piece of the timeline: its time at each count from `start` on. Up to `end` it is the timeline's; there the
/// next one begins, with the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// First count of this segment, and first of the next.
    pub(super) start: u64,
    pub(super) end: u64,
    /// Time at `start`.
    pub(super) base_ns: u64,
    /// ns per count, in units of 2^-32.
    pub(super) rate: u64,
}

/// One in [`Segment::rate`].
const RATE_ONE: f64 = 4_294_967_296.0;

/// A rate that [`Segment`] takes, of one in ns per count.
pub(super) fn rate_of(ns_per_count: f64) -> u64 {
    ((ns_per_count * RATE_ONE) as u64).max(1)
}

impl Segment {
    /// Time at `count`; counts before the start have the start's time, so that a core whose counter is a little behind
    /// another's, on whose reading the segment began, does not run back beyond it.
    #[inline]
    pub(super) fn time_ns(&self, count: u64) -> u64 {
        let counts = count.saturating_sub(self.start);
        let ns = (u128::from(counts) * u128::from(self.rate)) >> 32;
        self.base_ns.saturating_add(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// The segment after this one, of `counts`, at `rate`.
    pub(super) fn next(&self, counts: u64, rate: u64) -> Segment {
        assert!(counts > 0 && rate > 0, "a segment has a length and a rate");
        Segment { start: self.end, end: self.end.saturating_add(counts), base_ns: self.time_ns(self.end), rate }
    }
}

/// The rate for a segment of `length_ns` after which the timeline shall have made good `behind_ns` (wall clock minus
/// timeline), as far as `slew_ppm_max` allows: within the bound it lands on the wall clock and does not overshoot.
pub(super) fn slewed_rate(nominal: u64, behind_ns: i64, length_ns: u64, slew_ppm_max: u32) -> u64 {
    let bound = i128::from(slew_ppm_max.min(500_000)) * 1_000;
    // In parts per 10^9, rounded towards zero.
    let wanted = i128::from(behind_ns) * 1_000_000_000 / i128::from(length_ns.max(1));
    let slew = wanted.clamp(-bound, bound);
    let rate = i128::from(nominal) + i128::from(nominal) * slew / 1_000_000_000;
    u64::try_from(rate).unwrap_or(u64::MAX).max(1)
}
