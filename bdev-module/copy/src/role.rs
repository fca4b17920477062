//! Which part a system plays in a group, and what is handed from one part to the other when that changes.
//!
//! ```text
//!                     takeover (disaster, or a swap's)
//!    Secondary ──────────── Promotion ──────────────> Primary      the secondary's record stays as a tombstone: older
//!        ^                                               │         generations are told that they are fenced
//!        └─────────────────── Former <───────────────────┘
//!                     failback (an operator names the generation that is given up), or a swap's end
//! ```
//!
//! Both parts of one engine keep their values in the same metadata. **The secondary's record decides**: demotion makes it
//! durable before the primary's records are emptied, promotion closes the journal durably before the primary's are written,
//! so a crash at any point leaves one answer. A group that has a secondary's record is created again as a secondary
//! ([`recorded`]); if that record says "taken over", the engine makes it a primary again by itself.

use crate::ports::Ports;
use crate::types::{Extent, Generation, Geometry, GroupId, PairId, Scope, SystemId, Time, VolumeId};

/// A system's part in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It serves hosts and sends.
    Primary,
    /// It receives.
    Secondary,
}

/// As which part a group has to be created again after a start; `None`: metadata knows nothing of it. The configuration
/// that an embedding saved may be older than what happened since.
pub fn recorded(group: GroupId, ports: &impl Ports) -> Option<Role> {
    let is_there = |key: String| ports.recall(&key).is_some_and(|value| !value.is_empty());
    if is_there(crate::secondary::group_key(group)) {
        Some(Role::Secondary)
    } else if is_there(crate::primary::group_key(group)) {
        Some(Role::Primary)
    } else {
        None
    }
}

/// Whether metadata says that the group was taken over here: its volumes serve hosts, and its journal is of no use any more.
pub fn was_taken_over(group: GroupId, ports: &impl Ports) -> bool {
    crate::secondary::was_taken_over(group, ports)
}

/// A group that was taken over here, as its primary takes it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The group.
    pub group: GroupId,
    /// Its name.
    pub name: String,
    /// What its streams counted; stays.
    pub scope: Scope,
    /// The generation that the takeover began.
    pub generation: Generation,
    /// By a planned swap: nothing was lost, and the old primary follows by itself.
    pub is_swap: bool,
    /// No stamp of the new history is at or before this time.
    pub greatest_time: Time,
    /// Every pair that is part of the cut, by name, attached or not.
    pub known: Vec<(PairId, String)>,
    /// Those whose volumes are attached and part of the cut.
    pub pairs: Vec<PromotedPair>,
}

/// A pair of a group that was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromotedPair {
    /// The pair.
    pub pair: PairId,
    /// Its name.
    pub name: String,
    /// The local volume.
    pub volume: VolumeId,
    /// Its size.
    pub geometry: Geometry,
    /// The volume is in memory.
    pub volatile: bool,
    /// Where the old primary may hold what was thrown away here.
    pub discarded: Vec<Extent>,
    /// Hosts may have written here before anything could mark it.
    pub unmarked: bool,
}

/// A primary that gives its part up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    /// The generation that it follows from here on.
    pub generation: Generation,
    /// The new primary.
    pub primary: SystemId,
    /// By a swap: both sites hold the same history up to this time.
    pub equal_at: Option<Time>,
    /// No stamp that this side gave is later.
    pub greatest_time: Time,
    /// Its pairs.
    pub pairs: Vec<FormerPair>,
}

/// A pair of a primary that gives its part up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerPair {
    /// The pair.
    pub pair: PairId,
    /// Its name.
    pub name: String,
    /// The local volume.
    pub volume: VolumeId,
    /// Its size.
    pub geometry: Geometry,
    /// The volume is in memory.
    pub volatile: bool,
    /// Where this side may hold what the other does not: its dirty map.
    pub marked: Vec<Extent>,
}
