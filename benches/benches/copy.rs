//! A block on its way into a volume in memory: from a buffer that was just received to a place that nothing has touched for long.
//! The floor is what the processor does if it is only told to copy.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longrun_hal::copy::ColdCopies;
use memmap2::{Advice, MmapMut};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

const VOLUME_BYTES: usize = 256 << 20;
/// Buffers that are written in turn, as by a queue that is deep; they stay in the cache.
const BUFFERS_BYTES: usize = 512 << 10;

/// Memory as a volume has it: of huge pages where there are any.
fn huge(bytes: usize) -> MmapMut {
    let memory = MmapMut::map_anon(bytes).expect("memory");
    for advice in [Advice::HugePage, Advice::PopulateWrite] {
        memory.advise(advice).expect("a kernel that takes the advice");
    }
    memory
}

fn into_a_volume(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("copy");
    let given_back = AtomicU32::new(0);
    let (mut volume, buffers) = (huge(VOLUME_BYTES), vec![2_u8; BUFFERS_BYTES]);
    for block_bytes in [4 << 10, 128 << 10] {
        group.throughput(Throughput::Bytes(block_bytes as u64));
        let (mut place, mut buffer) = (0, 0);
        let mut next = || {
            // A stride that is odd in blocks: every block, no two after one another.
            place = (place + 6151 * block_bytes) % VOLUME_BYTES;
            buffer = (buffer + block_bytes) % BUFFERS_BYTES;
            (place..place + block_bytes, buffer..buffer + block_bytes)
        };
        for together in [1, 32] {
            let mut copies = ColdCopies::begin();
            let mut copied = 0;
            group.bench_function(
                BenchmarkId::new(format!("past the cache, {together} together"), block_bytes),
                |bench| {
                    bench.iter(|| {
                        let (to, from) = next();
                        copies.copy(&mut volume[to], black_box(&buffers[from]));
                        copied += 1;
                        if copied % together == 0 {
                            copies = ColdCopies::begin();
                            // As a buffer's count is changed; it waits for what was copied.
                            given_back.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                },
            );
        }
        group.bench_function(BenchmarkId::new("floor (copy_from_slice)", block_bytes), |bench| {
            bench.iter(|| {
                let (to, from) = next();
                volume[to].copy_from_slice(black_box(&buffers[from]));
                given_back.fetch_add(1, Ordering::Relaxed);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, into_a_volume);
criterion_main!(benches);
