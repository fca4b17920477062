//! A group's spill, as `group_get` shows it.

use serde::{Deserialize, Serialize};

/// What a spill does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpillState {
    /// The memory for records in transit is enough.
    Idle,
    /// What the memory cannot hold goes here, and from here to the link.
    Spilling,
    /// What an unclean stop left here is being sent.
    Replaying,
    /// It takes nothing, or not now: `reason` says why.
    Failing,
}

/// Where a group's records go that the memory cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpillInfo {
    /// The device.
    pub device: String,
    /// What it does.
    pub state: SpillState,
    /// Bytes of the device that are not free.
    pub used_bytes: u64,
    /// Bytes of the device that records can take; when they are used, memory takes what follows, and then `overflow` acts.
    pub limit_bytes: u64,
    /// Records that the link was not given yet; part of the group's lag.
    pub records: u64,
    /// Their payload, bytes.
    pub bytes: u64,
    /// What is wrong with it, or was found wrong when it was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
