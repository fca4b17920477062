//! The deterministic simulator: whole systems in one thread, in virtual time, with everything that can go wrong drawn from
//! a seed.
//!
//! The engine is the one that the reactors run ([`longrun_copy::engine::Engine`]); only its ports are simulated. Each core
//! is a node with skewed clocks, turns of its own length and bounded memory; the network loses, overtakes, duplicates and
//! damages; disks complete in any order and lose, tear and reorder what was not flushed; processes die at any event.
//!
//! What is checked, and when:
//!
//! - at each stamp: it is above every stamp that its host could know of (promise 2), above the secondary's limit time
//!   (promise 1), and its stream's times and numbers rise;
//! - after each turn of the secondary: the recovery point never takes a record back, everything up to it is durable, its
//!   age is never below the true one (promises 1, 9), memory and journal stay in their bounds (promise 10);
//! - after each turn of a primary: its lag is honest, its buffer bounded, a fenced one serves nobody (promises 7, 9, 10);
//! - at events drawn from the seed: a copy of the secondary crashes (its disks lose what they may), is started and taken
//!   over, and every byte is compared with the replay of all records up to the certificate's recovery point (promises
//!   1, 5);
//! - in the end: primaries hold the replay of everything, the secondary catches up when the faults stop (promise 8), the
//!   takeover ends through crashes at any of its steps (promise 5), what hosts write afterwards outlives another crash,
//!   and old primaries are fenced and change nothing (promise 7);
//! - in worlds of two sites that exchange their parts: after each swap and each failback both sites are equal, what hosts
//!   were told is there, and at every event at most one site serves hosts (promises 6, 7);
//! - where operators make pairs larger, compare them or look at them in a test: a pair that grew is a cut over its whole new
//!   size; a verify lists exactly the pieces that were altered below the copy, and after a repair none is; a view is the
//!   image at its time for its whole life, and what its hosts write never reaches the copy;
//! - a seed gives the same trace each time (promise 12).

mod aim;
mod alter;
mod anew;
mod apart;
#[doc(hidden)]
pub mod chance;
mod checks;
pub mod coverage;
mod disk;
mod ending;
mod exchange;
mod faults;
mod fork;
mod growth;
mod history;
mod host;
mod local;
mod marks;
mod memory;
mod node;
mod operators;
pub mod plan;
pub mod report;
mod setup;
mod sick;
mod view;
mod world;

use coverage::{Hit, State};
pub use plan::Plan;
pub use report::Totals;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// How a seed ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of everything that happened.
    pub trace: u64,
    /// What it exercised.
    pub totals: Totals,
    /// Which fault met which state.
    pub coverage: coverage::Coverage,
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_SIMULATING: RefCell<bool> = const { RefCell::new(false) };
}

static HOOK: Once = Once::new();

/// Runs the world of this seed to its end.
///
/// # Errors
/// What was broken, and where in the source it was noticed.
pub fn run(seed: u64, verbose: bool) -> Result<Outcome, String> {
    run_drawn(seed, verbose, |plan, chance| {
        plan.draw_asides(chance);
        plan.draw_aim(seed, chance);
    })
}

/// As [`run`], without what [`Plan::draw_asides`] draws, and with a plan that was changed: for tests of one sequence of
/// events.
///
/// # Errors
/// As for [`run`].
pub fn run_planned(seed: u64, verbose: bool, change: impl FnOnce(&mut Plan)) -> Result<Outcome, String> {
    run_drawn(seed, verbose, |plan, _| change(plan))
}

/// As [`run`], directed at one cell of the table of states and faults.
///
/// # Errors
/// As for [`run`].
pub fn run_aimed(seed: u64, verbose: bool, state: State, hit: Hit) -> Result<Outcome, String> {
    run_drawn(seed, verbose, |plan, chance| {
        plan.draw_asides(chance);
        plan.aim_at(state, hit, chance);
    })
}

fn run_drawn(seed: u64, verbose: bool, change: impl FnOnce(&mut Plan, &mut chance::Chance)) -> Result<Outcome, String> {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_SIMULATING.with_borrow(|is| *is) {
                return before(info);
            }
            let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
            let line = format!("{} ({place})", text.unwrap_or("panic"));
            LAST_PANIC.set(Some(line));
        }));
    });
    IS_SIMULATING.set(true);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut chance = chance::Chance::new(seed);
        let mut plan = Plan::draw(&mut chance);
        plan.draw_cores(&mut chance.aside(3));
        change(&mut plan, &mut chance.aside(1));
        if verbose {
            println!("{plan:#?}");
        }
        let mut world = world::World::with_plan(plan, chance, verbose);
        world.live();
        Outcome { trace: world.trace, totals: world.totals, coverage: world.coverage }
    }));
    IS_SIMULATING.set(false);
    ended.map_err(|_| LAST_PANIC.take().unwrap_or_default())
}
