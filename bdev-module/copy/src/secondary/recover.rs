//! Opening a group: the superblock, the new recovery epoch, and the search for the journal's end.

use super::Downlink;
use super::group::{After, Group, Phase, Ready};
use super::inlets::Inlet;
use super::intake::Effects;
use super::io::{Io, Op};
use super::meta::{Life, key_of};
use super::touched::Touched;
use super::unit::Hold;
use crate::apply::Applier;
use crate::engine::OperatorError;
use crate::journal::open::{self, Found, Identity, Judged, Search, SuperError};
use crate::journal::{Journal, Point, Purposes, RETRY_NS};
use crate::message::{Message, Refusal, Subject};
use crate::ports::{DeviceError, LocalIo, OperatorAnswer, Ticket};
use crate::types::{Epoch, PairId, RecordHead, RecordKind, Seq, StreamId, Time};
use std::collections::HashMap;

/// What the journal's own I/O is for.
const JOURNAL: Purposes<Op> = Purposes {
    write: [
        Op::BatchWrite(0),
        Op::BatchWrite(1),
        Op::BatchWrite(2),
        Op::BatchWrite(3),
        Op::BatchWrite(4),
        Op::BatchWrite(5),
    ],
    flush: Op::BatchFlush,
};

/// The search for the journal's end.
pub(crate) struct Scan {
    pub(crate) search: Search<Op>,
    durable: HashMap<StreamId, (Epoch, Seq)>,
    touched: Vec<PairId>,
    /// What the unit changes.
    changed: Touched,
    bookmarks: Vec<(RecordHead, Box<[u8]>)>,
    greatest: Time,
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// Goes on with the opening.
    pub(crate) fn open_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        match &self.phase {
            Phase::Start { not_before } if *not_before <= io.now.mono => {
                // Without memory: again in a later turn.
                if let Some(read) = open::super_read(&self.area, io) {
                    self.phase = Phase::Super;
                    io.submit(Op::SuperRead, self.area.volume, read);
                    effects.is_busy = true;
                }
            }
            Phase::Scan(_) => self.scan_on(io, effects),
            _ => {}
        }
    }

    pub(crate) fn fail<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, reason: String) {
        io.ports.log(format_args!("group \"{}\": {reason}", self.meta.name));
        self.end_takeover(io, &reason);
        // *A block that was read back was damaged: the group took nothing more, and its primary showed PAIR and a lag that
        // grew, until its next session.* One that lost data was told so with what it asked.
        if !matches!(self.meta.life, Life::Lost(_)) {
            let text = format!("group \"{}\" of the secondary: {reason}", self.meta.name);
            for stream in self.meta.streams.iter().filter(|stream| !stream.closed) {
                let Some(link) = self.links.get(&stream.owner) else { continue };
                let (group, subject, text) = (self.id, Subject::Stream(stream.id, stream.epoch), text.clone());
                io.ports.send_message(*link, Message::Refused { group, subject, refusal: Refusal::Never, text });
            }
        }
        self.phase = Phase::Failed(reason);
    }

    /// An I/O on the superblock ended.
    pub(crate) fn super_done<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        op: Op,
        result: Result<(), DeviceError>,
        data: Option<&[u8]>,
        effects: &mut Effects,
    ) {
        if let Err(error) = result {
            if let Phase::Wiping(ticket) = self.phase {
                let text = format!("the journal's superblock cannot be zeroed: {error}; call group_delete again");
                io.ports.answer_operator(ticket, Err(OperatorError::Device(text.clone())));
                self.phase = Phase::Failed(text);
            } else {
                self.opening_failed(io.now.mono, error);
                self.phase = Phase::Start { not_before: io.now.mono.after_ns(RETRY_NS) };
            }
            return;
        }
        match op {
            Op::SuperRead => self.judge_super(io, data.unwrap_or_default()),
            Op::SuperWrite => io.submit(Op::SuperFlush, self.area.volume, LocalIo::Flush),
            Op::SuperFlush => {
                self.meta.life = Life::Open;
                self.raise(io);
            }
            Op::OpenFlush => self.start_scan(io),
            Op::Wipe => io.submit(Op::WipeFlush, self.area.volume, LocalIo::Flush),
            Op::WipeFlush => {
                if let Phase::Wiping(ticket) = self.phase {
                    self.forget(io, ticket, effects);
                }
            }
            _ => {}
        }
    }

    /// Decides by what the journal device holds.
    fn judge_super<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, bytes: &[u8]) {
        let judged = match open::judge(bytes, &self.identity(), self.meta.life == Life::Formatting) {
            Err(SuperError::Earlier(_)) if self.may_replace(io, bytes) => Ok(Judged::Blank),
            judged => judged,
        };
        match judged {
            Ok(Judged::Blank) => {
                self.phase = Phase::Format;
                self.persist(io, vec![After::Formatting]);
            }
            Ok(Judged::Formatted) => {
                self.phase = Phase::Format;
                self.write_super(io);
            }
            Ok(Judged::Ours) => self.raise(io),
            Err(error) => self.fail(io, error.to_string()),
        }
    }

    fn identity(&self) -> Identity {
        let geometry = self.config.journal_geometry;
        Identity { name: "journal", id: self.meta.journal_id, group: self.id, geometry, is_scratch: false }
    }

    /// Writes the superblock; that this journal is ours is durable.
    pub(crate) fn write_super<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        match open::super_write(&self.area, &self.identity(), io) {
            Some(write) => io.submit(Op::SuperWrite, self.area.volume, write),
            None => self.phase = Phase::Start { not_before: io.now.mono },
        }
    }

    /// Raises the recovery epoch, before anything is appended: what a torn append of an earlier life left behind the end
    /// can't be mistaken for this one's.
    fn raise<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        self.meta.recovery_epoch += 1;
        self.phase = Phase::Raise;
        self.persist(io, vec![After::Raised]);
    }

    pub(crate) fn start_scan<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        let checkpoint = self.meta.checkpoint;
        let tail = Point { position: checkpoint.position, previous: checkpoint.previous, limit: checkpoint.limit };
        let stop = match self.meta.life {
            Life::Sealed { end } => end.max(checkpoint.position),
            _ => checkpoint.position + self.area.capacity,
        };
        self.phase = Phase::Scan(Box::new(Scan {
            search: Search::new(self.area, Op::Scan, self.meta.journal_id, self.meta.recovery_epoch, tail, stop),
            durable: HashMap::new(),
            touched: Vec::new(),
            changed: Touched::default(),
            bookmarks: Vec::new(),
            greatest: Time(0),
        }));
        let mut effects = Effects::default();
        self.scan_on(io, &mut effects);
    }

    fn scan_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        let known = match self.meta.life {
            Life::Sealed { end } => end.max(self.meta.checkpoint.position),
            // A unit begins when everything before it is durable.
            _ => self.meta.unit.as_ref().map_or(0, |unit| unit.position).max(self.meta.checkpoint.durable_end),
        };
        let unit_from = self.meta.unit.as_ref().map_or(u64::MAX, |unit| unit.position);
        let Phase::Scan(scan) = &mut self.phase else { return };
        let Scan { search, durable, touched, changed, bookmarks, greatest } = &mut **scan;
        let found = search.poll_named(io, known, |point, entry, name| {
            effects.is_busy = true;
            let (stamp, pair) = (entry.head.stamp, entry.head.pair);
            durable.insert(stamp.stream, (entry.epoch, stamp.seq));
            *greatest = (*greatest).max(stamp.time);
            if entry.head.kind.changes_volume() {
                if !touched.contains(&pair) {
                    touched.push(pair);
                }
                if point.position > unit_from {
                    changed.insert(pair, entry.head.extent);
                }
            }
            if entry.head.kind == RecordKind::Bookmark {
                bookmarks.push((entry.head, name.into()));
            }
        });
        match found {
            Found::Wait => {}
            Found::Damaged { at, known, .. } => self.fail_damaged(io, at, known),
            Found::End(end) => self.opened(io, end),
        }
    }

    pub(crate) fn fail_damaged<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, at: u64, known: u64) {
        self.fail(
            io,
            format!(
                "the journal is damaged at block {at}, though it was durable up to block {known} at least: records that \
                 were acknowledged are lost, so the volumes here are no cut; check the device, then create the group anew"
            ),
        );
    }

    /// The journal's end is known.
    fn opened<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, end: Point) {
        let Phase::Scan(scan) = &mut self.phase else { return };
        let checkpoint = self.meta.checkpoint;
        let base = self.meta.unit.as_ref().map_or(Time(0), |unit| unit.base);
        // Between the journal's last word and these there are no records.
        self.limit = end.limit.max(checkpoint.limit).max(base).max(self.meta.proven);
        if let (Life::Sealed { .. }, Some(certificate)) = (&self.meta.life, &self.meta.certificate) {
            self.limit = certificate.recovery_point;
        }
        self.journaled = self.limit;
        self.hold = self.meta.unit.as_ref().map(|unit| Hold { base: unit.base, position: unit.position });
        self.recovery_point = self.hold.map_or(self.limit, |hold| hold.base);
        self.touched = std::mem::take(&mut scan.changed);
        for (head, name) in std::mem::take(&mut scan.bookmarks) {
            self.meta.add_bookmark(&head, &name);
        }
        // Nothing beyond the recovery point was ever on a volume, and nothing beyond the reach.
        self.reach = self.meta.reach;
        let latest = self.meta.reach.map_or(self.recovery_point, |reach| reach.min(self.recovery_point));
        self.meta.greatest_time = self.meta.greatest_time.max(scan.greatest).max(self.limit);
        for pair in self.meta.pairs.iter_mut() {
            pair.touched |= scan.touched.contains(&pair.id);
        }
        let gone = scan.touched.iter().filter(|id| self.meta.pair(**id).is_none());
        self.buried = gone.map(|id| (*id, end.position)).collect();
        for stream in self.meta.streams.iter().filter(|stream| !stream.closed) {
            let journaled = scan.durable.get(&stream.id).filter(|(epoch, _)| *epoch == stream.epoch);
            let durable = journaled.map_or(stream.durable, |(_, seq)| stream.durable.max(*seq));
            self.inlets.insert(stream.id, Inlet::new(stream, durable, self.limit));
            if let Some((epoch, end)) = self.closing.get(&stream.id) {
                self.inlets.announce_end(stream.id, *epoch, *end);
            }
        }
        self.closing.clear();
        let tail = Point { position: checkpoint.position, previous: checkpoint.previous, limit: checkpoint.limit };
        let (id, epoch) = (self.meta.journal_id, self.meta.recovery_epoch);
        self.phase = Phase::Ready(Box::new(Ready {
            journal: Journal::new(self.area, JOURNAL, id, epoch, tail.position, end)
                .with_block_bytes_max(self.attest.config.journal_block_bytes_max),
            applier: Applier::new(self.area, id, epoch, tail, end.position, latest),
        }));
        io.ports.log(format_args!(
            "group \"{}\": journal open, recovery point {}, {} blocks to apply",
            self.meta.name,
            self.recovery_point,
            end.position - checkpoint.position
        ));
        // What was found may be applied when that it was is durable.
        self.attest.kept(io.now.mono, self.limit);
        self.persist(io, Vec::new());
        self.open_overlay();
        self.set_barrier();
        self.resume_takeover(io);
        self.lose_volatile(io);
    }

    /// Zeroes the superblock, so that the device can become another group's.
    pub(crate) fn wipe<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, ticket: Ticket, effects: &mut Effects) {
        let is_ours = !matches!(self.phase, Phase::Failed(_)) && !self.has_no_journal;
        if is_ours {
            self.phase = Phase::Wiping(ticket);
            let extent = self.area.super_extent();
            io.submit(Op::Wipe, self.area.volume, LocalIo::WriteZeroes { extent, fua: false });
        } else {
            // A journal that was refused is not ours to wipe, and one that is missing cannot be.
            self.forget(io, ticket, effects);
        }
    }

    fn forget<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, ticket: Ticket, effects: &mut Effects) {
        effects.detach = true;
        self.is_forgotten = true;
        if io.ports.recall(&key_of(self.id)).is_none_or(|value| value.is_empty()) {
            effects.is_deleted = true;
            io.ports.answer_operator(ticket, Ok(OperatorAnswer::Deleted));
            return;
        }
        let token = io.persist(&key_of(self.id), &[]);
        self.await_persisted(token, After::Deleted(ticket));
    }
}
