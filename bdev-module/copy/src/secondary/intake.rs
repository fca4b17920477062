//! A stream as this system receives it, and its share of the receive memory.

use crate::stream::{CHARGE_BYTES_MAX, Drops, RxStream};
use crate::types::{Epoch, GroupId, LinkId, Scope, Seq, StreamId, SystemId, Time};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// A stream's share of the receive memory. All sums rise from the opening of the epoch on, in charged bytes
/// ([`crate::types::RecordHead::charge_bytes`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// What the sender was allowed to send.
    limit: u64,
    /// What was received and is freed again: applied, or thrown away.
    freed: u64,
    /// What became durable.
    durable: u64,
    /// What is received and not freed.
    held: u64,
}

impl Account {
    /// The next epoch's account: what is still held of the one before is as if it were durable in the new one.
    pub(crate) fn next_epoch(self) -> Account {
        Account { limit: self.outstanding(), freed: 0, durable: self.held, held: self.held }
    }

    /// Memory that is promised: held, or may still come.
    pub(crate) fn outstanding(&self) -> u64 {
        self.limit - self.freed
    }

    /// What is received and not freed.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Whether a record of this charge is within what was promised.
    pub(crate) fn has_room(&self, charge_bytes: u64) -> bool {
        self.held + charge_bytes <= self.outstanding()
    }

    pub(crate) fn hold(&mut self, charge_bytes: u64) {
        self.held += charge_bytes;
    }

    pub(crate) fn free(&mut self, charge_bytes: u64) {
        self.held = self.held.saturating_sub(charge_bytes);
        self.freed = self.limit.min(self.freed + charge_bytes);
    }

    pub(crate) fn make_durable(&mut self, charge_bytes: u64) {
        self.durable += charge_bytes;
    }

    /// What the sender may have sent above what is durable.
    pub(crate) fn grant(&self) -> u64 {
        self.limit.saturating_sub(self.durable)
    }

    /// Promises up to `share` in all, of at most `free` more.
    pub(crate) fn raise(&mut self, share: u64, free: u64) -> u64 {
        let more = share.saturating_sub(self.outstanding()).min(free);
        self.limit += more;
        more
    }
}

/// How the receive memory is shared out: each of the streams that may be has room for one largest record, so that the
/// record that closes a gap always finds memory (design 4a); the rest goes in equal parts to those that are.
pub(crate) fn share_bytes(total_bytes: u64, streams_max: usize, streams: usize) -> u64 {
    let kept = CHARGE_BYTES_MAX * streams_max as u64;
    CHARGE_BYTES_MAX + total_bytes.saturating_sub(kept) / streams.max(1) as u64
}

/// Promises memory that is free: first to everyone the room for one largest record, then equal parts of the rest. The
/// other way round, a stream that shares in the rest takes the room of one that was opened after it, whose first record
/// then never comes and holds the limit back for ever.
pub(crate) fn share_out(accounts: &mut [&mut Account], total_bytes: u64, streams_max: usize) {
    let share = share_bytes(total_bytes, streams_max, accounts.len());
    let spare = streams_max.saturating_sub(accounts.len()) as u64 * CHARGE_BYTES_MAX;
    let promised: u64 = accounts.iter().map(|account| account.outstanding()).sum();
    let mut free = total_bytes.saturating_sub(spare + promised);
    for least in [CHARGE_BYTES_MAX, share] {
        for account in &mut *accounts {
            free -= account.raise(least, free);
        }
    }
}

/// One stream that is open.
pub(crate) struct Intake<B, S> {
    pub(crate) rx: RxStream<B, S>,
    pub(crate) link: LinkId,
    pub(crate) owner: SystemId,
    pub(crate) scope: Scope,
    /// Number of the generation that its records are of.
    pub(crate) generation: u64,
    /// The groups it feeds.
    pub(crate) groups: SmallVec<[GroupId; 1]>,
    /// Its opening is durable.
    pub(crate) is_open: bool,
    pub(crate) account: Account,
    /// Records of earlier epochs are not in the account: the stream was not received meanwhile.
    pub(crate) accounts_from: Epoch,
    /// Charges of the numbers `durable + 1 ..= run`.
    pub(crate) ledger: VecDeque<u64>,
    pub(crate) durable: Seq,
    pub(crate) drops: Drops,
    /// Its sender has to be told where it stands.
    pub(crate) is_news: bool,
    /// The grant that was told last, the number it was relative to, and the image's time in a resync.
    pub(crate) told: (Seq, u64, Time),
    /// The first number that its group refused, or threw away because it was stopped: neither it nor what is behind it ever
    /// becomes durable in this epoch. *One group of a shared stream was suspended by another primary and threw 12 away; what
    /// was left of the stream's run was durable in the other group, so 12 was told to be, and its primary freed it: the lag
    /// that it showed, and the first write that it missed, were those of a later one.*
    pub(crate) broken: Option<Seq>,
    /// Its sender was told that the stream broke the protocol.
    pub(crate) was_refused: bool,
    /// Among those that changed, and those that moved: see [`super::intakes::Intakes`].
    pub(super) is_changed: bool,
    pub(super) is_moved: bool,
}

impl<B, S> Intake<B, S> {
    /// This number never becomes durable.
    pub(crate) fn break_at(&mut self, seq: Seq) {
        self.broken = Some(self.broken.map_or(seq, |broken| broken.min(seq)));
    }

    /// The durable number moved.
    pub(crate) fn set_durable(&mut self, durable: Seq) {
        while self.durable < durable {
            let Some(charge) = self.ledger.pop_front() else { break };
            self.account.make_durable(charge);
            self.durable = self.durable.next();
            self.is_news = true;
        }
    }
}

/// What one group's work means for the streams and for the others; collected during a call, acted on at its end.
#[derive(Default)]
pub(crate) struct Effects {
    /// Memory of these streams' records of this epoch is free again.
    pub(crate) freed: Vec<(StreamId, Epoch, u64)>,
    /// These numbers of this epoch were thrown away, in a run: see [`Intake::broken`].
    pub(crate) lost: Vec<(StreamId, Epoch, Seq)>,
    /// Numbers of these streams became durable.
    pub(crate) durable: Vec<StreamId>,
    /// These pairs are no more.
    pub(crate) forgotten: Vec<crate::types::PairId>,
    /// The group takes nothing more of any stream.
    pub(crate) detach: bool,
    /// The opening of these streams is durable: (stream, link to answer on).
    pub(crate) opened: Vec<(StreamId, LinkId)>,
    /// The group is no more.
    pub(crate) is_deleted: bool,
    /// The generation is durable: the streams' owners have to know.
    pub(crate) fence: bool,
    /// This system's part in the group has changed, durably.
    pub(crate) role_news: bool,
    /// Something was done.
    pub(crate) is_busy: bool,
}

impl Effects {
    /// Acted on; the lists keep their storage.
    pub(crate) fn clear(&mut self) {
        let Effects { freed, lost, durable, forgotten, opened, .. } = std::mem::take(self);
        (self.freed, self.lost, self.durable, self.forgotten, self.opened) = (freed, lost, durable, forgotten, opened);
        self.freed.clear();
        self.lost.clear();
        self.durable.clear();
        self.forgotten.clear();
        self.opened.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_came_before_a_stream_that_opens_has_room_for_one_largest_record() {
        let (total_bytes, streams_max) = (100 * CHARGE_BYTES_MAX, 10);
        let mut accounts: Vec<Account> = Vec::new();
        for opened in 1..=streams_max {
            // The newest comes first in the order of streams as often as last.
            let at = if opened % 2 == 0 { 0 } else { accounts.len() };
            accounts.insert(at, Account::default());
            // What others have freed meanwhile is free for all.
            for account in &mut accounts {
                let freed = account.grant() / 3;
                account.hold(freed);
                account.make_durable(freed);
                account.free(freed);
            }
            share_out(&mut accounts.iter_mut().collect::<Vec<_>>(), total_bytes, streams_max);
            let promised: u64 = accounts.iter().map(Account::outstanding).sum();
            assert!(promised <= total_bytes, "{opened} streams: {promised} bytes promised of {total_bytes}");
            for account in &accounts {
                assert!(account.grant() >= CHARGE_BYTES_MAX, "{opened} streams: a grant of {} bytes", account.grant());
            }
        }
    }
}
