//! One pinned core's loop: take a batch, read the clock, run everything to completion, submit, perhaps sleep.
//!
//! ```text
//!   io_uring completions ─┐                        ┌─> block layer, replica engine (longrun_bdev::Core)
//!   rings of other cores ─┼─> now = clock ─> turn ─┼─> NVMe-oF machines (Session)
//!   the control plane ────┘                        └─> one flush per dirty socket, one io_uring_enter
//! ```
//!
//! The clock is read after the batch was taken (design 4a): a batch that had waited in the kernel would else be stamped
//! with a time that another core has left behind. Everything that a turn produces leaves with the one `io_uring_enter`
//! that fetches the next batch.
//!
//! A core that has found no work for [`SPIN_NS`] announces its sleep, looks once more, and waits in the kernel
//! (`idle = "adaptive"`); with `busy` it never sleeps.
//!
//! With a polled ring (`io = "sqpoll"`) a turn has no system call at all: a thread of the kernel's takes what is submitted,
//! and what would call the kernel for another reason goes by ring to the [`clerk`]'s porter. The core then looks for work
//! as long as that thread does before either sleeps.

pub mod clerk;
mod connection;
mod handle;
mod mesh;
mod token;

pub use connection::{POOL_BUFFERS, STAGING_BYTES, bdev_of, handle_of};
pub use handle::{Command, Commands, ReactorHandle, commands};
pub use mesh::{Mesh, meshes};

use clerk::{Clerk, Errand};
use connection::{Effects, Session, Turn, ios_of};
use longrun_bdev::replica::{ArenaMemory, World};
use longrun_bdev::{IoDone, IoError};
use longrun_copy::account::{self, Step};
use longrun_copy::engine::OperatorError;
use longrun_copy::ports::{OperatorAnswer, Ticket};
use longrun_copy::types::{Mono, Now, Time};
use longrun_hal::alloc;
use longrun_hal::clock::{TimelineReader, cycles, mono_ns};
use longrun_hal::uring::Mode;
use longrun_hal::wake::Sleeper;
use longrun_hal::{Buf, Completion, Fd, Returned, Uring, net};
use longrun_nvmf::target::{
    BlockRequest, BlockStatus, Connection, ConnectionId, ConnectionInfo, ConnectionOptions, Event, Peer, PeerMessage,
    Tag, TargetConfig,
};
use mesh::CoreMessage;
use slab::Slab;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a core looks for work before it sleeps: about twice what a wake-up costs, so that spinning is never much
/// dearer than sleeping would have been.
pub const SPIN_NS: u64 = 50_000;
/// How long a core sleeps at most when nothing is due.
const SLEEP_NS_MAX: u64 = 100_000_000;
/// How often connections are looked at for time-outs, which are of seconds.
const CONNECTION_TICK_NS: u64 = 100_000_000;
/// Messages taken from each other core in one turn.
const MESSAGES_PER_TURN: usize = 256;
/// Connections a reactor serves at most.
pub const CONNECTIONS_MAX: usize = 1024;

/// Whether a core without work sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// After a while without work it waits in the kernel.
    Adaptive,
    /// Never: for labs with cores to spare.
    Busy,
}

/// What framework_get_reactors shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReactorStats {
    /// Turns that found work.
    pub busy_turns: u64,
    /// Turns that found none.
    pub idle_turns: u64,
    /// Times the core slept.
    pub sleeps: u64,
    /// Time in turns with work, in ns.
    pub busy_ns: u64,
    /// Time asleep or without work, in ns.
    pub idle_ns: u64,
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Uses of the allocator by the reactor's thread, but for what the control plane had it do.
    pub allocations: u64,
    /// Connections refused because [`CONNECTIONS_MAX`] were there.
    pub connections_refused: u64,
}

/// The copy engine of a core.
pub type Engine = longrun_copy::engine::Engine<ArenaMemory>;

/// How an operator's request to an engine ended.
pub type Answer = Result<OperatorAnswer, OperatorError>;

/// An operator's request under way in an engine.
pub struct Ended(oneshot::Receiver<Answer>);

impl Ended {
    /// Waits for its end.
    pub async fn wait(self) -> Answer {
        self.0.await.unwrap_or_else(|_| Err(OperatorError::WrongState("the system is stopping".to_owned())))
    }
}

/// What the connections of a reactor did since its start; those that are gone too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// Admin queue pairs.
    pub admin_qpairs: u64,
    /// I/O queue pairs.
    pub io_qpairs: u64,
    /// Commands.
    pub commands: u64,
    /// PDUs against the rules.
    pub protocol_errors: u64,
}

/// A block request on its way.
struct PendingIo {
    asker: Asker,
    /// Parts that have not ended (an unmap of several runs has several).
    parts: u32,
    result: Result<(), IoError>,
}

/// Who asked for a block request.
enum Asker {
    Connection { id: ConnectionId, tag: Tag },
    Core { core: usize, token: u64 },
}

struct Listener {
    address: SocketAddr,
    socket: Fd,
    /// Accepting failed; the next connection tick tries again.
    rests: bool,
}

/// What a reactor is made of; see [`Reactor::new`].
pub struct Parts {
    /// This reactor's number, from 0.
    pub index: usize,
    /// Its idle policy.
    pub idle: Idle,
    /// How long it looks for work before it sleeps, if it does: [`SPIN_NS`], or as long as the thread that polls its ring.
    pub spin_ns: u64,
    /// The ring, made on this thread.
    pub uring: Uring,
    /// Block devices and the copy engine at home here.
    pub core: longrun_bdev::Core,
    /// What the NVMe-oF connections of this core share.
    pub target: longrun_nvmf::target::Core,
    /// Rings to and from the other cores.
    pub mesh: Mesh,
    /// From the control plane.
    pub commands: Commands,
    /// To sleep by.
    pub sleeper: Sleeper,
    /// To the control plane.
    pub clerk: Clerk,
    /// The group timeline.
    pub timeline: TimelineReader,
}

/// One core at work. Not `Send`: it is made and lives on its own thread.
pub struct Reactor {
    parts: Parts,
    sessions: Slab<Session>,
    session_serial: u64,
    /// Sessions with something to send or to close, each at most a few times.
    dirty: Vec<usize>,
    /// What those become that still are after their flush; kept between turns for its storage only.
    dirty_again: Vec<usize>,
    /// Sessions that were refused memory since the last turn's end.
    starved: Vec<usize>,
    effects: Effects,
    pending: Slab<PendingIo>,
    listeners: Slab<Listener>,
    accept_next: usize,
    connection_tick_ns: u64,
    stats: ReactorStats,
    /// How long the turn under way waited for its batch.
    waited_ns: u64,
    served: Served,
    /// Uses of the allocator by commands.
    asked_allocations: u64,
    tickets: HashMap<u64, oneshot::Sender<Answer>>,
    ticket_next: u64,
    stopping: bool,
    /// Kept between turns for their storage only.
    completions: Vec<Completion>,
    messages: Vec<(usize, CoreMessage)>,
    message_batch: Vec<CoreMessage>,
    dones: Vec<IoDone>,
}

impl Reactor {
    /// A reactor that serves nothing yet.
    pub fn new(parts: Parts) -> Reactor {
        Reactor {
            parts,
            sessions: Slab::new(),
            session_serial: 0,
            dirty: Vec::new(),
            dirty_again: Vec::new(),
            starved: Vec::new(),
            effects: Effects::default(),
            pending: Slab::new(),
            listeners: Slab::new(),
            accept_next: 0,
            connection_tick_ns: 0,
            stats: ReactorStats::default(),
            waited_ns: 0,
            served: Served::default(),
            asked_allocations: 0,
            tickets: HashMap::new(),
            ticket_next: 0,
            stopping: false,
            completions: Vec::new(),
            messages: Vec::new(),
            message_batch: Vec::new(),
            dones: Vec::new(),
        }
    }

    /// Turns until told to stop.
    pub fn run(mut self) -> std::io::Result<()> {
        account::start(cycles);
        let mut worked_ns = mono_ns();
        let mut turn_began_ns = worked_ns;
        while !self.stopping {
            let wait = self.wait(turn_began_ns, worked_ns);
            let worked = self.turn(wait)?;
            account::end_turn(worked);
            let ended_ns = mono_ns();
            let took_ns = ended_ns.saturating_sub(turn_began_ns);
            // What the turn waited for its batch is idle time, also if there was something in it at last.
            let waited_ns = std::mem::take(&mut self.waited_ns).min(took_ns);
            self.stats.idle_ns += waited_ns;
            if worked {
                worked_ns = ended_ns;
                self.stats.busy_turns += 1;
                self.stats.busy_ns += took_ns - waited_ns;
            } else {
                self.stats.idle_turns += 1;
                self.stats.idle_ns += took_ns - waited_ns;
            }
            turn_began_ns = ended_ns;
        }
        Ok(())
    }

    /// How long the next turn may wait for its batch; `None`: not at all.
    fn wait(&mut self, now_ns: u64, worked_ns: u64) -> Option<Duration> {
        if self.parts.idle == Idle::Busy || now_ns.saturating_sub(worked_ns) < self.parts.spin_ns {
            return None;
        }
        let now = self.now();
        let due_ns = self.parts.core.next_timeout(now).map_or(u64::MAX, |due| due.0);
        match due_ns.saturating_sub(now_ns).min(SLEEP_NS_MAX) {
            0 => None,
            ns => Some(Duration::from_nanos(ns)),
        }
    }

    /// One turn. True if there was work.
    fn turn(&mut self, wait: Option<Duration>) -> std::io::Result<bool> {
        let mut completions = std::mem::take(&mut self.completions);
        // What is waited for a batch is not what it costs.
        let in_kernel = account::within(if wait.is_some() { Step::Idle } else { Step::Kernel });
        let reaped = match wait {
            None => self.parts.uring.submit_and_reap(None, &mut completions)?,
            Some(wait) => {
                let announced = self.parts.sleeper.announce();
                let idle = self.parts.mesh.is_empty() && self.parts.commands.is_empty();
                let wait = idle.then_some(wait);
                self.stats.sleeps += u64::from(idle);
                let began_ns = mono_ns();
                self.parts.clerk.rest();
                let reaped = self.parts.uring.submit_and_reap(wait, &mut completions)?;
                self.parts.clerk.resume();
                self.waited_ns = mono_ns().saturating_sub(began_ns);
                drop(announced);
                reaped
            }
        };
        drop(in_kernel);
        let mut messages = std::mem::take(&mut self.messages);
        self.parts
            .mesh
            .receive(MESSAGES_PER_TURN, &mut self.message_batch, |core, message| messages.push((core, message)));
        let frames = self.parts.core.gather();
        // Only now: everything in the batches happened before this reading.
        let now = self.now();
        let mut worked = reaped.completions > 0 || !messages.is_empty() || frames;
        for completion in completions.drain(..) {
            self.complete(&now, completion);
        }
        for (core, message) in messages.drain(..) {
            self.receive(&now, core, message);
        }
        self.completions = completions;
        self.messages = messages;
        while let Some(mut command) = self.parts.commands.pop() {
            worked = true;
            let before = alloc::calls();
            command.run(self);
            self.asked_allocations += alloc::calls() - before;
            self.parts.clerk.hand(Errand::Finish(command));
        }
        self.parts.core.turn(now, &mut self.parts.uring);
        self.settle(&now);
        self.report();
        self.tick(&now);
        self.flush(&now);
        self.hop();
        worked |= self.parts.mesh.flush();
        worked |= self.parts.clerk.flush();
        Ok(worked)
    }

    /// The clocks, read now.
    pub fn now(&mut self) -> Now {
        let timeline = &mut self.parts.timeline;
        Now {
            time: Time(timeline.now_ns()),
            mono: Mono(mono_ns()),
            lease: Time(timeline.lease_ns()),
            error_bound_ns: timeline.error_bound_ns(),
        }
    }

    fn complete(&mut self, now: &Now, completion: Completion) {
        let index = token::index(completion.token);
        match token::class(completion.token) {
            token::ACCEPT => self.accepted(now, index, completion),
            token::RECEIVE => {
                let _step = account::within(Step::Pdu);
                self.with_session(now, index, |session, turn| session.received(turn, completion));
            }
            token::SEND => {
                let _step = account::within(Step::Respond);
                self.with_session(now, index, |session, turn| session.sent(turn, &completion));
            }
            token::IGNORED => {}
            _ => self.parts.core.on_completion(*now, &mut self.parts.uring, completion),
        }
    }

    fn receive(&mut self, now: &Now, from: usize, message: CoreMessage) {
        match message {
            CoreMessage::Io { token, bdev, io } => {
                let asker = Asker::Core { core: from, token };
                let pending = self.pending.insert(PendingIo { asker, parts: 1, result: Ok(()) });
                self.parts.core.submit(*now, &mut self.parts.uring, bdev, io, pending as u64);
            }
            CoreMessage::IoDone { token, result, buf } => {
                self.done(now, IoDone { origin: token, result, buf });
            }
            CoreMessage::Accepted { socket, listener } => self.serve(now, socket, listener),
            CoreMessage::Nvmf { to, message } => self.deliver(now, to, message),
            CoreMessage::Copy(crossing) => self.parts.core.crossed(*now, &mut self.parts.uring, crossing),
            CoreMessage::Config(config) => self.set_config(now, config),
        }
    }

    /// Carries out what machines asked for and delivers what ended, until both are done. Ends because a turn receives
    /// nothing more from sockets: what is staged is finite.
    fn settle(&mut self, now: &Now) {
        loop {
            self.parts.core.settle(*now, &mut self.parts.uring);
            let mut dones = std::mem::take(&mut self.dones);
            self.parts.core.drain(&mut dones);
            let quiet = dones.is_empty() && self.effects.requests.is_empty() && self.effects.messages.is_empty();
            for done in dones.drain(..) {
                self.done(now, done);
            }
            self.dones = dones;
            let mut requests = std::mem::take(&mut self.effects.requests);
            for (id, request) in requests.drain(..) {
                self.request(now, id, request);
            }
            // Nothing that `request` does runs a machine, so the list's storage can go back.
            self.effects.requests = requests;
            for (to, message) in std::mem::take(&mut self.effects.messages) {
                self.deliver(now, to, message);
            }
            if quiet {
                return;
            }
        }
    }

    fn request(&mut self, now: &Now, id: ConnectionId, request: BlockRequest<Buf>) {
        let _step = account::within(Step::Request);
        let (home, bdev) = bdev_of(request.bdev);
        let asker = Asker::Connection { id, tag: request.tag };
        let ios = ios_of(request.op);
        let pending = self.pending.insert(PendingIo { asker, parts: ios.len() as u32, result: Ok(()) }) as u64;
        for io in ios {
            if home == self.parts.index {
                self.parts.core.submit(*now, &mut self.parts.uring, bdev, io, pending);
            } else {
                self.parts.mesh.send(home, CoreMessage::Io { token: pending, bdev, io });
            }
        }
    }

    /// A block request, or a part of one, ended.
    fn done(&mut self, now: &Now, done: IoDone) {
        let _step = account::within(Step::Respond);
        let token = done.origin;
        let pending = self.pending.get_mut(token as usize).expect("a request ends once for each part");
        pending.parts -= 1;
        pending.result = pending.result.and(done.result);
        if pending.parts > 0 {
            return;
        }
        let PendingIo { asker, result, .. } = self.pending.remove(token as usize);
        match asker {
            Asker::Core { core, token } => {
                self.parts.mesh.send(core, CoreMessage::IoDone { token, result, buf: done.buf });
            }
            Asker::Connection { id, tag } => {
                let event = Event::BlockDone { tag, status: status_of(result, done.buf.is_some()), buf: done.buf };
                self.with_connection(now, id, |session, turn| session.handle(turn, event));
            }
        }
    }

    /// Brings a word to the connection it is for, here or on its core.
    fn deliver(&mut self, now: &Now, to: Peer, message: PeerMessage) {
        let core = match to {
            Peer::Controller(controller) => self.parts.target.core_of(controller) as usize,
            Peer::Connection(id) => core_of(id),
        };
        if core != self.parts.index {
            if core < self.parts.mesh.cores() {
                self.parts.mesh.send(core, CoreMessage::Nvmf { to, message });
            }
            return;
        }
        let id = match to {
            Peer::Controller(controller) => self.parts.target.connection_of(controller),
            Peer::Connection(id) => Some(id),
        };
        match id.filter(|id| self.session_index(*id).is_some()) {
            Some(id) => self.with_connection(now, id, |session, turn| session.handle(turn, Event::Peer(message))),
            None => {
                if let Some((to, answer)) = message.undelivered() {
                    self.deliver(now, to, answer);
                }
            }
        }
    }

    fn session_index(&self, id: ConnectionId) -> Option<usize> {
        let index = (id.0 & INDEX_MASK) as usize;
        self.sessions.get(index).filter(|session| session.id == id).map(|_| index)
    }

    fn with_connection(&mut self, now: &Now, id: ConnectionId, run: impl FnOnce(&mut Session, &mut Turn<'_>)) {
        if let Some(index) = self.session_index(id) {
            self.with_session(now, index, run);
        }
    }

    fn with_session(&mut self, now: &Now, index: usize, run: impl FnOnce(&mut Session, &mut Turn<'_>)) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let mut turn = Turn {
            now_ns: now.mono.0,
            shared: &mut self.parts.target,
            arena: self.parts.core.arena(),
            uring: &mut self.parts.uring,
            effects: &mut self.effects,
            recv_token: token::RECEIVE | index as u64,
            send_token: token::SEND | index as u64,
        };
        run(session, &mut turn);
        if session.wants_flush() {
            self.dirty.push(index);
        }
        if std::mem::take(&mut session.starved) {
            self.starved.push(index);
        }
    }

    /// Time-outs, and memory for those who wait for it.
    fn tick(&mut self, now: &Now) {
        if now.mono.0 < self.connection_tick_ns {
            return;
        }
        self.connection_tick_ns = now.mono.0 + CONNECTION_TICK_NS;
        for (index, listener) in &mut self.listeners {
            if std::mem::take(&mut listener.rests) {
                self.parts.uring.accept(token::ACCEPT | index as u64, &listener.socket);
            }
        }
        for index in 0..self.sessions.capacity() {
            let Some(session) = self.sessions.get(index) else { continue };
            if session.is_closing() {
                // Nothing may ever come back from a host that has stopped reading.
                self.dirty.push(index);
            }
            if session.machine.deadline_ns().is_some_and(|due_ns| due_ns <= now.mono.0) {
                self.with_session(now, index, |session, turn| session.handle(turn, Event::Tick));
            }
        }
        self.settle(now);
    }

    /// One send for each socket that has something to send; sessions that are over go.
    fn flush(&mut self, now: &Now) {
        self.feed(now);
        let _step = account::within(Step::Respond);
        let mut dirty = std::mem::replace(&mut self.dirty, std::mem::take(&mut self.dirty_again));
        for index in dirty.drain(..) {
            let mut over = false;
            self.with_session(now, index, |session, turn| over = session.flush(turn));
            if over {
                self.forget(index);
            }
        }
        // `with_session` marked those that still have something to send; a completion brings them back here.
        self.dirty.clear();
        self.dirty_again = std::mem::replace(&mut self.dirty, dirty);
    }

    /// Tells connections that wait for memory to try again. Costs nothing while none does.
    fn feed(&mut self, now: &Now) {
        if self.starved.is_empty() {
            return;
        }
        for index in std::mem::take(&mut self.starved) {
            self.with_session(now, index, |session, turn| session.handle(turn, Event::MemoryFreed));
        }
        self.settle(now);
    }
}

const INDEX_BITS: u32 = 16;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
const CORE_SHIFT: u32 = 52;

/// The core that serves a connection.
fn core_of(id: ConnectionId) -> usize {
    (id.0 >> CORE_SHIFT) as usize
}

/// Connections: how they come, and what the control plane does to them.
impl Reactor {
    /// Listens; accepted connections go round over all cores. `address` is the bound one.
    pub fn listen(&mut self, socket: Fd, address: SocketAddr) {
        let index = self.listeners.insert(Listener { address, socket: socket.clone(), rests: false });
        self.parts.uring.accept(token::ACCEPT | index as u64, &socket);
    }

    /// Stops listening; connections stay.
    pub fn unlisten(&mut self, address: SocketAddr) {
        let found = self.listeners.iter().find(|(_, listener)| listener.address == address).map(|(index, _)| index);
        if let Some(index) = found {
            if self.listeners[index].rests {
                self.listeners.remove(index);
                return;
            }
            // The slot is given back when the accept has ended, so that its token never means another listener.
            self.parts.uring.cancel(&self.listeners[index].socket);
        }
    }

    fn accepted(&mut self, now: &Now, index: usize, completion: Completion) {
        let Some(listener) = self.listeners.get(index) else { return };
        let address = listener.address;
        if let (Ok(_), Returned::Accepted(socket)) = (&completion.result, completion.returned) {
            let core = self.accept_next % self.parts.mesh.cores();
            self.accept_next += 1;
            if core == self.parts.index {
                self.serve(now, socket, address);
            } else {
                self.parts.mesh.send(core, CoreMessage::Accepted { socket, listener: address });
            }
        }
        if completion.more {
            return;
        }
        match completion.result {
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                self.listeners.remove(index);
            }
            // Out of descriptors, mostly, and still so a moment later: asking again at once would only spin.
            Err(_) => self.listeners[index].rests = true,
            Ok(_) => {
                let socket = self.listeners[index].socket.clone();
                self.parts.uring.accept(token::ACCEPT | index as u64, &socket);
            }
        }
    }

    /// Begins to serve a connection on this core.
    fn serve(&mut self, now: &Now, socket: Fd, listener: SocketAddr) {
        let addresses =
            net::tcp_tune(&socket).and_then(|()| Ok((net::peer_address(&socket)?, net::local_address(&socket)?)));
        // A socket that is already gone has no addresses; there is nobody to tell.
        let Ok((peer, local)) = addresses else { return };
        if self.sessions.len() >= CONNECTIONS_MAX {
            self.stats.connections_refused += 1;
            return;
        }
        self.session_serial += 1;
        let entry = self.sessions.vacant_entry();
        let index = entry.key();
        let serial = (self.session_serial << INDEX_BITS) & ((1 << CORE_SHIFT) - 1);
        let id = ConnectionId((self.parts.index as u64) << CORE_SHIFT | serial | index as u64);
        let machine = Connection::new(now.mono.0, ConnectionOptions { id, peer, local, listener });
        entry.insert(Session::new(id, machine, socket));
        self.with_session(now, index, |session, turn| session.pump(turn));
    }

    /// Swaps the target's configuration here and on every other core.
    pub fn publish_config(&mut self, config: Arc<TargetConfig>) {
        for core in (0..self.parts.mesh.cores()).filter(|core| *core != self.parts.index) {
            self.parts.mesh.send(core, CoreMessage::Config(Arc::clone(&config)));
        }
        let now = self.now();
        self.set_config(&now, config);
    }

    fn set_config(&mut self, now: &Now, config: Arc<TargetConfig>) {
        self.parts.target.set_config(config);
        self.each_session(now, |session, turn| session.handle(turn, Event::ConfigChanged));
    }

    /// Ends all connections and lets no new ones in, for a shutdown: a host that came back while streams drain would have
    /// its commands fail instead of waiting for the next start.
    pub fn close_connections(&mut self) {
        let addresses: Vec<SocketAddr> = self.listeners.iter().map(|(_, listener)| listener.address).collect();
        for address in addresses {
            self.unlisten(address);
        }
        let now = self.now();
        self.each_session(&now, |session, turn| session.handle(turn, Event::Close));
    }

    fn each_session(&mut self, now: &Now, mut run: impl FnMut(&mut Session, &mut Turn<'_>)) {
        for index in 0..self.sessions.capacity() {
            self.with_session(now, index, &mut run);
        }
        self.settle(now);
    }

    /// What each connection of this core is.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.sessions.iter().map(|(_, session)| session.machine.info()).collect()
    }
}

/// What the engine has for the control plane, and the other way round.
impl Reactor {
    /// Carries what the engine has for those of other cores.
    fn hop(&mut self) {
        for (core, crossing) in self.parts.core.outbox().crossings.drain(..) {
            self.parts.mesh.send(usize::from(core.0), CoreMessage::Copy(crossing));
        }
    }

    /// Carries the engine's outbox to the clerk and to waiting operators.
    fn report(&mut self) {
        let outbox = self.parts.core.outbox();
        if outbox.is_empty() {
            return;
        }
        // What was carried out since the last time serves the next time.
        while let Some(spent) = self.parts.clerk.spent() {
            outbox.spent.push(spent);
        }
        for persist in outbox.persists.drain(..) {
            self.parts.clerk.hand(Errand::Persist(persist));
        }
        for line in outbox.lines.drain(..) {
            self.parts.clerk.hand(Errand::Log(line));
        }
        if std::mem::take(&mut outbox.has_news) {
            self.parts.clerk.hand(Errand::News);
        }
        for (ticket, answer) in outbox.answers.drain(..) {
            if let Some(asked) = self.tickets.remove(&ticket.0) {
                self.parts.clerk.hand(Errand::Answer(asked, answer));
            }
        }
    }

    /// Calls the engine.
    pub fn engine<R>(&mut self, call: impl FnOnce(&mut Engine, Now, &mut World<'_>) -> R) -> R {
        let now = self.now();
        self.parts.core.operate(now, &mut self.parts.uring, |engine, world| call(engine, now, world))
    }

    /// Begins something in the engine that ends later.
    pub fn operate(
        &mut self,
        call: impl FnOnce(&mut Engine, Now, &mut World<'_>, Ticket) -> Result<(), OperatorError>,
    ) -> Result<Ended, OperatorError> {
        self.ticket_next += 1;
        let ticket = self.ticket_next;
        let (asked, ended) = oneshot::channel();
        self.tickets.insert(ticket, asked);
        match self.engine(|engine, now, world| call(engine, now, world, Ticket(ticket))) {
            Ok(()) => Ok(Ended(ended)),
            Err(error) => {
                self.tickets.remove(&ticket);
                Err(error)
            }
        }
    }
}

/// For the control plane.
impl Reactor {
    /// The block devices and the copy engine of this core, with the ring and the time to use them.
    pub fn core(&mut self) -> (&mut longrun_bdev::Core, &mut Uring, Now) {
        let now = self.now();
        (&mut self.parts.core, &mut self.parts.uring, now)
    }

    /// What the connections did, living and gone.
    pub fn served(&self) -> Served {
        let mut served = self.served;
        for (_, session) in &self.sessions {
            served.count(session);
        }
        served
    }

    /// Drops a session that is over; what it did stays counted.
    fn forget(&mut self, index: usize) {
        let session = self.sessions.remove(index);
        self.served.count(&session);
    }

    /// Whether the core sleeps when it has nothing to do.
    pub fn is_adaptive(&self) -> bool {
        self.parts.idle == Idle::Adaptive
    }

    /// Counters.
    pub fn stats(&self) -> ReactorStats {
        let allocations = alloc::calls() - self.asked_allocations;
        ReactorStats { enters: self.parts.uring.enters(), allocations, ..self.stats }
    }

    /// Whether a thread of the kernel's takes what the ring submits.
    pub fn is_polled(&self) -> bool {
        self.parts.uring.mode() == Mode::Polled
    }

    /// Ends the loop after this turn.
    pub fn stop(&mut self) {
        self.stopping = true;
    }
}

impl Served {
    fn count(&mut self, session: &Session) {
        let info = session.machine.info();
        match info.queue {
            Some(queue) if queue.qid == 0 => self.admin_qpairs += 1,
            Some(_) => self.io_qpairs += 1,
            None => {}
        }
        self.commands += info.stats.commands;
        self.protocol_errors += info.stats.protocol_errors;
    }
}

/// The NVMe-oF machine's word for how a block request ended. Only a read has a buffer to give back.
fn status_of(result: Result<(), IoError>, is_read: bool) -> BlockStatus {
    match result {
        Ok(()) => BlockStatus::Ok,
        Err(IoError::OutOfRange { .. }) => BlockStatus::OutOfRange,
        Err(IoError::Device { errno: libc::ENOSPC | libc::EDQUOT }) => BlockStatus::NoSpace,
        Err(IoError::Device { .. }) if is_read => BlockStatus::ReadError,
        Err(IoError::Device { .. }) => BlockStatus::WriteError,
        Err(IoError::Secondary) => BlockStatus::NotReady,
        Err(IoError::Fenced) => BlockStatus::WriteProtected,
        Err(IoError::Transition) => BlockStatus::Transition,
        Err(IoError::Aborted | IoError::NoMemory) => BlockStatus::Aborted,
        Err(_) => BlockStatus::Internal,
    }
}
