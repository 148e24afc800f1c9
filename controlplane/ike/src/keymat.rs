//! Keys of IKE SAs and Child SAs (RFC 7296 2.14, 2.17, 2.18).

use std::fmt;

use zeroize::Zeroizing;

use crate::crypto::{CryptoError, Prf, Secret, SharedSecret, SkAlgorithm, SkCipher};

/// What both sides put into every key: nonces without their payload headers.
#[derive(Clone, Copy, Debug)]
pub struct Nonces<'a> {
    /// Ni, of the initiator of the exchange.
    pub initiator: &'a [u8],
    /// Nr, of its responder.
    pub responder: &'a [u8],
}

/// SPIs of the IKE SA that gets keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeSpis {
    /// SPIi
    pub initiator: u64,
    /// SPIr
    pub responder: u64,
}

/// The seven keys of an IKE SA, named as in RFC 7296 2.14. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct IkeKeys {
    /// Derives the keys of Child SAs and of the next IKE SA.
    pub sk_d: Secret,
    /// Integrity of the initiator's messages; empty with an AEAD.
    pub sk_ai: Secret,
    /// Integrity of the responder's messages; empty with an AEAD.
    pub sk_ar: Secret,
    /// Encryption of the initiator's messages.
    pub sk_ei: Secret,
    /// Encryption of the responder's messages.
    pub sk_er: Secret,
    /// Goes into the initiator's AUTH payload.
    pub sk_pi: Secret,
    /// Goes into the responder's AUTH payload.
    pub sk_pr: Secret,
}

impl fmt::Debug for IkeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IkeKeys")
    }
}

/// SKEYSEED of a first IKE SA: prf(Ni | Nr, g^ir) (RFC 7296 2.14).
fn skeyseed(prf: Prf, shared: &SharedSecret, nonces: Nonces<'_>) -> Secret {
    let key = Zeroizing::new([nonces.initiator, nonces.responder].concat());
    prf.compute(&key, &[shared.as_bytes()])
}

/// SKEYSEED of a rekeyed IKE SA: prf(SK_d (old), g^ir (new) | Ni | Nr), with the PRF of the old
/// IKE SA (RFC 7296 2.18).
fn skeyseed_rekey(
    old_prf: Prf,
    old_sk_d: &[u8],
    shared: &SharedSecret,
    nonces: Nonces<'_>,
) -> Secret {
    old_prf.compute(
        old_sk_d,
        &[shared.as_bytes(), nonces.initiator, nonces.responder],
    )
}

impl IkeKeys {
    /// Keys after IKE_SA_INIT.
    ///
    /// # Errors
    /// `OutputLength` never happens with the algorithms that are built.
    pub fn initial(
        prf: Prf,
        algorithm: SkAlgorithm,
        shared: &SharedSecret,
        nonces: Nonces<'_>,
        spis: IkeSpis,
    ) -> Result<Self, CryptoError> {
        Self::derive(prf, algorithm, &skeyseed(prf, shared, nonces), nonces, spis)
    }

    /// Keys of the IKE SA that a CREATE_CHILD_SA exchange inside another one makes: `prf`,
    /// `algorithm` and `spis` are the new SA's.
    ///
    /// # Errors
    /// As `initial`.
    pub fn rekeyed(
        old_prf: Prf,
        old_sk_d: &[u8],
        prf: Prf,
        algorithm: SkAlgorithm,
        shared: &SharedSecret,
        nonces: Nonces<'_>,
        spis: IkeSpis,
    ) -> Result<Self, CryptoError> {
        let skeyseed = skeyseed_rekey(old_prf, old_sk_d, shared, nonces);
        Self::derive(prf, algorithm, &skeyseed, nonces, spis)
    }

    /// {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} =
    /// prf+ (SKEYSEED, Ni | Nr | SPIi | SPIr)
    fn derive(
        prf: Prf,
        algorithm: SkAlgorithm,
        skeyseed: &[u8],
        nonces: Nonces<'_>,
        spis: IkeSpis,
    ) -> Result<Self, CryptoError> {
        let (p, a, e) = (
            prf.output_bytes(),
            algorithm.integ_key_bytes(),
            algorithm.encr_key_bytes(),
        );
        let spi_i = spis.initiator.to_be_bytes();
        let spi_r = spis.responder.to_be_bytes();
        let seed = [nonces.initiator, nonces.responder, &spi_i, &spi_r];
        let stream = prf.expand(skeyseed, &seed, p + 2 * a + 2 * e + 2 * p)?;
        let mut cut = Cutter(&stream);
        Ok(Self {
            sk_d: cut.take(p)?,
            sk_ai: cut.take(a)?,
            sk_ar: cut.take(a)?,
            sk_ei: cut.take(e)?,
            sk_er: cut.take(e)?,
            sk_pi: cut.take(p)?,
            sk_pr: cut.take(p)?,
        })
    }

    /// Cipher for messages of the original initiator of the IKE SA.
    ///
    /// # Errors
    /// `Unsupported`, or `KeyLength` if the keys are of another algorithm.
    pub fn initiator_cipher(&self, algorithm: SkAlgorithm) -> Result<SkCipher, CryptoError> {
        SkCipher::new(algorithm, &self.sk_ei, &self.sk_ai)
    }

    /// Cipher for messages of the original responder of the IKE SA.
    ///
    /// # Errors
    /// As `initiator_cipher`.
    pub fn responder_cipher(&self, algorithm: SkAlgorithm) -> Result<SkCipher, CryptoError> {
        SkCipher::new(algorithm, &self.sk_er, &self.sk_ar)
    }

    const fn fields(&self) -> [&Secret; 7] {
        [
            &self.sk_d,
            &self.sk_ai,
            &self.sk_ar,
            &self.sk_ei,
            &self.sk_er,
            &self.sk_pi,
            &self.sk_pr,
        ]
    }

    /// The keys as bytes for a checkpoint: each with its length in one byte before it.
    #[must_use]
    pub fn to_bytes(&self) -> Secret {
        let total = self.fields().iter().map(|key| key.len() + 1).sum();
        let mut out = Zeroizing::new(Vec::with_capacity(total));
        for key in self.fields() {
            // No key of an algorithm that is built is longer than 64 bytes.
            out.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(key);
        }
        out
    }

    /// Reads what `to_bytes` wrote; `None` if it is not that.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut cut = Cutter(bytes);
        let mut next = || {
            let length = *cut.take(1).ok()?.first()?;
            cut.take(usize::from(length)).ok()
        };
        let keys = Self {
            sk_d: next()?,
            sk_ai: next()?,
            sk_ar: next()?,
            sk_ei: next()?,
            sk_er: next()?,
            sk_pi: next()?,
            sk_pr: next()?,
        };
        cut.0.is_empty().then_some(keys)
    }
}

/// Bytes of KEYMAT that one SA of a Child SA takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyBytes {
    /// Encryption key with salt.
    pub encr: usize,
    /// Integrity key; 0 with an AEAD.
    pub integ: usize,
}

/// Keys of one SA. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SaKeymat {
    /// Encryption key with the salt at its tail.
    pub encr: Secret,
    /// Integrity key; empty with an AEAD.
    pub integ: Secret,
}

/// Keys of the two SAs of a Child SA.
#[derive(Clone, PartialEq, Eq)]
pub struct ChildKeys {
    /// From the initiator of the exchange to its responder.
    pub initiator: SaKeymat,
    /// From the responder of the exchange to its initiator.
    pub responder: SaKeymat,
}

impl fmt::Debug for SaKeymat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaKeymat")
    }
}

impl fmt::Debug for ChildKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChildKeys")
    }
}

impl ChildKeys {
    /// KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr), cut in the order of RFC 7296 2.17: initiator to
    /// responder first, encryption before integrity. In IKE_AUTH the nonces are those of
    /// IKE_SA_INIT. `prf` and `sk_d` are those of the IKE SA that carries the exchange.
    ///
    /// # Errors
    /// `OutputLength` never happens with the algorithms that are built.
    pub fn derive(
        prf: Prf,
        sk_d: &[u8],
        shared: Option<&SharedSecret>,
        nonces: Nonces<'_>,
        bytes: KeyBytes,
    ) -> Result<Self, CryptoError> {
        let shared = shared.map_or(&[][..], SharedSecret::as_bytes);
        let seed = [shared, nonces.initiator, nonces.responder];
        let stream = prf.expand(sk_d, &seed, 2 * (bytes.encr + bytes.integ))?;
        let mut cut = Cutter(&stream);
        let mut next = || {
            Ok(SaKeymat {
                encr: cut.take(bytes.encr)?,
                integ: cut.take(bytes.integ)?,
            })
        };
        Ok(Self {
            initiator: next()?,
            responder: next()?,
        })
    }
}

/// Takes keys off a stream, each into memory of its own.
struct Cutter<'a>(&'a [u8]);

impl Cutter<'_> {
    fn take(&mut self, bytes: usize) -> Result<Secret, CryptoError> {
        let (head, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or(CryptoError::KeyLength)?;
        self.0 = rest;
        Ok(Zeroizing::new(head.to_vec()))
    }
}

#[cfg(test)]
mod tests;
