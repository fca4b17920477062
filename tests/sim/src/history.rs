//! The truth: every record that a primary stamped, what its volumes hold beside that, and what a cut of it looks like.
//!
//! The recovery point of a group is a point in the lives of its primary volumes: the secondary's volumes at it are what the
//! primary volumes held at it. A stamped write is part of that from its stamp on. What changes a primary volume without a
//! stamp (a write while the group is suspended; what a crash or a failing disk left) becomes visible at the secondary with
//! the resync that follows, hence from the first stamp of the stream's next epoch on: the recovery point never lies inside
//! of a resync.

use crate::disk::{Blob, SECTOR_BYTES};
use crate::memory::Bytes;
use longrun_copy::types::{Epoch, Extent, Geometry, PairId, RecordHead, Seq, Stamp, StreamId, Time};
use std::collections::BTreeMap;

/// A group's history.
#[derive(Default)]
pub struct History {
    records: BTreeMap<Stamp, (Epoch, RecordHead)>,
    pairs: BTreeMap<PairId, Volume>,
    /// The last stamp of each stream, and its epoch.
    last: BTreeMap<StreamId, (Epoch, Stamp)>,
}

/// The life of a pair's primary volume.
struct Volume {
    geometry: Geometry,
    initial: Vec<Blob>,
    /// What happened to it, in order.
    changes: Vec<(Time, Change)>,
    /// What happened since the last stamp without one.
    waiting: Vec<Change>,
    /// What it holds when everything that it was told has been done.
    latest: Vec<Blob>,
    /// Which record brought each sector of it; `None`: none did.
    writers: Vec<Option<(StreamId, Epoch, Seq)>>,
    /// The first so many changes, applied.
    image: Vec<Blob>,
    imaged: usize,
    /// The stream and epoch of its last stamp.
    epoch: (StreamId, Epoch),
    /// Numbers of changes.
    next: u64,
}

struct Change {
    id: u64,
    first: u64,
    /// A sector each.
    blobs: Blobs,
}

enum Blobs {
    Zeroes(u64),
    Run(Bytes),
    One(Blob),
}

impl Change {
    fn apply(&self, image: &mut [Blob]) {
        let first = self.first as usize;
        match &self.blobs {
            Blobs::Zeroes(count) => image[first..first + *count as usize].fill(Blob::Zero),
            Blobs::Run(bytes) => {
                for index in 0..bytes.len() / SECTOR_BYTES {
                    image[first + index] = Blob::Part(bytes.clone(), index * SECTOR_BYTES);
                }
            }
            Blobs::One(blob) => image[first] = blob.clone(),
        }
    }

    fn sectors(&self) -> std::ops::Range<u64> {
        let count = match &self.blobs {
            Blobs::Zeroes(count) => *count,
            Blobs::Run(bytes) => (bytes.len() / SECTOR_BYTES) as u64,
            Blobs::One(_) => 1,
        };
        self.first..self.first + count
    }
}

impl Volume {
    fn change(&mut self, extent: Extent, data: Option<&Bytes>) -> Change {
        let per_block = u64::from(self.geometry.block_bytes) / SECTOR_BYTES as u64;
        self.next += 1;
        let blobs = match data {
            Some(data) => {
                assert_eq!(data.len() as u64, u64::from(extent.blocks) * per_block * SECTOR_BYTES as u64);
                Blobs::Run(data.clone())
            }
            None => Blobs::Zeroes(u64::from(extent.blocks) * per_block),
        };
        Change { id: self.next, first: extent.lba * per_block, blobs }
    }
}

impl History {
    /// A pair and what its volumes hold before anything is written.
    pub fn pair(&mut self, pair: PairId, geometry: Geometry, content: Vec<Blob>) {
        let volume = Volume {
            geometry,
            writers: vec![None; content.len()],
            latest: content.clone(),
            image: content.clone(),
            initial: content,
            changes: Vec::new(),
            waiting: Vec::new(),
            imaged: 0,
            epoch: (StreamId(0), Epoch(0)),
            next: 0,
        };
        self.pairs.insert(pair, volume);
    }

    /// A pair's primary volume was made larger: this is what it holds now, with what is new.
    pub fn grow(&mut self, pair: PairId, now: &[Blob]) {
        let volume = self.pairs.get_mut(&pair).expect("a pair of the group");
        let more = &now[volume.initial.len()..];
        for image in [&mut volume.initial, &mut volume.latest, &mut volume.image] {
            image.extend_from_slice(more);
        }
        volume.writers.resize(now.len(), None);
    }

    /// A record was stamped.
    pub fn stamped(&mut self, epoch: Epoch, head: RecordHead, payload: Option<&Bytes>) {
        let stamp = head.stamp;
        if let Some((before, last)) = self.last.insert(stamp.stream, (epoch, stamp)) {
            assert!(last.time < stamp.time, "stream {}: {stamp:?} was stamped after {last:?}", stamp.stream);
            assert!(before <= epoch, "stream {}: epoch {epoch} after {before}", stamp.stream);
            assert!(
                before < epoch || last.seq < stamp.seq,
                "stream {}: {stamp:?} follows {last:?} in epoch {epoch}",
                stamp.stream
            );
        }
        let before = self.records.insert(stamp, (epoch, head));
        assert!(before.is_none(), "{stamp:?} was given twice");
        if !head.kind.changes_volume() {
            return;
        }
        let volume = self.pairs.get_mut(&head.pair).expect("a record names one of its group's pairs");
        if volume.epoch != (stamp.stream, epoch) {
            volume.epoch = (stamp.stream, epoch);
            for change in std::mem::take(&mut volume.waiting) {
                volume.changes.push((stamp.time, change));
            }
        }
        let payload = payload.filter(|_| head.kind.writes_payload());
        let change = volume.change(head.extent, payload);
        let covered = change.sectors();
        // What the disk did to these sectors earlier no longer matters.
        volume.waiting.retain(|it| !matches!(it.blobs, Blobs::One(_)) || !covered.contains(&it.first));
        for sector in covered {
            volume.writers[sector as usize] = Some((stamp.stream, epoch, stamp.seq));
        }
        change.apply(&mut volume.latest);
        volume.changes.push((stamp.time, change));
    }

    /// Whether something changed a pair's primary volume without a stamp, and no epoch has begun since.
    pub fn is_waiting(&self, pair: PairId) -> bool {
        !self.pairs[&pair].waiting.is_empty()
    }

    /// A stream stamps for a pair in this epoch, up to now at most at `floor`. *A primary was killed, its disk lost what had
    /// not arrived either: the resync found both sites equal and stamped nothing.*
    pub fn stamps(&mut self, pair: PairId, (stream, epoch): (StreamId, Epoch), floor: Time) {
        let volume = self.pairs.get_mut(&pair).expect("a pair of the group");
        if volume.epoch == (stream, epoch) {
            return;
        }
        let last = volume.changes.last().map_or(floor, |(time, _)| floor.max(*time));
        let waiting = std::mem::take(&mut volume.waiting);
        volume.changes.extend(waiting.into_iter().map(|change| (last, change)));
    }

    /// A write went to a primary's volume without a stamp. Returns its number.
    pub fn unstamped(&mut self, pair: PairId, extent: Extent, data: Option<&Bytes>) -> u64 {
        let volume = self.pairs.get_mut(&pair).expect("a pair of the group");
        let change = volume.change(extent, data);
        for sector in change.sectors() {
            volume.writers[sector as usize] = None;
        }
        change.apply(&mut volume.latest);
        volume.waiting.push(change);
        volume.next
    }

    /// A sector of a primary's volume turned out to hold something else than what was written last.
    pub fn found(&mut self, pair: PairId, sector: u64, blob: Blob) {
        let volume = self.pairs.get_mut(&pair).expect("a pair of the group");
        volume.next += 1;
        volume.writers[sector as usize] = None;
        let change = Change { id: volume.next, first: sector, blobs: Blobs::One(blob) };
        change.apply(&mut volume.latest);
        volume.waiting.push(change);
    }

    /// What a write without a stamp, that failed, left in one of its sectors.
    pub fn found_of(&mut self, pair: PairId, write: u64, sector: u64, blob: Blob) {
        let volume = self.pairs.get_mut(&pair).expect("a pair of the group");
        let at = volume.changes.iter().rposition(|(_, change)| change.id == write);
        let Some(at) = at else { return self.found(pair, sector, blob) };
        // A resync began meanwhile: the write is part of it, with what it did.
        let time = volume.changes[at].0;
        let later = volume.changes[at + 1..].iter().any(|(_, change)| change.sectors().contains(&sector));
        let change = Change { id: 0, first: sector, blobs: Blobs::One(blob) };
        if !later {
            volume.writers[sector as usize] = None;
            change.apply(&mut volume.latest);
        }
        volume.changes.insert(at + 1, (time, change));
        if volume.imaged > at {
            (volume.image, volume.imaged) = (volume.initial.clone(), 0);
        }
    }

    /// What a pair's primary volume holds when everything that it was told is done.
    pub fn latest(&self, pair: PairId) -> &[Blob] {
        &self.pairs[&pair].latest
    }

    /// The last stamp of all.
    pub fn last(&self) -> Option<Stamp> {
        self.records.keys().next_back().copied()
    }

    /// The first record later than `time`.
    pub fn first_after(&self, time: Time) -> Option<&RecordHead> {
        let from = Stamp { time: time.after_ns(1), stream: StreamId(0), seq: Seq(0) };
        self.records.range(from..).next().map(|(_, (_, head))| head)
    }

    /// The records that are not later than `time`, newest first, each with its epoch.
    pub fn up_to(&self, time: Time) -> impl Iterator<Item = (Epoch, &RecordHead)> {
        let end = Stamp { time: time.after_ns(1), stream: StreamId(0), seq: Seq(0) };
        self.records.range(..end).rev().map(|(_, (epoch, head))| (*epoch, head))
    }

    /// What a pair's volume holds at `time`: see the module's word.
    pub fn image(&mut self, pair: PairId, time: Time) -> &[Blob] {
        let volume = self.pairs.get_mut(&pair).expect("a pair of the group");
        let count = volume.changes.partition_point(|(at, _)| *at <= time);
        if volume.imaged > count {
            (volume.image, volume.imaged) = (volume.initial.clone(), 0);
        }
        for (_, change) in &volume.changes[volume.imaged..count] {
            change.apply(&mut volume.image);
        }
        volume.imaged = count;
        &volume.image
    }

    /// Sectors that were changed later than `time`, with repetitions.
    pub fn changed_after(&self, pair: PairId, time: Time) -> impl Iterator<Item = u64> + '_ {
        let volume = &self.pairs[&pair];
        let count = volume.changes.partition_point(|(at, _)| *at <= time);
        let changes = volume.changes[count..].iter().map(|(_, change)| change);
        changes.chain(&volume.waiting).flat_map(Change::sectors)
    }

    /// The record that brought what a sector of a pair's primary volume holds, if one did.
    pub fn writer(&self, pair: PairId, sector: u64) -> Option<(StreamId, Epoch, Seq)> {
        self.pairs[&pair].writers[sector as usize]
    }

    /// A sector of a pair: what the primary has, and what it held at the time of the last [`History::image`].
    pub fn both(&self, pair: PairId, sector: u64) -> (&Blob, &Blob) {
        let volume = &self.pairs[&pair];
        (&volume.latest[sector as usize], &volume.image[sector as usize])
    }

    /// The records that touched a sector, newest last, for messages.
    pub fn about(&self, pair: PairId, sector: u64) -> String {
        let per_block = u64::from(self.pairs[&pair].geometry.block_bytes) / SECTOR_BYTES as u64;
        let lba = sector / per_block;
        let ours = self.records.values().filter(|(_, head)| head.pair == pair && head.extent.range().contains(&lba));
        let lines: Vec<String> = ours
            .map(|(epoch, head)| format!("{:?} at {} seq {} epoch {epoch}", head.kind, head.stamp.time, head.stamp.seq))
            .collect();
        format!("{} unstamped; {}", self.pairs[&pair].waiting.len(), lines.join(", "))
    }

    /// Records of a stream in the order of their stamps, with their epochs.
    pub fn of_stream(&self, stream: StreamId) -> impl Iterator<Item = (Epoch, &RecordHead)> {
        let all = self.records.iter().filter(move |(stamp, _)| stamp.stream == stream);
        all.map(|(_, (epoch, head))| (*epoch, head))
    }
}

/// The first sector where two images differ.
pub fn first_difference(left: &[Blob], right: &[Blob]) -> Option<usize> {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).position(|(left, right)| !left.is_same(right))
}
