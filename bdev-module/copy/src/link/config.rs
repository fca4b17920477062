//! What a link is told when it is made.

use crate::types::SystemId;
use std::net::SocketAddr;

/// How datagrams are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// Noise_IK_25519_ChaChaPoly_BLAKE2s handshake with the two systems' static keys, then AES-256-GCM for each datagram.
    #[default]
    Noise,
    /// **No protection at all.** Anyone who can send a datagram to this system can forge, read and replay everything:
    /// datagrams carry a CRC32C against line noise and nothing else. For closed labs and measurements only; both systems
    /// must say so in their configuration, a mixed link never comes up. The keys are compared where they
    /// are given, and prove nothing: that keeps a slip in a configuration from joining the wrong systems.
    None,
}

/// The shortest datagram size that a link may be configured with: every control message fits into one datagram.
pub const MTU_BYTES_MIN: usize = 1200;
/// The longest datagram size: one train of 64 KiB holds several, and a UDP payload cannot be longer.
pub const MTU_BYTES_MAX: usize = 32 * 1024;

/// A link between two systems may be of several strands: each a [`crate::link::Link`], on a core and between addresses of its
/// own, and together one link to those who use it ([`crate::engine::Engine::link_bind`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strand {
    /// Which one, from 0.
    pub index: u8,
    /// Of how many; both systems have as many.
    pub of: u8,
}

/// Strands of a link at most.
pub const STRANDS_MAX: usize = 16;

impl Strand {
    /// A whole link.
    pub const ONLY: Strand = Strand { index: 0, of: 1 };
}

/// Parameters of one link. [`LinkConfig::new`] gives defaults for a WAN.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// This system's X25519 private key.
    pub local_private_key: [u8; 32],
    /// The peer's X25519 public key; the peer's [`SystemId`] derives from it. Without security it may be left out: the peer
    /// is then whoever is at `remote_addr`, and its [`SystemId`] derives from that.
    pub remote_public_key: Option<[u8; 32]>,
    /// Where to send to. `None`: wait until the peer calls, then use the source of its last authenticated handshake.
    pub remote_addr: Option<SocketAddr>,
    /// What it is of a link. A peer that calls as another strand, or of another number of them, is refused.
    pub strand: Strand,
    /// How datagrams are protected.
    pub security: Security,
    /// Length of the longest datagram (UDP payload, Longrun's own header included), [`MTU_BYTES_MIN`] to
    /// [`MTU_BYTES_MAX`]. The path must carry it: nothing fragments below the link.
    pub mtu_bytes: usize,
    /// Fraction of lost datagrams over about a round trip up to which loss is taken for the path's nature and not for
    /// congestion. 0 makes every loss count, as for TCP.
    pub loss_tolerance: f64,
    /// Never send faster than this, on average over a few milliseconds.
    pub rate_limit_bytes_per_s: Option<u64>,
    /// Upper bound of the congestion window; with [`LinkConfig::mtu_bytes`] it bounds the table of datagrams in flight.
    pub window_bytes_max: u64,
    /// Silence after which the session is given up and handshakes begin again.
    pub dead_after_ns: u64,
    /// Idle time after which a ping keeps the session (and middleboxes' state) alive.
    pub keepalive_ns: u64,
    /// Datagrams sent under one key before new keys are agreed on. At four times as many the session ends.
    pub rekey_after_packets: u64,
    /// Age of a key at which new keys are agreed on.
    pub rekey_after_ns: u64,
}

impl LinkConfig {
    /// A link between these two keys, with defaults for everything else: Noise, 1400-byte datagrams, 10 % loss tolerated,
    /// no rate limit, 32 MiB window, dead after 5 s, ping after 1 s idle, new keys after 2^22 datagrams or 2 minutes.
    pub fn new(
        local_private_key: [u8; 32],
        remote_public_key: [u8; 32],
        remote_addr: Option<SocketAddr>,
    ) -> LinkConfig {
        LinkConfig {
            local_private_key,
            remote_public_key: Some(remote_public_key),
            remote_addr,
            strand: Strand::ONLY,
            security: Security::Noise,
            mtu_bytes: 1400,
            loss_tolerance: 0.10,
            rate_limit_bytes_per_s: None,
            window_bytes_max: 32 << 20,
            dead_after_ns: 5_000_000_000,
            keepalive_ns: 1_000_000_000,
            rekey_after_packets: 1 << 22,
            rekey_after_ns: 120_000_000_000,
        }
    }
}

/// Why a link cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkConfigError {
    /// Datagram size out of range.
    #[error(
        "mtu_bytes is {got}; give {MTU_BYTES_MIN} to {MTU_BYTES_MAX}, not above what the path carries unfragmented"
    )]
    Mtu {
        /// As given.
        got: usize,
    },
    /// Not a fraction.
    #[error("loss_tolerance is {got}; give a fraction from 0 to 0.5")]
    LossTolerance {
        /// As given.
        got: f64,
    },
    /// A limit that lets nothing through.
    #[error("rate_limit_bytes_per_s is {got}; give at least 10000, or leave it out for no limit")]
    RateLimit {
        /// As given.
        got: u64,
    },
    /// The two keys belong together.
    #[error("remote_public_key is this system's own; give the key that `longrun keygen` printed on the other system")]
    OwnKey,
    /// Nobody to authenticate.
    #[error("remote_public_key is missing; give the key that `longrun keygen` printed on the other system")]
    KeyMissing,
    /// Neither a key nor an address.
    #[error("neither remote_public_key nor remote_addr is given; give one, so that it is known who is meant")]
    NobodyMeant,
    /// There is no such strand.
    #[error("strand {} of {} is meant; give 1 to {STRANDS_MAX} strands, counted from 0", .0.index, .0.of)]
    Strand(Strand),
    /// A duration or a count of zero.
    #[error("{field} is {got}; give at least {need}")]
    TooSmall {
        /// The parameter.
        field: &'static str,
        /// As given.
        got: u64,
        /// The least that works.
        need: u64,
    },
}

impl LinkConfig {
    /// A link without security to whoever is at an address, with the defaults of [`LinkConfig::new`].
    pub fn plain(local_private_key: [u8; 32], remote_addr: SocketAddr) -> LinkConfig {
        LinkConfig {
            remote_public_key: None,
            security: Security::None,
            ..LinkConfig::new(local_private_key, [0; 32], Some(remote_addr))
        }
    }

    /// The system at the other end: told apart by its key, or without one by its address. Streams and groups are bound to
    /// it, so a system that is known by its address is another one once it has moved.
    pub fn peer(&self) -> SystemId {
        match (self.remote_public_key, self.remote_addr) {
            (Some(key), _) => SystemId::of_key(&key),
            (None, Some(addr)) => SystemId::of_address(addr),
            (None, None) => SystemId::default(),
        }
    }

    /// Checks ranges; [`crate::link::Link::new`] calls it.
    pub fn check(&self) -> Result<(), LinkConfigError> {
        if !(MTU_BYTES_MIN..=MTU_BYTES_MAX).contains(&self.mtu_bytes) {
            return Err(LinkConfigError::Mtu { got: self.mtu_bytes });
        }
        if !(0.0..=0.5).contains(&self.loss_tolerance) {
            return Err(LinkConfigError::LossTolerance { got: self.loss_tolerance });
        }
        if let Some(got) = self.rate_limit_bytes_per_s.filter(|limit| *limit < 10_000) {
            return Err(LinkConfigError::RateLimit { got });
        }
        if self.strand.index >= self.strand.of || usize::from(self.strand.of) > STRANDS_MAX {
            return Err(LinkConfigError::Strand(self.strand));
        }
        if self.remote_public_key == Some(super::public_of(&self.local_private_key)) {
            return Err(LinkConfigError::OwnKey);
        }
        match (self.remote_public_key, self.remote_addr, self.security) {
            (Some(_), _, _) | (None, Some(_), Security::None) => {}
            (None, _, Security::Noise) => return Err(LinkConfigError::KeyMissing),
            (None, None, Security::None) => return Err(LinkConfigError::NobodyMeant),
        }
        let least = [
            ("window_bytes_max", self.window_bytes_max, 64 << 10),
            ("dead_after_ns", self.dead_after_ns, 100_000_000),
            ("keepalive_ns", self.keepalive_ns, 10_000_000),
            ("rekey_after_packets", self.rekey_after_packets, 64),
            ("rekey_after_ns", self.rekey_after_ns, 1_000_000_000),
        ];
        for (field, got, need) in least {
            if got < need {
                return Err(LinkConfigError::TooSmall { field, got, need });
            }
        }
        Ok(())
    }
}
