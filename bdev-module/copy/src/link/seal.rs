//! Protection of single datagrams under the keys of one handshake.

use super::header::{HEADER_BYTES, Header};
use super::noise::SplitKeys;
use crate::crc::{Crc32c, crc32c};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zerocopy::IntoBytes;

/// Bytes that the longest tag takes.
pub(crate) const TAG_BYTES_MAX: usize = 16;

/// How the datagrams of one handshake are protected.
pub(crate) enum Seal {
    /// AES-256-GCM, a key for each direction.
    Aead {
        /// For what we send.
        send: Box<LessSafeKey>,
        /// For what the peer sends.
        receive: Box<LessSafeKey>,
    },
    /// CRC32C only.
    Crc,
}

/// 96 bits: the packet number, which is never used twice under one key.
fn nonce(packet: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&packet.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Seal {
    /// With the keys of a handshake.
    pub(crate) fn aead(keys: &SplitKeys) -> Option<Seal> {
        let key =
            |bytes: &[u8; 32]| UnboundKey::new(&AES_256_GCM, bytes).ok().map(|key| Box::new(LessSafeKey::new(key)));
        Some(Seal::Aead { send: key(&keys.send)?, receive: key(&keys.receive)? })
    }

    /// Bytes that the tag takes.
    pub(crate) fn tag_bytes(&self) -> usize {
        match self {
            Seal::Aead { .. } => 16,
            Seal::Crc => 4,
        }
    }

    /// Writes a protected datagram: header, body, zeroes as far as `datagram` goes, and the tag.
    pub(crate) fn seal(&self, header: &Header, body: &[u8], datagram: &mut [u8]) {
        let (front, tag) = datagram.split_at_mut(datagram.len() - self.tag_bytes());
        let (head, rest) = front.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(header.as_bytes());
        let (to, padding) = rest.split_at_mut(body.len());
        padding.fill(0);
        match self {
            Seal::Aead { send, .. } => {
                to.copy_from_slice(body);
                let sealed = send.seal_in_place_separate_tag(nonce(header.packet.get()), Aad::from(head), rest);
                match sealed {
                    Ok(bytes) => tag.copy_from_slice(bytes.as_ref()),
                    // Only for bodies of 64 GiB and more. All zeroes: the peer drops it.
                    Err(ring::error::Unspecified) => tag.fill(0),
                }
            }
            Seal::Crc => {
                // The sum first, where the body lies: it is in the cache then, and the copy is not waited for.
                let mut sum = Crc32c::of(head);
                sum.add(body);
                sum.add(padding);
                to.copy_from_slice(body);
                tag.copy_from_slice(&sum.value().to_le_bytes());
            }
        }
    }

    /// Checks a datagram and decrypts it in place; gives body and padding, or `None` for a forged or damaged one. The
    /// caller has checked that it holds a header and a tag.
    pub(crate) fn open<'a>(&self, header: &Header, datagram: &'a mut [u8]) -> Option<&'a mut [u8]> {
        if datagram.len() < HEADER_BYTES + self.tag_bytes() {
            return None;
        }
        match self {
            Seal::Aead { receive, .. } => {
                let (head, sealed) = datagram.split_at_mut(HEADER_BYTES);
                receive.open_in_place(nonce(header.packet.get()), Aad::from(head), sealed).ok()
            }
            Seal::Crc => {
                let (front, tag) = datagram.split_at_mut(datagram.len() - 4);
                (crc32c(front).to_le_bytes() == *tag).then_some(&mut front[HEADER_BYTES..])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::Kind;
    use super::*;

    fn pair() -> [(Seal, Seal); 2] {
        let (one, two) = ([1; 32], [2; 32]);
        let ours = Seal::aead(&SplitKeys { send: one, receive: two }).unwrap();
        let theirs = Seal::aead(&SplitKeys { send: two, receive: one }).unwrap();
        [(ours, theirs), (Seal::Crc, Seal::Crc)]
    }

    #[test]
    fn a_plain_datagrams_tag_is_the_crc32c_of_all_before_it_whatever_its_length() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in (0..1500).chain((1500..10_000).step_by(61)) {
            let header = Header::new(Kind::Data, 1, length as u64);
            let mut datagram = vec![0; HEADER_BYTES + length + 4];
            let body_bytes = length - length / 9;
            datagram.fill(0xee);
            Seal::Crc.seal(&header, &bytes[..body_bytes], &mut datagram);
            let (front, tag) = datagram.split_at(HEADER_BYTES + length);
            assert!(front[HEADER_BYTES + body_bytes..].iter().all(|byte| *byte == 0), "padding");
            assert_eq!(tag, crate::crc::tests::by_bits(front).to_le_bytes(), "{length} bytes");
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_datagram_is_noticed() {
        for (ours, theirs) in pair() {
            let header = Header::new(Kind::Ping, 5, 77);
            let mut datagram = vec![0; HEADER_BYTES + 20 + ours.tag_bytes()];
            ours.seal(&header, b"twenty bytes of body", &mut datagram);
            for bit in 0..datagram.len() * 8 {
                let mut damaged = datagram.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let Some((header, _)) = Header::read(&damaged) else { continue };
                assert!(theirs.open(&header, &mut damaged).is_none(), "bit {bit}");
            }
            assert_eq!(theirs.open(&header, &mut datagram).unwrap(), b"twenty bytes of body");
        }
    }
}
