//! Encrypted payloads around any plaintext, right or wrong, by `aes-gcm` itself (RFC 5282).

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use fastrand::Rng;

use super::chain::{HEADER_BYTES, fix_length};
use crate::soak::packet::short;

const SK: u8 = 46;
const SALT_BYTES: usize = 4;

/// Key of one direction of an IKE SA with AES-256-GCM.
pub(super) struct Sealer {
    gcm: Aes256Gcm,
    salt: [u8; SALT_BYTES],
}

impl Sealer {
    /// `sk_e` is key and salt; `None` if it is not that of AES-256-GCM.
    pub(super) fn new(sk_e: &[u8]) -> Option<Self> {
        let (key, salt) = sk_e.split_last_chunk::<SALT_BYTES>()?;
        Some(Self {
            gcm: Aes256Gcm::new_from_slice(key).ok()?,
            salt: *salt,
        })
    }

    /// A message with this IKE header (next payload and length are filled in) and an encrypted
    /// payload around `plain`, a chain that begins with a payload of type `first`.
    pub(super) fn seal(
        &self,
        header: &[u8; HEADER_BYTES],
        first: u8,
        plain: &[u8],
        pad_length: u8,
        random: &mut Rng,
    ) -> Option<Vec<u8>> {
        let mut message = header.to_vec();
        message[16] = SK;
        let body_bytes = 8 + plain.len() + 1 + 16;
        message.extend([first, 0]);
        message.extend(short(4 + body_bytes).to_be_bytes());
        message.resize(message.len() + body_bytes, 0);
        fix_length(&mut message);
        message.truncate(HEADER_BYTES + 4);
        let mut nonce = [0; 12];
        nonce[..SALT_BYTES].copy_from_slice(&self.salt);
        random.fill(&mut nonce[SALT_BYTES..]);
        let padded = [plain, &[pad_length]].concat();
        let input = Payload {
            msg: &padded,
            aad: &message,
        };
        let sealed = self.gcm.encrypt(&nonce.into(), input).ok()?;
        message.extend(&nonce[SALT_BYTES..]);
        message.extend(sealed);
        Some(message)
    }

    /// The plaintext of a message with an encrypted payload, its first payload's type before it.
    pub(super) fn open(&self, message: &[u8]) -> Option<(u8, Vec<u8>)> {
        let (aad, body) = message.split_at_checked(HEADER_BYTES + 4)?;
        let (iv, sealed) = body.split_at_checked(8)?;
        let mut nonce = [0; 12];
        nonce[..SALT_BYTES].copy_from_slice(&self.salt);
        nonce[SALT_BYTES..].copy_from_slice(iv);
        let mut plain = self
            .gcm
            .decrypt(&nonce.into(), Payload { msg: sealed, aad })
            .ok()?;
        let padding = usize::from(plain.pop()?);
        plain.truncate(plain.len().checked_sub(padding)?);
        Some((aad[HEADER_BYTES], plain))
    }
}

#[cfg(test)]
mod tests {
    use ike::crypto::{SkAlgorithm, SkCipher};
    use ike::wire::{EncrId, IntegId, Message, Parsed};

    use super::*;

    /// INFORMATIONAL with a notify.
    #[test]
    fn the_ike_crate_opens_what_is_sealed_here() {
        let sk_e = [7; 36];
        let mut header = [9; HEADER_BYTES];
        header[17..20].copy_from_slice(&[0x20, 37, 8]);
        let notify = [0, 0, 0, 8, 0, 0, 0x40, 1];
        let sealer = Sealer::new(&sk_e).unwrap();
        let message = sealer
            .seal(&header, 41, &notify, 0, &mut Rng::with_seed(1))
            .unwrap();
        let algorithm = SkAlgorithm {
            encr: EncrId::AES_GCM_16,
            key_bits: 256,
            integ: IntegId::NONE,
        };
        let cipher = SkCipher::new(algorithm, &sk_e, &[]).unwrap();
        let Ok(Parsed::Encrypted(encrypted)) = Message::parse(&message) else {
            panic!("no SK")
        };
        assert_eq!(encrypted.open(&cipher).unwrap().payloads.len(), 1);
        assert_eq!(sealer.open(&message), Some((41, notify.to_vec())));
        assert_eq!(Sealer::new(&[8; 36]).unwrap().open(&message), None);
    }
}
