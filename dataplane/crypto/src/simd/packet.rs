//! What every kernel is made of: a packet's blocks, its counters and the rounds of AES.

use super::each;
use super::ghash::Product;
use super::lanes::{Block, Lanes, Xmm};
use crate::key::KeyContext;
use crate::op::{ICV_ROOM, Op};

/// Vectors that one pass of a kernel works on at most.
pub(super) const VECTORS_MAX: usize = 10;

/// Rounds of every key length, without the first, which adds a key, and the last.
pub(super) const ROUNDS_MIN: usize = 9;

/// Vectors of one packet.
pub(super) type Vectors<V> = [V; VECTORS_MAX];

/// Blocks of the widest vectors.
const COUNTERS_MAX: usize = 4 * VECTORS_MAX;

/// Counter blocks without nonce: entry `i` is the counter `i + 1`, big-endian (SP 800-38D 7.1).
#[repr(align(64))]
struct Counters([Block; COUNTERS_MAX]);
static COUNTERS: Counters = {
    let mut blocks = [[0; 16]; COUNTERS_MAX];
    let mut at = 0;
    while at < COUNTERS_MAX {
        blocks[at][15] = at as u8 + 1;
        at += 1;
    }
    Counters(blocks)
};

/// A packet in work. Block 0 has no data, blocks `1..=blocks` are the payload's.
#[derive(Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) key: &'a KeyContext,
    pub(super) op: *mut Op<'a>,
    data: *mut u8,
    pub(super) len: usize,
}

impl<'a> Packet<'a> {
    /// # Safety
    /// `op` must be valid and used by nobody else for as long as the packet is; its key must be one
    /// of a SIMD tier.
    #[inline(always)]
    pub(super) unsafe fn new(op: *mut Op<'a>) -> Self {
        // SAFETY: the caller vouches for it.
        let op_ref = unsafe { &mut *op };
        Self {
            key: op_ref.key,
            op,
            data: op_ref.data,
            len: op_ref.len as usize,
        }
    }

    /// The same with `key`, which is its own: so that the compiler sees where keys are the same.
    #[inline(always)]
    pub(super) fn with_key(self, key: &'a KeyContext) -> Self {
        Self { key, ..self }
    }

    #[inline(always)]
    fn op(&self) -> &Op<'a> {
        // SAFETY: `new`'s caller vouches for it; only `set_ok` writes, and no reference lives then.
        unsafe { &*self.op }
    }

    /// Payload blocks, the last of which may be part of one.
    #[inline(always)]
    pub(super) fn blocks(&self) -> usize {
        self.len.div_ceil(16)
    }

    #[inline(always)]
    pub(super) fn set_ok(&self, ok: bool) {
        // SAFETY: `new`'s caller vouches for it.
        unsafe { (*self.op).ok = ok };
    }

    #[inline(always)]
    fn address(&self, block: usize) -> *mut u8 {
        self.data.wrapping_add(16 * block).wrapping_sub(16)
    }

    /// Reads payload blocks of the vector that begins with `block`: lanes up to `lanes`, but if it is
    /// the `first` vector not block 0, which has no data. A compiler that knows both reads without a mask.
    ///
    /// # Safety
    /// The CPU must have the tier's instructions, and `block + lanes - 1` be at most `blocks`: the
    /// last one may reach into the 16 bytes behind the payload, which are the operation's too.
    #[inline(always)]
    pub(super) unsafe fn load<V: Lanes>(&self, first: bool, block: usize, lanes: usize) -> V {
        debug_assert_eq!(first, block == 0);
        // SAFETY: whole blocks of the payload, and so within `data`.
        unsafe { V::load_lanes(self.address(block), usize::from(first), lanes) }
    }

    /// Writes payload blocks, which may take bytes of the 16 behind the payload.
    ///
    /// # Safety
    /// As for [`Packet::load`].
    #[inline(always)]
    pub(super) unsafe fn store<V: Lanes>(
        &self,
        first: bool,
        block: usize,
        lanes: usize,
        vector: V,
    ) {
        debug_assert_eq!(first, block == 0);
        // SAFETY: whole blocks of the payload, and so within `data`.
        unsafe { vector.store_lanes(self.address(block), usize::from(first), lanes) };
    }

    /// The ICV that came with the packet. To be read before the payload is written.
    ///
    /// # Safety
    /// The CPU must have the tier's instructions.
    #[inline(always)]
    pub(super) unsafe fn received<V: Lanes>(&self) -> Xmm {
        const { assert!(ICV_ROOM == 16) };
        // SAFETY: `data` has 16 bytes behind the payload.
        unsafe { Xmm::load(self.data.wrapping_add(self.len)) }
    }

    /// Writes the tag, or compares its first bytes with what was received: all at once, in a time
    /// that does not depend on where they differ.
    ///
    /// Whoever opens has to call [`wipe`] later if the answer is false.
    #[inline(always)]
    pub(super) fn finish<const OPEN: bool>(&self, tag: Xmm, received: Xmm) -> bool {
        if OPEN {
            let difference = tag.xor(received).and(tag.mask(self.key.icv_len()));
            let ok = difference.is_zero();
            self.set_ok(ok);
            ok
        } else {
            // SAFETY: `data` has 16 bytes behind the payload.
            unsafe { tag.store(self.data.wrapping_add(self.len)) };
            self.set_ok(true);
            true
        }
    }

    /// The AAD as the hash's block 0.
    ///
    /// # Safety
    /// The CPU must have the tier's instructions.
    #[inline(always)]
    pub(super) unsafe fn aad(&self) -> Xmm {
        // SAFETY: the field has 16 bytes; the caller vouches for the CPU.
        unsafe { Xmm::load(self.op().aad.as_ptr().cast()) }
    }

    /// The block of lengths in bits, which is hashed last.
    ///
    /// # Safety
    /// The CPU must have the tier's instructions.
    #[inline(always)]
    pub(super) unsafe fn lengths(&self) -> Xmm {
        // SAFETY: the field has 16 bytes; the caller vouches for the CPU.
        unsafe { Xmm::load(self.op().lengths.as_ptr().cast()) }
    }

    /// The nonce with counter 0, with round 0 of AES done.
    ///
    /// # Safety
    /// The CPU must have the tier's instructions.
    #[inline(always)]
    pub(super) unsafe fn nonce<V: Lanes>(&self) -> V {
        // SAFETY: the caller vouches for the CPU.
        let iv = unsafe { Xmm::from_halves(0, u64::from_le_bytes(self.op().iv)) }.behind_salt();
        // SAFETY: a field of the key; the caller vouches for the CPU.
        let start = unsafe { Xmm::broadcast(&raw const self.key.nonce_start) };
        // SAFETY: the caller vouches for the CPU.
        unsafe { V::splat(start.xor(iv)) }
    }

    /// The powers of H for a vector whose first lane has `power`, in falling order. Lanes beyond
    /// power 1 hold other bytes of the key, which are for lanes that are zero.
    ///
    /// # Safety
    /// The CPU must have the tier's instructions, and `power` be in `1..=POWERS`.
    #[inline(always)]
    pub(super) unsafe fn powers<V: Lanes>(&self, power: usize) -> V {
        let at = self.key.powers_from(power);
        // SAFETY: behind the last power come more than 48 bytes of the same structure.
        unsafe { V::load(at) }
    }

    /// The same for the lower half of a vector; the upper one is zero.
    ///
    /// # Safety
    /// As for [`Packet::powers`].
    #[inline(always)]
    pub(super) unsafe fn powers_half<V: Lanes>(&self, power: usize) -> V {
        let at = self.key.powers_from(power);
        // SAFETY: behind the last power come more than 48 bytes of the same structure.
        unsafe { V::load_lanes(at, 0, V::BLOCKS.div_ceil(2)) }
    }

    /// Adds `block` times H, for the block of lengths where no lane is left for it.
    ///
    /// # Safety
    /// The CPU must have the tier's instructions.
    #[inline(always)]
    pub(super) unsafe fn add_alone<V: Lanes>(&self, product: &mut Product<V>, block: Xmm) {
        // SAFETY: the caller vouches for the CPU.
        let zero = unsafe { V::zero() };
        // SAFETY: power 1 is there; the caller vouches for the CPU.
        let power = unsafe { self.powers::<V>(1) };
        product.add(zero.set_lane(0, block), power);
    }

    /// The key of an AES round in every lane, counted from 0 for the first of the last ten rounds: all
    /// key lengths have those, and longer ones have others before them.
    ///
    /// # Safety
    /// The CPU must have the tier's instructions, and `round` be at most [`ROUNDS_MIN`], which is the
    /// last round.
    #[inline(always)]
    pub(super) unsafe fn round_key<V: Lanes>(&self, round: usize) -> V {
        let keys = (&raw const self.key.round_keys).cast::<Block>();
        // SAFETY: 10 of at least 10 + `rounds_before` keys; the caller vouches for the CPU.
        unsafe { V::broadcast(keys.wrapping_add(self.rounds_before() + round)) }
    }

    /// The same counted from the first round, which is 0. All lengths have their last round at
    /// [`Packet::rounds_before`] + [`ROUNDS_MIN`].
    ///
    /// # Safety
    /// The CPU must have the tier's instructions, and the key that round.
    #[inline(always)]
    pub(super) unsafe fn key_of_round<V: Lanes>(&self, round: usize) -> V {
        let keys = (&raw const self.key.round_keys).cast::<Block>();
        // SAFETY: the caller vouches for the round and the CPU.
        unsafe { V::broadcast(keys.wrapping_add(round)) }
    }

    /// Rounds before the last ten: 0, 2 or 4.
    #[inline(always)]
    pub(super) fn rounds_before(&self) -> usize {
        self.key.rounds().wrapping_sub(ROUNDS_MIN + 1)
    }

    /// Does the rounds before the last ten.
    ///
    /// They come first, as a loop that most packets skip, so that what follows is one piece of
    /// straight-line code: behind a branch, the compiler would not leave the hash between the rounds.
    ///
    /// # Safety
    /// The CPU must have the tier's instructions.
    #[inline(always)]
    pub(super) unsafe fn first_rounds<V: Lanes>(
        &self,
        state: &mut Vectors<V>,
        count: usize,
        half: bool,
    ) {
        let keys = (&raw const self.key.round_keys).cast::<Block>();
        for r in 0..self.rounds_before() {
            // SAFETY: there are more keys than rounds before; the caller vouches for the CPU.
            let key = unsafe { V::broadcast(keys.wrapping_add(r)) };
            round(state, count, half, key);
        }
    }
}

/// The first counters, from that of `block` on: 1 for block 0.
///
/// # Safety
/// The CPU must have the tier's instructions; the vector must end within the first [`COUNTERS_MAX`] blocks.
#[inline(always)]
pub(super) unsafe fn first_counters<V: Lanes>(block: usize) -> V {
    let at = COUNTERS.0.as_ptr().wrapping_add(block);
    // SAFETY: the caller vouches for it.
    unsafe { V::load(at.cast()) }
}

/// Clears the operations whose ICV is wrong: what was decrypted is nobody's to see. Not a part of
/// [`Packet::finish`]: a call between the rounds would keep all vectors in memory.
///
/// # Safety
/// Operations must be valid and used by nobody else.
#[cold]
#[inline(never)]
pub(super) unsafe fn wipe(ops: &[*mut Op<'_>]) {
    for op in ops {
        // SAFETY: the caller vouches for it.
        let op = unsafe { &mut **op };
        if !op.ok {
            // SAFETY: payload and the 16 bytes behind it are the operation's.
            unsafe { op.data.write_bytes(0, op.len as usize + ICV_ROOM) };
        }
    }
}

/// One round for `count` vectors, of the last one only the lower half if `HALF`.
#[inline(always)]
pub(super) fn round<V: Lanes>(state: &mut Vectors<V>, count: usize, half: bool, key: V) {
    each!(v < count, {
        state[v] = if half && v + 1 == count {
            state[v].aes_round_half(key)
        } else {
            state[v].aes_round(key)
        }
        .pin();
    });
}
