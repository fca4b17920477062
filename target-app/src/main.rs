//! The `longrun` program: reads the command line and hands over.

// These panic when their reader has left: `cli::output` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use clap::Parser;
use longrun::cli::args::{Cli, Command};
use longrun::{bench, cli, demo, reactor, serve};
use longrun_hal::alloc::Counting;
use std::process::ExitCode;

/// Shows what reactors allocate (`framework_get_reactors`), which is nothing once they are at work.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => {
            let io = args.io();
            let options = serve::Options {
                config: args.config,
                rpc_socket: args.rpc_socket,
                state_dir: args.state_dir,
                processors: args.cores.list().to_vec(),
                idle: match args.idle {
                    cli::args::Idle::Adaptive => reactor::Idle::Adaptive,
                    cli::args::Idle::Busy => reactor::Idle::Busy,
                },
                io,
                memory_bytes: (args.memory_mib as usize) << 20,
            };
            match serve::run(&options) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    cli::output::say(format_args!("longrun serve: {error}"));
                    ExitCode::FAILURE
                }
            }
        }
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Keygen(args) => cli::keygen::run(&args),
        Command::Remote(command) => cli::run(command),
    }
}
