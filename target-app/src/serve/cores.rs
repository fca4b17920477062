//! The pinned threads: one reactor each, with its memory, its ring and its engine.

use super::{Options, ServeError};
use crate::control;
use crate::identity;
use crate::metadata::{Entries, Metadata};
use crate::reactor::clerk::Clerk;
use crate::reactor::{Parts, Reactor, commands, meshes};
use longrun_copy::engine::EngineConfig;
use longrun_copy::primary::PrimaryConfig;
use longrun_copy::secondary::SecondaryConfig;
use longrun_copy::types::SystemId;
use longrun_hal::arena::{Arena, ArenaConfig};
use longrun_hal::clock::Timeline;
use longrun_hal::uring::{Uring, UringConfig};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use tokio::sync::Notify;

/// The reactors' threads.
pub struct Cores {
    handles: Vec<control::Core>,
    threads: Vec<JoinHandle<()>>,
}

impl Cores {
    /// The ways to the reactors.
    pub fn handles(&self) -> Vec<control::Core> {
        self.handles.clone()
    }

    /// Ends the reactors and waits for them.
    pub fn stop(self) {
        for core in &self.handles {
            core.reactor.post(Reactor::stop);
        }
        for thread in self.threads {
            // It has not panicked: that would have ended the process.
            let _ = thread.join();
        }
    }
}

/// Ends the process when a reactor panics: what it served would hang for ever, while a process that is gone is started
/// again and its peers know what to do.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// How a reactor's memory is shared out. The rest is for hosts' payloads and the connections' staging buffers.
const RECEIVE_SHARE: usize = 3;

/// Starts one reactor for each processor, and returns when all run or one cannot.
pub fn start(
    options: &Options,
    private_key: &[u8; 32],
    entries: &Entries,
    metadata: &Metadata,
    timeline: &Timeline,
    lines: &Sender<String>,
    news: &Arc<Notify>,
) -> Result<Cores, ServeError> {
    let os = |source| ServeError::Os { doing: "start the reactors", source };
    let count = options.processors.len();
    let system = SystemId::of_key(identity::public_key(private_key).as_bytes());
    let mut handles = Vec::new();
    let mut threads = Vec::new();
    for (index, (mesh, sleeper, waker)) in meshes(count).map_err(os)?.into_iter().enumerate() {
        let processor = options.processors[index];
        let (handle, commands) = commands(waker);
        let clerk = Clerk::new(metadata.clone(), handle.clone(), lines.clone(), Arc::clone(news));
        let engine = EngineConfig {
            primary: PrimaryConfig::new(system),
            secondary: SecondaryConfig {
                receive_bytes: (options.memory_bytes / RECEIVE_SHARE) as u64,
                streams_max: (options.memory_bytes / RECEIVE_SHARE / (2 << 20)).clamp(1, 64),
                ..SecondaryConfig::default()
            },
            seed: identity::random_seed().map_err(os)?,
        };
        let (idle, memory_bytes) = (options.idle, options.memory_bytes);
        let (entries, timeline) = (entries.clone(), timeline.reader());
        let (started, starting) = channel();
        let thread = std::thread::Builder::new()
            .name(format!("reactor-{index}"))
            .spawn(move || {
                let made = (|| {
                    longrun_hal::affinity::pin_current_thread(processor).map_err(|error| error.to_string())?;
                    let arena = Arena::new(ArenaConfig::new(memory_bytes)).map_err(|error| error.to_string())?;
                    if let Some(notice) = arena.notice() {
                        tracing::warn!("reactor {index}: {notice}");
                    }
                    let region = arena.region();
                    let uring =
                        Uring::new(UringConfig::default(), Some(&sleeper)).map_err(|error| error.to_string())?;
                    let core = longrun_bdev::Core::new(arena, engine, entries);
                    let target = longrun_nvmf::target::Core::new(index as u16, count as u16, Arc::default());
                    let reactor = Reactor::new(Parts {
                        index,
                        idle,
                        uring,
                        core,
                        target,
                        mesh,
                        commands,
                        sleeper,
                        clerk,
                        timeline,
                    });
                    Ok((reactor, region))
                })();
                match made {
                    Ok((reactor, region)) => {
                        let _ = started.send(Ok(region));
                        let _abort = AbortOnPanic;
                        if let Err(error) = reactor.run() {
                            tracing::error!("reactor {index} cannot go on: {error}");
                            std::process::abort();
                        }
                    }
                    Err(text) => {
                        let text: String = text;
                        let _ = started.send(Err(text));
                    }
                }
            })
            .map_err(os)?;
        let answer = starting.recv().unwrap_or_else(|_| Err(format!("reactor {index} ended while it started")));
        threads.push(thread);
        match answer {
            Ok(region) => {
                handles.push(control::Core { reactor: handle, processor, memory_bytes: memory_bytes as u64, region });
            }
            Err(text) => {
                Cores { handles, threads }.stop();
                return Err(ServeError::Core(text));
            }
        }
    }
    Ok(Cores { handles, threads })
}
