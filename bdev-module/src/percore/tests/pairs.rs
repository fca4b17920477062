//! Pairs between two cores, with everything real but the reactor.

use longrun_copy::secondary::{TakeoverAt, TakeoverConsent};
use longrun_copy::types::{GroupId, Initial, Overflow, PairId, Scope};
use longrun_copy::{primary, secondary};

use super::*;
use crate::error::{Fault, Injection};

const BLOCKS: u64 = 256;

/// A pair of malloc volumes on each side; the replica devices.
fn paired(base: impl Fn(&mut Site) -> String) -> (Vec<Site>, [BdevId; 2]) {
    let (mut sites, links) = two_linked_sites();
    let remote = sites[1].system;
    let replicas = [0, 1].map(|site: usize| {
        let site = &mut sites[site];
        let base = base(site);
        site.create(Spec::Replica {
            name: "r".to_owned(),
            base_name: base,
            group: "g".to_owned(),
            pair: "p".to_owned(),
            uuid: Uuid::new_v4(),
        })
    });
    let journal = sites[1].create(malloc("j", 16384, 4096));
    let volume = |site: &Site| {
        let base = site.catalog.named("r").unwrap().base.unwrap();
        site.core.volume(base).unwrap()
    };

    let (journal, journal_geometry) = sites[1].core.volume(journal).unwrap();
    let (at_two, geometry) = volume(&sites[1]);
    let Site { core, uring, .. } = &mut sites[1];
    core.operate(now(), uring, |engine, world| {
        let (secondary, mut world) = engine.secondary(world);
        let group = secondary::GroupConfig {
            name: "g".to_owned(),
            journal,
            journal_geometry,
            overlay: None,
            apply_delay_ns: 0,
        };
        secondary.group_create(now(), group, &mut world).unwrap();
        let pair = secondary::PairConfig {
            group: "g".to_owned(),
            name: "p".to_owned(),
            volume: at_two,
            volume_name: "v".to_owned(),
            geometry,
            initial: Initial::Empty,
            volatile: false,
        };
        secondary.pair_create(now(), pair, Ticket(2), &mut world).unwrap();
    });
    answer(&mut sites, 1, Ticket(2));

    let (at_one, geometry) = volume(&sites[0]);
    let Site { core, uring, .. } = &mut sites[0];
    core.operate(now(), uring, |engine, world| {
        let (primary, mut world) = engine.primary(world);
        let group = primary::GroupConfig {
            name: "g".to_owned(),
            scope: Scope::Group,
            link: links[0],
            remote,
            throttle_ms_max: 100,
            overflow: Overflow::Throttle,
            spill: None,
            copy_bytes_per_s: None,
            buffer_bytes: 16 << 20,
        };
        let group = primary.group_create(now(), group, &mut world).unwrap();
        let pair = primary::PairConfig {
            group,
            name: "p".to_owned(),
            volume: at_one,
            geometry,
            remote_volume: String::new(),
            initial: Initial::Empty,
            volatile: false,
        };
        primary.pair_create(now(), pair, Ticket(1), &mut world).unwrap();
    });
    answer(&mut sites, 0, Ticket(1));
    (sites, replicas)
}

fn answer(sites: &mut [Site], site: usize, ticket: Ticket) -> OperatorAnswer {
    until(sites, "an operator's answer", |sites| {
        let at = sites[site].answers.iter().position(|(of, _)| *of == ticket)?;
        Some(sites[site].answers.swap_remove(at).1.unwrap())
    })
}

/// Waits until everything written so far is durable at the secondary, and takes it over.
fn take_over(sites: &mut [Site]) {
    let group = GroupId::of_name("g");
    let written = now().time;
    until(sites, "the recovery point", |sites| {
        let Site { core, uring, .. } = &mut sites[1];
        core.operate(now(), uring, |engine, world| {
            let (secondary, _) = engine.secondary(world);
            secondary.group_status(now(), group).filter(|status| status.recovery_point > written).map(drop)
        })
    });
    let Site { core, uring, .. } = &mut sites[1];
    let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
    core.operate(now(), uring, |engine, world| {
        let (secondary, mut world) = engine.secondary(world);
        secondary.group_takeover(now(), group, consent, TakeoverAt::Newest, Ticket(3), &mut world).unwrap();
    });
    match answer(sites, 1, Ticket(3)) {
        OperatorAnswer::TakenOver(certificate) => {
            assert!(certificate.recovery_point > written);
            assert_eq!(certificate.volumes[0].pair, PairId::of_name(group, "p"));
        }
        other => panic!("{other:?}"),
    }
}

fn malloc_volume(site: &mut Site) -> String {
    site.create(malloc("v", BLOCKS, 4096));
    "v".to_owned()
}

#[test]
fn what_hosts_write_on_one_core_is_on_the_other_after_takeover() {
    let (mut sites, replicas) = paired(malloc_volume);
    assert_eq!(read(&mut sites, 1, replicas[1], extent(0, 1)), Err(IoError::Secondary));
    let mut model = vec![0; BLOCKS as usize];
    for round in 0..20u64 {
        let in_flight: Vec<u64> = (0..16)
            .map(|number| {
                let at = extent((round * 37 + number * 11) % (BLOCKS - 4), 1 + (number % 4) as u32);
                let byte = (round * 16 + number) as u8 | 1;
                for lba in at.range() {
                    model[lba as usize] = byte;
                }
                sites[0].submit_write(replicas[0], at, byte)
            })
            .collect();
        for origin in in_flight {
            ended(&mut sites, 0, origin).result.unwrap();
        }
    }
    let unmap = sites[0].submit(replicas[0], Io::Unmap { extent: extent(8, 100) });
    ended(&mut sites, 0, unmap).result.unwrap();
    model[8..108].fill(0);
    let flush = sites[0].submit(replicas[0], Io::Flush);
    ended(&mut sites, 0, flush).result.unwrap();
    take_over(&mut sites);
    for (site, replica) in replicas.into_iter().enumerate() {
        for (lba, byte) in model.iter().enumerate() {
            let found = read(&mut sites, site, replica, extent(lba as u64, 1));
            // The old primary may have been fenced by now.
            if site == 0 && found == Err(IoError::Fenced) {
                continue;
            }
            assert_eq!(found.unwrap(), vec![*byte; 4096], "site {site}, block {lba}");
        }
    }
    write(&mut sites, 1, replicas[1], extent(0, 1), 99).unwrap();
    assert_eq!(read(&mut sites, 1, replicas[1], extent(0, 1)).unwrap(), vec![99; 4096]);
}

#[test]
fn a_write_that_fails_at_home_is_the_old_data_on_both_sides() {
    let (mut sites, replicas) = paired(|site| {
        malloc_volume(site);
        site.create(Spec::Error { base_name: "v".to_owned(), uuid: None });
        "EE_v".to_owned()
    });
    write(&mut sites, 0, replicas[0], extent(5, 2), 1).unwrap();
    let failing = sites[0].catalog.named("EE_v").unwrap().id;
    let Site { core, uring, .. } = &mut sites[0];
    let injection = Injection { io_type: Some(IoType::Write), fault: Fault::Failure, count: 1 };
    core.control(now(), uring, failing, Control::Inject(injection)).unwrap();
    assert_eq!(write(&mut sites, 0, replicas[0], extent(5, 2), 2), Err(IoError::Device { errno: libc::EIO }));
    assert_eq!(read(&mut sites, 0, replicas[0], extent(5, 2)).unwrap(), vec![1; 8192]);
    write(&mut sites, 0, replicas[0], extent(6, 1), 3).unwrap();
    take_over(&mut sites);
    assert_eq!(read(&mut sites, 1, replicas[1], extent(5, 1)).unwrap(), vec![1; 4096]);
    assert_eq!(read(&mut sites, 1, replicas[1], extent(6, 1)).unwrap(), vec![3; 4096]);
}
