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
