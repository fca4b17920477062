use super::*;
use crate::reactor::{Commands, commands};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(20);

struct Office {
    clerk: Clerk,
    porter: JoinHandle<()>,
    lines: Receiver<String>,
    commands: Commands,
    _directory: tempfile::TempDir,
}

fn office() -> Office {
    let directory = tempfile::tempdir().unwrap();
    let (metadata, _, _) = Metadata::open(directory.path()).unwrap();
    let (_, waker) = longrun_hal::wake::pair().unwrap();
    let (reactor, commands) = commands(waker);
    let (to_log, lines) = channel();
    let desk = Desk::new(metadata, reactor, to_log, Arc::new(Notify::new()));
    let (clerk, porter) = Clerk::with_porter(desk, 0).unwrap();
    Office { clerk, porter, lines, commands, _directory: directory }
}

fn line(number: usize) -> Errand {
    Errand::Log(number.to_string())
}

#[test]
fn more_errands_than_fit_are_carried_out_in_their_order_and_the_porter_ends_with_the_clerk() {
    let Office { mut clerk, porter, lines, .. } = office();
    for number in 0..5 * ERRANDS_MAX {
        clerk.hand(line(number));
    }
    drop(clerk);
    porter.join().unwrap();
    let said: Vec<usize> = lines.iter().map(|line| line.parse().unwrap()).collect();
    assert!(said.iter().copied().eq(0..5 * ERRANDS_MAX), "{} lines", said.len());
}

#[test]
fn a_porter_that_sleeps_with_its_reactor_wakes_with_it() {
    let Office { mut clerk, porter, lines, .. } = office();
    for round in 0..50 {
        clerk.rest();
        // Long enough, most times, for the porter to sleep too.
        std::thread::sleep(Duration::from_millis(round % 4));
        clerk.resume();
        clerk.hand(line(round as usize));
        assert_eq!(lines.recv_timeout(PATIENCE).expect("the porter sleeps on"), round.to_string());
    }
    // What was handed over just before is not slept on.
    clerk.hand(line(50));
    clerk.rest();
    assert_eq!(lines.recv_timeout(PATIENCE).expect("the porter sleeps on"), "50");
    drop(clerk);
    porter.join().unwrap();
}

#[test]
fn what_is_durable_comes_back_to_the_reactor() {
    let Office { mut clerk, commands, _directory, .. } = office();
    let token = longrun_copy::ports::MetaToken { owner: longrun_copy::ports::Owner::Primary, id: 7 };
    clerk.hand(Errand::Persist(Persist { key: "primary/x".to_owned(), value: vec![1], token }));
    let since = Instant::now();
    while commands.is_empty() {
        assert!(since.elapsed() < PATIENCE, "nobody told the reactor");
        std::thread::sleep(Duration::from_millis(1));
    }
}
