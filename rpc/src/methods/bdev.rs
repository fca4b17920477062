//! Block devices: media (malloc, null, uring) and the fault devices that stack on them.

use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Tolerated;
use crate::types::{BlockSize, Name};

/// `bdev_malloc_create`: a device in memory. Answers its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevMallocCreate {
    /// Size in blocks.
    pub num_blocks: NonZeroU64,
    /// Bytes per block.
    pub block_size: BlockSize,
    /// The device's name; default `Malloc<n>`, the first that is free.
    pub name: Option<Name>,
    /// Default: random.
    pub uuid: Option<Uuid>,
}

/// What SPDK's client sends beside, and Longrun has no use for.
pub(super) const MALLOC_TOLERATES: &[Tolerated] = &[
    Tolerated::Hint("optimal_io_boundary"),
    Tolerated::Hint("physical_block_size"),
    Tolerated::Hint("numa_id"),
    Tolerated::Blank("md_size"),
    Tolerated::Blank("md_interleave"),
    Tolerated::Blank("dif_type"),
    Tolerated::Blank("dif_is_head_of_md"),
    Tolerated::Blank("dif_pi_format"),
    Tolerated::Blank("enable_placement_id"),
    Tolerated::Blank("disable_accel_support"),
];

/// `bdev_malloc_delete`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevMallocDelete {
    /// The device's name.
    pub name: String,
}

/// `bdev_null_create`: a device that takes every write and reads as zeroes. Answers its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevNullCreate {
    /// The device's name.
    pub name: Name,
    /// Size in blocks.
    pub num_blocks: NonZeroU64,
    /// Bytes per block.
    pub block_size: BlockSize,
    /// Default: random.
    pub uuid: Option<Uuid>,
}

/// What SPDK's client sends beside, and Longrun has no use for.
pub(super) const NULL_TOLERATES: &[Tolerated] = &[
    Tolerated::Hint("physical_block_size"),
    Tolerated::Blank("md_size"),
    Tolerated::Blank("dif_type"),
    Tolerated::Blank("dif_is_head_of_md"),
    Tolerated::Blank("dif_pi_format"),
    Tolerated::Blank("preferred_write_alignment"),
    Tolerated::Blank("preferred_write_granularity"),
    Tolerated::Blank("optimal_write_size"),
    Tolerated::Blank("preferred_unmap_alignment"),
    Tolerated::Blank("preferred_unmap_granularity"),
];

/// `bdev_null_delete`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevNullDelete {
    /// The device's name.
    pub name: String,
}

/// `bdev_uring_create`, and `bdev_aio_create` for the same: a file or a block device, read and written past the page
/// cache. Answers its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevUringCreate {
    /// The device's name.
    pub name: Name,
    /// An existing file or block device; its length is the device's size, rounded down to whole blocks.
    pub filename: PathBuf,
    /// Bytes per block. Default: what the block device reports; 512 for a file.
    pub block_size: Option<BlockSize>,
    /// Default: derived from the file's place, so that it is the same after a restart.
    pub uuid: Option<Uuid>,
}

impl BdevUringCreate {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.filename.as_os_str().is_empty() {
            return Err("filename is empty; give the path of a file or a block device".to_owned());
        }
        Ok(())
    }
}

/// What SPDK's client sends beside, and Longrun has no use for.
pub(super) const URING_TOLERATES: &[Tolerated] =
    &[Tolerated::Blank("readonly"), Tolerated::Blank("fallocate"), Tolerated::Blank("write_zeroes")];

/// `bdev_uring_delete`, and `bdev_aio_delete` for the same. The file stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevUringDelete {
    /// The device's name.
    pub name: String,
}

/// `bdev_uring_rescan`, and `bdev_aio_rescan` for the same: looks how large the file or device is now. One that has grown is
/// larger from here on, and so are bdevs on it and their namespaces, but for a pair's, which `pair_resize` makes larger.
/// Answers the blocks that it has now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevUringRescan {
    /// The device's name.
    pub name: String,
}

/// `bdev_error_create`: a device that fails on demand, on top of another. It is named `EE_<base_name>`. Answers its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevErrorCreate {
    /// The device below, which it claims.
    pub base_name: String,
    /// Default: random.
    pub uuid: Option<Uuid>,
}

impl BdevErrorCreate {
    /// The name the new device gets.
    pub fn device_name(&self) -> String {
        format!("EE_{}", self.base_name)
    }
}

/// `bdev_error_delete`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevErrorDelete {
    /// The error device's name (`EE_...`).
    pub name: String,
}

/// `bdev_error_inject_error`: lets the next requests of a kind fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevErrorInjectError {
    /// The error device's name (`EE_...`).
    pub name: String,
    /// Which requests.
    pub io_type: ErrorIoType,
    /// What happens to them.
    pub error_type: ErrorType,
    /// How many requests; default 1. Ignored with `error_type` `clear`.
    pub num: Option<u32>,
}

impl BdevErrorInjectError {
    /// How many requests are to fail.
    pub fn count(&self) -> u32 {
        self.num.unwrap_or(1)
    }
}

/// What SPDK's client sends beside, and Longrun has no use for.
pub(super) const ERROR_TOLERATES: &[Tolerated] =
    &[Tolerated::Hint("queue_depth"), Tolerated::Blank("corrupt_offset"), Tolerated::Blank("corrupt_value")];

/// The requests an error device can touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each says itself")]
pub enum ErrorIoType {
    Read,
    Write,
    Flush,
    Unmap,
    WriteZeroes,
    /// All of them.
    All,
    /// None any more, whatever `error_type` says (SPDK's older way to clear).
    Clear,
}

/// What an error device does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// It fails, without reaching the device below.
    Failure,
    /// It is never answered, until cleared.
    Pending,
    /// It fails as if memory were short, to be tried again.
    Nomem,
    /// Faults that were injected and have not happened yet are taken back.
    Clear,
}

/// `bdev_delay_create`: a device that answers late, on top of another. Latencies are in microseconds. Answers its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevDelayCreate {
    /// The device below, which it claims.
    pub base_bdev_name: String,
    /// The device's name.
    pub name: Name,
    /// Added to reads, microseconds.
    pub avg_read_latency: u64,
    /// Added to one read in a hundred instead, microseconds.
    pub p99_read_latency: u64,
    /// Added to writes, microseconds.
    pub avg_write_latency: u64,
    /// Added to one write in a hundred instead, microseconds.
    pub p99_write_latency: u64,
    /// Default: random.
    pub uuid: Option<Uuid>,
}

impl BdevDelayCreate {
    /// The longest latency accepted, microseconds: longer than any host waits.
    pub const LATENCY_US_MAX: u64 = 600_000_000;

    pub(super) fn check(&self) -> Result<(), String> {
        for (kind, average, p99) in [
            ("read", self.avg_read_latency, self.p99_read_latency),
            ("write", self.avg_write_latency, self.p99_write_latency),
        ] {
            if p99 < average || p99 > Self::LATENCY_US_MAX {
                return Err(format!(
                    "p99_{kind}_latency is {p99} us, expected avg_{kind}_latency ({average} us) to {} us",
                    Self::LATENCY_US_MAX
                ));
            }
        }
        Ok(())
    }
}

/// `bdev_delay_delete`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevDelayDelete {
    /// The delay device's name.
    pub name: String,
}

/// `bdev_get_bdevs`: all devices, or one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevGetBdevs {
    /// Only this one; -19 where there is none.
    pub name: Option<String>,
    /// How long to wait for `name` to appear, milliseconds; default 0.
    pub timeout: Option<u64>,
}

/// A device as `bdev_get_bdevs` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BdevInfo {
    /// Its name.
    pub name: String,
    /// Its other names (the UUID, as text).
    pub aliases: Vec<String>,
    /// What it is, for people.
    pub product_name: String,
    /// Bytes per block.
    pub block_size: u32,
    /// Size in blocks.
    pub num_blocks: u64,
    /// Its identity.
    pub uuid: Uuid,
    /// Whether something owns it.
    pub claimed: bool,
    /// Who: a device that stacks on it, a subsystem, a journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<String>,
    /// Always `false`: no zoned device here.
    pub zoned: bool,
    /// What it can do.
    pub supported_io_types: SupportedIoTypes,
    /// What only its kind has, under the kind's name.
    #[serde(default)]
    pub driver_specific: serde_json::Map<String, serde_json::Value>,
}

/// What a device can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each says itself")]
pub struct SupportedIoTypes {
    pub read: bool,
    pub write: bool,
    pub unmap: bool,
    pub flush: bool,
    pub reset: bool,
    pub write_zeroes: bool,
    #[serde(default)]
    pub compare: bool,
    #[serde(default)]
    pub compare_and_write: bool,
    #[serde(default)]
    pub abort: bool,
    #[serde(default)]
    pub copy: bool,
}

/// `bdev_get_iostat`: counters of all devices, or of some.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdevGetIostat {
    /// Only this one.
    pub name: Option<String>,
    /// Only these.
    pub names: Option<Vec<String>>,
    /// Also by core; default `false`. Needs `name`.
    pub per_channel: Option<bool>,
    /// What to set to zero after reading; default `none`.
    pub reset_mode: Option<ResetMode>,
}

impl BdevGetIostat {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.name.is_some() && self.names.is_some() {
            return Err("give `name` or `names`, not both".to_owned());
        }
        if self.per_channel == Some(true) && self.name.is_none() {
            return Err("per_channel needs `name`, one device's".to_owned());
        }
        Ok(())
    }
}

/// What a reading of counters sets to zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResetMode {
    /// Nothing.
    #[default]
    None,
    /// Greatest and least latencies.
    Maxmin,
    /// Everything.
    All,
}

/// What `bdev_get_iostat` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Iostat {
    /// Ticks per second; latencies are in ticks.
    pub tick_rate: u64,
    /// The clock when the counters were read, ticks.
    pub ticks: u64,
    /// Without `per_channel`: one entry per device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bdevs: Vec<BdevIostat>,
    /// With `per_channel`: the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// With `per_channel`: one entry per core.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<ChannelIostat>,
}

/// One device's counters since it was created or reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BdevIostat {
    /// The device.
    pub name: String,
    /// Its counters.
    #[serde(flatten)]
    pub counters: IoCounters,
}

/// One device's counters on one core.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelIostat {
    /// The core.
    pub core: u32,
    /// Its counters.
    #[serde(flatten)]
    pub counters: IoCounters,
}

/// Counters of requests that ended. Latencies are sums, greatest and least, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "SPDK's names, each with its unit")]
pub struct IoCounters {
    pub bytes_read: u64,
    pub num_read_ops: u64,
    pub bytes_written: u64,
    pub num_write_ops: u64,
    pub bytes_unmapped: u64,
    pub num_unmap_ops: u64,
    pub num_flush_ops: u64,
    pub num_write_zeroes_ops: u64,
    pub num_failed_ops: u64,
    pub read_latency_ticks: u64,
    pub max_read_latency_ticks: u64,
    pub min_read_latency_ticks: u64,
    pub write_latency_ticks: u64,
    pub max_write_latency_ticks: u64,
    pub min_write_latency_ticks: u64,
    pub unmap_latency_ticks: u64,
    pub max_unmap_latency_ticks: u64,
    pub min_unmap_latency_ticks: u64,
}
