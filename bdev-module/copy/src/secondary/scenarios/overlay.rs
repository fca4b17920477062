//! Resyncs that the journal cannot hold.

use super::*;
use crate::message::CopyId;
use crate::secondary::rig::Pending;

/// A group with a small journal and an overlay, five writes in, and a primary that was killed.
fn begun(overlay_blocks: u64) -> Rig {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]);
    rig.resyncs = true;
    rig.overlay_blocks = Some(overlay_blocks);
    rig.create();
    rig.settle();
    rig.drain();
    for _ in 0..5 {
        rig.write(0);
        rig.drain();
    }
    rig.write(0);
    rig.resync(0);
    arrive(&mut rig);
    rig
}

fn arrive(rig: &mut Rig) {
    for _ in 0..8 {
        rig.hello();
        for _ in 0..60 {
            rig.deliver(0);
        }
        rig.beacon(0);
        rig.settle();
    }
}

fn is_overlaid(rig: &Rig) -> bool {
    rig.status("g").unit.is_some_and(|unit| unit.is_overlaid)
}

/// Hosts write until the unit goes to the overlay.
fn write_until_overlaid(rig: &mut Rig) {
    for _ in 0..60 {
        rig.write(0);
        arrive(rig);
        if is_overlaid(rig) {
            return;
        }
    }
    panic!("{:?}", rig.status("g"));
}

#[test]
fn a_unit_goes_to_the_overlay_in_midway_and_a_takeover_still_gives_the_image_before_it() {
    for writes in [0, 12] {
        let mut rig = begun(2000);
        let base = rig.status("g").unit.unwrap().base;
        let image = (rig.volume("g", "a"), rig.volume("g", "b"));
        for _ in 0..60 {
            let status = rig.status("g");
            if status.unit.unwrap().is_overlaid {
                break;
            }
            let held = status.journal_used_bytes;
            assert!(held <= status.journal_bytes / 4 * 3, "more than half of the journal: {held} bytes");
            assert_eq!((rig.volume("g", "a"), rig.volume("g", "b")), image, "nothing is overwritten before the switch");
            rig.write(0);
            arrive(&mut rig);
        }
        assert!(is_overlaid(&rig));
        for _ in 0..writes {
            rig.write(0);
            arrive(&mut rig);
        }
        assert_ne!((rig.volume("g", "a"), rig.volume("g", "b")), image, "the unit is on the volumes");
        assert!(rig.status("g").overlay_used_bytes > 0);
        assert_eq!(rig.status("g").recovery_point, base);
        take_over(&mut rig);
        assert_eq!(rig.status("g").recovery_point, base);
        assert_eq!((rig.volume("g", "a"), rig.volume("g", "b")), image);
        rig.assert_cut();
        for (head, _) in &rig.senders[0].history {
            let status = rig.status("g");
            let is_listed = status.discarded.iter().any(|(pair, extent)| {
                *pair == head.pair && extent.lba <= head.extent.lba && extent.end() >= head.extent.end()
            });
            assert!(is_listed || !head.kind.changes_volume(), "{head:?} is marked for failback");
        }
    }
}

#[test]
fn no_takeover_goes_back_before_a_resync_whose_end_a_restart_finds_in_the_journal() {
    let mut rig = begun(2000);
    let base = rig.status("g").unit.unwrap().base;
    write_until_overlaid(&mut rig);
    while !rig.senders[0].marks.is_empty() {
        rig.copy(0);
        arrive(&mut rig);
    }
    // It is said durably where the resync ends; what is journaled last completes it, and the process dies before that is
    // durable too.
    rig.write(0);
    rig.copy_end(0);
    rig.settle();
    assert!(is_overlaid(&rig));
    rig.world.holds_meta = true;
    arrive(&mut rig);
    assert_eq!(rig.status("g").unit, None);
    rig.world.meta_pending.clear();
    rig.world.holds_meta = false;
    rig.kill();
    // Nor while the end that it found is being made durable.
    while rig.status("g").recovery_point <= base {
        rig.world.holds_meta = rig.status("g").phase != GroupPhase::Opening && !rig.world.holds_meta;
        rig.complete();
        rig.turn();
        let status = rig.status("g");
        let is_over = status.unit.is_none() && status.phase != GroupPhase::Opening;
        assert!(!is_over || status.window.is_none_or(|window| window.from > base), "{status:?}");
        if is_over {
            let refused = take_over_at(&mut rig, TakeoverAt::Time(base)).unwrap_err().to_string();
            assert!(refused.contains("it can go to"), "{refused}");
        }
    }
    assert_eq!(rig.status("g").window.map(|window| window.from), Some(rig.status("g").recovery_point));
}

#[test]
fn nothing_of_the_image_is_overwritten_before_the_switch_to_the_overlay_is_durable() {
    for power_goes in [false, true] {
        let mut rig = begun(2000);
        let base = rig.status("g").unit.unwrap().base;
        let image = (rig.volume("g", "a"), rig.volume("g", "b"));
        // The metadata's disk stands still when the switch is asked for.
        while !is_overlaid(&rig) {
            rig.world.holds_meta = false;
            rig.settle();
            rig.world.holds_meta = true;
            rig.write(0);
            arrive(&mut rig);
        }
        for _ in 0..3 {
            rig.write(0);
            arrive(&mut rig);
        }
        let key = meta::key_of(group());
        let is_durable = |rig: &Rig| {
            let known = GroupMeta::decode(&rig.world.meta[&key]).unwrap();
            known.unit.is_some_and(|unit| unit.is_overlaid)
        };
        assert!(!is_durable(&rig));
        assert_eq!((rig.volume("g", "a"), rig.volume("g", "b")), image);
        // A start that does not know of it finds the image where it was.
        rig.world.meta_pending.clear();
        rig.world.holds_meta = false;
        if power_goes {
            rig.crash()
        } else {
            rig.kill()
        }
        while rig.status("g").phase == GroupPhase::Opening {
            rig.complete();
            rig.turn();
        }
        take_over(&mut rig);
        assert_eq!(rig.status("g").recovery_point, base);
        assert_eq!((rig.volume("g", "a"), rig.volume("g", "b")), image);
        rig.assert_cut();
    }
}

#[test]
fn after_a_restart_nothing_of_a_unit_is_applied_before_the_overlay_is_open_again() {
    let mut rig = begun(2000);
    let image = rig.status("g").unit.map(|unit| unit.base);
    write_until_overlaid(&mut rig);
    rig.kill();
    let volumes = (rig.volume("g", "a"), rig.volume("g", "b"));
    // The overlay's device does not answer, everything else does.
    let mut held = Vec::new();
    for _ in 0..400 {
        let of_overlay = |pending: &mut Pending| matches!(pending, Pending::Local(VolumeId(2000), ..));
        held.extend(rig.world.pending.extract_if(.., of_overlay));
        rig.complete();
        rig.turn();
    }
    assert!(!held.is_empty() && rig.status("g").phase != GroupPhase::Opening, "{:?}", rig.status("g"));
    for _ in 0..6 {
        rig.hello();
        rig.write(0);
        for _ in 0..60 {
            rig.deliver(0);
        }
        rig.beacon(0);
        for _ in 0..60 {
            rig.complete();
            rig.turn();
        }
    }
    assert!((rig.volume("g", "a"), rig.volume("g", "b")) == volumes, "what it overwrites is kept nowhere");
    rig.world.pending.append(&mut held);
    rig.settle();
    arrive(&mut rig);
    take_over(&mut rig);
    assert_eq!(Some(rig.status("g").recovery_point), image);
    rig.assert_cut();
}

#[test]
fn the_overlay_s_last_block_is_known_to_be_whole_before_what_it_saved_is_overwritten() {
    let mut rig = begun(2000);
    let image = (rig.volume("g", "a"), rig.volume("g", "b"));
    let is_overwritten = |rig: &Rig| (rig.volume("g", "a"), rig.volume("g", "b")) != image;
    'writing: for _ in 0..60 {
        rig.write(0);
        for _ in 0..8 {
            rig.hello();
            for _ in 0..60 {
                rig.deliver(0);
            }
            rig.beacon(0);
            for _ in 0..40 {
                if is_overlaid(&rig) && is_overwritten(&rig) {
                    break 'writing;
                }
                rig.complete();
                rig.turn();
            }
        }
    }
    assert!(is_overlaid(&rig) && is_overwritten(&rig));
    // Everything on the log's device is durable by now; a bit of its end turns over, and the process dies.
    let disk = rig.world.disks.get_mut(&VolumeId(2000)).unwrap();
    let last = disk.durable.iter().filter(|(_, block)| block.iter().any(|byte| *byte != 0)).map(|(lba, _)| *lba).max();
    let mut block = disk.durable[&last.unwrap()];
    let byte = block.iter().position(|byte| *byte != 0).unwrap();
    block[byte] ^= 1;
    disk.put(last.unwrap(), block);
    rig.kill();
    rig.settle();
    let reason = rig.status("g").reason.unwrap_or_default();
    assert!(reason.contains("the overlay is damaged"), "taken for a torn tail, the image is none: {reason:?}");
}

#[test]
fn a_takeover_puts_the_image_back_when_nothing_is_being_read_for_the_overlay_any_more() {
    let mut rig = begun(2000);
    let image = (rig.volume("g", "a"), rig.volume("g", "b"));
    let is_of_volume = |Pending::Local(volume, io, ..): &mut Pending| {
        // Not the journal's or the overlay's.
        volume.0 < 1000 && matches!(io, LocalIo::Read { .. })
    };
    let mut slow: Vec<Pending> = Vec::new();
    'writing: for _ in 0..60 {
        rig.write(0);
        for _ in 0..60 {
            rig.hello();
            rig.deliver(0);
            rig.beacon(0);
            for _ in 0..40 {
                if is_overlaid(&rig) {
                    slow = rig.world.pending.extract_if(.., is_of_volume).collect();
                }
                if !slow.is_empty() {
                    break 'writing;
                }
                rig.complete();
                rig.turn();
            }
        }
    }
    assert!(!slow.is_empty(), "{:?}", rig.status("g"));
    let (ticket, now) = (rig.ticket(), rig.now());
    let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
    rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
    rig.settle();
    assert_eq!(rig.status("g").phase, GroupPhase::TakingOver, "a volume owes it something");
    rig.world.pending.extend(slow);
    rig.settle();
    assert!(matches!(rig.world.answers[&ticket.0], Ok(OperatorAnswer::TakenOver(_))));
    assert_eq!((rig.volume("g", "a"), rig.volume("g", "b")), image);
    rig.assert_cut();
}

#[test]
fn a_granule_is_saved_once_in_a_unit_and_the_next_unit_saves_it_anew() {
    let mut rig = begun(2000);
    for unit in 1..4 {
        write_until_overlaid(&mut rig);
        let granules = 2 * VOLUME_BLOCKS * BLOCK as u64 / crate::secondary::overlay::GRANULE_BYTES;
        let each = crate::journal::format::entry_bytes(crate::secondary::overlay::GRANULE_BYTES as u32) + 2 * 1024;
        for _ in 0..30 {
            rig.write(0);
            arrive(&mut rig);
            let used = rig.status("g").overlay_used_bytes;
            assert!(used <= granules * each, "unit {unit}: {used} bytes for {granules} granules");
        }
        rig.crash();
        rig.settle();
        rig.drain();
        assert_eq!(rig.senders[0].done.last(), Some(&CopyId::Unit(unit)));
        rig.assert_cut();
        rig.write(0);
        rig.resync(0);
        arrive(&mut rig);
    }
    write_until_overlaid(&mut rig);
    take_over(&mut rig);
    rig.assert_cut();
}

#[test]
fn a_full_overlay_makes_the_resync_wait_and_say_why() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b"), ("g", "c")]);
    rig.resyncs = true;
    rig.overlay_blocks = Some(120);
    rig.create();
    rig.settle();
    rig.drain();
    for lba in (0..VOLUME_BLOCKS).step_by(4) {
        for pair in 0..3 {
            rig.write_at(0, pair, RecordKind::Write, Extent { lba, blocks: 4 });
            rig.drain();
        }
    }
    rig.resync(0);
    arrive(&mut rig);
    let base = rig.status("g").unit.unwrap().base;
    for _ in 0..40 {
        while rig.senders[0].last().0 < rig.senders[0].durable.0 + 14 {
            rig.write(0);
        }
        arrive(&mut rig);
    }
    let status = rig.status("g");
    let reason = status.reason.unwrap();
    assert!(reason.contains("overlay is full: the resync waits") && reason.contains("take the group over"), "{reason}");
    assert_eq!(status.recovery_point, base);
    // Its primary gives it up: the pairs cannot be deleted here, and what to do is said.
    rig.suspend(0);
    rig.settle();
    let reason = rig.status("g").reason.unwrap();
    assert!(reason.contains("the resync was stopped") && reason.contains("take the group over"), "{reason}");
    let (now, ticket) = (rig.now(), rig.ticket());
    let refused = rig.secondary.pair_delete(now, PairId::of_name(group(), "a"), ticket, &mut rig.world);
    let Err(OperatorError::WrongState(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("overlay is full") && text.contains("take the group over"), "{text}");
    rig.crash();
    rig.settle();
    take_over(&mut rig);
    rig.assert_cut();
    assert_eq!(rig.status("g").recovery_point, base);
}

#[test]
fn an_overlay_that_has_room_for_zeroes_only_takes_them_and_says_then_that_it_is_full() {
    for overlay_blocks in 120..140 {
        let mut rig =
            Rig::new(5, &["g"]).stream(1, Scope::Group, &["a", "b", "c", "d", "e", "f"].map(|pair| ("g", pair)));
        rig.resyncs = true;
        rig.overlay_blocks = Some(overlay_blocks);
        rig.create();
        rig.settle();
        rig.drain();
        // Every other granule of the image is zeroes.
        for lba in (0..VOLUME_BLOCKS).step_by(8) {
            for pair in 0..6 {
                rig.write_at(0, pair, RecordKind::Write, Extent { lba, blocks: 4 });
                rig.drain();
            }
        }
        rig.resync(0);
        arrive(&mut rig);
        for lba in (0..VOLUME_BLOCKS).rev().step_by(4).map(|lba| lba - 3) {
            for pair in 0..6 {
                if rig.senders[0].last().0 < rig.senders[0].durable.0 + 14 {
                    rig.write_at(0, pair, RecordKind::Write, Extent { lba, blocks: 4 });
                }
            }
            arrive(&mut rig);
        }
        let status = rig.status("g");
        let is_full = status.reason.as_ref().is_some_and(|reason| reason.contains("overlay is full"));
        assert!(is_full, "{overlay_blocks} blocks: {status:?}");
    }
}

#[test]
fn devices_that_fail_for_a_while_cost_a_resync_beyond_the_journal_nothing_but_time() {
    for (volume, flushes_only) in [(2000, false), (2000, true), (0, false), (0, true)] {
        for takes_over in [false, true] {
            let mut rig = begun(2000);
            write_until_overlaid(&mut rig);
            rig.world.failing = Some((VolumeId(volume), 5));
            rig.world.failing_flushes_only = flushes_only;
            for _ in 0..4 {
                rig.write(0);
                arrive(&mut rig);
            }
            if takes_over {
                let (ticket, now) = (rig.ticket(), rig.now());
                let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
                rig.secondary
                    .group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world)
                    .unwrap();
            }
            for _ in 0..20 {
                rig.mono += 2 * crate::journal::RETRY_NS;
                rig.settle();
                if !takes_over {
                    arrive(&mut rig);
                }
            }
            rig.world.failing = None;
            if takes_over {
                rig.mono += 2 * crate::journal::RETRY_NS;
                rig.settle();
                assert_eq!(rig.status("g").phase, GroupPhase::TakenOver, "{:?}", rig.status("g"));
            } else {
                rig.drain();
            }
            rig.assert_cut();
        }
    }
}

#[test]
fn an_overlay_device_that_is_another_s_is_never_written_to() {
    let mut rig = Rig::new(5, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
    rig.resyncs = true;
    rig.overlay_blocks = Some(2000);
    rig.world.disks.entry(VolumeId(2000)).or_default().put(0, [7; BLOCK]);
    rig.create();
    rig.settle();
    rig.drain();
    rig.resync(0);
    arrive(&mut rig);
    for _ in 0..60 {
        while rig.senders[0].last().0 < rig.senders[0].durable.0 + 14 {
            rig.write(0);
        }
        arrive(&mut rig);
    }
    let reason = rig.status("g").reason.unwrap();
    assert!(reason.contains("the overlay cannot be used") && reason.contains("zeroes"), "{reason}");
    assert_eq!(rig.world.disks[&VolumeId(2000)].read(Extent { lba: 0, blocks: 1 }), [7; BLOCK]);
    take_over(&mut rig);
    rig.assert_cut();
}
