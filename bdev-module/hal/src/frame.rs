//! Ethernet/IPv4/UDP frames of our own: what [`xdp`](crate::xdp) sends and receives.
//!
//! Layouts and rules: Ethernet II (IEEE 802.3 section 3.2.6), IPv4 (RFC 791), UDP (RFC 768), checksums (RFC 1071). A frame is
//! written around a payload that already stands at [`HEADER_BYTES`], so that nothing is copied. What comes in may be
//! anything: [`parse`] answers an error for what is not exactly a whole UDP datagram, and never panics.
//!
//! Given up: VLAN tags, IPv6, IPv4 fragments (a link's datagrams are never fragmented), and the *check* of a received UDP
//! checksum: between two ends of a virtual cable the kernel leaves it unfinished, real cards have checked it before, and the
//! link authenticates (or, without security, checks by CRC32C) what the checksum covers.

use std::fmt;
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

#[cfg(all(test, not(loom)))]
mod tests;

/// What stands before the payload of a frame of ours.
pub const HEADER_BYTES: usize = size_of::<Headers>();
/// Of those, what counts against an interface's MTU.
pub const IP_UDP_BYTES: usize = HEADER_BYTES - size_of::<Ethernet>();

const ETHERTYPE_IPV4: u16 = 0x0800;
const PROTOCOL_UDP: u8 = 17;
/// Version 4, five words of header.
const VERSION_AND_WORDS: u8 = 0x45;
const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, and the offset of this one.
const FRAGMENT: u16 = 0x3fff;
/// RFC 1700's default: enough for any path, and a loop ends.
const TTL: u8 = 64;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ethernet {
    to: Mac,
    from: Mac,
    ethertype: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ipv4 {
    version_and_words: u8,
    service: u8,
    total_bytes: U16,
    identification: U16,
    fragment: U16,
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    from: [u8; 4],
    to: [u8; 4],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Udp {
    from: U16,
    to: U16,
    bytes: U16,
    checksum: [u8; 2],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Headers {
    ethernet: Ethernet,
    ip: Ipv4,
    udp: Udp,
}

const _: () = assert!(size_of::<Ethernet>() == 14);
const _: () = assert!(size_of::<Ipv4>() == 20);
const _: () = assert!(size_of::<Udp>() == 8);
const _: () = assert!(size_of::<Headers>() == 42);

/// Where a frame comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The sending interface.
    pub from_mac: Mac,
    /// The next hop: the peer itself, or the router towards it.
    pub to_mac: Mac,
    /// The sender.
    pub from: SocketAddrV4,
    /// The receiver.
    pub to: SocketAddrV4,
}

/// A received UDP datagram within its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The sender.
    pub from: SocketAddrV4,
    /// The receiver.
    pub to: SocketAddrV4,
    /// Which bytes of the frame are the payload.
    pub payload: Range<usize>,
}

/// Why a frame is not a UDP datagram for us. It is counted and dropped: what a network carries is an event, not a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    #[error("frame of {got} bytes, needs at least {need}")]
    Short { got: usize, need: usize },
    #[error("EtherType {got:#06x}, expected IPv4 (0x0800) without a VLAN tag")]
    EtherType { got: u16 },
    #[error("IP version and header length {got:#04x}, expected version 4 and at least 5 words")]
    Version { got: u8 },
    #[error("IP protocol {got}, expected UDP (17)")]
    Protocol { got: u8 },
    #[error("the IPv4 header says {says} bytes, the frame has {has}")]
    Length { says: usize, has: usize },
    #[error("the UDP header says {says} bytes, the IPv4 packet has {has}")]
    UdpLength { says: usize, has: usize },
    #[error("a fragment of a larger datagram; lower mtu_bytes to what the path carries")]
    Fragment,
    #[error("the IPv4 header's checksum is wrong")]
    Checksum,
    #[error("payload of {got} bytes, a UDP datagram over IPv4 takes at most {max}")]
    Long { got: usize, max: usize },
}

/// The longest UDP payload over IPv4.
const PAYLOAD_BYTES_MAX: usize = u16::MAX as usize - IP_UDP_BYTES;

/// Writes the headers before a payload that stands at [`HEADER_BYTES`] of `frame` and fills the rest of it. One pass over the
/// payload for its checksum.
///
/// # Errors
/// A frame too short for the headers, or too long for one datagram; nothing is written then.
pub fn write(flow: &Flow, frame: &mut [u8]) -> Result<(), FrameError> {
    let (got, need) = (frame.len(), HEADER_BYTES);
    let Some((headers, payload)) = frame.split_at_mut_checked(need) else {
        return Err(FrameError::Short { got, need });
    };
    let udp_bytes = match u16::try_from(payload.len() + size_of::<Udp>()) {
        Ok(bytes) if payload.len() <= PAYLOAD_BYTES_MAX => bytes,
        _ => return Err(FrameError::Long { got: payload.len(), max: PAYLOAD_BYTES_MAX }),
    };
    let (from, to) = (flow.from.ip().octets(), flow.to.ip().octets());
    let mut new = Headers {
        ethernet: Ethernet { to: flow.to_mac, from: flow.from_mac, ethertype: U16::new(ETHERTYPE_IPV4) },
        ip: Ipv4 {
            version_and_words: VERSION_AND_WORDS,
            service: 0,
            total_bytes: U16::new(udp_bytes + size_of::<Ipv4>() as u16),
            // RFC 6864: of no meaning where the datagram must not be fragmented.
            identification: U16::ZERO,
            fragment: U16::new(DONT_FRAGMENT),
            ttl: TTL,
            protocol: PROTOCOL_UDP,
            checksum: [0; 2],
            from,
            to,
        },
        udp: Udp {
            from: U16::new(flow.from.port()),
            to: U16::new(flow.to.port()),
            bytes: U16::new(udp_bytes),
            checksum: [0; 2],
        },
    };
    new.ip.checksum = finish(sum(new.ip.as_bytes()));
    // The pseudo-header (RFC 768): addresses, protocol, length.
    let pseudo = sum(&from) + sum(&to) + sum(&[0, PROTOCOL_UDP]) + sum(&udp_bytes.to_be_bytes());
    new.udp.checksum = match finish(pseudo + sum(new.udp.as_bytes()) + sum(payload)) {
        // Zero would say that there is none.
        [0, 0] => [0xff, 0xff],
        checksum => checksum,
    };
    headers.copy_from_slice(new.as_bytes());
    Ok(())
}

/// Finds the UDP datagram in a frame. Bytes behind it (Ethernet pads short frames) are passed over.
///
/// # Errors
/// Anything else than a whole, unfragmented UDP datagram over IPv4.
pub fn parse(frame: &[u8]) -> Result<Datagram, FrameError> {
    let short = |need| FrameError::Short { got: frame.len(), need };
    let (ethernet, packet) = Ethernet::ref_from_prefix(frame).map_err(|_| short(HEADER_BYTES))?;
    if ethernet.ethertype.get() != ETHERTYPE_IPV4 {
        return Err(FrameError::EtherType { got: ethernet.ethertype.get() });
    }
    let (ip, _) = Ipv4::ref_from_prefix(packet).map_err(|_| short(HEADER_BYTES))?;
    let ip_bytes = usize::from(ip.version_and_words & 0x0f) * 4;
    if ip.version_and_words >> 4 != 4 || ip_bytes < size_of::<Ipv4>() {
        return Err(FrameError::Version { got: ip.version_and_words });
    }
    let says = usize::from(ip.total_bytes.get());
    let has = packet.len();
    let packet = packet.get(..says).ok_or(FrameError::Length { says, has })?;
    let (header, body) = packet.split_at_checked(ip_bytes).ok_or(FrameError::Length { says, has: ip_bytes })?;
    if finish(sum(header)) != [0, 0] {
        return Err(FrameError::Checksum);
    }
    if ip.fragment.get() & FRAGMENT != 0 {
        return Err(FrameError::Fragment);
    }
    if ip.protocol != PROTOCOL_UDP {
        return Err(FrameError::Protocol { got: ip.protocol });
    }
    let (udp, _) =
        Udp::ref_from_prefix(body).map_err(|_| short(size_of::<Ethernet>() + ip_bytes + size_of::<Udp>()))?;
    let says = usize::from(udp.bytes.get());
    if says < size_of::<Udp>() || says > body.len() {
        return Err(FrameError::UdpLength { says, has: body.len() });
    }
    let begins = size_of::<Ethernet>() + ip_bytes;
    Ok(Datagram {
        from: SocketAddrV4::new(Ipv4Addr::from(ip.from), udp.from.get()),
        to: SocketAddrV4::new(Ipv4Addr::from(ip.to), udp.to.get()),
        payload: begins + size_of::<Udp>()..begins + says,
    })
}

/// The sum of 16-bit words of RFC 1071, not folded. The order of bytes within a word does not matter as long as the result is
/// stored as it was summed (section 2 B), so words are taken as the machine has them, two at a time.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum += u64::from(u32::from_ne_bytes(last));
    sum
}

/// Folds a sum into the checksum's two bytes.
fn finish(mut sum: u64) -> [u8; 2] {
    while sum > u64::from(u16::MAX) {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!(sum as u16)).to_ne_bytes()
}
