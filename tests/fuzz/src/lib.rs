//! What the fuzz targets start from: valid bytes of every kind, made at run time so that they follow the formats, and
//! the checksums that a fuzzer cannot guess.
//!
//! The layouts are written down here a second time, by offset, on purpose: a fuzzer that used the program's own writers
//! could only make what those can write.

pub mod datagram;
pub mod journal;
pub mod pdu;
pub mod rpc;

/// Writes seeds into the directory that `LONGRUN_FUZZ_SEEDS` names, if it does. Called before libFuzzer reads its corpora.
///
/// # Panics
/// If they cannot be written: then the fuzzer would start from nothing without saying so.
pub fn write_seeds(seeds: &[Vec<u8>]) {
    let Some(directory) = std::env::var_os("LONGRUN_FUZZ_SEEDS") else { return };
    for (number, seed) in seeds.iter().enumerate() {
        let path = std::path::Path::new(&directory).join(format!("seed{number:03}"));
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}

/// Bytes put together field by field, integers little-endian.
#[derive(Clone, Debug, Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// One byte.
    pub fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Two bytes.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Four bytes.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Eight bytes each.
    pub fn u64s<const N: usize>(mut self, values: [u64; N]) -> Self {
        for value in values {
            self.0.extend_from_slice(&value.to_le_bytes());
        }
        self
    }

    /// These bytes.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Text behind its length in two bytes.
    pub fn text16(self, text: &str) -> Self {
        self.u16(text.len() as u16).raw(text.as_bytes())
    }

    /// Text behind its length in four bytes.
    pub fn text32(self, text: &str) -> Self {
        self.u32(text.len() as u32).raw(text.as_bytes())
    }
}
