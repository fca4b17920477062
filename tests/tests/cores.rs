//! A group at home on another core than its link.

use longrun_rpc::methods::pair::PairState;
use longrun_tests::sites::{GROUP, Options, Sites, assert_closed, group};
use serde_json::json;
use std::time::Duration;

const MIB: u64 = 1 << 20;
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

fn is_taken_over_at_a_cut(options: &Options) {
    let mut sites = Sites::paired(options);
    for site in [&sites.primary, &sites.secondary] {
        assert_eq!(group(site).core, 1);
        assert_eq!(site.call("link_get", json!({}))[0]["core"], 0);
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
