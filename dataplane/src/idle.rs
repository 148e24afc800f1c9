//! The idle back-off, and the only place on a worker's path that makes a system call.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest sleep of an idle worker unless the configuration says otherwise.
pub const DEFAULT_MAX_LATENCY_US: u32 = 200;
/// Empty turns before the first sleep: a short gap in traffic costs no sleep.
const SPIN_TURNS: u32 = 128;
/// First sleep; the next ones double it.
const FIRST_SLEEP_US: u32 = 10;

/// How a worker without traffic waits.
pub struct Idle {
    max_sleep_us: u32,
    empty_turns: u32,
    sleep_us: u32,
}

impl Idle {
    /// Sleeps for at most `max_latency_us` microseconds at a time; 0 polls without end.
    #[must_use]
    pub fn new(max_latency_us: u32) -> Self {
        Self {
            max_sleep_us: max_latency_us,
            empty_turns: 0,
            sleep_us: FIRST_SLEEP_US,
        }
    }

    /// Call after a turn that moved packets.
    pub fn busy(&mut self) {
        self.empty_turns = 0;
        self.sleep_us = FIRST_SLEEP_US;
    }

    /// True when the next wait is a sleep.
    #[must_use]
    pub fn will_sleep(&self) -> bool {
        self.max_sleep_us > 0 && self.empty_turns >= SPIN_TURNS
    }

    /// Call after a turn without packets: spins first, then sleeps longer and longer.
    pub fn wait(&mut self) {
        if !self.will_sleep() {
            self.empty_turns = self.empty_turns.saturating_add(1);
            return std::hint::spin_loop();
        }
        thread::sleep(Duration::from_micros(self.next_sleep_us().into()));
    }

    fn next_sleep_us(&mut self) -> u32 {
        let sleep_us = self.sleep_us.min(self.max_sleep_us);
        self.sleep_us = sleep_us.saturating_mul(2);
        sleep_us
    }
}

/// Wakes the control thread when it sleeps, and costs one load when it does not.
pub struct Bell {
    sleeping: AtomicBool,
    eventfd: OwnedFd,
}

impl Bell {
    /// A bell nobody waits on yet. Fails when the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            sleeping: AtomicBool::new(false),
            eventfd,
        })
    }

    /// Wakes the sleeper, if it sleeps. Call after the message is in its channel.
    pub fn ring(&self) {
        // Pairs with the fence in `about_to_sleep`: either the sleeper sees the message, or we
        // see that it sleeps.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            // A full eventfd already wakes its reader.
            let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        }
    }

    /// Announces sleep. Look at every channel once more after this, then poll the descriptor.
    pub fn about_to_sleep(&self) {
        self.sleeping.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Call on waking: stops further rings and empties the descriptor.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::Release);
        let mut count = [0; 8];
        // Nothing to read when something else woke us.
        let _ = rustix::io::read(&self.eventfd, &mut count);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(bell: &Bell) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&bell.eventfd, &mut count).is_ok()
    }

    #[test]
    fn sleeps_grow_to_the_limit_and_start_over_with_traffic() {
        let mut idle = Idle::new(35);
        let sleeps: Vec<u32> = (0..4).map(|_| idle.next_sleep_us()).collect();
        assert_eq!(sleeps, [10, 20, 35, 35]);
        idle.busy();
        assert_eq!(idle.next_sleep_us(), 10);
    }

    #[test]
    fn rings_only_a_sleeper_and_only_once() {
        let bell = Bell::new().unwrap();
        bell.ring();
        assert!(!readable(&bell));
        bell.about_to_sleep();
        bell.ring();
        assert!(readable(&bell));
        bell.ring();
        assert!(!readable(&bell), "already woken");
    }

    #[test]
    fn waking_clears_the_bell() {
        let bell = Bell::new().unwrap();
        bell.about_to_sleep();
        bell.ring();
        bell.awake();
        bell.ring();
        assert!(!readable(&bell));
    }
}
