//! Key contexts: what is computed from a key once and then only read.

use core::fmt;

use zeroize::Zeroize;

use crate::portable;
use crate::tier::{self, Tier};

/// Length of the salt at the tail of AES-GCM keying material (RFC 4106 8.1).
pub const SALT_BYTES: usize = 4;

/// Powers of H: how many blocks can be hashed before the sum has to be reduced.
pub(crate) const POWERS: usize = 40;

/// Round keys of AES-256 without that of round 0.
pub(crate) const ROUND_KEYS: usize = 14;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// The expanded key of one SA. Immutable, shared between threads by reference, cleared on drop.
///
/// A plain structure of 896 bytes, 14 cache lines, which can lie in a slab. What a packet needs of it
/// is contiguous: powers of H stand in falling order before the round keys, so a payload of `n` blocks
/// with AES-128 touches the lines from H^(n+2) to round 10. That is 5 lines for 64 bytes (4 for up to 32
/// bytes), and 12 or 13 for 1,420 bytes, of which no more than `POWERS` powers are used. AES-192 and
/// AES-256 take one line more. [`KeyContext::prefetch`] knows.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct KeyContext {
    /// H^40 to H^1: ten lines, H^4 to H^1 in the last of them.
    powers: [[u8; 16]; POWERS],
    /// For the portable tier.
    portable: Option<Box<portable::Key>>,
    salt: [u8; SALT_BYTES],
    tier: Tier,
    rounds: u8,
    icv_len: u8,
    /// Room up to the next 16 bytes.
    _pad: u8,
    /// Salt, zeros for the IV, counter 0: with the key of round 0 added.
    pub(crate) nonce_start: [u8; 16],
    /// Keys of rounds 1 and on.
    pub(crate) round_keys: [[u8; 16]; ROUND_KEYS],
}

const _: () = assert!(size_of::<KeyContext>() <= 14 * LINE_BYTES);
// Whatever the size of a pointer, round keys do not cross lines.
const _: () = assert!(core::mem::offset_of!(KeyContext, round_keys) % 16 == 0);

impl KeyContext {
    /// Sets up AES-GCM: `key` of 16, 24 or 32 bytes, salt, ICV of 16, 12 or 8 bytes (RFC 4106 6), for
    /// the tier in use.
    ///
    /// The caller's copy of the key stays the caller's to wipe.
    ///
    /// # Errors
    /// [`KeyError`] for any other length.
    pub fn aes_gcm(key: &[u8], salt: [u8; SALT_BYTES], icv_len: usize) -> Result<Self, KeyError> {
        Self::with_tier(tier::tier(), key, salt, icv_len)
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

    /// As [`KeyContext::aes_gcm`] but for `tier`, whatever the tier in use: for tests and benchmarks.
    ///
    /// # Errors
    /// [`KeyError`] for any other length, or if this CPU cannot run the tier.
    pub fn with_tier(
        tier: Tier,
        key: &[u8],
        salt: [u8; SALT_BYTES],
        icv_len: usize,
    ) -> Result<Self, KeyError> {
        let icv = match icv_len {
            8 => 8,
            12 => 12,
            16 => 16,
            _ => return Err(KeyError::IcvLength(icv_len)),
        };
        if !matches!(key.len(), 16 | 24 | 32) {
            return Err(KeyError::KeyLength(key.len()));
        }
        if !tier.available() {
            return Err(KeyError::Unavailable(tier));
        }
        let mut context = Self {
            powers: [[0; 16]; POWERS],
            portable: None,
            salt,
            tier,
            rounds: 0,
            icv_len: icv,
            _pad: 0,
            nonce_start: [0; 16],
            round_keys: [[0; 16]; ROUND_KEYS],
        };
        if tier == Tier::Portable {
            let key = portable::Key::new(key, icv_len).ok_or(KeyError::KeyLength(key.len()))?;
            context.portable = Some(Box::new(key));
        } else {
            context.expand(key);
        }
        Ok(context)
    }

    /// For the SIMD tiers.
    #[cfg(target_arch = "x86_64")]
    fn expand(&mut self, key: &[u8]) {
        // SAFETY: a SIMD tier is available, and each of them has what this one needs.
        let mut expanded = unsafe { crate::simd::expand(key) };
        self.powers = expanded.powers;
        self.rounds = expanded.rounds;
        self.round_keys = expanded.round_keys;
        self.nonce_start[..SALT_BYTES].copy_from_slice(&self.salt);
        for (byte, key) in self.nonce_start.iter_mut().zip(expanded.first) {
            *byte ^= key;
        }
        expanded.zeroize();
    }

    /// There is no SIMD tier, so none is available.
    #[cfg(not(target_arch = "x86_64"))]
    fn expand(&mut self, _key: &[u8]) {}

    /// Length of the integrity check value in bytes.
    #[must_use]
    #[inline]
    pub const fn icv_len(&self) -> usize {
        self.icv_len as usize
    }

    /// The tier that this key is for.
    #[must_use]
    #[inline]
    pub const fn tier(&self) -> Tier {
        self.tier
    }

    /// Brings what a packet with `payload_len` bytes needs into the nearest cache, without waiting. The
    /// last line of a longer key than AES-128's is left to the CPU's own prefetcher.
    #[inline]
    pub fn prefetch(&self, payload_len: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let start: *const i8 = core::ptr::from_ref(self).cast();
            for offset in Self::prefetched(payload_len) {
                // SAFETY: a prefetch of any address does nothing but prefetch.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset)) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = payload_len;
    }

    /// Offsets of the lines that a payload needs with AES-128: to look how many rounds there are would be
    /// to wait for the key.
    #[inline]
    fn prefetched(payload_len: usize) -> impl Iterator<Item = usize> {
        let powers = (payload_len.div_ceil(16) + 2).min(POWERS);
        let start = (POWERS - powers) * 16 / LINE_BYTES * LINE_BYTES;
        let end = core::mem::offset_of!(Self, round_keys) + 10 * 16;
        (start..end).step_by(LINE_BYTES)
    }

    /// Rounds of AES: 10, 12 or 14; 0 for the portable tier.
    #[inline]
    pub(crate) const fn rounds(&self) -> usize {
        self.rounds as usize
    }

    /// Where powers of H stand from `power` down.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) const fn powers_from(&self, power: usize) -> *const u8 {
        let start: *const u8 = core::ptr::from_ref(self).cast();
        start.wrapping_add(16 * (POWERS - power))
    }

    /// The key of the portable tier, if this is one.
    pub(crate) fn portable(&self) -> Option<&portable::Key> {
        self.portable.as_deref()
    }

    /// The nonce: salt, then the explicit IV (RFC 4106 4).
    pub(crate) fn nonce(&self, iv: [u8; 8]) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..SALT_BYTES].copy_from_slice(&self.salt);
        nonce[SALT_BYTES..].copy_from_slice(&iv);
        nonce
    }
}

/// The portable tier's key clears itself.
impl Drop for KeyContext {
    fn drop(&mut self) {
        self.powers.zeroize();
        self.salt.zeroize();
        self.nonce_start.zeroize();
        self.round_keys.zeroize();
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
    /// This CPU lacks the tier's instructions.
    Unavailable(Tier),
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
            Self::Unavailable(tier) => write!(f, "crypto tier {tier} does not run on this CPU"),
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

    /// Every byte that AES-128 reads lies in a line that is prefetched, and none is for nothing.
    #[test]
    #[cfg_attr(miri, ignore = "arithmetic, and hours")]
    fn prefetch_covers_what_a_packet_needs() {
        use core::mem::offset_of;
        for len in 0..3000_usize {
            let first_power = (len.div_ceil(16) + 2).min(POWERS);
            let powers = (POWERS - first_power) * 16..POWERS * 16;
            let start = offset_of!(KeyContext, nonce_start);
            let keys = offset_of!(KeyContext, round_keys);
            let small = [
                offset_of!(KeyContext, tier),
                offset_of!(KeyContext, rounds),
                offset_of!(KeyContext, icv_len),
            ];
            let mut lines: Vec<usize> = powers
                .chain(small)
                .chain(start..start + 16)
                .chain(keys..keys + 10 * 16)
                .map(|byte| byte / LINE_BYTES * LINE_BYTES)
                .collect();
            lines.sort_unstable();
            lines.dedup();
            let prefetched: Vec<usize> = KeyContext::prefetched(len).collect();
            assert_eq!(prefetched, lines, "{len} bytes");
        }
    }

    #[test]
    fn can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<KeyContext>();
    }
}
