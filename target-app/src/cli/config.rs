//! `longrun save-config` and `longrun load-config`: the running configuration as a file, and back.

use std::io::Read as _;

use longrun_rpc::config::{Config, ConfigSubsystem};
use longrun_rpc::methods::framework::{FrameworkGetConfig, FrameworkGetSubsystems};
use longrun_rpc::{Client, ClientError, RpcError};

use super::CliError;
use super::args::{LoadConfigArgs, SaveConfigArgs};

/// The longest configuration file read. A volume takes some hundred bytes.
const CONFIG_BYTES_MAX: u64 = 64 << 20;

/// Asks for every part of the configuration, in the order in which they are set up.
pub(super) fn save(client: &mut Client, args: &SaveConfigArgs) -> Result<String, CliError> {
    let mut config = Config::default();
    for part in client.invoke(&FrameworkGetSubsystems::default())? {
        let calls = client.invoke(&FrameworkGetConfig { name: part.subsystem.clone() })?;
        config.subsystems.push(ConfigSubsystem { subsystem: part.subsystem, config: calls });
    }
    let text = config.to_text();
    match &args.file {
        None => Ok(text),
        Some(path) => {
            crate::saved::replace(path, &text).map_err(|source| CliError::File {
                path: path.clone(),
                doing: "write",
                source,
            })?;
            Ok(String::new())
        }
    }
}

/// Makes the calls of a configuration, one after the other, and stops at the first that fails.
pub(super) fn load(client: &mut Client, args: &LoadConfigArgs) -> Result<String, CliError> {
    let io = |source| CliError::File { path: args.file.clone(), doing: "read", source };
    let mut text = Vec::new();
    if args.file.as_os_str() == "-" {
        std::io::stdin().lock().take(CONFIG_BYTES_MAX).read_to_end(&mut text).map_err(io)?;
    } else {
        std::fs::File::open(&args.file).map_err(io)?.take(CONFIG_BYTES_MAX).read_to_end(&mut text).map_err(io)?;
    }
    // Every call's form is checked before the first is made.
    let (_, calls) = Config::parse(&text)
        .map_err(|error| CliError::Input(format!("configuration {}: {error}", args.file.display())))?;
    for (index, call) in calls.iter().enumerate() {
        client.call(call.method(), call.params()).map_err(|error| match error {
            ClientError::Rpc(RpcError { code, message, .. }) => CliError::Input(format!(
                "call {} of {} ({}) was refused: {message} (code {code}); the calls before it are in effect",
                index + 1,
                calls.len(),
                call.method(),
            )),
            other => other.into(),
        })?;
    }
    Ok(format!("{} calls made\n", calls.len()))
}
