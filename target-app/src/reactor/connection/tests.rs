use super::*;
use longrun_hal::arena::ArenaConfig;
use longrun_hal::uring::UringConfig;
use longrun_nvmf::host::{Command, Controller, ControllerEvent, HostError, Queue, QueueEvent, QueueOptions};
use longrun_nvmf::target::{
    AnaGroup, BdevHandle, BlockSize, ConnectionOptions, ModelNumber, Namespace, NamespaceState, Nsid, SerialNumber,
    Subsystem, TargetConfig,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const SUBSYSTEM: &str = "nqn.2026-11.test:one";

/// A core's connections without the rest of the core, and the hosts at their other ends.
struct World {
    arena: Arena,
    uring: Uring,
    shared: Core,
    effects: Effects,
    sessions: Vec<Session>,
    hosts: Vec<TcpStream>,
    listener: TcpListener,
    /// Receives that found the pool empty.
    dry: usize,
    now_ns: u64,
    /// Which sessions said that they are over.
    over: Vec<bool>,
    /// Bytes that were received straight into their command's buffer.
    straight: usize,
}

impl World {
    /// A core with so many buffers in its pool; with 0 it has none.
    fn new(buffers: usize) -> World {
        let arena = Arena::new(ArenaConfig::new(8 << 20)).unwrap();
        let mut uring = Uring::new(UringConfig::with_entries(256), None).unwrap();
        if buffers > 0 {
            uring.make_pool(&arena, buffers, STAGING_BYTES).unwrap();
        }
        World {
            arena,
            uring,
            shared: Core::new(0, 1, Arc::default()),
            effects: Effects::default(),
            sessions: Vec::new(),
            hosts: Vec::new(),
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            dry: 0,
            now_ns: 0,
            over: Vec::new(),
            straight: 0,
        }
    }

    /// A core that serves one namespace of blocks of 512 bytes to anybody.
    fn with_namespace(buffers: usize) -> World {
        let mut world = World::new(buffers);
        let nsid = Nsid::new(1).unwrap();
        let mut subsystem = Subsystem::new(
            SUBSYSTEM.parse().unwrap(),
            SerialNumber::new("LR0001").unwrap(),
            ModelNumber::new("Longrun").unwrap(),
        );
        subsystem.allow_any_host = true;
        subsystem.listeners.push(world.listener.local_addr().unwrap());
        let namespace = Namespace {
            nsid,
            bdev: BdevHandle(0),
            blocks: 4096,
            block_size: BlockSize::B512,
            nguid: [1; 16],
            uuid: [1; 16],
            eui64: None,
            state: NamespaceState::Ready,
            ana_group: AnaGroup::of(nsid),
            deallocates: false,
        };
        subsystem.namespaces.insert(nsid, namespace);
        let mut config = TargetConfig::default();
        config.set_subsystem(subsystem);
        world.shared.set_config(Arc::new(config));
        world
    }

    fn connect(&mut self, hosts: usize) {
        let local = self.listener.local_addr().unwrap();
        for _ in 0..hosts {
            let host = TcpStream::connect(local).unwrap();
            host.set_read_timeout(Some(PATIENCE)).unwrap();
            let (socket, peer) = self.listener.accept().unwrap();
            let id = ConnectionId(self.sessions.len() as u64);
            let machine = Connection::new(0, ConnectionOptions { id, peer, local, listener: local });
            self.sessions.push(Session::new(id, machine, Fd::from(socket)));
            self.hosts.push(host);
            self.over.push(false);
            self.with(id.0 as usize, |session, turn| session.pump(turn));
        }
        self.flush();
    }

    fn with<T>(&mut self, index: usize, run: impl FnOnce(&mut Session, &mut Turn<'_>) -> T) -> T {
        let mut turn = Turn {
            now_ns: self.now_ns,
            shared: &mut self.shared,
            arena: &self.arena,
            uring: &mut self.uring,
            effects: &mut self.effects,
            recv_token: index as u64 * 2,
            send_token: index as u64 * 2 + 1,
        };
        run(&mut self.sessions[index], &mut turn)
    }

    fn flush(&mut self) {
        for index in 0..self.sessions.len() {
            self.over[index] |= self.with(index, |session, turn| session.flush(turn));
        }
    }

    fn turn(&mut self) {
        let mut came = Vec::new();
        self.uring.submit_and_reap(Some(Duration::from_millis(10)), &mut came).unwrap();
        // A shutdown's end is nobody's.
        for completion in came.into_iter().filter(|done| done.token != crate::reactor::token::IGNORED) {
            let errno = completion.result.as_ref().err().and_then(std::io::Error::raw_os_error);
            self.dry += usize::from(errno == Some(libc::ENOBUFS));
            let index = (completion.token / 2) as usize;
            assert!(!self.over[index], "something of a session that is over was still in flight");
            if matches!(self.sessions[index].receiving, Receiving::Into) && completion.token % 2 == 0 {
                self.straight += completion.result.as_ref().map_or(0, |bytes| *bytes as usize);
            }
            self.with(index, |session, turn| match completion.token % 2 {
                0 => session.received(turn, completion),
                _ => session.sent(turn, &completion),
            });
        }
        for (to, message) in std::mem::take(&mut self.effects.messages) {
            let id = match to {
                Peer::Controller(controller) => self.shared.connection_of(controller),
                Peer::Connection(id) => Some(id),
            };
            let Some(id) = id else { continue };
            self.with(id.0 as usize, |session, turn| session.handle(turn, Event::Peer(message)));
        }
        self.flush();
    }

    fn turn_until(&mut self, mut is_there: impl FnMut(&World) -> bool) {
        let start = Instant::now();
        while !is_there(self) {
            assert!(start.elapsed() < PATIENCE, "it does not come to that");
            self.turn();
        }
    }

    /// Each host initialises and asks for a subsystem that nobody has, all in the same turn; answers what they were told.
    fn ask(&mut self) -> Vec<QueueEvent> {
        let hosts = self.hosts.len();
        let name = |name: &str| name.parse().unwrap();
        let options = QueueOptions::admin(name("nqn.2026-11.test:host"), [7; 16], name("nqn.2026-11.test:none"));
        let mut queues: Vec<Queue> = (0..hosts).map(|_| Queue::new(options.clone())).collect();
        let mut events: Vec<Option<QueueEvent>> = vec![None; hosts];
        let start = Instant::now();
        while events.iter().any(Option::is_none) {
            assert!(start.elapsed() < PATIENCE, "{events:?}");
            for (queue, mut host) in queues.iter_mut().zip(&self.hosts) {
                host.write_all(&queue.take_output()).unwrap();
            }
            self.turn();
            for ((queue, mut host), event) in queues.iter_mut().zip(&self.hosts).zip(&mut events) {
                host.set_nonblocking(true).unwrap();
                let mut bytes = [0; 4096];
                if let Ok(count @ 1..) = host.read(&mut bytes) {
                    queue.receive(&bytes[..count]);
                }
                host.set_nonblocking(false).unwrap();
                *event = event.take().or_else(|| queue.poll());
            }
        }
        events.into_iter().flatten().collect()
    }

    /// A host's bytes go, the core has a turn, and what it answered comes back.
    fn exchange(&mut self, index: usize, bytes: &[u8]) -> Vec<u8> {
        self.hosts[index].write_all(bytes).unwrap();
        self.turn();
        let mut answer = vec![0; 64 << 10];
        self.hosts[index].set_nonblocking(true).unwrap();
        let count = match self.hosts[index].read(&mut answer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("the host cannot read: {error}"),
        };
        self.hosts[index].set_nonblocking(false).unwrap();
        answer.truncate(count);
        answer
    }

    /// Connects an admin queue, which is host 0, and an I/O queue, which is host 1.
    fn io_queue(&mut self) -> Queue {
        let start = Instant::now();
        self.connect(2);
        let host = "nqn.2026-11.test:host".parse().unwrap();
        let mut admin = Controller::new(QueueOptions::admin(host, [7; 16], SUBSYSTEM.parse().unwrap()), 1);
        let description = loop {
            assert!(start.elapsed() < PATIENCE);
            match admin.poll() {
                Some(ControllerEvent::Ready(description)) => break description,
                Some(other) => panic!("{other:?}"),
                None => {
                    let answer = self.exchange(0, &admin.take_output());
                    admin.receive(&answer);
                }
            }
        };
        let entries = description.entries_max;
        let mut queue = Queue::new(admin.options().io(1, entries, description.cntlid, description.in_capsule_bytes));
        loop {
            assert!(start.elapsed() < PATIENCE);
            match queue.poll() {
                Some(QueueEvent::Connected { .. }) => break queue,
                Some(other) => panic!("{other:?}"),
                None => {
                    let answer = self.exchange(1, &queue.take_output());
                    queue.receive(&answer);
                }
            }
        }
    }

    /// Until the target has asked for the payloads of so many writes: what the host would send now.
    fn payloads_asked_for(&mut self, queue: &mut Queue, writes: u64) -> Vec<u8> {
        for token in 0..writes {
            let data: Vec<u8> = (0..PAYLOAD_BYTES).map(payload_byte).collect();
            queue.submit(Command::write(1, 0, (PAYLOAD_BYTES / 512) as u16, data, false), token).unwrap();
        }
        let mut output = Vec::new();
        let start = Instant::now();
        let mut commands = queue.take_output();
        while output.len() < writes as usize * PAYLOAD_BYTES {
            assert!(start.elapsed() < PATIENCE);
            let answer = self.exchange(1, &std::mem::take(&mut commands));
            queue.receive(&answer);
            output.extend(queue.take_output());
        }
        output
    }
}

/// More than a capsule holds.
const PAYLOAD_BYTES: usize = 256 << 10;

fn payload_byte(at: usize) -> u8 {
    (at * 7 / 5) as u8
}

fn is_refusal(event: &QueueEvent) -> bool {
    matches!(event, QueueEvent::Failed(HostError::Refused { .. }))
}

#[test]
fn connections_that_say_nothing_hold_no_memory() {
    let mut world = World::new(4);
    world.turn();
    let used = world.arena.stats().used_bytes;
    world.connect(50);
    world.turn();
    assert_eq!(world.arena.stats().used_bytes, used);
    assert!(world.ask().iter().all(is_refusal));
    world.turn_until(|world| world.uring.pooled() == Some(4));
    assert_eq!(world.arena.stats().used_bytes, used, "nor those that did, once they are answered");
}

#[test]
fn hosts_whose_bytes_find_the_pool_empty_are_answered_as_the_others() {
    let mut world = World::new(1);
    world.connect(8);
    world.turn();
    assert!(world.ask().iter().all(is_refusal));
    // Of each host's two messages; who found it empty does not try its luck again.
    assert!((1..=2 * 7).contains(&world.dry), "{} times, eight at once and one buffer", world.dry);
    world.turn_until(|world| world.uring.pooled() == Some(1));
}

#[test]
fn without_a_pool_connections_receive_into_memory_of_their_own() {
    let mut world = World::new(0);
    world.connect(8);
    world.turn();
    assert!(world.ask().iter().all(is_refusal));
    assert_eq!(world.dry, 0);
}

#[test]
fn a_dry_connection_without_memory_of_its_own_waits_for_some() {
    let mut world = World::new(0);
    let mut kept: Vec<Buf> = std::iter::from_fn(|| world.arena.alloc(4096)).collect();
    world.connect(1);
    assert!(world.sessions[0].starved, "the reactor is to tell it when memory is free");
    world.hosts[0].write_all(&[0; 8]).unwrap();
    world.turn();
    assert_eq!(world.uring.in_flight(), 0);
    kept.clear();
    assert!(world.ask().iter().all(|event| matches!(event, QueueEvent::Failed(_))));
}

#[test]
fn a_connection_that_ends_leaves_its_buffers_to_the_others() {
    let mut world = World::new(2);
    world.connect(3);
    world.turn();
    world.hosts.clear();
    world.turn_until(|world| world.uring.in_flight() == 0);
    assert_eq!(world.uring.pooled(), Some(2));
    assert!(world.sessions.iter().all(|session| session.machine.is_finished()));
}

/// ICReq, then commands that are all refused; a few more than ten are more answers than a queue without entries holds.
fn commands(count: usize) -> Vec<u8> {
    let mut bytes = [&[0, 0, 128, 0, 128], [0; 123].as_slice()].concat();
    bytes.extend([&[4, 0, 72, 0, 72, 0, 0, 0, 6], [0; 63].as_slice()].concat().repeat(count));
    bytes
}

#[test]
fn a_connection_that_cannot_go_on_keeps_no_buffer_from_others_and_loses_nothing() {
    const COMMANDS: usize = 3000;
    let mut world = World::new(2);
    world.connect(1);
    let mut host = world.hosts[0].try_clone().unwrap();
    let bytes = commands(COMMANDS);
    let sending = std::thread::spawn(move || host.write_all(&bytes).unwrap());
    let mut waited = false;
    let (mut answer, mut host) = (vec![0; 128 + 24 * COMMANDS], world.hosts[0].try_clone().unwrap());
    let reading = std::thread::spawn(move || {
        host.read_exact(&mut answer).unwrap();
        answer
    });
    world.turn_until(|world| {
        let session = &world.sessions[0];
        waited |= !session.came.is_empty();
        // Only what is on its way from the kernel is not in the pool.
        assert!(session.came.len() == session.copies, "{} of {}", session.copies, session.came.len());
        reading.is_finished()
    });
    assert!(waited, "all was taken at once");
    sending.join().unwrap();
    let answers = reading.join().unwrap();
    assert!(answers[128..].chunks_exact(24).all(|response| response[..5] == [5, 0, 24, 0, 24]));
    world.turn();
    assert_eq!(world.uring.pooled(), Some(2));
}

#[test]
fn a_connection_that_cannot_go_on_receives_nothing_more() {
    let mut world = World::new(16);
    world.connect(1);
    let bytes = commands(400_000);
    let mut host = world.hosts[0].try_clone().unwrap();
    host.set_nonblocking(true).unwrap();
    let mut written = 0;
    // More answers than both sockets hold.
    world.turn_until(|world| {
        written += host.write(&bytes[written..written + (64 << 10)]).unwrap_or(0);
        !world.sessions[0].came.is_empty()
    });
    // A little at a time, so that the pool is never empty, which would end a receive too.
    for _ in 0..50 {
        written += host.write(&bytes[written..written + 720]).unwrap_or(0);
        world.turn();
    }
    assert!(matches!(world.sessions[0].receiving, Receiving::Rests));
}

#[test]
fn what_comes_behind_a_copy_that_is_parsed_in_part_is_parsed_whole() {
    let mut world = World::new(2);
    world.connect(1);
    let bytes = commands(60);
    let come = |world: &mut World, bytes: &[u8]| {
        let returned = Returned::Buf(Buf::from_vec(bytes.to_vec()));
        let result = Ok(bytes.len() as u32);
        let completion = Completion { token: 0, result, returned, from: None, segment_bytes: 0, more: true };
        world.with(0, |session, turn| session.received(turn, completion));
    };
    come(&mut world, &bytes[..3000]);
    world.flush();
    world.turn_until(|world| world.sessions[0].parsed > 0);
    assert_eq!((world.sessions[0].came.len(), world.sessions[0].copies), (1, 1));
    come(&mut world, &bytes[3000..]);
    assert_eq!((world.sessions[0].came.len(), world.sessions[0].copies), (2, 2));
    world.turn_until(|world| world.sessions[0].machine.stats().commands == 60);
    assert_eq!(world.sessions[0].machine.stats().protocol_errors, 0);
}

#[test]
fn large_payloads_go_straight_into_their_commands_buffers_and_then_all_is_received_with_many_shots_again() {
    let mut world = World::with_namespace(4);
    let mut queue = world.io_queue();
    assert_eq!(world.straight, 0);
    let output = world.payloads_asked_for(&mut queue, 2);
    let mut host = world.hosts[1].try_clone().unwrap();
    let sending = std::thread::spawn(move || host.write_all(&output).unwrap());
    world.turn_until(|world| world.effects.requests.len() == 2);
    sending.join().unwrap();
    let copied = 2 * PAYLOAD_BYTES - world.straight;
    assert!(copied <= STAGING_BYTES + STAGING_BETWEEN_BYTES, "{copied} bytes came with the two headers");
    for (_, request) in world.effects.requests.drain(..) {
        let BlockOp::Write { data, .. } = request.op else { panic!("{:?}", request.op) };
        assert!(data[..PAYLOAD_BYTES].iter().enumerate().all(|(at, byte)| *byte == payload_byte(at)));
    }
    world.turn_until(|world| matches!(world.sessions[1].receiving, Receiving::Many(_)));
}

#[test]
fn a_host_that_goes_in_the_middle_of_a_payload_leaves_nothing() {
    let mut world = World::with_namespace(4);
    world.turn();
    let used = world.arena.stats().used_bytes;
    let mut queue = world.io_queue();
    let output = world.payloads_asked_for(&mut queue, 1);
    world.exchange(1, &output[..100_000]);
    world.turn_until(|world| matches!(world.sessions[1].receiving, Receiving::Into));
    world.hosts.clear();
    world.turn_until(|world| world.over.iter().all(|over| *over));
    assert_eq!(world.uring.pooled(), Some(4));
    assert_eq!(world.arena.stats().used_bytes, used);
    assert!(world.effects.requests.is_empty(), "half a payload is no write");
}

#[test]
fn what_comes_to_a_connection_that_is_closed_goes_back_to_the_pool() {
    let mut world = World::new(2);
    world.connect(1);
    world.turn();
    // It has come, and nobody has looked yet.
    world.hosts[0].write_all(&commands(10)).unwrap();
    world.with(0, |session, turn| session.handle(turn, Event::Close));
    world.flush();
    assert!(world.sessions[0].shut && matches!(world.sessions[0].receiving, Receiving::Many(_)));
    world.turn_until(|world| world.over[0]);
    assert_eq!(world.uring.pooled(), Some(2));
    assert_eq!(world.sessions[0].machine.stats().commands, 0);
}

#[test]
fn a_connection_that_is_closed_does_not_wait_for_ever_for_a_host_that_reads_nothing() {
    let mut world = World::new(2);
    world.connect(1);
    let mut host = world.hosts[0].try_clone().unwrap();
    // More answers than both sockets hold.
    let writing = std::thread::spawn(move || host.write_all(&commands(400_000)).is_err());
    world.turn_until(|world| world.sessions[0].sends_in_flight > 0 && !world.sessions[0].came.is_empty());
    let mut quiet = 0;
    let mut answered = 0;
    world.turn_until(|world| {
        let now = world.sessions[0].machine.stats().commands;
        quiet = if now == answered { quiet + 1 } else { 0 };
        answered = now;
        quiet > 20
    });
    world.with(0, |session, turn| session.handle(turn, Event::Close));
    (0..20).for_each(|_| world.turn());
    assert!(!world.over[0] && world.sessions[0].is_closing(), "it has {CLOSE_NS_MAX} ns");
    world.now_ns = CLOSE_NS_MAX;
    world.turn_until(|world| world.over[0]);
    assert_eq!(world.uring.pooled(), Some(2));
    // The reactor drops it then, and the host learns of it once the ring lets go of the socket too.
    world.sessions.clear();
    world.over.clear();
    world.turn_until(|_| writing.is_finished());
    assert!(writing.join().unwrap());
}
