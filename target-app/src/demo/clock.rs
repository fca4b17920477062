//! The host's one clock, and where the group's timeline stands on it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use longrun_checker::HostTime;

#[cfg(test)]
mod tests;

/// How fast the group's timeline may move against the host's monotonic clock while it is slewed towards the wall clock,
/// in parts per million, doubled for safety.
const SLEW_PPM_MAX: u64 = 1_000;

/// The host's clock: monotonic, begun at the wall clock so that its numbers mean something to a reader.
#[derive(Clone, Copy, Debug)]
pub struct HostClock {
    begun: Instant,
    begun_ns: u64,
}

impl HostClock {
    /// A clock that begins now.
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        HostClock { begun: Instant::now(), begun_ns: wall.as_nanos() as u64 }
    }

    /// The time now.
    pub fn now(&self) -> HostTime {
        HostTime(self.begun_ns + self.begun.elapsed().as_nanos() as u64)
    }
}

/// The timeline was read at a moment between two readings of the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bracket {
    /// Before the question was sent.
    pub before: HostTime,
    /// After the answer came.
    pub after: HostTime,
    /// The answer.
    pub timeline_ns: u64,
}

impl Bracket {
    /// How much this leaves open, in nanoseconds.
    fn width_ns(&self) -> u64 {
        self.after.0 - self.before.0
    }
}

/// A time of the timeline on the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The middle of where it can be.
    pub at: HostTime,
    /// How far it can be from there, in nanoseconds.
    pub error_ns: u64,
}

/// Collects brackets, and maps with the one that says most about a given time.
#[derive(Clone, Debug, Default)]
pub struct TimelineMap {
    brackets: Vec<Bracket>,
}

impl TimelineMap {
    /// Adds what one question has shown.
    pub fn add(&mut self, bracket: Bracket) {
        self.brackets.push(bracket);
    }

    /// Where `timeline_ns` is on the host's clock: from the bracket whose own width, with what the timeline can have
    /// slewed between it and then, leaves least open. Nothing without brackets.
    pub fn map(&self, timeline_ns: u64) -> Option<Mapped> {
        self.brackets
            .iter()
            .map(|bracket| {
                let host = bracket.before.0 + bracket.width_ns() / 2;
                let timeline = bracket.timeline_ns;
                let away_ns = timeline.abs_diff(timeline_ns);
                let slew_ns = (u128::from(away_ns) * u128::from(SLEW_PPM_MAX)).div_ceil(1_000_000) as u64;
                let at =
                    if timeline_ns >= timeline { host.saturating_add(away_ns) } else { host.saturating_sub(away_ns) };
                Mapped { at: HostTime(at), error_ns: bracket.width_ns().div_ceil(2) + 1 + slew_ns }
            })
            .min_by_key(|mapped| mapped.error_ns)
    }
}
