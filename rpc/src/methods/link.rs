//! Links: the encrypted datagram path from this system to another one.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::types::{Fraction, Name, PublicKey};

/// `link_create`. Answers the link's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkCreate {
    /// Its name.
    pub name: Name,
    /// Where this system sends from and listens, `address:port` (UDP).
    pub local_addr: SocketAddr,
    /// The other system's `address:port`.
    pub remote_addr: SocketAddr,
    /// The file with this system's private key, from `longrun keygen`; default: the system's own key in its state
    /// directory.
    pub private_key_file: Option<PathBuf>,
    /// The other system's public key, base64 or hex. Needed unless `security` is `none`: then it is compared with what the
    /// other system says, and without it the other system is whoever is at `remote_addr`, and called from there alone.
    pub remote_public_key: Option<PublicKey>,
    /// Default `noise`.
    pub security: Option<Security>,
    /// The largest UDP payload sent, bytes; default 1400.
    pub mtu_bytes: Option<u16>,
    /// The share of lost packets up to which loss is not taken for congestion, 0 to 1; default 0.
    pub loss_tolerance: Option<Fraction>,
    /// Never send faster, bytes per second; default no limit of its own.
    pub rate_limit_bytes_per_s: Option<NonZeroU64>,
    /// The cores that it is at home on, from 0 in the order of `--cores`; default: one, round the cores. Each has a strand of
    /// the link, with the ports (and with `xdp` the queue) that follow those given by its place here; a core may be named
    /// more than once. The other system's link has to have as many.
    pub cores: Option<Vec<u16>>,
    /// How datagrams reach the network; default `udp`.
    pub transport: Option<Transport>,
    /// With `xdp`: the network interface towards the other system.
    pub interface: Option<String>,
    /// With `xdp`: the interface's queue; default 0. One link to a queue.
    pub queue: Option<u32>,
    /// With `xdp`: whether the kernel is called only when it says that it waits for that; default true.
    pub need_wakeup: Option<bool>,
    /// With `xdp`: poll the driver for so many microseconds in each such call; default not at all.
    pub busy_poll_us: Option<u32>,
}

impl LinkCreate {
    /// Used where `mtu_bytes` is not given: fits Ethernet's 1500 with room for a tunnel's headers.
    pub const MTU_BYTES_DEFAULT: u16 = 1400;
    /// The least `mtu_bytes`: every message between systems that is not cut fits into one datagram, and every path of IPv6
    /// carries it (RFC 8200, section 5).
    pub const MTU_BYTES_MIN: u16 = 1200;
    /// The greatest `mtu_bytes`: Ethernet's jumbo frame less the headers of IPv6 and UDP.
    pub const MTU_BYTES_MAX: u16 = 8952;

    /// Cores of a link at most.
    pub const CORES_MAX: usize = 16;
    /// The greatest `queue`: the kernel notes a datagram's queue in 16 bits.
    pub const QUEUE_MAX: u32 = u16::MAX as u32;

    /// Of how many strands it is.
    pub fn strands(&self) -> usize {
        self.cores.as_ref().map_or(1, Vec::len)
    }

    /// A link of one strand, which is the one of this place.
    pub fn strand(&self, index: u16) -> LinkCreate {
        let along = |addr: SocketAddr| SocketAddr::new(addr.ip(), addr.port().saturating_add(index));
        LinkCreate {
            local_addr: along(self.local_addr),
            remote_addr: along(self.remote_addr),
            queue: if index > 0 { Some(self.queue.unwrap_or(0).saturating_add(u32::from(index))) } else { self.queue },
            cores: None,
            ..self.clone()
        }
    }

    /// The largest UDP payload sent, bytes.
    pub fn mtu_bytes(&self) -> u16 {
        self.mtu_bytes.unwrap_or(Self::MTU_BYTES_DEFAULT)
    }

    /// How datagrams reach the network.
    pub fn transport(&self) -> Transport {
        self.transport.unwrap_or_default()
    }

    /// How frames are protected.
    pub fn security(&self) -> Security {
        self.security.unwrap_or_default()
    }

    /// The share of lost packets that is not taken for congestion.
    pub fn loss_tolerance(&self) -> Fraction {
        self.loss_tolerance.unwrap_or(Fraction::ZERO)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let mtu = self.mtu_bytes();
        if !(Self::MTU_BYTES_MIN..=Self::MTU_BYTES_MAX).contains(&mtu) {
            return Err(format!(
                "mtu_bytes is {mtu}, expected {} to {} bytes of UDP payload",
                Self::MTU_BYTES_MIN,
                Self::MTU_BYTES_MAX
            ));
        }
        if self.local_addr.is_ipv4() != self.remote_addr.is_ipv4() {
            return Err(format!(
                "local_addr {} and remote_addr {} are of different address families; give both as IPv4 or both as IPv6",
                self.local_addr, self.remote_addr
            ));
        }
        if self.remote_addr.port() == 0 || self.remote_addr.ip().is_unspecified() {
            return Err(format!(
                "remote_addr {} is no place to send to; give the other system's address and port",
                self.remote_addr
            ));
        }
        if self.local_addr.port() == 0 {
            return Err(format!(
                "local_addr {} has no port; the other system must know where to send to, so choose one",
                self.local_addr
            ));
        }
        self.check_transport()?;
        self.check_cores()?;
        match self.security() {
            Security::Noise if self.remote_public_key.is_none() => {
                Err("remote_public_key is missing; give the key that \
                `longrun keygen` printed at the other system, or, in a closed lab only, security \"none\""
                    .to_owned())
            }
            _ => Ok(()),
        }
    }
}

impl LinkCreate {
    fn check_cores(&self) -> Result<(), String> {
        let strands = self.strands();
        if !(1..=Self::CORES_MAX).contains(&strands) {
            return Err(format!("cores names {strands}, expected 1 to {} cores", Self::CORES_MAX));
        }
        for (name, addr) in [("local_addr", self.local_addr), ("remote_addr", self.remote_addr)] {
            if usize::from(addr.port()) + strands - 1 > usize::from(u16::MAX) {
                return Err(format!(
                    "a link on {strands} cores takes {strands} ports in a row, and {name} {addr} has not so many behind \
                     it; give a smaller port"
                ));
            }
        }
        let queue = self.queue.unwrap_or(0);
        if u64::from(queue) + strands as u64 - 1 > u64::from(Self::QUEUE_MAX) {
            let several = format!("with {strands} queues in a row, one for each core, ");
            return Err(format!(
                "queue is {queue}, {}expected 0 to {}; give one that the interface has, as ethtool -l shows them",
                if strands > 1 { &several } else { "" },
                Self::QUEUE_MAX + 1 - strands as u32
            ));
        }
        Ok(())
    }

    fn check_transport(&self) -> Result<(), String> {
        let given = [
            ("interface", self.interface.is_some()),
            ("queue", self.queue.is_some()),
            ("need_wakeup", self.need_wakeup.is_some()),
            ("busy_poll_us", self.busy_poll_us.is_some()),
        ];
        let needless = given.into_iter().find(|(_, given)| *given);
        match (self.transport(), needless) {
            (Transport::Udp, Some((name, _))) => {
                Err(format!("{name} is for raw frames; give transport \"xdp\" too, or leave it out"))
            }
            (Transport::Xdp, _) if self.interface.is_none() => Err(
                "interface is missing; give the network interface towards the other system, as ip route get shows it"
                    .to_owned(),
            ),
            (Transport::Xdp, _) if !self.local_addr.is_ipv4() => Err(format!(
                "local_addr {} is IPv6, raw frames are IPv4; give IPv4 addresses, or transport \"udp\"",
                self.local_addr
            )),
            _ => Ok(()),
        }
    }
}

/// How a link's datagrams reach the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The kernel's UDP.
    #[default]
    Udp,
    /// Raw frames past the kernel's network stack (AF_XDP); UDP where they cannot be had, and as long as the way to the other
    /// system is not known.
    Xdp,
}

/// Raw frames, as `link_get` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawInfo {
    /// The network interface.
    pub interface: String,
    /// Its queue.
    pub queue: u32,
    /// Who moves a frame between the interface and memory.
    pub mode: RawMode,
    /// The Ethernet address that frames are sent to: the other system's, or a router's. Absent until it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
    /// Raw frames sent. Others went by UDP, which one train in ten seconds does to keep the way known.
    pub frames_sent: u64,
    /// Raw frames received. Others came by UDP: from another queue of the interface, as a rule.
    pub frames_received: u64,
    /// Raw frames received that were no datagrams for this link.
    pub frames_refused: u64,
    /// Raw frames lost because there was no room for them on their way out.
    pub frames_unsent: u64,
    /// Raw frames that the kernel dropped because there was no room for them here.
    pub frames_dropped: u64,
}

/// Who moves a raw frame between the interface and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawMode {
    /// The interface itself.
    ZeroCopy,
    /// The kernel copies it, in the driver.
    Copy,
    /// The kernel copies it, behind the driver, which knows no better.
    Generic,
}

/// How a link's frames are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Mutual authentication with static keys, every frame encrypted and authenticated.
    #[default]
    Noise,
    /// A checksum only: anybody on the path can read and forge. For closed labs. Keys are names that are compared where
    /// they are given, and prove nothing.
    None,
}

/// `link_delete`. -16 while a group uses it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkDelete {
    /// Its name.
    pub name: String,
}

/// `link_get`: all, or one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkGet {
    /// Only this one; -19 where there is none.
    pub name: Option<String>,
}

/// A link as `link_get` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkInfo {
    /// Its name.
    pub name: String,
    /// This system's end.
    pub local_addr: SocketAddr,
    /// The other system's end.
    pub remote_addr: SocketAddr,
    /// How frames are protected.
    pub security: Security,
    /// What the other system must be given as `remote_public_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_public_key: Option<PublicKey>,
    /// The other system's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_public_key: Option<PublicKey>,
    /// Whether frames flow.
    pub state: LinkState,
    /// Why not, where they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is in this state, milliseconds ago.
    pub state_age_ms: u64,
    /// What datagrams reach the network by now.
    #[serde(default)]
    pub transport: Transport,
    /// Why that is not what was asked for, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport_reason: Option<String>,
    /// Raw frames, where they are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<RawInfo>,
    /// The core that it is at home on: of several the first.
    #[serde(default)]
    pub core: u16,
    /// Where it is on several: each one's part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strands: Vec<StrandInfo>,
    /// The largest UDP payload sent, bytes.
    pub mtu_bytes: u16,
    /// Smoothed round-trip time, microseconds; 0 before the first measurement.
    pub rtt_us: u64,
    /// Least round-trip time, microseconds; 0 before the first measurement.
    pub rtt_us_min: u64,
    /// What congestion control allows in flight, bytes.
    pub congestion_window_bytes: u64,
    /// What is in flight, bytes.
    pub in_flight_bytes: u64,
    /// Counters since the link was created.
    pub counters: LinkCounters,
}

/// One core's part of a link that is on several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StrandInfo {
    /// The core.
    pub core: u16,
    /// This system's end.
    pub local_addr: SocketAddr,
    /// The other system's end.
    pub remote_addr: SocketAddr,
    /// Whether the two ends hear each other. The link is up when all of them do.
    pub state: LinkState,
    /// What datagrams reach the network by now.
    pub transport: Transport,
    /// Why that is not what was asked for, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport_reason: Option<String>,
    /// Raw frames, where they are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<RawInfo>,
    /// Smoothed round-trip time, microseconds; 0 before the first measurement.
    pub rtt_us: u64,
    /// Counters since the link was created.
    pub counters: LinkCounters,
}

/// Whether a link carries frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// No session yet; it is being tried.
    Connecting,
    /// Frames flow.
    Up,
    /// The other system has not answered for longer than the probe time-out; it is being tried.
    Down,
}

/// A link's counters. Frames are datagrams, bytes are UDP payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkCounters {
    /// Frames sent, retransmissions among them.
    pub frames_sent: u64,
    /// Frames that repeated content believed lost.
    pub frames_retransmitted: u64,
    /// Frames received and accepted.
    pub frames_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received in accepted frames.
    pub bytes_received: u64,
    /// Frames believed lost.
    pub frames_lost: u64,
    /// Frames dropped because they did not authenticate.
    pub dropped_unauthentic: u64,
    /// Frames dropped because they had been received before.
    pub dropped_replayed: u64,
    /// Frames dropped because of an old epoch or generation.
    pub dropped_stale: u64,
    /// Frames dropped because of their form.
    pub dropped_malformed: u64,
    /// Frames dropped because there was no room for them.
    pub dropped_no_room: u64,
    /// Sessions established.
    pub handshakes: u64,
}

impl std::ops::AddAssign for LinkCounters {
    fn add_assign(&mut self, other: Self) {
        self.frames_sent += other.frames_sent;
        self.frames_retransmitted += other.frames_retransmitted;
        self.frames_received += other.frames_received;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.frames_lost += other.frames_lost;
        self.dropped_unauthentic += other.dropped_unauthentic;
        self.dropped_replayed += other.dropped_replayed;
        self.dropped_stale += other.dropped_stale;
        self.dropped_malformed += other.dropped_malformed;
        self.dropped_no_room += other.dropped_no_room;
        self.handshakes += other.handshakes;
    }
}
