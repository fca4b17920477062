use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::error::code;

/// One call of every method, with every parameter it knows, as it is written back.
fn examples() -> Vec<(&'static str, Value)> {
    let uuid = "6b8fa1f2-0c3f-4a51-9e49-000000000001";
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let nqn = "nqn.2026-11.io.longrun:s0";
    let address = json!({"trtype": "TCP", "traddr": "127.0.0.1", "adrfam": "IPv4", "trsvcid": "4420"});
    vec![
        ("bdev_malloc_create", json!({"num_blocks": 8, "block_size": 512, "name": "m0", "uuid": uuid})),
        ("bdev_malloc_delete", json!({"name": "m0"})),
        ("bdev_null_create", json!({"num_blocks": 8, "block_size": 4096, "name": "n0", "uuid": uuid})),
        ("bdev_null_delete", json!({"name": "n0"})),
        ("bdev_uring_create", json!({"name": "u0", "filename": "/x", "block_size": 512, "uuid": uuid})),
        ("bdev_uring_delete", json!({"name": "u0"})),
        ("bdev_uring_rescan", json!({"name": "u0"})),
        ("bdev_error_create", json!({"base_name": "m0", "uuid": uuid})),
        ("bdev_error_delete", json!({"name": "EE_m0"})),
        (
            "bdev_error_inject_error",
            json!({"name": "EE_m0", "io_type": "write_zeroes", "error_type": "failure", "num": 3}),
        ),
        (
            "bdev_delay_create",
            json!({"base_bdev_name": "m0", "name": "d0", "avg_read_latency": 1, "p99_read_latency": 2,
                   "avg_write_latency": 3, "p99_write_latency": 4, "uuid": uuid}),
        ),
        ("bdev_delay_delete", json!({"name": "d0"})),
        ("bdev_get_bdevs", json!({"name": "m0", "timeout": 5})),
        ("bdev_get_iostat", json!({"name": "m0", "per_channel": true, "reset_mode": "maxmin"})),
        (
            "nvmf_create_transport",
            json!({"trtype": "TCP", "max_queue_depth": 128, "max_io_qpairs_per_ctrlr": 4, "in_capsule_data_size": 8192,
                   "max_io_size": 131072, "max_aq_depth": 64, "c2h_success": false}),
        ),
        ("nvmf_get_transports", json!({"trtype": "TCP"})),
        (
            "nvmf_create_subsystem",
            json!({"nqn": nqn, "serial_number": "S", "model_number": "M", "max_namespaces": 3, "allow_any_host": true,
                   "ana_reporting": false, "min_cntlid": 1, "max_cntlid": 100}),
        ),
        ("nvmf_delete_subsystem", json!({"nqn": nqn})),
        ("nvmf_get_subsystems", json!({"nqn": nqn})),
        (
            "nvmf_subsystem_add_ns",
            json!({"nqn": nqn, "namespace": {"bdev_name": "m0", "nsid": 1, "uuid": uuid, "anagrpid": 1,
                   "nguid": "00112233445566778899AABBCCDDEEFF", "eui64": "0011223344556677"}}),
        ),
        ("nvmf_subsystem_remove_ns", json!({"nqn": nqn, "nsid": 1})),
        ("nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": address, "ana_state": "non_optimized"})),
        ("nvmf_subsystem_remove_listener", json!({"nqn": nqn, "listen_address": address})),
        (
            "nvmf_subsystem_listener_set_ana_state",
            json!({"nqn": nqn, "listen_address": address, "ana_state": "inaccessible", "anagrpid": 2}),
        ),
        ("nvmf_subsystem_add_host", json!({"nqn": nqn, "host": "nqn.2014-08.org.nvmexpress:h"})),
        ("nvmf_subsystem_remove_host", json!({"nqn": nqn, "host": "nqn.2014-08.org.nvmexpress:h"})),
        ("nvmf_subsystem_allow_any_host", json!({"nqn": nqn, "allow_any_host": true})),
        ("nvmf_subsystem_get_controllers", json!({"nqn": nqn})),
        ("nvmf_subsystem_get_qpairs", json!({"nqn": nqn})),
        ("nvmf_subsystem_get_listeners", json!({"nqn": nqn})),
        ("nvmf_get_stats", json!({})),
        ("framework_get_reactors", json!({})),
        ("framework_get_subsystems", json!({})),
        ("framework_get_config", json!({"name": "bdev"})),
        ("framework_start_init", json!({})),
        ("framework_wait_init", json!({})),
        ("rpc_get_methods", json!({"current": true, "include_aliases": true})),
        ("spdk_get_version", json!({})),
        ("spdk_kill_instance", json!({"sig_name": "SIGTERM"})),
        ("log_set_level", json!({"level": "DEBUG"})),
        ("log_get_level", json!({})),
        (
            "link_create",
            json!({"name": "west", "local_addr": "10.0.0.1:4700", "remote_addr": "10.0.0.2:4700",
                   "private_key_file": "/etc/key", "remote_public_key": key, "security": "noise", "mtu_bytes": 1400,
                   "loss_tolerance": 0.05, "rate_limit_bytes_per_s": 1000000, "transport": "xdp", "interface": "eth1",
                   "queue": 3, "need_wakeup": false, "busy_poll_us": 20}),
        ),
        ("link_delete", json!({"name": "west"})),
        ("link_get", json!({"name": "west"})),
        (
            "group_create",
            json!({"name": "g0", "role": "primary", "links": ["west", "east"], "sequence_scope": "pair",
                   "throttle_ms_max": 100, "buffer_bytes": 8388608, "overflow": "throttle", "spill": "s0", "copy_mib_per_s": 50}),
        ),
        ("group_delete", json!({"name": "g0"})),
        ("group_get", json!({"name": "g0"})),
        ("group_suspend", json!({"name": "g0"})),
        ("group_resync", json!({"name": "g0", "full": true})),
        ("group_bookmark", json!({"name": "g0", "bookmark": "before-upgrade"})),
        ("group_verify", json!({"name": "g0", "pair": "p0", "repair": true})),
        ("group_test_start", json!({"name": "g0", "store": "s0", "at": "before-upgrade"})),
        ("group_test_stop", json!({"name": "g0"})),
        (
            "group_takeover",
            json!({"name": "g0", "old_primary": "fenced", "accept_split": false, "at": "before-upgrade"}),
        ),
        ("group_failback", json!({"name": "g0", "journal": "j0", "discard_generation": 1, "discard_id": "00c0ffee"})),
        ("group_swap", json!({"name": "g0", "abandon": true, "discard_generation": 2})),
        (
            "pair_create",
            json!({"group": "g0", "name": "p0", "volume": "m0", "replica": "r0", "link": "west", "remote_volume": "q0",
                   "initial": "identical", "declared_identical": true}),
        ),
        ("pair_delete", json!({"group": "g0", "name": "p0"})),
        ("pair_resize", json!({"group": "g0", "name": "p0", "num_blocks": 4096})),
        ("pair_get", json!({"group": "g0", "name": "p0"})),
    ]
}

fn refused(method: &str, params: Value) -> RpcError {
    match Call::parse(method, params.clone()) {
        Err(error) => error,
        Ok(call) => panic!("{method} {params} was accepted as {call:?}"),
    }
}

#[test]
fn every_method_reads_its_parameters_and_writes_them_back_unchanged() {
    let examples = examples();
    let names: Vec<_> = examples.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, METHODS, "an example for every method, in the table's order");
    for (name, params) in examples {
        let call = Call::parse(name, params.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(call.method(), name);
        assert_eq!(call.params(), params, "{name}");
    }
}

#[test]
fn every_method_refuses_an_unknown_parameter_by_name_and_lists_the_known_ones() {
    for (name, mut params) in examples() {
        let known: Vec<String> = params.as_object().unwrap().keys().cloned().collect();
        params.as_object_mut().unwrap().insert("bogus".into(), json!(1));
        let error = refused(name, params);
        assert_eq!(error.code, code::INVALID_PARAMS, "{name}");
        assert!(error.message.starts_with(&format!("{name}: unknown parameter `bogus`")), "{}", error.message);
        for known in known {
            assert!(error.message.contains(&format!("`{known}`")), "{name} does not list {known}: {}", error.message);
        }
    }
}

#[test]
fn an_unknown_parameter_within_an_object_is_shown_with_the_object() {
    let error = refused("nvmf_subsystem_add_ns", json!({"nqn": "n", "namespace": {"bdev_name": "m", "nsdi": 1}}));
    assert!(error.message.contains(": namespace: unknown parameter `nsdi`, expected"), "{}", error.message);
}

#[test]
fn an_unknown_name_of_any_length_is_cut_in_the_message_and_what_was_expected_is_not() {
    let error = refused("pair_get", json!({"y".repeat(100_000): 1}));
    assert!(error.message.len() < 2000, "{} bytes", error.message.len());
    assert!(error.message.ends_with("expected `group` or `name`"), "{}", error.message);
}

#[test]
fn parameters_of_no_method_may_be_a_list_or_a_wrong_type() {
    for (name, params) in examples() {
        assert_eq!(refused(name, json!([1])).code, code::INVALID_PARAMS, "{name}");
        for parameter in params.as_object().unwrap().keys() {
            let mut wrong = params.clone();
            wrong[parameter] = json!({"unexpected": []});
            let error = refused(name, wrong);
            assert_eq!(error.code, code::INVALID_PARAMS, "{name}");
            assert!(error.message.starts_with(&format!("{name}: {parameter}")), "{}", error.message);
        }
    }
}

#[test]
fn a_missing_parameter_is_named() {
    let error = refused("bdev_malloc_create", json!({"num_blocks": 1}));
    assert!(error.message.contains("missing parameter `block_size`"), "{}", error.message);
    let error = refused("nvmf_subsystem_add_ns", json!({"nqn": "nqn.a:b", "namespace": {}}));
    assert!(error.message.contains("namespace: missing parameter `bdev_name`"), "{}", error.message);
}

#[test]
fn aliases_reach_the_same_method() {
    let params = json!({"name": "a0", "filename": "/x", "block_size": 512});
    let call = Call::parse("bdev_aio_create", params.clone()).unwrap();
    assert_eq!(call, Call::parse("bdev_uring_create", params).unwrap());
    assert_eq!(call.method(), "bdev_uring_create");
    let error = refused("bdev_aio_create", json!({}));
    assert!(error.message.starts_with("bdev_aio_create:"), "the caller's own word: {}", error.message);
}

#[test]
fn omitted_and_null_parameters_are_the_same() {
    assert_eq!(Call::parse("bdev_get_bdevs", Value::Null), Call::parse("bdev_get_bdevs", json!({"name": null})));
    let create = json!({"name": "u0", "filename": "/x", "block_size": null, "uuid": null});
    assert_eq!(Call::parse("bdev_uring_create", create).unwrap().params(), json!({"name": "u0", "filename": "/x"}));
}

#[test]
fn defaults_that_spdks_client_sends_are_accepted_and_what_they_would_turn_on_is_not() {
    let namespace = |hide: Value| json!({"nqn": "nqn.a:b", "namespace": {"bdev_name": "m0", "hide_metadata": hide}});
    assert!(Call::parse("nvmf_subsystem_add_ns", namespace(json!(false))).is_ok());
    let error = refused("nvmf_subsystem_add_ns", namespace(json!(true)));
    assert!(error.message.contains("`namespace.hide_metadata` is true"), "{}", error.message);

    let listener = |secure: Value| {
        json!({"nqn": "nqn.a:b", "listen_address": {"trtype": "tcp", "traddr": "::1", "trsvcid": 4420},
               "secure_channel": secure, "tgt_name": ""})
    };
    assert!(Call::parse("nvmf_subsystem_add_listener", listener(json!(false))).is_ok());
    let error = refused("nvmf_subsystem_add_listener", listener(json!(true)));
    assert!(error.message.contains("`secure_channel` is true") && error.message.contains("leave it out"));

    let transport = json!({"trtype": "TCP", "io_unit_size": 131072, "in_capsule_data_size": 8192, "no_srq": false,
                           "c2h_success": true, "zcopy": false, "dif_insert_or_strip": false});
    assert!(Call::parse("nvmf_create_transport", transport).is_ok());
    let dif = json!({"trtype": "TCP", "dif_insert_or_strip": true});
    assert_eq!(refused("nvmf_create_transport", dif).code, code::INVALID_PARAMS);
}

#[test]
fn rules_between_parameters_are_told_in_a_sentence_that_says_what_to_do() {
    let link = |more: Value| {
        let mut link = json!({"name": "w", "local_addr": "10.0.0.1:1", "remote_addr": "10.0.0.2:1"});
        link.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        link
    };
    let primary = |more: Value| {
        let mut group = json!({"name": "g", "role": "primary", "link": "w"});
        group.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        group
    };
    let secondary = |more: Value| {
        let mut group = json!({"name": "g", "role": "secondary", "link": "w", "journal": "j"});
        group.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        group
    };
    let transport = |more: Value| {
        let mut transport = json!({"trtype": "TCP"});
        transport.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        transport
    };
    let delay = json!({"base_bdev_name": "m", "name": "d", "avg_read_latency": 9, "p99_read_latency": 2,
                       "avg_write_latency": 3, "p99_write_latency": 4});
    let cases = [
        ("link_create", link(json!({})), "remote_public_key is missing"),
        ("link_create", link(json!({"security": "none", "mtu_bytes": 100})), "expected 1200 to 8952"),
        ("link_create", link(json!({"security": "none", "loss_tolerance": 2})), "from 0 to 1"),
        ("link_create", link(json!({"security": "none", "remote_addr": "[::1]:5"})), "different address families"),
        ("link_create", link(json!({"security": "none", "remote_addr": "0.0.0.0:5"})), "no place to send to"),
        ("link_create", link(json!({"security": "none", "local_addr": "10.0.0.1:0"})), "has no port"),
        ("link_create", link(json!({"remote_public_key": "short"})), "longrun keygen"),
        ("link_create", link(json!({"security": "none", "cores": []})), "expected 1 to 16 cores"),
        (
            "link_create",
            link(json!({"security": "none", "cores": [0, 1], "local_addr": "10.0.0.1:65535"})),
            "takes 2 ports in a row, and local_addr 10.0.0.1:65535",
        ),
        ("link_create", link(json!({"security": "none", "queue": 1})), "give transport \"xdp\" too"),
        ("link_create", link(json!({"security": "none", "transport": "xdp"})), "interface is missing"),
        ("link_create", link(json!({"security": "none", "transport": "tcp"})), "expected `udp` or `xdp`"),
        (
            "link_create",
            link(json!({"security": "none", "transport": "xdp", "interface": "e", "queue": u32::MAX, "cores": [0, 1]})),
            "queue is 4294967295, with 2 queues in a row, one for each core, expected 0 to 65534",
        ),
        (
            "link_create",
            link(json!({"security": "none", "transport": "xdp", "interface": "e", "queue": 65_535, "cores": [0, 1]})),
            "expected 0 to 65534",
        ),
        (
            "link_create",
            link(json!({"security": "none", "transport": "xdp", "interface": "e", "queue": 65_536})),
            "queue is 65536, expected 0 to 65535",
        ),
        (
            "link_create",
            link(
                json!({"security": "none", "transport": "xdp", "interface": "e", "local_addr": "[::1]:4", "remote_addr": "[::1]:5"}),
            ),
            "raw frames are IPv4",
        ),
        ("group_create", json!({"name": "g", "role": "primary"}), "`link` is missing"),
        ("group_create", json!({"name": "g", "role": "primary", "links": []}), "`link` is missing"),
        ("group_create", primary(json!({"links": ["w"]})), "not both"),
        ("group_failback", json!({"name": "g", "journal": "j"}), "`discard_generation` is missing"),
        ("group_failback", json!({"name": "g", "discard_id": "1"}), "`discard_id` goes with `discard_generation`"),
        (
            "group_failback",
            json!({"name": "g", "discard_generation": 1, "discard_id": "x"}),
            "up to 16 hexadecimal digits",
        ),
        ("group_swap", json!({"name": "g", "abandon": true}), "`discard_generation` is missing"),
        ("group_swap", json!({"name": "g", "discard_generation": 2}), "`discard_generation` is for `abandon`"),
        (
            "group_swap",
            json!({"name": "g", "abandon": true, "discard_generation": 2, "journal": "j"}),
            "`journal` is given with `abandon`",
        ),
        ("group_create", json!({"name": "g", "role": "secondary", "link": "w"}), "`journal` is missing"),
        (
            "group_create",
            json!({"name": "g", "role": "secondary", "link": "w", "journal": "j", "sequence_scope": "pair"}),
            "belongs to the primary",
        ),
        ("group_create", json!({"name": "g", "role": "primary", "links": ["w", "w"]}), "twice"),
        ("group_create", primary(json!({"throttle_ms_max": 60_000})), "expected 0 to 10000"),
        ("group_create", primary(json!({"buffer_bytes": 1})), "at least 4194304"),
        ("group_create", primary(json!({"name": "g 0"})), "cannot be a name"),
        ("group_create", primary(json!({"overlay": "o"})), "needs a `journal` too"),
        ("group_create", primary(json!({"apply_delay_s": 1})), "needs a `journal` too"),
        ("group_create", primary(json!({"overflow": "explode"})), "expected `throttle` or `suspend`"),
        ("group_create", primary(json!({"overflow": "suspend", "throttle_ms_max": 5})), "hosts are not slowed"),
        ("group_create", primary(json!({"copy_mib_per_s": 0})), "nonzero"),
        ("group_create", secondary(json!({"sequence_scope": "group"})), "belongs to the primary"),
        ("group_create", secondary(json!({"overlay": "j"})), "of its own"),
        ("group_create", secondary(json!({"apply_delay_s": 700_000})), "expected 0 to 604800"),
        ("group_create", primary(json!({"spill": "s", "sequence_scope": "system"})), "only; leave one out"),
        ("group_create", secondary(json!({"spill": "j"})), "of its own"),
        ("group_bookmark", json!({"name": "g", "bookmark": "a b"}), "cannot be a name"),
        ("group_bookmark", json!({"name": "g"}), "missing parameter `bookmark`"),
        ("group_takeover", json!({"name": "g", "old_primary": "fenced", "at": "a b"}), "neither a time nor"),
        ("group_takeover", json!({"name": "g", "old_primary": "fenced", "at": -1}), "neither a time nor"),
        (
            "pair_create",
            json!({"group": "g", "name": "p", "volume": "v", "initial": "copy", "declared_identical": true}),
            "contradict",
        ),
        ("pair_create", json!({"group": "g", "name": "p", "volume": "v", "initial": "full"}), "`copy_differences`"),
        ("group_test_start", json!({"name": "g"}), "missing parameter `store`"),
        ("group_test_start", json!({"name": "g", "store": "s", "at": "a b"}), "neither a time nor"),
        ("group_test_stop", json!({"name": "g", "force": true}), "unknown parameter"),
        ("group_takeover", json!({"name": "g"}), "fence it"),
        ("group_takeover", json!({"name": "g", "accept_split": false}), "fence it"),
        ("group_takeover", json!({"name": "g", "accept_split": true, "old_primary": "fenced"}), "not both"),
        ("pair_create", json!({"group": "g", "name": "v", "volume": "v"}), "name of the volume below"),
        ("bdev_malloc_create", json!({"num_blocks": 1, "block_size": 520}), "512 or 4096"),
        ("bdev_malloc_create", json!({"num_blocks": 0, "block_size": 512}), "nonzero"),
        ("bdev_uring_create", json!({"name": "u", "filename": ""}), "filename is empty"),
        ("bdev_get_iostat", json!({"name": "a", "names": ["b"]}), "not both"),
        ("bdev_get_iostat", json!({"per_channel": true}), "needs `name`"),
        ("bdev_delay_create", delay, "p99_read_latency is 2 us"),
        ("nvmf_create_transport", json!({"trtype": "RDMA"}), "expected TCP"),
        ("nvmf_create_transport", transport(json!({"in_capsule_data_size": 5000})), "multiple of 4096"),
        ("nvmf_create_transport", transport(json!({"max_queue_depth": 1})), "expected 2 to 4096"),
        ("nvmf_create_subsystem", json!({"nqn": "iqn.x"}), "is not an NQN"),
        ("nvmf_create_subsystem", json!({"nqn": "nqn.x:y", "serial_number": "s".repeat(21)}), "at most 20"),
        ("nvmf_create_subsystem", json!({"nqn": "nqn.x:y", "model_number": "\u{e9}"}), "printable ASCII"),
        ("nvmf_create_subsystem", json!({"nqn": "nqn.x:y", "min_cntlid": 9, "max_cntlid": 8}), "the least first"),
        ("nvmf_create_subsystem", json!({"nqn": "nqn.x:y", "max_cntlid": 65530}), "65519"),
        ("nvmf_create_subsystem", json!({"nqn": "nqn.x:y", "max_namespaces": 0}), "expected 1 to 1024"),
        (
            "nvmf_subsystem_add_ns",
            json!({"nqn": "n", "namespace": {"bdev_name": "m", "nsid": u32::MAX}}),
            "all namespaces",
        ),
        (
            "nvmf_subsystem_add_listener",
            json!({"nqn": "n", "listen_address": {"trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": "0"}}),
            "1 to 65535",
        ),
        (
            "nvmf_subsystem_add_listener",
            json!({"nqn": "n", "listen_address": {"trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": "4420"},
                   "ana_state": "change"}),
            "only shown",
        ),
        (
            "nvmf_subsystem_listener_set_ana_state",
            json!({"nqn": "n", "listen_address": {"trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": "4420"},
                   "ana_state": "optimized", "anagrpid": 0}),
            "anagrpid is 0",
        ),
        ("spdk_kill_instance", json!({"sig_name": "SIGSTOP"}), "expected SIGTERM"),
        ("log_set_level", json!({"level": "LOUD"}), "expected DISABLED"),
    ];
    for (method, params, part) in cases {
        let error = refused(method, params);
        assert_eq!(error.code, code::INVALID_PARAMS);
        assert!(error.message.contains(part), "{method}: {}", error.message);
    }
}

#[test]
fn a_takeover_goes_to_a_time_in_either_form_or_to_a_bookmark() {
    use crate::types::TakeoverPoint;
    let point = |at: Value| {
        let params = json!({"name": "g", "accept_split": true, "at": at});
        match Call::parse("group_takeover", params).unwrap() {
            Call::GroupTakeover(takeover) => takeover.at.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(point(json!(951_868_800_000_000_001_u64)), TakeoverPoint::Time(951_868_800_000_000_001));
    assert_eq!(point(json!("2000-03-01 00:00:00.000000001 UTC")), TakeoverPoint::Time(951_868_800_000_000_001));
    assert_eq!(point(json!("2000-03-01T00:00:00Z")), TakeoverPoint::Time(951_868_800_000_000_000));
    assert_eq!(point(json!("nightly")), TakeoverPoint::Bookmark("nightly".parse().unwrap()));
    // As text it is a name: a number is a time.
    assert_eq!(point(json!("17")), TakeoverPoint::Bookmark("17".parse().unwrap()));
}

#[test]
fn both_words_for_identical_volumes_mean_the_same() {
    let initial = |more: Value| {
        let mut params = json!({"group": "g", "name": "p", "volume": "v"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        match Call::parse("pair_create", params).unwrap() {
            Call::PairCreate(create) => create.initial(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(initial(json!({})), pair::Initial::Empty);
    assert_eq!(initial(json!({"declared_identical": false})), pair::Initial::Empty);
    assert_eq!(initial(json!({"declared_identical": true})), pair::Initial::Identical);
    assert_eq!(initial(json!({"initial": "identical", "declared_identical": true})), pair::Initial::Identical);
    assert_eq!(initial(json!({"initial": "copy_differences"})), pair::Initial::CopyDifferences);
}

#[test]
fn an_unknown_method_has_its_own_code() {
    assert_eq!(refused("bdev_lvol_create", json!({})).code, code::METHOD_NOT_FOUND);
    assert_eq!(refused("", Value::Null).code, code::METHOD_NOT_FOUND);
}

#[test]
fn signals_and_levels_are_read_in_every_form_spdk_takes() {
    for text in [json!("SIGTERM"), json!("TERM"), json!("15"), json!(15)] {
        let call = Call::parse("spdk_kill_instance", json!({"sig_name": text})).unwrap();
        assert_eq!(call.params(), json!({"sig_name": "SIGTERM"}));
    }
    let call = Call::parse("log_set_level", json!({"level": "warning"})).unwrap();
    assert_eq!(call.params(), json!({"level": "WARNING"}));
}

#[test]
fn the_list_of_methods_names_aliases_only_when_asked() {
    let plain = framework::RpcGetMethods::default().answer();
    assert_eq!(plain.len(), METHODS.len());
    let all = framework::RpcGetMethods { include_aliases: Some(true), ..Default::default() }.answer();
    assert!(all.contains(&"bdev_aio_create".to_owned()) && !plain.contains(&"bdev_aio_create".to_owned()));
}

#[test]
fn states_and_certificates_are_written_in_the_words_of_the_trade() {
    assert_eq!(serde_json::to_value(pair::PairState::Pfus).unwrap(), json!("PFUS"));
    for state in ["SMPL", "COPY", "PAIR", "PFUL", "PFUS", "PSUS", "PSUE", "SSWS"] {
        let parsed: pair::PairState = serde_json::from_value(json!(state)).unwrap();
        assert_eq!(parsed.word(), state);
    }
    let certificate = json!({
        "group": "g0", "recovery_point_ns": 1_763_766_000_000_000_123_u64, "clock_error_ns": 100,
        "generation": {"number": 2, "id": "b", "parent": "a"},
        "streams": [{"stream": 1, "epoch": 3, "last_applied": 10, "seen_not_applied": [{"first": 12, "last": 14}],
                     "highest_announced": 20}],
        "volumes": [{"name": "p0", "uuid": "6b8fa1f2-0c3f-4a51-9e49-000000000001",
                     "nguid": "00112233445566778899AABBCCDDEEFF"}],
        "split_accepted": false
    });
    let parsed: group::LossCertificate = serde_json::from_value(certificate.clone()).unwrap();
    assert_eq!(serde_json::to_value(parsed).unwrap(), certificate, "nanoseconds keep their last digit");
}

proptest! {
    #[test]
    fn a_message_about_any_value_stays_short(text in "\\PC{0,5000}") {
        for params in [json!({"name": text}), json!({text.clone(): 1}), json!({"name": "a", "role": text})] {
            for method in ["group_create", "link_create", "bdev_null_create", text.as_str()] {
                if let Err(error) = Call::parse(method, params.clone()) {
                    prop_assert!(error.message.len() < 4096, "{} bytes", error.message.len());
                }
            }
        }
    }
}
