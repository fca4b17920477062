//! Reads, writes and the rest of the NVM command set.

use proptest::prelude::*;

use super::{world::*, *};
use crate::{
    pdu::Digests,
    target::{BlockStatus, Event, MEMORY_WAIT_NS_MAX, NamespaceState, Nsid},
};

fn pattern(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_written_is_read_back_whatever_the_cuts_digests_and_sizes(
        cuts in prop::collection::vec(prop_oneof![1usize..100, 100usize..70_000], 1..6),
        header: bool, data: bool, flow_control: bool,
        writes in prop::collection::vec((0u64..2000, prop_oneof![1u16..8, 30u16..40, 300u16..2000], any::<u8>()), 1..6),
    ) {
        let mut world = World::new(2, config()).cut(&cuts);
        let mut options = admin_options();
        options.digests = Digests { header, data };
        options.flow_control = flow_control;
        let (_, admin, description) = bring_up(&mut world, options);
        let (first_id, mut first) = io_queue(&mut world, &admin, &description, 1, 0);
        let (second_id, mut second) = io_queue(&mut world, &admin, &description, 2, 1);
        let mut model = vec![0u8; BLOCKS as usize * 512];
        // In order of submission on one queue at depth; the memory device serves in that order once all data is there.
        for (lba, blocks, seed) in &writes {
            let bytes = pattern(*seed, usize::from(*blocks) * 512);
            let done = execute(&mut world, first_id, &mut first, Command::write(1, *lba, *blocks, bytes.clone(), false));
            prop_assert_eq!(done.status, Status::SUCCESS);
            model[*lba as usize * 512..][..bytes.len()].copy_from_slice(&bytes);
        }
        for (token, (lba, blocks, _)) in writes.iter().enumerate() {
            let command = Command::read(1, *lba, *blocks, u32::from(*blocks) * 512);
            second.submit(command, token as u64).unwrap();
        }
        world.run(&mut [(second_id, &mut second)]);
        for _ in &writes {
            let got = done(&mut second);
            let (lba, blocks, _) = writes[got.token as usize];
            prop_assert!(got.data == model[lba as usize * 512..][..usize::from(blocks) * 512]);
        }
        prop_assert_eq!(world.pool.get(), 64 << 20, "payload memory is missing");
    }
}

#[test]
fn writes_of_many_sizes_at_queue_depth_all_end() {
    let mut world = World::new(1, config()).cut(&[1500, 7, 9000]);
    let (_, _, id, mut queue) = connected(&mut world);
    for token in 0..100u64 {
        let blocks = [1u16, 8, 32, 33, 256][token as usize % 5];
        queue
            .submit(
                Command::write(1, token * 32, blocks, pattern(token as u8, usize::from(blocks) * 512), false),
                token,
            )
            .unwrap();
    }
    world.run(&mut [(id, &mut queue)]);
    let mut tokens: Vec<u64> = (0..100)
        .map(|_| done(&mut queue))
        .map(|done| {
            assert!(done.status.is_success());
            done.token
        })
        .collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_large_write_is_received_straight_into_its_buffer_after_one_r2t() {
    let mut world = World::new(1, config());
    let (_, _, id, mut queue) = connected(&mut world);
    let data = pattern(3, 1 << 20);
    assert!(status(&mut world, id, &mut queue, Command::write(2, 0, 256, data.clone(), false)).is_success());
    assert_eq!(world.disks[&102][..1 << 20], data[..]);
    let conn = &world.conns[&id];
    assert_eq!(conn.machine.stats().r2ts, 1);
    assert!(conn.straight > (1 << 20) - 70_000, "only {} bytes went straight", conn.straight);
}

#[test]
fn data_is_awaited_from_its_r2t_to_its_last_byte_or_the_connections_end() {
    let mut world = World::new(1, config());
    let (_, _, id, mut queue) = connected(&mut world);
    assert!(status(&mut world, id, &mut queue, Command::write(1, 0, 32, pattern(1, 16384), false)).is_success());
    assert!(!world.conns[&id].awaited, "it came with its command");
    for blocks in [33_u16, 256] {
        let data = pattern(2, usize::from(blocks) * 512);
        assert!(status(&mut world, id, &mut queue, Command::write(1, 0, blocks, data, false)).is_success());
        let conn = world.conns.get_mut(&id).unwrap();
        assert!(std::mem::take(&mut conn.awaited) && !conn.machine.awaits_data());
    }
    // A host that asks to send and then ends.
    queue.submit(Command::write(1, 0, 256, pattern(3, 256 * 512), false), 0).unwrap();
    world.give(id, &queue.take_output());
    world.settle();
    assert!(world.conns[&id].machine.awaits_data());
    world.event(id, Event::Disconnected);
    assert!(world.conns.get(&id).is_none_or(|conn| !conn.machine.awaits_data()));
}

#[test]
fn a_write_of_sixteen_kib_needs_no_r2t() {
    let mut world = World::new(1, config());
    let (_, _, id, mut queue) = connected(&mut world);
    assert!(status(&mut world, id, &mut queue, Command::write(1, 0, 32, pattern(1, 16384), false)).is_success());
    assert_eq!(world.conns[&id].machine.stats().r2ts, 0);
    assert!(status(&mut world, id, &mut queue, Command::write(1, 0, 33, pattern(1, 16896), false)).is_success());
    assert_eq!(world.conns[&id].machine.stats().r2ts, 1);
}

#[test]
fn a_reads_data_and_completion_leave_in_one_send() {
    for (flow_control, completion_bytes) in [(true, 24), (false, 0)] {
        let mut world = World::new(1, config());
        let mut options = admin_options();
        options.flow_control = flow_control;
        let (_, admin, description) = bring_up(&mut world, options);
        let (id, mut queue) = io_queue(&mut world, &admin, &description, 1, 0);
        world.conns.get_mut(&id).unwrap().sends.clear();
        assert_eq!(execute(&mut world, id, &mut queue, Command::read(1, 0, 8, 4096)).data, vec![0; 4096]);
        assert_eq!(world.conns[&id].sends, [24 + 4096 + completion_bytes]);
    }
}

#[test]
fn data_to_the_host_begins_where_its_alignment_asks() {
    let mut world = World::new(1, config());
    let id = world.accept(0);
    let mut options = admin_options();
    options.digests = Digests { header: true, data: true };
    let mut queue = Queue::new(options);
    let mut request = queue.take_output();
    // HPDA, 0's based in dwords: 128 bytes.
    request[10] = 31;
    world.give(id, &request);
    world.run(&mut [(id, &mut queue)]);
    assert!(matches!(queue.poll(), Some(QueueEvent::Connected { .. })));
    let enable = Command::property_set(crate::spec::offset::CC, 1 | 6 << 16 | 4 << 20);
    assert!(status(&mut world, id, &mut queue, enable).is_success());
    world.conns.get_mut(&id).unwrap().sends.clear();
    let page = execute(&mut world, id, &mut queue, Command::identify(crate::spec::cns::CONTROLLER, 0));
    assert!(page.status.is_success() && page.data.len() == 4096);
    assert_eq!(world.conns[&id].sends, [128 + 4096 + 4], "header, padding, data, digest");
}

#[test]
fn flush_write_zeroes_fua_and_deallocate_reach_the_device() {
    let mut world = World::new(1, config());
    let (_, _, id, mut queue) = connected(&mut world);
    for command in [
        Command::write(1, 8, 2, pattern(9, 1024), true),
        Command::flush(1),
        Command::write_zeroes(1, 9, 1, true),
        Command::deallocate(1, &[(100, 5), (0, 0), (200, 1)]),
    ] {
        assert!(status(&mut world, id, &mut queue, command).is_success());
    }
    let log: Vec<&str> = world.log.iter().map(String::as_str).collect();
    assert_eq!(log, ["write 8+2 fua true", "flush", "zeroes 9+1 deallocate true", "unmap 100+5", "unmap 200+1"]);
}

#[test]
fn dataset_management_takes_the_longer_buffer_that_linux_sends() {
    let mut world = World::new(1, config());
    let (_, _, id, mut queue) = connected(&mut world);
    let mut command = Command::deallocate(1, &[(7, 3)]);
    if let host::Transfer::ToTarget(data) = &mut command.transfer {
        let mut padded = data.to_vec();
        padded.resize(4096, 0);
        *data = padded.into();
    }
    assert!(status(&mut world, id, &mut queue, command).is_success());
    assert_eq!(world.log, ["unmap 7+3"]);
}

#[test]
fn what_is_outside_of_a_namespace_or_its_rules_is_refused() {
    let mut config = config();
    config.edit(&nqn(SUBSYSTEM), |subsystem| {
        for (nsid, state) in [(3, NamespaceState::NotReady), (4, NamespaceState::ReadOnly)] {
            let nsid = Nsid::new(nsid).unwrap();
            subsystem.namespaces.insert(nsid, crate::target::Namespace { state, ..namespace(nsid.get()) });
        }
    });
    let mut world = World::new(1, config);
    let (_, _, id, mut queue) = connected(&mut world);
    let block = || vec![1; 512];
    let cases = [
        (Command::read(1, BLOCKS - 1, 2, 1024), Status::LBA_OUT_OF_RANGE.dnr()),
        (Command::read(1, u64::MAX, 1, 512), Status::LBA_OUT_OF_RANGE.dnr()),
        (Command::write(1, BLOCKS, 1, block(), false), Status::LBA_OUT_OF_RANGE.dnr()),
        (Command::write_zeroes(1, BLOCKS - 1, 2, false), Status::LBA_OUT_OF_RANGE.dnr()),
        (Command::deallocate(1, &[(BLOCKS, 1)]), Status::LBA_OUT_OF_RANGE.dnr()),
        (Command::read(1, 0, 2, 512), Status::DATA_SGL_LENGTH_INVALID.dnr()),
        (Command::write(1, 0, 2, block(), false), Status::DATA_SGL_LENGTH_INVALID.dnr()),
        (Command::read(1, 0, 4000, 2_048_000), Status::INVALID_FIELD.dnr()),
        (Command::read(9, 0, 1, 512), Status::INVALID_NAMESPACE.dnr()),
        (Command::flush(u32::MAX), Status::INVALID_NAMESPACE.dnr()),
        (Command::flush(0), Status::INVALID_NAMESPACE.dnr()),
        (Command::read(3, 0, 1, 512), Status::NAMESPACE_NOT_READY.dnr()),
        (Command::write(3, 0, 1, block(), false), Status::NAMESPACE_NOT_READY.dnr()),
        (Command::flush(3), Status::NAMESPACE_NOT_READY.dnr()),
        (Command::read(4, 0, 1, 512), Status::SUCCESS),
        (Command::write(4, 0, 1, block(), false), Status::WRITE_PROTECTED.dnr()),
        (Command::write_zeroes(4, 0, 1, false), Status::WRITE_PROTECTED.dnr()),
        (Command::read(1, 0, 1, 512), Status::SUCCESS),
    ];
    for (command, expected) in cases {
        assert_eq!(status(&mut world, id, &mut queue, command.clone()), expected, "{command:?}");
    }
    let mut unknown = Command::flush(1);
    unknown.sqe.opcode = 0x05;
    assert_eq!(status(&mut world, id, &mut queue, unknown), Status::INVALID_OPCODE.dnr());
    assert!(world.log.is_empty(), "{:?}", world.log);
}

#[test]
fn what_a_device_answers_is_what_the_host_sees() {
    let mut world = World::new(1, config());
    let (_, _, id, mut queue) = connected(&mut world);
    for (answer, expected) in [
        (BlockStatus::ReadError, Status::UNRECOVERED_READ_ERROR),
        (BlockStatus::NotReady, Status::NAMESPACE_NOT_READY.dnr()),
        (BlockStatus::Internal, Status::INTERNAL_ERROR),
        (BlockStatus::Transition, Status::ANA_TRANSITION),
        (BlockStatus::Inaccessible, Status::ANA_INACCESSIBLE),
        (BlockStatus::Ok, Status::SUCCESS),
    ] {
        world.next_status = Some(answer);
        assert_eq!(status(&mut world, id, &mut queue, Command::read(1, 0, 1, 512)), expected);
    }
    world.next_status = Some(BlockStatus::WriteError);
    assert_eq!(status(&mut world, id, &mut queue, Command::write(1, 0, 1, vec![0; 512], false)), Status::WRITE_FAULT);
}

#[test]
fn commands_without_memory_wait_and_none_is_lost() {
    let mut world = World::new(1, config()).cut(&[4000]);
    let (_, _, id, mut queue) = connected(&mut world);
    world.pool.set(70_000);
    for token in 0..40u64 {
        let command = match token % 3 {
            0 => Command::read(1, token, 100, 51_200),
            1 => Command::write(1, token, 100, pattern(token as u8, 51_200), false),
            _ => Command::write(1, token, 8, pattern(token as u8, 4096), false),
        };
        queue.submit(command, token).unwrap();
    }
    world.run(&mut [(id, &mut queue)]);
    for _ in 0..40 {
        assert!(done(&mut queue).status.is_success());
    }
    assert!(world.conns[&id].machine.stats().memory_waits > 0);
    assert_eq!(world.pool.get(), 70_000);
}

#[test]
fn a_command_that_waits_too_long_for_memory_fails_retriably_and_the_connection_lives() {
    let mut world = World::new(1, config());
    let (_, _, id, mut queue) = connected(&mut world);
    world.pool.set(100);
    queue.submit(Command::read(1, 0, 1, 512), 1).unwrap();
    queue.submit(Command::write(1, 0, 64, pattern(1, 32768), false), 2).unwrap();
    queue.submit(Command::write(1, 0, 1, pattern(1, 512), false), 3).unwrap();
    world.run(&mut [(id, &mut queue)]);
    assert_eq!(queue.poll(), None);
    let deadline = world.conns[&id].machine.deadline_ns().unwrap();
    assert_eq!(deadline, world.now_ns + MEMORY_WAIT_NS_MAX);
    world.tick(MEMORY_WAIT_NS_MAX);
    world.run(&mut [(id, &mut queue)]);
    for _ in 0..3 {
        assert_eq!(done(&mut queue).status, Status::INTERNAL_ERROR);
    }
    world.pool.set(1 << 20);
    assert!(status(&mut world, id, &mut queue, Command::read(1, 0, 1, 512)).is_success());
}

#[test]
fn a_host_that_does_not_read_is_no_longer_received_from() {
    let mut world = World::new(1, config());
    let (_, _, id, mut queue) = connected(&mut world);
    world.hold_sent = true;
    let mut ended = 0;
    for token in 0..2000 {
        // The host here reads its completions, yet the machine is told that nothing has left.
        let _ = queue.submit(Command::flush(1), token);
        world.run(&mut [(id, &mut queue)]);
        while queue.poll().is_some() {
            ended += 1;
        }
    }
    assert!((256..300).contains(&ended), "{ended} commands were served");
    world.hold_sent = false;
    world.run(&mut [(id, &mut queue)]);
    while queue.poll().is_some() {}
    assert_eq!(queue.outstanding(), 0);
}
