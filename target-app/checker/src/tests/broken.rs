//! Copies broken in the ways that copies break. Each must fail, and by the rule that is meant to find it.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::world::{CLOCK_ERROR_NS, Copy, World};
use crate::{
    BlockBytes, BlockSays, Cut, Extent, Failure, Foreign, History, HostTime, Image, Log, Verdict, Volume, WriteId,
    judge,
};

const SEEDS: std::ops::Range<u64> = 0..100;

fn worlds() -> impl Iterator<Item = (u64, World, u64)> {
    SEEDS.map(|seed| {
        let world = World::sized(seed, 3, 64, 400);
        let cut = world.stamp_at(0.9);
        (seed, world, cut)
    })
}

#[test]
fn a_copy_in_order_of_arrival_fails() {
    for (seed, world, cut) in worlds() {
        let mut rng = SmallRng::seed_from_u64(seed);
        let span = world.writes.last().unwrap().stamp - world.writes[0].stamp;
        let mut arrivals: Vec<(u64, usize)> = (0..world.writes.len())
            .filter(|&i| world.writes[i].stamp <= cut)
            .map(|i| (world.writes[i].stamp + rng.random_range(0..=span / 5), i))
            .collect();
        arrivals.sort_unstable();
        // The network delivered the first nine tenths, and they were written as they came.
        let mut copy = world.empty();
        for &(_, i) in &arrivals[..arrivals.len() * 9 / 10] {
            world.apply(&mut copy, i);
        }
        let verdict = world.judge_copy(cut, &copy);
        assert!(!verdict.order_closed && verdict.counts.missing_before_survivor > 0, "seed {seed}: {verdict:?}");
    }
}

#[test]
fn a_copy_with_all_its_records_in_order_of_arrival_fails() {
    for (seed, world, cut) in worlds() {
        let mut rng = SmallRng::seed_from_u64(seed);
        let span = world.writes.last().unwrap().stamp - world.writes[0].stamp;
        let mut arrivals: Vec<(u64, usize)> = (0..world.writes.len())
            .filter(|&i| world.writes[i].stamp <= cut)
            .map(|i| (world.writes[i].stamp + rng.random_range(0..=span / 5), i))
            .collect();
        arrivals.sort_unstable();
        let mut copy = world.empty();
        for &(_, i) in &arrivals {
            world.apply(&mut copy, i);
        }
        let verdict = world.judge_copy(cut, &copy);
        assert!(!verdict.order_closed && verdict.order_violations > 0, "seed {seed}: {verdict:?}");
    }
}

/// Whether `copy` shows, in some block of write `i` but the first `spared`, nothing or a write that was answered before
/// `i` was issued: only then can a host tell that `i` is missing, and that by (a), (b) or (c).
fn leaves_a_hole(world: &World, copy: &Copy, i: usize, spared: u32) -> bool {
    let write = &world.writes[i];
    let range = write.extent.lba as usize + spared as usize..write.extent.end() as usize;
    copy.volumes[usize::from(write.extent.volume)][range]
        .iter()
        .any(|by| by.is_none_or(|by| world.writes[by].answered.is_some_and(|at| at < write.issued)))
}

#[test]
fn a_copy_that_skips_one_record_fails() {
    for (seed, world, cut) in worlds() {
        let low = cut - 2 * CLOCK_ERROR_NS;
        let without = |gap: usize| {
            let mut copy = world.empty();
            for i in (0..world.writes.len()).filter(|&i| i != gap && world.writes[i].stamp <= cut) {
                world.apply(&mut copy, i);
            }
            copy
        };
        let (gap, copy) = (0..world.writes.len())
            .filter(|&i| world.writes[i].answered.is_some_and(|at| at < low) && world.writes[i].failed_after.is_none())
            .map(|i| (i, without(i)))
            .find(|(i, copy)| leaves_a_hole(&world, copy, *i, 0))
            .unwrap();
        let verdict = world.judge_copy(cut, &copy);
        assert!(!verdict.order_closed && verdict.counts.missing_before_cut == 1, "seed {seed} {gap}: {verdict:?}");
        assert_eq!(verdict.counts.missing_before_survivor, 1, "seed {seed}");
    }
}

#[test]
fn a_copy_frozen_early_that_claims_to_be_fresh_fails() {
    for (seed, world, cut) in worlds() {
        let frozen = world.stamp_at(0.5);
        let verdict = world.judge_copy(cut, &world.replay(|w| w.stamp <= frozen));
        assert!(!verdict.order_closed && verdict.counts.missing_before_cut > 0, "seed {seed}: {verdict:?}");
    }
}

#[test]
fn a_copy_frozen_early_that_says_so_fails_by_its_age_alone() {
    for (seed, world, _) in worlds() {
        let frozen = world.stamp_at(0.5);
        let (history, ids) = world.history();
        let mut cut = world.cut(frozen);
        let image = world.replay(|w| w.stamp <= frozen).image(&ids);
        assert!(judge(&history, &image, &cut).order_closed, "seed {seed}");
        cut.age_bound_ns = cut.killed_at.0 - cut.recovery_point.0 - 1;
        let verdict = judge(&history, &image, &cut);
        assert!(!verdict.order_closed, "seed {seed}");
        assert_eq!(verdict.order_violations, 0, "seed {seed}");
        assert!(matches!(verdict.failures[..], [Failure::TooOld { .. }]), "seed {seed}: {:?}", verdict.failures);
    }
}

#[test]
fn a_copy_with_half_a_record_fails() {
    for (seed, world, cut) in worlds() {
        let mut copy = world.replay(|w| w.stamp <= cut);
        // The first write above the cut that can be told leaves its first block.
        let later = (0..world.writes.len())
            .find(|&i| {
                let write = &world.writes[i];
                write.stamp > cut && write.failed_after.is_none() && leaves_a_hole(&world, &copy, i, 1)
            })
            .unwrap();
        copy.put(later, world.writes[later].extent, 1);
        let verdict = world.judge_copy(cut, &copy);
        assert!(!verdict.order_closed && verdict.counts.torn == 1, "seed {seed}: {verdict:?}");
    }
}

#[test]
fn an_empty_secondary_fails_by_b() {
    for (seed, world, cut) in worlds() {
        let verdict = world.judge_copy(cut, &world.empty());
        assert!(!verdict.order_closed && verdict.counts.missing_before_cut > 100, "seed {seed}");
        assert_eq!(verdict.counts.missing_before_survivor, 0, "nothing survives, so (a) alone says nothing");
        assert_eq!(verdict.writes_on_secondary, 0);
    }
}

#[test]
fn a_copy_newer_than_its_certificate_fails() {
    for (seed, world, cut) in worlds() {
        let all = world.stamp_at(1.0);
        let verdict = world.judge_copy(cut, &world.replay(|w| w.stamp <= all));
        assert!(!verdict.order_closed && verdict.counts.survivors_after_cut > 0, "seed {seed}: {verdict:?}");
    }
}

// From here on: histories of a few writes, told one by one.

struct Tale {
    log: Log,
    image: Image,
    cut: Cut,
}

const VOLUMES: [Volume; 2] = [Volume { block_bytes: BlockBytes::B4096, blocks: 8 }; 2];
const A: u16 = 0;
const B: u16 = 1;

impl Tale {
    /// A cut at 100 +- 5, a kill at 150, and one good old write at the end of volume A, so that nothing is vacuous.
    fn new() -> Self {
        let cut = Cut {
            recovery_point: HostTime(100),
            clock_error_ns: 5,
            killed_at: HostTime(150),
            age_bound_ns: 50,
            suspended: false,
        };
        let mut tale = Tale { log: Log::new(0), image: Image::all_initial(&VOLUMES), cut };
        let first = tale.write(A, 7, 1, 1, 2);
        tale.show(A, &[7], first);
        tale
    }

    fn issue(&mut self, volume: u16, lba: u64, blocks: u32, at: u64) -> WriteId {
        self.log.write_issued(HostTime(at), Extent::new(volume, lba, blocks))
    }

    fn write(&mut self, volume: u16, lba: u64, blocks: u32, issued: u64, answered: u64) -> WriteId {
        let id = self.issue(volume, lba, blocks, issued);
        self.log.write_acknowledged(id, HostTime(answered));
        id
    }

    fn read(&mut self, volume: u16, lba: u64, issued: u64, answered: u64, shown: BlockSays) {
        let read = self.log.read_issued(HostTime(issued), Extent::new(volume, lba, 1));
        self.log.read_completed(read, HostTime(answered), [shown]);
    }

    fn show(&mut self, volume: u16, lbas: &[u64], id: WriteId) {
        for &lba in lbas {
            self.image.set(volume, lba, BlockSays::Write(id));
        }
    }

    fn judge(self) -> Verdict {
        judge(&History::merge(&VOLUMES, [self.log]), &self.image, &self.cut)
    }

    fn passes(self) {
        let verdict = self.judge();
        assert!(verdict.order_closed, "{:?}", verdict.failures);
    }

    fn fails(self) -> Vec<Failure> {
        let verdict = self.judge();
        assert!(!verdict.order_closed);
        verdict.failures
    }
}

#[test]
fn a_write_seen_only_by_a_read_must_be_there_when_its_successor_is() {
    let tale = |read_answered: u64| {
        let mut tale = Tale::new();
        let seen = tale.issue(A, 0, 1, 96);
        tale.read(A, 0, 97, read_answered, BlockSays::Write(seen));
        let successor = tale.issue(B, 0, 1, 99);
        tale.show(B, &[0], successor);
        tale
    };
    assert!(matches!(tale(98).fails()[..], [Failure::MissingBeforeSurvivor { .. }]));
    // A read that was not answered yet, or at the same time, proves nothing.
    tale(99).passes();
    tale(101).passes();
}

#[test]
fn a_write_seen_only_by_a_read_before_the_cut_must_be_there() {
    let tale = |read_answered: u64| {
        let mut tale = Tale::new();
        let seen = tale.issue(A, 0, 1, 80);
        tale.read(A, 0, 81, read_answered, BlockSays::Write(seen));
        tale
    };
    assert!(matches!(tale(94).fails()[..], [Failure::MissingBeforeCut { before_cut_ns: 1, .. }]));
    tale(95).passes();
}

#[test]
fn overlapping_writes_in_the_wrong_order_fail() {
    let mut tale = Tale::new();
    let first = tale.write(A, 0, 2, 10, 20);
    let _second = tale.write(A, 1, 2, 30, 40);
    tale.show(A, &[0, 1], first);
    let failures = tale.fails();
    assert!(failures.iter().any(|f| matches!(f, Failure::MissingBeforeCut { lba: 1, .. })), "{failures:?}");
}

#[test]
fn overlapping_writes_in_flight_together_pass_in_either_order() {
    for first_wins in [true, false] {
        let mut tale = Tale::new();
        let first = tale.write(A, 0, 2, 10, 30);
        let second = tale.write(A, 1, 2, 20, 40);
        tale.show(A, &[0], first);
        tale.show(A, &[2], second);
        tale.show(A, &[1], if first_wins { first } else { second });
        tale.passes();
    }
}

#[test]
fn two_writes_that_each_overwrote_the_other_fail() {
    let mut tale = Tale::new();
    let first = tale.write(A, 0, 2, 10, 30);
    let second = tale.write(A, 0, 2, 20, 40);
    tale.show(A, &[0], first);
    tale.show(A, &[1], second);
    assert!(matches!(&tale.fails()[..], [Failure::Ring { ring }] if ring.len() == 2));
}

#[test]
fn three_writes_that_overwrote_each_other_in_a_ring_fail() {
    let mut tale = Tale::new();
    // 0-1, 1-2 and 0-2, all in flight together.
    let x = tale.write(A, 0, 2, 10, 50);
    let y = tale.write(A, 1, 2, 10, 50);
    let z = tale.write(A, 0, 3, 10, 50);
    tale.show(A, &[0], z); // x before z
    tale.show(A, &[1], x); // y and z before x
    tale.show(A, &[2], y); // z before y
    let failures = tale.fails();
    assert!(matches!(&failures[..], [Failure::Ring { .. }]), "{failures:?}");
}

#[test]
fn a_ring_through_a_write_that_no_block_shows_fails() {
    let tale = |hidden_issued: u64| {
        let mut tale = Tale::new();
        let wide = tale.write(A, 0, 2, 10, 60);
        let narrow = tale.write(A, 1, 1, 10, 20);
        let _hidden = tale.write(A, 0, 1, hidden_issued, 60);
        // `hidden` is overwritten by `wide`, `wide` by `narrow`.
        tale.show(A, &[0], wide);
        tale.show(A, &[1], narrow);
        tale
    };
    tale(20).passes();
    // Now `narrow` precedes `hidden`. Any two of the three can be put in order, but not all of them.
    let failures = tale(21).fails();
    assert!(matches!(&failures[..], [Failure::Ring { ring }] if ring.len() == 3), "{failures:?}");
}

#[test]
fn a_write_wholly_overwritten_by_a_later_survivor_counts_as_there() {
    let mut tale = Tale::new();
    let _gone = tale.write(A, 0, 2, 10, 20);
    let over = tale.write(A, 0, 3, 30, 40);
    tale.show(A, &[0, 1, 2], over);
    let verdict = tale.judge();
    assert!(verdict.order_closed, "{:?}", verdict.failures);
    assert_eq!((verdict.writes_acknowledged, verdict.writes_on_secondary), (3, 3));
    assert_eq!(verdict.lost_after_recovery_point, 0);
}

#[test]
fn a_write_never_answered_may_survive_or_not_but_not_in_part() {
    for blocks in 0..=2u64 {
        let mut tale = Tale::new();
        let open = tale.issue(A, 0, 2, 90);
        for lba in 0..blocks {
            tale.show(A, &[lba], open);
        }
        if blocks == 1 {
            assert!(matches!(tale.fails()[..], [Failure::Torn { lba: 1, .. }]));
        } else {
            let verdict = tale.judge();
            assert!(verdict.order_closed, "{:?}", verdict.failures);
            assert_eq!(verdict.unacknowledged_on_secondary, u64::from(blocks == 2));
        }
    }
}

#[test]
fn a_write_that_failed_may_be_there_in_part_but_binds_what_precedes_it() {
    let mut tale = Tale::new();
    let failed = tale.issue(A, 0, 2, 90);
    tale.log.write_failed(failed, HostTime(91));
    tale.show(A, &[0], failed);
    tale.passes();

    let mut tale = Tale::new();
    let _missing = tale.write(B, 0, 1, 96, 97);
    let failed = tale.issue(A, 0, 2, 98);
    tale.log.write_failed(failed, HostTime(99));
    tale.show(A, &[0], failed);
    assert!(matches!(tale.fails()[..], [Failure::MissingBeforeSurvivor { .. }]));
}

#[test]
fn the_edges_of_the_clock_error_are_where_they_are_said_to_be() {
    let acknowledged_and_absent = |answered: u64| {
        let mut tale = Tale::new();
        tale.write(A, 0, 1, 50, answered);
        tale
    };
    assert!(matches!(acknowledged_and_absent(94).fails()[..], [Failure::MissingBeforeCut { .. }]));
    let verdict = acknowledged_and_absent(95).judge();
    assert!(verdict.order_closed);
    assert_eq!(verdict.lost_after_recovery_point, 1);

    let issued_and_there = |issued: u64| {
        let mut tale = Tale::new();
        let id = tale.issue(A, 0, 1, issued);
        tale.show(A, &[0], id);
        tale
    };
    issued_and_there(105).passes();
    assert!(matches!(issued_and_there(106).fails()[..], [Failure::SurvivorAfterCut { after_cut_ns: 1, .. }]));
}

#[test]
fn a_suspended_group_fails() {
    let mut tale = Tale::new();
    tale.cut.suspended = true;
    assert_eq!(tale.fails(), [Failure::Suspended]);
}

#[test]
fn a_recovery_point_after_the_kill_fails_beyond_the_clock_error() {
    let mut tale = Tale::new();
    tale.cut.killed_at = HostTime(95);
    tale.passes();
    let mut tale = Tale::new();
    tale.cut.killed_at = HostTime(94);
    assert_eq!(tale.fails(), [Failure::InTheFuture { ahead_ns: 6 }]);
}

#[test]
fn the_age_bound_is_kept_to_the_nanosecond() {
    let mut tale = Tale::new();
    tale.cut.age_bound_ns = 49;
    assert_eq!(tale.fails(), [Failure::TooOld { age_ns: 50, bound_ns: 49 }]);
}

#[test]
fn a_foreign_block_fails_and_so_does_one_that_was_not_read_back() {
    for why in [Foreign::NotOurs, Foreign::Damaged, Foreign::OtherRun, Foreign::Misplaced, Foreign::Unread] {
        let mut tale = Tale::new();
        tale.image.set(B, 3, BlockSays::Foreign(why));
        assert_eq!(tale.fails(), [Failure::ForeignBlock { volume: B, lba: 3, why }]);
    }
    let mut tale = Tale::new();
    tale.image = Image::unread(&VOLUMES);
    assert_eq!(tale.judge().counts.foreign_blocks, 16);
}

#[test]
fn a_block_of_a_write_that_does_not_cover_it_or_was_never_issued_is_foreign() {
    let mut tale = Tale::new();
    let id = tale.write(A, 0, 2, 10, 20);
    tale.show(A, &[0, 1, 2], id);
    assert_eq!(tale.fails(), [Failure::ForeignBlock { volume: A, lba: 2, why: Foreign::Misplaced }]);

    // The history has one log, 0, with one write.
    for (log, place) in [(0, 1), (0, 5), (1, 0), (3, 0)] {
        let mut other = Log::new(log);
        let mut id = other.write_issued(HostTime(1), Extent::new(A, 0, 1));
        for _ in 0..place {
            id = other.write_issued(HostTime(1), Extent::new(A, 0, 1));
        }
        let mut tale = Tale::new();
        tale.show(A, &[0], id);
        assert_eq!(tale.fails(), [Failure::ForeignBlock { volume: A, lba: 0, why: Foreign::Unknown }]);
    }
}

#[test]
fn a_read_of_the_past_fails() {
    let tale = |read_issued: u64, shown: Option<BlockSays>| {
        let mut tale = Tale::new();
        let old = tale.write(A, 0, 1, 10, 20);
        let new = tale.write(A, 0, 1, 30, 40);
        tale.show(A, &[0], new);
        tale.read(A, 0, read_issued, 60, shown.unwrap_or(BlockSays::Write(old)));
        tale
    };
    assert!(matches!(tale(41, None).fails()[..], [Failure::StaleRead { .. }]));
    assert!(matches!(tale(41, Some(BlockSays::Initial)).fails()[..], [Failure::StaleRead { .. }]));
    tale(40, None).passes();
    assert!(matches!(tale(40, Some(BlockSays::Initial)).fails()[..], [Failure::StaleRead { .. }]));
    tale(20, Some(BlockSays::Initial)).passes();
    let why = Foreign::Damaged;
    let foreign = Failure::ForeignRead { volume: A, lba: 0, why };
    assert_eq!(tale(5, Some(BlockSays::Foreign(why))).fails(), [foreign]);
}

#[test]
fn a_read_of_the_future_fails() {
    let mut tale = Tale::new();
    let id = tale.write(A, 0, 1, 30, 40);
    tale.show(A, &[0], id);
    tale.read(A, 0, 10, 29, BlockSays::Write(id));
    assert_eq!(tale.fails(), [Failure::ForeignRead { volume: A, lba: 0, why: Foreign::Unknown }]);
}

#[test]
fn a_history_that_demands_nothing_is_vacuous() {
    let mut log = Log::new(0);
    let late = log.write_issued(HostTime(120), Extent::new(A, 0, 1));
    log.write_acknowledged(late, HostTime(121));
    let verdict = judge(&History::merge(&VOLUMES, [log]), &Image::all_initial(&VOLUMES), &Tale::new().cut);
    assert_eq!(verdict.failures, [Failure::Vacuous]);
    assert!(!verdict.order_closed);
}
