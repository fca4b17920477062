//! Names for points of the history, and online verify.
//!
//! A verify reads a volume piece by piece under the overlap lock and sends digests of what it read, stamped: the secondary
//! compares when everything earlier is on its volume and nothing later. So both sites are compared at one stamp per piece,
//! hosts go on meanwhile. An answer is lost with its session: what was not answered then is read and sent again.

use super::host::Gate;
use super::job::{Purpose, Started};
use super::pair::Phase;
use super::{Primary, Stopping, Up, VerifyProgress};
use crate::digest::PIECE_BYTES;
use crate::engine::OperatorError;
use crate::keys::next_of;
use crate::ports::Memory;
use crate::types::{Extent, GroupId, Now, PairId, Record, RecordHead, RecordKind, Seq, Stamp, StreamId, Time};
use std::collections::{BTreeMap, VecDeque};

/// Bytes of one verify record's blocks: 16 digests.
const VERIFY_BYTES: u64 = 1 << 20;
/// Verify records that are not answered, per group: the secondary answers when it has applied them.
const UNANSWERED_MAX: usize = 64;
/// How soon to look again when there was no memory.
const RETRY_NS: u64 = 1_000_000;
/// Bytes of a bookmark's name.
const NAME_BYTES_MAX: usize = 255;

/// A verify of a group under way.
#[derive(Debug, Default)]
pub(super) struct Verify {
    /// Pairs that are not walked to their end, the first of them from this block on.
    pairs: VecDeque<PairId>,
    next_lba: u64,
    /// Pieces that have to be read (again) before those.
    again: VecDeque<(PairId, Extent)>,
    /// Pieces that are being read.
    reading: usize,
    unanswered: BTreeMap<(StreamId, Seq), (PairId, Extent)>,
    repair: bool,
}

impl<M: Memory> Primary<M> {
    pub(super) fn bookmark(
        &mut self,
        now: Now,
        id: GroupId,
        name: &str,
        ports: &mut impl Up<M>,
    ) -> Result<Time, OperatorError> {
        self.copies_wholly(id)?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(OperatorError::Invalid(format!(
                "a bookmark's name has 1 to {NAME_BYTES_MAX} bytes, given are {}",
                name.len()
            )));
        }
        let group = &self.groups[&id];
        let through = group.pairs.iter().find_map(|pair| match self.gate(*pair) {
            Gate::Stamp(route) => Some((*pair, route)),
            _ => None,
        });
        let wrong = |text: String| OperatorError::WrongState(text);
        let group_name = group.config.name.clone();
        let Some((pair, route)) = through else {
            return Err(wrong(format!("group {group_name} has no pair in PAIR state; bookmark it when one copies")));
        };
        let extent = Extent { lba: 0, blocks: 1 };
        let head = self.head(pair, RecordKind::Bookmark, extent, name.len() as u32);
        let key = self.groups[&id].budget;
        self.refresh_budget(key, ports);
        let has_room = self.budgets[&key].holds(head.charge_bytes());
        let buf = if has_room { ports.alloc(name.len()) } else { None };
        let Some(mut buf) = buf else {
            return Err(wrong(format!(
                "group {group_name} has no room for a bookmark now: its buffers are full; try again"
            )));
        };
        buf.as_mut()[..name.len()].copy_from_slice(name.as_bytes());
        let payload = Some(ports.freeze(buf, name.len()));
        let Ok(stamps) = self.stamper.stamp(now, &[route.numbering]) else {
            return Err(wrong("the timeline's lease has to move before more is stamped; try again".to_string()));
        };
        let stamp = stamps[0];
        self.push(now, route, Record { head: RecordHead { stamp, ..head }, payload }, ports);
        ports.log(format_args!("group {group_name}: bookmark \"{name}\" at {}", stamp.time));
        Ok(stamp.time)
    }

    /// The group copies, and its consistent image is that of its last writes.
    fn copies_wholly(&self, id: GroupId) -> Result<(), OperatorError> {
        let Some(group) = self.groups.get(&id) else {
            return Err(OperatorError::NotFound("there is no such group here".to_string()));
        };
        if !matches!(self.shutdown, Stopping::No) {
            return Err(OperatorError::WrongState("the system is shutting down; try again after its start".into()));
        }
        self.part_obstacle(id)?;
        if group.is_running() && group.fenced.is_none() {
            return Ok(());
        }
        let state = self.member_state(id).code();
        let why = group.obstacle().unwrap_or_else(|| "it does not copy".to_string());
        Err(OperatorError::WrongState(format!("group {} is in {state} state, not in PAIR: {why}", group.config.name)))
    }

    pub(super) fn verify(
        &mut self,
        now: Now,
        id: GroupId,
        only: Option<PairId>,
        repair: bool,
        ports: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        self.copies_wholly(id)?;
        let group = &self.groups[&id];
        let name = group.config.name.clone();
        if let Some(pair) = only.filter(|pair| !group.pairs.contains(pair)) {
            return Err(OperatorError::NotFound(format!("group {name} has no pair {:016x}", pair.0)));
        }
        if group.verify.is_some() {
            return Err(OperatorError::WrongState(format!(
                "group {name} is being verified already; group_get shows how far it is"
            )));
        }
        let is_whole = |pair: &&PairId| matches!(self.pairs[pair].phase, Phase::Member) && !self.pairs[pair].is_copying;
        let pairs: VecDeque<PairId> = group
            .pairs
            .iter()
            .filter(|pair| only.is_none_or(|only| only == **pair))
            .filter(is_whole)
            .copied()
            .collect();
        if pairs.is_empty() {
            return Err(OperatorError::WrongState(format!(
                "group {name} has no such pair in PAIR state; verify when its first copy is done"
            )));
        }
        for pair in &self.groups[&id].pairs {
            let pair_state = self.pairs.get_mut(pair).expect("a group's pair exists");
            pair_state.verify = pairs.contains(pair).then(|| VerifyProgress {
                bytes_total: pair_state.config.geometry.bytes(),
                repair,
                ..VerifyProgress::default()
            });
        }
        ports.log(format_args!("group {name}: verify begins"));
        self.groups.get_mut(&id).expect("looked up above").verify = Some(Verify { pairs, repair, ..Verify::default() });
        self.verifying.insert(id);
        self.wake_pump(now.mono);
        Ok(())
    }

    /// Reads what there is room for, for all verifies.
    pub(super) fn pump_verifies(&mut self, now: Now, ports: &mut impl Up<M>) {
        let mut last = None;
        while let Some(id) = next_of(&self.verifying, last) {
            last = Some(id);
            while let Some((pair, extent)) = self.next_to_verify(id) {
                if !self.pairs.contains_key(&pair) {
                    continue;
                }
                let may = self.may_copy(pair) && self.rate_allows(now, id);
                let started = match may {
                    true => self.start_job(now, pair, extent, Purpose::Verify, ports),
                    false => Started::NoRoom,
                };
                if started != Started::Yes {
                    if started == Started::NoMemory {
                        self.wake_pump(now.mono.after_ns(RETRY_NS));
                    }
                    self.verify_again(id, pair, extent);
                    break;
                }
                let bytes = u64::from(extent.blocks) * u64::from(self.pairs[&pair].config.geometry.block_bytes);
                self.rate_spend(now, id, bytes);
                if let Some(verify) = self.verify_of(id) {
                    verify.reading += 1;
                }
            }
            self.end_verify_if_over(id, ports);
        }
    }

    fn verify_of(&mut self, id: GroupId) -> Option<&mut Verify> {
        self.groups.get_mut(&id)?.verify.as_mut()
    }

    fn next_to_verify(&mut self, id: GroupId) -> Option<(PairId, Extent)> {
        let pairs = &self.pairs;
        let verify = self.groups.get_mut(&id)?.verify.as_mut()?;
        if verify.reading + verify.unanswered.len() >= UNANSWERED_MAX {
            return None;
        }
        if let Some(piece) = verify.again.pop_front() {
            return Some(piece);
        }
        loop {
            let id = *verify.pairs.front()?;
            // As many blocks as there were when it began. *A pair was being made larger meanwhile: what had been added, and
            // was not yet the same at both sites, was listed as different.*
            let shape = pairs.get(&id).and_then(|pair| {
                let block_bytes = u64::from(pair.config.geometry.block_bytes);
                Some((pair.verify.as_ref()?.bytes_total / block_bytes, block_bytes))
            });
            let Some((blocks, block_bytes)) = shape.filter(|(blocks, _)| verify.next_lba < *blocks) else {
                verify.pairs.pop_front();
                verify.next_lba = 0;
                continue;
            };
            let most = VERIFY_BYTES / block_bytes;
            let extent = Extent { lba: verify.next_lba, blocks: most.min(blocks - verify.next_lba) as u32 };
            verify.next_lba = extent.end();
            return Some((id, extent));
        }
    }

    fn verify_again(&mut self, id: GroupId, pair: PairId, extent: Extent) {
        if let Some(verify) = self.verify_of(id) {
            verify.again.push_front((pair, extent));
        }
    }

    /// A piece's digests are stamped.
    pub(super) fn verify_stamped(&mut self, id: PairId, extent: Extent, stamp: Stamp) {
        let Some(group) = self.pairs.get(&id).map(|pair| pair.config.group) else { return };
        let Some(verify) = self.verify_of(group) else { return };
        verify.reading -= 1;
        verify.unanswered.insert((stamp.stream, stamp.seq), (id, extent));
    }

    /// A piece cannot be read here: it is counted, the others go on.
    pub(super) fn verify_unreadable(&mut self, id: PairId, extent: Extent) {
        let Some(group) = self.pairs.get(&id).map(|pair| pair.config.group) else { return };
        let Some(verify) = self.verify_of(group) else { return };
        verify.reading -= 1;
        self.count_verified(id, extent, None);
    }

    /// The secondary's word on a verify record.
    pub(super) fn take_verified(&mut self, now: Now, group: GroupId, at: (StreamId, Seq), differing: Option<u64>) {
        let Some(verify) = self.verify_of(group) else { return };
        let Some((id, extent)) = verify.unanswered.remove(&at) else { return };
        let repair = verify.repair;
        for extent in self.count_verified(id, extent, differing) {
            let Some(pair) = self.pairs.get_mut(&id).filter(|_| repair) else { break };
            pair.dirty.miss(extent);
            self.unasked.insert(id);
            self.copying.insert(id);
        }
        self.wake_pump(now.mono);
    }

    /// Adds a piece's result; the parts that differ.
    fn count_verified(&mut self, id: PairId, extent: Extent, differing: Option<u64>) -> Vec<Extent> {
        let Some(pair) = self.pairs.get_mut(&id) else { return Vec::new() };
        let block_bytes = u64::from(pair.config.geometry.block_bytes);
        let bytes = |extent: Extent| u64::from(extent.blocks) * block_bytes;
        let Some(progress) = &mut pair.verify else { return Vec::new() };
        progress.bytes_done += bytes(extent);
        let Some(mask) = differing else {
            progress.bytes_unreadable += bytes(extent);
            return Vec::new();
        };
        let step = PIECE_BYTES as u64 / block_bytes;
        let pieces = u64::from(extent.blocks).div_ceil(step);
        let mut ranges: Vec<Extent> = Vec::new();
        for nth in (0..pieces.min(64)).filter(|nth| mask >> nth & 1 == 1) {
            let lba = extent.lba + nth * step;
            let piece = Extent { lba, blocks: step.min(extent.end() - lba) as u32 };
            progress.bytes_differing += bytes(piece);
            match ranges.last_mut().filter(|last| last.end() == lba) {
                Some(last) => last.blocks += piece.blocks,
                None => ranges.push(piece),
            }
        }
        let room = VerifyProgress::RANGES_MAX.saturating_sub(progress.differing.len());
        progress.differing.extend(ranges.iter().take(room));
        ranges
    }

    /// What was not answered in the session that ended is read again.
    pub(super) fn verify_lost_session(&mut self, id: GroupId) {
        let Some(verify) = self.verify_of(id) else { return };
        verify.again.extend(std::mem::take(&mut verify.unanswered).into_values());
    }

    /// A piece that was being read comes to nothing.
    pub(super) fn verify_stopped(&mut self, id: PairId, extent: Extent) {
        let Some(group) = self.pairs.get(&id).map(|pair| pair.config.group) else { return };
        let Some(verify) = self.verify_of(group) else { return };
        verify.reading -= 1;
        verify.again.push_back((id, extent));
    }

    /// A pair leaves: it is not compared any further.
    pub(super) fn verify_without(&mut self, id: GroupId, pair: PairId) {
        let Some(verify) = self.verify_of(id) else { return };
        verify.again.retain(|(of, _)| *of != pair);
        verify.unanswered.retain(|_, (of, _)| *of != pair);
        if verify.pairs.front() == Some(&pair) {
            verify.next_lba = 0;
        }
        verify.pairs.retain(|of| *of != pair);
    }

    fn end_verify_if_over(&mut self, id: GroupId, ports: &mut impl Up<M>) {
        let Some(verify) = self.verify_of(id) else {
            self.verifying.remove(&id);
            return;
        };
        let is_over =
            verify.pairs.is_empty() && verify.again.is_empty() && verify.reading == 0 && verify.unanswered.is_empty();
        if is_over {
            self.end_verify(id, None, ports);
        }
    }

    /// The verify is over: all is compared, or it cannot go on.
    pub(super) fn end_verify(&mut self, id: GroupId, reason: Option<String>, ports: &mut impl Up<M>) {
        self.verifying.remove(&id);
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.verify.take().is_none() {
            return;
        }
        let mut bytes_differing = 0;
        for pair in &group.pairs {
            let progress = self.pairs.get_mut(pair).and_then(|pair| pair.verify.as_mut());
            if let Some(progress) = progress.filter(|progress| !progress.is_over) {
                (progress.is_over, progress.reason) = (true, reason.clone());
                bytes_differing += progress.bytes_differing;
            }
        }
        let how = if reason.is_some() { "was given up" } else { "is over" };
        ports.log(format_args!("group {}: verify {how}, {bytes_differing} bytes differ", group.config.name));
    }

    /// The verify as it is shown of the whole group.
    pub(super) fn verify_progress(&self, id: GroupId) -> Option<VerifyProgress> {
        let group = self.groups.get(&id)?;
        let mut parts = group.pairs.iter().filter_map(|pair| self.pairs[pair].verify.as_ref()).peekable();
        parts.peek()?;
        let mut sum = VerifyProgress { is_over: true, ..VerifyProgress::default() };
        for part in parts {
            sum.bytes_total += part.bytes_total;
            sum.bytes_done += part.bytes_done;
            sum.is_over &= part.is_over;
            sum.repair |= part.repair;
            sum.bytes_differing += part.bytes_differing;
            sum.bytes_unreadable += part.bytes_unreadable;
            sum.reason = sum.reason.or_else(|| part.reason.clone());
        }
        Some(sum)
    }
}
