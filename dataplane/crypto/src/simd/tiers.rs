//! Entry points of each tier, and how a batch is sorted.

use core::mem::MaybeUninit;

use super::lanes::{Lanes, Xmm};
use super::long::long;
use super::medium::{MEDIUM_VECTORS_MAX, medium};
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

/// Classes of short packets: their blocks and the length of the key. Behind them come those of medium
/// packets: their vectors.
const SHORT_CLASSES: usize = (SHORT_BLOCKS_MAX + 1) * KEY_LENGTHS;

/// The class of an operation that goes together with others, `None` if it goes alone. `VECTOR` is
/// how many blocks a vector has, or 0 if there are no kernels for medium packets.
#[inline(always)]
fn class<const VECTOR: usize>(op: &Op<'_>) -> Option<usize> {
    let blocks = (op.len as usize).div_ceil(16);
    if blocks.wrapping_sub(1) < SHORT_BLOCKS_MAX {
        // Rounds are 10, 12 or 14.
        let key_length = (op.key.rounds() / 2).wrapping_sub(5) % 4;
        return (key_length < KEY_LENGTHS).then_some(blocks * KEY_LENGTHS + key_length);
    }
    if VECTOR == 0 || blocks == 0 {
        return None;
    }
    let vectors = blocks / VECTOR + 1;
    (vectors <= MEDIUM_VECTORS_MAX).then_some(SHORT_CLASSES + vectors)
}

/// Blocks of a vector, or 0 if there are no kernels for medium packets.
const fn medium_lanes<V: Lanes>(vectors: &[usize]) -> usize {
    if vectors.is_empty() { 0 } else { V::BLOCKS }
}

/// What the operations of a batch have in common.
enum Batch {
    /// Blocks and the key.
    OneKey,
    /// Blocks and the length of the key.
    OneClass,
    Mixed,
}

#[inline(always)]
fn kind(ops: &[Op<'_>]) -> Batch {
    let blocks = |op: &Op<'_>| op.len.div_ceil(16);
    let one_key = |op: &Op<'_>| blocks(op) == blocks(&ops[0]) && core::ptr::eq(op.key, ops[0].key);
    if ops.iter().all(one_key) {
        return Batch::OneKey;
    }
    let shape = |op: &Op<'_>| (blocks(op), op.key.rounds());
    let first = shape(&ops[0]);
    if ops.iter().all(|op| shape(op) == first) {
        Batch::OneClass
    } else {
        Batch::Mixed
    }
}

/// Runs `together` for operations of the same few blocks and the same key length, as many as there are
/// up to [`SORTED_MAX`], and `in_turn` for all others. The order is not that of `ops`.
#[inline(always)]
fn sort<'a, const VECTOR: usize>(
    ops: &mut [Op<'a>],
    together: impl Fn(usize, &[*mut Op<'a>], bool),
    in_turn: impl Fn(&[*mut Op<'a>]),
) {
    for ops in ops.chunks_mut(SORTED_MAX) {
        let kind = kind(ops);
        if matches!(kind, Batch::Mixed) {
            sort_mixed::<VECTOR>(ops, &together, &in_turn);
            continue;
        }
        let class = class::<VECTOR>(&ops[0]);
        let mut list: List<'a> = [const { MaybeUninit::uninit() }; SORTED_MAX];
        let count = ops.len();
        for (entry, op) in list.iter_mut().zip(ops) {
            entry.write(op);
        }
        // SAFETY: that many are written.
        let list = unsafe { written(&list[..count]) };
        match class {
            Some(class) => together(class, list, matches!(kind, Batch::OneKey)),
            None => in_turn(list),
        }
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
fn sort_mixed<'a, const VECTOR: usize>(
    ops: &mut [Op<'a>],
    together: impl Fn(usize, &[*mut Op<'a>], bool),
    in_turn: impl Fn(&[*mut Op<'a>]),
) {
    const CLASSES: usize = SHORT_CLASSES + MEDIUM_VECTORS_MAX + 1;
    let mut lists = [const { [MaybeUninit::uninit(); SORTED_MAX] }; CLASSES];
    let mut counts = [0_u8; CLASSES];
    for op in ops {
        // Those of no class stand in list 0, which no class has.
        let class = class::<VECTOR>(op).unwrap_or(0);
        lists[class][usize::from(counts[class])].write(core::ptr::from_mut(op));
        counts[class] += 1;
    }
    for (class, (count, list)) in counts.iter().zip(&lists).enumerate() {
        if *count > 0 {
            // SAFETY: that many are written.
            let list = unsafe { written(&list[..usize::from(*count)]) };
            if class == 0 {
                in_turn(list);
            } else {
                together(class, list, false);
            }
        }
    }
}

/// `together` for each number of blocks, and whether the keys of a group are known to be one.
macro_rules! by_blocks {
    ($shape:expr, $groups:expr, $open:ident; $(($blocks:literal, $one_key:tt))*) => {
        match $shape {
            // SAFETY (of all): the caller vouches for it.
            $(
                // SAFETY: as above.
                ($blocks, $one_key) => unsafe {
                    together::<$blocks, $open, { by_blocks!(@ $one_key) }>($groups)
                },
            )*
            _ => {}
        }
    };
    (@ true) => { true };
    (@ $other:tt) => { false };
}

/// `mediums` of a tier, which has kernels for those numbers of vectors, or for none.
macro_rules! mediums {
    ($lanes:ty, $features:literal;) => {
        /// No operation is of such a class.
        ///
        /// # Safety
        /// Nothing has to hold.
        unsafe fn mediums<const OPEN: bool>(_vectors: usize, _ops: &[*mut Op<'_>]) {}
    };
    ($lanes:ty, $features:literal; $($vectors:literal)+) => {
        /// # Safety
        /// As for [`medium`], `vectors` for each operation.
        #[target_feature(enable = $features)]
        unsafe fn mediums<const OPEN: bool>(vectors: usize, ops: &[*mut Op<'_>]) {
            match vectors {
                // SAFETY (of all): the caller vouches for it.
                $(
                    // SAFETY: as above.
                    $vectors => unsafe { in_turn::<$vectors, OPEN>(ops) },
                )+
                _ => {}
            }
        }

        /// # Safety
        /// As for [`medium`].
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn in_turn<const T: usize, const OPEN: bool>(ops: &[*mut Op<'_>]) {
            // SAFETY: the caller vouches for it.
            unsafe { medium::<$lanes, T, OPEN>(ops) };
        }
    };
}

/// A tier: its module, its vector, packets that go together, vectors of a chunk, vectors of medium
/// packets, blocks of packets for which one key is a case of its own, and its features.
macro_rules! tier {
    ($name:ident, $lanes:ty, $packets:literal, $chunk:literal, [$($medium:tt)*], [$($one_key:tt)*], $features:literal) => {
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
                sort::<{ medium_lanes::<$lanes>(&[$($medium),*]) }>(
                    ops,
                    |class, ops, one_key| {
                        if let Some(vectors) = class.checked_sub(SHORT_CLASSES) {
                            // SAFETY: as above.
                            return unsafe { mediums::<OPEN>(vectors, ops) };
                        }
                        let blocks = class / KEY_LENGTHS;
                        let (groups, others) = ops.as_chunks::<$packets>();
                        // SAFETY: as above.
                        unsafe { groups_of::<OPEN>(blocks, groups, one_key) };
                        // SAFETY: as above.
                        unsafe { longs::<OPEN>(others) };
                    },
                    // SAFETY: as above.
                    |ops| unsafe { longs::<OPEN>(ops) },
                );
            }

            /// # Safety
            /// As for [`short`], `blocks` for each operation.
            #[target_feature(enable = $features)]
            unsafe fn groups_of<const OPEN: bool>(
                blocks: usize,
                groups: &[[*mut Op<'_>; $packets]],
                one_key: bool,
            ) {
                by_blocks!((blocks, one_key), groups, OPEN;
                    $($one_key)* (1, _) (2, _) (3, _) (4, _) (5, _) (6, _) (7, _) (8, _));
            }

            /// # Safety
            /// As for [`short`].
            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn together<const N: usize, const OPEN: bool, const ONE_KEY: bool>(
                groups: &[[*mut Op<'_>; $packets]],
            ) {
                // SAFETY: the caller vouches for it.
                unsafe { short::<$lanes, N, $packets, OPEN, ONE_KEY>(groups) };
            }

            mediums!($lanes, $features; $($medium)*);

            /// # Safety
            /// As for [`long`].
            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn longs<const OPEN: bool>(ops: &[*mut Op<'_>]) {
                // SAFETY: the caller vouches for it.
                unsafe { long::<$lanes, $chunk, OPEN>(ops) };
            }
        }
    };
}

tier!(aesni, Xmm, 2, 8, [], [], "aes,pclmulqdq,ssse3,sse4.1");
tier!(
    avx2,
    Ymm,
    2,
    6,
    [],
    [],
    "avx2,bmi2,aes,pclmulqdq,vaes,vpclmulqdq"
);
// With one key, round keys and powers are loaded once a group: measured at four blocks, 4 to 6 cycles of
// 55 a packet here, and nothing with narrower vectors.
macro_rules! tier_avx512 {
    ($name:ident, $karatsuba:literal) => {
        tier!(
            $name,
            Zmm<$karatsuba>,
            4,
            8,
            [3 4 5 6 7 8 9],
            [(1, true)(2, true)(3, true)(4, true)],
            "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi2,aes,pclmulqdq,vaes,vpclmulqdq"
        );
    };
}
tier_avx512!(avx512, false);
tier_avx512!(avx512_karatsuba, true);
