//! What arrives and must not count.

use super::*;

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

/// Two groups that share stream 1, and stream 2 for one of them.
fn sharing(second: &'static str) -> Rig {
    let shared = [("g", "a"), ("h", "b")];
    let mut rig = Rig::new(4, &["g", "h"]).stream(1, Scope::System, &shared).stream(2, Scope::Group, &[(second, "c")]);
    rig.create();
    rig.settle();
    rig
}

#[test]
fn a_shared_stream_s_record_for_a_group_that_has_passed_its_time_is_never_released() {
    let mut rig = sharing("g");
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
fn what_had_come_of_a_shared_stream_for_a_group_that_is_taken_over_is_given_up_when_the_run_gets_there() {
    let mut rig = Rig::new(4, &["g", "h"]).stream(1, Scope::System, &[("g", "a"), ("h", "b")]);
    rig.create();
    rig.settle();
    rig.drain();
    for pair in [1, 0] {
        rig.write_at(0, pair, RecordKind::Write, Extent { lba: 0, blocks: 1 });
    }
    // The second one is here, the first, the other group's, is not.
    let (head, payload) = rig.senders[0].history.last().unwrap().clone();
    let fragment = Fragment { epoch: Epoch(1), generation: 1, head, offset: 0, body: &payload };
    let now = rig.now();
    assert!(rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world));
    // The first comes before the seal is durable.
    rig.world.holds_meta = true;
    let (ticket, consent) = (rig.ticket(), TakeoverConsent { old_primary_fenced: true, accept_split: false });
    rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
    for _ in 0..20 {
        rig.turn();
        rig.deliver(0);
        rig.complete();
    }
    rig.world.holds_meta = false;
    rig.drain();
    let intake = &rig.secondary.intakes[&rig.senders[0].stream];
    assert_eq!((intake.durable, intake.account.held()), (head.stamp.seq, 0));
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
    let mut rig = sharing("g");
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
    rig.secondary.update_durable(stream);
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
fn a_primary_whose_clock_is_ahead_for_longer_than_a_moment_is_told_so() {
    let mut rig = working(1);
    let head = RecordHead {
        stamp: Stamp { time: rig.now().time.after_ns(20_000_000), stream: rig.senders[0].stream, seq: Seq(2) },
        pair: PairId::of_name(group(), "a"),
        kind: RecordKind::Unmap,
        extent: Extent { lba: 0, blocks: 1 },
        payload_bytes: 0,
    };
    let mut told = Vec::new();
    for _ in 0..120 {
        let at = rig.now().time.after_ns(20_000_000);
        let head = RecordHead { stamp: Stamp { time: at, ..head.stamp }, ..head };
        let fragment = Fragment { epoch: Epoch(1), generation: 1, head, offset: 0, body: &[] };
        let now = rig.now();
        assert!(!rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world));
        rig.mono += 100_000_000;
        rig.settle();
        told.extend(std::mem::take(&mut rig.heard));
    }
    let Some(Message::Trouble { text, pair: None, .. }) = told.first() else { panic!("{told:?}") };
    assert!(text.contains("clock is 20 ms ahead"), "{text}");
    assert_eq!(rig.status("g").reason.as_deref(), Some(text.as_str()));
}

/// Two primaries with a stream each that both groups share.
fn shared_by_two() -> Rig {
    let mut rig = Rig::new(4, &["g", "h"]).stream(1, Scope::System, &[("g", "a"), ("h", "b")]).stream(
        2,
        Scope::System,
        &[("g", "c"), ("h", "d")],
    );
    rig.resyncs = true;
    rig.create();
    rig.settle();
    rig.drain();
    rig
}

/// A record of the first primary comes whole.
fn comes(rig: &mut Rig, at: usize) {
    let sender = &rig.senders[0];
    let (head, payload) = sender.history[at].clone();
    let fragment = Fragment { epoch: sender.epoch, generation: sender.generation(), head, offset: 0, body: &payload };
    let now = rig.now();
    assert!(rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world));
}

/// The second primary suspends the first group, and has said so of the other one not yet.
fn suspends_the_first(rig: &mut Rig) {
    let (state, reason) = ("PSUS".to_owned(), "by its operator".to_owned());
    let said = Message::GroupSuspended { group: group(), state, reason };
    let now = rig.now();
    rig.secondary.message(now, LinkId(2), SystemId(2), said, &mut rig.world);
    assert_eq!(rig.status("g").phase, GroupPhase::Suspended);
}

/// Of three records of the first primary the second one is the suspended group's.
fn never_durable(was_in_the_run: bool) {
    let mut rig = shared_by_two();
    let (durable, at) = (rig.senders[0].durable, rig.senders[0].history.len());
    for pair in [1, 0, 1] {
        rig.write_at(0, pair, RecordKind::Write, Extent { lba: 0, blocks: 1 });
    }
    let [before, behind] = [durable.next(), durable.next().next().next()];
    // The other primary's stream says nothing yet, so nothing is released.
    comes(&mut rig, at + 1);
    if was_in_the_run {
        comes(&mut rig, at);
    }
    rig.turn();
    suspends_the_first(&mut rig);
    if !was_in_the_run {
        comes(&mut rig, at);
    }
    comes(&mut rig, at + 2);
    rig.clock += 100;
    rig.beacon(0);
    rig.beacon(1);
    rig.settle();
    let stream = rig.senders[0].stream;
    let intake = &rig.secondary.intakes[&stream];
    assert_eq!((intake.rx.run(), intake.account.held()), (behind, 0));
    assert_eq!(rig.secondary.stream_durable(stream), Some(before));
    assert_eq!(rig.senders[0].durable, before, "its primary keeps it, and knows how old the copy is");
}

#[test]
fn what_a_suspended_group_throws_away_of_a_shared_stream_is_never_durable_nor_what_is_behind_it() {
    never_durable(true);
}

#[test]
fn what_had_come_of_a_shared_stream_for_a_suspended_group_is_never_durable_when_the_run_gets_there() {
    never_durable(false);
}

#[test]
fn a_group_that_is_suspended_in_its_resync_still_holds_its_image_back_to_those_that_share_a_stream_with_it() {
    let mut rig = shared_by_two();
    // The second primary resyncs the first group alone.
    let base = rig.status("g").limit;
    rig.senders[1].pairs.pop();
    rig.resync(1);
    for _ in 0..2 {
        rig.hello();
        rig.settle();
    }
    assert_eq!(rig.senders[0].held, base);
    rig.clock += 100;
    let at = rig.senders[0].history.len();
    rig.write_at(0, 0, RecordKind::Write, Extent { lba: 0, blocks: 1 });
    comes(&mut rig, at);
    rig.beacon(0);
    rig.beacon(1);
    rig.settle();
    assert_eq!(rig.senders[0].durable, rig.senders[0].last());
    suspends_the_first(&mut rig);
    rig.beacon(0);
    rig.settle();
    assert_eq!(rig.senders[0].held, base, "what came in the resync is durable, and not in the image");
}

#[test]
fn a_number_that_comes_again_after_a_crash_and_waits_for_another_groups_is_not_called_lost() {
    let mut rig = sharing("h");
    rig.drain();
    let (durable, at) = (rig.senders[0].durable, rig.senders[0].history.len());
    for pair in [1, 0] {
        rig.write_at(0, pair, RecordKind::Write, Extent { lba: 0, blocks: 1 });
    }
    let [other, mine] = [durable.next(), durable.next().next()];
    comes(&mut rig, at);
    comes(&mut rig, at + 1);
    rig.clock += 100;
    // The other group's limit stays, because its second stream says nothing.
    rig.beacon(0);
    rig.settle();
    assert_eq!(rig.senders[0].durable, durable);
    rig.crash();
    rig.settle();
    rig.hello();
    rig.settle();
    comes(&mut rig, at + 1);
    rig.settle();
    let stream = rig.senders[0].stream;
    assert_eq!(rig.secondary.intakes[&stream].rx.run(), other.previous(), "it waits above the run");
    take_over(&mut rig);
    let certificate = rig.status("g").certificate.unwrap();
    assert_eq!((certificate.streams[0].last_applied, certificate.streams[0].seen_not_applied.len()), (mine, 0));
}
