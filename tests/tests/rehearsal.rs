//! Test failover: hosts use a view of the secondary's volumes at one moment while replication goes on. The verdict is the
//! host's own log's, for the view and for the takeover that follows.

use longrun_nvmf::host::Command;
use longrun_rpc::error::code;
use longrun_rpc::methods::group::{TestInfo, TestState};
use longrun_tests::load::{Target, read_back, with_queue};
use longrun_tests::process::{Longrun, eventually, free_tcp};
use longrun_tests::sites::{GROUP, Options, Sites, VOLUMES, assert_closed, group, judge_image};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// For cuts that nothing says the age of.
const ANY_AGE: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;
const NQN: &str = "nqn.2026-11.io.longrun:test-rehearsal";
const VIEWS: [&str; 2] = ["medium-volume0@test", "medium-volume1@test"];

fn target(to: SocketAddr) -> Target {
    Target { to, subsystem: NQN, namespaces: VIEWS.len() as u32 }
}

fn test(system: &Longrun) -> TestInfo {
    let group = group(system);
    group.test.clone().unwrap_or_else(|| panic!("no test: {group:?}"))
}

fn remove_namespaces(system: &Longrun) {
    for nsid in 1..=VIEWS.len() {
        system.call("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": nsid}));
    }
}

/// Overwrites the first MiB of every volume.
fn write_to(target: Target, byte: u8) {
    with_queue(target, async |queue, namespaces| {
        for namespace in namespaces {
            let block_bytes = namespace.block_bytes.get() as u64;
            let blocks = 64 * 1024 / block_bytes;
            for at in 0..16 {
                let write = Command::write(namespace.nsid, at * blocks, blocks as u16, vec![byte; 64 * 1024], false);
                let answer = queue.execute(write).await.unwrap();
                assert!(answer.completion.status.is_success(), "{}", answer.completion.status);
            }
        }
    });
}

/// Block 5 of each volume, or that it cannot be read.
fn fifth_blocks(target: Target) -> Vec<Option<Vec<u8>>> {
    with_queue(target, async |queue, namespaces| {
        let mut blocks = Vec::new();
        for namespace in namespaces {
            let read = Command::read(namespace.nsid, 5, 1, namespace.block_bytes.get() as u32);
            let answer = queue.execute(read).await.unwrap();
            blocks.push(answer.completion.status.is_success().then_some(answer.completion.data));
        }
        blocks
    })
}

#[test]
fn a_test_shows_one_moment_takes_writes_and_leaves_the_copy_and_its_takeover_alone() {
    let mut sites = Sites::paired(&Options::default());
    let observer = sites.observe_primary();
    let load = sites.load(4 * MIB, 31);
    load.wait_for_writes(400);
    let secondary = &sites.secondary;
    secondary.create_volume("store", 64 * MIB, 512);
    secondary.create_volume("coarse", 64 * MIB, 4096);
    let started = secondary.command(&["group", "test", "start", GROUP, "--store", "store", "--json"]);
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let volumes: Value = serde_json::from_slice(&started.stdout).unwrap();
    assert_eq!([&volumes[0]["name"], &volumes[1]["name"]], VIEWS.map(|name| json!(name)).each_ref());
    for (volume, name) in volumes.as_array().unwrap().iter().zip(VOLUMES) {
        for system in [&sites.primary, secondary] {
            let replica = system.call("bdev_get_bdevs", json!({"name": name}));
            assert_ne!(volume["uuid"], replica[0]["uuid"], "an identity of its own");
        }
    }
    let to = free_tcp();
    secondary.export(NQN, &VIEWS, to);
    let moment = test(secondary);
    assert_eq!((moment.state, moment.store.as_str()), (TestState::Ready, "store"));
    let first = read_back(target(to), sites.contents);

    // Everything goes on but what would take the volumes away.
    let before = group(secondary).recovery_point_ns;
    load.wait_for_writes(600);
    sites.wait_until_moving();
    assert!(group(secondary).recovery_point_ns > before);
    let again = read_back(target(to), sites.contents);
    assert!(first == again, "the view changed");
    let later = test(secondary);
    assert_eq!((later.cut_ns, later.state), (moment.cut_ns, TestState::Ready));
    assert!(later.store_used_bytes > moment.store_used_bytes && later.age_ms > 0, "{later:?}");
    let start = |store: &str| json!({"name": GROUP, "store": store});
    for (method, params, says) in [
        ("group_test_start", start("coarse"), "under test already"),
        ("pair_delete", json!({"group": GROUP, "name": VOLUMES[0]}), "group_test_stop"),
        ("bdev_uring_delete", json!({"name": "store"}), "group_test_stop"),
        ("group_test_stop", json!({"name": GROUP}), "nvmf_subsystem_remove_ns"),
    ] {
        let error = secondary.refused(method, params);
        assert!(error.message.contains(says), "{method}: {error}");
    }

    write_to(target(to), 0xda);
    assert!(fifth_blocks(target(to)).iter().flatten().flatten().all(|byte| *byte == 0xda));
    assert!(fifth_blocks(sites.primary_target()).iter().flatten().flatten().any(|byte| *byte != 0xda));
    load.wait_for_writes(200);
    remove_namespaces(secondary);
    let stopped = secondary.command(&["group", "test", "stop", GROUP]);
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert!(group(secondary).test.is_none());
    assert_eq!(secondary.refused("bdev_get_bdevs", json!({"name": VIEWS[0]})).code, -19);
    secondary.call("bdev_uring_delete", json!({"name": "store"}));

    let outcome = load.finish();
    assert_eq!((outcome.errors, &outcome.first_error), (0, &None));
    sites.wait_until_caught_up();
    sites.primary.kill();
    let killed_at = sites.clock.now();
    let certificate = sites.take_over();
    let seen = observer.finish();
    let point = (moment.cut_ns, certificate.clock_error_ns);
    let verdict = judge_image(&first, point, outcome.clone(), &seen, killed_at, ANY_AGE);
    assert_closed(&verdict);
    assert!(verdict.lost_after_recovery_point > 0, "what came later is not in the view: {verdict:#?}");
    let verdict = sites.judge(&certificate, outcome, &seen, killed_at, ANY_AGE);
    assert_closed(&verdict);
    assert_eq!(verdict.lost_after_recovery_point, 0, "{verdict:#?}");
}

#[test]
fn a_test_at_a_bookmark_ends_with_a_restart_and_fails_with_a_takeover_which_has_none_of_it() {
    let options = Options { at_secondary: json!({"apply_delay_s": 600}), ..Options::default() };
    let mut sites = Sites::paired(&options);
    write_to(sites.primary_target(), 0xa1);
    sites.primary.call("group_bookmark", json!({"name": GROUP, "bookmark": "before-the-mistake"}));
    write_to(sites.primary_target(), 0xbd);
    sites.wait_until_caught_up();
    sites.secondary.create_volume("store", 64 * MIB, 512);
    let start = json!({"name": GROUP, "store": "store", "at": "before-the-mistake"});
    sites.secondary.call("group_test_start", start.clone());
    let to = free_tcp();
    sites.secondary.export(NQN, &VIEWS, to);
    assert!(fifth_blocks(target(to)).iter().flatten().flatten().all(|byte| *byte == 0xa1));
    let shown = group(&sites.secondary);
    assert!(shown.window.is_some_and(|window| window.from_ns < test(&sites.secondary).cut_ns), "{shown:?}");
    sites.primary.create_volume("own-journal", 64 * MIB, 4096);
    let error = sites.primary.refused("group_swap", json!({"name": GROUP, "journal": "own-journal"}));
    assert!(error.message.contains("under test"), "{error}");
    // What stands on a view goes with it too.
    sites.secondary.call("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 2}));
    sites.secondary.call("bdev_error_create", json!({"base_name": VIEWS[1]}));

    sites.secondary.kill();
    sites.secondary.start_again_from_state();
    sites.wait_until_caught_up();
    let shown = group(&sites.secondary);
    assert!(shown.test.is_none(), "{shown:?}");
    let names = sites.secondary.call("bdev_get_bdevs", json!({})).to_string();
    assert!(names.contains("store") && !names.contains("@test"), "{names}");
    let subsystems = sites.secondary.call("nvmf_get_subsystems", json!({"nqn": NQN}));
    assert_eq!(subsystems[0]["namespaces"], json!([]));

    sites.secondary.call("group_test_start", start.clone());
    for (nsid, view) in (1..).zip(VIEWS) {
        let namespace = json!({"bdev_name": view, "nsid": nsid});
        sites.secondary.call("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": namespace}));
    }
    write_to(target(to), 0xee);
    assert!(fifth_blocks(target(to)).iter().flatten().flatten().all(|byte| *byte == 0xee));
    sites.primary.kill();
    sites.take_over();
    assert_eq!(fifth_blocks(target(to)), [None, None], "the test's hosts get errors");
    let failed = test(&sites.secondary);
    assert_eq!(failed.state, TestState::Failed);
    assert!(failed.reason.is_some(), "{failed:?}");
    sites.export_secondary();
    assert!(fifth_blocks(sites.secondary_target()).iter().flatten().flatten().all(|byte| *byte == 0xbd));
    remove_namespaces(&sites.secondary);
    sites.secondary.call("group_test_stop", json!({"name": GROUP}));
    let error = sites.secondary.refused("group_test_start", start);
    assert!(error.code == code::WRONG_STATE, "{error}");
    sites.secondary.call("bdev_uring_delete", json!({"name": "store"}));
}

#[test]
fn a_test_that_cannot_be_is_refused_with_a_sentence_and_leaves_nothing_behind() {
    let sites = Sites::paired(&Options::default());
    let secondary = &sites.secondary;
    secondary.create_volume("store", 4 * MIB, 512);
    secondary.create_volume("coarse", 4 * MIB, 4096);
    secondary.create_volume("tiny", 64 << 10, 512);
    let bdevs = || secondary.call("bdev_get_bdevs", json!({}));
    let before = bdevs();
    let start = |store: &str| json!({"name": GROUP, "store": store});
    let at = |at: Value| json!({"name": GROUP, "store": "store", "at": at});
    for (params, says) in [
        (json!({"name": "nobody", "store": "store"}), "nobody"),
        (start("nothing"), "no bdev named nothing"),
        (start("journal"), "the journal of group"),
        (start("coarse"), "blocks of 4096 bytes"),
        (start("tiny"), "at least"),
        (at(json!("no-such-mark")), "no bookmark"),
        (at(json!(1_u64 << 62)), "can go to"),
        (json!({"name": GROUP}), "store"),
    ] {
        let error = secondary.refused("group_test_start", params.clone());
        assert!(error.message.contains(says), "{params}: {error}");
        assert!(group(secondary).test.is_none(), "{params}");
    }
    assert_eq!(bdevs(), before, "no view and no claim is left");
    let error = secondary.refused("group_test_stop", json!({"name": GROUP}));
    assert!(error.code == -19 && error.message.contains("not under test"), "{error}");
    sites.primary.create_volume("store", 4 * MIB, 512);
    let error = sites.primary.refused("group_test_start", start("store"));
    assert!(error.code == code::WRONG_STATE && error.message.contains("that is its secondary"), "{error}");
    // A name that is taken leaves nothing behind either.
    secondary.create_volume(VIEWS[1], MIB, 512);
    let error = secondary.refused("group_test_start", start("store"));
    assert!(error.message.contains("taken"), "{error}");
    assert_eq!(secondary.refused("bdev_get_bdevs", json!({"name": VIEWS[0]})).code, -19);
    secondary.call("bdev_uring_delete", json!({"name": VIEWS[1]}));

    // One that fills its store fails alone. Old zeroes would need no room.
    let load = sites.load(4 * MIB, 33);
    load.wait_for_writes(1000);
    secondary.call("group_test_start", start("store"));
    let failed = eventually("the store to be full", PATIENCE, || {
        let test = test(secondary);
        if test.state == TestState::Failed { Ok(test) } else { Err(format!("{test:?}")) }
    });
    assert!(failed.reason.as_ref().is_some_and(|reason| reason.contains("store is full")), "{failed:?}");
    sites.wait_until_moving();
    let outcome = load.finish();
    assert_eq!((outcome.errors, &outcome.first_error), (0, &None));
    secondary.call("group_test_stop", json!({"name": GROUP}));
    assert_eq!(bdevs().as_array().map(Vec::len), before.as_array().map(Vec::len));
}
