//! What operators do when they create everything again.

use super::*;
use crate::chance::Chance;
use crate::plan::{Ending, Plan};

#[test]
fn whoever_creates_pairs_anew_sets_clocks_right_first_that_are_too_far_apart() {
    let mut chance = Chance::new(1);
    let plan = Plan {
        ending: Ending::Quiet,
        initial: Initial::Identical,
        primaries: 1,
        faults: vec![Fault::ClockStep],
        faults_at_setup: false,
        ..Plan::draw(&mut chance)
    };
    let mut world = World::with_plan(plan, chance, false);
    world.set_up();
    // Killed again and again, and each time its timeline began where the lease ended.
    let at = world.at;
    let far = Time(world.nodes[0].clock.read(at).time.0 + 40 * SECOND);
    world.kill(0, Loss::Process);
    world.nodes[0].clock.set_wall(at, far);
    world.start_node(0);
    assert!(world.nodes[0].clock.read(at).time >= far);
    world.run_for(SECOND);
    let secondary = world.secondary();
    assert!(world.nodes[secondary].clock.read(at).time.after_ns(30 * SECOND) < far);
    for client in 0..world.clients.len() {
        world.clients[client].op = None;
    }
    world.ops_left = 0;
    world.create_anew();
    let times: Vec<u64> = world.nodes.iter_mut().map(|node| node.clock.read(world.at).time.0).collect();
    assert!(times[0].abs_diff(times[1]) < SECOND, "{times:?}");
}
