//! The limit-time merge beside the structure that anyone would take first, a binary heap over the streams' heads.
//!
//! Each takes the same records in the order in which a network delivers them, and releases them in the order of history:
//! two records a stream and at least 4,096 in all, in eight batches with a limit behind each. `in order` is a network that
//! nearly keeps the order (one record in ten is late by up to a thousand places), `shuffled` one that keeps none, so that
//! all is released at the end. The floor takes the records in and hands them out as they came: what touching them costs.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longrun_copy::merge::Waiting;
use longrun_copy::types::{Extent, PairId, Record, RecordHead, RecordKind, Seq, Stamp, StreamId, Time};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

const RECORDS_MIN: usize = 4096;
const BATCHES: usize = 8;

type Packet = Record<Rc<[u8]>>;

fn record(time: u64, stream: u64, seq: u64) -> Record<Rc<[u8]>> {
    Record {
        head: RecordHead {
            stamp: Stamp { time: Time(time), stream: StreamId(stream), seq: Seq(seq) },
            pair: PairId(stream),
            kind: RecordKind::Unmap,
            extent: Extent { lba: seq, blocks: 8 },
            payload_bytes: 0,
        },
        payload: None,
    }
}

/// What arrives between two limits, and the limit then: nothing that comes later is at or before it.
type Batch = (Vec<Packet>, Time);

/// A pass. Within a stream the order is that of the numbers, as a receive ring hands records over.
fn arrivals(streams: usize, is_shuffled: bool) -> Vec<Batch> {
    let mut rng = SmallRng::seed_from_u64(streams as u64);
    let each = (RECORDS_MIN / streams).max(2);
    let mut turns: Vec<u64> = (0..streams * each).map(|turn| (turn % streams) as u64).collect();
    turns.shuffle(&mut rng);
    let mut numbers = vec![0; streams];
    let mut time = 0;
    let sent = turns.into_iter().map(|stream| {
        time += rng.random_range(1..1000);
        numbers[stream as usize] += 1;
        record(time, stream, numbers[stream as usize])
    });
    let mut arrived: Vec<Packet> = sent.collect();
    let mut places: Vec<(usize, StreamId)> = (arrived.iter().enumerate())
        .map(|(place, record)| {
            let late = if rng.random_ratio(1, 10) { rng.random_range(0..1000) } else { 0 };
            (if is_shuffled { rng.random_range(0..1 << 40) } else { place + late }, record.head.stamp.stream)
        })
        .collect();
    places.sort();
    // The k-th place of a stream is for its k-th record.
    arrived.sort_by_key(|record| (record.head.stamp.stream, record.head.stamp.seq));
    let mut next: Vec<usize> = (0..streams).map(|stream| stream * each).collect();
    let arrived: Vec<Packet> = (places.into_iter())
        .map(|(_, stream)| {
            let index = &mut next[stream.0 as usize];
            *index += 1;
            arrived[*index - 1].clone()
        })
        .collect();
    let mut limit = Time(u64::MAX);
    let mut batches: Vec<Batch> = Vec::new();
    for batch in arrived.chunks(arrived.len() / BATCHES).rev() {
        batches.push((batch.to_vec(), limit));
        limit = batch.iter().map(|record| Time(record.head.stamp.time.0 - 1)).min().unwrap_or(limit).min(limit);
    }
    batches.reverse();
    batches
}

#[derive(Default)]
struct Heap {
    queues: Vec<VecDeque<Packet>>,
    heads: BinaryHeap<Reverse<(Time, StreamId)>>,
}

impl Heap {
    fn push(&mut self, record: Packet) {
        let Stamp { time, stream, .. } = record.head.stamp;
        let queue = &mut self.queues[stream.0 as usize];
        if queue.is_empty() {
            self.heads.push(Reverse((time, stream)));
        }
        queue.push_back(record);
    }

    fn release(&mut self, limit: Time, released: &mut Vec<Packet>) {
        while let Some(mut head) = self.heads.peek_mut()
            && head.0.0 <= limit
        {
            let queue = &mut self.queues[head.0.1.0 as usize];
            released.extend(queue.pop_front());
            match queue.front() {
                Some(next) => head.0.0 = next.head.stamp.time,
                None => drop(PeekMut::pop(head)),
            }
        }
    }
}

fn merges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    for (is_shuffled, order) in [(false, "in order"), (true, "shuffled")] {
        for streams in [1, 16, 256, 4096, 65_536] {
            let batches = arrivals(streams, is_shuffled);
            let records: usize = batches.iter().map(|(batch, _)| batch.len()).sum();
            let mut released = Vec::with_capacity(records);
            group.throughput(Throughput::Elements(records as u64));
            let mut bench = |name: &str, take: &mut dyn FnMut(Vec<Batch>, &mut Vec<Packet>)| {
                group.bench_function(BenchmarkId::new(format!("{order}/{name}"), streams), |bench| {
                    bench.iter_batched_ref(
                        || Some(batches.clone()),
                        |batches| {
                            released.clear();
                            take(batches.take().unwrap_or_default(), &mut released);
                            assert_eq!(released.len(), records);
                        },
                        BatchSize::PerIteration,
                    );
                });
            };
            let mut waiting = Waiting::default();
            bench("longrun", &mut |batches, released| {
                for (batch, limit) in batches {
                    batch.into_iter().for_each(|record| waiting.push(record));
                    waiting.release(limit, released);
                }
            });
            let mut heap = Heap { queues: vec![VecDeque::new(); streams], heads: BinaryHeap::new() };
            bench("BinaryHeap", &mut |batches, released| {
                for (batch, limit) in batches {
                    batch.into_iter().for_each(|record| heap.push(record));
                    heap.release(limit, released);
                }
            });
            let mut kept = Vec::new();
            bench("floor (unordered)", &mut |batches, released| {
                for (batch, _) in batches {
                    kept.extend(batch);
                    released.append(&mut kept);
                }
            });
        }
    }
    group.finish();
}

criterion_group!(benches, merges);
criterion_main!(benches);
