//! Links at home on another core than the groups that use them.
//!
//! Such a node has a second engine, with turns, stalls and memory of its own. What the two say to each other arrives in
//! order, as late as a turn of either makes it. They live and die together: it is one process.

use crate::memory::Pool;
use crate::node::{Input, Out, Recorder, SimMemory};
use crate::world::{What, World};
use longrun_copy::engine::{Crossing, Engine, EngineConfig};
use longrun_copy::link::LinkConfig;
use longrun_copy::ports::{CoreId, Event};
use longrun_copy::types::{LinkId, Scope};
use std::collections::{BTreeMap, VecDeque};

/// The core of the groups.
const GROUPS: CoreId = CoreId(0);
/// The core of the links.
const LINKS: CoreId = CoreId(1);

/// What goes from one core to another.
pub type Word = Crossing<crate::memory::Buf, crate::memory::Shared>;

/// A node's second core.
pub struct Aid {
    engine: Engine<SimMemory>,
    ports: Recorder,
    inbox: VecDeque<Input>,
    turn_at: Option<u64>,
    busy_until: u64,
    /// By its number for groups: the link's number here.
    links: BTreeMap<LinkId, LinkId>,
    /// When what was said last arrives: by direction, to the links first.
    arrives: [u64; 2],
}

impl World {
    /// Makes a link at a node, on the core where the plan has it.
    pub fn make_link(&mut self, node: usize, index: usize, config: LinkConfig) {
        let number = if node == self.secondary() { self.plan.primaries + index } else { node };
        if self.plan.scope == Scope::System || self.plan.apart & (1 << number) == 0 {
            self.operate(node, |engine, _, _| engine.link_create(config)).expect("a link that makes sense");
            return;
        }
        if self.nodes[node].aid.is_none() {
            let EngineConfig { primary, secondary, .. } = self.engine_config(node);
            let engine = Engine::new(EngineConfig { primary, secondary, seed: self.chance.bytes() });
            let pool = Pool::new(self.plan.pool_bytes);
            let ports = Recorder { pool, meta: BTreeMap::new(), blocks: BTreeMap::new(), outs: Vec::new() };
            self.nodes[node].aid = Some(Box::new(Aid {
                engine,
                ports,
                inbox: VecDeque::new(),
                turn_at: None,
                busy_until: self.at,
                links: BTreeMap::new(),
                arrives: [self.at; 2],
            }));
        }
        let groups: Vec<_> = self.groups.iter().map(|group| group.id).collect();
        let aid = self.nodes[node].aid.as_mut().expect("made above");
        let there = aid.engine.link_create(config).expect("a link that makes sense");
        let here = self.operate(node, |engine, _, _| engine.link_reach(GROUPS, LINKS, there));
        let aid = self.nodes[node].aid.as_mut().expect("made above");
        aid.engine.link_serve(there, GROUPS, here, &mut aid.ports);
        for group in groups {
            aid.engine.link_route(there, group, Some(GROUPS));
        }
        aid.links.insert(here, there);
        self.drain_aid(node);
        self.want_aid(node, self.at);
    }

    /// Datagrams have come to a node, for a link as groups know it.
    pub fn arrive(&mut self, node: usize, mut input: Input) {
        if let Input::Datagrams { link, .. } = &mut input
            && let Some(aid) = &mut self.nodes[node].aid
            && let Some(there) = aid.links.get(link)
        {
            *link = *there;
            aid.inbox.push_back(input);
            let wake = self.chance.range(0, 2_000);
            self.want_aid(node, self.at + wake);
            return;
        }
        self.give(node, input);
    }

    /// A word leaves a core for the other one.
    pub fn cross(&mut self, node: usize, to: CoreId, word: Word) {
        let takes = self.chance.log_range(100, self.plan.turn_ns_max);
        let (at, life) = (self.at, self.nodes[node].life);
        let aid = self.nodes[node].aid.as_mut().expect("a node with two cores");
        let arrives = &mut aid.arrives[usize::from(to == GROUPS)];
        *arrives = (*arrives).max(at + takes);
        let when = *arrives;
        self.totals.crossings += 1;
        self.later(when, What::Cross(node, life, to, Box::new(word)));
    }

    /// It arrives.
    pub fn crossed(&mut self, node: usize, to: CoreId, word: Word) {
        let input = Input::Crossed(word);
        if to == GROUPS {
            return self.give(node, input);
        }
        if let Some(aid) = &mut self.nodes[node].aid {
            aid.inbox.push_back(input);
            let wake = self.chance.range(0, 2_000);
            self.want_aid(node, self.at + wake);
        }
    }

    fn want_aid(&mut self, node: usize, at: u64) {
        let Some(aid) = &mut self.nodes[node].aid else { return };
        let at = at.max(aid.busy_until).max(self.at);
        if aid.turn_at.is_none_or(|turn| turn > at) {
            aid.turn_at = Some(at);
            let life = self.nodes[node].life;
            self.later(at, What::AidTurn(node, life));
        }
    }

    /// A turn of a node's second core, if it is still due.
    pub fn aid_turn(&mut self, node: usize) {
        let denied = self.at < self.trouble[node].no_memory_until;
        let it = &mut self.nodes[node];
        let Some(aid) = it.aid.as_mut().filter(|aid| aid.turn_at == Some(self.at)) else { return };
        aid.turn_at = None;
        let now = it.clock.read(self.at);
        aid.ports.pool.deny(denied);
        for input in std::mem::take(&mut aid.inbox) {
            match input {
                Input::Datagrams { link, from, mut train, segment_bytes } => {
                    let event = Event::Datagrams { link, from, train: &mut train, segment_bytes };
                    aid.engine.handle(now, event, &mut aid.ports);
                }
                Input::Crossed(word) => aid.engine.handle(now, Event::Crossed(word), &mut aid.ports),
                other => panic!("{other:?} is not for a core without groups"),
            }
        }
        aid.engine.handle(now, Event::Turn, &mut aid.ports);
        self.drain_aid(node);
        let mut length = self.chance.range(500, self.plan.turn_ns_max);
        if self.chance.hits(self.plan.stall_probability) {
            length += self.chance.range(10_000_000, 70_000_000);
            self.totals.stalls += 1;
        }
        let it = &mut self.nodes[node];
        let aid = it.aid.as_mut().expect("it had a turn");
        aid.busy_until = self.at + length;
        let due = aid.engine.next_timeout(now).map(|due| it.clock.when(now, self.at, due));
        let when = if aid.inbox.is_empty() { due } else { Some(self.at) };
        if let Some(when) = when {
            self.want_aid(node, when);
        }
    }

    fn drain_aid(&mut self, node: usize) {
        let Some(aid) = &mut self.nodes[node].aid else { return };
        let near: BTreeMap<LinkId, LinkId> = aid.links.iter().map(|(here, there)| (*there, *here)).collect();
        for out in std::mem::take(&mut aid.ports.outs) {
            match out {
                Out::Transmit { link, to, train, bytes, segment_bytes } => {
                    self.transmit(node, near[&link], to, &train.as_ref()[..bytes], segment_bytes);
                }
                Out::Cross(to, word) => self.cross(node, to, word),
                Out::Line(line) => {
                    if line.ends_with("session up") {
                        self.totals.sessions += 1;
                    }
                    self.say(node, format_args!("(links) {line}"));
                }
                other => panic!("a core without groups asked for {other:?}"),
            }
        }
    }
}
