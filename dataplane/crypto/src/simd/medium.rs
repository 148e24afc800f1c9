//! Packets of a few vectors, one after the other, the hash of one woven into the AES of the next.
//!
//! For packets longer than those of [`super::short`], which fill the pipes alone, and shorter than a
//! chunk and a half of [`super::long`], which has nothing to hash while it seals the first chunk.

use super::each;
use super::ghash::Product;
use super::lanes::{Lanes, Xmm};
use super::packet::{Packet, ROUNDS_MIN, VECTORS_MAX, Vectors, first_counters, round, wipe};
use crate::op::Op;

/// Vectors of block 0 and the payload up to which there is a kernel.
pub(super) const MEDIUM_VECTORS_MAX: usize = ROUNDS_MIN;

/// A packet that is encrypted or decrypted, and whose hash is still to be made.
struct Done<'a, V> {
    packet: Packet<'a>,
    /// The ciphertext.
    text: Vectors<V>,
    mask: Xmm,
    received: Xmm,
}

/// Seals or opens packets which take `T` vectors each, with block 0, up to [`MEDIUM_VECTORS_MAX`].
///
/// # Safety
/// The CPU must have the tier's instructions. Every operation must be valid, there only once, have
/// that many vectors, and a key of a SIMD tier.
#[inline(always)]
pub(super) unsafe fn medium<V: Lanes, const T: usize, const OPEN: bool>(ops: &[*mut Op<'_>]) {
    let Some((first, others)) = ops.split_first() else {
        return;
    };
    // SAFETY: the caller vouches for the operation and the CPU.
    let (mut done, mut all_ok) = unsafe { step::<V, T, OPEN>(*first, None) };
    for op in others {
        // SAFETY: as above.
        let (next, ok) = unsafe { step::<V, T, OPEN>(*op, Some(&done)) };
        done = next;
        all_ok &= ok;
    }
    // SAFETY: the caller vouches for the CPU.
    let mut product = unsafe { Product::zero() };
    each!(v < T, {
        if v.is_multiple_of(2) {
            // SAFETY: as above.
            unsafe { done.hash_pair::<T>(&mut product, v) };
        }
    });
    // SAFETY: as above.
    let hash = unsafe { done.hash_end::<T>(product) };
    all_ok &= done
        .packet
        .finish::<OPEN>(hash.xor(done.mask), done.received);
    if !all_ok {
        // SAFETY: the caller vouches for the operations.
        unsafe { wipe(ops) };
    }
}

/// Encrypts or decrypts a packet, and makes the hash of the one before. The answer is the verdict on
/// that.
///
/// # Safety
/// As for [`medium`].
#[inline(always)]
unsafe fn step<'a, V: Lanes, const T: usize, const OPEN: bool>(
    op: *mut Op<'a>,
    before: Option<&Done<'_, V>>,
) -> (Done<'a, V>, bool) {
    // SAFETY: the caller vouches for the operation.
    let packet = unsafe { Packet::new(op) };
    // SAFETY: the caller vouches for the CPU.
    let zero = unsafe { V::zero() };
    // SAFETY: as above.
    let nonce: V = unsafe { packet.nonce() };
    // SAFETY: as above.
    let mut state = [zero; VECTORS_MAX];
    each!(v < T, {
        // SAFETY: the caller vouches for the CPU; there are counters for as many vectors.
        state[v] = nonce.xor(unsafe { first_counters(v * V::BLOCKS) });
    });
    // SAFETY: as above.
    unsafe { packet.first_rounds(&mut state, T, false) };
    // SAFETY: as above.
    let mut product = unsafe { Product::zero() };
    let mut hash = zero.lane(0);
    each!(r < ROUNDS_MIN, {
        // SAFETY: as above.
        let key = unsafe { packet.round_key(r) };
        round(&mut state, T, false, key);
        if let Some(before) = before
            && r < T
            && r.is_multiple_of(2)
        {
            // SAFETY: as for this function.
            unsafe { before.hash_pair::<T>(&mut product, r) };
            product.pin();
        }
        if let Some(before) = before
            && r == (T + 1).min(ROUNDS_MIN - 1)
        {
            // SAFETY: as for this function.
            hash = unsafe { before.hash_end::<T>(product) }.pin();
        }
    });
    // SAFETY: the last round; the caller vouches for the CPU.
    let last: V = unsafe { packet.round_key(ROUNDS_MIN) };
    // SAFETY: the caller vouches for the CPU; nothing is written yet.
    let received = unsafe { packet.received::<V>() };
    let mut text = [zero; VECTORS_MAX];
    let last_lanes = last_lanes::<V, T>(&packet);
    each!(v < T, {
        let lanes = if v + 1 == T { last_lanes } else { V::BLOCKS };
        // SAFETY: these lanes are blocks up to the last one.
        let data = unsafe { packet.load(v == 0, v * V::BLOCKS, lanes) };
        state[v] = state[v].aes_last(last.xor(data));
        text[v] = if OPEN { data } else { state[v] };
        // SAFETY: as above.
        unsafe { packet.store(v == 0, v * V::BLOCKS, lanes, state[v]) };
    });
    let ok = before.is_none_or(|before| {
        let tag = hash.xor(before.mask);
        before.packet.finish::<OPEN>(tag, before.received)
    });
    let done = Done {
        packet,
        text,
        mask: state[0].lane(0),
        received,
    };
    (done, ok)
}

/// Lanes of the last of `T` vectors.
#[inline(always)]
fn last_lanes<V: Lanes, const T: usize>(packet: &Packet<'_>) -> usize {
    packet.blocks() + 1 - (T - 1) * V::BLOCKS
}

impl<V: Lanes> Done<'_, V> {
    /// Adds vectors `v` and the next to the hash, if there is a next.
    ///
    /// # Safety
    /// As for [`medium`].
    #[inline(always)]
    unsafe fn hash_pair<const T: usize>(&self, product: &mut Product<V>, v: usize) {
        // SAFETY: as for this function.
        let a = unsafe { self.hash_vector::<T>(v) };
        if v + 1 == T {
            product.add(a.0, a.1);
        } else {
            // SAFETY: as above.
            let b = unsafe { self.hash_vector::<T>(v + 1) };
            product.add_pair(a, b);
        }
    }

    /// Vector `v` of what is hashed, and its powers of H.
    ///
    /// # Safety
    /// As for [`medium`].
    #[inline(always)]
    unsafe fn hash_vector<const T: usize>(&self, v: usize) -> (V, V) {
        let packet = &self.packet;
        let mut x = self.text[v];
        if v + 1 == T {
            x = x.keep_bytes((packet.len + 16).wrapping_sub(16 * v * V::BLOCKS));
        }
        x = x.swap_bytes();
        if v == 0 {
            // SAFETY: the caller vouches for the CPU.
            x = x.set_lane(0, unsafe { packet.aad() });
        }
        if v + 1 == T {
            // SAFETY: as above.
            x = x.set_lane(last_lanes::<V, T>(packet), unsafe { packet.lengths() });
        }
        // SAFETY: there are as many powers as blocks and two more.
        let powers = unsafe { packet.powers(packet.blocks() + 2 - v * V::BLOCKS) };
        (x, powers)
    }

    /// The hash, once all vectors are added.
    ///
    /// # Safety
    /// As for [`medium`].
    #[inline(always)]
    unsafe fn hash_end<const T: usize>(&self, mut product: Product<V>) -> Xmm {
        if last_lanes::<V, T>(&self.packet) == V::BLOCKS {
            // SAFETY: the caller vouches for the CPU.
            let lengths = unsafe { self.packet.lengths() };
            // SAFETY: as above.
            unsafe { self.packet.add_alone(&mut product, lengths) };
        }
        product.reduced().swap_bytes()
    }
}
