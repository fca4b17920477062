//! Two whole systems: engines, disks with volatile caches, metadata that lags, and a network between them. All in one
//! thread, all chance from one seed; either system may be killed between any two of its events.

use crate::engine::{Engine, EngineConfig, OperatorError};
use crate::identity;
use crate::link::{LinkConfig, Security, public_of};
use crate::ports::{
    DeviceError, Event, HostError, HostIo, HostToken, LocalIo, LocalToken, Memory, MetaToken, OperatorAnswer, Ports,
    Ticket,
};
use crate::primary::{self, PrimaryConfig};
use crate::role::{self, Role};
use crate::secondary::{self, SecondaryConfig, TakeoverAt, TakeoverConsent};
use crate::types::{
    Epoch, Extent, Generation, Geometry, GroupId, Initial, LinkId, Mono, Now, Overflow, PairId, Record, Scope,
    SystemId, Time, VolumeId,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

pub const BLOCK: usize = 512;
pub const BLOCKS: u64 = 1024;
pub const NAME: &str = "g";
const JOURNAL: VolumeId = VolumeId(100);
const JOURNAL_BYTES: u64 = 2 << 20;
const SPILL: VolumeId = VolumeId(101);
const SPILL_BYTES: u64 = 2 << 20;
const TURN_NS: u64 = 100_000;

type Local = LocalIo<Vec<u8>, Rc<[u8]>>;
type Block = [u8; BLOCK];

/// The engine's kind of memory; never made.
pub enum TestMemory {}

impl Memory for TestMemory {
    type Buf = Vec<u8>;
    type Shared = Rc<[u8]>;

    fn alloc(&mut self, _: usize) -> Option<Vec<u8>> {
        match *self {}
    }

    fn freeze(&mut self, _: Vec<u8>, _: usize) -> Rc<[u8]> {
        match *self {}
    }
}

/// A disk with a volatile cache.
#[derive(Clone, Default)]
pub struct Disk {
    pub current: HashMap<u64, Block>,
    durable: HashMap<u64, Block>,
    /// Blocks that were written and not flushed.
    volatile: BTreeSet<u64>,
}

impl Disk {
    fn run(&mut self, io: Local) -> Option<Vec<u8>> {
        match io {
            LocalIo::Read { extent, mut buf } => {
                for (lba, out) in extent.range().zip(buf.chunks_mut(BLOCK)) {
                    out.copy_from_slice(self.current.get(&lba).unwrap_or(&[0; BLOCK]));
                }
                return Some(buf);
            }
            LocalIo::Write { extent, data, fua } => {
                for (lba, block) in extent.range().zip(data.chunks(BLOCK)) {
                    self.put(lba, block.try_into().unwrap(), fua);
                }
            }
            LocalIo::WriteZeroes { extent, .. } | LocalIo::Unmap { extent } => {
                extent.range().for_each(|lba| self.put(lba, [0; BLOCK], false));
            }
            LocalIo::Flush => {
                for lba in std::mem::take(&mut self.volatile) {
                    self.durable.insert(lba, self.current[&lba]);
                }
            }
        }
        None
    }

    fn put(&mut self, lba: u64, block: Block, is_durable: bool) {
        self.current.insert(lba, block);
        match is_durable {
            true => {
                self.durable.insert(lba, block);
                self.volatile.remove(&lba);
            }
            false => {
                self.volatile.insert(lba);
            }
        }
    }

    /// The power goes: of what was not flushed, any part stays.
    fn crash(&mut self, chance: &mut ChaCha8Rng) -> BTreeSet<u64> {
        let volatile = std::mem::take(&mut self.volatile);
        for lba in &volatile {
            if chance.next_u32().is_multiple_of(2) {
                self.durable.insert(*lba, self.current[lba]);
            }
        }
        self.current = self.durable.clone();
        volatile
    }

    pub fn block(&self, lba: u64) -> Block {
        *self.current.get(&lba).unwrap_or(&[0; BLOCK])
    }
}

/// A system's metadata and disks.
pub type Copy = (BTreeMap<String, Vec<u8>>, BTreeMap<VolumeId, Disk>);

enum Out {
    Local(VolumeId, Local, LocalToken),
    Persisted(String, Vec<u8>, MetaToken),
}

/// How a host's request ended, and a read's bytes.
pub type HostAnswer = (Result<(), HostError>, Option<Vec<u8>>);

/// What an engine sees of its world.
pub struct World {
    outs: VecDeque<Out>,
    /// As last asked for.
    meta: BTreeMap<String, Vec<u8>>,
    pub answers: BTreeMap<u64, Result<OperatorAnswer, OperatorError>>,
    pub hosts: BTreeMap<u64, HostAnswer>,
    /// Datagrams to the other system.
    sent: VecDeque<(Vec<u8>, usize)>,
    pub log: Vec<String>,
    pub roles: Vec<(Role, Generation)>,
    /// Volumes that have more than [`BLOCKS`].
    pub larger: BTreeMap<VolumeId, u64>,
    /// Stamps given: (generation of the rig's count, time).
    pub stamped: Vec<Time>,
}

impl Memory for World {
    type Buf = Vec<u8>;
    type Shared = Rc<[u8]>;

    fn alloc(&mut self, bytes: usize) -> Option<Vec<u8>> {
        Some(vec![0xa5; bytes])
    }

    fn freeze(&mut self, buf: Vec<u8>, bytes: usize) -> Rc<[u8]> {
        buf[..bytes].into()
    }
}

impl Ports for World {
    fn local(&mut self, volume: VolumeId, io: Local, token: LocalToken) {
        self.outs.push_back(Out::Local(volume, io, token));
    }

    fn complete_host(&mut self, token: HostToken, outcome: Result<(), HostError>, buf: Option<Vec<u8>>) {
        self.hosts.insert(token.0, (outcome, buf));
    }

    fn transmit(&mut self, _: LinkId, _: SocketAddr, train: Vec<u8>, bytes: usize, segment_bytes: usize) {
        self.sent.push_back((train[..bytes].to_vec(), segment_bytes));
    }

    fn persist(&mut self, key: &str, value: &[u8], token: MetaToken) {
        self.meta.insert(key.to_owned(), value.to_owned());
        self.outs.push_back(Out::Persisted(key.to_owned(), value.to_owned(), token));
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.meta.get(key).cloned()
    }

    fn volume_blocks(&self, volume: VolumeId) -> Option<u64> {
        Some(self.larger.get(&volume).copied().unwrap_or(BLOCKS))
    }

    fn answer_operator(&mut self, ticket: Ticket, answer: Result<OperatorAnswer, OperatorError>) {
        self.answers.insert(ticket.0, answer);
    }

    fn stamped(&mut self, _: Epoch, record: &Record<Rc<[u8]>>) {
        self.stamped.push(record.head.stamp.time);
    }

    fn role_changed(&mut self, _: GroupId, role: Role, generation: Generation) {
        self.roles.push((role, generation));
    }

    fn log(&mut self, line: std::fmt::Arguments<'_>) {
        self.log.push(line.to_string());
    }
}

/// A system.
pub struct System {
    pub engine: Option<Engine<TestMemory>>,
    pub world: World,
    durable_meta: BTreeMap<String, Vec<u8>>,
    pub disks: BTreeMap<VolumeId, Disk>,
    key: [u8; 32],
    /// The part that its operator's configuration says.
    pub configured: Role,
    /// Events that its engine handled, in all its lives.
    pub events: u64,
    arrived: VecDeque<(Vec<u8>, usize)>,
}

pub struct Rig {
    pub systems: [System; 2],
    pub chance: ChaCha8Rng,
    pub at: u64,
    next: u64,
    pub is_cut: bool,
    /// The system that dies at this event of it.
    pub doom: Option<(usize, u64)>,
    pub crashes: u64,
    pub pairs: Vec<String>,
    scope: Scope,
    pub apply_delay_ns: u64,
    /// Systems whose journal is missing at their starts.
    lost_journals: BTreeSet<usize>,
    /// The primary's send buffer is small, and it has a spill.
    has_spill: bool,
    /// What hosts were told is written, and what may have been: by pair and block, the last answered value and the values
    /// that were not answered since.
    pub told: BTreeMap<(usize, u64), (u8, Vec<u8>)>,
    in_flight: BTreeMap<u64, (usize, usize, u64, u8)>,
}

pub fn group() -> GroupId {
    GroupId::of_name(NAME)
}

fn address(system: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, system as u8 + 1], 4420))
}

fn content(value: u8) -> Block {
    let mut block = [value; BLOCK];
    block[0] = value;
    block
}

impl Rig {
    /// System 0 is the primary of a group of two pairs, system 1 its secondary; both have been started and copy.
    pub fn new(seed: u64, scope: Scope) -> Rig {
        Rig::delayed(seed, scope, 0)
    }

    /// The same, with a secondary whose volumes stay behind.
    pub fn delayed(seed: u64, scope: Scope, apply_delay_ns: u64) -> Rig {
        Rig::with(seed, scope, apply_delay_ns, false)
    }

    /// The same, with a send buffer of some records only, and a spill.
    pub fn spilling(seed: u64, scope: Scope) -> Rig {
        Rig::with(seed, scope, 0, true)
    }

    fn with(seed: u64, scope: Scope, apply_delay_ns: u64, has_spill: bool) -> Rig {
        let system = |me: usize, configured| System {
            engine: None,
            world: World {
                outs: VecDeque::new(),
                meta: BTreeMap::new(),
                answers: BTreeMap::new(),
                hosts: BTreeMap::new(),
                sent: VecDeque::new(),
                log: Vec::new(),
                roles: Vec::new(),
                larger: BTreeMap::new(),
                stamped: Vec::new(),
            },
            durable_meta: BTreeMap::new(),
            disks: BTreeMap::new(),
            key: [me as u8 + 7; 32],
            configured,
            events: 0,
            arrived: VecDeque::new(),
        };
        let mut rig = Rig {
            systems: [system(0, Role::Primary), system(1, Role::Secondary)],
            chance: ChaCha8Rng::seed_from_u64(seed),
            at: 1_000_000_000,
            next: 1,
            is_cut: false,
            doom: None,
            crashes: 0,
            pairs: vec!["a".into(), "b".into()],
            scope,
            apply_delay_ns,
            lost_journals: BTreeSet::new(),
            has_spill,
            told: BTreeMap::new(),
            in_flight: BTreeMap::new(),
        };
        rig.start(1);
        rig.start(0);
        rig.until("both pairs copy", |rig| rig.state(0).as_deref() == Some("PAIR"));
        rig
    }

    pub fn now(&self) -> Now {
        Now { time: Time(self.at), mono: Mono(self.at), lease: Time(u64::MAX), error_bound_ns: 1000 }
    }

    fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.chance.next_u64() % n
    }

    /// Starts a system's process; its operator's configuration is repeated.
    pub fn start(&mut self, me: usize) {
        let mut seed = [0; 32];
        self.chance.fill_bytes(&mut seed);
        let mut primary = PrimaryConfig::new(SystemId::of_key(&public_of(&self.systems[me].key)));
        primary.retry_ns = 20_000_000;
        primary.clear_after_ns = 20_000_000;
        primary.resync_pause_ns = 20_000_000;
        let secondary = SecondaryConfig {
            receive_bytes: 16 << 20,
            streams_max: 4,
            checkpoint_interval_ns: 20_000_000,
            ..Default::default()
        };
        let (mine, theirs) = (self.systems[me].key, self.systems[1 - me].key);
        let mut link = LinkConfig::new(mine, public_of(&theirs), Some(address(1 - me)));
        (link.security, link.dead_after_ns, link.keepalive_ns) = (Security::None, 300_000_000, 60_000_000);
        let system = &mut self.systems[me];
        system.world.meta = system.durable_meta.clone();
        system.world.roles.clear();
        let mut engine = Engine::new(EngineConfig { primary, secondary, seed });
        assert_eq!(engine.link_create(link), Ok(LinkId(0)));
        system.engine = Some(engine);
        let as_primary = self.as_primary(me);
        let as_secondary = secondary::GroupConfig {
            name: NAME.into(),
            journal: JOURNAL,
            journal_geometry: Geometry { blocks: JOURNAL_BYTES / BLOCK as u64, block_bytes: BLOCK as u32 },
            overlay: None,
            apply_delay_ns: self.apply_delay_ns,
        };
        let role = role::recorded(group(), &self.systems[me].world).unwrap_or(self.systems[me].configured);
        let now = self.now();
        for index in 0..=self.pairs.len() {
            let System { engine, world, .. } = &mut self.systems[me];
            let engine = engine.as_mut().unwrap();
            let pair = index.checked_sub(1);
            match (role, pair) {
                (Role::Primary, None) => {
                    engine.offer_secondary(group(), as_secondary.clone());
                    let (roles, mut world) = engine.primary(world);
                    roles.group_create(now, as_primary.clone(), &mut world).unwrap();
                }
                (Role::Secondary, None) => {
                    engine.offer_primary(group(), as_primary.clone());
                    let (roles, mut world) = engine.secondary(world);
                    match self.lost_journals.contains(&me) {
                        true => roles.group_take_up(now, NAME, &mut world).unwrap(),
                        false => roles.group_create(now, as_secondary.clone(), &mut world).unwrap(),
                    };
                }
                (_, Some(pair)) => self.create_pair(me, pair),
            }
        }
        self.settle(me);
    }

    /// A pair, in whichever part its group has it here.
    pub fn create_pair(&mut self, me: usize, pair: usize) {
        let (now, ticket, volume) = (self.now(), self.ticket(), VolumeId(pair as u32 + 1));
        let blocks = self.systems[me].world.larger.get(&volume).copied().unwrap_or(BLOCKS);
        let geometry = Geometry { blocks, block_bytes: BLOCK as u32 };
        let name = self.pairs[pair].clone();
        let id = PairId::of_name(group(), &name);
        let System { engine, world, .. } = &mut self.systems[me];
        let engine = engine.as_mut().unwrap();
        match engine.pair_role(now, group(), id, world).unwrap() {
            Role::Primary => {
                let config = primary::PairConfig {
                    group: group(),
                    name,
                    volume,
                    geometry,
                    remote_volume: String::new(),
                    initial: Initial::Identical,
                    volatile: false,
                };
                let (roles, mut world) = engine.primary(world);
                // Told of the disk that it would be here; what it is known as already counts.
                roles.identify(id, [me as u8 + 1; 16], &mut world);
                roles.pair_create(now, config, ticket, &mut world).unwrap();
            }
            Role::Secondary => {
                let config = secondary::PairConfig {
                    group: NAME.into(),
                    name,
                    volume,
                    volume_name: String::new(),
                    geometry,
                    initial: Initial::Identical,
                    volatile: false,
                };
                let (roles, mut world) = engine.secondary(world);
                roles.pair_create(now, config, ticket, &mut world).unwrap();
            }
        }
    }

    /// The byte that a block of a pair's volume holds here.
    pub fn volume(&self, me: usize, pair: usize, lba: u64) -> u8 {
        self.systems[me].disks.get(&VolumeId(pair as u32 + 1)).map_or(0, |disk| disk.block(lba)[0])
    }

    /// A copy of a system's metadata and disks, as they are on the media.
    pub fn copy_of(&self, me: usize) -> Copy {
        (self.systems[me].durable_meta.clone(), self.systems[me].disks.clone())
    }

    /// A system's media are lost; it is started with copies of a secondary's.
    pub fn restore(&mut self, me: usize, (meta, disks): Copy) {
        let system = &mut self.systems[me];
        (system.engine, system.durable_meta, system.disks) = (None, meta, disks);
        system.world.outs.clear();
        system.configured = Role::Secondary;
        self.start(me);
    }

    /// A system's journal is missing from its next start on, but for a new one that its operator gives.
    pub fn lose_journal(&mut self, me: usize) {
        self.systems[me].disks.remove(&JOURNAL);
        self.lost_journals.insert(me);
    }

    /// The power of a system goes.
    pub fn kill(&mut self, me: usize) {
        let was = self.role(me);
        self.crashes += 1;
        let system = &mut self.systems[me];
        system.engine = None;
        let kept = self.chance.next_u32() as usize % (system.world.outs.len() + 1);
        // Metadata becomes durable in order, so a first part of it; of the disks' I/O any part.
        let outs: Vec<Out> = system.world.outs.drain(..).collect();
        for (nth, out) in outs.into_iter().enumerate() {
            match out {
                Out::Persisted(key, value, _) if nth < kept => {
                    system.durable_meta.insert(key, value);
                }
                Out::Local(volume, io, _)
                    if self.chance.next_u32().is_multiple_of(2) && !matches!(io, LocalIo::Flush) =>
                {
                    system.disks.entry(volume).or_default().run(io);
                }
                _ => {}
            }
        }
        for (volume, disk) in &mut system.disks {
            let lost = disk.crash(&mut self.chance);
            // Told that it is written, not that it is durable: now it is what the disk holds, or what the other side has.
            for lba in lost.iter().filter(|_| volume.0 <= 2) {
                if let Some(told) = self.told.get_mut(&(volume.0 as usize - 1, *lba)) {
                    told.1.push(told.0);
                    told.0 = disk.block(*lba)[0];
                }
            }
        }
        let is_kept = system.durable_meta.iter().any(|(key, value)| key.contains("ary/group/") && !value.is_empty());
        assert!(is_kept || was.is_none(), "a part in a group is given up for nothing");
        system.world.sent.clear();
        system.arrived.clear();
        system.world.hosts.clear();
        // What was not answered may or may not be there.
        for (_, (_, pair, lba, value)) in
            self.in_flight.extract_if(.., |_, (system, ..)| *system == me).collect::<Vec<_>>()
        {
            self.told.entry((pair, lba)).or_default().1.push(value);
        }
        self.is_cut = false;
    }

    /// Gives one event to a system's engine, and makes it suffer its fate.
    fn event(&mut self, me: usize, event: Event<'_, Vec<u8>, Rc<[u8]>>) {
        let now = self.now();
        let System { engine, world, events, .. } = &mut self.systems[me];
        let Some(engine) = engine.as_mut() else { return };
        *events += 1;
        engine.handle(now, event, world);
        let count = *events;
        self.check();
        if self.doom == Some((me, count)) {
            self.doom = None;
            self.kill(me);
            self.start(me);
        }
    }

    fn settle(&mut self, me: usize) {
        self.event(me, Event::Turn);
    }

    /// One turn of each system.
    pub fn turn(&mut self) {
        self.at += TURN_NS;
        for me in 0..2 {
            for _ in 0..self.systems[me].world.outs.len() {
                // Device I/O in any order; metadata in its own.
                let System { world, disks, durable_meta, .. } = &mut self.systems[me];
                let Some(first) = world.outs.pop_front() else { break };
                match first {
                    Out::Local(volume, io, token) => {
                        if self.chance.next_u32().is_multiple_of(4) {
                            world.outs.push_back(Out::Local(volume, io, token));
                            continue;
                        }
                        let buf = disks.entry(volume).or_default().run(io);
                        self.event(me, Event::LocalDone { token, result: Ok::<(), DeviceError>(()), buf });
                    }
                    Out::Persisted(key, value, token) => {
                        durable_meta.insert(key, value);
                        self.event(me, Event::Persisted { token });
                    }
                }
            }
            for _ in 0..self.systems[me].arrived.len() {
                let Some((mut train, segment_bytes)) = self.systems[me].arrived.pop_front() else { break };
                let from = address(1 - me);
                self.event(me, Event::Datagrams { link: LinkId(0), from, train: &mut train, segment_bytes });
            }
            self.settle(me);
            let sent = std::mem::take(&mut self.systems[me].world.sent);
            if !self.is_cut {
                self.systems[1 - me].arrived.extend(sent);
            }
        }
        self.note_answers();
    }

    fn note_answers(&mut self) {
        for me in 0..2 {
            for (token, (outcome, _)) in &self.systems[me].world.hosts {
                let Some((_, pair, lba, value)) = self.in_flight.remove(token) else { continue };
                let told = self.told.entry((pair, lba)).or_default();
                match outcome {
                    Ok(()) => *told = (value, Vec::new()),
                    // Not submitted.
                    Err(HostError::Transition | HostError::Secondary) => {}
                    Err(_) => told.1.push(value),
                }
            }
        }
    }

    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Rig) -> bool) {
        for _ in 0..60_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("not within 6 s: {what}\n{}", self.describe());
    }

    pub fn run(&mut self, turns: u64) {
        for _ in 0..turns {
            self.turn();
        }
    }

    pub fn describe(&mut self) -> String {
        let mut out = String::new();
        for me in 0..2 {
            let state = self.state(me);
            let system = &self.systems[me];
            let log = system.world.log.iter().rev().take(25).rev().cloned().collect::<Vec<_>>().join("\n    ");
            out += &format!("system {me}: {state:?} {:?}\n    {log}\n", self.reason(me));
        }
        out
    }

    /// The group's state at a system, as its part there sees it.
    pub fn state(&mut self, me: usize) -> Option<String> {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let engine = engine.as_mut()?;
        match engine.role(group())? {
            Role::Primary => {
                let (roles, world) = engine.primary(world);
                Some(roles.group_status(now, group(), &world)?.state.code().to_owned())
            }
            Role::Secondary => {
                let (roles, _) = engine.secondary(world);
                let pair = PairId::of_name(group(), &self.pairs[0]);
                Some(format!("S-{}", roles.pair_status(now, pair)?.state.code()))
            }
        }
    }

    pub fn reason(&mut self, me: usize) -> String {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let Some(engine) = engine.as_mut() else { return "down".into() };
        let there = {
            let (roles, _) = engine.secondary(world);
            format!(
                "{:?}",
                roles.group_status(now, group()).map(|it| {
                    (it.phase, it.reason, it.limit, it.recovery_point, it.unit, it.streams, it.apply_lag_records)
                })
            )
        };
        let (roles, world) = engine.primary(world);
        let here = roles
            .group_status(now, group(), &world)
            .map(|it| (it.reason, it.waiting, it.copy, it.unit, it.backlog, it.streams, it.missing_bytes));
        format!("{here:?} / {there}")
    }

    pub fn role(&self, me: usize) -> Option<Role> {
        self.systems[me].engine.as_ref()?.role(group())
    }

    /// A host writes one block; says whether it was taken.
    pub fn write(&mut self, me: usize, pair: usize, lba: u64, value: u8) -> HostToken {
        self.next += 1;
        let token = HostToken(self.next);
        self.in_flight.insert(token.0, (me, pair, lba, value));
        let id = PairId::of_name(group(), &self.pairs[pair]);
        let data: Rc<[u8]> = content(value).as_slice().into();
        let fua = self.below(2) == 0;
        let io = HostIo::Write { extent: Extent { lba, blocks: 1 }, data, fua };
        self.event(me, Event::Host { pair: id, io, token });
        token
    }

    /// Writes some blocks and waits for the answers, whatever they are.
    pub fn write_some(&mut self, me: usize, count: u64) {
        for _ in 0..count {
            let (pair, lba) = (self.below(2) as usize, self.below(BLOCKS));
            let value = 1 + self.below(250) as u8;
            if !self.in_flight.values().any(|(_, p, l, _)| (*p, *l) == (pair, lba)) {
                self.write(me, pair, lba, value);
            }
        }
        let life = self.crashes;
        self.until("hosts are answered", |rig| rig.in_flight.is_empty() || rig.crashes > life);
    }

    pub fn outcome(&self, me: usize, token: HostToken) -> Option<Result<(), HostError>> {
        self.systems[me].world.hosts.get(&token.0).map(|(outcome, _)| *outcome)
    }

    /// What an operator asks of a system's engine.
    pub fn operate<R>(
        &mut self,
        me: usize,
        what: impl FnOnce(&mut Engine<TestMemory>, Now, &mut World, Ticket) -> R,
    ) -> (R, Ticket) {
        let (now, ticket) = (self.now(), self.ticket());
        let System { engine, world, .. } = &mut self.systems[me];
        let done = what(engine.as_mut().expect("a system that is up"), now, world, ticket);
        self.settle(me);
        (done, ticket)
    }

    pub fn answer(&self, me: usize, ticket: Ticket) -> Option<Result<OperatorAnswer, OperatorError>> {
        self.systems[me].world.answers.get(&ticket.0).cloned()
    }

    /// A disaster takeover, repeated until it is done, whatever dies.
    pub fn take_over(&mut self, me: usize) {
        self.take_over_at(me, TakeoverAt::Newest);
    }

    pub fn take_over_at(&mut self, me: usize, at: TakeoverAt) {
        let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
        self.until("taken over", |rig| {
            if rig.serves(me) {
                return true;
            }
            let now = rig.now();
            let ticket = rig.ticket();
            let System { engine, world, .. } = &mut rig.systems[me];
            let (roles, mut world) = engine.as_mut().unwrap().secondary(world);
            let _ = roles.group_takeover(now, group(), consent, at.clone(), ticket, &mut world);
            false
        });
    }

    /// The generation that a system's primary is at.
    pub fn generation(&mut self, me: usize) -> u64 {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let Some(engine) = engine.as_mut() else { return 0 };
        let (roles, world) = engine.primary(world);
        roles.group_status(now, group(), &world).map_or(0, |status| status.generation.number)
    }

    pub fn whole_generation(&mut self, me: usize) -> Generation {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let (roles, world) = engine.as_mut().expect("a system that is up").primary(world);
        roles.group_status(now, group(), &world).expect("a primary").generation
    }

    pub fn system_id(&self, me: usize) -> SystemId {
        SystemId::of_key(&public_of(&self.systems[me].key))
    }

    /// Whether a system's metadata says, durably, that it hands the group over.
    pub fn is_handing_over(&self, me: usize) -> bool {
        let note = self.systems[me].durable_meta.get(&format!("primary/handover/{:016x}", group().0));
        note.is_some_and(|note| !note.is_empty())
    }

    /// Bytes that a primary's dirty maps mark.
    pub fn marked(&mut self, me: usize) -> u64 {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let (roles, world) = engine.as_mut().expect("a system that is up").primary(world);
        roles.group_status(now, group(), &world).map_or(0, |status| status.dirty_bytes)
    }

    /// Bytes that only a copy brings to a primary's secondary.
    pub fn missing(&mut self, me: usize) -> u64 {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let (roles, world) = engine.as_mut().expect("a system that is up").primary(world);
        roles.group_status(now, group(), &world).map_or(0, |status| status.missing_bytes)
    }

    /// Whether a primary takes itself for one of two that continue one history.
    pub fn is_split(&mut self, me: usize) -> bool {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let (roles, world) = engine.as_mut().expect("a system that is up").primary(world);
        roles.group_status(now, group(), &world).is_some_and(|status| status.split_brain)
    }

    /// A secondary's recovery point.
    pub fn recovery_point(&mut self, me: usize) -> Time {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let (roles, _) = engine.as_mut().expect("a system that is up").secondary(world);
        roles.group_status(now, group()).expect("the group's secondary").recovery_point
    }

    /// Whether a line of a system's log has this in it.
    pub fn has_logged(&self, me: usize, what: &str) -> bool {
        self.systems[me].world.log.iter().any(|line| line.contains(what))
    }

    /// Records that the secondary does not have durably, as far as its primary knows.
    pub fn lacks_records(&mut self, me: usize) -> u64 {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[1 - me];
        let Some(engine) = engine.as_mut() else { return 1 };
        let (roles, world) = engine.primary(world);
        roles.group_status(now, group(), &world).map_or(1, |status| status.backlog.records)
    }

    /// Records that a secondary has not applied, or has not received as far as the primary knows.
    pub fn lacks(&mut self, me: usize) -> u64 {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let Some(engine) = engine.as_mut() else { return 1 };
        let (roles, _) = engine.secondary(world);
        let lag = roles.group_status(now, group()).map_or(1, |status| status.apply_lag_records);
        let System { engine, world, .. } = &mut self.systems[1 - me];
        let Some(engine) = engine.as_mut() else { return 1 };
        let (roles, world) = engine.primary(world);
        lag + roles.group_status(now, group(), &world).map_or(1, |status| status.backlog.records + status.missing_bytes)
    }

    /// A volume's medium gets larger, and holds something behind its end.
    pub fn enlarge(&mut self, me: usize, pair: usize, blocks: u64, value: u8) {
        let volume = VolumeId(pair as u32 + 1);
        let system = &mut self.systems[me];
        system.world.larger.insert(volume, blocks);
        let disk = system.disks.entry(volume).or_default();
        (BLOCKS..blocks).step_by(3).for_each(|lba| disk.put(lba, content(value), true));
    }

    /// How many blocks a system's hosts see of a pair.
    pub fn shown_blocks(&mut self, me: usize, pair: usize) -> Option<u64> {
        let (now, id) = (self.now(), PairId::of_name(group(), &self.pairs[pair]));
        let System { engine, world, .. } = &mut self.systems[me];
        let engine = engine.as_mut()?;
        match engine.role(group())? {
            Role::Primary => Some(engine.primary(world).0.pair_status(now, id)?.geometry.blocks),
            Role::Secondary => Some(engine.secondary(world).0.pair_status(now, id)?.geometry.blocks),
        }
    }

    /// Whether a primary's metadata says, durably, that a pair has so many blocks.
    pub fn has_kept_size(&self, me: usize, pair: usize, blocks: u64) -> bool {
        let id = PairId::of_name(group(), &self.pairs[pair]);
        let record = self.systems[me].durable_meta.get(&format!("primary/pair/{:016x}", id.0));
        // Behind the version.
        record.is_some_and(|record| record.get(1..9) == Some(&blocks.to_le_bytes()[..]))
    }

    /// Both sides hold the same in these blocks.
    pub fn assert_equal_in(&mut self, pair: usize, blocks: std::ops::Range<u64>) {
        let volume = VolumeId(pair as u32 + 1);
        for lba in blocks {
            let held = [0, 1].map(|me| self.systems[me].disks.get(&volume).map_or([0; BLOCK], |disk| disk.block(lba)));
            assert_eq!(held[0][0], held[1][0], "pair {pair} block {lba} differs\n{}", self.describe());
        }
    }

    /// What the volumes are to hosts of a system.
    pub fn identities(&self, me: usize) -> Vec<Option<[u8; 16]>> {
        let world = &self.systems[me].world;
        let pairs = self.pairs.iter().map(|name| PairId::of_name(group(), name));
        pairs.map(|pair| identity::of_pair(pair, world)).collect()
    }

    /// A disaster takeover may have lost what hosts were told: what the new primary holds counts from here on.
    pub fn forget_told(&mut self, me: usize) {
        for ((pair, lba), told) in &mut self.told {
            let disk = self.systems[me].disks.get(&VolumeId(*pair as u32 + 1));
            *told = (disk.map_or(0, |disk| disk.block(*lba)[0]), Vec::new());
        }
    }

    /// The operator says how the system would be a primary.
    pub fn way_back(&mut self, me: usize) {
        let config = self.as_primary(me);
        self.systems[me].engine.as_mut().expect("a system that is up").offer_primary(group(), config);
    }

    fn as_primary(&self, me: usize) -> primary::GroupConfig {
        primary::GroupConfig {
            name: NAME.into(),
            scope: self.scope,
            link: LinkId(0),
            remote: SystemId::of_key(&public_of(&self.systems[1 - me].key)),
            throttle_ms_max: 10,
            buffer_bytes: if self.has_spill { 128 << 10 } else { 8 << 20 },
            overflow: Overflow::Throttle,
            spill: self
                .has_spill
                .then_some((SPILL, Geometry { blocks: SPILL_BYTES / BLOCK as u64, block_bytes: BLOCK as u32 })),
            copy_bytes_per_s: None,
        }
    }

    /// The system's operator has not said how it would be a primary.
    pub fn no_way_back(&mut self, me: usize) {
        self.systems[me].engine.as_mut().expect("a system that is up").withdraw_primary(group());
    }

    pub fn as_secondary(&self) -> secondary::GroupConfig {
        secondary::GroupConfig {
            name: NAME.into(),
            journal: JOURNAL,
            journal_geometry: Geometry { blocks: JOURNAL_BYTES / BLOCK as u64, block_bytes: BLOCK as u32 },
            overlay: None,
            apply_delay_ns: 0,
        }
    }

    /// Never two primaries that serve hosts of one generation chain: both may be primaries only while one of them is
    /// fenced, or does not know yet of the other's disaster takeover.
    fn check(&mut self) {
        for me in 0..2 {
            let system = &self.systems[me];
            // A process that dies now is found by its next start to be handing over: no host may have written since.
            let note = system.durable_meta.get(&format!("primary/handover/{:016x}", group().0));
            let is_noted = note.is_some_and(|note| !note.is_empty());
            let is_primary = self.role(me) == Some(Role::Primary);
            assert!(!(is_noted && is_primary && self.serves(me)), "zero loss: hosts write while metadata hands over");
        }
        let serving = (0..2).filter(|me| self.serves(*me)).count();
        if serving == 2 {
            assert!(self.disaster(), "never two primaries: both serve hosts\n{}", self.describe());
        }
    }

    /// Whether a disaster takeover or an abandoned swap has made both serve: allowed by an operator's word only.
    fn disaster(&self) -> bool {
        ["takeover begins", "swap abandoned"].iter().any(|word| (0..2).any(|me| self.has_logged(me, word)))
    }

    /// Whether a system knows of a session with the other one.
    pub fn link_is_up(&self, me: usize) -> bool {
        self.systems[me].engine.as_ref().is_some_and(|engine| engine.link_is_up(LinkId(0)))
    }

    /// Whether hosts' writes would be taken here.
    pub fn serves(&mut self, me: usize) -> bool {
        self.systems[me].engine.as_ref().is_some_and(|engine| engine.serves_hosts(group()))
    }

    /// Both volumes hold, block by block, what hosts were told is written.
    pub fn assert_equal(&mut self) {
        for pair in 0..self.pairs.len() {
            let volume = VolumeId(pair as u32 + 1);
            for lba in 0..BLOCKS {
                let blocks =
                    [0, 1].map(|me| self.systems[me].disks.get(&volume).map_or([0; BLOCK], |disk| disk.block(lba)));
                assert_eq!(blocks[0][0], blocks[1][0], "pair {pair} block {lba} differs\n{}", self.describe());
            }
        }
    }

    /// Zero loss: at this system every write that was answered is there (or a later one that was not).
    pub fn assert_told(&mut self, me: usize) {
        for ((pair, lba), (value, others)) in self.told.clone() {
            let disk = self.systems[me].disks.get(&VolumeId(pair as u32 + 1));
            let found = disk.map_or(0, |disk| disk.block(lba)[0]);
            assert!(
                found == value || others.contains(&found),
                "an answered write is lost: pair {pair} block {lba} holds {found}, told {value} {others:?}\n{}",
                self.describe()
            );
        }
    }
}
