//! The block layer of one core: 4 KiB writes at depth 128 to volumes in memory, as a reactor does it, without hosts'
//! connections. First without a copy; then with one: stamped, kept for their streams, cut into datagrams, which go to a null
//! link, and acknowledged ([`longrun_benches::cores`]). What is counted is the primary's processor time.
//!
//! The floors are the copy into the volume, and with a copy the CRC32C of the block too (plain links), once it is in the cache.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longrun_benches::cores::{BLOCK_BYTES, BLOCKS_ALL, Cores, DEPTH, STRIDE, Setup};
use longrun_benches::processor_time;
use longrun_copy::link::Security;
use longrun_copy::types::Scope;
use longrun_hal::copy::ColdCopies;
use memmap2::{Advice, MmapMut};
use std::cell::{OnceCell, RefCell};
use std::hint::black_box;
use std::time::Duration;

/// Memory as a volume has it: of huge pages where there are any.
fn huge(bytes: usize) -> MmapMut {
    let memory = MmapMut::map_anon(bytes).expect("memory");
    for advice in [Advice::HugePage, Advice::PopulateWrite] {
        memory.advise(advice).expect("a kernel that takes the advice");
    }
    memory
}

/// So many blocks copied to a volume, each from a buffer that was just filled; and their CRC32C if `with_crc`.
fn floor(volume: &mut MmapMut, place: &mut u64, count: u64, with_crc: bool) -> Duration {
    let (payload, mut buffers) = (vec![7_u8; BLOCK_BYTES], vec![2_u8; DEPTH as usize * BLOCK_BYTES]);
    let mut busy = Duration::ZERO;
    for _ in 0..count.div_ceil(DEPTH) {
        for buffer in buffers.chunks_exact_mut(BLOCK_BYTES) {
            buffer.copy_from_slice(black_box(&payload));
        }
        let begun = processor_time();
        let mut copies = ColdCopies::begin();
        for from in buffers.chunks_exact(BLOCK_BYTES) {
            *place = (*place + STRIDE) % BLOCKS_ALL;
            copies.copy(&mut volume[*place as usize * BLOCK_BYTES..][..BLOCK_BYTES], black_box(from));
            if with_crc {
                black_box(crc_fast::crc32_iscsi(black_box(from)));
            }
        }
        drop(copies);
        busy += processor_time() - begun;
    }
    busy.mul_f64(count as f64 / (count.div_ceil(DEPTH) * DEPTH) as f64)
}

/// What the busiest core takes for a write, where a group of scope `pair` is on core 0 and its link on several.
fn on_cores(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cores");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).throughput(Throughput::Elements(1));
    for (security_name, security) in [("plain", Security::None), ("sealed", Security::Noise)] {
        for (name, link_cores) in
            [("one", &[0][..]), ("link on another", &[1]), ("link on both", &[0, 1]), ("link on two others", &[1, 2])]
        {
            let setup = Setup { scope: Scope::Pair, pairs: 16, security, mtu_bytes: 1400, link_cores };
            let cores = OnceCell::new();
            group.bench_function(BenchmarkId::new(security_name, name), |bench| {
                let cores = cores.get_or_init(|| RefCell::new(Cores::new(setup)));
                bench.iter_custom(|count| cores.borrow_mut().write(count));
            });
        }
    }
    group.finish();
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("blocks");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).throughput(Throughput::Elements(1));
    let plain = Setup { scope: Scope::Group, pairs: 1, security: Security::None, mtu_bytes: 1400, link_cores: &[0] };
    let sealed = Setup { security: Security::Noise, ..plain };
    let setups = [
        ("no pair", Setup { pairs: 0, ..plain }),
        ("plain, 1400", plain),
        ("plain, 8952", Setup { mtu_bytes: 8952, ..plain }),
        ("sealed, 1400", sealed),
        ("sealed, 8952", Setup { mtu_bytes: 8952, ..sealed }),
        ("plain, 8952, 16 pairs of scope pair", Setup { scope: Scope::Pair, pairs: 16, mtu_bytes: 8952, ..plain }),
        ("plain, 8952, 16 pairs of scope group", Setup { pairs: 16, mtu_bytes: 8952, ..plain }),
    ];
    for (name, setup) in setups {
        let cores = OnceCell::new();
        group.bench_function(BenchmarkId::new("write", name), |bench| {
            let cores = cores.get_or_init(|| RefCell::new(Cores::new(setup)));
            bench.iter_custom(|count| cores.borrow_mut().write(count));
        });
    }
    let volume = OnceCell::new();
    for (name, with_crc) in [("floor (copy)", false), ("floor (copy and CRC32C)", true)] {
        group.bench_function(name, |bench| {
            let volume = volume.get_or_init(|| RefCell::new((huge(BLOCKS_ALL as usize * BLOCK_BYTES), 0)));
            bench.iter_custom(|count| {
                let (volume, place) = &mut *volume.borrow_mut();
                floor(volume, place, count, with_crc)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, writes, on_cores);
criterion_main!(benches);
