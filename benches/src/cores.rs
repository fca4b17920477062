//! Two systems, all of the program below the hosts' connections: [`Core`] with its block layer, replica devices, engine and a
//! link, on volumes in memory. The link is a [`wire`], where a datagram costs its sender no more
//! than to name it; what carries it on, in memory of its own, is not counted. The secondary has
//! one core, the primary as many as its link is on beside the group's. All take turns in one thread; what each of the
//! primary's cores was at work is counted, so this machine need not have as many processors.

use crate::processor_time;
use longrun_bdev::catalog::{Catalog, Spec};
use longrun_bdev::replica::{Wire, wire};
use longrun_bdev::{BdevId, Core, Io, IoDone};
use longrun_copy::engine::{Crossing, EngineConfig};
use longrun_copy::link::{LinkConfig, Security, Strand, public_of};
use longrun_copy::ports::{CoreId, Ticket};
use longrun_copy::primary::{self, PrimaryConfig};
use longrun_copy::secondary::{self, SecondaryConfig};
use longrun_copy::types::{
    Extent, Geometry, GroupId, Initial, LinkId, Mono, Now, Overflow, PairState, Scope, SystemId, Time, VolumeId,
};
use longrun_hal::{Arena, ArenaConfig, Buf, Shared, Uring, UringConfig};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use uuid::Uuid;

/// Bytes of a volume's block, and of every write.
pub const BLOCK_BYTES: usize = 4096;
/// Blocks of all volumes of a system together: far more than caches hold.
pub const BLOCKS_ALL: u64 = 64 << 10;
/// What hosts have outstanding.
pub const DEPTH: u64 = 128;
/// From one write to the next: odd, so that every block comes, and far, so that none is in the cache.
pub const STRIDE: u64 = 6151;
/// What a turn takes by the systems' clock.
const TURN_NS: u64 = 100_000;
/// Writes after which the secondary has its turns: about what is under way when it has a processor of its own.
const BURST: u64 = 8 * DEPTH;
const ARENA_BYTES: usize = 512 << 20;
const AID_ARENA_BYTES: usize = 64 << 20;
const NETWORK_BYTES: usize = 64 << 20;
const JOURNAL_BYTES: u64 = 256 << 20;
const GROUP: &str = "g";

/// How the two are set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What a sequence number counts.
    pub scope: Scope,
    /// Pairs; writes take turns among them. None: the same volumes without a copy.
    pub pairs: u64,
    /// Whether datagrams are sealed.
    pub security: Security,
    /// Length of the longest datagram.
    pub mtu_bytes: usize,
    /// The primary's cores that its link is on, a strand on each; the group is on core 0.
    pub link_cores: &'static [usize],
}

/// A core of a system that has links alone.
struct Aid {
    core: Core,
    uring: Uring,
}

/// What one core says to another.
type Word = Crossing<Buf, Shared>;

struct System {
    core: Core,
    uring: Uring,
    /// Its further cores.
    aids: Vec<Aid>,
    /// What was said to each core and not heard yet.
    words: Vec<VecDeque<Word>>,
    /// What each core was at work for.
    busy: Vec<Duration>,
    /// The link, as the group knows it.
    link: LinkId,
    /// What hosts write to.
    targets: Vec<BdevId>,
    /// What the engine holds, and its size.
    volumes: Vec<(VolumeId, Geometry)>,
    ended: Vec<IoDone>,
}

/// A primary and its secondary.
pub struct Cores {
    systems: [System; 2],
    setup: Setup,
    /// Between each strand's ends: what the first system's comes to, and what the second's does.
    network: Vec<[Wire; 2]>,
    /// What is on its way.
    memory: Arena,
    payload: Vec<u8>,
    /// Kept for its storage.
    buffers: Vec<Buf>,
    at: u64,
    written: u64,
    place: u64,
}

fn key(me: usize) -> [u8; 32] {
    [me as u8 + 7; 32]
}

fn system_id(me: usize) -> SystemId {
    SystemId::of_key(&public_of(&key(me)))
}

fn name_of(pair: u64) -> String {
    format!("p{pair}")
}

impl System {
    fn new(me: usize, setup: &Setup) -> System {
        let arena = Arena::new(ArenaConfig::new(ARENA_BYTES)).expect("memory for an arena");
        let streams_max = setup.pairs.max(1) as usize;
        let secondary = SecondaryConfig {
            receive_bytes: (64 << 20) + streams_max as u64 * (2 << 20),
            streams_max,
            ..SecondaryConfig::default()
        };
        let config = EngineConfig { primary: PrimaryConfig::new(system_id(me)), secondary, seed: [me as u8 + 3; 32] };
        let uring = Uring::new(UringConfig::with_entries(256), None).expect("a ring");
        let core = Core::new(arena, config.clone(), BTreeMap::new());
        let further = if me == 0 { setup.link_cores.iter().copied().max().unwrap_or(0) } else { 0 };
        let aid = |core: usize| {
            let arena = Arena::new(ArenaConfig::new(AID_ARENA_BYTES)).expect("memory for an arena");
            let config = EngineConfig { seed: [core as u8 + 9; 32], ..config.clone() };
            let uring = Uring::new(UringConfig::with_entries(256), None).expect("a ring");
            Aid { core: Core::new(arena, config, BTreeMap::new()), uring }
        };
        System {
            core,
            uring,
            aids: (1..=further).map(aid).collect(),
            words: (0..=further).map(|_| VecDeque::new()).collect(),
            busy: vec![Duration::ZERO; further + 1],
            link: LinkId(0),
            targets: Vec::new(),
            volumes: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn at(&mut self, core: usize) -> (&mut Core, &mut Uring) {
        match core.checked_sub(1) {
            None => (&mut self.core, &mut self.uring),
            Some(aid) => {
                let Aid { core, uring } = &mut self.aids[aid];
                (core, uring)
            }
        }
    }

    /// Makes the link, with strands on these cores.
    fn create_link(&mut self, now: Now, cores: &[usize], link: &LinkConfig, wires: Vec<Wire>) {
        let made: Vec<(usize, LinkId)> = cores
            .iter()
            .zip(wires)
            .enumerate()
            .map(|(index, (&core, wire))| {
                let strand = Strand { index: index as u8, of: cores.len() as u8 };
                let link = LinkConfig { strand, ..link.clone() };
                (core, self.at(core).0.link_wire(link, wire).expect("the link's configuration is whole"))
            })
            .collect();
        let id = |core: usize| CoreId(core as u16);
        // The first strand's core ties them together, and the group's uses them.
        let knows: Vec<(usize, Vec<LinkId>, LinkId)> = BTreeSet::from([0, cores[0]])
            .into_iter()
            .map(|here| {
                let (core, uring) = self.at(here);
                core.operate(now, uring, |engine, _| {
                    let reach = |&(core, link): &(usize, LinkId)| match core == here {
                        true => link,
                        false => engine.link_reach(id(here), id(core), link),
                    };
                    let known: Vec<LinkId> = made.iter().map(reach).collect();
                    let link = if let [only] = known[..] { only } else { engine.link_bind(id(here), known.clone()) };
                    (here, known, link)
                })
            })
            .collect();
        for (here, known, _) in &knows {
            for (&(core, link), &there) in made.iter().zip(known).filter(|((core, _), _)| core != here) {
                let (core, uring) = self.at(core);
                core.operate(now, uring, |engine, world| engine.link_serve(link, id(*here), there, world));
            }
        }
        self.link = knows[0].2;
        if let (home, [first, ..], Some((_, _, knot))) = (cores[0], &made[..], knows.get(1)) {
            let (link, group) = (self.link, GroupId::of_name(GROUP));
            let (core, uring) = self.at(home);
            core.operate(now, uring, |engine, world| {
                engine.link_bind_serve(*knot, id(0), link, world);
                engine.link_route(first.1, group, Some(id(0)));
            });
        }
    }

    fn create(&mut self, catalog: &mut Catalog, spec: Spec) -> BdevId {
        let device = catalog.create(spec, 0).expect("memory for a device").device;
        let bdev = device.id();
        self.core.install(device);
        bdev
    }

    fn create_volumes(&mut self, catalog: &mut Catalog, pairs: u64) {
        let num_blocks = BLOCKS_ALL / pairs.max(1);
        for pair in 0..pairs.max(1) {
            let name = Some(name_of(pair));
            let spec = Spec::Malloc { name, num_blocks, block_size: BLOCK_BYTES as u32, uuid: None };
            let base = self.create(catalog, spec);
            self.volumes.push(self.core.volume(base).expect("just installed"));
            let target = match pairs {
                0 => base,
                _ => {
                    let (name, base_name) = (format!("r{pair}"), name_of(pair));
                    let (group, uuid) = (GROUP.to_owned(), Uuid::from_u128(u128::from(pair) + 1));
                    let spec = Spec::Replica { name, base_name, group, pair: name_of(pair), uuid };
                    self.create(catalog, spec)
                }
            };
            self.targets.push(target);
        }
    }

    /// The end of a turn of each core, as a reactor makes it. What is to be durable is, at once.
    fn turn(&mut self, now: Now) {
        for number in 0..self.words.len() {
            let mut words = std::mem::take(&mut self.words[number]);
            let begun = processor_time();
            let (core, uring) = self.at(number);
            for word in words.drain(..) {
                core.crossed(now, uring, word);
            }
            core.gather();
            core.turn(now, uring);
            if number == 0 {
                self.core.drain(&mut self.ended);
            }
            self.busy[number] += processor_time() - begun;
            self.words[number] = words;
            self.empty_outbox(now, number);
        }
    }

    fn empty_outbox(&mut self, now: Now, number: usize) {
        let (core, uring) = self.at(number);
        let outbox = core.outbox();
        let crossings = std::mem::take(&mut outbox.crossings);
        if !outbox.is_empty() {
            outbox.lines.clear();
            for (_, answer) in outbox.answers.drain(..) {
                answer.expect("what an operator asked for");
            }
            for persist in std::mem::take(&mut outbox.persists) {
                core.persisted(now, uring, persist.token);
            }
        }
        for (to, word) in crossings {
            self.words[usize::from(to.0)].push_back(word);
        }
    }
}

impl Cores {
    /// Both started, all pairs in PAIR.
    ///
    /// # Panics
    /// If they do not get there.
    pub fn new(setup: Setup) -> Cores {
        let address = |me: u8, strand: u16| SocketAddr::from(([10, 0, 0, me + 1], 4420 + strand));
        let mut systems = [0, 1].map(|me| System::new(me, &setup));
        let mut wires = [Vec::new(), Vec::new()];
        let mut network = Vec::new();
        for strand in 0..setup.link_cores.len() as u16 {
            let addresses = [address(0, strand), address(1, strand)];
            let [first, near] = wire(addresses, 4096);
            let [far, second] = wire(addresses, 4096);
            wires[0].push(first);
            wires[1].push(second);
            network.push([near, far]);
        }
        let start = Now { time: Time(1), mono: Mono(1), lease: Time(u64::MAX), error_bound_ns: 1000 };
        for (me, (system, wires)) in systems.iter_mut().zip(wires).enumerate() {
            let mut catalog = Catalog::new();
            system.create_volumes(&mut catalog, setup.pairs);
            if setup.pairs > 0 {
                let mut link = LinkConfig::new(key(me), public_of(&key(1 - me)), Some(address(1 - me as u8, 0)));
                (link.security, link.mtu_bytes) = (setup.security, setup.mtu_bytes);
                let cores: Vec<usize> = setup.link_cores.iter().map(|core| if me == 0 { *core } else { 0 }).collect();
                system.create_link(start, &cores, &link, wires);
            }
            if me == 1 && setup.pairs > 0 {
                let (name, num_blocks) = (Some("journal".to_owned()), JOURNAL_BYTES / BLOCK_BYTES as u64);
                let spec = Spec::Malloc { name, num_blocks, block_size: BLOCK_BYTES as u32, uuid: None };
                let journal = system.create(&mut catalog, spec);
                system.volumes.push(system.core.volume(journal).expect("just installed"));
            }
        }
        let payload = (0..BLOCK_BYTES).map(|at| (at * 7) as u8).collect();
        let memory = Arena::new(ArenaConfig::new(NETWORK_BYTES)).expect("memory for an arena");
        let mut cores = Cores {
            systems,
            setup,
            network,
            memory,
            payload,
            buffers: Vec::new(),
            at: 1_000_000_000,
            written: 0,
            place: 0,
        };
        if setup.pairs > 0 {
            cores.pair();
        }
        // Until windows, tables and buffers are as large as they get.
        cores.write(128 * BURST);
        cores
    }

    fn pair(&mut self) {
        let (now, setup) = (self.now(), self.setup);
        let [first, second] = &mut self.systems;
        let group = GroupId::of_name(GROUP);
        let (journal, journal_geometry) = *second.volumes.last().expect("the journal");
        let System { core, uring, volumes, .. } = second;
        core.operate(now, uring, |engine, world| {
            let (roles, mut world) = engine.secondary(world);
            let (name, overlay, apply_delay_ns) = (GROUP.to_owned(), None, 0);
            let config = secondary::GroupConfig { name, journal, journal_geometry, overlay, apply_delay_ns };
            roles.group_create(now, config, &mut world).expect("the secondary's group");
            for pair in 0..setup.pairs {
                let (volume, geometry) = volumes[pair as usize];
                let config = secondary::PairConfig {
                    group: GROUP.to_owned(),
                    name: name_of(pair),
                    volume,
                    volume_name: String::new(),
                    geometry,
                    initial: Initial::Identical,
                    volatile: false,
                };
                roles.pair_create(now, config, Ticket(pair), &mut world).expect("the secondary's pair");
            }
        });
        let System { core, uring, volumes, link, .. } = first;
        core.operate(now, uring, |engine, world| {
            let (roles, mut world) = engine.primary(world);
            let config = primary::GroupConfig {
                name: GROUP.to_owned(),
                scope: setup.scope,
                link: *link,
                remote: system_id(1),
                throttle_ms_max: 1000,
                buffer_bytes: 128 << 20,
                overflow: Overflow::Throttle,
                spill: None,
                copy_bytes_per_s: None,
            };
            roles.group_create(now, config, &mut world).expect("the primary's group");
            for pair in 0..setup.pairs {
                let (volume, geometry) = volumes[pair as usize];
                let config = primary::PairConfig {
                    group,
                    name: name_of(pair),
                    volume,
                    geometry,
                    remote_volume: String::new(),
                    initial: Initial::Identical,
                    volatile: false,
                };
                roles.pair_create(now, config, Ticket(pair), &mut world).expect("the primary's pair");
            }
        });
        for _ in 0..1_000_000 {
            self.turn_primary();
            self.turn_secondary();
            let now = self.now();
            let System { core, uring, .. } = &mut self.systems[0];
            let status = core.operate(now, uring, |engine, world| {
                let (roles, world) = engine.primary(world);
                roles.group_status(now, group, &world)
            });
            let is_pair = |status: &primary::GroupStatus| status.state == PairState::Pair;
            if status.is_some_and(|status| is_pair(&status) && status.pairs.len() as u64 == setup.pairs) {
                return;
            }
        }
        panic!("the pairs never reached PAIR");
    }

    fn now(&self) -> Now {
        Now { time: Time(self.at), mono: Mono(self.at), lease: Time(u64::MAX), error_bound_ns: 1000 }
    }

    fn turn_primary(&mut self) {
        self.at += TURN_NS;
        let now = self.now();
        self.systems[0].turn(now);
        self.carry();
    }

    #[inline(never)]
    fn turn_secondary(&mut self) {
        let now = self.now();
        self.systems[1].turn(now);
        self.carry();
    }

    fn carry(&mut self) {
        for [near, far] in &mut self.network {
            near.carry(far, &self.memory);
            far.carry(near, &self.memory);
        }
    }

    /// How many records the primary keeps for the link.
    fn backlog(&mut self) -> u64 {
        let now = self.now();
        let System { core, uring, .. } = &mut self.systems[0];
        core.operate(now, uring, |engine, world| {
            let (roles, world) = engine.primary(world);
            roles.group_status(now, GroupId::of_name(GROUP), &world).map_or(0, |status| status.backlog.records)
        })
    }

    /// So many writes, spread over the volumes, [`DEPTH`] at a time; ends when the secondary has said of all that they are
    /// durable. What they took of the processor at the busiest of the primary's cores: buffers taken and given back, the
    /// requests to their ends, frames, acknowledgements. Not counted: filling the buffers (as the network's part of the kernel
    /// does), and all of the secondary.
    ///
    /// # Panics
    /// If one fails.
    pub fn write(&mut self, count: u64) -> Duration {
        let before = self.systems[0].busy.clone();
        let mut left = count;
        let mut turns = 0_u64;
        while left > 0 {
            let burst = left.min(BURST);
            let (mut unsent, mut outstanding) = (burst, 0);
            while unsent > 0 || outstanding > 0 {
                let batch = unsent.min(DEPTH - outstanding);
                self.submit(batch);
                unsent -= batch;
                outstanding += batch;
                outstanding -= self.drain();
                turns += 1;
                assert!(turns < 10_000_000, "stuck with {outstanding} of {left} writes");
            }
            left -= burst;
            self.secondary_catches_up();
        }
        let busy = self.systems[0].busy.iter().zip(before).map(|(now, before)| *now - before);
        busy.max().unwrap_or_default()
    }

    /// A turn of the primary that takes so many writes. Not inlined, so that a profile tells it from the rest.
    #[inline(never)]
    fn submit(&mut self, batch: u64) {
        self.at += TURN_NS;
        let now = self.now();
        let (pairs, blocks) = (self.setup.pairs.max(1), BLOCKS_ALL / self.setup.pairs.max(1));
        let System { core, uring, targets, busy, .. } = &mut self.systems[0];
        let begun = processor_time();
        for _ in 0..batch {
            self.buffers.push(core.arena().alloc(BLOCK_BYTES).expect("as much as the depth takes"));
        }
        busy[0] += processor_time() - begun;
        for buffer in &mut self.buffers {
            buffer.copy_from_slice(&self.payload);
        }
        let begun = processor_time();
        for buffer in self.buffers.drain(..) {
            self.written += 1;
            let target = targets[(self.written % pairs) as usize];
            self.place = (self.place + STRIDE) % (BLOCKS_ALL);
            let extent = Extent { lba: self.place % blocks, blocks: 1 };
            let io = Io::Write { extent, data: buffer.freeze(), fua: false };
            core.submit(now, uring, target, io, self.written);
        }
        busy[0] += processor_time() - begun;
        self.systems[0].turn(now);
        self.carry();
    }

    fn drain(&mut self) -> u64 {
        let ended = &mut self.systems[0].ended;
        assert!(ended.iter().all(|done| done.result.is_ok()), "a write failed");
        ended.drain(..).count() as u64
    }

    /// Both take turns until all that was written is durable at the secondary and the primary knows it.
    fn secondary_catches_up(&mut self) {
        if self.setup.pairs == 0 {
            return;
        }
        for turn in 0..100_000 {
            for _ in 0..4 {
                self.turn_secondary();
                self.at += TURN_NS;
            }
            self.turn_primary();
            if turn % 2 == 1 && self.backlog() == 0 {
                return;
            }
        }
        panic!("the secondary never caught up");
    }
}
