//! AES-GCM with the AES and carry-less multiplication instructions of x86-64.
//!
//! A packet is taken as one sequence of blocks of 16 bytes: block 0 has no data, blocks `1..=n` are
//! the payload. Encrypting the counters of all of them gives the tag's mask (SP 800-38D's J0) in
//! block 0 and the keystream in the others; hashing them, with the AAD in block 0 and the block of
//! lengths behind, gives the tag. So vector `v` of a packet holds blocks `v * BLOCKS` and on, from
//! the first instruction to the last, and all that is special stands in its first and last vector.
//!
//! - [`lanes`]: a vector of blocks, and its three widths in [`xmm`], [`ymm`] and [`zmm`]
//! - [`ghash`]: multiply and reduce
//! - [`packet`]: the parts that every kernel is made of
//! - [`short`]: several packets of the same few blocks in lock step
//! - [`medium`]: packets of a few vectors, one after the other
//! - [`long`]: one packet of any length
//! - [`tiers`]: entry points compiled for each tier, and the sorting of a batch
//! - [`setup`]: key expansion and powers of H

#![expect(
    clippy::cast_possible_truncation,
    reason = "lanes, rounds and lengths of packets are small, and checked where they come from"
)]

mod ghash;
mod lanes;
mod long;
mod medium;
mod packet;
mod setup;
mod short;
mod tiers;
mod xmm;
mod ymm;
mod zmm;

pub(crate) use setup::expand;
pub(crate) use tiers::{aesni, avx2, avx512, avx512_karatsuba};

/// `$body` for each `$i` below `$n`, which is at most 10. Written out, not looped: every vector gets
/// its own register before the optimiser has to guess.
macro_rules! each {
    ($i:ident < $n:expr, $body:block) => {
        each!(@ $i $n, $body, 0 1 2 3 4 5 6 7 8 9)
    };
    (@ $i:ident $n:expr, $body:block, $($value:literal)*) => {
        $( if $value < $n { let $i: usize = $value; $body } )*
    };
}
use each;

/// The operations that differ between widths in nothing but the intrinsic's name.
macro_rules! vector_ops {
    (aes: $round:ident, $last:ident; multiply: $multiply:ident; xor: $xor:ident;
     add_words: $add:ident; swap_halves: $shuffle:ident; load: $load:ident; zero: $zero:ident;) => {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller vouches for the CPU.
            Self(unsafe { $zero() })
        }

        #[inline(always)]
        unsafe fn load(at: *const u8) -> Self {
            // SAFETY: the caller vouches for the bytes and the CPU.
            Self(unsafe { $load(at.cast()) })
        }

        #[inline(always)]
        fn xor(self, other: Self) -> Self {
            // SAFETY: a vector exists, so the CPU has its instructions.
            Self(unsafe { $xor(self.0, other.0) })
        }

        #[inline(always)]
        fn swap_halves(self) -> Self {
            // SAFETY: a vector exists, so the CPU has its instructions.
            Self(unsafe { $shuffle::<0x4e>(self.0) })
        }

        #[inline(always)]
        fn add_words(self, other: Self) -> Self {
            // SAFETY: a vector exists, so the CPU has its instructions.
            Self(unsafe { $add(self.0, other.0) })
        }

        #[inline(always)]
        fn aes_round(self, key: Self) -> Self {
            // SAFETY: a vector exists, so the CPU has its instructions.
            Self(unsafe { $round(self.0, key.0) })
        }

        #[inline(always)]
        fn aes_last(self, key: Self) -> Self {
            // SAFETY: a vector exists, so the CPU has its instructions.
            Self(unsafe { $last(self.0, key.0) })
        }

        #[inline(always)]
        fn multiply<const HALVES: i32>(self, other: Self) -> Self {
            // SAFETY: a vector exists, so the CPU has its instructions.
            Self(unsafe { $multiply::<HALVES>(self.0, other.0) })
        }
    };
}
use vector_ops;
