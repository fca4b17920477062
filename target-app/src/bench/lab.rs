//! A bench's own systems: one, or two with a network between them, as processes of this same program.

use super::frames::LinkFrames;
use super::steps::Counted;
use super::workload::{Lab as Shape, Watched};
use crate::cli::args::IoMode;
use crate::lab::cable::{self, Cable};
use crate::lab::children::Children;
use crate::lab::relay::{Impairment, Relay};
use crate::lab::system::{LinkQuality, System, SystemError};
use longrun_nvmf::Nqn;
use longrun_rpc::Client;
use longrun_rpc::methods::framework::FrameworkGetReactors;
use longrun_rpc::methods::group::SequenceScope;
use longrun_rpc::methods::link::{LinkInfo, Transport};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const NQN: &str = "nqn.2026-11.io.longrun:bench";
const GROUP: &str = "bench";
const MIB: u64 = 1 << 20;
/// Of each system; a third of it is what the secondary receives into ...
const MEMORY_MIB: u64 = 512;
/// ... which has to have room for each stream.
const MEMORY_MIB_OF_STREAM: u64 = 6;
/// What the primary keeps for the link.
const BUFFER_BYTES: u64 = 128 * MIB;
const JOURNAL_BYTES: u64 = 2048 * MIB;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The systems at work. Dropping it ends them.
pub struct Lab {
    // First, so that they end before their network and their files go.
    primary: System,
    secondary: Option<System>,
    _relay: Option<Relay>,
    exported: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Lab {
    /// Starts and pairs what `shape` asks for.
    ///
    /// # Errors
    ///
    /// Whatever keeps a system from coming up, with the end of its log.
    pub fn start(shape: &Shape) -> Result<Lab, Error> {
        if shape.transport == Transport::Xdp {
            // The two reach each other through this process's network.
            cable::forward()?;
        }
        let directory = tempfile::Builder::new().prefix("longrun-bench-").tempdir()?;
        let children = Children::of(directory.path().to_owned())?;
        let primary = start("primary", directory.path(), shape, &children)?;
        let mut client = primary.client()?;
        let media = create_media(&primary, &mut client, shape)?;
        if !shape.replication {
            let exported = primary.export(&mut client, NQN, &media)?;
            return Ok(Lab { primary, secondary: None, _relay: None, exported, _directory: directory });
        }
        let secondary = start("secondary", directory.path(), shape, &children)?;
        let delay = Duration::from_millis(shape.delay_ms);
        let impairment = Impairment { loss: shape.loss, reorder: 0.0, duplicate: 0.0, delay, seed: 1 };
        // A network that does nothing is left out: the systems reach each other, as in a lab.
        let is_clean = shape.loss == 0.0 && shape.delay_ms == 0;
        let relay = if is_clean {
            None
        } else {
            Some(Relay::of_strands(primary.link(), secondary.link(), shape.link_strands, impairment)?)
        };
        let pairs = pair_up(shape, &primary, &secondary, relay.as_ref(), &media)?;
        for system in [&primary, &secondary] {
            system.wait_for_transport(&mut system.client()?, shape.transport)?;
        }
        let exported = primary.export(&mut client, NQN, &pairs)?;
        Ok(Lab { primary, secondary: Some(secondary), _relay: relay, exported, _directory: directory })
    }

    /// Where hosts connect.
    pub fn address(&self) -> SocketAddr {
        self.exported
    }

    /// The subsystem.
    pub fn nqn(&self) -> Nqn {
        NQN.parse().expect("a name that is known to be good")
    }

    /// The primary's process.
    pub fn primary_pid(&self) -> u32 {
        self.primary.pid()
    }

    /// The secondary's process.
    pub fn secondary_pid(&self) -> Option<u32> {
        self.secondary.as_ref().map(System::pid)
    }

    /// The group whose recovery point is to be watched.
    pub fn watched(&self) -> Option<Watched> {
        let secondary = self.secondary.as_ref()?;
        Some(Watched { rpc_socket: secondary.rpc_socket().to_owned(), group: GROUP.to_owned() })
    }

    /// The primary's end of the link: what its frames are, and how many it has sent, by `per_s` for now. `None`: there is none,
    /// or it does not answer.
    pub fn link_frames(&self) -> Option<LinkFrames> {
        self.secondary.as_ref()?;
        let link = self.primary.link_info(&mut self.primary.client().ok()?).ok()?;
        let LinkInfo { transport, mtu_bytes, counters, .. } = link;
        Some(LinkFrames { transport, bytes: mtu_bytes, per_s: counters.frames_sent as f64, floor_per_s: None })
    }

    /// What the systems' reactors did so far, the primary's first; `None` if one does not answer.
    pub fn counted(&self) -> Option<Vec<Counted>> {
        let systems = std::iter::once(&self.primary).chain(&self.secondary);
        let counted = systems.map(|system| {
            let cores = system.client().ok()?.invoke(&FrameworkGetReactors {}).ok()?;
            Some(Counted { system: system.name(), cores })
        });
        counted.collect()
    }

    /// The first group's state and reason, where it is not simply paired.
    pub fn trouble(&self) -> Option<String> {
        self.secondary.as_ref()?;
        let mut client = self.primary.client().ok()?;
        let groups = client.call("group_get", json!({"name": GROUP})).ok()?;
        let group = groups.get(0)?;
        (group["state"] != "PAIR").then(|| format!("the group is {}: {}", group["state"], group["reason"]))
    }
}

fn start(name: &'static str, directory: &Path, shape: &Shape, children: &Arc<Children>) -> Result<System, Error> {
    let directory = directory.join(name);
    std::fs::create_dir(&directory)?;
    let streams = if shape.scope == SequenceScope::Pair { u64::from(shape.volumes) } else { 1 };
    let memory_mib = MEMORY_MIB.max(MEMORY_MIB_OF_STREAM * (streams + 2)).to_string();
    let mut flags = vec!["--memory-mib", &memory_mib];
    if shape.busy {
        flags.extend(["--idle", "busy"]);
    }
    if shape.io == IoMode::Sqpoll {
        flags.extend(["--io", "sqpoll"]);
        // Beside its own reactor: where there are two processors only, beside the other's.
        flags.extend(super::polling_processor(name).iter().flat_map(|processor| ["--polling-core", processor]));
    }
    let number = if name == "primary" { 1 } else { 2 };
    let cable = (shape.transport == Transport::Xdp).then(|| Cable::new(number));
    Ok(System::start(name, &directory, super::processors(name, shape.system_cores), &flags, children, cable)?)
}

fn create_media(system: &System, client: &mut Client, shape: &Shape) -> Result<Vec<String>, SystemError> {
    let names: Vec<String> = (0..shape.volumes).map(|volume| format!("medium{volume}")).collect();
    for name in &names {
        let bytes = shape.volume_mib * MIB;
        if shape.files {
            let filename = system.file(name, bytes)?;
            // A disk in use, not one whose blocks are found and taken with each first write.
            longrun_hal::file::write_out(&filename, u64::MAX).map_err(|error| system.unexpected(error.to_string()))?;
            let bdev = json!({"name": name, "filename": filename, "block_size": 4096});
            system.call(client, "bdev_uring_create", bdev)?;
        } else {
            let bdev = json!({"name": name, "num_blocks": bytes / 4096, "block_size": 4096});
            system.call(client, "bdev_malloc_create", bdev)?;
        }
    }
    Ok(names)
}

/// Makes link, group and pairs at both systems at the same time, and waits for them. Answers the pairs' names.
fn pair_up(
    shape: &Shape,
    primary: &System,
    secondary: &System,
    relay: Option<&Relay>,
    media: &[String],
) -> Result<Vec<String>, Error> {
    let set_up = |system: &System, other: &System, facing: SocketAddr| -> Result<Client, Error> {
        let mut client = system.client()?;
        let is_primary = std::ptr::eq(system, primary);
        let key = (!shape.plain_link).then(|| other.key());
        let loss_tolerance = (shape.loss * 2.0).clamp(0.1, 0.5);
        let cores = (0..shape.link_strands).map(|strand| strand % shape.system_cores).collect();
        let quality = LinkQuality { mtu_bytes: shape.mtu_bytes, loss_tolerance, cores: Some(cores) };
        system.create_link(&mut client, facing, key, quality)?;
        // A pair would wait for it, and say nothing for as long.
        system.wait_until_linked(&mut client)?;
        let mut group = json!({"name": GROUP, "role": system.name(), "link": crate::lab::system::LINK});
        if shape.system_cores > 1 {
            group["core"] = json!(1);
        }
        if is_primary {
            group["sequence_scope"] = json!(shape.scope);
            group["buffer_bytes"] = BUFFER_BYTES.into();
        } else {
            create_media(system, &mut client, shape)?;
            create_journal(system, &mut client, shape)?;
            group["journal"] = "journal".into();
        }
        system.call(&mut client, "group_create", group)?;
        for (volume, medium) in media.iter().enumerate() {
            let pair = json!({"group": GROUP, "name": format!("volume{volume}"), "volume": medium});
            system.call(&mut client, "pair_create", pair)?;
        }
        Ok(client)
    };
    let to_secondary = relay.map_or_else(|| secondary.link(), Relay::facing_a);
    let to_primary = relay.map_or_else(|| primary.link(), Relay::facing_b);
    let (here, there) = std::thread::scope(|scope| {
        let there = scope.spawn(|| set_up(secondary, primary, to_primary));
        (set_up(primary, secondary, to_secondary), there.join())
    });
    let (mut here, mut there) = (here?, there.map_err(|_| "a thread of the bench panicked")??);
    for (system, client) in [(primary, &mut here), (secondary, &mut there)] {
        system.wait_until_paired(client, GROUP, media.len())?;
    }
    Ok((0..media.len()).map(|volume| format!("volume{volume}")).collect())
}

fn create_journal(system: &System, client: &mut Client, shape: &Shape) -> Result<(), SystemError> {
    if shape.files {
        let filename = system.file("journal", JOURNAL_BYTES)?;
        let bdev = json!({"name": "journal", "filename": filename, "block_size": 4096});
        return system.call(client, "bdev_uring_create", bdev).map(drop);
    }
    let bdev = json!({"name": "journal", "num_blocks": JOURNAL_BYTES / 4096, "block_size": 4096});
    system.call(client, "bdev_malloc_create", bdev).map(drop)
}
