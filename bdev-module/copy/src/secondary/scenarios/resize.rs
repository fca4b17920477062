//! What a secondary says to a primary that wants a pair to grow.

use super::*;

fn wants(blocks: u64) -> Message {
    Message::Resize { group: group(), pair: PairId::of_name(group(), "a"), blocks, is_done: false }
}

fn refused(rig: &mut Rig, blocks: u64, with: Refusal, says: &str) {
    let answers = ask(rig, 1, 1, wants(blocks));
    assert_eq!(refusal(&answers), with);
    let [Message::Refused { text, .. }] = &answers[..] else { panic!("{answers:?}") };
    assert!(text.contains(says), "{text}");
    let has = rig.secondary.pair_status(rig.now(), PairId::of_name(group(), "a")).unwrap().geometry;
    assert_eq!(has, geometry(), "nothing was changed");
}

#[test]
fn a_pair_has_a_new_size_only_while_its_group_is_whole_and_receives() {
    let mut rig = working(3);
    let same = ask(&mut rig, 1, 1, wants(VOLUME_BLOCKS));
    assert!(matches!(&same[..], [Message::Resized { blocks: VOLUME_BLOCKS, .. }]), "an answer may be lost: {same:?}");
    rig.suspend(0);
    rig.settle();
    refused(&mut rig, VOLUME_BLOCKS, Refusal::NotYet, "not in PAIR state");

    let mut rig = working(3);
    rig.resyncs = true;
    rig.write(0);
    rig.resync(0);
    for _ in 0..8 {
        rig.hello();
        rig.settle();
    }
    assert!(rig.status("g").unit.is_some());
    refused(&mut rig, VOLUME_BLOCKS, Refusal::NotYet, "not in PAIR state");
}

#[test]
fn a_pair_never_shrinks() {
    let mut rig = working(3);
    refused(&mut rig, VOLUME_BLOCKS - 1, Refusal::Never, "a pair only grows");
}

#[test]
fn no_pair_grows_while_its_group_is_under_test() {
    let mut rig = working(3);
    let (ticket, now) = (rig.ticket(), rig.now());
    let store_geometry = Geometry { blocks: 2000, block_bytes: BLOCK as u32 };
    let config = TestConfig { store: VolumeId(3000), store_geometry, at: TakeoverAt::Newest };
    rig.secondary.group_test_start(now, group(), config, ticket, &mut rig.world).unwrap();
    rig.settle();
    assert!(matches!(rig.world.answers[&ticket.0], Ok(OperatorAnswer::TestStarted { .. })));
    refused(&mut rig, VOLUME_BLOCKS, Refusal::NotYet, "under test");
}

#[test]
fn a_full_resync_after_a_growth_that_came_to_nothing_brings_a_pair_back_to_its_primarys_size() {
    let mut rig = working(3);
    let a = PairId::of_name(group(), "a");
    let size = |rig: &Rig| rig.secondary.groups[&group()].meta.pair(a).unwrap().geometry.blocks;
    rig.world.volume_blocks = Some(2 * VOLUME_BLOCKS);
    let answers = ask(&mut rig, 1, 1, wants(2 * VOLUME_BLOCKS));
    assert!(matches!(&answers[..], [Message::Resized { .. }]), "{answers:?}");
    assert_eq!(size(&rig), 2 * VOLUME_BLOCKS);
    // Its primary dies before it has noted that, and copies all of the pair when it is back.
    rig.resyncs = true;
    rig.senders[0].copies_all.insert("a".to_owned());
    rig.senders[0].marks.extend((0..VOLUME_BLOCKS).map(|lba| (0, lba)));
    rig.resync(0);
    rig.drain();
    assert_eq!((size(&rig), rig.status("g").unit), (VOLUME_BLOCKS, None));
    rig.assert_cut();
}
