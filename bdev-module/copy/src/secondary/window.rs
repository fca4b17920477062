//! Any point in time: how far the volumes stay behind the recovery point, the bookmarks, and what a takeover at an earlier
//! point throws away.
//!
//! After a crash nobody knows which records were on the volumes, only that none later than the *reach* was: it is durable
//! before anything later is applied, so a takeover may go to any time from there on.

use super::Downlink;
use super::group::{After, Group, Phase};
use super::io::{Io, Op};
use super::meta::GroupMeta;
use super::status::{ApplyWindow, Bookmark};
use crate::apply::{Barrier, Gate};
use crate::engine::OperatorError;
use crate::journal::format::Expect;
use crate::journal::walk::{Next, Walk};
use crate::ports::DeviceError;
use crate::takeover::TakeoverAt;
use crate::types::{Epoch, Extent, Mono, PairId, RecordHead, Seq, StreamId, Time};
use std::collections::BTreeMap;

/// Bookmarks that a group remembers.
const BOOKMARKS_MAX: usize = 256;
/// Longest name of a bookmark, in bytes; the rest is cut off.
const NAME_BYTES_MAX: usize = 255;
/// The reach is raised in steps of this part of the delay, so that it is not made durable for every record.
const REACH_STEPS: u64 = 16;

impl GroupMeta {
    /// A bookmark became durable (or was found in the journal).
    pub(crate) fn add_bookmark(&mut self, head: &RecordHead, name: &[u8]) {
        if self.bookmarks.iter().any(|known| known.stamp == head.stamp) {
            return;
        }
        let bytes = &name[..name.len().min(head.payload_bytes as usize).min(NAME_BYTES_MAX)];
        let name = match std::str::from_utf8(bytes) {
            Ok(name) => name.to_owned(),
            Err(error) => String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned(),
        };
        let at = self.bookmarks.partition_point(|known| known.stamp < head.stamp);
        self.bookmarks.insert(at, Bookmark { name, stamp: head.stamp });
        let excess = self.bookmarks.len().saturating_sub(BOOKMARKS_MAX);
        self.bookmarks.drain(..excess);
    }
}

/// The journal is read for what lies behind an earlier point.
pub(crate) struct Discard {
    walk: Walk<Op>,
    until: u64,
    cut: Time,
    pub(crate) extents: Vec<(PairId, Extent)>,
    /// By stream the first of them.
    pub(crate) first: BTreeMap<StreamId, (Epoch, Seq)>,
}

/// How far reading the journal for a takeover at an earlier point is.
pub(crate) enum Discarding {
    /// A read is under way.
    Wait,
    /// All of it is known.
    Done,
    /// Block `at` is not what it was, though the journal was durable up to `known`.
    Damaged { at: u64, known: u64 },
}

impl Discard {
    fn poll<P: Downlink>(&mut self, io: &mut Io<'_, P>) -> Discarding {
        while self.walk.expect().position < self.until {
            let damaged = Discarding::Damaged { at: self.walk.expect().position, known: self.until };
            let info = match self.walk.next(io) {
                Next::Wait => return Discarding::Wait,
                Next::Block(info) => info,
                Next::End => return damaged,
            };
            let whole = self.walk.entries(&info, |entry, _| {
                let head = entry.head;
                if head.stamp.time > self.cut {
                    self.first.entry(head.stamp.stream).or_insert((entry.epoch, head.stamp.seq));
                    if head.kind.changes_volume() {
                        self.extents.push((head.pair, head.extent));
                    }
                }
            });
            if !whole {
                return damaged;
            }
            if self.extents.len() > 1 << 16 {
                self.extents = super::failover::merged(std::mem::take(&mut self.extents));
            }
            self.walk.advance(&info);
        }
        Discarding::Done
    }
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// Tells the apply how far it may go.
    pub(crate) fn set_barrier(&mut self) {
        let position = match (self.hold, &self.meta.unit) {
            (Some(_), Some(unit)) if unit.is_overlaid && self.overlay.lets_apply() => u64::MAX,
            (Some(hold), _) => hold.position,
            (None, _) => u64::MAX,
        };
        let all = Time(u64::MAX);
        let reach = self.reach.unwrap_or(all).min(self.meta.reach.unwrap_or(all));
        let at = self.takeover.as_ref().and_then(|takeover| takeover.at).unwrap_or(all);
        // A unit that goes to the volumes does so whatever the delay; the overlay keeps what a takeover needs.
        let reach = if position == u64::MAX && self.hold.is_some() { all } else { reach };
        let barrier = Barrier { position, time: reach.min(at) };
        let gate = self.hold.filter(|_| self.overlay.is_used).map(|hold| hold.position);
        if let Phase::Ready(ready) = &mut self.phase
            && !self.takeover.as_ref().is_some_and(|takeover| takeover.is_sealed())
        {
            ready.applier.set_barrier(barrier);
            ready.applier.set_gate(Gate::Overlay, gate);
            ready.applier.set_gate(Gate::View, self.view_gate);
        }
    }

    /// Moves the reach on, as the recovery point and the delay demand.
    pub(crate) fn reach_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        let is_overlaid = self.meta.unit.as_ref().is_some_and(|unit| unit.is_overlaid);
        if self.reaching || self.takeover.is_some() || is_overlaid {
            return;
        }
        let delay_ns = self.config.apply_delay_ns;
        let wanted = if delay_ns == 0 {
            None
        } else if self.is_squeezed() || self.is_hurried || self.meta.reach.is_none() {
            // Where there was no reach, anything may have been applied.
            Some(self.recovery_point)
        } else {
            Some(Time(self.recovery_point.0.saturating_sub(delay_ns)))
        };
        let is_due = match (self.meta.reach, wanted) {
            (Some(known), Some(wanted)) => {
                let step = if self.is_squeezed() || self.is_hurried { 1 } else { (delay_ns / REACH_STEPS).max(1) };
                wanted.since_ns(known) >= step
            }
            (known, wanted) => known != wanted,
        };
        if is_due {
            self.reaching = true;
            self.meta.reach = wanted;
            self.set_barrier();
            self.persist(io, vec![After::Reached(wanted)]);
        }
    }

    pub(crate) fn reached(&mut self, reach: Option<Time>) {
        self.reaching = false;
        self.reach = reach;
        self.set_barrier();
    }

    /// The journal is too small for the delay: the volumes go on before it is over, or nothing would. *Three
    /// quarters full was not full enough, and what came next needed more than the last quarter.*
    fn is_squeezed(&self) -> bool {
        let Phase::Ready(ready) = &self.phase else { return false };
        ready.journal.used_bytes() > ready.journal.total_bytes() / 4 * 3 || self.is_held_up(ready)
    }

    /// Why the delay is shorter than the operator asked for.
    pub(crate) fn window_reason(&self) -> Option<String> {
        let is_short = self.config.apply_delay_ns > 0 && self.is_squeezed();
        is_short.then(|| "the journal is too small for apply_delay_s: the volumes go on sooner".to_owned())
    }

    /// The first stream ever: before its base time there is no history that a takeover could go to.
    pub(crate) fn begin_history(&mut self, base: Time) {
        self.limit = self.limit.max(base);
        self.set_journaled(self.limit);
        self.meta.reach = self.meta.reach.map(|reach| reach.max(base));
        self.reach = self.reach.map(|reach| reach.max(base));
        if let Phase::Ready(ready) = &mut self.phase {
            ready.applier.begin_at(base);
        }
    }

    /// Where a takeover may go to.
    pub(crate) fn window(&self) -> Option<ApplyWindow> {
        let Phase::Ready(ready) = &self.phase else { return None };
        let until = self.recovery_point;
        if self.hold.is_some() && self.meta.unit.is_none() {
            // The end of a resync is being made durable: a seal behind it is too, and the image before it is no more.
            return Some(ApplyWindow { from: self.journaled, until: self.journaled });
        }
        if self.meta.unit.as_ref().is_some_and(|unit| unit.is_overlaid) {
            // The overlay brings back the image, nothing before it.
            return Some(ApplyWindow { from: until, until });
        }
        Some(ApplyWindow { from: ready.applier.latest().min(until), until })
    }

    /// The point that an operator named.
    ///
    /// # Errors
    /// `Invalid` outside of the window or for an unknown bookmark.
    pub(crate) fn point_of(&self, at: &TakeoverAt) -> Result<Time, OperatorError> {
        let name = &self.meta.name;
        let newest = self.recovery_point;
        let (point, what) = match at {
            TakeoverAt::Newest => return Ok(newest),
            TakeoverAt::Time(time) => (*time, format!("time {time}")),
            TakeoverAt::Bookmark(bookmark) => {
                let Some(found) = self.meta.bookmarks.iter().rev().find(|known| known.name == *bookmark) else {
                    return Err(OperatorError::Invalid(format!(
                        "group \"{name}\" has no bookmark \"{bookmark}\": group_get shows those it has"
                    )));
                };
                (found.stamp.time, format!("bookmark \"{bookmark}\" at {}", found.stamp.time))
            }
        };
        let window = self.window().unwrap_or(ApplyWindow { from: newest, until: newest });
        if point < window.from || point > window.until {
            return Err(OperatorError::Invalid(format!(
                "group \"{name}\" cannot be taken over at {what}: it can go to {} up to {} only (apply_delay_s widens \
                 that window)",
                window.from, window.until
            )));
        }
        // What was stamped in between came as a whole, and some of it was never stamped at all.
        if let Some((base, end)) = self.meta.leaps.iter().find(|(base, end)| *base < point && point < *end) {
            return Err(OperatorError::Invalid(format!(
                "group \"{name}\" cannot be taken over at {what}: a resync led from {base} to {end} in one step, so \
                 these two are the nearest points"
            )));
        }
        Ok(point)
    }

    /// Reads what a takeover at `cut` throws away of the journal.
    pub(crate) fn discard_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, cut: Time) -> Discarding {
        let (Phase::Ready(ready), Some(takeover)) = (&self.phase, &mut self.takeover) else { return Discarding::Done };
        let until = self.hold.map_or(ready.journal.committed_end(), |hold| hold.position);
        let discard = takeover.discard.get_or_insert_with(|| {
            let from = ready.applier.applied();
            let expect = Expect {
                journal_id: self.meta.journal_id,
                position: from.position,
                previous: from.previous,
                epoch_min: 0,
                epoch_max: self.meta.recovery_epoch,
            };
            let walk = Walk::new(self.area, Op::Discard, expect, until);
            Discard { walk, until, cut, extents: Vec::new(), first: BTreeMap::new() }
        });
        // A block that the device had refused may have become durable since. *The certificate called its records applied.*
        discard.until = until;
        discard.walk.extend(until);
        discard.poll(io)
    }

    pub(crate) fn discard_read(&mut self, now: Mono, result: Result<(), DeviceError>, data: Option<&[u8]>) {
        if let Some(discard) = self.takeover.as_mut().and_then(|takeover| takeover.discard.as_mut()) {
            discard.walk.done(now, result, data);
        }
    }

    /// When reading the journal for a takeover is tried again.
    pub(crate) fn discard_retry_at(&self) -> Option<Mono> {
        self.takeover.as_ref()?.discard.as_ref()?.walk.retry_at()
    }
}
