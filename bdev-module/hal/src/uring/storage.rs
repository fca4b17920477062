//! What the kernel reads and writes beside the buffers while an operation is in flight: at an address that stays.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::ptr::NonNull;

use crate::arena::Buf;
use crate::file::Standing;

use super::Gather;

/// A `Box` that may be moved while the kernel writes into it: no reference to the content exists but those asked for.
pub(super) struct Stable<T>(NonNull<T>);

impl<T> Stable<T> {
    pub(super) fn new(value: T) -> Stable<T> {
        // SAFETY: `Box::into_raw` is never null.
        Stable(unsafe { NonNull::new_unchecked(Box::into_raw(Box::new(value))) })
    }

    pub(super) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }

    /// The content, while no operation on it is in flight.
    pub(super) fn get(&mut self) -> &mut T {
        // SAFETY: this is the only holder of the box. Callers use it before the operation is submitted or after its last
        // completion, so the kernel does not write now; were it to, the data here are plain integers and pointers that
        // `Train` and `Batch` don't follow.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Stable<T> {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `new`, dropped once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Room for the answer of a look at a medium.
pub(super) fn look() -> Stable<libc::statx> {
    // SAFETY: integers only: all zeroes is a value.
    Stable::new(unsafe { mem::zeroed() })
}

/// What such an answer says.
pub(super) fn standing(answer: &libc::statx) -> Standing {
    Standing::of(u32::from(answer.stx_mode), Some(answer.stx_size), answer.stx_nlink == 0)
}

/// Room for one control message that holds an `int`, and to spare.
const CONTROL_BYTES: usize = 64;

#[repr(C, align(16))]
struct Control([u8; CONTROL_BYTES]);

/// Storage of a UDP send or receive.
pub(super) struct Train {
    header: libc::msghdr,
    piece: libc::iovec,
    name: libc::sockaddr_storage,
    control: Control,
    pub(super) buf: Option<Buf>,
}

impl Train {
    pub(super) fn new() -> Train {
        Train {
            // SAFETY: integers and null pointers: all zeroes is a value of these types.
            header: unsafe { mem::zeroed() },
            // SAFETY: as above.
            piece: unsafe { mem::zeroed() },
            // SAFETY: as above.
            name: unsafe { mem::zeroed() },
            control: Control([0; CONTROL_BYTES]),
            buf: None,
        }
    }

    /// Points the header at the parts of this storage, for a transfer of all of `buf`.
    fn point(&mut self, mut buf: Buf) -> &mut libc::msghdr {
        self.piece = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        self.buf = Some(buf);
        // SAFETY: as in `new`.
        self.header = unsafe { mem::zeroed() };
        self.header.msg_name = (&raw mut self.name).cast();
        self.header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        self.header.msg_iov = &raw mut self.piece;
        self.header.msg_iovlen = 1;
        self.header.msg_control = (&raw mut self.control).cast();
        self.header.msg_controllen = CONTROL_BYTES as _;
        &mut self.header
    }

    /// Makes ready to receive into all of `buf`; gives the header for the kernel.
    pub(super) fn receive(&mut self, buf: Buf) -> *mut libc::msghdr {
        self.point(buf)
    }

    /// Makes ready to send `buf` to `to`, cut into segments if a length is given.
    pub(super) fn send(&mut self, buf: Buf, segment_bytes: Option<u16>, to: SocketAddr) -> *const libc::msghdr {
        let to = socket2::SockAddr::from(to);
        self.point(buf);
        let name_bytes = (to.len() as usize).min(mem::size_of_val(&self.name));
        // SAFETY: `to` holds `len` bytes of an address, the storage has room for as many, and they are apart.
        unsafe { std::ptr::copy_nonoverlapping(to.as_ptr().cast::<u8>(), (&raw mut self.name).cast(), name_bytes) };
        self.header.msg_namelen = name_bytes as libc::socklen_t;
        match segment_bytes {
            None => {
                self.header.msg_control = std::ptr::null_mut();
                self.header.msg_controllen = 0;
            }
            Some(bytes) => {
                // SAFETY: computes a size.
                self.header.msg_controllen = unsafe { libc::CMSG_SPACE(mem::size_of::<u16>() as u32) } as _;
                // SAFETY: the header points at our control storage, whose length admits one message of two bytes and
                // whose alignment is that of `cmsghdr` or more.
                unsafe {
                    let message = libc::CMSG_FIRSTHDR(&raw const self.header);
                    (*message).cmsg_level = libc::SOL_UDP;
                    (*message).cmsg_type = libc::UDP_SEGMENT;
                    (*message).cmsg_len = libc::CMSG_LEN(mem::size_of::<u16>() as u32) as _;
                    libc::CMSG_DATA(message).cast::<u16>().write_unaligned(bytes);
                }
            }
        }
        &raw const self.header
    }

    /// What a finished receive says beside the bytes: sender, length of a segment (0: the kernel did not join any), and
    /// whether bytes were cut off.
    pub(super) fn received(&self) -> Received {
        let truncated = self.header.msg_flags & libc::MSG_TRUNC != 0;
        let mut segment_bytes = 0;
        // SAFETY: the kernel has filled the control storage and set its length; CMSG_FIRSTHDR and CMSG_NXTHDR stay
        // within it, and each message's data is read only if its length says that an int is there.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(&raw const self.header);
            while !message.is_null() {
                let int_len = libc::CMSG_LEN(mem::size_of::<libc::c_int>() as u32) as usize;
                if (*message).cmsg_level == libc::SOL_UDP
                    && (*message).cmsg_type == libc::UDP_GRO
                    && (*message).cmsg_len as usize >= int_len
                {
                    let bytes = libc::CMSG_DATA(message).cast::<libc::c_int>().read_unaligned();
                    segment_bytes = usize::try_from(bytes).unwrap_or(0);
                }
                message = libc::CMSG_NXTHDR(&raw const self.header, message);
            }
        }
        Received { from: self.sender(), segment_bytes, truncated }
    }

    fn sender(&self) -> Option<SocketAddr> {
        let len = (self.header.msg_namelen as usize).min(mem::size_of_val(&self.name));
        // SAFETY: the initialiser copies at most the storage's size of initialised bytes and says how many.
        let (_, address) = unsafe {
            socket2::SockAddr::try_init(|storage, storage_len| {
                std::ptr::copy_nonoverlapping((&raw const self.name).cast::<u8>(), storage.cast::<u8>(), len);
                *storage_len = len as libc::socklen_t;
                Ok(())
            })
        }
        .ok()?;
        address.as_socket()
    }
}

/// See [`Train::received`].
pub(super) struct Received {
    pub(super) from: Option<SocketAddr>,
    pub(super) segment_bytes: usize,
    pub(super) truncated: bool,
}

/// Storage of a gathered send or write.
pub(super) struct Batch {
    header: libc::msghdr,
    pieces: Vec<libc::iovec>,
    gather: Gather,
}

impl Batch {
    pub(super) fn new() -> Batch {
        // SAFETY: integers and null pointers: all zeroes is a value of this type.
        Batch { header: unsafe { mem::zeroed() }, pieces: Vec::new(), gather: Gather::new() }
    }

    /// Takes the list; gives header, pieces and their number for the kernel.
    pub(super) fn fill(&mut self, gather: Gather) -> (*const libc::msghdr, *const libc::iovec, u32) {
        self.gather = gather;
        self.gather.describe(&mut self.pieces);
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = self.pieces.len() as _;
        (&raw const self.header, self.pieces.as_ptr(), self.pieces.len() as u32)
    }

    /// Takes the list; gives the address and length of its only piece, or else the header for the kernel.
    pub(super) fn fill_one(&mut self, gather: Gather) -> Result<(*const u8, usize), *const libc::msghdr> {
        let (header, _, _) = self.fill(gather);
        match self.pieces.as_slice() {
            [piece] => Ok((piece.iov_base.cast_const().cast(), piece.iov_len)),
            _ => Err(header),
        }
    }

    /// Lets go of the pieces; gives the emptied list.
    pub(super) fn empty(&mut self) -> Gather {
        let mut gather = mem::take(&mut self.gather);
        gather.clear();
        gather
    }
}

/// The kernel's answer as a result.
pub(super) fn outcome(answer: i32) -> io::Result<u32> {
    u32::try_from(answer).map_err(|_| io::Error::from_raw_os_error(answer.wrapping_neg()))
}
