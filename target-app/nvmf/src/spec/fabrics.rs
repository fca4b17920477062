//! Fabrics commands (Base 2.0, section 6).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U16};

use super::Sqe;

/// The command-specific part of Connect (Base 2.0, figure 380).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectCommand {
    /// Record format, 0.
    pub record_format: u16,
    /// 0 for the admin queue.
    pub qid: u16,
    /// Entries of the submission queue less one.
    pub sqsize: u16,
    /// Bit 2: no submission queue flow control.
    pub attributes: u8,
    /// Keep-alive time-out in ms.
    pub keep_alive_ms: u32,
}

impl ConnectCommand {
    /// CATTR: disable SQ flow control.
    pub const DISABLE_FLOW_CONTROL: u8 = 1 << 2;

    /// Reads it out of an entry.
    pub fn parse(sqe: &Sqe) -> Self {
        let [first, second, third, ..] = sqe.cdw10.map(|dword| dword.get());
        Self {
            record_format: first as u16,
            qid: (first >> 16) as u16,
            sqsize: second as u16,
            attributes: (second >> 16) as u8,
            keep_alive_ms: third,
        }
    }

    /// Puts it into an entry.
    pub fn write(&self, sqe: &mut Sqe) {
        let [first, second, third, ..] = &mut sqe.cdw10;
        first.set(u32::from(self.record_format) | u32::from(self.qid) << 16);
        second.set(u32::from(self.sqsize) | u32::from(self.attributes) << 16);
        third.set(self.keep_alive_ms);
    }
}

/// The data of Connect (Base 2.0, figure 381).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectData {
    /// The host's identifier.
    pub host_id: [u8; 16],
    /// 0xFFFF for a new controller.
    pub cntlid: U16,
    /// Zero.
    pub reserved0: [u8; 238],
    /// The subsystem, ended by a zero.
    pub subnqn: [u8; 256],
    /// The host, ended by a zero.
    pub hostnqn: [u8; 256],
    /// Zero.
    pub reserved1: [u8; 256],
}
const _: () = assert!(size_of::<ConnectData>() == 1024);
