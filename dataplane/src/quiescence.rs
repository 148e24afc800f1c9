//! Tells the control thread when every worker has seen a change.
//!
//! Each worker counts up when it starts a turn and again when it ends one, so an odd count is a
//! worker at work. A writer publishes its change, then takes a [`Grace`]: the workers that were at
//! work must end that turn, the others will see the change when they next start one. A worker that
//! sleeps between turns is at an even count and holds nobody up.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A cache line of its own for each worker's count.
#[repr(align(64))]
#[derive(Default)]
struct Count(AtomicU64);

/// Turn counts of all workers.
pub struct Quiescence {
    turns: Box<[Count]>,
}

/// One turn of a worker: what it finds in the tables stays in place until this is dropped.
pub struct Turn<'a> {
    quiescence: &'a Quiescence,
    count: &'a AtomicU64,
}

impl Quiescence {
    /// Counts for this many workers, all at rest.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            turns: (0..workers).map(|_| Count::default()).collect(),
        }
    }

    /// Marks the worker at work until the guard drops. `None` if there is no such worker.
    #[must_use]
    pub fn enter(&self, worker: usize) -> Option<Turn<'_>> {
        let turn = &self.turns.get(worker)?.0;
        turn.store(turn.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
        // Pairs with the fence in `grace`: either the writer sees this worker at work, or the
        // worker's loads after this line see what the writer published.
        fence(Ordering::SeqCst);
        Some(Turn {
            quiescence: self,
            count: turn,
        })
    }

    /// Takes the counts now. Call after the change is published.
    #[must_use]
    pub fn grace(&self) -> Grace {
        fence(Ordering::SeqCst);
        let counts = self.turns.iter().map(|turn| turn.0.load(Ordering::Acquire));
        Grace {
            counts: counts.collect(),
        }
    }
}

impl Turn<'_> {
    /// Whether the turn is one of this quiescence's workers.
    #[must_use]
    pub fn is_of(&self, quiescence: &Quiescence) -> bool {
        core::ptr::eq(self.quiescence, quiescence)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let next = (self.count.load(Ordering::Relaxed) | 1).wrapping_add(1);
        self.count.store(next, Ordering::Release);
    }
}

/// A point in time that all workers have to pass.
#[derive(Debug)]
pub struct Grace {
    counts: Box<[u64]>,
}

impl Grace {
    /// True when no worker is still in the turn it was in when this was taken. Never waits.
    #[must_use]
    pub fn passed(&self, quiescence: &Quiescence) -> bool {
        let mut pairs = self.counts.iter().zip(&quiescence.turns);
        pairs.all(|(&then, turn)| then & 1 == 0 || turn.0.load(Ordering::Acquire) != then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_at_work_holds_the_grace_until_its_turn_ends() {
        let quiescence = Quiescence::new(2);
        let turn = quiescence.enter(1).unwrap();
        let grace = quiescence.grace();
        assert!(!grace.passed(&quiescence));
        drop(turn);
        assert!(grace.passed(&quiescence));
    }

    #[test]
    fn a_worker_in_its_next_turn_has_passed() {
        let quiescence = Quiescence::new(1);
        let turn = quiescence.enter(0).unwrap();
        let grace = quiescence.grace();
        drop(turn);
        let _next = quiescence.enter(0).unwrap();
        assert!(grace.passed(&quiescence));
    }

    #[test]
    fn workers_at_rest_hold_nobody_up() {
        let quiescence = Quiescence::new(3);
        assert!(quiescence.grace().passed(&quiescence));
        drop(quiescence.enter(0));
        assert!(quiescence.grace().passed(&quiescence));
        assert!(quiescence.enter(3).is_none());
    }
}
