//! The built-in NVMe/TCP host: one controller with several I/O queue pairs.

use std::net::SocketAddr;

use longrun_checker::BlockBytes;
use longrun_nvmf::Nqn;
use longrun_nvmf::host::{Command, QueueOptions, Transfer};
use longrun_nvmf::pdu::Digests;
use longrun_nvmf::spec::{Sqe, Status, opcode};

use super::clock::HostClock;
use super::connection::{Answer, Connection, ConnectionError};

/// How long a controller may take to become ready; real targets announce it in CAP.TO, half seconds.
const READY_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

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
    /// A command failed.
    #[error("the target answered {what} with {status}")]
    Refused {
        /// The command.
        what: &'static str,
        /// Its status.
        status: Status,
    },
    /// The controller did not become ready.
    #[error("the controller was not ready within {} s", READY_WITHIN.as_secs())]
    NotReady,
    /// A namespace cannot be used.
    #[error("namespace {nsid} has blocks of 2^{lbads} bytes; the host knows 512 and 4096")]
    BlockSize {
        /// Which.
        nsid: u32,
        /// The exponent it gives.
        lbads: u8,
    },
}

/// A namespace as Identify shows it.
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
}

/// A connected controller.
pub struct Host {
    admin: Connection,
    io: Vec<Connection>,
    to: SocketAddr,
}

/// The properties a host sets and reads over Fabrics (NVMe Base 2.0, section 3.1.4).
mod property {
    pub const CC: u32 = 0x14;
    pub const CSTS: u32 = 0x1c;
    /// EN, IOSQES 6 (64 bytes), IOCQES 4 (16 bytes).
    pub const CC_ENABLE: u32 = 0x0046_0001;
    pub const CSTS_RDY: u64 = 1;
}

/// Feature 7: number of queues.
const FEATURE_QUEUES: u32 = 7;
const IDENTIFY_BYTES: u32 = 4096;

impl Host {
    /// Connects the admin queue, enables the controller and connects the I/O queues.
    ///
    /// # Errors
    ///
    /// [`HostFault`], with the queue and the reason.
    pub async fn connect(options: &HostOptions, clock: HostClock) -> Result<Self, HostFault> {
        let to = options.to;
        let mut queue = QueueOptions {
            qid: 0,
            entries: 32,
            digests: Digests { header: false, data: false },
            host: options.host.clone(),
            host_id: *b"longrun demohost",
            subsystem: options.subsystem.clone(),
            cntlid: 0xffff,
            keep_alive_ms: 0,
            in_capsule_bytes: 8192,
        };
        let open = async |queue: QueueOptions| {
            let qid = queue.qid;
            Connection::open(to, queue, clock).await.map_err(|why| HostFault::Queue { qid, to, why })
        };
        let admin = open(queue.clone()).await?;
        let mut host = Host { admin, io: Vec::new(), to };
        host.enable().await?;
        let controller = host.identify(0, 1).await?;
        // IOCCSZ (Identify Controller, bytes 1795:1792): the capsule's size in units of 16 bytes, the entry's 64 included.
        let ioccsz = controller.get(1792..1796).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        queue.in_capsule_bytes = ioccsz.saturating_mul(16).saturating_sub(64);
        let queues_wanted = u32::from(options.io_queues.max(1) - 1);
        let granted = host
            .admin_command("Set Features (number of queues)", Transfer::None, |sqe| {
                sqe.opcode = opcode::SET_FEATURES;
                sqe.cdw10[0] = FEATURE_QUEUES.into();
                sqe.cdw10[1] = (queues_wanted << 16 | queues_wanted).into();
            })
            .await?;
        let granted = (granted.completion.result & 0xffff) as u16 + 1;
        queue.cntlid = host.admin.cntlid();
        queue.entries = options.depth + 1;
        for qid in 1..=options.io_queues.min(granted) {
            queue.qid = qid;
            let connection = open(queue.clone()).await?;
            host.io.push(connection);
        }
        Ok(host)
    }

    async fn enable(&self) -> Result<(), HostFault> {
        self.admin_command("Property Set (CC)", Transfer::None, |sqe| {
            sqe.opcode = opcode::FABRICS;
            sqe.nsid = u32::from(opcode::FABRICS_PROPERTY_SET).into();
            sqe.cdw10[1] = property::CC.into();
            sqe.cdw10[2] = property::CC_ENABLE.into();
        })
        .await?;
        let until = tokio::time::Instant::now() + READY_WITHIN;
        loop {
            let csts = self
                .admin_command("Property Get (CSTS)", Transfer::None, |sqe| {
                    sqe.opcode = opcode::FABRICS;
                    sqe.nsid = u32::from(opcode::FABRICS_PROPERTY_GET).into();
                    sqe.cdw10[1] = property::CSTS.into();
                })
                .await?;
            if csts.completion.result & property::CSTS_RDY != 0 {
                return Ok(());
            }
            if tokio::time::Instant::now() >= until {
                return Err(HostFault::NotReady);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// The namespace `nsid`.
    ///
    /// # Errors
    ///
    /// If Identify fails or the block size is none that the host knows.
    pub async fn namespace(&self, nsid: u32) -> Result<Namespace, HostFault> {
        let data = self.identify(nsid, 0).await?;
        let byte = |at: usize| data.get(at).copied().unwrap_or(0);
        // NSZE in bytes 7:0; FLBAS (byte 26) names the format, whose LBADS is byte 2 of its 4 at 128.
        let blocks = u64::from_le_bytes(std::array::from_fn(byte));
        let lbads = byte(128 + 4 * usize::from(byte(26) & 0xf) + 2);
        let block_bytes = 1usize.checked_shl(lbads.into()).and_then(BlockBytes::from_bytes);
        let block_bytes = block_bytes.ok_or(HostFault::BlockSize { nsid, lbads })?;
        Ok(Namespace { nsid, block_bytes, blocks })
    }

    async fn identify(&self, nsid: u32, cns: u32) -> Result<Vec<u8>, HostFault> {
        let answer = self
            .admin_command("Identify", Transfer::FromTarget(IDENTIFY_BYTES), |sqe| {
                sqe.opcode = opcode::IDENTIFY;
                sqe.nsid = nsid.into();
                sqe.cdw10[0] = cns.into();
            })
            .await?;
        Ok(answer.completion.data)
    }

    async fn admin_command(
        &self,
        what: &'static str,
        transfer: Transfer,
        fill: impl FnOnce(&mut Sqe),
    ) -> Result<Answer, HostFault> {
        let mut sqe = Sqe::default();
        fill(&mut sqe);
        let answer = self.admin.execute(Command { sqe, transfer }).await;
        let answer = answer.map_err(|why| HostFault::Queue { qid: 0, to: self.to, why })?;
        match answer.completion.status {
            status if status.is_success() => Ok(answer),
            status => Err(HostFault::Refused { what, status }),
        }
    }

    /// The I/O queue pairs that were granted; at least one.
    pub fn io_queues(&self) -> &[Connection] {
        &self.io
    }
}

fn io(opcode: u8, nsid: u32, lba: u64, blocks: u32) -> Sqe {
    let mut sqe = Sqe { opcode, nsid: nsid.into(), ..Sqe::default() };
    sqe.cdw10[0] = (lba as u32).into();
    sqe.cdw10[1] = ((lba >> 32) as u32).into();
    // NLB, in bits 15:0 of dword 12, counts from zero.
    sqe.cdw10[2] = blocks.saturating_sub(1).into();
    sqe
}

/// Write of `data`, which is `blocks` blocks.
pub fn write(nsid: u32, lba: u64, blocks: u32, data: Vec<u8>) -> Command {
    Command { sqe: io(opcode::WRITE, nsid, lba, blocks), transfer: Transfer::ToTarget(data) }
}

/// Read of `blocks` blocks.
pub fn read(nsid: u32, lba: u64, blocks: u32, block_bytes: BlockBytes) -> Command {
    let bytes = blocks * block_bytes.get() as u32;
    Command { sqe: io(opcode::READ, nsid, lba, blocks), transfer: Transfer::FromTarget(bytes) }
}

/// Flush.
pub fn flush(nsid: u32) -> Command {
    Command { sqe: Sqe { opcode: opcode::FLUSH, nsid: nsid.into(), ..Sqe::default() }, transfer: Transfer::None }
}
