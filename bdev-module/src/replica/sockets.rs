//! The links' sockets on this core's ring: UDP always, and raw frames ([`Raw`]) beside it where a link has them. What cannot
//! go or come as a raw frame goes and comes as an ordinary datagram; the link does not notice.

use std::net::SocketAddr;

use longrun_copy::types::{LinkId, Mono};
use longrun_hal::net::UdpEndpoint;
use longrun_hal::uring::TRAIN_BYTES_MAX;
use longrun_hal::xdp::{Spacing, Xdp, XdpError};
use longrun_hal::{Arena, Buf, Completion, Fd, Returned, Uring};
use slab::Slab;

use super::raw::{self, Hop, Raw};
use super::wire::{Parcel, Wire, Wired};
use crate::percore::token;

#[cfg(test)]
mod tests;

/// Receives armed per socket. While one train is worked on, others arrive.
const RECEIVES_ARMED: u32 = 8;
/// A received train's buffer: the most that the kernel joins.
const TRAIN_BUFFER_BYTES: usize = 64 << 10;
/// How long a receive waits after an error (or without memory) until it is armed again.
const REARM_NS: u64 = 10_000_000;

/// Memory that one link's receives take from the core's arena.
pub const RECEIVE_BYTES_PER_LINK: usize = RECEIVES_ARMED as usize * TRAIN_BUFFER_BYTES;

/// What a link's socket counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketStats {
    /// Trains received.
    pub trains_received: u64,
    /// Datagrams in them.
    pub datagrams_received: u64,
    /// Trains sent.
    pub trains_sent: u64,
    /// Datagrams in them.
    pub datagrams_sent: u64,
    /// Receives that failed; a peer that is not there makes some.
    pub receive_errors: u64,
    /// Sends that failed; what they held is lost as on the wire.
    pub send_errors: u64,
    /// Raw frames received; not among the trains.
    pub raw_received: u64,
    /// Raw frames sent; not among the trains.
    pub raw_sent: u64,
    /// Raw frames received that were no datagrams for this link.
    pub raw_refused: u64,
    /// Raw frames that found no room on their way out; lost as on the wire.
    pub raw_unsent: u64,
}

/// One train, to be worked on and given back ([`Sockets::rearm`]).
pub(crate) struct Received {
    pub(crate) socket: usize,
    pub(crate) link: LinkId,
    pub(crate) from: SocketAddr,
    pub(crate) buf: Buf,
    pub(crate) bytes: usize,
    pub(crate) segment_bytes: usize,
}

struct Socket {
    link: LinkId,
    fd: Fd,
    /// Raw frames, where they are to be had. `None` also while they are being received.
    raw: Option<Raw>,
    /// Where datagrams stand in this link's trains, as long as it has raw frames.
    spacing: Option<Spacing>,
    stats: SocketStats,
    /// Receives on the ring.
    armed: u32,
    /// Trains being worked on.
    lent: u32,
    sending: u32,
    /// Not before this are failed receives armed again.
    rearm_at: Option<Mono>,
    closing: bool,
}

/// All sockets of this core.
#[derive(Default)]
pub(crate) struct Sockets {
    /// Tokens carry the key, so that a link that is made again never meets completions of its former socket.
    sockets: Slab<Socket>,
    /// Of raw sockets, for the same reason.
    serial: u32,
    /// Links without a socket.
    wires: Vec<Wired>,
}

impl Sockets {
    /// Takes a link's socket and starts to receive.
    pub(crate) fn open(&mut self, uring: &mut Uring, arena: &Arena, link: LinkId, endpoint: UdpEndpoint) {
        assert!(self.key(link).is_none(), "link {} has a socket", link.0);
        let key = self.sockets.insert(Socket {
            link,
            fd: endpoint.fd,
            raw: None,
            spacing: None,
            stats: SocketStats::default(),
            armed: 0,
            lent: 0,
            sending: 0,
            rearm_at: None,
            closing: false,
        });
        self.fill(uring, arena, key, Mono(0));
    }

    /// Takes a link's end of a wire.
    pub(crate) fn join(&mut self, link: LinkId, wire: Wire) {
        self.wires.push(Wired::new(link, wire));
    }

    /// The next train that came by a wire: the link, whence, and what.
    pub(crate) fn next_parcel(&mut self) -> Option<(LinkId, SocketAddr, Parcel)> {
        self.wires.iter_mut().find_map(Wired::receive)
    }

    /// Stops a link's socket; the descriptor closes when the ring has let go of it.
    pub(crate) fn close(&mut self, uring: &mut Uring, link: LinkId) {
        self.wires.retain(|wired| wired.link != link);
        let Some(key) = self.key(link) else { return };
        let socket = &mut self.sockets[key];
        socket.closing = true;
        uring.cancel(&socket.fd);
        if let Some(raw) = socket.raw.take() {
            raw.close(uring);
        }
        self.reap(key);
    }

    /// Lets a link send and receive raw frames too, once it is told [where to](Sockets::set_hop).
    pub(crate) fn raise(&mut self, arena: &Arena, link: LinkId, mut xdp: Xdp) -> Result<(), XdpError> {
        let Some(key) = self.key(link) else { return Ok(()) };
        xdp.fill(arena)?;
        self.serial = self.serial.wrapping_add(1);
        let socket = &mut self.sockets[key];
        socket.spacing = Some(xdp.spacing());
        socket.raw = Some(Raw::new(xdp, self.serial));
        Ok(())
    }

    /// Takes raw frames from a link.
    pub(crate) fn lower(&mut self, uring: &mut Uring, link: LinkId) {
        let Some(key) = self.key(link) else { return };
        self.sockets[key].spacing = None;
        if let Some(raw) = self.sockets[key].raw.take() {
            raw.close(uring);
        }
    }

    /// Where a link's raw frames go; `None`: it is not known, the kernel finds out.
    pub(crate) fn set_hop(&mut self, link: LinkId, hop: Option<Hop>) {
        let Some(key) = self.key(link) else { return };
        if let Some(raw) = &mut self.sockets[key].raw {
            raw.set_hop(hop);
        }
    }

    /// Sees what raw frames there are; true if there are any.
    pub(crate) fn gather(&mut self) -> bool {
        let mut any = false;
        for (_, socket) in &mut self.sockets {
            any |= socket.raw.as_mut().is_some_and(Raw::gather);
        }
        for wired in &mut self.wires {
            any |= wired.has_trains();
        }
        any
    }

    /// The next socket from `from` on that has raw frames to be worked on. Give it back.
    pub(crate) fn lend(&mut self, from: usize) -> Option<(usize, LinkId, Raw)> {
        let mut all = self.sockets.iter_mut().skip_while(|(key, _)| *key < from);
        let (key, socket) = all.find(|(_, socket)| socket.raw.as_ref().is_some_and(Raw::has_frames))?;
        Some((key, socket.link, socket.raw.take()?))
    }

    /// Takes it back, with what it received.
    pub(crate) fn give_back(&mut self, key: usize, raw: Raw, received: u64, refused: u64) {
        let socket = &mut self.sockets[key];
        socket.stats.raw_received += received;
        socket.stats.raw_refused += refused;
        socket.raw = Some(raw);
    }

    /// Something about a raw socket ended.
    pub(crate) fn raw_completed(&mut self, completion: &Completion) {
        let serial = token::raw_serial(completion.token);
        let mut raws = self.sockets.iter_mut().filter_map(|(_, socket)| socket.raw.as_mut());
        // One that is gone has no need to know.
        if let Some(raw) = raws.find(|raw| raw.serial() == serial) {
            raw.completed(completion);
        }
    }

    /// The end of a turn: has raw frames leave, and the next ones noticed.
    pub(crate) fn push(&mut self, uring: &mut Uring) {
        for (_, socket) in &mut self.sockets {
            if let Some(raw) = &mut socket.raw {
                raw.push(uring);
            }
        }
    }

    /// What a link's socket counted.
    pub(crate) fn stats(&self, link: LinkId) -> Option<SocketStats> {
        if let Some(wired) = self.wires.iter().find(|wired| wired.link == link) {
            return Some(wired.stats);
        }
        Some(self.sockets[self.key(link)?].stats)
    }

    /// Sends a train. Whatever goes wrong is loss.
    #[expect(clippy::too_many_arguments, reason = "a train's parts, as the engine hands them over")]
    pub(crate) fn transmit(
        &mut self,
        now: Mono,
        uring: &mut Uring,
        link: LinkId,
        to: SocketAddr,
        mut train: Buf,
        bytes: usize,
        segment_bytes: usize,
    ) {
        let Some(key) = self.key(link) else {
            if let Some(wired) = self.wires.iter_mut().find(|wired| wired.link == link) {
                wired.send(train, bytes, segment_bytes);
            }
            return;
        };
        let socket = &mut self.sockets[key];
        debug_assert!(bytes > 0 && bytes <= TRAIN_BYTES_MAX && segment_bytes > 0, "{bytes} by {segment_bytes}");
        if let Some(raw) = &mut socket.raw
            && raw.takes(now, to)
        {
            let datagrams = bytes.div_ceil(segment_bytes) as u64;
            match raw.send(train, to, bytes, segment_bytes) {
                true => socket.stats.raw_sent += datagrams,
                false => socket.stats.raw_unsent += datagrams,
            }
            return;
        }
        if let Some(spacing) = socket.spacing {
            raw::join(&mut train, bytes, segment_bytes, spacing);
        }
        train.truncate(bytes);
        socket.sending += 1;
        socket.stats.trains_sent += 1;
        socket.stats.datagrams_sent += bytes.div_ceil(segment_bytes) as u64;
        uring.send_train(token::link_send(key), &socket.fd, train, segment_bytes, to);
    }

    /// A send ended.
    pub(crate) fn sent(&mut self, completion: &Completion) {
        let key = token::socket(completion.token);
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.sending -= 1;
        if completion.result.is_err() {
            socket.stats.send_errors += 1;
        }
        self.reap(key);
    }

    /// A receive ended; with a train to be worked on, if it brought one.
    pub(crate) fn received(&mut self, completion: Completion, now: Mono) -> Option<Received> {
        let key = token::socket(completion.token);
        let socket = self.sockets.get_mut(key)?;
        socket.armed -= 1;
        match completion {
            _ if socket.closing => {}
            Completion { result: Ok(bytes), returned: Returned::Buf(buf), from: Some(from), segment_bytes, .. }
                if bytes > 0 =>
            {
                let bytes = (bytes as usize).min(buf.len());
                let segment_bytes = if segment_bytes == 0 { bytes } else { segment_bytes };
                socket.stats.trains_received += 1;
                socket.stats.datagrams_received += bytes.div_ceil(segment_bytes) as u64;
                socket.lent += 1;
                return Some(Received { socket: key, link: socket.link, from, buf, bytes, segment_bytes });
            }
            _ => {
                socket.stats.receive_errors += 1;
                socket.rearm_at = Some(now.after_ns(REARM_NS));
            }
        }
        self.reap(key);
        None
    }

    /// Gives a train's buffer back to the kernel.
    pub(crate) fn rearm(&mut self, uring: &mut Uring, received: Received) {
        let Received { socket: key, mut buf, .. } = received;
        let socket = &mut self.sockets[key];
        socket.lent -= 1;
        if !socket.closing {
            socket.armed += 1;
            buf.set_len(TRAIN_BUFFER_BYTES);
            uring.recv_train(token::link_receive(key), &socket.fd, buf);
        }
        self.reap(key);
    }

    /// Arms the receives that failed a while ago.
    pub(crate) fn tick(&mut self, uring: &mut Uring, arena: &Arena, now: Mono) {
        for key in 0..self.sockets.capacity() {
            if self.sockets.get(key).is_some_and(|socket| socket.rearm_at.is_some_and(|at| at <= now)) {
                self.fill(uring, arena, key, now);
            }
        }
    }

    /// When [`Sockets::tick`] has something to do next.
    pub(crate) fn next_timeout(&self) -> Option<Mono> {
        self.sockets.iter().filter_map(|(_, socket)| socket.rearm_at).min()
    }

    fn fill(&mut self, uring: &mut Uring, arena: &Arena, key: usize, now: Mono) {
        let socket = &mut self.sockets[key];
        socket.rearm_at = None;
        while !socket.closing && socket.armed + socket.lent < RECEIVES_ARMED {
            let Some(buf) = arena.alloc(TRAIN_BUFFER_BYTES) else {
                // Fewer receives do; none would make the link deaf until memory is free again.
                socket.rearm_at = Some(now.after_ns(REARM_NS));
                return;
            };
            socket.armed += 1;
            uring.recv_train(token::link_receive(key), &socket.fd, buf);
        }
    }

    fn key(&self, link: LinkId) -> Option<usize> {
        self.sockets.iter().find(|(_, socket)| socket.link == link && !socket.closing).map(|(key, _)| key)
    }

    /// Forgets a closed socket when the ring has nothing of it any more.
    fn reap(&mut self, key: usize) {
        let socket = &self.sockets[key];
        if socket.closing && socket.armed + socket.lent + socket.sending == 0 {
            self.sockets.remove(key);
        }
    }
}
