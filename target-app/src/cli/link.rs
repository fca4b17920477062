//! `longrun link`.

use std::num::NonZeroU64;

use longrun_rpc::Client;
use longrun_rpc::methods::link::{LinkCreate, LinkDelete, LinkGet};

use super::args::LinkCreateArgs;
use super::{CliError, answer, table};

pub(super) fn list(client: &mut Client, json: bool) -> Result<String, CliError> {
    Ok(answer(&client.invoke(&LinkGet::default())?, json, |links| table::links(links)))
}

pub(super) fn get(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    let links = client.invoke(&LinkGet { name: Some(name.to_owned()) })?;
    Ok(answer(&links, json, |links| links.iter().map(table::link).collect()))
}

pub(super) fn create(client: &mut Client, args: &LinkCreateArgs, json: bool) -> Result<String, CliError> {
    let rate_limit_bytes_per_s = match args.rate_limit {
        None => None,
        Some(rate) => Some(NonZeroU64::new(rate.0).ok_or_else(|| {
            CliError::Input("--rate-limit 0 would never send; give bytes per second, or leave it out".to_owned())
        })?),
    };
    let private_key_file = match &args.private_key_file {
        None => None,
        // The server has a working directory of its own.
        Some(file) => Some(std::path::absolute(file).map_err(|source| CliError::File {
            path: file.clone(),
            doing: "find",
            source,
        })?),
    };
    let name = client.invoke(&LinkCreate {
        name: args.name.clone(),
        local_addr: args.local,
        remote_addr: args.remote,
        private_key_file,
        remote_public_key: args.remote_public_key,
        security: Some(args.security.into()),
        mtu_bytes: args.mtu_bytes,
        loss_tolerance: args.loss_tolerance,
        rate_limit_bytes_per_s,
        cores: (!args.cores.is_empty()).then(|| args.cores.clone()),
        transport: args.transport.map(Into::into),
        interface: args.interface.clone(),
        queue: args.queue,
        need_wakeup: args.no_need_wakeup.then_some(false),
        busy_poll_us: args.busy_poll_us,
    })?;
    Ok(answer(&name, json, |name| format!("link {name} made; longrun link get {name} shows whether it is up\n")))
}

pub(super) fn delete(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    let deleted = client.invoke(&LinkDelete { name: name.to_owned() })?;
    Ok(answer(&deleted, json, |_| format!("link {name} deleted\n")))
}
