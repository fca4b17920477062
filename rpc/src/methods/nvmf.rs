//! The NVMe-oF target: transports, subsystems, namespaces, listeners, hosts, and what is connected.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Tolerated;
use crate::types::{Eui64, Nguid, Nqn};

/// SPDK can run several targets in one process; Longrun is one, so the name only has to be absent or blank.
pub(super) const TGT_NAME: &[Tolerated] = &[Tolerated::Blank("tgt_name")];

/// A transport's kind. Only TCP is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TrType {
    /// NVMe/TCP.
    #[default]
    Tcp,
}

impl TryFrom<String> for TrType {
    type Error = String;

    fn try_from(given: String) -> Result<Self, String> {
        if given.eq_ignore_ascii_case("tcp") {
            Ok(Self::Tcp)
        } else {
            Err(format!("transport {:?}, expected TCP, the only one there is", crate::error::shorten(&given)))
        }
    }
}

impl From<TrType> for String {
    fn from(TrType::Tcp: TrType) -> String {
        "TCP".to_owned()
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AdrFam {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl AdrFam {
    /// The family an address belongs to.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

impl TryFrom<String> for AdrFam {
    type Error = String;

    fn try_from(given: String) -> Result<Self, String> {
        if given.eq_ignore_ascii_case("ipv4") {
            Ok(Self::Ipv4)
        } else if given.eq_ignore_ascii_case("ipv6") {
            Ok(Self::Ipv6)
        } else {
            Err(format!("address family {:?}, expected IPv4 or IPv6", crate::error::shorten(&given)))
        }
    }
}

impl From<AdrFam> for String {
    fn from(family: AdrFam) -> String {
        match family {
            AdrFam::Ipv4 => "IPv4".to_owned(),
            AdrFam::Ipv6 => "IPv6".to_owned(),
        }
    }
}

/// A TCP port as NVMe writes it: text. A number is accepted too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TrsvcidText", into = "String")]
pub struct Trsvcid(pub u16);

#[derive(Deserialize)]
#[serde(untagged)]
enum TrsvcidText {
    Text(String),
    Number(u64),
}

impl TryFrom<TrsvcidText> for Trsvcid {
    type Error = String;

    fn try_from(given: TrsvcidText) -> Result<Self, String> {
        let text = match given {
            TrsvcidText::Text(text) => text,
            TrsvcidText::Number(number) => number.to_string(),
        };
        match text.trim().parse::<u16>() {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err(format!(
                "service id {:?}, expected a TCP port from 1 to 65535, such as \"4420\"",
                crate::error::shorten(&text)
            )),
        }
    }
}

impl From<Trsvcid> for String {
    fn from(Trsvcid(port): Trsvcid) -> String {
        port.to_string()
    }
}

/// Where a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenAddress {
    /// The transport.
    pub trtype: TrType,
    /// An IP address; 0.0.0.0 or :: for all of the machine's.
    pub traddr: IpAddr,
    /// Default: `traddr`'s own.
    pub adrfam: Option<AdrFam>,
    /// Default: 4420.
    pub trsvcid: Option<Trsvcid>,
}

impl ListenAddress {
    /// The port NVMe/TCP has from IANA.
    pub const PORT_DEFAULT: u16 = 4420;

    /// The address to bind.
    pub fn socket_addr(&self) -> std::net::SocketAddr {
        (self.traddr, self.trsvcid.map_or(Self::PORT_DEFAULT, |Trsvcid(port)| port)).into()
    }
}

impl From<std::net::SocketAddr> for ListenAddress {
    fn from(address: std::net::SocketAddr) -> Self {
        Self {
            trtype: TrType::Tcp,
            traddr: address.ip(),
            adrfam: Some(AdrFam::of(address.ip())),
            trsvcid: Some(Trsvcid(address.port())),
        }
    }
}

/// `nvmf_create_transport`. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfCreateTransport {
    /// The transport.
    pub trtype: TrType,
    /// Commands a queue pair holds; default 128.
    pub max_queue_depth: Option<u16>,
    /// I/O queue pairs of one controller; default 127.
    pub max_io_qpairs_per_ctrlr: Option<u16>,
    /// What a command capsule of an I/O queue carries; default 16384.
    pub in_capsule_data_size: Option<u32>,
    /// The largest I/O; default 131072.
    pub max_io_size: Option<u32>,
    /// Commands of an admin queue; default 128.
    pub max_aq_depth: Option<u16>,
    /// Whether a read's last data PDU stands for its completion where the host allows it; default `true`.
    pub c2h_success: Option<bool>,
}

impl NvmfCreateTransport {
    pub(super) fn check(&self) -> Result<(), String> {
        let ranges = [
            ("max_queue_depth", self.max_queue_depth.map(u32::from), 2, 4096),
            ("max_io_qpairs_per_ctrlr", self.max_io_qpairs_per_ctrlr.map(u32::from), 1, 1024),
            ("in_capsule_data_size", self.in_capsule_data_size, 4096, 65536),
            ("max_io_size", self.max_io_size, 4096, 1 << 20),
            ("max_aq_depth", self.max_aq_depth.map(u32::from), 32, 4096),
        ];
        for (name, given, least, most) in ranges {
            if let Some(given) = given
                && !(least..=most).contains(&given)
            {
                return Err(format!("{name} is {given}, expected {least} to {most}"));
            }
        }
        for (name, given) in [("in_capsule_data_size", self.in_capsule_data_size), ("max_io_size", self.max_io_size)] {
            if let Some(given) = given
                && !given.is_multiple_of(4096)
            {
                return Err(format!("{name} is {given}, expected a multiple of 4096"));
            }
        }
        Ok(())
    }
}

/// What SPDK's client sends beside: pool sizes and polling of SPDK's inside, other transports' switches.
pub(super) const TRANSPORT_TOLERATES: &[Tolerated] = &[
    Tolerated::Blank("tgt_name"),
    Tolerated::Blank("dif_insert_or_strip"),
    Tolerated::Hint("io_unit_size"),
    Tolerated::Hint("num_shared_buffers"),
    Tolerated::Hint("buf_cache_size"),
    Tolerated::Hint("zcopy"),
    Tolerated::Hint("num_cqe"),
    Tolerated::Hint("max_srq_depth"),
    Tolerated::Hint("no_srq"),
    Tolerated::Hint("sock_priority"),
    Tolerated::Hint("acceptor_backlog"),
    Tolerated::Hint("acceptor_poll_rate"),
    Tolerated::Hint("abort_timeout_sec"),
    Tolerated::Hint("no_wr_batching"),
    Tolerated::Hint("control_msg_num"),
    Tolerated::Hint("disable_mappable_bar0"),
    Tolerated::Hint("disable_adaptive_irq"),
    Tolerated::Hint("disable_shadow_doorbells"),
    Tolerated::Hint("ack_timeout"),
    Tolerated::Hint("data_wr_pool_size"),
    Tolerated::Hint("disable_command_passthru"),
    Tolerated::Hint("kas"),
    Tolerated::Hint("min_kato"),
];

/// `nvmf_get_transports`: all, or one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfGetTransports {
    /// Only this one.
    pub trtype: Option<TrType>,
}

/// A transport as `nvmf_get_transports` shows it. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in NvmfCreateTransport")]
pub struct TransportInfo {
    pub trtype: TrType,
    pub max_queue_depth: u16,
    pub max_io_qpairs_per_ctrlr: u16,
    pub in_capsule_data_size: u32,
    pub max_io_size: u32,
    pub max_aq_depth: u16,
    pub c2h_success: bool,
}

/// `nvmf_create_subsystem`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfCreateSubsystem {
    /// Its name.
    pub nqn: Nqn,
    /// At most 20 printable ASCII characters; default twenty zeroes.
    pub serial_number: Option<String>,
    /// At most 40 printable ASCII characters; default `Longrun`.
    pub model_number: Option<String>,
    /// Default 32.
    pub max_namespaces: Option<u32>,
    /// Default `false`: only hosts on the list.
    pub allow_any_host: Option<bool>,
    /// Whether hosts are told which paths to use (Asymmetric Namespace Access). Default `false`.
    pub ana_reporting: Option<bool>,
    /// Default 1.
    pub min_cntlid: Option<u16>,
    /// Default 65519 (0xFFEF).
    pub max_cntlid: Option<u16>,
}

impl NvmfCreateSubsystem {
    /// The greatest controller id (NVMe-oF 1.1, section 3.3).
    pub const CNTLID_MAX: u16 = 0xFFEF;

    pub(super) fn check(&self) -> Result<(), String> {
        let texts = [("serial_number", &self.serial_number, 20), ("model_number", &self.model_number, 40)];
        for (name, given, most) in texts {
            if let Some(given) = given
                && (given.len() > most || !given.bytes().all(|byte| (0x20..=0x7E).contains(&byte)))
            {
                let shown = crate::error::shorten(given);
                return Err(format!("{name} is {shown:?}, expected at most {most} printable ASCII characters"));
            }
        }
        if let Some(given) = self.max_namespaces
            && !(1..=1024).contains(&given)
        {
            return Err(format!("max_namespaces is {given}, expected 1 to 1024"));
        }
        let (min, max) = (self.min_cntlid.unwrap_or(1), self.max_cntlid.unwrap_or(Self::CNTLID_MAX));
        if min == 0 || min > max || max > Self::CNTLID_MAX {
            return Err(format!(
                "min_cntlid is {min} and max_cntlid {max}, expected 1 to {} and the least first",
                Self::CNTLID_MAX
            ));
        }
        Ok(())
    }
}

/// What SPDK's client sends beside, and Longrun has no use for.
pub(super) const SUBSYSTEM_TOLERATES: &[Tolerated] = &[
    Tolerated::Blank("tgt_name"),
    Tolerated::Hint("max_discard_size_kib"),
    Tolerated::Hint("max_write_zeroes_size_kib"),
    Tolerated::Blank("passthrough"),
    Tolerated::Blank("enable_nssr"),
];

/// `nvmf_delete_subsystem`: its controllers are disconnected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfDeleteSubsystem {
    /// Its name.
    pub nqn: String,
}

/// `nvmf_get_subsystems`: all, the discovery subsystem among them, or one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfGetSubsystems {
    /// Only this one.
    pub nqn: Option<String>,
}

/// A subsystem as `nvmf_get_subsystems` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubsystemInfo {
    /// Its name.
    pub nqn: String,
    /// `Discovery` or `NVMe`.
    pub subtype: Subtype,
    /// Where it listens.
    pub listen_addresses: Vec<ListenAddress>,
    /// Whether the host list is not asked.
    pub allow_any_host: bool,
    /// The host list.
    pub hosts: Vec<HostInfo>,
    /// Of an NVM subsystem only, as are the following.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// The model number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_number: Option<String>,
    /// How many namespaces fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_namespaces: Option<u32>,
    /// The least controller id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_cntlid: Option<u16>,
    /// The greatest controller id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cntlid: Option<u16>,
    /// Whether hosts are told which paths to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ana_reporting: Option<bool>,
    /// Its namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<NamespaceInfo>>,
}

/// What a subsystem is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subtype {
    /// It tells hosts where the others are.
    Discovery,
    /// It has namespaces.
    #[serde(rename = "NVMe")]
    Nvme,
}

/// A host on a subsystem's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// Its name.
    pub nqn: String,
}

/// A namespace as `nvmf_get_subsystems` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamespaceInfo {
    /// Its number.
    pub nsid: u32,
    /// The device behind it.
    pub bdev_name: String,
    /// The same, SPDK's other name for it.
    pub name: String,
    /// Its NGUID.
    pub nguid: Nguid,
    /// Its EUI-64, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eui64: Option<Eui64>,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its ANA group, with ANA reporting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anagrpid: Option<u32>,
}

/// `nvmf_subsystem_add_ns`: connected hosts are told by an asynchronous event. Answers the namespace's number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfSubsystemAddNs {
    /// The subsystem.
    pub nqn: String,
    /// The namespace.
    pub namespace: NamespaceParams,
}

/// A namespace to be added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceParams {
    /// The device behind it, which the subsystem claims.
    pub bdev_name: String,
    /// Its number; default (and with 0) the least that is free.
    pub nsid: Option<u32>,
    /// Default: the UUID's bytes.
    pub nguid: Option<Nguid>,
    /// Default: none.
    pub eui64: Option<Eui64>,
    /// Default: the device's.
    pub uuid: Option<Uuid>,
    /// Its ANA group, 1 to the subsystem's max_namespaces; default its number.
    pub anagrpid: Option<u32>,
}

impl NvmfSubsystemAddNs {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.namespace.nsid == Some(u32::MAX) {
            return Err("namespace.nsid is 4294967295, which means all namespaces; choose 1 to max_namespaces".into());
        }
        Ok(())
    }
}

/// What SPDK's client sends beside, and Longrun has no use for.
pub(super) const ADD_NS_TOLERATES: &[Tolerated] = &[
    Tolerated::Blank("tgt_name"),
    Tolerated::Blank("namespace.ptpl_file"),
    Tolerated::Blank("namespace.no_auto_visible"),
    Tolerated::Blank("namespace.hide_metadata"),
];

/// `nvmf_subsystem_remove_ns`: connected hosts are told by an asynchronous event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfSubsystemRemoveNs {
    /// The subsystem.
    pub nqn: String,
    /// The namespace's number.
    pub nsid: u32,
}

/// `nvmf_subsystem_add_listener`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfSubsystemAddListener {
    /// The subsystem; the discovery NQN for a listener of its own.
    pub nqn: String,
    /// Where.
    pub listen_address: ListenAddress,
    /// The ANA state of its paths; default optimized. Another one needs a subsystem with `ana_reporting`.
    pub ana_state: Option<AnaState>,
}

impl NvmfSubsystemAddListener {
    pub(super) fn check(&self) -> Result<(), String> {
        self.ana_state.map_or(Ok(()), AnaState::check_settable)
    }
}

/// `nvmf_subsystem_listener_set_ana_state`: connected hosts are told by an asynchronous event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfSubsystemListenerSetAnaState {
    /// The subsystem; made with `ana_reporting`.
    pub nqn: String,
    /// The listener.
    pub listen_address: ListenAddress,
    /// The state of its paths.
    pub ana_state: AnaState,
    /// Of this ANA group only; default all, and what was said of single groups is forgotten.
    pub anagrpid: Option<u32>,
}

impl NvmfSubsystemListenerSetAnaState {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.anagrpid == Some(0) {
            return Err(
                "anagrpid is 0, expected 1 to the subsystem's max_namespaces; leave it out for all groups".into()
            );
        }
        self.ana_state.check_settable()
    }
}

/// What SPDK's client sends beside, and Longrun has no use for.
pub(super) const LISTENER_TOLERATES: &[Tolerated] =
    &[Tolerated::Blank("tgt_name"), Tolerated::Blank("secure_channel"), Tolerated::Hint("sock_impl")];

/// How good a path is (NVMe Base 2.0, section 2.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnaState {
    /// The best.
    #[default]
    Optimized,
    /// Usable.
    NonOptimized,
    /// Not usable now.
    Inaccessible,
    /// Not usable any more. Shown only.
    PersistentLoss,
    /// Between two states. Shown only.
    Change,
}

impl AnaState {
    /// What an operator can ask for.
    fn check_settable(self) -> Result<(), String> {
        match self {
            Self::Optimized | Self::NonOptimized | Self::Inaccessible => Ok(()),
            Self::PersistentLoss | Self::Change => {
                Err("ana_state is one that is only shown; expected optimized, non_optimized or inaccessible".to_owned())
            }
        }
    }
}

/// `nvmf_subsystem_remove_listener`: its connections are closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfSubsystemRemoveListener {
    /// The subsystem.
    pub nqn: String,
    /// Where.
    pub listen_address: ListenAddress,
}

/// `nvmf_subsystem_add_host`: puts a host on the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfSubsystemAddHost {
    /// The subsystem.
    pub nqn: String,
    /// The host's NQN.
    pub host: Nqn,
}

/// What SPDK's client sends beside, and Longrun has no use for.
pub(super) const HOST_TOLERATES: &[Tolerated] = &[
    Tolerated::Blank("tgt_name"),
    Tolerated::Blank("psk"),
    Tolerated::Blank("dhchap_key"),
    Tolerated::Blank("dhchap_ctrlr_key"),
    Tolerated::Blank("no_auto_visible"),
];

/// `nvmf_subsystem_remove_host`: takes a host off the list and closes its connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfSubsystemRemoveHost {
    /// The subsystem.
    pub nqn: String,
    /// The host's NQN.
    pub host: String,
}

/// `nvmf_subsystem_allow_any_host`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfSubsystemAllowAnyHost {
    /// The subsystem.
    pub nqn: String,
    /// Whether the list is not asked.
    pub allow_any_host: bool,
}

/// `nvmf_subsystem_get_controllers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfSubsystemGetControllers {
    /// The subsystem.
    pub nqn: String,
}

/// A connected controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControllerInfo {
    /// Its id.
    pub cntlid: u16,
    /// The host's NQN.
    pub hostnqn: String,
    /// The host's id.
    pub hostid: Uuid,
    /// Its I/O queue pairs.
    pub num_io_qpairs: u32,
}

/// `nvmf_subsystem_get_qpairs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfSubsystemGetQpairs {
    /// The subsystem.
    pub nqn: String,
}

/// A connected queue pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QpairInfo {
    /// The controller it belongs to.
    pub cntlid: u16,
    /// Its number; 0 is the admin queue.
    pub qid: u16,
    /// `active`, `connecting` or `closing`.
    pub state: String,
    /// The core that serves it, as text.
    pub thread: String,
    /// The host's NQN.
    pub hostnqn: String,
    /// Where the host reached us.
    pub listen_address: ListenAddress,
    /// The host's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<ListenAddress>,
}

/// `nvmf_subsystem_get_listeners`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfSubsystemGetListeners {
    /// The subsystem.
    pub nqn: String,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenerInfo {
    /// Where.
    pub address: ListenAddress,
    /// The state of each ANA group behind it.
    #[serde(default)]
    pub ana_states: Vec<AnaGroupState>,
}

/// The state of one ANA group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnaGroupState {
    /// The group.
    pub ana_group: u32,
    /// Its state.
    pub ana_state: AnaState,
}

/// `nvmf_get_stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmfGetStats {}

/// What `nvmf_get_stats` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NvmfStats {
    /// Ticks per second.
    pub tick_rate: u64,
    /// One per core.
    pub poll_groups: Vec<PollGroupStats>,
}

/// One core's connections and commands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PollGroupStats {
    /// The core, as text.
    pub name: String,
    /// Admin queue pairs since the start.
    pub admin_qpairs: u64,
    /// I/O queue pairs since the start.
    pub io_qpairs: u64,
    /// Admin queue pairs now.
    pub current_admin_qpairs: u64,
    /// I/O queue pairs now.
    pub current_io_qpairs: u64,
    /// Requests that wait for a buffer or a device.
    pub pending_bdev_io: u64,
    /// Commands answered.
    pub completed_nvme_io: u64,
    /// Connections closed because of what came over them, since the start.
    #[serde(default)]
    pub protocol_errors: u64,
}
