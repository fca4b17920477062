//! Two systems that lose sight of each other, or die, and find together again by themselves; and what operators may ask of
//! a pair that lives. The verdict is the host's own log's, and both sides' blocks'.

use longrun_nvmf::host::Command;
use longrun_rpc::methods::group::GroupInfo;
use longrun_rpc::methods::pair::PairState;
use longrun_tests::load::{read_back, with_queue};
use longrun_tests::process::{Longrun, eventually};
use longrun_tests::sites::{GROUP, Options, Sites, VOLUMES, assert_closed, group};
use serde_json::{Value, json};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// For cuts that nothing says the age of.
const ANY_AGE: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;

/// Stops all writing, lets the copy catch up, and ends the primary: the secondary, taken over, must hold every write that
/// the host was told of, and every block that the primary held.
fn assert_nothing_differs(mut sites: Sites, outcome: longrun::demo::workload::Outcome) {
    sites.wait_until_caught_up();
    let observer = sites.observe_primary();
    sites.wait_until_caught_up();
    let (_, at_primary) = read_back(sites.primary_target(), sites.contents);
    sites.primary.kill();
    let killed_at = sites.clock.now();
    let certificate = sites.take_over();
    let verdict = sites.judge(&certificate, outcome, &observer.finish(), killed_at, ANY_AGE);
    assert_closed(&verdict);
    assert_eq!(verdict.lost_after_recovery_point, 0, "{verdict:#?}");
    let (_, at_secondary) = read_back(sites.secondary_target(), sites.contents);
    assert!(at_primary == at_secondary, "the two sides' blocks differ");
}

#[test]
fn a_primary_killed_under_load_resyncs_by_itself_and_the_copy_lacks_nothing() {
    for scope in ["group", "pair"] {
        let mut sites = Sites::paired(&Options { scope, ..Options::default() });
        let load = sites.load(4 * MIB, 21);
        load.wait_for_writes(500);
        sites.primary.kill();
        let outcome = load.wait_for_end();
        let kept = group(&sites.secondary);
        assert!(kept.consistent, "{kept:?}");
        sites.primary.start_again();
        sites.wait_until_paired();
        let resynced = group(&sites.secondary);
        assert!(resynced.unit.is_none() && resynced.recovery_point_ns > kept.recovery_point_ns, "{resynced:?}");
        assert_nothing_differs(sites, outcome);
    }
}

#[test]
fn a_primary_killed_again_in_its_resync_goes_on_with_it_and_the_last_image_stays_meanwhile() {
    // Slow enough to be met.
    let slow = Options { at_primary: json!({"copy_mib_per_s": 1}), ..Options::default() };
    let mut sites = Sites::paired(&slow);
    let load = sites.load(4 * MIB, 22);
    load.wait_for_writes(1000);
    sites.primary.kill();
    let outcome = load.wait_for_end();
    for _ in 0..2 {
        sites.primary.start_again();
        let unit = eventually("the resync at the secondary", PATIENCE, || {
            let group = group(&sites.secondary);
            group.unit.clone().ok_or_else(|| format!("{group:?}"))
        });
        let shown = group(&sites.secondary);
        assert_eq!((shown.recovery_point_ns, shown.consistent), (Some(unit.base_ns), true), "{shown:?}");
        sites.primary.kill();
    }
    sites.primary.start_again();
    sites.wait_until_paired();
    assert_nothing_differs(sites, outcome);
}

#[test]
fn a_takeover_in_the_middle_of_a_resync_gives_the_image_from_before_it() {
    let slow = Options {
        at_primary: json!({"copy_mib_per_s": 1}),
        buffer_bytes: 4 * MIB,
        throttle_ms_max: 100,
        ..Options::default()
    };
    let mut sites = Sites::paired(&slow);
    let observer = sites.observe_primary();
    let load = sites.load(8 * MIB, 23);
    load.wait_for_writes(300);
    sites.relay.cut();
    sites.wait_for(PairState::Pfus);
    load.wait_for_writes(500);
    let kept = group(&sites.secondary).recovery_point_ns;
    sites.relay.mend();
    eventually("the resync at the secondary", PATIENCE, || {
        let group = group(&sites.secondary);
        if group.unit.is_some() { Ok(()) } else { Err(format!("{group:?}")) }
    });
    // Some of it is there already.
    load.wait_for_writes(100);
    sites.primary.kill();
    let killed_at = sites.clock.now();
    let outcome = load.wait_for_end();
    let certificate = sites.take_over();
    assert_eq!(Some(certificate.recovery_point_ns), kept);
    let verdict = sites.judge(&certificate, outcome, &observer.finish(), killed_at, ANY_AGE);
    assert_closed(&verdict);
    assert!(verdict.lost_after_recovery_point > 0, "{verdict:#?}");
}

#[test]
fn a_link_that_was_away_for_longer_than_the_buffer_lasts_comes_back_and_so_does_the_pair() {
    for overflow in ["throttle", "suspend"] {
        let throttle_ms_max = if overflow == "throttle" { json!(100) } else { Value::Null };
        let options = Options {
            buffer_bytes: 4 * MIB,
            at_primary: json!({"overflow": overflow, "throttle_ms_max": throttle_ms_max}),
            ..Options::default()
        };
        let sites = Sites::paired(&options);
        let load = sites.load(8 * MIB, 24);
        for _ in 0..2 {
            load.wait_for_writes(200);
            sites.relay.cut();
            let suspended = sites.wait_for(PairState::Pfus);
            assert!(suspended.reason.is_some(), "{suspended:?}");
            load.wait_for_writes(500);
            let marked = group(&sites.primary);
            assert!(marked.missing_bytes.is_some_and(|bytes| bytes > 0), "{marked:?}");
            sites.relay.mend();
            // Beside the host's writes.
            sites.wait_until_paired();
        }
        let outcome = load.finish();
        assert_eq!((outcome.errors, &outcome.first_error), (0, &None), "{overflow}");
        assert_nothing_differs(sites, outcome);
    }
}

#[test]
fn an_operator_suspends_all_pairs_at_one_moment_and_a_resync_brings_the_rest() {
    let sites = Sites::paired(&Options { scope: "pair", ..Options::default() });
    let load = sites.load(4 * MIB, 25);
    load.wait_for_writes(300);
    let suspended = sites.primary.call("group_suspend", json!({"name": GROUP}));
    assert_eq!(suspended["drained"], true, "{suspended}");
    sites.wait_for(PairState::Psus);
    let error = sites.primary.refused("group_suspend", json!({"name": GROUP}));
    assert_eq!(error.code, longrun_rpc::error::code::WRONG_STATE, "{error}");
    let error = sites.primary.refused("group_bookmark", json!({"name": GROUP, "bookmark": "b"}));
    assert_eq!(error.code, longrun_rpc::error::code::WRONG_STATE, "{error}");
    let at = eventually("the secondary to stand at that moment", PATIENCE, || {
        let group = group(&sites.secondary);
        let stands = group.state == PairState::Psus && group.recovery_point_ns == suspended["at_ns"].as_u64();
        if stands { Ok(group.recovery_point_ns) } else { Err(format!("{suspended} {group:?}")) }
    });
    load.wait_for_writes(300);
    let still = group(&sites.secondary);
    assert_eq!((still.recovery_point_ns, still.consistent), (at, true));
    sites.primary.call("group_resync", json!({"name": GROUP}));
    sites.wait_until_paired();
    let outcome = load.finish();
    assert_eq!((outcome.errors, &outcome.first_error), (0, &None));
    // A whole copy is as good.
    sites.primary.call("group_suspend", json!({"name": GROUP}));
    sites.primary.call("group_resync", json!({"name": GROUP, "full": true}));
    sites.wait_until_paired();
    assert_nothing_differs(sites, outcome);
}

/// The online verify's result, once it is over.
fn verified(system: &Longrun) -> GroupInfo {
    eventually("the verify", PATIENCE, || {
        let group = group(system);
        let over = group.verify.as_ref().is_some_and(|verify| verify.over);
        if over { Ok(group) } else { Err(format!("{:?}", group.verify)) }
    })
}

#[test]
fn an_online_verify_compares_everything_while_the_host_writes() {
    let sites = Sites::paired(&Options::default());
    let load = sites.load(2 * MIB, 26);
    load.wait_for_writes(200);
    sites.primary.call("group_verify", json!({"name": GROUP}));
    let verify = verified(&sites.primary).verify.unwrap();
    assert_eq!((verify.bytes_done, verify.bytes_differing, verify.bytes_unreadable), (16 * MIB, 0, 0), "{verify:?}");
    assert_eq!(verify.reason, None);
    let outcome = load.finish();
    assert_eq!((outcome.errors, &outcome.first_error), (0, &None));
}

#[test]
fn a_volume_that_holds_something_is_copied_while_hosts_write_to_the_others() {
    let mut sites = Sites::paired(&Options::default());
    let load = sites.load(2 * MIB, 27);
    let bytes = 8 * MIB;
    let name = "filled";
    let filled: Vec<u8> = (0..bytes).map(|at| (at / 512 % 251) as u8).collect();
    // Something else is there, that is given up.
    for (system, content) in [(&sites.primary, filled.clone()), (&sites.secondary, vec![0xee; bytes as usize])] {
        let path = system.file(name, bytes);
        std::fs::write(&path, content).unwrap();
        system.call("bdev_uring_create", json!({"name": name, "filename": path, "block_size": 4096}));
    }
    let pair = json!({"group": GROUP, "name": "third", "volume": name, "initial": "copy"});
    let error = sites.secondary.refused("pair_create", {
        let mut empty = pair.clone();
        empty["initial"] = json!("empty");
        empty
    });
    assert!(error.message.contains("empty") || error.message.contains("zero"), "{error}");
    sites.secondary.call("pair_create", pair.clone());
    let moving = group(&sites.secondary).recovery_point_ns;
    sites.primary.call("pair_create", pair);
    eventually("the first copy", PATIENCE, || {
        let pair = sites.primary.call("pair_get", json!({"group": GROUP, "name": "third"}));
        if pair[0]["state"] == "PAIR" { Ok(()) } else { Err(pair.to_string()) }
    });
    let after = group(&sites.secondary);
    assert!(after.recovery_point_ns > moving && after.copying.is_empty(), "{after:?}");
    let outcome = load.finish();
    assert_eq!((outcome.errors, &outcome.first_error), (0, &None));
    sites.wait_until_caught_up();
    sites.primary.kill();
    let certificate = sites.take_over();
    assert_eq!(certificate.never_consistent, [""; 0]);
    sites.secondary.stop();
    assert!(std::fs::read(sites.secondary.directory().join(name)).unwrap() == filled, "the copy differs");
}

#[test]
fn a_takeover_at_a_bookmark_gives_that_moment_and_nothing_later() {
    let options = Options { at_secondary: json!({"apply_delay_s": 600}), ..Options::default() };
    let mut sites = Sites::paired(&options);
    let observer = sites.observe_primary();
    let load = sites.load(2 * MIB, 28);
    load.wait_for_writes(300);
    let outcome = load.finish();
    let bookmark = sites.primary.call("group_bookmark", json!({"name": GROUP, "bookmark": "before-the-mistake"}));
    // The mistake: every volume's first MiB is overwritten.
    with_queue(sites.primary_target(), async |queue, namespaces| {
        for namespace in namespaces {
            let block_bytes = namespace.block_bytes.get() as u64;
            let blocks = 64 * 1024 / block_bytes;
            for at in 0..16 {
                let write = Command::write(namespace.nsid, at * blocks, blocks as u16, vec![0xbd; 64 * 1024], false);
                assert!(queue.execute(write).await.unwrap().completion.status.is_success());
            }
        }
    });
    sites.wait_until_caught_up();
    let shown = group(&sites.secondary);
    let window = shown.window.unwrap_or_else(|| panic!("no window: {shown:?}"));
    let at = bookmark["time_ns"].as_u64().unwrap();
    assert!(window.from_ns <= at && at < window.until_ns, "{shown:?}");
    assert!(shown.bookmarks.iter().any(|known| known.name == "before-the-mistake" && known.time_ns == at), "{shown:?}");
    sites.primary.kill();
    let killed_at = sites.clock.now();
    let tomorrow = json!(window.until_ns + 86_400_000_000_000);
    for (wrong, says) in [(json!("no-such-mark"), "no-such-mark"), (tomorrow, "window")] {
        let params = json!({"name": GROUP, "old_primary": "fenced", "at": wrong});
        let error = sites.secondary.refused("group_takeover", params);
        assert!(error.message.contains(says), "{error}");
    }
    let certificate = sites.take_over_at("before-the-mistake");
    assert_eq!(certificate.recovery_point_ns, at);
    let verdict = sites.judge(&certificate, outcome, &observer.finish(), killed_at, ANY_AGE);
    assert_closed(&verdict);
    assert_eq!(verdict.lost_after_recovery_point, 0, "{verdict:#?}");
    assert_eq!(certificate.volumes.len(), VOLUMES.len());
}
