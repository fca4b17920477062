//! The stamper: one function gives one time and every stream's next number.
//!
//! A core has one [`Stamper`] for all streams that it feeds (design 4a, "one stamper"): were the time read in one place
//! and the number given in another, number order could contradict time order and a tip would lie. Beacons come from the
//! same function and raise the same floor.

use crate::types::{Epoch, Now, Seq, Stamp, StreamId, Time};
use slab::Slab;
use smallvec::SmallVec;

/// Stamps for the streams that one write feeds; nearly always one.
pub type Stamps = SmallVec<[Stamp; 2]>;

/// A stream that the stamper numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numbering(usize);

/// No stamp may be given now: its time would be above the lease, and a restart could give it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the next stamp is at {next}, the timeline is leased up to {lease}: stamp when the lease has moved")]
pub struct LeaseSpent {
    /// The time that the stamp would have.
    pub next: Time,
    /// The end of the lease.
    pub lease: Time,
}

/// Where a stream's count stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The stream.
    pub stream: StreamId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The last number given; base - 1 if none.
    pub last: Seq,
    /// No later record has this time or an earlier one.
    pub floor: Time,
}

/// Gives times and numbers. Times rise strictly over all its streams.
#[derive(Debug, Default)]
pub struct Stamper {
    /// The latest time given, promised by a beacon, or told to be used by others.
    floor: Time,
    counts: Slab<Count>,
}

impl Stamper {
    /// Without streams.
    pub fn new() -> Stamper {
        Stamper::default()
    }

    /// Begins an epoch of a stream; its first record will have number `base` (at least 1).
    pub fn open(&mut self, stream: StreamId, epoch: Epoch, base: Seq) -> Numbering {
        assert!(base.0 >= 1, "a stream's first number is at least 1, so that \"none yet\" has a number");
        Numbering(self.counts.insert(Count { stream, epoch, last: base.previous(), floor: self.floor }))
    }

    /// Ends an epoch: nothing is stamped in it any more. Its count.
    pub fn close(&mut self, numbering: Numbering) -> Count {
        self.counts.remove(numbering.0)
    }

    /// Where the stream's count stands.
    pub fn count(&self, numbering: Numbering) -> Count {
        self.counts[numbering.0]
    }

    /// The latest time that was given or promised.
    pub fn floor(&self) -> Time {
        self.floor
    }

    /// No stamp from here on has this time or an earlier one.
    pub fn raise(&mut self, base_time: Time) {
        self.floor = self.floor.max(base_time);
    }

    /// One time, and for each of the streams its next number.
    ///
    /// # Errors
    /// [`LeaseSpent`]: nothing was given. The caller keeps the write until the lease moved.
    pub fn stamp(&mut self, now: Now, streams: &[Numbering]) -> Result<Stamps, LeaseSpent> {
        let time = now.time.max(self.floor.after_ns(1));
        if time > now.lease || time == self.floor {
            return Err(LeaseSpent { next: time, lease: now.lease });
        }
        self.floor = time;
        let mut stamps = Stamps::new();
        for numbering in streams {
            let count = &mut self.counts[numbering.0];
            assert!(
                time > count.floor,
                "stamp {time} of stream {} is not above its floor {}",
                count.stream,
                count.floor
            );
            count.last = count.last.next();
            count.floor = time;
            stamps.push(Stamp { time, stream: count.stream, seq: count.last });
        }
        Ok(stamps)
    }

    /// A promise that no later record of the stream has the returned time or an earlier one, with the last number given.
    ///
    /// # Errors
    /// [`LeaseSpent`]: the promise would reach beyond the lease, where a restart could stamp again.
    pub fn promise(&mut self, now: Now, stream: Numbering) -> Result<Count, LeaseSpent> {
        let time = now.time.max(self.floor);
        if time > now.lease {
            return Err(LeaseSpent { next: time, lease: now.lease });
        }
        self.floor = time;
        let count = &mut self.counts[stream.0];
        assert!(time >= count.floor, "a beacon at {time} takes back the floor {}", count.floor);
        count.floor = time;
        Ok(*count)
    }
}

#[cfg(test)]
mod tests;
