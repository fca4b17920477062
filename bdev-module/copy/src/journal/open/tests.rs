use super::*;
use crate::journal::{DEPTH, Item, Journal, Purposes};
use crate::types::{Epoch, Extent, PairId, Record, RecordHead, RecordKind, Seq, Stamp, StreamId, VolumeId};

const GEOMETRY: Geometry = Geometry { blocks: 8 + 256, block_bytes: 512 };
const GROUP: GroupId = GroupId(4);

/// A device that does at once what it is told, and keeps what it said about it.
struct Device {
    bytes: Vec<u8>,
    done: Vec<(u8, Option<Vec<u8>>)>,
    fails: bool,
    now: Mono,
    flushes: u32,
}

impl Memory for Device {
    type Buf = Vec<u8>;
    type Shared = std::rc::Rc<[u8]>;

    fn alloc(&mut self, bytes: usize) -> Option<Vec<u8>> {
        Some(vec![0xee; bytes])
    }

    fn freeze(&mut self, buf: Vec<u8>, bytes: usize) -> std::rc::Rc<[u8]> {
        buf[..bytes].into()
    }
}

impl LogPorts<u8> for Device {
    fn mono(&self) -> Mono {
        self.now
    }

    fn submit_log(&mut self, purpose: u8, _: VolumeId, io: LocalIo<Vec<u8>, std::rc::Rc<[u8]>>) {
        let range = |extent: Extent| extent.lba as usize * 512..extent.end() as usize * 512;
        let mut read = None;
        match io {
            LocalIo::Read { extent, .. } => read = Some(self.bytes[range(extent)].to_vec()),
            LocalIo::Write { extent, data, .. } => self.bytes[range(extent)].copy_from_slice(&data),
            LocalIo::Flush => self.flushes += 1,
            _ => {}
        }
        self.done.push((purpose, read));
    }
}

fn area() -> Area {
    Area::new(VolumeId(1), GEOMETRY)
}

fn identity(meta: &LogMeta) -> Identity {
    Identity { name: "spill", id: meta.id, group: GROUP, geometry: GEOMETRY, is_scratch: false }
}

/// Opens; what `durable` holds is what a crash would find. Gives the end and the numbers found.
fn open(device: &mut Device, meta: &mut LogMeta, durable: &mut LogMeta) -> (Ask, Vec<u64>) {
    let mut opening = Opening::new(area(), identity(meta), 7);
    let mut found = Vec::new();
    loop {
        match opening.poll(device, meta, |_, entry| found.push(entry.head.stamp.seq.0)) {
            Ask::Wait if device.fails || opening.error().is_some() => return (Ask::Wait, found),
            Ask::Wait => {}
            Ask::Persist => {
                *durable = *meta;
                opening.persisted();
                continue;
            }
            ended => return (ended, found),
        }
        for (_, data) in std::mem::take(&mut device.done) {
            let result = if device.fails { Err(DeviceError { errno: 5 }) } else { Ok(()) };
            opening.done(Mono(0), result, data.as_deref());
        }
    }
}

fn log(meta: &LogMeta, end: Point) -> Journal<std::rc::Rc<[u8]>, u8> {
    let purposes = Purposes { write: std::array::from_fn(|lane| 10 + lane as u8), flush: 2 };
    Journal::new(area(), purposes, meta.id, meta.recovery_epoch, meta.tail.position, end)
}

fn begin(log: &mut Journal<std::rc::Rc<[u8]>, u8>, device: &mut Device, seq: u64) {
    begin_with(log, device, seq, 512);
}

fn begin_with(log: &mut Journal<std::rc::Rc<[u8]>, u8>, device: &mut Device, seq: u64, bytes: usize) {
    begin_in(log, device, seq, bytes, false);
}

fn begin_in(log: &mut Journal<std::rc::Rc<[u8]>, u8>, device: &mut Device, seq: u64, bytes: usize, continues: bool) {
    let stamp = Stamp { time: Time(seq), stream: StreamId(1), seq: Seq(seq) };
    let extent = Extent { lba: seq, blocks: 1 };
    let head = RecordHead { stamp, pair: PairId(1), kind: RecordKind::Write, extent, payload_bytes: bytes as u32 };
    let record = Record { head, payload: Some(vec![seq as u8; bytes].into()) };
    let item = Item { record, epoch: Epoch(1), generation: (1, 1), charged: false };
    log.begin(device, vec![item], Time(seq), continues).ok().unwrap();
}

/// Tells the log that what it asked for is done, until it asks for nothing more. The numbers that are durable.
fn settle(log: &mut Journal<std::rc::Rc<[u8]>, u8>, device: &mut Device) -> Vec<u64> {
    let mut durable = Vec::new();
    while !device.done.is_empty() {
        let (purpose, _) = device.done.remove(0);
        if purpose == 2 {
            durable.extend(log.flushed(device, Ok(())).iter().map(|block| block.limit.0));
        } else {
            log.written(device, purpose - 10, Ok(()));
        }
    }
    durable
}

fn append(device: &mut Device, meta: &LogMeta, end: Point, seqs: std::ops::Range<u64>) -> Point {
    let mut log = log(meta, end);
    for seq in seqs {
        begin(&mut log, device, seq);
        assert_eq!(settle(&mut log, device), [seq]);
    }
    log.point()
}

fn empty() -> (Device, LogMeta, LogMeta) {
    let bytes = vec![0; GEOMETRY.bytes() as usize];
    let device = Device { bytes, done: Vec::new(), fails: false, now: Mono(0), flushes: 0 };
    (device, LogMeta::new(99), LogMeta::new(99))
}

#[test]
fn a_new_log_is_formatted_and_opens_again_with_everything_that_was_appended() {
    let (mut device, mut meta, mut durable) = empty();
    let (ask, found) = open(&mut device, &mut meta, &mut durable);
    assert_eq!((ask, found), (Ask::Open(Point::default()), vec![]));
    assert_eq!((durable.recovery_epoch, durable.is_formatted), (1, true));
    let end = append(&mut device, &meta, Point::default(), 1..6);
    let (ask, found) = open(&mut device, &mut meta, &mut durable);
    assert_eq!((ask, found), (Ask::Open(end), vec![1, 2, 3, 4, 5]));
    assert_eq!(durable.recovery_epoch, 2, "raised durably before anything is appended");
    assert_eq!(LogMeta::decode(&durable.encode()), Some(durable));
}

#[test]
fn what_was_appended_is_found_after_the_tail_only_and_beyond_the_seam() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let mut end = Point::default();
    for seq in 1..300 {
        meta.tail = end;
        end = append(&mut device, &meta, end, seq..seq + 1);
    }
    assert!(end.position > 256);
    let (ask, found) = open(&mut device, &mut meta, &mut durable);
    assert_eq!((ask, found), (Ask::Open(end), vec![299]));
}

#[test]
fn damage_before_the_durable_end_is_told_from_a_torn_tail() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let one = append(&mut device, &meta, Point::default(), 1..2);
    let two = append(&mut device, &meta, one, 2..3);
    device.bytes[4096 + one.position as usize * 512 + 200] ^= 1;
    let (ask, found) = open(&mut device, &mut meta, &mut durable);
    assert_eq!((ask, found), (Ask::Open(one), vec![1]), "the last block torn: nobody said that it was durable");
    meta.durable_end = two.position;
    let (ask, found) = open(&mut device, &mut meta, &mut durable);
    assert_eq!((ask, found), (Ask::Damaged { end: one, known: two.position }, vec![1]));
}

#[test]
fn a_further_block_begins_only_when_more_waits_than_one_takes() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let mut log = log(&meta, Point::default());
    let full = log.block_bytes_max();
    assert!(log.takes_more(1));
    for seq in 1..=DEPTH as u64 {
        begin(&mut log, &mut device, seq);
        assert!(!log.takes_more(full), "what fits in one block waits for the flush");
        assert_eq!(log.takes_more(full + 1), seq < DEPTH as u64);
    }
    assert_eq!(settle(&mut log, &mut device), [1, 2, 3, 4, 5, 6]);
    assert!(log.takes_more(1) && !log.is_busy());
}

#[test]
fn a_flush_covers_the_blocks_that_were_written_when_it_began_and_goes_out_before_the_next_is_put_together() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let mut log = log(&meta, Point::default());
    (1..=3).for_each(|seq| begin(&mut log, &mut device, seq));
    device.done.clear();
    log.written(&mut device, 1, Ok(()));
    assert!(device.done.is_empty(), "the first is not written");
    log.written(&mut device, 0, Ok(()));
    assert_eq!(std::mem::take(&mut device.done), [(2, None)]);
    assert!(!log.takes_more(u64::MAX) && log.takes_more(u64::MAX), "once not");
    log.written(&mut device, 2, Ok(()));
    assert!(device.done.is_empty(), "two flushes are never in flight together");
    let limits: Vec<u64> = log.flushed(&mut device, Ok(())).iter().map(|block| block.limit.0).collect();
    assert_eq!((limits, log.committed_end()), (vec![1, 2], log.point().position));
    assert_eq!(device.done, [(2, None)], "and another for the third");
    assert_eq!(settle(&mut log, &mut device), [3]);
}

#[test]
fn what_fails_sends_all_that_is_in_flight_again_and_nothing_of_it_counts_before() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    for fails_at_flush in [false, true] {
        let mut log = log(&meta, Point::default());
        let error = DeviceError { errno: 5 };
        (1..=3).for_each(|seq| begin(&mut log, &mut device, seq));
        device.done.clear();
        log.written(&mut device, 0, Ok(()));
        log.written(&mut device, 1, if fails_at_flush { Ok(()) } else { Err(error) });
        let flushed = log.flushed(&mut device, if fails_at_flush { Err(error) } else { Ok(()) });
        assert_eq!(flushed.len(), usize::from(!fails_at_flush), "the first was written, and flushed");
        assert_eq!((log.error(), log.fault()), (Some(error), None), "the third is being written");
        assert!(!log.takes_more(u64::MAX) && !log.takes_more(u64::MAX), "no block begins behind an error");
        log.written(&mut device, 2, Ok(()));
        device.done.clear();
        assert_eq!((log.fault(), log.retry_at()), (Some(error), Some(Mono(RETRY_NS))));
        device.now = Mono(RETRY_NS - 1);
        log.poll(&mut device);
        assert!(device.done.is_empty(), "not before its time");
        device.now = Mono(RETRY_NS);
        log.poll(&mut device);
        assert_eq!(device.done.len(), 3 - flushed.len());
        let left: &[u64] = if fails_at_flush { &[1, 2, 3] } else { &[2, 3] };
        assert_eq!(settle(&mut log, &mut device), left);
        assert_eq!((log.error(), log.retry_at()), (None, None));
        device.now = Mono(0);
    }
}

#[test]
fn nothing_is_written_again_while_a_write_or_a_flush_is_under_way() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let error = DeviceError { errno: 5 };
    for waits_for_flush in [false, true] {
        let mut log = log(&meta, Point::default());
        (1..=2).for_each(|seq| begin(&mut log, &mut device, seq));
        if waits_for_flush {
            log.written(&mut device, 0, Ok(()));
        }
        log.written(&mut device, 1, Err(error));
        device.done.clear();
        device.now = Mono(2 * RETRY_NS);
        log.poll(&mut device);
        assert!(device.done.is_empty() && log.fault().is_none(), "the device has not answered all yet");
        if waits_for_flush {
            assert_eq!(log.flushed(&mut device, Ok(())).len(), 1);
        } else {
            log.written(&mut device, 0, Ok(()));
        }
        assert_eq!(log.fault(), Some(error));
        log.poll(&mut device);
        assert_eq!(device.done.len(), if waits_for_flush { 1 } else { 2 });
        settle(&mut log, &mut device);
        device.now = Mono(0);
    }
}

#[test]
fn each_block_is_written_once_behind_the_one_before_and_takes_room_while_it_is_in_flight() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let mut log = log(&meta, Point::default());
    (1..=3).for_each(|seq| begin(&mut log, &mut device, seq));
    let lanes: Vec<u8> = device.done.iter().map(|(purpose, _)| *purpose).collect();
    assert_eq!(lanes, [10, 11, 12], "each once");
    assert_eq!((log.limit(), log.point().limit), (Time(3), Time(0)), "begun, and durable");
    assert_eq!(log.used_bytes(), 3 * 1024);
    let left = log.total_bytes() - log.used_bytes();
    assert!(log.has_room(left - format::HEAD_BYTES as u64) && !log.has_room(left - format::HEAD_BYTES as u64 + 1));
    settle(&mut log, &mut device);
    let (ask, found) = open(&mut device, &mut meta, &mut durable);
    assert_eq!((ask, found), (Ask::Open(log.point()), vec![1, 2, 3]), "one chain");
}

#[test]
fn a_commit_of_several_blocks_counts_from_its_last_one_on() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let one = append(&mut device, &meta, Point::default(), 1..2);
    let mut log = log(&meta, one);
    let said = |device: &Device, position: u64| {
        let at = 4096 + position as usize * 512;
        format::parse_head(&device.bytes[at..], meta.id, 512).unwrap().durable_end
    };
    for (seq, continues) in [(2, true), (3, true), (4, false)] {
        let at = log.point().position;
        begin_in(&mut log, &mut device, seq, 512, continues);
        settle(&mut log, &mut device);
        assert_eq!(said(&device, at), one.position, "durable is what ends at a cut");
        let end = if continues { one.position } else { log.point().position };
        assert_eq!(log.committed_end(), end);
        let (ask, found) = open(&mut device, &mut { meta }, &mut durable);
        let whole = if continues { (Ask::Open(one), vec![1]) } else { (Ask::Open(log.point()), vec![1, 2, 3, 4]) };
        assert_eq!((ask, found), whole, "a commit whose last block is missing never was");
    }
}

#[test]
#[should_panic(expected = "a checkpoint lies inside the journal")]
fn what_is_in_flight_is_not_freed() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let mut log = log(&meta, Point::default());
    begin(&mut log, &mut device, 1);
    log.free(1);
}

#[test]
fn what_is_given_up_leaves_the_log_as_if_it_had_never_begun() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let one = append(&mut device, &meta, Point::default(), 1..2);
    let mut log = log(&meta, one);
    (2..=3).for_each(|seq| begin(&mut log, &mut device, seq));
    log.written(&mut device, 0, Err(DeviceError { errno: 5 }));
    log.written(&mut device, 1, Ok(()));
    assert!(log.fault().is_some());
    let seqs: Vec<u64> = log.abandon().iter().map(|item| item.record.head.stamp.seq.0).collect();
    assert_eq!(seqs, [2, 3]);
    assert_eq!((log.error(), log.fault(), log.retry_at(), log.is_busy()), (None, None, None, false));
    assert_eq!((log.limit(), log.used_bytes()), (one.limit, one.position * 512));
    assert!(log.flushed(&mut device, Err(DeviceError { errno: 5 })).is_empty(), "a flush of nothing");
    assert_eq!(log.error(), None);
    device.done.clear();
    begin(&mut log, &mut device, 4);
    assert_eq!(settle(&mut log, &mut device), [4]);
    let (ask, found) = open(&mut device, &mut meta, &mut durable);
    assert_eq!((ask, found), (Ask::Open(log.point()), vec![1, 4]));
}

#[test]
fn a_whole_block_behind_a_torn_one_of_the_same_crash_never_was() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let one = append(&mut device, &meta, Point::default(), 1..2);
    let mut log = log(&meta, one);
    (2..=4).for_each(|seq| begin(&mut log, &mut device, seq));
    // The power goes: 3 and 4 are on the device, 2 is not.
    let torn = 4096 + one.position as usize * 512;
    device.bytes[torn..torn + 512].fill(0);
    device.done.clear();
    let (ask, found) = open(&mut device, &mut meta, &mut durable);
    assert_eq!((ask, found), (Ask::Open(one), vec![1]));
    // What is appended there is of the same length: 3 and 4 lie where its successors will.
    let five = append(&mut device, &meta, one, 5..6);
    let (ask, found) = open(&mut device, &mut meta, &mut durable);
    assert_eq!((ask, found), (Ask::Open(five), vec![1, 5]));
}

#[test]
fn damage_is_told_by_the_first_block_that_was_begun_when_the_damaged_one_was_durable() {
    // As far away as it can be: all blocks in flight are of the largest size.
    let area = Area::new(VolumeId(1), Geometry { blocks: 8 + (32 << 10), block_bytes: 512 });
    let (mut device, meta, _) = empty();
    device.bytes = vec![0; 4096 + (16 << 20)];
    let mut log = Journal { area, ..log(&meta, Point::default()) };
    let bytes = format::BLOCK_BYTES_MAX - format::entry_bytes(0);
    (1..=DEPTH as u64).for_each(|seq| begin_with(&mut log, &mut device, seq, bytes as usize));
    settle(&mut log, &mut device);
    let position = log.point().position;
    begin(&mut log, &mut device, 9);
    settle(&mut log, &mut device);
    device.bytes[4096 + 200] ^= 1;
    let mut search = Search::new(area, 7, meta.id, meta.recovery_epoch, Point::default(), area.capacity);
    let found = loop {
        match search.poll(&mut device, 0, |_, _| panic!("nothing is whole")) {
            Found::Wait => device.done.drain(..).for_each(|(_, data)| search.done(Mono(0), Ok(()), data.as_deref())),
            found => break found,
        }
    };
    assert_eq!(found, Found::Damaged { at: 0, known: position, end: Point::default() });
}

#[test]
fn what_a_killed_process_left_is_flushed_before_it_counts() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    append(&mut device, &meta, Point::default(), 1..3);
    device.flushes = 0;
    let (_, found) = open(&mut device, &mut meta, &mut durable);
    assert_eq!((found, device.flushes), (vec![1, 2], 1));
}

#[test]
fn only_a_block_in_its_place_and_of_this_life_says_that_what_lies_before_it_was_durable() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let two = append(&mut device, &meta, Point::default(), 1..3);
    append(&mut device, &meta, two, 3..6);
    // Each takes two blocks of the device.
    let at = |seq: usize| 4096 + (seq - 1) * 1024;
    let mut moved = device.bytes.clone();
    moved.copy_within(at(5)..at(6), at(4));
    moved[at(3)..at(4)].fill(0);
    moved[at(5)..at(6)].fill(0);
    let (mut elsewhere, ..) = empty();
    elsewhere.bytes = moved;
    let (ask, _) = open(&mut elsewhere, &mut { meta }, &mut durable);
    assert_eq!(ask, Ask::Open(two), "a block that lies elsewhere than it says");
    // Another life goes on behind 2, with a block as long as 3 was; 4 and 5 lie behind it, which say that 3 and 4 were durable.
    meta.recovery_epoch += 1;
    let six = append(&mut device, &meta, two, 6..7);
    let (ask, found) = open(&mut device, &mut meta, &mut durable);
    assert_eq!((ask, found), (Ask::Open(six), vec![1, 2, 6]), "blocks of the life before");
}

#[test]
fn a_device_that_is_not_this_log_s_is_refused_and_left_as_it_is() {
    let (mut device, mut meta, mut durable) = empty();
    open(&mut device, &mut meta, &mut durable);
    let whole = device.bytes.clone();
    let refused = |device: &mut Device, meta: LogMeta, identity: Identity| {
        let mut bytes = vec![0; 4096];
        bytes.copy_from_slice(&device.bytes[..4096]);
        judge(&bytes, &identity, !meta.is_formatted).unwrap_err()
    };
    let own = identity(&meta);
    let other = Identity { group: GroupId(5), ..own };
    assert_eq!(refused(&mut device, meta, other), SuperError::Another("spill"));
    assert_eq!(refused(&mut device, meta, Identity { id: 98, ..own }), SuperError::Earlier("spill"));
    let given = Geometry { blocks: 9999, ..GEOMETRY };
    let resized = SuperError::Resized { log: "spill", made: GEOMETRY, given };
    assert_eq!(refused(&mut device, meta, Identity { geometry: given, ..own }), resized);
    let scratch = Identity { id: 98, is_scratch: true, ..own };
    assert_eq!(
        judge(&device.bytes, &scratch, true),
        Ok(Judged::Blank),
        "an overlay of an earlier life is written anew"
    );
    assert!(judge(&device.bytes, &scratch, false).is_err(), "but not one that is in use");
    let mut stranger = LogMeta::new(5);
    assert_eq!(open(&mut device, &mut stranger, &mut durable).0, Ask::Failed(SuperError::Earlier("spill")));
    assert!(device.bytes == whole);
    device.bytes[0] ^= 1;
    assert_eq!(refused(&mut device, meta, own), SuperError::Foreign("spill"));
    device.bytes.fill(0);
    assert_eq!(refused(&mut device, meta, own), SuperError::Empty("spill"));
}

#[test]
fn a_failing_device_is_tried_again_after_a_second() {
    let (mut device, mut meta, _) = empty();
    let mut opening = Opening::new(area(), identity(&meta), 7);
    assert_eq!(opening.poll(&mut device, &mut meta, |_, _| ()), Ask::Wait);
    device.done.clear();
    opening.done(Mono(5), Err(DeviceError { errno: 5 }), None);
    assert_eq!(opening.retry_at(), Some(Mono(5 + RETRY_NS)));
    assert_eq!(opening.poll(&mut device, &mut meta, |_, _| ()), Ask::Wait);
    assert!(device.done.is_empty(), "not before its time");
}
