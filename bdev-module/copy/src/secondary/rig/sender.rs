//! Primaries, scripted: what they say, what they stamp, and what the network makes of it.

use super::super::*;
use super::{BLOCK, Rig, VOLUME_BLOCKS};
use crate::link::FRAGMENT_UNIT_BYTES;
use crate::message::{Content, CopyId, JoinPair, OpenStream, Refusal, StreamOpened, Subject};
use crate::primary::Beacon;
use crate::stream::Fragment;
use crate::types::{Extent, Generation, RecordHead, RecordKind, Scope, Stamp};

/// A primary's stream as the network and the secondary see it.
pub struct Sender {
    pub stream: StreamId,
    pub owner: SystemId,
    pub link: LinkId,
    pub scope: Scope,
    pub epoch: Epoch,
    pub base: Seq,
    pub base_time: Time,
    pub floor: Time,
    pub generations: BTreeMap<GroupId, Generation>,
    /// (group's name, pair's name).
    pub pairs: Vec<(String, String)>,
    /// Every record ever stamped in this epoch.
    pub history: Vec<(RecordHead, Vec<u8>)>,
    pub durable: Seq,
    pub grant_bytes: u64,
    /// The image of a resync, as last told.
    pub held: Time,
    pub opened: BTreeSet<GroupId>,
    pub joined: BTreeSet<PairId>,
    pub fenced: bool,
    /// It sent records once, in whatever epoch.
    pub wrote: bool,
    /// Its resyncs so far, and the one under way.
    pub units: u64,
    pub unit: Option<u64>,
    /// It sends nothing: what hosts write is marked.
    pub suspended: bool,
    /// The secondary wants a resync.
    pub has_to_resync: bool,
    /// Blocks that the secondary may lack: (pair's index, block).
    pub marks: BTreeSet<(usize, u64)>,
    /// Blocks whose copy is on its way.
    pub copied: BTreeMap<Seq, (usize, u64)>,
    /// Pairs that are copied as a whole.
    pub copies_all: BTreeSet<String>,
    pub done: Vec<CopyId>,
}

impl Sender {
    /// The number that its frames carry.
    pub fn generation(&self) -> u64 {
        self.generations.values().next().map_or(0, |generation| generation.number)
    }

    pub fn last(&self) -> Seq {
        Seq(self.base.0 + self.history.len() as u64 - 1)
    }

    pub fn groups(&self) -> BTreeSet<String> {
        self.pairs.iter().map(|(group, _)| group.clone()).collect()
    }

    pub fn is_started(&self) -> bool {
        self.opened.len() == self.groups().len() && self.joined.len() == self.pairs.len()
    }

    /// Records that the grant lets fly now.
    pub fn sendable(&self) -> usize {
        let first = (self.durable.0 + 1 - self.base.0) as usize;
        let mut bytes = 0;
        let rest = self.history[first.min(self.history.len())..].iter();
        rest.take_while(|(head, _)| {
            bytes += head.charge_bytes();
            bytes <= self.grant_bytes
        })
        .count()
    }
}

impl Rig {
    /// Says what a primary says at the start of a session.
    pub fn hello(&mut self) {
        let now = self.now();
        for index in 0..self.senders.len() {
            if self.senders[index].suspended {
                continue;
            }
            if std::mem::take(&mut self.senders[index].has_to_resync) {
                self.resync(index);
            }
            let sender = &self.senders[index];
            let (link, owner) = (sender.link, sender.owner);
            for name in sender.groups() {
                let group = GroupId::of_name(&name);
                if sender_is_open(&self.senders[index], group) {
                    continue;
                }
                let sender = &self.senders[index];
                let open = OpenStream {
                    group,
                    group_name: name,
                    generation: sender.generations.get(&group).copied().unwrap_or_default(),
                    stream: sender.stream,
                    scope: sender.scope,
                    epoch: sender.epoch,
                    base: sender.base,
                    base_time: sender.base_time,
                    acknowledged: sender.durable,
                    drained: None,
                    unit: sender.unit,
                    strand: 0,
                };
                self.secondary.message(now, link, owner, Message::OpenStream(open), &mut self.world);
            }
            for (group_name, name) in self.senders[index].pairs.clone() {
                let group = GroupId::of_name(&group_name);
                let pair = PairId::of_name(group, &name);
                let sender = &self.senders[index];
                let content = match () {
                    () if sender.copies_all.contains(&name) => Content::Copy,
                    () if sender.wrote || sender.units > 0 => Content::Established,
                    () => Content::Empty,
                };
                if !sender.opened.contains(&group) || sender.joined.contains(&pair) {
                    continue;
                }
                let join = JoinPair {
                    group,
                    pair,
                    name,
                    remote_volume: String::new(),
                    stream: sender.stream,
                    blocks: VOLUME_BLOCKS,
                    block_bytes: BLOCK as u32,
                    content,
                };
                self.secondary.message(now, link, owner, Message::JoinPair(join), &mut self.world);
            }
        }
    }

    /// Primaries hear what the secondary said.
    pub fn hear(&mut self) {
        for (link, message) in std::mem::take(&mut self.world.messages) {
            if let Message::Verified { .. } | Message::Trouble { .. } = &message {
                self.heard.push(message.clone());
            }
            if matches!(&message, Message::Refused { refusal: Refusal::Never, text, .. } if text.contains("damaged")) {
                self.heard.push(message);
                continue;
            }
            for sender in self.senders.iter_mut().filter(|sender| sender.link == link) {
                match &message {
                    Message::StreamOpened(StreamOpened {
                        group,
                        generation,
                        stream,
                        epoch,
                        durable,
                        base_time,
                        ..
                    }) if *stream == sender.stream && *epoch == sender.epoch => {
                        assert!(*durable >= sender.durable, "the secondary never falls behind what it acknowledged");
                        sender.durable = *durable;
                        sender.grant_bytes = 0;
                        sender.generations.insert(*group, *generation);
                        sender.floor = sender.floor.max(*base_time);
                        sender.opened.insert(*group);
                    }
                    Message::PairJoined { pair, .. } => {
                        let mine = sender
                            .pairs
                            .iter()
                            .any(|(group, name)| PairId::of_name(GroupId::of_name(group), name) == *pair);
                        if mine {
                            sender.joined.insert(*pair);
                        }
                    }
                    Message::Fenced { .. } => sender.fenced = true,
                    Message::Refused { refusal: Refusal::UnsentRecords, subject, .. } if self.resyncs => {
                        let is_mine = match subject {
                            Subject::Stream(stream, _) => *stream == sender.stream,
                            _ => true,
                        };
                        sender.has_to_resync |= is_mine;
                    }
                    Message::Refused { refusal, text, .. } => {
                        assert_eq!(*refusal, Refusal::NotYet, "{text}");
                    }
                    Message::CopyDone { copy, .. } => {
                        sender.done.push(*copy);
                        match copy {
                            CopyId::Unit(number) if sender.unit == Some(*number) => sender.unit = None,
                            CopyId::Unit(_) => {}
                            CopyId::Pair(pair) => sender.copies_all.retain(|name| {
                                let is_mine = |(group, of): &(String, String)| {
                                    of == name && PairId::of_name(GroupId::of_name(group), of) == *pair
                                };
                                !sender.pairs.iter().any(is_mine)
                            }),
                        }
                    }
                    Message::Differs { pair, extents, .. } => {
                        let is_mine =
                            |(group, name): &(String, String)| PairId::of_name(GroupId::of_name(group), name) == *pair;
                        if let Some(at) = sender.pairs.iter().position(is_mine) {
                            sender.marks.extend(extents.iter().flat_map(|it| it.range()).map(|lba| (at, lba)));
                        }
                    }
                    _ => {}
                }
            }
        }
        for (link, status) in std::mem::take(&mut self.world.statuses) {
            for sender in self.senders.iter_mut().filter(|it| it.link == link && it.stream == status.stream) {
                if status.epoch == sender.epoch && status.durable >= sender.durable {
                    sender.durable = status.durable;
                    sender.grant_bytes = status.grant_bytes;
                    sender.held = status.held;
                }
                let durable = sender.durable;
                sender.copied.retain(|seq, _| *seq > durable);
                assert!(status.run >= status.durable);
            }
        }
    }

    /// A host writes.
    pub fn write(&mut self, index: usize) {
        let (pairs, blocks) = (self.senders[index].pairs.len() as u64, self.below(6) as u32 + 1);
        let (pair, lba) = (self.below(pairs) as usize, self.below(VOLUME_BLOCKS - 6));
        let kind = match self.below(10) {
            0 => RecordKind::WriteZeroes,
            1 => RecordKind::Unmap,
            2 => RecordKind::Repair,
            _ => RecordKind::Write,
        };
        let blocks = if kind.has_payload() { blocks } else { blocks.min(4) };
        self.write_at(index, pair, kind, Extent { lba, blocks });
    }

    /// A host writes this.
    pub fn write_at(&mut self, index: usize, pair: usize, kind: RecordKind, extent: Extent) {
        self.clock += self.below(3);
        let Extent { blocks, .. } = extent;
        let sender = &mut self.senders[index];
        let (group, name) = &sender.pairs[pair];
        let seq = Seq(sender.base.0 + sender.history.len() as u64);
        // Ties between streams are common, within a stream time rises.
        let time = Time(self.clock.max(sender.floor.0 + 1));
        self.clock = self.clock.max(time.0);
        sender.floor = time;
        let payload_bytes = if kind.has_payload() { blocks * BLOCK as u32 } else { 0 };
        let mut payload = vec![0; payload_bytes as usize];
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte = (seq.0 as usize * 7 + at / 64 + index * 31) as u8 | 1;
        }
        let head = RecordHead {
            stamp: Stamp { time, stream: sender.stream, seq },
            pair: PairId::of_name(GroupId::of_name(group), name),
            kind,
            extent,
            payload_bytes,
        };
        self.truth.push((head, payload.clone()));
        if sender.suspended {
            sender.marks.extend(extent.range().map(|lba| (pair, lba)));
            return;
        }
        sender.wrote = true;
        sender.history.push((head, payload));
    }

    /// Stamps a record that changes nothing at the primary.
    pub fn stamp(&mut self, index: usize, pair: usize, kind: RecordKind, extent: Extent, payload: Vec<u8>) -> Stamp {
        let sender = &mut self.senders[index];
        let (group, name) = &sender.pairs[pair];
        let pair = PairId::of_name(GroupId::of_name(group), name);
        let seq = Seq(sender.base.0 + sender.history.len() as u64);
        let time = Time(self.clock.max(sender.floor.0 + 1));
        self.clock = self.clock.max(time.0);
        sender.floor = time;
        let stamp = Stamp { time, stream: sender.stream, seq };
        let payload_bytes = payload.len() as u32;
        sender.wrote = true;
        sender.history.push((RecordHead { stamp, pair, kind, extent, payload_bytes }, payload));
        stamp
    }

    /// The primary says that it no longer sends.
    pub fn suspend(&mut self, index: usize) {
        let sender = &mut self.senders[index];
        sender.suspended = true;
        let (link, owner) = (sender.link, sender.owner);
        for name in self.senders[index].groups() {
            let (group, state, reason) = (GroupId::of_name(&name), "PFUS".to_owned(), "buffers are full".to_owned());
            let said = Message::GroupSuspended { group, state, reason };
            let now = self.now();
            self.secondary.message(now, link, owner, said, &mut self.world);
        }
    }

    /// A new epoch that is part of a resync: after a suspension, or because the primary was killed and cannot prove what
    /// arrived. What was not acknowledged is marked.
    pub fn resync(&mut self, index: usize) {
        let clock = self.clock;
        let sender = &mut self.senders[index];
        let (base, durable) = (sender.last().next(), sender.durable);
        for (head, _) in sender.history.iter().filter(|(head, _)| head.stamp.seq > durable) {
            let names = sender.pairs.iter();
            let ids: Vec<_> = names.map(|(group, name)| PairId::of_name(GroupId::of_name(group), name)).collect();
            let at = ids.iter().position(|id| *id == head.pair).unwrap();
            if head.kind.changes_volume() {
                sender.marks.extend(head.extent.range().map(|lba| (at, lba)));
            }
        }
        sender.copied.clear();
        sender.suspended = false;
        sender.has_to_resync = false;
        if sender.unit.is_none() {
            sender.units += 1;
            sender.unit = Some(sender.units);
        }
        sender.epoch = Epoch(sender.epoch.0 + 1);
        sender.base = base;
        sender.durable = base.previous();
        sender.base_time = Time(clock.max(sender.floor.0));
        sender.floor = sender.base_time;
        sender.history.clear();
        sender.grant_bytes = 0;
        sender.opened.clear();
        sender.joined.clear();
    }

    /// Copies one block that is marked.
    pub fn copy(&mut self, index: usize) {
        let sender = &self.senders[index];
        let count = sender.marks.len() as u64;
        if count == 0 || !sender.is_started() || (sender.unit.is_none() && sender.copies_all.is_empty()) {
            return;
        }
        let pick = self.below(count) as usize;
        let sender = &mut self.senders[index];
        let (pair, lba) = *sender.marks.iter().nth(pick).unwrap();
        sender.marks.remove(&(pair, lba));
        let (group, name) = sender.pairs[pair].clone();
        let whole = self.replay(&group, &name, Time(u64::MAX));
        let block = whole[lba as usize * BLOCK..][..BLOCK].to_vec();
        let is_zero = block.iter().all(|byte| *byte == 0);
        let (kind, payload) = if is_zero { (RecordKind::WriteZeroes, vec![]) } else { (RecordKind::Copy, block) };
        let stamp = self.stamp(index, pair, kind, Extent { lba, blocks: 1 }, payload);
        self.senders[index].copied.insert(stamp.seq, (pair, lba));
    }

    /// Says that all is stamped, if it is.
    pub fn copy_end(&mut self, index: usize) {
        let clock = self.clock;
        let sender = &mut self.senders[index];
        if !sender.is_started() || !sender.marks.is_empty() {
            return;
        }
        sender.floor = sender.floor.max(Time(clock));
        let (link, owner, end, unit) = (sender.link, sender.owner, sender.floor, sender.unit);
        let pairs = sender.pairs.clone().into_iter();
        let whole = pairs.filter(|(_, name)| sender.copies_all.contains(name)).map(|(group, name)| {
            let group = GroupId::of_name(&group);
            (group, CopyId::Pair(PairId::of_name(group, &name)))
        });
        let units = sender.groups().into_iter().filter_map(|name| Some((GroupId::of_name(&name), CopyId::Unit(unit?))));
        for (group, copy) in units.chain(whole).collect::<Vec<_>>() {
            let now = self.now();
            self.secondary.message(now, link, owner, Message::CopyEnd { group, copy, end }, &mut self.world);
        }
    }

    /// The network delivers some fragment of some record in the window, in whatever order, perhaps for the second time.
    pub fn deliver(&mut self, index: usize) {
        if !self.senders[index].is_started() {
            return;
        }
        let sendable = self.senders[index].sendable() as u64;
        if sendable == 0 {
            return;
        }
        let ahead = self.below(sendable.min(12));
        let sender = &self.senders[index];
        let at = (sender.durable.0 + 1 + ahead - sender.base.0) as usize;
        let (head, payload) = sender.history[at].clone();
        let piece = FRAGMENT_UNIT_BYTES as usize * 20;
        let pieces = payload.len().div_ceil(piece).max(1);
        let which = self.below(pieces as u64) as usize;
        let body = &payload[which * piece..payload.len().min((which + 1) * piece)];
        let sender = &self.senders[index];
        let fragment = Fragment {
            epoch: sender.epoch,
            generation: sender.generation(),
            head,
            offset: (which * piece) as u32,
            body,
        };
        let (now, link) = (self.now(), sender.link);
        self.secondary.frame(now, link, fragment, &mut self.world);
    }

    pub fn beacon(&mut self, index: usize) {
        let sender = &mut self.senders[index];
        if !sender.is_started() {
            return;
        }
        sender.floor = sender.floor.max(Time(self.clock));
        let beacon = Beacon { stream: sender.stream, epoch: sender.epoch, time: sender.floor, seq: sender.last() };
        let (link, generation) = (sender.link, sender.generation());
        let now = self.now();
        self.secondary.beacon(now, link, generation, beacon, &mut self.world);
    }
}

fn sender_is_open(sender: &Sender, group: GroupId) -> bool {
    sender.opened.contains(&group)
}
