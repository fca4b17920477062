//! The overlay: what the blocks of the last image held, when a resync is larger than the journal (design 4a).
//!
//! ```text
//! journal more than half full of the unit ─> is_overlaid, durably ─> each round behind the unit's beginning:
//!     old content of every granule it changes, once per unit ─> appended to the overlay, flushed ─> the round's writes
//! the unit commits ─> no unit and the overlay's end as its tail, in one durable write
//! a takeover before ─> every granule back to its volume, flushed ─> no unit, durably ─> goes on as without one
//! ```
//!
//! The overlay is a log as the journal is one. Its entries carry the unit's base and position, so that what an earlier
//! unit left behind its end is never taken for this one's. What the design gives up: a first write to a granule in a
//! large resync costs a read and a write of the granule more.

use super::Downlink;
use super::group::{After, Group, Phase};
use super::intake::Effects;
use super::io::{Io, Op};
use super::meta::{Life, UnitMeta};
use crate::apply::Gate;
use crate::journal::format::{Area, Entry};
use crate::journal::open::{Ask, Identity, LogMeta, Opening};
use crate::journal::{Committed, DEPTH, Item, Journal, Point, Purposes};
use crate::ports::{DeviceError, LocalIo};
use crate::types::{Epoch, Extent, Mono, PairId, Record, RecordHead, RecordKind, Seq, Stamp, StreamId};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// What is saved as a whole, in bytes.
pub(crate) const GRANULE_BYTES: u64 = if cfg!(test) { 2 << 10 } else { 64 << 10 };
/// Granules being read at a time.
const READS_MAX: usize = 16;
/// What the overlay's own I/O is for.
const OVERLAY: Purposes<Op> = Purposes { write: [Op::OverlayWrite; DEPTH], flush: Op::OverlayFlush };

/// A granule of a pair's volume, by its index.
type Granule = (PairId, u64);

/// How far the overlay's device is.
pub(crate) enum State<S> {
    /// The group has none.
    None,
    Opening(Opening<Op>),
    Open(Box<Journal<S, Op>>),
    /// It cannot be used, and why.
    Failed(String),
    /// What it held of the last image is gone: nothing is left to be kept.
    Lost(String),
}

/// A group's overlay.
pub(crate) struct Overlay<S> {
    pub(crate) state: State<S>,
    area: Option<Area>,
    /// One bit per granule that is in the log, durably.
    saved: BTreeMap<PairId, Vec<u64>>,
    /// What the round at the gate still needs; `None`: not looked at yet.
    needed: Option<VecDeque<Granule>>,
    reads: HashMap<u64, (Granule, Extent)>,
    reads_made: u64,
    /// Read, not in the log.
    pending: VecDeque<Item<S>>,
    error: Option<DeviceError>,
    retry_at: Option<Mono>,
    /// The switch to it is durable.
    pub(crate) is_used: bool,
    /// How far something durable says that the log is whole.
    attested: u64,
    /// Such a word is on its way.
    pub(crate) is_attesting: bool,
    switching: bool,
}

impl<S: AsRef<[u8]> + Clone + 'static> Overlay<S> {
    pub(crate) fn new() -> Overlay<S> {
        Overlay {
            state: State::None,
            area: None,
            saved: BTreeMap::new(),
            needed: None,
            reads: HashMap::new(),
            reads_made: 0,
            pending: VecDeque::new(),
            error: None,
            retry_at: None,
            is_used: false,
            attested: 0,
            is_attesting: false,
            switching: false,
        }
    }

    fn has(&self, (pair, granule): Granule) -> bool {
        let word = self.saved.get(&pair).and_then(|words| words.get((granule / 64) as usize));
        word.is_some_and(|word| word & (1 << (granule % 64)) != 0)
    }

    fn add(&mut self, (pair, granule): Granule) {
        let words = self.saved.entry(pair).or_default();
        let index = (granule / 64) as usize;
        if words.len() <= index {
            words.resize(index + 1, 0);
        }
        words[index] |= 1 << (granule % 64);
    }

    pub(crate) fn area(&self) -> Option<Area> {
        self.area
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether the unit's records may go to the volumes: what they overwrite is kept, or there is nothing to keep.
    pub(crate) fn lets_apply(&self) -> bool {
        self.is_used || matches!(self.state, State::Lost(_))
    }

    /// Metadata that says so is durable.
    pub(crate) fn attest(&mut self, end: u64) {
        self.attested = self.attested.max(end);
    }

    /// Nothing of it is under way on a device.
    fn is_at_rest(&self) -> bool {
        let is_busy = match &self.state {
            State::Open(log) => log.is_busy() && log.fault().is_none(),
            _ => false,
        };
        !is_busy && !self.is_reading() && !self.switching
    }

    /// Granules are being read, to be saved.
    pub(crate) fn is_reading(&self) -> bool {
        !self.reads.is_empty()
    }

    /// The unit is over: what is in the log counts no more.
    pub(crate) fn clear(&mut self) {
        assert!(self.reads.is_empty(), "nothing is under way for a unit that is over");
        if let State::Open(log) = &mut self.state {
            log.abandon();
        }
        self.saved.clear();
        self.needed = None;
        self.pending.clear();
        self.is_used = false;
    }

    /// Bytes of the log, and of these used.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        match (&self.state, &self.area) {
            (State::Open(log), _) => (log.total_bytes(), log.used_bytes()),
            (_, Some(area)) => (area.capacity * u64::from(area.block_bytes), 0),
            (_, None) => (0, 0),
        }
    }

    /// When to look again at what failed.
    pub(crate) fn retry_at(&self) -> Option<Mono> {
        let own = match &self.state {
            State::Opening(opening) => opening.retry_at(),
            State::Open(log) => log.retry_at(),
            State::None | State::Failed(_) | State::Lost(_) => None,
        };
        own.into_iter().chain(self.retry_at).min()
    }
}

/// The stamp of the overlay's entries for a unit.
fn mark_of(unit: &UnitMeta) -> Stamp {
    Stamp { time: unit.base, stream: StreamId(unit.position), seq: Seq(0) }
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// Begins to open the overlay, once the journal is open.
    pub(crate) fn open_overlay(&mut self) {
        let Some((volume, geometry)) = self.config.overlay else { return };
        let area = Area::new(volume, geometry);
        // Another than the journal's, so that neither is ever taken for the other.
        let id = self.meta.journal_id.rotate_left(32) ^ 0x6f76_6572_6c61_7921;
        let log = self.meta.overlay.get_or_insert_with(|| LogMeta::new(id));
        let identity = Identity { name: "overlay", id: log.id, group: self.id, geometry, is_scratch: true };
        self.overlay.area = Some(area);
        self.overlay.state = State::Opening(Opening::new(area, identity, Op::OverlayOpen));
    }

    /// Goes on with the overlay.
    pub(crate) fn overlay_on<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        self.overlay_opens(io, effects);
        self.overlay_switches(io);
        self.overlay_saves(io, effects);
    }

    fn overlay_opens<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        let (State::Opening(opening), Some(log)) = (&mut self.overlay.state, &mut self.meta.overlay) else { return };
        let mark = self.meta.unit.as_ref().filter(|unit| unit.is_overlaid).map(mark_of);
        let mut found: Vec<(PairId, Extent)> = Vec::new();
        let ask = opening.poll(io, log, |_: Point, entry: &Entry| {
            let head = &entry.head;
            if mark.is_some_and(|mark| (mark.time, mark.stream) == (head.stamp.time, head.stamp.stream)) {
                found.push((head.pair, head.extent));
            }
        });
        for (pair, extent) in found {
            self.touched.insert(pair, extent);
            if let Some(granule) = self.granule_of(pair, extent.lba) {
                self.overlay.add((pair, granule));
            }
        }
        match ask {
            Ask::Wait => {}
            Ask::Persist => self.persist(io, vec![After::OverlayOpens]),
            Ask::Open(end) => {
                effects.is_busy = true;
                self.overlay_opened(end);
            }
            Ask::Damaged { end, known } => {
                effects.is_busy = true;
                let is_needed = mark.is_some();
                let text = format!(
                    "the overlay is damaged at block {}, though it was durable up to block {known}: the image before the \
                     resync is lost",
                    end.position
                );
                io.ports.log(format_args!("group \"{}\": {text}", self.meta.name));
                if is_needed {
                    self.overlay.state = State::Lost(text);
                    self.set_barrier();
                } else {
                    self.overlay_opened(end);
                }
            }
            Ask::Failed(error) => {
                io.ports.log(format_args!("group \"{}\": no overlay: {error}", self.meta.name));
                self.overlay.state = State::Failed(error.to_string());
            }
        }
    }

    fn overlay_opened(&mut self, end: Point) {
        let (Some(area), Some(log)) = (self.overlay.area, &mut self.meta.overlay) else { return };
        let is_used = self.meta.unit.as_ref().is_some_and(|unit| unit.is_overlaid);
        if !is_used {
            // Whatever is there belongs to a unit that is over.
            log.tail = end;
        }
        let journal = Journal::new(area, OVERLAY, log.id, log.recovery_epoch, log.tail.position, end);
        self.overlay.state = State::Open(Box::new(journal));
        self.overlay.attested = 0;
        self.overlay.is_used = is_used;
        self.set_barrier();
    }

    /// The metadata that the opening waits for is durable.
    pub(crate) fn overlay_persisted(&mut self) {
        if let State::Opening(opening) = &mut self.overlay.state {
            opening.persisted();
        }
    }

    /// The unit goes to the overlay when the journal is half full.
    fn overlay_switches<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>) {
        let (Phase::Ready(ready), State::Open(log)) = (&self.phase, &self.overlay.state) else { return };
        let end = ready.journal.committed_end();
        let total = ready.journal.total_bytes();
        let Some(unit) = self.meta.unit.as_mut().filter(|unit| !unit.is_overlaid) else { return };
        // What waits for the apply delay fills the journal too, and goes on with the unit.
        let is_filling = end > unit.position && ready.journal.used_bytes() > total / 2;
        if !is_filling || self.meta.life != Life::Open || self.takeover.is_some() {
            return;
        }
        unit.is_overlaid = true;
        if let Some(meta) = &mut self.meta.overlay {
            meta.tail = log.point();
        }
        self.overlay.switching = true;
        io.ports.log(format_args!("group \"{}\": the resync goes on with the overlay", self.meta.name));
        self.persist(io, vec![After::Overlaid]);
    }

    /// The switch is durable.
    pub(crate) fn overlaid(&mut self) {
        self.overlay.switching = false;
        self.overlay.is_used = true;
        if let (State::Open(log), Some(meta)) = (&mut self.overlay.state, &self.meta.overlay) {
            log.free(meta.tail.position);
        }
        self.set_barrier();
    }

    fn granule_of(&self, pair: PairId, lba: u64) -> Option<u64> {
        let block_bytes = self.meta.pair(pair)?.geometry.block_bytes;
        Some(lba / (GRANULE_BYTES / u64::from(block_bytes)))
    }

    /// Saves what the round at the gate changes, and lets it through when all is durable.
    fn overlay_saves<P: Downlink<Shared = S>>(&mut self, io: &mut Io<'_, P>, effects: &mut Effects) {
        let Phase::Ready(ready) = &mut self.phase else { return };
        if !ready.applier.is_gated(Gate::Overlay) {
            return;
        }
        let Some(unit) = self.meta.unit.as_ref().filter(|_| self.overlay.is_used) else { return };
        if self.takeover.is_some() {
            return;
        }
        let pairs = &self.meta.pairs;
        if self.overlay.needed.is_none() {
            let mut needed: Vec<Granule> = Vec::new();
            for (id, extent) in ready.applier.gated() {
                let Some(pair) = pairs.iter().find(|pair| pair.id == id) else { continue };
                let blocks = GRANULE_BYTES / u64::from(pair.geometry.block_bytes);
                needed.extend((extent.lba / blocks..=(extent.end() - 1) / blocks).map(|granule| (id, granule)));
            }
            needed.sort_unstable();
            needed.dedup();
            needed.retain(|granule| !self.overlay.has(*granule));
            self.overlay.needed = Some(needed.into());
        }
        let mark = mark_of(unit);
        let State::Open(log) = &mut self.overlay.state else { return };
        log.poll(io);
        // Appends what was read.
        if !log.is_busy() && !self.overlay.pending.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            for item in &self.overlay.pending {
                // *Granules of zeroes had room, those behind them in the block had none: nothing went on, and nobody said
                // that the overlay is full.*
                let with = bytes + item.entry_bytes();
                if count > 0 && (with > log.block_bytes_max() || !log.has_room(with)) {
                    break;
                }
                bytes = with;
                count += 1;
            }
            if log.has_room(bytes) {
                let items = self.overlay.pending.drain(..count).collect();
                match log.begin(io, items, mark.time, false) {
                    Ok(()) => effects.is_busy = true,
                    Err(items) => items.into_iter().rev().for_each(|item| self.overlay.pending.push_front(item)),
                }
            }
        }
        // Reads more.
        if self.overlay.retry_at.is_some_and(|at| at > io.now.mono) {
            return;
        }
        let Some(needed) = &mut self.overlay.needed else { return };
        while self.overlay.reads.len() + self.overlay.pending.len() < READS_MAX
            && let Some(granule) = needed.pop_front()
        {
            let (id, index) = granule;
            let known = pairs.iter().find(|pair| pair.id == id).zip(self.volumes.get(&id));
            let Some((pair, (volume, _))) = known else { continue };
            let blocks = GRANULE_BYTES / u64::from(pair.geometry.block_bytes);
            let lba = index * blocks;
            let extent = Extent { lba, blocks: blocks.min(pair.geometry.blocks - lba) as u32 };
            let Some(buf) = io.ports.alloc(extent.blocks as usize * pair.geometry.block_bytes as usize) else {
                needed.push_front(granule);
                break;
            };
            self.overlay.reads_made += 1;
            self.overlay.reads.insert(self.overlay.reads_made, (granule, extent));
            io.submit(Op::OverlayRead(self.overlay.reads_made), *volume, LocalIo::Read { extent, buf });
        }
        let is_saved = needed.is_empty() && self.overlay.pending.is_empty() && self.overlay.reads.is_empty();
        if !is_saved || log.is_busy() || self.overlay.is_attesting {
            return;
        }
        // *A bit of the last block turned over before anything said that it was durable: the next start took it for a torn
        // tail, and the image of a takeover kept what had been overwritten.*
        if self.overlay.attested < log.committed_end() {
            self.overlay.is_attesting = true;
            return self.persist(io, vec![After::OverlayAttested]);
        }
        self.overlay.needed = None;
        effects.is_busy = true;
        ready.applier.open_gate(Gate::Overlay);
    }

    /// A granule was read from its volume.
    pub(crate) fn overlay_read<P: Downlink<Shared = S>>(
        &mut self,
        io: &mut Io<'_, P>,
        read: u64,
        result: Result<(), DeviceError>,
        data: Option<&[u8]>,
    ) {
        let Some((granule, extent)) = self.overlay.reads.remove(&read) else { return };
        let Some(unit) = &self.meta.unit else { return };
        let Some(data) = data.filter(|_| result.is_ok()) else {
            return self.overlay_waits(io, granule, result.err());
        };
        let is_zero = data.iter().all(|byte| *byte == 0);
        let payload = if is_zero {
            None
        } else {
            let Some(mut buf) = io.ports.alloc(data.len()) else { return self.overlay_waits(io, granule, None) };
            buf.as_mut()[..data.len()].copy_from_slice(data);
            Some(io.ports.freeze(buf, data.len()))
        };
        self.overlay.error = None;
        let kind = if is_zero { RecordKind::WriteZeroes } else { RecordKind::Copy };
        let payload_bytes = if is_zero { 0 } else { data.len() as u32 };
        let head = RecordHead { stamp: mark_of(unit), pair: granule.0, kind, extent, payload_bytes };
        let generation = (self.meta.generation.number, self.meta.generation.id);
        let record = Record { head, payload };
        self.overlay.pending.push_back(Item { record, epoch: Epoch(0), generation, charged: false });
    }

    /// Reads the granule again later.
    fn overlay_waits<P: Downlink>(&mut self, io: &mut Io<'_, P>, granule: Granule, error: Option<DeviceError>) {
        if let Some(needed) = &mut self.overlay.needed {
            needed.push_front(granule);
        }
        if error.is_some() {
            self.overlay.error = error;
            self.overlay.retry_at = Some(io.now.mono.after_ns(crate::journal::RETRY_NS));
        }
    }

    /// Granules are in the log, durably.
    pub(crate) fn overlay_committed(&mut self, block: Committed<S>) {
        for item in block.items {
            let head = item.record.head;
            if let Some(granule) = self.granule_of(head.pair, head.extent.lba) {
                self.overlay.add((head.pair, granule));
            }
        }
    }

    /// Whether a unit may end now: nothing is under way for it.
    pub(crate) fn overlay_lets_end(&mut self) -> bool {
        if !self.overlay.is_at_rest() {
            return false;
        }
        if let (State::Open(log), Some(meta)) = (&mut self.overlay.state, &mut self.meta.overlay) {
            log.abandon();
            meta.tail = log.point();
        }
        true
    }

    /// The unit's end is durable: the log is free, and nothing waits at the gate any more.
    pub(crate) fn overlay_freed(&mut self) {
        self.overlay.clear();
        if let (State::Open(log), Some(meta)) = (&mut self.overlay.state, &self.meta.overlay) {
            log.free(meta.tail.position);
        }
        if let Phase::Ready(ready) = &mut self.phase {
            ready.applier.open_gate(Gate::Overlay);
        }
    }

    /// Why the overlay does not go on, if so.
    pub(crate) fn overlay_reason(&self) -> Option<String> {
        let unit = self.meta.unit.as_ref()?;
        match &self.overlay.state {
            State::None if unit.is_overlaid => Some(
                "the resync is in an overlay that was not given again: create the group with the overlay that it had"
                    .to_owned(),
            ),
            State::Failed(reason) | State::Lost(reason) if unit.is_overlaid => Some(reason.clone()),
            State::Opening(opening) if unit.is_overlaid => Some(match opening.error() {
                Some(error) => format!("the overlay cannot be opened ({error}); tried again every second"),
                None => "the overlay is being opened".to_owned(),
            }),
            State::Open(log) => {
                if let Some(error) = log.error() {
                    return Some(format!("the overlay cannot be written ({error}); tried again every second"));
                }
                if let Some(error) = self.overlay.error {
                    return Some(format!("a secondary volume reports {error}; tried again every second"));
                }
                self.overlay_is_full().then(|| match self.meta.life {
                    Life::Open => "the overlay is full: the resync waits, because the image before it would be lost",
                    _ => "the overlay is full: the resync was stopped, and another one would wait here again, because the \
                          image before it would be lost",
                }.to_owned())
            }
            _ => None,
        }
    }

    /// Whether what the next round changes has no room in the overlay. Nothing but the unit's end makes some.
    fn overlay_is_full(&self) -> bool {
        let (State::Open(log), Some(next)) = (&self.overlay.state, self.overlay.pending.front()) else { return false };
        !log.is_busy() && !log.has_room(next.entry_bytes())
    }

    /// The same, with what an operator can do about a full one: a log keeps the size that it was made with.
    pub(crate) fn overlay_advice(&self) -> Option<String> {
        let reason = self.overlay_reason()?;
        if !self.overlay_is_full() {
            return Some(reason);
        }
        Some(format!(
            "{reason}. Delete the pairs at the primary, take the group over here, which brings that image back, and make it \
             anew with a larger overlay or journal"
        ))
    }
}
