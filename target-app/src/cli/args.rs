//! What can be typed: the commands, their flags, and the examples their `--help` ends with.

mod bench;
mod replication;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use longrun_rpc::DEFAULT_SOCKET;
use longrun_rpc::methods::group::SequenceScope;
use longrun_rpc::methods::link::{Security, Transport};
use longrun_rpc::types::{BlockSize, Fraction, Name, Nqn, PublicKey};

use super::values::{Bytes, Cores, Seconds};
use crate::serve::Io;
use serde::{Deserialize, Serialize};

pub use bench::BenchArgs;
pub use replication::{
    GroupArgs, GroupCreateArgs, GroupVerb, InitialFlag, OldPrimaryFlag, OverflowFlag, PairArgs, PairCreateArgs,
    PairVerb, RoleFlag, TestVerb,
};

/// `longrun`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "longrun",
    version,
    about = "An NVMe-oF storage target whose volumes have a write-ordered copy at another site",
    after_help = "\
Examples:
  longrun demo                                   two systems, a bad network, a kill, a takeover, a verdict
  longrun serve --config /etc/longrun.json       serve volumes
  longrun volume list                            what a running longrun serves
  longrun group get g0                           how far behind the other site is
  longrun group takeover g0 --old-primary fenced make the copy writable"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `longrun` can do. The program itself does all but [`Command::Remote`], which asks a running one.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve volumes to hosts, until SIGTERM
    Serve(ServeArgs),
    /// Show on this machine that a killed primary's copy is exact: the two-minute tour
    Demo(DemoArgs),
    /// Measure a target: throughput, latency, the copy's age, beside what the machine can do
    Bench(BenchArgs),
    /// Make the key pair by which systems know each other
    Keygen(KeygenArgs),
    /// Commands that ask a running `longrun serve`.
    #[command(flatten)]
    Remote(RemoteCommand),
}

/// Commands that ask a running `longrun serve` over its RPC socket.
#[derive(Clone, Debug, Subcommand)]
pub enum RemoteCommand {
    /// Call one RPC method
    Rpc(RpcArgs),
    /// Volumes: block devices that hosts or pairs can use
    Volume(VolumeArgs),
    /// Links: the encrypted datagram path to another system
    Link(LinkArgs),
    /// Consistency groups: pairs whose writes keep one common order
    Group(GroupArgs),
    /// Pairs: a volume here and its counterpart at another system
    Pair(PairArgs),
    /// Where the reactors' time goes, step by step, in a build with the feature `accounting`
    Accounting(AccountingArgs),
    /// Print or write the running configuration, for `longrun serve --config`
    SaveConfig(SaveConfigArgs),
    /// Make the calls of a configuration file at a running longrun
    LoadConfig(LoadConfigArgs),
}

/// `longrun accounting`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "Examples:\n  longrun accounting --seconds 5")]
pub struct AccountingArgs {
    /// Only what the next so many seconds bring; without it all since the start
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub seconds: u64,
    #[command(flatten)]
    pub remote: Remote,
}

/// How a reactor spends the time in which there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Idle {
    /// Sleep in the kernel after a while
    #[default]
    Adaptive,
    /// Poll for ever (for labs: one core each at 100 %)
    Busy,
}

/// How the kernel learns of what reactors ask of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoMode {
    /// One system call for each turn of a reactor
    #[default]
    Enter,
    /// None while there is work: a thread of the kernel's polls for it, on a processor of its own
    Sqpoll,
}

/// `longrun serve`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "\
Examples:
  longrun serve                                  serves what it served before
  longrun serve --config /etc/longrun.json --state-dir /var/lib/longrun
  longrun serve --cores 2,3 --idle busy --memory-mib 4096
  longrun serve --cores 2,3 --io sqpoll --polling-core 4
  longrun save-config /etc/longrun.json          writes what --config reads")]
pub struct ServeArgs {
    /// Configuration to set up at the start (JSON, from `longrun save-config`); without it: what was there when the last
    /// process on this state directory ended, however it did
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Unix socket on which RPC is served, for this user only
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub rpc_socket: PathBuf,
    /// Directory of what must outlast the process: identity, configuration, generations, checkpoints
    #[arg(long, value_name = "DIR", default_value = "/var/lib/longrun")]
    pub state_dir: PathBuf,
    /// Cores to run reactors on, one each (`0,1` or `2-5`)
    #[arg(long, value_name = "LIST", default_value = "0")]
    pub cores: Cores,
    /// What a reactor does when there is nothing to do
    #[arg(long, value_enum, default_value_t = Idle::Adaptive)]
    pub idle: Idle,
    /// How the kernel learns of what reactors ask of it
    #[arg(long, value_enum, default_value_t = IoMode::Enter)]
    pub io: IoMode,
    /// With `--io sqpoll`: the core of the kernel's polling thread, where nothing else should spin; without it wherever the
    /// kernel likes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=8191))]
    pub polling_core: Option<u32>,
    /// With `--io sqpoll`: how long that thread and an adaptive reactor look for work before they sleep, milliseconds
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub polling_idle_ms: u64,
    /// Memory for I/O of each core, MiB: half of it at most for groups' send buffers, a third for what secondaries receive
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..=1 << 24))]
    pub memory_mib: u64,
}

impl ServeArgs {
    /// How the kernel learns of reactors' work.
    pub fn io(&self) -> Io {
        match self.io {
            IoMode::Enter => Io::Enter,
            IoMode::Sqpoll => {
                Io::Sqpoll { processor: self.polling_core, idle: Duration::from_millis(self.polling_idle_ms) }
            }
        }
    }
}

/// `longrun demo`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "\
Examples:
  longrun demo
  longrun demo --seconds 30 --scope pair --json
  longrun demo --loss 0.1 --reorder 0.3 --duplicate 0.05 --delay-ms 20
  longrun demo --cut-link-after 3                must fail: the copy is too old at the kill

The exit status is 0 only if the copy is exactly the primary's history, cut at one point.")]
pub struct DemoArgs {
    /// How long hosts write before the primary is killed, seconds
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// How many volumes the group has
    #[arg(long, value_name = "V", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub volumes: u32,
    /// Share of datagrams that are lost, 0 to 1
    #[arg(long, value_name = "P", default_value = "0.02")]
    pub loss: Fraction,
    /// Share of datagrams that are overtaken by later ones, 0 to 1
    #[arg(long, value_name = "P", default_value = "0.1")]
    pub reorder: Fraction,
    /// Share of datagrams that arrive twice, 0 to 1
    #[arg(long, value_name = "P", default_value = "0.01")]
    pub duplicate: Fraction,
    /// One-way delay between the systems, milliseconds
    #[arg(long, value_name = "D", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub delay_ms: u64,
    /// What a sequence number counts
    #[arg(long, value_enum, default_value_t = Scope::Group)]
    pub scope: Scope,
    /// Seed of everything drawn by chance; without it a fresh one, which is printed
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Print one JSON object as the last line
    #[arg(long)]
    pub json: bool,
    /// How datagrams reach the network; xdp makes networks of its own for the two systems, and needs root
    #[arg(long, value_enum, default_value_t = TransportFlag::Udp)]
    pub transport: TransportFlag,
    /// Cut the link for good after so many seconds: the demo must then fail
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub cut_link_after: Option<u64>,
}

/// What a sequence number counts, as a flag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// The packets of one pair
    Pair,
    /// The packets from one system to another
    System,
    /// The packets from one system to another within one group
    #[default]
    Group,
}

impl From<Scope> for SequenceScope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Pair => Self::Pair,
            Scope::System => Self::System,
            Scope::Group => Self::Group,
        }
    }
}

/// `longrun keygen`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "\
Examples:
  longrun keygen --out /etc/longrun.key          prints the public key, for the other system
  longrun keygen --public-of /etc/longrun.key    prints it again
  longrun keygen                                 writes identity.key here")]
pub struct KeygenArgs {
    /// Write the private key to this new file, for its owner only, and print the public key
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Make nothing: print the public key that belongs to this private key file
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    pub public_of: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which longrun is asked, and how its answer is shown.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct Remote {
    /// Unix socket of the running longrun
    #[arg(long, short = 's', value_name = "PATH", default_value = DEFAULT_SOCKET, global = true)]
    pub rpc_socket: PathBuf,
    /// How long to wait for each answer, seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", global = true)]
    pub timeout: Seconds,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// `longrun rpc`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "\
Examples:
  longrun rpc rpc_get_methods
  longrun rpc bdev_malloc_create '{\"name\": \"m0\", \"num_blocks\": 262144, \"block_size\": 4096}'
  echo '{\"name\": \"m0\"}' | longrun rpc bdev_get_bdevs -
  longrun rpc spdk_kill_instance '{\"sig_name\": \"SIGTERM\"}'")]
pub struct RpcArgs {
    /// The method's name
    pub method: String,
    /// Its parameters, a JSON object; `-` reads them from standard input
    #[arg(value_name = "JSON")]
    pub params: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub remote: Remote,
}

/// `longrun volume`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "\
Examples:
  longrun volume list
  longrun volume create m0 --memory 1GiB
  longrun volume publish m0 --nqn nqn.2026-11.io.longrun:s0 --listen 10.0.0.1:4420 --allow-any-host")]
pub struct VolumeArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: VolumeVerb,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub remote: Remote,
}

/// What can be done with volumes.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum VolumeVerb {
    /// Show all volumes
    #[command(after_help = "Examples:\n  longrun volume list\n  longrun volume list --json")]
    List,
    /// Show one volume
    #[command(after_help = "Examples:\n  longrun volume get m0")]
    Get {
        /// Its name
        name: String,
    },
    /// Show how much was read and written
    #[command(after_help = "Examples:\n  longrun volume stat\n  longrun volume stat m0 --json")]
    Stat {
        /// Only this volume
        name: Option<String>,
    },
    /// Make a volume
    #[command(after_help = "\
Examples:
  longrun volume create m0 --memory 1GiB
  longrun volume create d0 --file /dev/nvme0n1 --block-size 4096
  longrun volume create n0 --null 10TiB          takes every write, keeps none")]
    Create(VolumeCreateArgs),
    /// Look how large a volume's file or device is now; a pair's grow with `longrun pair resize`
    #[command(after_help = "Examples:\n  longrun volume rescan m0")]
    Rescan {
        /// Its name
        name: String,
    },
    /// Remove a volume; a file below it stays
    #[command(after_help = "Examples:\n  longrun volume delete m0")]
    Delete {
        /// Its name
        name: String,
    },
    /// Let hosts connect to a volume: transport, subsystem, listener and namespace in one step
    #[command(after_help = "\
Examples:
  longrun volume publish m0 --nqn nqn.2026-11.io.longrun:s0 --listen 10.0.0.1:4420 --allow-any-host
  longrun volume publish m1 --nqn nqn.2026-11.io.longrun:s0 --host nqn.2014-08.org.nvmexpress:uuid:...

What is already there is used: a second volume goes into the same subsystem.")]
    Publish(VolumePublishArgs),
}

/// `longrun volume create`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(group = ArgGroup::new("medium").required(true))]
pub struct VolumeCreateArgs {
    /// Its name
    pub name: Name,
    /// In memory, of this size (`512MiB`, `1GiB`)
    #[arg(long, value_name = "SIZE", group = "medium")]
    pub memory: Option<Bytes>,
    /// On this file or block device, of its size
    #[arg(long, value_name = "PATH", group = "medium")]
    pub file: Option<PathBuf>,
    /// Nowhere, of this size: writes are forgotten, reads are zeroes
    #[arg(long, value_name = "SIZE", group = "medium")]
    pub null: Option<Bytes>,
    /// Bytes per block, 512 or 4096; default 4096, for a file what it has
    #[arg(long, value_name = "BYTES", value_parser = super::values::block_size)]
    pub block_size: Option<BlockSize>,
}

/// `longrun volume publish`.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct VolumePublishArgs {
    /// The volume
    pub name: String,
    /// The subsystem in which hosts find it
    #[arg(long, value_name = "NQN")]
    pub nqn: Nqn,
    /// Where it listens, `address:port`; without it only where the subsystem listens already
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Any host may connect
    #[arg(long, conflicts_with = "host")]
    pub allow_any_host: bool,
    /// This host may connect (can be given several times)
    #[arg(long, value_name = "NQN")]
    pub host: Vec<Nqn>,
}

/// `longrun link`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "\
Examples:
  longrun link list
  longrun link create west --local 10.0.0.1:4700 --remote 10.0.0.2:4700 --remote-public-key BASE64")]
pub struct LinkArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: LinkVerb,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub remote: Remote,
}

/// What can be done with links.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum LinkVerb {
    /// Show all links
    #[command(after_help = "Examples:\n  longrun link list\n  longrun link list --json")]
    List,
    /// Show one link
    #[command(after_help = "Examples:\n  longrun link get west")]
    Get {
        /// Its name
        name: String,
    },
    /// Make a link
    #[command(after_help = "\
Examples:
  longrun link create west --local 10.0.0.1:4700 --remote 10.0.0.2:4700 --remote-public-key BASE64
  longrun link create lab --local 127.0.0.1:4701 --remote 127.0.0.1:4702 --security none
  longrun link create wan --local 10.0.0.1:4700 --remote 198.51.100.7:4700 --remote-public-key BASE64 \\
      --mtu-bytes 1200 --loss-tolerance 0.02 --rate-limit 100MiB
  longrun link create fast --local 10.0.0.1:4700 --remote 10.0.0.2:4700 --remote-public-key BASE64 \\
      --transport xdp --interface eth1 --queue 2 --mtu-bytes 8952
  longrun link create wide --local 10.0.0.1:4700 --remote 10.0.0.2:4700 --remote-public-key BASE64 --cores 0,1")]
    Create(Box<LinkCreateArgs>),
    /// Remove a link that no group uses
    #[command(after_help = "Examples:\n  longrun link delete west")]
    Delete {
        /// Its name
        name: String,
    },
}

/// `longrun link create`.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct LinkCreateArgs {
    /// Its name
    pub name: Name,
    /// This system's end, `address:port` (UDP)
    #[arg(long, value_name = "ADDR")]
    pub local: SocketAddr,
    /// The other system's end, `address:port`
    #[arg(long, value_name = "ADDR")]
    pub remote: SocketAddr,
    /// The other system's public key, as `longrun keygen` printed it there. Without it (with `--security none` only) the other
    /// system is whoever is at `--remote`
    #[arg(long, value_name = "KEY")]
    pub remote_public_key: Option<PublicKey>,
    /// This system's private key file; default the key in its state directory
    #[arg(long, value_name = "FILE")]
    pub private_key_file: Option<PathBuf>,
    /// How frames are protected; `none` is for closed labs only: keys are then compared, and prove nothing
    #[arg(long, value_enum, default_value_t = SecurityFlag::Noise)]
    pub security: SecurityFlag,
    /// Largest UDP payload, bytes; default 1400
    #[arg(long, value_name = "BYTES")]
    pub mtu_bytes: Option<u16>,
    /// Share of lost packets that is not taken for congestion, 0 to 1
    #[arg(long, value_name = "P")]
    pub loss_tolerance: Option<Fraction>,
    /// Never send more per second than this (`100MiB`)
    #[arg(long, value_name = "SIZE")]
    pub rate_limit: Option<Bytes>,
    /// The system's cores that frame, seal and send, as many as at the other system: each takes the next port (and queue) from
    /// those given. Default one, round the cores
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cores: Vec<u16>,
    /// How datagrams reach the network
    #[arg(long, value_enum)]
    pub transport: Option<TransportFlag>,
    /// Network interface of raw frames
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// The interface's queue; default 0
    #[arg(long, value_name = "N")]
    pub queue: Option<u32>,
    /// Have the kernel look for raw frames by itself, instead of being told
    #[arg(long)]
    pub no_need_wakeup: bool,
    /// Poll the network driver for so long in each call, microseconds
    #[arg(long, value_name = "US")]
    pub busy_poll_us: Option<u32>,
}

/// How datagrams reach the network, as a flag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TransportFlag {
    /// The kernel's UDP
    #[default]
    Udp,
    /// Raw frames past the kernel's network stack, and UDP where they cannot be had
    Xdp,
}

impl From<TransportFlag> for Transport {
    fn from(flag: TransportFlag) -> Self {
        match flag {
            TransportFlag::Udp => Self::Udp,
            TransportFlag::Xdp => Self::Xdp,
        }
    }
}

/// How frames are protected, as a flag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SecurityFlag {
    /// Authenticated and encrypted
    #[default]
    Noise,
    /// Neither
    None,
}

impl From<SecurityFlag> for Security {
    fn from(flag: SecurityFlag) -> Self {
        match flag {
            SecurityFlag::Noise => Self::Noise,
            SecurityFlag::None => Self::None,
        }
    }
}

/// `longrun save-config`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "\
Examples:
  longrun save-config > longrun.json
  longrun save-config /etc/longrun.json          replaced as a whole or not at all")]
pub struct SaveConfigArgs {
    /// Where to; without it to standard output
    pub file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub remote: Remote,
}

/// `longrun load-config`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "\
Examples:
  longrun load-config longrun.json
  longrun save-config | longrun load-config - --rpc-socket /run/other.sock")]
pub struct LoadConfigArgs {
    /// Where from; `-` for standard input
    pub file: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub remote: Remote,
}
