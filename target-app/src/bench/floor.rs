//! What this machine can do at all: the same bytes over bare TCP with the same polling, a copy in memory, datagrams. A figure
//! means something only beside the floor that was measured in the same run.

use super::workload::Workload;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::VecDeque;
use std::hint::black_box;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long each is measured.
const MEASURED: Duration = Duration::from_millis(1000);
const WARMUP: Duration = Duration::from_millis(200);
/// A command capsule and its response, a data header: NVMe/TCP 1.1, figures 10 to 14.
const CAPSULE_BYTES: usize = 72;
const RESPONSE_BYTES: usize = 24;
/// What the target takes inside of a capsule.
const IN_CAPSULE_BYTES: usize = 16 << 10;
/// What one read takes at most.
const INPUT_BYTES: usize = 256 << 10;

/// The sizes that one command moves over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// From the host.
    pub request: usize,
    /// To the host.
    pub response: usize,
}

impl Sizes {
    /// Of a workload's commands; a mix counts as what it mostly is. A write that does not fit into its capsule takes two
    /// exchanges; here it is one, which is what no target can do.
    pub fn of(workload: &Workload) -> Sizes {
        let data = workload.block_bytes as usize;
        if workload.read_percent >= 50 {
            return Sizes { request: CAPSULE_BYTES, response: RESPONSE_BYTES + data };
        }
        let header = if data > IN_CAPSULE_BYTES { CAPSULE_BYTES + RESPONSE_BYTES } else { CAPSULE_BYTES };
        Sizes { request: header + data, response: RESPONSE_BYTES }
    }
}

/// What bare TCP did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TcpFloor {
    /// Exchanges per second, each request and each response sent by a call of its own.
    pub per_s: f64,
    /// From request to response, microseconds.
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
    /// Exchanges per second if all that is due goes with one call: the same bytes, but no longer a reply for each request. At
    /// depth 1 there is no difference.
    pub together_per_s: f64,
    /// Nothing but data, one way, in pieces of a command's, MiB per second.
    pub stream_mib_per_s: f64,
}

/// How what is due is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calls {
    /// A call for each message.
    Each,
    /// One for all that is due.
    Together,
}

/// Requests and responses of these sizes over loopback, so many in flight, both ends polling; the far end on `far`. Then
/// `data` bytes at a time, one way.
///
/// # Errors
///
/// If there is no loopback.
pub fn tcp(
    sizes: Sizes,
    depth: usize,
    data: usize,
    near: Option<usize>,
    far: Option<usize>,
) -> std::io::Result<TcpFloor> {
    let each = exchanges(sizes, depth, Calls::Each, near, far)?;
    let together = match depth {
        1 => each.per_s,
        _ => exchanges(sizes, depth, Calls::Together, near, far)?.per_s,
    };
    let stream_mib_per_s = with_far_end(near, far, drain, move |stream| flood(stream, data))?;
    let us = |quantile| each.latencies.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(TcpFloor { per_s: each.per_s, p50_us: us(0.5), p99_us: us(0.99), together_per_s: together, stream_mib_per_s })
}

struct Exchanged {
    per_s: f64,
    latencies: Histogram<u64>,
}

fn exchanges(
    sizes: Sizes,
    depth: usize,
    calls: Calls,
    near: Option<usize>,
    far: Option<usize>,
) -> std::io::Result<Exchanged> {
    let answering = move |stream, stop: &AtomicBool| answer(stream, sizes, calls, stop);
    with_far_end(near, far, answering, move |stream| ask(stream, sizes, depth, calls))
}

/// A connection over loopback with `there` at its far end until `here` is done.
fn with_far_end<T: Send + 'static>(
    near: Option<usize>,
    far: Option<usize>,
    there: impl FnOnce(TcpStream, &AtomicBool) -> std::io::Result<()> + Send + 'static,
    here: impl FnOnce(TcpStream) -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let polled = |stream: TcpStream| -> std::io::Result<TcpStream> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let near_end = polled(TcpStream::connect(listener.local_addr()?)?)?;
    let far_end = polled(listener.accept()?.0)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let other = std::thread::Builder::new().name("bench-floor".into()).spawn(move || {
        pin(far);
        there(far_end, &stopped)
    })?;
    let outcome = on_a_thread(near, move || here(near_end));
    stop.store(true, Ordering::Relaxed);
    let far_end = other.join().unwrap_or_else(|_| Err(std::io::Error::other("the far end panicked")));
    let outcome = outcome?;
    far_end?;
    Ok(outcome)
}

/// Runs `work` on a thread of its own, on that processor.
pub fn on_a_thread<T: Send + 'static>(
    processor: Option<usize>,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let run = move || {
        pin(processor);
        work()
    };
    let thread = std::thread::Builder::new().name("bench-floor".into()).spawn(run)?;
    thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread of the floor panicked")))
}

/// Where a thread runs is a wish: a floor without it is still one.
pub fn pin(processor: Option<usize>) {
    if let Some(processor) = processor {
        let _ = longrun_hal::affinity::pin_current_thread(processor);
    }
}

/// What is still to be sent of messages that are all alike.
struct Due {
    message_bytes: usize,
    calls: Calls,
    bytes: usize,
    messages: Vec<u8>,
}

impl Due {
    fn new(message_bytes: usize, calls: Calls) -> Due {
        Due { message_bytes, calls, bytes: 0, messages: vec![0xa5; message_bytes * 64] }
    }

    fn add(&mut self, messages: usize) {
        self.bytes += messages * self.message_bytes;
    }

    /// Sends what the socket takes. False: the other end is gone.
    fn send(&mut self, stream: &mut impl Write) -> std::io::Result<bool> {
        while self.bytes > 0 {
            let bytes = match self.calls {
                // What is left of the one that was begun.
                Calls::Each => (self.bytes - 1) % self.message_bytes + 1,
                Calls::Together => self.bytes.min(self.messages.len()),
            };
            match stream.write(&self.messages[..bytes]) {
                Ok(bytes) => self.bytes -= bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if is_over(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Reads what there is; `None`: the other end is gone.
fn take(stream: &mut TcpStream, input: &mut [u8]) -> std::io::Result<Option<usize>> {
    match stream.read(input) {
        Ok(0) => Ok(None),
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Some(0)),
        Err(error) if is_over(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whoever asked has seen enough, and left answers unread.
fn is_over(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn answer(mut stream: TcpStream, sizes: Sizes, calls: Calls, stop: &AtomicBool) -> std::io::Result<()> {
    let mut input = vec![0; INPUT_BYTES];
    let mut due = Due::new(sizes.response, calls);
    let mut came = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(bytes) = take(&mut stream, &mut input)? else { return Ok(()) };
        came += bytes;
        due.add(came / sizes.request);
        came %= sizes.request;
        if !due.send(&mut stream)? {
            return Ok(());
        }
    }
    Ok(())
}

fn ask(mut stream: TcpStream, sizes: Sizes, depth: usize, calls: Calls) -> std::io::Result<Exchanged> {
    let mut input = vec![0; INPUT_BYTES];
    let mut due = Due::new(sizes.request, calls);
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that hold");
    let mut sent_at = VecDeque::with_capacity(depth);
    let mut came = 0;
    let begin = Instant::now();
    let (from, until) = (begin + WARMUP, begin + WARMUP + MEASURED);
    let mut count = 0u64;
    while Instant::now() < until {
        while sent_at.len() < depth {
            sent_at.push_back(Instant::now());
            due.add(1);
        }
        let is_there = due.send(&mut stream)?;
        let Some(bytes) = take(&mut stream, &mut input)?.filter(|_| is_there) else {
            return Err(ErrorKind::UnexpectedEof.into());
        };
        came += bytes;
        let ended = Instant::now();
        while came >= sizes.response {
            came -= sizes.response;
            let Some(at) = sent_at.pop_front() else { break };
            if ended >= from {
                latencies.saturating_record(((ended - at).as_nanos() as u64).max(1));
                count += 1;
            }
        }
    }
    Ok(Exchanged { per_s: count as f64 / MEASURED.as_secs_f64(), latencies })
}

/// Takes all that comes.
fn drain(mut stream: TcpStream, stop: &AtomicBool) -> std::io::Result<()> {
    let mut input = vec![0; INPUT_BYTES];
    while !stop.load(Ordering::Relaxed) {
        if take(&mut stream, &mut input)?.is_none() {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends for a while; MiB per second.
fn flood(mut stream: TcpStream, piece_bytes: usize) -> std::io::Result<f64> {
    let piece = vec![0xa5; piece_bytes];
    let begin = Instant::now();
    let (from, until) = (begin + WARMUP, begin + WARMUP + MEASURED);
    let (mut sent, mut measured) = (0, 0);
    loop {
        let now = Instant::now();
        if now >= until {
            return Ok(measured as f64 / MEASURED.as_secs_f64() / f64::from(1u32 << 20));
        }
        match stream.write(&piece[sent..]) {
            Ok(bytes) => {
                sent = (sent + bytes) % piece_bytes;
                measured += if now >= from { bytes } else { 0 };
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// What the machine does without a network protocol.
#[derive(Clone, Debug, Serialize)]
pub struct MachineFloor {
    /// Copying 4 KiB within 64 MiB, so that the caches do not help, GiB/s.
    pub memcpy_gib_per_s: f64,
    /// One datagram of 1,400 bytes for each system call, over loopback, thousands per second that arrive.
    pub udp_k_per_s: f64,
}

/// Measures it.
///
/// # Errors
///
/// If there is no loopback.
pub fn machine(near: Option<usize>, far: Option<usize>) -> std::io::Result<MachineFloor> {
    let memcpy_gib_per_s = on_a_thread(near, || Ok(memcpy()))?;
    Ok(MachineFloor { memcpy_gib_per_s, udp_k_per_s: udp(near, far)? / 1e3 })
}

fn memcpy() -> f64 {
    const BLOCK: usize = 4096;
    const BYTES: usize = 64 << 20;
    let (from, mut to) = (vec![1u8; BYTES], vec![2u8; BYTES]);
    let begin = Instant::now();
    let (mut copied, mut place) = (0usize, 0usize);
    while begin.elapsed() < Duration::from_millis(500) {
        for _ in 0..1024 {
            // A stride that is odd in blocks: every block, no two after one another.
            place = (place + 6151 * BLOCK) % BYTES;
            to[place..place + BLOCK].copy_from_slice(&from[place..place + BLOCK]);
        }
        black_box(&mut to);
        copied += 1024 * BLOCK;
    }
    copied as f64 / begin.elapsed().as_secs_f64() / f64::from(1u32 << 30)
}

fn udp(near: Option<usize>, far: Option<usize>) -> std::io::Result<f64> {
    const BYTES: usize = 1400;
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    receiver.set_nonblocking(true)?;
    let to = receiver.local_addr()?;
    let until = Instant::now() + Duration::from_millis(700);
    let sender = std::thread::Builder::new().name("bench-floor".into()).spawn(move || {
        pin(near);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let datagram = [7u8; BYTES];
        while Instant::now() < until {
            for _ in 0..32 {
                socket.send_to(&datagram, to)?;
            }
        }
        std::io::Result::Ok(())
    })?;
    let count = on_a_thread(far, move || {
        let (mut input, mut count) = ([0u8; BYTES], 0u64);
        let begin = Instant::now();
        while Instant::now() < until {
            match receiver.recv(&mut input) {
                Ok(_) => count += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    })?;
    sender.join().unwrap_or_else(|_| Err(std::io::Error::other("the sender panicked")))?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_moves_what_a_command_moves() {
        let write = Workload::default();
        assert_eq!(Sizes::of(&write), Sizes { request: 4168, response: 24 });
        let read = Workload { read_percent: 70, ..Workload::default() };
        assert_eq!(Sizes::of(&read), Sizes { request: 72, response: 4120 });
        let large = Workload { block_bytes: 128 << 10, ..Workload::default() };
        assert_eq!(Sizes::of(&large), Sizes { request: 96 + (128 << 10), response: 24 });
    }

    #[test]
    fn bare_tcp_answers_each_request_once() {
        let floor = tcp(Sizes { request: 4168, response: 24 }, 8, 4096, None, None).unwrap();
        assert!(floor.per_s > 0.0 && floor.p50_us > 0.0 && floor.p50_us <= floor.p99_us, "{floor:?}");
        assert!(floor.together_per_s > 0.0 && floor.stream_mib_per_s > 0.0, "{floor:?}");
    }

    /// Takes 70 bytes at first, then all; remembers each call.
    #[derive(Default)]
    struct Socket(Vec<usize>);

    impl Write for Socket {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let most = if self.0.is_empty() { 70 } else { usize::MAX };
            self.0.push(bytes.len().min(most));
            Ok(bytes.len().min(most))
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_message_has_a_call_of_its_own_or_all_go_together() {
        for (calls, seen) in [(Calls::Each, vec![70, 30, 100, 100]), (Calls::Together, vec![70, 230])] {
            let (mut due, mut socket) = (Due::new(100, calls), Socket::default());
            due.add(3);
            assert!(due.send(&mut socket).unwrap());
            assert_eq!((socket.0, due.bytes), (seen, 0), "{calls:?}");
        }
    }
}
