//! Two whole systems: engines, disks with volatile caches, metadata that lags, and a network between them. All in one
//! thread, all chance from one seed; either system may be killed between any two of its events.

mod configure;
mod disk;
mod show;
mod world;

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

pub use disk::Disk;
use world::Out;
pub use world::{Copy, TestMemory, World};

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

    /// A volume's medium gets larger, and holds something behind its end.
    pub fn enlarge(&mut self, me: usize, pair: usize, blocks: u64, value: u8) {
        let volume = VolumeId(pair as u32 + 1);
        let system = &mut self.systems[me];
        system.world.larger.insert(volume, blocks);
        let disk = system.disks.entry(volume).or_default();
        (BLOCKS..blocks).step_by(3).for_each(|lba| disk.put(lba, content(value), true));
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

    /// The system's operator has not said how it would be a primary.
    pub fn no_way_back(&mut self, me: usize) {
        self.systems[me].engine.as_mut().expect("a system that is up").withdraw_primary(group());
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
}
