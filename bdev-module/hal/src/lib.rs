//! The one crate with unsafe: memory, rings, clock, pinning, io_uring.
