use super::*;
use crate::types::{Extent, PairId, RecordKind, Stamp};
use proptest::prelude::*;

const A: StreamId = StreamId(1);
const B: StreamId = StreamId(2);

fn record(stream: StreamId, seq: u64, time: u64, payload_bytes: u32) -> Record<Vec<u8>> {
    Record {
        head: RecordHead {
            stamp: Stamp { time: Time(time), stream, seq: Seq(seq) },
            pair: PairId(1),
            kind: if payload_bytes > 0 { RecordKind::Write } else { RecordKind::WriteZeroes },
            extent: Extent { lba: 0, blocks: 1 },
            payload_bytes,
        },
        payload: (payload_bytes > 0).then(|| vec![7; payload_bytes as usize]),
    }
}

fn status(stream: StreamId, durable: u64, records: u32, bytes: u64) -> StreamStatus {
    StreamStatus {
        stream,
        epoch: Epoch(1),
        run: Seq(durable),
        durable: Seq(durable),
        grant_records: records,
        grant_bytes: bytes,
        held: Default::default(),
    }
}

fn store() -> Store<Vec<u8>> {
    let mut store = Store::new(1296);
    for stream in [A, B] {
        store.start(stream, Epoch(1), Generation::default(), Seq(0), true);
        store.status(1, status(stream, 0, 100, 1 << 30));
    }
    store
}

/// Sends everything that may be sent: (stream, number, fragment, sent again).
fn send_all(store: &mut Store<Vec<u8>>) -> Vec<(StreamId, u64, u32, bool)> {
    send_some(store, usize::MAX)
}

/// The same, until so many were taken.
fn send_some(store: &mut Store<Vec<u8>>, most: usize) -> Vec<(StreamId, u64, u32, bool)> {
    let mut sent = Vec::new();
    store.send(|_, piece, again| {
        let is_taken = sent.len() < most;
        if is_taken {
            sent.push((piece.stream, piece.seq.0, piece.fragment, again));
        }
        is_taken
    });
    sent
}

proptest! {
    #[test]
    fn fragments_cover_a_payload_once_start_on_units_and_are_nearly_equal(
        payload_bytes in 0u32..200_000, body_bytes_max in 1000u32..10_000,
    ) {
        let cut = Cut::new(payload_bytes, body_bytes_max);
        let mut end = 0;
        let mut longest = 0;
        for fragment in 0..cut.fragments as u32 {
            let (offset, bytes) = cut.piece(fragment);
            prop_assert_eq!(offset, end);
            prop_assert!(offset.is_multiple_of(FRAGMENT_UNIT_BYTES));
            prop_assert!(bytes <= body_bytes_max && (bytes > 0 || payload_bytes == 0));
            if fragment == 0 {
                longest = bytes;
            }
            prop_assert!(bytes <= longest, "the first is the longest");
            prop_assert!(bytes + 2 * FRAGMENT_UNIT_BYTES > longest || fragment + 1 == cut.fragments as u32);
            end = offset + bytes;
        }
        prop_assert_eq!(end, payload_bytes);
        let fewest = payload_bytes.div_ceil(body_bytes_max / FRAGMENT_UNIT_BYTES * FRAGMENT_UNIT_BYTES).max(1);
        prop_assert_eq!(cut.fragments, u64::from(fewest));
    }
}

#[test]
fn what_was_lost_goes_first_and_of_that_the_oldest_time_over_all_streams() {
    let mut store = store();
    store.push(Epoch(1), record(A, 1, 10, 4096));
    store.push(Epoch(1), record(B, 1, 5, 512));
    store.push(Epoch(1), record(A, 2, 20, 0));
    let first = send_all(&mut store);
    assert_eq!(
        first,
        [(B, 1, 0, false), (A, 1, 0, false), (A, 1, 1, false), (A, 1, 2, false), (A, 1, 3, false), (A, 2, 0, false)]
    );
    store.push(Epoch(1), record(B, 2, 6, 0));
    store.on_lost(A, Epoch(1), Seq(2), 0);
    store.on_lost(A, Epoch(1), Seq(1), 3);
    store.on_lost(A, Epoch(1), Seq(1), 1);
    store.on_lost(B, Epoch(1), Seq(1), 0);
    store.on_lost(A, Epoch(1), Seq(1), 2);
    store.on_found(A, Epoch(1), Seq(1), 2);
    let again = send_all(&mut store);
    assert_eq!(again, [(B, 1, 0, true), (A, 1, 1, true), (A, 1, 3, true), (A, 2, 0, true), (B, 2, 0, false)]);
}

#[test]
fn a_record_that_is_sent_in_part_goes_on_where_it_was_unless_an_older_one_came() {
    let mut store = store();
    store.push(Epoch(1), record(A, 1, 10, 4096));
    store.push(Epoch(1), record(A, 2, 11, 0));
    assert_eq!(send_some(&mut store, 2), [(A, 1, 0, false), (A, 1, 1, false)]);
    assert_eq!(send_some(&mut store, 0), []);
    store.push(Epoch(1), record(B, 1, 5, 512));
    // What was granted for it stays granted.
    store.status(2, status(A, 0, 0, 0));
    assert_eq!(send_all(&mut store), [(B, 1, 0, false), (A, 1, 2, false), (A, 1, 3, false)]);
    store.on_lost(A, Epoch(1), Seq(1), 1);
    store.on_lost(A, Epoch(1), Seq(1), 3);
    assert_eq!(send_some(&mut store, 1), [(A, 1, 1, true)]);
    store.status(3, status(A, 0, 2, 1 << 30));
    assert_eq!(send_all(&mut store), [(A, 1, 3, true), (A, 2, 0, false)]);
}

#[test]
fn what_is_durable_or_in_the_run_is_not_sent_again() {
    let mut store = store();
    for seq in 1..=4 {
        store.push(Epoch(1), record(A, seq, seq, 512));
    }
    assert_eq!(send_all(&mut store).len(), 4);
    for seq in 1..=4 {
        store.on_lost(A, Epoch(1), Seq(seq), 0);
    }
    let freed = store.status(2, StreamStatus { run: Seq(3), ..status(A, 2, 100, 1 << 30) }).unwrap();
    assert_eq!((freed.records, freed.oldest), (2, Some(Time(1))));
    assert_eq!(freed.bytes, 2 * (4096 + 256));
    assert_eq!(send_all(&mut store), [(A, 4, 0, true)]);
    assert_eq!(store.backlog(A), Backlog { records: 2, bytes: 2 * (4096 + 256), oldest: Some(Time(3)) });
}

#[test]
fn grants_count_from_the_durable_number_in_records_and_bytes() {
    let mut store = store();
    let charge = record(A, 1, 1, 512).head.charge_bytes();
    store.status(2, status(A, 0, 3, 1 << 30));
    for seq in 1..=10 {
        store.push(Epoch(1), record(A, seq, seq, 512));
    }
    assert_eq!(send_all(&mut store).len(), 3);
    store.status(3, status(A, 2, 100, 4 * charge));
    assert_eq!(send_all(&mut store), [(A, 4, 0, false), (A, 5, 0, false), (A, 6, 0, false)]);
    store.status(4, status(A, 2, 100, 5 * charge - 1));
    assert_eq!(send_all(&mut store), []);
    store.status(5, status(A, 2, 100, 5 * charge));
    assert_eq!(send_all(&mut store), [(A, 7, 0, false)]);
}

#[test]
fn a_status_that_is_older_or_makes_no_sense_is_ignored() {
    let mut store = store();
    for seq in 1..=4 {
        store.push(Epoch(1), record(A, seq, seq, 512));
    }
    assert!(store.status(10, status(A, 2, 1, 1)).is_some());
    assert!(store.status(9, status(A, 3, 1, 1)).is_none(), "overtaken by a newer datagram");
    assert!(store.status(11, status(A, 1, 1, 1)).is_none(), "durable goes back");
    assert!(store.status(12, status(A, 5, 1, 1)).is_none(), "durable was never given");
    assert!(store.status(13, StreamStatus { epoch: Epoch(2), ..status(A, 3, 1, 1) }).is_none());
    assert_eq!(store.backlog(A).records, 2);
}

#[test]
fn pushes_before_the_start_are_kept_and_those_known_durable_are_not_sent() {
    let mut store = Store::new(1296);
    for seq in 1..=5 {
        store.push(Epoch(1), record(A, seq, seq, 512));
    }
    assert_eq!(store.next(), None);
    store.status(1, status(A, 3, 100, 1 << 30));
    store.start(A, Epoch(1), Generation::default(), Seq(3), true);
    assert_eq!(store.next(), None, "no grant yet");
    let early = store.take_recheck();
    assert_eq!(early.len(), 1);
    assert!(store.status(early[0].0, early[0].1).is_some());
    assert_eq!(send_all(&mut store), [(A, 4, 0, false), (A, 5, 0, false)]);
    // A new session: everything again, whatever was sent before.
    store.end_session();
    assert_eq!(store.next(), None);
    store.start(A, Epoch(1), Generation::default(), Seq(4), true);
    store.status(1, status(A, 4, 100, 1 << 30));
    assert_eq!(send_all(&mut store), [(A, 5, 0, false)]);
}

#[test]
fn a_new_epoch_drops_what_the_old_one_kept() {
    let mut store = store();
    store.push(Epoch(1), record(A, 1, 1, 512));
    store.push(Epoch(2), record(A, 1, 2, 512));
    assert_eq!(store.backlog(A).records, 1);
    assert_eq!(store.backlog(A).oldest, Some(Time(2)));
    store.on_lost(A, Epoch(1), Seq(1), 0);
    assert_eq!(store.next(), None);
}

#[test]
#[should_panic(expected = "pushed after")]
fn a_number_that_is_not_the_next_one_is_the_stampers_bug() {
    let mut store = store();
    store.push(Epoch(1), record(A, 1, 1, 512));
    store.push(Epoch(1), record(A, 3, 3, 512));
}

#[test]
fn a_peer_that_has_more_of_a_replayed_epoch_than_was_pushed_is_believed_and_of_another_it_is_not() {
    let mut store = store();
    for stream in [A, B] {
        for seq in 1..=3 {
            store.push(Epoch(1), record(stream, seq, 10 * seq, 512));
        }
    }
    store.believe(A);
    let numbers: Vec<u64> = store.kept(A).map(|record| record.head.stamp.seq.0).collect();
    assert_eq!(numbers, [1, 2, 3]);
    // An earlier process had sent number 4 and 5 too.
    assert!(store.status(2, status(A, 5, 100, 1 << 30)).is_some());
    assert!(store.status(2, status(B, 5, 100, 1 << 30)).is_none(), "numbers that were never given");
    assert_eq!((store.kept(A).count(), store.kept(B).count()), (0, 3));
    // The replay comes by them, and goes on behind.
    for seq in 4..=6 {
        store.push(Epoch(1), record(A, seq, 10 * seq, 512));
    }
    let sent: Vec<u64> = send_all(&mut store).into_iter().filter(|sent| sent.0 == A).map(|sent| sent.1).collect();
    assert_eq!(sent, [6]);
}

#[test]
fn a_start_that_comes_after_its_session_ended_does_all_that_it_would_have_left_behind() {
    let mut told: Store<Vec<u8>> = Store::new(1296);
    let mut late: Store<Vec<u8>> = Store::new(1296);
    for store in [&mut told, &mut late] {
        (1..=4).for_each(|seq| store.push(Epoch(1), record(A, seq, seq, 512)));
    }
    // An earlier process had sent six.
    told.start(A, Epoch(1), Generation::default(), Seq(6), true);
    told.end_session();
    late.end_session();
    late.start(A, Epoch(1), Generation::default(), Seq(6), false);
    for store in [&mut told, &mut late] {
        assert!(!store.is_started(A, Epoch(1)));
        // Nothing is kept of what was durable, or this would be a hole.
        store.push(Epoch(1), record(A, 7, 7, 512));
        assert_eq!(store.backlog(A), Backlog { records: 1, bytes: store.backlog(A).bytes, oldest: Some(Time(7)) });
        assert_eq!(store.next(), None);
        store.start(A, Epoch(1), Generation::default(), Seq(6), true);
        store.status(1, status(A, 6, 100, 1 << 30));
        assert_eq!(send_all(store), [(A, 7, 0, false)]);
    }
}
