//! Consistency groups and their takeover.

use super::link::link_of;
use super::shown::{certificate_info, primary_group, secondary_group};
use super::{Control, State, catalog_error, operator_error, with_trouble};
use longrun_bdev::BdevId;
use longrun_bdev::catalog::{Entry, Holder};
use longrun_copy::ports::OperatorAnswer;
use longrun_copy::primary::{self, GroupConfig as PrimaryGroup};
use longrun_copy::secondary::{self, GroupConfig as SecondaryGroup, GroupPhase, TakeoverAt, TakeoverConsent};
use longrun_copy::takeover;
use longrun_copy::types::{self, GroupId, Now, Scope, Time, VolumeId};
use longrun_rpc::RpcError;
use longrun_rpc::methods::group::{
    GroupCreate, GroupDelete, GroupGet, GroupInfo, GroupTakeover, LossCertificate, OldPrimary, Overflow, Role,
    SequenceScope,
};
use longrun_rpc::types::TakeoverPoint;
use uuid::Uuid;

/// A group as the control plane knows it.
pub struct GroupEntry {
    /// As created.
    pub call: GroupCreate,
    /// The core that it is at home on: its link's.
    pub core: usize,
    /// Its identifier.
    pub id: GroupId,
    /// What a secondary claims: its journal, and its overlay if it has one.
    pub claims: Vec<(BdevId, Holder)>,
    /// Taken over: the volumes serve hosts here.
    pub taken_over: bool,
    /// Its deletion waits for the journal to be wiped.
    pub is_leaving: bool,
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
    /// With its pairs' states.
    Secondary(Box<secondary::GroupStatus>, Vec<types::PairState>),
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
        let claims = match call.role {
            Role::Primary => {
                let config = PrimaryGroup {
                    name: name.clone(),
                    scope: scope_of(call.sequence_scope()),
                    link: link_id,
                    remote,
                    throttle_ms_max: call.throttle_ms_max().min(u64::from(u32::MAX)) as u32,
                    buffer_bytes: call.buffer_bytes(),
                    overflow: match call.overflow.unwrap_or_default() {
                        Overflow::Throttle => types::Overflow::Throttle,
                        Overflow::Suspend => types::Overflow::Suspend,
                    },
                    copy_bytes_per_s: call.copy_mib_per_s.map(|mib| mib.get().saturating_mul(1 << 20)),
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
                Vec::new()
            }
            Role::Secondary => {
                let journal = self.bring_home(&mut state, call.journal.as_deref().unwrap_or_default(), core).await?;
                let overlay = match &call.overlay {
                    Some(overlay) => Some(self.bring_home(&mut state, overlay, core).await?),
                    None => None,
                };
                let config = SecondaryGroup {
                    name: name.clone(),
                    journal: VolumeId(journal.id.0),
                    journal_geometry: journal.geometry,
                    overlay: overlay.as_ref().map(|overlay| (VolumeId(overlay.id.0), overlay.geometry)),
                    apply_delay_ns: call.apply_delay_s.unwrap_or(0).saturating_mul(1_000_000_000),
                };
                let mut claims = vec![(journal, Holder::Journal { group: name.clone() })];
                claims.extend(overlay.map(|overlay| (overlay, Holder::Overlay { group: name.clone() })));
                for (entry, holder) in &claims {
                    if let Err(error) = state.catalog.claim(&entry.name, holder.clone()) {
                        state.release_all(&ids_of(&claims));
                        return Err(catalog_error(error));
                    }
                }
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
                    state.release_all(&ids_of(&claims));
                    return Err(operator_error(error));
                }
                ids_of(&claims)
            }
        };
        let entry = GroupEntry {
            call: call.clone(),
            core,
            id: GroupId::of_name(&name),
            claims,
            taken_over: false,
            is_leaving: false,
        };
        state.groups.insert(name.clone(), entry);
        Ok(name)
    }

    /// The bdev of this name, which nobody holds, moved to a group's core.
    async fn bring_home(&self, state: &mut State, name: &str, core: usize) -> Result<Entry, RpcError> {
        let entry = state.catalog.free(name).map_err(catalog_error)?.clone();
        self.move_home(state, &entry, core).await?;
        Ok(entry)
    }

    pub(super) async fn group_delete(&self, call: &GroupDelete) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let group = present_group(&state, &call.name)?;
        if let Some((_, pair)) = state.pairs.keys().find(|(group, _)| *group == call.name) {
            return Err(RpcError::busy("group", &call.name, &format!("pair {pair}; pair_delete it")));
        }
        let (core, id) = (group.core, group.id);
        match group.call.role {
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
                if let Some(group) = state.groups.get_mut(&call.name) {
                    group.is_leaving = true;
                }
                // Wiping a journal takes its medium's time; others are served meanwhile.
                drop(state);
                let wiped = ended.wait().await.map_err(operator_error);
                state = self.state().await;
                if let (Err(_), Some(group)) = (&wiped, state.groups.get_mut(&call.name)) {
                    group.is_leaving = false;
                }
                wiped?;
            }
        }
        if let Some(group) = state.groups.remove(&call.name) {
            state.release_all(&group.claims);
        }
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
                Status::Primary(status) => primary_group(&state, group, now, &status),
                Status::Secondary(status, pairs) => secondary_group(&state, group, now, &status, &pairs),
            });
        }
        if let Some(trouble) = self.health.reason() {
            for info in &mut infos {
                info.reason = Some(with_trouble(&trouble, info.reason.take()));
            }
        }
        Ok(infos)
    }

    pub(super) async fn group_takeover(&self, call: &GroupTakeover) -> Result<LossCertificate, RpcError> {
        let consent = TakeoverConsent {
            old_primary_fenced: call.old_primary == Some(OldPrimary::Fenced),
            accept_split: call.accept_split.unwrap_or(false),
        };
        let at = match &call.at {
            None => TakeoverAt::Newest,
            Some(TakeoverPoint::Time(ns)) => TakeoverAt::Time(Time(*ns)),
            Some(TakeoverPoint::Bookmark(name)) => TakeoverAt::Bookmark(name.as_str().to_owned()),
        };
        let state = self.state().await;
        let group = present_group(&state, &call.name)?;
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
                    secondary.group_takeover(now, id, consent, at, ticket, &mut world)
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
        let split_accepted = matches!(&status, Some(Status::Secondary(status, _)) if status.split_accepted);
        let mut state = self.state().await;
        self.adopt_identities(&mut state, &call.name, &certificate).await;
        let clock_error_ns = self.reactor(0).call(|reactor| reactor.now().error_bound_ns).await;
        Ok(certificate_info(&state, &call.name, &certificate, clock_error_ns, split_accepted))
    }

    /// A takeover that a restart finished by itself shows in the group's status only.
    async fn note_takeover(&self, state: &mut State, name: &str, status: &Status) {
        if let Status::Secondary(status, _) = status
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
                Some((pair.replica?, Uuid::from_bytes(volume.uuid)))
            })
            .collect();
        for (replica, uuid) in replicas {
            state.catalog.set_uuid(replica, uuid);
            state.refresh_namespaces(replica);
        }
        self.publish(state).await;
    }

    /// The names of secondary groups that do not know yet whether they were taken over: their journals are being read, or
    /// a takeover that a crash interrupted is being finished.
    pub async fn undecided_groups(&self) -> Vec<String> {
        let state = self.state().await;
        let mut names = Vec::new();
        for (name, group) in state.groups.iter().filter(|(_, group)| group.call.role == Role::Secondary) {
            let id = group.id;
            let status = self
                .reactor(group.core)
                .call(move |reactor| {
                    reactor.engine(|engine, now, world| status_of(engine, now, world, id, Role::Secondary))
                })
                .await;
            if let Some(Status::Secondary(status, _)) = status
                && matches!(status.phase, GroupPhase::Opening | GroupPhase::TakingOver)
            {
                names.push(name.clone());
            }
        }
        names
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
    fn release_all(&mut self, claims: &[(BdevId, Holder)]) {
        for (bdev, holder) in claims {
            self.catalog.release(*bdev, holder);
        }
    }

    /// Whether a taken-over group and all its volumes that are here show themselves as the certificate says.
    fn has_identities(&self, name: &str, certificate: &takeover::LossCertificate) -> bool {
        let shown = |volume: &takeover::VolumeIdentity| {
            let pair = self.pairs.values().find(|pair| pair.id == volume.pair);
            let entry = pair.and_then(|pair| self.catalog.get(pair.replica?));
            entry.is_none_or(|entry| *entry.uuid.as_bytes() == volume.uuid)
        };
        self.groups.get(name).is_some_and(|group| group.taken_over) && certificate.volumes.iter().all(shown)
    }

    /// Whether the bdev is the replica device of a secondary that was not taken over.
    pub(super) fn is_untaken_secondary(&self, bdev: BdevId) -> bool {
        self.pairs.iter().any(|((group, _), pair)| {
            pair.replica == Some(bdev)
                && self.groups.get(group).is_some_and(|group| group.call.role == Role::Secondary && !group.taken_over)
        })
    }
}

pub(super) fn group_of<'a>(state: &'a State, name: &str) -> Result<&'a GroupEntry, RpcError> {
    state.groups.get(name).ok_or_else(|| RpcError::not_found("group", name, "group_get"))
}

/// A group that is not being deleted.
pub(super) fn present_group<'a>(state: &'a State, name: &str) -> Result<&'a GroupEntry, RpcError> {
    let group = group_of(state, name)?;
    if group.is_leaving {
        return Err(RpcError::busy("group", name, "its own deletion, which wipes the journal"));
    }
    Ok(group)
}

fn ids_of(claims: &[(Entry, Holder)]) -> Vec<(BdevId, Holder)> {
    claims.iter().map(|(entry, holder)| (entry.id, holder.clone())).collect()
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
            let status = secondary.group_status(now, id)?;
            let pairs = status.pairs.iter().filter_map(|pair| secondary.pair_status(now, *pair));
            let states = pairs.map(|pair| pair.state).collect();
            Some(Status::Secondary(Box::new(status), states))
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
