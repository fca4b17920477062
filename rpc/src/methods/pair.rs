//! Pairs: a primary volume and its secondary volume at another system.

use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::group::Role;
use super::progress::{CopyInfo, VerifyInfo};
use crate::types::Name;

/// What an operator says of a pair's two volumes at the start; said alike at both systems.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initial {
    /// Both are empty; each system reads its own to make sure.
    #[default]
    Empty,
    /// Both hold the same; nothing is read.
    Identical,
    /// The primary volume is copied; what the secondary volume holds is given up.
    Copy,
    /// As `copy`, but only what differs travels: both volumes are read.
    CopyDifferences,
}

impl Initial {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Identical => "identical",
            Self::Copy => "copy",
            Self::CopyDifferences => "copy_differences",
        }
    }
}

/// `pair_create`: stacks a replica device on a volume, and pairs it. The primary's replica device is what hosts are
/// given. Answers the replica device's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairCreate {
    /// The group.
    pub group: String,
    /// The pair's name, the same at both systems.
    pub name: Name,
    /// The device here that holds the data, which the pair claims.
    pub volume: String,
    /// The name of the replica device to be made; default the pair's name.
    pub replica: Option<Name>,
    /// The link to the system that has the other volume; needed where the group has several.
    pub link: Option<String>,
    /// The pair's name at the other system; default the same.
    pub remote_volume: Option<String>,
    /// What the two volumes hold; default `empty`: the volume is read and must be.
    pub initial: Option<Initial>,
    /// `true` is another way to say `initial` "identical".
    pub declared_identical: Option<bool>,
}

impl PairCreate {
    /// The name of the replica device to be made.
    pub fn replica(&self) -> &Name {
        self.replica.as_ref().unwrap_or(&self.name)
    }

    /// The pair's name at the other system.
    pub fn remote_volume(&self) -> &str {
        self.remote_volume.as_deref().unwrap_or(self.name.as_str())
    }

    /// What the operator says of the two volumes.
    pub fn initial(&self) -> Initial {
        match self.initial {
            None if self.declared_identical.unwrap_or(false) => Initial::Identical,
            given => given.unwrap_or_default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.replica().as_str() == self.volume {
            return Err(format!(
                "the replica device would get the name of the volume below it, {:?}; give another `replica` or `name`",
                crate::error::shorten(&self.volume)
            ));
        }
        match (self.initial, self.declared_identical.unwrap_or(false)) {
            (Some(initial), true) if initial != Initial::Identical => Err(format!(
                "declared_identical true and initial {:?} contradict each other; give initial alone",
                initial.word()
            )),
            _ => Ok(()),
        }
    }
}

/// `pair_delete`. The volume below keeps its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairDelete {
    /// The group.
    pub group: String,
    /// The pair.
    pub name: String,
}

/// `pair_resize`, at the primary: makes a pair larger while hosts use it. The volumes of both sites must have grown before
/// (`bdev_uring_rescan`). What the primary volume holds in the new blocks is copied; then hosts are told of the new size.
/// Answers the blocks that it has then. -110 when that takes long: it goes on by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairResize {
    /// The group.
    pub group: String,
    /// The pair.
    pub name: String,
    /// How many blocks in all; default all that the volume here has. It never shrinks.
    pub num_blocks: Option<NonZeroU64>,
}

/// `pair_get`: all, those of a group, or one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairGet {
    /// Only this group's.
    pub group: Option<String>,
    /// Only those of this name; -19 where there is none.
    pub name: Option<String>,
}

/// A pair's state, in the industry's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PairState {
    /// Simplex: not copied.
    Smpl,
    /// The first copy or a resync is on its way.
    Copy,
    /// Writes are copied as they come.
    Pair,
    /// The journal is nearly full.
    Pful,
    /// Suspended by overflow.
    Pfus,
    /// Suspended by the operator.
    Psus,
    /// Suspended by an error.
    Psue,
    /// Taken over.
    Ssws,
}

impl PairState {
    /// The word for it, in four capitals.
    pub fn word(self) -> &'static str {
        match self {
            Self::Smpl => "SMPL",
            Self::Copy => "COPY",
            Self::Pair => "PAIR",
            Self::Pful => "PFUL",
            Self::Pfus => "PFUS",
            Self::Psus => "PSUS",
            Self::Psue => "PSUE",
            Self::Ssws => "SSWS",
        }
    }

    /// What it means, in a few words.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Smpl => "not copied",
            Self::Copy => "being copied",
            Self::Pair => "copied",
            Self::Pful => "journal nearly full",
            Self::Pfus => "suspended by overflow",
            Self::Psus => "suspended by the operator",
            Self::Psue => "suspended by an error",
            Self::Ssws => "taken over",
        }
    }
}

impl fmt::Display for PairState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What a pair waits for. No wait is without an owner and a time-out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Who has to act: `peer`, `journal`, `disk`, `operator`.
    pub owner: String,
    /// For how long it has waited, milliseconds.
    pub since_ms: u64,
    /// After how long something else is done, milliseconds since it began; absent where only an operator can act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// For what, a sentence.
    pub reason: String,
}

/// A pair as `pair_get` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairInfo {
    /// Its group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// This system's side.
    pub role: Role,
    /// Its state.
    pub state: PairState,
    /// Whether the secondary is a true picture of one moment of the past (of the group's pairs together).
    pub consistent: bool,
    /// How old that picture is, milliseconds; never below the true age; absent where unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_ms: Option<u64>,
    /// Why it is in this state, where that is not PAIR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it waits for, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// The device below.
    pub volume: String,
    /// The replica device.
    pub replica: String,
    /// The pair's name at the other system.
    pub remote_volume: String,
    /// The link to the other system.
    pub link: String,
    /// The volume's size, bytes.
    pub size_bytes: u64,
    /// Payload not yet durable at the secondary, bytes; absent where this end cannot know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_bytes: Option<u64>,
    /// Records not yet durable at the secondary; absent where this end cannot know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_records: Option<u64>,
    /// Bytes in marked regions: what a restart now would have to compare or copy; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_bytes: Option<u64>,
    /// Of these, bytes that only a resync brings to the secondary; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_bytes: Option<u64>,
    /// How far copying is, where something is copied; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyInfo>,
    /// The last online verify since the process started; at the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyInfo>,
    /// Counters since the process started; absent where they are not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<PairCounters>,
}

/// A pair's counters since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PairCounters {
    /// Writes stamped (primary) or applied (secondary).
    pub writes: u64,
    /// Their payload, bytes.
    pub write_bytes: u64,
    /// Records sent (primary) or released (secondary), of all kinds.
    pub records: u64,
    /// Repair records sent because a local write failed after its frames had left.
    pub repairs: u64,
    /// Writes that waited for an overlapping one.
    pub overlaps: u64,
    /// Host commands refused because this side may not serve them.
    pub refused: u64,
}
