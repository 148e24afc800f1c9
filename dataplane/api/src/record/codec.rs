//! Byte cursors over one record: little-endian integers, no alignment, no pointers.

use core::net::IpAddr;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::field::{Field, FieldError};
use crate::selector::{AddrRange, Selector};

/// Words of a record.
pub const RECORD_WORDS: usize = 32;
/// Bytes of a record.
pub const RECORD_BYTES: usize = RECORD_WORDS * 8;

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

/// Writes fields one behind the other.
///
/// Every record is far shorter than [`RECORD_BYTES`] (a test encodes the longest of each kind), so
/// running over the end is a mistake of this crate: it fails debug builds and writes nothing.
pub(crate) struct Writer {
    bytes: [u8; RECORD_BYTES],
    used: usize,
}

impl Writer {
    pub(crate) fn new(kind: u16) -> Self {
        let mut writer = Self {
            bytes: [0; RECORD_BYTES],
            used: 0,
        };
        writer.u16(kind);
        writer
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        let end = self.used + value.len();
        debug_assert!(end <= RECORD_BYTES, "record too long");
        if let Some(room) = self.bytes.get_mut(self.used..end) {
            room.copy_from_slice(value);
            self.used = end;
        }
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
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
        let mut record = Record::zeroed();
        for (word, bytes) in record.0.iter_mut().zip(self.bytes.chunks_exact(8)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        }
        record
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Reads fields one behind the other from a private copy of a record.
pub(crate) struct Reader {
    bytes: [u8; RECORD_BYTES],
    used: usize,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Reader {
    pub(crate) fn new(record: &Record) -> Self {
        let mut reader = Self {
            bytes: [0; RECORD_BYTES],
            used: 0,
        };
        for (bytes, word) in reader.bytes.chunks_exact_mut(8).zip(&record.0) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        reader
    }

    /// Copies the next `N` bytes; zeros behind the end, which only a mistake here can reach.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut value = [0; N];
        let end = self.used + N;
        debug_assert!(end <= RECORD_BYTES, "record too short");
        if let Some(bytes) = self.bytes.get(self.used..end) {
            value.copy_from_slice(bytes);
            self.used = end;
        }
        value
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
        let rest = self.bytes.get(self.used..).unwrap_or_default();
        match rest.iter().position(|byte| *byte != 0) {
            None => Ok(()),
            Some(at) => Err(FieldError::new(Field::TRAILING, (self.used + at) as u64)),
        }
    }
}
