//! The life of a host's request.
//!
//! A write takes its place in the overlap order, its regions are marked durably, it is stamped, and in the same step goes to the local device and to its
//! stream. Its answer waits for the local device, then until the timeline is past the stamp by the clock error bound
//! (so that whatever the host does next is stamped later, on any core or system), then for the throttle.

use super::group::Life;
use super::handover::HandOver;
use super::pair::Phase;
use super::request::{Change, Repair, Request, Stage};
use super::spill::Owned;
use super::{Primary, Stopping, Up, Wait, Work};
use crate::account::{Step, within};
use crate::dirty::FlushNumber;
use crate::ports::{DeviceError, HostError, HostIo, HostToken, LocalIo, Memory};
use crate::stamp::Numbering;
use crate::types::{Extent, LinkId, Now, PairId, Record, RecordHead, Stamp, StreamId, Time};
use std::cmp::Reverse;

/// What may happen to a write of a pair now.
pub(super) enum Gate {
    /// Wait: the pair is being opened, or its suspension is not durable yet.
    Park,
    /// Write locally only: the pair is suspended.
    Local,
    /// Stamp, write and send.
    Stamp(Route),
    /// Answer so.
    Fail(HostError),
}

/// Where a pair's records go.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub link: LinkId,
    pub stream: StreamId,
    pub numbering: Numbering,
}

impl<M: Memory> Primary<M> {
    pub(super) fn take_host_io(
        &mut self,
        now: Now,
        id: PairId,
        io: HostIo<M::Buf, M::Shared>,
        token: HostToken,
        ports: &mut impl Up<M>,
    ) {
        if let Some(error) = self.refusal(id) {
            let buf = match io {
                HostIo::Read { buf, .. } => Some(buf),
                _ => None,
            };
            return ports.complete_host(token, Err(error), buf);
        }
        match io {
            HostIo::Read { extent, buf } => self.pass(id, extent, LocalIo::Read { extent, buf }, None, token, ports),
            HostIo::Flush => {
                // It serves the dirty marks as well.
                let flush = self.pairs.get_mut(&id).map(|pair| pair.dirty.flush_begins());
                self.pass(id, Extent { lba: 0, blocks: 1 }, LocalIo::Flush, flush, token, ports);
            }
            HostIo::Write { extent, data, fua } => {
                self.admit(now, id, extent, Change::Write { data, fua }, token, ports);
            }
            HostIo::WriteZeroes { extent, fua } => {
                self.admit(now, id, extent, Change::WriteZeroes { fua }, token, ports);
            }
            HostIo::Unmap { extent } => self.admit(now, id, extent, Change::Unmap, token, ports),
        }
    }

    /// Why a new request is not taken.
    fn refusal(&self, id: PairId) -> Option<HostError> {
        let Some(pair) = self.pairs.get(&id) else { return Some(HostError::Aborted) };
        if self.groups[&pair.config.group].fenced.is_some() {
            return Some(HostError::Fenced);
        }
        if let Some(error) = self.role_refusal(pair.config.group) {
            return Some(error);
        }
        let stopping = !matches!(self.shutdown, Stopping::No);
        let full = pair.requests >= self.config.requests_max;
        (stopping || full || pair.leaving.is_some()).then_some(HostError::Aborted)
    }

    fn new_request(&mut self, id: PairId, extent: Extent, token: HostToken, is_write: bool, stage: Stage<M>) -> usize {
        let serial = self.next_serial();
        let pair = self.pairs.get_mut(&id).expect("looked up by the caller");
        pair.requests += 1;
        let pair_serial = pair.serial;
        self.requests.insert(Request {
            token,
            pair: id,
            pair_serial,
            serial,
            extent,
            is_write,
            place: None,
            stage,
            is_held: false,
        })
    }

    /// A read or flush: straight to the device. A flush covers the writes that were answered before it, and these have
    /// completed there.
    fn pass(
        &mut self,
        id: PairId,
        extent: Extent,
        io: LocalIo<M::Buf, M::Shared>,
        flush: Option<FlushNumber>,
        token: HostToken,
        ports: &mut impl Up<M>,
    ) {
        let key = self.new_request(id, extent, token, false, Stage::Passing { flush });
        let volume = self.pairs[&id].config.volume;
        let token = self.token(Wait::Request(key));
        ports.local(volume, io, token);
    }

    /// A write, all of whose data is here.
    fn admit(
        &mut self,
        now: Now,
        id: PairId,
        extent: Extent,
        change: Change<M::Shared>,
        token: HostToken,
        ports: &mut impl Up<M>,
    ) {
        let geometry = self.pairs[&id].config.geometry;
        assert!(geometry.holds(extent), "{extent:?} was to be checked against {geometry:?}");
        if let Change::Write { data, .. } = &change {
            let bytes = u64::from(extent.blocks) * u64::from(geometry.block_bytes);
            assert_eq!(data.as_ref().len() as u64, bytes, "a write's data has its extent's size");
        }
        let key = self.new_request(id, extent, token, true, Stage::Waiting(change));
        let pair = self.pairs.get_mut(&id).expect("looked up above");
        let (place, is_first) = pair.overlap.arrive(extent, Work::Host(key));
        self.requests[key].place = Some(place);
        if is_first {
            self.issue(now, key, ports);
        }
    }

    /// What may happen to this pair's writes now.
    pub(super) fn gate(&self, id: PairId) -> Gate {
        let Some(pair) = self.pairs.get(&id) else { return Gate::Fail(HostError::Aborted) };
        let group = &self.groups[&pair.config.group];
        if group.fenced.is_some() {
            return Gate::Fail(HostError::Fenced);
        }
        match (&pair.phase, &group.life) {
            (Phase::Halted(_), _) | (Phase::Member, Life::Suspended(_)) => Gate::Local,
            // A copy under the overlap lock follows each of these.
            (Phase::Member, Life::Resyncing(resync)) if !resync.is_durable => Gate::Local,
            (Phase::Member, Life::Running | Life::Resyncing(_)) => {
                let stream = self.streams.get(&pair.stream);
                match stream.and_then(|stream| Some((stream.link, stream.live()?))) {
                    Some((link, numbering)) => Gate::Stamp(Route { link, stream: pair.stream, numbering }),
                    // Drained for a clean shutdown: no request is accepted any more that could come here.
                    None => Gate::Fail(HostError::Aborted),
                }
            }
            _ => Gate::Park,
        }
    }

    /// Works off the writes whose turn has come.
    pub(super) fn settle(&mut self, now: Now, ports: &mut impl Up<M>) {
        while let Some(work) = self.ready.pop_front() {
            match work {
                Work::Host(key) => self.issue(now, key, ports),
                Work::Job(key) => self.run_job(now, key, ports),
            }
        }
    }

    /// A write's turn: it holds its blocks.
    pub(super) fn issue(&mut self, now: Now, key: usize, ports: &mut impl Up<M>) {
        let Some(request) = self.requests.get(key) else { return };
        let id = request.pair;
        let change = match &request.stage {
            Stage::Waiting(change) => change,
            Stage::Repairing(_) => return self.send_repair(now, key, ports),
            Stage::Ghost => return self.bury(now, key),
            _ => return debug_assert!(false, "a write is issued once"),
        };
        let (kind, payload_bytes) = match change {
            Change::Write { data, .. } => (change.kind(), data.as_ref().len()),
            _ => (change.kind(), 0),
        };
        match self.gate(id) {
            Gate::Park => {
                let pair = self.pairs.get_mut(&id).expect("its gate was looked at");
                pair.parked_since.get_or_insert(now.mono);
                let limit = now.mono.after_ns(self.config.open_wait_ns);
                self.due = self.due.min(limit);
                if self.hold(now, key) {
                    self.pairs.get_mut(&id).expect("looked up above").parked.push_back(key);
                }
            }
            Gate::Fail(error) => {
                self.leave_order(now, key);
                self.answer_with(key, Err(error), None, ports);
            }
            // Write-ahead: before the mark is durable nothing is stamped or written.
            _ if !self.hold(now, key) => {}
            Gate::Local => self.submit(now, key, None, ports),
            Gate::Stamp(route) => {
                if !self.has_room(now, id, kind, payload_bytes, ports) {
                    // The group was suspended: the write waits until that is durable, then runs locally.
                    return self.ready.push_back(Work::Host(key));
                }
                let stamping = within(Step::Stamp);
                let stamps = self.stamper.stamp(now, &[route.numbering]);
                drop(stamping);
                match stamps {
                    Ok(stamps) => self.submit(now, key, Some((route, stamps[0])), ports),
                    Err(_) => self.out_of_lease.push_back(key),
                }
            }
        }
    }

    /// Steps 5 and 6 of a write: to the local device and to the stream, from one buffer.
    fn submit(&mut self, now: Now, key: usize, stamped: Option<(Route, Stamp)>, ports: &mut impl Up<M>) {
        let request = &mut self.requests[key];
        let (id, extent) = (request.pair, request.extent);
        let next = Stage::Local { stamped: stamped.map(|(_, stamp)| stamp.time) };
        let Stage::Waiting(change) = std::mem::replace(&mut request.stage, next) else {
            unreachable!("only a waiting write is submitted");
        };
        let pair = self.pairs.get_mut(&id).expect("its gate was looked at");
        let volume = pair.config.volume;
        if stamped.is_none() {
            pair.dirty.unstamped(extent);
        }
        let token = self.token(Wait::Request(key));
        let kind = change.kind();
        let (io, payload) = match change {
            Change::Write { data, fua } => {
                let payload = stamped.is_some().then(|| data.clone());
                (LocalIo::Write { extent, data, fua }, payload)
            }
            Change::WriteZeroes { fua } => (LocalIo::WriteZeroes { extent, fua }, None),
            Change::Unmap => (LocalIo::Unmap { extent }, None),
        };
        let handing = within(Step::Local);
        ports.local(volume, io, token);
        drop(handing);
        if let Some((route, stamp)) = stamped {
            let _step = within(Step::Push);
            let payload_bytes = payload.as_ref().map_or(0, |payload| payload.as_ref().len() as u32);
            let head = RecordHead { stamp, pair: id, kind, extent, payload_bytes };
            self.push(now, route, Record { head, payload }, ports);
        }
    }

    /// Hands a host's record to its stream.
    pub(super) fn push(&mut self, now: Now, route: Route, record: Record<M::Shared>, ports: &mut impl Up<M>) {
        let (id, head) = (record.head.pair, record.head);
        self.push_record(now, route, record, ports);
        if head.kind.changes_volume() {
            let (pair, stream) = (self.pairs.get_mut(&id), self.streams.get(&route.stream));
            if let Some((pair, stream)) = pair.zip(stream) {
                pair.dirty.stamped(head.extent, stream.epoch, head.stamp.seq);
            }
        }
    }

    /// Hands a stamped record to its stream and counts it.
    pub(super) fn push_record(&mut self, now: Now, route: Route, record: Record<M::Shared>, ports: &mut impl Up<M>) {
        let pair = self.pairs.get_mut(&record.head.pair).expect("its gate was looked at");
        pair.last_stamp = Some(record.head.stamp);
        let group = self.groups.get_mut(&pair.config.group).expect("a pair's group exists");
        group.last_write = now.mono;
        let charge_bytes = record.head.charge_bytes();
        self.budgets.get_mut(&group.budget).expect("a group's budget exists").add(charge_bytes);
        assert!(
            !self.handovers.get(&pair.config.group).is_some_and(HandOver::is_told),
            "zero loss in a swap: stamped after the secondary was told that all is stamped"
        );
        let stream = self.streams.get_mut(&route.stream).expect("a route leads to a stream");
        stream.buffered_bytes += charge_bytes;
        assert!(stream.is_marked && stream.epoch_is_durable, "stamped before metadata says that the epoch stamps");
        pair.last_epoch = stream.epoch;
        self.awake_due = self.awake_due.min(now.mono.after_ns(self.config.beacon_interval_ns));
        let (group, epoch) = (pair.config.group, stream.epoch);
        // In the spill it says nothing.
        if !self.spills.get(&group).is_some_and(Owned::is_spilling) {
            stream.last_sent = now.mono;
        }
        self.hand_on(group, route.link, epoch, record, ports);
    }

    /// The device is done with a request.
    pub(super) fn request_done(
        &mut self,
        now: Now,
        key: usize,
        result: Result<(), DeviceError>,
        buf: Option<M::Buf>,
        ports: &mut impl Up<M>,
    ) {
        let Some(request) = self.requests.get(key) else { return };
        let id = request.pair;
        match request.stage {
            Stage::Passing { flush } => {
                // The data read may be that of a write whose stamp the timeline has not passed: what the host does
                // knowing it must be stamped later.
                let pair_serial = request.pair_serial;
                if let Some(flush) = flush {
                    self.flush_over(now, (id, pair_serial), flush, result, ports);
                }
                let pair = self.pairs.get(&id).filter(|pair| pair.serial == pair_serial);
                let newest = pair.as_ref().and_then(|pair| pair.last_stamp).map(|stamp| stamp.time);
                self.finish(now, key, result.map_err(HostError::from), buf, newest, ports);
            }
            Stage::Local { stamped } => match (result, stamped) {
                (Err(error), Some(time)) if matches!(self.gate(id), Gate::Stamp(_)) => {
                    let next_lba = request.extent.lba;
                    let repair = Repair { next_lba, piece: None, since: now.mono, error: error.into(), stamped: time };
                    self.requests[key].stage = Stage::Repairing(repair);
                    self.begin_repair(now, key, error, ports);
                }
                _ => {
                    self.leave_order(now, key);
                    self.finish(now, key, result.map_err(HostError::from), None, stamped, ports);
                }
            },
            _ => debug_assert!(false, "nothing of this request is at the device"),
        }
    }

    /// Gives up a write's place; those behind it get their turn.
    pub(super) fn leave_order(&mut self, now: Now, key: usize) {
        let request = &mut self.requests[key];
        let Some(place) = request.place.take() else { return };
        let is_held = std::mem::take(&mut request.is_held);
        let pair = self.pairs.get_mut(&request.pair).filter(|pair| pair.serial == request.pair_serial);
        if let Some(pair) = pair {
            if is_held {
                pair.dirty.end(now.mono, request.extent);
            }
            pair.overlap.release(place, |next| self.ready.push_back(next));
        }
    }

    /// A ghost's turn.
    fn bury(&mut self, now: Now, key: usize) {
        self.leave_order(now, key);
        self.requests.remove(key);
    }

    /// The outcome is known; the answer waits until the timeline is past `stamped`.
    pub(super) fn finish(
        &mut self,
        now: Now,
        key: usize,
        outcome: Result<(), HostError>,
        buf: Option<M::Buf>,
        stamped: Option<Time>,
        ports: &mut impl Up<M>,
    ) {
        let request = &mut self.requests[key];
        request.stage = Stage::Answering { outcome, buf };
        let group = self.pairs.get(&request.pair).map(|pair| &self.groups[&pair.config.group]);
        let is_fenced = group.is_some_and(|group| group.fenced.is_some());
        match stamped {
            Some(time) if !is_fenced && !is_past(now, time) => {
                self.committing.push(Reverse((time, key, request.serial)))
            }
            _ => self.throttle(now, key, ports),
        }
    }

    /// Holds a write's answer back while the send buffer fills.
    pub(super) fn throttle(&mut self, now: Now, key: usize, ports: &mut impl Up<M>) {
        let request = &self.requests[key];
        let pair = self.pairs.get(&request.pair).filter(|pair| pair.serial == request.pair_serial);
        let delay_ns = match pair {
            Some(pair) if request.is_write => self.throttle_ns(pair.config.group),
            _ => 0,
        };
        match pair {
            Some(pair) if delay_ns > 0 => {
                let group = self.groups.get_mut(&pair.config.group).expect("a pair's group exists");
                group.delayed.push(Reverse((now.mono.after_ns(delay_ns), key, request.serial)));
            }
            _ => self.answer(key, ports),
        }
    }

    /// Whether the request is still the one that waits to be answered.
    pub(super) fn is_answering(&self, key: usize, serial: u64) -> bool {
        let request = self.requests.get(key);
        request.is_some_and(|request| request.serial == serial && matches!(request.stage, Stage::Answering { .. }))
    }

    /// Answers a request whose waits are over.
    pub(super) fn answer(&mut self, key: usize, ports: &mut impl Up<M>) {
        let stage = std::mem::replace(&mut self.requests[key].stage, Stage::Ghost);
        let Stage::Answering { outcome, buf } = stage else { unreachable!("only a finished request is answered") };
        self.answer_with(key, outcome, buf, ports);
    }

    /// Answers and forgets a request that has given up its place.
    pub(super) fn answer_with(
        &mut self,
        key: usize,
        outcome: Result<(), HostError>,
        buf: Option<M::Buf>,
        ports: &mut impl Up<M>,
    ) {
        let request = self.requests.remove(key);
        assert!(request.place.is_none(), "answered while it holds its blocks");
        let mut outcome = outcome;
        if let Some(pair) = self.pairs.get_mut(&request.pair).filter(|pair| pair.serial == request.pair_serial) {
            pair.requests -= 1;
            if pair.leaving.is_some() || !matches!(self.shutdown, Stopping::No) {
                self.due = crate::types::Mono(0);
            }
            if self.groups[&pair.config.group].fenced.is_some() {
                outcome = Err(HostError::Fenced);
            }
        }
        ports.complete_host(request.token, outcome, buf);
    }

    /// Answers every write of the pair that was not submitted yet. They keep their places as ghosts until their turn.
    pub(super) fn fail_waiting(&mut self, id: PairId, error: HostError, ports: &mut impl Up<M>) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        for (_, request) in self.requests.iter_mut() {
            if request.pair == id && request.pair_serial == pair.serial && matches!(request.stage, Stage::Waiting(_)) {
                request.stage = Stage::Ghost;
                pair.requests -= 1;
                ports.complete_host(request.token, Err(error), None);
            }
        }
        self.unpark(id);
    }

    /// The pair's gate has changed: its parked writes get their turn.
    pub(super) fn unpark(&mut self, id: PairId) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        self.ready.extend(pair.parked.drain(..).map(Work::Host));
        pair.parked_since = None;
    }
}

/// Whether the timeline of any stamping core is past `time`.
pub(super) fn is_past(now: Now, time: Time) -> bool {
    now.time > time.after_ns(now.error_bound_ns)
}
