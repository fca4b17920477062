//! Get Log Page (Base 2.0, 5.16).

use std::net::SocketAddr;

use zerocopy::{FromZeros, IntoBytes};

use super::{admin::FEATURES, discoverable, identify::firmware};
use crate::{
    nqn::Nqn,
    spec::{
        AnaGroupDescriptor, AnaHeader, DiscoveryEntry, DiscoveryHeader, ErrorEntry, FirmwareSlots, SmartLog, Sqe,
        Status, lid, opcode, pad_ascii,
    },
    target::{
        ListenAddress, Nsid, Subsystem, TRANSFER_BYTES_MAX, TargetConfig,
        ana::Report,
        controller::{CHANGED_MAX, Controller},
    },
};

/// LID.
pub(super) fn identifier(sqe: &Sqe) -> u8 {
    sqe.dword(10) as u8
}

/// RAE.
pub(super) fn retains_event(sqe: &Sqe) -> bool {
    sqe.dword(10) & 1 << 15 != 0
}

/// RGO, in the ANA log's log specific field.
const RETURN_GROUPS_ONLY: u32 = 1 << 8;

/// The part of the log that the command asks for, zero-filled behind the log's end.
pub(super) fn page(
    sqe: &Sqe,
    controller: &Controller,
    subsystem: &Subsystem,
    config: &TargetConfig,
    reached: SocketAddr,
    listener: ListenAddress,
) -> Result<Vec<u8>, Status> {
    let log = whole(sqe, controller, subsystem, config, reached, listener)?;
    // NUMD counts dwords less one, its upper half is in dword 11; LPO is in dwords 12 and 13, in bytes.
    let dwords = u64::from(sqe.dword(10) >> 16 | sqe.dword(11) << 16) + 1;
    let offset = u64::from(sqe.dword(12)) | u64::from(sqe.dword(13)) << 32;
    let bytes = dwords * 4;
    if bytes > u64::from(TRANSFER_BYTES_MAX) || offset % 4 != 0 || offset > log.len() as u64 {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let rest = log.get(offset as usize..).unwrap_or_default();
    let mut page = rest.get(..bytes as usize).unwrap_or(rest).to_vec();
    page.resize(bytes as usize, 0);
    Ok(page)
}

fn whole(
    sqe: &Sqe,
    controller: &Controller,
    subsystem: &Subsystem,
    config: &TargetConfig,
    reached: SocketAddr,
    listener: ListenAddress,
) -> Result<Vec<u8>, Status> {
    const OF_DISCOVERY: [u8; 2] = [lid::SUPPORTED, lid::DISCOVERY];
    const OF_NVM: [u8; 8] = [
        lid::SUPPORTED,
        lid::ERRORS,
        lid::SMART,
        lid::FIRMWARE,
        lid::CHANGED_NAMESPACES,
        lid::EFFECTS,
        lid::FEATURE_EFFECTS,
        lid::ANA,
    ];
    let log = identifier(sqe);
    let supported: &[u8] = match (controller.discovery, subsystem.ana.reporting, OF_NVM.split_last()) {
        (true, ..) => &OF_DISCOVERY,
        // All but ANA.
        (false, false, Some((_, without_ana))) => without_ana,
        _ => &OF_NVM,
    };
    if !supported.contains(&log) {
        return Err(Status::INVALID_LOG_PAGE.dnr());
    }
    Ok(match log {
        // Bit 0 of a log's dword: it is there.
        lid::SUPPORTED => table(256, supported.iter().map(|log| (usize::from(*log), 1))),
        lid::ERRORS => ErrorEntry::new_zeroed().as_bytes().to_vec(),
        lid::SMART => {
            let mut smart = SmartLog::new_zeroed();
            smart.composite_temperature = 300.into();
            smart.available_spare = 100;
            smart.available_spare_threshold = 10;
            smart.as_bytes().to_vec()
        }
        lid::FIRMWARE => {
            let mut slots = FirmwareSlots::new_zeroed();
            slots.afi = 1;
            if let Some(first) = slots.frs.first_mut() {
                *first = firmware();
            }
            slots.as_bytes().to_vec()
        }
        lid::CHANGED_NAMESPACES => {
            let changed = controller.changed_namespaces();
            if changed.len() > CHANGED_MAX {
                table(CHANGED_MAX, [(0, u32::MAX)])
            } else {
                table(CHANGED_MAX, changed.iter().copied().enumerate())
            }
        }
        lid::ANA => access(controller.access(), sqe.dword(10) & RETURN_GROUPS_ONLY != 0),
        lid::EFFECTS => effects(),
        lid::FEATURE_EFFECTS => table(256, FEATURES.iter().map(|feature| (usize::from(*feature), 1))),
        _ => discovery(config, &controller.host, reached, listener),
    })
}

/// Asymmetric Namespace Access (Base 2.0, 5.16.1.13): groups in the order of their numbers, and their namespaces.
fn access(report: &Report, groups_only: bool) -> Vec<u8> {
    let mut header = AnaHeader::new_zeroed();
    header.change_count = report.changes.into();
    header.groups = (report.groups.len() as u16).into();
    let mut log = header.as_bytes().to_vec();
    for (group, of) in &report.groups {
        let nsids: &[Nsid] = if groups_only { &[] } else { &of.nsids };
        let mut descriptor = AnaGroupDescriptor::new_zeroed();
        descriptor.group = group.get().into();
        descriptor.namespaces = (nsids.len() as u32).into();
        descriptor.change_count = of.changes.into();
        descriptor.state = of.state.to_wire();
        log.extend_from_slice(descriptor.as_bytes());
        log.extend(nsids.iter().flat_map(|nsid| nsid.get().to_le_bytes()));
    }
    log
}

/// `dwords` little-endian dwords, those given set.
fn table(dwords: usize, set: impl IntoIterator<Item = (usize, u32)>) -> Vec<u8> {
    let mut out = vec![0; dwords * 4];
    for (at, value) in set {
        if let Some(place) = out.get_mut(at * 4..at * 4 + 4) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
    out
}

/// Commands Supported and Effects (Base 2.0, 5.16.1.6): 256 dwords of admin commands, 256 of I/O commands, 2 KiB reserved.
fn effects() -> Vec<u8> {
    const SUPPORTED: u32 = 1;
    const CHANGES_DATA: u32 = 1 << 1;
    const IO: usize = 256;
    let admin = [
        opcode::GET_LOG_PAGE,
        opcode::IDENTIFY,
        opcode::ABORT,
        opcode::SET_FEATURES,
        opcode::GET_FEATURES,
        opcode::ASYNC_EVENT_REQUEST,
        opcode::KEEP_ALIVE,
    ];
    let reads = [opcode::FLUSH, opcode::READ];
    let writes = [opcode::WRITE, opcode::WRITE_ZEROES, opcode::DATASET_MANAGEMENT];
    let admin = admin.iter().map(|op| (usize::from(*op), SUPPORTED));
    let reads = reads.iter().map(|op| (IO + usize::from(*op), SUPPORTED));
    let writes = writes.iter().map(|op| (IO + usize::from(*op), SUPPORTED | CHANGES_DATA));
    table(1024, admin.chain(reads).chain(writes))
}

/// The discovery log as this host sees it (Base 2.0, 5.16.1.23): this discovery subsystem, then what it may connect to.
fn discovery(config: &TargetConfig, host: &Nqn, reached: SocketAddr, listener: ListenAddress) -> Vec<u8> {
    let mut ports: Vec<SocketAddr> = vec![SocketAddr::new(reached.ip(), listener.port())];
    let nqn = Nqn::discovery();
    let mut entries = vec![entry(&nqn, DiscoveryEntry::CURRENT_DISCOVERY, ports[0], 0, config)];
    for (nqn, address) in discoverable(config, host, reached) {
        let port = ports.iter().position(|port| *port == address).unwrap_or_else(|| {
            ports.push(address);
            ports.len() - 1
        });
        entries.push(entry(&nqn, DiscoveryEntry::NVM, address, port as u16, config));
    }
    let mut header = DiscoveryHeader::new_zeroed();
    header.genctr = config.generation.into();
    header.numrec = (entries.len() as u64).into();
    let mut log = header.as_bytes().to_vec();
    for entry in &entries {
        log.extend_from_slice(entry.as_bytes());
    }
    log
}

fn entry(nqn: &Nqn, subtype: u8, address: SocketAddr, port: u16, config: &TargetConfig) -> DiscoveryEntry {
    let mut entry = DiscoveryEntry::new_zeroed();
    entry.trtype = DiscoveryEntry::TCP;
    entry.adrfam = if address.is_ipv4() { 1 } else { 2 };
    entry.subtype = subtype;
    entry.treq = DiscoveryEntry::TREQ;
    entry.portid = port.into();
    entry.cntlid = 0xffff.into();
    entry.asqsz = config.limits.io_queue_entries_max.max(32).into();
    if subtype == DiscoveryEntry::CURRENT_DISCOVERY {
        entry.eflags = DiscoveryEntry::PERSISTENT.into();
    }
    pad_ascii(&mut entry.trsvcid, &address.port().to_string());
    pad_ascii(&mut entry.traddr, &address.ip().to_string());
    nqn.write_field(&mut entry.subnqn);
    entry
}
