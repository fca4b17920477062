//! Streams that open, close and end, and groups that stop.

use super::*;

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
        matches!(&told[..], [Message::Refused { subject, refusal: Refusal::UnsentRecords, .. }]
            if *subject == Subject::Stream(stream, Epoch(1))),
        "{told:?}"
    );
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
fn the_end_of_a_stream_that_is_announced_while_the_journal_is_searched_is_kept() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, Scope::Group, &[("g", "b")]);
    rig.create();
    rig.settle();
    rig.drain();
    rig.write(1);
    rig.drain();
    let (stream, end) = (rig.senders[1].stream, rig.senders[1].durable);
    let close = Message::CloseStream { group: group(), stream, epoch: Epoch(1), end, end_time: Time(rig.clock) };
    rig.crash();
    assert_eq!(rig.status("g").phase, GroupPhase::Opening);
    let now = rig.now();
    rig.secondary.message(now, LinkId(2), SystemId(2), close, &mut rig.world);
    rig.settle();
    assert_eq!(rig.status("g").streams.len(), 1, "it left, and holds nothing back");
}

#[test]
fn the_list_of_a_shared_streams_groups_shrinks_when_one_leaves() {
    let mut rig = Rig::new(4, &["g", "h"]).stream(1, Scope::System, &[("g", "a"), ("h", "b")]);
    rig.create();
    rig.settle();
    rig.drain();
    let (stream, end) = (rig.senders[0].stream, rig.senders[0].durable);
    let listed = |rig: &Rig| rig.world.meta[&super::super::peers::stream_key(stream)].len() / 8;
    assert_eq!(listed(&rig), 2);
    for (left, name) in [(1, "g"), (0, "h")] {
        let group = GroupId::of_name(name);
        let close = Message::CloseStream { group, stream, epoch: Epoch(1), end, end_time: Time(rig.clock) };
        ask(&mut rig, 1, 1, close);
        rig.settle();
        assert_eq!(listed(&rig), left);
    }
}
