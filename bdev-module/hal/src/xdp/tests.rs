//! Over a virtual cable in a network namespace of each test's own, which ends with its thread. Root only.

use std::net::UdpSocket;
use std::process::Command;

use super::*;
use crate::ArenaConfig;
use crate::frame::{self, Flow};
use crate::uring::{Submission, Uring, UringConfig};

const A: &str = "10.99.0.1:7001";
const B: &str = "10.99.0.2:7002";

/// Runs `test` in a fresh network namespace.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: network namespaces and AF_XDP need root; run as root to have it tested");
        return;
    }
    let thread = std::thread::spawn(|| {
        // SAFETY: moves this thread, and processes that it starts, into a new namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip, of package iproute2");
    assert!(status.success(), "ip {arguments}: {status}");
}

/// A cable with ends `xa` and `xb`.
fn cable(mtu: usize) {
    ip("link add xa type veth peer name xb");
    for end in ["xa", "xb"] {
        ip(&format!("link set {end} mtu {mtu} up"));
    }
}

fn config(interface: &str, local: &str, payload_bytes_max: usize) -> XdpConfig {
    XdpConfig {
        interface: interface.to_owned(),
        queue: 0,
        local: local.parse().unwrap(),
        payload_bytes_max,
        need_wakeup: true,
        busy_poll_us: None,
    }
}

/// One end: socket, memory, ring.
struct End {
    xdp: Xdp,
    arena: Arena,
    uring: Uring,
    flow: Flow,
    nudging: bool,
}

impl End {
    fn open(config: XdpConfig, to: &str, to_interface: &str) -> End {
        let arena = Arena::new(ArenaConfig::new(16 << 20)).unwrap();
        let local = config.local;
        let mut xdp = Xdp::open(&arena.region(), config).unwrap();
        xdp.fill(&arena).unwrap();
        let flow = Flow {
            from_mac: xdp.interface().mac,
            to_mac: Interface::look(to_interface).unwrap().mac,
            from: local,
            to: to.parse().unwrap(),
        };
        let uring = Uring::new(UringConfig::with_entries(64), None).unwrap();
        End { xdp, arena, uring, flow, nudging: false }
    }

    fn pair(payload_bytes_max: usize) -> (End, End) {
        let a = End::open(config("xa", A, payload_bytes_max), B, "xb");
        let b = End::open(config("xb", B, payload_bytes_max), A, "xa");
        (a, b)
    }

    /// Queues datagrams of these payloads, all of one length but the last.
    fn send(&mut self, payloads: &[Vec<u8>]) {
        let mut buf = self.arena.alloc(BLOCK_BYTES).unwrap();
        let Spacing { headroom_bytes, stride_bytes } = self.xdp.spacing();
        for (number, payload) in payloads.iter().enumerate() {
            let frame = &mut buf[number * stride_bytes..][..headroom_bytes + payload.len()];
            frame[headroom_bytes..].copy_from_slice(payload);
            frame::write(&self.flow, frame).unwrap();
        }
        let bytes = headroom_bytes + payloads[0].len();
        let last_bytes = headroom_bytes + payloads.last().unwrap().len();
        self.xdp.send(buf, Frames { count: payloads.len(), bytes, last_bytes }).unwrap();
        self.push();
    }

    /// Has the kernel send what is queued, as a reactor would.
    fn push(&mut self) {
        if self.xdp.wants_nudge() && !self.nudging {
            self.nudging = true;
            self.uring.nudge_send(1, self.xdp.fd().unwrap());
        }
        let mut done = Vec::new();
        self.uring.submit_and_reap(Some(Duration::from_millis(1)), &mut done).unwrap();
        self.nudging &= done.iter().all(|completion| completion.token != 1);
        self.xdp.reclaim();
    }

    fn received(&mut self) -> Vec<(SocketAddrV4, Vec<u8>)> {
        let mut got = Vec::new();
        self.xdp.receive(usize::MAX, |bytes| {
            let datagram = frame::parse(bytes).unwrap();
            got.push((datagram.from, bytes[datagram.payload].to_vec()));
        });
        got
    }
}

fn within<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "nothing came of it");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn payload(number: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (number * 31 + at * 7 + at / 251) as u8).collect()
}

#[test]
fn trains_of_frames_go_both_ways_and_their_buffers_come_back() {
    in_namespace(|| {
        cable(1500);
        let (mut a, mut b) = End::pair(1400);
        assert_eq!(a.xdp.mode(), XdpMode::Copy, "a virtual cable has a native mode");
        let free = a.arena.stats().free_bytes;
        for round in 0..40 {
            // More, all in all, than there are chunks to receive into.
            let payloads: Vec<_> = (0..30).map(|n| payload(round * 30 + n, if n == 29 { 700 } else { 1400 })).collect();
            for back in [false, true] {
                let (from, to) = if back { (&mut b, &mut a) } else { (&mut a, &mut b) };
                from.send(&payloads);
                let mut got = Vec::new();
                within(|| {
                    from.push();
                    got.extend(to.received());
                    (got.len() >= payloads.len()).then_some(())
                });
                assert!(got.iter().all(|(sender, _)| *sender == from.flow.from));
                assert!(got.into_iter().map(|(_, payload)| payload).eq(payloads.iter().cloned()), "round {round}");
            }
        }
        within(|| {
            a.push();
            (a.arena.stats().free_bytes == free).then_some(())
        });
        assert_eq!(a.xdp.gauge().stats(), XdpStats::default());
    });
}

#[test]
fn busy_polling_and_a_kernel_that_does_not_ask_to_be_woken_carry_frames_too() {
    in_namespace(|| {
        cable(1500);
        let config = |end, local| XdpConfig { need_wakeup: false, busy_poll_us: Some(50), ..config(end, local, 1400) };
        let mut a = End::open(config("xa", A), B, "xb");
        let mut b = End::open(config("xb", B), A, "xa");
        a.send(&[payload(1, 1000), payload(2, 1000)]);
        let mut got = 0;
        within(|| {
            a.push();
            got += b.received().len();
            (got == 2).then_some(())
        });
    });
}

#[test]
fn a_frame_longer_than_a_page_goes_in_parts_and_arrives_whole() {
    in_namespace(|| {
        cable(9000);
        let (mut a, mut b) = End::pair(8952);
        let payloads: Vec<_> = (0..5).map(|n| payload(n, if n == 4 { 5000 } else { 8952 })).collect();
        a.send(&payloads);
        let mut got = Vec::new();
        within(|| {
            a.push();
            got.extend(b.received());
            (got.len() == 5).then_some(())
        });
        assert!(got.into_iter().map(|(_, payload)| payload).eq(payloads));
    });
}

#[test]
fn only_the_links_datagrams_leave_the_kernels_way() {
    in_namespace(|| {
        cable(1500);
        // The far end has no address here: what the kernel sends to it is resolved by hand and goes over the cable.
        ip("addr add 10.99.0.1/24 dev xa");
        let mac = Interface::look("xb").unwrap().mac;
        ip(&format!("neigh add 10.99.0.2 lladdr {mac} dev xa"));
        let mut b = End::open(config("xb", B, 1400), A, "xa");
        let a = UdpSocket::bind(A).unwrap();
        a.send_to(b"to another port", "10.99.0.2:7003").unwrap();
        a.send_to(&[5; 1400], B).unwrap();
        a.send_to(b"to the link", B).unwrap();
        let mut got = Vec::new();
        within(|| {
            got.extend(b.received());
            (got.len() == 2).then_some(())
        });
        assert_eq!(got[0], (A.parse().unwrap(), vec![5; 1400]));
        assert_eq!(got[1].1, b"to the link");
        // The other way: a frame of ours is a datagram to the kernel, checksums and all.
        a.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        b.send(&[b"from the link".to_vec()]);
        let mut buffer = [0; 100];
        let (bytes, from) = a.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..bytes], from.to_string().as_str()), (&b"from the link"[..], B));
    });
}

#[test]
fn a_waiting_ring_is_woken_by_a_frame() {
    in_namespace(|| {
        cable(1500);
        let (mut a, mut b) = End::pair(1400);
        b.uring.poll_readable(9, b.xdp.fd().unwrap());
        let mut done = Vec::new();
        b.uring.submit_and_reap(None, &mut done).unwrap();
        assert!(done.is_empty());
        a.send(&[vec![1; 10]]);
        within(|| {
            a.push();
            b.uring.submit_and_reap(Some(Duration::from_millis(100)), &mut done).unwrap();
            done.iter().any(|completion| completion.token == 9 && completion.result.is_ok()).then_some(())
        });
        assert_eq!(b.received().len(), 1);
    });
}

#[test]
fn a_polled_ring_sends_and_receives_frames_without_a_system_call() {
    in_namespace(|| {
        cable(1500);
        let (mut a, mut b) = End::pair(1400);
        let idle = Duration::from_secs(60);
        let polled = UringConfig { entries: 64, submission: Submission::Polled { processor: None, idle } };
        a.uring = Uring::new(polled, None).unwrap();
        let turn = |a: &mut End| {
            if a.xdp.wants_nudge() && !a.nudging {
                a.nudging = true;
                a.uring.nudge_send(1, a.xdp.fd().unwrap());
            }
            let mut done = Vec::new();
            a.uring.submit_and_reap(None, &mut done).unwrap();
            a.nudging &= done.is_empty();
            a.xdp.reclaim();
        };
        let send = |a: &mut End, b: &mut End, byte: u8| {
            let mut buf = a.arena.alloc(BLOCK_BYTES).unwrap();
            buf[HEADER_BYTES..HEADER_BYTES + 100].fill(byte);
            frame::write(&a.flow, &mut buf[..HEADER_BYTES + 100]).unwrap();
            a.xdp.send(buf, Frames { count: 1, bytes: HEADER_BYTES + 100, last_bytes: HEADER_BYTES + 100 }).unwrap();
            let got = within(|| {
                turn(a);
                b.received().pop()
            });
            assert_eq!(got.1, [byte; 100]);
        };
        // The thread may have to be woken for the first.
        send(&mut a, &mut b, 0);
        let enters = a.uring.enters();
        for byte in 1..50 {
            send(&mut a, &mut b, byte);
        }
        assert_eq!(a.uring.enters(), enters);
    });
}

#[test]
fn a_queue_is_free_again_after_its_socket_went_and_its_memory_comes_back() {
    in_namespace(|| {
        cable(1500);
        let arena = Arena::new(ArenaConfig::new(16 << 20)).unwrap();
        let open = || Xdp::open(&arena.region(), config("xb", B, 1400));
        let free = arena.stats().free_bytes;
        for _ in 0..2 {
            let mut first = open().unwrap();
            first.fill(&arena).unwrap();
            assert_eq!(arena.stats().free_bytes, free - RECEIVE_BYTES);
            let taken = open().unwrap_err();
            assert!(matches!(taken, XdpError::QueueTaken { .. }), "{taken}");
            drop(first);
            let dropped = Instant::now();
            within(|| (arena.stats().free_bytes == free).then_some(()));
            // Not at once: the kernel may hold the socket for a moment.
            assert!(dropped.elapsed() >= FAREWELL, "{:?}", dropped.elapsed());
        }
    });
}

#[test]
fn what_cannot_be_is_said_with_what_mends_it() {
    in_namespace(|| {
        cable(1500);
        let arena = Arena::new(ArenaConfig::new(16 << 20)).unwrap();
        let says = |config: XdpConfig| Xdp::open(&arena.region(), config).unwrap_err().to_string();
        let wrong = says(config("xc", A, 1400));
        assert!(wrong.contains("no interface xc") && wrong.contains("lo, "), "{wrong}");
        let queue = says(XdpConfig { queue: 7, ..config("xa", A, 1400) });
        assert!(queue.contains("no queue 7") && queue.contains("ethtool -L xa"), "{queue}");
        let mtu = says(config("xa", A, 1473));
        assert!(mtu.contains("mtu 1501"), "{mtu}");
        ip("link set xa down");
        let down = says(config("xa", A, 1400));
        assert!(down.contains("ip link set xa up"), "{down}");
    });
}

/// Opens `xa` on a thread without these capabilities.
fn opened_without(capabilities: &[u32]) -> Result<(), XdpError> {
    #[repr(C)]
    #[derive(Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let capabilities = capabilities.to_vec();
    let thread = std::thread::spawn(move || {
        // _LINUX_CAPABILITY_VERSION_3, this thread.
        let header = [0x2008_0522_u32, 0];
        let mut sets = [Sets::default(), Sets::default()];
        // SAFETY: a header and two sets, as this version wants, that live during the call.
        let failed = unsafe { libc::syscall(libc::SYS_capget, &raw const header, &raw mut sets) };
        assert_eq!(failed, 0, "{}", io::Error::last_os_error());
        for capability in capabilities {
            let set = &mut sets[capability as usize / 32];
            set.permitted &= !(1 << (capability % 32));
            set.effective = set.permitted;
        }
        // SAFETY: as above.
        let failed = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const sets) };
        assert_eq!(failed, 0, "{}", io::Error::last_os_error());
        let arena = Arena::new(ArenaConfig::new(16 << 20)).unwrap();
        Xdp::open(&arena.region(), config("xa", A, 1400)).map(drop)
    });
    thread.join().unwrap()
}

#[test]
fn a_missing_capability_is_named() {
    const CAP_NET_RAW: u32 = 13;
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_BPF: u32 = 39;
    in_namespace(|| {
        cable(1500);
        for (without, named) in
            [(&[CAP_NET_RAW][..], "needs CAP_NET_RAW"), (&[CAP_BPF, CAP_SYS_ADMIN], "needs CAP_BPF")]
        {
            let says = opened_without(without).unwrap_err().to_string();
            assert!(says.contains(named) && says.contains("setcap cap_net_raw"), "{says}");
        }
        opened_without(&[]).unwrap();
    });
}

#[test]
fn too_little_locked_memory_is_noticed() {
    const CAP_IPC_LOCK: u32 = 14;
    const CAP_SYS_RESOURCE: u32 = 24;
    const CHILD: &str = "LONGRUN_TEST_HAS_LITTLE_LOCKED_MEMORY";
    in_namespace(|| {
        if std::env::var_os(CHILD).is_none() {
            // The limit is a process's, so it takes another one.
            let test = "xdp::tests::too_little_locked_memory_is_noticed";
            let mut child = Command::new("prlimit");
            child.arg("--memlock=1048576:1048576").arg(std::env::current_exe().unwrap()).args(["--exact", test]);
            assert!(child.env(CHILD, "1").status().expect("prlimit, of package util-linux").success());
            return;
        }
        cable(1500);
        let refused = opened_without(&[CAP_IPC_LOCK, CAP_SYS_RESOURCE]).unwrap_err();
        assert!(matches!(refused, XdpError::LockedMemory { bytes } if bytes == 16 << 20), "{refused}");
    });
}
