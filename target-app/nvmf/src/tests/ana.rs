//! Asymmetric Namespace Access: what hosts are told, when, and what their commands are answered with.

use super::{world::*, *};
use crate::{
    host::NamespaceInfo,
    spec::{
        AnaGroupDescriptor, AnaHeader, IdentifyController, IdentifyNamespace, IdentifyNamespaceIndependent, cns, lid,
    },
    target::{AnaGroup, AnaState, Nsid, Subsystem, TargetConfig},
};
use zerocopy::FromBytes;

const OTHER_LISTENER: &str = "0.0.0.0:4421";

/// As [`config`], with ANA reported.
fn reporting() -> TargetConfig {
    edited(&config(), |subsystem| subsystem.ana.reporting = true)
}

fn edited(config: &TargetConfig, change: impl FnOnce(&mut Subsystem)) -> TargetConfig {
    let mut config = config.clone();
    config.edit(&nqn(SUBSYSTEM), change).unwrap();
    config
}

/// Namespace 1 held in `state`.
fn held(config: &TargetConfig, state: AnaState) -> TargetConfig {
    edited(config, |subsystem| assert!(subsystem.hold_namespace(Nsid::new(1).unwrap(), Some(state))))
}

fn access(namespaces: &[NamespaceInfo]) -> Vec<(u32, AnaState)> {
    namespaces.iter().map(|namespace| (namespace.nsid, namespace.access)).collect()
}

/// What the next event says of the namespaces.
fn reported(admin: &mut host::Controller) -> Vec<(u32, AnaState)> {
    match admin.poll() {
        Some(ControllerEvent::Namespaces(now)) => access(&now),
        other => panic!("no event but {other:?}"),
    }
}

/// The ANA log: its change count, and group, namespaces, change count and state of each descriptor.
type Log = (u64, Vec<(u32, Vec<u32>, u64, u8)>);

fn log(world: &mut World, id: u64, admin: &mut host::Controller, groups_only: bool) -> Log {
    let mut command = Command::get_log(lid::ANA, 0, 4096, true);
    command.sqe.cdw10[0] = (command.sqe.dword(10) | u32::from(groups_only) << 8).into();
    let page = execute_admin(world, id, admin, command).data;
    let (header, mut rest) = AnaHeader::read_from_prefix(&page).unwrap();
    let mut groups = Vec::new();
    for _ in 0..header.groups.get() {
        let (group, behind) = AnaGroupDescriptor::read_from_prefix(rest).unwrap();
        let (nsids, behind) = behind.split_at(group.namespaces.get() as usize * 4);
        let nsids = nsids.chunks_exact(4).map(|nsid| u32::from_le_bytes(nsid.try_into().unwrap())).collect();
        groups.push((group.group.get(), nsids, group.change_count.get(), group.state));
        rest = behind;
    }
    assert!(rest.iter().all(|byte| *byte == 0));
    (header.change_count.get(), groups)
}

#[test]
fn a_subsystem_that_reports_says_so_where_linux_looks() {
    let mut world = World::new(1, reporting());
    let (id, mut admin, description) = bring_up(&mut world, admin_options());
    assert_eq!(access(&description.namespaces), [(1, AnaState::Optimized), (2, AnaState::Optimized)]);
    let page = execute_admin(&mut world, id, &mut admin, Command::identify(cns::CONTROLLER, 0)).data;
    let page = IdentifyController::read_from_bytes(&page).unwrap();
    assert_eq!((page.cmic & 1 << 3, page.oaes.get() & 1 << 11), (1 << 3, 1 << 11));
    assert!(page.anatt > 0 && page.anacap & 0b1_1111 == 0b1_1111);
    // Linux refuses a MNAN of 0 or above NN, and allocates its log by NANAGRPID and MNAN.
    assert!(page.mnan.get() > 0 && page.mnan.get() <= page.nn.get());
    assert!(page.nanagrpid.get() >= 2 && page.anagrpmax.get() >= page.nanagrpid.get());
    for nsid in [1, 2] {
        let page = execute_admin(&mut world, id, &mut admin, Command::identify(cns::NAMESPACE, nsid)).data;
        let page = IdentifyNamespace::read_from_bytes(&page).unwrap();
        assert_eq!((page.nmic & 1, page.anagrpid.get()), (1, nsid));
        let page = execute_admin(&mut world, id, &mut admin, Command::identify(cns::NAMESPACE_INDEPENDENT, nsid)).data;
        assert_eq!(IdentifyNamespaceIndependent::read_from_bytes(&page).unwrap().anagrpid.get(), nsid);
    }
    let supported = execute_admin(&mut world, id, &mut admin, Command::get_log(lid::SUPPORTED, 0, 1024, true)).data;
    assert_eq!(supported[usize::from(lid::ANA) * 4], 1);
}

#[test]
fn a_subsystem_that_does_not_report_says_nothing_and_refuses_all_the_same() {
    let mut world = World::new(1, config());
    let (admin_id, mut admin, id, mut queue) = connected(&mut world);
    let page = execute_admin(&mut world, admin_id, &mut admin, Command::identify(cns::CONTROLLER, 0)).data;
    let page = IdentifyController::read_from_bytes(&page).unwrap();
    assert_eq!((page.cmic & 1 << 3, page.oaes.get() & 1 << 11, page.nanagrpid.get()), (0, 0, 0));
    // Not even to a host that asks for the event.
    assert!(
        execute_admin(&mut world, admin_id, &mut admin, Command::set_feature(0x0b, 1 << 8 | 1 << 11))
            .status
            .is_success()
    );
    world.set_config(held(&config(), AnaState::Inaccessible));
    world.run(&mut [(admin_id, &mut admin)]);
    assert_eq!(admin.poll(), None);
    assert_eq!(status(&mut world, id, &mut queue, Command::read(1, 0, 1, 512)), Status::ANA_INACCESSIBLE);
}

#[test]
fn each_state_answers_commands_as_it_must_and_never_says_do_not_retry() {
    let mut world = World::new(1, reporting());
    let (_, _, id, mut queue) = connected(&mut world);
    for (state, expected) in [
        (AnaState::NonOptimized, Status::SUCCESS),
        (AnaState::Change, Status::ANA_TRANSITION),
        (AnaState::Inaccessible, Status::ANA_INACCESSIBLE),
        (AnaState::PersistentLoss, Status::ANA_PERSISTENT_LOSS),
        (AnaState::Optimized, Status::SUCCESS),
    ] {
        world.set_config(held(&reporting(), state));
        for command in [
            Command::read(1, 0, 1, 512),
            Command::write(1, 0, 1, vec![1; 512], false),
            Command::flush(1),
            Command::write_zeroes(1, 0, 1, false),
            Command::deallocate(1, &[(0, 1)]),
        ] {
            assert_eq!(status(&mut world, id, &mut queue, command), expected, "{state}");
        }
        assert!(!expected.is_dnr());
        // The other namespace has a group of its own.
        assert!(status(&mut world, id, &mut queue, Command::read(2, 0, 1, 4096)).is_success(), "{state}");
    }
}

#[test]
fn a_write_whose_data_comes_after_the_change_is_not_carried_out() {
    let mut world = World::new(1, reporting());
    let (_, _, id, mut queue) = connected(&mut world);
    let blocks = 64;
    queue.submit(Command::write(1, 0, blocks, vec![7; 512 * usize::from(blocks)], false), 5).unwrap();
    let capsule = queue.take_output();
    world.give(id, &capsule);
    // The target has asked for the data; the namespace goes away before it comes.
    world.set_config(held(&reporting(), AnaState::Inaccessible));
    world.run(&mut [(id, &mut queue)]);
    assert_eq!(done(&mut queue).status, Status::ANA_INACCESSIBLE);
    assert!(world.log.is_empty(), "{:?}", world.log);
}

#[test]
fn a_host_learns_of_each_change_by_one_event_and_follows_it() {
    let mut world = World::new(1, reporting());
    let (id, mut admin, _) = bring_up(&mut world, admin_options());
    for state in [AnaState::Change, AnaState::Inaccessible, AnaState::NonOptimized, AnaState::Optimized] {
        world.set_config(held(&reporting(), state));
        world.run(&mut [(id, &mut admin)]);
        assert_eq!(reported(&mut admin), [(1, state), (2, AnaState::Optimized)]);
        assert_eq!(admin.poll(), None);
    }
    // A change elsewhere in the subsystem is no ANA event.
    world.set_config(edited(&reporting(), |subsystem| subsystem.allow_any_host = true));
    world.run(&mut [(id, &mut admin)]);
    assert_eq!(admin.poll(), None);
}

#[test]
fn the_event_comes_once_until_its_log_was_read_and_only_to_hosts_that_asked() {
    let mut world = World::new(1, reporting());
    let id = world.accept(0);
    let mut queue = Queue::new(admin_options());
    world.run(&mut [(id, &mut queue)]);
    assert!(matches!(queue.poll(), Some(QueueEvent::Connected { .. })));
    let enable = Command::property_set(crate::spec::offset::CC, crate::spec::cc::EN | 6 << 16 | 4 << 20);
    assert!(status(&mut world, id, &mut queue, enable).is_success());
    for token in [1, 2] {
        queue.submit(Command::async_event_request(), token).unwrap();
    }
    let change = |world: &mut World, queue: &mut Queue, state| {
        world.set_config(held(&reporting(), state));
        world.run(&mut [(id, queue)]);
    };
    change(&mut world, &mut queue, AnaState::Inaccessible);
    assert_eq!(queue.poll(), None, "not asked for");
    // Asked for now: what changed before is told at once, as a notice about the ANA log.
    queue.submit(Command::set_feature(0x0b, 1 << 11), 3).unwrap();
    world.run(&mut [(id, &mut queue)]);
    let both = [done(&mut queue), done(&mut queue)];
    let event = both.iter().find(|done| done.token == 1).unwrap();
    assert_eq!(event.result, 0x0c_03_02);
    change(&mut world, &mut queue, AnaState::Change);
    change(&mut world, &mut queue, AnaState::Optimized);
    assert_eq!(queue.poll(), None, "its log was not read");
    assert!(status(&mut world, id, &mut queue, Command::get_log(lid::ANA, 0, 64, true)).is_success());
    change(&mut world, &mut queue, AnaState::Change);
    assert_eq!(queue.poll(), None, "its log was read with RAE");
    assert!(status(&mut world, id, &mut queue, Command::get_log(lid::ANA, 0, 64, false)).is_success());
    change(&mut world, &mut queue, AnaState::Optimized);
    assert_eq!(done(&mut queue).token, 2);
}

#[test]
fn the_log_lists_groups_in_order_with_their_namespaces_and_counts_changes() {
    let shared = AnaGroup::new(7).unwrap();
    let config = edited(&reporting(), |subsystem| {
        for nsid in [3, 4] {
            let member = crate::target::Namespace { ana_group: shared, ..namespace(nsid) };
            subsystem.namespaces.insert(member.nsid, member);
        }
    });
    let mut world = World::new(1, config.clone());
    let (id, mut admin, _) = bring_up(&mut world, admin_options());
    let all = |first: (u64, u8), last: (u64, u8)| {
        vec![(1, vec![1], first.0, first.1), (2, vec![2], 0, 1), (7, vec![3, 4], last.0, last.1)]
    };
    assert_eq!(log(&mut world, id, &mut admin, false), (0, all((0, 1), (0, 1))));

    // Holding one member of a group holds all of it: they cannot differ.
    let hold = |subsystem: &mut Subsystem| {
        assert!(subsystem.hold_namespace(Nsid::new(4).unwrap(), Some(AnaState::Change)));
    };
    world.set_config(edited(&config, hold));
    world.run(&mut [(id, &mut admin)]);
    let expected = [(1, AnaState::Optimized), (2, AnaState::Optimized), (3, AnaState::Change), (4, AnaState::Change)];
    assert_eq!(reported(&mut admin), expected);
    assert_eq!(log(&mut world, id, &mut admin, false), (1, all((0, 1), (1, 0x0f))));
    let (_, groups) = log(&mut world, id, &mut admin, true);
    assert_eq!(groups, [(1, vec![], 0, 1), (2, vec![], 0, 1), (7, vec![], 1, 0x0f)]);

    world.set_config(held(&edited(&config, hold), AnaState::Inaccessible));
    world.run(&mut [(id, &mut admin)]);
    assert_eq!(reported(&mut admin)[0], (1, AnaState::Inaccessible));
    assert_eq!(log(&mut world, id, &mut admin, false), (2, all((1, 3), (1, 0x0f))));
    // In pieces it is the same log.
    let whole = execute_admin(&mut world, id, &mut admin, Command::get_log(lid::ANA, 0, 128, true)).data;
    let piece = execute_admin(&mut world, id, &mut admin, Command::get_log(lid::ANA, 48, 40, true)).data;
    assert_eq!(piece, whole[48..88]);
}

#[test]
fn listeners_have_states_of_their_own_and_the_worse_of_two_counts() {
    let [here, there] = [LISTENER, OTHER_LISTENER].map(|listener| listener.parse().unwrap());
    let first = AnaGroup::new(1).unwrap();
    let config = edited(&reporting(), |subsystem| {
        subsystem.listeners.push(there);
        subsystem.ana.set_listener(there, None, AnaState::NonOptimized);
        subsystem.ana.set_listener(here, Some(first), AnaState::Inaccessible);
    });
    let at = |subsystem: &Subsystem, listener| subsystem.ana.state(listener, first);
    let subsystem = &config.subsystems[&nqn(SUBSYSTEM)];
    assert_eq!((at(subsystem, &here), at(subsystem, &there)), (AnaState::Inaccessible, AnaState::NonOptimized));

    let mut world = World::new(1, config.clone());
    let (_, _, description) = bring_up(&mut world, admin_options());
    assert_eq!(access(&description.namespaces), [(1, AnaState::Inaccessible), (2, AnaState::Optimized)]);
    let id = world.accept_at(0, OTHER_LISTENER);
    let mut other = host::Controller::new(admin_options(), 1);
    world.run(&mut [(id, &mut other)]);
    let Some(ControllerEvent::Ready(description)) = other.poll() else { panic!("not ready") };
    assert_eq!(access(&description.namespaces), [(1, AnaState::NonOptimized), (2, AnaState::NonOptimized)]);

    // What the embedding holds is not overruled, and neither is a worse wish.
    for (hold, expected) in [
        (AnaState::Optimized, [AnaState::Inaccessible, AnaState::NonOptimized]),
        (AnaState::Change, [AnaState::Inaccessible, AnaState::Change]),
        (AnaState::PersistentLoss, [AnaState::PersistentLoss, AnaState::PersistentLoss]),
    ] {
        let config = held(&config, hold);
        let subsystem = &config.subsystems[&nqn(SUBSYSTEM)];
        assert_eq!([at(subsystem, &here), at(subsystem, &there)], expected);
    }
    // A word for all groups replaces those for single ones; a listener that comes back starts anew.
    let config = edited(&config, |subsystem| {
        subsystem.ana.set_listener(here, None, AnaState::Optimized);
        subsystem.ana.forget_listener(&there);
    });
    let subsystem = &config.subsystems[&nqn(SUBSYSTEM)];
    assert_eq!((at(subsystem, &here), at(subsystem, &there)), (AnaState::Optimized, AnaState::Optimized));
}

#[test]
fn two_systems_with_ranges_of_their_own_never_give_a_controller_the_same_id() {
    let ids = |min, max| {
        let config = edited(&reporting(), |subsystem| (subsystem.cntlid_min, subsystem.cntlid_max) = (min, max));
        let mut world = World::new(1, config);
        (0..6).map(|_| bring_up(&mut world, admin_options()).2.cntlid).collect::<Vec<_>>()
    };
    assert!(ids(1, 100).iter().all(|id| (1..=100).contains(id)));
    assert!(ids(101, 200).iter().all(|id| (101..=200).contains(id)));
}

#[test]
fn a_reset_counts_from_nothing_and_keeps_the_states() {
    let mut world = World::new(1, reporting());
    let (id, mut admin, _) = bring_up(&mut world, admin_options());
    world.set_config(held(&reporting(), AnaState::Inaccessible));
    world.run(&mut [(id, &mut admin)]);
    assert_eq!(reported(&mut admin)[0], (1, AnaState::Inaccessible));
    assert_eq!(log(&mut world, id, &mut admin, true).0, 1);
    let set = |enable| Command::property_set(crate::spec::offset::CC, enable | 6 << 16 | 4 << 20);
    for enable in [0, crate::spec::cc::EN] {
        admin.submit(set(enable), 6).unwrap();
        world.run(&mut [(id, &mut admin)]);
    }
    while admin.poll().is_some() {}
    assert_eq!(log(&mut world, id, &mut admin, true), (0, vec![(1, vec![], 0, 3), (2, vec![], 0, 1)]));
}
