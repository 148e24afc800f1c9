//! All timers of one IKE SA. There are few at a time, so a sorted list does.

use crate::host::Time;

/// What can be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Send the outstanding request again (RFC 7296 2.1).
    Retransmit,
    /// Give up an IKE SA that is not established, or that the peer should have deleted.
    GiveUp,
    /// Start the next task of the queue, which had to wait.
    Task,
    /// Ask whether the peer lives (RFC 7296 2.4).
    Liveness,
    /// Keep the mapping of the NAT before us (RFC 3948 2.3).
    Keepalive,
    /// Rekey the IKE SA.
    RekeyIke,
    /// Close the IKE SA: it was not rekeyed in time.
    ExpireIke,
    /// Rekey the Child SA with this inbound SPI.
    RekeyChild(u32),
    /// Close the Child SA with this inbound SPI.
    ExpireChild(u32),
    /// See whether the peer already sends on the Child SA with this inbound SPI.
    Confirm(u32),
    /// The Child SA with this inbound SPI has drained.
    Drain(u32),
    /// The peer has not deleted the replaced Child SA with this inbound SPI; do it here.
    Replaced(u32),
}

/// Timers that are set, at most one of each kind.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    set: Vec<(Timer, Time)>,
}

impl Timers {
    /// Sets the timer, in place of the time it had.
    pub(crate) fn set(&mut self, timer: Timer, at: Time) {
        self.stop(timer);
        self.set.push((timer, at));
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.set.retain(|(set, _)| *set != timer);
    }

    /// Stops the timers that `which` names.
    pub(crate) fn stop_where(&mut self, which: impl Fn(Timer) -> bool) {
        self.set.retain(|(set, _)| !which(*set));
    }

    pub(crate) fn get(&self, timer: Timer) -> Option<Time> {
        self.set
            .iter()
            .find(|(set, _)| *set == timer)
            .map(|(_, at)| *at)
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.set.iter().map(|(_, at)| *at).min()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Timer, Time)> {
        self.set.iter().copied()
    }

    /// Removes and returns the earliest timer that is due.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<Timer> {
        let (due, _) = self
            .set
            .iter()
            .copied()
            .min_by_key(|(timer, at)| (*at, *timer))?;
        if self.get(due)? > now {
            return None;
        }
        self.stop(due);
        Some(due)
    }

    /// Removes and returns the timers of the Child SA with inbound SPI `spi`.
    pub(crate) fn take_child(&mut self, spi: u32) -> Vec<(Timer, Time)> {
        let (taken, kept) = self
            .set
            .drain(..)
            .partition(|(timer, _)| timer.child() == Some(spi));
        self.set = kept;
        taken
    }
}

impl Timer {
    /// Inbound SPI of the Child SA that the timer belongs to.
    pub(crate) const fn child(self) -> Option<u32> {
        match self {
            Self::RekeyChild(spi)
            | Self::ExpireChild(spi)
            | Self::Confirm(spi)
            | Self::Drain(spi)
            | Self::Replaced(spi) => Some(spi),
            Self::Retransmit
            | Self::GiveUp
            | Self::Task
            | Self::Liveness
            | Self::Keepalive
            | Self::RekeyIke
            | Self::ExpireIke => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_first_and_each_once() {
        let mut timers = Timers::default();
        timers.set(Timer::Liveness, Time(30));
        timers.set(Timer::Retransmit, Time(10));
        timers.set(Timer::Retransmit, Time(20));
        timers.set(Timer::RekeyChild(7), Time(5));
        assert_eq!(timers.next(), Some(Time(5)));
        assert_eq!(timers.pop_due(Time(4)), None);
        assert_eq!(timers.pop_due(Time(30)), Some(Timer::RekeyChild(7)));
        assert_eq!(timers.pop_due(Time(30)), Some(Timer::Retransmit));
        assert_eq!(timers.pop_due(Time(30)), Some(Timer::Liveness));
        assert_eq!(timers.pop_due(Time(30)), None);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn timers_of_a_child_move_together() {
        let mut timers = Timers::default();
        timers.set(Timer::RekeyChild(7), Time(5));
        timers.set(Timer::Drain(8), Time(6));
        timers.set(Timer::ExpireChild(7), Time(9));
        assert_eq!(timers.take_child(7).len(), 2);
        assert_eq!(timers.next(), Some(Time(6)));
    }
}
