//! A secondary in a model world: disks that lose, tear and reorder what was not flushed, metadata that keeps a prefix of
//! what was not acknowledged, and primaries behind a network that does what it likes. All from one seed.

use super::group::Phase;
use super::*;
use crate::link::FRAGMENT_UNIT_BYTES;
use crate::message::{Content, JoinPair, OpenStream, Refusal, StreamOpened};
use crate::ports::{Memory, OperatorAnswer};
use crate::primary::Beacon;
use crate::stream::Fragment;
use crate::types::{Extent, Generation, Initial, RecordKind, Scope, Stamp};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

pub(super) const BLOCK: usize = 512;
pub(super) const VOLUME_BLOCKS: u64 = 48;

type Local = LocalIo<Vec<u8>, Rc<[u8]>>;

/// A disk with a volatile cache.
#[derive(Default)]
pub(super) struct Disk {
    /// What a read returns.
    current: HashMap<u64, [u8; BLOCK]>,
    durable: HashMap<u64, [u8; BLOCK]>,
    /// Written (or being written) and not flushed: a crash keeps any of these versions.
    volatile: HashMap<u64, Vec<[u8; BLOCK]>>,
}

impl Disk {
    fn versions(io: &Local) -> Vec<(u64, [u8; BLOCK])> {
        match io {
            LocalIo::Write { extent, data, .. } => {
                assert_eq!(data.len(), extent.blocks as usize * BLOCK, "a write has its extent's size");
                let blocks = data.chunks(BLOCK).map(|block| block.try_into().unwrap());
                extent.range().zip(blocks).collect()
            }
            LocalIo::WriteZeroes { extent, .. } | LocalIo::Unmap { extent } => {
                extent.range().map(|lba| (lba, [0; BLOCK])).collect()
            }
            LocalIo::Read { .. } | LocalIo::Flush => Vec::new(),
        }
    }

    pub(super) fn read(&self, extent: Extent) -> Vec<u8> {
        extent.range().flat_map(|lba| self.current.get(&lba).copied().unwrap_or([0; BLOCK])).collect()
    }

    /// What was there before.
    pub(super) fn put(&mut self, lba: u64, block: [u8; BLOCK]) {
        self.current.insert(lba, block);
        self.durable.insert(lba, block);
    }

    fn crash(&mut self, chance: &mut ChaCha8Rng) {
        let mut touched: Vec<_> = std::mem::take(&mut self.volatile).into_iter().collect();
        touched.sort_by_key(|(lba, _)| *lba);
        for (lba, versions) in touched {
            let pick = chance.next_u32() as usize % (versions.len() + 1);
            if let Some(version) = versions.get(pick) {
                self.durable.insert(lba, *version);
            }
        }
        self.current = self.durable.clone();
    }
}

enum Pending {
    Local(VolumeId, Local, LocalToken, /** versions a flush makes durable */ Vec<(u64, [u8; BLOCK], usize)>),
}

/// How a host's request ended, and a read's buffer.
type HostAnswer = (Result<(), HostError>, Option<Vec<u8>>);

/// Ports over the model.
pub(super) struct World {
    pub(super) chance: ChaCha8Rng,
    pub(super) disks: BTreeMap<VolumeId, Disk>,
    pending: Vec<Pending>,
    pub(super) meta: HashMap<String, Vec<u8>>,
    meta_pending: VecDeque<(String, Vec<u8>, MetaToken)>,
    pub(super) statuses: Vec<(LinkId, StreamStatus)>,
    pub(super) messages: Vec<(LinkId, Message)>,
    pub(super) answers: HashMap<u64, Result<OperatorAnswer, OperatorError>>,
    pub(super) hosts: HashMap<u64, HostAnswer>,
    pub(super) logged: Vec<String>,
    pub(super) alloc_fails: bool,
    /// Errors for the next writes and flushes of a volume.
    pub(super) failing: Option<(VolumeId, u32)>,
    /// Only its flushes fail.
    pub(super) failing_flushes_only: bool,
    /// As page caches do: what a failing flush could not make durable is forgotten, and the next flush succeeds.
    pub(super) failing_forgets: bool,
    /// Metadata does not become durable.
    pub(super) holds_meta: bool,
}

impl Memory for World {
    type Buf = Vec<u8>;
    type Shared = Rc<[u8]>;

    fn alloc(&mut self, bytes: usize) -> Option<Vec<u8>> {
        if self.alloc_fails && self.chance.next_u32().is_multiple_of(8) {
            return None;
        }
        Some(vec![0xa5; bytes])
    }

    fn freeze(&mut self, buf: Vec<u8>, bytes: usize) -> Rc<[u8]> {
        buf[..bytes].into()
    }
}

impl Ports for World {
    fn local(&mut self, volume: VolumeId, io: Local, token: LocalToken) {
        let disk = self.disks.entry(volume).or_default();
        for (lba, version) in Disk::versions(&io) {
            disk.volatile.entry(lba).or_default().push(version);
        }
        let flushed = match io {
            // What had completed when the flush was submitted: the current content, and how many versions that covers.
            LocalIo::Flush => {
                let each = disk.volatile.iter().filter_map(|(lba, versions)| {
                    disk.current.get(lba).map(|current| (*lba, *current, versions.len()))
                });
                each.collect()
            }
            _ => Vec::new(),
        };
        self.pending.push(Pending::Local(volume, io, token, flushed));
    }

    fn complete_host(&mut self, token: HostToken, outcome: Result<(), HostError>, buf: Option<Vec<u8>>) {
        self.hosts.insert(token.0, (outcome, buf));
    }

    fn transmit(&mut self, _: LinkId, _: SocketAddr, _: Vec<u8>, _: usize, _: usize) {}

    fn persist(&mut self, key: &str, value: &[u8], token: MetaToken) {
        self.meta_pending.push_back((key.to_owned(), value.to_owned(), token));
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        let asked = self.meta_pending.iter().rev().find(|(pending, ..)| pending == key).map(|(_, value, _)| value);
        asked.or_else(|| self.meta.get(key)).cloned()
    }

    fn answer_operator(&mut self, ticket: Ticket, answer: Result<OperatorAnswer, OperatorError>) {
        self.answers.insert(ticket.0, answer);
    }

    fn log(&mut self, line: std::fmt::Arguments<'_>) {
        self.logged.push(line.to_string());
    }
}

impl Downlink for World {
    fn send_status(&mut self, link: LinkId, status: StreamStatus) {
        self.statuses.push((link, status));
    }

    fn send_message(&mut self, link: LinkId, message: Message) {
        self.messages.push((link, message));
    }
}

/// A primary's stream as the network and the secondary see it.
pub(super) struct Sender {
    pub(super) stream: StreamId,
    pub(super) owner: SystemId,
    pub(super) link: LinkId,
    pub(super) scope: Scope,
    pub(super) epoch: Epoch,
    pub(super) base: Seq,
    pub(super) base_time: Time,
    pub(super) floor: Time,
    pub(super) generations: BTreeMap<GroupId, Generation>,
    /// (group's name, pair's name).
    pub(super) pairs: Vec<(String, String)>,
    /// Every record ever stamped in this epoch.
    pub(super) history: Vec<(RecordHead, Vec<u8>)>,
    pub(super) durable: Seq,
    pub(super) grant_bytes: u64,
    pub(super) opened: BTreeSet<GroupId>,
    pub(super) joined: BTreeSet<PairId>,
    pub(super) fenced: bool,
}

impl Sender {
    /// The number that its frames carry.
    fn generation(&self) -> u64 {
        self.generations.values().next().map_or(0, |generation| generation.number)
    }

    fn last(&self) -> Seq {
        Seq(self.base.0 + self.history.len() as u64 - 1)
    }

    fn groups(&self) -> BTreeSet<String> {
        self.pairs.iter().map(|(group, _)| group.clone()).collect()
    }

    fn is_started(&self) -> bool {
        self.opened.len() == self.groups().len() && self.joined.len() == self.pairs.len()
    }

    /// Records that the grant lets fly now.
    fn sendable(&self) -> usize {
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

pub(super) struct Rig {
    pub(super) world: World,
    pub(super) secondary: Secondary<Vec<u8>, Rc<[u8]>>,
    pub(super) config: SecondaryConfig,
    pub(super) senders: Vec<Sender>,
    pub(super) groups: Vec<String>,
    pub(super) clock: u64,
    pub(super) mono: u64,
    tickets: u64,
    seed: u64,
    journal_blocks: u64,
}

pub(super) fn geometry() -> Geometry {
    Geometry { blocks: VOLUME_BLOCKS, block_bytes: BLOCK as u32 }
}

impl Rig {
    pub(super) fn new(seed: u64, groups: &[&str]) -> Rig {
        let config = SecondaryConfig {
            receive_bytes: 8 * CHARGE_BYTES_MAX,
            streams_max: 4,
            stream_records: 16,
            stamp_ahead_ns_max: 1000,
            checkpoint_interval_ns: 2000,
        };
        let world = World {
            chance: ChaCha8Rng::seed_from_u64(seed),
            disks: BTreeMap::new(),
            pending: Vec::new(),
            meta: HashMap::new(),
            meta_pending: VecDeque::new(),
            statuses: Vec::new(),
            messages: Vec::new(),
            answers: HashMap::new(),
            hosts: HashMap::new(),
            logged: Vec::new(),
            alloc_fails: false,
            failing: None,
            failing_flushes_only: false,
            failing_forgets: true,
            holds_meta: false,
        };
        Rig {
            world,
            secondary: Secondary::new(config, seed),
            config,
            senders: Vec::new(),
            groups: groups.iter().map(|name| (*name).to_owned()).collect(),
            clock: 1_000_000,
            mono: 1,
            tickets: 0,
            seed,
            journal_blocks: 8 + 120,
        }
    }

    pub(super) fn stream(mut self, owner: u64, scope: Scope, pairs: &[(&str, &str)]) -> Rig {
        let owner = SystemId(owner);
        let counted = self.senders.len() as u64;
        self.senders.push(Sender {
            stream: StreamId::of(owner, SystemId(99), &[counted]),
            owner,
            link: LinkId(owner.0 as u32),
            scope,
            epoch: Epoch(1),
            base: Seq(1),
            base_time: Time(self.clock),
            floor: Time(self.clock),
            generations: BTreeMap::new(),
            pairs: pairs.iter().map(|(group, pair)| ((*group).to_owned(), (*pair).to_owned())).collect(),
            history: Vec::new(),
            durable: Seq(0),
            grant_bytes: 0,
            opened: BTreeSet::new(),
            joined: BTreeSet::new(),
            fenced: false,
        });
        self
    }

    pub(super) fn now(&self) -> Now {
        Now { time: Time(self.clock), mono: Mono(self.mono), lease: Time(u64::MAX), error_bound_ns: 10 }
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.world.chance.next_u64() % n
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    pub(super) fn journal_volume(index: usize) -> VolumeId {
        VolumeId(1000 + index as u32)
    }

    pub(super) fn volume_of(&self, group: &str, pair: &str) -> VolumeId {
        let all: Vec<_> = self.senders.iter().flat_map(|sender| &sender.pairs).collect();
        let index = all.iter().position(|(g, p)| g == group && p == pair).unwrap();
        VolumeId(index as u32)
    }

    /// The operator's commands, at first and after every start.
    pub(super) fn create(&mut self) {
        let now = self.now();
        for index in 0..self.groups.len() {
            let config = GroupConfig {
                name: self.groups[index].clone(),
                journal: Self::journal_volume(index),
                journal_geometry: Geometry { blocks: self.journal_blocks + 8, block_bytes: BLOCK as u32 },
                overlay: None,
                apply_delay_ns: 0,
            };
            self.secondary.group_create(now, config, &mut self.world).unwrap();
        }
        let pairs: Vec<_> = self.senders.iter().flat_map(|sender| sender.pairs.clone()).collect();
        for (group, name) in pairs {
            let volume = self.volume_of(&group, &name);
            let ticket = self.ticket();
            let config = PairConfig {
                group,
                name,
                volume,
                volume_name: format!("v{}", volume.0),
                geometry: geometry(),
                initial: Initial::Empty,
                volatile: false,
            };
            self.secondary.pair_create(now, config, ticket, &mut self.world).unwrap();
        }
    }

    /// Says what a primary says at the start of a session.
    pub(super) fn hello(&mut self) {
        let now = self.now();
        for index in 0..self.senders.len() {
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
                    unit: None,
                };
                self.secondary.message(now, link, owner, Message::OpenStream(open), &mut self.world);
            }
            for (group_name, name) in self.senders[index].pairs.clone() {
                let group = GroupId::of_name(&group_name);
                let pair = PairId::of_name(group, &name);
                let sender = &self.senders[index];
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
                    content: if sender.history.is_empty() { Content::Empty } else { Content::Established },
                };
                self.secondary.message(now, link, owner, Message::JoinPair(join), &mut self.world);
            }
        }
    }

    /// Primaries hear what the secondary said.
    fn hear(&mut self) {
        for (link, message) in std::mem::take(&mut self.world.messages) {
            for sender in self.senders.iter_mut().filter(|sender| sender.link == link) {
                match &message {
                    Message::StreamOpened(StreamOpened { group, generation, stream, epoch, durable, base_time })
                        if *stream == sender.stream && *epoch == sender.epoch =>
                    {
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
                    Message::Refused { refusal, text, .. } => {
                        assert_eq!(*refusal, Refusal::NotYet, "{text}");
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
                }
                assert!(status.run >= status.durable);
            }
        }
    }

    /// A host writes.
    pub(super) fn write(&mut self, index: usize) {
        let (pairs, blocks) = (self.senders[index].pairs.len() as u64, self.below(6) as u32 + 1);
        let (pair, lba) = (self.below(pairs) as usize, self.below(VOLUME_BLOCKS - 6));
        let kind = match self.below(10) {
            0 => RecordKind::WriteZeroes,
            1 => RecordKind::Unmap,
            2 => RecordKind::Repair,
            _ => RecordKind::Write,
        };
        self.clock += self.below(3);
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
            extent: Extent { lba, blocks },
            payload_bytes,
        };
        sender.history.push((head, payload));
    }

    /// The network delivers some fragment of some record in the window, in whatever order, perhaps for the second time.
    pub(super) fn deliver(&mut self, index: usize) {
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

    pub(super) fn beacon(&mut self, index: usize) {
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

    /// One local I/O or metadata write ends; false if none is under way.
    pub(super) fn complete(&mut self) -> bool {
        let has_meta = !self.world.meta_pending.is_empty() && !self.world.holds_meta;
        let all = self.world.pending.len() + usize::from(has_meta);
        if all == 0 {
            return false;
        }
        let pick = self.below(all as u64) as usize;
        let now = self.now();
        if pick == self.world.pending.len() {
            let (key, value, token) = self.world.meta_pending.pop_front().unwrap();
            self.world.meta.insert(key, value);
            self.secondary.persisted(now, token, &mut self.world);
            return true;
        }
        let Pending::Local(volume, io, token, flushed) = self.world.pending.swap_remove(pick);
        let disk = self.world.disks.entry(volume).or_default();
        if let Some((failing, left)) = &mut self.world.failing
            && *failing == volume
            && *left > 0
            && !matches!(io, LocalIo::Read { .. })
            && (matches!(io, LocalIo::Flush) || !self.world.failing_flushes_only)
        {
            *left -= 1;
            if matches!(io, LocalIo::Flush) && self.world.failing_forgets {
                for lba in disk.volatile.keys() {
                    let kept = disk.durable.get(lba).copied().unwrap_or([0; BLOCK]);
                    disk.current.insert(*lba, kept);
                }
            }
            self.secondary.local_done(now, token, Err(DeviceError { errno: 5 }), None, &mut self.world);
            return true;
        }
        for (lba, version) in Disk::versions(&io) {
            disk.current.insert(lba, version);
        }
        for (lba, version, covered) in flushed {
            disk.durable.insert(lba, version);
            if let Some(versions) = disk.volatile.get_mut(&lba) {
                versions.drain(..covered.min(versions.len()));
            }
        }
        let buf = match io {
            LocalIo::Read { extent, mut buf } => {
                buf.copy_from_slice(&disk.read(extent));
                Some(buf)
            }
            _ => None,
        };
        self.secondary.local_done(now, token, Ok(()), buf, &mut self.world);
        true
    }

    pub(super) fn turn(&mut self) {
        self.mono += 500;
        let now = self.now();
        self.secondary.turn(now, &mut self.world);
        self.hear();
    }

    /// Everything under way ends, and what follows from it.
    pub(super) fn settle(&mut self) {
        for _ in 0..20 {
            for _ in 0..5000 {
                if !self.complete() {
                    break;
                }
                self.turn();
            }
            self.turn();
        }
        assert!(!self.complete(), "the world comes to rest");
    }

    /// One event of a world at work.
    pub(super) fn step(&mut self) {
        let index = self.below(self.senders.len() as u64) as usize;
        match self.below(20) {
            0..=2 => {
                // A host waits when the primary's buffers are full.
                let sender = &self.senders[index];
                if sender.is_started() && sender.last().0 < sender.durable.0 + 14 {
                    self.write(index);
                }
            }
            3..=9 => self.deliver(index),
            10 => self.beacon(index),
            11..=15 => _ = self.complete(),
            16 => self.hello(),
            _ => self.turn(),
        }
    }

    /// The process is killed: what it had written stays in the devices' caches, what was under way may or may not.
    pub(super) fn kill(&mut self) {
        for Pending::Local(volume, io, ..) in std::mem::take(&mut self.world.pending) {
            if self.below(2) == 0 {
                let disk = self.world.disks.entry(volume).or_default();
                for (lba, version) in Disk::versions(&io) {
                    disk.current.insert(lba, version);
                }
            }
        }
        self.restart();
    }

    /// Power is lost and comes back: the process starts anew on what the disks and the metadata kept.
    pub(super) fn crash(&mut self) {
        let mut chance = self.world.chance.clone();
        for disk in self.world.disks.values_mut() {
            disk.crash(&mut chance);
        }
        self.world.chance = chance;
        self.restart();
    }

    fn restart(&mut self) {
        let kept = self.below(self.world.meta_pending.len() as u64 + 1) as usize;
        for (key, value, _) in self.world.meta_pending.drain(..).take(kept) {
            self.world.meta.insert(key, value);
        }
        self.world.pending.clear();
        self.world.messages.clear();
        self.world.statuses.clear();
        self.seed += 1_000_003;
        self.secondary = Secondary::new(self.config, self.seed);
        for sender in &mut self.senders {
            sender.opened.clear();
            sender.joined.clear();
            sender.grant_bytes = 0;
        }
        self.create();
    }

    /// What a pair's volume holds if history is replayed up to `until`, every record not later and none later.
    pub(super) fn replay(&self, group: &str, pair: &str, until: Time) -> Vec<u8> {
        let id = PairId::of_name(GroupId::of_name(group), pair);
        let mut records: Vec<_> = self.senders.iter().flat_map(|sender| &sender.history).collect();
        records.retain(|(head, _)| head.pair == id && head.stamp.time <= until);
        records.sort_by_key(|(head, _)| (head.stamp.time, head.stamp.stream));
        let mut bytes = vec![0; VOLUME_BLOCKS as usize * BLOCK];
        for (head, payload) in records {
            let start = head.extent.lba as usize * BLOCK;
            let target = &mut bytes[start..start + head.extent.blocks as usize * BLOCK];
            if head.kind.has_payload() { target.copy_from_slice(payload) } else { target.fill(0) }
        }
        bytes
    }

    pub(super) fn volume(&self, group: &str, pair: &str) -> Vec<u8> {
        let volume = self.volume_of(group, pair);
        let whole = Extent { lba: 0, blocks: VOLUME_BLOCKS as u32 };
        self.world.disks.get(&volume).map_or_else(|| vec![0; BLOCK * VOLUME_BLOCKS as usize], |disk| disk.read(whole))
    }

    pub(super) fn status(&self, group: &str) -> GroupStatus {
        self.secondary.group_status(self.now(), GroupId::of_name(group)).unwrap()
    }

    /// Every volume is exactly history cut at its group's recovery point. Only when nothing is being applied.
    pub(super) fn assert_cut(&self) {
        for name in &self.groups {
            let group = &self.secondary.groups[&GroupId::of_name(name)];
            match &group.phase {
                Phase::Ready(ready) => assert!(ready.applier.is_idle(), "{:?}", group.reason()),
                Phase::TakenOver => {}
                _ => panic!("group {name} is not open: {:?}", group.reason()),
            }
            let status = self.status(name);
            for (group, pair) in self.senders.iter().flat_map(|sender| &sender.pairs).filter(|(group, _)| group == name)
            {
                let is_cut = self.volume(group, pair) == self.replay(group, pair, status.recovery_point);
                assert!(is_cut, "seed {}: pair {pair} is not the cut at {}", self.seed, status.recovery_point);
            }
        }
    }

    /// The network heals and the hosts rest: everything arrives.
    pub(super) fn drain(&mut self) {
        for _ in 0..400 {
            self.hello();
            for index in 0..self.senders.len() {
                for _ in 0..40 {
                    self.deliver(index);
                }
                self.beacon(index);
            }
            self.settle();
            if self.senders.iter().all(|sender| sender.is_started() && sender.durable == sender.last()) {
                return;
            }
        }
        for sender in &self.senders {
            let (durable, last) = (sender.durable, sender.last());
            eprintln!(
                "{}: started {} durable {durable} last {last} grant {}",
                sender.stream,
                sender.is_started(),
                sender.grant_bytes
            );
        }
        for name in &self.groups {
            eprintln!("{:#?}", self.status(name));
        }
        panic!("seed {}: no catch-up after the faults stopped", self.seed);
    }
}

fn sender_is_open(sender: &Sender, group: GroupId) -> bool {
    sender.opened.contains(&group)
}
