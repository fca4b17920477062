//! How a command's data moves, decided from its entry before anything is received for it.

use crate::{
    spec::{SglDescriptor, Sqe, Status, opcode},
    target::TRANSFER_BYTES_MAX,
};

/// How the data moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// There is none.
    None,
    /// It follows in the capsule.
    InCapsule { bytes: u32 },
    /// The target asks for it.
    ReadyToTransfer { bytes: u32 },
    /// To the host.
    ToHost { bytes: u32 },
}

/// `in_capsule` is how much data the capsule carries.
pub(super) fn plan(sqe: &Sqe, in_capsule: u32) -> Result<Plan, Status> {
    // The two low bits of an opcode, and of a Fabrics command type, tell the direction (Base 2.0, figures 139 and 348).
    let kind = if sqe.opcode == opcode::FABRICS { sqe.nsid.get() as u8 } else { sqe.opcode };
    let direction = kind & 3;
    // Fused operations are not offered (FUSES is 0).
    if sqe.flags & 3 != 0 {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let bytes = sqe.sgl.length.get();
    if direction == 0 || bytes == 0 {
        return if in_capsule == 0 { Ok(Plan::None) } else { Err(Status::DATA_SGL_LENGTH_INVALID.dnr()) };
    }
    // PRPs have no meaning on Fabrics (Base 2.0, 3.3.3.1: PSDT 00b is for PCIe).
    if sqe.flags >> 6 == 0 && sqe.opcode != opcode::FABRICS {
        return Err(Status::INVALID_FIELD.dnr());
    }
    if bytes > TRANSFER_BYTES_MAX {
        return Err(Status::INVALID_FIELD.dnr());
    }
    match (sqe.sgl.kind, direction) {
        (SglDescriptor::IN_CAPSULE, 1) if sqe.sgl.address.get() != 0 => Err(Status::SGL_OFFSET_INVALID.dnr()),
        (SglDescriptor::IN_CAPSULE, 1) if bytes != in_capsule => Err(Status::DATA_SGL_LENGTH_INVALID.dnr()),
        (SglDescriptor::IN_CAPSULE, 1) => Ok(Plan::InCapsule { bytes }),
        (SglDescriptor::TRANSPORT, _) if in_capsule != 0 => Err(Status::DATA_SGL_LENGTH_INVALID.dnr()),
        // Connect's data has to be in its capsule (Base 2.0, 6.3; hosts do not expect an R2T there).
        (SglDescriptor::TRANSPORT, 1) if sqe.opcode == opcode::FABRICS => Err(Status::SGL_TYPE_INVALID.dnr()),
        (SglDescriptor::TRANSPORT, 1) => Ok(Plan::ReadyToTransfer { bytes }),
        (SglDescriptor::TRANSPORT, 2) => Ok(Plan::ToHost { bytes }),
        _ => Err(Status::SGL_TYPE_INVALID.dnr()),
    }
}
