use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use crate::arena::{Arena, Buf};
use crate::fd::Fd;
use crate::uring::tests::{arena, buf_of, one, tcp_pair, turn_until, uring};
use crate::uring::{Completion, Receive, Shots, Uring};

const BYTES: usize = 4096;

/// A ring with a pool of so many buffers.
fn pooled(buffers: usize) -> (Arena, Uring) {
    let (arena, mut uring) = (arena(), uring());
    uring.make_pool(&arena, buffers, BYTES).unwrap();
    assert_eq!(uring.pooled(), Some(buffers));
    (arena, uring)
}

fn submit(uring: &mut Uring) {
    let mut out = Vec::new();
    uring.submit_and_reap(None, &mut out).unwrap();
    assert!(out.is_empty(), "{out:?}");
}

fn come(there: &mut TcpStream, uring: &mut Uring, bytes: &[u8]) -> Buf {
    there.write_all(bytes).unwrap();
    let came = one(uring);
    assert_eq!((*came.result.as_ref().unwrap() as usize, came.more), (bytes.len(), true));
    let buf = buf_of(came);
    assert_eq!(&buf[..], bytes, "what was received is in view");
    buf
}

fn errno(completion: &Completion) -> Option<i32> {
    completion.result.as_ref().unwrap_err().raw_os_error()
}

#[test]
fn one_receive_brings_everything_that_comes_and_the_silent_hold_no_buffer() {
    let (_arena, mut uring) = pooled(2);
    let silent: Vec<(Fd, TcpStream)> = (0..20).map(|_| tcp_pair()).collect();
    for (number, (here, _)) in (100..).zip(&silent) {
        uring.recv_pooled(number, here, Shots::Many);
    }
    let (here, mut there) = tcp_pair();
    uring.recv_pooled(1, &here, Shots::Many);
    submit(&mut uring);
    assert_eq!(uring.pooled(), Some(2));
    let enters = uring.enters();
    // Far more often than there are buffers, or places for them.
    for round in 0..100_u8 {
        let buf = come(&mut there, &mut uring, &[round; 100]);
        assert_eq!(uring.pooled(), Some(1));
        uring.give_back(buf);
    }
    assert!(uring.enters() - enters <= 200, "nothing is asked for anew");
    drop(there);
    let end = one(&mut uring);
    assert_eq!((end.token, *end.result.as_ref().unwrap(), end.more), (1, 0, false));
    assert_eq!((uring.pooled(), uring.in_flight()), (Some(2), 20));
}

#[test]
fn an_empty_pool_ends_the_receive_and_loses_nothing() {
    let (arena, mut uring) = pooled(2);
    let (here, mut there) = tcp_pair();
    uring.recv_pooled(1, &here, Shots::Many);
    submit(&mut uring);
    let kept = [come(&mut there, &mut uring, b"one"), come(&mut there, &mut uring, b"two")];
    there.write_all(b"three").unwrap();
    let dry = one(&mut uring);
    assert_eq!((dry.token, errno(&dry), dry.more), (1, Some(libc::ENOBUFS), false));
    // Memory of one's own is a way on ...
    uring.recv(2, &here, arena.alloc(64).unwrap(), 0..3, Receive::All);
    assert_eq!(&buf_of(one(&mut uring))[..3], b"thr");
    // ... and a buffer given back another; in its stead any will do.
    drop(kept);
    uring.give_back(arena.alloc(BYTES).unwrap());
    uring.recv_pooled(3, &here, Shots::Many);
    assert_eq!(&buf_of(one(&mut uring))[..], b"ee");
}

#[test]
fn a_buffer_too_many_or_too_small_is_not_the_pools() {
    let (arena, mut uring) = pooled(1);
    let (here, mut there) = tcp_pair();
    let used = arena.stats().used_bytes;
    uring.give_back(arena.alloc(BYTES).unwrap());
    assert_eq!((uring.pooled(), arena.stats().used_bytes), (Some(1), used));
    uring.recv_pooled(1, &here, Shots::Many);
    submit(&mut uring);
    let buf = come(&mut there, &mut uring, b"x");
    uring.give_back(arena.alloc(BYTES / 2).unwrap());
    assert_eq!(uring.pooled(), Some(0));
    uring.give_back(buf);
    assert_eq!(uring.pooled(), Some(1));
    come(&mut there, &mut uring, &[7; BYTES]);
}

#[test]
fn what_is_taken_back_leaves_the_socket_what_it_has() {
    let (arena, mut uring) = pooled(2);
    let (here, mut there) = tcp_pair();
    let pending = uring.recv_pooled(1, &here, Shots::Many);
    submit(&mut uring);
    uring.take_back(&pending);
    let ended = one(&mut uring);
    assert_eq!((ended.token, errno(&ended), ended.more), (1, Some(libc::ECANCELED), false));
    // Its number is another's now, which a second time does not end.
    uring.recv(2, &here, arena.alloc(64).unwrap(), 0..64, Receive::Some);
    uring.take_back(&pending);
    let mut out = Vec::new();
    uring.submit_and_reap(Some(Duration::from_millis(20)), &mut out).unwrap();
    assert!(out.is_empty(), "{out:?}");
    there.write_all(b"payload").unwrap();
    let straight = one(&mut uring);
    assert_eq!((straight.token, *straight.result.as_ref().unwrap()), (2, 7));
    assert_eq!((uring.pooled(), uring.in_flight()), (Some(2), 0));
}

#[test]
fn one_shot_takes_no_more_than_it_is_told() {
    let (_arena, mut uring) = pooled(2);
    let (here, mut there) = tcp_pair();
    there.write_all(b"header and payload").unwrap();
    uring.recv_pooled(1, &here, Shots::One { bytes_max: 6 });
    let came = one(&mut uring);
    assert!(!came.more);
    assert_eq!(&buf_of(came)[..], b"header");
    uring.recv_pooled(2, &here, Shots::One { bytes_max: BYTES * 2 });
    assert_eq!(&buf_of(one(&mut uring))[..], b" and payload");
}

#[test]
fn more_than_a_buffer_holds_comes_in_several_in_order() {
    let (_arena, mut uring) = pooled(4);
    let (here, mut there) = tcp_pair();
    let sent: Vec<u8> = (0..3 * BYTES + 100).map(|at| (at % 251) as u8).collect();
    there.write_all(&sent).unwrap();
    uring.recv_pooled(1, &here, Shots::Many);
    let mut came = Vec::new();
    while came.len() < sent.len() {
        for completion in turn_until(&mut uring, 1) {
            came.extend_from_slice(&buf_of(completion));
        }
    }
    assert_eq!(came, sent);
}

#[test]
fn a_ring_has_one_pool_and_one_without_says_that_it_is_empty() {
    let (arena, mut uring) = (arena(), uring());
    assert_eq!(uring.pooled(), None);
    let (here, mut there) = tcp_pair();
    there.write_all(b"x").unwrap();
    for shots in [Shots::Many, Shots::One { bytes_max: 1 }] {
        uring.recv_pooled(1, &here, shots);
        assert_eq!(errno(&one(&mut uring)), Some(libc::ENOBUFS));
    }
    for (buffers, bytes) in [(0, BYTES), (1 << 16, 512), (4, 16 << 20)] {
        uring.make_pool(&arena, buffers, bytes).unwrap_err();
        assert_eq!((uring.pooled(), arena.stats().used_bytes), (None, 0));
    }
    uring.make_pool(&arena, 3, BYTES).unwrap();
    uring.make_pool(&arena, 3, BYTES).unwrap_err();
    assert_eq!(uring.pooled(), Some(3));
}
