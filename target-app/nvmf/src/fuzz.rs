//! Entry points for fuzzers: the same machine with memory, block devices and messages that answer at once.

use std::sync::Arc;

use crate::{
    host,
    nqn::Nqn,
    target::{
        BdevHandle, BlockOp, BlockRequest, BlockSize, BlockStatus, CloseReason, Connection, ConnectionId,
        ConnectionOptions, Core, Event, ModelNumber, Namespace, NamespaceState, Nsid, Outgoing, Peer, PeerMessage,
        Ports, RecvTarget, SerialNumber, Subsystem, TargetConfig,
    },
};

/// Payload memory given out at a time, and so what a fuzzer may make the target hold.
const MEMORY_BYTES: usize = 4 << 20;

struct Fuzzed {
    core: Core,
    requests: Vec<BlockRequest<Vec<u8>>>,
    messages: Vec<(Peer, PeerMessage)>,
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
        self.requests.push(request);
    }

    fn send(&mut self, outgoing: Outgoing<Vec<u8>>) {
        assert!(!self.closed, "sent after close");
        self.sends += 1;
        for piece in outgoing.pieces() {
            self.sent.extend_from_slice(piece);
        }
    }

    fn tell(&mut self, to: Peer, message: PeerMessage) {
        self.messages.push((to, message));
    }

    fn close(&mut self, _reason: CloseReason) {
        assert!(!self.closed, "closed twice");
        self.closed = true;
    }
}

const NAMES: [&str; 2] = ["nqn.2026-11.io.longrun:fuzz", "nqn.2026-11.io.longrun:host"];

/// None never happens: the names above are good.
fn set_up() -> Option<(Fuzzed, Connection<Vec<u8>>, host::QueueOptions)> {
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
        deallocates: true,
    };
    subsystem.namespaces.insert(nsid, namespace);
    let mut config = TargetConfig::default();
    config.set_subsystem(subsystem);
    let ports = Fuzzed {
        core: Core::new(0, 1, Arc::new(config)),
        requests: Vec::new(),
        messages: Vec::new(),
        sent: Vec::new(),
        sends: 0,
        closed: false,
    };
    let options = ConnectionOptions { id: ConnectionId(1), local: listener, peer: listener, listener };
    let host = host::QueueOptions::admin(host_nqn, [1; 16], subsystem_nqn);
    Some((ports, Connection::new(0, options), host))
}

/// Feeds `bytes` to a target's connection. The first byte chooses how far a well-behaved host got before (nothing, ICReq,
/// Connect of the admin queue) and the sizes of the receives; the rest is what arrives then. Panics only for a bug.
pub fn fuzz_connection(bytes: &[u8]) {
    let Some((&control, arriving)) = bytes.split_first() else { return };
    let Some((mut ports, mut connection, options)) = set_up() else { return };
    let mut host = host::Queue::new(options);
    for _ in 0..control & 3 {
        let output = host.take_output();
        feed(&mut connection, &mut ports, &output);
        host.receive(&std::mem::take(&mut ports.sent));
    }
    let cut = usize::from(control >> 2) * 16 + 1;
    for piece in arriving.chunks(cut) {
        feed(&mut connection, &mut ports, piece);
    }
    connection.handle(u64::MAX, Event::Tick, &mut ports);
    connection.handle(u64::MAX, Event::Disconnected, &mut ports);
    answer(&mut connection, &mut ports);
    assert!(connection.is_finished(), "a closed connection without requests is not finished");
}

/// Feeds `bytes` to a host's queue, as a hostile target would. Panics only for a bug.
pub fn fuzz_host(bytes: &[u8]) {
    let Some((&control, arriving)) = bytes.split_first() else { return };
    let Some((mut ports, mut connection, options)) = set_up() else { return };
    let mut host = host::Controller::new(options, 1);
    for _ in 0..control & 15 {
        let output = host.take_output();
        feed(&mut connection, &mut ports, &output);
        host.receive(&std::mem::take(&mut ports.sent));
    }
    for piece in arriving.chunks(usize::from(control >> 4) * 16 + 1) {
        host.receive(piece);
    }
}

fn feed(connection: &mut Connection<Vec<u8>>, ports: &mut Fuzzed, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
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
        answer(connection, ports);
        assert!(used > 0, "neither paused nor taking bytes");
        rest = rest.get(used..).unwrap_or_default();
    }
}

/// Answers everything the connection asked for.
fn answer(connection: &mut Connection<Vec<u8>>, ports: &mut Fuzzed) {
    loop {
        let count = std::mem::take(&mut ports.sends);
        connection.handle(0, Event::Sent { count }, ports);
        if let Some(request) = ports.requests.pop() {
            let buf = if let BlockOp::Read { buf, .. } = request.op { Some(buf) } else { None };
            connection.handle(0, Event::BlockDone { tag: request.tag, status: BlockStatus::Ok, buf }, ports);
        } else if let Some((to, message)) = ports.messages.pop() {
            if let Peer::Controller(controller) = to
                && ports.core.connection_of(controller).is_none()
            {
                if let Some((_, refusal)) = message.undelivered() {
                    connection.handle(0, Event::Peer(refusal), ports);
                }
            } else {
                connection.handle(0, Event::Peer(message), ports);
            }
        } else {
            return;
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
        let (mut ports, mut connection, options) = set_up().unwrap();
        let mut host = host::Queue::new(options);
        for _ in 0..2 {
            feed(&mut connection, &mut ports, &host.take_output());
            host.receive(&std::mem::take(&mut ports.sent));
        }
        assert!(matches!(host.poll(), Some(host::QueueEvent::Connected { .. })));
    }
}
