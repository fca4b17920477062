//! `longrun group`.

use longrun_rpc::Client;
use longrun_rpc::methods::group::{GroupCreate, GroupDelete, GroupGet, GroupTakeover, OldPrimary};

use super::args::{GroupCreateArgs, OldPrimaryFlag};
use super::{CliError, answer, table};

pub(super) fn list(client: &mut Client, json: bool) -> Result<String, CliError> {
    Ok(answer(&client.invoke(&GroupGet::default())?, json, |groups| table::groups(groups)))
}

pub(super) fn get(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    let groups = client.invoke(&GroupGet { name: Some(name.to_owned()) })?;
    Ok(answer(&groups, json, |groups| groups.iter().map(table::group).collect()))
}

pub(super) fn create(client: &mut Client, args: &GroupCreateArgs, json: bool) -> Result<String, CliError> {
    let name = client.invoke(&GroupCreate {
        name: args.name.clone(),
        role: args.role.into(),
        link: None,
        links: Some(args.link.clone()),
        sequence_scope: args.scope.map(Into::into),
        journal: args.journal.clone(),
        throttle_ms_max: args.throttle_ms_max,
        buffer_bytes: args.buffer.map(|size| size.0),
    })?;
    Ok(answer(&name, json, |name| format!("group {name} made; longrun pair create {name} ... puts volumes into it\n")))
}

pub(super) fn delete(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    let deleted = client.invoke(&GroupDelete { name: name.to_owned() })?;
    Ok(answer(&deleted, json, |_| format!("group {name} deleted\n")))
}

pub(super) fn takeover(
    client: &mut Client,
    name: &str,
    old_primary: Option<OldPrimaryFlag>,
    accept_split: bool,
    json: bool,
) -> Result<String, CliError> {
    let certificate = client.invoke(&GroupTakeover {
        name: name.to_owned(),
        old_primary: old_primary.map(|OldPrimaryFlag::Fenced| OldPrimary::Fenced),
        accept_split: accept_split.then_some(true),
    })?;
    Ok(answer(&certificate, json, table::certificate))
}
