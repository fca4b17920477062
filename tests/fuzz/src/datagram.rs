//! Datagrams: every kind of frame, and every control message. Session and checksum are the fuzz target's own work: it
//! takes all but the first byte for a datagram of a session that is up.

use crate::Bytes;

const DATA: u8 = 3;
const BEACONS: u8 = 4;
const ACK: u8 = 5;
const CONTROL: u8 = 6;

/// The stream that the fuzz target has started.
const STREAM: u64 = 7;
/// A time that the fuzz target's clock has passed.
const TIME: u64 = 1 << 59;

/// What a header says beside kind and length.
#[derive(Clone, Copy, Default)]
struct Fields {
    seq: u64,
    time: u64,
    lba: u64,
    blocks: u32,
    payload_bytes: u32,
    fragment_offset: u32,
    record_kind: u8,
}

/// A datagram behind the byte that the target skips, with a tag's room at the end.
fn datagram(kind: u8, packet: u64, fields: Fields, body: &[u8]) -> Vec<u8> {
    let header = Bytes::default().byte(2).byte(kind).u16(body.len() as u16).u32(0);
    let header = header.u64s([packet, STREAM, 1, 0, fields.seq, fields.time, 1, fields.lba]);
    let header = header.u32(fields.blocks).u32(fields.payload_bytes).u32(fields.fragment_offset);
    let header = header.u16(u16::MAX).byte(fields.record_kind).byte(0);
    assert_eq!(header.0.len(), 88, "the header's layout");
    let mut seed = vec![0];
    seed.extend_from_slice(&header.raw(body).0);
    seed
}

fn control(number: u64, message: Bytes) -> Vec<u8> {
    datagram(CONTROL, 100 + number, Fields { seq: number, ..Fields::default() }, &message.0)
}

/// Every control message once, with its first number; several numbers for the first, so that order is tried.
fn messages() -> Vec<Bytes> {
    let b = |code: u8| Bytes::default().byte(code);
    let generation = [3, 9, 2];
    vec![
        b(1).u64s([5]).text16("group").u64s(generation).u64s([STREAM]).byte(3).u64s([1, 1, TIME, 0]).byte(0),
        b(1).u64s([5])
            .text16("group")
            .u64s(generation)
            .u64s([STREAM])
            .byte(1)
            .u64s([2, 9, TIME, 8])
            .byte(1)
            .u64s([1, 8]),
        b(2).u64s([5]).u64s(generation).u64s([STREAM, 1, 0, TIME]),
        b(3).u64s([5, 6]).text16("pair").text16("volume").u64s([STREAM, 2048]).u32(4096).byte(1),
        b(4).u64s([5, 6]),
        b(5).u64s([5, 6, TIME]),
        b(6).u64s([5, STREAM, 1, 40, TIME]),
        b(7).u64s([5]).text16("PFUS").text16("the link was away for too long"),
        b(8).u64s([5]).byte(1).u64s([STREAM]).byte(1).text16("not created yet"),
        b(8).u64s([5]).byte(2).u64s([6]).byte(4).text16("unsent records"),
        b(9).u64s([5]).u64s(generation),
    ]
}

/// Valid datagrams.
pub fn seeds() -> Vec<Vec<u8>> {
    let write =
        Fields { seq: 1, time: TIME, lba: 8, blocks: 1, payload_bytes: 4096, record_kind: 1, ..Fields::default() };
    let mut seeds = vec![
        datagram(DATA, 20, write, &[0x5a; 1024]),
        datagram(DATA, 21, Fields { fragment_offset: 1024, ..write }, &[0x5a; 1024]),
        datagram(DATA, 22, Fields { fragment_offset: 3072, ..write }, &[0x5a; 1024]),
        datagram(DATA, 23, Fields { seq: 2, payload_bytes: 512, ..write }, &[1; 512]),
        // Stream, epoch, generation, last number, time: each a difference, folded so that its sign is the lowest bit.
        datagram(BEACONS, 30, Fields::default(), &[14, 2, 0, 80, 18]),
        datagram(BEACONS, 31, Fields::default(), &[14, 2, 0, 80, 18, 4, 0, 0, 0xa1, 0x1f, 0, 1, 2, 6, 0, 0]),
        datagram(BEACONS, 32, Fields::default(), &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]),
    ];
    for kind in 2..5 {
        let record = Fields { seq: u64::from(kind), payload_bytes: 0, record_kind: kind, ..write };
        seeds.push(datagram(DATA, 40 + u64::from(kind), record, &[]));
    }
    // delay, statuses, highest, length - 1, {gap - 1, length - 1}
    seeds.push(datagram(ACK, 50, Fields::default(), &[10, 0, 3, 0]));
    seeds.push(datagram(ACK, 51, Fields::default(), &[0xe8, 0x07, 0, 90, 10, 5, 3, 0, 0]));
    let status = Bytes::default().byte(10).byte(1).u64s([STREAM, 1, 5, 4, 1 << 20]).u32(99).byte(3).byte(0);
    seeds.push(datagram(ACK, 52, Fields::default(), &status.0));
    for message in messages() {
        for number in [0, 1, 300] {
            seeds.push(control(number, message.clone()));
        }
    }
    for kind in [1, 2, 7, 8] {
        seeds.push(datagram(kind, 70 + u64::from(kind), Fields::default(), &[9; 300]));
    }
    seeds
}
