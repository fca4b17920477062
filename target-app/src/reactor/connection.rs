//! One host's TCP connection: the NVMe-oF machine, its socket, and the bytes between them.
//!
//! Receiving: one receive is in flight at most, into the connection's staging buffer or — the payload of a large write —
//! straight into the command's own buffer. Sending: everything that a turn produced for a socket goes out as one send, a
//! read's data and its completion together; one send is in flight at most, and what comes meanwhile makes the next.
//!
//! A turn's send is queued before its receive: the kernel takes them in turn, and to find that nothing is there to be received
//! would else keep the host waiting.
//!
//! Sends are copied by the kernel. Its zero-copy ones were measured over loopback, where it copies for the receiver all the same:
//! 1.1 times the processor time at 4 KiB, 1.35 at 128 KiB, 1.5 at 512 KiB, so there is no size from which they pay.

use longrun_bdev::{BdevId, Io};
use longrun_copy::types::Extent;
use longrun_hal::arena::Arena;
use longrun_hal::uring::{Receive, Shutdown};
use longrun_hal::{Buf, Completion, Fd, Returned, Uring};
use longrun_nvmf::target::{
    BlockOp, BlockRange, BlockRequest, CloseReason, Connection, ConnectionId, Core, Event, Outgoing, Peer, PeerMessage,
    Ports, RecvTarget,
};
use smallvec::{SmallVec, smallvec};
use std::collections::VecDeque;

/// The staging buffer: holds several small capsules, so that a deep queue costs few receives.
pub const STAGING_BYTES: usize = 64 << 10;
/// What is received of it behind a large payload: the next one's header most likely, with little of its data, which is to go
/// into its own buffer and not be copied there.
const STAGING_BETWEEN_BYTES: usize = 4 << 10;
/// One send takes no more than this; a socket's buffer would not either.
const SEND_BYTES_MAX: usize = 2 << 20;
/// And no more pieces than this.
const SEND_PIECES_MAX: usize = 512;
/// How long a connection that is being closed gets to send what it has. A host that has stopped reading would else keep
/// the connection, its queues and its controller for ever.
const CLOSE_NS_MAX: u64 = 2_000_000_000;

/// What a connection's machine may use while it handles one event. Effects are collected and carried out afterwards by
/// the reactor, so nothing re-enters the machine.
pub struct ConnectionPorts<'a> {
    pub shared: &'a mut Core,
    pub arena: &'a Arena,
    pub effects: &'a mut Effects,
    pub outgoing: &'a mut VecDeque<Outgoing<Buf>>,
    pub starved: &'a mut bool,
    pub closing: &'a mut Option<CloseReason>,
}

/// What a machine asked for beside bytes for its own socket.
#[derive(Default)]
pub struct Effects {
    /// Block requests, with the connection that they are of.
    pub requests: Vec<(ConnectionId, BlockRequest<Buf>)>,
    /// Messages to other connections.
    pub messages: Vec<(Peer, PeerMessage)>,
    /// Whose machine is running.
    pub running: Option<ConnectionId>,
}

impl Ports for ConnectionPorts<'_> {
    type Buf = Buf;

    fn core(&mut self) -> &mut Core {
        self.shared
    }

    fn alloc(&mut self, bytes: usize) -> Option<Buf> {
        let buf = self.arena.alloc(bytes);
        *self.starved |= buf.is_none();
        buf
    }

    fn submit(&mut self, request: BlockRequest<Buf>) {
        let id = self.effects.running.expect("set by the reactor before it runs a machine");
        self.effects.requests.push((id, request));
    }

    fn send(&mut self, outgoing: Outgoing<Buf>) {
        self.outgoing.push_back(outgoing);
    }

    fn tell(&mut self, to: Peer, message: PeerMessage) {
        self.effects.messages.push((to, message));
    }

    fn close(&mut self, reason: CloseReason) {
        *self.closing = Some(reason);
    }
}

/// A connection at work.
pub struct Session {
    pub id: ConnectionId,
    pub machine: Connection<Buf>,
    pub socket: Fd,
    /// An allocation failed; the reactor will tell the machine to try again.
    pub starved: bool,
    receiving: Receiving,
    /// The last receive was a large payload's.
    is_between: bool,
    outgoing: VecDeque<Outgoing<Buf>>,
    /// Number of machine sends that the send in flight carries; 0 if none is in flight.
    sends_in_flight: u32,
    closing: Option<CloseReason>,
    /// When the closing no longer waits for what is to be sent; set when it begins.
    close_deadline_ns: Option<u64>,
    /// The socket was shut down; it is gone from the reactor's view once its last operation came back.
    shut: bool,
}

/// Where the bytes from the socket stand.
enum Receiving {
    /// `staging[from..to]` is to be parsed.
    Parsing { staging: Buf, from: usize, to: usize },
    /// All is parsed; the next flush receives what the machine wants.
    Due { staging: Buf, target: RecvTarget<Buf> },
    /// A receive into the staging buffer is in flight.
    Staging,
    /// A receive into a command's buffer is in flight; the staging buffer rests.
    Into { staging: Buf },
    /// The socket has ended or failed.
    Ended,
}

/// The reactor's things that a session needs to make progress.
pub struct Turn<'a> {
    pub now_ns: u64,
    pub shared: &'a mut Core,
    pub arena: &'a Arena,
    pub uring: &'a mut Uring,
    pub effects: &'a mut Effects,
    /// Names this session's receive and send in the ring.
    pub recv_token: u64,
    pub send_token: u64,
}

impl Session {
    /// A fresh connection with its staging buffer.
    pub fn new(id: ConnectionId, machine: Connection<Buf>, socket: Fd, staging: Buf) -> Session {
        Session {
            id,
            machine,
            socket,
            starved: false,
            receiving: Receiving::Parsing { staging, from: 0, to: 0 },
            is_between: false,
            outgoing: VecDeque::new(),
            sends_in_flight: 0,
            closing: None,
            close_deadline_ns: None,
            shut: false,
        }
    }

    /// Gives the machine an event.
    pub fn handle(&mut self, turn: &mut Turn<'_>, event: Event<Buf>) {
        let (machine, mut ports) = self.split(turn);
        machine.handle(ports.1, event, &mut ports.0);
        self.pump(turn);
    }

    fn split<'a>(&'a mut self, turn: &'a mut Turn<'_>) -> (&'a mut Connection<Buf>, (ConnectionPorts<'a>, u64)) {
        turn.effects.running = Some(self.id);
        let ports = ConnectionPorts {
            shared: turn.shared,
            arena: turn.arena,
            effects: turn.effects,
            outgoing: &mut self.outgoing,
            starved: &mut self.starved,
            closing: &mut self.closing,
        };
        (&mut self.machine, (ports, turn.now_ns))
    }

    /// A receive came back.
    pub fn received(&mut self, turn: &mut Turn<'_>, completion: Completion) {
        let Returned::Buf(buf) = completion.returned else { unreachable!("a receive gives its buffer back") };
        let bytes = completion.result.as_ref().map_or(0, |bytes| *bytes as usize);
        match std::mem::replace(&mut self.receiving, Receiving::Ended) {
            Receiving::Staging if bytes > 0 => {
                self.receiving = Receiving::Parsing { staging: buf, from: 0, to: bytes };
            }
            Receiving::Into { staging } => {
                let (machine, mut ports) = self.split(turn);
                machine.received_into(ports.1, buf, bytes, &mut ports.0);
                self.is_between = true;
                if bytes > 0 {
                    self.receiving = Receiving::Parsing { staging, from: 0, to: 0 };
                }
            }
            _ => {}
        }
        if bytes == 0 {
            return self.handle(turn, Event::Disconnected);
        }
        self.pump(turn);
    }

    /// A send came back.
    pub fn sent(&mut self, turn: &mut Turn<'_>, completion: &Completion) {
        let count = std::mem::take(&mut self.sends_in_flight);
        if completion.result.is_err() {
            self.outgoing.clear();
            self.handle(turn, Event::Disconnected);
        } else {
            self.handle(turn, Event::Sent { count });
        }
    }

    /// Parses what is there, until the socket or the machine has to be waited for.
    pub fn pump(&mut self, turn: &mut Turn<'_>) {
        if self.shut {
            return;
        }
        loop {
            let Receiving::Parsing { staging, from, to } = &mut self.receiving else { return };
            if from < to {
                turn.effects.running = Some(self.id);
                let mut ports = ConnectionPorts {
                    shared: turn.shared,
                    arena: turn.arena,
                    effects: turn.effects,
                    outgoing: &mut self.outgoing,
                    starved: &mut self.starved,
                    closing: &mut self.closing,
                };
                *from += self.machine.receive(turn.now_ns, &staging.as_ref()[*from..*to], &mut ports);
                if from < to {
                    return;
                }
                continue;
            }
            let target = self.machine.recv_target();
            if matches!(target, RecvTarget::Paused) {
                return;
            }
            if let Receiving::Parsing { staging, .. } = std::mem::replace(&mut self.receiving, Receiving::Ended) {
                self.receiving = Receiving::Due { staging, target };
            }
            return;
        }
    }

    /// Asks the socket for more, if that is due.
    fn receive(&mut self, turn: &mut Turn<'_>) {
        match std::mem::replace(&mut self.receiving, Receiving::Staging) {
            Receiving::Due { staging, target: RecvTarget::Into { buf, range } } => {
                self.receiving = Receiving::Into { staging };
                turn.uring.recv(turn.recv_token, &self.socket, buf, range, Receive::All);
            }
            Receiving::Due { staging, .. } => {
                let most = if std::mem::take(&mut self.is_between) { STAGING_BETWEEN_BYTES } else { STAGING_BYTES };
                let range = 0..staging.len().min(most);
                turn.uring.recv(turn.recv_token, &self.socket, staging, range, Receive::Some);
            }
            other => self.receiving = other,
        }
    }

    /// Sends what the turn produced, asks for more, and closes once nothing is left to send. True if the session is over:
    /// nothing of it is in flight any more.
    pub fn flush(&mut self, turn: &mut Turn<'_>) -> bool {
        let overdue = self.closing.is_some()
            && *self.close_deadline_ns.get_or_insert(turn.now_ns.saturating_add(CLOSE_NS_MAX)) <= turn.now_ns;
        if overdue {
            self.outgoing.clear();
        }
        if self.sends_in_flight == 0 && !self.outgoing.is_empty() && !self.shut {
            let mut gather = turn.uring.gather();
            while let Some(next) = self.outgoing.front() {
                let full = gather.len() + next.bytes() > SEND_BYTES_MAX || gather.pieces() + 3 > SEND_PIECES_MAX;
                if full && self.sends_in_flight > 0 {
                    break;
                }
                let Some(next) = self.outgoing.pop_front() else { break };
                gather.push_bytes(next.head.as_slice());
                if let Some(payload) = next.payload {
                    gather.push(payload.buf.freeze().slice(..payload.bytes));
                }
                gather.push_bytes(next.tail.as_slice());
                self.sends_in_flight += 1;
            }
            turn.uring.send(turn.send_token, &self.socket, gather);
        }
        if self.closing.is_some() && (self.sends_in_flight == 0 || overdue) && !self.shut {
            self.shut = true;
            // Ends a receive that is in flight, with 0 bytes, and a send that waits for the host; dropping the last handle
            // closes the socket.
            turn.uring.shutdown(super::token::IGNORED, &self.socket, Shutdown::Both);
        }
        // Also of a socket that was just shut down: it ends at once, and the machine has its buffer back.
        self.receive(turn);
        let receiving = matches!(self.receiving, Receiving::Staging | Receiving::Into { .. });
        self.shut && !receiving && self.sends_in_flight == 0 && self.machine.is_finished()
    }

    /// Whether the connection is being closed and still waits for what is to be sent.
    pub fn is_closing(&self) -> bool {
        self.closing.is_some() && !self.shut
    }

    /// Whether [`Session::flush`] has something to do.
    pub fn wants_flush(&self) -> bool {
        !self.outgoing.is_empty() || self.closing.is_some() || matches!(self.receiving, Receiving::Due { .. })
    }
}

/// A machine's request as the block layer's: one, or one for each run of an unmap.
pub fn ios_of(op: BlockOp<Buf>) -> SmallVec<[Io; 1]> {
    match op {
        BlockOp::Read { range, buf } => smallvec![Io::Read { extent: extent(range), buf }],
        BlockOp::Write { range, data, fua } => smallvec![Io::Write { extent: extent(range), data: data.freeze(), fua }],
        BlockOp::WriteZeroes { range, fua, .. } => smallvec![Io::WriteZeroes { extent: extent(range), fua }],
        BlockOp::Unmap { ranges } => ranges.into_iter().map(|range| Io::Unmap { extent: extent(range) }).collect(),
        BlockOp::Flush => smallvec![Io::Flush],
    }
}

fn extent(range: BlockRange) -> Extent {
    Extent { lba: range.lba, blocks: range.blocks }
}

/// The bdev that a namespace's handle names, and its home core.
pub fn bdev_of(handle: longrun_nvmf::target::BdevHandle) -> (usize, BdevId) {
    ((handle.0 >> 32) as usize, BdevId(handle.0 as u32))
}

/// The handle for a bdev at home on `core`.
pub fn handle_of(core: usize, bdev: BdevId) -> longrun_nvmf::target::BdevHandle {
    longrun_nvmf::target::BdevHandle(((core as u64) << 32) | u64::from(bdev.0))
}
