//! What a connection may ask of the world, and what comes back.

use std::ops::Range;

use smallvec::SmallVec;

use super::{
    config::BdevHandle,
    core::{Core, Peer, PeerMessage},
};
use crate::inline::Inline;

/// The world of one [`super::Connection`]. Each call submits and returns; results come back as [`Event`]s, so nothing
/// re-enters the machine.
pub trait Ports {
    /// Payload memory. Dropping one gives it back.
    type Buf: AsRef<[u8]> + AsMut<[u8]>;

    /// What this core's connections share.
    fn core(&mut self) -> &mut Core;

    /// Memory for a payload of `bytes` (1 to [`super::TRANSFER_BYTES_MAX`]); the buffer may be longer, the payload is at its
    /// beginning. Its content need not be zero. None when there is none now: the machine parks the command and asks again at
    /// [`Event::MemoryFreed`] and [`Event::Tick`].
    ///
    /// Keep a reserve for requests of up to [`super::IN_CAPSULE_BYTES_IO`]: a capsule whose data finds no memory stops its
    /// connection's receiving, and with it the data of transfers that hold memory already.
    fn alloc(&mut self, bytes: usize) -> Option<Self::Buf>;

    /// Hands one request to its block device; [`Event::BlockDone`] answers it, always, also when it failed.
    fn submit(&mut self, request: BlockRequest<Self::Buf>);

    /// Queues bytes for the socket, in order; [`Event::Sent`] tells when they have left. A completion and its data come in
    /// one call, and nothing is flushed in between.
    fn send(&mut self, outgoing: Outgoing<Self::Buf>);

    /// Carries a message to another connection of this target, perhaps on another core.
    fn tell(&mut self, to: Peer, message: PeerMessage);

    /// Closes the socket after everything given to `send` has left it (or cannot any more): best by shutting down the writing
    /// half and reading to the end for a moment, since closing over unread bytes resets the socket and the host never sees
    /// the reason. Called once. The machine wants
    /// [`Event::BlockDone`]s and messages until [`super::Connection::is_finished`]; bytes that still arrive are dropped.
    fn close(&mut self, reason: CloseReason);
}

/// Identifies a block request in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u64);

/// One request to a block device.
#[derive(Debug)]
pub struct BlockRequest<B> {
    /// To be returned in [`Event::BlockDone`].
    pub tag: Tag,
    /// The namespace's device.
    pub bdev: BdevHandle,
    /// What to do.
    pub op: BlockOp<B>,
}

/// A run of logical blocks; never empty in a request, and within the namespace's capacity when it was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// First block.
    pub lba: u64,
    /// How many.
    pub blocks: u32,
}

/// The operations of a block device.
#[derive(Debug)]
pub enum BlockOp<B> {
    /// Read into the beginning of `buf`; `buf` comes back in the answer.
    Read {
        /// Which blocks.
        range: BlockRange,
        /// Where to.
        buf: B,
    },
    /// Write from the beginning of `data`.
    Write {
        /// Which blocks.
        range: BlockRange,
        /// The payload, immutable from here on.
        data: B,
        /// Durable before it is answered.
        fua: bool,
    },
    /// Make all answered writes durable.
    Flush,
    /// Make the blocks read as zeroes.
    WriteZeroes {
        /// Which blocks.
        range: BlockRange,
        /// The medium may free the blocks if they then read as zeroes.
        deallocate: bool,
        /// Durable before it is answered.
        fua: bool,
    },
    /// The host has no more use for the content of these blocks.
    Unmap {
        /// Which blocks; at most 256 runs.
        ranges: SmallVec<[BlockRange; 4]>,
    },
}

/// How a block request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockStatus {
    /// Done.
    Ok,
    /// The medium could not read (Unrecovered Read Error).
    ReadError,
    /// The medium could not write (Write Fault).
    WriteError,
    /// Beyond the device's end.
    OutOfRange,
    /// The device refuses host I/O for now (Namespace Not Ready).
    NotReady,
    /// The device is between two states (Asymmetric Access Transition): hosts wait, or use another path.
    Transition,
    /// The data is at another system now (Asymmetric Access Inaccessible): hosts use another path.
    Inaccessible,
    /// The device may not be written.
    WriteProtected,
    /// No space on the medium (Capacity Exceeded).
    NoSpace,
    /// The device can't do this operation.
    Unsupported,
    /// Ended before it was done; the host may try again.
    Aborted,
    /// Anything else.
    Internal,
}

/// What happens to a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<B> {
    /// A block request ended. A read must bring its buffer back; a write may keep its own.
    BlockDone {
        /// From the request.
        tag: Tag,
        /// How it ended.
        status: BlockStatus,
        /// The buffer.
        buf: Option<B>,
    },
    /// So many [`Ports::send`] calls have wholly left since the last such event. Without it the machine soon stops receiving:
    /// that is how a host that sends and never reads is held.
    Sent {
        /// Number of `send` calls.
        count: u32,
    },
    /// Payload memory became free after [`Ports::alloc`] gave none.
    MemoryFreed,
    /// A message from another connection.
    Peer(PeerMessage),
    /// [`Core::set_config`] swapped the configuration.
    ConfigChanged,
    /// Time passed; due no later than [`super::Connection::deadline_ns`], harmless at any time.
    Tick,
    /// The socket was closed by the host or failed.
    Disconnected,
    /// The target wants to close this connection (listener removed, shutting down).
    Close,
}

/// Bytes for the socket: `head`, then the first `payload_bytes` of `payload`, then `tail`.
#[derive(Debug)]
pub struct Outgoing<B> {
    /// PDU headers up to the payload.
    pub head: Inline<160>,
    /// The payload; give it back (drop it) when it has left.
    pub payload: Option<Payload<B>>,
    /// The data digest and, behind a read's data, the completion.
    pub tail: Inline<32>,
}

/// The beginning of a buffer.
#[derive(Debug)]
pub struct Payload<B> {
    /// Holds at least `bytes`.
    pub buf: B,
    /// How many bytes go out.
    pub bytes: usize,
}

impl<B: AsRef<[u8]>> Outgoing<B> {
    /// The three pieces in order; the middle one may be empty.
    pub fn pieces(&self) -> [&[u8]; 3] {
        let payload = self.payload.as_ref().and_then(|p| p.buf.as_ref().get(..p.bytes)).unwrap_or_default();
        [self.head.as_slice(), payload, self.tail.as_slice()]
    }

    /// Bytes of all pieces.
    pub fn bytes(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }
}

/// Where the next bytes from the socket go; see [`super::Connection::recv_target`].
#[derive(Debug)]
pub enum RecvTarget<B> {
    /// Into the reactor's own buffer, any amount; give them to [`super::Connection::receive`].
    Staging,
    /// Straight into this part of a command's buffer; give it back with [`super::Connection::received_into`]. The range is
    /// never empty and within the buffer.
    Into {
        /// The command's buffer, owned by the reactor until it gives it back.
        buf: B,
        /// Where the bytes go.
        range: Range<usize>,
    },
    /// Nowhere now: no memory, or too much unsent. Ask again after the next event.
    Paused,
}

/// Why the machine closes its socket. For the log and the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The host closed its end.
    HostClosed,
    /// The host sent a PDU against the rules; it was told so by C2HTermReq.
    ProtocolError,
    /// The host sent H2CTermReq.
    HostTerminated,
    /// No ICReq or no Connect in time.
    SetupTimeout,
    /// Connect was refused.
    ConnectRefused,
    /// The keep-alive timer ran out.
    KeepAliveExpired,
    /// The controller of this I/O queue was reset, shut down or lost its admin connection.
    ControllerGone,
    /// The host's Disconnect command.
    Disconnect,
    /// The subsystem was removed or no longer admits the host.
    NoLongerServed,
    /// The target asked for it.
    TargetClosed,
}
