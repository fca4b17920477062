//! Takeover: what it leaves behind for the operator.

use crate::types::{Epoch, Generation, PairId, Seq, StreamId, Time};
use std::ops::RangeInclusive;

/// What an operator can know about what a takeover lost: everything up to the recovery point is here, in order; per
/// stream what was seen beyond it; beyond that, unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossCertificate {
    /// The cut: every record not later is on the volumes, none later is.
    pub recovery_point: Time,
    /// The new generation.
    pub generation: Generation,
    /// One per stream of the group.
    pub streams: Vec<StreamLoss>,
    /// The volumes' identities from now on.
    pub volumes: Vec<VolumeIdentity>,
    /// Pairs that no cut of the group ever held whole: their first copy was not complete at the recovery point, or their
    /// volume lost its content. They are no part of the cut and serve no hosts.
    pub never_consistent: Vec<PairId>,
}

/// Which point a takeover goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TakeoverAt {
    /// The recovery point.
    #[default]
    Newest,
    /// This time: every record not later is kept, none later. Within the group's apply window
    /// ([`crate::secondary::ApplyWindow`]), else the takeover is refused.
    Time(Time),
    /// The newest bookmark of this name, with everything not later than it.
    Bookmark(String),
}

/// What a takeover lost of one stream, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLoss {
    /// The stream.
    pub stream: StreamId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The last number that is on the volumes.
    pub last_applied: Seq,
    /// Numbers that had arrived (whole) and are not on the volumes.
    pub seen_not_applied: Vec<RangeInclusive<u64>>,
    /// The highest number that the primary was heard to have given.
    pub highest_announced: Seq,
}

/// The identity under which a taken-over volume shows itself: never the old one, hosts must remount (design 4a).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeIdentity {
    /// The pair.
    pub pair: PairId,
    /// NGUID and UUID from now on, derived from the new generation and the pair.
    pub uuid: [u8; 16],
}

/// How far a takeover is (design 4a, "Takeover in steps"). A crash in one re-enters it: until [`TakeoverStep::Seal`] is
/// durable the takeover never was; from then on it finishes by itself after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TakeoverStep {
    /// Nothing more is accepted; what the limit allows is being journaled.
    Journal,
    /// The new generation, the seal and the certificate are being made durable.
    Seal,
    /// A resync had overwritten blocks: what they held at the last consistent image goes back from the overlay.
    Restore,
    /// Everything journaled is being put on the volumes.
    Apply,
    /// The volumes are being flushed.
    Flush,
    /// "Journal closed" is being made durable: no restart replays it over the hosts' writes.
    Close,
    /// The volumes serve hosts.
    Writable,
}

/// The identity of a volume that was taken over: from the new generation and the pair, so that it is the same after every
/// restart and another after every takeover. In the form of RFC 9562 version 8.
pub fn volume_uuid(generation: Generation, pair: PairId) -> [u8; 16] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(b"longrun volume");
    context.update(&generation.number.to_le_bytes());
    context.update(&generation.id.to_le_bytes());
    context.update(&pair.0.to_le_bytes());
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&context.finish().as_ref()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
