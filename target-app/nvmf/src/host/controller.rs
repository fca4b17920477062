//! From a fresh admin connection to a controller that is ready, and what it serves.

use std::collections::VecDeque;

use zerocopy::FromBytes;

use super::{Command, Completion, HostError, Queue, QueueEvent, QueueFull, QueueOptions};
use crate::spec::{
    AnaGroupDescriptor, AnaHeader, AnaState, DiscoveryEntry, DiscoveryHeader, IdentifyController, IdentifyNamespace,
    IdentifyNamespaceIndependent, cap, cc, cns, csts, lid, offset,
};

/// Tokens of the bring-up's own commands; the caller's have this bit clear.
const OWN: u64 = 1 << 63;

/// A namespace as a host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its number.
    pub nsid: u32,
    /// Capacity in blocks.
    pub blocks: u64,
    /// Bytes per block.
    pub block_bytes: u32,
    /// Its NGUID.
    pub nguid: [u8; 16],
    /// Whether the target serves I/O on it.
    pub ready: bool,
    /// Its ANA state on this controller; optimized where the controller does not report any.
    pub access: AnaState,
}

/// A controller as a host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerDescription {
    /// Its id, for the I/O queues' Connect.
    pub cntlid: u16,
    /// The largest transfer in bytes; 0 for no limit.
    pub transfer_bytes_max: u64,
    /// What I/O queues may send in capsule.
    pub in_capsule_bytes: u32,
    /// Entries an I/O queue may have.
    pub entries_max: u16,
    /// I/O queues granted.
    pub io_queues: u16,
    /// Its namespaces.
    pub namespaces: Vec<NamespaceInfo>,
}

/// Where a subsystem can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredPath {
    /// The subsystem; the discovery subsystem's own entry is among them.
    pub subsystem: String,
    /// IP address.
    pub address: String,
    /// TCP port.
    pub port: String,
}

/// What a controller has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControllerEvent {
    /// An NVM controller is ready: connect its I/O queues.
    Ready(ControllerDescription),
    /// The namespaces changed, or their ANA states; these are all that are there now.
    Namespaces(Vec<NamespaceInfo>),
    /// The discovery log, once ready and whenever it changed.
    Discovered {
        /// GENCTR.
        generation: u64,
        /// Its entries.
        paths: Vec<DiscoveredPath>,
    },
    /// A command of the caller's ended.
    Done(Completion),
    /// It can't go on.
    Failed(HostError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connect,
    Capabilities,
    Enable,
    Ready,
    Identify,
    Queues,
    Events,
    ListNamespaces,
    Namespace,
    NamespaceState,
    Access,
    ReadDiscovery,
    ClearChanges,
    Idle,
}

/// An admin queue that brings its controller up by itself: enable, identify, number of queues, events, namespaces (or, for
/// the discovery subsystem, the log), and that follows changes afterwards.
#[derive(Debug)]
pub struct Controller {
    queue: Queue,
    step: Step,
    discovery: bool,
    io_queues_wanted: u16,
    description: ControllerDescription,
    ready: bool,
    /// Bytes of the whole ANA log, where the controller has one.
    ana_log_bytes: Option<u32>,
    /// Namespaces still to be identified.
    todo: VecDeque<u32>,
    found: Vec<NamespaceInfo>,
    again: bool,
    events: VecDeque<ControllerEvent>,
}

impl Controller {
    /// `io_queues_wanted` (at least 1) is asked of the controller; discovery controllers have none.
    pub fn new(options: QueueOptions, io_queues_wanted: u16) -> Self {
        Self {
            discovery: options.subsystem.is_discovery(),
            queue: Queue::new(options),
            step: Step::Connect,
            io_queues_wanted: io_queues_wanted.max(1),
            description: ControllerDescription {
                cntlid: 0,
                transfer_bytes_max: 0,
                in_capsule_bytes: 0,
                entries_max: 0,
                io_queues: 0,
                namespaces: Vec::new(),
            },
            ready: false,
            ana_log_bytes: None,
            todo: VecDeque::new(),
            found: Vec::new(),
            again: false,
            events: VecDeque::new(),
        }
    }

    /// As [`Queue::options`].
    pub fn options(&self) -> &QueueOptions {
        self.queue.options()
    }

    /// As [`Queue::take_output`].
    pub fn take_output(&mut self) -> Vec<u8> {
        self.queue.take_output()
    }

    /// As [`Queue::receive`].
    pub fn receive(&mut self, bytes: &[u8]) {
        self.queue.receive(bytes);
        while let Some(event) = self.queue.poll() {
            match event {
                QueueEvent::Connected { cntlid } => {
                    self.description.cntlid = cntlid;
                    self.go(Step::Capabilities);
                }
                QueueEvent::Done(done) if done.token == OWN | Step::Idle as u64 => self.event(&done),
                QueueEvent::Done(done) if done.token & OWN != 0 => self.answered(&done),
                QueueEvent::Done(done) => self.events.push_back(ControllerEvent::Done(done)),
                QueueEvent::Failed(error) => self.events.push_back(ControllerEvent::Failed(error)),
            }
        }
    }

    /// What happened since.
    pub fn poll(&mut self) -> Option<ControllerEvent> {
        self.events.pop_front()
    }

    /// Sends an admin command of the caller's; bit 63 of `token` must be 0.
    pub fn submit(&mut self, command: Command, token: u64) -> Result<(), QueueFull> {
        debug_assert!(token & OWN == 0);
        self.queue.submit(command, token)
    }

    /// Sends Keep Alive; the caller does so every half of the time-out it asked for. Its completion is a
    /// [`ControllerEvent::Done`] with this token.
    pub fn keep_alive(&mut self, token: u64) -> Result<(), QueueFull> {
        self.submit(Command::keep_alive(), token)
    }

    /// Sends a normal shutdown (CC.SHN 01b); the completion is a [`ControllerEvent::Done`] with this token.
    pub fn shut_down(&mut self, token: u64) -> Result<(), QueueFull> {
        self.submit(Command::property_set(offset::CC, CC_ENABLED | 1 << 14), token)
    }

    fn go(&mut self, step: Step) {
        self.step = step;
        let command = match step {
            Step::Connect | Step::Idle => return,
            Step::Capabilities => Command::property_get(offset::CAP, true),
            Step::Enable => Command::property_set(offset::CC, CC_ENABLED),
            Step::Ready => Command::property_get(offset::CSTS, false),
            Step::Identify => Command::identify(cns::CONTROLLER, 0),
            Step::Queues => {
                let wanted = u32::from(self.io_queues_wanted - 1);
                Command::set_feature(0x07, wanted | wanted << 16)
            }
            Step::Events => {
                let of_nvm = EVENT_NAMESPACES | if self.ana_log_bytes.is_some() { EVENT_ANA } else { 0 };
                Command::set_feature(0x0b, if self.discovery { EVENT_DISCOVERY } else { of_nvm })
            }
            Step::ListNamespaces => Command::identify(cns::ACTIVE_NAMESPACES, 0),
            Step::Namespace => match self.todo.front() {
                Some(nsid) => Command::identify(cns::NAMESPACE, *nsid),
                None if self.ana_log_bytes.is_some() => return self.go(Step::Access),
                None => return self.listed(),
            },
            Step::NamespaceState => {
                Command::identify(cns::NAMESPACE_INDEPENDENT, self.todo.front().copied().unwrap_or_default())
            }
            Step::Access => Command::get_log(lid::ANA, 0, self.ana_log_bytes.unwrap_or(ANA_HEADER_BYTES), false),
            Step::ReadDiscovery => Command::get_log(lid::DISCOVERY, 0, DISCOVERY_LOG_BYTES, false),
            Step::ClearChanges => Command::get_log(lid::CHANGED_NAMESPACES, 0, 4096, false),
        };
        // The queue is larger than what the bring-up has outstanding.
        if self.queue.submit(command, OWN | step as u64).is_err() {
            self.events
                .push_back(ControllerEvent::Failed(HostError::Protocol { what: "no room for an admin command" }));
        }
    }

    fn answered(&mut self, done: &Completion) {
        if !done.status.is_success() {
            let (what, status) = (name(self.step), done.status);
            return self.events.push_back(ControllerEvent::Failed(HostError::Command { what, status }));
        }
        match self.step {
            Step::Capabilities => {
                self.description.entries_max = (done.result & 0xffff).saturating_add(1).min(0xffff) as u16;
                if done.result & cap::CSS_NVM == 0 {
                    let what = "CAP without the NVM command set";
                    return self.events.push_back(ControllerEvent::Failed(HostError::Protocol { what }));
                }
                self.go(Step::Enable);
            }
            Step::Enable => self.go(Step::Ready),
            Step::Ready => {
                let status = done.result as u32;
                if status & csts::CFS != 0 {
                    let what = "a controller in fatal status";
                    return self.events.push_back(ControllerEvent::Failed(HostError::Protocol { what }));
                }
                self.go(if status & csts::RDY != 0 { Step::Identify } else { Step::Ready });
            }
            Step::Identify => {
                if let Ok((page, _)) = IdentifyController::read_from_prefix(&done.data) {
                    let shift = u32::from(page.mdts).min(40);
                    self.description.transfer_bytes_max = if shift == 0 { 0 } else { 4096 << shift };
                    self.description.in_capsule_bytes = (page.ioccsz.get().saturating_mul(16)).saturating_sub(64);
                    self.ana_log_bytes = (page.cmic & CMIC_ANA != 0).then(|| ana_log_bytes(&page));
                }
                self.go(if self.discovery { Step::Events } else { Step::Queues });
            }
            Step::Queues => {
                self.description.io_queues = (done.result as u16).saturating_add(1).min(self.io_queues_wanted);
                self.go(Step::Events);
            }
            Step::Events => {
                self.await_event();
                self.go(if self.discovery { Step::ReadDiscovery } else { Step::ListNamespaces });
            }
            Step::ListNamespaces => {
                let nsids = done.data.chunks_exact(4).filter_map(|c| c.first_chunk().copied().map(u32::from_le_bytes));
                self.todo = nsids.take_while(|nsid| *nsid != 0).collect();
                self.found.clear();
                self.go(Step::Namespace);
            }
            Step::Namespace => {
                if let (Ok((page, _)), Some(nsid)) =
                    (IdentifyNamespace::read_from_prefix(&done.data), self.todo.front())
                {
                    let format = page.lbaf.get(usize::from(page.flbas & 0xf)).copied().unwrap_or_default();
                    self.found.push(NamespaceInfo {
                        nsid: *nsid,
                        blocks: page.nsze.get(),
                        block_bytes: 1u32.checked_shl(format.lbads.into()).unwrap_or(0),
                        nguid: page.nguid,
                        ready: false,
                        access: AnaState::Optimized,
                    });
                }
                self.go(Step::NamespaceState);
            }
            Step::NamespaceState => {
                if let (Ok((page, _)), Some(last)) =
                    (IdentifyNamespaceIndependent::read_from_prefix(&done.data), self.found.last_mut())
                {
                    last.ready = page.nstat & 1 != 0;
                }
                // One that went away in between is not there.
                self.found.retain(|namespace| namespace.blocks > 0);
                self.todo.pop_front();
                self.go(Step::Namespace);
            }
            Step::Access => {
                self.note_access(&done.data);
                self.listed();
            }
            Step::ReadDiscovery => {
                self.discovered(&done.data);
                self.idle();
            }
            Step::ClearChanges => self.go(Step::ListNamespaces),
            Step::Connect | Step::Idle => {}
        }
    }

    fn listed(&mut self) {
        let namespaces = std::mem::take(&mut self.found);
        if self.ready {
            self.events.push_back(ControllerEvent::Namespaces(namespaces));
        } else {
            self.ready = true;
            self.description.namespaces = namespaces;
            self.events.push_back(ControllerEvent::Ready(self.description.clone()));
        }
        self.idle();
    }

    fn idle(&mut self) {
        self.step = Step::Idle;
        if std::mem::take(&mut self.again) {
            self.look_again();
        }
    }

    /// An asynchronous event: something changed.
    fn event(&mut self, done: &Completion) {
        if !done.status.is_success() {
            return;
        }
        self.await_event();
        if self.step == Step::Idle { self.look_again() } else { self.again = true }
    }

    fn look_again(&mut self) {
        self.go(if self.discovery { Step::ReadDiscovery } else { Step::ClearChanges });
    }

    fn await_event(&mut self) {
        // With no room the next event is missed until the next change; the queue has room for it.
        let _full = self.queue.submit(Command::async_event_request(), OWN | Step::Idle as u64);
    }

    /// Takes each namespace's state from the ANA log (Base 2.0, 5.16.1.13). One that no group names keeps its own.
    fn note_access(&mut self, log: &[u8]) {
        let Ok((header, mut rest)) = AnaHeader::read_from_prefix(log) else { return };
        for _ in 0..header.groups.get() {
            let Ok((group, behind)) = AnaGroupDescriptor::read_from_prefix(rest) else { return };
            let Some((nsids, behind)) = behind.split_at_checked(group.namespaces.get() as usize * 4) else { return };
            rest = behind;
            let Some(state) = AnaState::from_wire(group.state) else { continue };
            let nsids = nsids.chunks_exact(4).filter_map(|c| c.first_chunk().copied().map(u32::from_le_bytes));
            for nsid in nsids {
                if let Some(namespace) = self.found.iter_mut().find(|namespace| namespace.nsid == nsid) {
                    namespace.access = state;
                }
            }
        }
    }

    fn discovered(&mut self, log: &[u8]) {
        let Ok((header, entries)) = DiscoveryHeader::read_from_prefix(log) else { return };
        let entries = entries.chunks_exact(size_of::<DiscoveryEntry>());
        let paths = entries.take(header.numrec.get() as usize).filter_map(|bytes| {
            let entry = DiscoveryEntry::read_from_bytes(bytes).ok()?;
            Some(DiscoveredPath {
                subsystem: entry.subsystem().to_owned(),
                address: entry.address().to_owned(),
                port: entry.service().to_owned(),
            })
        });
        self.events.push_back(ControllerEvent::Discovered { generation: header.genctr.get(), paths: paths.collect() });
    }
}

/// CC with EN, 64-byte and 16-byte entries.
const CC_ENABLED: u32 = cc::EN | 6 << 16 | 4 << 20;

/// Asynchronous event configuration (Base 2.0, figure 318).
const EVENT_NAMESPACES: u32 = 1 << 8;
const EVENT_ANA: u32 = 1 << 11;
const EVENT_DISCOVERY: u32 = 1 << 31;

/// CMIC bit 3: ANA is reported.
const CMIC_ANA: u8 = 1 << 3;
const ANA_HEADER_BYTES: u32 = size_of::<AnaHeader>() as u32;
/// The most of an ANA log that is read.
const ANA_LOG_BYTES_MAX: u32 = 256 << 10;

/// Room for every group and every namespace that there may be (as Linux counts them).
fn ana_log_bytes(page: &IdentifyController) -> u32 {
    let groups = page.nanagrpid.get().saturating_mul(size_of::<AnaGroupDescriptor>() as u32);
    let namespaces = page.mnan.get().saturating_mul(4);
    groups.saturating_add(namespaces).saturating_add(ANA_HEADER_BYTES).min(ANA_LOG_BYTES_MAX)
}

/// Room for 127 entries of the discovery log.
const DISCOVERY_LOG_BYTES: u32 = 128 << 10;

fn name(step: Step) -> &'static str {
    match step {
        Step::Connect => "Connect",
        Step::Capabilities => "Property Get CAP",
        Step::Enable => "Property Set CC",
        Step::Ready => "Property Get CSTS",
        Step::Identify => "Identify Controller",
        Step::Queues => "Set Features Number of Queues",
        Step::Events => "Set Features Asynchronous Event Configuration",
        Step::ListNamespaces => "Identify active namespaces",
        Step::Namespace => "Identify Namespace",
        Step::NamespaceState => "Identify Namespace, independent of the command set",
        Step::Access => "Get Log Page Asymmetric Namespace Access",
        Step::ReadDiscovery => "Get Log Page Discovery",
        Step::ClearChanges => "Get Log Page Changed Namespace List",
        Step::Idle => "Asynchronous Event Request",
    }
}
