//! Who waits for whom inside a round, and what need not be written at all.

use crate::types::{Extent, VolumeId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};

/// What a record does to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) volume: VolumeId,
    pub(super) extent: Extent,
    /// It looks at the blocks and changes none: what was written before must be there, and nothing that comes later.
    pub(super) is_read: bool,
}

/// What one job waits for, and what waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Later records of the round cover it.
    pub(super) folded: bool,
    /// How many earlier jobs it waits for.
    pub(super) waits: u32,
    /// Jobs that wait for it.
    pub(super) dependents: SmallVec<[u32; 2]>,
}

/// Plans jobs in order of history, `None` for one that goes nowhere.
pub(super) fn plan(jobs: &[Option<Job>]) -> Vec<Plan> {
    let mut plans = vec![Plan::default(); jobs.len()];
    // From the last to the first: what is covered by what comes later.
    let mut covered: HashMap<VolumeId, BTreeMap<u64, u64>> = HashMap::new();
    for (plan, job) in plans.iter_mut().zip(jobs).rev() {
        let Some(job) = job else { continue };
        let covered = covered.entry(job.volume).or_default();
        if job.is_read {
            // *A was folded into C, the verify record between them compared with A: a difference that never was.*
            uncover(covered, job.extent);
        } else {
            plan.folded = !cover(covered, job.extent);
        }
    }
    // From the first to the last: who touched these blocks before.
    let mut users: HashMap<VolumeId, BTreeMap<u64, (u64, u32)>> = HashMap::new();
    for (index, job) in jobs.iter().enumerate() {
        let Some(job) = job else { continue };
        if plans[index].folded {
            continue;
        }
        let earlier = overwrite(users.entry(job.volume).or_default(), job.extent, index as u32);
        plans[index].waits = earlier.len() as u32;
        for job in earlier {
            plans[job as usize].dependents.push(index as u32);
        }
    }
    plans
}

/// Adds the extent to disjoint, never touching intervals; returns whether that added any block.
fn cover(intervals: &mut BTreeMap<u64, u64>, extent: Extent) -> bool {
    let (mut start, mut end) = (extent.lba, extent.end());
    if let Some((_, last)) = intervals.range(..=start).next_back()
        && *last >= end
    {
        return false;
    }
    while let Some((first, last)) = intervals.range(..=end).next_back().map(|(first, last)| (*first, *last))
        && last >= start
    {
        intervals.remove(&first);
        start = start.min(first);
        end = end.max(last);
    }
    intervals.insert(start, end);
    true
}

/// Takes the extent out of the intervals.
fn uncover(intervals: &mut BTreeMap<u64, u64>, extent: Extent) {
    let (start, end) = (extent.lba, extent.end());
    while let Some((first, last)) = intervals.range(..end).next_back().map(|(first, last)| (*first, *last))
        && last > start
    {
        intervals.remove(&first);
        if last > end {
            intervals.insert(end, last);
        }
        if first < start {
            intervals.insert(first, start);
        }
    }
}

/// Makes `job` the last user of the extent; returns those who were, each once.
fn overwrite(users: &mut BTreeMap<u64, (u64, u32)>, extent: Extent, job: u32) -> SmallVec<[u32; 8]> {
    let (start, end) = (extent.lba, extent.end());
    let mut earlier = SmallVec::new();
    while let Some((first, (last, user))) = users.range(..end).next_back().map(|(first, rest)| (*first, *rest))
        && last > start
    {
        users.remove(&first);
        if !earlier.contains(&user) {
            earlier.push(user);
        }
        if last > end {
            users.insert(end, (last, user));
        }
        if first < start {
            users.insert(first, (start, user));
            break;
        }
    }
    users.insert(start, (end, job));
    earlier
}
