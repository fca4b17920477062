//! One queue pair.

use std::collections::VecDeque;
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::{Command, Transfer};
use crate::{
    inline::Inline,
    nqn::Nqn,
    pdu::{
        CapsuleCmd, CommonHeader, DIGEST_BYTES, Data, Digests, IcReq, IcResp, Layout, Pdu, R2t, Reader, Sender,
        data_digest, flag, kind, put_header, put_header_with_data,
    },
    spec::{ConnectCommand, ConnectData, Cqe, SglDescriptor, Sqe, Status, opcode},
};

/// How to set up a queue pair.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// 0 for the admin queue.
    pub qid: u16,
    /// Number of entries; `entries - 1` commands may be outstanding.
    pub entries: u16,
    /// Digests to ask for.
    pub digests: Digests,
    /// Whether submission queue flow control stays on; off lets reads end without a completion capsule.
    pub flow_control: bool,
    /// This host's name.
    pub host: Nqn,
    /// This host's identifier.
    pub host_id: [u8; 16],
    /// The subsystem to use.
    pub subsystem: Nqn,
    /// 0xFFFF for the admin queue, else the id its Connect returned.
    pub cntlid: u16,
    /// Keep-alive time-out for the admin queue, 0 for none.
    pub keep_alive_ms: u32,
    /// In-capsule data this queue may send: 8192 for admin, what Identify says (IOCCSZ) for I/O.
    pub in_capsule_bytes: u32,
}

impl QueueOptions {
    /// An admin queue of 32 entries without digests and keep-alive.
    pub fn admin(host: Nqn, host_id: [u8; 16], subsystem: Nqn) -> Self {
        Self {
            qid: 0,
            entries: 32,
            digests: Digests::default(),
            flow_control: false,
            host,
            host_id,
            subsystem,
            cntlid: 0xffff,
            keep_alive_ms: 0,
            in_capsule_bytes: 8192,
        }
    }

    /// The I/O queue `qid` of the controller that an admin queue with options `self` got.
    pub fn io(&self, qid: u16, entries: u16, cntlid: u16, in_capsule_bytes: u32) -> Self {
        Self { qid, entries, cntlid, in_capsule_bytes, keep_alive_ms: 0, ..self.clone() }
    }
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// As given to [`Queue::submit`].
    pub token: u64,
    /// How it ended.
    pub status: Status,
    /// Result dwords 0 and 1.
    pub result: u64,
    /// What the target sent.
    pub data: Vec<u8>,
}

/// What a queue has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueEvent {
    /// Connect succeeded.
    Connected {
        /// The controller's id.
        cntlid: u16,
    },
    /// A command ended.
    Done(Completion),
    /// The queue can't go on; commands not answered are lost with it.
    Failed(HostError),
}

/// Why a queue can't go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Connect was refused.
    #[error("the target refused Connect with {status}, result {result:#x}")]
    Refused {
        /// Its status.
        status: Status,
        /// IPO and IATTR.
        result: u32,
    },
    /// A command of the bring-up failed.
    #[error("the target answered {what} with {status}")]
    Command {
        /// Which.
        what: &'static str,
        /// Its status.
        status: Status,
    },
    /// The target ended the connection.
    #[error("the target ended the connection: fatal error status {fes}, information {fei:#x}")]
    Terminated {
        /// Fatal error status.
        fes: u16,
        /// Fatal error information.
        fei: u32,
    },
    /// The target broke the rules.
    #[error("the target sent a PDU against the rules: {what}")]
    Protocol {
        /// Which.
        what: &'static str,
    },
}

/// No free entry in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full or not connected; wait for a completion")]
pub struct QueueFull;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Initializing,
    Connecting,
    Connected,
    Failed,
}

#[derive(Debug)]
struct Pending {
    token: u64,
    /// What an R2T may ask for.
    outgoing: Option<Arc<[u8]>>,
    /// What came; as long as was asked for.
    incoming: Vec<u8>,
    arrived: u32,
    damaged: bool,
}

/// The data of a C2HData.
#[derive(Debug)]
struct Payload {
    cid: u16,
    at: usize,
    rest: usize,
    crc: u32,
    digest: Option<Vec<u8>>,
    success: bool,
}

/// A queue pair over one TCP connection.
#[derive(Debug)]
pub struct Queue {
    options: QueueOptions,
    phase: Phase,
    digests: Digests,
    reader: Reader,
    payload: Option<Payload>,
    commands: Vec<Option<Pending>>,
    outstanding: usize,
    max_h2c_data: usize,
    output: Vec<u8>,
    /// Buffers that were given back.
    spare: Vec<Vec<u8>>,
    events: VecDeque<QueueEvent>,
}

impl Queue {
    /// A queue whose first output is ICReq.
    pub fn new(options: QueueOptions) -> Self {
        let mut queue = Self {
            phase: Phase::Initializing,
            digests: Digests::default(),
            reader: Reader::new(Sender::Target),
            payload: None,
            commands: (0..options.entries.max(2)).map(|_| None).collect(),
            outstanding: 0,
            max_h2c_data: 0,
            output: Vec::new(),
            spare: Vec::new(),
            events: VecDeque::new(),
            options,
        };
        let request = IcReq {
            common: CommonHeader::of(kind::IC_REQ),
            pfv: 0.into(),
            hpda: 0,
            dgst: queue.options.digests.bits(),
            maxr2t: 0.into(),
            reserved: [0; 112],
        };
        queue.put(request, 0);
        queue
    }

    /// The options it was made with.
    pub fn options(&self) -> &QueueOptions {
        &self.options
    }

    /// Bytes for the socket, in order. The caller sends all of them.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The same into `spent`, whose room is used for what comes next: who asks often allocates nothing.
    pub fn swap_output(&mut self, spent: &mut Vec<u8>) {
        spent.clear();
        std::mem::swap(&mut self.output, spent);
    }

    /// Gives a completion's data back, for a command to come to be read into.
    pub fn recycle(&mut self, data: Vec<u8>) {
        if data.capacity() > 0 && self.spare.len() < self.commands.len() {
            self.spare.push(data);
        }
    }

    /// What happened since.
    pub fn poll(&mut self) -> Option<QueueEvent> {
        self.events.pop_front()
    }

    /// Commands without a completion yet.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Queues a command; `token` comes back in its [`Completion`].
    pub fn submit(&mut self, command: Command, token: u64) -> Result<(), QueueFull> {
        if self.phase != Phase::Connected || self.outstanding + 1 >= self.commands.len() {
            return Err(QueueFull);
        }
        self.issue(command, token)
    }

    fn issue(&mut self, command: Command, token: u64) -> Result<(), QueueFull> {
        let cid = self.commands.iter().position(Option::is_none).ok_or(QueueFull)?;
        let Command { mut sqe, transfer } = command;
        sqe.cid = (cid as u16).into();
        // SGLs, no metadata: what Fabrics asks of every command.
        sqe.flags |= 1 << 6;
        let mut pending = Pending { token, outgoing: None, incoming: Vec::new(), arrived: 0, damaged: false };
        sqe.sgl = SglDescriptor { kind: SglDescriptor::TRANSPORT, ..SglDescriptor::default() };
        match transfer {
            Transfer::None => self.put(capsule(sqe), 0),
            Transfer::FromTarget(bytes) => {
                sqe.sgl.length = bytes.into();
                pending.incoming = self.spare.pop().unwrap_or_default();
                pending.incoming.resize(bytes as usize, 0);
                self.put(capsule(sqe), 0);
            }
            Transfer::ToTarget(data) => {
                sqe.sgl.length = (data.len() as u32).into();
                if data.len() <= self.options.in_capsule_bytes as usize && !data.is_empty() {
                    sqe.sgl.kind = SglDescriptor::IN_CAPSULE;
                    self.put_with_data(capsule(sqe), 0, &data);
                } else {
                    self.put(capsule(sqe), 0);
                    pending.outgoing = Some(data);
                }
            }
        }
        if let Some(place) = self.commands.get_mut(cid) {
            *place = Some(pending);
            self.outstanding += 1;
        }
        Ok(())
    }

    /// Bytes from the socket.
    pub fn receive(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && self.phase != Phase::Failed {
            let used = if let Some(payload) = &mut self.payload {
                let used = absorb(payload, &mut self.commands, rest);
                self.payload_progress();
                used
            } else {
                let established = self.phase != Phase::Initializing;
                let (used, found) = self.reader.feed(rest, self.digests, established);
                match found {
                    None => {}
                    Some(Ok((layout, pdu))) => {
                        if let Err(what) = self.pdu(&layout, &pdu) {
                            self.fail(HostError::Protocol { what });
                        }
                    }
                    Some(Err(_)) => {
                        self.fail(HostError::Protocol { what: "a malformed header or a wrong header digest" })
                    }
                }
                used
            };
            rest = rest.get(used..).unwrap_or_default();
        }
    }

    fn fail(&mut self, error: HostError) {
        if self.phase != Phase::Failed {
            self.phase = Phase::Failed;
            self.events.push_back(QueueEvent::Failed(error));
        }
    }

    fn pdu(&mut self, layout: &Layout, pdu: &Pdu) -> Result<(), &'static str> {
        match pdu {
            Pdu::IcResp(response) => self.initialized(response),
            Pdu::CapsuleResp(response) => self.completed(&response.cqe),
            Pdu::Data(data) => self.data(layout, data),
            Pdu::R2t(r2t) => self.ready_to_transfer(r2t),
            Pdu::TermReq(term) => {
                self.fail(HostError::Terminated { fes: term.fes.get(), fei: term.fei.get() });
                Ok(())
            }
            Pdu::IcReq(_) | Pdu::CapsuleCmd(_) => Err("a PDU that only hosts send"),
        }
    }

    /// ICResp, with the checks Linux makes.
    fn initialized(&mut self, response: &IcResp) -> Result<(), &'static str> {
        let max = response.maxh2cdata.get();
        if response.pfv.get() != 0 || response.cpda != 0 {
            return Err("ICResp with a version or alignment that was not asked for");
        }
        if response.dgst != self.options.digests.bits() {
            return Err("ICResp with other digests than asked for");
        }
        if max < 4096 || !max.is_multiple_of(4) {
            return Err("ICResp with MAXH2CDATA below 4096 or not a multiple of 4");
        }
        self.max_h2c_data = max as usize;
        self.digests = self.options.digests;
        self.phase = Phase::Connecting;
        let connect = ConnectCommand {
            record_format: 0,
            qid: self.options.qid,
            sqsize: self.options.entries.saturating_sub(1),
            attributes: if self.options.flow_control { 0 } else { ConnectCommand::DISABLE_FLOW_CONTROL },
            keep_alive_ms: self.options.keep_alive_ms,
        };
        let mut data = ConnectData {
            host_id: self.options.host_id,
            cntlid: self.options.cntlid.into(),
            reserved0: [0; 238],
            subnqn: [0; 256],
            hostnqn: [0; 256],
            reserved1: [0; 256],
        };
        self.options.subsystem.write_field(&mut data.subnqn);
        self.options.host.write_field(&mut data.hostnqn);
        let mut sqe =
            Sqe { opcode: opcode::FABRICS, nsid: u32::from(opcode::FABRICS_CONNECT).into(), ..Sqe::default() };
        connect.write(&mut sqe);
        let transfer = Transfer::ToTarget(data.as_bytes().into());
        self.issue(Command { sqe, transfer }, 0).map_err(|QueueFull| "ICResp twice")
    }

    fn pending(&mut self, cid: u16) -> Option<&mut Pending> {
        self.commands.get_mut(usize::from(cid))?.as_mut()
    }

    fn completed(&mut self, cqe: &Cqe) -> Result<(), &'static str> {
        self.finish(cqe.cid.get(), cqe.status(), cqe.result.get())
    }

    fn finish(&mut self, cid: u16, status: Status, result: u64) -> Result<(), &'static str> {
        let place = self.commands.get_mut(usize::from(cid)).ok_or("a completion of no command")?;
        let pending = place.take().ok_or("a completion of no command")?;
        self.outstanding -= 1;
        if self.phase == Phase::Connecting {
            if status.is_success() {
                self.phase = Phase::Connected;
                self.events.push_back(QueueEvent::Connected { cntlid: result as u16 });
            } else {
                self.fail(HostError::Refused { status, result: result as u32 });
            }
            return Ok(());
        }
        if status.is_success() && (pending.arrived as usize) < pending.incoming.len() {
            return Err("a successful completion with less data than asked for");
        }
        let status = if pending.damaged { Status::TRANSIENT_TRANSPORT_ERROR } else { status };
        let data = if status.is_success() { pending.incoming } else { Vec::new() };
        self.events.push_back(QueueEvent::Done(Completion { token: pending.token, status, result, data }));
        Ok(())
    }

    fn data(&mut self, layout: &Layout, data: &Data) -> Result<(), &'static str> {
        let cid = data.cccid.get();
        let (offset, bytes) = (data.datao.get(), data.datal.get());
        let pending = self.pending(cid).ok_or("C2HData for no command")?;
        if bytes != layout.data_bytes || offset != pending.arrived {
            return Err("C2HData with a wrong length or offset");
        }
        if offset as usize + bytes as usize > pending.incoming.len() {
            return Err("C2HData beyond what was asked for");
        }
        self.payload = Some(Payload {
            cid,
            at: offset as usize,
            rest: bytes as usize,
            crc: 0,
            digest: layout.data_digest.then(Vec::new),
            success: layout.flags & flag::SUCCESS != 0,
        });
        Ok(())
    }

    fn payload_progress(&mut self) {
        let Some(payload) = &self.payload else { return };
        let intact = match &payload.digest {
            _ if payload.rest > 0 => return,
            None => true,
            Some(digest) if digest.len() < DIGEST_BYTES => return,
            Some(digest) => digest[..] == payload.crc.to_le_bytes(),
        };
        let (cid, success) = (payload.cid, payload.success);
        self.payload = None;
        if let Some(pending) = self.pending(cid) {
            pending.damaged |= !intact;
        }
        if success && let Err(what) = self.finish(cid, Status::SUCCESS, 0) {
            self.fail(HostError::Protocol { what });
        }
    }

    /// Sends what an R2T asks for, in pieces of at most MAXH2CDATA.
    fn ready_to_transfer(&mut self, r2t: &R2t) -> Result<(), &'static str> {
        let (offset, bytes) = (r2t.r2to.get() as usize, r2t.r2tl.get() as usize);
        let pending = self.pending(r2t.cccid.get()).ok_or("R2T for no command")?;
        let data = pending.outgoing.clone().ok_or("R2T for a command without data")?;
        let end = offset.checked_add(bytes).filter(|end| bytes > 0 && *end <= data.len());
        let end = end.ok_or("R2T beyond the command's data")?;
        let mut at = offset;
        while at < end {
            let upto = end.min(at + self.max_h2c_data);
            let piece = data.get(at..upto).unwrap_or_default();
            let header = Data {
                common: CommonHeader::of(kind::H2C_DATA),
                cccid: r2t.cccid,
                ttag: r2t.ttag,
                datao: (at as u32).into(),
                datal: (piece.len() as u32).into(),
                reserved: [0; 4],
            };
            self.put_with_data(header, if upto == end { flag::LAST } else { 0 }, piece);
            at = upto;
        }
        Ok(())
    }

    fn put<H>(&mut self, header: H, flags: u8)
    where
        H: IntoBytes + zerocopy::Immutable + AsMut<CommonHeader>,
    {
        let mut head = Inline::<160>::new();
        put_header(&mut head, header, flags, self.digests);
        self.output.extend_from_slice(head.as_slice());
    }

    fn put_with_data<H>(&mut self, header: H, flags: u8, data: &[u8])
    where
        H: IntoBytes + zerocopy::Immutable + AsMut<CommonHeader>,
    {
        let mut head = Inline::<160>::new();
        put_header_with_data(&mut head, header, flags, self.digests, 4, data.len() as u32);
        self.output.extend_from_slice(head.as_slice());
        self.output.extend_from_slice(data);
        if self.digests.data {
            self.output.extend_from_slice(&data_digest(data));
        }
    }
}

fn capsule(sqe: Sqe) -> CapsuleCmd {
    CapsuleCmd { common: CommonHeader::of(kind::CAPSULE_CMD), sqe }
}

/// Takes what it can of `bytes` for the data in progress.
fn absorb(payload: &mut Payload, commands: &mut [Option<Pending>], bytes: &[u8]) -> usize {
    let take = payload.rest.min(bytes.len());
    let (data, behind) = bytes.split_at_checked(take).unwrap_or((bytes, &[]));
    if let Some(Some(pending)) = commands.get_mut(usize::from(payload.cid)) {
        if let Some(to) = pending.incoming.get_mut(payload.at..payload.at + take) {
            to.copy_from_slice(data);
        }
        pending.arrived += take as u32;
    }
    payload.at += take;
    payload.rest -= take;
    let Some(digest) = &mut payload.digest else { return take };
    payload.crc = crate::pdu::crc32c_append(payload.crc, data);
    if payload.rest > 0 {
        return take;
    }
    let more = (DIGEST_BYTES - digest.len()).min(behind.len());
    digest.extend_from_slice(behind.get(..more).unwrap_or_default());
    take + more
}
