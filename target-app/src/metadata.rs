//! The metadata store: what must outlive the process beside journals and volumes — generations, epochs, checkpoints,
//! the timeline's high-water mark, this system's identity.
//!
//! redb, because it is a crash-safe store kept for just this: small, rarely written, atomic per transaction. One writer
//! thread commits everything that waits in one transaction, in the order of the calls, and then tells each caller; so a
//! reactor that asks for durability never waits, and never sees a later write durable before an earlier one. What was
//! there at the start is read once; whoever writes a key afterwards knows its value.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

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
    /// The file is not a store, is damaged, or another process holds it.
    #[error(
        "metadata {path}: {text}; if another longrun serves this state directory, stop it or give another --state-dir"
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// redb's words.
        text: String,
    },
    /// Written by another version.
    #[error("metadata {path} has format {found:?}, this longrun reads {expected:?}; use the version that wrote it")]
    Format {
        /// Which.
        path: PathBuf,
        /// What stands there.
        found: String,
        /// What this version writes.
        expected: String,
    },
    /// A commit failed: the disk is full or failing.
    #[error("metadata {path}: {text}; nothing after this is durable, so the process must stop")]
    Commit {
        /// Which.
        path: PathBuf,
        /// redb's words.
        text: String,
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

/// A handle to the store; clones share it.
#[derive(Clone)]
pub struct Metadata {
    queue: Sender<Put>,
}

/// Joins the writer once every [`Metadata`] handle is gone.
pub struct Writer {
    thread: JoinHandle<()>,
}

impl Writer {
    /// Waits until everything that was put is durable. Every handle must have been dropped.
    pub fn join(self) {
        // A panic of the writer has already stopped the process (see `write_all`).
        let _ = self.thread.join();
    }
}

impl Metadata {
    /// Opens or creates `directory/metadata.redb`. `failed` is called on a commit that fails; it should end the
    /// process, since callers were promised durability.
    pub fn open(
        directory: &Path,
        failed: impl Fn(MetadataError) + Send + 'static,
    ) -> Result<(Metadata, Entries, Writer), MetadataError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| MetadataError::Directory { path: directory.to_owned(), source })?;
        let path = directory.join("metadata.redb");
        let open_error = |text: String| MetadataError::Open { path: path.clone(), text };
        let database = Database::create(&path).map_err(|error| open_error(error.to_string()))?;
        let mut entries = read_all(&database).map_err(|error| open_error(error.to_string()))?;
        match entries.remove(FORMAT_KEY) {
            Some(found) if found != FORMAT => {
                return Err(MetadataError::Format {
                    path,
                    found: String::from_utf8_lossy(&found).into_owned(),
                    expected: String::from_utf8_lossy(FORMAT).into_owned(),
                });
            }
            Some(_) => {}
            None => commit(&database, [(FORMAT_KEY, FORMAT)]).map_err(|error| open_error(error.to_string()))?,
        }
        let (queue, waiting) = channel();
        let thread = std::thread::Builder::new()
            .name("metadata".into())
            .spawn(move || write_all(&database, &waiting, &path, &failed))
            .map_err(|source| MetadataError::Directory { path: directory.to_owned(), source })?;
        Ok((Metadata { queue }, entries, Writer { thread }))
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

fn read_all(database: &Database) -> Result<Entries, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(ENTRIES) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    let mut entries = BTreeMap::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        entries.insert(key.value().to_owned(), value.value().to_vec());
    }
    Ok(entries)
}

fn commit<'a>(database: &Database, entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(ENTRIES)?;
        for (key, value) in entries {
            table.insert(key, value)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// The writer: takes everything that waits, commits it at once, tells everyone, until the last handle is dropped.
fn write_all(database: &Database, waiting: &Receiver<Put>, path: &Path, failed: &impl Fn(MetadataError)) {
    while let Ok(first) = waiting.recv() {
        let batch: Vec<Put> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let entries = batch.iter().map(|put| (put.key.as_str(), put.value.as_slice()));
        if let Err(error) = commit(database, entries) {
            failed(MetadataError::Commit { path: path.to_owned(), text: error.to_string() });
            return;
        }
        for put in batch {
            (put.done)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_there_after_a_reopen_and_the_newest_value_wins() {
        let directory = tempfile::tempdir().unwrap();
        let (metadata, entries, writer) = Metadata::open(directory.path(), |error| panic!("{error}")).unwrap();
        assert!(entries.is_empty());
        metadata.put("primary/g", b"old", || {});
        metadata.put_and_wait("primary/g", b"new");
        drop(metadata);
        writer.join();
        let (_metadata, entries, _writer) = Metadata::open(directory.path(), |error| panic!("{error}")).unwrap();
        assert_eq!(entries.get("primary/g").map(Vec::as_slice), Some(&b"new"[..]));
    }

    #[test]
    fn done_is_told_in_the_order_of_the_calls() {
        let directory = tempfile::tempdir().unwrap();
        let (metadata, _entries, _writer) = Metadata::open(directory.path(), |error| panic!("{error}")).unwrap();
        let (sender, receiver) = channel();
        for number in 0..100u8 {
            let sender = sender.clone();
            metadata.put("key", &[number], move || sender.send(number).unwrap());
        }
        let told: Vec<u8> = (0..100).map(|_| receiver.recv().unwrap()).collect();
        assert_eq!(told, (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn a_second_process_on_the_same_directory_is_told_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Metadata::open(directory.path(), |error| panic!("{error}")).unwrap();
        let text = Metadata::open(directory.path(), |_| {}).err().unwrap().to_string();
        assert!(text.contains("--state-dir"), "{text}");
    }

    #[test]
    fn a_file_that_is_no_store_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("metadata.redb"), [7; 8192]).unwrap();
        assert!(Metadata::open(directory.path(), |_| {}).is_err());
    }
}
