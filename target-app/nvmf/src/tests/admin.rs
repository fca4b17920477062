//! Identify, logs, features, events, resets.

use super::{world::*, *};
use crate::{
    spec::{SmartLog, cns, lid, offset},
    target::{CloseReason, Event, NamespaceState, Nsid},
};
use zerocopy::FromBytes;

const CC_OFF: u32 = 6 << 16 | 4 << 20;

#[test]
fn a_controller_says_what_a_linux_host_checks() {
    let mut world = World::new(1, config());
    let (id, mut admin, description) = bring_up(&mut world, admin_options());
    assert_eq!(description.in_capsule_bytes, 16384);
    assert_eq!(description.transfer_bytes_max, 1 << 20);
    assert_eq!(description.io_queues, 4);
    assert!(description.entries_max >= 128);
    let namespaces: Vec<_> =
        description.namespaces.iter().map(|n| (n.nsid, n.blocks, n.block_bytes, n.ready)).collect();
    assert_eq!(namespaces, [(1, BLOCKS, 512, true), (2, BLOCKS, 4096, true)]);
    let page = execute_admin(&mut world, id, &mut admin, Command::identify(cns::CONTROLLER, 0)).data;
    let page = crate::spec::IdentifyController::read_from_bytes(&page).unwrap();
    assert_eq!(page.cntlid.get(), description.cntlid);
    assert!(page.kas.get() > 0 && page.maxcmd.get() >= 128 && page.icdoff.get() == 0 && page.sgls.get() & 3 != 0);
    assert_eq!(&page.subnqn[..SUBSYSTEM.len()], SUBSYSTEM.as_bytes());
    assert_eq!(page.subnqn[SUBSYSTEM.len()], 0);
    let crto = execute_admin(&mut world, id, &mut admin, Command::property_get(offset::CRTO, false)).result;
    let cap = execute_admin(&mut world, id, &mut admin, Command::property_get(offset::CAP, true)).result;
    assert!(crto >= cap >> 24 & 0xff, "Linux warns when CRTO is below CAP.TO");
    assert_eq!(world.conns[&id].machine.stats().errors, 0);
}

#[test]
fn every_identify_structure_is_served_and_unknown_ones_are_refused() {
    let mut world = World::new(1, config());
    let (id, mut admin, _) = bring_up(&mut world, admin_options());
    for cns in [0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x10, 0x11, 0x12, 0x13, 0x1c] {
        let done = execute_admin(&mut world, id, &mut admin, Command::identify(cns, 1));
        assert!(done.status.is_success() && done.data.len() == 4096, "CNS {cns:#x}: {}", done.status);
    }
    let list = execute_admin(&mut world, id, &mut admin, Command::identify(cns::ACTIVE_NAMESPACES, 1)).data;
    assert_eq!(list[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
    let ids = execute_admin(&mut world, id, &mut admin, Command::identify(cns::DESCRIPTORS, 1)).data;
    assert_eq!((&ids[..4], &ids[4..20], &ids[20..24]), (&[2, 16, 0, 0][..], &[1; 16][..], &[3, 16, 0, 0][..]));
    let unused = execute_admin(&mut world, id, &mut admin, Command::identify(cns::NAMESPACE, 77));
    assert_eq!(unused.data, vec![0; 4096]);
    for (cns, nsid, expected) in [
        (0x44, 1, Status::INVALID_FIELD),
        (0x00, 0, Status::INVALID_NAMESPACE),
        (0x00, u32::MAX, Status::INVALID_NAMESPACE),
        (0x00, 5000, Status::INVALID_NAMESPACE),
        (0x03, 77, Status::INVALID_NAMESPACE),
        (0x02, u32::MAX, Status::INVALID_NAMESPACE),
    ] {
        let done = execute_admin(&mut world, id, &mut admin, Command::identify(cns, nsid));
        assert_eq!(done.status, expected.dnr(), "CNS {cns:#x} of {nsid}");
    }
}

#[test]
fn logs_honour_offset_and_length() {
    let mut world = World::new(1, config());
    let (id, mut admin, _) = bring_up(&mut world, admin_options());
    for log in [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x12] {
        let done = execute_admin(&mut world, id, &mut admin, Command::get_log(log, 0, 512, true));
        assert!(done.status.is_success() && done.data.len() == 512, "log {log:#x}");
    }
    let smart = execute_admin(&mut world, id, &mut admin, Command::get_log(lid::SMART, 0, 512, true)).data;
    assert_eq!(SmartLog::read_from_bytes(&smart).unwrap().available_spare, 100);
    let whole = execute_admin(&mut world, id, &mut admin, Command::get_log(lid::EFFECTS, 0, 4096, true)).data;
    let part = execute_admin(&mut world, id, &mut admin, Command::get_log(lid::EFFECTS, 1024, 64, true)).data;
    assert!(part == whole[1024..1088] && part[0] == 1, "the effects of Flush");
    for (log, offset, expected) in [
        (0x0d, 0, Status::INVALID_LOG_PAGE),
        (lid::ANA, 0, Status::INVALID_LOG_PAGE),
        (lid::DISCOVERY, 0, Status::INVALID_LOG_PAGE),
        (lid::SMART, 516, Status::INVALID_FIELD),
        (lid::SMART, 2, Status::INVALID_FIELD),
    ] {
        let done = execute_admin(&mut world, id, &mut admin, Command::get_log(log, offset, 512, true));
        assert_eq!(done.status, expected.dnr(), "log {log:#x} at {offset}");
    }
}

#[test]
fn features_are_kept_until_a_reset() {
    let mut world = World::new(1, config());
    let (id, mut admin, _) = bring_up(&mut world, admin_options());
    for (feature, value) in [(0x01, 7), (0x04, 0x150), (0x05, 9), (0x0a, 1), (0x0b, 0x100), (0x0f, 5000)] {
        let set = execute_admin(&mut world, id, &mut admin, Command::set_feature(feature, value));
        assert!(set.status.is_success(), "feature {feature:#x}: {}", set.status);
        let got = execute_admin(&mut world, id, &mut admin, Command::get_feature(feature));
        assert_eq!(got.result, u64::from(value), "feature {feature:#x}");
    }
    let queues = execute_admin(&mut world, id, &mut admin, Command::set_feature(0x07, 1000 | 500 << 16));
    assert_eq!(queues.result, 63 | 63 << 16);
    let refused = [
        (Command::set_feature(0x06, 0), Status::FEATURE_NOT_CHANGEABLE),
        (Command::set_feature(0x07, 0xffff), Status::INVALID_FIELD),
        (Command::set_feature(0x77, 0), Status::INVALID_FIELD),
        (Command::get_feature(0x77), Status::INVALID_FIELD),
    ];
    for (command, expected) in refused {
        assert_eq!(execute_admin(&mut world, id, &mut admin, command).status, expected.dnr());
    }
    let mut save = Command::set_feature(0x01, 1);
    save.sqe.cdw10[0].set(1 << 31 | 1);
    assert_eq!(execute_admin(&mut world, id, &mut admin, save).status, Status::FEATURE_NOT_SAVEABLE.dnr());
}

#[test]
fn an_added_a_changed_and_a_removed_namespace_raise_events_that_are_masked_until_the_log_is_read() {
    let mut config = config();
    let mut world = World::new(1, config.clone());
    let (admin_id, mut admin, id, mut queue) = connected(&mut world);
    config.edit(&nqn(SUBSYSTEM), |s| s.namespaces.insert(Nsid::new(3).unwrap(), namespace(3)));
    world.set_config(config.clone());
    world.run(&mut [(admin_id, &mut admin)]);
    let Some(ControllerEvent::Namespaces(now)) = admin.poll() else { panic!("no event") };
    assert_eq!(now.iter().map(|n| n.nsid).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(status(&mut world, id, &mut queue, Command::read(3, 0, 1, 512)).is_success());

    config.edit(&nqn(SUBSYSTEM), |s| {
        s.namespaces.remove(&Nsid::new(1).unwrap());
        s.namespaces.get_mut(&Nsid::new(2).unwrap()).unwrap().state = NamespaceState::NotReady;
    });
    world.set_config(config.clone());
    assert_eq!(status(&mut world, id, &mut queue, Command::read(1, 0, 1, 512)), Status::INVALID_NAMESPACE.dnr());
    // The host has not read the log yet: a second change raises no second event.
    let sends = world.conns[&admin_id].sends.len();
    config.edit(&nqn(SUBSYSTEM), |s| s.namespaces.insert(Nsid::new(9).unwrap(), namespace(9)));
    world.set_config(config.clone());
    assert_eq!(world.conns[&admin_id].sends.len(), sends);
    world.run(&mut [(admin_id, &mut admin)]);
    let Some(ControllerEvent::Namespaces(now)) = admin.poll() else { panic!("no event") };
    assert_eq!(now.iter().map(|n| (n.nsid, n.ready)).collect::<Vec<_>>(), [(2, false), (3, true), (9, true)]);
    assert_eq!(admin.poll(), None);
    // Another configuration with the same namespaces is no event.
    config.generation += 1;
    world.set_config(config);
    assert_eq!(world.conns[&admin_id].outbox.len(), 0);
}

#[test]
fn the_changed_namespace_list_names_them_and_stays_while_the_event_is_retained() {
    let mut config = config();
    let mut world = World::new(1, config.clone());
    let (id, mut admin, _) = bring_up(&mut world, admin_options());
    // No events wanted: the list is kept all the same.
    execute_admin(&mut world, id, &mut admin, Command::set_feature(0x0b, 0));
    config.edit(&nqn(SUBSYSTEM), |s| s.namespaces.insert(Nsid::new(5).unwrap(), namespace(5)));
    world.set_config(config);
    for (retain, expected) in [(true, 5), (false, 5), (false, 0)] {
        let log = execute_admin(&mut world, id, &mut admin, Command::get_log(lid::CHANGED_NAMESPACES, 0, 4096, retain));
        assert_eq!(log.data[0], expected);
    }
}

#[test]
fn a_fifth_asynchronous_event_request_is_refused() {
    let mut world = World::new(1, config());
    let (id, mut admin, _) = bring_up(&mut world, admin_options());
    for _ in 0..3 {
        admin.submit(Command::async_event_request(), 1).unwrap();
    }
    world.run(&mut [(id, &mut admin)]);
    assert_eq!(admin.poll(), None);
    let fifth = execute_admin(&mut world, id, &mut admin, Command::async_event_request());
    assert_eq!(fifth.status, Status::AER_LIMIT_EXCEEDED.dnr());
}

#[test]
fn keep_alive_expiry_closes_all_queues_and_frees_the_controller_only_after_its_last_write() {
    let mut world = World::new(2, config());
    let mut options = admin_options();
    options.keep_alive_ms = 5000;
    let (admin_id, mut admin, description) = bring_up(&mut world, options);
    let (id, mut queue) = io_queue(&mut world, &admin, &description, 1, 1);
    world.tick(4_000_000_000);
    admin.keep_alive(1).unwrap();
    world.run(&mut [(admin_id, &mut admin)]);
    world.tick(4_900_000_000);
    assert_eq!(world.conns[&admin_id].closed, None);
    world.hold_blocks = true;
    queue.submit(Command::write(1, 0, 1, vec![1; 512], false), 1).unwrap();
    world.run(&mut [(id, &mut queue)]);
    assert_eq!(world.requests.len(), 1);
    assert_eq!(world.conns[&id].machine.stats().in_flight, 1);
    world.tick(100_000_000);
    assert_eq!(world.conns[&admin_id].closed, Some(CloseReason::KeepAliveExpired));
    assert_eq!(world.conns[&id].closed, Some(CloseReason::ControllerGone));
    assert!(!world.conns[&admin_id].machine.is_finished() && !world.conns[&id].machine.is_finished());
    assert_eq!(world.controllers(), 1);
    world.hold_blocks = false;
    world.settle();
    assert_eq!((world.controllers(), world.conns.len()), (0, 0));
}

#[test]
fn a_core_that_was_held_up_reads_the_waiting_keep_alive_before_it_gives_up_on_the_host() {
    let mut world = World::new(1, config());
    let mut options = admin_options();
    options.keep_alive_ms = 5000;
    let (id, mut admin, _) = bring_up(&mut world, options);
    admin.keep_alive(1).unwrap();
    // Seven seconds in which this core did nothing; the timer is looked at before the socket.
    world.tick(7_000_000_000);
    assert_eq!(world.conns[&id].closed, None);
    world.run(&mut [(id, &mut admin)]);
    world.tick(4_900_000_000);
    assert_eq!(world.conns[&id].closed, None);
    // Held up again, and now there is nothing to read.
    world.tick(2_000_000_000);
    assert_eq!(world.conns[&id].closed, None);
    let due_ns = world.conns[&id].machine.deadline_ns().unwrap();
    world.tick(due_ns - world.now_ns);
    assert!(world.conns.get(&id).is_none_or(|conn| conn.closed == Some(CloseReason::KeepAliveExpired)));
    assert_eq!(world.controllers(), 0);
}

#[test]
fn a_reset_is_done_only_when_the_io_queues_have_drained() {
    let mut world = World::new(2, config());
    let (admin_id, mut admin, description) = bring_up(&mut world, admin_options());
    let (id, mut queue) = io_queue(&mut world, &admin, &description, 1, 1);
    world.hold_blocks = true;
    queue.submit(Command::write(1, 0, 1, vec![1; 512], false), 1).unwrap();
    world.run(&mut [(id, &mut queue)]);
    let mut csts = |world: &mut World| {
        execute_admin(world, admin_id, &mut admin, Command::property_get(offset::CSTS, false)).result
    };
    assert_eq!(csts(&mut world), 1);
    world.conns.get_mut(&admin_id).unwrap();
    let off = Command::property_set(offset::CC, CC_OFF);
    assert!(execute_admin(&mut world, admin_id, &mut admin, off).status.is_success());
    let mut csts = |world: &mut World| {
        execute_admin(world, admin_id, &mut admin, Command::property_get(offset::CSTS, false)).result
    };
    assert_eq!(csts(&mut world), 1, "a write is still with its device");
    world.hold_blocks = false;
    world.settle();
    assert_eq!(csts(&mut world), 0);
    let identify = execute_admin(&mut world, admin_id, &mut admin, Command::identify(cns::CONTROLLER, 0));
    assert_eq!(identify.status, Status::COMMAND_SEQUENCE_ERROR.dnr());
}

#[test]
fn shutdown_completes_and_a_bad_configuration_is_fatal() {
    let mut world = World::new(1, config());
    let (id, mut admin, _) = bring_up(&mut world, admin_options());
    admin.shut_down(3).unwrap();
    world.run(&mut [(id, &mut admin)]);
    admin.poll();
    let csts = |world: &mut World, admin: &mut host::Controller| {
        execute_admin(world, id, admin, Command::property_get(offset::CSTS, false)).result
    };
    assert_eq!(csts(&mut world, &mut admin), 2 << 2 | 1);
    execute_admin(&mut world, id, &mut admin, Command::property_set(offset::CC, CC_OFF));
    assert_eq!(csts(&mut world, &mut admin), 0);
    // Memory pages of 8 KiB are not on offer.
    execute_admin(&mut world, id, &mut admin, Command::property_set(offset::CC, CC_OFF | 1 << 7 | 1));
    assert_eq!(csts(&mut world, &mut admin), 2);
    execute_admin(&mut world, id, &mut admin, Command::property_set(offset::CC, CC_OFF));
    execute_admin(&mut world, id, &mut admin, Command::property_set(offset::CC, CC_OFF | 1));
    assert_eq!(csts(&mut world, &mut admin), 1);
    for refused in
        [Command::property_set(offset::CAP, 0), Command::property_get(0x60, false), Command::property_get(0, false)]
    {
        assert_eq!(execute_admin(&mut world, id, &mut admin, refused).status.code(), Status::INVALID_FIELD.code());
    }
}

#[test]
fn a_removed_subsystem_closes_its_connections() {
    let mut config = config();
    let mut world = World::new(1, config.clone());
    let (admin_id, _, id, _) = connected(&mut world);
    config.remove_subsystem(&nqn(SUBSYSTEM));
    world.set_config(config);
    for id in [admin_id, id] {
        assert!(world.conns.get(&id).is_none_or(|conn| conn.closed.is_some()));
    }
    assert_eq!(world.controllers(), 0);
}

#[test]
fn the_admin_connections_end_takes_the_io_queues_along() {
    let mut world = World::new(2, config());
    let (admin_id, admin, description) = bring_up(&mut world, admin_options());
    let (id, _) = io_queue(&mut world, &admin, &description, 1, 1);
    let info = world.conns[&admin_id].machine.info();
    assert_eq!(info.controller.unwrap().io_queues, [1]);
    assert_eq!(world.conns[&id].machine.info().queue.unwrap().qid, 1);
    world.event(admin_id, Event::Disconnected);
    world.settle();
    assert!(world.conns.is_empty());
    assert_eq!(world.controllers(), 0);
}
