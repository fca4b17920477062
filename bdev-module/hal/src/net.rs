//! Sockets set up for the per-core ring. All are blocking sockets as far as the kernel is told: the ring does the waiting.

use std::io;
use std::net::SocketAddr;

use crate::fd::Fd;

/// What a UDP socket of the link wants from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// Kernel buffers in bytes. Taken beyond the system's limit if the process may.
    pub receive_buffer_bytes: usize,
    pub send_buffer_bytes: usize,
    /// Let the kernel set the don't-fragment bit and refuse datagrams above the path's MTU.
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

/// Binds a UDP socket.
pub fn udp_bind(address: SocketAddr, config: &UdpConfig) -> io::Result<UdpEndpoint> {
    let _ = (address, config);
    unimplemented!()
}

/// Binds and listens for TCP with SO_REUSEADDR; port 0 takes a free one. Gives the address bound.
pub fn tcp_listen(address: SocketAddr, backlog: u32) -> io::Result<(Fd, SocketAddr)> {
    let _ = (address, backlog);
    unimplemented!()
}

/// Connects to a TCP peer (blocking) with [`tcp_tune`] applied.
pub fn tcp_connect(address: SocketAddr, timeout: std::time::Duration) -> io::Result<Fd> {
    let _ = (address, timeout);
    unimplemented!()
}

/// Sets TCP_NODELAY. Call on each accepted connection.
pub fn tcp_tune(fd: &Fd) -> io::Result<()> {
    let _ = fd;
    unimplemented!()
}

/// The address of the other end.
pub fn peer_address(fd: &Fd) -> io::Result<SocketAddr> {
    let _ = fd;
    unimplemented!()
}

/// The address of this end.
pub fn local_address(fd: &Fd) -> io::Result<SocketAddr> {
    let _ = fd;
    unimplemented!()
}
