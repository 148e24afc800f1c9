//! Two blocks a vector: VAES, VPCLMULQDQ and AVX2.

use core::arch::asm;
use core::arch::x86_64::*;

use super::lanes::{Block, Lanes, REVERSE, Xmm};
use super::vector_ops;

/// Two blocks.
#[derive(Clone, Copy)]
pub(super) struct Ymm(__m256i);

/// 32 bytes of ones, then 32 of zeros: read at `32 - n`, a mask of the first `n` bytes.
#[repr(align(64))]
struct Masks([u8; 64]);
static MASKS: Masks = {
    let mut bytes = [0; 64];
    let mut at = 0;
    while at < 32 {
        bytes[at] = 0xff;
        at += 1;
    }
    Masks(bytes)
};

impl Ymm {
    #[inline(always)]
    fn high(self) -> Xmm {
        // SAFETY: a vector exists, so the CPU has its instructions.
        Xmm(unsafe { _mm256_extracti128_si256(self.0, 1) })
    }

    #[inline(always)]
    fn low(self) -> Xmm {
        // SAFETY: a vector exists, so the CPU has its instructions.
        Xmm(unsafe { _mm256_castsi256_si128(self.0) })
    }

    #[inline(always)]
    fn with_high(self, block: Xmm) -> Self {
        // SAFETY: a vector exists, so the CPU has its instructions.
        Self(unsafe { _mm256_inserti128_si256(self.0, block.0, 1) })
    }
}

impl Lanes for Ymm {
    const KARATSUBA: bool = true;
    const BLOCKS: usize = 2;
    const KEYS_HELD: usize = 0;

    vector_ops! {
        aes: _mm256_aesenc_epi128, _mm256_aesenclast_epi128;
        multiply: _mm256_clmulepi64_epi128;
        xor: _mm256_xor_si256;
        add_words: _mm256_add_epi32;
        swap_halves: _mm256_shuffle_epi32;
        load: _mm256_loadu_si256;
        zero: _mm256_setzero_si256;
    }

    #[inline(always)]
    unsafe fn splat(block: Xmm) -> Self {
        // SAFETY: the caller vouches for the CPU.
        Self(unsafe { _mm256_broadcastsi128_si256(block.0) })
    }

    #[inline(always)]
    unsafe fn broadcast(at: *const Block) -> Self {
        // SAFETY: the caller vouches for the bytes and the CPU.
        let block = unsafe { Xmm::load(at.cast()) };
        // SAFETY: the caller vouches for the CPU.
        unsafe { Self::splat(block) }
    }

    #[inline(always)]
    unsafe fn load_lanes(at: *const u8, from: usize, to: usize) -> Self {
        if from == 0 && to == 2 {
            // SAFETY: both lanes are wanted: the caller vouches for them and the CPU.
            return unsafe { Self::load(at) };
        }
        // SAFETY: the caller vouches for the CPU.
        let mut lanes = unsafe { Self::zero() };
        if from == 0 && to == 1 {
            // SAFETY: the caller vouches for lane 0.
            lanes = lanes.set_lane(0, unsafe { Xmm::load(at) });
        } else if from == 1 && to == 2 {
            // SAFETY: the caller vouches for lane 1.
            lanes = lanes.with_high(unsafe { Xmm::load(at.wrapping_add(16)) });
        }
        lanes
    }

    #[inline(always)]
    unsafe fn store_lanes(self, at: *mut u8, from: usize, to: usize) {
        if from == 0 && to == 2 {
            // SAFETY: both lanes are wanted: the caller vouches for them.
            unsafe { _mm256_storeu_si256(at.cast(), self.0) };
        } else if from == 0 && to == 1 {
            // SAFETY: the caller vouches for lane 0.
            unsafe { self.low().store(at) };
        } else if from == 1 && to == 2 {
            // SAFETY: the caller vouches for lane 1.
            unsafe { self.high().store(at.wrapping_add(16)) };
        }
    }

    #[inline(always)]
    fn lane(self, lane: usize) -> Xmm {
        if lane == 0 { self.low() } else { self.high() }
    }

    #[inline(always)]
    fn set_lane(self, lane: usize, block: Xmm) -> Self {
        match lane {
            // SAFETY: a vector exists, so the CPU has its instructions.
            0 => Self(unsafe { _mm256_inserti128_si256(self.0, block.0, 0) }),
            1 => self.with_high(block),
            _ => self,
        }
    }

    #[inline(always)]
    fn keep_bytes(self, bytes: usize) -> Self {
        let at = MASKS.0.as_ptr().wrapping_add(32 - bytes.min(32));
        // SAFETY: 32 bytes from 0..=32 on are within the 64 of the table.
        let mask = unsafe { _mm256_loadu_si256(at.cast()) };
        // SAFETY: a vector exists, so the CPU has its instructions.
        Self(unsafe { _mm256_and_si256(self.0, mask) })
    }

    #[inline(always)]
    fn swap_bytes(self) -> Self {
        // SAFETY: the constant has 16 bytes; a vector exists, so the CPU has its instructions.
        let reverse = unsafe { Self::broadcast(REVERSE.as_ptr().cast()) };
        // SAFETY: a vector exists, so the CPU has its instructions.
        Self(unsafe { _mm256_shuffle_epi8(self.0, reverse.0) })
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
    fn join_halves(self, high: Self) -> Self {
        self.with_high(high.low())
    }

    #[inline(always)]
    fn sum_each(group: [Self; 4], shared: [Self; 2]) -> Self {
        let [a, b, _, _] = group;
        // SAFETY: a vector exists, so the CPU has its instructions.
        let inner = Self(unsafe { _mm256_permute2x128_si256(a.0, b.0, 0x21) });
        // SAFETY: a vector exists, so the CPU has its instructions.
        let outer = Self(unsafe { _mm256_blend_epi32(a.0, b.0, 0xf0) });
        inner.xor(outer).xor(shared[0])
    }
}

#[inline]
#[target_feature(enable = "avx")]
fn pin(mut vector: __m256i) -> __m256i {
    // SAFETY: there is no instruction.
    unsafe {
        asm!("/* {} */", inout(ymm_reg) vector, options(nomem, nostack, preserves_flags));
    }
    vector
}
