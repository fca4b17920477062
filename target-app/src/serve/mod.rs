//! `longrun serve`: brings a system up, keeps it, and takes it down in good order.
//!
//! ```text
//!   main thread: async runtime            one pinned thread per core        metadata writer, log writer
//!   RPC, configuration, timeline  <─────> reactor ─────────────────────────>
//! ```
//!
//! Order up: log, state directory, metadata, identity, timeline, reactors, configuration, RPC. Order down: RPC, hosts,
//! replication drained and marked so, reactors, metadata. A process that is killed instead skips all of that, which is
//! what journals and marks are for.

mod cores;
mod timekeeper;

use crate::control::{Control, LogLevelSwitch, Operators};
use crate::identity::{self, IdentityError};
use crate::metadata::{Metadata, MetadataError};
use crate::reactor::Idle;
use crate::saved::{Saved, SavedError};
use longrun_copy::primary::Shutdown;
use longrun_rpc::Server;
use longrun_rpc::server::ServerError;
use longrun_rpc::types::PublicKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What an operator decides at the start; the rest comes by RPC or from the configuration file.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration to carry out.
    pub config: Option<PathBuf>,
    /// The RPC socket.
    pub rpc_socket: PathBuf,
    /// Where identity and metadata live.
    pub state_dir: PathBuf,
    /// The processors to run on, one reactor each.
    pub processors: Vec<usize>,
    /// What reactors do without work.
    pub idle: Idle,
    /// How the kernel learns of their work.
    pub io: Io,
    /// Each reactor's memory.
    pub memory_bytes: usize,
}

/// How the kernel learns of what reactors ask of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// One system call for each turn of a reactor.
    Enter,
    /// A thread of the kernel's, one for all reactors, looks for it: they make no system call at all while there is work.
    Sqpoll {
        /// Where that thread runs; `None`: wherever the kernel likes.
        processor: Option<u32>,
        /// How long it, and an adaptive reactor, looks for work before it sleeps.
        idle: Duration,
    },
}

/// Why a system did not come up, or went down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration file.
    #[error("configuration {path}: {text}")]
    Config {
        /// Which.
        path: PathBuf,
        /// Why.
        text: String,
    },
    /// The key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The metadata store.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The configuration in the state directory.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// The RPC socket.
    #[error(transparent)]
    Rpc(#[from] ServerError),
    /// A reactor.
    #[error("{0}")]
    Core(String),
    /// The operating system.
    #[error("{doing}: {source}")]
    Os {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Metadata: this system's public key, behind a byte of version.
const IDENTITY: &str = "system/public_key";
/// Metadata: the state directory has a configuration.
const SAVED: &str = "system/configuration";

/// How long hosts and streams get to finish at a shutdown.
const SHUTDOWN_MAX: Duration = Duration::from_secs(15);
const SHUTDOWN_LOOK: Duration = Duration::from_millis(20);

/// Serves until told to stop by a signal or an operator.
pub fn run(options: &Options) -> Result<(), ServeError> {
    // Before there is any other thread.
    longrun_hal::alloc::keep_memory();
    let log = start_log();
    raise_descriptor_limit();
    let os = |doing| move |source| ServeError::Os { doing, source };
    let (metadata, entries, metadata_writer) = Metadata::open(&options.state_dir)?;
    let saved = Saved::of_directory(&options.state_dir);
    if entries.is_empty() && saved.exists() {
        return Err(SavedError::NoMetadata { directory: options.state_dir.clone() }.into());
    }
    let known =
        entries.get(IDENTITY).and_then(|value| Some(PublicKey::from(*value.strip_prefix(&[1])?.first_chunk()?)));
    let private_key = identity::of_directory(&options.state_dir, known)?;
    metadata.put(IDENTITY, &[&[1], identity::public_key(&private_key).as_bytes().as_slice()].concat(), || {});
    let start = match &options.config {
        Some(path) => Start::from_file(path)?,
        None => Start::from_saved(&saved, entries.contains_key(SAVED))?,
    };
    tracing::info!("this system's public key is {}", identity::public_key(&private_key));
    let timekeeper = timekeeper::Timekeeper::start(&options.processors, &entries, metadata.clone());
    let (lines, line_writer) = log_lines().map_err(os("start the log's thread"))?;
    let news = Arc::new(Notify::new());
    let cores = cores::start(options, &private_key, &entries, &metadata, timekeeper.timeline(), &lines, &news)?;
    drop(lines);

    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(os("start the async runtime"))?;
    let control = Control::new(cores.handles(), private_key, log, saved, metadata.health());
    let outcome = runtime.block_on(serve(options, start, &control, timekeeper, &metadata, news));
    if outcome.is_ok() {
        runtime.block_on(shut_down(&control));
    }
    drop(runtime);
    drop(control);
    cores.stop();
    drop(metadata);
    metadata_writer.join();
    // The last sender went with the reactors.
    let _ = line_writer.join();
    outcome
}

/// The configuration to begin with.
struct Start {
    /// Where it is from.
    path: PathBuf,
    /// `None`: this is the first start.
    text: Option<Vec<u8>>,
    /// What to do if it cannot be carried out.
    advice: &'static str,
}

impl Start {
    fn from_file(path: &Path) -> Result<Start, ServeError> {
        let failed =
            |error| ServeError::Config { path: path.to_owned(), text: format!("{error}; give a file that exists") };
        let text = std::fs::read(path).map_err(failed)?;
        Ok(Start { path: path.to_owned(), text: Some(text), advice: "" })
    }

    fn from_saved(saved: &Saved, was_saved: bool) -> Result<Start, ServeError> {
        let advice = "; bring back what it needs, or start with --config FILE, which replaces it";
        Ok(Start { path: saved.path().to_owned(), text: saved.read(was_saved)?, advice })
    }
}

async fn serve(
    options: &Options,
    start: Start,
    control: &Arc<Control>,
    timekeeper: timekeeper::Timekeeper,
    metadata: &Metadata,
    news: Arc<Notify>,
) -> Result<(), ServeError> {
    let os = |source| ServeError::Os { doing: "listen for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(os)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(os)?;
    tokio::spawn(timekeeper.keep(control.handles()));
    let Start { path, text, advice } = start;
    if let Some(text) = text {
        let carried_out = control.configure(&text).await;
        carried_out.map_err(|text| ServeError::Config { path, text: format!("{text}{advice}") })?;
    }
    match control.save().await {
        // From here on a start that finds none knows that there was one. Before the first call is answered.
        Ok(()) => metadata.put_and_wait(SAVED, &[1]),
        Err(error) => tracing::warn!("{error}"),
    }
    tokio::spawn(Arc::clone(control).keep_saved());
    tokio::spawn(Arc::clone(control).keep_frames());
    tokio::spawn(admit_hosts(Arc::clone(control)));
    tokio::spawn(watch_groups(Arc::clone(control), news));
    let server = Server::bind(&options.rpc_socket, Arc::new(Operators(Arc::clone(control))))?;
    tracing::info!("serving; RPC socket {}", server.path().display());
    server
        .run(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = control.stop.notified() => {}
            }
        })
        .await;
    Ok(())
}

/// How long hosts wait at a start for groups that do not know yet whether they were taken over.
const ADMIT_WITHIN: Duration = Duration::from_secs(30);
const ADMIT_LOOK: Duration = Duration::from_millis(20);

/// Serves hosts once every volume shows the identity that it has: *a takeover is finished by the restart; a host that had
/// connected a moment before has seen the volume under its old name, and mounts the past as if it were the present.*
async fn admit_hosts(control: Arc<Control>) {
    let since = Instant::now();
    loop {
        let undecided = control.undecided_groups().await;
        if undecided.is_empty() {
            break;
        }
        if since.elapsed() > ADMIT_WITHIN {
            tracing::warn!("hosts are served, but not the volumes of {}: group_get says why", undecided.join(", "));
            break;
        }
        tokio::time::sleep(ADMIT_LOOK).await;
    }
    control.notice_takeovers().await;
    control.admit_hosts().await;
}

/// How soon groups are looked at though no core has brought news: a step of a swap may have taken too long for hosts.
const LOOK_AT_GROUPS: Duration = Duration::from_millis(500);

/// Shows hosts what groups and their volumes are now, as soon as a core says that it has changed: a swap or a takeover that
/// ended, and an identity that came from the other site.
async fn watch_groups(control: Arc<Control>, news: Arc<Notify>) {
    loop {
        control.notice_takeovers().await;
        // Whether it was news or time: the look is the same.
        drop(tokio::time::timeout(LOOK_AT_GROUPS, news.notified()).await);
    }
}

/// Lets hosts go and streams drain, so that the next start knows that nothing is missing at the other site.
async fn shut_down(control: &Arc<Control>) {
    tracing::info!("stopping");
    for reactor in control.handles() {
        reactor.call(|reactor| reactor.close_connections()).await;
    }
    let since = Instant::now();
    for reactor in control.handles() {
        reactor
            .call(|reactor| {
                reactor.engine(|engine, now, world| {
                    let (primary, mut world) = engine.primary(world);
                    primary.shutdown(now, &mut world);
                });
            })
            .await;
    }
    for reactor in control.handles() {
        loop {
            let state = reactor
                .call(|reactor| reactor.engine(|engine, _, world| engine.primary(world).0.shutdown_state()))
                .await;
            match state {
                Shutdown::Done { undrained } if undrained.is_empty() => break,
                Shutdown::Done { undrained } => {
                    tracing::warn!(
                        "{} streams could not be drained; their pairs will be PSUE at the next start",
                        undrained.len()
                    );
                    break;
                }
                _ if since.elapsed() > SHUTDOWN_MAX => {
                    tracing::warn!("replication did not drain in time; its pairs will be PSUE at the next start");
                    break;
                }
                _ => tokio::time::sleep(SHUTDOWN_LOOK).await,
            }
        }
    }
}

/// Every host's queue is a descriptor, and the usual limit is no more than one reactor serves: take what may be had.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!("the limit of open descriptors stays at {current:?} ({error}); raise it with ulimit -n");
    }
}

/// The log goes to standard error; how much can be changed while the process runs.
fn start_log() -> LogLevelSwitch {
    let (filter, reload) = tracing_subscriber::reload::Layer::new(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    // A second start in one process (tests) keeps the first one's subscriber.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    LogLevelSwitch::new(move |level| {
        // Fails only if the subscriber is gone, and then there is nothing to change.
        let _ = reload.modify(|filter| *filter = level);
    })
}

/// A thread that logs the reactors' lines.
fn log_lines() -> std::io::Result<(std::sync::mpsc::Sender<String>, std::thread::JoinHandle<()>)> {
    let (sender, lines) = std::sync::mpsc::channel::<String>();
    let thread = std::thread::Builder::new().name("log".into()).spawn(move || {
        for line in lines {
            tracing::info!("{line}");
        }
    })?;
    Ok((sender, thread))
}
