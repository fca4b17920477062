//! A core: an engine, its clocks, its memory and its metadata.

use crate::chance::Chance;
use crate::memory::{Buf, Bytes, Pool, Shared};
use longrun_copy::engine::{Engine, EngineConfig, OperatorError};
use longrun_copy::ports::{
    CoreId, HostError, HostIo, HostToken, LocalIo, LocalToken, Memory, MetaToken, OperatorAnswer, Ports, Ticket,
};
use longrun_copy::types::{Epoch, LinkId, Mono, Now, Record, RecordHead, Time, VolumeId};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

/// Names the engine's kind of memory; never made.
#[derive(Debug)]
pub enum SimMemory {}

impl Memory for SimMemory {
    type Buf = Buf;
    type Shared = Shared;

    fn alloc(&mut self, _bytes: usize) -> Option<Buf> {
        match *self {}
    }

    fn freeze(&mut self, _buf: Buf, _bytes: usize) -> Shared {
        match *self {}
    }
}

/// What an engine asked for, in order.
#[derive(Debug)]
pub enum Out {
    /// An I/O of a volume or journal.
    Local(VolumeId, LocalIo<Buf, Shared>, LocalToken),
    /// An answer to a host.
    Host(HostToken, Result<(), HostError>, Option<Buf>),
    /// Datagrams.
    Transmit { link: LinkId, to: SocketAddr, train: Buf, bytes: usize, segment_bytes: usize },
    /// Metadata.
    Persist(String, Vec<u8>, MetaToken),
    /// An answer to an operator.
    Answer(Ticket, Result<OperatorAnswer, OperatorError>),
    /// A record was stamped.
    Stamped(Epoch, RecordHead, Option<Bytes>),
    /// A word to another core of the node.
    Cross(CoreId, crate::apart::Word),
    /// A line for the log.
    Line(String),
}

/// What the engine sees of the world during a call: everything is written down and done afterwards.
pub struct Recorder {
    /// Bounded memory.
    pub pool: Rc<Pool>,
    /// Metadata as last asked to be durable.
    pub meta: BTreeMap<String, Vec<u8>>,
    /// How many blocks its devices have, as of its last look.
    pub blocks: BTreeMap<VolumeId, u64>,
    /// What was asked for.
    pub outs: Vec<Out>,
}

impl Memory for Recorder {
    type Buf = Buf;
    type Shared = Shared;

    fn alloc(&mut self, bytes: usize) -> Option<Buf> {
        self.pool.alloc(bytes)
    }

    fn freeze(&mut self, buf: Buf, bytes: usize) -> Shared {
        buf.freeze(bytes)
    }
}

impl Ports for Recorder {
    fn local(&mut self, volume: VolumeId, io: LocalIo<Buf, Shared>, token: LocalToken) {
        self.outs.push(Out::Local(volume, io, token));
    }

    fn complete_host(&mut self, token: HostToken, outcome: Result<(), HostError>, buf: Option<Buf>) {
        self.outs.push(Out::Host(token, outcome, buf));
    }

    fn transmit(&mut self, link: LinkId, to: SocketAddr, train: Buf, bytes: usize, segment_bytes: usize) {
        self.outs.push(Out::Transmit { link, to, train, bytes, segment_bytes });
    }

    fn persist(&mut self, key: &str, value: &[u8], token: MetaToken) {
        self.meta.insert(key.to_owned(), value.to_owned());
        self.outs.push(Out::Persist(key.to_owned(), value.to_owned(), token));
    }

    fn recall(&self, key: &str) -> Option<Vec<u8>> {
        self.meta.get(key).cloned()
    }

    fn answer_operator(&mut self, ticket: Ticket, answer: Result<OperatorAnswer, OperatorError>) {
        self.outs.push(Out::Answer(ticket, answer));
    }

    fn volume_blocks(&self, volume: VolumeId) -> Option<u64> {
        self.blocks.get(&volume).copied()
    }

    fn stamped(&mut self, epoch: Epoch, record: &Record<Shared>) {
        let payload = record.payload.as_ref().map(Shared::bytes);
        self.outs.push(Out::Stamped(epoch, record.head, payload));
    }

    fn cross(&mut self, to: CoreId, crossing: crate::apart::Word) {
        self.outs.push(Out::Cross(to, crossing));
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        self.outs.push(Out::Line(line.to_string()));
    }
}

/// A core's clocks: both run at rates of their own; the timeline stays within the error bound of all others'.
#[derive(Clone, Debug)]
pub struct Clock {
    base: u64,
    /// The timeline's reading is ahead of the true time by this much at the start ...
    ahead_ns: i64,
    /// ... and gains this many nanoseconds per second, until ...
    gain_ns_per_s: i64,
    /// ... it has gained or lost this much.
    gain_ns_max: i64,
    mono_ahead_ns: u64,
    mono_ppm: u64,
    error_bound_ns: u64,
    /// What operators did to the wall clock: how far it is ahead by that, and how far the timeline had followed when.
    wall_ahead_ns: i64,
    followed_ns: i64,
    followed_at: u64,
    lease: u64,
    /// Until then the lease is not renewed.
    pub lease_stalled_until: u64,
}

/// How far ahead the timeline is leased.
const LEASE_NS: u64 = 2_000_000_000;

impl Clock {
    /// A clock whose timeline is never more than half of the bound from the true time.
    pub fn new(error_bound_ns: u64, base: u64, chance: &mut Chance) -> Clock {
        let quarter = (error_bound_ns / 4) as i64;
        Clock {
            base,
            ahead_ns: chance.range(0, 2 * quarter as u64) as i64 - quarter,
            gain_ns_per_s: chance.range(0, 2000) as i64 - 1000,
            gain_ns_max: quarter,
            mono_ahead_ns: chance.range(0, 1 << 40),
            mono_ppm: chance.range(0, 100),
            error_bound_ns,
            wall_ahead_ns: 0,
            followed_ns: 0,
            followed_at: 0,
            lease: 0,
            lease_stalled_until: 0,
        }
    }

    /// Reads both at the true time `at`.
    pub fn read(&mut self, at: u64) -> Now {
        let gained = (at as i64 / 1000 * self.gain_ns_per_s / 1_000_000).clamp(-self.gain_ns_max, self.gain_ns_max);
        let time = (self.base + at).saturating_add_signed(self.ahead_ns + gained + self.followed(at));
        if at >= self.lease_stalled_until {
            self.lease = self.lease.max(time + LEASE_NS);
        }
        let mono = self.mono_ahead_ns + at + at / 1_000_000 * self.mono_ppm;
        Now { time: Time(time), mono: Mono(mono), lease: Time(self.lease), error_bound_ns: self.error_bound_ns }
    }

    /// The timeline follows the wall clock, but slowly.
    fn followed(&self, at: u64) -> i64 {
        let most = (at.saturating_sub(self.followed_at) / 2000) as i64;
        self.followed_ns + (self.wall_ahead_ns - self.followed_ns).clamp(-most, most)
    }

    /// An operator sets the wall clock.
    pub fn step_wall(&mut self, at: u64, by_ns: i64) {
        (self.followed_ns, self.followed_at) = (self.followed(at), at);
        self.wall_ahead_ns += by_ns;
    }

    /// An operator sets the wall clock so that a process that starts now begins at this time, or above its lease.
    pub fn set_wall(&mut self, at: u64, time: Time) {
        let by = time.0 as i64 - self.read(at).time.0 as i64;
        self.step_wall(at, self.followed(at) + by - self.wall_ahead_ns);
    }

    /// A process starts: its timeline begins at the wall clock, but above everything that was leased before.
    pub fn restart(&mut self, at: u64) {
        if self.lease == 0 || self.wall_ahead_ns == 0 && self.followed_ns == 0 {
            return;
        }
        (self.followed_ns, self.followed_at) = (self.wall_ahead_ns, at);
        let lease = self.lease;
        let time = self.read(at).time.0;
        if time < lease {
            self.followed_ns += (lease - time) as i64;
        }
    }

    /// A true time, not before `at`, at which the monotonic clock has reached `mono`.
    pub fn when(&self, now: Now, at: u64, mono: Mono) -> u64 {
        at + mono.since_ns(now.mono) + 1
    }
}

/// What a node has to handle in its next turn.
#[derive(Debug)]
pub enum Input {
    /// A host's request.
    Host(longrun_copy::types::PairId, HostIo<Buf, Shared>, HostToken),
    /// A request of a host of a test view.
    View(longrun_copy::types::PairId, HostIo<Buf, Shared>, HostToken),
    /// A local I/O ended.
    LocalDone(LocalToken, Result<(), i32>, Option<Buf>),
    /// Datagrams arrived.
    Datagrams { link: LinkId, from: SocketAddr, train: Vec<u8>, segment_bytes: usize },
    /// Metadata is durable.
    Persisted(MetaToken),
    /// The node's other core has said something.
    Crossed(crate::apart::Word),
}

/// A node's end of one strand of a link.
#[derive(Clone, Copy)]
pub struct End {
    /// The node at the other one.
    pub peer: usize,
    /// Which strand.
    pub strand: u8,
    /// The core that it is at home on ...
    pub core: CoreId,
    /// ... and its number there.
    pub link: LinkId,
}

/// One core.
pub struct Node {
    /// Nothing while it is down.
    pub engine: Option<Engine<SimMemory>>,
    /// What the process has of links.
    pub ends: Vec<End>,
    /// The link to each peer, as groups know it.
    pub links: BTreeMap<usize, LinkId>,
    /// Its second core, if links are there.
    pub aid: Option<Box<crate::apart::Aid>>,
    /// Its ports.
    pub ports: Recorder,
    /// Its clocks.
    pub clock: Clock,
    /// Rises at each start; what belongs to an earlier life is passed over.
    pub life: u32,
    /// What waits for its next turn.
    pub inbox: VecDeque<Input>,
    /// When its next turn is.
    pub turn_at: Option<u64>,
    /// It is in a turn, or preempted, until then.
    pub busy_until: u64,
    /// Metadata that is durable.
    pub durable_meta: BTreeMap<String, Vec<u8>>,
    /// Metadata that is being written, oldest first.
    pub writing_meta: VecDeque<(String, Vec<u8>, MetaToken)>,
    /// When the last of these will be durable.
    pub meta_until: u64,
}

impl Node {
    /// A node that is down.
    pub fn new(clock: Clock, pool: Rc<Pool>) -> Node {
        Node {
            engine: None,
            ends: Vec::new(),
            links: BTreeMap::new(),
            aid: None,
            ports: Recorder { pool, meta: BTreeMap::new(), blocks: BTreeMap::new(), outs: Vec::new() },
            clock,
            life: 0,
            inbox: VecDeque::new(),
            turn_at: None,
            busy_until: 0,
            durable_meta: BTreeMap::new(),
            writing_meta: VecDeque::new(),
            meta_until: 0,
        }
    }

    /// Starts a process.
    pub fn start(&mut self, config: EngineConfig, at: u64) {
        self.life += 1;
        self.clock.restart(at);
        self.ports.meta = self.durable_meta.clone();
        self.engine = Some(Engine::new(config));
        self.busy_until = at;
    }

    /// The process ends at once. Of the metadata being written any first part may have become durable.
    pub fn kill(&mut self, chance: &mut Chance) {
        self.engine = None;
        self.ends.clear();
        self.links.clear();
        self.aid = None;
        self.life += 1;
        self.inbox.clear();
        self.turn_at = None;
        self.ports.outs.clear();
        let kept = chance.below(self.writing_meta.len() + 1);
        for (key, value, _) in self.writing_meta.drain(..).take(kept) {
            self.durable_meta.insert(key, value);
        }
        self.meta_until = 0;
    }
}
