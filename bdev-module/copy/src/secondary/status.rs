//! What `group_get` and `pair_get` show of a secondary.

use crate::message::Content;
use crate::stream::Drops;
use crate::takeover::{LossCertificate, TakeoverStep};
use crate::types::{
    Epoch, Extent, Generation, Geometry, GroupId, PairId, PairState, Scope, Seq, Stamp, StreamId, SystemId, Time,
};

/// Where a group stands at this system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupPhase {
    /// The journal is being read (or formatted); nothing is accepted yet.
    Opening,
    /// Records flow, or may.
    Active,
    /// The primary said that it no longer sends; the copy stays at its last cut until a resync.
    Suspended,
    /// A primary restarted with unsent records: the recovery point stays until a resync; takeover is possible.
    Frozen,
    /// A takeover is under way; it goes on by itself after a restart.
    TakingOver,
    /// The volumes serve hosts here.
    TakenOver,
    /// The journal cannot be used; the reason says why and what to do.
    Failed,
}

/// One group.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub id: GroupId,
    /// Where it stands.
    pub phase: GroupPhase,
    /// Why it does not move, if it does not.
    pub reason: Option<String>,
    /// Its generation; number 0 before the first stream was opened.
    pub generation: Generation,
    /// Every record not later is durable here (journaled), none later will be taken for it. [`Time`] 0: nothing yet, or
    /// the journal is still being read. What was shown once is found again after a restart: beacons of an idle primary
    /// move it only when that is durable too (see [`super::SecondaryConfig::limit_interval_ns`]).
    pub recovery_point: Time,
    /// How old the recovery point is, by this system's own timeline or by the newest stamp heard, whichever is later;
    /// grows while the link is down.
    pub recovery_point_age_ns: u64,
    /// The limit time: the least tip; every record not later has been released.
    pub limit: Time,
    /// The greatest stamp or beacon ever seen, discarded ones too: a timeline that starts here starts above it.
    pub greatest_time_seen: Time,
    /// Whether a takeover now would leave a cut (false only for a damaged journal, or before anything was established).
    pub consistent: bool,
    /// One per stream.
    pub streams: Vec<StreamView>,
    /// Its pairs.
    pub pairs: Vec<PairId>,
    /// Room for entries in the journal, in bytes.
    pub journal_bytes: u64,
    /// Journal bytes that a checkpoint has not freed yet.
    pub journal_used_bytes: u64,
    /// Records that are durable and not yet on the volumes, as far as they are in memory.
    pub apply_lag_records: u64,
    /// Their payload.
    pub apply_lag_bytes: u64,
    /// Records put on volumes since this process opened the group.
    pub applied_records: u64,
    /// Records that needed no write of their own, because later ones of the same batch covered them.
    pub folded_records: u64,
    /// How far a takeover is; each step is durable before the next shows.
    pub takeover_step: Option<TakeoverStep>,
    /// What the takeover lost; also after restarts.
    pub certificate: Option<LossCertificate>,
    /// The operator took the group over with `accept_split`; durable with the seal.
    pub split_accepted: bool,
    /// Regions that discarded records would have changed, for failback; may cover more than that.
    pub discarded: Vec<(PairId, Extent)>,
    /// The resync under way, if there is one: the recovery point stays where it is until it is complete.
    pub unit: Option<UnitStatus>,
    /// Journal bytes that wait for a resync's end or for the apply delay; a part of `journal_used_bytes`.
    pub held_bytes: u64,
    /// Room for old blocks in the overlay, in bytes; 0: the group has none.
    pub overlay_bytes: u64,
    /// Of these, used.
    pub overlay_used_bytes: u64,
    /// Where a takeover may go to; `None` before anything was established, and after a takeover.
    pub window: Option<ApplyWindow>,
    /// The newest bookmarks, in order of their stamps; also those that the window does not reach any more.
    pub bookmarks: Vec<Bookmark>,
    /// Pairs whose first copy is not complete: a takeover leaves them out.
    pub copying: Vec<PairId>,
}

impl GroupStatus {
    /// A group that this system does not open, because its journal or its overlay could not be had; the reason is for the
    /// operator.
    pub fn failed(name: &str, reason: String) -> GroupStatus {
        GroupStatus {
            name: name.to_owned(),
            id: GroupId::of_name(name),
            phase: GroupPhase::Failed,
            reason: Some(reason),
            generation: Generation::default(),
            recovery_point: Time(0),
            recovery_point_age_ns: 0,
            limit: Time(0),
            greatest_time_seen: Time(0),
            consistent: false,
            streams: Vec::new(),
            pairs: Vec::new(),
            journal_bytes: 0,
            journal_used_bytes: 0,
            apply_lag_records: 0,
            apply_lag_bytes: 0,
            applied_records: 0,
            folded_records: 0,
            takeover_step: None,
            certificate: None,
            split_accepted: false,
            discarded: Vec::new(),
            unit: None,
            held_bytes: 0,
            overlay_bytes: 0,
            overlay_used_bytes: 0,
            window: None,
            bookmarks: Vec::new(),
            copying: Vec::new(),
        }
    }
}

/// A resync as the secondary sees it: one unit of records that replaces the last consistent image only as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitStatus {
    /// The time of the image that a takeover gives until the unit is complete.
    pub base: Time,
    /// Primaries that have not said yet that everything is sent.
    pub unfinished: Vec<SystemId>,
    /// The unit is complete when everything up to this time is in the journal; `None` while a primary has not said.
    pub end: Option<Time>,
    /// Old blocks go to the overlay, because the journal could not hold the unit.
    pub is_overlaid: bool,
    /// For the operator: what the group waits for.
    pub reason: String,
}

/// The times that a takeover may choose from, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyWindow {
    /// Everything not later may be on the volumes already.
    pub from: Time,
    /// The recovery point.
    pub until: Time,
}

/// A named point in the group's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmark {
    /// As the primary's operator named it; a name may come again, the newest counts.
    pub name: String,
    /// Where it stands.
    pub stamp: Stamp,
}

/// One stream as a group sees it.
#[derive(Clone, Debug)]
pub struct StreamView {
    /// The stream.
    pub stream: StreamId,
    /// Whose it is.
    pub owner: SystemId,
    /// What it counts.
    pub scope: Scope,
    /// Its epoch.
    pub epoch: Epoch,
    /// Complete up to this time.
    pub tip: Time,
    /// End of the longest received run.
    pub run: Seq,
    /// Durable up to this number.
    pub durable: Seq,
    /// On the volumes up to this number.
    pub applied: Seq,
    /// Highest number that the primary was heard to have given.
    pub announced: Seq,
    /// Bytes of received records that are held in memory.
    pub held_bytes: u64,
    /// Frames that were dropped, by reason.
    pub drops: Drops,
    /// Why the stream takes nothing more, if so.
    pub error: Option<String>,
}

/// One pair.
#[derive(Clone, Debug)]
pub struct PairStatus {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub id: PairId,
    /// Its group.
    pub group: GroupId,
    /// The industry's word for where it stands.
    pub state: PairState,
    /// Why it is not in PAIR state, if it is not.
    pub reason: Option<String>,
    /// Size of the volume.
    pub geometry: Geometry,
    /// Why the volumes were taken to be equal at the start.
    pub content: Content,
    /// The stream its records come in, once the primary joined it.
    pub stream: Option<StreamId>,
    /// As for the group, and the pair's first copy is complete.
    pub consistent: bool,
    /// Its first copy is under way.
    pub copying: bool,
    /// As for the group.
    pub recovery_point: Time,
    /// As for the group.
    pub recovery_point_age_ns: u64,
    /// Its identity after takeover.
    pub uuid: Option<[u8; 16]>,
}
