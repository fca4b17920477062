//! A primary whose memory for records in transit is not enough: the spill holds what follows.

use longrun_rpc::methods::group::GroupInfo;
use longrun_rpc::methods::pair::PairState;
use longrun_rpc::methods::spill::SpillState;
use longrun_tests::load::{Load, read_back};
use longrun_tests::process::eventually;
use longrun_tests::sites::{Options, Sites, assert_closed, group};
use serde_json::json;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const BUFFER_BYTES: u64 = 4 * MIB;

fn paired(at_primary: serde_json::Value) -> Sites {
    let options = Options { buffer_bytes: BUFFER_BYTES, spill_bytes: 128 * MIB, at_primary, ..Options::default() };
    let sites = Sites::paired(&options);
    let shown = group(&sites.primary).spill.expect("a group with a spill shows it");
    assert_eq!((shown.device.as_str(), shown.state, shown.records, shown.reason), ("spill", SpillState::Idle, 0, None));
    sites
}

/// Cuts the link and waits until more is spilled than memory could hold.
fn spill(sites: &Sites, load: &Load) -> GroupInfo {
    load.wait_for_writes(100);
    sites.relay.cut();
    let shown = eventually("the spill", PATIENCE, || {
        let group = group(&sites.primary);
        let spilled = group.spill.as_ref().is_some_and(|spill| spill.bytes > 2 * BUFFER_BYTES);
        if spilled { Ok(group) } else { Err(format!("{group:?}")) }
    });
    let spill = shown.spill.as_ref().unwrap();
    assert_eq!((shown.state, spill.state), (PairState::Pair, SpillState::Spilling), "{shown:?}");
    assert!(spill.used_bytes > BUFFER_BYTES && spill.used_bytes < spill.limit_bytes && spill.records > 0, "{spill:?}");
    // What waits there is part of the lag.
    assert!(shown.lag.bytes >= Some(spill.bytes) && shown.lag.records >= Some(spill.records), "{shown:?}");
    shown
}

#[test]
fn what_memory_cannot_hold_waits_in_the_spill_and_the_copy_catches_up_without_a_resync() {
    let mut sites = paired(json!({}));
    let observer = sites.observe_primary();
    let load = sites.load(8 * MIB, 71);
    for _ in 0..2 {
        let before = spill(&sites, &load);
        sites.relay.mend();
        eventually("the spill to be empty", PATIENCE, || {
            let group = group(&sites.primary);
            let idle = group.spill.as_ref().is_some_and(|spill| (spill.state, spill.records) == (SpillState::Idle, 0));
            if idle { Ok(()) } else { Err(format!("{group:?}")) }
        });
        sites.wait_until_caught_up();
        let after = group(&sites.primary);
        assert_eq!((after.state, after.resync, after.missing_bytes), (PairState::Pair, None, Some(0)), "{after:?}");
        // A resync would have begun another epoch.
        let epochs = |group: &GroupInfo| group.streams.iter().map(|stream| stream.epoch).collect::<Vec<_>>();
        assert_eq!(epochs(&after), epochs(&before));
    }
    let outcome = load.finish();
    assert_eq!((outcome.errors, &outcome.first_error), (0, &None));
    sites.wait_until_caught_up();
    let (_, at_primary) = read_back(sites.primary_target(), sites.contents);
    sites.primary.kill();
    let killed_at = sites.clock.now();
    let certificate = sites.take_over();
    let verdict = sites.judge(&certificate, outcome, &observer.finish(), killed_at, PATIENCE);
    assert_closed(&verdict);
    assert_eq!(verdict.lost_after_recovery_point, 0, "{verdict:#?}");
    let (_, at_secondary) = read_back(sites.secondary_target(), sites.contents);
    assert!(at_primary == at_secondary, "the two sides' blocks differ");
}

#[test]
fn the_spill_of_a_killed_primary_moves_the_recovery_point_and_the_resync_brings_the_rest() {
    // Slow enough to be met.
    let mut sites = paired(json!({"copy_mib_per_s": 1}));
    let load = sites.load(8 * MIB, 72);
    spill(&sites, &load);
    let kept = group(&sites.secondary);
    sites.primary.kill();
    let outcome = load.wait_for_end();
    sites.relay.mend();
    sites.primary.start_again();
    let unit = eventually("the resync at the secondary", PATIENCE, || {
        let group = group(&sites.secondary);
        group.unit.clone().ok_or_else(|| format!("{group:?}"))
    });
    assert!(Some(unit.base_ns) > kept.recovery_point_ns, "{unit:?} {kept:?}");
    sites.wait_until_paired();
    sites.wait_until_caught_up();
    let observer = sites.observe_primary();
    let (_, at_primary) = read_back(sites.primary_target(), sites.contents);
    sites.wait_until_caught_up();
    sites.primary.kill();
    let killed_at = sites.clock.now();
    let certificate = sites.take_over();
    let verdict = sites.judge(&certificate, outcome, &observer.finish(), killed_at, Duration::from_secs(600));
    assert_closed(&verdict);
    assert_eq!(verdict.lost_after_recovery_point, 0, "{verdict:#?}");
    let (_, at_secondary) = read_back(sites.secondary_target(), sites.contents);
    assert!(at_primary == at_secondary, "the two sides' blocks differ");
}
