//! The commands of a queue: as many places as the queue has entries.

use crate::{spec::Sqe, target::Tag};

/// What a command is at.
#[derive(Debug)]
pub(super) enum State<B> {
    Free,
    /// Its capsule is being received, or it is an Asynchronous Event Request that is being held.
    Held,
    /// Waits for payload memory.
    Parked {
        since_ns: u64,
    },
    /// An R2T was sent; the data arrives. `buf` is away while a piece is being received into it.
    Collecting {
        buf: Option<B>,
        arrived: u32,
        total: u32,
        damaged: bool,
    },
    /// With a block device; for a read, so many bytes are to be sent.
    Submitted {
        read_bytes: Option<u32>,
    },
}

#[derive(Debug)]
pub(super) struct Slot<B> {
    pub(super) sqe: Sqe,
    pub(super) state: State<B>,
    /// Distinguishes a late block completion's command from the slot's next one.
    generation: u32,
}

#[derive(Debug)]
pub(super) struct Slots<B> {
    slots: Vec<Slot<B>>,
    free: Vec<u16>,
    submitted: u32,
    collecting: u32,
}

impl<B> Slots<B> {
    pub(super) fn new(entries: u16) -> Self {
        let mut slots = Self { slots: Vec::new(), free: Vec::new(), submitted: 0, collecting: 0 };
        slots.grow(entries);
        slots
    }

    /// Makes it `entries` places; never fewer than before.
    pub(super) fn grow(&mut self, entries: u16) {
        for index in self.slots.len() as u16..entries {
            self.slots.push(Slot { sqe: Sqe::default(), state: State::Free, generation: 0 });
            self.free.push(index);
        }
    }

    /// A place for a command; None when the host sent more than the queue holds.
    pub(super) fn take(&mut self, sqe: Sqe) -> Option<u16> {
        let index = self.free.pop()?;
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.sqe = sqe;
            slot.state = State::Held;
            slot.generation = slot.generation.wrapping_add(1);
        }
        Some(index)
    }

    pub(super) fn get(&mut self, index: u16) -> Option<&mut Slot<B>> {
        self.slots.get_mut(usize::from(index))
    }

    pub(super) fn sqe(&self, index: u16) -> Sqe {
        self.slots.get(usize::from(index)).map(|slot| slot.sqe).unwrap_or_default()
    }

    /// Ends a command and drops its buffer.
    pub(super) fn release(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index))
            && !matches!(slot.state, State::Free)
        {
            self.collecting -= u32::from(matches!(slot.state, State::Collecting { .. }));
            slot.state = State::Free;
            self.free.push(index);
        }
    }

    /// The command's data is asked for and goes into `buf`.
    pub(super) fn collect(&mut self, index: u16, buf: B, total: u32) {
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.state = State::Collecting { buf: Some(buf), arrived: 0, total, damaged: false };
            self.collecting += 1;
        }
    }

    /// All of a command's data is here.
    pub(super) fn collected(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index))
            && matches!(slot.state, State::Collecting { .. })
        {
            slot.state = State::Held;
            self.collecting -= 1;
        }
    }

    /// Commands whose data was asked for and is not all here.
    pub(super) fn collecting(&self) -> u32 {
        self.collecting
    }

    /// The command goes to a block device under this tag.
    pub(super) fn submit(&mut self, index: u16, read_bytes: Option<u32>) -> Tag {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return Tag(u64::MAX) };
        slot.state = State::Submitted { read_bytes };
        self.submitted += 1;
        Tag(u64::from(index) | u64::from(slot.generation) << 16)
    }

    /// A block device is done with `tag`: the slot and, for a read, its length. None when no such request is outstanding.
    pub(super) fn done(&mut self, tag: Tag) -> Option<(u16, Option<u32>)> {
        let index = tag.0 as u16;
        let slot = self.slots.get_mut(usize::from(index))?;
        if u64::from(slot.generation) != tag.0 >> 16 {
            return None;
        }
        let State::Submitted { read_bytes } = slot.state else { return None };
        slot.state = State::Held;
        self.submitted = self.submitted.saturating_sub(1);
        Some((index, read_bytes))
    }

    /// Requests with a block device.
    pub(super) fn submitted(&self) -> u32 {
        self.submitted
    }

    /// Ends every command that is not with a block device.
    pub(super) fn drop_waiting(&mut self) {
        for index in 0..self.slots.len() as u16 {
            if self.get(index).is_some_and(|slot| !matches!(slot.state, State::Submitted { .. })) {
                self.release(index);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

impl<B> Slots<B> {
    /// Since when a parked command has waited.
    pub(super) fn parked_since_ns(&self, index: u16) -> Option<u64> {
        match self.slots.get(usize::from(index))?.state {
            State::Parked { since_ns } => Some(since_ns),
            _ => None,
        }
    }
}
