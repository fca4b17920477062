//! Worlds that are run with the other tests; `scripts/simulate` runs thousands.

mod common;

use common::run_some;
use longrun_copy::stream::CHARGE_BYTES_MAX;
use longrun_copy::types::{Initial, Scope};
use longrun_sim::plan::{Ending, Fault};
use longrun_sim::{Plan, Totals, run, run_planned};

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
fn an_open_that_is_put_off_is_repeated_whenever_the_epoch_became_durable() {
    // The session is up before the epoch is durable, and the secondary still opens its journal: nobody asked again.
    let totals = run_some(10, |plan| {
        plan.ending = Ending::Quiet;
        plan.faults.clear();
        (plan.delay_ns, plan.jitter_ns, plan.meta_ns_max, plan.disk_ns_max) = (20_000, 1_000, 5_000_000, 3_000_000);
    });
    assert_eq!(totals.quiet, 10);
}

#[test]
fn what_a_killed_process_left_in_its_cache_is_durable_before_it_is_reported() {
    // Killed between a journal block's write and its flush; restarted; acknowledged; then the power goes.
    let totals = run_some(15, |plan| {
        plan.faults = vec![Fault::SecondaryCrash, Fault::SlowDisks];
        plan.faults_at_setup = false;
        plan.forks = 200;
    });
    assert!(totals.secondary_crashes > 20 && totals.forks > 100, "{totals}");
}

#[test]
fn a_stream_that_lives_on_for_another_group_does_not_move_a_point_that_is_certified() {
    let totals = run_some(12, |plan| {
        (plan.scope, plan.groups, plan.ending, plan.spill_bytes) = (Scope::System, 2, Ending::Disaster, None);
        // A pair that was never copied whole is no cut of anything, and its group's takeover is refused.
        plan.initial = Initial::Empty;
        plan.streams_max = plan.streams_max.max(8);
        plan.meta_ns_max = 5_000_000;
    });
    assert_eq!(totals.takeovers, 24);
}

#[test]
fn groups_whose_primaries_crash_one_after_the_other_stay_at_a_cut() {
    let totals = run_some(12, |plan| {
        (plan.primaries, plan.ending) = (2, Ending::Quiet);
        plan.streams_max = plan.streams_max.max(8);
        plan.receive_bytes += 4 << 20;
        plan.faults = vec![Fault::PrimaryCrash];
    });
    assert!(totals.suspended_error > 5 && totals.primary_crashes > 5, "{totals}");
}

#[test]
fn groups_of_a_secondary_that_was_down_can_be_deleted_and_created_again() {
    let totals = run_some(60, |plan| {
        plan.ending = Ending::Quiet;
        plan.buffer_bytes = 96 << 10;
        plan.faults = vec![Fault::SecondaryCrash, Fault::Partition];
    });
    assert!(totals.created_anew > 0, "{totals}");
}

#[test]
fn a_local_write_that_fails_after_its_stamp_is_repaired() {
    let totals = run_some(10, |plan| {
        plan.ending = Ending::Quiet;
        plan.faults = vec![Fault::FailedWrites];
    });
    assert!(totals.failed_writes > 10 && totals.repairs > 5, "{totals}");
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

/// Small volumes, and logs that hold a few records of them.
fn small(plan: &mut Plan) {
    (plan.block_bytes, plan.volume_blocks, plan.write_blocks_max) = (512, 64, 4);
    (plan.journal_bytes, plan.overlay_bytes) = (128 << 10, Some(256 << 10));
}

#[test]
fn journals_that_are_full_all_the_time_and_overlays_keep_every_promise() {
    let totals = run_some(12, |plan| {
        small(plan);
        plan.journal_bytes = 64 << 10;
        (plan.buffer_bytes, plan.faults) = (96 << 10, vec![Fault::Partition, Fault::SecondaryCrash]);
    });
    assert!(totals.half_full > 0 && totals.overlaid > 0 && totals.units > 0, "{totals}");
}

#[test]
fn spills_that_are_full_and_spills_of_a_primary_that_crashed_keep_every_promise() {
    let totals = run_some(16, |plan| {
        small(plan);
        (plan.scope, plan.spill_bytes, plan.buffer_bytes) = (Scope::Group, Some(64 << 10), 64 << 10);
        plan.faults = vec![Fault::Partition, Fault::PrimaryCrash];
    });
    assert!(totals.spilling > 0 && totals.spill_full > 0, "{totals}");
}

#[test]
fn two_sites_that_swap_and_fail_back_again_and_again_hold_the_same_and_what_hosts_were_told() {
    let totals = run_some(12, |plan| {
        small(plan);
        (plan.ending, plan.primaries, plan.initial, plan.apply_delay_ns) = (Ending::Exchange, 1, Initial::Identical, 0);
        plan.groups = if plan.scope == Scope::System { 1 } else { plan.groups };
        plan.faults = vec![Fault::Partition, Fault::FailedWrites];
    });
    assert!(totals.swaps > 3 && totals.failbacks > 2 && totals.exchange_crashes > 5, "{totals}");
}

#[test]
fn groups_that_share_a_stream_leave_nothing_behind_when_they_are_deleted() {
    // The stream was closed while one of them was being forgotten, and that was written down behind its end.
    let totals = run_some(60, |plan| {
        small(plan);
        (plan.ending, plan.scope, plan.groups, plan.ops) = (Ending::Quiet, Scope::System, 2, 60);
        (plan.initial, plan.primaries, plan.spill_bytes) = (Initial::Identical, 1, None);
        (plan.faults, plan.forks) = (Vec::new(), 2);
    });
    assert!(totals.created_anew > 2, "{totals}");
}

#[test]
fn spills_of_several_streams_do_not_make_them_wait_for_each_other() {
    let totals = run_some(20, |plan| {
        small(plan);
        (plan.ending, plan.scope, plan.pairs_per_primary) = (Ending::Quiet, Scope::Pair, 2);
        // Room for one largest record of every stream that may be, or there is none for a copy of these.
        plan.receive_bytes += 8u64.saturating_sub(plan.streams_max as u64) * CHARGE_BYTES_MAX;
        plan.streams_max = plan.streams_max.max(8);
        (plan.spill_bytes, plan.buffer_bytes, plan.faults) = (Some(256 << 10), 64 << 10, Vec::new());
    });
    assert!(totals.spilling > 0, "{totals}");
}

#[test]
fn a_pair_that_grew_is_a_cut_over_its_whole_new_size_whatever_fails_meanwhile() {
    let totals = run_some(24, |plan| {
        small(plan);
        (plan.grows, plan.initial) = (true, Initial::Identical);
        (plan.ending, plan.faults) =
            (Ending::Quiet, vec![Fault::Partition, Fault::PrimaryRestart, Fault::SecondaryCrash]);
    });
    assert!(totals.grown > 10 && totals.resized > 5, "{totals}");
}

#[test]
fn a_verify_lists_exactly_what_was_altered_and_after_a_repair_nothing_is() {
    let totals = run_some(24, |plan| {
        (plan.verifies, plan.initial, plan.ending) = (true, Initial::Identical, Ending::Quiet);
        plan.faults = vec![Fault::Partition, Fault::SecondaryCrash, Fault::BadDisks];
    });
    assert!(totals.altered > 100 && totals.verified > 50 && totals.verified_differing > 50, "{totals}");
}

#[test]
fn a_view_is_the_image_at_its_time_for_its_whole_life_and_its_writes_never_reach_the_copy() {
    let totals = run_some(24, |plan| {
        (plan.views, plan.initial, plan.ops) = (true, Initial::Identical, 300);
        plan.faults = vec![Fault::Partition, Fault::SlowDisks];
    });
    assert!(totals.views > 20 && totals.view_reads > 200 && totals.view_writes > 50, "{totals}");
}
