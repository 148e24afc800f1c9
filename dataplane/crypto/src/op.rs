//! One operation of a batch.

use core::fmt;

use crate::key::KeyContext;

/// Longest `data` of an operation in bytes: an IP packet cannot carry more.
pub const MAX_DATA_BYTES: usize = 65_536;

/// Additional authenticated data of ESP, by value (RFC 4106 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aad {
    bytes: [u8; 12],
    len: u8,
}

impl Aad {
    /// SPI and 32-bit sequence number: 8 bytes.
    #[must_use]
    pub const fn sequence(spi: u32, sequence: u32) -> Self {
        let (a, b) = (spi.to_be_bytes(), sequence.to_be_bytes());
        let bytes = [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], 0, 0, 0, 0];
        Self { bytes, len: 8 }
    }

    /// SPI and 64-bit extended sequence number, high half first: 12 bytes.
    #[must_use]
    pub const fn extended(spi: u32, sequence: u64) -> Self {
        let (a, b) = (spi.to_be_bytes(), sequence.to_be_bytes());
        let bytes = [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7],
        ];
        Self { bytes, len: 12 }
    }

    /// The 8 or 12 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// One packet to seal or open in place.
///
/// `data` is plaintext and room for the ICV (seal), or ciphertext and ICV (open).
#[derive(Debug)]
pub struct Op<'a> {
    pub(crate) key: &'a KeyContext,
    pub(crate) iv: [u8; 8],
    pub(crate) aad: Aad,
    pub(crate) data: &'a mut [u8],
    pub(crate) ok: bool,
}

impl<'a> Op<'a> {
    /// Describes an operation; lengths are checked here so that [`seal`](crate::seal) and
    /// [`open`](crate::open) need not.
    ///
    /// # Errors
    /// [`OpError`] if `data` cannot hold an ICV or is longer than [`MAX_DATA_BYTES`].
    pub fn new(
        key: &'a KeyContext,
        iv: [u8; 8],
        aad: Aad,
        data: &'a mut [u8],
    ) -> Result<Self, OpError> {
        if data.len() < key.icv_len() {
            return Err(OpError::TooShort);
        }
        if data.len() > MAX_DATA_BYTES {
            return Err(OpError::TooLong);
        }
        Ok(Self {
            key,
            iv,
            aad,
            data,
            ok: false,
        })
    }

    /// Whether the last call succeeded; false before the first.
    #[must_use]
    pub const fn ok(&self) -> bool {
        self.ok
    }

    /// The payload without the ICV.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.data[..self.data.len() - self.key.icv_len()]
    }

    /// Payload and ICV, apart.
    pub(crate) fn split(&mut self) -> (&mut [u8], &mut [u8]) {
        let at = self.data.len() - self.key.icv_len();
        self.data.split_at_mut(at)
    }
}

/// Why an operation cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpError {
    /// No room for the ICV.
    TooShort,
    /// More than [`MAX_DATA_BYTES`].
    TooLong,
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("data has no room for the ICV"),
            Self::TooLong => write!(f, "data is longer than {MAX_DATA_BYTES} bytes"),
        }
    }
}

impl std::error::Error for OpError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_at_their_edges() {
        for icv_len in [8, 12, 16] {
            let key = KeyContext::aes_gcm(&[0; 16], [0; 4], icv_len).unwrap();
            let build =
                |len| Op::new(&key, [0; 8], Aad::sequence(1, 1), &mut vec![0; len]).map(|_| ());
            assert_eq!(build(0), Err(OpError::TooShort));
            assert_eq!(build(icv_len - 1), Err(OpError::TooShort));
            assert_eq!(build(icv_len), Ok(()));
            assert_eq!(build(MAX_DATA_BYTES), Ok(()));
            assert_eq!(build(MAX_DATA_BYTES + 1), Err(OpError::TooLong));
        }
    }

    /// RFC 4106 5, figures 2 and 3.
    #[test]
    fn aad_layout() {
        assert_eq!(
            Aad::sequence(0x0102_0304, 5).as_bytes(),
            [1, 2, 3, 4, 0, 0, 0, 5]
        );
        assert_eq!(
            Aad::extended(0x0102_0304, 0x0506_0708_090a_0b0c).as_bytes(),
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
        );
    }
}
