use super::*;
use crate::types::Mono;
use proptest::prelude::*;

fn now(time: u64, lease: u64) -> Now {
    Now { time: Time(time), mono: Mono(0), lease: Time(lease), error_bound_ns: 0 }
}

#[test]
fn one_time_goes_to_all_streams_that_a_write_feeds() {
    let mut stamper = Stamper::new();
    let a = stamper.open(StreamId(1), Epoch(1), Seq(1));
    let b = stamper.open(StreamId(2), Epoch(1), Seq(41));
    stamper.stamp(now(5, 100), &[b]).unwrap();
    let stamps = stamper.stamp(now(5, 100), &[a, b]).unwrap();
    assert_eq!(stamps[0], Stamp { time: Time(6), stream: StreamId(1), seq: Seq(1) });
    assert_eq!(stamps[1], Stamp { time: Time(6), stream: StreamId(2), seq: Seq(42) });
}

#[test]
fn the_lease_is_the_last_time_that_may_be_given() {
    let mut stamper = Stamper::new();
    let stream = stamper.open(StreamId(1), Epoch(1), Seq(1));
    assert!(stamper.stamp(now(10, 10), &[stream]).is_ok());
    let spent = stamper.stamp(now(10, 10), &[stream]).unwrap_err();
    assert_eq!(spent, LeaseSpent { next: Time(11), lease: Time(10) });
    assert_eq!(stamper.count(stream).last, Seq(1), "a refused stamp takes no number");
    assert!(stamper.promise(now(10, 10), stream).is_ok());
    assert!(stamper.promise(now(11, 10), stream).is_err());
    assert_eq!(stamper.stamp(now(10, 11), &[stream]).unwrap()[0].time, Time(11));
}

#[test]
fn a_time_that_others_used_is_not_given_again() {
    let mut stamper = Stamper::new();
    stamper.raise(Time(50));
    let stream = stamper.open(StreamId(1), Epoch(1), Seq(1));
    assert_eq!(stamper.stamp(now(5, 100), &[stream]).unwrap()[0].time, Time(51));
    stamper.raise(Time(7));
    assert_eq!(stamper.stamp(now(5, 100), &[stream]).unwrap()[0].time, Time(52));
}

#[test]
fn at_the_end_of_time_nothing_is_given_twice() {
    let mut stamper = Stamper::new();
    stamper.raise(Time(u64::MAX));
    let stream = stamper.open(StreamId(1), Epoch(1), Seq(1));
    assert!(stamper.stamp(now(5, u64::MAX), &[stream]).is_err());
}

proptest! {
    #[test]
    fn times_rise_strictly_and_numbers_by_one_whatever_the_clock_does(
        steps in proptest::collection::vec((0..4u8, 0..3usize, 0..40u64), 0..200),
    ) {
        let mut stamper = Stamper::new();
        let streams: Vec<_> = (0..3).map(|id| stamper.open(StreamId(id), Epoch(1), Seq(1))).collect();
        let (mut last, mut promised) = ([0; 3], [Time(0); 3]);
        let mut newest = Time(0);
        for (what, stream, time) in steps {
            let at = now(time, 60);
            match what {
                0 | 1 => if let Ok(stamps) = stamper.stamp(at, &streams[stream..=stream]) {
                    prop_assert!(stamps[0].time > newest && stamps[0].time > promised[stream]);
                    prop_assert!(stamps[0].time >= at.time && stamps[0].time <= at.lease);
                    newest = stamps[0].time;
                    last[stream] += 1;
                    prop_assert_eq!(stamps[0].seq, Seq(last[stream]));
                },
                2 => if let Ok(count) = stamper.promise(at, streams[stream]) {
                    prop_assert!(count.floor >= newest && count.floor <= at.lease);
                    prop_assert_eq!(count.last, Seq(last[stream]));
                    promised[stream] = count.floor;
                },
                _ => stamper.raise(Time(time / 2)),
            }
        }
    }
}
