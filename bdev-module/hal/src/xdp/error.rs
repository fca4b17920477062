//! Why there are no raw frames, and what mends it.

use std::io;

use crate::net::Interface;

/// Why an interface's queue could not be opened. Each says what to do; the caller's next best mode is UDP.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XdpError {
    #[error("there is no interface {given} here, only {there}; give one of these, ip link shows them")]
    NoInterface { given: String, there: String },
    #[error("interface {interface} is down; bring it up with: ip link set {interface} up")]
    Down { interface: String },
    #[error(
        "interface {interface} has no queue {queue}{}; give another one, or make more: ethtool -L {interface} combined {}",
        .there.map_or_else(String::new, |there| format!(", only 0 to {}", there.saturating_sub(1))),
        .queue + 1
    )]
    NoQueue { interface: String, queue: u32, there: Option<u32> },
    #[error(
        "this process may not {doing}, which needs {capability}; run it as root, or give the program what it needs: setcap \
         cap_net_raw,cap_net_admin,cap_bpf+ep $(command -v longrun)"
    )]
    Capability { doing: &'static str, capability: &'static str },
    #[error(
        "too little locked memory for a core's {mib} MiB; allow it with ulimit -l {kib} (LimitMEMLOCK={mib}M in a systemd \
         unit), give the program cap_ipc_lock, or lower --memory-mib",
        mib = .bytes >> 20,
        kib = .bytes >> 10
    )]
    LockedMemory { bytes: usize },
    #[error(
        "queue {queue} of {interface} is taken by another AF_XDP socket; give each link a queue of its own, or end the \
         program that has it"
    )]
    QueueTaken { interface: String, queue: u32 },
    #[error(
        "interface {interface} has another XDP program; take it off with: ip link set dev {interface} xdp off (ip link show \
         dev {interface} shows it)"
    )]
    ProgramTaken { interface: String },
    #[error(
        "interface {interface} takes packets of {mtu} bytes, the link's need {need}; raise it with ip link set dev \
         {interface} mtu {need}, or lower mtu_bytes to {}",
        .mtu.saturating_sub(crate::frame::IP_UDP_BYTES)
    )]
    Mtu { interface: String, mtu: usize, need: usize },
    #[error("this kernel has no AF_XDP ({source}); it wants Linux 6.6 or newer with CONFIG_XDP_SOCKETS")]
    Kernel { source: io::Error },
    #[error("this core has no {bytes} bytes of memory left to receive into; serve with a larger --memory-mib")]
    Memory { bytes: usize },
    #[error("{doing} on {interface}: {source}")]
    Os { doing: &'static str, interface: String, source: io::Error },
}

impl XdpError {
    /// What stands in the way before anything is tried.
    pub(super) fn beforehand(interface: &Interface, queue: u32, packet_bytes: usize) -> Option<XdpError> {
        let name = || interface.name.clone();
        if !interface.up {
            return Some(XdpError::Down { interface: name() });
        }
        if interface.queues.is_some_and(|queues| queue >= queues) || queue >= super::program::QUEUES_MAX {
            return Some(XdpError::NoQueue { interface: name(), queue, there: interface.queues });
        }
        if packet_bytes > interface.mtu_bytes {
            return Some(XdpError::Mtu { interface: name(), mtu: interface.mtu_bytes, need: packet_bytes });
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::frame::Mac;

    #[test]
    fn what_is_wrong_with_an_interface_is_said_with_the_command_that_mends_it() {
        let good = Interface {
            name: "eth9".to_owned(),
            index: 9,
            mac: Mac::default(),
            mtu_bytes: 1500,
            up: true,
            queues: Some(4),
        };
        let says = |interface: &Interface, queue, bytes| {
            XdpError::beforehand(interface, queue, bytes).map_or_else(String::new, |error| error.to_string())
        };
        assert_eq!(says(&good, 3, 1500), "");
        let down = Interface { up: false, ..good.clone() };
        assert!(says(&down, 0, 100).contains("ip link set eth9 up"));
        let queue = says(&good, 4, 100);
        assert!(queue.contains("only 0 to 3") && queue.contains("ethtool -L eth9 combined 5"), "{queue}");
        let mtu = says(&good, 0, 9000);
        assert!(mtu.contains("mtu 9000") && mtu.contains("mtu_bytes to 1472"), "{mtu}");
    }

    #[test]
    fn too_little_locked_memory_is_said_in_the_units_of_the_command() {
        let says = XdpError::LockedMemory { bytes: 256 << 20 }.to_string();
        assert!(says.contains("ulimit -l 262144") && says.contains("LimitMEMLOCK=256M"), "{says}");
    }
}
