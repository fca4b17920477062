//! Two systems, killed and cut off in every way, and what the copy must then be. The verdict is the host's own log's.

use longrun_nvmf::host::{Command, ControllerEvent};
use longrun_rpc::methods::pair::PairState;
use longrun_tests::load::{HOST_NQN, Watcher, with_queue};
use longrun_tests::process::eventually;
use longrun_tests::sites::{self, GROUP, Options, PRIMARY_NQN, SECONDARY_NQN, Sites, VOLUMES, assert_closed, group};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// For cuts that nothing says the age of.
const ANY_AGE: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;

#[test]
fn a_secondary_killed_twenty_times_under_load_loses_nothing_and_catches_up() {
    // Two streams, so that the limit time is the lesser of two tips.
    let mut sites = Sites::paired(&Options { scope: "pair", ..Options::default() });
    let observer = sites.observe_primary();
    let load = sites.load(2 * MIB, 11);
    for round in 0..20u64 {
        load.wait_for_writes(10 + round);
        sites.secondary.kill();
        if round % 5 == 0 {
            // Some writes that it only gets afterwards.
            load.wait_for_writes(30);
        }
        sites.secondary.start_again();
        if round % 4 == 0 {
            sites.wait_until_moving();
        }
    }
    sites.wait_until_caught_up();
    load.wait_for_writes(50);
    sites.primary.assert_running();
    sites.kill_and_take_over(load, observer, Duration::from_secs(20));
}

#[test]
fn two_systems_that_were_told_no_keys_pair_without_security_and_take_up_again_after_a_restart_of_each() {
    let mut sites = Sites::paired(&Options { security: "none", ..Options::default() });
    sites.primary.kill();
    sites.primary.start_again();
    sites.wait_until_paired();
    let observer = sites.observe_primary();
    let load = sites.load(2 * MIB, 12);
    load.wait_for_writes(50);
    sites.secondary.kill();
    sites.secondary.start_again();
    load.wait_for_writes(50);
    sites.wait_until_caught_up();
    sites.kill_and_take_over(load, observer, ANY_AGE);
}

/// The step that a takeover is at, if one is under way.
fn step(sites: &Sites) -> Option<String> {
    let answer = sites.secondary.try_call("group_get", json!({"name": GROUP})).ok()?;
    let reason = answer[0]["reason"].as_str()?;
    Some(reason.strip_prefix("takeover: ")?.split(' ').next()?.to_owned())
}

/// Starts a takeover, kills the secondary as soon as `now` says so, and starts it again. Answers the last step seen.
fn kill_in_takeover(sites: &mut Sites, mut now: impl FnMut(Duration, Option<&str>) -> bool) -> Option<String> {
    let mut client = sites.secondary.client();
    let takeover = std::thread::spawn(move || {
        client.call("group_takeover", json!({"name": GROUP, "old_primary": "fenced"})).is_ok()
    });
    let begun = Instant::now();
    let mut seen = None;
    while !takeover.is_finished() && begun.elapsed() < PATIENCE {
        let at = step(sites);
        let is_now = now(begun.elapsed(), at.as_deref());
        seen = at.or(seen);
        if is_now {
            break;
        }
    }
    sites.secondary.kill();
    takeover.join().unwrap();
    sites.secondary.start_again();
    seen
}

#[test]
fn a_takeover_killed_at_each_step_is_finished_after_the_restart() {
    let mut hit = BTreeSet::new();
    // Each step but the last; some are over in less than a look, and are met by chance at one of the other moments.
    for (round, wanted) in ["Journal", "Seal", "Apply", "Flush", "Close"].into_iter().enumerate() {
        // Journaling and applying take long enough to be met.
        let scope = ["group", "pair", "system"][round % 3];
        let slow = Options { scope, secondary_write_us: 30_000, journal_write_us: 200_000, ..Options::default() };
        let mut sites = Sites::paired(&slow);
        let observer = sites.observe_primary();
        let load = sites.load(3 * MIB, round as u64);
        load.wait_for_writes(300);
        sites.primary.kill();
        let killed_at = sites.clock.now();
        let outcome = load.wait_for_end();

        hit.extend(kill_in_takeover(&mut sites, |_, at| at == Some(wanted)));
        // And again, at other moments, whatever is left of it.
        for delay_ms in [0, 3, 30] {
            hit.extend(kill_in_takeover(&mut sites, |since, _| since >= Duration::from_millis(delay_ms)));
        }
        let certificate = sites.take_over();
        assert_eq!(certificate.generation.number, 2, "one takeover is one generation: {certificate:#?}");
        assert_eq!(group(&sites.secondary).state, PairState::Ssws);
        // Asked again, it says the same.
        assert_eq!(sites.take_over(), certificate);
        let verdict = sites.judge(&certificate, outcome, &observer.finish(), killed_at, Duration::from_secs(20));
        assert_closed(&verdict);
    }
    println!("killed in steps {hit:?}");
    assert!(["Journal", "Apply"].iter().all(|step| hit.contains(*step)), "killed in steps {hit:?} only");
}

#[test]
fn a_primary_killed_and_started_again_without_a_link_says_so_and_the_recovery_point_stays() {
    let mut sites = Sites::paired(&Options::default());
    let observer = sites.observe_primary();
    let load = sites.load(2 * MIB, 3);
    load.wait_for_writes(300);
    sites.primary.kill();
    let killed_at = sites.clock.now();
    let outcome = load.wait_for_end();
    sites.relay.cut();
    let kept = group(&sites.secondary).recovery_point_ns;
    sites.primary.start_again();
    let suspended = sites.wait_for(PairState::Psue);
    assert!(suspended.reason.as_deref().is_some_and(|reason| reason.contains("restarted")), "{suspended:?}");
    // Hosts run on at the primary.
    with_queue(sites.primary_target(), async |queue, _| {
        for lba in 0..50 {
            let answer = queue.execute(Command::write(1, lba, 1, vec![0xaa; 4096], false)).await.unwrap();
            assert!(answer.completion.status.is_success(), "{}", answer.completion.status);
        }
    });
    let after = group(&sites.secondary);
    assert_eq!((after.recovery_point_ns, after.consistent), (kept, true));
    let certificate = sites.take_over();
    assert_eq!(Some(certificate.recovery_point_ns), kept);
    let verdict = sites.judge(&certificate, outcome, &observer.finish(), killed_at, Duration::from_secs(20));
    assert_closed(&verdict);
}

#[test]
fn a_primary_stopped_in_good_order_and_started_again_goes_on_by_itself() {
    let mut sites = Sites::paired(&Options::default());
    let load = sites.load(2 * MIB, 4);
    load.wait_for_writes(300);
    let outcome = load.finish();
    sites.primary.stop();
    sites.primary.start_again();
    sites.wait_until_paired();
    // The timeline goes on above its lease, so it lies elsewhere on the hosts' clock now.
    let observer = sites.observe_primary();
    // What is written now is copied too: blocks get what they hold already, so that the verdict stays the first load's.
    let records = || -> u64 { group(&sites.secondary).streams.iter().map(|stream| stream.durable).sum() };
    let before = records();
    with_queue(sites.primary_target(), async |queue, _| {
        for lba in 0..50 {
            let read = queue.execute(Command::read(1, lba, 1, 4096)).await.unwrap();
            let answer = queue.execute(Command::write(1, lba, 1, read.completion.data, false)).await.unwrap();
            assert!(answer.completion.status.is_success(), "{}", answer.completion.status);
        }
    });
    sites.wait_until_caught_up();
    assert!(records() >= before + 50, "{} records, {before} before", records());
    sites.primary.kill();
    let killed_at = sites.clock.now();
    let certificate = sites.take_over();
    let verdict = sites.judge(&certificate, outcome, &observer.finish(), killed_at, Duration::from_secs(20));
    assert_closed(&verdict);
    assert_eq!(verdict.lost_after_recovery_point, 0, "{verdict:#?}");
}

#[test]
fn an_overflow_slows_hosts_then_lets_them_run_and_the_copy_keeps_its_last_cut() {
    let options = Options { throttle_ms_max: 100, buffer_bytes: 4 * MIB, ..Options::default() };
    let mut sites = Sites::paired(&options);
    let observer = sites.observe_primary();
    let load = sites.load(8 * MIB, 5);
    load.wait_for_writes(200);
    sites.relay.cut();
    let mut throttle_ms = BTreeSet::new();
    let reason = eventually("PFUS at the primary", PATIENCE, || {
        let group = group(&sites.primary);
        throttle_ms.extend(group.throttle_ms);
        if group.state == PairState::Pfus { Ok(group.reason) } else { Err(format!("{group:?}")) }
    });
    assert!(reason.is_some(), "PFUS without a reason");
    assert!(throttle_ms.iter().any(|ms| *ms > 0), "no ramp was seen: {throttle_ms:?}");
    assert!(throttle_ms.iter().all(|ms| *ms <= 100), "{throttle_ms:?}");
    let kept = group(&sites.secondary).recovery_point_ns;
    // Many times what the buffer holds.
    load.wait_for_writes(2000);
    sites.primary.assert_running();
    let after = group(&sites.secondary);
    assert_eq!((after.recovery_point_ns, after.consistent), (kept, true));
    let (certificate, verdict) = sites.kill_and_take_over(load, observer, ANY_AGE);
    assert_eq!(Some(certificate.recovery_point_ns), kept);
    assert!(verdict.lost_after_recovery_point > 0, "the cut was to cost something: {verdict:#?}");
}

fn uuids(system: &longrun_tests::process::Longrun) -> Vec<Value> {
    VOLUMES.iter().map(|name| system.call("bdev_get_bdevs", json!({"name": name}))[0]["uuid"].clone()).collect()
}

#[test]
fn a_secondarys_volumes_refuse_hosts_until_the_takeover_and_then_are_new_ones() {
    let mut sites = Sites::paired(&Options::default());
    sites.export_secondary();
    let target = sites.secondary_target();
    let ready = |namespaces: &[longrun_nvmf::host::NamespaceInfo]| -> Vec<(u32, [u8; 16])> {
        namespaces.iter().filter(|n| n.ready).map(|n| (n.nsid, n.nguid)).collect()
    };
    let mut watcher = Watcher::connect(target.to, HOST_NQN, SECONDARY_NQN);
    let ControllerEvent::Ready(description) = watcher.next_event() else { panic!("not ready") };
    assert_eq!(ready(&description.namespaces), []);
    // A host that does not care is refused all the same.
    with_queue(longrun_tests::load::Target { namespaces: 0, ..target }, async |queue, _| {
        let commands = [
            Command::read(1, 0, 1, 4096),
            Command::write(1, 0, 1, vec![1; 4096], false),
            Command::write_zeroes(1, 0, 1, false),
            Command::deallocate(1, &[(0, 1)]),
        ];
        for command in commands {
            let shown = format!("{command:?}");
            let answer = queue.execute(command).await.unwrap();
            assert!(!answer.completion.status.is_success(), "{shown} was carried out");
        }
    });
    let mut primarys = Watcher::connect(sites.primary_target().to, HOST_NQN, PRIMARY_NQN);
    let ControllerEvent::Ready(at_primary) = primarys.next_event() else { panic!("not ready") };
    let before = uuids(&sites.secondary);
    let originals = uuids(&sites.primary);
    sites.wait_until_caught_up();
    sites.primary.kill();
    let certificate = sites.take_over();

    let now = loop {
        if let ControllerEvent::Namespaces(now) = watcher.next_event()
            && ready(&now).len() == VOLUMES.len()
        {
            break ready(&now);
        }
    };
    let after = uuids(&sites.secondary);
    let certified: Vec<Value> = certificate.volumes.iter().map(|volume| json!(volume.uuid)).collect();
    for at in 0..VOLUMES.len() {
        assert!(certified.contains(&after[at]), "{certified:?} {after:?}");
        assert!(!before.contains(&after[at]) && !originals.contains(&after[at]));
        assert!(ready(&at_primary.namespaces).iter().all(|(_, nguid)| *nguid != now[at].1), "an old NGUID");
    }
    with_queue(target, async |queue, _| {
        for (nsid, bytes) in [(1, 4096), (2, 512)] {
            let write = Command::write(nsid, 0, 1, vec![nsid as u8; bytes as usize], false);
            assert!(queue.execute(write).await.unwrap().completion.status.is_success());
            let read = queue.execute(Command::read(nsid, 0, 1, bytes)).await.unwrap();
            assert_eq!(read.completion.data, vec![nsid as u8; bytes as usize]);
        }
    });
    // All of that outlasts a kill.
    sites.secondary.save_config();
    sites.secondary.kill();
    sites.secondary.start_again();
    eventually("the identities after a restart", PATIENCE, || {
        let again = uuids(&sites.secondary);
        if again == after { Ok(()) } else { Err(format!("{again:?} instead of {after:?}")) }
    });
    with_queue(target, async |queue, _| {
        let read = queue.execute(Command::read(1, 0, 1, 4096)).await.unwrap();
        assert_eq!(read.completion.data, vec![1; 4096]);
    });
}

#[test]
fn a_takeover_without_a_word_about_the_old_primary_is_refused() {
    let sites = Sites::paired(&Options::default());
    let error = sites.secondary.refused("group_takeover", json!({"name": sites::GROUP}));
    assert!(error.message.contains("old_primary") && error.message.contains("accept_split"), "{error}");
    let certificate = sites.secondary.call("group_takeover", json!({"name": sites::GROUP, "accept_split": true}));
    assert_eq!(certificate["split_accepted"], true);
    // The primary lives on, hears of the newer generation and fails its hosts.
    eventually("the old primary to be fenced", PATIENCE, || {
        let refused = with_queue(sites.primary_target(), async |queue, _| {
            let answer = queue.execute(Command::write(1, 0, 1, vec![1; 4096], false)).await.unwrap();
            !answer.completion.status.is_success()
        });
        if refused { Ok(()) } else { Err(format!("{:?}", group(&sites.primary))) }
    });
}
