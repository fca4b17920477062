use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use longrun_hal::{Buf, Shared};
use proptest::prelude::*;

use super::*;
use crate::catalog::Spec;
use crate::delay::Latencies;
use crate::error::{Fault, Injection};
use crate::testing::{Rig, extent, malloc};

/// A request of a random history.
#[derive(Clone, Debug)]
enum Step {
    Read { lba: u64, blocks: u32 },
    Write { lba: u64, blocks: u32, fua: bool, misaligned: bool },
    WriteZeroes { lba: u64, blocks: u32, fua: bool },
    Unmap { lba: u64, blocks: u32 },
    Flush,
}

fn steps(volume_blocks: u64, count: usize) -> impl Strategy<Value = Vec<Step>> {
    // Long runs, so that whole units of 16 KiB come and go.
    let place = (0..volume_blocks, 1..=volume_blocks as u32)
        .prop_map(move |(lba, blocks)| (lba, blocks.min((volume_blocks - lba) as u32)));
    let step = (place, any::<[bool; 2]>(), 0..9u8).prop_map(|((lba, blocks), [fua, misaligned], kind)| match kind {
        0..3 => Step::Read { lba, blocks },
        3..6 => Step::Write { lba, blocks, fua, misaligned },
        6 => Step::WriteZeroes { lba, blocks, fua },
        7 => Step::Unmap { lba, blocks },
        _ => Step::Flush,
    });
    proptest::collection::vec(step, 1..count)
}

/// Plays a history on a device and on a plain array, and compares every read and the end.
fn compare_with_model(rig: &mut Rig, bdev: BdevId, forgets: bool, steps: &[Step]) {
    let geometry = rig.layer.geometry(bdev).unwrap();
    let block = geometry.block_bytes as usize;
    let mut model = vec![0u8; geometry.bytes() as usize];
    let range = |lba: u64, blocks: u32| lba as usize * block..(lba as usize + blocks as usize) * block;
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Read { lba, blocks } => {
                assert_eq!(rig.read(bdev, extent(lba, blocks)).unwrap(), model[range(lba, blocks)], "step {number}");
            }
            Step::Write { lba, blocks, fua, misaligned } => {
                let len = blocks as usize * block;
                let skip = if misaligned { 8 } else { 0 };
                let mut buf = rig.arena.alloc(len + skip).unwrap();
                for (at, byte) in buf.iter_mut().enumerate() {
                    *byte = (number * 31 + at / 512) as u8 | 1;
                }
                let data = buf.freeze().slice(skip..);
                if !forgets {
                    model[range(lba, blocks)].copy_from_slice(&data);
                }
                rig.run(bdev, Io::Write { extent: extent(lba, blocks), data, fua }).unwrap();
            }
            Step::WriteZeroes { lba, blocks, fua } => {
                model[range(lba, blocks)].fill(0);
                rig.run(bdev, Io::WriteZeroes { extent: extent(lba, blocks), fua }).unwrap();
            }
            Step::Unmap { lba, blocks } => {
                model[range(lba, blocks)].fill(0);
                rig.run(bdev, Io::Unmap { extent: extent(lba, blocks) }).unwrap();
            }
            Step::Flush => drop(rig.run(bdev, Io::Flush).unwrap()),
        }
    }
    let all = extent(0, geometry.blocks as u32);
    assert_eq!(rig.read(bdev, all).unwrap(), model);
    assert_eq!(rig.layer.in_flight(bdev), 0);
}

fn file_of(directory: &Path, bytes: u64) -> PathBuf {
    let path = directory.join("volume");
    std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

fn uring(filename: PathBuf, block_size: Option<u32>) -> Spec {
    Spec::Uring { name: "disk".to_owned(), filename, block_size, uuid: None }
}

/// 5 units of 16 KiB and a part of one.
const VOLUME_BYTES: u64 = 5 * 16384 + 8192;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_malloc_bdev_is_an_array_of_512_byte_blocks(steps in steps(VOLUME_BYTES / 512, 60)) {
        let mut rig = Rig::new();
        let bdev = rig.create(malloc("m", VOLUME_BYTES / 512, 512));
        compare_with_model(&mut rig, bdev, false, &steps);
    }

    #[test]
    fn a_malloc_bdev_is_an_array_of_4096_byte_blocks(steps in steps(VOLUME_BYTES / 4096, 60)) {
        let mut rig = Rig::new();
        let bdev = rig.create(malloc("m", VOLUME_BYTES / 4096, 4096));
        compare_with_model(&mut rig, bdev, false, &steps);
    }

    #[test]
    fn a_null_bdev_reads_zeroes_and_forgets(steps in steps(64, 20)) {
        let mut rig = Rig::new();
        let bdev = rig.create(Spec::Null { name: "n".to_owned(), num_blocks: 64, block_size: 512, uuid: None });
        compare_with_model(&mut rig, bdev, true, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_file_is_an_array_of_512_byte_blocks(steps in steps(VOLUME_BYTES / 512, 30)) {
        let directory = tempfile::tempdir().unwrap();
        let mut rig = Rig::new();
        let bdev = rig.create(uring(file_of(directory.path(), VOLUME_BYTES), None));
        prop_assert_eq!(rig.layer.geometry(bdev).unwrap().block_bytes, 512);
        compare_with_model(&mut rig, bdev, false, &steps);
    }

    #[test]
    fn a_file_is_an_array_of_4096_byte_blocks(steps in steps(VOLUME_BYTES / 4096, 30)) {
        let directory = tempfile::tempdir().unwrap();
        let mut rig = Rig::new();
        let bdev = rig.create(uring(file_of(directory.path(), VOLUME_BYTES), Some(4096)));
        compare_with_model(&mut rig, bdev, false, &steps);
    }

    /// tmpfs can punch holes but not zero ranges.
    #[test]
    fn a_medium_that_cannot_zero_ranges_is_written_zeroes(steps in steps(VOLUME_BYTES / 4096, 30)) {
        let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return Ok(()) };
        let mut rig = Rig::new();
        let bdev = rig.create(uring(file_of(directory.path(), VOLUME_BYTES), Some(4096)));
        compare_with_model(&mut rig, bdev, false, &steps);
    }

    #[test]
    fn a_stack_of_delay_on_error_on_malloc_passes_everything_through(steps in steps(VOLUME_BYTES / 4096, 30)) {
        let mut rig = Rig::new();
        rig.create(malloc("m", VOLUME_BYTES / 4096, 4096));
        rig.create(Spec::Error { base_name: "m".to_owned(), uuid: None });
        let bdev = rig.create(delay("EE_m", Latencies::default()));
        compare_with_model(&mut rig, bdev, false, &steps);
    }
}

fn delay(base: &str, latencies: Latencies) -> Spec {
    Spec::Delay { name: "slow".to_owned(), base_bdev_name: base.to_owned(), latencies, uuid: None }
}

#[test]
fn the_bytes_on_a_file_are_the_bytes_written_and_unmap_gives_its_blocks_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = file_of(directory.path(), 0);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(&vec![7; 1 << 20]).unwrap();
    let mut rig = Rig::new();
    let bdev = rig.create(uring(path.clone(), Some(4096)));
    assert_eq!(rig.read(bdev, extent(3, 1)).unwrap(), vec![7; 4096]);
    rig.write(bdev, extent(1, 2), 9).unwrap();
    rig.run(bdev, Io::Flush).unwrap();
    let before = std::fs::metadata(&path).unwrap().blocks();
    rig.run(bdev, Io::Unmap { extent: extent(128, 128) }).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[4096..12288], [9; 8192]);
    assert_eq!(bytes[12288..524288], [7; 511 * 1024 + 1024 - 12288]);
    assert_eq!(bytes[524288..], [0; 524288]);
    assert!(std::fs::metadata(&path).unwrap().blocks() < before, "no block was given back");
}

#[test]
fn many_requests_on_a_file_end_each_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::new();
    let bdev = rig.create(uring(file_of(directory.path(), 1 << 20), Some(4096)));
    let mut waiting: Vec<u64> = (0..256)
        .map(|lba| {
            let mut buf = rig.arena.alloc(4096).unwrap();
            buf.fill(lba as u8);
            rig.submit(bdev, Io::Write { extent: extent(lba, 1), data: buf.freeze(), fua: lba % 7 == 0 })
        })
        .collect();
    assert_eq!(rig.layer.in_flight(bdev), 256);
    for origin in waiting.drain(..) {
        rig.wait(origin).result.unwrap();
    }
    for lba in 0..256 {
        assert_eq!(rig.read(bdev, extent(lba, 1)).unwrap(), vec![lba as u8; 4096]);
    }
    assert_eq!(rig.layer.stats(bdev).unwrap().of(IoType::Write).ops, 256);
    assert_eq!(rig.layer.stray_completions(), 0);
}

#[test]
fn a_read_into_memory_that_direct_io_cannot_take_is_copied_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::new();
    let bdev = rig.create(uring(file_of(directory.path(), 1 << 20), Some(4096)));
    rig.write(bdev, extent(5, 1), 3).unwrap();
    // A view that begins at an odd address.
    let mut odd = Shared::from(vec![0; 8192]);
    let skip = (0..64).find(|skip| !(odd.as_ptr().addr() + skip).is_multiple_of(512)).unwrap();
    odd = odd.slice(skip..skip + 4096);
    let buf = odd.try_into_buf().unwrap();
    let address = buf.as_ptr().addr();
    let back = rig.run(bdev, Io::Read { extent: extent(5, 1), buf }).unwrap().unwrap();
    assert_eq!(back.as_ptr().addr(), address);
    assert_eq!(back[..], [3; 4096]);
}

#[test]
fn a_request_that_does_not_fit_is_refused_with_its_buffer() {
    let mut rig = Rig::new();
    let bdev = rig.create(malloc("m", 8, 4096));
    for (at, len) in [(extent(7, 2), 8192), (extent(0, 0), 0), (extent(u64::MAX, 2), 8192)] {
        let origin = rig.submit(bdev, Io::Read { extent: at, buf: Buf::from_vec(vec![0; len]) });
        let done = rig.wait(origin);
        let expected = IoError::OutOfRange { lba: at.lba, blocks: at.blocks, volume_blocks: 8 };
        assert_eq!(done.result, Err(expected));
        assert_eq!(done.buf.unwrap().len(), len);
    }
    let data = Shared::from(vec![0; 4095]);
    let refused = rig.run(bdev, Io::Write { extent: extent(0, 1), data, fua: false });
    assert_eq!(refused.unwrap_err(), IoError::BufferLength { given_bytes: 4095, expected_bytes: 4096 });
    let gone = rig.run(BdevId(77), Io::Read { extent: extent(0, 1), buf: Buf::from_vec(vec![0; 4096]) });
    assert_eq!(gone.unwrap_err(), IoError::NoBdev);
    assert_eq!(rig.layer.stats(bdev).unwrap().failed_ops, 4);
}

fn injection(io_type: Option<IoType>, fault: Fault, count: u32) -> Control {
    Control::Inject(Injection { io_type, fault, count })
}

#[test]
fn injected_errors_meet_their_kind_as_often_as_asked_and_spare_the_base() {
    let mut rig = Rig::new();
    let base = rig.create(malloc("m", 8, 4096));
    let top = rig.create(Spec::Error { base_name: "m".to_owned(), uuid: None });
    rig.write(top, extent(0, 1), 1).unwrap();
    rig.control(top, injection(Some(IoType::Write), Fault::Failure, 2)).unwrap();
    for _ in 0..2 {
        assert_eq!(rig.read(top, extent(0, 1)).unwrap(), vec![1; 4096]);
        assert_eq!(rig.write(top, extent(0, 1), 2), Err(IoError::Device { errno: libc::EIO }));
    }
    assert_eq!(rig.read(top, extent(0, 1)).unwrap(), vec![1; 4096]);
    rig.write(top, extent(0, 1), 3).unwrap();
    rig.control(top, injection(None, Fault::NoMemory, 3)).unwrap();
    assert_eq!(rig.read(top, extent(0, 1)), Err(IoError::NoMemory));
    assert_eq!(rig.run(top, Io::Flush).unwrap_err(), IoError::NoMemory);
    assert_eq!(rig.run(top, Io::Unmap { extent: extent(0, 1) }).unwrap_err(), IoError::NoMemory);
    assert_eq!(rig.read(top, extent(0, 1)).unwrap(), vec![3; 4096]);
    assert_eq!(rig.layer.stats(base).unwrap().failed_ops, 0);
    assert_eq!(rig.layer.stats(top).unwrap().failed_ops, 5);
    assert_eq!(rig.control(base, injection(None, Fault::Failure, 1)), Err(ControlError::NotAnErrorBdev));
}

#[test]
fn a_pending_request_ends_when_injections_are_cleared() {
    let mut rig = Rig::new();
    rig.create(malloc("m", 8, 4096));
    let top = rig.create(Spec::Error { base_name: "m".to_owned(), uuid: None });
    rig.control(top, injection(Some(IoType::Read), Fault::Pending, 1)).unwrap();
    let buf = rig.arena.alloc(4096).unwrap();
    let origin = rig.submit(top, Io::Read { extent: extent(0, 1), buf });
    assert_eq!(rig.advance(1 << 40), Vec::<u64>::new());
    assert_eq!(rig.layer.in_flight(top), 1);
    assert_eq!(rig.layer.take(top).unwrap_err(), TakeError::Busy { in_flight: 1 });
    rig.control(top, Control::ClearInjections).unwrap();
    let done = rig.wait(origin);
    assert_eq!(done.result, Err(IoError::Aborted));
    assert!(done.buf.is_some());
    rig.read(top, extent(0, 1)).unwrap();
}

#[test]
fn a_delayed_request_ends_when_its_time_has_come_and_every_hundredth_later() {
    let mut rig = Rig::new();
    rig.create(malloc("m", 8, 4096));
    let latencies = Latencies { avg_read_us: 10, p99_read_us: 50, avg_write_us: 20, p99_write_us: 20 };
    let slow = rig.create(delay("m", latencies));
    let read = |rig: &mut Rig| {
        let buf = rig.arena.alloc(4096).unwrap();
        rig.submit(slow, Io::Read { extent: extent(0, 1), buf })
    };
    for number in 1..=200 {
        let origin = read(&mut rig);
        let due_us = if number % 100 == 0 { 50 } else { 10 };
        assert_eq!(rig.layer.next_timeout(), Some(rig.now.after_ns(due_us * 1000)), "read {number}");
        assert_eq!(rig.advance(due_us * 1000 - 1), Vec::<u64>::new());
        assert_eq!(rig.advance(1), [origin]);
        assert_eq!(rig.layer.next_timeout(), None);
    }
    let flush = rig.submit(slow, Io::Flush);
    let reads = [read(&mut rig), read(&mut rig)];
    assert_eq!(rig.advance(10_000), reads);
    assert_eq!(rig.advance(10_000), [flush]);
    let stats = rig.layer.stats(slow).unwrap();
    assert_eq!(stats.of(IoType::Read).latency_ns_min, 10_000);
    assert_eq!(stats.of(IoType::Read).latency_ns_max, 50_000);
    assert_eq!(stats.of(IoType::Read).latency_ns, 202 * 10_000 + 2 * 40_000);
}

#[test]
fn counters_count_each_kind_with_its_bytes_and_are_set_to_zero_on_demand() {
    let mut rig = Rig::new();
    let bdev = rig.create(malloc("m", 64, 512));
    rig.write(bdev, extent(0, 8), 1).unwrap();
    rig.write(bdev, extent(0, 1), 1).unwrap();
    rig.read(bdev, extent(0, 4)).unwrap();
    rig.run(bdev, Io::Unmap { extent: extent(0, 64) }).unwrap();
    rig.run(bdev, Io::WriteZeroes { extent: extent(0, 2), fua: true }).unwrap();
    rig.run(bdev, Io::Flush).unwrap();
    let stats = rig.layer.stats(bdev).unwrap();
    let counted = IoType::ALL.map(|io_type| (stats.of(io_type).ops, stats.of(io_type).bytes));
    assert_eq!(counted, [(1, 2048), (2, 4608), (1, 1024), (1, 32768), (1, 0)]);
    rig.layer.reset_stats(bdev, ResetMode::MaxMin);
    assert_eq!(rig.layer.stats(bdev).unwrap().of(IoType::Write).ops, 2);
    rig.layer.reset_stats(bdev, ResetMode::All);
    assert_eq!(rig.layer.stats(bdev), Some(BdevStats::default()));
}

#[test]
fn a_stack_moves_to_another_core_with_its_data_and_counters() {
    let mut rig = Rig::new();
    let base = rig.create(malloc("m", 8, 4096));
    let top = rig.create(Spec::Error { base_name: "m".to_owned(), uuid: None });
    rig.write(top, extent(2, 1), 5).unwrap();
    rig.control(top, injection(Some(IoType::Write), Fault::Failure, 1)).unwrap();
    assert_eq!(rig.layer.take(base).unwrap_err(), TakeError::Base { above: top });
    assert_eq!(rig.layer.take_stack(base).unwrap_err(), TakeError::Base { above: top });
    let stack = rig.layer.take_stack(top).unwrap();
    assert_eq!(rig.layer.take(top).unwrap_err(), TakeError::NoBdev);
    let (stats, read, write) = std::thread::spawn(move || {
        let mut other = Rig::new();
        for device in stack {
            other.layer.install(device);
        }
        let write = other.write(top, extent(2, 1), 6);
        (other.layer.stats(base).unwrap(), other.read(top, extent(2, 1)).unwrap(), write)
    })
    .join()
    .unwrap();
    assert_eq!(stats.of(IoType::Write).ops, 1);
    assert_eq!(read, vec![5; 4096]);
    assert_eq!(write, Err(IoError::Device { errno: libc::EIO }));
}

#[test]
fn a_request_without_memory_for_its_copy_is_refused_not_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::new();
    let bdev = rig.create(uring(file_of(directory.path(), 1 << 20), Some(4096)));
    let hoard: Vec<_> = std::iter::from_fn(|| rig.arena.alloc(4096)).collect();
    let odd = Shared::from(vec![1; 4096 + 64]);
    let skip = (0..64).find(|skip| !(odd.as_ptr().addr() + skip).is_multiple_of(512)).unwrap();
    let data = odd.slice(skip..skip + 4096);
    let write = |data: Shared| Io::Write { extent: extent(0, 1), data, fua: false };
    assert_eq!(rig.run(bdev, write(data.clone())).unwrap_err(), IoError::NoMemory);
    drop(hoard);
    rig.run(bdev, write(data)).unwrap();
    assert_eq!(rig.read(bdev, extent(0, 1)).unwrap(), vec![1; 4096]);
}

#[test]
fn writes_to_memory_are_done_with_their_batch_or_when_that_is_long() {
    let mut rig = Rig::new();
    let bdev = rig.create(malloc("m", 256, 4096));
    let write = |rig: &mut Rig, lba: u64, byte: u8| {
        let mut buf = rig.arena.alloc(4096).unwrap();
        buf.fill(byte);
        rig.submit_of_batch(bdev, Io::Write { extent: extent(lba, 1), data: buf.freeze(), fua: false })
    };
    let batch: Vec<u64> = (0..10).map(|lba| write(&mut rig, lba % 9, lba as u8 + 1)).collect();
    assert!(rig.ended.is_empty() && rig.layer.is_unsettled() && rig.layer.in_flight(bdev) == 10);
    rig.collect();
    assert!(rig.ended.drain(..).map(|done| done.origin).eq(batch), "in their order, which the last one counts on");
    assert!(!rig.layer.is_unsettled() && rig.layer.in_flight(bdev) == 0);
    let blocks = rig.read(bdev, extent(0, 9)).unwrap();
    assert!(blocks.chunks(4096).map(|block| block[77]).eq([10, 2, 3, 4, 5, 6, 7, 8, 9]));
    // 256 KiB are 64 of them.
    for lba in 0..63 {
        write(&mut rig, lba, 100);
    }
    assert!(rig.ended.is_empty());
    write(&mut rig, 63, 100);
    assert_eq!(rig.ended.len(), 64);
    write(&mut rig, 64, 100);
    assert_eq!(rig.ended.len(), 64);
    rig.collect();
    assert_eq!(rig.ended.drain(..).count(), 65);
    assert_eq!(rig.read(bdev, extent(0, 65)).unwrap(), vec![100; 65 * 4096]);
}
