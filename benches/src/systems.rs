//! Two systems in one thread: both engines with a real arena, volumes and journals in memory, and a network that neither
//! loses nor delays. What is left is what the engines cost.

use crate::processor_time;
use longrun_copy::engine::{Engine, EngineConfig, OperatorError};
use longrun_copy::link::{LinkConfig, Security, public_of};
use longrun_copy::ports::{
    Event, HostError, HostIo, HostToken, LocalIo, LocalToken, Memory, MetaToken, OperatorAnswer, Ports, Ticket,
};
use longrun_copy::primary::{self, PrimaryConfig};
use longrun_copy::secondary::{self, SecondaryConfig};
use longrun_copy::types::{
    Extent, Geometry, GroupId, Initial, LinkId, Mono, Now, Overflow, PairId, PairState, Scope, SystemId, Time, VolumeId,
};
use longrun_hal::arena::{Arena, ArenaConfig, Buf, Shared};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Bytes of a volume's block, and of every write.
pub const BLOCK_BYTES: usize = 4096;
/// Of all volumes together, so that streams differ in nothing but their number.
const BLOCKS_ALL: usize = 16 << 10;
const JOURNAL: VolumeId = VolumeId(u32::MAX);
const JOURNAL_BYTES: usize = 256 << 20;
const ARENA_BYTES: usize = 512 << 20;
const TURN_NS: u64 = 50_000;
/// What a host has outstanding.
const DEPTH: usize = 128;

/// The engines' kind of memory; never made.
pub enum ArenaMemory {}

impl Memory for ArenaMemory {
    type Buf = Buf;
    type Shared = Shared;

    fn alloc(&mut self, _: usize) -> Option<Buf> {
        match *self {}
    }

    fn freeze(&mut self, _: Buf, _: usize) -> Shared {
        match *self {}
    }
}

/// What an engine sees.
struct World {
    arena: Arena,
    /// Of each volume.
    blocks: u64,
    disks: BTreeMap<VolumeId, Vec<u8>>,
    done: Vec<(LocalToken, Option<Buf>)>,
    meta: BTreeMap<String, Vec<u8>>,
    persisted: Vec<MetaToken>,
    sent: Vec<(Buf, usize)>,
    answered: Vec<HostToken>,
    failures: Vec<String>,
}

impl Memory for World {
    type Buf = Buf;
    type Shared = Shared;

    fn alloc(&mut self, bytes: usize) -> Option<Buf> {
        self.arena.alloc(bytes)
    }

    fn freeze(&mut self, mut buf: Buf, bytes: usize) -> Shared {
        buf.truncate(bytes);
        buf.freeze()
    }
}

fn bytes_of(extent: Extent) -> std::ops::Range<usize> {
    extent.lba as usize * BLOCK_BYTES..extent.end() as usize * BLOCK_BYTES
}

impl Ports for World {
    fn local(&mut self, volume: VolumeId, io: LocalIo<Buf, Shared>, token: LocalToken) {
        let size = if volume == JOURNAL { JOURNAL_BYTES } else { self.blocks as usize * BLOCK_BYTES };
        let disk = self.disks.entry(volume).or_insert_with(|| vec![0; size]);
        let mut back = None;
        match io {
            LocalIo::Read { extent, mut buf } => {
                buf.copy_from_slice(&disk[bytes_of(extent)]);
                back = Some(buf);
            }
            LocalIo::Write { extent, data, .. } => disk[bytes_of(extent)].copy_from_slice(&data),
            LocalIo::WriteZeroes { extent, .. } | LocalIo::Unmap { extent } => disk[bytes_of(extent)].fill(0),
            LocalIo::Flush => {}
        }
        self.done.push((token, back));
    }

    fn complete_host(&mut self, token: HostToken, outcome: Result<(), HostError>, _: Option<Buf>) {
        self.failures.extend(outcome.err().map(|error| error.to_string()));
        self.answered.push(token);
    }

    fn transmit(&mut self, _: LinkId, _: SocketAddr, mut train: Buf, bytes: usize, segment_bytes: usize) {
        train.truncate(bytes);
        self.sent.push((train, segment_bytes));
    }

    fn persist(&mut self, key: &str, value: &[u8], token: MetaToken) {
        self.meta.insert(key.to_owned(), value.to_owned());
        self.persisted.push(token);
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.meta.get(key).cloned()
    }

    fn volume_blocks(&self, _: VolumeId) -> Option<u64> {
        Some(self.blocks)
    }

    fn answer_operator(&mut self, _: Ticket, answer: Result<OperatorAnswer, OperatorError>) {
        self.failures.extend(answer.err().map(|error| error.to_string()));
    }

    fn log(&mut self, _: std::fmt::Arguments<'_>) {}
}

struct System {
    engine: Engine<ArenaMemory>,
    world: World,
    busy: Duration,
}

/// How the two are set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What a sequence number counts.
    pub scope: Scope,
    /// Pairs, at most 16,384, which share 64 MiB of volumes; writes take turns among them.
    pub pairs: usize,
    /// Whether datagrams are sealed.
    pub security: Security,
}

/// What a number of writes cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// The primary system's processor time.
    pub primary: Duration,
    /// The secondary system's.
    pub secondary: Duration,
}

/// A primary system and its secondary.
pub struct Systems {
    systems: [System; 2],
    pairs: Vec<PairId>,
    /// Of each volume.
    blocks: u64,
    at: u64,
    written: u64,
}

const NAME: &str = "g";

fn key(me: usize) -> [u8; 32] {
    [me as u8 + 7; 32]
}

fn system_id(me: usize) -> SystemId {
    SystemId::of_key(&public_of(&key(me)))
}

fn address(me: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, me as u8 + 1], 4420))
}

impl Systems {
    /// Both started, all pairs in PAIR.
    ///
    /// # Panics
    /// If they do not get there.
    pub fn new(setup: Setup) -> Systems {
        let streams_max = setup.pairs.max(1);
        let blocks = (BLOCKS_ALL / streams_max) as u64;
        let system = |me: usize| {
            let mut engine = Engine::new(EngineConfig {
                primary: PrimaryConfig::new(system_id(me)),
                secondary: SecondaryConfig {
                    receive_bytes: (64 << 20) + streams_max as u64 * (2 << 20),
                    streams_max,
                    ..SecondaryConfig::default()
                },
                seed: [me as u8; 32],
            });
            let mut link = LinkConfig::new(key(me), public_of(&key(1 - me)), Some(address(1 - me)));
            link.security = setup.security;
            engine.link_create(link).expect("the link's configuration is whole");
            let arena = Arena::new(ArenaConfig::new(ARENA_BYTES)).expect("memory for an arena");
            let world = World {
                arena,
                blocks,
                disks: BTreeMap::new(),
                done: Vec::new(),
                meta: BTreeMap::new(),
                persisted: Vec::new(),
                sent: Vec::new(),
                answered: Vec::new(),
                failures: Vec::new(),
            };
            System { engine, world, busy: Duration::ZERO }
        };
        let group = GroupId::of_name(NAME);
        let names: Vec<String> = (0..setup.pairs).map(|pair| format!("p{pair}")).collect();
        let pairs = names.iter().map(|name| PairId::of_name(group, name)).collect();
        let mut both = Systems { systems: [system(0), system(1)], pairs, blocks, at: 1_000_000_000, written: 0 };
        let now = both.now();
        let geometry = Geometry { blocks, block_bytes: BLOCK_BYTES as u32 };
        let [first, second] = &mut both.systems;
        {
            let (roles, mut world) = second.engine.secondary(&mut second.world);
            let journal_blocks = (JOURNAL_BYTES / BLOCK_BYTES) as u64;
            let config = secondary::GroupConfig {
                name: NAME.into(),
                journal: JOURNAL,
                journal_geometry: Geometry { blocks: journal_blocks, block_bytes: BLOCK_BYTES as u32 },
                overlay: None,
                apply_delay_ns: 0,
            };
            roles.group_create(now, config, &mut world).expect("the secondary's group");
            for (index, name) in names.iter().enumerate() {
                let config = secondary::PairConfig {
                    group: NAME.into(),
                    name: name.clone(),
                    volume: VolumeId(index as u32),
                    volume_name: String::new(),
                    geometry,
                    initial: Initial::Identical,
                    volatile: false,
                };
                roles.pair_create(now, config, Ticket(index as u64), &mut world).expect("the secondary's pair");
            }
        }
        {
            let (roles, mut world) = first.engine.primary(&mut first.world);
            let config = primary::GroupConfig {
                name: NAME.into(),
                scope: setup.scope,
                link: LinkId(0),
                remote: system_id(1),
                throttle_ms_max: 1000,
                buffer_bytes: 64 << 20,
                overflow: Overflow::Throttle,
                spill: None,
                copy_bytes_per_s: None,
            };
            roles.group_create(now, config, &mut world).expect("the primary's group");
            for (index, name) in names.iter().enumerate() {
                let config = primary::PairConfig {
                    group,
                    name: name.clone(),
                    volume: VolumeId(index as u32),
                    geometry,
                    remote_volume: String::new(),
                    initial: Initial::Identical,
                    volatile: false,
                };
                roles.pair_create(now, config, Ticket(index as u64), &mut world).expect("the primary's pair");
            }
        }
        for _ in 0..1_000_000 {
            both.turn();
            let (roles, world) = both.systems[0].engine.primary(&mut both.systems[0].world);
            let status = roles.group_status(now, group, &world);
            if status.is_some_and(|status| status.state == PairState::Pair && status.pairs.len() == names.len()) {
                both.write(64 * DEPTH as u64);
                return both;
            }
        }
        panic!("the pairs never reached PAIR: {:?}", both.systems.map(|system| system.world.failures));
    }

    fn now(&self) -> Now {
        Now { time: Time(self.at), mono: Mono(self.at), lease: Time(u64::MAX), error_bound_ns: 1000 }
    }

    fn backlog(&mut self) -> u64 {
        let now = self.now();
        let (roles, world) = self.systems[0].engine.primary(&mut self.systems[0].world);
        roles.group_status(now, GroupId::of_name(NAME), &world).map_or(0, |status| status.backlog.records)
    }

    /// So many writes, spread over the volumes, [`DEPTH`] at a time; ends when the secondary has said of all that they are
    /// durable.
    ///
    /// # Panics
    /// If one fails.
    pub fn write(&mut self, count: u64) -> Cost {
        let before = self.systems.each_ref().map(|system| system.busy);
        let mut outstanding = 0;
        let mut left = count;
        let mut turns = 0;
        loop {
            if left == 0 && outstanding == 0 {
                // Asked rarely: the answer costs more than a write.
                if turns % 16 == 0 && self.backlog() == 0 {
                    break;
                }
            }
            let batch = left.min((DEPTH - outstanding) as u64);
            let now = self.now();
            let begun = processor_time();
            for _ in 0..batch {
                let System { engine, world, .. } = &mut self.systems[0];
                let (turn, pair) = (self.written / self.pairs.len() as u64, self.written % self.pairs.len() as u64);
                let pair = self.pairs[pair as usize];
                let extent = Extent { lba: (turn * 7919) % self.blocks, blocks: 1 };
                let Some(mut buf) = world.arena.alloc(BLOCK_BYTES) else { break };
                buf[..8].copy_from_slice(&self.written.to_le_bytes());
                self.written += 1;
                let io = HostIo::Write { extent, data: buf.freeze(), fua: false };
                engine.handle(now, Event::Host { pair, io, token: HostToken(self.written) }, world);
                left -= 1;
                outstanding += 1;
            }
            self.systems[0].busy += processor_time() - begun;
            self.turn();
            outstanding -= self.systems[0].world.answered.drain(..).count();
            turns += 1;
            assert!(turns < 1_000_000, "stuck with {outstanding} of {count} writes, {left} not begun");
        }
        assert!(self.systems[0].world.failures.is_empty(), "{:?}", self.systems[0].world.failures);
        let [primary, secondary] = [0, 1].map(|me| self.systems[me].busy - before[me]);
        Cost { primary, secondary }
    }

    fn turn(&mut self) {
        self.at += TURN_NS;
        let now = self.now();
        for me in 0..2 {
            let arrived = std::mem::take(&mut self.systems[1 - me].world.sent);
            let System { engine, world, busy } = &mut self.systems[me];
            let begun = processor_time();
            for (mut train, segment_bytes) in arrived {
                let event =
                    Event::Datagrams { link: LinkId(0), from: address(1 - me), train: &mut train, segment_bytes };
                engine.handle(now, event, world);
            }
            while !world.done.is_empty() || !world.persisted.is_empty() {
                for (token, buf) in std::mem::take(&mut world.done) {
                    engine.handle(now, Event::LocalDone { token, result: Ok(()), buf }, world);
                }
                for token in std::mem::take(&mut world.persisted) {
                    engine.handle(now, Event::Persisted { token }, world);
                }
            }
            engine.handle(now, Event::Turn, world);
            *busy += processor_time() - begun;
        }
    }
}
