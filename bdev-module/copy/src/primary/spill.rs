//! A group's spill: what the link cannot keep of its records goes to a device, and comes back for the link in order.
//!
//! After an unclean stop the spill may hold records that the secondary lacks. They are sent in their old epoch, as far as
//! they are a continuation of what is there, while hosts write locally and marked; so the recovery point moves as far as
//! the spill is whole. The resync begins when all of that is durable at the secondary, or cannot be.
//!
//! ```text
//!   Undecided ──(the spill is open, the group suspended, a session)──> Sending: old epochs opened, records, a last beacon
//!       └──(nothing in it that counts)──> Over <──(all durable there; refused; no progress)──┘
//! ```

use super::group::Life;
use super::meta::{StreamMark, stream_key};
use super::status::SpillStatus;
use super::stream::{Membership, Numbers, Stream};
use super::suspend::FirstMissed;
use super::{Primary, Stopping, Up, Wait};
use crate::engine::OperatorError;
use crate::journal::device::LogPorts;
use crate::journal::open::LogMeta;
use crate::keys::next_key;
use crate::ports::{DeviceError, LocalIo, Memory, Ports};
use crate::spill::{Found, Purposes, Spill, SpillOp};
use crate::stamp::Count;
use crate::types::{
    Epoch, Geometry, GroupId, LinkId, Mono, Now, PairState, Record, Scope, Seq, StreamId, Time, VolumeId,
};
use slab::Slab;
use std::collections::{BTreeMap, VecDeque};

const VERSION: u8 = 1;

/// A group's spill and what became of what a restart found in it.
pub(super) struct Owned<S> {
    spill: Spill<S, Wait>,
    serial: u64,
    replay: Replay,
}

impl<S: AsRef<[u8]> + Clone + 'static> Owned<S> {
    /// Whether the group's records go here and not to the link.
    pub(super) fn is_spilling(&self) -> bool {
        self.spill.is_spilling()
    }
}

enum Replay {
    /// It is not known yet whether there is something to send; not for longer than until then.
    Undecided(Mono),
    /// It is being sent.
    Sending {
        /// The last number of each stream that is to be durable.
        last: BTreeMap<StreamId, Seq>,
        /// Whether the spill knows from where on.
        is_asked: bool,
        /// What is durable of it, and until when that has to grow.
        progress: u64,
        until: Mono,
    },
    Over,
}

/// The world as a spill sees it.
struct Io<'a, U> {
    mono: Mono,
    ports: &'a mut U,
    waits: &'a mut Slab<Wait>,
}

impl<U: Ports> Memory for Io<'_, U> {
    type Buf = U::Buf;
    type Shared = U::Shared;

    fn alloc(&mut self, bytes: usize) -> Option<U::Buf> {
        self.ports.alloc(bytes)
    }

    fn freeze(&mut self, buf: U::Buf, bytes: usize) -> U::Shared {
        self.ports.freeze(buf, bytes)
    }
}

impl<U: Ports> LogPorts<Wait> for Io<'_, U> {
    fn mono(&self) -> Mono {
        self.mono
    }

    fn submit_log(&mut self, purpose: Wait, volume: VolumeId, io: LocalIo<U::Buf, U::Shared>) {
        let token = super::token(self.waits, purpose);
        self.ports.local(volume, io, token);
    }
}

pub(super) fn spill_key(group: GroupId) -> String {
    format!("primary/spill/{:016x}", group.0)
}

/// Whether a group may have this spill.
pub(super) fn check(name: &str, scope: Scope, geometry: Geometry, bytes_min: u64) -> Result<(), OperatorError> {
    if scope == Scope::System {
        return Err(OperatorError::Invalid(format!(
            "group {name} has scope system: its stream is shared with other groups, so it cannot have a spill of its \
             own; use scope group or pair, or no spill"
        )));
    }
    if !matches!(geometry.block_bytes, 512 | 4096) || geometry.bytes() < bytes_min {
        return Err(OperatorError::Invalid(format!(
            "the spill of group {name} has {} blocks of {} bytes: it needs blocks of 512 or 4096 bytes and {} KiB at \
             least",
            geometry.blocks,
            geometry.block_bytes,
            bytes_min >> 10
        )));
    }
    Ok(())
}

/// How far a stream was handed to its link, if records of it wait in a spill: [`Spill::handed`].
pub(super) fn handed<S: AsRef<[u8]> + Clone + 'static>(
    spills: &BTreeMap<GroupId, Owned<S>>,
    id: StreamId,
    stream: &Stream,
) -> Option<(Time, Seq)> {
    if spills.is_empty() {
        return None;
    }
    let mut spills = stream.members.keys().filter_map(|group| spills.get(group));
    spills.find_map(|owned| owned.spill.handed(id, stream.epoch))
}

impl<M: Memory> Primary<M> {
    /// Takes up the group's spill, or forgets the one that it had.
    pub(super) fn create_spill(
        &mut self,
        now: Now,
        id: GroupId,
        given: Option<(VolumeId, Geometry)>,
        ports: &mut impl Up<M>,
    ) -> Result<(), OperatorError> {
        let key = spill_key(id);
        let known = ports.recall(&key).filter(|value| !value.is_empty());
        let Some((volume, geometry)) = given else {
            if known.is_some() {
                self.keep(&key, &[], Wait::Note, ports);
            }
            return Ok(());
        };
        let meta = match known {
            // Two lives of a group never begin at one time of the timeline.
            None => LogMeta::new((now.time.0 ^ id.0).max(1)),
            Some(value) => match value.split_first() {
                Some((&VERSION, rest)) => LogMeta::decode(rest),
                _ => None,
            }
            .ok_or_else(|| {
                OperatorError::Invalid(format!(
                    "metadata under {key} cannot be read: it is of another version, or damaged; use the version that \
                     wrote it"
                ))
            })?,
        };
        let serial = self.next_serial();
        let wait = |op| Wait::Spill(id, serial, op);
        let purposes = Purposes {
            open: wait(SpillOp::Open),
            write: wait(SpillOp::Write),
            flush: wait(SpillOp::Flush),
            read: wait(SpillOp::Read),
        };
        let spill = Spill::new(volume, geometry, id, purposes, meta);
        let until = now.mono.after_ns(self.config.operator_wait_ns);
        self.spills.insert(id, Owned { spill, serial, replay: Replay::Undecided(until) });
        self.due = Mono(0);
        Ok(())
    }

    /// The group is no more, or a secondary. What is known of the device stays: it is taken up again with the group.
    pub(super) fn delete_spill(&mut self, id: GroupId, ports: &mut impl Up<M>) {
        self.end_replay(id, ports);
        self.spills.remove(&id);
    }

    /// Gives a record that was just stamped to its stream: to the link, or behind what is spilled.
    pub(super) fn hand_on(
        &mut self,
        id: GroupId,
        link: LinkId,
        epoch: Epoch,
        record: Record<M::Shared>,
        ports: &mut impl Up<M>,
    ) {
        ports.stamped(epoch, &record);
        let Some(owned) = self.spills.get(&id) else { return ports.stream_push(link, epoch, record) };
        let group = &self.groups[&id];
        let generation = (group.generation.number, group.generation.id);
        let budget = &self.budgets[&group.budget];
        if !owned.spill.is_spilling() && budget.exceeds_link_share() {
            let (link_bytes, limit) = (self.link_bytes(id, ports), budget.limit_bytes);
            if owned.spill.should_begin(link_bytes, limit) {
                let mut kept = Vec::new();
                for (stream, link) in self.streams_of(id) {
                    let epoch = self.streams[&stream].epoch;
                    ports.stream_kept(link, stream, &mut |record| kept.push((epoch, generation, record.clone())));
                }
                kept.sort_by_key(|(_, _, record)| record.head.stamp);
                ports.log(format_args!(
                    "group {}: the link keeps its share of the send buffer; what follows is spilled",
                    group.config.name
                ));
                self.spills.get_mut(&id).expect("looked up above").spill.begin(kept);
            }
        }
        let Some(owned) = self.spills.get_mut(&id) else { return };
        match owned.spill.is_spilling() {
            true => owned.spill.append(epoch, generation, record),
            false => ports.stream_push(link, epoch, record),
        }
    }

    /// What the link keeps of the group's records.
    fn link_bytes(&self, id: GroupId, ports: &impl Up<M>) -> u64 {
        self.streams_of(id).map(|(stream, link)| ports.stream_backlog(link, stream).bytes).sum()
    }

    /// What the spill keeps in memory, which counts against the send buffer.
    pub(super) fn spill_memory_bytes(&self, id: GroupId) -> u64 {
        self.spills.get(&id).map_or(0, |owned| owned.spill.memory_bytes())
    }

    /// The secondary has everything of the stream up to `seq`.
    pub(super) fn spill_durable(&mut self, id: GroupId, stream: StreamId, epoch: Epoch, seq: Seq) {
        if let Some(owned) = self.spills.get_mut(&id) {
            owned.spill.acknowledged(stream, epoch, seq);
        }
    }

    /// The group's streams were broken: nothing of what was spilled is sent.
    pub(super) fn discard_spill(&mut self, id: GroupId) {
        if let Some(owned) = self.spills.get_mut(&id).filter(|owned| matches!(owned.replay, Replay::Over)) {
            owned.spill.discard();
        }
    }

    /// The stream is no more.
    pub(super) fn spill_forget(&mut self, id: GroupId, stream: StreamId) {
        if let Some(owned) = self.spills.get_mut(&id) {
            owned.spill.forget(stream);
        }
    }

    /// An I/O of a spill ended.
    pub(super) fn spill_done(
        &mut self,
        now: Now,
        (id, serial, op): (GroupId, u64, SpillOp),
        result: Result<(), DeviceError>,
        buf: Option<M::Buf>,
        ports: &mut impl Up<M>,
    ) {
        let Some(owned) = self.spills.get_mut(&id).filter(|owned| owned.serial == serial) else { return };
        let mut io = Io { mono: now.mono, ports, waits: &mut self.waits };
        owned.spill.done(&mut io, op, result, buf.as_ref().map(AsRef::as_ref));
    }

    /// A spill's metadata is durable.
    pub(super) fn spill_persisted(&mut self, id: GroupId, serial: u64) {
        if let Some(owned) = self.spills.get_mut(&id).filter(|owned| owned.serial == serial) {
            owned.spill.persisted();
        }
    }

    /// Everything of the spills that can go on now.
    pub(super) fn turn_spills(&mut self, now: Now, ports: &mut impl Up<M>) {
        if self.spills.is_empty() {
            return;
        }
        let mut last = None;
        while let Some(id) = next_key(&self.spills, last) {
            last = Some(id);
            self.pump_spill(now, id, ports);
            let Some(owned) = self.spills.get_mut(&id) else { continue };
            let was_open = owned.spill.is_open() || owned.spill.has_failed();
            let mut io = Io { mono: now.mono, ports, waits: &mut self.waits };
            owned.spill.turn(&mut io);
            let is_open = owned.spill.is_open() || owned.spill.has_failed();
            let (meta, serial) = (owned.spill.take_meta(), owned.serial);
            if is_open && !was_open {
                self.due = Mono(0);
                if let (Some(reason), Some(group)) = (owned.spill.reason(), self.groups.get(&id)) {
                    ports.log(format_args!("group {}: {reason}", group.config.name));
                }
            }
            if let Some(meta) = meta {
                let value: Vec<u8> = [&[VERSION][..], &meta].concat();
                self.keep(&spill_key(id), &value, Wait::SpillMeta(id, serial), ports);
            }
        }
    }

    /// Gives the link what it has room for.
    fn pump_spill(&mut self, now: Now, id: GroupId, ports: &mut impl Up<M>) {
        let Some(group) = self.groups.get(&id) else { return };
        let (budget, link) = (group.budget, group.config.link);
        let is_active = |owned: &Owned<M::Shared>| owned.spill.is_spilling() || owned.spill.holds_unsent();
        if !self.spills.get(&id).is_some_and(is_active) {
            return;
        }
        let limit = self.budgets.get(&budget).map_or(0, |budget| budget.limit_bytes);
        let mut link_bytes = self.link_bytes(id, ports);
        let Some(owned) = self.spills.get_mut(&id) else { return };
        while owned.spill.should_pump(link_bytes, limit) {
            let mut io = Io { mono: now.mono, ports, waits: &mut self.waits };
            let Some(next) = owned.spill.next(&mut io) else { break };
            let stream = self.streams.get_mut(&next.record.head.stamp.stream);
            // Its pair was deleted meanwhile.
            let Some(stream) = stream.filter(|stream| stream.epoch == next.epoch && stream.sends()) else { continue };
            stream.last_sent = now.mono;
            self.awake_due = self.awake_due.min(now.mono.after_ns(self.config.beacon_interval_ns));
            link_bytes += next.record.head.charge_bytes();
            ports.stream_push(link, next.epoch, next.record);
        }
        owned.spill.end_if_idle(link_bytes, limit);
        if matches!(owned.replay, Replay::Sending { .. }) && owned.spill.is_replayed() {
            self.due = Mono(0);
        }
        let lost = owned.spill.lost().filter(|_| matches!(owned.replay, Replay::Over)).map(str::to_owned);
        self.refresh_budget(budget, ports);
        if let Some(lost) = lost {
            let reason = format!("{lost}: records that were in it alone cannot be sent; it is resynced by itself");
            self.suspend_for_now(now, id, PairState::SuspendedFull, reason, FirstMissed::Known, ports);
            self.discard_spill(id);
        }
    }

    /// When [`Primary::turn`] has to be called for a spill.
    pub(super) fn spill_timeout(&self, now: Now) -> Option<Mono> {
        self.spills.values().filter_map(|owned| owned.spill.retry_at(now.mono)).min()
    }

    /// How the group's spill is.
    pub(super) fn show_spill(&self, id: GroupId) -> Option<SpillStatus> {
        let owned = self.spills.get(&id)?;
        let usage = owned.spill.usage();
        Some(SpillStatus {
            used_bytes: usage.used_bytes,
            total_bytes: usage.total_bytes,
            unsent_records: usage.unsent_records,
            unsent_bytes: usage.unsent_bytes,
            is_spilling: owned.spill.is_spilling(),
            is_replaying: matches!(owned.replay, Replay::Sending { .. }),
            is_failing: owned.spill.is_failing(),
            reason: owned.spill.reason(),
        })
    }

    /// The oldest time that what waits in the group's spill can have.
    pub(super) fn spilled_since(&self, id: GroupId) -> Option<Time> {
        self.spills.get(&id)?.spill.waiting_since()
    }

    /// Whether what a restart found may still be sent: until then the secondary is not told of the suspension, which would
    /// end the old epochs there, and no resync begins.
    pub(super) fn is_replaying(&self, id: GroupId) -> bool {
        self.spills.get(&id).is_some_and(|owned| !matches!(owned.replay, Replay::Over))
    }

    /// Goes on with what a restart found. Returns when to look again.
    pub(super) fn tend_replay(&mut self, now: Now, id: GroupId, ports: &mut impl Up<M>) -> Option<Mono> {
        if !matches!(self.shutdown, Stopping::No) {
            return None;
        }
        let (group, owned) = (self.groups.get(&id)?, self.spills.get(&id)?);
        match &owned.replay {
            Replay::Over => None,
            Replay::Undecided(until) => {
                let until = *until;
                if !owned.spill.is_open() && !owned.spill.has_failed() {
                    if now.mono < until {
                        return Some(until);
                    }
                } else if owned.spill.found().next().is_some() {
                    match group.life {
                        Life::Suspending(_) => return None,
                        Life::Suspended(_) if group.fenced.is_none() => {
                            if !ports.session_is_up(group.config.link) {
                                return None;
                            }
                            if self.begin_replay(now, id, ports) {
                                return Some(now.mono);
                            }
                        }
                        // Its pairs were not taken up yet.
                        Life::Running if !self.streams_of(id).any(|_| true) => return None,
                        _ => {}
                    }
                }
                self.end_replay(id, ports);
                None
            }
            Replay::Sending { .. } => self.replay_on(now, id, ports),
        }
    }

    /// Opens the old epochs again. `false` if there is nothing that counts.
    fn begin_replay(&mut self, now: Now, id: GroupId, ports: &mut impl Up<M>) -> bool {
        let (group, owned) = (&self.groups[&id], &self.spills[&id]);
        let generation = (group.generation.number, group.generation.id);
        // The image of an unfinished resync is no image: its records move nothing.
        if group.is_resyncing || group.split_brain {
            return false;
        }
        let found: BTreeMap<StreamId, Found> = owned.spill.found().map(|(id, found)| (id, *found)).collect();
        let floor = owned.spill.complete_up_to();
        let mut streams = BTreeMap::new();
        let mut counts = false;
        for stream in &group.opened {
            let mark = ports.recall(&stream_key(*stream)).and_then(|bytes| StreamMark::decode(&bytes));
            let Some(StreamMark::Stamping { epoch, base }) = mark else { continue };
            let here = found.get(stream).filter(|found| found.epoch == epoch && found.generation == generation);
            let last = here.map_or(base.previous(), |found| found.last);
            counts |= here.is_some();
            streams.insert(*stream, (epoch, base, last));
        }
        if !counts || streams.keys().any(|stream| self.streams.contains_key(stream)) {
            return false;
        }
        let (link, scope) = (group.config.link, group.config.scope);
        ports.log(format_args!("group {}: what the spill holds is sent before the resync", group.config.name));
        for (stream, (epoch, base, last)) in &streams {
            // An epoch that is no part of a resync followed one that was drained.
            let before = (epoch.0 > 1).then(|| (Epoch(epoch.0 - 1), base.previous()));
            let ending = Stream {
                link,
                scope,
                epoch: *epoch,
                base: *base,
                base_time: Time(0),
                drained: before,
                numbers: Numbers::Ending(Count { stream: *stream, epoch: *epoch, last: *last, floor }),
                durable: base.previous(),
                held: None,
                buffered_bytes: 0,
                epoch_is_durable: true,
                is_marked: true,
                is_replay: true,
                members: BTreeMap::from([(id, Membership::default())]),
                started: false,
                last_sent: Mono(0),
                told_handed: false,
                copies: VecDeque::new(),
                units: BTreeMap::new(),
                flushes: 0,
                flush_failed: false,
            };
            self.streams.insert(*stream, ending);
        }
        let last = streams.iter().map(|(stream, (.., last))| (*stream, *last)).collect();
        let until = now.mono.after_ns(self.config.operator_wait_ns);
        if let Some(owned) = self.spills.get_mut(&id) {
            owned.replay = Replay::Sending { last, is_asked: false, progress: 0, until };
        }
        for stream in streams.keys() {
            self.ask_to_open(now, *stream, ports);
        }
        true
    }

    fn replay_on(&mut self, now: Now, id: GroupId, ports: &mut impl Up<M>) -> Option<Mono> {
        let (group, owned) = (self.groups.get(&id)?, self.spills.get_mut(&id)?);
        let Replay::Sending { last, is_asked, progress, until } = &mut owned.replay else { return None };
        let streams: Vec<(StreamId, &Stream)> =
            last.keys().filter_map(|id| Some((*id, self.streams.get(id)?))).collect();
        let is_whole = streams.len() == last.len() && streams.iter().all(|(_, stream)| stream.sends());
        if !is_whole || group.fenced.is_some() || !matches!(group.life, Life::Suspended(_)) {
            self.end_replay(id, ports);
            return None;
        }
        let is_up = ports.session_is_up(group.config.link);
        let known: u64 = streams.iter().map(|(_, stream)| stream.durable.0).sum();
        if known > *progress || !is_up {
            (*progress, *until) = (known.max(*progress), now.mono.after_ns(self.config.operator_wait_ns));
        }
        if !*is_asked && streams.iter().all(|(_, stream)| stream.started) {
            *is_asked = true;
            owned.spill.replay(streams.iter().map(|(id, stream)| (*id, stream.epoch, stream.durable)));
        }
        // Behind a hole nothing is sent, so nothing is waited for.
        let end = |stream: &StreamId, last: Seq| match owned.spill.replayed_up_to(*stream) {
            Some(next) => next.previous().min(last),
            None => Seq(0),
        };
        let is_sent = *is_asked && owned.spill.is_replayed();
        let is_done = is_sent && streams.iter().all(|(id, stream)| stream.durable >= end(id, last[id]));
        if is_done || now.mono >= *until {
            let word =
                if is_done { "all that the spill held is there" } else { "the secondary took no more of the spill" };
            ports.log(format_args!("group {}: {word}", group.config.name));
            self.end_replay(id, ports);
            return None;
        }
        Some(*until)
    }

    /// What a restart found is sent, or cannot be, or does not count. Returns whether it was being sent.
    pub(super) fn end_replay(&mut self, id: GroupId, ports: &mut impl Up<M>) -> bool {
        let Some(owned) = self.spills.get_mut(&id) else { return false };
        let replay = std::mem::replace(&mut owned.replay, Replay::Over);
        if matches!(replay, Replay::Over) {
            return false;
        }
        owned.spill.discard();
        let was_sending = matches!(replay, Replay::Sending { .. });
        if let Replay::Sending { last, .. } = replay {
            for stream in last.keys() {
                if self.streams.get(stream).is_some_and(|stream| stream.is_replay)
                    && let Some(stream_state) = self.streams.remove(stream)
                {
                    ports.stream_drop(stream_state.link, *stream);
                }
            }
        }
        if let Some(group) = self.groups.get(&id) {
            let budget = group.budget;
            self.refresh_budget(budget, ports);
            self.tell_suspended(id, ports);
        }
        self.due = Mono(0);
        was_sending
    }
}
