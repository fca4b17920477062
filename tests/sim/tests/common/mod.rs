//! What tests of worlds share.

use longrun_sim::{Plan, Totals, run_planned};

/// Runs some worlds of a changed plan; all must keep their promises. Returns what they exercised.
pub fn run_some(count: u64, change: impl Fn(&mut Plan)) -> Totals {
    let mut totals = Totals::default();
    for seed in 0..count {
        let outcome = run_planned(seed, false, &change);
        totals.add(&outcome.unwrap_or_else(|text| panic!("seed {seed}: {text}")).totals);
    }
    totals
}
