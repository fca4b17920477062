//! From what is typed to the calls that are made.

use super::*;

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_of_every_command_ends_in_examples_that_can_be_typed() {
    fn walk(command: &mut clap::Command, path: &str, seen: &mut usize) {
        let help = command.render_long_help().to_string();
        let (_, examples) =
            help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{path}: no examples in\n{help}"));
        for line in examples.lines().map(str::trim_end).take_while(|line| !line.is_empty()) {
            // A line that goes on, a comment behind the command, quotes and pipes are the shell's affair.
            let typed = line.trim_start().split("  ").next().unwrap_or_default();
            if typed.starts_with("longrun") && !line.contains(['\'', '|', '\\', '>', '"']) {
                let typed = typed.replace("BASE64", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
                // A comment that is not set off by two blanks.
                let words: Vec<_> = typed.split_whitespace().collect();
                let parsed = (1..=words.len()).rev().map(|n| Cli::try_parse_from(&words[..n])).find(Result::is_ok);
                assert!(parsed.is_some(), "{path}: `{typed}` cannot be typed");
                *seen += 1;
            }
        }
        for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            walk(sub, &path, seen);
        }
    }
    let mut command = Cli::command();
    command.build();
    let mut seen = 0;
    walk(&mut command, "longrun", &mut seen);
    assert!(seen > 40, "only {seen} examples were tried");
}

#[test]
fn serve_has_defaults_and_reads_every_flag() {
    let Command::Serve(args) = parse("longrun serve").unwrap().command else { panic!() };
    assert_eq!((args.config, args.cores.list(), args.idle), (None, [0].as_slice(), Idle::Adaptive));
    assert_eq!(args.rpc_socket.to_str(), Some(longrun_rpc::DEFAULT_SOCKET));
    let line = "longrun serve --config c.json --rpc-socket /s --state-dir /d --cores 0,1 --idle busy --memory-mib 64";
    let Command::Serve(args) = parse(line).unwrap().command else { panic!() };
    assert_eq!((args.cores.list(), args.idle, args.memory_mib), ([0, 1].as_slice(), Idle::Busy, 64));
    for wrong in ["--cores 0,0", "--cores x", "--idle lazy", "--memory-mib 1", "--memory-mib x", "--bogus"] {
        assert!(refusal(&format!("longrun serve {wrong}")).contains("error:"));
    }
}

#[test]
fn the_demo_has_the_defaults_it_is_known_by() {
    let Command::Demo(args) = parse("longrun demo").unwrap().command else { panic!() };
    assert_eq!((args.seconds, args.volumes, args.delay_ms, args.scope), (10, 3, 5, args::Scope::Group));
    assert_eq!((args.loss.get(), args.reorder.get(), args.duplicate.get()), (0.02, 0.1, 0.01));
    assert_eq!((args.seed, args.json, args.cut_link_after), (None, false, None));
    let line = "longrun demo --seconds 30 --volumes 5 --loss 0 --reorder 1 --duplicate 0.5 --delay-ms 0 --scope pair \
                --seed 7 --json --cut-link-after 3";
    let Command::Demo(args) = parse(line).unwrap().command else { panic!() };
    assert_eq!((args.seed, args.json, args.cut_link_after, args.scope), (Some(7), true, Some(3), args::Scope::Pair));
}

#[test]
fn a_share_outside_nothing_to_all_is_refused_with_a_sentence() {
    for flag in ["--loss", "--reorder", "--duplicate"] {
        for wrong in ["1.5", "2%", "20", "NaN"] {
            let error = refusal(&format!("longrun demo {flag} {wrong}"));
            assert!(error.contains("expected a number from 0 to 1 (2 % is 0.02)"), "{error}");
        }
        let error = Cli::try_parse_from(["longrun", "demo", &format!("{flag}=-0.1")]).unwrap_err().to_string();
        assert!(error.contains("-0.1 is not a fraction"), "{error}");
    }
    let error = refusal("longrun link create w --local 1.1.1.1:1 --remote 1.1.1.2:1 --loss-tolerance 7");
    assert!(error.contains("expected a number from 0 to 1"), "{error}");
}

#[test]
fn what_is_given_up_is_named_by_number_and_in_a_split_by_id_too() {
    let sent = |line: &str| {
        let (outcome, calls) = against(vec![Ok(json!({"role": "primary", "generation": 3}))], line);
        (outcome.unwrap(), calls)
    };
    let (said, calls) = sent("longrun group swap g0 --abandon --discard-generation 2");
    assert_eq!(calls, [("group_swap".to_owned(), json!({"name": "g0", "abandon": true, "discard_generation": 2}))]);
    assert!(said.contains("hosts are served here, generation 3"), "{said}");
    refusal("longrun group swap g0 --abandon");
    refusal("longrun group swap g0 --discard-generation 2");
    refusal("longrun group swap g0 --abandon --discard-generation 2 --journal j0");
    let (_, calls) = sent("longrun group failback g0 --discard-generation 2 --discard-id 00ab");
    let params = json!({"name": "g0", "discard_generation": 2, "discard_id": "00ab"});
    assert_eq!(calls, [("group_failback".to_owned(), params)]);
    refusal("longrun group failback g0 --discard-id 00ab");
}

#[test]
fn a_takeover_needs_exactly_one_of_the_two_consents() {
    assert!(refusal("longrun group takeover g0").contains("--old-primary"));
    refusal("longrun group takeover g0 --old-primary fenced --accept-split");
    refusal("longrun group takeover g0 --old-primary alive");
    let takeover = |line: &str| {
        let (outcome, calls) = against(vec![Ok(serde_json::to_value(certificate()).unwrap())], line);
        outcome.unwrap();
        calls
    };
    assert_eq!(
        takeover("longrun group takeover g0 --old-primary fenced"),
        [("group_takeover".to_owned(), json!({"name": "g0", "old_primary": "fenced"}))]
    );
    assert_eq!(
        takeover("longrun group takeover g0 --accept-split"),
        [("group_takeover".to_owned(), json!({"name": "g0", "accept_split": true}))]
    );
    for (at, sent) in [
        ("before-upgrade", json!("before-upgrade")),
        ("17", json!(17)),
        ("2000-03-01T00:00", json!(951_868_800_000_000_000_u64)),
    ] {
        assert_eq!(
            takeover(&format!("longrun group takeover g0 --accept-split --at {at}")),
            [("group_takeover".to_owned(), json!({"name": "g0", "accept_split": true, "at": sent}))]
        );
    }
}

#[test]
fn what_is_typed_becomes_the_call_it_means() {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let cases = [
        (
            "longrun volume create m0 --memory 1GiB",
            "bdev_malloc_create",
            json!({"name": "m0", "num_blocks": 262_144, "block_size": 4096}),
        ),
        (
            "longrun volume create n0 --null 1MiB --block-size 512",
            "bdev_null_create",
            json!({"name": "n0", "num_blocks": 2048, "block_size": 512}),
        ),
        ("longrun volume create u0 --file /x", "bdev_uring_create", json!({"name": "u0", "filename": "/x"})),
        (
            "longrun link create w --local 10.0.0.1:1 --remote 10.0.0.2:2 --security none --mtu-bytes 1300 --rate-limit 1MiB",
            "link_create",
            json!({"name": "w", "local_addr": "10.0.0.1:1", "remote_addr": "10.0.0.2:2", "security": "none",
                   "mtu_bytes": 1300, "rate_limit_bytes_per_s": 1_048_576}),
        ),
        (
            &format!("longrun link create w --local 10.0.0.1:1 --remote 10.0.0.2:2 --remote-public-key {key}"),
            "link_create",
            json!({"name": "w", "local_addr": "10.0.0.1:1", "remote_addr": "10.0.0.2:2", "security": "noise",
                   "remote_public_key": key}),
        ),
        ("longrun link delete w", "link_delete", json!({"name": "w"})),
        (
            "longrun group create g0 --role primary --link w --link e --scope pair --throttle-ms-max 5 --buffer 64MiB",
            "group_create",
            json!({"name": "g0", "role": "primary", "links": ["w", "e"], "sequence_scope": "pair", "throttle_ms_max": 5,
                   "buffer_bytes": 67_108_864}),
        ),
        (
            "longrun group create g0 --role secondary --link e --core 1 --journal j0 --overlay o0 --apply-delay-s 600",
            "group_create",
            json!({"name": "g0", "role": "secondary", "links": ["e"], "core": 1, "journal": "j0", "overlay": "o0",
                   "apply_delay_s": 600}),
        ),
        (
            "longrun group create g0 --role primary --link e --overflow suspend --spill s0 --copy-mib-per-s 50",
            "group_create",
            json!({"name": "g0", "role": "primary", "links": ["e"], "overflow": "suspend", "spill": "s0",
                   "copy_mib_per_s": 50}),
        ),
        ("longrun group resync g0", "group_resync", json!({"name": "g0"})),
        ("longrun group resync g0 --full", "group_resync", json!({"name": "g0", "full": true})),
        ("longrun group verify g0", "group_verify", json!({"name": "g0"})),
        (
            "longrun group verify g0 --pair p0 --repair",
            "group_verify",
            json!({"name": "g0", "pair": "p0", "repair": true}),
        ),
        ("longrun group delete g0", "group_delete", json!({"name": "g0"})),
        (
            "longrun pair create g0 p0 --volume m0 --replica r0 --remote-volume q0 --link w --declared-identical",
            "pair_create",
            json!({"group": "g0", "name": "p0", "volume": "m0", "replica": "r0", "remote_volume": "q0", "link": "w",
                   "declared_identical": true}),
        ),
        (
            "longrun pair create g0 p0 --volume m0 --initial copy-differences",
            "pair_create",
            json!({"group": "g0", "name": "p0", "volume": "m0", "initial": "copy_differences"}),
        ),
        ("longrun pair create g0 p0 --volume m0", "pair_create", json!({"group": "g0", "name": "p0", "volume": "m0"})),
        ("longrun pair resize g0 p0", "pair_resize", json!({"group": "g0", "name": "p0"})),
        ("longrun pair resize g0 p0 --blocks 5", "pair_resize", json!({"group": "g0", "name": "p0", "num_blocks": 5})),
        ("longrun volume rescan m0", "bdev_uring_rescan", json!({"name": "m0"})),
        ("longrun pair delete g0 p0", "pair_delete", json!({"group": "g0", "name": "p0"})),
        ("longrun rpc log_set_level {\"level\":\"DEBUG\"}", "log_set_level", json!({"level": "DEBUG"})),
    ];
    for (line, method, params) in cases {
        // Deletions answer with a boolean, creations with a name.
        let answer = match method.rsplit('_').next() {
            Some("delete" | "resync" | "verify") => json!(true),
            Some("resize" | "rescan") => json!(5),
            _ => json!("made"),
        };
        let (outcome, calls) = against(vec![Ok(answer)], line);
        assert_eq!(calls, [(method.to_owned(), params)], "{line}");
        outcome.unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    assert_eq!(calls("longrun rpc spdk_get_version"), [("spdk_get_version".to_owned(), json!({}))]);
}

#[test]
fn what_cannot_be_meant_is_refused_before_it_is_sent() {
    for line in [
        "longrun volume create m0",
        "longrun volume create m0 --memory 1GiB --null 1GiB",
        "longrun volume create m0 --memory 1GB",
        "longrun volume create a/b --memory 1GiB",
        "longrun volume create m0 --memory 1GiB --block-size 520",
        "longrun volume publish m0 --nqn iqn.x",
        "longrun volume publish m0 --nqn nqn.x:y --allow-any-host --host nqn.a:b",
        "longrun link create w --local here --remote 10.0.0.2:2",
        "longrun link create w --local 10.0.0.1:1 --remote 10.0.0.2:2 --remote-public-key short",
        "longrun group create g0 --role boss --link w",
        "longrun group create g0 --role primary",
        "longrun group create g0 --role primary --link w --overflow burst",
        "longrun group create g0 --role primary --link w --copy-mib-per-s 0",
        "longrun group takeover g0 --accept-split --at a/b",
        "longrun group bookmark g0",
        "longrun group bookmark g0 a/b",
        "longrun group test",
        "longrun group test start g0",
        "longrun group test start g0 --store s0 --at a/b",
        "longrun group test stop",
        "longrun group watch",
        "longrun pair create g0 p0 --volume m0 --initial full",
        "longrun pair create g0 p0 --volume m0 --initial copy --declared-identical",
        "longrun group list --timeout 0",
        "longrun",
        "longrun bogus",
    ] {
        refusal(line);
    }
    for (line, part) in [
        ("longrun volume create m0 --memory 1000", "whole number of blocks"),
        ("longrun volume create m0 --memory 5000", "whole number of blocks"),
        ("longrun volume create m0 --memory 0", "at least one"),
        ("longrun link create w --local 1.1.1.1:1 --remote 1.1.1.2:2 --security none --rate-limit 0", "never send"),
        ("longrun rpc bdev_get_bdevs {name:1}", "not JSON"),
    ] {
        let (outcome, calls) = against(Vec::new(), line);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(part) && calls.is_empty(), "{line}: {error}");
    }
}

#[test]
fn a_volume_is_deleted_by_the_method_of_its_kind_and_a_replica_is_not() {
    for (product, method) in [
        ("Malloc disk", "bdev_malloc_delete"),
        ("Null disk", "bdev_null_delete"),
        ("URING bdev", "bdev_uring_delete"),
        ("Error Injection Disk", "bdev_error_delete"),
        ("delay", "bdev_delay_delete"),
    ] {
        let info = BdevInfo { product_name: product.to_owned(), ..bdev_info() };
        let (outcome, calls) = against(vec![Ok(json!([info]))], "longrun volume delete m0");
        outcome.unwrap();
        assert_eq!(calls[1], (method.to_owned(), json!({"name": "m0"})));
    }
    let info = BdevInfo { product_name: "Remote copy volume".to_owned(), ..bdev_info() };
    let (outcome, calls) = against(vec![Ok(json!([info]))], "longrun volume delete m0");
    assert!(outcome.unwrap_err().to_string().contains("delete the pair"));
    assert_eq!(calls.len(), 1);
    let info = BdevInfo { product_name: "Test view of a remote copy volume".to_owned(), ..bdev_info() };
    let (outcome, calls) = against(vec![Ok(json!([info]))], "longrun volume delete m0");
    assert!(outcome.unwrap_err().to_string().contains("longrun group test stop"));
    assert_eq!(calls.len(), 1);
}

#[test]
fn the_kinds_of_volumes_are_called_as_their_makers_call_them() {
    use longrun_bdev::catalog::Kind;
    for kind in [Kind::Malloc, Kind::Null, Kind::Uring, Kind::Error, Kind::Delay, Kind::Replica, Kind::View] {
        let info = BdevInfo { product_name: kind.product_name().to_owned(), ..bdev_info() };
        assert_eq!(table::kind(&info), kind.name());
    }
}

#[test]
fn publishing_uses_what_is_there_and_shows_what_hosts_must_type() {
    let exists = || Err(RpcError::exists("subsystem", "nqn.x:y"));
    let subsystem = json!({
        "nqn": "nqn.x:y", "subtype": "NVMe", "allow_any_host": true, "hosts": [], "namespaces": [],
        "listen_addresses": [{"trtype": "TCP", "adrfam": "IPv4", "traddr": "10.0.0.1", "trsvcid": "4420"}]
    });
    let closed = json!([{"nqn": "nqn.x:y", "subtype": "NVMe", "allow_any_host": false, "hosts": [], "namespaces": [],
                         "listen_addresses": []}]);
    let answers = vec![exists(), Ok(closed), Ok(json!(true)), Ok(json!(2)), exists(), exists(), Ok(json!([subsystem]))];
    let line = "longrun volume publish m0 --nqn nqn.x:y --listen 10.0.0.1:4420 --allow-any-host";
    let (outcome, calls) = against(answers, line);
    assert_eq!(
        outcome.unwrap(),
        "volume m0 is namespace 2 of nqn.x:y\nhosts: nvme connect -t tcp -a 10.0.0.1 -s 4420 -n nqn.x:y\n"
    );
    assert_eq!(
        methods(&calls),
        [
            "nvmf_create_subsystem",
            "nvmf_get_subsystems",
            "nvmf_subsystem_allow_any_host",
            "nvmf_subsystem_add_ns",
            "nvmf_create_transport",
            "nvmf_subsystem_add_listener",
            "nvmf_get_subsystems"
        ]
    );
    let (outcome, calls) = against(vec![Err(RpcError::wrong_state("not now"))], line);
    assert!(outcome.is_err() && calls.len() == 1, "another error ends it");
}

#[test]
fn a_publication_that_fails_takes_back_what_it_made_and_nothing_else() {
    let made = || Ok(json!(true));
    let exists = || Err(RpcError::exists("subsystem", "nqn.x:y"));
    let in_use = || Err(RpcError::errno(libc::EADDRINUSE, "cannot listen"));
    let line = "longrun volume publish m0 --nqn nqn.x:y --listen 10.0.0.1:4420 --host nqn.a:b";
    // All of it is new: the subsystem goes with all that is in it, but each step is taken back by itself.
    let (outcome, calls) = against(vec![made(), made(), Ok(json!(1)), made(), in_use()], line);
    assert!(outcome.unwrap_err().to_string().contains("cannot listen"));
    assert_eq!(
        methods(&calls)[5..],
        ["nvmf_subsystem_remove_ns", "nvmf_subsystem_remove_host", "nvmf_delete_subsystem"]
    );
    // The subsystem was there, with that host.
    let (outcome, calls) = against(vec![exists(), exists(), Ok(json!(7)), made(), in_use()], line);
    assert!(outcome.is_err());
    assert_eq!(calls[5..], [("nvmf_subsystem_remove_ns".to_owned(), json!({"nqn": "nqn.x:y", "nsid": 7}))]);
    // It was closed to others, and is so again.
    let closed = json!([{"nqn": "nqn.x:y", "subtype": "NVMe", "allow_any_host": false, "hosts": [], "namespaces": [],
                         "listen_addresses": []}]);
    let line = "longrun volume publish m9 --nqn nqn.x:y --allow-any-host";
    let (outcome, calls) =
        against(vec![exists(), Ok(closed), made(), Err(RpcError::not_found("bdev", "m9", "x"))], line);
    assert!(outcome.is_err());
    let closed_again = ("nvmf_subsystem_allow_any_host".to_owned(), json!({"nqn": "nqn.x:y", "allow_any_host": false}));
    assert_eq!(calls[4..], [closed_again]);
    // What cannot be taken back is named.
    let (outcome, _) = against(vec![made(), Err(RpcError::not_found("bdev", "m9", "x")), in_use()], line);
    assert!(outcome.unwrap_err().to_string().contains("could not be taken back"), "the rest is named");
}

#[test]
fn a_saved_configuration_holds_every_part_and_loads_as_the_same_calls() {
    let bdevs = json!([{"method": "bdev_null_create", "params": {"name": "n", "num_blocks": 1, "block_size": 512}}]);
    let parts = json!([{"subsystem": "bdev", "depends_on": []}, {"subsystem": "nvmf", "depends_on": ["bdev"]}]);
    let (outcome, _) = against(vec![Ok(parts), Ok(bdevs), Ok(Value::Null)], "longrun save-config");
    let text = outcome.unwrap();
    let (config, _) = longrun_rpc::config::Config::parse(text.as_bytes()).unwrap();
    assert_eq!(config.subsystems.len(), 2);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.json");
    std::fs::write(&path, &text).unwrap();
    let line = format!("longrun load-config {}", path.display());
    let (outcome, calls) = against(vec![Ok(json!("n"))], &line);
    assert_eq!(outcome.unwrap(), "1 calls made\n");
    assert_eq!(calls, [("bdev_null_create".to_owned(), json!({"name": "n", "num_blocks": 1, "block_size": 512}))]);
    let (outcome, _) = against(vec![Err(RpcError::exists("bdev", "n"))], &line);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("call 1 of 1 (bdev_null_create) was refused") && error.contains("-17"), "{error}");

    std::fs::write(&path, text.replace("num_blocks", "num_blox")).unwrap();
    let (outcome, calls) = against(Vec::new(), &line);
    assert!(outcome.unwrap_err().to_string().contains("unknown parameter `num_blox`"));
    assert!(calls.is_empty(), "nothing is done where something is wrong");
}

#[test]
fn a_configuration_file_is_replaced_as_a_whole_and_leaves_nothing_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.json");
    std::fs::write(&path, "old").unwrap();
    let line = format!("longrun save-config {}", path.display());
    let (outcome, _) = against(vec![Ok(json!([]))], &line);
    assert_eq!(outcome.unwrap(), "");
    assert!(longrun_rpc::config::Config::parse(&std::fs::read(&path).unwrap()).is_ok());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    let (outcome, _) = against(vec![Ok(json!([]))], "longrun save-config /no/such/dir/c.json");
    assert!(outcome.unwrap_err().to_string().contains("cannot write /no/such/dir/c.json"));
}

#[test]
fn json_is_what_the_server_said_and_a_server_that_is_not_there_is_named() {
    let groups = json!([group_info()]);
    let (outcome, _) = against(vec![Ok(groups.clone())], "longrun group list --json");
    assert_eq!(serde_json::from_str::<Value>(&outcome.unwrap()).unwrap(), groups);
    let (outcome, _) = against(vec![Ok(groups.clone())], "longrun group --json get g0");
    assert_eq!(serde_json::from_str::<Value>(&outcome.unwrap()).unwrap(), groups);
    let error = execute(&remote("longrun pair list --rpc-socket /no/such.sock")).unwrap_err().to_string();
    assert!(error.contains("is `longrun serve` running") && error.contains("/no/such.sock"), "{error}");
}

#[test]
fn an_error_of_the_server_is_told_in_its_own_words() {
    let not_there = RpcError::not_found("group", "g9", "group_get");
    let (outcome, _) = against(vec![Err(not_there)], "longrun group get g9");
    let error = outcome.unwrap_err().to_string();
    assert_eq!(error, "there is no group named `g9`; group_get lists those there are (code -19)");
}
