//! Digests of blocks, for the question whether two volumes hold the same: before something is copied, and in an online
//! verify.

/// A piece of a volume that is compared as a whole, in bytes. The last piece of an extent may be shorter.
pub const PIECE_BYTES: usize = 64 << 10;

/// The first 16 bytes of a piece's SHA-256 (FIPS 180-4): two pieces that differ have one with a chance of 2^-128.
pub type Digest = [u8; 16];

/// One digest per piece, in order. Costs one pass over the bytes.
pub fn digests(bytes: &[u8]) -> impl Iterator<Item = Digest> + '_ {
    bytes.chunks(PIECE_BYTES).map(|piece| {
        let whole = ring::digest::digest(&ring::digest::SHA256, piece);
        let mut digest = Digest::default();
        digest.copy_from_slice(&whole.as_ref()[..16]);
        digest
    })
}

/// A mask of the pieces whose digest is another: bit n for piece n, of the first 64. A missing digest differs.
pub fn differing(bytes: &[u8], theirs: &[Digest]) -> u64 {
    let mut theirs = theirs.iter();
    digests(bytes).take(64).enumerate().fold(0, |mask, (piece, mine)| match theirs.next() {
        Some(digest) if *digest == mine => mask,
        _ => mask | 1 << piece,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_shows_in_its_piece_and_in_no_other() {
        let mut bytes = vec![7; 3 * PIECE_BYTES + 512];
        let before: Vec<Digest> = digests(&bytes).collect();
        assert_eq!((before.len(), differing(&bytes, &before)), (4, 0));
        bytes[2 * PIECE_BYTES] ^= 1;
        assert_eq!(differing(&bytes, &before), 0b100);
        bytes[3 * PIECE_BYTES + 511] ^= 1;
        assert_eq!(differing(&bytes, &before), 0b1100);
        assert_eq!(differing(&bytes, &before[..1]), 0b1110, "what has no digest differs");
    }
}
