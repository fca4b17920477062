//! The two systems of a round: two volumes, one for the database and one for its log, in one group, or, to show that the
//! rounds notice what a group is for, in a group each.

use longrun::demo::clock::HostClock;
use longrun::demo::observer::Observer;
use longrun::lab::relay::{Impairment, Relay};
use longrun_rpc::methods::group::{GroupInfo, LossCertificate};
use longrun_rpc::methods::pair::PairState;
use longrun_tests::load::Target;
use longrun_tests::process::{self, Longrun, eventually};
use longrun_tests::program;
use longrun_tests::sites::{GROUP, LINK};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The volumes' pairs and replica devices: the database's, and its log's.
const VOLUMES: [&str; 2] = ["data", "log"];
/// Different, because that is harder.
const BLOCK_BYTES: [u64; 2] = [4096, 512];
const VOLUME_BYTES: u64 = 32 << 20;
const JOURNAL_BYTES: u64 = 256 << 20;
const PRIMARY_NQN: &str = "nqn.2026-11.io.longrun:database-primary";
const SECONDARY_NQN: &str = "nqn.2026-11.io.longrun:database-secondary";
/// The most that a write is delayed; long, so that a busy machine does not suspend the group.
const THROTTLE_MS_MAX: u64 = 2_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// What keeps writes in order, and over which link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    name: &'static str,
    link: &'static str,
    volumes: &'static [usize],
}

const TOGETHER: [Group; 1] = [Group { name: GROUP, link: LINK, volumes: &[0, 1] }];
const APART: [Group; 2] =
    [Group { name: GROUP, link: LINK, volumes: &[0] }, Group { name: "log", link: "wan-log", volumes: &[1] }];

/// How the systems are set up.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What a sequence number counts.
    pub scope: &'static str,
    /// What the network does.
    pub impairment: Impairment,
    /// A group for each volume.
    pub two_groups: bool,
}

/// The two systems. The second is declared first, so that it ends first.
pub struct Systems {
    /// Where the copy is.
    pub secondary: Longrun,
    /// Where the database writes.
    pub primary: Longrun,
    /// The networks, one for each group.
    pub relays: Vec<Relay>,
    groups: &'static [Group],
    primary_nvme: SocketAddr,
    secondary_nvme: SocketAddr,
}

impl Systems {
    /// Starts them in `directory` and waits until the volumes are copied as they change.
    pub fn start(directory: &Path, options: &Options) -> Systems {
        let start = |name: &str| {
            let directory = directory.join(name);
            std::fs::create_dir(&directory).expect("a new directory");
            Longrun::start(&directory)
        };
        let (secondary, primary) = (start("secondary"), start("primary"));
        let groups: &'static [Group] = if options.two_groups { &APART } else { &TOGETHER };
        let keys = [&primary, &secondary].map(keygen);
        let mut relays = Vec::new();
        for group in groups {
            let ends = [process::free_udp(), process::free_udp()];
            let relay = Relay::start(ends[0], ends[1], options.impairment).expect("sockets for the relay");
            link(&primary, group.link, ends[0], relay.facing_a(), &keys[1]);
            link(&secondary, group.link, ends[1], relay.facing_b(), &keys[0]);
            relays.push(relay);
        }
        // At the same time, because a pair is established only when both ends have been told.
        std::thread::scope(|scope| {
            scope.spawn(|| groups.iter().for_each(|group| set_up_secondary(&secondary, *group)));
            groups.iter().for_each(|group| set_up_primary(&primary, *group, options.scope));
        });
        let (primary_nvme, secondary_nvme) = (process::free_tcp(), process::free_tcp());
        primary.export(PRIMARY_NQN, &VOLUMES, primary_nvme);
        // So that each can be killed and started again.
        primary.save_config();
        secondary.save_config();
        let systems = Systems { secondary, primary, relays, groups, primary_nvme, secondary_nvme };
        systems.wait_until_paired();
        systems
    }

    fn wait_until_paired(&self) {
        for group in self.groups {
            let mut first = None;
            eventually("the pairs and a moving recovery point", PATIENCE, || {
                let (at_primary, at_secondary) = (info(&self.primary, group), info(&self.secondary, group));
                let moving = at_secondary.recovery_point_ns.is_some_and(|point| *first.get_or_insert(point) < point);
                let paired = at_primary.state == PairState::Pair && at_secondary.consistent && moving;
                if paired { Ok(()) } else { Err(format!("{at_primary:?} {at_secondary:?}")) }
            });
        }
    }

    /// The primary's volumes: the database's, then its log's.
    pub fn primary_target(&self) -> Target {
        Target { to: self.primary_nvme, subsystem: PRIMARY_NQN, namespaces: VOLUMES.len() as u32 }
    }

    /// Looks at the primary while it lives: where its timeline stands on the writer's clock.
    pub fn observe_primary(&self, clock: HostClock) -> Observer {
        Observer::start("primary", self.primary.client(), clock).expect("a thread")
    }

    /// Takes over, and exports the copy.
    pub fn take_over(&self) -> (Vec<LossCertificate>, Target) {
        let certificates = self.groups.iter().map(|group| take_over(&self.secondary, group)).collect();
        self.secondary.export(SECONDARY_NQN, &VOLUMES, self.secondary_nvme);
        let target = Target { to: self.secondary_nvme, subsystem: SECONDARY_NQN, namespaces: VOLUMES.len() as u32 };
        (certificates, target)
    }
}

/// Right after a start it is asked again, as the refusal says, until the journal is open.
fn take_over(secondary: &Longrun, group: &Group) -> LossCertificate {
    let params = json!({"name": group.name, "old_primary": "fenced"});
    let certificate =
        eventually("the takeover", PATIENCE, || match secondary.try_call("group_takeover", params.clone()) {
            Ok(certificate) => Ok(certificate),
            Err(error) if error.to_string().contains("try again in a moment") => Err(error.to_string()),
            Err(error) => panic!("{error}\n{}", secondary.log_end()),
        });
    serde_json::from_value(certificate).expect("a certificate")
}

fn info(system: &Longrun, group: &Group) -> GroupInfo {
    let answer = system.call("group_get", json!({"name": group.name}));
    serde_json::from_value(answer[0].clone()).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

fn set_up_secondary(system: &Longrun, group: Group) {
    let journal = format!("journal-{}", group.name);
    system.create_volume(&journal, JOURNAL_BYTES, 4096);
    let params = json!({"name": group.name, "role": "secondary", "link": group.link, "journal": journal});
    system.call("group_create", params);
    pairs(system, group);
}

fn set_up_primary(system: &Longrun, group: Group, scope: &str) {
    let params = json!({
        "name": group.name, "role": "primary", "link": group.link, "sequence_scope": scope,
        "throttle_ms_max": THROTTLE_MS_MAX,
    });
    system.call("group_create", params);
    pairs(system, group);
}

fn pairs(system: &Longrun, group: Group) {
    for at in group.volumes {
        let (volume, block_bytes) = (VOLUMES[*at], BLOCK_BYTES[*at]);
        let medium = format!("medium-{volume}");
        system.create_volume(&medium, VOLUME_BYTES, block_bytes);
        system.call("pair_create", json!({"group": group.name, "name": volume, "volume": medium}));
    }
}

/// Makes a key pair with the command line; answers the public key.
fn keygen(system: &Longrun) -> String {
    let mut command = std::process::Command::new(program::path());
    command.args(["keygen", "--json", "--out"]).arg(system.directory().join("link.key"));
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    answer["public_key"].as_str().unwrap_or_else(|| panic!("no public_key in {answer}")).to_owned()
}

fn link(system: &Longrun, name: &str, local: SocketAddr, remote: SocketAddr, remote_key: &str) {
    let params = json!({
        "name": name, "local_addr": local, "remote_addr": remote, "remote_public_key": remote_key,
        "private_key_file": system.directory().join("link.key"), "loss_tolerance": 0.05,
    });
    system.call("link_create", params);
}
