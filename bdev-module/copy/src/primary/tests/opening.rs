//! Pairs come to be and go.

use super::*;
use crate::message::{Content, Refusal, Subject};

fn refuse(rig: &mut Rig, group: GroupId, subject: Subject, refusal: Refusal) {
    let text = "the secondary's sentence".to_string();
    rig.hear(Message::Refused { group, subject, refusal, text });
}

#[test]
fn a_pair_is_established_durably_before_its_first_stamp() {
    let mut rig = Rig::new();
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    let write = rig.write(pair, 0, 1, 1);
    rig.run();
    assert!(matches!(rig.answered(0), Ok(OperatorAnswer::PairCreated(made)) if *made == pair));
    let push = rig.position(|did| matches!(did, Did::Push(_))).expect("the write went on");
    let durable = |prefix: &str, nth: usize| {
        let all = rig.world.did.iter().enumerate();
        let of_key = all.filter(|(_, did)| matches!(did, Did::Durable(key) if key.starts_with(prefix)));
        of_key.map(|(at, _)| at).nth(nth).unwrap()
    };
    let open = rig.position(|did| matches!(did, Did::Say(Message::OpenStream(_)))).unwrap();
    assert!(durable("primary/stream", 0) < open, "the epoch is durable before the secondary hears of it");
    assert!(durable("primary/stream", 1) < push && durable("primary/pair", 0) < push);
    rig.pass(MS);
    assert_eq!(rig.outcome(write), Some(Ok(())));
}

#[test]
fn the_first_stamp_is_above_the_base_time_that_the_secondary_answers() {
    let mut rig = Rig::new();
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    rig.keep_all();
    let Some(Message::OpenStream(open)) = rig.said().pop() else { panic!("asked to open") };
    let Message::StreamOpened(mut opened) = Rig::opened(&open) else { unreachable!() };
    opened.base_time = rig.now.time.after_ns(SECOND);
    rig.heard = rig.world.did.len();
    rig.hear(Message::StreamOpened(opened));
    rig.run();
    rig.mark(pair);
    let write = rig.write(pair, 0, 1, 1);
    assert_eq!(rig.pushed()[0].stamp.time, opened.base_time.after_ns(1));
    rig.locals();
    rig.pass(SECOND);
    assert_eq!(rig.outcome(write), None, "the timeline is not there yet");
    rig.pass(200);
    assert_eq!(rig.outcome(write), Some(Ok(())));
}

#[test]
fn a_base_time_out_of_reach_is_not_waited_for() {
    let mut rig = Rig::new();
    let group = rig.group("g", Scope::Group);
    rig.pair(group, "p", 0);
    rig.keep_all();
    let Some(Message::OpenStream(open)) = rig.said().pop() else { panic!("asked to open") };
    let Message::StreamOpened(mut opened) = Rig::opened(&open) else { unreachable!() };
    opened.base_time = rig.now.time.after_ns(7200 * SECOND);
    rig.hear(Message::StreamOpened(opened));
    assert!(matches!(rig.answered(0), Err(OperatorError::WrongState(text)) if text.contains("clocks")));
    assert!(rig.primary.stamped_up_to() <= rig.now.time);
}

#[test]
fn a_volume_must_be_read_and_found_empty() {
    let mut rig = Rig::new();
    let group = rig.group("g", Scope::Group);
    let mut config = Rig::pair_config(group, "p", 0);
    config.initial = Initial::Empty;
    let pair = rig.primary.pair_create(rig.now, config.clone(), Ticket(1), &mut rig.world).unwrap();
    assert_eq!(rig.show_pair(pair).check.unwrap().total_bytes, 64 * 512);
    rig.run();
    assert!(rig.answered(1).is_ok());
    let joins = rig.said().into_iter().filter_map(|said| match said {
        Message::JoinPair(join) => Some(join.content),
        _ => None,
    });
    assert_eq!(joins.collect::<Vec<_>>(), [Content::Empty]);

    rig.world.disks.get_mut(&VolumeId(1)).unwrap()[40 * 512 + 3] = 1;
    (config.name, config.volume) = ("q".to_string(), VolumeId(1));
    let pair = rig.primary.pair_create(rig.now, config.clone(), Ticket(2), &mut rig.world).unwrap();
    rig.run();
    assert!(matches!(rig.answered(2), Err(OperatorError::Invalid(text)) if text.contains("block 40")));
    assert!(!rig.primary.has_pair(pair));

    rig.world.failing_reads.insert(VolumeId(2));
    (config.name, config.volume) = ("r".to_string(), VolumeId(2));
    rig.primary.pair_create(rig.now, config, Ticket(3), &mut rig.world).unwrap();
    rig.run();
    assert!(matches!(rig.answered(3), Err(OperatorError::Device(_))));
}

#[test]
fn a_secondary_that_is_not_ready_is_asked_again() {
    let mut rig = Rig::new();
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    rig.keep_all();
    let stream = rig.show_pair(pair).stream;
    let subject = rig.opening(stream);
    refuse(&mut rig, group, subject, Refusal::NotYet);
    let waiting = rig.show_pair(pair).waiting.unwrap();
    assert_eq!((waiting.owner, waiting.reason.as_str()), ("secondary", "the secondary's sentence"));
    assert!(waiting.timeout.is_some());
    rig.heard = rig.world.did.len();
    rig.pass(100 * MS);
    assert!(!rig.secondary());
    rig.pass(150 * MS);
    rig.run();
    assert_eq!(rig.state(pair), PairState::Pair);
}

#[test]
fn a_refusal_of_an_earlier_epoch_is_not_the_answer_to_this_one() {
    // The group was deleted and created again at both sites within the time that a message takes.
    let mut rig = Rig::new();
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    rig.keep_all();
    let Subject::Stream(stream, epoch) = rig.opening(rig.show_pair(pair).stream) else { unreachable!() };
    for refusal in [Refusal::UnsentRecords, Refusal::Never, Refusal::LostData] {
        refuse(&mut rig, group, Subject::Stream(stream, Epoch(epoch.0 - 1)), refusal);
    }
    rig.run();
    assert_eq!(rig.state(pair), PairState::Pair);
    assert!(rig.answered(0).is_ok());
}

#[test]
fn a_refused_pair_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    let write = rig.write(pair, 0, 1, 1);
    let behind = rig.write(pair, 0, 1, 1);
    rig.keep_all();
    let stream = rig.show_pair(pair).stream;
    let subject = rig.opening(stream);
    refuse(&mut rig, group, subject, Refusal::Never);
    assert!(matches!(rig.answered(0), Err(OperatorError::WrongState(text)) if text.contains("sentence")));
    assert!(!rig.primary.has_pair(pair));
    assert_eq!(rig.outcome(write), Some(Err(HostError::Aborted)));
    assert_eq!(rig.outcome(behind), Some(Err(HostError::Aborted)));
    assert!(rig.world.did.iter().all(|did| !matches!(did, Did::Local(..))));
    assert!(rig.primary.requests.is_empty());
    assert!(rig.primary.streams.is_empty());
    rig.primary.group_delete(rig.now, group, &mut rig.world).unwrap();
}

#[test]
fn an_operator_is_told_after_half_a_minute_and_the_pair_goes_on() {
    let mut rig = Rig::new();
    rig.world.up = false;
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    rig.keep_all();
    rig.pass(29 * SECOND);
    assert!(rig.world.operators.is_empty());
    rig.pass(SECOND);
    assert!(matches!(rig.answered(0), Err(OperatorError::TimedOut(text)) if text.contains("no session")));
    rig.world.up = true;
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    rig.run();
    assert_eq!(rig.state(pair), PairState::Pair);
}

#[test]
fn hosts_run_on_locally_when_their_pair_is_not_opened_in_time() {
    let mut rig = Rig::new();
    rig.world.up = false;
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    let write = rig.write(pair, 0, 1, 1);
    let read = rig.read(pair, 0, 1);
    rig.locals();
    assert_eq!(rig.outcome(read), Some(Ok(())), "reads pass");
    rig.keep_all();
    rig.pass(9 * SECOND);
    assert_eq!(rig.state(pair), PairState::Copy);
    rig.pass(SECOND);
    assert_eq!(rig.state(pair), PairState::SuspendedError);
    assert!(rig.world.pending.is_empty(), "not before the suspension is durable");
    rig.keep_all();
    rig.locals();
    rig.pass(MS);
    assert_eq!(rig.outcome(write), Some(Ok(())));
    assert!(rig.pushed().is_empty());
    // After a restart it stays so: a declaration made before hosts wrote is not believed again.
    let mut rig = rig.crash();
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    assert_eq!(rig.state(pair), PairState::SuspendedError);
}

#[test]
fn a_new_session_asks_again_and_resumes_from_what_is_durable() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
    let stream = rig.show_pair(pairs[0]).stream;
    for lba in 0..5 {
        rig.write(pairs[0], lba, 1, 1);
    }
    rig.durable(stream, 2);
    rig.primary.link_down(rig.now, LINK, &mut rig.world);
    assert!(!rig.standing(stream).started);
    rig.pass(60 * MS);
    let beacons = rig.beacons().len();
    rig.pass(60 * MS);
    assert_eq!(rig.beacons().len(), beacons, "a stream that is not started sends no beacon");
    rig.write(pairs[0], 9, 1, 1);
    rig.heard = rig.world.did.len();
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    let Some(Message::OpenStream(open)) = rig.said().pop() else { panic!("asked again") };
    assert_eq!((open.acknowledged, open.group), (Seq(2), group));
    let Message::StreamOpened(mut opened) = Rig::opened(&open) else { unreachable!() };
    opened.durable = Seq(4);
    rig.hear(Message::StreamOpened(opened));
    let starts = |did: &&Did| matches!(did, Did::Start(..));
    let started = rig.world.did.iter().rfind(starts);
    assert_eq!(started, Some(&Did::Start(stream, Epoch(1), Seq(4))));
    assert_eq!(rig.world.records[&stream].len(), 2);
}

#[test]
fn a_stream_that_the_secondary_ends_for_breaking_the_protocol_suspends_its_group_with_the_reason() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
    let stream = rig.show_pair(pairs[0]).stream;
    rig.write(pairs[0], 1, 1, 1);
    let subject = rig.opening(stream);
    refuse(&mut rig, group, subject, Refusal::NotYet);
    assert_eq!(rig.state(pairs[0]), PairState::Pair, "what is open is not put off");
    let text = "the stream broke the protocol and is stopped".to_owned();
    rig.hear(Message::Refused { group, subject, refusal: Refusal::Never, text: text.clone() });
    rig.run();
    assert_eq!(rig.state(pairs[0]), PairState::SuspendedError);
    assert!(rig.show(group).streams[0].broken);
    assert_eq!(rig.show(group).reason, Some(text));
}

#[test]
fn a_secondary_that_lost_what_it_had_acknowledged_is_never_used_again() {
    for explicit in [true, false] {
        let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
        let stream = rig.show_pair(pairs[0]).stream;
        for lba in 0..5 {
            rig.write(pairs[0], lba, 1, 1);
        }
        rig.durable(stream, 3);
        rig.primary.link_up(rig.now, LINK, &mut rig.world);
        let Some(Message::OpenStream(open)) = rig.said().pop() else { panic!("asked again") };
        if explicit {
            let subject = rig.opening(stream);
            refuse(&mut rig, group, subject, Refusal::LostData);
        } else {
            let Message::StreamOpened(mut opened) = Rig::opened(&open) else { unreachable!() };
            opened.durable = Seq(2);
            rig.hear(Message::StreamOpened(opened));
        }
        assert_eq!(rig.state(pairs[0]), PairState::SuspendedError);
        assert!(rig.show(group).streams[0].broken);
        rig.run();
        assert_eq!(rig.state(pairs[0]), PairState::SuspendedError);
    }
}

#[test]
fn a_report_of_what_was_never_sent_is_counted_and_passed_over() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    let stream = rig.show_pair(pairs[0]).stream;
    rig.write(pairs[0], 0, 1, 1);
    rig.durable(stream, 7);
    assert_eq!((rig.standing(stream).durable, rig.primary.misdeeds()), (Seq(0), 1));
}

#[test]
fn a_volume_has_the_first_identity_that_it_was_given_until_its_pair_is_deleted() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    let known = |rig: &Rig| crate::identity::of_pair(pairs[0], &rig.world);
    rig.primary.identify(pairs[0], [1; 16], &mut rig.world);
    rig.primary.identify(pairs[0], [2; 16], &mut rig.world);
    rig.run();
    assert_eq!((known(&rig), &rig.world.changed[..]), (Some([1; 16]), &pairs[..]));
    rig.primary.pair_delete(rig.now, pairs[0], Ticket(50), &mut rig.world).unwrap();
    rig.run();
    rig.turn();
    assert!(!rig.primary.has_pair(pairs[0]));
    assert_eq!(known(&rig), None);
}

#[test]
fn the_secondary_hears_a_volume_s_identity_before_the_pair_joins_and_in_every_session() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
    let says =
        |pair: PairId| move |did: &Did| matches!(did, Did::Say(Message::Identity { pair: of, .. }) if *of == pair);
    // A pair from before there were identities: it has joined.
    rig.primary.identify(pairs[0], [1; 16], &mut rig.world);
    rig.run();
    assert_eq!(rig.position(says(pairs[0])), None);
    rig.world.up = false;
    rig.primary.link_down(rig.now, LINK, &mut rig.world);
    rig.world.up = true;
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    rig.run();
    assert!(rig.position(says(pairs[0])).is_some());
    // One that joins a stream that is open.
    let late = PairId::of_name(group, "late");
    rig.primary.identify(late, [2; 16], &mut rig.world);
    assert_eq!(rig.pair(group, "late", 3), late);
    rig.run();
    let joins = |did: &Did| matches!(did, Did::Say(Message::JoinPair(join)) if join.pair == late);
    let (said, joined) = (rig.position(says(late)).expect("it is said"), rig.position(joins).expect("it joins"));
    assert!(said < joined, "durable there before the pair is");
}

#[test]
fn a_deleted_pair_drains_then_says_goodbye() {
    for scope in [Scope::Pair, Scope::Group] {
        let (mut rig, group, pairs) = Rig::copying(scope, 2);
        let stream = rig.show_pair(pairs[0]).stream;
        let write = rig.write(pairs[0], 0, 1, 1);
        rig.primary.pair_delete(rig.now, pairs[0], Ticket(50), &mut rig.world).unwrap();
        let late = rig.write(pairs[0], 0, 1, 1);
        assert_eq!(rig.outcome(late), Some(Err(HostError::Aborted)));
        rig.locals();
        rig.pass(MS);
        assert_eq!(rig.outcome(write), Some(Ok(())));
        assert!(rig.primary.has_pair(pairs[0]), "its record is not at the secondary yet");
        let stamp = rig.pushed()[0].stamp;
        rig.durable(stream, stamp.seq.0);
        rig.turn();
        assert!(matches!(rig.answered(50), Ok(OperatorAnswer::Deleted)));
        assert!(!rig.primary.has_pair(pairs[0]));
        let said = rig.said();
        let at = said.iter().find_map(|said| match said {
            Message::LeavePair { pair, at, .. } if *pair == pairs[0] => Some(*at),
            _ => None,
        });
        assert!(at.unwrap() > stamp.time);
        let closed = said.iter().any(|said| {
            matches!(said, Message::CloseStream { stream: ended, end, .. }
            if *ended == stream && *end == stamp.seq)
        });
        assert_eq!(closed, scope == Scope::Pair);
        // The other pair goes on; the end of the stream is said again in the next session.
        rig.write(pairs[1], 0, 1, 1);
        assert_eq!(rig.pushed().len(), 2);
        let before = rig.said().len();
        rig.primary.link_up(rig.now, LINK, &mut rig.world);
        let again = rig.said()[before..].iter().any(|said| matches!(said, Message::CloseStream { .. }));
        assert_eq!(again, scope == Scope::Pair);
        assert!(rig.primary.group_delete(rig.now, group, &mut rig.world).is_err());
    }
}

#[test]
fn a_pair_that_cannot_drain_is_not_deleted() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    rig.primary.pair_delete(rig.now, pairs[0], Ticket(50), &mut rig.world).unwrap();
    rig.pass(31 * SECOND);
    assert!(matches!(rig.answered(50), Err(OperatorError::TimedOut(_))));
    let write = rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    rig.pass(MS);
    assert_eq!(rig.outcome(write), Some(Ok(())));
}

#[test]
fn a_pair_created_again_after_deletion_begins_a_new_epoch() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
    rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    let stream = rig.show_pair(pairs[0]).stream;
    rig.durable(stream, 1);
    rig.pass(MS);
    rig.primary.pair_delete(rig.now, pairs[0], Ticket(50), &mut rig.world).unwrap();
    rig.run();
    assert!(rig.answered(50).is_ok());
    rig.world.operators.clear();
    rig.pair(group, "p0", 0);
    rig.run();
    rig.mark(pairs[0]);
    rig.write(pairs[0], 0, 1, 1);
    assert_eq!(rig.standing(stream).epoch, Epoch(2));
    assert_eq!(rig.pushed()[1].stamp.seq, Seq(1));
}

#[test]
fn names_volumes_and_scopes_are_checked() {
    let (mut rig, group, _) = Rig::copying(Scope::Group, 1);
    let mut create = |name: &str, volume, blocks| {
        let mut config = Rig::pair_config(group, name, volume);
        config.geometry.blocks = blocks;
        rig.primary.pair_create(rig.now, config, Ticket(9), &mut rig.world).unwrap_err()
    };
    assert!(matches!(create("p0", 1, 64), OperatorError::Exists(_)));
    assert!(matches!(create("q", 0, 64), OperatorError::WrongState(_)));
    assert!(matches!(create("q", 1, 0), OperatorError::Invalid(_)));
    assert!(!rig.world.operators.contains_key(&9));
    let again = rig.primary.group_create(rig.now, Rig::group_config("g", Scope::Group), &mut rig.world);
    assert!(matches!(again, Err(OperatorError::Exists(_))));
    let mut rig = rig.crash();
    let other = rig.primary.group_create(rig.now, Rig::group_config("g", Scope::Pair), &mut rig.world);
    assert!(matches!(other, Err(OperatorError::Invalid(text)) if text.contains("Group") && text.contains("Pair")));
}

#[test]
fn a_group_without_pairs_stays_in_a_shared_stream_until_it_is_deleted() {
    let (mut rig, _, first) = Rig::copying(Scope::System, 1);
    let second = rig.group("h", Scope::System);
    let other = rig.pair(second, "q", 5);
    rig.run();
    let closes = |rig: &Rig| rig.said().iter().filter(|said| matches!(said, Message::CloseStream { .. })).count();
    rig.primary.pair_delete(rig.now, other, Ticket(50), &mut rig.world).unwrap();
    rig.run();
    assert!(rig.answered(50).is_ok());
    assert_eq!(closes(&rig), 0, "closed, it could not be opened again in this epoch");
    rig.world.operators.clear();
    let other = rig.pair(second, "q", 5);
    rig.run();
    rig.mark(other);
    rig.write(other, 0, 1, 1);
    rig.write(first[0], 0, 1, 1);
    assert_eq!(rig.pushed().iter().map(|head| head.stamp.seq.0).collect::<Vec<_>>(), [1, 2]);
    rig.locals();
    rig.durable(rig.show_pair(other).stream, 2);
    rig.pass(MS);
    rig.primary.pair_delete(rig.now, other, Ticket(51), &mut rig.world).unwrap();
    rig.run();
    rig.primary.group_delete(rig.now, second, &mut rig.world).unwrap();
    assert_eq!(closes(&rig), 1);
    rig.write(first[0], 0, 1, 1);
    assert_eq!(rig.pushed()[2].stamp.seq, Seq(3));
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
}

#[test]
fn a_shared_stream_resumes_when_all_its_groups_are_open_again_but_waits_for_no_new_one() {
    let (mut rig, _, first) = Rig::copying(Scope::System, 1);
    let second = rig.group("h", Scope::System);
    rig.pair(second, "q", 5);
    rig.run();
    let stream = rig.show_pair(first[0]).stream;
    for lba in 0..4 {
        rig.write(first[0], lba, 1, 1);
    }
    rig.durable(stream, 1);
    rig.primary.link_down(rig.now, LINK, &mut rig.world);
    // A third group comes while the link is down; the secondary does not know it yet.
    let third = rig.group("i", Scope::System);
    rig.pair(third, "r", 6);
    rig.keep_all();
    let (before, starts) = (rig.world.did.len(), |rig: &Rig, from: usize| {
        let starts = rig.world.did[from..].iter().filter(|did| matches!(did, Did::Start(..)));
        starts.cloned().collect::<Vec<_>>()
    });
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    let opens: Vec<OpenStream> = rig.world.did[before..]
        .iter()
        .filter_map(|did| match did {
            Did::Say(Message::OpenStream(open)) if open.group != third => Some(open.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(opens.len(), 2);
    for (open, durable) in opens.iter().zip([3, 2]) {
        assert!(starts(&rig, before).is_empty(), "a group that may have records is not open yet");
        let Message::StreamOpened(mut opened) = Rig::opened(open) else { unreachable!() };
        opened.durable = Seq(durable);
        rig.hear(Message::StreamOpened(opened));
    }
    assert_eq!(starts(&rig, before), [Did::Start(stream, Epoch(1), Seq(2))]);
}

#[test]
fn an_answer_to_an_earlier_join_is_not_taken_for_one_to_the_resyncs() {
    let mut rig = Rig::new();
    let quiet = |rig: &mut Rig| {
        rig.turn();
        while rig.local() || rig.keep() {
            rig.turn();
        }
    };
    let open = |rig: &mut Rig| {
        let said = rig.said().into_iter().rev();
        let asked =
            said.into_iter().find_map(|said| if let Message::OpenStream(open) = said { Some(open) } else { None });
        rig.hear(Rig::opened(&asked.expect("it asks")));
        quiet(rig);
    };
    let joins = |rig: &Rig| rig.said().iter().filter(|said| matches!(said, Message::JoinPair(_))).count();
    (rig.primary.config.resync_pause_ns, rig.primary.config.resync_pause_ns_max) = (SECOND, 4 * SECOND);
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p0", 0);
    quiet(&mut rig);
    open(&mut rig);
    assert_eq!(joins(&rig), 1);
    rig.pass(rig.primary.config.retry_ns);
    quiet(&mut rig);
    assert_eq!(joins(&rig), 2, "no answer came");
    let joined = Message::PairJoined { group, pair };
    rig.hear(joined.clone());
    quiet(&mut rig);
    assert_eq!(rig.state(pair), PairState::Pair);
    rig.stop_group(group);
    quiet(&mut rig);
    rig.pass(rig.primary.config.resync_pause_ns);
    quiet(&mut rig);
    // The second of the first two found records there already.
    let (subject, refusal) = (Subject::Pair(pair), Refusal::Never);
    let late = Message::Refused { group, subject, refusal, text: "was written by an earlier pair".into() };
    rig.hear(late.clone());
    quiet(&mut rig);
    assert_eq!(rig.state(pair), PairState::Copy, "it did not ask yet");
    open(&mut rig);
    assert!(joins(&rig) > 2, "the resync's");
    rig.hear(late);
    quiet(&mut rig);
    assert_eq!(rig.state(pair), PairState::SuspendedError, "this one is the resync's");
}

#[test]
fn a_stream_that_opens_says_its_own_pairs_size_and_no_others() {
    let (rig, _, pairs) = Rig::copying(Scope::Pair, 8);
    let sizes = rig.said().into_iter().filter_map(|said| match said {
        Message::Resize { pair, .. } => Some(pair),
        _ => None,
    });
    let mut told: Vec<PairId> = sizes.collect();
    told.sort();
    let mut each_once = pairs;
    each_once.sort();
    assert_eq!(told, each_once);
}
