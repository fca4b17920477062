//! What `group_get` and `pair_get` show of the primary roles.

use super::uplink::Backlog;
use crate::blank::Progress;
use crate::types::{
    Epoch, Extent, Generation, Geometry, GroupId, LinkId, Mono, PairId, PairState, Scope, Seq, Stamp, StreamId,
};
use crate::types::{SystemId, Time, VolumeId};

/// Why something does not go on, whom it waits for and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who has to act: "local volume", "link", "secondary", "metadata", "timeline".
    pub owner: &'static str,
    /// What has to happen.
    pub reason: String,
    /// Since when.
    pub since: Mono,
    /// When the wait ends by itself, and `None` if it goes on for as long as nobody is held up by it.
    pub timeout: Option<Mono>,
}

/// How far the copying of marked regions is: a resync of the group, or the first copy of a pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyProgress {
    /// Bytes of the regions that were to be copied when it began, and of those that came since.
    pub bytes_total: u64,
    /// Of these, bytes that are done: stamped and sent, or found equal.
    pub bytes_done: u64,
    /// Bytes done per second, lately; 0 while it stands still.
    pub bytes_per_s: u64,
    /// Seconds until it is done at this pace; `None` while it stands still.
    pub estimate_s: Option<u64>,
    /// Why it is being copied, or why it does not go on.
    pub reason: Option<String>,
}

/// How far an online verify is, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes that are compared.
    pub bytes_total: u64,
    /// Of these, bytes of which the secondary has told the result.
    pub bytes_done: u64,
    /// All is compared (or given up: see `reason`).
    pub is_over: bool,
    /// What differs is copied again.
    pub repair: bool,
    /// Bytes in pieces that differ.
    pub bytes_differing: u64,
    /// Where, in pieces of [`crate::digest::PIECE_BYTES`] run together: the first [`VerifyProgress::RANGES_MAX`] ranges.
    pub differing: Vec<Extent>,
    /// Bytes that could not be compared because a volume, here or there, could not be read.
    pub bytes_unreadable: u64,
    /// Why it ended early or waits.
    pub reason: Option<String>,
}

impl VerifyProgress {
    /// How many differing ranges of a pair are remembered; all are counted.
    pub const RANGES_MAX: usize = 256;
}

/// A pair at its primary.
#[derive(Clone, Debug)]
pub struct PairStatus {
    /// The pair.
    pub pair: PairId,
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: GroupId,
    /// The local volume.
    pub volume: VolumeId,
    /// Its size.
    pub geometry: Geometry,
    /// The volume at the secondary, as the operator named it.
    pub remote_volume: String,
    /// SMPL, COPY, PAIR, PFUL, PFUS, PSUS, PSUE.
    pub state: PairState,
    /// Why it is in this state, if that needs a word.
    pub reason: Option<String>,
    /// A device of the secondary fails for longer than a moment: the copy does not go on. While records still flow, the
    /// state stays what it is.
    pub trouble: Option<String>,
    /// Whether the secondary's volume was ever a true picture of this one: not before the first copy is done.
    pub has_image: bool,
    /// Whether hosts' I/O fails because another site took over.
    pub fenced: bool,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// How far the check for emptiness is.
    pub check: Option<Progress>,
    /// The stream of its records.
    pub stream: StreamId,
    /// The last stamp given to one of its writes by this process.
    pub last_stamp: Option<Stamp>,
    /// Host requests that are not answered yet.
    pub requests: usize,
    /// Of these, writes that wait to be opened, for an overlapping write or for the timeline's lease.
    pub writes_waiting: usize,
    /// Local writes that failed after they were stamped, by this process.
    pub repairs: u64,
    /// Bytes in regions that its dirty map marks: what a restart now would have to copy.
    pub dirty_bytes: u64,
    /// Of these, bytes in regions that the secondary may lack and that no record in a queue will bring.
    pub missing_bytes: u64,
    /// The copying of its regions, if there is any.
    pub copy: Option<CopyProgress>,
    /// The last online verify of this process.
    pub verify: Option<VerifyProgress>,
}

/// A group at its primary.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Its name.
    pub name: String,
    /// What a sequence number counts.
    pub scope: Scope,
    /// The link it uses.
    pub link: LinkId,
    /// The secondary system.
    pub remote: SystemId,
    /// Its generation; all zero before the secondary was first heard.
    pub generation: Generation,
    /// SMPL (no pair copies yet), COPY (resyncing), PAIR, PFUL, PFUS, PSUS, PSUE.
    pub state: PairState,
    /// Why, if that needs a word.
    pub reason: Option<String>,
    /// As for a pair, of any of the group's.
    pub trouble: Option<String>,
    /// The newer generation that fenced this one.
    pub fenced: Option<Generation>,
    /// Whether the secondary holds an image of any of its pairs; see [`PairStatus::has_image`].
    pub has_image: bool,
    /// Two sites continue the same history independently: an operator must resolve it.
    pub split_brain: bool,
    /// The other one of them, if both have the same number.
    pub rival: Option<Generation>,
    /// Since when it is being handed over to the other site (a swap): hosts are not served here.
    pub handing_over: Option<Mono>,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// Sum over its streams.
    pub backlog: Backlog,
    /// Limit of the backlog (shared with other groups in scope `system`).
    pub buffer_bytes: u64,
    /// How long hosts' answers are being held back now.
    pub throttle_ns: u64,
    /// Age of the oldest record that is not known to be durable at the secondary; since a suspension, of the first
    /// write that it may lack. `None`: unknown (restarted with unsent records, or the secondary was not heard yet).
    pub lag_ns: Option<u64>,
    /// Sum over its pairs of [`PairStatus::dirty_bytes`].
    pub dirty_bytes: u64,
    /// Sum over its pairs of [`PairStatus::missing_bytes`].
    pub missing_bytes: u64,
    /// The number of the resync that is under way or was interrupted: the secondary's consistent image is that from
    /// before it, until it is done.
    pub unit: Option<u64>,
    /// When a resync begins by itself, if one does.
    pub next_attempt: Option<Mono>,
    /// The copying of all its pairs' regions, if there is any.
    pub copy: Option<CopyProgress>,
    /// The last online verify of this process, over all its pairs.
    pub verify: Option<VerifyProgress>,
    /// Its spill, if it has one.
    pub spill: Option<SpillStatus>,
    /// Its pairs.
    pub pairs: Vec<PairId>,
    /// Its streams.
    pub streams: Vec<StreamStanding>,
}

/// A stream at its sender.
#[derive(Clone, Debug)]
pub struct StreamStanding {
    /// The stream.
    pub stream: StreamId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether records flow in this session.
    pub started: bool,
    /// Broken: sends nothing more in this epoch.
    pub broken: bool,
    /// The last number given.
    pub last: Seq,
    /// The last time promised (record or beacon).
    pub last_time: Time,
    /// The highest number known to be durable at the secondary.
    pub durable: Seq,
    /// What is kept of it.
    pub backlog: Backlog,
}

/// How a group's spill is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpillStatus {
    /// Bytes of the device that are not free.
    pub used_bytes: u64,
    /// Bytes of the device that records can take.
    pub total_bytes: u64,
    /// Records that wait here for room in the link; not part of [`GroupStatus::backlog`].
    pub unsent_records: u64,
    /// Their charge.
    pub unsent_bytes: u64,
    /// New records go here, because the link keeps its share.
    pub is_spilling: bool,
    /// What a restart found in it is being sent.
    pub is_replaying: bool,
    /// It takes or gives nothing, now or for good.
    pub is_failing: bool,
    /// What is wrong with it, or was found wrong at its opening.
    pub reason: Option<String>,
}
