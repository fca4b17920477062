//! Bytes of metadata values: little-endian, length-prefixed, every read checked.

/// A value could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata value ends early or holds what cannot be, at byte {at}")]
pub(crate) struct CodecError {
    at: usize,
}

/// Appends fields.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// Writes into the storage of a value of before.
    pub(crate) fn over(mut value: Vec<u8>) -> Writer {
        value.clear();
        Writer(value)
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.u32(value.len() as u32);
        self.bytes(value.as_bytes());
    }

    pub(crate) fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Writer, &T)) {
        self.u32(items.len() as u32);
        for item in items {
            each(self, item);
        }
    }

    pub(crate) fn option<T>(&mut self, item: Option<&T>, each: impl FnOnce(&mut Writer, &T)) {
        self.u8(u8::from(item.is_some()));
        if let Some(item) = item {
            each(self, item);
        }
    }

    /// The bytes, with a checksum at the end.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let crc = crate::crc::crc32c(&self.0);
        self.u32(crc);
        self.0
    }
}

/// Takes fields off.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Checks the checksum and starts after it.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Reader<'a>, CodecError> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(CodecError { at: 0 })?;
        if crate::crc::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(CodecError { at: bytes.len() });
        }
        Ok(Reader { bytes: body, at: 0 })
    }

    pub(crate) fn wrong(&self) -> CodecError {
        CodecError { at: self.at }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let rest = self.bytes.get(self.at..).ok_or(self.wrong())?;
        let chunk = *rest.first_chunk::<N>().ok_or(self.wrong())?;
        self.at += N;
        Ok(chunk)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        self.take()
    }

    pub(crate) fn flag(&mut self) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.wrong()),
        }
    }

    pub(crate) fn text(&mut self) -> Result<String, CodecError> {
        let length = self.u32()? as usize;
        let end = self.at.checked_add(length).ok_or(self.wrong())?;
        let bytes = self.bytes.get(self.at..end).ok_or(self.wrong())?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.wrong())?;
        self.at = end;
        Ok(text.to_owned())
    }

    pub(crate) fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Reader<'a>) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let count = self.u32()? as usize;
        // Every item takes at least a byte: a count beyond that is not believed, so that nothing is allocated for it.
        if count > self.bytes.len() - self.at {
            return Err(self.wrong());
        }
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(each(self)?);
        }
        Ok(items)
    }

    pub(crate) fn option<T>(
        &mut self,
        each: impl FnOnce(&mut Reader<'a>) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        if self.flag()? { each(self).map(Some) } else { Ok(None) }
    }

    /// All was read.
    pub(crate) fn end(self) -> Result<(), CodecError> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.wrong()) }
    }
}
