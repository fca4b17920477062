//! The streams' tips, and the least of them.

use crate::types::Time;

/// Tips by place, as a tournament (Knuth, The Art of Computer Programming 3, 5.4.1): one that moves costs log2(streams),
/// the least of all costs nothing. What that gives up: a stream that comes or goes has all set anew.
#[derive(Debug, Default)]
pub struct Tips {
    /// The lesser of `2n` and `2n + 1` stands at `n`; the tips from `first` on.
    nodes: Vec<Time>,
    first: usize,
}

impl Tips {
    /// These streams, at the places 0, 1, 2 and so on.
    pub fn set_all(&mut self, tips: impl ExactSizeIterator<Item = Time>) {
        self.first = tips.len().next_power_of_two();
        self.nodes.clear();
        self.nodes.resize(self.first, Time(u64::MAX));
        self.nodes.extend(tips);
        self.nodes.resize(2 * self.first, Time(u64::MAX));
        for at in (1..self.first).rev() {
            self.nodes[at] = self.lesser_below(at);
        }
    }

    /// One moved.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn set(&mut self, place: usize, tip: Time) {
        let mut at = self.first + place;
        self.nodes[at] = tip;
        while at > 1 {
            at /= 2;
            let lesser = self.lesser_below(at);
            if std::mem::replace(&mut self.nodes[at], lesser) == lesser {
                return;
            }
        }
    }

    /// The limit time: the least tip. `None` without streams.
    pub fn least(&self) -> Option<Time> {
        self.nodes.get(1).copied().filter(|least| *least < Time(u64::MAX))
    }

    fn lesser_below(&self, at: usize) -> Time {
        self.nodes[2 * at].min(self.nodes[2 * at + 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_least_is_the_least_of_all_whichever_moved(
            mut tips in proptest::collection::vec(0_u64..50, 0..40), moves in proptest::collection::vec((any::<usize>(), 0_u64..50), 0..80),
        ) {
            let mut tree = Tips::default();
            prop_assert_eq!(tree.least(), None);
            tree.set_all(tips.iter().map(|tip| Time(*tip)));
            prop_assert_eq!(tree.least(), tips.iter().min().map(|tip| Time(*tip)));
            for (place, tip) in moves.into_iter().filter(|_| !tips.is_empty()).collect::<Vec<_>>() {
                let place = place % tips.len();
                tips[place] = tip;
                tree.set(place, Time(tip));
                prop_assert_eq!(tree.least(), tips.iter().min().map(|tip| Time(*tip)));
            }
        }
    }
}
