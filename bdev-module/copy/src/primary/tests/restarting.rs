//! What a new process finds.

use super::*;

fn opens(rig: &Rig) -> Vec<OpenStream> {
    let opens = rig.said().into_iter().filter_map(|said| match said {
        Message::OpenStream(open) => Some(open),
        _ => None,
    });
    opens.collect()
}

/// Creates what was there before, as a configuration would.
fn again(rig: &mut Rig, scope: Scope, pairs: u32) -> Vec<PairId> {
    let group = rig.group("g", scope);
    (0..pairs).map(|volume| rig.pair(group, &format!("p{volume}"), volume)).collect()
}

#[test]
fn an_unclean_restart_suspends_at_once_opens_no_stream_and_hosts_run_on() {
    for scope in [Scope::Pair, Scope::Group, Scope::System] {
        let (mut rig, _, pairs) = Rig::copying(scope, 2);
        rig.write(pairs[0], 0, 1, 1);
        rig.run();
        let mut rig = rig.crash();
        let pairs = again(&mut rig, scope, 2);
        for (volume, pair) in pairs.iter().enumerate() {
            assert_eq!(rig.state(*pair), PairState::SuspendedError, "{scope:?}");
            assert!(rig.answered(volume as u64).is_ok(), "the pair is there, as configured");
        }
        let group = rig.primary.groups()[0];
        assert!(rig.show(group).reason.unwrap().contains("restarted with unsent records"));
        assert_eq!(rig.show(group).lag_ns, None, "how much is missing is not known");
        let write = rig.write(pairs[1], 0, 1, 1);
        rig.keep_all();
        rig.locals();
        rig.pass(MS);
        assert_eq!(rig.outcome(write), Some(Ok(())));
        rig.primary.link_up(rig.now, LINK, &mut rig.world);
        rig.run();
        assert!(opens(&rig).is_empty() && rig.pushed().is_empty() && rig.beacons().is_empty());
        assert!(rig.said().iter().any(|said| matches!(said, Message::GroupSuspended { state, .. } if state == "PSUE")));
    }
}

#[test]
fn a_drained_stop_lets_the_next_process_go_on_in_a_new_epoch() {
    for scope in [Scope::Pair, Scope::Group, Scope::System] {
        let (mut rig, _, pairs) = Rig::copying(scope, 1);
        let stream = rig.show_pair(pairs[0]).stream;
        let write = rig.write(pairs[0], 0, 1, 1);
        rig.primary.shutdown(rig.now, &mut rig.world);
        let late = rig.write(pairs[0], 1, 1, 1);
        assert_eq!(rig.outcome(late), Some(Err(HostError::Aborted)));
        rig.locals();
        rig.pass(MS);
        assert_eq!(rig.outcome(write), Some(Ok(())));
        assert_eq!(rig.primary.shutdown_state(), Shutdown::Draining, "the secondary does not have it yet");
        rig.durable(stream, 1);
        rig.turn();
        rig.locals();
        rig.turn();
        assert_eq!(rig.primary.shutdown_state(), Shutdown::Draining, "the mark is not durable yet");
        let said = rig.world.did.len();
        rig.keep_all();
        rig.pass(100 * MS);
        assert_eq!(rig.primary.shutdown_state(), Shutdown::Done { undrained: vec![] });
        assert!(!rig.world.did[said..].iter().any(|did| matches!(did, Did::Beacon(_) | Did::Push(_))));

        let mut rig = rig.crash();
        let pairs = again(&mut rig, scope, 1);
        let write = rig.write(pairs[0], 0, 1, 2);
        rig.run();
        let open = opens(&rig)[0].clone();
        assert_eq!((open.epoch, open.base, open.drained), (Epoch(2), Seq(2), Some((Epoch(1), Seq(1)))));
        assert_eq!(open.generation, FIRST_GENERATION);
        assert_eq!(rig.state(pairs[0]), PairState::Pair);
        assert_eq!(rig.pushed()[0].stamp.seq, Seq(2));
        let push = rig.position(|did| matches!(did, Did::Push(_))).unwrap();
        let marks =
            rig.world.did[..push].iter().filter(|did| matches!(did, Did::Durable(key) if key.contains("/stream/")));
        assert_eq!(marks.count(), 2, "the epoch, and that it stamps, are durable before the first stamp");
        rig.pass(MS);
        assert_eq!(rig.outcome(write), Some(Ok(())));
        // And that process dies.
        let mut rig = rig.crash();
        let pairs = again(&mut rig, scope, 1);
        assert_eq!(rig.state(pairs[0]), PairState::SuspendedError);
    }
}

#[test]
fn a_stream_is_marked_drained_only_after_every_volume_of_its_pairs_was_flushed() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 2);
    let stream = rig.show_pair(pairs[0]).stream;
    rig.write(pairs[0], 0, 1, 1);
    rig.run();
    rig.pass(MS);
    rig.primary.shutdown(rig.now, &mut rig.world);
    rig.turn();
    assert!(rig.world.pending.is_empty(), "the secondary does not have it yet");
    rig.durable(stream, 1);
    rig.turn();
    let flushed: Vec<VolumeId> = rig.world.pending.iter().map(|(volume, ..)| *volume).collect();
    assert_eq!(flushed, [VolumeId(0), VolumeId(1)]);
    assert!(rig.world.pending.iter().all(|(_, io, _)| matches!(io, LocalIo::Flush)));
    for _ in 0..2 {
        rig.turn();
        assert!(rig.world.unkept.is_empty(), "marked before all was flushed");
        assert_eq!(rig.primary.shutdown_state(), Shutdown::Draining);
        assert!(rig.local());
    }
    rig.keep_all();
    rig.turn();
    assert_eq!(rig.primary.shutdown_state(), Shutdown::Done { undrained: vec![] });
    let mut rig = rig.crash();
    for pair in again(&mut rig, Scope::Group, 2) {
        assert_ne!(rig.state(pair), PairState::SuspendedError);
    }
}

#[test]
fn a_volume_that_cannot_be_flushed_at_the_shutdown_leaves_its_stream_undrained() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 2);
    let stream = rig.show_pair(pairs[0]).stream;
    rig.write(pairs[0], 0, 1, 1);
    rig.run();
    rig.pass(MS);
    rig.durable(stream, 1);
    rig.world.failing_flushes.insert(VolumeId(0));
    rig.primary.shutdown(rig.now, &mut rig.world);
    rig.run();
    assert_eq!(rig.primary.shutdown_state(), Shutdown::Done { undrained: vec![stream] });
    let mut rig = rig.crash();
    for pair in again(&mut rig, Scope::Group, 2) {
        assert_eq!(rig.state(pair), PairState::SuspendedError);
    }
}

#[test]
fn a_process_that_died_before_its_first_stamp_leaves_nothing_unsent() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    let stream = rig.show_pair(pairs[0]).stream;
    rig.write(pairs[0], 0, 1, 1);
    rig.run();
    rig.durable(stream, 1);
    rig.pass(MS);
    rig.primary.shutdown(rig.now, &mut rig.world);
    rig.run();
    let mut rig = rig.crash();
    again(&mut rig, Scope::Group, 1);
    rig.keep_all();
    let mut rig = rig.crash();
    let pairs = again(&mut rig, Scope::Group, 1);
    rig.run();
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
    let open = opens(&rig)[0].clone();
    assert_eq!((open.epoch, open.base, open.drained), (Epoch(3), Seq(2), Some((Epoch(2), Seq(1)))));
}

#[test]
fn a_stop_that_cannot_drain_ends_in_time_and_leaves_no_mark() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    let stream = rig.show_pair(pairs[0]).stream;
    rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    rig.primary.shutdown(rig.now, &mut rig.world);
    rig.pass(9 * SECOND);
    assert_eq!(rig.primary.shutdown_state(), Shutdown::Draining);
    rig.pass(SECOND);
    assert_eq!(rig.primary.shutdown_state(), Shutdown::Done { undrained: vec![stream] });
    rig.keep_all();
    let mut rig = rig.crash();
    let pairs = again(&mut rig, Scope::Group, 1);
    assert_eq!(rig.state(pairs[0]), PairState::SuspendedError);
}

#[test]
fn hosts_that_ran_on_after_a_drained_stop_keep_the_pair_suspended() {
    // Drained, restarted without the link: after ten seconds hosts run on. That must not be forgotten by a second
    // clean stop, or the third process would take the volumes for equal.
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    rig.primary.shutdown(rig.now, &mut rig.world);
    rig.run();
    assert_eq!(rig.primary.shutdown_state(), Shutdown::Done { undrained: vec![] });
    let _ = pairs;
    let mut rig = rig.crash();
    rig.world.up = false;
    let pairs = again(&mut rig, Scope::Group, 1);
    let write = rig.write(pairs[0], 0, 1, 1);
    rig.keep_all();
    rig.pass(10 * SECOND);
    assert!(rig.world.pending.is_empty());
    rig.keep_all();
    rig.locals();
    rig.pass(MS);
    assert_eq!(rig.outcome(write), Some(Ok(())));
    rig.primary.shutdown(rig.now, &mut rig.world);
    rig.run();
    let mut rig = rig.crash();
    rig.world.up = true;
    let pairs = again(&mut rig, Scope::Group, 1);
    rig.run();
    assert_eq!(rig.state(pairs[0]), PairState::SuspendedError);
    assert!(opens(&rig).is_empty());
}

#[test]
fn an_established_pair_without_its_streams_mark_is_taken_for_unclean() {
    let (mut rig, _, _) = Rig::copying(Scope::Group, 1);
    rig.primary.shutdown(rig.now, &mut rig.world);
    rig.run();
    rig.world.durable.retain(|key, _| !key.contains("/stream/"));
    let mut rig = rig.crash();
    let pairs = again(&mut rig, Scope::Group, 1);
    assert_eq!(rig.state(pairs[0]), PairState::SuspendedError);
}

#[test]
fn damaged_metadata_is_refused_with_its_key() {
    let (rig, _, _) = Rig::copying(Scope::Group, 1);
    for key in rig.world.durable.keys().cloned().collect::<Vec<_>>() {
        let (mut rig, _, _) = Rig::copying(Scope::Group, 1);
        rig.primary.shutdown(rig.now, &mut rig.world);
        rig.run();
        rig.world.durable.insert(key.clone(), vec![9, 9, 9]);
        let mut rig = rig.crash();
        let group = rig.primary.group_create(rig.now, Rig::group_config("g", Scope::Group), &mut rig.world);
        let answer = group.and_then(|group| {
            let config = Rig::pair_config(group, "p0", 0);
            rig.primary.pair_create(rig.now, config, Ticket(0), &mut rig.world).map(|_| ())
        });
        assert!(matches!(answer, Err(OperatorError::Invalid(text)) if text.contains(&key)), "{key}");
    }
}

#[test]
fn a_pair_whose_volume_was_in_memory_is_suspended_after_a_clean_restart_too() {
    for is_volatile in [false, true] {
        let (mut rig, _, _) = Rig::copying(Scope::Group, 1);
        rig.primary.shutdown(rig.now, &mut rig.world);
        rig.run();
        assert_eq!(rig.primary.shutdown_state(), Shutdown::Done { undrained: vec![] });
        let mut rig = rig.crash();
        let group = rig.group("g", Scope::Group);
        let config = PairConfig { volatile: is_volatile, ..Rig::pair_config(group, "p0", 0) };
        let pair = rig.primary.pair_create(rig.now, config, Ticket(0), &mut rig.world).unwrap();
        rig.run();
        let expected = if is_volatile { PairState::SuspendedError } else { PairState::Pair };
        assert_eq!(rig.state(pair), expected);
        assert_eq!(opens(&rig).is_empty(), is_volatile);
        let reason = rig.show(group).reason.unwrap_or_default();
        assert_eq!(reason.contains("in memory and lost its content"), is_volatile, "{reason}");
    }
}

#[test]
fn a_volume_that_was_made_smaller_is_not_taken_for_the_one_before() {
    let (mut rig, _, _) = Rig::copying(Scope::Group, 1);
    rig.primary.shutdown(rig.now, &mut rig.world);
    rig.run();
    let mut rig = rig.crash();
    let group = rig.group("g", Scope::Group);
    let mut config = Rig::pair_config(group, "p0", 0);
    config.geometry.blocks = 32;
    let answer = rig.primary.pair_create(rig.now, config, Ticket(0), &mut rig.world);
    assert!(matches!(answer, Err(OperatorError::Invalid(text)) if text.contains("has 32")));
}
