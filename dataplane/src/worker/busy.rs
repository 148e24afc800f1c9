//! Which share of its time a worker needs for packets.

use api::counters::{Counter, Counts};

/// Books all time once, as busy or not. Takes readings of any clock that goes forward.
pub(super) struct BusyShare {
    last: u64,
}

impl BusyShare {
    /// Nothing before `now` counts.
    pub(super) const fn new(now: u64) -> Self {
        Self { last: now }
    }

    /// Books the time since the last reading.
    #[inline]
    pub(super) fn lap(&mut self, now: u64, worked: bool, counts: &mut Counts) {
        let cycles = now.wrapping_sub(self.last);
        self.last = now;
        counts.add(Counter::Cycles, cycles);
        if worked {
            counts.add(Counter::BusyCycles, cycles);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_time_is_booked_once_and_busy_time_in_both_counters() {
        let mut counts = Counts::new();
        let mut share = BusyShare::new(u64::MAX - 4);
        for (now, worked) in [(5, true), (5, true), (105, false), (106, true)] {
            share.lap(now, worked, &mut counts);
        }
        assert_eq!(counts.get(Counter::Cycles), 111);
        assert_eq!(counts.get(Counter::BusyCycles), 11);
    }
}
