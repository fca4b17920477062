//! The map against a plain model, and its sizes.

use super::*;
use proptest::prelude::*;

const GEOMETRY: Geometry = Geometry { blocks: 5 * 128 + 7, block_bytes: 512 };
const EPOCH: Epoch = Epoch(3);

fn map() -> DirtyMap {
    marking(0)
}

/// Marks so many bytes at once.
fn marking(stretch_bytes: u64) -> DirtyMap {
    DirtyMap::new(GEOMETRY, region_bytes(GEOMETRY), stretch_bytes)
}

fn at(lba: u64, blocks: u32) -> Extent {
    Extent { lba, blocks }
}

#[test]
fn a_region_is_a_2_to_the_20th_of_the_volume_between_64_kib_and_16_mib() {
    let of = |bytes: u64| region_bytes(Geometry { blocks: bytes / 4096, block_bytes: 4096 });
    assert_eq!(of(4096), 64 << 10);
    assert_eq!(of(64 << 30), 64 << 10);
    assert_eq!(of((64 << 30) + 4096), 128 << 10);
    assert_eq!(of(16 << 40), 16 << 20);
    assert_eq!(of(1 << 50), 16 << 20);
    let huge = Geometry { blocks: 16 << 28, block_bytes: 4096 };
    assert_eq!(DirtyMap::new(huge, region_bytes(huge), 0).chunks(), 512);
}

#[test]
fn a_marked_region_costs_nothing_and_marks_of_one_turn_go_out_as_one_value() {
    let mut map = map();
    let first = map.begin(Mono(0), at(0, 1)).expect("not marked yet");
    assert_eq!(map.begin(Mono(0), at(300, 128)), Some(first), "three regions, one round");
    let (round, chunks) = map.ask().unwrap();
    assert_eq!((round, chunks.len(), chunks[0].1[1]), (first, 1, 0b1101));
    assert_eq!(map.begin(Mono(0), at(1, 1)), Some(first), "asked for, not durable");
    map.durable(round);
    assert_eq!(map.begin(Mono(0), at(2, 1)), None);
    assert!(map.ask().is_none());
    assert_eq!(map.marked_bytes(), 3 * (64 << 10));
}

#[test]
fn a_write_that_waits_for_its_mark_has_those_around_it_marked_and_nothing_copies_them() {
    let mut map = marking(256 << 10);
    let round = map.begin(Mono(0), at(130, 1)).expect("not marked yet");
    let (asked, chunks) = map.ask().unwrap();
    assert_eq!((asked, chunks[0].1[1]), (round, 0b1111), "a stretch of four regions");
    map.durable(round);
    assert_eq!(map.begin(Mono(9), at(256, 1)), None, "marked ahead");
    assert!(map.ask().is_none());
    map.stamped(at(130, 1), EPOCH, Seq(1));
    map.stamped(at(256, 1), EPOCH, Seq(2));
    map.end(Mono(9), at(130, 1));
    map.end(Mono(9), at(256, 1));
    map.miss_all();
    let missing: Vec<u64> = map.missing.iter_from(0).collect();
    assert_eq!(missing, [1, 2], "what was only marked ahead is known to be clean");
    map.copied(Mono(10), 1, None);
    map.copied(Mono(10), 2, None);
    let flush = map.flush_begins();
    map.flush_ended(flush);
    assert_eq!(map.sweep(Mono(19), 10, |_, _| true, 0, 99).cleared, 0, "part of the stretch was written lately");
    assert_eq!(map.sweep(Mono(20), 10, |_, _| true, 0, 99).cleared, 4);
    assert!(map.is_clean() && !map.may_clear());
    let again = map.begin(Mono(21), at(0, 1));
    assert!(again > Some(asked), "a clear in flight");
}

#[test]
fn a_stretch_with_nothing_to_clear_is_not_looked_at_again_and_again() {
    let mut map = marking(256 << 10);
    let round = map.begin(Mono(0), at(0, 1)).expect("not marked yet");
    let _ = map.ask();
    map.durable(round);
    map.unstamped(at(0, 1));
    map.end(Mono(0), at(0, 1));
    assert_eq!(map.sweep(Mono(5), 0, |_, _| true, 0, 9).cleared, 3, "what was marked ahead");
    assert!(!map.may_clear() && map.is_missing(0));
    map.copied(Mono(5), 0, None);
    assert!(map.may_clear());
}

#[test]
fn a_mark_goes_only_after_a_flush_that_began_after_the_last_completion() {
    let mut map = map();
    let durable = |_: Epoch, seq: Seq| seq <= Seq(1);
    let _ = map.begin(Mono(0), at(0, 1));
    let (round, _) = map.ask().unwrap();
    map.durable(round);
    map.stamped(at(0, 1), EPOCH, Seq(1));
    let early = map.flush_begins();
    map.end(Mono(5), at(0, 1));
    map.flush_ended(early);
    assert_eq!(map.sweep(Mono(14), 10, durable, 0, 9).want_flush, 0, "written too lately");
    assert_eq!(map.sweep(Mono(15), 10, |_, _| false, 0, 9), Sweep::default(), "not durable there");
    let sweep = map.sweep(Mono(15), 10, durable, 0, 9);
    assert_eq!((sweep.cleared, sweep.want_flush), (0, 1), "the flush began before the write ended");
    let late = map.flush_begins();
    map.flush_ended(late);
    assert_eq!(map.sweep(Mono(15), 10, durable, 0, 9).cleared, 1);
    assert_eq!(map.ask().unwrap().1, [(0, Vec::new())], "all clean is an empty value");
    assert!(map.is_clean());
}

#[test]
fn a_write_that_meets_a_clear_in_flight_marks_again_and_waits_for_that() {
    let mut map = map();
    let _ = map.begin(Mono(0), at(0, 1));
    let (round, _) = map.ask().unwrap();
    map.durable(round);
    map.end(Mono(0), at(0, 1));
    let flush = map.flush_begins();
    map.flush_ended(flush);
    assert_eq!(map.sweep(Mono(0), 0, |_, _| false, 0, 9).cleared, 1, "nothing was stamped for it");
    let (clear, _) = map.ask().unwrap();
    let again = map.begin(Mono(0), at(0, 1)).expect("the clear may be durable before a crash");
    assert!(again > clear);
    map.durable(clear);
    assert_eq!(map.begin(Mono(0), at(0, 1)), Some(again));
}

#[test]
fn what_was_marked_is_due_to_be_copied_after_a_restart_and_damage_is_seen() {
    let mut map = map();
    let _ = map.begin(Mono(0), at(130, 1));
    let _ = map.begin(Mono(0), at(640, 7));
    let (_, chunks) = map.ask().unwrap();
    let mut again = super::tests::map();
    assert!(again.load(0, &chunks[0].1));
    assert_eq!((again.next_missing(0), again.next_missing(2), again.is_doubtful(1)), (Some(1), Some(5), true));
    assert_eq!(again.missing_bytes(), (64 << 10) + 7 * 512);
    assert!(again.load(0, &[]));
    assert!(!again.load(0, &chunks[0].1[..9]) && !again.load(0, &[9; CHUNK_BYTES]));
    let mut beyond = chunks[0].1.clone();
    beyond[1] |= 1 << 6;
    let mut again = super::tests::map();
    assert!(again.load(0, &beyond), "a region that the volume does not have yet");
    assert_eq!(again.missing_bytes(), (64 << 10) + 7 * 512, "and that counts for nothing");
}

#[test]
fn what_a_volume_grows_by_is_due_to_be_copied_also_after_a_restart_and_what_was_there_is_not() {
    let geometry = |blocks| Geometry { blocks, block_bytes: 512 };
    // Ten regions and a bit of one.
    let (before, after) = (geometry(10 * 128 + 5), geometry(300_000));
    let mut map = DirtyMap::new(before, 64 << 10, 64 << 10);
    assert!(map.grow(after));
    assert_eq!((map.next_missing(0), map.extent(10).blocks), (Some(10), 128));
    assert_eq!(map.missing_bytes(), (300_000 - 10 * 128) * 512);
    let (_, chunks) = map.ask().unwrap();
    assert_eq!(chunks.len() as u64, 300_000_u64.div_ceil(128).div_ceil(CHUNK_REGIONS));
    // The new size was durable, or it was not.
    for (size, missing) in [(after, map.missing_bytes()), (before, 5 * 512)] {
        let mut again = DirtyMap::new(size, 64 << 10, 64 << 10);
        for (chunk, value) in chunks.iter().take(again.chunks() as usize) {
            assert!(again.load(*chunk, value));
        }
        assert_eq!(again.missing_bytes(), missing, "{size:?}");
    }
    let mut whole = DirtyMap::new(before, 64 << 10, 64 << 10);
    whole.miss_everything(false);
    assert!(!whole.grow(after), "its marks are not durable yet");
    let (round, _) = whole.ask().unwrap();
    whole.durable(round);
    assert!(whole.grow(after));
    assert_eq!(whole.missing_bytes(), 300_000 * 512);
}

#[test]
fn a_copied_region_counts_as_written_at_the_copys_stamp() {
    let mut map = map();
    map.miss_everything(true);
    let (round, chunks) = map.ask().unwrap();
    assert_eq!(chunks[0].1[1], 0b11_1111);
    assert_eq!(map.begin(Mono(0), at(0, 1)), Some(round));
    map.durable(round);
    map.end(Mono(0), at(0, 1));
    map.copied(Mono(0), 0, Some((EPOCH, Seq(7))));
    map.copied(Mono(0), 1, None);
    assert_eq!(map.next_missing(0), Some(2));
    let flush = map.flush_begins();
    map.flush_ended(flush);
    assert_eq!(map.sweep(Mono(0), 0, |_, seq| seq < Seq(7), 0, 9).cleared, 1);
    assert_eq!(map.sweep(Mono(0), 0, |_, seq| seq <= Seq(7), 0, 9).cleared, 1);
}

#[derive(Clone, Debug)]
enum Step {
    Begin {
        lba: u64,
        blocks: u32,
    },
    /// A write whose marks are durable is stamped or not, and submitted.
    Submit {
        nth: usize,
        stamp: bool,
    },
    End {
        nth: usize,
    },
    Ask,
    Durable,
    FlushBegins,
    FlushEnds {
        nth: usize,
    },
    Acknowledge {
        by: u64,
    },
    Sweep,
    Copy,
    Suspend,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..640u64, 1..200u32).prop_map(|(lba, blocks)| Step::Begin { lba, blocks }),
        4 => (0..4usize, any::<bool>()).prop_map(|(nth, stamp)| Step::Submit { nth, stamp: stamp || nth > 0 }),
        4 => (0..4usize).prop_map(|nth| Step::End { nth }),
        3 => Just(Step::Ask),
        3 => Just(Step::Durable),
        2 => Just(Step::FlushBegins),
        2 => (0..3usize).prop_map(|nth| Step::FlushEnds { nth }),
        2 => (1..4u64).prop_map(|by| Step::Acknowledge { by }),
        3 => Just(Step::Sweep),
        2 => Just(Step::Copy),
        1 => Just(Step::Suspend),
    ]
}

/// A write in the model.
struct Write {
    extent: Extent,
    wait: Option<Round>,
    submitted: bool,
    seq: Option<u64>,
    /// Flushes begun when it ended at the device.
    ended: Option<usize>,
    /// Regions of it that the other side has durably.
    there: BTreeSet<u64>,
}

impl Write {
    fn regions(&self) -> std::ops::RangeInclusive<u64> {
        self.extent.lba / 128..=(self.extent.end() - 1) / 128
    }
}

#[derive(Default)]
struct Model {
    writes: Vec<Write>,
    /// Number, region, and the writes whose content it brings.
    copies: Vec<(u64, u64, Vec<usize>)>,
    /// Everything that was asked to be made durable, one entry per value.
    asked: Vec<(Round, ChunkValue)>,
    durable: usize,
    flushes: Vec<(FlushNumber, bool)>,
    acknowledged: u64,
    given: u64,
}

impl Model {
    fn acknowledge(&mut self, by: u64) {
        self.acknowledged = (self.acknowledged + by).min(self.given);
        for write in self.writes.iter_mut().filter(|write| write.seq.is_some_and(|seq| seq <= self.acknowledged)) {
            write.there.extend(write.regions());
        }
        for (_, region, writes) in self.copies.iter().filter(|(seq, ..)| *seq <= self.acknowledged) {
            for nth in writes {
                self.writes[*nth].there.insert(*region);
            }
        }
    }

    /// What was not acknowledged is dropped from the queues.
    fn suspend(&mut self) {
        let acknowledged = self.acknowledged;
        self.copies.retain(|(seq, ..)| *seq <= acknowledged);
        for write in &mut self.writes {
            write.seq = write.seq.filter(|seq| *seq <= acknowledged);
        }
        self.acknowledged = self.given;
    }

    /// Under the overlap lock: only while no write is in flight in the region.
    fn copy(&mut self, map: &mut DirtyMap) {
        let is_busy = |region: &u64| {
            let mut open = self.writes.iter().filter(|write| write.submitted && write.ended.is_none());
            open.any(|write| write.regions().contains(region))
        };
        let Some(region) = map.missing.iter_from(0).find(|region| !is_busy(region)) else { return };
        self.given += 1;
        let writes =
            self.writes.iter().enumerate().filter(|(_, write)| write.submitted && write.regions().contains(&region));
        self.copies.push((self.given, region, writes.map(|(nth, _)| nth).collect()));
        map.copied(Mono(0), region, Some((EPOCH, Seq(self.given))));
    }

    /// Regions that must be marked if the process died now: a write was submitted in them, and it is not known that both
    /// sites have it durably.
    fn at_risk(&self) -> BTreeSet<u64> {
        let mut regions = BTreeSet::new();
        for write in self.writes.iter().filter(|write| write.submitted) {
            let is_flushed = |begun: usize| self.flushes.iter().skip(begun).any(|(_, ended)| *ended);
            let is_here = write.ended.is_some_and(is_flushed);
            regions.extend(write.regions().filter(|region| !(is_here && write.there.contains(region))));
        }
        regions
    }

    /// What metadata holds if the process dies when `kept` values are durable.
    fn metadata(&self, kept: usize) -> BTreeSet<u64> {
        let mut map = map();
        let value = self.asked[..kept].last().map_or(&[][..], |(_, (_, value))| value);
        assert!(map.load(0, value));
        map.missing.iter_from(0).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_persists_are_durable_at_a_crash_no_submitted_write_lacks_its_mark(
        steps in proptest::collection::vec(step(), 0..80),
        stretch_regions in 0..4u64,
    ) {
        let (mut map, mut model) = (marking(stretch_regions * (64 << 10)), Model::default());
        for step in steps {
            match step {
                Step::Begin { lba, blocks } => {
                    let extent = at(lba, blocks.min((GEOMETRY.blocks - lba) as u32));
                    let wait = map.begin(Mono(0), extent);
                    let there = BTreeSet::new();
                    model.writes.push(Write { extent, wait, submitted: false, seq: None, ended: None, there });
                }
                Step::Submit { nth, stamp } => {
                    let durable = model.asked[..model.durable].iter().map(|(round, _)| *round).max();
                    let may = |write: &&mut Write| !write.submitted && write.wait.is_none_or(|wait| Some(wait) <= durable);
                    let Some(write) = model.writes.iter_mut().filter(may).nth(nth) else { continue };
                    write.submitted = true;
                    if stamp {
                        model.given += 1;
                        write.seq = Some(model.given);
                        map.stamped(write.extent, EPOCH, Seq(model.given));
                    } else {
                        map.unstamped(write.extent);
                    }
                }
                Step::End { nth } => {
                    let mut open = model.writes.iter_mut().filter(|write| write.submitted && write.ended.is_none());
                    let Some(write) = open.nth(nth) else { continue };
                    write.ended = Some(model.flushes.len());
                    map.end(Mono(0), write.extent);
                }
                Step::Ask => {
                    let Some((round, chunks)) = map.ask() else { continue };
                    model.asked.extend(chunks.into_iter().map(|chunk| (round, chunk)));
                }
                Step::Durable => {
                    let Some((round, _)) = model.asked.get(model.durable) else { continue };
                    map.durable(*round);
                    model.durable += 1;
                }
                Step::FlushBegins => model.flushes.push((map.flush_begins(), false)),
                Step::FlushEnds { nth } => {
                    let mut open = model.flushes.iter_mut().filter(|(_, ended)| !ended);
                    let Some((number, ended)) = open.nth(nth) else { continue };
                    *ended = true;
                    map.flush_ended(*number);
                }
                Step::Acknowledge { by } => model.acknowledge(by),
                Step::Sweep => {
                    let acknowledged = Seq(model.acknowledged);
                    let _ = map.sweep(Mono(0), 0, |_, seq| seq <= acknowledged, 0, 100);
                }
                Step::Copy => model.copy(&mut map),
                Step::Suspend => {
                    map.miss_all();
                    model.suspend();
                }
            }
            let at_risk = model.at_risk();
            for kept in model.durable..=model.asked.len() {
                let marked = model.metadata(kept);
                prop_assert!(at_risk.is_subset(&marked), "at risk {at_risk:?}, marked {marked:?}, kept {kept}");
            }
            prop_assert!(map.missing.iter_from(0).all(|region| map.marked.get(region)), "to be copied and not marked");
            for region in map.ahead.iter_from(0) {
                let is_idle = !map.missing.get(region) && map.hot.get_mut(region).is_none();
                prop_assert!(map.marked.get(region) && is_idle, "region {region} is marked ahead, and written");
            }
        }
        // And the marks do go once all is quiet.
        for write in model.writes.iter().filter(|write| write.ended.is_none()) {
            map.end(Mono(0), write.extent);
        }
        while let Some(region) = map.next_missing(0) {
            map.copied(Mono(0), region, None);
        }
        let flush = map.flush_begins();
        map.flush_ended(flush);
        map.sweep(Mono(0), 0, |_, _| true, 0, 100);
        prop_assert!(map.is_clean());
    }
}
