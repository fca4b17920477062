//! Fabrics commands: Connect, Property Get and Set, Disconnect (Base 2.0, section 6).

use std::sync::Arc;

use zerocopy::FromBytes;

use super::{Connection, Role, discoverable, queue_of};
use crate::{
    nqn::Nqn,
    spec::{ConnectCommand, ConnectData, Sqe, Status, offset, opcode},
    target::{
        CNTLID_MAX, CloseReason, ConnectRefusal, ControllerId, ModelNumber, Peer, PeerMessage, Ports, SerialNumber,
        Subsystem,
        controller::{Action, Controller},
        core::{Join, Message},
    },
};

/// CNTLID of a Connect that asks for a new controller.
const DYNAMIC: u16 = 0xffff;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    pub(super) fn fabrics<P: Ports<Buf = B>>(
        &mut self,
        now_ns: u64,
        slot: u16,
        sqe: &Sqe,
        data: Option<&[u8]>,
        ports: &mut P,
    ) {
        match (sqe.nsid.get() as u8, &mut self.role) {
            (opcode::FABRICS_CONNECT, Role::None) => {
                let Some(Ok((data, _))) = data.map(ConnectData::read_from_prefix) else {
                    return self.complete(slot, 0, Status::DATA_SGL_LENGTH_INVALID.dnr(), ports);
                };
                if let Err(refusal) = self.connect(now_ns, slot, &ConnectCommand::parse(sqe), &data, ports) {
                    self.refuse(slot, refusal, ports);
                }
            }
            (opcode::FABRICS_PROPERTY_GET, Role::Admin(controller)) => {
                let wide = sqe.dword(10) & 7 == 1;
                let (result, status) = match controller.property(sqe.dword(11)) {
                    Some((value, is_wide)) if is_wide == wide => (value, Status::SUCCESS),
                    // Without DNR: nvme-cli's show-regs goes on to the next property only then.
                    _ => (0, Status::INVALID_FIELD),
                };
                self.complete(slot, result, status, ports);
            }
            (opcode::FABRICS_PROPERTY_SET, Role::Admin(controller)) => {
                // Only CC can be written, and it has four bytes.
                if sqe.dword(11) != offset::CC || sqe.dword(10) & 7 != 0 {
                    return self.complete(slot, 0, Status::INVALID_FIELD.dnr(), ports);
                }
                if controller.write_cc(sqe.dword(12)) == Action::EndQueues {
                    self.end_queues(ports);
                }
                self.complete(slot, 0, Status::SUCCESS, ports);
            }
            // Individual queue deletion is not on offer (OFCS bit 0 is 0), so Disconnect is an I/O queue's unknown command.
            (opcode::FABRICS_CONNECT, _) => self.complete(slot, 0, Status::COMMAND_SEQUENCE_ERROR.dnr(), ports),
            (_, Role::None | Role::Joining { .. }) => {
                self.complete(slot, 0, Status::COMMAND_SEQUENCE_ERROR.dnr(), ports);
            }
            _ => self.complete(slot, 0, Status::INVALID_OPCODE.dnr(), ports),
        }
    }

    fn refuse<P: Ports<Buf = B>>(&mut self, slot: u16, refusal: ConnectRefusal, ports: &mut P) {
        let (status, result) = refusal.status();
        // Busy may pass; everything else needs an operator or another Connect.
        let status = if refusal == ConnectRefusal::Busy { status } else { status.dnr() };
        self.complete(slot, u64::from(result), status, ports);
    }

    /// Connect (Base 2.0, 6.3). An admin queue is answered at once, an I/O queue when its controller has answered.
    fn connect<P: Ports<Buf = B>>(
        &mut self,
        now_ns: u64,
        slot: u16,
        command: &ConnectCommand,
        data: &ConnectData,
        ports: &mut P,
    ) -> Result<(), ConnectRefusal> {
        if command.record_format != 0 {
            return Err(ConnectRefusal::Format);
        }
        let host = host_of(data)?;
        let subnqn = Nqn::from_field(&data.subnqn).map_err(|_| ConnectRefusal::UnknownSubsystem)?;
        let config = ports.core().config().clone();
        if command.sqsize == 0 || command.sqsize >= config.limits.io_queue_entries_max.max(2) {
            return Err(ConnectRefusal::QueueSize);
        }
        let subsystem = if subnqn.is_discovery() {
            Arc::new(discovery_subsystem().ok_or(ConnectRefusal::UnknownSubsystem)?)
        } else {
            let subsystem = config.subsystems.get(&subnqn).ok_or(ConnectRefusal::UnknownSubsystem)?;
            if !subsystem.admits(&host) {
                return Err(ConnectRefusal::HostNotAllowed);
            }
            if !subsystem.listens_on(&self.options.listener) {
                return Err(ConnectRefusal::OtherListener);
            }
            subsystem.clone()
        };
        let cntlid = data.cntlid.get();
        let from = self.options.id;
        if command.qid == 0 {
            if cntlid != DYNAMIC {
                return Err(ConnectRefusal::UnknownController);
            }
            let id =
                ports.core().allocate(subsystem.cntlid_min, subsystem.cntlid_max, from).ok_or(ConnectRefusal::Busy)?;
            let discovery = subsystem.nqn.is_discovery();
            let mut controller = Controller::new(id, host.clone(), data.host_id, discovery, config.limits);
            controller.set_keep_alive(now_ns, command.keep_alive_ms);
            if discovery {
                controller.discoverable_at_first(discoverable(&config, &host, self.options.local));
            } else {
                controller.access_at_first(&subsystem, &self.options.listener);
            }
            self.open(slot, queue_of(command, subsystem, host, id), Role::Admin(Box::new(controller)), ports);
            return Ok(());
        }
        if cntlid == 0 || cntlid > CNTLID_MAX {
            return Err(ConnectRefusal::UnknownController);
        }
        let controller = ControllerId(cntlid);
        let join = Join {
            from,
            qid: command.qid,
            subsystem: subsystem.nqn.clone(),
            host: host.clone(),
            host_id: data.host_id,
        };
        let queue = Box::new(queue_of(command, subsystem, host, controller));
        self.role = Role::Joining { slot, queue };
        ports.tell(Peer::Controller(controller), PeerMessage(Message::Join(Box::new(join))));
        Ok(())
    }

    /// The controller's answer to an I/O queue's Connect.
    pub(super) fn join_answered<P: Ports<Buf = B>>(&mut self, answer: Result<(), ConnectRefusal>, ports: &mut P) {
        if self.closed.is_some() {
            return;
        }
        match (std::mem::replace(&mut self.role, Role::None), answer) {
            (Role::Joining { slot, queue }, Ok(())) => {
                self.open(slot, *queue, Role::Io, ports);
                // What changed while the answer was under way.
                self.config_changed(ports);
            }
            (Role::Joining { slot, .. }, Err(refusal)) => self.refuse(slot, refusal, ports),
            (role, _) => self.role = role,
        }
    }

    fn open<P: Ports<Buf = B>>(&mut self, slot: u16, mut queue: super::Queue, role: Role, ports: &mut P) {
        // Connect itself took the first entry.
        queue.head = 1 % queue.entries.max(1);
        self.slots.grow(queue.entries);
        let cntlid = queue.controller.0;
        self.queue = Some(queue);
        self.role = role;
        self.complete_connect(slot, cntlid, ports);
    }

    /// For the reactor's log: nothing to do with the wire.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.closed
    }
}

/// The host's name. One that gives none is known by its identifier: SPDK's perf tool names itself only if it is told to. It is
/// admitted where any host is, or that name.
fn host_of(data: &ConnectData) -> Result<Nqn, ConnectRefusal> {
    if data.hostnqn[0] == 0 {
        return Ok(Nqn::from_uuid(data.host_id));
    }
    Nqn::from_field(&data.hostnqn).map_err(|_| ConnectRefusal::HostName)
}

/// The discovery subsystem, which every host may use.
fn discovery_subsystem() -> Option<Subsystem> {
    let mut subsystem = Subsystem::new(
        Nqn::discovery(),
        SerialNumber::new("00000000000000000000").ok()?,
        ModelNumber::new("Longrun Discovery").ok()?,
    );
    subsystem.allow_any_host = true;
    Some(subsystem)
}
