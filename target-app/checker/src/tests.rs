//! The judge against copies that are right, copies that are broken in known ways, and the issue's own words as a program.

mod blocks;
mod broken;
mod model;
mod world;

#[test]
fn every_honest_cut_of_a_simulated_history_passes() {
    for seed in 0..400 {
        let world = world::World::new(seed, 300);
        for part in 1..=4 {
            let cut = world.stamp_at(part as f64 / 4.0);
            let verdict = world.judge_copy(cut, &world.replay(|w| w.stamp <= cut));
            assert!(
                verdict.failures.iter().all(|f| *f == crate::Failure::Vacuous),
                "seed {seed} part {part}: {:?}",
                verdict.failures
            );
            assert!(part < 4 || verdict.order_closed, "seed {seed}: vacuous at its end");
            assert_eq!(
                verdict.writes_acknowledged,
                verdict.writes_on_secondary + verdict.lost_after_recovery_point,
                "seed {seed}"
            );
        }
    }
}

#[test]
fn a_million_writes_on_sixteen_volumes_are_judged_in_seconds() {
    let world = world::World::sized(7, 16, 4096, 1_000_000);
    let cut = world.stamp_at(0.99);
    let (history, ids) = world.history();
    let image = world.replay(|w| w.stamp <= cut).image(&ids);
    let begun = std::time::Instant::now();
    let verdict = crate::judge(&history, &image, &world.cut(cut));
    assert!(verdict.order_closed, "{:?}", verdict.failures);
    assert!(verdict.constraints_checked > 1_400_000, "{}", verdict.constraints_checked);
    // Seconds where O(n^2) would take the better part of an hour; wide for a machine busy with other tests.
    assert!(begun.elapsed().as_secs() < 60, "took {:?}", begun.elapsed());
}
