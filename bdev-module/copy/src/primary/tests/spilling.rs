//! What the send buffer cannot hold goes to the spill, comes back in order, and is sent after a restart.

use super::*;
use crate::message::{Refusal, Subject};

const SPILL: VolumeId = VolumeId(7);
const SPILL_BLOCKS: u64 = 1024;

fn config(scope: Scope, blocks: u64) -> GroupConfig {
    let geometry = Geometry { blocks, block_bytes: BLOCK };
    GroupConfig { buffer_bytes: 64 << 10, spill: Some((SPILL, geometry)), ..Rig::group_config("g", scope) }
}

/// Everything but the secondary moves until nothing happens any more.
fn quiet(rig: &mut Rig) {
    loop {
        rig.turn();
        if !(rig.local() || rig.keep()) {
            return;
        }
    }
}

fn create(rig: &mut Rig, scope: Scope, blocks: u64, pairs: u32) -> (GroupId, Vec<PairId>) {
    rig.world.disks.entry(SPILL).and_modify(|disk| disk.resize(SPILL_BLOCKS as usize * BLOCK as usize, 0));
    let group = rig.primary.group_create(rig.now, config(scope, blocks), &mut rig.world).unwrap();
    let pairs = (0..pairs).map(|volume| rig.pair(group, &format!("p{volume}"), volume)).collect();
    (group, pairs)
}

fn spilling(scope: Scope, blocks: u64, pairs: u32) -> (Rig, GroupId, Vec<PairId>) {
    let mut rig = Rig::new();
    let (group, pairs) = create(&mut rig, scope, blocks, pairs);
    rig.run();
    for pair in &pairs {
        assert_eq!(rig.state(*pair), PairState::Pair);
        rig.mark(*pair);
    }
    (rig, group, pairs)
}

/// Writes 4 KiB, `count` times, over the pairs in turn. All are answered without a wait for the link.
fn write(rig: &mut Rig, pairs: &[PairId], count: u64) {
    for index in 0..count {
        let pair = pairs[index as usize % pairs.len()];
        let token = rig.write(pair, index % 8 * 8, 8, index as u8);
        quiet(rig);
        rig.pass(MS);
        rig.pass(MS);
        quiet(rig);
        assert_eq!(rig.outcome(token), Some(Ok(())), "write {index}");
    }
}

fn seqs(rig: &Rig, stream: StreamId) -> Vec<u64> {
    let of_stream = rig.world.history.iter().map(|record| record.head.stamp).filter(|stamp| stamp.stream == stream);
    of_stream.map(|stamp| stamp.seq.0).collect()
}

/// Starts again, as a configuration would, with a session. Nothing has been answered by the secondary yet.
fn restart(rig: Rig, scope: Scope, pairs: u32) -> (Rig, GroupId, Vec<PairId>) {
    let mut rig = rig.crash();
    rig.world.history.clear();
    rig.world.up = false;
    (rig.primary.config.resync_pause_ns, rig.primary.config.resync_pause_ns_max) = (SECOND, 4 * SECOND);
    let (group, pairs) = create(&mut rig, scope, SPILL_BLOCKS, pairs);
    quiet(&mut rig);
    rig.world.up = true;
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    quiet(&mut rig);
    (rig, group, pairs)
}

fn opens(rig: &Rig) -> Vec<OpenStream> {
    let opens = rig.said().into_iter().filter_map(|said| match said {
        Message::OpenStream(open) => Some(open),
        _ => None,
    });
    opens.collect()
}

fn is_told_suspended(rig: &Rig) -> bool {
    rig.said().iter().any(|said| matches!(said, Message::GroupSuspended { .. }))
}

fn open(rig: &mut Rig, open: &OpenStream, durable: u64) {
    let Message::StreamOpened(opened) = Rig::opened(open) else { unreachable!() };
    rig.hear(Message::StreamOpened(StreamOpened { durable: Seq(durable), ..opened }));
    quiet(rig);
}

#[test]
fn beyond_half_of_the_send_buffer_records_go_to_the_spill_and_back_in_order_and_hosts_do_not_wait() {
    for scope in [Scope::Group, Scope::Pair] {
        let (mut rig, group, pairs) = spilling(scope, SPILL_BLOCKS, 2);
        write(&mut rig, &pairs, 60);
        let shown = rig.show(group);
        let spill = shown.spill.unwrap();
        assert_eq!((shown.state, shown.throttle_ns), (PairState::Pair, 0));
        assert!(shown.backlog.bytes <= 32 << 10, "{:?}", shown.backlog);
        assert!(spill.unsent_records > 40 && spill.used_bytes > 40 * 4096, "{spill:?}");
        assert_eq!(shown.backlog.records + spill.unsent_records, 60);
        let streams: BTreeSet<StreamId> = pairs.iter().map(|pair| rig.show_pair(*pair).stream).collect();
        for _ in 0..60 {
            for stream in &streams {
                let sent = seqs(&rig, *stream).last().copied().unwrap_or(0);
                rig.durable(*stream, sent);
                quiet(&mut rig);
            }
        }
        for stream in &streams {
            let wanted: Vec<u64> = (1..=60 / streams.len() as u64).collect();
            assert_eq!(seqs(&rig, *stream), wanted);
        }
        let times: Vec<Time> = rig.world.history.iter().map(|record| record.head.stamp.time).collect();
        assert!(times.is_sorted(), "over all streams");
        for record in &rig.world.history {
            let byte = (record.head.extent.lba / 8) as u8;
            assert_eq!(record.payload.as_ref().unwrap()[0] % 8, byte, "what was written");
        }
        rig.pass(SECOND);
        quiet(&mut rig);
        let spill = rig.show(group).spill.unwrap();
        assert_eq!((spill.unsent_records, spill.used_bytes, spill.reason), (0, 0, None), "freed");
    }
}

#[test]
fn the_lag_is_that_of_the_oldest_record_also_while_it_is_on_its_way_from_the_spill_to_the_link() {
    let (mut rig, group, pairs) = spilling(Scope::Group, SPILL_BLOCKS, 1);
    // Not before its record: the stream's floor after each write.
    let mut floors = Vec::new();
    for _ in 0..60 {
        write(&mut rig, &pairs, 1);
        floors.push(rig.show(group).streams[0].last_time);
    }
    let stream = rig.show_pair(pairs[0]).stream;
    let mut reading = 0;
    loop {
        let sent = seqs(&rig, stream).last().copied().unwrap_or(0);
        rig.durable(stream, sent);
        let shown = rig.show(group);
        let Some(oldest) = floors.get(sent as usize) else { break };
        reading += u64::from(shown.backlog.records == 0);
        let age = rig.now.time.since_ns(*oldest);
        assert!(shown.lag_ns >= Some(age), "{sent} records are durable, the next is {age} ns old: {shown:?}");
        quiet(&mut rig);
    }
    assert!(reading > 0, "the link was never empty while the spill was not");
    quiet(&mut rig);
    assert_eq!(rig.show(group).lag_ns, Some(0));
}

#[test]
fn after_a_crash_what_the_spill_holds_is_sent_in_its_old_epoch_before_the_resync() {
    for scope in [Scope::Group, Scope::Pair] {
        let (mut rig, _, pairs) = spilling(scope, SPILL_BLOCKS, 2);
        write(&mut rig, &pairs, 40);
        let times: Vec<Time> = rig.world.history.iter().map(|record| record.head.stamp.time).collect();
        let (mut rig, group, pairs) = restart(rig, scope, 2);
        let streams: BTreeSet<StreamId> = pairs.iter().map(|pair| rig.show_pair(*pair).stream).collect();
        let asked = opens(&rig);
        assert_eq!(asked.len(), streams.len());
        assert!(asked.iter().all(|open| open.epoch == Epoch(1) && open.unit.is_none()), "{asked:?}");
        assert!(!is_told_suspended(&rig), "it would end the old epochs there");
        assert!(rig.show(group).spill.unwrap().is_replaying);
        // Hosts run on, locally and marked.
        let local = rig.write(pairs[0], 0, 8, 99);
        quiet(&mut rig);
        rig.pass(MS);
        assert_eq!(rig.outcome(local), Some(Ok(())));
        assert!(rig.world.history.is_empty());
        // The secondary has more than this process ever heard of.
        for each in &asked {
            open(&mut rig, each, 2);
        }
        let last = 40 / streams.len() as u64;
        for _ in 0..20 {
            assert!(!is_told_suspended(&rig) && opens(&rig).iter().all(|open| open.unit.is_none()));
            for stream in &streams {
                if let Some(sent) = seqs(&rig, *stream).last().copied().filter(|sent| *sent < last) {
                    rig.durable(*stream, sent);
                }
                quiet(&mut rig);
            }
        }
        for stream in &streams {
            assert_eq!(seqs(&rig, *stream), (3..=last).collect::<Vec<u64>>(), "from what the secondary has");
        }
        rig.pass(100 * MS);
        for stream in &streams {
            let beacons: Vec<Beacon> = rig.beacons().into_iter().filter(|beacon| beacon.stream == *stream).collect();
            let newest = beacons.last().unwrap();
            assert_eq!((newest.epoch, newest.seq), (Epoch(1), Seq(last)));
            let last_spilled = rig.world.history.iter().map(|record| record.head.stamp.time).max().unwrap();
            assert_eq!(newest.time, last_spilled, "complete up to the last that is there");
            assert!(newest.time >= *times.last().unwrap());
        }
        for stream in &streams {
            rig.durable(*stream, last);
        }
        quiet(&mut rig);
        assert!(is_told_suspended(&rig));
        assert!(!rig.show(group).spill.unwrap().is_replaying);
        rig.pass(2 * SECOND);
        quiet(&mut rig);
        let units: Vec<OpenStream> = opens(&rig).into_iter().filter(|open| open.unit == Some(1)).collect();
        assert_eq!(units.len(), streams.len(), "then the resync begins");
        assert!(units.iter().all(|open| open.epoch == Epoch(2)));
    }
}

#[test]
fn a_secondary_that_refuses_or_has_more_or_stays_silent_holds_the_resync_up_no_longer() {
    for case in 0..3 {
        let (mut rig, _, pairs) = spilling(Scope::Group, SPILL_BLOCKS, 1);
        write(&mut rig, &pairs, 40);
        let (mut rig, group, _) = restart(rig, Scope::Group, 1);
        let asked = opens(&rig)[0].clone();
        match case {
            0 => {
                let subject = Subject::Stream(asked.stream, asked.epoch);
                let text = "it was suspended".to_string();
                rig.hear(Message::Refused { group, subject, refusal: Refusal::UnsentRecords, text });
            }
            1 => {
                open(&mut rig, &asked, 45);
                assert_eq!(rig.primary.misdeeds, 0, "the process before sent more than the spill holds");
            }
            _ => {
                open(&mut rig, &asked, 4);
                assert!(rig.show(group).waiting.unwrap().reason.contains("spill"));
                rig.pass(31 * SECOND);
            }
        }
        quiet(&mut rig);
        assert!(!rig.show(group).spill.unwrap().is_replaying, "case {case}");
        rig.pass(2 * SECOND);
        quiet(&mut rig);
        assert!(
            opens(&rig).iter().any(|open| open.unit == Some(1) && open.epoch == Epoch(2)),
            "case {case}: {:?}",
            rig.show(group)
        );
    }
}

#[test]
fn a_group_whose_spill_is_not_open_yet_is_suspended_when_another_primary_s_suspension_takes_its_stream_back() {
    let mut rig = Rig::new();
    (rig.primary.config.resync_pause_ns, rig.primary.config.resync_pause_ns_max) = (SECOND, 4 * SECOND);
    rig.world.failing_reads.insert(SPILL);
    rig.world.failing_writes.insert(SPILL);
    let (group, pairs) = create(&mut rig, Scope::Group, SPILL_BLOCKS, 1);
    rig.run();
    assert_eq!(rig.state(pairs[0]), PairState::Pair, "a group copies while its spill is being opened");
    let stream = opens(&rig)[0].stream;
    let (subject, text) = (rig.opening(stream), "another primary of the group suspended it".to_string());
    rig.hear(Message::Refused { group, subject, refusal: Refusal::UnsentRecords, text: text.clone() });
    quiet(&mut rig);
    assert_eq!(rig.state(pairs[0]), PairState::SuspendedError);
    assert_eq!(rig.show(group).reason, Some(text));
    rig.pass(2 * SECOND);
    rig.run();
    assert!(opens(&rig).iter().any(|open| open.unit == Some(1)), "the other's resync waits for this one");
}

#[test]
fn a_session_that_ends_in_the_replay_and_a_second_crash_begin_it_anew() {
    let (mut rig, _, pairs) = spilling(Scope::Group, SPILL_BLOCKS, 1);
    write(&mut rig, &pairs, 40);
    let (mut rig, _, _) = restart(rig, Scope::Group, 1);
    let asked = opens(&rig)[0].clone();
    open(&mut rig, &asked, 4);
    rig.durable(asked.stream, 9);
    quiet(&mut rig);
    rig.world.up = false;
    rig.primary.link_down(rig.now, LINK, &mut rig.world);
    rig.pass(100 * SECOND);
    quiet(&mut rig);
    assert!(rig.show(rig.primary.groups()[0]).spill.unwrap().is_replaying, "without a session nothing is given up");
    rig.world.did.clear();
    rig.world.up = true;
    rig.primary.link_up(rig.now, LINK, &mut rig.world);
    let again = opens(&rig)[0].clone();
    assert_eq!((again.epoch, again.acknowledged), (Epoch(1), Seq(9)));
    open(&mut rig, &again, 12);
    let (mut rig, group, _) = restart(rig, Scope::Group, 1);
    let asked = opens(&rig)[0].clone();
    open(&mut rig, &asked, 14);
    for _ in 0..20 {
        if let Some(sent) = seqs(&rig, asked.stream).last().copied()
            && rig.show(group).spill.unwrap().is_replaying
        {
            rig.durable(asked.stream, sent);
        }
        quiet(&mut rig);
    }
    assert_eq!(seqs(&rig, asked.stream), (15..=40).collect::<Vec<u64>>());
    assert!(!rig.show(group).spill.unwrap().is_replaying);
}

#[test]
fn a_full_spill_suspends_as_a_full_buffer_does_and_is_empty_then() {
    let (mut rig, group, pairs) = spilling(Scope::Group, 160, 1);
    let mut writes = 0;
    while rig.show(group).state != PairState::SuspendedFull {
        rig.write(pairs[0], 0, 8, 1);
        quiet(&mut rig);
        rig.pass(100 * MS);
        writes += 1;
        assert!(writes < 100);
    }
    assert!(writes > 20, "more than the send buffer holds");
    quiet(&mut rig);
    rig.pass(SECOND);
    quiet(&mut rig);
    let spill = rig.show(group).spill.unwrap();
    assert_eq!((spill.unsent_records, spill.used_bytes), (0, 0));
}

#[test]
fn a_restart_with_nothing_in_the_spill_resyncs_at_once() {
    let (mut rig, _, pairs) = spilling(Scope::Group, SPILL_BLOCKS, 1);
    write(&mut rig, &pairs, 3);
    let (mut rig, group, _) = restart(rig, Scope::Group, 1);
    assert!(
        is_told_suspended(&rig)
            && rig.show(group).spill.unwrap() == SpillStatus { total_bytes: 1016 * 512, ..SpillStatus::default() }
    );
    rig.pass(2 * SECOND);
    quiet(&mut rig);
    let asked = opens(&rig);
    assert!(
        asked.len() == 1 && asked[0].unit == Some(1) && asked[0].epoch == Epoch(2),
        "{:?}",
        rig.show(group).waiting
    );
}

#[test]
fn a_spill_of_a_shared_stream_or_of_an_odd_device_is_refused() {
    let mut rig = Rig::new();
    let create = |rig: &mut Rig, config| rig.primary.group_create(rig.now, config, &mut rig.world);
    let refused = |result| matches!(result, Err(OperatorError::Invalid(text)) if text.contains("spill"));
    assert!(refused(create(&mut rig, config(Scope::System, SPILL_BLOCKS))));
    assert!(refused(create(&mut rig, config(Scope::Group, 100))));
    let odd = Geometry { blocks: 1 << 20, block_bytes: 520 };
    assert!(refused(create(&mut rig, GroupConfig { spill: Some((SPILL, odd)), ..config(Scope::Group, 200) })));
    assert!(rig.primary.groups().is_empty());
}

#[test]
fn how_small_a_spill_may_be_is_the_embedding_s_to_say() {
    for (bytes_min, is_taken) in [(64 << 10, true), ((64 << 10) + 1, false)] {
        let mut rig = Rig::new();
        rig.primary = Primary::new(PrimaryConfig { spill_bytes_min: bytes_min, ..Rig::config() });
        let answer = rig.primary.group_create(rig.now, config(Scope::Group, 128), &mut rig.world);
        assert_eq!(answer.is_ok(), is_taken, "{answer:?}");
    }
}

/// A stream as the secondary receives it: its last number, its tip, and the newest beacon that it cannot use yet.
#[derive(Default)]
struct Received {
    run: Seq,
    tip: Time,
    beacon: Option<(Time, Seq)>,
}

impl Received {
    fn of(rig: &Rig, stream: StreamId) -> Received {
        let mut received = Received::default();
        for did in &rig.world.did {
            match did {
                Did::Push(head) if head.stamp.stream == stream => {
                    assert!(head.stamp.time > received.tip, "{head:?} was denied by a beacon at {}", received.tip);
                    (received.run, received.tip) = (head.stamp.seq, head.stamp.time);
                }
                Did::Beacon(it) if it.stream == stream && it.seq == received.run => {
                    received.tip = received.tip.max(it.time);
                }
                Did::Beacon(it) if it.stream == stream && it.seq < received.run => {
                    assert!(it.time <= received.tip, "{it:?} denies {}", received.run);
                }
                Did::Beacon(it) if it.stream == stream && received.beacon.is_none_or(|(time, _)| it.time > time) => {
                    received.beacon = Some((it.time, it.seq));
                }
                _ => {}
            }
            if let Some((time, _)) = received.beacon.take_if(|(_, seq)| *seq <= received.run) {
                received.tip = received.tip.max(time);
            }
        }
        received
    }
}

/// Everything that is not later than the least tip becomes durable at the secondary.
fn acknowledge_up_to_the_limit(rig: &mut Rig, streams: &[StreamId]) {
    let limit = streams.iter().map(|stream| Received::of(rig, *stream).tip).min().unwrap();
    for stream in streams {
        let mut newest = rig.world.history.iter().map(|record| record.head.stamp).rev();
        let last = newest.find(|stamp| stamp.stream == *stream && stamp.time <= limit);
        if let Some(last) = last.filter(|last| last.seq > rig.standing(*stream).durable) {
            rig.durable(*stream, last.seq.0);
        }
    }
}

#[test]
fn what_the_link_keeps_of_one_stream_does_not_wait_for_what_the_spill_holds_of_another() {
    let (mut rig, group, pairs) = spilling(Scope::Pair, SPILL_BLOCKS, 3);
    let streams: Vec<StreamId> = pairs.iter().map(|pair| rig.show_pair(*pair).stream).collect();
    // The link's share is full of the first pair's: what the others have is in the spill.
    for pair in [0, 1, 0, 1] {
        write(&mut rig, &pairs[pair..=pair], 15);
    }
    write(&mut rig, &pairs, 30);
    assert_eq!(seqs(&rig, streams[1]), [0; 0]);
    let announced = rig.beacons().iter().filter(|beacon| beacon.stream == streams[1]).map(|beacon| beacon.seq).max();
    assert!(announced > Some(Seq(15)), "a takeover tells of what never left the spill: {announced:?}");
    for _ in 0..100 {
        acknowledge_up_to_the_limit(&mut rig, &streams);
        quiet(&mut rig);
        rig.pass(2 * MS);
        quiet(&mut rig);
        assert!(rig.show(group).backlog.bytes <= 32 << 10, "no more memory than the link's share");
    }
    let shown = rig.show(group);
    assert_eq!((shown.backlog.records, shown.spill.as_ref().unwrap().unsent_records), (0, 0), "{shown:?}");
    let times: Vec<Time> = rig.world.history.iter().map(|record| record.head.stamp.time).collect();
    assert!(times.len() == 90 && times.is_sorted(), "{times:?}");
}

#[test]
fn what_a_restart_sends_of_one_stream_does_not_wait_for_what_the_spill_holds_of_another() {
    let (mut rig, _, pairs) = spilling(Scope::Pair, SPILL_BLOCKS, 2);
    write(&mut rig, &pairs[..1], 20);
    write(&mut rig, &pairs[1..], 20);
    let (mut rig, group, pairs) = restart(rig, Scope::Pair, 2);
    let streams: Vec<StreamId> = pairs.iter().map(|pair| rig.show_pair(*pair).stream).collect();
    for asked in opens(&rig) {
        open(&mut rig, &asked, 0);
    }
    for _ in 0..100 {
        if rig.show(group).spill.unwrap().is_replaying {
            acknowledge_up_to_the_limit(&mut rig, &streams);
        }
        quiet(&mut rig);
        rig.pass(2 * MS);
        quiet(&mut rig);
    }
    assert!(!rig.show(group).spill.unwrap().is_replaying, "all that the spill held is there");
    for stream in streams {
        assert_eq!(seqs(&rig, stream), (1..=20).collect::<Vec<u64>>());
    }
}
