//! The world: one queue of events in virtual time, and everything that happens in it.

use crate::aim::{Aim, Forced};
use crate::apart::GROUPS;
use crate::chance::{Chance, mix};
use crate::coverage::{Coverage, Hit, Standing, State};
use crate::disk::{Disk, DiskIo, Loss};
use crate::history::History;
use crate::host::{Client, Op};
use crate::memory::Pool;
use crate::node::{Clock, End, Input, Node, Out};
use crate::plan::{Fault, Plan};
use crate::report::Totals;
use longrun_copy::engine::OperatorError;
use longrun_copy::ports::{CoreId, Event, LocalIo, LocalToken, OperatorAnswer};
use longrun_copy::takeover::LossCertificate;
use longrun_copy::types::{Epoch, Geometry, GroupId, LinkId, Now, PairId, Seq, Stamp, StreamId, Time, VolumeId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;

/// The timelines begin here.
const EPOCH_NS: u64 = 1_700_000_000_000_000_000;

/// Datagrams on their way.
pub struct Letter {
    /// The sender.
    pub node: usize,
    /// The strand they go by.
    pub strand: u8,
    /// As they are.
    pub train: Vec<u8>,
    /// The length of each but the last.
    pub segment_bytes: usize,
}

/// What happens next.
pub enum What {
    /// A node's turn, if it is still due then.
    Turn(usize),
    /// Something for a node's inbox, if it still lives the same life.
    Input(usize, u32, Input),
    /// A turn of a node's second core, if it is still due then.
    AidTurn(usize, u32),
    /// A word reaches one of a node's two cores.
    Cross(usize, u32, CoreId, Box<crate::apart::Word>),
    /// Datagrams reach a node, whatever its life.
    Arrive(usize, Letter),
    /// A disk operation takes effect.
    DiskEffect(usize, u32, VolumeId, u64),
    /// A disk operation ends.
    DiskDone(usize, u32, VolumeId, u64, LocalToken),
    /// A node's oldest metadata write is durable.
    MetaDone(usize, u32),
    /// A client issues its next request.
    Client(usize),
    /// A client hears of a request.
    Answer(usize, crate::host::HostAnswer),
    /// The next fault.
    Fault,
    /// A node is started again, if it is down.
    Start(usize),
    /// Hosts of two sites that exchange their parts write.
    Exchange,
    /// Something becomes larger.
    Grow,
    /// Something is altered, or compared.
    Verify,
    /// Something happens to a test view.
    View,
    /// The fault that a directed world is for happens to a node's group.
    Shot(usize, usize),
    /// An operator asks again for a pair, with this ticket.
    Create(u64),
}

struct Entry {
    at: u64,
    serial: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// A pair as the operators know it.
pub struct PairInfo {
    pub group: usize,
    pub primary: usize,
    pub id: PairId,
    pub name: String,
    pub primary_volume: VolumeId,
    pub secondary_volume: VolumeId,
    /// As hosts see it.
    pub geometry: Geometry,
    /// The sizes that it had and has.
    pub sizes: Vec<crate::growth::Size>,
    /// The life of its primary in which hosts last saw its size.
    pub sized_in: u32,
    /// Its primary was told that its first copy is complete, or it needed none.
    pub is_copied: bool,
}

/// A group as the outside knows it.
pub struct GroupInfo {
    pub name: String,
    pub id: GroupId,
    pub journal: VolumeId,
    pub overlay: Option<VolumeId>,
    /// By name: the times that were given out.
    pub bookmarks: BTreeMap<String, Vec<Time>>,
    pub history: History,
    /// When each record was stamped, true time.
    pub stamped_at: BTreeMap<Stamp, u64>,
    /// The newest stamp of a write that a host knows to be done, or has read.
    pub known: Option<Stamp>,
    /// The newest recovery point that the secondary ever reported.
    pub reported: Time,
    /// The same, of the process that runs now.
    pub reported_in_life: (u32, Time),
    /// The newest limit time that the secondary showed.
    pub limit: Time,
    /// A takeover was asked for, or is done.
    pub certificate: Option<LossCertificate>,
    pub takeover_begun: bool,
    /// By primary: why it no longer copies.
    pub suspended: BTreeMap<usize, (String, String)>,
    pub fenced: Vec<bool>,
    /// Bytes that were ever charged to the send buffer of each primary.
    pub charged: Vec<u64>,
    /// All suspensions that were ever seen: by primary, state and reason.
    pub was_suspended: Vec<(usize, String, String)>,
    /// At its secondary: no resync, no suspension.
    pub is_caught_up: bool,
    pub had_unit: bool,
    pub is_too_large: bool,
    /// A primary's clock is so far ahead that the secondary takes nothing of it, and says so.
    pub is_ahead: bool,
    pub unit_base: Option<Time>,
    /// Resyncs that ended: no takeover goes to a point inside.
    pub unit_spans: Vec<(Time, Time)>,
    /// What the secondary was seen to have in its journal, applied or not.
    pub journaled: BTreeMap<(StreamId, Epoch), Seq>,
    /// A bit of its journal turned over.
    pub has_rotten: bool,
    /// Its journal cannot be used any more, and it says so.
    pub has_failed: bool,
}

/// One direction between two nodes.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    pub cut_until: u64,
    pub busy_until: u64,
}

/// Passing troubles of a node.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    pub slow_until: u64,
    /// `None`: all devices of the node are slow.
    pub slow_only: Option<VolumeId>,
    pub no_memory_until: u64,
    pub sick: Vec<crate::sick::Sick>,
    pub is_shutting_down: bool,
}

/// Everything.
pub struct World {
    pub plan: Plan,
    pub chance: Chance,
    pub at: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    serial: u64,
    pub nodes: Vec<Node>,
    pub disks: BTreeMap<(usize, VolumeId), Disk>,
    pub wires: BTreeMap<(usize, usize), Wire>,
    pub trouble: Vec<Trouble>,
    /// Killed for good.
    pub is_dead: Vec<bool>,
    pub groups: Vec<GroupInfo>,
    pub pairs: Vec<PairInfo>,
    pub clients: Vec<Client>,
    pub ops: Vec<Op>,
    pub ops_left: usize,
    pub ops_answered: usize,
    pub faults_on: bool,
    /// Tickets of commands that nobody waits for, and the group that they are about.
    pub loose: BTreeMap<u64, usize>,
    pub tickets: BTreeMap<u64, Result<OperatorAnswer, OperatorError>>,
    pub next_ticket: u64,
    /// What the engine asked for in an operator's command.
    pub refused_outs: usize,
    /// Pairs and groups are being deleted and created again.
    pub are_deleted: bool,
    /// Operators' requests that are not answered: by whom they have to be.
    pub open_tickets: BTreeMap<u64, usize>,
    /// Requests that create a pair: the node that was asked, its life, and the pair.
    pub pairs_asked_for: BTreeMap<u64, (usize, u32, usize)>,
    pub totals: Totals,
    pub coverage: Coverage,
    /// By node and group: where it stands there.
    pub states: Vec<Vec<Standing>>,
    /// What a directed world does.
    pub aim: Option<Aim>,
    pub forced: Option<Forced>,
    /// Requests to devices that fail, until their system hears of that: by node, life, device and number.
    pub failing: BTreeMap<(usize, u32, VolumeId, u64), (Hit, u64)>,
    pub trace: u64,
    pub keys: Vec<[u8; 32]>,
    pub verbose: bool,
    is_loud: bool,
    /// Zeroing requests that wait for their stamp, oldest first.
    pub zeroing: BTreeMap<(usize, u64, u32, u8), std::collections::VecDeque<usize>>,
    /// By pair: what sectors of its primary volume may hold after a crash.
    pub kept: Vec<crate::local::Kept>,
    /// Primaries' writes in flight.
    pub flights: BTreeMap<(usize, VolumeId, u64), crate::local::Flight>,
    /// Writes that were submitted in the call under way.
    pub fresh: Vec<crate::local::Fresh>,
    pub forks_left: usize,
    pub fork_countdown: u64,
    /// Two sites exchange their parts, so nothing of the history before counts.
    pub exchange: Option<crate::exchange::Exchange>,
    /// So many things still go wrong in it.
    pub exchange_faults: u64,
    /// The source of chance for what operators do beside copying.
    pub aside: Chance,
    /// They do.
    pub are_asides_on: bool,
    /// What was altered in copies.
    pub altered: Vec<crate::alter::Altered>,
    /// By primary and group.
    pub verifying: BTreeMap<(usize, usize), crate::alter::Verifying>,
    /// By group.
    pub views: BTreeMap<usize, crate::view::View>,
    /// Requests to views, in flight.
    pub asked_of_views: BTreeMap<u64, crate::view::Asked>,
    pub next_of_views: u64,
    /// Answers to requests after a takeover.
    pub there: BTreeMap<u64, Result<(), longrun_copy::ports::HostError>>,
}

impl World {
    /// A world of this plan.
    pub fn with_plan(plan: Plan, mut chance: Chance, verbose: bool) -> World {
        let count = plan.primaries + 1;
        let nodes = (0..count)
            .map(|_| Node::new(Clock::new(plan.error_bound_ns, EPOCH_NS, &mut chance), Pool::new(plan.pool_bytes)))
            .collect();
        let keys = (0..count).map(|_| chance.bytes()).collect();
        let forks = plan.forks;
        World {
            at: 1_000_000_000,
            queue: BinaryHeap::new(),
            serial: 0,
            nodes,
            disks: BTreeMap::new(),
            wires: BTreeMap::new(),
            trouble: vec![Trouble::default(); count],
            is_dead: vec![false; count],
            groups: Vec::new(),
            pairs: Vec::new(),
            clients: Vec::new(),
            ops: Vec::new(),
            ops_left: plan.ops,
            ops_answered: 0,
            faults_on: false,
            loose: Default::default(),
            tickets: BTreeMap::new(),
            next_ticket: 1,
            refused_outs: 0,
            are_deleted: false,
            pairs_asked_for: BTreeMap::new(),
            open_tickets: BTreeMap::new(),
            totals: Totals::default(),
            coverage: Coverage::default(),
            states: vec![vec![Standing::default(); plan.groups]; count],
            aim: plan.aim.map(Aim::new),
            forced: None,
            failing: BTreeMap::new(),
            trace: 0,
            keys,
            verbose,
            is_loud: verbose && std::env::var_os("SIM_LOUD").is_some(),
            zeroing: BTreeMap::new(),
            kept: Vec::new(),
            flights: BTreeMap::new(),
            fresh: Vec::new(),
            forks_left: forks,
            fork_countdown: 200,
            exchange: None,
            exchange_faults: 0,
            aside: chance.aside(2),
            are_asides_on: false,
            altered: Vec::new(),
            verifying: BTreeMap::new(),
            views: BTreeMap::new(),
            asked_of_views: BTreeMap::new(),
            next_of_views: crate::view::FIRST,
            there: BTreeMap::new(),
            plan,
            chance,
        }
    }

    /// The secondary's node.
    pub fn secondary(&self) -> usize {
        self.plan.primaries
    }

    /// Puts an event into the queue.
    pub fn later(&mut self, at: u64, what: What) {
        self.serial += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.at), serial: self.serial, what }));
    }

    /// Mixes something that happened into the trace.
    pub fn note(&mut self, kind: u64, a: u64, b: u64) {
        self.trace = mix(self.trace ^ mix(self.at ^ mix(kind ^ mix(a ^ mix(b)))));
    }

    /// A line for whoever watches.
    pub fn say(&self, node: usize, text: impl std::fmt::Display) {
        if self.verbose {
            println!("{:>14.6} ms  node {node}  {text}", self.at as f64 / 1e6);
        }
    }

    /// The next event; false if there is none.
    pub fn step(&mut self) -> bool {
        let Some(Reverse(entry)) = self.queue.pop() else { return false };
        self.at = entry.at;
        self.totals.events += 1;
        match entry.what {
            What::Turn(node) => {
                if self.nodes[node].turn_at == Some(self.at) {
                    self.turn(node);
                }
            }
            What::Input(node, life, input) => {
                if self.nodes[node].life == life {
                    self.give(node, input);
                }
            }
            What::Arrive(node, letter) => {
                if self.nodes[node].engine.is_some() {
                    self.arrive(node, letter);
                }
            }
            What::AidTurn(node, life) => {
                if self.nodes[node].life == life {
                    self.aid_turn(node);
                }
            }
            What::Cross(node, life, to, word) => {
                if self.nodes[node].life == life {
                    self.crossed(node, to, *word);
                }
            }
            What::DiskEffect(node, life, volume, op) => {
                if self.nodes[node].life == life {
                    let disk = self.disks.get_mut(&(node, volume)).expect("a disk stays");
                    disk.effect(op, &mut self.chance);
                    self.note(1, node as u64, op);
                }
            }
            What::DiskDone(node, life, volume, op, token) => {
                if self.nodes[node].life == life {
                    let disk = self.disks.get_mut(&(node, volume)).expect("a disk stays");
                    if let Some((result, buf)) = disk.finish(op) {
                        self.flight_done(node, volume, op, result.is_ok());
                        self.failed(node, volume, op);
                        self.note(2, op, u64::from(result.is_ok()));
                        self.give(node, Input::LocalDone(token, result, buf));
                    }
                }
            }
            What::MetaDone(node, life) => {
                if self.nodes[node].life == life
                    && let Some((key, value, token)) = self.nodes[node].writing_meta.pop_front()
                {
                    self.nodes[node].durable_meta.insert(key, value);
                    self.give(node, Input::Persisted(token));
                }
            }
            What::Client(client) => self.client_turn(client),
            What::Answer(op, answer) => self.host_hears(op, answer),
            What::Fault => self.next_fault(),
            What::Exchange => self.exchange_hosts(),
            What::Grow => self.grow_turn(),
            What::Verify => self.verify_turn(),
            What::View => self.view_turn(),
            What::Shot(node, group) => self.shoot(node, group),
            What::Create(ticket) => self.create_pair_again(ticket),
            What::Start(node) => {
                if self.nodes[node].engine.is_none() && !self.is_dead[node] {
                    self.start_node(node);
                }
            }
        }
        self.maybe_fork();
        true
    }

    /// Goes on until something is true. Panics if it is not by `deadline`, a time in this world.
    pub fn run_until(&mut self, what: &str, deadline: u64, mut is_true: impl FnMut(&mut World) -> bool) {
        let mut steps = 0u64;
        loop {
            if is_true(self) {
                return;
            }
            assert!(self.step(), "nothing happens any more, but not {what}");
            steps += 1;
            assert!(
                self.at < deadline && steps < 3_000_000,
                "not {what} after {} ms and {steps} events: {}",
                self.at / 1_000_000,
                self.describe()
            );
        }
    }

    /// Goes on for a while.
    pub fn run_for(&mut self, ns: u64) {
        let end = self.at + ns;
        while self.queue.peek().is_some_and(|Reverse(entry)| entry.at <= end) {
            self.step();
        }
        self.at = self.at.max(end);
    }

    pub fn give(&mut self, node: usize, input: Input) {
        self.nodes[node].inbox.push_back(input);
        let wake = self.chance.range(0, 2_000);
        self.want_turn(node, self.at + wake);
    }

    /// A node has a turn at this time, or as soon after it as it can.
    pub fn want_turn(&mut self, node: usize, at: u64) {
        let it = &mut self.nodes[node];
        if it.engine.is_none() {
            return;
        }
        let at = at.max(it.busy_until).max(self.at);
        if it.turn_at.is_none_or(|turn| turn > at) {
            it.turn_at = Some(at);
            self.later(at, What::Turn(node));
        }
    }

    /// One turn: the batch, then the clock, then everything, then the end.
    fn turn(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.turn_at = None;
        let batch: Vec<Input> = it.inbox.drain(..).collect();
        let now = it.clock.read(self.at);
        if self.is_loud {
            let next = it.engine.as_ref().and_then(|engine| engine.next_timeout(now));
            println!(
                "{:>14.6} ms  node {node}  turn at {now:?}, {} inputs, due {next:?}",
                self.at as f64 / 1e6,
                batch.len()
            );
        }
        let it = &mut self.nodes[node];
        let denied = self.at < self.trouble[node].no_memory_until;
        it.ports.pool.deny(denied);
        for input in batch {
            if let Input::Host(_, _, token) = &input {
                self.zeroing_arrives(*token);
            }
            let it = &mut self.nodes[node];
            let Some(engine) = &mut it.engine else { return };
            match input {
                Input::Host(pair, io, token) => engine.handle(now, Event::Host { pair, io, token }, &mut it.ports),
                Input::View(pair, io, token) => engine.handle(now, Event::View { pair, io, token }, &mut it.ports),
                Input::LocalDone(token, result, buf) => {
                    let result = result.map_err(|errno| longrun_copy::ports::DeviceError { errno });
                    engine.handle(now, Event::LocalDone { token, result, buf }, &mut it.ports);
                }
                Input::Datagrams { link, from, mut train, segment_bytes } => {
                    let event = Event::Datagrams { link, from, train: &mut train, segment_bytes };
                    engine.handle(now, event, &mut it.ports);
                }
                Input::Persisted(token) => engine.handle(now, Event::Persisted { token }, &mut it.ports),
                Input::Crossed(word) => engine.handle(now, Event::Crossed(word), &mut it.ports),
            }
            self.drain(node);
        }
        let it = &mut self.nodes[node];
        let Some(engine) = &mut it.engine else { return };
        engine.handle(now, Event::Turn, &mut it.ports);
        self.drain(node);
        self.after_turn(node, now);
    }

    /// Calls the engine as an operator, between two turns.
    pub fn operate<R>(
        &mut self,
        node: usize,
        call: impl FnOnce(&mut longrun_copy::engine::Engine<crate::node::SimMemory>, &mut crate::node::Recorder, Now) -> R,
    ) -> R {
        let it = &mut self.nodes[node];
        let now = it.clock.read(self.at);
        let engine = it.engine.as_mut().expect("operators talk to processes that run");
        let answer = call(engine, &mut it.ports, now);
        self.drain(node);
        self.want_turn(node, self.at);
        answer
    }

    fn after_turn(&mut self, node: usize, now: Now) {
        let plan = &self.plan;
        let mut length = self.chance.range(500, plan.turn_ns_max);
        if self.chance.hits(plan.stall_probability) {
            length += self.chance.range(10_000_000, 70_000_000);
            self.totals.stalls += 1;
            self.cover(node, Hit::Stall);
        }
        let it = &mut self.nodes[node];
        it.busy_until = it.busy_until.max(self.at + length);
        let due = it.engine.as_ref().and_then(|engine| engine.next_timeout(now));
        let when = due.map(|due| it.clock.when(now, self.at, due));
        if let Some(when) = when {
            self.want_turn(node, when);
        }
        if !self.nodes[node].inbox.is_empty() {
            self.want_turn(node, self.at);
        }
        if self.exchange.is_some() {
            self.check_exchange(node, now);
            return;
        }
        if node == self.secondary() {
            self.check_secondary(now);
            return;
        }
        self.check_primary(node, now);
        if self.plan.grows || self.plan.verifies {
            self.check_sizes(node, now);
            self.check_verify(node, now);
        }
        if self.totals.events.is_multiple_of(64) {
            self.check_marks(node);
        }
    }

    /// Does what the engine asked for.
    fn drain(&mut self, node: usize) {
        let mut outs = std::mem::take(&mut self.nodes[node].ports.outs);
        let life = self.nodes[node].life;
        for out in outs.drain(..) {
            match out {
                Out::Local(volume, io, token) => self.local(node, life, volume, io, token),
                Out::Host(token, outcome, buf) => self.engine_answers(node, token, outcome, buf),
                Out::Transmit { link, to, train, bytes, segment_bytes } => {
                    self.transmit(node, (GROUPS, link), to, &train.as_ref()[..bytes], segment_bytes);
                }
                Out::Persist(key, value, token) => {
                    self.note(3, node as u64, value.len() as u64);
                    let held = self.held_until(node, State::StepClose);
                    let it = &mut self.nodes[node];
                    it.writing_meta.push_back((key, value, token));
                    let takes = self.chance.log_range(5_000, self.plan.meta_ns_max);
                    it.meta_until = it.meta_until.max(self.at).max(held) + takes;
                    let at = it.meta_until;
                    self.later(at, What::MetaDone(node, life));
                }
                Out::Answer(ticket, answer) => {
                    self.note(4, ticket.0, u64::from(answer.is_ok()));
                    self.say(node, format_args!("operator's request {}: {answer:?}", ticket.0));
                    self.open_tickets.remove(&ticket.0);
                    // Loose requests may end in any way; nobody waits for them.
                    if let Some(group) = self.loose.remove(&ticket.0) {
                        self.loose_answer(node, group, ticket.0, &answer);
                        continue;
                    }
                    self.tickets.insert(ticket.0, answer);
                }
                Out::Stamped(epoch, head, payload) => {
                    self.note(5, head.stamp.time.0, head.stamp.seq.0 ^ epoch.0);
                    if self.exchange.is_none() {
                        self.record_stamped(node, epoch, head, payload);
                    }
                }
                Out::Cross(to, word) => self.cross(node, to, word),
                Out::Line(line) => {
                    if line.ends_with("session up") {
                        self.totals.sessions += 1;
                    }
                    self.say(node, line);
                }
            }
        }
        self.rest_of_fresh();
        if self.nodes[node].ports.outs.is_empty() {
            self.nodes[node].ports.outs = outs;
        }
    }

    fn local(
        &mut self,
        node: usize,
        life: u32,
        volume: VolumeId,
        io: LocalIo<crate::memory::Buf, crate::memory::Shared>,
        token: LocalToken,
    ) {
        let io = match io {
            LocalIo::Read { extent, buf } => DiskIo::Read(extent, buf),
            LocalIo::Write { extent, data, fua } => DiskIo::Write(extent, Some(data.bytes()), fua),
            LocalIo::WriteZeroes { extent, fua } => DiskIo::Write(extent, None, fua),
            LocalIo::Unmap { extent } => DiskIo::Write(extent, None, false),
            LocalIo::Flush => DiskIo::Flush,
        };
        let is_secondary = node == self.secondary();
        let (fails, hit) = self.failure_of(node, volume, &io).unzip();
        let trouble = &self.trouble[node];
        let is_slow = self.at < trouble.slow_until && trouble.slow_only.is_none_or(|it| it == volume);
        let slow = match trouble.slow_only {
            _ if !is_slow => 1,
            None => 30,
            Some(_) => 300,
        };
        let mut effect = self.at + self.chance.log_range(2_000, self.plan.disk_ns_max) * slow;
        if matches!(io, DiskIo::Flush) {
            effect = effect.max(self.held_until(node, State::StepFlush));
        }
        let done = effect + self.chance.log_range(500, self.plan.disk_ns_max / 4);
        if !is_secondary && self.exchange.is_none() {
            let op = self.disks[&(node, volume)].next_op();
            self.primary_submits(node, volume, &io, op);
        }
        let op = self.disks.get_mut(&(node, volume)).expect("the engine got this disk").submit(io, fails);
        if let Some(hit) = hit {
            self.failing.insert((node, life, volume, op), (hit, done));
        }
        self.later(effect, What::DiskEffect(node, life, volume, op));
        self.later(done, What::DiskDone(node, life, volume, op, token));
    }

    /// Where a node is reached by a strand.
    pub fn address(node: usize, strand: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, node as u8 + 1], 4000 + u16::from(strand)))
    }

    pub fn transmit(
        &mut self,
        node: usize,
        (core, link): (CoreId, LinkId),
        to: SocketAddr,
        train: &[u8],
        segment_bytes: usize,
    ) {
        let end = self.nodes[node].ends.iter().find(|end| (end.core, end.link) == (core, link));
        let End { peer, strand, .. } = *end.expect("a link sends that was made");
        self.note(6, node as u64, train.len() as u64);
        if to != World::address(peer, strand) {
            return;
        }
        let count = train.len().div_ceil(segment_bytes) as u64;
        if self.is_loud {
            self.say(node, format_args!("sends {count} datagrams, {} bytes, to {peer}", train.len()));
        }
        self.totals.datagrams += count;
        let rate = self.plan.bytes_per_us;
        let at = self.at;
        let wire = self.wires.entry((node, peer)).or_default();
        wire.busy_until = wire.busy_until.max(at);
        // A router's queue of 50 ms.
        if at < wire.cut_until || wire.busy_until > at + 50_000_000 {
            self.totals.lost += count;
            self.cover_link(node, peer, Hit::Lost);
            return;
        }
        wire.busy_until += train.len() as u64 * 1000 / rate;
        let base = wire.busy_until + self.plan.delay_ns + self.chance.range(0, self.plan.jitter_ns);
        let mut run: Vec<u8> = Vec::with_capacity(train.len());
        for datagram in train.chunks(segment_bytes) {
            let (loss, duplicate, corrupt, reorder) =
                (self.plan.loss, self.plan.duplicate, self.plan.corrupt, self.plan.reorder);
            let forced = self.forced.filter(|forced| forced.node == node || forced.node == peer);
            let forced = forced.map(|forced| {
                self.forced = (forced.left > 1).then_some(Forced { left: forced.left - 1, ..forced });
                forced.hit
            });
            if self.chance.hits(loss) || forced == Some(Hit::Lost) {
                self.totals.lost += 1;
                self.cover_link(node, peer, Hit::Lost);
                continue;
            }
            let mut one = datagram.to_vec();
            if self.chance.hits(corrupt) || forced == Some(Hit::Damaged) {
                self.totals.corrupted += 1;
                self.cover_link(node, peer, Hit::Damaged);
                for _ in 0..self.chance.range(1, 3) {
                    let bit = self.chance.below(one.len() * 8);
                    one[bit / 8] ^= 1 << (bit % 8);
                }
                if self.chance.hits(0.2) {
                    let kept = self.chance.below(one.len()) + 1;
                    one.truncate(kept);
                }
            }
            let copies = 1 + u32::from(self.chance.hits(duplicate) || forced == Some(Hit::Duplicated));
            if copies > 1 {
                self.totals.duplicated += 1;
                self.cover_link(node, peer, Hit::Duplicated);
            }
            let is_forced = copies > 1 || one.len() != datagram.len() || forced == Some(Hit::Overtaken);
            let alone = is_forced || self.chance.hits(reorder * 0.3);
            if !alone {
                run.extend_from_slice(&one);
                continue;
            }
            self.cover_link(node, peer, Hit::Overtaken);
            for _ in 0..copies {
                let extra = self.chance.log_range(1_000, self.plan.delay_ns * 3);
                self.totals.reordered += 1;
                let train = one.clone();
                let length = train.len().max(1);
                let letter = Letter { node, strand, train, segment_bytes: length };
                self.later(base + extra, What::Arrive(peer, letter));
            }
        }
        if !run.is_empty() {
            let letter = Letter { node, strand, train: run, segment_bytes };
            self.later(base, What::Arrive(peer, letter));
        }
    }

    /// A node's process dies. The secondary's disks, and a primary's, lose what the loss says.
    pub fn kill(&mut self, node: usize, loss: Loss) {
        self.say(node, format_args!("killed ({loss:?})"));
        self.note(7, node as u64, loss as u64);
        self.cover(node, if loss == Loss::Process { Hit::Killed } else { Hit::PowerCut });
        self.states[node].fill(Standing::default());
        self.nodes[node].kill(&mut self.chance);
        self.trouble[node] = Trouble::default();
        self.open_tickets.retain(|_, of| *of != node);
        let volumes: Vec<VolumeId> =
            self.disks.keys().filter(|(at, _)| *at == node).map(|(_, volume)| *volume).collect();
        for volume in volumes {
            let disk = &self.disks[&(node, volume)];
            let after = disk.crashed(loss, &mut self.chance);
            self.disks.insert((node, volume), after);
        }
        if node == self.secondary() {
            self.views_died();
        }
        if self.exchange.is_some() {
            self.exchange_died(node);
        } else if node != self.secondary() {
            self.primary_died(node, loss);
            self.check_marks(node);
        }
    }

    /// Whether a fault is in this world's plan.
    pub fn may(&self, fault: Fault) -> bool {
        self.plan.faults.contains(&fault)
    }

    /// A fault meets all groups of a node.
    pub fn cover(&mut self, node: usize, hit: Hit) {
        for group in 0..self.groups.len() {
            self.cover_group(node, group, hit);
        }
    }

    /// A fault meets a group at a node.
    pub fn cover_group(&mut self, node: usize, group: usize, hit: Hit) {
        for state in self.states[node][group].states() {
            self.coverage.count(state, hit);
        }
    }

    fn cover_link(&mut self, from: usize, to: usize, hit: Hit) {
        self.cover(from, hit);
        self.cover(to, hit);
    }
}
