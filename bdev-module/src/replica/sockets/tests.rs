use std::collections::VecDeque;
use std::time::Duration;

use longrun_hal::net::{UdpConfig, udp_bind};
use longrun_hal::xdp::XdpConfig;
use longrun_hal::{ArenaConfig, UringConfig};

use super::*;

struct Rig {
    sockets: Sockets,
    uring: Uring,
    arena: Arena,
    now: Mono,
    received: VecDeque<Received>,
}

impl Rig {
    fn new(arena_bytes: usize) -> Rig {
        Rig {
            sockets: Sockets::default(),
            uring: Uring::new(UringConfig::with_entries(64), None).unwrap(),
            arena: Arena::new(ArenaConfig::new(arena_bytes)).unwrap(),
            now: Mono(1),
            received: VecDeque::new(),
        }
    }

    fn open(&mut self, link: u32) -> SocketAddr {
        self.open_at(link, "127.0.0.1:0")
    }

    fn open_at(&mut self, link: u32, at: &str) -> SocketAddr {
        let config = UdpConfig { receive_buffer_bytes: 1 << 20, send_buffer_bytes: 1 << 20, dont_fragment: false };
        let endpoint = udp_bind(at.parse().unwrap(), &config).unwrap();
        let address = endpoint.local;
        self.sockets.open(&mut self.uring, &self.arena, LinkId(link), endpoint);
        address
    }

    fn reap(&mut self, wait: Duration) {
        let mut completions = Vec::new();
        self.uring.submit_and_reap(Some(wait), &mut completions).unwrap();
        for completion in completions {
            match token::class(completion.token) {
                token::CLASS_LINK_SEND => self.sockets.sent(&completion),
                token::CLASS_RAW_READABLE | token::CLASS_RAW_NUDGE => self.sockets.raw_completed(&completion),
                _ => self.received.extend(self.sockets.received(completion, self.now)),
            }
        }
    }

    /// Waits for so many datagrams, by whatever way they come: their lengths and first bytes.
    fn datagrams(&mut self, count: usize) -> Vec<(usize, u8)> {
        let mut got = Vec::new();
        for _ in 0..1000 {
            self.sockets.push(&mut self.uring);
            self.reap(Duration::from_millis(10));
            while let Some(train) = self.received.pop_front() {
                got.extend(train.buf[..train.bytes].chunks(train.segment_bytes).map(|bytes| (bytes.len(), bytes[0])));
                self.sockets.rearm(&mut self.uring, train);
            }
            self.sockets.gather();
            while let Some((key, _, mut raw)) = self.sockets.lend(0) {
                let (received, refused) = raw.receive(|_, bytes| got.push((bytes.len(), bytes[0])));
                self.sockets.give_back(key, raw, received, refused);
            }
            if got.len() >= count {
                return got;
            }
        }
        panic!("{} of {count} datagrams came", got.len());
    }

    fn next(&mut self) -> Received {
        for _ in 0..100 {
            if let Some(received) = self.received.pop_front() {
                return received;
            }
            self.reap(Duration::from_secs(1));
        }
        panic!("no train came");
    }

    fn send(&mut self, link: u32, to: SocketAddr, bytes: usize, segment_bytes: usize, byte: u8) {
        let mut train = self.arena.alloc(60 << 10).unwrap();
        train[..bytes].fill(byte);
        self.sockets.transmit(self.now, &mut self.uring, LinkId(link), to, train, bytes, segment_bytes);
    }
}

#[test]
fn trains_go_from_socket_to_socket_again_and_again() {
    let mut rig = Rig::new(8 << 20);
    let one = rig.open(1);
    let two = rig.open(2);
    // More than are armed at once, so that each buffer is used again.
    for round in 0..3 * RECEIVES_ARMED {
        rig.send(1, two, 2500, 1000, round as u8);
        let mut bytes = 0;
        while bytes < 2500 {
            let train = rig.next();
            assert_eq!((train.link, train.from), (LinkId(2), one));
            assert!(train.bytes <= train.segment_bytes || train.segment_bytes == 1000);
            assert!(train.buf[..train.bytes].iter().all(|byte| *byte == round as u8));
            bytes += train.bytes;
            rig.sockets.rearm(&mut rig.uring, train);
        }
        assert_eq!(bytes, 2500);
    }
    rig.reap(Duration::from_millis(1));
    let sent = rig.sockets.stats(LinkId(1)).unwrap();
    assert_eq!((sent.trains_sent, sent.datagrams_sent, sent.send_errors), (24, 72, 0));
    let received = rig.sockets.stats(LinkId(2)).unwrap();
    assert_eq!((received.datagrams_received, received.receive_errors), (72, 0));
}

#[test]
fn a_closed_links_socket_goes_and_its_successor_hears_only_its_own() {
    let mut rig = Rig::new(8 << 20);
    let one = rig.open(1);
    let old = rig.open(2);
    rig.send(1, old, 100, 100, 7);
    let lent = rig.next();
    rig.sockets.close(&mut rig.uring, LinkId(2));
    // The link is made again while the ring still holds the old socket, and a train of it is being worked on.
    let new = rig.open(2);
    assert_ne!(old, new);
    rig.sockets.rearm(&mut rig.uring, lent);
    rig.send(1, old, 100, 100, 8);
    rig.send(1, new, 100, 100, 9);
    let train = rig.next();
    assert_eq!((train.from, train.buf[0]), (one, 9));
    rig.sockets.rearm(&mut rig.uring, train);
    for _ in 0..100 {
        if rig.sockets.sockets.len() == 2 {
            break;
        }
        rig.reap(Duration::from_millis(10));
    }
    assert_eq!(rig.sockets.sockets.len(), 2, "the closed socket is still there");
    assert_eq!(rig.sockets.stats(LinkId(2)).unwrap().datagrams_received, 1);
}

#[test]
fn a_link_without_memory_to_receive_into_hears_again_when_there_is_some() {
    let mut rig = Rig::new(8 << 20);
    rig.open(1);
    let hoard: Vec<Buf> = std::iter::from_fn(|| rig.arena.alloc(4096)).collect();
    let deaf = rig.open(2);
    assert_eq!(rig.sockets.next_timeout(), Some(Mono(REARM_NS)));
    drop(hoard);
    rig.sockets.tick(&mut rig.uring, &rig.arena, Mono(REARM_NS - 1));
    assert_eq!(rig.sockets.next_timeout(), Some(Mono(REARM_NS)));
    rig.sockets.tick(&mut rig.uring, &rig.arena, Mono(REARM_NS));
    assert_eq!(rig.sockets.next_timeout(), None);
    rig.send(1, deaf, 100, 100, 1);
    assert_eq!(rig.next().bytes, 100);
}

#[test]
fn a_train_that_the_kernel_refuses_is_counted_as_lost() {
    let mut rig = Rig::new(8 << 20);
    rig.open(1);
    rig.send(1, "[::1]:9".parse().unwrap(), 100, 100, 1);
    for _ in 0..100 {
        if rig.sockets.stats(LinkId(1)).unwrap().send_errors == 1 {
            return;
        }
        rig.reap(Duration::from_secs(1));
    }
    panic!("the error was not counted");
}

#[test]
fn a_train_that_came_before_its_link_was_closed_is_not_heard_after() {
    let mut rig = Rig::new(8 << 20);
    rig.open(1);
    let two = rig.open(2);
    rig.send(1, two, 100, 100, 1);
    let mut completions = Vec::new();
    while !completions.iter().any(|c: &Completion| token::class(c.token) == token::CLASS_LINK_RECEIVE) {
        rig.uring.submit_and_reap(Some(Duration::from_secs(1)), &mut completions).unwrap();
    }
    rig.sockets.close(&mut rig.uring, LinkId(2));
    for completion in completions {
        if token::class(completion.token) == token::CLASS_LINK_RECEIVE {
            assert!(rig.sockets.received(completion, rig.now).is_none(), "a closed link heard a train");
        }
    }
}

/// Raw frames over a virtual cable, which needs a network namespace of its own, and so a process of its own. Root only.
#[test]
fn raw_frames_carry_trains_and_the_kernel_those_whose_way_is_not_known() {
    const CHILD: &str = "LONGRUN_TEST_IN_NAMESPACE";
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces and AF_XDP need root; run as root to have it tested");
        return;
    }
    if std::env::var_os(CHILD).is_none() {
        let test = "replica::sockets::tests::raw_frames_carry_trains_and_the_kernel_those_whose_way_is_not_known";
        let mut child = std::process::Command::new("unshare");
        child.arg("--net").arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(CHILD, "1");
        assert!(child.status().expect("unshare, of package util-linux").success());
        return;
    }
    for command in [
        "link set lo up",
        "link add xa type veth peer name xb",
        "addr add 10.99.0.1/24 dev xa",
        "addr add 10.99.0.2/24 dev xb",
        "link set xa up",
        "link set xb up",
    ] {
        assert!(std::process::Command::new("ip").args(command.split(' ')).status().unwrap().success(), "ip {command}");
    }
    let mut rig = Rig::new(32 << 20);
    let ends: Vec<SocketAddr> = [(1, "10.99.0.1:0"), (2, "10.99.0.2:0")].map(|(link, at)| rig.open_at(link, at)).into();
    let SocketAddr::V4(to) = ends[1] else { panic!("{ends:?}") };
    for (link, interface, local) in [(1, "xa", ends[0]), (2, "xb", ends[1])] {
        let SocketAddr::V4(local) = local else { panic!("{local}") };
        let config = XdpConfig {
            interface: interface.to_owned(),
            queue: 0,
            local,
            payload_bytes_max: 1400,
            need_wakeup: true,
            busy_poll_us: None,
        };
        let xdp = Xdp::open(&rig.arena.region(), config).unwrap();
        rig.sockets.raise(&rig.arena, LinkId(link), xdp).unwrap();
    }
    let train_of = |rig: &Rig, byte: u8| {
        let mut train = rig.arena.alloc(63 << 10).unwrap();
        for number in 0..3u8 {
            train[42 + usize::from(number) * 2048..][..1000].fill(byte + number);
        }
        train
    };
    let expected = |byte: u8| [(1000, byte), (1000, byte + 1), (500, byte + 2)];
    // Nobody has said where to: by the kernel, to the raw socket of the other end all the same or to its UDP socket.
    let train = train_of(&rig, 10);
    rig.sockets.transmit(rig.now, &mut rig.uring, LinkId(1), ends[1], train, 2500, 1000);
    assert_eq!(rig.datagrams(3), expected(10));
    assert_eq!(rig.sockets.stats(LinkId(1)).unwrap().raw_sent, 0);
    let mac = longrun_hal::net::Interface::look("xb").unwrap().mac;
    rig.sockets.set_hop(LinkId(1), Some(Hop { to: *to.ip(), mac }));
    for turn in 0..200u8 {
        let train = train_of(&rig, turn);
        rig.sockets.transmit(rig.now, &mut rig.uring, LinkId(1), ends[1], train, 2500, 1000);
        assert_eq!(rig.datagrams(3), expected(turn));
    }
    // One train in ten seconds is the kernel's.
    let stats = rig.sockets.stats(LinkId(1)).unwrap();
    assert_eq!((stats.raw_sent, stats.raw_unsent, stats.send_errors), (199 * 3, 0, 0));
    rig.now = Mono(1 + raw::KERNEL_EVERY_NS);
    let train = train_of(&rig, 7);
    rig.sockets.transmit(rig.now, &mut rig.uring, LinkId(1), ends[1], train, 2500, 1000);
    assert_eq!(rig.datagrams(3), expected(7));
    assert_eq!(rig.sockets.stats(LinkId(1)).unwrap().raw_sent, 199 * 3);
    assert_eq!(rig.sockets.stats(LinkId(2)).unwrap().raw_received, 199 * 3);
    // Without raw frames trains are not spaced any more, and the link goes on.
    rig.sockets.lower(&mut rig.uring, LinkId(1));
    rig.send(1, ends[1], 100, 100, 3);
    assert_eq!(rig.datagrams(1), [(100, 3)]);
}
