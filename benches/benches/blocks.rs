//! The block layer of one core: 4 KiB writes at depth 128 to a volume in memory, as a reactor does it, without hosts and
//! network. What a pair adds (stamps, streams, frames) is `primary` in bench `end_to_end`.
//!
//! The floor is the copy into the volume.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use longrun_bdev::catalog::{Catalog, Spec};
use longrun_bdev::{Core, Io};
use longrun_copy::engine::EngineConfig;
use longrun_copy::link::public_of;
use longrun_copy::primary::PrimaryConfig;
use longrun_copy::secondary::SecondaryConfig;
use longrun_copy::types::{Extent, Mono, Now, SystemId, Time};
use longrun_hal::clock::{mono_ns, wall_ns};
use longrun_hal::copy::copy_cold;
use longrun_hal::{Arena, ArenaConfig, Uring, UringConfig};
use memmap2::{Advice, MmapMut};
use std::collections::BTreeMap;
use std::hint::black_box;

const BLOCK_BYTES: usize = 4096;
const BLOCKS: u64 = 64 << 10;
const DEPTH: u64 = 128;
/// From one write to the next: odd, so that every block comes, and far, so that none is in the cache.
const STRIDE: u64 = 6151;

fn now() -> Now {
    let time = Time(wall_ns());
    Now { time, mono: Mono(mono_ns()), lease: time.after_ns(10_000_000_000), error_bound_ns: 0 }
}

/// Memory as a volume has it: of huge pages where there are any.
fn huge(bytes: usize) -> MmapMut {
    let memory = MmapMut::map_anon(bytes).expect("memory");
    for advice in [Advice::HugePage, Advice::PopulateWrite] {
        memory.advise(advice).expect("a kernel that takes the advice");
    }
    memory
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("blocks");
    group.throughput(Throughput::Elements(DEPTH));
    group.bench_function("writes, depth 128", |bench| {
        let arena = Arena::new(ArenaConfig::new(64 << 20)).expect("memory for an arena");
        let primary = PrimaryConfig::new(SystemId::of_key(&public_of(&[7; 32])));
        let secondary = SecondaryConfig { receive_bytes: 16 << 20, streams_max: 1, ..SecondaryConfig::default() };
        let mut core = Core::new(arena, EngineConfig { primary, secondary, seed: [7; 32] }, BTreeMap::new());
        let mut uring = Uring::new(UringConfig::with_entries(256), None).expect("a ring");
        let (name, block_size) = (Some("volume".to_owned()), BLOCK_BYTES as u32);
        let spec = Spec::Malloc { name, num_blocks: BLOCKS, block_size, uuid: None };
        let volume = Catalog::new().create(spec, 0).expect("memory for a volume").device;
        let bdev = volume.id();
        core.install(volume);
        let (mut place, mut ended) = (0, Vec::new());
        bench.iter(|| {
            let now = now();
            for origin in 0..DEPTH {
                place = (place + STRIDE) % BLOCKS;
                let data = core.arena().alloc(BLOCK_BYTES).expect("as much as the depth takes").freeze();
                let io = Io::Write { extent: Extent { lba: place, blocks: 1 }, data, fua: false };
                core.submit(now, &mut uring, bdev, io, origin);
            }
            core.turn(now, &mut uring);
            core.drain(&mut ended);
            assert_eq!(ended.len() as u64, DEPTH);
            ended.clear();
        });
    });
    group.bench_function("floor (copies)", |bench| {
        let (mut volume, buffers) = (huge(BLOCKS as usize * BLOCK_BYTES), vec![2_u8; DEPTH as usize * BLOCK_BYTES]);
        let mut place = 0;
        bench.iter(|| {
            for from in buffers.chunks_exact(BLOCK_BYTES) {
                place = (place + STRIDE) % BLOCKS;
                copy_cold(&mut volume[place as usize * BLOCK_BYTES..][..BLOCK_BYTES], black_box(from));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, writes);
criterion_main!(benches);
