//! A resync: one unit of the whole group that replaces the secondary's last image as a whole (design 4a).
//!
//! ```text
//!   Suspended ──(a session, the pause over, every known pair here)──> Resyncing, not durable: new epochs of all streams
//!      ^                                                                 │ durable: writes are stamped again
//!      │ overflow, error, operator: all that is marked is due again      v
//!      └──────────────────────────────────────────────── Resyncing ──> all is stamped: CopyEnd ──> CopyDone ──> Running
//! ```
//!
//! An attempt that fails has not been for nothing: a region whose copy is durable at the secondary is clean, unless it was
//! written again. Each attempt has a number of its own, so that a late word about an earlier one is not taken for one
//! about this; the secondary's image from before the first of them stays until one is done.

use super::budget::BudgetKey;
use super::group::{Life, Resync};
use super::meta::{StreamMark, group_key, pair_key, stream_key};
use super::pair::{Phase, Rejoin};
use super::stream::{Membership, Numbers, Stream};
use super::{Primary, Stopping, Up, Wait};
use crate::keys::next_of;
use crate::message::{CopyId, Message};
use crate::ports::Memory;
use crate::types::{Epoch, Extent, GroupId, Mono, Now, PairId, Seq, StreamId, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

impl<M: Memory> Primary<M> {
    /// The groups whose resyncs go together: those that share a stream. Without those that are fenced.
    pub(super) fn together(&self, id: GroupId) -> Vec<GroupId> {
        let Some(key) = self.groups.get(&id).map(|group| group.budget) else { return Vec::new() };
        let all = self.groups.iter().filter(|(other, group)| {
            **other == id || (group.budget == key && !group.pairs.is_empty() && group.fenced.is_none())
        });
        all.map(|(id, _)| *id).collect()
    }

    /// Why a resync of the group cannot help, whoever asks for it.
    pub(super) fn resync_obstacle(&self, id: GroupId) -> Option<String> {
        let group = self.groups.get(&id)?;
        let name = &group.config.name;
        if let Some(newer) = group.fenced {
            return Some(format!(
                "group {name} is fenced: another site took it over (generation {}); what is newer is there, so this \
                 side follows it by group_failback, or is deleted",
                newer.number
            ));
        }
        if group.split_brain {
            return Some(match group.rival {
                Some(_) => {
                    format!("group {name} cannot be resynced: {}", group.other_history().unwrap_or_default())
                }
                None => format!(
                    "group {name} is in split brain: both sites continue one history on their own; decide which one stays \
                     and delete the group at the other site"
                ),
            });
        }
        let lost = group.pairs.iter().find(|pair| self.pairs[pair].is_lost)?;
        Some(format!(
            "pair {} of group {name}: its volume is in memory and lost its content with the process, so a resync would \
             overwrite the only copy; take over at the secondary, or delete the pair at both sites and create it anew",
            self.pairs[lost].config.name
        ))
    }

    /// What a resync that will begin by itself waits for: owner, reason, until when.
    pub(super) fn resync_waits(
        &self,
        now: Now,
        id: GroupId,
        ports: &impl Up<M>,
    ) -> Option<(&'static str, String, Option<Mono>)> {
        for other in self.together(id) {
            if self.is_replaying(other) {
                let text = "what the spill holds of the time before is looked for, and sent first".to_string();
                return Some(("primary", text, None));
            }
            let group = &self.groups[&other];
            if !matches!(group.life, Life::Suspended(_)) {
                return Some(("metadata", "the suspension is becoming durable".to_string(), None));
            }
            if let Some(obstacle) = self.resync_obstacle(other).filter(|_| other != id) {
                return Some(("operator", format!("it shares its stream: {obstacle}"), None));
            }
            if let Some(name) = self.missing_pair(other, ports) {
                let text = format!(
                    "pair {name} of group {} was not created again since the start; a resync without it would leave \
                     the secondary torn: create it, as it was",
                    group.config.name
                );
                return Some(("operator", text, None));
            }
        }
        let group = &self.groups[&id];
        if !ports.session_is_up(group.config.link) {
            return Some(("link", "no session with the secondary system; the resync begins with it".to_string(), None));
        }
        let at = group.next_attempt?;
        (now.mono < at).then(|| ("primary", "the next resync begins after a pause".to_string(), Some(at)))
    }

    /// An established pair of the group that this process has not taken up.
    pub(super) fn missing_pair(&self, id: GroupId, ports: &impl Up<M>) -> Option<&str> {
        let has_record = |pair: &PairId| ports.recall(&pair_key(*pair)).is_some_and(|record| !record.is_empty());
        let mut known = self.groups.get(&id)?.known.iter();
        known.find(|(pair, _)| !self.pairs.contains_key(*pair) && has_record(pair)).map(|(_, name)| name.as_str())
    }

    /// Begins a resync that is due. Returns when to look again.
    pub(super) fn tend_resync(&mut self, now: Now, id: GroupId, ports: &mut impl Up<M>) -> Option<Mono> {
        let group = self.groups.get(&id)?;
        let suspension = group.suspension()?;
        if !suspension.auto || !matches!(self.shutdown, Stopping::No) || self.resync_obstacle(id).is_some() {
            return None;
        }
        if group.pairs.iter().all(|pair| !matches!(self.pairs[pair].phase, Phase::Member)) {
            return None;
        }
        match self.resync_waits(now, id, ports) {
            // All but the pause announce themselves: a session, a pair, something durable.
            Some((_, _, until)) => until,
            None => {
                self.begin_resync(now, id, ports);
                None
            }
        }
    }

    /// New epochs of all streams, durably, before the first stamp.
    fn begin_resync(&mut self, now: Now, id: GroupId, ports: &mut impl Up<M>) {
        let together = self.together(id);
        let mut feeding: BTreeMap<StreamId, BTreeSet<GroupId>> = BTreeMap::new();
        let mut units = BTreeMap::new();
        for group_id in &together {
            let group = self.groups.get_mut(group_id).expect("just listed");
            let Life::Suspended(was) = &group.life else { return };
            group.units += 1;
            (group.is_resyncing, group.next_attempt) = (true, None);
            let (unit, was) = (group.units, was.clone());
            ports.log(format_args!("group {}: resync {unit} begins, after {}", group.config.name, was.state.code()));
            group.life = Life::Resyncing(Resync { unit, is_durable: false, was, end: None, is_told: false });
            units.insert(*group_id, unit);
            for pair in &group.pairs {
                let pair = self.pairs.get_mut(pair).expect("a group's pair exists");
                if matches!(pair.phase, Phase::Member) {
                    pair.rejoin = Rejoin::Due { asked: None, put_off: None };
                    feeding.entry(pair.stream).or_default().insert(*group_id);
                }
            }
            self.abandon_drain(*group_id, ports);
            self.discard_spill(*group_id);
            let key = self.groups[group_id].budget;
            self.budgets.get_mut(&key).expect("a group's budget exists").is_copying = true;
        }
        for (stream, members) in feeding {
            for group in &members {
                self.groups.get_mut(group).expect("just listed").opened.insert(stream);
            }
            let units = units.iter().filter(|(group, _)| members.contains(group)).map(|(id, unit)| (*id, *unit));
            self.begin_epoch(now, stream, &members, units.collect(), ports);
        }
        // Behind the streams' marks: when it is durable, they are.
        for group_id in together {
            let group = &self.groups[&group_id];
            let (record, serial, unit) = (group.record().encode(), group.serial, group.units);
            self.keep(&group_key(group_id), &record, Wait::ResyncBegun(group_id, serial, unit), ports);
        }
    }

    /// The next epoch of a stream, as part of a resync: it stamps, whatever became of the one before.
    fn begin_epoch(
        &mut self,
        now: Now,
        id: StreamId,
        members: &BTreeSet<GroupId>,
        units: BTreeMap<GroupId, u64>,
        ports: &mut impl Up<M>,
    ) {
        let mark = ports.recall(&stream_key(id)).and_then(|bytes| StreamMark::decode(&bytes));
        let (epoch, base, drained) = match self.end_stream(id, ports) {
            Some((epoch, last, is_drained)) => (Epoch(epoch.0 + 1), last.next(), is_drained.then_some((epoch, last))),
            None => match mark {
                Some(StreamMark::Drained { epoch, last }) => (Epoch(epoch.0 + 1), last.next(), Some((epoch, last))),
                Some(mark) => (Epoch(mark.epoch().0 + 1), Seq(1), None),
                None => (Epoch(1), Seq(1), None),
            },
        };
        self.stamper.raise(now.time);
        let first = members.iter().next().expect("a stream feeds a group");
        let config = &self.groups[first].config;
        let stream = Stream {
            link: config.link,
            scope: config.scope,
            epoch,
            base,
            base_time: self.stamper.floor(),
            drained,
            numbers: Numbers::Live(self.stamper.open(id, epoch, base)),
            durable: base.previous(),
            held: None,
            buffered_bytes: 0,
            epoch_is_durable: false,
            is_marked: true,
            is_replay: false,
            members: members.iter().map(|group| (*group, Membership::default())).collect(),
            started: false,
            last_sent: now.mono,
            told_handed: false,
            copies: VecDeque::new(),
            units,
            flushes: 0,
            flush_failed: false,
        };
        self.streams.insert(id, stream);
        self.keep(&stream_key(id), &StreamMark::Stamping { epoch, base }.encode(), Wait::Note, ports);
    }

    /// Takes a stream's epoch out of memory: its epoch, last number, and whether the secondary has all of it.
    fn end_stream(&mut self, id: StreamId, ports: &mut impl Up<M>) -> Option<(Epoch, Seq, bool)> {
        self.forget_copies(id);
        let stream = self.streams.remove(&id)?;
        let count = stream.count(&self.stamper);
        if let Numbers::Live(numbering) = stream.numbers {
            self.stamper.close(numbering);
        }
        ports.stream_drop(stream.link, id);
        Some((stream.epoch, count.last, stream.durable == count.last))
    }

    /// The resync is durably begun: writes are stamped, the secondary is asked to open the streams.
    pub(super) fn resync_begun(&mut self, now: Now, id: GroupId, serial: u64, unit: u64, ports: &mut impl Up<M>) {
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.serial == serial) else { return };
        let Life::Resyncing(resync) = &mut group.life else { return };
        if resync.unit != unit {
            return;
        }
        resync.is_durable = true;
        for pair in group.pairs.clone() {
            self.copying.insert(pair);
            self.unpark(pair);
        }
        let streams: Vec<StreamId> = self.streams_of(id).map(|(stream, _)| stream).collect();
        for stream in streams {
            self.streams.get_mut(&stream).expect("just listed").epoch_is_durable = true;
            self.ask_to_open(now, stream, ports);
        }
        self.due = Mono(0);
    }

    /// The secondary says what it changed on its own: that is copied too.
    pub(super) fn take_differs(&mut self, group: GroupId, id: PairId, extents: &[Extent]) {
        let is_resyncing = self.groups.get(&group).is_some_and(|group| group.resync().is_some());
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| pair.config.group == group && is_resyncing) else {
            return;
        };
        for extent in extents {
            if !pair.config.geometry.holds(*extent) {
                self.misdeeds += 1;
                continue;
            }
            pair.dirty.miss(*extent);
        }
        self.unasked.insert(id);
        self.copying.insert(id);
        self.due = Mono(0);
    }

    /// Says, once in each session, that all that was to be copied is stamped.
    pub(super) fn say_copy_ends(&mut self, id: GroupId, ports: &mut impl Up<M>) {
        let Some(group) = self.groups.get(&id) else { return };
        if !matches!(self.shutdown, Stopping::No) || !ports.session_is_up(group.config.link) {
            return;
        }
        match group.life {
            Life::Running => {
                let mut last = None;
                while let Some(pair) = self.groups.get(&id).and_then(|group| next_of(&group.pairs, last)) {
                    last = Some(pair);
                    self.say_pair_copied(pair, ports);
                }
            }
            Life::Resyncing(_) if self.is_copied(id) => {
                let floor = self.stamper.floor();
                let group = self.groups.get_mut(&id).expect("looked up above");
                let Life::Resyncing(resync) = &mut group.life else { return };
                if !resync.is_told {
                    resync.is_told = true;
                    let (end, copy) = (*resync.end.get_or_insert(floor), CopyId::Unit(resync.unit));
                    ports.send_message(group.config.link, Message::CopyEnd { group: id, copy, end });
                }
            }
            _ => {}
        }
    }

    /// Whether all that the unit is to bring is stamped, and the secondary takes part with every stream and pair.
    fn is_copied(&self, id: GroupId) -> bool {
        let group = &self.groups[&id];
        let is_open =
            |stream: &Stream| stream.started && stream.members.get(&id).is_some_and(|member| member.answered.is_some());
        let pairs = || group.pairs.iter().map(|pair| &self.pairs[pair]);
        let members = || pairs().filter(|pair| matches!(pair.phase, Phase::Member));
        group.resync().is_some_and(|resync| resync.is_durable)
            && members().all(|pair| self.streams.get(&pair.stream).is_some_and(is_open))
            && members().all(|pair| pair.rejoin == Rejoin::Done && pair.copy.is_idle(&pair.dirty))
    }

    fn say_pair_copied(&mut self, id: PairId, ports: &mut impl Up<M>) {
        let floor = self.stamper.floor();
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let is_open = self.streams.get(&pair.stream).is_some_and(|stream| stream.started);
        let is_member = matches!(pair.phase, Phase::Member) && pair.leaving.is_none();
        if !(pair.is_copying && is_member && is_open && !pair.copy.is_told && pair.copy.is_idle(&pair.dirty)) {
            return;
        }
        pair.copy.is_told = true;
        let end = *pair.copy.end.get_or_insert(floor);
        let (group, link) = (pair.config.group, self.groups[&pair.config.group].config.link);
        ports.send_message(link, Message::CopyEnd { group, copy: CopyId::Pair(id), end });
    }

    /// The secondary has all of a copy, durably. An answer to what was not said in this attempt is passed over.
    pub(super) fn copy_done(&mut self, id: GroupId, copy: CopyId, ports: &mut impl Up<M>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        match copy {
            CopyId::Unit(unit) => {
                let resync = group.resync().filter(|resync| resync.unit == unit && resync.is_told);
                if resync.is_none() {
                    return;
                }
                ports.log(format_args!("group {}: resync {unit} is done", group.config.name));
                group.life = Life::Running;
                group.is_resyncing = false;
                group.pause_ns = self.config.resync_pause_ns;
                let budget = group.budget;
                // Sessions from here on are of no unit.
                for stream in self.streams.values_mut() {
                    if stream.units.remove(&id).is_some() && stream.units.is_empty() {
                        stream.held = Some(Time(0));
                    }
                }
                let is_last = !self.groups.values().any(|group| group.budget == budget && group.resync().is_some());
                self.budgets.get_mut(&budget).expect("a group's budget exists").is_copying = !is_last;
                self.keep_group(id, ports);
                self.due = Mono(0);
            }
            CopyId::Pair(pair_id) => {
                let pair = self.pairs.get_mut(&pair_id).filter(|pair| pair.config.group == id);
                let Some(pair) = pair.filter(|pair| pair.is_copying && pair.copy.is_told) else { return };
                (pair.is_copying, pair.keeps_image) = (false, false);
                let record = pair.record().encode();
                ports.log(format_args!("pair {} is copied", pair.config.name));
                self.keep(&pair_key(pair_id), &record, Wait::Note, ports);
            }
        }
    }

    /// Sets when the next resync begins by itself, after the group was suspended.
    pub(super) fn schedule_attempt(&mut self, now: Now, id: GroupId, did_fail: bool) {
        let (least, most) = (self.config.resync_pause_ns, self.config.resync_pause_ns_max);
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.pause_ns = match did_fail {
            true => group.pause_ns.saturating_mul(2).clamp(least, most),
            false => group.pause_ns.max(least),
        };
        let is_auto = group.suspension().is_some_and(|suspension| suspension.auto);
        group.next_attempt = is_auto.then(|| now.mono.after_ns(group.pause_ns));
    }

    /// Everything of a stream's copies is out of its buffer.
    pub(super) fn forget_copies(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let gone = std::mem::take(&mut stream.copies).iter().map(|(_, bytes)| bytes).sum();
        let key = Self::budget_of(&self.groups, id, stream);
        if let Some(budget) = key.and_then(|key| self.budgets.get_mut(&key)) {
            budget.copies_gone(gone);
        }
    }

    /// The send buffer that a stream's records count against.
    pub(super) fn budget_of(
        groups: &BTreeMap<GroupId, super::Group>,
        id: StreamId,
        stream: &Stream,
    ) -> Option<BudgetKey> {
        let first = stream.members.keys().find_map(|group| groups.get(group))?;
        Some(if first.budget == BudgetKey::Shared(id) { BudgetKey::Shared(id) } else { first.budget })
    }

    /// Why the group is being resynced.
    pub(super) fn resync_reason(&self, id: GroupId) -> Option<String> {
        let was = &self.groups.get(&id)?.resync()?.was;
        Some(format!("resync after {}: {}", was.state.code(), was.reason))
    }
}
