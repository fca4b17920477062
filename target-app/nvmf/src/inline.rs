//! Bytes kept in place: PDU headers without an allocation.

use std::fmt;

/// At most `N` bytes.
#[derive(Clone)]
pub struct Inline<const N: usize> {
    bytes: [u8; N],
    len: u16,
}

impl<const N: usize> Inline<N> {
    /// No bytes.
    pub const fn new() -> Self {
        assert!(N <= u16::MAX as usize);
        Self { bytes: [0; N], len: 0 }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `more`.
    ///
    /// # Panics
    /// When they do not fit: `N` is chosen for the largest header that is ever put there, so this is our own mistake.
    pub(crate) fn push(&mut self, more: &[u8]) {
        let at = usize::from(self.len);
        self.bytes[at..at + more.len()].copy_from_slice(more);
        self.len += more.len() as u16;
    }
}

impl<const N: usize> Default for Inline<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Debug for Inline<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}
