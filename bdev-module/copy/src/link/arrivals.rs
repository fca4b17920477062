//! What came and is not noted yet, because it is not known whether a data frame before it is kept.
//!
//! A group at home on another core says later whether it keeps a frame ([`Verdict::Later`](super::Verdict)). Whatever comes
//! behind such a frame waits with it, so that acknowledgements name packets in the order in which they came: a packet noted
//! before one that merely waits would look to the sender as if that one were lost.

use std::collections::VecDeque;

/// Datagrams that wait at most; one more is dropped unheard and comes again.
const WAITING_MAX: usize = 64 << 10;

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not known yet.
    Open,
    /// To be acknowledged; whether the sender waits for that.
    Noted { eliciting: bool },
    /// Not kept: it is as if it had not come.
    Dropped,
}

/// The datagrams of one session that wait, as they came.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    waiting: VecDeque<(u64, Fate)>,
    /// Number of the first that waits. They are counted from the session's beginning.
    first: u64,
}

impl Arrivals {
    /// Nothing waits: what comes is noted at once.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// As many wait as there may be.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// The number that the next datagram gets.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.waiting.len() as u64
    }

    /// A packet waits.
    pub(crate) fn push(&mut self, packet: u64, fate: Fate) {
        self.waiting.push_back((packet, fate));
    }

    /// What becomes of a datagram that waits. A number that is none of these is passed over.
    pub(crate) fn settle(&mut self, number: u64, fate: Fate) -> bool {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        match at.and_then(|at| self.waiting.get_mut(at)) {
            Some((_, open @ Fate::Open)) => {
                *open = fate;
                true
            }
            _ => false,
        }
    }

    /// The next that waits for nothing any more: its packet, and its fate.
    pub(crate) fn pop(&mut self) -> Option<(u64, Fate)> {
        let next = self.waiting.pop_front_if(|(_, fate)| *fate != Fate::Open)?;
        self.first += 1;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_behind_an_open_frame_is_noted_behind_it() {
        let mut arrivals = Arrivals::default();
        let first = arrivals.next();
        arrivals.push(7, Fate::Open);
        arrivals.push(8, Fate::Noted { eliciting: true });
        let third = arrivals.next();
        arrivals.push(6, Fate::Open);
        assert_eq!(arrivals.pop(), None);
        assert!(arrivals.settle(third, Fate::Dropped));
        assert_eq!(arrivals.pop(), None);
        assert!(arrivals.settle(first, Fate::Noted { eliciting: true }));
        let popped: Vec<_> = std::iter::from_fn(|| arrivals.pop()).collect();
        assert_eq!(
            popped,
            [(7, Fate::Noted { eliciting: true }), (8, Fate::Noted { eliciting: true }), (6, Fate::Dropped)]
        );
        assert!(arrivals.is_empty() && !arrivals.settle(first, Fate::Dropped) && !arrivals.settle(99, Fate::Dropped));
        assert_eq!(arrivals.next(), 3);
    }
}
