//! Which fault met which state: a table with a cell for each, counted over all worlds, and the cells that cannot be.

use longrun_copy::primary;
use longrun_copy::secondary::{self, GroupPhase, TakeoverStep, TestPhase, TestStatus};
use longrun_copy::types::PairState;
use std::fmt;

macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $($variant:ident: $text:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = $text] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// As the table shows it.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
        }
    };
}

named!(
    /// Where a group stands at one of its systems.
    State,
    Simplex: "SMPL",
    Copy: "COPY",
    Pair: "PAIR",
    NearlyFull: "PFUL",
    SuspendedFull: "PFUS",
    SuspendedOperator: "PSUS",
    SuspendedError: "PSUE",
    Fenced: "fenced",
    Opening: "secondary opening",
    Ready: "secondary ready",
    Unit: "secondary unit",
    Overlaid: "secondary unit, overlay",
    Frozen: "secondary frozen",
    Suspended: "secondary suspended",
    Failed: "secondary failed",
    StepJournal: "takeover journal",
    StepSeal: "takeover seal",
    StepRestore: "takeover restore",
    StepApply: "takeover apply",
    StepFlush: "takeover flush",
    StepClose: "takeover close",
    TakenOver: "SSWS",
    Spilling: "spilling",
    Replaying: "replaying a spill",
    HandingOver: "handing over",
    FailingBack: "failing back",
    JournalFull: "secondary journal full",
    Following: "secondary following",
    Viewed: "secondary under test",
);

/// Where a group stands at one of its systems: in one state of its life, and in any of those that come beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing(u64);

impl Standing {
    /// In one state.
    pub fn of(state: State) -> Standing {
        Standing(1 << state as u64)
    }

    /// And in this one, if that is so.
    pub fn and(self, state: State, is_so: bool) -> Standing {
        if is_so { Standing(self.0 | 1 << state as u64) } else { self }
    }

    /// Whether this is one of them.
    pub fn is(self, state: State) -> bool {
        self.0 >> state as u64 & 1 == 1
    }

    /// All of them; none where nobody looked yet.
    pub fn states(self) -> impl Iterator<Item = State> {
        State::ALL.iter().copied().filter(move |state| self.is(*state))
    }
}

named!(
    /// What can go wrong, or be asked for.
    Hit,
    OneWay: "1-way",
    BothWays: "cut",
    Lost: "lost",
    Duplicated: "dup",
    Overtaken: "late",
    Damaged: "damage",
    Killed: "kill",
    PowerCut: "power",
    Restarted: "restart",
    Stall: "stall",
    NoMemory: "memory",
    LeaseStall: "lease",
    ClockStep: "clock",
    SlowDisk: "slow",
    Errors: "EIO",
    LastingErrors: "EIO..",
    NoSpace: "NOSPC",
    LastingNoSpace: "NOSPC.",
    ShortWrite: "short",
    Gone: "gone",
    BitRot: "rot",
    Legal: "legal",
    Illegal: "illegal",
);

/// How often each fault met each state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    cells: Vec<u64>,
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage { cells: vec![0; State::ALL.len() * Hit::ALL.len()] }
    }
}

impl Coverage {
    /// A fault met a state.
    pub fn count(&mut self, state: State, hit: Hit) {
        if let Some(reason) = impossible(state, hit) {
            panic!("{} x {} cannot be ({reason}), and was reached", state.name(), hit.name());
        }
        self.cells[state as usize * Hit::ALL.len() + hit as usize] += 1;
    }

    /// How often it did.
    pub fn of(&self, state: State, hit: Hit) -> u64 {
        self.cells[state as usize * Hit::ALL.len() + hit as usize]
    }

    /// Adds another world's.
    pub fn add(&mut self, other: &Coverage) {
        for (cell, more) in self.cells.iter_mut().zip(&other.cells) {
            *cell += more;
        }
    }

    /// Cells that nothing reached and that are not impossible.
    pub fn missing(&self) -> Vec<(State, Hit)> {
        let all = State::ALL.iter().flat_map(|state| Hit::ALL.iter().map(move |hit| (*state, *hit)));
        all.filter(|(state, hit)| self.of(*state, *hit) == 0 && impossible(*state, *hit).is_none()).collect()
    }
}

/// Whether a state is one of a primary.
fn is_primary(state: State) -> bool {
    use State::*;
    matches!(
        state,
        Simplex
            | Copy
            | Pair
            | NearlyFull
            | SuspendedFull
            | SuspendedOperator
            | SuspendedError
            | Fenced
            | Spilling
            | Replaying
            | HandingOver
            | FailingBack
    )
}

/// Whether a fault is one of a device.
pub fn is_device(hit: Hit) -> bool {
    use Hit::*;
    matches!(hit, Errors | LastingErrors | NoSpace | LastingNoSpace | ShortWrite | Gone)
}

/// Why a fault cannot meet a state, if it cannot. The one list of such cells; that one of them is reached after all fails
/// the world that did.
pub fn impossible(state: State, hit: Hit) -> Option<&'static str> {
    use State::*;
    match (state, hit) {
        (Frozen, _) => Some(
            "a primary of this version brings a resync into every epoch that does not follow a drained one; a secondary is \
             frozen by one that does not",
        ),
        (_, Hit::BitRot) if is_primary(state) => Some(
            "a primary's volume has no checksums of its own: rot there is the device's, and is what verify compares",
        ),
        (_, Hit::LeaseStall | Hit::Restarted) if !is_primary(state) => {
            Some("a secondary gives no stamps, and has nothing to do before it ends: each end is a crash")
        }
        (HandingOver | FailingBack | Following, Hit::ClockStep | Hit::BitRot) => Some(
            "where histories of two sites meet, the worlds' clocks agree and journals are sound: either would decide which \
             of the two goes on",
        ),
        _ => None,
    }
}

/// The cells that worlds are directed at, because those that are drawn reach them too seldom.
pub fn aims() -> Vec<(State, Hit)> {
    use State::*;
    let is_rare = |state: State, hit: Hit| match state {
        Simplex => is_device(hit) || matches!(hit, Hit::PowerCut | Hit::LeaseStall | Hit::ClockStep | Hit::Legal),
        Overlaid | StepJournal | StepRestore | StepFlush | StepClose => true,
        HandingOver | FailingBack | Following | Spilling | Replaying | JournalFull | Viewed => true,
        Fenced | StepSeal | Failed => is_device(hit) || matches!(hit, Hit::Legal | Hit::Damaged),
        Unit | Opening | Suspended | NearlyFull => is_device(hit) || matches!(hit, Hit::Legal | Hit::BitRot),
        _ => false,
    };
    let all = State::ALL.iter().flat_map(|state| Hit::ALL.iter().map(move |hit| (*state, *hit)));
    let cells = all.filter(|(state, hit)| is_rare(*state, *hit) && impossible(*state, *hit).is_none());
    // A takeover's flush writes nothing itself: only the hardest worlds reach what is.
    let is_write = |hit: Hit| matches!(hit, Hit::NoSpace | Hit::LastingNoSpace | Hit::ShortWrite);
    let cells = cells.filter(|(state, hit)| !(*state == StepFlush && is_write(*hit)));
    // Those that a world meets for a moment only are tried more often.
    let is_brief =
        |state| matches!(state, StepJournal | StepRestore | StepClose | Replaying | HandingOver | JournalFull);
    let times = |(state, hit): (State, Hit)| if is_brief(state) || state == Fenced && is_device(hit) { 3 } else { 1 };
    let mut aims: Vec<(State, Hit)> = Vec::new();
    for cell in cells {
        aims.extend(std::iter::repeat_n(cell, times(cell)));
    }
    aims
}

/// The cell that the table calls so, as in "fenced x EIO".
///
/// # Errors
/// A sentence: there is no such cell, or it cannot be reached.
pub fn cell(text: &str) -> Result<(State, Hit), String> {
    let (state, hit) = text.rsplit_once(" x ").ok_or("give a state and a fault, as in \"fenced x EIO\"")?;
    let state = State::ALL.iter().copied().find(|it| it.name() == state.trim());
    let state = state.ok_or_else(|| {
        format!("no such state; there are {}", State::ALL.iter().map(|it| it.name()).collect::<Vec<_>>().join(", "))
    })?;
    let hit = Hit::ALL.iter().copied().find(|it| it.name() == hit.trim());
    let hit = hit.ok_or_else(|| {
        format!("no such fault; there are {}", Hit::ALL.iter().map(|it| it.name()).collect::<Vec<_>>().join(", "))
    })?;
    impossible(state, hit).map_or(Ok((state, hit)), |why| Err(format!("it cannot be: {why}")))
}

/// Those that even most directed worlds miss: the state lasts for a moment, and what fails in it began before. Worlds of
/// seeds beside the others' are directed at them alone.
pub fn hardest() -> Vec<(State, Hit)> {
    use State::*;
    let of_writes = [Hit::NoSpace, Hit::LastingNoSpace, Hit::ShortWrite];
    let of_all = [Hit::Errors, Hit::LastingErrors, Hit::NoSpace, Hit::LastingNoSpace, Hit::ShortWrite, Hit::Gone];
    let cells = |state: State, hits: &[Hit]| hits.iter().map(move |hit| (state, *hit)).collect::<Vec<_>>();
    [
        cells(Fenced, &of_writes),
        cells(Failed, &of_all),
        cells(StepJournal, &of_writes),
        cells(StepRestore, &[Hit::Damaged, Hit::NoSpace, Hit::LastingNoSpace, Hit::ShortWrite]),
        // What the journal did not take before the seal is given up while it is under way.
        cells(StepFlush, &of_writes),
        cells(StepClose, &of_writes),
        cells(Replaying, &[Hit::ShortWrite]),
        cells(HandingOver, &of_writes),
    ]
    .concat()
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24}", "state x fault")?;
        for hit in Hit::ALL {
            write!(f, "{:>8}", hit.name())?;
        }
        writeln!(f)?;
        for state in State::ALL {
            write!(f, "{:<24}", state.name())?;
            for hit in Hit::ALL {
                match (self.of(*state, *hit), impossible(*state, *hit)) {
                    (0, Some(_)) => write!(f, "{:>8}", "-")?,
                    (count, _) => write!(f, "{count:>8}")?,
                }
            }
            writeln!(f)?;
        }
        let all = State::ALL.iter().flat_map(|state| Hit::ALL.iter().map(move |hit| (*state, *hit)));
        let cells = all.filter_map(|(state, hit)| Some((impossible(state, hit)?, state, hit)));
        let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
        for (reason, state, hit) in cells {
            let name = format!("{} x {}", state.name(), hit.name());
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, names)) => names.push(name),
                None => reasons.push((reason, vec![name])),
            }
        }
        for (reason, names) in reasons {
            writeln!(f, "cannot be: {reason}: {}", names.join(", "))?;
        }
        Ok(())
    }
}

/// Where a group stands at its primary.
pub fn at_primary(status: &primary::GroupStatus) -> Standing {
    let state = match status.state {
        _ if status.fenced.is_some() => State::Fenced,
        PairState::Simplex => State::Simplex,
        PairState::Copy => State::Copy,
        PairState::Pair => State::Pair,
        PairState::NearlyFull => State::NearlyFull,
        PairState::SuspendedFull => State::SuspendedFull,
        PairState::SuspendedOperator => State::SuspendedOperator,
        PairState::SuspendedError => State::SuspendedError,
        PairState::TakenOver => State::TakenOver,
    };
    let spill = status.spill.as_ref();
    // The first generation is the first primary's; who resyncs in a later one brings the other site back.
    let is_back = state == State::Copy && status.generation.number > 1;
    Standing::of(state)
        .and(State::Spilling, spill.is_some_and(|spill| spill.is_spilling || spill.unsent_records > 0))
        .and(State::Replaying, spill.is_some_and(|spill| spill.is_replaying))
        .and(State::HandingOver, status.handing_over.is_some())
        .and(State::FailingBack, is_back)
}

/// Where a group stands at its secondary.
pub fn at_secondary(status: &secondary::GroupStatus, test: Option<TestStatus>) -> Standing {
    let state = match (status.phase, status.takeover_step, &status.unit) {
        (GroupPhase::Failed, ..) => State::Failed,
        (GroupPhase::Opening, ..) => State::Opening,
        (GroupPhase::TakenOver, ..) => State::TakenOver,
        (GroupPhase::TakingOver, Some(step), _) => match step {
            TakeoverStep::Journal => State::StepJournal,
            TakeoverStep::Seal => State::StepSeal,
            TakeoverStep::Restore => State::StepRestore,
            TakeoverStep::Apply => State::StepApply,
            TakeoverStep::Flush => State::StepFlush,
            TakeoverStep::Close => State::StepClose,
            TakeoverStep::Writable => State::TakenOver,
        },
        (GroupPhase::Suspended, ..) => State::Suspended,
        (GroupPhase::Frozen, ..) => State::Frozen,
        (_, _, Some(unit)) if unit.is_overlaid => State::Overlaid,
        (_, _, Some(_)) => State::Unit,
        _ => State::Ready,
    };
    let is_receiving = matches!(state, State::Ready | State::Unit | State::Overlaid);
    let is_full = is_receiving && 8 * status.journal_used_bytes >= 7 * status.journal_bytes;
    let is_unit = matches!(state, State::Unit | State::Overlaid);
    Standing::of(state)
        .and(State::JournalFull, is_full)
        .and(State::Following, is_unit && status.generation.number > 1)
        .and(State::Viewed, is_receiving && test.is_some_and(|test| test.phase == TestPhase::Ready))
}
