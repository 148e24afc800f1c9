//! Packets of any length, one after the other: chunks of `W` vectors, the hash of one woven into the AES of
//! another.
//!
//! AES and carry-less multiplication keep different pipes busy (Drucker, Gueron and Krasnov, "Making
//! AES Great Again", 5). Sealing hashes the chunk before, because the ciphertext has to be there, and the
//! last one of a packet beside the first one of the next; opening hashes the chunk that it decrypts. The
//! last vectors, up to `W`, are straight-line code for each count.

use super::each;
use super::ghash::Product;
use super::lanes::{Lanes, Xmm};
use super::packet::{Packet, ROUNDS_MIN, VECTORS_MAX, Vectors, first_counters, round, wipe};
use crate::key::POWERS;
use crate::op::Op;

/// Seals or opens packets of any length, `W` vectors a chunk.
///
/// # Safety
/// The CPU must have the tier's instructions. Every operation must be valid, there only once, and have
/// a key of a SIMD tier.
#[inline(always)]
pub(super) unsafe fn long<V: Lanes, const W: usize, const OPEN: bool>(ops: &[*mut Op<'_>]) {
    const { assert!(W <= ROUNDS_MIN && W.is_multiple_of(2) && W * V::BLOCKS < POWERS) };
    let mut all_ok = true;
    let mut before: Option<Work<'_, V, W, OPEN>> = None;
    for op in ops {
        // SAFETY: the caller vouches for the operation and the CPU.
        let packet = unsafe { Packet::new(*op) };
        // SAFETY: as above.
        let mut work = unsafe { Work::<V, W, OPEN>::new(packet) };
        if work.left() <= Work::<V, W, OPEN>::CHUNK {
            // SAFETY: no more than `W` vectors are left.
            unsafe { work.end::<true>() };
            all_ok &= work.finish();
            continue;
        }
        // SAFETY: more than a chunk is left; the packet before has no more than its end to be hashed.
        unsafe { work.first_chunk(before.take()) };
        while work.left() > Work::<V, W, OPEN>::CHUNK {
            // SAFETY: more than a chunk is left.
            unsafe { work.chunk::<false, 0>(None) };
        }
        // SAFETY: no more than `W` vectors are left.
        unsafe { work.end::<false>() };
        if OPEN {
            all_ok &= work.finish();
        } else {
            before = Some(work);
        }
    }
    if let Some(mut last) = before {
        // SAFETY: all but its end is hashed.
        unsafe { last.hash_all_of_end() };
        last.finish();
    }
    if !all_ok {
        // SAFETY: the caller vouches for the operations.
        unsafe { wipe(ops) };
    }
}

/// `$body` with `$T` the number of vectors that are left of `$work`, of which there are up to `W`.
macro_rules! by_vectors {
    ($work:expr, $T:ident => $body:block) => {
        by_vectors!(@ $work, $T, $body, 1 2 3 4 5 6 7 8)
    };
    (@ $work:expr, $T:ident, $body:block, $($count:literal)*) => {
        match $work.left().div_ceil(V::BLOCKS) {
            $( $count if $count <= W => { const $T: usize = $count; $body } )*
            _ => {}
        }
    };
}

/// How far one packet is.
struct Work<'a, V, const W: usize, const OPEN: bool> {
    packet: Packet<'a>,
    /// The nonce, with the upper bytes of the counter of `block`.
    base: V,
    /// The lower byte of the counters of the vector that begins with `block`.
    counter: V,
    /// Keys of the last [`Lanes::KEYS_HELD`] rounds; the others are zero.
    keys: [V; ROUNDS_MIN + 1],
    /// The first block that is not encrypted or decrypted yet.
    block: usize,
    /// Blocks of the packet, with block 0.
    total: usize,
    /// Sum of what is hashed since the last reduction.
    product: Product<V>,
    /// The power of H for the first block that is not hashed yet.
    power: usize,
    /// Chunks to hash until the sum is to be reduced.
    until_reduced: usize,
    /// The last reduction, to be added to the next block that is hashed.
    carry: V,
    /// Sealing: the first vector of the chunk before, ready to be hashed.
    first: V,
    /// The tag's mask.
    mask: Xmm,
    /// Opening: the ICV that came with the packet.
    received: Xmm,
}

impl<'a, V: Lanes, const W: usize, const OPEN: bool> Work<'a, V, W, OPEN> {
    const CHUNK: usize = W * V::BLOCKS;

    /// # Safety
    /// As for [`long`].
    #[inline(always)]
    unsafe fn new(packet: Packet<'a>) -> Self {
        // SAFETY: the caller vouches for the CPU.
        let zero = unsafe { V::zero() };
        let mut work = Self {
            packet,
            // SAFETY: as above.
            base: unsafe { packet.nonce() },
            // SAFETY: as above.
            counter: unsafe { first_counters(0) },
            keys: [zero; ROUNDS_MIN + 1],
            block: 0,
            total: packet.blocks() + 1,
            // SAFETY: as above.
            product: unsafe { Product::zero() },
            power: 0,
            until_reduced: 0,
            carry: zero,
            first: zero,
            mask: zero.lane(0),
            received: zero.lane(0),
        };
        each!(r < ROUNDS_MIN + 1, {
            if Self::held(r) {
                // SAFETY: as above.
                work.keys[r] = unsafe { packet.round_key(r) };
            }
        });
        work.plan(work.total);
        work
    }

    /// Whether the key of that one of the last rounds is held.
    const fn held(round: usize) -> bool {
        round + V::KEYS_HELD > ROUNDS_MIN
    }

    /// The key of a round, as [`Packet::round_key`].
    ///
    /// # Safety
    /// As for that.
    #[inline(always)]
    unsafe fn round_key(&self, round: usize) -> V {
        if Self::held(round) {
            self.keys[round]
        } else {
            // SAFETY: the caller vouches for it.
            unsafe { self.packet.round_key(round) }
        }
    }

    /// Blocks that are not encrypted or decrypted yet.
    #[inline(always)]
    fn left(&self) -> usize {
        self.total - self.block
    }

    /// Chooses the powers for `left` blocks that are not hashed: if there are not enough of them, as
    /// many chunks as they do for, after which the sum is reduced.
    #[inline(always)]
    fn plan(&mut self, left: usize) {
        if left < POWERS {
            self.power = left + 1;
            self.until_reduced = usize::MAX;
        } else {
            self.until_reduced = (POWERS - 1) / Self::CHUNK;
            self.power = self.until_reduced * Self::CHUNK;
        }
    }

    /// `N` vectors of nonce and counter, round 0 of AES done.
    ///
    /// A counter's low byte is at its end, the highest byte of the register's word: as long as it does
    /// not overflow within a chunk, adding there is all that is needed.
    ///
    /// # Safety
    /// As for [`long`].
    #[inline(always)]
    unsafe fn counters<const N: usize, const FIRST: bool>(&mut self) -> Vectors<V> {
        let mut state = [self.base; VECTORS_MAX];
        if !FIRST && (self.block & 0xff) + Self::CHUNK > 0xff {
            // SAFETY: the caller vouches for the CPU.
            unsafe { self.counters_across(&mut state) };
            return state;
        }
        // SAFETY: the caller vouches for the CPU.
        let step = unsafe { in_last_word((V::BLOCKS as u32) << 24) };
        each!(v < N, {
            state[v] = state[v].xor(self.counter);
            self.counter = self.counter.add_words(step);
        });
        state
    }

    /// The same where the low byte overflows: seldom, and only in packets of 4 KB and more.
    ///
    /// # Safety
    /// As for [`long`].
    #[cold]
    #[inline(always)]
    unsafe fn counters_across(&mut self, state: &mut Vectors<V>) {
        // SAFETY: the caller vouches for the CPU.
        let nonce: V = unsafe { self.packet.nonce() };
        let mut blocks = [[0_u8; 16]; 4 * VECTORS_MAX];
        for (counter, bytes) in (self.block as u32 + 1..).zip(&mut blocks) {
            bytes[12..].copy_from_slice(&counter.to_be_bytes());
        }
        each!(v < W, {
            let at = blocks.as_ptr().wrapping_add(v * V::BLOCKS);
            // SAFETY: as many vectors of up to four blocks are in the array.
            state[v] = nonce.xor(unsafe { V::load(at.cast()) });
        });
        let next = (self.block + Self::CHUNK) as u32;
        // SAFETY: the caller vouches for the CPU.
        self.base = nonce.xor(unsafe { in_last_word((next & !0xff).swap_bytes()) });
        // SAFETY: as above.
        self.counter = unsafe { first_counters(0) };
        // SAFETY: as above.
        self.counter = self.counter.add_words(unsafe { in_last_word(next << 24) });
    }

    /// Vector `v` of the chunk that begins with `block`, and the powers it is to be multiplied with.
    ///
    /// # Safety
    /// As for [`long`]; the chunk must lie within the packet.
    #[inline(always)]
    unsafe fn hash_vector<const FIRST: bool>(&self, block: usize, v: usize) -> (V, V) {
        let x = if v == 0 && !OPEN {
            self.first
        } else {
            // SAFETY: the caller vouches for the chunk.
            let text: V = unsafe {
                self.packet
                    .load(FIRST && v == 0, block + v * V::BLOCKS, V::BLOCKS)
            };
            let x = text.swap_bytes();
            match (v, FIRST) {
                // SAFETY: the caller vouches for the CPU.
                (0, true) => x.set_lane(0, unsafe { self.packet.aad() }),
                (0, false) => x.xor(self.carry),
                _ => x,
            }
        };
        // SAFETY: `plan` left as many powers as the chunk has blocks.
        let powers = unsafe { self.packet.powers(self.power - v * V::BLOCKS) };
        (x, powers)
    }

    /// A chunk is hashed.
    #[inline(always)]
    fn chunk_hashed(&mut self, left: usize) {
        self.power -= Self::CHUNK;
        self.until_reduced -= 1;
        // SAFETY: a vector exists, so the CPU has its instructions.
        self.carry = unsafe { V::zero() };
        if self.until_reduced == 0 {
            self.carry = self.carry.set_lane(0, self.product.reduced());
            // SAFETY: as above.
            self.product = unsafe { Product::zero() };
            self.plan(left);
        }
    }

    /// [`Self::chunk`] for the first one, with what is left of the packet before.
    ///
    /// # Safety
    /// As for that.
    #[inline(always)]
    unsafe fn first_chunk(&mut self, before: Option<Self>) {
        let Some(mut before) = before else {
            // SAFETY: the caller vouches for it.
            return unsafe { self.chunk::<true, 0>(None) };
        };
        by_vectors!(before, T => {
            // SAFETY: the caller vouches for it, and `before` has that many vectors left.
            unsafe { self.chunk::<true, T>(Some(&mut before)) };
        });
        before.finish();
    }

    /// Encrypts or decrypts one chunk, all of whose blocks are whole. Opening hashes it, sealing hashes
    /// the one before, or the last `T` vectors of the packet before.
    ///
    /// # Safety
    /// As for [`long`]; more than a chunk must be left, and of `before` that many vectors to be hashed.
    #[inline(always)]
    unsafe fn chunk<const FIRST: bool, const T: usize>(&mut self, mut before: Option<&mut Self>) {
        // SAFETY: the caller vouches for the CPU.
        let mut state = unsafe { self.counters::<W, FIRST>() };
        // SAFETY: as above.
        unsafe { self.packet.first_rounds(&mut state, W, false) };
        let hashes = OPEN || !FIRST;
        let hashed = if OPEN {
            self.block
        } else {
            self.block - if FIRST { 0 } else { Self::CHUNK }
        };
        each!(r < ROUNDS_MIN, {
            // SAFETY: as above.
            let key = unsafe { self.round_key(r) };
            round(&mut state, W, false, key);
            // Vector 0 comes last: the carry from the chunk before may still be in the making.
            if hashes && r < W && r.is_multiple_of(2) {
                // SAFETY: the chunk lies within the packet.
                let a = unsafe { self.hash_vector::<FIRST>(hashed, r + 1) };
                // SAFETY: as above.
                let b = unsafe { self.hash_vector::<FIRST>(hashed, (r + 2) % W) };
                self.product.add_pair(a, b);
                self.product.pin();
            }
            if let Some(before) = &mut before
                && r < T
            {
                // SAFETY: the caller vouches for `before`.
                unsafe { before.hash_end_again::<T>((r + 1) % T) };
                before.product.pin();
            }
        });
        // SAFETY: the last round; the caller vouches for the CPU.
        let last: V = unsafe { self.round_key(ROUNDS_MIN) };
        each!(v < W, {
            let block = self.block + v * V::BLOCKS;
            // SAFETY: the chunk lies within the packet.
            let data = unsafe { self.packet.load(FIRST && v == 0, block, V::BLOCKS) };
            let text = state[v].aes_last(last.xor(data));
            state[v] = text;
            // SAFETY: as above.
            unsafe { self.packet.store(FIRST && v == 0, block, V::BLOCKS, text) };
        });
        if hashes {
            self.chunk_hashed(self.total - hashed - Self::CHUNK);
        }
        if FIRST {
            self.mask = state[0].lane(0);
        }
        if !OPEN {
            self.first = state[0].swap_bytes();
            self.first = if FIRST {
                // SAFETY: the caller vouches for the CPU.
                self.first.set_lane(0, unsafe { self.packet.aad() })
            } else {
                self.first.xor(self.carry)
            };
        }
        self.block += Self::CHUNK;
    }

    /// Encrypts or decrypts the rest of the packet. `FIRST` if nothing came before. All is hashed then,
    /// but sealing the rest is not unless it came first.
    ///
    /// # Safety
    /// As for [`long`]; at least a block and no more than `W` vectors must be left.
    #[inline(always)]
    unsafe fn end<const FIRST: bool>(&mut self) {
        by_vectors!(self, T => {
            // SAFETY: that many vectors are left.
            unsafe { self.end_of::<T, FIRST>() };
        });
    }

    /// [`Self::end`] with `T` vectors left, the last of which may be partly filled.
    ///
    /// # Safety
    /// As for [`Self::end`].
    #[inline(always)]
    unsafe fn end_of<const T: usize, const FIRST: bool>(&mut self) {
        let last_lanes = self.left() - (T - 1) * V::BLOCKS;
        let lanes = |v: usize| if v + 1 == T { last_lanes } else { V::BLOCKS };
        // SAFETY: the caller vouches for the CPU.
        let mut state = unsafe { self.counters::<T, FIRST>() };
        let mut data = state;
        each!(v < T, {
            // SAFETY: these lanes are blocks up to the last one.
            data[v] = unsafe {
                self.packet
                    .load(FIRST && v == 0, self.block + v * V::BLOCKS, lanes(v))
            };
        });
        // SAFETY: the caller vouches for the CPU; nothing is written yet.
        let received = unsafe { self.packet.received::<V>() };
        // SAFETY: as above.
        unsafe { self.packet.first_rounds(&mut state, T, false) };
        let before = !OPEN && !FIRST;
        each!(r < ROUNDS_MIN, {
            // SAFETY: as above.
            let key = unsafe { self.round_key(r) };
            round(&mut state, T, false, key);
            if before && r < W && r.is_multiple_of(2) {
                let block = self.block - Self::CHUNK;
                // SAFETY: the chunk before lies within the packet.
                let a = unsafe { self.hash_vector::<FIRST>(block, r + 1) };
                // SAFETY: as above.
                let b = unsafe { self.hash_vector::<FIRST>(block, (r + 2) % W) };
                self.product.add_pair(a, b);
                self.product.pin();
            }
            if OPEN && r < T {
                let v = (r + 1) % T;
                // SAFETY: as for this function.
                unsafe { self.hash_end::<T, FIRST>(v, data[v]) };
                self.product.pin();
            }
        });
        if before {
            self.chunk_hashed(self.left());
        }
        // SAFETY: the last round; the caller vouches for the CPU.
        let last: V = unsafe { self.round_key(ROUNDS_MIN) };
        each!(v < T, {
            state[v] = state[v].aes_last(last.xor(data[v]));
            // SAFETY: these lanes are blocks up to the last one.
            unsafe {
                self.packet.store(
                    FIRST && v == 0,
                    self.block + v * V::BLOCKS,
                    lanes(v),
                    state[v],
                )
            };
        });
        if FIRST {
            self.mask = state[0].lane(0);
        }
        self.received = received;
        if !OPEN && FIRST {
            each!(i < T, {
                let v = (i + 1) % T;
                // SAFETY: as for this function.
                unsafe { self.hash_end::<T, FIRST>(v, state[v]) };
            });
        }
    }

    /// Adds the last vectors of a sealed packet to the hash.
    ///
    /// # Safety
    /// As for [`long`]; all before them must be hashed.
    #[inline(always)]
    unsafe fn hash_all_of_end(&mut self) {
        by_vectors!(self, T => {
            // SAFETY: that many vectors are left.
            unsafe { self.hash_all_of::<T>() };
        });
    }

    /// [`Self::hash_all_of_end`] with `T` vectors left.
    ///
    /// # Safety
    /// As for that.
    #[inline(always)]
    unsafe fn hash_all_of<const T: usize>(&mut self) {
        each!(i < T, {
            // SAFETY: that many vectors are left.
            unsafe { self.hash_end_again::<T>((i + 1) % T) };
        });
    }

    /// [`Self::hash_end`] of what is in memory.
    ///
    /// # Safety
    /// As for that; it must be sealed.
    #[inline(always)]
    unsafe fn hash_end_again<const T: usize>(&mut self, v: usize) {
        let block = self.block + v * V::BLOCKS;
        let lanes = if v + 1 == T {
            self.total - block
        } else {
            V::BLOCKS
        };
        // SAFETY: these lanes are blocks up to the last one.
        let text = unsafe { self.packet.load(false, block, lanes) };
        // SAFETY: the caller vouches for it.
        unsafe { self.hash_end::<T, false>(v, text) };
    }

    /// Writes or compares the tag once all is hashed. Whoever opens has to [`wipe`] if the answer is
    /// false.
    #[inline(always)]
    fn finish(mut self) -> bool {
        if self.left().is_multiple_of(V::BLOCKS) {
            // SAFETY: a vector exists, so the CPU has its instructions.
            let lengths = unsafe { self.packet.lengths() };
            // SAFETY: as above.
            unsafe { self.packet.add_alone(&mut self.product, lengths) };
        }
        let tag = self.product.reduced().swap_bytes().xor(self.mask);
        self.packet.finish::<OPEN>(tag, self.received)
    }

    /// Adds vector `v` of the last `T` to the hash.
    ///
    /// # Safety
    /// As for [`Self::end`].
    #[inline(always)]
    unsafe fn hash_end<const T: usize, const FIRST: bool>(&mut self, v: usize, text: V) {
        let at = self.block + v * V::BLOCKS;
        let mut x = text;
        if v + 1 == T {
            x = x.keep_bytes(self.packet.len + 16 - 16 * at);
        }
        x = x.swap_bytes();
        if v == 0 {
            x = if FIRST {
                // SAFETY: the caller vouches for the CPU.
                x.set_lane(0, unsafe { self.packet.aad() })
            } else {
                x.xor(self.carry)
            };
        }
        if v + 1 == T {
            // SAFETY: the caller vouches for the CPU.
            x = x.set_lane(self.total - at, unsafe { self.packet.lengths() });
        }
        // SAFETY: one more than the blocks from `at` on, and no more than a chunk and one.
        let powers = unsafe { self.packet.powers(self.total + 1 - at) };
        self.product.add(x, powers);
    }
}

/// `word` as the last four bytes of every block.
///
/// # Safety
/// The CPU must have the tier's instructions.
#[inline(always)]
unsafe fn in_last_word<V: Lanes>(word: u32) -> V {
    // SAFETY: the caller vouches for the CPU.
    let block = unsafe { Xmm::from_halves(u64::from(word) << 32, 0) };
    // SAFETY: as above.
    unsafe { V::splat(block) }
}
