//! The control plane's list of bdevs: names, identities, claims, and what makes them again.
//!
//! Plain data without I/O of its own but for taking a new device's memory or opening its file. One place decides whether a
//! bdev may be made, used or deleted; the cores only do the work.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use longrun_copy::types::{Geometry, GroupId, PairId};
use uuid::Uuid;

use crate::delay::{Delay, Latencies};
use crate::device::{Bdev, Device};
use crate::error::ErrorBdev;
use crate::io::{BdevId, IoType};
use crate::malloc::{Malloc, MallocError};
use crate::null::Null;
use crate::replica::{ReplicaBdev, ViewBdev};
use crate::uring::{OpenError, UringBdev};

mod config;
#[cfg(test)]
mod tests;

/// The longest name.
pub const NAME_BYTES_MAX: usize = 255;

/// What the uuids of devices are derived from that have a place of their own.
const PLACE_NAMESPACE: Uuid = Uuid::from_u128(0x6c6f_6e67_7275_6e00_8000_6264_6576_0001);

/// What a new bdev is to be. Field names and meanings are those of SPDK's `bdev_*_create`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// A device in memory.
    Malloc {
        /// Default: `Malloc<n>`, the first that is free.
        name: Option<String>,
        /// Size.
        num_blocks: u64,
        /// Bytes per block.
        block_size: u32,
        /// Default: random.
        uuid: Option<Uuid>,
    },
    /// Reads zeroes, forgets writes.
    Null {
        /// Its name.
        name: String,
        /// Size.
        num_blocks: u64,
        /// Bytes per block.
        block_size: u32,
        /// Default: random.
        uuid: Option<Uuid>,
    },
    /// A file or a block device.
    Uring {
        /// Its name.
        name: String,
        /// An existing file or block device.
        filename: PathBuf,
        /// Default: the medium's.
        block_size: Option<u32>,
        /// Default: derived from the file's path.
        uuid: Option<Uuid>,
    },
    /// Fails on demand; named `EE_<base_name>`.
    Error {
        /// What it stands on.
        base_name: String,
        /// Default: random.
        uuid: Option<Uuid>,
    },
    /// Answers late.
    Delay {
        /// Its name.
        name: String,
        /// What it stands on.
        base_bdev_name: String,
        /// How late.
        latencies: Latencies,
        /// Default: random.
        uuid: Option<Uuid>,
    },
    /// A pair's device for hosts: what is written to it is copied to another system. Made and deleted with its pair, and
    /// so not part of the bdevs' own configuration.
    Replica {
        /// Its name.
        name: String,
        /// The volume.
        base_name: String,
        /// The consistency group's name.
        group: String,
        /// The pair's name.
        pair: String,
        /// Its identity towards hosts.
        uuid: Uuid,
    },
    /// The test view of a pair's secondary volume. Made and deleted with its group's test, and so part of no
    /// configuration.
    View {
        /// Its name.
        name: String,
        /// The consistency group's name.
        group: String,
        /// The pair's name.
        pair: String,
        /// The volume's size, in blocks.
        num_blocks: u64,
        /// Bytes per block.
        block_size: u32,
        /// Its identity towards hosts: of its own, so that nobody takes it for the volume.
        uuid: Uuid,
    },
}

impl Spec {
    fn kind(&self) -> Kind {
        match self {
            Spec::Malloc { .. } => Kind::Malloc,
            Spec::Null { .. } => Kind::Null,
            Spec::Uring { .. } => Kind::Uring,
            Spec::Error { .. } => Kind::Error,
            Spec::Delay { .. } => Kind::Delay,
            Spec::Replica { .. } => Kind::Replica,
            Spec::View { .. } => Kind::View,
        }
    }

    /// How it holds its base.
    fn holder(&self, name: &str) -> Holder {
        match self {
            Spec::Replica { group, pair, .. } => Holder::Pair { group: group.clone(), pair: pair.clone() },
            _ => Holder::Bdev(name.to_owned()),
        }
    }

    fn base_name(&self) -> Option<&str> {
        match self {
            Spec::Error { base_name, .. } | Spec::Replica { base_name, .. } => Some(base_name),
            Spec::Delay { base_bdev_name, .. } => Some(base_bdev_name),
            Spec::Malloc { .. } | Spec::Null { .. } | Spec::Uring { .. } | Spec::View { .. } => None,
        }
    }
}

/// Kinds of bdevs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each says itself")]
pub enum Kind {
    Malloc,
    Null,
    Uring,
    Error,
    Delay,
    Replica,
    View,
}

impl Kind {
    /// As `bdev_get_bdevs` shows it.
    pub fn product_name(self) -> &'static str {
        match self {
            Kind::Malloc => "Malloc disk",
            Kind::Null => "Null disk",
            Kind::Uring => "URING bdev",
            Kind::Error => "Error Injection Disk",
            Kind::Delay => "delay",
            Kind::Replica => "Remote copy volume",
            Kind::View => "Test view of a remote copy volume",
        }
    }

    /// The kind as method names spell it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Malloc => "malloc",
            Kind::Null => "null",
            Kind::Uring => "uring",
            Kind::Error => "error",
            Kind::Delay => "delay",
            Kind::Replica => "replica",
            Kind::View => "view",
        }
    }

    /// What its devices can do: all of it, natively or by writing zeroes.
    pub fn supports(self, io_type: IoType) -> bool {
        let _ = io_type;
        true
    }
}

/// Who holds a bdev for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A bdev that stands on it.
    Bdev(String),
    /// A namespace of a subsystem.
    Namespace {
        /// The subsystem.
        nqn: String,
        /// The namespace.
        nsid: u32,
    },
    /// A pair of a consistency group.
    Pair {
        /// The group.
        group: String,
        /// The pair.
        pair: String,
    },
    /// A consistency group's journal.
    Journal {
        /// The group.
        group: String,
    },
    /// A consistency group's overlay.
    Overlay {
        /// The group.
        group: String,
    },
    /// A consistency group's spill.
    Spill {
        /// The group.
        group: String,
    },
    /// The store of a consistency group's test view.
    TestStore {
        /// The group.
        group: String,
    },
    /// Its own deletion, which waits for its last requests.
    Deletion,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Bdev(name) => write!(f, "bdev {name}"),
            Holder::Namespace { nqn, nsid } => write!(f, "namespace {nsid} of {nqn}"),
            Holder::Pair { group, pair } => write!(f, "pair {pair} of group {group}"),
            Holder::Journal { group } => write!(f, "the journal of group {group}"),
            Holder::Overlay { group } => write!(f, "the overlay of group {group}"),
            Holder::Spill { group } => write!(f, "the spill of group {group}"),
            Holder::TestStore { group } => write!(f, "the test of group {group}"),
            Holder::Deletion => write!(f, "its own deletion"),
        }
    }
}

/// A bdev as the control plane knows it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number in this process.
    pub id: BdevId,
    /// Its name.
    pub name: String,
    /// Its identity; also its alias.
    pub uuid: Uuid,
    /// What it is.
    pub kind: Kind,
    /// Its size.
    pub geometry: Geometry,
    /// The core that does its work.
    pub home: u32,
    /// What it stands on.
    pub base: Option<BdevId>,
    /// Who holds it.
    pub holder: Option<Holder>,
    spec: Spec,
}

impl Entry {
    /// What it was made from, its name and uuid filled in.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }
}

/// A bdev was made.
#[derive(Debug)]
pub struct Created {
    /// To be installed on its home core.
    pub device: Device,
    /// That core.
    pub home: u32,
    /// Its name.
    pub name: String,
    /// A sentence for the operator's log.
    pub notice: Option<String>,
}

/// Why the catalog refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// Unknown name.
    #[error("there is no bdev named {name}; bdev_get_bdevs lists those there are")]
    NotFound {
        /// As given.
        name: String,
    },
    /// The name or uuid is taken.
    #[error("{what} {given} is taken by bdev {by}; choose another or delete that bdev first")]
    Exists {
        /// "name" or "uuid".
        what: &'static str,
        /// As given.
        given: String,
        /// Who has it.
        by: String,
    },
    /// Someone holds it.
    #[error("bdev {name} is held by {holder}; {advice}")]
    Claimed {
        /// The bdev.
        name: String,
        /// Who holds it.
        holder: Holder,
        /// What to do.
        advice: &'static str,
    },
    /// Deleted by the wrong method.
    #[error("bdev {name} is a {is} bdev, not a {expected} one; delete it with {method}")]
    WrongKind {
        /// The bdev.
        name: String,
        /// Its kind.
        is: &'static str,
        /// What the method deletes.
        expected: &'static str,
        /// The method that fits.
        method: String,
    },
    /// A parameter.
    #[error("{parameter} is {given}, expected {expected}")]
    Invalid {
        /// Its name.
        parameter: &'static str,
        /// As given.
        given: String,
        /// What fits.
        expected: String,
    },
    /// No memory.
    #[error("bdev {name}: {source}")]
    Memory {
        /// The bdev.
        name: String,
        /// The reason.
        source: MallocError,
    },
    /// No medium.
    #[error("bdev {name}: {source}")]
    Open {
        /// The bdev.
        name: String,
        /// The reason.
        source: OpenError,
    },
    /// Ids are used up.
    #[error("this process made as many bdevs as it can number ({max}); restart it", max = BdevId::MAX.0)]
    Exhausted,
}

impl CatalogError {
    /// The positive errno that SPDK's RPCs answer (negated) in such a case.
    pub fn errno(&self) -> i32 {
        match self {
            CatalogError::NotFound { .. } => libc::ENODEV,
            CatalogError::Exists { .. } => libc::EEXIST,
            CatalogError::Claimed { .. } => libc::EBUSY,
            CatalogError::WrongKind { .. } | CatalogError::Invalid { .. } => libc::EINVAL,
            CatalogError::Memory { .. } => libc::ENOMEM,
            CatalogError::Open { source, .. } => match source {
                OpenError::File(longrun_hal::file::FileError::Os { source, .. }) => {
                    source.raw_os_error().unwrap_or(libc::EIO)
                }
                OpenError::Locked { .. } => libc::EBUSY,
                _ => libc::EINVAL,
            },
            CatalogError::Exhausted => libc::ENOSPC,
        }
    }
}

/// All bdevs of this process.
#[derive(Debug, Default)]
pub struct Catalog {
    /// By id, which is also the order of creation: bases come before what stands on them.
    entries: BTreeMap<BdevId, Entry>,
    next_id: u32,
}

impl Catalog {
    /// Without bdevs.
    pub fn new() -> Catalog {
        Catalog::default()
    }

    /// Makes a bdev: checks the parameters, takes the memory or opens the file (may block), claims the base. A bdev that
    /// stands on another has that one's home core, others `home`.
    ///
    /// Nothing has changed when this fails.
    pub fn create(&mut self, spec: Spec, home: u32) -> Result<Created, CatalogError> {
        let id = BdevId(self.next_id);
        if id > BdevId::MAX {
            return Err(CatalogError::Exhausted);
        }
        let spec = self.complete(spec)?;
        let (name, uuid) = config::identity(&spec);
        self.check_file(&spec)?;
        self.check_free(&name, uuid)?;
        let base = match spec.base_name() {
            Some(base_name) => Some(self.free(base_name)?),
            None => None,
        };
        let (base_id, home) = base.map_or((None, home), |base| (Some(base.id), base.home));
        let base_geometry = base.map(|base| base.geometry);
        let made = make(&spec, base_id.zip(base_geometry)).map_err(|error| error.named(&name))?;
        if let Some(base) = base_id.and_then(|base| self.entries.get_mut(&base)) {
            base.holder = Some(spec.holder(&name));
        }
        self.next_id += 1;
        let geometry = made.geometry;
        let spec = config::with_block_size(spec, geometry.block_bytes);
        let kind = spec.kind();
        let entry = Entry { id, name: name.clone(), uuid, kind, geometry, home, base: base_id, holder: None, spec };
        self.entries.insert(id, entry);
        let device = Device::new(id, geometry, base_id, made.bdev);
        Ok(Created { device, home, name, notice: made.notice })
    }

    /// Whether a bdev may be deleted by the method of `kind` (`None`: whatever it is): nobody holds it.
    pub fn check_delete(&self, name: &str, kind: Option<Kind>) -> Result<&Entry, CatalogError> {
        let entry = self.named(name)?;
        if let Some(expected) = kind.filter(|expected| *expected != entry.kind) {
            return Err(CatalogError::WrongKind {
                name: name.to_owned(),
                is: entry.kind.name(),
                expected: expected.name(),
                method: match entry.kind {
                    Kind::Replica => "pair_delete".to_owned(),
                    Kind::View => "group_test_stop".to_owned(),
                    kind => format!("bdev_{}_delete", kind.name()),
                },
            });
        }
        match &entry.holder {
            None => Ok(entry),
            Some(holder) => Err(CatalogError::Claimed {
                name: name.to_owned(),
                holder: holder.clone(),
                advice: match holder {
                    Holder::Bdev(_) => "delete that bdev first",
                    Holder::Namespace { .. } => "remove that namespace first (nvmf_subsystem_remove_ns)",
                    Holder::Pair { .. } => "delete that pair first (pair_delete)",
                    Holder::Journal { .. } | Holder::Overlay { .. } | Holder::Spill { .. } => {
                        "delete that group first (group_delete)"
                    }
                    Holder::TestStore { .. } => "end that test first (group_test_stop)",
                    Holder::Deletion => "it waits for its last requests",
                },
            }),
        }
    }

    /// Forgets a bdev whose device was taken from its core (or never got there), and lets go of its base.
    pub fn remove(&mut self, id: BdevId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if let Some(base) = entry.base.and_then(|base| self.entries.get_mut(&base)) {
            base.holder = None;
        }
        Some(entry)
    }

    /// Claims a bdev for one holder, until released.
    pub fn claim(&mut self, name: &str, holder: Holder) -> Result<&Entry, CatalogError> {
        let id = self.free(name)?.id;
        let entry = self.entries.get_mut(&id).ok_or_else(|| CatalogError::NotFound { name: name.to_owned() })?;
        entry.holder = Some(holder);
        Ok(entry)
    }

    /// Ends a claim, if it is this holder's.
    pub fn release(&mut self, id: BdevId, holder: &Holder) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.holder.as_ref() == Some(holder)
        {
            entry.holder = None;
        }
    }

    /// Gives a bdev another identity: a volume that was taken over (design 4a).
    pub fn set_uuid(&mut self, id: BdevId, uuid: Uuid) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.uuid = uuid;
        }
    }

    /// Notes that a bdev has another size.
    pub fn set_blocks(&mut self, id: BdevId, blocks: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.geometry.blocks = blocks;
        }
    }

    /// Notes that a bdev and all that it stands on were moved to another core.
    pub fn set_home(&mut self, top: BdevId, home: u32) {
        let mut next = Some(top);
        while let Some(entry) = next.and_then(|id| self.entries.get_mut(&id)) {
            entry.home = home;
            next = entry.base;
        }
    }

    /// The bdev of this name or uuid.
    pub fn named(&self, name: &str) -> Result<&Entry, CatalogError> {
        let uuid = Uuid::parse_str(name).ok();
        self.entries
            .values()
            .find(|entry| entry.name == name)
            .or_else(|| self.entries.values().find(|entry| Some(entry.uuid) == uuid))
            .ok_or_else(|| CatalogError::NotFound { name: name.to_owned() })
    }

    /// The bdev of this id.
    pub fn get(&self, id: BdevId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// All, in the order of creation.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// What makes all bdevs again, in an order that works: methods and parameters as `save_config` writes them. Replica
    /// devices are not among them, their pairs make them; nor are test views, which end with the process.
    pub fn config(&self) -> Vec<(&'static str, serde_json::Value)> {
        self.iter().filter_map(|entry| config::method(&entry.spec)).collect()
    }

    /// What `bdev_get_bdevs` shows under `driver_specific`.
    pub fn driver_specific(&self, entry: &Entry) -> serde_json::Map<String, serde_json::Value> {
        config::driver_specific(&entry.spec)
    }

    /// Fills in what may be left out, and checks what was given.
    fn complete(&self, mut spec: Spec) -> Result<Spec, CatalogError> {
        match &mut spec {
            Spec::Malloc { name, num_blocks, block_size, uuid } => {
                check_size(*num_blocks, *block_size)?;
                if name.is_none() {
                    let free = (0..).map(|n: u64| format!("Malloc{n}")).find(|name| self.named(name).is_err());
                    *name = free;
                }
                uuid.get_or_insert_with(Uuid::new_v4);
            }
            Spec::Null { num_blocks, block_size, uuid, .. } => {
                check_size(*num_blocks, *block_size)?;
                uuid.get_or_insert_with(Uuid::new_v4);
            }
            Spec::Uring { filename, block_size, uuid, .. } => {
                if let Some(given) = block_size {
                    check_block_size(*given)?;
                }
                let place = std::path::absolute(&filename).unwrap_or_else(|_| filename.clone());
                uuid.get_or_insert_with(|| Uuid::new_v5(&PLACE_NAMESPACE, place.as_os_str().as_encoded_bytes()));
            }
            Spec::Error { uuid, .. } => {
                uuid.get_or_insert_with(Uuid::new_v4);
            }
            Spec::Delay { latencies, uuid, .. } => {
                check_latency("read", latencies.avg_read_us, latencies.p99_read_us)?;
                check_latency("write", latencies.avg_write_us, latencies.p99_write_us)?;
                uuid.get_or_insert_with(Uuid::new_v4);
            }
            Spec::View { num_blocks, block_size, .. } => check_size(*num_blocks, *block_size)?,
            Spec::Replica { .. } => {}
        }
        Ok(spec)
    }

    /// The same file by another path is found by its lock, after a wait; this one is found at once.
    fn check_file(&self, spec: &Spec) -> Result<(), CatalogError> {
        let Spec::Uring { name, filename, .. } = spec else { return Ok(()) };
        let same = |entry: &&Entry| matches!(&entry.spec, Spec::Uring { filename: other, .. } if other == filename);
        match self.iter().find(same) {
            None => Ok(()),
            Some(_) => {
                Err(CatalogError::Open { name: name.clone(), source: OpenError::Locked { path: filename.clone() } })
            }
        }
    }

    fn check_free(&self, name: &str, uuid: Uuid) -> Result<(), CatalogError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(CatalogError::Invalid {
                parameter: "name",
                given: format!("{name:?}"),
                expected: format!("1 to {NAME_BYTES_MAX} bytes without control characters"),
            });
        }
        if let Ok(entry) = self.named(name) {
            return Err(CatalogError::Exists { what: "name", given: name.to_owned(), by: entry.name.clone() });
        }
        if let Some(entry) = self.iter().find(|entry| entry.uuid == uuid) {
            return Err(CatalogError::Exists { what: "uuid", given: uuid.to_string(), by: entry.name.clone() });
        }
        Ok(())
    }

    /// The bdev of this name, which nobody holds.
    pub fn free(&self, name: &str) -> Result<&Entry, CatalogError> {
        let entry = self.named(name)?;
        match &entry.holder {
            None => Ok(entry),
            Some(holder) => Err(CatalogError::Claimed {
                name: entry.name.clone(),
                holder: holder.clone(),
                advice: match holder {
                    Holder::Bdev(_) => "use that bdev, which stands on it, or delete it first",
                    Holder::Namespace { .. } => "use another bdev, or remove that namespace first",
                    Holder::Pair { .. }
                    | Holder::Journal { .. }
                    | Holder::Overlay { .. }
                    | Holder::Spill { .. }
                    | Holder::TestStore { .. }
                    | Holder::Deletion => "use another bdev",
                },
            }),
        }
    }
}

struct Made {
    bdev: Box<dyn Bdev>,
    geometry: Geometry,
    notice: Option<String>,
}

enum MakeError {
    Memory(MallocError),
    Open(OpenError),
}

impl MakeError {
    fn named(self, name: &str) -> CatalogError {
        let name = name.to_owned();
        match self {
            MakeError::Memory(source) => CatalogError::Memory { name, source },
            MakeError::Open(source) => CatalogError::Open { name, source },
        }
    }
}

fn make(spec: &Spec, base: Option<(BdevId, Geometry)>) -> Result<Made, MakeError> {
    let plain = |bdev: Box<dyn Bdev>, geometry| Ok(Made { bdev, geometry, notice: None });
    match (spec, base) {
        (Spec::Malloc { num_blocks, block_size, .. }, _) => {
            let geometry = Geometry { blocks: *num_blocks, block_bytes: *block_size };
            plain(Box::new(Malloc::new(geometry).map_err(MakeError::Memory)?), geometry)
        }
        (Spec::Null { num_blocks, block_size, .. }, _) => {
            plain(Box::new(Null), Geometry { blocks: *num_blocks, block_bytes: *block_size })
        }
        (Spec::Uring { filename, block_size, .. }, _) => {
            let opened = UringBdev::open(filename, *block_size).map_err(MakeError::Open)?;
            Ok(Made { bdev: Box::new(opened.bdev), geometry: opened.geometry, notice: opened.notice })
        }
        (Spec::Error { .. }, Some((base, geometry))) => plain(Box::new(ErrorBdev::new(base)), geometry),
        (Spec::Delay { latencies, .. }, Some((base, geometry))) => {
            plain(Box::new(Delay::new(base, *latencies)), geometry)
        }
        (Spec::Replica { group, pair, .. }, Some((_, geometry))) => {
            let pair = PairId::of_name(GroupId::of_name(group), pair);
            plain(Box::new(ReplicaBdev::new(pair)), geometry)
        }
        (Spec::View { group, pair, num_blocks, block_size, .. }, _) => {
            let pair = PairId::of_name(GroupId::of_name(group), pair);
            plain(Box::new(ViewBdev::new(pair)), Geometry { blocks: *num_blocks, block_bytes: *block_size })
        }
        (Spec::Error { .. } | Spec::Delay { .. } | Spec::Replica { .. }, None) => {
            unreachable!("a spec with a base name has had its base looked up")
        }
    }
}

fn check_size(num_blocks: u64, block_size: u32) -> Result<(), CatalogError> {
    check_block_size(block_size)?;
    // Offsets are signed 64-bit numbers of bytes to the kernel.
    let most = i64::MAX as u64 / u64::from(block_size);
    if num_blocks == 0 || num_blocks > most {
        return Err(CatalogError::Invalid {
            parameter: "num_blocks",
            given: num_blocks.to_string(),
            expected: format!("1 to {most}"),
        });
    }
    Ok(())
}

fn check_block_size(block_size: u32) -> Result<(), CatalogError> {
    if matches!(block_size, 512 | 4096) {
        return Ok(());
    }
    Err(CatalogError::Invalid {
        parameter: "block_size",
        given: block_size.to_string(),
        expected: "512 or 4096".into(),
    })
}

/// The longest latency, in microseconds: longer than any host waits.
const LATENCY_US_MAX: u64 = 600_000_000;

fn check_latency(kind: &'static str, average_us: u64, p99_us: u64) -> Result<(), CatalogError> {
    if (average_us..=LATENCY_US_MAX).contains(&p99_us) {
        return Ok(());
    }
    Err(CatalogError::Invalid {
        parameter: if kind == "read" { "p99_read_latency" } else { "p99_write_latency" },
        given: format!("{p99_us} us"),
        expected: format!("avg_{kind}_latency ({average_us} us) to {LATENCY_US_MAX} us"),
    })
}
