//! The one crate with unsafe: memory, rings, clock, pinning, io_uring, AF_XDP.
//!
//! Everything else in Longrun forbids `unsafe`, so everything public here is safe to call whatever the arguments are:
//! a caller can waste memory or wait for ever, never read or write what is not its own.
//!
//! | module | what it is | who holds it |
//! | --- | --- | --- |
//! | [`arena`] | one mapping per core, huge pages where there are any; [`Buf`] (unique) and [`Shared`] (counted) views | each reactor |
//! | [`ring`] | bounded single-producer single-consumer ring | one per ordered pair of cores |
//! | [`wake`] | how a producer wakes a core that sleeps in the kernel | each reactor and all who push to it |
//! | [`clock`] | fenced TSC reads and the group's [`clock::Timeline`] with its lease | control plane (discipline), reactors (read) |
//! | [`uring`] | one io_uring per core: disk, TCP, UDP; at most one `io_uring_enter` per turn | each reactor |
//! | [`fd`], [`file`](mod@file), [`net`] | descriptors that in-flight operations keep open; files and sockets set up for the above | control plane |
//! | [`xdp`], [`frame`] | raw frames past the kernel's network stack (AF_XDP), and their headers | control plane (opens), reactors |
//! | [`copy`](mod@copy) | copies to memory that nobody reads soon | devices in memory |
//! | [`alloc`] | the system's allocator, counted for each thread | the program |
//! | [`affinity`] | pinning to cores named by the configuration | each reactor |
//!
//! Our own atomics ([`ring`], [`wake`]) compile under loom by one switch (`sync.rs`):
//! `RUSTFLAGS="--cfg loom" cargo test -p longrun-hal --lib loom_ --release`.

pub mod affinity;
pub mod alloc;
pub mod arena;
pub mod clock;
pub mod copy;
pub mod fd;
pub mod file;
pub mod frame;
pub mod net;
pub mod ring;
mod sync;
pub mod uring;
pub mod wake;
pub mod xdp;

pub use arena::{Arena, ArenaConfig, Buf, Shared};
pub use fd::Fd;
pub use uring::{Completion, Gather, Returned, Uring, UringConfig};
