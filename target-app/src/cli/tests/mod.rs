//! The command line against a server that plays a script.

mod lines;
mod shown;

use std::sync::{Arc, Mutex};

use clap::{CommandFactory as _, Parser as _};
use longrun_rpc::methods::bdev::{BdevInfo, Iostat, SupportedIoTypes};
use longrun_rpc::methods::group::{GroupInfo, LossCertificate};
use longrun_rpc::methods::link::LinkInfo;
use longrun_rpc::methods::pair::PairInfo;
use longrun_rpc::{Call, Handler, RpcError, Server};
use serde_json::{Value, json};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn refusal(line: &str) -> String {
    match parse(line) {
        Err(error) => error.to_string(),
        Ok(cli) => panic!("{line} was accepted: {cli:?}"),
    }
}

fn remote(line: &str) -> RemoteCommand {
    match parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Command::Remote(command) => command,
        other => panic!("{other:?}"),
    }
}

/// A server that notes the calls and gives the next answer it was handed; without one, `true`.
#[derive(Default)]
struct Script {
    calls: Mutex<Vec<(String, Value)>>,
    answers: Mutex<Vec<Result<Value, RpcError>>>,
}

struct Scripted(Arc<Script>);

impl Handler for Scripted {
    async fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        // What the command line sends must be what the server reads.
        let call = Call::parse(method, params)?;
        self.0.calls.lock().unwrap().push((call.method().to_owned(), call.params()));
        let mut answers = self.0.answers.lock().unwrap();
        if answers.is_empty() { Ok(json!(true)) } else { answers.remove(0) }
    }
}

/// Runs commands, one after the other, each given as typed, against a server with these answers; gives what the last one
/// printed and the calls that were made. `{SOCKET}` stands for the flag with the server's socket, `{DIR}` for a directory.
fn against(answers: Vec<Result<Value, RpcError>>, line: &str) -> (Result<String, CliError>, Vec<(String, Value)>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    let script = Arc::new(Script { answers: Mutex::new(answers), ..Script::default() });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (bound, is_bound) = std::sync::mpsc::channel();
    let thread = std::thread::spawn({
        let (path, script) = (path.clone(), Arc::clone(&script));
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(&path, Arc::new(Scripted(script))).unwrap();
                bound.send(()).unwrap();
                server.run(async { drop(stopped.await) }).await;
            });
        }
    });
    is_bound.recv().unwrap();
    let line = line.replace("{DIR}", directory.path().to_str().unwrap());
    let outcome = execute(&remote(&format!("{line} --rpc-socket {}", path.display())));
    drop(stop);
    thread.join().unwrap();
    let calls = script.calls.lock().unwrap().clone();
    (outcome, calls)
}

fn methods(calls: &[(String, Value)]) -> Vec<&str> {
    calls.iter().map(|(method, _)| method.as_str()).collect()
}

/// The calls that a command makes when all goes well.
fn calls(line: &str) -> Vec<(String, Value)> {
    let (outcome, calls) = against(vec![Ok(json!("made"))], line);
    outcome.unwrap_or_else(|error| panic!("{line}: {error}"));
    calls
}

fn group_info() -> GroupInfo {
    serde_json::from_value(json!({
        "name": "g0", "role": "secondary", "state": "PAIR", "consistent": true,
        "recovery_point_ns": 1_763_766_000_123_456_789_u64, "rpo_ms": 12,
        "limit_time_ns": 1_763_766_000_223_456_789_u64, "timeline_now_ns": 1_763_766_000_135_456_789_u64,
        "lag": {"seconds": 0.0121, "bytes": 8192, "records": 2},
        "generation": {"number": 1, "id": "a1b2"}, "sequence_scope": "group", "links": ["east"], "core": 1, "pairs": ["p0", "p1"],
        "streams": [{"stream": 1, "link": "east", "epoch": 3, "tip_ns": 1_763_766_000_223_456_789_u64, "received": 102,
                     "durable": 100, "announced": 105}],
        "journal": "j0", "journal_used": 0.0612
    }))
    .unwrap()
}

fn pair_info() -> PairInfo {
    serde_json::from_value(json!({
        "group": "g0", "name": "p0", "role": "primary", "state": "PFUS", "consistent": true, "rpo_ms": 65_001,
        "reason": "the link was down for longer than the buffer lasts",
        "waiting": {"owner": "peer", "since_ms": 1500, "timeout_ms": 10_000, "reason": "the link to come up"},
        "volume": "m0", "replica": "p0", "remote_volume": "p0", "link": "west", "size_bytes": 1_073_741_824,
        "counters": {"writes": 10, "write_bytes": 40_960, "records": 11, "repairs": 1}
    }))
    .unwrap()
}

fn link_info() -> LinkInfo {
    serde_json::from_value(json!({
        "name": "west", "local_addr": "10.0.0.1:4700", "remote_addr": "10.0.0.2:4700", "security": "noise",
        "state": "up", "state_age_ms": 65_001, "mtu_bytes": 1400, "rtt_us": 10_400, "rtt_us_min": 900,
        "congestion_window_bytes": 65_536, "in_flight_bytes": 1400, "counters": {"frames_sent": 7, "frames_retransmitted": 1}
    }))
    .unwrap()
}

fn bdev_info() -> BdevInfo {
    BdevInfo {
        name: "m0".to_owned(),
        aliases: Vec::new(),
        product_name: "Malloc disk".to_owned(),
        block_size: 4096,
        num_blocks: 262_144,
        uuid: "6b8fa1f2-0c3f-4a51-9e49-000000000001".parse().unwrap(),
        claimed: true,
        claimed_by: Some("pair p0 of group g0".to_owned()),
        zoned: false,
        supported_io_types: SupportedIoTypes::default(),
        driver_specific: serde_json::Map::new(),
    }
}

fn certificate() -> LossCertificate {
    serde_json::from_value(json!({
        "group": "g0", "recovery_point_ns": 951_782_400_000_000_001_u64, "clock_error_ns": 100,
        "generation": {"number": 2, "id": "b2", "parent": "a1"},
        "streams": [{"stream": 1, "epoch": 3, "last_applied": 10, "highest_announced": 20,
                     "seen_not_applied": [{"first": 12, "last": 14}, {"first": 17, "last": 17}]}],
        "volumes": [{"name": "p0", "uuid": "6b8fa1f2-0c3f-4a51-9e49-000000000001",
                     "nguid": "00112233445566778899AABBCCDDEEFF"}]
    }))
    .unwrap()
}
