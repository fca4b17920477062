use std::sync::{Arc, Mutex};

use clap::{CommandFactory as _, Parser as _};
use longrun_rpc::methods::bdev::{BdevInfo, Iostat, SupportedIoTypes};
use longrun_rpc::methods::group::{GroupInfo, LossCertificate};
use longrun_rpc::methods::link::LinkInfo;
use longrun_rpc::methods::pair::PairInfo;
use longrun_rpc::{Call, Handler, RpcError, Server};
use serde_json::{Value, json};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn refusal(line: &str) -> String {
    match parse(line) {
        Err(error) => error.to_string(),
        Ok(cli) => panic!("{line} was accepted: {cli:?}"),
    }
}

fn remote(line: &str) -> RemoteCommand {
    match parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Command::Remote(command) => command,
        other => panic!("{other:?}"),
    }
}

/// A server that notes the calls and gives the next answer it was handed; without one, `true`.
#[derive(Default)]
struct Script {
    calls: Mutex<Vec<(String, Value)>>,
    answers: Mutex<Vec<Result<Value, RpcError>>>,
}

struct Scripted(Arc<Script>);

impl Handler for Scripted {
    async fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        // What the command line sends must be what the server reads.
        let call = Call::parse(method, params)?;
        self.0.calls.lock().unwrap().push((call.method().to_owned(), call.params()));
        let mut answers = self.0.answers.lock().unwrap();
        if answers.is_empty() { Ok(json!(true)) } else { answers.remove(0) }
    }
}

/// Runs commands, one after the other, each given as typed, against a server with these answers; gives what the last one
/// printed and the calls that were made. `{SOCKET}` stands for the flag with the server's socket, `{DIR}` for a directory.
fn against(answers: Vec<Result<Value, RpcError>>, line: &str) -> (Result<String, CliError>, Vec<(String, Value)>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    let script = Arc::new(Script { answers: Mutex::new(answers), ..Script::default() });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (bound, is_bound) = std::sync::mpsc::channel();
    let thread = std::thread::spawn({
        let (path, script) = (path.clone(), Arc::clone(&script));
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(&path, Arc::new(Scripted(script))).unwrap();
                bound.send(()).unwrap();
                server.run(async { drop(stopped.await) }).await;
            });
        }
    });
    is_bound.recv().unwrap();
    let line = line.replace("{DIR}", directory.path().to_str().unwrap());
    let outcome = execute(&remote(&format!("{line} --rpc-socket {}", path.display())));
    drop(stop);
    thread.join().unwrap();
    let calls = script.calls.lock().unwrap().clone();
    (outcome, calls)
}

/// The calls that a command makes when all goes well.
fn calls(line: &str) -> Vec<(String, Value)> {
    let (outcome, calls) = against(vec![Ok(json!("made"))], line);
    outcome.unwrap_or_else(|error| panic!("{line}: {error}"));
    calls
}

fn group_info() -> GroupInfo {
    serde_json::from_value(json!({
        "name": "g0", "role": "secondary", "state": "PAIR", "consistent": true,
        "recovery_point_ns": 1_763_766_000_123_456_789_u64, "rpo_ms": 12,
        "limit_time_ns": 1_763_766_000_223_456_789_u64, "timeline_now_ns": 1_763_766_000_135_456_789_u64,
        "lag": {"seconds": 0.0121, "bytes": 8192, "records": 2},
        "generation": {"number": 1, "id": "a1b2"}, "sequence_scope": "group", "links": ["east"], "pairs": ["p0", "p1"],
        "streams": [{"stream": 1, "link": "east", "epoch": 3, "tip_ns": 1_763_766_000_223_456_789_u64, "received": 102,
                     "durable": 100, "announced": 105}],
        "journal": "j0", "journal_used": 0.0612
    }))
    .unwrap()
}

fn pair_info() -> PairInfo {
    serde_json::from_value(json!({
        "group": "g0", "name": "p0", "role": "primary", "state": "PFUS", "consistent": true, "rpo_ms": 65_001,
        "reason": "the link was down for longer than the buffer lasts",
        "waiting": {"owner": "peer", "since_ms": 1500, "timeout_ms": 10_000, "reason": "the link to come up"},
        "volume": "m0", "replica": "p0", "remote_volume": "p0", "link": "west", "size_bytes": 1_073_741_824,
        "counters": {"writes": 10, "write_bytes": 40_960, "records": 11, "repairs": 1}
    }))
    .unwrap()
}

fn link_info() -> LinkInfo {
    serde_json::from_value(json!({
        "name": "west", "local_addr": "10.0.0.1:4700", "remote_addr": "10.0.0.2:4700", "security": "noise",
        "state": "up", "state_age_ms": 65_001, "mtu_bytes": 1400, "rtt_us": 10_400, "rtt_us_min": 900,
        "congestion_window_bytes": 65_536, "in_flight_bytes": 1400, "counters": {"frames_sent": 7, "frames_retransmitted": 1}
    }))
    .unwrap()
}

fn bdev_info() -> BdevInfo {
    BdevInfo {
        name: "m0".to_owned(),
        aliases: Vec::new(),
        product_name: "Malloc disk".to_owned(),
        block_size: 4096,
        num_blocks: 262_144,
        uuid: "6b8fa1f2-0c3f-4a51-9e49-000000000001".parse().unwrap(),
        claimed: true,
        claimed_by: Some("pair p0 of group g0".to_owned()),
        zoned: false,
        supported_io_types: SupportedIoTypes::default(),
        driver_specific: serde_json::Map::new(),
    }
}

fn certificate() -> LossCertificate {
    serde_json::from_value(json!({
        "group": "g0", "recovery_point_ns": 951_782_400_000_000_001_u64, "clock_error_ns": 100,
        "generation": {"number": 2, "id": "b2", "parent": "a1"},
        "streams": [{"stream": 1, "epoch": 3, "last_applied": 10, "highest_announced": 20,
                     "seen_not_applied": [{"first": 12, "last": 14}, {"first": 17, "last": 17}]}],
        "volumes": [{"name": "p0", "uuid": "6b8fa1f2-0c3f-4a51-9e49-000000000001",
                     "nguid": "00112233445566778899AABBCCDDEEFF"}]
    }))
    .unwrap()
}

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
            "longrun link create w --local 10.0.0.1:1 --remote 10.0.0.2:2 --security none --mtu-bytes 900 --rate-limit 1MiB",
            "link_create",
            json!({"name": "w", "local_addr": "10.0.0.1:1", "remote_addr": "10.0.0.2:2", "security": "none",
                   "mtu_bytes": 900, "rate_limit_bytes_per_s": 1_048_576}),
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
            "longrun group create g0 --role secondary --link e --journal j0 --overlay o0 --apply-delay-s 600",
            "group_create",
            json!({"name": "g0", "role": "secondary", "links": ["e"], "journal": "j0", "overlay": "o0",
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

fn methods(calls: &[(String, Value)]) -> Vec<&str> {
    calls.iter().map(|(method, _)| method.as_str()).collect()
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
NAME  ROLE       STATE  CONSISTENT    RPO  BEHIND  RECORDS  PAIRS  LINKS  REASON
g0    secondary  PAIR   yes         12 ms   8 KiB        2      2  east   -
"
    );
    assert_eq!(
        table::links(&[link_info()]),
        "\
NAME  STATE   FOR  LOCAL          REMOTE             RTT  SENT  RESENT  RECEIVED  SECURITY
west  up     66 s  10.0.0.1:4700  10.0.0.2:4700  10.4 ms     7       1         0  noise
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
