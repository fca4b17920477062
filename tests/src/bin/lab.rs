//! The lab matrix: `longrun bench` for every kind of system and every workload, as one table whose ratios were measured in one
//! run.

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Measures every combination of block size, depth and direction against every kind of system: without a copy, and with one
/// by scope and by transport, on each kind of ring.
///
/// Each measurement has its floor beside it. Bounded in time: what does not fit in is left out, and the table says so.
#[derive(Parser)]
#[command(
    name = "lab",
    after_help = "Examples:\n  scripts/lab                                     everything, about half an hour; needs root for xdp\n  scripts/lab --transports udp --ios enter --seconds 5 --rounds 5\n  scripts/lab --blocks 4096 --depths 32 --reads 0 --rates 50000 --burst 16 --ios enter   what a copy costs\n  scripts/lab --blocks 4096 --depths 32 --reads 0 --scopes group --transports udp --ios enter --seconds 0.3 --rounds 1"
)]
struct Arguments {
    /// Bytes of a command.
    #[arg(long, value_delimiter = ',', default_value = "4096,131072")]
    blocks: Vec<u32>,
    /// Commands in flight.
    #[arg(long, value_delimiter = ',', default_value = "1,32,127")]
    depths: Vec<u16>,
    /// Shares of reads, percent.
    #[arg(long, value_delimiter = ',', default_value = "0,100")]
    reads: Vec<u8>,
    /// Without a copy, with one, or both.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "off,on")]
    replication: Vec<Replication>,
    /// What a sequence number counts, where there is a copy.
    #[arg(long, value_delimiter = ',', default_value = "group,pair")]
    scopes: Vec<String>,
    /// What the copy goes by.
    #[arg(long, value_delimiter = ',', default_value = "udp,xdp")]
    transports: Vec<String>,
    /// How the reactors speak with the kernel.
    #[arg(long, value_delimiter = ',', default_value = "enter,sqpoll")]
    ios: Vec<String>,
    /// Commands per second, at times that were fixed before; 0: one when another ends. What a copy costs is comparable at one
    /// rate: a busy system does more at once, each for less.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    rates: Vec<u64>,
    /// Commands that begin together: as many at once with a copy as without.
    #[arg(long, default_value_t = 1)]
    burst: u16,
    /// Volumes of each system.
    #[arg(long, default_value_t = 1)]
    volumes: u16,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How often each is measured, its floor beside it; the medians are told.
    #[arg(long, default_value_t = 3)]
    rounds: u16,
    /// No kind of system begins after so many seconds, and none goes on for longer.
    #[arg(long, default_value_t = 2400)]
    limit_seconds: u64,
    /// Where lab.json, lab.html and each system's own page go.
    #[arg(long, default_value = "target/lab")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Replication {
    Off,
    On,
}

/// One kind of system.
struct Setup {
    name: String,
    lab: String,
}

impl Arguments {
    fn setups(&self) -> Vec<Setup> {
        let mut setups = Vec::new();
        for io in &self.ios {
            let common = format!("[lab]\nvolumes = {}\nio = \"{io}\"\n", self.volumes);
            if self.replication.contains(&Replication::Off) {
                setups.push(Setup { name: format!("no copy, {io}"), lab: common.clone() });
            }
            if !self.replication.contains(&Replication::On) {
                continue;
            }
            for (scope, transport) in
                self.scopes.iter().flat_map(|scope| self.transports.iter().map(move |transport| (scope, transport)))
            {
                let lab = format!("{common}replication = true\nscope = \"{scope}\"\ntransport = \"{transport}\"\n");
                setups.push(Setup { name: format!("copy by {transport}, scope {scope}, {io}"), lab });
            }
        }
        setups
    }

    fn workloads(&self) -> String {
        let mut text = String::new();
        for block in &self.blocks {
            for depth in &self.depths {
                for (read, rate) in self.reads.iter().flat_map(|read| self.rates.iter().map(move |rate| (read, rate))) {
                    let rate = if *rate > 0 { format!("rate = {rate}\n") } else { String::new() };
                    let _ = write!(
                        text,
                        "[[workload]]\nblock_bytes = {block}\ndepth = {depth}\nread_percent = {read}\nseconds = {}\n\
                         warmup_seconds = 0.2\nburst = {}\nrounds = {}\n{rate}",
                        self.seconds, self.burst, self.rounds
                    );
                }
            }
        }
        text
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(complete) if complete => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything was measured.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let out = &arguments.out;
    std::fs::create_dir_all(out).map_err(|error| format!("{}: {error}; give a folder with --out", out.display()))?;
    let until = Instant::now() + Duration::from_secs(arguments.limit_seconds);
    let setups = arguments.setups();
    let mut measured = Vec::new();
    for (number, setup) in setups.iter().enumerate() {
        eprintln!("lab: {} of {}: {}", number + 1, setups.len(), setup.name);
        let left = until.saturating_duration_since(Instant::now());
        let outcome = match left.is_zero() {
            true => Err("not begun: the time was over".to_owned()),
            false => bench(arguments, setup, number, left),
        };
        measured.push(match outcome {
            Ok(report) => json!({"setup": setup.name, "report": report}),
            Err(why) => {
                eprintln!("lab: {}: {why}", setup.name);
                json!({"setup": setup.name, "missing": why})
            }
        });
    }
    let complete = measured.iter().all(|one| one["missing"].is_null());
    let rows = rows(&measured);
    let result = json!({"seconds": arguments.seconds, "rounds": arguments.rounds, "setups": measured, "rows": rows});
    write(&out.join("lab.json"), &format!("{result}\n"))?;
    write(&out.join("lab.html"), &page(&result))?;
    println!("{}", out.join("lab.html").display());
    Ok(complete)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// All workloads against one kind of system.
fn bench(arguments: &Arguments, setup: &Setup, number: usize, within: Duration) -> Result<Value, String> {
    let file = arguments.out.join(format!("{number}.toml"));
    write(&file, &format!("{}{}", setup.lab, arguments.workloads()))?;
    let mut child = Command::new(longrun_tests::program::path())
        .args(["bench", "--json", "--file"])
        .arg(&file)
        .arg("--html")
        .arg(arguments.out.join(format!("{number}.html")))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("the program does not start: {error}"))?;
    let (mut output, mut errors) = (child.stdout.take(), child.stderr.take());
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.as_mut().map(|output| output.read_to_string(&mut text));
        text
    });
    let until = Instant::now() + within;
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if Instant::now() >= until => {
                let ended = child.kill().and_then(|()| child.wait());
                return Err(format!("given up: the time was over ({ended:?})"));
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let mut why = String::new();
    let _ = errors.as_mut().map(|errors| errors.read_to_string(&mut why));
    let text = reader.join().map_err(|_| "a thread panicked")?;
    match serde_json::from_str(&text) {
        Ok(report) => Ok(report),
        Err(_) => Err(format!("{status}: {}", why.trim())),
    }
}

/// A row for each measurement, with what it is of the same workload's in the first setup that was measured.
fn rows(measured: &[Value]) -> Vec<Value> {
    let empty = Vec::new();
    let of = |setup: &Value| setup["report"]["results"].as_array().cloned().unwrap_or_default();
    let first = measured.iter().map(of).find(|results| !results.is_empty()).unwrap_or(empty);
    let mut rows = Vec::new();
    for setup in measured {
        for result in of(setup) {
            let base = first.iter().find(|base| base["title"] == result["title"]);
            let against = |value: &dyn Fn(&Value) -> Option<f64>| {
                let (this, base) = (value(&result)?, value(base?)?);
                (base > 0.0).then(|| (this / base * 100.0).round() / 100.0)
            };
            let latency = if result["writes"].is_null() { &result["reads"] } else { &result["writes"] };
            rows.push(json!({
                "setup": setup["setup"],
                "workload": result["title"],
                "per_s": result["per_s"],
                "mib_per_s": result["mib_per_s"],
                "p50_us": quantile(latency, 0.5),
                "p99_us": quantile(latency, 0.99),
                "of_floor": result["of_floor"],
                "p50_of_floor": result["p50_of_floor"],
                "of_together": result["of_together"],
                "of_stream": result["of_stream"],
                "busy_us": result["cpu"]["target_busy_us"],
                "secondary_busy_us": result["cpu"]["secondary_busy_us"],
                "rpo_p50_ms": result["rpo"]["p50_ms"],
                "rpo_p99_ms": result["rpo"]["p99_ms"],
                "frames_per_s": result["link"]["per_s"],
                "frames_of_floor": result["frames_of_floor"],
                "rate_of_first": against(&|result| result["per_s"].as_f64()),
                "busy_of_first": against(&|result| result["cpu"]["target_busy_us"].as_f64()),
                "errors": result["errors"],
            }));
        }
    }
    rows
}

fn quantile(latency: &Value, wanted: f64) -> Value {
    let all = latency["quantiles"].as_array().into_iter().flatten();
    all.filter(|pair| pair[0].as_f64() == Some(wanted)).map(|pair| pair[1].clone()).next().unwrap_or_default()
}

const COLUMNS: [(&str, &str); 16] = [
    ("workload", "workload"),
    ("per_s", "I/O per s"),
    ("mib_per_s", "MiB/s"),
    ("p50_us", "p50 us"),
    ("p99_us", "p99 us"),
    ("of_floor", "of floor"),
    ("p50_of_floor", "p50 of floor"),
    ("of_together", "of all at once"),
    ("of_stream", "of stream"),
    ("busy_us", "busy us/IO"),
    ("secondary_busy_us", "secondary"),
    ("rpo_p50_ms", "RPO p50 ms"),
    ("rpo_p99_ms", "RPO p99 ms"),
    ("frames_of_floor", "frames of floor"),
    ("rate_of_first", "rate of first"),
    ("busy_of_first", "busy of first"),
];

const STYLE: &str = "\
:root{--ink:#1b1f24;--dim:#66707c;--line:#d9dee4;--back:#fff;--card:#f6f8fa}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--dim:#98a2ad;--line:#333a42;--back:#14171a;--card:#1c2126}}\
body{margin:2rem;font:14px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--back)}\
h1{font-size:1.4rem;margin:0}p{color:var(--dim);margin:.3rem 0;max-width:80ch}\
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\
th{color:var(--dim);font-weight:600;white-space:normal}th:first-child,td:first-child{text-align:left}\
.setup td{background:var(--card);font-weight:600;text-align:left;white-space:normal}";

/// One page: a table with a stretch for each kind of system.
fn page(result: &Value) -> String {
    let setups = result["setups"].as_array().cloned().unwrap_or_default();
    let machine = setups.iter().map(|setup| &setup["report"]["machine"]).find(|machine| machine.is_object());
    let machine = machine.map_or(String::new(), |machine| {
        let word = |key: &str| machine[key].to_string().trim_matches('"').to_owned();
        format!("{}, {} processors, Linux {}. ", word("processor"), word("processors"), word("kernel"))
    });
    let mut body = format!(
        "<h1>longrun lab</h1><p>{}{} s for each measurement, medians of {}.</p><p>The floor is bare TCP between two threads \
         that poll: requests and responses of the same sizes, as many in flight, a call for each; all at once: one call for \
         all that is due; the stream: the same data one way. Frames: of a bare sender and receiver with both cores for \
         themselves. First: the first kind of system of this table.</p><table><tr>",
        escaped(&machine),
        result["seconds"],
        result["rounds"]
    );
    for (_, heading) in COLUMNS {
        let _ = write!(body, "<th>{heading}");
    }
    body.push_str("</tr>");
    let rows = result["rows"].as_array().cloned().unwrap_or_default();
    for (number, setup) in setups.iter().enumerate() {
        let name = escaped(setup["setup"].as_str().unwrap_or_default());
        let shown = match setup["missing"].as_str() {
            // What follows the first line, the end of a log, is in lab.json.
            Some(why) => format!("{name}: {}", escaped(why.lines().next().unwrap_or_default())),
            None => format!("<a href=\"{number}.html\">{name}</a>"),
        };
        let _ = write!(body, "<tr class=\"setup\"><td colspan=\"{}\">{shown}</tr>", COLUMNS.len());
        for row in rows.iter().filter(|row| row["setup"] == setup["setup"]) {
            body.push_str("<tr>");
            for (key, _) in COLUMNS {
                let _ = write!(body, "<td>{}", cell(&row[key]));
            }
            body.push_str("</tr>");
        }
    }
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>longrun lab</title><style>{STYLE}</style></head>\
         <body>{body}</table></body></html>\n"
    )
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => escaped(text),
        value => match value.as_f64() {
            Some(number) if number >= 1000.0 => format!("{number:.0}"),
            _ => value.to_string(),
        },
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_has_every_kind_of_system_once_and_no_link_without_a_copy() {
        let names = |flags: &[&str]| -> Vec<String> {
            let arguments = Arguments::parse_from(["lab"].iter().chain(flags));
            arguments.setups().into_iter().map(|setup| setup.name).collect()
        };
        assert_eq!(names(&[]).len(), 2 * (1 + 2 * 2));
        assert_eq!(names(&["--replication", "off", "--ios", "enter"]), ["no copy, enter"]);
        let on = ["--replication", "on", "--ios", "sqpoll", "--scopes", "pair", "--transports", "udp"];
        assert_eq!(names(&on), ["copy by udp, scope pair, sqpoll"]);
    }

    #[test]
    fn rows_compare_with_the_first_kind_that_was_measured() {
        let result = |per_s: f64, cpu: f64| {
            json!({"title": "w", "per_s": per_s, "writes": {"quantiles": [[0.5, 7.0], [0.99, 9.0]]},
                   "cpu": {"target_busy_us": cpu}})
        };
        let measured = [
            json!({"setup": "a", "missing": "the time was over\nand the log"}),
            json!({"setup": "b", "report": {"results": [result(100.0, 2.0)]}}),
            json!({"setup": "c", "report": {"results": [result(80.0, 2.5)]}}),
        ];
        let rows = rows(&measured);
        assert_eq!((rows.len(), &rows[0]["rate_of_first"]), (2, &json!(1.0)));
        assert_eq!((&rows[1]["rate_of_first"], &rows[1]["busy_of_first"]), (&json!(0.8), &json!(1.25)));
        assert_eq!((&rows[1]["p50_us"], &rows[1]["p99_us"]), (&json!(7.0), &json!(9.0)));
        let page = page(&json!({"seconds": 1, "rounds": 3, "setups": measured, "rows": rows}));
        assert!(page.contains("a: the time was over") && page.contains("<td>0.8<"), "{page}");
        assert!(!page.contains("and the log"), "{page}");
    }
}
