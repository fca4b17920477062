//! One io_uring per core, through which disk, TCP and UDP all go in batches.
//!
//! Safe by ownership: an operation takes its buffers and a clone of its descriptor, keeps them until the kernel has let go
//! of them, and gives the buffer back in its [`Completion`]. Nothing that is submitted returns an error at once; what is
//! wrong with an operation comes back as its completion, so there is one path. Dropping the ring cancels and waits.

mod gather;
mod pool;
mod request;
mod storage;
#[cfg(all(test, not(loom)))]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use crate::arena::{Arena, Buf, Shared};
use crate::fd::Fd;
use crate::wake::Sleeper;
pub use gather::Gather;
pub use pool::POOL_BUFFERS_MAX;
use pool::Pool;
pub use request::{
    Completion, Durability, Fallocate, GATHER_PIECES_MAX, Mode, Pending, Poller, Receive, Returned, Shots, Shutdown,
    Submission, TRAIN_BYTES_MAX, TRAIN_DATAGRAMS_MAX, Turn, UringConfig, UringError,
};
use storage::{Batch, Stable, Train};

/// One core's ring. Not `Send`: it stays on the thread that made it.
pub struct Uring {
    /// Dropped before the storage below, but only after `Drop` has waited for the kernel to let go of it.
    ring: IoUring,
    mode: Mode,
    /// Operations that the kernel has or that wait for a place in the queue, by the key that is their `user_data`.
    slots: Slab<Slot>,
    /// Entries that found the submission queue full, oldest first.
    backlog: VecDeque<squeue::Entry>,
    /// Operations refused before they reached the kernel.
    refused: Vec<Completion>,
    wake: Option<Wake>,
    trains: Vec<Stable<Train>>,
    batches: Vec<Stable<Batch>>,
    looks: Vec<Stable<libc::statx>>,
    gathers: Vec<Gather>,
    /// What pooled receives are put into. After `ring`: dropped when the kernel knows of it no more.
    pool: Option<Pool>,
    /// Slots that owe the caller a completion.
    owed: usize,
    enters: u64,
    /// `io_uring` belongs to the thread that made it (SINGLE_ISSUER).
    _not_send: PhantomData<*mut ()>,
}

/// The read of the wake-up's event descriptor: always in flight or queued, save while the ring is dropped.
struct Wake {
    event: Fd,
    count: Stable<[u8; 8]>,
    armed: bool,
}

struct Slot {
    token: u64,
    /// Kept open while the operation is in flight.
    fd: Fd,
    op: Op,
}

/// What an operation in flight keeps alive.
enum Op {
    /// Nothing but the descriptor.
    Plain,
    Accept,
    Buf(Buf),
    /// A receive from the pool: what it puts bytes into is there.
    Pooled,
    Shared(Shared),
    SendTrain(Stable<Train>),
    RecvTrain(Stable<Train>),
    Batch(Stable<Batch>),
    Look(Stable<libc::statx>),
    /// A cancellation: no completion of its own for the caller.
    Cancel,
}

/// `user_data` of the wake-up's read; no slot has it.
const WAKE: u64 = u64::MAX;
/// `user_data` of the cancellation at the end.
const FAREWELL: u64 = u64::MAX - 1;
/// Emptied storage that is kept for reuse, of each kind.
const POOL_MAX: usize = 4096;
/// The most bytes the kernel moves in one operation.
const TRANSFER_BYTES_MAX: usize = 0x7fff_f000;
/// How long a dropped ring waits for its operations before it rather leaks what they use.
const FAREWELL_TIME: Duration = Duration::from_secs(30);

impl Uring {
    /// Makes a ring for the calling thread; a wait then also ends when `sleeper` is woken.
    pub fn new(config: UringConfig, sleeper: Option<&Sleeper>) -> Result<Uring, UringError> {
        let polled = |processor| move |source| UringError::Polled { processor, source };
        let mut uring = match config.submission {
            Submission::Polled { processor, .. } => Uring::in_mode(Mode::Polled, &config).map_err(polled(processor))?,
            Submission::PolledBy(_) => Uring::in_mode(Mode::Polled, &config).map_err(polled(None))?,
            Submission::Enter => Uring::in_mode(Mode::Deferred, &config)
                .or_else(|_| Uring::in_mode(Mode::Cooperative, &config))
                .or_else(|_| Uring::in_mode(Mode::Plain, &config))
                .map_err(|source| UringError::Setup { entries: config.entries, source })?,
        };
        uring.wake =
            sleeper.map(|sleeper| Wake { event: sleeper.event().clone(), count: Stable::new([0; 8]), armed: false });
        uring.arm_wake();
        Ok(uring)
    }

    fn in_mode(mode: Mode, config: &UringConfig) -> io::Result<Uring> {
        let entries = config.entries;
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_submit_all().setup_cqsize(entries.saturating_mul(4).max(1));
        match mode {
            Mode::Deferred => _ = builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag(),
            Mode::Cooperative => _ = builder.setup_coop_taskrun().setup_taskrun_flag(),
            Mode::Plain => {}
            // The two taskrun modes exclude polling (EINVAL).
            Mode::Polled => match &config.submission {
                Submission::Polled { processor, idle } => {
                    builder.setup_sqpoll(u32::try_from(idle.as_millis()).unwrap_or(u32::MAX));
                    processor.map(|processor| builder.setup_sqpoll_cpu(processor));
                }
                // The thread's own idle time stays: the kernel takes the greatest that any of its rings asked for.
                Submission::PolledBy(poller) => _ = builder.setup_sqpoll(0).setup_attach_wq(poller.ring.raw()),
                Submission::Enter => {}
            },
        }
        let ring = builder.build(entries)?;
        let entries = ring.params().sq_entries() as usize;
        Ok(Uring {
            ring,
            mode,
            slots: Slab::with_capacity(entries),
            backlog: VecDeque::with_capacity(entries),
            refused: Vec::new(),
            wake: None,
            trains: Vec::new(),
            batches: Vec::new(),
            looks: Vec::new(),
            gathers: Vec::new(),
            pool: None,
            owed: 0,
            enters: 0,
            _not_send: PhantomData,
        })
    }

    /// How completions are run here.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The thread that polls for this ring; `None` if none does.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn poller(&self) -> io::Result<Option<Poller>> {
        if self.mode != Mode::Polled {
            return Ok(None);
        }
        // SAFETY: the ring's descriptor is open as long as `self` is.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        Ok(Some(Poller { ring: Fd::from(ring.try_clone_to_owned()?) }))
    }

    /// Reads into all of `buf` from `offset` of a file or device. Fewer bytes than that: the end of the file, or an error
    /// behind them, which [`Uring::read_rest`] from there on tells.
    pub fn read(&mut self, token: u64, fd: &Fd, buf: Buf, offset: u64) {
        self.read_rest(token, fd, buf, 0, offset);
    }

    /// Reads into `buf` but for its first `skip_bytes`, which stay; `offset` is where the rest begins.
    pub fn read_rest(&mut self, token: u64, fd: &Fd, mut buf: Buf, skip_bytes: usize, offset: u64) {
        let len = buf.len();
        let Some(part) = buf.get_mut(skip_bytes..) else {
            let why = format!("read behind the first {skip_bytes} bytes of a buffer of {len}");
            return self.refuse(token, why, Returned::Buf(buf));
        };
        let (address, len) = (part.as_mut_ptr(), length(part.len()));
        let entry = opcode::Read::new(target(fd), address, len).offset(offset).build();
        self.start(token, fd, Op::Buf(buf), entry);
    }

    /// Writes all of `bytes` at `offset`. Fewer than that: write the rest to learn why.
    pub fn write(&mut self, token: u64, fd: &Fd, bytes: Shared, offset: u64, durability: Durability) {
        let entry = opcode::Write::new(target(fd), bytes.as_ptr(), length(bytes.len()))
            .offset(offset)
            .rw_flags(durability.flags())
            .build();
        self.start(token, fd, Op::Shared(bytes), entry);
    }

    /// Writes the pieces one after the other from `offset` on. The pieces are let go of when it completes.
    pub fn write_gather(&mut self, token: u64, fd: &Fd, gather: Gather, offset: u64, durability: Durability) {
        let Some(gather) = self.fitting(token, gather) else { return };
        let mut batch = self.batches.pop().unwrap_or_else(|| Stable::new(Batch::new()));
        let (_, pieces, count) = batch.get().fill(gather);
        let entry = opcode::Writev::new(target(fd), pieces, count).offset(offset).rw_flags(durability.flags()).build();
        self.start(token, fd, Op::Batch(batch), entry);
    }

    /// Makes completed writes durable (fdatasync). Covers no write that is still in flight.
    pub fn sync(&mut self, token: u64, fd: &Fd) {
        let entry = opcode::Fsync::new(target(fd)).flags(types::FsyncFlags::DATASYNC).build();
        self.start(token, fd, Op::Plain, entry);
    }

    /// Looks at what became of a medium, as [`file::standing`](crate::file::standing) does with a system call of its own.
    pub fn standing(&mut self, token: u64, fd: &Fd) {
        let look = self.looks.pop().unwrap_or_else(storage::look);
        let entry = opcode::Statx::new(target(fd), c"".as_ptr(), look.as_ptr().cast())
            .flags(libc::AT_EMPTY_PATH)
            .mask(libc::STATX_TYPE | libc::STATX_NLINK | libc::STATX_SIZE)
            .build();
        self.start(token, fd, Op::Look(look), entry);
    }

    /// Deallocates or zeroes a range of a file or block device. Both keep the file's size.
    pub fn fallocate(&mut self, token: u64, fd: &Fd, how: Fallocate, offset: u64, bytes: u64) {
        let mode = libc::FALLOC_FL_KEEP_SIZE
            | match how {
                Fallocate::PunchHole => libc::FALLOC_FL_PUNCH_HOLE,
                Fallocate::ZeroRange => libc::FALLOC_FL_ZERO_RANGE,
            };
        let entry = opcode::Fallocate::new(target(fd), bytes).offset(offset).mode(mode).build();
        self.start(token, fd, Op::Plain, entry);
    }

    /// Accepts connections until [`cancel`](Uring::cancel)led or failed: one completion each, with `more` set while it
    /// goes on.
    pub fn accept(&mut self, token: u64, listener: &Fd) {
        let entry = opcode::AcceptMulti::new(target(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.start(token, listener, Op::Accept, entry);
    }

    /// Receives from a TCP connection into `range` of `buf`, which must lie within the bytes in view. 0 bytes (of a range
    /// that is not empty): the peer has ended the stream.
    pub fn recv(&mut self, token: u64, fd: &Fd, mut buf: Buf, range: Range<usize>, receive: Receive) {
        let len = buf.len();
        let Some(part) = buf.get_mut(range.clone()) else {
            let why = format!("receive into bytes {range:?} of a buffer of {len}");
            return self.refuse(token, why, Returned::Buf(buf));
        };
        let (address, len) = (part.as_mut_ptr(), length(part.len()));
        let flags = match receive {
            Receive::Some => 0,
            Receive::All => libc::MSG_WAITALL,
        };
        let entry = opcode::Recv::new(target(fd), address, len).flags(flags).build();
        self.start(token, fd, Op::Buf(buf), entry);
    }

    /// Makes the pool that [`Uring::recv_pooled`] receives into: `buffers` of `bytes` each, of `arena`. Few that are used again soon
    /// stay in the caches; more do not make anything faster.
    ///
    /// # Errors
    /// The kernel has no such pools (Linux 5.19) or no multishot receives (6.0), there is one already, or the arena has no memory for
    /// it. The ring is as before; receive into buffers of your own then.
    pub fn make_pool(&mut self, arena: &Arena, buffers: usize, bytes: usize) -> io::Result<()> {
        let refused = |kind, why: &str| io::Error::new(kind, why.to_owned());
        if self.pool.is_some() || !(1..=POOL_BUFFERS_MAX).contains(&buffers) {
            return Err(refused(io::ErrorKind::InvalidInput, "a ring has one pool, of 1 to 32768 buffers"));
        }
        let short = || refused(io::ErrorKind::OutOfMemory, "the arena has no memory for a pool of buffers");
        let mut pool = Pool::new(arena.alloc(Pool::entries_bytes(buffers)).ok_or_else(short)?, buffers, bytes);
        for _ in 0..buffers {
            if pool.give(arena.alloc(bytes).ok_or_else(short)?).is_err() {
                break;
            }
        }
        let (entries, count) = pool.registration();
        // SAFETY: the entries lie in a buffer of the arena that the pool keeps, and so does `self` until the ring is gone, or for
        // ever (see `Drop`); they are `count` and begin at a page.
        unsafe { self.ring.submitter().register_buf_ring_with_flags(entries, count, pool::GROUP, 0) }?;
        self.pool = Some(pool);
        Ok(())
    }

    /// Buffers that are in the pool for the kernel to take; `None` without one.
    pub fn pooled(&self) -> Option<usize> {
        self.pool.as_ref().map(Pool::len)
    }

    /// Receives from a TCP connection into buffers of the pool, taken when something has come; each comes back in a completion of
    /// its own, what was received in view. [`Shots::Many`] goes on (`more`) until it is [taken back](Uring::take_back), the stream
    /// ends (0 bytes, no buffer), it fails, or the pool is empty: `ENOBUFS`, whereupon nothing is lost that the socket has.
    /// Give buffers back with [`Uring::give_back`].
    ///
    /// A ring without a pool answers `ENOBUFS` too.
    pub fn recv_pooled(&mut self, token: u64, fd: &Fd, shots: Shots) -> Pending {
        let entry = match shots {
            Shots::Many => opcode::RecvMulti::new(target(fd), pool::GROUP).build(),
            Shots::One { bytes_max } => opcode::Recv::new(target(fd), std::ptr::null_mut(), length(bytes_max))
                .buf_group(pool::GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        };
        Pending { token, key: self.start(token, fd, Op::Pooled, entry) }
    }

    /// Has the kernel end a pooled receive: its last completion says `ECANCELED` unless it ended by itself before. What the
    /// socket has by then stays there; buffers filled before come first.
    pub fn take_back(&mut self, pending: &Pending) {
        // The number may be another operation's by now.
        let Some(slot) = self.slots.get(pending.key).filter(|slot| slot.token == pending.token) else { return };
        let fd = slot.fd.clone();
        let which = types::CancelBuilder::user_data(pending.key as u64);
        let entry = opcode::AsyncCancel2::new(which).build();
        self.start(0, &fd, Op::Cancel, entry);
    }

    /// Gives a buffer of the pool back, or another in its stead: all of it is for receives again. Dropped if the pool is full, there
    /// is none, or the buffer is smaller than those of the pool.
    pub fn give_back(&mut self, buf: Buf) {
        if let Some(pool) = &mut self.pool {
            drop(pool.give(buf));
        }
    }

    /// Sends all pieces on a TCP connection, in order, in one operation. At most one send per connection may be in flight
    /// or their bytes may mix. Fewer bytes than asked for: the connection has failed meanwhile. The pieces are let go of when
    /// it completes.
    pub fn send(&mut self, token: u64, fd: &Fd, gather: Gather) {
        let Some(gather) = self.fitting(token, gather) else { return };
        let mut batch = self.batches.pop().unwrap_or_else(|| Stable::new(Batch::new()));
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let entry = match batch.get().fill_one(gather) {
            // Spares the kernel to copy and look through the two lists.
            Ok((address, bytes)) => opcode::Send::new(target(fd), address, length(bytes)).flags(flags).build(),
            Err(header) => opcode::SendMsg::new(target(fd), header).flags(flags as u32).build(),
        };
        self.start(token, fd, Op::Batch(batch), entry);
    }

    /// Receives one train of datagrams from a UDP socket into all of `buf` (make it 64 KiB: what does not fit is lost and
    /// the completion says EMSGSIZE).
    pub fn recv_train(&mut self, token: u64, fd: &Fd, buf: Buf) {
        let mut train = self.trains.pop().unwrap_or_else(|| Stable::new(Train::new()));
        let header = train.get().receive(buf);
        let entry = opcode::RecvMsg::new(target(fd), header).build();
        self.start(token, fd, Op::RecvTrain(train), entry);
    }

    /// Sends all of `train` to `to` as datagrams of `segment_bytes` each, the last may be shorter. At most
    /// [`TRAIN_DATAGRAMS_MAX`] datagrams and [`TRAIN_BYTES_MAX`] bytes.
    pub fn send_train(&mut self, token: u64, fd: &Fd, train: Buf, segment_bytes: usize, to: SocketAddr) {
        let bytes = train.len();
        let datagrams = bytes.checked_div(segment_bytes).map_or(usize::MAX, |_| bytes.div_ceil(segment_bytes));
        if bytes == 0 || bytes > TRAIN_BYTES_MAX || datagrams > TRAIN_DATAGRAMS_MAX {
            let why = format!(
                "train of {bytes} bytes in datagrams of {segment_bytes}: give 1 to {TRAIN_BYTES_MAX} bytes in at most \
                 {TRAIN_DATAGRAMS_MAX} datagrams"
            );
            return self.refuse(token, why, Returned::Buf(train));
        }
        // A train longer than one datagram has segments below 64 KiB, so the length fits.
        let segment = if datagrams > 1 { u16::try_from(segment_bytes).ok() } else { None };
        let mut storage = self.trains.pop().unwrap_or_else(|| Stable::new(Train::new()));
        let header = storage.get().send(train, segment, to);
        let entry = opcode::SendMsg::new(target(fd), header).flags(libc::MSG_NOSIGNAL as u32).build();
        self.start(token, fd, Op::SendTrain(storage), entry);
    }

    /// Completes when there is something to be read, at once if there already is.
    pub fn poll_readable(&mut self, token: u64, fd: &Fd) {
        let entry = opcode::PollAdd::new(target(fd), libc::POLLIN as u32).build();
        self.start(token, fd, Op::Plain, entry);
    }

    /// Sends nothing, without waiting: what has a raw socket's driver look at what is to be sent.
    pub fn nudge_send(&mut self, token: u64, fd: &Fd) {
        let entry = opcode::Send::new(target(fd), std::ptr::null(), 0).flags(libc::MSG_DONTWAIT).build();
        self.start(token, fd, Op::Plain, entry);
    }

    /// Receives nothing, without waiting: what has a raw socket's driver look at where it may put what comes.
    pub fn nudge_receive(&mut self, token: u64, fd: &Fd) {
        let entry = opcode::Recv::new(target(fd), std::ptr::null_mut(), 0).flags(libc::MSG_DONTWAIT).build();
        self.start(token, fd, Op::Plain, entry);
    }

    /// Ends one or both directions of a TCP connection; receives in flight complete with 0 bytes.
    pub fn shutdown(&mut self, token: u64, fd: &Fd, how: Shutdown) {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        let entry = opcode::Shutdown::new(target(fd), how).build();
        self.start(token, fd, Op::Plain, entry);
    }

    /// Asks the kernel to end every operation in flight on `fd` early. Each still completes, most with `ECANCELED`; the
    /// request itself has no completion.
    pub fn cancel(&mut self, fd: &Fd) {
        let which = types::CancelBuilder::fd(target(fd)).all();
        let entry = opcode::AsyncCancel2::new(which).build();
        self.start(0, fd, Op::Cancel, entry);
    }

    /// An empty list with the storage of one sent before.
    pub fn gather(&mut self) -> Gather {
        self.gathers.pop().unwrap_or_default()
    }

    /// Submits what was queued and appends completions to `out`, with at most one `io_uring_enter`.
    ///
    /// `wait: None` never blocks, and calls the kernel only if there is something to submit or the kernel asks for it; a
    /// polled ring ([`Submission::Polled`]) not even to submit while its thread is awake.
    /// `Some(time)` blocks until a completion, a wake-up or the end of that time, unless there are completions already.
    /// Read the clock after this, not before.
    ///
    /// # Errors
    /// Only if the ring itself is broken; an operation's error is in its completion.
    pub fn submit_and_reap(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<Turn> {
        let before = out.len();
        out.append(&mut self.refused);
        let mut turn = Turn { woken: self.reap(out), ..Turn::default() };
        self.queue_backlog();
        let queue = self.ring.submission();
        let (queued, mut asked) = (queue.len(), queue.taskrun() || queue.cq_overflow());
        asked |= match self.mode {
            // The tail was published before this; the fence between the two is in `need_wakeup`.
            Mode::Polled => queued > 0 && queue.need_wakeup(),
            _ => queued > 0,
        };
        drop(queue);
        // What found a polled queue full fits in a moment, and nothing tells when.
        let may_wait = out.len() == before && !turn.woken && self.backlog.is_empty();
        let wait = wait.filter(|time| !time.is_zero() && may_wait);
        if asked || wait.is_some() {
            self.enter(queued as u32, wait)?;
            turn.entered = true;
            turn.woken |= self.reap(out);
        }
        turn.completions = out.len() - before;
        Ok(turn)
    }

    /// Operations that owe a completion (an `accept` counts as long as it goes on).
    pub fn in_flight(&self) -> usize {
        self.owed
    }

    /// `io_uring_enter` calls since the start.
    pub fn enters(&self) -> u64 {
        self.enters
    }

    /// Hands an operation over: the slot first, so that what `entry` points at is kept until its last completion.
    fn start(&mut self, token: u64, fd: &Fd, op: Op, entry: squeue::Entry) -> usize {
        self.owed += usize::from(!matches!(op, Op::Cancel));
        let key = self.slots.insert(Slot { token, fd: fd.clone(), op });
        self.queue(entry.user_data(key as u64));
        key
    }

    /// Every entry that gets here points only at what its slot, or `wake`, keeps.
    fn queue(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() {
            // SAFETY: what the entry points at is kept at its address by its slot (or by `wake`) until the kernel's last
            // completion for it: buffers by `Buf` and `Shared`, all else by `Stable`; `Drop` waits for that or leaks.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    fn queue_backlog(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as in `queue`.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    fn refuse(&mut self, token: u64, why: String, returned: Returned) {
        let result = Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        self.refused.push(Completion { token, result, returned, from: None, segment_bytes: 0, more: false });
    }

    fn fitting(&mut self, token: u64, gather: Gather) -> Option<Gather> {
        let (pieces, bytes) = (gather.pieces(), gather.len());
        if pieces <= GATHER_PIECES_MAX && bytes <= TRANSFER_BYTES_MAX {
            return Some(gather);
        }
        let why = format!("{bytes} bytes in {pieces} pieces: give at most {TRANSFER_BYTES_MAX} in {GATHER_PIECES_MAX}");
        self.refuse(token, why, Returned::Nothing);
        None
    }

    /// The one system call of a turn.
    fn enter(&mut self, submit: u32, wait: Option<Duration>) -> io::Result<()> {
        self.enters += 1;
        let submitter = self.ring.submitter();
        let done = match wait {
            None if self.mode == Mode::Polled => submitter.submit(),
            // SAFETY: no argument is passed; the entries up to `submit` were pushed under the promise in `queue`.
            None => unsafe { submitter.enter::<libc::sigset_t>(submit, 0, EnterFlags::GETEVENTS.bits(), None) },
            Some(time) => {
                let time = types::Timespec::from(time);
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&time))
            }
        };
        match done {
            Ok(_) => Ok(()),
            // Out of time, interrupted by a signal, or short of memory for now: the next turn goes on.
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Moves completions from the kernel's queue to `out`; says whether a wake-up was among them.
    fn reap(&mut self, out: &mut Vec<Completion>) -> bool {
        let mut woken = false;
        loop {
            // One at a time: handling may queue entries. The queue's head is stored at each drop of the borrow.
            let Some(entry) = self.ring.completion().next() else { break };
            let (answer, flags) = (entry.result(), entry.flags());
            match entry.user_data() {
                WAKE => {
                    woken = true;
                    if let Some(wake) = &mut self.wake {
                        wake.armed = false;
                    }
                }
                FAREWELL => {}
                key => out.extend(self.complete(key as usize, answer, flags)),
            }
        }
        if woken {
            self.arm_wake();
        }
        woken
    }

    fn complete(&mut self, key: usize, answer: i32, flags: u32) -> Option<Completion> {
        let mut result = storage::outcome(answer);
        // Out of the pool, whatever becomes of the operation.
        let pooled = cqueue::buffer_select(flags)
            .and_then(|number| self.pool.as_mut()?.take(number, result.as_ref().map_or(0, |bytes| *bytes as usize)))
            .map_or(Returned::Nothing, Returned::Buf);
        if cqueue::more(flags) {
            // Only accepts and pooled receives are asked for more than one completion.
            let Slot { token, op, .. } = self.slots.get(key)?;
            let token = *token;
            return Some(match op {
                Op::Pooled => received(token, result, pooled, true),
                _ => accepted(token, result, true),
            });
        }
        let Slot { token, fd, op } = self.slots.try_remove(key)?;
        drop(fd);
        self.owed -= usize::from(!matches!(op, Op::Cancel));
        let (mut from, mut segment_bytes) = (None, 0);
        let returned = match op {
            Op::Plain => Returned::Nothing,
            Op::Accept => return Some(accepted(token, result, false)),
            Op::Pooled => return Some(received(token, result, pooled, false)),
            Op::Buf(buf) => Returned::Buf(buf),
            Op::Shared(shared) => Returned::Shared(shared),
            Op::SendTrain(mut train) => {
                let buf = train.get().buf.take();
                keep(&mut self.trains, train);
                buf.map_or(Returned::Nothing, Returned::Buf)
            }
            Op::RecvTrain(mut train) => {
                if let Ok(bytes) = result {
                    let received = train.get().received();
                    from = received.from;
                    segment_bytes = match received.segment_bytes {
                        0 => bytes as usize,
                        bytes => bytes,
                    };
                    if received.truncated {
                        result = Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
                    }
                }
                let buf = train.get().buf.take();
                keep(&mut self.trains, train);
                buf.map_or(Returned::Nothing, Returned::Buf)
            }
            Op::Batch(mut batch) => {
                keep(&mut self.gathers, batch.get().empty());
                keep(&mut self.batches, batch);
                Returned::Nothing
            }
            Op::Look(mut look) => {
                let standing = storage::standing(look.get());
                keep(&mut self.looks, look);
                Returned::Standing(standing)
            }
            Op::Cancel => return None,
        };
        Some(Completion { token, result, returned, from, segment_bytes, more: false })
    }

    fn arm_wake(&mut self) {
        let Some(wake) = &mut self.wake else { return };
        let entry = opcode::Read::new(target(&wake.event), wake.count.as_ptr().cast(), 8).build().user_data(WAKE);
        wake.armed = true;
        self.queue(entry);
    }
}

impl Drop for Uring {
    /// Cancels and waits. A device that never answers must not hold the process for ever: after some time what its
    /// operations use is leaked instead.
    fn drop(&mut self) {
        for entry in std::mem::take(&mut self.backlog) {
            // Never seen by the kernel.
            match entry.get_user_data() {
                WAKE => self.wake = None,
                key => drop(self.slots.try_remove(key as usize)),
            }
        }
        let deadline = std::time::Instant::now() + FAREWELL_TIME;
        let farewell = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build().user_data(FAREWELL);
        self.queue(farewell);
        let mut out = Vec::new();
        // Not `reap`: it would arm the wake-up anew.
        while !self.slots.is_empty() || self.wake.as_ref().is_some_and(|wake| wake.armed) {
            self.queue_backlog();
            let queued = self.ring.submission().len() as u32;
            let broken = self.enter(queued, Some(Duration::from_millis(100))).is_err();
            loop {
                let Some(entry) = self.ring.completion().next() else { break };
                match entry.user_data() {
                    WAKE => self.wake = None,
                    FAREWELL => {}
                    key => out.extend(self.complete(key as usize, entry.result(), entry.flags())),
                }
            }
            out.clear();
            if broken || std::time::Instant::now() > deadline {
                std::mem::forget(std::mem::take(&mut self.slots));
                std::mem::forget(self.pool.take());
                std::mem::forget(self.wake.take());
                return;
            }
        }
    }
}

fn target(fd: &Fd) -> types::Fd {
    types::Fd(fd.raw())
}

/// A length as the kernel takes it; it moves no more than this at once, and the completion says how much it moved.
fn length(bytes: usize) -> u32 {
    bytes.min(TRANSFER_BYTES_MAX) as u32
}

fn accepted(token: u64, result: io::Result<u32>, more: bool) -> Completion {
    let (result, returned) = match result {
        Ok(raw) => {
            // SAFETY: the kernel has just made this descriptor for us and told nobody else.
            let fd = unsafe { OwnedFd::from_raw_fd(raw as RawFd) };
            (Ok(0), Returned::Accepted(Fd::from(fd)))
        }
        Err(error) => (Err(error), Returned::Nothing),
    };
    Completion { token, result, returned, from: None, segment_bytes: 0, more }
}

fn received(token: u64, result: io::Result<u32>, returned: Returned, more: bool) -> Completion {
    Completion { token, result, returned, from: None, segment_bytes: 0, more }
}

fn keep<T>(pool: &mut Vec<T>, item: T) {
    if pool.len() < POOL_MAX {
        pool.push(item);
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("mode", &self.mode).field("in_flight", &self.owed).finish()
    }
}
