//! Consistency groups and their takeover.

use super::link::link_of;
use super::{Control, State, catalog_error, operator_error};
use longrun_bdev::BdevId;
use longrun_bdev::catalog::Holder;
use longrun_copy::ports::OperatorAnswer;
use longrun_copy::primary::{self, GroupConfig as PrimaryGroup};
use longrun_copy::secondary::{self, GroupConfig as SecondaryGroup, GroupPhase, TakeoverAt, TakeoverConsent};
use longrun_copy::takeover;
use longrun_copy::types::{self, GroupId, Now, Scope, VolumeId};
use longrun_rpc::RpcError;
use longrun_rpc::methods::group::{
    Generation, GroupCreate, GroupDelete, GroupGet, GroupInfo, GroupTakeover, Lag, LossCertificate, OldPrimary, Role,
    SeqRange, SequenceScope, StreamInfo, StreamLoss, TakenVolume,
};
use longrun_rpc::methods::pair::PairState;
use uuid::Uuid;

/// A group as the control plane knows it.
pub struct GroupEntry {
    /// As created.
    pub call: GroupCreate,
    /// The core that it is at home on: its link's.
    pub core: usize,
    /// Its identifier.
    pub id: GroupId,
    /// A secondary's journal.
    pub journal: Option<BdevId>,
    /// Taken over: the volumes serve hosts here.
    pub taken_over: bool,
}

impl GroupEntry {
    /// Whether a link serves this group.
    pub fn uses_link(&self, link: &str) -> bool {
        self.call.link_names().contains(&link)
    }
}

/// What the engine says of a group, by role.
enum Status {
    Primary(Box<primary::GroupStatus>),
    Secondary(Box<secondary::GroupStatus>),
}

impl Control {
    pub(super) async fn group_create(&self, call: &GroupCreate) -> Result<String, RpcError> {
        let mut state = self.state().await;
        let name = call.name.as_str().to_owned();
        if state.groups.contains_key(&name) {
            return Err(RpcError::exists("group", &name));
        }
        let links = call.link_names();
        let [link_name] = links.as_slice() else {
            return Err(RpcError::not_supported(format!(
                "{} links are given; this version serves a group over one link, give `link`",
                links.len()
            )));
        };
        let link = link_of(&state, link_name)?;
        let (core, link_id, remote) = (link.core, link.id, link.remote);
        let journal = match call.role {
            Role::Primary => {
                let config = PrimaryGroup {
                    name: name.clone(),
                    scope: scope_of(call.sequence_scope()),
                    link: link_id,
                    remote,
                    throttle_ms_max: call.throttle_ms_max().min(u64::from(u32::MAX)) as u32,
                    buffer_bytes: call.buffer_bytes(),
                    overflow: types::Overflow::Throttle,
                    copy_bytes_per_s: None,
                };
                self.reactor(core)
                    .call(move |reactor| {
                        reactor.engine(|engine, now, world| {
                            let (primary, mut world) = engine.primary(world);
                            primary.group_create(now, config, &mut world)
                        })
                    })
                    .await
                    .map_err(operator_error)?;
                None
            }
            Role::Secondary => {
                let journal_name = call.journal.as_deref().unwrap_or_default();
                let entry = state.catalog.free(journal_name).map_err(catalog_error)?.clone();
                self.move_home(&mut state, &entry, core).await?;
                let holder = Holder::Journal { group: name.clone() };
                let entry = state.catalog.claim(journal_name, holder.clone()).map_err(catalog_error)?.clone();
                let config = SecondaryGroup {
                    name: name.clone(),
                    journal: VolumeId(entry.id.0),
                    journal_geometry: entry.geometry,
                    overlay: None,
                    apply_delay_ns: 0,
                };
                let created = self
                    .reactor(core)
                    .call(move |reactor| {
                        reactor.engine(|engine, now, world| {
                            let (secondary, mut world) = engine.secondary(world);
                            secondary.group_create(now, config, &mut world)
                        })
                    })
                    .await;
                if let Err(error) = created {
                    state.catalog.release(entry.id, &holder);
                    return Err(operator_error(error));
                }
                Some(entry.id)
            }
        };
        let entry = GroupEntry { call: call.clone(), core, id: GroupId::of_name(&name), journal, taken_over: false };
        state.groups.insert(name.clone(), entry);
        Ok(name)
    }

    pub(super) async fn group_delete(&self, call: &GroupDelete) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let group = group_of(&state, &call.name)?;
        if let Some((_, pair)) = state.pairs.keys().find(|(group, _)| *group == call.name) {
            return Err(RpcError::busy("group", &call.name, &format!("pair {pair}; pair_delete it")));
        }
        let (core, id, role, journal) = (group.core, group.id, group.call.role, group.journal);
        match role {
            Role::Primary => self
                .reactor(core)
                .call(move |reactor| {
                    reactor.engine(|engine, now, world| {
                        let (primary, mut world) = engine.primary(world);
                        primary.group_delete(now, id, &mut world)
                    })
                })
                .await
                .map_err(operator_error)?,
            Role::Secondary => {
                let ended = self
                    .reactor(core)
                    .call(move |reactor| {
                        reactor.operate(|engine, now, world, ticket| {
                            let (secondary, mut world) = engine.secondary(world);
                            secondary.group_delete(now, id, ticket, &mut world)
                        })
                    })
                    .await
                    .map_err(operator_error)?;
                ended.wait().await.map_err(operator_error)?;
            }
        }
        if let Some(journal) = journal {
            state.catalog.release(journal, &Holder::Journal { group: call.name.clone() });
        }
        state.groups.remove(&call.name);
        Ok(true)
    }

    pub(super) async fn group_get(&self, call: &GroupGet) -> Result<Vec<GroupInfo>, RpcError> {
        let mut state = self.state().await;
        if let Some(name) = &call.name {
            group_of(&state, name)?;
        }
        let names: Vec<String> = state
            .groups
            .keys()
            .filter(|name| call.name.as_ref().is_none_or(|wanted| wanted == *name))
            .cloned()
            .collect();
        let mut infos = Vec::new();
        for name in names {
            let Some(group) = state.groups.get(&name) else { continue };
            let (id, role) = (group.id, group.call.role);
            let (now, status) = self
                .reactor(group.core)
                .call(move |reactor| {
                    reactor.engine(|engine, now, world| (now, status_of(engine, now, world, id, role)))
                })
                .await;
            let Some(status) = status else { continue };
            self.note_takeover(&mut state, &name, &status).await;
            let Some(group) = state.groups.get(&name) else { continue };
            infos.push(match status {
                Status::Primary(status) => primary_info(&state, group, now, &status),
                Status::Secondary(status) => secondary_info(&state, group, now, &status),
            });
        }
        Ok(infos)
    }

    pub(super) async fn group_takeover(&self, call: &GroupTakeover) -> Result<LossCertificate, RpcError> {
        let consent = TakeoverConsent {
            old_primary_fenced: call.old_primary == Some(OldPrimary::Fenced),
            accept_split: call.accept_split.unwrap_or(false),
        };
        let state = self.state().await;
        let group = group_of(&state, &call.name)?;
        if group.call.role == Role::Primary {
            return Err(RpcError::wrong_state(format!(
                "group {} is primary here; call group_takeover at the system that is its secondary",
                call.name
            )));
        }
        let (id, core) = (group.id, group.core);
        let ended = self
            .reactor(core)
            .call(move |reactor| {
                reactor.operate(|engine, now, world, ticket| {
                    let (secondary, mut world) = engine.secondary(world);
                    secondary.group_takeover(now, id, consent, TakeoverAt::Newest, ticket, &mut world)
                })
            })
            .await
            .map_err(operator_error)?;
        // Applying a long journal takes time: the lock must not be held meanwhile.
        drop(state);
        let answer = ended.wait().await.map_err(operator_error)?;
        let OperatorAnswer::TakenOver(certificate) = answer else {
            return Err(RpcError::internal("the takeover ended with another request's answer"));
        };
        // Asked again, the answer is the takeover's, not this call's.
        let status = self
            .reactor(core)
            .call(move |reactor| {
                reactor.engine(|engine, now, world| status_of(engine, now, world, id, Role::Secondary))
            })
            .await;
        let split_accepted = matches!(&status, Some(Status::Secondary(status)) if status.split_accepted);
        let mut state = self.state().await;
        self.adopt_identities(&mut state, &call.name, &certificate).await;
        let clock_error_ns = self.reactor(0).call(|reactor| reactor.now().error_bound_ns).await;
        Ok(certificate_info(&state, &call.name, &certificate, clock_error_ns, split_accepted))
    }

    /// A takeover that a restart finished by itself shows in the group's status only.
    async fn note_takeover(&self, state: &mut State, name: &str, status: &Status) {
        if let Status::Secondary(status) = status
            && status.phase == GroupPhase::TakenOver
            && let Some(certificate) = &status.certificate
            && !state.has_identities(name, certificate)
        {
            self.adopt_identities(state, name, certificate).await;
        }
    }

    /// Shows a group's volumes under the identities of the takeover, and lets hosts use them.
    async fn adopt_identities(&self, state: &mut State, name: &str, certificate: &takeover::LossCertificate) {
        let Some(group) = state.groups.get_mut(name) else { return };
        group.taken_over = true;
        let replicas: Vec<(BdevId, Uuid)> = certificate
            .volumes
            .iter()
            .filter_map(|volume| {
                let pair = state.pairs.values().find(|pair| pair.id == volume.pair)?;
                Some((pair.replica, Uuid::from_bytes(volume.uuid)))
            })
            .collect();
        for (replica, uuid) in replicas {
            state.catalog.set_uuid(replica, uuid);
            state.refresh_namespaces(replica);
        }
        self.publish(state).await;
    }

    /// Learns of takeovers that were finished by a restart, so that volumes serve hosts without anybody asking.
    pub async fn notice_takeovers(&self) {
        // `group_get` does just that on its way.
        if let Err(error) = self.group_get(&GroupGet { name: None }).await {
            tracing::warn!("{error}");
        }
    }
}

impl State {
    /// Whether a taken-over group and all its volumes that are here show themselves as the certificate says.
    fn has_identities(&self, name: &str, certificate: &takeover::LossCertificate) -> bool {
        let shown = |volume: &takeover::VolumeIdentity| {
            let pair = self.pairs.values().find(|pair| pair.id == volume.pair);
            let entry = pair.and_then(|pair| self.catalog.get(pair.replica));
            entry.is_none_or(|entry| *entry.uuid.as_bytes() == volume.uuid)
        };
        self.groups.get(name).is_some_and(|group| group.taken_over) && certificate.volumes.iter().all(shown)
    }

    /// Whether the bdev is the replica device of a secondary that was not taken over.
    pub(super) fn is_untaken_secondary(&self, bdev: BdevId) -> bool {
        self.pairs.iter().any(|((group, _), pair)| {
            pair.replica == bdev
                && self.groups.get(group).is_some_and(|group| group.call.role == Role::Secondary && !group.taken_over)
        })
    }
}

pub(super) fn group_of<'a>(state: &'a State, name: &str) -> Result<&'a GroupEntry, RpcError> {
    state.groups.get(name).ok_or_else(|| RpcError::not_found("group", name, "group_get"))
}

fn status_of(
    engine: &mut crate::reactor::Engine,
    now: Now,
    world: &mut longrun_bdev::replica::World<'_>,
    id: GroupId,
    role: Role,
) -> Option<Status> {
    match role {
        Role::Primary => {
            let (primary, world) = engine.primary(world);
            primary.group_status(now, id, &world).map(|status| Status::Primary(Box::new(status)))
        }
        Role::Secondary => {
            let (secondary, _) = engine.secondary(world);
            secondary.group_status(now, id).map(|status| Status::Secondary(Box::new(status)))
        }
    }
}

fn scope_of(scope: SequenceScope) -> Scope {
    match scope {
        SequenceScope::Pair => Scope::Pair,
        SequenceScope::System => Scope::System,
        SequenceScope::Group => Scope::Group,
    }
}

fn scope_info(scope: Scope) -> SequenceScope {
    match scope {
        Scope::Pair => SequenceScope::Pair,
        Scope::System => SequenceScope::System,
        Scope::Group => SequenceScope::Group,
    }
}

pub(super) fn state_info(state: types::PairState) -> PairState {
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
pub(super) fn ms_of(ns: u64) -> u64 {
    ns.div_ceil(1_000_000)
}

/// Whether a copy exists that was equal once.
pub(super) fn is_established(state: types::PairState) -> bool {
    !matches!(state, types::PairState::Simplex | types::PairState::Copy)
}

fn primary_info(state: &State, group: &GroupEntry, now: Now, status: &primary::GroupStatus) -> GroupInfo {
    let suspended = !status.state.is_copying();
    // Before the first pair is established there is no copy whose age could be told.
    let lag_ns = status.lag_ns.filter(|_| is_established(status.state));
    GroupInfo {
        name: status.name.clone(),
        role: Role::Primary,
        state: state_info(status.state),
        consistent: is_established(status.state),
        recovery_point_ns: None,
        rpo_ms: lag_ns.map(ms_of),
        limit_time_ns: None,
        timeline_now_ns: now.time.0,
        lag: Lag {
            seconds: lag_ns.map(|ns| ns as f64 / 1e9),
            bytes: (!suspended).then_some(status.backlog.bytes),
            records: (!suspended).then_some(status.backlog.records),
        },
        generation: generation_info(status.generation),
        sequence_scope: scope_info(status.scope),
        links: group.call.link_names().into_iter().map(str::to_owned).collect(),
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
        reason: status.reason.clone().or_else(|| status.waiting.as_ref().map(|waiting| waiting.reason.clone())),
        split_accepted: false,
    }
}

fn secondary_info(state: &State, group: &GroupEntry, now: Now, status: &secondary::GroupStatus) -> GroupInfo {
    let known = status.recovery_point.0 != 0;
    // A volume that serves hosts is no copy any more, and has no age.
    let is_copy = known && status.phase != GroupPhase::TakenOver;
    GroupInfo {
        name: status.name.clone(),
        role: Role::Secondary,
        state: match status.phase {
            GroupPhase::Active if status.streams.is_empty() => PairState::Smpl,
            GroupPhase::Active => PairState::Pair,
            GroupPhase::Opening => PairState::Copy,
            GroupPhase::Suspended => PairState::Pfus,
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
        sequence_scope: status.streams.first().map_or(SequenceScope::Group, |stream| scope_info(stream.scope)),
        links: group.call.link_names().into_iter().map(str::to_owned).collect(),
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
        journal_used: (status.journal_bytes > 0)
            .then(|| status.journal_used_bytes as f64 / status.journal_bytes as f64),
        throttle_ms: None,
        reason: status.reason.clone().or_else(|| {
            status.takeover_step.filter(|_| status.phase == GroupPhase::TakingOver).map(|step| {
                format!("takeover: {step:?} (each step is durable before the next; a restart goes on by itself)")
            })
        }),
        split_accepted: status.split_accepted,
    }
}

fn pair_names(state: &State, group: &str) -> Vec<String> {
    state.pairs.keys().filter(|(of, _)| of == group).map(|(_, name)| name.clone()).collect()
}

fn certificate_info(
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
        split_accepted,
    }
}
