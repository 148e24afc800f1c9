//! Four blocks a vector: VAES, VPCLMULQDQ and AVX-512 with its masks.

use core::arch::asm;
use core::arch::x86_64::*;

use super::lanes::{Block, Lanes, REVERSE, Xmm};
use super::vector_ops;

/// Four blocks. Which way of multiplying is cheaper hangs on the CPU.
#[derive(Clone, Copy)]
pub(super) struct Zmm<const KARATSUBA: bool>(__m512i);

/// The 64-bit words of lanes `from..to`.
#[inline(always)]
fn words(from: usize, to: usize) -> u8 {
    ((1_u16 << (2 * to)) - (1 << (2 * from))) as u8
}

impl<const KARATSUBA: bool> Lanes for Zmm<KARATSUBA> {
    const KARATSUBA: bool = KARATSUBA;
    const BLOCKS: usize = 4;
    const KEYS_HELD: usize = 9;

    vector_ops! {
        aes: _mm512_aesenc_epi128, _mm512_aesenclast_epi128;
        multiply: _mm512_clmulepi64_epi128;
        xor: _mm512_xor_si512;
        add_words: _mm512_add_epi32;
        swap_halves: _mm512_shuffle_epi32;
        load: _mm512_loadu_si512;
        zero: _mm512_setzero_si512;
    }

    #[inline(always)]
    unsafe fn splat(block: Xmm) -> Self {
        // SAFETY: the caller vouches for the CPU.
        Self(unsafe { _mm512_broadcast_i32x4(block.0) })
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
        // SAFETY: the caller vouches for these lanes and the CPU; what is masked is not touched.
        Self(unsafe { _mm512_maskz_loadu_epi64(words(from, to), at.cast()) })
    }

    #[inline(always)]
    unsafe fn store_lanes(self, at: *mut u8, from: usize, to: usize) {
        // SAFETY: the caller vouches for these lanes; what is masked is not touched.
        unsafe { _mm512_mask_storeu_epi64(at.cast(), words(from, to), self.0) };
    }

    #[inline(always)]
    fn lane(self, lane: usize) -> Xmm {
        // SAFETY (of all four): a vector exists, so the CPU has its instructions.
        Xmm(match lane {
            // SAFETY: as above.
            0 => unsafe { _mm512_castsi512_si128(self.0) },
            // SAFETY: as above.
            1 => unsafe { _mm512_extracti32x4_epi32(self.0, 1) },
            // SAFETY: as above.
            2 => unsafe { _mm512_extracti32x4_epi32(self.0, 2) },
            // SAFETY: as above.
            _ => unsafe { _mm512_extracti32x4_epi32(self.0, 3) },
        })
    }

    #[inline(always)]
    fn set_lane(self, lane: usize, block: Xmm) -> Self {
        let lane = if lane < 4 { 0xf << (4 * lane) } else { 0 };
        // SAFETY: a vector exists, so the CPU has its instructions.
        Self(unsafe { _mm512_mask_broadcast_i32x4(self.0, lane, block.0) })
    }

    #[inline(always)]
    fn keep_bytes(self, bytes: usize) -> Self {
        // SAFETY: a vector exists, so the CPU has its instructions.
        let mask = unsafe { _bzhi_u64(u64::MAX, bytes as u32) };
        // SAFETY: as above.
        Self(unsafe { _mm512_maskz_mov_epi8(mask, self.0) })
    }

    #[inline(always)]
    fn swap_bytes(self) -> Self {
        // SAFETY: the constant has 16 bytes; a vector exists, so the CPU has its instructions.
        let reverse = unsafe { Self::broadcast(REVERSE.as_ptr().cast()) };
        // SAFETY: a vector exists, so the CPU has its instructions.
        Self(unsafe { _mm512_shuffle_epi8(self.0, reverse.0) })
    }

    /// A round of a zmm takes a cycle, that of a ymm half of one.
    #[inline(always)]
    fn aes_round_half(self, key: Self) -> Self {
        // SAFETY: a vector exists, so the CPU has its instructions.
        let low = unsafe { _mm512_castsi512_si256(self.0) };
        // SAFETY: as above.
        let key = unsafe { _mm512_castsi512_si256(key.0) };
        // SAFETY: as above.
        let low = unsafe { _mm256_aesenc_epi128(low, key) };
        // SAFETY: as above.
        Self(unsafe { _mm512_zextsi256_si512(low) })
    }

    #[inline(always)]
    fn pin(self) -> Self {
        // SAFETY: a vector exists, so the CPU has its instructions.
        Self(unsafe { pin(self.0) })
    }

    #[inline(always)]
    fn join_halves(self, high: Self) -> Self {
        // SAFETY: a vector exists, so the CPU has its instructions.
        let high = unsafe { _mm512_castsi512_si256(high.0) };
        // SAFETY: as above.
        Self(unsafe { _mm512_inserti64x4::<1>(self.0, high) })
    }

    #[inline(always)]
    fn sum_each(group: [Self; 4], shared: [Self; 2]) -> Self {
        let [a, b, c, d] = group;
        // Pairs first: lanes 0 and 1 of `ab` are from a, 2 and 3 from b.
        let ab = shuffle::<0x44, KARATSUBA>(a, b)
            .xor(shuffle::<0xee, KARATSUBA>(a, b))
            .xor(shared[0]);
        let cd = shuffle::<0x44, KARATSUBA>(c, d)
            .xor(shuffle::<0xee, KARATSUBA>(c, d))
            .xor(shared[1]);
        shuffle::<0x88, KARATSUBA>(ab, cd).xor(shuffle::<0xdd, KARATSUBA>(ab, cd))
    }
}

/// Two lanes of `a`, then two of `b`.
#[inline(always)]
fn shuffle<const LANES: i32, const K: bool>(a: Zmm<K>, b: Zmm<K>) -> Zmm<K> {
    // SAFETY: a vector exists, so the CPU has its instructions.
    Zmm(unsafe { _mm512_shuffle_i64x2::<LANES>(a.0, b.0) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn pin(mut vector: __m512i) -> __m512i {
    // SAFETY: there is no instruction.
    unsafe {
        asm!("/* {} */", inout(zmm_reg) vector, options(nomem, nostack, preserves_flags));
    }
    vector
}
