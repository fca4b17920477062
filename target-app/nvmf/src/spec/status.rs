//! Status of a completion (Base 2.0, 3.3.3.2.1).

use std::fmt;

/// Bits 15:1 of the completion's status word: SC 7:0, SCT 10:8, CRD 12:11, M 13, DNR 14.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(u16);

const DNR: u16 = 1 << 14;

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            fn name(self) -> Option<&'static str> {
                match Self(self.0 & 0x7ff) {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    /// Successful Completion.
    SUCCESS = 0x000;
    /// Invalid Command Opcode.
    INVALID_OPCODE = 0x001;
    /// Invalid Field in Command.
    INVALID_FIELD = 0x002;
    /// Data Transfer Error.
    DATA_TRANSFER_ERROR = 0x004;
    /// Internal Error.
    INTERNAL_ERROR = 0x006;
    /// Command Abort Requested.
    ABORT_REQUESTED = 0x007;
    /// Command Aborted due to SQ Deletion.
    ABORTED_SQ_DELETION = 0x008;
    /// Invalid Namespace or Format.
    INVALID_NAMESPACE = 0x00b;
    /// Command Sequence Error.
    COMMAND_SEQUENCE_ERROR = 0x00c;
    /// Invalid SGL Segment Descriptor.
    INVALID_SGL_SEGMENT = 0x00d;
    /// Data SGL Length Invalid.
    DATA_SGL_LENGTH_INVALID = 0x00f;
    /// SGL Descriptor Type Invalid.
    SGL_TYPE_INVALID = 0x011;
    /// SGL Offset Invalid.
    SGL_OFFSET_INVALID = 0x016;
    /// Namespace is Write Protected.
    WRITE_PROTECTED = 0x020;
    /// Transient Transport Error.
    TRANSIENT_TRANSPORT_ERROR = 0x022;
    /// LBA Out of Range.
    LBA_OUT_OF_RANGE = 0x080;
    /// Capacity Exceeded.
    CAPACITY_EXCEEDED = 0x081;
    /// Namespace Not Ready.
    NAMESPACE_NOT_READY = 0x082;
    /// Asynchronous Event Request Limit Exceeded.
    AER_LIMIT_EXCEEDED = 0x105;
    /// Invalid Log Page.
    INVALID_LOG_PAGE = 0x109;
    /// Feature Identifier Not Saveable.
    FEATURE_NOT_SAVEABLE = 0x10d;
    /// Feature Not Changeable.
    FEATURE_NOT_CHANGEABLE = 0x10e;
    /// Connect Incompatible Format.
    CONNECT_INCOMPATIBLE_FORMAT = 0x180;
    /// Connect Controller Busy.
    CONNECT_CONTROLLER_BUSY = 0x181;
    /// Connect Invalid Parameters.
    CONNECT_INVALID_PARAMETERS = 0x182;
    /// Connect Restart Discovery.
    CONNECT_RESTART_DISCOVERY = 0x183;
    /// Connect Invalid Host.
    CONNECT_INVALID_HOST = 0x184;
    /// Asymmetric Access Persistent Loss.
    ANA_PERSISTENT_LOSS = 0x301;
    /// Asymmetric Access Inaccessible.
    ANA_INACCESSIBLE = 0x302;
    /// Asymmetric Access Transition.
    ANA_TRANSITION = 0x303;
    /// Write Fault.
    WRITE_FAULT = 0x280;
    /// Unrecovered Read Error.
    UNRECOVERED_READ_ERROR = 0x281;
}

impl Status {
    /// From the wire, already shifted right by one.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x7fff)
    }

    /// For the wire, to be shifted left by one.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The same with Do Not Retry set.
    pub const fn dnr(self) -> Self {
        Self(self.0 | DNR)
    }

    /// Whether Do Not Retry is set.
    pub const fn is_dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// Status code type and status code, without the modifiers.
    pub const fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// Whether the command succeeded.
    pub const fn is_success(self) -> bool {
        self.code() == 0
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {:#05x}", self.code())?;
        if let Some(name) = self.name() {
            write!(f, " {name}")?;
        }
        if self.is_dnr() {
            f.write_str(" (do not retry)")?;
        }
        Ok(())
    }
}
