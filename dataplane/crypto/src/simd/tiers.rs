//! Entry points of each tier, and how a batch is sorted.

use core::mem::MaybeUninit;

use super::lanes::Xmm;
use super::long::long;
use super::short::{SHORT_BLOCKS_MAX, short};
use super::ymm::Ymm;
use super::zmm::Zmm;
use crate::op::Op;

/// Lengths of AES keys.
const KEY_LENGTHS: usize = 3;

/// Runs `together` for each `M` operations of the same few blocks and the same key length, and `alone`
/// for all others. The order is not that of `ops`.
#[inline(always)]
fn sort<'a, const M: usize>(
    ops: &mut [Op<'a>],
    together: impl Fn(usize, &[*mut Op<'a>; M]),
    alone: impl Fn(*mut Op<'a>),
) {
    const CLASSES: usize = (SHORT_BLOCKS_MAX + 1) * KEY_LENGTHS;
    let mut waiting = [const { [MaybeUninit::uninit(); M] }; CLASSES];
    let mut counts = [0_u8; CLASSES];
    for op in ops {
        let blocks = (op.len as usize).div_ceil(16);
        let rounds = op.key.rounds();
        let op: *mut Op<'a> = op;
        if blocks > SHORT_BLOCKS_MAX || blocks == 0 {
            alone(op);
            continue;
        }
        // Rounds are 10, 12 or 14.
        let class = blocks * KEY_LENGTHS + (rounds / 2 - 5).min(KEY_LENGTHS - 1);
        let (count, waiting) = (&mut counts[class], &mut waiting[class]);
        waiting[usize::from(*count) % M].write(op);
        *count += 1;
        if usize::from(*count) == M {
            *count = 0;
            // By reference: a copy would read wider than was just written, and wait for it.
            let waiting: *const [MaybeUninit<*mut Op<'a>>; M] = waiting;
            // SAFETY: all `M` are written.
            together(blocks, unsafe { &*waiting.cast() });
        }
    }
    for (count, waiting) in counts.iter().zip(&waiting) {
        for op in waiting.iter().take(usize::from(*count)) {
            // SAFETY: the first `count` are written.
            alone(unsafe { op.assume_init() });
        }
    }
}

/// A tier: its module, its vector, packets that go together, vectors of a chunk, and its features.
macro_rules! tier {
    ($name:ident, $lanes:ty, $packets:literal, $chunk:literal, $features:literal) => {
        pub(crate) mod $name {
            use super::*;

            /// Seals, or opens, all operations.
            ///
            /// # Safety
            /// The CPU must have the tier's features; all keys must be of a SIMD tier.
            #[target_feature(enable = $features)]
            pub(crate) unsafe fn run<const OPEN: bool>(ops: &mut [Op<'_>]) {
                sort::<$packets>(
                    ops,
                    // Operations are out of the slice, each once, and sorted by blocks: that is what
                    // the calls below rely on.
                    |blocks, ops| match blocks {
                        // SAFETY: as above.
                        1 => unsafe { together::<1, OPEN>(ops) },
                        // SAFETY: as above.
                        2 => unsafe { together::<2, OPEN>(ops) },
                        // SAFETY: as above.
                        3 => unsafe { together::<3, OPEN>(ops) },
                        // SAFETY: as above.
                        4 => unsafe { together::<4, OPEN>(ops) },
                        // SAFETY: as above.
                        5 => unsafe { together::<5, OPEN>(ops) },
                        // SAFETY: as above.
                        6 => unsafe { together::<6, OPEN>(ops) },
                        // SAFETY: as above.
                        7 => unsafe { together::<7, OPEN>(ops) },
                        // SAFETY: as above.
                        _ => unsafe { together::<8, OPEN>(ops) },
                    },
                    // SAFETY: as above.
                    |op| unsafe { alone::<OPEN>(op) },
                );
            }

            /// # Safety
            /// As for [`short`].
            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn together<const N: usize, const OPEN: bool>(ops: &[*mut Op<'_>; $packets]) {
                // SAFETY: the caller vouches for it.
                unsafe { short::<$lanes, N, $packets, OPEN>(ops) };
            }

            /// # Safety
            /// As for [`long`].
            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn alone<const OPEN: bool>(op: *mut Op<'_>) {
                // SAFETY: the caller vouches for it.
                unsafe { long::<$lanes, $chunk, OPEN>(op) };
            }
        }
    };
}

tier!(aesni, Xmm, 2, 8, "aes,pclmulqdq,ssse3,sse4.1");
tier!(avx2, Ymm, 3, 6, "avx2,bmi2,aes,pclmulqdq,vaes,vpclmulqdq");
tier!(
    avx512,
    Zmm,
    4,
    8,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi2,aes,pclmulqdq,vaes,vpclmulqdq"
);
