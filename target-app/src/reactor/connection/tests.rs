use super::*;
use longrun_hal::arena::ArenaConfig;
use longrun_hal::uring::UringConfig;
use longrun_nvmf::host::{HostError, Queue, QueueEvent, QueueOptions};
use longrun_nvmf::target::ConnectionOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

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
        }
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
            self.with(id.0 as usize, |session, turn| session.pump(turn));
        }
        self.flush();
    }

    fn with<T>(&mut self, index: usize, run: impl FnOnce(&mut Session, &mut Turn<'_>) -> T) -> T {
        let mut turn = Turn {
            now_ns: 0,
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
            self.with(index, |session, turn| session.flush(turn));
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
            self.with(index, |session, turn| match completion.token % 2 {
                0 => session.received(turn, completion),
                _ => session.sent(turn, &completion),
            });
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
