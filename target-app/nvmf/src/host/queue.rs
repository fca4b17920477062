//! One queue pair.

use super::Command;
use crate::{nqn::Nqn, pdu::Digests, spec::Status};

/// How to set up a queue pair.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// 0 for the admin queue.
    pub qid: u16,
    /// Number of entries; `entries - 1` commands may be outstanding.
    pub entries: u16,
    /// Digests to ask for.
    pub digests: Digests,
    /// This host's name.
    pub host: Nqn,
    /// This host's identifier.
    pub host_id: [u8; 16],
    /// The subsystem to use.
    pub subsystem: Nqn,
    /// 0xFFFF for the admin queue, else the id its Connect returned.
    pub cntlid: u16,
    /// Keep-alive time-out for the admin queue, 0 for none.
    pub keep_alive_ms: u32,
    /// In-capsule data this queue may send: 8192 for admin, what Identify says (IOCCSZ) for I/O.
    pub in_capsule_bytes: u32,
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// As given to [`Queue::submit`].
    pub token: u64,
    /// How it ended.
    pub status: Status,
    /// Result dwords 0 and 1.
    pub result: u64,
    /// What the target sent.
    pub data: Vec<u8>,
}

/// What a queue has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueEvent {
    /// Connect succeeded.
    Connected {
        /// The controller's id.
        cntlid: u16,
    },
    /// A command ended.
    Done(Completion),
    /// The queue can't go on; commands not answered are lost with it.
    Failed(HostError),
}

/// Why a queue can't go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Connect was refused.
    #[error("the target refused Connect with {status}, result {result:#x}")]
    Refused {
        /// Its status.
        status: Status,
        /// IPO and IATTR.
        result: u32,
    },
    /// The target ended the connection.
    #[error("the target ended the connection: fatal error status {fes}, information {fei:#x}")]
    Terminated {
        /// Fatal error status.
        fes: u16,
        /// Fatal error information.
        fei: u32,
    },
    /// The target broke the rules.
    #[error("the target sent a PDU against the rules: {what}")]
    Protocol {
        /// Which.
        what: &'static str,
    },
}

/// No free entry in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full or not connected; wait for a completion")]
pub struct QueueFull;

/// A queue pair over one TCP connection.
#[derive(Debug)]
pub struct Queue {
    _options: QueueOptions,
}

impl Queue {
    /// A queue whose first output is ICReq.
    pub fn new(options: QueueOptions) -> Self {
        Self { _options: options }
    }

    /// Bytes for the socket, in order. The caller sends all of them.
    pub fn take_output(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// Bytes from the socket.
    pub fn receive(&mut self, _bytes: &[u8]) {}

    /// What happened since.
    pub fn poll(&mut self) -> Option<QueueEvent> {
        None
    }

    /// Queues a command; `token` comes back in its [`Completion`].
    pub fn submit(&mut self, _command: Command, _token: u64) -> Result<(), QueueFull> {
        Err(QueueFull)
    }

    /// Commands without a completion yet.
    pub fn outstanding(&self) -> usize {
        0
    }
}
