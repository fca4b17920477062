//! Two sites that exchange their parts: after a disaster and back again, and planned. The verdict is the host's own log's,
//! and both sites' blocks'.

use longrun_nvmf::host::Command;
use longrun_rpc::error::code;
use longrun_rpc::methods::group::{GroupInfo, Role};
use longrun_rpc::methods::pair::PairState;
use longrun_tests::load::{Target, read_back, with_queue};
use longrun_tests::process::{Longrun, eventually};
use longrun_tests::sites::{GROUP, Options, Sites, assert_closed, group};
use serde_json::json;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// Waits until the system has this part, in this state.
fn wait_for(system: &Longrun, role: Role, state: PairState) -> GroupInfo {
    eventually(&format!("{role:?} in state {state}"), PATIENCE, || {
        let group = group(system);
        if (group.role, group.state) == (role, state) { Ok(group) } else { Err(format!("{group:?}")) }
    })
}

/// Writes that nothing else writes, at every volume.
fn write_everywhere(target: Target, fill: u8) {
    with_queue(target, async |queue, namespaces| {
        for namespace in namespaces {
            let bytes = namespace.block_bytes.get();
            for lba in (0..400).step_by(7) {
                let answer =
                    queue.execute(Command::write(namespace.nsid, lba, 1, vec![fill; bytes], false)).await.unwrap();
                assert!(answer.completion.status.is_success(), "{}", answer.completion.status);
            }
        }
    });
}

#[test]
fn after_a_takeover_the_old_primary_follows_and_holds_what_the_new_one_holds() {
    let options = Options { buffer_bytes: 4 * MIB, throttle_ms_max: 100, ..Options::default() };
    let mut sites = Sites::paired(&options);
    let observer = sites.observe_primary();
    let load = sites.load(8 * MIB, 31);
    load.wait_for_writes(300);
    // What the old primary has and the copy never gets.
    sites.relay.cut();
    sites.wait_for(PairState::Pfus);
    load.wait_for_writes(300);
    sites.primary.kill();
    let killed_at = sites.clock.now();
    let outcome = load.wait_for_end();
    let certificate = sites.take_over();
    let verdict = sites.judge(&certificate, outcome, &observer.finish(), killed_at, Duration::from_secs(600));
    assert_closed(&verdict);
    wait_for(&sites.secondary, Role::Primary, PairState::Ssws);
    write_everywhere(sites.secondary_target(), 0xa1);

    sites.relay.mend();
    sites.primary.start_again();
    sites.primary.create_volume("old-journal", 64 << 20, 4096);
    let fenced = eventually("the old primary to be fenced", PATIENCE, || {
        let params = json!({"name": GROUP, "discard_generation": 99, "journal": "old-journal"});
        let error = sites.primary.refused("group_failback", params);
        if error.message.contains("discard_generation 99") { Ok(error) } else { Err(error.to_string()) }
    });
    assert_eq!(fenced.code, code::INVALID_PARAMS, "{fenced}");
    // The journal that was named is the group's by now.
    let params = json!({"name": GROUP, "discard_generation": 1});
    let followed = sites.primary.call("group_failback", params);
    assert_eq!((&followed["role"], &followed["generation"]), (&json!("secondary"), &json!(2)));
    let begun = sites.secondary.call("group_failback", json!({"name": GROUP}));
    assert_eq!(begun["role"], "primary");
    wait_for(&sites.secondary, Role::Primary, PairState::Pair);
    write_everywhere(sites.secondary_target(), 0xa2);
    // Both come back in the parts they have now.
    sites.primary.save_config();
    sites.secondary.save_config();
    sites.primary.kill();
    sites.secondary.stop();
    sites.secondary.start_again();
    sites.primary.start_again();
    wait_for(&sites.secondary, Role::Primary, PairState::Pair);
    write_everywhere(sites.secondary_target(), 0xa3);
    let wanted = group(&sites.secondary).timeline_now_ns;
    eventually("the old primary to catch up", PATIENCE, || {
        let group = group(&sites.primary);
        let there = group.role == Role::Secondary && group.recovery_point_ns.is_some_and(|point| point >= wanted);
        if there { Ok(()) } else { Err(format!("{group:?}")) }
    });

    let (_, held) = read_back(sites.secondary_target(), sites.contents);
    sites.secondary.kill();
    let back = sites.primary.call("group_takeover", json!({"name": GROUP, "old_primary": "fenced"}));
    assert_eq!(back["generation"]["number"], 3);
    let (_, copied) = read_back(sites.primary_target(), sites.contents);
    assert!(held == copied, "the two sites' blocks differ");
}

#[test]
fn a_planned_swap_loses_nothing_and_can_be_taken_back() {
    let sites = Sites::paired(&Options::default());
    let load = sites.load(2 * MIB, 32);
    load.wait_for_writes(300);
    let outcome = load.finish();
    assert_eq!((outcome.errors, &outcome.first_error), (0, &None));
    let (_, before) = read_back(sites.primary_target(), sites.contents);

    let error = sites.secondary.refused("group_swap", json!({"name": GROUP}));
    assert!(error.code == code::WRONG_STATE && error.message.contains("that is its primary"), "{error}");
    let error = sites.primary.refused("group_swap", json!({"name": GROUP}));
    assert!(error.code == code::WRONG_STATE && error.message.contains("journal"), "{error}");
    sites.primary.create_volume("own-journal", 64 << 20, 4096);
    let swapped = sites.primary.call("group_swap", json!({"name": GROUP, "journal": "own-journal"}));
    assert_eq!((&swapped["role"], &swapped["generation"]), (&json!("secondary"), &json!(2)));
    wait_for(&sites.secondary, Role::Primary, PairState::Pair);
    sites.export_secondary();
    let (_, after) = read_back(sites.secondary_target(), sites.contents);
    assert!(before == after, "the swap lost or changed something");
    write_everywhere(sites.secondary_target(), 0xb1);
    let (_, before) = read_back(sites.secondary_target(), sites.contents);

    let swapped = sites.secondary.call("group_swap", json!({"name": GROUP}));
    assert_eq!((&swapped["role"], &swapped["generation"]), (&json!("secondary"), &json!(3)));
    wait_for(&sites.primary, Role::Primary, PairState::Pair);
    let (_, after) = read_back(sites.primary_target(), sites.contents);
    assert!(before == after, "the swap back lost or changed something");
    write_everywhere(sites.primary_target(), 0xb2);
}

#[test]
fn after_an_abandoned_swap_hosts_go_on_and_the_secondary_that_comes_back_as_a_primary_is_fenced() {
    let mut sites = Sites::paired(&Options::default());
    sites.primary.create_volume("own-journal", 64 << 20, 4096);
    write_everywhere(sites.primary_target(), 0xc1);
    sites.wait_until_caught_up();
    let abandon = json!({"name": GROUP, "abandon": true, "discard_generation": 2});
    let error = sites.primary.refused("group_swap", abandon.clone());
    assert!(error.code == code::WRONG_STATE && error.message.contains("no swap to abandon"), "{error}");
    // All is there, so the old primary hands over; the other one never hears of it, and dies.
    sites.relay.cut();
    std::thread::scope(|scope| {
        let primary = &sites.primary;
        let swap = scope.spawn(|| primary.refused("group_swap", json!({"name": GROUP, "journal": "own-journal"})));
        eventually("the hand-over to wait for the secondary's word", PATIENCE, || {
            let waiting = group(primary).waiting.map(|waiting| waiting.reason).unwrap_or_default();
            if waiting.contains("discard_generation 2 goes on here") { Ok(()) } else { Err(waiting) }
        });
        sites.secondary.kill();
        let error = primary.refused("group_swap", json!({"name": GROUP, "abandon": true, "discard_generation": 1}));
        assert!(error.code == code::INVALID_PARAMS && error.message.contains("name generation 2"), "{error}");
        let abandoned = primary.call("group_swap", abandon.clone());
        assert_eq!((&abandoned["role"], &abandoned["generation"]), (&json!("primary"), &json!(3)));
        let error = swap.join().unwrap();
        assert!(error.message.contains("abandoned by the operator"), "{error}");
    });
    write_everywhere(sites.primary_target(), 0xc2);

    sites.secondary.start_again();
    assert_eq!(sites.take_over().generation.number, 2, "what the old primary believes it may have become");
    sites.export_secondary();
    write_everywhere(sites.secondary_target(), 0xc3);
    sites.relay.mend();
    eventually("the other site to be fenced", PATIENCE, || {
        let reason = group(&sites.secondary).reason.unwrap_or_default();
        if reason.contains("gave generation 2 up") { Ok(()) } else { Err(reason) }
    });
    with_queue(sites.secondary_target(), async |queue, namespaces| {
        let write = Command::write(namespaces[0].nsid, 0, 1, vec![0xc4; namespaces[0].block_bytes.get()], false);
        assert!(!queue.execute(write).await.unwrap().completion.status.is_success(), "a fenced primary takes a write");
    });
    write_everywhere(sites.primary_target(), 0xc5);
    let followed = sites.secondary.call("group_failback", json!({"name": GROUP, "discard_generation": 2}));
    assert_eq!((&followed["role"], &followed["generation"]), (&json!("secondary"), &json!(3)));
    wait_for(&sites.primary, Role::Primary, PairState::Pair);
    sites.wait_until_caught_up();
    let (_, held) = read_back(sites.primary_target(), sites.contents);
    sites.primary.kill();
    let back = sites.secondary.call("group_takeover", json!({"name": GROUP, "old_primary": "fenced"}));
    assert_eq!(back["generation"]["number"], 4);
    let (_, copied) = read_back(sites.secondary_target(), sites.contents);
    assert!(held == copied, "the two sites' blocks differ");
}
