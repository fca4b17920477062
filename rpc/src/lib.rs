//! JSON-RPC 2.0 as SPDK's users know it: the types of every method, a Unix-socket server and a blocking client.
//!
//! This crate knows types, not engines. It reads bytes into [`methods::Call`]s, which cannot be wrong in form, and
//! leaves what they mean to the [`server::Handler`] that the program gives it.
//!
//! - [`framing`]: bytes to requests and back, without I/O;
//! - [`error`]: what a caller is told when something does not work;
//! - [`methods`]: one parameter type and one result type per method, with units;
//! - [`moment`]: moments as people read and type them;
//! - [`types`]: the values parameters are made of, each checked when it is read;
//! - [`config`]: the file that `save_config` writes and `longrun serve --config` reads;
//! - [`server`]: the socket's serving end (asynchronous, outside the pinned cores);
//! - [`client`]: the calling end (blocking, for the command line and for tests).
//!
//! What the design gives up: requests of one connection are served one after the other, as a script expects; who wants
//! two calls at the same time opens two connections. A connection that sends something that is not JSON is answered and
//! closed, because JSON without lengths has no place to start again from.

pub mod client;
pub mod config;
pub mod error;
pub mod framing;
pub mod methods;
pub mod moment;
pub mod server;
pub mod types;

pub use client::{Client, ClientError};
pub use error::RpcError;
pub use methods::{Call, Method};
pub use server::{Handler, Server};

/// Where `longrun serve` listens and `longrun rpc` looks, unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/tmp/longrun.sock";
