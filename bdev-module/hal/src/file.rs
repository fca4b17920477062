//! Files and block devices opened for direct I/O, with what a block device on top needs to know of them. Blocking calls:
//! for the control plane.

use std::path::{Path, PathBuf};

use crate::fd::Fd;

/// Why a file or device could not be opened or discarded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    #[error("{path}: {what} failed ({source}); {advice}")]
    Os { path: PathBuf, what: &'static str, advice: &'static str, source: std::io::Error },
    #[error("{path} is neither a regular file nor a block device; give one of these")]
    NotADisk { path: PathBuf },
}

/// An open medium and its properties.
#[derive(Debug)]
pub struct DirectFile {
    pub fd: Fd,
    pub bytes: u64,
    /// Offsets, lengths and memory addresses of direct I/O must be multiples of this: 512 or 4096 (a power of two).
    pub logical_block_bytes: u32,
    pub is_block_device: bool,
    /// Can ranges be deallocated (punch hole on a file, discard on a device)?
    pub can_discard: bool,
    /// Is the page cache bypassed? False where the file system cannot, with a [`notice`](DirectFile::notice).
    pub direct: bool,
    /// A sentence for the operator.
    pub notice: Option<String>,
}

/// Opens an existing file or block device for reading and writing with O_DIRECT.
pub fn open_direct(path: &Path) -> Result<DirectFile, FileError> {
    let _ = path;
    unimplemented!()
}

/// Makes a regular file of `bytes` with all its blocks allocated and readable as zeroes, and opens it as
/// [`open_direct`] does; fails if it exists.
pub fn create_direct(path: &Path, bytes: u64) -> Result<DirectFile, FileError> {
    let _ = (path, bytes);
    unimplemented!()
}

/// Discards a range of a block device (its content is undefined afterwards) or punches a hole into a file (zeroes).
pub fn discard(file: &DirectFile, offset: u64, bytes: u64) -> std::io::Result<()> {
    let _ = (file, offset, bytes);
    unimplemented!()
}
