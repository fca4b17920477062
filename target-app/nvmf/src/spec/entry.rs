//! Submission and completion queue entries (Base 2.0, 3.3.3).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use super::Status;

/// Opcodes.
pub mod opcode {
    #![allow(missing_docs)]
    pub const FABRICS: u8 = 0x7f;

    pub const FABRICS_PROPERTY_SET: u8 = 0x00;
    pub const FABRICS_CONNECT: u8 = 0x01;
    pub const FABRICS_PROPERTY_GET: u8 = 0x04;
    pub const FABRICS_DISCONNECT: u8 = 0x08;

    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const GET_FEATURES: u8 = 0x0a;
    pub const ASYNC_EVENT_REQUEST: u8 = 0x0c;
    pub const KEEP_ALIVE: u8 = 0x18;

    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
}

/// An SGL descriptor (Base 2.0, 4.1.2); only data blocks exist on NVMe/TCP (TCP 3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SglDescriptor {
    /// Offset into the capsule's data for the in-capsule kind.
    pub address: U64,
    /// Length of the data.
    pub length: U32,
    /// Zero.
    pub reserved: [u8; 3],
    /// Type in the high nibble, subtype in the low one.
    pub kind: u8,
}
const _: () = assert!(size_of::<SglDescriptor>() == 16);

impl SglDescriptor {
    /// Data block by offset: the data is in the capsule.
    pub const IN_CAPSULE: u8 = 0x01;
    /// Transport data block: the data goes by data PDUs.
    pub const TRANSPORT: u8 = 0x5a;
}

/// A submission queue entry, with the data pointer as the SGL that Fabrics requires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Sqe {
    /// [`opcode`].
    pub opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// Namespace; for Fabrics commands the low byte is the command type (FCTYPE).
    pub nsid: U32,
    /// Command dwords 2 and 3.
    pub cdw2: [U32; 2],
    /// Metadata pointer.
    pub mptr: U64,
    /// Data pointer.
    pub sgl: SglDescriptor,
    /// Command dwords 10 to 15.
    pub cdw10: [U32; 6],
}
const _: () = assert!(size_of::<Sqe>() == 64);

/// A completion queue entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Cqe {
    /// Dwords 0 and 1: the command's result.
    pub result: U64,
    /// Submission queue head pointer; 0xFFFF when flow control is off.
    pub sqhd: U16,
    /// Reserved in Fabrics.
    pub sqid: U16,
    /// Command identifier.
    pub cid: U16,
    /// Status in bits 15:1; bit 0 reserved in Fabrics.
    pub status: U16,
}
const _: () = assert!(size_of::<Cqe>() == 16);

impl Cqe {
    /// The status field.
    pub fn status(&self) -> Status {
        Status::from_bits(self.status.get() >> 1)
    }
}

impl Sqe {
    /// One of command dwords 10 to 15.
    pub fn dword(&self, number: usize) -> u32 {
        number.checked_sub(10).and_then(|i| self.cdw10.get(i)).map_or(0, |d| d.get())
    }

    /// Command dwords 10 and 11 as one number: an LBA.
    pub fn slba(&self) -> u64 {
        u64::from(self.dword(10)) | u64::from(self.dword(11)) << 32
    }
}
