//! Pairs and groups as operators and primaries make them.

use super::*;

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
fn a_volume_has_the_identity_that_its_own_primary_says_as_long_as_it_follows_that() {
    let mut rig = working(2);
    let (a, stranger) = (PairId::of_name(group(), "a"), PairId::of_name(group(), "z"));
    let known = |rig: &Rig, pair| crate::identity::of_pair(pair, &rig.world);
    let says = |rig: &mut Rig, from: u64, pair, first: u8| {
        let metas = rig.world.metas;
        ask(rig, 1, from, Message::Identity { group: group(), pair, identity: [first; 16] });
        rig.world.metas - metas
    };
    says(&mut rig, 2, a, 7);
    assert_eq!(known(&rig, a), None, "said by a system that has no stream here");
    assert!(says(&mut rig, 1, a, 8) > 0);
    assert_eq!(known(&rig, a), Some([8; 16]));
    assert_eq!(says(&mut rig, 1, a, 8), 0, "said in every session, written once");
    assert_eq!(rig.world.changed, [a], "hosts are told");
    says(&mut rig, 1, stranger, 9);
    assert_eq!(known(&rig, stranger), None, "there is no such pair");
    // What is not of this version is not believed.
    let key = crate::identity::key(stranger);
    for value in [vec![], vec![1; 16], vec![2; 17], vec![1; 18]] {
        rig.world.meta.insert(key.clone(), value.clone());
        assert_eq!(known(&rig, stranger), None, "{value:?}");
    }
    rig.world.meta.insert(key, [&[1][..], &[5; 16]].concat());
    assert_eq!(known(&rig, stranger), Some([5; 16]));
    // From its first step on a takeover says what the volume is.
    let (ticket, now) = (rig.ticket(), rig.now());
    let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
    rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
    let now = rig.now();
    let late = Message::Identity { group: group(), pair: a, identity: [6; 16] };
    rig.secondary.message(now, LinkId(1), SystemId(1), late, &mut rig.world);
    rig.settle();
    assert!(says(&mut rig, 1, a, 4) == 0 && known(&rig, a) == Some([8; 16]), "{:?}", known(&rig, a));

    // A pair that is made again under the name is another disk.
    let mut rig = working(2);
    says(&mut rig, 1, a, 8);
    rig.suspend(0);
    rig.settle();
    says(&mut rig, 1, a, 3);
    assert_eq!(known(&rig, a), Some([8; 16]), "suspended, it keeps what it was");
    let (now, ticket) = (rig.now(), rig.ticket());
    rig.secondary.pair_delete(now, a, ticket, &mut rig.world).unwrap();
    rig.settle();
    assert_eq!(known(&rig, a), None);
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
