//! What goes back to the host.

use zerocopy::{IntoBytes, little_endian::U32};

use super::{Connection, Role, io::status_of};
use crate::{
    inline::Inline,
    pdu::{
        CapsuleResp, CommonHeader, Data, Fault, R2t, TermReq, data_digest, flag, kind, put_header, put_header_with_data,
    },
    spec::{Cqe, Status, opcode},
    target::{BlockStatus, CloseReason, Outgoing, Payload, Ports},
};

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    /// Ends a command without data.
    pub(super) fn complete<P: Ports<Buf = B>>(&mut self, slot: u16, result: u64, status: Status, ports: &mut P) {
        let response = self.end(slot, result, status);
        let mut head = Inline::new();
        put_header(&mut head, response, 0, self.digests);
        self.send(Outgoing { head, payload: None, tail: Inline::new() }, ports);
    }

    /// Ends a command with the first `bytes` of `buf` (not 0), data and completion in one send. The completion capsule is
    /// left out when the host disabled SQ flow control (TCP 3.3.2.2: SUCCESS with LAST).
    pub(super) fn complete_with<P: Ports<Buf = B>>(&mut self, slot: u16, buf: B, bytes: u32, ports: &mut P) {
        let response = self.end(slot, 0, Status::SUCCESS);
        let flow_control = self.queue.as_ref().is_none_or(|queue| queue.flow_control);
        let header = Data {
            common: CommonHeader::of(kind::C2H_DATA),
            cccid: response.cqe.cid,
            ttag: 0.into(),
            datao: 0.into(),
            datal: bytes.into(),
            reserved: [0; 4],
        };
        let flags = flag::LAST | if flow_control { 0 } else { flag::SUCCESS };
        let (mut head, mut tail) = (Inline::new(), Inline::new());
        put_header_with_data(&mut head, header, flags, self.digests, self.align, bytes);
        if self.digests.data {
            tail.push(&data_digest(buf.as_ref().get(..bytes as usize).unwrap_or_default()));
        }
        if flow_control {
            put_header(&mut tail, response, 0, self.digests);
        }
        self.send(Outgoing { head, payload: Some(Payload { buf, bytes: bytes as usize }), tail }, ports);
    }

    /// Frees the slot and makes its completion.
    fn end(&mut self, slot: u16, result: u64, status: Status) -> CapsuleResp {
        let sqe = self.slots.sqe(slot);
        self.slots.release(slot);
        if !status.is_success() {
            self.stats.errors += 1;
        }
        if matches!(self.role, Role::Io) {
            match sqe.opcode {
                opcode::READ => self.stats.reads += 1,
                opcode::WRITE => self.stats.writes += 1,
                _ => {}
            }
        }
        let sqhd = self.queue.as_ref().filter(|queue| queue.flow_control).map_or(0, |queue| queue.head);
        let cqe = Cqe {
            result: result.into(),
            sqhd: sqhd.into(),
            sqid: 0.into(),
            cid: sqe.cid,
            status: (status.bits() << 1).into(),
        };
        CapsuleResp { common: CommonHeader::of(kind::CAPSULE_RESP), cqe }
    }

    /// Connect's completion when flow control is off (Base 2.0, 6.3: SQHD is FFFFh).
    pub(super) fn complete_connect<P: Ports<Buf = B>>(&mut self, slot: u16, cntlid: u16, ports: &mut P) {
        let mut response = self.end(slot, u64::from(cntlid), Status::SUCCESS);
        if self.queue.as_ref().is_some_and(|queue| !queue.flow_control) {
            response.cqe.sqhd = 0xffff.into();
        }
        let mut head = Inline::new();
        put_header(&mut head, response, 0, self.digests);
        self.send(Outgoing { head, payload: None, tail: Inline::new() }, ports);
    }

    /// Asks for all of a command's data at once.
    pub(super) fn send_r2t<P: Ports<Buf = B>>(&mut self, slot: u16, bytes: u32, ports: &mut P) {
        self.stats.r2ts += 1;
        let header = R2t {
            common: CommonHeader::of(kind::R2T),
            cccid: self.slots.sqe(slot).cid,
            ttag: slot.into(),
            r2to: 0.into(),
            r2tl: bytes.into(),
            reserved: [0; 4],
        };
        let mut head = Inline::new();
        put_header(&mut head, header, 0, self.digests);
        self.send(Outgoing { head, payload: None, tail: Inline::new() }, ports);
    }

    /// Tells the host which PDU broke the rules (TCP 3.6.2.5; never with digests) and closes.
    pub(super) fn terminate<P: Ports<Buf = B>>(&mut self, fault: &Fault, ports: &mut P) {
        if self.closed.is_some() {
            return;
        }
        self.stats.protocol_errors += 1;
        let copy = fault.header.as_slice();
        let bytes = size_of::<TermReq>() + copy.len();
        let header = TermReq {
            common: CommonHeader {
                kind: kind::C2H_TERM_REQ,
                flags: 0,
                hlen: size_of::<TermReq>() as u8,
                pdo: 0,
                plen: U32::new(bytes as u32),
            },
            fes: (fault.status as u16).into(),
            fei: fault.information.into(),
            reserved: [0; 10],
        };
        let mut head = Inline::new();
        head.push(header.as_bytes());
        head.push(copy);
        self.send(Outgoing { head, payload: None, tail: Inline::new() }, ports);
        self.shut(CloseReason::ProtocolError, ports);
    }

    pub(super) fn send<P: Ports<Buf = B>>(&mut self, outgoing: Outgoing<B>, ports: &mut P) {
        if self.closed.is_none() {
            self.unsent = self.unsent.saturating_add(1);
            ports.send(outgoing);
        }
    }

    /// Whether the host must first take what it was sent: it has left more answers unread than its queue could hold twice.
    pub(super) fn is_choked(&self) -> bool {
        self.unsent as usize > 2 * self.slots.len() + 8
    }

    /// A block device answered.
    pub(super) fn block_done<P: Ports<Buf = B>>(
        &mut self,
        slot: u16,
        read_bytes: Option<u32>,
        status: BlockStatus,
        buf: Option<B>,
        ports: &mut P,
    ) {
        if self.closed.is_some() {
            return self.slots.release(slot);
        }
        match (read_bytes, buf) {
            (Some(bytes), Some(buf)) if status == BlockStatus::Ok => {
                self.stats.read_bytes += u64::from(bytes);
                self.complete_with(slot, buf, bytes, ports);
            }
            // A read that lost its buffer is the device's own mistake.
            (Some(_), None) if status == BlockStatus::Ok => self.complete(slot, 0, Status::INTERNAL_ERROR, ports),
            _ => self.complete(slot, 0, status_of(status), ports),
        }
    }

    /// Takes memory for data that the host is to send and asks for it. False when the command has to wait.
    pub(super) fn collect<P: Ports<Buf = B>>(&mut self, since_ns: u64, slot: u16, bytes: u32, ports: &mut P) -> bool {
        let Some(buf) = ports.alloc(bytes as usize) else {
            self.park(since_ns, slot);
            return false;
        };
        self.slots.collect(slot, buf, bytes);
        self.send_r2t(slot, bytes, ports);
        true
    }
}
