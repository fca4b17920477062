use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::chain::Node;
use super::counter::Counter;
use super::segment::{Segment, rate_of, slewed_rate};
use super::skew::Bounds;
use super::timeline::drifted;
use super::*;
use crate::affinity::{cores_online, pin_current_thread};

const HOUR_NS: u64 = 3_600_000_000_000;

fn config(floor_ns: u64) -> TimelineConfig {
    TimelineConfig { floor_ns, error_bound_ns: 200, slew_ppm_max: 500 }
}

proptest! {
    /// Whatever is steered towards, however long or short the segments.
    #[test]
    fn the_timeline_is_continuous_rising_and_within_the_slew_bound(
        ns_per_count in 0.1f64..10.0,
        start in 0u64..1 << 62,
        base_ns in 0u64..1 << 62,
        steps in prop::collection::vec((1u64..1 << 34, any::<i64>(), 0u32..2_000), 1..20),
        probes in prop::collection::vec(0.0f64..1.0, 8),
    ) {
        let nominal = rate_of(ns_per_count);
        let mut segment = Segment { start, end: start + 1000, base_ns, rate: nominal };
        for (counts, behind_ns, slew_ppm_max) in steps {
            let length_ns = ((u128::from(counts) * u128::from(nominal)) >> 32) as u64;
            let rate = slewed_rate(nominal, behind_ns, length_ns, slew_ppm_max);
            // Not more than the bound away from real time, and to the side of the wall clock.
            let bound = u128::from(nominal) * u128::from(slew_ppm_max) / 1_000_000 + 1;
            prop_assert!(u128::from(rate.abs_diff(nominal)) <= bound);
            prop_assert!(rate == nominal || (rate > nominal) == (behind_ns > 0));
            let next = segment.next(counts, rate);
            prop_assert_eq!(next.time_ns(next.start), segment.time_ns(segment.end));
            // One count before the seam, at it, and one after.
            prop_assert!(segment.time_ns(segment.end - 1) <= next.time_ns(next.start));
            prop_assert!(next.time_ns(next.start) <= next.time_ns(next.start + 1));
            // A core whose counter is behind the one that moved on does not get a time before the seam.
            prop_assert_eq!(next.time_ns(next.start.saturating_sub(5)), next.base_ns);
            let mut counts: Vec<u64> = probes.iter().map(|p| next.start + (counts as f64 * p) as u64).collect();
            counts.sort_unstable();
            let times: Vec<u64> = counts.iter().map(|&count| next.time_ns(count)).collect();
            prop_assert!(times.is_sorted());
            segment = next;
        }
    }

    #[test]
    fn steering_lands_on_the_wall_clock_without_overshooting(
        ns_per_count in 0.1f64..10.0,
        behind_ns in -(1i64 << 40)..1 << 40,
        slew_ppm_max in 1u32..2_000,
    ) {
        let (nominal, length_ns) = (rate_of(ns_per_count), 250_000_000);
        let counts = ((u128::from(length_ns) << 32) / u128::from(nominal)) as u64;
        let rate = slewed_rate(nominal, behind_ns, length_ns, slew_ppm_max);
        let segment = Segment { start: 0, end: counts, base_ns: 0, rate };
        let real = Segment { rate: nominal, ..segment };
        let made_good = segment.time_ns(counts) as i64 - real.time_ns(counts) as i64;
        let left = behind_ns - made_good;
        // Rounding of rates: a few ns in a quarter of a second.
        prop_assert!(left.abs() <= behind_ns.abs().max(4), "{} behind, {} after", behind_ns, left);
        let possible = length_ns as i64 / 1_000_000 * i64::from(slew_ppm_max);
        if behind_ns.abs() < possible {
            prop_assert!(left.abs() <= 4, "{} behind, {} after", behind_ns, left);
        } else {
            prop_assert!((made_good.abs() - possible).abs() <= 4, "{} made good of {}", made_good, possible);
        }
    }

    #[test]
    fn measured_bounds_hold_the_true_skew_and_close_in_on_it(
        skew in -10_000i64..10_000,
        delays in prop::collection::vec((1u64..1 << 20, 1u64..1 << 20), 1..50),
    ) {
        let (mut bounds, mut now) = (Bounds::UNKNOWN, 1u64 << 40);
        let (mut there_least, mut back_least) = (u64::MAX, u64::MAX);
        for (there, back) in delays {
            let (sent, answered, received) = (now, now + there, now + there + back);
            bounds.exchange(sent, answered.wrapping_add_signed(skew), received);
            now = received;
            (there_least, back_least) = (there_least.min(there), back_least.min(back));
        }
        prop_assert!(bounds.least <= skew && skew <= bounds.most);
        prop_assert!(bounds.bound() >= skew.unsigned_abs());
        prop_assert_eq!(bounds.most - skew, there_least as i64);
        prop_assert_eq!(skew - bounds.least, back_least as i64);
    }
}

#[test]
fn a_rate_apart_by_more_than_the_bound_counts_as_drift() {
    let nominal = rate_of(0.4);
    assert!(!drifted(nominal, nominal) && !drifted(nominal, nominal + nominal / 2100));
    assert!(drifted(nominal, nominal + nominal / 1900) && drifted(nominal, nominal - nominal / 1900));
}

#[test]
fn a_million_passed_segments_are_dropped_without_a_deep_stack() {
    let first = Node::new(Segment { start: 0, end: 10, base_ns: 0, rate: 1 << 32 });
    let mut last = first.clone();
    for _ in 0..1_000_000 {
        last = last.decide_next(last.segment.next(10, 1 << 32));
    }
    assert_eq!(last.segment.base_ns, 10_000_000);
    let seen = std::sync::Arc::downgrade(&first);
    std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop((last, first))).unwrap().join().unwrap();
    assert!(seen.upgrade().is_none());
}

#[test]
fn a_timeline_starts_above_its_floor_or_at_the_wall_clock_and_grants_no_lease_it_was_not_given() {
    let wall = wall_ns();
    let fresh = Timeline::start(config(0));
    let now = fresh.reader().now_ns();
    assert!(now >= wall && now < wall_ns() + HOUR_NS);
    assert_eq!(fresh.reader().lease_ns(), 0);

    // The wall clock two hours back at a restart: time goes on from the lease, at once.
    let floor = wall + 2 * HOUR_NS;
    let restarted = Timeline::start(config(floor));
    let mut reader = restarted.reader();
    let first = reader.now_ns();
    assert!(first > floor && first < floor + HOUR_NS);
    assert!(first > reader.lease_ns(), "nothing may be stamped before the lease is extended");
    restarted.extend_lease(first + HOUR_NS);
    restarted.extend_lease(first);
    assert_eq!(reader.lease_ns(), first + HOUR_NS, "a lease never shrinks");
    std::thread::sleep(Duration::from_millis(20));
    assert!(reader.now_ns() - first >= 15_000_000, "it does not stand and wait for the wall clock");
    let found = restarted.discipline();
    assert!(found.behind_ns < -(HOUR_NS as i64) && found.lease_ns == first + HOUR_NS && found.now_ns > first);
}

/// The monotonic clock and the timeline, read with less than 50 us in between.
fn both(reader: &mut TimelineReader) -> (u64, u64) {
    loop {
        let (before, time, after) = (mono_ns(), reader.now_ns(), mono_ns());
        if after - before < 50_000 {
            return (before, time);
        }
    }
}

#[test]
fn time_goes_on_at_the_right_rate_when_nobody_steers_and_with_either_counter() {
    for counter in [Counter::best(), Counter::Kernel] {
        let timeline = Timeline::start_with(config(0), counter, wall_ns());
        assert_eq!(timeline.reader().single_stamper_only(), counter == Counter::Kernel);
        let mut reader = timeline.reader();
        let (start_mono, start) = both(&mut reader);
        // Over several segments, none of them decided by the control plane.
        std::thread::sleep(Duration::from_millis(700));
        let (end_mono, end) = both(&mut reader);
        let (time, mono) = (end - start, end_mono - start_mono);
        assert!(time.abs_diff(mono) * 1000 < mono, "{time} ns of timeline in {mono} ns");
        let mut late = timeline.reader();
        assert!(late.now_ns() >= start + time, "a reader made later walks the same chain");
    }
}

#[test]
fn steering_by_a_jumping_wall_clock_never_shows_as_a_step_on_any_core() {
    let timeline = Timeline::start(TimelineConfig { slew_ppm_max: 100_000, ..config(0) });
    // One counter for both threads to be told of what the other saw; bound as measured here.
    let cores: Vec<usize> = (0..cores_online().min(2)).collect();
    let bound = 2 * measure_skew_ns(&cores).unwrap();
    let (seen, stop) = (StdArc::new(AtomicU64::new(0)), StdArc::new(AtomicBool::new(false)));
    let readers: Vec<_> = cores
        .iter()
        .map(|&core| {
            let (mut reader, seen, stop) = (timeline.reader(), seen.clone(), stop.clone());
            std::thread::spawn(move || {
                pin_current_thread(core).unwrap();
                let (mut last, mut reads) = (0, 0u64);
                while !stop.load(Ordering::Relaxed) {
                    let before = seen.load(Ordering::Acquire);
                    let now = reader.now_ns();
                    assert!(now >= last, "a core's time fell");
                    assert!(now + bound >= before, "{} ns before a time that another core had", before - now);
                    seen.fetch_max(now, Ordering::AcqRel);
                    (last, reads) = (now, reads + 1);
                }
                reads
            })
        })
        .collect();
    let start = mono_ns();
    let mut jump = 0i64;
    while mono_ns() - start < 1_500_000_000 {
        jump = if jump > 0 { -5_000_000_000 } else { 5_000_000_000 };
        timeline.discipline_towards(|| wall_ns().wrapping_add_signed(jump));
        std::thread::sleep(Duration::from_millis(7));
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 1000);
    }
}

#[test]
fn a_timeline_behind_the_wall_clock_comes_back_to_it() {
    let ahead_ns = 20_000_000;
    let timeline = Timeline::start(TimelineConfig { slew_ppm_max: 50_000, ..config(0) });
    let before = timeline.discipline_towards(|| wall_ns() + ahead_ns).behind_ns;
    assert!(before > 15_000_000, "{before}");
    let start = mono_ns();
    let mut behind_ns = before;
    while behind_ns.abs() > 2_000_000 {
        assert!(mono_ns() - start < 20_000_000_000, "still {behind_ns} ns behind");
        std::thread::sleep(Duration::from_millis(50));
        behind_ns = timeline.discipline_towards(|| wall_ns() + ahead_ns).behind_ns;
        assert!(behind_ns > -15_000_000, "overshot by {behind_ns}");
    }
    assert!(!timeline.reader().single_stamper_only(), "slewing is no drift");
}

#[test]
fn the_skew_of_this_machines_cores_is_bounded_by_less_than_a_scheduling_period() {
    let cores: Vec<usize> = (0..cores_online().min(4)).collect();
    let bound = measure_skew_ns(&cores).unwrap();
    assert!(bound < 4_000_000, "{bound} ns");
    assert_eq!(bound == 0, cores.len() == 1);
    assert!(measure_skew_ns(&[0, 100_000]).is_err() && measure_skew_ns(&[100_000, 0]).is_err());
    assert_eq!(measure_skew_ns(&[0]).unwrap(), 0);
}

#[test]
fn the_processors_counter_never_runs_backwards_between_two_threads() {
    let counter = Counter::best();
    let latest = StdArc::new(AtomicU64::new(0));
    let there = latest.clone();
    let count = move |latest: &AtomicU64| {
        for _ in 0..300_000 {
            let before = latest.load(Ordering::Acquire);
            let now = counter.read();
            // The two cores' counters are one on every machine with an invariant TSC but for the measured bound.
            assert!(now + 20_000 >= before, "{} counts back", before - now);
            latest.store(now, Ordering::Release);
        }
    };
    let other = std::thread::spawn(move || count(&there));
    count(&latest);
    other.join().unwrap();
}

#[test]
fn a_clock_source_that_is_read_by_a_system_call_is_told_with_what_mends_it() {
    assert_eq!(super::about("tsc"), None);
    assert!(super::about("hpet").unwrap().contains("echo tsc >"));
}
