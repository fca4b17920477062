//! The verdict: is the image the past, cut at one point?
//!
//! # The words
//!
//! *W precedes S* if W was answered, or a read that returned W's data was answered, before S was issued. Let `seen(W)`
//! be the earlier of the two; then W precedes S exactly if `seen(W) < issued(S)`. A block *shows* the write that it
//! names. A write *survives* if at least one block shows it. A write is *kept* if each of its blocks shows it or a write
//! that it may have been overwritten by, which is one that does not precede it.
//!
//! | rule | demanded | what counts as one constraint |
//! | --- | --- | --- |
//! | (a) | a write that precedes a survivor is kept | each write that precedes at least one survivor |
//! | (b) | a write with `seen` before T - e is kept | each such write |
//! | (b) | a write issued after T + e does not survive | each such write |
//! | (c) | a write that survives is kept: all or nothing | not counted |
//! | (d) | T is not older than its bound at the kill, not after the kill; the group was not suspended | not counted |
//!
//! Rule (a) speaks of pairs, of which there are too many to look at. But W precedes some survivor exactly if it precedes
//! the survivor that was issued last, so one comparison for each W decides all of its pairs.
//!
//! (a), (b) and (c) look at two writes at a time. Three concurrent writes that overlap in a ring can satisfy them all and
//! still be no past: whatever order they are put in, some block shows the wrong one. So if nothing else failed, the judge
//! looks for *one* order of all writes that must be there, in line with "precedes", whose last writer of each block is the
//! one shown. If there is none, a ring of writes is reported. With that the verdict is exact: an image passes if and
//! only if some order of the host's writes, cut between T - e and T + e, leaves it.
//!
//! # Doubtful cases, and how they are taken
//!
//! * A write that was never answered may survive or not; if it survives, all the rules bind it and what precedes it.
//! * A write that was seen by a read before T - e counts as completed before T - e although it was never answered:
//!   otherwise a write that it overwrote could come back.
//! * A write answered with an error may be there in part. Nothing is demanded of it; what it shows still binds others.
//! * Two clock readings that are equal prove no order.
//! * A write that is overwritten by a concurrent one counts as kept: either order was legal.
//! * A read must not return data older than a write answered before the read was issued. That is the primary's
//!   fault, not the copy's, but a history in which the primary forgets cannot be the past of anything: it fails.
//! * If no write must be there, an empty copy would pass: that is no proof, and fails as vacuous.

use crate::block::{BlockSays, Foreign};
use crate::history::{End, Extent, History, HostTime, WriteId};
use crate::image::Image;
use crate::order;

/// How many failures a [`Verdict`] lists; all of them are counted.
pub const FAILURES_LISTED_MAX: usize = 64;

/// The point at which the copy says it was cut, and what was promised about it. All times on the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The certificate's recovery point T.
    pub recovery_point: HostTime,
    /// The error e of putting T on the host's clock, in nanoseconds.
    pub clock_error_ns: u64,
    /// When the primary was dead: read after the kill took effect.
    pub killed_at: HostTime,
    /// The greatest age that T may have at the kill, in nanoseconds.
    pub age_bound_ns: u64,
    /// Whether the group was suspended.
    pub suspended: bool,
}

/// Failures by rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// (a): writes not kept that precede a survivor.
    pub missing_before_survivor: u64,
    /// (b): writes not kept that were complete before the cut.
    pub missing_before_cut: u64,
    /// (b): survivors issued after the cut.
    pub survivors_after_cut: u64,
    /// (c): survivors not kept.
    pub torn: u64,
    /// Rings of writes for which no order leaves the image. Looked for only if nothing above failed.
    pub rings: u64,
    /// Blocks that are neither initial nor of a write of this history that covers them.
    pub foreign_blocks: u64,
    /// Blocks of reads, likewise.
    pub foreign_reads: u64,
    /// Blocks of reads that returned data older than an answered write.
    pub stale_reads: u64,
}

impl Counts {
    fn sum(&self) -> u64 {
        self.missing_before_survivor
            + self.missing_before_cut
            + self.survivors_after_cut
            + self.torn
            + self.rings
            + self.foreign_blocks
            + self.foreign_reads
            + self.stale_reads
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Rule (a).
    #[error(
        "(a) write {write} precedes write {survivor}, which survives, but block {lba} of volume {volume} shows {shows:?}"
    )]
    MissingBeforeSurvivor { write: WriteId, survivor: WriteId, volume: u16, lba: u64, shows: BlockSays },
    /// Rule (b), the older side.
    #[error(
        "(b) write {write} was complete {before_cut_ns} ns before the cut, but block {lba} of volume {volume} shows {shows:?}"
    )]
    MissingBeforeCut { write: WriteId, before_cut_ns: u64, volume: u16, lba: u64, shows: BlockSays },
    /// Rule (b), the newer side.
    #[error("(b) write {write} survives but was issued {after_cut_ns} ns after the cut")]
    SurvivorAfterCut { write: WriteId, after_cut_ns: u64 },
    /// Rule (c).
    #[error("(c) write {write} survives in part: block {lba} of volume {volume} shows {shows:?}")]
    Torn { write: WriteId, volume: u16, lba: u64, shows: BlockSays },
    /// No order of these writes leaves the image: each must come before the next one, and the last before the first.
    #[error("no order of the writes {ring:?} leaves this image")]
    Ring { ring: Vec<WriteId> },
    /// A block of the copy names no write.
    #[error("block {lba} of volume {volume} is foreign: {why}")]
    ForeignBlock { volume: u16, lba: u64, why: Foreign },
    /// A block of a read names no write.
    #[error("a read of block {lba} of volume {volume} returned a foreign block: {why}")]
    ForeignRead { volume: u16, lba: u64, why: Foreign },
    /// A read returned the past.
    #[error(
        "a read of block {lba} of volume {volume} returned {shows:?}, older than a write issued at {newer_issued:?} and answered before the read"
    )]
    StaleRead { volume: u16, lba: u64, shows: BlockSays, newer_issued: HostTime },
    /// Rule (d).
    #[error("(d) the recovery point was {age_ns} ns old at the kill, more than the {bound_ns} ns allowed")]
    TooOld { age_ns: u64, bound_ns: u64 },
    /// Rule (d): a recovery point that the dead primary cannot have reached.
    #[error("(d) the recovery point is {ahead_ns} ns after the kill, more than the clock error")]
    InTheFuture { ahead_ns: u64 },
    /// Rule (d).
    #[error("(d) the group was suspended")]
    Suspended,
    /// Nothing was proved.
    #[error("no write had to be there, so an empty copy would pass too: write more, or kill later")]
    Vacuous,
}

/// What the judge found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verdict {
    /// The copy is the past, cut at one point, and enough was written to tell.
    pub order_closed: bool,
    /// Constraints of (a) and (b) that were checked; see the table in the module's documentation.
    pub constraints_checked: u64,
    /// Everything that failed but (d) and the vacuous case: the sum of `counts`.
    pub order_violations: u64,
    /// The failures by rule.
    pub counts: Counts,
    /// Writes issued.
    pub writes_issued: u64,
    /// Writes answered with success. Always `writes_on_secondary` + `lost_after_recovery_point` + those that fail (b).
    pub writes_acknowledged: u64,
    /// Writes answered with an error.
    pub writes_failed: u64,
    /// Acknowledged writes that are kept: they survive, or were overwritten by writes that do.
    pub writes_on_secondary: u64,
    /// Writes that were not acknowledged, and survive.
    pub unacknowledged_on_secondary: u64,
    /// Acknowledged writes that are not kept and need not be: newer than the cut.
    pub lost_after_recovery_point: u64,
    /// Reads issued.
    pub reads_issued: u64,
    /// Blocks of the copy that were looked at.
    pub blocks_checked: u64,
    /// The kill's time minus T, in nanoseconds; negative if T is later.
    pub recovery_point_age_at_kill_ns: i64,
    /// The first failures, at most [`FAILURES_LISTED_MAX`].
    pub failures: Vec<Failure>,
}

/// One write as the judge sees it.
pub(crate) struct Op {
    pub extent: Extent,
    pub issued: u64,
    /// The first moment at which it is known to be there; `NEVER` if no answer and no read tells.
    pub seen: u64,
    pub end: End,
    pub id: WriteId,
}

impl Op {
    pub fn precedes(&self, later: &Op) -> bool {
        self.seen < later.issued
    }

    /// Whether the rules may demand that it is kept.
    pub fn binding(&self) -> bool {
        !matches!(self.end, End::Failed(_))
    }
}

const NEVER: u64 = u64::MAX;

/// The place of a write in the judge's list, or what a block shows instead of one.
pub(crate) type Shown = u32;
pub(crate) const INITIAL: Shown = u32::MAX;
pub(crate) const FOREIGN: Shown = u32::MAX - 1;

/// Judges `image` against `history` and `cut`.
///
/// Costs O(n log n) time in the number of writes and reads plus one step for each block that was written, read or is
/// part of the image; memory of about 100 bytes for each write and 16 for each block.
///
/// # Panics
///
/// If the image has not the history's volumes.
pub fn judge(history: &History, image: &Image, cut: &Cut) -> Verdict {
    Judge::new(history, image, cut).run()
}

struct Judge<'a> {
    history: &'a History,
    image: &'a Image,
    cut: &'a Cut,
    /// Where each log's writes begin in `ops`.
    base: Vec<usize>,
    ops: Vec<Op>,
    counts: Counts,
    failures: Vec<Failure>,
}

impl<'a> Judge<'a> {
    fn new(history: &'a History, image: &'a Image, cut: &'a Cut) -> Self {
        let shape = |len: usize, i: usize| history.volumes().get(i).is_some_and(|v| v.blocks == len as u64);
        assert!(
            image.words().len() == history.volumes().len()
                && image.words().iter().enumerate().all(|(i, words)| shape(words.len(), i)),
            "the image has the history's volumes"
        );
        assert!(history.writes_issued() < FOREIGN as usize, "fewer than 2^32 - 2 writes");
        let mut base = vec![0];
        let mut ops = Vec::with_capacity(history.writes_issued());
        for (id, write) in history.writes() {
            let seen = match write.end {
                End::Acknowledged(at) | End::Failed(at) => at.0,
                End::Unanswered => NEVER,
            };
            ops.push(Op { extent: write.extent, issued: write.issued.0, seen, end: write.end, id });
        }
        for writes in history.log_lengths() {
            base.push(base[base.len() - 1] + writes);
        }
        Judge { history, image, cut, base, ops, counts: Counts::default(), failures: Vec::new() }
    }

    fn fail(&mut self, failure: Failure) {
        if self.failures.len() < FAILURES_LISTED_MAX {
            self.failures.push(failure);
        }
    }

    /// Which write a block of `volume` at `lba` shows, if it can be that write's.
    fn resolve(&self, says: BlockSays, volume: u16, lba: u64) -> Result<Shown, Foreign> {
        let id = match says {
            BlockSays::Initial => return Ok(INITIAL),
            BlockSays::Foreign(why) => return Err(why),
            BlockSays::Write(id) => id,
        };
        let log = usize::from(id.log());
        let [Some(&from), Some(&to)] = [self.base.get(log), self.base.get(log + 1)] else {
            return Err(Foreign::Unknown);
        };
        if id.place() >= to - from {
            return Err(Foreign::Unknown);
        }
        let at = from + id.place();
        let extent = self.ops[at].extent;
        if extent.volume != volume || lba < extent.lba || lba >= extent.end() {
            return Err(Foreign::Misplaced);
        }
        Ok(at as Shown)
    }

    fn run(mut self) -> Verdict {
        let age_ns = self.look_at_cut();
        self.look_at_reads();
        let shown = self.look_at_image();
        let survives = {
            let mut survives = vec![false; self.ops.len()];
            for &by in shown.iter().flatten() {
                if let Some(survives) = survives.get_mut(by as usize) {
                    *survives = true;
                }
            }
            survives
        };
        // The survivor issued last decides (a) for every write: who precedes any survivor precedes this one.
        let newest = (0..self.ops.len()).filter(|&i| survives[i]).max_by_key(|&i| self.ops[i].issued);
        let cut_low = self.cut.recovery_point.0.saturating_sub(self.cut.clock_error_ns);
        let cut_high = self.cut.recovery_point.0.saturating_add(self.cut.clock_error_ns);

        let mut constraints_checked = 0;
        let mut demanded = 0u64;
        let mut on_secondary = 0;
        let mut unacknowledged_on_secondary = 0;
        let mut lost = 0;
        let mut must_be_there = survives.clone();
        for i in 0..self.ops.len() {
            let op = &self.ops[i];
            let (id, issued, seen, volume) = (op.id, op.issued, op.seen, op.extent.volume);
            let acknowledged = matches!(op.end, End::Acknowledged(_));
            let missing = first_missing(&self.ops, &shown, op);
            let before_survivor = newest.filter(|&s| op.binding() && op.precedes(&self.ops[s]));
            let before_cut = op.binding() && seen < cut_low;
            let torn = op.binding() && survives[i] && missing.is_some();
            must_be_there[i] |= before_survivor.is_some() || before_cut;
            demanded += u64::from(before_survivor.is_some() || before_cut);
            constraints_checked += u64::from(before_survivor.is_some()) + u64::from(before_cut);
            on_secondary += u64::from(acknowledged && missing.is_none());
            unacknowledged_on_secondary += u64::from(!acknowledged && survives[i]);
            lost += u64::from(acknowledged && missing.is_some() && !before_cut);

            if let Some(lba) = missing {
                let shows = self.image.get(volume, lba);
                if let Some(survivor) = before_survivor {
                    self.counts.missing_before_survivor += 1;
                    let survivor = self.ops[survivor].id;
                    self.fail(Failure::MissingBeforeSurvivor { write: id, survivor, volume, lba, shows });
                }
                if before_cut {
                    self.counts.missing_before_cut += 1;
                    let before_cut_ns = cut_low - seen;
                    self.fail(Failure::MissingBeforeCut { write: id, before_cut_ns, volume, lba, shows });
                }
                if torn {
                    self.counts.torn += 1;
                    self.fail(Failure::Torn { write: id, volume, lba, shows });
                }
            }
            if issued > cut_high {
                constraints_checked += 1;
                if survives[i] {
                    self.counts.survivors_after_cut += 1;
                    self.fail(Failure::SurvivorAfterCut { write: id, after_cut_ns: issued - cut_high });
                }
            }
        }
        // A write that is missing or foreign makes rings of its own; what it broke is already listed.
        if self.counts.sum() == 0
            && let Some(ring) = order::ring(&self.ops, &must_be_there, &shown)
        {
            self.counts.rings = 1;
            let ring = ring.into_iter().map(|i| self.ops[i as usize].id).collect();
            self.fail(Failure::Ring { ring });
        }
        if demanded == 0 {
            self.fail(Failure::Vacuous);
        }

        let ended = |which: fn(&End) -> bool| self.ops.iter().filter(|op| which(&op.end)).count() as u64;
        Verdict {
            order_closed: self.failures.is_empty(),
            constraints_checked,
            order_violations: self.counts.sum(),
            counts: self.counts,
            writes_issued: self.ops.len() as u64,
            writes_acknowledged: ended(|end| matches!(end, End::Acknowledged(_))),
            writes_failed: ended(|end| matches!(end, End::Failed(_))),
            writes_on_secondary: on_secondary,
            unacknowledged_on_secondary,
            lost_after_recovery_point: lost,
            reads_issued: self.history.reads_issued() as u64,
            blocks_checked: shown.iter().map(|v| v.len() as u64).sum(),
            recovery_point_age_at_kill_ns: age_ns,
            failures: self.failures,
        }
    }

    /// Takes from the reads which writes were seen when, then looks for reads of the past.
    fn look_at_reads(&mut self) {
        // (when, what), in the order of time: a write is answered, or a read is issued.
        enum What {
            Answered(u32),
            Read(u32),
        }
        let history = self.history;
        let mut read_blocks: Vec<(u16, u64, Shown)> = Vec::new();
        let mut events: Vec<(u64, What)> = Vec::new();
        for (read, words) in history.reads() {
            let End::Acknowledged(completed) = read.end else { continue };
            for (lba, &word) in (read.extent.lba..).zip(words) {
                let volume = read.extent.volume;
                let by = match self.resolve(BlockSays::unpack(word), volume, lba) {
                    Ok(by) => match self.ops.get(by as usize) {
                        Some(op) if op.issued > completed.0 => Err(Foreign::Unknown),
                        _ => Ok(by),
                    },
                    Err(why) => Err(why),
                };
                match by {
                    Ok(by) => {
                        if let Some(op) = self.ops.get_mut(by as usize) {
                            op.seen = op.seen.min(completed.0);
                        }
                        events.push((read.issued.0, What::Read(read_blocks.len() as u32)));
                        read_blocks.push((volume, lba, by));
                    }
                    Err(why) => {
                        self.counts.foreign_reads += 1;
                        self.fail(Failure::ForeignRead { volume, lba, why });
                    }
                }
            }
        }
        if read_blocks.is_empty() {
            return;
        }
        for (i, op) in self.ops.iter().enumerate() {
            if let End::Acknowledged(at) = op.end {
                events.push((at.0, What::Answered(i as u32)));
            }
        }
        // At equal times the read comes first: it proves nothing about a write answered at its own time.
        events.sort_by_key(|(at, what)| (*at, matches!(what, What::Answered(_))));
        // For each block the latest issue time, plus one, of the writes answered so far.
        let mut answered: Vec<Vec<u64>> = self.image.words().iter().map(|v| vec![0; v.len()]).collect();
        for (_, what) in events {
            match what {
                What::Answered(i) => {
                    let op = &self.ops[i as usize];
                    let range = op.extent.lba as usize..op.extent.end() as usize;
                    for latest in &mut answered[usize::from(op.extent.volume)][range] {
                        *latest = (*latest).max(op.issued + 1);
                    }
                }
                What::Read(i) => {
                    let (volume, lba, by) = read_blocks[i as usize];
                    let Some(newer) = answered[usize::from(volume)][lba as usize].checked_sub(1) else { continue };
                    let (shows, stale) = match self.ops.get(by as usize) {
                        Some(op) => (BlockSays::Write(op.id), op.seen < newer),
                        None => (BlockSays::Initial, true),
                    };
                    if stale {
                        self.counts.stale_reads += 1;
                        self.fail(Failure::StaleRead { volume, lba, shows, newer_issued: HostTime(newer) });
                    }
                }
            }
        }
    }

    fn look_at_image(&mut self) -> Vec<Vec<Shown>> {
        let image = self.image;
        let mut shown = Vec::with_capacity(image.words().len());
        for (volume, words) in (0..).zip(image.words()) {
            let mut of_volume = Vec::with_capacity(words.len());
            for (lba, &word) in (0..).zip(words) {
                of_volume.push(match self.resolve(BlockSays::unpack(word), volume, lba) {
                    Ok(by) => by,
                    Err(why) => {
                        self.counts.foreign_blocks += 1;
                        self.fail(Failure::ForeignBlock { volume, lba, why });
                        FOREIGN
                    }
                });
            }
            shown.push(of_volume);
        }
        shown
    }

    /// Rule (d). Returns the age of the recovery point at the kill.
    fn look_at_cut(&mut self) -> i64 {
        let Cut { recovery_point, clock_error_ns, killed_at, age_bound_ns, suspended } = *self.cut;
        let age_ns = killed_at.0.saturating_sub(recovery_point.0);
        let ahead_ns = recovery_point.0.saturating_sub(killed_at.0);
        if age_ns > age_bound_ns {
            self.fail(Failure::TooOld { age_ns, bound_ns: age_bound_ns });
        }
        if ahead_ns > clock_error_ns {
            self.fail(Failure::InTheFuture { ahead_ns });
        }
        if suspended {
            self.fail(Failure::Suspended);
        }
        let clip = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        if ahead_ns > 0 { -clip(ahead_ns) } else { clip(age_ns) }
    }
}

/// The first block of `op` that shows neither it nor a write that may have overwritten it.
fn first_missing(ops: &[Op], shown: &[Vec<Shown>], op: &Op) -> Option<u64> {
    let blocks = &shown[usize::from(op.extent.volume)][op.extent.lba as usize..op.extent.end() as usize];
    let missing = blocks.iter().position(|&by| match ops.get(by as usize) {
        // A write does not precede itself: it is seen after it is issued.
        Some(shown) => shown.precedes(op),
        None => true,
    })?;
    Some(op.extent.lba + missing as u64)
}
