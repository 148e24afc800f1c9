//! Memory for replay windows: blocks of powers of two, handed out by the dataplane.

use crate::buddy::Buddy;
use crate::record::MAX_WINDOW_BITS;
use crate::state::{StateView, States, WINDOW_UNIT_WORDS, high32, low32};
use crate::sync::Ordering;

/// Largest block: 65,536 bits are 128 units of 8 words.
const MAX_ORDER: u32 = 7;
const MAX_WORDS: u32 = MAX_WINDOW_BITS / 64;
const UNIT_WORDS: u32 = 8;
const _: () = assert!(UNIT_WORDS as usize == WINDOW_UNIT_WORDS);
const _: () = assert!(UNIT_WORDS << MAX_ORDER == MAX_WORDS);

/// Where a window lies and how many words it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WindowSlot {
    unit: u32,
    words: u32,
}

impl WindowSlot {
    /// Words of the window: a power of two, 1 to 1,024.
    #[inline]
    #[must_use]
    pub const fn words(self) -> usize {
        self.words as usize
    }

    /// Offset in units of 64 bytes.
    #[inline]
    pub(crate) const fn unit(self) -> u32 {
        self.unit
    }

    const fn order(self) -> u32 {
        order(self.words)
    }

    /// Whether the whole block lies within so many units.
    #[inline]
    pub(crate) const fn is_within(self, units: u32) -> bool {
        match self.unit.checked_add(1 << self.order()) {
            Some(end) => end <= units,
            None => false,
        }
    }

    /// As a word of a row; never 0.
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.words) << 32 | u64::from(self.unit)
    }

    /// Out of a word of a row; `None` when there is no window or its size is impossible.
    pub(crate) const fn unpack(word: u64) -> Option<Self> {
        let (unit, words) = (low32(word), high32(word));
        if words == 0 || words > MAX_WORDS || !words.is_power_of_two() {
            return None;
        }
        Some(Self { unit, words })
    }
}

const fn order(words: u32) -> u32 {
    words.div_ceil(UNIT_WORDS).ilog2()
}

/// Hands out windows. Lives in the control thread; the lists are private.
#[derive(Clone, Debug)]
pub struct Windows {
    free: Buddy,
}

impl Windows {
    /// All of a region's window memory, less what its rows use.
    #[must_use]
    pub fn new(states: &States) -> Self {
        Self::of(&states.view())
    }

    /// Rebuilds the lists from the rows of a region.
    fn of(view: &StateView) -> Self {
        let mut free = Buddy::new(view.layout.window_units, MAX_ORDER);
        for slot in view.used().filter_map(|row| row.window) {
            free.reserve(slot.unit, slot.order());
        }
        Self { free }
    }

    /// A zeroed window for at least `window_bits` packets; `None` when the bits are not 1 to 65,536
    /// or the memory is used up.
    pub fn allocate(&mut self, states: &States, window_bits: u32) -> Option<WindowSlot> {
        if window_bits == 0 || window_bits > MAX_WINDOW_BITS {
            return None;
        }
        let words = window_bits.div_ceil(64).next_power_of_two();
        let slot = WindowSlot {
            unit: self.free.allocate(order(words))?,
            words,
        };
        for word in states.window(slot) {
            word.store(0, Ordering::Relaxed);
        }
        Some(slot)
    }

    /// Takes a window back; no worker uses it any more.
    pub fn release(&mut self, slot: WindowSlot) {
        self.free.release(slot.unit, slot.order());
    }
}
