//! `longrun pair`.

use longrun_rpc::Client;
use longrun_rpc::methods::pair::{PairCreate, PairDelete, PairGet};

use super::args::PairCreateArgs;
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
        declared_identical: args.declared_identical.then_some(true),
    })?;
    Ok(answer(&replica, json, |replica| {
        format!("pair {} made; hosts use volume {replica} (longrun volume publish {replica} ...)\n", args.name)
    }))
}

pub(super) fn delete(client: &mut Client, group: &str, name: &str, json: bool) -> Result<String, CliError> {
    let deleted = client.invoke(&PairDelete { group: group.to_owned(), name: name.to_owned() })?;
    Ok(answer(&deleted, json, |_| format!("pair {name} of group {group} deleted\n")))
}
