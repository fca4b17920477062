//! `longrun pair`.

use longrun_rpc::Client;
use longrun_rpc::methods::pair::{PairCreate, PairDelete, PairGet, PairResize};
use std::num::NonZeroU64;

use super::args::{InitialFlag, PairCreateArgs};
use super::{CliError, answer, table};

pub(super) fn list(client: &mut Client, group: Option<&str>, json: bool) -> Result<String, CliError> {
    let pairs = client.invoke(&PairGet { group: group.map(str::to_owned), name: None })?;
    Ok(answer(&pairs, json, |pairs| table::pairs(pairs)))
}

pub(super) fn get(client: &mut Client, group: &str, name: &str, json: bool) -> Result<String, CliError> {
    let pairs = client.invoke(&PairGet { group: Some(group.to_owned()), name: Some(name.to_owned()) })?;
    Ok(answer(&pairs, json, |pairs| pairs.iter().map(table::pair).collect()))
}

pub(super) fn create(client: &mut Client, args: &PairCreateArgs, json: bool) -> Result<String, CliError> {
    let replica = client.invoke(&PairCreate {
        group: args.group.clone(),
        name: args.name.clone(),
        volume: args.volume.clone(),
        replica: args.replica.clone(),
        link: args.link.clone(),
        remote_volume: args.remote_volume.clone(),
        initial: args.initial.map(Into::into),
        declared_identical: args.declared_identical.then_some(true),
    })?;
    let is_copied = matches!(args.initial, Some(InitialFlag::Copy | InitialFlag::CopyDifferences));
    Ok(answer(&replica, json, |replica| {
        let copied = if is_copied {
            format!("its copy goes on; longrun group watch {} shows how far it is\n", args.group)
        } else {
            String::new()
        };
        format!("pair {} made; hosts use volume {replica} (longrun volume publish {replica} ...)\n{copied}", args.name)
    }))
}

pub(super) fn resize(
    client: &mut Client,
    group: &str,
    name: &str,
    blocks: Option<NonZeroU64>,
    json: bool,
) -> Result<String, CliError> {
    let call = PairResize { group: group.to_owned(), name: name.to_owned(), num_blocks: blocks };
    let has = client.invoke(&call)?;
    Ok(answer(&has, json, |has| format!("pair {name} of group {group} has {has} blocks; hosts were told\n")))
}

pub(super) fn delete(client: &mut Client, group: &str, name: &str, json: bool) -> Result<String, CliError> {
    let deleted = client.invoke(&PairDelete { group: group.to_owned(), name: name.to_owned() })?;
    Ok(answer(&deleted, json, |_| format!("pair {name} of group {group} deleted\n")))
}
