//! The metadata store: what must outlive the process beside journals and volumes — generations, epochs, checkpoints,
//! the timeline's high-water mark, this system's identity.
//!
//! redb, because it is a crash-safe store kept for just this: small, rarely written, atomic per transaction. One writer
//! thread commits everything that waits in one transaction, in the order of the calls, and then tells each caller; so a
//! reactor that asks for durability never waits, and never sees a later write durable before an earlier one. What was
//! there at the start is read once; whoever writes a key afterwards knows its value.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;
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
        let (database, mut entries) = open_sound(&path)?;
        match entries.remove(FORMAT_KEY) {
            Some(found) if found != FORMAT => {
                return Err(MetadataError::Format {
                    path,
                    found: String::from_utf8_lossy(&found).into_owned(),
                    expected: String::from_utf8_lossy(FORMAT).into_owned(),
                });
            }
            Some(_) => {}
            None if entries.is_empty() => {
                commit(&database, [(FORMAT_KEY, FORMAT)]).map_err(|error| refused(&path, error))?;
            }
            // Its first commit holds the format, so this is another program's.
            None => {
                let text = "it holds entries and says no format".to_owned();
                return Err(MetadataError::Damaged { path, text });
            }
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

/// Opens a store, verifies every checksum in it (which costs one pass over the file), and reads it.
fn open_sound(path: &Path) -> Result<(Database, Entries), MetadataError> {
    let open = || {
        let mut database = Database::create(path)?;
        let is_sound = database.check_integrity()?;
        let entries = read_all(&database)?;
        Ok((database, entries, is_sound))
    };
    let damaged = |text: &str| MetadataError::Damaged { path: path.to_owned(), text: text.to_owned() };
    match quietly(open) {
        Some(Ok((database, entries, true))) => Ok((database, entries)),
        // It fell back to an older state, and that others rely on the newer one cannot be undone.
        Some(Ok((_, _, false))) => Err(damaged("its checksums do not match")),
        Some(Err(error)) => Err(refused(path, error)),
        None => Err(damaged("its inner structure is broken")),
    }
}

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The store panics on some kinds of damage. `None` when it did; then nothing is printed.
fn quietly<T>(work: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                before(info);
            }
        }));
    });
    IS_QUIET.set(true);
    // What the closure had in hand is dropped with it; the file is only read again by a later start.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work)).ok();
    IS_QUIET.set(false);
    outcome
}

/// Why a file cannot be used, in words that say what to do.
fn refused(path: &Path, error: redb::Error) -> MetadataError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen => MetadataError::Held { path },
        redb::Error::UpgradeRequired(version) => MetadataError::Format {
            path,
            found: format!("file format {version} of the store"),
            expected: String::from_utf8_lossy(FORMAT).into_owned(),
        },
        // What is no store at all is told as invalid data.
        redb::Error::Io(source) if source.kind() != std::io::ErrorKind::InvalidData => {
            MetadataError::File { path, source }
        }
        other => MetadataError::Damaged { path, text: other.to_string() },
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

    fn refusal(directory: &Path) -> String {
        match Metadata::open(directory, |_| {}) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("the store was taken"),
        }
    }

    #[test]
    fn a_store_of_a_newer_format_is_refused_with_the_way_forward_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.redb");
        let newer = [(FORMAT_KEY, &b"longrun-metadata-2"[..]), ("primary/g", &b"x"[..])];
        commit(&Database::create(&path).unwrap(), newer).unwrap();
        let text = refusal(directory.path());
        for part in ["longrun-metadata-2", "longrun-metadata-1", "start the longrun that wrote it"] {
            assert!(text.contains(part), "{text}");
        }
        let after = read_all(&Database::open(&path).unwrap()).unwrap();
        assert_eq!(after.get(FORMAT_KEY).map(Vec::as_slice), Some(&b"longrun-metadata-2"[..]));
        assert_eq!(after.len(), 2);
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_and_left_as_it_is() {
        for content in [vec![7; 8192], b"{}".to_vec(), vec![0; 100]] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("metadata.redb");
            std::fs::write(&path, &content).unwrap();
            let text = refusal(directory.path());
            assert!(text.contains("damaged or no metadata") && text.contains("put back a copy"), "{text}");
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
    }

    #[test]
    fn another_programs_store_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        commit(&Database::create(directory.path().join("metadata.redb")).unwrap(), [("mine", &b"x"[..])]).unwrap();
        assert!(refusal(directory.path()).contains("says no format"));
    }

    #[test]
    fn a_directory_in_the_files_place_is_named_as_what_it_is() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("metadata.redb")).unwrap();
        assert!(refusal(directory.path()).contains("this user may read and write"), "{}", refusal(directory.path()));
    }

    #[test]
    fn damage_at_any_place_of_a_store_is_refused_or_harmless_and_never_a_panic() {
        let whole = tempfile::tempdir().unwrap();
        let path = whole.path().join("metadata.redb");
        let (metadata, _, writer) = Metadata::open(whole.path(), |error| panic!("{error}")).unwrap();
        for number in 0..40u8 {
            metadata.put_and_wait(&format!("primary/{number}"), &[number; 300]);
        }
        drop(metadata);
        writer.join();
        let sound = std::fs::read(&path).unwrap();
        let mut damages: Vec<Vec<u8>> = (0..sound.len())
            .step_by(sound.len() / 60)
            .map(|at| {
                let mut bytes = sound.clone();
                let until = (at + 512).min(bytes.len());
                bytes[at..until].iter_mut().for_each(|byte| *byte ^= 0x5a);
                bytes
            })
            .collect();
        damages.extend([1, 320, 4096, sound.len() / 2, sound.len() - 1].map(|length| sound[..length].to_vec()));
        let mut refused = 0;
        for bytes in damages {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("metadata.redb"), bytes).unwrap();
            match Metadata::open(directory.path(), |_| {}) {
                Ok((_, entries, _)) => {
                    for (key, value) in entries {
                        let number: u8 = key.trim_start_matches("primary/").parse().unwrap();
                        assert_eq!(value, [number; 300], "damage was taken for content");
                    }
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 5, "only {refused} were refused");
    }
}
