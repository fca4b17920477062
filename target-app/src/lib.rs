//! Longrun: an NVMe-oF storage target with write-ordered asynchronous remote copy.
//!
//! # How the program is built
//!
//! ```text
//!             hosts (NVMe/TCP)                                        operators (JSON-RPC)
//!                   |                                                        |
//!   +---------------v----------------+   rings    +--------------------------v-----+
//!   | reactor, one for each core     |<==========>| control: async runtime, state  |
//!   |  Session: socket <-> machine   |  commands  |  bdevs, links, groups, pairs,  |
//!   |   (longrun_nvmf)               |            |  subsystems, configuration     |
//!   |  Core: devices, copy engine    |            +--------------------------------+
//!   |   (longrun_bdev, longrun_copy) |   metadata  timeline
//!   |  Uring: disk, TCP, UDP         |   (redb)    (hal::clock)
//!   |   (longrun_hal)                |
//!   +--------------------------------+
//! ```
//!
//! Dependencies run one way: this crate knows all others; `longrun_bdev` knows `longrun_copy` and `longrun_hal`;
//! `longrun_nvmf` and `longrun_copy` are state machines without I/O that know nothing of clocks, threads, sockets or
//! files; `longrun_rpc` knows types only. Only `longrun_hal` has `unsafe`.
//!
//! **One turn of a reactor** ([`reactor`]): take a batch from the ring and from the other cores, read the clock, run
//! everything that the batch started to its end, and leave with one `io_uring_enter` that also fetches the next batch. A
//! volume, its streams and its group have one home core, the only one that writes their state; requests from
//! connections elsewhere hop by ring.
//!
//! **No system call at all** (`serve --io sqpoll`): the ring is polled by a thread of the kernel's, one for all reactors of
//! the process, and everything else that a reactor would call the kernel for (waking other threads: metadata, the log,
//! answers to the control plane) goes by ring to a thread that looks after it ([`reactor::clerk`]). What a turn needs is kept
//! from those before it, so nothing is allocated or freed either; the program counts that for each thread
//! ([`longrun_hal::alloc`]), `framework_get_reactors` shows it, and `tests/tests/fast_path.rs` demands both to be zero.
//!
//! **Beside the cores** ([`serve`], [`control`]): an ordinary async runtime answers RPCs, steers the timeline and
//! leases time from the metadata store. It may be slow; it never makes a core wait. What it asks of a core is a closure
//! that the core runs between two turns ([`reactor::ReactorHandle`]).
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`reactor`] | the loop of one core, its connections, the rings between cores |
//! | [`control`] | what operators ask for, one file per kind of object |
//! | [`serve`] | bringing a system up and taking it down; the timeline's keeper |
//! | [`metadata`] | what must outlive the process beside journals and volumes |
//! | [`identity`] | this system's key |
//! | [`saved`] | the configuration in the state directory |
//! | [`cli`] | the command line |
//! | [`demo`] | two systems, a bad network, a kill, a takeover, a verdict |

// These panic when their reader has left: `cli::output` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod bench;
pub mod cli;
pub mod control;
pub mod demo;
pub mod identity;
pub mod lab;
pub mod metadata;
pub mod reactor;
pub mod saved;
pub mod serve;
