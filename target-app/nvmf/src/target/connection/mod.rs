//! One TCP connection of the target.

mod admin;
mod fabrics;
mod identify;
mod io;
mod log;
mod plan;
mod receive;
mod reply;
mod slots;

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use self::{
    receive::Receiving,
    slots::{Slots, State},
};
use super::{
    CloseReason, ConnectionId, ConnectionInfo, ControllerId, ControllerInfo, Event, ListenAddress, MEMORY_WAIT_NS_MAX,
    Peer, PeerMessage, Ports, QueueInfo, SETUP_NS_MAX, Subsystem, TargetConfig,
    config::advertised,
    controller::{Controller, Joined},
    core::{Join, Message},
    stats::Stats,
};
use crate::{
    nqn::Nqn,
    pdu::{Digests, Reader, Sender},
    spec::{ConnectCommand, Status},
};

/// What the reactor knows of an accepted socket.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionOptions {
    /// The name it gives the connection.
    pub id: ConnectionId,
    /// The socket's own address (not unspecified: what the host reached).
    pub local: SocketAddr,
    /// The host's address.
    pub peer: SocketAddr,
    /// The listener that accepted it, as the configuration spells it.
    pub listener: ListenAddress,
}

/// A queue after Connect.
#[derive(Debug)]
struct Queue {
    subsystem: Arc<Subsystem>,
    host: Nqn,
    controller: ControllerId,
    qid: u16,
    entries: u16,
    /// Whether completions carry SQHD; else reads may end without a completion capsule.
    flow_control: bool,
    head: u16,
}

/// What this connection is for.
#[derive(Debug)]
enum Role {
    /// Connect has not come, or was refused.
    None,
    /// An I/O queue that waits for its controller's answer.
    Joining { slot: u16, queue: Box<Queue> },
    /// The admin queue; owns its controller.
    Admin(Box<Controller>),
    /// An I/O queue.
    Io,
}

/// The machine of one connection; `B` is the payload memory.
#[derive(Debug)]
pub struct Connection<B> {
    options: ConnectionOptions,
    digests: Digests,
    /// The host wants data at a multiple of so many bytes (HPDA).
    align: usize,
    /// ICReq and ICResp were exchanged.
    established: bool,
    reader: Reader,
    receiving: Receiving<B>,
    slots: Slots<B>,
    /// Slots in [`State::Parked`], first come first served.
    parked: VecDeque<u16>,
    queue: Option<Queue>,
    role: Role,
    setup_deadline_ns: u64,
    /// `send` calls that have not left yet.
    unsent: u32,
    stats: Stats,
    closed: Option<CloseReason>,
    finished: bool,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    /// A connection just accepted.
    pub fn new(now_ns: u64, options: ConnectionOptions) -> Self {
        Self {
            options,
            digests: Digests::default(),
            align: 4,
            established: false,
            reader: Reader::new(Sender::Host),
            receiving: Receiving::Header,
            slots: Slots::new(1),
            parked: VecDeque::new(),
            queue: None,
            role: Role::None,
            setup_deadline_ns: now_ns.saturating_add(SETUP_NS_MAX),
            unsent: 0,
            stats: Stats::default(),
            closed: None,
            finished: false,
        }
    }

    /// Anything but received bytes.
    pub fn handle<P: Ports<Buf = B>>(&mut self, now_ns: u64, event: Event<B>, ports: &mut P) {
        match event {
            Event::BlockDone { tag, status, buf } => {
                if let Some((slot, read_bytes)) = self.slots.done(tag) {
                    self.stats.in_flight = self.slots.submitted();
                    self.block_done(slot, read_bytes, status, buf, ports);
                }
                self.resume(now_ns, ports);
            }
            Event::Sent { count } => self.unsent = self.unsent.saturating_sub(count),
            Event::MemoryFreed => self.resume(now_ns, ports),
            Event::Tick => {
                self.check_timers(now_ns, ports);
                self.resume(now_ns, ports);
            }
            Event::Peer(message) => self.peer(now_ns, message, ports),
            Event::ConfigChanged => self.config_changed(ports),
            Event::Disconnected => self.shut(CloseReason::HostClosed, ports),
            Event::Close => self.shut(CloseReason::TargetClosed, ports),
        }
        self.try_finish(ports);
    }

    /// When the next [`Event::Tick`] is due, in `now_ns`' clock. Changes with every call; coarse timers (10 ms) will do.
    pub fn deadline_ns(&self) -> Option<u64> {
        if self.closed.is_some() {
            return None;
        }
        let setup = self.queue.is_none().then_some(self.setup_deadline_ns);
        let controller = if let Role::Admin(controller) = &self.role { controller.deadline_ns() } else { None };
        let stalled = self.receiving.stalled_since_ns();
        let parked = self.parked.front().and_then(|slot| self.slots.parked_since_ns(*slot));
        let memory = stalled.into_iter().chain(parked).min().map(|since| since.saturating_add(MEMORY_WAIT_NS_MAX));
        setup.into_iter().chain(controller).chain(memory).min()
    }

    /// Whether nothing can come back any more: the socket was closed, no block request is outstanding and, on an admin
    /// connection, all I/O queues of its controller are gone. The reactor drops the machine then.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// For nvmf_subsystem_get_controllers and get_qpairs. Allocates: control plane only.
    pub fn info(&self) -> ConnectionInfo {
        let ConnectionOptions { id, local, peer, listener } = self.options;
        let queue = self.queue.as_ref().map(|queue| QueueInfo {
            subsystem: queue.subsystem.nqn.clone(),
            host: queue.host.clone(),
            controller: queue.controller,
            qid: queue.qid,
            entries: queue.entries,
        });
        let controller = match &self.role {
            Role::Admin(controller) => {
                let mut io_queues: Vec<u16> = controller.queues().iter().map(|(qid, _)| *qid).collect();
                io_queues.sort_unstable();
                Some(ControllerInfo {
                    host_id: controller.host_id,
                    io_queues,
                    ready: controller.is_ready(),
                    keep_alive_ms: controller.keep_alive_ms(),
                })
            }
            Role::None | Role::Joining { .. } | Role::Io => None,
        };
        let closed = self.closed;
        ConnectionInfo {
            id,
            peer,
            local,
            listener,
            digests: self.digests,
            queue,
            controller,
            closed,
            stats: *self.stats(),
        }
    }

    /// The counters, without an allocation.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Closes the socket and ends everything that is not with a block device.
    fn shut<P: Ports<Buf = B>>(&mut self, reason: CloseReason, ports: &mut P) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(reason);
        self.receiving = Receiving::Closed;
        self.parked.clear();
        self.slots.drop_waiting();
        ports.close(reason);
        self.end_queues(ports);
    }

    /// An admin connection tells its I/O queues to end and refuses those that wait.
    fn end_queues<P: Ports<Buf = B>>(&mut self, ports: &mut P) {
        let Role::Admin(controller) = &mut self.role else { return };
        for (_, connection) in controller.queues() {
            ports.tell(Peer::Connection(*connection), PeerMessage(Message::CloseQueue));
        }
        while let Some(join) = controller.expired_join(u64::MAX) {
            let answer = Message::JoinAnswer(Err(super::ConnectRefusal::NotEnabled));
            ports.tell(Peer::Connection(join.from), PeerMessage(answer));
        }
        for slot in std::mem::take(&mut controller.aers) {
            self.slots.release(slot);
        }
        controller.settle();
    }

    /// Says good-bye once nothing is outstanding.
    fn try_finish<P: Ports<Buf = B>>(&mut self, ports: &mut P) {
        if self.closed.is_none() || self.finished || self.slots.submitted() > 0 {
            return;
        }
        let from = self.options.id;
        match &self.role {
            Role::None => {}
            Role::Joining { queue, .. } => {
                let gone = Message::QueueGone { qid: queue.qid, from };
                ports.tell(Peer::Controller(queue.controller), PeerMessage(gone));
            }
            Role::Io => {
                if let Some(queue) = &self.queue {
                    let gone = Message::QueueGone { qid: queue.qid, from };
                    ports.tell(Peer::Controller(queue.controller), PeerMessage(gone));
                }
            }
            Role::Admin(controller) if !controller.queues().is_empty() => return,
            Role::Admin(controller) => ports.core().release(controller.id, from),
        }
        self.finished = true;
    }

    fn check_timers<P: Ports<Buf = B>>(&mut self, now_ns: u64, ports: &mut P) {
        if self.closed.is_some() {
            return;
        }
        if self.queue.is_none() && now_ns >= self.setup_deadline_ns {
            return self.shut(CloseReason::SetupTimeout, ports);
        }
        let Role::Admin(controller) = &mut self.role else { return };
        if controller.is_expired(now_ns) {
            return self.shut(CloseReason::KeepAliveExpired, ports);
        }
        while let Some(join) = controller.expired_join(now_ns) {
            let answer = Message::JoinAnswer(Err(super::ConnectRefusal::QueueIdInUse));
            ports.tell(Peer::Connection(join.from), PeerMessage(answer));
        }
    }

    fn peer<P: Ports<Buf = B>>(&mut self, now_ns: u64, message: PeerMessage, ports: &mut P) {
        match message.0 {
            Message::Join(join) => self.joined_by(now_ns, *join, ports),
            Message::QueueGone { qid, from } => {
                if let Role::Admin(controller) = &mut self.role
                    && let Some(next) = controller.queue_gone(qid, from)
                {
                    self.joined_by(now_ns, next, ports);
                }
            }
            Message::JoinAnswer(answer) => self.join_answered(answer, ports),
            Message::CloseQueue => self.shut(CloseReason::ControllerGone, ports),
        }
    }

    /// An I/O queue wants to belong to the controller that this connection owns.
    fn joined_by<P: Ports<Buf = B>>(&mut self, now_ns: u64, join: Join, ports: &mut P) {
        let from = join.from;
        let answer = match (&mut self.role, &self.queue) {
            (Role::Admin(controller), Some(queue)) if self.closed.is_none() => {
                match controller.join(now_ns, join, &queue.subsystem) {
                    Joined::Answer(answer) => answer,
                    Joined::Later => return,
                }
            }
            _ => Err(super::ConnectRefusal::UnknownController),
        };
        ports.tell(Peer::Connection(from), PeerMessage(Message::JoinAnswer(answer)));
    }

    /// Whether the subsystem is still there for this connection, and what is new in it.
    fn config_changed<P: Ports<Buf = B>>(&mut self, ports: &mut P) {
        if self.closed.is_some() {
            return;
        }
        let listener = self.options.listener;
        let config = ports.core().config().clone();
        let Some(queue) = &mut self.queue else { return };
        if queue.subsystem.nqn.is_discovery() {
            if let Role::Admin(controller) = &mut self.role {
                controller.discoverable(discoverable(&config, &queue.host, self.options.local));
            }
            return self.report_events(ports);
        }
        let served = config
            .subsystems
            .get(&queue.subsystem.nqn)
            .filter(|subsystem| subsystem.admits(&queue.host) && subsystem.listens_on(&listener));
        let Some(subsystem) = served else {
            return self.shut(CloseReason::NoLongerServed, ports);
        };
        let old = std::mem::replace(&mut queue.subsystem, subsystem.clone());
        if let Role::Admin(controller) = &mut self.role {
            let nsids = old.namespaces.keys().chain(subsystem.namespaces.keys());
            let changed = nsids.filter(|nsid| old.namespaces.get(nsid) != subsystem.namespaces.get(nsid));
            controller.namespaces_changed(changed.map(|nsid| nsid.get()));
            controller.access_changed(subsystem, &listener);
        }
        self.report_events(ports);
    }

    /// Answers held Asynchronous Event Requests with what there is to report.
    fn report_events<P: Ports<Buf = B>>(&mut self, ports: &mut P) {
        loop {
            let Role::Admin(controller) = &mut self.role else { return };
            let Some((slot, result)) = controller.next_event() else { return };
            self.complete(slot, u64::from(result), Status::SUCCESS, ports);
        }
    }

    /// Tries what waits for memory again, oldest first; fails what waited too long.
    fn resume<P: Ports<Buf = B>>(&mut self, now_ns: u64, ports: &mut P) {
        while let Some(slot) = self.parked.pop_front() {
            let since_ns = self.slots.parked_since_ns(slot).unwrap_or(now_ns);
            if now_ns.saturating_sub(since_ns) >= MEMORY_WAIT_NS_MAX {
                self.complete(slot, 0, Status::INTERNAL_ERROR, ports);
                continue;
            }
            if !self.start(since_ns, slot, ports) {
                // It parked itself at the back again; its place is the front.
                if self.parked.back() == Some(&slot) {
                    self.parked.pop_back();
                    self.parked.push_front(slot);
                }
                break;
            }
        }
        self.unstall(now_ns, ports);
    }

    /// The command waits for payload memory since `since_ns`.
    fn park(&mut self, since_ns: u64, slot: u16) {
        if let Some(entry) = self.slots.get(slot) {
            entry.state = State::Parked { since_ns };
            self.parked.push_back(slot);
        }
    }

    fn is_admin(&self) -> bool {
        !matches!(self.role, Role::Io)
    }
}

/// The queue a Connect asks for.
fn queue_of(command: &ConnectCommand, subsystem: Arc<Subsystem>, host: Nqn, controller: ControllerId) -> Queue {
    Queue {
        subsystem,
        host,
        controller,
        qid: command.qid,
        entries: command.sqsize.saturating_add(1),
        flow_control: command.attributes & ConnectCommand::DISABLE_FLOW_CONTROL == 0,
        head: 0,
    }
}

/// Every (subsystem, address) the discovery log shows to `host`, in a fixed order.
fn discoverable(config: &TargetConfig, host: &Nqn, reached: SocketAddr) -> Vec<(Nqn, SocketAddr)> {
    let mut paths = Vec::new();
    for subsystem in config.subsystems.values().filter(|subsystem| subsystem.admits(host)) {
        for listener in &subsystem.listeners {
            paths.push((subsystem.nqn.clone(), advertised(listener, reached.ip())));
        }
    }
    paths
}
