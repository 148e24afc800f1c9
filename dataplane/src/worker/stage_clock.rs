//! Where the cycles go: time by stage, when somebody wants to know.

use api::counters::{Counter, Counts};

/// Reads the time-stamp counter between stages. Off, it costs one predictable branch a stage.
pub(super) struct StageClock {
    on: bool,
    last: u64,
}

impl StageClock {
    pub(super) const fn new(on: bool) -> Self {
        Self { on, last: 0 }
    }

    /// Starts anew: what was before belongs to no stage.
    #[inline]
    pub(super) fn start(&mut self) {
        if self.on {
            self.last = dpdk::tsc();
        }
    }

    /// Books the time since the last call on a stage.
    #[inline]
    pub(super) fn lap(&mut self, counts: &mut Counts, stage: Counter) {
        if self.on {
            let now = dpdk::tsc();
            counts.add(stage, now.wrapping_sub(self.last));
            self.last = now;
        }
    }
}
