//! Several packets of the same few blocks in lock step, each with its own key.
//!
//! One packet of 64 bytes is a chain of ten rounds, then of multiplications, and each waits for the
//! one before. Several of them side by side fill the pipes (Drucker, Gueron and Krasnov, "Making AES
//! Great Again", 3, does so with blocks of one packet). While the rounds of one group run, the group
//! before is hashed: the chain of a whole group is longer than a CPU looks ahead.

use super::each;
use super::ghash::Product;
use super::lanes::{Lanes, Xmm};
use super::packet::{Packet, ROUNDS_MIN, VECTORS_MAX, Vectors, first_counters, round, wipe};
use crate::op::Op;

/// Payload blocks up to which packets are taken together.
pub(super) const SHORT_BLOCKS_MAX: usize = 8;

/// How `N` payload blocks lie in vectors `V`: block 0 first, when hashed the block of lengths last.
struct Layout<V, const N: usize>(core::marker::PhantomData<V>);

impl<V: Lanes, const N: usize> Layout<V, N> {
    /// Vectors of block 0 and the payload.
    const VECTORS: usize = N / V::BLOCKS + 1;
    /// Lanes of the last of them.
    const LAST_LANES: usize = N + 1 - (Self::VECTORS - 1) * V::BLOCKS;
    /// Whether it is half empty.
    const LAST_HALF: bool = 2 * Self::LAST_LANES <= V::BLOCKS;
    /// Vectors that are hashed and not half empty.
    const HASHED: usize = (N + 2) / V::BLOCKS + (2 * ((N + 2) % V::BLOCKS) > V::BLOCKS) as usize;
    /// Whether half a vector is to be hashed behind those: two packets share a multiplication.
    const HASHED_HALF: bool = Self::HASHED * V::BLOCKS < N + 2;

    /// Lanes of vector `v`.
    const fn lanes(v: usize) -> usize {
        if v + 1 == Self::VECTORS {
            Self::LAST_LANES
        } else {
            V::BLOCKS
        }
    }

    /// The power of H for the first lane of vector `v`.
    const fn power(v: usize) -> usize {
        N + 2 - v * V::BLOCKS
    }
}

/// Packets whose payload is encrypted or decrypted, and whose hash is still to be made.
struct Group<'g, 'a, V, const M: usize> {
    /// Read anew where they are used: addresses and lengths of two groups are more than there are
    /// registers for.
    ops: &'g [*mut Op<'a>; M],
    /// The ciphertext.
    text: [Vectors<V>; M],
    masks: [Xmm; M],
    received: [Xmm; M],
}

/// Seals or opens packets of `N` payload blocks each, `1..=SHORT_BLOCKS_MAX`, in groups of `M`.
///
/// # Safety
/// The CPU must have the tier's instructions. Every operation must be valid, there only once, and
/// have `N` blocks and a key of a SIMD tier; all keys must be of one length.
#[inline(always)]
pub(super) unsafe fn short<
    V: Lanes,
    const N: usize,
    const M: usize,
    const OPEN: bool,
    const ONE_KEY: bool,
>(
    groups: &[[*mut Op<'_>; M]],
) {
    let Some((first, others)) = groups.split_first() else {
        return;
    };
    // SAFETY: the caller vouches for the operations and the CPU.
    let (mut group, mut all_ok) = unsafe { step::<V, N, M, OPEN, ONE_KEY>(first, None) };
    for ops in others {
        // SAFETY: as above.
        let (next, ok) = unsafe { step::<V, N, M, OPEN, ONE_KEY>(ops, Some(&group)) };
        group = next;
        all_ok &= ok;
    }
    // SAFETY: as above.
    let mut hash = unsafe { Hash::<V, M>::new() };
    each!(part < M + 1, {
        // SAFETY: as above.
        unsafe { hash.part::<N, ONE_KEY>(&group, part) };
    });
    all_ok &= hash.finish::<OPEN>(&group);
    if !all_ok {
        // SAFETY: the caller vouches for the operations.
        unsafe { wipe(groups.as_flattened()) };
    }
}

/// Encrypts or decrypts a group, and makes the hash of the one before. The answer is the verdict on that.
///
/// # Safety
/// As for [`short`].
#[inline(always)]
unsafe fn step<
    'g,
    'a,
    V: Lanes,
    const N: usize,
    const M: usize,
    const OPEN: bool,
    const ONE_KEY: bool,
>(
    ops: &'g [*mut Op<'a>; M],
    before: Option<&Group<'_, '_, V, M>>,
) -> (Group<'g, 'a, V, M>, bool) {
    let vectors = Layout::<V, N>::VECTORS;
    let half = Layout::<V, N>::LAST_HALF;
    // SAFETY: the caller vouches for the operations.
    let mut packets = core::array::from_fn::<_, M, _>(|m| unsafe { Packet::new(ops[m]) });
    if ONE_KEY {
        packets = packets.map(|packet| packet.with_key(packets[0].key));
    }
    // SAFETY: the caller vouches for the CPU.
    let zero = unsafe { V::zero() };
    let mut state = [[zero; VECTORS_MAX]; M];
    let mut text = [[zero; VECTORS_MAX]; M];
    let mut received = [zero.lane(0); M];
    each!(m < M, {
        // SAFETY: the caller vouches for the CPU.
        let nonce: V = unsafe { packets[m].nonce() };
        each!(v < vectors, {
            // SAFETY: `N + BLOCKS` is at most 12.
            state[m][v] = nonce.xor(unsafe { first_counters(v * V::BLOCKS) });
        });
    });
    let rounds_before = packets[0].rounds_before();
    for r in 0..rounds_before {
        each!(m < M, {
            // SAFETY: a round of this key; the caller vouches for the CPU.
            let key = unsafe { packets[m].key_of_round(r) };
            round(&mut state[m], vectors, half, key);
        });
    }
    // SAFETY: the caller vouches for the CPU.
    let mut hash = unsafe { Hash::<V, M>::new() };
    each!(r < ROUNDS_MIN, {
        each!(m < M, {
            // SAFETY: as above.
            let key = unsafe { packets[m].key_of_round(rounds_before + r) };
            round(&mut state[m], vectors, half, key);
        });
        if let Some(before) = before
            && r <= M
        {
            // SAFETY: as above.
            unsafe { hash.part::<N, ONE_KEY>(before, r) };
            hash.pin(r);
        }
    });
    each!(m < M, {
        // SAFETY: the last round; the caller vouches for the CPU.
        let key: V = unsafe { packets[m].key_of_round(rounds_before + ROUNDS_MIN) };
        if OPEN {
            // SAFETY: the caller vouches for the CPU.
            received[m] = unsafe { packets[m].received::<V>() };
        }
        each!(v < vectors, {
            let lanes = Layout::<V, N>::lanes(v);
            // SAFETY: these lanes are blocks up to `N`.
            let data = unsafe { packets[m].load(v == 0, v * V::BLOCKS, lanes) };
            // Block 0 has no data: its lane is the tag's mask.
            state[m][v] = state[m][v].aes_last(key.xor(data));
            text[m][v] = if OPEN { data } else { state[m][v] };
            // SAFETY: these lanes are blocks up to `N`.
            unsafe { packets[m].store(v == 0, v * V::BLOCKS, lanes, state[m][v]) };
        });
    });
    let ok = before.is_none_or(|before| hash.finish::<OPEN>(before));
    let group = Group {
        ops,
        text,
        masks: state.map(|state| state[0].lane(0)),
        received,
    };
    (group, ok)
}

/// The hash of a group, made in `M` parts for the packets and one that reduces.
struct Hash<V, const M: usize> {
    products: [Product<V>; 4],
    /// What two packets share: half of the lanes is each one's.
    shared: [Product<V>; 2],
    /// The half of an even packet, until the odd one's is there.
    half: (V, V),
    /// The result, `BLOCKS` packets in each.
    hashes: Vectors<V>,
}

impl<V: Lanes, const M: usize> Hash<V, M> {
    /// # Safety
    /// The CPU must have the tier's instructions.
    #[inline(always)]
    unsafe fn new() -> Self {
        const { assert!(M <= 4) };
        // SAFETY: the caller vouches for the CPU.
        let zero = unsafe { V::zero() };
        // SAFETY: as above.
        let nothing = unsafe { Product::zero() };
        Self {
            products: [nothing; 4],
            shared: [nothing; 2],
            half: (zero, zero),
            hashes: [zero; VECTORS_MAX],
        }
    }

    /// Part `part` of `0..=M`.
    ///
    /// # Safety
    /// As for [`short`].
    #[inline(always)]
    unsafe fn part<const N: usize, const ONE_KEY: bool>(
        &mut self,
        group: &Group<'_, '_, V, M>,
        part: usize,
    ) {
        if part < M {
            // SAFETY: the caller vouches for it.
            unsafe { self.packet::<N, ONE_KEY>(group, part) };
            return;
        }
        each!(i < M.div_ceil(V::BLOCKS), {
            let first = i * V::BLOCKS;
            let products = core::array::from_fn(|lane| self.products[(first + lane).min(M - 1)]);
            let shared = core::array::from_fn(|pair| self.shared[(first / 2 + pair) % 2]);
            self.hashes[i] = Product::reduced_each(products, shared).swap_bytes();
        });
    }

    /// # Safety
    /// As for [`short`].
    #[inline(always)]
    unsafe fn packet<const N: usize, const ONE_KEY: bool>(
        &mut self,
        group: &Group<'_, '_, V, M>,
        m: usize,
    ) {
        // SAFETY: the caller vouches for the operation.
        let mut packet = unsafe { Packet::new(group.ops[m]) };
        if ONE_KEY {
            // SAFETY: as above.
            packet = packet.with_key(unsafe { Packet::new(group.ops[0]) }.key);
        }
        let text = &group.text[m];
        each!(v < Layout::<V, N>::HASHED, {
            // SAFETY: the caller vouches for it.
            let x = unsafe { hash_input::<V, N>(&packet, text, v) };
            // SAFETY: `N + 2` is at most 10.
            self.products[m].add(x, unsafe { packet.powers(Layout::<V, N>::power(v)) });
        });
        if Layout::<V, N>::HASHED_HALF {
            let v = Layout::<V, N>::HASHED;
            // SAFETY: the caller vouches for it.
            let x = unsafe { hash_input::<V, N>(&packet, text, v) };
            // SAFETY: as above.
            let powers = unsafe { packet.powers_half(Layout::<V, N>::power(v)) };
            if m.is_multiple_of(2) {
                self.half = (x, powers);
            }
            if m % 2 == 1 || m + 1 == M {
                let (even, even_powers) = self.half;
                let (x, powers) = if m % 2 == 1 {
                    (even.join_halves(x), even_powers.join_halves(powers))
                } else {
                    self.half
                };
                self.shared[m / 2].add(x, powers);
            }
        }
    }

    /// See [`Lanes::pin`].
    #[inline(always)]
    fn pin(&mut self, part: usize) {
        if part < M {
            self.products[part].pin();
        } else {
            each!(i < M.div_ceil(V::BLOCKS), {
                self.hashes[i] = self.hashes[i].pin();
            });
        }
    }

    #[inline(always)]
    fn finish<const OPEN: bool>(&self, group: &Group<'_, '_, V, M>) -> bool {
        let mut all_ok = true;
        each!(m < M, {
            let hash = self.hashes[m / V::BLOCKS].lane(m % V::BLOCKS);
            let tag = hash.xor(group.masks[m]);
            // SAFETY: the caller vouches for the operation.
            let packet = unsafe { Packet::new(group.ops[m]) };
            all_ok &= packet.finish::<OPEN>(tag, group.received[m]);
        });
        all_ok
    }
}

/// Vector `v` of what is hashed: the AAD, the ciphertext and the lengths.
///
/// # Safety
/// As for [`short`].
#[inline(always)]
unsafe fn hash_input<V: Lanes, const N: usize>(
    packet: &Packet<'_>,
    text: &Vectors<V>,
    v: usize,
) -> V {
    let vectors = Layout::<V, N>::VECTORS;
    // SAFETY: the caller vouches for the CPU.
    let lengths = unsafe { packet.lengths() };
    if v == vectors {
        // SAFETY: as above.
        return unsafe { V::zero() }.set_lane(0, lengths);
    }
    let mut x = text[v];
    if v + 1 == vectors {
        x = x.keep_bytes((packet.len + 16).wrapping_sub(16 * v * V::BLOCKS));
    }
    x = x.swap_bytes();
    if v == 0 {
        // SAFETY: the caller vouches for the CPU.
        x = x.set_lane(0, unsafe { packet.aad() });
    }
    if v + 1 == vectors {
        x = x.set_lane(Layout::<V, N>::LAST_LANES, lengths);
    }
    x
}
