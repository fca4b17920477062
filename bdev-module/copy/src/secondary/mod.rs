//! The secondary roles of an engine: from frames to volumes.

use crate::message::Message;
use crate::ports::Ports;
use crate::types::{Epoch, LinkId, Seq, StreamId};

/// What a secondary tells a stream's sender; one such replaces the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// The stream.
    pub stream: StreamId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The end of the longest run that was received.
    pub run: Seq,
    /// Everything up to this number is durable in every group that it belongs to.
    pub durable: Seq,
    /// How many records above `durable` the sender may have sent.
    pub grant_records: u32,
    /// How many bytes ([`crate::types::RecordHead::charge_bytes`]) above `durable` the sender may have sent. Sent in
    /// order of numbers, so the record that closes a gap always has its room.
    pub grant_bytes: u64,
}

/// What the secondary roles ask of the links, beside the world's ports.
pub trait Downlink: Ports {
    /// Tells a stream's sender where it stands; sent soon, coalesced, repeated until replaced.
    fn send_status(&mut self, link: LinkId, status: StreamStatus);
    /// Sends a message reliably within the session; dropped if there is none.
    fn send_message(&mut self, link: LinkId, message: Message);
}
