//! From the byte stream to commands and their data.

use std::ops::Range;

use zerocopy::IntoBytes;

use super::{
    Connection, Role,
    plan::{Plan, plan},
    slots::State,
};
use crate::{
    inline::Inline,
    pdu::{
        CapsuleCmd, CommonHeader, DIGEST_BYTES, Data, Digests, FatalStatus, Fault, IcReq, IcResp, Layout, Pdu, flag,
        kind, put_header,
    },
    spec::{Status, opcode},
    target::{
        CloseReason, IN_CAPSULE_BYTES_ADMIN, IN_CAPSULE_BYTES_IO, MEMORY_WAIT_NS_MAX, Outgoing, Ports, RecvTarget,
        TRANSFER_BYTES_MAX,
    },
};

/// A rest of payload at least this long is received straight into its buffer; a shorter one comes through staging, where the
/// next PDU's header can come along in the same receive.
const INTO_BYTES_MIN: u32 = 8 << 10;

/// What the next bytes are.
#[derive(Debug)]
pub(super) enum Receiving<B> {
    Header,
    /// A capsule's data follows and there is no memory for it.
    Stalled {
        slot: u16,
        bytes: u32,
        digest: bool,
        since_ns: u64,
    },
    Payload(Payload<B>),
    Closed,
}

impl<B> Receiving<B> {
    pub(super) fn stalled_since_ns(&self) -> Option<u64> {
        if let Self::Stalled { since_ns, .. } = self { Some(*since_ns) } else { None }
    }
}

/// Data and its digest.
#[derive(Debug)]
pub(super) struct Payload<B> {
    purpose: Purpose,
    /// Where it goes; None while the reactor receives into it, and for data that nobody wants.
    buf: Option<B>,
    /// The reactor has the buffer.
    lent: bool,
    /// Where in the buffer it begins.
    at: u32,
    done: u32,
    total: u32,
    crc: u32,
    digest: Option<([u8; DIGEST_BYTES], usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Discard,
    Capsule { slot: u16 },
    Transfer { slot: u16 },
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Payload<B> {
    fn new(purpose: Purpose, buf: Option<B>, at: u32, total: u32, digest: bool) -> Self {
        Self { purpose, buf, lent: false, at, done: 0, total, crc: 0, digest: digest.then_some(([0; DIGEST_BYTES], 0)) }
    }

    /// Where the data not yet received goes in the buffer.
    fn rest(&self) -> Range<usize> {
        (self.at + self.done) as usize..(self.at + self.total) as usize
    }

    /// Takes what it can of `bytes`.
    fn absorb(&mut self, bytes: &[u8]) -> usize {
        let take = bytes.len().min((self.total - self.done) as usize);
        let (data, behind) = bytes.split_at_checked(take).unwrap_or((bytes, &[]));
        let rest = self.rest();
        if let Some(to) = self.buf.as_mut().and_then(|buf| buf.as_mut().get_mut(rest.start..rest.start + take)) {
            to.copy_from_slice(data);
        }
        self.advance(data);
        let mut used = take;
        if self.done == self.total
            && let Some((digest, have)) = &mut self.digest
        {
            for byte in behind {
                let Some(place) = digest.get_mut(*have) else { break };
                *place = *byte;
                *have += 1;
                used += 1;
            }
        }
        used
    }

    /// `data` lies in its place.
    fn advance(&mut self, data: &[u8]) {
        self.done += data.len() as u32;
        if self.digest.is_some() {
            self.crc = crate::pdu::crc32c_append(self.crc, data);
        }
    }

    /// Whether all is here, and then whether the digest matches.
    fn verdict(&self) -> Option<bool> {
        match &self.digest {
            _ if self.done < self.total => None,
            None => Some(true),
            Some((digest, have)) => (*have == DIGEST_BYTES).then(|| u32::from_le_bytes(*digest) == self.crc),
        }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    /// Takes bytes from the socket and returns how many were used. Fewer than given means [`RecvTarget::Paused`]: keep the
    /// rest and offer it again after the next event. Cost: small PDUs are parsed where they lie, payload bytes are copied
    /// once into their command's buffer.
    pub fn receive<P: Ports<Buf = B>>(&mut self, now_ns: u64, bytes: &[u8], ports: &mut P) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_choked() {
            let used = match &mut self.receiving {
                Receiving::Closed => rest.len(),
                Receiving::Header => {
                    let (used, found) = self.reader.feed(rest, self.digests, self.established);
                    match found {
                        None => {}
                        Some(Ok((layout, pdu))) => self.header(now_ns, layout, pdu, ports),
                        Some(Err(fault)) => self.terminate(&fault, ports),
                    }
                    used
                }
                Receiving::Stalled { .. } => {
                    self.unstall(now_ns, ports);
                    if self.receiving.stalled_since_ns().is_some() {
                        break;
                    }
                    0
                }
                Receiving::Payload(payload) if payload.lent => break,
                Receiving::Payload(payload) => {
                    let used = payload.absorb(rest);
                    self.payload_progress(now_ns, ports);
                    used
                }
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        self.try_finish(ports);
        bytes.len() - rest.len()
    }

    /// Where the next bytes should go. Ask only with nothing left from `receive`; when the answer is
    /// [`RecvTarget::Into`] the buffer must come back by [`Self::received_into`] (with 0 bytes if nothing was received)
    /// before the next call.
    pub fn recv_target(&mut self) -> RecvTarget<B> {
        if self.is_choked() {
            return RecvTarget::Paused;
        }
        match &mut self.receiving {
            Receiving::Closed | Receiving::Stalled { .. } => RecvTarget::Paused,
            Receiving::Payload(payload) if payload.lent => RecvTarget::Paused,
            Receiving::Payload(payload) if payload.total - payload.done >= INTO_BYTES_MIN => {
                let range = payload.rest();
                match payload.buf.take() {
                    Some(buf) => {
                        payload.lent = true;
                        RecvTarget::Into { buf, range }
                    }
                    None => RecvTarget::Staging,
                }
            }
            Receiving::Payload(_) | Receiving::Header => RecvTarget::Staging,
        }
    }

    /// Whether the host was asked for data that is not all here: what comes next belongs most likely straight into a
    /// command's buffer. Else what comes is commands, with little data or none.
    pub fn awaits_data(&self) -> bool {
        self.slots.collecting() > 0
    }

    /// Returns the buffer of [`RecvTarget::Into`] with `bytes` received at the range's start.
    pub fn received_into<P: Ports<Buf = B>>(&mut self, now_ns: u64, buf: B, bytes: usize, ports: &mut P) {
        if let Receiving::Payload(payload) = &mut self.receiving
            && payload.lent
        {
            let rest = payload.rest();
            let end = rest.end.min(rest.start.saturating_add(bytes));
            payload.advance(buf.as_ref().get(rest.start..end).unwrap_or_default());
            payload.buf = Some(buf);
            payload.lent = false;
            self.payload_progress(now_ns, ports);
        }
        self.try_finish(ports);
    }

    fn header<P: Ports<Buf = B>>(&mut self, now_ns: u64, layout: Layout, pdu: Pdu, ports: &mut P) {
        let outcome = match pdu {
            Pdu::IcReq(request) => self.initialize(&request, ports),
            Pdu::CapsuleCmd(capsule) => self.capsule(now_ns, &layout, &capsule, ports),
            Pdu::Data(data) => self.transfer(&layout, &data),
            Pdu::TermReq(_) => {
                self.shut(CloseReason::HostTerminated, ports);
                Ok(())
            }
            // The layout check lets only a host's PDUs through.
            Pdu::IcResp(_) | Pdu::CapsuleResp(_) | Pdu::R2t(_) => Ok(()),
        };
        if let Err(fault) = outcome {
            self.terminate(&fault, ports);
        }
    }

    /// ICReq (TCP 3.3.1).
    fn initialize<P: Ports<Buf = B>>(&mut self, request: &IcReq, ports: &mut P) -> Result<(), Box<Fault>> {
        let fault = |status, offset| Fault::new(status, offset, request.as_bytes());
        if request.pfv.get() != 0 {
            return Err(fault(FatalStatus::UnsupportedParameter, 8));
        }
        // HPDA is 0's based in dwords and at most 31 (TCP 3.6.2.2: up to 128 bytes).
        if request.hpda > 31 {
            return Err(fault(FatalStatus::InvalidHeaderField, 10));
        }
        self.align = (usize::from(request.hpda) + 1) * 4;
        let digests = Digests::from_bits(request.dgst);
        let response = IcResp {
            common: CommonHeader::of(kind::IC_RESP),
            pfv: 0.into(),
            cpda: 0,
            dgst: digests.bits(),
            maxh2cdata: TRANSFER_BYTES_MAX.into(),
            reserved: [0; 112],
        };
        let mut head = Inline::new();
        put_header(&mut head, response, 0, Digests::default());
        self.send(Outgoing { head, payload: None, tail: Inline::new() }, ports);
        self.digests = digests;
        self.established = true;
        Ok(())
    }

    /// A command, maybe with data behind it.
    fn capsule<P: Ports<Buf = B>>(
        &mut self,
        now_ns: u64,
        layout: &Layout,
        capsule: &CapsuleCmd,
        ports: &mut P,
    ) -> Result<(), Box<Fault>> {
        let fault = |status, offset| Fault::new(status, offset, capsule.as_bytes());
        let limit = if self.is_admin() { IN_CAPSULE_BYTES_ADMIN } else { IN_CAPSULE_BYTES_IO };
        if layout.data_bytes > limit {
            return Err(fault(FatalStatus::InvalidHeaderField, 4));
        }
        // More commands than the queue has entries (Base 2.0, 3.3.1.2.1: the host must not).
        let Some(slot) = self.slots.take(capsule.sqe) else {
            return Err(fault(FatalStatus::PduSequence, 0));
        };
        self.stats.commands += 1;
        if let Some(queue) = &mut self.queue {
            queue.head = (queue.head + 1) % queue.entries.max(1);
        }
        if let Role::Admin(controller) = &mut self.role {
            controller.heard(now_ns);
        }
        let plan = plan(&capsule.sqe, layout.data_bytes).and_then(|plan| {
            let is_io = matches!(self.role, Role::Io) && capsule.sqe.opcode != opcode::FABRICS;
            if is_io { self.check_io(&capsule.sqe, plan).map(|()| plan) } else { Ok(plan) }
        });
        match plan {
            Ok(Plan::InCapsule { bytes }) => {
                self.receiving = Receiving::Stalled { slot, bytes, digest: layout.data_digest, since_ns: now_ns };
                self.unstall(now_ns, ports);
                if self.receiving.stalled_since_ns().is_some() {
                    self.stats.memory_waits += 1;
                }
                return Ok(());
            }
            Err(status) => self.complete(slot, 0, status, ports),
            // Behind others that wait for memory, so that small commands do not starve a large one.
            Ok(Plan::ReadyToTransfer { .. } | Plan::ToHost { .. }) if !self.parked.is_empty() => {
                self.park(now_ns, slot);
                self.stats.memory_waits += 1;
            }
            Ok(_) => {
                if !self.start(now_ns, slot, ports) {
                    self.stats.memory_waits += 1;
                }
            }
        }
        if layout.data_bytes > 0 && self.closed.is_none() {
            let payload = Payload::new(Purpose::Discard, None, 0, layout.data_bytes, layout.data_digest);
            self.receiving = Receiving::Payload(payload);
        }
        Ok(())
    }

    /// Gets memory for the capsule data that waits, or gives up on it after [`MEMORY_WAIT_NS_MAX`].
    pub(super) fn unstall<P: Ports<Buf = B>>(&mut self, now_ns: u64, ports: &mut P) {
        let Receiving::Stalled { slot, bytes, digest, since_ns } = self.receiving else { return };
        let payload = match ports.alloc(bytes as usize) {
            Some(buf) => Payload::new(Purpose::Capsule { slot }, Some(buf), 0, bytes, digest),
            None if now_ns.saturating_sub(since_ns) < MEMORY_WAIT_NS_MAX => return,
            None => {
                self.complete(slot, 0, Status::INTERNAL_ERROR, ports);
                Payload::new(Purpose::Discard, None, 0, bytes, digest)
            }
        };
        self.receiving = Receiving::Payload(payload);
    }

    /// H2CData: everything is checked before memory is touched (TCP 3.6.2.8).
    fn transfer(&mut self, layout: &Layout, data: &Data) -> Result<(), Box<Fault>> {
        let fault = |status, offset| Fault::new(status, offset, data.as_bytes());
        let slot = data.ttag.get();
        let Some(entry) = self.slots.get(slot) else {
            return Err(fault(FatalStatus::InvalidHeaderField, 10));
        };
        let State::Collecting { buf, arrived, total, .. } = &mut entry.state else {
            return Err(fault(FatalStatus::InvalidHeaderField, 10));
        };
        if entry.sqe.cid != data.cccid {
            return Err(fault(FatalStatus::InvalidHeaderField, 8));
        }
        let bytes = data.datal.get();
        if bytes != layout.data_bytes {
            return Err(fault(FatalStatus::InvalidHeaderField, 16));
        }
        if bytes > TRANSFER_BYTES_MAX {
            return Err(fault(FatalStatus::LimitExceeded, 16));
        }
        if data.datao.get() != *arrived {
            return Err(fault(FatalStatus::DataOutOfRange, 12));
        }
        if bytes > *total - *arrived {
            return Err(fault(FatalStatus::DataOutOfRange, 16));
        }
        if layout.flags & flag::LAST != 0 && *arrived + bytes != *total {
            return Err(fault(FatalStatus::InvalidHeaderField, 1));
        }
        let payload = Payload::new(Purpose::Transfer { slot }, buf.take(), *arrived, bytes, layout.data_digest);
        self.receiving = Receiving::Payload(payload);
        Ok(())
    }

    /// Goes on when a payload is complete.
    fn payload_progress<P: Ports<Buf = B>>(&mut self, now_ns: u64, ports: &mut P) {
        let Receiving::Payload(payload) = &mut self.receiving else { return };
        let Some(intact) = payload.verdict() else { return };
        let (purpose, buf, bytes) = (payload.purpose, payload.buf.take(), payload.total);
        self.receiving = Receiving::Header;
        if !intact && purpose != Purpose::Discard {
            self.stats.data_digest_errors += 1;
        }
        match purpose {
            Purpose::Discard => {}
            // A wrong data digest fails the command, not the connection (TCP 3.3.1.1).
            Purpose::Capsule { slot } if !intact => {
                self.complete(slot, 0, Status::TRANSIENT_TRANSPORT_ERROR, ports);
            }
            Purpose::Capsule { slot } => {
                self.perform(now_ns, slot, buf.map(|buf| (buf, bytes)), ports);
            }
            Purpose::Transfer { slot } => self.transferred(now_ns, slot, buf, bytes, intact, ports),
        }
    }

    /// One H2CData's worth arrived.
    fn transferred<P: Ports<Buf = B>>(
        &mut self,
        now_ns: u64,
        slot: u16,
        piece: Option<B>,
        bytes: u32,
        intact: bool,
        ports: &mut P,
    ) {
        let Some(entry) = self.slots.get(slot) else { return };
        let State::Collecting { buf, arrived, total, damaged } = &mut entry.state else { return };
        *arrived += bytes;
        *damaged |= !intact;
        if arrived < total {
            *buf = piece;
            return;
        }
        let (total, damaged) = (*total, *damaged);
        self.slots.collected(slot);
        if damaged {
            return self.complete(slot, 0, Status::TRANSIENT_TRANSPORT_ERROR, ports);
        }
        self.perform(now_ns, slot, piece.map(|buf| (buf, total)), ports);
    }

    /// Starts a command without data in its capsule, from the beginning. False when it has to wait for memory, counted
    /// from `since_ns`.
    pub(super) fn start<P: Ports<Buf = B>>(&mut self, since_ns: u64, slot: u16, ports: &mut P) -> bool {
        if let Some(entry) = self.slots.get(slot) {
            entry.state = State::Held;
        }
        match plan(&self.slots.sqe(slot), 0) {
            Ok(Plan::ReadyToTransfer { bytes }) => self.collect(since_ns, slot, bytes, ports),
            Ok(_) => {
                self.perform(since_ns, slot, None, ports);
                self.slots.parked_since_ns(slot).is_none()
            }
            Err(status) => {
                self.complete(slot, 0, status, ports);
                true
            }
        }
    }

    /// Carries a command out; what it needs of data is here.
    fn perform<P: Ports<Buf = B>>(&mut self, now_ns: u64, slot: u16, data: Option<(B, u32)>, ports: &mut P) {
        let sqe = self.slots.sqe(slot);
        if sqe.opcode == opcode::FABRICS {
            let data = data.as_ref().and_then(|(buf, bytes)| buf.as_ref().get(..*bytes as usize));
            return self.fabrics(now_ns, slot, &sqe, data, ports);
        }
        match self.role {
            Role::None | Role::Joining { .. } => {
                self.complete(slot, 0, Status::COMMAND_SEQUENCE_ERROR.dnr(), ports);
            }
            Role::Io => self.perform_io(now_ns, slot, &sqe, data, ports),
            Role::Admin(_) => {
                let data = data.as_ref().and_then(|(buf, bytes)| buf.as_ref().get(..*bytes as usize));
                self.admin(now_ns, slot, &sqe, data, ports);
            }
        }
    }
}
