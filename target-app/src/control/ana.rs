//! Which paths hosts are to use: the ANA states of listeners.

use super::Control;
use super::nvmf::subsystem_of;
use longrun_nvmf::target::{AnaGroup, AnaState as Wire, Subsystem};
use longrun_rpc::RpcError;
use longrun_rpc::methods::nvmf::{AnaState, NvmfSubsystemListenerSetAnaState};
use std::sync::Arc;

impl Control {
    pub(super) async fn nvmf_subsystem_listener_set_ana_state(
        &self,
        call: &NvmfSubsystemListenerSetAnaState,
    ) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        let subsystem = Arc::clone(subsystem_of(&state, &call.nqn)?);
        reports_ana(Some(&subsystem), &call.nqn)?;
        let address = call.listen_address.socket_addr();
        if !subsystem.listens_on(&address) {
            return Err(RpcError::errno(
                libc::ENOENT,
                format!("{} does not listen on {address}; nvmf_subsystem_get_listeners shows where it does", call.nqn),
            ));
        }
        let group = call.anagrpid.map(|group| ana_group(group, &subsystem)).transpose()?;
        state.target.edit(&subsystem.nqn, |subsystem| subsystem.ana.set_listener(address, group, wire(call.ana_state)));
        self.publish(&mut state).await;
        Ok(true)
    }
}

/// A group's number as the subsystem can have it.
pub(super) fn ana_group(group: u32, subsystem: &Subsystem) -> Result<AnaGroup, RpcError> {
    AnaGroup::new(group).filter(|group| group.get() <= subsystem.namespaces_max).ok_or_else(|| {
        RpcError::invalid_params(format!(
            "anagrpid is {group}, expected 1 to {}, the subsystem's max_namespaces",
            subsystem.namespaces_max
        ))
    })
}

/// Refuses where hosts would not learn of a state.
pub(super) fn reports_ana(subsystem: Option<&Arc<Subsystem>>, nqn: &str) -> Result<(), RpcError> {
    if subsystem.is_some_and(|subsystem| subsystem.ana.reporting) {
        return Ok(());
    }
    Err(RpcError::wrong_state(format!(
        "hosts of {nqn} are not told ANA states; create the subsystem with ana_reporting true"
    )))
}

/// A state in the operator's words.
pub(super) fn shown(state: Wire) -> AnaState {
    match state {
        Wire::Optimized => AnaState::Optimized,
        Wire::NonOptimized => AnaState::NonOptimized,
        Wire::Inaccessible => AnaState::Inaccessible,
        Wire::PersistentLoss => AnaState::PersistentLoss,
        Wire::Change => AnaState::Change,
    }
}

/// An operator's word for a state.
pub(super) fn wire(state: AnaState) -> Wire {
    match state {
        AnaState::Optimized => Wire::Optimized,
        AnaState::NonOptimized => Wire::NonOptimized,
        AnaState::Inaccessible => Wire::Inaccessible,
        AnaState::PersistentLoss => Wire::PersistentLoss,
        AnaState::Change => Wire::Change,
    }
}
