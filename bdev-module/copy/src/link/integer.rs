//! Integers of a length of their own (LEB128): seven bits in each byte, the lowest first; all bytes but the last have the
//! highest bit set.

/// Bytes of the longest.
pub(crate) const BYTES_MAX: usize = 10;

/// Writes one.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads one off the front; `None` if the bytes end before it does, or it has more than 64 bits.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A difference, short if it is small, whatever its sign: `after` is `before` plus it, modulo 2^64.
pub(crate) fn put_difference(out: &mut Vec<u8>, before: u64, after: u64) {
    let difference = after.wrapping_sub(before) as i64;
    put(out, ((difference << 1) ^ (difference >> 63)) as u64);
}

/// What [`put_difference`] was given as `after`.
pub(crate) fn take_difference(bytes: &mut &[u8], before: u64) -> Option<u64> {
    let folded = take(bytes)?;
    Some(before.wrapping_add((folded >> 1) ^ (folded & 1).wrapping_neg()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_numbers_and_small_differences_take_a_byte() {
        let mut out = Vec::new();
        put(&mut out, 127);
        for after in [1000, 1063, 937] {
            put_difference(&mut out, 1000, after);
        }
        assert_eq!(out, [127, 0, 126, 125]);
        put_difference(&mut out, 0, 1 << 63);
        assert_eq!(out.len(), 4 + BYTES_MAX);
    }

    proptest! {
        #[test]
        fn a_number_and_a_difference_are_read_as_written(value: u64, before: u64, after: u64, rest: Vec<u8>) {
            let mut out = Vec::new();
            put(&mut out, value);
            put_difference(&mut out, before, after);
            prop_assert!(out.len() <= 2 * BYTES_MAX);
            for short in 0..out.len() {
                let mut bytes = &out[..short];
                prop_assert!(take(&mut bytes).and_then(|_| take_difference(&mut bytes, before)).is_none());
            }
            out.extend(&rest);
            let mut bytes = out.as_slice();
            prop_assert_eq!(take(&mut bytes), Some(value));
            prop_assert_eq!(take_difference(&mut bytes, before), Some(after));
            prop_assert_eq!(bytes, rest);
        }
    }

    #[test]
    fn more_than_64_bits_are_no_number() {
        for last in [2, 0x7f, 0x80] {
            let mut bytes = [0x80; 10];
            bytes[9] = last;
            assert_eq!(take(&mut bytes.as_slice()), None, "{last}");
        }
        assert_eq!(take(&mut [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1].as_slice()), Some(u64::MAX));
    }
}
