//! One TCP connection of the target.

use std::{marker::PhantomData, net::SocketAddr};

use super::{CloseReason, ConnectionId, ConnectionInfo, Event, ListenAddress, Ports, RecvTarget, stats::Stats};
use crate::pdu::Digests;

/// What the reactor knows of an accepted socket.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionOptions {
    /// The name it gives the connection.
    pub id: ConnectionId,
    /// The socket's own address (not unspecified: what the host reached).
    pub local: SocketAddr,
    /// The host's address.
    pub peer: SocketAddr,
    /// The listener that accepted it, as the configuration spells it.
    pub listener: ListenAddress,
}

/// The machine of one connection; `B` is the payload memory.
#[derive(Debug)]
pub struct Connection<B> {
    options: ConnectionOptions,
    digests: Digests,
    stats: Stats,
    closed: Option<CloseReason>,
    _buf: PhantomData<B>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    /// A connection just accepted.
    pub fn new(_now_ns: u64, options: ConnectionOptions) -> Self {
        Self { options, digests: Digests::default(), stats: Stats::default(), closed: None, _buf: PhantomData }
    }

    /// Takes bytes from the socket and returns how many were used. Fewer than given means [`RecvTarget::Paused`]: keep the
    /// rest and offer it again after the next event. Cost: small PDUs are parsed where they lie, payload bytes are copied
    /// once into their command's buffer.
    pub fn receive<P: Ports<Buf = B>>(&mut self, _now_ns: u64, bytes: &[u8], _ports: &mut P) -> usize {
        bytes.len()
    }

    /// Where the next bytes should go. Ask only with nothing left from `receive`; when the answer is
    /// [`RecvTarget::Into`] the buffer must come back by [`Self::received_into`] (with 0 bytes if nothing was received)
    /// before the next call.
    pub fn recv_target(&mut self) -> RecvTarget<B> {
        RecvTarget::Staging
    }

    /// Returns the buffer of [`RecvTarget::Into`] with `bytes` received at the range's start.
    pub fn received_into<P: Ports<Buf = B>>(&mut self, _now_ns: u64, _buf: B, _bytes: usize, _ports: &mut P) {}

    /// Anything but received bytes.
    pub fn handle<P: Ports<Buf = B>>(&mut self, _now_ns: u64, _event: Event<B>, _ports: &mut P) {}

    /// When the next [`Event::Tick`] is due, in `now_ns`' clock. Changes with every call; coarse timers (10 ms) will do.
    pub fn deadline_ns(&self) -> Option<u64> {
        None
    }

    /// Whether nothing can come back any more: the socket was closed, no block request is outstanding and, on an admin
    /// connection, all I/O queues of its controller are gone. The reactor drops the machine then.
    pub fn is_finished(&self) -> bool {
        self.closed.is_some()
    }

    /// For nvmf_subsystem_get_controllers and get_qpairs. Allocates: control plane only.
    pub fn info(&self) -> ConnectionInfo {
        let ConnectionOptions { id, local, peer, listener } = self.options;
        ConnectionInfo {
            id,
            peer,
            local,
            listener,
            digests: self.digests,
            queue: None,
            controller: None,
            closed: self.closed,
            stats: self.stats,
        }
    }

    /// The counters, without an allocation.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}
