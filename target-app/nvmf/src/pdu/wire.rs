//! The layouts of TCP 3.6.2, little-endian, sizes checked at compile time.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32},
};

use crate::spec::{Cqe, Sqe};

/// PDU types (TCP figure 13).
pub mod kind {
    #![allow(missing_docs)]
    pub const IC_REQ: u8 = 0x00;
    pub const IC_RESP: u8 = 0x01;
    pub const H2C_TERM_REQ: u8 = 0x02;
    pub const C2H_TERM_REQ: u8 = 0x03;
    pub const CAPSULE_CMD: u8 = 0x04;
    pub const CAPSULE_RESP: u8 = 0x05;
    pub const H2C_DATA: u8 = 0x06;
    pub const C2H_DATA: u8 = 0x07;
    pub const R2T: u8 = 0x09;
}

/// Flags of the common header.
pub mod flag {
    /// A header digest follows the header.
    pub const HDGST: u8 = 1 << 0;
    /// A data digest follows the data.
    pub const DDGST: u8 = 1 << 1;
    /// The last data PDU of its transfer (C2HData) or of its R2T (H2CData).
    pub const LAST: u8 = 1 << 2;
    /// On the last C2HData: the command succeeded and no CapsuleResp follows.
    pub const SUCCESS: u8 = 1 << 3;
}

/// PDU common header (TCP 3.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommonHeader {
    /// [`kind`].
    pub kind: u8,
    /// [`flag`].
    pub flags: u8,
    /// Header length without digest.
    pub hlen: u8,
    /// Offset of the data; 0 without data.
    pub pdo: u8,
    /// Length of everything.
    pub plen: U32,
}
const _: () = assert!(size_of::<CommonHeader>() == 8);

/// ICReq (TCP 3.6.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcReq {
    /// Common header.
    pub common: CommonHeader,
    /// Protocol version, 0.
    pub pfv: U16,
    /// Alignment of data towards the host: a multiple of (HPDA + 1) dwords.
    pub hpda: u8,
    /// Bit 0: header digest wanted, bit 1: data digest wanted.
    pub dgst: u8,
    /// R2Ts the host takes per command, less one.
    pub maxr2t: U32,
    /// Zero.
    pub reserved: [u8; 112],
}
const _: () = assert!(size_of::<IcReq>() == 128);

/// ICResp (TCP 3.6.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcResp {
    /// Common header.
    pub common: CommonHeader,
    /// Protocol version, 0.
    pub pfv: U16,
    /// Alignment of data towards the controller, in dwords less one.
    pub cpda: u8,
    /// Bit 0: header digest on, bit 1: data digest on.
    pub dgst: u8,
    /// The most data one H2CData may carry.
    pub maxh2cdata: U32,
    /// Zero.
    pub reserved: [u8; 112],
}
const _: () = assert!(size_of::<IcResp>() == 128);

/// H2CTermReq and C2HTermReq (TCP 3.6.2.4, 3.6.2.5); the offending PDU's header follows as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TermReq {
    /// Common header.
    pub common: CommonHeader,
    /// Fatal error status.
    pub fes: U16,
    /// Fatal error information: a field's offset or the digest received.
    pub fei: U32,
    /// Zero.
    pub reserved: [u8; 10],
}
const _: () = assert!(size_of::<TermReq>() == 24);

/// CapsuleCmd (TCP 3.6.2.6), before its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CapsuleCmd {
    /// Common header.
    pub common: CommonHeader,
    /// The submission queue entry.
    pub sqe: Sqe,
}
const _: () = assert!(size_of::<CapsuleCmd>() == 72);

/// CapsuleResp (TCP 3.6.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CapsuleResp {
    /// Common header.
    pub common: CommonHeader,
    /// The completion queue entry.
    pub cqe: Cqe,
}
const _: () = assert!(size_of::<CapsuleResp>() == 24);

/// H2CData (TCP 3.6.2.8) and C2HData (TCP 3.6.2.9), before the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Data {
    /// Common header.
    pub common: CommonHeader,
    /// The command's identifier.
    pub cccid: U16,
    /// H2CData: the R2T's transfer tag. C2HData: reserved.
    pub ttag: U16,
    /// Offset of this data in the command's whole data.
    pub datao: U32,
    /// Length of this data.
    pub datal: U32,
    /// Zero.
    pub reserved: [u8; 4],
}
const _: () = assert!(size_of::<Data>() == 24);

/// R2T (TCP 3.6.2.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct R2t {
    /// Common header.
    pub common: CommonHeader,
    /// The command's identifier.
    pub cccid: U16,
    /// The controller's name for this transfer.
    pub ttag: U16,
    /// Offset of the wanted data in the command's whole data.
    pub r2to: U32,
    /// How much is wanted.
    pub r2tl: U32,
    /// Zero.
    pub reserved: [u8; 4],
}
const _: () = assert!(size_of::<R2t>() == 24);

impl CommonHeader {
    /// A header of this type; length fields are set when it is written.
    pub const fn of(kind: u8) -> Self {
        Self { kind, flags: 0, hlen: 0, pdo: 0, plen: U32::ZERO }
    }
}

macro_rules! has_common_header {
    ($($pdu:ty),*) => {
        $(impl AsMut<CommonHeader> for $pdu {
            fn as_mut(&mut self) -> &mut CommonHeader {
                &mut self.common
            }
        })*
    };
}

has_common_header!(IcReq, IcResp, TermReq, CapsuleCmd, CapsuleResp, Data, R2t);
