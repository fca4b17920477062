//! What a link hands to the engine.

use crate::message::Message;
use crate::primary::{Backlog, Beacon};
use crate::secondary::StreamStatus;
use crate::types::{Epoch, RecordHead, StreamId, SystemId};

/// A fragment's offset in its record is a multiple of this, and so is its length unless it is the record's last one.
pub const FRAGMENT_UNIT_BYTES: u32 = 64;

/// The largest payload that a record may have on the wire.
pub const PAYLOAD_BYTES_MAX: u32 = 16 << 20;

/// One fragment of a record, authenticated, new to the replay window, and well formed in itself: the kind is known, an
/// extent of at least one block, a number of at least 1, the fragment inside `head.payload_bytes`, starting on a unit,
/// of whole units unless it ends the payload, and not empty unless the payload is. What only a group or a volume can
/// know (epoch, generation, the extent against the volume, equality with an earlier fragment's head) is the sink's to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataFrame<'a> {
    /// The stream; also in `head.stamp`.
    pub stream: StreamId,
    /// The epoch of its number.
    pub epoch: Epoch,
    /// The number of the sender's generation.
    pub generation: u64,
    /// The whole head, in every fragment the same.
    pub head: RecordHead,
    /// Where in the payload the body lies.
    pub fragment_offset: u32,
    /// The bytes.
    pub body: &'a [u8],
}

/// What became of a data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Kept, or known already: it is acknowledged and not sent again within this session.
    Accept,
    /// Not kept: it is not acknowledged, and the sender sends it again after about a round trip.
    Drop,
    /// Whoever decides is elsewhere: [`super::Link::judged`] brings it, with the frame's ticket.
    Later,
}

/// Names a data frame until it is known whether it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The session that brought it, as [`super::Link::session_number`] counts.
    pub session: u64,
    /// The frame's place among what the session brought and was not noted at once.
    pub number: u64,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DownReason {
    /// Nothing was heard for `dead_after_ns`.
    Silence,
    /// The peer began another one: it restarted, or had given this one up.
    Replaced,
    /// The peer closed it.
    Closed,
    /// More messages waited than the control channel holds; the peer does not keep up.
    ControlOverflow,
    /// The peer broke the protocol inside an authenticated datagram.
    Protocol,
    /// Another strand of the same link had lost its session.
    Sibling,
    /// New keys could not be agreed on before the old ones were worn out.
    KeyWornOut,
}

/// Takes what arrives. Calls come from inside [`super::Link::handle_datagrams`] and [`super::Link::handle_timeout`].
pub trait LinkSink {
    /// A fragment arrived; `ticket` names it if the answer is [`Verdict::Later`].
    fn data(&mut self, from: SystemId, frame: DataFrame<'_>, ticket: Ticket) -> Verdict;
    /// A beacon arrived; `generation` is the number of the sender's.
    fn beacon(&mut self, from: SystemId, generation: u64, beacon: Beacon);
    /// The secondary of one of our streams said where it stands, newer than before. The link has freed what is durable,
    /// which is `freed`, and will send within the new grants.
    fn status(&mut self, from: SystemId, status: StreamStatus, freed: Backlog);
    /// A message arrived, in the order in which the peer sent it.
    fn message(&mut self, from: SystemId, message: Message);
    /// A session began, of this round. Streams must be opened and started again.
    fn session_up(&mut self, peer: SystemId, round: u64);
    /// The session ended; no stream is started any more. Every `session_up` but the last is followed by one of these.
    fn session_down(&mut self, peer: SystemId, reason: DownReason);
}
