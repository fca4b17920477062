//! A group at its primary.

use super::GroupConfig;
use super::budget::BudgetKey;
use super::meta::{ClosedStream, GroupRecord, Suspension};
use crate::types::{Generation, Mono, PairId};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    pub config: GroupConfig,
    pub serial: u64,
    pub generation: Generation,
    pub life: Life,
    /// The newer generation that took over.
    pub fenced: Option<Generation>,
    pub split_brain: bool,
    pub pairs: BTreeSet<PairId>,
    pub budget: BudgetKey,
    /// Ends of streams, said again in every session (the newest [`CLOSED_MAX`]).
    pub closed: Vec<ClosedStream>,
    /// When one of its writes was last stamped.
    pub last_write: Mono,
    /// Answers held back because the send buffer fills: until when, which request, its serial.
    pub delayed: BinaryHeap<Reverse<(Mono, usize, u64)>>,
}

/// How many ends of streams are said again. Older ones were said in at least one whole session each, as a rule.
pub(super) const CLOSED_MAX: usize = 32;

/// Whether a group copies.
#[derive(Clone, Debug)]
pub(super) enum Life {
    /// Writes are stamped and sent.
    Running,
    /// Suspended, but not durably yet: writes wait. Else a crash could leave writes that the secondary lacks and no word
    /// of them.
    Suspending(Suspension),
    /// Suspended: writes are local only.
    Suspended(Suspension),
}

impl Group {
    pub fn suspension(&self) -> Option<&Suspension> {
        match &self.life {
            Life::Running => None,
            Life::Suspending(suspension) | Life::Suspended(suspension) => Some(suspension),
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.life, Life::Running)
    }

    pub fn record(&self) -> GroupRecord {
        GroupRecord {
            scope: self.config.scope,
            remote: self.config.remote,
            generation: self.generation,
            suspension: self.suspension().cloned(),
            fenced: self.fenced,
            split_brain: self.split_brain,
            closed: self.closed.clone(),
        }
    }

    /// Why a new pair cannot join now.
    pub fn obstacle(&self) -> Option<String> {
        if let Some(newer) = self.fenced {
            return Some(format!(
                "group {} is fenced: another site took it over (generation {}); delete it here",
                self.config.name, newer.number
            ));
        }
        self.suspension().map(|suspension| {
            format!(
                "group {} is suspended ({}: {}); delete its pairs at both sites, then create them again",
                self.config.name,
                suspension.state.code(),
                suspension.reason
            )
        })
    }
}
