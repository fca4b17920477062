//! What worlds found and what was mended since, each by the sentence that it proves now, in worlds that are made for it.

mod common;

use common::run_some;
use longrun_copy::types::Initial;
use longrun_sim::plan::{Ending, Fault};
use longrun_sim::{Totals, run_planned};

#[test]
fn a_pair_that_is_to_be_copied_counts_only_when_it_was() {
    let totals = run_some(30, |plan| {
        (plan.initial, plan.primaries) = (Initial::Copy, 1);
        (plan.faults, plan.faults_at_setup) = (vec![Fault::SecondaryCrash], true);
        plan.forks = 200;
    });
    assert!(totals.never_consistent > 0, "{totals}");
}

#[test]
fn a_takeover_never_goes_to_a_point_inside_of_a_resync() {
    let mut totals = Totals::default();
    for seed in 0..8 {
        let outcome = run_planned(seed, false, |plan| {
            plan.initial = Initial::Identical;
            (plan.apply_delay_ns, plan.buffer_bytes, plan.forks) = (300_000_000, 96 << 10, 100);
            plan.faults = vec![Fault::Partition];
        });
        totals.add(&outcome.unwrap_or_else(|text| panic!("seed {seed}: {text}")).totals);
    }
    assert!(totals.units > 0 && totals.chosen_points > 0, "{totals}");
}

#[test]
fn the_lag_of_a_resync_counts_from_its_image() {
    let totals = run_some(60, |plan| {
        (plan.ending, plan.primaries) = (Ending::Quiet, 1);
        plan.faults = vec![Fault::Partition, Fault::Operators];
    });
    assert!(totals.resyncs > 0, "{totals}");
}

#[test]
fn a_suspension_in_the_middle_of_a_resync_is_not_drained() {
    let totals = run_some(60, |plan| {
        (plan.ending, plan.primaries) = (Ending::Quiet, 1);
        plan.faults = vec![Fault::Partition, Fault::Operators, Fault::FailedWrites];
    });
    assert!(totals.operator_suspensions > 0, "{totals}");
}

#[test]
fn an_apply_delay_does_not_keep_the_pairs_of_a_suspended_group() {
    let totals = run_some(40, |plan| {
        (plan.ending, plan.apply_delay_ns, plan.buffer_bytes) = (Ending::Quiet, 500_000_000, 96 << 10);
        plan.faults = vec![Fault::Partition, Fault::Operators];
    });
    assert!(totals.created_anew > 0, "{totals}");
}

#[test]
fn rot_in_a_journal_never_leaves_volumes_that_are_no_cut() {
    let totals = run_some(60, |plan| {
        plan.faults = vec![Fault::BitRot, Fault::SecondaryCrash];
    });
    assert!(totals.rotten > 0 && totals.failed_groups > 0, "{totals}");
}

#[test]
fn groups_that_overflow_again_and_again_come_back_by_themselves() {
    let mut totals = Totals::default();
    for seed in 0..12 {
        let outcome = run_planned(seed, false, |plan| {
            (plan.ending, plan.buffer_bytes) = (Ending::Quiet, 96 << 10);
            plan.faults = vec![Fault::Partition, Fault::PrimaryCrash, Fault::SecondaryCrash];
        });
        totals.add(&outcome.unwrap_or_else(|text| panic!("seed {seed}: {text}")).totals);
    }
    assert!(totals.resyncs > 3 && totals.units > 3 && totals.copies > 10, "{totals}");
}

/// Runs the worlds of these seeds as they are drawn; all must keep their promises.
fn drawn(seeds: &[u64]) -> Totals {
    let mut totals = Totals::default();
    for seed in seeds {
        let outcome = run_planned(*seed, false, |_| ());
        totals.add(&outcome.unwrap_or_else(|text| panic!("seed {seed}: {text}")).totals);
    }
    totals
}

#[test]
fn what_a_crash_took_from_both_sites_is_part_of_the_history_though_the_resync_stamps_nothing() {
    let totals = drawn(&[5913]);
    assert!(totals.primary_crashes > 0 && totals.resyncs > 0, "{totals}");
}

#[test]
fn a_mark_outlasts_the_record_that_is_under_way_while_the_secondary_is_asked() {
    assert!(drawn(&[4149]).marks_checked > 0);
}

#[test]
fn groups_of_one_stream_show_the_lag_of_a_drain_that_came_to_nothing() {
    assert!(drawn(&[5555]).operator_suspensions > 0);
}

#[test]
fn a_first_copy_ends_by_itself_beside_the_resync_of_another_primary() {
    assert!(drawn(&[5275]).copies > 0);
}

#[test]
fn rot_during_a_takeover_may_give_an_earlier_cut_and_a_resync_keeps_a_quarter_of_the_buffer() {
    assert!(drawn(&[4717, 4779, 5019]).rotten > 0);
}
