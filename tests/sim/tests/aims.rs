//! Worlds that are directed at one cell of the table of states and faults.

use longrun_sim::coverage::{Coverage, Hit, State, cell, hardest, impossible};
use longrun_sim::run_aimed;

/// How often the cell was reached in so many worlds that are directed at it.
fn reached(state: State, hit: Hit, worlds: u64) -> u64 {
    let of = |seed: u64| {
        let outcome = run_aimed(500_000 + seed, false, state, hit);
        outcome.unwrap_or_else(|text| panic!("seed {}: {text}", 500_000 + seed)).coverage.of(state, hit)
    };
    (0..worlds).map(of).sum()
}

#[test]
fn a_directed_world_reaches_its_cell() {
    for (state, hit) in
        [(State::HandingOver, Hit::LastingNoSpace), (State::Fenced, Hit::NoSpace), (State::Failed, Hit::Gone)]
    {
        assert!(reached(state, hit, 40) > 0, "{} x {}", state.name(), hit.name());
    }
}

#[test]
fn no_world_is_directed_at_a_cell_that_cannot_be() {
    for (state, hit) in hardest() {
        assert_eq!(impossible(state, hit), None, "{} x {}", state.name(), hit.name());
    }
}

#[test]
#[should_panic(expected = "PAIR x rot cannot be")]
fn that_an_impossible_cell_is_reached_fails_the_world_that_did() {
    Coverage::default().count(State::Pair, Hit::BitRot);
}

#[test]
fn a_cell_is_found_by_the_name_that_the_table_gives_it() {
    assert_eq!(cell("secondary unit, overlay x NOSPC."), Ok((State::Overlaid, Hit::LastingNoSpace)));
    assert!(cell("fenced").unwrap_err().contains("as in"));
    assert!(cell("fenced x smoke").unwrap_err().contains("NOSPC"));
    assert!(cell("nowhere x EIO").unwrap_err().contains("takeover seal"));
    assert!(cell("PAIR x rot").unwrap_err().contains("cannot be"));
}
