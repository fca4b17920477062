//! Hosts that break the rules.

use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use super::{world::*, *};
use crate::{
    inline::Inline,
    pdu::{CapsuleCmd, CommonHeader, Data, Digests, TermReq, kind, put_header, put_header_with_data},
    spec::{SglDescriptor, Sqe},
    target::CloseReason,
};

/// The C2HTermReq among what was sent: status and information.
fn term_req(conn: &Conn) -> (u16, u32) {
    let (header, data) = TermReq::read_from_prefix(&conn.outbox).unwrap();
    assert_eq!(header.common.kind, kind::C2H_TERM_REQ);
    assert_eq!((header.common.hlen, header.common.plen.get() as usize), (24, 24 + data.len()));
    assert!(data.len() <= 128 && !data.is_empty());
    (header.fes.get(), header.fei.get())
}

/// Sends `bytes` on a connected I/O queue and returns how the target ended it.
fn terminated(digests: Digests, make: impl FnOnce(&mut World, u64, &mut Queue) -> Vec<u8>) -> (u16, u32) {
    let mut world = World::new(1, config());
    let mut options = admin_options();
    options.digests = digests;
    let (_, admin, description) = bring_up(&mut world, options);
    let (id, mut queue) = io_queue(&mut world, &admin, &description, 1, 0);
    let (other_id, mut other) = io_queue(&mut world, &admin, &description, 2, 0);
    let bytes = make(&mut world, id, &mut queue);
    world.conns.get_mut(&id).unwrap().outbox.clear();
    world.give(id, &bytes);
    let conn = &world.conns[&id];
    assert_eq!(conn.closed, Some(CloseReason::ProtocolError));
    assert_eq!(conn.machine.stats().protocol_errors, 1);
    let found = term_req(conn);
    world.hold_blocks = false;
    assert!(status(&mut world, other_id, &mut other, Command::flush(1)).is_success(), "another connection was harmed");
    found
}

fn h2c(cccid: u16, ttag: u16, datao: u32, datal: u32, bytes: usize, flags: u8) -> Vec<u8> {
    let header = Data {
        common: CommonHeader::of(kind::H2C_DATA),
        cccid: cccid.into(),
        ttag: ttag.into(),
        datao: datao.into(),
        datal: datal.into(),
        reserved: [0; 4],
    };
    let mut head = Inline::<160>::new();
    put_header_with_data(&mut head, header, flags, Digests::default(), 4, bytes as u32);
    let mut out = head.as_slice().to_vec();
    out.resize(out.len() + bytes, 0x55);
    out
}

/// Starts a 64 KiB write and returns what the target's R2T says: command and transfer tag.
fn r2t(world: &mut World, id: u64, queue: &mut Queue) -> (u16, u16) {
    queue.submit(Command::write(1, 0, 128, vec![1; 65536], false), 1).unwrap();
    let bytes = queue.take_output();
    world.give(id, &bytes);
    let (r2t, _) = crate::pdu::R2t::read_from_prefix(&world.conns[&id].outbox).unwrap();
    assert_eq!((r2t.common.kind, r2t.r2to.get(), r2t.r2tl.get()), (kind::R2T, 0, 65536));
    (r2t.cccid.get(), r2t.ttag.get())
}

#[test]
fn data_that_was_not_asked_for_is_refused_before_memory_is_touched() {
    let none = Digests::default();
    type Make = fn(u16, u16) -> Vec<u8>;
    let cases: [(&str, Make, (u16, u32)); 8] = [
        ("an unknown tag", |c, _| h2c(c, 999, 0, 4096, 4096, 0), (1, 10)),
        ("a free tag", |c, t| h2c(c, if t == 0 { 1 } else { 0 }, 0, 4096, 4096, 0), (1, 10)),
        ("another command's", |c, t| h2c(c + 1, t, 0, 4096, 4096, 0), (1, 8)),
        ("a gap", |c, t| h2c(c, t, 4096, 4096, 4096, 0), (4, 12)),
        ("too much", |c, t| h2c(c, t, 0, 65540, 65540, 0), (4, 16)),
        ("DATAL apart from PLEN", |c, t| h2c(c, t, 0, 4096, 4100, 0), (1, 16)),
        ("LAST too early", |c, t| h2c(c, t, 0, 4096, 4096, crate::pdu::flag::LAST), (1, 1)),
        ("no data", |c, t| h2c(c, t, 0, 0, 0, 0), (1, 4)),
    ];
    for (what, make, expected) in cases {
        let found = terminated(none, |world, id, queue| {
            let (cid, tag) = r2t(world, id, queue);
            make(cid, tag)
        });
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn a_wrong_header_digest_is_fatal_and_returned() {
    let digests = Digests { header: true, data: false };
    let found = terminated(digests, |_, _, queue| {
        queue.submit(Command::flush(1), 1).unwrap();
        let mut bytes = queue.take_output();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&[1, 2, 3, 4]);
        bytes
    });
    assert_eq!(found, (3, u32::from_le_bytes([1, 2, 3, 4])));
}

#[test]
fn a_capsule_larger_than_offered_is_refused_unread() {
    let found = terminated(Digests::default(), |_, _, _| {
        let sqe = Sqe { opcode: 1, ..Sqe::default() };
        let mut head = Inline::<160>::new();
        let capsule = CapsuleCmd { common: CommonHeader::of(kind::CAPSULE_CMD), sqe };
        put_header_with_data(&mut head, capsule, 0, Digests::default(), 4, 16385);
        head.as_slice().to_vec()
    });
    assert_eq!(found, (1, 4));
}

#[test]
fn more_commands_than_the_queue_holds_end_the_connection() {
    let found = terminated(Digests::default(), |world, _, _| {
        world.hold_blocks = true;
        let mut bytes = Vec::new();
        for cid in 0..129u16 {
            let sqe = Sqe { opcode: 0, cid: cid.into(), nsid: 1.into(), ..Sqe::default() };
            let mut head = Inline::<160>::new();
            put_header(
                &mut head,
                CapsuleCmd { common: CommonHeader::of(kind::CAPSULE_CMD), sqe },
                0,
                Digests::default(),
            );
            bytes.extend_from_slice(head.as_slice());
        }
        bytes
    });
    assert_eq!(found, (2, 0));
}

#[test]
fn a_second_icreq_is_out_of_sequence() {
    let found = terminated(Digests::default(), |_, _, _| Queue::new(admin_options()).take_output());
    assert_eq!(found, (2, 0));
}

#[test]
fn a_wrong_data_digest_fails_the_command_and_not_the_connection() {
    for (blocks, bytes) in [(1u16, 512usize), (128, 65536)] {
        let mut world = World::new(1, config());
        let mut options = admin_options();
        options.digests = Digests { header: true, data: true };
        let (_, admin, description) = bring_up(&mut world, options);
        let (id, mut queue) = io_queue(&mut world, &admin, &description, 1, 0);
        queue.submit(Command::write(1, 0, blocks, vec![7; bytes], false), 1).unwrap();
        let mut output = queue.take_output();
        if blocks > 1 {
            world.give(id, &output);
            let reply = std::mem::take(&mut world.conns.get_mut(&id).unwrap().outbox);
            queue.receive(&reply);
            output = queue.take_output();
        }
        let end = output.len();
        output[end - 10] ^= 1;
        world.give(id, &output);
        world.run(&mut [(id, &mut queue)]);
        assert_eq!(done(&mut queue).status, Status::TRANSIENT_TRANSPORT_ERROR);
        assert_eq!(world.conns[&id].machine.stats().data_digest_errors, 1);
        assert!(!world.disks.contains_key(&101), "damaged data reached the device");
        assert!(status(&mut world, id, &mut queue, Command::write(1, 0, blocks, vec![7; bytes], false)).is_success());
    }
}

#[test]
fn a_version_or_alignment_that_does_not_exist_is_refused_in_icreq() {
    for (at, expected) in [(8, (6, 8)), (10, (1, 10))] {
        let mut world = World::new(1, config());
        let id = world.accept(0);
        let mut bytes = Queue::new(admin_options()).take_output();
        bytes[at] = 200;
        world.give(id, &bytes);
        assert_eq!(term_req(&world.conns[&id]), expected);
    }
}

#[test]
fn bad_data_pointers_fail_their_command_only() {
    let mut world = World::new(1, config());
    let (_, _, id, mut queue) = connected(&mut world);
    let descriptors = [
        (SglDescriptor { kind: 0x02, length: 512.into(), ..Default::default() }, Status::SGL_TYPE_INVALID),
        (
            SglDescriptor { kind: 0x01, length: 512.into(), address: 8.into(), ..Default::default() },
            Status::SGL_OFFSET_INVALID,
        ),
        (SglDescriptor { kind: 0x01, length: 508.into(), ..Default::default() }, Status::DATA_SGL_LENGTH_INVALID),
        (SglDescriptor { kind: 0x5a, length: 512.into(), ..Default::default() }, Status::DATA_SGL_LENGTH_INVALID),
        (SglDescriptor { kind: 0x5a, length: u32::MAX.into(), ..Default::default() }, Status::INVALID_FIELD),
    ];
    for (sgl, expected) in descriptors {
        let mut head = Inline::<160>::new();
        let sqe = Sqe { opcode: 1, flags: 0x40, cid: 0.into(), nsid: 1.into(), sgl, ..Sqe::default() };
        put_header_with_data(
            &mut head,
            CapsuleCmd { common: CommonHeader::of(kind::CAPSULE_CMD), sqe },
            0,
            Digests::default(),
            4,
            512,
        );
        let mut bytes = head.as_slice().to_vec();
        bytes.resize(bytes.len() + 512, 1);
        world.give(id, &bytes);
        let reply = std::mem::take(&mut world.conns.get_mut(&id).unwrap().outbox);
        let response = crate::pdu::CapsuleResp::read_from_bytes(&reply).unwrap();
        assert_eq!(response.cqe.status(), expected.dnr());
    }
    assert!(status(&mut world, id, &mut queue, Command::flush(1)).is_success());
}

#[test]
fn commands_before_connect_are_out_of_sequence() {
    let mut world = World::new(1, config());
    let id = world.accept(0);
    let mut bytes = Queue::new(admin_options()).take_output();
    let sqe = Sqe { opcode: 6, ..Sqe::default() };
    bytes.extend_from_slice(
        CapsuleCmd {
            common: CommonHeader { kind: kind::CAPSULE_CMD, flags: 0, hlen: 72, pdo: 0, plen: 72.into() },
            sqe,
        }
        .as_bytes(),
    );
    world.give(id, &bytes);
    let reply = world.conns[&id].outbox[128..].to_vec();
    let response = crate::pdu::CapsuleResp::read_from_bytes(&reply).unwrap();
    assert_eq!(response.cqe.status(), Status::COMMAND_SEQUENCE_ERROR.dnr());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_at_any_point_of_a_connections_life_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        cuts in prop::collection::vec(1usize..300, 1..4), stage in 0u8..3,
    ) {
        let mut world = World::new(1, config()).cut(&cuts);
        let (admin_id, _, io_id, _) = connected(&mut world);
        let id = match stage { 0 => world.accept(0), 1 => admin_id, _ => io_id };
        world.give(id, &bytes);
        world.tick(20_000_000_000);
        world.event(id, crate::target::Event::Disconnected);
        world.settle();
    }

    #[test]
    fn valid_capsules_with_arbitrary_entries_never_panic_and_lose_no_memory(
        entries in prop::collection::vec((any::<[u8; 64]>(), 0u8..32, prop::sample::select(vec![0u32, 16, 512, 4096])), 1..40),
        admin_queue: bool,
    ) {
        let mut world = World::new(1, config());
        let (admin_id, _, io_id, _) = connected(&mut world);
        let id = if admin_queue { admin_id } else { io_id };
        let before = world.pool.get();
        for (sqe, opcode, data) in entries {
            let mut sqe = Sqe::read_from_bytes(&sqe).unwrap();
            sqe.opcode = if opcode == 31 { 0x7f } else { opcode };
            if sqe.opcode != 0x7f {
                sqe.nsid = (sqe.nsid.get() % 4).into();
                sqe.flags = 0x40;
            }
            sqe.sgl.kind = if data > 0 { 0x01 } else { 0x5a };
            sqe.sgl.address = 0.into();
            sqe.sgl.length = if data > 0 { data } else { sqe.sgl.length.get() % 100_000 }.into();
            let capsule = CapsuleCmd { common: CommonHeader::of(kind::CAPSULE_CMD), sqe };
            let mut head = Inline::<160>::new();
            if data > 0 {
                put_header_with_data(&mut head, capsule, 0, Digests::default(), 4, data);
            } else {
                put_header(&mut head, capsule, 0, Digests::default());
            }
            let mut bytes = head.as_slice().to_vec();
            bytes.resize(bytes.len() + data as usize, 0);
            if world.conns.contains_key(&id) {
                world.give(id, &bytes);
            }
        }
        world.event(id, crate::target::Event::Disconnected);
        world.settle();
        prop_assert_eq!(world.pool.get(), before);
    }
}
