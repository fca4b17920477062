//! What NVM Express Base and the NVM Command Set put on the wire.

mod entry;
mod status;

pub use entry::{Cqe, SglDescriptor, Sqe, opcode};
pub use status::Status;
