//! Control messages as bytes.
//!
//! One byte for the variant, then its fields in order: integers little-endian, strings with two bytes of length in
//! front. Text longer than its bound is cut at a character's end: names are bounded where operators give them, the
//! rest is for reading.

use crate::message::{Content, JoinPair, Message, OpenStream, Refusal, StreamOpened, Subject};
use crate::types::{Epoch, Generation, GroupId, PairId, Scope, Seq, StreamId, Time};

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
    }
}

fn content_of(code: u8) -> Option<Content> {
    Some(match code {
        1 => Content::Empty,
        2 => Content::DeclaredIdentical,
        3 => Content::Established,
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
        }
        Message::StreamOpened(opened) => {
            out.byte(2).u64(opened.group.0).generation(opened.generation).u64(opened.stream.0).u64(opened.epoch.0);
            out.u64(opened.durable.0).u64(opened.base_time.0);
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
                Subject::Stream(stream) => out.byte(1).u64(stream.0),
                Subject::Pair(pair) => out.byte(2).u64(pair.0),
            };
            out.byte(refusal_code(*refusal)).text(text, TEXT_BYTES_MAX);
        }
        Message::Fenced { group, generation } => {
            out.byte(9).u64(group.0).generation(*generation);
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
        }),
        2 => Message::StreamOpened(StreamOpened {
            group: GroupId(from.u64()?),
            generation: from.generation()?,
            stream: StreamId(from.u64()?),
            epoch: Epoch(from.u64()?),
            durable: Seq(from.u64()?),
            base_time: Time(from.u64()?),
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
                1 => Subject::Stream(StreamId(from.u64()?)),
                2 => Subject::Pair(PairId(from.u64()?)),
                _ => return None,
            },
            refusal: refusal_of(from.byte()?)?,
            text: from.text(TEXT_BYTES_MAX)?,
        },
        9 => Message::Fenced { group: GroupId(from.u64()?), generation: from.generation()? },
        _ => return None,
    })
}
