//! Bounded memory: a pool per node, whose exhaustion the engine has to live with.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A length that is asked for all the time; kept for reuse.
const TRAIN_BYTES: usize = longrun_copy::engine::TRAIN_BYTES;

/// One node's memory.
#[derive(Debug)]
pub struct Pool {
    used_bytes: Cell<usize>,
    limit_bytes: usize,
    /// While set, nothing is given.
    denied: Cell<bool>,
    refusals: Cell<u64>,
    spare: RefCell<Spare>,
}

/// Buffers for reuse.
#[derive(Default)]
struct Spare(Vec<Vec<u8>>);

impl std::fmt::Debug for Spare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.len())
    }
}

impl Pool {
    /// A pool of so many bytes.
    pub fn new(limit_bytes: usize) -> Rc<Pool> {
        Rc::new(Pool {
            used_bytes: Cell::new(0),
            limit_bytes,
            denied: Cell::new(false),
            refusals: Cell::new(0),
            spare: RefCell::new(Spare::default()),
        })
    }

    /// Gives nothing until told otherwise.
    pub fn deny(&self, denied: bool) {
        self.denied.set(denied);
    }

    /// How often there was none.
    pub fn refusals(&self) -> u64 {
        self.refusals.get()
    }

    /// A buffer for the engine, or nothing.
    pub fn alloc(self: &Rc<Pool>, bytes: usize) -> Option<Buf> {
        if self.denied.get() || self.used_bytes.get() + bytes > self.limit_bytes {
            self.refusals.set(self.refusals.get() + 1);
            return None;
        }
        Some(self.take(bytes))
    }

    /// A buffer for a host, whose memory is not the engine's.
    pub fn take(self: &Rc<Pool>, bytes: usize) -> Buf {
        self.used_bytes.set(self.used_bytes.get() + bytes);
        let spare = (bytes == TRAIN_BYTES).then(|| self.spare.borrow_mut().0.pop()).flatten();
        // Not zeroes: what the engine does not fill must not look like an empty block.
        let bytes_of = spare.unwrap_or_else(|| vec![0xa5; bytes]);
        Buf { bytes: bytes_of, charge: Charge { bytes, pool: self.clone() } }
    }
}

#[derive(Debug)]
struct Charge {
    bytes: usize,
    pool: Rc<Pool>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.used_bytes.set(self.pool.used_bytes.get() - self.bytes);
    }
}

/// A buffer with one owner.
#[derive(Debug)]
pub struct Buf {
    bytes: Vec<u8>,
    charge: Charge,
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Buf {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if self.bytes.len() == TRAIN_BYTES && self.charge.pool.spare.borrow().0.len() < 64 {
            self.charge.pool.spare.borrow_mut().0.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Bytes that a disk or a history keeps; free of any pool.
pub type Bytes = Rc<Vec<u8>>;

/// An immutable buffer of the engine.
#[derive(Clone, Debug)]
pub struct Shared {
    bytes: Bytes,
    _charge: Rc<Charge>,
}

impl Shared {
    /// The bytes, without the pool's charge.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Buf {
    /// Makes the first `bytes` immutable.
    pub fn freeze(mut self, bytes: usize) -> Shared {
        let mut taken = std::mem::take(&mut self.bytes);
        taken.truncate(bytes);
        let pool = self.charge.pool.clone();
        let charged = std::mem::take(&mut self.charge.bytes);
        Shared { bytes: Rc::new(taken), _charge: Rc::new(Charge { bytes: charged, pool }) }
    }
}
