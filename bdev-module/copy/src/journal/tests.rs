use super::format::*;
use super::*;
use crate::types::{Geometry, GroupId, PairId, RecordHead, RecordKind, Seq, Stamp, StreamId, VolumeId};
use proptest::prelude::*;

fn entry(seq: u64, payload: &[u8]) -> Entry {
    Entry {
        head: RecordHead {
            stamp: Stamp { time: Time(100 + seq), stream: StreamId(5), seq: Seq(seq) },
            pair: PairId(3),
            kind: if payload.is_empty() { RecordKind::WriteZeroes } else { RecordKind::Repair },
            extent: Extent { lba: seq * 8, blocks: 4 },
            payload_bytes: payload.len() as u32,
        },
        epoch: Epoch(2),
        generation: (1, 77),
    }
}

const ID: u64 = 0xfeed;

fn block(position: u64, epoch: u64, previous: u32, payloads: &[Vec<u8>]) -> Vec<u8> {
    let heads: Vec<EntryHead> =
        payloads.iter().enumerate().map(|(seq, payload)| entry(seq as u64 + 1, payload).encode(payload)).collect();
    let body_bytes: u64 = payloads.iter().map(|payload| entry_bytes(payload.len() as u32)).sum();
    let blocks = (HEAD_BYTES as u64 + body_bytes).div_ceil(512) as u32;
    let mut head = NewHead::new(&NewBlock {
        journal_id: ID,
        position,
        recovery_epoch: epoch,
        previous,
        durable_end: position,
        limit: Time(9),
        blocks,
        body_bytes: body_bytes as u32,
        continues: false,
        entries: heads.len() as u32,
    });
    heads.iter().for_each(|entry| head.add(entry));
    let mut bytes = head.finish().0.to_vec();
    for (payload, head) in payloads.iter().zip(&heads) {
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes.resize(blocks as usize * 512, 0);
    bytes
}

fn expect(position: u64, previous: u32, epochs: std::ops::RangeInclusive<u64>) -> Expect {
    Expect { journal_id: ID, position, previous, epoch_min: *epochs.start(), epoch_max: *epochs.end() }
}

fn read(bytes: &[u8]) -> Option<Vec<(Entry, Vec<u8>)>> {
    let info = parse_head(bytes, ID, 512).ok()?;
    let mut entries = Vec::new();
    parse_block(bytes, &info, |entry, payload| entries.push((entry, payload.to_vec()))).ok()?;
    Some(entries)
}

proptest! {
    #[test]
    fn a_block_comes_back_as_it_was_written(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..900), 0..6)) {
        let bytes = block(40, 3, 1234, &payloads);
        let entries = read(&bytes).unwrap();
        let wanted: Vec<_> = payloads.iter().enumerate().map(|(seq, it)| (entry(seq as u64 + 1, it), it.clone())).collect();
        prop_assert_eq!(entries, wanted);
    }

    #[test]
    fn a_block_with_any_bit_flipped_is_refused_or_says_the_same(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4),
        at in any::<prop::sample::Index>(), bit in 0_u8..8,
    ) {
        let bytes = block(40, 3, 1234, &payloads);
        let mut flipped = bytes.clone();
        let at = at.index(bytes.len());
        flipped[at] ^= 1_u8 << bit;
        // Only the padding of a payload to 8 bytes, and of the block to a device block, says nothing.
        prop_assert!(read(&flipped).is_none_or(|entries| Some(entries) == read(&bytes)));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz_journal(&bytes);
    }

    #[test]
    fn no_damage_of_a_good_block_panics(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = block(40, 3, 1234, &payloads);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let _ = read(&bytes);
        fuzz_journal(&bytes);
    }
}

#[test]
fn a_block_continues_the_journal_only_in_its_place_chain_and_time() {
    let info = |position, epoch, previous| parse_head(&block(position, epoch, previous, &[]), ID, 512).unwrap();
    let good = expect(40, 1234, 2..=3);
    assert_eq!(check_head(&info(40, 3, 1234), &good), Ok(()));
    assert_eq!(check_head(&info(40, 2, 1234), &good), Ok(()));
    assert_eq!(check_head(&info(41, 3, 1234), &good), Err(BlockError::Stale), "of another lap or place");
    assert_eq!(
        check_head(&info(40, 1, 1234), &good),
        Err(BlockError::Stale),
        "of an older life, torn off and written over"
    );
    assert_eq!(check_head(&info(40, 4, 1234), &good), Err(BlockError::Stale), "of an epoch that was never durable");
    assert_eq!(check_head(&info(40, 3, 1235), &good), Err(BlockError::NotChained));
    assert!(parse_head(&block(40, 3, 1234, &[]), ID + 1, 512).is_err(), "of another journal");
}

#[test]
fn a_superblock_is_told_from_a_foreign_and_an_empty_device() {
    let geometry = Geometry { blocks: 1000, block_bytes: 512 };
    let mut bytes = vec![0; 4096];
    assert_eq!(parse_super(&bytes), Super::Blank);
    super_bytes(ID, GroupId(4), geometry, &mut bytes);
    assert_eq!(parse_super(&bytes), Super::Journal { id: ID, group: GroupId(4), geometry });
    bytes[20] ^= 1;
    assert_eq!(parse_super(&bytes), Super::Foreign);
    assert_eq!(parse_super(b"x"), Super::Foreign);
}

#[test]
fn an_extent_never_crosses_the_circle_s_seam() {
    let area = Area::new(VolumeId(1), Geometry { blocks: 8 + 100, block_bytes: 512 });
    assert_eq!(area.capacity, 100);
    assert_eq!(area.extent(290, 50), Extent { lba: 8 + 90, blocks: 10 });
    assert_eq!(area.extent(300, 50), Extent { lba: 8, blocks: 50 });
}
