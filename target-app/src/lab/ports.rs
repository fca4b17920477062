//! UDP ports in a row, as a link on several cores has them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// How often a row is looked for.
const ATTEMPTS: usize = 64;

/// Binds as many sockets as `length`, with ports in a row. `bind` makes the one of a place in the row, with this port, or with
/// any if it is 0.
///
/// # Errors
///
/// The last one, if none of 64 rows could be had.
pub fn row(length: u16, bind: impl Fn(u16, u16) -> io::Result<UdpSocket>) -> io::Result<Vec<UdpSocket>> {
    let mut refused = io::ErrorKind::AddrInUse.into();
    for _ in 0..ATTEMPTS {
        let first = bind(0, 0)?;
        let port = first.local_addr()?.port();
        let further = (1..length).map(|place| match port.checked_add(place) {
            Some(port) => bind(place, port),
            None => Err(io::ErrorKind::AddrInUse.into()),
        });
        match std::iter::once(Ok(first)).chain(further).collect() {
            Ok(row) => return Ok(row),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// A local address from which on so many ports in a row are free now.
///
/// # Errors
///
/// As [`row`].
pub fn free_udp(length: u16) -> io::Result<SocketAddr> {
    row(length, |_, port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)))?[0].local_addr()
}
