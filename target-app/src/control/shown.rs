//! Groups and pairs as operators are shown them, from what the engine says.

use super::State;
use super::group::GroupEntry;
use longrun_copy::primary;
use longrun_copy::secondary::{self, GroupPhase};
use longrun_copy::takeover;
use longrun_copy::types::{self, Now, Scope};
use longrun_rpc::methods::group::{
    Generation, GroupInfo, Lag, LossCertificate, Role, SeqRange, SequenceScope, StreamInfo, StreamLoss, TakenVolume,
};
use longrun_rpc::methods::pair::{PairInfo, PairState, Waiting};
use longrun_rpc::methods::progress::{BlockRange, BookmarkInfo, CopyInfo, UnitInfo, VerifyInfo, Window};
use longrun_rpc::methods::spill::{SpillInfo, SpillState};
use uuid::Uuid;

fn scope_info(scope: Scope) -> SequenceScope {
    match scope {
        Scope::Pair => SequenceScope::Pair,
        Scope::System => SequenceScope::System,
        Scope::Group => SequenceScope::Group,
    }
}

fn state_info(state: types::PairState) -> PairState {
    match state {
        types::PairState::Simplex => PairState::Smpl,
        types::PairState::Copy => PairState::Copy,
        types::PairState::Pair => PairState::Pair,
        types::PairState::NearlyFull => PairState::Pful,
        types::PairState::SuspendedFull => PairState::Pfus,
        types::PairState::SuspendedOperator => PairState::Psus,
        types::PairState::SuspendedError => PairState::Psue,
        types::PairState::TakenOver => PairState::Ssws,
    }
}

fn generation_info(generation: types::Generation) -> Generation {
    Generation {
        number: generation.number,
        id: format!("{:016x}", generation.id),
        parent: (generation.parent != 0).then(|| format!("{:016x}", generation.parent)),
    }
}

/// Rounded up: a reported age is never below the true one.
fn ms_of(ns: u64) -> u64 {
    ns.div_ceil(1_000_000)
}

/// Whether a copy exists that was equal once.
fn is_established(state: types::PairState) -> bool {
    !matches!(state, types::PairState::Simplex | types::PairState::Copy)
}

pub(super) fn primary_group(state: &State, group: &GroupEntry, now: Now, status: &primary::GroupStatus) -> GroupInfo {
    let suspended = !status.state.is_copying();
    // Before the first pair is established there is no copy whose age could be told. During a resync the secondary keeps
    // its last image.
    let is_established = (is_established(status.state) || status.unit.is_some()) && status.has_image;
    let lag_ns = status.lag_ns.filter(|_| is_established);
    // The secondary lacks what waits in the spill too.
    let spilled = status.spill.as_ref().map_or((0, 0), |spill| (spill.unsent_records, spill.unsent_bytes));
    GroupInfo {
        name: status.name.clone(),
        role: Role::Primary,
        state: state_in_trouble(status.state, status.trouble.as_ref()),
        consistent: is_established,
        recovery_point_ns: None,
        rpo_ms: lag_ns.map(ms_of),
        limit_time_ns: None,
        timeline_now_ns: now.time.0,
        lag: Lag {
            seconds: lag_ns.map(|ns| ns as f64 / 1e9),
            bytes: (!suspended).then_some(status.backlog.bytes + spilled.1),
            records: (!suspended).then_some(status.backlog.records + spilled.0),
        },
        generation: generation_info(status.generation),
        other_generation: status.fenced.or(status.rival).map(generation_info),
        sequence_scope: scope_info(status.scope),
        links: group.call.link_names().into_iter().map(str::to_owned).collect(),
        core: group.core as u16,
        pairs: pair_names(state, &status.name),
        streams: status
            .streams
            .iter()
            .map(|stream| StreamInfo {
                stream: stream.stream.0,
                link: group.call.link_names().first().map(|link| (*link).to_owned()).unwrap_or_default(),
                epoch: stream.epoch.0,
                tip_ns: Some(stream.last_time.0),
                received: stream.durable.0,
                durable: stream.durable.0,
                announced: stream.last.0,
                broken: stream.broken.then(|| "a record could not be taken; nothing later is sent".to_owned()),
            })
            .collect(),
        journal: None,
        journal_used: None,
        throttle_ms: Some(ms_of(status.throttle_ns)),
        reason: status
            .trouble
            .clone()
            .or_else(|| status.reason.clone())
            .or_else(|| status.waiting.as_ref().map(|waiting| waiting.reason.clone())),
        waiting: status.waiting.as_ref().map(|waiting| waiting_info(now, waiting)),
        dirty_bytes: Some(status.dirty_bytes),
        missing_bytes: Some(status.missing_bytes),
        resync: status.unit,
        next_attempt_ms: status.next_attempt.map(|at| at.since_ns(now.mono) / 1_000_000),
        copy: status.copy.as_ref().map(copy_info),
        verify: status.verify.as_ref().map(verify_info),
        spill: status.spill.as_ref().zip(group.call.spill.as_ref()).map(|(spill, device)| spill_info(device, spill)),
        unit: None,
        overlay: None,
        overlay_used: None,
        apply_delay_s: None,
        window: None,
        bookmarks: Vec::new(),
        copying: Vec::new(),
        test: None,
        split_accepted: false,
    }
}

pub(super) fn secondary_group(
    state: &State,
    group: &GroupEntry,
    now: Now,
    status: &secondary::GroupStatus,
    pairs: &[types::PairState],
) -> GroupInfo {
    let known = status.recovery_point.0 != 0;
    // A volume that serves hosts is no copy any more, and has no age.
    let is_copy = known && status.phase != GroupPhase::TakenOver;
    GroupInfo {
        name: status.name.clone(),
        role: Role::Secondary,
        state: match status.phase {
            GroupPhase::Active if status.streams.is_empty() => PairState::Smpl,
            GroupPhase::Active if status.unit.is_some() => PairState::Copy,
            GroupPhase::Active => PairState::Pair,
            GroupPhase::Opening => PairState::Copy,
            GroupPhase::Suspended => suspended_by(pairs),
            GroupPhase::TakingOver | GroupPhase::TakenOver => PairState::Ssws,
            _ => PairState::Psue,
        },
        consistent: status.consistent,
        recovery_point_ns: known.then_some(status.recovery_point.0),
        rpo_ms: is_copy.then(|| ms_of(status.recovery_point_age_ns)),
        limit_time_ns: known.then_some(status.limit.0),
        timeline_now_ns: now.time.0,
        lag: Lag {
            seconds: is_copy.then_some(status.recovery_point_age_ns as f64 / 1e9),
            bytes: Some(status.apply_lag_bytes),
            records: Some(status.apply_lag_records),
        },
        generation: generation_info(status.generation),
        other_generation: None,
        sequence_scope: status.streams.first().map_or(SequenceScope::Group, |stream| scope_info(stream.scope)),
        links: group.call.link_names().into_iter().map(str::to_owned).collect(),
        core: group.core as u16,
        pairs: pair_names(state, &status.name),
        streams: status
            .streams
            .iter()
            .map(|stream| StreamInfo {
                stream: stream.stream.0,
                link: group.call.link_names().first().map(|link| (*link).to_owned()).unwrap_or_default(),
                epoch: stream.epoch.0,
                tip_ns: Some(stream.tip.0),
                received: stream.run.0,
                durable: stream.durable.0,
                announced: stream.announced.0,
                broken: stream.error.clone(),
            })
            .collect(),
        journal: group.call.journal.clone(),
        journal_used: share(status.journal_used_bytes, status.journal_bytes),
        throttle_ms: None,
        reason: status.reason.clone().or_else(|| status.unit.as_ref().map(|unit| unit.reason.clone())).or_else(|| {
            status.takeover_step.filter(|_| status.phase == GroupPhase::TakingOver).map(|step| {
                format!("takeover: {step:?} (each step is durable before the next; a restart goes on by itself)")
            })
        }),
        waiting: None,
        dirty_bytes: None,
        missing_bytes: None,
        resync: None,
        next_attempt_ms: None,
        copy: None,
        verify: None,
        spill: None,
        unit: status.unit.as_ref().map(|unit| UnitInfo {
            base_ns: unit.base.0,
            end_ns: unit.end.map(|end| end.0),
            overlaid: unit.is_overlaid,
            reason: unit.reason.clone(),
        }),
        overlay: group.call.overlay.clone(),
        overlay_used: share(status.overlay_used_bytes, status.overlay_bytes),
        apply_delay_s: group.call.apply_delay_s,
        window: status.window.map(|window| Window { from_ns: window.from.0, until_ns: window.until.0 }),
        bookmarks: status
            .bookmarks
            .iter()
            .map(|bookmark| BookmarkInfo { name: bookmark.name.clone(), time_ns: bookmark.stamp.time.0 })
            .collect(),
        copying: status.copying.iter().map(|pair| name_of(state, *pair)).collect(),
        test: None,
        split_accepted: status.split_accepted,
    }
}

fn share(used: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| used as f64 / all as f64)
}

/// All pairs of a group are suspended together; which word it is, each of them says.
fn suspended_by(pairs: &[types::PairState]) -> PairState {
    let suspended = [types::PairState::SuspendedOperator, types::PairState::SuspendedError];
    pairs.iter().find(|state| suspended.contains(state)).map_or(PairState::Pfus, |state| state_info(*state))
}

fn waiting_info(now: Now, waiting: &primary::Waiting) -> Waiting {
    Waiting {
        owner: waiting.owner.to_owned(),
        since_ms: now.mono.since_ns(waiting.since) / 1_000_000,
        timeout_ms: waiting.timeout.map(|timeout| timeout.since_ns(waiting.since) / 1_000_000),
        reason: waiting.reason.clone(),
    }
}

fn copy_info(copy: &primary::CopyProgress) -> CopyInfo {
    CopyInfo {
        bytes_total: copy.bytes_total,
        bytes_done: copy.bytes_done,
        bytes_per_s: copy.bytes_per_s,
        estimate_s: copy.estimate_s,
        reason: copy.reason.clone(),
    }
}

fn spill_info(device: &str, spill: &primary::SpillStatus) -> SpillInfo {
    SpillInfo {
        device: device.to_owned(),
        state: match spill {
            spill if spill.is_failing => SpillState::Failing,
            spill if spill.is_replaying => SpillState::Replaying,
            spill if spill.is_spilling || spill.unsent_records > 0 => SpillState::Spilling,
            _ => SpillState::Idle,
        },
        used_bytes: spill.used_bytes,
        limit_bytes: spill.total_bytes,
        records: spill.unsent_records,
        bytes: spill.unsent_bytes,
        reason: spill.reason.clone(),
    }
}

fn verify_info(verify: &primary::VerifyProgress) -> VerifyInfo {
    VerifyInfo {
        bytes_total: verify.bytes_total,
        bytes_done: verify.bytes_done,
        over: verify.is_over,
        repair: verify.repair,
        bytes_differing: verify.bytes_differing,
        bytes_unreadable: verify.bytes_unreadable,
        differing: verify
            .differing
            .iter()
            .map(|extent| BlockRange { lba: extent.lba, blocks: u64::from(extent.blocks) })
            .collect(),
        reason: verify.reason.clone(),
    }
}

/// A pair's name; its number where there is no such pair here any more.
fn name_of(state: &State, id: types::PairId) -> String {
    let found = state.pairs.iter().find(|(_, pair)| pair.id == id);
    found.map_or_else(|| format!("{:016x}", id.0), |((_, name), _)| name.clone())
}

/// What the engine adds to a pair's facts at its primary.
/// A copy that does not go on because the secondary's device fails for good is shown as what it is, while the primary
/// still sends what the secondary can hold.
fn state_in_trouble(state: types::PairState, trouble: Option<&String>) -> PairState {
    match state {
        types::PairState::Copy | types::PairState::Pair | types::PairState::NearlyFull if trouble.is_some() => {
            PairState::Psue
        }
        state => state_info(state),
    }
}

pub(super) fn primary_pair(
    info: PairInfo,
    now: Now,
    status: &primary::PairStatus,
    group: Option<&primary::GroupStatus>,
) -> PairInfo {
    let stream = group
        .and_then(|group| group.streams.iter().find(|stream| stream.stream == status.stream))
        .map(|stream| stream.backlog);
    let waiting = status.waiting.as_ref().map(|waiting| waiting_info(now, waiting));
    let is_unit = group.is_some_and(|group| group.unit.is_some());
    let is_established = (is_established(status.state) || is_unit) && status.has_image;
    PairInfo {
        state: state_in_trouble(status.state, status.trouble.as_ref()),
        consistent: is_established,
        rpo_ms: group.and_then(|group| group.lag_ns).filter(|_| is_established).map(ms_of),
        reason: status.trouble.clone().or_else(|| status.reason.clone()),
        waiting,
        pending_bytes: stream.map(|backlog| backlog.bytes),
        pending_records: stream.map(|backlog| backlog.records),
        dirty_bytes: Some(status.dirty_bytes),
        missing_bytes: Some(status.missing_bytes),
        copy: status.copy.as_ref().map(copy_info),
        verify: status.verify.as_ref().map(verify_info),
        ..info
    }
}

/// The same at its secondary.
pub(super) fn secondary_pair(info: PairInfo, status: &secondary::PairStatus) -> PairInfo {
    PairInfo {
        state: state_info(status.state),
        consistent: status.consistent,
        rpo_ms: (status.recovery_point.0 != 0 && status.uuid.is_none()).then(|| ms_of(status.recovery_point_age_ns)),
        reason: status.reason.clone(),
        ..info
    }
}

fn pair_names(state: &State, group: &str) -> Vec<String> {
    state.pairs.keys().filter(|(of, _)| of == group).map(|(_, name)| name.clone()).collect()
}

pub(super) fn certificate_info(
    state: &State,
    group: &str,
    certificate: &takeover::LossCertificate,
    clock_error_ns: u64,
    split_accepted: bool,
) -> LossCertificate {
    LossCertificate {
        group: group.to_owned(),
        recovery_point_ns: certificate.recovery_point.0,
        clock_error_ns,
        generation: generation_info(certificate.generation),
        streams: certificate
            .streams
            .iter()
            .map(|stream| StreamLoss {
                stream: stream.stream.0,
                epoch: stream.epoch.0,
                last_applied: stream.last_applied.0,
                seen_not_applied: stream
                    .seen_not_applied
                    .iter()
                    .map(|range| SeqRange { first: *range.start(), last: *range.end() })
                    .collect(),
                highest_announced: stream.highest_announced.0,
            })
            .collect(),
        volumes: certificate
            .volumes
            .iter()
            .map(|volume| TakenVolume {
                name: state
                    .pairs
                    .values()
                    .find(|pair| pair.id == volume.pair)
                    .map(|pair| pair.call.replica().as_str().to_owned())
                    .unwrap_or_default(),
                uuid: Uuid::from_bytes(volume.uuid),
                nguid: volume.uuid.into(),
            })
            .collect(),
        never_consistent: certificate.never_consistent.iter().map(|pair| name_of(state, *pair)).collect(),
        split_accepted,
    }
}
