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
const MEASURED: Duration = Duration::from_millis(1500);
const WARMUP: Duration = Duration::from_millis(200);
/// A command capsule and its response, a data header: NVMe/TCP 1.1, figures 10 to 14.
const CAPSULE_BYTES: usize = 72;
const RESPONSE_BYTES: usize = 24;
/// What the target takes inside of a capsule.
const IN_CAPSULE_BYTES: usize = 16 << 10;

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
#[derive(Clone, Debug, Serialize)]
pub struct TcpFloor {
    /// Exchanges per second.
    pub per_s: f64,
    /// From request to response, microseconds.
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
}

/// Requests and responses of these sizes over loopback, so many in flight, both ends polling; the far end on `far`.
///
/// # Errors
///
/// If there is no loopback.
pub fn tcp(sizes: Sizes, depth: usize, near: Option<usize>, far: Option<usize>) -> std::io::Result<TcpFloor> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = listener.local_addr()?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let other = std::thread::Builder::new().name("bench-floor".into()).spawn(move || {
        pin(far);
        answer(&listener, sizes, &stopped)
    })?;
    let outcome = on_a_thread(near, move || ask(to, sizes, depth));
    stop.store(true, Ordering::Relaxed);
    let far_end = other.join().unwrap_or_else(|_| Err(std::io::Error::other("the far end panicked")));
    let floor = outcome?;
    far_end?;
    Ok(floor)
}

fn on_a_thread<T: Send + 'static>(
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

fn answer(listener: &TcpListener, sizes: Sizes, stop: &AtomicBool) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut input = vec![0; 256 << 10];
    let response = vec![0x5a; sizes.response * 64];
    let (mut came, mut owed) = (0usize, 0usize);
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut input) {
            Ok(0) => return Ok(()),
            Ok(bytes) => {
                came += bytes;
                owed += came / sizes.request * sizes.response;
                came %= sizes.request;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if is_over(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        while owed > 0 {
            match stream.write(&response[..owed.min(response.len())]) {
                Ok(bytes) => owed -= bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if is_over(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Whoever asked has seen enough, and left answers unread.
fn is_over(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn ask(to: std::net::SocketAddr, sizes: Sizes, depth: usize) -> std::io::Result<TcpFloor> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let request = vec![0xa5; sizes.request * 64];
    let mut input = vec![0; 256 << 10];
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that hold");
    let mut sent_at = VecDeque::with_capacity(depth);
    let (mut to_send, mut came) = (0usize, 0usize);
    let begin = Instant::now();
    let (from, until) = (begin + WARMUP, begin + WARMUP + MEASURED);
    let mut count = 0u64;
    loop {
        let now = Instant::now();
        if now >= until {
            let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
            return Ok(TcpFloor { per_s: count as f64 / MEASURED.as_secs_f64(), p50_us: us(0.5), p99_us: us(0.99) });
        }
        while sent_at.len() < depth {
            sent_at.push_back(Instant::now());
            to_send += sizes.request;
        }
        while to_send > 0 {
            match stream.write(&request[..to_send.min(request.len())]) {
                Ok(bytes) => to_send -= bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        match stream.read(&mut input) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => came += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
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
        let floor = tcp(Sizes { request: 4168, response: 24 }, 8, None, None).unwrap();
        assert!(floor.per_s > 0.0 && floor.p50_us > 0.0 && floor.p50_us <= floor.p99_us, "{floor:?}");
    }
}
