//! A secondary in a model world: disks that lose, tear and reorder what was not flushed, metadata that keeps a prefix of
//! what was not acknowledged, and primaries behind a network that does what it likes. All from one seed.

mod sender;
mod world;

use super::group::Phase;
use super::*;
use crate::stream::CHARGE_BYTES_MAX;
use crate::types::{Extent, Initial, RecordHead, Scope};
pub use sender::Sender;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
pub use world::{Disk, Pending, World};

pub const BLOCK: usize = 512;
pub const VOLUME_BLOCKS: u64 = 48;

pub struct Rig {
    pub world: World,
    pub secondary: Secondary<Vec<u8>, Rc<[u8]>>,
    pub config: SecondaryConfig,
    pub senders: Vec<Sender>,
    pub groups: Vec<String>,
    pub clock: u64,
    pub mono: u64,
    tickets: u64,
    seed: u64,
    pub journal_blocks: u64,
    /// Blocks of the overlay, if there is one.
    pub overlay_blocks: Option<u64>,
    pub apply_delay_ns: u64,
    /// Every host write ever, in order of time.
    pub truth: Vec<(RecordHead, Vec<u8>)>,
    /// Primaries suspend, restart and resync.
    pub resyncs: bool,
    /// Pairs that the operator here gives up.
    pub overwritable: BTreeSet<String>,
    pub volatile: bool,
    /// What verify records found, devices that fail, and that a journal is damaged.
    pub heard: Vec<Message>,
}

pub fn geometry() -> Geometry {
    Geometry { blocks: VOLUME_BLOCKS, block_bytes: BLOCK as u32 }
}

impl Rig {
    pub fn new(seed: u64, groups: &[&str]) -> Rig {
        let config = SecondaryConfig {
            receive_bytes: 8 * CHARGE_BYTES_MAX,
            streams_max: 4,
            stream_records: 16,
            stamp_ahead_ns_max: 1000,
            checkpoint_interval_ns: 2000,
            attest_after_ns: 100,
            limit_interval_ns: 400,
            limit_interval_ns_max: 800,
            journal_bytes_min: crate::journal::BYTES_MIN,
            journal_block_bytes_max: crate::journal::BLOCK_BYTES_MAX,
        };
        let world = World {
            chance: ChaCha8Rng::seed_from_u64(seed),
            disks: BTreeMap::new(),
            pending: Vec::new(),
            meta: HashMap::new(),
            metas: 0,
            meta_pending: VecDeque::new(),
            statuses: Vec::new(),
            messages: Vec::new(),
            answers: HashMap::new(),
            hosts: HashMap::new(),
            logged: Vec::new(),
            changed: Vec::new(),
            alloc_fails: false,
            failing: None,
            failing_flushes_only: false,
            failing_forgets: true,
            holds_meta: false,
            volume_blocks: None,
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
            overlay_blocks: None,
            apply_delay_ns: 0,
            truth: Vec::new(),
            resyncs: false,
            overwritable: BTreeSet::new(),
            volatile: false,
            heard: Vec::new(),
        }
    }

    pub fn stream(mut self, owner: u64, scope: Scope, pairs: &[(&str, &str)]) -> Rig {
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
            held: Time(0),
            opened: BTreeSet::new(),
            joined: BTreeSet::new(),
            fenced: false,
            wrote: false,
            units: 0,
            unit: None,
            suspended: false,
            has_to_resync: false,
            marks: BTreeSet::new(),
            copied: BTreeMap::new(),
            copies_all: BTreeSet::new(),
            done: Vec::new(),
        });
        self
    }

    pub fn now(&self) -> Now {
        Now { time: Time(self.clock), mono: Mono(self.mono), lease: Time(u64::MAX), error_bound_ns: 10 }
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.world.chance.next_u64() % n
    }

    pub fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    pub fn journal_volume(index: usize) -> VolumeId {
        VolumeId(1000 + index as u32)
    }

    pub fn volume_of(&self, group: &str, pair: &str) -> VolumeId {
        let all: Vec<_> = self.senders.iter().flat_map(|sender| &sender.pairs).collect();
        let index = all.iter().position(|(g, p)| g == group && p == pair).unwrap();
        VolumeId(index as u32)
    }

    /// The operator's commands, at first and after every start.
    pub fn create(&mut self) {
        let now = self.now();
        for index in 0..self.groups.len() {
            let config = GroupConfig {
                name: self.groups[index].clone(),
                journal: Self::journal_volume(index),
                journal_geometry: Geometry { blocks: self.journal_blocks + 8, block_bytes: BLOCK as u32 },
                overlay: self.overlay_blocks.map(|blocks| {
                    (VolumeId(2000 + index as u32), Geometry { blocks: blocks + 8, block_bytes: BLOCK as u32 })
                }),
                apply_delay_ns: self.apply_delay_ns,
            };
            self.secondary.group_create(now, config, &mut self.world).unwrap();
        }
        let pairs: Vec<_> = self.senders.iter().flat_map(|sender| sender.pairs.clone()).collect();
        for (group, name) in pairs {
            let volume = self.volume_of(&group, &name);
            let ticket = self.ticket();
            let initial = if self.overwritable.contains(&name) { Initial::Copy } else { Initial::Empty };
            let config = PairConfig {
                group,
                name,
                volume,
                volume_name: format!("v{}", volume.0),
                geometry: geometry(),
                initial,
                volatile: self.volatile,
            };
            self.secondary.pair_create(now, config, ticket, &mut self.world).unwrap();
        }
    }

    /// One local I/O or metadata write ends; false if none is under way.
    pub fn complete(&mut self) -> bool {
        let has_meta = !self.world.meta_pending.is_empty() && !self.world.holds_meta;
        let all = self.world.pending.len() + usize::from(has_meta);
        if all == 0 {
            return false;
        }
        let pick = self.below(all as u64) as usize;
        if pick == self.world.pending.len() {
            let now = self.now();
            let (key, value, token) = self.world.meta_pending.pop_front().unwrap();
            self.world.meta.insert(key, value);
            self.secondary.persisted(now, token, &mut self.world);
            return true;
        }
        self.complete_local(pick);
        true
    }

    /// As [`Rig::complete`] while the devices' reads take their time: a write or a flush ends.
    pub fn complete_write(&mut self) -> bool {
        let is_read = |Pending::Local(_, io, ..): &Pending| matches!(io, LocalIo::Read { .. });
        let pick = self.world.pending.iter().position(|pending| !is_read(pending));
        pick.inspect(|pick| self.complete_local(*pick)).is_some()
    }

    fn complete_local(&mut self, pick: usize) {
        let now = self.now();
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
            return;
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
    }

    pub fn turn(&mut self) {
        self.mono += 500;
        let now = self.now();
        self.secondary.turn(now, &mut self.world);
        self.hear();
    }

    /// Everything under way ends, and what follows from it.
    pub fn settle(&mut self) {
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
    pub fn step(&mut self) {
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
            17 if self.resyncs => self.live(index),
            _ => self.turn(),
        }
    }

    /// What happens to a primary now and then.
    fn live(&mut self, index: usize) {
        // Not before its pairs are established.
        if !self.senders[index].wrote {
            return;
        }
        match self.below(40) {
            0 if !self.senders[index].suspended => self.suspend(index),
            // Killed: the new process cannot prove what arrived.
            1 => self.resync(index),
            2..=4 if self.senders[index].suspended => self.resync(index),
            5..=9 => self.copy_end(index),
            _ => {
                let sender = &self.senders[index];
                if sender.is_started() && sender.last().0 < sender.durable.0 + 14 {
                    self.copy(index);
                }
            }
        }
    }

    /// The process is killed: what it had written stays in the devices' caches, what was under way may or may not.
    pub fn kill(&mut self) {
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
    pub fn crash(&mut self) {
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
    pub fn replay(&self, group: &str, pair: &str, until: Time) -> Vec<u8> {
        let id = PairId::of_name(GroupId::of_name(group), pair);
        let mut records: Vec<_> = self.truth.iter().collect();
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

    pub fn volume(&self, group: &str, pair: &str) -> Vec<u8> {
        let volume = self.volume_of(group, pair);
        let whole = Extent { lba: 0, blocks: VOLUME_BLOCKS as u32 };
        self.world.disks.get(&volume).map_or_else(|| vec![0; BLOCK * VOLUME_BLOCKS as usize], |disk| disk.read(whole))
    }

    pub fn status(&self, group: &str) -> GroupStatus {
        self.secondary.group_status(self.now(), GroupId::of_name(group)).unwrap()
    }

    /// Every volume is exactly history cut at its group's recovery point. Only when nothing is being applied.
    pub fn assert_cut(&self) {
        for name in &self.groups {
            let group = &self.secondary.groups[&GroupId::of_name(name)];
            match &group.phase {
                Phase::Ready(ready) => assert!(
                    ready.applier.is_idle() || group.meta.unit.as_ref().is_some_and(|unit| unit.is_overlaid),
                    "{:?}",
                    group.reason()
                ),
                Phase::TakenOver => {}
                _ => panic!("group {name} is not open: {:?}", group.reason()),
            }
            let status = self.status(name);
            if status.unit.is_some_and(|unit| unit.is_overlaid) {
                // The image is in the overlay; a takeover shows it.
                continue;
            }
            let status = self.status(name);
            for (group, pair) in self.senders.iter().flat_map(|sender| &sender.pairs).filter(|(group, _)| group == name)
            {
                let id = PairId::of_name(GroupId::of_name(group), pair);
                let partial = status.certificate.as_ref().map(|certificate| &certificate.never_consistent);
                if partial.unwrap_or(&status.copying).contains(&id) {
                    continue;
                }
                let is_cut = self.volume(group, pair) == self.replay(group, pair, status.recovery_point);
                assert!(is_cut, "seed {}: pair {pair} is not the cut at {}", self.seed, status.recovery_point);
            }
        }
    }

    /// The network heals and the hosts rest: everything arrives.
    pub fn drain(&mut self) {
        for _ in 0..400 {
            for index in 0..self.senders.len() {
                if self.senders[index].suspended {
                    self.resync(index);
                }
            }
            self.hello();
            for index in 0..self.senders.len() {
                while self.senders[index].is_started()
                    && self.senders[index].last().0 < self.senders[index].durable.0 + 14
                {
                    let before = self.senders[index].marks.len();
                    self.copy(index);
                    if self.senders[index].marks.len() == before {
                        break;
                    }
                }
                for _ in 0..40 {
                    self.deliver(index);
                }
                self.beacon(index);
                if self.senders[index].unit.is_some() || !self.senders[index].copies_all.is_empty() {
                    self.copy_end(index);
                }
            }
            self.settle();
            let is_at_rest = |sender: &Sender| {
                sender.is_started()
                    && sender.durable == sender.last()
                    && sender.unit.is_none()
                    && sender.copies_all.is_empty()
            };
            if self.senders.iter().all(is_at_rest) {
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
