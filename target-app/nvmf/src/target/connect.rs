//! The Connect command's refusals (Base 2.0, 3.3.2.2 and 6.3).

use crate::spec::Status;

/// Why a Connect command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectRefusal {
    /// RECFMT is not 0.
    #[error("the Connect record format is not 0")]
    Format,
    /// No controller id, or the controller can take no more queues now.
    #[error("no controller id is free")]
    Busy,
    /// SQSIZE is 0 or above what the target offers.
    #[error("the submission queue size is not between 2 and the greatest on offer")]
    QueueSize,
    /// The queue number is too high for the controller.
    #[error("the queue id is above the number of queues of the controller")]
    QueueIdTooHigh,
    /// The controller has a living queue of that number.
    #[error("the queue id is in use")]
    QueueIdInUse,
    /// An I/O queue before CC.EN was set.
    #[error("the controller is not enabled")]
    NotEnabled,
    /// The controller id of an I/O queue's Connect is unknown, or an admin queue asked for a given controller.
    #[error("there is no such controller")]
    UnknownController,
    /// The subsystem is unknown or not the controller's.
    #[error("there is no such subsystem, or it is not the controller's")]
    UnknownSubsystem,
    /// The subsystem exists and admits the host, but is not served by this listener.
    #[error("the subsystem is not served at this address")]
    OtherListener,
    /// The host name is malformed or not the controller's.
    #[error("the host NQN is malformed or not the controller's")]
    HostName,
    /// The host id is not the controller's.
    #[error("the host id is not the controller's")]
    HostId,
    /// The subsystem does not admit this host.
    #[error("the host is not on the subsystem's allow-list; add it with nvmf_subsystem_add_host")]
    HostNotAllowed,
}

impl ConnectRefusal {
    /// The status and, for Connect Invalid Parameters, the completion's first dword: IPO in bits 15:0, IATTR in bit 16
    /// (1: offset into the data, 0: into the command) (Base 2.0, figure 386).
    pub fn status(self) -> (Status, u32) {
        const IN_DATA: u32 = 1 << 16;
        match self {
            Self::Format => (Status::CONNECT_INCOMPATIBLE_FORMAT, 0),
            Self::Busy => (Status::CONNECT_CONTROLLER_BUSY, 0),
            Self::QueueSize => (Status::CONNECT_INVALID_PARAMETERS, 44),
            Self::QueueIdTooHigh | Self::QueueIdInUse | Self::NotEnabled => (Status::CONNECT_INVALID_PARAMETERS, 42),
            Self::UnknownController => (Status::CONNECT_INVALID_PARAMETERS, IN_DATA | 16),
            Self::UnknownSubsystem => (Status::CONNECT_INVALID_PARAMETERS, IN_DATA | 256),
            Self::OtherListener => (Status::CONNECT_RESTART_DISCOVERY, 0),
            Self::HostName => (Status::CONNECT_INVALID_PARAMETERS, IN_DATA | 512),
            Self::HostId => (Status::CONNECT_INVALID_PARAMETERS, IN_DATA),
            Self::HostNotAllowed => (Status::CONNECT_INVALID_HOST, 0),
        }
    }
}
