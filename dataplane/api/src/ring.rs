//! Records from one process to another: single producer, single consumer, over shared memory.
//!
//! ```text
//!   producer's region                    consumer's region
//! ┌───────────────────────────┐        ┌──────────────────────────┐
//! │ produced  ──release──▶ acquire ──▶ │ (cached)                 │
//! │ slot 0 │ slot 1 │ ... │    │       │                          │
//! │ (cached) ◀── acquire ◀──release──  │ consumed, sleeps         │
//! └───────────────────────────┘        └──────────────────────────┘
//! ```
//! Each side writes only its own region and can only read the other's, so neither can break the
//! other's memory. What the other side wrote is not trusted: its index is checked in every build
//! and a record is copied out before anybody looks at it. Indices count records since the start of
//! the session and never wrap (2^64). There is no unsafe code: words are atomics.

use core::fmt;

use crate::shm::{Region, View};
use crate::sync::{AtomicU64, Ordering, fence};

/// Smallest ring, in records.
pub const MIN_CAPACITY: u32 = 2;
/// Largest ring, in records.
pub const MAX_CAPACITY: u32 = 1 << 16;

/// The other side's index is impossible. The session is over: nothing of it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// Which index.
    pub index: &'static str,
    pub found: u64,
    pub lowest: u64,
    pub highest: u64,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            found,
            lowest,
            highest,
        } = self;
        write!(
            f,
            "ring: {index} index is {found}, expected {lowest} to {highest}"
        )
    }
}

impl core::error::Error for Corrupt {}

/// Why a record was not put into a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The consumer is behind by the whole ring.
    Full,
    Corrupt(Corrupt),
}

/// Where a ring lies: word offsets into the two regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// First slot, in the producer's region.
    pub slots_at: usize,
    /// Records; a power of two.
    pub capacity: u32,
    /// Words of a record.
    pub stride: usize,
    /// The producer's index, in its region.
    pub produced_at: usize,
    /// The consumer's index, in its region; the word behind it says whether the consumer sleeps.
    pub consumed_at: usize,
}

impl Layout {
    /// Words of all slots.
    #[must_use]
    pub const fn slot_words(&self) -> usize {
        self.capacity as usize * self.stride
    }

    /// Whether the ring lies within regions of these sizes and its capacity is allowed.
    #[must_use]
    pub fn fits(&self, producer_words: usize, consumer_words: usize) -> bool {
        let slots_end = self.slots_at.checked_add(self.slot_words());
        (MIN_CAPACITY..=MAX_CAPACITY).contains(&self.capacity)
            && self.capacity.is_power_of_two()
            && self.stride > 0
            && slots_end.is_some_and(|end| end <= producer_words)
            && self.produced_at < producer_words
            && self
                .consumed_at
                .checked_add(1)
                .is_some_and(|last| last < consumer_words)
    }

    fn slot(&self, index: u64) -> core::ops::Range<usize> {
        // The mask leaves less than the capacity, a u32.
        let place = usize::try_from(index & u64::from(self.capacity - 1)).unwrap_or_default();
        let start = self.slots_at + place * self.stride;
        start..start + self.stride
    }
}

/// The writing end. When it is dropped, what it wrote last can still be read: a process that ends
/// may have sent its last words.
pub struct Producer {
    own: Region,
    other: View,
    layout: Layout,
    produced: u64,
    /// What the consumer said last.
    consumed: u64,
}

impl Producer {
    /// The writing end of a ring that starts empty: both indices must be zero. `None` when the
    /// layout does not fit the regions.
    #[must_use]
    pub fn new(own: Region, other: View, layout: Layout) -> Option<Self> {
        let fits = layout.fits(own.words().len(), other.words().len());
        fits.then_some(Self {
            own,
            other,
            layout,
            produced: 0,
            consumed: 0,
        })
    }

    /// Puts a record in and gives its number. A record shorter than the slot leaves the rest as it
    /// is, which is zero.
    ///
    /// # Errors
    /// [`PushError::Full`], or [`PushError::Corrupt`] when the consumer's index is impossible.
    pub fn push(&mut self, record: &[u64]) -> Result<u64, PushError> {
        if self.room() == 0 {
            self.refresh().map_err(PushError::Corrupt)?;
            if self.room() == 0 {
                return Err(PushError::Full);
            }
        }
        let words = self.own.words();
        for (slot, word) in words[self.layout.slot(self.produced)].iter().zip(record) {
            slot.store(*word, Ordering::Relaxed);
        }
        let number = self.produced;
        self.produced += 1;
        // Release: pairs with the acquire in `Consumer::look`; whoever sees the index sees the
        // record.
        words[self.layout.produced_at].store(self.produced, Ordering::Release);
        Ok(number)
    }

    /// Learns how far the consumer is and overwrites with zeros every slot that it has left, since
    /// the record may have held a key.
    ///
    /// # Errors
    /// [`Corrupt`] when the consumer's index went back or ahead of ours.
    pub fn refresh(&mut self) -> Result<(), Corrupt> {
        // Acquire: pairs with the release in `Consumer::pop`; the consumer has read the slot before
        // we overwrite it.
        let found = self.other.words()[self.layout.consumed_at].load(Ordering::Acquire);
        let (lowest, highest) = (self.consumed, self.produced);
        if found < lowest || found > highest {
            return Err(Corrupt {
                index: "consumed",
                found,
                lowest,
                highest,
            });
        }
        for index in lowest..found {
            zero(&self.own.words()[self.layout.slot(index)]);
        }
        self.consumed = found;
        Ok(())
    }

    /// Whether the consumer sleeps and must be woken. To be asked after a push.
    #[must_use]
    pub fn must_wake(&self) -> bool {
        // Pairs with the fence in `Consumer::arm`: either it sees our record or we its flag.
        fence(Ordering::SeqCst);
        self.other.words()[self.layout.consumed_at + 1].load(Ordering::Relaxed) != 0
    }

    /// Records not consumed yet, as far as known since the last [`refresh`](Self::refresh).
    #[must_use]
    pub const fn pending(&self) -> u64 {
        self.produced - self.consumed
    }

    /// What this side shares, for tests that play a hostile one.
    #[cfg(test)]
    #[cfg_attr(any(loom, miri), allow(dead_code))]
    pub(crate) fn own_words(&self) -> &[AtomicU64] {
        self.own.words()
    }

    fn room(&self) -> u64 {
        u64::from(self.layout.capacity) - self.pending()
    }
}

fn zero(words: &[AtomicU64]) {
    for word in words {
        word.store(0, Ordering::Relaxed);
    }
}

/// The reading end.
pub struct Consumer {
    own: Region,
    other: View,
    layout: Layout,
    consumed: u64,
    /// What the producer said last.
    produced: u64,
}

impl Consumer {
    /// The reading end of a ring that starts empty: both indices must be zero. `None` when the
    /// layout does not fit the regions.
    #[must_use]
    pub fn new(own: Region, other: View, layout: Layout) -> Option<Self> {
        let fits = layout.fits(other.words().len(), own.words().len());
        fits.then_some(Self {
            own,
            other,
            layout,
            consumed: 0,
            produced: 0,
        })
    }

    /// Copies the next record out and gives its number; `None` when there is none.
    ///
    /// # Errors
    /// [`Corrupt`] when the producer's index went back or is more than a ring ahead.
    pub fn pop(&mut self, record: &mut [u64]) -> Result<Option<u64>, Corrupt> {
        if !self.look()? {
            return Ok(None);
        }
        let slot = &self.other.words()[self.layout.slot(self.consumed)];
        for (word, shared) in record.iter_mut().zip(slot) {
            *word = shared.load(Ordering::Relaxed);
        }
        let number = self.consumed;
        self.consumed += 1;
        // Release: pairs with the acquire in `Producer::refresh`; our reads of the slot are done.
        self.own.words()[self.layout.consumed_at].store(self.consumed, Ordering::Release);
        Ok(Some(number))
    }

    /// Says that we are about to sleep. `false` means that a record came meanwhile: do not sleep.
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    pub fn arm(&mut self) -> Result<bool, Corrupt> {
        self.sleeps(1);
        // Pairs with the fence in `Producer::must_wake`.
        fence(Ordering::SeqCst);
        if self.look()? {
            self.disarm();
            return Ok(false);
        }
        Ok(true)
    }

    /// Says that we are awake: the producer need not ring.
    pub fn disarm(&mut self) {
        self.sleeps(0);
    }

    fn sleeps(&self, flag: u64) {
        self.own.words()[self.layout.consumed_at + 1].store(flag, Ordering::Relaxed);
    }

    /// Whether a record is there.
    fn look(&mut self) -> Result<bool, Corrupt> {
        if self.produced != self.consumed {
            return Ok(true);
        }
        // Acquire: pairs with the release in `Producer::push`.
        let found = self.other.words()[self.layout.produced_at].load(Ordering::Acquire);
        let lowest = self.produced;
        let highest = self
            .consumed
            .saturating_add(u64::from(self.layout.capacity));
        if found < lowest || found > highest {
            return Err(Corrupt {
                index: "produced",
                found,
                lowest,
                highest,
            });
        }
        self.produced = found;
        Ok(self.produced != self.consumed)
    }
}

/// `loom`: `RUSTFLAGS="--cfg loom" cargo test -p api --lib --target-dir target/loom ring::`
#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        slots_at: 3,
        capacity: 2,
        stride: 2,
        produced_at: 0,
        consumed_at: 1,
    };

    fn ring() -> (Producer, Consumer) {
        let (left, right) = (Region::on_heap(7), Region::on_heap(3));
        let consumer = Consumer::new(right.clone(), left.view(), LAYOUT).unwrap();
        (Producer::new(left, right.view(), LAYOUT).unwrap(), consumer)
    }

    #[test]
    fn records_arrive_whole_and_in_order() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring();
            let writer = loom::thread::spawn(move || {
                let mut next = 1;
                while next <= 3 {
                    match producer.push(&[next, !next]) {
                        Ok(number) => {
                            assert_eq!(number, next - 1);
                            next += 1;
                        }
                        Err(PushError::Full) => loom::thread::yield_now(),
                        Err(PushError::Corrupt(corrupt)) => panic!("{corrupt}"),
                    }
                }
            });
            let mut expected = 1;
            while expected <= 3 {
                let mut record = [0; 2];
                match consumer.pop(&mut record).unwrap() {
                    Some(_) => {
                        assert_eq!(record, [expected, !expected]);
                        expected += 1;
                    }
                    None => loom::thread::yield_now(),
                }
            }
            writer.join().unwrap();
        });
    }

    #[test]
    fn no_wake_up_is_lost() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring();
            let writer = loom::thread::spawn(move || {
                producer.push(&[1, 1]).unwrap();
                producer.must_wake()
            });
            let sleeps = consumer.arm().unwrap();
            let rings = writer.join().unwrap();
            assert!(!sleeps || rings, "the consumer sleeps and nobody rings");
        });
    }

    #[test]
    fn zeros_never_reach_the_consumer() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring();
            producer.push(&[1, 1]).unwrap();
            let writer = loom::thread::spawn(move || {
                producer.refresh().unwrap();
            });
            let mut record = [0; 2];
            assert_eq!(consumer.pop(&mut record), Ok(Some(0)));
            assert_eq!(record, [1, 1]);
            writer.join().unwrap();
        });
    }
}

/// These also run under miri: `cargo +nightly miri test -p api --lib ring:: record::`
#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        slots_at: 8,
        capacity: 4,
        stride: 2,
        produced_at: 0,
        consumed_at: 1,
    };

    struct Pair {
        left: Region,
        right: Region,
        producer: Producer,
        consumer: Consumer,
    }

    fn pair() -> Pair {
        let (left, right) = (Region::on_heap(16), Region::on_heap(8));
        let consumer = Consumer::new(right.clone(), left.view(), LAYOUT).unwrap();
        let producer = Producer::new(left.clone(), right.view(), LAYOUT).unwrap();
        Pair {
            left,
            right,
            producer,
            consumer,
        }
    }

    fn pop(consumer: &mut Consumer) -> Option<[u64; 2]> {
        let mut record = [0; 2];
        consumer.pop(&mut record).unwrap().map(|_| record)
    }

    #[test]
    fn first_in_first_out_many_times_round() {
        let Pair {
            mut producer,
            mut consumer,
            ..
        } = pair();
        for n in 0..1_000 {
            assert_eq!(producer.push(&[n, n * 3]), Ok(n));
            assert_eq!(pop(&mut consumer), Some([n, n * 3]));
        }
        assert_eq!(pop(&mut consumer), None);
    }

    #[test]
    fn full_at_its_capacity_and_not_before() {
        let Pair {
            mut producer,
            mut consumer,
            ..
        } = pair();
        for n in 0..4 {
            producer.push(&[n, n]).unwrap();
        }
        assert_eq!(producer.push(&[9, 9]), Err(PushError::Full));
        pop(&mut consumer).unwrap();
        assert_eq!(producer.push(&[9, 9]), Ok(4));
        assert_eq!(producer.push(&[9, 9]), Err(PushError::Full));
    }

    #[test]
    fn consumed_slots_hold_nothing() {
        let Pair {
            left,
            mut producer,
            mut consumer,
            ..
        } = pair();
        let slots = |from: usize, to: usize| -> Vec<u64> {
            left.words()[from..to]
                .iter()
                .map(|word| word.load(Ordering::Relaxed))
                .collect()
        };
        producer.push(&[11, 12]).unwrap();
        producer.push(&[13, 14]).unwrap();
        pop(&mut consumer).unwrap();
        assert_eq!(slots(8, 12), [11, 12, 13, 14]);
        producer.refresh().unwrap();
        assert_eq!(slots(8, 12), [0, 0, 13, 14]);
        assert_eq!(producer.pending(), 1);
    }

    #[test]
    fn a_hostile_producer_is_found() {
        for bad in [5, 6, u64::MAX, u64::MAX - 3, 1 << 63] {
            let Pair {
                left, mut consumer, ..
            } = pair();
            left.words()[0].store(bad, Ordering::Relaxed);
            let error = consumer.pop(&mut [0; 2]).unwrap_err();
            assert_eq!(
                (error.index, error.found, error.highest),
                ("produced", bad, 4)
            );
            assert!(consumer.arm().is_err());
        }
    }

    #[test]
    fn a_producer_that_goes_back_is_found() {
        let Pair {
            left,
            mut producer,
            mut consumer,
            ..
        } = pair();
        producer.push(&[1, 1]).unwrap();
        pop(&mut consumer).unwrap();
        left.words()[0].store(0, Ordering::Relaxed);
        assert_eq!(consumer.pop(&mut [0; 2]).unwrap_err().lowest, 1);
    }

    #[test]
    fn a_hostile_consumer_is_found() {
        for bad in [5, u64::MAX, 1 << 63] {
            let Pair {
                right,
                mut producer,
                ..
            } = pair();
            for n in 0..4 {
                producer.push(&[n, n]).unwrap();
            }
            right.words()[1].store(bad, Ordering::Relaxed);
            let error = producer.refresh().unwrap_err();
            assert_eq!(
                (error.index, error.found, error.highest),
                ("consumed", bad, 4)
            );
            assert_eq!(producer.push(&[4, 4]), Err(PushError::Corrupt(error)));
        }
    }

    #[test]
    fn a_consumer_that_goes_back_is_found() {
        let Pair {
            right,
            mut producer,
            mut consumer,
            ..
        } = pair();
        producer.push(&[1, 1]).unwrap();
        pop(&mut consumer).unwrap();
        producer.refresh().unwrap();
        right.words()[1].store(0, Ordering::Relaxed);
        assert_eq!(producer.refresh().unwrap_err().lowest, 1);
    }

    #[test]
    fn a_sleeper_is_woken_only_when_it_sleeps() {
        let Pair {
            mut producer,
            mut consumer,
            ..
        } = pair();
        assert!(!producer.must_wake());
        assert_eq!(consumer.arm(), Ok(true));
        producer.push(&[1, 1]).unwrap();
        assert!(producer.must_wake());
        assert_eq!(consumer.arm(), Ok(false));
        assert!(!producer.must_wake());
    }

    #[test]
    fn layouts_that_do_not_fit_are_refused() {
        let fits = |layout: Layout| layout.fits(16, 8);
        assert!(fits(LAYOUT));
        assert!(!fits(Layout {
            slots_at: 9,
            ..LAYOUT
        }));
        assert!(!fits(Layout {
            slots_at: usize::MAX,
            ..LAYOUT
        }));
        assert!(!fits(Layout {
            capacity: 3,
            ..LAYOUT
        }));
        assert!(!fits(Layout {
            capacity: 0,
            ..LAYOUT
        }));
        assert!(!fits(Layout {
            capacity: 1 << 17,
            ..LAYOUT
        }));
        assert!(!fits(Layout {
            stride: 0,
            ..LAYOUT
        }));
        assert!(!fits(Layout {
            produced_at: 16,
            ..LAYOUT
        }));
        assert!(!fits(Layout {
            consumed_at: 7,
            ..LAYOUT
        }));
    }

    #[test]
    fn two_threads_lose_nothing() {
        const RECORDS: u64 = if cfg!(miri) { 50 } else { 20_000 };
        let Pair {
            mut producer,
            mut consumer,
            ..
        } = pair();
        let writer = std::thread::spawn(move || {
            let mut next = 0;
            while next < RECORDS {
                match producer.push(&[next, !next]) {
                    Ok(_) => next += 1,
                    Err(_) => std::thread::yield_now(),
                }
            }
        });
        let mut expected = 0;
        while expected < RECORDS {
            match pop(&mut consumer) {
                Some(record) => {
                    assert_eq!(record, [expected, !expected]);
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        writer.join().unwrap();
    }
}
