//! The rules once more, written from their own words and with no thought of cost, and all the orders of a few writes tried
//! one by one: the judge must agree with both.

use proptest::prelude::*;

use crate::{BlockBytes, BlockSays, Cut, Extent, Failure, History, HostTime, Image, Log, Volume, WriteId, judge};

const BLOCKS: u64 = 5;
const SHAPE: [Volume; 2] = [Volume { block_bytes: BlockBytes::B512, blocks: BLOCKS }; 2];

#[derive(Clone, Debug)]
struct Write {
    extent: Extent,
    issued: u64,
    answered: Option<u64>,
}

/// A read of one block, and which write it returned.
#[derive(Clone, Debug)]
struct Read {
    of: usize,
    block: u32,
    after: u64,
}

#[derive(Clone, Debug)]
struct Case {
    writes: Vec<Write>,
    reads: Vec<Read>,
    /// For each volume and block: the write it shows.
    shown: Vec<Vec<Option<usize>>>,
    cut: u64,
    error: u64,
}

fn write() -> impl Strategy<Value = Write> {
    (0..2u16, 0..BLOCKS, 1..4u32, 0..12u64, 0..8u64, any::<u8>()).prop_map(
        |(volume, lba, blocks, issued, takes, open)| {
            let blocks = blocks.min((BLOCKS - lba) as u32);
            let answered = (open >= 40).then_some(issued + takes);
            Write { extent: Extent::new(volume, lba, blocks), issued, answered }
        },
    )
}

fn case(writes_max: usize) -> impl Strategy<Value = Case> {
    proptest::collection::vec(write(), 0..=writes_max).prop_flat_map(|writes| {
        let n = writes.len();
        let reads = proptest::collection::vec((0..n.max(1), 0..3u32, 0..8u64), 0..4);
        let order = Just((0..n).collect::<Vec<_>>()).prop_shuffle();
        let spoilt = (0..2usize, 0..BLOCKS as usize, any::<prop::sample::Index>());
        let spoilt = proptest::option::of(spoilt);
        (Just(writes), reads, order, 0..4u8, 0..=n, spoilt, 0..20u64, 0..4u64).prop_map(
            |(writes, reads, mut order, sorted, taken, spoilt, cut, error)| {
                // The copy took some of the writes in an order that a right copy may have, or in any order; and perhaps one
                // block shows something else.
                order.sort_by_key(|&i| match sorted {
                    0 => 0,
                    1 => writes[i].issued,
                    2 => writes[i].answered.unwrap_or(u64::MAX),
                    _ => writes[i].issued + writes[i].answered.unwrap_or(30),
                });
                let mut shown = vec![vec![None; BLOCKS as usize]; 2];
                for &i in &order[..taken] {
                    let e = writes[i].extent;
                    shown[e.volume as usize][e.lba as usize..e.end() as usize].fill(Some(i));
                }
                if let Some((volume, lba, index)) = spoilt {
                    let covering: Vec<usize> = (0..writes.len()).filter(|&i| covers(&writes[i], volume, lba)).collect();
                    shown[volume][lba] = covering.get(index.index(covering.len() + 1)).copied();
                }
                let reads = reads
                    .into_iter()
                    .filter(|_| !writes.is_empty())
                    .map(|(of, block, after)| Read { of, block: block.min(writes[of].extent.blocks - 1), after })
                    .collect();
                Case { writes, reads, shown, cut, error }
            },
        )
    })
}

fn covers(write: &Write, volume: usize, lba: usize) -> bool {
    write.extent.volume as usize == volume && (write.extent.lba..write.extent.end()).contains(&(lba as u64))
}

impl Case {
    /// "W precedes S if W completed, or a read that returned W's data completed, before S was issued."
    fn precedes(&self, w: usize, s: usize) -> bool {
        let issued = self.writes[s].issued;
        self.writes[w].answered.is_some_and(|at| at < issued)
            || self.reads.iter().any(|r| r.of == w && self.writes[w].issued + r.after < issued)
    }

    fn complete_before_cut(&self, w: usize) -> bool {
        let before = |at: u64| at < self.cut.saturating_sub(self.error);
        self.writes[w].answered.is_some_and(before)
            || self.reads.iter().any(|r| r.of == w && before(self.writes[w].issued + r.after))
    }

    fn blocks(&self, w: usize) -> impl Iterator<Item = Option<usize>> + '_ {
        let e = self.writes[w].extent;
        self.shown[e.volume as usize][e.lba as usize..e.end() as usize].iter().copied()
    }

    fn survives(&self, w: usize) -> bool {
        self.blocks(w).any(|by| by == Some(w))
    }

    /// "each block of W shows W or a write X that does not precede W"
    fn kept(&self, w: usize) -> bool {
        self.blocks(w).all(|by| by.is_some_and(|x| x == w || !self.precedes(x, w)))
    }

    fn history(&self) -> (History, Vec<WriteId>) {
        let mut log = Log::new(0);
        let mut ids = Vec::new();
        for write in &self.writes {
            let id = log.write_issued(HostTime(write.issued), write.extent);
            if let Some(at) = write.answered {
                log.write_acknowledged(id, HostTime(at));
            }
            ids.push(id);
        }
        for read in &self.reads {
            let write = &self.writes[read.of];
            let extent = Extent::new(write.extent.volume, write.extent.lba + u64::from(read.block), 1);
            let id = log.read_issued(HostTime(0), extent);
            let at = HostTime(write.issued + read.after);
            log.read_completed(id, at, [BlockSays::Write(ids[read.of])]);
        }
        (History::merge(&SHAPE, [log]), ids)
    }

    fn judge(&self) -> crate::Verdict {
        let (history, ids) = self.history();
        let mut image = Image::all_initial(&SHAPE);
        for (volume, blocks) in self.shown.iter().enumerate() {
            for (lba, by) in blocks.iter().enumerate() {
                if let Some(by) = by {
                    image.set(volume as u16, lba as u64, BlockSays::Write(ids[*by]));
                }
            }
        }
        let cut = Cut {
            recovery_point: HostTime(self.cut),
            clock_error_ns: self.error,
            killed_at: HostTime(self.cut),
            age_bound_ns: 0,
            suspended: false,
        };
        judge(&history, &image, &cut)
    }

    /// Is there a set of the writes, with all that must be in it and nothing that must not, and an order of them in which
    /// whoever precedes another comes first, that leaves the image?
    fn has_a_past(&self) -> bool {
        let n = self.writes.len();
        (0u32..1 << n).any(|set| {
            let within = |i: usize| set & (1 << i) != 0;
            let allowed = (0..n).all(|i| {
                let late = self.writes[i].issued > self.cut + self.error;
                let closed = !within(i) || (0..n).all(|w| w == i || within(w) || !self.precedes(w, i));
                closed && if within(i) { !late } else { !self.complete_before_cut(i) }
            });
            allowed && self.some_order(set, &mut vec![vec![None; BLOCKS as usize]; 2])
        })
    }

    fn some_order(&self, left: u32, state: &mut Vec<Vec<Option<usize>>>) -> bool {
        if left == 0 {
            return *state == self.shown;
        }
        let members: Vec<usize> = (0..self.writes.len()).filter(|i| left & (1 << i) != 0).collect();
        members.iter().any(|&next| {
            if members.iter().any(|&w| w != next && self.precedes(w, next)) {
                return false;
            }
            let e = self.writes[next].extent;
            let mut after = state.clone();
            after[e.volume as usize][e.lba as usize..e.end() as usize].fill(Some(next));
            self.some_order(left & !(1 << next), &mut after)
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn the_judge_agrees_with_the_rules_taken_word_by_word(case in case(12)) {
        let verdict = case.judge();
        let all = 0..case.writes.len();
        let survivors: Vec<usize> = all.clone().filter(|&w| case.survives(w)).collect();
        let before: Vec<usize> =
            all.clone().filter(|&w| survivors.iter().any(|&s| case.precedes(w, s))).collect();
        let old: Vec<usize> = all.clone().filter(|&w| case.complete_before_cut(w)).collect();
        let late: Vec<usize> = all.clone().filter(|&w| case.writes[w].issued > case.cut + case.error).collect();
        let missing = |of: &[usize]| of.iter().filter(|&&w| !case.kept(w)).count() as u64;

        prop_assert_eq!(verdict.counts.missing_before_survivor, missing(&before));
        prop_assert_eq!(verdict.counts.missing_before_cut, missing(&old));
        prop_assert_eq!(verdict.counts.torn, missing(&survivors));
        prop_assert_eq!(
            verdict.counts.survivors_after_cut,
            late.iter().filter(|&&w| case.survives(w)).count() as u64
        );
        prop_assert_eq!(verdict.constraints_checked, (before.len() + old.len() + late.len()) as u64);
        let acknowledged: Vec<usize> = all.filter(|&w| case.writes[w].answered.is_some()).collect();
        prop_assert_eq!(
            verdict.writes_on_secondary,
            acknowledged.iter().filter(|&&w| case.kept(w)).count() as u64
        );
        prop_assert_eq!(
            verdict.lost_after_recovery_point,
            acknowledged.iter().filter(|&&w| !case.kept(w) && !case.complete_before_cut(w)).count() as u64
        );
        let vacuous = before.is_empty() && old.is_empty();
        prop_assert_eq!(verdict.failures.contains(&Failure::Vacuous), vacuous);
        prop_assert_eq!(verdict.order_closed, verdict.order_violations == 0 && !vacuous);
    }

    #[test]
    fn an_image_passes_exactly_if_some_order_of_the_writes_leaves_it(case in case(6)) {
        let verdict = case.judge();
        // The model's reads are issued at time zero, so none of them can be of the past.
        prop_assert_eq!(verdict.counts.stale_reads, 0);
        prop_assert_eq!(verdict.order_violations == 0, case.has_a_past(), "{:?}", verdict.failures);
    }
}
