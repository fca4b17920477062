//! Who waits for whom inside a round, and what need not be written at all.
//!
//! Both are questions to a map of intervals. All places where one may begin or end are known when a round begins, so they are
//! sorted once and the maps are over their numbers ([`Ordered`]): no entry is a node of its own, and what a round used the
//! next one uses again.

use super::ordered::Ordered;
use crate::types::{Extent, VolumeId};

/// What a record does to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) volume: VolumeId,
    pub(super) extent: Extent,
    /// It looks at the blocks and changes none: what was written before must be there, and nothing that comes later.
    pub(super) is_read: bool,
}

/// What one job waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Later records of the round cover it.
    pub(super) folded: bool,
    /// How many earlier jobs it waits for.
    pub(super) waits: u32,
    /// The first of those that wait for it, among [`Plans::edges`].
    dependent: Option<u32>,
}

/// One that waits.
#[derive(Clone, Copy, Debug)]
struct Edge {
    job: u32,
    next: Option<u32>,
}

/// The plan of a round, and what it takes to make it.
#[derive(Debug, Default)]
pub(super) struct Plans {
    plans: Vec<Plan>,
    edges: Vec<Edge>,
    /// Where extents begin and end, in order, each once. Those of different volumes never meet: an interval's end is never
    /// behind its own volume's places.
    places: Vec<(VolumeId, u64)>,
    /// Ends of intervals that later jobs write, by their beginnings.
    covered: Ordered<usize>,
    /// Ends of intervals and who used them last, by their beginnings.
    users: Ordered<(usize, u32)>,
    earlier: Vec<u32>,
}

impl Plans {
    /// Plans jobs in order of history, `None` for one that goes nowhere.
    pub(super) fn make(&mut self, jobs: &[Option<Job>]) {
        self.plans.clear();
        self.plans.resize(jobs.len(), Plan::default());
        self.edges.clear();
        self.places.clear();
        for Job { volume, extent, .. } in jobs.iter().flatten() {
            self.places.extend([(*volume, extent.lba), (*volume, extent.end())]);
        }
        self.places.sort_unstable();
        self.places.dedup();
        self.covered.reset(self.places.len());
        self.users.reset(self.places.len());
        // From the last to the first: what is covered by what comes later.
        for index in (0..jobs.len()).rev() {
            let Some(job) = &jobs[index] else { continue };
            let (start, end) = self.interval(job);
            if job.is_read {
                // *A was folded into C, the verify record between them compared with A: a difference that never was.*
                uncover(&mut self.covered, start, end);
            } else {
                self.plans[index].folded = !cover(&mut self.covered, start, end);
            }
        }
        // From the first to the last: who touched these blocks before.
        for (index, job) in jobs.iter().enumerate() {
            let Some(job) = job.as_ref().filter(|_| !self.plans[index].folded) else { continue };
            let (start, end) = self.interval(job);
            overwrite(&mut self.users, start, end, index as u32, &mut self.earlier);
            self.plans[index].waits = self.earlier.len() as u32;
            for job in self.earlier.drain(..) {
                let first = &mut self.plans[job as usize].dependent;
                let edge = Edge { job: index as u32, next: first.replace(self.edges.len() as u32) };
                self.edges.push(edge);
            }
        }
    }

    /// Each job's plan.
    pub(super) fn all(&self) -> &[Plan] {
        &self.plans
    }

    /// A job is done: `ready` is told those that waited for it last.
    pub(super) fn done(&mut self, job: u32, mut ready: impl FnMut(u32)) {
        let mut next = self.plans[job as usize].dependent.take();
        while let Some(edge) = next {
            let Edge { job, next: after } = self.edges[edge as usize];
            let plan = &mut self.plans[job as usize];
            plan.waits -= 1;
            if plan.waits == 0 {
                ready(job);
            }
            next = after;
        }
    }

    /// A job's extent as numbers of places.
    fn interval(&self, job: &Job) -> (usize, usize) {
        let number = |lba| self.places.partition_point(|place| *place < (job.volume, lba));
        (number(job.extent.lba), number(job.extent.end()))
    }
}

/// Adds an interval to disjoint, never touching ones; returns whether that added any block.
fn cover(intervals: &mut Ordered<usize>, mut start: usize, mut end: usize) -> bool {
    if intervals.last_at(start).is_some_and(|(_, last)| last >= end) {
        return false;
    }
    while let Some((first, last)) = intervals.last_at(end)
        && last >= start
    {
        intervals.remove(first);
        start = start.min(first);
        end = end.max(last);
    }
    intervals.insert(start, end);
    true
}

/// Takes an interval out of the others.
fn uncover(intervals: &mut Ordered<usize>, start: usize, end: usize) {
    while let Some((first, last)) = before(intervals, end)
        && last > start
    {
        intervals.remove(first);
        if last > end {
            intervals.insert(end, last);
        }
        if first < start {
            intervals.insert(first, start);
        }
    }
}

/// Makes `job` the last user of the interval; `earlier` is then those who were, each once.
fn overwrite(users: &mut Ordered<(usize, u32)>, start: usize, end: usize, job: u32, earlier: &mut Vec<u32>) {
    earlier.clear();
    while let Some((first, (last, user))) = before(users, end)
        && last > start
    {
        users.remove(first);
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
}

/// The last entry before `index`.
fn before<V: Copy + Default>(entries: &Ordered<V>, index: usize) -> Option<(usize, V)> {
    entries.last_at(index.checked_sub(1)?)
}
