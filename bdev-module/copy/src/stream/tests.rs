use super::*;
use crate::types::{Extent, PairId, RecordKind, Stamp};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Memory without end.
pub(crate) struct Heap;

impl Memory for Heap {
    type Buf = Vec<u8>;
    type Shared = Rc<[u8]>;

    fn alloc(&mut self, bytes: usize) -> Option<Vec<u8>> {
        Some(vec![0; bytes])
    }

    fn freeze(&mut self, buf: Vec<u8>, bytes: usize) -> Rc<[u8]> {
        buf[..bytes].into()
    }
}

const NEVER: Time = Time(u64::MAX);

fn ring(base: u64, slots: usize) -> Rx {
    RxStream::new(StreamStart {
        id: StreamId(7),
        epoch: Epoch(3),
        base: Seq(base),
        durable: Seq(base - 1),
        floor: Time(0),
        slots,
    })
}

fn head(seq: u64, time: u64, payload_bytes: u32) -> RecordHead {
    RecordHead {
        stamp: Stamp { time: Time(time), stream: StreamId(7), seq: Seq(seq) },
        pair: PairId(1),
        kind: if payload_bytes == 0 { RecordKind::Unmap } else { RecordKind::Write },
        extent: Extent { lba: seq, blocks: 1 },
        payload_bytes,
    }
}

fn fragment(head: RecordHead, offset: u32, body: &[u8]) -> Fragment<'_> {
    Fragment { epoch: Epoch(3), generation: 1, head, offset, body }
}

type Rx = RxStream<Vec<u8>, Rc<[u8]>>;
type Outcome = (Result<Accepted, FrameError>, Vec<Record<Rc<[u8]>>>);

fn put(rx: &mut Rx, fragment: &Fragment<'_>) -> Outcome {
    let mut ready = Vec::new();
    (rx.accept(fragment, NEVER, |_| Ok(()), &mut Heap, &mut ready), ready)
}

fn unmap(rx: &mut Rx, seq: u64, time: u64) -> Result<Accepted, FrameError> {
    put(rx, &fragment(head(seq, time, 0), 0, &[])).0
}

proptest! {
    #[test]
    fn records_come_out_whole_and_in_order_whatever_the_network_did(
        sizes in prop::collection::vec(0_u32..700, 1..40),
        base in prop_oneof![Just(1), Just((1 << 32) - 7), Just(BASE_MAX)],
        piece_units in 1_usize..6,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        let mut rx = ring(base, 8);
        let records: Vec<(RecordHead, Vec<u8>)> = sizes.iter().enumerate().map(|(index, size)| {
            let payload = (0..*size).map(|at| (at as usize * 13 + index * 5) as u8).collect();
            (head(base + index as u64, 10 * index as u64 + 1, *size), payload)
        }).collect();
        let piece = piece_units * FRAGMENT_UNIT_BYTES as usize;
        let mut got = Vec::new();
        let mut known: BTreeMap<usize, std::collections::BTreeSet<usize>> = BTreeMap::new();
        let last_pass = (0..records.len()).flat_map(|index| (0..12).map(move |part| (index, part)));
        let random = picks.iter().map(|pick| {
            let index = pick.index(records.len() * 12);
            (index / 12, index % 12)
        });
        for (index, part) in random.chain(last_pass) {
            let (head, payload) = &records[index];
            let parts = payload.len().div_ceil(piece).max(1);
            let part = part % parts;
            let body = &payload[part * piece..payload.len().min((part + 1) * piece)];
            let (result, ready) = put(&mut rx, &fragment(*head, (part * piece) as u32, body));
            got.extend(ready);
            // The model: a number is in the run if all parts of it and of all before it were taken.
            if result.is_ok() {
                known.entry(index).or_default().insert(part);
            }
            let whole = |index: &usize| {
                let parts = records[*index].1.len().div_ceil(piece).max(1);
                known.get(index).is_some_and(|taken| taken.len() == parts)
            };
            let run = (0..records.len()).take_while(whole).count();
            prop_assert_eq!(rx.run().0, base - 1 + run as u64);
            prop_assert_eq!(rx.tip(), if run == 0 { Time(0) } else { records[run - 1].0.stamp.time });
        }
        prop_assert_eq!(got.len(), records.len());
        for (record, (head, payload)) in got.iter().zip(&records) {
            prop_assert_eq!(&record.head, head);
            prop_assert_eq!(record.payload.as_deref().unwrap_or_default(), &payload[..]);
        }
    }

    #[test]
    fn no_fragment_whatever_it_says_panics_or_changes_what_was_received(
        seq in any::<u64>(), time in any::<u64>(), payload_bytes in any::<u32>(), offset in any::<u32>(),
        body in prop::collection::vec(any::<u8>(), 0..300), code in 1_u8..5, near in any::<bool>(),
    ) {
        let mut rx = ring(5, 4);
        unmap(&mut rx, 5, 100).unwrap();
        let (seq, payload_bytes) = if near { (6 + seq % 6, payload_bytes % 400) } else { (seq, payload_bytes) };
        let mut head = head(seq, time, payload_bytes);
        head.kind = RecordKind::from_code(code).unwrap();
        let offset = if near { offset % 5 * 64 } else { offset };
        let (result, ready) = put(&mut rx, &fragment(head, offset, &body));
        if result.is_err() {
            prop_assert!(ready.is_empty());
            prop_assert_eq!(rx.run(), Seq(5));
        }
    }
}

#[test]
fn a_record_is_fixed_by_its_first_fragment() {
    let mut rx = ring(1, 4);
    let body = [9; 64];
    put(&mut rx, &fragment(head(1, 10, 200), 0, &body)).0.unwrap();
    for other in [head(1, 11, 200), head(1, 10, 201), head(1, 10, 0)] {
        let body: &[u8] = if other.payload_bytes == 0 { &[] } else { &body };
        assert_eq!(put(&mut rx, &fragment(other, 0, body)).0, Err(FrameError::Contradicting));
    }
    assert_eq!(put(&mut rx, &fragment(head(1, 10, 200), 0, &body)).0, Err(FrameError::Duplicate));
}

#[test]
fn what_cannot_be_is_dropped_by_its_reason() {
    let mut rx = ring(1, 4);
    let body = [1; 128];
    let bad = |fragment: Fragment<'_>| put(&mut ring(1, 4), &fragment).0.unwrap_err();
    assert_eq!(bad(fragment(head(1, 1, 200), 1, &body)), FrameError::Malformed, "offset inside a unit");
    assert_eq!(bad(fragment(head(1, 1, 200), 0, &body[..100])), FrameError::Malformed, "half a unit in the middle");
    assert_eq!(bad(fragment(head(1, 1, 200), 128, &body)), FrameError::Malformed, "beyond the payload");
    assert_eq!(bad(fragment(head(1, 1, 200), 0, &[])), FrameError::Malformed, "nothing of something");
    assert_eq!(bad(fragment(head(1, 1, PAYLOAD_BYTES_MAX + 1), 0, &body)), FrameError::Malformed, "too large");
    assert_eq!(bad(fragment(head(5, 1, 0), 0, &[])), FrameError::OutsideWindow);
    assert_eq!(bad(Fragment { epoch: Epoch(2), ..fragment(head(1, 1, 0), 0, &[]) }), FrameError::StaleEpoch);
    let late = rx.accept(&fragment(head(1, 51, 0), 0, &[]), Time(50), |_| Ok(()), &mut Heap, &mut Vec::new());
    assert_eq!(late, Err(FrameError::Future));
    unmap(&mut rx, 1, 1).unwrap();
    assert_eq!(unmap(&mut rx, 1, 1), Err(FrameError::Duplicate));
    assert_eq!(unmap(&mut rx, 5, 9).map(|accepted| accepted.advanced), Ok(false), "the window moved with the run");
}

#[test]
fn a_beacon_moves_the_tip_only_when_the_run_has_what_it_names() {
    let mut rx = ring(1, 4);
    unmap(&mut rx, 1, 10).unwrap();
    assert_eq!(rx.beacon(Time(20), Seq(2), NEVER), Ok(false));
    assert_eq!((rx.tip(), rx.announced()), (Time(10), Seq(2)), "record 2 is missing");
    assert_eq!(rx.beacon(Time(15), Seq(1), NEVER), Ok(true));
    assert_eq!(rx.tip(), Time(15));
    unmap(&mut rx, 2, 18).unwrap();
    assert_eq!(rx.tip(), Time(20), "the beacon that waited for record 2");
    assert_eq!(rx.beacon(Time(19), Seq(2), NEVER), Ok(false));
    assert_eq!(rx.tip(), Time(20), "a tip never falls");
    assert_eq!(rx.beacon(Time(31), Seq(2), Time(30)), Err(FrameError::Future));
    assert_eq!(rx.tip(), Time(20));
}

#[test]
fn a_record_not_after_the_tip_ends_the_stream_and_is_never_handed_out() {
    for time in [19, 20] {
        let mut rx = ring(1, 4);
        unmap(&mut rx, 1, 10).unwrap();
        rx.beacon(Time(20), Seq(1), NEVER).unwrap();
        let (_, ready) = put(&mut rx, &fragment(head(2, time, 0), 0, &[]));
        assert!(ready.is_empty());
        assert!(matches!(rx.error(), Some(StreamError::NotRising { .. })));
        assert_eq!((rx.tip(), rx.run()), (Time(20), Seq(1)));
        assert_eq!(unmap(&mut rx, 3, 99), Err(FrameError::Closed));
        assert_eq!(rx.beacon(Time(99), Seq(1), NEVER), Err(FrameError::Closed));
    }
}

#[test]
fn a_beacon_that_denies_a_received_record_ends_the_stream() {
    let mut rx = ring(1, 4);
    unmap(&mut rx, 1, 10).unwrap();
    unmap(&mut rx, 2, 20).unwrap();
    assert_eq!(rx.beacon(Time(15), Seq(1), NEVER), Ok(false), "an overtaken one is harmless");
    assert_eq!(rx.error(), None);
    rx.beacon(Time(25), Seq(1), NEVER).unwrap();
    assert!(matches!(rx.error(), Some(StreamError::Beacon { .. })));
    assert_eq!(rx.tip(), Time(20));
}

#[test]
fn what_was_seen_above_the_run_is_known_for_the_certificate() {
    let mut rx = ring(1, 8);
    for (seq, time) in [(1, 1), (3, 3), (4, 4), (6, 6)] {
        unmap(&mut rx, seq, time).unwrap();
    }
    put(&mut rx, &fragment(head(7, 7, 200), 0, &[1; 64])).0.unwrap();
    assert_eq!(rx.whole_above_run(|_| true), [3..=4, 6..=6]);
    assert_eq!(rx.heads_above_run().count(), 4, "of the half record the place is known");
    assert_eq!((rx.announced(), rx.seen()), (Seq(7), Time(7)));
}
