use super::rig::Rig;
use super::*;
use crate::types::Scope;

fn two_primaries(seed: u64) -> Rig {
    Rig::new(seed, &["g"]).stream(1, Scope::Group, &[("g", "a"), ("g", "b")]).stream(2, Scope::Group, &[("g", "c")])
}

fn work(rig: &mut Rig, steps: u64) {
    for _ in 0..steps {
        rig.step();
    }
}

#[test]
fn everything_arrives_and_the_volumes_are_the_replay() {
    let (mut written, mut folded, mut laps) = (0, 0, 0);
    for seed in 0..20 {
        let mut rig = two_primaries(seed);
        rig.create();
        work(&mut rig, 3000);
        rig.drain();
        rig.assert_cut();
        written += rig.senders.iter().map(|sender| sender.history.len()).sum::<usize>();
        let status = rig.status("g");
        assert_eq!(status.phase, GroupPhase::Active);
        assert_eq!(status.recovery_point, status.limit);
        folded += status.folded_records;
        let group = &rig.secondary.groups[&status.id];
        laps += group.meta.checkpoint.position / group.area.capacity;
    }
    assert!(written > 800 && folded > 10 && laps > 5, "{written} writes, {folded} folded, {laps} laps of the journal");
}

#[test]
fn after_a_crash_at_any_event_the_volumes_are_the_replay_to_a_point_not_before_what_was_acknowledged() {
    for seed in 0..60 {
        let mut rig = two_primaries(seed);
        rig.create();
        for _ in 0..6 {
            let steps = rig.below(1200);
            work(&mut rig, steps);
            if rig.below(3) == 0 {
                // The process dies, starts again and reports what it finds; then the power goes.
                rig.kill();
                let steps = rig.below(100);
                work(&mut rig, steps);
            }
            rig.crash();
            rig.settle();
            rig.assert_cut();
        }
        rig.drain();
        rig.assert_cut();
    }
}

#[test]
fn a_shared_stream_feeds_two_groups_and_survives_crashes() {
    for seed in 0..40 {
        let mut rig = Rig::new(seed, &["g", "h"]).stream(1, Scope::System, &[("g", "a"), ("h", "b")]).stream(
            2,
            Scope::System,
            &[("g", "c"), ("h", "d")],
        );
        rig.create();
        for _ in 0..5 {
            let steps = rig.below(1500);
            work(&mut rig, steps);
            rig.crash();
            rig.settle();
            rig.assert_cut();
        }
        rig.drain();
        rig.assert_cut();
    }
}

#[test]
fn without_memory_now_and_then_nothing_is_lost() {
    for seed in 0..20 {
        let mut rig = two_primaries(seed);
        rig.world.alloc_fails = true;
        rig.create();
        work(&mut rig, 2000);
        rig.crash();
        rig.settle();
        rig.assert_cut();
        work(&mut rig, 2000);
        rig.drain();
        rig.assert_cut();
    }
}

/// A group that has worked, then lost its primaries in mid-air.
fn at_work(seed: u64) -> Rig {
    let mut rig = two_primaries(seed);
    rig.create();
    let steps = 300 + rig.below(1500);
    work(&mut rig, steps);
    rig
}

fn take_over(rig: &mut Rig) -> Ticket {
    let ticket = rig.ticket();
    let (now, group) = (rig.now(), GroupId::of_name("g"));
    let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
    rig.secondary.group_takeover(now, group, consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
    ticket
}

#[test]
fn a_takeover_at_any_event_leaves_exactly_the_cut_that_its_certificate_names() {
    for seed in 0..80 {
        let mut rig = at_work(seed);
        if rig.status("g").generation.number == 0 {
            continue;
        }
        let before = rig.status("g");
        let ticket = take_over(&mut rig);
        rig.settle();
        let Some(Ok(crate::ports::OperatorAnswer::TakenOver(certificate))) = rig.world.answers.remove(&ticket.0) else {
            panic!("seed {seed}: no certificate: {:?}", rig.status("g"));
        };
        let status = rig.status("g");
        assert_eq!(status.phase, GroupPhase::TakenOver);
        assert_eq!(certificate.recovery_point, status.recovery_point);
        assert!(certificate.recovery_point >= before.limit, "everything that the limit allowed was journaled");
        assert_eq!((certificate.generation.number, certificate.generation.parent), (2, before.generation.id));
        rig.assert_cut();
        for loss in &certificate.streams {
            let sender = rig.senders.iter().find(|sender| sender.stream == loss.stream).unwrap();
            let kept = sender.history.iter().filter(|(head, _)| head.stamp.time <= certificate.recovery_point);
            assert_eq!(loss.last_applied.0, kept.count() as u64, "seed {seed}: the last number that is there");
            assert!(sender.durable <= loss.last_applied, "what was acknowledged is there");
            let seen = loss.seen_not_applied.iter().cloned().flatten();
            assert!(seen.clone().all(|seq| seq > loss.last_applied.0 && seq <= loss.highest_announced.0));
            assert!(loss.highest_announced.0 <= sender.history.len() as u64);
            for seq in seen {
                let (head, _) = &sender.history[seq as usize - 1];
                let is_dirty = status.discarded.iter().any(|(pair, extent)| {
                    *pair == head.pair && extent.lba <= head.extent.lba && extent.end() >= head.extent.end()
                });
                assert!(is_dirty, "seed {seed}: a discarded record's region is marked for failback");
            }
        }
        assert!(rig.senders.iter().filter(|sender| !sender.opened.is_empty()).all(|sender| sender.fenced));
    }
}

#[test]
fn a_takeover_killed_at_each_step_is_finished_by_the_restart_or_never_was() {
    let mut killed_in = BTreeSet::new();
    for seed in 0..150 {
        let mut rig = at_work(seed);
        if rig.status("g").generation.number == 0 {
            continue;
        }
        take_over(&mut rig);
        let mut sealed = None;
        for _ in 0..3 {
            for _ in 0..rig.below(60) {
                rig.complete();
                rig.turn();
                let status = rig.status("g");
                if status.takeover_step > Some(TakeoverStep::Seal) {
                    sealed = status.certificate;
                }
            }
            killed_in.insert(rig.status("g").takeover_step);
            rig.crash();
            rig.settle();
            let status = rig.status("g");
            rig.assert_cut();
            match (&sealed, status.phase) {
                (Some(sealed), phase) => {
                    assert_eq!(phase, GroupPhase::TakenOver, "seed {seed}: the seal is for ever");
                    assert_eq!(status.certificate.as_ref(), Some(sealed), "seed {seed}: one takeover, one certificate");
                    assert_eq!(status.recovery_point, sealed.recovery_point);
                }
                (None, GroupPhase::TakenOver) => sealed = status.certificate,
                (None, phase) => {
                    assert_eq!(phase, GroupPhase::Active, "seed {seed}: it never was");
                    take_over(&mut rig);
                }
            }
        }
        rig.settle();
        assert_eq!(rig.status("g").phase, GroupPhase::TakenOver);
        rig.assert_cut();
    }
    for step in [
        TakeoverStep::Journal,
        TakeoverStep::Seal,
        TakeoverStep::Apply,
        TakeoverStep::Flush,
        TakeoverStep::Close,
        TakeoverStep::Writable,
    ] {
        assert!(killed_in.contains(&Some(step)), "no seed killed it in {step:?}: {killed_in:?}");
    }
}

/// Two primaries that suspend, are killed and resync all the time.
fn resyncing(seed: u64, journal_blocks: u64) -> Rig {
    let mut rig = two_primaries(seed);
    rig.resyncs = true;
    rig.journal_blocks = journal_blocks;
    rig.create();
    rig
}

/// As [`resyncing`], with a journal that no resync fits into, and an overlay.
fn overlaid(seed: u64) -> Rig {
    let mut rig = two_primaries(seed);
    rig.resyncs = true;
    rig.overlay_blocks = Some(2000);
    rig.create();
    rig
}

#[test]
fn resyncs_larger_than_the_journal_end_whole_through_crashes_at_any_event() {
    let (mut completed, mut beyond) = (0, 0);
    for seed in 0..40 {
        let mut rig = two_primaries(seed);
        rig.apply_delay_ns = if seed % 3 == 0 { 300 } else { 0 };
        rig.resyncs = true;
        rig.overlay_blocks = Some(2000);
        rig.create();
        for _ in 0..6 {
            let steps = rig.below(3000);
            work(&mut rig, steps);
            beyond += u32::from(rig.status("g").unit.is_some_and(|unit| unit.is_overlaid));
            if rig.below(3) == 0 {
                rig.kill();
                let steps = rig.below(100);
                work(&mut rig, steps);
            }
            rig.crash();
            rig.settle();
            if rig.apply_delay_ns == 0 {
                rig.assert_cut();
            }
        }
        rig.drain();
        assert_eq!(rig.status("g").overlay_used_bytes, 0, "seed {seed}: it is free again");
        if rig.apply_delay_ns > 0 {
            // What waits for the delay is applied by a takeover.
            take_over(&mut rig);
            rig.settle();
        }
        rig.assert_cut();
        completed += rig.senders.iter().map(|sender| sender.done.len()).sum::<usize>();
    }
    assert!(completed > 60 && beyond > 40, "{completed} resyncs completed, {beyond} crashes in one beyond the journal");
}

#[test]
fn through_resyncs_and_crashes_at_any_event_the_volumes_are_the_primaries_history_to_one_point() {
    let (mut completed, mut in_units, mut stopped) = (0, 0, 0);
    for seed in 0..40 {
        let mut rig = resyncing(seed, 1 << 13);
        for _ in 0..6 {
            let steps = rig.below(2500);
            work(&mut rig, steps);
            in_units += u32::from(rig.status("g").unit.is_some());
            stopped += u32::from(matches!(rig.status("g").phase, GroupPhase::Frozen | GroupPhase::Suspended));
            if rig.below(3) == 0 {
                rig.kill();
                let steps = rig.below(100);
                work(&mut rig, steps);
            }
            rig.crash();
            rig.settle();
            rig.assert_cut();
        }
        rig.drain();
        rig.assert_cut();
        assert!(rig.status("g").unit.is_none());
        completed += rig.senders.iter().map(|sender| sender.done.len()).sum::<usize>();
    }
    assert!(
        completed > 60 && in_units > 40 && stopped > 8,
        "{completed} resyncs completed, {in_units} crashes in one, {stopped} while the group was stopped"
    );
}

#[test]
fn the_recovery_point_never_leaves_the_image_while_a_resync_is_under_way_and_never_falls() {
    for seed in 100..130 {
        let mut rig = resyncing(seed, 1 << 13);
        let mut before: Option<(Time, Time)> = None;
        for _ in 0..6000 {
            rig.step();
            let status = rig.status("g");
            let base = status.unit.as_ref().map(|unit| unit.base);
            if let (Some((base_before, point)), Some(base)) = (before, base) {
                assert!(base != base_before || status.recovery_point <= base, "seed {seed}");
                assert!(status.recovery_point >= point, "seed {seed}");
            }
            before = base.map(|base| (base, status.recovery_point));
        }
        rig.drain();
        rig.assert_cut();
    }
}

#[test]
fn a_takeover_at_any_event_of_a_resync_leaves_the_image_before_it_or_all_of_it() {
    let (mut inside, mut beyond, mut killed_in) = (0, 0, BTreeSet::new());
    for seed in 0..160 {
        let mut rig = if seed % 2 == 0 { resyncing(seed, 1 << 13) } else { overlaid(seed) };
        let steps = 500 + rig.below(4000);
        work(&mut rig, steps);
        beyond += u32::from(rig.status("g").unit.is_some_and(|unit| unit.is_overlaid));
        let status = rig.status("g");
        if status.generation.number == 0 {
            continue;
        }
        inside += u32::from(status.unit.is_some());
        take_over(&mut rig);
        for _ in 0..rig.below(16) {
            rig.complete();
            rig.turn();
        }
        killed_in.insert(rig.status("g").takeover_step);
        if rig.below(2) == 0 {
            rig.crash();
            rig.settle();
            if rig.status("g").takeover_step.is_none() {
                take_over(&mut rig);
            }
        }
        rig.settle();
        let status = rig.status("g");
        assert_eq!(status.phase, GroupPhase::TakenOver, "seed {seed}");
        rig.assert_cut();
        for sender in &rig.senders {
            for (head, _) in sender.history.iter().filter(|(head, _)| head.stamp.time > status.recovery_point) {
                let is_there = head.stamp.seq <= sender.durable && head.kind.changes_volume();
                let is_listed = status.discarded.iter().any(|(pair, extent)| {
                    *pair == head.pair && extent.lba <= head.extent.lba && extent.end() >= head.extent.end()
                });
                assert!(is_listed || !is_there, "seed {seed}: {head:?} was acknowledged and is marked for failback");
            }
        }
    }
    assert!(inside > 40 && beyond > 20, "{inside} takeovers in a resync, {beyond} beyond the journal");
    assert!(killed_in.contains(&Some(TakeoverStep::Restore)) && killed_in.len() > 4, "{killed_in:?}");
}

#[test]
fn the_promised_memory_is_never_more_than_there_is_through_resyncs() {
    for seed in 0..20 {
        let mut rig = resyncing(seed, 1 << 13);
        for step in 0..4000 {
            rig.step();
            let promised: u64 = rig.secondary.intakes.values().map(|intake| intake.account.outstanding()).sum();
            assert!(promised <= rig.config.receive_bytes, "seed {seed}, step {step}: {promised}");
            for intake in rig.secondary.intakes.values() {
                assert!(intake.account.held() <= intake.account.outstanding());
            }
        }
    }
}
