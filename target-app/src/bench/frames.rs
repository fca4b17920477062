//! What a link's datagrams could do at best: a bare sender and a bare receiver of the same size on the same way, trains and
//! all, with nothing to say to each other.

use super::floor::on_a_thread;
use crate::lab::cable;
use longrun_hal::arena::{Arena, ArenaConfig};
use longrun_hal::frame::{self, Flow};
use longrun_hal::net::{Interface, UdpConfig, udp_bind};
use longrun_hal::uring::{TRAIN_BYTES_MAX, TRAIN_DATAGRAMS_MAX};
use longrun_hal::xdp::{BLOCK_BYTES, Frames, Spacing, Xdp, XdpConfig};
use longrun_hal::{Returned, Uring, UringConfig};
use longrun_rpc::methods::link::Transport;
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long each is measured, once it runs.
const MEASURED: Duration = Duration::from_millis(1000);
const WARMUP: Duration = Duration::from_millis(300);
const ARENA_BYTES: usize = 64 << 20;
const RING_ENTRIES: u32 = 256;
/// Trains under way at once.
const SENDS: usize = 16;
const RECEIVES: usize = 32;
/// One end's interface of the cable that raw frames go over, and the other's.
const ENDS: [&str; 2] = ["bare-a", "bare-b"];

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the link between two systems did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LinkFrames {
    /// By what.
    pub transport: Transport,
    /// Of a full datagram, payload.
    pub bytes: u16,
    /// From the primary to the secondary, per second.
    pub per_s: f64,
    /// That a bare receiver got from a bare sender, in the same run.
    pub floor_per_s: Option<f64>,
}

/// Datagrams per second that arrive.
///
/// # Errors
///
/// What the machine refuses.
pub fn floor(
    transport: Transport,
    payload_bytes: usize,
    near: Option<usize>,
    far: Option<usize>,
) -> Result<f64, Error> {
    match transport {
        Transport::Udp => udp(payload_bytes, near, far),
        Transport::Xdp => xdp(payload_bytes, near, far),
    }
}

/// Runs both ends on threads of their own; the receiver says when it is ready, and how much came in how long.
fn between(
    near: Option<usize>,
    far: Option<usize>,
    send: impl FnOnce(SocketAddr, Instant) -> Result<(), Error> + Send + 'static,
    receive: impl FnOnce(mpsc::Sender<SocketAddr>) -> Result<f64, Error> + Send + 'static,
) -> Result<f64, Error> {
    let other = |error: Error| std::io::Error::other(error.to_string());
    let (ready, when_ready) = mpsc::channel();
    let receiver = std::thread::Builder::new()
        .name("bench-frames".into())
        .spawn(move || on_a_thread(near, move || receive(ready).map_err(other)))?;
    if let Ok(to) = when_ready.recv() {
        let until = Instant::now() + WARMUP + MEASURED + WARMUP;
        on_a_thread(far, move || send(to, until).map_err(other))?;
    }
    Ok(receiver.join().map_err(|_| "a thread of the floor panicked")??)
}

/// Counts what `take` gets, after a while.
fn counted(mut take: impl FnMut() -> Result<u64, Error>) -> Result<f64, Error> {
    let from = Instant::now() + WARMUP;
    let until = from + MEASURED;
    let mut count = 0;
    loop {
        let came = take()?;
        let now = Instant::now();
        if now >= until {
            return Ok(count as f64 / MEASURED.as_secs_f64());
        }
        count += if now >= from { came } else { 0 };
    }
}

fn udp(payload_bytes: usize, near: Option<usize>, far: Option<usize>) -> Result<f64, Error> {
    let config = UdpConfig { receive_buffer_bytes: 8 << 20, send_buffer_bytes: 4 << 20, dont_fragment: true };
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let send = move |to: SocketAddr, until: Instant| -> Result<(), Error> {
        let (arena, mut uring) = means()?;
        let socket = udp_bind(any, &config)?;
        let datagrams = (TRAIN_BYTES_MAX / payload_bytes).clamp(1, TRAIN_DATAGRAMS_MAX);
        let (mut done, mut under_way) = (Vec::new(), 0);
        while Instant::now() < until {
            while under_way < SENDS
                && let Some(mut train) = arena.alloc(BLOCK_BYTES)
            {
                train.truncate(datagrams * payload_bytes);
                uring.send_train(1, &socket.fd, train, payload_bytes, to);
                under_way += 1;
            }
            uring.submit_and_reap(None, &mut done)?;
            under_way -= done.len();
            done.clear();
        }
        Ok(())
    };
    let receive = move |ready: mpsc::Sender<SocketAddr>| -> Result<f64, Error> {
        let (arena, mut uring) = means()?;
        let socket = udp_bind(any, &config)?;
        for _ in 0..RECEIVES {
            let buf = arena.alloc(BLOCK_BYTES).ok_or("the arena is too small")?;
            uring.recv_train(1, &socket.fd, buf);
        }
        ready.send(socket.local)?;
        let mut done = Vec::new();
        counted(|| {
            let mut came = 0;
            uring.submit_and_reap(None, &mut done)?;
            for completion in done.drain(..) {
                let bytes = completion.result? as usize;
                came += bytes.div_ceil(completion.segment_bytes.max(1)) as u64;
                if let Returned::Buf(buf) = completion.returned {
                    uring.recv_train(1, &socket.fd, buf);
                }
            }
            Ok(came)
        })
    };
    between(near, far, send, receive)
}

fn means() -> Result<(Arena, Uring), Error> {
    Ok((Arena::new(ArenaConfig::new(ARENA_BYTES))?, Uring::new(UringConfig::with_entries(RING_ENTRIES), None)?))
}

/// Over a virtual cable of its own, in this process's own network.
fn xdp(payload_bytes: usize, near: Option<usize>, far: Option<usize>) -> Result<f64, Error> {
    let [here, there] = ENDS;
    cable::lay(here, there)?;
    let rate = between(near, far, move |_, until| flood(payload_bytes, until), move |ready| take(payload_bytes, ready));
    cable::cut(here)?;
    rate
}

/// The address of one of the two ends.
fn address(end: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 78, 0, end as u8 + 1), 4700)
}

fn open(end: usize, payload_bytes_max: usize, arena: &Arena) -> Result<Xdp, Error> {
    let config = XdpConfig {
        interface: ENDS[end].to_owned(),
        queue: 0,
        local: address(end),
        payload_bytes_max,
        need_wakeup: true,
        busy_poll_us: None,
    };
    Ok(Xdp::open(&arena.region(), config)?)
}

fn flood(payload_bytes: usize, until: Instant) -> Result<(), Error> {
    let (arena, mut uring) = means()?;
    let mut xdp = open(0, payload_bytes, &arena)?;
    let to_mac = Interface::look(ENDS[1])?.mac;
    let flow = Flow { from_mac: xdp.interface().mac, to_mac, from: address(0), to: address(1) };
    let Spacing { headroom_bytes, stride_bytes } = xdp.spacing();
    let bytes = headroom_bytes + payload_bytes;
    let frames = Frames { count: BLOCK_BYTES / stride_bytes, bytes, last_bytes: bytes };
    let (mut done, mut is_nudging) = (Vec::new(), false);
    while Instant::now() < until {
        while xdp.unsent() < SENDS * frames.count
            && let Some(mut buf) = arena.alloc(BLOCK_BYTES)
        {
            // As a link does for each: headers and the payload's checksum.
            for place in buf.chunks_exact_mut(stride_bytes) {
                frame::write(&flow, &mut place[..bytes])?;
            }
            if xdp.send(buf, frames).is_err() {
                break;
            }
        }
        if xdp.wants_nudge()
            && !is_nudging
            && let Some(fd) = xdp.fd()
        {
            uring.nudge_send(1, fd);
            is_nudging = true;
        }
        uring.submit_and_reap(None, &mut done)?;
        is_nudging &= done.is_empty();
        done.clear();
        xdp.reclaim();
    }
    Ok(())
}

fn take(payload_bytes: usize, ready: mpsc::Sender<SocketAddr>) -> Result<f64, Error> {
    let (arena, mut uring) = means()?;
    let mut xdp = open(1, payload_bytes, &arena)?;
    xdp.fill(&arena)?;
    ready.send(address(1).into())?;
    let mut done = Vec::new();
    counted(|| {
        let mut came = 0;
        xdp.receive(usize::MAX, |frame| came += u64::from(frame::parse(frame).is_ok()));
        if xdp.wants_receive_nudge()
            && let Some(fd) = xdp.fd()
        {
            uring.nudge_receive(1, fd);
        }
        uring.submit_and_reap(None, &mut done)?;
        done.clear();
        Ok(came)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_trains_arrive() {
        assert!(floor(Transport::Udp, 1400, None, None).unwrap() > 0.0);
    }
}
