//! `save_config`, and what operators are told.

use longrun_nvmf::host::ControllerEvent;
use longrun_rpc::error::code;
use longrun_rpc::types::PublicKey;
use longrun_tests::load::{HOST_NQN, Watcher};
use longrun_tests::process::{Longrun, PATIENCE, eventually, free_tcp, free_udp, listen_address};
use longrun_tests::sites::{GROUP, LINK, Options, Sites};
use serde_json::{Value, json};
use std::path::Path;

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
        ("{\"version\": 99, \"subsystems\": [], \"clusters\": []}".to_owned(), "start the longrun that wrote it"),
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

/// What `longrun serve` says when it does not start in this directory.
fn refusal_to_start(directory: &Path) -> String {
    let output = std::process::Command::new(longrun_tests::program::path())
        .arg("serve")
        .arg("--rpc-socket")
        .arg(directory.join("rpc.sock"))
        .arg("--state-dir")
        .arg(directory.join("state"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it started: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

#[test]
fn a_metadata_file_that_cannot_be_read_ends_the_start_with_the_way_forward_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut system = Longrun::start(directory.path());
    system.stop();
    let metadata = directory.path().join("state/metadata.redb");
    let sound = std::fs::read(&metadata).unwrap();
    let mut damaged = sound.clone();
    damaged[4096..].iter_mut().for_each(|byte| *byte = !*byte);
    for content in [&damaged, &sound[..1000].to_vec(), &b"no store at all".to_vec()] {
        std::fs::write(&metadata, content).unwrap();
        let error = refusal_to_start(directory.path());
        assert!(error.contains("metadata.redb") && error.contains("put back a copy of it"), "{error}");
    }
    // The copy that is put back is as good as before.
    std::fs::write(&metadata, &sound).unwrap();
    system.start_again();
    let error = refusal_to_start(directory.path());
    assert!(error.contains("held by another process"), "{error}");
}

#[test]
fn a_pair_that_cannot_be_taken_up_at_the_start_stays_with_its_reason_and_all_else_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let bdev = |name: &str| json!({"method": "bdev_null_create", "params": {"name": name, "num_blocks": 8, "block_size": 512}});
    let namespace = |bdev: &str, nsid: u32| {
        json!({"method": "nvmf_subsystem_add_ns",
               "params": {"nqn": NQN, "namespace": {"bdev_name": bdev, "nsid": nsid}}})
    };
    let link = json!({"name": LINK, "local_addr": free_udp(), "remote_addr": "127.0.0.1:9", "security": "none"});
    let listener = free_tcp();
    let pair = json!({"method": "pair_create", "params": {"group": GROUP, "name": "p0", "volume": "gone"}});
    let config = json!({"version": 1, "subsystems": [
        {"subsystem": "bdev", "config": [bdev("n0")]},
        {"subsystem": "link", "config": [{"method": "link_create", "params": link}]},
        {"subsystem": "group", "config": [
            {"method": "group_create", "params": {"name": GROUP, "role": "primary", "link": LINK}},
        ]},
        {"subsystem": "pair", "config": [pair]},
        {"subsystem": "nvmf", "config": [
            {"method": "nvmf_create_transport", "params": {"trtype": "TCP"}},
            {"method": "nvmf_create_subsystem", "params": {"nqn": NQN, "allow_any_host": true}},
            namespace("n0", 1), namespace("p0", 2),
            {"method": "nvmf_subsystem_add_listener",
             "params": {"nqn": NQN, "listen_address": listen_address(listener)}},
        ]},
    ]});
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let system = Longrun::start(directory.path());

    let shown = system.call("pair_get", json!({"group": GROUP, "name": "p0"}));
    assert_eq!(shown[0]["state"], "PSUE", "{shown}");
    assert_eq!(shown[0]["consistent"], false);
    assert!(shown[0]["reason"].as_str().unwrap().contains("no bdev named gone"), "{shown}");
    let served = |system: &Longrun| {
        let subsystem = system.call("nvmf_get_subsystems", json!({"nqn": NQN}));
        subsystem[0]["namespaces"].as_array().unwrap().iter().map(|n| n["nsid"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(served(&system), [json!(1)]);
    // A host is served, by a listener that was held until the start was over.
    let mut watcher = Watcher::connect(listener, HOST_NQN, NQN);
    let ControllerEvent::Ready(description) = watcher.next_event() else { panic!("not ready") };
    assert_eq!(description.namespaces.len(), 1);

    // What is saved now is all of it, so that the next start may find the volume.
    let before = configuration(&system);
    assert_eq!((calls(&before, "pair"), calls(&before, "nvmf")), (1, 5), "{before:#}");
    let error = system.refused("pair_create", json!({"group": GROUP, "name": "p0", "volume": "n0"}));
    assert_eq!(error.code, code::EXISTS);
    let error = system.refused("group_delete", json!({"name": GROUP}));
    assert_eq!(error.code, code::BUSY);
    // Deleted, it is gone with its namespace.
    system.call("pair_delete", json!({"group": GROUP, "name": "p0"}));
    let after = configuration(&system);
    assert_eq!((calls(&after, "pair"), calls(&after, "nvmf")), (0, 4), "{after:#}");
    system.call("group_delete", json!({"name": GROUP}));
}

#[test]
fn a_groups_journal_and_overlay_are_its_own_until_it_is_deleted_and_after_a_restart_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut system = Longrun::start(directory.path());
    system.create_volume("j0", 16 << 20, 4096);
    system.create_volume("o0", 16 << 20, 4096);
    let link = json!({"name": LINK, "local_addr": free_udp(), "remote_addr": "127.0.0.1:9", "security": "none"});
    system.call("link_create", link);
    let group = |overlay: &str| json!({"name": GROUP, "role": "secondary", "link": LINK, "journal": "j0", "overlay": overlay, "apply_delay_s": 60});
    // A refused group holds nothing.
    assert_eq!(system.refused("group_create", group("gone")).code, code::NO_DEVICE);
    let holders = |system: &Longrun| {
        ["j0", "o0"].map(|name| system.call("bdev_get_bdevs", json!({"name": name}))[0]["claimed_by"].clone())
    };
    assert_eq!(holders(&system), [Value::Null, Value::Null]);
    system.call("group_create", group("o0"));
    let held = [format!("the journal of group {GROUP}").into(), Value::from(format!("the overlay of group {GROUP}"))];
    for _ in 0..2 {
        assert_eq!(holders(&system), held);
        for name in ["j0", "o0"] {
            let error = system.refused("bdev_uring_delete", json!({"name": name}));
            assert!(error.code == code::BUSY && error.message.contains("group_delete"), "{error}");
            let error = system.refused("bdev_uring_rescan", json!({"name": name}));
            assert!(error.code == code::BUSY && error.message.contains("keeps the size"), "{error}");
        }
        let shown = system.call("group_get", json!({"name": GROUP}));
        assert_eq!((&shown[0]["overlay"], &shown[0]["apply_delay_s"]), (&json!("o0"), &json!(60)), "{shown}");
        for (method, more) in [
            ("group_suspend", json!({})),
            ("group_resync", json!({})),
            ("group_bookmark", json!({"bookmark": "b"})),
            ("group_verify", json!({})),
        ] {
            let mut params = json!({"name": GROUP});
            params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let error = system.refused(method, params);
            assert!(error.code == code::WRONG_STATE && error.message.contains("that is its primary"), "{error}");
        }
        system.save_config();
        system.kill();
        system.start_again();
    }
    eventually("the deletion", PATIENCE, || {
        system.try_call("group_delete", json!({"name": GROUP})).map_err(|error| error.to_string())
    });
    assert_eq!(holders(&system), [Value::Null, Value::Null]);
    system.call("bdev_uring_delete", json!({"name": "o0"}));
}

#[test]
fn controller_ids_follow_the_keys_of_the_links_that_there_are_and_never_those_that_an_operator_gave() {
    let directory = tempfile::tempdir().unwrap();
    let system = Longrun::start(directory.path());
    let given = "nqn.2026-11.io.longrun:given";
    system.call("nvmf_create_transport", json!({"trtype": "TCP"}));
    system.call("nvmf_create_subsystem", json!({"nqn": NQN}));
    system.call("nvmf_create_subsystem", json!({"nqn": given, "min_cntlid": 7, "max_cntlid": 90}));
    let ids = |nqn: &str| {
        let subsystem = &system.call("nvmf_get_subsystems", json!({"nqn": nqn}))[0];
        (subsystem["min_cntlid"].as_u64().unwrap(), subsystem["max_cntlid"].as_u64().unwrap())
    };
    let link = |name: &str, more: Value| {
        let mut params =
            json!({"name": name, "local_addr": free_udp(), "remote_addr": "127.0.0.1:9", "security": "none"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        system.call("link_create", params);
    };
    let delete = |name: &str| system.call("link_delete", json!({"name": name}));
    let slot_of = |key: u8| u64::from(key % 16) * 4096 + 1;
    // A link without a key tells this system nothing, and the operator its key.
    let before = ids(NQN);
    link("l0", json!({}));
    assert_eq!(ids(NQN), before);
    let own: PublicKey =
        serde_json::from_value(system.call("link_get", json!({"name": "l0"}))[0]["local_public_key"].clone()).unwrap();
    let own = *own.as_bytes();
    assert_eq!(before.0, slot_of(own[0]));
    // Another system with the same slot and a lesser key has it for itself; one with a greater key does not.
    for (rest, moves) in [(0_u8, 1), (0xff, 0)] {
        let mut peer = [rest; 32];
        peer[0] = own[0];
        link("l1", json!({"remote_public_key": PublicKey::from(peer)}));
        let now = slot_of(own[0].wrapping_add(moves));
        assert_eq!((ids(NQN).0, ids(given)), (now, (7, 90)));
        system.call("nvmf_create_subsystem", json!({"nqn": "nqn.2026-11.io.longrun:later"}));
        assert_eq!(ids("nqn.2026-11.io.longrun:later").0, now);
        system.call("nvmf_delete_subsystem", json!({"nqn": "nqn.2026-11.io.longrun:later"}));
        delete("l1");
        assert_eq!((ids(NQN), ids(given)), (before, (7, 90)));
    }
    delete("l0");
    // A link with a key file of its own: other systems know this one by that key.
    let file = directory.path().join("other.key");
    let key = |own: &[u8; 32]| {
        // One of another slot.
        loop {
            let _ = std::fs::remove_file(&file);
            let key = *longrun::identity::generate(&file).unwrap().as_bytes();
            if key[0] % 16 != own[0] % 16 {
                return key;
            }
        }
    };
    let other = key(&own);
    let mut peer = [0; 32];
    peer[0] = own[0];
    link("l0", json!({"private_key_file": file, "remote_public_key": PublicKey::from(peer)}));
    assert_eq!((ids(NQN).0, ids(given)), (slot_of(other[0]), (7, 90)));
    // Whom a link under the other key knows says nothing of this one.
    let mut peer = [0; 32];
    peer[0] = other[0];
    link("l1", json!({"remote_public_key": PublicKey::from(peer)}));
    assert_eq!(ids(NQN).0, slot_of(other[0]));
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
        ("group_suspend", json!({"name": "g9"}), code::NO_DEVICE, vec!["g9", "group_get"]),
        ("group_resync", json!({"name": "g9"}), code::NO_DEVICE, vec!["g9", "group_get"]),
        ("group_verify", json!({"name": GROUP, "pair": "p9"}), code::NO_DEVICE, vec!["p9", "pair_get"]),
        ("group_bookmark", json!({"name": GROUP, "bookmark": "a/b"}), code::INVALID_PARAMS, vec!["a/b", "slashes"]),
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
