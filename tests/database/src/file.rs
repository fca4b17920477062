//! One file on one block device: a header block with the file's length, and the file's bytes behind it.
//!
//! Nothing is kept back: the length and the block written last are remembered, because the next write is mostly beside it,
//! but each operation is finished on the device when it returns, so the device's writes are in the order of the file's
//! operations. A write that makes the file longer writes the bytes first and the length
//! then: cut between the two, the file is as before. Nothing more is promised about a cut in the middle of an operation,
//! as with any file system; that is what databases keep a log for.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[cfg(test)]
mod tests;

/// A device that carries out one command after the other. Positions are in blocks, lengths whole blocks.
pub trait BlockDevice {
    /// Bytes per block.
    fn block_bytes(&self) -> usize;
    /// How many there are.
    fn blocks(&self) -> u64;
    /// Fills `data`.
    fn read(&mut self, lba: u64, data: &mut [u8]) -> Result<(), DeviceError>;
    /// Writes `data`.
    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), DeviceError>;
    /// Makes what was written before durable.
    fn flush(&mut self) -> Result<(), DeviceError>;
}

/// Why a command has no good end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The target says no.
    #[error("the target answered {0}")]
    Refused(String),
    /// The connection ended; whether the command was carried out is unknown.
    #[error("the connection ended")]
    Gone,
}

/// Why a file operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The file would be larger than the device.
    #[error("a file of {wanted} bytes on a device for {most}")]
    Full {
        /// The length that was asked for.
        wanted: u64,
        /// What fits.
        most: u64,
    },
    /// The first block is neither empty nor a header.
    #[error("the device's first block is not a file's header: {0}")]
    Header(&'static str),
}

/// Where the file's bytes begin, on devices of either block size.
const DATA_AT: u64 = 4096;
const MAGIC: [u8; 8] = *b"LRFILE\x00\x01";
/// Bytes of zeroes written at a time.
const FILL_BYTES: usize = 64 << 10;

/// The beginning of the device's first block. All zeroes: there is no file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    length: U64,
    exists: U32,
    /// CRC32C of what comes before.
    crc: U32,
}

const _: () = assert!(size_of::<Header>() == 24);

impl Header {
    fn new(length: Option<u64>) -> Self {
        let length_bytes = length.unwrap_or(0).into();
        let mut header =
            Header { magic: MAGIC, length: length_bytes, exists: u32::from(length.is_some()).into(), crc: 0.into() };
        header.crc = header.checksum().into();
        header
    }

    fn checksum(&self) -> u32 {
        let bytes = self.as_bytes();
        crc_fast::crc32_iscsi(bytes.get(..bytes.len() - size_of::<U32>()).unwrap_or_default())
    }
}

/// The file.
#[derive(Debug)]
pub struct DeviceFile<D> {
    device: D,
    length: Option<u64>,
    /// The last block of the last write, and what it holds.
    edge: Option<(u64, Vec<u8>)>,
}

impl<D: BlockDevice> DeviceFile<D> {
    /// Finds the file that is on the device, or that there is none yet.
    pub fn open(mut device: D) -> Result<Self, FileError> {
        let mut block = vec![0; device.block_bytes()];
        device.read(0, &mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(DeviceFile { device, length: None, edge: None });
        }
        let (header, _) = Header::read_from_prefix(&block).map_err(|_| FileError::Header("too short"))?;
        if header.magic != MAGIC {
            return Err(FileError::Header("another magic number"));
        }
        if header.crc.get() != header.checksum() {
            return Err(FileError::Header("a wrong checksum"));
        }
        let length = (header.exists.get() != 0).then(|| header.length.get());
        let file = DeviceFile { device, length, edge: None };
        if file.length.unwrap_or(0) > file.most() {
            return Err(FileError::Header("a length beyond the device"));
        }
        Ok(file)
    }

    /// The file's length in bytes; none while there is no file.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The most bytes that fit.
    pub fn most(&self) -> u64 {
        (self.device.blocks() * self.device.block_bytes() as u64).saturating_sub(DATA_AT)
    }

    /// Makes an empty file, if there is none.
    pub fn create(&mut self) -> Result<(), FileError> {
        if self.length.is_some() { Ok(()) } else { self.note_length(Some(0)) }
    }

    /// Removes the file.
    pub fn remove(&mut self) -> Result<(), FileError> {
        self.note_length(None)
    }

    /// Cuts the file off, or fills it up with zeroes.
    pub fn set_length(&mut self, length: u64) -> Result<(), FileError> {
        self.fill_to(length)?;
        if self.length == Some(length) { Ok(()) } else { self.note_length(Some(length)) }
    }

    /// Up to `bytes` bytes from `at`; fewer at the file's end.
    pub fn read(&mut self, at: u64, bytes: usize) -> Result<Vec<u8>, FileError> {
        let left = self.length.unwrap_or(0).saturating_sub(at);
        let bytes = bytes.min(usize::try_from(left).unwrap_or(usize::MAX));
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let (lba, before, blocks_bytes) = self.window(at, bytes);
        let mut window = vec![0; blocks_bytes];
        self.device.read(lba, &mut window)?;
        Ok(window.get(before..before + bytes).unwrap_or_default().to_vec())
    }

    /// Writes `data` at `at`.
    pub fn write(&mut self, at: u64, data: &[u8]) -> Result<(), FileError> {
        let end = at.saturating_add(data.len() as u64);
        if end > self.most() {
            return Err(FileError::Full { wanted: end, most: self.most() });
        }
        self.fill_to(at)?;
        self.put(at, data)?;
        if self.length.is_none_or(|length| end > length) {
            self.note_length(Some(end))?;
        }
        Ok(())
    }

    /// Makes all that was written durable.
    pub fn flush(&mut self) -> Result<(), FileError> {
        Ok(self.device.flush()?)
    }

    /// Zeroes from the file's end to `at`, where another file's or an older one's bytes may be.
    fn fill_to(&mut self, at: u64) -> Result<(), FileError> {
        if at > self.most() {
            return Err(FileError::Full { wanted: at, most: self.most() });
        }
        let zeroes = [0; FILL_BYTES];
        let mut from = self.length.unwrap_or(0);
        while from < at {
            let piece = (at - from).min(FILL_BYTES as u64) as usize;
            self.put(from, zeroes.get(..piece).unwrap_or_default())?;
            from += piece as u64;
        }
        Ok(())
    }

    /// The blocks that hold `bytes` bytes from `at`: the first one, the bytes of it before `at`, and their length.
    fn window(&self, at: u64, bytes: usize) -> (u64, usize, usize) {
        let block_bytes = self.device.block_bytes();
        let from = DATA_AT + at;
        let before = (from % block_bytes as u64) as usize;
        (from / block_bytes as u64, before, (before + bytes).next_multiple_of(block_bytes))
    }

    /// Writes whole blocks, with what the device has around `data` where it begins or ends in the middle of one.
    fn put(&mut self, at: u64, data: &[u8]) -> Result<(), FileError> {
        if data.is_empty() {
            return Ok(());
        }
        let block_bytes = self.device.block_bytes();
        let (lba, before, bytes) = self.window(at, data.len());
        let mut window = vec![0; bytes];
        let last = bytes - block_bytes;
        let last_lba = lba + (last / block_bytes) as u64;
        if before != 0 {
            self.block(lba, &mut window[..block_bytes])?;
        }
        if before + data.len() != bytes && (last > 0 || before == 0) {
            self.block(last_lba, &mut window[last..])?;
        }
        window[before..before + data.len()].copy_from_slice(data);
        // Of a write that fails nobody knows what the device has.
        self.edge = None;
        self.device.write(lba, &window)?;
        self.edge = Some((last_lba, window.split_off(last)));
        Ok(())
    }

    /// What a block holds.
    fn block(&mut self, lba: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        match &self.edge {
            Some((edge, block)) if *edge == lba => data.copy_from_slice(block),
            _ => self.device.read(lba, data)?,
        }
        Ok(())
    }

    fn note_length(&mut self, length: Option<u64>) -> Result<(), FileError> {
        let mut block = vec![0; self.device.block_bytes()];
        let header = Header::new(length);
        let bytes = header.as_bytes();
        block[..bytes.len()].copy_from_slice(bytes);
        self.device.write(0, &block)?;
        self.length = length;
        Ok(())
    }
}
