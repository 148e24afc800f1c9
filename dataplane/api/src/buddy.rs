//! Aligned blocks of powers of two within a region: replay windows and parked blobs.
//!
//! The lists are private to the writer and are rebuilt from what the region's rows say, so there
//! is nothing in shared memory that could be corrupt.

use std::collections::BTreeSet;

/// Free blocks by size. A block of order `n` is `2^n` units long and starts at a multiple of that.
#[derive(Clone, Debug)]
pub(crate) struct Buddy {
    free: Vec<BTreeSet<u32>>,
}

impl Buddy {
    /// `units` free units, in blocks of order 0 to `max_order`.
    pub(crate) fn new(units: u32, max_order: u32) -> Self {
        let mut free: Vec<BTreeSet<u32>> = (0..=max_order).map(|_| BTreeSet::new()).collect();
        let mut at = 0;
        for (order, blocks) in free.iter_mut().enumerate().rev() {
            let size = 1_u32 << order;
            while units - at >= size {
                blocks.insert(at);
                at += size;
            }
        }
        Self { free }
    }

    /// Takes a free block; `None` when there is none of that size or larger.
    pub(crate) fn allocate(&mut self, order: u32) -> Option<u32> {
        let larger = self.free.iter().enumerate().skip(order as usize);
        let found = larger
            .filter_map(|(order, free)| Some((order, *free.first()?)))
            .next();
        let (from, at) = found?;
        self.split(from, at, order as usize, at);
        Some(at)
    }

    /// Takes exactly this block; `false` when part of it is taken already or does not exist.
    pub(crate) fn reserve(&mut self, at: u32, order: u32) -> bool {
        let order = order as usize;
        for from in order..self.free.len() {
            let start = at & !((1_u32 << from) - 1);
            let aligned = at & ((1_u32 << order) - 1) == 0;
            if aligned
                && self
                    .free
                    .get(from)
                    .is_some_and(|free| free.contains(&start))
            {
                self.split(from, start, order, at);
                return true;
            }
        }
        false
    }

    /// Gives a block back and joins it with its free neighbours.
    pub(crate) fn release(&mut self, mut at: u32, order: u32) {
        let last = self.free.len().saturating_sub(1);
        for order in order as usize..=last {
            let size = 1_u32 << order;
            let Some(free) = self.free.get_mut(order) else {
                return;
            };
            if order == last || !free.remove(&(at ^ size)) {
                free.insert(at);
                return;
            }
            at &= !size;
        }
    }

    /// Takes the block `start` of order `from` and gives back all of it but the block of order `to`
    /// that begins at `keep`.
    fn split(&mut self, from: usize, start: u32, to: usize, keep: u32) {
        if let Some(free) = self.free.get_mut(from) {
            free.remove(&start);
        }
        for (order, free) in self.free.iter_mut().enumerate().take(from).skip(to) {
            free.insert((keep & !((1_u32 << order) - 1)) ^ (1 << order));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_distinct_and_come_back() {
        let mut buddy = Buddy::new(100, 4);
        let whole = format!("{buddy:?}");
        let mut taken: Vec<(u32, u32)> = Vec::new();
        for order in [0, 3, 1, 4, 2, 0, 0, 3, 4] {
            let at = buddy.allocate(order).unwrap();
            assert_eq!(at % (1 << order), 0);
            let apart = |(b, o): &(u32, u32)| at + (1 << order) <= *b || b + (1 << o) <= at;
            assert!(taken.iter().all(apart));
            assert!(at + (1 << order) <= 100);
            taken.push((at, order));
        }
        for (at, order) in taken {
            buddy.release(at, order);
        }
        assert_eq!(format!("{buddy:?}"), whole);
    }

    #[test]
    fn every_unit_can_be_used_and_no_more() {
        let mut buddy = Buddy::new(37, 3);
        let all: BTreeSet<u32> = (0..37).map(|_| buddy.allocate(0).unwrap()).collect();
        assert_eq!(all, (0..37).collect());
        assert_eq!(buddy.allocate(0), None);
        buddy.release(36, 0);
        assert_eq!(buddy.allocate(1), None);
        assert_eq!(buddy.allocate(0), Some(36));
    }

    #[test]
    fn reserving_rebuilds_the_lists() {
        let mut first = Buddy::new(64, 5);
        let taken: Vec<(u32, u32)> = [2, 0, 3, 1]
            .map(|order| (first.allocate(order).unwrap(), order))
            .into();
        let mut rebuilt = Buddy::new(64, 5);
        for (at, order) in taken.iter().rev() {
            assert!(rebuilt.reserve(*at, *order));
        }
        assert_eq!(format!("{first:?}"), format!("{rebuilt:?}"));
        let (at, order) = taken[2];
        assert!(!rebuilt.reserve(at, order), "taken twice");
        assert!(!rebuilt.reserve(at, 0), "a part of a taken block");
        assert!(!rebuilt.reserve(64, 0), "behind the end");
        assert!(!rebuilt.reserve(33, 1), "not aligned");
    }

    #[test]
    fn random_use_keeps_the_sum() {
        let mut buddy = Buddy::new(256, 6);
        let whole = format!("{buddy:?}");
        let mut taken = Vec::new();
        let mut random: u32 = 12345;
        for _ in 0..2_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let order = (random >> 16) % 4;
            if random >> 31 == 0 {
                taken.extend(buddy.allocate(order).map(|at| (at, order)));
            } else if let Some((at, order)) = taken.pop() {
                buddy.release(at, order);
            }
        }
        for (at, order) in taken {
            buddy.release(at, order);
        }
        assert_eq!(format!("{buddy:?}"), whole);
    }
}
