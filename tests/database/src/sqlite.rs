//! SQLite's own program: one that writes transactions until its disk ends, and one that reads everything.

use crate::history::History;
use longrun::demo::clock::HostClock;
use longrun_checker::HostTime;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How SQLite keeps its log, and where: each has its own idea of what has to reach the disk before what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// New pages go to the log, and from there to the database now and then.
    Wal,
    /// Old pages go to the log; a transaction is committed by overwriting the log's header.
    Persist,
    /// The same, by cutting the log off.
    Truncate,
    /// The same, by removing the log.
    Delete,
}

impl Log {
    /// All of them.
    pub const ALL: [Log; 4] = [Log::Wal, Log::Persist, Log::Truncate, Log::Delete];

    /// SQLite's word for it.
    pub fn mode(self) -> &'static str {
        match self {
            Log::Wal => "wal",
            Log::Persist => "persist",
            Log::Truncate => "truncate",
            Log::Delete => "delete",
        }
    }

    /// The log's file, beside a database `db`.
    pub fn file(self) -> &'static str {
        match self {
            Log::Wal => "db-wal",
            Log::Persist | Log::Truncate | Log::Delete => "db-journal",
        }
    }

    /// What every connection says first. With the exclusive lock WAL needs no memory shared by mmap; elsewhere that lock
    /// would keep the log from being cut off or removed.
    fn begin(self) -> &'static str {
        match self {
            Log::Wal => ".bail on\n.mode list\nPRAGMA locking_mode=EXCLUSIVE;\n",
            Log::Persist | Log::Truncate | Log::Delete => ".bail on\n.mode list\n",
        }
    }

    /// What a connection that writes says then. The small cache and the early checkpoints keep both files busy.
    fn begin_writing(self) -> String {
        format!(
            "PRAGMA journal_mode={};\nPRAGMA synchronous=FULL;\nPRAGMA temp_store=MEMORY;\nPRAGMA cache_size=40;\n\
             PRAGMA wal_autocheckpoint=60;\n",
            self.mode()
        )
    }

    /// What comes before that on a database that does not exist: the way into WAL would need a log of the other kind, beside
    /// its own, for a transaction that writes one page.
    fn begin_new(self) -> &'static str {
        if self == Log::Wal { "PRAGMA journal_mode=OFF;\n" } else { "" }
    }
}

/// One transaction as its writer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its number.
    pub n: u64,
    /// Before SQLite was told.
    pub issued: HostTime,
    /// After SQLite said that it is committed; none if it never did.
    pub committed: Option<HostTime>,
}

/// A process that writes one transaction after the other.
pub struct Writer {
    child: Child,
    thread: Option<JoinHandle<Vec<Transaction>>>,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    said: Arc<Mutex<String>>,
}

impl Writer {
    /// Starts it on a database that does not exist yet.
    pub fn start(database: &Path, log: Log, seed: u64, clock: HostClock) -> Writer {
        let mut child = Command::new("sqlite3")
            .arg("-batch")
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sqlite3 starts (Debian's package sqlite3)");
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let said = Arc::new(Mutex::new(String::new()));
        let (mut input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&committed));
        let errors = BufReader::new(child.stderr.take().expect("piped"));
        let text = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        });
        let thread = std::thread::spawn(move || {
            let mut lines = BufReader::new(output).lines();
            let mut history = History::new(seed);
            let mut done = Vec::new();
            let begin = [log.begin(), log.begin_new(), &log.begin_writing()].concat();
            if input.write_all(begin.as_bytes()).is_err() {
                return done;
            }
            let mut line = History::tables();
            while !until.load(Ordering::Relaxed) {
                let n = history.done();
                let issued = clock.now();
                // When its disk has gone it ends, and this pipe with it.
                if writeln!(input, "{line}").is_err() {
                    break;
                }
                let says = format!("committed|{n}");
                let is_committed = lines.by_ref().map_while(Result::ok).any(|line| line == says);
                let committed = is_committed.then(|| clock.now());
                done.push(Transaction { n, issued, committed });
                if !is_committed {
                    break;
                }
                count.store(n, Ordering::Relaxed);
                line = history.next_line();
            }
            done
        });
        Writer { child, thread: Some(thread), stop, committed, said }
    }

    /// The newest transaction that it knows to be committed.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until transaction `n` is committed.
    ///
    /// # Errors
    ///
    /// With what SQLite said, if it ends before, or if that takes longer than a minute.
    pub fn wait_for(&self, n: u64) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(60);
        while self.committed() < n {
            if self.has_ended() || Instant::now() > until {
                return Err(format!("transaction {n} is not committed, {} is: {}", self.committed(), self.said()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Whether it ended by itself.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What SQLite complained about.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).trim_end().replace('\n', "; ")
    }

    /// Ends it, and answers what it did.
    pub fn finish(mut self) -> Vec<Transaction> {
        self.stop.store(true, Ordering::Relaxed);
        let done = self.thread.take().map(|thread| thread.join().expect("the writer's thread"));
        done.unwrap_or_default()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell otherwise.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a database holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What SQLite's integrity check says; `ok` is good.
    pub integrity: String,
    /// Whether the tables are there.
    pub has_tables: bool,
    /// The rows of `chain`: number, payload and hash, in hexadecimal.
    pub chain: Vec<(u64, String, String)>,
    /// The rows of `slots`: id, number, filler.
    pub slots: Vec<(u64, u64, String)>,
}

/// Opens a database, as after a crash, and reads everything.
///
/// # Errors
///
/// With SQLite's words, if it cannot.
pub fn read(database: &Path, log: Log) -> Result<Found, String> {
    let begin = log.begin();
    let look = format!("{begin}.print look\nPRAGMA integrity_check;\nSELECT 'table', name FROM sqlite_master;\n");
    let first = run(database, &look)?;
    let mut found = Found::default();
    let mut integrity = Vec::new();
    for line in first.lines().skip_while(|line| *line != "look").skip(1) {
        match line.strip_prefix("table|") {
            Some(name) => found.has_tables |= name == "slots",
            None => integrity.push(line),
        }
    }
    found.integrity = few(&integrity);
    if !found.has_tables {
        return Ok(found);
    }
    let all = format!(
        "{begin}SELECT 'chain', n, hex(payload), hex(hash) FROM chain ORDER BY n;\n\
         SELECT 'slot', id, n, filler FROM slots ORDER BY id;\n"
    );
    for line in run(database, &all)?.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let number = |text: &str| text.parse().map_err(|_| format!("{line:?} is not a row"));
        match fields.as_slice() {
            ["chain", n, payload, hash] => {
                found.chain.push((number(n)?, (*payload).to_owned(), (*hash).to_owned()));
            }
            ["slot", id, n, filler] => found.slots.push((number(id)?, number(n)?, (*filler).to_owned())),
            _ => {}
        }
    }
    Ok(found)
}

/// Goes on with a database after transaction `n`: one more, and another integrity check.
///
/// # Errors
///
/// With SQLite's words, if it cannot.
pub fn go_on(database: &Path, log: Log, seed: u64, n: u64) -> Result<(), String> {
    let mut history = History::new(seed);
    while history.done() < n {
        history.advance();
    }
    let (begin, begin_writing, next) = (log.begin(), log.begin_writing(), history.next_line());
    let script = format!("{begin}{begin_writing}{next}\n.print look\nPRAGMA integrity_check;\n");
    let said = run(database, &script)?;
    let last = said.lines().skip_while(|line| *line != "look").nth(1).unwrap_or_default();
    if last == "ok" { Ok(()) } else { Err(format!("after one more transaction: {last}")) }
}

/// The first lines of what may be many.
fn few(lines: &[&str]) -> String {
    const SHOWN: usize = 3;
    let shown = lines.iter().take(SHOWN).copied().collect::<Vec<_>>().join("; ");
    match lines.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn run(database: &Path, script: &str) -> Result<String, String> {
    let mut child = Command::new("sqlite3")
        .arg("-batch")
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("sqlite3: {error}"))?;
    // Small enough for the pipe; if SQLite ends before it has read all of it, its status says why.
    let _ = child.stdin.take().expect("piped").write_all(script.as_bytes());
    let output = child.wait_with_output().map_err(|error| format!("sqlite3: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("sqlite3: {}", String::from_utf8_lossy(&output.stderr).trim_end().replace('\n', "; ")))
}
