//! NVMe/TCP protocol data units (TCP 3.6).

mod wire;

pub use wire::*;

/// Which digests a connection uses (TCP 3.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// CRC32C behind every header.
    pub header: bool,
    /// CRC32C behind every payload.
    pub data: bool,
}
