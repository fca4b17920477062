//! "Does the secondary hold this already?" Answered from the volume where it is known to hold exactly what the records so
//! far say, else with "cannot be said".

use super::Downlink;
use super::group::{Group, Phase};
use super::intake::Effects;
use super::io::{Io, Op};
use super::meta::{Image, Life};
use crate::digest::{self, Digest, PIECE_BYTES};
use crate::message::{DIGESTS_MAX, Message};
use crate::ports::{DeviceError, LocalIo};
use crate::types::{Extent, LinkId, PairId, SystemId};

/// Questions that wait for their answers at most; one more is answered at once: cannot be said.
const ASKS_MAX: usize = 256;
/// Reads under way for questions at most.
const READS_MAX: usize = 8;
/// Pieces of one read.
const PIECES_PER_READ: usize = 4;

/// A question at work.
pub(crate) struct Ask {
    /// This system's name for it.
    id: u64,
    link: LinkId,
    pair: PairId,
    /// The primary's name for it.
    ask: u64,
    extent: Extent,
    digests: Vec<Digest>,
    /// Pieces that were compared.
    done: usize,
    differing: u32,
    reading: bool,
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// A primary asks.
    pub(crate) fn asked<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        (link, from): (LinkId, SystemId),
        (pair, ask, extent): (PairId, u64, Extent),
        digests: Vec<Digest>,
    ) {
        let stream = self.meta.pair(pair).and_then(|pair| pair.stream);
        let is_theirs = stream.and_then(|stream| self.meta.stream(stream)).is_some_and(|stream| stream.owner == from);
        if !is_theirs {
            return;
        }
        if self.asks.len() >= ASKS_MAX || digests.len() > DIGESTS_MAX || !self.may_answer(pair, extent) {
            let answer = Message::DigestAnswer { group: self.id, pair, ask, differing: None };
            io.ports.send_message(link, answer);
            return;
        }
        self.asks_made += 1;
        let id = self.asks_made;
        self.asks.push_back(Ask { id, link, pair, ask, extent, digests, done: 0, differing: 0, reading: false });
    }

    /// Whether the volume's blocks say what the secondary holds.
    fn may_answer(&self, id: PairId, extent: Extent) -> bool {
        let (Phase::Ready(ready), Some(pair)) = (&self.phase, self.meta.pair(id)) else { return false };
        let is_there = self.volumes.contains_key(&id) && pair.geometry.holds(extent);
        let is_open = self.meta.life == Life::Open && self.takeover.is_none();
        is_there
            && is_open
            && match (&self.meta.unit, self.hold) {
                (Some(unit), Some(hold)) => {
                    !unit.is_overlaid
                        && ready.applier.applied().position >= hold.position
                        && !self.touched.meets(id, extent)
                }
                (None, None) => matches!(pair.image, Image::Copying(_)),
                _ => false,
            }
    }

    /// Reads for questions, and answers those that are through.
    pub(crate) fn asks_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        if self.asks.is_empty() {
            return;
        }
        let mut asks = std::mem::take(&mut self.asks);
        asks.retain(|ask| {
            let is_done = ask.done >= ask.digests.len();
            // What came meanwhile makes what was read worth nothing.
            let is_void = !self.may_answer(ask.pair, ask.extent);
            if ask.reading || !(is_done || is_void) {
                return true;
            }
            effects.is_busy = true;
            let differing = (!is_void).then_some(ask.differing);
            let answer = Message::DigestAnswer { group: self.id, pair: ask.pair, ask: ask.ask, differing };
            io.ports.send_message(ask.link, answer);
            false
        });
        let mut reads = asks.iter().filter(|ask| ask.reading).count();
        for ask in asks.iter_mut().filter(|ask| !ask.reading) {
            let known = self.volumes.get(&ask.pair).zip(self.meta.pair(ask.pair));
            let Some(((volume, _), pair)) = known.filter(|_| reads < READS_MAX) else { break };
            let blocks_per_piece = (PIECE_BYTES / pair.geometry.block_bytes as usize) as u64;
            let lba = ask.extent.lba + ask.done as u64 * blocks_per_piece;
            let left = ask.extent.end().saturating_sub(lba);
            if left == 0 {
                // More digests than pieces: those differ from nothing.
                ask.done = ask.digests.len();
                continue;
            }
            let blocks = left.min(PIECES_PER_READ as u64 * blocks_per_piece) as u32;
            let Some(buf) = io.ports.alloc(blocks as usize * pair.geometry.block_bytes as usize) else { break };
            ask.reading = true;
            reads += 1;
            io.submit(Op::Ask(ask.id), *volume, LocalIo::Read { extent: Extent { lba, blocks }, buf });
        }
        self.asks = asks;
    }

    /// A read for a question ended.
    pub(crate) fn ask_read(&mut self, id: u64, result: Result<(), DeviceError>, data: Option<&[u8]>) {
        let Some(ask) = self.asks.iter_mut().find(|ask| ask.id == id) else { return };
        ask.reading = false;
        let theirs = ask.digests.get(ask.done..).unwrap_or_default();
        let mask = match (result, data) {
            (Ok(()), Some(data)) => digest::differing(data, theirs) as u32,
            // What cannot be read is to be written.
            _ => (1 << PIECES_PER_READ) - 1,
        };
        ask.differing |= mask.checked_shl(ask.done as u32).unwrap_or(0);
        ask.done += PIECES_PER_READ;
    }
}
