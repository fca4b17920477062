//! One io_uring per core, through which disk, TCP and UDP all go in batches.
//!
//! Safe by ownership: an operation takes its buffers and a clone of its descriptor, keeps them until the kernel has let go
//! of them, and gives the buffer back in its [`Completion`]. Nothing that is submitted returns an error at once; what is
//! wrong with an operation comes back as its completion, so there is one path. Dropping the ring cancels and waits.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use crate::arena::{Buf, Shared};
use crate::fd::Fd;
use crate::wake::Sleeper;

/// The longest train of datagrams that one send may hold.
pub const TRAIN_DATAGRAMS_MAX: usize = 64;
/// The most bytes in one train (what fits in one IPv4 UDP datagram).
pub const TRAIN_BYTES_MAX: usize = 65_507;
/// The most pieces in one [`Gather`].
pub const GATHER_PIECES_MAX: usize = 1024;

/// How large a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UringConfig {
    /// Submission queue entries, a power of two; the completion queue has four times as many. More operations than this
    /// may be in flight; what does not fit waits for the next turn.
    pub entries: u32,
}

impl Default for UringConfig {
    fn default() -> UringConfig {
        UringConfig { entries: 1024 }
    }
}

/// Why a ring could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UringError {
    #[error(
        "io_uring with {entries} entries refused by the kernel ({source}); is kernel.io_uring_disabled 0, and the kernel 5.19 or newer?"
    )]
    Setup { entries: u32, source: io::Error },
}

/// How much a receive wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Complete with whatever has arrived.
    Some,
    /// Complete when the whole range is filled, or the stream ends.
    All,
}

/// When a write is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the device has it.
    Cached,
    /// When it is durable (RWF_DSYNC).
    Durable,
}

/// What happens to a range of a file or block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Deallocate; reads as zeroes.
    PunchHole,
    /// Zero, keeping blocks allocated.
    ZeroRange,
}

/// What to shut down of a TCP connection.
pub use std::net::Shutdown;

/// What an operation gives back.
#[derive(Debug)]
pub enum Returned {
    Nothing,
    /// The buffer read or received into, or the train sent.
    Buf(Buf),
    /// The bytes written.
    Shared(Shared),
    /// A new connection.
    Accepted(Fd),
}

/// The end of an operation (or one of several results, see `more`).
#[derive(Debug)]
pub struct Completion {
    /// The caller's name for the operation.
    pub token: u64,
    /// Bytes moved, or the error.
    pub result: io::Result<u32>,
    pub returned: Returned,
    /// `recv_train`: who sent it.
    pub from: Option<SocketAddr>,
    /// `recv_train`: length of each datagram in the train but the last, which may be shorter.
    pub segment_bytes: usize,
    /// More completions of this operation follow (`accept`).
    pub more: bool,
}

/// What one turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Completions appended.
    pub completions: usize,
    /// Did it call the kernel (once)?
    pub entered: bool,
    /// Was the core woken by a [`Waker`](crate::wake::Waker)?
    pub woken: bool,
}

/// A list of pieces to be sent or written as one: buffers, and short headers copied in.
#[derive(Debug, Default)]
pub struct Gather {}

impl Gather {
    /// Appends a copy of short bytes (a header); neighbours share storage.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// Appends a buffer by reference.
    pub fn push(&mut self, bytes: Shared) {
        let _ = bytes;
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        0
    }

    /// Is there nothing to send?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pieces so far, at most [`GATHER_PIECES_MAX`].
    pub fn pieces(&self) -> usize {
        0
    }
}

/// One core's ring. Not `Send`: it stays on the thread that made it.
pub struct Uring {
    _not_send: std::marker::PhantomData<*mut ()>,
}

impl Uring {
    /// Makes a ring for the calling thread; a wait then also ends when `sleeper` is woken.
    pub fn new(config: UringConfig, sleeper: Option<&Sleeper>) -> Result<Uring, UringError> {
        let _ = (config, sleeper);
        unimplemented!()
    }

    /// Reads into all of `buf` from `offset` of a file or device.
    pub fn read(&mut self, token: u64, fd: &Fd, buf: Buf, offset: u64) {
        let _ = (token, fd, buf, offset);
        unimplemented!()
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write(&mut self, token: u64, fd: &Fd, bytes: Shared, offset: u64, durability: Durability) {
        let _ = (token, fd, bytes, offset, durability);
        unimplemented!()
    }

    /// Writes the pieces one after the other from `offset` on.
    pub fn write_gather(&mut self, token: u64, fd: &Fd, gather: Gather, offset: u64, durability: Durability) {
        let _ = (token, fd, gather, offset, durability);
        unimplemented!()
    }

    /// Makes completed writes durable (fdatasync).
    pub fn sync(&mut self, token: u64, fd: &Fd) {
        let _ = (token, fd);
        unimplemented!()
    }

    /// Deallocates or zeroes a range.
    pub fn fallocate(&mut self, token: u64, fd: &Fd, how: Fallocate, offset: u64, bytes: u64) {
        let _ = (token, fd, how, offset, bytes);
        unimplemented!()
    }

    /// Accepts connections until [`cancel`](Uring::cancel)led or failed: one completion each, with `more` set while it goes on.
    pub fn accept(&mut self, token: u64, listener: &Fd) {
        let _ = (token, listener);
        unimplemented!()
    }

    /// Receives from a TCP connection into `range` of `buf`. 0 bytes: the peer has ended the stream.
    pub fn recv(&mut self, token: u64, fd: &Fd, buf: Buf, range: Range<usize>, receive: Receive) {
        let _ = (token, fd, buf, range, receive);
        unimplemented!()
    }

    /// Sends all pieces on a TCP connection, in order. At most one send per connection may be in flight.
    pub fn send(&mut self, token: u64, fd: &Fd, gather: Gather) {
        let _ = (token, fd, gather);
        unimplemented!()
    }

    /// Receives one train of datagrams from a UDP socket into all of `buf` (64 KiB, or trains are cut short).
    pub fn recv_train(&mut self, token: u64, fd: &Fd, buf: Buf) {
        let _ = (token, fd, buf);
        unimplemented!()
    }

    /// Sends `train` to `to` as datagrams of `segment_bytes` each, the last may be shorter.
    pub fn send_train(&mut self, token: u64, fd: &Fd, train: Buf, segment_bytes: usize, to: SocketAddr) {
        let _ = (token, fd, train, segment_bytes, to);
        unimplemented!()
    }

    /// Ends one or both directions of a TCP connection; receives in flight complete with 0 bytes.
    pub fn shutdown(&mut self, token: u64, fd: &Fd, how: Shutdown) {
        let _ = (token, fd, how);
        unimplemented!()
    }

    /// Asks the kernel to end every operation in flight on `fd` early; each still completes, most with `ECANCELED`.
    pub fn cancel(&mut self, fd: &Fd) {
        let _ = fd;
        unimplemented!()
    }

    /// A gather list from the pool of those sent before.
    pub fn gather(&mut self) -> Gather {
        Gather::default()
    }

    /// Submits what was queued and appends completions to `out`, with at most one `io_uring_enter`.
    ///
    /// `wait: None` never blocks, and calls the kernel only if there is something to submit or the kernel asks for it.
    /// `Some(time)` blocks until a completion, a wake-up or the end of that time, unless there are completions already.
    pub fn submit_and_reap(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<Turn> {
        let _ = (wait, out);
        unimplemented!()
    }

    /// Operations that have not completed.
    pub fn in_flight(&self) -> usize {
        0
    }

    /// `io_uring_enter` calls since the start.
    pub fn enters(&self) -> u64 {
        0
    }
}
