//! A stream's receive ring.

use crate::types::{Epoch, RecordHead};

/// Fragments start at multiples of this many payload bytes, and are a multiple of it long unless they end the payload.
pub const FRAGMENT_UNIT_BYTES: u32 = 256;

/// A piece of a record as the link authenticated it.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    /// The epoch that it was stamped in.
    pub epoch: Epoch,
    /// Number of the generation that it was stamped in.
    pub generation: u64,
    /// The whole record's head; the stream is `head.stamp.stream`.
    pub head: RecordHead,
    /// Where `body` belongs in the payload, in bytes.
    pub offset: u32,
    /// Payload bytes; empty for a record without payload.
    pub body: &'a [u8],
}

/// Frames that were not taken, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Already there.
    pub duplicate: u64,
    /// Of another epoch.
    pub stale_epoch: u64,
    /// Of another generation.
    pub stale_generation: u64,
    /// Beyond the granted window.
    pub outside_window: u64,
    /// No memory for it now; it will come again.
    pub no_memory: u64,
    /// Length, offset, extent or kind cannot be.
    pub malformed: u64,
    /// Says something else about a record than the record's first fragment.
    pub contradicting: u64,
    /// Names a pair that has not joined through this stream.
    pub unknown_pair: u64,
    /// Stamped further in the future than clocks may differ.
    pub future: u64,
    /// Came through a link that is not the owner's.
    pub wrong_link: u64,
    /// The stream or its group takes nothing more.
    pub closed: u64,
}
