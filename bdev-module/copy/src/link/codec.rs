//! Control messages as bytes.
//!
//! One byte for the variant, then its fields in order: integers little-endian, strings with two bytes of length in
//! front. Text longer than its bound is cut at a character's end: names are bounded where operators give them, the
//! rest is for reading.

use crate::message::{
    Content, CopyId, DIGESTS_MAX, EXTENTS_MAX, JoinPair, Message, OpenStream, Refusal, StreamOpened, Subject,
};
use crate::types::{Epoch, Extent, Generation, GroupId, PairId, Scope, Seq, StreamId, Time};

/// No message is longer than this: each fits into one datagram of the shortest permitted size.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// Bytes of a name in a message at most.
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes of a sentence in a message at most.
const TEXT_BYTES_MAX: usize = 600;

struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn text(&mut self, text: &str, bytes_max: usize) -> &mut Self {
        let end = text.floor_char_boundary(bytes_max);
        let kept = text.get(..end).unwrap_or_default();
        self.0.extend_from_slice(&(kept.len() as u16).to_le_bytes());
        self.0.extend_from_slice(kept.as_bytes());
        self
    }

    fn generation(&mut self, generation: Generation) -> &mut Self {
        self.u64(generation.number).u64(generation.id).u64(generation.parent)
    }

    fn extent(&mut self, extent: Extent) -> &mut Self {
        self.u64(extent.lba).u32(extent.blocks)
    }

    fn copy(&mut self, copy: CopyId) -> &mut Self {
        match copy {
            CopyId::Unit(unit) => self.byte(1).u64(unit),
            CopyId::Pair(pair) => self.byte(2).u64(pair.0),
        }
    }

    fn option(&mut self, value: Option<u64>) -> &mut Self {
        match value {
            None => self.byte(0),
            Some(value) => self.byte(1).u64(value),
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self, bytes_max: usize) -> Option<String> {
        let bytes = usize::from(u16::from_le_bytes(self.take(2)?.try_into().ok()?));
        if bytes > bytes_max {
            return None;
        }
        Some(std::str::from_utf8(self.take(bytes)?).ok()?.to_owned())
    }

    fn generation(&mut self) -> Option<Generation> {
        Some(Generation { number: self.u64()?, id: self.u64()?, parent: self.u64()? })
    }

    fn extent(&mut self) -> Option<Extent> {
        let extent = Extent { lba: self.u64()?, blocks: self.u32()? };
        (extent.blocks > 0 && extent.lba.checked_add(u64::from(extent.blocks)).is_some()).then_some(extent)
    }

    fn copy(&mut self) -> Option<CopyId> {
        Some(match self.byte()? {
            1 => CopyId::Unit(self.u64()?),
            2 => CopyId::Pair(PairId(self.u64()?)),
            _ => return None,
        })
    }

    /// The outer `None` is damage, the inner one absence.
    fn option(&mut self) -> Option<Option<u64>> {
        Some(match self.byte()? {
            0 => None,
            1 => Some(self.u64()?),
            _ => return None,
        })
    }

    fn list<T>(&mut self, most: usize, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = usize::from(self.byte()?);
        if count > most {
            return None;
        }
        (0..count).map(|_| read(self)).collect()
    }
}

fn scope_code(scope: Scope) -> u8 {
    match scope {
        Scope::Pair => 1,
        Scope::System => 2,
        Scope::Group => 3,
    }
}

fn scope_of(code: u8) -> Option<Scope> {
    Some(match code {
        1 => Scope::Pair,
        2 => Scope::System,
        3 => Scope::Group,
        _ => return None,
    })
}

fn content_code(content: Content) -> u8 {
    match content {
        Content::Empty => 1,
        Content::DeclaredIdentical => 2,
        Content::Established => 3,
        Content::Copy => 4,
    }
}

fn content_of(code: u8) -> Option<Content> {
    Some(match code {
        1 => Content::Empty,
        2 => Content::DeclaredIdentical,
        3 => Content::Established,
        4 => Content::Copy,
        _ => return None,
    })
}

fn refusal_code(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::NotYet => 1,
        Refusal::Never => 2,
        Refusal::LostData => 3,
        Refusal::UnsentRecords => 4,
    }
}

fn refusal_of(code: u8) -> Option<Refusal> {
    Some(match code {
        1 => Refusal::NotYet,
        2 => Refusal::Never,
        3 => Refusal::LostData,
        4 => Refusal::UnsentRecords,
        _ => return None,
    })
}

/// The message as bytes, at most [`MESSAGE_BYTES_MAX`].
pub(crate) fn encode(message: &Message) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(128));
    match message {
        Message::OpenStream(open) => {
            out.byte(1).u64(open.group.0).text(&open.group_name, NAME_BYTES_MAX).generation(open.generation);
            out.u64(open.stream.0).byte(scope_code(open.scope)).u64(open.epoch.0).u64(open.base.0);
            out.u64(open.base_time.0).u64(open.acknowledged.0);
            match open.drained {
                None => out.byte(0),
                Some((epoch, seq)) => out.byte(1).u64(epoch.0).u64(seq.0),
            };
            out.option(open.unit).byte(open.strand);
        }
        Message::StreamOpened(opened) => {
            out.byte(2).u64(opened.group.0).generation(opened.generation).u64(opened.stream.0).u64(opened.epoch.0);
            out.u64(opened.durable.0).u64(opened.base_time.0).u64(opened.held.0);
        }
        Message::JoinPair(join) => {
            out.byte(3).u64(join.group.0).u64(join.pair.0).text(&join.name, NAME_BYTES_MAX);
            out.text(&join.remote_volume, NAME_BYTES_MAX).u64(join.stream.0).u64(join.blocks).u32(join.block_bytes);
            out.byte(content_code(join.content));
        }
        Message::PairJoined { group, pair } => {
            out.byte(4).u64(group.0).u64(pair.0);
        }
        Message::LeavePair { group, pair, at } => {
            out.byte(5).u64(group.0).u64(pair.0).u64(at.0);
        }
        Message::CloseStream { group, stream, epoch, end, end_time } => {
            out.byte(6).u64(group.0).u64(stream.0).u64(epoch.0).u64(end.0).u64(end_time.0);
        }
        Message::GroupSuspended { group, state, reason } => {
            out.byte(7).u64(group.0).text(state, NAME_BYTES_MAX).text(reason, TEXT_BYTES_MAX);
        }
        Message::Refused { group, subject, refusal, text } => {
            out.byte(8).u64(group.0);
            match subject {
                Subject::Stream(stream, epoch) => out.byte(1).u64(stream.0).u64(epoch.0),
                Subject::Pair(pair) => out.byte(2).u64(pair.0),
                Subject::Group => out.byte(3).u64(0),
            };
            out.byte(refusal_code(*refusal)).text(text, TEXT_BYTES_MAX);
        }
        Message::Fenced { group, generation } => {
            out.byte(9).u64(group.0).generation(*generation);
        }
        Message::CopyEnd { group, copy, end } => {
            out.byte(10).u64(group.0).copy(*copy).u64(end.0);
        }
        Message::CopyDone { group, copy } => {
            out.byte(11).u64(group.0).copy(*copy);
        }
        Message::DigestAsk { group, pair, ask, extent, digests } => {
            out.byte(12).u64(group.0).u64(pair.0).u64(*ask).extent(*extent).byte(digests.len().min(DIGESTS_MAX) as u8);
            for digest in digests.iter().take(DIGESTS_MAX) {
                out.0.extend_from_slice(digest);
            }
        }
        Message::DigestAnswer { group, pair, ask, differing } => {
            out.byte(13).u64(group.0).u64(pair.0).u64(*ask).option(differing.map(u64::from));
        }
        Message::Verified { group, pair, stream, seq, differing } => {
            out.byte(14).u64(group.0).u64(pair.0).u64(stream.0).u64(seq.0).option(*differing);
        }
        Message::Differs { group, pair, extents } => {
            out.byte(15).u64(group.0).u64(pair.0).byte(extents.len().min(EXTENTS_MAX) as u8);
            for extent in extents.iter().take(EXTENTS_MAX) {
                out.extent(*extent);
            }
        }
        Message::HandOver { group, generation, end, last_sum } => {
            out.byte(16).u64(group.0).generation(*generation).u64(end.0);
            out.option(*last_sum);
        }
        Message::Trouble { group, pair, text } => {
            out.byte(18).u64(group.0).option(pair.map(|pair| pair.0)).text(text, TEXT_BYTES_MAX);
        }
        Message::Resize { group, pair, blocks, is_done } => {
            out.byte(20).u64(group.0).u64(pair.0).u64(*blocks).byte(u8::from(*is_done));
        }
        Message::Resized { group, pair, blocks } => {
            out.byte(21).u64(group.0).u64(pair.0).u64(*blocks);
        }
        Message::Identity { group, pair, identity } => {
            out.byte(19).u64(group.0).u64(pair.0).0.extend_from_slice(identity);
        }
        Message::HandedOver { group, generation } => {
            out.byte(17).u64(group.0).generation(*generation);
        }
    }
    debug_assert!(out.0.len() <= MESSAGE_BYTES_MAX, "{} bytes: {message:?}", out.0.len());
    out.0
}

/// The message that the bytes are, if they are one and nothing follows it.
pub(crate) fn decode(bytes: &[u8]) -> Option<Message> {
    let mut from = Reader(bytes);
    let message = read(&mut from)?;
    from.0.is_empty().then_some(message)
}

fn read(from: &mut Reader<'_>) -> Option<Message> {
    Some(match from.byte()? {
        1 => Message::OpenStream(OpenStream {
            group: GroupId(from.u64()?),
            group_name: from.text(NAME_BYTES_MAX)?,
            generation: from.generation()?,
            stream: StreamId(from.u64()?),
            scope: scope_of(from.byte()?)?,
            epoch: Epoch(from.u64()?),
            base: Seq(from.u64()?),
            base_time: Time(from.u64()?),
            acknowledged: Seq(from.u64()?),
            drained: match from.byte()? {
                0 => None,
                1 => Some((Epoch(from.u64()?), Seq(from.u64()?))),
                _ => return None,
            },
            unit: from.option()?,
            strand: from.byte()?,
        }),
        2 => Message::StreamOpened(StreamOpened {
            group: GroupId(from.u64()?),
            generation: from.generation()?,
            stream: StreamId(from.u64()?),
            epoch: Epoch(from.u64()?),
            durable: Seq(from.u64()?),
            base_time: Time(from.u64()?),
            held: Time(from.u64()?),
        }),
        3 => Message::JoinPair(JoinPair {
            group: GroupId(from.u64()?),
            pair: PairId(from.u64()?),
            name: from.text(NAME_BYTES_MAX)?,
            remote_volume: from.text(NAME_BYTES_MAX)?,
            stream: StreamId(from.u64()?),
            blocks: from.u64()?,
            block_bytes: from.u32()?,
            content: content_of(from.byte()?)?,
        }),
        4 => Message::PairJoined { group: GroupId(from.u64()?), pair: PairId(from.u64()?) },
        5 => Message::LeavePair { group: GroupId(from.u64()?), pair: PairId(from.u64()?), at: Time(from.u64()?) },
        6 => Message::CloseStream {
            group: GroupId(from.u64()?),
            stream: StreamId(from.u64()?),
            epoch: Epoch(from.u64()?),
            end: Seq(from.u64()?),
            end_time: Time(from.u64()?),
        },
        7 => Message::GroupSuspended {
            group: GroupId(from.u64()?),
            state: from.text(NAME_BYTES_MAX)?,
            reason: from.text(TEXT_BYTES_MAX)?,
        },
        8 => Message::Refused {
            group: GroupId(from.u64()?),
            subject: match from.byte()? {
                1 => Subject::Stream(StreamId(from.u64()?), Epoch(from.u64()?)),
                2 => Subject::Pair(PairId(from.u64()?)),
                3 if from.u64()? == 0 => Subject::Group,
                _ => return None,
            },
            refusal: refusal_of(from.byte()?)?,
            text: from.text(TEXT_BYTES_MAX)?,
        },
        9 => Message::Fenced { group: GroupId(from.u64()?), generation: from.generation()? },
        10 => Message::CopyEnd { group: GroupId(from.u64()?), copy: from.copy()?, end: Time(from.u64()?) },
        11 => Message::CopyDone { group: GroupId(from.u64()?), copy: from.copy()? },
        12 => Message::DigestAsk {
            group: GroupId(from.u64()?),
            pair: PairId(from.u64()?),
            ask: from.u64()?,
            extent: from.extent()?,
            digests: from.list(DIGESTS_MAX, |from| from.take(16)?.try_into().ok())?,
        },
        13 => Message::DigestAnswer {
            group: GroupId(from.u64()?),
            pair: PairId(from.u64()?),
            ask: from.u64()?,
            differing: match from.option()? {
                None => None,
                Some(mask) => Some(u32::try_from(mask).ok()?),
            },
        },
        14 => Message::Verified {
            group: GroupId(from.u64()?),
            pair: PairId(from.u64()?),
            stream: StreamId(from.u64()?),
            seq: Seq(from.u64()?),
            differing: from.option()?,
        },
        15 => Message::Differs {
            group: GroupId(from.u64()?),
            pair: PairId(from.u64()?),
            extents: from.list(EXTENTS_MAX, Reader::extent)?,
        },
        16 => Message::HandOver {
            group: GroupId(from.u64()?),
            generation: from.generation()?,
            end: Time(from.u64()?),
            last_sum: from.option()?,
        },
        18 => Message::Trouble {
            group: GroupId(from.u64()?),
            pair: from.option()?.map(PairId),
            text: from.text(TEXT_BYTES_MAX)?,
        },
        20 => Message::Resize {
            group: GroupId(from.u64()?),
            pair: PairId(from.u64()?),
            blocks: from.u64()?,
            is_done: match from.byte()? {
                0 => false,
                1 => true,
                _ => return None,
            },
        },
        21 => Message::Resized { group: GroupId(from.u64()?), pair: PairId(from.u64()?), blocks: from.u64()? },
        19 => Message::Identity {
            group: GroupId(from.u64()?),
            pair: PairId(from.u64()?),
            identity: from.take(16)?.try_into().ok()?,
        },
        17 => Message::HandedOver { group: GroupId(from.u64()?), generation: from.generation()? },
        _ => return None,
    })
}
