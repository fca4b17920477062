//! The database's history: what each transaction writes, drawn from a seed and the transaction's number, so that what the
//! database holds after any of them can be computed again from nothing.
//!
//! Transaction `n` adds row `n` to `chain`, which holds a hash over the hash of the row before, and gives some rows of
//! `slots`, all over its pages, the number `n`. An index over those numbers is rebuilt with each. So pages of all ages
//! depend on one another, and a database that is not one moment of its past shows it.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ring::digest::{Context, SHA256};
use std::fmt::Write as _;

#[cfg(test)]
mod tests;

/// Rows of `slots`.
pub const SLOTS: u64 = 256;
/// Rows of `slots` that a transaction changes.
const SLOTS_CHANGED: usize = 6;
/// Digits that each of those rows is padded to, so that they fill pages.
const SLOT_DIGITS: usize = 900;

/// A row of `chain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The transaction.
    pub n: u64,
    /// Random bytes.
    pub payload: Vec<u8>,
    /// Over the hash before, the number and the payload.
    pub hash: Vec<u8>,
}

/// The state after some number of transactions.
#[derive(Clone, Debug)]
pub struct History {
    seed: u64,
    done: u64,
    hash: Vec<u8>,
    /// The transaction that changed each slot last.
    slots: Vec<u64>,
}

impl History {
    /// The empty tables, after transaction 0.
    pub fn new(seed: u64) -> Self {
        History { seed, done: 0, hash: vec![0; 32], slots: vec![0; SLOTS as usize] }
    }

    /// The transaction that was done last.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The transaction that changed each slot last.
    pub fn slots(&self) -> &[u64] {
        &self.slots
    }

    /// What transaction 0 does, in one line: the tables.
    pub fn tables() -> String {
        format!(
            "BEGIN; CREATE TABLE chain(n INTEGER PRIMARY KEY, payload BLOB NOT NULL, hash BLOB NOT NULL); \
             CREATE TABLE slots(id INTEGER PRIMARY KEY, n INTEGER NOT NULL, filler TEXT NOT NULL); \
             CREATE INDEX slots_by_n ON slots(n, id); \
             WITH RECURSIVE ids(id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM ids WHERE id + 1 < {SLOTS}) \
             INSERT INTO slots SELECT id, 0, {filler} FROM ids; COMMIT; SELECT 'committed', 0;",
            filler = filler("0"),
        )
    }

    /// Does the next transaction: answers its row, and the rows of `slots` that it changes.
    pub fn advance(&mut self) -> (Link, Vec<u64>) {
        self.done += 1;
        let n = self.done;
        let mut rng = SmallRng::seed_from_u64(self.seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let payload: Vec<u8> = (0..rng.random_range(20..1500)).map(|_| rng.random()).collect();
        let mut context = Context::new(&SHA256);
        context.update(&self.hash);
        context.update(&n.to_le_bytes());
        context.update(&payload);
        self.hash = context.finish().as_ref().to_vec();
        let changed: Vec<u64> = (0..SLOTS_CHANGED).map(|_| rng.random_range(0..SLOTS)).collect();
        for slot in &changed {
            self.slots[*slot as usize] = n;
        }
        (Link { n, payload, hash: self.hash.clone() }, changed)
    }

    /// The same as one line of SQL, which says `committed|n` when it is.
    pub fn next_line(&mut self) -> String {
        let (Link { n, payload, hash }, changed) = self.advance();
        let slots = changed.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        format!(
            "BEGIN; INSERT INTO chain VALUES({n}, x'{}', x'{}'); \
             UPDATE slots SET n = {n}, filler = {filler} WHERE id IN ({slots}); COMMIT; SELECT 'committed', {n};",
            hex(&payload),
            hex(&hash),
            filler = filler(&n.to_string()),
        )
    }

    /// Whether a slot that `n` changed last has to read as `shown`.
    pub fn filler_is(n: u64, shown: &str) -> bool {
        shown.len() == SLOT_DIGITS && shown.parse() == Ok(n)
    }
}

fn filler(n: &str) -> String {
    format!("printf('%0{SLOT_DIGITS}d', {n})")
}

/// Bytes in SQL's way to write them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}
