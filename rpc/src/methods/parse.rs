//! From JSON to a method's parameters, with errors that name the parameter.

use serde::Serialize;
use serde_json::{Map, Value};

use super::Method;
use crate::error::{RpcError, shorten};

/// A parameter of SPDK that a method accepts without having a use for it, so that scripts written for SPDK run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerated {
    /// It tunes SPDK's inside (pool sizes, polling); any value is accepted and changes nothing here.
    Hint(&'static str),
    /// It asks for a feature that is not here. SPDK's client sends it with its default, so a blank value (`false`, 0, an
    /// empty text or list) is accepted; any other is refused, because ignoring it would not do what was asked.
    Blank(&'static str),
}

impl Tolerated {
    /// The parameter's name, `outer.inner` within an object.
    pub fn path(self) -> &'static str {
        match self {
            Self::Hint(path) | Self::Blank(path) => path,
        }
    }
}

/// Parameters as they are sent: an object without the members that were not given.
///
/// # Panics
/// Never for the types of this crate: they have text keys and no values that JSON cannot hold.
pub fn to_params<T: Serialize>(params: &T) -> Value {
    let mut value = serde_json::to_value(params).unwrap_or_default();
    drop_nulls(&mut value);
    value
}

/// Reads the parameters of `M`, called as `method` (its name or an alias).
pub(super) fn params<M: Method>(method: &str, given: Value) -> Result<M, RpcError> {
    let mut given = match given {
        Value::Null => Value::Object(Map::new()),
        Value::Object(map) => Value::Object(map),
        other => {
            return Err(RpcError::invalid_params(format!(
                "{method}: parameters are given by name, in an object, not as {}",
                kind(&other)
            )));
        }
    };
    drop_nulls(&mut given);
    for tolerated in M::tolerated() {
        strip(method, &mut given, *tolerated)?;
    }
    let parsed: M = serde_path_to_error::deserialize(given).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        RpcError::invalid_params(format!("{method}: {}{}", place(&path, &message), in_our_words(&message)))
    })?;
    parsed.check().map_err(|sentence| RpcError::invalid_params(format!("{method}: {sentence}")))?;
    Ok(parsed)
}

/// The parameter that an error is about, with a colon; nothing where it is the parameters as a whole.
fn place(path: &str, message: &str) -> String {
    // An unknown parameter is named by the message itself; what is of use here is the object it was found in.
    let outer = path.rsplit_once('.').map_or("", |(outer, _)| outer);
    match if message.starts_with(UNKNOWN) { outer } else { path } {
        "" | "." => String::new(),
        path => format!("{}: ", shorten(path)),
    }
}

/// Removes a tolerated parameter, or refuses its value.
fn strip(method: &str, given: &mut Value, tolerated: Tolerated) -> Result<(), RpcError> {
    let (outer, name) = match tolerated.path().split_once('.') {
        Some((outer, inner)) => (given.get_mut(outer), inner),
        None => (Some(given), tolerated.path()),
    };
    let Some(value) = outer.and_then(Value::as_object_mut).and_then(|map| map.remove(name)) else {
        return Ok(());
    };
    match tolerated {
        Tolerated::Blank(path) if !is_blank(&value) => Err(RpcError::invalid_params(format!(
            "{method}: parameter `{path}` is {}, which Longrun cannot do yet; leave it out",
            shorten(&value.to_string())
        ))),
        _ => Ok(()),
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Removes members that are `null`, at every depth. The depth is bounded by the JSON reader's own limit.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// How the deserialiser begins its sentence about a member that it does not know.
const UNKNOWN: &str = "unknown field";

/// The deserialiser speaks of fields; users know parameters. Values that it quotes are cut to a bounded length.
fn in_our_words(message: &str) -> String {
    let message = message
        .replace(UNKNOWN, "unknown parameter")
        .replace("missing field", "missing parameter")
        .replace(", there are no fields", "; this method takes none");
    const BYTES_MAX: usize = 1024;
    if message.len() <= BYTES_MAX {
        return message;
    }
    // The end is what says what was expected: cut the middle.
    let head: String = message.chars().take(150).collect();
    let tail_start = message.char_indices().rev().nth(499).map_or(0, |(at, _)| at);
    format!("{head} ... {}", message.get(tail_start..).unwrap_or_default())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
