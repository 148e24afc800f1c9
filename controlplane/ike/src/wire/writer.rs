//! Writing of big-endian bytes with length fields filled in afterwards.

use super::WireError;

/// Appends to a byte vector.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes a structure whose 16-bit length field follows `before` and counts from `before` on.
    ///
    /// # Errors
    /// `Length(field)` if the whole is longer than 65,535 bytes, and what `body` returns.
    pub(crate) fn structure(
        &mut self,
        before: [u8; 2],
        field: &'static str,
        body: impl FnOnce(&mut Self) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        let start = self.len();
        self.put(&before);
        self.u16(0);
        body(self)?;
        let written = self.bytes.get_mut(start..).unwrap_or_default();
        let length = u16::try_from(written.len()).map_err(|_| WireError::Length(field))?;
        if let Some(slot) = written.get_mut(2..4) {
            slot.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }
}
