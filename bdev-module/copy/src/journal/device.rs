//! What a log asks of the role that owns it.

use crate::ports::{LocalIo, Memory};
use crate::types::{Mono, VolumeId};

/// The world as a log sees it during one call. `T` is the owner's own word for what a local I/O was for: the log submits
/// with it, and the owner brings the completion back to the log by it.
pub(crate) trait LogPorts<T>: Memory {
    /// Now.
    fn mono(&self) -> Mono;

    /// Submits to the log's device; the completion comes back to the owner with the purpose.
    fn submit_log(&mut self, purpose: T, volume: VolumeId, io: LocalIo<Self::Buf, Self::Shared>);
}
