//! `longrun volume`.

use std::num::NonZeroU64;

use longrun_rpc::error::code;
use longrun_rpc::methods::bdev::{
    BdevDelayDelete, BdevErrorDelete, BdevGetBdevs, BdevGetIostat, BdevMallocCreate, BdevMallocDelete, BdevNullCreate,
    BdevNullDelete, BdevUringCreate, BdevUringDelete, BdevUringRescan,
};
use longrun_rpc::methods::nvmf::{
    ListenAddress, NamespaceParams, NvmfCreateSubsystem, NvmfCreateTransport, NvmfDeleteSubsystem, NvmfGetSubsystems,
    NvmfSubsystemAddHost, NvmfSubsystemAddListener, NvmfSubsystemAddNs, NvmfSubsystemAllowAnyHost,
    NvmfSubsystemRemoveHost, NvmfSubsystemRemoveNs, SubsystemInfo, TrType,
};
use longrun_rpc::types::{BlockSize, Nqn};
use longrun_rpc::{Client, ClientError, RpcError};

use super::args::{VolumeCreateArgs, VolumePublishArgs};
use super::values::Bytes;
use super::{CliError, answer, table};

pub(super) fn list(client: &mut Client, json: bool) -> Result<String, CliError> {
    Ok(answer(&client.invoke(&BdevGetBdevs::default())?, json, |volumes| table::volumes(volumes)))
}

pub(super) fn get(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    let volumes = client.invoke(&BdevGetBdevs { name: Some(name.to_owned()), timeout: None })?;
    Ok(answer(&volumes, json, |volumes| volumes.iter().map(table::volume).collect()))
}

pub(super) fn stat(client: &mut Client, name: Option<&str>, json: bool) -> Result<String, CliError> {
    let stat = client.invoke(&BdevGetIostat { name: name.map(str::to_owned), ..BdevGetIostat::default() })?;
    Ok(answer(&stat, json, table::iostat))
}

pub(super) fn create(client: &mut Client, args: &VolumeCreateArgs, json: bool) -> Result<String, CliError> {
    let block_size = args.block_size.unwrap_or(BlockSize::B4096);
    let name = match (&args.memory, &args.file, &args.null) {
        (Some(size), _, _) => client.invoke(&BdevMallocCreate {
            num_blocks: blocks(*size, block_size)?,
            block_size,
            name: Some(args.name.clone()),
            uuid: None,
        })?,
        (_, Some(file), _) => {
            // The server has a working directory of its own.
            let filename = std::path::absolute(file).map_err(|source| CliError::File {
                path: file.clone(),
                doing: "find",
                source,
            })?;
            client.invoke(&BdevUringCreate {
                name: args.name.clone(),
                filename,
                block_size: args.block_size,
                uuid: None,
            })?
        }
        (_, _, Some(size)) => client.invoke(&BdevNullCreate {
            name: args.name.clone(),
            num_blocks: blocks(*size, block_size)?,
            block_size,
            uuid: None,
        })?,
        (None, None, None) => return Err(CliError::Input("give --memory, --file or --null".to_owned())),
    };
    Ok(answer(&name, json, |name| format!("volume {name} made\n")))
}

/// A size in whole blocks, at least one.
fn blocks(size: Bytes, block_size: BlockSize) -> Result<NonZeroU64, CliError> {
    let block_bytes = u64::from(block_size.bytes());
    match NonZeroU64::new(size.0 / block_bytes) {
        Some(blocks) if size.0.is_multiple_of(block_bytes) => Ok(blocks),
        _ => {
            Err(CliError::Input(format!("{size} is not a whole number of blocks of {block_bytes} bytes, at least one")))
        }
    }
}

pub(super) fn rescan(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    let has = client.invoke(&BdevUringRescan { name: name.to_owned() })?;
    Ok(answer(&has, json, |has| format!("volume {name} has {has} blocks\n")))
}

pub(super) fn delete(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    let volumes = client.invoke(&BdevGetBdevs { name: Some(name.to_owned()), timeout: None })?;
    let kind = volumes.first().map(table::kind).unwrap_or_default();
    let name = name.to_owned();
    let deleted = match kind {
        "malloc" => client.invoke(&BdevMallocDelete { name: name.clone() })?,
        "null" => client.invoke(&BdevNullDelete { name: name.clone() })?,
        "uring" => client.invoke(&BdevUringDelete { name: name.clone() })?,
        "error" => client.invoke(&BdevErrorDelete { name: name.clone() })?,
        "delay" => client.invoke(&BdevDelayDelete { name: name.clone() })?,
        "replica" => {
            return Err(CliError::Input(format!(
                "{name} is the replica device of a pair; delete the pair (longrun pair list shows it)"
            )));
        }
        "view" => {
            return Err(CliError::Input(format!(
                "{name} belongs to the test of a group; end the test (longrun group test stop)"
            )));
        }
        other => return Err(CliError::Input(format!("{name} is a {other}, which this longrun command cannot delete"))),
    };
    Ok(answer(&deleted, json, |_| format!("volume {name} deleted\n")))
}

/// What is there already is not an error: a second volume goes into the same subsystem.
fn or_exists<T>(outcome: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(ClientError::Rpc(RpcError { code: code::EXISTS, .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets up everything that hosts need, or nothing: what this call made is taken back when a later step is refused. (The
/// transport stays: it is there once for all subsystems, and has no way out.)
pub(super) fn publish(client: &mut Client, args: &VolumePublishArgs, json: bool) -> Result<String, CliError> {
    let mut made = Vec::new();
    match publish_steps(client, args, &mut made) {
        Ok((nsid, subsystem)) => {
            Ok(answer(&subsystem, json, |subsystem| table::published(&args.name, nsid, subsystem)))
        }
        Err(error) => {
            let kept: Vec<String> = made
                .iter()
                .rev()
                .filter_map(|made| take_back(client, args.nqn.as_str(), made).err().map(|error| error.to_string()))
                .collect();
            match kept.is_empty() {
                true => Err(error),
                false => Err(CliError::Input(format!("{error}; and could not be taken back: {}", kept.join("; ")))),
            }
        }
    }
}

/// What a publication made, and may have to take back.
enum Made {
    Subsystem,
    AnyHost,
    Host(Nqn),
    Namespace(u32),
}

fn publish_steps(
    client: &mut Client,
    args: &VolumePublishArgs,
    made: &mut Vec<Made>,
) -> Result<(u32, SubsystemInfo), CliError> {
    let nqn = args.nqn.as_str().to_owned();
    let fresh = or_exists(client.invoke(&NvmfCreateSubsystem {
        nqn: args.nqn.clone(),
        serial_number: None,
        model_number: None,
        max_namespaces: None,
        allow_any_host: Some(args.allow_any_host),
        ana_reporting: None,
        min_cntlid: None,
        max_cntlid: None,
    }))?;
    if fresh.is_some() {
        made.push(Made::Subsystem);
    } else if args.allow_any_host && !subsystem_of(client, &nqn)?.allow_any_host {
        client.invoke(&NvmfSubsystemAllowAnyHost { nqn: nqn.clone(), allow_any_host: true })?;
        made.push(Made::AnyHost);
    }
    for host in &args.host {
        if or_exists(client.invoke(&NvmfSubsystemAddHost { nqn: nqn.clone(), host: host.clone() }))?.is_some() {
            made.push(Made::Host(host.clone()));
        }
    }
    // The namespace before the listener: a host that connects at once finds its volume.
    let nsid = client.invoke(&NvmfSubsystemAddNs {
        nqn: nqn.clone(),
        namespace: NamespaceParams {
            bdev_name: args.name.clone(),
            nsid: None,
            nguid: None,
            eui64: None,
            uuid: None,
            anagrpid: None,
        },
    })?;
    made.push(Made::Namespace(nsid));
    if let Some(address) = args.listen {
        or_exists(client.invoke(&NvmfCreateTransport {
            trtype: TrType::Tcp,
            max_queue_depth: None,
            max_io_qpairs_per_ctrlr: None,
            in_capsule_data_size: None,
            max_io_size: None,
            max_aq_depth: None,
            c2h_success: None,
        }))?;
        or_exists(client.invoke(&NvmfSubsystemAddListener {
            nqn: nqn.clone(),
            listen_address: ListenAddress::from(address),
            ana_state: None,
        }))?;
    }
    Ok((nsid, subsystem_of(client, &nqn)?))
}

fn subsystem_of(client: &mut Client, nqn: &str) -> Result<SubsystemInfo, CliError> {
    let subsystems = client.invoke(&NvmfGetSubsystems { nqn: Some(nqn.to_owned()) })?;
    let gone = || CliError::Input(format!("subsystem {nqn} has gone while it was set up; try again"));
    subsystems.into_iter().next().ok_or_else(gone)
}

fn take_back(client: &mut Client, nqn: &str, made: &Made) -> Result<bool, ClientError> {
    let nqn = nqn.to_owned();
    match made {
        Made::Subsystem => client.invoke(&NvmfDeleteSubsystem { nqn }),
        Made::AnyHost => client.invoke(&NvmfSubsystemAllowAnyHost { nqn, allow_any_host: false }),
        Made::Host(host) => client.invoke(&NvmfSubsystemRemoveHost { nqn, host: host.as_str().to_owned() }),
        Made::Namespace(nsid) => client.invoke(&NvmfSubsystemRemoveNs { nqn, nsid: *nsid }),
    }
}
