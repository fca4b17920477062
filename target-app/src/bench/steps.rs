//! Where a command's time goes in the lab's systems, step by step, beside what each step could not do without. Only a build
//! that keeps accounts knows (feature `accounting`).

use super::workload::Lab as LabShape;
use longrun_copy::account::Step;
use longrun_hal::clock;
use longrun_rpc::methods::framework::Reactors;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::Serialize;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long each floor is measured.
const MEASURED: Duration = Duration::from_millis(40);
/// Blocks are taken from so much memory, so that the caches do not help: those of hosts are as cold.
const SPREAD_BYTES: usize = 64 << 20;

/// What a system's reactors counted until a moment.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Which system.
    pub system: &'static str,
    /// Of each core.
    pub cores: Reactors,
}

impl Counted {
    /// How long its reactors were at work since then, what they waited and looked for work left out.
    pub fn busy_since(&self, before: &Counted) -> Duration {
        self.each_busy_since(before).sum()
    }

    /// The same of each of its cores.
    fn each_busy_since<'a>(&'a self, before: &'a Counted) -> impl Iterator<Item = Duration> + 'a {
        let cores = self.cores.reactors.iter().zip(&before.cores.reactors);
        let rate = self.cores.tick_rate.max(1) as f64;
        cores.map(move |(after, before)| Duration::from_secs_f64(after.busy.saturating_sub(before.busy) as f64 / rate))
    }
}

/// What a command costs one core of a system that has several.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoreCost {
    /// Which system.
    pub system: &'static str,
    /// Its core, from 0. Of two, the link is on the first and the group on the second.
    pub core: usize,
    /// How long that was at work for each command, microseconds.
    pub busy_us: f64,
}

/// What each core did for each of so many commands; nothing where systems have one.
pub fn cores(before: &[Counted], after: &[Counted], commands: u64) -> Vec<CoreCost> {
    let several = after.iter().zip(before).filter(|(after, _)| after.cores.reactors.len() > 1);
    let costs = several.flat_map(|(after, before)| {
        after.each_busy_since(before).enumerate().map(|(core, busy)| CoreCost {
            system: after.system,
            core,
            busy_us: (busy.as_secs_f64() * 1e8 / commands.max(1) as f64).round() / 100.0,
        })
    });
    costs.collect()
}

/// A step of one system.
#[derive(Clone, Debug, Serialize)]
pub struct StepCost {
    /// Which system.
    pub system: &'static str,
    /// The step's name; `docs/accounting.md` says what is in each.
    pub step: String,
    /// How often it was entered, for each command.
    pub entered: f64,
    /// Nanoseconds in it for each command, steps that were reached from it left out.
    pub ns: f64,
    /// What it could not do without.
    pub floor: Option<StepFloor>,
}

/// What a step could not do without.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepFloor {
    /// In words.
    pub what: &'static str,
    /// Nanoseconds for each command, measured in the same run.
    pub ns: f64,
}

/// What parts of steps cost alone, nanoseconds, on blocks of a workload's size that are in no cache.
#[derive(Clone, Copy, Debug)]
pub struct Floors {
    clock: f64,
    copy: f64,
    checksum: f64,
    seal: f64,
    open: f64,
    is_sealed: bool,
}

impl Floors {
    /// Measures them.
    pub fn measure(shape: &LabShape, block_bytes: u32) -> Floors {
        let bytes = block_bytes as usize;
        let (from, mut to) = (vec![1u8; SPREAD_BYTES], vec![2u8; SPREAD_BYTES]);
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes make a key");
        let key = LessSafeKey::new(key);
        let nonce = || Nonce::assume_unique_for_key([0; 12]);
        // Opened is what was sealed before, with its tag behind it; else nothing is decrypted.
        let mut sealed = vec![3; bytes];
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).expect("a block can be sealed");
        let mut opened = sealed.clone();
        let unsealed = each(|_| opened.copy_from_slice(&sealed));
        let opening = each(|_| {
            opened.copy_from_slice(&sealed);
            black_box(
                key.open_in_place(nonce(), Aad::empty(), &mut opened).expect("what was sealed can be opened").len(),
            );
        });
        Floors {
            clock: each(|_| {
                black_box(clock::cycles());
            }),
            copy: each(|nth| {
                let at = place(nth, bytes);
                to[at..at + bytes].copy_from_slice(&from[at..at + bytes]);
            }),
            checksum: each(|nth| {
                let at = place(nth, bytes);
                black_box(crc_fast::crc32_iscsi(&from[at..at + bytes]));
            }),
            seal: each(|nth| {
                let at = place(nth, bytes);
                let sealed = key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut to[at..at + bytes]);
                black_box(sealed.expect("a block can be sealed").as_ref().len());
            }),
            open: (opening - unsealed).max(0.0),
            is_sealed: shape.replication && !shape.plain_link,
        }
    }

    /// A step's at the one of the systems or the other, where each block passes there. `exchange_ns` is what bare TCP takes
    /// for the same sizes.
    fn of(&self, step: Step, is_primary: bool, exchange_ns: Option<f64>) -> Option<StepFloor> {
        let (what, ns) = match (step, is_primary) {
            (Step::Kernel, true) => ("a bare TCP exchange of the same sizes", exchange_ns?),
            (Step::Stamp, true) => ("a reading of the clock", self.clock),
            (Step::Local, true) | (Step::Run | Step::Apply, false) => ("a copy of the block", self.copy),
            (Step::Frame, true) if self.is_sealed => ("AES-256-GCM over the block", self.seal),
            (Step::Frame, true) | (Step::Journal, false) => {
                ("a copy of the block and its CRC32C", self.copy + self.checksum)
            }
            (Step::Open, false) if self.is_sealed => ("AES-256-GCM over the block, in the cache", self.open),
            (Step::Open, false) => ("CRC32C of the block", self.checksum),
            _ => return None,
        };
        Some(StepFloor { what, ns: ns.round() })
    }
}

/// Where the nth block is: every one comes up, no two after one another.
fn place(nth: usize, bytes: usize) -> usize {
    nth.wrapping_mul(6151) % (SPREAD_BYTES / bytes) * bytes
}

/// Nanoseconds of one call, in the middle of several short runs: what else the machine does shows least there.
fn each(mut call: impl FnMut(usize)) -> f64 {
    const RUNS: u32 = 8;
    const BATCH: usize = 64;
    let mut nth = 0;
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let (began, first) = (Instant::now(), nth);
            while began.elapsed() < MEASURED / RUNS {
                for _ in 0..BATCH {
                    call(nth);
                    nth += 1;
                }
            }
            began.elapsed().as_nanos() as f64 / (nth - first) as f64
        })
        .collect();
    runs.sort_unstable_by(f64::total_cmp);
    runs[runs.len() / 2]
}

/// What so many commands took between two looks, the primary's first; steps that nothing was in are left out, and so is idle
/// time. `exchange_ns` is what bare TCP takes for one.
pub fn costs(
    before: &[Counted],
    after: &[Counted],
    commands: u64,
    floors: &Floors,
    exchange_ns: Option<f64>,
) -> Vec<StepCost> {
    let per_command = |value: f64| value / commands.max(1) as f64;
    let mut costs = Vec::new();
    for (which, (before, after)) in before.iter().zip(after).enumerate() {
        for (nth, step) in Step::ALL.into_iter().enumerate() {
            let (mut entered, mut ns) = (0, 0.0);
            for (before, after) in before.cores.reactors.iter().zip(&after.cores.reactors) {
                let Some((before, after)) = before.accounts.as_ref().zip(after.accounts.as_ref()) else { continue };
                let between = after.since(before);
                let Some(account) = between.steps.get(nth) else { continue };
                entered += account.entered;
                ns += between.ns(account.cycles);
            }
            let ns = per_command(ns).round();
            if step == Step::Idle || ns < 1.0 {
                continue;
            }
            costs.push(StepCost {
                system: after.system,
                step: step.name().to_owned(),
                entered: (per_command(entered as f64) * 100.0).round() / 100.0,
                ns,
                floor: floors.of(step, which == 0, exchange_ns),
            });
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;
    use longrun_rpc::methods::framework::{Accounts, StepAccount};
    use serde_json::{from_value, json};

    /// A core on which each step took ten times its number so often, and that was at work for a millisecond each time.
    fn counted(system: &'static str, times: u64) -> Counted {
        let steps = Step::ALL.into_iter().enumerate().map(|(nth, step)| StepAccount {
            step: step.name().to_owned(),
            entered: times,
            cycles: times * 10 * nth as u64,
        });
        let accounts = Accounts { cycles_per_s: 2_000_000_000, steps: steps.collect() };
        let core = json!({"lcore": 0, "busy": times, "idle": 77, "in_interrupt": true, "accounts": accounts});
        let cores = from_value(json!({"tick_rate": 1000, "pid": 1, "reactors": [core]})).unwrap();
        Counted { system, cores }
    }

    #[test]
    fn a_step_s_cost_is_what_came_between_two_looks_for_each_command() {
        let shape = LabShape { replication: true, ..LabShape::default() };
        let floors = Floors { clock: 20.0, copy: 100.0, checksum: 50.0, seal: 700.0, open: 600.0, is_sealed: false };
        let looks = |times| [counted("primary", times), counted("secondary", times)];
        let costs = costs(&looks(100), &looks(500), 200, &floors, Some(2500.4));
        let of = |system: &str, step: Step| {
            costs.iter().find(|cost| cost.system == system && cost.step == step.name()).cloned()
        };
        let stamp = of("primary", Step::Stamp).unwrap();
        // 400 times 10 cycles by its number, at half a nanosecond each, over 200 commands.
        assert_eq!((stamp.entered, stamp.ns), (2.0, 10.0 * Step::Stamp as u64 as f64));
        assert_eq!(stamp.floor, Some(StepFloor { what: "a reading of the clock", ns: 20.0 }));
        assert_eq!(of("primary", Step::Kernel).unwrap().floor.map(|floor| floor.ns), Some(2500.0));
        assert_eq!(of("secondary", Step::Kernel).unwrap().floor, None, "it has no host");
        assert_eq!(of("primary", Step::Open).unwrap().floor, None, "only acknowledgements come in there");
        assert_eq!(of("primary", Step::Frame).unwrap().floor.map(|floor| floor.ns), Some(150.0));
        assert!(of("primary", Step::Idle).is_none());
        let sealed = Floors { is_sealed: true, ..floors };
        assert_eq!(sealed.of(Step::Frame, true, None).map(|floor| floor.ns), Some(700.0));
        assert_eq!(sealed.of(Step::Open, false, None).map(|floor| floor.ns), Some(600.0));
        assert!(Floors::measure(&shape, 4096).is_sealed);
        assert!(!Floors::measure(&LabShape { plain_link: true, ..shape }, 4096).is_sealed);
    }

    #[test]
    fn a_system_is_busy_for_the_ticks_that_its_cores_were_at_work() {
        assert_eq!(counted("primary", 500).busy_since(&counted("primary", 100)), Duration::from_millis(400));
    }

    #[test]
    fn of_systems_with_several_cores_each_is_told_apart() {
        let of = |first: u64, second: u64| {
            let mut counted = counted("primary", first);
            let mut other = counted.cores.reactors[0].clone();
            (other.lcore, other.busy) = (1, second);
            counted.cores.reactors.push(other);
            counted
        };
        let costs = cores(&[of(100, 100)], &[of(500, 1100)], 1000);
        let cost = |core, busy_us| CoreCost { system: "primary", core, busy_us };
        assert_eq!(costs, [cost(0, 400.0), cost(1, 1000.0)]);
        assert_eq!(cores(&[counted("primary", 1)], &[counted("primary", 2)], 1), []);
    }

    #[test]
    fn floors_come_to_something_for_every_size_of_block() {
        for block_bytes in [512, 4096, 1 << 20] {
            let floors = Floors::measure(&LabShape::default(), block_bytes);
            for ns in [floors.clock, floors.copy, floors.checksum, floors.seal, floors.open] {
                assert!(ns > 0.0 && ns.is_finite(), "{block_bytes}: {floors:?}");
            }
        }
    }
}
