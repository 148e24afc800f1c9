//! A vector of 1, 2 or 4 blocks of 16 bytes, and what the kernels ask of it.
//!
//! The kernels are written once over [`Lanes`]. To add a tier, implement it for another vector type
//! and give [`super::tiers`] the entry points.
//!
//! Only loads, `zero` and `splat` make a vector out of nothing, and they are unsafe: their caller
//! vouches for the CPU. All else is safe, because whoever holds a vector has come past that check.

/// 16 bytes: an AES block, a round key or a power of H.
pub(crate) type Block = [u8; 16];

/// The bytes of `Lanes::swap_bytes`: GHASH counts bits from the other end (SP 800-38D 6.3).
pub(super) const REVERSE: [i8; 16] = [15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0];

/// Blocks side by side in one register. Lane 0 is the one at the lowest address.
pub(super) trait Lanes: Copy {
    /// Whether three multiplications, two shuffles and three additions are cheaper than four
    /// multiplications and one addition: measured.
    const KARATSUBA: bool;
    /// Lanes of a vector.
    const BLOCKS: usize;
    /// Keys of the last rounds that [`super::long`] keeps in registers, for which there have to be
    /// enough: loads are what its loop waits for.
    const KEYS_HELD: usize;

    /// All zeros.
    ///
    /// # Safety
    /// The CPU must have the instructions of this tier.
    unsafe fn zero() -> Self;

    /// The same block in every lane.
    ///
    /// # Safety
    /// The CPU must have the instructions of this tier.
    unsafe fn splat(block: Xmm) -> Self;

    /// The block at `at` in every lane.
    ///
    /// # Safety
    /// As for [`Lanes::zero`]; 16 bytes at `at` must be readable.
    unsafe fn broadcast(at: *const Block) -> Self;

    /// Reads all lanes.
    ///
    /// # Safety
    /// As for [`Lanes::zero`]; `16 * BLOCKS` bytes at `at` must be readable.
    unsafe fn load(at: *const u8) -> Self;

    /// Reads lanes `from..to` of a vector whose lane 0 is at `at`; the others are zero.
    ///
    /// # Safety
    /// As for [`Lanes::zero`]; those lanes must be readable, no others are touched.
    unsafe fn load_lanes(at: *const u8, from: usize, to: usize) -> Self;

    /// Writes lanes `from..to` of a vector whose lane 0 is at `at`.
    ///
    /// # Safety
    /// Those lanes must be writable, no others are touched.
    unsafe fn store_lanes(self, at: *mut u8, from: usize, to: usize);

    /// Lane `lane`.
    fn lane(self, lane: usize) -> Xmm;
    /// The same but for `lane`, which is `block`; no change if there is no such lane.
    fn set_lane(self, lane: usize, block: Xmm) -> Self;
    /// The first `bytes` bytes, then zeros.
    fn keep_bytes(self, bytes: usize) -> Self;
    /// Exclusive or.
    fn xor(self, other: Self) -> Self;
    /// Reverses the bytes of each block.
    fn swap_bytes(self) -> Self;
    /// Exchanges the halves of each block.
    fn swap_halves(self) -> Self;
    /// Adds the 32-bit words.
    fn add_words(self, other: Self) -> Self;
    /// One round of AES (FIPS 197 5.1).
    fn aes_round(self, key: Self) -> Self;
    /// One round, of which only the lower half of the lanes is wanted: a narrower instruction where
    /// that is cheaper.
    fn aes_round_half(self, key: Self) -> Self;
    /// The last round of AES.
    fn aes_last(self, key: Self) -> Self;
    /// Carry-less product of one half of each block: bit 0 of `HALVES` chooses that of `self`, bit 4
    /// that of `other`.
    fn multiply<const HALVES: i32>(self, other: Self) -> Self;
    /// The same value, at this place in the code: the compiler computes it before what is pinned later
    /// and does not reorder. It would put all rounds of AES first and all multiplications behind them,
    /// where the CPU no longer sees both at once.
    fn pin(self) -> Self;
    /// The lower half of the lanes, then those of `high`. There are two lanes at least.
    fn join_halves(self, high: Self) -> Self;
    /// Lane `m` is the sum of the lanes of `group[m]` and of half of `shared[m / 2]`, the lower half if
    /// `m` is even: for the first `BLOCKS` of them.
    fn sum_each(group: [Self; 4], shared: [Self; 2]) -> Self;

    /// The sum of the lanes.
    #[inline(always)]
    fn sum(self) -> Xmm {
        let mut sum = self.lane(0);
        for lane in 1..Self::BLOCKS {
            sum = sum.xor(self.lane(lane));
        }
        sum
    }
}

pub(super) use super::xmm::Xmm;
