use super::*;
use crate::journal::{Item, Journal, Purposes};
use crate::types::{Epoch, Extent, PairId, Record, RecordHead, RecordKind, Seq, Stamp, StreamId, VolumeId};

const GEOMETRY: Geometry = Geometry { blocks: 8 + 256, block_bytes: 512 };
const GROUP: GroupId = GroupId(4);

/// A device that does at once what it is told, and keeps what it said about it.
struct Device {
    bytes: Vec<u8>,
    done: Vec<(u8, Option<Vec<u8>>)>,
    fails: bool,
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
        Mono(0)
    }

    fn submit_log(&mut self, purpose: u8, _: VolumeId, io: LocalIo<Vec<u8>, std::rc::Rc<[u8]>>) {
        let range = |extent: Extent| extent.lba as usize * 512..extent.end() as usize * 512;
        let mut read = None;
        match io {
            LocalIo::Read { extent, .. } => read = Some(self.bytes[range(extent)].to_vec()),
            LocalIo::Write { extent, data, .. } => self.bytes[range(extent)].copy_from_slice(&data),
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

fn append(device: &mut Device, meta: &LogMeta, end: Point, seqs: std::ops::Range<u64>) -> Point {
    let purposes = Purposes { write: 1, flush: 2 };
    let mut log = Journal::new(area(), purposes, meta.id, meta.recovery_epoch, meta.tail.position, end);
    let mut last = end;
    for seq in seqs {
        let stamp = Stamp { time: Time(seq), stream: StreamId(1), seq: Seq(seq) };
        let extent = Extent { lba: seq, blocks: 1 };
        let head = RecordHead { stamp, pair: PairId(1), kind: RecordKind::Write, extent, payload_bytes: 512 };
        let record = Record { head, payload: Some(vec![seq as u8; 512].into()) };
        let item = Item { record, epoch: Epoch(1), generation: (1, 1), charged: false };
        log.begin(device, vec![item], Time(seq), false).ok().unwrap();
        while let Some((purpose, _)) = device.done.pop() {
            if purpose == 1 {
                log.written(device, Ok(()));
            } else {
                last = log.flushed(device, Ok(())).unwrap().point();
            }
        }
    }
    last
}

fn empty() -> (Device, LogMeta, LogMeta) {
    let device = Device { bytes: vec![0; GEOMETRY.bytes() as usize], done: Vec::new(), fails: false };
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
