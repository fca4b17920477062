//! The words of remote copy as types, so that mixing them up does not compile.

use std::fmt;
use std::ops::Range;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// A point on the group's timeline, in nanoseconds since the Unix epoch. Stamps, tips, limit times and recovery
    /// points are of this kind. Only the stamping core's timeline makes one.
    Time
);
number!(
    /// A point on this core's monotonic clock, in nanoseconds. For timers only: it never travels and is never compared
    /// with a [`Time`].
    Mono
);
number!(
    /// A stream's number of a record. The first record of an epoch has its base; each next one is higher by one.
    Seq
);
number!(
    /// Rises durably at each start of the primary that owns a stream; every frame carries it.
    Epoch
);
number!(
    /// A system: derived from its public key ([`SystemId::of_key`]), or from its address where that is all there is.
    SystemId
);
number!(
    /// A consistency group: derived from its name, which both sites use.
    GroupId
);
number!(
    /// A pair: derived from the names of its group and of itself.
    PairId
);
number!(
    /// What a sequence number counts; derived from the owner's key and what the scope names (see [`crate::scope`]).
    StreamId
);

/// A link of this system; an index that never leaves the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// A block device that the embedding gave the engine for exclusive use: a pair's volume, or a group's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub u32);

impl Time {
    /// The time `ns` later; saturates at the end of time.
    pub fn after_ns(self, ns: u64) -> Time {
        Time(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to this time, 0 if `earlier` is not earlier.
    pub fn since_ns(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Mono {
    /// The point `ns` later; saturates.
    pub fn after_ns(self, ns: u64) -> Mono {
        Mono(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to this point, 0 if `earlier` is not earlier.
    pub fn since_ns(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Seq {
    /// The number after this one.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }

    /// The number before this one. The base of a stream is at least 1, so that "none yet" has a number.
    pub fn previous(self) -> Seq {
        Seq(self.0 - 1)
    }
}

/// A name hashed to an identifier that both sites derive alike. Never 0.
fn id_of(parts: &[&[u8]]) -> u64 {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let digest = context.finish();
    let mut eight = [0; 8];
    eight.copy_from_slice(&digest.as_ref()[..8]);
    u64::from_le_bytes(eight).max(1)
}

impl SystemId {
    /// The system that holds the private half of this X25519 key.
    pub fn of_key(public_key: &[u8; 32]) -> SystemId {
        SystemId(id_of(&[b"system", public_key]))
    }

    /// The system at this address, where nothing else is known of it.
    pub fn of_address(addr: std::net::SocketAddr) -> SystemId {
        SystemId(id_of(&[b"address", format!("{}/{}", addr.ip(), addr.port()).as_bytes()]))
    }
}

impl GroupId {
    /// The group of this name.
    pub fn of_name(name: &str) -> GroupId {
        GroupId(id_of(&[b"group", name.as_bytes()]))
    }
}

impl PairId {
    /// The pair of this name in this group.
    pub fn of_name(group: GroupId, name: &str) -> PairId {
        PairId(id_of(&[b"pair", &group.0.to_le_bytes(), name.as_bytes()]))
    }
}

impl StreamId {
    /// The stream of `owner` towards `remote` for what the scope counts by: nothing more, a group, or a pair.
    pub fn of(owner: SystemId, remote: SystemId, counted: &[u64]) -> StreamId {
        let counted: Vec<u8> = counted.iter().flat_map(|id| id.to_le_bytes()).collect();
        StreamId(id_of(&[b"stream", &owner.0.to_le_bytes(), &remote.0.to_le_bytes(), &counted]))
    }
}

/// The two clocks and their limits, read once per turn after the turn's batch was taken (design 4a: read before, a
/// batch that waited in the kernel would be stamped into the past of another core).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// This core's reading of the timeline.
    pub time: Time,
    /// This core's monotonic clock.
    pub mono: Mono,
    /// Times above this may not be used yet: a restart would start the timeline below them.
    pub lease: Time,
    /// How far any two stamping cores' readings of the timeline may be apart at one instant, in nanoseconds.
    pub error_bound_ns: u64,
}

/// A run of a volume's logical blocks. `blocks` is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// First logical block.
    pub lba: u64,
    /// How many.
    pub blocks: u32,
}

impl Extent {
    /// The block after the last.
    pub fn end(self) -> u64 {
        self.lba.saturating_add(u64::from(self.blocks))
    }

    /// Whether the two share a block.
    pub fn overlaps(self, other: Extent) -> bool {
        self.lba < other.end() && other.lba < self.end()
    }

    /// As a range of block numbers.
    pub fn range(self) -> Range<u64> {
        self.lba..self.end()
    }
}

/// A volume's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes per logical block, 512 or 4096.
    pub block_bytes: u32,
}

impl Geometry {
    /// Size in bytes.
    pub fn bytes(self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block_bytes))
    }

    /// Whether the extent lies inside and is not empty.
    pub fn holds(self, extent: Extent) -> bool {
        extent.blocks > 0 && extent.lba.checked_add(u64::from(extent.blocks)).is_some_and(|end| end <= self.blocks)
    }
}

/// Which history a record belongs to: a new one begins at each takeover. Two generations of one number and different
/// ids are split brain (design 4a).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Generation {
    /// 1 for a group's first history; each takeover adds one.
    pub number: u64,
    /// Random, so that two takeovers that do not know of each other differ.
    pub id: u64,
    /// The id of the generation that this one continues; 0 for the first.
    pub parent: u64,
}

impl Generation {
    /// Whether `self` continues `older` directly.
    pub fn is_child_of(self, older: Generation) -> bool {
        self.number == older.number + 1 && self.parent == older.id
    }

    /// Whether `self` continues `older`: directly, or with a number in between that was given up because nobody knows
    /// whether it was begun.
    pub fn succeeds(self, older: Generation) -> bool {
        self.number > older.number && self.parent == older.id
    }

    /// Whether `self` continues what `other` continues, begun later and knowing of it: `other` was given up by an
    /// operator's word.
    pub fn gives_up(self, other: Generation) -> bool {
        self.number > other.number && self.parent == other.parent && other.parent != 0
    }
}

/// Time, stream and number of a record; the order of history within a generation is this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Strictly rising within a stream.
    pub time: Time,
    /// Breaks ties between streams.
    pub stream: StreamId,
    /// Rises by one within a stream.
    pub seq: Seq,
}

/// What a record does to its extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Writes the payload.
    Write,
    /// Writes zeroes; no payload.
    WriteZeroes,
    /// Deallocates; the blocks read as zeroes afterwards; no payload.
    Unmap,
    /// Writes what the primary's disk was found to hold after a local write had failed (design 4a).
    Repair,
    /// Writes what the primary volume holds: part of a resync or of an initial copy, stamped under its overlap lock.
    Copy,
    /// Changes nothing: its payload holds digests ([`crate::digest`]) of what the extent holds at this stamp, to be
    /// compared with the secondary volume when everything earlier is on it and nothing later.
    Verify,
    /// Changes nothing: its payload is a name (UTF-8) for this stamp. Its extent means nothing.
    Bookmark,
}

impl RecordKind {
    /// The byte that stands for it on the wire and in the journal.
    pub fn code(self) -> u8 {
        match self {
            RecordKind::Write => 1,
            RecordKind::WriteZeroes => 2,
            RecordKind::Unmap => 3,
            RecordKind::Repair => 4,
            RecordKind::Copy => 5,
            RecordKind::Verify => 6,
            RecordKind::Bookmark => 7,
        }
    }

    /// The kind for a byte, if there is one.
    pub fn from_code(code: u8) -> Option<RecordKind> {
        Some(match code {
            1 => RecordKind::Write,
            2 => RecordKind::WriteZeroes,
            3 => RecordKind::Unmap,
            4 => RecordKind::Repair,
            5 => RecordKind::Copy,
            6 => RecordKind::Verify,
            7 => RecordKind::Bookmark,
            _ => return None,
        })
    }

    /// Whether a record of this kind has a payload.
    pub fn has_payload(self) -> bool {
        !matches!(self, RecordKind::WriteZeroes | RecordKind::Unmap)
    }

    /// Whether the payload is the new content of the extent, hence of its size.
    pub fn writes_payload(self) -> bool {
        matches!(self, RecordKind::Write | RecordKind::Repair | RecordKind::Copy)
    }

    /// Whether a record of this kind changes its extent.
    pub fn changes_volume(self) -> bool {
        !matches!(self, RecordKind::Verify | RecordKind::Bookmark)
    }
}

/// A record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordHead {
    /// When and which.
    pub stamp: Stamp,
    /// The pair whose volume it changes.
    pub pair: PairId,
    /// What it does.
    pub kind: RecordKind,
    /// Where.
    pub extent: Extent,
    /// Payload length in bytes: the extent's size for a kind that writes it, else of the digests or the name, or 0.
    pub payload_bytes: u32,
}

/// Memory that a record takes beside its payload, counted by grants, budgets and rings on both sides alike.
pub const RECORD_OVERHEAD_BYTES: u64 = 256;

impl RecordHead {
    /// What the record counts against a grant or a budget, in bytes: its payload in whole 4 KiB pages, and
    /// [`RECORD_OVERHEAD_BYTES`].
    pub fn charge_bytes(&self) -> u64 {
        u64::from(self.payload_bytes).next_multiple_of(4096) + RECORD_OVERHEAD_BYTES
    }
}

/// One stamped change. Its content is immutable from the stamp on.
#[derive(Clone, Debug)]
pub struct Record<S> {
    /// What, where, when.
    pub head: RecordHead,
    /// The bytes; `None` for a kind without payload.
    pub payload: Option<S>,
}

/// What a sequence number counts (claims 25-29).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One stream per pair.
    Pair,
    /// One stream per (local system, remote system): all groups of this scope towards the same system share it, and
    /// its fate.
    System,
    /// One stream per (local system, remote system) and group.
    #[default]
    Group,
}

/// What an operator says of a pair's two volumes at the start; both sites' operators say it alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Initial {
    /// Both are empty; each system reads its own to make sure.
    #[default]
    Empty,
    /// Both hold the same; nothing is read.
    Identical,
    /// The primary volume is copied; what the secondary volume holds is given up.
    Copy,
    /// As [`Initial::Copy`], but only what differs travels: both sides read all of their volume.
    CopyDifferences,
}

/// What a group does when its send buffer (and its spill) fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// Hosts' answers are held back, in a ramp, at most for `throttle_ms_max`; if that is not enough the group suspends.
    #[default]
    Throttle,
    /// Hosts never wait: the group suspends.
    Suspend,
}

/// The state of a pair, in the industry's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PairState {
    /// SMPL: not yet joined with its partner.
    Simplex,
    /// COPY: being established.
    Copy,
    /// PAIR: every write travels.
    Pair,
    /// PFUL: as PAIR, but the buffers are nearly full and hosts are being slowed.
    NearlyFull,
    /// PFUS: suspended, the buffers overflowed.
    SuspendedFull,
    /// PSUS: suspended by the operator.
    SuspendedOperator,
    /// PSUE: suspended by an error.
    SuspendedError,
    /// SSWS: the secondary was taken over and serves hosts.
    TakenOver,
}

impl PairState {
    /// The industry's abbreviation.
    pub fn code(self) -> &'static str {
        match self {
            PairState::Simplex => "SMPL",
            PairState::Copy => "COPY",
            PairState::Pair => "PAIR",
            PairState::NearlyFull => "PFUL",
            PairState::SuspendedFull => "PFUS",
            PairState::SuspendedOperator => "PSUS",
            PairState::SuspendedError => "PSUE",
            PairState::TakenOver => "SSWS",
        }
    }

    /// Whether writes of this pair travel to the secondary.
    pub fn is_copying(self) -> bool {
        matches!(self, PairState::Pair | PairState::NearlyFull)
    }
}
