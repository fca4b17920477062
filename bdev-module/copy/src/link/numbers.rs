//! Sets of packet numbers: what was seen (against replays) and what is to be acknowledged.

use std::collections::VecDeque;

/// How many numbers below the highest one are told apart. Beyond, everything counts as seen: at a million datagrams per
/// second a datagram may be 16 ms late.
pub(crate) const REPLAY_WINDOW_PACKETS: u64 = 16 * 1024;

const WORDS: usize = REPLAY_WINDOW_PACKETS as usize / 64;

/// Which packet numbers were seen in this session. 2 KiB, constant.
pub(crate) struct ReplayWindow {
    /// One more than the highest number seen.
    end: u64,
    /// Bit n % window of the last `REPLAY_WINDOW_PACKETS` numbers below `end`.
    seen: Box<[u64; WORDS]>,
}

impl ReplayWindow {
    pub(crate) fn new() -> ReplayWindow {
        ReplayWindow { end: 0, seen: Box::new([0; WORDS]) }
    }

    fn place(packet: u64) -> (usize, u64) {
        let bit = packet % REPLAY_WINDOW_PACKETS;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    /// Whether the number may be new. Cheap, and says nothing about whether the datagram is genuine.
    pub(crate) fn may_be_new(&self, packet: u64) -> bool {
        if packet >= self.end {
            return packet < u64::MAX;
        }
        let (word, bit) = Self::place(packet);
        self.end - packet <= REPLAY_WINDOW_PACKETS && self.seen[word] & bit == 0
    }

    /// Marks the number of a genuine datagram; false if it was seen before. Only after authentication: a forged number
    /// would push the window forward and shut the true ones out.
    pub(crate) fn mark(&mut self, packet: u64) -> bool {
        if !self.may_be_new(packet) {
            return false;
        }
        if packet >= self.end {
            if packet - self.end >= REPLAY_WINDOW_PACKETS {
                self.seen.fill(0);
            } else {
                for skipped in self.end..packet {
                    let (word, bit) = Self::place(skipped);
                    self.seen[word] &= !bit;
                }
            }
            self.end = packet + 1;
        }
        let (word, bit) = Self::place(packet);
        self.seen[word] |= bit;
        true
    }
}

/// Ranges that are kept; the lowest goes when there is one more. Its numbers are then sent again, for nothing.
pub(crate) const RANGES_MAX: usize = 1024;

/// Packet numbers to acknowledge, as disjoint ranges that do not touch, highest first.
#[derive(Default)]
pub(crate) struct RangeSet {
    /// (lowest, highest), both inclusive.
    ranges: VecDeque<(u64, u64)>,
}

impl RangeSet {
    /// Adds a number.
    pub(crate) fn insert(&mut self, packet: u64) {
        // Numbers come nearly in order: the place is at or near the front.
        let mut at = 0;
        while let Some(&(low, high)) = self.ranges.get(at) {
            if packet > high.saturating_add(1) {
                break;
            }
            if packet >= low {
                if packet > high {
                    self.ranges[at].1 = packet;
                    self.join(at);
                }
                return;
            }
            if packet.checked_add(1) == Some(low) {
                self.ranges[at].0 = packet;
                if at + 1 < self.ranges.len() {
                    self.join(at + 1);
                }
                return;
            }
            at += 1;
        }
        self.ranges.insert(at, (packet, packet));
        if self.ranges.len() > RANGES_MAX {
            self.ranges.pop_back();
        }
    }

    /// Joins the range at `at` with the one above it if they touch.
    fn join(&mut self, at: usize) {
        if at > 0 && self.ranges[at].1 + 1 == self.ranges[at - 1].0 {
            self.ranges[at - 1].0 = self.ranges[at].0;
            self.ranges.remove(at);
        }
    }

    /// Forgets every number below `floor`.
    pub(crate) fn forget_below(&mut self, floor: u64) {
        while let Some(lowest) = self.ranges.back_mut() {
            if lowest.1 < floor {
                self.ranges.pop_back();
            } else {
                lowest.0 = lowest.0.max(floor);
                return;
            }
        }
    }

    /// (lowest, highest), highest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().copied()
    }

    /// The highest number.
    pub(crate) fn highest(&self) -> Option<u64> {
        self.ranges.front().map(|range| range.1)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn the_replay_window_lets_each_number_in_once_and_none_from_below(
            packets in proptest::collection::vec(0u64..3 * REPLAY_WINDOW_PACKETS, 0..400),
        ) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            for packet in packets {
                let highest = seen.last().copied().unwrap_or(0);
                let old = packet + REPLAY_WINDOW_PACKETS <= highest;
                let fresh = !seen.contains(&packet) && !old;
                prop_assert_eq!(window.may_be_new(packet), fresh);
                prop_assert_eq!(window.mark(packet), fresh);
                prop_assert!(!window.mark(packet));
                if fresh {
                    seen.insert(packet);
                }
            }
        }

        #[test]
        fn ranges_hold_exactly_the_numbers_that_were_put_in(
            packets in proptest::collection::vec(0u64..300, 0..300), floor in 0u64..300,
        ) {
            let mut ranges = RangeSet::default();
            let mut model = BTreeSet::new();
            for packet in packets {
                ranges.insert(packet);
                model.insert(packet);
                let flat: Vec<u64> = ranges.iter().flat_map(|(low, high)| (low..=high).rev()).collect();
                prop_assert_eq!(&flat, &model.iter().rev().copied().collect::<Vec<_>>());
            }
            ranges.forget_below(floor);
            let flat: BTreeSet<u64> = ranges.iter().flat_map(|(low, high)| low..=high).collect();
            prop_assert_eq!(flat, model.range(floor..).copied().collect::<BTreeSet<_>>());
            let spans: Vec<_> = ranges.iter().collect();
            prop_assert!(spans.windows(2).all(|pair| pair[0].0 > pair[1].1 + 1), "ranges touch: {:?}", spans);
        }
    }

    #[test]
    fn the_set_of_ranges_is_bounded() {
        let mut ranges = RangeSet::default();
        for packet in 0..4 * RANGES_MAX as u64 {
            ranges.insert(packet * 2);
        }
        assert_eq!(ranges.len(), RANGES_MAX);
        assert_eq!(ranges.highest(), Some(8 * RANGES_MAX as u64 - 2));
    }
}
