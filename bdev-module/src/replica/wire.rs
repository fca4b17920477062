//! A link's datagrams by memory: between two cores of one process, without a socket, a system call or a copy. For
//! measurements and tests that leave the network out.
//!
//! What is sent is a reference to the train; its memory goes back to the sender's arena when the receiver is done with it.
//! What does not fit is lost, as on every network. What this gives up: a core that waits in the kernel is not woken by it.

use std::net::SocketAddr;

use longrun_copy::types::LinkId;
use longrun_hal::ring::{Consumer, Producer, ring};
use longrun_hal::{Arena, Buf};

use super::SocketStats;

/// A train under way.
pub(crate) struct Parcel {
    pub(crate) train: Buf,
    pub(crate) bytes: usize,
    pub(crate) segment_bytes: usize,
}

/// One end. `Send`, to be given to its core with [`Core::link_wire`](crate::Core::link_wire).
pub struct Wire {
    to: Producer<Parcel>,
    from: Consumer<Parcel>,
    /// Where the other end's datagrams come from, as its link is told.
    remote: SocketAddr,
}

impl Wire {
    /// Sends on over `other` what has come here, in memory of its own, as a network does: the sender's is free again. What there
    /// is no room for is lost.
    pub fn carry(&mut self, other: &mut Wire, memory: &Arena) {
        while let Some(Parcel { train, bytes, segment_bytes }) = self.from.pop() {
            if let Some(mut copy) = memory.alloc(bytes) {
                copy.copy_from_slice(&train[..bytes]);
                let _ = other.to.push(Parcel { train: copy, bytes, segment_bytes });
            }
        }
    }
}

/// A wire with room for so many trains each way. The addresses are those that the links know each other by: the first is
/// where the first end's datagrams come from.
///
/// # Panics
/// If `trains` is 0.
pub fn wire(addresses: [SocketAddr; 2], trains: usize) -> [Wire; 2] {
    let (there, at_second) = ring(trains);
    let (back, at_first) = ring(trains);
    let [first, second] = addresses;
    [Wire { to: there, from: at_first, remote: second }, Wire { to: back, from: at_second, remote: first }]
}

/// A link and its end of a wire.
pub(crate) struct Wired {
    pub(super) link: LinkId,
    wire: Wire,
    pub(super) stats: SocketStats,
}

impl Wired {
    pub(super) fn new(link: LinkId, wire: Wire) -> Wired {
        Wired { link, wire, stats: SocketStats::default() }
    }

    pub(super) fn send(&mut self, train: Buf, bytes: usize, segment_bytes: usize) {
        match self.wire.to.push(Parcel { train, bytes, segment_bytes }) {
            Ok(()) => {
                self.stats.trains_sent += 1;
                self.stats.datagrams_sent += bytes.div_ceil(segment_bytes) as u64;
            }
            Err(_) => self.stats.send_errors += 1,
        }
    }

    pub(super) fn has_trains(&mut self) -> bool {
        !self.wire.from.is_empty()
    }

    /// The next train that has come, with its link and whence it came.
    pub(super) fn receive(&mut self) -> Option<(LinkId, SocketAddr, Parcel)> {
        let parcel = self.wire.from.pop()?;
        self.stats.trains_received += 1;
        self.stats.datagrams_received += parcel.bytes.div_ceil(parcel.segment_bytes) as u64;
        Some((self.link, self.wire.remote, parcel))
    }
}
