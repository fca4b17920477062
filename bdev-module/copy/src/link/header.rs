//! The fixed header of every datagram.
//!
//! ```text
//! datagram = header (88 bytes) | body (body_bytes) | padding (zeroes, to the length of the train) | tag
//! ```
//!
//! The tag is 16 bytes of AES-256-GCM with the whole header as associated data and body and padding encrypted, or
//! without security 4 bytes of CRC32C over everything before it. Handshake datagrams have no tag of their own: their
//! body carries Noise's. All numbers are little-endian.

use crate::types::{Epoch, Extent, PairId, RecordHead, RecordKind, Seq, Stamp, StreamId, Time};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version in every datagram; those of another are dropped. 1: each beacon was a datagram, in the header's fields. 2: a
/// datagram carries beacons of many streams, in its body.
pub(crate) const VERSION: u8 = 2;

/// Bytes of [`Header`].
pub(crate) const HEADER_BYTES: usize = 88;
const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// [`Header::outstanding`]: not known, forget nothing.
pub(crate) const OUTSTANDING_UNKNOWN: u16 = u16::MAX;

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// First message of a handshake.
    Initiation,
    /// Its answer.
    Answer,
    /// A fragment of a record.
    Data,
    /// Beacons.
    Beacons,
    /// Acknowledged ranges and stream statuses.
    Ack,
    /// A control message.
    Control,
    /// Nothing, but to be acknowledged.
    Ping,
    /// The session ends.
    Close,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Initiation => 1,
            Kind::Answer => 2,
            Kind::Data => 3,
            Kind::Beacons => 4,
            Kind::Ack => 5,
            Kind::Control => 6,
            Kind::Ping => 7,
            Kind::Close => 8,
        }
    }

    fn from_code(code: u8) -> Option<Kind> {
        Some(match code {
            1 => Kind::Initiation,
            2 => Kind::Answer,
            3 => Kind::Data,
            4 => Kind::Beacons,
            5 => Kind::Ack,
            6 => Kind::Control,
            7 => Kind::Ping,
            8 => Kind::Close,
            _ => return None,
        })
    }
}

/// The layout. Fields that a kind does not use are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    version: u8,
    kind: u8,
    /// Bytes of the body, without padding.
    pub(crate) body_bytes: U16,
    /// The session, as the receiver numbered it; in an initiation, as its sender will.
    pub(crate) session: U32,
    /// Rises by one with every datagram of a session, never used again: it is the nonce.
    pub(crate) packet: U64,
    /// Data: the stream.
    pub(crate) stream: U64,
    /// Data: its epoch.
    pub(crate) epoch: U64,
    /// Data: number of the sender's generation.
    pub(crate) generation: U64,
    /// Data: the record's number. Control: the message's number.
    pub(crate) seq: U64,
    /// Data: the record's time.
    pub(crate) time: U64,
    /// Data: the pair.
    pub(crate) pair: U64,
    /// Data: first block.
    pub(crate) lba: U64,
    /// Data: how many.
    pub(crate) blocks: U32,
    /// Data: length of the whole payload.
    pub(crate) payload_bytes: U32,
    /// Data: where in the payload the body lies.
    pub(crate) fragment_offset: U32,
    /// How far below `packet` the oldest lies whose acknowledgement still matters to the sender.
    pub(crate) outstanding: U16,
    /// Data: [`RecordKind::code`].
    record_kind: u8,
    reserved: u8,
}

impl Header {
    /// A header with only this much set.
    pub(crate) fn new(kind: Kind, session: u32, packet: u64) -> Header {
        let mut header = Header::new_zeroed();
        header.version = VERSION;
        header.kind = kind.code();
        header.session = U32::new(session);
        header.packet = U64::new(packet);
        header.outstanding = U16::new(OUTSTANDING_UNKNOWN);
        header
    }

    /// Reads the start of a datagram; `None` if that is too short or of another version.
    pub(crate) fn read(datagram: &[u8]) -> Option<(Header, Kind)> {
        let (header, _) = Header::read_from_prefix(datagram).ok()?;
        if header.version != VERSION {
            return None;
        }
        Some((header, Kind::from_code(header.kind)?))
    }

    /// Fills in what a data frame says of its record.
    pub(crate) fn set_record(&mut self, epoch: Epoch, generation: u64, head: &RecordHead) {
        self.stream = U64::new(head.stamp.stream.0);
        self.epoch = U64::new(epoch.0);
        self.generation = U64::new(generation);
        self.seq = U64::new(head.stamp.seq.0);
        self.time = U64::new(head.stamp.time.0);
        self.pair = U64::new(head.pair.0);
        self.lba = U64::new(head.extent.lba);
        self.blocks = U32::new(head.extent.blocks);
        self.payload_bytes = U32::new(head.payload_bytes);
        self.record_kind = head.kind.code();
    }

    /// The record's head in a data frame, if it can be one.
    pub(crate) fn record(&self) -> Option<RecordHead> {
        let kind = RecordKind::from_code(self.record_kind)?;
        let head = RecordHead {
            stamp: Stamp { time: Time(self.time.get()), stream: StreamId(self.stream.get()), seq: Seq(self.seq.get()) },
            pair: PairId(self.pair.get()),
            kind,
            extent: Extent { lba: self.lba.get(), blocks: self.blocks.get() },
            payload_bytes: self.payload_bytes.get(),
        };
        let sized = if kind.has_payload() {
            (1..=super::PAYLOAD_BYTES_MAX).contains(&head.payload_bytes)
        } else {
            head.payload_bytes == 0
        };
        let placed = head.extent.blocks > 0 && head.extent.lba.checked_add(u64::from(head.extent.blocks)).is_some();
        // The greatest number has none after it, which everything beyond here may rely on.
        let numbered = head.stamp.seq.0 >= 1 && head.stamp.seq.0 < u64::MAX;
        (sized && placed && numbered).then_some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = RecordKind> {
        prop_oneof![
            Just(RecordKind::Write),
            Just(RecordKind::WriteZeroes),
            Just(RecordKind::Unmap),
            Just(RecordKind::Repair)
        ]
    }

    proptest! {
        #[test]
        fn a_record_head_survives_the_header(
            kind in kinds(), time: u64, stream: u64, seq in 1..u64::MAX, pair: u64, lba in 0..u64::MAX / 2,
            blocks in 1..=u32::MAX, bytes in 1..=super::super::PAYLOAD_BYTES_MAX, epoch: u64, generation: u64,
        ) {
            let head = RecordHead {
                stamp: Stamp { time: Time(time), stream: StreamId(stream), seq: Seq(seq) },
                pair: PairId(pair),
                kind,
                extent: Extent { lba, blocks },
                payload_bytes: if kind.has_payload() { bytes } else { 0 },
            };
            let mut header = Header::new(Kind::Data, 7, 9);
            header.set_record(Epoch(epoch), generation, &head);
            let (read, kind) = Header::read(header.as_bytes()).unwrap();
            prop_assert_eq!(kind, Kind::Data);
            prop_assert_eq!(read.record(), Some(head));
            prop_assert_eq!((read.session.get(), read.packet.get()), (7, 9));
            prop_assert_eq!((read.epoch.get(), read.generation.get()), (epoch, generation));
        }

        #[test]
        fn any_bytes_read_as_a_header_or_as_nothing(bytes: Vec<u8>) {
            if let Some((header, _)) = Header::read(&bytes) {
                let _ = header.record();
            }
        }
    }

    #[test]
    fn a_head_that_cannot_be_a_record_is_refused() {
        let head = RecordHead {
            stamp: Stamp { time: Time(1), stream: StreamId(1), seq: Seq(1) },
            pair: PairId(1),
            kind: RecordKind::Write,
            extent: Extent { lba: 0, blocks: 1 },
            payload_bytes: 512,
        };
        let read = |head: RecordHead| {
            let mut header = Header::new(Kind::Data, 1, 1);
            header.set_record(Epoch(1), 1, &head);
            header.record()
        };
        assert!(read(head).is_some());
        assert!(read(RecordHead { payload_bytes: 0, ..head }).is_none());
        assert!(read(RecordHead { payload_bytes: u32::MAX, ..head }).is_none());
        assert!(read(RecordHead { kind: RecordKind::Unmap, ..head }).is_none());
        assert!(read(RecordHead { extent: Extent { lba: 0, blocks: 0 }, ..head }).is_none());
        assert!(read(RecordHead { extent: Extent { lba: u64::MAX, blocks: 1 }, ..head }).is_none());
        assert!(read(RecordHead { stamp: Stamp { seq: Seq(0), ..head.stamp }, ..head }).is_none());
    }
}
