//! The flags of `longrun bench`.

use super::{IoMode, Scope, TransportFlag};
use crate::bench::{LabShape, Pattern, Workload};
use crate::cli::values::Cores;
use clap::Args;
use longrun_rpc::methods::link::LinkCreate;
use longrun_rpc::types::{Fraction, Nqn};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `longrun bench`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "\
Examples:
  longrun bench                                  4 KiB random writes against a longrun of its own, in memory
  longrun bench --replication --html report.html the same with a copy at a second one, and plots
  longrun bench --replication --loss 0.01 --delay-ms 5 --rate 20000
  longrun bench --replication --system-cores 2   the group on one core, its link on another, at each system
  longrun bench --replication --system-cores 2 --link-strands 2 --volumes 2 --scope pair   the link on both
  longrun bench --replication --transport xdp    the copy by raw frames, beside bare ones
  longrun bench --read-percent 70 --block-bytes 8192 --depth 128 --jobs 2
  longrun bench --target 192.0.2.7:4420 --nqn nqn.2026-11.io.longrun:s0 --namespaces 1
  longrun bench --depth 1 --rounds 5             medians of five, each beside its floor
  longrun bench --idle-connections 1000          what others cost that are connected and do nothing
  longrun bench --file lab.toml --json           several workloads, for programs

A file has a [[workload]] for each measurement and one [lab] or [target]; its keys are the flags' names:
  [lab]
  replication = true
  [[workload]]
  read_percent = 70
  depth = 1

With --target the namespaces' content is OVERWRITTEN, unless --read-percent is 100.
The exit status is 0 if every command succeeded.")]
pub struct BenchArgs {
    /// Workloads, and what they run against (TOML); the flags of one workload and of the lab are then left out
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Address of a target that is there already, ours or another; without it: a longrun of its own, which ends with it
    #[arg(long, value_name = "ADDR:PORT", requires = "nqn")]
    pub target: Option<SocketAddr>,
    /// The subsystem to use there
    #[arg(long, value_name = "NQN", requires = "target")]
    pub nqn: Option<Nqn>,
    /// Its namespaces; without it all that are ready
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "target")]
    pub namespaces: Vec<u32>,
    /// The target's process on this machine, whose CPU time is counted
    #[arg(long, value_name = "PID", requires = "target")]
    pub pid: Option<u32>,
    /// RPC socket of the secondary whose recovery point is watched
    #[arg(long, value_name = "PATH", requires = "target", requires = "rpo_group")]
    pub rpo_socket: Option<PathBuf>,
    /// The group whose recovery point is watched there
    #[arg(long, value_name = "GROUP", requires = "rpo_socket")]
    pub rpo_group: Option<String>,

    /// Share of reads, percent
    #[arg(long, value_name = "P", default_value_t = 0, conflicts_with = "file")]
    pub read_percent: u8,
    /// In which order blocks are visited
    #[arg(long, value_enum, default_value_t = Pattern::Random, conflicts_with = "file")]
    pub pattern: Pattern,
    /// Bytes of each command
    #[arg(long, value_name = "N", default_value_t = 4096, conflicts_with = "file")]
    pub block_bytes: u32,
    /// Commands that each job keeps in flight
    #[arg(long, value_name = "N", default_value_t = 32, conflicts_with = "file")]
    pub depth: u16,
    /// Queue pairs, a polling thread each
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "file")]
    pub jobs: u16,
    /// How long is measured, seconds
    #[arg(long, value_name = "S", default_value_t = 10.0, conflicts_with = "file")]
    pub seconds: f64,
    /// How long is run before that, seconds
    #[arg(long, value_name = "S", default_value_t = 1.0, conflicts_with = "file")]
    pub warmup_seconds: f64,
    /// Commands per second, of all jobs together, at fixed times from which latency counts; without it as fast as it goes
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub rate: Option<u64>,
    /// Commands that each job begins together: at a rate when they are due, else when so many can be; to compare what a
    /// copy costs
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "file")]
    pub burst: u16,
    /// Measure so often, the floor beside it each time, and tell the medians
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "file")]
    pub rounds: u16,
    /// Have so many connections of other hosts do nothing, and compare with how it is without them
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "file")]
    pub idle_connections: u16,
    /// First watch the systems at rest for so long, hosts connected: what of a core do they use?
    #[arg(long, value_name = "S", default_value_t = 0.0, conflicts_with = "file")]
    pub rest_seconds: f64,

    /// Pair the volumes with those of a second longrun
    #[arg(long, conflicts_with_all = ["file", "target"])]
    pub replication: bool,
    /// What a sequence number counts
    #[arg(long, value_enum, default_value_t = Scope::Group, conflicts_with_all = ["file", "target"])]
    pub scope: Scope,
    /// What the two send by; raw frames go over virtual cables between networks of their own, for which it takes root
    #[arg(long, value_enum, default_value_t = TransportFlag::Udp, conflicts_with_all = ["file", "target"])]
    pub transport: TransportFlag,
    /// Without encryption and authentication between the two
    #[arg(long, conflicts_with_all = ["file", "target"])]
    pub plain_link: bool,
    /// Bytes of the longest datagram between the two; virtual cables carry 1472
    #[arg(long, value_name = "N", default_value_t = LinkCreate::MTU_BYTES_DEFAULT, conflicts_with_all = ["file", "target"])]
    pub mtu_bytes: u16,
    /// Share of datagrams that are lost between the two, 0 to 1
    #[arg(long, value_name = "P", default_value = "0", conflicts_with_all = ["file", "target"])]
    pub loss: Fraction,
    /// One-way delay between the two, milliseconds
    #[arg(long, value_name = "D", default_value_t = 0, conflicts_with_all = ["file", "target"])]
    pub delay_ms: u64,
    /// Volumes, each a namespace
    #[arg(long, value_name = "V", default_value_t = 1, conflicts_with_all = ["file", "target"])]
    pub volumes: u16,
    /// Size of each volume, MiB
    #[arg(long, value_name = "N", default_value_t = 64, conflicts_with_all = ["file", "target"])]
    pub volume_mib: u64,
    /// Volumes and journal on files, with direct I/O, instead of in memory
    #[arg(long, conflicts_with_all = ["file", "target"])]
    pub files: bool,
    /// The longruns' reactors poll for ever
    #[arg(long, conflicts_with_all = ["file", "target"])]
    pub busy: bool,
    /// How the kernel learns of what the longruns' reactors ask of it
    #[arg(long, value_enum, default_value_t = IoMode::Enter, conflicts_with_all = ["file", "target"])]
    pub io: IoMode,
    /// Cores of each longrun, 1 or 2; of two, the link is on the first and the group on the second
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with_all = ["file", "target"])]
    pub system_cores: u16,
    /// Of how many strands the link is, 1 to 4, each with a session of its own; they are dealt over the cores
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with_all = ["file", "target"])]
    pub link_strands: u16,

    /// Processors of the jobs (`1` or `2-3`); without it the last one for a longrun of its own, else any
    #[arg(long, value_name = "LIST")]
    pub cores: Option<Cores>,
    /// Leave out what the machine can do at all
    #[arg(long)]
    pub no_floor: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write a page with plots, which needs nothing from elsewhere
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl BenchArgs {
    /// The workload that the flags describe.
    pub fn workload(&self) -> Workload {
        Workload {
            name: String::new(),
            read_percent: self.read_percent,
            pattern: self.pattern,
            block_bytes: self.block_bytes,
            depth: self.depth,
            jobs: self.jobs,
            seconds: self.seconds,
            warmup_seconds: self.warmup_seconds,
            rate: self.rate,
            burst: self.burst,
            rounds: self.rounds,
            idle_connections: self.idle_connections,
        }
    }

    /// The lab that the flags describe.
    pub fn lab(&self) -> LabShape {
        LabShape {
            volumes: self.volumes,
            volume_mib: self.volume_mib,
            files: self.files,
            replication: self.replication,
            scope: self.scope.into(),
            transport: self.transport.into(),
            plain_link: self.plain_link,
            mtu_bytes: self.mtu_bytes,
            loss: self.loss.get(),
            delay_ms: self.delay_ms,
            busy: self.busy,
            io: self.io,
            system_cores: self.system_cores,
            link_strands: self.link_strands,
        }
    }
}
