//! The way in for fuzzers: anything that could stand in a datagram.

use super::header::{HEADER_BYTES, Header};
use super::seal::Seal;
use super::{DataFrame, DownReason, Link, LinkConfig, LinkSink, Security, Ticket, Verdict, generate_keypair};
use crate::message::Message;
use crate::primary::{Backlog, Beacon};
use crate::secondary::StreamStatus;
use crate::types::{Epoch, Generation, Mono, Now, Seq, StreamId, SystemId, Time};
use std::net::{Ipv4Addr, SocketAddr};

struct Nothing;

impl LinkSink for Nothing {
    fn data(&mut self, _: SystemId, frame: DataFrame<'_>, _: Ticket) -> Verdict {
        assert!(frame.fragment_offset as usize + frame.body.len() <= frame.head.payload_bytes as usize);
        if frame.body.len().is_multiple_of(2) { Verdict::Accept } else { Verdict::Drop }
    }
    fn beacon(&mut self, _: SystemId, _: u64, _: Beacon) {}
    fn status(&mut self, _: SystemId, _: StreamStatus, _: Backlog) {}
    fn message(&mut self, _: SystemId, _: Message) {}
    fn session_up(&mut self, _: SystemId, _: u64) {}
    fn session_down(&mut self, _: SystemId, _: DownReason) {}
}

fn now(millis: u64) -> Now {
    let ns = millis * 1_000_000;
    Now { time: Time(1 << 60), mono: Mono(ns), lease: Time(u64::MAX), error_bound_ns: 0 }
}

/// Gives the bytes to a link with a session up: as a datagram, and as the rest of one whose session and check fit.
/// Never panics, whatever the bytes.
#[doc(hidden)]
pub fn fuzz_datagram(bytes: &[u8]) {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let (a_private, a_public) = generate_keypair([1; 32]);
    let (b_private, b_public) = generate_keypair([2; 32]);
    let link = |private, public, seed| {
        let mut config = LinkConfig::new(private, public, Some(addr));
        config.security = Security::None;
        Link::<Vec<u8>>::new(config, seed)
    };
    let (Ok(mut a), Ok(mut b)) = (link(a_private, b_public, [3; 32]), link(b_private, a_public, [4; 32])) else {
        return;
    };
    let mut out = vec![0; 64 * 1024];
    for step in 0..6 {
        let (from, to) = if step % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        while let Some(train) = from.poll_transmit(now(step), &mut out) {
            let (train_bytes, _) = out.split_at_mut(train.bytes);
            to.handle_datagrams(now(step), addr, train_bytes, train.segment_bytes, &mut Nothing);
        }
    }
    b.stream_start(StreamId(7), Epoch(1), Generation::default(), Seq(0));
    b.handle_datagrams(now(10), addr, &mut bytes.to_vec(), 0, &mut Nothing);
    if let (Some(session), Some(rest)) = (&b.session, bytes.get(1..)) {
        let mut datagram = vec![0; HEADER_BYTES.max(rest.len())];
        datagram[..rest.len()].copy_from_slice(rest);
        // Version and session as they should be; the kind and everything after it are the fuzzer's.
        datagram[0] = super::header::VERSION;
        datagram[4..8].copy_from_slice(&session.keys.local.to_le_bytes());
        datagram.extend_from_slice(&[0; 4]);
        if let Some((header, _)) = Header::read(&datagram) {
            let body = datagram[HEADER_BYTES..datagram.len() - 4].to_vec();
            Seal::Crc.seal(&header, &body, &mut datagram);
            b.handle_datagrams(now(11), addr, &mut datagram, 0, &mut Nothing);
        }
    }
    b.handle_timeout(now(12), &mut Nothing);
    while b.poll_transmit(now(12), &mut out).is_some() {}
    let _ = (b.next_timeout(), b.stats());
}
