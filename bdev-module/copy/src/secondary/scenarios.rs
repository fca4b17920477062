//! Single situations, each with the sequence that leads to it.

use super::rig::{BLOCK, Rig, VOLUME_BLOCKS, geometry};
use super::*;
use crate::message::{Content, JoinPair, OpenStream, Refusal, Subject};
use crate::ports::OperatorAnswer;
use crate::stream::Fragment;
use crate::types::{Extent, Generation, Initial, RecordKind, Scope, Stamp};

fn group() -> GroupId {
    GroupId::of_name("g")
}

/// One primary, one group, two pairs; open and joined, with `writes` records arrived and durable.
fn working(writes: usize) -> Rig {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.create();
    rig.settle();
    rig.drain();
    for _ in 0..writes {
        rig.write(0);
        rig.drain();
    }
    rig
}

/// What the secondary answers, of this turn's end.
fn ask(rig: &mut Rig, link: u32, from: u64, message: Message) -> Vec<Message> {
    rig.world.messages.clear();
    let now = rig.now();
    rig.secondary.message(now, LinkId(link), SystemId(from), message, &mut rig.world);
    while rig.complete() {
        let now = rig.now();
        rig.secondary.turn(now, &mut rig.world);
    }
    std::mem::take(&mut rig.world.messages).into_iter().filter(|(to, _)| to.0 == link).map(|(_, it)| it).collect()
}

fn open(rig: &Rig) -> OpenStream {
    let sender = &rig.senders[0];
    OpenStream {
        group: group(),
        group_name: "g".to_owned(),
        generation: sender.generations.get(&group()).copied().unwrap_or_default(),
        stream: sender.stream,
        scope: Scope::Group,
        epoch: sender.epoch,
        base: Seq(1),
        base_time: sender.base_time,
        acknowledged: sender.durable,
        drained: None,
        unit: None,
    }
}

fn refusal(answers: &[Message]) -> Refusal {
    match answers {
        [Message::Refused { refusal, text, .. }] => {
            assert!(text.len() > 20, "a sentence: {text}");
            *refusal
        }
        other => panic!("not one refusal: {other:?}"),
    }
}

fn take_over(rig: &mut Rig) {
    let (ticket, now) = (rig.ticket(), rig.now());
    let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
    rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
    rig.settle();
    assert!(matches!(rig.world.answers[&ticket.0], Ok(OperatorAnswer::TakenOver(_))));
}

#[test]
fn a_group_that_is_not_there_is_asked_for_again_later() {
    let mut rig = Rig::new(1, &[]).stream(1, Scope::Group, &[("g", "a")]);
    let open = open(&rig);
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(open))), Refusal::NotYet);
}

#[test]
fn the_first_open_makes_the_first_generation_and_every_later_one_finds_it() {
    let mut rig = working(0);
    let first = rig.status("g").generation;
    assert_eq!((first.number, first.parent), (1, 0));
    assert_ne!(first.id, 0);
    let again = OpenStream { generation: Generation::default(), ..open(&rig) };
    let answers = ask(&mut rig, 1, 1, Message::OpenStream(again));
    assert!(matches!(&answers[..], [Message::StreamOpened(opened)] if opened.generation == first), "{answers:?}");
}

#[test]
fn a_restarted_primary_that_cannot_prove_that_it_was_drained_freezes_the_group_where_it_is() {
    let mut rig = working(5);
    let before = rig.status("g").recovery_point;
    for drained in [None, Some((Epoch(1), Seq(4))), Some((Epoch(0), Seq(5)))] {
        let mut rig = working(5);
        let open = OpenStream { epoch: Epoch(2), base: Seq(6), drained, acknowledged: Seq(5), ..open(&rig) };
        assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(open.clone()))), Refusal::UnsentRecords);
        rig.crash();
        rig.settle();
        let status = rig.status("g");
        assert_eq!((status.phase, status.recovery_point), (GroupPhase::Frozen, before), "also after a restart");
        assert!(status.reason.unwrap().contains("restarted with unsent records"));
        assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(open))), Refusal::UnsentRecords);
        rig.assert_cut();
        take_over(&mut rig);
    }
    // One that can goes on: the numbers go on, a record of the new epoch is released behind the old ones.
    let drained = Some((Epoch(1), Seq(5)));
    let next = OpenStream { epoch: Epoch(2), base: Seq(6), drained, acknowledged: Seq(5), ..open(&rig) };
    let answers = ask(&mut rig, 1, 1, Message::OpenStream(next));
    let [Message::StreamOpened(opened)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((opened.epoch, opened.durable), (Epoch(2), Seq(5)));
    assert!(opened.base_time >= before, "no stamp of it may be at or before what was released");
}

#[test]
fn a_restarted_primary_freezes_what_had_arrived_beyond_the_tip_out_of_the_cut() {
    let mut rig = working(3);
    // Record 5 arrives, 4 does not.
    rig.write(0);
    rig.write(0);
    let (head, payload) = rig.senders[0].history[4].clone();
    let fragment = Fragment { epoch: Epoch(1), generation: 1, head, offset: 0, body: &payload };
    let now = rig.now();
    assert!(rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world));
    let open = OpenStream { epoch: Epoch(2), base: Seq(6), acknowledged: Seq(3), ..open(&rig) };
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(open))), Refusal::UnsentRecords);
    rig.crash();
    rig.settle();
    assert!(rig.status("g").greatest_time_seen >= head.stamp.time, "a timeline here starts above what was thrown away");
    take_over(&mut rig);
    rig.assert_cut();
    let loss = rig.status("g").certificate.unwrap().streams.remove(0);
    assert_eq!((loss.last_applied, loss.highest_announced), (Seq(3), Seq(5)));
    assert_eq!(loss.seen_not_applied, [5..=5], "seen before the restart, and still known after it");
}

#[test]
fn a_primary_that_was_told_more_than_is_there_is_told_of_the_loss() {
    let mut rig = working(3);
    let open = OpenStream { acknowledged: Seq(4), ..open(&rig) };
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(open))), Refusal::LostData);
}

#[test]
fn an_older_epoch_another_owner_and_another_scope_are_refused_for_good() {
    let mut rig = working(1);
    let older = OpenStream { epoch: Epoch(0), ..open(&rig) };
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(older))), Refusal::Never);
    let same = open(&rig);
    assert_eq!(refusal(&ask(&mut rig, 2, 2, Message::OpenStream(same))), Refusal::Never);
    let scope = OpenStream { scope: Scope::Pair, ..open(&rig) };
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(scope))), Refusal::Never);
    let split = Generation { number: 1, id: 4711, parent: 0 };
    let split = OpenStream { generation: split, ..open(&rig) };
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(split))), Refusal::Never);
    for base in [0, u64::MAX] {
        let odd = OpenStream { stream: StreamId(9), base: Seq(base), ..open(&rig) };
        assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(odd))), Refusal::Never);
    }
}

#[test]
fn a_pair_joins_only_with_the_same_size_content_and_name_of_its_volume() {
    let mut rig = working(0);
    let good = JoinPair {
        group: group(),
        pair: PairId::of_name(group(), "a"),
        name: "a".to_owned(),
        remote_volume: "v0".to_owned(),
        stream: rig.senders[0].stream,
        blocks: VOLUME_BLOCKS,
        block_bytes: BLOCK as u32,
        content: Content::Empty,
    };
    let again = ask(&mut rig, 1, 1, Message::JoinPair(good.clone()));
    assert!(matches!(&again[..], [Message::PairJoined { .. }]), "an answer may be lost: {again:?}");
    for bad in [
        JoinPair { blocks: VOLUME_BLOCKS + 1, ..good.clone() },
        JoinPair { content: Content::DeclaredIdentical, ..good.clone() },
        JoinPair { remote_volume: "other".to_owned(), ..good.clone() },
    ] {
        assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::JoinPair(bad))), Refusal::Never);
    }
    let unknown = JoinPair { pair: PairId(5), ..good.clone() };
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::JoinPair(unknown))), Refusal::NotYet);
    let foreign = ask(&mut rig, 2, 2, Message::JoinPair(good.clone()));
    assert_eq!(refusal(&foreign), Refusal::NotYet, "the stream is not theirs");
    // After a record of it arrived, a primary that believes the pair to be new would see an image that is not its own.
    let mut rig = working(6);
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::JoinPair(good.clone()))), Refusal::Never);
    let established = JoinPair { content: Content::Established, ..good };
    assert!(matches!(&ask(&mut rig, 1, 1, Message::JoinPair(established))[..], [Message::PairJoined { .. }]));
}

#[test]
fn a_volume_with_data_is_no_new_secondary() {
    let mut rig = Rig::new(1, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
    rig.world.disks.entry(VolumeId(0)).or_default().put(17, [3; BLOCK]);
    rig.create();
    rig.settle();
    let (_, answer) = rig.world.answers.iter().next().unwrap();
    let Err(OperatorError::Invalid(text)) = answer else { panic!("{answer:?}") };
    assert!(text.contains("block 17") && text.contains("declared_identical"), "{text}");
    assert!(!rig.secondary.has_pair(PairId::of_name(group(), "a")));
    // The operator may vouch for it.
    let (now, ticket) = (rig.now(), rig.ticket());
    let config = PairConfig {
        group: "g".to_owned(),
        name: "a".to_owned(),
        volume: VolumeId(0),
        volume_name: "v0".to_owned(),
        geometry: geometry(),
        initial: Initial::Identical,
        volatile: false,
    };
    rig.secondary.pair_create(now, config, ticket, &mut rig.world).unwrap();
    rig.settle();
    assert!(matches!(rig.world.answers[&ticket.0], Ok(OperatorAnswer::PairCreated(_))));
}

#[test]
fn a_journal_device_that_is_another_s_is_never_written_to() {
    for foreign in ["data", "journal"] {
        let mut rig = Rig::new(1, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
        let mut first = vec![7; 4096];
        if foreign == "journal" {
            let geometry = Geometry { blocks: 136, block_bytes: BLOCK as u32 };
            crate::journal::format::super_bytes(1, GroupId(2), geometry, &mut first);
        }
        let disk = rig.world.disks.entry(Rig::journal_volume(0)).or_default();
        for (lba, block) in first.chunks(BLOCK).enumerate() {
            disk.put(lba as u64, block.try_into().unwrap());
        }
        rig.create();
        rig.settle();
        let status = rig.status("g");
        assert_eq!(status.phase, GroupPhase::Failed);
        assert!(status.reason.as_ref().is_some_and(|reason| reason.contains("zeroes")), "{:?}", status.reason);
        let answer = rig.world.answers.values().next().unwrap();
        assert!(
            matches!(answer, Err(OperatorError::WrongState(_))),
            "its pairs fail with the same sentence: {answer:?}"
        );
        let disk = &rig.world.disks[&Rig::journal_volume(0)];
        assert_eq!(disk.read(Extent { lba: 0, blocks: 8 }), first);
    }
}

#[test]
fn hosts_are_refused_until_takeover_and_served_after_it() {
    let mut rig = working(4);
    let pair = PairId::of_name(group(), "a");
    let ios = || {
        let extent = Extent { lba: 1, blocks: 1 };
        let data: std::rc::Rc<[u8]> = vec![8; BLOCK].into();
        [
            HostIo::Write { extent, data, fua: true },
            HostIo::Flush,
            HostIo::Unmap { extent: Extent { lba: 2, blocks: 1 } },
            HostIo::WriteZeroes { extent: Extent { lba: 3, blocks: 1 }, fua: false },
            HostIo::Read { extent, buf: vec![0; BLOCK] },
        ]
    };
    for (token, io) in ios().into_iter().enumerate() {
        let now = rig.now();
        rig.secondary.host_io(now, pair, io, HostToken(token as u64), &mut rig.world);
        let (outcome, buf) = rig.world.hosts.remove(&(token as u64)).unwrap();
        assert_eq!(outcome, Err(HostError::Secondary));
        assert_eq!(buf.is_some(), token == 4, "a read gets its buffer back");
    }
    assert_eq!(rig.secondary.pair_status(rig.now(), pair).unwrap().state, crate::types::PairState::Pair);
    take_over(&mut rig);
    for (token, io) in ios().into_iter().enumerate() {
        let now = rig.now();
        rig.secondary.host_io(now, pair, io, HostToken(token as u64), &mut rig.world);
        rig.settle();
        let (outcome, buf) = rig.world.hosts.remove(&(token as u64)).unwrap();
        assert_eq!(outcome, Ok(()));
        assert!(token != 4 || buf.unwrap() == [8; BLOCK]);
    }
    let status = rig.secondary.pair_status(rig.now(), pair).unwrap();
    assert_eq!(status.state, crate::types::PairState::TakenOver);
    let uuid = status.uuid.unwrap();
    // A restart serves at once, replays nothing over what the hosts wrote, and keeps the identity.
    rig.crash();
    rig.settle();
    let now = rig.now();
    let read = HostIo::Read { extent: Extent { lba: 1, blocks: 1 }, buf: vec![0; BLOCK] };
    rig.secondary.host_io(now, pair, read, HostToken(9), &mut rig.world);
    rig.settle();
    assert_eq!(rig.world.hosts.remove(&9).unwrap().1.unwrap(), [8; BLOCK]);
    assert_eq!(rig.secondary.pair_status(rig.now(), pair).unwrap().uuid, Some(uuid));
}

#[test]
fn a_takeover_without_consent_or_without_a_history_is_refused_with_a_sentence() {
    let mut rig = working(1);
    let (now, ticket) = (rig.now(), rig.ticket());
    let consent = TakeoverConsent::default();
    let refused = rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world);
    assert!(matches!(refused, Err(OperatorError::WrongState(text)) if text.contains("fenced")));
    let mut rig = Rig::new(1, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
    rig.create();
    rig.settle();
    let consent = TakeoverConsent { accept_split: true, ..consent };
    let (now, ticket) = (rig.now(), rig.ticket());
    let refused = rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world);
    assert!(matches!(refused, Err(OperatorError::WrongState(_))));
}

#[test]
fn after_a_takeover_frames_and_opens_of_the_old_generation_are_fenced() {
    let mut rig = working(3);
    take_over(&mut rig);
    rig.write(0);
    let now = rig.now();
    rig.secondary.link_up(now, LinkId(1), &mut rig.world);
    let (head, payload) = rig.senders[0].history[3].clone();
    for _ in 0..3 {
        let fragment = Fragment { epoch: Epoch(1), generation: 1, head, offset: 0, body: &payload };
        assert!(!rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world));
    }
    let told = std::mem::take(&mut rig.world.messages);
    assert!(
        matches!(&told[..], [(LinkId(1), Message::Fenced { generation, .. })] if generation.number == 2),
        "once: {told:?}"
    );
    let open = open(&rig);
    let answers = ask(&mut rig, 1, 1, Message::OpenStream(open));
    assert!(matches!(&answers[..], [Message::Fenced { .. }]));
    rig.assert_cut();
}

#[test]
fn failing_devices_are_tried_again_until_they_work() {
    for volume in [Rig::journal_volume(0), VolumeId(0), VolumeId(1)] {
        let mut rig = working(2);
        rig.world.failing = Some((volume, 7));
        for _ in 0..5 {
            rig.write(0);
        }
        for _ in 0..60 {
            rig.mono += 2 * crate::journal::RETRY_NS;
            rig.hello();
            for _ in 0..40 {
                rig.deliver(0);
            }
            rig.settle();
        }
        assert_eq!(rig.world.failing, Some((volume, 0)), "the errors came");
        rig.drain();
        rig.assert_cut();
        rig.crash();
        rig.settle();
        rig.assert_cut();
    }
}

#[test]
fn a_damaged_journal_is_reported_and_never_skipped_but_a_torn_tail_is_cut() {
    for at in [0_u64, 1, 2] {
        // Three commits that no checkpoint has covered.
        let mut rig = Rig::new(8, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
        rig.config.checkpoint_interval_ns = u64::MAX / 2;
        rig.secondary = Secondary::new(rig.config, 1);
        rig.create();
        rig.settle();
        rig.drain();
        let mut starts = Vec::new();
        for _ in 0..3 {
            let group = &rig.secondary.groups[&group()];
            let Phase::Ready(ready) = &group.phase else { panic!() };
            starts.push(ready.journal.committed_end());
            rig.write(0);
            rig.drain();
        }
        let lba = 8 + starts[at as usize];
        let journal = rig.world.disks.get_mut(&Rig::journal_volume(0)).unwrap();
        let mut block: [u8; BLOCK] = journal.read(Extent { lba, blocks: 1 }).try_into().unwrap();
        block[90] ^= 4;
        journal.put(lba, block);
        rig.crash();
        rig.settle();
        let status = rig.status("g");
        if at == 2 {
            // Nothing behind it says that it was durable: what a torn append looks like. The primary knows better.
            assert_eq!(status.phase, GroupPhase::Active);
            assert_eq!(status.streams[0].durable, Seq(2));
            let open = open(&rig);
            assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(open))), Refusal::LostData);
        } else {
            assert_eq!(status.phase, GroupPhase::Failed);
            assert!(!status.consistent && status.reason.unwrap().contains("damaged"));
        }
    }
}

#[test]
fn a_record_that_the_group_has_passed_stops_its_stream_and_is_never_released() {
    let mut rig = working(2);
    let cut = rig.volume("g", "a");
    let limit = rig.status("g").limit;
    let (head, payload) = rig.senders[0].history[0].clone();
    let late = Stamp { time: limit, seq: Seq(3), ..head.stamp };
    let late = RecordHead { stamp: late, ..head };
    let now = rig.now();
    let fragment = Fragment { epoch: Epoch(1), generation: 1, head: late, offset: 0, body: &payload };
    rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world);
    let told = std::mem::take(&mut rig.world.messages);
    assert!(matches!(&told[..], [(_, Message::Refused { refusal: Refusal::Never, .. })]), "{told:?}");
    rig.settle();
    assert_eq!(rig.volume("g", "a"), cut);
    assert_eq!(rig.status("g").limit, limit);
    assert!(rig.status("g").streams[0].error.is_some());
}

#[test]
fn frames_that_do_not_belong_are_counted_and_change_nothing() {
    let mut rig = working(1);
    rig.write(0);
    let (head, payload) = rig.senders[0].history[1].clone();
    let now = rig.now();
    let good = Fragment { epoch: Epoch(1), generation: 1, head, offset: 0, body: &payload };
    let moved = Extent { lba: VOLUME_BLOCKS - head.extent.blocks as u64 + 1, ..head.extent };
    let zeroes = RecordHead { kind: RecordKind::WriteZeroes, payload_bytes: 0, extent: moved, ..head };
    let bad = [
        (LinkId(2), good),
        (LinkId(1), Fragment { epoch: Epoch(2), ..good }),
        (LinkId(1), Fragment { generation: 2, ..good }),
        (LinkId(1), Fragment { head: RecordHead { pair: PairId(1), ..head }, ..good }),
        (LinkId(1), Fragment { head: zeroes, body: &[], ..good }),
        (
            LinkId(1),
            Fragment { head: RecordHead { stamp: Stamp { time: Time(u64::MAX), ..head.stamp }, ..head }, ..good },
        ),
        (LinkId(1), Fragment { head: RecordHead { stamp: Stamp { seq: Seq(1000), ..head.stamp }, ..head }, ..good }),
    ];
    for (link, fragment) in bad {
        assert!(!rig.secondary.frame(now, link, fragment, &mut rig.world));
    }
    let drops = rig.status("g").streams[0].drops;
    let counted = [
        drops.wrong_link,
        drops.stale_epoch,
        drops.stale_generation,
        drops.unknown_pair,
        drops.malformed,
        drops.future,
        drops.outside_window,
    ];
    assert_eq!(counted, [1; 7], "{drops:?}");
    rig.drain();
    rig.assert_cut();
}

#[test]
fn grants_never_promise_more_than_the_memory_and_leave_room_for_one_largest_record() {
    let mut rig = Rig::new(3, &["g"]);
    for (owner, pair) in [(1, "w"), (2, "x"), (3, "y"), (4, "z")] {
        rig = rig.stream(owner, Scope::Group, &[("g", pair)]);
    }
    rig.create();
    rig.settle();
    for step in 0..4000 {
        rig.step();
        let promised: u64 = rig.secondary.intakes.values().map(|intake| intake.account.outstanding()).sum();
        assert!(promised <= rig.config.receive_bytes, "step {step}: {promised}");
        for intake in rig.secondary.intakes.values() {
            assert!(intake.account.held() <= intake.account.outstanding());
            assert_eq!(intake.drops.no_memory, 0, "what keeps to its grant finds memory");
        }
    }
    rig.drain();
    let granted: Vec<u64> = rig.senders.iter().map(|sender| sender.grant_bytes).collect();
    assert!(granted.iter().all(|bytes| *bytes >= CHARGE_BYTES_MAX), "{granted:?}");
    // A fifth is more than streams_max.
    let open = OpenStream { stream: StreamId(77), ..open(&rig) };
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(open))), Refusal::Never);
}

#[test]
fn a_closed_stream_no_longer_holds_the_limit_back() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, Scope::Group, &[("g", "b")]);
    rig.create();
    rig.settle();
    rig.drain();
    rig.write(1);
    rig.drain();
    let before = rig.status("g").limit;
    rig.clock += 100;
    rig.beacon(0);
    rig.settle();
    assert_eq!(rig.status("g").limit, before, "the second stream said nothing newer");
    let (stream, end) = (rig.senders[1].stream, rig.senders[1].durable);
    let close = Message::CloseStream { group: group(), stream, epoch: Epoch(1), end, end_time: Time(rig.clock) };
    ask(&mut rig, 1, 1, close.clone());
    rig.settle();
    assert_eq!(rig.status("g").limit, before, "only its owner closes a stream");
    ask(&mut rig, 2, 2, close);
    rig.settle();
    assert_eq!(rig.status("g").limit, Time(rig.clock));
    assert_eq!(rig.status("g").streams.len(), 1);
}

#[test]
fn a_suspended_group_stays_at_its_cut_and_can_be_taken_over() {
    let mut rig = working(3);
    let suspended =
        Message::GroupSuspended { group: group(), state: "PFUS".to_owned(), reason: "buffers are full".to_owned() };
    ask(&mut rig, 1, 1, suspended);
    rig.crash();
    rig.settle();
    let status = rig.status("g");
    assert_eq!(status.phase, GroupPhase::Suspended);
    assert!(status.reason.unwrap().contains("buffers are full"));
    let pair = rig.secondary.pair_status(rig.now(), PairId::of_name(group(), "a")).unwrap();
    assert_eq!(pair.state.code(), "PFUS");
    let open = open(&rig);
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(open))), Refusal::UnsentRecords);
    take_over(&mut rig);
    rig.assert_cut();
}

#[test]
fn a_group_that_one_of_its_primaries_suspends_is_taken_back_from_the_others_at_once() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, Scope::Group, &[("g", "b")]);
    rig.create();
    rig.settle();
    rig.drain();
    let own = (rig.senders[0].link, rig.senders[0].owner);
    let other = rig.senders[1].link;
    let suspended =
        Message::GroupSuspended { group: group(), state: "PSUE".to_owned(), reason: "restarted".to_owned() };
    rig.world.messages.clear();
    let now = rig.now();
    rig.secondary.message(now, own.0, own.1, suspended, &mut rig.world);
    while rig.complete() {
        let now = rig.now();
        rig.secondary.turn(now, &mut rig.world);
    }
    let stream = rig.senders[1].stream;
    let told: Vec<&Message> = rig.world.messages.iter().filter(|(to, _)| *to == other).map(|(_, it)| it).collect();
    assert!(
        matches!(&told[..], [Message::Refused { subject: Subject::Stream(it), refusal: Refusal::UnsentRecords, .. }] if *it == stream),
        "{told:?}"
    );
}

#[test]
fn a_deleted_group_leaves_its_journal_device_free() {
    let mut rig = working(2);
    let suspended = Message::GroupSuspended { group: group(), state: "PSUS".to_owned(), reason: "asked".to_owned() };
    let (now, ticket) = (rig.now(), rig.ticket());
    let pair = PairId::of_name(group(), "a");
    let early = rig.secondary.pair_delete(now, pair, ticket, &mut rig.world);
    assert!(matches!(early, Err(OperatorError::WrongState(_))), "its primary still sends");
    ask(&mut rig, 1, 1, suspended);
    for name in ["a", "b"] {
        let (now, ticket) = (rig.now(), rig.ticket());
        rig.secondary.pair_delete(now, PairId::of_name(group(), name), ticket, &mut rig.world).unwrap();
        rig.settle();
        assert!(matches!(rig.world.answers[&ticket.0], Ok(OperatorAnswer::Deleted)));
    }
    let (now, ticket) = (rig.now(), rig.ticket());
    rig.secondary.group_delete(now, group(), ticket, &mut rig.world).unwrap();
    rig.settle();
    assert!(matches!(rig.world.answers[&ticket.0], Ok(OperatorAnswer::Deleted)));
    assert!(rig.secondary.groups().is_empty());
    for volume in [VolumeId(0), VolumeId(1)] {
        rig.world.disks.remove(&volume);
    }
    rig.create();
    rig.settle();
    assert_eq!(rig.status("g").phase, GroupPhase::Active, "the device is another group's now");
}

#[test]
fn a_commit_ends_only_where_the_time_changes() {
    use super::group::cut;
    use crate::journal::Item;
    let item = |time: u64, stream: u64| Item::<std::rc::Rc<[u8]>> {
        record: Record {
            head: RecordHead {
                stamp: Stamp { time: Time(time), stream: StreamId(stream), seq: Seq(1) },
                pair: PairId(1),
                kind: RecordKind::Unmap,
                extent: Extent { lba: 0, blocks: 1 },
                payload_bytes: 0,
            },
            payload: None,
        },
        epoch: Epoch(1),
        generation: (1, 1),
        charged: true,
    };
    let each = item(1, 1).entry_bytes();
    let list = |times: &[u64]| times.iter().enumerate().map(|(stream, time)| item(*time, stream as u64)).collect();
    assert_eq!(cut(&list(&[1, 2, 3]), 3 * each), (3, false));
    assert_eq!(cut(&list(&[1, 2, 3]), 2 * each), (2, false));
    assert_eq!(cut(&list(&[1, 2, 2]), 2 * each), (1, false), "a cut between records of one time is none");
    assert_eq!(cut(&list(&[2, 2, 2]), 2 * each), (2, true), "the commit goes on");
    assert_eq!(cut(&list(&[2, 3]), each / 2), (1, false), "one record always goes");
}

#[test]
fn metadata_comes_back_as_it_was_and_no_bytes_panic() {
    let mut rig = working(3);
    take_over(&mut rig);
    let meta = rig.secondary.groups[&group()].meta.clone();
    let bytes = meta.encode();
    assert_eq!(GroupMeta::decode(&bytes), Ok(meta));
    for at in 0..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 0x40;
        assert!(GroupMeta::decode(&broken).is_err(), "byte {at}");
        assert!(GroupMeta::decode(&bytes[..at]).is_err());
        // With a checksum that fits, what is inside must still be read with care.
        let body = bytes.len() - 4;
        if at < body {
            let crc = crc32c::crc32c(&broken[..body]).to_le_bytes();
            broken[body..].copy_from_slice(&crc);
            let _ = GroupMeta::decode(&broken);
        }
    }
}

#[test]
fn discarded_regions_are_merged_and_bounded_and_never_lose_a_block() {
    let pair = PairId(1);
    let extents: Vec<_> = (0..3000).map(|at| (pair, Extent { lba: at * 20, blocks: 3 })).collect();
    let merged = super::failover::merged(extents.clone());
    assert!(merged.len() <= 1024);
    for (_, extent) in extents {
        assert!(merged.iter().any(|(_, all)| all.lba <= extent.lba && all.end() >= extent.end()));
    }
}

#[test]
fn the_journal_is_not_written_over_before_the_checkpoint_is_durable() {
    for seed in 0..10 {
        let mut rig = Rig::new(seed, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
        rig.create();
        rig.settle();
        rig.drain();
        rig.world.holds_meta = true;
        for _ in 0..60 {
            for _ in 0..14 {
                if rig.senders[0].history.len() as u64 - rig.senders[0].durable.0 < 14 {
                    rig.write(0);
                }
                for _ in 0..12 {
                    rig.deliver(0);
                }
                rig.beacon(0);
            }
            rig.mono += 10_000;
            rig.settle();
        }
        assert!(rig.status("g").reason.unwrap().contains("the journal is full"), "and that is shown");
        rig.world.holds_meta = false;
        rig.crash();
        rig.settle();
        assert_eq!(rig.status("g").phase, GroupPhase::Active);
        rig.assert_cut();
        rig.drain();
        rig.assert_cut();
    }
}

#[test]
fn a_block_that_a_takeover_gave_up_is_not_replayed_after_the_seal() {
    let mut resumed = 0;
    for seed in 0..40 {
        let mut rig = Rig::new(seed, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
        rig.create();
        rig.settle();
        rig.drain();
        for _ in 0..3 {
            rig.write(0);
            rig.drain();
        }
        // The fourth record's block reaches the device, but its flush fails.
        rig.world.failing = Some((Rig::journal_volume(0), u32::MAX));
        rig.world.failing_flushes_only = true;
        rig.world.failing_forgets = false;
        rig.write(0);
        for _ in 0..40 {
            rig.deliver(0);
            rig.complete();
            rig.turn();
        }
        assert!(rig.status("g").reason.unwrap().contains("cannot be written"));
        let before = rig.status("g").recovery_point;
        let (ticket, now) = (rig.ticket(), rig.now());
        let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
        rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
        while rig.status("g").takeover_step <= Some(TakeoverStep::Seal) {
            rig.complete();
            rig.turn();
        }
        resumed += u32::from(rig.status("g").takeover_step < Some(TakeoverStep::Close));
        rig.world.failing = None;
        rig.crash();
        rig.settle();
        let status = rig.status("g");
        assert_eq!((status.phase, status.recovery_point), (GroupPhase::TakenOver, before), "seed {seed}");
        let certificate = status.certificate.unwrap();
        assert_eq!(certificate.streams[0].last_applied, Seq(3));
        assert_eq!(certificate.streams[0].seen_not_applied, [4..=4]);
        rig.assert_cut();
    }
    assert!(resumed > 10, "{resumed} takeovers were left to the restart");
}

#[test]
fn every_start_raises_the_recovery_epoch_before_it_takes_records() {
    let mut rig = working(1);
    for start in 2..6 {
        let id = group();
        rig.crash();
        rig.settle();
        assert_eq!(rig.status("g").phase, GroupPhase::Active);
        let value = rig.world.meta.get(&meta::key_of(id)).unwrap();
        assert_eq!(GroupMeta::decode(value).unwrap().recovery_epoch, start, "durable when the group is open");
    }
}

#[test]
fn a_journal_that_is_shorter_than_the_metadata_knows_is_damaged() {
    let mut rig = working(4);
    rig.crash();
    rig.settle();
    let id = group();
    let mut meta = rig.secondary.groups[&id].meta.clone();
    meta.checkpoint.durable_end += 1;
    rig.world.meta.insert(meta::key_of(id), meta.encode());
    rig.crash();
    rig.settle();
    assert_eq!(rig.status("g").phase, GroupPhase::Failed);
}

#[test]
fn a_shared_stream_s_record_for_a_group_that_has_passed_its_time_is_never_released() {
    let mut rig = Rig::new(4, &["g", "h"]).stream(1, Scope::System, &[("g", "a"), ("h", "b")]).stream(
        2,
        Scope::Group,
        &[("g", "c")],
    );
    rig.create();
    rig.settle();
    // The group's own stream brings its limit far beyond where the shared one begins.
    let shared = rig.senders.remove(0);
    let begin = shared.base_time;
    rig.drain();
    rig.clock += 500;
    rig.drain();
    let limit = rig.status("g").limit;
    assert_eq!(limit, Time(rig.clock));
    rig.senders.insert(0, shared);
    rig.drain();
    assert!(rig.senders[0].floor >= limit, "the answer to the OPEN says where its stamps may begin");
    let head = RecordHead {
        stamp: Stamp { time: begin.after_ns(1), stream: rig.senders[0].stream, seq: Seq(1) },
        pair: PairId::of_name(group(), "a"),
        kind: RecordKind::Unmap,
        extent: Extent { lba: 0, blocks: 1 },
        payload_bytes: 0,
    };
    let now = rig.now();
    let fragment = Fragment { epoch: Epoch(1), generation: 1, head, offset: 0, body: &[] };
    rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world);
    assert!(rig.status("g").streams.iter().any(|stream| stream.error.is_some()));
    assert!(rig.status("g").limit >= limit);
    assert_eq!(rig.status("g").streams.iter().map(|stream| stream.durable).max(), Some(Seq(0)));
}

#[test]
fn what_a_volume_forgot_when_its_flush_failed_is_written_again_from_the_journal() {
    for failures in 1..4 {
        let mut rig = working(3);
        rig.world.failing = Some((VolumeId(0), failures));
        rig.world.failing_flushes_only = true;
        for _ in 0..6 {
            rig.write(0);
            rig.drain();
        }
        for _ in 0..8 {
            rig.mono += 2 * crate::journal::RETRY_NS;
            rig.settle();
        }
        assert_eq!(rig.world.failing, Some((VolumeId(0), 0)), "the errors came");
        rig.drain();
        rig.assert_cut();
        rig.crash();
        rig.settle();
        rig.assert_cut();
    }
}

#[test]
fn the_recovery_point_s_age_is_not_understated_by_a_clock_that_is_behind_and_grows_when_nothing_comes() {
    let mut rig = working(1);
    let start = rig.status("g").recovery_point_age_ns;
    // Something is heard from the future of this system's timeline; its record before is missing.
    rig.clock += 700;
    rig.write(0);
    rig.write(0);
    rig.clock -= 700;
    let (head, payload) = rig.senders[0].history[2].clone();
    let fragment = Fragment { epoch: Epoch(1), generation: 1, head, offset: 0, body: &payload };
    let now = rig.now();
    assert!(rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world));
    let age = rig.status("g").recovery_point_age_ns;
    assert!(age >= start + 690, "{age} after {start}");
    rig.mono += 5_000;
    assert_eq!(rig.status("g").recovery_point_age_ns, age + 5_000, "the link is silent, this timeline stands still");
}

#[test]
fn a_stream_that_ended_while_the_secondary_was_down_leaves_its_group_at_the_next_word() {
    for seed in 0..6 {
        for scope in [Scope::Group, Scope::System] {
            // Of a shared stream, the last number is another group's.
            let pairs: &[(&str, &str)] = if scope == Scope::System { &[("g", "b"), ("h", "c")] } else { &[("g", "b")] };
            let mut rig = Rig::new(seed, &["g", "h"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, scope, pairs);
            rig.create();
            rig.settle();
            rig.drain();
            for _ in 0..6 {
                rig.write(1);
                rig.drain();
            }
            let (stream, end) = (rig.senders[1].stream, rig.senders[1].durable);
            let close = |group: &str, rig: &Rig| Message::CloseStream {
                group: GroupId::of_name(group),
                stream,
                epoch: Epoch(1),
                end,
                end_time: Time(rig.clock),
            };
            rig.world.holds_meta = true;
            let said = close("g", &rig);
            let now = rig.now();
            rig.secondary.message(now, LinkId(2), SystemId(2), said, &mut rig.world);
            rig.turn();
            rig.kill();
            rig.world.holds_meta = false;
            rig.settle();
            // Its primary has forgotten the stream, and opens it no more.
            rig.senders.truncate(1);
            rig.drain();
            rig.clock += 100;
            rig.beacon(0);
            for group in ["g", "h"] {
                let said = close(group, &rig);
                ask(&mut rig, 2, 2, said);
            }
            rig.settle();
            let status = rig.status("g");
            assert_eq!(status.limit, Time(rig.clock), "seed {seed}, {scope:?}: nothing holds the limit back");
            assert_eq!(status.streams.len(), 1);
        }
    }
}

#[test]
fn an_end_and_the_next_epoch_in_one_train_are_no_restart_with_unsent_records() {
    let mut rig = working(3);
    let (stream, end) = (rig.senders[0].stream, rig.senders[0].durable);
    let close = Message::CloseStream { group: group(), stream, epoch: Epoch(1), end, end_time: Time(rig.clock) };
    let now = rig.now();
    rig.secondary.message(now, LinkId(1), SystemId(1), close, &mut rig.world);
    let next = OpenStream { epoch: Epoch(2), base: Seq(4), acknowledged: Seq(3), drained: None, ..open(&rig) };
    let answers = ask(&mut rig, 1, 1, Message::OpenStream(next));
    assert!(matches!(&answers[..], [Message::StreamOpened(opened)] if opened.epoch == Epoch(2)), "{answers:?}");
    assert_eq!(rig.status("g").phase, GroupPhase::Active);
}

#[test]
fn a_frozen_group_s_limit_stays_though_its_shared_streams_go_on_for_another_group() {
    let mut rig = Rig::new(4, &["g", "h"]).stream(1, Scope::System, &[("g", "a"), ("h", "b")]).stream(
        2,
        Scope::System,
        &[("g", "c"), ("h", "d")],
    );
    rig.create();
    rig.settle();
    rig.drain();
    for index in [0, 1, 0] {
        rig.write(index);
        rig.drain();
    }
    // The second primary was started anew and says so to the first group only.
    let sender = &rig.senders[1];
    let last = sender.durable;
    let restarted = OpenStream {
        stream: sender.stream,
        scope: Scope::System,
        epoch: Epoch(2),
        base: last.next(),
        acknowledged: last,
        generation: sender.generations[&group()],
        ..open(&rig)
    };
    let answers = ask(&mut rig, 2, 2, Message::OpenStream(restarted));
    assert_eq!(refusal(&answers), Refusal::UnsentRecords);
    rig.settle();
    let (frozen, other) = (rig.status("g"), rig.status("h").limit);
    rig.clock += 100;
    rig.beacon(0);
    rig.beacon(1);
    rig.settle();
    assert!(rig.status("h").limit > other, "the streams go on");
    let status = rig.status("g");
    assert_eq!((status.phase, status.limit), (GroupPhase::Frozen, frozen.limit));
    assert_eq!(status.recovery_point, frozen.recovery_point);
}

#[test]
fn what_a_broken_stream_gave_is_never_durable_and_its_next_epoch_is_not_believed() {
    let mut rig = Rig::new(4, &["g", "h"]).stream(1, Scope::System, &[("g", "a"), ("h", "b")]).stream(
        2,
        Scope::Group,
        &[("g", "c")],
    );
    rig.create();
    rig.settle();
    // The group's own stream brings its limit far beyond where the shared one begins.
    let shared = rig.senders.remove(0);
    let begin = shared.base_time;
    rig.drain();
    rig.clock += 500;
    rig.drain();
    rig.senders.insert(0, shared);
    rig.drain();
    let stream = rig.senders[0].stream;
    // The second record, for the other group, waits in the ring until the first one comes, which the group has passed.
    for (seq, group_name, pair) in [(2, "h", "b"), (1, "g", "a")] {
        let head = RecordHead {
            stamp: Stamp { time: begin.after_ns(seq), stream, seq: Seq(seq) },
            pair: PairId::of_name(GroupId::of_name(group_name), pair),
            kind: RecordKind::Unmap,
            extent: Extent { lba: 0, blocks: 1 },
            payload_bytes: 0,
        };
        let fragment = Fragment { epoch: Epoch(1), generation: 1, head, offset: 0, body: &[] };
        let now = rig.now();
        assert!(rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world));
    }
    assert_eq!(rig.secondary.intakes[&stream].account.held(), 0, "what is thrown away holds no memory");
    rig.world.messages.clear();
    // Whatever becomes durable elsewhere, the broken stream is looked at again.
    rig.secondary.update_durable();
    assert_eq!(rig.secondary.stream_durable(stream), Some(Seq(0)));
    let again = OpenStream { scope: Scope::System, ..open(&rig) };
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::OpenStream(again.clone()))), Refusal::Never);
    for last in [0, 2] {
        let drained = Some((Epoch(1), Seq(last)));
        let next = OpenStream { epoch: Epoch(2), base: Seq(3), drained, acknowledged: Seq(2), ..again.clone() };
        let answers = ask(&mut rig, 1, 1, Message::OpenStream(next));
        let is_refused = |it: &Message| matches!(it, Message::Refused { refusal: Refusal::UnsentRecords, .. });
        assert!(answers.iter().any(is_refused), "{answers:?}");
    }
    assert_eq!(rig.status("g").phase, GroupPhase::Frozen);
}

#[test]
fn the_consent_to_a_split_is_durable_with_the_seal() {
    for accept_split in [true, false] {
        let mut rig = working(3);
        assert!(!rig.status("g").split_accepted);
        let (ticket, now) = (rig.ticket(), rig.now());
        let consent = TakeoverConsent { old_primary_fenced: !accept_split, accept_split };
        rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
        rig.settle();
        assert_eq!(rig.status("g").split_accepted, accept_split);
        rig.crash();
        rig.settle();
        assert_eq!((rig.status("g").phase, rig.status("g").split_accepted), (GroupPhase::TakenOver, accept_split));
    }
}

#[test]
fn a_journal_block_that_goes_bad_before_it_is_applied_fails_the_group_and_a_takeover_with_a_reason() {
    for (byte, takes_over) in [(90, false), (90, true), (3, false), (3, true)] {
        // Three commits that no checkpoint has covered.
        let mut rig = Rig::new(8, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
        rig.config.checkpoint_interval_ns = u64::MAX / 2;
        rig.secondary = Secondary::new(rig.config, 1);
        rig.create();
        rig.settle();
        rig.drain();
        let mut starts = Vec::new();
        for _ in 0..3 {
            let Phase::Ready(ready) = &rig.secondary.groups[&group()].phase else { panic!() };
            starts.push(ready.journal.committed_end());
            rig.write(0);
            rig.drain();
        }
        rig.crash();
        while rig.status("g").phase != GroupPhase::Active {
            rig.complete();
            rig.turn();
        }
        // The search found all three whole; they are read once more to be applied.
        let lba = 8 + starts[1];
        let journal = rig.world.disks.get_mut(&Rig::journal_volume(0)).unwrap();
        let mut block: [u8; BLOCK] = journal.read(Extent { lba, blocks: 1 }).try_into().unwrap();
        block[byte] ^= 4;
        journal.put(lba, block);
        let (ticket, now) = (rig.ticket(), rig.now());
        if takes_over {
            let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
            rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
        }
        rig.settle();
        let status = rig.status("g");
        assert_eq!(status.phase, GroupPhase::Failed);
        let at = format!("damaged at block {}", starts[1]);
        assert!(!status.consistent && status.reason.as_ref().is_some_and(|it| it.contains(&at)), "{status:?}");
        if takes_over {
            let answer = &rig.world.answers[&ticket.0];
            assert!(matches!(answer, Err(OperatorError::WrongState(text)) if text.contains(&at)), "{answer:?}");
        }
    }
}
