//! Two systems with a network between them, and one consistency group.

use crate::load::{Load, Target, read_back};
use crate::process::{self, Longrun, eventually};
use longrun::demo::clock::HostClock;
use longrun::demo::observer::{Observer, Seen};
use longrun::demo::workload::Outcome;
use longrun::lab::ports::free_udp;
use longrun::lab::relay::{Impairment, Relay};
use longrun_checker::{Contents, Cut, History, HostTime, Image, Verdict, Volume, judge};
use longrun_rpc::methods::group::{GroupInfo, LossCertificate};
use longrun_rpc::methods::pair::PairState;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;

/// The link's name and the group's, at both systems: those that [`Observer`] asks for.
pub const LINK: &str = "wan";
/// See [`LINK`].
pub const GROUP: &str = "demo";
/// The subsystem of the primary's volumes.
pub const PRIMARY_NQN: &str = "nqn.2026-11.io.longrun:test-primary";
/// The subsystem of the secondary's volumes.
pub const SECONDARY_NQN: &str = "nqn.2026-11.io.longrun:test-secondary";
/// The pairs and their replica devices.
pub const VOLUMES: [&str; 2] = ["volume0", "volume1"];

const VOLUME_BYTES: u64 = 8 << 20;
const BLOCK_BYTES: [u64; 2] = [4096, 512];
const PATIENCE: Duration = Duration::from_secs(60);

/// How the sites are set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// What a sequence number counts.
    pub scope: &'static str,
    /// The link's security; without it (`none`) neither system is told the other's key.
    pub security: &'static str,
    /// More parameters of `link_create` at both systems, as in `{"cores": [0, 1]}`.
    pub at_link: Value,
    /// The most that a write is delayed before the group suspends.
    pub throttle_ms_max: u64,
    /// The primary's memory for records in transit.
    pub buffer_bytes: u64,
    /// Added to every write of the secondary's media, microseconds.
    pub secondary_write_us: u64,
    /// Added to every write of the journal's medium, microseconds.
    pub journal_write_us: u64,
    /// The journal's size.
    pub journal_bytes: u64,
    /// The size of the primary's spill, `spill`; 0 for none.
    pub spill_bytes: u64,
    /// More flags for the primary's `serve` ...
    pub primary_flags: &'static [&'static str],
    /// ... and the secondary's.
    pub secondary_flags: &'static [&'static str],
    /// More parameters of `group_create` at the primary ...
    pub at_primary: Value,
    /// ... and at the secondary.
    pub at_secondary: Value,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            scope: "group",
            security: "noise",
            at_link: json!({}),
            throttle_ms_max: 2_000,
            buffer_bytes: 64 << 20,
            secondary_write_us: 0,
            journal_write_us: 0,
            journal_bytes: 256 << 20,
            spill_bytes: 0,
            primary_flags: &[],
            secondary_flags: &[],
            at_primary: json!({}),
            at_secondary: json!({}),
        }
    }
}

/// The two systems. The second is declared first, so that it ends first.
pub struct Sites {
    /// Where the copy is.
    pub secondary: Longrun,
    /// Where hosts write.
    pub primary: Longrun,
    /// The network.
    pub relay: Relay,
    /// The hosts' clock.
    pub clock: HostClock,
    /// What the hosts' blocks hold.
    pub contents: Contents,
    primary_nvme: SocketAddr,
    secondary_nvme: SocketAddr,
    _directory: TempDir,
}

impl Sites {
    /// Starts two systems and waits until the pairs are established. All of it is on files and saved as configuration, so
    /// that each can be killed and started again.
    pub fn paired(options: &Options) -> Sites {
        let sites = Sites::created(options);
        sites.wait_until_paired();
        sites
    }

    /// The same without waiting for the pairs.
    pub fn created(options: &Options) -> Sites {
        let directory = tempfile::Builder::new().prefix("longrun-test-").tempdir().unwrap();
        let start = |name: &str, flags| {
            let directory = directory.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            Longrun::start_with(&directory, flags)
        };
        let secondary = start("secondary", options.secondary_flags);
        let primary = start("primary", options.primary_flags);
        let strands = options.at_link["cores"].as_array().map_or(1, Vec::len) as u16;
        let ends = [free_udp(strands).unwrap(), free_udp(strands).unwrap()];
        let impairment =
            Impairment { loss: 0.02, reorder: 0.05, duplicate: 0.01, delay: Duration::from_millis(1), seed: 7 };
        let relay = Relay::of_strands(ends[0], ends[1], strands, impairment).unwrap();
        let clock = HostClock::start();
        let contents = Contents::new(clock.now().0);
        let (primary_nvme, secondary_nvme) = (process::free_tcp(), process::free_tcp());
        let keys = [&primary, &secondary].map(keygen);
        link(&primary, ends[0], relay.facing_a(), &keys[1], options);
        link(&secondary, ends[1], relay.facing_b(), &keys[0], options);

        // At the same time, because a pair is established only when both ends have been told.
        std::thread::scope(|scope| {
            scope.spawn(|| set_up_secondary(&secondary, options));
            set_up_primary(&primary, options);
        });
        primary.export(PRIMARY_NQN, &VOLUMES, primary_nvme);
        primary.save_config();
        secondary.save_config();
        Sites { secondary, primary, relay, clock, contents, primary_nvme, secondary_nvme, _directory: directory }
    }

    /// Waits until both ends say PAIR, and the recovery point moves.
    pub fn wait_until_paired(&self) {
        eventually("the primary's pairs", PATIENCE, || {
            let group = group(&self.primary);
            if group.state == PairState::Pair { Ok(()) } else { Err(said(&self.primary, &group)) }
        });
        self.wait_until_moving();
    }

    /// Waits until the secondary's recovery point moves.
    pub fn wait_until_moving(&self) {
        let mut first = None;
        eventually("the recovery point to move", PATIENCE, || {
            let group = group(&self.secondary);
            let moving = group.recovery_point_ns.is_some_and(|point| *first.get_or_insert(point) < point);
            if moving && group.consistent { Ok(()) } else { Err(said(&self.secondary, &group)) }
        });
    }

    /// Waits until everything that was written before is behind the secondary's recovery point.
    pub fn wait_until_caught_up(&self) {
        let wanted = group(&self.primary).timeline_now_ns;
        eventually("the recovery point to catch up", PATIENCE, || {
            let group = group(&self.secondary);
            let there = group.recovery_point_ns.is_some_and(|point| point >= wanted);
            if there { Ok(()) } else { Err(format!("wanted {wanted}: {}", said(&self.secondary, &group))) }
        });
    }

    /// A host on the primary's volumes.
    pub fn load(&self, bytes_per_second: u64, seed: u64) -> Load {
        Load::start(self.primary_target(), self.contents, self.clock, bytes_per_second, seed)
    }

    /// The primary's volumes.
    pub fn primary_target(&self) -> Target {
        Target { to: self.primary_nvme, subsystem: PRIMARY_NQN, namespaces: VOLUMES.len() as u32 }
    }

    /// The secondary's volumes; to be exported first.
    pub fn secondary_target(&self) -> Target {
        Target { to: self.secondary_nvme, subsystem: SECONDARY_NQN, namespaces: VOLUMES.len() as u32 }
    }

    /// Exports the secondary's volumes.
    pub fn export_secondary(&self) {
        self.secondary.export(SECONDARY_NQN, &VOLUMES, self.secondary_nvme);
    }

    /// Looks at the primary while it lives: where its timeline stands on the hosts' clock.
    pub fn observe_primary(&self) -> Observer {
        Observer::start("primary", self.primary.client(), self.clock).unwrap()
    }

    /// Waits until the primary shows this state, and answers what it shows.
    pub fn wait_for(&self, state: PairState) -> GroupInfo {
        eventually(&format!("{state} at the primary"), PATIENCE, || {
            let group = group(&self.primary);
            if group.state == state { Ok(group) } else { Err(said(&self.primary, &group)) }
        })
    }

    /// Takes over; right after a start it is asked again, as the refusal says, until the journal is open.
    pub fn take_over(&self) -> LossCertificate {
        self.take_over_with(json!({"name": GROUP, "old_primary": "fenced"}))
    }

    /// The same at a time or a bookmark.
    pub fn take_over_at(&self, at: impl Into<Value>) -> LossCertificate {
        self.take_over_with(json!({"name": GROUP, "old_primary": "fenced", "at": at.into()}))
    }

    fn take_over_with(&self, params: Value) -> LossCertificate {
        let certificate =
            eventually("the takeover", PATIENCE, || match self.secondary.try_call("group_takeover", params.clone()) {
                Ok(certificate) => Ok(certificate),
                Err(error) if error.to_string().contains("try again in a moment") => Err(error.to_string()),
                Err(error) => panic!("{error}\n{}", self.secondary.log_end()),
            });
        serde_json::from_value(certificate).unwrap()
    }

    /// A disaster in mid-write: the primary is killed, the secondary is taken over. Hosts have seen no error until then, and
    /// what the copy shows is the past, cut at one point.
    pub fn kill_and_take_over(
        &mut self,
        load: Load,
        observer: Observer,
        age_bound: Duration,
    ) -> (LossCertificate, Verdict) {
        self.primary.kill();
        let killed_at = self.clock.now();
        let outcome = load.wait_for_end();
        assert_eq!((outcome.errors, &outcome.first_error), (0, &None));
        let certificate = self.take_over();
        let verdict = self.judge(&certificate, outcome, &observer.finish(), killed_at, age_bound);
        assert_closed(&verdict);
        (certificate, verdict)
    }

    /// Exports the volumes taken over and judges them. The primary must be dead since `killed_at`.
    pub fn judge(
        &self,
        certificate: &LossCertificate,
        outcome: Outcome,
        seen: &Seen,
        killed_at: HostTime,
        age_bound: Duration,
    ) -> Verdict {
        self.export_secondary();
        let read = read_back(self.secondary_target(), self.contents);
        let point = (certificate.recovery_point_ns, certificate.clock_error_ns);
        judge_image(&read, point, outcome, seen, killed_at, age_bound)
    }
}

/// Judges what was read of volumes that are said to show this moment of the primary's timeline, known up to this error
/// (both in nanoseconds). The primary was dead since `ended_at`, or its log ends then.
pub fn judge_image(
    (shape, image): &(Vec<Volume>, Image),
    (cut_ns, clock_error_ns): (u64, u64),
    outcome: Outcome,
    seen: &Seen,
    ended_at: HostTime,
    age_bound: Duration,
) -> Verdict {
    let mapped = seen.timeline.map(cut_ns).expect("the primary was observed");
    let cut = Cut {
        recovery_point: mapped.at,
        clock_error_ns: mapped.error_ns + clock_error_ns,
        killed_at: ended_at,
        age_bound_ns: age_bound.as_nanos() as u64,
        suspended: false,
    };
    judge(&History::merge(shape, [outcome.log]), image, &cut)
}

/// Panics unless the copy is the past, cut at one point, and enough was written to tell.
pub fn assert_closed(verdict: &Verdict) {
    assert!(verdict.order_closed, "{verdict:#?}");
    assert!(verdict.constraints_checked > 100, "{verdict:#?}");
}

/// The group as a system sees it.
pub fn group(system: &Longrun) -> GroupInfo {
    let answer = system.call("group_get", json!({"name": GROUP}));
    serde_json::from_value(answer[0].clone()).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

fn said(system: &Longrun, group: &GroupInfo) -> String {
    let GroupInfo { state, reason, recovery_point_ns, timeline_now_ns, .. } = group;
    let link = system.call("link_get", json!({"name": LINK}))[0]["state"].clone();
    format!("{state} {reason:?}, recovery point {recovery_point_ns:?} at {timeline_now_ns}, link {link}")
}

/// Parameters with more of them; `null` takes one away.
fn with(mut params: Value, more: &Value) -> Value {
    let (Some(params_map), Some(more)) = (params.as_object_mut(), more.as_object()) else { panic!("{params} {more}") };
    params_map.extend(more.clone());
    params
}

fn set_up_secondary(system: &Longrun, options: &Options) {
    let medium = |name: &str, bytes, block_bytes, write_us: u64| {
        if write_us == 0 {
            return system.create_volume(name, bytes, block_bytes);
        }
        let base = format!("fast-{name}");
        system.create_volume(&base, bytes, block_bytes);
        let delay = json!({
            "base_bdev_name": base, "name": name, "avg_read_latency": 0, "p99_read_latency": 0,
            "avg_write_latency": write_us, "p99_write_latency": write_us,
        });
        system.call("bdev_delay_create", delay);
    };
    medium("journal", options.journal_bytes, 4096, options.journal_write_us);
    let group = json!({"name": GROUP, "role": "secondary", "link": LINK, "journal": "journal"});
    system.call("group_create", with(group, &options.at_secondary));
    for (volume, block_bytes) in VOLUMES.into_iter().zip(BLOCK_BYTES) {
        let name = format!("medium-{volume}");
        medium(&name, VOLUME_BYTES, block_bytes, options.secondary_write_us);
        system.call("pair_create", json!({"group": GROUP, "name": volume, "volume": name}));
    }
}

fn set_up_primary(system: &Longrun, options: &Options) {
    let group = json!({
        "name": GROUP, "role": "primary", "link": LINK, "sequence_scope": options.scope,
        "throttle_ms_max": options.throttle_ms_max, "buffer_bytes": options.buffer_bytes,
    });
    let group = match options.spill_bytes {
        0 => group,
        bytes => {
            system.create_volume("spill", bytes, 4096);
            with(group, &json!({"spill": "spill"}))
        }
    };
    system.call("group_create", with(group, &options.at_primary));
    for (volume, block_bytes) in VOLUMES.into_iter().zip(BLOCK_BYTES) {
        let medium = format!("medium-{volume}");
        system.create_volume(&medium, VOLUME_BYTES, block_bytes);
        system.call("pair_create", json!({"group": GROUP, "name": volume, "volume": medium}));
    }
}

/// Makes a key pair with the command line; answers the public key.
fn keygen(system: &Longrun) -> String {
    let file = system.directory().join("link.key");
    let output = std::process::Command::new(crate::program::path())
        .args(["keygen", "--json", "--out"])
        .arg(&file)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    answer["public_key"].as_str().unwrap_or_else(|| panic!("no public_key in {answer}")).to_owned()
}

fn link(system: &Longrun, local: SocketAddr, remote: SocketAddr, remote_key: &str, options: &Options) {
    let mut params = json!({
        "name": LINK, "local_addr": local, "remote_addr": remote, "loss_tolerance": 0.05, "security": options.security,
    });
    if options.security == "noise" {
        params["remote_public_key"] = remote_key.into();
        params["private_key_file"] = json!(system.directory().join("link.key"));
    }
    system.call("link_create", with(params, &options.at_link));
}
