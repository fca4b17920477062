//! Connect, its refusals, and discovery.

use super::{world::*, *};
use crate::{
    DISCOVERY_NQN,
    host::{HostError, QueueOptions},
    spec::offset,
    target::{CloseReason, Event, ModelNumber, SETUP_NS_MAX, SerialNumber, Subsystem, TargetConfig},
};

/// What Connect was answered: status code and result, or the controller's id.
fn connect(world: &mut World, listener: &str, options: QueueOptions) -> Result<u16, (u16, u32)> {
    let id = world.accept_at(0, listener);
    let mut queue = Queue::new(options);
    world.run(&mut [(id, &mut queue)]);
    match queue.poll() {
        Some(QueueEvent::Connected { cntlid }) => Ok(cntlid),
        Some(QueueEvent::Failed(HostError::Refused { status, result })) => Err((status.code(), result)),
        other => panic!("{other:?}"),
    }
}

const IN_DATA: u32 = 1 << 16;

#[test]
fn every_refusal_has_its_status_and_names_the_parameter() {
    let mut config = config();
    let mut private = Subsystem::new(
        nqn("nqn.2026-11.io.longrun:private"),
        SerialNumber::new("P").unwrap(),
        ModelNumber::new("M").unwrap(),
    );
    private.listeners.push(LISTENER.parse().unwrap());
    config.set_subsystem(private);
    config.edit(&nqn(SUBSYSTEM), |s| (s.cntlid_min, s.cntlid_max) = (1, 1));
    let mut world = World::new(1, config);
    let options = admin_options();
    let mut with = |change: &dyn Fn(&mut QueueOptions)| {
        let mut options = options.clone();
        change(&mut options);
        connect(&mut world, LISTENER, options)
    };
    assert_eq!(with(&|o| o.subsystem = nqn("nqn.2026-11.io.longrun:none")), Err((0x182, IN_DATA | 256)));
    assert_eq!(with(&|o| o.subsystem = nqn("nqn.2026-11.io.longrun:private")), Err((0x184, 0)));
    assert_eq!(with(&|o| o.cntlid = 5), Err((0x182, IN_DATA | 16)));
    assert_eq!(with(&|o| o.entries = 1), Err((0x182, 44)));
    assert_eq!(with(&|o| o.entries = 129), Err((0x182, 44)));
    assert_eq!(with(&|_| ()), Ok(1));
    assert_eq!(with(&|_| ()), Err((0x181, 0)), "the only controller id is taken");
    assert_eq!(connect(&mut world, "0.0.0.0:9999", options), Err((0x183, 0)));
}

#[test]
fn an_io_queue_is_refused_unless_it_fits_its_controller() {
    let mut world = World::new(2, config());
    let admin_id = world.accept(0);
    let mut admin = Queue::new(admin_options());
    world.run(&mut [(admin_id, &mut admin)]);
    let Some(QueueEvent::Connected { cntlid }) = admin.poll() else { panic!() };
    let options = admin_options().io(1, 128, cntlid, 8192);
    let with = |world: &mut World, change: &dyn Fn(&mut QueueOptions)| {
        let mut options = options.clone();
        change(&mut options);
        connect(world, LISTENER, options)
    };
    assert_eq!(with(&mut world, &|_| ()), Err((0x182, 42)), "before CC.EN");
    let enable = Command::property_set(offset::CC, 1 | 6 << 16 | 4 << 20);
    assert!(status(&mut world, admin_id, &mut admin, enable).is_success());
    assert_eq!(with(&mut world, &|o| o.host = nqn("nqn.2026-11.io.longrun:other-host")), Err((0x182, IN_DATA | 512)));
    assert_eq!(with(&mut world, &|o| o.host_id = [8; 16]), Err((0x182, IN_DATA)));
    assert_eq!(with(&mut world, &|o| o.cntlid = 0x100), Err((0x182, IN_DATA | 16)));
    assert_eq!(with(&mut world, &|o| o.cntlid = 0xffff), Err((0x182, IN_DATA | 16)));
    assert_eq!(with(&mut world, &|o| o.qid = 65), Err((0x182, 42)), "too high");
    assert_eq!(with(&mut world, &|o| o.subsystem = nqn(DISCOVERY_NQN)), Err((0x182, IN_DATA | 256)));
    assert_eq!(with(&mut world, &|o| o.entries = 1), Err((0x182, 44)));
    assert_eq!(with(&mut world, &|_| ()), Ok(cntlid));
    assert!(
        status(&mut world, admin_id, &mut admin, Command::set_feature(7, 1 | 1 << 16)).code() == 0x00c,
        "queues exist already"
    );
}

/// What a Connect is answered in whose capsule PDU these bytes were changed: 8 + 40 is RECFMT; the data begins at 72.
fn changed(world: &mut World, options: QueueOptions, at: usize, byte: u8) -> Result<u16, (u16, u32)> {
    let id = world.accept(0);
    let mut queue = Queue::new(options);
    world.give(id, &queue.take_output());
    let reply = std::mem::take(&mut world.conns.get_mut(&id).unwrap().outbox);
    queue.receive(&reply);
    let mut connect = queue.take_output();
    connect[at] = byte;
    world.give(id, &connect);
    world.run(&mut [(id, &mut queue)]);
    match queue.poll() {
        Some(QueueEvent::Connected { cntlid }) => Ok(cntlid),
        Some(QueueEvent::Failed(HostError::Refused { status, result })) => Err((status.code(), result)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connect_in_another_format_or_with_names_that_are_none_is_refused() {
    let refused =
        [(48, 1, (0x180, 0)), (72 + 512, b'x', (0x182, IN_DATA | 512)), (72 + 256, b'x', (0x182, IN_DATA | 256))];
    for (at, byte, expected) in refused {
        assert_eq!(changed(&mut World::new(1, config()), admin_options(), at, byte), Err(expected), "offset {at}");
    }
}

#[test]
fn a_host_without_a_name_is_known_by_its_identifier() {
    let mut world = World::new(1, config());
    assert!(changed(&mut world, admin_options(), 72 + 512, 0).is_ok(), "any host is allowed");
    let by_id = nqn("nqn.2014-08.org.nvmexpress:uuid:07070707-0707-0707-0707-070707070707");
    let options = QueueOptions { host_id: [7; 16], ..admin_options() };
    let only = |host: crate::Nqn| {
        let mut config = config();
        config.edit(&nqn(SUBSYSTEM), |subsystem| {
            subsystem.allow_any_host = false;
            subsystem.hosts = [host.clone()].into();
        });
        changed(&mut World::new(1, config), options.clone(), 72 + 512, 0).map(drop)
    };
    assert_eq!(only(by_id), Ok(()));
    assert_eq!(only(options.host.clone()), Err((0x184, 0)), "the name that it did not give");
}

#[test]
fn a_queue_id_in_use_is_waited_for_and_then_refused() {
    let mut world = World::new(2, config());
    let (_, admin, description) = bring_up(&mut world, admin_options());
    let (old_id, _) = io_queue(&mut world, &admin, &description, 1, 0);
    let options = admin.options().io(1, 16, description.cntlid, 16384);

    // The old socket dies while the new one waits: the host reconnected faster than its old end was noticed.
    let new_id = world.accept(1);
    let mut again = Queue::new(options.clone());
    world.run(&mut [(new_id, &mut again)]);
    assert_eq!(again.poll(), None);
    world.event(old_id, Event::Disconnected);
    world.run(&mut [(new_id, &mut again)]);
    assert_eq!(again.poll(), Some(QueueEvent::Connected { cntlid: description.cntlid }));

    // The holder lives on.
    let third_id = world.accept(1);
    let mut third = Queue::new(options);
    world.run(&mut [(third_id, &mut third)]);
    assert_eq!(third.poll(), None);
    world.tick(1_000_000_000);
    world.run(&mut [(third_id, &mut third)]);
    let Some(QueueEvent::Failed(HostError::Refused { status, result })) = third.poll() else { panic!() };
    assert_eq!((status.code(), result), (0x182, 42));
    assert!(super::status(&mut world, new_id, &mut again, Command::flush(1)).is_success());
}

#[test]
fn a_waiting_io_queue_that_disconnects_leaves_no_trace() {
    let mut world = World::new(2, config());
    let (admin_id, admin, description) = bring_up(&mut world, admin_options());
    let (_, _) = io_queue(&mut world, &admin, &description, 1, 0);
    let waiting_id = world.accept(1);
    let mut waiting = Queue::new(admin.options().io(1, 16, description.cntlid, 16384));
    world.run(&mut [(waiting_id, &mut waiting)]);
    world.event(waiting_id, Event::Disconnected);
    world.settle();
    assert!(!world.conns.contains_key(&waiting_id));
    assert_eq!(world.conns[&admin_id].machine.info().controller.unwrap().io_queues, [1]);
    assert_eq!(world.conns[&admin_id].machine.deadline_ns(), None);
}

#[test]
fn a_socket_that_never_connects_is_closed_in_time() {
    let mut world = World::new(1, config());
    let silent = world.accept(0);
    assert_eq!(world.conns[&silent].machine.deadline_ns(), Some(world.now_ns + SETUP_NS_MAX));
    world.tick(SETUP_NS_MAX - 1);
    assert!(world.conns.contains_key(&silent));
    let mut reason = None;
    world.now_ns += 1;
    world.event(silent, Event::Tick);
    if let Some(conn) = world.conns.get(&silent) {
        reason = conn.closed;
    }
    assert_eq!(reason, Some(CloseReason::SetupTimeout));
}

fn discover(world: &mut World, listener: &str, host: &str) -> (u64, host::Controller) {
    let id = world.accept_at(0, listener);
    let mut controller = host::Controller::new(QueueOptions::admin(nqn(host), [1; 16], nqn(DISCOVERY_NQN)), 1);
    world.run(&mut [(id, &mut controller)]);
    (id, controller)
}

fn log(controller: &mut host::Controller) -> Vec<(String, String, String)> {
    match controller.poll() {
        Some(ControllerEvent::Discovered { paths, .. }) => {
            paths.into_iter().map(|path| (path.subsystem, path.address, path.port)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn discovery_shows_a_host_what_it_may_use_with_real_addresses_and_tells_of_changes() {
    let mut config = config();
    let private = "nqn.2026-11.io.longrun:private";
    let mut subsystem = Subsystem::new(nqn(private), SerialNumber::new("P").unwrap(), ModelNumber::new("M").unwrap());
    subsystem.listeners.push("198.51.100.1:4421".parse().unwrap());
    subsystem.hosts.insert(nqn(HOST));
    config.set_subsystem(subsystem);
    config.discovery_listeners.push("0.0.0.0:8009".parse().unwrap());
    let mut world = World::new(1, config.clone());
    let entry = |nqn: &str, address: &str, port: &str| (nqn.to_owned(), address.to_owned(), port.to_owned());

    let (_, mut stranger) = discover(&mut world, "0.0.0.0:8009", "nqn.2026-11.io.longrun:stranger");
    assert_eq!(
        log(&mut stranger),
        [entry(DISCOVERY_NQN, "192.0.2.10", "8009"), entry(SUBSYSTEM, "192.0.2.10", "4420")]
    );
    let (id, mut friend) = discover(&mut world, LISTENER, HOST);
    let expected = [
        entry(DISCOVERY_NQN, "192.0.2.10", "4420"),
        entry(SUBSYSTEM, "192.0.2.10", "4420"),
        entry(private, "198.51.100.1", "4421"),
    ];
    assert_eq!(log(&mut friend), expected);

    // A change the host does not see is no event.
    config.edit(&nqn(SUBSYSTEM), |subsystem| subsystem.namespaces.clear());
    world.set_config(config.clone());
    assert!(world.conns[&id].outbox.is_empty());
    config.remove_subsystem(&nqn(private));
    world.set_config(config);
    world.run(&mut [(id, &mut friend)]);
    assert_eq!(log(&mut friend), expected[..2]);
    assert_eq!(friend.poll(), None);
    let refused = execute_admin(&mut world, id, &mut friend, Command::identify(crate::spec::cns::NAMESPACE, 1));
    assert_eq!(refused.status, Status::INVALID_FIELD.dnr());
}

#[test]
fn an_empty_target_still_serves_discovery() {
    let mut world = World::new(1, TargetConfig::default());
    let (_, mut host) = discover(&mut world, "192.0.2.10:8009", HOST);
    assert_eq!(log(&mut host).len(), 1);
}
