//! One round: two systems, a database that is written to, a kill, a takeover, a verdict.

use crate::device::connect;
use crate::judge::{Moment, Sound, judge};
use crate::mount::Mount;
use crate::sqlite::{self, Log, Writer};
use crate::systems::{Options, Systems};
use longrun::demo::clock::HostClock;
use longrun::lab::relay::Impairment;
use longrun_tests::load::Target;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

/// The database's file.
const DATABASE: &str = "db";
const SCOPES: [&str; 3] = ["group", "system", "pair"];
/// Transactions before the clock of the kill starts: enough that the log has been used more than once.
const TRANSACTIONS_FIRST: u64 = 20;

/// What a round does; all of it is drawn from a seed and the round's number.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What is drawn comes from it.
    pub seed: u64,
    /// How the database keeps its log.
    pub log: Log,
    /// The systems and the network between them.
    pub systems: Options,
    /// How long the database is written to after its first transactions.
    pub works_for: Duration,
    /// How long before the kill the link ends; with two groups, one of the two.
    pub cut_before: Option<Duration>,
    /// Which link ends early: with two groups the log's, which leaves the database ahead of it.
    pub cut_link: usize,
    /// The primary is started again, and killed for good so much later: in the middle of a resync, or after it.
    pub returns_for: Option<Duration>,
    /// The secondary is killed too, and started again, before the takeover.
    pub kills_secondary: bool,
}

impl Plan {
    /// Round `number` of those that `seed` stands for.
    pub fn new(seed: u64, number: u64, two_groups: bool) -> Plan {
        let mut rng = SmallRng::seed_from_u64(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        let impairment = Impairment {
            loss: 0.02,
            reorder: 0.05,
            duplicate: 0.01,
            delay: Duration::from_micros(rng.random_range(200..10_000)),
            seed: rng.random(),
        };
        let works_for = Duration::from_micros(rng.random_range(300_000..2_500_000));
        let cut_early = Duration::from_micros(rng.random_range(20_000..250_000));
        let is_cut = rng.random_bool(0.25);
        // Without a common order the one volume is as much older than the other as makes a difference.
        let (works_for, cut_before) = if two_groups {
            (works_for + 4 * cut_early, Some(4 * cut_early))
        } else {
            (works_for, is_cut.then_some(cut_early))
        };
        let returns = rng.random_bool(0.4);
        let returns_for = returns.then(|| Duration::from_millis(rng.random_range(0..4_000)));
        // A database that is ahead of its log always shows it: either it is broken, or it holds what came too late. The other
        // way round it takes luck.
        let cut_link = usize::from(two_groups);
        // A stream of the scope `system` would be shared by the two groups, which have a link each.
        let scope = if two_groups { SCOPES[0] } else { SCOPES[(number % 3) as usize] };
        Plan {
            seed: rng.random(),
            log: Log::ALL[(number % 4) as usize],
            systems: Options { scope, impairment, two_groups },
            works_for,
            cut_before: cut_before.filter(|before| *before < works_for),
            cut_link,
            kills_secondary: rng.random_bool(0.3),
            returns_for: returns_for.filter(|_| !two_groups),
        }
    }
}

/// What a round came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its number.
    pub round: u64,
    /// How the database kept its log.
    pub log: &'static str,
    /// What a sequence number counted.
    pub scope: &'static str,
    /// The network's delay, each way.
    pub delay_ms: f64,
    /// How long before the kill a link was cut.
    pub cut_before_ms: Option<f64>,
    /// How long the primary was back before it was killed for good.
    pub back_for_ms: Option<f64>,
    /// Whether the secondary was killed too.
    pub secondary_killed: bool,
    /// Transactions of which the writer was told that they are committed.
    pub committed: u64,
    /// The newest one in the copy.
    pub newest: Option<u64>,
    /// The newest one that had to be there.
    pub promised: Option<u64>,
    /// Those the writer had been told of, after the recovery point.
    pub lost: Option<u64>,
    /// The recovery point's age at the kill.
    pub age_ms: Option<f64>,
    /// The takeover, until the volumes were writable.
    pub takeover_ms: f64,
    /// The whole round.
    pub seconds: f64,
    /// What is wrong; none if nothing is.
    pub fault: Option<String>,
}

/// Carries out a round, with all its files in `directory`.
///
/// # Panics
///
/// If the systems cannot be set up or taken over.
pub fn run(number: u64, plan: &Plan, directory: &Path, age_max: Duration) -> Report {
    let begun = Instant::now();
    let mut systems = Systems::start(directory, &plan.systems);
    let clock = HostClock::start();
    let observer = systems.observe_primary(clock);

    let mount = mounted(directory, "at-primary", plan.log, systems.primary_target());
    let writer = Writer::start(&mount.path(DATABASE), plan.log, plan.seed, clock);
    let mut fault = writer.wait_for(TRANSACTIONS_FIRST).err();
    let cut_before = plan.cut_before.unwrap_or_default();
    std::thread::sleep(plan.works_for - cut_before);
    if plan.cut_before.is_some() {
        systems.relays[plan.cut_link].cut();
        std::thread::sleep(cut_before);
    }
    if writer.has_ended() {
        fault.get_or_insert_with(|| format!("the database ended before the kill: {}", writer.said()));
    }
    systems.primary.assert_running();
    systems.primary.kill();
    let killed_at = clock.now();
    let written = writer.finish();
    drop(mount);
    let seen = observer.finish();

    if let Some(back_for) = plan.returns_for {
        // What was written and not sent is now brought over as one unit. A takeover before its end goes back to what was
        // there before it; after it nothing is lost. Times after the restart are later than all that was written.
        systems.primary.start_again();
        std::thread::sleep(back_for);
        systems.primary.assert_running();
        systems.primary.kill();
    }
    if plan.kills_secondary {
        systems.secondary.kill();
        systems.secondary.start_again();
    }
    let asked = Instant::now();
    let (certificates, copy) = systems.take_over();
    let takeover_ms = asked.elapsed().as_secs_f64() * 1e3;
    // Where there are two recovery points, all that both promise is what is not later than the earlier one.
    let point = certificates.iter().min_by_key(|certificate| certificate.recovery_point_ns).expect("a certificate");
    let mapped = seen.timeline.map(point.recovery_point_ns).expect("the primary was observed");
    let moment = Moment { at: mapped.at, error_ns: mapped.error_ns + point.clock_error_ns, killed_at, age_max };

    let mount = mounted(directory, "at-secondary", plan.log, copy);
    let database = mount.path(DATABASE);
    let verdict = sqlite::read(&database, plan.log)
        .and_then(|found| judge(&found, &written, plan.seed, &moment))
        .and_then(|sound| match sound.newest {
            Some(newest) => sqlite::go_on(&database, plan.log, plan.seed, newest).map(|()| sound),
            None => Ok(sound),
        });
    if fault.is_none() {
        fault = verdict.as_ref().err().cloned();
    }
    let sound = verdict.ok();
    let committed = written.iter().filter(|done| done.committed.is_some()).map(|done| done.n).max();
    Report {
        round: number,
        log: plan.log.mode(),
        scope: plan.systems.scope,
        delay_ms: plan.systems.impairment.delay.as_secs_f64() * 1e3,
        cut_before_ms: plan.cut_before.map(|before| before.as_secs_f64() * 1e3),
        back_for_ms: plan.returns_for.map(|back| back.as_secs_f64() * 1e3),
        secondary_killed: plan.kills_secondary,
        committed: committed.unwrap_or(0),
        newest: sound.and_then(|Sound { newest, .. }| newest),
        promised: sound.and_then(|Sound { promised, .. }| promised),
        lost: sound.map(|Sound { lost, .. }| lost),
        age_ms: sound.map(|Sound { age_ms, .. }| age_ms),
        takeover_ms,
        seconds: begun.elapsed().as_secs_f64(),
        fault,
    }
}

/// Shows a target's two volumes as the database's two files.
fn mounted(directory: &Path, name: &str, log: Log, target: Target) -> Mount {
    let devices = connect(target).unwrap_or_else(|why| panic!("{why}"));
    let names = [DATABASE, log.file()].map(str::to_owned);
    let directory = directory.join(name);
    std::fs::create_dir(&directory).expect("a new directory");
    Mount::new(&directory, names.into_iter().zip(devices).collect())
        .unwrap_or_else(|error| panic!("mounting at {}: {error} (root and /dev/fuse are needed)", directory.display()))
}
