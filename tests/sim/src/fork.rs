//! "What if it had crashed here, and the operator had taken over?", asked of a copy of the secondary.

use crate::disk::{Blob, Disk, DiskIo, Loss};
use crate::memory::Pool;
use crate::node::{Node, Out};
use crate::world::World;
use longrun_copy::ports::{Event, LocalIo, OperatorAnswer, Ticket};
use longrun_copy::secondary::{GroupPhase, GroupStatus, TakeoverAt, TakeoverConsent};
use longrun_copy::takeover::{LossCertificate, TakeoverStep};
use longrun_copy::types::{Time, VolumeId};
use std::collections::BTreeMap;

/// A lonely system whose disks answer at once.
struct Copy {
    node: Node,
    disks: BTreeMap<VolumeId, Disk>,
    at: u64,
    answers: BTreeMap<u64, Result<OperatorAnswer, longrun_copy::engine::OperatorError>>,
    chance: crate::chance::Chance,
}

impl Copy {
    /// Everything that can happen without waiting, happens.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.work();
            let now = self.node.clock.read(self.at);
            let engine = self.node.engine.as_mut().expect("a copy lives");
            engine.handle(now, Event::Turn, &mut self.node.ports);
            self.work();
        }
        let now = self.node.clock.read(self.at);
        let due = self.node.engine.as_ref().and_then(|engine| engine.next_timeout(now));
        self.at += due.map_or(1_000_000, |due| due.since_ns(now.mono)).clamp(1_000, 100_000_000);
    }

    fn work(&mut self) {
        while !self.node.ports.outs.is_empty() {
            let now = self.node.clock.read(self.at);
            for out in std::mem::take(&mut self.node.ports.outs) {
                let engine = self.node.engine.as_mut().expect("a copy lives");
                match out {
                    Out::Local(volume, io, token) => {
                        let io = match io {
                            LocalIo::Read { extent, buf } => DiskIo::Read(extent, buf),
                            LocalIo::Write { extent, data, fua } => DiskIo::Write(extent, Some(data.bytes()), fua),
                            LocalIo::WriteZeroes { extent, fua } => DiskIo::Write(extent, None, fua),
                            LocalIo::Unmap { extent } => DiskIo::Write(extent, None, false),
                            LocalIo::Flush => DiskIo::Flush,
                        };
                        let disk = self.disks.get_mut(&volume).expect("the copy has all disks");
                        let op = disk.submit(io, None);
                        disk.effect(op, &mut self.chance);
                        let (_, buf) = disk.finish(op).expect("just submitted");
                        engine.handle(now, Event::LocalDone { token, result: Ok(()), buf }, &mut self.node.ports);
                    }
                    Out::Persist(key, value, token) => {
                        self.node.durable_meta.insert(key, value);
                        engine.handle(now, Event::Persisted { token }, &mut self.node.ports);
                    }
                    Out::Answer(ticket, answer) => _ = self.answers.insert(ticket.0, answer),
                    Out::Host(..) | Out::Transmit { .. } | Out::Stamped(..) | Out::Line(_) => {}
                    Out::Cross(..) => unreachable!("a lonely system has one core"),
                }
            }
        }
    }
}

impl World {
    /// A point to take a group over at.
    pub fn draw_point(
        info: &crate::world::GroupInfo,
        status: &GroupStatus,
        chance: &mut crate::chance::Chance,
    ) -> TakeoverAt {
        let Some(window) = status.window.filter(|_| chance.hits(0.5)) else { return TakeoverAt::Newest };
        let is_within = |time: Time| window.from <= time && time <= window.until;
        let mut newest = BTreeMap::new();
        for bookmark in &status.bookmarks {
            let times = info.bookmarks.get(&bookmark.name);
            assert!(
                times.is_some_and(|times| times.contains(&bookmark.stamp.time)),
                "bookmark {bookmark:?} was never given, only {times:?}"
            );
            newest.insert(bookmark.name.clone(), bookmark.stamp.time);
        }
        let reached: Vec<&String> = newest.iter().filter(|(_, time)| is_within(**time)).map(|(name, _)| name).collect();
        if !reached.is_empty() && chance.hits(0.5) {
            return TakeoverAt::Bookmark(reached[chance.below(reached.len())].clone());
        }
        let inside: Vec<Time> = info.history.up_to(window.until).map(|(_, head)| head.stamp.time).collect();
        let inside: Vec<Time> = inside.into_iter().take_while(|time| is_within(*time)).collect();
        match chance.below(4) {
            0 => TakeoverAt::Time(window.from),
            1 => TakeoverAt::Time(window.until),
            _ if inside.is_empty() => TakeoverAt::Time(Time(chance.range(window.from.0, window.until.0))),
            _ => TakeoverAt::Time(inside[chance.below(inside.len())]),
        }
    }

    /// Whether a certificate's point is the one that was asked for.
    pub fn check_point(info: &crate::world::GroupInfo, at: &TakeoverAt, certificate: &LossCertificate) {
        let point = certificate.recovery_point;
        match at {
            TakeoverAt::Newest => {}
            TakeoverAt::Time(time) => assert!(point == *time, "a takeover at {time} went to {point}"),
            TakeoverAt::Bookmark(name) => {
                assert!(info.bookmarks[name].contains(&point), "a takeover at bookmark {name} went to {point}");
            }
        }
    }

    /// Asks now and then.
    pub fn maybe_fork(&mut self) {
        if self.forks_left == 0 || self.fork_countdown > 0 {
            self.fork_countdown = self.fork_countdown.saturating_sub(1);
            return;
        }
        self.forks_left -= 1;
        self.fork_countdown = self.chance.log_range(1, 900);
        if self.groups.iter().any(|group| group.takeover_begun) {
            return;
        }
        self.fork();
    }

    /// Whether a pair of the group is known to have been consistent once.
    pub fn is_any_copied(&self, group: usize) -> bool {
        self.pairs.iter().any(|pair| pair.group == group && pair.is_copied)
    }

    /// Crashes a copy of the secondary at this event, takes every group of it over, and compares every byte.
    pub fn fork(&mut self) {
        self.totals.forks += 1;
        let salt = self.totals.events;
        let mut chance = self.chance.aside(salt);
        let original = self.secondary();
        let mut node = Node::new(self.nodes[original].clock.clone(), Pool::new(self.plan.pool_bytes));
        node.durable_meta = self.nodes[original].durable_meta.clone();
        node.writing_meta = self.nodes[original].writing_meta.clone();
        node.kill(&mut chance);
        let loss = chance.pick(&[Loss::Process, Loss::Power, Loss::All]);
        let disks = self.disks.iter().filter(|((at, _), _)| *at == original);
        let disks = disks.map(|((_, volume), disk)| (*volume, disk.crashed(loss, &mut chance))).collect();
        let keep = self.chance.clone();
        let config = self.engine_config(original);
        self.chance = keep;
        node.ports.blocks = self.nodes[original].ports.blocks.clone();
        node.start(longrun_copy::engine::EngineConfig { seed: chance.bytes(), ..config }, self.at);
        let mut copy = Copy { node, disks, at: self.at, answers: BTreeMap::new(), chance };
        let mut ticket = 0;
        for group in 0..self.groups.len() {
            let config = self.secondary_group_config(group);
            let now = copy.node.clock.read(copy.at);
            let engine = copy.node.engine.as_mut().expect("a copy lives");
            let (roles, mut world) = engine.secondary(&mut copy.node.ports);
            roles.group_create(now, config, &mut world).expect("a group can be created again as it was");
        }
        for pair in 0..self.pairs.len() {
            let config = self.secondary_pair_config(pair);
            let now = copy.node.clock.read(copy.at);
            let engine = copy.node.engine.as_mut().expect("a copy lives");
            let (roles, mut world) = engine.secondary(&mut copy.node.ports);
            ticket += 1;
            let created = roles.pair_create(now, config, Ticket(ticket), &mut world);
            if self.groups[self.pairs[pair].group].has_rotten && created.is_err() {
                return;
            }
            created.expect("a pair can be created again as it was");
        }
        let pairs = ticket;
        for group in 0..self.groups.len() {
            let id = self.groups[group].id;
            let mut asked = None;
            let mut at = TakeoverAt::Newest;
            let mut rounds = 0;
            let certificate = loop {
                rounds += 1;
                assert!(rounds < 2000, "promise 5: a takeover of a copy does not end, {:?}", {
                    let now = copy.node.clock.read(copy.at);
                    let engine = copy.node.engine.as_mut().expect("a copy lives");
                    engine.secondary(&mut copy.node.ports).0.group_status(now, id)
                });
                copy.settle();
                let now = copy.node.clock.read(copy.at);
                let engine = copy.node.engine.as_mut().expect("a copy lives");
                let (roles, mut world) = engine.secondary(&mut copy.node.ports);
                let status = roles.group_status(now, id).expect("created above");
                self.totals.restores += u64::from(status.takeover_step == Some(TakeoverStep::Restore));
                if status.phase == GroupPhase::Failed && self.groups[group].has_rotten {
                    break None;
                }
                if status.phase == GroupPhase::Failed {
                    panic!("promise 1: after a crash at this event ({loss:?}) group {group}: {:?}", status.reason);
                }
                if status.phase == GroupPhase::Opening || copy.answers.len() < pairs as usize && asked.is_none() {
                    continue;
                }
                if status.generation.number == 0 {
                    break None;
                }
                match asked {
                    None => {
                        ticket += 1;
                        asked = Some(ticket);
                        let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
                        at = World::draw_point(&self.groups[group], &status, &mut copy.chance);
                        let answer = roles.group_takeover(now, id, consent, at.clone(), Ticket(ticket), &mut world);
                        if let Err(error) = answer {
                            let text = error.to_string();
                            if text.contains("overlay is being opened") {
                                asked = None;
                                continue;
                            }
                            // No image lies between the two ends of a resync.
                            if at != TakeoverAt::Newest && text.contains("in one step") {
                                break None;
                            }
                            let is_sure = at == TakeoverAt::Newest && self.is_any_copied(group);
                            assert!(!is_sure && text.contains("ever consistent"), "promise 5: {text}");
                            break None;
                        }
                    }
                    Some(asked) => {
                        if let Some(answer) = copy.answers.get(&asked) {
                            match answer {
                                Ok(OperatorAnswer::TakenOver(certificate)) => break Some(certificate.clone()),
                                other => panic!("promise 5: a takeover of a copy ended in {other:?}"),
                            }
                        }
                    }
                }
            };
            if let Some(certificate) = certificate {
                World::check_point(&self.groups[group], &at, &certificate);
                self.totals.chosen_points += u64::from(at != TakeoverAt::Newest);
                let disks = &copy.disks;
                let contents = |volume: VolumeId| disks[&volume].image();
                self.compare(group, &at, &certificate, "after a crash at this event and a takeover", contents);
            }
        }
    }

    /// The volumes of a group that was taken over are exactly history up to the certificate's recovery point. Returns
    /// false if that cannot be said.
    pub fn compare(
        &mut self,
        group: usize,
        at: &TakeoverAt,
        certificate: &LossCertificate,
        when: &str,
        contents: impl Fn(VolumeId) -> Vec<Blob>,
    ) -> bool {
        let info = &mut self.groups[group];
        let point = certificate.recovery_point;
        let is_inside = info.unit_spans.iter().any(|(from, to)| *from < point && point < *to);
        assert!(!is_inside, "promise 6: {when} group {} is at {point}, inside of a resync", info.name);
        if info.has_rotten && (*at != TakeoverAt::Newest || !info.unit_spans.is_empty() || info.had_unit) {
            return false;
        }
        let mut applied_until = point;
        if point < info.reported
            && *at == TakeoverAt::Newest
            && let Some(lost) = info.history.first_after(point).filter(|lost| lost.stamp.time <= info.reported)
        {
            // The last block of a journal, damaged before anything durable knew of it, looks like one that was never written
            // whole. What it held is lost, but for what of it was applied before.
            assert!(
                info.has_rotten,
                "promise 1 (cut): group {} had reported {}, {when} the recovery point is {point}: {lost:?} is lost",
                info.name, info.reported
            );
            self.totals.rotten_tails += 1;
            applied_until = info.reported;
        }
        for index in (0..self.pairs.len()).filter(|pair| self.pairs[*pair].group == group) {
            let (pair, count) = (&self.pairs[index], self.whole_sectors(index, point));
            if certificate.never_consistent.contains(&pair.id) {
                assert!(
                    *at != TakeoverAt::Newest || !pair.is_copied,
                    "pair {} was copied, but its volume is said to be never consistent",
                    pair.name
                );
                self.totals.never_consistent += 1;
                continue;
            }
            let is = contents(pair.secondary_volume);
            self.totals.bytes_compared += pair.geometry.bytes();
            let mut should = self.groups[group].history.image(pair.id, point).to_vec();
            if applied_until > point {
                let later = self.groups[group].history.image(pair.id, applied_until);
                for ((should, later), is) in should.iter_mut().zip(later).zip(&is) {
                    if is.is_same(later) {
                        should.clone_from(later);
                    }
                }
            }
            let pair = &self.pairs[index];
            let info = &self.groups[group];
            if let Some(sector) = self.first_unsound(index, &is, &should, count, point) {
                let about = |blob: &Blob| {
                    let id = u64::from_le_bytes(blob.bytes()[..8].try_into().expect("8 bytes")) as usize;
                    let op = id.checked_sub(1).and_then(|id| self.ops.get(id));
                    format!("{id:#x} ({op:?})")
                };
                panic!(
                    "promise 1 (cut): {when} sector {sector} of pair {}{} of group {} is {}, at {point} it was {}; \
                     reported {}; asked for {at:?}; {}",
                    pair.name,
                    if pair.is_copied { "" } else { " (never copied)" },
                    info.name,
                    about(&is[sector]),
                    about(&should[sector]),
                    info.reported,
                    info.history.about(pair.id, sector as u64)
                );
            }
        }
        let info = &self.groups[group];
        for loss in &certificate.streams {
            let last = info.history.of_stream(loss.stream).filter(|(_, head)| head.stamp.time <= point).last();
            let is_alone = self.plan.scope != longrun_copy::types::Scope::System || self.groups.len() == 1;
            if let Some((_, last)) = last.filter(|(epoch, _)| is_alone && *epoch == loss.epoch) {
                assert!(
                    loss.last_applied == last.stamp.seq,
                    "promise 5: the certificate says that {} is the last applied of stream {}, it is {}",
                    loss.last_applied,
                    loss.stream,
                    last.stamp.seq
                );
            }
            let given = info.history.of_stream(loss.stream).map(|(_, head)| head.stamp.seq).max();
            for seen in &loss.seen_not_applied {
                assert!(*seen.start() > loss.last_applied.0, "promise 5: a number is both applied and not: {loss:?}");
                assert!(
                    self.plan.scope == longrun_copy::types::Scope::System
                        || given.is_some_and(|given| *seen.end() <= given.0),
                    "promise 5: {loss:?} has a number that nobody gave"
                );
            }
        }
        true
    }
}
