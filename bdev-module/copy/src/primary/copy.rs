//! The copying of regions that the secondary may lack: in a resync, in a pair's first copy, after a verify that repairs.
//!
//! Regions go in order of their blocks, cut into pieces ([`super::job`]). When every piece of a region is stamped, or was
//! found to be there already, the region counts as written at the last of these stamps, and its mark goes as any other.
//! A region that cannot be read stays due, with a reason, and is tried again; the others go on.

use super::group::Life;
use super::job::{Purpose, Started};
use super::pair::{Pair, Phase, Rejoin};
use super::{CopyProgress, Primary, Stopping, Up};
use crate::digest::PIECE_BYTES;
use crate::dirty::DirtyMap;
use crate::keys::next_of;
use crate::ports::{DeviceError, Memory};
use crate::types::{Extent, GroupId, Mono, Now, PairId, Stamp};
use std::collections::{BTreeMap, VecDeque};

/// How long a region that could not be read is left alone.
const UNREADABLE_RETRY_NS: u64 = 5_000_000_000;
/// How soon to look again when there was no memory, or no lease.
const RETRY_NS: u64 = 1_000_000;
/// Pieces that wait to be started, of one pair: regions are taken up until there are so many.
const QUEUE: usize = 8;
/// How far the rate limit lets a copy run ahead of its clock.
const RATE_BURST_NS: u64 = 20_000_000;
const METER_NS: u64 = 1_000_000_000;

/// The copying of one pair's regions.
#[derive(Debug, Default)]
pub(super) struct PairCopy {
    queue: VecDeque<Piece>,
    active: BTreeMap<u64, Region>,
    /// The first region to look at.
    cursor: u64,
    /// How often a region was taken up.
    runs: u64,
    /// Regions that could not be read, and when they are tried again.
    unreadable: BTreeMap<u64, Mono>,
    reason: Option<String>,
    /// Of a pair's first copy: all of it is stamped up to here ...
    pub end: Option<crate::types::Time>,
    /// ... and the secondary was told so in this session.
    pub is_told: bool,
    done_bytes: u64,
    meter: Meter,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    extent: Extent,
    purpose: Purpose,
}

/// A region under way.
#[derive(Clone, Copy, Debug, Default)]
struct Region {
    /// Which time it was taken up. *A read that took longer than the retry ended for the next time, and a region was called
    /// copied whose pieces were not.*
    run: u64,
    /// Pieces that are not done.
    left: u32,
    done_bytes: u64,
    /// The last stamp of one of its pieces.
    last: Option<Stamp>,
}

/// How fast it goes, by the second.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    since: Mono,
    done_bytes: u64,
    bytes_per_s: u64,
}

impl PairCopy {
    /// Nothing is due and nothing is under way.
    pub fn is_idle(&self, dirty: &DirtyMap) -> bool {
        self.active.is_empty() && dirty.next_missing(0).is_none()
    }

    /// The attempt is over: what was under way is due again.
    pub fn stop(&mut self) {
        *self = PairCopy { runs: self.runs, ..PairCopy::default() };
    }

    pub fn progress(&self, dirty: &DirtyMap, reason: Option<String>) -> CopyProgress {
        let under_way: u64 = self.active.values().map(|region| region.done_bytes).sum();
        let (left, rate) = (dirty.missing_bytes().saturating_sub(under_way), self.meter.bytes_per_s);
        CopyProgress {
            bytes_total: self.done_bytes + dirty.missing_bytes(),
            bytes_done: self.done_bytes + under_way,
            bytes_per_s: rate,
            estimate_s: (rate > 0).then(|| left.div_ceil(rate.max(1))),
            reason: self.reason.clone().or(reason),
        }
    }

    /// Cuts regions into pieces until enough of them wait.
    fn refill(&mut self, now: Now, dirty: &DirtyMap, block_bytes: u32, piece_bytes: u64) -> Option<Mono> {
        let (mut wrapped, mut retry) = (false, None);
        while self.queue.len() < QUEUE {
            let Some(region) = dirty.next_missing(self.cursor) else {
                if wrapped || self.cursor == 0 {
                    return retry;
                }
                (self.cursor, wrapped) = (0, true);
                continue;
            };
            self.cursor = region + 1;
            if self.active.contains_key(&region) {
                continue;
            }
            if let Some(at) = self.unreadable.get(&region).copied() {
                if now.mono < at {
                    retry = Some(retry.map_or(at, |retry: Mono| retry.min(at)));
                    continue;
                }
                self.unreadable.remove(&region);
            }
            let is_asked = dirty.is_doubtful(region);
            self.runs += 1;
            let run = self.runs;
            let purpose = if is_asked { Purpose::Ask { region, run } } else { Purpose::Copy { region, run } };
            let mut state = Region { run, ..Region::default() };
            for extent in cut(dirty.extent(region), block_bytes, piece_bytes) {
                self.queue.push_back(Piece { extent, purpose });
                state.left += 1;
            }
            self.active.insert(region, state);
        }
        retry
    }
}

/// Pieces of at most so many bytes.
fn cut(whole: Extent, block_bytes: u32, piece_bytes: u64) -> impl Iterator<Item = Extent> {
    let blocks = u32::try_from(piece_bytes / u64::from(block_bytes)).unwrap_or(u32::MAX).max(1);
    let mut lba = whole.lba;
    std::iter::from_fn(move || {
        let left = whole.end() - lba;
        let extent = Extent { lba, blocks: left.min(u64::from(blocks)) as u32 };
        lba = extent.end();
        (left > 0).then_some(extent)
    })
}

impl<M: Memory> Primary<M> {
    /// Starts what there is room for. In every turn; cheap when nothing is to be copied.
    pub(super) fn pump(&mut self, now: Now, ports: &mut impl Up<M>) {
        // What has to be looked at again says so below.
        self.pump_at = None;
        if self.copying.is_empty() && self.jobs.is_empty() && self.verifying.is_empty() {
            return;
        }
        self.retry_jobs(now, ports);
        if !self.jobs_out_of_lease.is_empty() {
            self.wake_pump(now.mono.after_ns(RETRY_NS));
        }
        self.give_up_asking(now, |_| true, false);
        let mut last = None;
        while let Some(id) = next_of(&self.copying, last) {
            last = Some(id);
            self.pump_pair(now, id, ports);
        }
        self.pump_verifies(now, ports);
    }

    pub(super) fn wake_pump(&mut self, at: Mono) {
        self.pump_at = Some(self.pump_at.map_or(at, |before| before.min(at)));
    }

    /// Whether the pair's stream takes copies now.
    pub(super) fn may_copy(&self, id: PairId) -> bool {
        let Some(pair) = self.pairs.get(&id) else { return false };
        let group = &self.groups[&pair.config.group];
        let is_sending = match &group.life {
            Life::Running => true,
            Life::Resyncing(resync) => resync.is_durable && pair.rejoin == Rejoin::Done,
            _ => false,
        };
        let is_open = self.streams.get(&pair.stream).is_some_and(|stream| stream.started);
        let is_member = matches!(pair.phase, Phase::Member) && pair.leaving.is_none();
        // Nothing is stamped behind the end that is handed over.
        let is_over = self.handovers.get(&pair.config.group).is_some_and(super::handover::HandOver::has_ended);
        is_sending && is_open && is_member && !is_over && matches!(self.shutdown, Stopping::No)
    }

    fn pump_pair(&mut self, now: Now, id: PairId, ports: &mut impl Up<M>) {
        if !self.pairs.contains_key(&id) {
            self.copying.remove(&id);
            return;
        }
        if !self.may_copy(id) {
            return;
        }
        self.measure(now, id);
        loop {
            let pair = self.pairs.get_mut(&id).expect("looked up above");
            let group = self.groups.get(&pair.config.group).expect("a pair's group exists");
            let piece_bytes = self.budgets[&group.budget].piece_bytes();
            let block_bytes = pair.config.geometry.block_bytes;
            if let Some(at) = pair.copy.refill(now, &pair.dirty, block_bytes, piece_bytes) {
                self.wake_pump(at);
            }
            let pair = self.pairs.get_mut(&id).expect("looked up above");
            let Some(piece) = pair.copy.queue.pop_front() else {
                if pair.copy.is_idle(&pair.dirty) {
                    self.copying.remove(&id);
                    self.due = Mono(0);
                }
                return;
            };
            let bytes = u64::from(piece.extent.blocks) * u64::from(block_bytes);
            let group_id = pair.config.group;
            let started = match self.rate_allows(now, group_id) {
                false => Started::NoRoom,
                true => self.start_job(now, id, piece.extent, piece.purpose, ports),
            };
            match started {
                Started::Yes => self.rate_spend(now, group_id, bytes),
                not_yet => {
                    if not_yet == Started::NoMemory {
                        self.wake_pump(now.mono.after_ns(RETRY_NS));
                    }
                    let pair = self.pairs.get_mut(&id).expect("looked up above");
                    pair.copy.queue.push_front(piece);
                    return;
                }
            }
        }
    }

    /// Whether the group may read for copies now; if not, the pump is woken when it may.
    pub(super) fn rate_allows(&mut self, now: Now, id: GroupId) -> bool {
        let group = &self.groups[&id];
        if group.config.copy_bytes_per_s.is_none() || group.copy_at <= now.mono {
            return true;
        }
        let at = group.copy_at;
        self.wake_pump(at);
        false
    }

    pub(super) fn rate_spend(&mut self, now: Now, id: GroupId, bytes: u64) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(rate) = group.config.copy_bytes_per_s else { return };
        let earliest = Mono(now.mono.0.saturating_sub(RATE_BURST_NS));
        let cost_ns = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        group.copy_at = group.copy_at.max(earliest).after_ns(u64::try_from(cost_ns).unwrap_or(u64::MAX));
    }

    fn measure(&mut self, now: Now, id: PairId) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let under_way: u64 = pair.copy.active.values().map(|region| region.done_bytes).sum();
        let (done, meter) = (pair.copy.done_bytes + under_way, &mut pair.copy.meter);
        let elapsed_ns = now.mono.since_ns(meter.since);
        if meter.since == Mono(0) || done < meter.done_bytes {
            *meter = Meter { since: now.mono, done_bytes: done, bytes_per_s: 0 };
        } else if elapsed_ns >= METER_NS {
            let rate = u128::from(done - meter.done_bytes) * 1_000_000_000 / u128::from(elapsed_ns);
            let bytes_per_s = u64::try_from(rate).unwrap_or(u64::MAX);
            *meter = Meter { since: now.mono, done_bytes: done, bytes_per_s };
        }
        self.wake_pump(now.mono.after_ns(METER_NS));
    }

    /// A piece was stamped.
    pub(super) fn piece_stamped(&mut self, now: Now, id: PairId, extent: Extent, purpose: Purpose, stamp: Stamp) {
        match purpose {
            Purpose::Copy { region, run } | Purpose::Ask { region, run } => {
                self.piece_done(now, id, extent, (region, run), Some(stamp));
            }
            Purpose::Verify => self.verify_stamped(id, extent, stamp),
        }
    }

    fn piece_done(&mut self, now: Now, id: PairId, extent: Extent, (number, run): (u64, u64), stamp: Option<Stamp>) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let bytes = u64::from(extent.blocks) * u64::from(pair.config.geometry.block_bytes);
        let Some(region) = pair.copy.active.get_mut(&number).filter(|region| region.run == run) else { return };
        region.left -= 1;
        region.done_bytes += bytes;
        region.last = region.last.max(stamp);
        if region.left > 0 {
            return;
        }
        let done = *region;
        pair.copy.active.remove(&number);
        pair.copy.done_bytes += done.done_bytes;
        if pair.copy.unreadable.is_empty() {
            pair.copy.reason = None;
        }
        let epoch = self.streams.get(&pair.stream).map(|stream| stream.epoch);
        pair.dirty.copied(now.mono, number, epoch.zip(done.last.map(|stamp| stamp.seq)));
        if pair.copy.is_idle(&pair.dirty) {
            self.due = Mono(0);
        }
        self.awake_due = self.awake_due.min(now.mono.after_ns(RETRY_NS));
        self.wake(id);
    }

    /// The secondary said which parts of a piece it lacks, or (`None`) cannot say: those are copied.
    pub(super) fn piece_answered(
        &mut self,
        now: Now,
        id: PairId,
        extent: Extent,
        purpose: Purpose,
        differing: Option<u32>,
    ) {
        let Purpose::Ask { region: number, run } = purpose else { return };
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        if pair.copy.active.get(&number).is_none_or(|region| region.run != run) {
            return;
        }
        let purpose = Purpose::Copy { region: number, run };
        let block_bytes = pair.config.geometry.block_bytes;
        let mut pieces = Vec::new();
        match differing {
            None => pieces.push(Piece { extent, purpose }),
            Some(mask) => {
                for (nth, part) in cut(extent, block_bytes, PIECE_BYTES as u64).enumerate() {
                    if mask >> nth.min(31) & 1 == 1 {
                        pieces.push(Piece { extent: part, purpose });
                    }
                }
            }
        }
        let copied: u64 = pieces.iter().map(|piece| u64::from(piece.extent.blocks) * u64::from(block_bytes)).sum();
        let equal = u64::from(extent.blocks) * u64::from(block_bytes) - copied;
        let region = pair.copy.active.get_mut(&number).expect("looked up above");
        region.left += pieces.len() as u32;
        region.done_bytes += equal;
        for piece in pieces.into_iter().rev() {
            pair.copy.queue.push_front(piece);
        }
        // Hosts wrote while it was asked: the mark stays until the last of that is there too. *A host's record was stamped
        // while the secondary was asked, the answer was that all is equal, and the mark went before the record had come.*
        let stream = self.streams.get(&pair.stream).map(|stream| (pair.stream, stream.count(&self.stamper)));
        let last = stream.map(|(stream, count)| Stamp { time: count.floor, stream, seq: count.last });
        self.piece_done(now, id, Extent { lba: extent.lba, blocks: 0 }, (number, run), last);
        self.wake_pump(now.mono);
    }

    /// A piece could not be read here: the region stays due.
    pub(super) fn piece_unreadable(
        &mut self,
        now: Now,
        id: PairId,
        extent: Extent,
        purpose: Purpose,
        error: DeviceError,
        ports: &mut impl Up<M>,
    ) {
        let (Purpose::Copy { region, run } | Purpose::Ask { region, run }) = purpose else {
            return self.verify_unreadable(id, extent);
        };
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let retry = now.mono.after_ns(UNREADABLE_RETRY_NS);
        // Pieces of it that are under way come to nothing: they find no region.
        if pair.copy.active.get(&region).is_some_and(|active| active.run == run) {
            pair.copy.active.remove(&region);
        }
        let of_run = [Purpose::Ask { region, run }, Purpose::Copy { region, run }];
        pair.copy.queue.retain(|piece| !of_run.contains(&piece.purpose));
        let is_first = pair.copy.unreadable.insert(region, retry).is_none() && pair.copy.reason.is_none();
        let reason = format!(
            "the volume here cannot be read at block {} ({error}); it is tried again: check the volume's device",
            extent.lba
        );
        if is_first {
            ports.log(format_args!("pair {}: {reason}", pair.config.name));
        }
        pair.copy.reason = Some(reason);
        self.wake_pump(retry);
    }

    /// The copying of a pair as it is shown.
    pub(super) fn copy_progress(&self, pair: &Pair) -> Option<CopyProgress> {
        let group = &self.groups[&pair.config.group];
        let is_shown = pair.is_copying || group.resync().is_some() || !pair.copy.is_idle(&pair.dirty);
        let is_member = matches!(pair.phase, Phase::Member) && group.is_sending();
        let reason = match pair.is_copying {
            true => Some("first copy of the pair".to_string()),
            false => self.resync_reason(pair.config.group).or(Some("repair after a verify".to_string())),
        };
        (is_shown && is_member).then(|| pair.copy.progress(&pair.dirty, reason))
    }
}
