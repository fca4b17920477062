//! What the demo says at its end: to a reader, and with `--json` to a program.

use std::fmt::Write as _;

use longrun_checker::Verdict;
use longrun_rpc::methods::group::SequenceScope;
use serde::Serialize;

use super::Options;
use crate::lab::relay::RelayCounts;

/// The result, as the last line of standard output under `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether the copy is the past cut at one point, by all of the checker's rules.
    pub order_closed: bool,
    /// Writes answered with success before the kill.
    pub writes_acknowledged: u64,
    /// Of those, on the secondary, or overwritten there by writes that are.
    pub writes_on_secondary: u64,
    /// Of those, newer than the cut, and lost.
    pub lost_after_recovery_point: u64,
    /// Writes never answered because the primary was killed under them.
    pub writes_in_flight_at_kill: u64,
    /// Writes and other commands answered with an error.
    pub host_errors: u64,
    /// The checker's rules (a), (b) and (c), foreign blocks and reads of the past.
    pub order_violations: u64,
    /// Constraints of (a) and (b) that were checked.
    pub constraints_checked: u64,
    /// Blocks read back from the secondary.
    pub blocks_checked: u64,
    /// Reads made while writing.
    pub reads_checked: u64,
    /// Age of the recovery point at the kill, milliseconds.
    pub recovery_point_age_at_kill_ms: f64,
    /// The greatest age that passes, milliseconds.
    pub age_bound_ms: u64,
    /// How far the recovery point may be from where it was put on the host's clock, milliseconds.
    pub clock_error_ms: f64,
    /// Whether the group was suspended, and why.
    pub suspended: Option<String>,
    /// Ages of the recovery point as the secondary reported them, milliseconds.
    pub rpo_ms_p50: Option<f64>,
    /// See `rpo_ms_p50`.
    pub rpo_ms_p99: Option<f64>,
    /// Frames that the primary sent, as it reported last before the kill.
    pub frames_sent: u64,
    /// Of those, sent again.
    pub frames_retransmitted: u64,
    /// Frames that the relay dropped.
    pub frames_dropped_by_relay: u64,
    /// Frames that the relay held back so that others overtook.
    pub frames_reordered_by_relay: u64,
    /// Frames that the relay passed twice.
    pub frames_duplicated_by_relay: u64,
    /// The takeover's call, milliseconds.
    pub takeover_ms: f64,
    /// From issue to answer, microseconds.
    pub host_write_us_p50: u64,
    /// See `host_write_us_p50`.
    pub host_write_us_p99: u64,
    /// What the systems' links went by.
    pub transport: String,
    /// Raw frames that the secondary received, with `--transport xdp`.
    pub raw_frames_received: Option<u64>,
    /// The sequence scope.
    pub scope: SequenceScope,
    /// What all was drawn from.
    pub seed: u64,
    /// What failed, in words; the first of each.
    pub failures: Vec<String>,
}

/// How many failures are told.
const FAILURES_TOLD: usize = 10;

/// What the report is made of, beside the verdict.
pub struct Figures {
    /// What the systems' links went by.
    pub transport: String,
    /// Raw frames that the secondary received.
    pub raw_frames_received: Option<u64>,
    /// Latencies of the host's writes, microseconds.
    pub write_us: hdrhistogram::Histogram<u64>,
    /// Commands answered with an error.
    pub host_errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Samples of the recovery point's age, milliseconds.
    pub rpo_ms: Vec<f64>,
    /// The primary's counters.
    pub frames_sent: u64,
    /// The primary's counters.
    pub frames_retransmitted: u64,
    /// The relay's counters.
    pub relay: RelayCounts,
    /// The takeover's call, milliseconds.
    pub takeover_ms: f64,
    /// Half the width of where the recovery point may be, nanoseconds.
    pub clock_error_ns: u64,
    /// The bound of rule (d), milliseconds.
    pub age_bound_ms: u64,
    /// Why the group was suspended, if it was.
    pub suspended: Option<String>,
}

impl Report {
    /// Puts the verdict and the figures together.
    pub fn new(options: &Options, verdict: &Verdict, mut figures: Figures) -> Self {
        figures.rpo_ms.sort_by(f64::total_cmp);
        let mut failures: Vec<String> = verdict.failures.iter().take(FAILURES_TOLD).map(ToString::to_string).collect();
        failures.extend(figures.first_error.map(|error| format!("the host was answered with an error: {error}")));
        Report {
            order_closed: verdict.order_closed,
            writes_acknowledged: verdict.writes_acknowledged,
            writes_on_secondary: verdict.writes_on_secondary,
            lost_after_recovery_point: verdict.lost_after_recovery_point,
            writes_in_flight_at_kill: verdict.writes_issued - verdict.writes_acknowledged - verdict.writes_failed,
            host_errors: figures.host_errors,
            order_violations: verdict.order_violations,
            constraints_checked: verdict.constraints_checked,
            blocks_checked: verdict.blocks_checked,
            reads_checked: verdict.reads_issued,
            recovery_point_age_at_kill_ms: verdict.recovery_point_age_at_kill_ns as f64 / 1e6,
            age_bound_ms: figures.age_bound_ms,
            clock_error_ms: figures.clock_error_ns as f64 / 1e6,
            suspended: figures.suspended,
            rpo_ms_p50: quantile(&figures.rpo_ms, 0.50),
            rpo_ms_p99: quantile(&figures.rpo_ms, 0.99),
            frames_sent: figures.frames_sent,
            frames_retransmitted: figures.frames_retransmitted,
            frames_dropped_by_relay: figures.relay.dropped,
            frames_reordered_by_relay: figures.relay.reordered,
            frames_duplicated_by_relay: figures.relay.duplicated,
            takeover_ms: figures.takeover_ms,
            host_write_us_p50: figures.write_us.value_at_quantile(0.50),
            host_write_us_p99: figures.write_us.value_at_quantile(0.99),
            transport: figures.transport,
            raw_frames_received: figures.raw_frames_received,
            scope: options.scope,
            seed: options.seed,
            failures,
        }
    }

    /// The report for a reader.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<30}{value}");
        };
        let ms = |ms: Option<f64>| ms.map_or("unknown".to_owned(), |ms| format!("{ms:.1} ms"));
        row("writes acknowledged", format!("{}", self.writes_acknowledged));
        row("  on the secondary", format!("{}", self.writes_on_secondary));
        row("  newer than the cut, lost", format!("{}", self.lost_after_recovery_point));
        row("writes in flight at the kill", format!("{}", self.writes_in_flight_at_kill));
        row(
            "recovery point at the kill",
            format!(
                "{:.1} ms old, +- {:.2} ms (bound {} ms)",
                self.recovery_point_age_at_kill_ms, self.clock_error_ms, self.age_bound_ms
            ),
        );
        row("RPO, p50 and p99", format!("{}, {}", ms(self.rpo_ms_p50), ms(self.rpo_ms_p99)));
        row("host write, p50 and p99", format!("{} us, {} us", self.host_write_us_p50, self.host_write_us_p99));
        row("frames sent, sent again", format!("{}, {}", self.frames_sent, self.frames_retransmitted));
        if let Some(received) = self.raw_frames_received {
            row("raw frames", format!("{received} received by the secondary ({})", self.transport));
        }
        row(
            "the network",
            format!(
                "dropped {}, reordered {}, duplicated {}",
                self.frames_dropped_by_relay, self.frames_reordered_by_relay, self.frames_duplicated_by_relay
            ),
        );
        row("takeover", format!("{:.1} ms", self.takeover_ms));
        row(
            "checked",
            format!(
                "{} constraints, {} blocks, {} reads",
                self.constraints_checked, self.blocks_checked, self.reads_checked
            ),
        );
        row("violations", format!("{}", self.order_violations));
        if let Some(reason) = &self.suspended {
            row("the group was suspended", reason.clone());
        }
        for failure in &self.failures {
            let _ = writeln!(text, "  - {failure}");
        }
        let verdict = if self.order_closed {
            "ORDER CLOSED: the secondary is exactly the primary's past, cut at one point."
        } else {
            "FAILED: the secondary is not proved to be the primary's past, cut at one point."
        };
        let _ = writeln!(text, "{verdict}");
        text
    }
}

/// The value that a share `q` of the sorted samples does not exceed.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_are_samples_and_none_without_any() {
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&samples, 0.5), Some(50.0));
        assert_eq!(quantile(&samples, 0.99), Some(99.0));
        assert_eq!(quantile(&samples[..1], 0.99), Some(1.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
