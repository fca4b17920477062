//! What the primary roles ask of the links.

use crate::message::Message;
use crate::ports::Ports;
use crate::types::{Epoch, Generation, LinkId, Record, Seq, StreamId, Time};

/// "No record of mine at or before `time` has a number above `seq`": moves the tip of a stream without new records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// The stream.
    pub stream: StreamId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Complete up to here.
    pub time: Time,
    /// The last number given.
    pub seq: Seq,
}

/// What the primary roles ask of the links, beside the world's ports. The link keeps every record until the secondary
/// reported it durable; it is the one store of unacknowledged records.
pub trait Uplink: Ports {
    /// Starts or resumes sending a stream: forget what is not above `durable`, (re)send all that is, then go on with what
    /// comes. The first time, `durable` is base - 1.
    fn stream_start(&mut self, link: LinkId, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq);
    /// As [`Uplink::stream_start`], for an epoch of the process before: the secondary may have more of it than is pushed.
    fn stream_replay(&mut self, link: LinkId, stream: StreamId, epoch: Epoch, generation: Generation, durable: Seq);
    /// Hands a stamped record to its stream; its number is the stream's next. Before the stream was started (or while
    /// the session is down) it is only kept.
    fn stream_push(&mut self, link: LinkId, epoch: Epoch, record: Record<Self::Shared>);
    /// Frees everything of a stream; nothing of it is sent any more.
    fn stream_drop(&mut self, link: LinkId, stream: StreamId);
    /// Calls `each` with every record that the stream still keeps, in order of numbers.
    fn stream_kept(&self, link: LinkId, stream: StreamId, each: &mut dyn FnMut(&Record<Self::Shared>));
    /// What the stream still keeps.
    fn stream_backlog(&self, link: LinkId, stream: StreamId) -> Backlog;
    /// Sends a beacon (may be lost; the newest replaces older ones that wait).
    fn send_beacon(&mut self, link: LinkId, beacon: Beacon);
    /// Sends a message reliably within the session; dropped if there is none.
    fn send_message(&mut self, link: LinkId, message: Message);
    /// Whether a session is up.
    fn session_is_up(&self, link: LinkId) -> bool;
}

/// What a stream keeps because it is not known to be durable at the secondary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many records.
    pub records: u64,
    /// Their charge ([`crate::types::RecordHead::charge_bytes`]).
    pub bytes: u64,
    /// The oldest record's time.
    pub oldest: Option<Time>,
}
