//! Records that are not known to be durable at the other side, and what is to be sent of them next.

use super::{FRAGMENT_UNIT_BYTES, beacons};
use crate::primary::{Backlog, Beacon};
use crate::secondary::StreamStatus;
use crate::sorted::Sorted;
use crate::types::{Epoch, Generation, Record, RecordHead, Seq, StreamId, Time};
use std::collections::{BTreeMap, VecDeque};

/// One fragment of a record. Ordered by age: what was stamped first holds the limit time back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    pub(crate) time: Time,
    pub(crate) stream: StreamId,
    pub(crate) epoch: Epoch,
    pub(crate) seq: Seq,
    pub(crate) fragment: u32,
}

struct Kept<S> {
    record: Record<S>,
    /// Charge of the stream's records up to and including this one.
    charge_end: u64,
}

struct Stream<S> {
    epoch: Epoch,
    generation: u64,
    /// Contiguous numbers.
    records: VecDeque<Kept<S>>,
    /// Charge of everything before the front record.
    charge_freed: u64,
    /// The last number pushed, or that the peer is known to have.
    last: Option<Seq>,
    /// Started in this session.
    started: bool,
    /// An earlier process sent what this one does not know: the peer may have more than was ever pushed.
    is_replay: bool,
    /// Everything up to here was durable when last heard.
    durable: Seq,
    /// What goes out next for the first time in this session.
    next: Seq,
    next_fragment: u32,
    /// The newest status of this session, and the number of the datagram that brought it.
    status: Option<(u64, StreamStatus)>,
    /// Under which time it is among those that are ready.
    ready: Option<Time>,
    /// The newest that waits; the stream is among [`Store::beacons`] then.
    beacon: Option<Beacon>,
}

/// A fragment, ready to be framed.
pub(crate) struct Fragment<'a, S> {
    pub(crate) head: &'a RecordHead,
    pub(crate) epoch: Epoch,
    pub(crate) generation: u64,
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
    pub(crate) payload: Option<&'a S>,
}

impl<S: AsRef<[u8]>> Fragment<'_, S> {
    /// The fragment's bytes.
    pub(crate) fn body(&self) -> &[u8] {
        let range = self.offset as usize..self.offset as usize + self.bytes as usize;
        self.payload.and_then(|payload| payload.as_ref().get(range)).unwrap_or_default()
    }
}

/// Fragments of a payload, as few as fit, of nearly equal size so that they travel in one train.
#[derive(Clone, Copy)]
struct Cut {
    payload_bytes: u32,
    units: u64,
    fragments: u64,
}

impl Cut {
    fn new(payload_bytes: u32, body_bytes_max: u32) -> Cut {
        let units = u64::from(payload_bytes.div_ceil(FRAGMENT_UNIT_BYTES));
        let units_max = u64::from((body_bytes_max / FRAGMENT_UNIT_BYTES).max(1));
        Cut { payload_bytes, units, fragments: units.div_ceil(units_max).max(1) }
    }

    /// Offset and length. Larger fragments come first: only the last of a train may be shorter.
    fn piece(self, fragment: u32) -> (u32, u32) {
        let start = |fragment: u64| -> u32 {
            let units = (fragment * self.units).div_ceil(self.fragments);
            u32::try_from(units * u64::from(FRAGMENT_UNIT_BYTES)).unwrap_or(u32::MAX).min(self.payload_bytes)
        };
        let fragment = u64::from(fragment);
        let offset = start(fragment);
        (offset, start(fragment + 1) - offset)
    }
}

impl<S> Stream<S> {
    fn first(&self) -> Option<Seq> {
        self.records.front().map(|kept| kept.record.head.stamp.seq)
    }

    fn get(&self, seq: Seq) -> Option<&Kept<S>> {
        let at = seq.0.checked_sub(self.first()?.0)?;
        self.records.get(usize::try_from(at).ok()?)
    }

    /// The next record to be sent for the first time, if it is there and granted.
    fn sendable(&self) -> Option<&Kept<S>> {
        if !self.started {
            return None;
        }
        let kept = self.get(self.next)?;
        let (_, status) = self.status?;
        // A record that is half sent had its grant: the receiver may have kept the half.
        if self.next_fragment > 0 {
            return Some(kept);
        }
        let records = self.next.0.checked_sub(status.durable.0)?;
        let before = self.charge_up_to(status.durable);
        let granted = records <= u64::from(status.grant_records) && kept.charge_end - before <= status.grant_bytes;
        granted.then_some(kept)
    }

    /// Charge of everything up to a number.
    fn charge_up_to(&self, seq: Seq) -> u64 {
        self.get(seq).map_or(self.charge_freed, |kept| kept.charge_end)
    }

    /// Forgets what is not above `durable`.
    fn free(&mut self, durable: Seq) -> Backlog {
        let mut freed = Backlog { oldest: self.oldest(), ..Backlog::default() };
        while let Some(kept) = self.records.front() {
            if kept.record.head.stamp.seq > durable {
                break;
            }
            freed.records += 1;
            freed.bytes += kept.charge_end - self.charge_freed;
            self.charge_freed = kept.charge_end;
            self.records.pop_front();
        }
        if freed.records == 0 {
            freed.oldest = None;
        }
        if self.next <= durable {
            self.next = durable.next();
            self.next_fragment = 0;
        }
        freed
    }

    fn oldest(&self) -> Option<Time> {
        self.records.front().map(|kept| kept.record.head.stamp.time)
    }

    fn charge_end(&self) -> u64 {
        self.records.back().map_or(self.charge_freed, |kept| kept.charge_end)
    }
}

/// All streams of a link that this side sends.
pub(crate) struct Store<S> {
    streams: BTreeMap<StreamId, Stream<S>>,
    /// Streams with a record that may be sent, by its time.
    ready: Sorted<(Time, StreamId)>,
    lost: Sorted<Piece>,
    /// Streams whose beacons wait, in the order in which they came.
    beacons: VecDeque<StreamId>,
    /// Statuses of streams that were not started yet in this session.
    early: BTreeMap<StreamId, (u64, StreamStatus)>,
    /// Of these, the ones whose stream was started since.
    recheck: Vec<(u64, StreamStatus)>,
    body_bytes_max: u32,
}

/// Streams that a status may name before they were started, at most.
const EARLY_MAX: usize = 4096;

impl<S: AsRef<[u8]> + Clone> Store<S> {
    pub(crate) fn new(body_bytes_max: u32) -> Store<S> {
        Store {
            streams: BTreeMap::new(),
            ready: Sorted::default(),
            lost: Sorted::default(),
            beacons: VecDeque::new(),
            early: BTreeMap::new(),
            recheck: Vec::new(),
            body_bytes_max,
        }
    }

    /// Runs `change` on a stream and files it anew under its next record's time.
    fn with<T>(&mut self, id: StreamId, change: impl FnOnce(&mut Stream<S>) -> T) -> Option<T> {
        let stream = self.streams.get_mut(&id)?;
        let result = change(stream);
        let time = stream.sendable().map(|kept| kept.record.head.stamp.time);
        let before = std::mem::replace(&mut stream.ready, time);
        if before != time {
            if let Some(time) = before {
                self.ready.remove((time, id));
            }
            if let Some(time) = time {
                self.ready.insert((time, id), ());
            }
        }
        Some(result)
    }

    fn entry(&mut self, id: StreamId, epoch: Epoch) {
        if self.streams.get(&id).is_some_and(|stream| stream.epoch != epoch) {
            self.drop_stream(id);
        }
        self.streams.entry(id).or_insert_with(|| Stream {
            epoch,
            generation: 0,
            records: VecDeque::new(),
            charge_freed: 0,
            last: None,
            started: false,
            is_replay: false,
            durable: Seq(0),
            next: Seq(0),
            next_fragment: 0,
            status: None,
            ready: None,
            beacon: None,
        });
    }

    /// `is_live`: the session that it was started in is up. Otherwise all is as if that had ended right afterwards.
    pub(crate) fn start(&mut self, id: StreamId, epoch: Epoch, generation: Generation, durable: Seq, is_live: bool) {
        self.entry(id, epoch);
        if is_live && let Some((packet, status)) = self.early.remove(&id) {
            self.recheck.push((packet, status));
        }
        self.with(id, |stream| {
            stream.generation = generation.number;
            stream.started |= is_live;
            stream.durable = durable;
            stream.next = durable.next();
            stream.next_fragment = 0;
            stream.free(durable);
            stream.last = stream.last.max(Some(durable));
            // Records above a hole would never be used: begin with the first there is, the peer sees what lacks.
            if let Some(first) = stream.first() {
                stream.next = stream.next.max(first);
            }
        });
    }

    /// Whether the stream was started in this session, with this epoch.
    pub(crate) fn is_started(&self, id: StreamId, epoch: Epoch) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.started && stream.epoch == epoch)
    }

    /// The peer is believed when it has more of the stream than was pushed.
    pub(crate) fn believe(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.is_replay = true;
        }
    }

    /// Everything that the stream keeps, in order.
    pub(crate) fn kept(&self, id: StreamId) -> impl Iterator<Item = &Record<S>> {
        self.streams.get(&id).into_iter().flat_map(|stream| stream.records.iter().map(|kept| &kept.record))
    }

    /// Statuses that came before their stream was started, to be judged now: datagram number and status.
    pub(crate) fn take_recheck(&mut self) -> Vec<(u64, StreamStatus)> {
        std::mem::take(&mut self.recheck)
    }

    /// Whether [`Store::take_recheck`] has something.
    pub(crate) fn has_recheck(&self) -> bool {
        !self.recheck.is_empty()
    }

    pub(crate) fn push(&mut self, epoch: Epoch, record: Record<S>) {
        let head = record.head;
        self.entry(head.stamp.stream, epoch);
        self.with(head.stamp.stream, |stream| {
            if head.stamp.seq <= stream.durable && stream.started {
                return;
            }
            if let Some(last) = stream.records.back().map(|kept| kept.record.head.stamp) {
                assert!(
                    head.stamp.seq == last.seq.next() && head.stamp.time > last.time,
                    "stream {}: record {} at {} pushed after {} at {}",
                    head.stamp.stream,
                    head.stamp.seq,
                    head.stamp.time,
                    last.seq,
                    last.time
                );
            } else if let Some(last) = stream.last.filter(|_| stream.started) {
                assert!(
                    head.stamp.seq == last.next(),
                    "stream {}: record {} pushed after {last}",
                    head.stamp.stream,
                    head.stamp.seq
                );
            }
            let payload_bytes = record.payload.as_ref().map_or(0, |payload| payload.as_ref().len());
            assert!(
                payload_bytes == head.payload_bytes as usize,
                "record {} of stream {}: payload of {payload_bytes} bytes, head says {}",
                head.stamp.seq,
                head.stamp.stream,
                head.payload_bytes
            );
            let charge_end = stream.charge_end() + head.charge_bytes();
            stream.records.push_back(Kept { record, charge_end });
            stream.last = Some(head.stamp.seq);
        });
    }

    pub(crate) fn drop_stream(&mut self, id: StreamId) {
        self.with(id, |stream| stream.started = false);
        self.streams.remove(&id);
        self.beacons.retain(|waiting| *waiting != id);
        self.early.remove(&id);
        self.lost.retain(|piece| piece.stream != id);
    }

    pub(crate) fn backlog(&self, id: StreamId) -> Backlog {
        let Some(stream) = self.streams.get(&id) else { return Backlog::default() };
        Backlog {
            records: stream.records.len() as u64,
            bytes: stream.charge_end() - stream.charge_freed,
            oldest: stream.oldest(),
        }
    }

    /// A status came in datagram `packet`; gives what it freed, or `None` if it is to be ignored: older than one known,
    /// of another epoch, or about numbers that were never given.
    pub(crate) fn status(&mut self, packet: u64, status: StreamStatus) -> Option<Backlog> {
        let Some(stream) = self.streams.get(&status.stream) else {
            self.keep_early(packet, status);
            return None;
        };
        if stream.epoch != status.epoch || stream.status.is_some_and(|(newest, _)| newest >= packet) {
            return None;
        }
        if !stream.started {
            self.keep_early(packet, status);
            return None;
        }
        let is_known = stream.is_replay || stream.last.is_some_and(|last| status.durable <= last);
        if !is_known || status.durable < stream.durable {
            return None;
        }
        self.with(status.stream, |stream| {
            stream.status = Some((packet, status));
            stream.last = stream.last.max(Some(status.durable));
            stream.durable = status.durable;
            stream.free(status.durable)
        })
    }

    fn keep_early(&mut self, packet: u64, status: StreamStatus) {
        if self.early.get(&status.stream).is_some_and(|(newest, _)| *newest >= packet) {
            return;
        }
        if self.early.len() < EARLY_MAX || self.early.contains_key(&status.stream) {
            self.early.insert(status.stream, (packet, status));
        }
    }

    /// The session ended: nothing is started, nothing under way.
    pub(crate) fn end_session(&mut self) {
        for stream in self.streams.values_mut() {
            stream.started = false;
            stream.status = None;
            stream.ready = None;
            stream.beacon = None;
        }
        self.ready.clear();
        self.lost.clear();
        self.beacons.clear();
        self.early.clear();
        self.recheck.clear();
    }

    pub(crate) fn beacon(&mut self, beacon: Beacon) {
        let Some(stream) = self.streams.get_mut(&beacon.stream) else { return };
        if stream.started && stream.epoch == beacon.epoch && stream.beacon.replace(beacon).is_none() {
            self.beacons.push_back(beacon.stream);
        }
    }

    /// Whether [`Store::beacons`] has something.
    pub(crate) fn has_beacons(&self) -> bool {
        !self.beacons.is_empty()
    }

    /// The beacons that wait, each with its stream's generation number.
    pub(crate) fn beacons(&self) -> impl Iterator<Item = beacons::Entry> {
        let streams = self.beacons.iter().filter_map(|id| self.streams.get(id));
        streams.filter_map(|stream| Some((stream.beacon?, stream.generation)))
    }

    /// The first so many of [`Store::beacons`] were sent.
    pub(crate) fn beacons_sent(&mut self, count: usize) {
        for id in self.beacons.drain(..count) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.beacon = None;
            }
        }
    }

    /// A fragment was lost: it goes out again, unless that is needless by then.
    pub(crate) fn on_lost(&mut self, id: StreamId, epoch: Epoch, seq: Seq, fragment: u32) {
        if let Some(piece) = self.piece(id, epoch, seq, fragment) {
            self.lost.insert(piece, ());
        }
    }

    /// A fragment that had been declared lost arrived after all.
    pub(crate) fn on_found(&mut self, id: StreamId, epoch: Epoch, seq: Seq, fragment: u32) {
        if let Some(piece) = self.piece(id, epoch, seq, fragment) {
            self.lost.remove(piece);
        }
    }

    fn piece(&self, id: StreamId, epoch: Epoch, seq: Seq, fragment: u32) -> Option<Piece> {
        let stream = self.streams.get(&id).filter(|stream| stream.epoch == epoch && stream.started)?;
        let time = stream.get(seq)?.record.head.stamp.time;
        Some(Piece { time, stream: id, epoch, seq, fragment })
    }

    /// The next fragment to send: the oldest lost one, else the oldest record's next new one. True if it is sent again.
    pub(crate) fn next(&mut self) -> Option<(Piece, bool)> {
        while let Some((piece, ())) = self.lost.first() {
            let needed = self.streams.get(&piece.stream).is_some_and(|stream| {
                // What lies in the receiver's run has arrived, whatever became of its acknowledgement.
                let run = stream.status.map_or(Seq(0), |(_, status)| status.run);
                stream.get(piece.seq).is_some() && piece.seq > run
            });
            if needed {
                return Some((piece, true));
            }
            self.lost.remove(piece);
        }
        let ((time, id), ()) = self.ready.first()?;
        let stream = self.streams.get(&id)?;
        let piece = Piece { time, stream: id, epoch: stream.epoch, seq: stream.next, fragment: stream.next_fragment };
        Some((piece, false))
    }

    /// Whether [`Store::next`] has something.
    pub(crate) fn has_next(&self) -> bool {
        !self.lost.is_empty() || !self.ready.is_empty()
    }

    /// Gives `send` the fragments that are to be sent next, until it refuses one. What it takes was sent.
    pub(crate) fn send(&mut self, mut send: impl FnMut(&Fragment<'_, S>, &Piece, bool) -> bool) {
        while let Some((mut piece, again)) = self.next() {
            let Some(stream) = self.streams.get(&piece.stream) else { return };
            let Some(kept) = stream.get(piece.seq) else { return };
            let head = &kept.record.head;
            let cut = Cut::new(head.payload_bytes, self.body_bytes_max);
            let (epoch, generation, payload) = (stream.epoch, stream.generation, kept.record.payload.as_ref());
            let mut take = |piece: &Piece| {
                let (offset, bytes) = cut.piece(piece.fragment);
                send(&Fragment { head, epoch, generation, offset, bytes, payload }, piece, again)
            };
            if again {
                if !take(&piece) {
                    return;
                }
                self.lost.remove(piece);
                continue;
            }
            // The whole record at once: until it is all sent nothing comes before it.
            let mut is_taken = true;
            while is_taken && u64::from(piece.fragment) < cut.fragments {
                is_taken = take(&piece);
                piece.fragment += u32::from(is_taken);
            }
            self.with(piece.stream, |stream| {
                (stream.next, stream.next_fragment) = match u64::from(piece.fragment) < cut.fragments {
                    true => (piece.seq, piece.fragment),
                    false => (piece.seq.next(), 0),
                };
            });
            if !is_taken {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
