//! Datagrams of one size, back to back: what the kernel sends (UDP_SEGMENT) in one call.

use std::net::SocketAddr;

/// Datagrams in one train at most (the kernel's UDP_MAX_SEGMENTS was 64 for long).
const SEGMENTS_MAX: usize = 64;

/// The most bytes that one UDP send takes.
pub const TRAIN_BYTES_MAX: usize = 65_507;

/// A train that was written into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    /// How many bytes of the buffer.
    pub bytes: usize,
    /// Length of each datagram but the last, which may be shorter.
    pub segment_bytes: usize,
    /// Where it goes.
    pub to: SocketAddr,
}

/// A train being written.
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    used: usize,
    segment: usize,
    segments: usize,
    full: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Writer<'a> {
        Writer { out, used: 0, segment: 0, segments: 0, full: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn segment(&self) -> usize {
        self.segment
    }

    /// Whether a datagram of this size can be the next one.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        let limit = self.out.len().min(TRAIN_BYTES_MAX);
        if self.used == 0 {
            return bytes <= limit;
        }
        !self.full && self.segments < SEGMENTS_MAX && bytes <= self.segment && self.used + self.segment <= limit
    }

    /// Room for the next datagram, which [`Writer::fits`]: at least `bytes` long, and longer if a little padding keeps
    /// the train going.
    pub(crate) fn place(&mut self, bytes: usize) -> &mut [u8] {
        if self.used == 0 {
            self.segment = bytes;
        }
        let padded = if bytes * 4 >= self.segment * 3 { self.segment } else { bytes };
        self.full = padded < self.segment;
        let start = self.used;
        self.used += padded;
        self.segments += 1;
        &mut self.out[start..start + padded]
    }
}
