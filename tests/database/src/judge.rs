//! Whether a database that was found is one moment of what its writer did, and whether that moment is the recovery point.

use crate::history::{History, Link, hex};
use crate::sqlite::{Found, Transaction};
use longrun_checker::HostTime;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// The moment that the copy says it is of.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// On the writer's clock.
    pub at: HostTime,
    /// How far that may be off.
    pub error_ns: u64,
    /// When the primary was killed.
    pub killed_at: HostTime,
    /// How old the moment may be at the kill.
    pub age_max: Duration,
}

/// What was found, in numbers; only for a database without fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sound {
    /// The newest transaction that is there; none if not even the tables are.
    pub newest: Option<u64>,
    /// The newest one that had been committed before the recovery point.
    pub promised: Option<u64>,
    /// Those that the writer was told of, but that came after the recovery point.
    pub lost: u64,
    /// The recovery point's age at the kill.
    pub age_ms: f64,
}

/// Judges a database. The transactions are the writer's, from number 0 on.
///
/// # Errors
///
/// A sentence for the first thing that is wrong.
pub fn judge(found: &Found, written: &[Transaction], seed: u64, moment: &Moment) -> Result<Sound, String> {
    if found.integrity != "ok" {
        return Err(format!("SQLite's integrity check: {}", found.integrity));
    }
    let newest = found.has_tables.then_some(found.chain.len() as u64);
    if found.has_tables {
        whole(found, seed)?;
    }

    // Written before the moment, whatever the clocks' error: has to be there.
    let before = moment.at.0.saturating_sub(moment.error_ns);
    let promised =
        written.iter().filter(|done| done.committed.is_some_and(|at| at.0 < before)).map(|done| done.n).max();
    if newest < promised {
        return Err(format!(
            "transaction {} was committed before the recovery point, the newest found is {}",
            shown(promised),
            shown(newest)
        ));
    }
    // Begun after the moment, whatever the clocks' error: cannot be there.
    let after = moment.at.0.saturating_add(moment.error_ns);
    let latest = written.iter().filter(|done| done.issued.0 <= after).map(|done| done.n).max();
    if newest > latest {
        return Err(format!(
            "transaction {} was found, but the last that was begun before the recovery point is {}",
            shown(newest),
            shown(latest)
        ));
    }
    let age_ns = moment.killed_at.0.saturating_sub(moment.at.0);
    if Duration::from_nanos(age_ns) > moment.age_max {
        return Err(format!(
            "the recovery point was {} ms old at the kill, {} ms are allowed",
            age_ns / 1_000_000,
            moment.age_max.as_millis()
        ));
    }
    let last = written.iter().filter(|done| done.committed.is_some()).map(|done| done.n).max();
    let lost = last.map_or(0, |last| last.saturating_sub(newest.unwrap_or(0)));
    Ok(Sound { newest, promised, lost, age_ms: age_ns as f64 / 1e6 })
}

fn shown(transaction: Option<u64>) -> String {
    transaction.map_or_else(|| "none".to_owned(), |n| n.to_string())
}

/// Whether the tables are exactly what some number of transactions leaves behind.
fn whole(found: &Found, seed: u64) -> Result<(), String> {
    let mut history = History::new(seed);
    for (n, payload, hash) in &found.chain {
        let (Link { n: next, payload: its_payload, hash: its_hash }, _) = history.advance();
        if *n != next {
            return Err(format!("the chain has a hole: after {} comes {n}", next - 1));
        }
        if *payload != hex(&its_payload) || *hash != hex(&its_hash) {
            return Err(format!("row {n} of the chain is not what was written"));
        }
    }
    if found.slots.len() != history.slots().len() {
        return Err(format!("{} slots instead of {}", found.slots.len(), history.slots().len()));
    }
    for ((wanted, slot), (id, n, filler)) in history.slots().iter().zip(0u64..).zip(&found.slots) {
        if (id, n) != (&slot, wanted) || !History::filler_is(*n, filler) {
            return Err(format!(
                "the chain ends at {}, slot {slot} was then of transaction {wanted}, but slot {id} says {n}",
                history.done()
            ));
        }
    }
    Ok(())
}
