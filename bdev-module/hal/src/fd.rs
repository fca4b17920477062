//! Descriptors that stay open as long as an operation on them is in flight.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// A shared open file, socket or event descriptor; closed when the last clone goes. Each operation in flight in a
/// [`Uring`](crate::Uring) holds a clone, so a number is never reused under it.
///
/// Make it with `Fd::from(OwnedFd | File | TcpStream | TcpListener | UdpSocket | socket2::Socket)`.
#[derive(Clone)]
pub struct Fd(Arc<OwnedFd>);

impl Fd {
    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The descriptor itself if this is the only clone, else this.
    pub fn try_into_owned(self) -> Result<OwnedFd, Fd> {
        Arc::try_unwrap(self.0).map_err(Fd)
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PartialEq for Fd {
    /// The same open descriptor (not: the same file).
    fn eq(&self, other: &Fd) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Fd {}

impl fmt::Debug for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fd({})", self.raw())
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Fd {
        Fd(Arc::new(fd))
    }
}

impl From<std::fs::File> for Fd {
    fn from(file: std::fs::File) -> Fd {
        OwnedFd::from(file).into()
    }
}

impl From<std::net::TcpStream> for Fd {
    fn from(socket: std::net::TcpStream) -> Fd {
        OwnedFd::from(socket).into()
    }
}

impl From<std::net::TcpListener> for Fd {
    fn from(socket: std::net::TcpListener) -> Fd {
        OwnedFd::from(socket).into()
    }
}

impl From<std::net::UdpSocket> for Fd {
    fn from(socket: std::net::UdpSocket) -> Fd {
        OwnedFd::from(socket).into()
    }
}

impl From<socket2::Socket> for Fd {
    fn from(socket: socket2::Socket) -> Fd {
        OwnedFd::from(socket).into()
    }
}
