//! The line that lives while the host works.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output;

/// What the line shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// Writes acknowledged.
    pub writes: u64,
    /// The age of the recovery point, milliseconds.
    pub rpo_ms: Option<f64>,
    /// The age of the limit time, milliseconds.
    pub limit_age_ms: Option<f64>,
    /// Frames sent again.
    pub retransmitted: u64,
    /// Frames the network lost.
    pub dropped: u64,
}

impl Line {
    fn text(&self) -> String {
        let age = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.0} ms"));
        format!(
            "{:>8} writes   RPO {:>8}   limit time {:>8} ago   {:>6} retransmitted of {:>6} lost",
            self.writes,
            age(self.rpo_ms),
            age(self.limit_age_ms),
            self.retransmitted,
            self.dropped
        )
    }
}

/// A live line on standard error. With `--json`, or where standard error is no terminal, it is silent.
pub struct Status {
    bar: ProgressBar,
    quiet: bool,
}

impl Status {
    /// A line that is not shown yet.
    pub fn new(quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}") {
            bar.set_style(style);
        }
        Status { bar, quiet }
    }

    /// Says what is done next, above the line; silent only under `--json`.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| output::say(format_args!("{text}")));
        }
    }

    /// Shows `line`.
    pub fn show(&self, line: &Line) {
        self.bar.enable_steady_tick(Duration::from_millis(100));
        self.bar.set_message(line.text());
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn what_is_not_known_is_a_dash_and_not_zero() {
        assert!(Line::default().text().contains("RPO        - "), "{}", Line::default().text());
        let line = Line { rpo_ms: Some(12.4), retransmitted: 7, ..Line::default() };
        assert!(line.text().contains("12 ms") && line.text().contains("7 retransmitted"), "{}", line.text());
    }
}
