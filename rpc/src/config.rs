//! The configuration file: what `save_config` writes and `longrun serve --config` reads.
//!
//! It has SPDK's form: parts in the order of their dependencies, each a list of calls that set it up.
//!
//! ```json
//! {"subsystems": [{"subsystem": "bdev", "config": [{"method": "bdev_malloc_create", "params": {"...": 0}}]}]}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{RpcError, shorten};
use crate::methods::Call;

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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its parts, in the order in which they are set up.
    pub subsystems: Vec<ConfigSubsystem>,
}

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not a configuration at all.
    #[error("not a configuration: {0}; expected {{\"subsystems\": [{{\"subsystem\": ..., \"config\": [...]}}]}}")]
    Form(String),
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
        let config: Self = serde_json::from_slice(text).map_err(|error| ConfigError::Form(error.to_string()))?;
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
