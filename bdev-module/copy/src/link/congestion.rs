//! How much may be under way, and how fast: CUBIC (RFC 9438) and pacing, with one difference. On the paths this is made
//! for a lost datagram says nothing: some per cent are lost always. So losses count only when their fraction over about
//! a round trip is above a tolerance, and a queue that stands for a whole round trip counts as well. What this gives up
//! is politeness towards loss-based flows on a path whose queues are short: there it takes up to the tolerance of loss.

use crate::types::Mono;

/// RFC 9438 section 4.1: constants of the curve.
const CUBIC_C: f64 = 0.4;
const CUBIC_BETA: f64 = 0.7;

/// Segments to begin with.
const INITIAL_SEGMENTS: u64 = 32;
/// Segments that are always allowed.
const LEAST_SEGMENTS: u64 = 4;
/// Datagrams that have to be accounted for before a fraction of losses is believed.
const ROUND_PACKETS_MIN: u64 = 32;
/// A standing queue of less is not taken for one: turns, batches and receivers whose processor is busy delay as much
/// (machines that were seen stall for 10 to 70 ms), and a window made small for that stays small. A loss-based flow fills
/// far longer queues.
const QUEUE_NS_MIN: u64 = 40_000_000;
/// One train may always go at once.
const BURST_BYTES: u64 = 64 * 1024;
/// What a turn may take: so much may go at once to keep the rate.
const BURST_NS: u64 = 2_000_000;

/// The curve since the last reduction.
#[derive(Clone, Copy)]
struct Cubic {
    /// Window before the reduction, in segments.
    window_max: f64,
    /// Seconds until the curve is there again.
    k: f64,
    /// What Reno would have, in segments.
    reno: f64,
    /// Nanoseconds during which the window was used to the full. A sender with nothing to send does not climb.
    grown_ns: u64,
}

/// What a reduction for losses took, until it is known that they were losses (RFC 9438 section 4.9): on a path that
/// reorders, the first late datagrams are declared lost before the tolerance for lateness has been learned, and a small
/// window would take seconds to climb back.
struct Undo {
    window: u64,
    threshold: u64,
    cubic: Option<Cubic>,
    before: f64,
    acked: u64,
    lost: u64,
}

/// What happened since about a round trip.
struct Round {
    /// Ends when a number not below this is acknowledged.
    end_packet: u64,
    acked: u64,
    lost: u64,
    rtt_least_ns: u64,
    /// The window was used: a queue may be of our making.
    full: bool,
    /// It still shows what caused the last reduction.
    stale: bool,
}

/// Window and pacing of one session.
pub(crate) struct Congestion {
    segment: u64,
    window: u64,
    window_max: u64,
    threshold: u64,
    cubic: Option<Cubic>,
    before: f64,
    round: Round,
    loss_tolerance: f64,
    undo: Option<Undo>,
    last_ack: Mono,
    pacer: Pacer,
    pub(crate) events: u64,
}

/// Lets bytes go at a rate, in bursts.
struct Pacer {
    /// Everything sent so far is paid for at this time.
    free_at: Mono,
    rate_limit: Option<u64>,
    /// What the rate was computed from: it stays for many datagrams, and dividing for each costs as much as its header.
    paced: Paced,
    /// What a byte costs, in 2^-32 ns.
    price: u64,
    /// How long before now what is sent may count as paid.
    burst_ns: u64,
}

/// What the rate depends on.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Paced {
    window: u64,
    rtt_ns: u64,
    is_slow_start: bool,
}

fn cube_root(x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    // Newton; only additions, products and quotients, so that every platform gets the same window.
    let mut root = if x > 1.0 { x } else { 1.0 };
    for _ in 0..200 {
        let next = (2.0 * root + x / (root * root)) / 3.0;
        if (next - root).abs() <= root * 1e-12 {
            break;
        }
        root = next;
    }
    root
}

impl Congestion {
    pub(crate) fn new(segment: usize, window_max: u64, loss_tolerance: f64, rate_limit: Option<u64>) -> Congestion {
        let segment = segment as u64;
        Congestion {
            segment,
            window: (INITIAL_SEGMENTS * segment).min(window_max),
            window_max,
            threshold: u64::MAX,
            cubic: None,
            before: 0.0,
            round: Round { end_packet: 0, acked: 0, lost: 0, rtt_least_ns: u64::MAX, full: false, stale: false },
            loss_tolerance,
            undo: None,
            last_ack: Mono(0),
            pacer: Pacer { free_at: Mono(0), rate_limit, paced: Paced::default(), price: 0, burst_ns: BURST_NS },
            events: 0,
        }
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    fn is_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// Datagrams were declared lost.
    pub(crate) fn on_lost(&mut self, packets: u64) {
        self.round.lost += packets;
    }

    /// Datagrams that had been declared lost were acknowledged.
    pub(crate) fn on_spurious(&mut self, packets: u64) {
        self.round.lost = self.round.lost.saturating_sub(packets);
        let Some(undo) = &mut self.undo else { return };
        undo.lost = undo.lost.saturating_sub(packets);
        undo.acked += packets;
        let (acked, lost) = (undo.acked, undo.lost);
        if !self.is_excessive(acked, lost)
            && let Some(undo) = self.undo.take()
            && undo.window > self.window
        {
            self.window = undo.window;
            self.threshold = undo.threshold;
            self.cubic = undo.cubic;
            self.before = undo.before;
        }
    }

    /// Whether so many losses are more than the path's nature.
    fn is_excessive(&self, acked: u64, lost: u64) -> bool {
        // Three beyond the fraction: in a round of few datagrams chance alone exceeds it.
        lost as f64 > self.loss_tolerance * (acked + lost) as f64 + 3.0
    }

    /// Datagrams were acknowledged. `in_flight` is what was under way just before. Returns whether a round trip ended.
    #[expect(clippy::too_many_arguments, reason = "one call site, and all of it is needed at once")]
    pub(crate) fn on_acked(
        &mut self,
        now: Mono,
        bytes: u64,
        packets: u64,
        highest: u64,
        next_packet: u64,
        in_flight: u64,
        rtt_sample_ns: Option<u64>,
        rtt: &super::recovery::Rtt,
    ) -> bool {
        self.round.acked += packets;
        if let Some(sample) = rtt_sample_ns {
            self.round.rtt_least_ns = self.round.rtt_least_ns.min(sample);
        }
        let since = now.since_ns(self.last_ack).min(rtt.smoothed());
        self.last_ack = now;
        if in_flight * 2 >= self.window {
            self.round.full = true;
            self.grow(bytes, since, rtt.smoothed());
        }
        if highest < self.round.end_packet {
            return false;
        }
        self.end_round(next_packet, rtt.least());
        true
    }

    fn end_round(&mut self, next_packet: u64, rtt_least_ns: u64) {
        self.round.end_packet = next_packet;
        let (acked, lost) = (self.round.acked, self.round.lost);
        let queue_ns = self.round.rtt_least_ns.saturating_sub(rtt_least_ns);
        let sampled = self.round.rtt_least_ns != u64::MAX;
        let full = std::mem::take(&mut self.round.full);
        self.round.rtt_least_ns = u64::MAX;
        if std::mem::take(&mut self.round.stale) {
            (self.round.acked, self.round.lost) = (0, 0);
            return;
        }
        let counted = acked + lost >= ROUND_PACKETS_MIN;
        let excessive = counted && self.is_excessive(acked, lost);
        let queued = sampled && full && queue_ns > QUEUE_NS_MIN.max(rtt_least_ns / 2);
        if excessive || queued {
            let Congestion { window, threshold, cubic, before, .. } = *self;
            self.undo = (!queued).then_some(Undo { window, threshold, cubic, before, acked, lost });
            self.reduce();
        } else if sampled && self.is_slow_start() && queue_ns > (QUEUE_NS_MIN / 2).max(rtt_least_ns / 4) {
            // The queue begins to build: the window is about right, no reason to make it smaller.
            self.threshold = self.window;
        }
        if counted {
            (self.round.acked, self.round.lost) = (0, 0);
        }
    }

    /// RFC 9438 sections 4.6 and 4.7.
    fn reduce(&mut self) {
        self.events += 1;
        let segments = self.window as f64 / self.segment as f64;
        let window_max = if segments < self.before { segments * (1.0 + CUBIC_BETA) / 2.0 } else { segments };
        self.before = segments;
        self.window = ((segments * CUBIC_BETA) as u64 * self.segment).max(LEAST_SEGMENTS * self.segment);
        self.threshold = self.window;
        let reduced = self.window as f64 / self.segment as f64;
        let k = cube_root((window_max - reduced).max(0.0) / CUBIC_C);
        self.cubic = Some(Cubic { window_max, k, reno: reduced, grown_ns: 0 });
        (self.round.acked, self.round.lost) = (0, 0);
        self.round.stale = true;
    }

    /// Nothing came through for several probes: what was known of the path is void. RFC 9002 section 7.6.
    pub(crate) fn on_persistent(&mut self) {
        self.events += 1;
        self.undo = None;
        self.threshold = (self.window / 2).max(INITIAL_SEGMENTS * self.segment);
        self.window = LEAST_SEGMENTS * self.segment;
        self.cubic = None;
        (self.round.acked, self.round.lost, self.round.stale) = (0, 0, true);
    }

    fn grow(&mut self, bytes: u64, since_ns: u64, rtt_ns: u64) {
        if self.is_slow_start() {
            self.window = (self.window + bytes).min(self.window_max);
            return;
        }
        let segments = self.window as f64 / self.segment as f64;
        let cubic = self.cubic.get_or_insert(Cubic { window_max: segments, k: 0.0, reno: segments, grown_ns: 0 });
        cubic.grown_ns += since_ns;
        let acked = bytes as f64 / self.segment as f64;
        // Section 4.3: what Reno would do, with the factor that makes it fair to Reno.
        let alpha = if cubic.reno >= cubic.window_max { 1.0 } else { 3.0 * (1.0 - CUBIC_BETA) / (1.0 + CUBIC_BETA) };
        cubic.reno += alpha * acked / segments;
        // Section 4.2: where the curve is in one round trip from now.
        let offset = (cubic.grown_ns + rtt_ns) as f64 / 1e9 - cubic.k;
        let curve = CUBIC_C * offset * offset * offset + cubic.window_max;
        let target = curve.clamp(segments, segments * 1.5);
        let grown = (segments + (target - segments) * acked / segments).max(cubic.reno.min(segments * 1.5));
        self.window = ((grown * self.segment as f64) as u64).clamp(LEAST_SEGMENTS * self.segment, self.window_max);
    }

    /// Bytes per second at which datagrams leave.
    fn rate(&self, rtt_ns: u64) -> u64 {
        let per_second = u128::from(self.window) * 1_000_000_000 / u128::from(rtt_ns.max(1000));
        // RFC 9002 section 7.7: a little faster than the window, so that the window is what limits.
        let paced = if self.is_slow_start() { per_second * 2 } else { per_second * 5 / 4 };
        let paced = u64::try_from(paced).unwrap_or(u64::MAX);
        self.pacer.rate_limit.map_or(paced, |limit| limit.min(paced)).max(1)
    }

    /// Pays for bytes that were sent.
    pub(crate) fn pay(&mut self, now: Mono, bytes: u64, rtt_ns: u64) {
        // A window is never 0, so the first datagram finds no price either.
        let paced = Paced { window: self.window, rtt_ns, is_slow_start: self.is_slow_start() };
        if paced != self.pacer.paced {
            let rate = self.rate(rtt_ns);
            self.pacer.paced = paced;
            self.pacer.price = u64::try_from((1_000_000_000_u128 << 32) / u128::from(rate)).unwrap_or(u64::MAX);
            self.pacer.burst_ns = BURST_NS.max(BURST_BYTES * 1_000_000_000 / rate.max(BURST_BYTES));
        }
        let cost_ns = u64::try_from((u128::from(bytes) * u128::from(self.pacer.price)) >> 32).unwrap_or(u64::MAX);
        let credit_from = Mono(now.0.saturating_sub(self.pacer.burst_ns));
        self.pacer.free_at = self.pacer.free_at.max(credit_from).after_ns(cost_ns);
    }

    /// When the next datagram may leave.
    pub(crate) fn free_at(&self) -> Mono {
        self.pacer.free_at
    }
}

#[cfg(test)]
mod tests {
    use super::super::recovery::Rtt;
    use super::*;

    const RTT_NS: u64 = 10_000_000;

    /// Rounds of full windows, of which `loss` is lost and whose round trips take `rtt_ns`.
    fn rounds(congestion: &mut Congestion, rtt: &mut Rtt, now: &mut Mono, count: usize, loss: f64, rtt_ns: u64) {
        let mut packet = now.0;
        for _ in 0..count {
            *now = now.after_ns(rtt_ns);
            rtt.sample(*now, rtt_ns, 0);
            let packets = congestion.window() / 1400;
            let lost = (packets as f64 * loss) as u64;
            let in_flight = congestion.window();
            congestion.on_lost(lost);
            packet += packets;
            congestion.on_acked(
                *now,
                (packets - lost) * 1400,
                packets - lost,
                packet,
                packet + 1,
                in_flight,
                Some(rtt_ns),
                rtt,
            );
        }
    }

    fn fresh() -> (Congestion, Rtt, Mono) {
        let rtt = super::super::recovery::Recovery::new().rtt().to_owned();
        (Congestion::new(1400, 32 << 20, 0.10, None), rtt, Mono(1))
    }

    #[test]
    fn loss_within_the_tolerance_does_not_shrink_the_window() {
        let (mut congestion, mut rtt, mut now) = fresh();
        rounds(&mut congestion, &mut rtt, &mut now, 30, 0.08, RTT_NS);
        assert_eq!(congestion.events, 0);
        assert!(congestion.window() > 8 << 20, "{}", congestion.window());
    }

    #[test]
    fn loss_beyond_the_tolerance_shrinks_the_window_once_per_round() {
        let (mut congestion, mut rtt, mut now) = fresh();
        rounds(&mut congestion, &mut rtt, &mut now, 8, 0.0, RTT_NS);
        assert!(congestion.is_slow_start());
        rounds(&mut congestion, &mut rtt, &mut now, 1, 0.3, RTT_NS);
        assert_eq!(congestion.events, 1);
        assert!(!congestion.is_slow_start());
        // The next round shows losses of the time before the reduction: not counted again.
        rounds(&mut congestion, &mut rtt, &mut now, 1, 0.3, RTT_NS);
        assert_eq!(congestion.events, 1);
        rounds(&mut congestion, &mut rtt, &mut now, 1, 0.3, RTT_NS);
        assert_eq!(congestion.events, 2);
    }

    #[test]
    fn a_queue_that_stands_for_a_round_trip_shrinks_the_window() {
        let (mut congestion, mut rtt, mut now) = fresh();
        rounds(&mut congestion, &mut rtt, &mut now, 6, 0.0, RTT_NS);
        rounds(&mut congestion, &mut rtt, &mut now, 1, 0.0, 6 * RTT_NS);
        assert_eq!(congestion.events, 1);
    }

    #[test]
    fn delay_that_is_a_busy_processor_s_or_comes_while_the_window_is_not_used_shrinks_nothing() {
        let (mut congestion, mut rtt, mut now) = fresh();
        rounds(&mut congestion, &mut rtt, &mut now, 6, 0.0, RTT_NS);
        rounds(&mut congestion, &mut rtt, &mut now, 1, 0.0, 4 * RTT_NS);
        assert_eq!(congestion.events, 0);
        now = now.after_ns(100_000_000);
        let packet = now.0;
        let in_flight = congestion.window() / 4;
        congestion.on_acked(now, 1400, 1, packet, packet + 1, in_flight, Some(8 * RTT_NS), &rtt);
        assert_eq!(congestion.events, 0);
    }

    #[test]
    fn a_reduction_for_losses_that_were_none_is_undone() {
        let (mut congestion, mut rtt, mut now) = fresh();
        rounds(&mut congestion, &mut rtt, &mut now, 6, 0.0, RTT_NS);
        let late = congestion.window() / 1400 * 3 / 10;
        rounds(&mut congestion, &mut rtt, &mut now, 1, 0.3, RTT_NS);
        let reduced = congestion.window();
        assert_eq!(congestion.events, 1);
        congestion.on_spurious(late / 4);
        assert_eq!(congestion.window(), reduced, "too few came after all");
        congestion.on_spurious(late * 3 / 4);
        let restored = congestion.window();
        assert!(restored as f64 > reduced as f64 / CUBIC_BETA * 0.99, "{reduced} to {restored}");
        assert!(congestion.is_slow_start());
        congestion.on_spurious(late);
        assert_eq!(congestion.window(), restored);
    }

    #[test]
    fn after_a_reduction_the_window_climbs_back() {
        let (mut congestion, mut rtt, mut now) = fresh();
        rounds(&mut congestion, &mut rtt, &mut now, 5, 0.0, RTT_NS);
        rounds(&mut congestion, &mut rtt, &mut now, 1, 0.4, RTT_NS);
        let reduced = congestion.window();
        rounds(&mut congestion, &mut rtt, &mut now, 2000, 0.0, RTT_NS);
        assert!(congestion.window() > 2 * reduced, "{reduced} to {}", congestion.window());
        assert!(congestion.window() <= 32 << 20);
    }

    #[test]
    fn the_pacer_keeps_to_the_rate_limit() {
        let limit = 1_000_000;
        let mut congestion = Congestion::new(1400, 32 << 20, 0.1, Some(limit));
        let (mut now, mut sent) = (Mono(1_000_000_000), 0u64);
        let end = now.after_ns(10_000_000_000);
        while now < end {
            while congestion.free_at() <= now {
                congestion.pay(now, 1400, RTT_NS);
                sent += 1400;
            }
            now = now.after_ns(700_000);
        }
        assert!(sent.abs_diff(10 * limit) < limit / 5, "{sent} bytes in 10 s at {limit} bytes/s");
    }

    #[test]
    fn cube_roots() {
        for x in [0.001, 0.5, 1.0, 8.0, 12345.0, 1e9] {
            let root = cube_root(x);
            assert!((root * root * root - x).abs() < x * 1e-9, "{x}: {root}");
        }
    }
}
