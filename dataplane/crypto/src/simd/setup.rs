//! Key expansion (FIPS 197 5.2) and powers of H, once for each key.

use core::arch::x86_64::*;

use zeroize::Zeroize;

use super::ghash::multiply;
use super::lanes::{Block, Lanes, Xmm};
use crate::key::{POWERS, ROUND_KEYS};

/// What the kernels need of a key.
#[derive(Zeroize)]
pub(crate) struct Expanded {
    /// H to the power of `POWERS` down to 1, each shifted as `ghash` wants it.
    pub(crate) powers: [Block; POWERS],
    /// The key of round 0, which goes into the nonce.
    pub(crate) first: Block,
    /// Those of rounds 1 and on; unused ones are zero.
    pub(crate) round_keys: [Block; ROUND_KEYS],
    /// How many of them are used.
    pub(crate) rounds: u8,
}

/// Expands a key of 16, 24 or 32 bytes.
///
/// # Safety
/// The CPU must have AES-NI, PCLMULQDQ and SSE 4.1.
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
pub(crate) unsafe fn expand(key: &[u8]) -> Expanded {
    let words_of_key = key.len() / 4;
    let rounds = words_of_key + 6;
    let mut words = [0_u32; 4 * (ROUND_KEYS + 1)];
    for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let mut constant = 1;
    for i in words_of_key..4 * (rounds + 1) {
        let mut word = words[i - 1];
        if i % words_of_key == 0 {
            word = substitute(word).rotate_right(8) ^ constant;
            constant = (constant << 1) ^ (0x11b * (constant >> 7));
        } else if words_of_key > 6 && i % words_of_key == 4 {
            word = substitute(word);
        }
        words[i] = words[i - words_of_key] ^ word;
    }
    let mut keys = [[0; 16]; ROUND_KEYS + 1];
    for (key, words) in keys.iter_mut().zip(words.as_chunks::<4>().0) {
        for (bytes, word) in key.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
    }
    let [first, round_keys @ ..] = keys;
    words.zeroize();
    Expanded {
        powers: powers(&keys[..=rounds]),
        first,
        round_keys,
        rounds: rounds as u8,
    }
}

/// S-box on each byte, in constant time.
#[target_feature(enable = "aes")]
fn substitute(word: u32) -> u32 {
    let words = _mm_set1_epi32(word.cast_signed());
    _mm_cvtsi128_si32(_mm_aeskeygenassist_si128(words, 0)).cast_unsigned()
}

/// Powers of H, which is the encryption of zero (SP 800-38D 6.4, 7.1).
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
fn powers(keys: &[Block]) -> [Block; POWERS] {
    // SAFETY: a block has 16 bytes; this function has the features.
    let load = |block: &Block| unsafe { Xmm::broadcast(block) };
    let mut state = load(&keys[0]);
    for (round, key) in keys.iter().enumerate().skip(1) {
        let key = load(key);
        state = if round + 1 < keys.len() {
            state.aes_round(key)
        } else {
            state.aes_last(key)
        };
    }
    let mut bytes = [0; 16];
    // SAFETY: a block has 16 bytes.
    unsafe { state.store(bytes.as_mut_ptr()) };
    // Times x: the shift that `ghash` wants, with the polynomial if a bit falls out.
    let h = u128::from_be_bytes(bytes);
    let h = (h << 1) ^ ((h >> 127) * ((0xc2 << 120) | 1));
    let h = load(&h.to_le_bytes());
    let mut power = h;
    let mut powers = [[0; 16]; POWERS];
    for block in powers.iter_mut().rev() {
        // SAFETY: a block has 16 bytes.
        unsafe { power.store(block.as_mut_ptr()) };
        power = multiply(power, h);
    }
    powers
}
