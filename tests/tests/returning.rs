//! What comes back by itself after SIGKILL, from the state directory alone; and what stops the start instead.

use longrun_nvmf::host::Command;
use longrun_rpc::methods::group::Role;
use longrun_rpc::methods::pair::PairState;
use longrun_tests::load::{Target, with_queue};
use longrun_tests::process::{Longrun, eventually, free_tcp};
use longrun_tests::sites::{GROUP, Options, Sites, group};
use serde_json::{Value, json};
use std::time::Duration;

const NQN: &str = "nqn.2026-11.io.longrun:returning";
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that operators have made.
fn made(system: &Longrun) -> Value {
    let ask = |method: &str| system.call(method, json!({}));
    // Pairs are made after all volumes, so that their devices come later in the list than they did.
    let mut bdevs = ask("bdev_get_bdevs").as_array().cloned().unwrap();
    bdevs.sort_by_key(|bdev| bdev["name"].to_string());
    let parts = ["log", "bdev", "link", "group", "pair", "nvmf"];
    let configured = parts.map(|name| system.call("framework_get_config", json!({"name": name})));
    json!({"bdevs": bdevs, "subsystems": ask("nvmf_get_subsystems"), "configured": configured})
}

#[test]
fn a_killed_system_comes_back_with_all_that_was_answered_before_the_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut system = Longrun::start_from_state(directory.path());
    for round in 0..3 {
        let names: Vec<String> = (0..3).map(|number| format!("v{round}{number}")).collect();
        for name in &names {
            system.create_volume(name, 1 << 20, 4096);
        }
        let nqn = format!("{NQN}{round}");
        system.export(&nqn, &[&names[0], &names[1]], free_tcp());
        if round > 0 {
            system.call("bdev_uring_delete", json!({"name": format!("v{}2", round - 1)}));
        }
        system.call("log_set_level", json!({"level": "DEBUG"}));
        let before = made(&system);
        system.kill();
        system.start_again_from_state();
        assert_eq!(made(&system), before, "round {round}");
    }
}

#[test]
fn both_ends_of_a_group_come_back_killed_at_once_with_their_pairs_and_states() {
    let mut sites = Sites::paired(&Options::default());
    let before = [&sites.primary, &sites.secondary].map(made);
    // Idle: beacons move the recovery point, and what was shown of it once is there again.
    let shown = eventually("a recovery point that an idle group moved", PATIENCE, || {
        let first = group(&sites.secondary).recovery_point_ns;
        std::thread::sleep(std::time::Duration::from_millis(700));
        let second = group(&sites.secondary).recovery_point_ns;
        if first.is_some() && second > first { Ok(second) } else { Err(format!("{first:?} {second:?}")) }
    });
    sites.primary.kill();
    sites.secondary.kill();
    sites.secondary.start_again_from_state();
    let found = eventually("the secondary's journal, before its primary is back", PATIENCE, || {
        let group = group(&sites.secondary);
        if group.recovery_point_ns.is_some() { Ok(group) } else { Err(format!("{group:?}")) }
    });
    assert!(found.recovery_point_ns >= shown, "{shown:?} was shown: {found:?}");
    sites.primary.start_again_from_state();
    assert_eq!([&sites.primary, &sites.secondary].map(made), before);
    let at_secondary = eventually("the secondary's journal", PATIENCE, || {
        let group = group(&sites.secondary);
        if group.consistent { Ok(group) } else { Err(format!("{group:?}")) }
    });
    assert!(at_secondary.recovery_point_ns >= shown, "{at_secondary:?}");
    for (system, role) in [(&sites.primary, "primary"), (&sites.secondary, "secondary")] {
        let pairs = system.call("pair_get", json!({}));
        for pair in pairs.as_array().unwrap() {
            assert_ne!(pair["state"], json!(PairState::Smpl), "at the {role}: {pair:#}");
        }
        assert_eq!(pairs.as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn a_secondary_whose_journal_is_gone_at_the_start_says_so_and_goes_on_when_it_is_back() {
    let mut sites = Sites::paired(&Options::default());
    sites.secondary.kill();
    let journal = sites.secondary.directory().join("journal");
    let away = sites.secondary.directory().join("away");
    std::fs::rename(&journal, &away).unwrap();
    sites.secondary.start_again_from_state();
    // The system is up, and says what is missing.
    let failed = group(&sites.secondary);
    assert_eq!((failed.state, failed.consistent, failed.recovery_point_ns), (PairState::Psue, false, None));
    assert!(failed.reason.as_ref().is_some_and(|reason| reason.contains("journal is missing")), "{failed:?}");
    let pairs = sites.secondary.call("pair_get", json!({}));
    for pair in pairs.as_array().unwrap() {
        assert!(pair["reason"].as_str().is_some_and(|reason| reason.contains("journal is missing")), "{pair:#}");
    }
    assert_eq!(pairs.as_array().map(Vec::len), Some(2));
    let refused = sites.secondary.refused("group_takeover", json!({"name": GROUP, "old_primary": "fenced"}));
    assert!(refused.message.contains("journal is missing"), "{refused:?}");
    // Nothing of it is forgotten.
    sites.secondary.kill();
    std::fs::rename(&away, &journal).unwrap();
    sites.secondary.start_again_from_state();
    sites.wait_until_paired();
}

#[test]
fn hosts_of_a_group_that_was_taken_over_are_served_although_its_journal_is_gone_at_the_start() {
    let mut sites = Sites::paired(&Options::default());
    sites.primary.kill();
    sites.take_over();
    sites.export_secondary();
    sites.secondary.save_config();
    sites.secondary.kill();
    std::fs::remove_file(sites.secondary.directory().join("journal")).unwrap();
    sites.secondary.start_again_from_state();
    let found = eventually("the group to serve hosts", PATIENCE, || {
        let group = group(&sites.secondary);
        if group.role == Role::Primary { Ok(group) } else { Err(format!("{group:?}")) }
    });
    assert_eq!((found.state, found.generation.number), (PairState::Ssws, 2));
    with_queue(sites.secondary_target(), async |queue, namespaces| {
        for namespace in namespaces {
            let data = vec![7; namespace.block_bytes.get()];
            let answer = queue.execute(Command::write(namespace.nsid, 5, 1, data, true)).await.unwrap();
            assert!(answer.completion.status.is_success(), "{}", answer.completion.status);
        }
    });
}

#[test]
fn a_configuration_that_is_given_wins_and_is_what_comes_back_next() {
    let directory = tempfile::tempdir().unwrap();
    let mut system = Longrun::start_from_state(directory.path());
    system.create_volume("old", 1 << 20, 4096);
    system.kill();
    let device = json!({"name": "new", "num_blocks": 8, "block_size": 512});
    let calls = json!([{"method": "bdev_null_create", "params": device}]);
    let config = json!({"subsystems": [{"subsystem": "bdev", "config": calls}]});
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    system.start_again();
    system.kill();
    system.start_again_from_state();
    let names: Vec<Value> =
        system.call("bdev_get_bdevs", json!({})).as_array().unwrap().iter().map(|bdev| bdev["name"].clone()).collect();
    assert_eq!(names, ["new"]);
}

#[test]
fn a_configuration_that_is_damaged_newer_or_gone_stops_the_start_and_says_how_to_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut system = Longrun::start_from_state(directory.path());
    system.create_volume("v0", 1 << 20, 4096);
    system.kill();
    let path = directory.path().join("state/config.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    assert!(whole.contains("\"version\": 1") && whole.contains("v0"), "{whole}");
    let cases = [
        (Some(whole[..whole.len() / 2].to_owned()), "put back a copy"),
        (Some(whole.replace("\"version\": 1", "\"version\": 2")), "start the longrun that wrote it"),
        (None, "is gone"),
    ];
    for (content, says) in cases {
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let said = system.refused_start();
        assert!(said.contains(says) && said.contains("--config FILE"), "{said}");
    }
    std::fs::write(&path, whole).unwrap();
    system.start_again_from_state();
    assert_eq!(system.call("bdev_get_bdevs", json!({}))[0]["name"], "v0");
}

#[test]
fn a_system_whose_key_or_metadata_is_gone_does_not_start_as_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut system = Longrun::start_from_state(directory.path());
    system.create_volume("v0", 1 << 20, 4096);
    system.kill();
    let state = directory.path().join("state");
    for (file, says) in [("identity.key", "put back the key file"), ("metadata.redb", "put back metadata.redb")] {
        std::fs::rename(state.join(file), state.join("away")).unwrap();
        let said = system.refused_start();
        assert!(said.contains(says), "{said}");
        std::fs::rename(state.join("away"), state.join(file)).unwrap();
    }
    system.start_again_from_state();
    assert_eq!(system.call("bdev_get_bdevs", json!({}))[0]["name"], "v0");
}

#[test]
fn a_volume_whose_file_is_gone_at_the_start_keeps_no_other_from_its_hosts_and_comes_back_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut system = Longrun::start_from_state(directory.path());
    for name in ["v0", "v1"] {
        system.create_volume(name, 1 << 20, 4096);
    }
    let to = free_tcp();
    system.export(NQN, &["v0", "v1"], to);
    let whole = made(&system);
    system.kill();
    std::fs::rename(directory.path().join("v0"), directory.path().join("away")).unwrap();
    system.start_again_from_state();
    assert!(system.log().contains("bdev v0 is missing"), "{}", system.log());
    let target = Target { to, subsystem: NQN, namespaces: 0 };
    with_queue(target, async |queue, _| {
        let read = async |nsid| queue.execute(Command::read(nsid, 0, 1, 4096)).await.unwrap().completion.status;
        assert!(read(2).await.is_success(), "the other volume is served");
        assert!(!read(1).await.is_success());
    });
    // What it lacks stays configured through another change and another start.
    system.call("bdev_null_create", json!({"name": "n0", "num_blocks": 8, "block_size": 512}));
    system.call("bdev_null_delete", json!({"name": "n0"}));
    system.kill();
    std::fs::rename(directory.path().join("away"), directory.path().join("v0")).unwrap();
    system.start_again_from_state();
    let found = made(&system);
    for part in ["bdevs", "subsystems"] {
        assert_eq!(found[part].as_array().map(Vec::len), whole[part].as_array().map(Vec::len), "{found:#}");
    }
    assert_eq!(found["subsystems"], whole["subsystems"]);
}
