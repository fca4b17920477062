//! The body of an acknowledgement: what arrived, and where streams stand.
//!
//! ```text
//! delay_us | number of statuses (1 byte) | statuses (52 bytes each) | highest | length - 1 | { gap - 1 | length - 1 }*
//! ```
//!
//! Integers but those of the statuses are LEB128 ([`integer`]). Ranges run downwards; `gap` counts the numbers that are missing
//! between a range and the one above it.

use super::integer::{self, put, take};
use super::numbers::RangeSet;
use crate::secondary::StreamStatus;
use crate::types::{Epoch, Seq, StreamId, Time};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Statuses in one acknowledgement at most.
pub(crate) const STATUSES_MAX: usize = 16;

const STATUS_BYTES: usize = 52;
const _: () = assert!(size_of::<WireStatus>() == STATUS_BYTES);

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireStatus {
    stream: U64,
    epoch: U64,
    run: U64,
    durable: U64,
    grant_bytes: U64,
    held: U64,
    grant_records: U32,
}

/// Ranges (lowest, highest) of one acknowledgement, highest first, disjoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn highest(&self) -> Option<u64> {
        self.0.first().map(|range| range.1)
    }
}

/// An acknowledgement as read. Reused, so that reading allocates nothing in the long run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) delay_ns: u64,
    pub(crate) ranges: Ranges,
    pub(crate) statuses: Vec<StreamStatus>,
}

/// Writes an acknowledgement of at most `bytes_max`; ranges that do not fit are left out, lowest first.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    delay_ns: u64,
    statuses: &[StreamStatus],
    received: &RangeSet,
    bytes_max: usize,
) {
    out.clear();
    put(out, delay_ns / 1000);
    let statuses = statuses.get(..STATUSES_MAX).unwrap_or(statuses);
    out.push(statuses.len() as u8);
    for status in statuses {
        let wire = WireStatus {
            stream: U64::new(status.stream.0),
            epoch: U64::new(status.epoch.0),
            run: U64::new(status.run.0),
            durable: U64::new(status.durable.0),
            grant_bytes: U64::new(status.grant_bytes),
            held: U64::new(status.held.0),
            grant_records: U32::new(status.grant_records),
        };
        out.extend_from_slice(wire.as_bytes());
    }
    let mut above = None;
    for (low, high) in received.iter() {
        if out.len() + 2 * integer::BYTES_MAX > bytes_max {
            break;
        }
        match above {
            None => put(out, high),
            Some(above) => put(out, above - high - 2),
        }
        put(out, high - low);
        above = Some(low);
    }
}

/// Reads an acknowledgement; false if the bytes are none. Work is bounded by the bytes.
pub(crate) fn decode(mut bytes: &[u8], ack: &mut Ack) -> bool {
    ack.ranges.0.clear();
    ack.statuses.clear();
    read(&mut bytes, ack).is_some()
}

fn read(bytes: &mut &[u8], ack: &mut Ack) -> Option<()> {
    ack.delay_ns = take(bytes)?.saturating_mul(1000);
    let (&count, rest) = bytes.split_first()?;
    *bytes = rest;
    if usize::from(count) > STATUSES_MAX {
        return None;
    }
    for _ in 0..count {
        let (wire, rest) = WireStatus::read_from_prefix(bytes).ok()?;
        *bytes = rest;
        ack.statuses.push(StreamStatus {
            stream: StreamId(wire.stream.get()),
            epoch: Epoch(wire.epoch.get()),
            run: Seq(wire.run.get()),
            durable: Seq(wire.durable.get()),
            grant_records: wire.grant_records.get(),
            grant_bytes: wire.grant_bytes.get(),
            held: Time(wire.held.get()),
        });
    }
    let mut above: Option<u64> = None;
    while !bytes.is_empty() {
        let first = take(bytes)?;
        let high = match above {
            None => first,
            Some(above) => above.checked_sub(first.checked_add(2)?)?,
        };
        let low = high.checked_sub(take(bytes)?)?;
        ack.ranges.0.push((low, high));
        above = Some(low);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn statuses() -> impl Strategy<Value = Vec<StreamStatus>> {
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
        let one = (numbers, any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
            |((stream, epoch, run, durable), grant_records, grant_bytes, held)| StreamStatus {
                stream: StreamId(stream),
                epoch: Epoch(epoch),
                run: Seq(run),
                durable: Seq(durable),
                grant_records,
                grant_bytes,
                held: Time(held),
            },
        );
        proptest::collection::vec(one, 0..=STATUSES_MAX)
    }

    proptest! {
        #[test]
        fn what_was_received_survives_the_wire(
            statuses in statuses(), packets in proptest::collection::vec(0u64..5000, 0..300),
            offset in 0u64..1 << 60, delay_us in 0u64..1_000_000,
        ) {
            let mut received = RangeSet::default();
            for packet in &packets {
                received.insert(offset + packet);
            }
            let mut out = Vec::new();
            encode(&mut out, delay_us * 1000, &statuses, &received, 1 << 16);
            let mut ack = Ack::default();
            prop_assert!(decode(&out, &mut ack));
            prop_assert_eq!(ack.delay_ns, delay_us * 1000);
            prop_assert_eq!(&ack.statuses, &statuses);
            prop_assert_eq!(ack.ranges.0, received.iter().collect::<Vec<_>>());

            encode(&mut out, 0, &statuses, &received, 900);
            prop_assert!(out.len() <= 900);
            let mut short = Ack::default();
            prop_assert!(decode(&out, &mut short));
            prop_assert_eq!(short.ranges.highest(), received.highest());
        }

        #[test]
        fn any_bytes_read_as_an_acknowledgement_or_as_nothing(bytes: Vec<u8>) {
            let mut ack = Ack::default();
            if decode(&bytes, &mut ack) {
                prop_assert!(ack.ranges.0.iter().all(|(low, high)| low <= high));
                prop_assert!(ack.ranges.0.windows(2).all(|pair| pair[1].1 + 1 < pair[0].0));
            }
        }
    }
}
