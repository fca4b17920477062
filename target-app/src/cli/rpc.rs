//! `longrun rpc`: any method, as it is.

use std::io::Read as _;

use longrun_rpc::Client;
use longrun_rpc::framing::REQUEST_BYTES_MAX;
use serde_json::Value;

use super::args::RpcArgs;
use super::{CliError, pretty};

/// The answer as indented JSON; `--json` changes nothing.
pub(super) fn call(client: &mut Client, args: &RpcArgs) -> Result<String, CliError> {
    let params = match args.params.as_deref() {
        None => Value::Null,
        Some("-") => {
            let mut text = String::new();
            let limit = REQUEST_BYTES_MAX as u64;
            std::io::stdin().lock().take(limit + 1).read_to_string(&mut text).map_err(|source| CliError::File {
                path: "standard input".into(),
                doing: "read",
                source,
            })?;
            parse(&text)?
        }
        Some(text) => parse(text)?,
    };
    let result = client.call(&args.method, params)?;
    Ok(pretty(&result))
}

/// Reads parameters. What else they must be, the server says.
fn parse(text: &str) -> Result<Value, CliError> {
    serde_json::from_str(text).map_err(|error| {
        CliError::Input(format!(
            "the parameters are not JSON: {error}; expected an object such as '{{\"name\": \"m0\"}}', quoted for the shell"
        ))
    })
}
