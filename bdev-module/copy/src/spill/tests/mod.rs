mod disk;
mod scenarios;

use super::*;
use crate::types::{Extent, PairId, RecordHead, RecordKind, Stamp};
use disk::Disk;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::rc::Rc;

const GEOMETRY: Geometry = Geometry { blocks: 8 + 160, block_bytes: 512 };
const GROUP: GroupId = GroupId(4);
const SECTOR: usize = 512;
const PURPOSES: Purposes<SpillOp> =
    Purposes { open: SpillOp::Open, write: SpillOp::Write, flush: SpillOp::Flush, read: SpillOp::Read };
/// Of the send buffer.
const LIMIT_BYTES: u64 = 96 << 10;

fn payload(stamp: Stamp, bytes: u32) -> Vec<u8> {
    let mut chance = ChaCha8Rng::seed_from_u64(stamp.seq.0 << 8 | stamp.stream.0);
    let mut out = vec![0; bytes as usize];
    chance.fill_bytes(&mut out);
    out
}

/// A primary group as the spill sees it: two streams, a link, and a secondary that is ahead of what it said.
struct Group {
    disk: Disk,
    spill: Spill<Rc<[u8]>, SpillOp>,
    /// What a crash finds of the metadata.
    meta: LogMeta,
    meta_flying: Option<LogMeta>,
    time: u64,
    epoch: Epoch,
    /// Everything that was stamped in this epoch, in order.
    stamped: Vec<Record<Rc<[u8]>>>,
    last: BTreeMap<StreamId, u64>,
    /// What the link keeps.
    link: VecDeque<Record<Rc<[u8]>>>,
    pushed: BTreeMap<StreamId, u64>,
    acknowledged: BTreeMap<StreamId, u64>,
    /// Numbers of this epoch that were durable in the log at some time.
    committed: BTreeMap<StreamId, u64>,
    errors: bool,
    weights: [u64; 3],
    reached: Reached,
}

/// What the run met; a test that met nothing proves nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    from_disk: u64,
    replayed: u64,
    episodes: u64,
    crashes: u64,
    full: u64,
}

const STREAMS: [StreamId; 2] = [StreamId(1), StreamId(2)];

impl Group {
    fn new(seed: u64, errors: bool) -> Group {
        let meta = LogMeta::new(77);
        let spill = Spill::new(VolumeId(1), GEOMETRY, GROUP, PURPOSES, meta);
        let none = || STREAMS.map(|stream| (stream, 0)).into_iter().collect::<BTreeMap<_, _>>();
        Group {
            disk: Disk::new(seed),
            spill,
            meta,
            meta_flying: None,
            time: 0,
            epoch: Epoch(1),
            stamped: Vec::new(),
            last: none(),
            link: VecDeque::new(),
            pushed: none(),
            acknowledged: none(),
            committed: none(),
            errors,
            weights: [9, 5, 2],
            reached: Reached::default(),
        }
    }

    fn link_bytes(&self) -> u64 {
        self.link.iter().map(|record| record.head.charge_bytes()).sum()
    }

    fn stamp(&mut self) {
        if self.link_bytes() + self.spill.memory_bytes() + (8 << 10) > LIMIT_BYTES {
            return;
        }
        let stream = STREAMS[self.disk.below(2) as usize];
        self.time += 1 + self.disk.below(3);
        let seq = self.last.get_mut(&stream).unwrap();
        *seq += 1;
        let stamp = Stamp { time: Time(self.time), stream, seq: Seq(*seq) };
        let payload_bytes = self.disk.below(9) as u32 * 512;
        let kind = if payload_bytes == 0 { RecordKind::Unmap } else { RecordKind::Write };
        let extent = Extent { lba: *seq, blocks: 1 };
        let head = RecordHead { stamp, pair: PairId(1), kind, extent, payload_bytes };
        let payload = (payload_bytes > 0).then(|| payload(stamp, payload_bytes).into());
        let record = Record { head, payload };
        self.stamped.push(record.clone());
        if self.spill.should_begin(self.link_bytes(), LIMIT_BYTES) {
            let epoch = self.epoch;
            self.spill.begin(self.link.iter().map(|record| (epoch, (1, 1), record.clone())));
            self.reached.episodes += 1;
        }
        if self.spill.is_spilling() {
            self.spill.append(self.epoch, (1, 1), record);
        } else {
            self.push(record);
        }
    }

    fn push(&mut self, record: Record<Rc<[u8]>>) {
        let stamp = record.head.stamp;
        let pushed = self.pushed.get_mut(&stamp.stream).unwrap();
        assert_eq!(stamp.seq.0, *pushed + 1, "the link gets each stream's numbers in order");
        *pushed += 1;
        let kept = self.link.back().map_or(0, |record| record.head.stamp.time.0);
        assert!(stamp.time.0 > kept, "and in order of time");
        self.link.push_back(record);
    }

    fn pump(&mut self) {
        while self.spill.should_pump(self.link_bytes(), LIMIT_BYTES) {
            let on_disk = self.spill.cursor.is_some();
            let Some(next) = self.spill.next(&mut self.disk) else { break };
            assert_eq!(next.epoch, self.epoch);
            self.is_as_stamped(&next.record);
            self.reached.from_disk += u64::from(on_disk);
            self.push(next.record);
        }
        self.spill.end_if_idle(self.link_bytes(), LIMIT_BYTES);
    }

    fn is_as_stamped(&self, record: &Record<Rc<[u8]>>) {
        let stamp = record.head.stamp;
        let bytes = payload(stamp, record.head.payload_bytes);
        assert_eq!(record.payload.as_deref().unwrap_or_default(), bytes, "{stamp:?}");
    }

    fn acknowledge(&mut self) {
        for _ in 0..self.disk.below(6) {
            let Some(record) = self.link.pop_front() else { return };
            let stamp = record.head.stamp;
            self.acknowledged.insert(stamp.stream, stamp.seq.0);
            self.spill.acknowledged(stamp.stream, self.epoch, stamp.seq);
        }
    }

    fn io(&mut self) {
        let error = (self.errors && self.disk.one_in(20)).then_some(5);
        let Some((op, result, data)) = self.disk.complete(|_| error) else { return };
        let flying: Vec<Stamp> = self.spill.flying.iter().map(|item| item.record.head.stamp).collect();
        self.spill.done(&mut self.disk, op, result, data.as_deref());
        if op == SpillOp::Flush && result.is_ok() && self.spill.flying.is_empty() {
            for stamp in flying {
                let committed = self.committed.entry(stamp.stream).or_default();
                *committed = stamp.seq.0.max(*committed);
            }
        }
    }

    fn turn(&mut self) {
        self.disk.mono += if self.disk.one_in(8) { 1_100_000_000 } else { 1_000 };
        self.spill.turn(&mut self.disk);
        if let Some(bytes) = self.spill.take_meta() {
            self.meta_flying = LogMeta::decode(&bytes);
            assert!(self.meta_flying.is_some());
        }
        if self.disk.one_in(2)
            && let Some(meta) = self.meta_flying.take()
        {
            self.meta = meta;
            self.spill.persisted();
        }
        self.reached.full += u64::from(self.spill.is_full());
        let counted = self.spill.flying.iter().chain(&self.spill.pending);
        let places = self.spill.next - (self.spill.appended - self.spill.pending.len() as u64).min(self.spill.next);
        let pending = self.spill.pending.iter().skip(places as usize);
        let flying = self.spill.flying.iter().skip(self.spill.next.saturating_sub(self.spill.on_disk) as usize);
        let unsent: u64 = pending.chain(flying).map(|item| item.record.head.charge_bytes()).sum();
        assert_eq!(self.spill.unsent_bytes, unsent, "the memory that counts");
        let usage = self.spill.usage();
        assert!(usage.unsent_bytes >= unsent, "what is shown as waiting");
        assert_eq!(usage.unsent_bytes == 0, usage.unsent_records == 0, "{usage:?}");
        let all: u64 = counted.map(|item| item.record.head.charge_bytes()).sum();
        assert!(all <= 3 * LIMIT_BYTES, "and what does not is bounded: {all}");
        assert!(self.spill.tail.notes() <= 2 * 160);
        assert_eq!(self.spill.lost(), None);
    }

    fn step(&mut self) {
        self.disk.memory = !self.disk.one_in(10);
        // Now the hosts are faster, now the link, now the device.
        if self.disk.one_in(100) {
            self.weights = [2 + self.disk.below(8), 1 + self.disk.below(8), 1 + self.disk.below(6)];
        }
        let [stamps, io, acks] = self.weights;
        let pick = self.disk.below(stamps + io + acks + 4);
        match pick {
            _ if pick < stamps => self.stamp(),
            _ if pick < stamps + io => self.io(),
            _ if pick < stamps + io + acks => self.acknowledge(),
            _ if pick < stamps + io + acks + 2 => self.pump(),
            _ => self.turn(),
        }
        for stream in STREAMS {
            let told = self.handed(stream, self.pushed[&stream]);
            assert_eq!(told.is_some(), self.pushed[&stream] < self.last[&stream], "stream {stream}");
            let newest = self.link.back().map_or(Time(0), |record| record.head.stamp.time);
            assert!(told.is_none_or(|time| time >= newest), "what the link keeps waits for stream {stream}");
        }
    }

    /// What the secondary may be told of a stream that was handed over up to `handed`, is true. Returns the time.
    fn handed(&self, stream: StreamId, handed: u64) -> Option<Time> {
        let (time, seq) = self.spill.handed(stream, self.epoch)?;
        assert_eq!(seq.0, handed);
        let mut of_stream = self.stamped.iter().map(|record| record.head.stamp).filter(|stamp| stamp.stream == stream);
        let denied = of_stream.find(|stamp| stamp.time <= time && stamp.seq > seq);
        assert_eq!(denied, None, "stream {stream} is at {seq} at {time}");
        Some(time)
    }

    /// The machine stops, and starts again with what the disk kept.
    fn crash(&mut self) {
        self.reached.crashes += 1;
        self.disk.crash();
        if let Some(meta) = self.meta_flying.take()
            && self.disk.one_in(2)
        {
            self.meta = meta;
        }
        self.link.clear();
        self.spill = Spill::new(VolumeId(1), GEOMETRY, GROUP, PURPOSES, self.meta);
        let mut turns = 0;
        while !self.spill.is_open() {
            self.disk.memory = true;
            self.turn();
            self.io();
            turns += 1;
            assert!(!self.spill.has_failed() && turns < 10_000, "{:?}", self.spill.reason());
        }
        assert_eq!(self.spill.reason(), None, "a torn tail is no damage");
        self.check();
    }

    /// What the log gives is what was promised.
    fn check(&mut self) {
        // The secondary may have more than it said.
        let durable: BTreeMap<StreamId, u64> = STREAMS
            .iter()
            .map(|stream| {
                let (least, most) = (self.acknowledged[stream], self.pushed[stream]);
                (*stream, least + self.disk.below(most - least + 1))
            })
            .collect();
        let found: Vec<(StreamId, Found)> =
            self.spill.found().map(|(id, found)| (id, *found)).filter(|(_, it)| it.epoch == self.epoch).collect();
        self.spill.replay(found.iter().map(|(id, found)| (*id, found.epoch, Seq(durable[id]))));
        let mut out: BTreeMap<StreamId, u64> = durable.clone();
        let mut steps = 0;
        while !self.spill.is_replayed() {
            for stream in STREAMS {
                let is_left = found.iter().any(|(id, found)| *id == stream && found.last.0 > out[id]);
                assert_eq!(self.handed(stream, out[&stream]).is_some(), is_left);
            }
            steps += 1;
            assert!(steps < 100_000, "the replay ends");
            match self.spill.next(&mut self.disk) {
                Some(next) => {
                    let stamp = next.record.head.stamp;
                    assert_eq!(next.epoch, self.epoch);
                    assert_eq!(stamp.seq.0, out[&stamp.stream] + 1, "a contiguous run from what the secondary has");
                    let stamped = self.stamped.iter().any(|record| record.head == next.record.head);
                    assert!(stamped, "nothing that was never stamped");
                    self.is_as_stamped(&next.record);
                    out.insert(stamp.stream, stamp.seq.0);
                    self.reached.replayed += 1;
                }
                None => {
                    self.turn();
                    self.io();
                }
            }
        }
        for stream in STREAMS {
            let committed = self.committed[&stream];
            assert!(
                out[&stream] >= committed,
                "stream {stream}: durable in the spill up to {committed}, at the secondary up to {}, sent up to {}",
                durable[&stream],
                out[&stream]
            );
        }
        let complete = self.spill.complete_up_to();
        for record in &self.stamped {
            let stamp = record.head.stamp;
            let is_there = stamp.seq.0 <= out[&stamp.stream];
            assert!(is_there || stamp.time > complete || found.is_empty(), "{stamp:?} lacks below {complete}");
        }
    }

    /// After a replay: the streams go on in a new epoch.
    fn begin_anew(&mut self) {
        self.spill.discard();
        self.epoch = Epoch(self.epoch.0 + 1);
        self.stamped.clear();
        for stream in STREAMS {
            for numbers in [&mut self.pushed, &mut self.acknowledged, &mut self.last, &mut self.committed] {
                numbers.insert(stream, 0);
            }
        }
    }
}

fn run(seed: u64, errors: bool) -> Reached {
    let mut group = Group::new(seed, errors);
    for _ in 0..4 {
        for _ in 0..200 + group.disk.below(2000) {
            group.step();
        }
        group.crash();
        while group.disk.one_in(3) {
            // Once more before anything new was written.
            group.crash();
        }
        group.begin_anew();
    }
    group.reached
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn after_any_crash_each_stream_goes_on_where_the_secondary_is_up_to_all_that_was_durable(seed in any::<u64>()) {
        run(seed, false);
    }

    #[test]
    fn with_failing_writes_flushes_and_reads_nothing_is_lost_either(seed in any::<u64>()) {
        run(seed, true);
    }
}

#[test]
fn the_runs_spill_read_back_fill_the_device_and_replay() {
    let all = (0..40).map(|seed| run(seed, seed % 2 == 0));
    let sum = all.reduce(|a, b| Reached {
        from_disk: a.from_disk + b.from_disk,
        replayed: a.replayed + b.replayed,
        episodes: a.episodes + b.episodes,
        crashes: a.crashes + b.crashes,
        full: a.full + b.full,
    });
    let sum = sum.unwrap();
    assert!(sum.from_disk > 1000 && sum.replayed > 500 && sum.episodes > 200 && sum.full > 50, "{sum:?}");
}
