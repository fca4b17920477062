//! Commands a host can send.

use crate::spec::{Sqe, opcode};
use std::sync::Arc;

/// The data of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// No data.
    None,
    /// From the host, in capsule when it fits. Shared: who writes the same again and again copies it once, into the output.
    ToTarget(Arc<[u8]>),
    /// To the host, so many bytes.
    FromTarget(u32),
}

/// A submission queue entry without identifier and data pointer, and its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The entry.
    pub sqe: Sqe,
    /// The data.
    pub transfer: Transfer,
}

impl Command {
    fn new(opcode: u8, nsid: u32, dwords: [u32; 6], transfer: Transfer) -> Self {
        let sqe = Sqe { opcode, nsid: nsid.into(), cdw10: dwords.map(Into::into), ..Sqe::default() };
        Self { sqe, transfer }
    }

    fn blocks(opcode: u8, nsid: u32, lba: u64, blocks: u16, flags: u32, transfer: Transfer) -> Self {
        // NLB is 0's based; no blocks can't be said and reads as one.
        let dword12 = u32::from(blocks.saturating_sub(1)) | flags;
        Self::new(opcode, nsid, [lba as u32, (lba >> 32) as u32, dword12, 0, 0, 0], transfer)
    }

    /// Read `blocks` (at least 1) blocks, `bytes` in all.
    pub fn read(nsid: u32, lba: u64, blocks: u16, bytes: u32) -> Self {
        Self::blocks(opcode::READ, nsid, lba, blocks, 0, Transfer::FromTarget(bytes))
    }

    /// Write `data`, which is `blocks` (at least 1) blocks long.
    pub fn write(nsid: u32, lba: u64, blocks: u16, data: impl Into<Arc<[u8]>>, fua: bool) -> Self {
        Self::blocks(opcode::WRITE, nsid, lba, blocks, u32::from(fua) << 30, Transfer::ToTarget(data.into()))
    }

    /// Make what was answered durable.
    pub fn flush(nsid: u32) -> Self {
        Self::new(opcode::FLUSH, nsid, [0; 6], Transfer::None)
    }

    /// Zero `blocks` (at least 1) blocks.
    pub fn write_zeroes(nsid: u32, lba: u64, blocks: u16, deallocate: bool) -> Self {
        Self::blocks(opcode::WRITE_ZEROES, nsid, lba, blocks, u32::from(deallocate) << 25, Transfer::None)
    }

    /// Dataset Management, deallocate: up to 256 (first block, count) ranges.
    pub fn deallocate(nsid: u32, ranges: &[(u64, u32)]) -> Self {
        let mut data = Vec::with_capacity(ranges.len() * 16);
        for (lba, blocks) in ranges.iter().take(256) {
            data.extend_from_slice(&0u32.to_le_bytes());
            data.extend_from_slice(&blocks.to_le_bytes());
            data.extend_from_slice(&lba.to_le_bytes());
        }
        let count = (data.len() / 16).saturating_sub(1) as u32;
        Self::new(opcode::DATASET_MANAGEMENT, nsid, [count, 4, 0, 0, 0, 0], Transfer::ToTarget(data.into()))
    }

    /// Identify.
    pub fn identify(cns: u8, nsid: u32) -> Self {
        Self::new(opcode::IDENTIFY, nsid, [cns.into(), 0, 0, 0, 0, 0], Transfer::FromTarget(4096))
    }

    /// Get Log Page: `bytes` (a multiple of 4, not 0) from `offset`; `retain` leaves the log's event masked.
    pub fn get_log(log: u8, offset: u64, bytes: u32, retain: bool) -> Self {
        let dwords = (bytes / 4).saturating_sub(1);
        let dword10 = u32::from(log) | u32::from(retain) << 15 | dwords << 16;
        let dwords = [dword10, dwords >> 16, offset as u32, (offset >> 32) as u32, 0, 0];
        Self::new(opcode::GET_LOG_PAGE, u32::MAX, dwords, Transfer::FromTarget(bytes))
    }

    /// Set Features without data.
    pub fn set_feature(feature: u8, value: u32) -> Self {
        Self::new(opcode::SET_FEATURES, 0, [feature.into(), value, 0, 0, 0, 0], Transfer::None)
    }

    /// Get Features, current value, without data.
    pub fn get_feature(feature: u8) -> Self {
        Self::new(opcode::GET_FEATURES, 0, [feature.into(), 0, 0, 0, 0, 0], Transfer::None)
    }

    /// Keep Alive.
    pub fn keep_alive() -> Self {
        Self::new(opcode::KEEP_ALIVE, 0, [0; 6], Transfer::None)
    }

    /// Asynchronous Event Request.
    pub fn async_event_request() -> Self {
        Self::new(opcode::ASYNC_EVENT_REQUEST, 0, [0; 6], Transfer::None)
    }

    /// Abort.
    pub fn abort(qid: u16, cid: u16) -> Self {
        Self::new(opcode::ABORT, 0, [u32::from(qid) | u32::from(cid) << 16, 0, 0, 0, 0, 0], Transfer::None)
    }

    /// Property Get.
    pub fn property_get(offset: u32, wide: bool) -> Self {
        let kind = opcode::FABRICS_PROPERTY_GET.into();
        Self::new(opcode::FABRICS, kind, [wide.into(), offset, 0, 0, 0, 0], Transfer::None)
    }

    /// Property Set of a 4-byte property.
    pub fn property_set(offset: u32, value: u32) -> Self {
        let kind = opcode::FABRICS_PROPERTY_SET.into();
        Self::new(opcode::FABRICS, kind, [0, offset, value, 0, 0, 0], Transfer::None)
    }
}
