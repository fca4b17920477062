//! What the kernel says about a network interface.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

use crate::frame::Mac;

/// A network interface, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number, which no other one of this network namespace has.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The largest IP packet it takes, in bytes.
    pub mtu_bytes: usize,
    /// Whether it is up.
    pub up: bool,
    /// How many receive queues are in use, where the driver tells.
    pub queues: Option<u32>,
}

/// ETHTOOL_GCHANNELS (linux/ethtool.h).
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

impl Interface {
    /// Looks at an interface.
    ///
    /// # Errors
    /// `NotFound` if there is none of this name; else the kernel's.
    pub fn look(name: &str) -> io::Result<Interface> {
        let not_found = || io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}"));
        // Longer ones cannot be, and a zero byte cannot be in one.
        let c_name = CString::new(name).map_err(|_| not_found())?;
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(not_found());
        }
        // SAFETY: reads a string that ends with zero.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(not_found());
        }
        // Any socket answers questions about interfaces.
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        let mut request = request(&c_name);
        ask(&socket, libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: the kernel has filled this member; it is plain bytes.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        let mut mac = Mac::default();
        for (to, from) in mac.0.iter_mut().zip(address.sa_data) {
            *to = from.to_ne_bytes()[0];
        }
        ask(&socket, libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: as above.
        let mtu_bytes = unsafe { request.ifr_ifru.ifru_mtu };
        ask(&socket, libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: as above.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        Ok(Interface {
            name: name.to_owned(),
            index,
            mac,
            mtu_bytes: usize::try_from(mtu_bytes).unwrap_or(0),
            up: flags & libc::IFF_UP != 0,
            queues: queues(&socket, &c_name),
        })
    }

    /// The names of all interfaces of this network namespace.
    pub fn names() -> Vec<String> {
        // SAFETY: gives an array that ends with an entry of number 0, or null.
        let all = unsafe { libc::if_nameindex() };
        let mut names = Vec::new();
        if all.is_null() {
            return names;
        }
        let mut entry = all;
        // SAFETY: the array ends with an entry of number 0, which is not passed; names end with zero.
        unsafe {
            while (*entry).if_index != 0 && !(*entry).if_name.is_null() {
                names.push(CStr::from_ptr((*entry).if_name).to_string_lossy().into_owned());
                entry = entry.add(1);
            }
            libc::if_freenameindex(all);
        }
        names
    }
}

fn request(name: &CStr) -> libc::ifreq {
    // SAFETY: integers, bytes and a pointer that is not followed: all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request
}

fn ask(socket: &Socket, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: these requests read the name and write the union of the `ifreq`, which is ours for the call.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut *request) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn queues(socket: &Socket, name: &CStr) -> Option<u32> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    let mut request = request(name);
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SIOCETHTOOL: writes the structure that the request points at, whose size the command implies.
    ask(socket, libc::SIOCETHTOOL as libc::Ioctl, &mut request).ok()?;
    Some(channels.receive + channels.combined).filter(|queues| *queues > 0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found_and_another_name_is_not() {
        let lo = Interface::look("lo").unwrap();
        assert!(lo.index > 0 && lo.mac == Mac::default() && lo.mtu_bytes >= 1500, "{lo:?}");
        assert!(Interface::names().contains(&"lo".to_owned()));
        for name in ["", "no-such-thing", "a-name-that-is-much-too-long", "l\0o"] {
            let error = Interface::look(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name:?}");
        }
    }
}
