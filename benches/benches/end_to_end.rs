//! One write of 4 KiB from a host's request until the secondary has said that it is durable: both engines, all that they do
//! of it, on one core, with volumes, journal and network in memory. The time of the system calls and devices is not in it.
//!
//! The floor is what no design avoids: one copy of the block to each volume, into and out of the datagram, and into the journal.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longrun_benches::systems::{BLOCK_BYTES, Setup, Systems};
use longrun_copy::link::Security;
use longrun_copy::types::Scope;
use std::cell::{OnceCell, RefCell};
use std::hint::black_box;
use std::time::Duration;

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("end_to_end");
    group.sample_size(20).measurement_time(Duration::from_secs(3)).throughput(Throughput::Elements(1));
    let setups = [
        ("plain", Setup { scope: Scope::Group, pairs: 1, security: Security::None }),
        ("sealed", Setup { scope: Scope::Group, pairs: 1, security: Security::Noise }),
        ("plain, 16 streams", Setup { scope: Scope::Pair, pairs: 16, security: Security::None }),
        ("plain, 256 streams", Setup { scope: Scope::Pair, pairs: 256, security: Security::None }),
    ];
    for (name, setup) in setups {
        let systems = OnceCell::new();
        let cost_of = |writes| systems.get_or_init(|| RefCell::new(Systems::new(setup))).borrow_mut().write(writes);
        group.bench_function(BenchmarkId::new("primary", name), |bench| {
            bench.iter_custom(|writes| cost_of(writes).primary);
        });
        group.bench_function(BenchmarkId::new("secondary", name), |bench| {
            bench.iter_custom(|writes| cost_of(writes).secondary);
        });
    }
    group.bench_function("floor (five copies)", |bench| {
        let mut places = vec![vec![7_u8; 64 << 20]; 6];
        let mut at = 0;
        bench.iter(|| {
            at = (at + 7919 * BLOCK_BYTES) % (64 << 20);
            for index in 0..5 {
                let [from, to] = &mut places[index..index + 2] else { unreachable!("six places") };
                to[at..at + BLOCK_BYTES].copy_from_slice(black_box(&from[at..at + BLOCK_BYTES]));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, writes);
criterion_main!(benches);
