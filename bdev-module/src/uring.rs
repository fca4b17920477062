//! A file or a block device, read and written past the page cache through the core's ring.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longrun_copy::types::{Extent, Geometry};
use longrun_hal::file::{FileError, open_direct};
use longrun_hal::uring::{Durability, Fallocate};
use longrun_hal::{Buf, Completion, Fd, Returned, Shared};
use slab::Slab;

use crate::device::{Bdev, Env, RequestKey};
use crate::io::{Io, IoError};

/// How long an open waits for another holder of the file to go: a process that was killed holds its files until the
/// kernel has ended its operations.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// What is written where the medium can't zero a range itself, aligned for direct I/O.
#[repr(align(4096))]
struct Zeroes([u8; 1 << 20]);
static ZEROES: Zeroes = Zeroes([0; 1 << 20]);

/// Why a file does not become a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file is not to be had.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another bdev or another process has it.
    #[error("{path} is in use by another bdev or another process; delete that bdev or stop that process")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Locking failed.
    #[error("{path} can't be locked against other users ({source}); is its file system one that can lock?")]
    Lock {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Direct I/O can't address such blocks.
    #[error(
        "{path} takes blocks of {least} bytes and more, block_size {given} was asked for; leave block_size out, or give 512 or 4096, not below {least}"
    )]
    BlockSize {
        /// The file.
        path: PathBuf,
        /// The block size asked for.
        given: u32,
        /// What the medium needs.
        least: u32,
    },
    /// Nothing to serve.
    #[error("{path} holds {bytes} bytes, less than one block of {block_bytes}; give it its size first (truncate -s)")]
    Empty {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// Bytes per block.
        block_bytes: u32,
    },
}

/// A file or block device. Its block size is never below the medium's, so no request needs to read what it does not
/// overwrite. A write from memory that direct I/O can't take is copied into a buffer of the core's arena first.
pub struct UringBdev {
    fd: Fd,
    block_bytes: u32,
    alignment: usize,
    can_punch_hole: bool,
    can_zero_range: bool,
    ops: Slab<Op>,
}

/// An opened medium.
pub struct Opened {
    /// The device.
    pub bdev: UringBdev,
    /// Its size.
    pub geometry: Geometry,
    /// A sentence for the operator.
    pub notice: Option<String>,
}

/// A request on its way through the ring: one operation at a time.
struct Op {
    request: RequestKey,
    stage: Stage,
}

enum Stage {
    Read {
        bytes: u32,
    },
    /// Into a buffer that direct I/O can take; the request's own waits here.
    ReadBounced {
        into: Buf,
    },
    Write {
        bytes: u32,
    },
    Sync,
    /// Deallocating or zeroing a range.
    Range {
        how: Fallocate,
        extent: Extent,
        fua: bool,
    },
    /// Writing zeroes piece by piece; `bytes` are being written, `rest_bytes` remain from `offset` on.
    Zeroing {
        bytes: u32,
        offset: u64,
        rest_bytes: u64,
        fua: bool,
    },
}

impl UringBdev {
    /// Opens an existing file or block device and locks it against other users. Blocks.
    pub fn open(path: &Path, block_size: Option<u32>) -> Result<Opened, OpenError> {
        let file = open_direct(path)?;
        lock(path, &file.fd)?;
        let least = file.logical_block_bytes;
        let block_bytes = block_size.unwrap_or(if least <= 512 { 512 } else { 4096 });
        if block_bytes < least || !block_bytes.is_multiple_of(least) {
            return Err(OpenError::BlockSize { path: path.to_owned(), given: block_bytes, least });
        }
        let blocks = file.bytes / u64::from(block_bytes);
        if blocks == 0 {
            return Err(OpenError::Empty { path: path.to_owned(), bytes: file.bytes, block_bytes });
        }
        let bdev = UringBdev {
            fd: file.fd,
            block_bytes,
            alignment: if file.direct { least as usize } else { 1 },
            can_punch_hole: file.can_discard,
            can_zero_range: true,
            ops: Slab::new(),
        };
        Ok(Opened { bdev, geometry: Geometry { blocks, block_bytes }, notice: file.notice })
    }

    fn offset(&self, extent: Extent) -> u64 {
        extent.lba * u64::from(self.block_bytes)
    }

    fn bytes(&self, extent: Extent) -> u64 {
        u64::from(extent.blocks) * u64::from(self.block_bytes)
    }

    fn fits(&self, memory: &[u8]) -> bool {
        memory.as_ptr().addr().is_multiple_of(self.alignment)
    }

    /// Registers an operation and names it on the ring.
    fn token(&mut self, env: &Env<'_>, request: RequestKey, stage: Stage) -> u64 {
        let tag = self.ops.insert(Op { request, stage });
        env.ring_token(tag as u32)
    }

    fn read(&mut self, env: &mut Env<'_>, request: RequestKey, extent: Extent, buf: Buf) {
        let offset = self.offset(extent);
        if self.fits(&buf) {
            let token = self.token(env, request, Stage::Read { bytes: buf.len() as u32 });
            return env.uring.read(token, &self.fd, buf, offset);
        }
        match env.arena.alloc(buf.len()) {
            Some(bounce) => {
                let token = self.token(env, request, Stage::ReadBounced { into: buf });
                env.uring.read(token, &self.fd, bounce, offset);
            }
            None => env.complete(request, Err(IoError::NoMemory), Some(buf)),
        }
    }

    fn write(&mut self, env: &mut Env<'_>, request: RequestKey, extent: Extent, data: Shared, fua: bool) {
        let offset = self.offset(extent);
        let data = if self.fits(&data) {
            data
        } else {
            let Some(mut bounce) = env.arena.alloc(data.len()) else {
                return env.complete(request, Err(IoError::NoMemory), None);
            };
            bounce.copy_from_slice(&data);
            bounce.freeze()
        };
        let durability = if fua { Durability::Durable } else { Durability::Cached };
        let token = self.token(env, request, Stage::Write { bytes: data.len() as u32 });
        env.uring.write(token, &self.fd, data, offset, durability);
    }

    fn range(&mut self, env: &mut Env<'_>, request: RequestKey, how: Fallocate, extent: Extent, fua: bool) {
        let can = match how {
            Fallocate::PunchHole => self.can_punch_hole,
            Fallocate::ZeroRange => self.can_zero_range,
        };
        let (offset, bytes) = (self.offset(extent), self.bytes(extent));
        if can {
            let token = self.token(env, request, Stage::Range { how, extent, fua });
            env.uring.fallocate(token, &self.fd, how, offset, bytes);
        } else {
            self.write_zeroes(env, request, offset, bytes, fua);
        }
    }

    /// Writes the next piece of zeroes, or ends the request.
    fn write_zeroes(&mut self, env: &mut Env<'_>, request: RequestKey, offset: u64, bytes: u64, fua: bool) {
        if bytes == 0 {
            return if fua { self.sync(env, request) } else { env.complete(request, Ok(()), None) };
        }
        let piece = bytes.min(ZEROES.0.len() as u64);
        let stage = Stage::Zeroing { bytes: piece as u32, offset: offset + piece, rest_bytes: bytes - piece, fua };
        let token = self.token(env, request, stage);
        let data = Shared::from_static(&ZEROES.0).slice(..piece as usize);
        env.uring.write(token, &self.fd, data, offset, Durability::Cached);
    }

    fn sync(&mut self, env: &mut Env<'_>, request: RequestKey) {
        let token = self.token(env, request, Stage::Sync);
        env.uring.sync(token, &self.fd);
    }
}

impl Bdev for UringBdev {
    fn submit(&mut self, env: &mut Env<'_>, request: RequestKey, io: Io) {
        match io {
            Io::Read { extent, buf } => self.read(env, request, extent, buf),
            Io::Write { extent, data, fua } => self.write(env, request, extent, data, fua),
            Io::WriteZeroes { extent, fua } => self.range(env, request, Fallocate::ZeroRange, extent, fua),
            Io::Unmap { extent } => self.range(env, request, Fallocate::PunchHole, extent, false),
            Io::Flush => self.sync(env, request),
        }
    }

    fn ring_done(&mut self, env: &mut Env<'_>, tag: u32, completion: Completion) {
        let Op { request, stage } = self.ops.remove(tag as usize);
        let Completion { result, returned, .. } = completion;
        let errno = |error: &std::io::Error| IoError::Device { errno: error.raw_os_error().unwrap_or(libc::EIO) };
        // A transfer that stopped short met the end of a file that was cut under us.
        let all_of = |bytes: u32| match &result {
            Ok(done) if *done == bytes => Ok(()),
            Ok(_) => Err(IoError::Device { errno: libc::EIO }),
            Err(error) => Err(errno(error)),
        };
        let buf = match returned {
            Returned::Buf(buf) => Some(buf),
            _ => None,
        };
        match stage {
            Stage::Read { bytes } => env.complete(request, all_of(bytes), buf),
            Stage::ReadBounced { mut into } => {
                let outcome = all_of(into.len() as u32);
                if let (Ok(()), Some(bounce)) = (outcome, buf) {
                    into.copy_from_slice(&bounce);
                }
                env.complete(request, outcome, Some(into));
            }
            Stage::Write { bytes } => env.complete(request, all_of(bytes), None),
            Stage::Sync => env.complete(request, result.map(drop).map_err(|error| errno(&error)), None),
            Stage::Range { how, extent, fua } => match result {
                Ok(_) if fua => self.sync(env, request),
                Ok(_) => env.complete(request, Ok(()), None),
                Err(error) if is_unsupported(&error) => {
                    match how {
                        Fallocate::PunchHole => self.can_punch_hole = false,
                        Fallocate::ZeroRange => self.can_zero_range = false,
                    }
                    self.write_zeroes(env, request, self.offset(extent), self.bytes(extent), fua);
                }
                Err(error) => env.complete(request, Err(errno(&error)), None),
            },
            Stage::Zeroing { bytes, offset, rest_bytes, fua } => match all_of(bytes) {
                Ok(()) => self.write_zeroes(env, request, offset, rest_bytes, fua),
                Err(error) => env.complete(request, Err(error), None),
            },
        }
    }
}

fn is_unsupported(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV))
}

/// Takes the advisory lock of the open file; it goes with the last descriptor.
fn lock(path: &Path, fd: &Fd) -> Result<(), OpenError> {
    let lock_error = |source| OpenError::Lock { path: path.to_owned(), source };
    // A duplicate shares the open file, and with it the lock.
    let file = std::fs::File::from(fd.as_fd().try_clone_to_owned().map_err(lock_error)?);
    let mut waited = Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::WouldBlock) if waited < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_INTERVAL);
                waited += LOCK_INTERVAL;
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::Locked { path: path.to_owned() }),
            Err(std::fs::TryLockError::Error(source)) => return Err(lock_error(source)),
        }
    }
}
