//! The link between two systems: authenticated datagrams, acknowledged and retransmitted, in one machine without I/O.
//!
//! One [`Link`] per peer system, the same code on both sides; either may begin, and if both do, one handshake wins.
//! It carries what the primary roles send (records in fragments, beacons), what the secondary roles answer (a
//! [`StreamStatus`](crate::secondary::StreamStatus) per stream) and control [messages](crate::message::Message), in order
//! within a session. It is the store of records that are not known to be durable on the other side, and it does not
//! reassemble what arrives: fragments go to the [`LinkSink`] as they come.
//!
//! The face of `Link<S>` (`S` is the payload handle), besides [`LinkConfig`] and [`LinkSink`]:
//!
//! ```text
//! Link::new(config, seed: [u8; 32]) -> Result<Link<S>, LinkConfigError>
//! handle_datagrams(now: Now, from: SocketAddr, train: &mut [u8], segment_bytes: usize, sink: &mut impl LinkSink)
//! handle_timeout(now: Now, sink)      next_timeout() -> Option<Mono>
//! poll_transmit(now: Now, out: &mut [u8]) -> Option<Train { bytes, segment_bytes, to }>, until None, each turn
//! stream_start(stream, epoch, generation, durable)   stream_push(epoch, record)   stream_drop(stream)
//! stream_backlog(stream) -> Backlog   send_beacon(beacon)   send_status(status)   send_message(message)
//! session_is_up() -> bool   peer() -> SystemId   stats() -> LinkStats   close()
//! ```

mod config;
mod noise;
mod sink;
mod stats;

pub use config::{LinkConfig, LinkConfigError, MTU_BYTES_MAX, MTU_BYTES_MIN, Security};
pub use noise::{generate_keypair, public_of};
pub use sink::{DataFrame, DownReason, FRAGMENT_UNIT_BYTES, LinkSink, PAYLOAD_BYTES_MAX, Verdict};
pub use stats::LinkStats;
