//! The first copy of a pair, while its group runs.

use super::secondary::*;
use super::*;
use crate::message::{Content, CopyId};

fn config() -> GroupConfig {
    Rig::group_config("g", Scope::Group)
}

/// Asks for a large pair with data on its volume.
fn copied(rig: &mut Rig, group: GroupId, volume: u32, initial: Initial) -> PairId {
    let disk = rig.world.disks.entry(VolumeId(volume)).or_default();
    disk.resize((LARGE * 512) as usize, 0);
    for region in [1, 3, 6] {
        disk[(region * REGION * 512) as usize] = 40 + region as u8;
    }
    let config = PairConfig { initial, ..Rig::large_config(group, &format!("c{volume}"), volume) };
    rig.primary.pair_create(rig.now, config, Ticket(70), &mut rig.world).unwrap()
}

#[test]
fn a_new_pair_is_copied_into_the_running_group_and_its_operator_waits_for_the_beginning_only() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    let pair = copied(&mut rig, group, 5, Initial::Copy);
    while !rig.world.operators.contains_key(&70) {
        rig.turn();
        assert!(rig.keep() | site.answer(&mut rig));
    }
    assert!(rig.answered(70).is_ok());
    assert_eq!((rig.state(pair), rig.state(pairs[0])), (PairState::Copy, PairState::Pair));
    assert_eq!(site.joins.last(), Some(&(pair, Content::Copy)));
    let chunk = rig.position(|did| matches!(did, Did::Durable(key) if key.contains("/dirty/"))).unwrap();
    let record =
        rig.position(|did| matches!(did, Did::Durable(key) if key.contains(&format!("/pair/{:016x}", pair.0))));
    assert!(chunk < record.unwrap(), "a start that finds the pair copying finds its marks");
    rig.write(pair, 0, 8, 1);
    site.run(&mut rig);
    let ends: Vec<CopyId> = site.ends.iter().map(|(copy, _)| *copy).collect();
    assert_eq!((rig.state(pair), ends), (PairState::Pair, vec![CopyId::Pair(pair)]));
    let kinds = |kind| site.taken.iter().filter(|head| head.kind == kind).count();
    assert_eq!((kinds(RecordKind::Copy), kinds(RecordKind::WriteZeroes)), (4, 4));
    assert!(site.opens.iter().all(|open| open.unit.is_none()), "no unit: the group's image moves on");
    site.assert_equal(&rig);
    // It is a pair as any other after a restart.
    rig.pass(MS);
    rig.primary.shutdown(rig.now, &mut rig.world);
    site.run(&mut rig);
    assert_eq!(rig.primary.shutdown_state(), Shutdown::Done { undrained: vec![] });
    let mut rig = rig.crash();
    site.meets(&rig);
    rig.large_group(config(), 1);
    copied(&mut rig, group, 5, Initial::Copy);
    site.run(&mut rig);
    let joined = site.joins.last().unwrap().1;
    assert_eq!((rig.state(pair), joined), (PairState::Pair, Content::Established), "{:?}", rig.show(group).reason);
}

#[test]
fn a_pair_has_no_image_before_its_first_copy_is_done_and_keeps_one_while_all_is_copied_again() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    let has = |rig: &Rig, pair| rig.show_pair(pair).has_image;
    assert!(has(&rig, pairs[0]) && rig.show(group).has_image);
    let pair = copied(&mut rig, group, 5, Initial::Copy);
    while rig.state(pair) != PairState::Copy || !rig.world.operators.contains_key(&70) {
        rig.turn();
        rig.keep();
        site.answer(&mut rig);
    }
    assert!(!has(&rig, pair));
    // In the middle of it a resync of the group: the image is the one from before, and this pair is not in it.
    rig.stop_group(group);
    rig.run();
    assert!(!has(&rig, pair) && has(&rig, pairs[0]));
    site.meets(&rig);
    rig.pass(SECOND);
    while rig.keep() | site.answer(&mut rig) {}
    assert_eq!(rig.show(group).unit, Some(1));
    assert!(!has(&rig, pair) && has(&rig, pairs[0]));
    site.pass(&mut rig, 5 * SECOND);
    assert_eq!((rig.state(pair), has(&rig, pair)), (PairState::Pair, true));
    // All of it again, over what the secondary has; a restart does not forget that.
    rig.primary.group_suspend(rig.now, group, Ticket(80), &mut rig.world).unwrap();
    site.run(&mut rig);
    rig.world.up = false;
    rig.primary.group_resync(rig.now, group, true, &mut rig.world).unwrap();
    rig.run();
    assert!(has(&rig, pair) && has(&rig, pairs[0]));
    let mut rig = rig.crash();
    rig.large_group(config(), 1);
    assert!(has(&rig, pairs[0]));
}

#[test]
fn where_both_may_hold_the_same_only_differences_travel() {
    let (mut rig, mut site, group, _) = Rig::large(config(), 1);
    let id = PairId::of_name(group, "c5");
    let mut theirs = vec![0; (LARGE * 512) as usize];
    theirs[(3 * REGION * 512) as usize] = 43;
    theirs[(7 * REGION * 512) as usize] = 9;
    site.disks.insert(id, theirs);
    let pair = copied(&mut rig, group, 5, Initial::CopyDifferences);
    site.run(&mut rig);
    assert_eq!(rig.state(pair), PairState::Pair);
    let mut copied: Vec<u64> =
        site.taken.iter().filter(|head| head.pair == pair).map(|head| head.extent.lba / REGION).collect();
    copied.sort();
    assert_eq!((copied, site.asks.len()), (vec![1, 6, 7], 8));
    site.assert_equal(&rig);
}

#[test]
fn a_first_copy_that_is_interrupted_goes_on_in_the_next_unit_and_ends_after_it() {
    for crash in [false, true] {
        let (mut rig, mut site, group, _) = Rig::large(config(), 1);
        let pair = copied(&mut rig, group, 5, Initial::Copy);
        while !rig.world.operators.contains_key(&70) {
            rig.turn();
            assert!(rig.keep() | site.answer(&mut rig));
        }
        rig.turn();
        rig.locals();
        let stream = rig.show_pair(pair).stream;
        site.take(&mut rig, stream, 2);
        if crash {
            rig = rig.crash();
            site.meets(&rig);
            rig.large_group(config(), 1);
            copied(&mut rig, group, 5, Initial::Copy);
        } else {
            rig.stop_group(group);
        }
        rig.run();
        assert_eq!(rig.state(pair), PairState::SuspendedError);
        site.joins.clear();
        site.pass(&mut rig, 2 * SECOND);
        assert_eq!(rig.state(pair), PairState::Pair, "crash {crash}");
        assert!(site.joins.contains(&(pair, Content::Copy)), "it never was part of the image");
        let ends: Vec<CopyId> = site.ends.iter().map(|(copy, _)| *copy).collect();
        assert_eq!(ends, [CopyId::Unit(1), CopyId::Pair(pair)]);
        site.assert_equal(&rig);
    }
}

#[test]
fn a_first_copy_goes_on_after_a_clean_stop_without_stopping_its_group() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    let pair = copied(&mut rig, group, 5, Initial::Copy);
    while !rig.world.operators.contains_key(&70) {
        rig.turn();
        assert!(rig.keep() | site.answer(&mut rig));
    }
    rig.turn();
    rig.locals();
    let stream = rig.show_pair(pair).stream;
    site.take(&mut rig, stream, 2);
    rig.pass(MS);
    rig.primary.shutdown(rig.now, &mut rig.world);
    while rig.primary.shutdown_state() == Shutdown::Draining {
        rig.turn();
        assert!(rig.keep() | rig.local() | !rig.world.records.is_empty());
        site.take_all(&mut rig);
    }
    assert_eq!(rig.primary.shutdown_state(), Shutdown::Done { undrained: vec![] });
    assert!(rig.show_pair(pair).missing_bytes > 0);
    let mut rig = rig.crash();
    site.meets(&rig);
    rig.large_group(config(), 1);
    copied(&mut rig, group, 5, Initial::Copy);
    site.run(&mut rig);
    assert_eq!((rig.state(pairs[0]), rig.state(pair)), (PairState::Pair, PairState::Pair));
    assert!(site.opens.iter().all(|open| open.unit.is_none()));
    assert_eq!(site.ends.last().unwrap().0, CopyId::Pair(pair));
    site.assert_equal(&rig);
}

#[test]
fn a_pair_that_is_deleted_while_it_is_copied_leaves_nothing_behind() {
    let (mut rig, mut site, group, pairs) = Rig::large(config(), 1);
    let pair = copied(&mut rig, group, 5, Initial::Copy);
    while rig.world.pending.is_empty() {
        rig.turn();
        rig.keep();
        site.answer(&mut rig);
    }
    rig.primary.pair_delete(rig.now, pair, Ticket(50), &mut rig.world).unwrap();
    site.run(&mut rig);
    assert!(rig.answered(50).is_ok() && !rig.primary.has_pair(pair));
    assert!(rig.primary.jobs.is_empty() && rig.primary.copying.is_empty());
    assert_eq!(rig.primary.reading_bytes, 0);
    rig.write(pairs[0], 0, 8, 1);
    site.run(&mut rig);
    site.assert_equal(&rig);
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
}

#[test]
fn a_stream_that_was_opened_for_a_pair_that_never_came_to_be_is_closed_after_a_restart() {
    let (mut rig, mut site, group, pairs) = Rig::large(Rig::group_config("g", Scope::Pair), 1);
    let mine = rig.show_pair(pairs[0]).stream;
    let other = rig.primary.pair_create(rig.now, Rig::large_config(group, "never", 5), Ticket(9), &mut rig.world);
    rig.keep_all();
    site.answer(&mut rig);
    let stream = rig.show_pair(other.unwrap()).stream;
    assert_eq!(site.opens.last().unwrap().stream, stream);
    let mut rig = rig.crash();
    rig.large_group(Rig::group_config("g", Scope::Pair), 1);
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    let closed: Vec<(StreamId, Epoch, Seq)> = rig
        .said()
        .into_iter()
        .filter_map(|said| match said {
            Message::CloseStream { stream, epoch, end, .. } => Some((stream, epoch, end)),
            _ => None,
        })
        .collect();
    assert_eq!(closed, [(stream, Epoch(1), Seq(0))]);
    assert_ne!(mine, stream);
}

#[test]
fn a_process_that_died_before_its_pair_was_recorded_leaves_the_stream_usable() {
    // Every prefix of what the creation makes durable.
    for kept in 0..8 {
        let mut rig = Rig::new();
        let mut site = Site::default();
        rig.real_times();
        let group = rig.group("g", Scope::Group);
        let pair =
            rig.primary.pair_create(rig.now, Rig::large_config(group, "p0", 0), Ticket(0), &mut rig.world).unwrap();
        for _ in 0..kept {
            rig.turn();
            rig.keep();
            site.answer(&mut rig);
        }
        let mut rig = rig.crash();
        site.meets(&rig);
        let (_, again) = rig.large_group(config(), 1);
        assert_eq!(again, [pair]);
        rig.write(pair, 0, 8, 1);
        site.pass(&mut rig, 3 * SECOND);
        assert_eq!(rig.state(pair), PairState::Pair, "{kept} durable");
        assert!(rig.answered(0).is_ok());
        site.assert_equal(&rig);
    }
}
