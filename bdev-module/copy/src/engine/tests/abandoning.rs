//! A swap whose secondary is lost after it was told to be the primary, and an operator who goes on without it.

use super::rig::{Rig, group};
use super::{SCOPES, crash_everywhere, demote, settle, swap};
use crate::engine::OperatorError;
use crate::ports::{HostError, OperatorAnswer, Ticket};
use crate::role::Role;

/// Asks for a swap of system 0's group that the secondary does not hear of.
fn swap_unheard(rig: &mut Rig) -> Ticket {
    rig.is_cut = true;
    let ((), ticket) = rig.operate(0, |engine, now, world, ticket| {
        engine.group_swap(now, group(), ticket, world).expect("a group in PAIR state is swapped");
    });
    rig.until("handing over is noted", |rig| rig.is_handing_over(0));
    rig.until("the link is known to be down", |rig| !rig.link_is_up(0));
    ticket
}

/// Asks for a swap whose end the old primary, system 0, does not hear: system 1 serves hosts.
fn swap_unanswered(rig: &mut Rig) {
    // Of earlier swaps nothing counts.
    rig.systems[1].world.log.clear();
    rig.operate(0, |engine, now, world, ticket| {
        engine.group_swap(now, group(), ticket, world).expect("a group in PAIR state is swapped");
    });
    rig.until("the secondary is the primary", |rig| {
        rig.is_cut = rig.has_logged(1, "the primary hands it over");
        rig.role(1) == Some(Role::Primary)
    });
    rig.until("the link is known to be down", |rig| !rig.link_is_up(0));
}

fn abandon(rig: &mut Rig, given_up: u64) -> (Result<(), OperatorError>, Ticket) {
    rig.operate(0, |engine, now, world, ticket| engine.group_swap_abandon(now, group(), given_up, ticket, world))
}

fn abandon_for_good(rig: &mut Rig, given_up: u64) {
    let (begun, ticket) = abandon(rig, given_up);
    assert_eq!(begun, Ok(()));
    rig.until("abandoned", |rig| rig.answer(0, ticket).is_some());
    let answer = rig.answer(0, ticket);
    let Some(Ok(OperatorAnswer::Abandoned { generation })) = answer else { panic!("{answer:?}") };
    assert_eq!((generation, generation.number), (rig.whole_generation(0), given_up + 1));
    assert!(rig.serves(0) && !rig.is_handing_over(0));
}

#[test]
fn after_an_abandoned_swap_hosts_go_on_and_a_secondary_that_never_heard_of_it_follows_by_itself() {
    for scope in SCOPES {
        let mut rig = Rig::new(21, scope);
        rig.write_some(0, 20);
        settle(&mut rig, 0);
        let before = rig.whole_generation(0);
        let swapped = swap_unheard(&mut rig);
        rig.kill(1);
        abandon_for_good(&mut rig, 2);
        assert!(matches!(rig.answer(0, swapped), Some(Err(OperatorError::WrongState(_)))), "who asked for it hears so");
        assert!(rig.whole_generation(0).succeeds(before) && !rig.whole_generation(0).is_child_of(before));
        rig.write_some(0, 20);
        rig.start(1);
        settle(&mut rig, 0);
        assert_eq!(rig.role(1), Some(Role::Secondary));
        // Its history goes on from there.
        swap(&mut rig, 0);
        rig.write_some(1, 10);
        settle(&mut rig, 1);
        assert_eq!(rig.generation(1), 4);
    }
}

#[test]
fn a_secondary_that_became_the_primary_of_an_abandoned_swap_is_fenced_and_keeps_its_data_until_that_is_given_up() {
    for scope in SCOPES {
        let mut rig = Rig::new(22, scope);
        rig.write_some(0, 20);
        settle(&mut rig, 0);
        swap_unanswered(&mut rig);
        rig.write(1, 0, 7, 201);
        rig.until("written there", |rig| rig.volume(1, 0, 7) == 201);
        abandon_for_good(&mut rig, 2);
        rig.forget_told(0);
        rig.write_some(0, 20);
        rig.is_cut = false;
        rig.until("the other one is fenced", |rig| !rig.serves(1));
        let refused = rig.write(1, 0, 8, 9);
        rig.run(3000);
        assert_eq!(rig.outcome(1, refused), Some(Err(HostError::Fenced)));
        assert_eq!((rig.role(1), rig.volume(1, 0, 7)), (Some(Role::Primary), 201), "nothing of it is overwritten");
        assert!(rig.reason(1).contains("gave generation 2 up"), "{}", rig.describe());
        assert!(!rig.is_split(1) && !rig.reason(1).contains("split brain"), "{}", rig.describe());
        rig.until("told what to do", |rig| rig.reason(0).contains("group_failback there, with discard_generation 2"));
        rig.write_some(0, 10);
        demote(&mut rig, 1);
        settle(&mut rig, 0);
        assert_ne!(rig.volume(1, 0, 7), 201, "what was given up is gone");
    }
}

#[test]
fn a_site_that_was_the_primary_before_goes_on_after_an_abandoned_swap_and_after_a_restart() {
    let mut rig = Rig::new(23, crate::types::Scope::Group);
    rig.write_some(0, 10);
    for from in [0, 1] {
        swap(&mut rig, from);
        rig.write_some(1 - from, 10);
        settle(&mut rig, 1 - from);
    }
    let identities = rig.identities(0);
    swap_unanswered(&mut rig);
    abandon_for_good(&mut rig, 4);
    rig.write_some(0, 10);
    rig.kill(0);
    rig.is_cut = true;
    rig.start(0);
    rig.until("it serves hosts", |rig| rig.serves(0));
    assert_eq!((rig.generation(0), rig.identities(0)), (5, identities), "the same disks, of the same generation");
    rig.write_some(0, 10);
    rig.is_cut = false;
    rig.until("the other one is fenced", |rig| !rig.serves(1));
    demote(&mut rig, 1);
    settle(&mut rig, 0);
}

#[test]
fn a_swap_is_abandoned_only_when_the_secondary_was_told_of_it_cannot_be_asked_and_is_given_up_by_number() {
    let mut rig = Rig::new(24, crate::types::Scope::Group);
    rig.write_some(0, 10);
    settle(&mut rig, 0);
    let refused = |rig: &mut Rig, given_up: u64, what: &str| {
        let (refused, ticket) = abandon(rig, given_up);
        let error = refused.expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
        assert!(rig.answer(0, ticket).is_none());
    };
    refused(&mut rig, 2, "no swap to abandon");
    // A write that the secondary does not have: the hand-over drains.
    rig.is_cut = true;
    rig.write(0, 0, 1, 1);
    rig.operate(0, |engine, now, world, ticket| {
        engine.group_swap(now, group(), ticket, world).expect("a group in PAIR state is swapped");
    });
    refused(&mut rig, 2, "has not been told of the swap yet");
    rig.is_cut = false;
    rig.until("the secondary is told", |rig| {
        rig.is_cut = rig.is_handing_over(0);
        rig.is_cut
    });
    rig.run(2);
    refused(&mut rig, 2, "the link to the secondary is up");
    rig.until("the link is known to be down", |rig| !rig.link_is_up(0));
    for wrong in [0, 1, 3] {
        refused(&mut rig, wrong, "name generation 2 to give it up");
    }
    assert!(!rig.serves(0), "nothing was changed");
    abandon_for_good(&mut rig, 2);
    refused(&mut rig, 2, "no swap to abandon");
}

#[test]
fn of_an_abandoned_swap_one_primary_remains_whichever_system_dies_at_whichever_event() {
    crash_everywhere("abandoned", 97, |rig| {
        rig.write_some(0, 12);
        settle(rig, 0);
        rig.is_cut = rig.below(2) == 0;
        let _ = rig.operate(0, |engine, now, world, ticket| engine.group_swap(now, group(), ticket, world));
        rig.until("one primary", |rig| {
            rig.is_cut |= rig.crashes == 0 && rig.has_logged(1, "the primary hands it over");
            let roles = (rig.role(0), rig.role(1));
            if roles == (Some(Role::Primary), Some(Role::Primary)) || !rig.serves(0) {
                let _ = abandon(rig, 2);
            }
            if rig.generation(0) == 3 && rig.serves(0) {
                rig.is_cut = false;
                if roles.1 == Some(Role::Primary) && !rig.serves(1) {
                    demote(rig, 1);
                }
            }
            let copies = [0, 1].into_iter().any(|me| {
                let is_whole = rig.state(me).as_deref() == Some("PAIR");
                is_whole && rig.serves(me) && rig.role(1 - me) == Some(Role::Secondary)
            });
            copies && (rig.generation(0) == 3 || rig.role(0) == Some(Role::Secondary) || rig.crashes > 0)
        });
        rig.is_cut = false;
        let primary = if rig.role(0) == Some(Role::Primary) { 0 } else { 1 };
        rig.write_some(primary, 8);
        settle(rig, primary);
    });
}
