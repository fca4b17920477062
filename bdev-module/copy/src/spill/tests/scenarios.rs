//! What failing devices, discards and holes lead to.

use super::*;

/// A group in the middle of a spilling episode, with records in the log, in memory and in the link.
fn spilling(seed: u64) -> Group {
    let mut group = Group::new(seed, false);
    while !group.spill.is_open() {
        group.turn();
        group.io();
    }
    for turn in 0.. {
        group.stamp();
        group.pump();
        group.turn();
        group.io();
        let has_both = group.spill.on_disk + 4 < group.spill.appended && group.spill.next + 4 < group.spill.on_disk;
        if group.spill.cursor.is_some() && has_both {
            break;
        }
        assert!(turn < 10_000);
    }
    group
}

/// Ends all I/O that is under way and what follows from it.
fn drain(group: &mut Group) {
    while let Some((op, result, data)) = group.disk.complete(|_| None) {
        group.spill.done(&mut group.disk, op, result, data.as_deref());
    }
}

/// Everything that was stamped reaches the link.
fn catch_up(group: &mut Group) {
    for turn in 0.. {
        while !group.link.is_empty() {
            group.acknowledge();
        }
        group.pump();
        group.turn();
        group.io();
        if group.pushed == group.last {
            return;
        }
        assert!(turn < 10_000, "{:?}", group.spill.reason());
    }
}

#[test]
fn a_device_without_space_closes_the_spill_and_what_it_holds_still_reaches_the_link() {
    for errno in [6, 19, 28, 30] {
        let mut group = spilling(1);
        for turn in 0.. {
            group.acknowledge();
            group.pump();
            (0..4).for_each(|_| group.stamp());
            group.spill.turn(&mut group.disk);
            let error = |op| (op != SpillOp::Read).then_some(errno);
            if let Some((op, result, data)) = group.disk.complete(error) {
                group.spill.done(&mut group.disk, op, result, data.as_deref());
            }
            if group.spill.closed.is_some() {
                break;
            }
            assert!(turn < 10_000);
        }
        assert!(group.spill.reason().unwrap().contains("takes nothing more"), "{:?}", group.spill.reason());
        assert!(!group.spill.should_begin(u64::MAX, LIMIT_BYTES));
        let end = group.spill.end;
        for _ in 0..1000 {
            group.stamp();
        }
        assert!(group.spill.memory_bytes() + group.link_bytes() <= LIMIT_BYTES, "memory is what the budget allows");
        catch_up(&mut group);
        assert_eq!(group.spill.end, end, "nothing more was written");
        group.begin_anew();
        assert!(group.spill.should_begin(u64::MAX, LIMIT_BYTES), "tried anew with what comes next");
    }
}

#[test]
fn a_device_that_cannot_be_read_for_good_or_lies_is_told_and_hands_out_nothing_more() {
    for rots in [false, true] {
        let mut group = spilling(2);
        drain(&mut group);
        let area = group.spill.area;
        let from = group.spill.tail.freed().map_or(0, |it| it.position);
        if rots {
            for position in from..group.spill.end.position {
                group.disk.stable[area.extent(position, 1).lba as usize * SECTOR + 100] ^= 1;
            }
        }
        let mut turns = 0;
        while group.spill.lost().is_none() {
            turns += 1;
            assert!(turns < 10_000);
            group.acknowledge();
            group.pump();
            let error = |op| (!rots && op == SpillOp::Read).then_some(19);
            let Some((op, result, data)) = group.disk.complete(error) else { continue };
            group.spill.done(&mut group.disk, op, result, data.as_deref());
        }
        assert!(group.spill.next(&mut group.disk).is_none() && group.spill.holds_unsent());
        group.spill.discard();
        assert_eq!((group.spill.lost(), group.spill.holds_unsent()), (None, false));
    }
}

#[test]
fn after_a_discard_with_everything_under_way_the_next_episode_is_whole() {
    for seed in 0..20 {
        let mut group = spilling(seed);
        group.link.clear();
        group.begin_anew();
        group.spill.turn(&mut group.disk);
        for _ in 0..3000 {
            group.step();
        }
        group.crash();
        assert!(group.reached.episodes > 1);
    }
}

#[test]
fn damage_before_the_durable_end_is_told_and_what_is_before_it_is_sent() {
    let mut group = spilling(3);
    drain(&mut group);
    let (tail, end) = (group.spill.meta.tail.position, group.spill.end.position);
    // As a tail that was made durable now would say.
    group.spill.kept = Kept::Wanted;
    group.meta = LogMeta::decode(&group.spill.take_meta().unwrap()).unwrap();
    assert_eq!(group.meta.durable_end, end);
    let area = group.spill.area;
    let damaged = (tail + end) / 2;
    group.disk.stable[area.extent(damaged, 1).lba as usize * SECTOR..][..SECTOR].fill(0x5a);
    group.disk.crash();
    group.meta_flying = None;
    group.spill = Spill::new(VolumeId(1), GEOMETRY, GROUP, PURPOSES, group.meta);
    while !group.spill.is_open() {
        group.turn();
        group.io();
    }
    assert!(group.spill.reason().unwrap().contains("damaged"), "{:?}", group.spill.reason());
    assert!(group.spill.end.position <= damaged);
    group.spill.replay(STREAMS.map(|stream| (stream, Epoch(1), Seq(group.acknowledged[&stream]))));
    let mut count = 0;
    for _ in 0..1000 {
        while let Some(next) = group.spill.next(&mut group.disk) {
            group.is_as_stamped(&next.record);
            count += 1;
        }
        group.turn();
        group.io();
    }
    assert!(group.spill.is_replayed() && count > 0);
    // What is appended next takes the place of what was damaged: the next opening finds no damage.
    group.begin_anew();
    group.link.clear();
    for _ in 0..3000 {
        group.step();
    }
    group.crash();
}

#[test]
fn another_log_s_device_is_refused_and_the_group_runs_without() {
    let mut group = spilling(4);
    drain(&mut group);
    let other = LogMeta { id: 5, ..LogMeta::new(5) };
    group.spill = Spill::new(VolumeId(1), GEOMETRY, GROUP, PURPOSES, other);
    for _ in 0..20 {
        group.turn();
        group.io();
    }
    assert!(group.spill.has_failed() && group.spill.reason().unwrap().contains("earlier group"));
    assert!(!group.spill.should_begin(u64::MAX, LIMIT_BYTES));
}

#[test]
fn an_empty_device_in_place_of_the_one_before_is_formatted() {
    let mut group = spilling(4);
    drain(&mut group);
    group.disk.stable.fill(0);
    group.disk.crash();
    group.disk.stable.fill(0);
    group.link.clear();
    group.meta = LogMeta { is_formatted: true, ..group.spill.meta };
    group.spill = Spill::new(VolumeId(1), GEOMETRY, GROUP, PURPOSES, group.meta);
    while !group.spill.is_open() {
        group.turn();
        group.io();
    }
    assert_eq!((group.spill.found().count(), group.spill.reason()), (0, None));
    group.begin_anew();
    for _ in 0..3000 {
        group.step();
    }
    group.crash();
    assert!(group.reached.episodes > 1);
}

#[test]
fn what_lies_behind_a_hole_is_not_sent() {
    let mut group = Group::new(5, false);
    let record = |stream: u64, seq: u64, time: u64| {
        let stamp = Stamp { time: Time(time), stream: StreamId(stream), seq: Seq(seq) };
        let extent = Extent { lba: 1, blocks: 1 };
        let head = RecordHead { stamp, pair: PairId(1), kind: RecordKind::Unmap, extent, payload_bytes: 0 };
        Record { head, payload: None }
    };
    while !group.spill.is_open() {
        group.turn();
        group.io();
    }
    group.spill.begin([]);
    for (time, (stream, seq)) in [(1, 5), (2, 5), (1, 6), (2, 6), (1, 8), (2, 7)].into_iter().enumerate() {
        group.spill.append(Epoch(1), (1, 1), record(stream, seq, time as u64 + 1));
    }
    while group.spill.on_disk < 6 {
        group.turn();
        group.io();
    }
    // Stream 1 has a hole at 7; stream 2 one before its first; stream 1 of another epoch has nothing here.
    let cases = [
        ([(1, 1, 4), (2, 1, 4)], vec![(1, 5), (2, 5), (1, 6), (2, 6), (2, 7)], [false, true]),
        ([(1, 1, 7), (2, 1, 3)], vec![(1, 8)], [true, false]),
        ([(1, 2, 4), (2, 1, 6)], vec![(2, 7)], [false, true]),
    ];
    for (streams, wanted, told) in cases {
        group.disk.crash();
        group.spill = Spill::new(VolumeId(1), GEOMETRY, GROUP, PURPOSES, group.meta);
        while !group.spill.is_open() {
            group.turn();
            group.io();
        }
        assert!(group.spill.next(&mut group.disk).is_none(), "nothing before it is asked for");
        let found: Vec<_> = group.spill.found().map(|(id, found)| (id.0, found.first.0, found.last.0)).collect();
        assert_eq!(found, [(1, 5, 8), (2, 5, 7)]);
        group.spill.replay(streams.map(|(id, epoch, durable)| (StreamId(id), Epoch(epoch), Seq(durable))));
        let is_told = STREAMS.map(|stream| group.spill.handed(stream, Epoch(1)).is_some());
        assert_eq!(is_told, told, "of a stream with a hole nothing is told");
        let mut out = Vec::new();
        while !group.spill.is_replayed() {
            match group.spill.next(&mut group.disk) {
                Some(next) => out.push((next.record.head.stamp.stream.0, next.record.head.stamp.seq.0)),
                None => group.io(),
            }
        }
        assert_eq!(out, wanted);
    }
}

#[test]
fn a_read_whose_cursor_is_gone_is_not_taken_for_the_next_one_s() {
    let mut group = spilling(6);
    let mut turns = 0;
    let held = loop {
        turns += 1;
        assert!(turns < 10_000);
        if let Some(at) = group.disk.jobs.iter().position(|(op, _)| *op == SpillOp::Read) {
            break group.disk.jobs.swap_remove(at);
        }
        group.acknowledge();
        group.pump();
        group.stamp();
        group.turn();
        group.io();
    };
    group.link.clear();
    group.begin_anew();
    while group.spill.cursor.is_none() {
        group.stamp();
        group.pump();
        group.turn();
        group.io();
    }
    for _ in 0..10 {
        group.acknowledge();
        group.pump();
        let is_read = |(op, _): &(SpillOp, _)| *op == SpillOp::Read;
        assert!(!group.disk.jobs.iter().any(is_read), "two reads that cannot be told apart");
    }
    group.disk.jobs.push(held);
    catch_up(&mut group);
}

#[test]
fn a_block_that_is_given_up_goes_back_to_memory_in_its_order() {
    let mut group = spilling(7);
    drain(&mut group);
    (0..6).for_each(|_| group.stamp());
    group.spill.turn(&mut group.disk);
    let mut turns = 0;
    while group.spill.flying.len() < 2 || group.spill.next > group.spill.on_disk {
        turns += 1;
        assert!(turns < 10_000, "{:?}", group.spill.reason());
        group.acknowledge();
        group.stamp();
        drain(&mut group);
        (0..6).for_each(|_| group.stamp());
        group.pump();
        group.turn();
    }
    while let Some((op, result, data)) = group.disk.complete(|op| (op != SpillOp::Read).then_some(28)) {
        group.spill.done(&mut group.disk, op, result, data.as_deref());
    }
    assert!(group.spill.closed.is_some() && group.spill.flying.is_empty());
    catch_up(&mut group);
}
