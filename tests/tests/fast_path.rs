//! The path of a write without the kernel: with `--io sqpoll` reactors make no system call and allocate nothing while hosts
//! write and the copy runs.
//!
//! Two processors are enough for one such system beside another, so each side is looked at in turn: its reactor on one
//! processor, the kernel's polling thread beside the other system on the second. Nothing is said of how fast that is.

use longrun_rpc::methods::framework::{Reactor, Reactors};
use longrun_tests::load::Load;
use longrun_tests::process::{Longrun, eventually};
use longrun_tests::sites::{Options, Sites, group};
use longrun_tests::tracer::{Tracer, thread_named};
use serde_json::json;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long is looked, at least ...
const LOOK: Duration = Duration::from_secs(5);
/// ... and at how many writes.
const WRITES: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(120);
/// How often, until nothing grows any more.
const WINDOWS: usize = 8;
/// The kernel's thread and the reactor sleep after a minute without work: not in this test.
const POLLED: &[&str] = &["--cores", "0", "--io", "sqpoll", "--polling-idle-ms", "60000"];
const ENTERED: &[&str] = &["--cores", "1"];

fn reactor(system: &Longrun) -> Reactor {
    let shown: Reactors = serde_json::from_value(system.call("framework_get_reactors", json!({}))).unwrap();
    shown.reactors.into_iter().next().expect("one reactor")
}

/// Records that are durable at the secondary.
fn copied(sites: &Sites) -> u64 {
    group(&sites.secondary).streams.iter().map(|stream| stream.durable).sum()
}

/// What happened in a while.
#[derive(Clone, Copy, Debug)]
struct Seen {
    written: u64,
    copied: u64,
    /// Uses of the allocator by the reactor.
    allocated: u64,
    /// Its system calls.
    calls: usize,
}

/// Waits while hosts write and the copy runs.
fn look(sites: &Sites, system: &Longrun, load: &Load, calls: impl Fn() -> usize) -> Seen {
    let now = || Seen {
        written: load.acknowledged(),
        copied: copied(sites),
        allocated: reactor(system).allocations,
        calls: calls(),
    };
    let before = now();
    // Asking is work for the reactor too.
    std::thread::sleep(LOOK);
    eventually("writes, here and there", PATIENCE, || {
        let now = now();
        let seen = Seen {
            written: now.written - before.written,
            copied: now.copied - before.copied,
            allocated: now.allocated - before.allocated,
            calls: now.calls - before.calls,
        };
        if seen.written >= WRITES && seen.copied >= WRITES { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
}

/// Of systems that spin, one pair at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Looks at a system's reactor while hosts write and the copy runs.
fn watch(sites: &Sites, system: &Longrun) {
    let load = sites.load(64 << 20, 5);
    load.wait_for_writes(2 * WRITES);
    let reactor_thread = reactor(system).tid.expect("a reactor is a thread");
    let porter = thread_named(system.pid(), "porter-0");
    let tracer = Tracer::attach(system.directory(), &[reactor_thread], porter);

    let entered = reactor(system).enters;
    let mut seen: Vec<Seen> = Vec::new();
    while !seen.last().is_some_and(|last| last.calls == 0 && last.allocated == 0) {
        // A queue that becomes longer than it ever was grows, and may ask the kernel for that; what a write or a turn takes
        // shows every time.
        let calls = tracer.calls_of(reactor_thread);
        assert!(
            seen.len() < WINDOWS,
            "{seen:#?}, the last calls: {:#?}",
            calls.iter().rev().take(20).collect::<Vec<_>>()
        );
        seen.push(look(sites, system, &load, || tracer.calls_of(reactor_thread).len()));
    }
    let calls_of = tracer.detach();
    assert!(calls_of(porter).len() > 10, "the tracer saw nothing at all");
    assert_eq!(reactor(system).enters, entered);
    let outcome = load.finish();
    assert_eq!(outcome.errors, 0, "{:?}", outcome.first_error);
}

#[test]
fn a_primary_that_is_polled_makes_no_system_call_and_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let sites = Sites::paired(&Options { primary_flags: POLLED, secondary_flags: ENTERED, ..Options::default() });
    assert_eq!(reactor(&sites.primary).io, "sqpoll");
    watch(&sites, &sites.primary);
}

#[test]
fn a_secondary_that_is_polled_makes_no_system_call_and_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let sites = Sites::paired(&Options { primary_flags: ENTERED, secondary_flags: POLLED, ..Options::default() });
    assert_eq!(reactor(&sites.secondary).io, "sqpoll");
    watch(&sites, &sites.secondary);
}

#[test]
fn what_cannot_be_polled_is_refused_with_what_mends_it() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |polling_core: &str| {
        let mut command = std::process::Command::new(longrun_tests::program::path());
        command.args(["serve", "--cores", "0", "--io", "sqpoll", "--polling-core", polling_core]).arg("--state-dir");
        command.arg(directory.path()).arg("--rpc-socket").arg(directory.path().join("rpc.sock"));
        let output = command.output().expect("the program starts");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused("4095");
    assert!(said.contains("polling thread on processor 4095") && said.contains("taskset -cp $$"), "{said}");
    let said = refused("0");
    assert!(said.contains("processor 0 is to spin") && said.contains("--polling-core"), "{said}");
}
