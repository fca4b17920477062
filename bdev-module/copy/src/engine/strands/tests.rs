use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

fn tied(outcome: &Outcome) -> Option<&[u64]> {
    outcome.tied.as_deref()
}

#[test]
fn a_session_of_the_link_is_one_of_each_strand_and_ends_with_the_first_that_does() {
    let mut knot = Knot::new(3);
    assert_eq!(knot.up(0, 1, 0), Outcome::default());
    assert_eq!(knot.up(2, 1, 0), Outcome::default());
    assert_eq!(tied(&knot.up(1, 4, 0)), Some(&[1, 4, 1][..]));
    let ended = knot.down(2);
    assert!(ended.is_loose && ended.tied.is_none());
    // The others have to end; the one that did hears of the round.
    assert_eq!(ended.end, [(0, 1), (1, 4), (2, NO_SESSION)]);
    assert_eq!(knot.round, 1);
    // These ends are no news.
    assert_eq!((knot.down(0), knot.down(1)), (Outcome::default(), Outcome::default()));
    // It was agreed on before the peer heard of the round: it is of no use.
    assert_eq!(knot.up(2, 2, 0).end, [(2, 2)]);
    assert_eq!(knot.up(0, 2, 1), Outcome::default());
    assert_eq!(knot.up(1, 5, 1), Outcome::default());
    assert_eq!(tied(&knot.up(2, 3, 1)), Some(&[2, 5, 3][..]));
}

#[test]
fn a_strand_of_a_later_round_ends_the_session_without_beginning_another_round() {
    let mut knot = Knot::new(2);
    knot.up(0, 1, 0);
    knot.up(1, 1, 0);
    let later = knot.up(1, 2, 7);
    assert!(later.is_loose && later.tied.is_none());
    assert_eq!((later.end[0], knot.round), ((0, 1), 7));
    assert_eq!(tied(&knot.up(0, 2, 7)), Some(&[2, 2][..]));
}

#[test]
fn a_strand_brings_the_streams_that_were_opened_for_it_in_the_session_that_is_tied() {
    let (sent, received) = (BTreeMap::new(), BTreeMap::from([(StreamId(7), 1)]));
    let strands = vec![LinkId(0), LinkId(1)];
    let mut several = Several { strands, sessions: vec![3, 5], begins_with: 1, sent, received, knot: None };
    assert!(several.brings(1, 5, StreamId(7)));
    // An earlier session of the strand, another strand, and a stream that nobody opened.
    assert!(!several.brings(1, 4, StreamId(7)));
    assert!(!several.brings(0, 3, StreamId(7)));
    assert!(!several.brings(1, 5, StreamId(8)));
    assert_eq!(several.answers(StreamId(7)), Some((LinkId(1), Some(5))));
    // Streams are dealt to where there are fewest, from this core's own on.
    let dealt: Vec<u8> = (0..4).map(|stream| several.strand(StreamId(stream))).collect();
    assert_eq!(dealt, [1, 0, 1, 0]);
    several.no_longer_sends(StreamId(1));
    assert_eq!(several.strand(StreamId(9)), 0);
    several.sessions.clear();
    assert!(!several.brings(1, 5, StreamId(7)));
    assert_eq!(several.answers(StreamId(7)), Some((LinkId(1), Some(NO_SESSION))));
}

/// One end of a strand, and what is under way between it and its knot.
#[derive(Default)]
struct Side {
    round: u64,
    session: Option<u64>,
    /// `None`: it ended.
    news: VecDeque<Option<(u64, u64)>>,
    orders: VecDeque<(u64, u64)>,
}

impl Side {
    fn end(&mut self) {
        if self.session.take().is_some() {
            self.news.push_back(None);
        }
    }
}

/// Two systems and the strands between them.
struct Systems {
    strands: Vec<[Side; 2]>,
    knots: [Knot; 2],
    sessions: u64,
    tied: [Option<Vec<u64>>; 2],
    used: [BTreeSet<u64>; 2],
}

impl Systems {
    fn new(strands: usize) -> Systems {
        Systems {
            strands: (0..strands).map(|_| Default::default()).collect(),
            knots: [Knot::new(strands), Knot::new(strands)],
            sessions: 0,
            tied: [None, None],
            used: Default::default(),
        }
    }

    /// Whether something could be done on this strand: a handshake, a word on its way, an order.
    fn step(&mut self, strand: usize, what: usize) -> bool {
        let (side, kind) = (what % 2, what / 2 % 3);
        let sides = &mut self.strands[strand];
        match kind {
            0 if sides.iter().any(|side| side.session.is_none()) => {
                self.sessions += 1;
                let round = sides[0].round.max(sides[1].round);
                for side in sides {
                    side.end();
                    side.round = round;
                    side.session = Some(self.sessions);
                    side.news.push_back(Some((self.sessions, round)));
                }
                true
            }
            1 => {
                let Some(news) = sides[side].news.pop_front() else { return false };
                let outcome = match news {
                    Some((session, round)) => self.knots[side].up(strand, session, round),
                    None => self.knots[side].down(strand),
                };
                self.act(side, outcome);
                true
            }
            2 => {
                let Some((session, round)) = sides[side].orders.pop_front() else { return false };
                sides[side].round = sides[side].round.max(round);
                if sides[side].session == Some(session) {
                    sides[side].end();
                }
                true
            }
            _ => false,
        }
    }

    fn act(&mut self, side: usize, outcome: Outcome) {
        assert!(!outcome.is_loose || self.tied[side].take().is_some(), "what was not tied comes loose");
        for (strand, session) in outcome.end {
            self.strands[strand][side].orders.push_back((session, self.knots[side].round));
        }
        if let Some(sessions) = outcome.tied {
            assert!(self.tied[side].is_none(), "tied twice");
            for session in &sessions {
                assert!(self.used[side].insert(*session), "session {session} is part of two of the link's");
            }
            self.tied[side] = Some(sessions);
        }
    }

    /// Nothing is lost from here on: everything that can be done is done in turn.
    fn settle(&mut self) {
        for _ in 0..400 {
            let mut moved = false;
            for strand in 0..self.strands.len() {
                for what in 0..6 {
                    moved |= self.step(strand, what);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("sessions end each other for ever");
    }
}

proptest! {
    #[test]
    fn whatever_is_lost_and_however_late_all_is_heard_both_sides_end_up_in_the_same_session(
        strands in 2usize..5,
        steps in prop::collection::vec((0usize..4, 0usize..8), 0..200),
    ) {
        let mut systems = Systems::new(strands);
        for (strand, what) in steps {
            match what {
                // One end gives up, and the other does not know.
                6 | 7 => systems.strands[strand % strands][what - 6].end(),
                _ => _ = systems.step(strand % strands, what),
            }
        }
        systems.settle();
        let [ours, theirs] = &systems.tied;
        prop_assert!(ours.is_some());
        prop_assert_eq!(ours, theirs);
    }
}
