//! Pseudo-random functions (RFC 7296 2.13, RFC 4868).

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::{CryptoError, Secret};
use crate::wire::PrfId;

/// A pseudo-random function that is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prf {
    /// PRF_HMAC_SHA2_256
    HmacSha256,
    /// PRF_HMAC_SHA2_384
    HmacSha384,
    /// PRF_HMAC_SHA2_512
    HmacSha512,
}

impl Prf {
    /// The function with this number, if it is built.
    #[must_use]
    pub const fn new(id: PrfId) -> Option<Self> {
        match id {
            PrfId::HMAC_SHA2_256 => Some(Self::HmacSha256),
            PrfId::HMAC_SHA2_384 => Some(Self::HmacSha384),
            PrfId::HMAC_SHA2_512 => Some(Self::HmacSha512),
            _ => None,
        }
    }

    /// Number on the wire.
    #[must_use]
    pub const fn id(self) -> PrfId {
        match self {
            Self::HmacSha256 => PrfId::HMAC_SHA2_256,
            Self::HmacSha384 => PrfId::HMAC_SHA2_384,
            Self::HmacSha512 => PrfId::HMAC_SHA2_512,
        }
    }

    /// Bytes of the output, which is also the preferred key size (RFC 4868 2.1.2).
    #[must_use]
    pub const fn output_bytes(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    const fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
            Self::HmacSha512 => hmac::HMAC_SHA512,
        }
    }

    /// prf(key, data), with the data in parts.
    #[must_use]
    pub fn compute(self, key: &[u8], data: &[&[u8]]) -> Secret {
        Zeroizing::new(
            sign(&hmac::Key::new(self.hmac(), key), data)
                .as_ref()
                .to_vec(),
        )
    }

    /// prf+(key, seed) of RFC 7296 2.13, cut to `bytes`.
    ///
    /// # Errors
    /// `OutputLength` if that needs more than 255 blocks.
    pub fn expand(self, key: &[u8], seed: &[&[u8]], bytes: usize) -> Result<Secret, CryptoError> {
        let key = hmac::Key::new(self.hmac(), key);
        let blocks = bytes.div_ceil(self.output_bytes());
        let blocks = u8::try_from(blocks).map_err(|_| CryptoError::OutputLength)?;
        // Full capacity at once: growing would leave copies behind.
        let capacity = usize::from(blocks) * self.output_bytes();
        let mut out = Zeroizing::new(Vec::with_capacity(capacity));
        let mut previous = Zeroizing::new(Vec::new());
        for number in 1..=blocks {
            let mut data = vec![previous.as_slice()];
            data.extend_from_slice(seed);
            let number = [number];
            data.push(&number);
            let block = sign(&key, &data);
            out.extend_from_slice(block.as_ref());
            previous = Zeroizing::new(block.as_ref().to_vec());
        }
        out.truncate(bytes);
        Ok(out)
    }
}

fn sign(key: &hmac::Key, data: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in data {
        context.update(part);
    }
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;

    const ALL: [Prf; 3] = [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];

    #[test]
    fn rfc4868_prf_vectors() {
        // RFC 4868 2.7.1, test cases PRF-1 and PRF-2 (the same as RFC 4231 4.2 and 4.3).
        let cases: [(&[u8], &[u8], [&str; 3]); 2] = [
            (
                &[0x0b; 20],
                b"Hi There",
                [
                    "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
                    "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59c\
                     faea9ea9076ede7f4af152e8b2fa9cb6",
                    "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde\
                     daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
                ],
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                [
                    "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
                    "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e\
                     8e2240ca5e69e2c78b3239ecfab21649",
                    "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554\
                     9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
                ],
            ),
        ];
        for (key, data, expected) in cases {
            for (prf, expected) in ALL.into_iter().zip(expected) {
                assert_eq!(*prf.compute(key, &[data]), hex(expected), "{prf:?}");
                let (head, tail) = data.split_at(3);
                assert_eq!(
                    *prf.compute(key, &[head, &[], tail]),
                    hex(expected),
                    "{prf:?}"
                );
            }
        }
    }

    #[test]
    fn expand_chains_blocks_and_cuts_the_last() {
        for prf in ALL {
            let first = prf.compute(b"key", &[b"seed", &[1]]);
            let second = prf.compute(b"key", &[&first, b"seed", &[2]]);
            let whole = [first.as_slice(), &second].concat();
            let out = prf
                .expand(b"key", &[b"se", b"ed"], prf.output_bytes() + 5)
                .unwrap();
            assert_eq!(*out, whole[..prf.output_bytes() + 5]);
            assert!(prf.expand(b"key", &[b"seed"], 0).unwrap().is_empty());
        }
    }

    #[test]
    fn expand_stops_at_255_blocks() {
        let most = 255 * 32;
        assert_eq!(
            Prf::HmacSha256.expand(b"k", &[b"s"], most).unwrap().len(),
            most
        );
        let error = Prf::HmacSha256.expand(b"k", &[b"s"], most + 1).unwrap_err();
        assert_eq!(error, CryptoError::OutputLength);
    }

    #[test]
    fn ids_round_trip_and_unbuilt_ones_are_none() {
        for prf in ALL {
            assert_eq!(Prf::new(prf.id()), Some(prf));
            assert_eq!(prf.compute(b"", &[]).len(), prf.output_bytes());
        }
        assert_eq!(Prf::new(PrfId::HMAC_SHA1), None);
        assert_eq!(Prf::new(PrfId(999)), None);
    }
}
