use super::*;

const SEED: u64 = 5;
const MS: u64 = 1_000_000;

/// What `n` transactions leave behind.
fn after(n: u64) -> Found {
    let mut history = History::new(SEED);
    let chain = (0..n)
        .map(|_| {
            let (link, _) = history.advance();
            (link.n, hex(&link.payload), hex(&link.hash))
        })
        .collect();
    let slots = (0..).zip(history.slots()).map(|(id, n)| (id, *n, format!("{n:0900}"))).collect();
    Found { integrity: "ok".to_owned(), has_tables: true, chain, slots }
}

/// Transactions 0 to 10: number `n` is begun at 10 n ms and committed 5 ms later; the last never is.
fn written() -> Vec<Transaction> {
    let at = |ms| HostTime((1000 + ms) * MS);
    let transaction = |n| Transaction { n, issued: at(10 * n), committed: (n < 10).then(|| at(10 * n + 5)) };
    (0..=10).map(transaction).collect()
}

/// A recovery point so many milliseconds after the first transaction was begun, 1 ms off at most.
fn moment(ms: u64) -> Moment {
    let at = HostTime((1000 + ms) * MS);
    let killed_at = HostTime(1110 * MS);
    Moment { at, error_ns: MS, killed_at, age_max: Duration::from_millis(100) }
}

fn fault(found: &Found, ms: u64) -> String {
    judge(found, &written(), SEED, &moment(ms)).unwrap_err()
}

#[test]
fn a_database_at_its_recovery_point_is_sound() {
    // Transaction 6 was committed at 65; 7 was begun at 70.
    let sound = judge(&after(6), &written(), SEED, &moment(68)).unwrap();
    assert_eq!(sound, Sound { newest: Some(6), promised: Some(6), lost: 3, age_ms: 42.0 });
    // In the middle of transaction 7 either is right.
    for n in [6, 7] {
        assert_eq!(judge(&after(n), &written(), SEED, &moment(73)).unwrap().newest, Some(n));
    }
    // The one that the writer was never told of may be there.
    assert_eq!(judge(&after(10), &written(), SEED, &moment(108)).unwrap().lost, 0);
}

#[test]
fn a_transaction_that_was_committed_before_the_recovery_point_must_be_there() {
    assert!(judge(&after(5), &written(), SEED, &moment(66)).is_ok(), "within the clock's error");
    assert!(fault(&after(5), 67).contains("transaction 6 was committed before the recovery point"));
    assert!(fault(&Found { integrity: "ok".to_owned(), ..Found::default() }, 30).contains("newest found is none"));
}

#[test]
fn a_transaction_that_was_begun_after_the_recovery_point_must_not_be_there() {
    assert!(judge(&after(7), &written(), SEED, &moment(69)).is_ok(), "within the clock's error");
    assert!(fault(&after(7), 68).contains("the last that was begun before the recovery point is 6"));
}

#[test]
fn a_copy_that_is_too_old_is_no_copy() {
    assert!(judge(&after(1), &written(), SEED, &moment(18)).is_ok());
    assert!(fault(&after(0), 8).contains("102 ms old"));
}

#[test]
fn what_sqlite_finds_wrong_is_wrong() {
    let found = Found { integrity: "row 3 missing from index".to_owned(), ..after(6) };
    assert!(fault(&found, 68).contains("row 3 missing"));
}

#[test]
fn a_hole_a_foreign_row_and_a_slot_of_another_moment_are_seen() {
    let mut hole = after(6);
    hole.chain.remove(2);
    assert!(fault(&hole, 68).contains("after 2 comes 4"));

    let mut foreign = after(6);
    foreign.chain[3].1.replace_range(0..2, "~~");
    assert!(fault(&foreign, 68).contains("row 4"));

    // The chain is of transaction 6, the slots are of 5.
    let torn = Found { slots: after(5).slots, ..after(6) };
    assert!(fault(&torn, 68).contains("was then of transaction 6"));

    let short = Found { slots: after(6).slots.into_iter().skip(1).collect(), ..after(6) };
    assert!(fault(&short, 68).contains("255 slots"));
}
