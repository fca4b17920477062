//! A namespace of an NVMe/TCP target as a block device for ordinary, blocking code: the built-in host on a thread of its
//! own.

use crate::file::{BlockDevice, DeviceError};
use longrun::demo::clock::HostClock;
use longrun::demo::host::{Host, HostOptions};
use longrun_nvmf::host::Command;
use longrun_tests::load::{HOST_NQN, Target, nqn};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Bytes that one command carries; below what any target of the project takes in one transfer.
const COMMAND_BYTES_MAX: usize = 128 << 10;
/// A listener that has just been made may not be there yet.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);

struct Ask {
    command: Command,
    answer: SyncSender<Result<Vec<u8>, DeviceError>>,
}

/// One namespace. All devices that [`connect`] made together share one connection and carry out one command after the
/// other, as their one caller, the file system, asks for them. When the last is dropped the connection closes.
#[derive(Debug)]
pub struct Device {
    nsid: u32,
    block_bytes: usize,
    blocks: u64,
    asks: UnboundedSender<Ask>,
}

/// Connects, and answers a device for each of the target's namespaces.
///
/// # Errors
///
/// With the target's own words, when it does not let the host in within twenty seconds.
pub fn connect(target: Target) -> Result<Vec<Device>, String> {
    let (asks, asked) = unbounded_channel();
    let (connected, is_connected) = sync_channel(1);
    std::thread::Builder::new()
        .name("nvme-host".to_owned())
        .spawn(move || serve(target, asked, &connected))
        .map_err(|error| error.to_string())?;
    let shapes = is_connected.recv().unwrap_or_else(|_| Err("the host's thread ended".to_owned()))?;
    let device = |(nsid, block_bytes, blocks)| Device { nsid, block_bytes, blocks, asks: asks.clone() };
    Ok(shapes.into_iter().map(device).collect())
}

type Shapes = Vec<(u32, usize, u64)>;

fn serve(target: Target, mut asked: UnboundedReceiver<Ask>, connected: &SyncSender<Result<Shapes, String>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime.inspect_err(|error| drop(connected.send(Err(error.to_string())))) else { return };
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let host = match reach(target).await {
            Ok(host) => host,
            Err(why) => return drop(connected.send(Err(why))),
        };
        let shapes = host.namespaces().iter().map(|n| (n.nsid, n.block_bytes.get(), n.blocks)).collect();
        let _ = connected.send(Ok(shapes));
        let Some(queue) = host.io_queues().first() else { return };
        while let Some(Ask { command, answer }) = asked.recv().await {
            let result = match queue.execute(command).await {
                Ok(done) if done.completion.status.is_success() => Ok(done.completion.data),
                Ok(done) => Err(DeviceError::Refused(done.completion.status.to_string())),
                Err(_) => Err(DeviceError::Gone),
            };
            // Whoever asked waits for this, unless its thread is ending.
            let _ = answer.send(result);
        }
    });
}

async fn reach(target: Target) -> Result<Host, String> {
    let options = HostOptions {
        to: target.to,
        subsystem: nqn(target.subsystem),
        host: nqn(HOST_NQN),
        io_queues: 1,
        depth: 8,
        namespaces: target.namespaces,
    };
    let until = Instant::now() + CONNECT_WITHIN;
    loop {
        match Host::connect(&options, HostClock::start()).await {
            Ok(host) => return Ok(host),
            Err(error) if Instant::now() > until => return Err(format!("{}: {error}", target.subsystem)),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

impl Device {
    fn execute(&self, command: Command) -> Result<Vec<u8>, DeviceError> {
        let (answer, answered) = sync_channel(1);
        self.asks.send(Ask { command, answer }).map_err(|_| DeviceError::Gone)?;
        answered.recv().unwrap_or(Err(DeviceError::Gone))
    }

    fn blocks(&self, bytes: usize) -> u16 {
        (bytes / self.block_bytes) as u16
    }
}

impl BlockDevice for Device {
    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, lba: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        let step = (COMMAND_BYTES_MAX / self.block_bytes) as u64;
        for (lba, piece) in (lba..).step_by(step as usize).zip(data.chunks_mut(COMMAND_BYTES_MAX)) {
            let read = Command::read(self.nsid, lba, self.blocks(piece.len()), piece.len() as u32);
            let found = self.execute(read)?;
            if found.len() != piece.len() {
                return Err(DeviceError::Refused(format!("{} bytes for {}", found.len(), piece.len())));
            }
            piece.copy_from_slice(&found);
        }
        Ok(())
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), DeviceError> {
        let step = (COMMAND_BYTES_MAX / self.block_bytes) as u64;
        for (lba, piece) in (lba..).step_by(step as usize).zip(data.chunks(COMMAND_BYTES_MAX)) {
            self.execute(Command::write(self.nsid, lba, self.blocks(piece.len()), piece.to_vec(), false))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.execute(Command::flush(self.nsid)).map(drop)
    }
}
