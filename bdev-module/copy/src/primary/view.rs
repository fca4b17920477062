//! How groups and pairs are shown.

use super::pair::{Pair, Phase, Rejoin};
use super::request::Stage;
use super::{Backlog, CopyProgress, GroupStatus, PairStatus, Primary, StreamStanding, Up, Waiting};
use crate::ports::Memory;
use crate::types::{GroupId, Now, PairId, PairState, StreamId, Time};

impl<M: Memory> Primary<M> {
    pub(super) fn show_pair(&self, now: Now, id: PairId) -> Option<PairStatus> {
        let pair = self.pairs.get(&id)?;
        let group = &self.groups[&pair.config.group];
        let is_waiting = |stage: &Stage<M>| matches!(stage, Stage::Waiting(_));
        let of_pair = self.requests.iter().filter(|(_, request)| request.pair_serial == pair.serial);
        let check = match &pair.phase {
            Phase::Checking(check) => Some(check.progress()),
            _ => None,
        };
        Some(PairStatus {
            pair: id,
            name: pair.config.name.clone(),
            group: pair.config.group,
            volume: pair.config.volume,
            geometry: self.shown_geometry(id, pair.config.geometry),
            remote_volume: pair.config.remote_volume.clone(),
            state: self.pair_state(pair),
            reason: match &pair.phase {
                Phase::Halting(reason) | Phase::Halted(reason) => Some(reason.clone()),
                Phase::Member => group.suspension().map(|suspension| suspension.reason.clone()),
                _ => None,
            },
            trouble: self.trouble(now, pair.config.group, Some(id)),
            has_image: pair.has_image(),
            fenced: group.fenced.is_some(),
            waiting: self.mark_waiting(now, id).or_else(|| self.waiting(id)),
            check,
            stream: pair.stream,
            last_stamp: pair.last_stamp,
            requests: pair.requests,
            writes_waiting: of_pair.filter(|(_, request)| is_waiting(&request.stage)).count(),
            repairs: pair.repairs,
            dirty_bytes: pair.dirty.marked_bytes(),
            missing_bytes: pair.dirty.missing_bytes(),
            copy: self.copy_progress(pair),
            verify: pair.verify.clone(),
        })
    }

    fn pair_state(&self, pair: &Pair) -> PairState {
        match &pair.phase {
            Phase::Checking(_) | Phase::Opening | Phase::Joining { .. } | Phase::Recording => PairState::Copy,
            Phase::Halting(_) | Phase::Halted(_) => PairState::SuspendedError,
            Phase::Member if pair.is_copying && self.groups[&pair.config.group].is_sending() => PairState::Copy,
            Phase::Member => self.member_state(pair.config.group),
        }
    }

    pub(super) fn member_state(&self, group: GroupId) -> PairState {
        let group = &self.groups[&group];
        match group.suspension() {
            Some(_) if group.fenced.is_some() || group.rival.is_some() => PairState::SuspendedError,
            Some(suspension) => suspension.state,
            None if group.resync().is_some() => PairState::Copy,
            None if self.budgets[&group.budget].is_nearly_full() => PairState::NearlyFull,
            None => PairState::Pair,
        }
    }

    /// What a pair waits for, with owner and time-out.
    pub(super) fn waiting(&self, id: PairId) -> Option<Waiting> {
        let pair = self.pairs.get(&id)?;
        let group = &self.groups[&pair.config.group];
        if let Some(waiting) = self.hand_over_waiting(pair.config.group) {
            return Some(waiting);
        }
        if let Some(waiting) = self.resize_waiting(id) {
            return Some(waiting);
        }
        let since = pair.phase_since;
        let hosts_until = pair.parked_since.map(|since| since.after_ns(self.config.open_wait_ns));
        let operator_until = pair.ticket.and_then(|(_, until)| until);
        let timeout = [hosts_until, operator_until].into_iter().flatten().min();
        let waiting = |owner, reason| Some(Waiting { owner, reason, since, timeout });
        let for_metadata =
            |reason: &str| Some(Waiting { owner: "metadata", reason: reason.to_string(), since, timeout: None });
        if let Some((_, deadline)) = pair.leaving {
            let reason = "requests and records of the pair end before it is deleted".to_string();
            return Some(Waiting { owner: "secondary", reason, since, timeout: Some(deadline) });
        }
        match &pair.phase {
            Phase::Checking(_) => waiting("local volume", "the volume is being read, it must be empty".to_string()),
            Phase::Opening => {
                let stream = self.streams.get(&pair.stream)?;
                let member = stream.members.get(&pair.config.group)?;
                match (stream.epoch_is_durable, member.asked, &member.put_off) {
                    (false, ..) => waiting("metadata", "the stream's epoch is becoming durable".to_string()),
                    (_, _, Some(text)) => waiting("secondary", text.clone()),
                    (_, Some(_), None) => waiting("secondary", "it has to open the stream".to_string()),
                    (_, None, None) => waiting("link", "no session with the secondary system".to_string()),
                }
            }
            Phase::Joining { put_off: Some(text), .. } => waiting("secondary", text.clone()),
            Phase::Joining { .. } => waiting("secondary", "it has to take up the pair".to_string()),
            Phase::Recording => waiting("metadata", "that the pair is established is becoming durable".to_string()),
            Phase::Halting(_) => for_metadata("the suspension is becoming durable"),
            Phase::Halted(_) => None,
            Phase::Member if matches!(group.life, super::group::Life::Suspending(_)) => {
                for_metadata("the suspension is becoming durable")
            }
            Phase::Member => {
                let stream = self.streams.get(&pair.stream).filter(|stream| stream.live().is_some())?;
                let lease = self.out_of_lease.iter().filter_map(|key| self.requests.get(*key));
                if lease.filter(|request| request.pair_serial == pair.serial).count() > 0 {
                    return waiting(
                        "timeline",
                        "the lease of the timeline has to move before more is stamped".to_string(),
                    );
                }
                if stream.started {
                    return match (&pair.rejoin, group.resync().is_some()) {
                        (Rejoin::Due { put_off, .. }, true) => {
                            let reason = put_off.clone().unwrap_or_else(|| "it has to take up the pair again".into());
                            waiting("secondary", reason)
                        }
                        _ => None,
                    };
                }
                // Hosts are not held up: records are kept until the send buffer is full.
                let member = stream.members.get(&pair.config.group)?;
                let reason = member.put_off.clone();
                match member.asked {
                    Some(_) => waiting("secondary", reason.unwrap_or_else(|| "it has to open the stream again".into())),
                    None => waiting("link", "no session with the secondary system; records are kept".to_string()),
                }
            }
        }
    }

    pub(super) fn show_group(&self, now: Now, id: GroupId, ports: &impl Up<M>) -> Option<GroupStatus> {
        let group = self.groups.get(&id)?;
        let streams: Vec<StreamStanding> =
            self.streams_of(id).filter_map(|(stream, _)| self.show_stream(stream, ports)).collect();
        let backlog = streams.iter().fold(Backlog::default(), |sum, stream| Backlog {
            records: sum.records + stream.backlog.records,
            bytes: sum.bytes + stream.backlog.bytes,
            oldest: [sum.oldest, stream.backlog.oldest].into_iter().flatten().min(),
        });
        let is_member = |pair: &PairId| matches!(self.pairs[pair].phase, Phase::Member);
        let state = match group.pairs.iter().any(is_member) || !group.is_running() {
            true => self.member_state(id),
            false => PairState::Simplex,
        };
        Some(GroupStatus {
            group: id,
            name: group.config.name.clone(),
            scope: group.config.scope,
            link: group.config.link,
            remote: group.config.remote,
            generation: group.generation,
            state,
            // Whatever it was suspended for before.
            reason: group.other_history().or_else(|| group.suspension().map(|it| it.reason.clone())),
            trouble: self.trouble(now, id, None),
            fenced: group.fenced,
            has_image: group.pairs.iter().any(|pair| self.pairs[pair].has_image()),
            split_brain: group.split_brain,
            rival: group.rival,
            handing_over: self.handing_over_since(id),
            waiting: group
                .pairs
                .iter()
                .find_map(|pair| self.mark_waiting(now, *pair).or_else(|| self.waiting(*pair)))
                .or_else(|| self.resync_waiting(now, id, ports)),
            backlog,
            buffer_bytes: self.budgets[&group.budget].limit_bytes,
            throttle_ns: self.throttle_ns(id),
            lag_ns: match group.suspension() {
                // The image there is the one from before the resync.
                _ if group.resync().is_some() => {
                    let was = group.resync().and_then(|resync| resync.was.first_missed);
                    // Or an older one, which another primary's resync holds. *This one's first missed write was acknowledged in
                    // that unit already, and it showed less lag than a takeover would have cost.*
                    was.map(|first| now.time.since_ns(self.held(id).map_or(first, |held| held.min(first))))
                }
                None if self.is_unheard(id) => None,
                // The link may have got rid of all it had while the next records are being read from the spill.
                None => {
                    let oldest = [backlog.oldest, self.spilled_since(id), self.held(id)].into_iter().flatten().min();
                    Some(oldest.map_or(0, |oldest| now.time.since_ns(oldest)))
                }
                Some(suspension) => suspension.first_missed.map(|first: Time| now.time.since_ns(first)),
            },
            dirty_bytes: group.pairs.iter().map(|pair| self.pairs[pair].dirty.marked_bytes()).sum(),
            missing_bytes: group.pairs.iter().map(|pair| self.pairs[pair].dirty.missing_bytes()).sum(),
            unit: group.is_resyncing.then_some(group.units),
            next_attempt: group.next_attempt.filter(|_| !group.is_sending()),
            copy: self.group_copy_progress(id),
            verify: self.verify_progress(id),
            spill: self.show_spill(id),
            pairs: group.pairs.iter().copied().collect(),
            streams,
        })
    }

    /// The time of the image that a takeover gives, while another primary's resync holds it back.
    pub(super) fn held(&self, id: GroupId) -> Option<Time> {
        let streams = self.streams_of(id).filter_map(|(stream, _)| self.streams.get(&stream));
        streams.filter_map(|stream| stream.held).filter(|held| *held > Time(0)).min()
    }

    /// Whether this process does not know yet what a takeover would give.
    pub(super) fn is_unheard(&self, id: GroupId) -> bool {
        self.streams_of(id).any(|(stream, _)| self.streams.get(&stream).is_some_and(|it| it.held.is_none()))
    }

    /// What a suspended group's resync waits for, that begins by itself.
    fn resync_waiting(&self, now: Now, id: GroupId, ports: &impl Up<M>) -> Option<Waiting> {
        let group = self.groups.get(&id)?;
        let waits = group.suspension()?.auto && self.resync_obstacle(id).is_none();
        let (owner, reason, timeout) = if waits { self.resync_waits(now, id, ports)? } else { return None };
        Some(Waiting { owner, reason, since: now.mono, timeout })
    }

    /// The copying of all pairs of a group together.
    fn group_copy_progress(&self, id: GroupId) -> Option<CopyProgress> {
        let parts = self.groups.get(&id)?.pairs.iter().filter_map(|pair| self.copy_progress(&self.pairs[pair]));
        let sum = parts.reduce(|sum, part| CopyProgress {
            bytes_total: sum.bytes_total + part.bytes_total,
            bytes_done: sum.bytes_done + part.bytes_done,
            bytes_per_s: sum.bytes_per_s + part.bytes_per_s,
            estimate_s: None,
            reason: sum.reason.or(part.reason),
        })?;
        let left = sum.bytes_total.saturating_sub(sum.bytes_done);
        let estimate_s = (sum.bytes_per_s > 0).then(|| left.div_ceil(sum.bytes_per_s.max(1)));
        Some(CopyProgress { estimate_s, ..sum })
    }

    fn show_stream(&self, id: StreamId, ports: &impl Up<M>) -> Option<StreamStanding> {
        let stream = self.streams.get(&id)?;
        let count = stream.count(&self.stamper);
        Some(StreamStanding {
            stream: id,
            epoch: stream.epoch,
            started: stream.started,
            broken: stream.is_broken(),
            last: count.last,
            last_time: count.floor,
            durable: stream.durable,
            backlog: ports.stream_backlog(stream.link, id),
        })
    }
}
