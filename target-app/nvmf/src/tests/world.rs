//! Several cores, their connections and hosts, in memory. Byte streams are cut wherever the test says; block requests can be
//! held back; payload memory can run out.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use crate::{
    host,
    nqn::Nqn,
    target::{
        AnaGroup, BdevHandle, BlockOp, BlockRequest, BlockSize, BlockStatus, CloseReason, Connection, ConnectionId,
        ConnectionOptions, Core, Event, ModelNumber, Namespace, NamespaceState, Nsid, Outgoing, Peer, PeerMessage,
        Ports, RecvTarget, SerialNumber, Subsystem, TargetConfig,
    },
};

pub const SUBSYSTEM: &str = "nqn.2026-11.io.longrun:one";
pub const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-000000000001";
pub const LISTENER: &str = "0.0.0.0:4420";
pub const BLOCKS: u64 = 4096;

pub fn nqn(text: &str) -> Nqn {
    text.parse().unwrap()
}

pub fn namespace(nsid: u32) -> Namespace {
    Namespace {
        nsid: Nsid::new(nsid).unwrap(),
        bdev: BdevHandle(u64::from(nsid) + 100),
        blocks: BLOCKS,
        block_size: if nsid == 2 { BlockSize::B4096 } else { BlockSize::B512 },
        nguid: [nsid as u8; 16],
        uuid: [nsid as u8 | 0x80; 16],
        eui64: None,
        state: NamespaceState::Ready,
        ana_group: AnaGroup::of(Nsid::new(nsid).unwrap()),
        deallocates: true,
    }
}

/// One subsystem for any host, with namespaces 1 (512-byte blocks) and 2 (4096).
pub fn config() -> TargetConfig {
    let serial = SerialNumber::new("LR0001").unwrap();
    let mut subsystem = Subsystem::new(nqn(SUBSYSTEM), serial, ModelNumber::new("Longrun").unwrap());
    subsystem.allow_any_host = true;
    subsystem.listeners.push(LISTENER.parse().unwrap());
    for nsid in [1, 2] {
        subsystem.namespaces.insert(Nsid::new(nsid).unwrap(), namespace(nsid));
    }
    let mut config = TargetConfig::default();
    config.set_subsystem(subsystem);
    config
}

pub fn admin_options() -> host::QueueOptions {
    host::QueueOptions::admin(nqn(HOST), [7; 16], nqn(SUBSYSTEM))
}

#[derive(Debug)]
pub struct Buf {
    bytes: Vec<u8>,
    pool: Rc<Cell<usize>>,
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Buf {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.pool.set(self.pool.get() + self.bytes.len());
    }
}

/// One machine and what is on its way to and from it.
pub struct Conn {
    pub machine: Connection<Buf>,
    core: usize,
    inbox: VecDeque<u8>,
    staging: Vec<u8>,
    pub outbox: Vec<u8>,
    unsent: u32,
    pub closed: Option<CloseReason>,
    /// Bytes of each `send` call.
    pub sends: Vec<usize>,
    /// Bytes received straight into a command's buffer.
    pub straight: usize,
    /// Data that was asked for was not all there after some receive.
    pub awaited: bool,
}

struct Here<'w> {
    core: &'w mut Core,
    pool: &'w Rc<Cell<usize>>,
    id: ConnectionId,
    requests: &'w mut VecDeque<(ConnectionId, BlockRequest<Buf>)>,
    messages: &'w mut VecDeque<(Peer, PeerMessage)>,
    outbox: &'w mut Vec<u8>,
    sends: &'w mut Vec<usize>,
    unsent: &'w mut u32,
    closed: &'w mut Option<CloseReason>,
}

impl Ports for Here<'_> {
    type Buf = Buf;

    fn core(&mut self) -> &mut Core {
        self.core
    }

    fn alloc(&mut self, bytes: usize) -> Option<Buf> {
        let left = self.pool.get().checked_sub(bytes)?;
        self.pool.set(left);
        Some(Buf { bytes: vec![0xee; bytes], pool: self.pool.clone() })
    }

    fn submit(&mut self, request: BlockRequest<Buf>) {
        self.requests.push_back((self.id, request));
    }

    fn send(&mut self, outgoing: Outgoing<Buf>) {
        assert!(self.closed.is_none(), "sent after close");
        self.sends.push(outgoing.bytes());
        *self.unsent += 1;
        for piece in outgoing.pieces() {
            self.outbox.extend_from_slice(piece);
        }
    }

    fn tell(&mut self, to: Peer, message: PeerMessage) {
        self.messages.push_back((to, message));
    }

    fn close(&mut self, reason: CloseReason) {
        assert!(self.closed.is_none(), "closed twice");
        *self.closed = Some(reason);
    }
}

pub struct World {
    pub now_ns: u64,
    cores: Vec<Core>,
    pub conns: BTreeMap<u64, Conn>,
    pub requests: VecDeque<(ConnectionId, BlockRequest<Buf>)>,
    messages: VecDeque<(Peer, PeerMessage)>,
    pub disks: HashMap<u64, Vec<u8>>,
    pub pool: Rc<Cell<usize>>,
    /// Block requests stay in `requests` while true.
    pub hold_blocks: bool,
    /// What left the machines stays unacknowledged while true: a host that does not read.
    pub hold_sent: bool,
    pub next_status: Option<BlockStatus>,
    cuts: Vec<usize>,
    turn: usize,
    pub log: Vec<String>,
}

/// A host's end of a connection.
pub trait End {
    fn take_output(&mut self) -> Vec<u8>;
    fn receive(&mut self, bytes: &[u8]);
}

impl End for host::Queue {
    fn take_output(&mut self) -> Vec<u8> {
        host::Queue::take_output(self)
    }
    fn receive(&mut self, bytes: &[u8]) {
        host::Queue::receive(self, bytes);
    }
}

impl End for host::Controller {
    fn take_output(&mut self) -> Vec<u8> {
        host::Controller::take_output(self)
    }
    fn receive(&mut self, bytes: &[u8]) {
        host::Controller::receive(self, bytes);
    }
}

impl World {
    pub fn new(cores: u16, config: TargetConfig) -> Self {
        let config = Arc::new(config);
        Self {
            now_ns: 1,
            cores: (0..cores).map(|index| Core::new(index, cores, config.clone())).collect(),
            conns: BTreeMap::new(),
            requests: VecDeque::new(),
            messages: VecDeque::new(),
            disks: HashMap::new(),
            pool: Rc::new(Cell::new(64 << 20)),
            hold_blocks: false,
            hold_sent: false,
            next_status: None,
            cuts: vec![1 << 16],
            turn: 0,
            log: Vec::new(),
        }
    }

    /// Receives come in pieces of these sizes, round and round.
    pub fn cut(mut self, cuts: &[usize]) -> Self {
        self.cuts = cuts.to_vec();
        self
    }

    /// A new connection, on core `core`.
    pub fn accept(&mut self, core: usize) -> u64 {
        self.accept_at(core, LISTENER)
    }

    pub fn accept_at(&mut self, core: usize, listener: &str) -> u64 {
        let id = self.conns.keys().last().map_or(1, |last| last + 1);
        let listener: SocketAddr = listener.parse().unwrap();
        let options = ConnectionOptions {
            id: ConnectionId(id),
            local: SocketAddr::new("192.0.2.10".parse().unwrap(), listener.port()),
            peer: "192.0.2.99:50000".parse().unwrap(),
            listener,
        };
        let machine = Connection::new(self.now_ns, options);
        let conn = Conn {
            machine,
            core,
            inbox: VecDeque::new(),
            staging: Vec::new(),
            outbox: Vec::new(),
            unsent: 0,
            closed: None,
            sends: Vec::new(),
            straight: 0,
            awaited: false,
        };
        self.conns.insert(id, conn);
        id
    }

    fn with<R>(&mut self, id: u64, act: impl FnOnce(&mut Connection<Buf>, u64, &mut Here<'_>) -> R) -> Option<R> {
        let conn = self.conns.get_mut(&id)?;
        let mut here = Here {
            core: &mut self.cores[conn.core],
            pool: &self.pool,
            id: ConnectionId(id),
            requests: &mut self.requests,
            messages: &mut self.messages,
            outbox: &mut conn.outbox,
            sends: &mut conn.sends,
            unsent: &mut conn.unsent,
            closed: &mut conn.closed,
        };
        Some(act(&mut conn.machine, self.now_ns, &mut here))
    }

    pub fn event(&mut self, id: u64, event: Event<Buf>) {
        self.with(id, |machine, now, ports| machine.handle(now, event, ports));
    }

    /// Time passes on all connections.
    pub fn tick(&mut self, ns: u64) {
        self.now_ns += ns;
        for id in self.ids() {
            self.event(id, Event::Tick);
        }
        self.settle();
    }

    fn ids(&self) -> Vec<u64> {
        self.conns.keys().copied().collect()
    }

    pub fn set_config(&mut self, config: TargetConfig) {
        let config = Arc::new(config);
        for core in &mut self.cores {
            core.set_config(config.clone());
        }
        for id in self.ids() {
            self.event(id, Event::ConfigChanged);
        }
        self.settle();
    }

    /// Live controllers of all cores.
    pub fn controllers(&self) -> usize {
        self.cores.iter().map(|core| core.controllers().count()).sum()
    }

    pub fn give(&mut self, id: u64, bytes: &[u8]) {
        self.conns.get_mut(&id).unwrap().inbox.extend(bytes);
        self.settle();
    }

    /// Sets everything in motion until nothing moves.
    pub fn run(&mut self, ends: &mut [(u64, &mut dyn End)]) {
        loop {
            let mut moved = false;
            for (id, end) in ends.iter_mut() {
                let output = end.take_output();
                moved |= !output.is_empty();
                if let Some(conn) = self.conns.get_mut(id) {
                    conn.inbox.extend(output);
                }
            }
            moved |= self.settle();
            for (id, end) in ends.iter_mut() {
                let bytes = self.conns.get_mut(id).map(|conn| std::mem::take(&mut conn.outbox)).unwrap_or_default();
                moved |= !bytes.is_empty();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let take = self.next_cut().min(rest.len());
                    end.receive(&rest[..take]);
                    rest = &rest[take..];
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Everything but the hosts.
    pub fn settle(&mut self) -> bool {
        let mut ever = false;
        loop {
            let mut moved = false;
            for id in self.ids() {
                moved |= self.receive(id);
            }
            while let Some((to, message)) = self.messages.pop_front() {
                moved = true;
                self.route(to, message);
            }
            while !self.hold_blocks
                && let Some((id, request)) = self.requests.pop_front()
            {
                moved = true;
                self.serve(id, request);
            }
            if !self.hold_sent {
                for id in self.ids() {
                    let count = self.conns.get_mut(&id).map_or(0, |conn| std::mem::take(&mut conn.unsent));
                    if count > 0 {
                        moved = true;
                        self.event(id, Event::Sent { count });
                    }
                }
            }
            for id in self.ids() {
                self.event(id, Event::MemoryFreed);
                if self.conns[&id].machine.is_finished() && self.conns[&id].inbox.is_empty() {
                    self.log.push(format!("finished {id}"));
                    // Keep what the host has not read yet.
                    if self.conns[&id].outbox.is_empty() {
                        self.conns.remove(&id);
                    }
                }
            }
            ever |= moved;
            if !moved {
                return ever;
            }
        }
    }

    fn next_cut(&mut self) -> usize {
        self.turn += 1;
        self.cuts[self.turn % self.cuts.len()].max(1)
    }

    /// One receive, as a reactor does it.
    fn receive(&mut self, id: u64) -> bool {
        let cut = self.next_cut();
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        if conn.closed.is_some() {
            conn.inbox.clear();
            conn.staging.clear();
            return false;
        }
        if conn.staging.is_empty() && !conn.inbox.is_empty() {
            match conn.machine.recv_target() {
                RecvTarget::Paused => return false,
                RecvTarget::Staging => {
                    let take = cut.min(conn.inbox.len());
                    conn.staging = conn.inbox.drain(..take).collect();
                }
                RecvTarget::Into { mut buf, range } => {
                    assert!(!range.is_empty());
                    let take = cut.min(conn.inbox.len()).min(range.len());
                    let bytes: Vec<u8> = conn.inbox.drain(..take).collect();
                    buf.as_mut()[range.start..range.start + take].copy_from_slice(&bytes);
                    conn.straight += take;
                    self.with(id, |machine, now, ports| machine.received_into(now, buf, take, ports));
                    return true;
                }
            }
        }
        let staging = std::mem::take(&mut conn.staging);
        if staging.is_empty() {
            return false;
        }
        let used = self.with(id, |machine, now, ports| machine.receive(now, &staging, ports)).unwrap();
        let conn = self.conns.get_mut(&id).unwrap();
        conn.staging = staging[used..].to_vec();
        conn.awaited |= conn.machine.awaits_data();
        used > 0
    }

    fn route(&mut self, to: Peer, message: PeerMessage) {
        let connection = match to {
            Peer::Connection(id) => Some(id),
            Peer::Controller(id) => {
                let core = usize::from(self.cores[0].core_of(id));
                self.cores[core].connection_of(id)
            }
        };
        match connection {
            Some(id) => self.event(id.0, Event::Peer(message)),
            None => {
                if let Some((to, answer)) = message.undelivered() {
                    self.route(to, answer);
                }
            }
        }
    }

    /// Serves one block request out of memory.
    fn serve(&mut self, id: ConnectionId, request: BlockRequest<Buf>) {
        let bytes = if request.bdev.0 == 102 { 4096 } else { 512 };
        let disk = self.disks.entry(request.bdev.0).or_insert_with(|| vec![0; BLOCKS as usize * bytes]);
        let at = |lba: u64, blocks: u32| lba as usize * bytes..(lba as usize + blocks as usize) * bytes;
        let status = self.next_status.take().unwrap_or(BlockStatus::Ok);
        let buf = match request.op {
            BlockOp::Read { range, mut buf } => {
                let range = at(range.lba, range.blocks);
                buf.as_mut()[..range.len()].copy_from_slice(&disk[range]);
                Some(buf)
            }
            BlockOp::Write { range, data, fua } => {
                self.log.push(format!("write {}+{} fua {fua}", range.lba, range.blocks));
                let range = at(range.lba, range.blocks);
                disk[range.clone()].copy_from_slice(&data.as_ref()[..range.len()]);
                None
            }
            BlockOp::Flush => {
                self.log.push("flush".into());
                None
            }
            BlockOp::WriteZeroes { range, deallocate, .. } => {
                self.log.push(format!("zeroes {}+{} deallocate {deallocate}", range.lba, range.blocks));
                disk[at(range.lba, range.blocks)].fill(0);
                None
            }
            BlockOp::Unmap { ranges } => {
                for range in ranges {
                    self.log.push(format!("unmap {}+{}", range.lba, range.blocks));
                    disk[at(range.lba, range.blocks)].fill(0);
                }
                None
            }
        };
        self.event(id.0, Event::BlockDone { tag: request.tag, status, buf });
    }
}
