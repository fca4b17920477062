//! Crash consistency as a database sees it: real processes, real files, a real SIGKILL.
//!
//! Each round starts two `longrun serve` processes with a bad network between them and two pairs in one consistency group.
//! SQLite, Debian's own `sqlite3`, writes to the primary's volumes: its database is on one of them and its log on the
//! other, so whatever it believes about its disk depends on the order that the group keeps *between* the two. The primary
//! is killed at a random moment, now and then the secondary as well, and now and then the primary comes back before, so
//! that a resync is under way; the secondary takes over and SQLite opens the copy.
//! Then SQLite's integrity check has to be content, every transaction that had been committed before the certificate's
//! recovery point has to be there, none begun after it, and what is there has to be exactly what that many transactions
//! leave behind ([`judge`]).
//!
//! ```text
//!   sqlite3 --- FUSE --- mount, file --- device === NVMe/TCP ===> longrun serve --- relay --- longrun serve
//!    (db, db-wal)         (this program)                           primary, killed             secondary
//! ```
//!
//! **Why FUSE.** A Linux host would mount the two namespaces, but not every kernel has NVMe/TCP. Here a file system of two
//! files stands for the two mounts ([`mount`]): each write of SQLite's is an NVMe write before it returns, and `fsync` is an
//! NVMe flush. `fuser` talks to /dev/fuse itself, so root is needed but no libfuse. Only this file system knows what is
//! on the volumes: a header block with the file's length, and the bytes ([`file`]).
//!
//! **What could hide a fault?** A database that is hardly busy, so pages, index and log are kept small and churning
//! ([`history`]); a log that is never used again, so four ways to keep it take turns; and a copy that is merely old, so the
//! recovery point's age has a bound. `--two-groups` shows that the rest can fail: each volume is then in a group of its
//! own and their links end at different times, and the rounds have to notice.

mod device;
mod file;
mod history;
mod judge;
mod mount;
mod round;
mod sqlite;
mod systems;

use clap::Parser;
use round::{Plan, Report};
use std::hash::{BuildHasher as _, RandomState};
use std::process::ExitCode;
use std::time::Duration;

/// Kills the primary under a working SQLite, takes over, and checks the database in the copy.
///
/// Needs root, /dev/fuse and Debian's package sqlite3. The program under test is LONGRUN_PROGRAM.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds
    #[arg(default_value_t = 50)]
    rounds: u64,
    /// What everything is drawn from; default another one each time
    #[arg(long)]
    seed: Option<u64>,
    /// The first round's number, to run a round again with its seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The most that the recovery point may be old at the kill, beside the time the link was cut for, milliseconds
    #[arg(long, default_value_t = 10_000)]
    age_ms_max: u64,
    /// Database and log in a group each: without a common order rounds must fail. Succeeds if one does
    #[arg(long)]
    two_groups: bool,
    /// Keep the files of rounds that fail
    #[arg(long)]
    keep: bool,
    /// One line of JSON for each round instead of the table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // Short enough to be typed.
    let seed = args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 40);
    if !args.json {
        println!("seed {seed}");
        println!("{HEADING}");
    }
    let mut failed = 0;
    for number in args.from..args.from.saturating_add(args.rounds) {
        let plan = Plan::new(seed, number, args.two_groups);
        let directory = match tempfile::Builder::new().prefix("longrun-database-").tempdir() {
            Ok(directory) => directory,
            Err(error) => {
                eprintln!("a directory for the round: {error}");
                return ExitCode::FAILURE;
            }
        };
        let age_max = Duration::from_millis(args.age_ms_max) + plan.cut_before.unwrap_or_default();
        let report = round::run(number, &plan, directory.path(), age_max);
        if report.fault.is_some() {
            failed += 1;
            if args.keep {
                eprintln!("kept: {}", directory.keep().display());
            }
        }
        if args.json {
            println!("{}", serde_json::to_string(&report).unwrap_or_default());
        } else {
            println!("{}", line(&report));
        }
    }
    let passed = if args.two_groups { failed > 0 } else { failed == 0 };
    if !args.json {
        println!("{}", ending(&args, failed));
        if !passed && !args.two_groups {
            println!("again: --seed {seed} --from ROUND 1 --keep");
        }
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const HEADING: &str = "round log      scope   delay ms  cut ms  back ms  2nd kill  committed  promised  found   lost  age ms  \
                       takeover ms  seconds  verdict";

fn line(report: &Report) -> String {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let count = |value: Option<u64>| or_dash(value.map(|value| value.to_string()));
    let ms = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.1}")));
    format!(
        "{:>5} {:<8} {:<7} {:>8.1} {:>7} {:>8} {:>9} {:>10} {:>9} {:>6} {:>6} {:>7} {:>12.0} {:>8.1}  {}",
        report.round,
        report.log,
        report.scope,
        report.delay_ms,
        ms(report.cut_before_ms),
        ms(report.back_for_ms),
        if report.secondary_killed { "yes" } else { "-" },
        report.committed,
        count(report.promised),
        count(report.newest),
        count(report.lost),
        ms(report.age_ms),
        report.takeover_ms,
        report.seconds,
        report.fault.as_deref().unwrap_or("sound"),
    )
}

fn ending(args: &Args, failed: u64) -> String {
    let rounds = args.rounds;
    match (args.two_groups, failed) {
        (false, 0) => format!("{rounds} rounds, every database sound up to its recovery point"),
        (false, failed) => format!("{failed} of {rounds} rounds FAILED"),
        (true, 0) => format!(
            "none of {rounds} rounds failed although the two volumes had no common order: the rounds do not notice"
        ),
        (true, failed) => format!("{failed} of {rounds} rounds failed, as they must without a common order"),
    }
}
