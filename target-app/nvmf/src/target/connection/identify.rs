//! Identify (Base 2.0, 5.17).

use zerocopy::{FromZeros, IntoBytes};

use crate::{
    spec::{
        IdentifyController, IdentifyNamespace, IdentifyNamespaceIndependent, LbaFormat, PAGE_BYTES, Sqe, Status, cns,
        descriptor, pad_ascii,
    },
    target::{
        ANA_TRANSITION_SECONDS_MAX, IN_CAPSULE_BYTES_IO, Namespace, NamespaceState, Nsid, Subsystem, TransportLimits,
        controller::{AERS_MAX, Controller, KEEP_ALIVE_GRANULARITY_MS, VERSION, event},
    },
};

/// log2 of the largest transfer in 4 KiB pages: 1 MiB.
const MDTS: u8 = 8;
const _: () = assert!(4096 << MDTS == crate::target::TRANSFER_BYTES_MAX);

/// The firmware revision shown to hosts.
pub(super) fn firmware() -> [u8; 8] {
    let mut field = [b' '; 8];
    pad_ascii(&mut field, env!("CARGO_PKG_VERSION"));
    field
}

/// The page that CNS asks for.
pub(super) fn page(
    sqe: &Sqe,
    controller: &Controller,
    subsystem: &Subsystem,
    limits: &TransportLimits,
) -> Result<Vec<u8>, Status> {
    let cns = sqe.dword(10) as u8;
    let of_nvm_set = sqe.dword(11) >> 24 == 0;
    if controller.discovery && cns != cns::CONTROLLER {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let blank = vec![0; PAGE_BYTES];
    match cns {
        cns::CONTROLLER => Ok(identify_controller(controller, subsystem, limits).as_bytes().to_vec()),
        cns::NAMESPACE | cns::ALLOCATED_NAMESPACE => Ok(match find(sqe, subsystem)? {
            Some(namespace) => identify_namespace(namespace, subsystem).as_bytes().to_vec(),
            None => blank,
        }),
        cns::NAMESPACE_INDEPENDENT => Ok(match find(sqe, subsystem)? {
            Some(namespace) => identify_independent(namespace, subsystem).as_bytes().to_vec(),
            None => blank,
        }),
        // Neither protection information nor zone limits: all zero says so (NVM 4.1.5.2, 4.1.5.4).
        cns::NAMESPACE_OF_SET if of_nvm_set => find(sqe, subsystem).map(|_| blank),
        cns::CONTROLLER_OF_SET if of_nvm_set => Ok(blank),
        cns::ACTIVE_NAMESPACES | cns::ALLOCATED_NAMESPACES => list_namespaces(sqe, subsystem),
        cns::ACTIVE_NAMESPACES_OF_SET if of_nvm_set => list_namespaces(sqe, subsystem),
        cns::DESCRIPTORS => match find(sqe, subsystem)? {
            Some(namespace) => Ok(descriptors(namespace)),
            None => Err(Status::INVALID_NAMESPACE.dnr()),
        },
        cns::CONTROLLERS_OF_NAMESPACE => match find(sqe, subsystem)? {
            Some(_) => Ok(list_controllers(sqe, controller)),
            None => Ok(blank),
        },
        cns::CONTROLLERS => Ok(list_controllers(sqe, controller)),
        cns::COMMAND_SET_COMBINATIONS => {
            // One combination: the NVM command set alone.
            let mut page = blank;
            if let Some(first) = page.first_mut() {
                *first = 1;
            }
            Ok(page)
        }
        _ => Err(Status::INVALID_FIELD.dnr()),
    }
}

/// The namespace the command names; None when its number is valid and unused.
fn find<'s>(sqe: &Sqe, subsystem: &'s Subsystem) -> Result<Option<&'s Namespace>, Status> {
    let nsid = Nsid::new(sqe.nsid.get()).ok_or(Status::INVALID_NAMESPACE.dnr())?;
    match subsystem.namespaces.get(&nsid) {
        Some(namespace) => Ok(Some(namespace)),
        None if nsid.get() <= subsystem.namespaces_max => Ok(None),
        None => Err(Status::INVALID_NAMESPACE.dnr()),
    }
}

fn identify_controller(controller: &Controller, subsystem: &Subsystem, limits: &TransportLimits) -> IdentifyController {
    let mut page = IdentifyController::new_zeroed();
    page.sn = *subsystem.serial.as_bytes();
    page.mn = *subsystem.model.as_bytes();
    page.fr = firmware();
    // Several controllers and several ports may serve the subsystem (bits 0 and 1).
    page.cmic = 0b11;
    page.mdts = MDTS;
    page.cntlid = controller.id.0.into();
    page.ver = VERSION.into();
    // Extended data for Get Log Page: offsets and long lengths (bit 2).
    page.lpa = 1 << 2;
    page.aerl = AERS_MAX as u8 - 1;
    page.kas = ((KEEP_ALIVE_GRANULARITY_MS / 100) as u16).into();
    page.maxcmd = limits.io_queue_entries_max.into();
    // SGLs with any alignment (bits 1:0), the transport data block (bit 21), addresses as offsets (bit 20).
    page.sgls = (1 | 1 << 20 | 1 << 21).into();
    subsystem.nqn.write_field(&mut page.subnqn);
    if controller.discovery {
        page.cntrltype = 2;
        page.oaes = event::DISCOVERY.into();
        return page;
    }
    page.cntrltype = 1;
    page.oaes = event::NAMESPACES.into();
    if subsystem.ana.reporting {
        page.cmic |= 1 << 3;
        page.oaes = (event::NAMESPACES | event::ANA).into();
        page.anatt = ANA_TRANSITION_SECONDS_MAX;
        // All five states are reported (bits 4:0); a namespace keeps its group while it is attached (bit 6).
        page.anacap = 0b0101_1111;
        page.anagrpmax = subsystem.namespaces_max.max(1).into();
        page.nanagrpid = subsystem.namespaces_max.max(1).into();
    }
    page.acl = 3;
    // Firmware slot 1 is the only one and read-only.
    page.frmw = 1 | 1 << 1;
    // The commands supported and effects log (bit 1).
    page.lpa |= 1 << 1;
    page.wctemp = 343.into();
    page.cctemp = 353.into();
    page.sqes = 0x66;
    page.cqes = 0x44;
    page.nn = subsystem.namespaces_max.max(1).into();
    page.mnan = subsystem.namespaces_max.max(1).into();
    // Dataset Management (bit 2), Write Zeroes (bit 3).
    page.oncs = (1 << 2 | 1 << 3).into();
    // A volatile write cache is present (bit 0); Flush takes one namespace, not all (bits 2:1 = 10b).
    page.vwc = 1 | 2 << 1;
    page.ioccsz = ((64 + IN_CAPSULE_BYTES_IO) / 16).into();
    page.iorcsz = 1.into();
    page.msdbd = 1;
    page
}

fn identify_namespace(namespace: &Namespace, subsystem: &Subsystem) -> IdentifyNamespace {
    let mut page = IdentifyNamespace::new_zeroed();
    page.nsze = namespace.blocks.into();
    page.ncap = namespace.blocks.into();
    page.nuse = namespace.blocks.into();
    // Shared by all controllers of the subsystem.
    page.nmic = 1;
    page.anagrpid = ana_group(namespace, subsystem).into();
    page.nsattr = u8::from(namespace.state == NamespaceState::ReadOnly);
    page.nguid = namespace.nguid;
    page.eui64 = namespace.eui64.unwrap_or_default();
    // Write Zeroes may deallocate (bit 3); what unmapped blocks read as is not promised (bits 2:0).
    page.dlfeat = u8::from(namespace.deallocates) << 3;
    if let Some(first) = page.lbaf.first_mut() {
        *first = LbaFormat { ms: 0.into(), lbads: namespace.block_size.shift(), rp: 0 };
    }
    page
}

fn identify_independent(namespace: &Namespace, subsystem: &Subsystem) -> IdentifyNamespaceIndependent {
    let mut page = IdentifyNamespaceIndependent::new_zeroed();
    page.nmic = 1;
    page.anagrpid = ana_group(namespace, subsystem).into();
    page.nsattr = u8::from(namespace.state == NamespaceState::ReadOnly);
    // NRDY: ready. Linux leaves a namespace alone that is not, and looks again at the next event.
    page.nstat = u8::from(namespace.state != NamespaceState::NotReady);
    page
}

/// ANAGRPID, 0 where ANA is not reported.
fn ana_group(namespace: &Namespace, subsystem: &Subsystem) -> u32 {
    if subsystem.ana.reporting { namespace.ana_group.get() } else { 0 }
}

fn list_namespaces(sqe: &Sqe, subsystem: &Subsystem) -> Result<Vec<u8>, Status> {
    let after = sqe.nsid.get();
    if after >= u32::MAX - 1 {
        return Err(Status::INVALID_NAMESPACE.dnr());
    }
    let later = subsystem.namespaces.keys().map(|nsid| nsid.get()).filter(|nsid| *nsid > after);
    let mut page: Vec<u8> = later.take(PAGE_BYTES / 4).flat_map(u32::to_le_bytes).collect();
    page.resize(PAGE_BYTES, 0);
    Ok(page)
}

/// Namespace Identification Descriptors (Base 2.0, 5.17.2.4).
fn descriptors(namespace: &Namespace) -> Vec<u8> {
    let mut page = Vec::with_capacity(PAGE_BYTES);
    let mut put = |kind: u8, id: &[u8]| {
        page.extend_from_slice(&[kind, id.len() as u8, 0, 0]);
        page.extend_from_slice(id);
    };
    if let Some(eui64) = &namespace.eui64 {
        put(descriptor::EUI64, eui64);
    }
    if namespace.nguid != [0; 16] {
        put(descriptor::NGUID, &namespace.nguid);
    }
    if namespace.uuid != [0; 16] {
        put(descriptor::UUID, &namespace.uuid);
    }
    put(descriptor::COMMAND_SET, &[0]);
    page.resize(PAGE_BYTES, 0);
    page
}

/// A controller list with this controller in it. Others of the subsystem may live on other cores and are not listed.
fn list_controllers(sqe: &Sqe, controller: &Controller) -> Vec<u8> {
    let from = (sqe.dword(10) >> 16) as u16;
    let mut page = vec![0; PAGE_BYTES];
    if controller.id.0 >= from {
        let [low, high] = controller.id.0.to_le_bytes();
        for (to, byte) in page.iter_mut().zip([1, 0, low, high]) {
            *to = byte;
        }
    }
    page
}
