//! A list of pieces that go out as one.

use crate::arena::Shared;

use super::GATHER_PIECES_MAX;

/// A list of pieces to be sent or written as one: buffers by reference, and short headers copied in.
///
/// Take one from [`Uring::gather`](super::Uring::gather), which reuses the storage of those sent before.
#[derive(Debug, Default)]
pub struct Gather {
    /// The copied pieces' bytes, one after the other.
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    len: usize,
}

#[derive(Debug)]
enum Piece {
    /// A range of `Gather::bytes`.
    Copied {
        start: usize,
        end: usize,
    },
    Shared(Shared),
}

impl Gather {
    /// An empty list.
    pub fn new() -> Gather {
        Gather::default()
    }

    /// Appends a copy of short bytes (a header). Copies that follow each other make one piece.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.len += bytes.len();
        match self.pieces.last_mut() {
            Some(Piece::Copied { end, .. }) => *end = self.bytes.len(),
            _ => self.pieces.push(Piece::Copied { start, end: self.bytes.len() }),
        }
    }

    /// Appends a buffer by reference.
    pub fn push(&mut self, bytes: Shared) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.pieces.push(Piece::Shared(bytes));
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Pieces so far. A list of more than [`GATHER_PIECES_MAX`] is refused when it is sent.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Is there no room for another buffer and a header?
    pub fn is_full(&self) -> bool {
        self.pieces.len() + 2 > GATHER_PIECES_MAX
    }

    /// The pieces' addresses and lengths, in order. They hold until the list is changed or dropped.
    pub(super) fn describe(&self, out: &mut Vec<libc::iovec>) {
        out.clear();
        out.extend(self.pieces.iter().map(|piece| {
            let bytes: &[u8] = match piece {
                Piece::Copied { start, end } => &self.bytes[*start..*end],
                Piece::Shared(shared) => shared,
            };
            // The kernel only reads through these.
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
        }));
    }

    /// Drops the pieces and keeps the storage.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.pieces.clear();
        self.len = 0;
    }
}
