//! Reading a journal forward: once at opening, to find its end, and once more to apply what lies behind the checkpoint.

use super::device::LogPorts;
use super::format::{self, Area, BLOCK_BYTES_MAX, BlockInfo, Entry, Expect, HEAD_BYTES};
use super::{CHUNK_BYTES, DEPTH, RETRY_NS};
use crate::ports::{DeviceError, LocalIo};
use crate::types::Mono;

/// A reader at a position. Holds at most one block and one read in memory.
pub(crate) struct Walk<T> {
    area: Area,
    purpose: T,
    expect: Expect,
    /// Nothing at or behind this position is read.
    stop: u64,
    /// Bytes from `expect.position` on begin at `start`.
    window: Vec<u8>,
    start: usize,
    /// Position of the next read.
    read_at: u64,
    reading: bool,
    error: Option<DeviceError>,
    retry_at: Option<Mono>,
}

/// What [`Walk::next`] found.
pub(crate) enum Next {
    /// A read is under way, or there is no memory for one now.
    Wait,
    /// A block with a good head is there whole.
    Block(BlockInfo),
    /// No block continues the journal here.
    End,
}

/// What [`Walk::look_ahead`] found behind the last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// A read is under way.
    Wait,
    /// Nothing: the journal ends here, in a torn tail at most.
    Nothing,
    /// A block that was written when the damaged position was durable: corruption.
    Block { position: u64 },
}

impl<T: Copy> Walk<T> {
    /// Reads from what `expect` says up to `stop`; each read is submitted with the purpose and ends in [`Walk::done`].
    pub(crate) fn new(area: Area, purpose: T, expect: Expect, stop: u64) -> Walk<T> {
        let read_at = expect.position;
        Walk {
            area,
            purpose,
            expect,
            stop,
            window: Vec::new(),
            start: 0,
            read_at,
            reading: false,
            error: None,
            retry_at: None,
        }
    }

    /// What the next block must look like.
    pub(crate) fn expect(&self) -> Expect {
        self.expect
    }

    /// Whether a read is under way: its data belongs to this reader.
    pub(crate) fn is_reading(&self) -> bool {
        self.reading
    }

    /// What is durable by now may be read up to here.
    pub(crate) fn extend(&mut self, stop: u64) {
        self.stop = self.stop.max(stop);
    }

    /// The device's error, if it stands in the way; the read is tried again.
    pub(crate) fn error(&self) -> Option<DeviceError> {
        self.error
    }

    pub(crate) fn retry_at(&self) -> Option<Mono> {
        self.retry_at
    }

    fn bytes(&self) -> &[u8] {
        &self.window[self.start..]
    }

    /// Whether that many bytes are there, or all there will ever be; else reads on.
    fn want<I: LogPorts<T>>(&mut self, io: &mut I, bytes: usize) -> bool {
        if self.reading {
            return false;
        }
        if self.bytes().len() >= bytes || self.read_at >= self.stop {
            return true;
        }
        if self.retry_at.is_some_and(|at| at > io.mono()) {
            return false;
        }
        let per_chunk = CHUNK_BYTES / u64::from(self.area.block_bytes);
        let extent = self.area.extent(self.read_at, per_chunk.min(self.stop - self.read_at));
        if let Some(buf) = io.alloc(extent.blocks as usize * self.area.block_bytes as usize) {
            self.reading = true;
            self.retry_at = None;
            io.submit_log(self.purpose, self.area.volume, LocalIo::Read { extent, buf });
        }
        false
    }

    /// A read ended.
    pub(crate) fn done(&mut self, now: Mono, result: Result<(), DeviceError>, data: Option<&[u8]>) {
        self.reading = false;
        match (result, data) {
            (Ok(()), Some(data)) => {
                self.error = None;
                self.window.drain(..self.start);
                self.start = 0;
                self.window.extend_from_slice(data);
                self.read_at += self.area.blocks_for(data.len() as u64);
            }
            (result, _) => {
                self.error = Some(result.err().unwrap_or(DeviceError { errno: 5 }));
                self.retry_at = Some(now.after_ns(RETRY_NS));
            }
        }
    }

    /// The next block, if it is there.
    pub(crate) fn next<I: LogPorts<T>>(&mut self, io: &mut I) -> Next {
        if !self.want(io, HEAD_BYTES) {
            return Next::Wait;
        }
        let info = format::parse_head(self.bytes(), self.expect.journal_id, self.area.block_bytes)
            .and_then(|info| format::check_head(&info, &self.expect).map(|()| info));
        let Ok(info) = info else { return Next::End };
        let bytes = info.blocks as usize * self.area.block_bytes as usize;
        if !self.want(io, bytes) {
            return Next::Wait;
        }
        if self.bytes().len() < bytes { Next::End } else { Next::Block(info) }
    }

    /// Checks the block that [`Walk::next`] found and hands out its entries. Returns false if it is torn; then nothing
    /// was handed out.
    pub(crate) fn entries(&self, info: &BlockInfo, each: impl FnMut(Entry, &[u8])) -> bool {
        format::parse_block(self.bytes(), info, each).is_ok()
    }

    /// Goes behind the block.
    pub(crate) fn advance(&mut self, info: &BlockInfo) {
        self.start += info.blocks as usize * self.area.block_bytes as usize;
        self.expect = self.expect.after(info);
    }

    /// After the end: whether a block lies ahead that says that the journal was durable beyond this position. The first
    /// that can say it was begun when this one was durable, behind those that were in flight with it: so far it looks.
    pub(crate) fn look_ahead<I: LogPorts<T>>(&mut self, io: &mut I) -> Ahead {
        let device_block = self.area.block_bytes as usize;
        let reach = DEPTH * (BLOCK_BYTES_MAX as usize + HEAD_BYTES + device_block) + device_block;
        if !self.want(io, reach) {
            return Ahead::Wait;
        }
        for (index, block) in self.bytes().chunks(device_block).enumerate().skip(1) {
            let position = self.expect.position + index as u64;
            let Ok(info) = format::parse_head(block, self.expect.journal_id, self.area.block_bytes) else { continue };
            let plausible = info.position == position
                && (self.expect.epoch_min..=self.expect.epoch_max).contains(&info.recovery_epoch);
            if plausible && info.durable_end > self.expect.position {
                return Ahead::Block { position };
            }
        }
        Ahead::Nothing
    }
}
