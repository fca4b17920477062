//! What giving a stamp costs, and what of it is reading the clock.

use criterion::{Criterion, criterion_group, criterion_main};
use longrun_copy::stamp::Stamper;
use longrun_copy::types::{Epoch, Mono, Now, Seq, StreamId, Time};
use longrun_hal::clock::{Timeline, TimelineConfig};
use std::hint::black_box;

fn stamps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stamp");
    group.bench_function("one stream, time given", |bench| {
        let mut stamper = Stamper::new();
        let stream = stamper.open(StreamId(1), Epoch(1), Seq(1));
        let now = Now { time: Time(1), mono: Mono(1), lease: Time(u64::MAX), error_bound_ns: 0 };
        bench.iter(|| black_box(stamper.stamp(black_box(now), &[stream]).expect("the lease has no end")));
    });
    group.bench_function("fenced clock read", |bench| {
        let config = TimelineConfig { floor_ns: 0, error_bound_ns: 0, slew_ppm_max: 500 };
        let mut reader = Timeline::start(config).reader();
        bench.iter(|| black_box(reader.now_ns()));
    });
    group.bench_function("floor (a counter)", |bench| {
        let mut count = 0u64;
        bench.iter(|| {
            count = black_box(count + 1);
            count
        });
    });
    group.finish();
}

criterion_group!(benches, stamps);
criterion_main!(benches);
