//! Requests, their ends, and why they fail.

use longrun_copy::ports::LocalToken;
use longrun_copy::types::{Extent, Geometry};
use longrun_hal::{Buf, Shared};

/// A bdev in this process; given by the catalog, never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BdevId(pub u32);

impl BdevId {
    /// The highest id: ids travel in three bytes of a ring token.
    pub const MAX: BdevId = BdevId((1 << 24) - 1);
}

/// Kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoType {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Write zeroes.
    WriteZeroes,
    /// Deallocate.
    Unmap,
    /// Make durable.
    Flush,
}

impl IoType {
    /// All of them.
    pub const ALL: [IoType; 5] = [IoType::Read, IoType::Write, IoType::WriteZeroes, IoType::Unmap, IoType::Flush];

    /// The name that `bdev_error_inject_error` and `bdev_get_bdevs` use.
    pub fn name(self) -> &'static str {
        match self {
            IoType::Read => "read",
            IoType::Write => "write",
            IoType::WriteZeroes => "write_zeroes",
            IoType::Unmap => "unmap",
            IoType::Flush => "flush",
        }
    }
}

/// A request. Buffers belong to it until it ends; a read's comes back in [`IoDone::buf`].
#[derive(Debug)]
pub enum Io {
    /// Fill `buf` from the extent.
    Read {
        /// Where.
        extent: Extent,
        /// Of the extent's size.
        buf: Buf,
    },
    /// Write `data` (any alignment in memory).
    Write {
        /// Where.
        extent: Extent,
        /// Of the extent's size.
        data: Shared,
        /// Durable before it ends.
        fua: bool,
    },
    /// Write zeroes.
    WriteZeroes {
        /// Where.
        extent: Extent,
        /// Durable before it ends.
        fua: bool,
    },
    /// Deallocate; the blocks read as zeroes afterwards.
    Unmap {
        /// Where.
        extent: Extent,
    },
    /// Make durable every write that had ended when this was submitted.
    Flush,
}

impl Io {
    /// Its kind.
    pub fn io_type(&self) -> IoType {
        match self {
            Io::Read { .. } => IoType::Read,
            Io::Write { .. } => IoType::Write,
            Io::WriteZeroes { .. } => IoType::WriteZeroes,
            Io::Unmap { .. } => IoType::Unmap,
            Io::Flush => IoType::Flush,
        }
    }

    /// Where, but for a flush.
    pub fn extent(&self) -> Option<Extent> {
        match self {
            Io::Read { extent, .. }
            | Io::Write { extent, .. }
            | Io::WriteZeroes { extent, .. }
            | Io::Unmap { extent } => Some(*extent),
            Io::Flush => None,
        }
    }

    /// A read's buffer, back from a request that is not done.
    pub fn into_buf(self) -> Option<Buf> {
        match self {
            Io::Read { buf, .. } => Some(buf),
            _ => None,
        }
    }

    /// Whether it fits a volume of this geometry: inside, not empty, and with a buffer of its size.
    pub fn check(&self, geometry: Geometry) -> Result<(), IoError> {
        let Some(extent) = self.extent() else { return Ok(()) };
        if !geometry.holds(extent) {
            return Err(IoError::OutOfRange { lba: extent.lba, blocks: extent.blocks, volume_blocks: geometry.blocks });
        }
        let given_bytes = match self {
            Io::Read { buf, .. } => buf.len(),
            Io::Write { data, .. } => data.len(),
            _ => return Ok(()),
        };
        let expected_bytes = u64::from(extent.blocks) * u64::from(geometry.block_bytes);
        if given_bytes as u64 != expected_bytes {
            return Err(IoError::BufferLength { given_bytes: given_bytes as u64, expected_bytes });
        }
        Ok(())
    }
}

/// To whom a request's end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The reactor; the number is its own.
    Host(u64),
    /// The copy engine of this core.
    Copy(LocalToken),
}

/// The end of a host's request.
#[derive(Debug)]
pub struct IoDone {
    /// The reactor's number, as submitted.
    pub origin: u64,
    /// How it ended.
    pub result: Result<(), IoError>,
    /// A read's buffer, whatever the result.
    pub buf: Option<Buf>,
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// NVMe: LBA out of range.
    #[error("{blocks} blocks from {lba} on do not lie within the volume's {volume_blocks}")]
    OutOfRange {
        /// First block asked for.
        lba: u64,
        /// How many.
        blocks: u32,
        /// What there is.
        volume_blocks: u64,
    },
    /// NVMe: invalid field.
    #[error("a buffer of {given_bytes} bytes for an extent of {expected_bytes} bytes")]
    BufferLength {
        /// The buffer's length.
        given_bytes: u64,
        /// The extent's.
        expected_bytes: u64,
    },
    /// NVMe: internal error (write fault, unrecovered read error by the request's kind).
    #[error("the medium reported errno {errno}")]
    Device {
        /// Positive.
        errno: i32,
    },
    /// NVMe: command interrupted, to be tried again.
    #[error("memory is short for now; try again")]
    NoMemory,
    /// NVMe: invalid namespace.
    #[error("there is no such bdev on this core")]
    NoBdev,
    /// NVMe: namespace not ready, to be tried on another path.
    #[error("this is a secondary volume; it serves hosts after group_takeover")]
    Secondary,
    /// NVMe: write fault without retry: another site took over.
    #[error("another site took this group over; this volume is fenced")]
    Fenced,
    /// NVMe: asymmetric access transition, to be tried again, here or on another path.
    #[error("the volume is being handed over to the other site; try the other path")]
    Transition,
    /// NVMe: command aborted, may be tried again.
    #[error("the request was abandoned; it may be tried again")]
    Aborted,
}

impl IoError {
    /// The nearest errno, positive.
    pub fn errno(self) -> i32 {
        match self {
            IoError::OutOfRange { .. } | IoError::BufferLength { .. } => libc::EINVAL,
            IoError::Device { errno } => errno,
            IoError::NoMemory => libc::ENOMEM,
            IoError::NoBdev => libc::ENODEV,
            IoError::Secondary => libc::EROFS,
            IoError::Fenced => libc::ESTALE,
            IoError::Transition => libc::EAGAIN,
            IoError::Aborted => libc::ECANCELED,
        }
    }
}
