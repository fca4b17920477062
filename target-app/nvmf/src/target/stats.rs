//! What the control plane may see of a connection.

use std::net::SocketAddr;

use super::{CloseReason, ConnectionId, ControllerId, ListenAddress};
use crate::{nqn::Nqn, pdu::Digests};

/// Counters of one connection since it was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Command capsules taken.
    pub commands: u64,
    /// Read commands completed, with any status.
    pub reads: u64,
    /// Bytes sent for reads.
    pub read_bytes: u64,
    /// Write commands completed, with any status.
    pub writes: u64,
    /// Bytes received for writes.
    pub write_bytes: u64,
    /// Commands answered with an error status.
    pub errors: u64,
    /// R2T PDUs sent.
    pub r2ts: u64,
    /// Data digests that did not match.
    pub data_digest_errors: u64,
    /// PDUs against the rules (each ends its connection).
    pub protocol_errors: u64,
    /// Commands that had to wait for payload memory.
    pub memory_waits: u64,
    /// Commands with a block device now.
    pub in_flight: u32,
}

/// A queue as nvmf_subsystem_get_qpairs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its subsystem.
    pub subsystem: Nqn,
    /// Its host.
    pub host: Nqn,
    /// Its controller.
    pub controller: ControllerId,
    /// 0 for the admin queue.
    pub qid: u16,
    /// Number of entries.
    pub entries: u16,
}

/// A controller as nvmf_subsystem_get_controllers shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerInfo {
    /// The host's identifier.
    pub host_id: [u8; 16],
    /// Its I/O queues, by number.
    pub io_queues: Vec<u16>,
    /// CSTS.RDY.
    pub ready: bool,
    /// Keep-alive time-out in milliseconds; 0 when off.
    pub keep_alive_ms: u32,
}

/// A connection as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Its name.
    pub id: ConnectionId,
    /// The host's address.
    pub peer: SocketAddr,
    /// The address the host reached.
    pub local: SocketAddr,
    /// The listener that accepted it.
    pub listener: ListenAddress,
    /// The digests agreed on.
    pub digests: Digests,
    /// Set once Connect succeeded.
    pub queue: Option<QueueInfo>,
    /// On an admin queue, the controller it owns.
    pub controller: Option<ControllerInfo>,
    /// Set once the machine closed its socket.
    pub closed: Option<CloseReason>,
    /// Counters.
    pub stats: Stats,
}
