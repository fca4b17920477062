//! The process itself: reactors, configuration, methods, version, log, end.

use super::bdev::TICK_RATE_HZ;
use super::nvmf::thread_name;
use super::{Caller, Control, State};
use longrun_bdev::catalog::Kind;
use longrun_copy::account::{self, STEPS, Step, Tally};
use longrun_hal::clock::cycles_per_s;
use longrun_nvmf::target::{AnaGroup, AnaState, Namespace, Subsystem};
use longrun_rpc::RpcError;
use longrun_rpc::config::{Config, ConfigCall, SUBSYSTEMS};
use longrun_rpc::methods::framework::{
    Accounts, FrameworkGetConfig, FrameworkGetReactors, FrameworkGetSubsystems, FrameworkStartInit, FrameworkSubsystem,
    FrameworkWaitInit, LogGetLevel, LogLevel, LogSetLevel, LwThread, Reactor, Reactors, RpcGetMethods, Signal,
    SpdkGetVersion, SpdkKillInstance, StepAccount, Version,
};
use longrun_rpc::methods::{Method, to_params};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use tracing_subscriber::filter::LevelFilter;
use uuid::Uuid;

/// Changes how much is logged while the process runs.
#[derive(Clone)]
pub struct LogLevelSwitch {
    level: Arc<Mutex<LogLevel>>,
    set: Arc<dyn Fn(LevelFilter) + Send + Sync>,
}

impl LogLevelSwitch {
    /// A switch that calls `set` with each new filter.
    pub fn new(set: impl Fn(LevelFilter) + Send + Sync + 'static) -> LogLevelSwitch {
        LogLevelSwitch { level: Arc::default(), set: Arc::new(set) }
    }

    fn level(&self) -> LogLevel {
        *self.level.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set(&self, level: LogLevel) {
        *self.level.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = level;
        (self.set)(match level {
            LogLevel::Disabled => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warning => LevelFilter::WARN,
            LogLevel::Notice | LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        });
    }
}

fn accounts_of(tallies: &[Tally; STEPS]) -> Accounts {
    let account = |(step, tally): (Step, &Tally)| StepAccount {
        step: step.name().to_owned(),
        entered: tally.entered,
        cycles: tally.cycles,
    };
    Accounts { cycles_per_s: cycles_per_s() as u64, steps: Step::ALL.into_iter().zip(tallies).map(account).collect() }
}

impl Control {
    pub(super) async fn framework_get_reactors(&self, _: &FrameworkGetReactors) -> Result<Reactors, RpcError> {
        let mut reactors = Vec::new();
        for (index, core) in self.cores.iter().enumerate() {
            let (stats, adaptive, is_polled) =
                core.reactor.call(|reactor| (reactor.stats(), reactor.is_adaptive(), reactor.is_polled())).await;
            let tallies = core.reactor.call(|_| account::read()).await;
            reactors.push(Reactor {
                lcore: core.processor as u32,
                tid: core.tid,
                busy: stats.busy_ns,
                idle: stats.idle_ns,
                in_interrupt: adaptive,
                io: if is_polled { "sqpoll" } else { "enter" }.to_owned(),
                enters: stats.enters,
                allocations: stats.allocations,
                accounts: tallies.map(|tallies| accounts_of(&tallies)),
                lw_threads: vec![LwThread { name: thread_name(index), id: index as u64 + 1 }],
            });
        }
        Ok(Reactors { tick_rate: TICK_RATE_HZ, pid: std::process::id(), reactors })
    }

    pub(super) async fn framework_get_subsystems(
        &self,
        _: &FrameworkGetSubsystems,
    ) -> Result<Vec<FrameworkSubsystem>, RpcError> {
        Ok(SUBSYSTEMS
            .iter()
            .map(|(name, needs)| FrameworkSubsystem {
                subsystem: (*name).to_owned(),
                depends_on: needs.iter().map(|need| (*need).to_owned()).collect(),
            })
            .collect())
    }

    pub(super) async fn framework_get_config(
        &self,
        call: &FrameworkGetConfig,
    ) -> Result<Option<Vec<ConfigCall>>, RpcError> {
        match self.config_of(&*self.state().await, &call.name) {
            Some(calls) => Ok(Some(calls)),
            None => {
                let known: Vec<&str> = SUBSYSTEMS.iter().map(|(name, _)| *name).collect();
                Err(RpcError::invalid_params(format!(
                    "there is no subsystem {:?}; expected one of {}",
                    call.name,
                    known.join(", ")
                )))
            }
        }
    }

    /// The calls that make a part of the configuration again; `None` if there is no such part.
    pub(super) fn config_of(&self, state: &State, subsystem: &str) -> Option<Vec<ConfigCall>> {
        Some(match subsystem {
            "log" => vec![config_call(&LogSetLevel { level: self.log.level() })],
            "bdev" => devices_config(state).0,
            "link" => state.links.values().map(|link| config_call(&link.call)).collect(),
            "group" => state.groups.values().map(|group| config_call(&group.call)).collect(),
            "pair" => devices_config(state).1,
            "nvmf" => nvmf_config(state),
            _ => return None,
        })
    }

    pub(super) async fn framework_start_init(&self, _: &FrameworkStartInit) -> Result<bool, RpcError> {
        // Longrun starts by itself; a script that asks for it is right in the end.
        Ok(true)
    }

    pub(super) async fn framework_wait_init(&self, _: &FrameworkWaitInit) -> Result<bool, RpcError> {
        Ok(true)
    }

    pub(super) async fn rpc_get_methods(&self, call: &RpcGetMethods) -> Result<Vec<String>, RpcError> {
        Ok(call.answer())
    }

    pub(super) async fn spdk_get_version(&self, _: &SpdkGetVersion) -> Result<Version, RpcError> {
        Ok(Version::current())
    }

    pub(super) async fn spdk_kill_instance(&self, call: &SpdkKillInstance) -> Result<bool, RpcError> {
        match call.sig_name {
            Signal::Int | Signal::Term => {
                self.stop.notify_one();
                Ok(true)
            }
            // As the signal would: at once, with nothing put in order.
            Signal::Kill => std::process::exit(128 + libc::SIGKILL),
            other => Err(RpcError::not_supported(format!(
                "{} does nothing here; SIGTERM and SIGINT end the process in good order, SIGKILL at once",
                other.name()
            ))),
        }
    }

    pub(super) async fn log_set_level(&self, call: &LogSetLevel) -> Result<bool, RpcError> {
        self.log.set(call.level);
        Ok(true)
    }

    pub(super) async fn log_get_level(&self, _: &LogGetLevel) -> Result<LogLevel, RpcError> {
        Ok(self.log.level())
    }

    /// Carries out a configuration, call by call; stops at the first that fails and says which.
    pub async fn configure(self: &Arc<Self>, text: &[u8]) -> Result<(), String> {
        let (_, calls) = Config::parse(text).map_err(|error| error.to_string())?;
        for (index, call) in calls.into_iter().enumerate() {
            let method = call.method();
            self.carry_out(call, Caller::Configuration)
                .await
                .map_err(|error| format!("call {} ({method}): {}", index + 1, error.message))?;
        }
        // Once for all pairs; hosts are admitted later.
        self.notice_takeovers().await;
        Ok(())
    }
}

pub(super) fn config_call<M: Method>(params: &M) -> ConfigCall {
    ConfigCall { method: M::NAME.to_owned(), params: to_params(params) }
}

/// The calls that make the bdevs again and those that make the pairs, each in the order in which things were made. A bdev
/// that stands on a pair's replica device can only be made after that pair, so it is among the second. Pairs that could not
/// be taken up stay configured: the next start may find what they lack.
fn devices_config(state: &State) -> (Vec<ConfigCall>, Vec<ConfigCall>) {
    let mut bdevs = state.catalog.config().into_iter();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut late = HashSet::new();
    let pairs: HashMap<_, _> = state.pairs.values().filter_map(|pair| Some((pair.replica?, pair))).collect();
    for entry in state.catalog.iter() {
        // A test ends with the process, and so does what stands on it.
        if state.is_of_test(entry.id) {
            if entry.kind != Kind::View {
                bdevs.next();
            }
            continue;
        }
        if entry.kind == Kind::Replica {
            late.insert(entry.id);
            second.extend(pairs.get(&entry.id).map(|pair| config_call(&pair.call)));
            continue;
        }
        let Some((method, params)) = bdevs.next() else { break };
        let call = ConfigCall { method: method.to_owned(), params };
        if entry.base.is_some_and(|base| late.contains(&base)) {
            late.insert(entry.id);
            second.push(call);
        } else {
            first.push(call);
        }
    }
    first.extend(state.absent.iter().map(|absent| absent.call.clone()));
    second.extend(state.pairs.values().filter(|pair| pair.replica.is_none()).map(|pair| config_call(&pair.call)));
    (first, second)
}

/// The calls that make the target again, from what it is.
fn nvmf_config(state: &State) -> Vec<ConfigCall> {
    let raw = |method: &str, params: Value| ConfigCall { method: method.to_owned(), params };
    let mut calls: Vec<ConfigCall> = state.transport.iter().map(config_call).collect();
    let listen = |address: &std::net::SocketAddr| json!(longrun_rpc::methods::nvmf::ListenAddress::from(*address));
    for address in &state.target.discovery_listeners {
        let params = json!({"nqn": longrun_nvmf::DISCOVERY_NQN, "listen_address": listen(address)});
        calls.push(raw("nvmf_subsystem_add_listener", params));
    }
    for subsystem in state.target.subsystems.values() {
        let nqn = subsystem.nqn.as_str();
        calls.push(raw("nvmf_create_subsystem", subsystem_params(subsystem)));
        for host in &subsystem.hosts {
            calls.push(raw("nvmf_subsystem_add_host", json!({"nqn": nqn, "host": host.as_str()})));
        }
        let is_kept = |namespace: &&Namespace| !state.is_of_test(crate::reactor::bdev_of(namespace.bdev).1);
        for namespace in subsystem.namespaces.values().filter(is_kept) {
            let params = json!({"nqn": nqn, "namespace": namespace_params(state, namespace)});
            calls.push(raw("nvmf_subsystem_add_ns", params));
        }
        calls.extend(state.withheld.iter().filter(|withheld| withheld.nqn == nqn).map(config_call));
        for address in &subsystem.listeners {
            let (all, single) = subsystem.ana.of_listener(address);
            let mut params = json!({"nqn": nqn, "listen_address": listen(address)});
            if all != AnaState::Optimized {
                params["ana_state"] = json!(super::ana::shown(all));
            }
            calls.push(raw("nvmf_subsystem_add_listener", params));
            for (group, state) in single {
                let state = super::ana::shown(state);
                let listen_address = listen(address);
                let params = json!({
                    "nqn": nqn, "listen_address": listen_address, "ana_state": state, "anagrpid": group.get(),
                });
                calls.push(raw("nvmf_subsystem_listener_set_ana_state", params));
            }
        }
    }
    calls
}

fn subsystem_params(subsystem: &Subsystem) -> Value {
    json!({
        "nqn": subsystem.nqn.as_str(),
        "serial_number": subsystem.serial.as_str(),
        "model_number": subsystem.model.as_str(),
        "max_namespaces": subsystem.namespaces_max,
        "allow_any_host": subsystem.allow_any_host,
        "ana_reporting": subsystem.ana.reporting,
        "min_cntlid": subsystem.cntlid_min,
        "max_cntlid": subsystem.cntlid_max,
    })
}

/// Identities that are the bdev's own are left out: a takeover changes them, and the next start must not bring the old
/// ones back.
fn namespace_params(state: &State, namespace: &Namespace) -> Value {
    let bdev = state.catalog.get(crate::reactor::bdev_of(namespace.bdev).1);
    let own = bdev.map(|bdev| *bdev.uuid.as_bytes());
    let mut params = json!({
        "bdev_name": bdev.map(|bdev| bdev.name.as_str()),
        "nsid": namespace.nsid.get(),
    });
    if Some(namespace.uuid) != own {
        params["uuid"] = json!(Uuid::from_bytes(namespace.uuid));
    }
    if namespace.ana_group != AnaGroup::of(namespace.nsid) {
        params["anagrpid"] = json!(namespace.ana_group.get());
    }
    if namespace.nguid != namespace.uuid {
        params["nguid"] = json!(longrun_rpc::types::Nguid::from(namespace.nguid));
    }
    if let Some(eui64) = namespace.eui64 {
        params["eui64"] = json!(longrun_rpc::types::Eui64::from(eui64));
    }
    params
}
