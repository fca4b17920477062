//! The body of a datagram of beacons, of as many streams as fit.
//!
//! ```text
//! { stream | epoch | generation | last number | time }*
//! ```
//!
//! Each as its difference to what the entry before says, the first's to 0 ([`integer`]). Streams that are silent together
//! are of one generation and mostly of one epoch, and promise the same time: an entry is some fourteen bytes, most of them
//! the stream's identifier, and 256 streams are three datagrams of 1,400 bytes.

use super::integer::{self, put_difference, take_difference};
use crate::primary::Beacon;
use crate::types::{Epoch, Seq, StreamId, Time};

/// Numbers of an entry.
const FIELDS: usize = 5;

/// Bytes of the longest entry.
const ENTRY_BYTES_MAX: usize = FIELDS * integer::BYTES_MAX;

/// A beacon, and the number of its sender's generation.
pub(crate) type Entry = (Beacon, u64);

fn fields((beacon, generation): Entry) -> [u64; FIELDS] {
    [beacon.stream.0, beacon.epoch.0, generation, beacon.seq.0, beacon.time.0]
}

/// Writes the first of them, as many as `bytes_max` surely has room for. How many that are.
pub(crate) fn encode(out: &mut Vec<u8>, entries: impl Iterator<Item = Entry>, bytes_max: usize) -> usize {
    out.clear();
    let (mut before, mut count) = ([0; FIELDS], 0);
    for entry in entries {
        if out.len() + ENTRY_BYTES_MAX > bytes_max {
            break;
        }
        let after = fields(entry);
        for (before, after) in before.into_iter().zip(after) {
            put_difference(out, before, after);
        }
        (before, count) = (after, count + 1);
    }
    count
}

/// Reads them all; false, with nothing read, if the bytes are none. Work and memory are bounded by the bytes.
pub(crate) fn decode(mut bytes: &[u8], entries: &mut Vec<Entry>) -> bool {
    entries.clear();
    let mut fields = [0; FIELDS];
    while !bytes.is_empty() {
        for field in &mut fields {
            let Some(after) = take_difference(&mut bytes, *field) else {
                entries.clear();
                return false;
            };
            *field = after;
        }
        let [stream, epoch, generation, seq, time] = fields;
        let beacon = Beacon { stream: StreamId(stream), epoch: Epoch(epoch), time: Time(time), seq: Seq(seq) };
        entries.push((beacon, generation));
    }
    !entries.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(stream: u64, epoch: u64, generation: u64, seq: u64, time: u64) -> Entry {
        (Beacon { stream: StreamId(stream), epoch: Epoch(epoch), time: Time(time), seq: Seq(seq) }, generation)
    }

    proptest! {
        #[test]
        fn what_fits_is_read_as_it_was_written_and_half_of_an_entry_is_not_read(
            given in prop::collection::vec(any::<(u64, u64, u64, u64, u64)>(), 1..60), bytes_max in ENTRY_BYTES_MAX..1400,
        ) {
            let given: Vec<Entry> =
                given.into_iter().map(|(stream, epoch, generation, seq, time)| entry(stream, epoch, generation, seq, time)).collect();
            let mut out = Vec::new();
            let count = encode(&mut out, given.iter().copied(), bytes_max);
            prop_assert!(out.len() <= bytes_max && count >= 1);
            prop_assert!(count == given.len() || out.len() + ENTRY_BYTES_MAX > bytes_max);
            let mut read = vec![entry(1, 1, 1, 1, 1)];
            prop_assert!(decode(&out, &mut read));
            prop_assert_eq!(&read, &given[..count]);
            // Cut off inside of the last entry.
            prop_assert!(!decode(&out[..out.len() - 1], &mut read));
            prop_assert!(read.is_empty());
        }

        #[test]
        fn any_bytes_read_as_beacons_or_as_nothing(bytes: Vec<u8>) {
            let mut entries = Vec::new();
            let is_read = decode(&bytes, &mut entries);
            prop_assert_eq!(is_read, !entries.is_empty());
            prop_assert!(entries.len() * FIELDS <= bytes.len());
        }
    }

    #[test]
    fn what_streams_of_one_group_promise_together_takes_little_room() {
        let streams = (1..=256_u64).map(|stream| stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let entries = streams.map(|stream| entry(stream, 3, 2, stream % 100_000, 1 << 60));
        let (mut entries, mut out, mut datagrams) = (entries.collect::<Vec<_>>(), Vec::new(), 0);
        entries.sort_by_key(|(beacon, _)| beacon.stream);
        while !entries.is_empty() {
            let count = encode(&mut out, entries.iter().copied(), 1400 - 104);
            entries.drain(..count);
            datagrams += 1;
        }
        assert_eq!(datagrams, 4);
    }
}
