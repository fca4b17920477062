//! The NVMe-oF target: transport, subsystems, namespaces, listeners, hosts, and what is connected.

use super::ana::{ana_group, reports_ana, shown, wire};
use super::bdev::TICK_RATE_HZ;
use super::roles::Access;
use super::{Caller, Control, State, catalog_error};
use longrun_bdev::catalog::{Entry, Holder};
use longrun_bdev::{BdevId, IoType};
use longrun_nvmf::target::{
    AnaGroup, BdevHandle, BlockSize, ConnectionInfo, IN_CAPSULE_BYTES_IO, ModelNumber, Namespace, NamespaceState, Nsid,
    SerialNumber, Subsystem, TRANSFER_BYTES_MAX, TransportLimits,
};
use longrun_nvmf::{DISCOVERY_NQN, Nqn};
use longrun_rpc::RpcError;
use longrun_rpc::methods::nvmf::{
    AnaGroupState, AnaState, ControllerInfo, HostInfo, ListenAddress, ListenerInfo, NamespaceInfo, NvmfCreateSubsystem,
    NvmfCreateTransport, NvmfDeleteSubsystem, NvmfGetStats, NvmfGetSubsystems, NvmfGetTransports, NvmfStats,
    NvmfSubsystemAddHost, NvmfSubsystemAddListener, NvmfSubsystemAddNs, NvmfSubsystemAllowAnyHost,
    NvmfSubsystemGetControllers, NvmfSubsystemGetListeners, NvmfSubsystemGetQpairs, NvmfSubsystemRemoveHost,
    NvmfSubsystemRemoveListener, NvmfSubsystemRemoveNs, PollGroupStats, QpairInfo, SubsystemInfo, Subtype, TrType,
    TransportInfo,
};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use uuid::Uuid;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 512;
/// What a subsystem is called by hosts unless its operator says otherwise.
const MODEL: &str = "Longrun";

impl Control {
    pub(super) async fn nvmf_create_transport(&self, call: &NvmfCreateTransport) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        if state.transport.is_some() {
            return Err(RpcError::exists("transport", "TCP"));
        }
        let fixed = [
            ("in_capsule_data_size", call.in_capsule_data_size, IN_CAPSULE_BYTES_IO),
            ("max_io_size", call.max_io_size, TRANSFER_BYTES_MAX),
        ];
        for (name, given, used) in fixed {
            if let Some(given) = given.filter(|given| *given != used) {
                tracing::warn!("nvmf_create_transport: {name} is {given}; Longrun always offers {used}");
            }
        }
        let defaults = TransportLimits::default();
        state.target.limits = TransportLimits {
            io_queue_entries_max: call.max_queue_depth.unwrap_or(defaults.io_queue_entries_max),
            io_queues_max: call.max_io_qpairs_per_ctrlr.unwrap_or(defaults.io_queues_max),
        };
        state.transport = Some(call.clone());
        self.publish(&mut state).await;
        Ok(true)
    }

    pub(super) async fn nvmf_get_transports(&self, _: &NvmfGetTransports) -> Result<Vec<TransportInfo>, RpcError> {
        let state = self.state().await;
        let limits = state.target.limits;
        Ok(state
            .transport
            .iter()
            .map(|transport| TransportInfo {
                trtype: TrType::Tcp,
                max_queue_depth: limits.io_queue_entries_max,
                max_io_qpairs_per_ctrlr: limits.io_queues_max,
                in_capsule_data_size: IN_CAPSULE_BYTES_IO,
                max_io_size: TRANSFER_BYTES_MAX,
                max_aq_depth: limits.io_queue_entries_max,
                c2h_success: transport.c2h_success.unwrap_or(true),
            })
            .collect())
    }

    pub(super) async fn nvmf_create_subsystem(&self, call: &NvmfCreateSubsystem) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let nqn = nqn_of(call.nqn.as_str())?;
        if nqn.as_str() == DISCOVERY_NQN {
            return Err(RpcError::invalid_params(format!("{DISCOVERY_NQN} is there by itself; choose another nqn")));
        }
        if state.target.subsystems.contains_key(&nqn) {
            return Err(RpcError::exists("subsystem", nqn.as_str()));
        }
        let text = |error: longrun_nvmf::target::TextError| RpcError::invalid_params(error.to_string());
        let serial = call.serial_number.clone().unwrap_or_else(|| "00000000000000000000".to_owned());
        let model = call.model_number.as_deref().unwrap_or(MODEL);
        let mut subsystem =
            Subsystem::new(nqn, SerialNumber::new(&serial).map_err(text)?, ModelNumber::new(model).map_err(text)?);
        subsystem.allow_any_host = call.allow_any_host.unwrap_or(false);
        (subsystem.cntlid_min, subsystem.cntlid_max) = match (call.min_cntlid, call.max_cntlid) {
            (None, None) => state.cntlid_range(&self.public_key()),
            (min, max) => (min.unwrap_or(subsystem.cntlid_min), max.unwrap_or(subsystem.cntlid_max)),
        };
        subsystem.namespaces_max = call.max_namespaces.unwrap_or(32);
        subsystem.ana.reporting = call.ana_reporting.unwrap_or(false);
        state.target.set_subsystem(subsystem);
        self.publish(&mut state).await;
        Ok(true)
    }

    pub(super) async fn nvmf_delete_subsystem(&self, call: &NvmfDeleteSubsystem) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let subsystem = Arc::clone(subsystem_of(&state, &call.nqn)?);
        state.target.remove_subsystem(&subsystem.nqn);
        state.withheld.retain(|withheld| withheld.nqn != call.nqn);
        for namespace in subsystem.namespaces.values() {
            release_namespace(&mut state, &call.nqn, namespace);
        }
        self.publish(&mut state).await;
        for address in &subsystem.listeners {
            self.release_listener(&mut state, *address).await;
        }
        Ok(true)
    }

    pub(super) async fn nvmf_get_subsystems(&self, call: &NvmfGetSubsystems) -> Result<Vec<SubsystemInfo>, RpcError> {
        let state = self.state().await;
        if let Some(nqn) = call.nqn.as_deref().filter(|nqn| *nqn != DISCOVERY_NQN) {
            let subsystem = subsystem_of(&state, nqn)?;
            return Ok(vec![subsystem_info(&state, subsystem)]);
        }
        let discovery = SubsystemInfo {
            nqn: DISCOVERY_NQN.to_owned(),
            subtype: Subtype::Discovery,
            listen_addresses: state.listeners.keys().map(|address| ListenAddress::from(*address)).collect(),
            allow_any_host: true,
            hosts: Vec::new(),
            serial_number: None,
            model_number: None,
            max_namespaces: None,
            min_cntlid: None,
            max_cntlid: None,
            ana_reporting: None,
            namespaces: None,
        };
        let all = state.target.subsystems.values().map(|subsystem| subsystem_info(&state, subsystem));
        let wanted = |_: &SubsystemInfo| call.nqn.is_none();
        Ok(std::iter::once(discovery).chain(all.filter(wanted)).collect())
    }

    pub(super) async fn nvmf_subsystem_add_ns(
        &self,
        call: &NvmfSubsystemAddNs,
        caller: Caller,
    ) -> Result<u32, RpcError> {
        let mut state = self.state().await;
        let subsystem = Arc::clone(subsystem_of(&state, &call.nqn)?);
        let given = &call.namespace;
        if caller == Caller::Configuration && state.lacks_device(&given.bdev_name) {
            tracing::warn!(
                "namespace of {} without a device: {} is missing; this log or pair_get says why",
                call.nqn,
                given.bdev_name
            );
            state.withheld.push(call.clone());
            return Ok(given.nsid.unwrap_or(0));
        }
        let nsid = match given.nsid.filter(|nsid| *nsid != 0) {
            Some(nsid) if nsid > subsystem.namespaces_max => {
                return Err(RpcError::invalid_params(format!(
                    "nsid is {nsid}, expected 1 to {}, the subsystem's max_namespaces",
                    subsystem.namespaces_max
                )));
            }
            Some(nsid) if Nsid::new(nsid).is_some_and(|nsid| subsystem.namespaces.contains_key(&nsid)) => {
                return Err(RpcError::errno(
                    libc::EEXIST,
                    format!("{} has a namespace {nsid} already; leave nsid out to get the next free one", call.nqn),
                ));
            }
            Some(nsid) => nsid,
            None => (1..=subsystem.namespaces_max)
                .find(|nsid| Nsid::new(*nsid).is_some_and(|nsid| !subsystem.namespaces.contains_key(&nsid)))
                .ok_or_else(|| {
                    RpcError::errno(
                        libc::ENOSPC,
                        format!(
                            "{} has {} namespaces, its max_namespaces; remove one",
                            call.nqn, subsystem.namespaces_max
                        ),
                    )
                })?,
        };
        let nsid_checked = Nsid::new(nsid)
            .ok_or_else(|| RpcError::invalid_params(format!("nsid is {nsid}, expected 1 to 4294967294")))?;
        let ana_group = match given.anagrpid {
            Some(group) => ana_group(group, &subsystem)?,
            None => AnaGroup::of(nsid_checked),
        };
        let holder = Holder::Namespace { nqn: call.nqn.clone(), nsid };
        let entry = state.catalog.claim(&given.bdev_name, holder).map_err(catalog_error)?.clone();
        let uuid = given.uuid.unwrap_or(entry.uuid);
        let namespace = Namespace {
            nsid: nsid_checked,
            bdev: State::handle(&entry),
            blocks: entry.geometry.blocks,
            block_size: BlockSize::from_bytes(entry.geometry.block_bytes)
                .ok_or_else(|| RpcError::internal(format!("bdev {} has odd blocks", entry.name)))?,
            nguid: given.nguid.map_or(*uuid.as_bytes(), |nguid| *nguid.as_bytes()),
            uuid: *uuid.as_bytes(),
            eui64: given.eui64.map(|eui64| *eui64.as_bytes()),
            state: state.namespace_state(&entry),
            ana_group,
            deallocates: entry.kind.supports(IoType::Unmap),
        };
        state.target.edit(&subsystem.nqn, |subsystem| subsystem.namespaces.insert(nsid_checked, namespace));
        state.refresh_states(&[entry.id]);
        self.publish(&mut state).await;
        Ok(nsid)
    }

    pub(super) async fn nvmf_subsystem_remove_ns(&self, call: &NvmfSubsystemRemoveNs) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let nqn = subsystem_of(&state, &call.nqn)?.nqn.clone();
        let removed = Nsid::new(call.nsid)
            .and_then(|nsid| state.target.edit(&nqn, |subsystem| subsystem.namespaces.remove(&nsid)).flatten());
        let Some(namespace) = removed else {
            return Err(RpcError::errno(
                libc::ENODEV,
                format!("{} has no namespace {}; nvmf_get_subsystems lists those it has", call.nqn, call.nsid),
            ));
        };
        release_namespace(&mut state, &call.nqn, &namespace);
        self.publish(&mut state).await;
        Ok(true)
    }

    /// In a configuration the listener is bound, and hosts that come wait to be served until [`Control::admit_hosts`]:
    /// before that they might see a volume under an identity that it no longer has.
    pub(super) async fn nvmf_subsystem_add_listener(
        &self,
        call: &NvmfSubsystemAddListener,
        caller: Caller,
    ) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        if state.transport.is_none() {
            return Err(RpcError::wrong_state(
                "there is no transport yet; call nvmf_create_transport with trtype TCP first",
            ));
        }
        let nqn = if call.nqn == DISCOVERY_NQN { None } else { Some(subsystem_of(&state, &call.nqn)?.nqn.clone()) };
        let address = call.listen_address.socket_addr();
        let listening = match &nqn {
            Some(nqn) => state.target.subsystems.get(nqn).is_some_and(|subsystem| subsystem.listens_on(&address)),
            None => state.target.discovery_listeners.contains(&address),
        };
        let ana_state = call.ana_state.unwrap_or_default();
        if ana_state != AnaState::Optimized {
            match &nqn {
                Some(nqn) => reports_ana(state.target.subsystems.get(nqn), &call.nqn)?,
                None => return Err(RpcError::invalid_params("a discovery subsystem has no ana_state; leave it out")),
            }
        }
        if listening {
            return Err(RpcError::errno(libc::EEXIST, format!("{} listens on {address} already", call.nqn)));
        }
        if !state.listeners.contains_key(&address) {
            let (socket, _) = longrun_hal::net::tcp_listen(address, BACKLOG).map_err(|error| {
                RpcError::errno(
                    error.raw_os_error().unwrap_or(libc::EIO),
                    format!("cannot listen on {address}: {error}; is the address this machine's and the port free?"),
                )
            })?;
            match caller {
                Caller::Operator => self.reactor(0).call(move |reactor| reactor.listen(socket, address)).await,
                Caller::Configuration => state.held.push((socket, address)),
            }
        }
        *state.listeners.entry(address).or_default() += 1;
        match &nqn {
            Some(nqn) => {
                state.target.edit(nqn, |subsystem| {
                    subsystem.listeners.push(address);
                    subsystem.ana.set_listener(address, None, wire(ana_state));
                });
            }
            None => {
                state.target.generation = state.target.generation.wrapping_add(1);
                state.target.discovery_listeners.push(address);
            }
        }
        self.publish(&mut state).await;
        Ok(true)
    }

    pub(super) async fn nvmf_subsystem_remove_listener(
        &self,
        call: &NvmfSubsystemRemoveListener,
    ) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let address = call.listen_address.socket_addr();
        let remove = |listeners: &mut Vec<SocketAddr>| {
            let before = listeners.len();
            listeners.retain(|listener| *listener != address);
            listeners.len() < before
        };
        let removed = if call.nqn == DISCOVERY_NQN {
            state.target.generation = state.target.generation.wrapping_add(1);
            remove(&mut state.target.discovery_listeners)
        } else {
            let nqn = subsystem_of(&state, &call.nqn)?.nqn.clone();
            let forget = |subsystem: &mut Subsystem| {
                subsystem.ana.forget_listener(&address);
                remove(&mut subsystem.listeners)
            };
            state.target.edit(&nqn, forget).unwrap_or(false)
        };
        if !removed {
            return Err(RpcError::errno(libc::ENOENT, format!("{} does not listen on {address}", call.nqn)));
        }
        self.publish(&mut state).await;
        self.release_listener(&mut state, address).await;
        Ok(true)
    }

    /// One user of an address less; the last one closes the socket.
    async fn release_listener(&self, state: &mut State, address: SocketAddr) {
        let Some(users) = state.listeners.get_mut(&address) else { return };
        *users -= 1;
        if *users == 0 {
            state.listeners.remove(&address);
            state.held.retain(|(_, held)| *held != address);
            self.reactor(0).call(move |reactor| reactor.unlisten(address)).await;
        }
    }

    /// Serves hosts at the listeners of the configuration, those that have come meanwhile too.
    pub async fn admit_hosts(&self) {
        let mut state = self.state().await;
        let held = std::mem::take(&mut state.held);
        for (socket, address) in held {
            self.reactor(0).call(move |reactor| reactor.listen(socket, address)).await;
        }
    }

    pub(super) async fn nvmf_subsystem_add_host(&self, call: &NvmfSubsystemAddHost) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let nqn = subsystem_of(&state, &call.nqn)?.nqn.clone();
        let host = nqn_of(call.host.as_str())?;
        if state.target.edit(&nqn, |subsystem| subsystem.hosts.insert(host)) == Some(false) {
            return Err(RpcError::errno(libc::EEXIST, format!("{} admits {} already", call.nqn, call.host.as_str())));
        }
        self.publish(&mut state).await;
        Ok(true)
    }

    pub(super) async fn nvmf_subsystem_remove_host(&self, call: &NvmfSubsystemRemoveHost) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let nqn = subsystem_of(&state, &call.nqn)?.nqn.clone();
        let host = nqn_of(&call.host)?;
        if state.target.edit(&nqn, |subsystem| subsystem.hosts.remove(&host)) != Some(true) {
            return Err(RpcError::errno(
                libc::ENOENT,
                format!("{} is not on the allow-list of {}", call.host, call.nqn),
            ));
        }
        self.publish(&mut state).await;
        Ok(true)
    }

    pub(super) async fn nvmf_subsystem_allow_any_host(
        &self,
        call: &NvmfSubsystemAllowAnyHost,
    ) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let nqn = subsystem_of(&state, &call.nqn)?.nqn.clone();
        state.target.edit(&nqn, |subsystem| subsystem.allow_any_host = call.allow_any_host);
        self.publish(&mut state).await;
        Ok(true)
    }

    pub(super) async fn nvmf_subsystem_get_controllers(
        &self,
        call: &NvmfSubsystemGetControllers,
    ) -> Result<Vec<ControllerInfo>, RpcError> {
        let connections = self.connections_of(&call.nqn).await?;
        let mut found: Vec<ControllerInfo> = connections
            .iter()
            .filter_map(|(_, connection)| {
                let (queue, controller) = (connection.queue.as_ref()?, connection.controller.as_ref()?);
                Some(ControllerInfo {
                    cntlid: queue.controller.0,
                    hostnqn: queue.host.as_str().to_owned(),
                    hostid: Uuid::from_bytes(controller.host_id),
                    num_io_qpairs: controller.io_queues.len() as u32,
                })
            })
            .collect();
        found.sort_by_key(|controller| controller.cntlid);
        Ok(found)
    }

    pub(super) async fn nvmf_subsystem_get_qpairs(
        &self,
        call: &NvmfSubsystemGetQpairs,
    ) -> Result<Vec<QpairInfo>, RpcError> {
        let connections = self.connections_of(&call.nqn).await?;
        let mut found: Vec<QpairInfo> = connections
            .iter()
            .filter_map(|(core, connection)| {
                let queue = connection.queue.as_ref()?;
                Some(QpairInfo {
                    cntlid: queue.controller.0,
                    qid: queue.qid,
                    state: if connection.closed.is_some() { "deactivating" } else { "enabled" }.to_owned(),
                    thread: thread_name(*core),
                    hostnqn: queue.host.as_str().to_owned(),
                    listen_address: connection.listener.into(),
                    peer_address: Some(connection.peer.into()),
                })
            })
            .collect();
        found.sort_by_key(|qpair| (qpair.cntlid, qpair.qid));
        Ok(found)
    }

    pub(super) async fn nvmf_subsystem_get_listeners(
        &self,
        call: &NvmfSubsystemGetListeners,
    ) -> Result<Vec<ListenerInfo>, RpcError> {
        let state = self.state().await;
        if call.nqn == DISCOVERY_NQN {
            let listener = |address: &SocketAddr| ListenerInfo { address: (*address).into(), ana_states: Vec::new() };
            return Ok(state.listeners.keys().map(listener).collect());
        }
        let subsystem = subsystem_of(&state, &call.nqn)?;
        let groups: BTreeSet<AnaGroup> = subsystem.namespaces.values().map(|namespace| namespace.ana_group).collect();
        let states = |address: &SocketAddr| {
            let state = |group: &AnaGroup| AnaGroupState {
                ana_group: group.get(),
                ana_state: shown(subsystem.ana.state(address, *group)),
            };
            groups.iter().map(state).collect()
        };
        let listener = |address: &SocketAddr| ListenerInfo { address: (*address).into(), ana_states: states(address) };
        Ok(subsystem.listeners.iter().map(listener).collect())
    }

    pub(super) async fn nvmf_get_stats(&self, _: &NvmfGetStats) -> Result<NvmfStats, RpcError> {
        let mut poll_groups = Vec::new();
        for (index, core) in self.cores.iter().enumerate() {
            let (connections, served) = core.reactor.call(|reactor| (reactor.connections(), reactor.served())).await;
            let is = |connection: &&ConnectionInfo, admin: bool| {
                connection.queue.as_ref().is_some_and(|queue| (queue.qid == 0) == admin)
            };
            poll_groups.push(PollGroupStats {
                name: thread_name(index),
                admin_qpairs: served.admin_qpairs,
                io_qpairs: served.io_qpairs,
                current_admin_qpairs: connections.iter().filter(|connection| is(connection, true)).count() as u64,
                current_io_qpairs: connections.iter().filter(|connection| is(connection, false)).count() as u64,
                pending_bdev_io: connections.iter().map(|connection| u64::from(connection.stats.in_flight)).sum(),
                completed_nvme_io: served.commands,
                protocol_errors: served.protocol_errors,
            });
        }
        Ok(NvmfStats { tick_rate: TICK_RATE_HZ, poll_groups })
    }

    async fn connections_of(&self, nqn: &str) -> Result<Vec<(usize, ConnectionInfo)>, RpcError> {
        if nqn != DISCOVERY_NQN {
            subsystem_of(&*self.state().await, nqn)?;
        }
        let mut found = Vec::new();
        for (index, core) in self.cores.iter().enumerate() {
            let connections = core.reactor.call(|reactor| reactor.connections()).await;
            let of_subsystem = connections
                .into_iter()
                .filter(|connection| connection.queue.as_ref().is_some_and(|queue| queue.subsystem.as_str() == nqn));
            found.extend(of_subsystem.map(|connection| (index, connection)));
        }
        Ok(found)
    }

    /// Gives every core the configuration as it is now.
    pub(super) async fn publish(&self, state: &mut State) {
        let config = Arc::new(state.target.clone());
        self.reactor(0).call(move |reactor| reactor.publish_config(config)).await;
    }
}

impl State {
    /// Whether this is the name of a device that is not there, because its medium could not be had or its pair could not
    /// be taken up.
    fn lacks_device(&self, bdev: &str) -> bool {
        self.absent_reason(bdev).is_some()
            || self.pairs.values().any(|pair| pair.replica.is_none() && pair.call.replica().as_str() == bdev)
    }

    /// Whether hosts may use a bdev now: the volumes of a secondary wait for takeover.
    fn namespace_state(&self, entry: &Entry) -> NamespaceState {
        state_with(self.access_of(entry.id))
    }

    /// Brings the namespaces of a bdev up to date after its identity changed, where what they show is `meant`;
    /// [`State::refresh_states`] of all that changed is next.
    pub(super) fn refresh_namespaces(&mut self, bdev: BdevId, meant: impl Fn(&[u8; 16]) -> bool) {
        let Some(entry) = self.catalog.get(bdev).cloned() else { return };
        let handle = State::handle(&entry);
        let nqns: Vec<Nqn> = self.target.subsystems.keys().cloned().collect();
        for nqn in nqns {
            self.target.edit(&nqn, |subsystem| {
                for namespace in subsystem.namespaces.values_mut().filter(|namespace| namespace.bdev == handle) {
                    for shown in [&mut namespace.uuid, &mut namespace.nguid] {
                        if meant(shown) {
                            *shown = *entry.uuid.as_bytes();
                        }
                    }
                }
            });
        }
    }

    /// Brings the namespaces of these bdevs up to date after they became another side's, or this one's again: a swap's volumes
    /// stay what they are to hosts. Where hosts are told access states, they wait while the access changes, and are sent
    /// to their other path; else the namespace is not ready here. [`Control::publish`] is next.
    pub(super) fn refresh_states(&mut self, bdevs: &[BdevId]) {
        let accesses: HashMap<BdevHandle, Access> = self
            .pairs
            .iter()
            .filter_map(|((group, _), pair)| {
                let entry = self.catalog.get(pair.replica?)?;
                Some((State::handle(entry), self.groups.get(group).map_or(Access::Here, |group| group.access)))
            })
            .collect();
        let access = |bdev| accesses.get(&bdev).copied().unwrap_or_default();
        let meant: HashSet<BdevHandle> =
            bdevs.iter().filter_map(|bdev| self.catalog.get(*bdev)).map(State::handle).collect();
        let nqns: Vec<Nqn> = self.target.subsystems.keys().cloned().collect();
        for nqn in nqns {
            self.target.edit(&nqn, |subsystem| {
                let mut groups = BTreeSet::new();
                for namespace in subsystem.namespaces.values_mut().filter(|namespace| meant.contains(&namespace.bdev)) {
                    namespace.state = state_with(access(namespace.bdev));
                    groups.insert(namespace.ana_group);
                }
                if !subsystem.ana.reporting {
                    return;
                }
                for group in groups {
                    let members = subsystem.namespaces.values().filter(|namespace| namespace.ana_group == group);
                    // All of a group are in one state: the worst counts.
                    let held = match members.map(|namespace| access(namespace.bdev)).max().unwrap_or_default() {
                        Access::Here => None,
                        Access::Changing => Some(AnaState::Change),
                        Access::Elsewhere => Some(AnaState::Inaccessible),
                    };
                    subsystem.ana.hold(group, held.map(wire));
                }
            });
        }
    }
}

fn state_with(access: Access) -> NamespaceState {
    match access {
        Access::Elsewhere => NamespaceState::NotReady,
        Access::Here | Access::Changing => NamespaceState::Ready,
    }
}

/// How a reactor is called where SPDK names a thread.
pub(super) fn thread_name(core: usize) -> String {
    format!("reactor_{core}")
}

fn nqn_of(text: &str) -> Result<Nqn, RpcError> {
    text.parse().map_err(|error: longrun_nvmf::NqnError| RpcError::invalid_params(error.to_string()))
}

pub(super) fn subsystem_of<'a>(state: &'a State, nqn: &str) -> Result<&'a Arc<Subsystem>, RpcError> {
    let missing = || RpcError::not_found("subsystem", nqn, "nvmf_get_subsystems");
    state.target.subsystems.get(&nqn.parse::<Nqn>().map_err(|_| missing())?).ok_or_else(missing)
}

fn bdev_of(namespace: &Namespace) -> BdevId {
    crate::reactor::bdev_of(namespace.bdev).1
}

fn release_namespace(state: &mut State, nqn: &str, namespace: &Namespace) {
    let holder = Holder::Namespace { nqn: nqn.to_owned(), nsid: namespace.nsid.get() };
    state.catalog.release(bdev_of(namespace), &holder);
}

fn subsystem_info(state: &State, subsystem: &Subsystem) -> SubsystemInfo {
    let namespaces = subsystem.namespaces.values().map(|namespace| {
        let name = state.catalog.get(bdev_of(namespace)).map(|entry| entry.name.clone()).unwrap_or_default();
        NamespaceInfo {
            nsid: namespace.nsid.get(),
            bdev_name: name.clone(),
            name,
            nguid: namespace.nguid.into(),
            eui64: namespace.eui64.map(Into::into),
            uuid: Uuid::from_bytes(namespace.uuid),
            anagrpid: subsystem.ana.reporting.then(|| namespace.ana_group.get()),
        }
    });
    SubsystemInfo {
        nqn: subsystem.nqn.as_str().to_owned(),
        subtype: Subtype::Nvme,
        listen_addresses: subsystem.listeners.iter().map(|address| ListenAddress::from(*address)).collect(),
        allow_any_host: subsystem.allow_any_host,
        hosts: subsystem.hosts.iter().map(|host| HostInfo { nqn: host.as_str().to_owned() }).collect(),
        serial_number: Some(subsystem.serial.as_str().to_owned()),
        model_number: Some(subsystem.model.as_str().to_owned()),
        max_namespaces: Some(subsystem.namespaces_max),
        min_cntlid: Some(subsystem.cntlid_min),
        max_cntlid: Some(subsystem.cntlid_max),
        ana_reporting: Some(subsystem.ana.reporting),
        namespaces: Some(namespaces.collect()),
    }
}
