use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::spec::{Cqe, Sqe};

fn any_digests() -> impl Strategy<Value = Digests> {
    (any::<bool>(), any::<bool>()).prop_map(|(header, data)| Digests { header, data })
}

/// Feeds `bytes` cut into pieces of the given sizes, round and round; returns the headers and the payloads.
fn read_all(bytes: &[u8], cuts: &[usize], sender: Sender, digests: Digests) -> Vec<(Pdu, Vec<u8>)> {
    let mut reader = Reader::new(sender);
    let (mut out, mut at, mut turn, mut owed) = (Vec::new(), 0, 0, 0usize);
    while at < bytes.len() {
        let end = (at + cuts[turn % cuts.len()]).min(bytes.len());
        turn += 1;
        while at < end {
            if owed > 0 {
                let take = owed.min(end - at);
                let (_, data): &mut (Pdu, Vec<u8>) = out.last_mut().unwrap();
                data.extend_from_slice(&bytes[at..at + take]);
                owed -= take;
                at += take;
                continue;
            }
            let (used, found) = reader.feed(&bytes[at..end], digests, true);
            assert!(used > 0);
            at += used;
            if let Some(found) = found {
                let (layout, pdu) = found.unwrap();
                owed = layout.data_bytes as usize + if layout.data_digest { 4 } else { 0 };
                out.push((pdu, Vec::new()));
            }
        }
    }
    assert_eq!(owed, 0);
    out
}

proptest! {
    #[test]
    fn capsules_and_data_round_trip_through_any_cuts(
        digests in any_digests(), cid: u16, data in prop::collection::vec(any::<u8>(), 1..600),
        cuts in prop::collection::vec(1usize..90, 1..8), align in prop::sample::select(vec![1usize, 4, 16, 128]),
    ) {
        let sqe = Sqe { cid: cid.into(), opcode: 1, ..Default::default() };
        let capsule = CapsuleCmd { common: CommonHeader::of(kind::CAPSULE_CMD), sqe };
        let h2c = Data {
            common: CommonHeader::of(kind::H2C_DATA), cccid: cid.into(), ttag: 7.into(), datao: 0.into(),
            datal: (data.len() as u32).into(), reserved: [0; 4],
        };
        let mut bytes = Vec::new();
        let mut one = Inline::<160>::new();
        put_header(&mut one, capsule, 0, digests);
        bytes.extend_from_slice(one.as_slice());
        for last in [0, flag::LAST] {
            let mut two = Inline::<160>::new();
            put_header_with_data(&mut two, h2c, last, digests, align, data.len() as u32);
            prop_assert_eq!(two.as_slice().len() % align.min(4), 0);
            bytes.extend_from_slice(two.as_slice());
            bytes.extend_from_slice(&data);
            if digests.data {
                bytes.extend_from_slice(&data_digest(&data));
            }
        }
        let got = read_all(&bytes, &cuts, Sender::Host, digests);
        prop_assert_eq!(got.len(), 3);
        prop_assert!(matches!(got[0].0, Pdu::CapsuleCmd(c) if c.sqe == sqe));
        for (pdu, payload) in &got[1..] {
            prop_assert!(matches!(pdu, Pdu::Data(d) if d.cccid.get() == cid && d.datal.get() as usize == data.len()));
            prop_assert_eq!(&payload[..data.len()], &data[..]);
        }
    }

    #[test]
    fn any_bytes_in_any_cuts_never_panic_the_reader(
        bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0u8..11, hlen in prop::sample::select(vec![0u8, 8, 24, 72, 128]),
        cut in 1usize..40, digests in any_digests(), established: bool,
    ) {
        let mut bytes = bytes;
        if bytes.len() >= 3 {
            bytes[0] = kind;
            bytes[2] = hlen;
        }
        for sender in [Sender::Host, Sender::Target] {
            let mut reader = Reader::new(sender);
            for piece in bytes.chunks(cut) {
                let mut at = 0;
                while at < piece.len() {
                    let (used, _) = reader.feed(&piece[at..], digests, established);
                    prop_assert!(used <= piece.len() - at);
                    if used == 0 {
                        break;
                    }
                    at += used;
                }
            }
        }
    }

    #[test]
    fn one_wrong_bit_in_a_header_is_found_by_its_digest(bit in 64usize..24 * 8) {
        let digests = Digests { header: true, data: false };
        let response = CapsuleResp { common: CommonHeader::of(kind::CAPSULE_RESP), cqe: Cqe::default() };
        let mut out = Inline::<160>::new();
        put_header(&mut out, response, 0, digests);
        let mut bytes = out.as_slice().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (_, found) = Reader::new(Sender::Target).feed(&bytes, digests, true);
        let fault = found.unwrap().unwrap_err();
        prop_assert_eq!(fault.status, FatalStatus::HeaderDigest);
        prop_assert_eq!(fault.information.to_le_bytes().to_vec(), bytes[24..28].to_vec());
    }
}

fn check(kind: u8, hlen: u8, pdo: u8, plen: u32, established: bool) -> Result<Layout, (FatalStatus, u32)> {
    let common = CommonHeader { kind, flags: 0, hlen, pdo, plen: plen.into() };
    Layout::check(&common, Sender::Host, Digests::default(), established)
}

#[test]
fn each_wrong_field_is_named_by_its_offset() {
    use FatalStatus::{InvalidHeaderField, PduSequence};
    assert!(check(kind::IC_REQ, 128, 0, 128, false).is_ok());
    assert_eq!(check(kind::IC_REQ, 128, 0, 128, true), Err((PduSequence, 0)));
    assert_eq!(check(kind::CAPSULE_CMD, 72, 0, 72, false), Err((PduSequence, 0)));
    assert_eq!(check(0x08, 72, 0, 72, true), Err((InvalidHeaderField, 0)));
    assert_eq!(check(kind::R2T, 24, 0, 24, true), Err((InvalidHeaderField, 0)));
    assert_eq!(check(kind::CAPSULE_CMD, 71, 0, 72, true), Err((InvalidHeaderField, 2)));
    assert_eq!(check(kind::CAPSULE_CMD, 72, 68, 80, true), Err((InvalidHeaderField, 3)));
    assert_eq!(check(kind::CAPSULE_CMD, 72, 73, 80, true), Err((InvalidHeaderField, 3)));
    assert_eq!(check(kind::CAPSULE_CMD, 72, 0, 71, true), Err((InvalidHeaderField, 4)));
    assert_eq!(check(kind::H2C_DATA, 24, 24, 24, true), Err((InvalidHeaderField, 4)));
    assert_eq!(check(kind::H2C_DATA, 24, 252, 252, true), Err((InvalidHeaderField, 4)));
    assert_eq!(check(kind::H2C_TERM_REQ, 24, 0, 153, true), Err((InvalidHeaderField, 4)));
    assert_eq!(check(kind::H2C_TERM_REQ, 24, 0, 152, true).map(|l| l.data_bytes), Ok(128));
}

#[test]
fn a_digest_flag_that_was_not_agreed_on_is_refused() {
    let common = CommonHeader { kind: kind::CAPSULE_CMD, flags: flag::HDGST, hlen: 72, pdo: 0, plen: 72.into() };
    let got = Layout::check(&common, Sender::Host, Digests::default(), true);
    assert_eq!(got, Err((FatalStatus::InvalidHeaderField, 1)));
    assert_eq!(common.as_bytes().len(), 8);
}
