//! Sockets set up for the per-core ring. All are blocking sockets as far as the kernel is told: the ring does the waiting.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::fd::Fd;

mod interface;

pub use interface::Interface;

/// What a UDP socket of the link wants from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// Kernel buffers in bytes. Taken beyond the system's limit if the process may.
    pub receive_buffer_bytes: usize,
    pub send_buffer_bytes: usize,
    /// Set the don't-fragment bit and ignore the kernel's idea of the path's MTU: what is too long for the interface
    /// fails with EMSGSIZE, what is too long further on is lost. For a sender that knows or probes the MTU.
    pub dont_fragment: bool,
}

/// A bound UDP socket and what the kernel granted.
#[derive(Debug)]
pub struct UdpEndpoint {
    pub fd: Fd,
    pub local: SocketAddr,
    /// Does the kernel join received datagrams into trains (UDP_GRO) and cut sent ones (UDP_SEGMENT)?
    pub trains: bool,
    /// A sentence for the operator where the kernel granted less than asked for.
    pub notice: Option<String>,
}

/// Binds a UDP socket; port 0 takes a free one.
pub fn udp_bind(address: SocketAddr, config: &UdpConfig) -> io::Result<UdpEndpoint> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    let mut notices = Vec::new();
    let grants = [
        ("receive", libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, config.receive_buffer_bytes, "net.core.rmem_max"),
        ("send", libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, config.send_buffer_bytes, "net.core.wmem_max"),
    ];
    for (which, option, force, want, limit) in grants {
        let bytes = i32::try_from(want).unwrap_or(i32::MAX / 2);
        // Forcing needs CAP_NET_ADMIN; asking is cut at the system's limit.
        if set_option(&socket, libc::SOL_SOCKET, force, bytes).is_err() {
            set_option(&socket, libc::SOL_SOCKET, option, bytes)?;
        }
        // The kernel doubles what it grants, for its own bookkeeping.
        let got = match option {
            libc::SO_RCVBUF => socket.recv_buffer_size()?,
            _ => socket.send_buffer_size()?,
        } / 2;
        if got < bytes as usize {
            notices.push(format!("UDP {which} buffer of {got} bytes instead of {want}: raise {limit} to {want}"));
        }
    }
    if config.dont_fragment {
        if address.is_ipv6() {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        } else {
            set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        }
    }
    let trains = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
    if !trains {
        notices
            .push("UDP without segmentation offload (Linux 5.0 and newer have it): expect a tenth of the rate".into());
    }
    let local = inet(socket.local_addr()?)?;
    let notice = (!notices.is_empty()).then(|| notices.join("; "));
    Ok(UdpEndpoint { fd: socket.into(), local, trains, notice })
}

/// Binds and listens for TCP with SO_REUSEADDR; port 0 takes a free one. Gives the address bound.
pub fn tcp_listen(address: SocketAddr, backlog: u32) -> io::Result<(Fd, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    let local = inet(socket.local_addr()?)?;
    Ok((socket.into(), local))
}

/// Connects to a TCP peer (blocking), with [`tcp_tune`] applied.
pub fn tcp_connect(address: SocketAddr, timeout: Duration) -> io::Result<Fd> {
    let fd = Fd::from(TcpStream::connect_timeout(&address, timeout)?);
    tcp_tune(&fd)?;
    Ok(fd)
}

/// Sets TCP_NODELAY. Call on each accepted connection.
pub fn tcp_tune(fd: &Fd) -> io::Result<()> {
    SockRef::from(fd).set_tcp_nodelay(true)
}

/// The address of the other end.
pub fn peer_address(fd: &Fd) -> io::Result<SocketAddr> {
    inet(SockRef::from(fd).peer_addr()?)
}

/// The address of this end.
pub fn local_address(fd: &Fd) -> io::Result<SocketAddr> {
    inet(SockRef::from(fd).local_addr()?)
}

fn inet(address: socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an IPv4 or IPv6 socket"))
}

/// Options that socket2 does not know.
pub(crate) fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let len = std::mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads one int of ours, which is there during the call.
    let failed = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast::<libc::c_void>(), len)
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_udp_socket_gets_its_buffers_or_says_what_to_raise() {
        let config = UdpConfig { receive_buffer_bytes: 3 << 20, send_buffer_bytes: 2 << 20, dont_fragment: true };
        let endpoint = udp_bind("127.0.0.1:0".parse().unwrap(), &config).unwrap();
        let socket = SockRef::from(&endpoint.fd);
        let granted = socket.recv_buffer_size().unwrap() >= 3 << 20 && socket.send_buffer_size().unwrap() >= 2 << 20;
        assert!(granted || endpoint.notice.as_deref().is_some_and(|notice| notice.contains("mem_max")));
        assert_ne!(endpoint.local.port(), 0);
        assert_eq!(local_address(&endpoint.fd).unwrap(), endpoint.local);
    }

    #[test]
    fn a_connected_socket_is_tuned_and_knows_both_ends() {
        let (listener, address) = tcp_listen("127.0.0.1:0".parse().unwrap(), 4).unwrap();
        let fd = tcp_connect(address, Duration::from_secs(10)).unwrap();
        assert_eq!(peer_address(&fd).unwrap(), address);
        assert!(SockRef::from(&fd).tcp_nodelay().unwrap());
        drop(listener);
    }
}
