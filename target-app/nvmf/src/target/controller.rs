//! A controller's state, owned by its admin connection: registers, features, events, and which I/O queues belong to it.

use std::{collections::BTreeSet, net::SocketAddr};

use smallvec::SmallVec;

use super::{
    ConnectionId, ControllerId, ListenAddress, Subsystem, ana::Report, config::TransportLimits,
    connect::ConnectRefusal, core::Join,
};
use crate::{
    nqn::Nqn,
    spec::{cap, cc, csts, lid, offset},
};

/// Base 2.0.0.
pub(super) const VERSION: u32 = 0x0002_0000;
/// CAP.TO and CRTO.CRWMT, in 500 ms: the longest a reset takes to see its I/O queues end.
const READY_TIMEOUT_HALF_SECONDS: u64 = 30;
/// Asynchronous Event Requests held at most (AERL plus one).
pub(super) const AERS_MAX: usize = 4;
/// Entries of the Changed Namespace List; beyond it the list says "many" (Base 2.0, 5.16.1.5).
pub(super) const CHANGED_MAX: usize = 1024;
/// How long a Connect waits for a dying socket to give up its QID.
const QID_WAIT_NS: u64 = 1_000_000_000;
/// Granularity of the keep-alive timer: KAS is in 100 ms.
pub(super) const KEEP_ALIVE_GRANULARITY_MS: u32 = 100;

/// A timer looked at more than this after it was due is late, and is extended by as much.
const LATE_NS: u64 = 200_000_000;

/// Asynchronous event configuration bits (Base 2.0, figure 318), the same as OAES'.
pub(super) mod event {
    pub(crate) const NAMESPACES: u32 = 1 << 8;
    pub(crate) const ANA: u32 = 1 << 11;
    pub(crate) const DISCOVERY: u32 = 1 << 31;
}

/// Where in its life a controller is (Base 2.0, 3.5 and 3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// CC.EN is 0.
    Disabled,
    /// CSTS.RDY is 1.
    Ready,
    /// CC.EN was cleared; RDY stays until the last I/O queue has drained, so that no write of it is still on its way when
    /// the host tries again elsewhere.
    Resetting,
    /// CC.SHN was set; the I/O queues are ending.
    ShuttingDown,
    /// They have ended.
    ShutDown,
    /// CC asked for what is not on offer.
    Failed,
}

/// The features a host may set (Base 2.0, 5.27).
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    pub(super) arbitration: u32,
    pub(super) temperature_threshold: u32,
    pub(super) error_recovery: u32,
    pub(super) write_atomicity: u32,
    pub(super) interrupt_coalescing: u32,
    pub(super) events: u32,
    pub(super) host_behavior: u8,
}

impl Features {
    /// What a reset leaves.
    pub(super) const DEFAULT: Self = Self {
        arbitration: 0,
        temperature_threshold: 0xffff,
        error_recovery: 0,
        write_atomicity: 0,
        interrupt_coalescing: 0,
        events: 0,
        host_behavior: 0,
    };
}

#[derive(Debug)]
pub(super) struct Controller {
    pub(super) id: ControllerId,
    pub(super) host: Nqn,
    pub(super) host_id: [u8; 16],
    pub(super) discovery: bool,
    pub(super) features: Features,
    limits: TransportLimits,
    queues_granted: u16,
    cc: u32,
    life: Life,
    keep_alive_ms: u32,
    keep_alive_deadline_ns: Option<u64>,
    /// The timer was looked at so late that it was extended once.
    keep_alive_was_late: bool,
    /// Slots of the held Asynchronous Event Requests.
    pub(super) aers: SmallVec<[u16; AERS_MAX]>,
    changed: BTreeSet<u32>,
    changed_masked: bool,
    access: Report,
    access_changed: bool,
    access_masked: bool,
    discovered: Vec<(Nqn, SocketAddr)>,
    discovery_changed: bool,
    discovery_masked: bool,
    queues: Vec<(u16, ConnectionId)>,
    waiting: Vec<(u64, Join)>,
}

/// What a property write asks of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    /// End all I/O queues, then [`Controller::settle`].
    EndQueues,
}

/// The fate of an I/O queue's Connect.
pub(super) enum Joined {
    Answer(Result<(), ConnectRefusal>),
    /// Until its QID is free or [`Controller::expired_joins`].
    Later,
}

impl Controller {
    pub(super) fn new(
        id: ControllerId,
        host: Nqn,
        host_id: [u8; 16],
        discovery: bool,
        limits: TransportLimits,
    ) -> Self {
        Self {
            id,
            host,
            host_id,
            discovery,
            features: Features::DEFAULT,
            limits,
            queues_granted: limits.io_queues_max,
            cc: 0,
            life: Life::Disabled,
            keep_alive_ms: 0,
            keep_alive_deadline_ns: None,
            keep_alive_was_late: false,
            aers: SmallVec::new(),
            changed: BTreeSet::new(),
            changed_masked: false,
            access: Report::default(),
            access_changed: false,
            access_masked: false,
            discovered: Vec::new(),
            discovery_changed: false,
            discovery_masked: false,
            queues: Vec::new(),
            waiting: Vec::new(),
        }
    }

    // Registers.

    /// A property's value and whether it has 8 bytes; None for one that does not exist here.
    pub(super) fn property(&self, at: u32) -> Option<(u64, bool)> {
        Some(match at {
            offset::CAP => {
                let mqes = u64::from(self.limits.io_queue_entries_max.max(2) - 1);
                let timeout = READY_TIMEOUT_HALF_SECONDS << cap::TO_SHIFT;
                (mqes | cap::CQR | timeout | cap::CSS_NVM | cap::CRWMS, true)
            }
            offset::VS => (u64::from(VERSION), false),
            offset::CC => (u64::from(self.cc), false),
            offset::CSTS => (u64::from(self.status()), false),
            // Linux warns when CRTO is below CAP.TO.
            offset::CRTO => (READY_TIMEOUT_HALF_SECONDS, false),
            _ => return None,
        })
    }

    fn status(&self) -> u32 {
        match self.life {
            Life::Disabled => 0,
            Life::Ready | Life::Resetting => csts::RDY,
            Life::ShuttingDown => csts::RDY | csts::SHST_OCCURRING,
            Life::ShutDown => csts::RDY | csts::SHST_COMPLETE,
            Life::Failed => csts::CFS,
        }
    }

    /// Whether admin commands are served.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.life, Life::Ready | Life::ShuttingDown | Life::ShutDown)
    }

    /// Controller Configuration was written.
    pub(super) fn write_cc(&mut self, value: u32) -> Action {
        let old = std::mem::replace(&mut self.cc, value);
        if value & cc::EN == 0 && old & cc::EN != 0 {
            self.life = Life::Resetting;
            self.features = Features::DEFAULT;
            // A host looks at everything again after a reset.
            self.changed.clear();
            self.access.reset();
            (self.changed_masked, self.access_changed, self.access_masked) = (false, false, false);
            (self.discovery_changed, self.discovery_masked) = (false, false);
            self.queues_granted = self.limits.io_queues_max;
            return Action::EndQueues;
        }
        if value & cc::EN != 0 && old & cc::EN == 0 && self.life != Life::Resetting {
            self.life = if self.is_acceptable(value) { Life::Ready } else { Life::Failed };
        }
        if value & cc::SHN != 0 && old & cc::SHN == 0 {
            self.life = Life::ShuttingDown;
            return Action::EndQueues;
        }
        Action::Nothing
    }

    /// Entry sizes are 64 and 16 bytes; a discovery controller has no I/O queues and does not care.
    fn is_acceptable(&self, value: u32) -> bool {
        value & cc::CSS_MPS_AMS == 0 && (self.discovery || (cc::iosqes(value) == 6 && cc::iocqes(value) == 4))
    }

    /// Goes on with a reset or shutdown once the last I/O queue is gone.
    pub(super) fn settle(&mut self) {
        if !self.queues.is_empty() {
            return;
        }
        match self.life {
            Life::Resetting if self.cc & cc::EN == 0 => self.life = Life::Disabled,
            Life::Resetting => self.life = if self.is_acceptable(self.cc) { Life::Ready } else { Life::Failed },
            Life::ShuttingDown => self.life = Life::ShutDown,
            Life::Disabled | Life::Ready | Life::ShutDown | Life::Failed => {}
        }
    }

    // Keep-alive (Base 2.0, 3.9).

    pub(super) fn set_keep_alive(&mut self, now_ns: u64, ms: u32) {
        self.keep_alive_ms = ms.div_ceil(KEEP_ALIVE_GRANULARITY_MS).saturating_mul(KEEP_ALIVE_GRANULARITY_MS);
        self.heard(now_ns);
    }

    pub(super) fn keep_alive_ms(&self) -> u32 {
        self.keep_alive_ms
    }

    /// Something came from the host on the admin queue.
    pub(super) fn heard(&mut self, now_ns: u64) {
        let timeout_ns = u64::from(self.keep_alive_ms) * 1_000_000;
        self.keep_alive_deadline_ns = (timeout_ns != 0).then(|| now_ns.saturating_add(timeout_ns));
        self.keep_alive_was_late = false;
    }

    /// Whether the keep-alive timer has run out. When this is asked late, our own core was held up and the host's Keep Alive
    /// may be waiting unread in its socket: it gets one more moment.
    pub(super) fn is_expired(&mut self, now_ns: u64) -> bool {
        let Some(deadline_ns) = self.keep_alive_deadline_ns.filter(|deadline_ns| now_ns >= *deadline_ns) else {
            return false;
        };
        if now_ns - deadline_ns <= LATE_NS || self.keep_alive_was_late {
            return true;
        }
        self.keep_alive_was_late = true;
        self.keep_alive_deadline_ns = Some(now_ns.saturating_add(LATE_NS));
        false
    }

    pub(super) fn deadline_ns(&self) -> Option<u64> {
        self.keep_alive_deadline_ns.into_iter().chain(self.waiting.iter().map(|(deadline, _)| *deadline)).min()
    }

    // I/O queues.

    pub(super) fn queues(&self) -> &[(u16, ConnectionId)] {
        &self.queues
    }

    /// Number of Queues, Set Features 07h: counts less one, both queue kinds in one dword.
    pub(super) fn grant_queues(&mut self, wanted: u32) -> u32 {
        let (submission, completion) = (wanted & 0xffff, wanted >> 16);
        let granted = (submission.min(completion) + 1).min(u32::from(self.limits.io_queues_max));
        self.queues_granted = granted as u16;
        self.queues_dword()
    }

    pub(super) fn queues_dword(&self) -> u32 {
        let less_one = u32::from(self.queues_granted.max(1) - 1);
        less_one | less_one << 16
    }

    /// An I/O queue asks to belong to this controller.
    pub(super) fn join(&mut self, now_ns: u64, join: Join, subsystem: &Subsystem) -> Joined {
        Joined::Answer(match () {
            () if join.subsystem != subsystem.nqn => Err(ConnectRefusal::UnknownSubsystem),
            () if join.host != self.host => Err(ConnectRefusal::HostName),
            () if join.host_id != self.host_id => Err(ConnectRefusal::HostId),
            () if self.discovery || join.qid > self.queues_granted => Err(ConnectRefusal::QueueIdTooHigh),
            () if self.life != Life::Ready => Err(ConnectRefusal::NotEnabled),
            () if self.queues.iter().any(|(qid, _)| *qid == join.qid) => {
                if self.waiting.len() >= usize::from(self.limits.io_queues_max) {
                    return Joined::Answer(Err(ConnectRefusal::QueueIdInUse));
                }
                self.waiting.push((now_ns.saturating_add(QID_WAIT_NS), join));
                return Joined::Later;
            }
            () => {
                self.queues.push((join.qid, join.from));
                Ok(())
            }
        })
    }

    /// A queue's connection is gone, joined or still waiting. Returns a waiting one that now has its QID.
    pub(super) fn queue_gone(&mut self, qid: u16, from: ConnectionId) -> Option<Join> {
        self.waiting.retain(|(_, join)| join.from != from);
        let at = self.queues.iter().position(|queue| *queue == (qid, from))?;
        self.queues.swap_remove(at);
        self.settle();
        let at = self.waiting.iter().position(|(_, join)| join.qid == qid)?;
        Some(self.waiting.swap_remove(at).1)
    }

    /// Takes out a queue that waited for its QID too long, or any when the controller is ending.
    pub(super) fn expired_join(&mut self, now_ns: u64) -> Option<Join> {
        let at = self.waiting.iter().position(|(deadline, _)| now_ns >= *deadline)?;
        Some(self.waiting.swap_remove(at).1)
    }

    // Asynchronous events (Base 2.0, 5.2).

    pub(super) fn namespaces_changed(&mut self, nsids: impl IntoIterator<Item = u32>) {
        for nsid in nsids {
            if self.changed.len() <= CHANGED_MAX {
                self.changed.insert(nsid);
            }
        }
    }

    /// The states of the ANA groups as this controller reports them, when there is nothing to compare with.
    pub(super) fn access_at_first(&mut self, subsystem: &Subsystem, listener: &ListenAddress) {
        self.access.update(subsystem, listener);
        self.access.reset();
    }

    /// The same after a change of the configuration.
    pub(super) fn access_changed(&mut self, subsystem: &Subsystem, listener: &ListenAddress) {
        let is_event = self.access.update(subsystem, listener);
        self.access_changed |= is_event && subsystem.ana.reporting;
    }

    /// For the ANA log.
    pub(super) fn access(&self) -> &Report {
        &self.access
    }

    /// What the host sees in the discovery log now: (subsystem, address) in the log's order.
    pub(super) fn discoverable(&mut self, now: Vec<(Nqn, SocketAddr)>) {
        self.discovery_changed |= now != self.discovered;
        self.discovered = now;
    }

    /// The same at Connect, when there is nothing to compare with.
    pub(super) fn discoverable_at_first(&mut self, now: Vec<(Nqn, SocketAddr)>) {
        self.discovered = now;
    }

    /// The namespaces of the Changed Namespace List, ascending.
    pub(super) fn changed_namespaces(&self) -> &BTreeSet<u32> {
        &self.changed
    }

    /// The host read a log without Retain Asynchronous Event: its event may come again.
    pub(super) fn log_was_read(&mut self, log: u8) {
        match log {
            lid::CHANGED_NAMESPACES => {
                self.changed.clear();
                self.changed_masked = false;
            }
            lid::ANA => (self.access_changed, self.access_masked) = (false, false),
            lid::DISCOVERY => {
                self.discovery_changed = false;
                self.discovery_masked = false;
            }
            _ => {}
        }
    }

    /// The next event to report, with the slot of the request it answers: completion dword 0.
    pub(super) fn next_event(&mut self) -> Option<(u16, u32)> {
        const NOTICE: u32 = 2;
        let events = self.features.events;
        let (info, log) = if !self.changed.is_empty() && !self.changed_masked && events & event::NAMESPACES != 0 {
            (0x00, lid::CHANGED_NAMESPACES)
        } else if self.access_changed && !self.access_masked && events & event::ANA != 0 {
            (0x03, lid::ANA)
        } else if self.discovery_changed && !self.discovery_masked && events & event::DISCOVERY != 0 {
            (0xf0, lid::DISCOVERY)
        } else {
            return None;
        };
        if self.aers.is_empty() {
            return None;
        }
        let slot = self.aers.remove(0);
        match log {
            lid::DISCOVERY => self.discovery_masked = true,
            lid::ANA => self.access_masked = true,
            _ => self.changed_masked = true,
        }
        Some((slot, NOTICE | info << 8 | u32::from(log) << 16))
    }
}
