//! What was sent and is not known to have arrived: round-trip times, losses, probes. The model is RFC 9002, with time
//! instead of counts as the main rule (as RFC 8985 does for TCP), because the paths this is made for reorder for a living.

use super::ack::Ranges;
use crate::types::{Epoch, Mono, Seq, StreamId};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Datagrams in the table at most; sending waits beyond it.
pub(crate) const SENT_MAX: usize = 32 * 1024;

/// Before the first sample.
const RTT_INITIAL_NS: u64 = 100_000_000;
/// Timer granularity (RFC 9002 section 6.1.2).
const GRANULARITY_NS: u64 = 1_000_000;
/// Probe time-outs do not grow beyond this (unless a round trip is longer): a healed path is noticed soon.
const PROBE_NS_MAX: u64 = 250_000_000;
/// What the peer may hold an acknowledgement back, and its turn may take.
const ACK_DELAY_NS_MAX: u64 = 20_000_000;
/// The reordering window does not grow beyond this, or a smoothed round trip if that is longer.
const REORDER_NS_MAX: u64 = 100_000_000;
/// RFC 9002 section 6.1.1, as long as the path shows no reordering.
const PACKET_THRESHOLD: u64 = 3;

/// What a tracked datagram carried, so that it can be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A fragment of a record.
    Data { stream: StreamId, epoch: Epoch, seq: Seq, fragment: u32 },
    /// A control message.
    Message(u64),
    /// Statuses and the versions that they had.
    Statuses(SmallVec<[(StreamId, u64); 4]>),
    /// Nothing.
    Ping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    /// Declared lost then. Kept a while, so that an acknowledgement after all is noticed as such.
    Lost(Mono),
    /// Acknowledged.
    Done,
}

struct Sent {
    packet: u64,
    sent_at: Mono,
    bytes: u32,
    state: State,
    content: Content,
}

/// Round-trip times of a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rtt {
    latest_ns: u64,
    smoothed_ns: u64,
    variation_ns: u64,
    /// Least of this period and of the one before.
    least_ns: [u64; 2],
    period_start: Mono,
    sampled: bool,
}

/// How long a minimum stays believed: one to two of these. A path that became longer is then a path, not a queue.
const LEAST_PERIOD_NS: u64 = 10_000_000_000;

impl Rtt {
    fn new() -> Rtt {
        Rtt {
            latest_ns: RTT_INITIAL_NS,
            smoothed_ns: RTT_INITIAL_NS,
            variation_ns: RTT_INITIAL_NS / 2,
            least_ns: [u64::MAX; 2],
            period_start: Mono(0),
            sampled: false,
        }
    }

    /// RFC 9002 section 5.3.
    pub(crate) fn sample(&mut self, now: Mono, rtt_ns: u64, ack_delay_ns: u64) {
        if now.since_ns(self.period_start) > LEAST_PERIOD_NS {
            self.least_ns = [u64::MAX, self.least_ns[0]];
            self.period_start = now;
        }
        self.least_ns[0] = self.least_ns[0].min(rtt_ns);
        let least = self.least();
        let adjusted = if rtt_ns >= least.saturating_add(ack_delay_ns) { rtt_ns - ack_delay_ns } else { rtt_ns };
        self.latest_ns = adjusted;
        if !self.sampled {
            self.sampled = true;
            self.smoothed_ns = adjusted;
            self.variation_ns = adjusted / 2;
            return;
        }
        self.variation_ns = (3 * self.variation_ns + self.smoothed_ns.abs_diff(adjusted)) / 4;
        self.smoothed_ns = (7 * self.smoothed_ns + adjusted) / 8;
    }

    pub(crate) fn smoothed(&self) -> u64 {
        self.smoothed_ns
    }

    pub(crate) fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The least of the last 10 to 20 seconds; the initial value before the first sample.
    pub(crate) fn least(&self) -> u64 {
        let least = self.least_ns[0].min(self.least_ns[1]);
        if least == u64::MAX { RTT_INITIAL_NS } else { least }
    }
}

/// What became of tracked datagrams in one step.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Acknowledged for the first time; true if it had been declared lost.
    pub(crate) acked: Vec<(Content, bool)>,
    /// Declared lost.
    pub(crate) lost: Vec<Content>,
    /// Bytes of those that were in flight and are acknowledged.
    pub(crate) acked_bytes: u64,
    /// Bytes of those declared lost.
    pub(crate) lost_bytes: u64,
    /// How many had been declared lost and were acknowledged after all.
    pub(crate) spurious: u64,
    /// How many were acknowledged, spurious ones included.
    pub(crate) acked_packets: u64,
    /// A round-trip time.
    pub(crate) rtt_sample_ns: Option<u64>,
}

impl Outcome {
    fn clear(&mut self) {
        self.acked.clear();
        self.lost.clear();
        (self.acked_bytes, self.lost_bytes, self.spurious, self.acked_packets) = (0, 0, 0, 0);
        self.rtt_sample_ns = None;
    }
}

/// The table of tracked datagrams and everything that is concluded from it.
pub(crate) struct Recovery {
    /// In order of packet numbers.
    sent: VecDeque<Sent>,
    in_flight: usize,
    in_flight_bytes: u64,
    largest_acked: Option<u64>,
    rtt: Rtt,
    /// Beyond a round trip, how late a datagram may be.
    reorder_ns: u64,
    packet_threshold: u64,
    last_tracked_at: Mono,
    probes: u32,
}

impl Recovery {
    pub(crate) fn new() -> Recovery {
        Recovery {
            sent: VecDeque::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            largest_acked: None,
            rtt: Rtt::new(),
            reorder_ns: GRANULARITY_NS,
            packet_threshold: PACKET_THRESHOLD,
            last_tracked_at: Mono(0),
            probes: 0,
        }
    }

    pub(crate) fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    pub(crate) fn rtt_mut(&mut self) -> &mut Rtt {
        &mut self.rtt
    }

    pub(crate) fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    pub(crate) fn reorder_ns(&self) -> u64 {
        self.reorder_ns
    }

    /// Probe time-outs in a row.
    pub(crate) fn probes(&self) -> u32 {
        self.probes
    }

    /// Whether the table takes another datagram.
    pub(crate) fn has_room(&self) -> bool {
        self.sent.len() < SENT_MAX
    }

    /// The oldest packet number whose acknowledgement would still say something, if there is one.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.sent.front().map(|sent| sent.packet)
    }

    /// A datagram that is to be acknowledged was sent.
    pub(crate) fn on_sent(&mut self, now: Mono, packet: u64, bytes: u32, content: Content) {
        debug_assert!(self.sent.back().is_none_or(|last| last.packet < packet), "packet number {packet} used again");
        self.sent.push_back(Sent { packet, sent_at: now, bytes, state: State::InFlight, content });
        self.in_flight += 1;
        self.in_flight_bytes += u64::from(bytes);
        self.last_tracked_at = now;
    }

    /// Acknowledged ranges came in. The caller has checked that the highest number was sent.
    pub(crate) fn on_ack(&mut self, now: Mono, ranges: &Ranges, ack_delay_ns: u64, outcome: &mut Outcome) {
        outcome.clear();
        let largest_before = self.largest_acked;
        for (low, high) in ranges.iter() {
            let from = self.sent.partition_point(|sent| sent.packet < low);
            for at in from..self.sent.len() {
                let sent = &mut self.sent[at];
                if sent.packet > high {
                    break;
                }
                if sent.state == State::Done {
                    continue;
                }
                let was_lost = sent.state != State::InFlight;
                sent.state = State::Done;
                let (packet, sent_at, bytes) = (sent.packet, sent.sent_at, u64::from(sent.bytes));
                outcome.acked.push((std::mem::replace(&mut sent.content, Content::Ping), was_lost));
                outcome.acked_packets += 1;
                if was_lost {
                    outcome.spurious += 1;
                } else {
                    self.in_flight -= 1;
                    self.in_flight_bytes -= bytes;
                    outcome.acked_bytes += bytes;
                }
                match largest_before {
                    Some(largest) if packet < largest => self.learn_reordering(now, sent_at, largest - packet),
                    _ => {}
                }
                if Some(packet) == ranges.highest() {
                    outcome.rtt_sample_ns = Some(now.since_ns(sent_at));
                }
            }
        }
        self.largest_acked = self.largest_acked.max(ranges.highest());
        if let Some(rtt_ns) = outcome.rtt_sample_ns {
            self.rtt.sample(now, rtt_ns, ack_delay_ns.min(ACK_DELAY_NS_MAX));
        }
        if outcome.acked_packets > 0 {
            self.probes = 0;
        }
        self.detect(now, outcome);
    }

    /// A datagram was acknowledged after one that was sent later: that much lateness is this path's nature.
    fn learn_reordering(&mut self, now: Mono, sent_at: Mono, distance: u64) {
        let late_ns = now.since_ns(sent_at).saturating_sub(self.rtt.smoothed_ns);
        let cap_ns = REORDER_NS_MAX.max(self.rtt.smoothed_ns);
        self.reorder_ns = self.reorder_ns.max((late_ns + late_ns / 4).min(cap_ns));
        self.packet_threshold = self.packet_threshold.max(distance + distance / 4 + 1).min(SENT_MAX as u64);
    }

    /// Once per round trip: what was learnt of reordering fades, by half in about 45 round trips.
    pub(crate) fn fade_reordering(&mut self) {
        let floor_ns = (self.rtt.least() / 4).clamp(GRANULARITY_NS, REORDER_NS_MAX);
        self.reorder_ns = (self.reorder_ns - self.reorder_ns / 64).max(floor_ns);
        self.packet_threshold = (self.packet_threshold - self.packet_threshold / 64).max(PACKET_THRESHOLD);
    }

    fn lateness_ns(&self) -> u64 {
        self.rtt.smoothed_ns.max(self.rtt.latest_ns) + self.reorder_ns.max(GRANULARITY_NS)
    }

    /// Declares lost what was sent before something acknowledged, and is too late by number and by time.
    pub(crate) fn on_loss_timer(&mut self, now: Mono, outcome: &mut Outcome) {
        outcome.clear();
        self.detect(now, outcome);
    }

    fn detect(&mut self, now: Mono, outcome: &mut Outcome) {
        self.forget(now);
        let Some(largest) = self.largest_acked else { return };
        let late_ns = self.lateness_ns();
        for sent in &mut self.sent {
            if sent.packet >= largest {
                break;
            }
            let late = now.since_ns(sent.sent_at) >= late_ns;
            let passed = largest - sent.packet >= self.packet_threshold;
            if !late && !passed {
                break;
            }
            if sent.state != State::InFlight {
                continue;
            }
            sent.state = State::Lost(now);
            self.in_flight -= 1;
            self.in_flight_bytes -= u64::from(sent.bytes);
            outcome.lost_bytes += u64::from(sent.bytes);
            outcome.lost.push(sent.content.clone());
        }
    }

    /// Drops from the front what nothing is expected of any more.
    fn forget(&mut self, now: Mono) {
        let keep_ns = 2 * self.lateness_ns();
        while let Some(first) = self.sent.front() {
            let forgotten = match first.state {
                State::InFlight => false,
                State::Lost(at) => now.since_ns(at) > keep_ns,
                State::Done => true,
            };
            if !forgotten {
                break;
            }
            self.sent.pop_front();
        }
    }

    /// When the next datagram becomes too late.
    pub(crate) fn loss_deadline(&self) -> Option<Mono> {
        let largest = self.largest_acked?;
        let first =
            self.sent.iter().take_while(|sent| sent.packet < largest).find(|sent| sent.state == State::InFlight)?;
        Some(first.sent_at.after_ns(self.lateness_ns()))
    }

    fn probe_ns(&self) -> u64 {
        // The reordering window belongs to it: what is within it must not be probed for.
        let base_ns = self.rtt.smoothed_ns
            + (4 * self.rtt.variation_ns).max(GRANULARITY_NS).max(self.reorder_ns)
            + ACK_DELAY_NS_MAX;
        (base_ns << self.probes.min(8)).min(PROBE_NS_MAX.max(base_ns))
    }

    /// When to ask, if nothing is heard. RFC 9002 section 6.2.
    pub(crate) fn probe_deadline(&self) -> Option<Mono> {
        (self.in_flight > 0).then(|| self.last_tracked_at.after_ns(self.probe_ns()))
    }

    /// Nothing was heard: gives the contents of the oldest two datagrams to be sent again, as probes.
    pub(crate) fn on_probe_timer(&mut self, now: Mono, outcome: &mut Outcome) {
        outcome.clear();
        self.probes = self.probes.saturating_add(1);
        self.last_tracked_at = now;
        for sent in self.sent.iter_mut().filter(|sent| sent.state == State::InFlight).take(2) {
            sent.state = State::Lost(now);
            self.in_flight -= 1;
            self.in_flight_bytes -= u64::from(sent.bytes);
            outcome.lost_bytes += u64::from(sent.bytes);
            outcome.lost.push(sent.content.clone());
        }
        self.forget(now);
    }
}

#[cfg(test)]
mod tests;
