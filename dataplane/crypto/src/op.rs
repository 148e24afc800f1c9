//! One operation of a batch.

use core::fmt;
use core::marker::PhantomData;

use crate::key::KeyContext;

/// Bytes of `data` behind the payload, however long the ICV is.
pub const ICV_ROOM: usize = 16;

/// Longest `data` of an operation in bytes: an IP packet cannot carry more.
pub const MAX_DATA_BYTES: usize = 65_536;

/// Additional authenticated data of ESP, by value (RFC 4106 5). Kept in words: put together from bytes
/// in memory and read as words, it would wait for the stores of every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aad {
    /// The first 8 bytes, and the last 4 with zeros behind, in network order.
    words: [u64; 2],
    len: u8,
}

impl Aad {
    /// SPI and 32-bit sequence number: 8 bytes.
    #[must_use]
    #[inline]
    pub const fn sequence(spi: u32, sequence: u32) -> Self {
        Self {
            words: [(spi as u64) << 32 | sequence as u64, 0],
            len: 8,
        }
    }

    /// SPI and 64-bit extended sequence number, high half first: 12 bytes.
    #[must_use]
    #[inline]
    pub const fn extended(spi: u32, sequence: u64) -> Self {
        Self {
            words: [(spi as u64) << 32 | sequence >> 32, sequence << 32],
            len: 12,
        }
    }

    /// The 8 or 12 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> AadBytes {
        let [first, second] = self.words.map(u64::to_be_bytes);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&first);
        bytes[8..].copy_from_slice(&second);
        let len = self.len;
        AadBytes { bytes, len }
    }
}

/// The bytes of an [`Aad`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AadBytes {
    bytes: [u8; 16],
    len: u8,
}

impl core::ops::Deref for AadBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// One packet to seal or open in place.
///
/// `data` is the payload and [`ICV_ROOM`] bytes behind it. Seal writes the ICV there, open expects it
/// there. A shorter ICV than 16 bytes takes the first of them; the rest is scratch, which open does not
/// read as ciphertext and which holds anything after either call. Nothing outside `data` is touched.
#[repr(C)]
pub struct Op<'a> {
    pub(crate) key: &'a KeyContext,
    /// Start of `data`, which this borrows.
    pub(crate) data: *mut u8,
    pub(crate) iv: [u8; 8],
    /// Length of the payload: `data` is [`ICV_ROOM`] longer.
    pub(crate) len: u32,
    pub(crate) ok: bool,
    /// The AAD, then zeros, as GHASH's kernels want a block: the last byte first.
    pub(crate) aad: [u64; 2],
    /// The block of lengths in bits, likewise: that of the payload, that of the AAD.
    pub(crate) lengths: [u64; 2],
    borrow: PhantomData<&'a mut [u8]>,
}

// What a batch costs in cache: a line an operation.
const _: () = assert!(size_of::<Op<'_>>() <= 64);

// SAFETY: `data` is an exclusive borrow of bytes, which may go to another thread.
unsafe impl Send for Op<'_> {}
// SAFETY: a shared operation only gives shared access to the bytes.
unsafe impl Sync for Op<'_> {}

impl<'a> Op<'a> {
    /// Describes an operation; lengths are checked here so that [`seal`](crate::seal) and
    /// [`open`](crate::open) need not.
    ///
    /// # Errors
    /// [`OpError`] if `data` is shorter than [`ICV_ROOM`] or longer than [`MAX_DATA_BYTES`].
    #[inline]
    pub fn new(
        key: &'a KeyContext,
        iv: [u8; 8],
        aad: Aad,
        data: &'a mut [u8],
    ) -> Result<Self, OpError> {
        let len = data.len().checked_sub(ICV_ROOM).ok_or(OpError::TooShort)?;
        if data.len() > MAX_DATA_BYTES {
            return Err(OpError::TooLong);
        }
        let [high, low] = aad.words;
        #[expect(clippy::cast_possible_truncation, reason = "MAX_DATA_BYTES fits")]
        let len = len as u32;
        Ok(Self {
            key,
            data: data.as_mut_ptr(),
            iv,
            len,
            ok: false,
            aad: [low, high],
            lengths: [8 * u64::from(len), 8 * u64::from(aad.len)],
            borrow: PhantomData,
        })
    }

    /// Whether the last call succeeded; false before the first.
    #[must_use]
    #[inline]
    pub const fn ok(&self) -> bool {
        self.ok
    }

    /// The payload without the ICV.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &[u8] {
        // SAFETY: the first bytes of `data`, which this borrows.
        unsafe { core::slice::from_raw_parts(self.data, self.len as usize) }
    }

    /// The AAD, as it was given.
    pub(crate) fn aad(&self) -> Aad {
        let [low, high] = self.aad;
        let len = if self.lengths[1] == 64 { 8 } else { 12 };
        Aad {
            words: [high, low],
            len,
        }
    }

    /// Payload and ICV, apart.
    pub(crate) fn split(&mut self) -> (&mut [u8], &mut [u8]) {
        let len = self.len as usize;
        // SAFETY: `data`, which this borrows exclusively.
        let data = unsafe { core::slice::from_raw_parts_mut(self.data, len + ICV_ROOM) };
        let (payload, room) = data.split_at_mut(len);
        (payload, &mut room[..self.key.icv_len()])
    }
}

/// Shows no packet.
impl fmt::Debug for Op<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Op")
            .field("key", self.key)
            .field("len", &self.len)
            .field("ok", &self.ok)
            .finish_non_exhaustive()
    }
}

/// Why an operation cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpError {
    /// Less than [`ICV_ROOM`].
    TooShort,
    /// More than [`MAX_DATA_BYTES`].
    TooLong,
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => write!(f, "data has no {ICV_ROOM} bytes behind the payload"),
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
            assert_eq!(build(ICV_ROOM - 1), Err(OpError::TooShort));
            assert_eq!(build(ICV_ROOM), Ok(()));
            assert_eq!(build(MAX_DATA_BYTES), Ok(()));
            assert_eq!(build(MAX_DATA_BYTES + 1), Err(OpError::TooLong));
        }
    }

    /// RFC 4106 5, figures 2 and 3.
    #[test]
    fn aad_layout() {
        assert_eq!(
            Aad::sequence(0x0102_0304, 5).to_bytes()[..],
            [1, 2, 3, 4, 0, 0, 0, 5]
        );
        assert_eq!(
            Aad::extended(0x0102_0304, 0x0506_0708_090a_0b0c).to_bytes()[..],
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
        );
    }
}
