//! Files that are taken away, filled up or stop in the middle, under the device that stands on them.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use longrun_copy::types::Geometry;
use longrun_hal::Fd;
use longrun_hal::uring::Submission;

use crate::catalog::Spec;
use crate::device::Device;
use crate::io::{BdevId, Io, IoError};
use crate::testing::{Rig, SUBMISSIONS, extent};
use crate::uring::UringBdev;

mod table;

const GONE: IoError = IoError::Device { errno: libc::ENODEV };

/// A file of 1 MiB of sevens, and the device on it.
fn on_a_file(directory: &Path, submission: Submission) -> (Rig, BdevId, PathBuf) {
    let path = directory.join("volume");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    let mut rig = Rig::submitting(submission);
    let spec = Spec::Uring { name: "disk".to_owned(), filename: path.clone(), block_size: Some(4096), uuid: None };
    let bdev = rig.create(spec);
    (rig, bdev, path)
}

fn set_len(path: &Path, bytes: u64) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

/// The device on whatever is open.
fn over(fd: impl Into<Fd>) -> (Rig, BdevId) {
    let mut rig = Rig::new();
    let (id, geometry) = (BdevId(0), Geometry { blocks: 256, block_bytes: 4096 });
    let bdev = UringBdev::over(fd.into(), geometry.bytes(), geometry.block_bytes);
    rig.layer.install(Device::new(id, geometry, None, Box::new(bdev)));
    (rig, id)
}

#[test]
fn a_read_that_meets_a_file_s_end_is_enodev_and_gives_its_buffer_back() {
    for (left, submission) in [0, 4096, 5000, 8192 - 512].into_iter().zip(SUBMISSIONS.into_iter().cycle()) {
        let directory = tempfile::tempdir().unwrap();
        let (mut rig, bdev, path) = on_a_file(directory.path(), submission);
        set_len(&path, left);
        let buf = rig.arena.alloc(8192).unwrap();
        let origin = rig.submit(bdev, Io::Read { extent: extent(0, 2), buf });
        let done = rig.wait(origin);
        assert_eq!(done.result, Err(GONE), "{left} bytes were left");
        assert_eq!(done.buf.map(|buf| buf.len()), Some(8192));
        assert_eq!(rig.layer.stats(bdev).unwrap().failed_ops, 1);
    }
}

#[test]
fn a_file_that_became_shorter_fails_everything_from_then_on_also_when_it_is_long_again() {
    for (by_flush, submission) in
        [true, false].into_iter().flat_map(|by| SUBMISSIONS.map(|submission| (by, submission)))
    {
        let directory = tempfile::tempdir().unwrap();
        let (mut rig, bdev, path) = on_a_file(directory.path(), submission);
        rig.write(bdev, extent(3, 1), 9).unwrap();
        set_len(&path, 4096);
        if by_flush {
            assert_eq!(rig.run(bdev, Io::Flush).unwrap_err(), GONE, "what was written before is not there any more");
        } else {
            rig.advance(1_000_000_000);
            rig.settle();
        }
        set_len(&path, 1 << 20);
        assert_eq!(rig.read(bdev, extent(3, 1)), Err(GONE), "zeroes that nobody wrote");
        assert_eq!(rig.write(bdev, extent(3, 1), 1), Err(GONE));
        assert_eq!(rig.run(bdev, Io::Unmap { extent: extent(0, 1) }).unwrap_err(), GONE);
        assert_eq!(rig.run(bdev, Io::Flush).unwrap_err(), GONE);
        assert_eq!(rig.layer.in_flight(bdev), 0);
    }
}

#[test]
fn a_file_that_became_shorter_is_found_out_on_the_core_to_which_it_was_moved() {
    for submission in SUBMISSIONS {
        let directory = tempfile::tempdir().unwrap();
        let (mut before, bdev, path) = on_a_file(directory.path(), submission.clone());
        before.write(bdev, extent(3, 1), 9).unwrap();
        let mut rig = Rig::submitting(submission);
        rig.layer.install(before.layer.take(bdev).unwrap());
        set_len(&path, 4096);
        before.advance(1_000_000_000);
        rig.advance(1_000_000_000);
        rig.settle();
        set_len(&path, 1 << 20);
        assert_eq!(rig.read(bdev, extent(3, 1)), Err(GONE));
    }
}

#[test]
fn a_durable_write_is_not_answered_as_done_on_a_file_that_became_shorter() {
    for submission in SUBMISSIONS {
        let directory = tempfile::tempdir().unwrap();
        let (mut rig, bdev, path) = on_a_file(directory.path(), submission);
        let write = |rig: &mut Rig| Io::Write {
            extent: extent(0, 1),
            data: rig.arena.alloc(4096).unwrap().freeze(),
            fua: true,
        };
        let durable = write(&mut rig);
        rig.run(bdev, durable).unwrap();
        set_len(&path, 4096);
        let late = write(&mut rig);
        assert_eq!(rig.run(bdev, late).unwrap_err(), GONE);
    }
}

#[test]
fn a_deleted_file_still_gives_what_it_holds_and_takes_nothing() {
    for submission in SUBMISSIONS {
        let directory = tempfile::tempdir().unwrap();
        let (mut rig, bdev, path) = on_a_file(directory.path(), submission);
        rig.write(bdev, extent(3, 1), 9).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(rig.run(bdev, Io::Flush).unwrap_err(), GONE, "what was written is gone with the process");
        assert_eq!(rig.write(bdev, extent(3, 1), 1), Err(GONE));
        assert_eq!(rig.read(bdev, extent(3, 1)).unwrap(), vec![9; 4096]);
    }
}

#[test]
fn a_full_medium_is_enospc() {
    let (mut rig, bdev) = over(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    assert_eq!(rig.write(bdev, extent(3, 1), 1), Err(IoError::Device { errno: libc::ENOSPC }));
}

#[test]
fn a_transfer_that_ends_early_goes_on_where_it_stopped() {
    // A pipe takes and gives as much as it has room for, and no more at once.
    let (mut out, into) = std::io::pipe().unwrap();
    let (mut rig, bdev) = over(std::os::fd::OwnedFd::from(into));
    let sent: Vec<u8> = (0..1 << 19).map(|at| (at / 4096) as u8).collect();
    let reader = std::thread::spawn(move || {
        let mut received = vec![0; 1 << 19];
        out.read_exact(&mut received).unwrap();
        received
    });
    let mut buf = rig.arena.alloc(1 << 19).unwrap();
    buf.copy_from_slice(&sent);
    rig.run(bdev, Io::Write { extent: extent(0, 128), data: buf.freeze(), fua: false }).unwrap();
    assert!(reader.join().unwrap() == sent, "each byte once and in order");

    let (out, mut into) = std::io::pipe().unwrap();
    let (mut rig, bdev) = over(std::os::fd::OwnedFd::from(out));
    let given = sent.clone();
    let writer = std::thread::spawn(move || into.write_all(&given).unwrap());
    assert!(rig.read(bdev, extent(0, 128)).unwrap() == sent);
    writer.join().unwrap();
}

#[test]
fn an_error_behind_the_first_part_of_a_transfer_is_told_as_what_it_is() {
    // The part that the pipe takes is all; then nobody reads any more.
    let (out, into) = std::io::pipe().unwrap();
    let (mut rig, bdev) = over(std::os::fd::OwnedFd::from(into));
    let buf = rig.arena.alloc(1 << 19).unwrap();
    let origin = rig.submit(bdev, Io::Write { extent: extent(0, 128), data: buf.freeze(), fua: false });
    let reader = std::thread::spawn(move || {
        let mut out = File::from(std::os::fd::OwnedFd::from(out));
        out.read_exact(&mut [0; 4096]).unwrap();
    });
    let done = rig.wait(origin);
    reader.join().unwrap();
    assert_eq!(done.result, Err(IoError::Device { errno: libc::EPIPE }));
}
