//! The file: opened and proved whole, written in transactions, and written anew as a whole after a transaction failed.

use super::{ENTRIES, Entries, FORMAT, FORMAT_KEY, MetadataError};
use redb::{Database, ReadableDatabase, ReadableTable};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// How a store's file is opened, or made; tests put a failing disk below.
pub(super) type Opener = Box<dyn Fn(&Path) -> Result<Database, redb::Error> + Send>;

/// The store, and all that it holds.
///
/// After a failed commit nothing is known of the file: a kernel that could not write pages back forgets them, and what was
/// durable before may rest on them. So everything is written to a new file beside it, which then takes its place; that
/// takes as much room again, which for metadata is little.
pub(super) struct Store {
    path: PathBuf,
    open: Opener,
    database: Database,
    /// Device and inode of the file that is open.
    place: Option<(u64, u64)>,
    /// Why the file is not to be relied upon any more.
    broken: Option<String>,
    /// What is durable.
    entries: Entries,
}

impl Store {
    /// Opens the store, or makes it. Answers it with what it holds beside its format.
    pub(super) fn open(path: PathBuf, open: Opener) -> Result<(Store, Entries), MetadataError> {
        let (database, entries) = open_sound(&path, &open)?;
        let mut store = Store { place: place_of(&path), path, open, database, broken: None, entries };
        let path = store.path.clone();
        match store.entries.get(FORMAT_KEY) {
            Some(found) if found != FORMAT => {
                return Err(MetadataError::Format {
                    path,
                    found: String::from_utf8_lossy(found).into_owned(),
                    expected: String::from_utf8_lossy(FORMAT).into_owned(),
                });
            }
            Some(_) => {}
            None if store.entries.is_empty() => {
                commit(&store.database, [(FORMAT_KEY, FORMAT)]).map_err(|error| refused(&path, error))?;
                store.entries.insert(FORMAT_KEY.to_owned(), FORMAT.to_vec());
            }
            // Its first commit holds the format, so this is another program's.
            None => {
                let text = "it holds entries and says no format".to_owned();
                return Err(MetadataError::Damaged { path, text });
            }
        }
        let mut entries = store.entries.clone();
        entries.remove(FORMAT_KEY);
        Ok((store, entries))
    }

    /// Makes entries durable, in this order. `Err` says why they are not, or may not be; then the same is to be tried
    /// again, with whatever came meanwhile behind it.
    pub(super) fn keep<'a>(
        &mut self,
        entries: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Result<(), String> {
        if self.broken.is_none() {
            match quietly(|| commit(&self.database, entries.clone())) {
                // Who deleted the file, or put another in its place, has taken from the next start what is in ours.
                Some(Ok(())) if self.place == place_of(&self.path) => {}
                Some(Ok(())) => self.broken = Some("the file was deleted or replaced".to_owned()),
                Some(Err(error)) => self.broken = Some(error.to_string()),
                None => self.broken = Some("its inner structure is broken".to_owned()),
            }
        }
        if self.broken.is_some() {
            self.write_anew(entries.clone())?;
        }
        self.entries.extend(entries.map(|(key, value)| (key.to_owned(), value.to_vec())));
        Ok(())
    }

    /// Writes what is durable, and these entries, to a new file, and puts that in the old one's place.
    fn write_anew<'a>(&mut self, entries: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<(), String> {
        let fresh = self.path.with_extension("redb.new");
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
        let mut all = self.entries.clone();
        all.extend(entries.map(|(key, value)| (key.to_owned(), value.to_vec())));
        let write = || {
            let database = (self.open)(&fresh)?;
            commit(&database, all.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
            Ok::<_, redb::Error>(database)
        };
        let database = match quietly(write) {
            Some(Ok(database)) => database,
            failed => {
                // Room for the next try.
                let _ = std::fs::remove_file(&fresh);
                return Err(failed
                    .and_then(Result::err)
                    .map_or("the store failed".to_owned(), |error| error.to_string()));
            }
        };
        let place = place_of(&fresh);
        let directory = self.path.parent().unwrap_or(Path::new("."));
        std::fs::rename(&fresh, &self.path)
            .and_then(|()| std::fs::File::open(directory)?.sync_all())
            .map_err(|error| error.to_string())?;
        // The old file was held until now, so that no other process could take it up.
        (self.database, self.place, self.broken) = (database, place, None);
        Ok(())
    }
}

/// The file's device and inode; `None` if it is not there.
fn place_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Opens a store, verifies every checksum in it (which costs one pass over the file), and reads it.
fn open_sound(path: &Path, open: &Opener) -> Result<(Database, Entries), MetadataError> {
    let open = || {
        let mut database = open(path)?;
        let is_sound = database.check_integrity()?;
        let entries = read_all(&database)?;
        Ok::<_, redb::Error>((database, entries, is_sound))
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

pub(super) fn read_all(database: &Database) -> Result<Entries, redb::Error> {
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

pub(super) fn commit<'a>(
    database: &Database,
    entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), redb::Error> {
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
