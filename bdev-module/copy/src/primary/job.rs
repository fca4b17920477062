//! Pieces of a volume that are read on the primary's own account: to be copied, asked about, or verified.
//!
//! A piece takes its place in the pair's overlap order like a host's write, so what is read is what the volume holds at the
//! stamp. Room in the send buffer and memory are taken before the place: a piece that holds its blocks waits for nothing
//! but the device and the timeline's lease, never for the link, so hosts behind it do not either.

use super::host::{Gate, Route};
use super::{Primary, Stopping, Up, Wait, Work};
use crate::digest;
use crate::message::Message;
use crate::overlap::Place;
use crate::ports::{DeviceError, LocalIo, Memory};
use crate::types::{Extent, GroupId, Mono, Now, PairId, Record, RecordHead, RecordKind, Seq, Stamp, Time};

/// What is read at a time for copies and verifies of one engine, in bytes.
pub(super) const READING_BYTES_MAX: u64 = 4 << 20;

/// A piece.
pub(super) struct Job<M: Memory> {
    pub pair: PairId,
    pub pair_serial: u64,
    pub extent: Extent,
    pub purpose: Purpose,
    place: Option<Place>,
    /// Room in the send buffer.
    reserved: u64,
    /// What it was for has ended: it only gives back what it holds.
    is_dead: bool,
    stage: Stage<M>,
}

/// What a piece is read for. `run` tells the times apart that a region is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be stamped and sent.
    Copy { region: u64, run: u64 },
    /// To ask whether the secondary has it.
    Ask { region: u64, run: u64 },
    /// To be compared there, at this stamp.
    Verify,
}

enum Stage<M: Memory> {
    /// Behind an overlapping write.
    Queued(M::Buf),
    Reading,
    /// Read; it waits for the timeline's lease.
    Read(M::Buf),
    /// The secondary was asked.
    Asked {
        ask: u64,
        until: Mono,
    },
}

/// Whether a piece could be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Started {
    Yes,
    /// The send buffer has no room, or enough is being read: what ends wakes the rest.
    NoRoom,
    NoMemory,
}

impl<M: Memory> Primary<M> {
    pub(super) fn start_job(
        &mut self,
        now: Now,
        id: PairId,
        extent: Extent,
        purpose: Purpose,
        ports: &mut impl Up<M>,
    ) -> Started {
        let pair = &self.pairs[&id];
        let bytes = u64::from(extent.blocks) * u64::from(pair.config.geometry.block_bytes);
        if self.reading_bytes > 0 && self.reading_bytes + bytes > READING_BYTES_MAX {
            return Started::NoRoom;
        }
        let payload_bytes = match purpose {
            Purpose::Copy { .. } => bytes,
            Purpose::Ask { .. } => 0,
            Purpose::Verify => digest_bytes(bytes),
        };
        let head = self.head(id, RecordKind::Copy, extent, payload_bytes as u32);
        let reserved = if matches!(purpose, Purpose::Ask { .. }) { 0 } else { head.charge_bytes() };
        let key = self.groups[&pair.config.group].budget;
        let budget = self.budgets.get_mut(&key).expect("a group's budget exists");
        if reserved > 0 && !budget.reserve(reserved) {
            return Started::NoRoom;
        }
        let Some(buf) = ports.alloc(bytes as usize) else {
            budget.unreserve(reserved);
            return Started::NoMemory;
        };
        self.reading_bytes += bytes;
        let (pair_serial, stage) = (pair.serial, Stage::Queued(buf));
        let job = Job { pair: id, pair_serial, extent, purpose, place: None, reserved, is_dead: false, stage };
        let key = self.jobs.insert(job);
        let pair = self.pairs.get_mut(&id).expect("looked up above");
        let (place, is_first) = pair.overlap.arrive(extent, Work::Job(key));
        self.jobs[key].place = Some(place);
        if is_first {
            self.run_job(now, key, ports);
        }
        Started::Yes
    }

    /// A piece's turn: it holds its blocks.
    pub(super) fn run_job(&mut self, now: Now, key: usize, ports: &mut impl Up<M>) {
        let Some(job) = self.jobs.get(key) else { return };
        let stopping = !matches!(self.shutdown, Stopping::No);
        if job.is_dead || stopping || !matches!(self.gate(job.pair), Gate::Stamp(_)) {
            return self.end_job(now, key);
        }
        let volume = self.pairs[&job.pair].config.volume;
        let job = &mut self.jobs[key];
        let extent = job.extent;
        let Stage::Queued(buf) = std::mem::replace(&mut job.stage, Stage::Reading) else {
            unreachable!("a piece is read once");
        };
        let token = self.token(Wait::Job(key));
        ports.local(volume, LocalIo::Read { extent, buf }, token);
    }

    /// The piece was read, or cannot be.
    pub(super) fn job_read(
        &mut self,
        now: Now,
        key: usize,
        result: Result<(), DeviceError>,
        buf: Option<M::Buf>,
        ports: &mut impl Up<M>,
    ) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        let is_over = job.is_dead || !matches!(self.shutdown, Stopping::No);
        let (id, extent, purpose) = (job.pair, job.extent, job.purpose);
        match (result, buf) {
            _ if is_over => self.end_job(now, key),
            (Ok(()), Some(buf)) => {
                job.stage = Stage::Read(buf);
                self.go_on_with_job(now, key, ports);
            }
            (result, _) => {
                self.end_job(now, key);
                let error = result.err().unwrap_or(DeviceError { errno: 5 });
                self.piece_unreadable(now, id, extent, purpose, error, ports);
            }
        }
    }

    /// A piece that was read: stamped and sent, or asked about.
    pub(super) fn go_on_with_job(&mut self, now: Now, key: usize, ports: &mut impl Up<M>) {
        let Some(job) = self.jobs.get(key) else { return };
        let Stage::Read(buf) = &job.stage else { return };
        let (id, purpose, extent) = (job.pair, job.purpose, job.extent);
        let Gate::Stamp(route) = self.gate(id) else { return self.end_job(now, key) };
        if let Purpose::Ask { .. } = purpose {
            let digests = digest::digests(buf.as_ref()).collect();
            let ask = self.next_serial();
            let until = now.mono.after_ns(self.config.digest_wait_ns);
            self.let_go_of(now, key);
            self.jobs[key].stage = Stage::Asked { ask, until };
            self.wake_pump(until);
            let group = self.pairs[&id].config.group;
            return ports.send_message(route.link, Message::DigestAsk { group, pair: id, ask, extent, digests });
        }
        let Ok(stamps) = self.stamper.stamp(now, &[route.numbering]) else {
            // Before anything that comes later: the turns try again in order.
            return self.jobs_out_of_lease.push(key);
        };
        let Stage::Read(mut buf) = std::mem::replace(&mut self.jobs[key].stage, Stage::Reading) else { return };
        let (kind, payload) = match purpose {
            Purpose::Verify => {
                let bytes = put_digests(buf.as_mut());
                (RecordKind::Verify, Some(ports.freeze(buf, bytes)))
            }
            _ if is_zero(buf.as_ref()) => (RecordKind::WriteZeroes, None),
            _ => {
                let bytes = buf.as_ref().len();
                (RecordKind::Copy, Some(ports.freeze(buf, bytes)))
            }
        };
        let payload_bytes = payload.as_ref().map_or(0, |payload| payload.as_ref().len() as u32);
        let head = RecordHead { stamp: stamps[0], ..self.head(id, kind, extent, payload_bytes) };
        self.push_copy(now, route, Record { head, payload }, ports);
        self.end_job(now, key);
        self.piece_stamped(now, id, extent, purpose, stamps[0]);
    }

    /// Hands a record of the primary's own to its stream: counted among the copies.
    pub(super) fn push_copy(&mut self, now: Now, route: Route, record: Record<M::Shared>, ports: &mut impl Up<M>) {
        let (seq, charge, id) = (record.head.stamp.seq, record.head.charge_bytes(), record.head.pair);
        let key = self.groups[&self.pairs[&id].config.group].budget;
        self.push_record(now, route, record, ports);
        self.budgets.get_mut(&key).expect("a group's budget exists").copy_pushed(charge);
        self.streams.get_mut(&route.stream).expect("a route leads to a stream").copies.push_back((seq, charge));
    }

    pub(super) fn head(&self, pair: PairId, kind: RecordKind, extent: Extent, payload_bytes: u32) -> RecordHead {
        let stamp = Stamp { time: Time(0), stream: self.pairs[&pair].stream, seq: Seq(0) };
        RecordHead { stamp, pair, kind, extent, payload_bytes }
    }

    /// Those that wait for the lease, in order.
    pub(super) fn retry_jobs(&mut self, now: Now, ports: &mut impl Up<M>) {
        for key in std::mem::take(&mut self.jobs_out_of_lease) {
            self.go_on_with_job(now, key, ports);
        }
    }

    /// Gives up the piece's place and room; those behind it get their turn.
    fn let_go_of(&mut self, now: Now, key: usize) {
        let _ = now;
        let job = &mut self.jobs[key];
        let (reserved, place) = (std::mem::take(&mut job.reserved), job.place.take());
        let Some(pair) = self.pairs.get_mut(&job.pair).filter(|pair| pair.serial == job.pair_serial) else { return };
        if let Some(place) = place {
            let bytes = u64::from(job.extent.blocks) * u64::from(pair.config.geometry.block_bytes);
            self.reading_bytes -= bytes;
            pair.overlap.release(place, |next| self.ready.push_back(next));
        }
        let key = self.groups[&pair.config.group].budget;
        if let Some(budget) = self.budgets.get_mut(&key) {
            budget.unreserve(reserved);
        }
    }

    /// The piece is over.
    fn end_job(&mut self, now: Now, key: usize) {
        self.let_go_of(now, key);
        self.jobs.remove(key);
    }

    /// The pieces of a group's pairs (or of one) are of no use any more. Those in the queue or at the device end when
    /// their turn comes.
    pub(super) fn kill_jobs(&mut self, now: Now, of: impl Fn(PairId, GroupId) -> bool) {
        let pairs = &self.pairs;
        let is_meant = |job: &Job<M>| {
            let pair = pairs.get(&job.pair).filter(|pair| pair.serial == job.pair_serial);
            pair.is_some_and(|pair| of(job.pair, pair.config.group))
        };
        let keys: Vec<usize> = self.jobs.iter().filter(|(_, job)| is_meant(job)).map(|(key, _)| key).collect();
        for key in keys {
            let job = &mut self.jobs[key];
            let (id, extent) = (job.pair, job.extent);
            let was_verify = job.purpose == Purpose::Verify && !job.is_dead;
            match job.stage {
                Stage::Queued(_) | Stage::Reading => job.is_dead = true,
                Stage::Read(_) | Stage::Asked { .. } => self.end_job(now, key),
            }
            if was_verify {
                self.verify_stopped(id, extent);
            }
        }
        self.jobs_out_of_lease.retain(|key| self.jobs.contains(*key));
    }

    /// A pair goes with its overlap order: its pieces have no place any more.
    pub(super) fn orphan_jobs(&mut self, id: PairId) {
        let Some(pair) = self.pairs.get(&id) else { return };
        let key = self.groups[&pair.config.group].budget;
        let block_bytes = u64::from(pair.config.geometry.block_bytes);
        for (_, job) in self.jobs.iter_mut().filter(|(_, job)| job.pair == id && job.pair_serial == pair.serial) {
            job.is_dead = true;
            if job.place.take().is_some() {
                self.reading_bytes -= u64::from(job.extent.blocks) * block_bytes;
            }
            if let Some(budget) = self.budgets.get_mut(&key) {
                budget.unreserve(std::mem::take(&mut job.reserved));
            }
        }
        self.jobs.retain(|_, job| !(job.is_dead && job.pair == id && !matches!(job.stage, Stage::Reading)));
        self.jobs_out_of_lease.retain(|key| self.jobs.contains(*key));
    }

    /// The secondary's answer to a question.
    pub(super) fn asked_answered(&mut self, now: Now, id: PairId, ask: u64, differing: Option<u32>) {
        let is_it =
            |job: &Job<M>| job.pair == id && matches!(job.stage, Stage::Asked { ask: known, .. } if known == ask);
        let Some(key) = self.jobs.iter().find(|(_, job)| is_it(job)).map(|(key, _)| key) else { return };
        let (extent, purpose) = (self.jobs[key].extent, self.jobs[key].purpose);
        self.end_job(now, key);
        self.piece_answered(now, id, extent, purpose, differing);
    }

    /// Questions that were not answered in time, or (`all`) never will be: what they are about is copied.
    pub(super) fn give_up_asking(&mut self, now: Now, of: impl Fn(PairId) -> bool, all: bool) {
        let mut over = Vec::new();
        let mut next = None;
        for (key, job) in self.jobs.iter().filter(|(_, job)| of(job.pair)) {
            match job.stage {
                Stage::Asked { until, .. } if all || now.mono >= until => over.push(key),
                Stage::Asked { until, .. } => next = Some(next.map_or(until, |next: Mono| next.min(until))),
                _ => {}
            }
        }
        if let Some(next) = next {
            self.wake_pump(next);
        }
        for key in over {
            let (id, extent, purpose) = (self.jobs[key].pair, self.jobs[key].extent, self.jobs[key].purpose);
            self.end_job(now, key);
            self.piece_answered(now, id, extent, purpose, None);
        }
    }
}

/// Bytes of the digests of so many bytes.
fn digest_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(digest::PIECE_BYTES as u64) * size_of::<digest::Digest>() as u64
}

/// Replaces bytes by their digests; how many bytes these are.
fn put_digests(buf: &mut [u8]) -> usize {
    let digests: Vec<digest::Digest> = digest::digests(buf).collect();
    let bytes: Vec<u8> = digests.concat();
    buf[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}

/// Whether every byte is zero. Looks at 64 at a time without a branch inside, so that wide registers can be used.
fn is_zero(data: &[u8]) -> bool {
    let is_zero = |bytes: &[u8]| bytes.iter().fold(0, |any, byte| any | byte) == 0;
    let chunks = data.chunks_exact(64);
    is_zero(chunks.remainder()) && chunks.into_iter().all(is_zero)
}
