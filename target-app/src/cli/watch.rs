//! `longrun group watch` and `longrun pair list --watch`: the same look again and again, drawn in place, until everything
//! is in PAIR state.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use longrun_rpc::Client;
use longrun_rpc::methods::group::{GroupGet, GroupInfo};
use longrun_rpc::methods::pair::{PairGet, PairInfo, PairState};
use serde::Serialize;
use serde_json::json;

use super::output::{self, Reader};
use super::{CliError, progress, table};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// How many looks in a row must say that only an operator can act: what was asked for a moment ago may not have begun.
const STUCK_LOOKS: u32 = 8;

/// What a look says about whether to go on.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    GoOn,
    Done,
    /// Nothing changes any more before somebody does this.
    Stuck(String),
}

/// One look: what is shown, and whether it was the last.
struct Look {
    shown: String,
    json: String,
    verdict: Verdict,
}

pub(super) fn group(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    watch(json, || {
        let groups = client.invoke(&GroupGet { name: Some(name.to_owned()) })?;
        let pairs = client.invoke(&PairGet { group: Some(name.to_owned()), name: None })?;
        let shown = groups.iter().map(|group| group_frame(group, &pairs)).collect();
        let verdict = groups.first().map_or(Verdict::GoOn, |group| of_group(group, &pairs));
        Ok(Look { shown, json: line(&json!({"group": groups.first(), "pairs": pairs})), verdict })
    })
}

pub(super) fn pairs(client: &mut Client, group: Option<&str>, json: bool) -> Result<String, CliError> {
    watch(json, || {
        let pairs = client.invoke(&PairGet { group: group.map(str::to_owned), name: None })?;
        Ok(Look { shown: table::pairs(&pairs), json: line(&pairs), verdict: of_pairs(&pairs) })
    })
}

/// One line of JSON.
fn line<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

/// The group in a line, its copying as a bar, its pairs below.
fn group_frame(group: &GroupInfo, pairs: &[PairInfo]) -> String {
    let mut frame = format!("group {}: {} ({})", group.name, group.state, group.state.meaning());
    if let Some(rpo_ms) = group.rpo_ms {
        frame.push_str(&format!(", the copy is {} old", table::span_ms(rpo_ms)));
    }
    frame.push('\n');
    if let Some(copy) = &group.copy {
        frame.push_str(&format!("{}\n", progress::copy(copy)));
    }
    if let Some(verify) = group.verify.as_ref().filter(|verify| !verify.over) {
        frame.push_str(&format!("verify {}\n", progress::verify(verify)));
    }
    let reason = group.copy.as_ref().and_then(|copy| copy.reason.as_ref()).or(group.reason.as_ref());
    if let Some(reason) = reason {
        frame.push_str(&format!("{}\n", table::one_line(reason)));
    }
    if let Some(waiting) = &group.waiting {
        frame.push_str(&format!("waits for {}: {}\n", waiting.owner, table::one_line(&waiting.reason)));
    }
    if let Some(ms) = group.next_attempt_ms {
        frame.push_str(&format!("a resync begins by itself in {}\n", table::span_ms(ms)));
    }
    frame + &table::pairs(pairs)
}

fn of_group(group: &GroupInfo, pairs: &[PairInfo]) -> Verdict {
    match group.state {
        PairState::Pair => of_pairs(pairs),
        PairState::Psus if group.waiting.is_none() && group.next_attempt_ms.is_none() => Verdict::Stuck(format!(
            "group {} was suspended by its operator; longrun group resync {} goes on, at the primary",
            group.name, group.name
        )),
        PairState::Ssws if group.waiting.is_none() && group.next_attempt_ms.is_none() => Verdict::Stuck(format!(
            "group {} was taken over; its volumes serve hosts and are not copied before longrun group failback {}",
            group.name, group.name
        )),
        _ => Verdict::GoOn,
    }
}

fn of_pairs(pairs: &[PairInfo]) -> Verdict {
    if pairs.iter().all(|pair| pair.state == PairState::Pair) {
        return Verdict::Done;
    }
    let waits = |pair: &PairInfo| pair.waiting.is_some();
    match pairs.iter().find(|pair| matches!(pair.state, PairState::Psus | PairState::Ssws) && !waits(pair)) {
        Some(pair) => Verdict::Stuck(format!(
            "pair {} of group {} is in state {} ({}), which only an operator ends",
            pair.name,
            pair.group,
            pair.state,
            pair.state.meaning()
        )),
        None => Verdict::GoOn,
    }
}

/// Looks until it is over; the last look is what the command prints.
fn watch(json: bool, mut look: impl FnMut() -> Result<Look, CliError>) -> Result<String, CliError> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    let draws = std::io::stdout().is_terminal() && !json;
    let mut before = String::new();
    let mut stuck = 0;
    loop {
        let Look { shown, json: line, mut verdict } = look()?;
        let shown = if json { line } else { shown };
        stuck = if matches!(verdict, Verdict::Stuck(_)) { stuck + 1 } else { 0 };
        if (1..STUCK_LOOKS).contains(&stuck) {
            verdict = Verdict::GoOn;
        }
        match verdict {
            Verdict::Done => {
                bar.finish_and_clear();
                return Ok(shown);
            }
            Verdict::Stuck(sentence) => {
                bar.finish_and_clear();
                print(&shown)?;
                return Err(CliError::Input(sentence));
            }
            Verdict::GoOn if draws => bar.set_message(shown.trim_end().to_owned()),
            // Into a file or a pipe: what changed.
            Verdict::GoOn if shown != before => match print(&shown)? {
                Reader::Reads => before = shown,
                // Nobody looks on.
                Reader::Gone => return Ok(String::new()),
            },
            Verdict::GoOn => {}
        }
        bar.tick();
        std::thread::sleep(PAUSE);
    }
}

fn print(text: &str) -> Result<Reader, CliError> {
    output::print(text).map_err(|source| CliError::File { path: "standard output".into(), doing: "write to", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(state: &str) -> GroupInfo {
        serde_json::from_value(json!({
            "name": "g0", "role": "primary", "state": state, "consistent": true, "timeline_now_ns": 1, "rpo_ms": 70_000,
            "lag": {}, "generation": {"number": 1, "id": "a"}, "sequence_scope": "group", "links": ["w"], "pairs": ["p0"],
            "streams": [], "resync": 4,
            "copy": {"bytes_total": 1 << 30, "bytes_done": 515_396_075_u64, "bytes_per_s": 120 << 20, "estimate_s": 5,
                     "reason": "resync 4 after an overflow"}
        }))
        .unwrap()
    }

    fn pair(state: &str) -> PairInfo {
        serde_json::from_value(json!({
            "group": "g0", "name": "p0", "role": "primary", "state": state, "consistent": true, "volume": "m0",
            "replica": "p0", "remote_volume": "p0", "link": "w", "size_bytes": 4096
        }))
        .unwrap()
    }

    #[test]
    fn a_frame_shows_the_bar_the_pace_the_rest_and_the_reason() {
        let frame = group_frame(&group("COPY"), &[pair("COPY")]);
        let lines: Vec<&str> = frame.lines().collect();
        assert_eq!(lines[0], "group g0: COPY (being copied), the copy is 70 s old");
        assert_eq!(lines[1], "[#########...........] 47 % of 1 GiB, 120 MiB/s, 5 s left");
        assert_eq!(lines[2], "resync 4 after an overflow");
        assert!(lines[4].contains("COPY"), "{frame}");
    }

    #[test]
    fn a_watch_ends_when_all_pairs_copy_and_where_only_an_operator_can_act() {
        assert_eq!(of_group(&group("PAIR"), &[pair("PAIR")]), Verdict::Done);
        assert_eq!(
            of_group(&group("PAIR"), &[pair("PAIR"), pair("COPY")]),
            Verdict::GoOn,
            "its first copy is not done"
        );
        for state in ["COPY", "PFUS", "PSUE", "PFUL", "SMPL"] {
            assert_eq!(of_group(&group(state), &[pair("PAIR")]), Verdict::GoOn, "{state}");
        }
        let mut waits = group("PSUS");
        waits.next_attempt_ms = Some(5);
        assert_eq!(of_group(&waits, &[pair("PSUS")]), Verdict::GoOn, "it was asked to go on");
        let Verdict::Stuck(sentence) = of_group(&group("PSUS"), &[pair("PSUS")]) else { panic!() };
        assert!(sentence.contains("longrun group resync g0"), "{sentence}");
        assert!(matches!(of_group(&group("SSWS"), &[pair("SSWS")]), Verdict::Stuck(_)));
        assert!(matches!(of_pairs(&[pair("PAIR"), pair("PSUS")]), Verdict::Stuck(_)));
    }
}
