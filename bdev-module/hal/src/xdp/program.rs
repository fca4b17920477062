//! The program on an interface that hands a link's datagrams to its socket and leaves all else to the kernel, ARP above all.
//!
//! Assembled here, instruction by instruction, and loaded by `bpf(2)`: no C compiler, no ELF file. In words:
//!
//! ```text
//! a whole IPv4 header of five words, UDP, no fragment?           else: to the kernel
//! queue = links[destination address and port]                    none: to the kernel
//! queue == the queue that it came by                             else: to the kernel, whose UDP socket has it
//! redirect to sockets[queue]
//! ```
//!
//! An interface takes one program, so all links on it share one, with an entry in its two maps each. The kernel takes it off
//! when the last descriptor closes, however the process ends.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

// linux/bpf.h
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_ATTACH_TYPE_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_NOEXIST: u64 = 1;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const HELPER_MAP_LOOKUP: i32 = 1;
const HELPER_REDIRECT_MAP: i32 = 51;
const XDP_PASS: i32 = 2;
// linux/if_link.h
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Queues that a program knows.
pub(super) const QUEUES_MAX: u32 = 1024;
/// Links on one interface.
const LINKS_MAX: u32 = 1024;

/// Where on the way of a packet the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the driver.
    Driver,
    /// In the kernel's generic code, behind the driver.
    Generic,
}

/// A program on an interface.
pub(super) struct Program {
    interface: u32,
    /// Interfaces of different network namespaces may have the same number.
    namespace: u64,
    place: Place,
    sockets: OwnedFd,
    links: OwnedFd,
    /// Takes the program off when it closes.
    _attachment: OwnedFd,
}

/// The programs of this process.
static PROGRAMS: Mutex<Vec<Weak<Program>>> = Mutex::new(Vec::new());

impl Program {
    /// The program of an interface, put on it if this is its first link.
    pub(super) fn on(interface: u32) -> io::Result<Arc<Program>> {
        let namespace = namespace()?;
        let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
        programs.retain(|program| program.strong_count() > 0);
        let there = programs.iter().filter_map(Weak::upgrade);
        if let Some(program) = there.into_iter().find(|p| (p.interface, p.namespace) == (interface, namespace)) {
            return Ok(program);
        }
        let sockets = create_map(BPF_MAP_TYPE_XSKMAP, 4, QUEUES_MAX)?;
        let links = create_map(BPF_MAP_TYPE_HASH, 8, LINKS_MAX)?;
        let code = assemble(sockets.as_raw_fd(), links.as_raw_fd());
        let loaded = load(&code)?;
        let (attachment, place) = match attach(&loaded, interface, XDP_FLAGS_DRV_MODE) {
            Ok(attachment) => (attachment, Place::Driver),
            // Not busy, not forbidden: the driver cannot.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE)) => {
                (attach(&loaded, interface, XDP_FLAGS_SKB_MODE)?, Place::Generic)
            }
            Err(error) => return Err(error),
        };
        let program = Arc::new(Program { interface, namespace, place, sockets, links, _attachment: attachment });
        programs.push(Arc::downgrade(&program));
        Ok(program)
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Sends the datagrams to `local` that come by `queue` to `socket`. `EEXIST` if there is such a link.
    pub(super) fn add(&self, local: SocketAddrV4, queue: u32, socket: RawFd) -> io::Result<()> {
        update(&self.sockets, &queue.to_ne_bytes(), &socket.to_ne_bytes(), 0)?;
        update(&self.links, &key(local), &queue.to_ne_bytes(), BPF_NOEXIST).inspect_err(|_| {
            let _ = delete(&self.sockets, &queue.to_ne_bytes());
        })
    }

    /// Leaves them to the kernel again.
    pub(super) fn remove(&self, local: SocketAddrV4, queue: u32) {
        // What is not there need not be removed.
        let _ = delete(&self.links, &key(local));
        let _ = delete(&self.sockets, &queue.to_ne_bytes());
    }
}

/// What tells this thread's network namespace from others.
fn namespace() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// A destination as the program sees it on the wire: address, port, two bytes of nothing.
fn key(local: SocketAddrV4) -> [u8; 8] {
    let [a, b, c, d] = local.ip().octets();
    let [e, f] = local.port().to_be_bytes();
    [a, b, c, d, e, f, 0, 0]
}

/// One instruction (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const _: () = assert!(size_of::<Instruction>() == 8);

/// An instruction, or a jump out whose length is not known yet.
#[derive(Clone, Copy)]
enum Step {
    Plain(Instruction),
    /// To the end, where the packet is left to the kernel.
    PassIf(Instruction),
}

fn step(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Step {
    Step::Plain(Instruction { code, registers: from << 4 | to, offset, immediate })
}

fn pass_if(code: u8, to: u8, from: u8, immediate: i32) -> Step {
    Step::PassIf(Instruction { code, registers: from << 4 | to, offset: 0, immediate })
}

/// The program's text; the maps are named by descriptor.
fn assemble(sockets: RawFd, links: RawFd) -> Vec<Instruction> {
    // Operations of the kernel's Documentation/bpf/standardization/instruction-set.rst.
    const MOVE: u8 = 0xbf;
    const MOVE_IMMEDIATE: u8 = 0xb7;
    const ADD_IMMEDIATE: u8 = 0x07;
    const AND_IMMEDIATE: u8 = 0x57;
    const LOAD_8: u8 = 0x71;
    const LOAD_16: u8 = 0x69;
    const LOAD_32: u8 = 0x61;
    const STORE_32: u8 = 0x63;
    const LOAD_MAP: u8 = 0x18;
    const IF_GREATER: u8 = 0x2d;
    const IF_NOT: u8 = 0x55;
    const IF_DIFFERENT: u8 = 0x5d;
    const IF_EQUAL: u8 = 0x15;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    // What a load of two bytes of the wire gives on this machine.
    let wire = |bytes: [u8; 2]| i32::from(u16::from_ne_bytes(bytes));
    let steps = [
        // r6 = context; r2..r3 = packet; 42 bytes of headers.
        step(MOVE, 6, 1, 0, 0),
        step(LOAD_32, 2, 1, 0, 0),
        step(LOAD_32, 3, 1, 4, 0),
        step(MOVE, 4, 2, 0, 0),
        step(ADD_IMMEDIATE, 4, 0, 0, 42),
        pass_if(IF_GREATER, 4, 3, 0),
        // EtherType.
        step(LOAD_16, 5, 2, 12, 0),
        pass_if(IF_NOT, 5, 0, wire([0x08, 0x00])),
        // Version 4, five words.
        step(LOAD_8, 5, 2, 14, 0),
        pass_if(IF_NOT, 5, 0, 0x45),
        // More fragments, or not the first one.
        step(LOAD_16, 5, 2, 20, 0),
        step(AND_IMMEDIATE, 5, 0, 0, wire([0x3f, 0xff])),
        pass_if(IF_NOT, 5, 0, 0),
        // UDP.
        step(LOAD_8, 5, 2, 23, 0),
        pass_if(IF_NOT, 5, 0, 17),
        // The key, on the stack.
        step(LOAD_32, 5, 2, 30, 0),
        step(STORE_32, 10, 5, -8, 0),
        step(LOAD_16, 5, 2, 36, 0),
        step(STORE_32, 10, 5, -4, 0),
        step(LOAD_MAP, 1, BPF_PSEUDO_MAP_FD, 0, links),
        step(0, 0, 0, 0, 0),
        step(MOVE, 2, 10, 0, 0),
        step(ADD_IMMEDIATE, 2, 0, 0, -8),
        step(CALL, 0, 0, 0, HELPER_MAP_LOOKUP),
        pass_if(IF_EQUAL, 0, 0, 0),
        // rx_queue_index is the fifth word of the context.
        step(LOAD_32, 2, 6, 16, 0),
        step(LOAD_32, 1, 0, 0, 0),
        pass_if(IF_DIFFERENT, 1, 2, 0),
        step(LOAD_MAP, 1, BPF_PSEUDO_MAP_FD, 0, sockets),
        step(0, 0, 0, 0, 0),
        step(MOVE_IMMEDIATE, 3, 0, 0, XDP_PASS),
        step(CALL, 0, 0, 0, HELPER_REDIRECT_MAP),
        step(EXIT, 0, 0, 0, 0),
        // The end of all that is not for a link.
        step(MOVE_IMMEDIATE, 0, 0, 0, XDP_PASS),
        step(EXIT, 0, 0, 0, 0),
    ];
    let pass_at = steps.len() - 2;
    let place = |(at, step)| match step {
        Step::Plain(instruction) => instruction,
        // A jump counts from the instruction behind it.
        Step::PassIf(jump) => Instruction { offset: (pass_at - at - 1) as i16, ..jump },
    };
    steps.into_iter().enumerate().map(place).collect()
}

/// The part of `union bpf_attr` that is used here: 32-bit words, with 64-bit ones at even places.
#[derive(Default)]
#[repr(C, align(8))]
struct Attributes([u32; 32]);

impl Attributes {
    fn set(&mut self, word: usize, value: u32) {
        self.0[word] = value;
    }

    fn set_wide(&mut self, word: usize, value: u64) {
        let [low, high] = [value as u32, (value >> 32) as u32];
        let halves = if cfg!(target_endian = "little") { [low, high] } else { [high, low] };
        self.0[word..word + 2].copy_from_slice(&halves);
    }

    /// # Safety
    /// Every address among the attributes has to be valid for what the command does with it.
    unsafe fn call(&self, command: libc::c_int) -> io::Result<libc::c_long> {
        // SAFETY: the attributes are as long as is said, unknown ones are zero; for the addresses the caller vouches.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const self.0, size_of::<Attributes>()) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
    }

    /// As [`Attributes::call`], for commands that make a descriptor.
    ///
    /// # Safety
    /// As there.
    unsafe fn open(&self, command: libc::c_int) -> io::Result<OwnedFd> {
        // SAFETY: the caller vouches.
        let fd = unsafe { self.call(command)? };
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made it for us and told nobody else.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn create_map(kind: u32, key_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    for (word, value) in [kind, key_bytes, 4, entries].into_iter().enumerate() {
        attributes.set(word, value);
    }
    // SAFETY: no addresses.
    unsafe { attributes.open(BPF_MAP_CREATE) }
}

fn update(map: &OwnedFd, key: &[u8], value: &[u8; 4], flags: u64) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes.set(0, map.as_raw_fd() as u32);
    attributes.set_wide(2, key.as_ptr() as u64);
    attributes.set_wide(4, value.as_ptr() as u64);
    attributes.set_wide(6, flags);
    // SAFETY: key and value are as long as the map was made for, and live during the call.
    unsafe { attributes.call(BPF_MAP_UPDATE_ELEM) }.map(drop)
}

fn delete(map: &OwnedFd, key: &[u8]) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes.set(0, map.as_raw_fd() as u32);
    attributes.set_wide(2, key.as_ptr() as u64);
    // SAFETY: as in `update`.
    unsafe { attributes.call(BPF_MAP_DELETE_ELEM) }.map(drop)
}

fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attributes = Attributes::default();
    attributes.set(0, BPF_PROG_TYPE_XDP);
    attributes.set(1, code.len() as u32);
    attributes.set_wide(2, code.as_ptr() as u64);
    attributes.set_wide(4, license.as_ptr() as u64);
    // No log: level, size, address. Then the kernel's version, of no meaning any more.
    attributes.set(11, BPF_F_XDP_HAS_FRAGS);
    for (word, part) in (12..16).zip(b"longrun\0\0\0\0\0\0\0\0\0".as_chunks::<4>().0) {
        attributes.set(word, u32::from_ne_bytes(*part));
    }
    attributes.set(17, BPF_ATTACH_TYPE_XDP);
    // SAFETY: the instructions and the licence live during the call, and are as long as is said.
    unsafe { attributes.open(BPF_PROG_LOAD) }
}

fn attach(program: &OwnedFd, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes.set(0, program.as_raw_fd() as u32);
    attributes.set(1, interface);
    attributes.set(2, BPF_ATTACH_TYPE_XDP);
    attributes.set(3, flags);
    // SAFETY: no addresses.
    unsafe { attributes.open(BPF_LINK_CREATE) }
}
