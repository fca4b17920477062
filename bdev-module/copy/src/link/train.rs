//! Datagrams of one size, back to back: what the kernel sends (UDP_SEGMENT) in one call. Or each at a place of its own, with
//! room for the headers of a raw frame before it.

use std::net::SocketAddr;

/// Datagrams in one train at most (the kernel's UDP_MAX_SEGMENTS was 64 for long).
const SEGMENTS_MAX: usize = 64;

/// The most bytes that one UDP send takes.
pub const TRAIN_BYTES_MAX: usize = 65_507;

/// Where datagrams stand in a train's buffer: the first at `headroom_bytes`, and each of the others `stride_bytes` behind the
/// one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spacing {
    /// What is free before each datagram.
    pub headroom_bytes: usize,
    /// From one datagram's beginning to the next one's; headroom and the longest datagram fit in it.
    pub stride_bytes: usize,
}

/// A train that was written into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    /// How many bytes all datagrams have together: from the buffer's beginning, but with [`Spacing`].
    pub bytes: usize,
    /// Length of each datagram but the last, which may be shorter.
    pub segment_bytes: usize,
    /// Where it goes.
    pub to: SocketAddr,
}

/// A train being written.
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    spacing: Option<Spacing>,
    used: usize,
    segment: usize,
    segments: usize,
    full: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut [u8], spacing: Option<Spacing>) -> Writer<'a> {
        Writer { out, spacing, used: 0, segment: 0, segments: 0, full: false }
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

    /// Where the next datagram begins.
    fn start(&self) -> usize {
        match self.spacing {
            None => self.used,
            Some(Spacing { headroom_bytes, stride_bytes }) => headroom_bytes + self.segments * stride_bytes,
        }
    }

    /// Whether a datagram of this size can be the next one.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        let start = self.start();
        if self.used == 0 {
            return bytes <= TRAIN_BYTES_MAX && start + bytes <= self.out.len();
        }
        let room = start + self.segment <= self.out.len() && self.used + self.segment <= TRAIN_BYTES_MAX;
        !self.full && self.segments < SEGMENTS_MAX && bytes <= self.segment && room
    }

    /// Room for the next datagram, which [`Writer::fits`]: at least `bytes` long, and longer if a little padding keeps
    /// the train going.
    pub(crate) fn place(&mut self, bytes: usize) -> &mut [u8] {
        if self.used == 0 {
            self.segment = bytes;
        }
        let padded = if bytes * 4 >= self.segment * 3 { self.segment } else { bytes };
        self.full = padded < self.segment;
        let start = self.start();
        self.used += padded;
        self.segments += 1;
        &mut self.out[start..start + padded]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_stand_apart_where_each_needs_headers_of_its_own() {
        let mut out = vec![0; 8000];
        let spacing = Spacing { headroom_bytes: 42, stride_bytes: 2048 };
        let mut writer = Writer::new(&mut out, Some(spacing));
        for number in 1..=3 {
            assert!(writer.fits(1400));
            writer.place(1400).fill(number);
        }
        // 42 + 3 * 2048 + 1400 is in the buffer, a longer one is not the train's.
        assert!(writer.fits(1400) && !writer.fits(1401));
        writer.place(700).fill(4);
        assert!(!writer.fits(700), "a short one ends the train");
        assert_eq!((writer.used(), writer.segment()), (4900, 1400));
        for (number, bytes) in [(1, 1400), (2, 1400), (3, 1400), (4, 700)] {
            let start = 42 + (number - 1) * 2048;
            assert!(out[start..start + bytes].iter().all(|byte| usize::from(*byte) == number));
            assert!(out[start - 42..start].iter().all(|byte| *byte == 0), "headroom of {number}");
        }
    }

    #[test]
    fn a_spaced_train_ends_with_its_buffer() {
        let mut out = vec![0; 42 + 2048 + 1399];
        let mut writer = Writer::new(&mut out, Some(Spacing { headroom_bytes: 42, stride_bytes: 2048 }));
        assert!(writer.fits(1400));
        writer.place(1400);
        assert!(!writer.fits(1400));
    }
}
