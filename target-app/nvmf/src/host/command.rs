//! Commands a host can send.

use crate::spec::Sqe;

/// The data of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// No data.
    None,
    /// From the host, in capsule when it fits.
    ToTarget(Vec<u8>),
    /// To the host, so many bytes.
    FromTarget(u32),
}

/// A submission queue entry without identifier and data pointer, and its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The entry.
    pub sqe: Sqe,
    /// The data.
    pub transfer: Transfer,
}
