//! Journals: superblocks, blocks with entries, metadata values; and their checksums.

use crate::Bytes;
use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi as crc32c};

const HEAD_BYTES: usize = 80;
const ENTRY_BYTES: usize = 88;
const SUPER_BYTES: usize = 48;

fn put(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}

fn field(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u32::from_le_bytes(*field))
}

/// Makes a journal block's checksums right, whatever stands in it: those of payloads and entries, as far as they can be
/// found, the head's, and the whole block's. The magic numbers too.
pub fn repair_block(bytes: &mut [u8]) {
    let Some((head, body)) = bytes.split_at_mut_checked(HEAD_BYTES) else { return };
    head[..8].copy_from_slice(b"LRJBLOCK");
    put(head, 8, 1);
    // checksum, head_crc
    put(head, 12, 0);
    put(head, 16, 0);
    let crc = crc32c(head);
    let (entries, body_bytes) = (field(head, 68), field(head, 72) as usize);
    let mut checksum = Digest::new(CrcAlgorithm::Crc32Iscsi);
    checksum.update(head);
    let mut rest = body.get_mut(..body_bytes).unwrap_or_default();
    for _ in 0..entries {
        let Some((entry, after)) = rest.split_at_mut_checked(ENTRY_BYTES) else { break };
        let length = field(entry, 12) as usize;
        put(entry, 0, 0x4e45_524c);
        put(entry, 4, 0);
        put(entry, 8, after.get(..length).map_or(0, crc32c));
        let entry_crc = crc32c(entry);
        put(entry, 4, entry_crc);
        checksum.update(entry);
        rest = after.get_mut(length.next_multiple_of(8)..).unwrap_or_default();
    }
    put(head, 12, checksum.finalize() as u32);
    put(head, 16, crc);
}

/// Makes a superblock's checksum right.
pub fn repair_super(bytes: &mut [u8]) {
    let Some(head) = bytes.get_mut(..SUPER_BYTES) else { return };
    head[..8].copy_from_slice(b"LONGRUNJ");
    put(head, 8, 1);
    put(head, 12, 0);
    let crc = crc32c(head);
    put(head, 12, crc);
}

/// Makes a metadata value's checksum, its last four bytes, right.
pub fn repair_value(bytes: &mut [u8]) {
    let Some(end) = bytes.len().checked_sub(4) else { return };
    let crc = crc32c(&bytes[..end]);
    put(bytes, end, crc);
}

/// A journal block of these payloads.
fn block(position: u64, payloads: &[&[u8]]) -> Vec<u8> {
    let mut body = Bytes::default();
    for (seq, payload) in (1u64..).zip(payloads) {
        body = body.u32(0).u32(0).u32(0).u32(payload.len() as u32);
        body = body.u64s([7, 1, seq, 1000 + seq, 3, 9, 6, 8 * seq]).u32(1).byte(if payload.is_empty() { 2 } else { 1 });
        body = body.raw(&[0; 3]).raw(payload).raw(&vec![0; payload.len().next_multiple_of(8) - payload.len()]);
    }
    let head = Bytes::default().raw(&[0; 8]).u32(1).u32(0).u32(0).u32(0).u64s([0, position, 1, position, 2000]);
    let blocks = (HEAD_BYTES + body.0.len()).div_ceil(512);
    let head = head.u32(blocks as u32).u32(payloads.len() as u32).u32(body.0.len() as u32).u32(0);
    assert_eq!(head.0.len(), HEAD_BYTES, "the head's layout");
    let mut bytes = head.raw(&body.0).0;
    bytes.resize(blocks * 512, 0);
    repair_block(&mut bytes);
    bytes
}

/// A group's metadata: without and with streams and pairs.
fn values() -> Vec<Vec<u8>> {
    let start = |life: Bytes| {
        let value = Bytes::default().u32(1).text32("group").raw(&life.0).u64s([3, 9, 2, 1, 1, 12]).u32(77);
        value.u64s([1000, 12])
    };
    let b = Bytes::default;
    let lives = [
        b().byte(0),
        b().byte(1),
        b().byte(2).text32("PFUS").text32("overflow"),
        b().byte(3).text32("lost"),
        b().byte(4).u64s([99]),
        b().byte(5),
    ];
    let mut values = Vec::new();
    for life in lives {
        let empty = start(life.clone()).u32(0).u32(0).u64s([5000]).byte(0);
        let stream = b().u64s([7, 2]).byte(3).u64s([1, 1, 500, 40]).byte(0).u32(1).u64s([42, 44, 50]);
        let pair = b().u64s([6]).text32("pair").u64s([2048]).u32(4096).byte(1).byte(1).u64s([7]).byte(1).byte(0);
        let full = start(life).u32(1).raw(&stream.0).u32(1).raw(&pair.0).u64s([5000]).byte(0);
        for value in [empty, full] {
            // Nothing discarded; room for the checksum.
            let mut bytes = value.u32(0).u32(0).0;
            repair_value(&mut bytes);
            values.push(bytes);
        }
    }
    values
}

/// Valid journals and values.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut superblock = Bytes::default().raw(&[0; 8]).u32(1).u32(0).u64s([1, 5, 1 << 14]).u32(4096).u32(0).0;
    repair_super(&mut superblock);
    let mut seeds = vec![superblock, block(8, &[]), block(9, &[b""]), block(10, &[&[7; 512]])];
    seeds.push(block(11, &[&[7; 100], b"", &[9; 1000]]));
    seeds.extend(values());
    seeds
}
