//! Which SA rows are taken. Only IKE allocates them; a row is free again when the dataplane has
//! said `Deleted`.
//!
//! SAs are agreed on in pairs, so rows are taken in pairs: the inbound SA has an even index and the
//! outbound one the index behind it. Whoever knows the inbound SPI knows both rows, which is what
//! lets a new IKE process find the state of an SA that an earlier one installed.

use std::collections::VecDeque;

use api::id::{Geometry, SaId};

/// Free pairs of every shard, oldest first, so that a row rests as long as possible between uses.
#[derive(Default)]
pub(crate) struct Pool {
    shards: Vec<Shard>,
    /// Where the search for a shard goes on, so that the workers' shares stay alike.
    next: usize,
}

struct Shard {
    number: u16,
    free: VecDeque<u16>,
    pairs: Vec<Pair>,
}

#[derive(Clone, Copy)]
struct Pair {
    inbound: bool,
    outbound: bool,
    /// Of the last use, so that an SPI does not come back soon.
    tweak: u8,
}

/// The row of the outbound SA that belongs to an inbound one.
pub(crate) fn outbound_of(inbound: SaId) -> Option<SaId> {
    SaId::new(inbound.shard(), inbound.index() | 1, inbound.tweak())
}

impl Pool {
    /// All rows free. `tweak` is a random start, so that a new process seldom repeats an SPI.
    pub(crate) fn new(geometry: &Geometry, tweak: u8) -> Self {
        let pairs = u16::try_from(geometry.rows_per_shard() / 2).unwrap_or(0);
        let free = Pair {
            inbound: false,
            outbound: false,
            tweak,
        };
        let shards = (1..=u16::try_from(geometry.shards()).unwrap_or(0))
            .map(|number| Shard {
                number,
                free: (0..pairs).collect(),
                pairs: vec![free; usize::from(pairs)],
            })
            .collect();
        Self { shards, next: 0 }
    }

    /// Takes a pair from the shard whose turn it is, or the next that has one; names the inbound
    /// row.
    pub(crate) fn allocate(&mut self) -> Option<SaId> {
        let count = self.shards.len();
        for step in 0..count {
            let at = (self.next + step) % count;
            let Some(shard) = self.shards.get_mut(at) else {
                continue;
            };
            let Some(number) = shard.free.pop_front() else {
                continue;
            };
            self.next = (at + 1) % count;
            let pair = shard.pairs.get_mut(usize::from(number))?;
            *pair = Pair {
                inbound: true,
                outbound: true,
                tweak: pair.tweak.wrapping_add(1),
            };
            return SaId::new(shard.number, number * 2, pair.tweak);
        }
        None
    }

    /// Takes the pair of an inbound SA that lives already. False: no such row, or taken.
    pub(crate) fn reserve(&mut self, inbound: SaId) -> bool {
        let number = inbound.index() / 2;
        let Some(shard) = self.shard(inbound) else {
            return false;
        };
        let Some(pair) = shard.pairs.get_mut(usize::from(number)) else {
            return false;
        };
        if !inbound.index().is_multiple_of(2) || pair.inbound || pair.outbound {
            return false;
        }
        *pair = Pair {
            inbound: true,
            outbound: true,
            tweak: inbound.tweak(),
        };
        shard.free.retain(|free| *free != number);
        true
    }

    /// Gives one row of a pair back. One that is not taken, or by another SA since, is left alone.
    pub(crate) fn release(&mut self, id: SaId) {
        let number = id.index() / 2;
        let Some(shard) = self.shard(id) else { return };
        let Some(pair) = shard.pairs.get_mut(usize::from(number)) else {
            return;
        };
        let row = if id.index().is_multiple_of(2) {
            &mut pair.inbound
        } else {
            &mut pair.outbound
        };
        if pair.tweak == id.tweak() && std::mem::take(row) && !pair.inbound && !pair.outbound {
            shard.free.push_back(number);
        }
    }

    /// Gives back a pair of which nothing was installed.
    pub(crate) fn release_pair(&mut self, inbound: SaId) {
        self.release(inbound);
        if let Some(outbound) = outbound_of(inbound) {
            self.release(outbound);
        }
    }

    /// Rows taken.
    pub(crate) fn taken(&self) -> Vec<SaId> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            for (pair, number) in shard.pairs.iter().zip(0_u16..) {
                let rows = [(pair.inbound, number * 2), (pair.outbound, number * 2 + 1)];
                let used = rows.into_iter().filter(|(used, _)| *used);
                taken.extend(used.filter_map(|(_, i)| SaId::new(shard.number, i, pair.tweak)));
            }
        }
        taken
    }

    fn shard(&mut self, id: SaId) -> Option<&mut Shard> {
        self.shards.get_mut(usize::from(id.shard()).checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use api::id::FIRST_SPI;

    use super::*;

    fn pool(max_sas: u32, workers: u32) -> Pool {
        Pool::new(&Geometry::new(max_sas, workers, 0).unwrap(), 250)
    }

    #[test]
    fn every_row_is_given_once_and_shards_take_turns() {
        let mut pool = pool(64, 4);
        let ids: Vec<SaId> = std::iter::from_fn(|| pool.allocate()).collect();
        assert_eq!(ids.len(), 32);
        let rows = ids.iter().flat_map(|id| [*id, outbound_of(*id).unwrap()]);
        assert_eq!(
            rows.map(|id| (id.shard(), id.index()))
                .collect::<HashSet<_>>()
                .len(),
            64
        );
        let first: Vec<u16> = ids[..4].iter().map(|id| id.shard()).collect();
        assert_eq!(first, [1, 2, 3, 4]);
        assert_eq!(pool.taken().len(), 64);
        assert!(ids.iter().all(|id| id.0 >= FIRST_SPI));
    }

    #[test]
    fn a_pair_comes_back_when_both_are_gone_and_with_another_spi() {
        let mut pool = pool(2, 1);
        let first = pool.allocate().unwrap();
        pool.release(first);
        assert!(pool.allocate().is_none());
        pool.release(outbound_of(first).unwrap());
        let second = pool.allocate().unwrap();
        assert_eq!(second.index(), first.index());
        assert_ne!(second, first);
        // A late release of the first must not free the second.
        pool.release_pair(first);
        assert!(pool.allocate().is_none());
        pool.release_pair(second);
        assert!(pool.allocate().is_some());
    }

    #[test]
    fn a_restored_sa_keeps_its_rows() {
        let mut pool = pool(4, 1);
        let id = SaId::new(1, 0, 9).unwrap();
        assert!(pool.reserve(id));
        assert!(!pool.reserve(id));
        assert!(!pool.reserve(SaId::new(7, 0, 9).unwrap()));
        assert!(
            !pool.reserve(SaId::new(1, 3, 9).unwrap()),
            "odd rows are outbound"
        );
        assert_eq!(pool.allocate().unwrap().index(), 2);
        assert!(pool.allocate().is_none());
    }
}
