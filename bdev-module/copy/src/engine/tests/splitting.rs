//! Both sites begin a generation of one number.

use super::rig::{Rig, group};
use super::{SCOPES, fail_back, settle};
use crate::engine::OperatorError;
use crate::ports::OperatorAnswer;
use crate::role::Role;
use crate::types::{Extent, Scope};

/// System 0 was restored from a copy of the secondary, and both took the group over: 1 later than 0, with more of the
/// history, and both have hosts.
fn split(seed: u64, scope: Scope) -> Rig {
    let mut rig = Rig::new(seed, scope);
    rig.write_some(0, 20);
    settle(&mut rig, 0);
    let kept = rig.copy_of(1);
    // What only one of the two has, and neither marks.
    rig.write(0, 0, 900, 91);
    rig.until("it is there", |rig| rig.volume(1, 0, 900) == 91);
    settle(&mut rig, 0);
    rig.is_cut = true;
    rig.restore(0, kept);
    for me in [0, 1] {
        rig.take_over(me);
        rig.until("it is a primary", |rig| rig.role(me) == Some(Role::Primary));
        rig.write(me, 0, 7, 70 + me as u8);
        rig.until("written", |rig| rig.volume(me, 0, 7) == 70 + me as u8);
    }
    assert_ne!((rig.volume(0, 0, 900), rig.volume(1, 0, 900)), (91, 91));
    rig.forget_told(1);
    rig.is_cut = false;
    rig.until("both know of the split", |rig| {
        for me in [0, 1] {
            // What was taken over is brought back by an operator's word only: that is how they meet.
            let _ = rig.operate(me, |engine, now, world, _| engine.group_failback(now, group(), world));
        }
        [0, 1].into_iter().all(|me| rig.reason(me).contains("was begun twice"))
    });
    rig
}

#[test]
fn a_split_of_one_number_ends_when_one_site_s_generation_is_given_up_by_its_id() {
    for scope in SCOPES {
        let mut rig = split(31, scope);
        let [ours, other] = [0, 1].map(|me| rig.whole_generation(me));
        assert_eq!((ours.number, other.number), (2, 2));
        for me in [0, 1] {
            let shown = rig.reason(me);
            assert!(
                shown.contains(&format!("{:016x}", ours.id)) && shown.contains(&format!("{:016x}", other.id)),
                "{shown}"
            );
        }
        // It outlives a restart.
        rig.kill(0);
        rig.start(0);
        rig.until("still known", |rig| rig.role(0) == Some(Role::Primary) && rig.reason(0).contains("was begun twice"));
        let config = rig.as_secondary();
        let (refused, _) =
            rig.operate(0, |engine, now, world, ticket| engine.group_demote(now, group(), config, 2, ticket, world));
        let text = refused.expect_err("a number names both").to_string();
        assert!(text.contains(&format!("discard_id {:016x}", ours.id)), "{text}");
        for wrong in [(2, other.id), (1, ours.id), (3, ours.id)] {
            let config = rig.as_secondary();
            let (refused, _) = rig.operate(0, |engine, now, world, ticket| {
                engine.group_demote_in_split(now, group(), config, wrong, ticket, world)
            });
            assert!(matches!(refused, Err(OperatorError::Invalid(_))), "{refused:?}");
        }
        let config = rig.as_secondary();
        let (begun, ticket) = rig.operate(0, |engine, now, world, ticket| {
            engine.group_demote_in_split(now, group(), config, (2, ours.id), ticket, world)
        });
        assert_eq!(begun, Ok(()));
        rig.until("given up", |rig| rig.answer(0, ticket).is_some());
        let answer = rig.answer(0, ticket);
        assert!(
            matches!(&answer, Some(Ok(OperatorAnswer::Demoted { generation })) if *generation == other),
            "{answer:?}"
        );
        fail_back(&mut rig, 1);
        settle(&mut rig, 1);
        assert_eq!((rig.volume(0, 0, 900), rig.volume(0, 0, 7)), (91, 71), "what neither site had marked");
        rig.write_some(1, 10);
        settle(&mut rig, 1);
    }
}

#[test]
fn of_a_primary_that_follows_another_history_all_is_compared() {
    let mut rig = split(32, Scope::Group);
    let (ours, other) = (rig.whole_generation(0), rig.whole_generation(1));
    let (former, _) = rig.operate(0, |engine, _, world, _| {
        let (primary, _) = engine.primary(world);
        [other, crate::types::Generation { number: 3, id: 5, parent: ours.id }].map(|follows| {
            primary.former(group(), follows, None).expect("nothing is at its devices").pairs[0].marked.clone()
        })
    });
    let all = Extent { lba: 0, blocks: super::rig::BLOCKS as u32 };
    assert_eq!(former[0], [all]);
    assert_ne!(former[1], [all], "its map says it");
}

#[test]
fn a_generation_is_named_by_its_id_in_a_split_of_one_number_only() {
    let mut rig = Rig::new(33, Scope::Group);
    let config = rig.as_secondary();
    let (refused, _) = rig.operate(0, |engine, now, world, ticket| {
        engine.group_demote_in_split(now, group(), config, (1, 1), ticket, world)
    });
    assert!(matches!(refused, Err(OperatorError::WrongState(_))), "{refused:?}");
}
