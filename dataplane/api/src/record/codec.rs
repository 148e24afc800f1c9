//! Byte cursors over one record: little-endian integers, no alignment, no pointers.

use core::net::IpAddr;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::field::{Field, FieldError};
use crate::selector::{AddrRange, Selector};

/// Words of a record.
pub const RECORD_WORDS: usize = 32;
/// Bytes of a record.
pub const RECORD_BYTES: usize = RECORD_WORDS * WORD_BYTES;
const WORD_BYTES: usize = 8;

const FAMILY_IPV4: u8 = 4;
const FAMILY_IPV6: u8 = 6;

/// One record as it stands in a ring: plain integers, may hold a key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Record(pub [u64; RECORD_WORDS]);

impl Record {
    /// A record of zeros, to be filled.
    #[must_use]
    pub const fn zeroed() -> Self {
        Self([0; RECORD_WORDS])
    }
}

/// Writes fields one behind the other, into the record itself: no copy of a key is left behind.
///
/// Every record is far shorter than [`RECORD_BYTES`] (a test encodes the longest of each kind), so
/// running over the end is a mistake of this crate: it fails debug builds and writes nothing.
pub(crate) struct Writer {
    record: Record,
    used: usize,
}

impl Writer {
    pub(crate) fn new(kind: u16) -> Self {
        let mut writer = Self {
            record: Record::zeroed(),
            used: 0,
        };
        writer.u16(kind);
        writer
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        let end = self.used + value.len();
        debug_assert!(end <= RECORD_BYTES, "record too long");
        if end > RECORD_BYTES {
            return;
        }
        for part in value.chunks(WORD_BYTES) {
            let mut bytes = [0; WORD_BYTES];
            for (byte, value) in bytes.iter_mut().zip(part) {
                *byte = *value;
            }
            self.word(u64::from_le_bytes(bytes), part.len());
        }
    }

    /// Puts the low `len` bytes of a word in; the others are zero.
    #[inline]
    fn word(&mut self, value: u64, len: usize) {
        let (at, shift) = place(self.used);
        let [low, high] = halves(u128::from(value) << shift);
        if let Some(word) = self.record.0.get_mut(at) {
            *word |= low;
        }
        if let Some(word) = self.record.0.get_mut(at + 1) {
            *word |= high;
        }
        self.used += len;
    }

    /// An integer of `len` bytes.
    #[inline]
    fn integer(&mut self, value: u64, len: usize) {
        let fits = self.used + len <= RECORD_BYTES;
        debug_assert!(fits, "record too long");
        if fits {
            self.word(value, len);
        }
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.integer(u64::from(value), 1);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.integer(u64::from(value), 2);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.integer(u64::from(value), 4);
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.integer(value, 8);
    }

    /// Family, then 16 bytes; IPv4 takes the first four and leaves zeros.
    pub(crate) fn address(&mut self, value: IpAddr) {
        match value {
            IpAddr::V4(v4) => {
                self.u8(FAMILY_IPV4);
                self.bytes(&v4.octets());
                self.bytes(&[0; 12]);
            }
            IpAddr::V6(v6) => {
                self.u8(FAMILY_IPV6);
                self.bytes(&v6.octets());
            }
        }
    }

    pub(crate) fn selector(&mut self, value: &Selector) {
        for address in [
            value.local.first,
            value.local.last,
            value.remote.first,
            value.remote.last,
        ] {
            self.address(address);
        }
        self.u8(value.protocol);
        for (first, last) in [value.local_ports, value.remote_ports] {
            self.u16(first);
            self.u16(last);
        }
    }

    pub(crate) fn finish(self) -> Record {
        self.record
    }
}

/// Reads fields one behind the other from a private copy of a record.
pub(crate) struct Reader<'a> {
    record: &'a Record,
    used: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(record: &'a Record) -> Self {
        Self { record, used: 0 }
    }

    /// Copies the next `N` bytes; zeros behind the end, which only a mistake here can reach.
    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut value = [0; N];
        let end = self.used + N;
        debug_assert!(end <= RECORD_BYTES, "record too short");
        if end > RECORD_BYTES {
            return value;
        }
        for (part, at) in value
            .chunks_mut(WORD_BYTES)
            .zip((self.used..).step_by(WORD_BYTES))
        {
            for (byte, read) in part.iter_mut().zip(self.word(at).to_le_bytes()) {
                *byte = read;
            }
        }
        self.used = end;
        value
    }

    /// The eight bytes from here on.
    #[inline]
    fn word(&self, byte: usize) -> u64 {
        let (at, shift) = place(byte);
        let part = |at: usize| u128::from(self.record.0.get(at).copied().unwrap_or(0));
        let [low, _] = halves((part(at) | part(at + 1) << 64) >> shift);
        low
    }

    pub(crate) fn u8(&mut self) -> u8 {
        let [value] = self.array();
        value
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(crate) fn bool(&mut self, field: Field) -> Result<bool, FieldError> {
        match self.u8() {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(FieldError::new(field, u64::from(other))),
        }
    }

    pub(crate) fn address(&mut self, field: Field) -> Result<IpAddr, FieldError> {
        let family = self.u8();
        let bytes: [u8; 16] = self.array();
        match (family, bytes) {
            (FAMILY_IPV4, [a, b, c, d, rest @ ..]) if rest == [0; 12] => {
                Ok(IpAddr::from([a, b, c, d]))
            }
            (FAMILY_IPV6, bytes) => Ok(IpAddr::from(bytes)),
            _ => Err(FieldError::new(field, u64::from(family))),
        }
    }

    fn range(&mut self, field: Field) -> Result<AddrRange, FieldError> {
        Ok(AddrRange {
            first: self.address(field)?,
            last: self.address(field)?,
        })
    }

    pub(crate) fn selector(&mut self) -> Result<Selector, FieldError> {
        Ok(Selector {
            local: self.range(Field::SELECTOR_LOCAL)?,
            remote: self.range(Field::SELECTOR_REMOTE)?,
            protocol: self.u8(),
            local_ports: (self.u16(), self.u16()),
            remote_ports: (self.u16(), self.u16()),
        })
    }

    /// Everything behind the last field must be zero.
    pub(crate) fn finish(&self) -> Result<(), FieldError> {
        let rest = (self.used..RECORD_BYTES).step_by(WORD_BYTES);
        for at in rest {
            let word = self.word(at);
            if word != 0 {
                let byte = word.trailing_zeros() / 8;
                let at = at as u64 + u64::from(byte);
                return Err(FieldError::new(Field::TRAILING, at));
            }
        }
        Ok(())
    }
}

/// The word that a byte is in, and how many bits it is from the word's end.
#[inline]
const fn place(byte: usize) -> (usize, usize) {
    (byte / WORD_BYTES, byte % WORD_BYTES * 8)
}

#[inline]
fn halves(value: u128) -> [u64; 2] {
    let mask = u128::from(u64::MAX);
    [value & mask, value >> 64].map(|half| u64::try_from(half).unwrap_or_default())
}
