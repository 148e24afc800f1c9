//! A map of few entries that is looked at for each packet: numbers to numbers, one multiplication and
//! one line. Built at once and then only read.

use std::hash::{BuildHasher, RandomState};

/// Marks a place that holds an entry; keys leave the bit free.
const TAKEN: u64 = 1 << 63;

/// Open addressing, a quarter full at most. Where a key stands depends on a secret factor, so that
/// nobody can make keys collide on purpose.
#[derive(Clone, Debug)]
pub struct Compact {
    places: Box<[(u64, u64)]>,
    factor: u64,
    shift: u32,
}

impl Compact {
    /// Takes entries whose keys are below 2^63; of two with one key the first counts.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let entries: Vec<_> = entries.into_iter().collect();
        let len = (entries.len() * 4).next_power_of_two().max(4);
        let mut map = Self {
            places: vec![(0, 0); len].into(),
            factor: RandomState::new().hash_one(0) | 1,
            shift: u64::BITS - len.trailing_zeros(),
        };
        for (key, value) in entries {
            map.insert(key | TAKEN, value);
        }
        map
    }

    fn insert(&mut self, key: u64, value: u64) {
        let mut at = self.start(key);
        while let Some(place) = self.places.get_mut(at) {
            if place.0 == key {
                return;
            }
            if place.0 == 0 {
                *place = (key, value);
                return;
            }
            at = (at + 1) % self.places.len();
        }
    }

    #[inline(always)]
    fn start(&self, key: u64) -> usize {
        let hash = key.wrapping_mul(self.factor) >> self.shift;
        usize::try_from(hash).unwrap_or(0)
    }

    /// The value of a key.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, key: u64) -> Option<u64> {
        let key = key | TAKEN;
        let mut at = self.start(key);
        loop {
            match self.places.get(at) {
                Some(&(held, value)) if held == key => return Some(value),
                Some(&(0, _)) | None => return None,
                Some(_) => at = (at + 1) & (self.places.len() - 1),
            }
        }
    }
}

impl Default for Compact {
    fn default() -> Self {
        Self::new([])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        assert_eq!(Compact::default().get(0), None);
        let map = Compact::new((0..1000).map(|n| (n * n, n)).chain([(9, 77)]));
        for n in 0..1000 {
            assert_eq!(map.get(n * n), Some(n));
        }
        let squares: std::collections::HashSet<u64> = (0..1000).map(|n| n * n).collect();
        for n in (0..5000).filter(|n| !squares.contains(n)) {
            assert_eq!(map.get(n), None);
        }
    }
}
