use super::super::ack;
use super::super::numbers::RangeSet;
use super::*;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Mono {
    Mono(1_000_000_000 + ms * MS)
}

fn content(number: u64) -> Content {
    Content::Message(number)
}

/// Acknowledges these numbers; what was concluded.
fn acknowledge(recovery: &mut Recovery, now: Mono, packets: impl IntoIterator<Item = u64>) -> Outcome {
    let mut received = RangeSet::default();
    packets.into_iter().for_each(|packet| received.insert(packet));
    let (mut bytes, mut read, mut outcome) = (Vec::new(), ack::Ack::default(), Outcome::default());
    ack::encode(&mut bytes, 0, &[], &received, 60_000);
    assert!(ack::decode(&bytes, &mut read));
    recovery.on_ack(now, &read.ranges, 0, &mut outcome);
    outcome
}

fn at_us(us: u64) -> Mono {
    Mono(1_000_000_000 + us * MS / 1000)
}

/// Numbers 0 to 9 sent a tenth of a millisecond apart, a path of 10 ms known.
fn sent() -> Recovery {
    let mut recovery = Recovery::new();
    recovery.rtt_mut().sample(at(0), 10 * MS, 0);
    for packet in 0..10 {
        recovery.on_sent(at_us(packet * 100), packet, 100, content(packet));
    }
    recovery
}

#[test]
fn what_is_acknowledged_leaves_the_flight_once() {
    let mut recovery = sent();
    assert_eq!(recovery.in_flight_bytes(), 1000);
    let outcome = acknowledge(&mut recovery, at_us(10_300), [0, 1, 3]);
    assert_eq!((outcome.acked_packets, outcome.acked_bytes, outcome.lost.len()), (3, 300, 0));
    assert_eq!(outcome.rtt_sample_ns, Some(10 * MS));
    assert_eq!(acknowledge(&mut recovery, at_us(10_300), [0, 1, 3]).acked_packets, 0);
    assert_eq!((recovery.in_flight_bytes(), recovery.oldest()), (700, Some(2)));
}

#[test]
fn three_later_ones_convict_where_nothing_was_ever_reordered() {
    let mut recovery = sent();
    assert!(acknowledge(&mut recovery, at_us(10_300), [0, 2, 3]).lost.is_empty());
    assert_eq!(acknowledge(&mut recovery, at_us(10_400), [0, 2, 3, 4]).lost, [content(1)]);
}

#[test]
fn time_convicts_when_no_more_follow() {
    let mut recovery = sent();
    acknowledge(&mut recovery, at_us(10_200), [0, 2]);
    let due = recovery.loss_deadline().unwrap();
    assert_eq!(due, at_us(11_100), "a round trip and a millisecond after it was sent");
    let mut outcome = Outcome::default();
    recovery.on_loss_timer(Mono(due.0 - 1), &mut outcome);
    assert!(outcome.lost.is_empty());
    recovery.on_loss_timer(due, &mut outcome);
    assert_eq!(outcome.lost, [content(1)], "3 to 9 came after everything acknowledged");
    assert_eq!(recovery.loss_deadline(), None);
}

#[test]
fn a_loss_that_was_none_makes_the_path_be_given_more_time() {
    let mut recovery = sent();
    let before = recovery.reorder_ns();
    assert_eq!(acknowledge(&mut recovery, at_us(10_600), [0, 2, 3, 4, 5, 6]).lost, [content(1)]);
    let outcome = acknowledge(&mut recovery, at(19), [1]);
    assert_eq!((outcome.spurious, outcome.acked, outcome.acked_bytes), (1, vec![(content(1), true)], 0));
    assert!(recovery.reorder_ns() > before + 5 * MS, "it was 8 ms late: {}", recovery.reorder_ns());
    // The same lateness again is no loss.
    for packet in 10..20 {
        recovery.on_sent(at(packet + 20), packet, 100, content(packet));
    }
    assert!(acknowledge(&mut recovery, at(46), (7..=10).chain(12..=16)).lost.is_empty());
    assert!(acknowledge(&mut recovery, at(49), [11]).acked.contains(&(content(11), false)));
    let learnt = recovery.reorder_ns();
    for _ in 0..500 {
        recovery.fade_reordering();
    }
    assert!(recovery.reorder_ns() < learnt / 2, "it fades");
}

#[test]
fn silence_is_answered_by_probes_ever_rarer_but_never_rarer_than_a_quarter_second() {
    let mut recovery = sent();
    let mut outcome = Outcome::default();
    let mut last = at_us(900);
    let mut waits = Vec::new();
    for _ in 0..6 {
        if recovery.in_flight_bytes() == 0 {
            break;
        }
        let due = recovery.probe_deadline().unwrap();
        waits.push(due.since_ns(last) / MS);
        recovery.on_probe_timer(due, &mut outcome);
        assert_eq!(outcome.lost.len(), 2);
        last = due;
    }
    assert_eq!(waits.len(), 5);
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]) && waits[0] < 100 && waits[4] <= 250, "{waits:?}");
    assert_eq!(recovery.probe_deadline(), None, "nothing under way, nothing to ask for");
}

#[test]
fn the_table_forgets_what_is_settled() {
    let mut recovery = sent();
    acknowledge(&mut recovery, at(20), [0, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(recovery.oldest(), Some(1), "kept for a while, in case it arrives after all");
    let mut outcome = Outcome::default();
    recovery.on_loss_timer(at(500), &mut outcome);
    assert_eq!(recovery.oldest(), None);
}
