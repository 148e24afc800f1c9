//! The anti-replay window (RFC 4303 3.4.3) and extended sequence numbers (RFC 4303 A2).
//!
//! The bits of 64 numbers make a word: that of sequence number `s` is `s / 64`. The word of the highest
//! number lies beside that number, so that a packet in order touches nothing else. All others are a ring,
//! in which a word keeps its place: nothing ever shifts. When the highest number leaves its word, that
//! goes to its place in the ring, where the oldest word that the window reaches into may lie too: its
//! numbers are the bits above.
//!
//! # What an interrupted update leaves behind
//! The state outlives the process, which may be killed between any two stores of
//! [`Window::commit`]. They come in this order:
//!
//! 1. the word that is left goes to the ring;
//! 2. `highest` moves forward;
//! 3. the bits of the numbers that were jumped over are cleared in the ring;
//! 4. the word of the highest number gets the packet's own bit and loses all that it had of the word
//!    before.
//!
//! The stores from 2 on are in order of program, as each is `Release`. Killed after 1, nothing has
//! changed: that place of the ring is looked at for the older word's bits only, which stay. Killed
//! after 2 or inside 3, some places still hold bits of other numbers: numbers between the old and the
//! new edge look received. That rejects packets which might be genuine (harmless); a clear bit in such
//! a place is right, for nothing was received there. Killed before 4, the packet itself may be accepted
//! once more, and that is right too: delivery comes after commit, so it was never delivered. Other
//! orders would be wrong: clearing first and then dying before `highest` moves would forget numbers
//! that are still inside the old window, and so would moving `highest` before its word is in the ring.
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
    ring: &'a [AtomicU64],
    newest: &'a Newest,
    bits: u32,
}

/// The highest authenticated sequence number, and the word that has its bit.
pub type Newest = [AtomicU64; 2];

impl<'a> Window<'a> {
    /// A window of `window_bits` packets (0: replay protection off) over a ring of [`words_for`] words
    /// and the newest ones. A fresh SA has all of them zero; a first number above 1 may be set by
    /// starting the highest there.
    ///
    /// # Errors
    /// [`WindowError`]
    #[inline]
    pub const fn new(
        ring: &'a [AtomicU64],
        newest: &'a Newest,
        window_bits: u32,
    ) -> Result<Self, WindowError> {
        if !matches!(window_bits, 0 | MIN_WINDOW_BITS..=MAX_WINDOW_BITS) {
            return Err(WindowError::Size(window_bits));
        }
        if ring.len() != words_for(window_bits) {
            return Err(WindowError::Words(ring.len()));
        }
        Ok(Self {
            ring,
            newest,
            bits: window_bits,
        })
    }

    /// The highest authenticated sequence number.
    #[inline]
    #[must_use]
    pub fn highest(&self) -> u64 {
        let [highest, _] = self.newest;
        highest.load(Ordering::Relaxed)
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
        let highest = self.highest();
        match highest.checked_sub(sequence) {
            None => Verdict::Fresh,
            Some(behind) if behind >= u64::from(self.bits) => Verdict::Late,
            Some(_) if self.is_set(sequence, highest) => Verdict::Duplicate,
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
        let [newest, word] = self.newest;
        let highest = self.highest();
        // The usual case, and not the first number of a word: no bit has to be cleared.
        if sequence == highest.wrapping_add(1) && bit(sequence) != 1 {
            newest.store(sequence, Ordering::Relaxed);
            set(word, sequence);
            return Verdict::Fresh;
        }
        let verdict = self.check(sequence);
        if verdict != Verdict::Fresh {
            return verdict;
        }
        if sequence <= highest {
            if let Some(word) = self.word(sequence, highest) {
                set(word, sequence);
            }
        } else if number(sequence) == number(highest) {
            newest.store(sequence, Ordering::Relaxed);
            // Clearing and setting at once: what was jumped over is in one word.
            let kept = word.load(Ordering::Relaxed) & !above(highest);
            word.store(kept | bit(sequence), Ordering::Release);
        } else {
            self.leave_word(highest);
            newest.store(sequence, Ordering::Release);
            self.clear_between(highest, sequence);
            word.store(bit(sequence), Ordering::Release);
        }
        Verdict::Fresh
    }

    /// What [`commit`](Self::commit) touches besides the newest words when a packet in order, of whose
    /// number only the low bits need be known, is the first of its word.
    #[inline]
    #[must_use]
    pub fn left_by(&self, sequence: u64) -> Option<&AtomicU64> {
        if bit(sequence) != 1 {
            return None;
        }
        self.place(number(sequence).wrapping_sub(1))
    }

    #[inline]
    fn capacity(&self) -> u64 {
        (self.ring.len() as u64).wrapping_mul(u64::from(WORD_BITS))
    }

    /// The ring's place for the word with that number.
    #[inline]
    fn place(&self, number: u64) -> Option<&AtomicU64> {
        // The length is a power of two, and 0 only if the window is off.
        let mask = (self.ring.len() as u64).wrapping_sub(1);
        usize::try_from(number & mask)
            .ok()
            .and_then(|index| self.ring.get(index))
    }

    /// The word that has the bit of a sequence number.
    #[inline]
    fn word(&self, sequence: u64, highest: u64) -> Option<&AtomicU64> {
        let [_, word] = self.newest;
        if number(sequence) == number(highest) {
            Some(word)
        } else {
            self.place(number(sequence))
        }
    }

    #[inline]
    fn is_set(&self, sequence: u64, highest: u64) -> bool {
        // No such word cannot happen; if it did, refusing is the safe answer.
        self.word(sequence, highest)
            .is_none_or(|word| word.load(Ordering::Relaxed) & bit(sequence) != 0)
    }

    /// Puts the word of the highest number into the ring. What is there above that number is of the
    /// oldest word and stays.
    #[inline]
    fn leave_word(&self, highest: u64) {
        let [_, word] = self.newest;
        if let Some(place) = self.place(number(highest)) {
            let above = above(highest);
            let older = place.load(Ordering::Relaxed) & above;
            let left = word.load(Ordering::Relaxed) & !above;
            place.store(older | left, Ordering::Release);
        }
    }

    /// Clears the bits of all numbers above `from`, and below the word of `to`, in the ring.
    #[inline]
    fn clear_between(&self, from: u64, to: u64) {
        if to.wrapping_sub(from) >= self.capacity() {
            for place in self.ring {
                place.store(0, Ordering::Release);
            }
            return;
        }
        if let Some(place) = self.place(number(from)).filter(|_| above(from) != 0) {
            let kept = place.load(Ordering::Relaxed) & !above(from);
            place.store(kept, Ordering::Release);
        }
        for number in number(from).wrapping_add(1)..number(to) {
            if let Some(place) = self.place(number) {
                place.store(0, Ordering::Release);
            }
        }
    }
}

/// Sets the bit of a sequence number in its word.
#[inline]
fn set(word: &AtomicU64, sequence: u64) {
    word.store(
        word.load(Ordering::Relaxed) | bit(sequence),
        Ordering::Release,
    );
}

/// The number of the word that a sequence number is in.
#[inline]
const fn number(sequence: u64) -> u64 {
    sequence >> WORD_BITS.trailing_zeros()
}

/// The bit of a sequence number in its word.
#[inline]
const fn bit(sequence: u64) -> u64 {
    1 << (sequence & 63)
}

/// The bits above that of a sequence number.
#[inline]
const fn above(sequence: u64) -> u64 {
    (u64::MAX << (sequence & 63)) << 1
}

/// The high and the low 32 bits.
#[inline(always)]
#[must_use]
pub fn halves(sequence: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = sequence.to_be_bytes();
    (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    )
}

#[cfg(test)]
mod tests;
