//! The anti-replay window (RFC 4303 3.4.3) and extended sequence numbers (RFC 4303 A2).
//!
//! The bitmap is a ring: the bit of sequence number `s` is `s mod capacity`, so that nothing ever
//! shifts and a packet in order touches one word.
//!
//! # What an interrupted update leaves behind
//! The state outlives the process, which may be killed between any two stores of
//! [`Window::commit`]. They come in this order:
//!
//! 1. `highest` moves forward;
//! 2. the bits of the numbers that were jumped over are cleared;
//! 3. the packet's own bit is set.
//!
//! The stores of 2 and 3 are `Release`, so none of them becomes visible before 1. Killed after 1 or
//! inside 2, some ring places still hold bits of numbers that have left the window: numbers between
//! the old and the new edge look received. That rejects packets which might be genuine (harmless);
//! a clear bit in such a place is right, for nothing was received there. Killed before 3, the
//! packet itself may be accepted once more, and that is right too: delivery comes after commit, so
//! it was never delivered. The other order would be wrong: clearing first and then dying before
//! `highest` moves would forget numbers that are still inside the old window.
//!
//! There is one writer, so plain loads and stores do; readers see a consistent-enough picture.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// Smallest window in packets.
pub const MIN_WINDOW_BITS: u32 = 32;
/// Largest window in packets.
pub const MAX_WINDOW_BITS: u32 = 65_536;
const WORD_BITS: u32 = u64::BITS;

/// The 64-bit words that a window of `window_bits` packets needs: a power of two, 0 for none.
#[must_use]
pub const fn words_for(window_bits: u32) -> usize {
    if window_bits == 0 {
        return 0;
    }
    let words = window_bits.div_ceil(WORD_BITS).next_power_of_two();
    words as usize
}

/// What the window says about a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen yet.
    Fresh,
    /// Zero is never sent (RFC 4303 3.3.3).
    Zero,
    /// Left of the window.
    Late,
    /// Seen before.
    Duplicate,
}

/// Why a window could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowError {
    /// Neither 0 (off) nor between [`MIN_WINDOW_BITS`] and [`MAX_WINDOW_BITS`].
    Size(u32),
    /// Not [`words_for`] that size.
    Words(usize),
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(bits) => write!(
                f,
                "replay window of {bits}: use {MIN_WINDOW_BITS} to {MAX_WINDOW_BITS}, or 0 for none"
            ),
            Self::Words(words) => write!(f, "{words} words do not fit the replay window"),
        }
    }
}

impl std::error::Error for WindowError {}

/// A view on one SA's replay state. Cheap to make; all state is the caller's.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    words: &'a [AtomicU64],
    highest: &'a AtomicU64,
    bits: u32,
}

impl<'a> Window<'a> {
    /// A window of `window_bits` packets (0: replay protection off) over [`words_for`] words, and
    /// the highest authenticated sequence number. A fresh SA has all of them zero; a first number
    /// above 1 may be set by starting `highest` there.
    ///
    /// # Errors
    /// [`WindowError`]
    #[inline]
    pub const fn new(
        words: &'a [AtomicU64],
        highest: &'a AtomicU64,
        window_bits: u32,
    ) -> Result<Self, WindowError> {
        if !matches!(window_bits, 0 | MIN_WINDOW_BITS..=MAX_WINDOW_BITS) {
            return Err(WindowError::Size(window_bits));
        }
        if words.len() != words_for(window_bits) {
            return Err(WindowError::Words(words.len()));
        }
        Ok(Self {
            words,
            highest,
            bits: window_bits,
        })
    }

    /// The highest authenticated sequence number.
    #[inline]
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest.load(Ordering::Relaxed)
    }

    /// The full sequence number of a packet with ESN from the 32 bits it carries (RFC 4303 A2.1).
    ///
    /// None if that would be before the first or beyond the last number there is: treat it as
    /// [`Verdict::Late`]. Only authentication proves the answer right.
    #[inline]
    #[must_use]
    pub fn infer(&self, low: u32) -> Option<u64> {
        // Without a window the nearest number wins.
        let window = if self.bits == 0 { 1 << 31 } else { self.bits };
        let highest = self.highest();
        let (top_high, top_low) = halves(highest);
        let bottom = top_low.wrapping_sub(window.wrapping_sub(1));
        // Case A: the window lies in one 2^32 subspace; case B: it straddles two.
        let high = match (top_low >= window.wrapping_sub(1), low >= bottom) {
            (true, true) | (false, false) => top_high,
            (true, false) => top_high.checked_add(1)?,
            (false, true) => top_high.checked_sub(1)?,
        };
        Some((u64::from(high) << 32) | u64::from(low))
    }

    /// Whether a packet with this number may be accepted; the state stays (RFC 4303 3.4.3).
    #[inline]
    #[must_use]
    pub fn check(&self, sequence: u64) -> Verdict {
        if self.bits == 0 {
            return Verdict::Fresh;
        }
        if sequence == 0 {
            return Verdict::Zero;
        }
        // By subtraction: `sequence + window` could overflow.
        match self.highest().checked_sub(sequence) {
            None => Verdict::Fresh,
            Some(behind) if behind >= u64::from(self.bits) => Verdict::Late,
            Some(_) if self.is_set(sequence) => Verdict::Duplicate,
            Some(_) => Verdict::Fresh,
        }
    }

    /// Test and set after authentication, before delivery: only [`Verdict::Fresh`] may be
    /// delivered.
    ///
    /// Call it for the packets of a batch in order: a number twice in a batch passes
    /// [`Self::check`] twice, and here once.
    #[inline]
    #[must_use]
    pub fn commit(&self, sequence: u64) -> Verdict {
        let highest = self.highest();
        // The usual case, and not the first number of a word: no bit has to be cleared.
        if sequence == highest.wrapping_add(1) && sequence & 63 != 0 && self.bits != 0 {
            self.highest.store(sequence, Ordering::Relaxed);
            self.set(sequence);
            return Verdict::Fresh;
        }
        let verdict = self.check(sequence);
        if verdict != Verdict::Fresh {
            return verdict;
        }
        if sequence > highest {
            self.highest.store(sequence, Ordering::Relaxed);
            if sequence >> 6 == highest >> 6 {
                // Clearing and setting at once: what was jumped over is in one word.
                self.set_above(highest, sequence);
                return Verdict::Fresh;
            }
            self.clear_between(highest, sequence);
        }
        self.set(sequence);
        Verdict::Fresh
    }

    /// The word that the bit of a sequence number is in, of which only the low bits need be known;
    /// `None` if the window is off.
    #[inline]
    #[must_use]
    pub fn word_of(&self, sequence: u64) -> Option<&AtomicU64> {
        self.word(sequence >> 6)
    }

    #[inline]
    fn capacity(&self) -> u64 {
        (self.words.len() as u64).wrapping_mul(u64::from(WORD_BITS))
    }

    /// The word of a sequence number and its bit in there.
    #[inline]
    fn place(&self, sequence: u64) -> (Option<&AtomicU64>, u64) {
        let bit = sequence & u64::from(WORD_BITS - 1);
        (self.word(sequence >> 6), 1_u64 << bit)
    }

    /// The word with that number, counted around the ring.
    #[inline]
    fn word(&self, number: u64) -> Option<&AtomicU64> {
        // The length is a power of two, and 0 only if the window is off.
        let mask = (self.words.len() as u64).wrapping_sub(1);
        usize::try_from(number & mask)
            .ok()
            .and_then(|index| self.words.get(index))
    }

    #[inline]
    fn is_set(&self, sequence: u64) -> bool {
        let (word, bit) = self.place(sequence);
        // No such word cannot happen; if it did, refusing is the safe answer.
        word.is_none_or(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    #[inline]
    fn set(&self, sequence: u64) {
        let (word, bit) = self.place(sequence);
        if let Some(word) = word {
            word.store(word.load(Ordering::Relaxed) | bit, Ordering::Release);
        }
    }

    /// Sets the bit of `to` and clears those between, where `from` is less and in the same word.
    #[inline]
    fn set_above(&self, from: u64, to: u64) {
        let (word, bit) = self.place(to);
        if let Some(word) = word {
            let jumped = ((u64::MAX << (from & 63)) << 1) & (u64::MAX >> (!to & 63));
            word.store(
                (word.load(Ordering::Relaxed) & !jumped) | bit,
                Ordering::Release,
            );
        }
    }

    /// Clears the bits of all numbers above `from` and up to `to`.
    #[inline]
    fn clear_between(&self, from: u64, to: u64) {
        if to.wrapping_sub(from) >= self.capacity() {
            for word in self.words {
                word.store(0, Ordering::Release);
            }
            return;
        }
        let (first, last) = ((from >> 6), (to >> 6));
        for number in first..=last {
            // Of the first word the bits above `from` go, of the last those up to `to`.
            let above = if number == first {
                (u64::MAX << (from & 63)) << 1
            } else {
                u64::MAX
            };
            let up_to = if number == last {
                u64::MAX >> (!to & 63)
            } else {
                u64::MAX
            };
            if let Some(word) = self.word(number) {
                let kept = word.load(Ordering::Relaxed) & !(above & up_to);
                word.store(kept, Ordering::Release);
            }
        }
    }
}

/// The high and the low 32 bits.
pub(crate) fn halves(sequence: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = sequence.to_be_bytes();
    (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    )
}

#[cfg(test)]
mod tests;
