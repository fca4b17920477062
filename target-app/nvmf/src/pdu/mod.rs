//! NVMe/TCP protocol data units (TCP 3.6), for both directions.

mod frame;
#[cfg(test)]
mod tests;
mod wire;

pub use frame::{FatalStatus, Fault, Layout, Pdu, Reader, Sender, Verdict};
pub use wire::*;

use crate::inline::Inline;
use crc_fast::{CrcAlgorithm, Digest};

/// Which digests a connection uses (TCP 3.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// CRC32C behind every header.
    pub header: bool,
    /// CRC32C behind every payload.
    pub data: bool,
}

impl Digests {
    /// Bits 1:0 of the DGST field of ICReq and ICResp.
    pub const fn bits(self) -> u8 {
        self.header as u8 | (self.data as u8) << 1
    }

    /// From the same bits.
    pub const fn from_bits(bits: u8) -> Self {
        Self { header: bits & 1 != 0, data: bits & 2 != 0 }
    }
}

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 4;

/// Appends a PDU header without data, and its digest when `digests` say so. `header` is a whole wire struct whose flags and
/// PLEN this function sets.
pub fn put_header<const N: usize, H>(out: &mut Inline<N>, mut header: H, flags: u8, digests: Digests)
where
    H: zerocopy::IntoBytes + zerocopy::Immutable + AsMut<CommonHeader>,
{
    let bytes = size_of::<H>() + if digests.header { DIGEST_BYTES } else { 0 };
    put(out, &mut header, flags, digests.header, 0, bytes as u32);
}

/// Appends a PDU header that announces `data_bytes` of data (more than 0), its digest, and padding up to a multiple of
/// `align` (HPDA, CPDA). The caller adds the data and, when `digests.data`, [`data_digest`].
pub fn put_header_with_data<const N: usize, H>(
    out: &mut Inline<N>,
    mut header: H,
    flags: u8,
    digests: Digests,
    align: usize,
    data_bytes: u32,
) where
    H: zerocopy::IntoBytes + zerocopy::Immutable + AsMut<CommonHeader>,
{
    let before = out.as_slice().len();
    let end = size_of::<H>() + if digests.header { DIGEST_BYTES } else { 0 };
    let pdo = end.next_multiple_of(align.max(1));
    let ddgst = if digests.data { DIGEST_BYTES as u32 } else { 0 };
    let flags = flags | if digests.data { flag::DDGST } else { 0 };
    put(out, &mut header, flags, digests.header, pdo as u8, pdo as u32 + data_bytes + ddgst);
    let padding = pdo - (out.as_slice().len() - before);
    out.push(&[0u8; 128][..padding]);
}

fn put<const N: usize, H>(out: &mut Inline<N>, header: &mut H, flags: u8, hdgst: bool, pdo: u8, plen: u32)
where
    H: zerocopy::IntoBytes + zerocopy::Immutable + AsMut<CommonHeader>,
{
    let common = header.as_mut();
    common.flags = flags | if hdgst { flag::HDGST } else { 0 };
    common.hlen = size_of::<H>() as u8;
    common.pdo = pdo;
    common.plen = plen.into();
    out.push(header.as_bytes());
    if hdgst {
        out.push(&crc_fast::crc32_iscsi(header.as_bytes()).to_le_bytes());
    }
}

/// The digest of a whole payload.
pub fn data_digest(data: &[u8]) -> [u8; DIGEST_BYTES] {
    crc_fast::crc32_iscsi(data).to_le_bytes()
}

/// The CRC32C of what `crc` is that of, with `data` behind it; 0 is that of nothing.
pub(crate) fn crc32c_append(crc: u32, data: &[u8]) -> u32 {
    // What the sum goes on from is its inverse.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(data);
    digest.finalize() as u32
}
