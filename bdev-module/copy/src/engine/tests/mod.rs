//! A group changes its part between two whole systems, whatever dies on the way.

mod abandoning;
mod resizing;
mod rig;
mod splitting;

use super::OperatorError;
use crate::message::Message;
use crate::ports::{HostError, OperatorAnswer};
use crate::role::Role;
use crate::secondary::TakeoverAt;
use crate::types::{LinkId, PairId, Scope};
use rig::{Rig, group};

const SCOPES: [Scope; 3] = [Scope::Group, Scope::Pair, Scope::System];

/// Makes the fenced system a secondary, asking again after each crash.
fn demote(rig: &mut Rig, me: usize) {
    rig.until("the old primary is fenced, then a secondary", |rig| {
        if rig.role(me) == Some(Role::Secondary) {
            return true;
        }
        let config = rig.as_secondary();
        // The generation that is given up: the one this system is at.
        let ours = rig.generation(me);
        let _ = rig
            .operate(me, |engine, now, world, ticket| engine.group_demote(now, group(), config, ours, ticket, world));
        false
    });
}

/// Brings the other site up to date, asking again after each crash.
fn fail_back(rig: &mut Rig, me: usize) {
    rig.until("failed back", |rig| {
        if rig.state(me).as_deref() == Some("PAIR") && rig.state(1 - me).as_deref() == Some("S-PAIR") {
            return true;
        }
        let _ = rig.operate(me, |engine, now, world, _| engine.group_failback(now, group(), world));
        false
    });
}

/// Hosts rest until both sides must hold the same.
fn settle(rig: &mut Rig, primary: usize) {
    rig.until("everything is applied", |rig| {
        rig.state(primary).as_deref() == Some("PAIR") && rig.lacks(1 - primary) == 0
    });
    rig.run(250);
    // What dies now dies after the story.
    rig.doom = None;
    rig.until("everything is applied, whatever died", |rig| {
        rig.state(primary).as_deref() == Some("PAIR") && rig.lacks(1 - primary) == 0
    });
    rig.run(100);
    rig.assert_equal();
    rig.assert_told(primary);
    rig.assert_told(1 - primary);
}

/// Swaps from `from`, asking again after each refusal or crash.
fn swap(rig: &mut Rig, from: usize) {
    rig.until("swapped", |rig| {
        if rig.role(from) == Some(Role::Secondary) && rig.role(1 - from) == Some(Role::Primary) {
            return true;
        }
        let _ = rig.operate(from, |engine, now, world, ticket| engine.group_swap(now, group(), ticket, world));
        false
    });
}

#[test]
fn after_a_takeover_and_failback_both_sides_are_equal_and_roles_are_exchanged() {
    for scope in SCOPES {
        let mut rig = Rig::new(1, scope);
        rig.write_some(0, 40);
        settle(&mut rig, 0);
        // The link breaks; the old primary's hosts write on, and that is lost by the operator's word only.
        rig.is_cut = true;
        rig.write_some(0, 20);
        rig.take_over(1);
        rig.forget_told(1);
        rig.write_some(1, 30);
        rig.is_cut = false;
        rig.until("the old primary is fenced", |rig| !rig.serves(0));
        let refused = rig.write(0, 0, 1, 9);
        rig.run(10);
        assert_eq!(rig.outcome(0, refused), Some(Err(HostError::Fenced)));
        demote(&mut rig, 0);
        fail_back(&mut rig, 1);
        rig.write_some(1, 30);
        settle(&mut rig, 1);
        assert_eq!((rig.role(0), rig.role(1)), (Some(Role::Secondary), Some(Role::Primary)));
    }
}

#[test]
fn a_pair_that_was_made_after_a_failback_is_its_primary_s_again_at_the_next_start() {
    let mut rig = Rig::new(1, Scope::Group);
    rig.write_some(0, 40);
    rig.is_cut = true;
    rig.take_over(1);
    rig.is_cut = false;
    demote(&mut rig, 0);
    fail_back(&mut rig, 1);
    settle(&mut rig, 1);
    // The group's value as a secondary stays at its primary, which does not know the new pair by it.
    rig.pairs.push("late".into());
    let late = |rig: &mut Rig, me| {
        let (role, _) = rig.operate(me, |engine, now, world, _| {
            let pair = PairId::of_name(group(), "late");
            let role = engine.pair_role(now, group(), pair, world);
            let is_there = engine.primary(world).0.has_pair(pair);
            (role, is_there)
        });
        role
    };
    assert_eq!(late(&mut rig, 0), (Some(Role::Secondary), false));
    assert_eq!(late(&mut rig, 1), (Some(Role::Primary), false));
    rig.create_pair(0, 2);
    rig.create_pair(1, 2);
    rig.until("it copies", |rig| rig.write(1, 2, 5, 9).0 > 0 && rig.volume(0, 2, 5) == 9);
    rig.kill(1);
    rig.start(1);
    rig.until("it copies again", |rig| rig.write(1, 2, 6, 8).0 > 0 && rig.volume(0, 2, 6) == 8);
    assert_eq!(late(&mut rig, 1), (Some(Role::Primary), true));
}

#[test]
fn a_swap_loses_nothing_and_there_and_back_again_both_sides_are_equal() {
    for scope in SCOPES {
        let mut rig = Rig::new(2, scope);
        rig.write_some(0, 40);
        for from in [0, 1, 0] {
            let ((), ticket) = rig.operate(from, |engine, now, world, ticket| {
                engine.group_swap(now, group(), ticket, world).expect("a group in PAIR state is swapped");
            });
            let waits = rig.write(from, 0, 3, 77);
            rig.until("swapped", |rig| rig.answer(from, ticket).is_some());
            assert_eq!(rig.outcome(from, waits), Some(Err(HostError::Transition)), "hosts go to the other path");
            let answer = rig.answer(from, ticket);
            assert!(matches!(answer, Some(Ok(OperatorAnswer::Swapped { .. }))), "{answer:?}");
            assert!(rig.serves(1 - from) && !rig.serves(from), "never two primaries, and one");
            rig.assert_told(1 - from);
            // The new primary sends by itself.
            rig.write_some(1 - from, 30);
            settle(&mut rig, 1 - from);
        }
    }
}

#[test]
fn a_volume_is_the_same_disk_at_both_sites_through_swaps_and_another_one_after_a_disaster() {
    for scope in SCOPES {
        let mut rig = Rig::new(5, scope);
        rig.write_some(0, 10);
        settle(&mut rig, 0);
        let first = rig.identities(0);
        assert!(!first.is_empty() && first.iter().all(|identity| *identity == Some([1; 16])), "{first:?}");
        assert_eq!(rig.identities(1), first);
        for from in [0, 1, 0] {
            swap(&mut rig, from);
            rig.write_some(1 - from, 10);
            settle(&mut rig, 1 - from);
            assert_eq!((rig.identities(0), rig.identities(1)), (first.clone(), first.clone()));
        }
        // Both die and come back as what they are now.
        for me in [0, 1] {
            rig.kill(me);
            rig.start(me);
        }
        settle(&mut rig, 1);
        assert_eq!((rig.identities(0), rig.identities(1)), (first.clone(), first.clone()));
        rig.is_cut = true;
        rig.take_over(0);
        rig.forget_told(0);
        let second = rig.identities(0);
        let is_new = |(now, before): (&Option<[u8; 16]>, _)| now.is_some() && now != before;
        assert!(second.iter().zip(&first).all(is_new), "{second:?}");
        rig.is_cut = false;
        rig.until("the old primary is fenced", |rig| !rig.serves(1));
        assert_eq!(rig.identities(1), first, "until it follows");
        demote(&mut rig, 1);
        fail_back(&mut rig, 0);
        settle(&mut rig, 0);
        assert_eq!((rig.identities(0), rig.identities(1)), (second.clone(), second));
    }
}

#[test]
fn a_group_that_was_taken_over_serves_hosts_without_its_journal_and_needs_one_to_be_swapped() {
    let mut rig = Rig::new(12, Scope::Group);
    rig.write_some(0, 20);
    settle(&mut rig, 0);
    let (refused, _) = rig.operate(1, |engine, now, world, _| {
        let (roles, mut world) = engine.secondary(world);
        roles.group_take_up(now, "g", &mut world)
    });
    assert!(matches!(refused, Err(OperatorError::WrongState(_))), "{refused:?}");
    rig.is_cut = true;
    rig.take_over(1);
    rig.forget_told(1);
    rig.write_some(1, 10);
    rig.kill(1);
    rig.is_cut = true;
    rig.lose_journal(1);
    rig.start(1);
    rig.until("hosts are served", |rig| rig.serves(1) && rig.role(1) == Some(Role::Primary));
    rig.write_some(1, 10);
    rig.is_cut = false;
    demote(&mut rig, 0);
    fail_back(&mut rig, 1);
    settle(&mut rig, 1);
    let (refused, _) = rig.operate(1, |engine, now, world, ticket| engine.group_swap(now, group(), ticket, world));
    assert!(matches!(&refused, Err(OperatorError::WrongState(text)) if text.contains("no journal")), "{refused:?}");
    let config = rig.as_secondary();
    rig.operate(1, |engine, _, _, _| engine.offer_secondary(group(), config));
    swap(&mut rig, 1);
    settle(&mut rig, 0);
}

#[test]
fn a_refused_swap_lets_hosts_write_where_they_did() {
    let mut rig = Rig::new(3, Scope::Group);
    rig.write_some(0, 10);
    rig.no_way_back(1);
    let ((), ticket) = rig.operate(0, |engine, now, world, ticket| {
        engine.group_swap(now, group(), ticket, world).expect("the secondary's reasons are not known yet");
    });
    rig.until("refused", |rig| rig.answer(0, ticket).is_some());
    let answer = rig.answer(0, ticket);
    assert!(
        matches!(&answer, Some(Err(OperatorError::WrongState(text))) if text.contains("no link back")),
        "{answer:?}"
    );
    rig.until("hosts are served again", |rig| rig.serves(0));
    rig.write_some(0, 10);
    settle(&mut rig, 0);
}

#[test]
fn a_swap_whose_secondary_does_not_answer_waits_and_never_makes_two_primaries() {
    let mut rig = Rig::new(4, Scope::Group);
    rig.write_some(0, 10);
    let ((), ticket) = rig.operate(0, |engine, now, world, ticket| {
        engine.group_swap(now, group(), ticket, world).expect("a group in PAIR state is swapped");
    });
    rig.until("the secondary is the primary", |rig| {
        rig.is_cut = rig.systems[1].world.log.iter().any(|line| line.contains("the primary hands it over"));
        rig.role(1) == Some(Role::Primary)
    });
    // Far beyond every time-out.
    for _ in 0..40 {
        rig.at += 1_000_000_000;
        rig.run(5);
        assert!(!rig.serves(0), "zero loss: a host writes at the old primary behind the new one's back");
    }
    assert_eq!(rig.answer(0, ticket).map(|answer| answer.is_ok()), None);
    rig.is_cut = false;
    rig.until("swapped", |rig| rig.answer(0, ticket).is_some());
    settle(&mut rig, 1);
}

#[test]
fn a_swap_back_whose_end_is_heard_late_is_no_split() {
    let mut rig = Rig::new(11, Scope::Group);
    rig.write_some(0, 10);
    swap(&mut rig, 0);
    settle(&mut rig, 1);
    rig.operate(1, |engine, now, world, ticket| {
        engine.group_swap(now, group(), ticket, world).expect("a group in PAIR state is swapped");
    });
    rig.until("the first primary is it again", |rig| {
        rig.is_cut = rig.systems[0].world.log.iter().any(|line| line.contains("the primary hands it over"));
        rig.role(0) == Some(Role::Primary)
    });
    // It sends as soon as there is a session, and the other has not heard yet that it is the primary no more.
    rig.run(3000);
    rig.is_cut = false;
    rig.write_some(0, 10);
    settle(&mut rig, 0);
}

#[test]
fn only_a_fenced_primary_is_demoted_and_only_by_naming_what_is_given_up() {
    let mut rig = Rig::new(5, Scope::Group);
    rig.write_some(0, 10);
    let config = rig.as_secondary();
    let (refused, _) =
        rig.operate(0, |engine, now, world, ticket| engine.group_demote(now, group(), config, 1, ticket, world));
    assert!(matches!(refused, Err(OperatorError::WrongState(_))), "{refused:?}");
    let (refused, _) = rig.operate(0, |engine, now, world, _| engine.group_failback(now, group(), world));
    assert!(matches!(refused, Err(OperatorError::WrongState(_))), "{refused:?}");
    rig.is_cut = true;
    rig.take_over(1);
    rig.is_cut = false;
    rig.until("the old primary is fenced", |rig| !rig.serves(0));
    for wrong in [0, 2, 3] {
        let config = rig.as_secondary();
        let (refused, _) = rig
            .operate(0, |engine, now, world, ticket| engine.group_demote(now, group(), config, wrong, ticket, world));
        assert!(matches!(&refused, Err(OperatorError::Invalid(text)) if text.contains("generation 1")), "{refused:?}");
    }
    rig.run(100);
    assert_eq!(rig.role(0), Some(Role::Primary), "nothing was changed");
    let config = rig.as_secondary();
    let (begun, ticket) =
        rig.operate(0, |engine, now, world, ticket| engine.group_demote(now, group(), config, 1, ticket, world));
    assert_eq!(begun, Ok(()));
    let refused = rig.write(0, 0, 1, 9);
    rig.until("demoted", |rig| rig.answer(0, ticket).is_some());
    assert_eq!(rig.outcome(0, refused).map(|outcome| outcome.is_err()), Some(true), "refused from the start of it");
    // It holds nothing of generation 2 yet.
    let (refused, _) = rig.operate(0, |engine, now, world, ticket| {
        let (roles, mut world) = engine.secondary(world);
        let consent = crate::secondary::TakeoverConsent { old_primary_fenced: true, accept_split: true };
        roles.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut world)
    });
    assert!(matches!(refused, Err(OperatorError::WrongState(_))), "{refused:?}");
}

#[test]
fn what_a_takeover_at_an_earlier_point_threw_away_is_brought_back_by_failback() {
    let mut rig = Rig::delayed(6, Scope::Group, 100_000_000_000);
    rig.write_some(0, 20);
    rig.until("both hold it", |rig| rig.lacks_records(1) == 0);
    rig.run(300);
    let (marked, _) = rig.operate(0, |engine, now, world, _| {
        let (roles, mut world) = engine.primary(world);
        roles.group_bookmark(now, group(), "before", &mut world)
    });
    marked.expect("a group in PAIR state");
    // These are durable at both sites, so the old primary's marks of them go.
    rig.write_some(0, 20);
    rig.until("no mark is left at the old primary", |rig| rig.marked(0) == 0);
    rig.take_over_at(1, TakeoverAt::Bookmark("before".into()));
    rig.forget_told(1);
    rig.until("the old primary is fenced", |rig| !rig.serves(0));
    rig.apply_delay_ns = 0;
    demote(&mut rig, 0);
    fail_back(&mut rig, 1);
    settle(&mut rig, 1);
}

#[test]
fn what_hosts_wrote_before_anybody_could_mark_it_is_all_compared_by_failback() {
    let mut rig = Rig::new(7, Scope::Group);
    rig.write_some(0, 20);
    settle(&mut rig, 0);
    rig.is_cut = true;
    rig.no_way_back(1);
    rig.take_over(1);
    assert_eq!(rig.role(1), Some(Role::Secondary), "nobody said how it is a primary");
    rig.forget_told(1);
    rig.write_some(1, 20);
    rig.way_back(1);
    rig.is_cut = false;
    rig.until("taken up", |rig| rig.role(1) == Some(Role::Primary));
    demote(&mut rig, 0);
    fail_back(&mut rig, 1);
    settle(&mut rig, 1);
}

#[test]
fn a_hand_over_of_records_that_are_not_all_here_is_refused_and_changes_nothing() {
    let mut rig = Rig::new(8, Scope::Group);
    rig.write_some(0, 10);
    settle(&mut rig, 0);
    let (generation, from) = (rig.whole_generation(0), rig.system_id(0));
    for last_sum in [11, 9] {
        rig.operate(1, |engine, now, world, _| {
            let end = now.time;
            let ask = Message::HandOver { group: group(), generation, end, last_sum: Some(last_sum) };
            let (roles, mut world) = engine.secondary(world);
            roles.message(now, LinkId(0), from, ask, &mut world);
        });
        rig.run(200);
        assert_eq!(rig.role(1), Some(Role::Secondary), "zero loss: {last_sum} is not the sum of what is here");
        assert!(rig.serves(0));
    }
    rig.write_some(0, 10);
    settle(&mut rig, 0);
}

#[test]
fn a_disaster_takeover_before_the_secondary_heard_of_a_swap_fences_the_old_primary() {
    let mut rig = Rig::new(9, Scope::Group);
    rig.write_some(0, 10);
    settle(&mut rig, 0);
    // All is there, so the swap needs no answer before it is noted; and what it says then is lost.
    rig.is_cut = true;
    let ((), ticket) = rig.operate(0, |engine, now, world, ticket| {
        engine.group_swap(now, group(), ticket, world).expect("a group in PAIR state is swapped");
    });
    rig.until("handing over is noted", |rig| rig.is_handing_over(0));
    rig.run(100);
    rig.take_over(1);
    rig.forget_told(1);
    rig.is_cut = false;
    rig.until("the old primary's operator is told", |rig| rig.answer(0, ticket).is_some());
    assert!(matches!(rig.answer(0, ticket), Some(Err(OperatorError::WrongState(_)))), "{:?}", rig.answer(0, ticket));
    let refused = rig.write(0, 0, 1, 9);
    rig.run(10);
    assert_eq!(rig.outcome(0, refused), Some(Err(HostError::Fenced)), "fencing: an older generation serves no host");
    demote(&mut rig, 0);
    fail_back(&mut rig, 1);
    settle(&mut rig, 1);
}

#[test]
fn while_a_group_is_handed_over_operators_and_hosts_are_told_to_wait() {
    let mut rig = Rig::new(10, Scope::Group);
    rig.write_some(0, 10);
    let ((), ticket) = rig.operate(0, |engine, now, world, ticket| {
        engine.group_swap(now, group(), ticket, world).expect("a group in PAIR state is swapped");
    });
    rig.is_cut = true;
    rig.run(50);
    let (refused, _) = rig.operate(0, |engine, now, world, ticket| {
        let twice = engine.group_swap(now, group(), ticket, world);
        let (roles, mut world) = engine.primary(world);
        let pair = roles.pairs()[0];
        [
            twice,
            roles.group_suspend(now, group(), ticket, &mut world),
            roles.group_resync(now, group(), true, &mut world),
            roles.group_bookmark(now, group(), "b", &mut world).map(|_| ()),
            roles.group_verify(now, group(), None, true, &mut world),
            roles.pair_delete(now, pair, ticket, &mut world),
        ]
    });
    for refused in refused {
        assert!(matches!(refused, Err(OperatorError::WrongState(_))), "{refused:?}");
    }
    rig.is_cut = false;
    rig.until("swapped", |rig| rig.answer(0, ticket).is_some());
    settle(&mut rig, 1);
}

/// Every event of either system, as far as a short run of them goes, is a system's last one.
fn crash_everywhere(name: &str, stride: u64, run: impl Fn(&mut Rig)) {
    let seed = name.len() as u64;
    for me in 0..2 {
        let mut whole = Rig::new(seed, Scope::Group);
        let begun = whole.systems[me].events;
        run(&mut whole);
        let ended = whole.systems[me].events;
        for event in (begun + 1 + seed % stride..ended).step_by(stride as usize) {
            let mut rig = Rig::new(seed, Scope::Group);
            rig.doom = Some((me, event));
            run(&mut rig);
        }
    }
}

#[test]
fn a_swap_loses_nothing_whichever_system_dies_at_whichever_event() {
    crash_everywhere("swap", 11, |rig| {
        rig.write_some(0, 12);
        swap(rig, 0);
        rig.assert_told(1);
        rig.write_some(1, 8);
        settle(rig, 1);
    });
}

#[test]
fn failback_makes_both_sides_equal_whichever_system_dies_at_whichever_event() {
    crash_everywhere("failback", 29, |rig| {
        rig.write_some(0, 12);
        rig.is_cut = true;
        rig.write_some(0, 6);
        rig.take_over(1);
        rig.forget_told(1);
        rig.write_some(1, 8);
        rig.is_cut = false;
        demote(rig, 0);
        fail_back(rig, 1);
        rig.write_some(1, 8);
        settle(rig, 1);
    });
}

#[test]
fn what_a_dead_primary_had_spilled_moves_the_recovery_point_before_the_resync() {
    for scope in [Scope::Group, Scope::Pair] {
        for seed in 0..4 {
            let mut rig = Rig::spilling(seed, scope);
            rig.write_some(0, 10);
            rig.until("the secondary has it", |rig| rig.lacks(1) == 0);
            let before = rig.recovery_point(1);
            rig.is_cut = true;
            for _ in 0..10 {
                rig.write_some(0, 8);
            }
            assert_ne!(
                rig.state(0).as_deref(),
                Some("PFUS"),
                "far more than the send buffer holds\n{}",
                rig.describe()
            );
            rig.run(100);
            rig.kill(0);
            rig.start(0);
            rig.until("the spill was sent", |rig| rig.has_logged(0, "all that the spill held is there"));
            let after = rig.recovery_point(1);
            assert!(after > before, "{after} {before}\n{}", rig.describe());
            assert!(!rig.has_logged(1, "resynced from"), "before the resync");
            rig.write_some(0, 10);
            settle(&mut rig, 0);
            let resynced = format!("resynced from {after}");
            assert!(rig.has_logged(1, &resynced), "{resynced}\n{}", rig.describe());
        }
    }
}

#[test]
fn with_a_spill_nothing_is_lost_whenever_the_primary_dies_and_whenever_the_link_breaks() {
    for seed in 0..12 {
        let mut rig = Rig::spilling(100 + seed, if seed % 2 == 0 { Scope::Group } else { Scope::Pair });
        for _ in 0..3 {
            rig.is_cut = rig.below(2) == 0;
            for _ in 0..rig.below(20) {
                rig.write_some(0, 4);
            }
            rig.is_cut = false;
            let turns = rig.below(30);
            rig.run(turns);
            rig.kill(0);
            rig.start(0);
        }
        settle(&mut rig, 0);
    }
}
