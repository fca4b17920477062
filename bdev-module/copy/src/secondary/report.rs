//! What the operator sees.

use super::Secondary;
use super::group::{Group, Phase};
use super::inlets::Inlet;
use super::intake::Intake;
use super::meta::{Image, Life, PairMeta};
use super::restore::Restore;
use super::status::{ApplyWindow, GroupPhase, GroupStatus, PairStatus, StreamView};
use crate::apply::Stuck;
use crate::message::Content;
use crate::stream::Drops;
use crate::takeover::{LossCertificate, TakeoverStep};
use crate::types::{Geometry, GroupId, Mono, Now, PairId, PairState, Time};

impl<B: AsRef<[u8]> + AsMut<[u8]> + 'static, S: AsRef<[u8]> + Clone + 'static> Secondary<B, S> {
    /// What `group_get` shows.
    pub fn group_status(&self, now: Now, id: GroupId) -> Option<GroupStatus> {
        let group = self.groups.get(&id)?;
        let streams = group.meta.streams.iter().filter(|stream| !stream.closed).map(|meta| {
            let inlet = group.inlets.get(&meta.id);
            let intake = self.intakes.get(&meta.id).filter(|intake| intake.rx.epoch() == meta.epoch);
            let durable = inlet.map_or(meta.durable, |inlet| inlet.durable);
            let is_applied = match &group.phase {
                Phase::Ready(ready) => ready.applier.is_done(),
                _ => group.meta.life == Life::TakenOver,
            };
            let tip = intake.map(|intake| (meta.epoch, intake.rx.tip()));
            StreamView {
                stream: meta.id,
                owner: meta.owner,
                scope: meta.scope,
                epoch: meta.epoch,
                tip: inlet.map_or(meta.base_time, |inlet| inlet.tip(tip)),
                run: intake.map_or(durable, |intake| intake.rx.run()),
                durable,
                applied: if is_applied { durable } else { inlet.map_or(durable, |inlet: &Inlet| inlet.applied) },
                announced: intake.map_or(meta.announced.max(durable), |intake| intake.rx.announced()),
                held_bytes: intake.map_or(0, |intake: &Intake<B, S>| intake.account.held()),
                drops: intake.map_or(Drops::default(), |intake| intake.drops),
                error: intake.and_then(|intake| intake.rx.error()).map(|error| error.to_string()),
            }
        });
        let (journal_bytes, journal_used_bytes, lag, applied_records, folded_records, held_bytes) = match &group.phase {
            Phase::Ready(ready) => (
                ready.journal.total_bytes(),
                ready.journal.used_bytes(),
                ready.applier.lag(),
                ready.applier.applied_records,
                ready.applier.folded_records,
                ready.applier.held() * u64::from(group.area.block_bytes),
            ),
            _ => (group.area.capacity * u64::from(group.area.block_bytes), 0, (0, 0), 0, 0, 0),
        };
        let seen = group.inlets.keys().filter_map(|id| self.intakes.get(id)).map(|intake| intake.rx.seen()).max();
        Some(GroupStatus {
            name: group.meta.name.clone(),
            id,
            phase: phase_of(group),
            reason: group.reason(),
            generation: group.meta.generation,
            recovery_point: group.reported(),
            recovery_point_age_ns: self.latest_time(now).since_ns(group.reported()),
            limit: group.limit,
            greatest_time_seen: group.meta.greatest_time.max(group.limit).max(seen.unwrap_or(Time(0))),
            consistent: is_consistent(group),
            streams: streams.collect(),
            pairs: group.meta.pairs.iter().map(|pair| pair.id).chain(group.candidates.keys().copied()).collect(),
            journal_bytes,
            journal_used_bytes,
            apply_lag_records: lag.0,
            apply_lag_bytes: lag.1,
            applied_records,
            folded_records,
            takeover_step: group.takeover_step(),
            certificate: match group.meta.life {
                Life::Sealed { .. } | Life::TakenOver => group.meta.certificate.clone(),
                _ => None,
            },
            split_accepted: group.meta.split_accepted,
            discarded: group.meta.discarded.clone(),
            unit: group.unit_status(),
            held_bytes,
            overlay_bytes: group.overlay.bytes().0,
            overlay_used_bytes: group.overlay.bytes().1,
            // None before a restart finds again that its first point was reached.
            window: group
                .window()
                .filter(|it| is_consistent(group) && it.from <= group.reported())
                .map(|window| ApplyWindow { until: group.reported().min(window.until), ..window }),
            bookmarks: group.meta.bookmarks.clone(),
            copying: group.meta.pairs.iter().filter(|pair| is_copying(pair)).map(|pair| pair.id).collect(),
        })
    }

    /// The certificate of a takeover that is complete, and whether its operator accepted a split.
    pub fn taken_over(&self, id: GroupId) -> Option<(&LossCertificate, bool)> {
        let group = self.groups.get(&id).filter(|group| phase_of(group) == GroupPhase::TakenOver)?;
        Some((group.meta.certificate.as_ref()?, group.meta.split_accepted))
    }

    /// What `pair_get` shows.
    pub fn pair_status(&self, now: Now, id: PairId) -> Option<PairStatus> {
        let group = self.groups.get(self.pairs.get(&id)?)?;
        let mut status = PairStatus {
            name: String::new(),
            id,
            group: group.id,
            state: PairState::Simplex,
            reason: group.reason(),
            geometry: group.config.journal_geometry,
            content: Content::Empty,
            stream: None,
            consistent: is_consistent(group),
            copying: false,
            recovery_point: group.reported(),
            recovery_point_age_ns: self.latest_time(now).since_ns(group.reported()),
            uuid: None,
        };
        if let Some(candidate) = group.candidates.get(&id) {
            let waits = match &candidate.check {
                None => "waits for its group's journal".to_owned(),
                Some(check) => {
                    let progress = check.progress();
                    let (done, all) = (progress.checked_bytes >> 20, progress.total_bytes >> 20);
                    format!("its volume is being read to see whether it is empty: {done} of {all} MiB")
                }
            };
            status.name.clone_from(&candidate.config.name);
            status.geometry = candidate.config.geometry;
            status.reason = Some(waits);
            status.consistent = false;
            return Some(status);
        }
        let pair = group.meta.pair(id)?;
        let stream_error = pair.stream.and_then(|stream| self.intakes.get(&stream)?.rx.error());
        status.name.clone_from(&pair.name);
        let is_ours = matches!(group.meta.life, Life::Sealed { .. } | Life::TakenOver);
        let shown = pair.shown_blocks.filter(|_| !is_ours);
        status.geometry = Geometry { blocks: shown.unwrap_or(pair.geometry.blocks), ..pair.geometry };
        status.content = pair.content;
        status.stream = pair.stream;
        status.state = match (&group.phase, &group.meta.life) {
            (_, Life::TakenOver | Life::Sealed { .. }) => PairState::TakenOver,
            (Phase::Failed(_), _) | (_, Life::Frozen(_) | Life::Lost(_)) => PairState::SuspendedError,
            (_, Life::Suspended(state, _)) => match state.as_str() {
                "PSUS" => PairState::SuspendedOperator,
                "PFUS" => PairState::SuspendedFull,
                _ => PairState::SuspendedError,
            },
            _ if stream_error.is_some() => PairState::SuspendedError,
            _ if group.is_in_trouble(now.mono, id) => PairState::SuspendedError,
            _ if pair.left || pair.stream.is_none() => PairState::Simplex,
            _ if group.meta.unit.is_some() || is_copying(pair) => PairState::Copy,
            _ => PairState::Pair,
        };
        status.copying = is_copying(pair);
        let cut = group.meta.certificate.as_ref().map_or(group.recovery_point, |it| it.recovery_point);
        status.consistent &= pair.is_whole_at(cut);
        if let Some(error) = stream_error {
            status.reason = Some(format!("the stream broke the protocol: {error}"));
        } else if status.reason.is_none() && pair.stream.is_none() {
            status.reason = Some("waits for the primary to join it".to_owned());
        } else if pair.image == Image::Lost {
            let text =
                "its volume is in memory and lost its content with the process: copy all of it (group_resync --full)";
            status.reason = Some(text.to_owned());
        } else if status.state == PairState::TakenOver && !pair.is_whole_at(cut) {
            status.reason = Some(crate::ports::HostError::NeverConsistent.to_string());
        } else if status.reason.is_none() && is_copying(pair) {
            status.reason = Some("its first copy is under way: a takeover leaves it out".to_owned());
        } else if status.reason.is_none() && pair.left {
            status.reason = Some("the primary left the pair".to_owned());
        }
        let certificate = group.meta.certificate.as_ref().filter(|_| status.state == PairState::TakenOver);
        let volume = certificate.and_then(|it| it.volumes.iter().find(|volume| volume.pair == id));
        status.uuid = volume.map(|volume| volume.uuid);
        Some(status)
    }
}

impl<S: AsRef<[u8]> + Clone + 'static> Group<S> {
    /// The next time something has to be tried or done.
    pub(crate) fn next_timeout(&self) -> Option<Mono> {
        let due = match &self.phase {
            Phase::Start { not_before } => Some(*not_before),
            Phase::Scan(scan) => scan.search.retry_at(),
            Phase::Ready(ready) => {
                let restore = self.restore.as_ref().and_then(Restore::retry_at);
                let own =
                    [self.checkpoint_due, self.attest.due(), self.discard_retry_at(), self.overlay.retry_at(), restore];
                let machines = [ready.journal.retry_at(), ready.applier.retry_at()];
                machines.into_iter().chain(own).flatten().min()
            }
            _ => None,
        };
        due.into_iter().chain(self.trouble_due()).min()
    }

    /// Why the group does not move, if it does not.
    pub(crate) fn reason(&self) -> Option<String> {
        let device = match &self.phase {
            Phase::Failed(reason) => return Some(reason.clone()),
            Phase::Start { .. } | Phase::Super | Phase::Format | Phase::Raise | Phase::Wiping(_) => {
                Some(self.trouble_text().unwrap_or_else(|| "the journal is being opened".to_owned()))
            }
            Phase::Scan(_) => Some(self.trouble_text().unwrap_or_else(|| "the journal is being read".to_owned())),
            Phase::Ready(ready) => {
                let missing = || match ready.applier.stuck()? {
                    Stuck::Missing(pair) => {
                        let name = self.meta.pair(pair).map_or("?", |pair| &pair.name);
                        Some(format!(
                            "records of pair \"{name}\" wait for its volume: create the pair again with pair_create"
                        ))
                    }
                    _ => None,
                };
                let full = || self.is_held_up(ready).then(|| self.full_reason());
                self.trouble_text().or_else(missing).or_else(full)
            }
            Phase::TakenOver => None,
        };
        let restoring = || match self.takeover_step() {
            Some(TakeoverStep::Restore) => {
                self.restore.as_ref().and_then(Restore::reason).or_else(|| self.overlay_reason())
            }
            _ => None,
        };
        device.or_else(restoring).or_else(|| match &self.meta.life {
            Life::Suspended(state, reason) => Some(format!("suspended by the primary ({state}): {reason}")),
            Life::Frozen(reason) => Some(reason.clone()),
            _ => self.unit_reason().or_else(|| self.window_reason()),
        })
    }
}

fn phase_of<S>(group: &Group<S>) -> GroupPhase {
    match (&group.phase, &group.meta.life) {
        (Phase::Failed(_), _) => GroupPhase::Failed,
        (Phase::TakenOver, _) => GroupPhase::TakenOver,
        (_, Life::Sealed { .. } | Life::TakenOver) => GroupPhase::TakingOver,
        _ if group.takeover.is_some() => GroupPhase::TakingOver,
        (Phase::Ready(_), Life::Suspended(..)) => GroupPhase::Suspended,
        (Phase::Ready(_), Life::Frozen(_)) => GroupPhase::Frozen,
        (Phase::Ready(_), _) => GroupPhase::Active,
        _ => GroupPhase::Opening,
    }
}

fn is_copying(pair: &PairMeta) -> bool {
    matches!(pair.image, Image::Copying(_))
}

fn is_consistent<S>(group: &Group<S>) -> bool {
    match &group.phase {
        Phase::Ready(_) => {
            let mut pairs = group.meta.pairs.iter();
            pairs.any(|pair| pair.stream.is_some() && pair.is_whole_at(group.recovery_point))
        }
        Phase::TakenOver => true,
        _ => false,
    }
}
