use super::header::{Header, Kind};
use super::*;
use crate::message::Subject;
use crate::types::{GroupId, Time};
use proptest::prelude::*;
use world::{MS, Network, Payload, S, World, generation, insecure, push, record};

mod messages;
mod plain;
mod sessions;
mod world;

const STREAM: StreamId = StreamId(0xAB);

fn lossy() -> Network {
    Network {
        loss: 0.05,
        reorder: 0.2,
        reorder_ns: 8 * MS,
        duplicate: 0.03,
        corrupt: 0.02,
        delay_ns: 3 * MS,
        ..Network::clean()
    }
}

fn note(number: u64) -> Message {
    Message::Refused {
        group: GroupId(number),
        subject: Subject::Stream(StreamId(1), Epoch(1)),
        refusal: crate::message::Refusal::NotYet,
        text: format!("message {number}"),
    }
}

#[test]
fn every_record_arrives_whole_over_a_network_that_loses_reorders_repeats_and_damages() {
    for seed in 0..6 {
        let mut world = World::new(seed, lossy(), |config| {
            if seed % 2 == 1 {
                insecure(config);
            }
        });
        world.up();
        world.open(STREAM);
        let records = push(&mut world, STREAM, 1..300);
        world.drain(STREAM, &records, 60 * S);
        assert!(world.links[0].stats().data_frames_retransmitted > 0);
        assert!(world.links[1].stats().dropped_unauthentic > 0, "damage was noticed");
        assert_eq!(world.ends[0].freed.records, records.len() as u64);
        assert_eq!(world.ends[0].freed.bytes, records.iter().map(|record| record.head.charge_bytes()).sum::<u64>());
        assert_eq!(world.ends[1].beyond_grant, 0);
        assert_eq!((world.ends[0].ups, world.ends[0].downs.len()), (1, 0));
    }
}

#[test]
fn messages_arrive_once_and_in_order_both_ways() {
    let mut world = World::new(1, lossy(), |_| {});
    world.up();
    for number in 0..900 {
        world.links[0].send_message(&note(number));
        world.links[1].send_message(&note(10_000 + number));
    }
    world.until(60 * S, "all messages", |world| world.ends.iter().all(|end| end.messages.len() >= 900));
    world.run(S);
    assert_eq!(world.ends[1].messages, (0..900).map(note).collect::<Vec<_>>());
    assert_eq!(world.ends[0].messages, (10_000..10_900).map(note).collect::<Vec<_>>());
}

#[test]
fn too_many_waiting_messages_end_the_session_and_the_next_one_works() {
    let mut world = World::new(2, Network::clean(), |_| {});
    world.up();
    for number in 0..=CONTROL_QUEUE_MAX as u64 {
        world.links[0].send_message(&note(number));
    }
    world.until(5 * S, "a new session", |world| world.ends[0].ups == 2 && world.ends[1].ups == 2);
    assert_eq!(world.ends[0].downs, [DownReason::ControlOverflow]);
    assert_eq!(world.ends[1].downs, [DownReason::Replaced]);
    world.ends[1].messages.clear();
    world.links[0].send_message(&note(5));
    world.until(S, "the message", |world| world.ends[1].messages == [note(5)]);
}

#[test]
fn a_sender_never_goes_beyond_its_grants() {
    for (grant_records, grant_bytes) in [(1, 1 << 30), (3, 200_000), (4096, 150_000), (17, 400_000)] {
        let mut world = World::new(u64::from(grant_records), lossy(), |_| {});
        world.up();
        world.ends[1].grant_records = grant_records;
        world.ends[1].grant_bytes = grant_bytes;
        world.open(STREAM);
        let records = push(&mut world, STREAM, 1..80);
        world.drain(STREAM, &records, 120 * S);
        assert_eq!(world.ends[1].beyond_grant, 0, "grants of {grant_records} records, {grant_bytes} bytes");
    }
}

#[test]
fn without_a_grant_nothing_is_sent_and_with_one_it_goes_on() {
    let mut world = World::new(3, Network::clean(), |_| {});
    world.up();
    world.ends[1].grant_records = 0;
    world.open(STREAM);
    let records = push(&mut world, STREAM, 1..20);
    world.run(3 * S);
    assert_eq!(world.ends[1].fragments, 0);
    world.ends[1].grant_records = 5;
    world.ends[1].durable_behind = 100;
    world.run(S);
    assert_eq!(world.ends[1].rings[&STREAM].run, Seq(5), "5 above what is durable, which is nothing");
    world.ends[1].durable_behind = 0;
    world.drain(STREAM, &records, 5 * S);
}

#[test]
fn a_status_that_comes_before_its_stream_is_started_counts_once_it_is() {
    let mut world = World::new(4, Network::clean(), |_| {});
    world.up();
    world.ends[1].open(STREAM, Epoch(1), Seq(1));
    let records = push(&mut world, STREAM, 1..20);
    world.run(S);
    assert_eq!(world.ends[1].fragments, 0, "a stream that was not started sends nothing");
    world.links[0].stream_start(STREAM, Epoch(1), generation(), Seq(0));
    world.drain(STREAM, &records, S);
}

#[test]
fn a_fragment_that_the_sink_did_not_keep_comes_again() {
    let mut world = World::new(5, Network::clean(), |_| {});
    world.up();
    world.ends[1].refuse_every = 7;
    world.open(STREAM);
    let records = push(&mut world, STREAM, 1..100);
    world.drain(STREAM, &records, 30 * S);
    assert!(world.links[1].stats().data_frames_refused > 20);
}

#[test]
fn the_newest_beacon_arrives_and_replaces_those_that_waited() {
    let mut world = World::new(6, Network::clean(), |_| {});
    world.up();
    let beacon = |time| Beacon { stream: STREAM, epoch: Epoch(1), time: Time(time), seq: Seq(9) };
    world.links[0].send_beacon(beacon(1));
    world.run(S);
    assert!(world.ends[1].beacons.is_empty(), "no beacon of a stream that was not started");
    world.open(STREAM);
    world.links[0].send_beacon(beacon(2));
    world.links[0].send_beacon(beacon(3));
    world.links[0].send_beacon(Beacon { epoch: Epoch(2), ..beacon(4) });
    world.run(S);
    assert_eq!(world.ends[1].beacons, [(generation().number, beacon(3))]);
}

#[test]
fn what_many_streams_say_at_once_goes_in_few_datagrams_and_each_says_its_newest() {
    let mut world = World::new(8, Network::clean(), |_| {});
    world.up();
    // As identifiers are: spread over all numbers.
    let streams = || (1..=256_u64).map(|stream| StreamId(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    streams().for_each(|stream| world.open(stream));
    world.run(S);
    let before = world.links[0].stats();
    let beacon = |stream, time| Beacon { stream, epoch: Epoch(1), time: Time(time), seq: Seq(0) };
    for time in [5, 6] {
        streams().for_each(|stream| world.links[0].send_beacon(beacon(stream, time)));
    }
    let gone = streams().nth(100).unwrap();
    world.links[0].stream_drop(gone);
    world.run(MS);
    let after = world.links[0].stats();
    assert_eq!(after.beacons_sent - before.beacons_sent, 255);
    assert!(after.datagrams_sent - before.datagrams_sent <= 4, "{before:#?}\n{after:#?}");
    world.run(S);
    let heard = world.ends[1].beacons.iter().map(|(number, beacon)| (*number, beacon.stream, beacon.time));
    let told = streams().filter(|stream| *stream != gone).map(|stream| (generation().number, stream, Time(6)));
    assert_eq!(heard.collect::<Vec<_>>(), told.collect::<Vec<_>>());
}

#[test]
fn of_beacons_that_are_cut_short_none_is_taken_and_the_datagram_is_counted() {
    let mut world = World::new(9, Network::clean(), insecure);
    world.up();
    world.open(STREAM);
    let entry = |time| (Beacon { stream: STREAM, epoch: Epoch(1), time: Time(time), seq: Seq(0) }, 1);
    let mut whole = Vec::new();
    beacons::encode(&mut whole, [entry(1), entry(2)].into_iter(), 200);
    for (number, bytes) in [0, whole.len() - 1, whole.len()].into_iter().enumerate() {
        let session = world.links[1].session.as_ref().unwrap().keys.local;
        let mut header = Header::new(Kind::Beacons, session, 1000 + number as u64);
        header.body_bytes = (bytes as u16).into();
        let mut datagram = vec![0; HEADER_BYTES + bytes + 4];
        seal::Seal::Crc.seal(&header, &whole[..bytes], &mut datagram);
        let (now, from) = (world.now(), world.links[1].address().unwrap());
        world.links[1].handle_datagrams(now, from, &mut datagram, 0, &mut world.ends[1]);
    }
    assert_eq!(world.links[1].stats().dropped_invalid, 2);
    assert_eq!(world.ends[1].beacons, [entry(1), entry(2)].map(|(beacon, generation)| (generation, beacon)));
}

#[test]
fn streams_share_the_link_oldest_stamp_first() {
    let mut world = World::new(7, Network::clean(), |config| config.rate_limit_bytes_per_s = Some(2_000_000));
    world.up();
    let streams = [StreamId(30), StreamId(10), StreamId(20)];
    for stream in streams {
        world.open(stream);
    }
    let mut all: Vec<Record<Payload>> = Vec::new();
    for seq in 1..40 {
        for (at, stream) in streams.into_iter().enumerate() {
            let mut record = record(stream, seq, 4096);
            record.head.stamp.time = Time(seq * 100 + at as u64);
            world.links[0].stream_push(Epoch(1), record.clone());
            all.push(record);
        }
    }
    world.until(10 * S, "all records", |world| world.ends[1].completed.len() == all.len());
    let order: Vec<_> = all.iter().map(|record| (record.head.stamp.stream, record.head.stamp.seq)).collect();
    assert_eq!(world.ends[1].completed, order, "a clean network shows the order of sending");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut world = World::new(seed, lossy(), |_| {});
        world.up();
        world.open(STREAM);
        let records = push(&mut world, STREAM, 1..60);
        world.drain(STREAM, &records, 60 * S);
        (world.trace, world.now)
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

/// Payload bytes per second of virtual time that 4 KiB records reach.
fn goodput(net: Network, adjust: impl Fn(&mut LinkConfig), megabytes: u64) -> (f64, World) {
    let mut world = World::new(11, net, adjust);
    world.up();
    world.ends[1].grant_records = 8192;
    world.open(STREAM);
    let total = megabytes * 256;
    let (mut pushed, start) = (0, world.now);
    while world.ends[1].rings[&STREAM].run < Seq(total) {
        while pushed < total && world.links[0].stream_backlog(STREAM).records < 16_384 {
            pushed += 1;
            world.links[0].stream_push(Epoch(1), record(STREAM, pushed, 4096));
        }
        world.step();
        let ring = world.ends[1].rings.get_mut(&STREAM).unwrap();
        let durable = ring.durable;
        ring.records.retain(|seq, _| *seq > durable);
        assert!(world.now - start < 120 * S, "{:#?}", world.links[0].stats());
    }
    assert_eq!(world.ends[1].beyond_grant, 0);
    ((total * 4096) as f64 / ((world.now - start) as f64 / 1e9), world)
}

#[test]
fn a_wan_with_loss_and_reordering_carries_40_megabytes_per_second() {
    let (bytes_per_s, world) = goodput(Network::wan(), |_| {}, 100);
    let stats = world.links[0].stats();
    println!(
        "{:.1} MB/s, {:.1} datagrams per train\n{stats:#?}",
        bytes_per_s / 1e6,
        world.datagrams as f64 / world.trains as f64
    );
    assert!(bytes_per_s >= 40e6, "{:.1} MB/s\n{stats:#?}", bytes_per_s / 1e6);
    let sent = stats.data_frames_sent + stats.data_frames_retransmitted;
    assert!(
        stats.data_frames_retransmitted * 100 < sent * 4,
        "2 % loss takes less than 4 % of retransmissions: {stats:#?}"
    );
}

#[test]
fn a_bottleneck_with_a_short_queue_is_filled_and_not_flooded() {
    let net = Network { delay_ns: 10 * MS, bottleneck: Some((10_000_000, 200_000)), ..Network::clean() };
    let (bytes_per_s, world) = goodput(net, |_| {}, 40);
    let stats = world.links[0].stats();
    println!("{:.1} MB/s of 10\n{stats:#?}", bytes_per_s / 1e6);
    assert!(bytes_per_s >= 7e6, "{:.1} MB/s\n{stats:#?}", bytes_per_s / 1e6);
    let sent = stats.data_frames_sent + stats.data_frames_retransmitted;
    assert!(stats.data_frames_retransmitted * 100 < sent * 25, "{stats:#?}");
}

#[test]
fn a_bottleneck_with_a_long_queue_does_not_fill_it() {
    let net = Network { delay_ns: 10 * MS, bottleneck: Some((10_000_000, 20_000_000)), ..Network::clean() };
    let (bytes_per_s, world) = goodput(net, |_| {}, 60);
    let stats = world.links[0].stats();
    println!("{:.1} MB/s of 10\n{stats:#?}", bytes_per_s / 1e6);
    assert!(bytes_per_s >= 7e6, "{:.1} MB/s\n{stats:#?}", bytes_per_s / 1e6);
    assert!(stats.rtt_ns < 300 * MS, "{stats:#?}");
}

#[test]
fn the_rate_limit_is_kept() {
    let (bytes_per_s, _) = goodput(Network::clean(), |config| config.rate_limit_bytes_per_s = Some(5_000_000), 10);
    assert!((3.5e6..5.2e6).contains(&bytes_per_s), "{:.2} MB/s of payload", bytes_per_s / 1e6);
}

#[test]
fn trains_are_long_when_there_is_much_to_send() {
    let (_, world) = goodput(Network { delay_ns: 5 * MS, ..Network::clean() }, |_| {}, 50);
    let stats = world.links[0].stats();
    assert!(stats.datagrams_sent > 10 * stats.trains_sent, "{stats:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_dropped_or_taken_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz_datagram(&bytes);
    }

    #[test]
    fn any_body_of_any_kind_never_panics(kind in 1u8..9, bytes in proptest::collection::vec(any::<u8>(), 86..400)) {
        let mut datagram = bytes;
        datagram[2] = kind;
        datagram[3] %= 200;
        datagram[4] = 0;
        fuzz_datagram(&datagram);
    }
}

#[test]
fn configurations_out_of_range_are_refused_with_a_sentence() {
    let (private, public) = generate_keypair([1; 32]);
    let (_, remote) = generate_keypair([2; 32]);
    let refuse = |change: fn(&mut LinkConfig)| {
        let mut config = LinkConfig::new(private, remote, None);
        change(&mut config);
        Link::<Payload>::new(config, [0; 32]).err().map(|error| error.to_string())
    };
    assert_eq!(refuse(|_| {}), None);
    assert!(refuse(|config| config.mtu_bytes = 500).unwrap().contains("500"));
    assert!(refuse(|config| config.mtu_bytes = 70_000).unwrap().contains("70000"));
    assert!(refuse(|config| config.loss_tolerance = f64::NAN).unwrap().contains("NaN"));
    assert!(refuse(|config| config.rate_limit_bytes_per_s = Some(1)).unwrap().contains("10000"));
    assert!(refuse(|config| config.rekey_after_packets = 0).unwrap().contains("rekey_after_packets"));
    let own = LinkConfig::new(private, public, None);
    assert_eq!(Link::<Payload>::new(own, [0; 32]).err(), Some(LinkConfigError::OwnKey));
}
