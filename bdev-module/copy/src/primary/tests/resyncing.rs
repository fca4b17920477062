//! Suspended groups come back by themselves, as one unit, and nothing is lost on the way.

use super::secondary::*;
use super::*;
use crate::message::{Content, CopyId};

fn config() -> GroupConfig {
    Rig::group_config("g", Scope::Group)
}

fn write(rig: &mut Rig, pair: PairId, lba: u64, byte: u8) -> u64 {
    rig.write(pair, lba, 8, byte)
}

#[test]
fn a_suspended_group_is_resynced_by_itself_from_its_marks_only() {
    for scope in [Scope::Pair, Scope::Group, Scope::System] {
        let (mut rig, mut site, group, pairs) = Rig::large(Rig::group_config("g", scope), 2);
        write(&mut rig, pairs[0], 0, 1);
        site.run(&mut rig);
        // In the queue, and then nowhere.
        write(&mut rig, pairs[0], 3 * REGION, 2);
        rig.run();
        rig.stop_group(group);
        rig.run();
        let local = write(&mut rig, pairs[1], 5 * REGION + 127, 3);
        rig.run();
        rig.pass(MS);
        assert_eq!(rig.outcome(local), Some(Ok(())), "hosts run on");
        assert_eq!(rig.show(group).missing_bytes, 4 * 65536, "with the first one's mark, which was not cleared yet");
        rig.pass(998 * MS);
        assert!(rig.show(group).unit.is_none() && rig.show(group).next_attempt.is_some());
        site.meets(&rig);
        rig.pass(MS);
        let shown = rig.show(group);
        assert_eq!((shown.state, shown.unit, shown.lag_ns > Some(0)), (PairState::Copy, Some(1), true));
        let stamped = rig.world.history.len();
        site.run(&mut rig);
        assert_eq!(rig.show(group).state, PairState::Pair, "{scope:?}");
        assert!(site.opens.iter().skip(2).all(|open| open.unit == Some(1) && open.epoch == Epoch(2)));
        assert_eq!(site.ends.len(), 1);
        let resynced = &rig.world.history[stamped..];
        assert!(
            resynced
                .iter()
                .all(|record| record.head.kind == RecordKind::Copy && record.head.stamp.time <= site.ends[0].1)
        );
        assert_eq!(resynced.len(), 4, "regions that are marked, and no other");
        site.assert_equal(&rig);
        let shown = rig.show(group);
        assert_eq!((shown.unit, shown.missing_bytes, shown.copy), (None, 0, None));
        for _ in 0..5 {
            site.pass(&mut rig, SECOND);
        }
        assert_eq!(rig.show(group).dirty_bytes, 0, "marks go as ever");
    }
}

#[test]
fn a_resync_whose_secondary_went_on_without_one_of_its_streams_begins_anew() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    write(&mut rig, pairs[0], 0, 1);
    rig.stop_group(group);
    rig.pass(2 * SECOND);
    rig.keep_all();
    write(&mut rig, pairs[0], REGION, 2);
    for _ in 0..4 {
        rig.turn();
        rig.locals();
        rig.keep_all();
    }
    let asked = rig.said().into_iter().rev().find_map(|said| match said {
        Message::OpenStream(open) => Some(open),
        _ => None,
    });
    let asked = asked.filter(|open| open.unit == Some(1)).unwrap();
    let Message::StreamOpened(mut opened) = Rig::opened(&asked) else { unreachable!() };
    opened.base_time = rig.now.time.after_ns(MS);
    rig.hear(Message::StreamOpened(opened));
    let shown = rig.show(group);
    assert!(shown.reason.as_ref().is_some_and(|reason| reason.contains("before it had all streams")), "{shown:?}");
    assert_eq!((shown.state, shown.next_attempt.is_some()), (PairState::SuspendedError, true));
    site.meets(&rig);
    site.pass(&mut rig, 5 * SECOND);
    assert_eq!(rig.show(group).state, PairState::Pair);
    site.assert_equal(&rig);
}

#[test]
fn the_lag_of_a_resync_reaches_back_to_the_image_that_another_primarys_resync_holds() {
    let (mut rig, _, group, pairs) = Rig::large(config(), 1);
    write(&mut rig, pairs[0], 0, 1);
    rig.stop_group(group);
    let held = rig.now.time;
    rig.pass(2 * SECOND);
    rig.keep_all();
    write(&mut rig, pairs[0], REGION, 2);
    for _ in 0..4 {
        rig.turn();
        rig.locals();
        rig.keep_all();
    }
    assert_eq!(rig.show(group).state, PairState::Copy);
    let own = rig.show(group).lag_ns.unwrap();
    let older = Time(held.0 - 3 * SECOND);
    rig.primary.streams.values_mut().for_each(|stream| stream.held = Some(older));
    assert_eq!(rig.show(group).lag_ns, Some(rig.now.time.since_ns(older)));
    rig.primary.streams.values_mut().for_each(|stream| stream.held = Some(rig.now.time));
    assert_eq!(rig.show(group).lag_ns, Some(own), "a later one does not hide what this one misses");
}

#[test]
fn a_group_that_is_done_does_not_wake_its_core_for_what_is_over() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    write(&mut rig, pairs[0], 0, 1);
    rig.stop_group(group);
    site.pass(&mut rig, 3 * SECOND);
    rig.primary.group_verify(rig.now, group, None, false, &mut rig.world).unwrap();
    for _ in 0..20 {
        site.pass(&mut rig, SECOND);
    }
    assert!(rig.show(group).verify.unwrap().is_over && rig.show(group).dirty_bytes == 0);
    rig.turn();
    let next = rig.primary.next_timeout(rig.now).unwrap();
    assert!(next.since_ns(rig.now.mono) >= 40 * MS, "only the next beacon: {}", next.since_ns(rig.now.mono));
}

#[test]
fn a_new_epoch_is_durably_marked_before_its_first_stamp_and_before_the_secondary_hears_of_it() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    write(&mut rig, pairs[0], 0, 1);
    rig.stop_group(group);
    rig.run();
    site.meets(&rig);
    let from = rig.world.did.len();
    rig.pass(SECOND);
    let local = write(&mut rig, pairs[0], 1, 2);
    assert!(rig.world.did[from..].iter().all(|did| !matches!(did, Did::Push(_) | Did::Say(_))));
    assert_eq!(rig.world.pending.len(), 1, "hosts do not wait: locally, and marked");
    rig.keep_all();
    let did = &rig.world.did[from..];
    let open = did.iter().position(|did| matches!(did, Did::Say(Message::OpenStream(_)))).unwrap();
    let durable = |prefix: &str| did.iter().position(|did| matches!(did, Did::Durable(key) if key.contains(prefix)));
    assert!(durable("/stream/").unwrap() < open && durable("/group/").unwrap() < open);
    write(&mut rig, pairs[0], 100, 3);
    assert_eq!(rig.pushed().last().unwrap().stamp.seq, Seq(1), "stamped from here on, as the first ever");
    site.run(&mut rig);
    rig.pass(MS);
    assert_eq!(rig.outcome(local), Some(Ok(())));
    site.run(&mut rig);
    site.assert_equal(&rig);
}

#[test]
fn after_an_unclean_restart_the_secondary_is_asked_first_and_only_what_differs_travels() {
    let (mut rig, mut site, _, pairs) = Rig::large(config(), 1);
    for region in 0..6 {
        write(&mut rig, pairs[0], region * REGION, 1 + region as u8);
    }
    rig.run();
    let stream = rig.show_pair(pairs[0]).stream;
    site.take(&mut rig, stream, 4);
    let mut rig = rig.crash();
    site.meets(&rig);
    let (group, pairs) = rig.large_group(config(), 1);
    assert_eq!(rig.state(pairs[0]), PairState::SuspendedError);
    assert!(rig.show(group).reason.unwrap().contains("restarted with unsent records"));
    site.pass(&mut rig, 2 * SECOND);
    assert_eq!((rig.state(pairs[0]), site.asks.len()), (PairState::Pair, 6));
    let copied: Vec<u64> = rig.copies().iter().map(|head| head.extent.lba / REGION).collect();
    assert_eq!(copied, [4, 5]);
    let open = site.opens.last().unwrap();
    assert_eq!((open.unit, open.epoch, open.base, open.drained), (Some(1), Epoch(2), Seq(1), None));
    site.assert_equal(&rig);
}

#[test]
fn what_the_secondary_cannot_say_is_copied_and_hosts_may_write_while_it_is_asked() {
    let (mut rig, mut site, _, pairs) = Rig::large(config(), 1);
    write(&mut rig, pairs[0], 0, 1);
    site.run(&mut rig);
    let mut rig = rig.crash();
    site.meets(&rig);
    site.is_mute = true;
    let (_, pairs) = rig.large_group(config(), 1);
    site.pass(&mut rig, 2 * SECOND);
    assert_eq!((site.asks.len(), rig.copies().len()), (1, 0));
    let meanwhile = write(&mut rig, pairs[0], 4, 2);
    site.run(&mut rig);
    rig.pass(MS);
    assert_eq!(rig.outcome(meanwhile), Some(Ok(())), "no lock is held while the answer is awaited");
    site.pass(&mut rig, 5 * SECOND);
    assert_eq!((rig.copies().len(), rig.state(pairs[0])), (1, PairState::Pair));
    site.assert_equal(&rig);
}

#[test]
fn a_mark_stays_until_what_hosts_wrote_while_the_secondary_was_asked_has_arrived() {
    let (mut rig, mut site, _, pairs) = Rig::large(config(), 1);
    write(&mut rig, pairs[0], 0, 1);
    site.run(&mut rig);
    let mut rig = rig.crash();
    site.meets(&rig);
    site.is_mute = true;
    let (group, pairs) = rig.large_group(config(), 1);
    site.pass(&mut rig, 2 * SECOND);
    let asked = rig.said().into_iter().rev().find_map(|said| match said {
        Message::DigestAsk { ask, .. } => Some(ask),
        _ => None,
    });
    let meanwhile = write(&mut rig, pairs[0], 4, 2);
    rig.run();
    rig.pass(MS);
    assert_eq!(rig.outcome(meanwhile), Some(Ok(())));
    // What was asked about is equal there, but the host's record has not come.
    rig.hear(Message::DigestAnswer { group, pair: pairs[0], ask: asked.unwrap(), differing: Some(0) });
    for _ in 0..10 {
        rig.pass(SECOND);
        rig.run();
    }
    assert_eq!((rig.show_pair(pairs[0]).missing_bytes, rig.show_pair(pairs[0]).dirty_bytes), (0, 65536));
    site.pass(&mut rig, 10 * SECOND);
    assert_eq!((rig.state(pairs[0]), rig.show_pair(pairs[0]).dirty_bytes), (PairState::Pair, 0));
    site.assert_equal(&rig);
}

#[test]
fn a_clean_attempt_that_ends_early_was_not_for_nothing_and_the_pause_doubles() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    for region in 0..8 {
        write(&mut rig, pairs[0], region * REGION, 1);
    }
    rig.run();
    rig.stop_group(group);
    rig.run();
    let stream = rig.show_pair(pairs[0]).stream;
    let mut pause = SECOND;
    let mut left = 8 * 65536;
    for attempt in 1..4 {
        rig.pass(pause - 1);
        assert_eq!(rig.show(group).state, PairState::SuspendedError, "attempt {attempt}");
        site.meets(&rig);
        rig.pass(1);
        while rig.keep() | site.answer(&mut rig) {}
        rig.turn();
        assert_eq!(rig.show(group).unit, Some(attempt));
        while rig.local() {}
        site.take(&mut rig, stream, 1);
        // Flushed, long ago: the mark goes.
        for _ in 0..4 {
            rig.pass(SECOND);
            rig.run();
        }
        assert!(rig.show(group).dirty_bytes < left);
        rig.stop_group(group);
        rig.run();
        left = rig.show(group).missing_bytes;
        assert_eq!(left, (8 - attempt) * 65536);
        pause *= 2;
    }
    site.meets(&rig);
    site.pass(&mut rig, pause);
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
    site.assert_equal(&rig);
    rig.stop_group(group);
    rig.run();
    assert_eq!(rig.show(group).next_attempt, Some(rig.now.mono.after_ns(SECOND)), "forgotten after one that was done");
}

#[test]
fn a_word_about_an_earlier_attempt_ends_nothing() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    write(&mut rig, pairs[0], 0, 1);
    rig.stop_group(group);
    rig.run();
    site.meets(&rig);
    rig.pass(SECOND);
    while rig.keep() | site.answer(&mut rig) {}
    for unit in [0, 1, 2] {
        rig.hear(Message::CopyDone { group, copy: CopyId::Unit(unit) });
        assert_eq!(rig.show(group).state, PairState::Copy, "its copies are not stamped");
    }
    site.run(&mut rig);
    assert_eq!(rig.show(group).state, PairState::Pair);
}

#[test]
fn the_end_is_said_again_in_each_session_until_it_is_heard() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    write(&mut rig, pairs[0], 0, 1);
    rig.stop_group(group);
    rig.run();
    rig.pass(SECOND);
    rig.run();
    let ends =
        |rig: &Rig| rig.said().into_iter().filter(|said| matches!(said, Message::CopyEnd { .. })).collect::<Vec<_>>();
    assert_eq!(ends(&rig).len(), 1);
    rig.run();
    rig.pass(SECOND);
    assert_eq!(ends(&rig).len(), 1);
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    site.meets(&rig);
    rig.run();
    let said = ends(&rig);
    assert_eq!((said.len(), &said[0]), (2, &said[1]));
    assert!(rig.said().iter().any(|said| matches!(said, Message::OpenStream(open) if open.unit == Some(1))));
    rig.hear(Message::CopyDone { group, copy: CopyId::Unit(1) });
    assert_eq!(rig.show(group).state, PairState::Pair);
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    assert!(matches!(rig.said().last(), Some(Message::OpenStream(open)) if open.unit.is_none()));
}

#[test]
fn a_copy_waits_for_the_write_in_flight_and_the_next_write_waits_for_the_copy() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    write(&mut rig, pairs[0], 0, 1);
    rig.run();
    rig.stop_group(group);
    rig.run();
    write(&mut rig, pairs[0], 8, 2);
    rig.keep_all();
    site.meets(&rig);
    rig.pass(SECOND);
    while rig.keep() | site.answer(&mut rig) {}
    rig.turn();
    assert_eq!(rig.world.pending.len(), 1, "the write that was begun before has its blocks");
    rig.local();
    assert!(matches!(rig.world.pending[0].1, LocalIo::Read { .. }));
    write(&mut rig, pairs[0], 16, 3);
    assert_eq!(rig.world.pending.len(), 1, "the copy has them");
    rig.local();
    let kinds: Vec<RecordKind> = rig.pushed().iter().rev().take(2).map(|head| head.kind).collect();
    assert_eq!(kinds, [RecordKind::Write, RecordKind::Copy]);
    site.run(&mut rig);
    site.assert_equal(&rig);
}

#[test]
fn a_resync_waits_until_every_established_pair_was_created_again() {
    let (mut rig, mut site, _, pairs) = Rig::large(config(), 2);
    write(&mut rig, pairs[1], 0, 1);
    rig.run();
    let mut rig = rig.crash();
    site.meets(&rig);
    let (group, _) = rig.large_group(config(), 1);
    rig.run();
    rig.stop_if_running(group);
    site.pass(&mut rig, 3 * SECOND);
    let waiting = rig.show(group).waiting.unwrap();
    assert!(waiting.owner == "operator" && waiting.reason.contains("pair p1"), "{waiting:?}");
    assert!(site.opens.iter().all(|open| open.unit.is_none()));
    let config = Rig::large_config(group, "p1", 1);
    rig.primary.pair_create(rig.now, config, Ticket(1), &mut rig.world).unwrap();
    site.pass(&mut rig, 3 * SECOND);
    assert_eq!(rig.show(group).state, PairState::Pair);
    site.assert_equal(&rig);
}

#[test]
fn what_the_secondary_says_differs_is_copied_too() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    let disk = site.disks.entry(pairs[0]).or_insert_with(|| vec![0; (LARGE * 512) as usize]);
    disk[600 * 512] = 9;
    site.differs = vec![Extent { lba: 600, blocks: 1 }, Extent { lba: 1 << 40, blocks: 1 }];
    write(&mut rig, pairs[0], 0, 1);
    rig.stop_group(group);
    site.pass(&mut rig, 3 * SECOND);
    assert_eq!(rig.show(group).state, PairState::Pair);
    assert_eq!(rig.primary.misdeeds(), 1, "what lies outside is counted and passed over");
    site.assert_equal(&rig);
}

#[test]
fn zeroes_are_copied_without_payload() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    rig.write(pairs[0], 0, 64, 0);
    rig.stop_group(group);
    site.disks.insert(pairs[0], vec![7; (REGION * 512) as usize].into_iter().chain(vec![0; 7 * 65536]).collect());
    site.pass(&mut rig, 3 * SECOND);
    let head = *rig.pushed().last().unwrap();
    assert_eq!((head.kind, head.payload_bytes, head.extent.blocks), (RecordKind::WriteZeroes, 0, REGION as u32));
    site.assert_equal(&rig);
}

#[test]
fn a_region_that_cannot_be_read_holds_the_unit_up_with_a_reason_and_no_other_region() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 2);
    write(&mut rig, pairs[0], 0, 1);
    write(&mut rig, pairs[1], 0, 1);
    rig.stop_group(group);
    rig.world.failing_reads.insert(VolumeId(0));
    site.pass(&mut rig, 3 * SECOND);
    assert_eq!(rig.show(group).state, PairState::Copy);
    let copy = rig.show_pair(pairs[0]).copy.unwrap();
    assert!(copy.reason.unwrap().contains("cannot be read at block 0"));
    assert_eq!(rig.show_pair(pairs[1]).missing_bytes, 0);
    assert!(site.ends.is_empty());
    rig.world.failing_reads.clear();
    site.pass(&mut rig, 6 * SECOND);
    assert_eq!(rig.show(group).state, PairState::Pair);
    site.assert_equal(&rig);
}

#[test]
fn a_read_that_ends_long_after_its_region_was_given_up_does_not_count_for_the_next_time() {
    let small = GroupConfig { buffer_bytes: 200_000, ..config() };
    let (mut rig, mut site, group, pairs) = Rig::large(small, 1);
    write(&mut rig, pairs[0], 0, 1);
    rig.stop_group(group);
    rig.run();
    site.meets(&rig);
    rig.pass(SECOND);
    while rig.keep() | site.answer(&mut rig) {}
    rig.turn();
    assert_eq!(rig.world.pending.len(), 2, "three pieces, room for two");
    rig.world.failing_reads.insert(VolumeId(0));
    rig.local();
    rig.world.failing_reads.clear();
    // The second piece's read takes longer than it takes until the region is tried again.
    rig.pass(5 * SECOND);
    rig.turn();
    let stream = rig.show_pair(pairs[0]).stream;
    for done in 1..4 {
        rig.local();
        site.take(&mut rig, stream, usize::MAX);
        rig.turn();
        assert_eq!(rig.show(group).missing_bytes, 65536, "{done} reads, two of them of this time at most");
    }
    site.run(&mut rig);
    assert_eq!(rig.show(group).state, PairState::Pair);
    site.assert_equal(&rig);
}

#[test]
fn a_rate_limit_is_kept_and_shown() {
    let limited = GroupConfig { copy_bytes_per_s: Some(65536), ..config() };
    let (mut rig, mut site, group, pairs) = Rig::large(limited, 1);
    for region in 0..8 {
        write(&mut rig, pairs[0], region * REGION, 1);
    }
    rig.stop_group(group);
    site.pass(&mut rig, SECOND);
    site.pass(&mut rig, 5 * SECOND);
    let copied = rig.copies().len();
    assert!((5..=7).contains(&copied), "{copied} regions of 64 KiB in five seconds");
    let copy = rig.show(group).copy.unwrap();
    assert_eq!((copy.bytes_total, copy.bytes_done), (8 * 65536, copied as u64 * 65536));
    assert!((50_000..80_000).contains(&copy.bytes_per_s) && copy.estimate_s.is_some(), "{copy:?}");
    site.pass(&mut rig, 5 * SECOND);
    assert_eq!(rig.show(group).state, PairState::Pair);
}

#[test]
fn hosts_do_not_take_the_copies_share_of_the_buffer_and_are_slowed_whatever_the_policy() {
    let small = GroupConfig { buffer_bytes: 1 << 20, overflow: Overflow::Suspend, ..config() };
    let (mut rig, mut site, group, pairs) = Rig::large(small, 1);
    for region in 0..8 {
        write(&mut rig, pairs[0], region * REGION, 1);
    }
    rig.stop_group(group);
    rig.run();
    site.meets(&rig);
    rig.pass(SECOND);
    while rig.keep() | site.answer(&mut rig) {}
    rig.turn();
    rig.locals();
    rig.turn();
    rig.locals();
    let copies = rig.copies().len();
    assert!((2..=3).contains(&copies), "a quarter of the buffer, {copies}");
    let mut written = 0;
    while rig.show(group).state == PairState::Copy {
        rig.write(pairs[0], 8 * (written % 100), 64, 2);
        rig.locals();
        rig.pass(1000);
        written += 1;
        assert!(written < 40 || rig.show(group).throttle_ns > 0);
    }
    let charge = 32768 + 256;
    assert_eq!(written, (3 << 18) / charge + 1, "three quarters are the hosts'");
    assert_eq!(rig.show(group).state, PairState::SuspendedFull);
}

#[test]
fn a_group_that_suspends_rather_than_slows_slows_nobody_while_it_copies() {
    let (mut rig, _, group, pairs) = Rig::large(GroupConfig { overflow: Overflow::Suspend, ..config() }, 1);
    rig.primary.link_down(rig.now, LINK, &mut rig.world);
    rig.world.up = false;
    let mut written = 0;
    while rig.show(group).state != PairState::SuspendedFull {
        assert_eq!(rig.show(group).throttle_ns, 0);
        rig.write(pairs[0], 0, 64, 2);
        rig.turn();
        rig.keep_all();
        rig.locals();
        written += 1;
        assert!(written < 100);
    }
}

#[test]
fn a_resync_that_cannot_help_is_refused_by_a_sentence() {
    let refused = |rig: &mut Rig, group: GroupId, words: &str| {
        let refused = rig.primary.group_resync(rig.now, group, false, &mut rig.world);
        assert!(matches!(&refused, Err(OperatorError::WrongState(text)) if text.contains(words)), "{refused:?}");
    };
    let (mut rig, mut site, group, _) = Rig::large(config(), 1);
    refused(&mut rig, group, "is not suspended");
    assert!(matches!(
        rig.primary.group_resync(rig.now, GroupId(5), false, &mut rig.world),
        Err(OperatorError::NotFound(_))
    ));
    rig.stop_group(group);
    refused(&mut rig, group, "just being suspended");
    rig.run();
    rig.hear(Message::Fenced { group, generation: Generation { number: 2, id: 5, parent: 77 } });
    rig.run();
    refused(&mut rig, group, "is fenced");
    site.pass(&mut rig, 3 * SECOND);
    assert_eq!(rig.show(group).unit, None, "nor does one begin by itself");

    let (mut rig, mut site, group, _) = Rig::large(config(), 1);
    rig.hear(Message::Fenced { group, generation: Generation { number: 1, id: 5, parent: 0 } });
    rig.run();
    refused(&mut rig, group, "split brain");
    site.pass(&mut rig, 3 * SECOND);
    assert_eq!(rig.show(group).unit, None);

    let (rig, mut site, _, _) = Rig::large(config(), 1);
    let mut rig = rig.crash();
    site.meets(&rig);
    rig.real_times();
    let group = rig.group("g", Scope::Group);
    let lost = PairConfig { volatile: true, ..Rig::large_config(group, "p0", 0) };
    rig.primary.pair_create(rig.now, lost, Ticket(0), &mut rig.world).unwrap();
    rig.run();
    refused(&mut rig, group, "overwrite the only copy");
    site.pass(&mut rig, 3 * SECOND);
    assert_eq!(rig.show(group).unit, None);
}

#[test]
fn a_secondary_that_lost_data_gets_all_of_it_again_when_the_operator_says_so() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 2);
    for lba in 0..5 {
        write(&mut rig, pairs[0], lba * 100, 1);
    }
    site.run(&mut rig);
    let (subject, refusal) = (crate::message::Subject::Pair(pairs[1]), crate::message::Refusal::Never);
    rig.stop_group(group);
    rig.run();
    rig.pass(SECOND);
    rig.keep_all();
    // It joins the first pair, and will not have the second.
    let text = "lost its content with the process".to_string();
    while !rig.said().iter().any(|said| matches!(said, Message::JoinPair(join) if join.pair == pairs[1] && join.content == Content::Established && rig.show(group).unit == Some(1))) {
        assert!(rig.keep() | rig.secondary() | rig.local());
    }
    rig.hear(Message::Refused { group, subject, refusal, text });
    rig.run();
    assert_eq!((rig.show(group).state, rig.show(group).next_attempt), (PairState::SuspendedError, None));
    site.disks.clear();
    site.meets(&rig);
    rig.primary.group_resync(rig.now, group, true, &mut rig.world).unwrap();
    site.joins.clear();
    site.pass(&mut rig, SECOND);
    assert_eq!(site.joins, pairs.iter().map(|pair| (*pair, Content::Copy)).collect::<Vec<_>>());
    let ends: Vec<CopyId> = site.ends.iter().map(|(copy, _)| *copy).collect();
    assert_eq!(
        ends,
        [CopyId::Unit(2), CopyId::Pair(pairs[0]), CopyId::Pair(pairs[1])],
        "the pairs' ends after the unit's"
    );
    assert_eq!(rig.show(group).state, PairState::Pair);
    assert!(pairs.iter().all(|pair| rig.state(*pair) == PairState::Pair));
    site.assert_equal(&rig);
}

impl Rig {
    /// A group whose pairs so far are clean runs; one that is to be resynced does not.
    fn stop_if_running(&mut self, group: GroupId) {
        if self.show(group).state.is_copying() {
            self.stop_group(group);
            self.run();
        }
    }
}
