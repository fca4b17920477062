//! What a world is made of, drawn from its seed.

use crate::chance::Chance;
use crate::coverage::{Hit, State};
use longrun_copy::stream::CHARGE_BYTES_MAX;
use longrun_copy::types::{Initial, Overflow, Scope};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// The least journal, overlay or spill of a world.
pub const LOG_BYTES_MIN: u64 = 64 << 10;

/// How a world ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The faults stop, everything catches up; then a takeover.
    Quiet,
    /// All primaries are killed at some event; then a takeover, with crashes at any of its steps.
    Disaster,
    /// A takeover while the primaries live, behind a broken network; then the network heals.
    Split,
    /// Two sites exchange their parts, again and again.
    Exchange,
}

/// What happens to a running world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing gets through in one direction of a link, or both.
    Partition,
    /// The secondary dies and is started again.
    SecondaryCrash,
    /// A primary dies and is started again.
    PrimaryCrash,
    /// A primary is shut down properly and started again.
    PrimaryRestart,
    /// A core is preempted.
    Stall,
    /// A core's memory is exhausted.
    NoMemory,
    /// A core's lease of the timeline is not renewed.
    LeaseStall,
    /// An operator sets a wall clock, forward or back.
    ClockStep,
    /// A system's disks become slow.
    SlowDisks,
    /// Some requests to the secondary's disks fail.
    BadDisks,
    /// Some requests to a primary's disks fail.
    FailedWrites,
    /// Each request to a disk fails.
    LastingErrors,
    /// A disk is full.
    NoSpace,
    /// Some writes end early.
    ShortWrites,
    /// A disk is gone for a while.
    DeviceGone,
    /// A bit of a journal turns over.
    BitRot,
    /// An operator commands something, legal or not.
    Operators,
}

/// All parameters.
#[derive(Clone, Debug)]
pub struct Plan {
    pub primaries: usize,
    pub groups: usize,
    pub pairs_per_primary: usize,
    pub scope: Scope,
    pub noise: bool,
    pub block_bytes: u32,
    pub volume_blocks: u64,
    pub write_blocks_max: u64,
    pub initial: Initial,
    pub overflow: Overflow,
    pub copy_bytes_per_s: Option<u64>,
    pub clear_after_ns: u64,
    pub mark_ahead_bytes: u64,
    pub resync_pause_ns: u64,
    pub digest_wait_ns: u64,
    pub ops: usize,
    pub clients: usize,
    pub think_ns_max: u64,
    pub hop_ns_max: u64,
    pub error_bound_ns: u64,
    pub turn_ns_max: u64,
    pub stall_probability: f64,
    pub delay_ns: u64,
    pub jitter_ns: u64,
    pub bytes_per_us: u64,
    pub loss: f64,
    pub duplicate: f64,
    pub corrupt: f64,
    pub reorder: f64,
    pub mtu_bytes: usize,
    pub dead_after_ns: u64,
    pub rekey_after_packets: u64,
    pub buffer_bytes: u64,
    pub throttle_ms_max: u32,
    pub receive_bytes: u64,
    pub streams_max: usize,
    pub stream_records: usize,
    pub checkpoint_interval_ns: u64,
    pub journal_bytes: u64,
    pub overlay_bytes: Option<u64>,
    /// A primary's spill, per group.
    pub spill_bytes: Option<u64>,
    pub apply_delay_ns: u64,
    pub pool_bytes: usize,
    pub disk_ns_max: u64,
    pub meta_ns_max: u64,
    pub fault_every_ns: u64,
    pub faults: Vec<Fault>,
    /// Things go wrong already while operators create everything.
    pub faults_at_setup: bool,
    pub ending: Ending,
    /// After how many answered requests the end begins.
    pub end_after: usize,
    pub forks: usize,
    /// Volumes and pairs are made larger.
    pub grows: bool,
    /// Copies are altered, and compared.
    pub verifies: bool,
    /// Groups are tested at their secondary.
    pub views: bool,
    /// Links whose first strand is on another core than the groups that use them, a bit for each: the primaries', then the
    /// secondary's. Of groups of scope `system` none is, whatever this says.
    pub apart: u32,
    /// Of how many strands each link is.
    pub strands: u8,
    /// Every second strand is on the other core than the first.
    pub strands_apart: bool,
    /// The cell of the table that the world is directed at.
    pub aim: Option<(State, Hit)>,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(chance: &mut Chance) -> Plan {
        let c = chance;
        let big = c.hits(0.05);
        let ops = if big { c.range(150, 300) } else { c.range(60, 500) } as usize;
        let block_bytes = if c.hits(0.2) { 4096 } else { 512 };
        let many = 512 * 1024 / u64::from(block_bytes);
        let small = c.hits(0.4);
        let volume_blocks = if big {
            2048
        } else if small {
            c.range(16, 160)
        } else {
            c.range(many / 4, many)
        };
        let write_blocks_max = if big { 900 * 512 / u64::from(block_bytes) } else { c.range(1, 24).min(volume_blocks) };
        let all = [
            (Fault::Partition, 0.7),
            (Fault::SecondaryCrash, 0.5),
            (Fault::PrimaryCrash, 0.2),
            (Fault::PrimaryRestart, 0.1),
            (Fault::Stall, 0.4),
            (Fault::NoMemory, 0.2),
            (Fault::LeaseStall, 0.2),
            (Fault::SlowDisks, 0.25),
            (Fault::BadDisks, 0.15),
            (Fault::FailedWrites, 0.2),
            (Fault::ClockStep, 0.15),
            (Fault::LastingErrors, 0.1),
            (Fault::NoSpace, 0.15),
            (Fault::ShortWrites, 0.15),
            (Fault::DeviceGone, 0.1),
            (Fault::BitRot, 0.08),
            (Fault::Operators, 0.5),
        ];
        let think_ns_max = c.log_range(US, 8 * MS);
        let ending = match c.below(20) {
            0..8 => Ending::Quiet,
            8..15 => Ending::Disaster,
            15..19 => Ending::Split,
            _ => Ending::Exchange,
        };
        let is_exchange = ending == Ending::Exchange;
        // Where histories of two sites meet, clocks agree and journals are sound.
        let fits = |fault: &Fault| !is_exchange || !matches!(fault, Fault::ClockStep | Fault::BitRot);
        let faults = all.into_iter().filter(|(fault, likely)| c.hits(*likely) && fits(fault));
        let faults = faults.map(|(fault, _)| fault).collect();
        let primaries = if !is_exchange && c.hits(0.5) { 2 } else { 1 };
        let scope = c.pick(&[Scope::Group, Scope::Pair, Scope::System]);
        let groups = if c.hits(0.25) && !(is_exchange && scope == Scope::System) { 2 } else { 1 };
        let pairs_per_primary = c.range(1, 2) as usize;
        let streams_max = (c.range(4, 6) as usize).max(primaries * groups * pairs_per_primary);
        // A few of the largest records fit in; a copy is at most 256 KiB.
        let volume_bytes = volume_blocks * u64::from(block_bytes);
        let largest = (write_blocks_max * u64::from(block_bytes)).max(volume_bytes.min(256 << 10)) + 4096;
        let of_few = |c: &mut Chance| (c.log_range(LOG_BYTES_MIN, 1 << 20).max(4 * largest) + (64 << 10)) & !4095;
        let least = longrun_copy::journal::BYTES_MIN;
        let journal_bytes = if !big && c.hits(0.6) { of_few(c) } else { least };
        let overlay_bytes = match c.below(10) {
            _ if big => Some(16 * least),
            _ if is_exchange => Some(least),
            0..3 => Some(of_few(c)),
            3..6 => Some(least),
            _ => None,
        };
        let spill_bytes = (scope != Scope::System && !big && c.hits(0.6)).then(|| of_few(c));
        let roughness = c.pick(&[0.0, 0.005, 0.03, 0.15]);
        let delay_ns = c.log_range(20 * US, 8 * MS);
        Plan {
            primaries,
            groups,
            pairs_per_primary,
            scope,
            noise: c.hits(0.35),
            block_bytes,
            volume_blocks,
            write_blocks_max: write_blocks_max.min(volume_blocks),
            initial: match c.below(6) {
                _ if is_exchange => Initial::Identical,
                0..2 => Initial::Empty,
                2..4 => Initial::Identical,
                4 => Initial::Copy,
                _ => Initial::CopyDifferences,
            },
            overflow: c.pick(&[Overflow::Throttle, Overflow::Suspend]),
            copy_bytes_per_s: if c.hits(0.3) { Some(c.log_range(1 << 20, 64 << 20)) } else { None },
            clear_after_ns: c.log_range(MS, 2000 * MS),
            mark_ahead_bytes: c.pick(&[0, 0, 128 << 10, 4 << 20]),
            resync_pause_ns: c.log_range(MS, 500 * MS),
            digest_wait_ns: c.log_range(MS, 1000 * MS),
            ops,
            clients: c.range(1, 8) as usize,
            think_ns_max,
            hop_ns_max: c.pick(&[0, 5 * US, 50 * US]),
            error_bound_ns: c.pick(&[0, 100, 20 * US, 2 * MS]),
            turn_ns_max: c.log_range(2 * US, 100 * US),
            stall_probability: c.pick(&[0.0, 0.0005, 0.005]),
            delay_ns,
            jitter_ns: c.log_range(US, delay_ns),
            bytes_per_us: c.log_range(if big { 400 } else { 8 }, 2000),
            loss: roughness * c.pick(&[0.0, 1.0, 2.0]),
            duplicate: roughness * c.pick(&[0.0, 1.0]),
            corrupt: roughness * c.pick(&[0.0, 0.5]),
            reorder: c.pick(&[0.0, 0.1, 0.5]),
            mtu_bytes: c.pick(&[1200, 1400, 4000, 9000]),
            dead_after_ns: c.log_range(150 * MS, 1500 * MS),
            rekey_after_packets: c.pick(&[64, 200, 1 << 22]),
            buffer_bytes: if big { 24 << 20 } else { c.log_range(64 << 10, 4 << 20) },
            throttle_ms_max: c.pick(&[0, 1, 5]),
            receive_bytes: streams_max as u64 * CHARGE_BYTES_MAX
                + c.log_range(4 << 10, if big { 8 << 20 } else { 256 << 10 }),
            streams_max,
            stream_records: c.pick(&[4, 16, 64, 1024]),
            checkpoint_interval_ns: c.log_range(MS, 400 * MS),
            journal_bytes,
            overlay_bytes,
            spill_bytes,
            apply_delay_ns: if !is_exchange && c.hits(0.3) { c.log_range(MS, 2000 * MS) } else { 0 },
            pool_bytes: if big { 96 << 20 } else { c.pick(&[24 << 20, 40 << 20]) },
            disk_ns_max: c.log_range(10 * US, 3 * MS),
            meta_ns_max: c.log_range(20 * US, 5 * MS),
            fault_every_ns: (think_ns_max * ops as u64 / 12).max(2 * MS),
            faults,
            faults_at_setup: c.hits(0.25),
            ending,
            end_after: c.range(ops as u64 / 4, ops as u64) as usize,
            forks: if big { 8 } else { 40 },
            grows: false,
            verifies: false,
            views: false,
            apart: 0,
            strands: 1,
            strands_apart: false,
            aim: None,
        }
    }

    /// Where the links of a seed are. Drawn aside, too.
    pub fn draw_cores(&mut self, chance: &mut Chance) {
        if chance.hits(0.5) && self.scope != Scope::System {
            self.apart = chance.range(1, (1 << (2 * self.primaries)) - 1) as u32;
        }
        if chance.hits(0.35) {
            self.strands = chance.range(2, 3) as u8;
            self.strands_apart = chance.hits(0.75);
        }
    }

    /// What operators of a seed do beside copying. Drawn aside, so that all else of a seed is the same with and without it.
    pub fn draw_asides(&mut self, chance: &mut Chance) {
        // Where two sites exchange their parts, each may be either: sizes and contents are told otherwise there.
        let fits = self.ending != Ending::Exchange;
        self.grows = chance.hits(0.2) && fits;
        self.verifies = chance.hits(0.2) && fits;
        self.views = chance.hits(0.25) && fits;
    }
}
