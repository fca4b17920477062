use longrun_checker::{BlockBytes, Extent, Volume};

use super::{Plan, Step};

fn volumes() -> Vec<Volume> {
    vec![
        Volume { block_bytes: BlockBytes::B4096, blocks: 4096 },
        Volume { block_bytes: BlockBytes::B512, blocks: 32_768 },
        Volume { block_bytes: BlockBytes::B4096, blocks: 3 },
    ]
}

fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut plan = Plan::new(volumes(), seed);
    (0..count).map(|_| plan.next()).collect()
}

#[test]
fn every_command_stays_within_its_volume() {
    let volumes = volumes();
    let mut plan = Plan::new(volumes.clone(), 3);
    for round in 0..20_000u16 {
        let step = if round % 2 == 0 { Some(plan.next()) } else { plan.dependent(round % 3) };
        let (Some(Step::Write(extent)) | Some(Step::Read(extent))) = step else { continue };
        assert!(extent.blocks > 0 && extent.end() <= volumes[usize::from(extent.volume)].blocks, "{extent:?}");
        let bytes = extent.blocks as usize * volumes[usize::from(extent.volume)].block_bytes.get();
        assert!(bytes <= 128 << 10, "{extent:?}");
    }
}

#[test]
fn a_dependent_write_goes_to_another_volume() {
    let mut plan = Plan::new(volumes(), 3);
    for volume in [0, 1, 2] {
        for _ in 0..200 {
            if let Some(Step::Write(Extent { volume: other, .. })) = plan.dependent(volume) {
                assert_ne!(other, volume);
            }
        }
    }
}

#[test]
fn writes_overlap_their_recent_predecessors_and_some_are_too_large_for_a_capsule() {
    let writes: Vec<Extent> = steps(5, 5000)
        .into_iter()
        .filter_map(|step| if let Step::Write(extent) = step { Some(extent) } else { None })
        .collect();
    let overlapping = writes
        .windows(4)
        .filter(|w| w[..3].iter().any(|x| x.volume == w[3].volume && x.lba < w[3].end() && w[3].lba < x.end()))
        .count();
    assert!(overlapping > writes.len() / 8, "{overlapping} of {}", writes.len());
    let large = writes.iter().filter(|w| w.volume == 0 && w.blocks > 4).count();
    assert!(large > 100, "{large}");
}

#[test]
fn the_same_seed_plans_the_same_commands() {
    assert_eq!(steps(9, 500), steps(9, 500));
    assert_ne!(steps(9, 500), steps(10, 500));
}
