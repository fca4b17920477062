//! `longrun bench`: the lab's measuring tool.
//!
//! ```text
//!   workloads (flags, TOML) ──> jobs: a queue pair on a polling thread each ──> histograms ─┐
//!   a target: one that is there, or a lab of its own (one system, or two and a network)     ├─> table, JSON, page
//!   beside: the recovery point's age, CPU time; after each: bare TCP of the same sizes ─────┘
//! ```
//!
//! A latency counts from the moment the command was issued, or on a fixed rate from the moment it was due: *a target that
//! stalls for a second makes one command late, and ten thousand were never issued; the mean says that nothing was wrong.*

mod crowd;
mod floor;
mod frames;
mod job;
mod lab;
mod page;
mod report;
mod steps;
mod watch;
mod workload;

use crate::cli::args::{BenchArgs, IoMode};
use crate::cli::output;
use crate::lab::cable;
use crowd::Crowd;
use floor::Sizes;
use frames::LinkFrames;
use indicatif::{ProgressBar, ProgressStyle};
use job::{Job, Namespace, Seen, Times};
use lab::Lab;
use longrun_nvmf::Nqn;
use longrun_nvmf::host::{Controller, ControllerDescription, ControllerEvent, QueueOptions};
use longrun_rpc::methods::link::Transport;
use report::{Cpu, Machine, Measured, Report, Rest, Rpo};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use steps::{Counted, Floors};
use watch::RpoWatch;
pub use workload::{Lab as LabShape, Pattern, Plan, Remote, Watched, Workload, host_nqn};

/// How long a target may take to answer before it is taken for dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Runs the bench. The exit status is 0 if everything was measured, 1 if commands failed, 2 if it could not be carried out.
pub fn run(args: &BenchArgs) -> ExitCode {
    let planned = plan_of(args).and_then(|plan| match (&plan.target, plan.lab.transport) {
        // Begins anew there: nothing may have been done yet.
        (None, Transport::Xdp) => cable::enter_own_network().map(|()| plan).map_err(|error| error.to_string()),
        _ => Ok(plan),
    });
    match planned.and_then(|plan| measure(&plan, args)) {
        Ok(report) => match publish(&report, args) {
            Ok(()) if report.results.iter().all(|result| result.errors == 0) => ExitCode::SUCCESS,
            Ok(()) => ExitCode::FAILURE,
            Err(error) => refuse(&error),
        },
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &str) -> ExitCode {
    output::say(format_args!("longrun bench: {error}"));
    ExitCode::from(2)
}

fn plan_of(args: &BenchArgs) -> Result<Plan, String> {
    let mut plan = match &args.file {
        Some(path) => Plan::from_file(path)?,
        None => Plan {
            target: None,
            lab: args.lab(),
            processors: Vec::new(),
            rest_seconds: args.rest_seconds,
            workloads: vec![args.workload()],
        },
    };
    if let Some(address) = args.target {
        let nqn = args.nqn.clone().ok_or("--target needs --nqn, the subsystem to use there")?;
        let rpo = args.rpo_socket.clone().zip(args.rpo_group.clone());
        plan.target = Some(Remote {
            address,
            nqn,
            host_nqn: host_nqn(),
            namespaces: args.namespaces.clone(),
            pid: args.pid,
            rpo: rpo.map(|(rpc_socket, group)| Watched { rpc_socket, group }),
        });
    }
    if let Some(cores) = &args.cores {
        plan.processors = cores.list().to_vec();
    }
    plan.check()?;
    Ok(plan)
}

fn publish(report: &Report, args: &BenchArgs) -> Result<(), String> {
    if let Some(path) = &args.html {
        std::fs::write(path, page::page(report))
            .map_err(|error| format!("{}: {error}; give a file that can be written with --html", path.display()))?;
    }
    let mut text = match args.json {
        true => serde_json::to_string(report).map_err(|error| error.to_string())?,
        false => report::table(report),
    };
    text.push('\n');
    output::print(&text).map_err(|error| format!("cannot print the report: {error}"))?;
    Ok(())
}

/// What all measurements of a run use.
struct Ground {
    address: SocketAddr,
    nqn: Nqn,
    host_nqn: Nqn,
    namespaces: Vec<u32>,
    pid: Option<u32>,
    secondary_pid: Option<u32>,
    rpo: Option<Watched>,
    processors: Vec<usize>,
    lab: Option<Lab>,
}

impl Ground {
    fn prepare(plan: &Plan) -> Result<Ground, String> {
        let there = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if let Some(missing) = plan.processors.iter().find(|processor| **processor >= there) {
            return Err(format!("processor {missing} is not there; this process may use 0 to {}", there - 1));
        }
        if let Some(remote) = &plan.target {
            return Ok(Ground {
                address: remote.address,
                nqn: nqn(&remote.nqn)?,
                host_nqn: nqn(&remote.host_nqn)?,
                namespaces: remote.namespaces.clone(),
                pid: remote.pid,
                secondary_pid: None,
                rpo: remote.rpo.clone(),
                processors: plan.processors.clone(),
                lab: None,
            });
        }
        let lab = Lab::start(&plan.lab).map_err(|error| error.to_string())?;
        let jobs_at = if plan.processors.is_empty() { vec![there - 1] } else { plan.processors.clone() };
        Ok(Ground {
            address: lab.address(),
            nqn: lab.nqn(),
            host_nqn: nqn(&host_nqn())?,
            namespaces: Vec::new(),
            pid: Some(lab.primary_pid()),
            secondary_pid: lab.secondary_pid(),
            rpo: lab.watched(),
            processors: jobs_at,
            lab: Some(lab),
        })
    }

    /// What a host says of itself in the queues that it asks for.
    fn host(&self) -> QueueOptions {
        QueueOptions::admin(self.host_nqn.clone(), *b"longrunbenchhost", self.nqn.clone())
    }

    /// CPU time of the target and of its secondary.
    fn used(&self) -> [Option<Duration>; 2] {
        [self.pid, self.secondary_pid].map(|pid| pid.and_then(watch::cpu_time))
    }

    /// Whether the job's processor is that of the lab's secondary too, as on two processors it has to be. Two that poll there
    /// would wait for each other's time slices, milliseconds each, and the age of the copy would be the scheduler's.
    fn is_shared(&self, job: u16) -> bool {
        let secondary = self.secondary_pid.and_then(|_| processors("secondary", 1).parse().ok());
        secondary.is_some() && self.processor(job) == secondary
    }

    fn processor(&self, job: u16) -> Option<usize> {
        let count = self.processors.len();
        (count > 0).then(|| self.processors[usize::from(job) % count])
    }
}

/// A name as the host's machines know it.
fn nqn(name: &longrun_rpc::types::Nqn) -> Result<Nqn, String> {
    name.to_string().parse().map_err(|error| format!("{name}: {error}"))
}

/// The processors of a lab's system, as `--cores` takes them: the jobs have the last one for themselves where there are
/// enough.
fn processors(system: &str, cores: u16) -> &'static str {
    let there = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match (there, cores, system) {
        (1, 1, _) => "0",
        // Reactors of one system need a processor each; it says so.
        (1, _, _) => "0,1",
        (_, 1, "primary") => "0",
        (_, 1, _) => "1",
        (_, _, "primary") => "0,1",
        // Where there are too few, one system's group shares with the other's link.
        (2 | 3, _, _) => "1,0",
        (_, _, _) => "2,3",
    }
}

/// Where the thread polls that the kernel gives a lab's system: not where its reactor is. `None`: there is only one.
fn polling_processor(system: &str) -> Option<&'static str> {
    let there = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match (there, system) {
        (1, _) => None,
        (2 | 3, "primary") => Some("1"),
        (2 | 3, _) => Some("0"),
        (_, "primary") => Some("2"),
        (_, _) => Some("3"),
    }
}

fn measure(plan: &Plan, args: &BenchArgs) -> Result<Report, String> {
    let bar = progress(args.json);
    bar.set_message("preparing");
    let ground = Ground::prepare(plan)?;
    let near = ground.processor(0);
    let far = ground.lab.is_some().then_some(0);
    let machine_floor = match args.no_floor {
        true => None,
        false => Some(floor::machine(near, far).map_err(|error| format!("the floor: {error}"))?),
    };
    let rest = match plan.rest_seconds {
        0.0 => None,
        seconds => {
            bar.set_message("at rest");
            Some(rest(&ground, seconds)?)
        }
    };
    let mut results = Vec::new();
    for workload in &plan.workloads {
        let title = workload.title();
        let rounds = (1..=workload.rounds).map(|number| {
            let of =
                if workload.rounds > 1 { format!(", round {number} of {}", workload.rounds) } else { String::new() };
            bar.set_message(format!("{title}{of}"));
            let alone = match workload.idle_connections {
                0 => None,
                _ => Some(one(&ground, workload, &bar)?.1.commands() as f64),
            };
            let crowd = Crowd::connect(ground.address, &ground.host(), workload.idle_connections)?;
            let (parts, seen) = one(&ground, workload, &bar)?;
            drop(crowd);
            bar.set_message(format!("{title}{of}: the floor"));
            let (sizes, depth, data) = (Sizes::of(workload), workload.depth, workload.block_bytes);
            let bare = (!args.no_floor)
                .then(|| floor::tcp(sizes, usize::from(depth), data as usize, near, far))
                .transpose()
                .map_err(|error| format!("the floor: {error}"))?;
            let exchange_ns = bare.as_ref().map(|bare| 1e9 / bare.together_per_s);
            let mut round = Measured::new(workload, &seen, parts.cpu, parts.rpo, bare);
            if let Some([before, after]) = &parts.counted {
                round.cores = steps::cores(before, after, seen.commands());
                let floors = Floors::measure(&plan.lab, workload.block_bytes);
                round.steps = steps::costs(before, after, seen.commands(), &floors, exchange_ns);
            }
            if let Some(mut link) = parts.link {
                if !args.no_floor {
                    let bare = frames::floor(link.transport, usize::from(link.bytes), near, far);
                    link.floor_per_s = Some(bare.map_err(|error| format!("the floor of frames: {error}"))?);
                }
                round.set_link(link);
            }
            round.ratios.of_alone = alone.map(|alone| (seen.commands() as f64 / alone * 1e3).round() / 1e3);
            Ok(round)
        });
        let rounds: Vec<Measured> =
            rounds.collect::<Result<_, String>>().map_err(|error| format!("{title}: {error}"))?;
        let mut result = Measured::middle(rounds);
        if plan.target.is_none() && plan.lab.transport == Transport::Xdp {
            result
                .notes
                .push("hosts reach it over a virtual cable; the floor of TCP is this machine's loopback".to_owned());
        }
        result.notes.extend(ground.lab.as_ref().and_then(Lab::trouble));
        if ground.lab.is_none() && result.floor.is_some() && !ground.address.ip().is_loopback() {
            result.notes.push("the floor is this machine's loopback, the target is elsewhere".to_owned());
        }
        results.push(result);
    }
    bar.finish_and_clear();
    Ok(Report { target: describe(plan, &ground), machine: Machine::here(), machine_floor, rest, results })
}

fn progress(is_quiet: bool) -> ProgressBar {
    if is_quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}").expect("a template that is right");
    bar.set_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn describe(plan: &Plan, ground: &Ground) -> String {
    if plan.target.is_some() {
        return format!("{} at {}", ground.nqn, ground.address);
    }
    let lab = &plan.lab;
    let medium = if lab.files { "files" } else { "memory" };
    let copy = match lab.replication {
        false => "without a copy".to_owned(),
        true => format!(
            "copied to a second system by {} of {} bytes, {} ms away, {} % lost{}",
            if lab.transport == Transport::Xdp { "raw frames" } else { "datagrams" },
            lab.mtu_bytes,
            lab.delay_ms,
            lab.loss * 100.0,
            if lab.plain_link { ", not encrypted" } else { "" }
        ),
    };
    let cores = match (lab.system_cores, lab.link_strands) {
        (1, 1) => "",
        (1, _) => ", a link of several strands",
        (_, 1) => ", group and link on a core each",
        (_, _) => ", the group on one core, its link on both",
    };
    let io = if lab.io == IoMode::Sqpoll { ", polled by the kernel (sqpoll)" } else { "" };
    let volumes = if lab.volumes == 1 { "volume" } else { "volumes" };
    let (version, count, mib) = (env!("CARGO_PKG_VERSION"), lab.volumes, lab.volume_mib);
    format!("longrun {version}: {count} {volumes} of {mib} MiB in {medium}, {copy}{cores}{io}")
}

/// Connections of hosts while the systems are watched at rest.
const CONNECTED_AT_REST: u16 = 8;
/// How long after the last thing to do a system has come to rest.
const RESTS_AFTER: Duration = Duration::from_secs(1);

/// What the systems use with nothing to do.
fn rest(ground: &Ground, seconds: f64) -> Result<Rest, String> {
    let crowd = Crowd::connect(ground.address, &ground.host(), CONNECTED_AT_REST)?;
    std::thread::sleep(RESTS_AFTER);
    let (began, before) = (Instant::now(), ground.used());
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (after, took) = (ground.used(), began.elapsed());
    let connections = crowd.len();
    let percent = |which: usize| -> Option<f64> {
        let used = after[which]?.checked_sub(before[which]?)?;
        Some((used.as_secs_f64() / took.as_secs_f64() * 1e4).round() / 1e2)
    };
    Ok(Rest { seconds, connections, target_percent: percent(0), secondary_percent: percent(1) })
}

/// What is known of a measurement beside what its jobs saw.
struct Beside {
    cpu: Cpu,
    rpo: Option<Rpo>,
    /// The frames that the primary sent meanwhile.
    link: Option<LinkFrames>,
    /// What the lab's systems counted before and after.
    counted: Option<[Vec<Counted>; 2]>,
}

fn one(ground: &Ground, workload: &Workload, bar: &ProgressBar) -> Result<(Beside, Seen), String> {
    let host = ground.host();
    let (admin, found) = bring_up(ground.address, &host, workload.jobs)?;
    if found.io_queues < workload.jobs {
        return Err(format!(
            "{} jobs, and the target grants {} I/O queues; ask for fewer",
            workload.jobs, found.io_queues
        ));
    }
    if found.entries_max <= workload.depth {
        return Err(format!("depth {} and queues of {} entries; ask for less", workload.depth, found.entries_max));
    }
    if found.transfer_bytes_max > 0 && u64::from(workload.block_bytes) > found.transfer_bytes_max {
        let (given, most) = (workload.block_bytes, found.transfer_bytes_max);
        return Err(format!("blocks of {given} bytes, and the target takes {most} at most in a command"));
    }
    let namespaces = choose(&found, &ground.namespaces, workload)?;
    let jobs: Vec<Job> = (0..workload.jobs)
        .map(|number| {
            let queue = host.io(number + 1, workload.depth + 1, found.cntlid, found.in_capsule_bytes);
            Job::connect(ground.address, queue, workload, number, &namespaces, ground.is_shared(number))
        })
        .collect::<Result<_, _>>()?;
    let watch = ground.rpo.as_ref().map(|rpo| RpoWatch::start(&rpo.rpc_socket, &rpo.group)).transpose()?;

    let begin = Instant::now() + Duration::from_millis(20);
    let from = begin + Duration::from_secs_f64(workload.warmup_seconds);
    let times = Times { begin, from, until: from + Duration::from_secs_f64(workload.seconds) };
    let sent = || ground.lab.as_ref().and_then(Lab::link_frames);
    let counted = || ground.lab.as_ref().and_then(Lab::counted);
    let (seen, cpu, link, counted) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(jobs)
            .map(|(number, job)| {
                let processor = ground.processor(number);
                scope.spawn(move || {
                    floor::pin(processor);
                    job.run(times)
                })
            })
            .collect();
        sleep_until(times.from);
        let counted_before = counted();
        let (before, sent_before, since) = (ground.used(), sent(), Instant::now());
        sleep_until(times.until);
        let (after, sent_after, took) = (ground.used(), sent(), since.elapsed());
        let counted = counted_before.zip(counted()).map(|(before, after)| [before, after]);
        bar.set_message("waiting for what is in flight");
        let mut all = Seen::new();
        for thread in threads {
            all.add(&thread.join().unwrap_or_else(|_| Err("a job panicked".to_owned()))?);
        }
        let used = [0, 1].map(|which| after[which]?.checked_sub(before[which]?));
        let link = sent_before.zip(sent_after).map(|(before, after)| {
            let per_s = ((after.per_s - before.per_s) / took.as_secs_f64()).round();
            LinkFrames { per_s, ..after }
        });
        Ok::<_, String>((all, used, link, counted))
    })?;
    drop(admin);
    let commands = seen.commands().max(1) as f64;
    let each = |used: Option<Duration>| used.map(|used| (used.as_secs_f64() * 1e8 / commands).round() / 100.0);
    let rpo = watch.and_then(|watch| {
        let measured = watch.finish().into_iter().filter(|age| age.at >= times.from && age.at < times.until);
        Rpo::of(measured.map(|age| ((age.at - times.from).as_secs_f64(), age.ms)).collect())
    });
    let busy = |which: usize| {
        let [before, after] = counted.as_ref()?;
        Some(after.get(which)?.busy_since(before.get(which)?))
    };
    let cpu = Cpu {
        target_us: each(cpu[0]),
        secondary_us: each(cpu[1]),
        target_busy_us: each(busy(0)),
        secondary_busy_us: each(busy(1)),
    };
    Ok((Beside { cpu, rpo, link, counted }, seen))
}

fn sleep_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// The namespaces to work on, of those that are there.
fn choose(found: &ControllerDescription, wanted: &[u32], workload: &Workload) -> Result<Vec<Namespace>, String> {
    let ready: Vec<u32> = found.namespaces.iter().filter(|there| there.ready).map(|there| there.nsid).collect();
    if let Some(missing) = wanted.iter().find(|nsid| !ready.contains(nsid)) {
        return Err(format!("namespace {missing} is not there or not ready; the controller has {ready:?}"));
    }
    let is_wanted = |nsid: u32| if wanted.is_empty() { ready.contains(&nsid) } else { wanted.contains(&nsid) };
    let chosen = found.namespaces.iter().filter(|there| is_wanted(there.nsid)).map(|there| {
        let namespace = Namespace { nsid: there.nsid, block_bytes: there.block_bytes, blocks: there.blocks };
        let (given, unit) = (workload.block_bytes, there.block_bytes);
        if unit == 0 || !given.is_multiple_of(unit) {
            return Err(format!("commands of {given} bytes, and namespace {} has blocks of {unit}", there.nsid));
        }
        if job::places(&namespace, given) < u64::from(workload.jobs) {
            return Err(format!("namespace {} is smaller than one command for each job", there.nsid));
        }
        Ok(namespace)
    });
    let chosen: Vec<Namespace> = chosen.collect::<Result<_, String>>()?;
    if chosen.is_empty() {
        return Err("the subsystem has no namespace that is ready".to_owned());
    }
    Ok(chosen)
}

/// Connects the admin queue and enables the controller. The controller lives as long as the connection.
fn bring_up(
    to: SocketAddr,
    options: &QueueOptions,
    io_queues: u16,
) -> Result<(TcpStream, ControllerDescription), String> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("{to}: no answer within {} s", ANSWER_WITHIN.as_secs()),
        _ => format!("{to}: {error}; is an NVMe/TCP target listening there?"),
    };
    let mut stream = TcpStream::connect_timeout(&to, ANSWER_WITHIN).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
    let mut controller = Controller::new(options.clone(), io_queues);
    let mut input = vec![0; 64 << 10];
    loop {
        stream.write_all(&controller.take_output()).map_err(failed)?;
        match controller.poll() {
            Some(ControllerEvent::Ready(description)) => return Ok((stream, description)),
            Some(ControllerEvent::Failed(error)) => return Err(format!("{to}: {error}")),
            Some(_) => continue,
            None => {}
        }
        match stream.read(&mut input).map_err(failed)? {
            0 => return Err(format!("{to}: the target ended the connection")),
            bytes => controller.receive(&input[..bytes]),
        }
    }
}
