//! What remote copy costs and how long its recoveries take, measured with real processes on files, as ratios in one run.

use clap::Parser;
use hdrhistogram::Histogram;
use longrun::lab::relay::{Impairment, Relay};
use longrun_nvmf::host::Command;
use longrun_tests::load::{Target, with_queue};
use longrun_tests::process::{self, Longrun, eventually};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Measures host writes with the pair in each of its states against an unpaired volume of the same kind, a resync against
/// a plain copy, and the recoveries of a long journal.
///
/// Each state is measured in turns with the unpaired volume, so that what else the machine does meets both.
#[derive(Parser)]
#[command(
    name = "figures",
    after_help = "Examples:\n  scripts/figures                       the table\n  scripts/figures --journal-mib 64 --volume-mib 64 --seconds 1 --json   a quick look, for programs"
)]
struct Arguments {
    /// Seconds that each state is measured, in four turns.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Size of the volumes that are copied, MiB.
    #[arg(long, default_value_t = 512)]
    volume_mib: u64,
    /// Bytes that lie in the journal, unapplied, when it is recovered and when it is taken over, MiB.
    #[arg(long, default_value_t = 1024)]
    journal_mib: u64,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

const MIB: u64 = 1 << 20;
const BLOCK_BYTES: u64 = 4096;
const GROUP: &str = "figures";
const PAIR: &str = "volume";
const NQN: &str = "nqn.2026-11.io.longrun:figures";
/// Namespaces of the subsystem.
const PAIRED: u32 = 1;
const PLAIN: u32 = 2;
/// Turns in which a state and the unpaired volume are measured.
const TURNS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let figures = measure(&arguments);
    if arguments.json {
        println!("{figures}");
    } else {
        print_table(&figures);
    }
    ExitCode::SUCCESS
}

/// The two systems, the network between them, and a host's way in.
struct Lab {
    secondary: Longrun,
    primary: Longrun,
    relay: Relay,
    nvme: SocketAddr,
    volume_bytes: u64,
    journal_bytes: u64,
    // Last, so that the processes end before their files go.
    _directory: tempfile::TempDir,
}

/// What the group of a lab is given beside its volumes and its journal.
#[derive(Clone, Copy, Default)]
struct Kind {
    apply_delay_s: u64,
    /// MiB; the least buffer goes with it, so that it is used at once.
    spill_mib: u64,
}

impl Lab {
    fn new(arguments: &Arguments, kind: Kind) -> Lab {
        let directory = tempfile::Builder::new().prefix("longrun-figures-").tempdir().expect("a temporary directory");
        let start = |name: &str| {
            let directory = directory.path().join(name);
            std::fs::create_dir(&directory).expect("a new directory");
            Longrun::start(&directory)
        };
        let (secondary, primary) = (start("secondary"), start("primary"));
        let ends = [process::free_udp(), process::free_udp()];
        let relay = Relay::start(ends[0], ends[1], CLEAN).expect("a relay");
        let keys = [&primary, &secondary].map(keygen);
        link(&primary, ends[0], relay.facing_a(), &keys[1]);
        link(&secondary, ends[1], relay.facing_b(), &keys[0]);
        let volume_bytes = arguments.volume_mib * MIB;

        // Room for what is to stay in it, and for a resync of everything.
        let journal_bytes = (arguments.journal_mib.max(arguments.volume_mib) * 5 / 4 + 64) * MIB;
        secondary.create_volume("journal", journal_bytes, BLOCK_BYTES);
        secondary.create_volume("copy", volume_bytes, BLOCK_BYTES);
        let group = json!({
            "name": GROUP, "role": "secondary", "link": "wan", "journal": "journal",
            "apply_delay_s": kind.apply_delay_s,
        });
        secondary.call("group_create", group);
        primary.create_volume("original", volume_bytes, BLOCK_BYTES);
        primary.create_volume("plain", volume_bytes, BLOCK_BYTES);
        let mut group = json!({"name": GROUP, "role": "primary", "link": "wan"});
        if kind.spill_mib > 0 {
            primary.create_volume("spill", kind.spill_mib * MIB, BLOCK_BYTES);
            group["spill"] = json!("spill");
            group["buffer_bytes"] = json!(4 * MIB);
        } else {
            // Room for what a host writes while the link is down, so that this is measured and not an overflow: the most that
            // a core of 256 MiB gives.
            group["buffer_bytes"] = json!(128 * MIB);
        }
        primary.call("group_create", group);
        std::thread::scope(|scope| {
            scope.spawn(|| secondary.call("pair_create", json!({"group": GROUP, "name": PAIR, "volume": "copy"})));
            primary.call("pair_create", json!({"group": GROUP, "name": PAIR, "volume": "original"}));
        });
        let nvme = process::free_tcp();
        primary.export(NQN, &[PAIR, "plain"], nvme);
        for system in [&primary, &secondary] {
            system.save_config();
        }
        let lab = Lab { secondary, primary, relay, nvme, volume_bytes, journal_bytes, _directory: directory };
        lab.wait_for("PAIR");
        lab
    }

    fn target(&self) -> Target {
        Target { to: self.nvme, subsystem: NQN, namespaces: 2 }
    }

    fn group(&self) -> Value {
        self.primary.call("group_get", json!({"name": GROUP}))[0].clone()
    }

    fn wait_for(&self, state: &str) {
        eventually(state, PATIENCE, || {
            let group = self.group();
            if group["state"] == state { Ok(()) } else { Err(group.to_string()) }
        });
    }

    /// Whether the copy stands, instead of being late.
    fn has_suspended(&self) -> bool {
        self.group()["state"].as_str().is_some_and(|state| state.starts_with("PFUS") || state.starts_with("PSU"))
    }

    /// Waits until the secondary has everything that was written before.
    fn wait_until_caught_up(&self) {
        let wanted = self.group()["timeline_now_ns"].as_u64();
        eventually("the recovery point", PATIENCE, || {
            let group = self.secondary.call("group_get", json!({"name": GROUP}))[0].clone();
            if group["recovery_point_ns"].as_u64() >= wanted { Ok(()) } else { Err(group.to_string()) }
        });
    }

    /// Writes `bytes` from the start of the paired volume on, in large pieces.
    fn fill(&self, bytes: u64) {
        const PIECE: u64 = 128 << 10;
        const LANES: u64 = 4;
        let volume_bytes = self.volume_bytes;
        with_queue(self.target(), async |queue, _| {
            let lane = async |first: u64| {
                for at in (first * PIECE..bytes).step_by((LANES * PIECE) as usize) {
                    let data = vec![(at / PIECE) as u8 | 1; PIECE as usize];
                    let lba = at % volume_bytes / BLOCK_BYTES;
                    let write = Command::write(PAIRED, lba, (PIECE / BLOCK_BYTES) as u16, data, false);
                    assert_success(queue.execute(write).await.expect("an answer").completion.status);
                }
            };
            tokio::join!(lane(0), lane(1), lane(2), lane(3));
        });
    }

    /// Latencies of 4 KiB random writes, one at a time, on the paired and on the unpaired volume in turns.
    fn compare(&self, seconds: f64) -> Compared {
        let mut latencies = [new_histogram(), new_histogram()];
        let turn = Duration::from_secs_f64(seconds / f64::from(2 * TURNS));
        let blocks = self.volume_bytes / BLOCK_BYTES;
        with_queue(self.target(), async |queue, _| {
            let mut number = 1u64;
            for at in 0..2 * TURNS {
                let which = (at % 2) as usize;
                let nsid = [PAIRED, PLAIN][which];
                let until = Instant::now() + turn;
                while Instant::now() < until {
                    // Weyl's sequence: every block sooner or later, no two after one another.
                    number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let lba = ((u128::from(number) * u128::from(blocks)) >> 64) as u64;
                    let data = vec![number as u8; BLOCK_BYTES as usize];
                    let begun = Instant::now();
                    let answer = queue.execute(Command::write(nsid, lba, 1, data, false)).await.expect("an answer");
                    assert_success(answer.completion.status);
                    latencies[which].saturating_record(begun.elapsed().as_nanos() as u64);
                }
            }
        });
        let [paired, plain] = latencies;
        Compared { paired, plain }
    }
}

/// A network that does nothing to what passes.
const CLEAN: Impairment = Impairment { loss: 0.0, reorder: 0.0, duplicate: 0.0, delay: Duration::ZERO, seed: 1 };

struct Compared {
    paired: Histogram<u64>,
    plain: Histogram<u64>,
}

impl Compared {
    fn figures(&self) -> Value {
        let at = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let ratio = |quantile| rounded(at(&self.paired, quantile) / at(&self.plain, quantile).max(0.001));
        json!({
            "p50_us": rounded(at(&self.paired, 0.5)), "p99_us": rounded(at(&self.paired, 0.99)),
            "unpaired_p50_us": rounded(at(&self.plain, 0.5)), "unpaired_p99_us": rounded(at(&self.plain, 0.99)),
            "p50_ratio": ratio(0.5), "p99_ratio": ratio(0.99), "writes": self.paired.len(),
        })
    }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that hold")
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn assert_success(status: longrun_nvmf::spec::Status) {
    assert!(status.is_success(), "the host was answered with {status}");
}

fn measure(arguments: &Arguments) -> Value {
    let lab = Lab::new(arguments, Kind::default());
    let mut states = serde_json::Map::new();
    let mut note = |state: &str, compared: &Compared| {
        eprintln!("{state}: {}", compared.figures());
        states.insert(state.to_owned(), compared.figures());
    };
    note("healthy", &lab.compare(arguments.seconds));

    lab.wait_until_caught_up();
    lab.relay.cut();
    note("link_down", &lab.compare(arguments.seconds));
    assert!(!lab.has_suspended(), "the memory did not last: {}", lab.group());
    lab.relay.mend();
    lab.wait_until_caught_up();

    lab.primary.call("group_suspend", json!({"name": GROUP}));
    note("suspended", &lab.compare(arguments.seconds));
    lab.fill(lab.volume_bytes);
    let plain_copy = plain_copy_seconds(&lab);
    lab.primary.call("group_resync", json!({"name": GROUP}));
    let begun = Instant::now();
    note("resyncing", &lab.compare(arguments.seconds.min(4.0)));
    let is_still_copying = lab.group()["state"] == "COPY";
    lab.wait_for("PAIR");
    let beside_hosts = begun.elapsed().as_secs_f64();

    // The same once more without a host, beside the plain copy.
    lab.wait_until_caught_up();
    lab.primary.call("group_suspend", json!({"name": GROUP}));
    lab.fill(lab.volume_bytes);
    lab.primary.call("group_resync", json!({"name": GROUP}));
    let begun = Instant::now();
    lab.wait_for("PAIR");
    let alone = begun.elapsed().as_secs_f64();
    let mib = lab.volume_bytes as f64 / MIB as f64;
    let resync = json!({
        "mib": mib, "mib_per_s": rounded(mib / alone), "plain_copy_mib_per_s": rounded(mib / plain_copy),
        "ratio": rounded(plain_copy / alone), "mib_per_s_beside_a_host": rounded(mib / beside_hosts),
        "host_measured_to_the_end": !is_still_copying,
    });

    drop(lab);
    let lab = Lab::new(arguments, Kind { spill_mib: 2048, ..Kind::default() });
    lab.relay.cut();
    lab.fill(16 * MIB);
    note("spilling", &lab.compare(arguments.seconds));
    assert!(!lab.has_suspended(), "the spill did not last: {}", lab.group());
    assert!(lab.group()["spill"]["used_bytes"].as_u64() > Some(8 * MIB), "nothing was spilled: {}", lab.group());

    drop(lab);
    // The volumes stay behind for good, so everything stays in the journal.
    let lab = Lab::new(arguments, Kind { apply_delay_s: 86_400, ..Kind::default() });
    let (recovery, takeover) = journal_figures(lab, arguments.journal_mib);
    json!({"host_writes_4k_qd1": states, "resync": resync, "journal_recovery": recovery, "takeover": takeover})
}

/// Copies the primary's file as the secondary would have to, without remote copy: direct I/O, one flush.
fn plain_copy_seconds(lab: &Lab) -> f64 {
    const PIECE: usize = 256 << 10;
    let direct = |path: &Path, write: bool| {
        let mut options = OpenOptions::new();
        options.read(true).write(write).create(write).truncate(false).custom_flags(libc::O_DIRECT);
        options.open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let from = direct(&lab.primary.directory().join("original"), false);
    let to_path = lab.secondary.file("plain-copy", lab.volume_bytes);
    let to = direct(&to_path, true);
    // Aligned for direct I/O.
    let mut room = vec![0u8; PIECE + 4096];
    let start = room.as_ptr().align_offset(4096);
    let piece = &mut room[start..start + PIECE];
    let begun = Instant::now();
    for at in (0..lab.volume_bytes).step_by(PIECE) {
        from.read_exact_at(piece, at).expect("a read");
        to.write_all_at(piece, at).expect("a write");
    }
    to.sync_all().expect("a flush");
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_file(to_path).expect("the copy goes again");
    seconds
}

/// How long the secondary takes to be ready again, and to be taken over, with this much in its journal that is not applied.
fn journal_figures(mut lab: Lab, journal_mib: u64) -> (Value, Value) {
    lab.fill(journal_mib * MIB);
    lab.wait_until_caught_up();
    let group = lab.secondary.call("group_get", json!({"name": GROUP}))[0].clone();
    let journal_bytes = lab.journal_bytes as f64;
    let bytes = (group["journal_used"].as_f64().unwrap_or(0.0) * journal_bytes) as u64;
    assert!(bytes >= journal_mib * MIB * 9 / 10, "{bytes} bytes are unapplied: {group}");
    lab.secondary.kill();
    let begun = Instant::now();
    lab.secondary.start_again();
    let started = begun.elapsed().as_secs_f64();
    eventually("the journal", PATIENCE, || {
        let group = lab.secondary.call("group_get", json!({"name": GROUP}))[0].clone();
        let reason = group["reason"].as_str().unwrap_or_default();
        if reason.contains("journal is being") { Err(group.to_string()) } else { Ok(()) }
    });
    let recovered = begun.elapsed().as_secs_f64();
    lab.wait_until_caught_up();
    lab.primary.kill();
    let begun = Instant::now();
    lab.secondary.call("group_takeover", json!({"name": GROUP, "old_primary": "fenced"}));
    let taken = begun.elapsed().as_secs_f64();
    let mib = bytes as f64 / MIB as f64;
    let recovery = json!({"mib": rounded(mib), "process_start_s": rounded(started), "ready_s": rounded(recovered)});
    (recovery, json!({"unapplied_mib": rounded(mib), "seconds": rounded(taken), "mib_per_s": rounded(mib / taken)}))
}

fn print_table(figures: &Value) {
    println!("host writes, 4 KiB, one at a time, against an unpaired volume in turns");
    println!("{:<12} {:>9} {:>9} {:>12} {:>12}", "pair", "p50 us", "p99 us", "p50 ratio", "p99 ratio");
    for (state, it) in figures["host_writes_4k_qd1"].as_object().into_iter().flatten() {
        println!("{state:<12} {:>9} {:>9} {:>12} {:>12}", it["p50_us"], it["p99_us"], it["p50_ratio"], it["p99_ratio"]);
    }
    for part in ["resync", "journal_recovery", "takeover"] {
        println!("\n{part}");
        for (name, value) in figures[part].as_object().into_iter().flatten() {
            println!("  {name:<26} {value}");
        }
    }
}

/// Makes a key pair with the command line; answers the public key.
fn keygen(system: &Longrun) -> String {
    let file = system.directory().join("link.key");
    let keygen = ["keygen", "--json", "--out"];
    let output = std::process::Command::new(longrun_tests::program::path()).args(keygen).arg(&file).output();
    let output = output.expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    answer["public_key"].as_str().unwrap_or_else(|| panic!("no public_key in {answer}")).to_owned()
}

fn link(system: &Longrun, local: SocketAddr, remote: SocketAddr, remote_key: &str) {
    let params = json!({
        "name": "wan", "local_addr": local, "remote_addr": remote, "remote_public_key": remote_key,
        "private_key_file": system.directory().join("link.key"),
    });
    system.call("link_create", params);
}
