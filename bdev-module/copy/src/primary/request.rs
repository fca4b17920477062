//! A host's request while it is in the engine.

use crate::dirty::FlushNumber;
use crate::overlap::Place;
use crate::ports::{HostError, HostToken, Memory};
use crate::types::{Extent, Mono, PairId, RecordKind, Time};

/// One host request.
pub(super) struct Request<M: Memory> {
    pub token: HostToken,
    pub pair: PairId,
    pub pair_serial: u64,
    /// Tells this request from others that had its slot.
    pub serial: u64,
    pub extent: Extent,
    pub is_write: bool,
    /// Its place in the overlap order; reads and flushes have none.
    pub place: Option<Place>,
    pub stage: Stage<M>,
    /// A write that its pair's dirty map counts as in flight: its regions are marked, or are being marked.
    pub is_held: bool,
}

/// What a write does.
#[derive(Debug)]
pub(super) enum Change<S> {
    Write { data: S, fua: bool },
    WriteZeroes { fua: bool },
    Unmap,
}

impl<S> Change<S> {
    pub fn kind(&self) -> RecordKind {
        match self {
            Change::Write { .. } => RecordKind::Write,
            Change::WriteZeroes { .. } => RecordKind::WriteZeroes,
            Change::Unmap => RecordKind::Unmap,
        }
    }
}

/// Where it is.
pub(super) enum Stage<M: Memory> {
    /// A write that was not submitted yet: behind an overlapping one, waiting for its marks, parked, or out of lease.
    Waiting(Change<M::Shared>),
    /// A read or flush at the device.
    Passing {
        /// A flush, as the dirty map counts it.
        flush: Option<FlushNumber>,
    },
    /// A write at the device, and with its stream if it has a stamp.
    Local {
        /// Its stamp's time.
        stamped: Option<Time>,
    },
    /// A write that failed after its stamp: what the disk now holds is being read and sent.
    Repairing(Repair<M::Shared>),
    /// Done; the answer waits until the timeline is past the stamp, or until the throttle lets it go.
    Answering {
        /// What the host will be told.
        outcome: Result<(), HostError>,
        /// A read's buffer.
        buf: Option<M::Buf>,
    },
    /// Answered before its turn came; it only keeps its place in the overlap order.
    Ghost,
}

/// How far a repair is. Pieces, because an unmap may be larger than any buffer.
pub(super) struct Repair<S> {
    /// The first block that was not sent yet.
    pub next_lba: u64,
    /// A piece that was read and waits for the lease: its blocks and bytes.
    pub piece: Option<(Extent, S)>,
    /// When it began.
    pub since: Mono,
    /// What the host learns at the end.
    pub error: HostError,
    /// The last stamp that was given for it.
    pub stamped: Time,
}
