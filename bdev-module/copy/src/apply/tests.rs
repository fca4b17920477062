use super::*;
use proptest::prelude::*;

fn extents() -> impl Strategy<Value = Vec<Option<(VolumeId, Extent)>>> {
    let job =
        (0_u32..2, 0_u64..24, 1_u32..9).prop_map(|(volume, lba, blocks)| (VolumeId(volume), Extent { lba, blocks }));
    prop::collection::vec(prop::option::weighted(0.9, job), 0..40)
}

type Image = HashMap<(VolumeId, u64), usize>;

fn write(image: &mut Image, jobs: &[Option<(VolumeId, Extent)>], index: usize) {
    let (volume, extent) = jobs[index].unwrap();
    for lba in extent.range() {
        image.insert((volume, lba), index);
    }
}

proptest! {
    #[test]
    fn every_order_that_the_plan_allows_ends_as_the_order_of_history(
        jobs in extents(), picks in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let mut wanted = Image::new();
        for index in (0..jobs.len()).filter(|index| jobs[*index].is_some()) {
            write(&mut wanted, &jobs, index);
        }
        let mut plans = plan(&jobs);
        let is_written = |index: &usize, plans: &[Plan]| jobs[*index].is_some() && !plans[*index].folded;
        let mut ready: Vec<usize> =
            (0..jobs.len()).filter(|index| is_written(index, &plans) && plans[*index].waits == 0).collect();
        let mut got = Image::new();
        let mut done = 0;
        let mut picks = picks.iter().cycle();
        while !ready.is_empty() {
            let job = ready.swap_remove(picks.next().unwrap().index(ready.len()));
            write(&mut got, &jobs, job);
            done += 1;
            for dependent in std::mem::take(&mut plans[job].dependents) {
                plans[dependent as usize].waits -= 1;
                if plans[dependent as usize].waits == 0 {
                    ready.push(dependent as usize);
                }
            }
        }
        let all = (0..jobs.len()).filter(|index| is_written(index, &plans)).count();
        prop_assert_eq!(done, all, "every job's turn comes");
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn a_record_is_folded_if_and_only_if_later_ones_cover_it(jobs in extents()) {
        let plans = plan(&jobs);
        for (index, job) in jobs.iter().enumerate() {
            let Some((volume, extent)) = job else { continue };
            let covered = extent.range().all(|lba| {
                jobs[index + 1..].iter().flatten().any(|(other, later)| other == volume && later.range().contains(&lba))
            });
            prop_assert_eq!(plans[index].folded, covered);
        }
    }
}

#[test]
fn what_does_not_overlap_does_not_wait() {
    let job = |lba, blocks| Some((VolumeId(1), Extent { lba, blocks }));
    let plans = plan(&[job(0, 4), job(4, 4), job(2, 4), Some((VolumeId(2), Extent { lba: 2, blocks: 4 }))]);
    let waits: Vec<u32> = plans.iter().map(|plan| plan.waits).collect();
    assert_eq!(waits, [0, 0, 2, 0]);
}
