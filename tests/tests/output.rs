//! What commands do whose reader has seen enough.

use longrun_tests::program;
use longrun_tests::sites::{GROUP, Options, Sites};
use std::io::pipe;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a command with standard output, or with standard error too, into a pipe that nobody reads; answers its exit status
/// and what else it said.
fn unread(arguments: &[&str], directory: &Path, both: bool) -> (Option<i32>, String) {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut command = Command::new(program::path());
    command.args(arguments).env("TMPDIR", directory).stdin(Stdio::null());
    if both {
        command.stderr(writer.try_clone().unwrap());
    } else {
        command.stderr(Stdio::piped());
    }
    let output = command.stdout(writer).spawn().unwrap().wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_command_whose_reader_has_left_ends_as_it_would_have_and_says_nothing_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    let bench = ["bench", "--seconds", "0.2", "--warmup-seconds", "0.1"];
    let commands: [&[&str]; 6] = [
        &["--help"],
        &["bench", "--help"],
        &["keygen", "--out", key.to_str().unwrap()],
        &["demo", "--seconds", "1", "--json"],
        &bench,
        &[bench.as_slice(), &["--json"]].concat(),
    ];
    for command in commands {
        let (status, said) = unread(command, directory.path(), false);
        assert_eq!(status, Some(0), "{command:?}: {said}");
        assert!(!said.contains("panic") && !said.to_lowercase().contains("pipe"), "{command:?}: {said}");
    }
    let (status, _) = unread(&["demo", "--seconds", "1"], directory.path(), true);
    assert_eq!(status, Some(0), "with what it says on the way");
    let (status, _) = unread(&["volume", "list", "-s", "/nonexistent"], directory.path(), true);
    assert_eq!(status, Some(1), "a failed call stays one");
}

#[test]
fn a_watch_that_nobody_reads_ends() {
    let sites = Sites::paired(&Options::default());
    sites.primary.call("group_suspend", serde_json::json!({"name": GROUP}));
    let socket = sites.primary.socket();
    for json in [false, true] {
        let mut watch = vec!["group", "watch", GROUP, "-s", socket.to_str().unwrap()];
        if json {
            watch.push("--json");
        }
        let (status, said) = unread(&watch, sites.primary.directory(), false);
        assert_eq!((status, said.as_str()), (Some(0), ""));
    }
}
