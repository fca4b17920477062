//! Control messages: numbered, acknowledged, handed on in order, within one session.

use super::codec;
use crate::message::Message;
use std::collections::{BTreeMap, VecDeque};

/// Messages that wait for an acknowledgement or to be sent, at most; one more ends the session, and both sides say
/// what they need again in the next.
pub const CONTROL_QUEUE_MAX: usize = 4096;

/// Messages in flight at most, and so messages that the receiver keeps out of order at most.
pub(crate) const WINDOW: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    InFlight,
    Done,
}

/// The sending side.
#[derive(Default)]
pub(crate) struct Sender {
    /// Number of the front message.
    base: u64,
    queue: VecDeque<(Vec<u8>, State)>,
}

impl Sender {
    /// Queues a message; false if there are too many.
    pub(crate) fn push(&mut self, message: &Message) -> bool {
        if self.queue.len() >= CONTROL_QUEUE_MAX {
            return false;
        }
        self.queue.push_back((codec::encode(message), State::Waiting));
        true
    }

    /// The next message to (re)send: number and bytes.
    pub(crate) fn next(&self) -> Option<(u64, &[u8])> {
        let window = self.queue.iter().take(WINDOW);
        let (at, (bytes, _)) = window.enumerate().find(|(_, (_, state))| *state == State::Waiting)?;
        Some((self.base + at as u64, bytes))
    }

    fn set(&mut self, number: u64, state: State) {
        let at = number.checked_sub(self.base).and_then(|at| usize::try_from(at).ok());
        if let Some(entry) = at.and_then(|at| self.queue.get_mut(at))
            && entry.1 != State::Done
        {
            entry.1 = state;
        }
    }

    pub(crate) fn on_sent(&mut self, number: u64) {
        self.set(number, State::InFlight);
    }

    pub(crate) fn on_lost(&mut self, number: u64) {
        self.set(number, State::Waiting);
    }

    pub(crate) fn on_acked(&mut self, number: u64) {
        self.set(number, State::Done);
        while self.queue.front().is_some_and(|(_, state)| *state == State::Done) {
            self.queue.pop_front();
            self.base += 1;
        }
    }
}

/// What became of a received message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// Kept, or had before: acknowledge it.
    Accepted,
    /// Too far ahead: do not acknowledge it.
    TooEarly,
    /// Not a message.
    Malformed,
}

/// The receiving side.
#[derive(Default)]
pub(crate) struct Receiver {
    next: u64,
    early: BTreeMap<u64, Message>,
}

impl Receiver {
    pub(crate) fn receive(&mut self, number: u64, bytes: &[u8]) -> Receipt {
        if number < self.next || self.early.contains_key(&number) {
            return Receipt::Accepted;
        }
        if number - self.next >= WINDOW as u64 {
            return Receipt::TooEarly;
        }
        match codec::decode(bytes) {
            Some(message) => {
                self.early.insert(number, message);
                Receipt::Accepted
            }
            None => Receipt::Malformed,
        }
    }

    /// The next message in order.
    pub(crate) fn pop(&mut self) -> Option<Message> {
        let message = self.early.remove(&self.next)?;
        self.next += 1;
        Some(message)
    }
}
