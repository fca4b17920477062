//! What a bench does: its workloads and what they run against, from flags or a TOML file.

use crate::cli::args::IoMode;
use crate::lab::system::STRANDS_MAX;
use longrun_rpc::methods::group::SequenceScope;
use longrun_rpc::methods::link::{LinkCreate, Transport};
use longrun_rpc::types::Nqn;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The order in which blocks are visited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Anywhere, each time anew.
    #[default]
    Random,
    /// One after the other; each job in a stretch of its own.
    Sequential,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// What reports call it; empty: made of the rest.
    pub name: String,
    /// Share of reads, percent; the others are writes.
    pub read_percent: u8,
    /// In which order.
    pub pattern: Pattern,
    /// Bytes of each command, a multiple of the namespace's block size.
    pub block_bytes: u32,
    /// Commands that each job keeps in flight.
    pub depth: u16,
    /// Queue pairs, a thread each.
    pub jobs: u16,
    /// How long is measured, seconds.
    pub seconds: f64,
    /// How long is run before that, seconds.
    pub warmup_seconds: f64,
    /// Commands per second of all jobs together, at evenly spaced times that were fixed before. Latency counts from these
    /// times, so that what a stall held back counts as late. None: each job issues a command when one ends.
    pub rate: Option<u64>,
    /// Commands that a job begins together: at a rate when they are due, else when so many can be. What a copy costs is
    /// comparable if hosts bring as much at once without it: one that shares its processor with the secondary batches more.
    pub burst: u16,
    /// How often it is measured, its floor beside it each time; the medians are told.
    pub rounds: u16,
    /// Connections of other hosts that do nothing meanwhile. Each round is then measured without them first, to compare.
    pub idle_connections: u16,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload {
            name: String::new(),
            read_percent: 0,
            pattern: Pattern::Random,
            block_bytes: 4096,
            depth: 32,
            jobs: 1,
            seconds: 10.0,
            warmup_seconds: 1.0,
            rate: None,
            burst: 1,
            rounds: 1,
            idle_connections: 0,
        }
    }
}

/// The largest command; what targets commonly take in one.
const BLOCK_BYTES_MAX: u32 = 1 << 20;
const DEPTH_MAX: u16 = 1023;
const JOBS_MAX: u16 = 64;
const ROUNDS_MAX: u16 = 99;
/// As many namespaces as a subsystem has.
const VOLUMES_MAX: u16 = 1024;
/// What one reactor of a target of ours serves, less some for the jobs.
const IDLE_CONNECTIONS_MAX: u16 = 1000;

impl Workload {
    /// Its name, or a description.
    pub fn title(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let what = match self.read_percent {
            0 => "writes".to_owned(),
            100 => "reads".to_owned(),
            share => format!("{share} % reads"),
        };
        let order = match self.pattern {
            Pattern::Random => "random",
            Pattern::Sequential => "sequential",
        };
        let size = match self.block_bytes {
            bytes if bytes.is_multiple_of(1024) => format!("{} KiB", bytes / 1024),
            bytes => format!("{bytes} B"),
        };
        let jobs = if self.jobs > 1 { format!(", {} jobs", self.jobs) } else { String::new() };
        let rate = self.rate.map_or_else(String::new, |rate| format!(", {rate}/s"));
        let burst = if self.burst > 1 { format!(", {} at a time", self.burst) } else { String::new() };
        let idle = match self.idle_connections {
            0 => String::new(),
            count => format!(", {count} idle connections"),
        };
        format!("{size} {order} {what}, depth {}{jobs}{rate}{burst}{idle}", self.depth)
    }

    fn check(&self) -> Result<(), String> {
        let of = |what: &str, given: &dyn std::fmt::Display, expected: &str| {
            Err(format!("{}: {what} is {given}, expected {expected}", self.title()))
        };
        if self.read_percent > 100 {
            return of("read_percent", &self.read_percent, "0 to 100");
        }
        if self.block_bytes == 0 || !self.block_bytes.is_multiple_of(512) || self.block_bytes > BLOCK_BYTES_MAX {
            return of("block_bytes", &self.block_bytes, "a multiple of 512 up to 1048576");
        }
        if self.depth == 0 || self.depth > DEPTH_MAX {
            return of("depth", &self.depth, "1 to 1023");
        }
        if self.jobs == 0 || self.jobs > JOBS_MAX {
            return of("jobs", &self.jobs, "1 to 1024");
        }
        if !(self.seconds > 0.0 && self.seconds <= 86_400.0) {
            return of("seconds", &self.seconds, "more than 0, up to 86400");
        }
        if !(self.warmup_seconds >= 0.0 && self.warmup_seconds <= 3_600.0) {
            return of("warmup_seconds", &self.warmup_seconds, "0 to 3600");
        }
        if self.rounds == 0 || self.rounds > ROUNDS_MAX {
            return of("rounds", &self.rounds, "1 to 99");
        }
        if self.idle_connections > IDLE_CONNECTIONS_MAX {
            return of("idle_connections", &self.idle_connections, "0 to 1000");
        }
        if self.rate == Some(0) {
            return of("rate", &0, "1 or more commands per second, or none");
        }
        if self.burst == 0 || self.burst > self.depth {
            return of("burst", &self.burst, "1 to the depth");
        }
        Ok(())
    }
}

/// What virtual cables carry: Ethernet's 1500 less the headers of IPv4 and UDP.
const MTU_BYTES_OF_CABLES: u16 = 1472;

/// Two systems of this program's own, on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lab {
    /// Volumes, each a namespace.
    pub volumes: u16,
    /// Size of each, MiB.
    pub volume_mib: u64,
    /// On a file (direct I/O) each, instead of in memory.
    pub files: bool,
    /// Whether the volumes are paired with those of a second system.
    pub replication: bool,
    /// What a sequence number counts.
    pub scope: SequenceScope,
    /// What the two send by; raw frames go over virtual cables between networks of their own.
    pub transport: Transport,
    /// Without encryption and authentication between the two.
    pub plain_link: bool,
    /// Bytes of the longest datagram between the two, UDP payload.
    pub mtu_bytes: u16,
    /// Share of datagrams that the network between them loses, 0 to 1.
    pub loss: f64,
    /// One-way delay of that network, milliseconds.
    pub delay_ms: u64,
    /// The reactors poll for ever.
    pub busy: bool,
    /// How the kernel learns of what the reactors ask of it.
    pub io: IoMode,
    /// Cores of each system, 1 or 2; of two, the link is on the first and the group on the second.
    pub system_cores: u16,
    /// Of how many strands the link is; they are dealt over the cores.
    pub link_strands: u16,
}

impl Default for Lab {
    fn default() -> Lab {
        Lab {
            volumes: 1,
            volume_mib: 64,
            files: false,
            replication: false,
            scope: SequenceScope::Group,
            transport: Transport::Udp,
            plain_link: false,
            mtu_bytes: LinkCreate::MTU_BYTES_DEFAULT,
            loss: 0.0,
            delay_ms: 0,
            busy: false,
            io: IoMode::Enter,
            system_cores: 1,
            link_strands: 1,
        }
    }
}

impl Lab {
    fn check(&self) -> Result<(), String> {
        if !(1..=VOLUMES_MAX).contains(&self.volumes) {
            return Err(format!("lab: volumes is {}, expected 1 to {VOLUMES_MAX}", self.volumes));
        }
        if !(1..=1 << 20).contains(&self.volume_mib) {
            return Err(format!("lab: volume_mib is {}, expected 1 to 1048576", self.volume_mib));
        }
        if self.transport == Transport::Xdp && !self.replication {
            return Err(
                "lab: transport is xdp without replication; there is no link then that could go by it".to_owned()
            );
        }
        let most = if self.transport == Transport::Xdp { MTU_BYTES_OF_CABLES } else { LinkCreate::MTU_BYTES_MAX };
        if !(LinkCreate::MTU_BYTES_MIN..=most).contains(&self.mtu_bytes) {
            let (given, least) = (self.mtu_bytes, LinkCreate::MTU_BYTES_MIN);
            return Err(format!("lab: mtu_bytes is {given}, expected {least} to {most}"));
        }
        if !(0.0..=0.5).contains(&self.loss) {
            return Err(format!("lab: loss is {}, expected 0 to 0.5", self.loss));
        }
        if !(1..=2).contains(&self.system_cores) {
            return Err(format!("lab: system_cores is {}, expected 1 or 2", self.system_cores));
        }
        if self.system_cores > 1 && self.scope == SequenceScope::System {
            return Err(
                "lab: system_cores is 2 with scope system, whose groups are on their link's core; give another scope"
                    .to_owned(),
            );
        }
        if !(1..=STRANDS_MAX).contains(&self.link_strands) {
            return Err(format!("lab: link_strands is {}, expected 1 to {STRANDS_MAX}", self.link_strands));
        }
        if self.link_strands > 1 && self.transport == Transport::Xdp {
            return Err(format!(
                "lab: link_strands is {} with transport xdp, and a lab's cable has one queue; give 1 or transport udp",
                self.link_strands
            ));
        }
        if self.delay_ms > 10_000 {
            return Err(format!("lab: delay_ms is {}, expected 0 to 10000", self.delay_ms));
        }
        Ok(())
    }
}

/// A target that is there already, ours or another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// Its listener.
    pub address: SocketAddr,
    /// The subsystem.
    pub nqn: Nqn,
    /// This host's name.
    #[serde(default = "host_nqn")]
    pub host_nqn: Nqn,
    /// The namespaces to use. **Their content is overwritten.** None: all that are ready.
    #[serde(default)]
    pub namespaces: Vec<u32>,
    /// The process whose CPU time is counted.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The secondary's RPC socket and the group whose recovery point is watched.
    #[serde(default)]
    pub rpo: Option<Watched>,
}

/// A group whose recovery point is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watched {
    /// RPC socket of its secondary system.
    pub rpc_socket: PathBuf,
    /// Its name.
    pub group: String,
}

/// This host, where none is named.
pub fn host_nqn() -> Nqn {
    "nqn.2026-11.io.longrun:bench-host".parse().expect("a name that is known to be good")
}

/// A whole bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What it runs against; none: a lab of its own.
    #[serde(default)]
    pub target: Option<Remote>,
    /// That lab.
    #[serde(default)]
    pub lab: Lab,
    /// The processors of the jobs, in turn; empty: wherever the kernel likes.
    #[serde(default)]
    pub processors: Vec<usize>,
    /// How long the systems are watched at rest, hosts connected, before the measurements, seconds; 0: not at all.
    #[serde(default)]
    pub rest_seconds: f64,
    /// The measurements, one after the other.
    #[serde(default, rename = "workload")]
    pub workloads: Vec<Workload>,
}

impl Plan {
    /// From a TOML file.
    ///
    /// # Errors
    ///
    /// A sentence that names the file, the place in it and what is expected there.
    pub fn from_file(path: &Path) -> Result<Plan, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("workload file {}: {error}; give a file that exists", path.display()))?;
        let plan: Plan = toml::from_str(&text).map_err(|error| format!("workload file {}: {error}", path.display()))?;
        plan.check().map_err(|text| format!("workload file {}: {text}", path.display()))?;
        Ok(plan)
    }

    /// Whether all of it can be carried out, as far as that is known before.
    ///
    /// # Errors
    ///
    /// What was given and what is expected.
    pub fn check(&self) -> Result<(), String> {
        if self.workloads.is_empty() {
            return Err("there is no [[workload]]; give one at least".to_owned());
        }
        if !(0.0..=3_600.0).contains(&self.rest_seconds) {
            return Err(format!("rest_seconds is {}, expected 0 to 3600", self.rest_seconds));
        }
        if self.target.is_some() && self.lab != Lab::default() {
            return Err("[target] and [lab] exclude each other; leave one out".to_owned());
        }
        self.lab.check()?;
        self.workloads.iter().try_for_each(Workload::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan, String> {
        let plan: Plan = toml::from_str(text).map_err(|error| error.to_string())?;
        plan.check().map(|()| plan)
    }

    #[test]
    fn a_file_names_what_differs_from_the_defaults() {
        let plan = plan(
            "[lab]\nreplication = true\nscope = \"pair\"\nvolumes = 3\nio = \"sqpoll\"\n\n[[workload]]\nread_percent = 70\ndepth = 1\n\n\
             [[workload]]\nname = \"stream\"\npattern = \"sequential\"\nblock_bytes = 131072\nrate = 1000\n\n\
             [[workload]]\nburst = 8\n",
        )
        .unwrap();
        assert_eq!((plan.lab.volumes, plan.lab.scope, plan.lab.replication), (3, SequenceScope::Pair, true));
        assert_eq!(plan.lab.io, IoMode::Sqpoll);
        assert_eq!(plan.workloads[0], Workload { read_percent: 70, depth: 1, ..Workload::default() });
        assert_eq!(plan.workloads[0].title(), "4 KiB random 70 % reads, depth 1");
        assert_eq!(plan.workloads[1].title(), "stream");
        assert_eq!(plan.workloads[2].title(), "4 KiB random writes, depth 32, 8 at a time");
    }

    #[test]
    fn what_cannot_be_is_refused_by_a_sentence_that_says_what_can() {
        let one = "[[workload]]\n";
        for (text, word) in [
            ("", "[[workload]]"),
            ("[[workload]]\ndepht = 3\n", "depht"),
            (&format!("{one}block_bytes = 1000\n"), "multiple of 512"),
            (&format!("{one}read_percent = 101\n"), "0 to 100"),
            (&format!("{one}depth = 0\n"), "1 to 1023"),
            (&format!("{one}jobs = 65\n"), "1 to 1024"),
            (&format!("{one}seconds = 0\n"), "86400"),
            (&format!("{one}rate = 0\n"), "rate"),
            (&format!("{one}burst = 33\n"), "1 to the depth"),
            (&format!("{one}burst = 0\n"), "1 to the depth"),
            (&format!("{one}rounds = 0\n"), "1 to 99"),
            (&format!("{one}idle_connections = 1001\n"), "0 to 1000"),
            (&format!("rest_seconds = -1\n{one}"), "0 to 3600"),
            (&format!("[lab]\nloss = 0.9\n{one}"), "0 to 0.5"),
            (&format!("[lab]\nmtu_bytes = 9000\n{one}"), "1200 to 8952"),
            (&format!("[lab]\nreplication = true\ntransport = \"xdp\"\nmtu_bytes = 8000\n{one}"), "1200 to 1472"),
            (&format!("[lab]\nvolumes = 0\n{one}"), "1 to 1024"),
            (&format!("[lab]\ntransport = \"xdp\"\n{one}"), "replication"),
            (
                &format!(
                    "[lab]\nvolumes = 2\n[target]\naddress = \"127.0.0.1:4420\"\nnqn = \"nqn.2026-11.io.x:a\"\n{one}"
                ),
                "exclude",
            ),
        ] {
            let refused = plan(text).unwrap_err();
            assert!(refused.contains(word), "{text}: {refused}");
        }
    }
}
