//! GHASH (SP 800-38D 6.4) by carry-less multiplication (Gueron and Kounavis, "Intel Carry-Less
//! Multiplication Instruction and its Usage for Computing the GCM Mode").
//!
//! Blocks are byte-reversed, so that bit 127 of a register is the polynomial's constant term, and
//! the product of two of them is one bit short of where it should be. Powers of H are kept shifted
//! by that bit (H * x mod P), which corrects every product at no cost.

use super::lanes::{Lanes, Xmm};

/// Sum of unreduced 256-bit products in three parts, each lane for itself.
#[derive(Clone, Copy)]
pub(super) struct Product<V> {
    low: V,
    /// The middle, or with Karatsuba what is the middle once `low` and `high` are taken out of it.
    cross: V,
    high: V,
}

impl<V: Lanes> Product<V> {
    /// Nothing yet.
    ///
    /// # Safety
    /// As for [`Lanes::zero`].
    #[inline(always)]
    pub(super) unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for the CPU.
        let zero = unsafe { V::zero() };
        Self {
            low: zero,
            cross: zero,
            high: zero,
        }
    }

    /// Adds `x * power`, without reducing it.
    #[inline(always)]
    pub(super) fn add(&mut self, x: V, power: V) {
        self.low = self.low.xor(x.multiply::<0x00>(power));
        self.high = self.high.xor(x.multiply::<0x11>(power));
        let cross = if V::KARATSUBA {
            let x_halves = x.xor(x.swap_halves());
            let power_halves = power.xor(power.swap_halves());
            x_halves.multiply::<0x00>(power_halves)
        } else {
            x.multiply::<0x01>(power).xor(x.multiply::<0x10>(power))
        };
        self.cross = self.cross.xor(cross);
    }

    /// Adds two products. Multiplications next to each other are cheaper than spread ones where each
    /// is a small microprogram (Zen 4: 1.8 and 2.5 cycles of the front end).
    #[inline(always)]
    pub(super) fn add_pair(&mut self, (a, a_power): (V, V), (b, b_power): (V, V)) {
        if V::KARATSUBA {
            self.add(a, a_power);
            self.add(b, b_power);
            return;
        }
        let low = (a.multiply::<0x00>(a_power), b.multiply::<0x00>(b_power));
        let high = (a.multiply::<0x11>(a_power), b.multiply::<0x11>(b_power));
        let one = (a.multiply::<0x01>(a_power), b.multiply::<0x01>(b_power));
        let other = (a.multiply::<0x10>(a_power), b.multiply::<0x10>(b_power));
        self.low = self.low.xor(low.0).xor(low.1);
        self.high = self.high.xor(high.0).xor(high.1);
        self.cross = self.cross.xor(one.0).xor(one.1);
        self.cross = self.cross.xor(other.0).xor(other.1);
    }

    #[inline(always)]
    fn middle(self) -> V {
        if V::KARATSUBA {
            self.cross.xor(self.low).xor(self.high)
        } else {
            self.cross
        }
    }

    /// See [`Lanes::pin`].
    #[inline(always)]
    pub(super) fn pin(&mut self) {
        self.low = self.low.pin();
        self.cross = self.cross.pin();
        self.high = self.high.pin();
    }

    /// The sum over the lanes, reduced. Lanes are reduced before they are added: the sum of one vector
    /// costs more than wider instructions.
    #[inline(always)]
    pub(super) fn reduced(self) -> Xmm {
        reduce(self.low, self.middle(), self.high).sum()
    }

    /// The same for up to `BLOCKS` sums at once: lane `m` is that of `group[m]` and of one half of
    /// `shared[m / 2]`, the lower one if `m` is even.
    #[inline(always)]
    pub(super) fn reduced_each(group: [Self; 4], shared: [Self; 2]) -> V {
        let low = V::sum_each(group.map(|sum| sum.low), shared.map(|sum| sum.low));
        let high = V::sum_each(group.map(|sum| sum.high), shared.map(|sum| sum.high));
        let cross = V::sum_each(group.map(|sum| sum.cross), shared.map(|sum| sum.cross));
        let sum = Self { low, cross, high };
        reduce(low, sum.middle(), high)
    }
}

/// The remainder of a 256-bit product modulo x^128 + x^127 + x^126 + x^121 + 1, the reflected
/// polynomial, in two folds of 64 bits.
#[inline(always)]
fn reduce<V: Lanes>(low: V, middle: V, high: V) -> V {
    // SAFETY: a vector exists, so the CPU has its instructions.
    let polynomial = unsafe { Xmm::from_halves(0xc2 << 56, 1) };
    // SAFETY: as above.
    let polynomial = unsafe { V::splat(polynomial) };
    // By the high half of the polynomial: its low half is 1, which is the exchange of the halves.
    let fold = |value: V| value.swap_halves().xor(polynomial.multiply::<0x01>(value));
    let middle = middle.xor(fold(low));
    high.xor(fold(middle))
}

/// The product of two elements, the second one shifted as the powers of H are.
#[inline(always)]
pub(super) fn multiply(x: Xmm, power: Xmm) -> Xmm {
    // SAFETY: a vector exists, so the CPU has its instructions.
    let mut product = unsafe { Product::zero() };
    product.add(x, power);
    product.reduced()
}
