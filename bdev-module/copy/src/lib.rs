//! The remote-copy engine as state machines without I/O.

pub mod apply;
pub mod blank;
pub mod engine;
pub mod journal;
pub mod link;
pub mod merge;
pub mod message;
pub mod overlap;
pub mod ports;
pub mod primary;
pub mod scope;
pub mod secondary;
pub mod stamp;
pub mod stream;
pub mod takeover;
pub mod types;
