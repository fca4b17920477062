use super::store::{commit, read_all};
use super::*;
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

#[test]
fn what_was_put_is_there_after_a_reopen_and_the_newest_value_wins() {
    let directory = tempfile::tempdir().unwrap();
    let (metadata, entries, writer) = Metadata::open(directory.path()).unwrap();
    assert!(entries.is_empty());
    metadata.put("primary/g", b"old", || {});
    metadata.put_and_wait("primary/g", b"new");
    drop(metadata);
    writer.join();
    let (_metadata, entries, _writer) = Metadata::open(directory.path()).unwrap();
    assert_eq!(entries.get("primary/g").map(Vec::as_slice), Some(&b"new"[..]));
}

#[test]
fn done_is_told_in_the_order_of_the_calls() {
    let directory = tempfile::tempdir().unwrap();
    let (metadata, _entries, _writer) = Metadata::open(directory.path()).unwrap();
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
    let _first = Metadata::open(directory.path()).unwrap();
    let text = Metadata::open(directory.path()).err().unwrap().to_string();
    assert!(text.contains("--state-dir"), "{text}");
}

fn refusal(directory: &Path) -> String {
    match Metadata::open(directory) {
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
    let (metadata, _, writer) = Metadata::open(whole.path()).unwrap();
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
        match Metadata::open(directory.path()) {
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

/// A disk that fails as it is told: with this errno, at every write or at every flush; 0 for not at all.
#[derive(Clone, Debug, Default)]
struct Faults {
    writes: Arc<AtomicI32>,
    flushes: Arc<AtomicI32>,
}

/// A file on it. What it could not flush it forgets, as page caches do.
#[derive(Debug)]
struct Faulty {
    file: FileBackend,
    faults: Faults,
    /// What a forgotten write had overwritten.
    unflushed: Mutex<Vec<(u64, Vec<u8>)>>,
}

fn outcome(errno: &AtomicI32) -> io::Result<()> {
    match errno.load(Ordering::SeqCst) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        outcome(&self.faults.writes)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut unflushed = self.unflushed.lock().unwrap();
        if let Err(error) = outcome(&self.faults.flushes) {
            for (offset, before) in unflushed.drain(..).rev() {
                self.file.write(offset, &before)?;
            }
            return Err(error);
        }
        unflushed.clear();
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        outcome(&self.faults.writes)?;
        let mut before = vec![0; data.len()];
        self.file.read(offset, &mut before)?;
        self.unflushed.lock().unwrap().push((offset, before));
        self.file.write(offset, data)
    }
}

fn open_on(directory: &Path, faults: &Faults) -> (Metadata, Entries, Writer) {
    let faults = faults.clone();
    let open = move |path: &Path| {
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let faulty = Faulty { file: FileBackend::new(file)?, faults: faults.clone(), unflushed: Mutex::default() };
        Ok(Database::builder().create_with_backend(faulty)?)
    };
    Metadata::open_with(directory, Box::new(open)).unwrap()
}

/// Everything that a disk holds after the process is gone.
fn left_in(directory: &Path) -> Entries {
    Metadata::open(directory).unwrap().1
}

/// Puts one entry while the disk fails, sees that nobody is told, mends the disk, and sees that everything is there.
fn fails_and_is_mended(fault: impl Fn(&Faults) -> &AtomicI32, errno: i32, says: &str) {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let (metadata, _, writer) = open_on(directory.path(), &faults);
    for number in 0..20u8 {
        metadata.put_and_wait(&format!("before/{number}"), &[number; 3000]);
    }
    let (sender, told) = channel();
    fault(&faults).store(errno, Ordering::SeqCst);
    for key in ["first", "second"] {
        let sender = sender.clone();
        metadata.put(key, b"x", move || sender.send(key).unwrap());
    }
    assert_eq!(told.recv_timeout(20 * RETRY).ok(), None, "told as durable on a disk that takes nothing");
    let reason = metadata.health().reason().unwrap();
    for part in [says, "make room there or mend the disk", "goes on by itself"] {
        assert!(reason.contains(part), "{reason}");
    }
    fault(&faults).store(0, Ordering::SeqCst);
    let patience = Duration::from_secs(20);
    assert_eq!([told.recv_timeout(patience), told.recv_timeout(patience)], [Ok("first"), Ok("second")]);
    assert_eq!(metadata.health().reason(), None);
    drop(metadata);
    writer.join();
    let entries = left_in(directory.path());
    assert_eq!(entries.len(), 22, "what was durable before is there too");
    assert!((0..20u8).all(|number| entries[&format!("before/{number}")] == [number; 3000]));
}

#[test]
fn while_its_disk_is_full_metadata_tells_nobody_says_why_and_goes_on_by_itself_when_there_is_room() {
    fails_and_is_mended(|faults| &faults.writes, libc::ENOSPC, "No space left");
}

#[test]
fn metadata_whose_flush_failed_is_written_anew_as_a_whole_before_anybody_is_told() {
    fails_and_is_mended(|faults| &faults.flushes, libc::EIO, "put/output error");
}

#[test]
fn metadata_that_was_deleted_while_it_was_in_use_is_there_again_before_anybody_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (metadata, _, _writer) = Metadata::open(directory.path()).unwrap();
    metadata.put_and_wait("before", b"x");
    std::fs::remove_file(directory.path().join("metadata.redb")).unwrap();
    metadata.put_and_wait("after", b"y");
    // As another process would find it, were this one killed now.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(directory.path().join("metadata.redb"), copy.path().join("metadata.redb")).unwrap();
    let entries = left_in(copy.path());
    assert_eq!(entries.keys().collect::<Vec<_>>(), ["after", "before"]);
}

#[test]
fn a_process_that_ends_while_its_metadata_cannot_be_written_ends_in_time_and_tells_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let (metadata, _, writer) = open_on(directory.path(), &faults);
    faults.writes.store(libc::EIO, Ordering::SeqCst);
    metadata.put("key", b"x", || panic!("told as durable"));
    drop(metadata);
    writer.join();
    assert!(!left_in(directory.path()).contains_key("key"));
}
