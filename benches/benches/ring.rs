//! What a message costs on its way through a ring, without the other core's caches: both ends are on this core.

use criterion::{Criterion, criterion_group, criterion_main};
use crossbeam_queue::ArrayQueue;
use longrun_hal::ring::ring;
use std::collections::VecDeque;
use std::hint::black_box;

fn through_the_ring(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    group.bench_function("spsc", |bench| {
        let (mut producer, mut consumer) = ring::<u64>(1024);
        bench.iter(|| {
            producer.push(black_box(7)).expect("the ring is empty");
            black_box(consumer.pop())
        });
    });
    group.bench_function("mpmc (ArrayQueue)", |bench| {
        let queue = ArrayQueue::<u64>::new(1024);
        bench.iter(|| {
            queue.push(black_box(7)).expect("the queue is empty");
            black_box(queue.pop())
        });
    });
    group.bench_function("floor (VecDeque)", |bench| {
        let mut queue = VecDeque::<u64>::with_capacity(1024);
        bench.iter(|| {
            queue.push_back(black_box(7));
            black_box(queue.pop_front())
        });
    });
    group.finish();
}

criterion_group!(benches, through_the_ring);
criterion_main!(benches);
