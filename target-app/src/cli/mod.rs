//! The command line: what can be typed ([`args`]), how answers are shown ([`table`]), and the commands that ask a running
//! longrun over its RPC socket.
//!
//! Everything these commands do can be done by RPC; they add readable tables, units, and the few steps that take several
//! calls. Answers go to standard output, errors, as one sentence, to standard error. The exit status is 0 for success,
//! 1 for an error of the call, 2 for a command line that cannot be read.

mod accounting;
pub mod args;
mod config;
mod group;
pub mod keygen;
mod link;
pub mod output;
mod pair;
mod progress;
mod rpc;
pub mod table;
#[cfg(test)]
mod tests;
pub mod values;
mod volume;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use longrun_rpc::{Client, ClientError};
use serde::Serialize;

pub use args::{Cli, Command, DemoArgs, Idle, KeygenArgs, RemoteCommand, ServeArgs};
use args::{GroupVerb, LinkVerb, PairVerb, Remote, TestVerb, VolumeVerb};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The call, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file that was named.
    #[error("cannot {doing} {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Something typed, or read from a file, that cannot be used.
    #[error("{0}")]
    Input(String),
}

/// Runs a command that asks a running longrun, prints its answer, and says how it ended.
pub fn run(command: RemoteCommand) -> ExitCode {
    finish(execute(&command).map_err(|error| error.to_string()))
}

/// What the command prints.
pub(crate) fn execute(command: &RemoteCommand) -> Result<String, CliError> {
    match command {
        RemoteCommand::Rpc(args) => rpc::call(&mut connect(&args.remote)?, args),
        RemoteCommand::SaveConfig(args) => config::save(&mut connect(&args.remote)?, args),
        RemoteCommand::LoadConfig(args) => config::load(&mut connect(&args.remote)?, args),
        RemoteCommand::Accounting(args) => accounting::show(&mut connect(&args.remote)?, args),
        RemoteCommand::Volume(args) => {
            let (mut client, json) = (connect(&args.remote)?, args.remote.json);
            match &args.verb {
                VolumeVerb::List => volume::list(&mut client, json),
                VolumeVerb::Get { name } => volume::get(&mut client, name, json),
                VolumeVerb::Stat { name } => volume::stat(&mut client, name.as_deref(), json),
                VolumeVerb::Create(args) => volume::create(&mut client, args, json),
                VolumeVerb::Rescan { name } => volume::rescan(&mut client, name, json),
                VolumeVerb::Delete { name } => volume::delete(&mut client, name, json),
                VolumeVerb::Publish(args) => volume::publish(&mut client, args, json),
            }
        }
        RemoteCommand::Link(args) => {
            let (mut client, json) = (connect(&args.remote)?, args.remote.json);
            match &args.verb {
                LinkVerb::List => link::list(&mut client, json),
                LinkVerb::Get { name } => link::get(&mut client, name, json),
                LinkVerb::Create(args) => link::create(&mut client, args, json),
                LinkVerb::Delete { name } => link::delete(&mut client, name, json),
            }
        }
        RemoteCommand::Group(args) => {
            let (mut client, json) = (connect(&args.remote)?, args.remote.json);
            match &args.verb {
                GroupVerb::List => group::list(&mut client, json),
                GroupVerb::Get { name } => group::get(&mut client, name, json),
                GroupVerb::Create(args) => group::create(&mut client, args, json),
                GroupVerb::Delete { name } => group::delete(&mut client, name, json),
                GroupVerb::Watch { name } => watch::group(&mut client, name, json),
                GroupVerb::Suspend { name } => group::suspend(&mut client, name, json),
                GroupVerb::Resync { name, full } => group::resync(&mut client, name, *full, json),
                GroupVerb::Bookmark { name, bookmark } => group::bookmark(&mut client, name, bookmark, json),
                GroupVerb::Verify { name, pair, repair } => {
                    group::verify(&mut client, name, pair.as_deref(), *repair, json)
                }
                GroupVerb::Takeover { name, old_primary, accept_split, at } => {
                    group::takeover(&mut client, name, *old_primary, *accept_split, at.clone(), json)
                }
                GroupVerb::Test { verb: TestVerb::Start { name, store, at } } => {
                    group::test_start(&mut client, name, store, at.clone(), json)
                }
                GroupVerb::Test { verb: TestVerb::Stop { name } } => group::test_stop(&mut client, name, json),
                GroupVerb::Failback { name, discard_generation, discard_id, journal } => {
                    let (id, journal) = (discard_id.as_deref(), journal.as_deref());
                    group::failback(&mut client, name, *discard_generation, id, journal, json)
                }
                GroupVerb::Swap { name, journal, abandon, discard_generation } => {
                    group::swap(&mut client, name, journal.as_deref(), *abandon, *discard_generation, json)
                }
            }
        }
        RemoteCommand::Pair(args) => {
            let (mut client, json) = (connect(&args.remote)?, args.remote.json);
            match &args.verb {
                PairVerb::List { group, watch: false } => pair::list(&mut client, group.as_deref(), json),
                PairVerb::List { group, watch: true } => watch::pairs(&mut client, group.as_deref(), json),
                PairVerb::Get { group, name } => pair::get(&mut client, group, name, json),
                PairVerb::Create(args) => pair::create(&mut client, args, json),
                PairVerb::Resize { group, name, blocks } => pair::resize(&mut client, group, name, *blocks, json),
                PairVerb::Delete { group, name } => pair::delete(&mut client, group, name, json),
            }
        }
    }
}

fn connect(remote: &Remote) -> Result<Client, CliError> {
    let mut client = Client::connect(&remote.rpc_socket)?;
    client.set_timeout(remote.timeout.0);
    Ok(client)
}

/// An answer as indented JSON, or as the text that `show` makes of it.
fn answer<T: Serialize>(value: &T, json: bool, show: impl FnOnce(&T) -> String) -> String {
    if json { pretty(value) } else { show(value) }
}

/// Indented JSON with a newline.
pub(crate) fn pretty<T: Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// Prints what a command has to say, and makes its exit status.
pub(crate) fn finish(outcome: Result<String, String>) -> ExitCode {
    match outcome {
        Ok(text) => match output::print(&text) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                output::say(format_args!("longrun: cannot print the answer: {error}"));
                ExitCode::FAILURE
            }
        },
        Err(sentence) => {
            output::say(format_args!("longrun: {sentence}"));
            ExitCode::FAILURE
        }
    }
}
