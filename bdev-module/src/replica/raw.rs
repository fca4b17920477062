//! A link's raw frames (AF_XDP) on this core's ring, beside its UDP socket.
//!
//! They need to know the Ethernet address of the next hop, which the control plane finds in the kernel's neighbour table. As
//! long as it is not known, trains take the kernel's way, which is what has the kernel ask for it; and later one train does
//! every [`KERNEL_EVERY_NS`], so that the kernel keeps the entry fresh and a neighbour that has moved is noticed.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use longrun_copy::types::Mono;
use longrun_hal::frame::{self, Flow, Mac};
use longrun_hal::xdp::{Frames, Spacing, Xdp};
use longrun_hal::{Buf, Completion, Uring};

use crate::percore::token;

/// Descriptors received in one turn at most, so that a turn stays bounded.
const DESCRIPTORS_PER_TURN: usize = 512;
/// How often a train takes the kernel's way: below what the kernel takes an entry of its neighbour table for fresh (30 s).
pub(super) const KERNEL_EVERY_NS: u64 = 10_000_000_000;

/// The next hop towards a link's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The peer.
    pub to: Ipv4Addr,
    /// Whose Ethernet address frames to it carry: its own, or a router's.
    pub mac: Mac,
}

/// One link's raw socket.
pub(crate) struct Raw {
    xdp: Xdp,
    serial: u32,
    hop: Option<Hop>,
    /// When the next train takes the kernel's way.
    kernel_at: Mono,
    /// Descriptors that were there when the turn's batch was taken.
    batch: usize,
    /// The ring waits for frames.
    waiting: bool,
    /// The kernel is being told of frames to send.
    nudging: bool,
    /// It is being told of memory to receive into.
    nudging_receive: bool,
    /// Telling it has failed; there is no use in it until there is something new.
    stalled: bool,
}

impl Raw {
    pub(super) fn new(xdp: Xdp, serial: u32) -> Raw {
        Raw {
            xdp,
            serial,
            hop: None,
            kernel_at: Mono(0),
            batch: 0,
            waiting: false,
            nudging: false,
            nudging_receive: false,
            stalled: false,
        }
    }

    /// Lets go of it. What the kernel holds of its memory comes back by itself.
    pub(super) fn close(self, uring: &mut Uring) {
        if let Some(fd) = self.xdp.fd() {
            uring.cancel(fd);
        }
    }

    pub(super) fn serial(&self) -> u32 {
        self.serial
    }

    pub(super) fn set_hop(&mut self, hop: Option<Hop>) {
        self.hop = hop;
    }

    /// Whether a train to this address goes as raw frames now.
    pub(super) fn takes(&mut self, now: Mono, to: SocketAddr) -> bool {
        let SocketAddr::V4(to) = to else { return false };
        if self.hop.is_none_or(|hop| hop.to != *to.ip()) {
            return false;
        }
        if now >= self.kernel_at {
            self.kernel_at = now.after_ns(KERNEL_EVERY_NS);
            return false;
        }
        true
    }

    /// Sends a train to where it [goes](Raw::takes). False: there was no room.
    pub(super) fn send(&mut self, mut train: Buf, to: SocketAddr, bytes: usize, segment_bytes: usize) -> bool {
        let (SocketAddr::V4(to), Some(hop)) = (to, self.hop) else { return false };
        let flow = Flow { from_mac: self.xdp.interface().mac, to_mac: hop.mac, from: self.xdp.config().local, to };
        let Spacing { headroom_bytes, stride_bytes } = self.xdp.spacing();
        let count = bytes.div_ceil(segment_bytes);
        let last_bytes = headroom_bytes + bytes - (count - 1) * segment_bytes;
        let frames = Frames { count, bytes: headroom_bytes + segment_bytes, last_bytes };
        train.set_len(train.capacity());
        for number in 0..count {
            let len = if number + 1 == count { last_bytes } else { frames.bytes };
            let frame = train.get_mut(number * stride_bytes..).and_then(|rest| rest.get_mut(..len));
            let Some(frame) = frame else { return false };
            if frame::write(&flow, frame).is_err() {
                return false;
            }
        }
        self.stalled = false;
        self.xdp.send(train, frames).is_ok()
    }

    /// Sees what there is to receive; true if anything.
    pub(super) fn gather(&mut self) -> bool {
        self.batch = self.xdp.available().min(DESCRIPTORS_PER_TURN);
        self.batch > 0
    }

    pub(super) fn has_frames(&self) -> bool {
        self.batch > 0
    }

    /// Gives each datagram that was [gathered](Raw::gather) to `each`. How many those were, and how many frames were refused.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(SocketAddrV4, &mut [u8])) -> (u64, u64) {
        let (local, batch) = (self.xdp.config().local, std::mem::take(&mut self.batch));
        let (mut received, mut refused) = (0, 0);
        self.xdp.receive(batch, |bytes| match frame::parse(bytes) {
            Ok(datagram) if datagram.to == local && !datagram.payload.is_empty() => {
                received += 1;
                if let Some(payload) = bytes.get_mut(datagram.payload) {
                    each(datagram.from, payload);
                }
            }
            _ => refused += 1,
        });
        (received, refused)
    }

    /// An operation on the ring ended.
    pub(super) fn completed(&mut self, completion: &Completion) {
        match token::class(completion.token) {
            token::CLASS_RAW_READABLE => self.waiting = false,
            token::CLASS_RAW_NUDGE => {
                self.nudging = false;
                // Busy, or short of something for a moment: it is told again. Else the interface is gone or down.
                self.stalled = completion.result.as_ref().is_err_and(|error| {
                    let errno = error.raw_os_error();
                    !matches!(errno, Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR))
                });
            }
            _ => self.nudging_receive = false,
        }
    }

    /// Frees what was sent, and asks the ring for what is next.
    pub(super) fn push(&mut self, uring: &mut Uring) {
        self.xdp.reclaim();
        let Some(fd) = self.xdp.fd() else { return };
        if !self.nudging && !self.stalled && self.xdp.wants_nudge() {
            self.nudging = true;
            uring.nudge_send(token::raw(token::CLASS_RAW_NUDGE, self.serial), fd);
        }
        if !self.nudging_receive && self.xdp.wants_receive_nudge() {
            self.nudging_receive = true;
            uring.nudge_receive(token::raw(token::CLASS_RAW_RECEIVE_NUDGE, self.serial), fd);
        }
        if !self.waiting {
            self.waiting = true;
            uring.poll_readable(token::raw(token::CLASS_RAW_READABLE, self.serial), fd);
        }
    }
}

/// Moves the datagrams of a spaced train together, for the kernel's way.
pub(super) fn join(train: &mut [u8], bytes: usize, segment_bytes: usize, spacing: Spacing) {
    let Spacing { headroom_bytes, stride_bytes } = spacing;
    for number in 0..bytes.div_ceil(segment_bytes) {
        let to = number * segment_bytes;
        let from = headroom_bytes + number * stride_bytes;
        let len = segment_bytes.min(bytes - to);
        // Never overtakes what is still to be moved: a stride is longer than a segment.
        train.copy_within(from..from + len, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spaced_train_is_joined_for_the_kernels_way() {
        let mut train = vec![0xee; 4 * 2048];
        for number in 0..4u8 {
            train[42 + usize::from(number) * 2048..][..1400].fill(number);
        }
        join(&mut train, 3 * 1400 + 100, 1400, Spacing { headroom_bytes: 42, stride_bytes: 2048 });
        for number in 0..4 {
            let len = if number == 3 { 100 } else { 1400 };
            assert!(train[number * 1400..][..len].iter().all(|byte| usize::from(*byte) == number));
        }
    }
}
