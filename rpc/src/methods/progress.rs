//! How far copies and comparisons are, as `group_get` and `pair_get` show it.

use serde::{Deserialize, Serialize};

/// How far the copying of a group's or a pair's regions is: a resync, or the first copy of a pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyInfo {
    /// Bytes of the regions that were to be copied when it began, and of those that came since.
    pub bytes_total: u64,
    /// Of these, bytes that were sent, or found equal.
    pub bytes_done: u64,
    /// Bytes done per second, lately; 0 while it stands still.
    pub bytes_per_s: u64,
    /// Seconds until it is done at this pace; absent while it stands still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_s: Option<u64>,
    /// Why it is being copied, or why it does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Blocks of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRange {
    /// The first.
    pub lba: u64,
    /// How many.
    pub blocks: u64,
}

/// How far an online verify is, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyInfo {
    /// Bytes that are compared.
    pub bytes_total: u64,
    /// Of these, bytes whose result is known.
    pub bytes_done: u64,
    /// Whether all is compared, or given up (then `reason` says why).
    pub over: bool,
    /// Whether what differs is copied again.
    pub repair: bool,
    /// Bytes in pieces that differ.
    pub bytes_differing: u64,
    /// Bytes that could not be read, here or there.
    pub bytes_unreadable: u64,
    /// Where the two volumes differ, of a pair: the first 256 ranges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differing: Vec<BlockRange>,
    /// Why it ended early, or waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A resync as the secondary sees it: records that replace its last consistent image only as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitInfo {
    /// The image that a takeover gives until the resync is complete, nanoseconds on the group's timeline.
    pub base_ns: u64,
    /// The resync is complete when everything up to this time is in the journal; absent while a primary has more to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ns: Option<u64>,
    /// Whether old blocks go to the overlay, because the journal cannot hold the resync.
    pub overlaid: bool,
    /// What the group waits for.
    pub reason: String,
}

/// The times that a takeover may choose from, nanoseconds on the group's timeline, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each says itself")]
pub struct Window {
    pub from_ns: u64,
    pub until_ns: u64,
}

/// A named point in a group's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookmarkInfo {
    /// Its name; where a name came again, the newest counts.
    pub name: String,
    /// Everything that was answered before it is not later than this, nanoseconds on the group's timeline.
    pub time_ns: u64,
}
