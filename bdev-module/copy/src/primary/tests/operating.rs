//! Operators suspend, name and compare.

use super::secondary::*;
use super::*;

fn config() -> GroupConfig {
    Rig::group_config("g", Scope::Group)
}

fn suspended(rig: &Rig) -> (Time, bool) {
    match rig.answered(80) {
        Ok(OperatorAnswer::Suspended { at, drained }) => (*at, *drained),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_suspended_group_drains_to_one_time_and_its_hosts_run_on() {
    for scope in [Scope::Pair, Scope::Group, Scope::System] {
        let (mut rig, mut site, group, pairs) = Rig::large(Rig::group_config("g", scope), 2);
        for pair in &pairs {
            rig.write(*pair, 0, 8, 1);
        }
        rig.run();
        let stamped = rig.pushed().len();
        let from = rig.world.did.len();
        rig.primary.group_suspend(rig.now, group, Ticket(80), &mut rig.world).unwrap();
        let parked = rig.write(pairs[0], 0, 8, 2);
        assert!(rig.world.pending.is_empty(), "not before the suspension is durable");
        rig.run();
        rig.pass(60 * MS);
        rig.run();
        rig.pass(60 * MS);
        assert_eq!(rig.outcome(parked), Some(Ok(())));
        assert_eq!(rig.state(pairs[0]), PairState::SuspendedOperator);
        assert_eq!(rig.pushed().len(), stamped, "no new stamps");
        assert!(!rig.world.operators.contains_key(&80), "the secondary does not have it all yet");
        let told = |rig: &Rig| rig.said().iter().any(|said| matches!(said, Message::GroupSuspended { .. }));
        assert!(!told(&rig), "it would throw the rest away");
        let beacons: Vec<Beacon> = rig.world.did[from..]
            .iter()
            .filter_map(|did| match did {
                Did::Beacon(beacon) => Some(*beacon),
                _ => None,
            })
            .collect();
        let streams: BTreeSet<StreamId> = beacons.iter().map(|beacon| beacon.stream).collect();
        assert_eq!(streams.len(), rig.show(group).streams.len(), "{scope:?}");
        assert!(beacons.len() > streams.len(), "said again: one may be lost");
        site.take_all(&mut rig);
        rig.run();
        let (at, drained) = suspended(&rig);
        assert!(drained && told(&rig));
        assert!(beacons.iter().all(|beacon| beacon.time == at), "one limit time for all streams");
        assert!(rig.pushed().iter().all(|head| head.stamp.time <= at));
        site.pass(&mut rig, 5 * SECOND);
        assert_eq!(rig.state(pairs[0]), PairState::SuspendedOperator, "until the operator says so");
        rig.primary.group_resync(rig.now, group, false, &mut rig.world).unwrap();
        site.run(&mut rig);
        assert_eq!(rig.state(pairs[0]), PairState::Pair);
        let open = site.opens.last().unwrap();
        assert_eq!((open.unit, open.drained.is_some()), (Some(1), true));
        site.assert_equal(&rig);
    }
}

#[test]
fn a_suspension_that_cannot_drain_in_time_says_so_and_its_marks_cover_the_rest() {
    for session in [true, false] {
        let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
        rig.write(pairs[0], 0, 8, 1);
        rig.run();
        if !session {
            rig.world.up = false;
            rig.primary.link_down(rig.now, LINK, &mut rig.world);
        }
        rig.primary.group_suspend(rig.now, group, Ticket(80), &mut rig.world).unwrap();
        rig.run();
        if session {
            assert!(!rig.world.operators.contains_key(&80));
            rig.pass(30 * SECOND);
        }
        assert!(!suspended(&rig).1);
        assert!(rig.world.records.is_empty());
        assert_eq!(rig.show(group).missing_bytes, 65536);
        rig.world.up = true;
        rig.primary.link_up(rig.now, LINK, &mut rig.world);
        assert!(rig.said().iter().any(|said| matches!(said, Message::GroupSuspended { state, .. } if state == "PSUS")));
        // It survives a restart, and does not end by itself.
        let mut rig = rig.crash();
        site.meets(&rig);
        rig.large_group(config(), 1);
        site.pass(&mut rig, 5 * SECOND);
        assert_eq!(rig.state(pairs[0]), PairState::SuspendedOperator);
        rig.primary.group_resync(rig.now, group, false, &mut rig.world).unwrap();
        site.pass(&mut rig, SECOND);
        assert_eq!(rig.state(pairs[0]), PairState::Pair);
        site.assert_equal(&rig);
    }
}

#[test]
fn until_a_suspension_is_drained_its_lag_counts_from_what_the_secondary_lacks() {
    for (session, crash) in [(true, false), (false, false), (true, true)] {
        let (mut rig, _, group, pairs) = Rig::large(config(), 1);
        rig.write(pairs[0], 0, 8, 1);
        rig.run();
        let first = rig.pushed()[0].stamp.time;
        rig.pass(SECOND);
        rig.world.up = session;
        rig.primary.group_suspend(rig.now, group, Ticket(80), &mut rig.world).unwrap();
        rig.run();
        let lag = |rig: &Rig| rig.show(group).lag_ns.unwrap();
        assert!(lag(&rig) >= rig.now.time.since_ns(first));
        // Neither does a crash in the middle nor a drain that failed make it smaller.
        if crash {
            let mut rig = rig.crash();
            rig.large_group(config(), 1);
            assert!(lag(&rig) >= rig.now.time.since_ns(first));
            continue;
        }
        rig.pass(30 * SECOND);
        assert!(!suspended(&rig).1);
        assert!(lag(&rig) >= rig.now.time.since_ns(first));
    }
}

#[test]
fn groups_of_one_stream_that_could_not_drain_all_count_their_lag_from_what_the_secondary_lacks() {
    let (mut rig, _, pairs) = Rig::copying(Scope::System, 1);
    let groups = [rig.show_pair(pairs[0]).group, rig.group("h", Scope::System)];
    let other = rig.pair(groups[1], "h0", 7);
    rig.run();
    assert_eq!(rig.state(other), PairState::Pair);
    rig.write(pairs[0], 0, 8, 1);
    rig.run();
    let first = rig.pushed().last().unwrap().stamp.time;
    rig.pass(SECOND);
    rig.primary.group_suspend(rig.now, groups[0], Ticket(80), &mut rig.world).unwrap();
    rig.run();
    rig.world.up = false;
    rig.primary.link_down(rig.now, LINK, &mut rig.world);
    rig.run();
    assert!(!suspended(&rig).1);
    for group in groups {
        assert_eq!(rig.show(group).state, PairState::SuspendedOperator);
        assert!(rig.show(group).lag_ns.unwrap() >= rig.now.time.since_ns(first));
    }
}

#[test]
fn a_suspension_in_the_middle_of_a_resync_is_not_drained_and_its_lag_is_that_of_the_image() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    rig.write(pairs[0], 0, 8, 1);
    rig.run();
    let first = rig.pushed()[0].stamp.time;
    rig.stop_group(group);
    rig.run();
    site.meets(&rig);
    rig.pass(SECOND);
    while rig.keep() | site.answer(&mut rig) {}
    rig.turn();
    assert_eq!(rig.show(group).unit, Some(1));
    rig.pass(SECOND);
    rig.primary.group_suspend(rig.now, group, Ticket(80), &mut rig.world).unwrap();
    rig.run();
    assert!(!suspended(&rig).1, "the secondary's image is the one from before the resync");
    assert!(rig.show(group).lag_ns.unwrap() >= rig.now.time.since_ns(first));
    // The next one too is no image until it is done.
    rig.primary.group_resync(rig.now, group, false, &mut rig.world).unwrap();
    rig.run();
    assert_eq!(rig.show(group).unit, Some(2));
    assert!(rig.show(group).lag_ns.unwrap() >= rig.now.time.since_ns(first));
}

#[test]
fn an_operator_may_hold_a_group_that_would_be_resynced_by_itself() {
    for scope in [Scope::Group, Scope::System] {
        let (mut rig, mut site, group, pairs) = Rig::large(Rig::group_config("g", scope), 1);
        rig.write(pairs[0], 0, 8, 1);
        rig.run();
        rig.stop_group(group);
        rig.run();
        let lag = rig.show(group).lag_ns;
        assert!(rig.show(group).next_attempt.is_some());
        rig.primary.group_suspend(rig.now, group, Ticket(80), &mut rig.world).unwrap();
        assert!(!rig.world.operators.contains_key(&80), "not before it is durable");
        rig.run();
        assert!(!suspended(&rig).1);
        let show = rig.show(group);
        assert_eq!((show.state, show.next_attempt), (PairState::SuspendedOperator, None));
        assert!(show.reason.as_ref().is_some_and(|reason| reason.contains("PSUE")), "{:?}", show.reason);
        assert_eq!(show.lag_ns, lag);
        assert!(rig.said().iter().any(|it| matches!(it, Message::GroupSuspended { state, .. } if state == "PSUS")));
        site.meets(&rig);
        site.pass(&mut rig, 5 * SECOND);
        // Nor after a restart.
        let mut rig = rig.crash();
        site.meets(&rig);
        rig.large_group(Rig::group_config("g", scope), 1);
        site.pass(&mut rig, 5 * SECOND);
        assert_eq!(rig.state(pairs[0]), PairState::SuspendedOperator, "until the operator says so");
        let refused = rig.primary.group_suspend(rig.now, group, Ticket(81), &mut rig.world);
        assert!(matches!(refused, Err(OperatorError::WrongState(text)) if text.contains("already")));
        rig.primary.group_resync(rig.now, group, false, &mut rig.world).unwrap();
        site.pass(&mut rig, SECOND);
        assert_eq!(rig.state(pairs[0]), PairState::Pair);
        site.assert_equal(&rig);
    }
}

#[test]
fn a_drain_goes_on_in_the_next_session() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    rig.write(pairs[0], 0, 8, 1);
    rig.run();
    rig.primary.group_suspend(rig.now, group, Ticket(80), &mut rig.world).unwrap();
    rig.keep_all();
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    assert!(
        matches!(rig.said().last(), Some(Message::OpenStream(open)) if open.epoch == Epoch(1) && open.unit.is_none())
    );
    site.run(&mut rig);
    assert!(suspended(&rig).1);
}

#[test]
fn suspending_is_refused_by_a_sentence_where_it_makes_no_sense() {
    let mut rig = Rig::new();
    let group = rig.group("g", Scope::Group);
    let refused = |group, words: &str, rig: &mut Rig| {
        let refused = rig.primary.group_suspend(rig.now, group, Ticket(80), &mut rig.world);
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
        assert!(rig.world.operators.is_empty());
    };
    refused(GroupId(4), "no such group", &mut rig);
    refused(group, "no pair that copies", &mut rig);
    let (mut rig, mut site, group, _) = Rig::large(config(), 1);
    rig.primary.group_suspend(rig.now, group, Ticket(80), &mut rig.world).unwrap();
    site.run(&mut rig);
    rig.world.operators.clear();
    refused(group, "suspended already (PSUS", &mut rig);
    rig.hear(Message::Fenced { group, generation: Generation { number: 2, id: 5, parent: 77 } });
    refused(group, "fenced", &mut rig);
}

#[test]
fn a_resync_can_be_suspended_and_gone_on_with() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    rig.write(pairs[0], 0, 8, 1);
    rig.stop_group(group);
    rig.run();
    site.meets(&rig);
    rig.pass(SECOND);
    while rig.keep() | site.answer(&mut rig) {}
    assert_eq!(rig.state(pairs[0]), PairState::Copy);
    rig.primary.group_suspend(rig.now, group, Ticket(80), &mut rig.world).unwrap();
    rig.run();
    assert!(!suspended(&rig).1, "what came so far is no image");
    assert_eq!((rig.state(pairs[0]), rig.show(group).unit), (PairState::SuspendedOperator, Some(1)));
    rig.primary.group_resync(rig.now, group, false, &mut rig.world).unwrap();
    site.run(&mut rig);
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
    site.assert_equal(&rig);
}

#[test]
fn a_bookmark_is_later_than_what_was_answered_and_earlier_than_what_comes() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 2);
    rig.write(pairs[1], 0, 8, 1);
    site.run(&mut rig);
    let before = rig.pushed().last().unwrap().stamp;
    let at = rig.primary.group_bookmark(rig.now, group, "before the upgrade", &mut rig.world).unwrap();
    rig.write(pairs[1], 0, 8, 2);
    let after = rig.pushed().last().unwrap().stamp;
    assert!(before.time < at && at < after.time && after.seq.0 == before.seq.0 + 2);
    site.run(&mut rig);
    assert_eq!(site.bookmarks, ["before the upgrade"]);
    site.assert_equal(&rig);
    let long = "x".repeat(256);
    for name in ["", long.as_str()] {
        assert!(matches!(
            rig.primary.group_bookmark(rig.now, group, name, &mut rig.world),
            Err(OperatorError::Invalid(_))
        ));
    }
    rig.now.lease = rig.now.time;
    rig.primary.group_bookmark(rig.now, group, "now", &mut rig.world).unwrap_err();
    rig.now.lease = Time(u64::MAX);
    rig.stop_group(group);
    let refused = rig.primary.group_bookmark(rig.now, group, "x", &mut rig.world).unwrap_err();
    assert!(refused.to_string().contains("PSUE"), "{refused}");
    assert_eq!(rig.world.history.iter().filter(|record| record.head.kind == RecordKind::Bookmark).count(), 1);
}

#[test]
fn a_verify_is_of_what_there_was_when_it_began_though_the_pair_grows_under_it() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    rig.primary.group_verify(rig.now, group, None, false, &mut rig.world).unwrap();
    // What is added is not the same at both sites until the resize is done.
    rig.world.disks.values_mut().for_each(|disk| disk.resize(2 * (LARGE * 512) as usize, 7));
    rig.primary.pairs.get_mut(&pairs[0]).unwrap().config.geometry.blocks = 2 * LARGE;
    site.run(&mut rig);
    let verify = rig.show(group).verify.unwrap();
    assert_eq!((verify.is_over, verify.bytes_done, verify.bytes_differing), (true, LARGE * 512, 0));
}

#[test]
fn a_verify_finds_what_differs_and_repairs_it_while_hosts_write() {
    for repair in [false, true] {
        let (mut rig, mut site, group, pairs) = Rig::large(config(), 2);
        rig.write(pairs[0], 0, 64, 1);
        rig.write(pairs[1], 0, 64, 1);
        site.run(&mut rig);
        let disk = site.disks.get_mut(&pairs[1]).unwrap();
        disk[(2 * REGION * 512) as usize + 5] ^= 1;
        disk[(3 * REGION * 512) as usize + 5] ^= 1;
        disk[(LARGE * 512) as usize - 1] ^= 1;
        rig.primary.group_verify(rig.now, group, None, repair, &mut rig.world).unwrap();
        assert!(rig.primary.group_verify(rig.now, group, None, repair, &mut rig.world).is_err(), "one at a time");
        rig.write(pairs[0], 8, 64, 2);
        site.run(&mut rig);
        let verify = rig.show_pair(pairs[1]).verify.unwrap();
        let expected =
            [Extent { lba: 2 * REGION, blocks: 2 * REGION as u32 }, Extent { lba: 7 * REGION, blocks: REGION as u32 }];
        assert_eq!((verify.differing, verify.bytes_differing), (expected.to_vec(), 3 * 65536));
        let sum = rig.show(group).verify.unwrap();
        assert_eq!((sum.is_over, sum.bytes_done, sum.bytes_total), (true, 2 * LARGE * 512, 2 * LARGE * 512));
        assert_eq!(rig.show_pair(pairs[0]).verify.unwrap().bytes_differing, 0);
        let zeroes = site.taken.iter().filter(|head| head.kind == RecordKind::WriteZeroes).count();
        assert_eq!((zeroes, rig.copies().len()), (if repair { 3 } else { 0 }, 0), "what is here is zero");
        if repair {
            assert!(rig.show(group).state.is_copying());
            site.assert_equal(&rig);
        }
        rig.primary.group_verify(rig.now, group, Some(pairs[1]), false, &mut rig.world).unwrap();
        site.run(&mut rig);
        let again = rig.show(group).verify.unwrap();
        assert_eq!((again.bytes_total, again.bytes_differing), (LARGE * 512, if repair { 0 } else { 3 * 65536 }));
    }
}

#[test]
fn a_verify_asks_again_what_a_session_took_with_it_and_ends_with_a_suspension() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    rig.write(pairs[0], 0, 8, 1);
    site.run(&mut rig);
    rig.primary.group_verify(rig.now, group, None, false, &mut rig.world).unwrap();
    rig.run();
    let records = |rig: &Rig| rig.world.history.iter().filter(|record| record.head.kind == RecordKind::Verify).count();
    assert_eq!(records(&rig), 1);
    // The answer is lost with the session.
    let stream = rig.show_pair(pairs[0]).stream;
    rig.durable(stream, rig.standing(stream).last.0);
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    site.run(&mut rig);
    assert_eq!((records(&rig), rig.show(group).verify.unwrap().is_over), (2, true));
    rig.primary.group_verify(rig.now, group, None, false, &mut rig.world).unwrap();
    rig.stop_group(group);
    let verify = rig.show(group).verify.unwrap();
    assert!(verify.is_over && verify.reason.unwrap().contains("suspended"));
    rig.run();
    assert!(rig.primary.jobs.is_empty());
    assert!(rig.primary.group_verify(rig.now, group, None, false, &mut rig.world).is_err());
}

#[test]
fn a_verify_counts_what_cannot_be_read_and_goes_on() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 2);
    rig.world.failing_reads.insert(VolumeId(0));
    rig.primary.group_verify(rig.now, group, None, false, &mut rig.world).unwrap();
    site.run(&mut rig);
    let verify = rig.show(group).verify.unwrap();
    assert_eq!((verify.is_over, verify.bytes_unreadable, verify.bytes_done), (true, LARGE * 512, 2 * LARGE * 512));
    let _ = pairs;
}

#[test]
fn a_secondary_is_told_to_be_the_primary_only_when_every_volume_here_is_flushed() {
    for fails in [false, true] {
        let (mut rig, mut site, group, pairs) = Rig::large(config(), 2);
        for pair in &pairs {
            rig.write(*pair, 0, 8, 1);
        }
        site.run(&mut rig);
        let from = rig.world.did.len();
        let told = |rig: &Rig| rig.world.did[from..].iter().any(|it| matches!(it, Did::Say(Message::HandOver { .. })));
        rig.primary.group_swap(rig.now, group, Ticket(90), &mut rig.world).unwrap();
        for _ in 0..10 {
            rig.pass(100 * MS);
            rig.keep_all();
        }
        let flushed: Vec<VolumeId> =
            rig.world.pending.iter().filter(|it| matches!(it.1, LocalIo::Flush)).map(|it| it.0).collect();
        let waiting = rig.show(group).waiting;
        assert_eq!(
            flushed,
            [VolumeId(0), VolumeId(1)],
            "what hosts were told is written may be in a cache: {waiting:?}"
        );
        // One is done, the other not yet.
        assert!(rig.local());
        rig.keep_all();
        rig.turn();
        assert!(!told(&rig) && !rig.world.operators.contains_key(&90));
        if fails {
            rig.world.failing_flushes.insert(VolumeId(1));
        }
        rig.locals();
        assert!(!told(&rig), "not before that it is handed over is durable");
        rig.keep_all();
        assert_eq!(told(&rig), !fails);
        if fails {
            assert!(matches!(rig.answered(90), Err(OperatorError::Device(text)) if text.contains("flushed")));
            let write = rig.write(pairs[0], 0, 8, 2);
            site.pass(&mut rig, SECOND);
            assert_eq!(rig.outcome(write), Some(Ok(())), "hosts are served here as before");
        }
    }
}
