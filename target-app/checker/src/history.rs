//! The host's log: what it asked, when, and what it was answered.
//!
//! Every worker of a host keeps its own [`Log`], so that logging takes no lock; [`History::merge`] puts them together
//! afterwards. All of them read one clock.

use crate::block::BlockSays;

/// A reading of the host's one clock, in nanoseconds. Its zero is the host's business; only order and distance count.
///
/// Two readings that are equal prove no order: the judge then treats the two events as concurrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostTime(pub u64);

/// The block size that a volume is formatted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockBytes {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockBytes {
    /// The size in bytes.
    pub const fn get(self) -> usize {
        match self {
            BlockBytes::B512 => 512,
            BlockBytes::B4096 => 4096,
        }
    }

    /// The block size of `bytes` bytes, if it is one that blocks can be named in.
    pub const fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            512 => Some(BlockBytes::B512),
            4096 => Some(BlockBytes::B4096),
            _ => None,
        }
    }
}

/// The shape of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Bytes per block.
    pub block_bytes: BlockBytes,
    /// Number of blocks.
    pub blocks: u64,
}

/// A range of blocks of one volume: what one command reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Which of the history's volumes, from zero.
    pub volume: u16,
    /// The first block.
    pub lba: u64,
    /// How many blocks; at least one.
    pub blocks: u32,
}

impl Extent {
    /// `blocks` blocks of `volume` from block `lba` on.
    pub const fn new(volume: u16, lba: u64, blocks: u32) -> Self {
        Extent { volume, lba, blocks }
    }

    /// The block behind the last one.
    pub const fn end(&self) -> u64 {
        self.lba + self.blocks as u64
    }
}

/// Names one write of one history: the log it stands in, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(u64);

const LOG_SHIFT: u32 = 40;

impl WriteId {
    fn new(log: u16, place: usize) -> Self {
        assert!((place as u64) < 1 << LOG_SHIFT, "a log holds fewer than 2^40 writes");
        WriteId(((u64::from(log) + 1) << LOG_SHIFT) | place as u64)
    }

    /// The id as it stands in a block; never below 2^40.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The id that stands in a block; nothing for a number that no log gives.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        let log = raw >> LOG_SHIFT;
        if log == 0 || log > 1 << 16 { None } else { Some(WriteId(raw)) }
    }

    /// The number of the log that issued the write.
    pub const fn log(self) -> u16 {
        ((self.0 >> LOG_SHIFT) - 1) as u16
    }

    /// The write's place in its log, from zero.
    pub const fn place(self) -> usize {
        (self.0 & ((1 << LOG_SHIFT) - 1)) as usize
    }
}

impl std::fmt::Display for WriteId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.log(), self.place())
    }
}

/// Names one read of one log, until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadId(u32);

/// How a command ended, as far as the host knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// No answer came: the data may be there or not.
    Unanswered,
    /// Answered with success at this time.
    Acknowledged(HostTime),
    /// Answered with an error at this time: the data may be there, wholly or in part, or not.
    Failed(HostTime),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteEntry {
    pub extent: Extent,
    pub issued: HostTime,
    pub end: End,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadEntry {
    pub extent: Extent,
    pub issued: HostTime,
    pub end: End,
    /// Where in [`Log::shown`] its blocks begin, if it was answered with success.
    shown_at: usize,
}

/// What one worker of the host logged. Appending is a push on a vector; several logs are merged at the end.
///
/// The caller keeps two promises that the verdict rests on: an issue is logged before the first byte is sent, an end
/// after the answer was parsed.
#[derive(Clone, Debug)]
pub struct Log {
    number: u16,
    writes: Vec<WriteEntry>,
    reads: Vec<ReadEntry>,
    shown: Vec<u64>,
}

impl Log {
    /// An empty log. `number` tells the logs of one history apart.
    pub fn new(number: u16) -> Self {
        Log { number, writes: Vec::new(), reads: Vec::new(), shown: Vec::new() }
    }

    /// A write is about to be sent. The id goes into its blocks by [`Contents::fill`](crate::Contents::fill).
    pub fn write_issued(&mut self, at: HostTime, extent: Extent) -> WriteId {
        assert!(extent.blocks > 0, "a write has at least one block");
        let id = WriteId::new(self.number, self.writes.len());
        self.writes.push(WriteEntry { extent, issued: at, end: End::Unanswered });
        id
    }

    /// The write was answered with success.
    pub fn write_acknowledged(&mut self, id: WriteId, at: HostTime) {
        let write = self.open_write(id);
        assert!(write.issued <= at, "a write is answered after it is issued");
        write.end = End::Acknowledged(at);
    }

    /// The write was answered with an error. It may still be on the volume, in part even; the judge demands nothing
    /// for it, but what it shows counts.
    pub fn write_failed(&mut self, id: WriteId, at: HostTime) {
        let write = self.open_write(id);
        assert!(write.issued <= at, "a write is answered after it is issued");
        write.end = End::Failed(at);
    }

    /// A read is about to be sent.
    pub fn read_issued(&mut self, at: HostTime, extent: Extent) -> ReadId {
        assert!(extent.blocks > 0, "a read has at least one block");
        let id = u32::try_from(self.reads.len()).expect("a log holds fewer than 2^32 reads");
        self.reads.push(ReadEntry { extent, issued: at, end: End::Unanswered, shown_at: 0 });
        ReadId(id)
    }

    /// The read was answered with success; `shown` has one entry for each of its blocks, in order.
    pub fn read_completed(&mut self, id: ReadId, at: HostTime, shown: impl IntoIterator<Item = BlockSays>) {
        let shown_at = self.shown.len();
        self.shown.extend(shown.into_iter().map(BlockSays::pack));
        let read = &mut self.reads[id.0 as usize];
        assert_eq!(read.end, End::Unanswered, "a read is answered once");
        assert!(read.issued <= at, "a read is answered after it is issued");
        assert_eq!(self.shown.len() - shown_at, read.extent.blocks as usize, "one answer for each block of the read");
        read.end = End::Acknowledged(at);
        read.shown_at = shown_at;
    }

    /// The read was answered with an error.
    pub fn read_failed(&mut self, id: ReadId, at: HostTime) {
        self.reads[id.0 as usize].end = End::Failed(at);
    }

    /// The range of a write of this log.
    pub fn extent_of(&self, id: WriteId) -> Extent {
        assert_eq!(id.log(), self.number, "the write stands in this log");
        self.writes[id.place()].extent
    }

    /// Writes logged so far.
    pub fn writes(&self) -> usize {
        self.writes.len()
    }

    fn open_write(&mut self, id: WriteId) -> &mut WriteEntry {
        assert_eq!(id.log(), self.number, "a write is answered in the log that issued it");
        let write = &mut self.writes[id.place()];
        assert_eq!(write.end, End::Unanswered, "a write is answered once");
        write
    }
}

/// All that the host did: the logs of its workers, on one clock.
#[derive(Debug)]
pub struct History {
    volumes: Vec<Volume>,
    /// By log number; numbers that were not used hold an empty log.
    logs: Vec<Log>,
}

impl History {
    /// Puts the workers' logs together.
    ///
    /// # Panics
    ///
    /// If two logs have one number, or a command reaches outside its volume: both are faults of the logging program.
    pub fn merge(volumes: &[Volume], logs: impl IntoIterator<Item = Log>) -> Self {
        let mut by_number: Vec<Log> = Vec::new();
        for log in logs {
            let number = usize::from(log.number);
            while by_number.len() <= number {
                by_number.push(Log::new(by_number.len() as u16));
            }
            let slot = &mut by_number[number];
            assert!(slot.writes.is_empty() && slot.reads.is_empty(), "two logs have the number {number}");
            *slot = log;
        }
        let history = History { volumes: volumes.to_vec(), logs: by_number };
        let extents = history.writes().map(|(_, w)| w.extent).chain(history.reads().map(|(r, _)| r.extent));
        for extent in extents {
            let volume = volumes.get(usize::from(extent.volume)).expect("a command names a volume of the history");
            assert!(extent.end() <= volume.blocks, "a command of {extent:?} stays within its volume");
        }
        history
    }

    /// The volumes that the history is about.
    pub fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    /// Writes issued.
    pub fn writes_issued(&self) -> usize {
        self.logs.iter().map(|log| log.writes.len()).sum()
    }

    /// Reads issued.
    pub fn reads_issued(&self) -> usize {
        self.logs.iter().map(|log| log.reads.len()).sum()
    }

    /// How many writes each log has, by log number.
    pub(crate) fn log_lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.logs.iter().map(|log| log.writes.len())
    }

    /// Every write, by log number and then by place.
    pub(crate) fn writes(&self) -> impl Iterator<Item = (WriteId, &WriteEntry)> {
        self.logs.iter().flat_map(|log| {
            log.writes.iter().enumerate().map(|(place, write)| (WriteId::new(log.number, place), write))
        })
    }

    /// Every read, with what its blocks showed (empty unless it was answered with success).
    pub(crate) fn reads(&self) -> impl Iterator<Item = (&ReadEntry, &[u64])> {
        self.logs.iter().flat_map(|log| {
            log.reads.iter().map(|read| match read.end {
                End::Acknowledged(_) => (read, &log.shown[read.shown_at..read.shown_at + read.extent.blocks as usize]),
                End::Unanswered | End::Failed(_) => (read, &[][..]),
            })
        })
    }
}
