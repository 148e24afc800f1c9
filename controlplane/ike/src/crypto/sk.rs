//! The encrypted payload (RFC 7296 3.14; RFC 5282 for AES-GCM).
//!
//! The bytes come from the network before anything is authenticated: no indexing here.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    self, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::{CryptoError, Secret, equal};
use crate::wire::{EncrId, Encrypted, IntegId, Message, WireError};

const BLOCK_BYTES: usize = 16;
const GCM_SALT_BYTES: usize = 4;
const GCM_IV_BYTES: usize = 8;
const GCM_ICV_BYTES: usize = 16;

/// Cipher and integrity of an encrypted payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SkAlgorithm {
    /// AES_CBC or AES_GCM_16.
    pub encr: EncrId,
    /// 128, 192 or 256.
    pub key_bits: u16,
    /// HMAC-SHA2 with AES_CBC, NONE with AES_GCM_16.
    pub integ: IntegId,
}

impl SkAlgorithm {
    /// Bytes of SK_e: the key, for AES-GCM and its salt (RFC 5282 7.1).
    #[must_use]
    pub const fn encr_key_bytes(self) -> usize {
        let salt = if self.is_aead() { GCM_SALT_BYTES } else { 0 };
        (self.key_bits as usize / 8).saturating_add(salt)
    }

    /// Bytes of SK_a: none for AES-GCM.
    #[must_use]
    pub const fn integ_key_bytes(self) -> usize {
        match self.integ {
            IntegId::HMAC_SHA2_256_128 => 32,
            IntegId::HMAC_SHA2_384_192 => 48,
            IntegId::HMAC_SHA2_512_256 => 64,
            _ => 0,
        }
    }

    /// Bytes of the IV of each message: 16 unpredictable ones for AES-CBC, 8 that never repeat
    /// under the key for AES-GCM.
    #[must_use]
    pub const fn iv_bytes(self) -> usize {
        if self.is_aead() {
            GCM_IV_BYTES
        } else {
            BLOCK_BYTES
        }
    }

    const fn is_aead(self) -> bool {
        matches!(self.encr, EncrId::AES_GCM_16)
    }
}

/// Keys of one direction of an IKE SA, ready for use.
pub struct SkCipher {
    algorithm: SkAlgorithm,
    keys: Keys,
}

enum Keys {
    Gcm {
        key: LessSafeKey,
        salt: [u8; GCM_SALT_BYTES],
    },
    Cbc(Box<Cbc>),
}

struct Cbc {
    encrypt: EncryptingKey,
    decrypt: DecryptingKey,
    integ: hmac::Key,
    icv_bytes: usize,
}

/// Why an encrypted payload was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Too short for IV, padding and ICV, or not in whole blocks: drop silently.
    Length,
    /// The ICV is wrong: drop silently.
    Integrity,
    /// The ICV is right and the padding is not: the peer is broken.
    Padding,
    /// The ICV is right and the content is not: the peer gets a notification.
    Wire(WireError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("encrypted payload has an impossible length"),
            Self::Integrity => f.write_str("integrity check failed"),
            Self::Padding => f.write_str("padding is longer than the content"),
            Self::Wire(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl fmt::Debug for SkCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SkCipher")
            .field(&self.algorithm)
            .finish_non_exhaustive()
    }
}

impl SkCipher {
    /// Takes SK_ei and SK_ai for messages of the initiator, SK_er and SK_ar for the responder's.
    ///
    /// # Errors
    /// `Unsupported` for an algorithm that is not built, `KeyLength` if a key does not fit it.
    pub fn new(algorithm: SkAlgorithm, sk_e: &[u8], sk_a: &[u8]) -> Result<Self, CryptoError> {
        let fits = sk_e.len() == algorithm.encr_key_bytes();
        if !fits || sk_a.len() != algorithm.integ_key_bytes() {
            return Err(CryptoError::KeyLength);
        }
        let keys = match algorithm.encr {
            EncrId::AES_GCM_16 if algorithm.integ == IntegId::NONE => gcm(algorithm, sk_e)?,
            EncrId::AES_CBC => Keys::Cbc(Box::new(Cbc::new(algorithm, sk_e, sk_a)?)),
            _ => return Err(CryptoError::Unsupported),
        };
        Ok(Self { algorithm, keys })
    }

    /// What the keys are for.
    #[must_use]
    pub const fn algorithm(&self) -> SkAlgorithm {
        self.algorithm
    }

    /// Bytes of the body of an encrypted payload around `plain` bytes of payloads.
    fn body_bytes(&self, plain: usize) -> usize {
        let (block, icv) = match &self.keys {
            Keys::Gcm { .. } => (1, GCM_ICV_BYTES),
            Keys::Cbc(cbc) => (BLOCK_BYTES, cbc.icv_bytes),
        };
        let padded = plain.saturating_add(1).next_multiple_of(block);
        self.algorithm
            .iv_bytes()
            .saturating_add(padded)
            .saturating_add(icv)
    }

    /// Appends IV, ciphertext and ICV to the prefix that they authenticate.
    fn seal(&self, prefix: Vec<u8>, iv: &[u8], plain: &[u8]) -> Result<Vec<u8>, CryptoError> {
        if iv.len() != self.algorithm.iv_bytes() {
            return Err(CryptoError::IvLength);
        }
        match &self.keys {
            Keys::Gcm { key, salt } => seal_gcm(key, *salt, prefix, iv, plain),
            Keys::Cbc(cbc) => cbc.seal(prefix, iv, plain),
        }
    }

    /// Checks and decrypts the body. The result still has its padding.
    fn open(&self, prefix: &[u8], body: &[u8]) -> Result<Secret, OpenError> {
        match &self.keys {
            Keys::Gcm { key, salt } => open_gcm(key, *salt, prefix, body),
            Keys::Cbc(cbc) => cbc.open(prefix, body),
        }
    }
}

fn gcm(algorithm: SkAlgorithm, sk_e: &[u8]) -> Result<Keys, CryptoError> {
    let kind = match algorithm.key_bits {
        128 => &aead::AES_128_GCM,
        192 => &aead::AES_192_GCM,
        256 => &aead::AES_256_GCM,
        _ => return Err(CryptoError::Unsupported),
    };
    let (key, salt) = sk_e.split_last_chunk().ok_or(CryptoError::KeyLength)?;
    let key = UnboundKey::new(kind, key).map_err(|_| CryptoError::Library)?;
    Ok(Keys::Gcm {
        key: LessSafeKey::new(key),
        salt: *salt,
    })
}

/// Salt and IV (RFC 5282 4).
fn gcm_nonce(salt: [u8; GCM_SALT_BYTES], iv: &[u8]) -> Option<Nonce> {
    let mut nonce = [0; 12];
    let (head, tail) = nonce.split_at_mut_checked(GCM_SALT_BYTES)?;
    head.copy_from_slice(&salt);
    tail.copy_from_slice(<&[u8; GCM_IV_BYTES]>::try_from(iv).ok()?);
    Some(Nonce::assume_unique_for_key(nonce))
}

fn seal_gcm(
    key: &LessSafeKey,
    salt: [u8; GCM_SALT_BYTES],
    prefix: Vec<u8>,
    iv: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let nonce = gcm_nonce(salt, iv).ok_or(CryptoError::IvLength)?;
    // Pad Length 0 (RFC 5282 3).
    let mut inner = [plain, &[0]].concat();
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(&prefix), &mut inner)
        .map_err(|_| CryptoError::Library)?;
    let mut out = prefix;
    out.extend_from_slice(iv);
    out.extend_from_slice(&inner);
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

fn open_gcm(
    key: &LessSafeKey,
    salt: [u8; GCM_SALT_BYTES],
    prefix: &[u8],
    body: &[u8],
) -> Result<Secret, OpenError> {
    let (iv, sealed) = body
        .split_at_checked(GCM_IV_BYTES)
        .ok_or(OpenError::Length)?;
    let plain_bytes = sealed
        .len()
        .checked_sub(GCM_ICV_BYTES)
        .ok_or(OpenError::Length)?;
    let nonce = gcm_nonce(salt, iv).ok_or(OpenError::Length)?;
    let mut inner = Zeroizing::new(sealed.to_vec());
    key.open_in_place(nonce, Aad::from(prefix), &mut inner)
        .map_err(|_| OpenError::Integrity)?;
    inner.truncate(plain_bytes);
    Ok(inner)
}

impl Cbc {
    fn new(algorithm: SkAlgorithm, sk_e: &[u8], sk_a: &[u8]) -> Result<Self, CryptoError> {
        let kind = match algorithm.key_bits {
            128 => &cipher::AES_128,
            192 => &cipher::AES_192,
            256 => &cipher::AES_256,
            _ => return Err(CryptoError::Unsupported),
        };
        let (mac, icv_bytes) = match algorithm.integ {
            IntegId::HMAC_SHA2_256_128 => (hmac::HMAC_SHA256, 16),
            IntegId::HMAC_SHA2_384_192 => (hmac::HMAC_SHA384, 24),
            IntegId::HMAC_SHA2_512_256 => (hmac::HMAC_SHA512, 32),
            _ => return Err(CryptoError::Unsupported),
        };
        let key = || UnboundCipherKey::new(kind, sk_e).map_err(|_| CryptoError::Library);
        Ok(Self {
            encrypt: EncryptingKey::cbc(key()?).map_err(|_| CryptoError::Library)?,
            decrypt: DecryptingKey::cbc(key()?).map_err(|_| CryptoError::Library)?,
            integ: hmac::Key::new(mac, sk_a),
            icv_bytes,
        })
    }

    fn seal(&self, prefix: Vec<u8>, iv: &[u8], plain: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let iv: &[u8; BLOCK_BYTES] = iv.try_into().map_err(|_| CryptoError::IvLength)?;
        let mut inner = plain.to_vec();
        let padded = plain.len().saturating_add(1).next_multiple_of(BLOCK_BYTES);
        let padding = padded.saturating_sub(plain.len()).saturating_sub(1);
        inner.resize(padded, 0);
        if let Some(last) = inner.last_mut() {
            *last = u8::try_from(padding).map_err(|_| CryptoError::Library)?;
        }
        self.encrypt
            .less_safe_encrypt(&mut inner, EncryptionContext::Iv128(iv.into()))
            .map_err(|_| CryptoError::Library)?;
        let mut out = prefix;
        out.extend_from_slice(iv);
        out.extend_from_slice(&inner);
        let icv = hmac::sign(&self.integ, &out);
        out.extend_from_slice(
            icv.as_ref()
                .get(..self.icv_bytes)
                .ok_or(CryptoError::Library)?,
        );
        Ok(out)
    }

    fn open(&self, prefix: &[u8], body: &[u8]) -> Result<Secret, OpenError> {
        let covered = body
            .len()
            .checked_sub(self.icv_bytes)
            .ok_or(OpenError::Length)?;
        let (covered, icv) = body.split_at_checked(covered).ok_or(OpenError::Length)?;
        let (iv, sealed) = covered
            .split_first_chunk::<BLOCK_BYTES>()
            .ok_or(OpenError::Length)?;
        if sealed.is_empty() || sealed.len() % BLOCK_BYTES != 0 {
            return Err(OpenError::Length);
        }
        let mut context = hmac::Context::with_key(&self.integ);
        context.update(prefix);
        context.update(covered);
        let expected = context.sign();
        let expected = expected.as_ref().get(..self.icv_bytes).unwrap_or_default();
        if !equal(expected, icv) {
            return Err(OpenError::Integrity);
        }
        let mut inner = Zeroizing::new(sealed.to_vec());
        self.decrypt
            .decrypt(&mut inner, DecryptionContext::Iv128(iv.into()))
            .map_err(|_| OpenError::Length)?;
        Ok(inner)
    }
}

impl Message {
    /// Encrypts all payloads into one encrypted payload. See `SkAlgorithm::iv_bytes` for what the
    /// IV has to be.
    ///
    /// # Errors
    /// `WireError` if a payload cannot be encoded or the message gets too long; `Value("IV")` if
    /// the IV does not fit the cipher.
    pub fn seal(&self, cipher: &SkCipher, iv: &[u8]) -> Result<Vec<u8>, WireError> {
        let plain = Zeroizing::new(self.encode_payloads()?);
        let prefix = self.encode_sk_prefix(cipher.body_bytes(plain.len()))?;
        cipher
            .seal(prefix, iv, &plain)
            .map_err(|_| WireError::Value("IV"))
    }
}

impl Encrypted<'_> {
    /// Checks the integrity, decrypts, and reads the payloads.
    ///
    /// # Errors
    /// `OpenError`: only `Padding` and `Wire` come from someone who has the keys.
    pub fn open(&self, cipher: &SkCipher) -> Result<Message, OpenError> {
        let (prefix, body) = self.split();
        let inner = cipher.open(prefix, body)?;
        let (pad_length, rest) = inner.split_last().ok_or(OpenError::Padding)?;
        let plain = rest
            .len()
            .checked_sub(usize::from(*pad_length))
            .ok_or(OpenError::Padding)?;
        let plain = rest.get(..plain).ok_or(OpenError::Padding)?;
        self.decode(plain).map_err(OpenError::Wire)
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::hex;
    use crate::wire::{ExchangeType, Flags, Header, Notify, NotifyType, Parsed, Payload, VERSION};

    fn algorithm(encr: EncrId, key_bits: u16, integ: IntegId) -> SkAlgorithm {
        SkAlgorithm {
            encr,
            key_bits,
            integ,
        }
    }

    /// Everything that is built.
    fn built() -> Vec<SkAlgorithm> {
        let integs = [
            IntegId::HMAC_SHA2_256_128,
            IntegId::HMAC_SHA2_384_192,
            IntegId::HMAC_SHA2_512_256,
        ];
        let cbc = |bits| integs.map(|integ| algorithm(EncrId::AES_CBC, bits, integ));
        let gcm = |bits| algorithm(EncrId::AES_GCM_16, bits, IntegId::NONE);
        let bits = [128, 192, 256];
        bits.into_iter()
            .flat_map(cbc)
            .chain(bits.map(gcm))
            .collect()
    }

    fn cipher(algorithm: SkAlgorithm, seed: u8) -> SkCipher {
        let sk_e = vec![seed; algorithm.encr_key_bytes()];
        let sk_a = vec![seed ^ 0xff; algorithm.integ_key_bytes()];
        SkCipher::new(algorithm, &sk_e, &sk_a).unwrap()
    }

    fn message(data_bytes: usize) -> Message {
        let header = Header {
            spi_i: 1,
            spi_r: 2,
            version: VERSION,
            exchange: ExchangeType::INFORMATIONAL,
            flags: Flags::INITIATOR,
            message_id: 3,
        };
        let notify = Notify::new(NotifyType::COOKIE2, vec![0xab; data_bytes]);
        Message {
            header,
            payloads: vec![Payload::Notify(notify)],
        }
    }

    fn open(bytes: &[u8], cipher: &SkCipher) -> Result<Message, OpenError> {
        match Message::parse(bytes).map_err(OpenError::Wire)? {
            Parsed::Encrypted(encrypted) => encrypted.open(cipher),
            Parsed::Plain(message) => Ok(message),
        }
    }

    #[test]
    fn every_algorithm_opens_what_it_sealed_and_nothing_else() {
        for algorithm in built() {
            let (good, bad) = (cipher(algorithm, 1), cipher(algorithm, 2));
            for data_bytes in 0..40 {
                let message = message(data_bytes);
                let iv = vec![9; algorithm.iv_bytes()];
                let bytes = message.seal(&good, &iv).unwrap();
                assert_eq!(open(&bytes, &good).as_ref(), Ok(&message), "{algorithm:?}");
                assert_eq!(
                    open(&bytes, &bad),
                    Err(OpenError::Integrity),
                    "{algorithm:?}"
                );
            }
            // A message without payloads (RFC 7296 1.4.1: a liveness check) is sealed too.
            let empty = Message {
                payloads: vec![],
                ..message(0)
            };
            let bytes = empty.seal(&good, &vec![0; algorithm.iv_bytes()]).unwrap();
            assert_eq!(open(&bytes, &good), Ok(empty));
        }
    }

    #[test]
    fn sp800_38a_cbc_vectors() {
        // NIST SP 800-38A F.2.1, F.2.3 and F.2.5, first two blocks; the padding is ours, so they
        // are compared block by block.
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let iv = hex("000102030405060708090a0b0c0d0e0f");
        for (key, expected) in [
            (
                "2b7e151628aed2a6abf7158809cf4f3c",
                "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2",
            ),
            (
                "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
                "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a",
            ),
            (
                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
            ),
        ] {
            let bits = u16::try_from(key.len() * 4).unwrap();
            let algorithm = algorithm(EncrId::AES_CBC, bits, IntegId::HMAC_SHA2_256_128);
            let cipher = SkCipher::new(algorithm, &hex(key), &[0; 32]).unwrap();
            let sealed = cipher.seal(b"prefix".to_vec(), &iv, &plain).unwrap();
            assert_eq!(sealed[22..54], hex(expected));
            let opened = cipher.open(b"prefix", &sealed[6..]).unwrap();
            assert_eq!(opened[..32], plain);
            assert_eq!(opened[32..], [&[0; 15][..], &[15]].concat());
        }
    }

    #[test]
    fn gcm_specification_vectors() {
        // McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test cases 4, 10
        // and 16, up to the first byte of our padding: GCM's ciphertext is a stream.
        let plain = hex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        for (key, expected) in [
            (
                "feffe9928665731c6d6a8f9467308308",
                "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
                 21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
            ),
            (
                "feffe9928665731c6d6a8f9467308308feffe9928665731c",
                "3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c
                 7d773d00c144c525ac619d18c84a3f4718e2448b2fe324d9ccda2710",
            ),
            (
                "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
                 8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            ),
        ] {
            let bits = u16::try_from(key.len() * 4).unwrap();
            let algorithm = algorithm(EncrId::AES_GCM_16, bits, IntegId::NONE);
            // The IV cafebabefacedbaddecaf888 is salt and IV here.
            let sk_e = [hex(key), hex("cafebabe")].concat();
            let cipher = SkCipher::new(algorithm, &sk_e, &[]).unwrap();
            let iv = hex("facedbaddecaf888");
            let sealed = cipher.seal(b"aad".to_vec(), &iv, &plain).unwrap();
            assert_eq!(sealed[11..71], hex(expected));
            assert_eq!(sealed.len(), 3 + 8 + 60 + 1 + 16);
            assert_eq!(cipher.open(b"aad", &sealed[3..]).unwrap()[..60], plain);
            assert_eq!(
                cipher.open(b"aae", &sealed[3..]).unwrap_err(),
                OpenError::Integrity
            );
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_decrypted() {
        for algorithm in built() {
            let cipher = cipher(algorithm, 1);
            let iv = vec![3; algorithm.iv_bytes()];
            let sealed = cipher.seal(vec![], &iv, b"content").unwrap();
            for bytes in 0..sealed.len() {
                assert!(
                    cipher.open(&[], &sealed[..bytes]).is_err(),
                    "{algorithm:?}, {bytes}"
                );
            }
            assert_eq!(cipher.open(&[], &[]).unwrap_err(), OpenError::Length);
            let body_bytes = cipher.body_bytes(7);
            assert_eq!(body_bytes, sealed.len());
        }
    }

    #[test]
    fn padding_longer_than_the_content_is_refused() {
        for algorithm in built() {
            let cipher = cipher(algorithm, 1);
            let iv = vec![3; algorithm.iv_bytes()];
            // An empty body whose pad length byte says 200.
            let mut plain = vec![0; 15];
            plain.push(200);
            let prefix = message(0).encode_sk_prefix(cipher.body_bytes(16)).unwrap();
            let sealed = cipher.seal(prefix, &iv, &plain).unwrap();
            let result = open(&sealed, &cipher);
            // Our own padding follows it, so what is left must be no payload at least.
            assert!(matches!(result, Err(OpenError::Wire(_))), "{result:?}");
        }
        let gcm = algorithm(EncrId::AES_GCM_16, 128, IntegId::NONE);
        let cipher = cipher(gcm, 1);
        let Keys::Gcm { key, salt } = &cipher.keys else {
            panic!("is AES-GCM")
        };
        let mut inner = vec![0, 0, 0, 4, 5];
        let prefix = message(0).encode_sk_prefix(8 + 5 + 16).unwrap();
        let nonce = gcm_nonce(*salt, &[0; 8]).unwrap();
        key.seal_in_place_append_tag(nonce, Aad::from(&prefix), &mut inner)
            .unwrap();
        let bytes = [prefix, vec![0; 8], inner].concat();
        assert_eq!(open(&bytes, &cipher), Err(OpenError::Padding));
    }

    #[test]
    fn keys_and_ivs_of_other_lengths_are_refused() {
        for algorithm in built() {
            let (e, a) = (algorithm.encr_key_bytes(), algorithm.integ_key_bytes());
            for (e, a) in [(e - 1, a), (e + 1, a), (e, a + 1), (0, a)] {
                let error = SkCipher::new(algorithm, &vec![0; e], &vec![0; a]).unwrap_err();
                assert_eq!(error, CryptoError::KeyLength);
            }
            let cipher = cipher(algorithm, 1);
            for bytes in [0, algorithm.iv_bytes() - 1, algorithm.iv_bytes() + 1] {
                let error = message(1).seal(&cipher, &vec![0; bytes]).unwrap_err();
                assert_eq!(error, WireError::Value("IV"));
            }
        }
        for (encr, bits, integ) in [
            (EncrId::AES_GCM_16, 64, IntegId::NONE),
            (EncrId::AES_GCM_16, 128, IntegId::HMAC_SHA2_256_128),
            (EncrId::AES_CBC, 128, IntegId::NONE),
            (EncrId::AES_CBC, 64, IntegId::HMAC_SHA2_256_128),
            (EncrId::CHACHA20_POLY1305, 256, IntegId::NONE),
        ] {
            let algorithm = algorithm(encr, bits, integ);
            let (e, a) = (algorithm.encr_key_bytes(), algorithm.integ_key_bytes());
            let error = SkCipher::new(algorithm, &vec![0; e], &vec![0; a]).unwrap_err();
            assert_eq!(error, CryptoError::Unsupported, "{algorithm:?}");
        }
    }

    proptest! {
        #[test]
        fn any_content_survives_the_key_holder(
            plain in proptest::collection::vec(any::<u8>(), 0..200),
            first in 33_u8..55,
            which in 0..built().len(),
        ) {
            // Someone with the keys may send anything: no panic, and what parses is stable.
            let cipher = cipher(built()[which], 7);
            let iv = vec![1; cipher.algorithm().iv_bytes()];
            let mut prefix = message(0).encode_sk_prefix(cipher.body_bytes(plain.len())).unwrap();
            prefix[28] = first;
            let bytes = cipher.seal(prefix, &iv, &plain).unwrap();
            if let Ok(message) = open(&bytes, &cipher) {
                let again = message.seal(&cipher, &iv).unwrap();
                prop_assert_eq!(open(&again, &cipher), Ok(message));
            }
        }

        #[test]
        fn random_bodies_never_open(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            which in 0..built().len(),
        ) {
            let cipher = cipher(built()[which], 7);
            let bytes = [message(0).encode_sk_prefix(body.len()).unwrap(), body].concat();
            prop_assert!(open(&bytes, &cipher).is_err());
        }
    }
}
