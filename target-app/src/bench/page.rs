//! The report as one page without anything from elsewhere: figures, and plots where one looks rather than reads.

use super::report::{Latency, Measured, Report, Round};
use super::steps::StepCost;
use std::fmt::Write as _;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 220.0;
/// Around the plotting area: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (58.0, 12.0, 12.0, 34.0);

const STYLE: &str = "\
:root{--ink:#1b1f24;--dim:#66707c;--line:#d9dee4;--back:#fff;--card:#f6f8fa;--a:#0b62d6;--b:#c4501b;--c:#2a7d4f}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--dim:#98a2ad;--line:#333a42;--back:#14171a;--card:#1c2126;\
--a:#5aa2ff;--b:#ff9a66;--c:#63c28d}}
body{margin:2rem auto;max-width:1040px;padding:0 1rem;font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back)}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2.2rem 0 .4rem}p{margin:.2rem 0;color:var(--dim)}
table{border-collapse:collapse;width:100%;margin:1rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--line)}th{color:var(--dim);font-weight:600}
th:first-child,td:first-child{text-align:left}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:1rem}
figure{margin:0;background:var(--card);border-radius:8px;padding:.7rem}figcaption{font-weight:600;font-size:.9rem}
svg{width:100%;height:auto;display:block}svg text{fill:var(--dim);font-size:11px}.grid{stroke:var(--line)}
.bars{margin-top:1rem}.bars text.name{fill:var(--ink)}
.key{display:inline-block;width:.8rem;height:.2rem;margin:0 .3rem 0 .8rem;vertical-align:middle}";

/// A line of a plot.
struct Line<'a> {
    name: &'a str,
    color: &'a str,
    points: Vec<(f64, f64)>,
}

/// How a plot's axis reads.
struct Axis<'a> {
    name: &'a str,
    /// Where it is labelled, and how.
    ticks: Vec<(f64, String)>,
    from: f64,
    to: f64,
}

impl<'a> Axis<'a> {
    /// From 0 to a round number that holds `most`.
    fn linear(name: &'a str, most: f64) -> Axis<'a> {
        let step = round_step(most.max(1e-9) / 4.0);
        let count = (most.max(1e-9) / step).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|nth| (f64::from(nth) * step, short(f64::from(nth) * step))).collect();
        Axis { name, ticks, from: 0.0, to: count * step }
    }

    /// A logarithmic axis over these values.
    fn decades(name: &'a str, least: f64, most: f64) -> Axis<'a> {
        let (from, to) = (least.max(1e-3).log10().floor(), most.max(1e-3).log10().ceil());
        let to = to.max(from + 1.0);
        let ticks = (from as i32..=to as i32).map(|power| (f64::from(power), short(10f64.powi(power)))).collect();
        Axis { name, ticks, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|step| *step >= least * 0.999).unwrap_or(power)
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        value if value >= 1e3 => format!("{}k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn plot(title: &str, x: &Axis<'_>, y: &Axis<'_>, lines: &[Line<'_>]) -> String {
    let (left, top, right, bottom) = MARGIN;
    let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let at = |px: f64, py: f64| (left + px * width, top + (1.0 - py) * height);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escaped(title));
    for (value, label) in &y.ticks {
        let (_, py) = at(0.0, y.place(*value));
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{py:.1}\" y2=\"{py:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            WIDTH - right,
            left - 6.0,
            py + 4.0
        );
    }
    for (value, label) in &x.ticks {
        let (px, _) = at(x.place(*value), 0.0);
        let y_at = HEIGHT - bottom + 15.0;
        let _ = write!(svg, "<text x=\"{px:.1}\" y=\"{y_at:.1}\" text-anchor=\"middle\">{label}</text>");
    }
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        WIDTH - right,
        HEIGHT - 4.0,
        escaped(x.name)
    );
    for line in lines {
        let points: Vec<String> = line
            .points
            .iter()
            .map(|(px, py)| {
                let (px, py) = at(x.place(*px), y.place(*py));
                format!("{px:.1},{py:.1}")
            })
            .collect();
        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"var(--{})\" stroke-width=\"1.8\" points=\"{}\"/>",
            line.color,
            points.join(" ")
        );
    }
    svg.push_str("</svg>");
    let keys: String = lines
        .iter()
        .map(|line| {
            format!("<span class=\"key\" style=\"background:var(--{})\"></span>{}", line.color, escaped(line.name))
        })
        .collect();
    format!(
        "<figure><figcaption>{} <small>{}{keys}</small></figcaption>{svg}</figure>",
        escaped(title),
        escaped(y.name)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page.
pub fn page(report: &Report) -> String {
    let machine = &report.machine;
    let mut body = format!(
        "<h1>longrun bench</h1><p>{}</p><p>{}, {} processors, Linux {}</p>",
        escaped(&report.target),
        escaped(&machine.processor),
        machine.processors,
        escaped(&machine.kernel)
    );
    if let Some(floor) = &report.machine_floor {
        let _ = write!(
            body,
            "<p>This machine in the same run: copies 4 KiB blocks at {:.1} GiB/s, moves {:.0}k datagrams of 1,400 bytes per \
             second, one for each system call.</p>",
            floor.memcpy_gib_per_s, floor.udp_k_per_s
        );
    }
    if let Some(rest) = &report.rest {
        let _ = write!(body, "<p>{}</p>", escaped(&rest.sentence()));
    }
    body.push_str(&overview(report));
    for result in &report.results {
        body.push_str(&section(result));
    }
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>longrun bench</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
}

fn overview(report: &Report) -> String {
    let mut table = "<table><tr><th>workload<th>I/O per s<th>MiB/s<th>p50 us<th>p99 us<th>of floor<th>p50 of floor\
                     <th>of stream<th>CPU us/IO<th>busy us/IO<th>RPO p99 ms<th>errors</tr>"
        .to_owned();
    let dash = || "–".to_owned();
    let ratio = |value: Option<f64>| value.map_or_else(dash, |value| format!("{value:.2}"));
    for result in &report.results {
        let at = |quantile| result.latency().map_or_else(dash, |latency| format!("{:.1}", latency.at(quantile)));
        let _ = write!(
            table,
            "<tr><td>{}<td>{:.0}<td>{:.0}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escaped(&result.title),
            result.per_s,
            result.mib_per_s,
            at(0.5),
            at(0.99),
            ratio(result.ratios.of_floor),
            ratio(result.ratios.p50_of_floor),
            ratio(result.ratios.of_stream),
            result.cpu.target_us.map_or_else(dash, |us| format!("{us:.1}")),
            result.cpu.target_busy_us.map_or_else(dash, |us| format!("{us:.1}")),
            result.rpo.as_ref().map_or_else(dash, |rpo| format!("{:.2}", rpo.p99_ms)),
            result.errors
        );
    }
    table.push_str(
        "</table><p>The floor is bare TCP between two threads that poll: requests and responses of the same sizes, as many in \
         flight, each sent by a call of its own. The stream is the same data one way, with no reply.</p>",
    );
    table
}

fn section(result: &Measured) -> String {
    let mut section = format!("<h2>{}</h2>", escaped(&result.title));
    for note in result.notes.iter().chain(&result.first_error) {
        let _ = write!(section, "<p>{}</p>", escaped(note));
    }
    if !result.cores.is_empty() {
        let _ = write!(section, "<p>{}</p>", escaped(&result.cores_sentence()));
    }
    section.push_str(&compared(result));
    section.push_str("<div class=\"plots\">");
    section.push_str(&throughput(result));
    section.push_str(&latencies(result));
    if let Some(rpo) = &result.rpo {
        let lines = [Line { name: "recovery point", color: "c", points: rpo.over_time.clone() }];
        let x = Axis::linear("seconds", result.workload.seconds);
        section.push_str(&plot("Age of the copy", &x, &Axis::linear("milliseconds", rpo.max_ms), &lines));
    }
    section.push_str("</div>");
    section.push_str(&bars(&result.steps));
    section
}

const BAR_WIDTH: f64 = 940.0;
const BAR_HEIGHT: f64 = 20.0;
/// Where bars begin, and what is left of them for their figures.
const BAR_LEFT: f64 = 150.0;
const BAR_RIGHT: f64 = 420.0;

/// The steps of a command, each beside what it could not do without. Nothing without accounts.
fn bars(steps: &[StepCost]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let floors = steps.iter().filter_map(|cost| cost.floor.map(|floor| floor.ns));
    let most = steps.iter().map(|cost| cost.ns).chain(floors).fold(1.0, f64::max);
    let width = |ns: f64| ns / most * (BAR_WIDTH - BAR_LEFT - BAR_RIGHT);
    let height = BAR_HEIGHT * steps.len() as f64;
    let mut svg = format!("<svg viewBox=\"0 0 {BAR_WIDTH} {height}\" role=\"img\" aria-label=\"cost per step\">");
    for (nth, cost) in steps.iter().enumerate() {
        let top = BAR_HEIGHT * nth as f64;
        let said = match cost.floor {
            Some(floor) => format!("{:.0} ns; {}: {:.0} ns", cost.ns, floor.what, floor.ns),
            None => format!("{:.0} ns", cost.ns),
        };
        let color = if cost.system == steps[0].system { "a" } else { "c" };
        let _ = write!(
            svg,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} {}</text>\
             <rect x=\"{BAR_LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"10\" fill=\"var(--{color})\"/>",
            BAR_LEFT - 8.0,
            top + 14.0,
            escaped(cost.system),
            escaped(&cost.step),
            top + 3.0,
            width(cost.ns),
        );
        if let Some(floor) = cost.floor {
            let _ = write!(
                svg,
                "<rect x=\"{BAR_LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"4\" fill=\"var(--b)\"/>",
                top + 13.0,
                width(floor.ns)
            );
        }
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            BAR_WIDTH - BAR_RIGHT + 10.0,
            top + 14.0,
            escaped(&said)
        );
    }
    svg.push_str("</svg>");
    format!(
        "<figure class=\"bars\"><figcaption>Where a command's time goes <small>nanoseconds of the reactors' for each\
         <span class=\"key\" style=\"background:var(--b)\"></span>what the step could not do without</small></figcaption>\
         {svg}</figure>"
    )
}

/// The rounds, and what a reader of the overview might take for the floor.
fn compared(result: &Measured) -> String {
    let mut text = String::new();
    if let (Some(floor), Some(together)) = (&result.floor, result.ratios.of_together) {
        let _ = write!(
            text,
            "<p>Bare TCP: {:.0} exchanges per second; {:.0} if all that is due goes with one call, of which this is \
             {together:.2}; {:.0} MiB/s one way.</p>",
            floor.per_s, floor.together_per_s, floor.stream_mib_per_s
        );
    }
    if let (Some(link), Some(ratio)) = (&result.link, result.ratios.frames_of_floor) {
        let floor = link.floor_per_s.unwrap_or(f64::NAN);
        let _ = write!(
            text,
            "<p>Between the systems {:.0} frames per second, {ratio:.2} of the {floor:.0} that a bare sender gets to a bare \
             receiver with nothing else to do, {} bytes each.</p>",
            link.per_s, link.bytes
        );
    }
    if let Some(ratio) = result.ratios.of_alone {
        let _ = write!(text, "<p>{ratio:.3} of the rate without the idle connections.</p>");
    }
    if !result.rounds.is_empty() {
        let of = |round: &Round| format!("{:.2}", round.ratios.of_floor.unwrap_or(f64::NAN));
        let rounds = result.rounds.iter().filter(|round| round.ratios.of_floor.is_some());
        let each: Vec<String> = rounds.map(of).collect();
        let _ = write!(text, "<p>Medians of {} rounds", result.rounds.len());
        if !each.is_empty() {
            let _ = write!(text, "; of the floor in each: {}", each.join(", "));
        }
        text.push_str(".</p>");
    }
    text
}

fn throughput(result: &Measured) -> String {
    let column = super::job::COLUMN.as_secs_f64();
    let points: Vec<(f64, f64)> =
        result.over_time.iter().enumerate().map(|(nth, per_s)| ((nth as f64 + 0.5) * column, *per_s)).collect();
    let floor = result.ratios.of_floor.and(result.floor.as_ref()).map(|floor| floor.per_s);
    let most = points.iter().map(|(_, per_s)| *per_s).chain(floor).fold(1.0, f64::max);
    let mut lines = vec![Line { name: "measured", color: "a", points }];
    if let Some(per_s) = floor {
        lines.push(Line { name: "bare TCP", color: "b", points: vec![(0.0, per_s), (result.workload.seconds, per_s)] });
    }
    let x = Axis::linear("seconds", result.workload.seconds);
    plot("Throughput", &x, &Axis::linear("I/O per second", most), &lines)
}

/// Against the share of commands that took longer, so that the tail has room.
fn latencies(result: &Measured) -> String {
    let points = |latency: &Latency| -> Vec<(f64, f64)> {
        let share = 1.0 / latency.commands.max(1) as f64;
        let tail = |quantile: f64| (1.0 - quantile).max(share);
        let all = latency.quantiles.iter().filter(|(quantile, _)| *quantile > 0.0);
        all.map(|(quantile, us)| (-tail(*quantile).log10(), us.max(1e-3).log10())).collect()
    };
    let of = |latency: &Option<Latency>| latency.as_ref().map(points).unwrap_or_default();
    let all = [("writes", "a", of(&result.writes)), ("reads", "c", of(&result.reads))];
    let mut lines: Vec<Line<'_>> = all
        .into_iter()
        .filter(|(.., points)| !points.is_empty())
        .map(|(name, color, points)| Line { name, color, points })
        .collect();
    if let Some(floor) = &result.floor {
        let points = vec![(0.301, floor.p50_us.max(1e-3).log10()), (2.0, floor.p99_us.max(1e-3).log10())];
        lines.push(Line { name: "bare TCP", color: "b", points });
    }
    let values = || lines.iter().flat_map(|line| &line.points).map(|(_, y)| 10f64.powf(*y));
    let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(1.0, f64::max));
    let longest = lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x).fold(2.0, f64::max);
    let quantiles =
        [(0.301, "50 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %"), (5.0, "99.999 %")];
    let ticks =
        quantiles.into_iter().filter(|(at, _)| *at <= longest).map(|(at, name)| (at, name.to_owned())).collect();
    let x = Axis { name: "", ticks, from: 0.0, to: longest };
    plot("Latency", &x, &Axis::decades("microseconds", least.min(most), most), &lines)
}

#[cfg(test)]
mod tests {
    use super::super::report::{Machine, tests::measured};
    use super::super::steps::StepFloor;
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_that_hold_everything() {
        for (most, to) in [(0.9, 1.0), (1234.0, 1500.0), (98_000.0, 100_000.0), (0.0, 1e-9)] {
            let axis = Axis::linear("", most);
            assert!(axis.to >= most && (axis.to - to).abs() <= to * 0.01, "{most}: {}", axis.to);
        }
        let axis = Axis::decades("", 12.0, 3400.0);
        assert_eq!((axis.from, axis.to, axis.ticks.len()), (1.0, 4.0, 4));
        assert_eq!((short(1500.0), short(2e6), short(0.5)), ("1.5k".to_owned(), "2M".to_owned(), "0.5".to_owned()));
    }

    #[test]
    fn the_page_is_whole_and_asks_for_nothing_from_elsewhere() {
        let mut result = Measured::middle(vec![measured(), measured()]);
        result.notes.push("a < b & c".to_owned());
        let floor = Some(StepFloor { what: "a copy", ns: 120.0 });
        result.steps = vec![
            StepCost { system: "primary", step: "local".to_owned(), entered: 1.0, ns: 480.0, floor },
            StepCost { system: "secondary", step: "merge".to_owned(), entered: 0.1, ns: 54.0, floor: None },
        ];
        let target = "a \"lab\"".to_owned();
        let page =
            page(&Report { target, machine: Machine::here(), machine_floor: None, rest: None, results: vec![result] });
        assert!(page.contains("Medians of 2 rounds; of the floor in each: 0.50, 0.50."));
        assert!(page.contains("a &lt; b &amp; c") && page.contains("a &quot;lab&quot;"));
        assert_eq!(page.matches("<svg").count(), 4, "throughput, latency, age of the copy, steps");
        assert!(page.contains("480 ns; a copy: 120 ns") && page.contains("54 ns<"));
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        for elsewhere in ["http://", "https://", "<script", "src=", "@import", "NaN", "inf"] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
    }
}
