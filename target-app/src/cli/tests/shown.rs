//! What the server's answers look like.

use super::*;

#[test]
fn lists_are_lines_under_headings_with_numbers_to_the_right() {
    assert_eq!(
        table::volumes(&[
            bdev_info(),
            BdevInfo { name: "a-longer-name".into(), num_blocks: 3, claimed_by: None, claimed: false, ..bdev_info() }
        ]),
        "\
NAME             SIZE  BLOCK  KIND    USED BY              UUID
m0              1 GiB   4096  malloc  pair p0 of group g0  6b8fa1f2-0c3f-4a51-9e49-000000000001
a-longer-name  12 KiB   4096  malloc  -                    6b8fa1f2-0c3f-4a51-9e49-000000000001
"
    );
    assert_eq!(
        table::groups(&[group_info()]),
        "\
NAME  ROLE       STATE  CONSISTENT    RPO  BEHIND  RECORDS  PAIRS  LINKS  CORE  REASON
g0    secondary  PAIR   yes         12 ms   8 KiB        2      2  east      1  -
"
    );
    assert_eq!(
        table::links(&[link_info()]),
        "\
NAME  STATE   FOR  LOCAL          REMOTE             RTT  SENT  RESENT  RECEIVED  SECURITY  CORE
west  up     66 s  10.0.0.1:4700  10.0.0.2:4700  10.4 ms     7       1         0  noise        0
"
    );
    let pairs = table::pairs(&[pair_info()]);
    assert!(pairs.contains("PFUS") && pairs.contains("66 s") && pairs.contains("west:p0"), "{pairs}");
    assert_eq!(table::pairs(&[]), "no pairs; longrun pair create makes one\n");
}

#[test]
fn one_group_shows_its_recovery_point_limit_time_and_streams() {
    assert_eq!(
        table::group(&group_info()),
        "\
name            g0
role            secondary
state           PAIR (copied)
consistent      yes
reason          -
recovery point  2025-11-21 23:00:00.123456789 UTC
rpo             12 ms
limit time      2025-11-21 23:00:00.223456789 UTC
behind          0.013 s, 8 KiB, 2 records
generation      1 (a1b2)
sequence scope  group
links           east
core            1
pairs           p0, p1
journal         j0, 7 % used

STREAM  LINK  EPOCH  RECEIVED  DURABLE  ANNOUNCED  TIP                                BROKEN
     1  east      3       102      100        105  2025-11-21 23:00:00.223456789 UTC  -
"
    );
}

#[test]
fn a_suspension_and_a_bookmark_say_when_and_what_comes_next() {
    let ns = 951_868_800_000_000_000_u64;
    let (outcome, _) = against(vec![Ok(json!({"at_ns": ns, "drained": true}))], "longrun group suspend g0");
    let shown = outcome.unwrap();
    assert!(shown.contains("2000-03-01 00:00:00.000000000 UTC") && shown.contains("everything up to then"), "{shown}");
    assert!(shown.contains("longrun group resync g0"), "{shown}");
    let (outcome, _) = against(vec![Ok(json!({"at_ns": ns, "drained": false}))], "longrun group suspend g0");
    assert!(outcome.unwrap().contains("what it lacks is marked"));
    let (outcome, calls) = against(vec![Ok(json!({"name": "b", "time_ns": ns}))], "longrun group bookmark g0 b");
    assert_eq!(outcome.unwrap(), "bookmark b of group g0 is 2000-03-01 00:00:00.000000000 UTC\n");
    assert_eq!(calls, [("group_bookmark".to_owned(), json!({"name": "g0", "bookmark": "b"}))]);
}

#[test]
fn a_test_is_begun_with_its_store_and_moment_and_shows_what_hosts_may_use() {
    let uuid = "0b5f1d7e-4f0c-4d9c-9a60-3b1d1c0a4a01";
    let volumes = json!([{"pair": "p0", "name": "m0@test", "uuid": uuid, "nguid": "0b5f1d7e4f0c4d9c9a603b1d1c0a4a01"}]);
    let (outcome, calls) = against(vec![Ok(volumes)], "longrun group test start g0 --store s0 --at nightly");
    let shown = outcome.unwrap();
    assert!(shown.contains("m0@test") && shown.contains(uuid), "{shown}");
    assert!(shown.contains("longrun group test stop g0"), "{shown}");
    assert_eq!(calls, [("group_test_start".to_owned(), json!({"name": "g0", "store": "s0", "at": "nightly"}))]);
    let (outcome, calls) = against(vec![Ok(json!(true))], "longrun group test stop g0");
    assert_eq!(outcome.unwrap(), "the test of group g0 is over; its store is free\n");
    assert_eq!(calls, [("group_test_stop".to_owned(), json!({"name": "g0"}))]);
}

#[test]
fn one_group_shows_its_window_its_bookmarks_and_how_far_a_resync_is() {
    let base = 1_763_766_000_000_000_000_u64;
    let mut group = serde_json::to_value(group_info()).unwrap();
    group["window"] = json!({"from_ns": base, "until_ns": base + 10});
    group["bookmarks"] = json!([{"name": "old", "time_ns": base - 1}, {"name": "new", "time_ns": base + 10}]);
    group["unit"] = json!({"base_ns": base, "overlaid": true, "reason": "the primary has more to send"});
    group["copying"] = json!(["p1"]);
    group["overlay"] = json!("o0");
    group["overlay_used"] = json!(0.011);
    group["test"] = json!({
        "state": "failed", "reason": "the store is full", "cut_ns": base, "age_ms": 65_001, "store": "s0",
        "store_bytes": 1 << 20, "store_used_bytes": 1 << 20, "volumes": ["m0@test"]
    });
    let shown = table::group(&serde_json::from_value(group).unwrap());
    for part in [
        "takeover window  2025-11-21 23:00:00.000000000 UTC to 2025-11-21 23:00:00.000000010 UTC",
        "resync           a takeover gives 2025-11-21 23:00:00.000000000 UTC until it is complete, old blocks in the overlay",
        "first copy of    p1: a takeover leaves these out",
        "overlay          o0, 2 % used",
        "test             FAILED: the store is full, shows 2025-11-21 23:00:00.000000000 UTC",
        "in m0@test; 1 MiB of 1 MiB of s0 used",
        "new       2025-11-21 23:00:00.000000010 UTC  yes",
        "old       2025-11-21 22:59:59.999999999 UTC  no",
    ] {
        assert!(shown.contains(part), "{part} is missing:\n{shown}");
    }
    let mut group = serde_json::to_value(group_info()).unwrap();
    (group["dirty_bytes"], group["missing_bytes"]) = (json!(1 << 20), json!(1 << 16));
    (group["resync"], group["next_attempt_ms"]) = (json!(3), json!(2500));
    group["copy"] = json!({"bytes_total": 200, "bytes_done": 50, "bytes_per_s": 0, "reason": "no session"});
    group["verify"] = json!({"bytes_total": 8, "bytes_done": 8, "over": true, "repair": false, "bytes_differing": 0,
                             "bytes_unreadable": 0});
    group["spill"] = json!({"device": "s0", "state": "failing", "used_bytes": 4096, "limit_bytes": 1 << 20, "records": 7,
                            "bytes": 3 << 10, "reason": "the spill is full"});
    let shown = table::group(&serde_json::from_value(group).unwrap());
    for part in [
        "spill           s0, 4 KiB of 1 MiB used, 7 records (3 KiB) wait there, FAILING: the spill is full",
        "marked          1 MiB, of which 64 KiB need a resync",
        "copy            [#####...............] 25 % of 200 B, stands still",
        "copy reason     no session",
        "next attempt    in 2500 ms",
        "verify          8 B compared; nothing differs",
    ] {
        assert!(shown.contains(part), "{part} is missing:\n{shown}");
    }
}

#[test]
fn a_pair_shows_where_the_two_volumes_differ_and_a_list_shows_a_bar() {
    let mut pair = serde_json::to_value(pair_info()).unwrap();
    pair["verify"] = json!({"bytes_total": 8, "bytes_done": 8, "over": true, "repair": true, "bytes_differing": 65536,
                            "bytes_unreadable": 0, "differing": [{"lba": 16, "blocks": 16}, {"lba": 99, "blocks": 1}]});
    let shown = table::pair(&serde_json::from_value(pair).unwrap());
    assert!(shown.contains("64 KiB DIFFER, copied again"), "{shown}");
    let rows: Vec<Vec<&str>> = shown.lines().rev().take(2).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["99", "99"], ["16", "31"]]);
    let mut pair = serde_json::to_value(pair_info()).unwrap();
    pair["state"] = json!("COPY");
    pair["copy"] = json!({"bytes_total": 100, "bytes_done": 48, "bytes_per_s": 125_829_120, "estimate_s": 3});
    let shown = table::pairs(&[serde_json::from_value(pair).unwrap()]);
    assert!(shown.contains("[#########...........] 48 % of 100 B, 120 MiB/s, 3 s left"), "{shown}");
}

#[test]
fn a_watch_looks_again_until_all_pairs_copy() {
    let group = |state: &str| {
        let mut group = serde_json::to_value(group_info()).unwrap();
        group["state"] = json!(state);
        Ok(json!([group]))
    };
    let pairs = |state: &str| {
        let mut pair = serde_json::to_value(pair_info()).unwrap();
        pair["state"] = json!(state);
        Ok(json!([pair]))
    };
    let answers = vec![group("COPY"), pairs("COPY"), group("PAIR"), pairs("COPY"), group("PAIR"), pairs("PAIR")];
    let (outcome, calls) = against(answers, "longrun group watch g0");
    assert!(outcome.unwrap().starts_with("group g0: PAIR (copied), the copy is 12 ms old"));
    assert_eq!(calls.len(), 6);
    let (outcome, _) = against(vec![pairs("COPY"), pairs("PAIR")], "longrun pair list g0 --watch --json");
    assert_eq!(serde_json::from_str::<Value>(&outcome.unwrap()).unwrap()[0]["state"], "PAIR");
    let answers = (0..8).flat_map(|_| [group("PSUS"), pairs("PSUS")]).collect();
    let (outcome, _) = against(answers, "longrun group watch g0");
    assert!(outcome.unwrap_err().to_string().contains("longrun group resync g0"));
    let (outcome, _) = against(vec![Err(RpcError::not_found("group", "g0", "group_get"))], "longrun group watch g0");
    assert!(outcome.is_err());
}

#[test]
fn one_pair_shows_what_it_waits_for_and_what_is_unknown() {
    let shown = table::pair(&pair_info());
    assert!(shown.contains("waiting        for peer: the link to come up (for 1500 ms of 10 s)"), "{shown}");
    assert!(shown.contains("behind         -, - records"), "unknown is not zero: {shown}");
    assert!(shown.contains("state          PFUS (suspended by overflow)"), "{shown}");
    assert!(table::link(&link_info()).contains("frames resent      1 (0 believed lost)"));
    assert!(table::volume(&bdev_info()).contains("size     1 GiB (262144 blocks of 4096 bytes)"));
}

#[test]
fn a_certificate_names_every_number_that_was_lost() {
    assert_eq!(
        table::certificate(&certificate()),
        "\
group           g0, taken over; its volumes are writable
recovery point  2000-02-29 00:00:00.000000001 UTC
clock error     up to 100 ns
generation      2 (b2, from a1)

STREAM  EPOCH  LAST APPLIED  HIGHEST ANNOUNCED  SEEN, NOT APPLIED
     1      3            10                 20  12-14, 17

What the old primary stamped beyond the highest announced number is unknown, and lost.

VOLUME  NEW UUID                              NEW NGUID
p0      6b8fa1f2-0c3f-4a51-9e49-000000000001  00112233445566778899AABBCCDDEEFF
"
    );
    let split = LossCertificate { split_accepted: true, ..certificate() };
    assert!(table::certificate(&split).contains("The old primary was not fenced"));
}

#[test]
fn ages_are_never_shown_below_the_true_one() {
    for (ms, text) in [
        (0, "0 ms"),
        (9_999, "9999 ms"),
        (10_000, "10 s"),
        (10_001, "11 s"),
        (600_001, "11 min"),
        (36_000_001, "11 h"),
        (864_000_001, "11 days"),
        (u64::MAX, "213503982335 days"),
    ] {
        assert_eq!(table::span_ms(ms), text);
    }
}

#[test]
fn a_reason_from_elsewhere_cannot_break_the_table() {
    let mut group = group_info();
    group.reason = Some("first\nsecond\u{1b}[2J".to_owned());
    let shown = table::groups(&[group]);
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(!shown.contains('\u{1b}'));
}

#[test]
fn averages_without_operations_are_unknown() {
    let stat: Iostat = serde_json::from_value(json!({
        "tick_rate": 1_000_000_000, "ticks": 1,
        "bdevs": [{"name": "m0", "num_read_ops": 2, "bytes_read": 8192, "read_latency_ticks": 50_000}]
    }))
    .unwrap();
    assert_eq!(
        table::iostat(&stat),
        "\
NAME  READS   READ  AVG US  WRITES  WRITTEN  AVG US  FLUSHES  FAILED
m0        2  8 KiB      25       0      0 B       -        0       0
"
    );
}

#[test]
fn accounts_are_told_for_each_core_and_since_the_first_of_two_looks() {
    let reactors = |cycles: u64| {
        let steps = json!([{"step": "idle", "entered": 1, "cycles": 5 * cycles}, {"step": "stamp", "entered": 2 * cycles, "cycles": 3 * cycles},
                           {"step": "merge", "entered": 0, "cycles": 0}]);
        let accounts = json!({"cycles_per_s": 1_000_000_000, "steps": steps});
        Ok(
            json!({"tick_rate": 1, "pid": 1, "reactors": [{"lcore": 3, "tid": 1, "busy": 0, "idle": 0, "in_interrupt": true, "accounts": accounts}]}),
        )
    };
    let (outcome, calls) = against(vec![reactors(1000), reactors(3000)], "longrun accounting --seconds 1");
    assert_eq!(methods(&calls), ["framework_get_reactors"; 2]);
    assert_eq!(
        outcome.unwrap(),
        "\
CORE  STEP   ENTERED     MS  NS EACH     %
   3  idle         0  0.010        -  62.5
   3  stamp     4000  0.006        2  37.5
"
    );
    let (since_the_start, _) = against(vec![reactors(1000)], "longrun accounting");
    assert!(since_the_start.unwrap().contains("2000"));
    let without = json!({"tick_rate": 1, "pid": 1, "reactors": [{"lcore": 3, "tid": 1, "busy": 0, "idle": 0, "in_interrupt": true}]});
    let (outcome, _) = against(vec![Ok(without)], "longrun accounting");
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("cargo build --release --features accounting"), "{error}");
}
