//! The control plane: what operators ask for by RPC, done on the cores.
//!
//! It runs on an ordinary async runtime outside the pinned cores, and may be slow. Everything it knows is in [`State`],
//! behind one lock that is held while a call checks and changes things, and not while it waits for a peer or a disk to
//! finish (a pair being established, a takeover). One file per kind of object; the table below is also the order in which
//! a configuration is carried out.
//!
//! | module | objects |
//! | --- | --- |
//! | [`bdev`] | block devices |
//! | [`link`] | links to other systems |
//! | [`frames`], [`way`] | raw frames of links, and the kernel's routes and neighbours that they need |
//! | [`group`] | consistency groups and their takeover |
//! | [`roles`] | swap, failback, and what hosts are shown while a group's part changes |
//! | [`copying`] | suspend, resync, bookmark and verify of a group |
//! | [`trial`] | test failover: writable views of a group's secondary volumes |
//! | [`pair`] | pairs and their replica devices |
//! | [`resize`] | bdevs and pairs that grow |
//! | [`nvmf`] | subsystems, namespaces, listeners, hosts |
//! | [`saving`] | the configuration in the state directory |
//! | [`framework`] | reactors, configuration, log, the process itself |

mod ana;
mod bdev;
mod budget;
mod cntlid;
mod copying;
mod frames;
mod framework;
mod group;
mod link;
mod nvmf;
mod pair;
mod resize;
mod roles;
mod saving;
mod shown;
mod trial;
mod way;

pub use framework::LogLevelSwitch;

use crate::metadata::Health;
use crate::reactor::{ReactorHandle, handle_of};
use crate::saved::Saved;
use longrun_bdev::Catalog;
use longrun_bdev::catalog::CatalogError;
use longrun_copy::engine::OperatorError;
use longrun_hal::Fd;
use longrun_hal::arena::Region;
use longrun_nvmf::target::{BdevHandle, TargetConfig};
use longrun_rpc::methods::nvmf::{NvmfCreateTransport, NvmfSubsystemAddNs};
use longrun_rpc::methods::{Call, Method};
use longrun_rpc::{Handler, RpcError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::{Mutex, MutexGuard, Notify};

/// All that operators have made. Objects are kept with the call that made them, which is what `save_config` writes.
#[derive(Default)]
pub struct State {
    catalog: Catalog,
    /// The core that the next bdev without a base gets for its home.
    next_home: usize,
    target: TargetConfig,
    transport: Option<NvmfCreateTransport>,
    /// Addresses that are listened on, and how many subsystems do.
    listeners: BTreeMap<SocketAddr, usize>,
    links: BTreeMap<String, link::LinkEntry>,
    groups: BTreeMap<String, group::GroupEntry>,
    /// By group and name.
    pairs: BTreeMap<(String, String), pair::PairEntry>,
    /// Groups under test.
    tests: BTreeMap<String, trial::TestEntry>,
    /// Listeners of the configuration, bound, whose hosts wait until the start is over.
    held: Vec<(Fd, SocketAddr)>,
    /// Namespaces of the configuration that have no device, because their pair could not be taken up.
    withheld: Vec<NvmfSubsystemAddNs>,
    /// Bdevs of the configuration whose medium could not be had at the start, in its order.
    absent: Vec<bdev::Absent>,
}

/// What the program gives the control plane to work with.
pub struct Control {
    state: Mutex<State>,
    cores: Vec<Core>,
    /// This system's private key, for links without a key file of their own.
    private_key: [u8; 32],
    log: LogLevelSwitch,
    saved: Mutex<Saved>,
    /// What was to be saved could not be written.
    save_is_due: AtomicBool,
    /// Whether metadata can be written.
    health: Health,
    /// Told when an operator ends the process.
    pub stop: Notify,
}

/// A reactor as the control plane sees it.
#[derive(Clone)]
pub struct Core {
    /// The way to it.
    pub reactor: ReactorHandle,
    /// The processor that it is pinned to.
    pub processor: usize,
    /// Its thread, as the kernel numbers it.
    pub tid: Option<u32>,
    /// Its memory for I/O.
    pub memory_bytes: u64,
    /// That memory, for what registers it with the kernel.
    pub region: Region,
}

/// Whether a call comes from an operator, who waits for its end, or from the configuration at start, where what takes
/// long goes on in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// By RPC.
    Operator,
    /// From the configuration file.
    Configuration,
}

/// The RPC socket's way in.
pub struct Operators(pub Arc<Control>);

impl Handler for Operators {
    async fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let call = Call::parse(method, params)?;
        let may_change = saving::may_change(call.method());
        let answer = self.0.carry_out(call, Caller::Operator).await;
        if may_change {
            // A call that failed may have changed something too: a pair whose peer did not answer in time stays.
            let saved = self.0.save().await;
            return answer.and_then(|answer| saved.map(|()| answer));
        }
        answer
    }
}

/// The result of a call, as JSON.
fn answer<M: Method>(_: &M, result: M::Result) -> Result<Value, RpcError> {
    serde_json::to_value(result).map_err(|error| RpcError::internal(error.to_string()))
}

macro_rules! dispatch {
    ($self:ident, $call:ident, $caller:ident, { $($variant:ident => $method:ident $(($extra:ident))? ,)* }) => {
        match $call {
            $( Call::$variant(params) => {
                let result = $self.$method(&params $(, $extra)?).await?;
                answer(&params, result)
            } )*
        }
    };
}

impl Control {
    /// A control plane for these reactors.
    pub fn new(
        cores: Vec<Core>,
        private_key: [u8; 32],
        log: LogLevelSwitch,
        saved: Saved,
        health: Health,
    ) -> Arc<Control> {
        assert!(!cores.is_empty(), "a system has at least one core");
        Arc::new(Control {
            state: Mutex::default(),
            cores,
            private_key,
            log,
            saved: Mutex::new(saved),
            save_is_due: AtomicBool::new(false),
            health,
            stop: Notify::new(),
        })
    }

    /// Carries out one call.
    pub async fn carry_out(self: &Arc<Self>, call: Call, caller: Caller) -> Result<Value, RpcError> {
        dispatch!(self, call, caller, {
            BdevMallocCreate => bdev_malloc_create,
            BdevMallocDelete => bdev_malloc_delete,
            BdevNullCreate => bdev_null_create,
            BdevNullDelete => bdev_null_delete,
            BdevUringCreate => bdev_uring_create(caller),
            BdevUringDelete => bdev_uring_delete,
            BdevUringRescan => bdev_uring_rescan,
            BdevErrorCreate => bdev_error_create(caller),
            BdevErrorDelete => bdev_error_delete,
            BdevErrorInjectError => bdev_error_inject_error,
            BdevDelayCreate => bdev_delay_create(caller),
            BdevDelayDelete => bdev_delay_delete,
            BdevGetBdevs => bdev_get_bdevs,
            BdevGetIostat => bdev_get_iostat,
            NvmfCreateTransport => nvmf_create_transport,
            NvmfGetTransports => nvmf_get_transports,
            NvmfCreateSubsystem => nvmf_create_subsystem,
            NvmfDeleteSubsystem => nvmf_delete_subsystem,
            NvmfGetSubsystems => nvmf_get_subsystems,
            NvmfSubsystemAddNs => nvmf_subsystem_add_ns(caller),
            NvmfSubsystemRemoveNs => nvmf_subsystem_remove_ns,
            NvmfSubsystemAddListener => nvmf_subsystem_add_listener(caller),
            NvmfSubsystemListenerSetAnaState => nvmf_subsystem_listener_set_ana_state,
            NvmfSubsystemRemoveListener => nvmf_subsystem_remove_listener,
            NvmfSubsystemAddHost => nvmf_subsystem_add_host,
            NvmfSubsystemRemoveHost => nvmf_subsystem_remove_host,
            NvmfSubsystemAllowAnyHost => nvmf_subsystem_allow_any_host,
            NvmfSubsystemGetControllers => nvmf_subsystem_get_controllers,
            NvmfSubsystemGetQpairs => nvmf_subsystem_get_qpairs,
            NvmfSubsystemGetListeners => nvmf_subsystem_get_listeners,
            NvmfGetStats => nvmf_get_stats,
            FrameworkGetReactors => framework_get_reactors,
            FrameworkGetSubsystems => framework_get_subsystems,
            FrameworkGetConfig => framework_get_config,
            FrameworkStartInit => framework_start_init,
            FrameworkWaitInit => framework_wait_init,
            RpcGetMethods => rpc_get_methods,
            SpdkGetVersion => spdk_get_version,
            SpdkKillInstance => spdk_kill_instance,
            LogSetLevel => log_set_level,
            LogGetLevel => log_get_level,
            LinkCreate => link_create(caller),
            LinkDelete => link_delete,
            LinkGet => link_get,
            GroupCreate => group_create(caller),
            GroupDelete => group_delete,
            GroupGet => group_get,
            GroupSuspend => group_suspend,
            GroupResync => group_resync,
            GroupBookmark => group_bookmark,
            GroupVerify => group_verify,
            GroupTestStart => group_test_start,
            GroupTestStop => group_test_stop,
            GroupTakeover => group_takeover,
            GroupSwap => group_swap,
            GroupFailback => group_failback,
            PairCreate => pair_create(caller),
            PairDelete => pair_delete,
            PairResize => pair_resize,
            PairGet => pair_get,
        })
    }

    /// The ways to all reactors.
    pub fn handles(&self) -> Vec<ReactorHandle> {
        self.cores.iter().map(|core| core.reactor.clone()).collect()
    }

    async fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().await
    }

    fn reactor(&self, core: usize) -> &ReactorHandle {
        &self.cores[core].reactor
    }

    fn region(&self, core: usize) -> &Region {
        &self.cores[core].region
    }

    fn memory_bytes(&self, core: usize) -> u64 {
        self.cores[core].memory_bytes
    }
}

impl State {
    /// The handle by which the NVMe-oF machines name a bdev.
    fn handle(entry: &longrun_bdev::catalog::Entry) -> BdevHandle {
        handle_of(entry.home as usize, entry.id)
    }
}

/// What keeps everything here from going on comes before what a single object waits for.
fn with_trouble(trouble: &str, reason: Option<String>) -> String {
    reason.map_or_else(|| trouble.to_owned(), |reason| format!("{trouble}; {reason}"))
}

fn catalog_error(error: CatalogError) -> RpcError {
    match &error {
        CatalogError::Invalid { .. } => RpcError::invalid_params(error.to_string()),
        _ => RpcError::errno(error.errno(), error.to_string()),
    }
}

fn operator_error(error: OperatorError) -> RpcError {
    let text = error.to_string();
    match error {
        OperatorError::NotFound(_) => RpcError::errno(libc::ENODEV, text),
        OperatorError::Exists(_) => RpcError::errno(libc::EEXIST, text),
        OperatorError::WrongState(_) => RpcError::wrong_state(text),
        OperatorError::Invalid(_) => RpcError::invalid_params(text),
        OperatorError::TimedOut(_) => RpcError::errno(libc::ETIMEDOUT, text),
        OperatorError::Device(_) => RpcError::errno(libc::EIO, text),
        _ => RpcError::internal(text),
    }
}
