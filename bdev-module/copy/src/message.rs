//! What two systems tell each other about groups, pairs and streams. The link carries these in order and reliably
//! within a session ([`crate::link`]); at the start of a session both sides say again what they need, so every message
//! may be repeated and none is lost for good.

use crate::digest::Digest;
use crate::types::{Epoch, Extent, Generation, GroupId, PairId, Scope, Seq, StreamId, Time};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Primary: this stream feeds this group. Answered by [`Message::StreamOpened`] once it is durable there.
    OpenStream(OpenStream),
    /// Secondary: the stream is part of the group's set, durably. Records above `durable` may flow.
    StreamOpened(StreamOpened),
    /// Primary: this pair's records will come in this stream. Answered by [`Message::PairJoined`].
    JoinPair(JoinPair),
    /// Secondary: the pair is known, durably.
    PairJoined {
        /// Its group.
        group: GroupId,
        /// The pair.
        pair: PairId,
    },
    /// Primary: the pair left; every record of it has a lower stamp than `at`.
    LeavePair {
        /// Its group.
        group: GroupId,
        /// The pair.
        pair: PairId,
        /// Above every stamp of the pair.
        at: Time,
    },
    /// Primary: the stream ends with `end`; once that is durable the group's limit no longer waits for it.
    CloseStream {
        /// The group that it leaves.
        group: GroupId,
        /// The stream.
        stream: StreamId,
        /// Its epoch.
        epoch: Epoch,
        /// Its last number.
        end: Seq,
        /// Not earlier than the last stamp.
        end_time: Time,
    },
    /// Primary: the group no longer sends; the copy stays at its last cut.
    GroupSuspended {
        /// The group.
        group: GroupId,
        /// PFUS, PSUS or PSUE, as [`crate::types::PairState::code`].
        state: String,
        /// For the operator.
        reason: String,
    },
    /// Secondary: cannot do what was asked.
    Refused {
        /// The group.
        group: GroupId,
        /// What was asked for.
        subject: Subject,
        /// Why.
        refusal: Refusal,
        /// For the operator: what was given, what was expected, what to do.
        text: String,
    },
    /// Secondary: this group has a newer generation; the primary fails its hosts' I/O from here on.
    Fenced {
        /// The group.
        group: GroupId,
        /// The newer one.
        generation: Generation,
    },
    /// Primary: everything that this copy was to bring is stamped, in whatever stream, not later than `end`. Said again in
    /// every session until [`Message::CopyDone`] answers.
    CopyEnd {
        /// The group.
        group: GroupId,
        /// Which copy.
        copy: CopyId,
        /// When the group's limit has reached this time, the copy is complete.
        end: Time,
    },
    /// Secondary: the copy is complete, durably. A unit: the recovery point moves again.
    CopyDone {
        /// The group.
        group: GroupId,
        /// Which copy.
        copy: CopyId,
    },
    /// Primary: does the secondary hold this already? About blocks that no record of the unit (or, of a pair that is being
    /// copied for the first time, of the pair) has touched.
    DigestAsk {
        /// The group.
        group: GroupId,
        /// The pair.
        pair: PairId,
        /// Names the question.
        ask: u64,
        /// Where.
        extent: Extent,
        /// One per [`crate::digest::PIECE_BYTES`] of the extent; at most [`DIGESTS_MAX`].
        digests: Vec<Digest>,
    },
    /// Secondary: the answer.
    DigestAnswer {
        /// The group.
        group: GroupId,
        /// The pair.
        pair: PairId,
        /// Which question.
        ask: u64,
        /// Bit n: piece n differs. `None`: cannot be said; copy all of it.
        differing: Option<u32>,
    },
    /// Secondary: what a verify record found.
    Verified {
        /// The group.
        group: GroupId,
        /// The pair.
        pair: PairId,
        /// The record's stream.
        stream: StreamId,
        /// The record's number.
        seq: Seq,
        /// Bit n: piece n differs. `None`: the volume could not be read.
        differing: Option<u64>,
    },
    /// Secondary, before [`Message::PairJoined`], as often as needed: what it changed on its own since the two volumes
    /// were equal (it was a primary meanwhile, or threw records away). The primary copies these too.
    Differs {
        /// The group.
        group: GroupId,
        /// The pair.
        pair: PairId,
        /// At most [`EXTENTS_MAX`].
        extents: Vec<Extent>,
    },
    /// Primary, in a planned swap: every record is stamped not later than `end`, no host writes here any more; take over
    /// at that point with nothing lost. Said again in every session until it is answered.
    HandOver {
        /// The group.
        group: GroupId,
        /// The generation that ends.
        generation: Generation,
        /// The last time of that history.
        end: Time,
        /// Sum of the last numbers of the group's streams. The secondary has none above its stream's last one, so equal
        /// sums mean that it has all. `None` in scope `system`, where numbers are other groups' too.
        last_sum: Option<u64>,
    },
    /// Secondary: a device there fails for longer than a moment, so records are not applied or not even journaled. Said
    /// again every few seconds while it lasts, and once with an empty text when it is over.
    Trouble {
        /// The group.
        group: GroupId,
        /// Whose volume it is; `None` for the journal.
        pair: Option<PairId>,
        /// For the operator: what fails and what to do.
        text: String,
    },
    /// Primary: the pair's volume is to have so many blocks; answered by [`Message::Resized`] or [`Message::Refused`]. With
    /// `is_done`, also when a stream is opened: hosts see so many, and both sides hold the same there. Not answered.
    Resize {
        /// Its group.
        group: GroupId,
        /// The pair.
        pair: PairId,
        /// Blocks in all.
        blocks: u64,
        /// They may be shown.
        is_done: bool,
    },
    /// Secondary: the pair has so many blocks here, durably; records may be sent for them.
    Resized {
        /// Its group.
        group: GroupId,
        /// The pair.
        pair: PairId,
        /// Blocks in all.
        blocks: u64,
    },
    /// Primary, before each [`Message::JoinPair`] and when a stream is opened: under which identity hosts see the pair's
    /// volume. The secondary's volume takes it over (see [`crate::identity`]).
    Identity {
        /// Its group.
        group: GroupId,
        /// The pair.
        pair: PairId,
        /// NGUID and UUID.
        identity: [u8; 16],
    },
    /// Secondary: it is the primary now, durably, with this generation. Else: [`Message::Refused`] about the group.
    HandedOver {
        /// The group.
        group: GroupId,
        /// The new one.
        generation: Generation,
    },
}

impl Message {
    /// The group that it is about.
    pub fn group(&self) -> GroupId {
        match self {
            Message::OpenStream(open) => open.group,
            Message::StreamOpened(opened) => opened.group,
            Message::JoinPair(join) => join.group,
            Message::PairJoined { group, .. }
            | Message::LeavePair { group, .. }
            | Message::CloseStream { group, .. }
            | Message::GroupSuspended { group, .. }
            | Message::Refused { group, .. }
            | Message::Fenced { group, .. }
            | Message::CopyEnd { group, .. }
            | Message::CopyDone { group, .. }
            | Message::DigestAsk { group, .. }
            | Message::DigestAnswer { group, .. }
            | Message::Verified { group, .. }
            | Message::Differs { group, .. }
            | Message::HandOver { group, .. }
            | Message::Trouble { group, .. }
            | Message::Resize { group, .. }
            | Message::Resized { group, .. }
            | Message::Identity { group, .. }
            | Message::HandedOver { group, .. } => *group,
        }
    }
}

/// Digests in one [`Message::DigestAsk`] at most.
pub const DIGESTS_MAX: usize = 32;

/// Extents in one [`Message::Differs`] at most.
pub const EXTENTS_MAX: usize = 64;

/// What is being copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CopyId {
    /// A resync of the whole group, by the number that its primary gave it (see [`OpenStream::unit`]).
    Unit(u64),
    /// The first copy of one pair, which joined with [`Content::Copy`].
    Pair(PairId),
}

/// See [`Message::OpenStream`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenStream {
    /// The group it feeds. A stream of scope `system` is opened once for each of its groups.
    pub group: GroupId,
    /// The group's name, for messages.
    pub group_name: String,
    /// The primary's generation; the zero generation if the primary knows none yet (a first open).
    pub generation: Generation,
    /// The stream.
    pub stream: StreamId,
    /// What it counts.
    pub scope: Scope,
    /// Its epoch.
    pub epoch: Epoch,
    /// The number of the epoch's first record, at least 1.
    pub base: Seq,
    /// No record of the epoch has an earlier or equal time; the secondary may raise it in its answer.
    pub base_time: Time,
    /// The highest number that this epoch's primary was told is durable; `base - 1` if none. A secondary below it has
    /// lost data and says so.
    pub acknowledged: Seq,
    /// The epoch before, if this primary knows that everything it had stamped there was durable: (epoch, last number).
    pub drained: Option<(Epoch, Seq)>,
    /// The epoch is part of a resync: every record of the group from here on belongs to one unit, which replaces the last
    /// consistent image only as a whole. Numbers rise with each resync of this primary.
    pub unit: Option<u64>,
    /// The strand of the link that brings its records, from 0. The engine fills it in.
    pub strand: u8,
}

/// See [`Message::StreamOpened`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOpened {
    /// The group.
    pub group: GroupId,
    /// The generation that the group has at the secondary.
    pub generation: Generation,
    /// The stream.
    pub stream: StreamId,
    /// The epoch that was opened.
    pub epoch: Epoch,
    /// Everything up to this number is durable there; the primary sends from the next one on.
    pub durable: Seq,
    /// No stamp of the epoch may be at or before this time.
    pub base_time: Time,
    /// As in [`crate::secondary::StreamStatus::held`].
    pub held: Time,
}

/// See [`Message::JoinPair`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinPair {
    /// The group.
    pub group: GroupId,
    /// The pair.
    pub pair: PairId,
    /// The pair's name, by which the secondary's operator created it.
    pub name: String,
    /// The name of the volume at the secondary, empty if the operator did not say.
    pub remote_volume: String,
    /// The stream that its records come in.
    pub stream: StreamId,
    /// Logical blocks of the primary volume.
    pub blocks: u64,
    /// Bytes per logical block.
    pub block_bytes: u32,
    /// What the two volumes hold at the start.
    pub content: Content,
}

/// Why the two volumes of a pair may be taken to be equal at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Both were read and found to be all zeroes.
    Empty,
    /// Both operators said so.
    DeclaredIdentical,
    /// The pair was established before; what was written while it did not copy comes in the unit that is under way.
    Established,
    /// They may differ everywhere: the primary copies all of its volume. The pair is no part of the group's consistent
    /// image before [`CopyId::Pair`] is done.
    Copy,
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The opening of a stream, in this epoch. *A group was deleted and created again at both sites; what it had been told
    /// of its stream before arrived afterwards, and was taken for the answer to the new opening.*
    Stream(StreamId, Epoch),
    /// The joining of a pair.
    Pair(PairId),
    /// The group itself: a hand-over.
    Group,
}

/// Kinds of refusal, as far as the primary acts on them differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not created there yet (or the check for emptiness still runs): ask again later.
    NotYet,
    /// Will not become possible without an operator.
    Never,
    /// The secondary lacks records that it had acknowledged.
    LostData,
    /// The group stays at its last cut until a resync: the epoch ended while records of it were not durable there, or
    /// another of its primaries suspended it.
    UnsentRecords,
}
