//! A pair grows between two whole systems, whatever dies on the way.

use super::*;
use crate::ports::Ticket;
use crate::types::PairId;
use rig::BLOCKS;

const LARGE: u64 = 3 * BLOCKS + 100;

fn pair() -> PairId {
    PairId::of_name(group(), "a")
}

fn resize(rig: &mut Rig, me: usize, blocks: u64) -> (Result<(), OperatorError>, Ticket) {
    rig.operate(me, |engine, now, world, ticket| {
        let (primary, mut world) = engine.primary(world);
        primary.pair_resize(now, pair(), blocks, ticket, &mut world)
    })
}

/// Two systems in PAIR state; the first pair's volumes have grown, and hold different things there.
fn grown(seed: u64, scope: Scope) -> Rig {
    let mut rig = Rig::new(seed, scope);
    rig.write_some(0, 20);
    settle(&mut rig, 0);
    rig.enlarge(0, 0, LARGE, 41);
    rig.enlarge(1, 0, LARGE + 7, 42);
    rig
}

/// Asks again, after whatever happened, until hosts see the new size.
fn until_resized(rig: &mut Rig, me: usize) {
    rig.until("resized", |rig| {
        if rig.shown_blocks(me, 0) == Some(LARGE) {
            return true;
        }
        let _ = resize(rig, me, LARGE);
        false
    });
}

/// The new blocks are there at both sites, hold the same, and hosts' writes to them are copied.
fn assert_resized(rig: &mut Rig, primary: usize) {
    let token = rig.write(primary, 0, LARGE - 1, 99);
    rig.until("answered", |rig| rig.outcome(primary, token).is_some());
    rig.write_some(primary, 10);
    settle(rig, primary);
    assert_eq!((rig.shown_blocks(0, 0), rig.shown_blocks(1, 0)), (Some(LARGE), Some(LARGE)));
    rig.assert_equal_in(0, 0..LARGE);
}

#[test]
fn a_pair_grows_and_hosts_see_the_new_blocks_when_both_sides_hold_the_same_there() {
    for scope in SCOPES {
        let mut rig = grown(61, scope);
        let (begun, ticket) = resize(&mut rig, 0, LARGE);
        begun.expect("a group in PAIR state, and both volumes are large enough");
        let mut is_early = false;
        rig.until("resized", |rig| {
            is_early |= rig.shown_blocks(1, 0) > rig.shown_blocks(0, 0);
            rig.answer(0, ticket).is_some()
        });
        assert!(!is_early, "the other path shows more than can be written");
        let answer = rig.answer(0, ticket);
        assert!(matches!(answer, Some(Ok(OperatorAnswer::Resized { blocks: LARGE }))), "{answer:?}");
        assert_eq!((rig.missing(0), rig.lacks_records(1)), (0, 0), "hosts see what the secondary does not have");
        rig.run(200);
        rig.assert_equal_in(0, 0..LARGE);
        assert_resized(&mut rig, 0);
        assert_eq!(rig.shown_blocks(0, 1), Some(BLOCKS), "the other pair is as it was");
        // And through a change of parts.
        swap(&mut rig, 0);
        assert_resized(&mut rig, 1);
    }
}

#[test]
fn a_growth_is_finished_or_undone_whoever_dies_when() {
    let mut was_undone = 0;
    for scope in SCOPES {
        // The crashes of every moment for one scope are enough: scopes differ in streams, not in steps.
        let moments: &[u64] = if scope == Scope::Group { &[1, 2, 4, 7, 11, 16, 25, 40] } else { &[4] };
        for (seed, &turns) in moments.iter().enumerate() {
            for me in [0, 1] {
                let mut rig = grown(70 + seed as u64, scope);
                let (begun, _) = resize(&mut rig, 0, LARGE);
                begun.expect("a group in PAIR state");
                rig.run(turns);
                rig.kill(me);
                rig.start(me);
                rig.run(60);
                settle(&mut rig, 0);
                was_undone += u64::from(rig.shown_blocks(0, 0) == Some(BLOCKS));
                until_resized(&mut rig, 0);
                assert_resized(&mut rig, 0);
            }
        }
    }
    assert!(was_undone > 0, "no crash came early enough");
}

#[test]
fn after_a_restart_in_the_middle_of_a_growth_hosts_see_the_new_blocks_only_when_they_are_copied() {
    let mut rig = grown(81, Scope::Group);
    let (begun, _) = resize(&mut rig, 0, LARGE);
    begun.expect("a group in PAIR state");
    rig.until("the new size is noted", |rig| rig.missing(0) > 0);
    rig.until("it is durable", |rig| rig.has_kept_size(0, 0, LARGE));
    rig.kill(0);
    rig.is_cut = true;
    rig.start(0);
    rig.run(500);
    assert_eq!((rig.shown_blocks(0, 0), rig.shown_blocks(1, 0)), (Some(BLOCKS), Some(BLOCKS)));
    assert!(rig.missing(0) > 0, "they cannot be copied");
    rig.is_cut = false;
    rig.until("hosts see the new size", |rig| rig.shown_blocks(0, 0) == Some(LARGE));
    assert_eq!((rig.missing(0), rig.lacks_records(1)), (0, 0));
    assert_resized(&mut rig, 0);
    rig.kill(0);
    rig.start(0);
    assert_eq!(rig.shown_blocks(0, 0), Some(LARGE), "for good");
}

#[test]
fn a_secondary_restarted_in_the_middle_of_a_growth_shows_hosts_what_they_saw_until_the_new_blocks_are_copied() {
    let mut rig = grown(82, Scope::Group);
    let (begun, _) = resize(&mut rig, 0, LARGE);
    begun.expect("a group in PAIR state");
    // It has answered, so its new size is durable there.
    rig.until("the new size is noted", |rig| rig.missing(0) > 0);
    rig.kill(1);
    rig.is_cut = true;
    rig.start(1);
    rig.run(500);
    assert_eq!((rig.shown_blocks(0, 0), rig.shown_blocks(1, 0)), (Some(BLOCKS), Some(BLOCKS)));
    rig.is_cut = false;
    rig.until("the secondary shows the new size", |rig| rig.shown_blocks(1, 0) == Some(LARGE));
    assert_eq!((rig.missing(0), rig.lacks_records(1)), (0, 0));
    rig.run(5);
    rig.kill(1);
    rig.is_cut = true;
    rig.start(1);
    rig.run(500);
    assert_eq!(rig.shown_blocks(1, 0), Some(LARGE), "for good");
    rig.is_cut = false;
    settle(&mut rig, 0);
    assert_resized(&mut rig, 0);
    // A takeover ends a growth: nothing else is left to bring the new blocks.
    rig.take_over(1);
    assert_eq!(rig.shown_blocks(1, 0), Some(LARGE));
}

#[test]
fn a_takeover_in_the_middle_of_a_growth_loses_nothing_and_the_old_primary_follows_in_size() {
    for (seed, turns) in [1, 2, 4, 7, 11, 16, 25, 40].into_iter().enumerate() {
        let mut rig = grown(90 + seed as u64, Scope::Group);
        let (begun, _) = resize(&mut rig, 0, LARGE);
        begun.expect("a group in PAIR state");
        rig.run(turns);
        rig.kill(0);
        rig.take_over(1);
        rig.forget_told(1);
        rig.start(0);
        rig.until("the old primary is fenced", |rig| !rig.serves(0));
        demote(&mut rig, 0);
        fail_back(&mut rig, 1);
        settle(&mut rig, 1);
        assert_eq!(rig.shown_blocks(0, 0), rig.shown_blocks(1, 0), "after {turns} turns");
        until_resized(&mut rig, 1);
        assert_resized(&mut rig, 1);
    }
}

#[test]
fn what_cannot_grow_is_refused_with_a_sentence_and_nothing_changes() {
    let mut rig = grown(64, Scope::Group);
    let refused = |rig: &mut Rig, blocks: u64, says: &str| {
        let (begun, _) = resize(rig, 0, blocks);
        let error = begun.expect_err(says);
        assert!(error.to_string().contains(says), "{error}");
    };
    refused(&mut rig, BLOCKS, "has 1024: a pair only grows");
    refused(&mut rig, 1, "would shrink to 1");
    refused(&mut rig, LARGE + 1, "bdev_uring_rescan");
    // The volume has more than the pair's dirty map can tell apart.
    rig.systems[0].world.larger.insert(crate::types::VolumeId(1), 1 << 40);
    refused(&mut rig, 1 << 39, "blocks at most");
    // The secondary has not as much as is asked for.
    rig.enlarge(0, 0, 2 * LARGE, 41);
    let (begun, ticket) = resize(&mut rig, 0, 2 * LARGE);
    begun.expect("the secondary's size is not known here");
    refused(&mut rig, LARGE, "is being resized");
    rig.until("refused", |rig| rig.answer(0, ticket).is_some());
    let answer = rig.answer(0, ticket);
    assert!(
        matches!(&answer, Some(Err(OperatorError::Invalid(text))) if text.contains("at the secondary has")),
        "{answer:?}"
    );
    let ((), _) = rig.operate(0, |engine, now, world, ticket| {
        let (primary, mut world) = engine.primary(world);
        primary.group_suspend(now, group(), ticket, &mut world).expect("a group in PAIR state");
    });
    rig.run(50);
    refused(&mut rig, LARGE, "it is suspended (PSUS");
    assert_eq!((rig.shown_blocks(0, 0), rig.shown_blocks(1, 0)), (Some(BLOCKS), Some(BLOCKS)));
    let (begun, _) = resize(&mut rig, 1, LARGE);
    assert!(matches!(begun, Err(OperatorError::NotFound(_))), "{begun:?}");
}
