use super::*;
use proptest::prelude::*;

#[derive(Default)]
struct Brute {
    /// In order of arrival: name, extent, whether it started.
    writes: Vec<(u32, Extent, bool)>,
}

impl Brute {
    /// Starts all that overlap nothing before them.
    fn start(&mut self) -> Vec<u32> {
        let mut started = Vec::new();
        for at in 0..self.writes.len() {
            let (name, extent, is_started) = self.writes[at];
            let free = self.writes[..at].iter().all(|(_, before, _)| !before.overlaps(extent));
            if free && !is_started {
                self.writes[at].2 = true;
                started.push(name);
            }
        }
        started
    }
}

#[test]
fn what_overlaps_goes_in_order_of_arrival_and_what_does_not_goes_at_once() {
    let mut queue = OverlapQueue::new();
    let extent = |lba, blocks| Extent { lba, blocks };
    let (first, starts) = queue.arrive(extent(0, 10), 'a');
    assert!(starts);
    assert!(!queue.arrive(extent(5, 10), 'b').1);
    assert!(queue.arrive(extent(20, 1), 'c').1);
    let (_, starts) = queue.arrive(extent(12, 9), 'd');
    assert!(!starts, "behind b and c, of which only c has started");
    assert!(!queue.arrive(extent(10, 1), 'e').1, "b waits for these blocks");
    let mut started = vec![];
    queue.release(first, |name| started.push(name));
    assert_eq!(started, ['b']);
}

#[test]
#[should_panic(expected = "released before it was allowed to start")]
fn a_waiting_write_cannot_be_released() {
    let mut queue = OverlapQueue::new();
    let _first = queue.arrive(Extent { lba: 0, blocks: 1 }, 'a');
    let (second, _) = queue.arrive(Extent { lba: 0, blocks: 1 }, 'b');
    queue.release(second, |_| {});
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn it_starts_what_a_look_at_all_pairs_would_start(
        steps in proptest::collection::vec((any::<bool>(), 0..24u64, 1..9u32), 0..80),
    ) {
        let mut queue = OverlapQueue::new();
        let mut brute = Brute::default();
        let mut places = std::collections::BTreeMap::new();
        for (name, (arrives, lba, blocks)) in steps.into_iter().enumerate() {
            let name = name as u32;
            let in_flight: Vec<u32> = brute.writes.iter().filter(|write| write.2).map(|write| write.0).collect();
            let mut started = Vec::new();
            if arrives || in_flight.is_empty() {
                let extent = Extent { lba, blocks };
                let (place, starts) = queue.arrive(extent, name);
                places.insert(name, place);
                started.extend(starts.then_some(name));
                brute.writes.push((name, extent, false));
            } else {
                let ends = in_flight[lba as usize % in_flight.len()];
                brute.writes.retain(|write| write.0 != ends);
                queue.release(places[&ends], |name| started.push(name));
            }
            prop_assert_eq!(started, brute.start());
            prop_assert_eq!(queue.len(), brute.writes.len());
            let owned: usize = queue.entries.iter().map(|(_, entry)| entry.segments).sum();
            prop_assert_eq!(owned, queue.segments.from(0).count());
            prop_assert!(queue.segments.from(0).count() <= 2 * queue.len());
            let waited: usize = queue.entries.iter().map(|(_, entry)| entry.waits_for).sum();
            prop_assert_eq!(waited, queue.waits.len());
        }
        while !brute.writes.is_empty() {
            let (name, _, is_started) = brute.writes.remove(0);
            prop_assert!(is_started);
            let mut started = Vec::new();
            queue.release(places[&name], |name| started.push(name));
            prop_assert_eq!(started, brute.start());
        }
        prop_assert!(queue.is_empty() && queue.segments.is_empty());
    }
}
