//! What can be typed about groups and pairs.

use std::num::NonZeroU64;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use longrun_rpc::methods::group::{Overflow, Role};
use longrun_rpc::methods::pair::Initial;
use longrun_rpc::types::{Name, TakeoverPoint};

use super::{Remote, Scope};
use crate::cli::values::Bytes;

/// `longrun group`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "\
Examples:
  longrun group list
  longrun group get g0
  longrun group watch g0
  longrun group create g0 --role primary --link west
  longrun group suspend g0
  longrun group resync g0
  longrun group test start g0 --store s0
  longrun group takeover g0 --old-primary fenced")]
pub struct GroupArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: GroupVerb,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub remote: Remote,
}

/// What can be done with consistency groups.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum GroupVerb {
    /// Show all groups
    #[command(after_help = "Examples:\n  longrun group list\n  longrun group list --json")]
    List,
    /// Show one group with its recovery point, its limit time and its streams
    #[command(after_help = "Examples:\n  longrun group get g0\n  longrun group get g0 --json")]
    Get {
        /// Its name
        name: String,
    },
    /// Show how far copying is, again and again, until all its pairs are in PAIR state
    #[command(after_help = "\
Examples:
  longrun group watch g0
  longrun group watch g0 --json                  a line of JSON each time

It ends with status 1 in a state that only an operator can end (PSUS, SSWS), and says which command does.")]
    Watch {
        /// Its name
        name: String,
    },
    /// Make a group: at the secondary first, then at the primary
    #[command(after_help = "\
Examples:
  longrun group create g0 --role secondary --link east --journal j0
  longrun group create g0 --role primary --link west
  longrun group create g0 --role primary --link west --scope pair --throttle-ms-max 50 --buffer 256MiB
  longrun group create g0 --role primary --link west --core 1
  longrun group create g0 --role primary --link west --overflow suspend --copy-mib-per-s 100
  longrun group create g0 --role secondary --link east --journal j0 --overlay o0 --apply-delay-s 600")]
    Create(GroupCreateArgs),
    /// Remove a group that has no pairs
    #[command(after_help = "Examples:\n  longrun group delete g0")]
    Delete {
        /// Its name
        name: String,
    },
    /// Stop copying, for all pairs of the group at one moment; hosts run on
    #[command(after_help = "\
Examples:
  longrun group suspend g0

At the primary. What hosts write meanwhile is marked, durably; longrun group resync copies it.")]
    Suspend {
        /// Its name
        name: String,
    },
    /// Copy what the secondary lacks, and go on
    #[command(after_help = "\
Examples:
  longrun group resync g0                        what was written while the group was suspended
  longrun group resync g0 --full                 all of all volumes

At the primary. Until all of it is there the secondary keeps its last consistent image. longrun group watch shows how far
it is.")]
    Resync {
        /// Its name
        name: String,
        /// All of all volumes, not only what is marked
        #[arg(long)]
        full: bool,
    },
    /// Put a name on this moment, for a takeover that goes there
    #[command(after_help = "\
Examples:
  longrun group bookmark g0 before-upgrade

At the primary. A takeover can go there for as long as it is inside the secondary's window (--apply-delay-s).")]
    Bookmark {
        /// Its name
        name: String,
        /// The bookmark's name
        bookmark: Name,
    },
    /// Compare the two sides' volumes while hosts go on
    #[command(after_help = "\
Examples:
  longrun group verify g0
  longrun group verify g0 --pair p0 --repair     copies again what differs

At the primary. longrun group get and longrun pair get show how far it is and what it found.")]
    Verify {
        /// Its name
        name: String,
        /// Only this pair
        #[arg(long, value_name = "NAME")]
        pair: Option<String>,
        /// Copy again what differs
        #[arg(long)]
        repair: bool,
    },
    /// Show hosts what a takeover would give, in writable volumes of their own, while the copy goes on
    #[command(after_help = "\
Examples:
  longrun group test start g0 --store s0
  longrun group test stop g0")]
    Test {
        /// What to do
        #[command(subcommand)]
        verb: TestVerb,
    },
    /// Make a secondary's volumes writable at the recovery point, and print what was lost
    #[command(
        group = ArgGroup::new("consent").required(true),
        after_help = "\
Examples:
  longrun group takeover g0 --old-primary fenced no host can write to the old primary any more
  longrun group takeover g0 --accept-split       hosts may still write there: two histories, one will be given up
  longrun group takeover g0 --old-primary fenced --at before-upgrade
  longrun group takeover g0 --old-primary fenced --at '2026-11-22 02:42:04.5 UTC'
  longrun group takeover g0 --old-primary fenced --json > certificate.json

It needs neither the old primary nor the network. The volumes come up under new identities: hosts connect to them anew."
    )]
    Takeover {
        /// Its name
        name: String,
        /// Your word that no host writes to the old primary any more, and none will
        #[arg(long, value_enum, group = "consent")]
        old_primary: Option<OldPrimaryFlag>,
        /// Go on even though hosts may still write to the old primary
        #[arg(long, group = "consent")]
        accept_split: bool,
        /// To which moment within the group's window: a time in UTC, nanoseconds on its timeline, or a bookmark; default
        /// the newest
        #[arg(long, value_name = "TIME|BOOKMARK", value_parser = crate::cli::values::takeover_point)]
        at: Option<TakeoverPoint>,
    },
    /// Bring a group back after a takeover: first at the old primary, then at the new one
    #[command(after_help = "\
Examples:
  longrun group failback g0 --discard-generation 1 --journal j0 -s old.sock
  longrun group failback g0 -s new.sock
  longrun group watch g0 -s new.sock

At the old primary, which is fenced, name the generation that ends there (longrun group get shows it): it becomes the
secondary, and writes that only it has are given up. At the new primary give neither: what differs is copied, hosts go on.
In split brain both sites' generations can have one number: then name the id too, of the one that is given up.")]
    Failback {
        /// Its name
        name: String,
        /// At the old primary: the generation whose writes are given up there
        #[arg(long, value_name = "NUMBER")]
        discard_generation: Option<u64>,
        /// In split brain: the id of that generation
        #[arg(long, value_name = "HEX", requires = "discard_generation")]
        discard_id: Option<String>,
        /// At the old primary: the bdev for its journal; default the one from group create
        #[arg(long, value_name = "BDEV", requires = "discard_generation")]
        journal: Option<String>,
    },
    /// Exchange the two sites with nothing lost; hosts follow by their other path
    #[command(after_help = "\
Examples:
  longrun group swap g0
  longrun group swap g0 --journal j0
  longrun group swap g0 --abandon --discard-generation 2

At the primary, with the group in PAIR state. Hosts wait while the last writes travel; if the secondary refuses, they are
served here as before. If it is lost for good after it was told to be the primary, --abandon serves them here: that system
must be off, or cut from its hosts, and what they wrote there since is given up.")]
    Swap {
        /// Its name
        name: String,
        /// The bdev for this side's journal; default the one from group create
        #[arg(long, value_name = "BDEV", conflicts_with = "abandon")]
        journal: Option<String>,
        /// Go on without a secondary that does not come back
        #[arg(long, requires = "discard_generation")]
        abandon: bool,
        /// With --abandon: the generation that the other site may have begun, one above this side's
        #[arg(long, value_name = "NUMBER", requires = "abandon")]
        discard_generation: Option<u64>,
    },
}

/// What can be done with a group's test.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum TestVerb {
    /// Begin a test: each volume shows up as VOLUME@test
    #[command(after_help = "\
Examples:
  longrun group test start g0 --store s0
  longrun group test start g0 --store s0 --at before-upgrade
  longrun volume publish disk0@test --nqn nqn.2026-11.io.longrun:test --listen 10.0.0.2:4420 --allow-any-host

At the secondary. The store is a volume of its own; it takes what the hosts of the test write, and what the copy overwrites
meanwhile. When it is full the test fails, and nothing else. A takeover ends a test too.")]
    Start {
        /// The group
        name: String,
        /// The volume for what changes meanwhile; what it holds is lost
        #[arg(long, value_name = "VOLUME")]
        store: String,
        /// Which moment within the group's window: a time in UTC, nanoseconds on its timeline, or a bookmark; default the
        /// newest
        #[arg(long, value_name = "TIME|BOOKMARK", value_parser = crate::cli::values::takeover_point)]
        at: Option<TakeoverPoint>,
    },
    /// End a test; what its hosts wrote is gone
    #[command(after_help = "\
Examples:
  longrun group test stop g0

Namespaces of its volumes have to be removed first (longrun rpc nvmf_subsystem_remove_ns).")]
    Stop {
        /// The group
        name: String,
    },
}

/// The operator's word about the old primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OldPrimaryFlag {
    /// No host can write to it
    Fenced,
}

/// `longrun group create`.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct GroupCreateArgs {
    /// Its name, the same at both systems
    pub name: Name,
    /// This system's side
    #[arg(long, value_enum)]
    pub role: RoleFlag,
    /// The link to the other system (can be given several times)
    #[arg(long, value_name = "NAME", required = true)]
    pub link: Vec<String>,
    /// The core that it is at home on, from 0 in the order of longrun serve --cores; default its link's
    #[arg(long, value_name = "N")]
    pub core: Option<u16>,
    /// What a sequence number counts (primary only); default group
    #[arg(long, value_enum)]
    pub scope: Option<Scope>,
    /// The volume that holds the journal (secondary only)
    #[arg(long, value_name = "VOLUME")]
    pub journal: Option<String>,
    /// The most a host's write is delayed before the group suspends, milliseconds (primary only)
    #[arg(long, value_name = "MS")]
    pub throttle_ms_max: Option<u64>,
    /// Memory for records in transit (`64MiB`)
    #[arg(long, value_name = "SIZE")]
    pub buffer: Option<Bytes>,
    /// What happens when that memory is full (primary only); default throttle
    #[arg(long, value_enum)]
    pub overflow: Option<OverflowFlag>,
    /// The volume for records that the memory cannot hold (while primary)
    #[arg(long, value_name = "VOLUME")]
    pub spill: Option<String>,
    /// The most that copies and resyncs read, MiB per second (primary only); default as fast as there is room
    #[arg(long, value_name = "N")]
    pub copy_mib_per_s: Option<NonZeroU64>,
    /// The volume for old blocks while a resync is larger than the journal (secondary only)
    #[arg(long, value_name = "VOLUME")]
    pub overlay: Option<String>,
    /// How far the volumes stay behind, seconds, so that a takeover can go back (secondary only); default 0
    #[arg(long, value_name = "SECONDS")]
    pub apply_delay_s: Option<u64>,
}

/// What happens when the memory for records is full, as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OverflowFlag {
    /// Slow hosts in a ramp, then suspend
    Throttle,
    /// Suspend at once
    Suspend,
}

impl From<OverflowFlag> for Overflow {
    fn from(flag: OverflowFlag) -> Self {
        match flag {
            OverflowFlag::Throttle => Self::Throttle,
            OverflowFlag::Suspend => Self::Suspend,
        }
    }
}

/// A system's side, as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleFlag {
    /// Hosts write here
    Primary,
    /// The copy is here
    Secondary,
}

impl From<RoleFlag> for Role {
    fn from(flag: RoleFlag) -> Self {
        match flag {
            RoleFlag::Primary => Self::Primary,
            RoleFlag::Secondary => Self::Secondary,
        }
    }
}

/// `longrun pair`.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = "\
Examples:
  longrun pair list
  longrun pair create g0 p0 --volume m0")]
pub struct PairArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: PairVerb,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened")]
    pub remote: Remote,
}

/// What can be done with pairs.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum PairVerb {
    /// Show all pairs, or those of one group
    #[command(after_help = "\
Examples:
  longrun pair list
  longrun pair list g0 --json
  longrun pair list g0 --watch                   again and again, until all are in PAIR state")]
    List {
        /// Only this group's
        group: Option<String>,
        /// Again and again, until all are in PAIR state
        #[arg(long)]
        watch: bool,
    },
    /// Show one pair
    #[command(after_help = "Examples:\n  longrun pair get g0 p0")]
    Get {
        /// Its group
        group: String,
        /// Its name
        name: String,
    },
    /// Pair a volume: at the secondary first, then at the primary
    #[command(after_help = "\
Examples:
  longrun pair create g0 p0 --volume m0          makes the replica device p0 on m0, for hosts
  longrun pair create g0 p0 --volume m0 --replica r0 --remote-volume q0
  longrun pair create g0 p0 --volume m0 --initial copy
  longrun pair create g0 p0 --volume m0 --initial copy-differences")]
    Create(PairCreateArgs),
    /// Make a pair larger while hosts use it (at the primary, after the volumes of both sites have grown)
    #[command(after_help = "\
Examples:
  longrun volume rescan m0                       at both sites, when the file or device has grown
  longrun pair resize g0 p0                      as large as its volume here
  longrun pair resize g0 p0 --blocks 524288")]
    Resize {
        /// Its group
        group: String,
        /// Its name
        name: String,
        /// Blocks in all; default as many as its volume here has
        #[arg(long, value_name = "N")]
        blocks: Option<NonZeroU64>,
    },
    /// Remove a pair; the volume below keeps its data
    #[command(after_help = "Examples:\n  longrun pair delete g0 p0")]
    Delete {
        /// Its group
        group: String,
        /// Its name
        name: String,
    },
}

/// `longrun pair create`.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct PairCreateArgs {
    /// Its group
    pub group: String,
    /// Its name, the same at both systems
    pub name: Name,
    /// The volume here that holds the data
    #[arg(long, value_name = "NAME")]
    pub volume: String,
    /// The name of the replica device to be made; default the pair's
    #[arg(long, value_name = "NAME")]
    pub replica: Option<Name>,
    /// The link to the system of the other volume, where the group has several
    #[arg(long, value_name = "NAME")]
    pub link: Option<String>,
    /// The volume's name at the other system, to be compared with what is there; default any
    #[arg(long, value_name = "NAME")]
    pub remote_volume: Option<String>,
    /// What the two volumes hold, said alike at both systems; default empty
    #[arg(long, value_enum)]
    pub initial: Option<InitialFlag>,
    /// The same as --initial identical
    #[arg(long, conflicts_with = "initial")]
    pub declared_identical: bool,
}

/// What a pair's two volumes hold at the start, as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitialFlag {
    /// Nothing: both are read and must be empty
    Empty,
    /// The same: nothing is read
    Identical,
    /// The primary volume is copied; what the secondary volume holds is given up
    Copy,
    /// As copy, but only what differs travels
    CopyDifferences,
}

impl From<InitialFlag> for Initial {
    fn from(flag: InitialFlag) -> Self {
        match flag {
            InitialFlag::Empty => Self::Empty,
            InitialFlag::Identical => Self::Identical,
            InitialFlag::Copy => Self::Copy,
            InitialFlag::CopyDifferences => Self::CopyDifferences,
        }
    }
}
