//! The demo, interrupted.

use longrun_tests::process::eventually;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Processes whose command line names this directory.
fn processes_in(directory: &Path) -> Vec<String> {
    let directory = directory.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(directory))
        .collect()
}

#[test]
fn a_demo_that_is_interrupted_leaves_neither_processes_nor_files() {
    let patience = Duration::from_secs(60);
    for (signal, status) in [("TERM", 143), ("INT", 130)] {
        let directory = tempfile::tempdir().unwrap();
        let mut demo = Command::new(longrun_tests::program::path())
            .args(["demo", "--seconds", "600"])
            .env("TMPDIR", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the demo's two systems", patience, || match processes_in(directory.path()) {
            systems if systems.len() == 2 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let pid = demo.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
        let ended = eventually("its end", patience, || demo.try_wait().unwrap().ok_or_else(|| "it runs".to_owned()));
        assert_eq!(ended.code(), Some(status), "{ended}");
        assert_eq!(processes_in(directory.path()), [""; 0]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

#[test]
fn the_demo_holds_over_raw_frames() {
    if !longrun_tests::network::may_have_own() {
        return;
    }
    let demo = Command::new(longrun_tests::program::path())
        .args(["demo", "--transport", "xdp", "--seconds", "4", "--json"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let says = String::from_utf8_lossy(&demo.stderr);
    assert!(demo.status.success(), "{says}");
    let report: serde_json::Value = serde_json::from_slice(&demo.stdout).unwrap();
    assert_eq!(
        (&report["order_closed"], &report["transport"]),
        (&true.into(), &"xdp, copied once, in the driver".into())
    );
    // Nearly all of them: one train in ten seconds is the kernel's, and those that came before the way was known.
    let (raw, sent) = (report["raw_frames_received"].as_u64().unwrap(), report["frames_sent"].as_u64().unwrap());
    assert!(raw > 1000 && raw * 2 > sent, "{raw} raw frames of {sent}; {report}");
}
