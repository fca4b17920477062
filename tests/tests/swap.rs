//! A planned swap as hosts see it that reach both sites: one subsystem, one disk, other paths.

use longrun_rpc::methods::group::Role;
use longrun_rpc::methods::pair::PairState;
use longrun_tests::paths::{Paths, Rider, read_back};
use longrun_tests::process::{Longrun, eventually};
use longrun_tests::sites::{GROUP, Options, PRIMARY_NQN, Sites, VOLUMES, group};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const NQN: &str = "nqn.2026-11.io.longrun:both-sites";
const PATIENCE: Duration = Duration::from_secs(60);

/// Exports the volumes under one name at both systems. Nothing is said of identities and controller ids.
fn export(system: &Longrun, to: SocketAddr) {
    if system.call("nvmf_get_transports", json!({})) == json!([]) {
        system.call("nvmf_create_transport", json!({"trtype": "TCP"}));
    }
    system.call("nvmf_create_subsystem", json!({"nqn": NQN, "allow_any_host": true, "ana_reporting": true}));
    for (nsid, bdev) in (1u32..).zip(VOLUMES) {
        system.call("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": bdev, "nsid": nsid}}));
    }
    let (traddr, trsvcid) = (to.ip().to_string(), to.port().to_string());
    let address = json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": traddr, "trsvcid": trsvcid});
    system.call("nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": address}));
}

fn exported(options: &Options) -> (Sites, Paths) {
    let sites = Sites::paired(options);
    sites.primary.create_volume("own-journal", 64 << 20, 4096);
    sites.primary.call("nvmf_delete_subsystem", json!({"nqn": PRIMARY_NQN}));
    let to = [sites.primary_target().to, sites.secondary_target().to];
    export(&sites.primary, to[0]);
    export(&sites.secondary, to[1]);
    (sites, Paths { to, subsystem: NQN, block_bytes: vec![4096, 512] })
}

fn subsystem(system: &Longrun) -> Value {
    system.call("nvmf_get_subsystems", json!({"nqn": NQN}))[0].clone()
}

/// What hosts of a system take the namespaces for.
fn disks(system: &Longrun) -> Vec<[Value; 3]> {
    let subsystem = subsystem(system);
    let namespaces = subsystem["namespaces"].as_array().cloned().unwrap();
    namespaces.iter().map(|namespace| ["nsid", "nguid", "uuid"].map(|name| namespace[name].clone())).collect()
}

fn access(system: &Longrun) -> Vec<String> {
    let listeners = system.call("nvmf_subsystem_get_listeners", json!({"nqn": NQN}));
    let states = listeners[0]["ana_states"].as_array().cloned().unwrap();
    states.iter().map(|state| state["ana_state"].as_str().unwrap_or("?").to_owned()).collect()
}

fn wait_for_access(system: &Longrun, state: &str) {
    eventually(&format!("the access {state}"), PATIENCE, || {
        let access = access(system);
        if access.iter().all(|now| now == state) { Ok(()) } else { Err(format!("{access:?}")) }
    });
}

fn wait_for_pair(system: &Longrun) {
    eventually("the new primary's pairs", PATIENCE, || {
        let group = group(system);
        if (group.role, group.state) == (Role::Primary, PairState::Pair) { Ok(()) } else { Err(format!("{group:?}")) }
    });
}

#[test]
fn a_host_with_a_path_to_each_site_rides_through_swaps_without_a_failed_or_a_lost_write() {
    let (sites, paths) = exported(&Options::default());
    let [at_primary, at_secondary] = [&sites.primary, &sites.secondary];
    let before = disks(at_primary);
    eventually("the secondary's volumes to be the primary's disks", PATIENCE, || {
        let there = disks(at_secondary);
        if there == before { Ok(()) } else { Err(format!("{there:?}, not {before:?}")) }
    });
    let cntlids = [at_primary, at_secondary].map(|system| {
        let subsystem = subsystem(system);
        (subsystem["min_cntlid"].as_u64().unwrap(), subsystem["max_cntlid"].as_u64().unwrap())
    });
    assert!(cntlids[0].1 < cntlids[1].0 || cntlids[1].1 < cntlids[0].0, "{cntlids:?}");
    wait_for_access(at_primary, "optimized");
    wait_for_access(at_secondary, "inaccessible");

    let rider = Rider::start(paths.clone());
    for (from, to, journal) in [
        (at_primary, at_secondary, Some("own-journal")),
        (at_secondary, at_primary, None),
        (at_primary, at_secondary, None),
    ] {
        rider.wait_for_writes(300);
        from.call("group_swap", json!({"name": GROUP, "journal": journal}));
        // With the answer, not a look later.
        assert_eq!(access(from), ["inaccessible", "inaccessible"]);
        wait_for_access(to, "optimized");
        rider.wait_for_writes(300);
        wait_for_pair(to);
        assert_eq!((disks(from), disks(to)), (before.clone(), before.clone()), "other disks after a swap");
    }
    let ridden = rider.finish();
    assert_eq!(ridden.failed, [""; 0]);
    assert!(ridden.by_path.iter().all(|writes| *writes >= 300) && ridden.retried > 0, "{ridden:?}");
    assert_eq!(read_back(&paths, 1, &ridden.written), ridden.written, "an answered write is lost");
    println!("the longest write of {:?} took {:?}", ridden.by_path, ridden.longest);
}

#[test]
fn the_disks_are_the_same_after_both_sites_died_and_others_after_a_disaster() {
    let (mut sites, _) = exported(&Options::default());
    let before = disks(&sites.primary);
    sites.primary.call("group_swap", json!({"name": GROUP, "journal": "own-journal"}));
    wait_for_pair(&sites.secondary);
    sites.primary.save_config();
    sites.secondary.save_config();
    sites.primary.kill();
    sites.secondary.kill();
    sites.secondary.start_again();
    sites.primary.start_again();
    wait_for_pair(&sites.secondary);
    assert_eq!((disks(&sites.primary), disks(&sites.secondary)), (before.clone(), before.clone()));
    sites.secondary.kill();
    eventually("the takeover", PATIENCE, || {
        let params = json!({"name": GROUP, "old_primary": "fenced"});
        sites.primary.try_call("group_takeover", params).map_err(|error| error.to_string())
    });
    wait_for_access(&sites.primary, "optimized");
    let after = disks(&sites.primary);
    assert!(after.iter().zip(&before).all(|(now, was)| now[0] == was[0] && now[1] != was[1] && now[2] != was[2]));
    // The other site's become what these are, as soon as it follows.
    sites.secondary.start_again();
    eventually("the failback", PATIENCE, || {
        let params = json!({"name": GROUP, "discard_generation": 2});
        sites.secondary.try_call("group_failback", params).map_err(|error| error.to_string())
    });
    sites.primary.call("group_failback", json!({"name": GROUP}));
    wait_for_pair(&sites.primary);
    assert_eq!(disks(&sites.secondary), after);
}

#[test]
fn hosts_are_told_that_the_access_changes_while_a_swap_waits_for_the_link() {
    let (sites, paths) = exported(&Options::default());
    let rider = Rider::start(paths.clone());
    rider.wait_for_writes(100);
    sites.relay.cut();
    // Some are on their way and cannot arrive.
    rider.wait_for_writes(100);
    std::thread::scope(|scope| {
        let swap = scope.spawn(|| {
            sites.primary.call("group_swap", json!({"name": GROUP, "journal": "own-journal"}));
        });
        wait_for_access(&sites.primary, "change");
        assert_eq!(access(&sites.secondary), ["inaccessible", "inaccessible"]);
        sites.relay.mend();
        swap.join().unwrap();
    });
    wait_for_access(&sites.secondary, "optimized");
    rider.wait_for_writes(100);
    let ridden = rider.finish();
    assert_eq!(ridden.failed, [""; 0]);
    assert_eq!(read_back(&paths, 1, &ridden.written), ridden.written, "an answered write is lost");
}
