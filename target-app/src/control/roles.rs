//! A group's part at this system as it changes: takeovers, swap, failback, and what hosts are shown meanwhile.

use super::group::{Claims, Status, Taken, group_of, present_group};
use super::{Control, State, operator_error};
use longrun_bdev::BdevId;
use longrun_bdev::catalog::Holder;
use longrun_copy::engine::OperatorError;
use longrun_copy::ports::OperatorAnswer;
use longrun_copy::secondary::GroupConfig as SecondaryGroup;
use longrun_copy::takeover;
use longrun_copy::types::{Now, PairId};
use longrun_nvmf::target::ANA_TRANSITION_SECONDS_MAX;
use longrun_rpc::RpcError;
use longrun_rpc::methods::group::{GroupGet, Role};
use longrun_rpc::methods::role::{GroupFailback, GroupSwap, RoleInfo};
use std::collections::HashMap;
use uuid::Uuid;

/// Whether hosts use a group's volumes at this system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// They do.
    #[default]
    Here,
    /// The group is being handed over: hosts wait, for a moment.
    Changing,
    /// They use the other site's.
    Elsewhere,
}

/// How long hosts are told that the access changes: less than what makes them give the path up. If the other site has not
/// said by then whether it took the group, they are sent there.
const CHANGING_NS_MAX: u64 = (ANA_TRANSITION_SECONDS_MAX as u64 - 2) * 1_000_000_000;

impl Access {
    /// Before the engine has said more.
    pub fn at_start(part: Role) -> Access {
        match part {
            Role::Primary => Access::Here,
            Role::Secondary => Access::Elsewhere,
        }
    }

    /// Of a primary that has been handing its group over for so long, if it is.
    fn while_primary(handing_over_ns: Option<u64>) -> Access {
        match handing_over_ns {
            None => Access::Here,
            Some(ns) if ns < CHANGING_NS_MAX => Access::Changing,
            Some(_) => Access::Elsewhere,
        }
    }
}

impl Control {
    /// Follows the group's part as the engine says it: a takeover that a restart finished by itself, and a primary that
    /// gave its part up, show in the group's status only.
    pub(super) async fn note_part(
        &self,
        state: &mut State,
        name: &str,
        now: Now,
        status: &Status,
        taken: Option<Taken>,
    ) {
        let Some(group) = state.groups.get_mut(name) else { return };
        let role = match status {
            Status::Primary(_) => Role::Primary,
            Status::Secondary(..) => Role::Secondary,
        };
        let follows = role == Role::Secondary && taken.is_none();
        let access = match status {
            Status::Primary(status) => Access::while_primary(status.handing_over.map(|since| now.mono.since_ns(since))),
            Status::Secondary(..) if follows => Access::Elsewhere,
            Status::Secondary(..) => Access::Here,
        };
        let has_changed = (group.role, group.access, group.taken_over && follows) != (role, access, false);
        // A volume never shows itself to hosts under the identity from before its takeover.
        if let Some(taken) = taken.filter(|taken| !state.has_identities(name, &taken.certificate)) {
            self.adopt_identities(state, name, &taken.certificate).await;
        }
        let Some(group) = state.groups.get_mut(name) else { return };
        if has_changed {
            (group.role, group.access) = (role, access);
            group.taken_over &= !follows;
            let replicas: Vec<BdevId> = state
                .pairs
                .iter()
                .filter(|((group, _), _)| group == name)
                .filter_map(|(_, pair)| pair.replica)
                .collect();
            state.refresh_states(&replicas);
            self.publish(state).await;
        }
    }

    /// Shows a group's volumes under the identities of the takeover, and lets hosts use them.
    pub(super) async fn adopt_identities(
        &self,
        state: &mut State,
        name: &str,
        certificate: &takeover::LossCertificate,
    ) {
        let Some(group) = state.groups.get_mut(name) else { return };
        (group.taken_over, group.access) = (true, Access::Here);
        let known = state.replicas();
        let mut replicas = Vec::new();
        for volume in &certificate.volumes {
            let Some(replica) = known.get(&volume.pair).copied() else { continue };
            state.catalog.set_uuid(replica, Uuid::from_bytes(volume.uuid));
            // Whatever an operator had given its namespaces: it is another disk now.
            state.refresh_namespaces(replica, |_| true);
            replicas.push(replica);
        }
        state.refresh_states(&replicas);
        self.publish(state).await;
    }

    /// Shows volumes under the identity that they have at both sites. A namespace that was given one of its own keeps it.
    pub(super) async fn note_identities(&self, state: &mut State, identities: &[(PairId, [u8; 16])]) {
        let replicas = state.replicas();
        let mut changed = Vec::new();
        for (pair, identity) in identities {
            let Some(entry) = replicas.get(pair).and_then(|replica| state.catalog.get(*replica)) else { continue };
            let (id, before, now) = (entry.id, *entry.uuid.as_bytes(), Uuid::from_bytes(*identity));
            if before == *identity {
                continue;
            }
            if let Some(other) = state.catalog.iter().find(|other| other.uuid == now) {
                tracing::warn!("bdev {} cannot be {now}, as at the other site: bdev {} is", entry.name, other.name);
                continue;
            }
            tracing::info!("bdev {} is {now} to hosts, as at the other site", entry.name);
            state.catalog.set_uuid(id, now);
            state.refresh_namespaces(id, |shown| *shown == before);
            changed.push(id);
        }
        if !changed.is_empty() {
            state.refresh_states(&changed);
            self.publish(state).await;
        }
    }

    pub(super) async fn group_swap(&self, call: &GroupSwap) -> Result<RoleInfo, RpcError> {
        let mut state = self.state().await;
        let group = present_group(&state, &call.name)?;
        if group.role == Role::Secondary {
            return Err(RpcError::wrong_state(format!(
                "group {} is secondary here; call group_swap at the system that is its primary",
                call.name
            )));
        }
        let (core, id) = (group.core, group.id);
        if let Some(given_up) = call.discard_generation.filter(|_| call.abandon == Some(true)) {
            let begun = self.reactor(core).call(move |reactor| {
                reactor
                    .operate(|engine, now, world, ticket| engine.group_swap_abandon(now, id, given_up, ticket, world))
            });
            let ended = begun.await.map_err(operator_error)?;
            drop(state);
            return self.abandoned(ended.wait().await).await;
        }
        // A journal that is given once is the group's from here on.
        let given = match &call.journal {
            Some(journal) if group.call.journal.as_ref() != Some(journal) => {
                Some(self.take_journal(&mut state, &call.name, journal).await?)
            }
            _ => None,
        };
        let begun = self
            .reactor(core)
            .call(move |reactor| {
                reactor.operate(|engine, now, world, ticket| {
                    if let Some(config) = given {
                        engine.offer_secondary(id, config);
                    }
                    engine.group_swap(now, id, ticket, world)
                })
            })
            .await;
        let ended = begun.map_err(operator_error)?;
        drop(state);
        // Hosts are told at once that the access changes, and at once how it ended.
        self.notice_takeovers().await;
        let answer = ended.wait().await;
        self.notice_takeovers().await;
        match answer.map_err(operator_error)? {
            OperatorAnswer::Swapped { generation } => {
                Ok(RoleInfo { role: Role::Secondary, generation: generation.number })
            }
            _ => Err(RpcError::internal("the swap ended with another request's answer")),
        }
    }

    /// Hosts are told at once that they are served here again.
    async fn abandoned(&self, answer: Result<OperatorAnswer, OperatorError>) -> Result<RoleInfo, RpcError> {
        self.notice_takeovers().await;
        match answer.map_err(operator_error)? {
            OperatorAnswer::Abandoned { generation } => {
                Ok(RoleInfo { role: Role::Primary, generation: generation.number })
            }
            _ => Err(RpcError::internal("the end of the swap was answered with another request's answer")),
        }
    }

    pub(super) async fn group_failback(&self, call: &GroupFailback) -> Result<RoleInfo, RpcError> {
        match call.discard_generation {
            Some(discarded) => self.follow_other(call, discarded).await,
            None => self.bring_back(&call.name).await,
        }
    }

    /// At the new primary: copies to the other site what that lacks.
    async fn bring_back(&self, name: &str) -> Result<RoleInfo, RpcError> {
        let state = self.state().await;
        let group = present_group(&state, name)?;
        let id = group.id;
        let generation = self
            .reactor(group.core)
            .call(move |reactor| {
                reactor.engine(|engine, now, world| {
                    engine.group_failback(now, id, world)?;
                    let (primary, world) = engine.primary(world);
                    Ok(primary.group_status(now, id, &world).map_or(0, |status| status.generation.number))
                })
            })
            .await
            .map_err(|error: OperatorError| match error {
                OperatorError::NotFound(_) => RpcError::wrong_state(format!(
                    "group {name} is secondary here; failback is called at the system that took it over, or with \
                     discard_generation at the old primary"
                )),
                error => operator_error(error),
            })?;
        Ok(RoleInfo { role: Role::Primary, generation })
    }

    /// At the old primary: becomes the secondary of the newer generation, or of the other one in split brain.
    async fn follow_other(&self, call: &GroupFailback, discarded: u64) -> Result<RoleInfo, RpcError> {
        let mut state = self.state().await;
        let group = present_group(&state, &call.name)?;
        let (core, id, had) = (group.core, group.id, group.call.journal.clone());
        // Its form was looked at when the call was read.
        let discarded_id = call.discard_id.as_ref().and_then(|id| u64::from_str_radix(id, 16).ok());
        let journal = call.journal.clone().or(had).ok_or_else(|| {
            RpcError::invalid_params("as a secondary the group needs a journal; give the name of a bdev for it")
        })?;
        let config = self.take_journal(&mut state, &call.name, &journal).await?;
        let begun = self
            .reactor(core)
            .call(move |reactor| {
                reactor.operate(|engine, now, world, ticket| match discarded_id {
                    Some(discarded_id) => {
                        engine.group_demote_in_split(now, id, config, (discarded, discarded_id), ticket, world)
                    }
                    None => engine.group_demote(now, id, config, discarded, ticket, world),
                })
            })
            .await;
        let ended = begun.map_err(operator_error)?;
        drop(state);
        let answer = ended.wait().await.map_err(operator_error)?;
        self.notice_takeovers().await;
        match answer {
            OperatorAnswer::Demoted { generation } => {
                Ok(RoleInfo { role: Role::Secondary, generation: generation.number })
            }
            _ => Err(RpcError::internal("the failback ended with another request's answer")),
        }
    }

    /// Makes a bdev the journal of this group, in place of the one it has, and answers what the group is as a secondary. It
    /// stays the group's, also if what it is wanted for is refused: it was named for that.
    async fn take_journal(&self, state: &mut State, name: &str, journal: &str) -> Result<SecondaryGroup, RpcError> {
        let group = group_of(state, name)?;
        let (core, mut call) = (group.core, group.call.clone());
        let is_spill = |(_, holder): &(BdevId, Holder)| matches!(holder, Holder::Spill { .. });
        let (spill, held): (Claims, Claims) = group.claims.clone().into_iter().partition(is_spill);
        state.release_all(&held);
        let claimed = self.claim_for_secondary(state, &call, journal, call.overlay.as_deref(), core).await;
        let (config, claims) = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                for (bdev, holder) in held {
                    let name = state.catalog.get(bdev).map(|entry| entry.name.clone()).unwrap_or_default();
                    // It was this group's a moment ago, under the same lock.
                    drop(state.catalog.claim(&name, holder).map(drop));
                }
                return Err(error);
            }
        };
        call.journal = Some(journal.to_owned());
        if let Some(group) = state.groups.get_mut(name) {
            (group.claims, group.call) = ([spill, claims].concat(), call);
        }
        Ok(config)
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
    /// Whether hosts use a bdev here: the volumes of a secondary wait for takeover.
    pub(super) fn access_of(&self, bdev: BdevId) -> Access {
        let pair = self.pairs.iter().find(|(_, pair)| pair.replica == Some(bdev));
        pair.and_then(|((group, _), _)| self.groups.get(group)).map_or(Access::Here, |group| group.access)
    }

    /// The devices that hosts see, by their pairs.
    pub(super) fn replicas(&self) -> HashMap<PairId, BdevId> {
        self.pairs.values().filter_map(|pair| Some((pair.id, pair.replica?))).collect()
    }

    /// The pairs of a group.
    pub(super) fn pair_ids(&self, group: &str) -> Vec<PairId> {
        self.pairs.iter().filter(|((of, _), _)| of == group).map(|(_, pair)| pair.id).collect()
    }

    /// Whether a taken-over group and all its volumes that are here show themselves as the certificate says.
    fn has_identities(&self, name: &str, certificate: &takeover::LossCertificate) -> bool {
        let replicas = self.replicas();
        let shown = |volume: &takeover::VolumeIdentity| {
            let entry = replicas.get(&volume.pair).and_then(|replica| self.catalog.get(*replica));
            entry.is_none_or(|entry| *entry.uuid.as_bytes() == volume.uuid)
        };
        self.groups.get(name).is_some_and(|group| group.taken_over) && certificate.volumes.iter().all(shown)
    }
}
