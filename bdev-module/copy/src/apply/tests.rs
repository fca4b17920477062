use super::*;
use proptest::prelude::*;

fn jobs() -> impl Strategy<Value = Vec<Option<Job>>> {
    let job = (0_u32..2, 0_u64..24, 1_u32..9, prop::bool::weighted(0.2)).prop_map(|(volume, lba, blocks, is_read)| {
        Job { volume: VolumeId(volume), extent: Extent { lba, blocks }, is_read }
    });
    prop::collection::vec(prop::option::weighted(0.9, job), 0..40)
}

/// The plan of these jobs, made where that of others was.
fn made(jobs: &[Option<Job>]) -> Plans {
    let mut plans = Plans::default();
    let earlier = |lba| Some(Job { volume: VolumeId(0), extent: Extent { lba, blocks: 3 }, is_read: lba == 4 });
    plans.make(&[earlier(7), earlier(4), None, earlier(5), earlier(6)]);
    plans.make(jobs);
    plans
}

type Image = HashMap<(VolumeId, u64), usize>;

/// Does a job: a write leaves its number, a read gets the numbers that are there.
fn act(image: &mut Image, jobs: &[Option<Job>], index: usize) -> Vec<Option<usize>> {
    let job = jobs[index].unwrap();
    let blocks = job.extent.range().map(|lba| (job.volume, lba));
    if job.is_read {
        return blocks.map(|block| image.get(&block).copied()).collect();
    }
    image.extend(blocks.map(|block| (block, index)));
    Vec::new()
}

proptest! {
    #[test]
    fn every_order_that_the_plan_allows_ends_as_the_order_of_history_and_reads_what_it_would(
        jobs in jobs(), picks in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let mut wanted = Image::new();
        let all = (0..jobs.len()).filter(|index| jobs[*index].is_some());
        let read: HashMap<usize, _> = all.map(|index| (index, act(&mut wanted, &jobs, index))).collect();
        let mut plans = made(&jobs);
        let is_done = |index: &usize, plans: &Plans| jobs[*index].is_some() && !plans.all()[*index].folded;
        let mut ready: Vec<usize> =
            (0..jobs.len()).filter(|index| is_done(index, &plans) && plans.all()[*index].waits == 0).collect();
        let mut got = Image::new();
        let mut done = 0;
        let mut picks = picks.iter().cycle();
        while !ready.is_empty() {
            let job = ready.swap_remove(picks.next().unwrap().index(ready.len()));
            prop_assert_eq!(&act(&mut got, &jobs, job), &read[&job], "job {}", job);
            done += 1;
            plans.done(job as u32, |dependent| ready.push(dependent as usize));
        }
        let all = (0..jobs.len()).filter(|index| is_done(index, &plans)).count();
        prop_assert_eq!(done, all, "every job's turn comes");
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn a_record_is_folded_if_and_only_if_later_ones_cover_it_before_anyone_looks(jobs in jobs()) {
        let plans = made(&jobs);
        for (index, job) in jobs.iter().enumerate() {
            let Some(Job { volume, extent, is_read }) = *job else { continue };
            let covered = extent.range().all(|lba| {
                let mut later = jobs[index + 1..].iter().flatten();
                let next = later.find(|it| it.volume == volume && it.extent.range().contains(&lba));
                next.is_some_and(|next| !next.is_read)
            });
            prop_assert_eq!(plans.all()[index].folded, covered && !is_read);
        }
    }
}

#[test]
fn what_does_not_overlap_does_not_wait() {
    let job =
        |volume, lba, blocks| Some(Job { volume: VolumeId(volume), extent: Extent { lba, blocks }, is_read: false });
    let plans = made(&[job(1, 0, 4), job(1, 4, 4), job(1, 2, 4), job(2, 2, 4)]);
    let waits: Vec<u32> = plans.all().iter().map(|plan| plan.waits).collect();
    assert_eq!(waits, [0, 0, 2, 0]);
}
