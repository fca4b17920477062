//! Dirty marks: before every stamp, until nothing needs them.

use super::*;

fn chunks(rig: &Rig) -> Vec<&String> {
    rig.world
        .durable
        .iter()
        .filter(|(key, value)| key.contains("/dirty/") && !value.is_empty())
        .map(|(key, _)| key)
        .collect()
}

fn is_mark(did: &Did) -> bool {
    matches!(did, Did::Persist(key) if key.contains("/dirty/"))
}

/// A group with one pair in PAIR state and no marks; marks clear after two seconds.
pub fn unmarked() -> (Rig, PairId) {
    let mut rig = Rig::new();
    rig.primary.config.clear_after_ns = 2 * SECOND;
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    rig.run();
    assert_eq!(rig.state(pair), PairState::Pair);
    (rig, pair)
}

#[test]
fn a_write_is_stamped_and_submitted_only_when_its_mark_is_durable() {
    let (mut rig, pair) = unmarked();
    let write = rig.write(pair, 0, 1, 1);
    let behind = rig.write(pair, 0, 1, 2);
    rig.pass(MS);
    assert!(rig.pushed().is_empty() && rig.world.pending.is_empty());
    assert!(rig.keep());
    assert_eq!(rig.pushed().len(), 1, "it held its blocks meanwhile");
    rig.locals();
    rig.pass(MS);
    assert_eq!((rig.outcome(write), rig.outcome(behind)), (Some(Ok(())), Some(Ok(()))));
    assert_eq!(rig.world.did.iter().filter(|did| is_mark(did)).count(), 1, "a marked region costs nothing");
    assert_eq!((rig.show_pair(pair).dirty_bytes, rig.show_pair(pair).missing_bytes), (64 * 512, 0));
}

#[test]
fn a_pair_sleeps_until_it_is_written_to_and_again_when_its_marks_are_cleared() {
    let (mut rig, pair) = unmarked();
    let (group, stream) = (rig.primary.groups()[0], rig.show_pair(pair).stream);
    rig.pair(group, "q", 1);
    rig.run();
    for _ in 0..20 {
        rig.pass(SECOND);
        rig.locals();
    }
    assert_eq!(rig.primary.awake, []);
    rig.write(pair, 0, 1, 1);
    rig.keep_all();
    rig.locals();
    rig.pass(2 * MS);
    assert_eq!(rig.primary.awake, [pair]);
    rig.run();
    rig.durable(stream, rig.standing(stream).last.0);
    for _ in 0..20 {
        rig.pass(SECOND);
        rig.run();
    }
    assert_eq!((rig.show_pair(pair).dirty_bytes, &rig.primary.awake), (0, &vec![]));
}

#[test]
fn a_suspended_groups_hosts_wait_for_marks_too() {
    let (mut rig, pair) = unmarked();
    let group = rig.primary.groups()[0];
    rig.hear(Message::Refused {
        group,
        subject: rig.opening(rig.show_pair(pair).stream),
        refusal: crate::message::Refusal::Never,
        text: "no".into(),
    });
    rig.run();
    assert_eq!(rig.state(pair), PairState::SuspendedError);
    let write = rig.write(pair, 0, 1, 1);
    rig.turn();
    assert!(rig.world.pending.is_empty());
    rig.keep_all();
    rig.locals();
    assert_eq!(rig.outcome(write), Some(Ok(())));
    assert_eq!(rig.show_pair(pair).missing_bytes, 64 * 512, "no record will bring it");
}

#[test]
fn marks_asked_for_in_one_turn_go_out_as_one_value() {
    let (mut rig, _) = unmarked();
    let group = rig.primary.groups()[0];
    let mut config = Rig::pair_config(group, "large", 1);
    config.geometry.blocks = 64 << 10;
    rig.world.disks.insert(VolumeId(1), vec![0; 32 << 20]);
    let pair = rig.primary.pair_create(rig.now, config, Ticket(1), &mut rig.world).unwrap();
    rig.run();
    for region in 0..10 {
        rig.write(pair, region * 128, 1, 1);
    }
    assert!(!rig.world.did.iter().any(is_mark));
    assert_eq!(rig.primary.next_timeout(rig.now), Some(rig.now.mono));
    rig.turn();
    assert_eq!(rig.world.did.iter().filter(|did| is_mark(did)).count(), 1);
    rig.keep_all();
    assert_eq!(rig.pushed().len(), 10);
}

#[test]
fn a_mark_is_cleared_when_the_record_is_durable_there_and_a_later_flush_has_ended_here() {
    let (mut rig, pair) = unmarked();
    let stream = rig.show_pair(pair).stream;
    rig.write(pair, 0, 1, 1);
    rig.run();
    for _ in 0..10 {
        rig.pass(SECOND);
        assert!(rig.world.pending.is_empty(), "no flush before it can help");
    }
    rig.durable(stream, 1);
    rig.pass(SECOND);
    assert!(matches!(rig.world.pending[0].1, LocalIo::Flush) && rig.world.pending.len() == 1);
    rig.pass(SECOND);
    assert_eq!((rig.world.pending.len(), chunks(&rig).len()), (1, 1), "one flush at a time, and it has not ended");
    rig.world.failing_flushes.insert(VolumeId(0));
    rig.locals();
    rig.pass(SECOND);
    assert!(!chunks(&rig).is_empty() && rig.world.pending.len() == 1, "it failed: tried again");
    rig.world.failing_flushes.clear();
    rig.locals();
    // What the failed flush may have lost is copied; when that is durable on both sides, the mark goes.
    for _ in 0..10 {
        rig.run();
        let last = rig.standing(stream).last.0;
        rig.durable(stream, last);
        rig.pass(SECOND);
    }
    assert_eq!(rig.show_pair(pair).dirty_bytes, 0);
    rig.keep_all();
    assert!(chunks(&rig).is_empty());
    assert!(rig.primary.next_timeout(rig.now).is_some());
}

#[test]
fn nothing_is_stamped_behind_the_end_of_a_hand_over_although_a_flush_for_the_marks_fails_then() {
    let (mut rig, pair) = unmarked();
    let (group, stream) = (rig.show_pair(pair).group, rig.show_pair(pair).stream);
    rig.write(pair, 0, 1, 1);
    rig.run();
    for _ in 0..4 {
        rig.pass(SECOND);
    }
    rig.durable(stream, 1);
    rig.pass(SECOND);
    assert_eq!(rig.world.pending.len(), 1, "the marks' flush is at the device");
    rig.primary.group_swap(rig.now, group, Ticket(90), &mut rig.world).unwrap();
    rig.pass(MS);
    assert_eq!(rig.world.pending.len(), 2, "and the hand-over's behind it");
    rig.world.pending.swap(0, 1);
    assert!(rig.local());
    rig.keep_all();
    assert!(rig.said().iter().any(|said| matches!(said, Message::HandOver { .. })));
    rig.world.failing_flushes.insert(VolumeId(0));
    let stamped = rig.pushed().len();
    rig.locals();
    assert!(rig.show(group).missing_bytes > 0, "what the flush may have lost");
    for _ in 0..5 {
        rig.pass(SECOND);
        rig.locals();
    }
    assert_eq!(rig.pushed().len(), stamped, "zero loss: the end that was handed over is no end");
}

#[test]
fn a_hosts_flush_serves_the_marks_as_well() {
    let (mut rig, pair) = unmarked();
    let stream = rig.show_pair(pair).stream;
    rig.write(pair, 0, 1, 1);
    rig.run();
    rig.durable(stream, 1);
    rig.io(pair, HostIo::Flush);
    rig.locals();
    let before = rig.world.did.iter().filter(|did| matches!(did, Did::Local(_, "flush", _))).count();
    for _ in 0..4 {
        rig.pass(SECOND);
    }
    assert_eq!(rig.show_pair(pair).dirty_bytes, 0);
    assert_eq!(rig.world.did.iter().filter(|did| matches!(did, Did::Local(_, "flush", _))).count(), before);
}

#[test]
fn a_write_that_meets_a_clear_in_flight_waits_for_its_mark_again() {
    let (mut rig, pair) = unmarked();
    let stream = rig.show_pair(pair).stream;
    rig.write(pair, 0, 1, 1);
    rig.run();
    rig.durable(stream, 1);
    for _ in 0..4 {
        rig.pass(SECOND);
        rig.locals();
    }
    assert_eq!(rig.world.unkept.len(), 1, "the clear is in flight");
    rig.write(pair, 0, 1, 2);
    rig.turn();
    assert_eq!(rig.pushed().len(), 1);
    rig.keep();
    assert_eq!(rig.pushed().len(), 1, "the clear is durable, the mark is not");
    rig.keep();
    assert_eq!(rig.pushed().len(), 2);
}

#[test]
fn a_clean_stop_leaves_no_marks_and_says_so_before_it_says_drained() {
    let (mut rig, pair) = unmarked();
    let stream = rig.show_pair(pair).stream;
    rig.write(pair, 0, 1, 1);
    rig.run();
    rig.durable(stream, 1);
    rig.pass(MS);
    rig.primary.shutdown(rig.now, &mut rig.world);
    rig.turn();
    rig.locals();
    let keys: Vec<String> = rig.world.unkept.iter().map(|(key, ..)| key.clone()).collect();
    assert!(keys[0].contains("/dirty/") && keys[1].contains("/stream/") && keys.len() == 2, "{keys:?}");
    rig.run();
    assert_eq!(rig.primary.shutdown_state(), Shutdown::Done { undrained: vec![] });
    assert!(chunks(&rig).is_empty());
}

#[test]
fn an_established_pair_with_a_mark_is_not_taken_for_drained() {
    let (mut rig, _) = unmarked();
    rig.primary.shutdown(rig.now, &mut rig.world);
    rig.run();
    let mut value = vec![0; 257];
    (value[0], value[1]) = (1, 1);
    let pair = rig.primary.pairs()[0];
    rig.world.durable.insert(crate::dirty::chunk_key(pair, 0), value);
    let mut rig = rig.crash();
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    rig.run();
    assert_eq!(rig.state(pair), PairState::SuspendedError);
    assert_eq!(rig.show_pair(pair).missing_bytes, 64 * 512);
}

#[test]
fn a_deleted_pair_takes_its_marks_with_it_and_a_new_one_of_its_name_has_none() {
    let (mut rig, pair) = unmarked();
    let (group, stream) = (rig.primary.groups()[0], rig.show_pair(pair).stream);
    rig.write(pair, 0, 1, 1);
    rig.run();
    rig.durable(stream, 1);
    rig.pass(MS);
    assert_eq!(chunks(&rig).len(), 1);
    rig.primary.pair_delete(rig.now, pair, Ticket(50), &mut rig.world).unwrap();
    rig.run();
    assert!(rig.answered(50).is_ok() && chunks(&rig).is_empty());
    // A crash between the two persists leaves chunks without a record.
    rig.world.asked.insert(crate::dirty::chunk_key(pair, 0), vec![1; 257]);
    rig.world.operators.clear();
    let pair = rig.pair(group, "p", 0);
    rig.run();
    assert!(chunks(&rig).is_empty());
    assert_eq!(rig.show_pair(pair).dirty_bytes, 0);
}

#[test]
fn hosts_of_a_pair_that_is_not_opened_wait_no_longer_than_they_may_though_the_mark_came_late() {
    let mut rig = Rig::new();
    rig.world.up = false;
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    let write = rig.write(pair, 0, 1, 1);
    rig.pass(10 * SECOND);
    assert_eq!(rig.state(pair), PairState::SuspendedError);
    rig.run();
    rig.pass(MS);
    assert_eq!(rig.outcome(write), Some(Ok(())));
}
