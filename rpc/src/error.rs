//! What a caller is told when a call does not work: a code a script can test and a sentence an operator can act on.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The codes in use. JSON-RPC 2.0 section 5.1 for those below -32000; the rest are SPDK's habit.
pub mod code {
    /// The bytes are not JSON, or no request can be found in them.
    pub const PARSE_ERROR: i32 = -32700;
    /// JSON, but not a request.
    pub const INVALID_REQUEST: i32 = -32600;
    /// No such method.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// A parameter is unknown, missing, of the wrong type or out of its range.
    pub const INVALID_PARAMS: i32 = -32602;
    /// The server broke one of its own promises.
    pub const INTERNAL_ERROR: i32 = -32603;
    /// The call is right, the object's state is not.
    pub const WRONG_STATE: i32 = -1;
    /// The object does not exist.
    pub const NO_DEVICE: i32 = -libc::ENODEV;
    /// An object of this name exists already.
    pub const EXISTS: i32 = -libc::EEXIST;
    /// The object is in use by another one.
    pub const BUSY: i32 = -libc::EBUSY;
    /// Understood, but this build or this object cannot do it.
    pub const NOT_SUPPORTED: i32 = -libc::EOPNOTSUPP;
    /// A sized pool has no room for one more.
    pub const NO_SPACE: i32 = -libc::ENOSPC;
    /// No memory left in an arena.
    pub const NO_MEMORY: i32 = -libc::ENOMEM;
    /// The medium failed.
    pub const IO: i32 = -libc::EIO;
    /// The time allowed for the call is over.
    pub const TIMED_OUT: i32 = -libc::ETIMEDOUT;
}

/// A JSON-RPC error object.
///
/// `message` says what was given, what was expected and what to do; `data`, where present, is for programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct RpcError {
    /// One of [`code`], or another negative errno.
    pub code: i32,
    /// A sentence for the operator.
    pub message: String,
    /// Details for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl RpcError {
    /// An error with any code.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The same error with details for programs.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// -32700: the bytes are not JSON.
    pub fn parse_error(message: impl Into<String>) -> Self {
        Self::new(code::PARSE_ERROR, message)
    }

    /// -32600: JSON, but not a request.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_REQUEST, message)
    }

    /// -32601: no such method; names the nearest one there is.
    pub fn method_not_found(method: &str) -> Self {
        let shown = shorten(method);
        let hint = match crate::methods::nearest(method) {
            Some(near) => format!("; did you mean {near}?"),
            None => String::new(),
        };
        Self::new(
            code::METHOD_NOT_FOUND,
            format!("there is no method `{shown}`{hint} (rpc_get_methods lists the methods there are)"),
        )
    }

    /// -32602: a parameter is unknown, missing or wrong.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_PARAMS, message)
    }

    /// -32603: our own fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(code::INTERNAL_ERROR, message)
    }

    /// -1: the call is right, the state is not. The message names the state and what leads out of it.
    pub fn wrong_state(message: impl Into<String>) -> Self {
        Self::new(code::WRONG_STATE, message)
    }

    /// A negative errno. A positive `errno` (as libc names them) is negated; zero, which means success, becomes -EIO.
    pub fn errno(errno: i32, message: impl Into<String>) -> Self {
        let code = match errno {
            0 => code::IO,
            n if n > 0 => -n,
            n => n,
        };
        Self::new(code, message)
    }

    /// -19 (ENODEV): an object of this kind and name does not exist. `list_method` is the call that lists those that do.
    pub fn not_found(kind: &str, name: &str, list_method: &str) -> Self {
        let shown = shorten(name);
        Self::new(code::NO_DEVICE, format!("there is no {kind} named `{shown}`; {list_method} lists those there are"))
    }

    /// -17 (EEXIST): an object of this kind and name exists already.
    pub fn exists(kind: &str, name: &str) -> Self {
        let shown = shorten(name);
        Self::new(
            code::EXISTS,
            format!("a {kind} named `{shown}` exists already; delete it first or choose another name"),
        )
    }

    /// -16 (EBUSY): `owner` holds the object.
    pub fn busy(kind: &str, name: &str, owner: &str) -> Self {
        let shown = shorten(name);
        Self::new(code::BUSY, format!("{kind} `{shown}` is in use by {owner}; release it there first"))
    }

    /// -95 (EOPNOTSUPP): understood, but not possible here.
    pub fn not_supported(message: impl Into<String>) -> Self {
        Self::new(code::NOT_SUPPORTED, message)
    }
}

/// A name as given by a caller, cut to a length that fits a message.
pub(crate) fn shorten(given: &str) -> String {
    const CHARS_MAX: usize = 80;
    if given.chars().count() <= CHARS_MAX {
        given.to_owned()
    } else {
        given.chars().take(CHARS_MAX).chain("...".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_is_always_sent_negative_and_never_zero() {
        assert_eq!(RpcError::errno(libc::ENODEV, "x").code, -19);
        assert_eq!(RpcError::errno(-libc::ENODEV, "x").code, -19);
        assert_eq!(RpcError::errno(0, "x").code, -libc::EIO);
    }

    #[test]
    fn an_unknown_method_is_answered_with_the_nearest_known_one() {
        let error = RpcError::method_not_found("bdev_malloc_creat");
        assert_eq!(error.code, -32601);
        assert!(error.message.contains("did you mean bdev_malloc_create?"), "{}", error.message);
        let far = RpcError::method_not_found(&"z".repeat(10_000));
        assert!(far.message.len() < 300 && !far.message.contains("did you mean"), "{}", far.message);
    }

    #[test]
    fn an_error_without_data_has_no_data_member() {
        let text = serde_json::to_string(&RpcError::exists("bdev", "m0")).unwrap();
        assert!(text.contains("\"code\":-17") && !text.contains("data"), "{text}");
    }
}
