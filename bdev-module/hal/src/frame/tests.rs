use proptest::prelude::*;

use super::*;

fn flow() -> Flow {
    Flow {
        from_mac: Mac([2, 0, 0, 0, 0, 1]),
        to_mac: Mac([2, 0, 0, 0, 0, 2]),
        from: "10.0.0.1:4420".parse().unwrap(),
        to: "10.0.0.2:4421".parse().unwrap(),
    }
}

fn frame_of(flow: &Flow, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xee; HEADER_BYTES];
    frame.extend_from_slice(payload);
    write(flow, &mut frame).unwrap();
    frame
}

/// RFC 1071, section 4.1, word by word.
fn checksum_by_the_book(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn a_frame_is_what_the_standards_say_byte_by_byte() {
    let frame = frame_of(&flow(), b"abc");
    let expected = [
        0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet: to, from, IPv4
        0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0x26, 0xcc, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
        0x11, 0x44, 0x11, 0x45, 0, 11, 0x04, 0xea, // UDP
        b'a', b'b', b'c',
    ];
    assert_eq!(frame, expected);
}

#[test]
fn a_checksum_of_zero_is_sent_as_ones() {
    // A payload word that brings the sum of all others to ffff.
    let rest = frame_of(&flow(), &[0, 0]);
    let missing = [rest[40], rest[41]];
    let frame = frame_of(&flow(), &missing);
    assert_eq!(frame[40..42], [0xff, 0xff]);
}

#[test]
fn frames_that_are_no_datagrams_are_refused_by_name() {
    let good = frame_of(&flow(), &[7; 100]);
    let with = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        // A right checksum, so that it is the field that is refused.
        frame[24..26].fill(0);
        let sum = checksum_by_the_book(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        parse(&frame)
    };
    assert!(parse(&good).is_ok());
    assert_eq!(with(13, 6), Err(FrameError::EtherType { got: 0x0806 }));
    assert_eq!(with(14, 0x65), Err(FrameError::Version { got: 0x65 }));
    assert_eq!(with(14, 0x44), Err(FrameError::Version { got: 0x44 }));
    assert_eq!(with(23, 6), Err(FrameError::Protocol { got: 6 }));
    assert_eq!(with(20, 0x20), Err(FrameError::Fragment));
    assert_eq!(with(21, 1), Err(FrameError::Fragment));
    assert_eq!(with(17, 129), Err(FrameError::Length { says: 129, has: 128 }));
    assert_eq!(with(39, 109), Err(FrameError::UdpLength { says: 109, has: 108 }));
    assert_eq!(with(39, 7), Err(FrameError::UdpLength { says: 7, has: 108 }));
    let mut turned = good.clone();
    turned[22] = 63;
    assert_eq!(parse(&turned), Err(FrameError::Checksum));
    assert_eq!(parse(&good[..41]), Err(FrameError::Length { says: 128, has: 27 }));
    assert!(matches!(parse(&good[..33]), Err(FrameError::Short { .. })));
    let mut long = vec![0; HEADER_BYTES + PAYLOAD_BYTES_MAX + 1];
    assert_eq!(write(&flow(), &mut long), Err(FrameError::Long { got: 65_508, max: 65_507 }));
    assert_eq!(write(&flow(), &mut long[..41]), Err(FrameError::Short { got: 41, need: 42 }));
}

#[test]
fn what_pads_a_short_frame_is_not_payload() {
    let mut frame = frame_of(&flow(), b"x");
    frame.resize(60, 0);
    assert_eq!(parse(&frame).unwrap().payload, 42..43);
}

#[test]
fn options_in_the_ip_header_are_passed_over() {
    let mut frame = frame_of(&flow(), b"payload");
    // Four no-operations (RFC 791, section 3.1).
    frame.splice(34..34, [1, 1, 1, 1]);
    frame[14] = 0x46;
    frame[17] += 4;
    frame[24..26].fill(0);
    let sum = checksum_by_the_book(&frame[14..38]).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    let datagram = parse(&frame).unwrap();
    assert_eq!(&frame[datagram.payload], b"payload");
}

fn any_flow() -> impl Strategy<Value = Flow> {
    any::<([u8; 6], [u8; 6], [u8; 4], u16, [u8; 4], u16)>().prop_map(
        |(from_mac, to_mac, from, from_port, to, to_port)| Flow {
            from_mac: Mac(from_mac),
            to_mac: Mac(to_mac),
            from: SocketAddrV4::new(from.into(), from_port),
            to: SocketAddrV4::new(to.into(), to_port),
        },
    )
}

proptest! {
    #[test]
    fn what_was_written_is_read_and_both_checksums_are_by_the_book(
        flow in any_flow(),
        payload in prop::collection::vec(any::<u8>(), 0..9000),
    ) {
        let frame = frame_of(&flow, &payload);
        let datagram = parse(&frame).unwrap();
        prop_assert_eq!((datagram.from, datagram.to), (flow.from, flow.to));
        prop_assert_eq!(&frame[datagram.payload], &payload[..]);
        prop_assert_eq!(checksum_by_the_book(&frame[14..34]), 0);
        let mut covered = frame[26..34].to_vec();
        covered.extend_from_slice(&[0, 17, frame[38], frame[39]]);
        covered.extend_from_slice(&frame[34..]);
        prop_assert_eq!(checksum_by_the_book(&covered), 0);
    }

    #[test]
    fn any_bytes_are_read_without_panic_and_never_beyond_their_end(
        mut frame in prop::collection::vec(any::<u8>(), 0..200),
        likely in any::<bool>(),
    ) {
        if likely && frame.len() >= HEADER_BYTES {
            frame[12..15].copy_from_slice(&[8, 0, 0x45]);
            frame[24..26].fill(0);
            let sum = checksum_by_the_book(&frame[14..34]).to_be_bytes();
            frame[24..26].copy_from_slice(&sum);
        }
        if let Ok(datagram) = parse(&frame) {
            prop_assert!(datagram.payload.start >= HEADER_BYTES && datagram.payload.end <= frame.len());
        }
    }

    #[test]
    fn a_bit_that_turned_in_the_ip_header_is_noticed(bit in 0usize..160) {
        let mut frame = frame_of(&flow(), &[1; 64]);
        frame[14 + bit / 8] ^= 1 << (bit % 8);
        prop_assert!(parse(&frame).is_err());
    }
}
