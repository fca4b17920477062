//! Groups at home on other cores than their links, and links on several.

use longrun::lab::ports::free_udp;
use longrun_rpc::methods::link::{LinkInfo, LinkState};
use longrun_rpc::methods::pair::PairState;
use longrun_tests::process::{Longrun, eventually};
use longrun_tests::sites::{GROUP, LINK, Options, Sites, assert_closed, group};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);
const BOTH: &[&str] = &["--cores", "0,1"];

/// The link is on core 0, as the first one is, and the group on core 1, at both sites.
fn apart(scope: &'static str, security: &'static str) -> Options {
    Options {
        scope,
        security,
        primary_flags: BOTH,
        secondary_flags: BOTH,
        at_primary: json!({"core": 1}),
        at_secondary: json!({"core": 1}),
        ..Options::default()
    }
}

fn link(system: &Longrun, name: &str) -> LinkInfo {
    let links = system.call("link_get", json!({"name": name}));
    serde_json::from_value(links[0].clone()).unwrap()
}

fn is_taken_over_at_a_cut(options: &Options) {
    let mut sites = Sites::paired(options);
    for site in [&sites.primary, &sites.secondary] {
        assert_eq!(group(site).core, 1);
        assert_eq!(link(site, LINK).core, 0);
    }
    let observer = sites.observe_primary();
    let load = sites.load(8 * MIB, 41);
    load.wait_for_writes(200);
    // The secondary comes back and goes on from its journal.
    sites.secondary.kill();
    sites.secondary.start_again();
    sites.wait_for(PairState::Pair);
    sites.wait_until_moving();
    load.wait_for_writes(400);
    sites.primary.kill();
    let killed_at = sites.clock.now();
    let outcome = load.wait_for_end();
    assert_eq!((outcome.errors, &outcome.first_error), (0, &None));
    let certificate = sites.take_over();
    let verdict = sites.judge(&certificate, outcome, &observer.finish(), killed_at, Duration::from_secs(20));
    assert_closed(&verdict);
}

#[test]
fn a_group_whose_link_is_on_another_core_copies_and_is_taken_over_at_a_cut() {
    is_taken_over_at_a_cut(&apart("group", "noise"));
}

#[test]
fn so_is_one_with_a_stream_for_each_pair_and_without_encryption() {
    is_taken_over_at_a_cut(&apart("pair", "none"));
}

/// The link has a strand on each core, and the group is on the second.
fn wide(scope: &'static str, security: &'static str) -> Options {
    Options { at_link: json!({"cores": [0, 1]}), ..apart(scope, security) }
}

#[test]
fn a_link_on_two_cores_carries_a_stream_on_each_and_is_taken_over_at_a_cut() {
    let options = wide("pair", "noise");
    is_taken_over_at_a_cut(&options);
    let sites = Sites::paired(&options);
    let load = sites.load(8 * MIB, 43);
    load.wait_for_writes(400);
    for site in [&sites.primary, &sites.secondary] {
        let strands = link(site, LINK).strands;
        assert_eq!(strands.iter().map(|strand| strand.core).collect::<Vec<_>>(), [0, 1]);
        for strand in strands {
            assert_eq!(strand.state, LinkState::Up);
            // Handshakes, pings and acknowledgements alone are fewer.
            assert!(strand.counters.frames_sent.max(strand.counters.frames_received) > 150, "{strand:?}");
        }
    }
    load.finish();
}

#[test]
fn so_is_one_of_two_strands_on_a_single_core() {
    is_taken_over_at_a_cut(&Options { at_link: json!({"cores": [0, 0]}), ..wide("group", "none") });
}

#[test]
fn links_on_different_numbers_of_cores_say_so_and_meet_once_one_is_made_again() {
    let sites = Sites::created(&wide("group", "none"));
    let ends = [free_udp(2).unwrap(), free_udp(2).unwrap()];
    let make = |system: &Longrun, [local, remote]: [SocketAddr; 2], cores: &[u16]| {
        let call =
            json!({"name": "other", "local_addr": local, "remote_addr": remote, "security": "none", "cores": cores});
        system.call("link_create", call);
    };
    let there = [ends[1], ends[0]];
    make(&sites.primary, ends, &[0, 1]);
    make(&sites.secondary, there, &[1]);
    for (system, theirs) in
        [(&sites.primary, "on 1 cores, and this one on 2"), (&sites.secondary, "on 2 cores, and this one on 1")]
    {
        eventually("a reason", PATIENCE, || match link(system, "other") {
            LinkInfo { reason: Some(reason), .. } if reason.contains(theirs) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    sites.secondary.call("link_delete", json!({"name": "other"}));
    make(&sites.secondary, there, &[1, 1]);
    for system in [&sites.primary, &sites.secondary] {
        eventually("a session", PATIENCE, || match link(system, "other") {
            up if up.state == LinkState::Up && up.strands.iter().all(|it| it.state == LinkState::Up) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

#[test]
fn a_link_on_cores_that_there_are_not_is_refused_and_leaves_nothing_behind() {
    let sites = Sites::created(&Options { primary_flags: BOTH, ..Options::default() });
    let first = free_udp(3).unwrap();
    let create = |cores: serde_json::Value| {
        let call = json!({"name": "other", "local_addr": first, "remote_addr": "127.0.0.1:9", "security": "none", "cores": cores});
        sites.primary.try_call("link_create", call)
    };
    let refused = create(json!([0, 2])).unwrap_err().to_string();
    assert!(refused.contains("core 2") && refused.contains("cores 0 to 1"), "{refused}");
    let refused = create(json!([])).unwrap_err().to_string();
    assert!(refused.contains("expected 1 to 16"), "{refused}");
    // The third port is somebody else's.
    let taken = std::net::UdpSocket::bind((first.ip(), first.port() + 2)).unwrap();
    let refused = create(json!([0, 1, 0])).unwrap_err().to_string();
    assert!(refused.contains(&taken.local_addr().unwrap().to_string()), "{refused}");
    drop(taken);
    create(json!([0, 1, 0])).unwrap();
    let made = sites.primary.call("link_get", json!({"name": "other"}));
    assert_eq!(made[0]["strands"].as_array().map(Vec::len), Some(3));
    sites.primary.call("link_delete", json!({"name": "other"}));
    create(json!([1, 1, 1])).unwrap();
}

#[test]
fn a_core_that_there_is_not_and_one_for_a_shared_stream_are_refused() {
    let sites = Sites::created(&Options { primary_flags: BOTH, ..Options::default() });
    let create = |scope: &str, core: u16| {
        let call = json!({"name": "other", "role": "primary", "link": "wan", "sequence_scope": scope, "core": core});
        sites.primary.try_call("group_create", call).unwrap_err().to_string()
    };
    let refused = create("group", 2);
    assert!(refused.contains("cores 0 to 1") && refused.contains("--cores"), "{refused}");
    let refused = create("system", 1);
    assert!(refused.contains("share a stream"), "{refused}");
    assert_eq!(group(&sites.primary).name, GROUP);
}

/// Makes a group "again" of one pair on these cores at both sites of a link, or takes it away.
fn make_again(sites: &Sites, core: u16) {
    std::thread::scope(|scope| {
        for (system, more) in [
            (&sites.secondary, json!({"role": "secondary", "journal": "again-journal"})),
            (&sites.primary, json!({"role": "primary"})),
        ] {
            scope.spawn(move || {
                let mut call = json!({"name": "again", "link": LINK, "core": core});
                call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                system.call("group_create", call);
                system.call("pair_create", json!({"group": "again", "name": "p", "volume": "again-medium"}));
            });
        }
    });
}

fn take_away(sites: &Sites) {
    for system in [&sites.primary, &sites.secondary] {
        // The secondary has to hear of it first.
        for (method, call) in
            [("pair_delete", json!({"group": "again", "name": "p"})), ("group_delete", json!({"name": "again"}))]
        {
            eventually(method, PATIENCE, || system.try_call(method, call.clone()).map_err(|error| error.to_string()));
        }
    }
}

#[test]
fn a_group_that_is_made_again_on_another_core_finds_there_what_it_left() {
    let mut sites = Sites::paired(&Options { primary_flags: BOTH, secondary_flags: BOTH, ..Options::default() });
    for system in [&sites.primary, &sites.secondary] {
        system.create_volume("again-journal", 16 * MIB, 4096);
        system.create_volume("again-medium", MIB, 4096);
    }
    let mut before = 0;
    for core in [0, 1, 0, 1] {
        make_again(&sites, core);
        let groups = sites.primary.call("group_get", json!({"name": "again"}));
        let epoch = groups[0]["streams"][0]["epoch"].as_u64().unwrap();
        assert!(epoch > before, "on core {core} epoch {epoch} begins, and {before} was before it");
        before = epoch;
        if core == 1 {
            // What was there at a start is known on all cores.
            for system in [&mut sites.primary, &mut sites.secondary] {
                system.stop();
                system.start_again_from_state();
            }
            eventually("the group", PATIENCE, || {
                let groups = sites.primary.call("group_get", json!({"name": "again"}));
                before = groups[0]["streams"][0]["epoch"].as_u64().unwrap_or_default();
                if groups[0]["state"] == "PAIR" { Ok(()) } else { Err(groups.to_string()) }
            });
        }
        take_away(&sites);
    }
}
