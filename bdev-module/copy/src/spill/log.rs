//! From memory to the device: opening it, group commit, giving up, and freeing.

use super::cursor::Cursor;
use super::{Found, Kept, Phase, Spill, TAIL_INTERVAL_NS, is_for_good};
use crate::journal::device::LogPorts;
use crate::journal::format::Entry;
use crate::journal::open::{Ask, LogMeta, SuperError};
use crate::journal::{self, Item, Journal};
use crate::types::{Mono, RecordHead, StreamId};
use std::collections::BTreeMap;

impl<S: AsRef<[u8]> + Clone + 'static, T: Copy> Spill<S, T> {
    pub(super) fn open_on<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I) {
        let Phase::Opening(opening) = &mut self.phase else { return };
        let (tail, found, count, time) =
            (&mut self.tail, &mut self.found, &mut self.appended, &mut self.complete_up_to);
        let bytes = &mut self.waiting_bytes;
        let ask = opening.poll(io, &mut self.meta, |end, entry| {
            *count += 1;
            *bytes += entry.head.charge_bytes();
            *time = (*time).max(entry.head.stamp.time);
            let stamp = entry.head.stamp;
            tail.add(end, *count, [(stamp.stream, entry.epoch, stamp.seq)]);
            find(found, entry);
        });
        let end = match ask {
            Ask::Wait => return,
            Ask::Persist => return self.kept = Kept::Wanted,
            // Another device: what was in the one before is not missed, marks cover it.
            Ask::Failed(SuperError::Empty(_)) => {
                self.meta = LogMeta { recovery_epoch: self.meta.recovery_epoch, ..LogMeta::new(self.meta.id) };
                return self.phase = self.opening();
            }
            Ask::Failed(error) => return self.phase = Phase::Failed(error.to_string()),
            Ask::Open(end) => end,
            Ask::Damaged { end, known } => {
                self.damage = Some(format!(
                    "the spill is damaged at block {}, though it was durable up to block {known}: what lay behind is \
                     lost from it",
                    end.position
                ));
                // What is appended next replaces what was damaged, so the durable end falls back.
                self.kept = Kept::Wanted;
                end
            }
        };
        let (id, epoch, from) = (self.meta.id, self.meta.recovery_epoch, self.meta.tail);
        let purposes = journal::Purposes { write: [self.purposes.write; journal::DEPTH], flush: self.purposes.flush };
        self.phase = Phase::Open(Box::new(Journal::new(self.area, purposes, id, epoch, from.position, end)));
        (self.end, self.on_disk) = (end, self.appended);
        if self.appended > 0 {
            let mut cursor = Cursor::new(self.area, self.purposes.read, (id, epoch), from, 0);
            cursor.extend(end.position);
            self.cursor = Some(cursor);
        }
    }

    /// Starts the next block, if there is something for it.
    pub(super) fn write<I: LogPorts<T, Shared = S>>(&mut self, io: &mut I) {
        let Phase::Open(journal) = &mut self.phase else { return };
        journal.poll(io);
        if journal.is_busy() || self.closed.is_some() || self.pending.is_empty() {
            return;
        }
        let (bytes_max, mut bytes, mut count) = (journal.block_bytes_max(), 0, 0_usize);
        for item in &self.pending {
            let more = bytes + item.entry_bytes();
            if (more > bytes_max && count > 0) || !journal.has_room(more) {
                break;
            }
            (bytes, count) = (more, count + 1);
        }
        let Some(limit) = self.pending.get(count.wrapping_sub(1)).map(|item| item.record.head.stamp.time) else {
            return;
        };
        let items: Vec<Item<S>> = self.pending.iter().take(count).cloned().collect();
        match journal.begin(io, items, limit, false) {
            Ok(()) => {
                self.on_disk = self.appended - self.pending.len() as u64;
                self.flying = self.pending.drain(..count).collect();
            }
            Err(_) => self.starved = true,
        }
    }

    /// A block is durable: memory lets go of what is in it.
    pub(super) fn committed(&mut self, block: &journal::Committed<S>) {
        let from = self.on_disk;
        let start = std::mem::replace(&mut self.end, block.point());
        self.on_disk += self.flying.len() as u64;
        self.tail.add(
            self.end,
            self.on_disk,
            block.items.iter().map(|item| (item.record.head.stamp.stream, item.epoch, item.record.head.stamp.seq)),
        );
        let sent = self.next.saturating_sub(from);
        let unsent = self.flying.drain(..).skip(sent as usize);
        self.unsent_bytes -= unsent.map(|item| item.record.head.charge_bytes()).sum::<u64>();
        // The gap that acknowledged records left, if nothing follows that is not in memory.
        self.on_disk = self.on_disk.max(self.appended - self.pending.len() as u64);
        match &mut self.cursor {
            Some(cursor) => cursor.extend(self.end.position),
            None if self.next < from + block.items.len() as u64 => {
                let mut cursor =
                    Cursor::new(self.area, self.purposes.read, (self.meta.id, self.meta.recovery_epoch), start, from);
                cursor.extend(self.end.position);
                self.cursor = Some(cursor);
            }
            None => {}
        }
        self.release();
    }

    /// Gives up writing when the device will not take it any more.
    pub(super) fn give_up(&mut self) {
        let Phase::Open(journal) = &mut self.phase else { return };
        let Some(error) = journal.fault().filter(|error| is_for_good(*error)) else { return };
        let _ = journal.abandon();
        self.closed = Some(error);
        // If the link was given all of it, it may be that more behind it is gone from memory: no place may move.
        if self.next >= self.on_disk + self.flying.len() as u64 {
            self.flying.clear();
        }
        while let Some(item) = self.flying.pop_back() {
            self.pending.push_front(item);
        }
    }

    /// Makes the tail durable when that frees enough, or what has to be written needs it, or nothing else is here.
    pub(super) fn keep_tail(&mut self, now: Mono) {
        let Phase::Open(journal) = &self.phase else { return };
        let Some(freed) = self.tail.freed().filter(|_| self.kept == Kept::Durable) else { return };
        let gain = freed.position.saturating_sub(self.meta.tail.position);
        let is_all = freed.position == journal.committed_end() && !self.is_spilling && !journal.is_busy();
        let is_worth = gain >= self.area.capacity / 16 || is_all || self.is_full();
        if gain > 0 && is_worth && (now >= self.tail_due || self.is_full()) {
            self.tail_due = now.after_ns(TAIL_INTERVAL_NS);
            self.kept = Kept::Wanted;
        }
    }
}

fn find(found: &mut BTreeMap<StreamId, Found>, entry: &Entry) {
    let RecordHead { stamp, .. } = entry.head;
    let new = Found {
        epoch: entry.epoch,
        generation: entry.generation,
        first: stamp.seq,
        last: stamp.seq,
        whole_from: stamp.seq,
    };
    let known = found.entry(stamp.stream).or_insert(new);
    if known.epoch < new.epoch {
        *known = new;
    } else if known.epoch == new.epoch {
        known.first = known.first.min(stamp.seq);
        if stamp.seq > known.last.next() {
            known.whole_from = stamp.seq;
        }
        known.last = known.last.max(stamp.seq);
    }
}
