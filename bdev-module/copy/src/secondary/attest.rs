//! What is durable *and known to be*: how far the journal may be applied, and which recovery point may be reported.
//!
//! A journal's last block cannot be told from one that was torn when the power went: if it does not check, recovery cuts
//! it off. So its records go to no volume before something durable says that the block was: the block behind it, which
//! carries the end of the one before, or the group's metadata, which carries it at every write. *Block 7 was journaled and
//! applied, a bit of it turned over, the process was killed: recovery cut 7 off as torn, and the volumes, beyond the
//! recovery point now, were no cut any more.* While records flow that costs a block of lag and nothing else. When they
//! stop, the metadata is written once.
//!
//! The same write carries the limit time, which an idle primary's beacons move without a record to journal. Only what is
//! durable of it is reported: a recovery point that was shown once is never taken back by a restart.

use super::Downlink;
use super::SecondaryConfig;
use super::group::{After, Group, Phase};
use super::io::Io;
use super::meta::Life;
use crate::types::{Mono, Time};

/// What a group keeps of it.
pub(crate) struct Attest {
    /// Everything that proves the recovery point up to here is durable.
    limit: Time,
    /// Nothing was journaled since.
    committed_at: Mono,
    /// The limit was made durable last.
    kept_at: Mono,
    /// How long after that it is made durable again while nothing is journaled.
    pause_ns: u64,
    /// A metadata write for it is under way.
    is_busy: bool,
    /// When it is due.
    due: Option<Mono>,
    pub(super) config: SecondaryConfig,
}

impl Attest {
    pub(crate) fn new(config: SecondaryConfig, limit: Time) -> Attest {
        Attest {
            limit,
            committed_at: Mono(0),
            kept_at: Mono(0),
            pause_ns: config.limit_interval_ns,
            is_busy: false,
            due: None,
            config,
        }
    }

    /// When [`Group::attest_on`] has something to do.
    pub(crate) fn due(&self) -> Option<Mono> {
        self.due
    }

    /// A block that ends a commit is durable, and with it this limit.
    pub(crate) fn committed(&mut self, now: Mono, limit: Time) {
        self.limit = self.limit.max(limit);
        (self.committed_at, self.kept_at, self.pause_ns) = (now, now, self.config.limit_interval_ns);
    }

    /// This limit is durable in the metadata.
    pub(crate) fn kept(&mut self, now: Mono, limit: Time) {
        if limit > self.limit {
            (self.limit, self.kept_at) = (limit, now);
        }
    }

    /// The write under way ended.
    pub(crate) fn ended(&mut self) {
        self.is_busy = false;
    }
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// The recovery point as it is reported: the part of it that a restart finds again. 0 until the journal was read.
    pub(crate) fn reported(&self) -> Time {
        if matches!(self.phase, Phase::Start { .. } | Phase::Super | Phase::Format | Phase::Raise | Phase::Scan(_)) {
            return Time(0);
        }
        self.recovery_point.min(self.attest.limit)
    }

    /// How far the journal is whole, to be written with the metadata: (its end, the limit).
    pub(crate) fn attestation(&mut self) -> (u64, Time) {
        let Phase::Ready(ready) = &self.phase else { return (0, Time(0)) };
        let end = ready.journal.committed_end();
        self.meta.checkpoint.durable_end = self.meta.checkpoint.durable_end.max(end);
        (end, self.meta.proven)
    }

    /// Such metadata is durable.
    pub(crate) fn attested(&mut self, now: Mono, (end, limit): (u64, Time)) {
        self.attest.kept(now, limit);
        if let Phase::Ready(ready) = &mut self.phase {
            ready.applier.attest(end);
        }
    }

    /// Writes the metadata when the last block waits to be applied, or the limit to be reported, and no block comes that
    /// would carry it.
    pub(crate) fn attest_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        let Phase::Ready(ready) = &self.phase else { return };
        let is_held_up = self.is_held_up(ready);
        let attest = &mut self.attest;
        attest.due = None;
        if attest.is_busy || matches!(self.meta.life, Life::Sealed { .. } | Life::TakenOver) {
            return;
        }
        let waits_to_be_applied = ready.applier.attested() < ready.journal.committed_end();
        let waits_to_be_reported = self.recovery_point > attest.limit;
        // A full journal, and an operator who deletes a pair, wait for the last block too.
        let is_urgent = self.is_hurried || is_held_up;
        let apply_at = match is_urgent {
            true => io.now.mono,
            false => attest.committed_at.after_ns(attest.config.attest_after_ns),
        };
        let report_at = attest.kept_at.after_ns(attest.pause_ns);
        let due = [(waits_to_be_applied, apply_at), (waits_to_be_reported, report_at)];
        let Some(at) = due.into_iter().filter(|(waits, _)| *waits).map(|(_, at)| at).min() else { return };
        if at > io.now.mono {
            attest.due = Some(at);
            return;
        }
        if !waits_to_be_applied {
            attest.pause_ns = attest.pause_ns.saturating_mul(2).min(attest.config.limit_interval_ns_max);
        }
        attest.is_busy = true;
        self.persist(io, [After::Attested]);
    }
}
