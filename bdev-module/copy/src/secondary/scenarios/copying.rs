//! Pairs that are copied for the first time, questions before something is copied, and volumes in memory.

use super::*;
use crate::digest;
use crate::message::CopyId;
use crate::ports::HostError;

/// A group with an established pair "a", and "b" whose volume holds data that the primary's copy replaces.
fn copying() -> Rig {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.journal_blocks = 1 << 12;
    rig.overwritable.insert("b".to_owned());
    rig.senders[0].copies_all.insert("b".to_owned());
    rig.senders[0].marks.extend((0..VOLUME_BLOCKS).map(|lba| (1, lba)));
    for lba in 0..VOLUME_BLOCKS {
        rig.world.disks.entry(VolumeId(1)).or_default().put(lba, [0x77; BLOCK]);
    }
    rig.create();
    rig.settle();
    for _ in 0..20 {
        rig.hello();
        rig.settle();
    }
    rig
}

fn arrive(rig: &mut Rig) {
    for _ in 0..20 {
        rig.hello();
        for _ in 0..40 {
            rig.deliver(0);
        }
        rig.beacon(0);
        rig.settle();
    }
}

#[test]
fn a_first_copy_runs_while_the_groups_recovery_point_moves_on() {
    let mut rig = copying();
    let b = PairId::of_name(group(), "b");
    assert!(rig.senders[0].is_started());
    for _ in 0..10 {
        let before = rig.status("g").recovery_point;
        rig.write(0);
        rig.copy(0);
        arrive(&mut rig);
        let status = rig.status("g");
        assert!(status.recovery_point > before, "no unit holds it back");
        assert_eq!(status.copying, [b]);
        rig.assert_cut();
    }
    assert_ne!(
        rig.volume("g", "b"),
        vec![0x77; BLOCK * VOLUME_BLOCKS as usize],
        "its records are applied as they come"
    );
    let pair = rig.secondary.pair_status(rig.now(), b).unwrap();
    assert_eq!((pair.state.code(), pair.consistent, pair.copying), ("COPY", false, true));
    rig.crash();
    rig.settle();
    assert_eq!(rig.status("g").copying, [b], "also after a restart");
    rig.drain();
    assert_eq!(rig.senders[0].done, [CopyId::Pair(b)]);
    assert!(rig.status("g").copying.is_empty());
    rig.crash();
    rig.settle();
    rig.assert_cut();
    assert!(rig.secondary.pair_status(rig.now(), b).unwrap().consistent);
    take_over(&mut rig);
    rig.assert_cut();
    assert_eq!(rig.status("g").certificate.unwrap().volumes.len(), 2);
}

#[test]
fn a_first_copy_is_not_complete_with_the_resync_of_another_primary() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a")]).stream(2, Scope::Group, &[("g", "b")]);
    rig.journal_blocks = 1 << 12;
    rig.resyncs = true;
    rig.overwritable.insert("b".to_owned());
    rig.senders[1].copies_all.insert("b".to_owned());
    rig.senders[1].marks.extend((0..VOLUME_BLOCKS).map(|lba| (0, lba)));
    rig.senders[1].suspended = true;
    rig.create();
    rig.settle();
    let exchange = |rig: &mut Rig| {
        for _ in 0..20 {
            rig.hello();
            for index in [0, 1] {
                (0..20).for_each(|_| rig.deliver(index));
                rig.beacon(index);
            }
            rig.settle();
        }
    };
    exchange(&mut rig);
    rig.write(0);
    exchange(&mut rig);
    rig.resync(0);
    exchange(&mut rig);
    assert!(rig.status("g").unit.is_some());
    // Its pair joins while the resync goes on.
    rig.senders[1].suspended = false;
    exchange(&mut rig);
    assert!(rig.senders[1].is_started());
    rig.copy(1);
    while !rig.senders[0].marks.is_empty() {
        rig.copy(0);
    }
    exchange(&mut rig);
    rig.copy_end(0);
    exchange(&mut rig);
    let b = PairId::of_name(group(), "b");
    assert_eq!(rig.senders[0].done, [CopyId::Unit(1)]);
    let status = rig.status("g");
    assert_eq!((status.unit.is_none(), status.copying), (true, vec![b]), "a block of it has come");
    rig.drain();
    assert_eq!(rig.senders[1].done, [CopyId::Pair(b)]);
    assert!(rig.status("g").copying.is_empty());
    rig.assert_cut();
}

#[test]
fn a_takeover_leaves_a_pair_out_whose_first_copy_is_not_complete() {
    let mut rig = copying();
    let (a, b) = (PairId::of_name(group(), "a"), PairId::of_name(group(), "b"));
    rig.write_at(0, 0, RecordKind::Write, Extent { lba: 3, blocks: 1 });
    rig.copy(0);
    arrive(&mut rig);
    // Said, but not all of it is there yet.
    let end = Time(rig.clock + 1000);
    ask(&mut rig, 1, 1, Message::CopyEnd { group: group(), copy: CopyId::Pair(b), end });
    take_over(&mut rig);
    rig.assert_cut();
    for _ in 0..2 {
        let certificate = rig.status("g").certificate.unwrap();
        assert_eq!(certificate.never_consistent, [b]);
        assert_eq!(certificate.volumes.iter().map(|volume| volume.pair).collect::<Vec<_>>(), [a]);
        for (pair, token, wanted) in [(a, 1, Ok(())), (b, 2, Err(HostError::NeverConsistent))] {
            let now = rig.now();
            let read = HostIo::Read { extent: Extent { lba: 1, blocks: 1 }, buf: vec![0; BLOCK] };
            rig.secondary.host_io(now, pair, read, HostToken(token), &mut rig.world);
            rig.settle();
            assert_eq!(rig.world.hosts.remove(&token).unwrap().0, wanted);
        }
        let reason = rig.secondary.pair_status(rig.now(), b).unwrap().reason.unwrap();
        assert!(reason.contains("never consistent"), "{reason}");
        rig.crash();
        rig.settle();
    }
}

#[test]
fn a_volume_with_data_is_copied_over_only_with_the_operators_word() {
    let mut rig = working(3);
    let join = JoinPair {
        group: group(),
        pair: PairId::of_name(group(), "a"),
        name: "a".to_owned(),
        remote_volume: String::new(),
        stream: rig.senders[0].stream,
        blocks: VOLUME_BLOCKS,
        block_bytes: BLOCK as u32,
        content: Content::Copy,
    };
    // The pair left its primary, which made it anew; the volume holds the old one's data.
    let id = join.pair;
    let at = Time(rig.clock);
    ask(&mut rig, 1, 1, Message::LeavePair { group: group(), pair: id, at });
    rig.secondary.groups.get_mut(&group()).unwrap().meta.pair_mut(id).unwrap().touched = true;
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::JoinPair(join.clone()))), Refusal::Never);
    rig.secondary.groups.get_mut(&group()).unwrap().meta.pair_mut(id).unwrap().overwritable = true;
    let joined = ask(&mut rig, 1, 1, Message::JoinPair(join));
    assert!(matches!(&joined[..], [Message::PairJoined { .. }]), "{joined:?}");
    assert_eq!(rig.status("g").copying, [id]);
}

fn question(rig: &Rig, pair: &str, extent: Extent, bytes: &[u8]) -> Message {
    let _ = rig;
    let digests = digest::digests(bytes).collect();
    Message::DigestAsk { group: group(), pair: PairId::of_name(group(), pair), ask: 9, extent, digests }
}

fn answer(rig: &mut Rig, said: Message) -> Option<u32> {
    rig.world.messages.clear();
    let now = rig.now();
    rig.secondary.message(now, LinkId(1), SystemId(1), said, &mut rig.world);
    for _ in 0..40 {
        while rig.complete() {}
        let now = rig.now();
        rig.secondary.turn(now, &mut rig.world);
    }
    let answers: Vec<_> = std::mem::take(&mut rig.world.messages);
    match &answers[..] {
        [(_, Message::DigestAnswer { ask: 9, differing, .. })] => *differing,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_is_answered_from_the_volume_where_no_record_of_the_resync_touched_it() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.journal_blocks = 1 << 12;
    rig.resyncs = true;
    rig.create();
    rig.settle();
    rig.drain();
    let at = |lba, blocks| Extent { lba, blocks };
    rig.write_at(0, 0, RecordKind::Write, at(8, 4));
    rig.drain();
    let same = rig.replay("g", "a", Time(u64::MAX))[8 * BLOCK..12 * BLOCK].to_vec();
    let said = question(&rig, "a", at(8, 4), &same);
    assert_eq!(answer(&mut rig, said.clone()), None, "no resync, no first copy: nobody may ask");
    rig.resync(0);
    arrive(&mut rig);
    assert!(rig.status("g").unit.is_some());
    assert_eq!(answer(&mut rig, said.clone()), Some(0));
    let other = question(&rig, "a", at(8, 4), &vec![1; 4 * BLOCK]);
    assert_eq!(answer(&mut rig, other.clone()), Some(1));
    // A record of the unit touches the second block: the volume does not have it, the secondary does.
    rig.write_at(0, 0, RecordKind::Unmap, at(9, 1));
    arrive(&mut rig);
    assert_eq!(answer(&mut rig, said.clone()), None);
    assert_eq!(answer(&mut rig, question_at(&same)), Some(0), "other blocks are as they were");
    rig.crash();
    rig.settle();
    arrive(&mut rig);
    assert_eq!(answer(&mut rig, said), None, "also after a restart");
    let outside = question(&rig, "a", at(VOLUME_BLOCKS, 4), &same);
    assert_eq!(answer(&mut rig, outside), None);
}

/// About the two blocks behind the one that was touched.
fn question_at(same: &[u8]) -> Message {
    let digests = digest::digests(&same[2 * BLOCK..]).collect();
    let extent = Extent { lba: 10, blocks: 2 };
    Message::DigestAsk { group: group(), pair: PairId::of_name(group(), "a"), ask: 9, extent, digests }
}

#[test]
fn a_volume_in_memory_that_lost_its_content_is_taken_up_again_only_by_a_copy_of_all() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.volatile = true;
    rig.journal_blocks = 1 << 12;
    rig.create();
    rig.settle();
    rig.drain();
    rig.write_at(0, 0, RecordKind::Write, Extent { lba: 3, blocks: 1 });
    rig.drain();
    rig.crash();
    rig.world.disks.remove(&VolumeId(0));
    rig.world.disks.remove(&VolumeId(1));
    rig.settle();
    let (a, b) = (PairId::of_name(group(), "a"), PairId::of_name(group(), "b"));
    let lost = rig.secondary.pair_status(rig.now(), a).unwrap();
    assert!(!lost.consistent && lost.reason.unwrap().contains("group_resync --full"));
    assert!(rig.secondary.pair_status(rig.now(), b).unwrap().consistent, "it never held anything");
    let again = open(&rig);
    ask(&mut rig, 1, 1, Message::OpenStream(again));
    let join = JoinPair {
        group: group(),
        pair: a,
        name: "a".to_owned(),
        remote_volume: String::new(),
        stream: rig.senders[0].stream,
        blocks: VOLUME_BLOCKS,
        block_bytes: BLOCK as u32,
        content: Content::Established,
    };
    assert_eq!(refusal(&ask(&mut rig, 1, 1, Message::JoinPair(join))), Refusal::Never);
    // All of it in one unit: the pair is whole again when that is complete.
    rig.resyncs = true;
    rig.senders[0].copies_all.insert("a".to_owned());
    rig.senders[0].marks.extend((0..VOLUME_BLOCKS).map(|lba| (0, lba)));
    rig.resync(0);
    rig.drain();
    rig.assert_cut();
    assert!(rig.secondary.pair_status(rig.now(), a).unwrap().consistent);
}

#[test]
fn a_pair_that_is_to_be_copied_and_that_nobody_has_joined_is_no_part_of_a_takeover() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.overwritable.insert("b".to_owned());
    rig.create();
    rig.settle();
    rig.senders[0].pairs.pop();
    rig.drain();
    rig.write(0);
    rig.drain();
    let b = PairId::of_name(group(), "b");
    assert_eq!(rig.status("g").copying, [b]);
    take_over(&mut rig);
    assert_eq!(rig.status("g").certificate.unwrap().never_consistent, [b]);
}
