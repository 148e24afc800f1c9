//! Cryptography of IKE: PRF, encrypted payload, key exchange. Algorithms come from aws-lc-rs and
//! crypto-bigint; randomness comes from the caller.

mod ke;
mod modp;
mod prf;
mod sk;

use std::fmt;

use zeroize::Zeroizing;

pub use ke::{KeError, KeyExchange, SharedSecret};
pub use prf::Prf;
pub use sk::{OpenError, SkAlgorithm, SkCipher};

/// Bytes of a key or a shared secret, wiped when dropped.
pub type Secret = Zeroizing<Vec<u8>>;

/// What a caller asked of an algorithm that it cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CryptoError {
    /// The algorithm, or the key length, is not built.
    Unsupported,
    /// The key has another length than the algorithm's.
    KeyLength,
    /// The IV has another length than the algorithm's.
    IvLength,
    /// More output than prf+ can give (255 blocks, RFC 7296 2.13).
    OutputLength,
    /// The library refused.
    Library,
}

impl fmt::Display for CryptoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "algorithm is not built",
            Self::KeyLength => "key has the wrong length",
            Self::IvLength => "IV has the wrong length",
            Self::OutputLength => "prf+ cannot give that many bytes",
            Self::Library => "cryptographic library failed",
        })
    }
}

impl std::error::Error for CryptoError {}

/// SHA-1 of the parts, for NAT detection only (RFC 7296 2.23).
#[must_use]
pub fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 20];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Compares in time that depends on the lengths only.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Bytes of a hexadecimal text; white space is skipped.
#[cfg(test)]
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha1_of_parts_is_sha1_of_the_whole() {
        // FIPS 180-2, appendix A.1: "abc".
        let expected = hex("a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(sha1(&[b"a", b"", b"bc"]).as_slice(), expected);
    }

    #[test]
    fn equal_needs_the_same_length_and_bytes() {
        assert!(equal(b"same", b"same"));
        assert!(!equal(b"same", b"sane"));
        assert!(!equal(b"same", b"sam"));
        assert!(equal(b"", b""));
    }
}
