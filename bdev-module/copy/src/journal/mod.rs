//! A group's journal: released records in stamp order, on one device.

/// Smallest journal, in bytes: two batches of the largest record, and the superblock.
pub const BYTES_MIN: u64 = 8 << 20;
