//! The remote-copy engine as state machines without I/O.

pub mod engine;
pub mod journal;
pub mod link;
pub mod message;
pub mod ports;
pub mod primary;
pub mod secondary;
pub mod stream;
pub mod takeover;
pub mod types;
