//! Hosts of a plain target: who may connect, what they find, and what hostile ones cannot do to others.

use longrun_checker::Contents;
use longrun_nvmf::DISCOVERY_NQN;
use longrun_nvmf::host::{Command, ControllerEvent, NamespaceInfo};
use longrun_nvmf::spec::{AnaState, Status};
use longrun_tests::load::{HOST_NQN, Load, Target, Watcher, with_queue};
use longrun_tests::process::{Longrun, eventually, free_tcp, free_udp, listen_address};
use serde_json::{Value, json};
use std::future::poll_fn;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::task::Poll;
use std::time::{Duration, Instant};

const NQN: &str = "nqn.2026-11.io.longrun:plain";
const STRANGER: &str = "nqn.2026-11.io.longrun:stranger";
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn payloads_of_every_size_arrive_whole_however_they_mix_on_one_connection() {
    let directory = tempfile::tempdir().unwrap();
    let (_system, to) = target(directory.path());
    with_queue(Target { to, subsystem: NQN, namespaces: 2 }, async |queue, _| {
        for round in 0..8 {
            // In the capsule and after an R2T, up to 1 MiB, all on their way at once.
            let mut lba = 0;
            let writes: Vec<(u64, u16, Vec<u8>)> = [1, 32, 4, 64, 1, 5, 256, 2, 33, 128, 3, 1, 8, 200]
                .into_iter()
                .map(|blocks| {
                    let at = lba;
                    lba += u64::from(blocks);
                    (at, blocks, noise(1000 * round + at, usize::from(blocks) * 4096))
                })
                .collect();
            let written = writes
                .iter()
                .map(|(lba, blocks, data)| queue.execute(Command::write(1, *lba, *blocks, data.clone(), false)));
            for answer in all(written).await {
                assert!(answer.unwrap().completion.status.is_success());
            }
            let read = writes
                .iter()
                .map(|(lba, blocks, data)| queue.execute(Command::read(1, *lba, *blocks, data.len() as u32)));
            for (answer, (lba, _, data)) in all(read).await.into_iter().zip(&writes) {
                assert!(answer.unwrap().completion.data == *data, "round {round}, block {lba}");
            }
        }
    });
}

/// Has all of them go on at once; what came of each, in their order.
async fn all<F: Future>(of: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut each: Vec<_> = of.map(|one| (Box::pin(one), None)).collect();
    poll_fn(|context| {
        for (one, output) in each.iter_mut().filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(done) = one.as_mut().poll(context) {
                *output = Some(done);
            }
        }
        if each.iter().all(|(_, output)| output.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    each.into_iter().filter_map(|(_, output)| output).collect()
}

/// A target with two volumes in memory.
fn target(directory: &std::path::Path) -> (Longrun, SocketAddr) {
    let system = Longrun::start(directory);
    for (name, block_size) in [("m0", 4096), ("m1", 512)] {
        let params = json!({"name": name, "num_blocks": (4 << 20) / block_size, "block_size": block_size});
        system.call("bdev_malloc_create", params);
    }
    let to = free_tcp();
    system.export(NQN, &["m0", "m1"], to);
    (system, to)
}

fn sum(system: &Longrun, counter: &str) -> u64 {
    let stats = system.call("nvmf_get_stats", json!({}));
    stats["poll_groups"].as_array().unwrap().iter().map(|group| group[counter].as_u64().unwrap()).sum()
}

/// What became of a connection over which `bytes` were sent: the target's last words, once it has closed it.
fn attack(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be closed before everything was taken.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "neither answered nor closed: {error}"),
    }
    answer
}

/// A PDU that says that it is `plen` long, whatever follows.
fn pdu(kind: u8, flags: u8, hlen: u8, pdo: u8, plen: u32, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, flags, hlen, pdo];
    bytes.extend_from_slice(&plen.to_le_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

/// Bytes that look like noise and are the same every time.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn a_good_host_goes_on_unharmed_while_others_send_garbage() {
    let directory = tempfile::tempdir().unwrap();
    let (mut system, to) = target(directory.path());
    let link = free_udp();
    system.call(
        "link_create",
        json!({"name": "l0", "local_addr": link, "remote_addr": "127.0.0.1:9", "security": "none"}),
    );
    let clock = longrun::demo::clock::HostClock::start();
    let contents = Contents::new(1);
    let good = Target { to, subsystem: NQN, namespaces: 2 };
    let load = Load::start(good, contents, clock, 8 << 20, 1);
    load.wait_for_writes(100);
    let errors_before = sum(&system, "protocol_errors");

    let ic_req = pdu(0, 0, 128, 0, 128, &[0; 120]);
    let mut attacks: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"GET / HTTP/1.1\r\nHost: storage\r\n\r\n".to_vec(),
        pdu(0, 0, 128, 0, u32::MAX, &[0; 120]),
        pdu(0, 0, 255, 255, 0, &[]),
        ic_req[..60].to_vec(),
        [ic_req.as_slice(), &ic_req].concat(),
        [ic_req.as_slice(), &pdu(4, 0, 72, 72, u32::MAX, &[0xff; 64])].concat(),
        [ic_req.as_slice(), &pdu(4, 0, 72, 72, 72 + 8192, &[0x7f; 64])].concat(),
        [ic_req.as_slice(), &pdu(6, 0, 24, 24, 24 + 4096, &vec![0; 16 + 4096])].concat(),
        [ic_req.as_slice(), &pdu(9, 0, 24, 0, 24, &[0; 16])].concat(),
    ];
    attacks.extend((0..40).map(|seed| noise(seed, 3000)));
    attacks.extend((0..40).map(|seed| [ic_req.as_slice(), &noise(seed, 3000)].concat()));
    let count = attacks.len() as u64;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (at, bytes) in attacks.iter().enumerate() {
        attack(to, bytes);
        for seed in 0..20 {
            socket.send_to(&noise(1000 * at as u64 + seed, 20 + 70 * seed as usize), link).unwrap();
        }
    }
    load.wait_for_writes(100);
    let outcome = load.finish();
    assert_eq!((outcome.errors, outcome.first_error), (0, None));
    system.assert_running();
    let errors = sum(&system, "protocol_errors") - errors_before;
    // The empty one and those that only stop early are no errors of protocol.
    assert!((count / 2..=count).contains(&errors), "{errors} of {count} counted");
    // What the good host wrote reads back.
    let (shape, image) = longrun_tests::load::read_back(good, contents);
    let cut = longrun_checker::Cut {
        recovery_point: clock.now(),
        clock_error_ns: 1,
        killed_at: clock.now(),
        age_bound_ns: u64::MAX / 4,
        suspended: false,
    };
    let verdict = longrun_checker::judge(&longrun_checker::History::merge(&shape, [outcome.log]), &image, &cut);
    assert_eq!((verdict.order_closed, verdict.lost_after_recovery_point), (true, 0), "{verdict:#?}");
    let counters = system.call("link_get", json!({"name": "l0"}))[0]["counters"].clone();
    let dropped: u64 = ["dropped_unauthentic", "dropped_replayed", "dropped_stale", "dropped_malformed"]
        .iter()
        .map(|counter| counters[*counter].as_u64().unwrap())
        .sum();
    assert!(dropped > 500, "{counters}");
}

#[test]
fn connections_that_say_nothing_or_stop_in_the_middle_do_not_pile_up() {
    let directory = tempfile::tempdir().unwrap();
    let (mut system, to) = target(directory.path());
    let silent: Vec<TcpStream> = (0..200)
        .map(|at| {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.write_all(&noise(at, 0)).unwrap();
            if at % 2 == 0 {
                stream.write_all(&[0, 0, 128]).unwrap();
            }
            stream
        })
        .collect();
    // Others are served meanwhile.
    with_queue(Target { to, subsystem: NQN, namespaces: 2 }, async |queue, _| {
        let answer = queue.execute(Command::write(1, 0, 1, vec![7; 4096], false)).await.unwrap();
        assert!(answer.completion.status.is_success());
    });
    drop(silent);
    eventually("the connections to be gone", PATIENCE, || {
        let now = sum(&system, "current_admin_qpairs") + sum(&system, "current_io_qpairs");
        if now == 0 { Ok(()) } else { Err(format!("{now} queue pairs")) }
    });
    system.assert_running();
}

fn ready(watcher: &mut Watcher) -> Vec<u32> {
    match watcher.next_event() {
        ControllerEvent::Ready(description) => nsids(&description.namespaces),
        other => panic!("{other:?}"),
    }
}

fn nsids(namespaces: &[NamespaceInfo]) -> Vec<u32> {
    namespaces.iter().filter(|namespace| namespace.ready).map(|namespace| namespace.nsid).collect()
}

#[test]
fn only_hosts_on_the_list_connect_and_taking_one_off_ends_its_connections() {
    let directory = tempfile::tempdir().unwrap();
    let (mut system, to) = target(directory.path());
    system.call("nvmf_subsystem_allow_any_host", json!({"nqn": NQN, "allow_any_host": false}));
    let refused = |host: &str| match Watcher::connect(to, host, NQN).next_event() {
        ControllerEvent::Failed(error) => error.to_string(),
        other => panic!("{host} was not refused but: {other:?}"),
    };
    refused(HOST_NQN);
    system.call("nvmf_subsystem_add_host", json!({"nqn": NQN, "host": HOST_NQN}));
    let mut watcher = Watcher::connect(to, HOST_NQN, NQN);
    assert_eq!(ready(&mut watcher), [1, 2]);
    refused(STRANGER);
    system.call("nvmf_subsystem_remove_host", json!({"nqn": NQN, "host": HOST_NQN}));
    refused(HOST_NQN);
    eventually("the removed host's controller to be gone", PATIENCE, || {
        let controllers = system.call("nvmf_subsystem_get_controllers", json!({"nqn": NQN}));
        if controllers == json!([]) { Ok(()) } else { Err(controllers.to_string()) }
    });
    system.assert_running();
}

/// Waits for a discovery log that `is_right`.
fn discovered(watcher: &mut Watcher, is_right: impl Fn(&[(String, String)]) -> bool) {
    let until = Instant::now() + PATIENCE;
    let mut last = Vec::new();
    while Instant::now() < until {
        if let ControllerEvent::Discovered { paths, .. } = watcher.next_event() {
            last = paths.into_iter().map(|path| (path.subsystem, path.port)).collect();
            if is_right(&last) {
                return;
            }
        }
    }
    panic!("discovered {last:?}");
}

#[test]
fn discovery_shows_each_host_its_subsystems_and_every_change() {
    let directory = tempfile::tempdir().unwrap();
    let (system, to) = target(directory.path());
    let discovery = free_tcp();
    let listen = json!({"nqn": DISCOVERY_NQN, "listen_address": listen_address(discovery)});
    system.call("nvmf_subsystem_add_listener", listen);
    let shows = |nqn: &'static str, at: SocketAddr| {
        move |paths: &[(String, String)]| paths.iter().any(|(name, port)| name == nqn && *port == at.port().to_string())
    };
    let mut watcher = Watcher::connect(discovery, HOST_NQN, DISCOVERY_NQN);
    discovered(&mut watcher, shows(NQN, to));

    const SECOND: &str = "nqn.2026-11.io.longrun:second";
    let second = free_tcp();
    system.export(SECOND, &[], second);
    discovered(&mut watcher, |paths| shows(SECOND, second)(paths) && shows(NQN, to)(paths));
    // Not a host's business any more.
    system.call("nvmf_subsystem_allow_any_host", json!({"nqn": NQN, "allow_any_host": false}));
    discovered(&mut watcher, |paths| shows(SECOND, second)(paths) && !shows(NQN, to)(paths));
    system.call("nvmf_subsystem_add_host", json!({"nqn": NQN, "host": HOST_NQN}));
    discovered(&mut watcher, |paths| shows(SECOND, second)(paths) && shows(NQN, to)(paths));
    system.call("nvmf_delete_subsystem", json!({"nqn": SECOND}));
    discovered(&mut watcher, |paths| !shows(SECOND, second)(paths) && shows(NQN, to)(paths));
}

#[test]
fn namespaces_come_and_go_under_a_connected_host_that_goes_on_working() {
    let directory = tempfile::tempdir().unwrap();
    let (mut system, to) = target(directory.path());
    system.call("bdev_malloc_create", json!({"name": "m2", "num_blocks": 64, "block_size": 4096}));
    let mut watcher = Watcher::connect(to, HOST_NQN, NQN);
    assert_eq!(ready(&mut watcher), [1, 2]);
    let clock = longrun::demo::clock::HostClock::start();
    let load = Load::start(Target { to, subsystem: NQN, namespaces: 2 }, Contents::new(2), clock, 4 << 20, 2);

    let changed = |watcher: &mut Watcher, wanted: &[u32]| {
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "namespaces {wanted:?} were not reported");
            if let ControllerEvent::Namespaces(now) = watcher.next_event()
                && nsids(&now) == wanted
            {
                return;
            }
        }
    };
    for _ in 0..3 {
        let namespace: Value = json!({"bdev_name": "m2", "nsid": 5});
        system.call("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": namespace}));
        changed(&mut watcher, &[1, 2, 5]);
        system.call("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 5}));
        changed(&mut watcher, &[1, 2]);
    }
    load.wait_for_writes(50);
    let outcome = load.finish();
    assert_eq!((outcome.errors, outcome.first_error), (0, None));
    // A removed bdev is free again.
    system.call("bdev_malloc_delete", json!({"name": "m2"}));
    system.assert_running();
}

#[test]
fn hosts_follow_the_access_states_of_their_listener_and_a_restart_keeps_them() {
    const NQN: &str = "nqn.2026-11.io.longrun:two-paths";
    let directory = tempfile::tempdir().unwrap();
    let (mut system, plain) = target(directory.path());
    system.call("bdev_malloc_create", json!({"name": "m2", "num_blocks": 64, "block_size": 4096}));
    let subsystem =
        json!({"nqn": NQN, "allow_any_host": true, "ana_reporting": true, "min_cntlid": 7, "max_cntlid": 90});
    system.call("nvmf_create_subsystem", subsystem);
    let namespace = json!({"bdev_name": "m2", "nsid": 1, "anagrpid": 3});
    system.call("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": namespace}));
    let (good, bad) = (free_tcp(), free_tcp());
    let listener = |to, state: &str| json!({"nqn": NQN, "listen_address": listen_address(to), "ana_state": state});
    system.call("nvmf_subsystem_add_listener", listener(good, "optimized"));
    system.call("nvmf_subsystem_add_listener", listener(bad, "inaccessible"));

    let states = |watcher: &mut Watcher| match watcher.next_event() {
        ControllerEvent::Ready(description) => {
            assert!((7..=90).contains(&description.cntlid), "{}", description.cntlid);
            description.namespaces[0].access
        }
        ControllerEvent::Namespaces(now) => now[0].access,
        other => panic!("{other:?}"),
    };
    let mut watchers = [good, bad].map(|to| Watcher::connect(to, HOST_NQN, NQN));
    let [through_good, through_bad] = &mut watchers;
    assert_eq!(states(through_good), AnaState::Optimized);
    assert_eq!(states(through_bad), AnaState::Inaccessible);
    let write = |to| {
        with_queue(Target { to, subsystem: NQN, namespaces: 1 }, async |queue, _| {
            let write = Command::write(1, 0, 1, vec![1; 4096], false);
            queue.execute(write).await.unwrap().completion.status
        })
    };
    assert_eq!((write(good), write(bad)), (Status::SUCCESS, Status::ANA_INACCESSIBLE));

    let set = |to, state: &str, group: Option<u32>| json!({"nqn": NQN, "listen_address": listen_address(to), "ana_state": state, "anagrpid": group});
    system.call("nvmf_subsystem_listener_set_ana_state", set(good, "inaccessible", None));
    assert_eq!(states(through_good), AnaState::Inaccessible);
    system.call("nvmf_subsystem_listener_set_ana_state", set(bad, "non_optimized", Some(3)));
    assert_eq!(states(through_bad), AnaState::NonOptimized);
    assert_eq!((write(good), write(bad)), (Status::ANA_INACCESSIBLE, Status::SUCCESS));

    // Refused, with what to do, and nothing changed.
    for (params, part) in [
        (set(good, "optimized", Some(33)), "expected 1 to 32"),
        (set(free_tcp(), "optimized", None), "does not listen on"),
        (set(good, "change", None), "only shown"),
    ] {
        let error = system.refused("nvmf_subsystem_listener_set_ana_state", params);
        assert!(error.message.contains(part), "{error}");
    }
    let params = json!({"nqn": self::NQN, "listen_address": listen_address(plain), "ana_state": "inaccessible"});
    let error = system.refused("nvmf_subsystem_listener_set_ana_state", params);
    assert!(error.message.contains("ana_reporting"), "{error}");

    let shown = |system: &Longrun| system.call("nvmf_subsystem_get_listeners", json!({"nqn": NQN}));
    let before = shown(&system);
    let of = |state: &str| json!([{"ana_group": 3, "ana_state": state}]);
    assert_eq!(before[0]["ana_states"], of("inaccessible"), "{before}");
    assert_eq!(before[1]["ana_states"], of("non_optimized"), "{before}");
    system.save_config();
    system.kill();
    system.start_again();
    assert_eq!(shown(&system), before);
    assert_eq!((write(good), write(bad)), (Status::ANA_INACCESSIBLE, Status::SUCCESS));
}
