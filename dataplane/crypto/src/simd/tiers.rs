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

/// Operations that are sorted at once.
const SORTED_MAX: usize = 64;

/// Where operations of one class wait for each other.
type List<'a> = [MaybeUninit<*mut Op<'a>>; SORTED_MAX];

/// The class of an operation that goes together with others: those of the same few blocks and the same
/// key length. `None` if it goes alone.
#[inline(always)]
fn class(op: &Op<'_>) -> Option<usize> {
    let blocks = (op.len as usize).div_ceil(16);
    // Rounds are 10, 12 or 14.
    let key_length = (op.key.rounds() / 2).wrapping_sub(5) % 4;
    let short = blocks.wrapping_sub(1) < SHORT_BLOCKS_MAX;
    (short && key_length < KEY_LENGTHS).then_some(blocks * KEY_LENGTHS + key_length)
}

/// Runs `together` for operations of the same few blocks and the same key length, as many as there are
/// up to [`SORTED_MAX`], and `alone` for all others. The order is not that of `ops`.
#[inline(always)]
fn sort<'a>(
    ops: &mut [Op<'a>],
    together: impl Fn(usize, &[*mut Op<'a>]),
    alone: impl Fn(*mut Op<'a>),
) {
    for ops in ops.chunks_mut(SORTED_MAX) {
        let first = class(&ops[0]);
        if !ops.iter().all(|op| class(op) == first) {
            sort_mixed(ops, &together, &alone);
            continue;
        }
        let Some(class) = first else {
            ops.iter_mut().for_each(|op| alone(op));
            continue;
        };
        let mut list: List<'a> = [const { MaybeUninit::uninit() }; SORTED_MAX];
        let count = ops.len();
        for (entry, op) in list.iter_mut().zip(ops) {
            entry.write(op);
        }
        // SAFETY: that many are written.
        together(class / KEY_LENGTHS, unsafe { written(&list[..count]) });
    }
}

/// # Safety
/// Every entry must be written.
#[inline(always)]
unsafe fn written<'a, 'b>(list: &'b [MaybeUninit<*mut Op<'a>>]) -> &'b [*mut Op<'a>] {
    let list: *const [MaybeUninit<*mut Op<'a>>] = list;
    // SAFETY: the layout is the same, and the caller vouches for the entries.
    unsafe { &*(list as *const [*mut Op<'a>]) }
}

/// [`sort`] for up to [`SORTED_MAX`] operations of several classes.
#[inline(always)]
fn sort_mixed<'a>(
    ops: &mut [Op<'a>],
    together: impl Fn(usize, &[*mut Op<'a>]),
    alone: impl Fn(*mut Op<'a>),
) {
    const CLASSES: usize = (SHORT_BLOCKS_MAX + 1) * KEY_LENGTHS;
    let mut lists = [const { [MaybeUninit::uninit(); SORTED_MAX] }; CLASSES];
    let mut counts = [0_u8; CLASSES];
    for op in ops {
        let Some(class) = class(op) else {
            alone(op);
            continue;
        };
        lists[class][usize::from(counts[class])].write(core::ptr::from_mut(op));
        counts[class] += 1;
    }
    for (class, (count, list)) in counts.iter().zip(&lists).enumerate() {
        if *count > 0 {
            let list = &list[..usize::from(*count)];
            // SAFETY: that many are written.
            together(class / KEY_LENGTHS, unsafe { written(list) });
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
                // Operations are out of the slice, each once, and sorted by blocks: that is what the
                // calls below rely on.
                sort(
                    ops,
                    |blocks, ops| {
                        let (groups, others) = ops.as_chunks::<$packets>();
                        // SAFETY: as above.
                        unsafe { groups_of::<OPEN>(blocks, groups) };
                        for op in others {
                            // SAFETY: as above.
                            unsafe { alone::<OPEN>(*op) };
                        }
                    },
                    // SAFETY: as above.
                    |op| unsafe { alone::<OPEN>(op) },
                );
            }

            /// # Safety
            /// As for [`short`], `blocks` for each operation.
            #[target_feature(enable = $features)]
            unsafe fn groups_of<const OPEN: bool>(
                blocks: usize,
                groups: &[[*mut Op<'_>; $packets]],
            ) {
                // SAFETY (of all): the caller vouches for it.
                match blocks {
                    // SAFETY: as above.
                    1 => unsafe { together::<1, OPEN>(groups) },
                    // SAFETY: as above.
                    2 => unsafe { together::<2, OPEN>(groups) },
                    // SAFETY: as above.
                    3 => unsafe { together::<3, OPEN>(groups) },
                    // SAFETY: as above.
                    4 => unsafe { together::<4, OPEN>(groups) },
                    // SAFETY: as above.
                    5 => unsafe { together::<5, OPEN>(groups) },
                    // SAFETY: as above.
                    6 => unsafe { together::<6, OPEN>(groups) },
                    // SAFETY: as above.
                    7 => unsafe { together::<7, OPEN>(groups) },
                    // SAFETY: as above.
                    _ => unsafe { together::<8, OPEN>(groups) },
                }
            }

            /// # Safety
            /// As for [`short`].
            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn together<const N: usize, const OPEN: bool>(
                groups: &[[*mut Op<'_>; $packets]],
            ) {
                // SAFETY: the caller vouches for it.
                unsafe { short::<$lanes, N, $packets, OPEN>(groups) };
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
