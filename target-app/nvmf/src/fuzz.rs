//! Entry points for fuzzers: the same machine with memory, block devices and messages that answer at once.

use std::sync::Arc;

use crate::{
    host,
    nqn::Nqn,
    target::{
        AnaGroup, BdevHandle, BlockOp, BlockRequest, BlockSize, BlockStatus, CloseReason, Connection, ConnectionId,
        ConnectionOptions, Core, Event, ModelNumber, Namespace, NamespaceState, Nsid, Outgoing, Peer, PeerMessage,
        Ports, RecvTarget, SerialNumber, Subsystem, TargetConfig,
    },
};

/// Payload memory given out at a time, and so what a fuzzer may make the target hold.
const MEMORY_BYTES: usize = 4 << 20;

/// What is outside of the connections: all of it, so that they can be told of each other's messages.
struct Fuzzed {
    core: Core,
    /// With the connection that asked.
    requests: Vec<(usize, BlockRequest<Vec<u8>>)>,
    messages: Vec<(Peer, PeerMessage)>,
    /// By connection.
    wires: [Wire; CONNECTIONS_MAX],
    /// The connection that is being handled.
    at: usize,
}

/// Connection `i` has the id `i + 1`.
const CONNECTIONS_MAX: usize = 2;

#[derive(Default)]
struct Wire {
    sent: Vec<u8>,
    sends: u32,
    closed: bool,
}

impl Ports for Fuzzed {
    type Buf = Vec<u8>;

    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn alloc(&mut self, bytes: usize) -> Option<Vec<u8>> {
        (bytes <= MEMORY_BYTES).then(|| vec![0; bytes])
    }

    fn submit(&mut self, request: BlockRequest<Vec<u8>>) {
        self.requests.push((self.at, request));
    }

    fn send(&mut self, outgoing: Outgoing<Vec<u8>>) {
        let wire = self.wire();
        assert!(!wire.closed, "sent after close");
        wire.sends += 1;
        for piece in outgoing.pieces() {
            wire.sent.extend_from_slice(piece);
        }
    }

    fn tell(&mut self, to: Peer, message: PeerMessage) {
        self.messages.push((to, message));
    }

    fn close(&mut self, _reason: CloseReason) {
        let wire = self.wire();
        assert!(!wire.closed, "closed twice");
        wire.closed = true;
    }
}

impl Fuzzed {
    fn wire(&mut self) -> &mut Wire {
        &mut self.wires[self.at]
    }

    /// What connection `at` has sent since it was asked last.
    fn take_sent(&mut self, at: usize) -> Vec<u8> {
        std::mem::take(&mut self.wires[at].sent)
    }
}

const NAMES: [&str; 2] = ["nqn.2026-11.io.longrun:fuzz", "nqn.2026-11.io.longrun:host"];

type Connections = [Connection<Vec<u8>>; CONNECTIONS_MAX];

/// None never happens: the names above are good.
fn set_up() -> Option<(Fuzzed, Connections, host::QueueOptions)> {
    let [subsystem_nqn, host_nqn]: [Nqn; 2] = [NAMES[0].parse().ok()?, NAMES[1].parse().ok()?];
    let listener = "192.0.2.1:4420".parse().ok()?;
    let mut subsystem =
        Subsystem::new(subsystem_nqn.clone(), SerialNumber::new("F").ok()?, ModelNumber::new("F").ok()?);
    subsystem.allow_any_host = true;
    subsystem.listeners.push(listener);
    let nsid = Nsid::new(1)?;
    let namespace = Namespace {
        nsid,
        bdev: BdevHandle(1),
        blocks: 1 << 16,
        block_size: BlockSize::B512,
        nguid: [1; 16],
        uuid: [1; 16],
        eui64: None,
        state: NamespaceState::Ready,
        ana_group: AnaGroup::of(nsid),
        deallocates: true,
    };
    subsystem.namespaces.insert(nsid, namespace);
    let mut config = TargetConfig::default();
    config.set_subsystem(subsystem);
    let ports = Fuzzed {
        core: Core::new(0, 1, Arc::new(config)),
        requests: Vec::new(),
        messages: Vec::new(),
        wires: Default::default(),
        at: 0,
    };
    let connect =
        |id| Connection::new(0, ConnectionOptions { id: ConnectionId(id), local: listener, peer: listener, listener });
    let host = host::QueueOptions::admin(host_nqn, [1; 16], subsystem_nqn);
    Some((ports, [connect(1), connect(2)], host))
}

/// Feeds `bytes` to a target's connection. The first byte chooses how far a well-behaved host got before (nothing, ICReq,
/// Connect of the admin queue, Connect of an I/O queue of a controller that is up) and the sizes of the receives; the rest
/// is what arrives then. Panics only for a bug.
pub fn fuzz_connection(bytes: &[u8]) {
    let Some((&control, arriving)) = bytes.split_first() else { return };
    let Some((mut ports, mut connections, options)) = set_up() else { return };
    let at = match control & 3 {
        3 => {
            bring_up_io_queue(&mut connections, &mut ports, options);
            1
        }
        steps => {
            let mut host = host::Queue::new(options);
            for _ in 0..steps {
                feed(&mut connections, 0, &mut ports, &host.take_output());
                host.receive(&ports.take_sent(0));
            }
            0
        }
    };
    let cut = usize::from(control >> 2) * 16 + 1;
    for piece in arriving.chunks(cut) {
        feed(&mut connections, at, &mut ports, piece);
    }
    for event in [Event::Tick, Event::Disconnected] {
        handle(&mut connections, at, &mut ports, event);
    }
    answer(&mut connections, &mut ports);
    assert!(connections[at].is_finished(), "a closed connection without requests is not finished");
}

/// Brings a controller up over connection 0 and connects an I/O queue over connection 1, as a good host does. True if the
/// queue is connected.
fn bring_up_io_queue(connections: &mut Connections, ports: &mut Fuzzed, options: host::QueueOptions) -> bool {
    let mut admin = host::Controller::new(options.clone(), 1);
    // Until nothing more is to be said; some dozen exchanges.
    loop {
        let output = admin.take_output();
        if output.is_empty() {
            break;
        }
        feed(connections, 0, ports, &output);
        admin.receive(&ports.take_sent(0));
    }
    let Some(host::ControllerEvent::Ready(found)) = admin.poll() else { return false };
    let mut queue = host::Queue::new(options.io(1, 32, found.cntlid, found.in_capsule_bytes));
    for _ in 0..2 {
        feed(connections, 1, ports, &queue.take_output());
        queue.receive(&ports.take_sent(1));
    }
    matches!(queue.poll(), Some(host::QueueEvent::Connected { .. }))
}

/// Feeds `bytes` to a host's queue, as a hostile target would. Panics only for a bug.
pub fn fuzz_host(bytes: &[u8]) {
    let Some((&control, arriving)) = bytes.split_first() else { return };
    let Some((mut ports, mut connections, options)) = set_up() else { return };
    let mut host = host::Controller::new(options, 1);
    for _ in 0..control & 15 {
        feed(&mut connections, 0, &mut ports, &host.take_output());
        host.receive(&ports.take_sent(0));
    }
    for piece in arriving.chunks(usize::from(control >> 4) * 16 + 1) {
        host.receive(piece);
    }
}

fn handle(connections: &mut Connections, at: usize, ports: &mut Fuzzed, event: Event<Vec<u8>>) {
    ports.at = at;
    connections[at].handle(0, event, ports);
}

fn feed(connections: &mut Connections, at: usize, ports: &mut Fuzzed, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        ports.at = at;
        let connection = &mut connections[at];
        let used = match connection.recv_target() {
            RecvTarget::Paused => return,
            RecvTarget::Staging => connection.receive(0, rest, ports),
            RecvTarget::Into { mut buf, range } => {
                let take = range.len().min(rest.len());
                if let (Some(to), Some(from)) = (buf.get_mut(range.start..range.start + take), rest.get(..take)) {
                    to.copy_from_slice(from);
                }
                connection.received_into(0, buf, take, ports);
                take
            }
        };
        answer(connections, ports);
        assert!(used > 0, "neither paused nor taking bytes");
        rest = rest.get(used..).unwrap_or_default();
    }
}

/// Answers everything the connections asked for.
fn answer(connections: &mut Connections, ports: &mut Fuzzed) {
    loop {
        for at in 0..CONNECTIONS_MAX {
            let count = std::mem::take(&mut ports.wires[at].sends);
            if count > 0 {
                handle(connections, at, ports, Event::Sent { count });
            }
        }
        if let Some((at, request)) = ports.requests.pop() {
            let buf = if let BlockOp::Read { buf, .. } = request.op { Some(buf) } else { None };
            handle(connections, at, ports, Event::BlockDone { tag: request.tag, status: BlockStatus::Ok, buf });
        } else if let Some((to, message)) = ports.messages.pop() {
            deliver(connections, ports, to, message);
        } else if ports.wires.iter().all(|wire| wire.sends == 0) {
            return;
        }
    }
}

/// Hands a message to the connection it is for; one for a controller that is gone is answered as the core would.
fn deliver(connections: &mut Connections, ports: &mut Fuzzed, to: Peer, message: PeerMessage) {
    let connection = match to {
        Peer::Connection(id) => Some(id),
        Peer::Controller(controller) => ports.core.connection_of(controller),
    };
    let index = |id: ConnectionId| usize::try_from(id.0 - 1).ok().filter(|at| *at < CONNECTIONS_MAX);
    match connection.and_then(index) {
        // One that has ended is gone for its reactor too.
        Some(at) if connections[at].is_finished() => {}
        Some(at) => handle(connections, at, ports, Event::Peer(message)),
        None => {
            if let Some((Peer::Connection(back), refusal)) = message.undelivered()
                && let Some(at) = index(back)
            {
                handle(connections, at, ports, Event::Peer(refusal));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_either_end(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            fuzz_connection(&bytes);
            fuzz_host(&bytes);
        }
    }

    #[test]
    fn the_prefix_of_the_fuzzed_connection_really_connects() {
        let (mut ports, mut connections, options) = set_up().unwrap();
        let mut host = host::Queue::new(options);
        for _ in 0..2 {
            feed(&mut connections, 0, &mut ports, &host.take_output());
            host.receive(&ports.take_sent(0));
        }
        assert!(matches!(host.poll(), Some(host::QueueEvent::Connected { .. })));
    }

    #[test]
    fn the_fuzzed_io_queue_is_one_of_a_controller_that_is_up() {
        let (mut ports, mut connections, options) = set_up().unwrap();
        assert!(bring_up_io_queue(&mut connections, &mut ports, options));
        // Its writes and reads reach the volume.
        let mut capsule = vec![4, 0, 72, 0, 72, 0, 0, 0, 2, 0x40, 9, 0, 1, 0, 0, 0];
        capsule.extend_from_slice(&[0; 16]);
        capsule.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0x5a]);
        capsule.extend_from_slice(&[0; 24]);
        feed(&mut connections, 1, &mut ports, &capsule);
        assert!(ports.take_sent(1).len() >= 512, "a read of one block was not answered with its data");
    }
}
