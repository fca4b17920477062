//! The NVM command set (NVM section 3): from an entry to a block request.

use smallvec::SmallVec;
use zerocopy::FromBytes;

use super::{Connection, plan::Plan};
use crate::{
    spec::{Sqe, Status, opcode},
    target::{
        BdevHandle, BlockOp, BlockRange, BlockRequest, BlockSize, BlockStatus, ListenAddress, NamespaceState, Nsid,
        Ports, Subsystem, TRANSFER_BYTES_MAX, ana,
    },
};

/// A checked I/O command: its blocks exist, its data length is right.
#[derive(Clone, Copy, Debug)]
pub(super) enum IoCommand {
    Read { range: BlockRange, bytes: u32 },
    Write { range: BlockRange, fua: bool },
    Flush,
    WriteZeroes { range: BlockRange, deallocate: bool, fua: bool },
    DatasetManagement { ranges: usize, deallocate: bool },
}

const FUA: u32 = 1 << 30;
const DEALLOCATE: u32 = 1 << 25;
const DSM_DEALLOCATE: u32 = 1 << 2;
const DSM_RANGE_BYTES: usize = 16;

/// What of a namespace an I/O command needs; a copy, so that no reference count is touched per command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Medium {
    bdev: BdevHandle,
    blocks: u64,
    deallocates: bool,
}

/// Checks an I/O command against the namespaces as they are now.
pub(super) fn parse(sqe: &Sqe, subsystem: &Subsystem, listener: &ListenAddress) -> Result<(Medium, IoCommand), Status> {
    if !matches!(
        sqe.opcode,
        opcode::READ | opcode::WRITE | opcode::FLUSH | opcode::WRITE_ZEROES | opcode::DATASET_MANAGEMENT
    ) {
        return Err(Status::INVALID_OPCODE.dnr());
    }
    let namespace = Nsid::new(sqe.nsid.get())
        .and_then(|nsid| subsystem.namespaces.get(&nsid))
        .ok_or(Status::INVALID_NAMESPACE.dnr())?;
    // Before the namespace's own state: which path to use is what a host has to know first.
    if let Some(status) = ana::refusal(subsystem.ana.state(listener, namespace.ana_group)) {
        return Err(status);
    }
    match namespace.state {
        NamespaceState::Ready => {}
        NamespaceState::NotReady => return Err(Status::NAMESPACE_NOT_READY.dnr()),
        NamespaceState::ReadOnly if matches!(sqe.opcode, opcode::READ | opcode::FLUSH) => {}
        NamespaceState::ReadOnly => return Err(Status::WRITE_PROTECTED.dnr()),
    }
    let medium = Medium { bdev: namespace.bdev, blocks: namespace.blocks, deallocates: namespace.deallocates };
    let dword12 = sqe.dword(12);
    let range = BlockRange { lba: sqe.slba(), blocks: (dword12 & 0xffff) + 1 };
    let fua = dword12 & FUA != 0;
    let command = match sqe.opcode {
        opcode::READ => IoCommand::Read { range, bytes: transfer(sqe, medium, namespace.block_size, range)? },
        opcode::WRITE => {
            transfer(sqe, medium, namespace.block_size, range)?;
            IoCommand::Write { range, fua }
        }
        opcode::WRITE_ZEROES => {
            contains(medium, range)?;
            IoCommand::WriteZeroes { range, deallocate: dword12 & DEALLOCATE != 0, fua }
        }
        opcode::DATASET_MANAGEMENT => {
            let ranges = (sqe.dword(10) & 0xff) as usize + 1;
            // Linux always sends room for 256 ranges; more than needed is right, less is not.
            if (sqe.sgl.length.get() as usize) < ranges * DSM_RANGE_BYTES {
                return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
            }
            IoCommand::DatasetManagement { ranges, deallocate: sqe.dword(11) & DSM_DEALLOCATE != 0 }
        }
        _ => IoCommand::Flush,
    };
    Ok((medium, command))
}

/// Bytes of a transfer that is as long as its SGL and within MDTS.
fn transfer(sqe: &Sqe, medium: Medium, block_size: BlockSize, range: BlockRange) -> Result<u32, Status> {
    let bytes = u64::from(range.blocks) << block_size.shift();
    if bytes > u64::from(TRANSFER_BYTES_MAX) {
        return Err(Status::INVALID_FIELD.dnr());
    }
    contains(medium, range)?;
    if bytes != u64::from(sqe.sgl.length.get()) {
        return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
    }
    Ok(bytes as u32)
}

fn contains(medium: Medium, range: BlockRange) -> Result<(), Status> {
    match range.lba.checked_add(u64::from(range.blocks)) {
        Some(end) if end <= medium.blocks => Ok(()),
        _ => Err(Status::LBA_OUT_OF_RANGE.dnr()),
    }
}

/// What a block device's answer is called on the wire.
pub(super) fn status_of(status: BlockStatus) -> Status {
    match status {
        BlockStatus::Ok => Status::SUCCESS,
        BlockStatus::ReadError => Status::UNRECOVERED_READ_ERROR,
        BlockStatus::WriteError => Status::WRITE_FAULT,
        BlockStatus::OutOfRange => Status::LBA_OUT_OF_RANGE.dnr(),
        BlockStatus::NotReady => Status::NAMESPACE_NOT_READY.dnr(),
        BlockStatus::Transition => Status::ANA_TRANSITION,
        BlockStatus::Inaccessible => Status::ANA_INACCESSIBLE,
        BlockStatus::WriteProtected => Status::WRITE_PROTECTED.dnr(),
        BlockStatus::NoSpace => Status::CAPACITY_EXCEEDED.dnr(),
        BlockStatus::Unsupported => Status::INVALID_OPCODE.dnr(),
        BlockStatus::Aborted => Status::ABORT_REQUESTED,
        BlockStatus::Internal => Status::INTERNAL_ERROR,
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    /// Refuses an I/O command before its data is asked for.
    pub(super) fn check_io(&self, sqe: &Sqe, plan: Plan) -> Result<(), Status> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let (_, command) = parse(sqe, &queue.subsystem, &self.options.listener)?;
        let fits = match command {
            IoCommand::Read { .. } => matches!(plan, Plan::ToHost { .. }),
            IoCommand::Write { .. } | IoCommand::DatasetManagement { .. } => {
                matches!(plan, Plan::InCapsule { .. } | Plan::ReadyToTransfer { .. })
            }
            IoCommand::Flush | IoCommand::WriteZeroes { .. } => matches!(plan, Plan::None),
        };
        if fits { Ok(()) } else { Err(Status::DATA_SGL_LENGTH_INVALID.dnr()) }
    }

    /// Submits an I/O command whose data, if it has any, is here.
    pub(super) fn perform_io<P: Ports<Buf = B>>(
        &mut self,
        now_ns: u64,
        slot: u16,
        sqe: &Sqe,
        data: Option<(B, u32)>,
        ports: &mut P,
    ) {
        let Some(queue) = &self.queue else { return };
        let (medium, command) = match parse(sqe, &queue.subsystem, &self.options.listener) {
            Ok(parsed) => parsed,
            Err(status) => return self.complete(slot, 0, status, ports),
        };
        let op = match (command, data) {
            (IoCommand::Read { range, bytes }, _) => match ports.alloc(bytes as usize) {
                Some(buf) => {
                    let tag = self.slots.submit(slot, Some(bytes));
                    self.stats.in_flight = self.slots.submitted();
                    let op = BlockOp::Read { range, buf };
                    return ports.submit(BlockRequest { tag, bdev: medium.bdev, op });
                }
                None => return self.park(now_ns, slot),
            },
            (IoCommand::Write { range, fua }, Some((data, bytes))) => {
                self.stats.write_bytes += u64::from(bytes);
                BlockOp::Write { range, data, fua }
            }
            (IoCommand::DatasetManagement { ranges, deallocate }, Some((data, bytes))) => {
                let data = data.as_ref().get(..bytes as usize).unwrap_or_default();
                match unmap_ranges(data, ranges, medium) {
                    Err(status) => return self.complete(slot, 0, status, ports),
                    Ok(ranges) if ranges.is_empty() || !deallocate || !medium.deallocates => {
                        return self.complete(slot, 0, Status::SUCCESS, ports);
                    }
                    Ok(ranges) => BlockOp::Unmap { ranges },
                }
            }
            (IoCommand::WriteZeroes { range, deallocate, fua }, _) => BlockOp::WriteZeroes { range, deallocate, fua },
            (IoCommand::Flush, _) => BlockOp::Flush,
            (IoCommand::Write { .. } | IoCommand::DatasetManagement { .. }, None) => {
                return self.complete(slot, 0, Status::DATA_SGL_LENGTH_INVALID.dnr(), ports);
            }
        };
        let tag = self.slots.submit(slot, None);
        self.stats.in_flight = self.slots.submitted();
        ports.submit(BlockRequest { tag, bdev: medium.bdev, op });
    }
}

/// Dataset Management ranges (NVM figure 42): attributes, length, first LBA. Empty ones are left out.
fn unmap_ranges(data: &[u8], ranges: usize, medium: Medium) -> Result<SmallVec<[BlockRange; 4]>, Status> {
    use zerocopy::little_endian::{U32, U64};
    let mut out = SmallVec::new();
    for entry in data.chunks_exact(DSM_RANGE_BYTES).take(ranges) {
        let Ok((_, length, lba)) = read_range(entry) else { return Err(Status::INVALID_FIELD.dnr()) };
        let range = BlockRange { lba, blocks: length };
        contains(medium, range)?;
        if range.blocks > 0 {
            out.push(range);
        }
    }
    return Ok(out);

    fn read_range(entry: &[u8]) -> Result<(u32, u32, u64), ()> {
        let (attributes, rest) = U32::read_from_prefix(entry).map_err(drop)?;
        let (length, rest) = U32::read_from_prefix(rest).map_err(drop)?;
        let (lba, _) = U64::read_from_prefix(rest).map_err(drop)?;
        Ok((attributes.get(), length.get(), lba.get()))
    }
}
