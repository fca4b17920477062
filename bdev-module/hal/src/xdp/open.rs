//! How a queue is opened, step by step.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arena::Region;
use crate::net::{Interface, set_option};

use super::program::{Place, Program};
use super::{RING_ENTRIES, XdpConfig, XdpError};

/// Frames that one call of the kernel sends (XDP_MAX_TX_SKB_BUDGET, Linux 6.17; 32 before).
const NUDGE_FRAMES: libc::c_int = 1024;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// Frames in the kernel's hands when it copies.
const SEND_BUFFER_BYTES: libc::c_int = 16 << 20;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
/// Frames that one busy poll takes from the driver.
const BUSY_POLL_FRAMES: libc::c_int = 64;
/// The kernel gives up a queue only a while after the last descriptor closed.
const BUSY_WITHIN: Duration = Duration::from_secs(2);
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// The steps of [`Xdp::open`](super::Xdp::open), each with what may stand in its way.
pub(super) struct Opening<'a> {
    pub(super) interface: &'a Interface,
    pub(super) config: &'a XdpConfig,
}

impl Opening<'_> {
    pub(super) fn os(&self, doing: &'static str, source: io::Error) -> XdpError {
        XdpError::Os { doing, interface: self.interface.name.clone(), source }
    }

    pub(super) fn socket(&self) -> Result<OwnedFd, XdpError> {
        // SAFETY: makes a socket.
        let raw = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if raw < 0 {
            let source = io::Error::last_os_error();
            return Err(match source.raw_os_error() {
                Some(libc::EPERM) => XdpError::Capability { doing: "open an AF_XDP socket", capability: "CAP_NET_RAW" },
                Some(libc::EAFNOSUPPORT) => XdpError::Kernel { source },
                _ => self.os("open an AF_XDP socket", source),
            });
        }
        // SAFETY: just made, and told to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        // More than it has by itself, where that may be had; without, sending goes on in smaller steps.
        let _ = set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER_BYTES);
        let _ = set_option(&socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, NUDGE_FRAMES);
        if let Some(us) = self.config.busy_poll_us {
            let us = libc::c_int::try_from(us).unwrap_or(libc::c_int::MAX);
            let options = [(SO_PREFER_BUSY_POLL, 1), (libc::SO_BUSY_POLL, us), (SO_BUSY_POLL_BUDGET, BUSY_POLL_FRAMES)];
            for (option, value) in options {
                set_option(&socket, libc::SOL_SOCKET, option, value).map_err(|source| match source.raw_os_error() {
                    Some(libc::EPERM) => XdpError::Capability { doing: "busy-poll", capability: "CAP_NET_ADMIN" },
                    _ => self.os("ask for busy polling", source),
                })?;
            }
        }
        Ok(socket)
    }

    pub(super) fn register(&self, socket: RawFd, region: &Region, chunk_bytes: usize) -> Result<(), XdpError> {
        raise_locked_memory();
        let memory = libc::xdp_umem_reg {
            addr: region.base() as u64,
            len: region.bytes() as u64,
            chunk_size: chunk_bytes as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        // The kernel pins the pages: it never writes to memory that was unmapped. What it writes, and when, is what the
        // rings give it.
        set(socket, libc::XDP_UMEM_REG, &memory).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOBUFS) => XdpError::LockedMemory { bytes: region.bytes() },
            _ => self.os("register the memory", source),
        })
    }

    pub(super) fn rings(&self, socket: RawFd) -> Result<libc::xdp_mmap_offsets, XdpError> {
        let rings = [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING];
        for ring in rings {
            set(socket, ring, &RING_ENTRIES).map_err(|source| self.os("make the rings", source))?;
        }
        // SAFETY: integers only: all zeroes is a value.
        let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
        get_option(socket, libc::XDP_MMAP_OFFSETS, &mut offsets)
            .map_err(|source| self.os("ask for the rings' layout", source))?;
        Ok(offsets)
    }

    pub(super) fn program(&self) -> Result<Arc<Program>, XdpError> {
        let interface = || self.interface.name.clone();
        retried(|| Program::on(self.interface.index)).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => XdpError::Capability {
                doing: "put a BPF program on an interface",
                capability: "CAP_BPF and CAP_NET_ADMIN",
            },
            Some(libc::EBUSY | libc::EEXIST) => XdpError::ProgramTaken { interface: interface() },
            _ => self.os("put the BPF program", source),
        })
    }

    /// Binds to the queue; true for zero copy.
    pub(super) fn bind(&self, socket: RawFd, program: &Program, scattered: bool) -> Result<bool, XdpError> {
        let wakeup = if self.config.need_wakeup { libc::XDP_USE_NEED_WAKEUP } else { 0 };
        let flags = wakeup | if scattered { libc::XDP_USE_SG } else { 0 };
        let (interface, queue) = (|| self.interface.name.clone(), self.config.queue);
        let bind = |flags| retried(|| bind(socket, self.interface.index, queue, flags));
        let zero_copy = match program.place() {
            Place::Driver => bind(flags | libc::XDP_ZEROCOPY).map(|()| true),
            Place::Generic => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        };
        let bound = match zero_copy {
            // Waiting for it once was enough.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(error),
            Err(_) => bind(flags | libc::XDP_COPY).map(|()| false),
            Ok(granted) => Ok(granted),
        };
        bound.map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) => XdpError::QueueTaken { interface: interface(), queue },
            Some(libc::EINVAL) if self.interface.queues.is_none() => {
                XdpError::NoQueue { interface: interface(), queue, there: None }
            }
            Some(libc::ENETDOWN) => XdpError::Down { interface: interface() },
            _ => self.os("bind the AF_XDP socket", source),
        })
    }
}

/// Tries again for a while what is busy: the kernel frees a queue and a program only a moment after their last user went.
fn retried<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let until = Instant::now() + BUSY_WITHIN;
    loop {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

fn bind(socket: RawFd, interface: u32, queue: u32, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let bytes = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is as long as is said and lives during the call.
    let failed = unsafe { libc::bind(socket, (&raw const address).cast(), bytes) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set<T>(socket: RawFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is as long as is said and lives during the call.
    let failed = unsafe { libc::setsockopt(socket, libc::SOL_XDP, option, (&raw const *value).cast(), bytes) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for an option that is integers only.
pub(super) fn get_option<T: Copy>(socket: RawFd, option: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than is said into a structure of integers that is ours for the call.
    let failed = unsafe { libc::getsockopt(socket, libc::SOL_XDP, option, (&raw mut *value).cast(), &raw mut bytes) };
    match failed {
        0 if bytes as usize == size_of::<T>() => Ok(()),
        0 => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes what the limit of locked memory lets this process take for itself.
fn raise_locked_memory() {
    // SAFETY: reads and writes a limit of this process; the structure is ours.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
        }
    }
}
