//! The pinned threads: one reactor each, with its memory, its ring and its engine.

use super::{Io, Options, ServeError};
use crate::control;
use crate::identity;
use crate::metadata::{Entries, Metadata};
use crate::reactor::clerk::{Clerk, Desk};
use crate::reactor::{POOL_BUFFERS, Parts, Reactor, SPIN_NS, STAGING_BYTES, commands, meshes};
use longrun_copy::engine::EngineConfig;
use longrun_copy::primary::PrimaryConfig;
use longrun_copy::secondary::SecondaryConfig;
use longrun_copy::stream::CHARGE_BYTES_MAX;
use longrun_copy::types::SystemId;
use longrun_hal::arena::{Arena, ArenaConfig};
use longrun_hal::clock::Timeline;
use longrun_hal::uring::{Poller, Submission, Uring, UringConfig, UringError};
use longrun_hal::wake::Sleeper;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use tokio::sync::Notify;

/// The reactors' threads.
pub struct Cores {
    handles: Vec<control::Core>,
    threads: Vec<JoinHandle<()>>,
    /// Each ends after its reactor.
    porters: Vec<JoinHandle<()>>,
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
        for thread in self.threads.into_iter().chain(self.porters) {
            // A reactor has not panicked: that would have ended the process.
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

/// How a reactor's memory is shared out. The rest is for hosts' payloads and what connections receive into.
const RECEIVE_SHARE: usize = 3;

/// Streams that a secondary may have open with this much memory for what it receives. Each keeps room for one record of the
/// largest size (1 MiB), so that the one that closes a gap always finds memory; as much again is left to be shared by those
/// that have much to bring. So a stream costs 2 MiB of that memory, 6 MiB of `--memory-mib`: 256 MiB are enough for 42
/// streams, 1,536 for 256, 6,144 for 1,024.
fn streams_max(receive_bytes: u64) -> usize {
    (receive_bytes / (2 * CHARGE_BYTES_MAX)).max(1) as usize
}

/// A reactor's ring: polled by the thread that polls for another, if there is one, else as the operator wants it, or, where
/// the kernel does not let it, entered, with a warning that says why.
fn ring(io: Io, poller: Option<Poller>, sleeper: &Sleeper) -> Result<Uring, UringError> {
    let of = |submission| Uring::new(UringConfig { submission, ..UringConfig::default() }, Some(sleeper));
    let made = match (io, poller) {
        (Io::Enter, _) => return of(Submission::Enter),
        (Io::Sqpoll { .. }, Some(poller)) => of(Submission::PolledBy(poller)),
        (Io::Sqpoll { processor, idle }, None) => of(Submission::Polled { processor, idle }),
    };
    match made {
        Err(error) if !is_ours(&error) => {
            tracing::warn!("{error}; until then each turn enters the kernel once, as with --io enter");
            of(Submission::Enter)
        }
        made => made,
    }
}

/// Whether reactors can go without system calls here. What only makes that slow or untrue is a warning.
fn check_polling(polling: Option<u32>, reactors: &[usize]) -> Result<(), String> {
    if let Some(shared) = polling.filter(|polling| reactors.contains(&(*polling as usize))) {
        return Err(format!(
            "processor {shared} is to spin for a reactor and for the kernel's polling thread, and both would starve; give \
             --polling-core another one, or leave it out"
        ));
    }
    let there = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if there <= reactors.len() {
        tracing::warn!(
            "{} reactors and the kernel's polling thread want a processor each, and this process may use {there}: they \
             will take turns, which costs milliseconds; give fewer --cores, or --io enter",
            reactors.len()
        );
    }
    if let Some(notice) = longrun_hal::clock::notice() {
        tracing::warn!("{notice}");
    }
    Ok(())
}

/// Is it what was asked for that cannot be, and not the kernel that lets nobody have it?
fn is_ours(error: &UringError) -> bool {
    matches!(error, UringError::Polled { source, .. } if source.raw_os_error() == Some(libc::EINVAL))
}

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
    if let Io::Sqpoll { processor, .. } = options.io {
        check_polling(processor, &options.processors).map_err(ServeError::Core)?;
    }
    let system = SystemId::of_key(identity::public_key(private_key).as_bytes());
    let mut handles = Vec::new();
    let mut threads = Vec::new();
    let mut porters = Vec::new();
    let mut poller: Option<Poller> = None;
    for (index, (mesh, sleeper, waker)) in meshes(count).map_err(os)?.into_iter().enumerate() {
        let processor = options.processors[index];
        let (handle, commands) = commands(waker);
        let desk = Desk::new(metadata.clone(), handle.clone(), lines.clone(), Arc::clone(news));
        let (io, beside) = (options.io, poller.clone());
        let (clerk, spin_ns) = match io {
            Io::Enter => (Clerk::new(desk), SPIN_NS),
            Io::Sqpoll { idle, .. } => {
                let (clerk, porter) = Clerk::with_porter(desk, index).map_err(os)?;
                porters.push(porter);
                (clerk, u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX))
            }
        };
        let engine = EngineConfig {
            primary: PrimaryConfig::new(system),
            secondary: SecondaryConfig {
                receive_bytes: (options.memory_bytes / RECEIVE_SHARE) as u64,
                streams_max: streams_max((options.memory_bytes / RECEIVE_SHARE) as u64),
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
                    let mut uring = ring(io, beside, &sleeper).map_err(|error| error.to_string())?;
                    if let Err(error) = uring.make_pool(&arena, POOL_BUFFERS, STAGING_BYTES) {
                        let bytes = STAGING_BYTES;
                        tracing::warn!("reactor {index}: each connection holds {bytes} bytes to receive into: {error}");
                    }
                    let poller = uring.poller().map_err(|error| error.to_string())?;
                    let spin_ns = if poller.is_some() { spin_ns } else { SPIN_NS };
                    let core = longrun_bdev::Core::new(arena, engine, entries);
                    let target = longrun_nvmf::target::Core::new(index as u16, count as u16, Arc::default());
                    let reactor = Reactor::new(Parts {
                        index,
                        idle,
                        spin_ns,
                        uring,
                        core,
                        target,
                        mesh,
                        commands,
                        sleeper,
                        clerk,
                        timeline,
                    });
                    Ok((reactor, poller, region))
                })();
                match made {
                    Ok((reactor, poller, region)) => {
                        let tid = rustix::thread::gettid().as_raw_nonzero().get();
                        let _ = started.send(Ok((poller, tid, region)));
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
            Ok((of_ring, tid, region)) => {
                poller = poller.or(of_ring);
                let (tid, memory_bytes) = (u32::try_from(tid).ok(), memory_bytes as u64);
                handles.push(control::Core { reactor: handle, processor, tid, memory_bytes, region });
            }
            Err(text) => {
                Cores { handles, threads, porters }.stop();
                return Err(ServeError::Core(text));
            }
        }
    }
    Ok(Cores { handles, threads, porters })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_follow_the_memory_and_each_keeps_room_for_its_largest_record_and_as_much_to_share() {
        let of = |memory_mib: u64| streams_max((memory_mib << 20) / RECEIVE_SHARE as u64);
        assert_eq!([16, 256, 1544, 6160].map(of), [2, 42, 257, 1026]);
        for memory_mib in [16, 256, 1544, 6160] {
            let receive_bytes = (memory_mib << 20) / RECEIVE_SHARE as u64;
            assert!(of(memory_mib) as u64 * CHARGE_BYTES_MAX * 2 <= receive_bytes);
        }
    }

    #[test]
    fn what_the_kernel_refuses_everybody_is_gone_without_and_what_was_asked_wrongly_is_told() {
        let refused = |errno| UringError::Polled { processor: None, source: std::io::Error::from_raw_os_error(errno) };
        assert!(is_ours(&refused(libc::EINVAL)));
        for (errno, remedy) in [(libc::EPERM, "sysctl"), (libc::ENOMEM, "ulimit -l"), (libc::EAGAIN, "ulimit -u")] {
            assert!(!is_ours(&refused(errno)));
            assert!(refused(errno).to_string().contains(remedy), "{}", refused(errno));
        }
    }

    #[test]
    fn a_processor_spins_for_one_only() {
        assert!(check_polling(Some(1), &[0, 1]).unwrap_err().contains("--polling-core"));
        assert!(check_polling(Some(2), &[0, 1]).is_ok());
        assert!(check_polling(None, &[0]).is_ok());
    }
}
