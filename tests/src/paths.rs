//! A host that reaches the same volumes at two systems: it writes where it may, and where the access says no, over the other
//! path. As Linux multipath does it: whatever status is about a path is no failure, only another attempt.

use crate::load::nqn;
use longrun::demo::clock::HostClock;
use longrun::demo::connection::Connection;
use longrun::demo::host::{Host, HostOptions};
use longrun_nvmf::host::Command;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Status code type "path related" of an NVMe status, the phase bit left out.
const PATH_RELATED: u16 = 3;
const PAUSE: Duration = Duration::from_millis(5);
/// Of each namespace.
const BLOCKS: u64 = 256;

/// Where a host goes.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The two systems' listeners.
    pub to: [SocketAddr; 2],
    /// The subsystem, which is the same at both.
    pub subsystem: &'static str,
    /// The namespaces from 1 to this; their block sizes.
    pub block_bytes: Vec<usize>,
}

/// What a host saw.
#[derive(Debug, Default)]
pub struct Ridden {
    /// The last byte value that was answered for each block: (namespace, block).
    pub written: BTreeMap<(u32, u64), u8>,
    /// Answers that were neither success nor about the path.
    pub failed: Vec<String>,
    /// How often it had to take the other path or try again.
    pub retried: u64,
    /// Writes that each path answered.
    pub by_path: [u64; 2],
    /// The longest that one write took.
    pub longest: Duration,
}

/// A host at work.
pub struct Rider {
    thread: JoinHandle<Ridden>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Rider {
    /// Connects both paths and writes until told to stop.
    pub fn start(paths: Paths) -> Rider {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let (of_thread, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = std::thread::spawn(move || {
            on_this_thread(async {
                let hosts = [connect(&paths, 0).await, connect(&paths, 1).await];
                ride(&paths, hosts.each_ref().map(|host| &host.io_queues()[0]), &of_thread, &count).await
            })
        });
        Rider { thread, stop, answered }
    }

    /// Writes answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes were answered.
    ///
    /// # Panics
    ///
    /// If that takes longer than a minute.
    pub fn wait_for_writes(&self, more: u64) {
        let wanted = self.answered() + more;
        crate::process::eventually("the host's writes over two paths", Duration::from_secs(60), || {
            assert!(!self.thread.is_finished(), "the host's connections ended");
            if self.answered() >= wanted { Ok(()) } else { Err(format!("{} of {wanted}", self.answered())) }
        });
    }

    /// Stops it.
    pub fn finish(self) -> Ridden {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the host's thread")
    }
}

/// What a path shows of every block that was written: the byte that fills it.
///
/// # Panics
///
/// If a block can't be read there, or is not filled with one byte.
pub fn read_back(paths: &Paths, path: usize, written: &BTreeMap<(u32, u64), u8>) -> BTreeMap<(u32, u64), u8> {
    on_this_thread(async {
        let host = connect(paths, path).await;
        let mut image = BTreeMap::new();
        for (nsid, lba) in written.keys() {
            let bytes = paths.block_bytes[*nsid as usize - 1];
            let answer = host.io_queues()[0].execute(Command::read(*nsid, *lba, 1, bytes as u32)).await.unwrap();
            assert!(answer.completion.status.is_success(), "{nsid} {lba}: {}", answer.completion.status);
            let data = answer.completion.data;
            assert!(data.iter().all(|byte| *byte == data[0]), "block {lba} of {nsid} is two writes'");
            image.insert((*nsid, *lba), data[0]);
        }
        image
    })
}

fn on_this_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

async fn connect(paths: &Paths, path: usize) -> Host {
    let options = HostOptions {
        to: paths.to[path],
        subsystem: nqn(paths.subsystem),
        host: nqn("nqn.2026-11.io.longrun:two-path-host"),
        io_queues: 1,
        depth: 8,
        // Those of the path that is not to be used now are not ready.
        namespaces: 0,
    };
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match Host::connect(&options, HostClock::start()).await {
            Ok(host) => return host,
            Err(error) if Instant::now() > until => panic!("path {path}: {error}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn ride(paths: &Paths, queues: [&Connection; 2], stop: &AtomicBool, count: &AtomicU64) -> Ridden {
    let mut ridden = Ridden::default();
    let mut path = 0;
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let nsid = 1 + (number % paths.block_bytes.len() as u64) as u32;
        let (lba, value) = (number * 7 % BLOCKS, (number % 251) as u8 + 1);
        let began = Instant::now();
        loop {
            let data = vec![value; paths.block_bytes[nsid as usize - 1]];
            let answer = queues[path].execute(Command::write(nsid, lba, 1, data, false)).await;
            let status = match answer {
                Ok(answer) => answer.completion.status,
                Err(error) => {
                    ridden.failed.push(format!("path {path}: {error}"));
                    return ridden;
                }
            };
            if status.is_success() {
                ridden.written.insert((nsid, lba), value);
                ridden.by_path[path] += 1;
                count.fetch_add(1, Ordering::Relaxed);
                break;
            }
            if status.code() >> 8 != PATH_RELATED || status.is_dnr() {
                ridden.failed.push(format!("path {path}, block {lba} of {nsid}: {status}"));
                break;
            }
            ridden.retried += 1;
            path = 1 - path;
            tokio::time::sleep(PAUSE).await;
        }
        ridden.longest = ridden.longest.max(began.elapsed());
    }
    ridden
}
