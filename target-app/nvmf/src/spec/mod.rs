//! What NVM Express Base and the NVM Command Set put on the wire.

mod ana;
mod entry;
mod fabrics;
mod identify;
mod log;
mod register;
mod status;

pub use ana::{AnaGroupDescriptor, AnaHeader, AnaState};
pub use entry::{Cqe, SglDescriptor, Sqe, opcode};
pub use fabrics::{ConnectCommand, ConnectData};
pub use identify::{
    IdentifyController, IdentifyNamespace, IdentifyNamespaceIndependent, LbaFormat, PAGE_BYTES, cns, descriptor,
};
pub use log::{DiscoveryEntry, DiscoveryHeader, ErrorEntry, FirmwareSlots, SmartLog, lid};
pub use register::{cap, cc, csts, offset};
pub use status::Status;

/// Puts ASCII text into a field padded with spaces (Base 2.0, 1.4.2); what does not fit is cut.
pub(crate) fn pad_ascii(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
}
