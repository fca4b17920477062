use proptest::prelude::*;

use crate::{BlockBytes, BlockSays, Contents, Extent, Foreign, HostTime, Log, WriteId};

const EXTENT: Extent = Extent::new(2, 40, 3);

fn filled(block_bytes: BlockBytes) -> (Vec<u8>, WriteId) {
    let mut log = Log::new(9);
    log.write_issued(HostTime(0), EXTENT);
    let id = log.write_issued(HostTime(1), EXTENT);
    let mut data = vec![0xee; 3 * block_bytes.get()];
    Contents::new(77).fill(&mut data, id, EXTENT, block_bytes);
    (data, id)
}

#[test]
fn a_filled_block_names_its_write_in_its_place_only() {
    for block_bytes in [BlockBytes::B512, BlockBytes::B4096] {
        let (data, id) = filled(block_bytes);
        let contents = Contents::new(77);
        for (index, block) in data.chunks_exact(block_bytes.get()).enumerate() {
            let lba = 40 + index as u64;
            assert_eq!(contents.identify(block, 2, lba), BlockSays::Write(id));
            assert_eq!(contents.identify(block, 2, lba + 1), BlockSays::Foreign(Foreign::Misplaced));
            assert_eq!(contents.identify(block, 3, lba), BlockSays::Foreign(Foreign::Misplaced));
            assert_eq!(Contents::new(78).identify(block, 2, lba), BlockSays::Foreign(Foreign::OtherRun));
        }
    }
}

#[test]
fn zeros_are_initial_and_one_bit_among_them_is_foreign() {
    let contents = Contents::new(1);
    let mut block = vec![0; 4096];
    assert_eq!(contents.identify(&block, 0, 0), BlockSays::Initial);
    block[4095] = 1;
    assert_eq!(contents.identify(&block, 0, 0), BlockSays::Foreign(Foreign::NotOurs));
    assert_eq!(contents.identify(&[], 0, 0), BlockSays::Foreign(Foreign::NotOurs));
}

#[test]
fn a_block_torn_between_two_writes_at_any_sector_is_foreign() {
    let contents = Contents::new(1);
    let extent = Extent::new(0, 0, 1);
    let mut log = Log::new(0);
    let mut block = || {
        let id = log.write_issued(HostTime(0), extent);
        let mut data = vec![0; 4096];
        contents.fill(&mut data, id, extent, BlockBytes::B4096);
        data
    };
    let (old, new) = (block(), block());
    for sector in 1..8 {
        let torn = [&new[..sector * 512], &old[sector * 512..]].concat();
        assert_eq!(contents.identify(&torn, 0, 0), BlockSays::Foreign(Foreign::Damaged), "sector {sector}");
    }
}

proptest! {
    #[test]
    fn any_flipped_bit_is_seen(at in 0usize..4096, bit in 0u8..8) {
        let (mut data, _) = filled(BlockBytes::B4096);
        data[at] ^= 1 << bit;
        let says = Contents::new(77).identify(&data[..4096], 2, 40);
        prop_assert!(matches!(says, BlockSays::Foreign(_)), "{says:?}");
    }

    #[test]
    fn any_bytes_are_an_answer(data in proptest::collection::vec(any::<u8>(), 0..600), with_magic: bool) {
        let mut data = data;
        if with_magic {
            let (good, _) = filled(BlockBytes::B512);
            let keep = data.len().min(64);
            data[..keep].copy_from_slice(&good[..keep]);
        }
        let says = Contents::new(77).identify(&data, 2, 40);
        prop_assert!(!matches!(says, BlockSays::Write(_)));
    }

    #[test]
    fn what_a_block_says_survives_packing(raw: u64) {
        let says = BlockSays::unpack(raw);
        prop_assert_eq!(BlockSays::unpack(says.pack()), says);
    }
}
