//! Every method: its parameters, its result, and how they are read.
//!
//! A method's parameters are one struct that implements [`Method`]; [`Call::parse`] turns a name and a JSON value into
//! the one variant of [`Call`] that fits, or into a sentence for the operator. A server matches on [`Call`], so that a
//! method without an implementation does not compile; a client sends a struct with
//! [`Client::invoke`](crate::client::Client::invoke) and gets the result type back.
//!
//! Reading is strict: a parameter that is not known is refused by name, beside those that are. Two exceptions keep
//! SPDK's own client and its users' scripts working: a parameter that is `null` counts as not given, and parameters of
//! SPDK that Longrun has no use for are accepted as [`Tolerated`] says.

pub mod bdev;
pub mod framework;
pub mod group;
pub mod link;
pub mod nvmf;
pub mod pair;
mod parse;
pub mod progress;
pub mod role;
pub mod spill;

#[cfg(test)]
mod tests;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use parse::{Tolerated, to_params};

use crate::error::RpcError;

/// A method: `Self` is its parameters.
pub trait Method: Serialize + DeserializeOwned {
    /// The name it is called by.
    const NAME: &'static str;
    /// Other names for the same method.
    const ALIASES: &'static [&'static str] = &[];
    /// What a successful call answers.
    type Result: Serialize + DeserializeOwned;

    /// Rules between parameters that their types cannot hold. Errors are sentences, without the method's name.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Parameters of SPDK that this method accepts without having a use for them.
    fn tolerated() -> &'static [Tolerated] {
        &[]
    }
}

/// Defines [`Call`], the list of names and the [`Method`] implementations from one table.
macro_rules! methods {
    ($( $module:ident :: $params:ident = $name:literal $(| $alias:literal)* -> $result:ty
        $(, check $check:ident)? $(, tolerates $tolerated:ident)? ; )*) => {
        $(
            impl Method for $module::$params {
                const NAME: &'static str = $name;
                const ALIASES: &'static [&'static str] = &[$($alias),*];
                type Result = $result;
                $( fn check(&self) -> Result<(), String> { self.$check() } )?
                $( fn tolerated() -> &'static [Tolerated] { $module::$tolerated } )?
            }
        )*

        /// A call with parameters of the right form, one variant per method.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Call {
            $( #[doc = concat!("`", $name, "`")] $params($module::$params), )*
        }

        /// The names of all methods, without aliases, in the table's order.
        pub const METHODS: &[&str] = &[$($name),*];

        /// The other names that some methods have.
        pub const ALIASES: &[&str] = &[$($($alias,)*)*];

        impl Call {
            /// Reads a call. `params` is the request's member of that name, `null` where there was none.
            ///
            /// # Errors
            /// -32601 for a method that is not known, -32602 for parameters that are unknown, missing, of the wrong
            /// type or out of range, or that contradict each other.
            pub fn parse(method: &str, params: Value) -> Result<Self, RpcError> {
                match method {
                    $( $name $(| $alias)* => parse::params::<$module::$params>(method, params).map(Self::$params), )*
                    _ => Err(RpcError::method_not_found(method)),
                }
            }

            /// The method's name (of a method with aliases, the first).
            pub fn method(&self) -> &'static str {
                match self {
                    $( Self::$params(_) => $name, )*
                }
            }

            /// The parameters as they would be sent.
            pub fn params(&self) -> Value {
                match self {
                    $( Self::$params(params) => to_params(params), )*
                }
            }
        }
    };
}

methods! {
    bdev::BdevMallocCreate = "bdev_malloc_create" -> String, tolerates MALLOC_TOLERATES;
    bdev::BdevMallocDelete = "bdev_malloc_delete" -> bool;
    bdev::BdevNullCreate = "bdev_null_create" -> String, tolerates NULL_TOLERATES;
    bdev::BdevNullDelete = "bdev_null_delete" -> bool;
    bdev::BdevUringCreate = "bdev_uring_create" | "bdev_aio_create" -> String, check check, tolerates URING_TOLERATES;
    bdev::BdevUringDelete = "bdev_uring_delete" | "bdev_aio_delete" -> bool;
    bdev::BdevUringRescan = "bdev_uring_rescan" | "bdev_aio_rescan" -> u64;
    bdev::BdevErrorCreate = "bdev_error_create" -> String;
    bdev::BdevErrorDelete = "bdev_error_delete" -> bool;
    bdev::BdevErrorInjectError = "bdev_error_inject_error" -> bool, tolerates ERROR_TOLERATES;
    bdev::BdevDelayCreate = "bdev_delay_create" -> String, check check;
    bdev::BdevDelayDelete = "bdev_delay_delete" -> bool;
    bdev::BdevGetBdevs = "bdev_get_bdevs" -> Vec<bdev::BdevInfo>;
    bdev::BdevGetIostat = "bdev_get_iostat" -> bdev::Iostat, check check;

    nvmf::NvmfCreateTransport = "nvmf_create_transport" -> bool, check check, tolerates TRANSPORT_TOLERATES;
    nvmf::NvmfGetTransports = "nvmf_get_transports" -> Vec<nvmf::TransportInfo>, tolerates TGT_NAME;
    nvmf::NvmfCreateSubsystem = "nvmf_create_subsystem" -> bool, check check, tolerates SUBSYSTEM_TOLERATES;
    nvmf::NvmfDeleteSubsystem = "nvmf_delete_subsystem" -> bool, tolerates TGT_NAME;
    nvmf::NvmfGetSubsystems = "nvmf_get_subsystems" -> Vec<nvmf::SubsystemInfo>, tolerates TGT_NAME;
    nvmf::NvmfSubsystemAddNs = "nvmf_subsystem_add_ns" -> u32, check check, tolerates ADD_NS_TOLERATES;
    nvmf::NvmfSubsystemRemoveNs = "nvmf_subsystem_remove_ns" -> bool, tolerates TGT_NAME;
    nvmf::NvmfSubsystemAddListener = "nvmf_subsystem_add_listener" -> bool, check check, tolerates LISTENER_TOLERATES;
    nvmf::NvmfSubsystemRemoveListener = "nvmf_subsystem_remove_listener" -> bool, tolerates LISTENER_TOLERATES;
    nvmf::NvmfSubsystemListenerSetAnaState = "nvmf_subsystem_listener_set_ana_state" -> bool, check check, tolerates TGT_NAME;
    nvmf::NvmfSubsystemAddHost = "nvmf_subsystem_add_host" -> bool, tolerates HOST_TOLERATES;
    nvmf::NvmfSubsystemRemoveHost = "nvmf_subsystem_remove_host" -> bool, tolerates TGT_NAME;
    nvmf::NvmfSubsystemAllowAnyHost = "nvmf_subsystem_allow_any_host" -> bool, tolerates TGT_NAME;
    nvmf::NvmfSubsystemGetControllers = "nvmf_subsystem_get_controllers" -> Vec<nvmf::ControllerInfo>, tolerates TGT_NAME;
    nvmf::NvmfSubsystemGetQpairs = "nvmf_subsystem_get_qpairs" -> Vec<nvmf::QpairInfo>, tolerates TGT_NAME;
    nvmf::NvmfSubsystemGetListeners = "nvmf_subsystem_get_listeners" -> Vec<nvmf::ListenerInfo>, tolerates TGT_NAME;
    nvmf::NvmfGetStats = "nvmf_get_stats" -> nvmf::NvmfStats, tolerates TGT_NAME;

    framework::FrameworkGetReactors = "framework_get_reactors" -> framework::Reactors;
    framework::FrameworkGetSubsystems = "framework_get_subsystems" -> Vec<framework::FrameworkSubsystem>;
    framework::FrameworkGetConfig = "framework_get_config" -> Option<Vec<crate::config::ConfigCall>>;
    framework::FrameworkStartInit = "framework_start_init" -> bool;
    framework::FrameworkWaitInit = "framework_wait_init" -> bool;
    framework::RpcGetMethods = "rpc_get_methods" -> Vec<String>;
    framework::SpdkGetVersion = "spdk_get_version" -> framework::Version;
    framework::SpdkKillInstance = "spdk_kill_instance" -> bool;
    framework::LogSetLevel = "log_set_level" -> bool;
    framework::LogGetLevel = "log_get_level" -> framework::LogLevel;

    link::LinkCreate = "link_create" -> String, check check;
    link::LinkDelete = "link_delete" -> bool;
    link::LinkGet = "link_get" -> Vec<link::LinkInfo>;
    group::GroupCreate = "group_create" -> String, check check;
    group::GroupDelete = "group_delete" -> bool;
    group::GroupGet = "group_get" -> Vec<group::GroupInfo>;
    group::GroupSuspend = "group_suspend" -> group::SuspendInfo;
    group::GroupResync = "group_resync" -> bool;
    group::GroupBookmark = "group_bookmark" -> progress::BookmarkInfo;
    group::GroupVerify = "group_verify" -> bool;
    group::GroupTestStart = "group_test_start" -> Vec<group::TestVolume>;
    group::GroupTestStop = "group_test_stop" -> bool;
    group::GroupTakeover = "group_takeover" -> group::LossCertificate, check check;
    role::GroupFailback = "group_failback" -> role::RoleInfo, check check;
    role::GroupSwap = "group_swap" -> role::RoleInfo, check check;
    pair::PairCreate = "pair_create" -> String, check check;
    pair::PairDelete = "pair_delete" -> bool;
    pair::PairResize = "pair_resize" -> u64;
    pair::PairGet = "pair_get" -> Vec<pair::PairInfo>;
}

/// The known method nearest to a mistyped one, if any is near.
pub(crate) fn nearest(given: &str) -> Option<&'static str> {
    // Nobody mistypes a name into one of twice its length; the bound keeps the table below small.
    if given.len() > 64 {
        return None;
    }
    METHODS
        .iter()
        .chain(ALIASES)
        .map(|known| (edit_distance(given.as_bytes(), known.as_bytes()), *known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 4)
        .map(|(_, known)| known)
}

/// Insertions, deletions and replacements of bytes between two short texts (Levenshtein). Cost: product of the lengths.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = replaced.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
