use super::*;
use crate::stream::{Fragment, RxStream, StreamStart};
use crate::types::{Epoch, Extent, PairId, RecordHead, RecordKind, Seq, StreamId};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::rc::Rc;

struct Nothing;

impl crate::ports::Memory for Nothing {
    type Buf = Vec<u8>;
    type Shared = Rc<[u8]>;

    fn alloc(&mut self, bytes: usize) -> Option<Vec<u8>> {
        Some(vec![0; bytes])
    }

    fn freeze(&mut self, buf: Vec<u8>, bytes: usize) -> Rc<[u8]> {
        buf[..bytes].into()
    }
}

fn head(stream: u64, seq: u64, time: u64) -> RecordHead {
    RecordHead {
        stamp: Stamp { time: Time(time), stream: StreamId(stream), seq: Seq(seq) },
        pair: PairId(1),
        kind: RecordKind::Unmap,
        extent: Extent { lba: 0, blocks: 1 },
        payload_bytes: 0,
    }
}

/// Claims 14 and 22-24 word by word. `lists` holds, per stream, what was received: (number, timestamp). `released` is the
/// last released number per stream.
fn brute_force(lists: &[BTreeSet<(u64, u64)>], first: u64, released: &mut [u64]) -> Vec<(u64, u64, u64)> {
    // "Per list of sequence numbers: the longest run from the last released one,
    let run_end = |list: &BTreeSet<(u64, u64)>, from: u64| {
        let mut end = from;
        while let Some((seq, _)) = list.iter().find(|(seq, _)| *seq == end + 1) {
            end = *seq;
        }
        end
    };
    // the highest number of that run, its timestamp;
    let timestamp = |list: &BTreeSet<(u64, u64)>, seq: u64| {
        list.iter().find(|(number, _)| *number == seq).map_or(0, |(_, time)| *time)
    };
    // the earliest of those over all lists is the limit time;
    let ends: Vec<u64> = lists.iter().zip(&*released).map(|(list, from)| run_end(list, *from)).collect();
    let limit =
        lists.iter().zip(&ends).map(|(list, end)| if *end < first { 0 } else { timestamp(list, *end) }).min().unwrap();
    // each list offers its earliest packet as candidate; candidates not later than the limit are written, earliest first."
    let mut written = Vec::new();
    loop {
        let candidate = (0..lists.len())
            .filter(|list| released[*list] < ends[*list])
            .map(|list| (timestamp(&lists[list], released[list] + 1), list))
            .min();
        match candidate {
            Some((time, list)) if time <= limit => {
                released[list] += 1;
                written.push((time, list as u64, released[list]));
            }
            _ => return written,
        }
    }
}

proptest! {
    #[test]
    fn what_is_released_when_and_in_which_order_is_what_the_claims_say(
        gaps in prop::collection::vec(prop::collection::vec(1_u64..4, 0..14), 1..5),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..120),
        first in prop_oneof![Just(1_u64), Just((1 << 32) - 3)],
    ) {
        // Timestamps rise strictly within a stream; ties between streams are common.
        let histories: Vec<Vec<(u64, u64)>> = gaps.iter().map(|gaps| {
            gaps.iter().scan(0, |time, gap| { *time += gap; Some(*time) }).enumerate()
                .map(|(index, time)| (first + index as u64, time)).collect()
        }).collect();
        let all: Vec<(usize, u64, u64)> = histories.iter().enumerate()
            .flat_map(|(list, history)| history.iter().map(move |(seq, time)| (list, *seq, *time))).collect();
        let mut streams: Vec<RxStream<Vec<u8>, Rc<[u8]>>> = (0..histories.len() as u64).map(|id| {
            let (base, durable) = (Seq(first), Seq(first - 1));
            RxStream::new(StreamStart { id: StreamId(id), epoch: Epoch(1), base, durable, floor: Time(0), slots: 16 })
        }).collect();
        let mut waiting = Waiting::default();
        let mut received = vec![BTreeSet::new(); streams.len()];
        let mut released = vec![first - 1; streams.len()];
        for pick in order {
            if all.is_empty() {
                break;
            }
            let (list, seq, time) = all[pick.index(all.len())];
            received[list].insert((seq, time));
            let fragment =
                Fragment { epoch: Epoch(1), generation: 1, head: head(list as u64, seq, time), offset: 0, body: &[] };
            let mut ready = Vec::new();
            let _ = streams[list].accept(&fragment, Time(u64::MAX), |_| Ok(()), &mut Nothing, &mut ready);
            ready.into_iter().for_each(|record| waiting.push(record));
            let limit = limit_of(streams.iter().map(RxStream::tip)).unwrap();
            let mut window = Vec::new();
            waiting.release(limit, &mut window);
            let got: Vec<_> = window.iter().map(|it| (it.head.stamp.time.0, it.head.stamp.stream.0, it.head.stamp.seq.0)).collect();
            prop_assert_eq!(got, brute_force(&received, first, &mut released));
        }
    }
}

#[test]
fn without_streams_there_is_no_limit() {
    assert_eq!(limit_of([]), None);
}

fn record(stream: u64, seq: u64, time: u64) -> Record<Rc<[u8]>> {
    Record { head: head(stream, seq, time), payload: None }
}

#[test]
fn a_stream_without_records_holds_everything_back() {
    let mut waiting = Waiting::default();
    waiting.push(record(1, 1, 5));
    let mut released = Vec::new();
    waiting.release(limit_of([Time(5), Time(4)]).unwrap(), &mut released);
    assert!(released.is_empty());
    waiting.release(limit_of([Time(5), Time(5)]).unwrap(), &mut released);
    assert_eq!(released.len(), 1, "not later than the limit includes the limit");
    assert!(waiting.is_empty());
}

/// What happens to what waits, and its model: one sorted list.
#[derive(Clone, Debug)]
enum Step {
    /// This many records arrive of one stream.
    Push(u64, u64),
    /// The limit rises by this much.
    Release(u64),
    /// The stream gives up.
    Take(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_u64..6, 1_u64..9).prop_map(|(stream, count)| Step::Push(stream, count)),
        3 => (0_u64..40).prop_map(Step::Release),
        1 => (0_u64..6).prop_map(Step::Take),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn what_waits_is_released_or_taken_as_from_one_sorted_list(steps in steps(), gaps in prop::collection::vec(1_u64..30, 64)) {
        let mut waiting = Waiting::default();
        let mut model: BTreeSet<(u64, u64, u64)> = BTreeSet::new();
        let mut last = [(0, 0); 6];
        let mut limit = 0;
        let mut gaps = gaps.iter().cycle();
        for step in steps {
            let mut got = Vec::new();
            let expected: Vec<_> = match step {
                Step::Push(stream, count) => {
                    for _ in 0..count {
                        let (seq, time) = &mut last[stream as usize];
                        *seq += 1;
                        *time = limit.max(*time) + gaps.next().unwrap();
                        waiting.push(record(stream, *seq, *time));
                        model.insert((*time, stream, *seq));
                    }
                    continue;
                }
                Step::Release(more) => {
                    limit += more;
                    waiting.release(Time(limit), &mut got);
                    model.extract_if(.., |(time, ..)| *time <= limit).collect()
                }
                Step::Take(stream) => {
                    got = waiting.take_stream(StreamId(stream));
                    model.extract_if(.., |(_, of, _)| *of == stream).collect()
                }
            };
            let got: Vec<_> = got.iter().map(|it| (it.head.stamp.time.0, it.head.stamp.stream.0, it.head.stamp.seq.0)).collect();
            prop_assert_eq!(got, expected);
            prop_assert_eq!(waiting.is_empty(), model.is_empty());
            prop_assert_eq!(waiting.iter().count(), model.len());
            let lengths: Vec<_> = waiting.runs.iter().map(|run| run.waiting().len()).collect();
            prop_assert!(lengths.iter().all(|length| *length > 0), "{:?}", lengths);
        }
    }
}

#[test]
fn while_the_limit_stands_still_what_waits_is_in_few_runs() {
    let mut waiting = Waiting::default();
    let mut released: Vec<Record<Rc<[u8]>>> = Vec::new();
    for seq in 1..=1000 {
        waiting.push(record(1, seq, 10 * seq));
        waiting.push(record(2, seq, 10 * seq));
        waiting.release(Time(0), &mut released);
        assert!(waiting.runs.len() <= 11, "{} runs of {} records", waiting.runs.len(), 2 * seq);
    }
}

#[test]
fn what_was_released_and_is_put_back_is_taken_with_its_stream_and_nothing_else_is_taken_twice() {
    // A takeover puts back what the journal did not take any more: it is earlier than what was released last.
    let mut waiting = Waiting::default();
    for number in 1..=100 {
        waiting.push(record(1, number, number * 10));
    }
    let mut released = Vec::new();
    waiting.release(Time(400), &mut released);
    waiting.release(Time(450), &mut released);
    let back: Vec<u64> = (30..=45).collect();
    released.drain(29..).for_each(|record| waiting.push(record));
    let taken: Vec<u64> = waiting.take_stream(StreamId(1)).iter().map(|record| record.head.stamp.seq.0).collect();
    assert_eq!(taken, back.into_iter().chain(46..=100).collect::<Vec<_>>());
    assert!(waiting.is_empty());
}
