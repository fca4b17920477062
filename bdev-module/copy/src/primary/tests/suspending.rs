//! Full buffers, fencing, shared fate.

use super::*;

/// Writes of 16 KiB each until the send buffer of 1 MiB holds `percent` of it.
fn fill(rig: &mut Rig, pair: PairId, percent: u64) {
    let used = |rig: &Rig| rig.world.records.values().flatten().map(|record| record.head.charge_bytes()).sum::<u64>();
    while used(rig) * 100 < (1 << 20) * percent {
        rig.write(pair, 0, 32, 1);
        rig.locals();
        rig.pass(1000);
    }
}

#[test]
fn hosts_are_slowed_from_half_on_and_pful_shows_from_80_percent() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
    fill(&mut rig, pairs[0], 48);
    let free = rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    rig.pass(200);
    assert_eq!(rig.outcome(free), Some(Ok(())));
    fill(&mut rig, pairs[0], 75);
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
    rig.pass(SECOND);
    let slow = rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    rig.pass(200);
    assert_eq!(rig.outcome(slow), None);
    let delay_ns = rig.show(group).throttle_ns;
    assert!((25 * MS..40 * MS).contains(&delay_ns), "{delay_ns}");
    rig.pass(delay_ns - 300);
    assert_eq!(rig.outcome(slow), None);
    assert!(rig.primary.next_timeout(rig.now).unwrap() <= rig.now.mono.after_ns(500));
    rig.pass(400);
    assert_eq!(rig.outcome(slow), Some(Ok(())));
    fill(&mut rig, pairs[0], 81);
    assert_eq!(rig.state(pairs[0]), PairState::NearlyFull);
    let resized = rig.primary.pair_resize(rig.now, pairs[0], 1 << 20, Ticket(70), &mut rig.world);
    assert!(
        matches!(&resized, Err(OperatorError::WrongState(text)) if text.contains("PFUL state")),
        "what is new would fill what is full: {resized:?}"
    );
    let stream = rig.show_pair(pairs[0]).stream;
    let last = rig.standing(stream).last.0;
    let held = rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    rig.pass(200);
    assert_eq!(rig.outcome(held), None);
    rig.durable(stream, last);
    rig.turn();
    assert_eq!(rig.outcome(held), Some(Ok(())), "room again: nothing is held back for old times' sake");
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
}

#[test]
fn a_full_buffer_suspends_the_group_and_hosts_run_on() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 2);
    fill(&mut rig, pairs[0], 96);
    rig.write(pairs[0], 0, 32, 1);
    let pushed = rig.pushed();
    let held = rig.write(pairs[0], 32, 1, 1);
    rig.locals();
    rig.pass(200);
    assert_eq!(rig.outcome(held), None, "slowed");
    let last = rig.write(pairs[1], 0, 64, 2);
    assert_eq!(rig.state(pairs[1]), PairState::SuspendedFull);
    assert_eq!(rig.state(pairs[0]), PairState::SuspendedFull);
    assert_eq!(rig.outcome(held), Some(Ok(())), "slowing hosts helps nobody any more");
    let after: Vec<_> = rig.pushed()[pushed.len()..].iter().map(|head| head.extent.lba).collect();
    assert_eq!(after, [32], "the record that had no room is not sent, nor any later one");
    assert!(rig.world.records.is_empty(), "buffers are freed");
    assert!(rig.world.pending.is_empty(), "no write goes on before the suspension is durable");
    assert!(rig.said().iter().any(|said| matches!(said, Message::GroupSuspended { state, .. } if state == "PFUS")));
    rig.keep_all();
    rig.locals();
    rig.pass(MS);
    assert_eq!(rig.outcome(last), Some(Ok(())));
    assert_eq!(rig.world.disks[&VolumeId(1)][0], 2);
    let (beacons, pushes) = (rig.beacons().len(), rig.pushed().len());
    for _ in 0..100 {
        rig.write(pairs[0], 1, 1, 3);
        rig.locals();
        rig.pass(10 * MS);
    }
    assert_eq!((rig.beacons().len(), rig.pushed().len()), (beacons, pushes), "a broken stream says nothing");
    let shown = rig.show(group);
    assert!(shown.lag_ns.unwrap() > SECOND && shown.backlog == Backlog::default() && shown.throttle_ns == 0);
    // Told again in the next session, and not forgotten by a restart.
    let before = rig.said().len();
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    assert!(matches!(&rig.said()[before..], [Message::GroupSuspended { .. }]));
    let mut rig = rig.crash();
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p0", 0);
    assert_eq!(rig.state(pair), PairState::SuspendedFull);
    let write = rig.write(pair, 0, 1, 1);
    rig.locals();
    assert_eq!(rig.outcome(write), Some(Ok(())));
}

#[test]
fn a_record_larger_than_what_is_left_is_never_skipped() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    fill(&mut rig, pairs[0], 98);
    rig.write(pairs[0], 0, 64, 1);
    rig.write(pairs[0], 63, 1, 1);
    rig.run();
    rig.pass(SECOND);
    let seqs: Vec<u64> = rig.pushed().iter().map(|head| head.stamp.seq.0).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert_eq!(rig.state(pairs[0]), PairState::SuspendedFull);
}

#[test]
fn groups_that_share_a_stream_share_its_fate_and_others_do_not() {
    for scope in [Scope::System, Scope::Group, Scope::Pair] {
        let (mut rig, _, first) = Rig::copying(scope, 2);
        let second = rig.group("h", scope);
        let other = rig.pair(second, "q", 5);
        rig.run();
        assert_eq!(rig.state(other), PairState::Pair);
        rig.world.failing_writes.insert(VolumeId(0));
        rig.world.failing_reads.insert(VolumeId(0));
        rig.write(first[0], 0, 1, 1);
        rig.run();
        assert_eq!(rig.state(first[1]), PairState::SuspendedError, "a group has one cut");
        let is_shared = rig.state(other) == PairState::SuspendedError;
        assert_eq!(is_shared, scope == Scope::System, "{scope:?}");
        if is_shared {
            assert!(rig.show(second).reason.unwrap().contains("shares its stream with group g"));
        }
    }
}

#[test]
fn shared_streams_share_one_buffer() {
    let (mut rig, group, pairs) = Rig::copying(Scope::System, 1);
    assert_eq!(rig.show(group).buffer_bytes, 1 << 20);
    let second = rig.group("h", Scope::System);
    assert_eq!(rig.show(group).buffer_bytes, 2 << 20);
    let other = rig.pair(second, "q", 5);
    rig.run();
    assert_eq!(rig.show_pair(other).stream, rig.show_pair(pairs[0]).stream);
    fill(&mut rig, pairs[0], 170);
    assert_eq!(rig.state(other), PairState::NearlyFull);
}

#[test]
fn a_suspended_group_can_be_created_again_once_all_is_deleted() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 2);
    fill(&mut rig, pairs[0], 98);
    rig.write(pairs[0], 0, 64, 1);
    rig.run();
    rig.pass(SECOND);
    let obstacle = rig.primary.pair_create(rig.now, Rig::pair_config(group, "x", 6), Ticket(60), &mut rig.world);
    assert!(matches!(obstacle, Err(OperatorError::WrongState(text)) if text.contains("PFUS")));
    for (nth, pair) in pairs.iter().enumerate() {
        rig.primary.pair_delete(rig.now, *pair, Ticket(70 + nth as u64), &mut rig.world).unwrap();
        rig.run();
        assert!(rig.answered(70 + nth as u64).is_ok());
    }
    rig.world.operators.clear();
    let pair = rig.pair(group, "p0", 0);
    rig.run();
    assert_eq!(rig.state(pair), PairState::Pair);
    let stream = rig.show_pair(pair).stream;
    assert_eq!(rig.standing(stream).epoch, Epoch(2));
}

const NEWER: Generation = Generation { number: 2, id: 88, parent: 77 };

#[test]
fn a_newer_generation_fails_all_host_io_at_once_and_after_a_restart() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 2);
    let at_disk = rig.write(pairs[0], 0, 1, 1);
    let behind = rig.write(pairs[0], 0, 1, 2);
    let reading = rig.read(pairs[1], 0, 1);
    let done = rig.write(pairs[1], 5, 1, 1);
    let last = rig.world.pending.pop_back().unwrap();
    rig.primary.local_done(rig.now, last.2, Ok(()), None, &mut rig.world);
    rig.hear(Message::Fenced { group, generation: NEWER });
    assert_eq!(rig.outcome(behind), Some(Err(HostError::Fenced)));
    assert_eq!(rig.outcome(done), Some(Err(HostError::Fenced)), "not answered before, so not answered well");
    rig.locals();
    for token in [at_disk, reading] {
        assert_eq!(rig.outcome(token), Some(Err(HostError::Fenced)));
    }
    assert!(rig.world.hosts[&reading].1.is_some());
    for token in [rig.read(pairs[0], 0, 1), rig.write(pairs[1], 0, 1, 1), rig.io(pairs[0], HostIo::Flush)] {
        assert_eq!(rig.outcome(token), Some(Err(HostError::Fenced)));
    }
    assert!(rig.show(group).streams[0].broken && rig.primary.requests.is_empty());
    assert_eq!((rig.show(group).fenced, rig.show(group).split_brain), (Some(NEWER), false));
    rig.keep_all();
    rig.pass(MS);
    let mut rig = rig.crash();
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p0", 0);
    let read = rig.read(pair, 0, 1);
    assert_eq!(rig.outcome(read), Some(Err(HostError::Fenced)));
    assert_eq!(rig.show(group).fenced, Some(NEWER));
}

#[test]
fn an_older_or_the_same_generation_fences_nobody() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
    rig.hear(Message::Fenced { group, generation: FIRST_GENERATION });
    rig.hear(Message::Fenced { group, generation: Generation { number: 0, id: 5, parent: 0 } });
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
}

#[test]
fn a_generation_that_is_no_descendant_is_shown_as_split_brain() {
    for (number, parent, fenced) in [(1, 0, false), (2, 4711, true), (3, 4711, true)] {
        let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
        rig.hear(Message::Fenced { group, generation: Generation { number, id: 99, parent } });
        let shown = rig.show(group);
        // A grandchild may descend from ours by a generation that is not known here.
        assert_eq!((shown.split_brain, shown.fenced.is_some()), (number < 3, fenced));
        assert_eq!(rig.state(pairs[0]), PairState::SuspendedError);
        rig.keep_all();
        let write = rig.write(pairs[0], 0, 1, 1);
        rig.locals();
        let expected = if fenced { Err(HostError::Fenced) } else { Ok(()) };
        assert_eq!(rig.outcome(write), Some(expected));
        let mut rig = rig.crash();
        let group = rig.group("g", Scope::Group);
        assert_eq!(rig.show(group).split_brain, number < 3);
    }
}

#[test]
fn messages_of_another_link_are_passed_over() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
    let fenced = Message::Fenced { group, generation: NEWER };
    rig.primary.message(rig.now, LinkId(9), fenced, &mut rig.world);
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
}

/// The secondary has the stream's first record, as part of another primary's resync that holds the image back to `held`.
fn journaled_behind(rig: &mut Rig, stream: StreamId, held: Time) {
    let epoch = rig.standing(stream).epoch;
    let (run, durable) = (Seq(1), Seq(1));
    let status = StreamStatus { stream, epoch, run, durable, grant_records: 16, grant_bytes: 1 << 20, held };
    rig.world.records.clear();
    rig.primary.status(rig.now, LINK, status, &mut rig.world);
    assert_eq!(rig.show_pair(PairId::of_name(GroupId::of_name("g"), "p0")).state, PairState::Pair);
}

#[test]
fn the_lag_counts_from_the_image_that_another_primarys_resync_holds() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
    let stream = rig.show_pair(pairs[0]).stream;
    rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    rig.pass(SECOND);
    let held = rig.show(group).backlog.oldest.unwrap();
    journaled_behind(&mut rig, stream, held);
    assert_eq!(rig.show(group).backlog.oldest, None, "it is durable");
    assert!(
        rig.show(group).lag_ns >= Some(SECOND - MS),
        "and would be lost all the same: {:?}",
        rig.show(group).lag_ns
    );
    journaled_behind(&mut rig, stream, Time(0));
    assert_eq!(rig.show(group).lag_ns, Some(0));
}

#[test]
fn the_lag_of_a_drained_suspension_counts_from_the_image_that_another_primarys_resync_holds() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
    let stream = rig.show_pair(pairs[0]).stream;
    let image = rig.now.time;
    rig.pass(SECOND);
    rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    journaled_behind(&mut rig, stream, image);
    assert_eq!(rig.show(group).lag_ns, Some(SECOND));
    rig.primary.group_suspend(rig.now, group, Ticket(90), &mut rig.world).unwrap();
    rig.run();
    assert!(matches!(rig.answered(90), Ok(OperatorAnswer::Suspended { drained: true, .. })));
    rig.pass(SECOND);
    assert_eq!(rig.show(group).lag_ns, Some(2 * SECOND), "a takeover gives the image");
}
