//! Test failover: a group's secondary volumes at one moment, as bdevs that hosts may write to, while replication goes on.
//!
//! Nothing of it is configuration: a test ends with the process, and neither its bdevs nor namespaces of them are saved.

use super::group::present_group;
use super::{Control, State, catalog_error, operator_error};
use longrun_bdev::BdevId;
use longrun_bdev::catalog::{Entry, Holder, Kind, Spec};
use longrun_copy::ports::OperatorAnswer;
use longrun_copy::secondary::{TakeoverAt, TestConfig, TestPhase, TestStatus};
use longrun_copy::types::{Time, VolumeId};
use longrun_rpc::RpcError;
use longrun_rpc::methods::group::{GroupTestStart, GroupTestStop, Role, TestInfo, TestState, TestVolume};
use longrun_rpc::types::TakeoverPoint;
use uuid::Uuid;

/// A test as the control plane knows it.
pub struct TestEntry {
    /// The store's name, its bdev and the claim on it.
    store: (String, BdevId, Holder),
    /// The pairs' views.
    views: Vec<BdevId>,
    /// Its end is under way.
    is_leaving: bool,
}

impl Control {
    pub(super) async fn group_test_start(&self, call: &GroupTestStart) -> Result<Vec<TestVolume>, RpcError> {
        let mut state = self.state().await;
        let group = present_group(&state, &call.name)?;
        if group.role == Role::Primary {
            return Err(RpcError::wrong_state(format!(
                "group {} is primary here; call group_test_start at the system that is its secondary",
                call.name
            )));
        }
        if state.tests.contains_key(&call.name) {
            return Err(RpcError::errno(
                libc::EEXIST,
                format!("group {} is under test already; end that with group_test_stop first", call.name),
            ));
        }
        let (core, id) = (group.core, group.id);
        let store = state.catalog.free(&call.store).map_err(catalog_error)?.clone();
        self.move_home(&mut state, &store, core).await?;
        let holder = Holder::TestStore { group: call.name.clone() };
        state.catalog.claim(&store.name, holder.clone()).map_err(catalog_error)?;
        let entry = TestEntry { store: (store.name.clone(), store.id, holder), views: Vec::new(), is_leaving: false };
        state.tests.insert(call.name.clone(), entry);
        let volumes = match self.make_views(&mut state, &call.name, core).await {
            Ok(volumes) => volumes,
            Err(error) => {
                drop(self.forget_test(state, &call.name).await?);
                return Err(error);
            }
        };
        let config =
            TestConfig { store: VolumeId(store.id.0), store_geometry: store.geometry, at: point(call.at.as_ref()) };
        let begun = self
            .reactor(core)
            .call(move |reactor| {
                reactor.operate(|engine, now, world, ticket| {
                    let (secondary, mut world) = engine.secondary(world);
                    secondary.group_test_start(now, id, config, ticket, &mut world)
                })
            })
            .await;
        // Reading what the volumes lack may take a while; others are served meanwhile.
        drop(state);
        let started = match begun {
            Ok(ended) => ended.wait().await,
            Err(error) => Err(error),
        };
        match started {
            Ok(OperatorAnswer::TestStarted { .. }) => Ok(volumes),
            Ok(_) => Err(RpcError::internal("the test ended with another request's answer")),
            Err(error) => {
                let state = self.state().await;
                // Who stops it meanwhile puts it away.
                if state.tests.get(&call.name).is_some_and(|test| !test.is_leaving) {
                    drop(self.forget_test(state, &call.name).await?);
                }
                Err(operator_error(error))
            }
        }
    }

    /// Makes the bdevs of a test's volumes, under identities of their own.
    async fn make_views(&self, state: &mut State, name: &str, core: usize) -> Result<Vec<TestVolume>, RpcError> {
        let pairs = state.pairs.iter().filter(|((group, _), _)| group == name);
        let wanted: Vec<(String, Entry)> = pairs
            .filter_map(|((_, pair), entry)| {
                let replica = state.catalog.get(entry.replica?)?;
                Some((pair.clone(), state.catalog.get(replica.base?)?.clone()))
            })
            .collect();
        let mut volumes = Vec::new();
        for (pair, volume) in wanted {
            let uuid = Uuid::new_v4();
            let view = format!("{}@test", volume.name);
            let spec = Spec::View {
                name: view.clone(),
                group: name.to_owned(),
                pair: pair.clone(),
                num_blocks: volume.geometry.blocks,
                block_size: volume.geometry.block_bytes,
                uuid,
            };
            let created = state.catalog.create(spec, core as u32).map_err(catalog_error)?;
            let device = created.device;
            if let Some(test) = state.tests.get_mut(name) {
                test.views.push(device.id());
            }
            self.reactor(core).call(move |reactor| reactor.core().0.install(device)).await;
            volumes.push(TestVolume { pair, name: view, uuid, nguid: (*uuid.as_bytes()).into() });
        }
        Ok(volumes)
    }

    pub(super) async fn group_test_stop(&self, call: &GroupTestStop) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let group = present_group(&state, &call.name)?;
        let (core, id) = (group.core, group.id);
        let under_test = |state: &State| {
            let test = state.tests.get(&call.name);
            test.map(|test| (test.views.clone(), test.is_leaving)).ok_or_else(|| {
                RpcError::errno(libc::ENODEV, format!("group {} is not under test; group_get shows those", call.name))
            })
        };
        let (views, is_leaving) = under_test(&state)?;
        if is_leaving {
            return Err(RpcError::busy("test of group", &call.name, "its own end"));
        }
        // A namespace must not be left standing on nothing.
        for view in views.iter().filter_map(|view| state.catalog.get(*view)) {
            state.catalog.check_delete(&view.name, Some(Kind::View)).map_err(catalog_error)?;
        }
        if let Some(test) = state.tests.get_mut(&call.name) {
            test.is_leaving = true;
        }
        let begun = self
            .reactor(core)
            .call(move |reactor| {
                reactor.operate(|engine, now, world, ticket| {
                    let (secondary, mut world) = engine.secondary(world);
                    secondary.group_test_stop(now, id, ticket, &mut world)
                })
            })
            .await;
        // What is at the store's medium has to end first.
        drop(state);
        if let Ok(ended) = begun {
            drop(ended.wait().await);
        }
        drop(self.forget_test(self.state().await, &call.name).await?);
        Ok(true)
    }

    /// Puts away a test that the engine does not have: its bdevs, and the claim on its store. Can be called again after it
    /// failed in midway.
    async fn forget_test<'a>(
        &'a self,
        mut state: tokio::sync::MutexGuard<'a, State>,
        name: &str,
    ) -> Result<tokio::sync::MutexGuard<'a, State>, RpcError> {
        if let Some(test) = state.tests.get_mut(name) {
            test.is_leaving = true;
        }
        let views = state.tests.get(name).map(|test| test.views.clone()).unwrap_or_default();
        for view in views {
            let Some(entry) = state.catalog.get(view) else { continue };
            let view_name = entry.name.clone();
            state = match self.take_and_remove(state, &view_name, Kind::View).await {
                Ok(state) => state,
                Err(error) => {
                    if let Some(test) = self.state().await.tests.get_mut(name) {
                        test.is_leaving = false;
                    }
                    return Err(error);
                }
            };
        }
        if let Some(test) = state.tests.remove(name) {
            let (_, store, holder) = &test.store;
            state.catalog.release(*store, holder);
        }
        Ok(state)
    }
}

impl State {
    /// What `group_get` shows of a group's test.
    pub(super) fn test_info(&self, group: &str, status: Option<&TestStatus>) -> Option<TestInfo> {
        let test = self.tests.get(group)?;
        let status = status?;
        Some(TestInfo {
            state: match status.phase {
                TestPhase::Loading => TestState::Loading,
                TestPhase::Ready => TestState::Ready,
                _ => TestState::Failed,
            },
            reason: status.reason.clone(),
            cut_ns: status.cut.0,
            age_ms: status.cut_age_ns.div_ceil(1_000_000),
            store: test.store.0.clone(),
            store_bytes: status.store_bytes,
            store_used_bytes: status.store_used_bytes,
            volumes: test.views.iter().filter_map(|view| Some(self.catalog.get(*view)?.name.clone())).collect(),
        })
    }

    /// Whether the bdev is a test's view, or stands on one: it ends with the process.
    pub(super) fn is_of_test(&self, bdev: BdevId) -> bool {
        let below = |entry: &&Entry| self.catalog.get(entry.base?);
        std::iter::successors(self.catalog.get(bdev), below).any(|entry| entry.kind == Kind::View)
    }
}

/// The moment that an operator named.
pub(super) fn point(at: Option<&TakeoverPoint>) -> TakeoverAt {
    match at {
        None => TakeoverAt::Newest,
        Some(TakeoverPoint::Time(ns)) => TakeoverAt::Time(Time(*ns)),
        Some(TakeoverPoint::Bookmark(name)) => TakeoverAt::Bookmark(name.as_str().to_owned()),
    }
}
