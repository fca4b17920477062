//! NVMe-oF over TCP as state machines without I/O: the target's side and a small host's side.
//!
//! Nothing here reads a clock, opens a socket or starts a thread; `now_ns` is an argument (any monotonic origin), bytes come
//! in by [`target::Connection::receive`], effects go out through [`target::Ports`]. The same machine runs in a reactor, in
//! memory against [`host`] in the tests, and under a fuzzer ([`fuzz`]).
//!
//! Standards, cited by section in the code: NVM Express Base 2.0 ("Base"), NVM Command Set 1.0 ("NVM"), NVMe/TCP
//! Transport 1.0 ("TCP").
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`pdu`] | PDU layouts, framing, digests, for both directions |
//! | [`spec`] | submission and completion entries, status codes, registers, identify and log layouts |
//! | [`target`] | configuration snapshot, [`target::Connection`], its [`target::Ports`], how controllers span cores |
//! | [`host`] | an initiator: queue pairs, bring-up of a controller, discovery |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod host;
mod inline;
mod nqn;
pub mod pdu;
pub mod spec;
pub mod target;
#[cfg(test)]
mod tests;

#[doc(hidden)]
pub mod fuzz;

pub use inline::Inline;
pub use nqn::{DISCOVERY_NQN, NQN_BYTES_MAX, Nqn, NqnError};
