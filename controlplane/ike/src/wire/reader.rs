//! Checked reading of big-endian bytes. Every read names the field for the error.

use super::WireError;

/// Cursor over bytes that never reads past their end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Takes `len` bytes.
    ///
    /// # Errors
    /// `Short(field)` if fewer are left.
    pub fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(WireError::Short(field))?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes an array.
    ///
    /// # Errors
    /// `Short(field)` if fewer than `N` bytes are left.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let (head, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(WireError::Short(field))?;
        self.rest = rest;
        Ok(*head)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// `Short(field)` at the end.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        self.array(field).map(u8::from_be_bytes)
    }

    /// Takes two bytes.
    ///
    /// # Errors
    /// `Short(field)` at the end.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Takes four bytes.
    ///
    /// # Errors
    /// `Short(field)` at the end.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Takes eight bytes.
    ///
    /// # Errors
    /// `Short(field)` at the end.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// Takes a structure whose length field counts `header` bytes already read, and reads on
    /// inside it.
    ///
    /// # Errors
    /// `Length(field)` if the length is less than what was read, `Short(field)` if it is too long.
    pub fn sub(
        &mut self,
        length: u16,
        header: usize,
        field: &'static str,
    ) -> Result<Self, WireError> {
        let len = usize::from(length)
            .checked_sub(header)
            .ok_or(WireError::Length(field))?;
        self.take(len, field).map(Self::new)
    }

    /// Takes all that is left.
    pub const fn rest(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.rest = &[];
        rest
    }

    /// True if nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes that are left.
    pub const fn len(&self) -> usize {
        self.rest.len()
    }

    /// Ends reading.
    ///
    /// # Errors
    /// `Trailing(field)` if something is left.
    pub const fn finish(&self, field: &'static str) -> Result<(), WireError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(WireError::Trailing(field))
        }
    }
}
