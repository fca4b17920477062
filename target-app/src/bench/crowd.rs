//! Connections that do nothing: what others that are connected cost the one who works, and what they cost a system at rest.

use super::{bring_up, job};
use longrun_nvmf::host::{Queue, QueueOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{SocketAddr, TcpStream};

/// I/O queues of each of the hosts: with its admin queue it makes four connections, as a host with three processors does.
const IO_QUEUES: u16 = 3;
const ENTRIES: u16 = 32;
/// Descriptors that this process needs for all else.
const OTHER_DESCRIPTORS: u64 = 256;

/// Hosts that are connected and silent. Dropping it ends their connections.
pub struct Crowd {
    /// Read by nobody: that they are open is what they are for.
    connections: Vec<TcpStream>,
}

impl Crowd {
    /// Connects so many, each host's admin queue and I/O queues counted.
    ///
    /// # Errors
    ///
    /// Why one of them could not be.
    pub fn connect(to: SocketAddr, host: &QueueOptions, count: u16) -> Result<Crowd, String> {
        room_for(u64::from(count))?;
        let mut connections = Vec::with_capacity(usize::from(count));
        while connections.len() < usize::from(count) {
            let (admin, found) = bring_up(to, host, IO_QUEUES)?;
            connections.push(admin);
            for qid in 1..=found.io_queues {
                if connections.len() < usize::from(count) {
                    let mut queue = Queue::new(host.io(qid, ENTRIES, found.cntlid, found.in_capsule_bytes));
                    connections.push(job::connect(to, &mut queue)?);
                }
            }
        }
        Ok(Crowd { connections })
    }

    /// How many there are.
    pub fn len(&self) -> u16 {
        self.connections.len() as u16
    }
}

/// Lets this process have a descriptor for each.
fn room_for(connections: u64) -> Result<(), String> {
    let (limits, wanted) = (getrlimit(Resource::Nofile), connections + OTHER_DESCRIPTORS);
    if limits.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let more = Rlimit { current: Some(wanted), maximum: limits.maximum };
    setrlimit(Resource::Nofile, more).map_err(|error| {
        format!("{connections} connections take {wanted} descriptors ({error}); allow them: ulimit -n {wanted}")
    })
}
