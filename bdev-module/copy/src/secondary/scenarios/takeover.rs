//! Taking over.

use super::*;

#[test]
fn a_takeover_without_consent_or_without_a_history_is_refused_with_a_sentence() {
    let mut rig = working(1);
    let (now, ticket) = (rig.now(), rig.ticket());
    let consent = TakeoverConsent::default();
    let refused = rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world);
    assert!(matches!(refused, Err(OperatorError::WrongState(text)) if text.contains("fenced")));
    let mut rig = Rig::new(1, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
    rig.create();
    rig.settle();
    let consent = TakeoverConsent { accept_split: true, ..consent };
    let (now, ticket) = (rig.now(), rig.ticket());
    let refused = rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world);
    assert!(matches!(refused, Err(OperatorError::WrongState(_))));
}

#[test]
fn after_a_takeover_frames_and_opens_of_the_old_generation_are_fenced() {
    let mut rig = working(3);
    take_over(&mut rig);
    rig.write(0);
    let now = rig.now();
    rig.secondary.link_up(now, LinkId(1), &mut rig.world);
    let (head, payload) = rig.senders[0].history[3].clone();
    for _ in 0..3 {
        let fragment = Fragment { epoch: Epoch(1), generation: 1, head, offset: 0, body: &payload };
        assert!(!rig.secondary.frame(now, LinkId(1), fragment, &mut rig.world));
    }
    let told = std::mem::take(&mut rig.world.messages);
    assert!(
        matches!(&told[..], [(LinkId(1), Message::Fenced { generation, .. })] if generation.number == 2),
        "once: {told:?}"
    );
    let open = open(&rig);
    let answers = ask(&mut rig, 1, 1, Message::OpenStream(open));
    assert!(matches!(&answers[..], [Message::Fenced { .. }]));
    rig.assert_cut();
}

#[test]
fn discarded_regions_are_merged_and_bounded_and_never_lose_a_block() {
    let pair = PairId(1);
    let extents: Vec<_> = (0..3000).map(|at| (pair, Extent { lba: at * 20, blocks: 3 })).collect();
    let merged = super::failover::merged(extents.clone());
    assert!(merged.len() <= 1024);
    for (_, extent) in extents {
        assert!(merged.iter().any(|(_, all)| all.lba <= extent.lba && all.end() >= extent.end()));
    }
}

#[test]
fn a_block_that_a_takeover_gave_up_is_not_replayed_after_the_seal() {
    let mut resumed = 0;
    for seed in 0..40 {
        let mut rig = Rig::new(seed, &["g"]).stream(1, Scope::Group, &[("g", "a")]);
        rig.create();
        rig.settle();
        rig.drain();
        for _ in 0..3 {
            rig.write(0);
            rig.drain();
        }
        // The fourth record's block reaches the device, but its flush fails.
        rig.world.failing = Some((Rig::journal_volume(0), u32::MAX));
        rig.world.failing_flushes_only = true;
        rig.world.failing_forgets = false;
        rig.write(0);
        for _ in 0..40 {
            rig.deliver(0);
            rig.complete();
            rig.turn();
        }
        assert!(rig.status("g").reason.unwrap().contains("cannot be written"));
        let before = rig.status("g").recovery_point;
        let (ticket, now) = (rig.ticket(), rig.now());
        let consent = TakeoverConsent { old_primary_fenced: true, accept_split: false };
        rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
        while rig.status("g").takeover_step <= Some(TakeoverStep::Seal) {
            rig.complete();
            rig.turn();
        }
        resumed += u32::from(rig.status("g").takeover_step < Some(TakeoverStep::Close));
        rig.world.failing = None;
        rig.crash();
        rig.settle();
        let status = rig.status("g");
        assert_eq!((status.phase, status.recovery_point), (GroupPhase::TakenOver, before), "seed {seed}");
        let certificate = status.certificate.unwrap();
        assert_eq!(certificate.streams[0].last_applied, Seq(3));
        assert_eq!(certificate.streams[0].seen_not_applied, [4..=4]);
        rig.assert_cut();
    }
    assert!(resumed > 10, "{resumed} takeovers were left to the restart");
}

#[test]
fn the_consent_to_a_split_is_durable_with_the_seal() {
    for accept_split in [true, false] {
        let mut rig = working(3);
        assert!(!rig.status("g").split_accepted);
        let (ticket, now) = (rig.ticket(), rig.now());
        let consent = TakeoverConsent { old_primary_fenced: !accept_split, accept_split };
        rig.secondary.group_takeover(now, group(), consent, TakeoverAt::Newest, ticket, &mut rig.world).unwrap();
        rig.settle();
        assert_eq!(rig.status("g").split_accepted, accept_split);
        rig.crash();
        rig.settle();
        assert_eq!((rig.status("g").phase, rig.status("g").split_accepted), (GroupPhase::TakenOver, accept_split));
    }
}
