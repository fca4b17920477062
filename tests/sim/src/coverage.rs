//! Which fault met which state: a table with a cell for each, counted over all worlds, and the cells that cannot be.

use longrun_copy::primary;
use longrun_copy::secondary::{self, GroupPhase, TakeoverStep};
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
);

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
    pub fn missing(&self) -> Vec<String> {
        let all = State::ALL.iter().flat_map(|state| Hit::ALL.iter().map(move |hit| (*state, *hit)));
        all.filter(|(state, hit)| self.of(*state, *hit) == 0 && impossible(*state, *hit).is_none())
            .map(|(state, hit)| format!("{} x {}", state.name(), hit.name()))
            .collect()
    }
}

/// Why a fault cannot meet a state, if it cannot. The one list of such cells.
pub fn impossible(state: State, hit: Hit) -> Option<&'static str> {
    use State::*;
    let is_primary = matches!(
        state,
        Simplex | Copy | Pair | NearlyFull | SuspendedFull | SuspendedOperator | SuspendedError | Fenced
    );
    match (state, hit) {
        (_, Hit::BitRot) if is_primary => Some(
            "a primary's volume has no checksums of its own: rot there is the device's, and is what verify compares",
        ),
        (
            Fenced,
            Hit::Errors | Hit::LastingErrors | Hit::NoSpace | Hit::LastingNoSpace | Hit::ShortWrite | Hit::Gone,
        ) => Some("a fenced primary answers its hosts without asking the device"),
        (_, Hit::LeaseStall | Hit::Restarted) if !is_primary => {
            Some("a secondary gives no stamps, and has nothing to do before it ends: each end is a crash")
        }
        _ => None,
    }
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
        Ok(())
    }
}

/// Where a group stands at its primary.
pub fn state_of_primary(status: &primary::GroupStatus) -> State {
    if status.fenced.is_some() {
        return State::Fenced;
    }
    match status.state {
        PairState::Simplex => State::Simplex,
        PairState::Copy => State::Copy,
        PairState::Pair => State::Pair,
        PairState::NearlyFull => State::NearlyFull,
        PairState::SuspendedFull => State::SuspendedFull,
        PairState::SuspendedOperator => State::SuspendedOperator,
        PairState::SuspendedError => State::SuspendedError,
        PairState::TakenOver => State::TakenOver,
    }
}

/// Where a group stands at its secondary.
pub fn state_of_secondary(status: &secondary::GroupStatus) -> State {
    match (status.phase, status.takeover_step, &status.unit) {
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
    }
}
