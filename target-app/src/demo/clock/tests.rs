use longrun_checker::HostTime;
use proptest::prelude::*;

use super::{Bracket, TimelineMap};

#[test]
fn the_narrowest_bracket_near_the_time_is_taken() {
    let mut map = TimelineMap::default();
    assert_eq!(map.map(5), None);
    let bracket =
        |before, after, timeline| Bracket { before: HostTime(before), after: HostTime(after), timeline_ns: timeline };
    map.add(bracket(1_000, 3_000, 502_000));
    let wide = map.map(502_000).unwrap();
    assert_eq!((wide.at, wide.error_ns), (HostTime(2_000), 1_001));
    map.add(bracket(11_000, 11_200, 511_100));
    let narrow = map.map(512_100).unwrap();
    assert_eq!((narrow.at, narrow.error_ns), (HostTime(12_100), 102));
}

proptest! {
    /// A timeline that is off by anything and runs at most 500 ppm fast or slow.
    #[test]
    fn the_true_time_is_never_farther_than_the_stated_error(
        offset in 0u64..1 << 40,
        ppm in -500i64..=500,
        asked in proptest::collection::vec((0u64..10_000_000_000, 0u64..2_000_000, 0u64..1_000_000), 1..20),
        wanted in 0u64..10_000_000_000,
    ) {
        let timeline = |host: u64| offset + host.saturating_add_signed((host as i128 * ppm as i128 / 1_000_000) as i64);
        let mut map = TimelineMap::default();
        for (at, before, after) in asked {
            map.add(Bracket {
                before: HostTime(at.saturating_sub(before)),
                after: HostTime(at + after),
                timeline_ns: timeline(at),
            });
        }
        let mapped = map.map(timeline(wanted)).unwrap();
        prop_assert!(mapped.at.0.abs_diff(wanted) <= mapped.error_ns, "{mapped:?}");
    }
}
