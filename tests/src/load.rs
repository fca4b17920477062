//! Hosts: one that works and logs what it does, one that reads everything back, one that watches a controller.

use longrun::demo::clock::HostClock;
use longrun::demo::connection::Connection;
use longrun::demo::host::{self, Host, HostOptions, Namespace};
use longrun::demo::workload::{self, Outcome, Progress, WorkloadOptions};
use longrun_checker::{Contents, Extent, Image, Volume};
use longrun_nvmf::Nqn;
use longrun_nvmf::host::{Command, Completion, Controller, ControllerEvent, QueueOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The hosts' name.
pub const HOST_NQN: &str = "nqn.2026-11.io.longrun:test-host";

/// Bytes that one command reads back.
const READ_BACK_BYTES: usize = 128 << 10;

/// What a host works on.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The listener.
    pub to: SocketAddr,
    /// The subsystem.
    pub subsystem: &'static str,
    /// The namespaces are those from 1 to this.
    pub namespaces: u32,
}

impl Target {
    fn options(&self) -> HostOptions {
        HostOptions {
            to: self.to,
            subsystem: nqn(self.subsystem),
            host: nqn(HOST_NQN),
            io_queues: 2,
            depth: 8,
            namespaces: self.namespaces,
        }
    }

    async fn connect(&self, clock: HostClock) -> Host {
        // A listener that has just been made, or whose process has just started, may not be there yet.
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match Host::connect(&self.options(), clock).await {
                Ok(host) => return host,
                Err(error) if Instant::now() > until => panic!("{}: {error}", self.subsystem),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// A name that is known to be good.
pub fn nqn(name: &str) -> Nqn {
    name.parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Runs `work` on a runtime of one thread.
fn on_this_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// A host that writes and reads until it is told to stop, or its connections end.
pub struct Load {
    thread: JoinHandle<Outcome>,
    stop: oneshot::Sender<()>,
    progress: Arc<Progress>,
}

impl Load {
    /// Starts the host on a thread; returns when it is connected.
    pub fn start(target: Target, contents: Contents, clock: HostClock, bytes_per_second: u64, seed: u64) -> Load {
        let progress = Arc::new(Progress::default());
        let of_thread = Arc::clone(&progress);
        let (stop, stopped) = oneshot::channel();
        let (connected, is_connected) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            on_this_thread(async move {
                let host = target.connect(clock).await;
                connected.send(()).unwrap();
                let options = WorkloadOptions { slots: 16, bytes_per_second, seed };
                let (queues, namespaces) = (host.io_queues(), host.namespaces().to_vec());
                let stop = async {
                    // A stop that was dropped is no stop.
                    if stopped.await.is_err() {
                        std::future::pending().await
                    }
                };
                workload::run(queues, namespaces, contents, clock, options, of_thread, stop).await
            })
        });
        if is_connected.recv().is_err() {
            panic!("the host did not connect: {:?}", thread.join().err().and_then(|why| why.downcast::<String>().ok()));
        }
        Load { thread, stop, progress }
    }

    /// Writes answered so far.
    pub fn acknowledged(&self) -> u64 {
        self.progress.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes were answered.
    ///
    /// # Panics
    ///
    /// If that takes longer than a minute, or the connections end.
    pub fn wait_for_writes(&self, more: u64) {
        let wanted = self.acknowledged() + more;
        crate::process::eventually("the host's writes", Duration::from_secs(60), || {
            assert!(!self.thread.is_finished(), "the host's connections ended");
            let now = self.acknowledged();
            if now >= wanted { Ok(()) } else { Err(format!("{now} of {wanted}")) }
        });
    }

    /// Whether its connections have ended.
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops it, if it has not ended by itself.
    pub fn finish(self) -> Outcome {
        let _ = self.stop.send(());
        self.thread.join().expect("the host's thread")
    }

    /// Waits for its connections to end.
    pub fn wait_for_end(self) -> Outcome {
        let outcome = self.thread.join().expect("the host's thread");
        drop(self.stop);
        outcome
    }
}

/// What a target shows: the volumes' shapes, and what each block says.
pub fn read_back(target: Target, contents: Contents) -> (Vec<Volume>, Image) {
    on_this_thread(async {
        let host = target.connect(HostClock::start()).await;
        let shape: Vec<Volume> =
            host.namespaces().iter().map(|n| Volume { block_bytes: n.block_bytes, blocks: n.blocks }).collect();
        let mut image = Image::unread(&shape);
        for (volume, namespace) in (0u16..).zip(host.namespaces()) {
            let Namespace { nsid, block_bytes, blocks } = *namespace;
            let step = (READ_BACK_BYTES / block_bytes.get()) as u64;
            for lba in (0..blocks).step_by(step as usize) {
                let extent = Extent::new(volume, lba, step.min(blocks - lba) as u32);
                let read = host::read(nsid, lba, extent.blocks, block_bytes);
                let answer = host.io_queues()[0].execute(read).await.unwrap();
                let status = answer.completion.status;
                assert!(status.is_success(), "reading {extent:?} back was answered with {status}");
                let says = workload::identify(&contents, &answer.completion.data, extent, block_bytes.get());
                for (lba, says) in (lba..).zip(says) {
                    image.set(volume, lba, says);
                }
            }
        }
        (shape, image)
    })
}

/// Connects, and hands the first queue pair to `work`.
pub fn with_queue<T>(target: Target, work: impl AsyncFnOnce(&Connection, &[Namespace]) -> T) -> T {
    on_this_thread(async {
        let host = target.connect(HostClock::start()).await;
        work(&host.io_queues()[0], host.namespaces()).await
    })
}

/// A host's admin connection, which sees what the controller reports.
pub struct Watcher {
    stream: TcpStream,
    controller: Controller,
}

impl Watcher {
    /// Connects as `host`; what comes of it shows in [`Watcher::next_event`].
    pub fn connect(to: SocketAddr, host: &str, subsystem: &str) -> Watcher {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let options = QueueOptions::admin(nqn(host), *b"longrun testhost", nqn(subsystem));
        Watcher { stream, controller: Controller::new(options, 1) }
    }

    /// The next event.
    ///
    /// # Panics
    ///
    /// If there is none within twenty seconds.
    pub fn next_event(&mut self) -> ControllerEvent {
        let until = Instant::now() + Duration::from_secs(20);
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(event) = self.controller.poll() {
                return event;
            }
            assert!(Instant::now() < until, "the controller reports nothing");
            self.stream.write_all(&self.controller.take_output()).unwrap();
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the target closed the connection"),
                Ok(bytes) => self.controller.receive(&buffer[..bytes]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Carries out an admin command.
    pub fn execute(&mut self, command: Command) -> Completion {
        self.controller.submit(command, 1).unwrap();
        loop {
            if let ControllerEvent::Done(completion) = self.next_event() {
                return completion;
            }
        }
    }
}
