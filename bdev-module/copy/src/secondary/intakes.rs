//! The streams that are open here, and which of them something changed of since it was looked at last: a turn costs as much
//! as there is news, not as there are streams.

use super::intake::{Account, Intake, share_bytes, share_out};
use crate::types::StreamId;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::Deref;

/// All of them. Read as the map that it is; who changes one says so by asking for it.
pub(crate) struct Intakes<B, S> {
    by_stream: BTreeMap<StreamId, Intake<B, S>>,
    /// Their senders may have to be told something, or have memory to be promised again.
    changed: Vec<StreamId>,
    /// Their tips may be others.
    moved: Vec<StreamId>,
    /// Streams came or went: all may have changed and moved.
    all_changed: bool,
    all_moved: bool,
    /// The groups of a stream came or went: more of it may be durable.
    all_durable: bool,
    /// To each exactly its share is promised.
    is_even: bool,
}

impl<B, S> Default for Intakes<B, S> {
    fn default() -> Self {
        Intakes {
            by_stream: BTreeMap::new(),
            changed: Vec::new(),
            moved: Vec::new(),
            all_changed: false,
            all_moved: false,
            all_durable: false,
            is_even: false,
        }
    }
}

impl<B, S> Intakes<B, S> {
    /// To change whatever there is of it.
    pub(crate) fn get_mut(&mut self, stream: StreamId) -> Option<&mut Intake<B, S>> {
        let intake = self.by_stream.get_mut(&stream)?;
        if !std::mem::replace(&mut intake.is_moved, true) {
            self.moved.push(stream);
        }
        if !std::mem::replace(&mut intake.is_changed, true) {
            self.changed.push(stream);
        }
        Some(intake)
    }

    /// To change its tip; where its sender stands does not follow from that.
    pub(crate) fn for_tip(&mut self, stream: StreamId) -> Option<&mut Intake<B, S>> {
        let intake = self.by_stream.get_mut(&stream)?;
        if !std::mem::replace(&mut intake.is_moved, true) {
            self.moved.push(stream);
        }
        Some(intake)
    }

    /// To change its account or its durable number; its tip stays.
    pub(crate) fn for_account(&mut self, stream: StreamId) -> Option<&mut Intake<B, S>> {
        let intake = self.by_stream.get_mut(&stream)?;
        if !std::mem::replace(&mut intake.is_changed, true) {
            self.changed.push(stream);
        }
        Some(intake)
    }

    pub(crate) fn insert(&mut self, stream: StreamId, intake: Intake<B, S>) {
        self.by_stream.insert(stream, intake);
        self.streams_changed();
    }

    pub(crate) fn remove(&mut self, stream: StreamId) -> Option<Intake<B, S>> {
        self.streams_changed();
        self.by_stream.remove(&stream)
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(StreamId, &mut Intake<B, S>) -> bool) {
        self.by_stream.retain(|stream, intake| keep(*stream, intake));
        self.streams_changed();
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Intake<B, S>> {
        self.streams_changed();
        self.by_stream.values_mut()
    }

    fn streams_changed(&mut self) {
        (self.all_moved, self.all_durable) = (true, true);
        self.say_all_again();
    }

    /// What is told of every stream may have changed.
    pub(crate) fn say_all_again(&mut self) {
        (self.all_changed, self.is_even) = (true, false);
    }

    /// Whether more may be durable of any stream. Asked once.
    pub(crate) fn take_all_durable(&mut self) -> bool {
        std::mem::take(&mut self.all_durable)
    }

    /// Whether every tip may have moved. Asked once.
    pub(crate) fn take_all_moved(&mut self) -> bool {
        let all = std::mem::take(&mut self.all_moved);
        if all {
            self.moved.clear();
            self.by_stream.values_mut().for_each(|intake| intake.is_moved = false);
        }
        all
    }

    /// A stream whose tip may have moved; each once.
    pub(crate) fn next_moved(&mut self) -> Option<(StreamId, &Intake<B, S>)> {
        let stream = self.moved.pop()?;
        let intake = self.by_stream.get_mut(&stream)?;
        intake.is_moved = false;
        Some((stream, intake))
    }

    /// The streams whose senders may have to be told something, in order; for [`Intakes::give_back`] afterwards.
    pub(crate) fn take_changed(&mut self) -> Vec<StreamId> {
        let mut changed = std::mem::take(&mut self.changed);
        if std::mem::take(&mut self.all_changed) {
            changed.clear();
            changed.extend(self.by_stream.keys());
        }
        changed.sort_unstable();
        changed
    }

    /// The list's storage.
    pub(crate) fn give_back(&mut self, mut told: Vec<StreamId>) {
        told.clear();
        self.changed = told;
    }

    /// One that was changed, to be told of.
    pub(crate) fn being_told(&mut self, stream: StreamId) -> Option<&mut Intake<B, S>> {
        let intake = self.by_stream.get_mut(&stream)?;
        intake.is_changed = false;
        Some(intake)
    }

    /// Shares out memory that came free at the streams `changed`; adds those whose share of it that changes.
    pub(crate) fn share_out(&mut self, changed: &mut Vec<StreamId>, total_bytes: u64, streams_max: usize) {
        let share = share_bytes(total_bytes, streams_max, self.by_stream.len());
        if self.is_even {
            // All shares together are never more than there is: what one lacks of its own is free.
            for stream in &*changed {
                if let Some(intake) = self.by_stream.get_mut(stream) {
                    intake.account.raise(share, u64::MAX);
                }
            }
        } else if !changed.is_empty() {
            let accounts = self.by_stream.values_mut().map(|intake| &mut intake.account);
            share_out(&mut accounts.collect::<SmallVec<[&mut Account; 16]>>(), total_bytes, streams_max);
            self.is_even = self.by_stream.values().all(|intake| intake.account.outstanding() == share);
            changed.clear();
            changed.extend(self.by_stream.keys());
        }
    }
}

impl<B, S> Deref for Intakes<B, S> {
    type Target = BTreeMap<StreamId, Intake<B, S>>;

    fn deref(&self) -> &BTreeMap<StreamId, Intake<B, S>> {
        &self.by_stream
    }
}
