//! What arrives: fragments and beacons, and what becomes of those that do not belong.

use super::group::Group;
use super::intake::Intake;
use super::meta::Life;
use super::{Downlink, Secondary, TakeoverStep};
use crate::digest::{Digest, PIECE_BYTES};
use crate::message::{Message, Refusal, Subject};
use crate::primary::Beacon;
use crate::stream::{Fragment, FrameError, StreamError};
use crate::types::{LinkId, Now, RecordHead, RecordKind, StreamId, Time};

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    /// A record's fragment came. Returns whether the link may acknowledge it: false if it must come again.
    pub fn frame(
        &mut self,
        now: Now,
        link: LinkId,
        frame: Fragment<'_>,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) -> bool {
        let ceiling = self.ceiling(now);
        let stream = frame.head.stamp.stream;
        let Some(intake) = self.intakes.get_mut(stream) else {
            self.fence(link, stream, ports);
            return false;
        };
        let groups = &self.groups;
        let pairs = &self.pairs;
        let (account, epoch, fed) = (intake.account, intake.rx.epoch(), &intake.groups);
        let check = |head: &RecordHead| {
            let id = pairs.get(&head.pair).filter(|id| fed.contains(id)).ok_or(FrameError::UnknownPair)?;
            let group = groups.get(id).ok_or(FrameError::UnknownPair)?;
            let pair = group.meta.pair(head.pair).ok_or(FrameError::UnknownPair)?;
            let is_inlet = group.inlets.of_epoch(head.stamp.stream, epoch).is_some();
            if pair.stream != Some(head.stamp.stream) || !is_inlet {
                return Err(FrameError::UnknownPair);
            }
            if !group.is_receiving() {
                return Err(FrameError::Closed);
            }
            let bytes = u64::from(head.extent.blocks) * u64::from(pair.geometry.block_bytes);
            let pieces = bytes.div_ceil(PIECE_BYTES as u64);
            let is_sized = match head.kind {
                RecordKind::Verify => {
                    pieces <= 64 && pieces * size_of::<Digest>() as u64 == u64::from(head.payload_bytes)
                }
                // Its extent means nothing.
                RecordKind::Bookmark => true,
                kind => !kind.writes_payload() || bytes == u64::from(head.payload_bytes),
            };
            let is_inside = head.kind == RecordKind::Bookmark || pair.geometry.holds(head.extent);
            if !is_inside || !is_sized {
                return Err(FrameError::Malformed);
            }
            if account.has_room(head.charge_bytes()) { Ok(()) } else { Err(FrameError::NoMemory) }
        };
        let tip = intake.rx.tip();
        let taken = if intake.link != link {
            Err(FrameError::WrongLink)
        } else if !intake.is_open {
            Err(FrameError::Closed)
        } else if frame.epoch == epoch && frame.generation != intake.generation {
            Err(FrameError::StaleGeneration)
        } else if frame.head.stamp.seq.0.saturating_sub(intake.durable.0) > intake.rx.window() {
            Err(FrameError::OutsideWindow)
        } else {
            intake.rx.accept(&frame, ceiling, check, ports, &mut self.ready)
        };
        match taken {
            Ok(accepted) => {
                intake.account.hold(accepted.charge_bytes);
                self.hear(now, frame.head.stamp.time);
                if accepted.advanced {
                    self.hand_over(now, stream, tip, ports);
                }
                self.refuse_broken(stream, ports);
                true
            }
            Err(why) => {
                intake.drops.count(why);
                if why == FrameError::Future {
                    self.note_ahead(now, stream, frame.head.stamp.time);
                }
                why == FrameError::Duplicate
            }
        }
    }

    /// Gives the records that continued the run to their groups.
    fn hand_over(&mut self, now: Now, stream: StreamId, tip: Time, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let Some(intake) = self.intakes.get_mut(stream) else { return };
        let mut ready = std::mem::take(&mut self.ready);
        intake.is_news = true;
        let epoch = intake.rx.epoch();
        intake.ledger.extend(ready.iter().map(|record| record.head.charge_bytes()));
        let mut is_durable_news = false;
        let mut left = ready.drain(..);
        for record in left.by_ref() {
            let stamp = record.head.stamp;
            let group = self.pairs.get(&record.head.pair).copied().unwrap_or_default();
            if let Some(intake) = self.intakes.get_mut(stream).filter(|intake| !intake.groups.contains(&group)) {
                // The group was deleted, or takes nothing more, since the record's first fragment came: what it leaves
                // behind is known.
                intake.account.free(record.head.charge_bytes());
                if self.groups.get(&group).is_some_and(Group::is_stopped) {
                    intake.break_at(stamp.seq);
                }
                is_durable_news = true;
                continue;
            }
            let mut broken = None;
            self.act(now, group, ports, |group, _, effects| {
                broken = group.take(record, epoch, effects).err();
                // Not before all are handed over: the run counts those already, their groups do not yet.
                is_durable_news |= !effects.durable.is_empty();
                effects.durable.clear();
            });
            if let Some(limit) = broken
                && let Some(intake) = self.intakes.get_mut(stream)
            {
                let error = StreamError::NotAfterLimit { seq: stamp.seq, time: stamp.time, limit };
                intake.rx.fail(error, tip);
                // The run counts it and what is behind it, though no group took them: they never become durable.
                intake.break_at(stamp.seq);
                break;
            }
        }
        let thrown_away: u64 = left.map(|record| record.head.charge_bytes()).sum();
        if let Some(intake) = self.intakes.get_mut(stream) {
            intake.account.free(thrown_away);
        }
        self.ready = ready;
        if is_durable_news {
            self.update_durable(stream);
        }
    }

    /// Tells the owner of a stream that broke the protocol, once.
    fn refuse_broken(&mut self, stream: StreamId, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        let is_news = |intake: &Intake<B, S>| intake.rx.error().is_some() && !intake.was_refused;
        if !self.intakes.get(&stream).is_some_and(is_news) {
            return;
        }
        let Some(intake) = self.intakes.get_mut(stream) else { return };
        let Some(error) = intake.rx.error() else { return };
        intake.was_refused = true;
        let epoch = intake.rx.epoch();
        let text = format!("the stream broke the protocol and is stopped: {error}");
        ports.log(format_args!("stream {stream}: {text}"));
        for group in &intake.groups {
            let subject = Subject::Stream(stream, epoch);
            let refused = Message::Refused { group: *group, subject, refusal: Refusal::Never, text: text.clone() };
            ports.send_message(intake.link, refused);
        }
    }

    /// Something was dropped because this system's timeline is far behind its stamp.
    fn note_ahead(&mut self, now: Now, stream: StreamId, time: Time) {
        let most_ns = self.config.stamp_ahead_ns_max;
        let groups = self.intakes.get(&stream).map(|intake| intake.groups.clone()).unwrap_or_default();
        for id in groups {
            if let Some(group) = self.groups.get_mut(&id) {
                group.note_ahead(now.mono, time.since_ns(now.time), most_ns);
            }
        }
    }

    /// A frame of a stream that is not open: if its group was taken over, the sender has to know; once in a session.
    fn fence(&mut self, link: LinkId, stream: StreamId, ports: &mut impl Downlink<Buf = B, Shared = S>) {
        for (id, group) in &self.groups {
            let is_over = matches!(group.meta.life, Life::TakenOver | Life::Sealed { .. }) && {
                // Only once the seal is durable.
                group.takeover_step() != Some(TakeoverStep::Seal)
            };
            let owner = group.meta.stream(stream).map(|stream| stream.owner);
            if is_over && owner.is_some() && !group.handed_by(owner) && self.fence_told.insert((link, *id)) {
                ports.send_message(link, Message::Fenced { group: *id, generation: group.meta.generation });
            }
        }
    }

    /// A beacon came; `generation` is the number of its sender's.
    pub fn beacon(
        &mut self,
        now: Now,
        link: LinkId,
        generation: u64,
        beacon: Beacon,
        ports: &mut impl Downlink<Buf = B, Shared = S>,
    ) {
        let ceiling = self.ceiling(now);
        let Some(intake) = self.intakes.for_tip(beacon.stream) else {
            self.fence(link, beacon.stream, ports);
            return;
        };
        let taken = if intake.link != link {
            Err(FrameError::WrongLink)
        } else if !intake.is_open {
            Err(FrameError::Closed)
        } else if beacon.epoch != intake.rx.epoch() {
            Err(FrameError::StaleEpoch)
        } else if generation != intake.generation {
            Err(FrameError::StaleGeneration)
        } else {
            intake.rx.beacon(beacon.time, beacon.seq, ceiling)
        };
        match taken {
            Ok(_) => self.hear(now, beacon.time),
            Err(why) => {
                intake.drops.count(why);
                if why == FrameError::Future {
                    self.note_ahead(now, beacon.stream, beacon.time);
                }
            }
        }
        self.refuse_broken(beacon.stream, ports);
    }
}
