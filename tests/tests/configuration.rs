//! `save_config`, and what operators are told.

use longrun_rpc::error::code;
use longrun_tests::process::{Longrun, free_tcp, free_udp, listen_address};
use longrun_tests::sites::{GROUP, LINK, Options, Sites};
use serde_json::{Value, json};

/// The configuration of all subsystems, as the process itself says it.
fn configuration(system: &Longrun) -> Value {
    let subsystems = system.call("framework_get_subsystems", json!({}));
    let names = subsystems.as_array().expect("a list").iter().map(|subsystem| subsystem["subsystem"].clone());
    names
        .map(|name| json!({"subsystem": name, "config": system.call("framework_get_config", json!({"name": name}))}))
        .collect()
}

/// How many calls a subsystem's configuration has.
fn calls(configuration: &Value, subsystem: &str) -> usize {
    let found = configuration.as_array().unwrap().iter().find(|entry| entry["subsystem"] == subsystem);
    found.and_then(|entry| entry["config"].as_array()).map_or(0, Vec::len)
}

const NQN: &str = "nqn.2026-11.io.longrun:configured";

#[test]
fn a_new_process_started_from_the_saved_configuration_is_in_the_same_state() {
    let directory = tempfile::tempdir().unwrap();
    let mut system = Longrun::start(directory.path());
    let create = |method: &str, params: Value| {
        system.call(method, params);
    };
    create("bdev_malloc_create", json!({"name": "m0", "num_blocks": 2048, "block_size": 512}));
    create("bdev_malloc_create", json!({"name": "m1", "num_blocks": 2048, "block_size": 4096}));
    create("bdev_null_create", json!({"name": "n0", "num_blocks": 1 << 20, "block_size": 4096}));
    system.create_volume("u0", 4 << 20, 4096);
    create("bdev_error_create", json!({"base_name": "m1"}));
    let delay = json!({
        "base_bdev_name": "EE_m1", "name": "d0", "avg_read_latency": 10, "p99_read_latency": 20,
        "avg_write_latency": 30, "p99_write_latency": 40,
    });
    create("bdev_delay_create", delay);
    create("nvmf_create_transport", json!({"trtype": "TCP", "max_queue_depth": 64}));
    let subsystem = json!({"nqn": NQN, "serial_number": "LR0001", "model_number": "Model", "max_namespaces": 8});
    create("nvmf_create_subsystem", subsystem);
    create("nvmf_subsystem_add_host", json!({"nqn": NQN, "host": "nqn.2026-11.io.longrun:host-a"}));
    create("nvmf_subsystem_add_host", json!({"nqn": NQN, "host": "nqn.2026-11.io.longrun:host-b"}));
    for (nsid, bdev) in [(1, "m0"), (3, "n0"), (4, "u0"), (7, "d0")] {
        create("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": bdev, "nsid": nsid}}));
    }
    for _ in 0..2 {
        create("nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": listen_address(free_tcp())}));
    }
    create("log_set_level", json!({"level": "WARNING"}));

    let before = configuration(&system);
    assert_eq!((calls(&before, "bdev"), calls(&before, "nvmf")), (6, 1 + 1 + 2 + 4 + 2), "{before:#}");
    let shown = system.call("nvmf_get_subsystems", json!({"nqn": NQN}));
    let bdevs = system.call("bdev_get_bdevs", json!({}));
    system.save_config();
    system.kill();
    system.start_again();
    assert_eq!(configuration(&system), before);
    assert_eq!(system.call("nvmf_get_subsystems", json!({"nqn": NQN})), shown);
    assert_eq!(system.call("bdev_get_bdevs", json!({})), bdevs);
}

#[test]
fn both_ends_of_a_pair_come_back_from_their_saved_configurations() {
    let mut sites = Sites::paired(&Options { scope: "pair", ..Options::default() });
    let before = [&sites.primary, &sites.secondary].map(configuration);
    for configuration in &before {
        let replication = ["link", "group", "pair"].map(|subsystem| calls(configuration, subsystem));
        assert_eq!(replication, [1, 1, 2], "{configuration:#}");
    }
    sites.primary.stop();
    sites.secondary.stop();
    sites.secondary.start_again();
    sites.primary.start_again();
    assert_eq!([&sites.primary, &sites.secondary].map(configuration), before);
    // They find each other again too.
    sites.wait_until_paired();
}

#[test]
fn a_wrong_configuration_is_refused_by_the_number_and_name_of_the_call() {
    let directory = tempfile::tempdir().unwrap();
    let config = json!({"subsystems": [{"subsystem": "bdev", "config": [
        {"method": "bdev_null_create", "params": {"name": "n0", "num_blocks": 8, "block_size": 512}},
        {"method": "bdev_null_create", "params": {"name": "n0", "num_blocks": 8, "block_size": 512}},
    ]}]});
    let cases = [
        (config.to_string(), "call 2 (bdev_null_create)"),
        ("{\"subsystems\": [".to_owned(), "config.json"),
        ("{\"subsystem\": []}".to_owned(), "subsystem"),
        ("\u{0}\u{1}garbage".to_owned(), "config.json"),
    ];
    for (text, says) in cases {
        std::fs::write(directory.path().join("config.json"), &text).unwrap();
        let output = std::process::Command::new(longrun_tests::program::path())
            .args(["serve", "--config", directory.path().join("config.json").to_str().unwrap()])
            .args(["--rpc-socket", directory.path().join("rpc.sock").to_str().unwrap()])
            .args(["--state-dir", directory.path().join("state").to_str().unwrap()])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{text} was taken");
        assert!(error.contains(says) && !error.contains("panicked"), "{text}: {error}");
    }
}

#[test]
fn a_wrong_call_gets_the_right_code_and_a_sentence_that_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let mut system = Longrun::start(directory.path());
    system.call("bdev_null_create", json!({"name": "n0", "num_blocks": 2048, "block_size": 512}));
    system.call("nvmf_create_transport", json!({"trtype": "TCP"}));
    system.call("nvmf_create_subsystem", json!({"nqn": NQN}));
    system.call("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": "n0"}}));
    let link = json!({
        "name": LINK, "local_addr": free_udp(), "remote_addr": "127.0.0.1:9", "security": "none"
    });
    system.call("link_create", link.clone());
    system.call("group_create", json!({"name": GROUP, "role": "primary", "link": LINK}));

    let null = |change: Value| {
        let mut params = json!({"name": "n1", "num_blocks": 8, "block_size": 512});
        params.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        params
    };
    // Method, parameters, code, and what the sentence must name.
    let cases = [
        ("bdev_nul_create", json!({}), code::METHOD_NOT_FOUND, vec!["bdev_null_create", "rpc_get_methods"]),
        ("bdev_null_create", null(json!({"num_blocks": "many"})), code::INVALID_PARAMS, vec!["num_blocks"]),
        ("bdev_null_create", null(json!({"num_blocks": 0})), code::INVALID_PARAMS, vec!["num_blocks"]),
        ("bdev_null_create", null(json!({"block_size": 513})), code::INVALID_PARAMS, vec!["513", "512", "4096"]),
        ("bdev_null_create", null(json!({"colour": 1})), code::INVALID_PARAMS, vec!["colour", "num_blocks"]),
        ("bdev_null_create", json!({"name": "n1"}), code::INVALID_PARAMS, vec!["num_blocks"]),
        ("bdev_null_create", json!([1, 2]), code::INVALID_PARAMS, vec!["object"]),
        ("bdev_null_create", null(json!({"name": "n0"})), code::EXISTS, vec!["n0", "choose another"]),
        ("bdev_null_delete", json!({"name": "gone"}), code::NO_DEVICE, vec!["gone", "bdev_get_bdevs"]),
        ("bdev_null_delete", json!({"name": "n0"}), code::BUSY, vec!["n0", NQN]),
        ("bdev_uring_create", json!({"name": "u0", "filename": "/nowhere/file"}), -libc::ENOENT, vec!["/nowhere/file"]),
        ("bdev_delay_delete", json!({"name": "n0"}), -libc::EINVAL, vec!["n0", "bdev_null_delete"]),
        ("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": "x"}}), code::NO_DEVICE, vec!["x"]),
        (
            "nvmf_delete_subsystem",
            json!({"nqn": "nqn.2026-11.io.longrun:no"}),
            code::NO_DEVICE,
            vec!["nvmf_get_subsystems"],
        ),
        ("nvmf_create_subsystem", json!({"nqn": "not a name"}), code::INVALID_PARAMS, vec!["nqn"]),
        ("nvmf_create_transport", json!({"trtype": "RDMA"}), code::INVALID_PARAMS, vec!["RDMA", "TCP"]),
        ("nvmf_create_transport", json!({"trtype": "TCP"}), code::EXISTS, vec!["TCP"]),
        ("link_create", link, code::EXISTS, vec![LINK]),
        ("link_delete", json!({"name": LINK}), code::BUSY, vec![GROUP]),
        ("group_create", json!({"name": "g1", "role": "primary", "link": "no"}), code::NO_DEVICE, vec!["link_get"]),
        (
            "group_create",
            json!({"name": "g1", "role": "secondary", "link": LINK}),
            code::INVALID_PARAMS,
            vec!["journal"],
        ),
        ("group_takeover", json!({"name": GROUP}), code::INVALID_PARAMS, vec!["fence", "accept_split"]),
        (
            "group_takeover",
            json!({"name": GROUP, "old_primary": "fenced"}),
            code::WRONG_STATE,
            vec!["primary", "secondary"],
        ),
        ("group_takeover", json!({"name": "g9", "old_primary": "fenced"}), code::NO_DEVICE, vec!["g9", "group_get"]),
        ("pair_create", json!({"group": GROUP, "name": "p0", "volume": "n0"}), code::BUSY, vec!["n0", NQN]),
        ("pair_get", json!({"group": GROUP, "name": "p0"}), code::NO_DEVICE, vec!["p0", "pair_get"]),
        ("framework_get_config", json!({"name": "vbdev"}), code::INVALID_PARAMS, vec!["vbdev", "bdev"]),
        ("log_set_level", json!({"level": "loud"}), code::INVALID_PARAMS, vec!["loud"]),
        ("spdk_kill_instance", json!({"sig_name": "SIGWINCH"}), code::INVALID_PARAMS, vec!["SIGWINCH"]),
    ];
    let mut wrong = Vec::new();
    for (method, params, code, names) in cases {
        let error = system.refused(method, params.clone());
        let missing: Vec<&str> = names.into_iter().filter(|name| !error.message.contains(name)).collect();
        if error.code != code || !missing.is_empty() {
            wrong.push(format!("{method} {params}: expected {code} naming {missing:?}, got {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    system.assert_running();
}

#[test]
fn garbage_on_the_rpc_socket_is_answered_or_closed_and_harms_nobody_else() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let directory = tempfile::tempdir().unwrap();
    let mut system = Longrun::start(directory.path());
    let mut other = system.client();
    let inputs: [Vec<u8>; 7] = [
        b"\x00\xff\xfegarbage".to_vec(),
        b"}}}}".to_vec(),
        b"{\"jsonrpc\": \"2.0\", \"method\": ".to_vec(),
        b"{\"jsonrpc\": \"2.0\", \"method\": 5, \"id\": {}}".to_vec(),
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[".repeat(500),
        vec![b'{'; 1 << 20],
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{}\"}}", "x".repeat(300_000)).into_bytes(),
    ];
    for input in inputs {
        let mut stream = UnixStream::connect(system.socket()).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        // It may be closed before everything was taken.
        let _ = stream.write_all(&input);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "neither answered nor closed: {:?}",
                &input[..20.min(input.len())]
            );
        }
        assert!(answer.is_empty() || String::from_utf8_lossy(&answer).contains("\"error\""));
        other.call("spdk_get_version", json!({})).unwrap();
    }
    system.assert_running();
}
