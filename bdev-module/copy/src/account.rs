//! Where a write's time goes: cycles by step, in builds with the feature `accounting`; in others nothing of this is there.
//!
//! A thread is in one step at a time. [`within`] enters another until what it answers is dropped, so steps that are reached
//! from others are not counted twice, and the sum over all steps is the time since [`start`]. The counter is given by the
//! embedding: nothing here reads a clock. A change of step costs two readings of it, which count for the steps that meet.

/// A part of a write's way, or of what a reactor does beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Waiting, and whole turns that looked for work and found none.
    Idle,
    /// Whatever has no name of its own: looking for work, timers, control.
    Rest,
    /// In the kernel: what was submitted is taken, what is done is fetched, waiting for it included.
    Kernel,
    /// A connection's bytes: PDUs parsed, data put in its buffer.
    Pdu,
    /// A request on its way through the block devices to the pair, and its order among the others there.
    Request,
    /// A time and a number.
    Stamp,
    /// The local write is handed to the device.
    Local,
    /// The record is handed to its stream, counted, and kept until it is durable at the secondary.
    Push,
    /// Records cut into datagrams, and these sealed.
    Frame,
    /// Datagrams handed to the network.
    Send,
    /// The device is done: what that lets go on, up to the answer.
    Complete,
    /// The answer as a PDU, handed to the socket.
    Respond,
    /// Datagrams opened, and what is in them told apart.
    Open,
    /// A fragment put in its place in the stream's ring.
    Run,
    /// What the limit releases, in order.
    Merge,
    /// Records appended to the journal, and what follows when they are durable.
    Journal,
    /// From the journal to the volumes.
    Apply,
}

/// How many steps there are.
pub const STEPS: usize = 17;

impl Step {
    /// All of them, in the order in which a write comes by.
    pub const ALL: [Step; STEPS] = [
        Step::Idle,
        Step::Rest,
        Step::Kernel,
        Step::Pdu,
        Step::Request,
        Step::Stamp,
        Step::Local,
        Step::Push,
        Step::Frame,
        Step::Send,
        Step::Complete,
        Step::Respond,
        Step::Open,
        Step::Run,
        Step::Merge,
        Step::Journal,
        Step::Apply,
    ];

    /// One word for it.
    pub fn name(self) -> &'static str {
        match self {
            Step::Idle => "idle",
            Step::Rest => "rest",
            Step::Kernel => "kernel",
            Step::Pdu => "pdu",
            Step::Request => "request",
            Step::Stamp => "stamp",
            Step::Local => "local",
            Step::Push => "push",
            Step::Frame => "frame",
            Step::Send => "send",
            Step::Complete => "complete",
            Step::Respond => "respond",
            Step::Open => "open",
            Step::Run => "run",
            Step::Merge => "merge",
            Step::Journal => "journal",
            Step::Apply => "apply",
        }
    }
}

/// What a step took so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often it was entered.
    pub entered: u64,
    /// Counts of the embedding's counter in it, steps that were reached from it left out.
    pub cycles: u64,
}

#[cfg(feature = "accounting")]
mod book {
    use super::{STEPS, Step, Tally};
    use std::cell::Cell;

    struct Book {
        counter: Cell<Option<fn() -> u64>>,
        step: Cell<Step>,
        since: Cell<u64>,
        tallies: [Cell<Tally>; STEPS],
        /// The tallies when the present turn began.
        began: Cell<[Tally; STEPS]>,
    }

    thread_local! {
        static BOOK: Book = const {
            Book {
                counter: Cell::new(None),
                step: Cell::new(Step::Rest),
                since: Cell::new(0),
                tallies: [const { Cell::new(NOTHING) }; STEPS],
                began: Cell::new([NOTHING; STEPS]),
            }
        };
    }

    const NOTHING: Tally = Tally { entered: 0, cycles: 0 };

    /// See [`super::within`].
    #[must_use = "the step ends when this is dropped"]
    pub struct Within(Step);

    /// Goes over to a step; answers the one before.
    fn pass(to: Step, entered: u64) -> Step {
        BOOK.with(|book| {
            let from = book.step.get();
            let Some(counter) = book.counter.get() else { return from };
            let now = counter();
            let left = &book.tallies[from as usize];
            let Tally { entered: times, cycles } = left.get();
            left.set(Tally { entered: times, cycles: cycles + now.saturating_sub(book.since.get()) });
            let next = &book.tallies[to as usize];
            next.set(Tally { entered: next.get().entered + entered, ..next.get() });
            book.step.set(to);
            book.since.set(now);
            from
        })
    }

    pub(super) fn within(step: Step) -> Within {
        Within(pass(step, 1))
    }

    impl Drop for Within {
        fn drop(&mut self) {
            pass(self.0, 0);
        }
    }

    pub(super) fn end_turn(worked: bool) {
        BOOK.with(|book| {
            pass(book.step.get(), 0);
            if !worked {
                let mut idle = 0;
                for (tally, began) in book.tallies.iter().zip(book.began.get()) {
                    idle += tally.get().cycles - began.cycles;
                    tally.set(began);
                }
                let tally = &book.tallies[Step::Idle as usize];
                tally.set(Tally { entered: tally.get().entered + 1, cycles: tally.get().cycles + idle });
            }
            book.began.set(std::array::from_fn(|step| book.tallies[step].get()));
        });
    }

    pub(super) fn start(counter: fn() -> u64) {
        BOOK.with(|book| {
            book.tallies.iter().for_each(|tally| tally.set(NOTHING));
            book.began.set([NOTHING; STEPS]);
            book.since.set(counter());
            book.counter.set(Some(counter));
        });
    }

    pub(super) fn read() -> Option<[Tally; STEPS]> {
        BOOK.with(|book| {
            book.counter.get()?;
            // What the present step took until now.
            pass(book.step.get(), 0);
            Some(std::array::from_fn(|step| book.tallies[step].get()))
        })
    }
}

#[cfg(not(feature = "accounting"))]
mod book {
    use super::{STEPS, Step, Tally};

    /// See [`super::within`].
    #[must_use = "the step ends when this is dropped"]
    pub struct Within;

    // So that ending a step early is not taken for a mistake; it does nothing.
    impl Drop for Within {
        #[inline(always)]
        fn drop(&mut self) {}
    }

    #[inline(always)]
    pub(super) fn within(_: Step) -> Within {
        Within
    }

    #[inline(always)]
    pub(super) fn start(_: fn() -> u64) {}

    #[inline(always)]
    pub(super) fn end_turn(_: bool) {}

    pub(super) fn read() -> Option<[Tally; STEPS]> {
        None
    }
}

pub use book::Within;

/// This thread is in that step until the answer is dropped, and then in the one before again.
#[inline(always)]
pub fn within(step: Step) -> Within {
    book::within(step)
}

/// From here on this thread's steps are counted, all from nothing, with a counter that never runs backwards on it.
#[inline(always)]
pub fn start(counter: fn() -> u64) {
    book::start(counter);
}

/// A turn of this thread's loop ends. If there was nothing to do in it, all that it took is [`Step::Idle`]'s.
#[inline(always)]
pub fn end_turn(worked: bool) {
    book::end_turn(worked);
}

/// What this thread's steps took since [`start`], in the order of [`Step::ALL`]; `None` without it, and in builds without
/// accounting.
pub fn read() -> Option<[Tally; STEPS]> {
    book::read()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static CLOCK: Cell<u64> = const { Cell::new(100) };
    }

    fn pass(cycles: u64) {
        CLOCK.with(|clock| clock.set(clock.get() + cycles));
    }

    #[test]
    fn steps_stand_in_the_order_of_their_numbers() {
        for (number, step) in Step::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, number, "{}", step.name());
        }
    }

    #[test]
    #[cfg(feature = "accounting")]
    fn a_step_s_time_is_its_own_and_all_steps_together_are_all_the_time() {
        assert_eq!(read(), None);
        drop(within(Step::Merge));
        start(|| CLOCK.with(Cell::get));
        pass(1);
        {
            let _request = within(Step::Request);
            pass(10);
            for _ in 0..3 {
                let _stamp = within(Step::Stamp);
                pass(100);
            }
            pass(1000);
        }
        pass(2);
        let tallies = read().unwrap();
        let of = |step: Step| tallies[step as usize];
        assert_eq!(of(Step::Request), Tally { entered: 1, cycles: 1010 });
        assert_eq!(of(Step::Stamp), Tally { entered: 3, cycles: 300 });
        assert_eq!(of(Step::Rest), Tally { entered: 0, cycles: 3 });
        assert_eq!(of(Step::Merge), Tally::default(), "before the start nothing is counted");
        assert_eq!(tallies.iter().map(|tally| tally.cycles).sum::<u64>(), 1313);
        start(|| CLOCK.with(Cell::get));
        assert_eq!(read().unwrap(), [Tally::default(); STEPS]);
    }

    #[test]
    #[cfg(feature = "accounting")]
    fn a_turn_without_work_is_idle_time_whatever_steps_it_looked_into() {
        start(|| CLOCK.with(Cell::get));
        let turn = |worked| {
            drop(within(Step::Merge));
            let kernel = within(Step::Kernel);
            pass(10);
            drop(kernel);
            pass(1);
            end_turn(worked);
        };
        turn(true);
        turn(false);
        turn(false);
        turn(true);
        let tallies = read().unwrap();
        assert_eq!(tallies[Step::Kernel as usize], Tally { entered: 2, cycles: 20 });
        assert_eq!(tallies[Step::Rest as usize], Tally { entered: 0, cycles: 2 });
        assert_eq!(tallies[Step::Merge as usize], Tally { entered: 2, cycles: 0 });
        assert_eq!(tallies[Step::Idle as usize], Tally { entered: 2, cycles: 22 });
    }

    #[test]
    #[cfg(not(feature = "accounting"))]
    fn a_build_without_accounting_has_nothing_of_it() {
        start(|| panic!("the counter is never read"));
        let within = within(Step::Stamp);
        pass(1);
        assert_eq!((size_of_val(&within), read()), (0, None));
    }
}
