//! Raw frames: one queue of a network interface, past the kernel's network stack (AF_XDP, Documentation/networking/af_xdp.rst).
//!
//! The arena *is* the socket's memory (UMEM): what is sent leaves from the buffer it was written into, and frames are received
//! into buffers of the arena. A [program](program) on the interface hands the link's datagrams to this socket, and everything
//! else to the kernel as ever.
//!
//! Zero copy where the driver can; else the kernel copies each frame once, in the driver's native mode or, where it has none,
//! in the generic one ([`XdpMode`]). A frame longer than one chunk is several descriptors (XDP_USE_SG).
//!
//! Sending ends with a call to the kernel that says so ([`Xdp::wants_nudge`]); it goes through the core's io_uring with
//! everything else, so that a polled ring makes no system call for it. Receiving makes none at all; who wants to sleep has
//! the ring wait for [`Xdp::fd`] to be readable.
//!
//! Given up: several sockets on one queue, frames received into the buffer of their record (the kernel chooses the chunk).

mod error;
mod open;
mod program;
mod rings;
#[cfg(all(test, not(loom)))]
mod tests;

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arena::{Arena, Buf, Region};
use crate::fd::Fd;
use crate::frame::{HEADER_BYTES, IP_UDP_BYTES};
use crate::net::Interface;

pub use error::XdpError;
use open::{BUSY_PAUSE, Opening, get_option};
use program::{Place, Program};
use rings::{Consumer, Producer};

/// What a buffer handed to [`Xdp::send`] may be at most, and the size of those received into. The arena aligns them to it.
pub const BLOCK_BYTES: usize = 64 << 10;
/// What the kernel keeps free before a received frame (XDP_PACKET_HEADROOM).
const KERNEL_HEADROOM_BYTES: usize = 256;
/// Chunks of the UMEM: one frame of 1500 bytes, or a page, beyond which the kernel refuses.
const CHUNK_BYTES_SMALL: usize = 2048;
const CHUNK_BYTES_LARGE: usize = 4096;
/// Entries of each ring.
const RING_ENTRIES: u32 = 4096;
/// Memory to receive into.
const RECEIVE_BLOCKS: usize = 64;
/// Memory of the arena that a socket receives into.
pub const RECEIVE_BYTES: usize = RECEIVE_BLOCKS * BLOCK_BYTES;
/// How long memory rests after its socket was closed: see [`Farewell`].
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_WITHIN: Duration = Duration::from_secs(60);

/// What an operator chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpConfig {
    /// The network interface.
    pub interface: String,
    /// Its queue, from 0.
    pub queue: u32,
    /// What datagrams are for this socket: their destination.
    pub local: SocketAddrV4,
    /// The longest UDP payload.
    pub payload_bytes_max: usize,
    /// Call the kernel only if it says that it waits for it (XDP_USE_NEED_WAKEUP); else it looks by itself, or the driver
    /// keeps a core busy looking.
    pub need_wakeup: bool,
    /// Poll the driver for so long in each such call, instead of waiting for its interrupt (SO_PREFER_BUSY_POLL).
    pub busy_poll_us: Option<u32>,
}

/// Who moves a frame between the interface and the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// The interface, by DMA.
    ZeroCopy,
    /// The kernel copies it, within the driver.
    Copy,
    /// The kernel copies it, behind the driver.
    Generic,
}

/// The kernel's counters of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpStats {
    /// Frames lost because they were too long or came while the socket was not ready.
    pub dropped: u64,
    /// Frames lost because the receive ring was full.
    pub ring_full: u64,
    /// Frames lost because there was no memory to receive into.
    pub no_memory: u64,
    /// Descriptors that the kernel refused.
    pub refused: u64,
}

/// How datagrams lie in a buffer that is sent: each in a place of its own, headers before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spacing {
    /// Before each payload.
    pub headroom_bytes: usize,
    /// From one frame's beginning to the next one's.
    pub stride_bytes: usize,
}

/// Frames in a buffer, one each stride from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// How many.
    pub count: usize,
    /// How long each is, headers included, but the last.
    pub bytes: usize,
    /// How long the last one is.
    pub last_bytes: usize,
}

/// A buffer that the kernel sends from, by its block.
struct Sending {
    _buf: Buf,
    /// Descriptors that have not come back.
    descriptors: usize,
}

/// One open queue. Made anywhere, then used by one thread.
pub struct Xdp {
    interface: Interface,
    config: XdpConfig,
    mode: XdpMode,
    spacing: Spacing,
    chunk_bytes: usize,
    /// Multi-buffer frames were granted.
    scattered: bool,
    region: Region,
    transmit: Producer<libc::xdp_desc>,
    completion: Consumer<u64>,
    fill: Producer<u64>,
    receive: Consumer<libc::xdp_desc>,
    program: Arc<Program>,
    /// Frees what follows when the kernel has let go of it.
    farewell: Farewell,
    /// Parts of a frame that came in several.
    scratch: Vec<u8>,
}

/// What the kernel may write to or read from as long as the socket is open. It gives up a socket when the last reference goes:
/// ours, and those of operations of a ring, which may hold one for a moment after they completed. So all this outlives the
/// close by [`FAREWELL`], on a thread of its own.
struct Farewell {
    /// `None` only while this is dropped.
    fd: Option<Fd>,
    /// Where frames are received, by block of the region.
    receiving: Vec<Option<Buf>>,
    /// By block of the region.
    sending: Vec<Option<Sending>>,
}

impl Xdp {
    /// Opens a queue with this arena as its memory. May take a second for a large arena, whose pages all come to stay: not for
    /// a reactor's thread. Nothing is received before [`Xdp::fill`].
    ///
    /// # Errors
    /// What stands in the way, with what mends it.
    pub fn open(region: &Region, config: XdpConfig) -> Result<Xdp, XdpError> {
        let interface = Interface::look(&config.interface).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                XdpError::NoInterface { given: config.interface.clone(), there: Interface::names().join(", ") }
            }
            _ => XdpError::Os { doing: "look", interface: config.interface.clone(), source: error },
        })?;
        let frame_bytes = HEADER_BYTES + config.payload_bytes_max;
        if let Some(error) = XdpError::beforehand(&interface, config.queue, IP_UDP_BYTES + config.payload_bytes_max) {
            return Err(error);
        }
        let fits = frame_bytes <= CHUNK_BYTES_SMALL - KERNEL_HEADROOM_BYTES;
        let chunk_bytes = if fits { CHUNK_BYTES_SMALL } else { CHUNK_BYTES_LARGE };
        let scattered = frame_bytes > chunk_bytes - KERNEL_HEADROOM_BYTES;
        let opening = Opening { interface: &interface, config: &config };
        let socket = opening.socket()?;
        let raw = socket.as_raw_fd();
        opening.register(raw, region, chunk_bytes)?;
        let offsets = opening.rings(raw)?;
        let program = opening.program()?;
        let zero_copy = opening.bind(raw, &program, scattered)?;
        let mode = match program.place() {
            _ if zero_copy => XdpMode::ZeroCopy,
            Place::Driver => XdpMode::Copy,
            Place::Generic => XdpMode::Generic,
        };
        let map = |source| opening.os("map the rings", source);
        let transmit = Producer::map(raw, RING_ENTRIES, libc::XDP_PGOFF_TX_RING, &offsets.tx).map_err(map)?;
        let receive = Consumer::map(raw, RING_ENTRIES, libc::XDP_PGOFF_RX_RING, &offsets.rx).map_err(map)?;
        let page = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
        let fill = Producer::map(raw, RING_ENTRIES, page, &offsets.fr).map_err(map)?;
        let page = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;
        let completion = Consumer::map(raw, RING_ENTRIES, page, &offsets.cr).map_err(map)?;
        program.add(config.local, config.queue, raw).map_err(|source| match source.raw_os_error() {
            Some(libc::EEXIST) => XdpError::QueueTaken { interface: interface.name.clone(), queue: config.queue },
            _ => opening.os("register the socket", source),
        })?;
        let blocks = region.bytes() / BLOCK_BYTES;
        Ok(Xdp {
            spacing: Spacing { headroom_bytes: HEADER_BYTES, stride_bytes: frame_bytes.next_multiple_of(chunk_bytes) },
            mode,
            chunk_bytes,
            scattered,
            region: region.clone(),
            transmit,
            completion,
            fill,
            receive,
            program,
            farewell: Farewell {
                fd: Some(Fd::from(socket)),
                receiving: (0..blocks).map(|_| None).collect(),
                sending: (0..blocks).map(|_| None).collect(),
            },
            scratch: Vec::new(),
            interface,
            config,
        })
    }

    /// The interface, as it was when this was opened.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// As opened.
    pub fn config(&self) -> &XdpConfig {
        &self.config
    }

    /// Who moves frames.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// How frames must lie in a buffer to be sent.
    pub fn spacing(&self) -> Spacing {
        self.spacing
    }

    /// The socket, for a ring to wait on, to nudge, or to cancel.
    pub fn fd(&self) -> Option<&Fd> {
        self.farewell.fd.as_ref()
    }

    /// Takes memory to receive into, once.
    ///
    /// # Errors
    /// There is none at all. A little is enough to go on with.
    pub fn fill(&mut self, arena: &Arena) -> Result<(), XdpError> {
        for _ in 0..RECEIVE_BLOCKS {
            let Some(buf) = arena.alloc(BLOCK_BYTES) else { break };
            let Some(block) = self.block_of(&buf) else { break };
            let first = (block * BLOCK_BYTES) as u64;
            for chunk in 0..BLOCK_BYTES / self.chunk_bytes {
                // There are no more chunks than the ring has places.
                self.fill.put(first + (chunk * self.chunk_bytes) as u64);
            }
            self.farewell.receiving[block] = Some(buf);
        }
        self.fill.publish();
        if self.farewell.receiving.iter().all(Option::is_none) {
            return Err(XdpError::Memory { bytes: BLOCK_BYTES });
        }
        Ok(())
    }

    /// Which block of the region a buffer is, if it is one.
    fn block_of(&self, buf: &Buf) -> Option<usize> {
        let offset = self.region.offset(buf)?;
        (offset.is_multiple_of(BLOCK_BYTES)
            && buf.capacity() <= BLOCK_BYTES
            && offset + BLOCK_BYTES <= self.region.bytes())
        .then_some(offset / BLOCK_BYTES)
    }

    /// Frames to be received now.
    pub fn available(&self) -> usize {
        self.receive.available() as usize
    }

    /// Gives up to `at_most` descriptors' frames to `each`, in their order, and their memory back to the kernel. Returns how
    /// many descriptors those were. A frame that came in parts is put together first, which is a copy.
    pub fn receive(&mut self, at_most: usize, mut each: impl FnMut(&mut [u8])) -> usize {
        let mut taken = 0;
        while taken < at_most
            && let Some(descriptor) = self.receive.take()
        {
            taken += 1;
            let continues = descriptor.options & libc::XDP_PKT_CONTD != 0;
            if let Some(part) = received(&self.region, &mut self.farewell.receiving, self.chunk_bytes, &descriptor) {
                match (continues, self.scratch.is_empty()) {
                    (false, true) => each(part),
                    _ => {
                        self.scratch.extend_from_slice(part);
                        if !continues {
                            each(&mut self.scratch);
                            self.scratch.clear();
                        }
                    }
                }
                // A place for each chunk.
                self.fill.put(descriptor.addr - descriptor.addr % self.chunk_bytes as u64);
            } else if !continues {
                self.scratch.clear();
            }
        }
        if taken > 0 {
            self.receive.release();
            self.fill.publish();
        }
        taken
    }

    /// Queues the frames of a buffer of [`BLOCK_BYTES`] at most, which lie as [`Xdp::spacing`] says. The kernel sends them
    /// when it is [nudged](Xdp::wants_nudge); the buffer goes back to its arena when it is done.
    ///
    /// # Errors
    /// The buffer, if there is no room for all of its frames now, or they do not lie in it, or it is not of this arena.
    pub fn send(&mut self, buf: Buf, frames: Frames) -> Result<(), Buf> {
        let Frames { count, bytes, last_bytes } = frames;
        let parts = |bytes: usize| bytes.div_ceil(self.chunk_bytes);
        let stride = self.spacing.stride_bytes;
        let within = count > 0
            && (1..=stride).contains(&bytes)
            && (1..=bytes).contains(&last_bytes)
            && (count - 1).checked_mul(stride).is_some_and(|before| before + last_bytes <= buf.capacity())
            && (self.scattered || bytes <= self.chunk_bytes);
        let Some(block) = self.block_of(&buf).filter(|_| within) else { return Err(buf) };
        let descriptors = (count - 1) * parts(bytes) + parts(last_bytes);
        if (self.transmit.room() as usize) < descriptors || self.farewell.sending[block].is_some() {
            return Err(buf);
        }
        let first = (block * BLOCK_BYTES) as u64;
        for frame in 0..count {
            let mut left = if frame + 1 == count { last_bytes } else { bytes };
            let mut addr = first + (frame * stride) as u64;
            while left > 0 {
                let part = left.min(self.chunk_bytes);
                left -= part;
                let options = if left > 0 { libc::XDP_PKT_CONTD } else { 0 };
                self.transmit.put(libc::xdp_desc { addr, len: part as u32, options });
                addr += part as u64;
            }
        }
        self.farewell.sending[block] = Some(Sending { _buf: buf, descriptors });
        self.transmit.publish();
        Ok(())
    }

    /// Frees the buffers that were sent. To be called in every turn.
    pub fn reclaim(&mut self) {
        let mut any = false;
        while let Some(addr) = self.completion.take() {
            any = true;
            let slot = usize::try_from(addr).ok().and_then(|addr| self.farewell.sending.get_mut(addr / BLOCK_BYTES));
            let Some(slot) = slot else { continue };
            if let Some(sending) = slot {
                sending.descriptors -= 1;
                if sending.descriptors == 0 {
                    *slot = None;
                }
            }
        }
        if any {
            self.completion.release();
        }
    }

    /// Descriptors that the kernel has not taken yet.
    pub fn unsent(&self) -> usize {
        self.transmit.waiting() as usize
    }

    /// Whether the kernel waits to be told that there is something to send ([`Uring::nudge_send`](crate::Uring::nudge_send)).
    pub fn wants_nudge(&self) -> bool {
        self.unsent() > 0
            && (!self.config.need_wakeup || self.config.busy_poll_us.is_some() || self.transmit.wants_call())
    }

    /// Whether the kernel waits to be told that there is memory to receive into
    /// ([`Uring::nudge_receive`](crate::Uring::nudge_receive)).
    pub fn wants_receive_nudge(&self) -> bool {
        // Where it copies it takes memory when a frame comes.
        self.mode == XdpMode::ZeroCopy && self.config.need_wakeup && self.fill.wants_call()
    }

    /// A way to the kernel's counters, for another thread.
    pub fn gauge(&self) -> XdpGauge {
        XdpGauge(self.farewell.fd.clone())
    }
}

/// Reads the kernel's counters of a socket. Keeps it open.
#[derive(Clone, Debug)]
pub struct XdpGauge(Option<Fd>);

impl XdpGauge {
    /// The counters now. A system call.
    pub fn stats(&self) -> XdpStats {
        // SAFETY: integers only: all zeroes is a value.
        let mut counts: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        let Some(fd) = &self.0 else { return XdpStats::default() };
        // Fails on no open socket.
        let _ = get_option(fd.raw(), libc::XDP_STATISTICS, &mut counts);
        XdpStats {
            dropped: counts.rx_dropped,
            ring_full: counts.rx_ring_full,
            no_memory: counts.rx_fill_ring_empty_descs,
            refused: counts.rx_invalid_descs + counts.tx_invalid_descs,
        }
    }
}

/// The bytes of a received descriptor, if they lie within one chunk that was given to receive into.
fn received<'a>(
    region: &'a Region,
    receiving: &'a mut [Option<Buf>],
    chunk_bytes: usize,
    descriptor: &libc::xdp_desc,
) -> Option<&'a mut [u8]> {
    debug_assert!(region.bytes() / BLOCK_BYTES == receiving.len());
    let (addr, len) = (usize::try_from(descriptor.addr).ok()?, descriptor.len as usize);
    if addr % chunk_bytes + len > chunk_bytes {
        return None;
    }
    receiving.get_mut(addr / BLOCK_BYTES)?.as_mut()?;
    // Only this part of the block is referred to: the kernel may be writing to its others.
    // SAFETY: the bytes are within one chunk and so within a block of the region that we hold, for nothing else than this,
    // and that stays mutably borrowed as long as the slice. The kernel has given the chunk back, and gets it again only after
    // that.
    Some(unsafe { std::slice::from_raw_parts_mut(region.base().add(addr), len) })
}

impl Drop for Xdp {
    fn drop(&mut self) {
        self.program.remove(self.config.local, self.config.queue);
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let kept = (self.fd.take(), std::mem::take(&mut self.receiving), std::mem::take(&mut self.sending));
        // Where there is no thread to be had, all of it stays the kernel's: leaked, not reused.
        let kept = ManuallyDrop::new(kept);
        let _ = std::thread::Builder::new().name("xdp-farewell".to_owned()).spawn(move || {
            let (mut fd, receiving, sending) = ManuallyDrop::into_inner(kept);
            let until = Instant::now() + FAREWELL_WITHIN;
            while let Some(shared) = fd.take() {
                match shared.try_into_owned() {
                    Ok(owned) => drop(owned),
                    // Operations of a ring hold it still.
                    Err(shared) if Instant::now() < until => {
                        fd = Some(shared);
                        std::thread::sleep(BUSY_PAUSE);
                    }
                    Err(_) => {
                        std::mem::forget((receiving, sending));
                        return;
                    }
                }
            }
            std::thread::sleep(FAREWELL);
            drop((receiving, sending));
        });
    }
}

impl std::fmt::Debug for Xdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Xdp").field("config", &self.config).field("mode", &self.mode).finish()
    }
}
