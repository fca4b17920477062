//! Runs worlds of many seeds.

use clap::Parser;
use longrun_sim::Totals;
use std::process::ExitCode;
use std::time::Instant;

/// Runs simulated worlds and prints a line for each seed that fails, and what all of them exercised.
#[derive(Parser)]
#[command(
    name = "simulate",
    after_help = "Examples:\n  scripts/simulate --seeds 1000\n  scripts/simulate --from 4711 --seeds 1 --verbose\n  scripts/simulate --forever"
)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Go on until stopped.
    #[arg(long)]
    forever: bool,
    /// Print what happens.
    #[arg(long)]
    verbose: bool,
    /// Fail if something was never exercised.
    #[arg(long)]
    complete: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let begun = Instant::now();
    let mut totals = Totals::default();
    let (mut worlds, mut failed) = (0u64, 0u64);
    let mut seed = arguments.from;
    while arguments.forever || worlds < arguments.seeds {
        match longrun_sim::run(seed, arguments.verbose) {
            Ok(outcome) => totals.add(&outcome.totals),
            Err(text) => {
                failed += 1;
                let short: String = text.chars().take(if arguments.verbose { 20000 } else { 1200 }).collect();
                println!("seed {seed}: {short}");
            }
        }
        worlds += 1;
        seed += 1;
        if arguments.forever && worlds.is_multiple_of(1000) {
            println!("{worlds} worlds, {failed} failed, {} s", begun.elapsed().as_secs());
        }
    }
    println!("{worlds} worlds, {failed} failed, {:.1} s", begun.elapsed().as_secs_f64());
    print!("{totals}");
    let missing: Vec<&str> = totals.rows().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    if arguments.complete && !missing.is_empty() {
        println!("never happened: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
