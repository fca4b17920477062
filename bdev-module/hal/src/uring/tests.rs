use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::*;
use crate::arena::{Arena, ArenaConfig};
use crate::{file, net, ring, wake};

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn arena() -> Arena {
    Arena::new(ArenaConfig::new(8 << 20)).unwrap()
}

pub(super) fn uring() -> Uring {
    Uring::new(UringConfig::with_entries(64), None).unwrap()
}

/// Turns until `count` completions are there, each turn with at most one enter.
pub(super) fn turn_until(uring: &mut Uring, count: usize) -> Vec<Completion> {
    let (mut out, start) = (Vec::new(), Instant::now());
    while out.len() < count {
        assert!(start.elapsed() < PATIENCE, "{} of {count} completions", out.len());
        let enters = uring.enters();
        let turn = uring.submit_and_reap(Some(Duration::from_millis(100)), &mut out).unwrap();
        assert!(uring.enters() - enters <= 1);
        assert_eq!(turn.entered, uring.enters() > enters);
    }
    out
}

pub(super) fn one(uring: &mut Uring) -> Completion {
    let mut out = turn_until(uring, 1);
    assert_eq!(out.len(), 1);
    out.pop().unwrap()
}

pub(super) fn buf_of(completion: Completion) -> Buf {
    match completion.returned {
        Returned::Buf(buf) => buf,
        other => panic!("{other:?}"),
    }
}

fn filled(arena: &Arena, bytes: usize, byte: u8) -> Buf {
    let mut buf = arena.alloc(bytes).unwrap();
    buf.fill(byte);
    buf
}

pub(super) fn tcp_pair() -> (Fd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let here = Fd::from(listener.accept().unwrap().0);
    net::tcp_tune(&here).unwrap();
    there.set_read_timeout(Some(PATIENCE)).unwrap();
    (here, there)
}

#[test]
fn direct_writes_gathers_syncs_holes_and_reads_of_a_file_come_back_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = file::create_direct(&dir.path().join("disk"), 1 << 20).unwrap();
    let (arena, mut uring) = (arena(), uring());
    let block = filled(&arena, 8192, 7).freeze();
    uring.write(1, &file.fd, block.slice(4096..), 4096, Durability::Cached);
    let mut gather = uring.gather();
    gather.push(filled(&arena, 4096, 8).freeze());
    gather.push(filled(&arena, 4096, 9).freeze());
    uring.write_gather(2, &file.fd, gather, 8192, Durability::Durable);
    let mut done = turn_until(&mut uring, 2);
    done.sort_by_key(|c| c.token);
    assert_eq!(done.iter().map(|c| *c.result.as_ref().unwrap()).collect::<Vec<_>>(), [4096, 8192]);
    assert!(matches!(&done[0].returned, Returned::Shared(shared) if shared.len() == 4096));
    uring.sync(3, &file.fd);
    assert_eq!(one(&mut uring).result.unwrap(), 0);
    uring.fallocate(4, &file.fd, Fallocate::ZeroRange, 8192, 4096);
    assert_eq!(one(&mut uring).result.unwrap(), 0);
    uring.read(5, &file.fd, arena.alloc(16384).unwrap(), 0);
    let read = one(&mut uring);
    assert_eq!((read.token, *read.result.as_ref().unwrap()), (5, 16384));
    let buf = buf_of(read);
    for (at, byte) in [(0, 0), (4096, 7), (8192, 0), (12288, 9)] {
        assert!(buf[at..at + 4096].iter().all(|&b| b == byte), "block at {at}");
    }
    uring.fallocate(6, &file.fd, Fallocate::PunchHole, 4096, 4096);
    assert_eq!(one(&mut uring).result.unwrap(), 0);
    uring.read(7, &file.fd, buf, 4096);
    assert!(buf_of(one(&mut uring))[..4096].iter().all(|&b| b == 0));
    assert_eq!(uring.in_flight(), 0);
}

#[test]
fn a_hundred_operations_in_a_queue_of_four_all_complete_with_one_enter_a_turn() {
    let dir = tempfile::tempdir().unwrap();
    let file = file::create_direct(&dir.path().join("disk"), 1 << 20).unwrap();
    let (arena, mut uring) = (arena(), Uring::new(UringConfig::with_entries(4), None).unwrap());
    for i in 0..100u64 {
        uring.write(i, &file.fd, filled(&arena, 4096, i as u8).freeze(), i * 4096, Durability::Cached);
    }
    assert_eq!((uring.in_flight(), uring.enters()), (100, 0));
    let mut tokens: Vec<_> = turn_until(&mut uring, 100).into_iter().map(|c| (c.token, c.result.unwrap())).collect();
    tokens.sort();
    assert_eq!(tokens, (0..100).map(|i| (i, 4096)).collect::<Vec<_>>());
    assert!(uring.enters() >= 25, "four at a time");
    uring.read(0, &file.fd, arena.alloc(4096 * 100).unwrap(), 0);
    let buf = buf_of(one(&mut uring));
    assert!((0..100).all(|i| buf[i * 4096..][..4096].iter().all(|&b| b == i as u8)));
    assert_eq!(arena.stats().used_bytes, buf.capacity(), "the writes have let go of their buffers");
}

#[test]
fn a_turn_with_nothing_to_do_makes_no_system_call_and_a_wait_ends_by_its_time() {
    let mut uring = uring();
    let mut out = Vec::new();
    for _ in 0..1000 {
        assert_eq!(uring.submit_and_reap(None, &mut out).unwrap(), Turn::default());
    }
    assert_eq!(uring.enters(), 0);
    // With a receive pending and nothing arriving, too: one enter to submit it, none after.
    let (here, mut there) = tcp_pair();
    let arena = arena();
    uring.recv(9, &here, arena.alloc(4096).unwrap(), 0..4096, Receive::Some);
    for _ in 0..1000 {
        assert_eq!(uring.submit_and_reap(None, &mut out).unwrap().completions, 0);
    }
    assert_eq!(uring.enters(), 1);
    let start = Instant::now();
    assert_eq!(uring.submit_and_reap(Some(Duration::from_millis(20)), &mut out).unwrap().completions, 0);
    assert!(start.elapsed() >= Duration::from_millis(19));
    // What arrives is found by polling without a wait: the kernel raises its flag and one more enter fetches it.
    there.write_all(b"now").unwrap();
    let (start, enters) = (Instant::now(), uring.enters());
    while out.is_empty() {
        assert!(start.elapsed() < PATIENCE);
        uring.submit_and_reap(None, &mut out).unwrap();
    }
    assert!(uring.enters() - enters <= 2);
    assert_eq!(*out[0].result.as_ref().unwrap(), 3);
}

#[test]
fn tcp_connections_are_accepted_fed_drained_and_ended() {
    let (listener, address) = net::tcp_listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
    let (arena, mut uring) = (arena(), uring());
    uring.accept(1, &listener);
    let mut peers = Vec::new();
    for _ in 0..3 {
        uring.submit_and_reap(None, &mut Vec::new()).unwrap();
        let there = TcpStream::connect(address).unwrap();
        let accepted = one(&mut uring);
        assert_eq!((accepted.token, accepted.more), (1, true));
        let Returned::Accepted(here) = accepted.returned else { panic!() };
        assert_eq!(net::peer_address(&here).unwrap(), there.local_addr().unwrap());
        assert_eq!(net::local_address(&here).unwrap(), address);
        peers.push((here, there));
    }
    assert_eq!(uring.in_flight(), 1, "the accept goes on");
    let (here, there) = &mut peers[2];

    // Header and payload as one send; far more than a socket buffer holds, so the kernel has to go on by itself.
    let mut gather = uring.gather();
    gather.push_bytes(b"head");
    gather.push_bytes(b"er: ");
    let payload = filled(&arena, 1 << 20, b'x').freeze();
    for _ in 0..16 {
        gather.push(payload.clone());
    }
    gather.push_bytes(b"digest");
    assert_eq!((gather.pieces(), gather.len()), (18, 8 + (16 << 20) + 6));
    uring.send(2, here, gather);
    let mut reader = there.try_clone().unwrap();
    let received = std::thread::spawn(move || {
        let mut all = vec![0; 8 + (16 << 20) + 6];
        reader.read_exact(&mut all).unwrap();
        all
    });
    let sent = one(&mut uring);
    assert_eq!((sent.token, sent.result.unwrap()), (2, 8 + (16 << 20) + 6));
    let all = received.join().unwrap();
    assert_eq!(&all[..8], b"header: ");
    assert!(all[8..8 + (16 << 20)].iter().all(|&b| b == b'x'));
    assert_eq!(&all[8 + (16 << 20)..], b"digest");

    // Into the middle of a buffer, complete only when the range is full.
    uring.recv(3, here, filled(&arena, 64, 0), 8..24, Receive::All);
    uring.submit_and_reap(None, &mut Vec::new()).unwrap();
    there.write_all(b"0123456789").unwrap();
    let mut early = Vec::new();
    uring.submit_and_reap(Some(Duration::from_millis(30)), &mut early).unwrap();
    assert!(early.is_empty(), "{early:?}");
    there.write_all(b"abcdef").unwrap();
    let filled_range = one(&mut uring);
    assert_eq!(*filled_range.result.as_ref().unwrap(), 16);
    let buf = buf_of(filled_range);
    assert_eq!(&buf[8..24], b"0123456789abcdef");
    assert!(buf[..8].iter().chain(&buf[24..]).all(|&b| b == 0));

    // Shutdown ends a receive with 0 bytes, and the peer sees the end.
    uring.recv(4, here, buf, 0..64, Receive::Some);
    uring.shutdown(5, here, Shutdown::Both);
    let mut ended: Vec<_> = turn_until(&mut uring, 2).into_iter().map(|c| (c.token, c.result.unwrap())).collect();
    ended.sort();
    assert_eq!(ended, [(4, 0), (5, 0)]);
    assert_eq!(there.read(&mut [0; 8]).unwrap(), 0);

    uring.cancel(&listener);
    let over = one(&mut uring);
    assert_eq!((over.token, over.more), (1, false));
    assert_eq!(over.result.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
    assert_eq!(uring.in_flight(), 0);
}

#[test]
fn a_train_of_datagrams_arrives_as_a_train_with_its_sender_and_segment_length() {
    let config = net::UdpConfig { receive_buffer_bytes: 4 << 20, send_buffer_bytes: 4 << 20, dont_fragment: true };
    let here = net::udp_bind("127.0.0.1:0".parse().unwrap(), &config).unwrap();
    let there = net::udp_bind("127.0.0.1:0".parse().unwrap(), &config).unwrap();
    assert!(here.trains && there.trains, "{:?}", here.notice);
    let (arena, mut uring) = (arena(), uring());
    let (segment, datagrams) = (1400, 40);
    let bytes = segment * (datagrams - 1) + 100;
    let mut train = arena.alloc(bytes).unwrap();
    for (i, byte) in train.iter_mut().enumerate() {
        *byte = (i / segment) as u8;
    }
    uring.send_train(1, &here.fd, train, segment, there.local);
    let sent = one(&mut uring);
    assert_eq!((sent.token, *sent.result.as_ref().unwrap()), (1, bytes as u32));
    assert_eq!(buf_of(sent).len(), bytes, "the train comes back");

    // The kernel may pass on one long train or several shorter ones; all say the same segment length and sender.
    let (mut got, mut trains) = (0, 0);
    while got < bytes {
        uring.recv_train(2, &there.fd, arena.alloc(65536).unwrap());
        let received = one(&mut uring);
        let len = *received.result.as_ref().unwrap() as usize;
        assert_eq!(received.from, Some(here.local));
        assert_eq!(received.segment_bytes, segment.min(len));
        let buf = buf_of(received);
        assert!((0..len).all(|i| buf[i] == ((got + i) / segment) as u8));
        got += len;
        trains += 1;
    }
    assert_eq!(got, bytes);
    assert!(trains < datagrams, "{trains} receives for {datagrams} datagrams: no train was joined");

    // A lone datagram: its length is its segment's.
    uring.send_train(3, &there.fd, filled(&arena, 77, 5), 1400, here.local);
    uring.recv_train(4, &here.fd, arena.alloc(65536).unwrap());
    let done = turn_until(&mut uring, 2);
    let lone = done.iter().find(|c| c.token == 4).unwrap();
    assert_eq!((*lone.result.as_ref().unwrap(), lone.segment_bytes, lone.from), (77, 77, Some(there.local)));

    // Too small a buffer is said, not hidden.
    uring.send_train(5, &there.fd, filled(&arena, 77, 5), 1400, here.local);
    uring.recv_train(6, &here.fd, arena.alloc(50).unwrap());
    let done = turn_until(&mut uring, 2);
    let cut = done.iter().find(|c| c.token == 6).unwrap();
    assert_eq!(cut.result.as_ref().unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
}

#[test]
fn ipv6_trains_carry_their_sender() {
    let config = net::UdpConfig { receive_buffer_bytes: 1 << 20, send_buffer_bytes: 1 << 20, dont_fragment: false };
    let Ok(here) = net::udp_bind("[::1]:0".parse().unwrap(), &config) else { return };
    let peer = UdpSocket::bind("[::1]:0").unwrap();
    let (arena, mut uring) = (arena(), uring());
    peer.send_to(b"six", here.local).unwrap();
    uring.recv_train(1, &here.fd, arena.alloc(65536).unwrap());
    let received = one(&mut uring);
    assert_eq!(received.from, Some(peer.local_addr().unwrap()));
    assert_eq!(&buf_of(received)[..3], b"six");
}

#[test]
fn operations_that_cannot_be_are_refused_in_their_completion_with_the_buffer() {
    let (arena, mut uring) = (arena(), uring());
    let (here, _there) = tcp_pair();
    let address = "127.0.0.1:9".parse().unwrap();
    uring.recv(1, &here, arena.alloc(16).unwrap(), 8..17, Receive::Some);
    uring.send_train(2, &here, arena.alloc(100).unwrap(), 0, address);
    uring.send_train(3, &here, arena.alloc(100).unwrap(), 1, address);
    uring.send_train(4, &here, arena.alloc(65536).unwrap(), 60000, address);
    let mut gather = uring.gather();
    for _ in 0..=GATHER_PIECES_MAX {
        gather.push(Shared::from_static(b"x"));
    }
    assert!(gather.is_full());
    uring.send(5, &here, gather);
    let done = turn_until(&mut uring, 5);
    assert_eq!(uring.enters(), 0);
    for completion in done {
        assert_eq!(completion.result.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{}", completion.token);
        assert_eq!(matches!(completion.returned, Returned::Buf(_)), completion.token < 5);
    }
    // And what only the kernel can know.
    uring.read(6, &here, arena.alloc(16).unwrap(), 4096);
    uring.sync(7, &here);
    assert!(turn_until(&mut uring, 2).into_iter().all(|c| c.result.is_err()));
}

#[test]
fn a_push_from_another_thread_ends_a_sleep() {
    let (sleeper, waker) = wake::pair().unwrap();
    let (mut tx, mut rx) = ring::ring::<u64>(4);
    let mut uring = Uring::new(UringConfig::with_entries(8), Some(&sleeper)).unwrap();
    const ITEMS: u64 = 2000;
    let producer = std::thread::spawn(move || {
        for item in 0..ITEMS {
            while tx.push(item).is_err() {
                std::thread::yield_now();
            }
            waker.wake();
            if item % 64 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let (mut next, mut sleeps, mut wakes) = (0, 0, 0);
    while next < ITEMS {
        while let Some(item) = rx.pop() {
            assert_eq!(item, next);
            next += 1;
        }
        if next == ITEMS {
            break;
        }
        let announced = sleeper.announce();
        if rx.is_empty() {
            let start = Instant::now();
            let turn = uring.submit_and_reap(Some(PATIENCE), &mut Vec::new()).unwrap();
            assert!(start.elapsed() < PATIENCE, "slept through a push");
            sleeps += 1;
            wakes += u64::from(turn.woken);
        }
        drop(announced);
    }
    producer.join().unwrap();
    assert!(sleeps > 0 && wakes > 0, "{sleeps} sleeps, {wakes} wake-ups");
    assert_eq!(uring.in_flight(), 0, "the wake-up is not the caller's operation");
}

#[test]
fn a_dropped_ring_lets_go_of_every_buffer_and_descriptor() {
    let arena = arena();
    let (here, mut there) = tcp_pair();
    let (sleeper, _waker) = wake::pair().unwrap();
    let listener = Fd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let udp = Fd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut uring = Uring::new(UringConfig::with_entries(2), Some(&sleeper)).unwrap();
    uring.make_pool(&arena, 4, 4096).unwrap();
    uring.accept(0, &listener);
    uring.recv_pooled(20, &here, Shots::Many);
    for token in 1..20 {
        uring.recv(token, &here, arena.alloc(4096).unwrap(), 0..4096, Receive::All);
        uring.recv_train(100 + token, &udp, arena.alloc(65536).unwrap());
    }
    for _ in 0..5 {
        uring.submit_and_reap(None, &mut Vec::new()).unwrap();
    }
    assert!(arena.stats().used_bytes > 0);
    let start = Instant::now();
    drop(uring);
    assert!(start.elapsed() < FAREWELL_TIME / 2);
    assert_eq!(arena.stats().used_bytes, 0);
    assert!(here.try_into_owned().is_ok() && listener.try_into_owned().is_ok() && udp.try_into_owned().is_ok());
    assert_eq!(there.read(&mut [0; 8]).unwrap(), 0, "closed when the last operation let go");
}

#[test]
fn a_descriptor_dropped_by_the_caller_stays_open_while_an_operation_uses_it() {
    let arena = arena();
    let (here, mut there) = tcp_pair();
    let mut uring = uring();
    uring.recv(1, &here, arena.alloc(64).unwrap(), 0..64, Receive::Some);
    let raw = here.raw();
    drop(here);
    uring.submit_and_reap(None, &mut Vec::new()).unwrap();
    let other = std::fs::File::open("/dev/null").unwrap();
    assert_ne!(other.as_raw_fd(), raw, "the number was given to another file while in use");
    there.write_all(b"late").unwrap();
    assert_eq!(*one(&mut uring).result.as_ref().unwrap(), 4);
}

#[test]
fn every_fallback_mode_moves_bytes() {
    for mode in [Mode::Deferred, Mode::Cooperative, Mode::Plain] {
        let mut uring = Uring::in_mode(mode, &UringConfig::with_entries(8)).unwrap();
        assert_eq!(uring.mode(), mode);
        let arena = arena();
        let (here, mut there) = tcp_pair();
        uring.recv(1, &here, arena.alloc(64).unwrap(), 0..64, Receive::Some);
        uring.submit_and_reap(None, &mut Vec::new()).unwrap();
        there.write_all(b"mode").unwrap();
        assert_eq!(*one(&mut uring).result.as_ref().unwrap(), 4, "{mode:?}");
    }
}

/// A ring whose polling thread sleeps after this long without work.
fn polled(idle: Duration, sleeper: Option<&Sleeper>) -> Uring {
    let submission = Submission::Polled { processor: None, idle };
    let uring = Uring::new(UringConfig { entries: 16, submission }, sleeper).unwrap();
    assert_eq!(uring.mode(), Mode::Polled);
    uring
}

/// Turns without waiting until `count` completions are there.
fn spin_until(uring: &mut Uring, count: usize) -> Vec<Completion> {
    let (mut out, start) = (Vec::new(), Instant::now());
    while out.len() < count {
        assert!(start.elapsed() < PATIENCE, "{} of {count} completions", out.len());
        uring.submit_and_reap(None, &mut out).unwrap();
        std::thread::yield_now();
    }
    out
}

#[test]
fn a_polled_ring_enters_the_kernel_no_more_once_its_thread_is_awake() {
    let arena = arena();
    let dir = tempfile::tempdir().unwrap();
    let file = file::create_direct(&dir.path().join("disk"), 1 << 20).unwrap();
    let (here, mut there) = tcp_pair();
    let mut uring = polled(Duration::from_secs(60), None);
    uring.sync(0, &file.fd);
    spin_until(&mut uring, 1);
    let awake = uring.enters();
    // More than the queue takes at once, so that some have to wait for room.
    for token in 0..40 {
        uring.write(token, &file.fd, filled(&arena, 4096, token as u8).freeze(), token * 4096, Durability::Cached);
    }
    let written = spin_until(&mut uring, 40);
    assert!(written.iter().all(|completion| matches!(completion.result, Ok(4096))));
    for token in 0..40 {
        uring.read(token, &file.fd, arena.alloc(4096).unwrap(), token * 4096);
    }
    for completion in spin_until(&mut uring, 40) {
        let token = completion.token as u8;
        assert!(buf_of(completion).iter().all(|byte| *byte == token));
    }
    uring.recv(1, &here, arena.alloc(64).unwrap(), 0..64, Receive::Some);
    there.write_all(b"polled").unwrap();
    assert_eq!(*spin_until(&mut uring, 1)[0].result.as_ref().unwrap(), 6);
    assert_eq!(uring.enters(), awake, "a system call that polling was to save");
}

#[test]
fn rings_of_one_process_share_a_polling_thread() {
    // The kernel names such a thread after the one that made it.
    let maker = std::fs::read_link("/proc/thread-self").unwrap();
    let name = format!("iou-sqp-{}", maker.file_name().unwrap().to_str().unwrap());
    let polling = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|it| it.trim() == name)).count()
    };
    let (arena, (here, mut there)) = (arena(), tcp_pair());
    let mut first = polled(Duration::from_secs(60), None);
    // It has its name once it runs.
    first.sync(0, &here);
    spin_until(&mut first, 1);
    assert_eq!(polling(), 1);
    let poller = first.poller().unwrap().unwrap();
    let submission = Submission::PolledBy(poller);
    let mut second = Uring::new(UringConfig { entries: 16, submission }, None).unwrap();
    // Its own idle time is none: the thread's is the first ring's.
    second.sync(0, &here);
    spin_until(&mut second, 1);
    assert_eq!((polling(), second.mode()), (1, Mode::Polled));
    let awake = second.enters();
    std::thread::sleep(Duration::from_millis(50));
    second.recv(1, &here, arena.alloc(64).unwrap(), 0..64, Receive::Some);
    there.write_all(b"shared").unwrap();
    assert_eq!(*spin_until(&mut second, 1)[0].result.as_ref().unwrap(), 6);
    assert_eq!(second.enters(), awake);
    // The thread outlives the ring that it was made for.
    drop(first);
    second.recv(2, &here, arena.alloc(64).unwrap(), 0..64, Receive::Some);
    there.write_all(b"still").unwrap();
    assert_eq!(*spin_until(&mut second, 1)[0].result.as_ref().unwrap(), 5);
    assert!(uring().poller().unwrap().is_none());
}

#[test]
fn a_polled_ring_wakes_its_thread_when_that_sleeps() {
    let (arena, (here, mut there)) = (arena(), tcp_pair());
    let mut uring = polled(Duration::from_millis(1), None);
    for round in 0..20 {
        std::thread::sleep(Duration::from_millis(if round % 2 == 0 { 10 } else { 0 }));
        uring.recv(round, &here, arena.alloc(64).unwrap(), 0..64, Receive::Some);
        uring.submit_and_reap(None, &mut Vec::new()).unwrap();
        there.write_all(b"once").unwrap();
        // Never waiting, which would wake it as well.
        assert_eq!(*spin_until(&mut uring, 1)[0].result.as_ref().unwrap(), 4);
    }
    assert!(uring.enters() > 0);
}

#[test]
fn a_sleep_on_a_polled_ring_ends_by_a_push_and_its_drop_lets_go_of_everything() {
    let (sleeper, waker) = wake::pair().unwrap();
    let (arena, (here, _there)) = (arena(), tcp_pair());
    let mut uring = polled(Duration::from_millis(50), Some(&sleeper));
    for round in 0..10 {
        let announced = sleeper.announce();
        let other = std::thread::spawn({
            let waker = waker.clone();
            move || waker.wake()
        });
        let (start, mut woken) = (Instant::now(), false);
        while !woken {
            woken = uring.submit_and_reap(Some(PATIENCE), &mut Vec::new()).unwrap().woken;
            assert!(start.elapsed() < PATIENCE, "round {round}: slept through a push");
        }
        drop(announced);
        other.join().unwrap();
    }
    for token in 0..40 {
        uring.recv(token, &here, arena.alloc(4096).unwrap(), 0..4096, Receive::All);
    }
    uring.submit_and_reap(None, &mut Vec::new()).unwrap();
    assert!(arena.stats().used_bytes > 0);
    drop(uring);
    assert_eq!(arena.stats().used_bytes, 0);
    assert!(here.try_into_owned().is_ok());
}

#[test]
fn the_ring_tells_of_a_medium_what_the_system_call_tells() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let file = file::create_direct(&path, 8192).unwrap();
    let mut uring = uring();
    let mut look = |fd: &Fd| {
        uring.standing(1, fd);
        match one(&mut uring).returned {
            Returned::Standing(standing) => standing,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(look(&file.fd), file::Standing { bytes: Some(8192), is_deleted: false });
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    assert_eq!(look(&file.fd), file::standing(&file.fd).unwrap());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(look(&file.fd), file::Standing { bytes: Some(4096), is_deleted: true });
    let device = Fd::from(std::fs::File::open("/dev/null").unwrap());
    assert_eq!(look(&device), file::Standing { bytes: None, is_deleted: false });
}

#[test]
fn a_processor_that_is_not_there_is_refused_with_what_to_do() {
    let submission = Submission::Polled { processor: Some(4095), idle: Duration::from_millis(1) };
    let refused = Uring::new(UringConfig { entries: 8, submission }, None).map(drop).unwrap_err().to_string();
    assert!(
        refused.contains("processor 4095") && refused.contains("may use (taskset -cp $$ shows them), or none"),
        "{refused}"
    );
}
