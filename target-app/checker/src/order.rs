//! Is there one order of the writes that leaves the image?

use crate::judge::{Op, Shown};

/// Looks for an order of the writes marked in `there` in which whoever precedes another comes first, and in which the last
/// writer of each block is the one that the block shows. Nothing if there is one; else a ring of writes, each of which
/// must come before the next and the last before the first.
///
/// Repeatedly takes a write that nothing left must come before. Two kinds of "must come before" hold a write S back:
/// writes covering a block that shows S (counted), and writes that precede it. For the latter it is enough to know
/// the least `seen` among the writes left: S is free of them exactly if it was not issued after that. So the pairs
/// are never listed, and the cost is O(n log n + blocks written).
pub(crate) fn ring(ops: &[Op], there: &[bool], shown: &[Vec<Shown>]) -> Option<Vec<u32>> {
    let mut by_issue: Vec<u32> = (0..ops.len() as u32).filter(|&i| there[i as usize]).collect();
    let mut by_seen = by_issue.clone();
    by_issue.sort_by_key(|&i| ops[i as usize].issued);
    by_seen.sort_by_key(|&i| ops[i as usize].seen);

    let mut held_by = vec![0u32; ops.len()];
    for &i in &by_issue {
        for later in overwritten_by(ops, shown, i) {
            held_by[later as usize] += 1;
        }
    }
    let mut taken = vec![false; ops.len()];
    let mut in_time = vec![false; ops.len()];
    let mut ready: Vec<u32> = Vec::new();
    let (mut next_issue, mut next_seen) = (0, 0);
    loop {
        while by_seen.get(next_seen).is_some_and(|&i| taken[i as usize]) {
            next_seen += 1;
        }
        let least_seen = by_seen.get(next_seen).map_or(u64::MAX, |&i| ops[i as usize].seen);
        while let Some(&i) = by_issue.get(next_issue)
            && ops[i as usize].issued <= least_seen
        {
            in_time[i as usize] = true;
            if held_by[i as usize] == 0 {
                ready.push(i);
            }
            next_issue += 1;
        }
        let Some(i) = ready.pop() else { break };
        taken[i as usize] = true;
        for later in overwritten_by(ops, shown, i) {
            let held = &mut held_by[later as usize];
            *held -= 1;
            if *held == 0 && in_time[later as usize] {
                ready.push(later);
            }
        }
    }
    let first_left = by_issue.iter().copied().find(|&i| !taken[i as usize])?;

    // Each write left is held by another one left; walking back along that comes round.
    let mut held_back_by = vec![u32::MAX; ops.len()];
    let least_seen = by_seen[next_seen];
    for &i in by_issue.iter().filter(|&&i| !taken[i as usize]) {
        if ops[least_seen as usize].precedes(&ops[i as usize]) {
            held_back_by[i as usize] = least_seen;
        }
        for later in overwritten_by(ops, shown, i) {
            held_back_by[later as usize] = i;
        }
    }
    let mut steps = vec![u32::MAX; ops.len()];
    let mut walk = Vec::new();
    let mut at = first_left;
    while steps[at as usize] == u32::MAX {
        steps[at as usize] = walk.len() as u32;
        walk.push(at);
        at = held_back_by[at as usize];
    }
    let mut ring = walk.split_off(steps[at as usize] as usize);
    ring.reverse();
    Some(ring)
}

/// The writes that must come after write `i` because a block of `i` shows them; one entry for each such block. A write
/// that was answered with an error may not have reached its blocks, so it is bound by none.
fn overwritten_by<'a>(ops: &'a [Op], shown: &'a [Vec<Shown>], i: u32) -> impl Iterator<Item = u32> + 'a {
    let op = &ops[i as usize];
    let extent = op.extent;
    let blocks = if op.binding() { extent.lba as usize..extent.end() as usize } else { 0..0 };
    let of_volume = &shown[usize::from(extent.volume)];
    of_volume[blocks].iter().copied().filter(move |&by| by != i && (by as usize) < ops.len())
}
