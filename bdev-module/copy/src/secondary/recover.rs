//! Opening a group: the superblock, the new recovery epoch, and the search for the journal's end.

use super::Downlink;
use super::group::{After, Group, Inlet, Phase, Ready};
use super::intake::Effects;
use super::io::{Io, Op};
use super::meta::{Life, key_of};
use crate::apply::{Applier, Point};
use crate::engine::OperatorError;
use crate::journal::format::{self, Expect, Super};
use crate::journal::walk::{Ahead, Next, Walk};
use crate::journal::{Journal, RETRY_NS};
use crate::ports::{DeviceError, LocalIo, OperatorAnswer, Ticket};
use crate::types::{Epoch, PairId, Seq, StreamId, Time};
use std::collections::HashMap;

/// The search for the journal's end.
pub(crate) struct Scan {
    pub(crate) walk: Walk,
    /// The end of the last whole commit.
    end: Point,
    /// Entries of a commit whose last block was not found yet.
    pending: Vec<(StreamId, Epoch, Seq, PairId, Time)>,
    durable: HashMap<StreamId, (Epoch, Seq)>,
    touched: Vec<PairId>,
    greatest: Time,
    ended: bool,
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// Goes on with the opening.
    pub(crate) fn open_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        match &self.phase {
            Phase::Start { not_before } if *not_before <= io.now.mono => {
                let extent = self.area.super_extent();
                let bytes = extent.blocks as usize * self.area.block_bytes as usize;
                // Without memory: again in a later turn.
                if let Some(buf) = io.ports.alloc(bytes) {
                    self.phase = Phase::Super;
                    io.submit(Op::SuperRead, self.area.volume, LocalIo::Read { extent, buf });
                    effects.is_busy = true;
                }
            }
            Phase::Scan(_) => self.scan_on(io, effects),
            _ => {}
        }
    }

    fn fail<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, reason: String) {
        io.ports.log(format_args!("group \"{}\": {reason}", self.meta.name));
        self.end_takeover(io, &reason);
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
                io.ports.log(format_args!("group \"{}\": the journal cannot be opened: {error}", self.meta.name));
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
        let is_new = self.meta.life == Life::Formatting;
        match format::parse_super(bytes) {
            Super::Blank if is_new => {
                // The metadata first: a superblock that no metadata knows would be taken for another system's.
                self.phase = Phase::Format;
                self.persist(io, vec![After::Formatting]);
            }
            Super::Journal { id, group, .. } if is_new && id == self.meta.journal_id && group == self.id => {
                self.phase = Phase::Format;
                self.write_super(io);
            }
            Super::Journal { id, group, geometry } if !is_new && id == self.meta.journal_id && group == self.id => {
                if geometry == self.config.journal_geometry {
                    self.raise(io);
                } else {
                    let reason = format!(
                        "its journal was made with {} blocks of {} bytes, the device has {} of {}: give the device as it \
                         was",
                        geometry.blocks,
                        geometry.block_bytes,
                        self.config.journal_geometry.blocks,
                        self.config.journal_geometry.block_bytes
                    );
                    self.fail(io, reason);
                }
            }
            Super::Journal { group, .. } => {
                let whose = if group == self.id { "an earlier group of this name" } else { "another group" };
                self.fail(
                    io,
                    format!(
                        "the journal device belongs to {whose}: give this group its own device, or write zeroes over \
                         the first 4096 bytes of this one if that group is no more"
                    ),
                );
            }
            Super::Foreign => self.fail(
                io,
                "the journal device holds something that is not a journal: give an empty one, or write zeroes over its \
                 first 4096 bytes"
                    .to_owned(),
            ),
            Super::Blank => self.fail(
                io,
                "the journal device is empty, but this group was in use: give the device that it was created with"
                    .to_owned(),
            ),
        }
    }

    /// Writes the superblock; that this journal is ours is durable.
    pub(crate) fn write_super<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        let extent = self.area.super_extent();
        let bytes = extent.blocks as usize * self.area.block_bytes as usize;
        let Some(mut buf) = io.ports.alloc(bytes) else {
            self.phase = Phase::Start { not_before: io.now.mono };
            return;
        };
        format::super_bytes(self.meta.journal_id, self.id, self.config.journal_geometry, buf.as_mut());
        let data = io.ports.freeze(buf, bytes);
        io.submit(Op::SuperWrite, self.area.volume, LocalIo::Write { extent, data, fua: false });
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
        let expect = Expect {
            journal_id: self.meta.journal_id,
            position: checkpoint.position,
            previous: checkpoint.previous,
            epoch_min: 0,
            epoch_max: self.meta.recovery_epoch,
        };
        let stop = match self.meta.life {
            Life::Sealed { end } => end,
            _ => checkpoint.position + self.area.capacity,
        };
        self.phase = Phase::Scan(Box::new(Scan {
            walk: Walk::new(self.area, Op::Scan, expect, stop),
            end: Point { position: checkpoint.position, previous: checkpoint.previous, limit: checkpoint.limit },
            pending: Vec::new(),
            durable: HashMap::new(),
            touched: Vec::new(),
            greatest: Time(0),
            ended: false,
        }));
        let mut effects = Effects::default();
        self.scan_on(io, &mut effects);
    }

    fn scan_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        let Phase::Scan(scan) = &mut self.phase else { return };
        while !scan.ended {
            match scan.walk.next(io) {
                Next::Wait => return,
                Next::End => scan.ended = true,
                Next::Block(info) => {
                    let pending = &mut scan.pending;
                    let whole = scan.walk.entries(&info, |entry, _| {
                        let stamp = entry.head.stamp;
                        pending.push((stamp.stream, entry.epoch, stamp.seq, entry.head.pair, stamp.time));
                    });
                    if !whole {
                        scan.ended = true;
                        break;
                    }
                    scan.walk.advance(&info);
                    effects.is_busy = true;
                    if info.continues {
                        continue;
                    }
                    let after = scan.walk.expect();
                    scan.end = Point { position: after.position, previous: after.previous, limit: info.limit };
                    for (stream, epoch, seq, pair, time) in scan.pending.drain(..) {
                        scan.durable.insert(stream, (epoch, seq));
                        scan.greatest = scan.greatest.max(time);
                        if !scan.touched.contains(&pair) {
                            scan.touched.push(pair);
                        }
                    }
                }
            }
        }
        match scan.walk.look_ahead(io) {
            Ahead::Wait => {}
            Ahead::Block { position } => {
                let at = scan.walk.expect().position;
                self.fail_damaged(io, at, position);
            }
            Ahead::Nothing => {
                let known = match self.meta.life {
                    Life::Sealed { end } => end,
                    _ => self.meta.checkpoint.durable_end,
                };
                let (at, end) = (scan.walk.expect().position, scan.end.position);
                if end < known { self.fail_damaged(io, at, known) } else { self.opened(io) }
            }
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
    fn opened<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        let Phase::Scan(scan) = &self.phase else { return };
        let (end, checkpoint) = (scan.end, self.meta.checkpoint);
        // A sealed group's point was certified; what lies between it and the journal's last word has no records.
        let certified = self.meta.certificate.as_ref().map_or(Time(0), |it| it.recovery_point);
        self.limit = end.limit.max(checkpoint.limit).max(certified);
        self.recovery_point = self.limit;
        self.meta.greatest_time = self.meta.greatest_time.max(scan.greatest).max(self.limit);
        for pair in &mut self.meta.pairs {
            pair.touched |= scan.touched.contains(&pair.id);
        }
        for stream in self.meta.streams.iter().filter(|stream| !stream.closed) {
            let journaled = scan.durable.get(&stream.id).filter(|(epoch, _)| *epoch == stream.epoch);
            let durable = journaled.map_or(stream.durable, |(_, seq)| stream.durable.max(*seq));
            self.inlets.insert(stream.id, Inlet::new(stream, durable, self.limit));
        }
        let tail = Point { position: checkpoint.position, previous: checkpoint.previous, limit: checkpoint.limit };
        let (id, epoch) = (self.meta.journal_id, self.meta.recovery_epoch);
        self.phase = Phase::Ready(Box::new(Ready {
            journal: Journal::new(self.area, id, epoch, tail.position, end.position, end.previous),
            applier: Applier::new(self.area, id, epoch, tail, end.position),
        }));
        io.ports.log(format_args!(
            "group \"{}\": journal open, recovery point {}, {} blocks to apply",
            self.meta.name,
            self.recovery_point,
            end.position - checkpoint.position
        ));
        self.resume_takeover(io);
    }

    /// Zeroes the superblock, so that the device can become another group's.
    pub(crate) fn wipe<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, ticket: Ticket, effects: &mut Effects) {
        let is_ours = !matches!(self.phase, Phase::Failed(_));
        if is_ours {
            self.phase = Phase::Wiping(ticket);
            let extent = self.area.super_extent();
            io.submit(Op::Wipe, self.area.volume, LocalIo::WriteZeroes { extent, fua: false });
        } else {
            // A journal that was refused is not ours to wipe.
            self.forget(io, ticket, effects);
        }
    }

    fn forget<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, ticket: Ticket, effects: &mut Effects) {
        effects.detach = true;
        if io.ports.recall(&key_of(self.id)).is_none_or(|value| value.is_empty()) {
            effects.is_deleted = true;
            io.ports.answer_operator(ticket, Ok(OperatorAnswer::Deleted));
            return;
        }
        let token = io.persist(&key_of(self.id), &[]);
        self.await_persisted(token, After::Deleted(ticket));
    }
}
