//! Addresses as plain numbers, so that tables are written once for both families.

use std::fmt::Debug;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;

use api::id::Vrf;

/// An address of one family: `u32` for IPv4, `u128` for IPv6, the first bit of the address on top.
pub trait Address: Copy + Debug + Default + Eq + Hash + Ord + 'static {
    /// Width in bits.
    const BITS: u32;
    /// The highest address.
    const MAX: Self;

    /// The address, `None` for one of the other family.
    fn of(ip: IpAddr) -> Option<Self>;

    /// The low bits of a wide number, as wide as the family.
    fn narrow(wide: u128) -> Self;

    /// The address in the low bits of a wide number.
    fn wide(self) -> u128;

    /// The bits that are set in both.
    fn and(self, mask: Self) -> Self;

    /// Number of leading bits that both have in common.
    fn common_bits(self, other: Self) -> u32;

    /// Whether both are the same but for the last `host_bits` bits.
    fn agrees(self, other: Self, host_bits: u8) -> bool;

    /// The byte that ends `shift` bits above the last bit.
    fn byte(self, shift: u32) -> usize;

    /// Hash of a pair of addresses of a routing instance.
    fn mix(seeds: &Seeds, vrf: Vrf, local: Self, remote: Self) -> u64;

    /// The mask of a prefix of this many bits; longer than the family is taken as that.
    #[must_use]
    fn prefix_mask(bits: u32) -> Self {
        let host_bits = Self::BITS.saturating_sub(bits);
        Self::narrow(u128::MAX.checked_shl(host_bits).unwrap_or(0))
    }
}

impl Address for u32 {
    const BITS: Self = 32;
    const MAX: Self = Self::MAX;

    #[inline]
    fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(v4) => Some(v4.to_bits()),
            IpAddr::V6(_) => None,
        }
    }

    fn narrow(wide: u128) -> Self {
        Self::try_from(wide & u128::from(Self::MAX)).unwrap_or(0)
    }

    #[inline]
    fn wide(self) -> u128 {
        self.into()
    }

    #[inline(always)]
    fn and(self, mask: Self) -> Self {
        self & mask
    }

    fn common_bits(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }

    #[inline]
    fn agrees(self, other: Self, host_bits: u8) -> bool {
        (u64::from(self ^ other) >> (host_bits & 63)) == 0
    }

    #[inline]
    fn byte(self, shift: u32) -> usize {
        usize::try_from((self >> (shift & 31)) & 0xff).unwrap_or(0)
    }

    #[inline(always)]
    fn mix(seeds: &Seeds, vrf: Vrf, local: Self, remote: Self) -> u64 {
        let [a, b, c, d] = seeds.0;
        let addresses = u64::from(local) << 32 | u64::from(remote);
        // Once is not enough: neighbours differ in few bits, and a seed may be a bad factor.
        fold(fold(addresses ^ a, b) ^ c ^ u64::from(vrf.0), d)
    }
}

impl Address for u128 {
    const BITS: u32 = 128;
    const MAX: Self = Self::MAX;

    #[inline]
    fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(v6.to_bits()),
        }
    }

    fn narrow(wide: u128) -> Self {
        wide
    }

    #[inline]
    fn wide(self) -> u128 {
        self
    }

    #[inline(always)]
    fn and(self, mask: Self) -> Self {
        self & mask
    }

    fn common_bits(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }

    #[inline]
    fn agrees(self, other: Self, host_bits: u8) -> bool {
        (self ^ other).checked_shr(host_bits.into()).unwrap_or(0) == 0
    }

    #[inline]
    fn byte(self, shift: u32) -> usize {
        usize::try_from((self >> (shift & 127)) & 0xff).unwrap_or(0)
    }

    #[inline(always)]
    fn mix(seeds: &Seeds, vrf: Vrf, local: Self, remote: Self) -> u64 {
        let [a, b, c, d] = seeds.0;
        let [(local_high, local_low), (remote_high, remote_low)] = [halves(local), halves(remote)];
        let local = fold(local_high ^ a, local_low ^ b);
        let remote = fold(remote_high ^ c, remote_low ^ d ^ u64::from(vrf.0));
        fold(local ^ c, remote ^ a)
    }
}

/// Secret numbers of a hash table: without them nobody can make keys collide on purpose.
#[derive(Clone, Copy, Debug)]
pub struct Seeds([u64; 4]);

impl Seeds {
    /// New ones, from the system's randomness.
    #[must_use]
    pub fn new() -> Self {
        let random = RandomState::new();
        Self([0_u64, 1, 2, 3].map(|n| random.hash_one(n)))
    }

    /// Folds one more word into a hash.
    #[inline]
    #[must_use]
    pub fn stir(&self, hash: u64, word: u64) -> u64 {
        let [.., c, d] = self.0;
        fold(hash ^ c, word ^ d)
    }
}

impl Default for Seeds {
    fn default() -> Self {
        Self::new()
    }
}

/// Both halves of the product in one.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let (high, low) = halves(u128::from(a) * u128::from(b));
    high ^ low
}

#[inline(always)]
fn halves(wide: u128) -> (u64, u64) {
    let low = u64::try_from(wide & u128::from(u64::MAX)).unwrap_or(0);
    (u64::try_from(wide >> 64).unwrap_or(0), low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_edges() {
        assert_eq!(u32::prefix_mask(0), 0);
        assert_eq!(u32::prefix_mask(33), u32::MAX);
        assert_eq!(u32::prefix_mask(8), 0xff00_0000);
        assert_eq!(u128::prefix_mask(0), 0);
        assert_eq!(u128::prefix_mask(1), 1 << 127);
        assert_eq!(u128::prefix_mask(128), u128::MAX);
    }

    #[test]
    fn a_whole_address_of_host_bits_always_agrees() {
        assert!(0_u32.agrees(u32::MAX, 32));
        assert!(!0_u32.agrees(u32::MAX, 31));
        assert!(0_u128.agrees(u128::MAX, 128));
        assert!(!0_u128.agrees(u128::MAX, 127));
    }

    #[test]
    fn every_table_hashes_in_its_own_way() {
        let hash = |seeds: &Seeds| u32::mix(seeds, Vrf(0), 1, 2);
        assert_ne!(hash(&Seeds::new()), hash(&Seeds::new()));
    }
}
