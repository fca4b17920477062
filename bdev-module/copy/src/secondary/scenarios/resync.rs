//! Resyncs: one unit of the whole group, or nothing of it.

use super::*;
use crate::message::CopyId;

/// Five writes arrived; the sixth came to the primary only, which was killed.
fn restarted() -> Rig {
    let mut rig = working(5);
    rig.resyncs = true;
    rig.journal_blocks = 1 << 12;
    rig.write(0);
    rig.resync(0);
    rig
}

/// Lets everything that the primary has stamped arrive.
fn arrive(rig: &mut Rig) {
    for _ in 0..40 {
        rig.hello();
        for index in 0..rig.senders.len() {
            for _ in 0..40 {
                rig.deliver(index);
            }
            rig.beacon(index);
        }
        rig.settle();
    }
}

fn copy_all(rig: &mut Rig) {
    while !rig.senders[0].marks.is_empty() {
        rig.copy(0);
        arrive(rig);
    }
}

fn with_large_journal(writes: usize) -> Rig {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.journal_blocks = 1 << 12;
    rig.resyncs = true;
    rig.create();
    rig.settle();
    rig.drain();
    for _ in 0..writes {
        rig.write(0);
        rig.drain();
    }
    rig
}

#[test]
fn the_last_image_and_the_recovery_point_stay_until_the_unit_is_complete() {
    let mut rig = with_large_journal(5);
    let before = rig.status("g").recovery_point;
    let image = (rig.volume("g", "a"), rig.volume("g", "b"));
    rig.write(0);
    rig.resync(0);
    arrive(&mut rig);
    assert_eq!(rig.senders[0].unit, Some(1));
    let base = rig.status("g").unit.unwrap().base;
    assert!(base >= before);
    for _ in 0..8 {
        rig.write(0);
        copy_all(&mut rig);
        let status = rig.status("g");
        assert_eq!((status.recovery_point, status.limit > base), (base, true), "{status:?}");
        assert_eq!(rig.senders[0].held, base, "its sender knows that durable is not enough");
        assert!(status.held_bytes > 0 && status.reason.unwrap().contains("resync"));
        assert_eq!((rig.volume("g", "a"), rig.volume("g", "b")), image, "nothing of the unit is applied");
        let pair = rig.secondary.pair_status(rig.now(), PairId::of_name(group(), "a")).unwrap();
        assert_eq!((pair.state.code(), pair.consistent), ("COPY", true));
    }
    let stream = rig.senders[0].stream;
    assert_eq!(rig.secondary.intakes[&stream].account.held(), 0, "what is journaled leaves memory");
    // Said, but a record before the end is missing.
    rig.write(0);
    rig.copy_end(0);
    rig.settle();
    assert_eq!(rig.status("g").recovery_point, base);
    assert!(rig.senders[0].unit.is_some());
    arrive(&mut rig);
    assert_eq!(rig.senders[0].done, [CopyId::Unit(1)]);
    let status = rig.status("g");
    assert!(status.unit.is_none() && status.recovery_point > base && status.held_bytes == 0, "{status:?}");
    assert_eq!(rig.senders[0].held, Time(0));
    rig.assert_cut();
    rig.crash();
    rig.settle();
    rig.assert_cut();
    assert!(rig.status("g").recovery_point >= status.recovery_point, "the end is durable");
}

#[test]
fn no_tip_of_a_new_epoch_counts_before_its_part_in_the_unit_is_durable() {
    for second in [false, true] {
        // Two primaries; the first one is killed with a record that never arrived, the second one goes on.
        let mut rig = Rig::new(7, &["g"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, Scope::Group, &[("g", "b")]);
        rig.journal_blocks = 1 << 12;
        rig.resyncs = true;
        rig.create();
        rig.settle();
        rig.drain();
        rig.write(0);
        rig.write(1);
        rig.drain();
        if second {
            // The unit is durable already, and its first primary has said its end: that end must not count either.
            rig.write(0);
            rig.resync(0);
            arrive(&mut rig);
            while !rig.senders[0].marks.is_empty() {
                rig.copy(0);
                arrive(&mut rig);
            }
            rig.clock += 50;
            rig.senders[1].suspended = true;
            rig.copy_end(0);
            rig.settle();
            rig.senders[1].suspended = false;
            assert!(rig.senders[0].unit.is_some(), "the second primary's tip holds the limit back");
        }
        rig.write(0);
        let lost = rig.senders[0].floor;
        rig.clock += 100;
        rig.write(1);
        rig.resync(0);
        rig.world.holds_meta = true;
        rig.hello();
        for _ in 0..60 {
            rig.deliver(1);
            rig.beacon(1);
            while rig.complete() {}
            rig.turn();
        }
        let status = rig.status("g");
        assert!(status.limit < lost, "second {second}: {} is not before the record that was lost", status.limit);
        rig.crash();
        rig.world.holds_meta = false;
        rig.settle();
        rig.assert_cut();
        rig.drain();
        rig.assert_cut();
    }
}

#[test]
fn a_takeover_in_the_middle_of_a_resync_gives_the_image_before_it_and_lists_what_it_throws_away() {
    for crash in [false, true] {
        let mut rig = with_large_journal(4);
        rig.write(0);
        rig.resync(0);
        arrive(&mut rig);
        let base = rig.status("g").unit.unwrap().base;
        for _ in 0..5 {
            rig.write(0);
            rig.copy(0);
        }
        arrive(&mut rig);
        let sender = &rig.senders[0];
        let (acknowledged, first) = (sender.durable, sender.base);
        assert!(acknowledged.0 > first.0 + 3);
        if crash {
            rig.crash();
            rig.settle();
        }
        take_over(&mut rig);
        rig.assert_cut();
        let status = rig.status("g");
        let certificate = status.certificate.unwrap();
        assert_eq!(certificate.recovery_point, base);
        let loss = &certificate.streams[0];
        assert_eq!((loss.last_applied, loss.epoch), (first.previous(), Epoch(2)));
        assert_eq!(loss.seen_not_applied[0], first.0..=acknowledged.0, "acknowledged, and thrown away with its unit");
        for (head, _) in &rig.senders[0].history {
            let is_listed = status.discarded.iter().any(|(pair, extent)| {
                *pair == head.pair && extent.lba <= head.extent.lba && extent.end() >= head.extent.end()
            });
            assert!(is_listed || !head.kind.changes_volume(), "{head:?} is marked for failback");
        }
        rig.crash();
        rig.settle();
        rig.assert_cut();
        assert_eq!(rig.status("g").recovery_point, base);
    }
}

/// A record is released, and its block is on its way to the journal.
fn with_a_block_being_written() -> Rig {
    let mut rig = with_large_journal(2);
    rig.write(0);
    for _ in 0..10 {
        rig.deliver(0);
    }
    rig.beacon(0);
    let now = rig.now();
    rig.secondary.turn(now, &mut rig.world);
    rig
}

#[test]
fn a_unit_begins_only_when_all_that_was_released_is_in_the_journal() {
    let mut rig = with_a_block_being_written();
    assert_eq!(rig.senders[0].durable, Seq(2));
    rig.resync(0);
    rig.hello();
    assert!(rig.status("g").unit.is_none(), "it waits");
    assert!(rig.status("g").reason.unwrap().contains("a resync begins when"));
    arrive(&mut rig);
    assert!(rig.status("g").unit.is_some());
    rig.drain();
    rig.assert_cut();
}

#[test]
fn a_resync_that_waits_for_the_journal_does_not_begin_once_its_primary_has_suspended_again() {
    let mut rig = with_a_block_being_written();
    // Its primary suspends, resumes and suspends again.
    rig.suspend(0);
    rig.resync(0);
    rig.hello();
    assert!(rig.status("g").unit.is_none() && rig.secondary.groups[&group()].unit_opens.len() == 1, "it waits");
    rig.suspend(0);
    rig.settle();
    let status = rig.status("g");
    assert!(status.unit.is_none(), "a resync that nobody sends: {status:?}");
    assert!(status.reason.unwrap().contains("suspended by the primary"));
    rig.drain();
    rig.assert_cut();
}

#[test]
fn the_word_that_a_resync_is_complete_is_said_again_when_it_was_lost() {
    let mut rig = with_large_journal(3);
    rig.resync(0);
    rig.drain();
    assert_eq!(rig.senders[0].done, [CopyId::Unit(1)]);
    rig.senders[0].unit = Some(1);
    rig.crash();
    rig.settle();
    arrive(&mut rig);
    rig.copy_end(0);
    rig.settle();
    assert_eq!(rig.senders[0].done, [CopyId::Unit(1), CopyId::Unit(1)]);
    assert!(rig.status("g").unit.is_none(), "the same epoch begins no second unit");
}

#[test]
fn a_resync_of_a_group_that_stopped_waits_for_every_primary_of_it() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, Scope::Group, &[("g", "b")]);
    rig.journal_blocks = 1 << 12;
    rig.resyncs = true;
    rig.create();
    rig.settle();
    rig.drain();
    for index in [0, 1, 0, 1] {
        rig.write(index);
        rig.drain();
    }
    rig.suspend(0);
    rig.settle();
    assert!(rig.senders[1].has_to_resync, "it was told that it no longer copies");
    rig.senders[1].has_to_resync = false;
    rig.resync(0);
    for _ in 0..20 {
        rig.hello();
        while !rig.senders[0].marks.is_empty() {
            rig.copy(0);
        }
        for _ in 0..20 {
            rig.deliver(0);
        }
        rig.beacon(0);
        rig.copy_end(0);
        rig.settle();
    }
    let status = rig.status("g");
    assert_eq!(status.unit.unwrap().unfinished, [SystemId(2)]);
    assert!(status.reason.unwrap().contains("other primaries"));
    assert!(rig.senders[0].unit.is_some(), "it does not end without the other");
    // The same epoch, without a resync, is no longer enough.
    let sender = &rig.senders[1];
    let again = OpenStream { stream: sender.stream, generation: sender.generations[&group()], ..open(&rig) };
    let again = OpenStream { epoch: Epoch(1), acknowledged: rig.senders[1].durable, ..again };
    assert_eq!(refusal(&ask(&mut rig, 2, 2, Message::OpenStream(again))), Refusal::UnsentRecords);
    rig.resync(1);
    rig.drain();
    assert!(rig.status("g").unit.is_none());
    rig.assert_cut();
}

#[test]
fn a_resync_does_not_wait_for_a_primary_whose_pairs_are_no_more() {
    for is_told in [true, false] {
        let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, Scope::Group, &[("g", "b")]);
        rig.journal_blocks = 1 << 12;
        rig.resyncs = true;
        rig.create();
        rig.settle();
        rig.drain();
        for index in [0, 1, 0, 1] {
            rig.write(index);
            rig.drain();
        }
        rig.suspend(0);
        rig.settle();
        rig.senders[1].has_to_resync = false;
        // Its operator deletes the pair; the word of it may be lost.
        let (group, pair, at) = (group(), PairId::of_name(group(), "b"), Time(rig.clock));
        if is_told {
            ask(&mut rig, 2, 2, Message::LeavePair { group, pair, at });
        }
        rig.resync(0);
        for turn in 0..20 {
            rig.hello();
            while !rig.senders[0].marks.is_empty() {
                rig.copy(0);
            }
            for _ in 0..20 {
                rig.deliver(0);
            }
            rig.beacon(0);
            rig.copy_end(0);
            rig.settle();
            if turn == 10 && !is_told {
                assert!(rig.status("g").reason.unwrap().contains("other primaries"));
                let (now, ticket) = (rig.now(), rig.ticket());
                rig.secondary.pair_delete(now, pair, ticket, &mut rig.world).unwrap();
            }
        }
        let status = rig.status("g");
        assert!(status.unit.is_none() && rig.senders[0].unit.is_none(), "{is_told}: {status:#?}");
        assert_eq!(rig.volume("g", "a"), rig.replay("g", "a", status.recovery_point));
    }
}

#[test]
fn a_suspended_group_gives_its_memory_and_its_grants_back() {
    let mut rig = with_large_journal(2);
    rig.write(0);
    rig.write(0);
    let (head, payload) = rig.senders[0].history[3].clone();
    let fragment = Fragment { epoch: Epoch(1), generation: 1, head, offset: 0, body: &payload };
    let now = rig.now();
    assert!(rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world));
    rig.suspend(0);
    rig.settle();
    assert!(rig.secondary.intakes.is_empty());
    let status = rig.status("g");
    assert_eq!(status.phase, GroupPhase::Suspended);
    if head.kind.changes_volume() {
        assert!(status.discarded.iter().any(|(pair, extent)| *pair == head.pair && extent.overlaps(head.extent)));
    }
    rig.drain();
    rig.assert_cut();
}

#[test]
fn what_a_secondary_threw_away_is_told_before_a_pair_joins_a_resync() {
    let mut rig = with_large_journal(2);
    let (a, b) = (PairId::of_name(group(), "a"), PairId::of_name(group(), "b"));
    rig.suspend(0);
    rig.settle();
    let extents: Vec<_> = (0..70).map(|at| (a, Extent { lba: at * 100, blocks: 1 })).collect();
    rig.secondary.groups.get_mut(&group()).unwrap().meta.discarded = extents.clone();
    rig.resync(0);
    let open = OpenStream { epoch: Epoch(2), base: rig.senders[0].base, unit: Some(1), ..open(&rig) };
    let answers = ask(&mut rig, 1, 1, Message::OpenStream(open));
    assert!(matches!(&answers[..], [Message::StreamOpened(_)]), "{answers:?}");
    let join = |pair: PairId, name: &str| JoinPair {
        group: group(),
        pair,
        name: name.to_owned(),
        remote_volume: String::new(),
        stream: StreamId(0),
        blocks: VOLUME_BLOCKS,
        block_bytes: BLOCK as u32,
        content: Content::Established,
    };
    let stream = rig.senders[0].stream;
    let told = ask(&mut rig, 1, 1, Message::JoinPair(JoinPair { stream, ..join(a, "a") }));
    let [Message::Differs { extents: first, .. }, Message::Differs { extents: rest, .. }, Message::PairJoined { .. }] =
        &told[..]
    else {
        panic!("{told:?}")
    };
    let all: Vec<_> = first.iter().chain(rest).map(|extent| (a, *extent)).collect();
    assert_eq!(all, extents);
    let told = ask(&mut rig, 1, 1, Message::JoinPair(JoinPair { stream, ..join(b, "b") }));
    assert!(matches!(&told[..], [Message::PairJoined { .. }]), "{told:?}");
    // Once the unit has brought them again they are no difference any more.
    let end = Time(rig.clock);
    ask(&mut rig, 1, 1, Message::CopyEnd { group: group(), copy: CopyId::Unit(1), end });
    rig.senders[0].opened.insert(group());
    rig.senders[0].joined.extend([a, b]);
    arrive(&mut rig);
    assert_eq!((rig.status("g").unit, rig.status("g").discarded), (None, vec![]));
}

#[test]
fn a_journal_that_is_full_of_a_resync_says_what_it_needs() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.resyncs = true;
    rig.create();
    rig.settle();
    rig.drain();
    rig.write(0);
    rig.drain();
    rig.resync(0);
    arrive(&mut rig);
    let base = rig.status("g").unit.unwrap().base;
    for _ in 0..60 {
        while rig.senders[0].last().0 < rig.senders[0].durable.0 + 14 {
            rig.write(0);
        }
        for _ in 0..40 {
            rig.deliver(0);
        }
        rig.beacon(0);
        rig.settle();
    }
    let status = rig.status("g");
    assert!(status.reason.as_ref().unwrap().contains("overlay"), "{status:?}");
    assert_eq!(status.recovery_point, base);
    // A takeover does not wait for room.
    take_over(&mut rig);
    rig.assert_cut();
    assert_eq!(rig.status("g").recovery_point, base);
}

#[test]
fn a_second_primary_that_is_killed_in_the_middle_of_a_resync_has_to_resync_too() {
    let mut rig = Rig::new(6, &["g"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, Scope::Group, &[("g", "b")]);
    rig.journal_blocks = 1 << 12;
    rig.resyncs = true;
    rig.create();
    rig.settle();
    rig.drain();
    rig.write(1);
    rig.drain();
    rig.resync(0);
    arrive(&mut rig);
    let base = rig.status("g").unit.unwrap().base;
    let sender = &rig.senders[1];
    let restarted = OpenStream {
        stream: sender.stream,
        epoch: Epoch(2),
        base: sender.durable.next(),
        acknowledged: sender.durable,
        generation: sender.generations[&group()],
        ..open(&rig)
    };
    assert_eq!(refusal(&ask(&mut rig, 2, 2, Message::OpenStream(restarted))), Refusal::UnsentRecords);
    let unit = rig.status("g").unit.unwrap();
    assert_eq!((unit.base, unit.unfinished), (base, vec![SystemId(1), SystemId(2)]), "the unit goes on and waits");
    assert_eq!(rig.status("g").phase, GroupPhase::Active);
    rig.resync(1);
    rig.drain();
    rig.assert_cut();
}

#[test]
fn a_resync_that_was_ended_begins_anew_only_with_a_new_epoch() {
    let mut rig = restarted();
    rig.suspend(0);
    rig.settle();
    let epoch = rig.status("g").streams[0].epoch;
    let same = OpenStream { epoch, unit: Some(2), ..open(&rig) };
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(same))), Refusal::UnsentRecords);
}

#[test]
fn nothing_of_a_unit_is_applied_before_its_end_is_durable() {
    let mut rig = with_large_journal(5);
    rig.write(0);
    rig.resync(0);
    arrive(&mut rig);
    for _ in 0..8 {
        rig.write(0);
    }
    copy_all(&mut rig);
    let base = rig.status("g").unit.unwrap().base;
    let image = (rig.volume("g", "a"), rig.volume("g", "b"));
    rig.world.holds_meta = true;
    rig.copy_end(0);
    for _ in 0..200 {
        rig.complete();
        rig.turn();
    }
    let status = rig.status("g");
    assert_eq!((status.unit, status.recovery_point), (None, base), "its end is on its way to the metadata");
    assert_eq!((rig.volume("g", "a"), rig.volume("g", "b")), image);
    assert!(rig.senders[0].done.is_empty(), "and nobody was told");
    rig.world.meta_pending.clear();
    rig.world.holds_meta = false;
    rig.crash();
    rig.settle();
    assert_eq!(rig.status("g").unit.unwrap().base, base);
    take_over(&mut rig);
    assert_eq!((rig.volume("g", "a"), rig.volume("g", "b")), image);
}

#[test]
fn what_a_stopped_stream_left_behind_is_not_counted_as_the_next_ones_memory() {
    let mut rig = with_large_journal(2);
    rig.world.failing = Some((VolumeId(0), u32::MAX));
    for _ in 0..4 {
        rig.write_at(0, 0, RecordKind::Write, Extent { lba: 3, blocks: 2 });
    }
    arrive(&mut rig);
    rig.suspend(0);
    rig.settle();
    rig.resync(0);
    arrive(&mut rig);
    let stream = rig.senders[0].stream;
    rig.world.failing = None;
    rig.mono += 2 * crate::journal::RETRY_NS;
    rig.settle();
    let account = rig.secondary.intakes[&stream].account;
    assert_eq!((account.held(), account.outstanding()), (0, account.grant()), "what was promised is what may come");
    rig.drain();
    rig.assert_cut();
}

#[test]
fn a_takeover_does_not_wait_for_a_resync_that_has_not_begun() {
    let mut rig = with_large_journal(3);
    let before = rig.status("g").recovery_point;
    rig.world.failing = Some((Rig::journal_volume(0), u32::MAX));
    rig.write(0);
    for _ in 0..20 {
        rig.deliver(0);
        rig.beacon(0);
        rig.complete();
        rig.turn();
    }
    rig.resync(0);
    rig.hello();
    assert!(rig.status("g").unit.is_none() && rig.status("g").reason.is_some());
    take_over(&mut rig);
    assert_eq!(rig.status("g").recovery_point, before);
    rig.assert_cut();
}

#[test]
fn a_primary_that_leaves_in_the_middle_of_its_resync_is_not_waited_for_and_leaves_no_image() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, Scope::Group, &[("g", "b")]);
    rig.journal_blocks = 1 << 12;
    rig.resyncs = true;
    rig.create();
    rig.settle();
    rig.drain();
    rig.write(0);
    rig.write(1);
    rig.drain();
    rig.write(0);
    rig.resync(0);
    arrive(&mut rig);
    let base = rig.status("g").unit.unwrap().base;
    let (stream, epoch, end) = (rig.senders[0].stream, rig.senders[0].epoch, rig.senders[0].durable);
    let end_time = Time(rig.clock);
    ask(&mut rig, 1, 1, Message::CloseStream { group: group(), stream, epoch, end, end_time });
    rig.clock += 100;
    rig.beacon(1);
    rig.settle();
    let status = rig.status("g");
    assert!(status.unit.is_none() && status.recovery_point > base, "{status:?}");
    assert_eq!(status.copying, [PairId::of_name(group(), "a")]);
    take_over(&mut rig);
    rig.assert_cut();
    assert_eq!(rig.status("g").certificate.unwrap().never_consistent, [PairId::of_name(group(), "a")]);
}

/// A resync whose primary ends it in the middle, asked by its operator.
fn interrupted() -> Rig {
    let mut rig = with_large_journal(4);
    rig.write(0);
    rig.resync(0);
    arrive(&mut rig);
    for _ in 0..6 {
        rig.write(0);
        rig.copy(0);
    }
    arrive(&mut rig);
    assert!(rig.status("g").held_bytes > 0, "the unit holds records back");
    rig.suspend(0);
    rig.settle();
    rig
}

fn delete(rig: &mut Rig, name: &str) {
    let (now, ticket) = (rig.now(), rig.ticket());
    rig.secondary.pair_delete(now, PairId::of_name(group(), name), ticket, &mut rig.world).unwrap();
    rig.settle();
    assert!(matches!(rig.world.answers[&ticket.0], Ok(OperatorAnswer::Deleted)));
}

fn create(rig: &mut Rig, name: &str, volume: VolumeId) -> Option<Result<OperatorAnswer, OperatorError>> {
    let (now, ticket) = (rig.now(), rig.ticket());
    let config = PairConfig {
        group: "g".to_owned(),
        name: name.to_owned(),
        volume,
        volume_name: "new".to_owned(),
        geometry: geometry(),
        initial: Initial::Empty,
        volatile: false,
    };
    rig.secondary.pair_create(now, config, ticket, &mut rig.world).unwrap();
    rig.settle();
    rig.world.answers.get(&ticket.0).cloned()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Crash {
    Never,
    Before,
    After,
}

#[test]
fn a_pair_can_be_deleted_while_an_interrupted_resync_holds_records_back() {
    for crash in [Crash::Never, Crash::Before, Crash::After] {
        let mut rig = interrupted();
        let base = rig.status("g").unit.unwrap().base;
        let image = (rig.volume("g", "a"), rig.volume("g", "b"));
        let (given_back, next) = (rig.volume_of("g", "b"), VolumeId(77));
        let whole = Extent { lba: 0, blocks: VOLUME_BLOCKS as u32 };
        if crash == Crash::Before {
            rig.crash();
            rig.settle();
        }
        delete(&mut rig, "b");
        rig.senders[0].pairs.retain(|(_, name)| name == "a");
        rig.senders[0].marks.retain(|(pair, _)| *pair == 0);
        if crash == Crash::After {
            rig.crash();
            rig.settle();
        }
        // The other pair's image is still there, and a resync of it alone ends.
        assert_eq!(rig.status("g").unit.unwrap().base, base);
        assert_eq!(rig.volume("g", "a"), image.0);
        // What is held back is not the next pair's.
        let early = create(&mut rig, "b", next);
        assert!(
            matches!(&early, Some(Err(OperatorError::WrongState(text))) if text.contains("earlier pair")),
            "{early:?}"
        );
        rig.resync(0);
        arrive(&mut rig);
        copy_all(&mut rig);
        rig.copy_end(0);
        arrive(&mut rig);
        let status = rig.status("g");
        assert!(status.unit.is_none() && status.recovery_point > base, "{crash:?}: {status:?}");
        assert_eq!(rig.volume("g", "a"), rig.replay("g", "a", status.recovery_point));
        assert_eq!(rig.world.disks[&given_back].read(whole), image.1, "the volume keeps the image before the resync");
        let late = create(&mut rig, "b", next);
        assert!(matches!(late, Some(Ok(OperatorAnswer::PairCreated(_)))), "{late:?}");
        arrive(&mut rig);
        assert!(rig.world.disks.get(&next).is_none_or(|disk| disk.read(whole).iter().all(|byte| *byte == 0)));
    }
}

#[test]
fn a_pair_that_is_created_again_gets_nothing_of_the_one_before_it() {
    let mut rig = with_large_journal(0);
    // No checkpoint yet: after a crash all of the journal is applied again.
    rig.config.checkpoint_interval_ns = u64::MAX / 2;
    rig.crash();
    rig.settle();
    rig.drain();
    for _ in 0..12 {
        rig.write(0);
        rig.drain();
    }
    let (name, next) = ("b", VolumeId(77));
    assert!(rig.truth.iter().any(|(head, _)| head.pair == PairId::of_name(group(), name)));
    rig.suspend(0);
    rig.settle();
    delete(&mut rig, name);
    rig.senders[0].pairs.retain(|(_, pair)| pair != name);
    assert!(create(&mut rig, name, next).is_none(), "it waits for the checkpoint");
    rig.crash();
    rig.settle();
    let whole = Extent { lba: 0, blocks: VOLUME_BLOCKS as u32 };
    let again = create(&mut rig, name, next);
    assert!(again.is_none() || matches!(again, Some(Ok(_))), "{again:?}");
    assert!(rig.world.disks.get(&next).is_none_or(|disk| disk.read(whole).iter().all(|byte| *byte == 0)));
}

#[test]
fn a_resync_is_not_waited_for_when_its_pairs_were_deleted_here_and_its_primary_is_gone() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, Scope::Group, &[("g", "b")]);
    rig.journal_blocks = 1 << 12;
    rig.resyncs = true;
    rig.create();
    rig.settle();
    rig.drain();
    for index in [0, 1, 0, 1] {
        rig.write(index);
        rig.drain();
    }
    rig.write(0);
    rig.resync(0);
    arrive(&mut rig);
    let base = rig.status("g").unit.unwrap().base;
    // Its first primary dies for ever.
    rig.senders[0].suspended = true;
    let (now, link) = (rig.now(), rig.senders[0].link);
    rig.secondary.link_down(now, link, &mut rig.world);
    for _ in 0..3 {
        rig.write(1);
        arrive(&mut rig);
    }
    assert_eq!(rig.status("g").recovery_point, base, "the image stays while the resync may go on");
    delete(&mut rig, "a");
    for _ in 0..3 {
        rig.write(1);
        arrive(&mut rig);
    }
    let status = rig.status("g");
    assert!(status.unit.is_none() && status.recovery_point > base, "{status:#?}");
    assert_eq!(rig.volume("g", "b"), rig.replay("g", "b", status.recovery_point));
}
