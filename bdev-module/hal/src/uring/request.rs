//! What callers ask of a ring and what comes back.

use std::io;
use std::net::SocketAddr;

use crate::arena::{Buf, Shared};
use crate::fd::Fd;
use crate::file::Standing;

/// The longest train of datagrams that one send may hold.
pub const TRAIN_DATAGRAMS_MAX: usize = 64;
/// The most bytes in one train (what fits in one IPv4 UDP datagram).
pub const TRAIN_BYTES_MAX: usize = 65_507;
/// The most pieces in one [`Gather`](super::Gather).
pub const GATHER_PIECES_MAX: usize = 1024;

/// How large a ring is, and who takes what is put into it.
#[derive(Clone, Debug)]
pub struct UringConfig {
    /// Submission queue entries, a power of two; the completion queue has four times as many. More operations than this
    /// may be in flight; what does not fit waits for the next turn.
    pub entries: u32,
    /// How the kernel learns of them.
    pub submission: Submission,
}

impl UringConfig {
    /// A ring of this many entries, with one enter for each turn.
    pub fn with_entries(entries: u32) -> UringConfig {
        UringConfig { entries, ..UringConfig::default() }
    }
}

impl Default for UringConfig {
    fn default() -> UringConfig {
        UringConfig { entries: 1024, submission: Submission::Enter }
    }
}

/// How the kernel learns of what was queued.
#[derive(Clone, Debug)]
pub enum Submission {
    /// One `io_uring_enter` for each turn that queued something.
    Enter,
    /// A thread of the kernel's polls the queue (SQPOLL, Linux 5.13): no enter while it is awake. It keeps a processor
    /// busy that has to be another one than the caller's, where nothing else spins.
    Polled {
        /// Where that thread runs; `None`: wherever the kernel likes.
        processor: Option<u32>,
        /// How long it polls an empty queue before it sleeps; to wake it takes an enter.
        idle: std::time::Duration,
    },
    /// The same, by the thread that polls for another ring of this process.
    PolledBy(Poller),
}

/// The kernel thread that polls for a ring; others can have it poll for them too, so that a process has one only. It lives
/// as long as any of them.
#[derive(Clone, Debug)]
pub struct Poller {
    /// The ring that it was made for.
    pub(super) ring: Fd,
}

/// Why a ring could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UringError {
    #[error(
        "io_uring with {entries} entries refused by the kernel ({source}); is kernel.io_uring_disabled 0, and the kernel 5.19 or newer?"
    )]
    Setup { entries: u32, source: io::Error },
    #[error(
        "io_uring with a polling thread{} refused by the kernel ({source}); {}",
        .processor.map_or_else(String::new, |processor| format!(" on processor {processor}")),
        remedy(source)
    )]
    Polled { processor: Option<u32>, source: io::Error },
}

/// What mends a refused polling thread.
fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EINVAL) => "name a processor that this process may use (taskset -cp $$ shows them), or none",
        Some(libc::EPERM) => {
            "the kernel or this container forbids it: sysctl kernel.io_uring_disabled=0, and for kernels before 5.13 \
             CAP_SYS_NICE"
        }
        Some(libc::ENOSYS) => "this kernel has no io_uring, or a seccomp filter hides it: allow io_uring_setup",
        Some(libc::ENOMEM) => "raise the limit of locked memory: ulimit -l unlimited",
        Some(libc::EAGAIN) => "raise the limit of threads: ulimit -u unlimited",
        _ => "use rings that are entered instead",
    }
}

/// How much a receive wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Complete with whatever has arrived.
    Some,
    /// Complete when the whole range is filled, or the stream ends.
    All,
}

/// How often a receive from the pool completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shots {
    /// Once, with so many bytes at most.
    One {
        /// The most.
        bytes_max: usize,
    },
    /// Whenever something has come.
    Many,
}

/// A pooled receive that may be taken back.
#[derive(Debug)]
pub struct Pending {
    pub(super) token: u64,
    pub(super) key: usize,
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
    /// What became of the medium.
    Standing(Standing),
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
    /// More completions of this operation follow (`accept`, `recv_pooled`).
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

/// How the kernel was persuaded to run completions: polled if that was asked for, else the first of the others that it
/// knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Completions are run by this thread's own enters only (SINGLE_ISSUER, DEFER_TASKRUN; Linux 6.1).
    Deferred,
    /// At the next entry into the kernel, whatever for (COOP_TASKRUN; Linux 5.19).
    Cooperative,
    /// Whenever the kernel likes, by interrupting this thread.
    Plain,
    /// By the thread of the kernel's that also polls for what is submitted ([`Submission::Polled`]).
    Polled,
}

impl Durability {
    pub(super) fn flags(self) -> i32 {
        match self {
            Durability::Cached => 0,
            Durability::Durable => libc::RWF_DSYNC,
        }
    }
}
