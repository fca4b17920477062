//! The life of a host's request.

use super::*;

#[test]
fn a_write_goes_to_the_disk_and_to_the_stream_in_one_step_from_one_buffer() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    let from = rig.world.did.len();
    rig.write(pairs[0], 3, 2, 7);
    let did = rig.world.did[from..].to_vec();
    assert!(matches!(did[0], Did::Local(VolumeId(0), "write", Extent { lba: 3, blocks: 2 })));
    let Did::Push(head) = did[1] else { panic!("{did:?}") };
    assert_eq!((head.pair, head.extent, head.kind), (pairs[0], Extent { lba: 3, blocks: 2 }, RecordKind::Write));
    assert_eq!((head.payload_bytes, head.stamp.seq), (1024, Seq(1)));
    let (_, LocalIo::Write { data, .. }, _) = &rig.world.pending[0] else { panic!("a write is at the disk") };
    let record = &rig.world.records[&head.stamp.stream][0];
    assert!(Rc::ptr_eq(data, record.payload.as_ref().unwrap()));
}

#[test]
fn zeroes_and_unmap_are_records_without_payload_and_fua_reaches_the_disk() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    rig.io(pairs[0], HostIo::WriteZeroes { extent: Extent { lba: 0, blocks: 4 }, fua: true });
    rig.io(pairs[0], HostIo::Unmap { extent: Extent { lba: 4, blocks: 4 } });
    let kinds: Vec<_> = rig.pushed().iter().map(|head| (head.kind, head.payload_bytes)).collect();
    assert_eq!(kinds, [(RecordKind::WriteZeroes, 0), (RecordKind::Unmap, 0)]);
    assert!(matches!(rig.world.pending[0].1, LocalIo::WriteZeroes { fua: true, .. }));
    let data = Rc::from(vec![1; 512]);
    rig.io(pairs[0], HostIo::Write { extent: Extent { lba: 20, blocks: 1 }, data, fua: true });
    assert!(matches!(rig.world.pending[2].1, LocalIo::Write { fua: true, .. }));
}

#[test]
fn a_host_is_answered_only_when_the_timeline_is_past_stamp_and_error_bound() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    let write = rig.write(pairs[0], 0, 1, 1);
    let stamp = rig.pushed()[0].stamp.time;
    rig.locals();
    rig.now.time = stamp.after_ns(100);
    rig.turn();
    assert_eq!(rig.outcome(write), None, "the bound itself is not past it");
    let due = rig.primary.next_timeout(rig.now).unwrap();
    assert_eq!(due, rig.now.mono.after_ns(1));
    rig.pass(1);
    assert_eq!(rig.outcome(write), Some(Ok(())));
}

#[test]
fn an_answer_never_waits_for_the_link() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    rig.world.up = false;
    rig.primary.link_down(rig.now, LINK, &mut rig.world);
    let write = rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    rig.pass(200);
    assert_eq!(rig.outcome(write), Some(Ok(())));
    assert_eq!(rig.pushed().len(), 1, "the record is kept for later");
}

#[test]
fn a_read_waits_until_the_newest_stamp_of_its_pair_has_passed() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 2);
    rig.write(pairs[0], 0, 1, 1);
    let read = rig.read(pairs[0], 0, 1);
    let elsewhere = rig.read(pairs[1], 0, 1);
    rig.locals();
    assert_eq!(rig.outcome(read), None, "its data may be that of a write which is not in the past yet");
    assert_eq!(rig.outcome(elsewhere), Some(Ok(())));
    rig.pass(200);
    assert_eq!(rig.world.hosts[&read], (Ok(()), Some(vec![1; 512])));
}

#[test]
fn overlapping_writes_go_one_at_a_time_in_order_and_the_others_do_not_wait() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    rig.write(pairs[0], 0, 4, 1);
    rig.write(pairs[0], 2, 4, 2);
    rig.write(pairs[0], 0, 1, 3);
    rig.write(pairs[0], 10, 1, 4);
    let lbas = |rig: &Rig| rig.pushed().iter().map(|head| head.extent.lba).collect::<Vec<_>>();
    assert_eq!(lbas(&rig), [0, 10]);
    assert_eq!(rig.show_pair(pairs[0]).writes_waiting, 2);
    rig.local();
    assert_eq!(lbas(&rig), [0, 10, 2, 0]);
    rig.locals();
    rig.pass(1000);
    let disk = &rig.world.disks[&VolumeId(0)];
    assert_eq!([disk[0], disk[512], disk[1024], disk[5 * 512]], [3, 1, 2, 2]);
    assert_eq!(rig.world.hosts.len(), 4);
}

#[test]
fn a_flush_goes_straight_to_the_device() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    let flush = rig.io(pairs[0], HostIo::Flush);
    assert_eq!(rig.outcome(flush), None);
    rig.locals();
    assert_eq!(rig.outcome(flush), Some(Ok(())));
    assert!(rig.pushed().is_empty());
}

#[test]
fn nothing_is_stamped_above_the_lease_and_all_goes_on_when_it_moves() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    rig.now.lease = rig.now.time.after_ns(1);
    rig.pass(1);
    let from = rig.beacons().len();
    rig.write(pairs[0], 0, 1, 1);
    rig.write(pairs[0], 1, 1, 2);
    rig.write(pairs[0], 1, 1, 3);
    rig.pass(60 * MS);
    assert!(rig.pushed().iter().all(|head| head.stamp.time <= rig.now.lease));
    let early = rig.pushed().len();
    assert!(early < 2);
    assert!(rig.beacons()[from..].iter().all(|beacon| beacon.time <= rig.now.lease));
    assert_eq!(rig.show_pair(pairs[0]).waiting.unwrap().owner, "timeline");
    rig.now.lease = rig.now.time.after_ns(SECOND);
    rig.turn();
    rig.locals();
    rig.pass(MS);
    assert_eq!(rig.world.hosts.len(), 3);
    assert_eq!(rig.pushed().iter().map(|head| head.extent.lba).collect::<Vec<_>>(), [0, 1, 1]);
}

#[test]
fn what_the_disk_holds_after_a_failed_write_is_sent_before_the_host_learns_of_the_error() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    rig.write(pairs[0], 4, 2, 9);
    rig.locals();
    rig.world.failing_writes.insert(VolumeId(0));
    let failed = rig.write(pairs[0], 4, 2, 1);
    let behind = rig.write(pairs[0], 5, 1, 2);
    rig.local();
    rig.pass(MS);
    assert_eq!(rig.outcome(failed), None);
    assert_eq!(rig.pushed().len(), 2, "the range stays locked");
    rig.local();
    let repair = rig.pushed()[2];
    assert_eq!(
        (repair.kind, repair.extent, repair.stamp.seq),
        (RecordKind::Repair, Extent { lba: 4, blocks: 2 }, Seq(3))
    );
    let on_disk = [[1; 512], [9; 512]].concat();
    assert_eq!(rig.world.records[&repair.stamp.stream][2].payload.as_deref(), Some(&on_disk[..]));
    assert_eq!(rig.outcome(failed), None, "the repair's stamp is not in the past yet");
    rig.world.failing_writes.clear();
    rig.locals();
    rig.pass(200);
    assert_eq!(rig.outcome(failed), Some(Err(HostError::Device)));
    assert_eq!(rig.outcome(behind), Some(Ok(())));
    assert_eq!(rig.state(pairs[0]), PairState::Pair);
}

#[test]
fn a_volume_on_which_every_write_fails_costs_one_read_per_write() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    rig.world.failing_writes.insert(VolumeId(0));
    let from = rig.world.did.len();
    for lba in 0..5 {
        rig.write(pairs[0], lba, 1, 1);
    }
    rig.locals();
    rig.pass(MS);
    let locals = rig.world.did[from..].iter().filter(|did| matches!(did, Did::Local(..))).count();
    assert_eq!(locals, 10);
    assert!(rig.world.hosts.values().all(|(outcome, _)| *outcome == Err(HostError::Device)));
    assert_eq!(rig.show_pair(pairs[0]).repairs, 5);
}

#[test]
fn a_repair_that_cannot_be_read_ends_the_stream_and_suspends_the_pair() {
    let (mut rig, group, pairs) = Rig::copying(Scope::Group, 1);
    rig.world.failing_writes.insert(VolumeId(0));
    rig.world.failing_reads.insert(VolumeId(0));
    let write = rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    rig.pass(MS);
    assert_eq!(rig.outcome(write), Some(Err(HostError::Device)));
    assert_eq!(rig.state(pairs[0]), PairState::SuspendedError);
    assert!(rig.show(group).streams[0].broken);
    assert!(rig.world.records.is_empty());
}

#[test]
fn a_repair_waits_for_memory_and_for_the_lease() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    rig.world.failing_writes.insert(VolumeId(0));
    let write = rig.write(pairs[0], 0, 1, 1);
    rig.world.no_memory = true;
    rig.locals();
    rig.pass(MS);
    assert!(rig.world.pending.is_empty());
    assert!(rig.primary.next_timeout(rig.now).is_some_and(|at| at <= rig.now.mono.after_ns(MS)));
    rig.world.no_memory = false;
    rig.now.lease = rig.now.time;
    rig.pass(MS);
    rig.locals();
    assert_eq!(rig.pushed().len(), 1, "no stamp above the lease");
    rig.now.lease = rig.now.time.after_ns(SECOND);
    rig.turn();
    assert_eq!(rig.pushed().len(), 2);
    rig.pass(MS);
    assert_eq!(rig.outcome(write), Some(Err(HostError::Device)));
}

#[test]
fn one_request_too_many_is_given_back() {
    let mut rig = Rig::new();
    rig.primary.config.requests_max = 2;
    let group = rig.group("g", Scope::Group);
    let pair = rig.pair(group, "p", 0);
    rig.run();
    let tokens: Vec<u64> = (0..3).map(|lba| rig.write(pair, lba, 1, 1)).collect();
    assert_eq!(rig.outcome(tokens[2]), Some(Err(HostError::Aborted)));
    assert_eq!(rig.outcome(tokens[1]), None);
}

#[test]
fn a_request_for_no_pair_is_answered_with_its_buffer() {
    let mut rig = Rig::new();
    let read = rig.read(PairId(5), 0, 1);
    assert_eq!(rig.world.hosts[&read].0, Err(HostError::Aborted));
    assert!(rig.world.hosts[&read].1.is_some());
}

#[test]
fn an_idle_stream_sends_beacons_ever_more_rarely_and_a_write_wakes_them() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Pair, 2);
    rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    let count = |rig: &mut Rig, ms: u64| {
        let before = rig.beacons().len();
        for _ in 0..ms {
            rig.pass(MS);
        }
        rig.beacons().len() - before
    };
    let busy = count(&mut rig, 10);
    assert!((8..=10).contains(&busy), "two streams, each silent for at most 2 ms: {busy}");
    count(&mut rig, 1000);
    let idle = count(&mut rig, 1000);
    assert!((38..=42).contains(&idle), "two streams, each every 50 ms: {idle}");
    rig.write(pairs[0], 0, 1, 1);
    let awake = count(&mut rig, 4);
    assert!(awake >= 2, "the other stream would hold the limit time back: {awake}");
}

#[test]
fn many_streams_are_silent_for_no_longer_than_few_and_speak_together() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Pair, 40);
    // Each spoke last at a moment of its own.
    for pair in &pairs {
        rig.write(*pair, 0, 1, 1);
        rig.locals();
        rig.pass(MS / 16);
    }
    let (from, mut turns, passes) = (rig.beacons().len(), 0, 10 * 16);
    for _ in 0..passes {
        let before = rig.beacons().len();
        rig.pass(MS / 16);
        turns += usize::from(rig.beacons().len() > before);
        // Hosts go on at one of them.
        rig.write(pairs[0], 0, 1, 1);
        rig.locals();
    }
    let mut said = std::collections::BTreeMap::new();
    for beacon in &rig.beacons()[from..] {
        said.entry(beacon.stream).or_insert_with(Vec::new).push(beacon.time);
    }
    assert_eq!(said.len(), 39, "the one that is written to has nothing else to say");
    for (stream, times) in said {
        let longest = times.windows(2).map(|pair| pair[1].since_ns(pair[0])).max().unwrap();
        assert!(longest <= 2 * MS, "stream {stream}: silent for {longest} ns");
        assert!(times.len() <= 7, "stream {stream}: {} beacons in 10 ms", times.len());
    }
    assert!(turns <= 20, "in 10 ms beacons at {turns} moments of {passes}");
}

#[test]
fn more_streams_than_may_speak_at_once_are_silent_for_longer_each() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Pair, 600);
    rig.write(pairs[0], 0, 1, 1);
    rig.locals();
    let from = rig.beacons().len();
    for _ in 0..60 {
        rig.pass(MS);
        rig.write(pairs[0], 0, 1, 1);
        rig.locals();
    }
    // A third of them in each 2 ms.
    let said = rig.beacons().len() - from;
    assert!((5_900..=7_300).contains(&said), "600 streams for 60 ms, each every 6 ms: {said}");
    // Nobody writes for long.
    for _ in 0..2_000 {
        rig.pass(MS);
    }
    let from = rig.beacons().len();
    for _ in 0..600 {
        rig.pass(MS);
    }
    let said = rig.beacons().len() - from;
    assert!((2_400..=3_600).contains(&said), "600 streams for 600 ms, each every 150 ms: {said}");
}

#[test]
fn no_record_is_ever_at_or_before_a_beacon_of_its_stream() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    // The beacon and the write in one turn, at one reading of the time.
    rig.pass(60 * MS);
    let beacon = *rig.beacons().last().unwrap();
    assert_eq!(beacon.time, rig.now.time);
    rig.write(pairs[0], 0, 1, 1);
    let head = rig.pushed()[0];
    assert!(head.stamp.time > beacon.time);
    assert_eq!(head.stamp.seq, beacon.seq.next());
}

#[test]
fn writes_that_wait_for_the_lease_are_stamped_in_the_order_they_came() {
    let (mut rig, _, pairs) = Rig::copying(Scope::Group, 1);
    rig.now.lease = rig.now.time;
    rig.now.time = rig.now.time.after_ns(1);
    for lba in 0..5 {
        rig.write(pairs[0], lba, 1, 1);
    }
    rig.turn();
    assert!(rig.pushed().is_empty());
    // Room for two, then for all.
    rig.now.lease = rig.now.time.after_ns(1);
    rig.turn();
    assert_eq!(rig.pushed().len(), 2);
    rig.now.lease = rig.now.time.after_ns(SECOND);
    rig.turn();
    let lbas: Vec<u64> = rig.pushed().iter().map(|head| head.extent.lba).collect();
    assert_eq!(lbas, [0, 1, 2, 3, 4]);
}
