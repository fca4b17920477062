//! A stream at its sender: one epoch of it, and which groups have it open at the secondary.

use crate::stamp::{Count, Numbering, Stamper};
use crate::types::{Epoch, GroupId, LinkId, Mono, Scope, Seq, Time};
use std::collections::{BTreeMap, VecDeque};

/// One epoch of a stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub link: LinkId,
    pub scope: Scope,
    pub epoch: Epoch,
    pub base: Seq,
    pub base_time: Time,
    /// The epoch before, all of it durable at the secondary.
    pub drained: Option<(Epoch, Seq)>,
    pub numbers: Numbers,
    /// The highest number known to be durable at the secondary.
    pub durable: Seq,
    /// While a resync is under way there, whosever: the time of its image. Durable is not enough then. *B's resync began; A's
    /// records were durable in it, and A showed no lag, while a takeover would have lost all of it.*
    ///
    /// Unknown before the secondary was heard: a resync may have begun while this process was not there.
    pub held: Option<Time>,
    /// What the send buffer counts of it: what the link kept when it was last asked, and what was pushed since.
    pub buffered_bytes: u64,
    /// Whether the epoch itself is durable; nothing of it may leave before.
    pub epoch_is_durable: bool,
    /// Whether metadata says (or was last asked to say) that the epoch stamps.
    pub is_marked: bool,
    /// An epoch of the process before, of which the spill holds records.
    pub is_replay: bool,
    /// The groups that it feeds.
    pub members: BTreeMap<GroupId, Membership>,
    /// Records and beacons flow in this session.
    pub started: bool,
    /// When it last said something.
    pub last_sent: Mono,
    /// Its last beacon told how far it was handed to the link, not how far it was stamped.
    pub told_handed: bool,
    /// Copies, digests and names that are not known to be durable: number and charge.
    pub copies: VecDeque<(Seq, u64)>,
    /// Part of a resync: for each of its groups the number of that.
    pub units: BTreeMap<GroupId, u64>,
    /// For a clean shutdown: flushes of its pairs' volumes that did not end yet.
    pub flushes: usize,
    /// One of them failed: what was acknowledged to hosts may be lost here, so the stream cannot be called drained.
    pub flush_failed: bool,
}

/// Where a stream's numbers come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Numbers {
    /// From the stamper.
    Live(Numbering),
    /// Nowhere: its groups are suspended by the operator. What was stamped is still sent, and a beacon says that all is.
    Ending(Count),
    /// Nowhere: a record could not be taken. It sends nothing more, neither record nor beacon.
    Broken(Count),
    /// Nowhere: drained for a clean shutdown.
    Drained(Count),
}

/// A group's share in a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    /// The secondary opened the stream for the group in this epoch: there may be records of it.
    pub opened: bool,
    /// What the secondary answered in this session: durable up to here.
    pub answered: Option<Seq>,
    /// What was known to be durable when the secondary was first asked in this session: it must have that at least. (A
    /// later report may overtake its answer.)
    pub acknowledged: Option<Seq>,
    /// When the secondary was last asked in this session.
    pub asked: Option<Mono>,
    /// The secondary was asked in some session of this epoch: the stream may be in the group's set there, though no
    /// answer came.
    pub was_asked: bool,
    /// The secondary's word when it put the opening off.
    pub put_off: Option<String>,
}

impl Stream {
    pub fn count(&self, stamper: &Stamper) -> Count {
        match self.numbers {
            Numbers::Live(numbering) => stamper.count(numbering),
            Numbers::Ending(count) | Numbers::Broken(count) | Numbers::Drained(count) => count,
        }
    }

    pub fn live(&self) -> Option<Numbering> {
        match self.numbers {
            Numbers::Live(numbering) => Some(numbering),
            _ => None,
        }
    }

    /// Whether it sends: new records, or what is left of those of before.
    pub fn sends(&self) -> bool {
        matches!(self.numbers, Numbers::Live(_) | Numbers::Ending(_))
    }

    /// The process before gave more numbers than this one knows of: the secondary is believed.
    pub fn believe(&mut self, durable: Seq) {
        if let Numbers::Ending(count) = &mut self.numbers
            && self.is_replay
        {
            count.last = count.last.max(durable);
        }
    }

    /// Whether the secondary has all that was stamped.
    pub fn is_drained(&self, stamper: &Stamper) -> bool {
        self.durable == self.count(stamper).last
    }

    pub fn is_broken(&self) -> bool {
        matches!(self.numbers, Numbers::Broken(_))
    }

    /// The session is gone: everything has to be asked again in the next one.
    pub fn lose_session(&mut self) {
        self.started = false;
        for member in self.members.values_mut() {
            (member.answered, member.acknowledged, member.asked, member.put_off) = (None, None, None, None);
        }
    }

    /// From which number on to send, once every group that may have records in it was opened again. A group that was
    /// never opened does not hold the others up.
    pub fn resume_from(&self) -> Option<Seq> {
        let mut opened = self.members.values().filter(|member| member.opened);
        let first = opened.next()?.answered?;
        opened.try_fold(first, |least, member| Some(least.min(member.answered?)))
    }
}
