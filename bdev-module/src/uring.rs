//! A file or a block device, read and written past the page cache through the core's ring.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longrun_copy::types::{Extent, Geometry, Mono};
use longrun_hal::file::{FileError, Standing, open_direct, size_of, standing};
use longrun_hal::uring::{Durability, Fallocate, Mode};
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

/// How long writes may go on until the file is looked at again.
const LOOK_INTERVAL_NS: u64 = 1_000_000_000;

/// A file or block device. Its block size is never below the medium's, so no request needs to read what it does not
/// overwrite. A write from memory that direct I/O can't take is copied into a buffer of the core's arena first.
///
/// A transfer that the kernel ends early is continued where it stopped: only so is an error behind the first part told, and
/// a part is never taken for the whole.
///
/// **A file may be taken away under it.** Whoever cuts it short would have the next write beyond its end make it long
/// again, with zeroes between that nobody wrote; whoever deletes it lets hosts write into what is gone with the process.
/// So its length and its name are looked at before a flush or a durable write is said to be done, and once a second while
/// it is written to. A file that is shorter than it was fails everything from then on; a deleted one still gives what it
/// holds, and takes nothing. What this gives up: a cut that a write heals to the full length within a second, without a
/// flush between, is not seen.
pub struct UringBdev {
    fd: Fd,
    block_bytes: u32,
    /// Of the medium when it was opened.
    bytes: u64,
    alignment: usize,
    can_punch_hole: bool,
    can_zero_range: bool,
    loss: Loss,
    look_at: Option<Mono>,
    ops: Slab<Op>,
}

/// What was taken away of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Nothing,
    /// Its name: what is written is gone with the process.
    Name,
    /// Some of its content.
    Content,
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

/// An operation on the ring.
enum Op {
    /// Of a request: one at a time.
    Request { request: RequestKey, stage: Stage },
    /// The look that is due now and then.
    Look,
}

enum Stage {
    /// The buffer's first bytes, up to `offset` of the medium, are read.
    Read {
        done: usize,
        offset: u64,
    },
    /// Into a buffer that direct I/O can take; the request's own waits here.
    ReadBounced {
        into: Buf,
        done: usize,
        offset: u64,
    },
    /// What is left is being written to `offset`.
    Write {
        offset: u64,
        fua: bool,
    },
    Sync,
    /// Everything is done; the file is looked at before that is said.
    Looking,
    /// Deallocating or zeroing a range.
    Range {
        how: Fallocate,
        extent: Extent,
        fua: bool,
    },
    /// Writing zeroes piece by piece: `left_bytes` from `offset` on, of which a piece is being written.
    Zeroing {
        offset: u64,
        left_bytes: u64,
        fua: bool,
    },
}

/// How a transfer went on.
enum Moved {
    All,
    /// This many bytes; the rest is to be asked for.
    Part(usize),
    /// Nothing: asking again would bring no more.
    Nothing,
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
            bytes: file.bytes,
            alignment: if file.direct { least as usize } else { 1 },
            can_punch_hole: file.can_discard,
            can_zero_range: true,
            loss: Loss::Nothing,
            look_at: None,
            ops: Slab::new(),
        };
        Ok(Opened { bdev, geometry: Geometry { blocks, block_bytes }, notice: file.notice })
    }

    /// Over whatever is open, which takes any alignment.
    #[cfg(test)]
    pub(crate) fn over(fd: Fd, bytes: u64, block_bytes: u32) -> UringBdev {
        UringBdev {
            fd,
            block_bytes,
            bytes,
            alignment: 1,
            can_punch_hole: true,
            can_zero_range: true,
            loss: Loss::Nothing,
            look_at: None,
            ops: Slab::new(),
        }
    }

    fn offset(&self, extent: Extent) -> u64 {
        extent.lba * u64::from(self.block_bytes)
    }

    fn length(&self, extent: Extent) -> u64 {
        u64::from(extent.blocks) * u64::from(self.block_bytes)
    }

    fn fits(&self, memory: &[u8]) -> bool {
        memory.as_ptr().addr().is_multiple_of(self.alignment)
    }

    /// Registers an operation and names it on the ring.
    fn token(&mut self, env: &Env<'_>, request: RequestKey, stage: Stage) -> u64 {
        let tag = self.ops.insert(Op::Request { request, stage });
        env.ring_token(tag as u32)
    }

    /// Whether what a transfer moved is all that was asked for. Direct I/O goes on at whole units only.
    fn moved(&self, moved: u32, asked: usize) -> Moved {
        let moved = moved as usize;
        let whole = moved - moved % self.alignment;
        match whole {
            _ if moved == asked => Moved::All,
            0 => Moved::Nothing,
            whole => Moved::Part(whole),
        }
    }

    /// Ends a request whose data are durable, if the file is still what it was.
    fn look_and_end(&mut self, env: &mut Env<'_>, request: RequestKey) {
        if env.uring.mode() == Mode::Polled {
            let token = self.token(env, request, Stage::Looking);
            return env.uring.standing(token, &self.fd);
        }
        let outcome = self.judge(standing(&self.fd));
        env.complete(request, outcome, None);
    }

    /// Takes note of what became of the file. `Err`: what was written to it is nowhere.
    fn judge(&mut self, standing: std::io::Result<Standing>) -> Result<(), IoError> {
        match standing {
            Ok(standing) if standing.bytes.is_some_and(|bytes| bytes < self.bytes) => self.loss = Loss::Content,
            Ok(standing) if standing.is_deleted && self.loss == Loss::Nothing => self.loss = Loss::Name,
            Ok(_) => {}
            Err(error) => return Err(errno(&error)),
        }
        if self.loss == Loss::Nothing { Ok(()) } else { Err(GONE) }
    }

    /// The file ends before the volume does.
    fn cut(&mut self) -> IoError {
        self.loss = Loss::Content;
        GONE
    }

    fn read(&mut self, env: &mut Env<'_>, request: RequestKey, extent: Extent, buf: Buf) {
        let offset = self.offset(extent);
        if self.fits(&buf) {
            let token = self.token(env, request, Stage::Read { done: 0, offset });
            return env.uring.read(token, &self.fd, buf, offset);
        }
        match env.arena.alloc(buf.len()) {
            Some(bounce) => {
                let token = self.token(env, request, Stage::ReadBounced { into: buf, done: 0, offset });
                env.uring.read(token, &self.fd, bounce, offset);
            }
            None => env.complete(request, Err(IoError::NoMemory), Some(buf)),
        }
    }

    /// Part of a read is there.
    fn read_on(&mut self, env: &mut Env<'_>, request: RequestKey, stage: Stage, moved: u32, buf: Buf) {
        let (Stage::Read { done, offset } | Stage::ReadBounced { done, offset, .. }) = &stage else { return };
        let (done, offset) = (*done, *offset);
        let (stage, outcome) = match (self.moved(moved, buf.len() - done), stage) {
            (Moved::Part(bytes), stage) => {
                let (done, offset) = (done + bytes, offset + bytes as u64);
                let stage = match stage {
                    Stage::ReadBounced { into, .. } => Stage::ReadBounced { into, done, offset },
                    _ => Stage::Read { done, offset },
                };
                let token = self.token(env, request, stage);
                return env.uring.read_rest(token, &self.fd, buf, done, offset);
            }
            (Moved::All, stage) => (stage, Ok(())),
            (Moved::Nothing, stage) => (stage, Err(self.cut())),
        };
        let buf = match stage {
            Stage::ReadBounced { mut into, .. } => {
                if outcome.is_ok() {
                    into.copy_from_slice(&buf);
                }
                into
            }
            _ => buf,
        };
        env.complete(request, outcome, Some(buf));
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
        self.write_rest(env, request, data, offset, fua);
    }

    fn write_rest(&mut self, env: &mut Env<'_>, request: RequestKey, data: Shared, offset: u64, fua: bool) {
        // Under polling the kernel takes milliseconds for a durable write; a write and a sync behind it take their time.
        let is_one_step = fua && env.uring.mode() != Mode::Polled;
        let durability = if is_one_step { Durability::Durable } else { Durability::Cached };
        let token = self.token(env, request, Stage::Write { offset, fua });
        env.uring.write(token, &self.fd, data, offset, durability);
    }

    fn range(&mut self, env: &mut Env<'_>, request: RequestKey, how: Fallocate, extent: Extent, fua: bool) {
        let can = match how {
            Fallocate::PunchHole => self.can_punch_hole,
            Fallocate::ZeroRange => self.can_zero_range,
        };
        let (offset, bytes) = (self.offset(extent), self.length(extent));
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
        let token = self.token(env, request, Stage::Zeroing { offset, left_bytes: bytes, fua });
        let data = Shared::from_static(&ZEROES.0).slice(..piece as usize);
        env.uring.write(token, &self.fd, data, offset, Durability::Cached);
    }

    fn sync(&mut self, env: &mut Env<'_>, request: RequestKey) {
        let token = self.token(env, request, Stage::Sync);
        env.uring.sync(token, &self.fd);
    }
}

impl Bdev for UringBdev {
    fn measure(&mut self) -> Option<std::io::Result<u64>> {
        let measured = size_of(&self.fd);
        if let Ok(bytes) = &measured {
            // What was cut off stays noticed.
            self.bytes = self.bytes.max(*bytes);
        }
        Some(measured)
    }

    fn submit(&mut self, env: &mut Env<'_>, request: RequestKey, io: Io) {
        let is_taken = match self.loss {
            Loss::Nothing => true,
            Loss::Name => matches!(io, Io::Read { .. }),
            Loss::Content => false,
        };
        if !is_taken {
            return env.complete(request, Err(GONE), io.into_buf());
        }
        if self.look_at.is_none() && !matches!(io, Io::Read { .. }) {
            let at = env.now.after_ns(LOOK_INTERVAL_NS);
            self.look_at = Some(at);
            env.wake_at(at);
        }
        match io {
            Io::Read { extent, buf } => self.read(env, request, extent, buf),
            Io::Write { extent, data, fua } => self.write(env, request, extent, data, fua),
            Io::WriteZeroes { extent, fua } => self.range(env, request, Fallocate::ZeroRange, extent, fua),
            Io::Unmap { extent } => self.range(env, request, Fallocate::PunchHole, extent, false),
            Io::Flush => self.sync(env, request),
        }
    }

    fn ring_done(&mut self, env: &mut Env<'_>, tag: u32, completion: Completion) {
        let Completion { result, returned, .. } = completion;
        let Op::Request { request, stage } = self.ops.remove(tag as usize) else {
            // What it finds stands in `loss`, for the next request.
            let _ = self.judge(result.map(|_| standing_of(returned)));
            return;
        };
        let moved = match result {
            Ok(moved) => moved,
            Err(error) => return self.failed(env, request, stage, &error, returned),
        };
        match (stage, returned) {
            (stage @ (Stage::Read { .. } | Stage::ReadBounced { .. }), Returned::Buf(buf)) => {
                self.read_on(env, request, stage, moved, buf);
            }
            (Stage::Write { offset, fua }, Returned::Shared(data)) => match self.moved(moved, data.len()) {
                Moved::All if !fua => env.complete(request, Ok(()), None),
                Moved::All if env.uring.mode() == Mode::Polled => self.sync(env, request),
                Moved::All => self.look_and_end(env, request),
                Moved::Part(bytes) => self.write_rest(env, request, data.slice(bytes..), offset + bytes as u64, fua),
                Moved::Nothing => env.complete(request, Err(IoError::Device { errno: libc::EIO }), None),
            },
            (Stage::Zeroing { offset, left_bytes, fua }, Returned::Shared(data)) => {
                let bytes = match self.moved(moved, data.len()) {
                    Moved::All => data.len() as u64,
                    Moved::Part(bytes) => bytes as u64,
                    Moved::Nothing => return env.complete(request, Err(IoError::Device { errno: libc::EIO }), None),
                };
                self.write_zeroes(env, request, offset + bytes, left_bytes - bytes, fua);
            }
            (Stage::Range { fua: true, .. }, _) => self.sync(env, request),
            (Stage::Range { .. }, _) => env.complete(request, Ok(()), None),
            (Stage::Sync, _) => self.look_and_end(env, request),
            (Stage::Looking, returned) => {
                let outcome = self.judge(Ok(standing_of(returned)));
                env.complete(request, outcome, None);
            }
            (_, _) => unreachable!("each operation gives back what it was given"),
        }
    }

    fn tick(&mut self, env: &mut Env<'_>) {
        if self.look_at.is_some_and(|at| at <= env.now) {
            self.look_at = None;
            if env.uring.mode() == Mode::Polled {
                let tag = self.ops.insert(Op::Look);
                return env.uring.standing(env.ring_token(tag as u32), &self.fd);
            }
            // What it finds stands in `loss`, for the next request.
            let _ = self.judge(standing(&self.fd));
        }
    }

    fn next_timeout(&self) -> Option<Mono> {
        self.look_at
    }
}

impl UringBdev {
    /// An operation on the ring failed.
    fn failed(
        &mut self,
        env: &mut Env<'_>,
        request: RequestKey,
        stage: Stage,
        error: &std::io::Error,
        returned: Returned,
    ) {
        let buf = match (stage, returned) {
            (Stage::Range { how, extent, fua }, _) if is_unsupported(error) => {
                match how {
                    Fallocate::PunchHole => self.can_punch_hole = false,
                    Fallocate::ZeroRange => self.can_zero_range = false,
                }
                return self.write_zeroes(env, request, self.offset(extent), self.length(extent), fua);
            }
            (Stage::ReadBounced { into, .. }, _) => Some(into),
            (Stage::Read { .. }, Returned::Buf(buf)) => Some(buf),
            _ => None,
        };
        env.complete(request, Err(errno(error)), buf);
    }
}

/// What everything on a file ends in that was taken away.
const GONE: IoError = IoError::Device { errno: libc::ENODEV };

fn standing_of(returned: Returned) -> Standing {
    match returned {
        Returned::Standing(standing) => standing,
        _ => unreachable!("each operation gives back what it was given"),
    }
}

fn errno(error: &std::io::Error) -> IoError {
    IoError::Device { errno: error.raw_os_error().unwrap_or(libc::EIO) }
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
