//! Key contexts: what is computed from a key once and then only read.

use core::fmt;

use zeroize::Zeroize;

use crate::portable;

/// Length of the salt at the tail of AES-GCM keying material (RFC 4106 8.1).
pub const SALT_BYTES: usize = 4;

/// The expanded key of one SA. Immutable, shared between threads by reference, cleared on drop.
pub struct KeyContext {
    salt: [u8; SALT_BYTES],
    icv_len: usize,
    pub(crate) schedule: Schedule,
}

/// A key in the layout that its tier wants.
pub(crate) enum Schedule {
    Portable(Box<dyn portable::Gcm>),
}

impl KeyContext {
    /// Sets up AES-GCM: `key` of 16, 24 or 32 bytes, salt, ICV of 16, 12 or 8 bytes (RFC 4106 6).
    ///
    /// The caller's copy of the key stays the caller's to wipe.
    ///
    /// # Errors
    /// [`KeyError`] for any other length.
    pub fn aes_gcm(key: &[u8], salt: [u8; SALT_BYTES], icv_len: usize) -> Result<Self, KeyError> {
        if !matches!(icv_len, 8 | 12 | 16) {
            return Err(KeyError::IcvLength(icv_len));
        }
        let gcm = portable::new(key, icv_len).ok_or(KeyError::KeyLength(key.len()))?;
        Ok(Self {
            salt,
            icv_len,
            schedule: Schedule::Portable(gcm),
        })
    }

    /// Sets up AES-GCM from IKE's keying material: the key with the salt behind it (RFC 4106 8.1).
    ///
    /// # Errors
    /// [`KeyError`] if it is not 20, 28 or 36 bytes long.
    pub fn aes_gcm_keymat(keymat: &[u8], icv_len: usize) -> Result<Self, KeyError> {
        let (key, salt) = keymat
            .split_last_chunk::<SALT_BYTES>()
            .ok_or(KeyError::KeyLength(keymat.len()))?;
        Self::aes_gcm(key, *salt, icv_len)
    }

    /// Length of the integrity check value in bytes.
    #[must_use]
    pub const fn icv_len(&self) -> usize {
        self.icv_len
    }

    /// The nonce: salt, then the explicit IV (RFC 4106 4).
    pub(crate) fn nonce(&self, iv: [u8; 8]) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..SALT_BYTES].copy_from_slice(&self.salt);
        nonce[SALT_BYTES..].copy_from_slice(&iv);
        nonce
    }
}

/// Round keys and powers of H clear themselves; the salt is cleared here.
impl Drop for KeyContext {
    fn drop(&mut self) {
        self.salt.zeroize();
    }
}

/// Shows no key material.
impl fmt::Debug for KeyContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyContext")
            .field("icv_len", &self.icv_len)
            .finish_non_exhaustive()
    }
}

/// Why a key was refused. Holds lengths only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// AES takes 16, 24 or 32 bytes (and keying material 4 more).
    KeyLength(usize),
    /// RFC 4106 knows ICVs of 8, 12 and 16 bytes.
    IcvLength(usize),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyLength(n) => {
                write!(
                    f,
                    "AES-GCM key of {n} bytes: needs 16, 24 or 32, and 4 more for the salt"
                )
            }
            Self::IcvLength(n) => write!(f, "AES-GCM ICV of {n} bytes: needs 8, 12 or 16"),
        }
    }
}

impl std::error::Error for KeyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_other_lengths() {
        for len in (0..80).filter(|n| ![16, 24, 32].contains(n)) {
            let error = KeyContext::aes_gcm(&vec![0; len], [0; 4], 16).err();
            assert_eq!(error, Some(KeyError::KeyLength(len)));
        }
        for len in (0..40).filter(|n| ![8, 12, 16].contains(n)) {
            let error = KeyContext::aes_gcm(&[0; 16], [0; 4], len).err();
            assert_eq!(error, Some(KeyError::IcvLength(len)));
        }
        assert!(KeyContext::aes_gcm_keymat(&[0; 3], 16).is_err());
        assert!(KeyContext::aes_gcm_keymat(&[0; 16], 16).is_err());
    }

    #[test]
    fn keymat_ends_with_the_salt() {
        let key = KeyContext::aes_gcm_keymat(&[&[1; 32][..], b"salt"].concat(), 16).unwrap();
        assert_eq!(&key.nonce([9; 8]), b"salt\x09\x09\x09\x09\x09\x09\x09\x09");
    }

    #[test]
    fn debug_shows_no_key() {
        let key = KeyContext::aes_gcm(&[0xab; 16], [0xcd; 4], 16).unwrap();
        assert_eq!(format!("{key:?}"), "KeyContext { icv_len: 16, .. }");
    }

    #[test]
    fn can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<KeyContext>();
    }
}
