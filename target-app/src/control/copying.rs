//! What operators ask of a primary group that exists: suspend, resync, bookmark, verify.

use super::group::{GroupEntry, present_group};
use super::{Control, State, operator_error};
use crate::reactor::Engine;
use longrun_bdev::replica::World;
use longrun_copy::engine::OperatorError;
use longrun_copy::ports::OperatorAnswer;
use longrun_copy::types::{GroupId, Now};
use longrun_rpc::RpcError;
use longrun_rpc::methods::group::{GroupBookmark, GroupResync, GroupSuspend, GroupVerify, Role, SuspendInfo};
use longrun_rpc::methods::progress::BookmarkInfo;

impl Control {
    pub(super) async fn group_suspend(&self, call: &GroupSuspend) -> Result<SuspendInfo, RpcError> {
        let ended = {
            let state = self.state().await;
            let (core, id) = primary_of(&state, &call.name, "group_suspend")?;
            self.reactor(core)
                .call(move |reactor| {
                    reactor.operate(|engine, now, world, ticket| {
                        let (primary, mut world) = engine.primary(world);
                        primary.group_suspend(now, id, ticket, &mut world)
                    })
                })
                .await
                .map_err(operator_error)?
        };
        // What was stamped still travels to the secondary; others are served meanwhile.
        match ended.wait().await.map_err(operator_error)? {
            OperatorAnswer::Suspended { at, drained } => Ok(SuspendInfo { at_ns: at.0, drained }),
            _ => Err(RpcError::internal("the suspension ended with another request's answer")),
        }
    }

    pub(super) async fn group_resync(&self, call: &GroupResync) -> Result<bool, RpcError> {
        let full = call.full.unwrap_or(false);
        self.of_primary(&call.name, "group_resync", move |engine, now, world, id| {
            let (primary, mut world) = engine.primary(world);
            primary.group_resync(now, id, full, &mut world)
        })
        .await?;
        Ok(true)
    }

    pub(super) async fn group_bookmark(&self, call: &GroupBookmark) -> Result<BookmarkInfo, RpcError> {
        let name = call.bookmark.as_str().to_owned();
        let bookmark = name.clone();
        let time = self
            .of_primary(&call.name, "group_bookmark", move |engine, now, world, id| {
                let (primary, mut world) = engine.primary(world);
                primary.group_bookmark(now, id, &bookmark, &mut world)
            })
            .await?;
        Ok(BookmarkInfo { name, time_ns: time.0 })
    }

    pub(super) async fn group_verify(&self, call: &GroupVerify) -> Result<bool, RpcError> {
        let pair = match &call.pair {
            None => None,
            Some(pair) => {
                let state = self.state().await;
                primary_of(&state, &call.name, "group_verify")?;
                let found = state.pairs.get(&(call.name.clone(), pair.clone()));
                let missing = || RpcError::not_found(&format!("pair of group {}", call.name), pair, "pair_get");
                Some(found.ok_or_else(missing)?.id)
            }
        };
        let repair = call.repair.unwrap_or(false);
        self.of_primary(&call.name, "group_verify", move |engine, now, world, id| {
            let (primary, mut world) = engine.primary(world);
            primary.group_verify(now, id, pair, repair, &mut world)
        })
        .await?;
        Ok(true)
    }

    /// Asks the engine something about a group that is primary here, and has the answer at once.
    async fn of_primary<T: Send + 'static>(
        &self,
        name: &str,
        method: &str,
        ask: impl FnOnce(&mut Engine, Now, &mut World<'_>, GroupId) -> Result<T, OperatorError> + Send + 'static,
    ) -> Result<T, RpcError> {
        let state = self.state().await;
        let (core, id) = primary_of(&state, name, method)?;
        self.reactor(core)
            .call(move |reactor| reactor.engine(|engine, now, world| ask(engine, now, world, id)))
            .await
            .map_err(operator_error)
    }
}

/// Core and identifier of a group that is primary here.
fn primary_of(state: &State, name: &str, method: &str) -> Result<(usize, GroupId), RpcError> {
    let group: &GroupEntry = present_group(state, name)?;
    if group.role == Role::Secondary {
        return Err(RpcError::wrong_state(format!(
            "group {name} is secondary here; call {method} at the system that is its primary"
        )));
    }
    Ok((group.core, group.id))
}
