//! One block a vector: AES-NI, PCLMULQDQ and SSE 4.1.

use core::arch::asm;
use core::arch::x86_64::*;

use super::lanes::{Block, Lanes, REVERSE};
use super::vector_ops;

/// One block.
#[derive(Clone, Copy)]
pub(super) struct Xmm(pub(super) __m128i);

/// 16 bytes of ones, then 16 of zeros: read at `16 - n`, a mask of the first `n` bytes.
#[repr(align(32))]
struct Masks([u8; 32]);
static MASKS: Masks = {
    let mut bytes = [0; 32];
    let mut at = 0;
    while at < 16 {
        bytes[at] = 0xff;
        at += 1;
    }
    Masks(bytes)
};

impl Xmm {
    /// Ones in the first `bytes` bytes, up to 16.
    #[inline(always)]
    pub(super) fn mask(self, bytes: usize) -> Self {
        let at = MASKS.0.as_ptr().wrapping_add(16 - bytes.min(16));
        // SAFETY: 16 bytes from 0..=16 on are within the 32 of the table.
        Self(unsafe { _mm_loadu_si128(at.cast()) })
    }

    /// Bitwise and.
    #[inline(always)]
    pub(super) fn and(self, other: Self) -> Self {
        // SAFETY: a vector exists, so the CPU has its instructions.
        Self(unsafe { _mm_and_si128(self.0, other.0) })
    }

    /// Whether all bits are zero.
    #[inline(always)]
    pub(super) fn is_zero(self) -> bool {
        // SAFETY: a vector exists, so the CPU has its instructions.
        let zero = unsafe { _mm_testz_si128(self.0, self.0) };
        zero == 1
    }

    /// `high` and `low` as one block, `low` first in memory.
    ///
    /// # Safety
    /// As for [`Lanes::zero`].
    #[inline(always)]
    pub(super) unsafe fn from_halves(high: u64, low: u64) -> Self {
        // SAFETY: the caller vouches for the CPU.
        Self(unsafe { _mm_set_epi64x(high.cast_signed(), low.cast_signed()) })
    }

    /// Four zero bytes, then the first twelve.
    #[inline(always)]
    pub(super) fn behind_salt(self) -> Self {
        // SAFETY: a vector exists, so the CPU has its instructions.
        Self(unsafe { _mm_slli_si128::<4>(self.0) })
    }

    /// Writes the block.
    ///
    /// # Safety
    /// 16 bytes at `at` must be writable.
    #[inline(always)]
    pub(super) unsafe fn store(self, at: *mut u8) {
        // SAFETY: the caller vouches for the bytes.
        unsafe { _mm_storeu_si128(at.cast(), self.0) };
    }
}

impl Lanes for Xmm {
    const KARATSUBA: bool = true;
    const BLOCKS: usize = 1;
    const KEYS_HELD: usize = 0;

    vector_ops! {
        aes: _mm_aesenc_si128, _mm_aesenclast_si128;
        multiply: _mm_clmulepi64_si128;
        xor: _mm_xor_si128;
        add_words: _mm_add_epi32;
        swap_halves: _mm_shuffle_epi32;
        load: _mm_loadu_si128;
        zero: _mm_setzero_si128;
    }

    #[inline(always)]
    unsafe fn splat(block: Xmm) -> Self {
        block
    }

    #[inline(always)]
    unsafe fn broadcast(at: *const Block) -> Self {
        // SAFETY: the caller vouches for the bytes and the CPU.
        Self(unsafe { _mm_loadu_si128(at.cast()) })
    }

    #[inline(always)]
    unsafe fn load_lanes(at: *const u8, from: usize, to: usize) -> Self {
        if from < to {
            // SAFETY: the caller vouches for the bytes and the CPU.
            unsafe { Self::load(at) }
        } else {
            // SAFETY: the caller vouches for the CPU.
            unsafe { Self::zero() }
        }
    }

    #[inline(always)]
    unsafe fn store_lanes(self, at: *mut u8, from: usize, to: usize) {
        if from < to {
            // SAFETY: the caller vouches for the bytes.
            unsafe { self.store(at) };
        }
    }

    #[inline(always)]
    fn lane(self, _lane: usize) -> Xmm {
        self
    }

    #[inline(always)]
    fn set_lane(self, lane: usize, block: Xmm) -> Self {
        if lane == 0 { block } else { self }
    }

    #[inline(always)]
    fn keep_bytes(self, bytes: usize) -> Self {
        self.and(self.mask(bytes))
    }

    #[inline(always)]
    fn swap_bytes(self) -> Self {
        // SAFETY: the constant has 16 bytes; a vector exists, so the CPU has its instructions.
        let reverse = unsafe { Self::load(REVERSE.as_ptr().cast()) };
        // SAFETY: a vector exists, so the CPU has its instructions.
        Self(unsafe { _mm_shuffle_epi8(self.0, reverse.0) })
    }

    #[inline(always)]
    fn aes_round_half(self, key: Self) -> Self {
        self.aes_round(key)
    }

    #[inline(always)]
    fn pin(self) -> Self {
        // SAFETY: a vector exists, so the CPU has its instructions.
        Self(unsafe { pin(self.0) })
    }

    #[inline(always)]
    fn join_halves(self, _high: Self) -> Self {
        self
    }

    #[inline(always)]
    fn sum_each(group: [Self; 4], _shared: [Self; 2]) -> Self {
        group[0]
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn pin(mut vector: __m128i) -> __m128i {
    // SAFETY: there is no instruction.
    unsafe {
        asm!("/* {} */", inout(xmm_reg) vector, options(nomem, nostack, preserves_flags));
    }
    vector
}
