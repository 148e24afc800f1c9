//! What workers read: one immutable snapshot of policies and mirrored kernel state, and the SAD.
//!
//! A worker loads the snapshot once for each batch. SAs change one at a time and are loaded for
//! each group of packets. All changes go through the one [`TablesWriter`](writer::TablesWriter).

pub mod address;
pub mod child;
pub mod compact;
pub mod fib;
pub mod flow_cache;
pub mod memo;
#[cfg(test)]
mod random;
pub mod sad;
#[cfg(test)]
pub(crate) mod samples;
pub mod spd;
pub mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use api::id::{Geometry, SaId};
use arc_swap::{ArcSwap, Guard};

use crate::memory::Numbers;
use crate::quiescence::Quiescence;
use fib::{Fib, Locals, NextHops};
use sad::{Sad, SadWriter};
use spd::Policies;

/// One version of everything that a batch is judged by.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts up with every change.
    pub version: u64,
    /// Counts up with every change of routes, neighbours and addresses; never 0 once there are some.
    pub hops_version: u32,
    /// Counts up with every change of policies, routes and addresses: all but neighbours.
    pub ways_version: u64,
    /// False until the first policies are committed: until then all but exceptions is discarded.
    pub committed: bool,
    /// The SPD.
    pub policies: Arc<Policies>,
    /// Routes.
    pub fib: Arc<Fib>,
    /// Ethernet addresses of next hops.
    pub neighbours: Arc<NextHops>,
    /// The gateway's own addresses.
    pub locals: Arc<Locals>,
}

/// Everything that workers share with the control thread.
pub struct Tables {
    snapshot: ArcSwap<Snapshot>,
    /// The SAs.
    pub sad: Sad,
    /// The SA that outbound packets of a child take, by the child's slot; 0 is none.
    active: Numbers,
    /// Which worker owns which shard; an entry moves at a quiescent point only.
    owners: Box<[AtomicU8]>,
    /// Who has seen what.
    pub quiescence: Arc<Quiescence>,
}

impl Tables {
    /// Empty tables for this many workers, and crypto workers behind them; shards go round the workers
    /// in turn.
    #[must_use]
    pub(crate) fn new(geometry: Geometry, workers: u8, crypto_workers: u8) -> (Self, SadWriter) {
        let workers = workers.max(1);
        // One entry for each of the 1,024 shards that an SaId can name, static ones included.
        let owners = (0..1024_u16).map(|shard| {
            let turn = shard.saturating_sub(1) % u16::from(workers);
            AtomicU8::new(u8::try_from(turn).unwrap_or(0))
        });
        let quiescence = Arc::new(Quiescence::new(
            usize::from(workers) + usize::from(crypto_workers),
        ));
        let (sad, sad_writer) = Sad::new(geometry, &quiescence);
        let tables = Self {
            snapshot: ArcSwap::default(),
            sad,
            active: Numbers::new(writer::MAX_CHILDREN),
            owners: owners.collect(),
            quiescence,
        };
        (tables, sad_writer)
    }

    /// The present version.
    #[must_use]
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The SA that outbound packets of the child with this slot take; `None` before the first and
    /// after the last.
    #[inline]
    #[must_use]
    pub fn active(&self, slot: u32) -> Option<SaId> {
        Some(SaId(self.active.get(slot))).filter(|id| id.0 != 0)
    }

    fn activate(&self, slot: u32, sa: Option<SaId>) {
        self.active.set(slot, sa.map_or(0, |id| id.0));
    }

    /// The worker that owns the SA's state.
    #[must_use]
    pub fn owner(&self, id: SaId) -> usize {
        let owner = self.owners.get(usize::from(id.shard()));
        owner.map_or(0, |owner| owner.load(Ordering::Relaxed).into())
    }
}
