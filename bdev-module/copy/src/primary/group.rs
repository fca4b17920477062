//! A group at its primary.

use super::GroupConfig;
use super::budget::BudgetKey;
use super::meta::{ClosedStream, GroupRecord, Suspension};
use super::verify::Verify;
use crate::ports::Ticket;
use crate::types::{Generation, Mono, PairId, StreamId, Time};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

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
    /// In split brain: the other generation of this one's number.
    pub rival: Option<Generation>,
    pub pairs: BTreeSet<PairId>,
    pub budget: BudgetKey,
    /// Ends of streams, said again in every session (the newest [`CLOSED_MAX`]).
    pub closed: Vec<ClosedStream>,
    /// When one of its writes was last stamped.
    pub last_write: Mono,
    /// The number of the last resync that was begun; each attempt is one.
    pub units: u64,
    /// It is not done: it is under way, or was interrupted.
    pub is_resyncing: bool,
    /// Pairs that were established, by name; see [`GroupRecord::pairs`].
    pub known: BTreeMap<PairId, String>,
    /// See [`GroupRecord::streams`].
    pub opened: BTreeSet<StreamId>,
    /// The operator's suspension that still drains.
    pub drain: Option<Drain>,
    /// How long the next resync waits that begins by itself.
    pub pause_ns: u64,
    /// When it begins, if it does.
    pub next_attempt: Option<Mono>,
    /// When its volumes may be read again for copies (see [`GroupConfig::copy_bytes_per_s`]).
    pub copy_at: Mono,
    pub verify: Option<Verify>,
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
    /// Suspended: writes are local only, and marked.
    Suspended(Suspension),
    /// Writes are sent again, with all that is marked: one unit.
    Resyncing(Resync),
}

/// A resync under way.
#[derive(Clone, Debug)]
pub(super) struct Resync {
    pub unit: u64,
    /// Whether it is durably begun. Until then hosts' writes stay local, and marked.
    pub is_durable: bool,
    /// What it ends.
    pub was: Suspension,
    /// All that it was to bring is stamped up to here ...
    pub end: Option<Time>,
    /// ... and the secondary was told so in this session.
    pub is_told: bool,
}

/// What an operator's suspension waits for: that the secondary has everything that was stamped.
#[derive(Clone, Debug)]
pub(super) struct Drain {
    pub ticket: Option<Ticket>,
    /// Nothing was or will be stamped later.
    pub at: Time,
    pub until: Mono,
}

impl Group {
    pub fn suspension(&self) -> Option<&Suspension> {
        match &self.life {
            Life::Running | Life::Resyncing(_) => None,
            Life::Suspending(suspension) | Life::Suspended(suspension) => Some(suspension),
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.life, Life::Running)
    }

    /// Whether its writes are stamped and sent, or will be at once.
    pub fn is_sending(&self) -> bool {
        matches!(self.life, Life::Running | Life::Resyncing(_))
    }

    pub fn resync(&self) -> Option<&Resync> {
        match &self.life {
            Life::Resyncing(resync) => Some(resync),
            _ => None,
        }
    }

    pub fn record(&self) -> GroupRecord {
        GroupRecord {
            scope: self.config.scope,
            remote: self.config.remote,
            generation: self.generation,
            suspension: match &self.life {
                // A process that finds this begins anew.
                Life::Resyncing(resync) => Some(Suspension { auto: true, ..resync.was.clone() }),
                _ => self.suspension().cloned(),
            },
            fenced: self.fenced.or(self.rival),
            split_brain: self.split_brain,
            units: self.units,
            is_resyncing: self.is_resyncing,
            pairs: self.known.iter().map(|(pair, name)| (*pair, name.clone())).collect(),
            streams: self.opened.iter().copied().collect(),
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
        if let Some(resync) = self.resync() {
            return Some(format!(
                "group {} is being resynced (unit {}); create the pair when that is done",
                self.config.name, resync.unit
            ));
        }
        self.suspension().map(|suspension| {
            let next =
                if suspension.auto { "it is resynced by itself, as group_get shows" } else { "group_resync first" };
            format!(
                "group {} is suspended ({}: {}); {next}, then create the pair",
                self.config.name,
                suspension.state.code(),
                suspension.reason
            )
        })
    }
}
