//! Dirty marks: made durable before a write is stamped, cleared in the background when nothing needs them.
//!
//! The map itself is [`crate::dirty`]; here it meets the requests, the metadata and the devices. A chunk's key is
//! `primary/dirty/<pair>/<chunk>`; a pair that is deleted takes its chunks with it.

use super::create::recalled;
use super::request::Stage;
use super::status::Waiting;
use super::{Primary, Up, Wait};
use crate::dirty::{self, DirtyMap, FlushNumber, Round};
use crate::engine::OperatorError;
use crate::ports::{DeviceError, HostError, LocalIo, Memory};
use crate::types::{Geometry, Mono, Now, PairId};

/// How often a pair's marks are looked over, and its volume is flushed for them, at most.
const TEND_NS: u64 = 1_000_000_000;
/// A write that waits longer than this for its mark shows what it waits for.
const MARK_SLOW_NS: u64 = 1_000_000_000;
/// Regions that one look takes in at most, so that a turn stays bounded.
const SWEEP_MAX: usize = 8192;

/// The background work on one pair's marks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tending {
    at: Mono,
    /// Where the sweep goes on.
    from: u64,
    is_flushing: bool,
}

impl<M: Memory> Primary<M> {
    /// A write's regions are marked. `false`: it waits until that is durable, and gets its turn then.
    pub(super) fn hold(&mut self, now: Now, key: usize) -> bool {
        let wait_ns = self.mark_wait_ns();
        let request = &mut self.requests[key];
        if request.is_held {
            return true;
        }
        let pair = self.pairs.get_mut(&request.pair).expect("its gate was looked at");
        request.is_held = true;
        // Its marks are to be cleared some time.
        if !std::mem::replace(&mut pair.is_awake, true) {
            self.awake.push(request.pair);
        }
        match pair.dirty.begin(now.mono, request.extent) {
            None => true,
            Some(round) => {
                pair.marking.push_back((round, key, now.mono));
                let id = request.pair;
                self.unasked.insert(id);
                self.awake_due = self.awake_due.min(now.mono.after_ns(wait_ns));
                false
            }
        }
    }

    /// Makes durable what was marked or cleared in this turn: one value per chunk.
    pub(super) fn keep_marks(&mut self, ports: &mut impl Up<M>) {
        for id in std::mem::take(&mut self.unasked) {
            self.keep_marks_of(id, ports);
        }
    }

    /// The same for one pair, at once: what is made durable next finds them durable.
    pub(super) fn keep_marks_of(&mut self, id: PairId, ports: &mut impl Up<M>) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let Some((round, chunks)) = pair.dirty.ask() else { return };
        let (serial, last) = (pair.serial, chunks.len() - 1);
        for (nth, (chunk, value)) in chunks.into_iter().enumerate() {
            // In the order of the calls: when the last is durable, all are.
            let wait = if nth == last { Wait::Marked(id, serial, round) } else { Wait::Note };
            self.keep(&dirty::chunk_key(id, chunk), &value, wait, ports);
        }
    }

    /// A round of marks is durable: the writes that waited for it get their turn.
    pub(super) fn marked(&mut self, id: PairId, serial: u64, round: Round) {
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| pair.serial == serial) else { return };
        pair.dirty.durable(round);
        while let Some((_, key, _)) = pair.marking.front().copied().filter(|(wait, ..)| *wait <= round) {
            pair.marking.pop_front();
            self.ready.push_back(super::Work::Host(key));
        }
    }

    /// Clears marks that nothing needs any more. Returns when to look again.
    pub(super) fn tend_marks(&mut self, now: Now, id: PairId, ports: &mut impl Up<M>) -> Option<Mono> {
        if !matches!(self.shutdown, super::Stopping::No) {
            return None;
        }
        let pair = self.pairs.get_mut(&id)?;
        if !pair.dirty.may_clear() {
            return None;
        }
        if now.mono < pair.tending.at {
            return Some(pair.tending.at);
        }
        pair.tending.at = now.mono.after_ns(TEND_NS);
        let stream = self.streams.get(&pair.stream);
        let is_durable = |epoch, seq| stream.is_some_and(|stream| stream.epoch == epoch && seq <= stream.durable);
        let sweep = pair.dirty.sweep(now.mono, self.config.clear_after_ns, is_durable, pair.tending.from, SWEEP_MAX);
        pair.tending.from = sweep.next.unwrap_or(0);
        if sweep.cleared > 0 {
            self.unasked.insert(id);
        }
        if sweep.want_flush > 0 && !pair.tending.is_flushing {
            pair.tending.is_flushing = true;
            let (flush, serial, volume) = (pair.dirty.flush_begins(), pair.serial, pair.config.volume);
            let token = self.token(Wait::MarkFlush(id, serial, flush));
            ports.local(volume, LocalIo::Flush, token);
        }
        self.pairs[&id].dirty.may_clear().then_some(now.mono.after_ns(TEND_NS))
    }

    /// How long a write waits for its mark: hosts of a pair that cannot be opened run on first.
    fn mark_wait_ns(&self) -> u64 {
        2 * self.config.open_wait_ns
    }

    /// Gives up writes that have waited too long for their marks: metadata cannot be written, and their hosts do not wait
    /// for ever. They were neither stamped nor written. Returns when to look again.
    pub(super) fn expire_marks(&mut self, now: Now, id: PairId, ports: &mut impl Up<M>) -> Option<Mono> {
        let wait_ns = self.mark_wait_ns();
        loop {
            let pair = self.pairs.get_mut(&id)?;
            let (_, key, since) = pair.marking.front().copied()?;
            let until = since.after_ns(wait_ns);
            if now.mono < until {
                return Some(until);
            }
            pair.marking.pop_front();
            let Some(request) = self.requests.get(key) else { continue };
            if matches!(request.stage, Stage::Waiting(_)) {
                self.leave_order(now, key);
                self.answer_with(key, Err(HostError::Aborted), None, ports);
            } else {
                // Answered before; it gives its place back now.
                self.ready.push_back(super::Work::Host(key));
            }
        }
    }

    /// What the oldest write that waits for its mark waits for, if it has waited for longer than a commit takes.
    pub(super) fn mark_waiting(&self, now: Now, id: PairId) -> Option<Waiting> {
        let (_, _, since) = *self.pairs.get(&id)?.marking.front()?;
        (now.mono.since_ns(since) >= MARK_SLOW_NS).then(|| Waiting {
            owner: "metadata",
            reason: "the marks of hosts' writes are becoming durable".to_string(),
            since,
            timeout: Some(since.after_ns(self.mark_wait_ns())),
        })
    }

    /// The flush for the marks ended. If it failed, the marks stay: the next one may do better.
    pub(super) fn mark_flushed(
        &mut self,
        now: Now,
        (id, serial): (PairId, u64),
        flush: FlushNumber,
        result: Result<(), DeviceError>,
        ports: &mut impl Up<M>,
    ) {
        if let Some(pair) = self.pairs.get_mut(&id).filter(|pair| pair.serial == serial) {
            pair.tending.is_flushing = false;
        }
        self.flush_over(now, (id, serial), flush, result, ports);
    }

    /// A flush of a pair's volume ended. What one that failed may have lost here, the secondary has.
    pub(super) fn flush_over(
        &mut self,
        now: Now,
        (id, serial): (PairId, u64),
        flush: FlushNumber,
        result: Result<(), DeviceError>,
        ports: &mut impl Up<M>,
    ) {
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| pair.serial == serial) else { return };
        let is_news = match result {
            Ok(()) => pair.dirty.flush_ended(flush),
            Err(error) => {
                let is_news = pair.dirty.flush_failed();
                if is_news {
                    ports.log(format_args!(
                        "pair {}: its volume could not be flushed ({error}); what it may have lost is copied as it is now",
                        pair.config.name
                    ));
                }
                is_news
            }
        };
        if is_news {
            self.copying.insert(id);
            self.wake_pump(now.mono);
        }
    }
}

/// The map of a pair that was established before: what it marks is due to be copied.
pub(super) fn load<M: Memory>(
    id: PairId,
    geometry: Geometry,
    (region_bytes, stretch_bytes): (u64, u64),
    ports: &impl Up<M>,
) -> Result<DirtyMap, OperatorError> {
    let mut map = DirtyMap::new(geometry, region_bytes, stretch_bytes);
    for chunk in 0..map.chunks() {
        let load = |value: &[u8]| map.load(chunk, value).then_some(());
        recalled::<M, _>(&dirty::chunk_key(id, chunk), load, ports)?;
    }
    Ok(map)
}

/// Keys of the chunks that metadata has for a pair.
pub(super) fn kept_chunks<M: Memory>(id: PairId, map: &DirtyMap, ports: &impl Up<M>) -> Vec<String> {
    let keys = (0..map.chunks()).map(|chunk| dirty::chunk_key(id, chunk));
    keys.filter(|key| ports.recall(key).is_some_and(|value| !value.is_empty())).collect()
}
