//! The send buffer: how much may be stamped and not yet known to be durable at the secondary, and how hosts are slowed
//! before it is full.

use crate::spill::link_share_bytes;
use crate::types::{GroupId, StreamId};

/// Whose records count against one send buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BudgetKey {
    /// A group's own streams.
    Group(GroupId),
    /// A stream that several groups feed (scope `system`).
    Shared(StreamId),
}

/// A send buffer. In bytes of [`crate::types::RecordHead::charge_bytes`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    pub limit_bytes: u64,
    used_bytes: u64,
    nearly_full: bool,
    /// A part of it is kept for copies.
    pub is_copying: bool,
    /// Of what is used, what copies use.
    copies_bytes: u64,
    /// Room for copies that are being read.
    reserved_bytes: u64,
}

/// The share that host writes do not take while there is something to copy: else a busy host would starve a resync.
const COPIES_PART: u64 = 4;
/// A copy's bytes at most.
const PIECE_BYTES_MAX: u64 = 256 << 10;

/// Above this share hosts' answers are held back.
const RAMP_FROM_PERCENT: u64 = 50;
/// From this share on the pair shows PFUL ...
const NEARLY_FULL_PERCENT: u64 = 80;
/// ... until the share is below this one, so that the state does not flicker.
const NO_LONGER_FULL_PERCENT: u64 = 70;

impl Budget {
    /// Takes the links' word for what is kept.
    pub fn set_used(&mut self, used_bytes: u64) {
        self.used_bytes = used_bytes;
        let percent = if self.nearly_full { NO_LONGER_FULL_PERCENT } else { NEARLY_FULL_PERCENT };
        self.nearly_full = self.reaches(percent);
    }

    /// Counts a record that was just pushed.
    pub fn add(&mut self, bytes: u64) {
        self.set_used(self.used_bytes.saturating_add(bytes));
    }

    /// Records of this charge are not kept any more.
    pub fn gone(&mut self, bytes: u64) {
        self.set_used(self.used_bytes.saturating_sub(bytes));
    }

    /// Whether a host's record of this charge still goes in.
    pub fn holds(&self, bytes: u64) -> bool {
        let all = self.used_bytes.saturating_add(self.reserved_bytes).saturating_add(bytes);
        let hosts = self.used_bytes.saturating_sub(self.copies_bytes).saturating_add(bytes);
        let kept = if self.is_copying { self.limit_bytes / COPIES_PART } else { 0 };
        all <= self.limit_bytes && hosts <= self.limit_bytes - kept
    }

    /// Takes room for a copy of this charge, if there is: in the copies' share, or for a single one anywhere.
    #[must_use]
    pub fn reserve(&mut self, bytes: u64) -> bool {
        let copies = self.copies_bytes + self.reserved_bytes;
        // Outside of a resync hosts may have more than their share: *a first copy began, and the buffer held more than it
        // may*.
        let all = self.used_bytes.saturating_add(self.reserved_bytes).saturating_add(bytes);
        let in_share = copies == 0 || copies.saturating_add(bytes) <= self.limit_bytes / COPIES_PART;
        if all <= self.limit_bytes && in_share {
            self.reserved_bytes += bytes;
            return true;
        }
        false
    }

    /// Gives reserved room back.
    pub fn unreserve(&mut self, bytes: u64) {
        self.reserved_bytes -= bytes;
    }

    /// Of what [`Budget::add`] counted, this is a copy.
    pub fn copy_pushed(&mut self, bytes: u64) {
        self.copies_bytes += bytes;
    }

    /// Copies are not kept any more.
    pub fn copies_gone(&mut self, bytes: u64) {
        self.copies_bytes -= bytes;
    }

    /// How much one copy reads at most, so that some fit into the share.
    pub fn piece_bytes(&self) -> u64 {
        (self.limit_bytes / COPIES_PART / 2).clamp(4096, PIECE_BYTES_MAX) / 4096 * 4096
    }

    /// Whether it holds more than the link's share.
    pub fn exceeds_link_share(&self) -> bool {
        self.used_bytes > link_share_bytes(self.limit_bytes)
    }

    /// Whether the pair shows PFUL.
    pub fn is_nearly_full(&self) -> bool {
        self.nearly_full
    }

    /// How long an answer is held back: nothing up to half, then with the square of the share beyond it, up to
    /// `throttle_ns_max` when full. The square leaves the first tenths nearly free and has no step anywhere.
    pub fn delay_ns(&self, throttle_ns_max: u64) -> u64 {
        let (used, limit) = (u128::from(self.used_bytes), u128::from(self.limit_bytes));
        let from = limit * u128::from(RAMP_FROM_PERCENT) / 100;
        if used <= from {
            return 0;
        }
        let (over, span) = ((used - from).min(limit - from), limit - from);
        // In millionths, so that the square fits whatever the limit.
        let share = over * 1_000_000 / span.max(1);
        (u128::from(throttle_ns_max) * share * share / 1_000_000_000_000) as u64
    }

    /// What it holds.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    #[cfg(test)]
    pub fn is_free(&self) -> bool {
        (self.used_bytes, self.copies_bytes, self.reserved_bytes) == (0, 0, 0)
    }

    fn reaches(&self, percent: u64) -> bool {
        u128::from(self.used_bytes) * 100 >= u128::from(self.limit_bytes) * u128::from(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(used: u64) -> Budget {
        let mut budget = Budget { limit_bytes: 1000, ..Budget::default() };
        budget.set_used(used);
        budget
    }

    #[test]
    fn the_ramp_is_flat_up_to_half_then_rises_without_a_step_to_the_maximum() {
        assert_eq!(filled(500).delay_ns(1_000_000), 0);
        assert_eq!(filled(1000).delay_ns(1_000_000), 1_000_000);
        assert_eq!(filled(5000).delay_ns(1_000_000), 1_000_000);
        let mut before = 0;
        for used in 0..=1000 {
            let delay = filled(used).delay_ns(1_000_000);
            assert!(delay >= before && delay - before <= 4_000, "a step at {used}: {before} -> {delay}");
            before = delay;
        }
        assert_eq!(filled(750).delay_ns(1_000_000), 250_000);
    }

    #[test]
    fn nearly_full_begins_at_80_percent_and_ends_below_70() {
        let mut budget = filled(799);
        assert!(!budget.is_nearly_full());
        budget.add(1);
        assert!(budget.is_nearly_full());
        budget.set_used(700);
        assert!(budget.is_nearly_full());
        budget.set_used(699);
        assert!(!budget.is_nearly_full());
        budget.set_used(799);
        assert!(!budget.is_nearly_full());
    }

    #[test]
    fn copies_have_a_quarter_of_their_own_that_hosts_do_not_take() {
        let mut budget = filled(0);
        budget.is_copying = true;
        assert!(budget.holds(750) && !budget.holds(751));
        assert!(budget.reserve(200) && budget.reserve(50) && !budget.reserve(1));
        assert!(budget.holds(750), "what copies have is not the hosts' loss");
        budget.unreserve(250);
        budget.add(250);
        budget.copy_pushed(250);
        assert!(budget.holds(750) && !budget.holds(751) && !budget.reserve(1));
        budget.set_used(0);
        budget.copies_gone(250);
        assert!(budget.reserve(900), "one that is larger than the share still gets through");
        assert!(!budget.holds(200));
    }

    #[test]
    fn copies_and_hosts_together_never_have_more_than_the_buffer() {
        let mut budget = filled(0);
        assert!(budget.reserve(200));
        budget.unreserve(200);
        budget.add(200);
        budget.copy_pushed(200);
        budget.add(780);
        assert!(!budget.reserve(21), "hosts have more than their share while nothing is resynced");
        assert!(budget.reserve(20));
        assert!(!budget.holds(1));
    }

    #[test]
    fn a_record_goes_in_up_to_the_last_byte() {
        assert!(filled(900).holds(100));
        assert!(!filled(900).holds(101));
        assert!(!filled(0).holds(u64::MAX));
    }
}
