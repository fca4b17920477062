//! The configuration file: what `save_config` writes and `longrun serve --config` reads.
//!
//! It has SPDK's form: parts in the order of their dependencies, each a list of calls that set it up.
//!
//! ```json
//! {"version": 1, "subsystems": [{"subsystem": "bdev", "config": [{"method": "bdev_malloc_create", "params": {"...": 0}}]}]}
//! ```
//!
//! The version is Longrun's own; a file without one, as SPDK writes it, is of version 1.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{RpcError, shorten};
use crate::methods::Call;

/// The version of the form that this file describes.
pub const VERSION: u32 = 1;

/// The parts of the configuration in the order in which they are set up, each with those it needs.
pub const SUBSYSTEMS: &[(&str, &[&str])] = &[
    ("log", &[]),
    ("bdev", &[]),
    ("link", &[]),
    ("group", &["bdev", "link"]),
    ("pair", &["bdev", "group"]),
    ("nvmf", &["bdev", "pair"]),
];

/// One call of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigCall {
    /// The method.
    pub method: String,
    /// Its parameters.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
}

impl From<&Call> for ConfigCall {
    fn from(call: &Call) -> Self {
        Self { method: call.method().to_owned(), params: call.params() }
    }
}

/// One part of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigSubsystem {
    /// The part's name.
    pub subsystem: String,
    /// The calls that set it up, in order; `null` for none, as SPDK writes it.
    #[serde(default)]
    pub config: Option<Vec<ConfigCall>>,
}

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// [`VERSION`].
    #[serde(default = "version")]
    pub version: u32,
    /// Its parts, in the order in which they are set up.
    pub subsystems: Vec<ConfigSubsystem>,
}

impl Default for Config {
    fn default() -> Self {
        Self { version: VERSION, subsystems: Vec::new() }
    }
}

fn version() -> u32 {
    VERSION
}

/// What every version has in common.
#[derive(Deserialize)]
struct Versioned {
    #[serde(default)]
    version: Option<Value>,
}

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not a configuration at all.
    #[error("not a configuration: {0}; expected {{\"subsystems\": [{{\"subsystem\": ..., \"config\": [...]}}]}}")]
    Form(String),
    /// Of a form that this program does not know.
    #[error(
        "the configuration has version {given}, this longrun reads version {VERSION}; start the longrun that wrote it, or \
         make the configuration anew and save it with longrun save-config"
    )]
    Version {
        /// What stands there.
        given: String,
    },
    /// A part that does not exist.
    #[error("unknown subsystem {given:?}; known: {known}")]
    Subsystem {
        /// What was given.
        given: String,
        /// Those there are.
        known: String,
    },
    /// A call that cannot be made.
    #[error("call {number} of subsystem {subsystem:?}: {error}")]
    Call {
        /// The part.
        subsystem: String,
        /// Counted from 1.
        number: usize,
        /// What is wrong with it.
        error: RpcError,
    },
}

impl Config {
    /// Reads a configuration and checks the form of every call, before any of them is made.
    ///
    /// # Errors
    /// [`ConfigError`], naming the place.
    pub fn parse(text: &[u8]) -> Result<(Self, Vec<Call>), ConfigError> {
        // The version first: another form may have other members, and their names are not what is wrong.
        let form = |error: serde_json::Error| ConfigError::Form(error.to_string());
        let versioned: Versioned = serde_json::from_slice(text).map_err(form)?;
        if let Some(given) = versioned.version.filter(|given| *given != VERSION) {
            return Err(ConfigError::Version { given: shorten(&given.to_string()) });
        }
        let config: Self = serde_json::from_slice(text).map_err(form)?;
        let mut calls = Vec::new();
        for part in &config.subsystems {
            if !SUBSYSTEMS.iter().any(|(name, _)| *name == part.subsystem) {
                let known: Vec<_> = SUBSYSTEMS.iter().map(|(name, _)| *name).collect();
                return Err(ConfigError::Subsystem { given: shorten(&part.subsystem), known: known.join(", ") });
            }
            for (index, call) in part.config.iter().flatten().enumerate() {
                calls.push(Call::parse(&call.method, call.params.clone()).map_err(|error| ConfigError::Call {
                    subsystem: part.subsystem.clone(),
                    number: index + 1,
                    error,
                })?);
            }
        }
        Ok((config, calls))
    }

    /// The configuration as indented JSON with a newline at its end.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_configuration_that_was_written_reads_back_as_the_same_calls() {
        let call = Call::parse("bdev_null_create", json!({"name": "n", "num_blocks": 1, "block_size": 512})).unwrap();
        let part = |subsystem: &str, config| ConfigSubsystem { subsystem: subsystem.to_owned(), config };
        let subsystems = vec![part("bdev", Some(vec![ConfigCall::from(&call)])), part("nvmf", None)];
        let config = Config { subsystems, ..Config::default() };
        let (read, calls) = Config::parse(config.to_text().as_bytes()).unwrap();
        assert_eq!((read, calls), (config, vec![call]));
    }

    #[test]
    fn a_call_that_cannot_be_made_is_found_before_any_is() {
        let text = r#"{"subsystems":[{"subsystem":"bdev","config":[
            {"method":"bdev_null_create","params":{"name":"n","num_blocks":1,"block_size":512}},
            {"method":"bdev_null_create","params":{"name":"n"}}]}]}"#;
        let error = Config::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("call 2 of subsystem \"bdev\"") && error.contains("num_blocks"), "{error}");
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_the_form_it_should_have() {
        for text in ["", "{}", "[]", "{\"subsystems\":5}", "{\"subsystems\":[],\"x\":1}", "\u{0}"] {
            let error = Config::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(&error, ConfigError::Form(_)), "{text}: {error}");
            assert!(error.to_string().contains("expected {\"subsystems\""), "{error}");
        }
        let error = Config::parse(br#"{"subsystems":[{"subsystem":"iscsi"}]}"#).unwrap_err().to_string();
        assert!(error.contains("\"iscsi\"") && error.contains("known: log, bdev"), "{error}");
    }

    #[test]
    fn a_configuration_of_another_version_is_refused_with_the_way_forward_whatever_else_it_holds() {
        for version in ["2", "0", "-1", "\"1\"", "1.5", "[]"] {
            let text = format!("{{\"version\": {version}, \"subsystems\": [], \"clusters\": {{}}}}");
            let error = Config::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(&error, ConfigError::Version { given } if given == version), "{error}");
            assert!(error.to_string().contains("start the longrun that wrote it"), "{error}");
        }
        let (current, _) = Config::parse(br#"{"version": 1, "subsystems": []}"#).unwrap();
        let (without, _) = Config::parse(br#"{"subsystems": []}"#).unwrap();
        assert_eq!((current.version, without.version), (VERSION, VERSION));
        assert!(Config::default().to_text().contains("\"version\": 1"));
    }

    #[test]
    fn every_part_comes_after_those_it_needs() {
        for (index, (name, needs)) in SUBSYSTEMS.iter().enumerate() {
            for need in *needs {
                let at = SUBSYSTEMS.iter().position(|(other, _)| other == need);
                assert!(at.is_some_and(|at| at < index), "{name} needs {need}");
            }
        }
    }
}
