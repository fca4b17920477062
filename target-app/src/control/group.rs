//! Consistency groups and their takeover.

use super::budget::send_buffer;
use super::link::link_of;
use super::roles::Access;
use super::shown::{certificate_info, primary_group, secondary_group};
use super::trial::point;
use super::{Caller, Control, State, catalog_error, operator_error, with_trouble};
use crate::reactor::{Engine, Reactor};
use longrun_bdev::BdevId;
use longrun_bdev::catalog::{Entry, Holder, Spec};
use longrun_bdev::replica::World;
use longrun_copy::engine::OperatorError;
use longrun_copy::identity;
use longrun_copy::ports::OperatorAnswer;
use longrun_copy::primary::{self, GroupConfig as PrimaryGroup};
use longrun_copy::role;
use longrun_copy::secondary::{self, GroupConfig as SecondaryGroup, GroupPhase, TakeoverConsent};
use longrun_copy::takeover;
use longrun_copy::types::{self, GroupId, LinkId, Now, PairId, Scope, SystemId, VolumeId};
use longrun_rpc::RpcError;
use longrun_rpc::methods::group::{
    GroupCreate, GroupDelete, GroupGet, GroupInfo, GroupTakeover, LossCertificate, OldPrimary, Overflow, Role,
    SequenceScope,
};
use std::sync::Arc;

/// Bdevs that a group holds.
pub(super) type Claims = Vec<(BdevId, Holder)>;

/// A group as the control plane knows it.
pub struct GroupEntry {
    /// As created.
    pub call: GroupCreate,
    /// The core that it is at home on: its link's, if none was given.
    pub core: usize,
    /// Its identifier.
    pub id: GroupId,
    /// This system's part in it now.
    pub role: Role,
    /// What it claims for its part as a secondary: the journal, and the overlay if it has one.
    pub claims: Claims,
    /// Taken over: the volumes serve hosts here.
    pub taken_over: bool,
    /// Whether hosts are served here.
    pub access: Access,
    /// Its send buffer as a primary, bytes.
    pub buffer_bytes: u64,
    /// Its deletion waits for the journal to be wiped.
    pub is_leaving: bool,
    /// A group of the configuration whose journal (or overlay) could not be had at the start: the engine does not know it,
    /// and why.
    pub failed: Option<String>,
}

impl GroupEntry {
    /// Whether a link serves this group.
    pub fn uses_link(&self, link: &str) -> bool {
        self.call.link_names().contains(&link)
    }
}

/// What the engine says of a group, by role.
pub(super) enum Status {
    Primary(Box<primary::GroupStatus>),
    /// With its pairs' states.
    Secondary(Box<secondary::GroupStatus>, Vec<types::PairState>),
}

/// Of a log's file that was never written, so much is written before the log is used. Others wait meanwhile: about a second on
/// the disks that this is for.
const WRITTEN_OUT_BYTES: u64 = 1 << 30;

/// Has a log's file hold something everywhere, so that a group commit has only its own bytes written: in a file that was made
/// with `truncate` each one would have the file system write down where its new blocks are, too. What lies behind the first
/// gigabyte costs that until the log has come round once.
async fn write_out(entry: &Entry) {
    let Spec::Uring { filename, .. } = entry.spec() else { return };
    let filename = filename.clone();
    let written = tokio::task::spawn_blocking(move || longrun_hal::file::write_out(&filename, WRITTEN_OUT_BYTES)).await;
    match written {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(bytes)) => tracing::info!("{}: {} MiB that nobody had written were written out", entry.name, bytes >> 20),
        Ok(Err(error)) => tracing::warn!("{}: {error}", entry.name),
    }
}

impl Control {
    pub(super) async fn group_create(&self, call: &GroupCreate, caller: Caller) -> Result<String, RpcError> {
        let mut state = self.state().await;
        let name = call.name.as_str().to_owned();
        if state.groups.contains_key(&name) {
            return Err(RpcError::exists("group", &name));
        }
        let links = call.link_names();
        let [link_name] = links.as_slice() else {
            return Err(RpcError::not_supported(format!(
                "{} links are given, and a group has one; give `link`. A link that several cores are to carry is made with \
                 `cores`",
                links.len()
            )));
        };
        let link = link_of(&state, link_name)?;
        let (remote, link_core) = (link.remote, link.core());
        let core = self.core_of(call, link_core, caller)?;
        let link_name = (*link_name).to_owned();
        let link_id = self.link_at(&mut state, &link_name, core).await?;
        let id = GroupId::of_name(&name);
        if caller == Caller::Operator {
            self.share_metadata().await;
        }
        // The configuration may be older than a takeover, a failback or a swap: metadata decides.
        let recorded = match caller {
            Caller::Operator => None,
            Caller::Configuration => {
                let ask = move |reactor: &mut Reactor| reactor.engine(|_, _, world| role::recorded(id, world));
                self.reactor(core).call(ask).await
            }
        };
        let part = recorded.map_or(call.role, role_info);
        let taken_over = part == Role::Secondary && caller == Caller::Configuration && {
            let ask = move |reactor: &mut Reactor| reactor.engine(|_, _, world| role::was_taken_over(id, world));
            self.reactor(core).call(ask).await
        };
        let taken = state.groups.values().filter(|group| group.core == core).map(|group| group.buffer_bytes).sum();
        let buffer_bytes = send_buffer(call, self.memory_bytes(core), taken, caller)?;
        let entry = |claims, failed| GroupEntry {
            call: call.clone(),
            core,
            id,
            role: part,
            claims,
            taken_over: false,
            access: Access::at_start(part),
            buffer_bytes,
            is_leaving: false,
            failed,
        };
        let (spill, mut claims) = self.claim_spill(&mut state, call, core).await?;
        let as_primary = PrimaryGroup { spill, buffer_bytes, ..primary_config(call, link_id, remote) };
        let as_secondary = match &call.journal {
            None => None,
            Some(journal) => {
                match self.claim_for_secondary(&mut state, call, journal, call.overlay.as_deref(), core).await {
                    Ok((config, more)) => {
                        claims.extend(more);
                        Some(config)
                    }
                    Err(error) if caller == Caller::Operator => {
                        state.release_all(&claims);
                        return Err(error);
                    }
                    // With the start stopped nothing at all would be served, and nobody could be asked why.
                    Err(error) => {
                        let text = match missing_device(&state, call) {
                            Some(reason) => format!("{reason}; bring it back and start again"),
                            None => error.message,
                        };
                        match part {
                            Role::Primary => {
                                tracing::warn!("group {name} has no journal to become a secondary with: {text}");
                                None
                            }
                            // Its volumes serve hosts without it.
                            Role::Secondary if taken_over => {
                                tracing::warn!(
                                    "group {name}, which was taken over, has no journal to become a secondary with: {text}"
                                );
                                None
                            }
                            Role::Secondary => {
                                state.release_all(&claims);
                                tracing::warn!("group {name} is not taken up: {text}");
                                state.groups.insert(name.clone(), entry(Claims::new(), Some(text)));
                                return Ok(name);
                            }
                        }
                    }
                }
            }
        };
        self.route_group(&state, &link_name, id, Some(core)).await;
        let created = self
            .reactor(core)
            .call(move |reactor| {
                reactor.engine(|engine, now, world| match (part, as_secondary) {
                    (Role::Primary, as_secondary) => {
                        let (primary, mut world) = engine.primary(world);
                        primary.group_create(now, as_primary, &mut world)?;
                        if let Some(config) = as_secondary {
                            engine.offer_secondary(id, config);
                        }
                        Ok(())
                    }
                    (Role::Secondary, Some(config)) => {
                        let (secondary, mut world) = engine.secondary(world);
                        secondary.group_create(now, config, &mut world)?;
                        engine.offer_primary(id, as_primary);
                        Ok(())
                    }
                    (Role::Secondary, None) if taken_over => {
                        let (secondary, mut world) = engine.secondary(world);
                        secondary.group_take_up(now, &as_primary.name, &mut world)?;
                        engine.offer_primary(id, as_primary);
                        Ok(())
                    }
                    (Role::Secondary, None) => Err(OperatorError::Invalid(
                        "this side became the group's secondary, and `journal` is missing; give the bdev that it had"
                            .into(),
                    )),
                })
            })
            .await;
        if let Err(error) = created {
            state.release_all(&claims);
            self.route_group(&state, &link_name, id, None).await;
            return Err(operator_error(error));
        }
        state.groups.insert(name.clone(), entry(claims, None));
        Ok(name)
    }

    /// The core that a group is to be at home on.
    fn core_of(&self, call: &GroupCreate, link_core: usize, caller: Caller) -> Result<usize, RpcError> {
        let core = call.core.map_or(link_core, usize::from);
        let there = self.cores.len();
        if core >= there && caller == Caller::Configuration {
            tracing::warn!(
                "group {} is to be on core {core}, and this system has cores 0 to {}: it is on its link's, {link_core}",
                call.name.as_str(),
                there - 1
            );
            return Ok(link_core);
        }
        if core >= there {
            return Err(RpcError::invalid_params(format!(
                "core {core} is given, this system has cores 0 to {}: give one of these, or start it with more (longrun \
                 serve --cores)",
                there - 1
            )));
        }
        if core != link_core && call.sequence_scope() == SequenceScope::System {
            return Err(RpcError::invalid_params(format!(
                "core {core} is given, and with sequence_scope \"system\" all groups of a link share a stream, which is on \
                 the link's core, {link_core}: leave `core` out"
            )));
        }
        Ok(core)
    }

    /// Claims what a group spills to as a primary, if it does.
    async fn claim_spill(
        &self,
        state: &mut State,
        call: &GroupCreate,
        core: usize,
    ) -> Result<(Option<(VolumeId, types::Geometry)>, Claims), RpcError> {
        let Some(spill) = &call.spill else { return Ok((None, Claims::new())) };
        let entry = self.bring_home(state, spill, core).await?;
        let holder = Holder::Spill { group: call.name.as_str().to_owned() };
        state.catalog.claim(&entry.name, holder.clone()).map_err(catalog_error)?;
        write_out(&entry).await;
        Ok((Some((VolumeId(entry.id.0), entry.geometry)), vec![(entry.id, holder)]))
    }

    /// Claims what a group needs as a secondary, and brings it to the group's core.
    pub(super) async fn claim_for_secondary(
        &self,
        state: &mut State,
        call: &GroupCreate,
        journal: &str,
        overlay: Option<&str>,
        core: usize,
    ) -> Result<(SecondaryGroup, Claims), RpcError> {
        let name = call.name.as_str().to_owned();
        let journal = self.bring_home(state, journal, core).await?;
        let overlay = match overlay {
            Some(overlay) => Some(self.bring_home(state, overlay, core).await?),
            None => None,
        };
        let config = SecondaryGroup {
            name: name.clone(),
            journal: VolumeId(journal.id.0),
            journal_geometry: journal.geometry,
            overlay: overlay.as_ref().map(|overlay| (VolumeId(overlay.id.0), overlay.geometry)),
            apply_delay_ns: call.apply_delay_s.unwrap_or(0).saturating_mul(1_000_000_000),
        };
        let mut wanted = vec![(journal, Holder::Journal { group: name.clone() })];
        wanted.extend(overlay.map(|overlay| (overlay, Holder::Overlay { group: name })));
        let mut claims = Claims::new();
        for (entry, holder) in wanted {
            if let Err(error) = state.catalog.claim(&entry.name, holder.clone()) {
                state.release_all(&claims);
                return Err(catalog_error(error));
            }
            // Nobody else writes to it from here on, and the engine does not know it yet.
            write_out(&entry).await;
            claims.push((entry.id, holder));
        }
        Ok((config, claims))
    }

    /// The bdev of this name, which nobody holds, moved to a group's core.
    async fn bring_home(&self, state: &mut State, name: &str, core: usize) -> Result<Entry, RpcError> {
        let entry = state.catalog.free(name).map_err(catalog_error)?.clone();
        self.move_home(state, &entry, core).await?;
        Ok(entry)
    }

    pub(super) async fn group_delete(&self, call: &GroupDelete) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let group = staying_group(&state, &call.name)?;
        if let Some((_, pair)) = state.pairs.keys().find(|(group, _)| *group == call.name) {
            return Err(RpcError::busy("group", &call.name, &format!("pair {pair}; pair_delete it")));
        }
        if state.tests.contains_key(&call.name) {
            return Err(RpcError::busy("group", &call.name, "its test; group_test_stop it"));
        }
        let (core, id) = (group.core, group.id);
        // A group that was taken over here has both parts: the secondary's record says so, the primary copies.
        let begun = self
            .reactor(core)
            .call(move |reactor| {
                if !reactor.engine(|engine, now, world| engine.secondary(world).0.group_status(now, id).is_some()) {
                    return None;
                }
                Some(reactor.operate(|engine, now, world, ticket| {
                    engine.withdraw_primary(id);
                    let (secondary, mut world) = engine.secondary(world);
                    secondary.group_delete(now, id, ticket, &mut world)
                }))
            })
            .await;
        if let Some(begun) = begun {
            let ended = begun.map_err(operator_error)?;
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
        self.reactor(core)
            .call(move |reactor| {
                reactor.engine(|engine, now, world| match engine.role(id) {
                    Some(role::Role::Primary) => {
                        let (primary, mut world) = engine.primary(world);
                        primary.group_delete(now, id, &mut world)
                    }
                    _ => Ok(()),
                })
            })
            .await
            .map_err(operator_error)?;
        if let Some(group) = state.groups.remove(&call.name) {
            if let Some(link) = group.call.link_names().first() {
                self.route_group(&state, link, id, None).await;
            }
            state.release_all(&group.claims);
        }
        Ok(true)
    }

    /// Lets every core know what the others have written to the metadata: a group that is made again finds on its new core
    /// what it left on its old one.
    async fn share_metadata(&self) {
        for from in 0..self.cores.len() {
            let news = Arc::new(self.reactor(from).call(|reactor| reactor.core().0.metadata_news()).await);
            for to in (0..self.cores.len()).filter(|to| *to != from && !news.is_empty()) {
                let news = Arc::clone(&news);
                self.reactor(to).call(move |reactor| reactor.core().0.learn_metadata(&news)).await;
            }
        }
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
            let (id, pairs) = (group.id, state.pair_ids(&name));
            let (now, status, taken, identities, sizes, test) = self
                .reactor(group.core)
                .call(move |reactor| {
                    reactor.engine(|engine, now, world| {
                        let known = |pair: PairId| Some((pair, identity::of_pair(pair, world)?));
                        let identities: Vec<_> = pairs.iter().copied().filter_map(known).collect();
                        let size = |pair: PairId| Some((pair, size_of(engine, now, world, id, pair)?));
                        let sizes: Vec<_> = pairs.into_iter().filter_map(size).collect();
                        let test = engine.secondary(world).0.test_status(now, id);
                        let status = status_of(engine, now, world, id);
                        (now, status, takeover_of(engine, world, id), identities, sizes, test)
                    })
                })
                .await;
            let Some(status) = status else {
                if let Some((group, reason)) = state.groups.get(&name).and_then(|it| Some((it, it.failed.clone()?))) {
                    let status = secondary::GroupStatus::failed(&name, reason);
                    infos.push(secondary_group(&state, group, now, &status, &[]));
                }
                continue;
            };
            self.note_part(&mut state, &name, now, &status, taken).await;
            self.note_identities(&mut state, &identities).await;
            self.note_sizes(&mut state, &sizes).await;
            let Some(group) = state.groups.get(&name) else { continue };
            let mut info = match status {
                Status::Primary(status) => primary_group(&state, group, now, &status),
                Status::Secondary(status, pairs) => secondary_group(&state, group, now, &status, &pairs),
            };
            info.test = state.test_info(&name, test.as_ref());
            infos.push(info);
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
        let at = point(call.at.as_ref());
        let state = self.state().await;
        let group = present_group(&state, &call.name)?;
        let (id, core) = (group.id, group.core);
        let has_secondary = move |reactor: &mut Reactor| {
            reactor.engine(|engine, now, world| engine.secondary(world).0.group_status(now, id).is_some())
        };
        if !self.reactor(core).call(has_secondary).await {
            return Err(RpcError::wrong_state(format!(
                "group {} is primary here; call group_takeover at the system that is its secondary",
                call.name
            )));
        }
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
        let taken = self
            .reactor(core)
            .call(move |reactor| reactor.engine(|engine, _, world| takeover_of(engine, world, id)))
            .await;
        let split_accepted = taken.is_some_and(|taken| taken.split_accepted);
        let mut state = self.state().await;
        self.adopt_identities(&mut state, &call.name, &certificate).await;
        let clock_error_ns = self.reactor(0).call(|reactor| reactor.now().error_bound_ns).await;
        Ok(certificate_info(&state, &call.name, &certificate, clock_error_ns, split_accepted))
    }

    /// The names of secondary groups that do not know yet whether they were taken over: their journals are being read, or
    /// a takeover that a crash interrupted is being finished.
    pub async fn undecided_groups(&self) -> Vec<String> {
        let state = self.state().await;
        let mut names = Vec::new();
        for (name, group) in &state.groups {
            let id = group.id;
            let phase = self
                .reactor(group.core)
                .call(move |reactor| {
                    reactor.engine(|engine, now, world| {
                        engine.secondary(world).0.group_status(now, id).map(|status| status.phase)
                    })
                })
                .await;
            if matches!(phase, Some(GroupPhase::Opening | GroupPhase::TakingOver)) {
                names.push(name.clone());
            }
        }
        names
    }
}

impl State {
    pub(super) fn release_all(&mut self, claims: &[(BdevId, Holder)]) {
        for (bdev, holder) in claims {
            self.catalog.release(*bdev, holder);
        }
    }
}

pub(super) fn group_of<'a>(state: &'a State, name: &str) -> Result<&'a GroupEntry, RpcError> {
    state.groups.get(name).ok_or_else(|| RpcError::not_found("group", name, "group_get"))
}

/// A group that is not being deleted, and that the engine has.
pub(super) fn present_group<'a>(state: &'a State, name: &str) -> Result<&'a GroupEntry, RpcError> {
    let group = staying_group(state, name)?;
    match &group.failed {
        Some(reason) => Err(RpcError::wrong_state(format!("group {name} was not taken up at the start: {reason}"))),
        None => Ok(group),
    }
}

/// Why a device of the group's secondary is missing, if that is what it is.
fn missing_device(state: &State, call: &GroupCreate) -> Option<String> {
    let named = [("journal", call.journal.as_deref()), ("overlay", call.overlay.as_deref())];
    named.into_iter().find_map(|(what, name)| {
        let reason = state.absent_reason(name?)?;
        Some(format!("its {what} is missing: {reason}"))
    })
}

/// A group that is not being deleted.
fn staying_group<'a>(state: &'a State, name: &str) -> Result<&'a GroupEntry, RpcError> {
    let group = group_of(state, name)?;
    if group.is_leaving {
        return Err(RpcError::busy("group", name, "its own deletion, which wipes the journal"));
    }
    Ok(group)
}

/// What the engine says of a group in the part that it has now.
fn status_of(engine: &mut Engine, now: Now, world: &mut World<'_>, id: GroupId) -> Option<Status> {
    match engine.role(id)? {
        role::Role::Primary => {
            let (primary, world) = engine.primary(world);
            primary.group_status(now, id, &world).map(|status| Status::Primary(Box::new(status)))
        }
        role::Role::Secondary => {
            let (secondary, _) = engine.secondary(world);
            let status = secondary.group_status(now, id)?;
            let pairs = status.pairs.iter().filter_map(|pair| secondary.pair_status(now, *pair));
            let states = pairs.map(|pair| pair.state).collect();
            Some(Status::Secondary(Box::new(status), states))
        }
    }
}

/// How large a pair's volume is to hosts.
fn size_of(
    engine: &mut Engine,
    now: Now,
    world: &mut World<'_>,
    group: GroupId,
    pair: PairId,
) -> Option<types::Geometry> {
    match engine.role(group)? {
        role::Role::Primary => engine.primary(world).0.pair_status(now, pair).map(|status| status.geometry),
        role::Role::Secondary => engine.secondary(world).0.pair_status(now, pair).map(|status| status.geometry),
    }
}

/// A takeover that is complete.
pub(super) struct Taken {
    pub certificate: takeover::LossCertificate,
    pub split_accepted: bool,
}

pub(super) fn takeover_of(engine: &mut Engine, world: &mut World<'_>, id: GroupId) -> Option<Taken> {
    let (certificate, split_accepted) = engine.secondary(world).0.taken_over(id)?;
    Some(Taken { certificate: certificate.clone(), split_accepted })
}

/// What a group is while it is primary here.
fn primary_config(call: &GroupCreate, link: LinkId, remote: SystemId) -> PrimaryGroup {
    PrimaryGroup {
        name: call.name.as_str().to_owned(),
        scope: scope_of(call.sequence_scope()),
        link,
        remote,
        throttle_ms_max: call.throttle_ms_max().min(u64::from(u32::MAX)) as u32,
        buffer_bytes: call.buffer_bytes(),
        overflow: match call.overflow.unwrap_or_default() {
            Overflow::Throttle => types::Overflow::Throttle,
            Overflow::Suspend => types::Overflow::Suspend,
        },
        spill: None,
        copy_bytes_per_s: call.copy_mib_per_s.map(|mib| mib.get().saturating_mul(1 << 20)),
    }
}

pub(super) fn role_info(role: role::Role) -> Role {
    match role {
        role::Role::Primary => Role::Primary,
        role::Role::Secondary => Role::Secondary,
    }
}

fn scope_of(scope: SequenceScope) -> Scope {
    match scope {
        SequenceScope::Pair => Scope::Pair,
        SequenceScope::System => Scope::System,
        SequenceScope::Group => Scope::Group,
    }
}
