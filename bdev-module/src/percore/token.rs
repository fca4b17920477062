//! How the 64 bits of a ring token are shared out on a core.
//!
//! The top byte is the class. Classes 0x00 to 0x0f belong to this crate, the others to the reactor: hand a completion to
//! [`Core::on_completion`](super::Core::on_completion) if [`is_ours`] says so.
//!
//! | class | bits 55..32 | bits 31..0 |
//! | --- | --- | --- |
//! | 0x01 bdev | bdev id | the bdev's own tag |
//! | 0x02 link receive | 0 | socket |
//! | 0x03 link send | 0 | socket |
//! | 0x04 raw frames to receive | 0 | serial of the raw socket |
//! | 0x05 raw frames' nudge to send | 0 | serial of the raw socket |
//! | 0x06 raw frames' nudge to receive | 0 | serial of the raw socket |

use crate::io::BdevId;

/// Operations of bdevs.
pub const CLASS_BDEV: u8 = 0x01;
/// Trains received by links.
pub const CLASS_LINK_RECEIVE: u8 = 0x02;
/// Trains sent by links.
pub const CLASS_LINK_SEND: u8 = 0x03;
/// There are raw frames to receive.
pub const CLASS_RAW_READABLE: u8 = 0x04;
/// The kernel was told that there are raw frames to send.
pub const CLASS_RAW_NUDGE: u8 = 0x05;
/// The kernel was told that there is memory for raw frames.
pub const CLASS_RAW_RECEIVE_NUDGE: u8 = 0x06;
/// The first class that is the reactor's.
pub const FIRST_FOREIGN_CLASS: u8 = 0x10;

/// The class of a token.
pub fn class(token: u64) -> u8 {
    token.to_be_bytes()[0]
}

/// Whether a completion with this token belongs to [`Core::on_completion`](super::Core::on_completion).
pub fn is_ours(token: u64) -> bool {
    class(token) < FIRST_FOREIGN_CLASS
}

fn of(class: u8, rest: u64) -> u64 {
    u64::from(class) << 56 | rest
}

pub(crate) fn bdev(id: BdevId, tag: u32) -> u64 {
    debug_assert!(id <= BdevId::MAX);
    of(CLASS_BDEV, u64::from(id.0) << 32 | u64::from(tag))
}

pub(crate) fn bdev_parts(token: u64) -> (BdevId, u32) {
    (BdevId((token >> 32) as u32 & BdevId::MAX.0), token as u32)
}

pub(crate) fn link_receive(socket: usize) -> u64 {
    of(CLASS_LINK_RECEIVE, socket as u64)
}

pub(crate) fn link_send(socket: usize) -> u64 {
    of(CLASS_LINK_SEND, socket as u64)
}

pub(crate) fn socket(token: u64) -> usize {
    token as u32 as usize
}

pub(crate) fn raw(class: u8, serial: u32) -> u64 {
    of(class, u64::from(serial))
}

pub(crate) fn raw_serial(token: u64) -> u32 {
    token as u32
}
