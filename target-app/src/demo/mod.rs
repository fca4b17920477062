//! The demo: kill a primary in mid-write, take over, and prove from the host's own log that nothing is out of order.
//!
//! Two `serve` processes of this program get directories of their own. A [relay](crate::lab::relay) between them loses, delays, reorders and
//! duplicates their datagrams. A built-in [`host`] works on the first system's volumes over NVMe/TCP ([`workload`]) and
//! logs every issue and every answer on one clock. The first process is then killed without warning, the second takes
//! over, and every block is read back from it over NVMe/TCP. The verdict is `longrun-checker`'s, which knows nothing but
//! that log, those blocks, and the recovery point that the takeover's certificate states.
//!
//! The certificate's time is on the group's timeline. While the primary lives, [`observer`] asks for the timeline between two
//! readings of the host's clock; [`clock::TimelineMap`] makes of that where the recovery point is on the host's clock and how
//! far it may be off, which together with the engine's own bound is the checker's clock error.

pub mod clock;
pub mod connection;
pub mod host;
pub mod observer;
pub mod report;
pub mod status;
pub mod workload;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use longrun_checker::{Contents, Cut, Extent, History, Image, Volume, judge};
use longrun_nvmf::Nqn;
use longrun_rpc::Client;
use longrun_rpc::methods::group::{LossCertificate, SequenceScope};
use longrun_rpc::methods::link::{LinkCreate, RawInfo, RawMode, Transport};
use serde_json::json;

use crate::cli::args::DemoArgs;
use crate::cli::output;
use crate::lab::cable::{self, Cable};
use crate::lab::children::Children;
use crate::lab::relay::{Impairment, Relay};
use crate::lab::system::{LINK, LinkQuality, System};

use clock::HostClock;
use host::{Host, HostOptions, Namespace};
use observer::Observer;
use report::{Figures, Report};
use status::{Line, Status};
use workload::{Outcome, Progress, WorkloadOptions};

/// The demo's group, at both systems.
pub(crate) const GROUP: &str = "demo";
const PRIMARY_NQN: &str = "nqn.2026-11.io.longrun:demo-primary";
const SECONDARY_NQN: &str = "nqn.2026-11.io.longrun:demo-secondary";
const HOST_NQN: &str = "nqn.2026-11.io.longrun:demo-host";

/// Commands in flight, and the I/O queue pairs that they are spread over.
const QUEUE_DEPTH: u16 = 32;
const IO_QUEUES: u16 = 4;
/// Payload that the host reads and writes. An unpaced host would only measure this machine's loopback.
const BYTES_PER_SECOND: u64 = 16 << 20;
const VOLUME_BYTES: u64 = 32 << 20;
const JOURNAL_BYTES: u64 = 512 << 20;
/// The group suspends when a host write would be delayed for longer.
const THROTTLE_MS_MAX: u64 = 2_000;
/// Bytes that one command reads back.
const READ_BACK_BYTES: usize = 128 << 10;
/// Without `--cut-link-after` nothing may keep the recovery point from being younger than this plus some round trips.
const AGE_BOUND_MS: u64 = 1_000;
const AGE_BOUND_DELAYS: u64 = 20;

/// What a demo does: [`DemoArgs`] with everything decided.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long the host works before the primary is killed.
    pub works_for: Duration,
    /// Volumes in the group.
    pub volumes: u16,
    /// The network.
    pub impairment: Impairment,
    /// What the systems send by.
    pub transport: Transport,
    /// What a sequence number counts.
    pub scope: SequenceScope,
    /// When the link is cut for good.
    pub cut_link_after: Option<Duration>,
    /// Only one line of JSON.
    pub json: bool,
    /// What all choices are drawn from.
    pub seed: u64,
}

impl From<&DemoArgs> for Options {
    fn from(args: &DemoArgs) -> Self {
        let seed = args.seed.unwrap_or_else(fresh_seed);
        Options {
            works_for: Duration::from_secs(args.seconds),
            volumes: u16::try_from(args.volumes).unwrap_or(u16::MAX),
            impairment: Impairment {
                loss: args.loss.get(),
                reorder: args.reorder.get(),
                duplicate: args.duplicate.get(),
                delay: Duration::from_millis(args.delay_ms),
                seed,
            },
            transport: args.transport.into(),
            scope: args.scope.into(),
            cut_link_after: args.cut_link_after.map(Duration::from_secs),
            json: args.json,
            seed,
        }
    }
}

/// A seed that is another one each time: what the standard library keys its hash maps with. Short enough to be typed.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0) >> 40
}

impl Options {
    /// The bound of rule (d), milliseconds.
    fn age_bound_ms(&self) -> u64 {
        AGE_BOUND_MS + AGE_BOUND_DELAYS * self.impairment.delay.as_millis() as u64
    }

    /// When the primary is killed. A cut is given the time to show: the bound of rule (d) and a second.
    fn kill_after(&self) -> Duration {
        let shows = Duration::from_millis(self.age_bound_ms() + 1_000);
        self.works_for.max(self.cut_link_after.map_or(Duration::ZERO, |cut| cut + shows))
    }

    /// Losses up to twice of what the network is told to lose are not taken for congestion; at least what a link tolerates
    /// by itself.
    fn loss_tolerance(&self) -> f64 {
        (self.impairment.loss * 2.0).clamp(0.1, 0.5)
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Runs the demo. The exit status is 0 if the order is closed, 1 if not, 2 if the demo itself could not be carried out.
pub fn run(args: &DemoArgs) -> ExitCode {
    let options = &Options::from(args);
    if options.transport == Transport::Xdp
        && let Err(error) = cable::enter_own_network()
    {
        output::say(format_args!("longrun demo: {error}"));
        return ExitCode::from(2);
    }
    let status = Status::new(options.json);
    match demonstrate(options, &status) {
        Ok(report) => {
            status.clear();
            let text = match options.json {
                true => serde_json::to_string(&report).map(|line| line + "\n").map_err(io::Error::from),
                false => Ok(report.text()),
            };
            if let Err(error) = text.and_then(|text| output::print(&text)) {
                output::say(format_args!("longrun demo: cannot print the report: {error}"));
            }
            if report.order_closed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            status.clear();
            output::say(format_args!("longrun demo: {error}"));
            ExitCode::from(2)
        }
    }
}

fn demonstrate(options: &Options, status: &Status) -> Result<Report, Error> {
    let directory = tempfile::Builder::new().prefix("longrun-demo-").tempdir()?;
    let children = Children::of(directory.path().to_owned())?;
    status.say("starting two systems with a bad network between them");
    let start = |name: &'static str, number: u8| -> Result<System, Error> {
        let directory = directory.path().join(name);
        std::fs::create_dir(&directory)?;
        let cable = (options.transport == Transport::Xdp).then(|| Cable::new(number));
        Ok(System::start(name, &directory, processors(name), &[], &children, cable)?)
    };
    let mut primary = start("primary", 1)?;
    let mut secondary = start("secondary", 2)?;
    let relay = Relay::start(primary.link(), secondary.link(), options.impairment)?;
    let exported = pair_up(options, &primary, &secondary, &relay)?;
    let transports = [transport_of(options, &primary)?, transport_of(options, &secondary)?];

    let clock = HostClock::start();
    let contents = Contents::new(options.seed ^ clock.now().0.rotate_left(32));
    let primary_seen = Observer::start("observe-primary", primary.client()?, clock)?;
    let secondary_seen = Observer::start("observe-secondary", secondary.client()?, clock)?;
    let progress = Arc::new(Progress::default());
    let worker = Worker { options: options.clone(), to: exported, contents, clock, progress: Arc::clone(&progress) };
    let worker = std::thread::Builder::new().name("demo-host".to_owned()).spawn(move || worker.work())?;

    status.say(&format!(
        "writing to {} volumes for {:.0} s: scope {}, {} lost, {} reordered, {} duplicated, {} ms delay, seed {}",
        options.volumes,
        options.kill_after().as_secs_f64(),
        scope_word(options.scope),
        percent(options.impairment.loss),
        percent(options.impairment.reorder),
        percent(options.impairment.duplicate),
        options.impairment.delay.as_millis(),
        options.seed
    ));
    let begun = Instant::now();
    let mut cut = options.cut_link_after;
    while begun.elapsed() < options.kill_after() {
        if cut.take_if(|cut| begun.elapsed() >= *cut).is_some() {
            relay.cut();
            status.say("the link is cut for good");
        }
        if worker.is_finished() {
            break;
        }
        status.show(&line(&progress, &primary_seen, &secondary_seen, &relay, clock));
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some(exit) = primary.ended() {
        return Err(primary.unexpected(format!("ended by itself with {exit}")).into());
    }
    let working = !worker.is_finished();
    primary.kill()?;
    let killed_at = clock.now();
    let relay_counts = relay.counts();
    status.clear();
    let outcome = worker.join().map_err(|_| "the host's thread panicked")??;
    if !working {
        return Err(primary.unexpected("the host's connections ended before the kill").into());
    }
    let primary_seen = primary_seen.finish();
    let secondary_seen = secondary_seen.finish();
    status.say("the primary is killed; the secondary takes over");

    let mut client = secondary.client()?;
    let raw = secondary.link_info(&mut client)?.raw;
    let asked = Instant::now();
    let params = json!({"name": GROUP, "old_primary": "fenced"});
    let certificate = secondary.call(&mut client, "group_takeover", params)?;
    let takeover_ms = asked.elapsed().as_secs_f64() * 1e3;
    let certificate: LossCertificate = serde_json::from_value(certificate)?;
    let volumes: Vec<String> = (0..options.volumes).map(volume_name).collect();
    let taken: Vec<&str> = certificate.volumes.iter().map(|volume| volume.name.as_str()).collect();
    if let Some(missing) = volumes.iter().find(|name| !taken.contains(&name.as_str())) {
        return Err(secondary.unexpected(format!("the certificate names {taken:?} but not {missing}")).into());
    }
    let to = secondary.export(&mut client, SECONDARY_NQN, &volumes)?;
    status.say("reading every block back");
    let (shape, image) = read_back(options, to, contents, clock)?;
    if let Some(exit) = secondary.ended() {
        return Err(secondary.unexpected(format!("ended by itself with {exit}")).into());
    }

    let mapped = primary_seen.timeline.map(certificate.recovery_point_ns);
    let mapped = mapped.ok_or_else(|| secondary.unexpected("the primary's timeline was never seen"))?;
    let clock_error_ns = mapped.error_ns + certificate.clock_error_ns;
    let suspended = primary_seen.suspended.or(secondary_seen.suspended);
    let cut = Cut {
        recovery_point: mapped.at,
        clock_error_ns,
        killed_at,
        age_bound_ns: options.age_bound_ms() * 1_000_000,
        suspended: suspended.is_some(),
    };
    let verdict = judge(&History::merge(&shape, [outcome.log]), &image, &cut);
    let [at_primary, at_secondary] = transports;
    let transport = if at_primary == at_secondary { at_primary } else { format!("{at_primary}; {at_secondary}") };
    let figures = Figures {
        transport,
        raw_frames_received: raw.map(|raw| raw.frames_received),
        write_us: outcome.write_us,
        host_errors: outcome.errors,
        first_error: outcome.first_error,
        rpo_ms: secondary_seen.rpo_ms,
        frames_sent: primary_seen.link.frames_sent,
        frames_retransmitted: primary_seen.link.frames_retransmitted,
        relay: relay_counts,
        takeover_ms,
        clock_error_ns,
        age_bound_ms: options.age_bound_ms(),
        suspended,
    };
    Ok(Report::new(options, &verdict, figures))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn scope_word(scope: SequenceScope) -> &'static str {
    match scope {
        SequenceScope::Pair => "pair",
        SequenceScope::System => "system",
        SequenceScope::Group => "group",
    }
}

/// The processors of a system: the two get different ones where there are two, and two each where there are enough.
fn processors(system: &str) -> &'static str {
    let there = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match (there, system) {
        (1, _) => "0",
        (2 | 3, "primary") => "0",
        (2 | 3, _) => "1",
        (_, "primary") => "0,1",
        (_, _) => "2,3",
    }
}

fn volume_name(volume: u16) -> String {
    format!("volume{volume}")
}

/// Every third volume has blocks of 512 bytes.
fn volume_shape(volume: u16) -> (u64, u64) {
    let block_bytes = if volume % 3 == 2 { 512 } else { 4096 };
    (block_bytes, VOLUME_BYTES / block_bytes)
}

/// Makes the link, the group and the pairs at both ends, and exports the primary's volumes. The two ends are set up at the
/// same time, because a pair is established only when both have been told.
fn pair_up(options: &Options, primary: &System, secondary: &System, relay: &Relay) -> Result<SocketAddr, Error> {
    let set_up = |system: &System, at: &'static str| -> Result<Client, Error> {
        let mut client = system.client()?;
        let is_primary = at == "primary";
        let (remote, key) =
            if is_primary { (relay.facing_a(), secondary.key()) } else { (relay.facing_b(), primary.key()) };
        let quality = LinkQuality {
            mtu_bytes: LinkCreate::MTU_BYTES_DEFAULT,
            loss_tolerance: options.loss_tolerance(),
            cores: None,
        };
        system.create_link(&mut client, remote, Some(key), quality)?;
        let mut group = json!({"name": GROUP, "role": at, "link": LINK});
        if is_primary {
            group["sequence_scope"] = json!(options.scope);
            group["throttle_ms_max"] = THROTTLE_MS_MAX.into();
        } else {
            let journal = system.file("journal", JOURNAL_BYTES)?;
            let bdev = json!({"name": "journal", "filename": journal, "block_size": 4096});
            system.call(&mut client, "bdev_uring_create", bdev)?;
            group["journal"] = "journal".into();
        }
        system.call(&mut client, "group_create", group)?;
        for volume in 0..options.volumes {
            let (block_bytes, blocks) = volume_shape(volume);
            let medium = format!("medium{volume}");
            let bdev = json!({"name": medium, "num_blocks": blocks, "block_size": block_bytes});
            system.call(&mut client, "bdev_malloc_create", bdev)?;
            let pair = json!({"group": GROUP, "name": volume_name(volume), "volume": medium});
            system.call(&mut client, "pair_create", pair)?;
        }
        Ok(client)
    };
    let (at_primary, at_secondary) = std::thread::scope(|scope| {
        let other = scope.spawn(|| set_up(secondary, "secondary"));
        (set_up(primary, "primary"), other.join())
    });
    let mut at_primary = at_primary?;
    let mut at_secondary = at_secondary.map_err(|_| "a thread of the demo panicked")??;
    for (system, client) in [(primary, &mut at_primary), (secondary, &mut at_secondary)] {
        system.wait_until_paired(client, GROUP, usize::from(options.volumes))?;
    }
    let volumes: Vec<String> = (0..options.volumes).map(volume_name).collect();
    Ok(primary.export(&mut at_primary, PRIMARY_NQN, &volumes)?)
}

/// What a system's link goes by.
fn transport_of(options: &Options, system: &System) -> Result<String, Error> {
    let link = system.wait_for_transport(&mut system.client()?, options.transport)?;
    Ok(match &link.raw {
        Some(RawInfo { mode: RawMode::ZeroCopy, .. }) => "xdp, no copy".to_owned(),
        Some(RawInfo { mode: RawMode::Copy, .. }) => "xdp, copied once, in the driver".to_owned(),
        Some(RawInfo { mode: RawMode::Generic, .. }) => "xdp, copied once, behind the driver".to_owned(),
        None => "udp".to_owned(),
    })
}

fn line(progress: &Progress, primary: &Observer, secondary: &Observer, relay: &Relay, clock: HostClock) -> Line {
    let (rpo_ms, limit_ns) = {
        let seen = secondary.seen();
        (seen.rpo_ms.last().copied(), seen.group.as_ref().and_then(|group| group.limit_time_ns))
    };
    let primary = primary.seen();
    Line {
        writes: progress.acknowledged.load(Ordering::Relaxed),
        rpo_ms,
        limit_age_ms: observer::age_ms(&primary.timeline, limit_ns, clock.now()),
        retransmitted: primary.link.frames_retransmitted,
        dropped: relay.counts().dropped,
    }
}

/// The host's thread.
struct Worker {
    options: Options,
    to: SocketAddr,
    contents: Contents,
    clock: HostClock,
    progress: Arc<Progress>,
}

impl Worker {
    /// Works until the connections end.
    fn work(self) -> Result<Outcome, Error> {
        let Worker { options, to, contents, clock, progress } = self;
        on_this_thread(async move {
            let host = connect(&options, to, PRIMARY_NQN, clock).await?;
            let workload = WorkloadOptions {
                slots: usize::from(QUEUE_DEPTH),
                bytes_per_second: BYTES_PER_SECOND,
                seed: options.seed,
            };
            let (queues, namespaces) = (host.io_queues(), host.namespaces().to_vec());
            Ok(workload::run(queues, namespaces, contents, clock, workload, progress, std::future::pending()).await)
        })
    }
}

/// Runs `work` on a runtime of one thread, which the host's connections live on.
fn on_this_thread<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

async fn connect(options: &Options, to: SocketAddr, subsystem: &str, clock: HostClock) -> Result<Host, Error> {
    let host = HostOptions {
        to,
        subsystem: subsystem.parse::<Nqn>()?,
        host: HOST_NQN.parse::<Nqn>()?,
        io_queues: IO_QUEUES,
        depth: QUEUE_DEPTH.div_ceil(IO_QUEUES),
        namespaces: options.volumes.into(),
    };
    Ok(Host::connect(&host, clock).await?)
}

/// Reads every block of every volume of the secondary.
fn read_back(
    options: &Options,
    to: SocketAddr,
    contents: Contents,
    clock: HostClock,
) -> Result<(Vec<Volume>, Image), Error> {
    on_this_thread(async {
        let host = connect(options, to, SECONDARY_NQN, clock).await?;
        let namespaces = host.namespaces();
        let shape: Vec<Volume> =
            namespaces.iter().map(|n| Volume { block_bytes: n.block_bytes, blocks: n.blocks }).collect();
        let mut image = Image::unread(&shape);
        let mut reads = tokio::task::JoinSet::new();
        let in_flight_max = usize::from(QUEUE_DEPTH);
        for (volume, namespace) in (0u16..).zip(namespaces) {
            let Namespace { nsid, block_bytes, blocks } = *namespace;
            let step = (READ_BACK_BYTES / block_bytes.get()) as u64;
            let mut lba = 0;
            while lba < blocks {
                let extent = Extent::new(volume, lba, step.min(blocks - lba) as u32);
                lba += step;
                let turn = (lba / step) as usize % host.io_queues().len().max(1);
                let queue = host.io_queues().get(turn).ok_or("the target granted no I/O queue")?.clone();
                if reads.len() >= in_flight_max
                    && let Some(read) = reads.join_next().await
                {
                    note(read??, &mut image);
                }
                reads.spawn_local(async move {
                    let command = host::read(nsid, extent.lba, extent.blocks, block_bytes);
                    let answer = queue.execute(command).await?;
                    let status = answer.completion.status;
                    if !status.is_success() {
                        return Err(Error::from(format!("reading {extent:?} back was answered with {status}")));
                    }
                    let says = workload::identify(&contents, &answer.completion.data, extent, block_bytes.get());
                    Ok((extent, says))
                });
            }
        }
        while let Some(read) = reads.join_next().await {
            note(read??, &mut image);
        }
        Ok((shape, image))
    })
}

fn note((extent, says): (Extent, Vec<longrun_checker::BlockSays>), image: &mut Image) {
    for (lba, says) in (extent.lba..).zip(says) {
        image.set(extent.volume, lba, says);
    }
}
