//! What the engine asks and does when a primary's part in a group begins anew or ends.

use super::meta::{PairRecord, group_key, pair_key};
use super::request::Stage;
use super::stream::Numbers;
use super::{GroupConfig, Primary, Up, Uplink, Wait, Work, handover};
use crate::dirty::{chunk_key, chunks_of};
use crate::engine::OperatorError;
use crate::ports::{HostError, Memory};
use crate::types::{Generation, GroupId, Mono, Now, PairId, PairState};

/// Chunks of a dirty map at most: 2^20 regions.
const CHUNKS_MAX: u32 = 512;

impl<M: Memory> Primary<M> {
    /// The group's generation, all zero before it is known.
    pub(crate) fn generation(&self, id: GroupId) -> Option<Generation> {
        self.groups.get(&id).map(|group| group.generation)
    }

    /// As it was created.
    pub(crate) fn config_of(&self, id: GroupId) -> Option<GroupConfig> {
        self.groups.get(&id).map(|group| group.config.clone())
    }

    /// Whether the secondary has everything, or gets it from a queue: the group copies, and no region waits to be copied.
    pub(crate) fn is_whole(&self, id: GroupId) -> bool {
        self.groups.get(&id).is_some_and(|group| {
            group.is_running() && group.pairs.iter().all(|pair| self.pairs[pair].dirty.missing_bytes() == 0)
        })
    }

    /// Whether hosts' writes are taken.
    pub(crate) fn serves_hosts(&self, id: GroupId) -> bool {
        let group = self.groups.get(&id);
        group.is_some_and(|group| group.fenced.is_none()) && self.role_refusal(id).is_none()
    }

    /// Begins the resync that brings the other site up to date after a takeover here.
    pub(crate) fn failback_by_operator<U>(&mut self, now: Now, id: GroupId, ports: &mut U) -> Result<(), OperatorError>
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        let Some(group) = self.groups.get(&id) else {
            return Err(OperatorError::NotFound("there is no such group here that serves hosts".to_string()));
        };
        let name = &group.config.name;
        let was = group.resync().map(|resync| resync.was.state).or(group.suspension().map(|it| it.state));
        if let Some(other) = group.rival {
            ports.log(format_args!("group {name}: by the operator's word generation {:016x} is given up", other.id));
            let group = self.groups.get_mut(&id).expect("looked up above");
            (group.split_brain, group.rival) = (false, None);
            let begun = self.resync_by_operator(now, id, false, ports);
            if begun.is_err()
                && let Some(group) = self.groups.get_mut(&id)
            {
                (group.split_brain, group.rival) = (true, Some(other));
            }
            self.settle(now, ports);
            return begun;
        }
        if was != Some(PairState::TakenOver) {
            let state = was.map_or("copying", |state| state.code());
            return Err(OperatorError::WrongState(format!(
                "group {name} is {state} here, not taken over (SSWS): group_failback brings a group back that was taken \
                 over here; for others there are group_resync and group_swap"
            )));
        }
        if group.resync().is_some() {
            return Err(OperatorError::WrongState(format!("group {name} is on its way back already; see group_get")));
        }
        let begun = self.resync_by_operator(now, id, false, ports);
        self.settle(now, ports);
        begun
    }

    /// Hosts of a group that could not become a secondary are told what they were told before.
    pub(crate) fn unretire(&mut self, id: GroupId) {
        self.retiring.remove(&id);
    }

    /// A secondary of the group is here, durably: this part's records are emptied, and nothing stays in memory.
    pub(crate) fn forget_group<U>(&mut self, id: GroupId, pairs: &[PairId], ports: &mut U)
    where
        U: Uplink<Buf = M::Buf, Shared = M::Shared>,
    {
        self.retiring.remove(&id);
        self.handovers.remove(&id);
        self.drop_group(id, ports);
        let grown = |pair: PairId| {
            let record = ports.recall(&pair_key(pair)).and_then(|value| PairRecord::decode(&value));
            record.map_or(0, |record| chunks_of(record.geometry, record.region_bytes))
        };
        let counts: Vec<_> = pairs.iter().map(|pair| (*pair, grown(*pair).max(CHUNKS_MAX))).collect();
        let chunks = counts.into_iter().flat_map(|(pair, count)| (0..count).map(move |chunk| chunk_key(pair, chunk)));
        let keys = [group_key(id), handover::key_of(id)].into_iter();
        let keys = keys.chain(pairs.iter().map(|pair| pair_key(*pair))).chain(chunks);
        let kept: Vec<String> = keys.filter(|key| ports.recall(key).is_some_and(|value| !value.is_empty())).collect();
        for key in kept {
            self.keep(&key, &[], Wait::Note, ports);
        }
    }

    /// What was answered before its turn came keeps no place any more.
    fn unlink_pair(&mut self, serial: u64) {
        let is_ghost = |stage: &Stage<M>| matches!(stage, Stage::Ghost);
        self.requests.retain(|_, request| !(request.pair_serial == serial && is_ghost(&request.stage)));
        let requests = &self.requests;
        self.ready.retain(|work| !matches!(work, Work::Host(key) if !requests.contains(*key)));
        self.out_of_lease.retain(|key| requests.contains(*key));
    }

    /// Takes the group out of memory without a word to the secondary: it is the primary now.
    fn drop_group(&mut self, id: GroupId, ports: &mut impl Up<M>) {
        let Some(members) = self.groups.get(&id).map(|group| group.pairs.clone()) else { return };
        self.delete_spill(id, ports);
        let mut streams = std::collections::BTreeSet::new();
        for pair_id in members {
            self.fail_waiting(pair_id, HostError::Secondary, ports);
            self.orphan_jobs(pair_id);
            self.copying.remove(&pair_id);
            self.leaving.remove(&pair_id);
            let Some(pair) = self.pairs.remove(&pair_id) else { continue };
            assert!(pair.requests == 0, "a host's request is at the device of a pair that becomes a secondary");
            streams.insert(pair.stream);
            self.unlink_pair(pair.serial);
        }
        streams.extend(self.streams_of(id).map(|(stream, _)| stream));
        for stream_id in streams {
            let Some(stream) = self.streams.get_mut(&stream_id) else {
                self.forget_stream(stream_id, ports);
                continue;
            };
            stream.members.remove(&id);
            if !stream.members.is_empty() {
                continue;
            }
            let link = stream.link;
            if let Some(Numbers::Live(numbering)) = self.streams.remove(&stream_id).map(|stream| stream.numbers) {
                self.stamper.close(numbering);
            }
            ports.stream_drop(link, stream_id);
            self.forget_stream(stream_id, ports);
        }
        let Some(group) = self.groups.remove(&id) else { return };
        if let Some(budget) = self.budgets.get_mut(&group.budget) {
            budget.limit_bytes = budget.limit_bytes.saturating_sub(group.config.buffer_bytes);
        }
        if !self.groups.values().any(|other| other.budget == group.budget) {
            self.budgets.remove(&group.budget);
        }
        self.due = Mono(0);
    }
}
