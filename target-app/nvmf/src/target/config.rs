//! What the target serves: an immutable snapshot that the control plane swaps and every core reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::ana::{AnaGroup, AnaTable};
use crate::{nqn::Nqn, spec::AnaState};

/// A namespace identifier: 1 to 0xFFFF_FFFE (Base 2.0, 3.2.1.5 keeps 0 and 0xFFFF_FFFF).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nsid(u32);

impl Nsid {
    /// None for the two values the standard keeps for itself.
    pub const fn new(value: u32) -> Option<Self> {
        if value == 0 || value == u32::MAX { None } else { Some(Self(value)) }
    }

    /// The number on the wire.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Nsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a block device to [`super::Ports::submit`]; the number is the reactor's own, this crate only carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BdevHandle(pub u64);

/// Logical block size of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockSize {
    /// None unless `bytes` is 512 or 4096.
    pub const fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }

    /// Bytes per block.
    pub const fn bytes(self) -> u32 {
        1 << self.shift()
    }

    /// log2 of the bytes per block, the LBADS field of an LBA format.
    pub const fn shift(self) -> u8 {
        match self {
            Self::B512 => 9,
            Self::B4096 => 12,
        }
    }
}

/// Whether hosts may use a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NamespaceState {
    /// Reads and writes are served.
    Ready,
    /// Every I/O command, reads too, is answered Namespace Not Ready: the state of a secondary volume, which alone is no
    /// consistent picture.
    NotReady,
    /// Reads are served, anything that changes data is answered Namespace is Write Protected.
    ReadOnly,
}

/// One namespace of a subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its number in the subsystem.
    pub nsid: Nsid,
    /// The block device that serves it.
    pub bdev: BdevHandle,
    /// Capacity in logical blocks.
    pub blocks: u64,
    /// Size of a logical block.
    pub block_size: BlockSize,
    /// Namespace Globally Unique Identifier; all zero when there is none.
    pub nguid: [u8; 16],
    /// UUID in network byte order; all zero when there is none. A namespace needs an NGUID or a UUID for hosts to
    /// recognise it on several paths.
    pub uuid: [u8; 16],
    /// IEEE Extended Unique Identifier.
    pub eui64: Option<[u8; 8]>,
    /// Whether hosts may use it now.
    pub state: NamespaceState,
    /// Its ANA group; [`AnaGroup::of`] makes one for it alone. At most the subsystem's `namespaces_max`.
    pub ana_group: AnaGroup,
    /// Whether the medium frees blocks on Dataset Management; else the command is accepted and does nothing.
    pub deallocates: bool,
}

/// Why a serial or model number was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} takes 1 to {bytes_max} printable ASCII characters, this one is {got:?}")]
pub struct TextError {
    field: &'static str,
    bytes_max: usize,
    got: String,
}

/// Printable ASCII of at most `N` bytes, padded with spaces on the wire (Base 2.0, 1.4.2).
#[derive(Clone, PartialEq, Eq)]
pub struct AsciiField<const N: usize>([u8; N]);

/// A subsystem's serial number (Identify Controller, SN).
pub type SerialNumber = AsciiField<20>;
/// A subsystem's model number (Identify Controller, MN).
pub type ModelNumber = AsciiField<40>;

impl<const N: usize> AsciiField<N> {
    /// Checks and pads `text`.
    pub fn new(text: &str) -> Result<Self, TextError> {
        let field = if N == 20 { "a serial number" } else { "a model number" };
        if text.is_empty() || text.len() > N || !text.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
            return Err(TextError { field, bytes_max: N, got: text.to_owned() });
        }
        let mut bytes = [b' '; N];
        for (to, from) in bytes.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Ok(Self(bytes))
    }

    /// The padded bytes.
    pub fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }

    /// The text without its padding.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default().trim_end()
    }
}

impl<const N: usize> fmt::Debug for AsciiField<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A TCP address the target listens on; the IP may be unspecified, the discovery log then gives the address the asking
/// host reached.
pub type ListenAddress = SocketAddr;

/// One NVM subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subsystem {
    /// Its name.
    pub nqn: Nqn,
    /// Identify Controller SN.
    pub serial: SerialNumber,
    /// Identify Controller MN.
    pub model: ModelNumber,
    /// Serve any host; else only those in `hosts`.
    pub allow_any_host: bool,
    /// The hosts that may connect.
    pub hosts: BTreeSet<Nqn>,
    /// The namespaces by number; the key equals the namespace's own `nsid`.
    pub namespaces: BTreeMap<Nsid, Namespace>,
    /// Where hosts reach it.
    pub listeners: Vec<ListenAddress>,
    /// The least controller id to hand out, at least 1.
    pub cntlid_min: u16,
    /// The greatest controller id to hand out, at most [`super::CNTLID_MAX`].
    pub cntlid_max: u16,
    /// Which namespaces may be used on which paths.
    pub ana: AnaTable,
    /// Greatest namespace number that will ever be used (Identify Controller NN and MNAN); at least 1.
    pub namespaces_max: u32,
}

impl Subsystem {
    /// A subsystem without namespaces, hosts or listeners, and the full range of controller ids.
    pub fn new(nqn: Nqn, serial: SerialNumber, model: ModelNumber) -> Self {
        Self {
            nqn,
            serial,
            model,
            allow_any_host: false,
            hosts: BTreeSet::new(),
            namespaces: BTreeMap::new(),
            listeners: Vec::new(),
            cntlid_min: 1,
            cntlid_max: super::CNTLID_MAX,
            ana: AnaTable::default(),
            namespaces_max: 1024,
        }
    }

    /// Whether this host may connect.
    pub fn admits(&self, host: &Nqn) -> bool {
        self.allow_any_host || self.hosts.contains(host)
    }

    /// Holds a namespace's ANA group in a state, or lets go of it; false when there is no such namespace.
    pub fn hold_namespace(&mut self, nsid: Nsid, state: Option<AnaState>) -> bool {
        let Some(namespace) = self.namespaces.get(&nsid) else { return false };
        self.ana.hold(namespace.ana_group, state);
        true
    }

    /// Whether a connection accepted by `listener` may use this subsystem.
    pub fn listens_on(&self, listener: &ListenAddress) -> bool {
        self.listeners.contains(listener)
    }
}

/// Limits of the transport, the same for all subsystems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportLimits {
    /// Entries of an I/O queue at most (CAP.MQES plus one). Linux asks for 128 and warns when it gets fewer.
    pub io_queue_entries_max: u16,
    /// I/O queue pairs per controller at most.
    pub io_queues_max: u16,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self { io_queue_entries_max: 128, io_queues_max: 64 }
    }
}

/// A whole configuration. Build one, wrap it in an [`Arc`], give it to every core's [`super::Core`].
///
/// The discovery subsystem is not in it: every listener of any subsystem, and every address in `discovery_listeners`, serves
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetConfig {
    /// Rises with every change; the discovery log's GENCTR.
    pub generation: u64,
    /// The subsystems by name; the key equals the subsystem's own `nqn`.
    pub subsystems: BTreeMap<Nqn, Arc<Subsystem>>,
    /// Addresses that serve discovery although no subsystem listens there (port 8009 by custom).
    pub discovery_listeners: Vec<ListenAddress>,
    /// Limits of the transport.
    pub limits: TransportLimits,
}

impl TargetConfig {
    /// Puts `subsystem` in, replacing one of the same name, and raises the generation.
    pub fn set_subsystem(&mut self, subsystem: Subsystem) {
        self.generation = self.generation.wrapping_add(1);
        self.subsystems.insert(subsystem.nqn.clone(), Arc::new(subsystem));
    }

    /// Takes a subsystem out; its connections close when they learn of it. False when there is none of that name.
    pub fn remove_subsystem(&mut self, nqn: &Nqn) -> bool {
        self.generation = self.generation.wrapping_add(1);
        self.subsystems.remove(nqn).is_some()
    }

    /// Changes one subsystem in place and raises the generation. None when there is none of that name.
    pub fn edit<R>(&mut self, nqn: &Nqn, change: impl FnOnce(&mut Subsystem) -> R) -> Option<R> {
        let subsystem = self.subsystems.get_mut(nqn)?;
        self.generation = self.generation.wrapping_add(1);
        Some(change(Arc::make_mut(subsystem)))
    }
}

/// The address the discovery log gives for `listener` to a host that reached us at `reached`.
pub(crate) fn advertised(listener: &ListenAddress, reached: IpAddr) -> SocketAddr {
    if listener.ip().is_unspecified() { SocketAddr::new(reached, listener.port()) } else { *listener }
}
