//! The built-in NVMe/TCP host: one controller with several I/O queue pairs.

use std::net::SocketAddr;

use longrun_checker::BlockBytes;
use longrun_nvmf::Nqn;
use longrun_nvmf::host::{Command, QueueOptions};

use super::clock::HostClock;
use super::connection::{Admin, Connection, ConnectionError};

/// Why the host cannot work with a target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostFault {
    /// A queue pair failed.
    #[error("queue pair {qid} to {to}: {why}")]
    Queue {
        /// Which; 0 is the admin queue.
        qid: u16,
        /// Where to.
        to: SocketAddr,
        /// Why.
        why: ConnectionError,
    },
    /// A namespace is not there, or not ready for I/O.
    #[error("namespace {nsid} is not there or not ready; the controller has {there:?}")]
    NoNamespace {
        /// Which.
        nsid: u32,
        /// Those that are ready.
        there: Vec<u32>,
    },
    /// A namespace cannot be used.
    #[error("namespace {nsid} has blocks of {block_bytes} bytes; the host knows 512 and 4096")]
    BlockSize {
        /// Which.
        nsid: u32,
        /// Its block size.
        block_bytes: u32,
    },
}

/// A namespace as the host uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its number.
    pub nsid: u32,
    /// Its block size.
    pub block_bytes: BlockBytes,
    /// How many blocks it has.
    pub blocks: u64,
}

/// Where to connect, and with what.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The target's listener.
    pub to: SocketAddr,
    /// The subsystem.
    pub subsystem: Nqn,
    /// This host's name.
    pub host: Nqn,
    /// I/O queue pairs.
    pub io_queues: u16,
    /// Commands that each may have outstanding.
    pub depth: u16,
    /// The namespaces to use are those from 1 to this.
    pub namespaces: u32,
}

/// A connected controller. Dropping it closes its connections.
pub struct Host {
    _admin: Admin,
    io: Vec<Connection>,
    namespaces: Vec<Namespace>,
}

impl Host {
    /// Connects the admin queue, enables the controller and connects the I/O queues; to be called on a `LocalSet`.
    ///
    /// # Errors
    ///
    /// [`HostFault`], with the queue or the namespace and the reason.
    pub async fn connect(options: &HostOptions, clock: HostClock) -> Result<Self, HostFault> {
        let to = options.to;
        let at = |qid| move |why| HostFault::Queue { qid, to, why };
        let admin = QueueOptions::admin(options.host.clone(), *b"longrun demohost", options.subsystem.clone());
        let (keep, found) = Admin::open(to, admin.clone(), options.io_queues).await.map_err(at(0))?;
        let entries = options.depth.saturating_add(1).min(found.entries_max);
        let mut io = Vec::new();
        for qid in 1..=found.io_queues {
            let queue = admin.io(qid, entries, found.cntlid, found.in_capsule_bytes);
            io.push(Connection::open(to, queue, clock).await.map_err(at(qid))?);
        }
        let mut namespaces = Vec::new();
        for nsid in 1..=options.namespaces {
            let Some(info) = found.namespaces.iter().find(|n| n.nsid == nsid && n.ready) else {
                let there = found.namespaces.iter().filter(|n| n.ready).map(|n| n.nsid).collect();
                return Err(HostFault::NoNamespace { nsid, there });
            };
            let block_bytes = BlockBytes::from_bytes(info.block_bytes as usize)
                .ok_or(HostFault::BlockSize { nsid, block_bytes: info.block_bytes })?;
            namespaces.push(Namespace { nsid, block_bytes, blocks: info.blocks });
        }
        Ok(Host { _admin: keep, io, namespaces })
    }

    /// The I/O queue pairs that were granted.
    pub fn io_queues(&self) -> &[Connection] {
        &self.io
    }

    /// The namespaces that were asked for, in the order of their numbers.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }
}

/// Write of `data`, which is `blocks` blocks.
pub fn write(nsid: u32, lba: u64, blocks: u32, data: Vec<u8>) -> Command {
    Command::write(nsid, lba, blocks as u16, data, false)
}

/// Read of `blocks` blocks.
pub fn read(nsid: u32, lba: u64, blocks: u32, block_bytes: BlockBytes) -> Command {
    Command::read(nsid, lba, blocks as u16, blocks * block_bytes.get() as u32)
}
