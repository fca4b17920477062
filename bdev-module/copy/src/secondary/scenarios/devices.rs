//! Devices that fail, and go on failing.

use super::super::group::Phase;
use super::super::trouble::LASTS_NS;
use super::*;
use crate::types::PairState;

const SECOND: u64 = 1_000_000_000;

/// Lets time pass while the network delivers what it can; answers what was said to the primaries of their devices.
fn pass(rig: &mut Rig, ns: u64) -> Vec<(Option<PairId>, String)> {
    let mut said = Vec::new();
    let until = rig.mono + ns;
    while rig.mono < until {
        rig.mono += SECOND / 2;
        for _ in 0..20 {
            rig.deliver(0);
            while rig.complete() {}
        }
        let now = rig.now();
        rig.secondary.turn(now, &mut rig.world);
        said.extend(rig.world.messages.iter().filter_map(|(_, message)| match message {
            Message::Trouble { pair, text, .. } => Some((*pair, text.clone())),
            _ => None,
        }));
        rig.turn();
    }
    said
}

fn state(rig: &Rig, pair: &str) -> (PairState, Option<String>) {
    let status = rig.secondary.pair_status(rig.now(), PairId::of_name(group(), pair)).unwrap();
    (status.state, status.reason)
}

#[test]
fn a_volume_that_fails_for_good_shows_psue_at_its_secondary_and_its_primaries_hear_why_until_it_is_over() {
    let mut rig = working(2);
    let id = PairId::of_name(group(), "a");
    rig.world.failing = Some((rig.volume_of("g", "a"), u32::MAX));
    // Each pair gets a record of its own.
    for _ in 0..6 {
        rig.write(0);
    }
    assert_eq!(pass(&mut rig, LASTS_NS / 2), [], "what may be over in a moment is not told");
    assert_eq!(state(&rig, "a").0, PairState::Pair);
    let said = pass(&mut rig, LASTS_NS + 6 * SECOND);
    assert!(said.len() >= 2, "said again while it lasts: {said:?}");
    for (pair, text) in &said {
        assert_eq!(*pair, Some(id));
        for part in ["volume of pair \"a\" cannot be written", "mend the device", "create it with a copy"] {
            assert!(text.contains(part), "{text}");
        }
    }
    let (shown, reason) = state(&rig, "a");
    assert_eq!((shown, reason.as_ref()), (PairState::SuspendedError, Some(&said[0].1)));
    assert_eq!(state(&rig, "b").0, PairState::Pair, "its neighbour's device works");
    // What arrives is journaled, so the recovery point moves on.
    let before = rig.status("g").recovery_point;
    rig.write(0);
    rig.drain();
    assert!(rig.status("g").recovery_point > before);
    rig.world.failing = None;
    let said = pass(&mut rig, 10 * SECOND);
    assert_eq!(said.last(), Some(&(None, String::new())), "that it is over is told");
    assert_eq!(state(&rig, "a"), (PairState::Pair, None));
    rig.drain();
    rig.assert_cut();
}

#[test]
fn a_volume_whose_every_flush_fails_is_in_trouble_though_its_writes_succeed() {
    let mut rig = working(2);
    rig.world.failing = Some((rig.volume_of("g", "a"), u32::MAX));
    rig.world.failing_flushes_only = true;
    for _ in 0..6 {
        rig.write(0);
    }
    assert!(!pass(&mut rig, 3 * LASTS_NS).is_empty());
    assert_eq!(state(&rig, "a").0, PairState::SuspendedError);
}

#[test]
fn a_journal_that_cannot_be_written_for_good_is_psue_for_all_its_pairs_and_the_recovery_point_stands() {
    let mut rig = working(2);
    let before = rig.status("g").recovery_point;
    rig.world.failing = Some((Rig::journal_volume(0), u32::MAX));
    rig.write(0);
    let said = pass(&mut rig, LASTS_NS + 3 * SECOND);
    assert!(
        said.iter().all(|(pair, text)| pair.is_none() && text.contains("the journal cannot be written")),
        "{said:?}"
    );
    assert!(!said.is_empty());
    for pair in ["a", "b"] {
        assert_eq!(state(&rig, pair).0, PairState::SuspendedError);
    }
    assert_eq!(rig.status("g").recovery_point, before, "what is not durable does not count");
    rig.world.failing = None;
    pass(&mut rig, 5 * SECOND);
    rig.drain();
    assert!(rig.status("g").recovery_point > before);
    assert_eq!(state(&rig, "b").0, PairState::Pair);
    rig.assert_cut();
}

#[test]
fn a_last_journal_block_that_rotted_though_metadata_knows_it_was_durable_is_damage_and_no_torn_tail() {
    for is_known in [true, false] {
        // Commits that no checkpoint has covered.
        let mut rig = Rig::new(8, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
        rig.config.checkpoint_interval_ns = u64::MAX / 2;
        if !is_known {
            (rig.config.attest_after_ns, rig.config.limit_interval_ns) = (u64::MAX / 2, u64::MAX / 2);
        }
        rig.secondary = Secondary::new(rig.config, 1);
        rig.create();
        rig.settle();
        rig.drain();
        rig.write(0);
        rig.drain();
        let Phase::Ready(ready) = &rig.secondary.groups[&group()].phase else { panic!() };
        let last = ready.journal.committed_end();
        rig.write(0);
        rig.drain();
        let was = rig.volume("g", "a");
        let journal = rig.world.disks.get_mut(&Rig::journal_volume(0)).unwrap();
        let mut block: [u8; BLOCK] = journal.read(Extent { lba: 8 + last, blocks: 1 }).try_into().unwrap();
        block[200] ^= 1;
        journal.put(8 + last, block);
        rig.crash();
        rig.settle();
        let status = rig.status("g");
        if is_known {
            assert_eq!(status.phase, GroupPhase::Failed);
            let reason = status.reason.unwrap();
            assert!(
                reason.contains(&format!("damaged at block {last}")) && reason.contains("check the device"),
                "{reason}"
            );
            assert_eq!(state(&rig, "a").0, PairState::SuspendedError);
        } else {
            assert_eq!(status.phase, GroupPhase::Active, "as a power cut leaves it");
            assert_eq!(status.streams[0].durable, Seq(1));
            assert!(rig.volume("g", "a") == was, "what nobody can vouch for was not applied");
            rig.assert_cut();
        }
    }
}

#[test]
fn a_journal_whose_superblock_rotted_is_refused_as_no_journal_and_left_as_it_is() {
    let mut rig = working(3);
    let journal = rig.world.disks.get_mut(&Rig::journal_volume(0)).unwrap();
    let mut block: [u8; BLOCK] = journal.read(Extent { lba: 0, blocks: 1 }).try_into().unwrap();
    block[20] ^= 1;
    journal.put(0, block);
    rig.crash();
    rig.settle();
    let status = rig.status("g");
    assert_eq!((status.phase, status.consistent), (GroupPhase::Failed, false));
    assert!(status.reason.unwrap().contains("holds something that is not a journal"));
    assert_eq!(rig.world.disks[&Rig::journal_volume(0)].read(Extent { lba: 0, blocks: 1 }), block);
}
