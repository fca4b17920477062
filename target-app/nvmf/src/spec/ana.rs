//! Asymmetric Namespace Access (Base 2.0, 8.1): the states, and the log page that tells them.

use std::fmt;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// How well the namespaces of an ANA group are reached through a controller (Base 2.0, 8.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AnaState {
    /// The path to use.
    #[default]
    Optimized = 0x01,
    /// A path that works but costs more.
    NonOptimized = 0x02,
    /// I/O is refused here; another controller may serve it.
    Inaccessible = 0x03,
    /// As inaccessible, and for good.
    PersistentLoss = 0x04,
    /// Between two states: hosts try again, at the latest after ANATT.
    Change = 0x0f,
}

impl AnaState {
    /// From the wire.
    pub const fn from_wire(value: u8) -> Option<Self> {
        Some(match value & 0x0f {
            0x01 => Self::Optimized,
            0x02 => Self::NonOptimized,
            0x03 => Self::Inaccessible,
            0x04 => Self::PersistentLoss,
            0x0f => Self::Change,
            _ => return None,
        })
    }

    /// For the wire.
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// The one that leaves hosts less, of two.
    pub const fn worse(self, other: Self) -> Self {
        if self.severity() < other.severity() { other } else { self }
    }

    const fn severity(self) -> u8 {
        match self {
            Self::Optimized => 0,
            Self::NonOptimized => 1,
            Self::Change => 2,
            Self::Inaccessible => 3,
            Self::PersistentLoss => 4,
        }
    }

    /// Whether I/O is served.
    pub const fn serves_io(self) -> bool {
        matches!(self, Self::Optimized | Self::NonOptimized)
    }
}

impl fmt::Display for AnaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non-optimized",
            Self::Change => "change",
            Self::Inaccessible => "inaccessible",
            Self::PersistentLoss => "persistent-loss",
        })
    }
}

/// The head of the ANA log (Base 2.0, figure 219).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AnaHeader {
    /// Rises each time the log's content changes; 0 after a reset of the controller.
    pub change_count: U64,
    /// Descriptors that follow.
    pub groups: U16,
    /// Zero.
    pub reserved10: [u8; 6],
}
const _: () = assert!(size_of::<AnaHeader>() == 16);

/// One ANA group, followed by its namespaces' numbers (Base 2.0, figure 220).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AnaGroupDescriptor {
    /// ANAGRPID.
    pub group: U32,
    /// Numbers that follow.
    pub namespaces: U32,
    /// As in the header, for this group alone.
    pub change_count: U64,
    /// Bits 3:0 are the state.
    pub state: u8,
    /// Zero.
    pub reserved17: [u8; 15],
}
const _: () = assert!(size_of::<AnaGroupDescriptor>() == 32);
