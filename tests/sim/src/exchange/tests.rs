//! What the play between two sites says of them.

use super::*;
use crate::chance::Chance;
use crate::disk::Loss;
use crate::plan::{Ending, Plan};

#[test]
fn a_site_that_took_over_earlier_does_not_follow_the_next_takeover_just_because_it_starts_again() {
    let mut chance = Chance::new(1);
    let plan = Plan {
        ending: Ending::Exchange,
        initial: Initial::Identical,
        primaries: 1,
        groups: 1,
        ..Plan::draw(&mut chance)
    };
    let mut world = World::with_plan(plan, chance, false);
    world.set_up();
    world.begin_exchange();
    world.swap();
    assert!(world.follows(0, 0), "swapped");
    world.settle_exchange();
    // Site 1, which took over by the swap, loses its part to site 0, hears nothing of it, and starts again.
    for (from, to) in [(0, 1), (1, 0)] {
        world.cut(from, to, world.at + 1000 * SECOND);
    }
    let (id, ticket) = (world.groups[0].id, world.ticket(0));
    world.exchange_of().is_split[0] = true;
    let consent = TakeoverConsent { old_primary_fenced: false, accept_split: true };
    let begun = world.operate(0, |engine, ports, now| {
        let (roles, mut world) = engine.secondary(ports);
        roles.group_takeover(now, id, consent, TakeoverAt::Newest, ticket, &mut world)
    });
    assert_eq!(begun, Ok(()));
    let deadline = world.at + 20 * SECOND;
    world.run_until("taken over", deadline, |world| world.role_at(0, 0) == Some(Role::Primary));
    world.kill(1, Loss::Process);
    world.start_node(1);
    assert_eq!(world.role_at(1, 0), Some(Role::Secondary), "its record of the swap, until its first turn");
    assert!(!world.follows(1, 0));
    world.run_for(100 * MS);
    assert!(world.serves(1, 0), "nobody has told it");
}
