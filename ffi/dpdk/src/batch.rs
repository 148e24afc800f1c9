//! Up to 64 packets that travel together.

use std::fmt;
use std::ops::{Deref, DerefMut};

use arrayvec::ArrayVec;

use crate::Mbuf;

/// Packets in a batch.
pub const BATCH_SIZE: usize = 64;

/// An ordered set of owned packets on the stack; what is left in it on drop goes back to its
/// pools. It dereferences to a slice of [`Mbuf`].
#[derive(Default)]
pub struct Batch(ArrayVec<Mbuf, BATCH_SIZE>);

impl Batch {
    /// An empty batch.
    #[inline(always)]
    #[must_use]
    pub const fn new() -> Self {
        Self(ArrayVec::new_const())
    }

    /// Packets that still fit.
    #[inline(always)]
    #[must_use]
    pub fn room(&self) -> usize {
        self.0.remaining_capacity()
    }

    /// Whether no packet fits any more.
    #[inline(always)]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.is_full()
    }

    /// Adds a packet at the end.
    ///
    /// # Errors
    /// Gives the packet back when the batch is full.
    #[inline(always)]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        self.0.try_push(mbuf).map_err(|full| full.element())
    }

    /// Takes the last packet.
    #[inline(always)]
    #[must_use]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.0.pop()
    }

    /// Takes the packet at `index` and puts the last one in its place.
    #[inline(always)]
    #[must_use]
    pub fn swap_take(&mut self, index: usize) -> Option<Mbuf> {
        self.0.swap_pop(index)
    }

    /// Keeps the packets for which `keep` says so, in order; the others are freed.
    #[inline(always)]
    pub fn retain(&mut self, mut keep: impl FnMut(&mut Mbuf) -> bool) {
        self.0.retain(|mbuf| keep(mbuf));
    }

    /// Takes all packets out, in order. What the iterator has not given on drop is freed.
    #[inline(always)]
    pub fn drain(&mut self) -> impl DoubleEndedIterator<Item = Mbuf> + ExactSizeIterator + '_ {
        self.0.drain(..)
    }

    /// Takes the first `count` packets (or all) out, in order; the others move to the front.
    #[inline(always)]
    pub fn drain_front(&mut self, count: usize) -> impl ExactSizeIterator<Item = Mbuf> + '_ {
        let count = count.min(self.0.len());
        self.0.drain(..count)
    }

    /// Frees all packets.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Lets `fill` write mbufs behind those held: it gets where to, and for how many.
    ///
    /// # Safety
    /// `fill` returns how many live mbufs that nobody else owns it wrote, without gaps.
    #[inline(always)]
    pub(crate) unsafe fn fill(&mut self, fill: impl FnOnce(*mut Mbuf, usize) -> usize) -> usize {
        let held = self.0.len();
        // SAFETY: `held` never exceeds the array.
        let end = unsafe { self.0.as_mut_ptr().add(held) };
        let added = fill(end, self.room());
        debug_assert!(added <= self.room());
        // SAFETY: as the caller promised.
        unsafe { self.0.set_len(held + added) };
        added
    }

    /// Lets `take` have mbufs from the front; the others move up.
    ///
    /// # Safety
    /// `take` returns how many of them it now owns.
    #[inline(always)]
    pub(crate) unsafe fn give(&mut self, take: impl FnOnce(*mut Mbuf, usize) -> usize) -> usize {
        let held = self.0.len();
        let first = self.0.as_mut_ptr();
        let taken = take(first, held);
        debug_assert!(taken <= held);
        let left = held - taken;
        // SAFETY: shorter; nothing is dropped by this.
        unsafe { self.0.set_len(left) };
        // SAFETY: `taken <= held`.
        let rest = unsafe { first.add(taken) };
        // SAFETY: moves the others within the array, whose length above is theirs.
        unsafe { core::ptr::copy(rest, first, left) };
        taken
    }
}

impl Deref for Batch {
    type Target = [Mbuf];

    #[inline(always)]
    fn deref(&self) -> &[Mbuf] {
        &self.0
    }
}

impl DerefMut for Batch {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Mbuf] {
        &mut self.0
    }
}

impl IntoIterator for Batch {
    type Item = Mbuf;
    type IntoIter = arrayvec::IntoIter<Mbuf, BATCH_SIZE>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
