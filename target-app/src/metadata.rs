//! The metadata store: what must outlive the process beside journals and volumes — generations, epochs, checkpoints,
//! the timeline's high-water mark, this system's identity.
//!
//! redb, because it is a crash-safe store kept for just this: small, rarely written, atomic per transaction. One writer
//! thread commits everything that waits in one transaction, in the order of the calls, and then tells each caller; so a
//! reactor that asks for durability never waits, and never sees a later write durable before an earlier one. What was
//! there at the start is read once; whoever writes a key afterwards knows its value.
//!
//! A disk that is full or fails holds everything back that was to be durable: no caller is told, all of it is tried again,
//! and [`Health`] and the log say why. When the disk takes it, everything goes on by itself.

mod store;

use redb::{Database, TableDefinition};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use store::{Opener, Store};

/// All entries: key to value. The value's first byte is its own format's version; the key says whose it is.
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
/// The store's own format; a store of another number is refused.
const FORMAT_KEY: &str = "format";
const FORMAT: &[u8] = b"longrun-metadata-1";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The directory cannot be made.
    #[error("state directory {path}: {source}; give a directory that this user may write with --state-dir")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process holds the file.
    #[error("metadata {path} is held by another process; stop the longrun that serves it or give another --state-dir")]
    Held {
        /// Which.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("metadata {path}: {source}; give a directory that this user may read and write with --state-dir")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a store, or is damaged.
    #[error(
        "metadata {path} is damaged or no metadata at all ({text}); put back a copy of it, or move it away and make this \
         system's groups and pairs anew at both ends: the volumes keep what they hold, their journals are not read"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// redb's words.
        text: String,
    },
    /// Written by another version.
    #[error(
        "metadata {path} has format {found:?}, this longrun reads {expected:?}; start the longrun that wrote it, or give \
         another --state-dir"
    )]
    Format {
        /// Which.
        path: PathBuf,
        /// What stands there.
        found: String,
        /// What this version writes.
        expected: String,
    },
}

/// Everything that a store held when it was opened.
pub type Entries = BTreeMap<String, Vec<u8>>;

type Done = Box<dyn FnOnce() + Send>;

/// A write that waits for its commit.
struct Put {
    key: String,
    value: Vec<u8>,
    done: Done,
}

/// How long after a failed write the same is tried again.
const RETRY: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 1000 });
/// How long a process that ends tries on.
const GIVE_UP: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 10_000 });

/// Whether metadata can be written; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<Option<Trouble>>>);

#[derive(Debug)]
struct Trouble {
    path: PathBuf,
    text: String,
    since: Instant,
}

impl Health {
    /// Why nothing becomes durable, since when, and what to do; `None` while all is well.
    pub fn reason(&self) -> Option<String> {
        let trouble = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map(|Trouble { path, text, since }| {
            format!(
                "metadata {} cannot be written for {} s now ({text}): what has to be durable waits, hosts' writes that                  need a mark or a lease too; make room there or mend the disk, then it goes on by itself",
                path.display(),
                since.elapsed().as_secs()
            )
        })
    }

    fn failed(&self, path: &Path, text: String) {
        let mut trouble = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *trouble {
            Some(known) => known.text = text,
            None => {
                tracing::error!(
                    "metadata {} cannot be written ({text}): nothing that needs it is answered; make room there or mend \
                     the disk, it is tried again every second",
                    path.display()
                );
                *trouble = Some(Trouble { path: path.to_owned(), text, since: Instant::now() });
            }
        }
    }

    fn succeeded(&self) {
        if let Some(over) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let seconds = over.since.elapsed().as_secs();
            tracing::info!("metadata {} can be written again, after {seconds} s", over.path.display());
        }
    }
}

/// A handle to the store; clones share it.
#[derive(Clone)]
pub struct Metadata {
    queue: Sender<Put>,
    health: Health,
}

/// Joins the writer once every [`Metadata`] handle is gone.
pub struct Writer {
    thread: JoinHandle<()>,
}

impl Writer {
    /// Waits until everything that was put is durable, or the disk has failed for ten seconds more. Every handle must have
    /// been dropped.
    pub fn join(self) {
        // The writer does not panic; were it to, nothing was told that is not so.
        let _ = self.thread.join();
    }
}

impl Metadata {
    /// Opens or creates `directory/metadata.redb`.
    pub fn open(directory: &Path) -> Result<(Metadata, Entries, Writer), MetadataError> {
        Metadata::open_with(directory, Box::new(|path| Ok(Database::create(path)?)))
    }

    fn open_with(directory: &Path, open: Opener) -> Result<(Metadata, Entries, Writer), MetadataError> {
        let no_directory = |source| MetadataError::Directory { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(no_directory)?;
        let path = directory.join("metadata.redb");
        let (store, entries) = Store::open(path.clone(), open)?;
        let (queue, waiting) = channel();
        let health = Health::default();
        let told = health.clone();
        let thread = std::thread::Builder::new()
            .name("metadata".into())
            .spawn(move || write_all(store, &waiting, &path, &told))
            .map_err(no_directory)?;
        Ok((Metadata { queue, health }, entries, Writer { thread }))
    }

    /// Whether it can be written.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Makes `key = value` durable and then calls `done` on the writer's thread.
    pub fn put(&self, key: &str, value: &[u8], done: impl FnOnce() + Send + 'static) {
        // The writer outlives every handle, so there is always somebody to receive it.
        let _ = self.queue.send(Put { key: key.to_owned(), value: value.to_vec(), done: Box::new(done) });
    }

    /// As [`Metadata::put`], waiting for durability. For the control plane; never on a reactor.
    pub fn put_and_wait(&self, key: &str, value: &[u8]) {
        let (sender, receiver) = channel();
        self.put(key, value, move || {
            let _ = sender.send(());
        });
        let _ = receiver.recv();
    }
}

/// The writer: takes everything that waits, commits it at once, tells everyone, until the last handle is dropped. What
/// cannot be committed waits, and what comes meanwhile behind it.
fn write_all(mut store: Store, waiting: &Receiver<Put>, path: &Path, health: &Health) {
    let mut batch: Vec<Put> = Vec::new();
    let mut ends_at: Option<Instant> = None;
    loop {
        if batch.is_empty() {
            let Ok(first) = waiting.recv() else { return };
            batch.push(first);
        }
        batch.extend(waiting.try_iter());
        match store.keep(batch.iter().map(|put| (put.key.as_str(), put.value.as_slice()))) {
            Ok(()) => {
                health.succeeded();
                for put in batch.drain(..) {
                    (put.done)();
                }
            }
            Err(text) => {
                health.failed(path, text);
                if ends_at.is_some_and(|at| at <= Instant::now()) {
                    tracing::error!(
                        "{} metadata entries were never durable, and nobody was told that they are",
                        batch.len()
                    );
                    return;
                }
                match waiting.recv_timeout(RETRY) {
                    Ok(put) => batch.push(put),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => {
                        ends_at.get_or_insert_with(|| Instant::now() + GIVE_UP);
                        std::thread::sleep(RETRY);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
