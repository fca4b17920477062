//! What a bench says at its end: a table, JSON, a page.

use super::floor::{MachineFloor, TcpFloor};
use super::frames::LinkFrames;
use super::job::{COLUMN, Seen};
use super::steps::{CoreCost, StepCost};
use super::workload::Workload;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

/// The quantiles that are told and drawn.
pub const QUANTILES: [f64; 12] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 0.99999, 1.0];

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was measured, in words.
    pub target: String,
    /// Where.
    pub machine: Machine,
    /// What it can do at all.
    pub machine_floor: Option<MachineFloor>,
    /// What the systems use while they have nothing to do.
    pub rest: Option<Rest>,
    /// Each workload's figures.
    pub results: Vec<Measured>,
}

/// Systems with nothing to do: volumes exported, hosts connected, pairs healthy.
#[derive(Clone, Debug, Serialize)]
pub struct Rest {
    /// How long they were watched.
    pub seconds: f64,
    /// Connections of hosts.
    pub connections: u16,
    /// Of one core, percent: the process that serves the volumes.
    pub target_percent: Option<f64>,
    /// The secondary's.
    pub secondary_percent: Option<f64>,
}

impl Rest {
    /// In words.
    pub fn sentence(&self) -> String {
        let of = |name: &str, percent: Option<f64>| percent.map(|percent| format!("{name} {percent:.2} % of a core"));
        let used: Vec<String> = [of("the target", self.target_percent), of("the secondary", self.secondary_percent)]
            .into_iter()
            .flatten()
            .collect();
        let (seconds, connections) = (self.seconds, self.connections);
        format!("At rest for {seconds} s, {connections} connections of hosts: {}.", used.join(", "))
    }
}

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Its processor, as it calls itself.
    pub processor: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// Its kernel.
    pub kernel: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Machine {
        let line = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpus = line("/proc/cpuinfo");
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Machine {
            processor: model.map_or("unknown", |(_, name)| name).to_owned(),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: line("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// Latencies, microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// How many commands.
    pub commands: u64,
    /// Their mean.
    pub mean_us: f64,
    /// By [`QUANTILES`].
    pub quantiles: Vec<(f64, f64)>,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Option<Latency> {
        if histogram.is_empty() {
            return None;
        }
        let us = |quantile| rounded(histogram.value_at_quantile(quantile) as f64 / 1e3);
        Some(Latency {
            commands: histogram.len(),
            mean_us: rounded(histogram.mean() / 1e3),
            quantiles: QUANTILES.iter().map(|quantile| (*quantile, us(*quantile))).collect(),
        })
    }

    /// The latency that this share of the commands did not exceed; one of [`QUANTILES`].
    pub fn at(&self, quantile: f64) -> f64 {
        self.quantiles.iter().find(|(of, _)| *of == quantile).map_or(f64::NAN, |(_, us)| *us)
    }
}

/// The recovery point's age while a workload ran.
#[derive(Clone, Debug, Serialize)]
pub struct Rpo {
    /// Milliseconds.
    pub p50_ms: f64,
    /// Milliseconds.
    pub p99_ms: f64,
    /// Milliseconds.
    pub max_ms: f64,
    /// Seconds since the measurement began, and milliseconds.
    pub over_time: Vec<(f64, f64)>,
}

impl Rpo {
    /// `None`: nothing was seen.
    pub fn of(over_time: Vec<(f64, f64)>) -> Option<Rpo> {
        let mut ages: Vec<f64> = over_time.iter().map(|(_, ms)| *ms).collect();
        ages.sort_by(f64::total_cmp);
        let at =
            |share: f64| ages.get(((ages.len() as f64 * share) as usize).min(ages.len().saturating_sub(1))).copied();
        Some(Rpo { p50_ms: at(0.5)?, p99_ms: at(0.99)?, max_ms: at(1.0)?, over_time })
    }
}

/// CPU time for each command, microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cpu {
    /// Of the process that serves the volumes.
    pub target_us: Option<f64>,
    /// Of the secondary's.
    pub secondary_us: Option<f64>,
    /// Of that, what the reactors of a lab's system were at work, not waiting or looking for work: what a command costs.
    pub target_busy_us: Option<f64>,
    /// The secondary's.
    pub secondary_busy_us: Option<f64>,
}

/// A workload's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// What ran.
    pub workload: Workload,
    /// In words.
    pub title: String,
    /// Commands per second.
    pub per_s: f64,
    /// Payload, MiB per second.
    pub mib_per_s: f64,
    /// Of reads.
    pub reads: Option<Latency>,
    /// Of writes.
    pub writes: Option<Latency>,
    /// Commands that failed.
    pub errors: u64,
    /// The first one's words.
    pub first_error: Option<String>,
    /// Commands per second by tenths of a second.
    pub over_time: Vec<f64>,
    /// The recovery point's age.
    pub rpo: Option<Rpo>,
    /// What it costs.
    pub cpu: Cpu,
    /// What it costs each core, where the lab's systems have several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<CoreCost>,
    /// What the link to the secondary carried.
    pub link: Option<LinkFrames>,
    /// Where a command's time went in the lab's systems, if they keep accounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepCost>,
    /// Bare TCP with the same sizes, depth and polling.
    pub floor: Option<TcpFloor>,
    /// How it compares with what was measured beside it; medians, if there were several rounds.
    #[serde(flatten)]
    pub ratios: Ratios,
    /// Each round's, if there were several.
    pub rounds: Vec<Round>,
    /// What an operator has to know to judge the figures.
    pub notes: Vec<String>,
}

/// How a measurement compares with others of the same moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Ratios {
    /// `per_s` over that of the floor.
    pub of_floor: Option<f64>,
    /// The median latency over that of the floor.
    pub p50_of_floor: Option<f64>,
    /// `per_s` over that of the floor in which all that is due goes with one call.
    pub of_together: Option<f64>,
    /// Payload over what bare TCP streams one way.
    pub of_stream: Option<f64>,
    /// `per_s` over that without the idle connections.
    pub of_alone: Option<f64>,
    /// The link's frames over those of a bare sender and receiver.
    pub frames_of_floor: Option<f64>,
}

impl Ratios {
    /// Each one's median.
    fn middle(all: &[Ratios]) -> Ratios {
        let of = |which: fn(&Ratios) -> Option<f64>| middle(all.iter().filter_map(which).collect());
        Ratios {
            of_floor: of(|ratios| ratios.of_floor),
            p50_of_floor: of(|ratios| ratios.p50_of_floor),
            of_together: of(|ratios| ratios.of_together),
            of_stream: of(|ratios| ratios.of_stream),
            of_alone: of(|ratios| ratios.of_alone),
            frames_of_floor: of(|ratios| ratios.frames_of_floor),
        }
    }
}

/// The median; the lower one of two.
fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// What one of several rounds showed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Commands per second.
    pub per_s: f64,
    /// Beside what was measured in it.
    #[serde(flatten)]
    pub ratios: Ratios,
}

impl Measured {
    /// From what the jobs saw.
    pub fn new(workload: &Workload, seen: &Seen, cpu: Cpu, rpo: Option<Rpo>, floor: Option<TcpFloor>) -> Measured {
        let per_s = seen.commands() as f64 / workload.seconds;
        // A floor of one connection says nothing about several.
        let comparable = floor.as_ref().filter(|_| workload.jobs == 1 && workload.rate.is_none());
        let mib_per_s = per_s * f64::from(workload.block_bytes) / f64::from(1 << 20);
        let (reads, writes) = (Latency::of(&seen.reads), Latency::of(&seen.writes));
        let ratio = |value: f64, of: fn(&TcpFloor) -> f64| comparable.map(|floor| rounded(value / of(floor)));
        let p50_us = most_of(&reads, &writes).map_or(f64::NAN, |latency| latency.at(0.5));
        let ratios = Ratios {
            of_floor: ratio(per_s, |floor| floor.per_s),
            p50_of_floor: ratio(p50_us, |floor| floor.p50_us),
            of_together: ratio(per_s, |floor| floor.together_per_s),
            of_stream: ratio(mib_per_s, |floor| floor.stream_mib_per_s),
            of_alone: None,
            frames_of_floor: None,
        };
        let whole = (workload.seconds / COLUMN.as_secs_f64()) as usize;
        let over_time = (0..whole.max(1)).map(|column| {
            let count = seen.columns.get(column).copied().unwrap_or(0);
            rounded(count as f64 / COLUMN.as_secs_f64())
        });
        Measured {
            title: workload.title(),
            per_s: rounded(per_s),
            mib_per_s: rounded(mib_per_s),
            reads,
            writes,
            errors: seen.errors,
            first_error: seen.first_error.clone(),
            over_time: over_time.collect(),
            rpo,
            cpu,
            cores: Vec::new(),
            link: None,
            steps: Vec::new(),
            ratios,
            rounds: Vec::new(),
            floor,
            notes: Vec::new(),
            workload: workload.clone(),
        }
    }

    /// Adds what the link did.
    pub fn set_link(&mut self, link: LinkFrames) {
        self.ratios.frames_of_floor = link.floor_per_s.map(|floor| rounded(link.per_s / floor));
        self.link = Some(link);
    }

    /// The round in the middle by its rate, of at least one, with the medians of all their ratios and the errors of all.
    pub fn middle(mut rounds: Vec<Measured>) -> Measured {
        let each: Vec<Round> = rounds.iter().map(|round| Round { per_s: round.per_s, ratios: round.ratios }).collect();
        let ratios: Vec<Ratios> = each.iter().map(|round| round.ratios).collect();
        let errors = rounds.iter().map(|round| round.errors).sum();
        let first_error = rounds.iter().find_map(|round| round.first_error.clone());
        rounds.sort_by(|a, b| a.per_s.total_cmp(&b.per_s));
        let mut chosen = rounds.swap_remove((each.len() - 1) / 2);
        (chosen.errors, chosen.first_error) = (errors, first_error);
        if each.len() > 1 {
            (chosen.ratios, chosen.rounds) = (Ratios::middle(&ratios), each);
        }
        chosen
    }

    /// What each core costs, in words.
    pub fn cores_sentence(&self) -> String {
        let of = |cost: &CoreCost| format!("{} core {} {:.2}", cost.system, cost.core, cost.busy_us);
        format!("busy us/IO: {}", self.cores.iter().map(of).collect::<Vec<_>>().join(", "))
    }

    /// Latencies of what there is more of.
    pub fn latency(&self) -> Option<&Latency> {
        most_of(&self.reads, &self.writes)
    }
}

fn most_of<'a>(reads: &'a Option<Latency>, writes: &'a Option<Latency>) -> Option<&'a Latency> {
    let count = |latency: &Option<Latency>| latency.as_ref().map_or(0, |latency| latency.commands);
    if count(reads) > count(writes) { reads.as_ref() } else { writes.as_ref() }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The table.
pub fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let header = [
        "WORKLOAD",
        "I/O PER S",
        "MIB/S",
        "P50 US",
        "P99 US",
        "P99.9 US",
        "OF FLOOR",
        "P50 OF FLOOR",
        "OF STREAM",
        "CPU US/IO",
        "BUSY US/IO",
        "RPO P50/P99 MS",
        "ERRORS",
    ];
    table.set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let ratio = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.2}")));
    for result in &report.results {
        let at = |quantile| or_dash(result.latency().map(|latency| format!("{:.1}", latency.at(quantile))));
        table.add_row([
            result.title.clone(),
            format!("{:.0}", result.per_s),
            format!("{:.0}", result.mib_per_s),
            at(0.5),
            at(0.99),
            at(0.999),
            ratio(result.ratios.of_floor),
            ratio(result.ratios.p50_of_floor),
            ratio(result.ratios.of_stream),
            or_dash(result.cpu.target_us.map(|us| format!("{us:.1}"))),
            or_dash(result.cpu.target_busy_us.map(|us| format!("{us:.1}"))),
            or_dash(result.rpo.as_ref().map(|rpo| format!("{:.2}/{:.2}", rpo.p50_ms, rpo.p99_ms))),
            result.errors.to_string(),
        ]);
    }
    let mut text = format!("{}\n\n{table}\n", report.target);
    if let Some(rest) = &report.rest {
        text.push_str(&format!("\n{}", rest.sentence()));
    }
    for result in report.results.iter().filter(|result| !result.cores.is_empty()) {
        text.push_str(&format!("\n{}: {}", result.title, result.cores_sentence()));
    }
    for result in report.results.iter().filter(|result| !result.steps.is_empty()) {
        text.push_str(&format!("\n{}, where a command's time goes:\n{}\n", result.title, steps(&result.steps)));
    }
    for result in &report.results {
        for note in result.notes.iter().chain(&result.first_error) {
            text.push_str(&format!("\n{}: {note}", result.title));
        }
    }
    text
}

/// The steps' table.
fn steps(costs: &[StepCost]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["SYSTEM", "STEP", "TIMES/IO", "NS/IO", "FLOOR NS", "WHAT THE FLOOR IS"]);
    for column in [2, 3, 4] {
        table.column_mut(column).expect("six columns").set_cell_alignment(CellAlignment::Right);
    }
    for cost in costs {
        let floor = cost.floor.map_or_else(|| "-".to_owned(), |floor| format!("{:.0}", floor.ns));
        table.add_row([
            cost.system.to_owned(),
            cost.step.clone(),
            format!("{:.2}", cost.entered),
            format!("{:.0}", cost.ns),
            floor,
            cost.floor.map_or_else(String::new, |floor| floor.what.to_owned()),
        ]);
    }
    table
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn measured() -> Measured {
        let workload = Workload { seconds: 1.0, ..Workload::default() };
        let mut seen = Seen::new();
        for us in 1..=1000u64 {
            seen.writes.record(us * 1000).unwrap();
        }
        seen.columns = vec![100; 10];
        let floor =
            TcpFloor { per_s: 2000.0, p50_us: 250.0, p99_us: 900.0, together_per_s: 4000.0, stream_mib_per_s: 39.0625 };
        let rpo = Rpo::of(vec![(0.0, 0.4), (0.5, 9.25), (0.9, 0.5)]);
        let cpu = Cpu { target_us: Some(3.25), target_busy_us: Some(2.5), ..Cpu::default() };
        Measured::new(&workload, &seen, cpu, rpo, Some(floor))
    }

    #[test]
    fn figures_are_those_of_what_was_seen() {
        let measured = measured();
        let ratios = measured.ratios;
        assert_eq!((measured.per_s, ratios.of_floor, ratios.of_together), (1000.0, Some(0.5), Some(0.25)));
        assert_eq!((ratios.p50_of_floor, ratios.of_stream, ratios.of_alone), (Some(2.0), Some(0.1), None));
        let latency = measured.latency().unwrap();
        assert!((latency.at(0.5) - 500.0).abs() < 1.0 && (latency.at(0.99) - 990.0).abs() < 2.0);
        assert_eq!(measured.over_time, vec![1000.0; 10]);
        let rpo = measured.rpo.unwrap();
        assert_eq!((rpo.p50_ms, rpo.p99_ms, rpo.max_ms), (0.5, 9.25, 9.25));
    }

    #[test]
    fn several_jobs_or_a_rate_are_not_compared_with_one_connection_at_full_speed() {
        let floor = TcpFloor { per_s: 2000.0, ..TcpFloor::default() };
        for workload in [Workload { jobs: 2, ..Workload::default() }, Workload { rate: Some(9), ..Workload::default() }]
        {
            let measured = Measured::new(&workload, &Seen::new(), Cpu::default(), None, Some(floor.clone()));
            assert_eq!(measured.ratios, Ratios::default());
        }
    }

    #[test]
    fn of_several_rounds_each_ratio_is_the_median_of_its_own() {
        let round = |per_s, of_floor, of_alone, errors| {
            let ratios = Ratios { of_floor: Some(of_floor), of_alone: Some(of_alone), ..Ratios::default() };
            Measured { per_s, ratios, errors, ..measured() }
        };
        let middle = Measured::middle(vec![round(3.0, 0.9, 1.1, 0), round(1.0, 0.7, 0.9, 2), round(2.0, 0.2, 1.0, 1)]);
        assert_eq!((middle.per_s, middle.errors, middle.rounds.len()), (2.0, 3, 3));
        assert_eq!((middle.ratios.of_floor, middle.ratios.of_alone), (Some(0.7), Some(1.0)));
        let one = Measured::middle(vec![round(3.0, 0.9, 1.1, 0)]);
        assert_eq!((one.per_s, one.ratios.of_floor, one.rounds.len()), (3.0, Some(0.9), 0));
    }

    #[test]
    fn the_table_has_a_line_for_each_workload_and_the_first_error() {
        let mut failed = measured();
        (failed.errors, failed.first_error) = (3, Some("write fault".to_owned()));
        let machine = Machine::here();
        let report =
            Report { target: "a lab".to_owned(), machine, machine_floor: None, rest: None, results: vec![failed] };
        let text = table(&report);
        assert!(text.contains("4 KiB random writes, depth 32") && text.contains("write fault"), "{text}");
        assert!(text.contains("0.50/9.25") && text.contains("0.50"), "{text}");
    }
}
