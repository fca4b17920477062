//! What an operator decides about the primary roles.

use crate::types::{Geometry, GroupId, Initial, LinkId, Overflow, Scope, SystemId, VolumeId};

const MS: u64 = 1_000_000;

/// Settings of all primary roles of one engine.
#[derive(Clone, Debug)]
pub struct PrimaryConfig {
    /// This system.
    pub system: SystemId,
    /// How long a stream of a busy group may be silent before it sends a beacon.
    pub beacon_interval_ns: u64,
    /// The same for a group that has been idle for long.
    pub beacon_interval_ns_max: u64,
    /// After how long an unanswered (or put-off) request to the secondary is repeated.
    pub retry_ns: u64,
    /// How long a host's write waits for its pair to be opened. Then the pair is suspended (PSUE) and the host runs on
    /// locally.
    pub open_wait_ns: u64,
    /// How long an operator waits for a pair to be created, counted from the end of the local check for emptiness, or to
    /// be deleted.
    pub operator_wait_ns: u64,
    /// How long a clean shutdown waits for the streams to drain.
    pub shutdown_wait_ns: u64,
    /// How many host requests one pair holds at a time, waiting or in flight. One more is answered
    /// [`crate::ports::HostError::Aborted`], which a host retries.
    pub requests_max: usize,
    /// How long a stretch of a volume must have been quiet before its dirty marks are cleared in the background. Longer:
    /// fewer writes wait for a mark, and after an unclean stop more is compared.
    pub clear_after_ns: u64,
    /// The length of such a stretch, in bytes: what is marked at once when a write has to wait for its mark.
    pub mark_ahead_bytes: u64,
    /// How long a group that suspended itself waits before it begins a resync by itself: this after a resync that was
    /// completed, twice as long after each attempt that ended in PFUS again ...
    pub resync_pause_ns: u64,
    /// ... and at most this.
    pub resync_pause_ns_max: u64,
    /// How long the secondary may take to say what it holds already; then the pieces in question are copied.
    pub digest_wait_ns: u64,
    /// Least size of a spill, in bytes; [`crate::spill::BYTES_MIN`] but for simulations.
    pub spill_bytes_min: u64,
}

impl PrimaryConfig {
    /// The defaults for this system.
    pub fn new(system: SystemId) -> PrimaryConfig {
        PrimaryConfig {
            system,
            beacon_interval_ns: 2 * MS,
            beacon_interval_ns_max: 50 * MS,
            retry_ns: 200 * MS,
            open_wait_ns: 10_000 * MS,
            operator_wait_ns: 30_000 * MS,
            shutdown_wait_ns: 10_000 * MS,
            requests_max: 16384,
            clear_after_ns: 30_000 * MS,
            mark_ahead_bytes: 4 << 20,
            resync_pause_ns: 1_000 * MS,
            resync_pause_ns_max: 60_000 * MS,
            digest_wait_ns: 5_000 * MS,
            spill_bytes_min: crate::spill::BYTES_MIN,
        }
    }
}

/// A group as its operator describes it.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Both sites use it.
    pub name: String,
    /// What a sequence number counts; fixed from here on.
    pub scope: Scope,
    /// The link towards the secondary system.
    pub link: LinkId,
    /// The secondary system.
    pub remote: SystemId,
    /// How long a host's answer is held back at most when the send buffer is nearly full.
    pub throttle_ms_max: u32,
    /// The send buffer: the greatest charge ([`crate::types::RecordHead::charge_bytes`]) of records that are not known
    /// to be durable at the secondary. Groups that share a stream (scope `system`) add theirs up. When it is full, the
    /// group is suspended (PFUS).
    pub buffer_bytes: u64,
    /// What happens when it fills.
    pub overflow: Overflow,
    /// A device for records that the send buffer cannot hold, held exclusively; `None`: the send buffer is all there is. Not
    /// with scope `system`.
    pub spill: Option<(VolumeId, Geometry)>,
    /// How fast copies and resyncs read this system's volumes at most, in bytes per second; `None`: as fast as hosts, link
    /// and secondary leave room.
    pub copy_bytes_per_s: Option<u64>,
}

/// A pair as its operator describes it.
#[derive(Clone, Debug)]
pub struct PairConfig {
    /// The group, created before.
    pub group: GroupId,
    /// Both sites use it.
    pub name: String,
    /// The local volume, which the engine holds exclusively.
    pub volume: VolumeId,
    /// Its size.
    pub geometry: Geometry,
    /// The name of the volume at the secondary; may be empty.
    pub remote_volume: String,
    /// What the two volumes hold at the start.
    pub initial: Initial,
    /// The volume is in memory: its content ends with the process.
    pub volatile: bool,
}
