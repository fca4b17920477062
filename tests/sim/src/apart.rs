//! Links, and those of them that are at home on another core than the groups that use them.
//!
//! A node with such links has a second engine, with turns, stalls and memory of its own. What the two say to each other
//! arrives in order, as late as a turn of either makes it. They live and die together: it is one process.

use crate::memory::Pool;
use crate::node::{End, Input, Out, Recorder, SimMemory};
use crate::world::{Letter, What, World};
use longrun_copy::engine::{Crossing, Engine, EngineConfig};
use longrun_copy::ports::{CoreId, Event};
use longrun_copy::types::{LinkId, Scope};
use std::collections::{BTreeMap, VecDeque};

/// The core of the groups.
pub const GROUPS: CoreId = CoreId(0);
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
    /// When what was said last arrives: by direction, to the links first.
    arrives: [u64; 2],
}

impl World {
    /// Makes a link at a node to another one, its strands on the cores where the plan has them.
    pub fn make_link(&mut self, node: usize, peer: usize) {
        let number = if node == self.secondary() { self.plan.primaries + peer } else { node };
        let first_is_apart = self.plan.scope != Scope::System && self.plan.apart & (1 << number) != 0;
        let core_of = |strand: u8| match first_is_apart != (self.plan.strands_apart && strand % 2 == 1) {
            true => LINKS,
            false => GROUPS,
        };
        let strands: Vec<(u8, CoreId)> = (0..self.plan.strands).map(|strand| (strand, core_of(strand))).collect();
        let made: Vec<(CoreId, LinkId)> = strands
            .into_iter()
            .map(|(strand, core)| {
                let config = self.link_config(node, peer, strand);
                let link =
                    self.on_core(node, core, |engine, _| engine.link_create(config)).expect("a link that makes sense");
                self.nodes[node].ends.push(End { peer, strand, core, link });
                (core, link)
            })
            .collect();
        let (known, link) = self.make_known(node, GROUPS, LINKS, &made);
        let (first_core, first) = made[0];
        let mut knot = link;
        if first_core == LINKS {
            let (known, there) = self.make_known(node, LINKS, GROUPS, &made);
            self.serve(node, LINKS, &made, &known);
            knot = there;
        }
        self.serve(node, GROUPS, &made, &known);
        if first_core == LINKS {
            let groups: Vec<_> = self.groups.iter().map(|group| group.id).collect();
            self.on_core(node, LINKS, |engine, ports| {
                engine.link_bind_serve(knot, GROUPS, link, ports);
                for group in groups {
                    engine.link_route(first, group, Some(GROUPS));
                }
            });
        }
        self.nodes[node].links.insert(peer, link);
        self.drain_aid(node);
        self.want_aid(node, self.at);
    }

    /// Makes strands known to a core: their numbers there, and the link's.
    fn make_known(
        &mut self,
        node: usize,
        here: CoreId,
        other: CoreId,
        made: &[(CoreId, LinkId)],
    ) -> (Vec<LinkId>, LinkId) {
        self.on_core(node, here, |engine, _| {
            let reach = |&(core, link): &(CoreId, LinkId)| match core == here {
                true => link,
                false => engine.link_reach(here, other, link),
            };
            let known: Vec<LinkId> = made.iter().map(reach).collect();
            let link = if let [only] = known[..] { only } else { engine.link_bind(here, known.clone()) };
            (known, link)
        })
    }

    /// Lets the strands of the other core serve this one.
    fn serve(&mut self, node: usize, here: CoreId, made: &[(CoreId, LinkId)], known: &[LinkId]) {
        for (&(core, link), &there) in made.iter().zip(known) {
            if core != here {
                self.on_core(node, core, |engine, ports| engine.link_serve(link, here, there, ports));
            }
        }
    }

    /// Has the operator do something on one of a node's cores.
    fn on_core<R>(
        &mut self,
        node: usize,
        core: CoreId,
        run: impl FnOnce(&mut Engine<SimMemory>, &mut Recorder) -> R,
    ) -> R {
        if core == GROUPS {
            return self.operate(node, |engine, ports, _| run(engine, ports));
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
                arrives: [self.at; 2],
            }));
        }
        let aid = self.nodes[node].aid.as_mut().expect("made above");
        run(&mut aid.engine, &mut aid.ports)
    }

    /// Datagrams have come to a node.
    pub fn arrive(&mut self, node: usize, letter: Letter) {
        let Letter { node: peer, strand, train, segment_bytes } = letter;
        let end = self.nodes[node].ends.iter().find(|end| (end.peer, end.strand) == (peer, strand));
        let Some(End { core, link, .. }) = end.copied() else { return };
        let input = Input::Datagrams { link, from: World::address(peer, strand), train, segment_bytes };
        match (&mut self.nodes[node].aid, core) {
            (Some(aid), LINKS) => {
                aid.inbox.push_back(input);
                let wake = self.chance.range(0, 2_000);
                self.want_aid(node, self.at + wake);
            }
            _ => self.give(node, input),
        }
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
        for out in std::mem::take(&mut aid.ports.outs) {
            match out {
                Out::Transmit { link, to, train, bytes, segment_bytes } => {
                    self.transmit(node, (LINKS, link), to, &train.as_ref()[..bytes], segment_bytes);
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
