//! Several packets of the same few blocks in lock step, each with its own key.
//!
//! One packet of 64 bytes is a chain of ten rounds, then of multiplications, and each waits for the
//! one before. Several of them side by side fill the pipes (Drucker, Gueron and Krasnov, "Making AES
//! Great Again", 3, does so with blocks of one packet).

use super::each;
use super::ghash::Product;
use super::lanes::Lanes;
use super::packet::{Packet, ROUNDS_MIN, VECTORS_MAX, first_counters, round};
use crate::op::Op;

/// Payload blocks up to which packets are taken together.
pub(super) const SHORT_BLOCKS_MAX: usize = 8;

/// Seals or opens `M` packets of `N` payload blocks each, `1..=SHORT_BLOCKS_MAX`.
///
/// # Safety
/// The CPU must have the tier's instructions. Every operation must be valid, there only once, and
/// have `N` blocks and a key of a SIMD tier; all keys must be of one length.
#[inline(always)]
pub(super) unsafe fn short<V: Lanes, const N: usize, const M: usize, const OPEN: bool>(
    ops: &[*mut Op<'_>; M],
) {
    // SAFETY: the caller vouches for the operations.
    let packets = core::array::from_fn::<_, M, _>(|m| unsafe { Packet::new(ops[m]) });
    // SAFETY: the caller vouches for the CPU.
    let zero = unsafe { V::zero() };
    let vectors = N / V::BLOCKS + 1;
    let last_lanes = N + 1 - (vectors - 1) * V::BLOCKS;
    let lanes = |v: usize| {
        if v + 1 == vectors {
            last_lanes
        } else {
            V::BLOCKS
        }
    };
    let half = 2 * last_lanes <= V::BLOCKS;

    let mut state = [[zero; VECTORS_MAX]; M];
    let mut data = [[zero; VECTORS_MAX]; M];
    let mut received = [zero.lane(0); M];
    each!(m < M, {
        // SAFETY: the caller vouches for the CPU.
        let nonce: V = unsafe { packets[m].nonce() };
        each!(v < vectors, {
            // SAFETY: `N + BLOCKS` is at most 12.
            state[m][v] = nonce.xor(unsafe { first_counters(v * V::BLOCKS) });
            // SAFETY: these lanes are blocks up to `N`.
            data[m][v] = unsafe { packets[m].load(v * V::BLOCKS, lanes(v)) };
        });
        if OPEN {
            // SAFETY: the caller vouches for the CPU.
            received[m] = unsafe { packets[m].received::<V>() };
        }
    });

    // SAFETY: the caller vouches for the CPU.
    let mut products = [unsafe { Product::<V>::zero() }; M];
    each!(m < M, {
        // SAFETY: the caller vouches for the CPU.
        unsafe { packets[m].first_rounds(&mut state[m], vectors, half) };
    });
    each!(r < ROUNDS_MIN, {
        each!(m < M, {
            // SAFETY: as above.
            let key = unsafe { packets[m].round_key(r) };
            round(&mut state[m], vectors, half, key);
        });
        if OPEN && r < M {
            // SAFETY: as for this function.
            products[r] = unsafe { hash::<V, N>(&packets[r], &data[r]) };
            products[r].pin();
        }
    });
    each!(m < M, {
        // SAFETY: the last round; the caller vouches for the CPU.
        let key: V = unsafe { packets[m].round_key(ROUNDS_MIN) };
        each!(v < vectors, {
            // Block 0 has no data: its lane is the tag's mask.
            state[m][v] = state[m][v].aes_last(key.xor(data[m][v]));
            // SAFETY: these lanes are blocks up to `N`.
            unsafe { packets[m].store(v * V::BLOCKS, lanes(v), state[m][v]) };
        });
    });
    if !OPEN {
        each!(m < M, {
            // SAFETY: as for this function.
            products[m] = unsafe { hash::<V, N>(&packets[m], &state[m]) };
        });
    }
    each!(group < M.div_ceil(V::BLOCKS), {
        let first = group * V::BLOCKS;
        let sums = core::array::from_fn(|lane| products[(first + lane).min(M - 1)]);
        let hashes = Product::reduced_each(sums).swap_bytes();
        each!(lane < V::BLOCKS, {
            let m = first + lane;
            if m < M {
                let tag = hashes.lane(lane).xor(state[m][0].lane(0));
                packets[m].finish::<OPEN>(tag, received[m]);
            }
        });
    });
}

/// The unreduced hash of a packet whose ciphertext is in `text`.
///
/// # Safety
/// As for [`short`].
#[inline(always)]
unsafe fn hash<V: Lanes, const N: usize>(
    packet: &Packet<'_>,
    text: &[V; VECTORS_MAX],
) -> Product<V> {
    let vectors = N / V::BLOCKS + 1;
    let last_lanes = N + 1 - (vectors - 1) * V::BLOCKS;
    // SAFETY: the caller vouches for the CPU.
    let aad = unsafe { packet.aad() };
    // SAFETY: as above.
    let lengths = unsafe { packet.lengths() };
    // SAFETY: the caller vouches for the CPU.
    let mut product = unsafe { Product::zero() };
    each!(v < vectors, {
        let mut x = text[v];
        if v + 1 == vectors {
            x = x.keep_bytes((packet.len + 16).wrapping_sub(16 * v * V::BLOCKS));
        }
        x = x.swap_bytes();
        if v == 0 {
            x = x.set_lane(0, aad);
        }
        if v + 1 == vectors {
            x = x.set_lane(last_lanes, lengths);
        }
        // SAFETY: `N + 2` is at most 10.
        product.add(x, unsafe { packet.powers(N + 2 - v * V::BLOCKS) });
    });
    if last_lanes == V::BLOCKS {
        // SAFETY: the caller vouches for the CPU.
        unsafe { packet.add_alone(&mut product, lengths) };
    }
    product
}
