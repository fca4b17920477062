//! A parcel: opened data frames back to back, on their way to a group at home on another core, and back with what became
//! of each.
//!
//! ```text
//! parcel = (header (88 bytes) | body)*
//! ```
//!
//! The headers are those of the wire, but that the packet's number gives way to the frame's [`Ticket`] number, and that the
//! kind says on the way back whether the frame was kept. It never leaves the process.

use super::header::{HEADER_BYTES, Header, Kind};
use super::receive::data_frame;
use super::sink::{DataFrame, Verdict};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

/// Puts a frame behind the first `used` bytes of a parcel, and gives how many are used then; `None`: it does not fit.
pub(crate) fn put(parcel: &mut [u8], used: usize, frame: &DataFrame<'_>, number: u64) -> Option<usize> {
    let end = used + HEADER_BYTES + frame.body.len();
    let (front, body) = parcel.get_mut(used..end)?.split_at_mut(HEADER_BYTES);
    let mut header = Header::new(Kind::Data, 0, number);
    header.body_bytes = U16::new(u16::try_from(frame.body.len()).ok()?);
    header.set_record(frame.epoch, frame.generation, &frame.head);
    header.fragment_offset = U32::new(frame.fragment_offset);
    front.copy_from_slice(header.as_bytes());
    body.copy_from_slice(frame.body);
    Some(end)
}

/// Asks `judge` about each frame of a parcel, and writes down in it what it says.
pub(crate) fn judge(parcel: &mut [u8], mut judge: impl FnMut(DataFrame<'_>) -> Verdict) {
    let mut rest = parcel;
    while let Some((header, _)) = Header::read(rest) {
        let (datagram, after) = rest.split_at_mut(HEADER_BYTES + usize::from(header.body_bytes.get()));
        let (front, body) = datagram.split_at_mut(HEADER_BYTES);
        let is_kept = data_frame(&header, body).is_some_and(|frame| judge(frame) == Verdict::Accept);
        let kind = if is_kept { Kind::Ping } else { Kind::Close };
        let mut said = Header::new(kind, 0, header.packet.get());
        said.body_bytes = header.body_bytes;
        front.copy_from_slice(said.as_bytes());
        rest = after;
    }
}

/// What became of each frame of a parcel: its ticket's number, its body's length, and whether it is kept.
pub(crate) fn verdicts(parcel: &[u8]) -> impl Iterator<Item = (u64, usize, bool)> + '_ {
    let mut rest = parcel;
    std::iter::from_fn(move || {
        let (header, kind) = Header::read(rest)?;
        let body_bytes = usize::from(header.body_bytes.get());
        rest = rest.get(HEADER_BYTES + body_bytes..)?;
        Some((header.packet.get(), body_bytes, kind == Kind::Ping))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, Extent, PairId, RecordHead, RecordKind, Seq, Stamp, StreamId, Time};

    fn frame(seq: u64, body: &[u8]) -> DataFrame<'_> {
        let stamp = Stamp { time: Time(100 + seq), stream: StreamId(4), seq: Seq(seq) };
        let head = RecordHead {
            stamp,
            pair: PairId(9),
            kind: RecordKind::Write,
            extent: Extent { lba: seq, blocks: 1 },
            payload_bytes: 64 + body.len() as u32,
        };
        DataFrame { stream: stamp.stream, epoch: Epoch(3), generation: 5, head, fragment_offset: 64, body }
    }

    #[test]
    fn frames_come_out_of_a_parcel_as_they_went_in_and_each_verdict_comes_back() {
        let mut parcel = [0xee; 1000];
        let bodies = [[1u8; 512].as_slice(), &[2; 7]];
        let mut used = 0;
        for (index, body) in bodies.into_iter().enumerate() {
            used = put(&mut parcel, used, &frame(index as u64 + 1, body), 70 + index as u64).unwrap();
        }
        assert_eq!(put(&mut parcel, used, &frame(3, &[3; 512]), 72), None, "it is full");
        let mut seen = 0;
        judge(&mut parcel[..used], |came| {
            assert_eq!(came, frame(seen + 1, bodies[seen as usize]));
            seen += 1;
            if seen == 1 { Verdict::Drop } else { Verdict::Accept }
        });
        assert_eq!(verdicts(&parcel[..used]).collect::<Vec<_>>(), [(70, 512, false), (71, 7, true)]);
    }
}
