//! Files and block devices opened for direct I/O, with what a block device on top needs to know of them. Blocking calls:
//! for the control plane.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::fd::Fd;

/// Why a file or device could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    #[error("{path}: {what} failed ({source}); {advice}")]
    Os { path: PathBuf, what: &'static str, advice: &'static str, source: io::Error },
    #[error("{path} is neither a regular file nor a block device; give one of these")]
    NotADisk { path: PathBuf },
}

/// An open medium and its properties.
#[derive(Debug)]
pub struct DirectFile {
    pub fd: Fd,
    pub bytes: u64,
    /// Offsets, lengths and memory addresses of direct I/O must be multiples of this: a power of two from 512 to 4096.
    pub logical_block_bytes: u32,
    pub is_block_device: bool,
    /// Can ranges be deallocated (punch hole on a file, discard on a device)?
    pub can_discard: bool,
    /// Is the page cache bypassed? False where the file system cannot, with a [`notice`](DirectFile::notice).
    pub direct: bool,
    /// A sentence for the operator.
    pub notice: Option<String>,
}

/// `_IO(0x12, 119)` of linux/fs.h.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// Opens an existing file or block device for reading and writing with O_DIRECT. A block device is opened exclusively: one
/// that is mounted or otherwise in use is refused.
pub fn open_direct(path: &Path) -> Result<DirectFile, FileError> {
    let metadata =
        std::fs::metadata(path).map_err(os(path, "looking it up", "does it exist, and may this process see it?"))?;
    let is_block_device = metadata.file_type().is_block_device();
    if !metadata.is_file() && !is_block_device {
        return Err(FileError::NotADisk { path: path.into() });
    }
    open(path, is_block_device, OpenOptions::new().read(true).write(true))
}

/// Makes a regular file of `bytes` with all its blocks allocated and readable as zeroes, and opens it as
/// [`open_direct`] does; fails if it exists.
pub fn create_direct(path: &Path, bytes: u64) -> Result<DirectFile, FileError> {
    let advice = "it must not exist yet, and its directory must be there and writable";
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(os(
        path,
        "making the file",
        advice,
    ))?;
    let allocated = libc::off_t::try_from(bytes)
        .map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
        // SAFETY: works on a descriptor that we hold; touches no memory of ours.
        .and_then(|len| match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len) } {
            _ if len == 0 => Ok(()),
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        })
        .and_then(|()| file.sync_all());
    if let Err(source) = allocated {
        // Half a file of ours helps nobody; that it was there is in the error.
        drop(std::fs::remove_file(path));
        let advice = "is there room on its file system? The half-made file was removed";
        return Err(os(path, "allocating its blocks", advice)(source));
    }
    open(path, false, OpenOptions::new().read(true).write(true))
}

fn open(path: &Path, is_block_device: bool, options: &mut OpenOptions) -> Result<DirectFile, FileError> {
    let exclusive = if is_block_device { libc::O_EXCL } else { 0 };
    let advice = "is it in use (mounted, claimed by another program), or not writable for this process?";
    let (file, direct, notice) = match options.custom_flags(libc::O_DIRECT | exclusive).open(path) {
        Ok(file) => (file, true, None),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let file = options.custom_flags(exclusive).open(path).map_err(os(path, "opening", advice))?;
            let notice = format!(
                "{} goes through the page cache, since its file system has no direct I/O: expect copies and uneven latency",
                path.display()
            );
            (file, false, Some(notice))
        }
        Err(error) => return Err(os(path, "opening", advice)(error)),
    };
    let advice = "is the medium there and healthy?";
    let bytes = size(&file).map_err(os(path, "reading its size", advice))?;
    let logical_block_bytes = if is_block_device {
        device_block_bytes(&file).map_err(os(path, "reading its block size", advice))?
    } else {
        file_block_bytes(&file)
    };
    let logical_block_bytes = logical_block_bytes.clamp(512, 4096).next_power_of_two();
    let can_discard = if is_block_device { device_discards(path) } else { file_punches(&file, bytes) };
    let fd = Fd::from(file);
    Ok(DirectFile { fd, bytes, logical_block_bytes, is_block_device, can_discard, direct, notice })
}

/// Gives a range back to the medium. A block device: its content is undefined afterwards. A file: it reads as zeroes.
/// Blocks; for many ranges on a core use [`Uring::fallocate`](crate::Uring::fallocate).
pub fn discard(file: &DirectFile, offset: u64, bytes: u64) -> io::Result<()> {
    let raw = file.fd.raw();
    let failed = if file.is_block_device {
        let range = [offset, bytes];
        // SAFETY: the kernel reads two u64 of ours, which are there during the call.
        unsafe { libc::ioctl(raw, BLKDISCARD, range.as_ptr()) }
    } else {
        punch(raw, offset, bytes)?
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes zeroes to all of a file that was never written: holes, and blocks that are allocated only. What it reads as stays what
/// it was, so it may hold something; but nobody may write to it meanwhile. `bytes_max`: of it, from the front. Answers how many
/// bytes were written; 0 for a block device, and where the file system does not say what was written. Blocks.
///
/// It is worth it for what is written durably in small pieces: as long as a block was never written, the file system has to write
/// down with each flush where it is and that it holds something.
///
/// # Errors
/// If there is not twice the room on its file system, nothing is written; else as the medium says it.
pub fn write_out(path: &Path, bytes_max: u64) -> Result<u64, FileError> {
    write_out_with(path, bytes_max, room_beside)
}

fn write_out_with(path: &Path, bytes_max: u64, room_bytes: impl Fn(&Fd) -> io::Result<u64>) -> Result<u64, FileError> {
    let medium = open_direct(path)?;
    if medium.is_block_device {
        return Ok(0);
    }
    let failed = |what, advice| os(path, what, advice);
    let unwritten = unwritten(&medium, bytes_max)
        .map_err(failed("looking for what was never written", "is the medium healthy?"))?;
    let bytes: u64 = unwritten.iter().map(|(from, to)| to - from).sum();
    if bytes == 0 {
        return Ok(0);
    }
    let room =
        "its file system should have twice the room; it works without, but slower until all of it was written once";
    if room_bytes(&medium.fd).map_err(failed("asking for the room on its file system", room))? < 2 * bytes {
        return Err(failed("writing it out", room)(io::ErrorKind::StorageFull.into()));
    }
    for (mut at, to) in unwritten {
        while at < to {
            let piece = (to - at).min(ZEROES.0.len() as u64) as usize;
            at += write_zeroes(&medium.fd, piece, at).map_err(failed("writing it out", room))?;
        }
    }
    // SAFETY: works on a descriptor that we hold; touches no memory of ours.
    match unsafe { libc::fsync(medium.fd.raw()) } {
        0 => Ok(bytes),
        _ => Err(failed("writing it out", room)(io::Error::last_os_error())),
    }
}

/// Aligned for direct I/O.
#[repr(align(4096))]
struct Zeroes([u8; 1 << 20]);
static ZEROES: Zeroes = Zeroes([0; 1 << 20]);

fn write_zeroes(fd: &Fd, bytes: usize, at: u64) -> io::Result<u64> {
    let offset = libc::off_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: reads memory that is always there, at most as much as there is; the caller asks for no more.
    let written = unsafe { libc::pwrite(fd.raw(), ZEROES.0.as_ptr().cast(), bytes.min(ZEROES.0.len()), offset) };
    match u64::try_from(written) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(written) => Ok(written),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Ranges of whole blocks that were never written, of about `bytes_max` together.
fn unwritten(medium: &DirectFile, bytes_max: u64) -> io::Result<Vec<(u64, u64)>> {
    let block = u64::from(medium.logical_block_bytes);
    let end = medium.bytes - medium.bytes % block;
    let mut ranges = Vec::new();
    let (mut at, mut left) = (0, bytes_max - bytes_max % block);
    while at < end && left > 0 {
        let from = seek(&medium.fd, at, libc::SEEK_HOLE)?.unwrap_or(end).next_multiple_of(block);
        if from >= end {
            break;
        }
        at = seek(&medium.fd, from, libc::SEEK_DATA)?.unwrap_or(end).min(end);
        at = (at - at % block).min(from.saturating_add(left));
        if at > from {
            left -= at - from;
            ranges.push((from, at));
        }
        at = at.max(from + block);
    }
    Ok(ranges)
}

/// `None`: nothing of the kind up to the end.
fn seek(fd: &Fd, at: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let at = libc::off_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: works on a descriptor that the caller holds; touches no memory of ours.
    match u64::try_from(unsafe { libc::lseek(fd.raw(), at, whence) }) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// What a file system has left for whom this process is, in bytes.
fn room_beside(fd: &Fd) -> io::Result<u64> {
    // SAFETY: integers only: all zeroes is a value.
    let mut answer: libc::statvfs = unsafe { mem::zeroed() };
    // SAFETY: works on a descriptor that the caller holds; the kernel writes the answer of ours, which is there.
    match unsafe { libc::fstatvfs(fd.raw(), &raw mut answer) } {
        0 => Ok(answer.f_bavail.saturating_mul(answer.f_frsize)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What became of a medium since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// A file's length now; `None` for a block device, which tells by the errors of its I/O.
    pub bytes: Option<u64>,
    /// A file that was deleted lives on without a name, until it is closed: then its content is gone.
    pub is_deleted: bool,
}

/// Looks at an open medium: one `fstat`, no I/O on a local file system.
pub fn standing(fd: &Fd) -> io::Result<Standing> {
    // SAFETY: integers only: all zeroes is a value.
    let mut answer: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: works on a descriptor that the caller holds; the kernel writes the answer of ours, which is there.
    if unsafe { libc::fstat(fd.raw(), &raw mut answer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Standing::of(answer.st_mode, u64::try_from(answer.st_size).ok(), answer.st_nlink == 0))
}

impl Standing {
    /// From a file's mode, length, and whether it has no name any more.
    pub(crate) fn of(mode: u32, bytes: Option<u64>, is_nameless: bool) -> Standing {
        let is_file = mode & libc::S_IFMT == libc::S_IFREG;
        Standing { bytes: bytes.filter(|_| is_file), is_deleted: is_file && is_nameless }
    }
}

/// How large an open file or block device is now. Moves the file's position, which direct I/O by offset has no use for.
pub fn size_of(fd: &Fd) -> io::Result<u64> {
    // SAFETY: works on a descriptor that the caller holds; touches no memory of ours.
    let end = unsafe { libc::lseek(fd.raw(), 0, libc::SEEK_END) };
    u64::try_from(end).map_err(|_| io::Error::last_os_error())
}

fn punch(raw: libc::c_int, offset: u64, bytes: u64) -> io::Result<libc::c_int> {
    let beyond = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let (offset, bytes) =
        (libc::off_t::try_from(offset).map_err(beyond)?, libc::off_t::try_from(bytes).map_err(beyond)?);
    // SAFETY: works on a descriptor that the caller holds; touches no memory of ours.
    Ok(unsafe { libc::fallocate(raw, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, bytes) })
}

fn size(mut file: &File) -> io::Result<u64> {
    // Metadata says 0 for a block device; its end says the truth, as it does for a file.
    let bytes = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    Ok(bytes)
}

fn device_block_bytes(file: &File) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int of ours, which is there during the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET as libc::Ioctl, &raw mut bytes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// What direct I/O on a file must be aligned to; 4096, which suits every file system, where the kernel does not say.
fn file_block_bytes(file: &File) -> u32 {
    // SAFETY: integers only: all zeroes is a value.
    let mut answer: libc::statx = unsafe { mem::zeroed() };
    let empty = c"".as_ptr();
    let raw = file.as_fd().as_raw_fd();
    // SAFETY: an empty path that ends in 0, and room for the answer, both there during the call.
    let failed = unsafe { libc::statx(raw, empty, libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut answer) };
    let known = failed == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0;
    match answer.stx_dio_offset_align.max(answer.stx_dio_mem_align) {
        0 => 4096,
        _ if !known => 4096,
        bytes => bytes,
    }
}

/// Punching beyond the end of a file changes nothing and tells whether its file system can.
fn file_punches(file: &File, bytes: u64) -> bool {
    punch(file.as_raw_fd(), bytes.next_multiple_of(4096), 4096).is_ok_and(|failed| failed == 0)
}

fn device_discards(path: &Path) -> bool {
    // A partition has no queue of its own: its disk is the directory above.
    let Ok(device) = std::fs::canonicalize(path) else { return false };
    let Some(name) = device.file_name() else { return false };
    let Ok(node) = std::fs::canonicalize(Path::new("/sys/class/block").join(name)) else { return false };
    [node.as_path(), node.parent().unwrap_or(&node)]
        .iter()
        .find_map(|dir| std::fs::read_to_string(dir.join("queue/discard_max_bytes")).ok())
        .and_then(|text| text.trim().parse::<u64>().ok())
        .is_some_and(|bytes| bytes > 0)
}

fn os<'a>(path: &'a Path, what: &'static str, advice: &'static str) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError::Os { path: path.into(), what, advice, source }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_made_file_has_its_size_and_alignment_and_can_be_opened_again_but_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let made = create_direct(&path, (3 << 20) + 512).unwrap();
        assert_eq!(made.bytes, (3 << 20) + 512);
        assert!(made.logical_block_bytes.is_power_of_two() && (512..=4096).contains(&made.logical_block_bytes));
        let again = open_direct(&path).unwrap();
        assert_eq!((again.bytes, again.logical_block_bytes), (made.bytes, made.logical_block_bytes));
        assert!(!again.is_block_device);
        assert_eq!(again.direct, again.notice.is_none());
        let refused = create_direct(&path, 1).unwrap_err().to_string();
        assert!(refused.contains("must not exist"), "{refused}");
        assert_eq!(open_direct(&path).unwrap().bytes, made.bytes, "the file that was there is untouched");
    }

    #[test]
    fn discarding_a_range_of_a_file_zeroes_it_and_keeps_the_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, vec![1; 16384]).unwrap();
        let file = open_direct(&path).unwrap();
        assert!(file.can_discard);
        discard(&file, 4096, 8192).unwrap();
        let after = std::fs::read(&path).unwrap();
        assert_eq!(after.len(), 16384);
        assert!(after[4096..12288].iter().all(|&b| b == 0));
        assert!(after[..4096].iter().chain(&after[12288..]).all(|&b| b == 1));
    }

    #[test]
    fn what_was_never_written_of_a_file_is_written_out_and_what_it_holds_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len((4 << 20) + 100).unwrap();
        for at in [0, 1 << 20, (3 << 20) + 8192] {
            file.write_all_at(&[7; 8192], at).unwrap();
        }
        file.sync_all().unwrap();
        let before = std::fs::read(&path).unwrap();
        let sparse = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert_eq!(write_out(&path, 1 << 16).unwrap(), 1 << 16, "no more than was asked for");
        let written = (1 << 16) + write_out(&path, u64::MAX).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), before, "it reads as it did");
        assert_eq!(write_out(&path, u64::MAX).unwrap(), 0, "all of it was written");
        if sparse < 1 << 20 {
            assert_eq!(written, (4 << 20) - 3 * 8192, "all but what was there, and what is no whole block at the end");
            assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= 4 << 20);
        }
    }

    #[test]
    fn a_file_that_its_file_system_has_no_room_for_twice_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let room = |bytes: u64| move |_: &Fd| Ok(bytes);
        let error = write_out_with(&path, u64::MAX, room((2 << 20) - 1)).unwrap_err().to_string();
        assert!(error.contains("twice the room"), "{error}");
        assert_eq!(std::fs::metadata(&path).unwrap().blocks(), 0);
        assert_eq!(write_out_with(&path, u64::MAX, room(2 << 20)).unwrap(), 1 << 20);
    }

    #[test]
    fn a_file_s_standing_says_its_length_now_and_that_it_was_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = create_direct(&path, 8192).unwrap();
        assert_eq!(standing(&file.fd).unwrap(), Standing { bytes: Some(8192), is_deleted: false });
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
        assert_eq!(standing(&file.fd).unwrap(), Standing { bytes: Some(4096), is_deleted: false });
        std::fs::remove_file(&path).unwrap();
        assert_eq!(standing(&file.fd).unwrap(), Standing { bytes: Some(4096), is_deleted: true });
        let device = Fd::from(File::open("/dev/null").unwrap());
        assert_eq!(standing(&device).unwrap(), Standing { bytes: None, is_deleted: false });
    }

    #[test]
    fn what_is_no_disk_or_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open_direct(dir.path()), Err(FileError::NotADisk { .. })));
        let missing = open_direct(&dir.path().join("missing")).unwrap_err().to_string();
        assert!(missing.contains("missing") && missing.contains("exist"), "{missing}");
        assert!(create_direct(&dir.path().join("huge"), 1 << 62).is_err());
        assert!(!dir.path().join("huge").exists(), "a file that could not be allocated is removed");
    }
}
