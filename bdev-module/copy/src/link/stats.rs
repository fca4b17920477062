//! What a link counts.

/// Counters of one link since it was made, and a few present values; for `link_get`. All are cheap to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Datagrams handed out for sending, of every kind.
    pub datagrams_sent: u64,
    /// Their bytes, headers included.
    pub bytes_sent: u64,
    /// Trains they went out in.
    pub trains_sent: u64,
    /// Datagrams that came in, whatever became of them.
    pub datagrams_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Data frames sent for the first time.
    pub data_frames_sent: u64,
    /// Data frames sent again.
    pub data_frames_retransmitted: u64,
    /// Payload bytes in data frames sent for the first time.
    pub payload_bytes_sent: u64,
    /// Data frames that the sink accepted.
    pub data_frames_accepted: u64,
    /// Data frames that the sink did not keep.
    pub data_frames_refused: u64,
    /// Payload bytes in accepted data frames.
    pub payload_bytes_accepted: u64,
    /// Tracked datagrams declared lost.
    pub datagrams_lost: u64,
    /// Of these, how many were acknowledged after all.
    pub losses_spurious: u64,
    /// Probe time-outs.
    pub probe_timeouts: u64,
    /// Times that the congestion window was reduced.
    pub congestion_events: u64,
    /// Beacons sent.
    pub beacons_sent: u64,
    /// Acknowledgements sent.
    pub acks_sent: u64,
    /// Control messages sent, again or for the first time.
    pub messages_sent: u64,
    /// Control messages handed to the sink.
    pub messages_received: u64,
    /// Handshakes begun by this side.
    pub handshakes_initiated: u64,
    /// Handshakes of the peer's that were answered.
    pub handshakes_answered: u64,
    /// Sessions that came up.
    pub sessions: u64,
    /// New keys agreed on inside a session.
    pub rekeys: u64,
    /// Dropped: too short, too long, or with an unknown version or kind.
    pub dropped_malformed: u64,
    /// Dropped: of no session known here.
    pub dropped_stale_session: u64,
    /// Dropped: packet number seen before, or too old to know.
    pub dropped_replayed: u64,
    /// Dropped: authentication (or the CRC, without security) failed.
    pub dropped_unauthentic: u64,
    /// Dropped: authentic, but its content makes no sense.
    pub dropped_invalid: u64,
    /// Dropped: handshake with a wrong key, an old timestamp, or more of them than the limit.
    pub dropped_handshake: u64,
    /// Of how many strands a link the peer believes this to be one, if it called so and was refused for it; 0: it did not.
    pub strands_refused: u8,
    /// Statuses that named a number which was never given, or an epoch that is not the stream's.
    pub statuses_ignored: u64,
    /// Smoothed round-trip time, 0 before the first sample.
    pub rtt_ns: u64,
    /// Least round-trip time of the last seconds.
    pub rtt_min_ns: u64,
    /// How late a datagram may be before it is taken for lost.
    pub reorder_window_ns: u64,
    /// Congestion window.
    pub window_bytes: u64,
    /// Bytes sent and neither acknowledged nor lost.
    pub in_flight_bytes: u64,
    /// Whether a session is up.
    pub session_up: bool,
}
