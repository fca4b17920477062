//! Hosts: what they write and read, and what they may conclude from the answers.

use crate::chance::mix;
use crate::memory::Bytes;
use crate::node::Input;
use crate::world::{What, World};
use longrun_copy::ports::{HostError, HostIo, HostToken};
use longrun_copy::types::{Epoch, Extent, RecordHead, RecordKind, Stamp};

/// Kinds of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Zero,
    Unmap,
    Flush,
}

/// One request of a host.
#[derive(Clone, Debug)]
pub struct Op {
    pub client: usize,
    pub pair: usize,
    pub kind: Kind,
    pub extent: Extent,
    /// What the host knew to be done when it issued this: its stamp must be above.
    pub must_exceed: Option<Stamp>,
    pub stamp: Option<Stamp>,
    pub is_answered: bool,
    pub is_fua: bool,
    /// At which event it was issued.
    pub issued_at: u64,
}

/// What a host hears.
#[derive(Debug)]
pub struct HostAnswer {
    pub outcome: Result<(), HostError>,
    /// The write that each block read names.
    pub blocks: Vec<u64>,
}

/// One that issues a request after the other.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// The request that is out.
    pub op: Option<usize>,
    pub has_stopped: bool,
}

/// Numbers below this name requests; above, initial content.
pub const INITIAL: u64 = 1 << 40;

/// Fills a block so that every byte depends on the write, the pair and the place.
pub fn fill(block: &mut [u8], id: u64, pair: usize, lba: u64) {
    for (index, word) in block.chunks_exact_mut(8).enumerate() {
        let value = match index {
            0 => id,
            _ => mix(id ^ (lba << 20) ^ ((pair as u64) << 50) ^ ((index as u64) << 40)),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// The bytes of a write.
pub fn content(id: u64, pair: usize, extent: Extent, block_bytes: u32) -> Vec<u8> {
    let mut bytes = vec![0; extent.blocks as usize * block_bytes as usize];
    for (index, block) in bytes.chunks_exact_mut(block_bytes as usize).enumerate() {
        fill(block, id, pair, extent.lba + index as u64);
    }
    bytes
}

impl World {
    /// A client issues a request, if it has none out.
    pub fn client_turn(&mut self, client: usize) {
        if self.clients[client].op.is_some() || self.clients[client].has_stopped || self.ops_left == 0 {
            return;
        }
        let targets: Vec<usize> = (0..self.pairs.len())
            .filter(|pair| {
                let info = &self.pairs[*pair];
                self.nodes[info.primary].engine.is_some() && !self.groups[info.group].fenced[info.primary]
            })
            .collect();
        if targets.is_empty() {
            let at = self.at + 5_000_000;
            if self.is_dead.iter().filter(|dead| **dead).count() < self.plan.primaries {
                self.later(at, What::Client(client));
            }
            return;
        }
        let pair = self.chance.pick(&targets);
        let (node, geometry) = (self.pairs[pair].primary, self.pairs[pair].geometry);
        let kind = match self.chance.below(100) {
            0..60 => Kind::Write,
            60..68 => Kind::Zero,
            68..73 => Kind::Unmap,
            73..95 => Kind::Read,
            _ => Kind::Flush,
        };
        // Half of all requests go to the first few blocks, so that they meet.
        let blocks = self.chance.log_range(1, self.plan.write_blocks_max) as u32;
        let room = geometry.blocks - u64::from(blocks);
        let lba = if self.chance.hits(0.5) { self.chance.range(0, room.min(4)) } else { self.chance.range(0, room) };
        let extent = Extent { lba, blocks };
        let id = self.ops.len();
        let group = self.pairs[pair].group;
        let must_exceed = self.groups[group].known;
        let is_fua = matches!(kind, Kind::Write | Kind::Zero) && self.chance.hits(0.2);
        let issued_at = self.totals.events;
        let op = Op { client, pair, kind, extent, must_exceed, stamp: None, is_answered: false, is_fua, issued_at };
        self.ops.push(op);
        self.ops_left -= 1;
        self.clients[client].op = Some(id);
        self.note(10, id as u64, lba);
        if must_exceed.is_some() && !matches!(kind, Kind::Read | Kind::Flush) {
            self.totals.dependent += 1;
        }
        let meets = self.clients.iter().enumerate().filter(|(other, _)| *other != client).filter_map(|(_, it)| it.op);
        let overlaps = meets.map(|op| &self.ops[op]).any(|other| other.pair == pair && other.extent.overlaps(extent));
        self.totals.overlapping += u64::from(overlaps && !matches!(kind, Kind::Read | Kind::Flush));
        let bytes = blocks as usize * geometry.block_bytes as usize;
        let pool = &self.nodes[node].ports.pool;
        let io = match kind {
            Kind::Read => HostIo::Read { extent, buf: pool.take(bytes) },
            Kind::Write => {
                let mut buf = pool.take(bytes);
                buf.as_mut().copy_from_slice(&content(id as u64 + 1, pair, extent, geometry.block_bytes));
                HostIo::Write { extent, data: buf.freeze(bytes), fua: is_fua }
            }
            Kind::Zero => HostIo::WriteZeroes { extent, fua: is_fua },
            Kind::Unmap => HostIo::Unmap { extent },
            Kind::Flush => HostIo::Flush,
        };
        let hop = self.chance.range(0, self.plan.hop_ns_max);
        let input = Input::Host(self.pairs[pair].id, io, HostToken(id as u64));
        let life = self.nodes[node].life;
        self.later(self.at + hop, What::Input(node, life, input));
    }

    /// A request that zeroes reaches its engine: its record will not say whose it is, so the order here does.
    pub fn zeroing_arrives(&mut self, token: HostToken) {
        if let Some(op) = self.ops.get(token.0 as usize).filter(|op| matches!(op.kind, Kind::Zero | Kind::Unmap)) {
            let key = (op.pair, op.extent.lba, op.extent.blocks, op.kind as u8);
            self.zeroing.entry(key).or_default().push_back(token.0 as usize);
        }
    }

    /// The client's request died with its node: it goes on with another.
    pub fn abandon(&mut self, node: usize) {
        for client in 0..self.clients.len() {
            let Some(op) = self.clients[client].op else { continue };
            if self.pairs[self.ops[op].pair].primary == node {
                self.clients[client].op = None;
                self.later(self.at + 1_000_000, What::Client(client));
            }
        }
        let pairs = &self.pairs;
        self.zeroing.retain(|(pair, ..), _| pairs[*pair].primary != node);
    }

    /// The engine answered; the host hears a little later.
    pub fn engine_answers(
        &mut self,
        node: usize,
        token: HostToken,
        outcome: Result<(), HostError>,
        buf: Option<crate::memory::Buf>,
    ) {
        if token.0 >= crate::view::FIRST {
            return self.view_answers(token, outcome, buf);
        }
        let id = token.0 as usize;
        if id >= self.ops.len() {
            // One of the requests after a takeover.
            self.answered_there(token, outcome, buf);
            return;
        }
        let op = &self.ops[id];
        if let Some(waiting) = self.zeroing.get_mut(&(op.pair, op.extent.lba, op.extent.blocks, op.kind as u8)) {
            waiting.retain(|other| *other != id);
        }
        let info = &self.pairs[op.pair];
        if outcome.is_ok() {
            assert!(
                !self.groups[info.group].fenced[info.primary],
                "promise 7: request {id} {op:?} succeeded on a fenced primary"
            );
        }
        let mut blocks = Vec::new();
        if let (Some(buf), Ok(())) = (&buf, &outcome) {
            let block_bytes = info.geometry.block_bytes as usize;
            for block in buf.as_ref().chunks_exact(block_bytes) {
                let mut first = [0; 8];
                first.copy_from_slice(&block[..8]);
                blocks.push(u64::from_le_bytes(first));
            }
        }
        self.note(11, token.0, u64::from(outcome.is_ok()) ^ (node as u64) << 32);
        let hop = self.chance.range(0, self.plan.hop_ns_max);
        self.later(self.at + hop, What::Answer(id, HostAnswer { outcome, blocks }));
    }

    /// A host hears of its request, and draws its conclusions.
    pub fn host_hears(&mut self, id: usize, answer: HostAnswer) {
        let client = self.ops[id].client;
        assert!(!self.ops[id].is_answered, "request {id} was answered twice");
        self.ops[id].is_answered = true;
        self.ops_answered += 1;
        let (pair, kind, extent, stamp) =
            (self.ops[id].pair, self.ops[id].kind, self.ops[id].extent, self.ops[id].stamp);
        let group = self.pairs[pair].group;
        if answer.outcome.is_ok() {
            self.host_relies(id);
            match kind {
                Kind::Read => {
                    self.totals.reads += 1;
                    for (index, named) in answer.blocks.iter().enumerate() {
                        let lba = extent.lba + index as u64;
                        if *named == 0 || *named >= INITIAL {
                            continue;
                        }
                        let seen = self.ops.get(*named as usize - 1).filter(|seen| {
                            seen.pair == pair && seen.kind == Kind::Write && seen.extent.range().contains(&lba)
                        });
                        let Some(seen) = seen else {
                            panic!(
                                "request {id}: block {lba} of pair {pair} read as {named:#x}, which nobody wrote there"
                            );
                        };
                        self.groups[group].known = self.groups[group].known.max(seen.stamp);
                    }
                }
                Kind::Flush => self.totals.flushes += 1,
                _ => {
                    self.totals.writes += 1;
                    self.groups[group].known = self.groups[group].known.max(stamp);
                }
            }
        }
        if self.clients[client].op == Some(id) {
            self.clients[client].op = None;
            if answer.outcome == Err(HostError::Fenced)
                && self.groups.iter().all(|group| group.fenced.iter().all(|it| *it))
            {
                self.clients[client].has_stopped = true;
                return;
            }
            let pause = if answer.outcome.is_err() { 1_000_000 } else { 0 };
            let think = if self.chance.hits(0.4) { 0 } else { self.chance.log_range(500, self.plan.think_ns_max) };
            self.later(self.at + pause + think, What::Client(client));
        }
    }

    /// A record was stamped: it is part of history, and must be where its host may expect it.
    pub fn record_stamped(&mut self, node: usize, epoch: Epoch, head: RecordHead, payload: Option<Bytes>) {
        let pair = self.pairs.iter().position(|pair| pair.id == head.pair).expect("a record of a known pair");
        let is_hosts = self.stamp_of_fresh(pair, &head, payload.as_ref());
        let group = self.pairs[pair].group;
        self.totals.stamped += 1;
        let stamp = head.stamp;
        let op = match head.kind {
            _ if !is_hosts => None,
            RecordKind::Bookmark => {
                let name = payload.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
                let given = self.groups[group].bookmarks.entry(name.expect("a bookmark has a name")).or_default();
                given.push(stamp.time);
                None
            }
            RecordKind::Copy | RecordKind::Verify => None,
            RecordKind::Write => {
                let bytes = payload.as_ref().expect("a write has a payload");
                let mut first = [0; 8];
                first.copy_from_slice(&bytes[..8]);
                Some(u64::from_le_bytes(first) as usize - 1)
            }
            RecordKind::WriteZeroes | RecordKind::Unmap => {
                let kind = if head.kind == RecordKind::Unmap { Kind::Unmap } else { Kind::Zero };
                let key = (pair, head.extent.lba, head.extent.blocks, kind as u8);
                self.zeroing.get_mut(&key).and_then(|waiting| waiting.pop_front())
            }
            RecordKind::Repair => {
                self.totals.repairs += 1;
                None
            }
        };
        if let Some(op) = op {
            let it = &mut self.ops[op];
            assert!(it.stamp.is_none(), "request {op} was stamped twice");
            assert!(it.pair == pair && it.extent == head.extent, "record {head:?} is not its request {it:?}");
            it.stamp = Some(stamp);
            if let Some(known) = it.must_exceed {
                assert!(
                    stamp > known,
                    "promise 2 (order): request {op} was issued when {known:?} was known to be done, but is stamped \
                     {stamp:?}"
                );
            }
        }
        let charge = head.charge_bytes();
        let at = self.at;
        let info = &mut self.groups[group];
        assert!(
            stamp.time > info.limit,
            "promise 1 (cut): {stamp:?} is given by node {node}, but the secondary released everything up to {}",
            info.limit
        );
        info.charged[node] += charge;
        info.stamped_at.insert(stamp, at);
        info.history.stamped(epoch, head, payload.as_ref());
    }
}
