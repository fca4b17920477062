//! A bad network between two systems: a relay for datagrams that loses, delays, reorders and duplicates them.
//!
//! Each of the two systems is told that the other one lives at the relay. The relay draws every datagram's fate from a
//! seed, so that the same datagrams meet the same fates. It runs on one thread of its own; datagrams that come in
//! bursts are taken and passed on in batches, held back by a timer of a millisecond's grain.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinSet;

#[cfg(test)]
mod tests;

/// Socket buffers large enough for what comes while the relay's thread is not scheduled; the kernel may give less.
const SOCKET_BUFFER_BYTES: usize = 16 << 20;
/// Datagrams taken in one turn of a direction, so that neither starves the other.
const BATCH: usize = 256;
/// Datagrams that one direction holds at most; what comes beyond is dropped, as a router's queue would.
const HELD_MAX: usize = 1 << 16;
/// The largest UDP payload.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// What the relay does to datagrams. Shares are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// The share of datagrams that are lost.
    pub loss: f64,
    /// The share that is held back longer, so that later ones overtake.
    pub reorder: f64,
    /// The share that arrives twice.
    pub duplicate: f64,
    /// How long every datagram takes, each way.
    pub delay: Duration,
    /// What the fates are drawn from.
    pub seed: u64,
}

/// What the relay has done so far, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// Datagrams that came.
    pub frames: u64,
    /// Of those, dropped: drawn to be lost, or come after the cut, or beyond what the relay holds.
    pub dropped: u64,
    /// Of those, held back longer.
    pub reordered: u64,
    /// Of those, passed on twice.
    pub duplicated: u64,
}

#[derive(Default)]
struct Shared {
    frames: AtomicU64,
    dropped: AtomicU64,
    reordered: AtomicU64,
    duplicated: AtomicU64,
    cut: AtomicBool,
    stop: Notify,
}

/// A running relay. Dropping it stops it.
pub struct Relay {
    facing: [SocketAddr; 2],
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts a relay between `a` and `b`.
    ///
    /// # Errors
    ///
    /// If its sockets or its thread cannot be made.
    pub fn start(a: SocketAddr, b: SocketAddr, impairment: Impairment) -> io::Result<Relay> {
        Relay::of_strands(a, b, 1, impairment)
    }

    /// As [`Relay::start`], for links on several cores: between as many ports in a row from `a` on and from `b` on.
    ///
    /// # Errors
    ///
    /// As [`Relay::start`].
    pub fn of_strands(a: SocketAddr, b: SocketAddr, strands: u16, impairment: Impairment) -> io::Result<Relay> {
        let sides = [row(a, strands)?, row(b, strands)?];
        let facing = [sides[0][0].local_addr()?, sides[1][0].local_addr()?];
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("demo-relay".to_owned()).spawn(move || {
            runtime.block_on(async {
                let mut ways = JoinSet::new();
                let [here, there] = sides;
                for (strand, (a, b)) in here.into_iter().zip(there).enumerate() {
                    let [Ok(a), Ok(b)] = [a, b].map(|socket| UdpSocket::from_std(socket).map(Arc::new)) else {
                        tracing::error!("the relay cannot register its sockets; no datagram will pass");
                        return;
                    };
                    for (direction, from, to) in [(0, &a, &b), (1, &b, &a)] {
                        let fates = Fates::new(impairment, 2 * strand as u64 + direction);
                        let way = Way { fates, held: BinaryHeap::new(), taken: 0 };
                        ways.spawn(way.run(Arc::clone(from), Arc::clone(to), Arc::clone(&of_thread)));
                    }
                }
                of_thread.stop.notified().await;
            });
        })?;
        Ok(Relay { facing, shared, thread: Some(thread) })
    }

    /// Where the first system sends to reach the second.
    pub fn facing_a(&self) -> SocketAddr {
        self.facing[0]
    }

    /// Where the second system sends to reach the first.
    pub fn facing_b(&self) -> SocketAddr {
        self.facing[1]
    }

    /// Drops everything from now on.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::Relaxed);
    }

    /// Ends a cut.
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::Relaxed);
    }

    /// What it has done so far.
    pub fn counts(&self) -> RelayCounts {
        RelayCounts {
            frames: self.shared.frames.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            reordered: self.shared.reordered.load(Ordering::Relaxed),
            duplicated: self.shared.duplicated.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the relay's thread has been reported by itself.
            let _ = thread.join();
        }
    }
}

/// Sockets with ports in a row, connected to a peer's ports in a row from `peer` on.
fn row(peer: SocketAddr, length: u16) -> io::Result<Vec<std::net::UdpSocket>> {
    let along = |place: u16| SocketAddr::new(peer.ip(), peer.port().saturating_add(place));
    super::ports::row(length, |place, port| socket(along(place), port))
}

fn socket(peer: SocketAddr, port: u16) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    // Connecting chooses the address that the peer sees, which is the one that it is to send to.
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.connect(&peer.into())?;
    Ok(socket.into())
}

/// What becomes of one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lost,
    Passed { after: Duration, reordered: bool, again_after: Option<Duration> },
}

/// The fates of one direction's datagrams, one after the other.
struct Fates {
    impairment: Impairment,
    rng: SmallRng,
}

impl Fates {
    fn new(impairment: Impairment, direction: u64) -> Self {
        let rng = SmallRng::seed_from_u64(impairment.seed.wrapping_mul(2).wrapping_add(direction));
        Fates { impairment, rng }
    }

    fn draw(&mut self) -> Fate {
        let Impairment { loss, reorder, duplicate, delay, seed: _ } = self.impairment;
        let [lost, reordered, duplicated] = [loss, reorder, duplicate].map(|p| self.rng.random_bool(p.clamp(0.0, 1.0)));
        // Long enough that what comes in the next milliseconds overtakes.
        let extra = Duration::from_micros(self.rng.random_range(1_000..4_000)) + delay.mul_f64(self.rng.random());
        let again = delay + Duration::from_micros(self.rng.random_range(0..3_000));
        if lost {
            return Fate::Lost;
        }
        let after = if reordered { delay + extra } else { delay };
        Fate::Passed { after, reordered, again_after: duplicated.then_some(again) }
    }
}

/// A datagram on its way: ordered by when it is due, then by when it came.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    place: u64,
    bytes: Vec<u8>,
}

struct Way {
    fates: Fates,
    held: BinaryHeap<Reverse<Held>>,
    taken: u64,
}

impl Way {
    async fn run(mut self, from: Arc<UdpSocket>, to: Arc<UdpSocket>, shared: Arc<Shared>) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let due = self.held.peek().map(|Reverse(held)| held.due);
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                _ = from.readable() => {}
            }
            let now = Instant::now();
            for _ in 0..BATCH {
                match from.try_recv(&mut buffer) {
                    Ok(bytes) => self.take(buffer.get(..bytes).unwrap_or_default(), now, &shared),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The peer is not there (any more): what was sent to it is lost, as on any network.
                    Err(_) => {}
                }
            }
            self.pass(&to, now);
        }
    }

    fn take(&mut self, bytes: &[u8], now: Instant, shared: &Shared) {
        shared.frames.fetch_add(1, Ordering::Relaxed);
        let fate = self.fates.draw();
        let cut = shared.cut.load(Ordering::Relaxed);
        let Fate::Passed { after, reordered, again_after } = fate else {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if cut || self.held.len() >= HELD_MAX {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        shared.reordered.fetch_add(u64::from(reordered), Ordering::Relaxed);
        shared.duplicated.fetch_add(u64::from(again_after.is_some()), Ordering::Relaxed);
        for after in [Some(after), again_after].into_iter().flatten() {
            self.taken += 1;
            self.held.push(Reverse(Held { due: now + after, place: self.taken, bytes: bytes.to_vec() }));
        }
    }

    fn pass(&mut self, to: &UdpSocket, now: Instant) {
        while let Some(first) = self.held.peek_mut() {
            if first.0.due > now {
                break;
            }
            let Reverse(held) = std::collections::binary_heap::PeekMut::pop(first);
            // A full socket or an absent peer loses it.
            let _ = to.try_send(&held.bytes);
        }
    }
}
