//! From bytes to checked PDUs: geometry first, then the header digest, then the typed header.

use zerocopy::FromBytes;

use super::{
    CapsuleCmd, CapsuleResp, CommonHeader, DIGEST_BYTES, Data, Digests, IcReq, IcResp, R2t, TermReq, flag, kind,
};
use crate::inline::Inline;

/// Fatal error status of a TermReq (TCP figures 20 and 22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum FatalStatus {
    /// A header field is wrong; the information is its offset.
    InvalidHeaderField = 1,
    /// The PDU may not come now.
    PduSequence = 2,
    /// The header digest does not match; the information is the digest received.
    HeaderDigest = 3,
    /// Data outside of what was asked for; the information is the offset of the field that says so.
    DataOutOfRange = 4,
    /// More data in one PDU, or more R2Ts, than allowed.
    LimitExceeded = 5,
    /// A parameter of ICReq or ICResp that is not supported; the information is its offset.
    UnsupportedParameter = 6,
}

/// A PDU against the rules, with what a TermReq says about it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("PDU of type {kind:#04x} refused: {status:?}, information {information:#x}")]
pub struct Fault {
    /// The PDU's type.
    pub kind: u8,
    /// What is wrong.
    pub status: FatalStatus,
    /// Where, or the digest received.
    pub information: u32,
    /// The beginning of the PDU, for the TermReq's data.
    pub header: Inline<128>,
}

impl Fault {
    /// A fault of the PDU whose header is `header`. Boxed: it is rare, and large beside what it is an alternative to.
    pub fn new(status: FatalStatus, information: u32, header: &[u8]) -> Box<Self> {
        let mut copy = Inline::new();
        copy.push(header.get(..128).unwrap_or(header));
        Box::new(Self { kind: header.first().copied().unwrap_or_default(), status, information, header: copy })
    }
}

/// Which end a PDU comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The host.
    Host,
    /// The controller.
    Target,
}

/// A PDU's geometry, consistent in itself: the data begins behind header and digest and all lengths add up to PLEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// [`kind`].
    pub kind: u8,
    /// [`flag`].
    pub flags: u8,
    header_bytes: u8,
    header_digest: bool,
    data_offset: u8,
    /// Bytes of data, digest not counted.
    pub data_bytes: u32,
    /// Whether a digest follows the data.
    pub data_digest: bool,
}

/// Exact header length, whether data may follow, whether digests apply (TCP 3.6.2).
const fn shape(kind: u8) -> Option<(Sender, usize, bool, bool)> {
    Some(match kind {
        kind::IC_REQ => (Sender::Host, size_of::<IcReq>(), false, false),
        kind::IC_RESP => (Sender::Target, size_of::<IcResp>(), false, false),
        kind::H2C_TERM_REQ => (Sender::Host, size_of::<TermReq>(), true, false),
        kind::C2H_TERM_REQ => (Sender::Target, size_of::<TermReq>(), true, false),
        kind::CAPSULE_CMD => (Sender::Host, size_of::<CapsuleCmd>(), true, true),
        kind::CAPSULE_RESP => (Sender::Target, size_of::<CapsuleResp>(), false, true),
        kind::H2C_DATA => (Sender::Host, size_of::<Data>(), true, true),
        kind::C2H_DATA => (Sender::Target, size_of::<Data>(), true, true),
        kind::R2T => (Sender::Target, size_of::<R2t>(), false, true),
        _ => return None,
    })
}

/// A TermReq carries at most this much of the offending PDU (TCP 3.6.2.4: PLEN 24 to 152).
const TERM_REQ_DATA_BYTES_MAX: u32 = 128;

/// Offsets in the common header, for the fault's information.
mod offset {
    pub(super) const KIND: u32 = 0;
    pub(super) const FLAGS: u32 = 1;
    pub(super) const HLEN: u32 = 2;
    pub(super) const PDO: u32 = 3;
    pub(super) const PLEN: u32 = 4;
}

impl Layout {
    /// Checks a common header from `sender`. `established` is false until ICReq and ICResp have been exchanged.
    pub fn check(
        common: &CommonHeader,
        sender: Sender,
        digests: Digests,
        established: bool,
    ) -> Result<Self, (FatalStatus, u32)> {
        let invalid = |offset| (FatalStatus::InvalidHeaderField, offset);
        let Some((from, hlen, with_data, with_digests)) = shape(common.kind) else {
            return Err(invalid(offset::KIND));
        };
        if from != sender {
            return Err(invalid(offset::KIND));
        }
        let initializes = matches!(common.kind, kind::IC_REQ | kind::IC_RESP);
        let terminates = matches!(common.kind, kind::H2C_TERM_REQ | kind::C2H_TERM_REQ);
        if initializes == established && !terminates {
            return Err((FatalStatus::PduSequence, 0));
        }
        if usize::from(common.hlen) != hlen {
            return Err(invalid(offset::HLEN));
        }
        let header_digest = with_digests && digests.header;
        if with_digests && header_digest != (common.flags & flag::HDGST != 0) {
            return Err(invalid(offset::FLAGS));
        }
        let end = hlen + if header_digest { DIGEST_BYTES } else { 0 };
        let plen = common.plen.get();
        let bare = Self {
            kind: common.kind,
            flags: common.flags,
            header_bytes: hlen as u8,
            header_digest,
            data_offset: end as u8,
            data_bytes: 0,
            data_digest: false,
        };
        if plen == end as u32 && common.kind != kind::H2C_DATA && common.kind != kind::C2H_DATA {
            return Ok(bare);
        }
        if !with_data || plen <= end as u32 {
            return Err(invalid(offset::PLEN));
        }
        if terminates {
            // Its data follows the header at once; PDO is reserved.
            let data_bytes = plen - end as u32;
            if data_bytes > TERM_REQ_DATA_BYTES_MAX {
                return Err(invalid(offset::PLEN));
            }
            return Ok(Self { data_bytes, ..bare });
        }
        if usize::from(common.pdo) < end || !common.pdo.is_multiple_of(4) {
            return Err(invalid(offset::PDO));
        }
        if digests.data != (common.flags & flag::DDGST != 0) {
            return Err(invalid(offset::FLAGS));
        }
        let digest_bytes = if digests.data { DIGEST_BYTES as u32 } else { 0 };
        match plen.checked_sub(u32::from(common.pdo) + digest_bytes) {
            None | Some(0) => Err(invalid(offset::PLEN)),
            Some(data_bytes) => Ok(Self { data_offset: common.pdo, data_bytes, data_digest: digests.data, ..bare }),
        }
    }
}

/// A typed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as their structs")]
pub enum Pdu {
    IcReq(IcReq),
    IcResp(IcResp),
    TermReq(TermReq),
    CapsuleCmd(CapsuleCmd),
    CapsuleResp(CapsuleResp),
    Data(Data),
    R2t(R2t),
}

impl Pdu {
    fn parse(kind: u8, header: &[u8]) -> Option<Self> {
        Some(match kind {
            kind::IC_REQ => Self::IcReq(IcReq::read_from_bytes(header).ok()?),
            kind::IC_RESP => Self::IcResp(IcResp::read_from_bytes(header).ok()?),
            kind::H2C_TERM_REQ | kind::C2H_TERM_REQ => Self::TermReq(TermReq::read_from_bytes(header).ok()?),
            kind::CAPSULE_CMD => Self::CapsuleCmd(CapsuleCmd::read_from_bytes(header).ok()?),
            kind::CAPSULE_RESP => Self::CapsuleResp(CapsuleResp::read_from_bytes(header).ok()?),
            kind::H2C_DATA | kind::C2H_DATA => Self::Data(Data::read_from_bytes(header).ok()?),
            kind::R2T => Self::R2t(R2t::read_from_bytes(header).ok()?),
            _ => return None,
        })
    }
}

/// A complete header: what it is, or what is wrong with it.
pub type Verdict = Result<(Layout, Pdu), Box<Fault>>;

/// Collects headers from a byte stream cut anywhere. A header that lies whole in the bytes given is parsed where it lies;
/// only a cut one is gathered here.
#[derive(Debug)]
pub struct Reader {
    sender: Sender,
    gathered: [u8; 256],
    have: usize,
}

impl Reader {
    /// Reads PDUs of `sender`.
    pub fn new(sender: Sender) -> Self {
        Self { sender, gathered: [0; 256], have: 0 }
    }

    /// Takes bytes up to the end of one header (and of the padding before its data). Returns how many were used and, once
    /// the header is complete, what it is; `None` means that all bytes were used and more are needed.
    pub fn feed(&mut self, bytes: &[u8], digests: Digests, established: bool) -> (usize, Option<Verdict>) {
        const COMMON: usize = size_of::<CommonHeader>();
        if self.have == 0
            && let Ok((common, _)) = CommonHeader::read_from_prefix(bytes)
        {
            match Layout::check(&common, self.sender, digests, established) {
                Err((status, information)) => {
                    let header = bytes.get(..usize::from(common.hlen).max(COMMON)).unwrap_or(bytes);
                    return (bytes.len(), Some(Err(Fault::new(status, information, header))));
                }
                Ok(layout) => {
                    if let Some(area) = bytes.get(..usize::from(layout.data_offset)) {
                        return (area.len(), Some(Self::parse(layout, area)));
                    }
                }
            }
        }
        let mut used = self.gather(bytes, COMMON);
        if self.have < COMMON {
            return (used, None);
        }
        let Ok((common, _)) = CommonHeader::read_from_prefix(&self.gathered) else {
            return (used, None);
        };
        match Layout::check(&common, self.sender, digests, established) {
            Err((status, information)) => {
                (used, Some(Err(Fault::new(status, information, self.gathered.get(..self.have).unwrap_or_default()))))
            }
            Ok(layout) => {
                let need = usize::from(layout.data_offset);
                used += self.gather(bytes.get(used..).unwrap_or_default(), need);
                if self.have < need {
                    return (used, None);
                }
                self.have = 0;
                (used, Some(Self::parse(layout, self.gathered.get(..need).unwrap_or_default())))
            }
        }
    }

    /// Gathers until `upto` bytes are there.
    fn gather(&mut self, bytes: &[u8], upto: usize) -> usize {
        let wanted = upto.saturating_sub(self.have).min(bytes.len());
        if let (Some(to), Some(from)) = (self.gathered.get_mut(self.have..self.have + wanted), bytes.get(..wanted)) {
            to.copy_from_slice(from);
            self.have += wanted;
        }
        wanted
    }

    /// Checks the digest and types the header; `area` reaches to the data's offset.
    fn parse(layout: Layout, area: &[u8]) -> Verdict {
        let (header, rest) = area.split_at_checked(usize::from(layout.header_bytes)).unwrap_or((area, &[]));
        if layout.header_digest {
            let got = rest.first_chunk::<DIGEST_BYTES>().copied().map(u32::from_le_bytes).unwrap_or_default();
            if got != crc_fast::crc32_iscsi(header) {
                return Err(Fault::new(FatalStatus::HeaderDigest, got, header));
            }
        }
        match Pdu::parse(layout.kind, header) {
            Some(pdu) => Ok((layout, pdu)),
            None => Err(Fault::new(FatalStatus::InvalidHeaderField, offset::KIND, header)),
        }
    }
}
