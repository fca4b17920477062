use super::super::header::{Header, Kind};
use super::super::*;
use super::world::{MS, Network, S, World, addr, generation, insecure, push, seed};
use super::{STREAM, lossy, note};
use crate::types::{Mono, Time};

fn kind_of(datagram: &[u8]) -> Kind {
    Header::read(datagram).unwrap().1
}

/// Of a link that nobody else drives.
fn now(at: u64) -> Now {
    Now { time: Time(at), mono: Mono(at), lease: Time(u64::MAX), error_bound_ns: 0 }
}

#[test]
fn two_that_call_each_other_at_once_agree_on_one_session() {
    for number in 0..200 {
        let net = if number % 4 == 0 { Network::clean() } else { Network { loss: 0.3, ..lossy() } };
        let mut world = World::new(number, net, |config| {
            if number % 5 == 0 {
                insecure(config);
            }
        });
        world.up();
        world.links[0].send_message(&note(1));
        world.links[1].send_message(&note(2));
        // Whatever handshakes were still under way, it ends in one session that both use.
        let mut told = world.ends[0].ups + world.ends[1].ups;
        world.until(30 * S, "messages both ways", |world| {
            world.ends.iter().all(|end| !end.messages.is_empty()) || world.ends[0].ups + world.ends[1].ups > told
        });
        if world.ends.iter().any(|end| end.messages.is_empty()) {
            told = world.ends[0].ups + world.ends[1].ups;
            world.net = Network::clean();
            world.run(10 * S);
            world.links[0].send_message(&note(3));
            world.links[1].send_message(&note(4));
            world.run(2 * S);
            assert!(world.ends.iter().all(|end| !end.messages.is_empty()), "seed {number}, {told} sessions");
        }
        let before = world.ends[0].ups;
        world.net = Network::clean();
        world.run(20 * S);
        assert_eq!(world.ends[0].ups, before, "seed {number}: the session stays");
    }
}

#[test]
fn on_a_clean_network_the_two_meet_in_one_handshake() {
    let mut world = World::new(3, Network { delay_ns: 5 * MS, ..Network::clean() }, |_| {});
    let start = world.now;
    world.up();
    assert!(world.now - start < 30 * MS, "{} ms", (world.now - start) / MS);
    assert_eq!(world.links.iter().map(|link| link.stats().handshakes_answered).sum::<u64>(), 1);
}

#[test]
fn a_path_slower_than_every_retry_interval_still_gets_a_session() {
    let mut world = World::new(4, Network { delay_ns: 700 * MS, ..Network::clean() }, |_| {});
    world.up();
    world.run(30 * S);
    assert_eq!((world.ends[0].ups, world.ends[1].ups), (1, 1));
}

#[test]
fn a_lost_network_heals_and_everything_goes_on_within_a_second() {
    for (number, outage) in [(1, 300 * MS), (2, 3 * S), (3, 4_990 * MS), (4, 8 * S), (5, 60 * S)] {
        let mut world = World::new(number, Network::wan(), |_| {});
        world.resume = true;
        world.up();
        world.open(STREAM);
        let mut records = push(&mut world, STREAM, 1..400);
        world.run(40 * MS);
        world.net.cut = true;
        world.run(outage);
        if outage > 5 * S {
            assert!(!world.links[0].session_is_up(), "given up after 5 s of silence");
        }
        records.extend(push(&mut world, STREAM, 400..500));
        world.net.cut = false;
        let (healed, fragments) = (world.now, world.ends[1].fragments);
        world.until(1500 * MS, "data again", |world| world.ends[1].fragments > fragments);
        println!("outage {} ms: data {} ms after healing", outage / MS, (world.now - healed) / MS);
        world.drain(STREAM, &records, 30 * S);
        assert!(world.ends[0].ups <= 2, "{:?}", world.ends[0].downs);
    }
}

#[test]
fn a_new_session_resends_everything_above_what_is_durable() {
    let mut world = World::new(6, Network::clean(), |_| {});
    world.up();
    world.open(STREAM);
    world.ends[1].durable_behind = 30;
    let records = push(&mut world, STREAM, 1..100);
    world.run(2 * S);
    assert_eq!(world.ends[1].rings[&STREAM].durable, Seq(69));
    assert_eq!(world.links[0].stream_backlog(STREAM).records, 30);
    assert_eq!(world.links[0].stream_backlog(STREAM).oldest, Some(records[69].head.stamp.time));
    // The secondary dies with what it had received and not made durable.
    world.restart(1, 50);
    world.until(8 * S, "a new session", |world| world.ends[0].ups == 2 && world.ends[1].ups == 1);
    assert_eq!(world.ends[0].downs, [DownReason::Replaced], "the restarted peer does not wait for our silence to end");
    world.ends[1].open(STREAM, Epoch(1), Seq(70));
    world.run(S);
    assert_eq!(world.ends[1].fragments, 0, "not started in this session");
    world.links[0].stream_start(STREAM, Epoch(1), generation(), Seq(69));
    world.drain(STREAM, &records[69..], 5 * S);
}

#[test]
fn a_dropped_stream_sends_nothing_more_and_frees_all() {
    let mut world = World::new(7, Network::wan(), |_| {});
    world.up();
    world.open(STREAM);
    push(&mut world, STREAM, 1..400);
    world.run(20 * MS);
    world.links[0].stream_drop(STREAM);
    assert_eq!(world.links[0].stream_backlog(STREAM), Backlog::default());
    world.run(20 * MS);
    let sent = world.links[0].stats();
    world.run(2 * S);
    let later = world.links[0].stats();
    assert_eq!(
        (sent.data_frames_sent, sent.data_frames_retransmitted),
        (later.data_frames_sent, later.data_frames_retransmitted)
    );
    assert_eq!(later.in_flight_bytes, 0);
}

#[test]
fn new_keys_come_without_a_new_session() {
    let mut world = World::new(8, Network { corrupt: 0.0, ..lossy() }, |config| {
        config.rekey_after_packets = 1500;
        config.rekey_after_ns = 5 * S;
    });
    world.up();
    world.open(STREAM);
    world.links[1].send_message(&note(1));
    let mut records = Vec::new();
    for wave in 0..12 {
        records.extend(push(&mut world, STREAM, 1 + wave * 50..51 + wave * 50));
        world.drain(STREAM, &records, 60 * S);
    }
    let rekeys = world.links[0].stats().rekeys;
    assert!(rekeys >= 2, "{:#?}", world.links[0].stats());
    world.run(20 * S);
    assert!(world.links[0].stats().rekeys >= rekeys + 2, "by age too");
    for link in &world.links {
        assert_eq!(link.stats().dropped_stale_session, 0, "what was under way under the old keys is taken");
    }
    assert_eq!((world.ends[0].ups, world.ends[1].ups), (1, 1));
    assert_eq!(world.ends[1].messages, []);
    assert_eq!(world.ends[0].messages, [note(1)]);
}

#[test]
fn keys_that_cannot_be_replaced_end_the_session_before_they_are_worn_out() {
    let mut world = World::new(9, Network::clean(), |config| config.rekey_after_packets = 64);
    world.up();
    // Handshakes fail from here on: the network eats them.
    let mut sent = 0;
    while world.ends[0].downs.is_empty() {
        world.links[0].send_message(&note(sent));
        sent += 1;
        assert!(sent < 1000);
        let now = world.now();
        let mut buffer = vec![0; TRAIN_BYTES_MAX];
        let mut trains = Vec::new();
        world.links[0].handle_timeout(now, &mut world.ends[0]);
        while let Some(train) = world.links[0].poll_transmit(now, &mut buffer) {
            trains.extend(buffer[..train.bytes].chunks(train.segment_bytes).map(<[u8]>::to_vec));
        }
        for datagram in trains.into_iter().filter(|datagram| kind_of(datagram) != Kind::Initiation) {
            world.inject(1, datagram);
        }
        world.now += 2 * MS;
        let now = world.now();
        while let Some(train) = world.links[1].poll_transmit(now, &mut buffer) {
            for datagram in buffer[..train.bytes].chunks(train.segment_bytes) {
                if kind_of(datagram) != Kind::Initiation {
                    world.inject(0, datagram.to_vec());
                }
            }
        }
    }
    assert_eq!(world.ends[0].downs, [DownReason::KeyWornOut]);
    assert!(world.links[0].stats().datagrams_sent >= 256);
}

#[test]
fn replayed_datagrams_change_nothing() {
    let mut world = World::new(10, Network { loss: 0.0, ..Network::wan() }, |_| {});
    world.tape = Some(Vec::new());
    world.up();
    world.open(STREAM);
    let records = push(&mut world, STREAM, 1..100);
    world.links[0].send_message(&note(1));
    world.drain(STREAM, &records, 20 * S);
    world.run(S);
    let tape = world.tape.take().unwrap();
    let (fragments, messages) = (world.ends[1].fragments, world.ends[1].messages.len());
    let before = world.links[1].stats();
    for (from, datagram) in &tape {
        world.inject(1 - from, datagram.clone());
        // Reflected to its own sender, too.
        world.inject(*from, datagram.clone());
    }
    assert_eq!((world.ends[1].fragments, world.ends[1].messages.len()), (fragments, messages));
    assert!(world.links[1].stats().dropped_replayed > before.dropped_replayed + 400);
    world.run(10 * S);
    assert_eq!((world.ends[0].ups, world.ends[1].ups), (1, 1), "old initiations begin nothing");
}

#[test]
fn datagrams_of_an_ended_session_are_stale() {
    let mut world = World::new(11, Network::clean(), |_| {});
    world.tape = Some(Vec::new());
    world.up();
    world.open(STREAM);
    let records = push(&mut world, STREAM, 1..50);
    world.drain(STREAM, &records, 5 * S);
    let tape = world.tape.take().unwrap();
    world.restart(1, 60);
    world.until(8 * S, "a new session", |world| world.ends[0].ups == 2 && world.ends[1].ups == 1);
    let before = world.links[1].stats();
    for (from, datagram) in tape.iter().filter(|(from, _)| *from == 0) {
        world.inject(1 - from, datagram.clone());
    }
    let after = world.links[1].stats();
    assert!(after.dropped_stale_session > before.dropped_stale_session + 50);
    assert_eq!(world.ends[1].fragments, 0);
    world.run(5 * S);
    assert_eq!((world.ends[0].ups, world.ends[1].ups), (2, 1));
}

#[test]
fn an_initiation_alone_never_replaces_a_session() {
    let mut world = World::new(12, Network::clean(), |_| {});
    world.up();
    world.run(S);
    // A second process with the peer's keys calls, but no datagram of its session ever arrives.
    let config = world.links[1].config().clone();
    let mut other = Link::<super::Payload>::new(config, seed(1, 99)).unwrap();
    let mut buffer = vec![0; TRAIN_BYTES_MAX];
    let mut later = world.now();
    later.time = Time(later.time.0 + 5 * S);
    let train = other.poll_transmit(later, &mut buffer).unwrap();
    assert_eq!(kind_of(&buffer), Kind::Initiation);
    let initiation = buffer[..train.bytes].to_vec();
    let answered = world.links[0].stats().handshakes_answered;
    world.inject(0, initiation);
    assert_eq!(world.links[0].stats().handshakes_answered, answered + 1);
    world.links[1].send_message(&note(1));
    world.run(10 * S);
    assert_eq!(world.ends[0].messages, [note(1)]);
    assert_eq!((world.ends[0].ups, world.ends[1].ups), (1, 1));
}

#[test]
fn a_stranger_gets_no_answer_and_costs_little() {
    let (own_private, own_public) = generate_keypair([1; 32]);
    let (_, peer_public) = generate_keypair([2; 32]);
    let (stranger_private, _) = generate_keypair([3; 32]);
    let mut link = Link::<super::Payload>::new(LinkConfig::new(own_private, peer_public, None), [4; 32]).unwrap();
    let mut end = super::world::End::default();
    let mut buffer = vec![0; TRAIN_BYTES_MAX];
    for attempt in 0..200u64 {
        // Knows whom it calls, but is not the configured peer.
        let config = LinkConfig::new(stranger_private, own_public, Some(addr(0)));
        let mut stranger = Link::<super::Payload>::new(config, seed(attempt, 1)).unwrap();
        let train = stranger.poll_transmit(now(S + attempt), &mut buffer).unwrap();
        link.handle_datagrams(now(S + attempt), addr(5), &mut buffer[..train.bytes], 0, &mut end);
        assert!(link.poll_transmit(now(S + attempt), &mut buffer).is_none(), "an answer to a stranger");
    }
    let stats = link.stats();
    assert_eq!((stats.dropped_handshake, stats.handshakes_answered), (200, 0));
    assert!(!link.session_is_up() && link.address().is_none());
}

#[test]
fn an_initiation_is_not_shorter_than_its_answer() {
    for security in [Security::Noise, Security::None] {
        let mut world = World::new(13, Network::clean(), |config| config.security = security);
        world.tape = Some(Vec::new());
        world.up();
        let tape = world.tape.take().unwrap();
        let length = |wanted| tape.iter().map(|(_, sent)| sent).find(|sent| kind_of(sent) == wanted).unwrap().len();
        assert!(length(Kind::Initiation) >= length(Kind::Answer), "{security:?}");
    }
}

#[test]
fn a_secure_and_an_insecure_system_never_come_together() {
    let mut world = World::new(14, Network::clean(), |_| {});
    let mut config = world.links[1].config().clone();
    config.security = Security::None;
    world.links[1] = Link::new(config, seed(1, 1)).unwrap();
    world.run(10 * S);
    assert!(world.links.iter().all(|link| !link.session_is_up()));
    assert!(world.links.iter().all(|link| link.stats().dropped_handshake > 0));
}

#[test]
fn the_address_of_an_unconfigured_peer_is_learned_from_its_handshake() {
    let mut world = World::new(15, Network::clean(), |_| {});
    let mut config = world.links[1].config().clone();
    config.remote_addr = None;
    world.links[1] = Link::new(config, seed(1, 1)).unwrap();
    assert_eq!(world.links[1].next_timeout(), None);
    world.up();
    assert_eq!(world.links[1].address(), Some(addr(0)));
    world.links[1].send_message(&note(1));
    world.until(S, "the message", |world| world.ends[0].messages == [note(1)]);
}

#[test]
fn an_idle_session_stays_up_and_a_dead_peer_is_noticed() {
    let mut world = World::new(16, Network { loss: 0.1, ..Network::wan() }, |_| {});
    world.up();
    world.run(120 * S);
    assert_eq!((world.ends[0].ups, world.ends[1].ups), (1, 1));
    assert!(world.links[0].stats().datagrams_sent < 1500, "{:#?}", world.links[0].stats());
    world.net.cut = true;
    world.run(4 * S);
    assert!(world.links[0].session_is_up());
    world.run(2 * S);
    assert_eq!(world.ends[0].downs, [DownReason::Silence]);
    assert_eq!(world.ends[1].downs, [DownReason::Silence]);
}

#[test]
fn a_closed_link_tells_its_peer_and_is_silent() {
    let mut world = World::new(17, Network::clean(), |_| {});
    world.up();
    world.links[0].close();
    world.run(2 * MS);
    assert_eq!(world.ends[1].downs, [DownReason::Closed]);
    let sent = world.links[0].stats().datagrams_sent;
    world.run(10 * S);
    assert_eq!(world.links[0].stats().datagrams_sent, sent);
    assert_eq!(world.ends[1].ups, 1);
}

#[test]
fn garbage_truncated_and_damaged_datagrams_are_counted_and_change_nothing() {
    let mut world = World::new(18, Network::clean(), |_| {});
    world.tape = Some(Vec::new());
    world.up();
    world.open(STREAM);
    let records = push(&mut world, STREAM, 1..20);
    world.net.cut = true;
    world.run(MS);
    let tape = world.tape.take().unwrap();
    let (ups, fragments) = (world.ends[1].ups, world.ends[1].fragments);
    for (from, datagram) in tape.iter().filter(|(from, _)| *from == 0) {
        for length in [0, 1, 50, 87, 88, 90, 100, datagram.len() - 1] {
            world.inject(1 - from, datagram[..length.min(datagram.len() - 1)].to_vec());
        }
        let mut longer = datagram.clone();
        longer.push(0);
        world.inject(1 - from, longer);
        let mut damaged = datagram.clone();
        let at = damaged.len() / 2;
        damaged[at] ^= 0x10;
        world.inject(1 - from, damaged);
    }
    assert_eq!((world.ends[1].ups, world.ends[1].fragments), (ups, fragments));
    let stats = world.links[1].stats();
    assert!(stats.dropped_malformed > 0 && stats.dropped_unauthentic > 0 && stats.dropped_handshake > 0, "{stats:#?}");
    world.net.cut = false;
    world.drain(STREAM, &records, 5 * S);
}

#[test]
fn an_older_initiation_is_not_answered_again() {
    let mut world = World::new(19, Network::clean(), |_| {});
    world.tape = Some(Vec::new());
    world.up();
    let mut initiations: Vec<Vec<u8>> = Vec::new();
    for salt in 0..3 {
        world.restart(0, 70 + salt);
        let ups = world.ends[1].ups;
        world.until(8 * S, "a new session", |world| world.ends[1].ups > ups && world.links[0].session_is_up());
        let tape = world.tape.replace(Vec::new()).unwrap_or_default();
        let sent = tape.into_iter().filter(|(from, sent)| *from == 0 && kind_of(sent) == Kind::Initiation);
        initiations.extend(sent.map(|(_, sent)| sent));
    }
    assert!(initiations.len() >= 3);
    let newest = initiations.pop().unwrap();
    let (ups, answered) = (world.ends[1].ups, world.links[1].stats().handshakes_answered);
    for initiation in initiations {
        world.inject(1, initiation);
    }
    assert_eq!(world.links[1].stats().handshakes_answered, answered, "all of them are older than the newest");
    world.inject(1, newest);
    assert_eq!(world.links[1].stats().handshakes_answered, answered + 1, "the newest may have lost its answer");
    world.run(10 * S);
    assert_eq!(world.ends[1].ups, ups, "and is useless to anyone who repeats it");
}

#[test]
fn a_flood_of_forged_initiations_does_not_keep_the_peer_out() {
    let (own_private, own_public) = generate_keypair([1; 32]);
    let (peer_private, peer_public) = generate_keypair([2; 32]);
    let (stranger_private, _) = generate_keypair([3; 32]);
    let mut link = Link::<super::Payload>::new(LinkConfig::new(own_private, peer_public, None), [4; 32]).unwrap();
    let mut end = super::world::End::default();
    let initiation = |private, seed, time| {
        let mut caller =
            Link::<super::Payload>::new(LinkConfig::new(private, own_public, Some(addr(0))), seed).unwrap();
        let mut buffer = vec![0; TRAIN_BYTES_MAX];
        let train = caller.poll_transmit(Now { time: Time(time), ..now(S) }, &mut buffer).unwrap();
        buffer.truncate(train.bytes);
        buffer
    };
    let genuine = initiation(peer_private, [5; 32], S);
    for bit in 0..1000 {
        let mut forged = genuine.clone();
        let at = 88 + bit % (forged.len() - 88);
        forged[at] ^= 1 << (bit % 8);
        link.handle_datagrams(now(S), addr(5), &mut forged, 0, &mut end);
    }
    // Who knows our public key costs arithmetic, but only so much of it.
    let known = initiation(stranger_private, [6; 32], S);
    for _ in 0..10 {
        link.handle_datagrams(now(S), addr(5), &mut known.clone(), 0, &mut end);
    }
    link.handle_datagrams(now(S), addr(5), &mut genuine.clone(), 0, &mut end);
    assert_eq!(link.stats().handshakes_answered, 1);
    assert_eq!(link.stats().dropped_handshake, 1010);
    for _ in 0..10 {
        link.handle_datagrams(now(S), addr(5), &mut known.clone(), 0, &mut end);
    }
    let later = initiation(peer_private, [7; 32], 2 * S);
    link.handle_datagrams(now(S), addr(5), &mut later.clone(), 0, &mut end);
    assert_eq!(link.stats().handshakes_answered, 1, "the budget is spent");
    link.handle_datagrams(now(S + 40 * MS), addr(5), &mut later.clone(), 0, &mut end);
    assert_eq!(link.stats().handshakes_answered, 2);
}

#[test]
fn a_probe_asks_even_if_what_was_under_way_is_not_wanted_any_more() {
    let mut world = World::new(20, Network { delay_ns: 5 * MS, ..Network::clean() }, |_| {});
    world.up();
    world.open(STREAM);
    world.run(50 * MS);
    push(&mut world, STREAM, 1..100);
    world.net.cut = true;
    world.run(10 * MS);
    assert!(world.links[0].stats().in_flight_bytes > 40_000);
    world.links[0].stream_drop(STREAM);
    world.run(500 * MS);
    world.net.cut = false;
    world.until(280 * MS, "one answer settles all that was under way", |world| {
        world.links[0].stats().in_flight_bytes == 0
    });
}
