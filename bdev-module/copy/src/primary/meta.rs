//! What the primary roles keep in metadata, as bytes.
//!
//! | key | value | written |
//! | --- | --- | --- |
//! | `primary/group/<id>` | [`GroupRecord`] | at creation, when the generation becomes known, when a pair or stream comes or goes, at suspension, resync and fencing |
//! | `primary/pair/<id>` | [`PairRecord`] | when the pair is established, when its first copy is done, when it is suspended on its own |
//! | `primary/dirty/<pair>/<chunk>` | bits of a [`crate::dirty::DirtyMap`] | before a write in the region is stamped; when a mark is cleared |
//! | `primary/stream/<id>` | [`StreamMark`] | when an epoch begins, before its first stamp, and when it was drained (after the clears of its pairs' marks) |
//!
//! Ids are 16 hexadecimal digits, a chunk is 4. Each value begins with a version byte, 2; numbers are little-endian. An empty value is
//! as good as none: the object was deleted.

use crate::types::{Epoch, Generation, Geometry, GroupId, PairId, PairState, Scope, Seq, StreamId, SystemId, Time};

const VERSION: u8 = 2;

pub(super) fn group_key(group: GroupId) -> String {
    format!("primary/group/{:016x}", group.0)
}

pub(super) fn pair_key(pair: PairId) -> String {
    format!("primary/pair/{:016x}", pair.0)
}

pub(super) fn stream_key(stream: StreamId) -> String {
    format!("primary/stream/{:016x}", stream.0)
}

/// Where a stream's numbers stand across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamMark {
    /// Nobody depends on what was sent up to this epoch: the pairs were deleted. Numbers begin anew, epochs go on.
    Forgotten {
        /// The last epoch.
        epoch: Epoch,
    },
    /// Everything that was ever stamped, up to `last`, is durable at the secondary. Written when an epoch begins (before
    /// it stamped anything) and when it was drained.
    Drained {
        /// The last epoch.
        epoch: Epoch,
        /// The last number that was given.
        last: Seq,
    },
    /// The epoch stamps. Durable before its first stamp, so that a process that finds it knows that it may lack records.
    Stamping {
        /// The epoch.
        epoch: Epoch,
        /// Its first number.
        base: Seq,
    },
}

impl StreamMark {
    /// The last epoch that began.
    pub fn epoch(self) -> Epoch {
        match self {
            StreamMark::Forgotten { epoch }
            | StreamMark::Drained { epoch, .. }
            | StreamMark::Stamping { epoch, .. } => epoch,
        }
    }
}

/// A group across restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupRecord {
    pub scope: Scope,
    pub remote: SystemId,
    pub generation: Generation,
    pub suspension: Option<Suspension>,
    /// What fenced it; or, of the same number, what it is in split brain with.
    pub fenced: Option<Generation>,
    pub split_brain: bool,
    /// The number of the last resync that was begun.
    pub units: u64,
    /// That resync is not done: the secondary's consistent image is the one from before it.
    pub is_resyncing: bool,
    /// Pairs that were established, with their names; those count that have a record. A resync waits until all of them
    /// were taken up: else it would end without what they lack.
    pub pairs: Vec<(PairId, String)>,
    /// Streams that the secondary was or will be asked to open for the group. One that no pair uses after a restart is
    /// closed.
    pub streams: Vec<StreamId>,
    /// Streams that ended while the secondary may not have heard of it; said again in every session.
    pub closed: Vec<ClosedStream>,
}

/// Why and since when a group or pair does not copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspension {
    pub state: PairState,
    pub reason: String,
    /// Time of the first write that the secondary may lack, if that is known.
    pub first_missed: Option<Time>,
    /// A resync begins by itself.
    pub auto: bool,
}

/// The end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClosedStream {
    pub stream: StreamId,
    pub epoch: Epoch,
    pub end: Seq,
    pub end_time: Time,
}

/// A pair across restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PairRecord {
    pub geometry: Geometry,
    /// Of a region of its dirty map.
    pub region_bytes: u64,
    /// `None`: established; it shares its group's state.
    pub suspended: Option<String>,
    /// Its first copy is not done: it joins as a pair that is to be copied.
    pub is_copying: bool,
    /// That copy is over an image that stays until its resync is done.
    pub keeps_image: bool,
    /// It grows, and hosts see so many blocks until the new ones are copied.
    pub shown_blocks: Option<u64>,
}

impl StreamMark {
    pub fn encode(self) -> Vec<u8> {
        let mut out = Writer::new();
        let (state, epoch, last) = match self {
            StreamMark::Forgotten { epoch } => (0, epoch, Seq(0)),
            StreamMark::Drained { epoch, last } => (1, epoch, last),
            StreamMark::Stamping { epoch, base } => (2, epoch, base),
        };
        out.byte(state);
        out.number(epoch.0);
        out.number(last.0);
        out.0
    }

    pub fn decode(bytes: &[u8]) -> Option<StreamMark> {
        let mut from = Reader::new(bytes)?;
        let (state, epoch, last) = (from.byte()?, Epoch(from.number()?), Seq(from.number()?));
        from.end()?;
        Some(match state {
            0 => StreamMark::Forgotten { epoch },
            1 => StreamMark::Drained { epoch, last },
            2 => StreamMark::Stamping { epoch, base: last },
            _ => return None,
        })
    }
}

impl GroupRecord {
    /// Of a group that begins.
    pub fn new(scope: Scope, remote: SystemId) -> GroupRecord {
        GroupRecord {
            scope,
            remote,
            generation: Generation::default(),
            suspension: None,
            fenced: None,
            split_brain: false,
            units: 0,
            is_resyncing: false,
            pairs: Vec::new(),
            streams: Vec::new(),
            closed: Vec::new(),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.byte(match self.scope {
            Scope::Pair => 0,
            Scope::System => 1,
            Scope::Group => 2,
        });
        out.number(self.remote.0);
        out.generation(self.generation);
        out.option(self.suspension.as_ref(), |out, suspension| {
            out.byte(match suspension.state {
                PairState::SuspendedFull => 1,
                PairState::SuspendedOperator => 2,
                PairState::TakenOver => 4,
                _ => 3,
            });
            out.text(&suspension.reason);
            out.option(suspension.first_missed.as_ref(), |out, time| out.number(time.0));
            out.byte(u8::from(suspension.auto));
        });
        out.option(self.fenced.as_ref(), |out, generation| out.generation(*generation));
        out.byte(u8::from(self.split_brain));
        out.number(self.units);
        out.byte(u8::from(self.is_resyncing));
        out.number(self.pairs.len() as u64);
        for (pair, name) in &self.pairs {
            out.number(pair.0);
            out.text(name);
        }
        out.number(self.streams.len() as u64);
        for stream in &self.streams {
            out.number(stream.0);
        }
        out.number(self.closed.len() as u64);
        for closed in &self.closed {
            out.number(closed.stream.0);
            out.number(closed.epoch.0);
            out.number(closed.end.0);
            out.number(closed.end_time.0);
        }
        out.0
    }

    pub fn decode(bytes: &[u8]) -> Option<GroupRecord> {
        let mut from = Reader::new(bytes)?;
        let scope = match from.byte()? {
            0 => Scope::Pair,
            1 => Scope::System,
            2 => Scope::Group,
            _ => return None,
        };
        let remote = SystemId(from.number()?);
        let generation = from.generation()?;
        let suspension = from.option(|from| {
            let state = match from.byte()? {
                1 => PairState::SuspendedFull,
                2 => PairState::SuspendedOperator,
                3 => PairState::SuspendedError,
                4 => PairState::TakenOver,
                _ => return None,
            };
            let reason = from.text()?;
            let first_missed = from.option(|from| from.number().map(Time))?;
            Some(Suspension { state, reason, first_missed, auto: from.flag()? })
        })?;
        let fenced = from.option(Reader::generation)?;
        let split_brain = from.flag()?;
        let (units, is_resyncing) = (from.number()?, from.flag()?);
        let (mut pairs, mut streams) = (Vec::new(), Vec::new());
        for _ in 0..from.number()? {
            pairs.push((PairId(from.number()?), from.text()?));
        }
        for _ in 0..from.number()? {
            streams.push(StreamId(from.number()?));
        }
        let count = from.number()?;
        let mut closed = Vec::new();
        for _ in 0..count {
            closed.push(ClosedStream {
                stream: StreamId(from.number()?),
                epoch: Epoch(from.number()?),
                end: Seq(from.number()?),
                end_time: Time(from.number()?),
            });
        }
        from.end()?;
        Some(GroupRecord {
            scope,
            remote,
            generation,
            suspension,
            fenced,
            split_brain,
            units,
            is_resyncing,
            pairs,
            streams,
            closed,
        })
    }
}

impl PairRecord {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.number(self.geometry.blocks);
        out.number(u64::from(self.geometry.block_bytes));
        out.number(self.region_bytes);
        out.option(self.suspended.as_ref(), |out, reason| out.text(reason));
        let is_growing = u8::from(self.shown_blocks.is_some());
        out.byte(u8::from(self.is_copying) | u8::from(self.keeps_image) << 1 | is_growing << 2);
        // Not there as a rule, and so that values from before it was known are read.
        self.shown_blocks.into_iter().for_each(|blocks| out.number(blocks));
        out.0
    }

    pub fn decode(bytes: &[u8]) -> Option<PairRecord> {
        let mut from = Reader::new(bytes)?;
        let (blocks, block_bytes, region_bytes) = (from.number()?, from.number()?, from.number()?);
        let suspended = from.option(Reader::text)?;
        let copying = from.byte().filter(|byte| *byte < 8)?;
        let shown_blocks = if copying & 4 != 0 { Some(from.number()?) } else { None };
        let (is_copying, keeps_image) = (copying & 1 != 0, copying & 2 != 0);
        from.end()?;
        let geometry = Geometry { blocks, block_bytes: u32::try_from(block_bytes).ok()? };
        let fits = region_bytes.is_power_of_two() && (512..=1 << 30).contains(&region_bytes);
        fits.then_some(PairRecord { geometry, region_bytes, suspended, is_copying, keeps_image, shown_blocks })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Writer {
        Writer(vec![VERSION])
    }

    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn generation(&mut self, generation: Generation) {
        self.number(generation.number);
        self.number(generation.id);
        self.number(generation.parent);
    }

    fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Writer, &T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Option<Reader<'a>> {
        let mut from = Reader(bytes);
        (from.byte()? == VERSION).then_some(from)
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<String> {
        let bytes = usize::try_from(self.number()?).ok()?;
        String::from_utf8(self.take(bytes)?.to_vec()).ok()
    }

    fn generation(&mut self) -> Option<Generation> {
        Some(Generation { number: self.number()?, id: self.number()?, parent: self.number()? })
    }

    /// The outer `None` is damage, the inner one absence.
    fn option<T>(&mut self, read: impl FnOnce(&mut Reader<'a>) -> Option<T>) -> Option<Option<T>> {
        Some(if self.flag()? { Some(read(self)?) } else { None })
    }

    fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> GroupRecord {
        GroupRecord {
            scope: Scope::System,
            remote: SystemId(9),
            generation: Generation { number: 2, id: 3, parent: 4 },
            suspension: Some(Suspension {
                state: PairState::SuspendedFull,
                reason: "voll".into(),
                first_missed: Some(Time(77)),
                auto: true,
            }),
            fenced: Some(Generation { number: 3, id: 5, parent: 3 }),
            split_brain: true,
            units: 6,
            is_resyncing: true,
            pairs: vec![(PairId(1), "one".into()), (PairId(2), "two".into())],
            streams: vec![StreamId(3)],
            closed: vec![ClosedStream { stream: StreamId(1), epoch: Epoch(2), end: Seq(3), end_time: Time(4) }],
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        assert_eq!(GroupRecord::decode(&record().encode()), Some(record()));
        let bare = GroupRecord { suspension: None, fenced: None, closed: vec![], scope: Scope::Pair, ..record() };
        assert_eq!(GroupRecord::decode(&bare.encode()), Some(bare));
        for mark in [
            StreamMark::Forgotten { epoch: Epoch(1) },
            StreamMark::Drained { epoch: Epoch(2), last: Seq(3) },
            StreamMark::Stamping { epoch: Epoch(4), base: Seq(9) },
        ] {
            assert_eq!(StreamMark::decode(&mark.encode()), Some(mark));
        }
        for (suspended, shown_blocks) in [(None, Some(3)), (Some("x".to_string()), None)] {
            let pair = PairRecord {
                geometry: Geometry { blocks: 5, block_bytes: 512 },
                region_bytes: 65536,
                suspended,
                is_copying: true,
                keeps_image: true,
                shown_blocks,
            };
            assert_eq!(PairRecord::decode(&pair.encode()), Some(pair));
        }
    }

    #[test]
    fn a_cut_or_lengthened_value_is_not_taken_for_a_whole_one() {
        let whole = record().encode();
        for len in 0..whole.len() {
            assert_eq!(GroupRecord::decode(&whole[..len]), None);
        }
        assert_eq!(GroupRecord::decode(&[&whole[..], &[0]].concat()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let bytes = [&[VERSION][..], &bytes].concat();
            let _ = (GroupRecord::decode(&bytes), PairRecord::decode(&bytes), StreamMark::decode(&bytes));
        }
    }
}
