//! How answers are shown to people: a line per object without borders, so that `grep`, `awk` and `watch` work on it too;
//! one object as a list of facts. What is not known is shown as `-`, never as 0.

mod certificate;

pub use certificate::certificate;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use longrun_rpc::methods::bdev::{BdevInfo, Iostat};
use longrun_rpc::methods::framework::Accounts;
use longrun_rpc::methods::group::{Generation, GroupInfo, Role, SequenceScope, TestInfo, TestState, TestVolume};
use longrun_rpc::methods::link::{LinkInfo, LinkState, RawInfo, RawMode, Security, StrandInfo, Transport};
use longrun_rpc::methods::nvmf::SubsystemInfo;
use longrun_rpc::methods::pair::{PairInfo, Waiting};
use longrun_rpc::methods::spill::{SpillInfo, SpillState};

use super::progress::{copy, verify};
use super::values::Bytes;

/// Shown where something is not known or does not apply.
const UNKNOWN: &str = "-";

/// A column: its heading, and whether it holds numbers.
type Column = (&'static str, bool);

fn text(heading: &'static str) -> Column {
    (heading, false)
}

fn number(heading: &'static str) -> Column {
    (heading, true)
}

/// Lines under headings. `empty` is the sentence for no lines at all.
fn lines(columns: &[Column], rows: Vec<Vec<String>>, empty: &str) -> String {
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for row in rows {
        table.add_row(row.into_iter().map(|cell| one_line(&cell)));
    }
    let last = columns.len().saturating_sub(1);
    for (index, (column, (_, is_number))) in table.column_iter_mut().zip(columns).enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
        column.set_cell_alignment(if *is_number { CellAlignment::Right } else { CellAlignment::Left });
    }
    trimmed(&table.to_string())
}

/// Facts under each other, a name before each.
fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    facts
        .iter()
        .map(|(name, value)| format!("{name:width$}  {}", one_line(value)).trim_end().to_owned() + "\n")
        .collect()
}

/// Without the blanks that fill the last column.
fn trimmed(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// What comes from elsewhere must neither break a line nor move the cursor.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn or_unknown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

/// Where the cores' time went.
pub fn accounts(cores: &[(u32, Accounts)]) -> String {
    let mut rows = Vec::new();
    for (core, accounts) in cores {
        let all: u64 = accounts.steps.iter().map(|step| step.cycles).sum();
        for step in accounts.steps.iter().filter(|step| step.cycles > 0) {
            let ns = accounts.ns(step.cycles);
            let each = (step.entered > 0).then(|| format!("{:.0}", ns / step.entered as f64));
            rows.push(vec![
                core.to_string(),
                step.step.clone(),
                step.entered.to_string(),
                format!("{:.3}", ns / 1e6),
                or_unknown(each),
                format!("{:.1}", step.cycles as f64 * 100.0 / all.max(1) as f64),
            ]);
        }
    }
    let columns = [number("CORE"), text("STEP"), number("ENTERED"), number("MS"), number("NS EACH"), number("%")];
    lines(&columns, rows, "Nothing was counted.")
}

fn yes_no(flag: bool) -> String {
    if flag { "yes" } else { "no" }.to_owned()
}

fn role(role: Role) -> String {
    match role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
    }
    .to_owned()
}

fn security(security: Security) -> &'static str {
    match security {
        Security::Noise => "noise",
        Security::None => "NONE: anybody on the path can read and forge",
    }
}

fn scope(scope: SequenceScope) -> String {
    match scope {
        SequenceScope::Pair => "pair",
        SequenceScope::System => "system",
        SequenceScope::Group => "group",
    }
    .to_owned()
}

fn link_state(state: LinkState) -> String {
    match state {
        LinkState::Connecting => "connecting",
        LinkState::Up => "up",
        LinkState::Down => "DOWN",
    }
    .to_owned()
}

fn generation(generation: &Generation) -> String {
    match &generation.parent {
        None => format!("{} ({})", generation.number, generation.id),
        Some(parent) => format!("{} ({}, from {parent})", generation.number, generation.id),
    }
}

/// A span of time, rounded up: an age is never shown below the true one.
pub(crate) fn span_ms(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..600_000 => format!("{} s", ms.div_ceil(1000)),
        600_000..36_000_000 => format!("{} min", ms.div_ceil(60_000)),
        36_000_000..864_000_000 => format!("{} h", ms.div_ceil(3_600_000)),
        _ => format!("{} days", ms.div_ceil(86_400_000)),
    }
}

/// A moment on a group's timeline, which starts at the wall clock: as UTC, to the nanosecond.
pub(crate) fn moment(ns: u64) -> String {
    longrun_rpc::moment::to_text(ns)
}

/// A volume's kind as method names spell it, from what `bdev_get_bdevs` calls it; what is not known stays as it is.
pub(crate) fn kind(volume: &BdevInfo) -> &str {
    match volume.product_name.as_str() {
        "Malloc disk" => "malloc",
        "Null disk" => "null",
        "URING bdev" => "uring",
        "Error Injection Disk" => "error",
        "delay" => "delay",
        "Remote copy volume" => "replica",
        "Test view of a remote copy volume" => "view",
        other => other,
    }
}

fn volume_size(volume: &BdevInfo) -> Bytes {
    Bytes(volume.num_blocks.saturating_mul(u64::from(volume.block_size)))
}

fn used_by(volume: &BdevInfo) -> String {
    match (&volume.claimed_by, volume.claimed) {
        (Some(owner), _) => owner.clone(),
        (None, true) => "something".to_owned(),
        (None, false) => UNKNOWN.to_owned(),
    }
}

/// `longrun volume list`.
pub fn volumes(volumes: &[BdevInfo]) -> String {
    let columns = [text("NAME"), number("SIZE"), number("BLOCK"), text("KIND"), text("USED BY"), text("UUID")];
    let rows = volumes.iter().map(|volume| {
        vec![
            volume.name.clone(),
            volume_size(volume).to_string(),
            volume.block_size.to_string(),
            kind(volume).to_owned(),
            used_by(volume),
            volume.uuid.to_string(),
        ]
    });
    lines(&columns, rows.collect(), "no volumes; longrun volume create makes one")
}

/// `longrun volume get`.
pub fn volume(volume: &BdevInfo) -> String {
    let mut list = vec![
        ("name", volume.name.clone()),
        ("size", format!("{} ({} blocks of {} bytes)", volume_size(volume), volume.num_blocks, volume.block_size)),
        ("kind", kind(volume).to_owned()),
        ("used by", used_by(volume)),
        ("uuid", volume.uuid.to_string()),
    ];
    let details: Vec<(String, String)> = volume
        .driver_specific
        .values()
        .filter_map(serde_json::Value::as_object)
        .flatten()
        .map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.replace('_', " "), value)
        })
        .collect();
    list.extend(details.iter().map(|(name, value)| (name.as_str(), value.clone())));
    facts(&list)
}

/// `longrun volume stat`.
pub fn iostat(stat: &Iostat) -> String {
    let columns = [
        text("NAME"),
        number("READS"),
        number("READ"),
        number("AVG US"),
        number("WRITES"),
        number("WRITTEN"),
        number("AVG US"),
        number("FLUSHES"),
        number("FAILED"),
    ];
    let average_us = |ticks: u64, ops: u64| match (ops, stat.tick_rate) {
        (0, _) | (_, 0) => UNKNOWN.to_owned(),
        (ops, rate) => format!("{:.0}", ticks as f64 / ops as f64 * 1e6 / rate as f64),
    };
    let rows = stat.bdevs.iter().map(|bdev| {
        let counters = &bdev.counters;
        vec![
            bdev.name.clone(),
            counters.num_read_ops.to_string(),
            Bytes(counters.bytes_read).to_string(),
            average_us(counters.read_latency_ticks, counters.num_read_ops),
            counters.num_write_ops.to_string(),
            Bytes(counters.bytes_written).to_string(),
            average_us(counters.write_latency_ticks, counters.num_write_ops),
            counters.num_flush_ops.to_string(),
            counters.num_failed_ops.to_string(),
        ]
    });
    lines(&columns, rows.collect(), "no volumes; longrun volume create makes one")
}

/// `longrun volume publish`: what a host has to type.
pub fn published(name: &str, nsid: u32, subsystem: &SubsystemInfo) -> String {
    let mut shown = format!("volume {name} is namespace {nsid} of {}\n", subsystem.nqn);
    if subsystem.listen_addresses.is_empty() {
        shown.push_str("the subsystem listens nowhere yet; give --listen ADDRESS:PORT\n");
    }
    for address in &subsystem.listen_addresses {
        let address = address.socket_addr();
        let ip = if address.ip().is_unspecified() { "<this machine>".to_owned() } else { address.ip().to_string() };
        shown.push_str(&format!("hosts: nvme connect -t tcp -a {ip} -s {} -n {}\n", address.port(), subsystem.nqn));
    }
    if !subsystem.allow_any_host && subsystem.hosts.is_empty() {
        shown.push_str("no host may connect yet; give --host NQN or --allow-any-host\n");
    }
    shown
}

/// `longrun link list`.
pub fn links(links: &[LinkInfo]) -> String {
    let columns = [
        text("NAME"),
        text("STATE"),
        number("FOR"),
        text("LOCAL"),
        text("REMOTE"),
        number("RTT"),
        number("SENT"),
        number("RESENT"),
        number("RECEIVED"),
        text("SECURITY"),
        number("CORE"),
    ];
    let rows = links.iter().map(|link| {
        vec![
            link.name.clone(),
            link_state(link.state),
            span_ms(link.state_age_ms),
            link.local_addr.to_string(),
            link.remote_addr.to_string(),
            rtt(link.rtt_us),
            link.counters.frames_sent.to_string(),
            link.counters.frames_retransmitted.to_string(),
            link.counters.frames_received.to_string(),
            security(link.security).split(':').next().unwrap_or_default().to_owned(),
            link_cores(link),
        ]
    });
    lines(&columns, rows.collect(), "no links; longrun link create makes one")
}

fn rtt(us: u64) -> String {
    match us {
        0 => UNKNOWN.to_owned(),
        1..10_000 => format!("{us} us"),
        _ => format!("{:.1} ms", us as f64 / 1000.0),
    }
}

/// The cores that a link is on.
fn link_cores(link: &LinkInfo) -> String {
    match &link.strands[..] {
        [] => link.core.to_string(),
        strands => strands.iter().map(|strand| strand.core.to_string()).collect::<Vec<_>>().join(","),
    }
}

/// Its part on each of several.
fn strands(strands: &[StrandInfo]) -> String {
    let columns = [
        number("CORE"),
        text("STATE"),
        text("LOCAL"),
        text("REMOTE"),
        number("RTT"),
        number("SENT"),
        number("RESENT"),
        number("RECEIVED"),
        text("TRANSPORT"),
    ];
    let rows = strands.iter().map(|strand| {
        vec![
            strand.core.to_string(),
            link_state(strand.state),
            strand.local_addr.to_string(),
            strand.remote_addr.to_string(),
            rtt(strand.rtt_us),
            strand.counters.frames_sent.to_string(),
            strand.counters.frames_retransmitted.to_string(),
            strand.counters.frames_received.to_string(),
            transport_of(strand.transport, strand.raw.as_ref(), strand.transport_reason.as_deref()),
        ]
    });
    format!("\n{}", lines(&columns, rows.collect(), ""))
}

/// What a link's datagrams go by.
pub(crate) fn transport(link: &LinkInfo) -> String {
    transport_of(link.transport, link.raw.as_ref(), link.transport_reason.as_deref())
}

fn transport_of(transport: Transport, raw: Option<&RawInfo>, reason: Option<&str>) -> String {
    match (transport, raw) {
        (Transport::Xdp, Some(raw)) => {
            let how = match raw.mode {
                RawMode::ZeroCopy => "no copy",
                RawMode::Copy => "copied once, in the driver",
                RawMode::Generic => "copied once, behind the driver",
            };
            let to = raw.next_hop.as_ref().map_or_else(String::new, |to| format!(", to {to}"));
            format!("xdp: queue {} of {}, {how}{to}", raw.queue, raw.interface)
        }
        (Transport::Xdp, None) => "xdp".to_owned(),
        (Transport::Udp, _) => match reason {
            Some(reason) => format!("udp instead of xdp: {reason}"),
            None => "udp".to_owned(),
        },
    }
}

fn raw_frames(link: &LinkInfo) -> String {
    link.raw.as_ref().map_or_else(
        || UNKNOWN.to_owned(),
        |raw| {
            format!(
                "{} sent, {} received, {} refused; lost for want of room: {} here, {} in the kernel",
                raw.frames_sent, raw.frames_received, raw.frames_refused, raw.frames_unsent, raw.frames_dropped
            )
        },
    )
}

/// `longrun link get`.
pub fn link(link: &LinkInfo) -> String {
    let counters = &link.counters;
    let mut shown = facts(&[
        ("name", link.name.clone()),
        ("state", format!("{} for {}", link_state(link.state), span_ms(link.state_age_ms))),
        ("reason", or_unknown(link.reason.as_ref())),
        ("local", link.local_addr.to_string()),
        ("remote", link.remote_addr.to_string()),
        ("transport", transport(link)),
        ("raw frames", raw_frames(link)),
        ("security", security(link.security).to_owned()),
        ("own public key", or_unknown(link.local_public_key)),
        ("remote public key", or_unknown(link.remote_public_key)),
        ("core", link_cores(link)),
        ("largest payload", format!("{} bytes", link.mtu_bytes)),
        ("round trip", format!("{}, least {}", rtt(link.rtt_us), rtt(link.rtt_us_min))),
        ("in flight", format!("{} of {}", Bytes(link.in_flight_bytes), Bytes(link.congestion_window_bytes))),
        ("frames sent", format!("{} ({})", counters.frames_sent, Bytes(counters.bytes_sent))),
        ("frames resent", format!("{} ({} believed lost)", counters.frames_retransmitted, counters.frames_lost)),
        ("frames received", format!("{} ({})", counters.frames_received, Bytes(counters.bytes_received))),
        (
            "frames dropped",
            format!(
                "{} unauthentic, {} replayed, {} stale, {} malformed, {} without room",
                counters.dropped_unauthentic,
                counters.dropped_replayed,
                counters.dropped_stale,
                counters.dropped_malformed,
                counters.dropped_no_room
            ),
        ),
        ("sessions", counters.handshakes.to_string()),
    ]);
    if !link.strands.is_empty() {
        shown.push_str(&strands(&link.strands));
    }
    shown
}

/// `longrun group list`.
pub fn groups(groups: &[GroupInfo]) -> String {
    let columns = [
        text("NAME"),
        text("ROLE"),
        text("STATE"),
        text("CONSISTENT"),
        number("RPO"),
        number("BEHIND"),
        number("RECORDS"),
        number("PAIRS"),
        text("LINKS"),
        number("CORE"),
        text("REASON"),
    ];
    let rows = groups.iter().map(|group| {
        vec![
            group.name.clone(),
            role(group.role),
            group.state.to_string(),
            yes_no(group.consistent),
            or_unknown(group.rpo_ms.map(span_ms)),
            or_unknown(group.lag.bytes.map(Bytes)),
            or_unknown(group.lag.records),
            group.pairs.len().to_string(),
            group.links.join(","),
            group.core.to_string(),
            or_unknown(group.reason.as_ref()),
        ]
    });
    lines(&columns, rows.collect(), "no groups; longrun group create makes one")
}

/// `longrun group get`.
pub fn group(group: &GroupInfo) -> String {
    let mut list = vec![
        ("name", group.name.clone()),
        ("role", role(group.role)),
        ("state", format!("{} ({})", group.state, group.state.meaning())),
        ("consistent", yes_no(group.consistent)),
        ("reason", or_unknown(group.reason.as_ref())),
        ("recovery point", or_unknown(group.recovery_point_ns.map(moment))),
        ("rpo", or_unknown(group.rpo_ms.map(span_ms))),
        ("limit time", or_unknown(group.limit_time_ns.map(moment))),
        (
            "behind",
            format!(
                "{} s, {}, {} records",
                // Rounded up: an age is never shown below the true one.
                or_unknown(group.lag.seconds.map(|seconds| format!("{:.3}", (seconds * 1000.0).ceil() / 1000.0))),
                or_unknown(group.lag.bytes.map(Bytes)),
                or_unknown(group.lag.records)
            ),
        ),
        ("generation", generation(&group.generation)),
        ("sequence scope", scope(group.sequence_scope)),
        ("links", group.links.join(", ")),
        ("core", group.core.to_string()),
        ("pairs", group.pairs.join(", ")),
    ];
    list.extend(group.other_generation.as_ref().map(|other| ("other site's generation", generation(other))));
    if let Some(journal) = &group.journal {
        let used = or_unknown(group.journal_used.map(|used| format!("{:.0} %", (used * 100.0).ceil())));
        list.push(("journal", format!("{journal}, {used} used")));
    }
    if let Some(throttle_ms) = group.throttle_ms {
        list.push(("throttle", format!("{throttle_ms} ms on each host write")));
    }
    list.extend(group.waiting.as_ref().map(|waiting| ("waiting", waiting_for(waiting))));
    list.extend(group.spill.as_ref().map(|info| ("spill", spill(info))));
    if let (Some(dirty), Some(missing)) = (group.dirty_bytes, group.missing_bytes) {
        list.push(("marked", format!("{}, of which {} need a resync", Bytes(dirty), Bytes(missing))));
    }
    if let Some(progress) = &group.copy {
        list.push(("copy", copy(progress)));
        list.extend(progress.reason.clone().map(|reason| ("copy reason", reason)));
    }
    list.extend(group.resync.map(|number| ("resync", format!("number {number}; the secondary keeps its last image"))));
    list.extend(group.next_attempt_ms.map(|ms| ("next attempt", format!("in {}", span_ms(ms)))));
    list.extend(group.verify.as_ref().map(|progress| ("verify", verify(progress))));
    if let Some(unit) = &group.unit {
        let where_to = if unit.overlaid { ", old blocks in the overlay" } else { "" };
        list.push(("resync", format!("a takeover gives {} until it is complete{where_to}", moment(unit.base_ns))));
    }
    if let Some(overlay) = &group.overlay {
        let used = or_unknown(group.overlay_used.map(|used| format!("{:.0} %", (used * 100.0).ceil())));
        list.push(("overlay", format!("{overlay}, {used} used")));
    }
    list.extend(group.apply_delay_s.map(|seconds| ("apply delay", format!("{seconds} s"))));
    if let Some(window) = &group.window {
        list.push(("takeover window", format!("{} to {}", moment(window.from_ns), moment(window.until_ns))));
    }
    if !group.copying.is_empty() {
        list.push(("first copy of", format!("{}: a takeover leaves these out", group.copying.join(", "))));
    }
    if let Some(info) = &group.test {
        list.push(("test", test(info)));
    }
    if group.split_accepted {
        list.push(("SPLIT", "both sites may have been written to; one history must still be given up".to_owned()));
    }
    let columns = [
        number("STREAM"),
        text("LINK"),
        number("EPOCH"),
        number("RECEIVED"),
        number("DURABLE"),
        number("ANNOUNCED"),
        text("TIP"),
        text("BROKEN"),
    ];
    let rows = group.streams.iter().map(|stream| {
        vec![
            stream.stream.to_string(),
            stream.link.clone(),
            stream.epoch.to_string(),
            stream.received.to_string(),
            stream.durable.to_string(),
            stream.announced.to_string(),
            or_unknown(stream.tip_ns.map(moment)),
            or_unknown(stream.broken.as_ref()),
        ]
    });
    let mut shown = format!("{}\n{}", facts(&list), lines(&columns, rows.collect(), "no streams"));
    if !group.bookmarks.is_empty() {
        let reachable =
            |time_ns: u64| group.window.is_some_and(|window| (window.from_ns..=window.until_ns).contains(&time_ns));
        let rows =
            group.bookmarks.iter().rev().map(|bookmark| {
                vec![bookmark.name.clone(), moment(bookmark.time_ns), yes_no(reachable(bookmark.time_ns))]
            });
        shown.push('\n');
        shown.push_str(&lines(&[text("BOOKMARK"), text("TIME"), text("IN WINDOW")], rows.collect(), ""));
    }
    shown
}

fn spill(spill: &SpillInfo) -> String {
    let state = match spill.state {
        SpillState::Idle => "not needed now",
        SpillState::Spilling => "in use",
        SpillState::Replaying => "what the last run left is being sent",
        SpillState::Failing => "FAILING",
    };
    let (used, limit) = (Bytes(spill.used_bytes), Bytes(spill.limit_bytes));
    let waiting = format!("{} records ({}) wait there", spill.records, Bytes(spill.bytes));
    let reason = spill.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{}, {used} of {limit} used, {waiting}, {state}{reason}", spill.device)
}

fn test(test: &TestInfo) -> String {
    let state = match (test.state, &test.reason) {
        (TestState::Loading, _) => "being prepared".to_owned(),
        (TestState::Ready, _) => "ready".to_owned(),
        (TestState::Failed, reason) => format!("FAILED: {}", or_unknown(reason.as_ref())),
    };
    format!(
        "{state}, shows {} ({} ago) in {}; {} of {} of {} used",
        moment(test.cut_ns),
        span_ms(test.age_ms),
        test.volumes.join(", "),
        Bytes(test.store_used_bytes),
        Bytes(test.store_bytes),
        test.store
    )
}

/// `longrun group test start`.
pub fn test_volumes(group: &str, volumes: &[TestVolume]) -> String {
    let columns = [text("PAIR"), text("VOLUME"), text("UUID")];
    let rows = volumes.iter().map(|volume| vec![volume.pair.clone(), volume.name.clone(), volume.uuid.to_string()]);
    let shown = lines(&columns, rows.collect(), "no volumes");
    format!("{shown}longrun volume publish shows one to hosts; longrun group test stop {group} ends the test\n")
}

/// `longrun pair list`.
pub fn pairs(pairs: &[PairInfo]) -> String {
    let columns = [
        text("GROUP"),
        text("NAME"),
        text("ROLE"),
        text("STATE"),
        text("CONSISTENT"),
        number("RPO"),
        number("BEHIND"),
        number("SIZE"),
        text("VOLUME"),
        text("REPLICA"),
        text("REMOTE"),
        text("REASON"),
    ];
    let rows = pairs.iter().map(|pair| {
        vec![
            pair.group.clone(),
            pair.name.clone(),
            role(pair.role),
            pair.state.to_string(),
            yes_no(pair.consistent),
            or_unknown(pair.rpo_ms.map(span_ms)),
            or_unknown(pair.pending_bytes.map(Bytes)),
            Bytes(pair.size_bytes).to_string(),
            pair.volume.clone(),
            pair.replica.clone(),
            format!("{}:{}", pair.link, pair.remote_volume),
            match &pair.copy {
                Some(progress) => copy(progress),
                None => or_unknown(pair.reason.as_ref()),
            },
        ]
    });
    lines(&columns, rows.collect(), "no pairs; longrun pair create makes one")
}

fn waiting_for(waiting: &Waiting) -> String {
    let limit = waiting.timeout_ms.map_or_else(|| "until somebody acts".to_owned(), |ms| format!("of {}", span_ms(ms)));
    format!("for {}: {} (for {} {limit})", waiting.owner, waiting.reason, span_ms(waiting.since_ms))
}

/// `longrun pair get`.
pub fn pair(pair: &PairInfo) -> String {
    let counters = pair.counters.as_ref();
    let waiting = pair.waiting.as_ref().map(waiting_for);
    let mut list = vec![
        ("group", pair.group.clone()),
        ("name", pair.name.clone()),
        ("role", role(pair.role)),
        ("state", format!("{} ({})", pair.state, pair.state.meaning())),
        ("consistent", yes_no(pair.consistent)),
        ("rpo", or_unknown(pair.rpo_ms.map(span_ms))),
        ("reason", or_unknown(pair.reason.as_ref())),
        ("waiting", or_unknown(waiting)),
        ("volume", format!("{} ({})", pair.volume, Bytes(pair.size_bytes))),
        ("replica", pair.replica.clone()),
        ("remote volume", format!("{} over link {}", pair.remote_volume, pair.link)),
        (
            "behind",
            format!("{}, {} records", or_unknown(pair.pending_bytes.map(Bytes)), or_unknown(pair.pending_records)),
        ),
        (
            "writes",
            or_unknown(counters.map(|counters| format!("{} ({})", counters.writes, Bytes(counters.write_bytes)))),
        ),
        (
            "records",
            or_unknown(counters.map(|counters| format!("{}, {} of them repairs", counters.records, counters.repairs))),
        ),
        ("overlaps", or_unknown(counters.map(|counters| counters.overlaps.to_string()))),
        ("refused", or_unknown(counters.map(|counters| counters.refused.to_string()))),
    ];
    if let (Some(dirty), Some(missing)) = (pair.dirty_bytes, pair.missing_bytes) {
        list.push(("marked", format!("{}, of which {} need a resync", Bytes(dirty), Bytes(missing))));
    }
    if let Some(progress) = &pair.copy {
        list.push(("copy", copy(progress)));
        list.extend(progress.reason.clone().map(|reason| ("copy reason", reason)));
    }
    let mut differing = String::new();
    if let Some(progress) = &pair.verify {
        list.push(("verify", verify(progress)));
        if !progress.differing.is_empty() {
            let rows = progress.differing.iter().map(|range| {
                vec![range.lba.to_string(), range.lba.saturating_add(range.blocks.saturating_sub(1)).to_string()]
            });
            let columns = [number("FIRST BLOCK"), number("LAST BLOCK THAT DIFFERS")];
            differing = format!("\n{}", lines(&columns, rows.collect(), ""));
        }
    }
    facts(&list) + &differing
}
