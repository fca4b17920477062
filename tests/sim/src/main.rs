//! Runs worlds of many seeds.

use clap::Parser;
use longrun_sim::coverage::{Coverage, Hit, State, cell};
use longrun_sim::{Outcome, Totals};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

/// Runs simulated worlds and prints a line for each seed that fails, and what all of them exercised.
#[derive(Parser)]
#[command(
    name = "simulate",
    after_help = "Examples:\n  scripts/simulate --seeds 1000\n  scripts/simulate --from 4711 --seeds 1 --verbose\n  scripts/simulate --forever\n  scripts/simulate --aim \"takeover close x EIO\" --seeds 200"
)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Go on until stopped, with a line for every seed.
    #[arg(long)]
    forever: bool,
    /// Where failing seeds are kept, one a line.
    #[arg(long, default_value = "target/failing-seeds")]
    keep: PathBuf,
    /// Worlds at a time; as many as there are cores if not given. The outcome of a seed does not depend on it.
    #[arg(long)]
    threads: Option<usize>,
    /// Print what happens.
    #[arg(long)]
    verbose: bool,
    /// Fail if something was never exercised.
    #[arg(long)]
    complete: bool,
    /// Direct every world at one cell of the table, as in "fenced x EIO".
    #[arg(long, value_name = "STATE x FAULT", value_parser = cell)]
    aim: Option<(State, Hit)>,
}

/// So many worlds are directed at a cell that the seeds missed.
const AIMED_WORLDS_MAX: u64 = 1000;

type Ended = (u64, Result<Outcome, String>);

fn main() -> ExitCode {
    let arguments = &Arguments::parse();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if arguments.verbose { 1 } else { arguments.threads.unwrap_or(cores).max(1) };
    let next = AtomicU64::new(arguments.from);
    let end = if arguments.forever { u64::MAX } else { arguments.from.saturating_add(arguments.seeds) };
    let (sender, receiver) = sync_channel::<Ended>(1024);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (next, sender, verbose) = (&next, sender.clone(), arguments.verbose);
            let run = move |seed| match arguments.aim {
                Some((state, hit)) => longrun_sim::run_aimed(seed, verbose, state, hit),
                None => longrun_sim::run(seed, verbose),
            };
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || sender.send((seed, run(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        collect(arguments, receiver)
    })
}

/// Takes the outcomes in the order of their seeds, whoever was first.
fn collect(arguments: &Arguments, receiver: Receiver<Ended>) -> ExitCode {
    let begun = Instant::now();
    let mut totals = Totals::default();
    let mut coverage = Coverage::default();
    let (mut worlds, mut failed) = (0u64, 0u64);
    let mut early = BTreeMap::new();
    let mut expected = arguments.from;
    for (seed, ended) in receiver {
        early.insert(seed, ended);
        while let Some(ended) = early.remove(&expected) {
            worlds += 1;
            match ended {
                Ok(outcome) => {
                    totals.add(&outcome.totals);
                    coverage.add(&outcome.coverage);
                    if arguments.forever {
                        println!("seed {expected}: ok, {} events, trace {:016x}", outcome.totals.events, outcome.trace);
                    }
                }
                Err(text) => {
                    failed += 1;
                    let short: String = text.chars().take(if arguments.verbose { 20000 } else { 1200 }).collect();
                    println!("seed {expected}: {short}");
                    keep(&arguments.keep, expected, &short);
                }
            }
            expected += 1;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{worlds} worlds, {failed} failed, {seconds:.1} s, {:.1} worlds/s", worlds as f64 / seconds);
    print!("{totals}\n{coverage}");
    let never = totals.rows().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name.to_owned());
    let mut cells = coverage.missing();
    if arguments.complete {
        cells.retain(|cell| !is_reached(*cell, arguments.from, &mut failed));
    }
    let cells = cells.into_iter().map(|(state, hit)| format!("{} x {}", state.name(), hit.name()));
    let missing: Vec<String> = never.chain(cells).collect();
    if !missing.is_empty() {
        println!("never happened: {}", missing.join(", "));
    }
    if arguments.complete && !missing.is_empty() {
        return ExitCode::FAILURE;
    }
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A cell that the seeds missed by chance is reached by worlds that are all directed at it.
fn is_reached((state, hit): (State, Hit), from: u64, failed: &mut u64) -> bool {
    let cell = format!("{} x {}", state.name(), hit.name());
    for seed in from..from + AIMED_WORLDS_MAX {
        match longrun_sim::run_aimed(seed, false, state, hit) {
            Ok(outcome) if outcome.coverage.of(state, hit) > 0 => {
                println!("{cell}: reached by seed {seed} that is directed at it");
                return true;
            }
            Ok(_) => {}
            Err(text) => {
                *failed += 1;
                println!("seed {seed} --aim \"{cell}\": {}", text.chars().take(1200).collect::<String>());
            }
        }
    }
    false
}

/// Notes a failing seed; a file that cannot be written does not end the run.
fn keep(path: &Path, seed: u64, text: &str) {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let file = folder.and_then(|()| OpenOptions::new().create(true).append(true).open(path));
    let line = text.lines().next().unwrap_or_default();
    let kept = file.and_then(|mut file| writeln!(file, "{seed}\t{line}"));
    if let Err(error) = kept {
        eprintln!("seed {seed} is not kept in {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_seeds_are_kept_one_a_line_where_no_folder_was_yet() {
        let folder = std::env::temp_dir().join(format!("longrun-failing-seeds-{}", std::process::id()));
        let path = folder.join("deep").join("failing-seeds");
        keep(&path, 7, "promise 1: gone\nmore");
        keep(&path, 9, "promise 2");
        let kept = std::fs::read_to_string(&path).expect("kept");
        std::fs::remove_dir_all(&folder).expect("ours");
        assert_eq!(kept, "7\tpromise 1: gone\n9\tpromise 2\n");
    }
}
