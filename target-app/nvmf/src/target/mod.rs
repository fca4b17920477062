//! The target's side: one [`Connection`] per TCP connection, configured by a [`TargetConfig`] snapshot, talking to the
//! world through [`Ports`].
//!
//! # What a reactor does
//!
//! Per core: one [`Core`]. Per accepted socket: a [`Connection`]. Then, per connection:
//!
//! ```text
//! loop {
//!     if staging holds bytes { n = connection.receive(now, staging, ports); drop the first n; if some are left, wait for an event }
//!     else match connection.recv_target() {
//!         Staging          => receive into staging
//!         Into{buf, range} => receive into buf[range]; connection.received_into(now, buf, bytes, ports)
//!         Paused           => wait for an event
//!     }
//!     any event            => connection.handle(now, event, ports)
//!     deadline_ns passed   => connection.handle(now, Event::Tick, ports)
//!     is_finished()        => drop it
//! }
//! ```
//!
//! `recv_target` is only asked while staging is empty. After [`CloseReason`] was reported, the reactor stops receiving but
//! goes on delivering block completions and messages until the machine is finished: only then is the QID free, so that a
//! host that retries on another queue never races with its own old write.
//!
//! # Memory
//!
//! Every pool here is bounded: a queue's commands by its size, a payload by [`TRANSFER_BYTES_MAX`], unsent completions by
//! twice the queue's size (then receiving pauses). A command that finds no payload memory waits for
//! [`Event::MemoryFreed`], at most [`MEMORY_WAIT_NS_MAX`], and then fails with Internal Error, which hosts retry.

mod ana;
mod config;
mod connect;
mod connection;
mod controller;
mod core;
mod ports;
mod stats;

pub use crate::spec::AnaState;
pub use ana::{ANA_TRANSITION_SECONDS_MAX, AnaGroup, AnaTable};
pub use config::{
    AsciiField, BdevHandle, BlockSize, ListenAddress, ModelNumber, Namespace, NamespaceState, Nsid, SerialNumber,
    Subsystem, TargetConfig, TextError, TransportLimits,
};
pub use connect::ConnectRefusal;
pub use connection::{Connection, ConnectionOptions};
pub use core::{CNTLID_MAX, ConnectionId, ControllerId, Core, Peer, PeerMessage};
pub use ports::{
    BlockOp, BlockRange, BlockRequest, BlockStatus, CloseReason, Event, Outgoing, Payload, Ports, RecvTarget, Tag,
};
pub use stats::{ConnectionInfo, ControllerInfo, QueueInfo, Stats};

/// The largest data transfer of one command: MDTS 8 with 4 KiB pages.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// In-capsule data that an I/O queue takes (IOCCSZ): small writes need no R2T.
pub const IN_CAPSULE_BYTES_IO: u32 = 16 << 10;

/// In-capsule data of admin and Fabrics commands (TCP 3.2: always 8192).
pub const IN_CAPSULE_BYTES_ADMIN: u32 = 8 << 10;

/// How long a command waits for payload memory before it fails with a status that hosts retry.
pub const MEMORY_WAIT_NS_MAX: u64 = 10_000_000_000;

/// How long a new socket may take for ICReq and Connect.
pub const SETUP_NS_MAX: u64 = 10_000_000_000;
