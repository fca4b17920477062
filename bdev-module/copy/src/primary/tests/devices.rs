//! The local volume fails, or the secondary says that one of its own does.

use super::marking::unmarked;
use super::*;

/// The oldest local I/O ends with this errno.
fn fail(rig: &mut Rig, errno: i32) {
    let (_, io, token) = rig.world.pending.pop_front().expect("something is at the device");
    let buf = match io {
        LocalIo::Read { buf, .. } => Some(buf),
        _ => None,
    };
    rig.primary.local_done(rig.now, token, Err(DeviceError { errno }), buf, &mut rig.world);
}

#[test]
fn a_full_volume_tells_its_host_that_there_is_no_room_and_sends_what_the_disk_holds() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    let write = rig.write(pairs[0], 3, 2, 7);
    rig.keep_all();
    rig.turn();
    fail(&mut rig, 28);
    rig.run();
    rig.pass(1000);
    assert_eq!(rig.outcome(write), Some(Err(HostError::NoSpace)));
    let sent: Vec<RecordKind> = rig.pushed().iter().map(|head| head.kind).collect();
    assert_eq!(sent, [RecordKind::Write, RecordKind::Repair]);
    assert_eq!(rig.world.history[1].payload.as_deref(), Some(&[0; 1024][..]), "what was there before");
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
    assert_eq!(rig.show_pair(pairs[0]).repairs, 1);
}

#[test]
fn a_read_that_fails_is_its_hosts_error_with_the_buffer_and_changes_nothing_for_the_pair() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    rig.world.failing_reads.insert(VolumeId(0));
    let read = rig.read(pairs[0], 0, 2);
    rig.run();
    rig.pass(1000);
    let (outcome, buf) = &rig.world.hosts[&read];
    assert_eq!((*outcome, buf.as_ref().map(Vec::len)), (Err(HostError::Device), Some(1024)));
    assert_eq!((rig.state(pairs[0]), rig.pushed().len()), (PairState::Pair, 0));
}

#[test]
fn what_the_secondary_says_of_its_devices_is_shown_until_it_is_over_or_not_said_any_more() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 2);
    let says = |pair, text: &str| Message::Trouble { group, pair, text: text.to_owned() };
    rig.hear(says(Some(pairs[0]), "the volume fails, mend it"));
    let shown = Some("at the secondary: the volume fails, mend it".to_owned());
    assert_eq!((rig.show_pair(pairs[0]).trouble, rig.show_pair(pairs[1]).trouble), (shown.clone(), None));
    assert_eq!(rig.show(group).trouble, shown);
    rig.hear(says(None, ""));
    assert_eq!((rig.show_pair(pairs[0]).trouble, rig.show(group).trouble), (None, None));
    rig.hear(says(None, "the journal fails"));
    assert!(pairs.iter().all(|pair| rig.show_pair(*pair).trouble.is_some()));
    rig.pass(14 * SECOND);
    assert!(rig.show(group).trouble.is_some());
    rig.pass(2 * SECOND);
    assert_eq!(rig.show(group).trouble, None, "nobody says so any more");
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
}

#[test]
fn what_a_failed_flush_may_have_lost_is_sent_as_it_is_now_and_again_once_a_flush_works() {
    let (mut rig, pair) = unmarked();
    let (pairs, stream) = ([pair], rig.show_pair(pair).stream);
    let write = rig.write(pairs[0], 0, 8, 7);
    rig.run();
    rig.pass(1000);
    assert_eq!(rig.outcome(write), Some(Ok(())));
    rig.durable(stream, 1);
    // The device forgets what it could not flush.
    rig.world.failing_flushes.insert(VolumeId(0));
    let flush = rig.io(pairs[0], HostIo::Flush);
    rig.world.disks.get_mut(&VolumeId(0)).unwrap()[..8 * BLOCK as usize].fill(3);
    let copies = |rig: &Rig| {
        let copies = rig.world.history.iter().filter(|record| record.head.kind == RecordKind::Copy);
        copies.map(|record| record.payload.as_deref().map(|bytes| bytes[0])).collect::<Vec<_>>()
    };
    for _ in 0..20 {
        rig.run();
        rig.pass(SECOND / 2);
    }
    assert_eq!(rig.outcome(flush), Some(Err(HostError::Device)));
    assert_eq!(copies(&rig), [Some(3)], "once, however often flushes go on failing");
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
    assert!(rig.show_pair(pairs[0]).dirty_bytes > 0, "the mark stays");
    // What it forgot until it worked again, at the latest.
    rig.world.disks.get_mut(&VolumeId(0)).unwrap()[..8 * BLOCK as usize].fill(4);
    rig.world.failing_flushes.clear();
    for _ in 0..20 {
        rig.run();
        let last = rig.standing(stream).last.0;
        rig.durable(stream, last);
        rig.pass(SECOND / 2);
    }
    assert_eq!(copies(&rig), [Some(3), Some(4)]);
    assert_eq!(rig.show_pair(pairs[0]).dirty_bytes, 0, "both sites have it, durably");
}

#[test]
fn a_write_whose_mark_does_not_become_durable_shows_why_it_waits_and_is_given_back_in_time() {
    let (mut rig, pair) = unmarked();
    let (pairs, wait_ns) = ([pair], 2 * PrimaryConfig::new(HERE).open_wait_ns);
    let began = rig.now.mono;
    let (first, second) = (rig.write(pairs[0], 0, 2, 1), rig.write(pairs[0], 1, 2, 2));
    rig.turn();
    assert!(
        !rig.world.unkept.is_empty() && rig.world.pending.is_empty(),
        "neither written nor stamped before its mark"
    );
    assert_eq!(rig.show_pair(pairs[0]).waiting, None, "a commit may take a moment");
    rig.pass(2 * SECOND);
    let waiting = rig.show_pair(pairs[0]).waiting.unwrap();
    assert_eq!((waiting.owner, waiting.timeout), ("metadata", Some(began.after_ns(wait_ns))));
    assert!(waiting.reason.contains("marks"), "{waiting:?}");
    rig.pass(wait_ns);
    assert_eq!(rig.outcome(first), Some(Err(HostError::Aborted)));
    rig.pass(wait_ns);
    assert_eq!(rig.outcome(second), Some(Err(HostError::Aborted)), "the one behind it has its own time");
    assert_eq!((rig.pushed().len(), rig.world.pending.len()), (0, 0));
    // Metadata works again, and so does everything.
    let third = rig.write(pairs[0], 0, 4, 3);
    rig.run();
    rig.pass(1000);
    assert_eq!(rig.outcome(third), Some(Ok(())));
    assert_eq!(rig.pushed().len(), 1);
}
