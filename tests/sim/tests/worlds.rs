//! Worlds that are run with the other tests; `scripts/simulate` runs thousands.

use longrun_sim::plan::{Ending, Fault};
use longrun_sim::{Totals, run, run_planned};

/// Runs the seeds and fails with every seed that failed.
fn run_all(seeds: impl Iterator<Item = u64>) -> Totals {
    let mut totals = Totals::default();
    let mut failed = Vec::new();
    for seed in seeds {
        match run(seed, false) {
            Ok(outcome) => totals.add(&outcome.totals),
            Err(text) => failed.push(format!("seed {seed}: {}", text.chars().take(400).collect::<String>())),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    totals
}

#[test]
fn forty_worlds_keep_every_promise() {
    let totals = run_all(100_000..100_040);
    assert!(totals.stamped > 1000 && totals.takeovers > 30 && totals.forks > 100, "{totals}");
    assert!(totals.secondary_crashes > 0 && totals.partitions > 0 && totals.bytes_compared > 0, "{totals}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 1_000_003, 77] {
        let first = run(seed, false);
        let second = run(seed, false);
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn different_seeds_give_different_traces() {
    let traces: std::collections::BTreeSet<_> =
        (0..5).map(|seed| run(seed, false).map(|outcome| outcome.trace)).filter_map(Result::ok).collect();
    assert_eq!(traces.len(), 5);
}

#[test]
fn old_primaries_that_had_suspended_their_group_are_fenced_too() {
    // A small send buffer overflows, the primary goes on alone; the other site takes over; when the network heals the
    // primary opens no stream and sends no frame, and has to learn of the takeover all the same.
    let mut suspended = 0;
    for seed in 0..12 {
        let outcome = run_planned(seed, false, |plan| {
            plan.ending = Ending::Split;
            plan.buffer_bytes = 64 << 10;
            plan.faults = vec![Fault::Partition];
            plan.end_after = plan.ops;
        });
        suspended += outcome.unwrap_or_else(|text| panic!("seed {seed}: {text}")).totals.suspended_full;
    }
    assert!(suspended > 0, "no world overflowed");
}

#[test]
fn a_recovery_point_that_was_certified_never_shows_an_earlier_one_through_crashes_of_the_takeover() {
    for seed in 0..12 {
        let outcome = run_planned(seed, false, |plan| plan.ending = Ending::Disaster);
        outcome.unwrap_or_else(|text| panic!("seed {seed}: {text}"));
    }
}
