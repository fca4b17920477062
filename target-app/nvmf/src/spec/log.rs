//! Log pages (Base 2.0, 5.16).

use std::mem::offset_of;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U64},
};

/// Log page identifiers (Base 2.0, figure 202).
pub mod lid {
    #![allow(missing_docs)]
    pub const SUPPORTED: u8 = 0x00;
    pub const ERRORS: u8 = 0x01;
    pub const SMART: u8 = 0x02;
    pub const FIRMWARE: u8 = 0x03;
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    pub const EFFECTS: u8 = 0x05;
    pub const ANA: u8 = 0x0c;
    pub const FEATURE_EFFECTS: u8 = 0x12;
    pub const DISCOVERY: u8 = 0x70;
}

/// An entry of the error log; all zero when there is none.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorEntry {
    /// 0: no error.
    pub count: U64,
    /// What the error was.
    pub rest: [u8; 56],
}
const _: () = assert!(size_of::<ErrorEntry>() == 64);

/// SMART / Health Information (Base 2.0, figure 207). Fields without a name here stay zero.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "named as the figure names them")]
pub struct SmartLog {
    pub critical_warning: u8,
    /// Kelvin.
    pub composite_temperature: U16,
    pub available_spare: u8,
    pub available_spare_threshold: u8,
    pub rest: [u8; 507],
}
const _: () = assert!(size_of::<SmartLog>() == 512);

/// Firmware Slot Information (Base 2.0, figure 208).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "named as the figure names them")]
pub struct FirmwareSlots {
    pub afi: u8,
    pub reserved1: [u8; 7],
    pub frs: [[u8; 8]; 7],
    pub reserved64: [u8; 448],
}
const _: () = assert!(size_of::<FirmwareSlots>() == 512);

/// The head of the discovery log (Base 2.0, figure 264).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// Generation counter.
    pub genctr: U64,
    /// Number of entries.
    pub numrec: U64,
    /// Record format, 0.
    pub recfmt: U16,
    /// Zero.
    pub reserved: [u8; 1006],
}
const _: () = assert!(size_of::<DiscoveryHeader>() == 1024);

/// An entry of the discovery log (Base 2.0, figure 265).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "named as the figure names them")]
pub struct DiscoveryEntry {
    pub trtype: u8,
    pub adrfam: u8,
    pub subtype: u8,
    pub treq: u8,
    pub portid: U16,
    pub cntlid: U16,
    pub asqsz: U16,
    pub eflags: U16,
    pub reserved12: [u8; 20],
    pub trsvcid: [u8; 32],
    pub reserved64: [u8; 192],
    pub subnqn: [u8; 256],
    pub traddr: [u8; 256],
    pub tsas: [u8; 256],
}
const _: () = assert!(size_of::<DiscoveryEntry>() == 1024);
const _: () = assert!(offset_of!(DiscoveryEntry, traddr) == 512);

impl DiscoveryEntry {
    /// TRTYPE of TCP.
    pub const TCP: u8 = 3;
    /// SUBTYPE of an NVM subsystem.
    pub const NVM: u8 = 2;
    /// SUBTYPE of the discovery subsystem that is being asked.
    pub const CURRENT_DISCOVERY: u8 = 3;
    /// TREQ: secure channel not specified; disabling SQ flow control is supported.
    pub const TREQ: u8 = 1 << 2;
    /// EFLAGS: explicit persistent connections are supported.
    pub const PERSISTENT: u16 = 1 << 1;

    /// The address text without its padding.
    pub fn address(&self) -> &str {
        text(&self.traddr)
    }

    /// The port text without its padding.
    pub fn service(&self) -> &str {
        text(&self.trsvcid)
    }

    /// The subsystem's name without its padding.
    pub fn subsystem(&self) -> &str {
        text(&self.subnqn)
    }
}

fn text(field: &[u8]) -> &str {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    field.get(..end).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default().trim_end()
}
