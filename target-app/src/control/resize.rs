//! Bdevs and pairs that grow.

use super::group::present_group;
use super::pair::pair_of;
use super::{Control, State, catalog_error, operator_error};
use longrun_bdev::BdevId;
use longrun_bdev::catalog::{CatalogError, Holder, Kind};
use longrun_bdev::layer::RescanError;
use longrun_copy::ports::OperatorAnswer;
use longrun_copy::types::{Geometry, PairId};
use longrun_nvmf::Nqn;
use longrun_rpc::RpcError;
use longrun_rpc::methods::bdev::BdevUringRescan;
use longrun_rpc::methods::group::Role;
use longrun_rpc::methods::pair::PairResize;

impl Control {
    pub(super) async fn bdev_uring_rescan(&self, call: &BdevUringRescan) -> Result<u64, RpcError> {
        let mut state = self.state().await;
        let entry = state.catalog.named(&call.name).map_err(catalog_error)?.clone();
        if entry.kind != Kind::Uring {
            let text = format!(
                "bdev {} is a {} bdev; only files and devices grow from outside",
                entry.name,
                entry.kind.name()
            );
            return Err(RpcError::errno(libc::EINVAL, text));
        }
        // A log's place on its device follows from its size.
        if let Some(holder @ (Holder::Journal { .. } | Holder::Overlay { .. } | Holder::Spill { .. })) = &entry.holder {
            let advice = "a log keeps the size that it was made with";
            return Err(catalog_error(CatalogError::Claimed { name: entry.name, holder: holder.clone(), advice }));
        }
        let id = entry.id;
        let geometry =
            self.reactor(entry.home as usize).call(move |reactor| reactor.core().0.rescan(id)).await.map_err(
                |error| match error {
                    RescanError::Device(errno) => RpcError::errno(errno, format!("bdev {}: {error}", entry.name)),
                    _ => RpcError::errno(libc::EINVAL, format!("bdev {}: {error}", entry.name)),
                },
            )?;
        let mut grown = vec![id];
        // What stands on it, but for a pair, whose size is both sites'.
        while let Some(base) = grown.last() {
            let on_it = state.catalog.iter().find(|entry| entry.base == Some(*base) && entry.kind != Kind::Replica);
            match on_it.map(|entry| entry.id) {
                Some(above) => grown.push(above),
                None => break,
            }
        }
        for bdev in grown {
            self.set_size(&mut state, bdev, geometry.blocks).await;
        }
        self.publish(&mut state).await;
        Ok(geometry.blocks)
    }

    pub(super) async fn pair_resize(&self, call: &PairResize) -> Result<u64, RpcError> {
        let state = self.state().await;
        let group = present_group(&state, &call.group)?;
        let pair = pair_of(&state, &call.group, &call.name)?;
        if group.role == Role::Secondary {
            return Err(RpcError::wrong_state(format!(
                "group {} is secondary here; call pair_resize at the system that is its primary",
                call.group
            )));
        }
        let Some(base) = state.base_of(pair) else {
            return Err(RpcError::wrong_state(format!("pair {} has no volume here; pair_get says why", call.name)));
        };
        let blocks = call.num_blocks.map_or(base.geometry.blocks, |blocks| blocks.get());
        let (id, core) = (pair.id, group.core);
        let begun = self
            .reactor(core)
            .call(move |reactor| {
                reactor.operate(|engine, now, world, ticket| {
                    let (primary, mut world) = engine.primary(world);
                    primary.pair_resize(now, id, blocks, ticket, &mut world)
                })
            })
            .await
            .map_err(operator_error)?;
        drop(state);
        let answer = begun.wait().await;
        // Namespaces follow at once.
        self.notice_takeovers().await;
        match answer.map_err(operator_error)? {
            OperatorAnswer::Resized { blocks } => Ok(blocks),
            _ => Err(RpcError::internal("the resize ended with another request's answer")),
        }
    }

    /// Shows pairs' volumes as large as the engine says that they are.
    pub(super) async fn note_sizes(&self, state: &mut State, sizes: &[(PairId, Geometry)]) {
        let replicas = state.replicas();
        let mut has_changed = false;
        for (pair, geometry) in sizes {
            let Some(entry) = replicas.get(pair).and_then(|replica| state.catalog.get(*replica)) else { continue };
            if entry.geometry.blocks != geometry.blocks {
                let id = entry.id;
                tracing::info!("bdev {} has {} blocks from here on", entry.name, geometry.blocks);
                self.set_size(state, id, geometry.blocks).await;
                has_changed = true;
            }
        }
        if has_changed {
            self.publish(state).await;
        }
    }

    /// Gives a bdev another size, on its core first: a host may use what it is shown. [`Control::publish`] is next.
    async fn set_size(&self, state: &mut State, bdev: BdevId, blocks: u64) {
        let Some(entry) = state.catalog.get(bdev) else { return };
        self.reactor(entry.home as usize).call(move |reactor| reactor.core().0.set_blocks(bdev, blocks)).await;
        state.catalog.set_blocks(bdev, blocks);
        let Some(entry) = state.catalog.get(bdev) else { return };
        let handle = State::handle(entry);
        let nqns: Vec<Nqn> = state.target.subsystems.keys().cloned().collect();
        for nqn in nqns {
            state.target.edit(&nqn, |subsystem| {
                for namespace in subsystem.namespaces.values_mut().filter(|namespace| namespace.bdev == handle) {
                    namespace.blocks = blocks;
                }
            });
        }
    }
}
