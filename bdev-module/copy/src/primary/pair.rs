//! A pair at its primary.

use super::copy::PairCopy;
use super::marks::Tending;
use super::meta::PairRecord;
use super::{PairConfig, VerifyProgress, Work};
use crate::blank::BlankCheck;
use crate::dirty::{DirtyMap, Round};
use crate::message::Content;
use crate::overlap::OverlapQueue;
use crate::ports::Ticket;
use crate::types::{Epoch, Mono, Stamp, StreamId};
use std::collections::VecDeque;

/// A pair.
#[derive(Debug)]
pub(super) struct Pair {
    pub config: PairConfig,
    /// Tells this pair from an earlier one of the same name, whose I/O may still be on its way.
    pub serial: u64,
    pub stream: StreamId,
    pub content: Content,
    pub phase: Phase,
    pub phase_since: Mono,
    /// Who waits for the pair to be created, and until when (set when the local check is over).
    pub ticket: Option<(Ticket, Option<Mono>)>,
    /// Who waits for the pair to be deleted, and until when.
    pub leaving: Option<(Ticket, Mono)>,
    pub overlap: OverlapQueue<Work>,
    /// What the secondary may lack.
    pub dirty: DirtyMap,
    /// Of one of its regions.
    pub region_bytes: u64,
    /// Writes that hold their blocks and wait for the marks of their regions to become durable, in order.
    pub marking: VecDeque<(Round, usize, Mono)>,
    pub tending: Tending,
    /// Its first copy is not done: it joins as a pair that is to be copied.
    pub is_copying: bool,
    /// What is copied as a whole is copied over an image, which stays until the resync is done.
    pub keeps_image: bool,
    /// While it grows: how many blocks hosts see.
    pub shown_blocks: Option<u64>,
    /// Its volume was in memory and lost its content with an earlier process: it may never be copied from.
    pub is_lost: bool,
    pub rejoin: Rejoin,
    pub joins: Joins,
    pub copy: PairCopy,
    pub verify: Option<VerifyProgress>,
    /// Writes that hold their blocks and wait for the pair to be opened, or to be durably suspended.
    pub parked: VecDeque<usize>,
    /// Since when the oldest of them waits.
    pub parked_since: Option<Mono>,
    /// Host requests that are not answered yet.
    pub requests: usize,
    /// It is among those that have something to be looked after.
    pub is_awake: bool,
    pub last_stamp: Option<Stamp>,
    /// The epoch of that stamp.
    pub last_epoch: Epoch,
    /// Local writes that failed after their stamp.
    pub repairs: u64,
}

/// How far a pair is.
#[derive(Debug)]
pub(super) enum Phase {
    /// The local volume is being read.
    Checking(BlankCheck),
    /// Its stream is being opened.
    Opening,
    /// The secondary is being told of the pair.
    Joining {
        /// When it was last told.
        asked: Option<Mono>,
        /// Its word when it put it off.
        put_off: Option<String>,
    },
    /// Joined there; that it may stamp is being made durable here.
    Recording,
    /// Part of its group, for better or worse: the group says whether it copies.
    Member,
    /// Suspended on its own (it was never part of the group), but not durably yet.
    Halting(String),
    /// Suspended on its own: writes are local only.
    Halted(String),
}

/// Whether the secondary knows, in a resync, that the pair takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Rejoin {
    /// It does.
    #[default]
    Done,
    /// It has to be told.
    Due {
        /// When it was last told.
        asked: Option<Mono>,
        /// Its word when it put it off.
        put_off: Option<String>,
    },
}

/// Which answer is for which "join" of a session: each is answered, in order. *The pair was told twice; the first answer let
/// writes flow; the group was suspended and resynced; the late answer to the second was taken for one to the resync's.*
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Joins {
    asked: u64,
    answered: u64,
    /// So many were asked before the one that counts.
    stale: u64,
}

impl Joins {
    /// The secondary is told; `is_first`: answers to what it was told before no longer count.
    pub fn ask(&mut self, is_first: bool) {
        if is_first {
            self.stale = self.asked;
        }
        self.asked += 1;
    }

    /// An answer came: whether it counts.
    pub fn answer(&mut self) -> bool {
        self.answered += 1;
        self.answered > self.stale
    }
}

impl Pair {
    /// What the secondary is told that the two volumes hold.
    pub fn content_told(&self) -> Content {
        if self.is_copying { Content::Copy } else { self.content }
    }

    /// Whether the secondary's volume is, or holds on to, a picture of this one.
    pub fn has_image(&self) -> bool {
        matches!(self.phase, Phase::Member) && (!self.is_copying || self.keeps_image)
    }

    /// Whether it has not become part of its group yet.
    pub fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::Checking(_) | Phase::Opening | Phase::Joining { .. } | Phase::Recording)
    }

    /// As it is kept across restarts.
    pub fn record(&self) -> PairRecord {
        let suspended = match &self.phase {
            Phase::Halting(reason) | Phase::Halted(reason) => Some(reason.clone()),
            _ => None,
        };
        PairRecord {
            geometry: self.config.geometry,
            region_bytes: self.region_bytes,
            suspended,
            is_copying: self.is_copying,
            keeps_image: self.keeps_image,
            shown_blocks: self.shown_blocks,
        }
    }

    pub fn enter(&mut self, phase: Phase, now: Mono) {
        self.phase = phase;
        self.phase_since = now;
    }
}
