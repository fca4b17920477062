//! Opening a log again: whose is it, and where does it end?
//!
//! ```text
//! read the superblock ─> judge ─> (new: remember, write it, flush) ─> raise the recovery epoch, durably ─> flush ─> search
//! ```
//!
//! The recovery epoch rises before anything is appended, so that what a torn append of an earlier life left behind the end
//! can't be mistaken for this one's. The flush: a killed process left blocks that the device had taken and not flushed;
//! what is found here counts as durable, so it has to be.

use super::device::LogPorts;
use super::format::{self, Area, Entry, Expect, Super};
use super::walk::{Ahead, Next, Walk};
use super::{Point, RETRY_NS};
use crate::ports::{DeviceError, LocalIo, Memory};
use crate::types::{Geometry, GroupId, Mono, RecordKind, Time};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

#[cfg(test)]
mod tests;

/// Which log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// What it is to its group, for sentences: "journal", "overlay", "spill".
    pub(crate) name: &'static str,
    pub(crate) id: u64,
    pub(crate) group: GroupId,
    /// Of the device, as it was given now.
    pub(crate) geometry: Geometry,
    /// What an earlier log of the group left on the device counts for nothing.
    pub(crate) is_scratch: bool,
}

/// What the first blocks of a log's device say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// New and empty. The metadata first: a superblock that no metadata knows would be taken for another system's.
    Blank,
    /// New, and a crash came between the superblock and the word that it was flushed: write it again.
    Formatted,
    /// In use.
    Ours,
}

/// Why a log's device cannot be used. Nothing was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SuperError {
    /// The device has another size than at its formatting.
    #[error(
        "its {log} was made with {} blocks of {} bytes, the device has {} of {}: give the device as it was",
        made.blocks, made.block_bytes, given.blocks, given.block_bytes
    )]
    Resized { log: &'static str, made: Geometry, given: Geometry },
    /// An earlier life of this group made it.
    #[error(
        "the {0} device belongs to an earlier group of this name: give this group its own device, or write zeroes over \
         the first 4096 bytes of this one if that group is no more"
    )]
    Earlier(&'static str),
    /// Another group made it.
    #[error(
        "the {0} device belongs to another group: give this group its own device, or write zeroes over the first 4096 \
         bytes of this one if that group is no more"
    )]
    Another(&'static str),
    /// Something else is there.
    #[error(
        "the {0} device holds something that is not a {0}: give an empty one, or write zeroes over its first 4096 bytes"
    )]
    Foreign(&'static str),
    /// It was in use and holds nothing.
    #[error("the {0} device is empty, but this group was in use: give the device that it was created with")]
    Empty(&'static str),
}

/// Decides by a device's first blocks. `is_new`: the owner never heard that the log was formatted.
pub(crate) fn judge(bytes: &[u8], identity: &Identity, is_new: bool) -> Result<Judged, SuperError> {
    let log = identity.name;
    match format::parse_super(bytes) {
        Super::Blank if is_new => Ok(Judged::Blank),
        Super::Blank => Err(SuperError::Empty(log)),
        Super::Journal { group, .. } if group != identity.group => Err(SuperError::Another(log)),
        // *Swapped there and back: the overlay was that of the time before, and the next resync had none.*
        Super::Journal { id, .. } if id != identity.id && is_new && identity.is_scratch => Ok(Judged::Blank),
        Super::Journal { id, .. } if id != identity.id => Err(SuperError::Earlier(log)),
        Super::Journal { .. } if is_new => Ok(Judged::Formatted),
        Super::Journal { geometry, .. } if geometry == identity.geometry => Ok(Judged::Ours),
        Super::Journal { geometry, .. } => Err(SuperError::Resized { log, made: geometry, given: identity.geometry }),
        Super::Foreign => Err(SuperError::Foreign(log)),
    }
}

/// The write that formats a log; `None` without memory.
pub(crate) fn super_write<M: Memory>(
    area: &Area,
    identity: &Identity,
    memory: &mut M,
) -> Option<LocalIo<M::Buf, M::Shared>> {
    let extent = area.super_extent();
    let bytes = extent.blocks as usize * area.block_bytes as usize;
    let mut buf = memory.alloc(bytes)?;
    format::super_bytes(identity.id, identity.group, identity.geometry, buf.as_mut());
    Some(LocalIo::Write { extent, data: memory.freeze(buf, bytes), fua: false })
}

/// The read of the superblock; `None` without memory.
pub(crate) fn super_read<M: Memory>(area: &Area, memory: &mut M) -> Option<LocalIo<M::Buf, M::Shared>> {
    let extent = area.super_extent();
    let buf = memory.alloc(extent.blocks as usize * area.block_bytes as usize)?;
    Some(LocalIo::Read { extent, buf })
}

/// The search for a log's end. Hands out what it finds on the way, whole commits only.
pub(crate) struct Search<T> {
    walk: Walk<T>,
    /// The end of the last whole commit.
    end: Point,
    /// Entries of a commit whose last block was not found yet, and the payloads of those that are names.
    pending: Vec<(Entry, Box<[u8]>)>,
    ended: bool,
}

/// How far a [`Search`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A read is under way, or waits for memory or for its time.
    Wait,
    /// The log ends here, in a torn tail at most.
    End(Point),
    /// It cannot be read at block `at`, though it was durable up to block `known` at least: corruption.
    Damaged {
        /// The first block that cannot be read.
        at: u64,
        known: u64,
        /// The end of the last whole commit before it.
        end: Point,
    },
}

impl<T: Copy> Search<T> {
    /// From `tail` on, not beyond `stop`, in the log `id` whose recovery epoch is durable.
    pub(crate) fn new(area: Area, purpose: T, id: u64, recovery_epoch: u64, tail: Point, stop: u64) -> Search<T> {
        let expect = Expect {
            journal_id: id,
            position: tail.position,
            previous: tail.previous,
            epoch_min: 0,
            epoch_max: recovery_epoch,
        };
        Search { walk: Walk::new(area, purpose, expect, stop), end: tail, pending: Vec::new(), ended: false }
    }

    /// A read ended.
    pub(crate) fn done(&mut self, now: Mono, result: Result<(), DeviceError>, data: Option<&[u8]>) {
        self.walk.done(now, result, data);
    }

    /// The device's error, if it stands in the way; the read is tried again.
    pub(crate) fn error(&self) -> Option<DeviceError> {
        self.walk.error()
    }

    /// When to call [`Search::poll`] for another try.
    pub(crate) fn retry_at(&self) -> Option<Mono> {
        self.walk.retry_at()
    }

    /// Goes on. `known`: up to where the owner knows that the log was durable. `each` gets every entry of every whole
    /// commit once, in order, with the point behind the commit.
    pub(crate) fn poll<I: LogPorts<T>>(
        &mut self,
        io: &mut I,
        known: u64,
        mut each: impl FnMut(Point, &Entry),
    ) -> Found {
        self.poll_named(io, known, |point, entry, _| each(point, entry))
    }

    /// As [`Search::poll`]; with a bookmark comes its payload, with everything else an empty one.
    pub(crate) fn poll_named<I: LogPorts<T>>(
        &mut self,
        io: &mut I,
        known: u64,
        mut each: impl FnMut(Point, &Entry, &[u8]),
    ) -> Found {
        while !self.ended {
            match self.walk.next(io) {
                Next::Wait => return Found::Wait,
                Next::End => self.ended = true,
                Next::Block(info) => {
                    let pending = &mut self.pending;
                    let whole = self.walk.entries(&info, |entry, payload| {
                        let is_name = entry.head.kind == RecordKind::Bookmark;
                        pending.push((entry, if is_name { payload.into() } else { Box::default() }));
                    });
                    if !whole {
                        self.ended = true;
                        break;
                    }
                    self.walk.advance(&info);
                    if info.continues {
                        continue;
                    }
                    let after = self.walk.expect();
                    self.end = Point { position: after.position, previous: after.previous, limit: info.limit };
                    for (entry, name) in self.pending.drain(..) {
                        each(self.end, &entry, &name);
                    }
                }
            }
        }
        let at = self.walk.expect().position;
        match self.walk.look_ahead(io) {
            Ahead::Wait => Found::Wait,
            Ahead::Block { position } => Found::Damaged { at, known: position, end: self.end },
            Ahead::Nothing if self.end.position < known => Found::Damaged { at, known, end: self.end },
            Ahead::Nothing => Found::End(self.end),
        }
    }
}

/// What the owner of a second log keeps durably about it, in its own metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogMeta {
    /// Random, drawn when the log is first given.
    pub(crate) id: u64,
    /// Whether the superblock is known to be on the device.
    pub(crate) is_formatted: bool,
    /// Rises at each opening.
    pub(crate) recovery_epoch: u64,
    /// Everything before is free.
    pub(crate) tail: Point,
    /// Everything before this position was durable when this was written.
    pub(crate) durable_end: u64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct LogMetaBytes {
    id: U64,
    recovery_epoch: U64,
    position: U64,
    limit: U64,
    durable_end: U64,
    previous: U32,
    is_formatted: U32,
}
const _: () = assert!(size_of::<LogMetaBytes>() == LogMeta::BYTES);

impl LogMeta {
    /// Size of [`LogMeta::encode`]'s answer.
    pub(crate) const BYTES: usize = 48;

    /// Of a log that was never opened.
    pub(crate) fn new(id: u64) -> LogMeta {
        LogMeta { id, is_formatted: false, recovery_epoch: 0, tail: Point::default(), durable_end: 0 }
    }

    /// As bytes of fixed length; the owner's metadata around it carries the version.
    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let bytes = LogMetaBytes {
            id: self.id.into(),
            recovery_epoch: self.recovery_epoch.into(),
            position: self.tail.position.into(),
            limit: self.tail.limit.0.into(),
            durable_end: self.durable_end.into(),
            previous: self.tail.previous.into(),
            is_formatted: u32::from(self.is_formatted).into(),
        };
        let mut out = [0; Self::BYTES];
        out.copy_from_slice(bytes.as_bytes());
        out
    }

    /// From bytes of [`LogMeta::encode`]; `None` if they are none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<LogMeta> {
        let bytes = LogMetaBytes::read_from_bytes(bytes).ok()?;
        Some(LogMeta {
            id: bytes.id.get(),
            is_formatted: bytes.is_formatted.get() != 0,
            recovery_epoch: bytes.recovery_epoch.get(),
            tail: Point {
                position: bytes.position.get(),
                previous: bytes.previous.get(),
                limit: Time(bytes.limit.get()),
            },
            durable_end: bytes.durable_end.get(),
        })
    }
}

/// What an [`Opening`] wants of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Nothing now; an I/O is under way, or waits for memory or for its time.
    Wait,
    /// Make the [`LogMeta`] durable as it is now, then call [`Opening::persisted`]. Asked once.
    Persist,
    /// The log is open; it ends here. Its [`super::Journal`] goes on at `recovery_epoch` and `tail` of the [`LogMeta`].
    Open(Point),
    /// As [`Ask::Open`], but what was durable behind the end, up to block `known` at least, cannot be read any more.
    Damaged { end: Point, known: u64 },
    /// The log cannot be used, and why.
    Failed(SuperError),
}

enum Step<T> {
    /// Read the superblock, not before this time.
    Start(Mono),
    Reading,
    Judge(Vec<u8>),
    /// What this log is is being made durable, before the superblock says it.
    Introducing,
    Format,
    Writing,
    Sync,
    Syncing,
    Synced,
    Raise,
    Raising,
    /// Flush what an earlier process may have left.
    Settle,
    Settling,
    Settled,
    Search(Box<Search<T>>),
    Ended(Ask),
}

/// The whole opening of a log that keeps a [`LogMeta`]: one I/O at a time, all with one purpose.
pub(crate) struct Opening<T> {
    area: Area,
    identity: Identity,
    purpose: T,
    step: Step<T>,
    error: Option<DeviceError>,
}

impl<T: Copy> Opening<T> {
    /// Begins at the next [`Opening::poll`]. `identity.id` is that of the [`LogMeta`].
    pub(crate) fn new(area: Area, identity: Identity, purpose: T) -> Opening<T> {
        Opening { area, identity, purpose, step: Step::Start(Mono(0)), error: None }
    }

    /// The device's error, if it stands in the way; the same is tried again.
    pub(crate) fn error(&self) -> Option<DeviceError> {
        match &self.step {
            Step::Search(search) => search.error(),
            _ => self.error,
        }
    }

    /// When to call [`Opening::poll`] for another try.
    pub(crate) fn retry_at(&self) -> Option<Mono> {
        match &self.step {
            Step::Start(at) => Some(*at),
            Step::Search(search) => search.retry_at(),
            _ => None,
        }
    }

    /// Goes on. `each` gets every entry of every whole commit, in order, with the point behind the commit.
    pub(crate) fn poll<I: LogPorts<T>>(
        &mut self,
        io: &mut I,
        meta: &mut LogMeta,
        mut each: impl FnMut(Point, &Entry),
    ) -> Ask {
        loop {
            self.step = match &mut self.step {
                Step::Start(at) if *at > io.mono() => return Ask::Wait,
                Step::Start(_) => {
                    let Some(read) = super_read(&self.area, io) else { return Ask::Wait };
                    io.submit_log(self.purpose, self.area.volume, read);
                    Step::Reading
                }
                Step::Judge(bytes) => match judge(bytes, &self.identity, !meta.is_formatted) {
                    Ok(Judged::Blank) => {
                        self.step = Step::Introducing;
                        return Ask::Persist;
                    }
                    Ok(Judged::Formatted) => Step::Format,
                    Ok(Judged::Ours) => Step::Raise,
                    Err(error) => Step::Ended(Ask::Failed(error)),
                },
                Step::Format => {
                    let Some(write) = super_write(&self.area, &self.identity, io) else { return Ask::Wait };
                    io.submit_log(self.purpose, self.area.volume, write);
                    Step::Writing
                }
                Step::Sync => {
                    io.submit_log(self.purpose, self.area.volume, LocalIo::Flush);
                    Step::Syncing
                }
                Step::Synced => {
                    meta.is_formatted = true;
                    Step::Raise
                }
                Step::Raise => {
                    meta.recovery_epoch += 1;
                    self.step = Step::Raising;
                    return Ask::Persist;
                }
                Step::Settle => {
                    io.submit_log(self.purpose, self.area.volume, LocalIo::Flush);
                    Step::Settling
                }
                Step::Settled => {
                    let stop = meta.tail.position + self.area.capacity;
                    let (id, epoch) = (meta.id, meta.recovery_epoch);
                    Step::Search(Box::new(Search::new(self.area, self.purpose, id, epoch, meta.tail, stop)))
                }
                Step::Search(search) => match search.poll(io, meta.durable_end, &mut each) {
                    Found::Wait => return Ask::Wait,
                    Found::End(end) => Step::Ended(Ask::Open(end)),
                    Found::Damaged { end, known, .. } => Step::Ended(Ask::Damaged { end, known }),
                },
                Step::Ended(ask) => return ask.clone(),
                Step::Reading | Step::Introducing | Step::Writing | Step::Syncing | Step::Raising | Step::Settling => {
                    return Ask::Wait;
                }
            };
        }
    }

    /// An I/O with the purpose ended.
    pub(crate) fn done(&mut self, now: Mono, result: Result<(), DeviceError>, data: Option<&[u8]>) {
        let next = match &mut self.step {
            Step::Search(search) => return search.done(now, result, data),
            Step::Reading => Step::Judge(data.unwrap_or_default().to_vec()),
            Step::Writing => Step::Sync,
            Step::Syncing => Step::Synced,
            Step::Settling => Step::Settled,
            _ => return,
        };
        self.error = result.err();
        self.step = if result.is_ok() { next } else { Step::Start(now.after_ns(RETRY_NS)) };
    }

    /// The metadata that [`Ask::Persist`] asked for is durable.
    pub(crate) fn persisted(&mut self) {
        match self.step {
            Step::Introducing => self.step = Step::Format,
            Step::Raising => self.step = Step::Settle,
            _ => {}
        }
    }
}
