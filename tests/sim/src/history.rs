//! The truth: every record that a primary stamped, and what a cut of it looks like.

use crate::memory::Bytes;
use longrun_copy::types::{Geometry, PairId, RecordHead, Stamp, StreamId, Time};
use std::collections::BTreeMap;

/// A group's history.
#[derive(Default)]
pub struct History {
    records: BTreeMap<Stamp, (RecordHead, Option<Bytes>)>,
    initial: BTreeMap<PairId, (Geometry, Vec<u8>)>,
    /// The last stamp of each stream.
    last: BTreeMap<StreamId, Stamp>,
}

impl History {
    /// A pair and what its volumes hold before anything is written.
    pub fn pair(&mut self, pair: PairId, geometry: Geometry, content: Vec<u8>) {
        self.initial.insert(pair, (geometry, content));
    }

    /// A record was stamped.
    pub fn stamped(&mut self, head: RecordHead, payload: Option<Bytes>) {
        let stamp = head.stamp;
        if let Some(last) = self.last.insert(stamp.stream, stamp) {
            assert!(last.time < stamp.time, "stream {}: {stamp:?} was stamped after {last:?}", stamp.stream);
        }
        let before = self.records.insert(stamp, (head, payload));
        assert!(before.is_none(), "{stamp:?} was given twice");
    }

    /// The last stamp of all.
    pub fn last(&self) -> Option<Stamp> {
        self.records.keys().next_back().copied()
    }

    /// The first record later than `time`.
    pub fn first_after(&self, time: Time) -> Option<&RecordHead> {
        let from = Stamp { time: time.after_ns(1), stream: StreamId(0), seq: longrun_copy::types::Seq(0) };
        self.records.range(from..).next().map(|(_, (head, _))| head)
    }

    /// The records that are not later than `time`, newest first.
    pub fn up_to(&self, time: Time) -> impl Iterator<Item = &RecordHead> {
        let end = Stamp { time: time.after_ns(1), stream: StreamId(0), seq: longrun_copy::types::Seq(0) };
        self.records.range(..end).rev().map(|(_, (head, _))| head)
    }

    /// What every volume holds when all records not later than `time`, and no other, were applied in the order of their
    /// stamps.
    pub fn replay(&self, time: Time) -> BTreeMap<PairId, Vec<u8>> {
        let mut images: BTreeMap<PairId, Vec<u8>> =
            self.initial.iter().map(|(pair, (_, content))| (*pair, content.clone())).collect();
        for (stamp, (head, payload)) in &self.records {
            if stamp.time > time {
                break;
            }
            let block_bytes = self.initial[&head.pair].0.block_bytes as usize;
            let from = head.extent.lba as usize * block_bytes;
            let bytes = head.extent.blocks as usize * block_bytes;
            let image = images.get_mut(&head.pair).expect("a record names one of its group's pairs");
            match payload {
                Some(payload) => image[from..from + bytes].copy_from_slice(&payload[..bytes]),
                None => image[from..from + bytes].fill(0),
            }
        }
        images
    }

    /// What a pair's volumes hold before anything is written.
    pub fn initial(&self, pair: PairId) -> Vec<u8> {
        self.initial[&pair].1.clone()
    }

    /// Records of a stream in the order of their numbers.
    pub fn of_stream(&self, stream: StreamId) -> impl Iterator<Item = &RecordHead> {
        self.records.iter().filter(move |(stamp, _)| stamp.stream == stream).map(|(_, (head, _))| head)
    }
}

/// The first block where two images differ.
pub fn first_difference(left: &[u8], right: &[u8], block_bytes: u32) -> Option<usize> {
    let at = left.iter().zip(right).position(|(left, right)| left != right);
    let at = at.or((left.len() != right.len()).then_some(left.len().min(right.len())));
    at.map(|at| at / block_bytes as usize)
}
