//! `longrun accounting`.

use std::time::Duration;

use longrun_rpc::Client;
use longrun_rpc::methods::framework::{Accounts, FrameworkGetReactors, Reactors};

use super::args::AccountingArgs;
use super::{CliError, answer, table};

const NONE_KEPT: &str = "this system keeps no accounts: it was built without them; build it with cargo build --release --features accounting";

pub(super) fn show(client: &mut Client, args: &AccountingArgs) -> Result<String, CliError> {
    let before = match args.seconds {
        0 => None,
        seconds => {
            let before = kept(client)?;
            std::thread::sleep(Duration::from_secs(seconds));
            Some(before)
        }
    };
    let mut now = kept(client)?;
    for (core, accounts) in &mut now {
        if let Some((_, before)) = before.iter().flatten().find(|(of, _)| of == core) {
            *accounts = accounts.since(before);
        }
    }
    Ok(answer(&now, args.remote.json, |now| table::accounts(now)))
}

/// The accounts of each core.
fn kept(client: &mut Client) -> Result<Vec<(u32, Accounts)>, CliError> {
    let Reactors { reactors, .. } = client.invoke(&FrameworkGetReactors {})?;
    let accounts = reactors.into_iter().map(|reactor| Some((reactor.lcore, reactor.accounts?)));
    accounts.collect::<Option<_>>().ok_or_else(|| CliError::Input(NONE_KEPT.to_owned()))
}
