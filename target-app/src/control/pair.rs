//! Pairs and their replica devices.

use super::group::{GroupEntry, group_of, present_group, role_info};
use super::shown::{primary_pair, secondary_pair};
use super::{Caller, Control, State, catalog_error, operator_error, with_trouble};
use crate::reactor::{Ended, Reactor};
use longrun_bdev::BdevId;
use longrun_bdev::catalog::{Created, Entry, Kind, Spec};
use longrun_bdev::device::Device;
use longrun_copy::engine::OperatorError;
use longrun_copy::identity;
use longrun_copy::primary::PairConfig as PrimaryPair;
use longrun_copy::role;
use longrun_copy::secondary::PairConfig as SecondaryPair;
use longrun_copy::types::{self, GroupId, PairId, VolumeId};
use longrun_rpc::RpcError;
use longrun_rpc::methods::group::Role;
use longrun_rpc::methods::pair::{Initial, PairCreate, PairDelete, PairGet, PairInfo, PairState};
use std::sync::Arc;
use uuid::Uuid;

/// A pair as the control plane knows it.
pub struct PairEntry {
    /// As created.
    pub call: PairCreate,
    /// Its identifier.
    pub id: PairId,
    /// The device that hosts see; none for a pair of the configuration whose volume could not be had.
    pub replica: Option<BdevId>,
    /// Why the pair could not be taken up at the start, or why the engine gave it up, until it is deleted.
    pub failed: Option<String>,
}

/// What replica devices' identities are derived from at first: a pair's name and its volume. From the primary's creation of
/// the pair on metadata has them, the same at both sites ([`identity`]).
const REPLICA_NAMESPACE: Uuid = Uuid::from_u128(0x6c6f_6e67_7275_6e00_8000_7061_6972_0001);

/// Pairs of a group that its core is asked for in one go: the group is looked at once for them, and hosts wait no longer than
/// for so many.
const PAIRS_AT_ONCE: usize = 64;

impl Control {
    pub(super) async fn pair_create(self: &Arc<Self>, call: &PairCreate, caller: Caller) -> Result<String, RpcError> {
        let name = call.name.as_str().to_owned();
        let ended = match self.begin_pair(call, caller).await {
            Ok(Some(ended)) => ended,
            // Not taken up, and noted so.
            Ok(None) => return Ok(name),
            Err(error) => return Err(error),
        };
        match caller {
            Caller::Operator => self.show_as_taken_over(&call.group).await,
            // All at once, before hosts are admitted.
            Caller::Configuration => {}
        }
        match caller {
            Caller::Operator => match ended.wait().await {
                Ok(_) => {}
                // The engine goes on trying and holds the volume; `pair_get` shows what it waits for.
                Err(error @ OperatorError::TimedOut(_)) => return Err(operator_error(error)),
                Err(error) => {
                    let mut error = operator_error(error);
                    self.note_failed(&call.group, &name, &error.message).await;
                    if let Err(held) = self.forget_pair(&call.group, &name).await {
                        error.message = format!("{}; {}, then pair_delete it", error.message, held.message);
                    }
                    return Err(error);
                }
            },
            Caller::Configuration => {
                // The peer may be away for long; hosts are served meanwhile as the pair's state allows.
                let group = call.group.clone();
                let shown = name.clone();
                let control = Arc::clone(self);
                tokio::spawn(async move {
                    match ended.wait().await {
                        Ok(_) => tracing::info!("pair {shown} of group {group} is established"),
                        Err(error @ OperatorError::TimedOut(_)) => {
                            tracing::warn!("pair {shown} of group {group}: {error}");
                        }
                        Err(error) => {
                            tracing::warn!("pair {shown} of group {group}: {error}");
                            // It stays, as configured: hosts may be connected to it, and the operator decides.
                            control.note_failed(&group, &shown, &operator_error(error).message).await;
                        }
                    }
                });
            }
        }
        Ok(name)
    }

    /// Of a group that was taken over, a volume must never be seen under its former identity.
    async fn show_as_taken_over(&self, group: &str) {
        let Some((core, id)) = self.state().await.groups.get(group).map(|group| (group.core, group.id)) else { return };
        let look = move |reactor: &mut Reactor| {
            reactor.engine(|engine, _, world| engine.secondary(world).0.taken_over(id).is_some())
        };
        if self.reactor(core).call(look).await {
            self.notice_takeovers().await;
        }
    }

    /// Claims the volume, makes the replica device, and has the engine begin.
    ///
    /// A pair of the configuration that cannot be taken up does not stop the start: it stays with its reason, for
    /// `pair_get` and `pair_delete`, and `None` is returned. With the start stopped nothing at all would be served, and
    /// nobody could be asked why.
    async fn begin_pair(&self, call: &PairCreate, caller: Caller) -> Result<Option<Ended>, RpcError> {
        let mut state = self.state().await;
        let group = match caller {
            Caller::Operator => present_group(&state, &call.group)?,
            Caller::Configuration => group_of(&state, &call.group)?,
        };
        let key = (call.group.clone(), call.name.as_str().to_owned());
        if state.pairs.contains_key(&key) {
            return Err(RpcError::exists("pair", call.name.as_str()));
        }
        if let Some(link) = call.link.as_deref().filter(|link| !group.uses_link(link)) {
            return Err(RpcError::invalid_params(format!(
                "link {link} is not one of group {}'s ({}); leave it out",
                call.group,
                group.call.link_names().join(", ")
            )));
        }
        let (core, role) = (group.core, group.role);
        let id = PairId::of_name(GroupId::of_name(&call.group), &key.1);
        let refused = |replica, error: RpcError| match caller {
            Caller::Operator => Err(error),
            Caller::Configuration => {
                tracing::warn!("pair {} of group {} is not taken up: {}", key.1, key.0, error.message);
                Ok(PairEntry { call: call.clone(), id, replica, failed: Some(error.message) })
            }
        };
        if let Some(reason) = &group.failed {
            let text = format!("group {} was not taken up at the start: {reason}", key.0);
            let entry = refused(None, RpcError::wrong_state(text))?;
            state.pairs.insert(key, entry);
            return Ok(None);
        }
        let (base, created) = match self.make_replica(&mut state, call, core, role).await {
            Ok(made) => made,
            Err(error) => {
                let entry = refused(None, error)?;
                state.pairs.insert(key, entry);
                return Ok(None);
            }
        };
        let replica = created.device.id();
        let shown = state.catalog.get(replica).map_or_else(Uuid::nil, |entry| entry.uuid);
        let began = self.begin_in_engine(&state, call, core, role, &base, created.device, shown).await;
        match began {
            Ok(ended) => {
                state.pairs.insert(key, PairEntry { call: call.clone(), id, replica: Some(replica), failed: None });
                Ok(Some(ended))
            }
            Err(error) => match refused(Some(replica), operator_error(error)) {
                // The device stays, so that its namespaces keep their place; it answers that the pair is not there.
                Ok(entry) => {
                    state.pairs.insert(key, entry);
                    Ok(None)
                }
                Err(error) => {
                    if let Some(entry) = state.catalog.get(replica).cloned() {
                        drop(self.take_device(&entry).await);
                        state.catalog.remove(replica);
                    }
                    Err(error)
                }
            },
        }
    }

    /// Makes the replica device on the volume, with both at home on the group's core. Answers the volume and the device.
    async fn make_replica(
        &self,
        state: &mut State,
        call: &PairCreate,
        core: usize,
        role: Role,
    ) -> Result<(Entry, Created), RpcError> {
        let missing = state.absent_reason(&call.volume);
        let base = match state.catalog.free(&call.volume) {
            Ok(base) => base.clone(),
            Err(error) => {
                let mut error = catalog_error(error);
                error.message = missing.map_or(error.message, |reason| format!("its volume is missing: {reason}"));
                return Err(error);
            }
        };
        self.move_home(state, &base, core).await?;
        let id = PairId::of_name(GroupId::of_name(&call.group), call.name.as_str());
        let known =
            self.reactor(core).call(move |reactor| reactor.engine(|_, _, world| identity::of_pair(id, world))).await;
        let uuid_name = format!("{}/{}/{}", role_name(role), call.group, call.name.as_str());
        let spec = Spec::Replica {
            name: call.replica().as_str().to_owned(),
            base_name: call.volume.clone(),
            group: call.group.clone(),
            pair: call.name.as_str().to_owned(),
            uuid: match known {
                Some(identity) => Uuid::from_bytes(identity),
                None => Uuid::new_v5(&REPLICA_NAMESPACE, format!("{uuid_name}/{}", base.uuid).as_bytes()),
            },
        };
        let created = state.catalog.create(spec, core as u32).map_err(catalog_error)?;
        Ok((base, created))
    }

    #[expect(clippy::too_many_arguments, reason = "all that a pair is begun with, from one caller")]
    async fn begin_in_engine(
        &self,
        state: &State,
        call: &PairCreate,
        core: usize,
        role: Role,
        base: &Entry,
        device: Device,
        shown: Uuid,
    ) -> Result<Ended, OperatorError> {
        let name = call.name.as_str().to_owned();
        let (volume, geometry, volatile) = (VolumeId(base.id.0), base.geometry, state.is_volatile(base));
        let initial = match call.initial() {
            Initial::Empty => types::Initial::Empty,
            Initial::Identical => types::Initial::Identical,
            Initial::Copy => types::Initial::Copy,
            Initial::CopyDifferences => types::Initial::CopyDifferences,
        };
        // A group that was taken over comes back as the secondary that it was: the engine knows whose pair this is.
        let (group, pair) = (GroupId::of_name(&call.group), PairId::of_name(GroupId::of_name(&call.group), &name));
        let role = self
            .reactor(core)
            .call(move |reactor| reactor.engine(|engine, now, world| engine.pair_role(now, group, pair, world)))
            .await
            .map_or(role, role_info);
        match role {
            Role::Primary => {
                let config = PrimaryPair {
                    group: GroupId::of_name(&call.group),
                    name,
                    volume,
                    geometry,
                    remote_volume: call.remote_volume.clone().unwrap_or_default(),
                    initial,
                    volatile,
                };
                self.reactor(core)
                    .call(move |reactor| {
                        reactor.core().0.install(device);
                        reactor.operate(|engine, now, world, ticket| {
                            let (primary, mut world) = engine.primary(world);
                            primary.identify(
                                PairId::of_name(config.group, &config.name),
                                *shown.as_bytes(),
                                &mut world,
                            );
                            primary.pair_create(now, config, ticket, &mut world).map(|_| ())
                        })
                    })
                    .await
            }
            Role::Secondary => {
                let config = SecondaryPair {
                    group: call.group.clone(),
                    name,
                    volume,
                    volume_name: call.volume.clone(),
                    geometry,
                    initial,
                    volatile,
                };
                self.reactor(core)
                    .call(move |reactor| {
                        reactor.core().0.install(device);
                        reactor.operate(|engine, now, world, ticket| {
                            let (secondary, mut world) = engine.secondary(world);
                            secondary.pair_create(now, config, ticket, &mut world).map(|_| ())
                        })
                    })
                    .await
            }
        }
    }

    /// Keeps the reason for which the engine gave a pair up, for as long as the pair is shown.
    async fn note_failed(&self, group: &str, name: &str, reason: &str) {
        if let Some(pair) = self.state().await.pairs.get_mut(&(group.to_owned(), name.to_owned())) {
            pair.failed = Some(reason.to_owned());
        }
    }

    /// Removes a pair that the engine has forgotten, with its replica device. Changes nothing while somebody holds the
    /// device: a namespace or a bdev must not be left standing on nothing.
    async fn forget_pair(&self, group: &str, name: &str) -> Result<(), RpcError> {
        let key = (group.to_owned(), name.to_owned());
        let mut state = self.state().await;
        let Some(pair) = state.pairs.get(&key) else { return Ok(()) };
        let replica = pair.replica.and_then(|replica| state.catalog.get(replica)).map(|entry| entry.name.clone());
        match replica {
            Some(replica) => {
                state = self.take_and_remove(state, &replica, Kind::Replica).await?;
            }
            None => {
                let device = pair.call.replica().as_str().to_owned();
                state.withheld.retain(|withheld| withheld.namespace.bdev_name != device);
            }
        }
        state.pairs.remove(&key);
        Ok(())
    }

    pub(super) async fn pair_delete(&self, call: &PairDelete) -> Result<bool, RpcError> {
        let ended = {
            let state = self.state().await;
            let group = group_of(&state, &call.group)?;
            let pair = pair_of(&state, &call.group, &call.name)?;
            if state.tests.contains_key(&call.group) {
                return Err(RpcError::busy("pair", &call.name, "the test of its group; group_test_stop it"));
            }
            if let Some(entry) = pair.replica.and_then(|replica| state.catalog.get(replica)) {
                state.catalog.check_delete(&entry.name, Some(Kind::Replica)).map_err(catalog_error)?;
            }
            let (id, group_id) = (pair.id, group.id);
            self.reactor(group.core)
                .call(move |reactor| {
                    // Of a group that was taken over here both parts know the pair: the secondary's record goes first,
                    // or it would be taken up again.
                    let taken = reactor.operate(|engine, now, world, ticket| {
                        let is_promoted = engine.role(group_id) == Some(role::Role::Primary);
                        let (secondary, mut world) = engine.secondary(world);
                        if !is_promoted || secondary.pair_status(now, id).is_none() {
                            return Err(OperatorError::NotFound(String::new()));
                        }
                        secondary.pair_delete(now, id, ticket, &mut world)
                    });
                    let ended = reactor.operate(|engine, now, world, ticket| match engine.role(group_id) {
                        Some(role::Role::Primary) => {
                            let (primary, mut world) = engine.primary(world);
                            primary.pair_delete(now, id, ticket, &mut world)
                        }
                        _ => {
                            let (secondary, mut world) = engine.secondary(world);
                            secondary.pair_delete(now, id, ticket, &mut world)
                        }
                    });
                    // Not known to the primary any more: the secondary's end is the end.
                    match (taken, ended) {
                        (Ok(taken), Err(OperatorError::NotFound(_))) => Ok(taken),
                        (_, ended) => ended,
                    }
                })
                .await
        };
        match ended {
            Ok(ended) => drop(ended.wait().await.map_err(operator_error)?),
            // The engine gave it up earlier; what is left is the device.
            Err(OperatorError::NotFound(_)) => {}
            Err(error) => return Err(operator_error(error)),
        }
        self.forget_pair(&call.group, &call.name).await?;
        Ok(true)
    }

    pub(super) async fn pair_get(&self, call: &PairGet) -> Result<Vec<PairInfo>, RpcError> {
        let state = self.state().await;
        let wanted = |group: &str, name: &str| {
            call.group.as_ref().is_none_or(|wanted| wanted == group)
                && call.name.as_ref().is_none_or(|wanted| wanted == name)
        };
        if let Some(group) = &call.group {
            group_of(&state, group)?;
            if let Some(name) = &call.name {
                pair_of(&state, group, name)?;
            }
        }
        let pairs: Vec<_> = state.pairs.iter().filter(|((group, name), _)| wanted(group, name)).collect();
        let of_groups = pairs.chunk_by(|((one, _), _), ((other, _), _)| one == other);
        let mut infos = Vec::new();
        for pairs in of_groups.flat_map(|pairs| pairs.chunks(PAIRS_AT_ONCE)) {
            let group = group_of(&state, &pairs[0].0.0)?;
            let group_id = group.id;
            let known: Vec<(PairId, PairInfo)> =
                pairs.iter().map(|((_, name), pair)| (pair.id, state.forgotten_pair(group, name, pair))).collect();
            let look = move |reactor: &mut Reactor| {
                reactor.engine(|engine, now, world| match engine.role(group_id) {
                    Some(role::Role::Primary) => {
                        let (primary, world) = engine.primary(world);
                        let group = primary.group_status(now, group_id, &world);
                        let shown = |(id, info): (PairId, PairInfo)| match primary.pair_status(now, id) {
                            Some(status) => primary_pair(info, now, &status, group.as_ref()),
                            None => info,
                        };
                        known.into_iter().map(shown).collect()
                    }
                    Some(role::Role::Secondary) => {
                        let (secondary, _) = engine.secondary(world);
                        let shown = |(id, info): (PairId, PairInfo)| match secondary.pair_status(now, id) {
                            Some(status) => secondary_pair(info, &status),
                            None => info,
                        };
                        known.into_iter().map(shown).collect()
                    }
                    None => known.into_iter().map(|(_, info)| info).collect::<Vec<_>>(),
                })
            };
            infos.extend(self.reactor(group.core).call(look).await);
        }
        if let Some(trouble) = self.health.reason() {
            for info in &mut infos {
                info.reason = Some(with_trouble(&trouble, info.reason.take()));
            }
        }
        Ok(infos)
    }

    /// Moves an unclaimed bdev, with everything that it stands on, to another core: a volume, its streams and its group
    /// have one home (design 4a).
    pub(super) async fn move_home(&self, state: &mut State, entry: &Entry, core: usize) -> Result<(), RpcError> {
        if entry.home as usize == core {
            return Ok(());
        }
        let devices = self.take_stack(entry).await?;
        self.reactor(core)
            .call(move |reactor| devices.into_iter().rev().for_each(|device| reactor.core().0.install(device)))
            .await;
        state.catalog.set_home(entry.id, core as u32);
        Ok(())
    }
}

impl State {
    /// Whether what a bdev holds ends with the process: there is memory (or nothing) at the bottom of its stack.
    fn is_volatile(&self, entry: &Entry) -> bool {
        let below = |entry: &&Entry| self.catalog.get(entry.base?);
        let bottom = std::iter::successors(Some(entry), below).last();
        bottom.is_some_and(|bottom| matches!(bottom.kind, Kind::Malloc | Kind::Null))
    }

    /// A pair of which the engine knows nothing, or nothing yet.
    fn forgotten_pair(&self, group: &GroupEntry, name: &str, pair: &PairEntry) -> PairInfo {
        let shown = pair.replica.and_then(|replica| self.catalog.get(replica));
        PairInfo {
            group: group.call.name.as_str().to_owned(),
            name: name.to_owned(),
            role: group.role,
            state: if pair.failed.is_some() { PairState::Psue } else { PairState::Smpl },
            consistent: false,
            rpo_ms: None,
            reason: pair.failed.clone(),
            waiting: None,
            volume: pair.call.volume.clone(),
            replica: pair.call.replica().as_str().to_owned(),
            remote_volume: pair.call.remote_volume().to_owned(),
            link: group.call.link_names().first().map(|link| (*link).to_owned()).unwrap_or_default(),
            size_bytes: shown.map_or(0, |shown| shown.geometry.bytes()),
            pending_bytes: None,
            pending_records: None,
            dirty_bytes: None,
            missing_bytes: None,
            copy: None,
            verify: None,
            counters: None,
        }
    }

    pub(super) fn base_of(&self, pair: &PairEntry) -> Option<&Entry> {
        self.catalog.get(self.catalog.get(pair.replica?)?.base?)
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
    }
}

pub(super) fn pair_of<'a>(state: &'a State, group: &str, name: &str) -> Result<&'a PairEntry, RpcError> {
    state
        .pairs
        .get(&(group.to_owned(), name.to_owned()))
        .ok_or_else(|| RpcError::not_found(&format!("pair of group {group}"), name, "pair_get"))
}
