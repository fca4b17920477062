//! One host's TCP connection: the NVMe-oF machine, its socket, and the bytes between them.
//!
//! Receiving: buffers belong to the core, not to connections. One multishot receive brings whatever comes, in buffers that the
//! kernel takes from the ring's pool when something has come; what they hold is parsed where it lies, in the same turn, and they
//! go back. A connection that is silent holds none: a thousand of them took 64 MiB when each had one of its own, and take none now.
//! For hosts at work it makes no difference that could be measured (medians at depth 1, 32 and 127 within the noise).
//!
//! Where a large payload was asked for (R2T), the multishot receive is taken back before the R2T leaves, and until all is there
//! receives are single: the header into a buffer of the pool, the payload straight into the command's own.
//!
//! A pool that is empty (`ENOBUFS`) ends a receive and loses nothing: the connection's next one is a single one into memory of its
//! own, after which it is back at the pool. If there is no such memory it is as with any other: the connection waits and tries
//! again when some is free. Without a pool (Linux before 6.0) all receives are of that kind. A connection that can't take what
//! came (its host reads no answers, or there is no memory) takes its receive back and copies what waits, so that it keeps no buffer
//! from others.
//!
//! Sending: everything that a turn produced for a socket goes out as one send, a read's data and its completion together; one send
//! is in flight at most, and what comes meanwhile makes the next.
//!
//! A turn's send is queued before its receive: the kernel takes them in turn, and to find that nothing is there to be received
//! would else keep the host waiting.
//!
//! Sends are copied by the kernel. Its zero-copy ones were measured over loopback, where it copies for the receiver all the same:
//! 1.1 times the processor time at 4 KiB, 1.35 at 128 KiB, 1.5 at 512 KiB, so there is no size from which they pay.

#[cfg(test)]
mod tests;

use longrun_bdev::{BdevId, Io};
use longrun_copy::types::Extent;
use longrun_hal::arena::Arena;
use longrun_hal::uring::{Pending, Receive, Shots, Shutdown};
use longrun_hal::{Buf, Completion, Fd, Returned, Uring};
use longrun_nvmf::target::{
    BlockOp, BlockRange, BlockRequest, CloseReason, Connection, ConnectionId, Core, Event, Outgoing, Peer, PeerMessage,
    Ports, RecvTarget,
};
use smallvec::{SmallVec, smallvec};
use std::collections::VecDeque;

/// What is received into: holds several small capsules, so that a deep queue costs few receives.
pub const STAGING_BYTES: usize = 64 << 10;
/// How many of these a core's pool has. More would only be in no cache: all come back within the turn.
pub const POOL_BUFFERS: usize = 16;
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
    /// What came and is not parsed yet, oldest first; the first of it from `parsed` on.
    came: VecDeque<Buf>,
    parsed: usize,
    /// How many of the first of these are copies, and not of the pool.
    copies: usize,
    receiving: Receiving,
    /// The last receive was a large payload's.
    is_between: bool,
    /// The pool was empty; the next receive is into memory of the connection's own.
    is_dry: bool,
    outgoing: VecDeque<Outgoing<Buf>>,
    /// Number of machine sends that the send in flight carries; 0 if none is in flight.
    sends_in_flight: u32,
    closing: Option<CloseReason>,
    /// When the closing no longer waits for what is to be sent; set when it begins.
    close_deadline_ns: Option<u64>,
    /// The socket was shut down; it is gone from the reactor's view once its last operation came back.
    shut: bool,
}

/// What is received at the moment.
enum Receiving {
    /// Nothing: what came is to be parsed first, or the machine can take no more.
    Rests,
    /// All is parsed; the next flush receives what the machine wants.
    Due(RecvTarget<Buf>),
    /// Whatever comes, into buffers of the pool.
    Many(Pending),
    /// No longer; what was filled already is on its way.
    Ending,
    /// Some bytes, into a buffer of the pool or the connection's own.
    Once,
    /// A command's payload, into its buffer.
    Into,
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
    /// A fresh connection.
    pub fn new(id: ConnectionId, machine: Connection<Buf>, socket: Fd) -> Session {
        Session {
            id,
            machine,
            socket,
            starved: false,
            came: VecDeque::new(),
            parsed: 0,
            copies: 0,
            receiving: Receiving::Rests,
            is_between: false,
            is_dry: false,
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

    /// A receive came back, or a part of one.
    pub fn received(&mut self, turn: &mut Turn<'_>, completion: Completion) {
        let Completion { result, returned, more, .. } = completion;
        let receiving = if more { None } else { Some(std::mem::replace(&mut self.receiving, Receiving::Rests)) };
        let buf = if let Returned::Buf(buf) = returned { Some(buf) } else { None };
        let ended = match (result, buf) {
            (Ok(bytes), Some(buf)) if bytes > 0 && matches!(receiving, Some(Receiving::Into)) => {
                self.received_into(turn, buf, bytes as usize);
                false
            }
            (Ok(bytes), Some(mut buf)) if bytes > 0 => {
                buf.truncate(bytes as usize);
                self.came.push_back(buf);
                false
            }
            (Err(error), None) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.is_dry = true;
                false
            }
            (Err(error), None) if error.raw_os_error() == Some(libc::ECANCELED) => {
                !matches!(receiving, Some(Receiving::Ending))
            }
            _ => true,
        };
        if ended {
            self.receiving = Receiving::Ended;
            return self.handle(turn, Event::Disconnected);
        }
        self.pump(turn);
    }

    fn received_into(&mut self, turn: &mut Turn<'_>, buf: Buf, bytes: usize) {
        let (machine, mut ports) = self.split(turn);
        machine.received_into(ports.1, buf, bytes, &mut ports.0);
        self.is_between = true;
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
            self.came.drain(..).for_each(|buf| turn.uring.give_back(buf));
            return;
        }
        while let Some(buf) = self.came.front() {
            turn.effects.running = Some(self.id);
            let mut ports = ConnectionPorts {
                shared: turn.shared,
                arena: turn.arena,
                effects: turn.effects,
                outgoing: &mut self.outgoing,
                starved: &mut self.starved,
                closing: &mut self.closing,
            };
            let bytes = buf.get(self.parsed..).unwrap_or_default();
            let used = self.machine.receive(turn.now_ns, bytes, &mut ports);
            if used < bytes.len() {
                self.parsed += used;
                return self.copy_what_waits(turn);
            }
            self.parsed = 0;
            self.copies = self.copies.saturating_sub(1);
            if let Some(buf) = self.came.pop_front() {
                turn.uring.give_back(buf);
            }
        }
        if let Receiving::Rests = self.receiving {
            let target = self.machine.recv_target();
            if !matches!(target, RecvTarget::Paused) {
                self.receiving = Receiving::Due(target);
            }
        }
    }

    /// Gives the pool its buffers back though they are not parsed, from copies on the heap: who waits for memory must not keep
    /// others from receiving what frees it. Rare, and no more than a turn's receives.
    fn copy_what_waits(&mut self, turn: &mut Turn<'_>) {
        // What is parsed is the first one's.
        let mut parsed = if self.copies == 0 { std::mem::take(&mut self.parsed) } else { 0 };
        for buf in self.came.iter_mut().skip(self.copies) {
            let rest = buf.get(std::mem::take(&mut parsed)..).unwrap_or_default();
            let copy = Buf::from_vec(rest.to_vec());
            turn.uring.give_back(std::mem::replace(buf, copy));
        }
        self.copies = self.came.len();
    }

    /// Whether what is received with many shots has to be taken back: the machine can't take what came already, or a payload is
    /// to come that goes into its own buffer.
    fn is_to_end(&self) -> bool {
        matches!(self.receiving, Receiving::Many(_)) && (!self.came.is_empty() || self.machine.awaits_data())
    }

    /// Asks the socket for more, if that is due.
    fn receive(&mut self, turn: &mut Turn<'_>) {
        let (token, socket) = (turn.recv_token, &self.socket);
        self.receiving = match std::mem::replace(&mut self.receiving, Receiving::Ended) {
            Receiving::Due(RecvTarget::Into { buf, range }) => {
                turn.uring.recv(token, socket, buf, range, Receive::All);
                Receiving::Into
            }
            Receiving::Due(target) => {
                let bytes_max =
                    if std::mem::take(&mut self.is_between) { STAGING_BETWEEN_BYTES } else { STAGING_BYTES };
                if std::mem::take(&mut self.is_dry) || turn.uring.pooled().is_none() {
                    match turn.arena.alloc(STAGING_BYTES) {
                        Some(buf) => {
                            turn.uring.recv(token, socket, buf, 0..bytes_max, Receive::Some);
                            Receiving::Once
                        }
                        None => {
                            // The pool may have some by then.
                            self.starved = true;
                            Receiving::Due(target)
                        }
                    }
                } else if self.machine.awaits_data() {
                    turn.uring.recv_pooled(token, socket, Shots::One { bytes_max });
                    Receiving::Once
                } else {
                    Receiving::Many(turn.uring.recv_pooled(token, socket, Shots::Many))
                }
            }
            other => other,
        };
    }

    /// Sends what the turn produced, asks for more, and closes once nothing is left to send. True if the session is over:
    /// nothing of it is in flight any more.
    pub fn flush(&mut self, turn: &mut Turn<'_>) -> bool {
        let overdue = self.closing.is_some()
            && *self.close_deadline_ns.get_or_insert(turn.now_ns.saturating_add(CLOSE_NS_MAX)) <= turn.now_ns;
        if overdue {
            self.outgoing.clear();
        }
        if self.is_to_end()
            && let Receiving::Many(pending) = std::mem::replace(&mut self.receiving, Receiving::Ending)
        {
            // Before what asks the host for data leaves.
            turn.uring.take_back(&pending);
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
        let receiving =
            matches!(self.receiving, Receiving::Many(_) | Receiving::Ending | Receiving::Once | Receiving::Into);
        self.shut && !receiving && self.sends_in_flight == 0 && self.machine.is_finished()
    }

    /// Whether the connection is being closed and still waits for what is to be sent.
    pub fn is_closing(&self) -> bool {
        self.closing.is_some() && !self.shut
    }

    /// Whether [`Session::flush`] has something to do.
    pub fn wants_flush(&self) -> bool {
        !self.outgoing.is_empty()
            || self.closing.is_some()
            || matches!(self.receiving, Receiving::Due(_))
            || self.is_to_end()
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
