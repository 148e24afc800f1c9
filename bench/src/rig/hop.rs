//! How far two cores are from each other: the time that a cache line takes from one to the other.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Ways of the line, there and back, that one reading takes.
const TRIPS: u64 = 1_000;
/// Readings. Of a disturbed machine some are left alone.
const READINGS: u64 = 30;

/// Nanoseconds of one hop between these cores: the median of some readings. `None` if a thread cannot
/// run there.
pub(crate) fn nanoseconds(cores: [usize; 2]) -> Option<f64> {
    let (line, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    // What it is one after the other: odd numbers are on their way there, even ones are back.
    let wait_for = |number| {
        while line.load(Ordering::Acquire) != number {
            if failed.load(Ordering::Relaxed) {
                return false;
            }
            spin_loop();
        }
        true
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            failed.fetch_or(!pin(cores[1]), Ordering::Relaxed);
            for trip in 0..TRIPS * READINGS {
                if !wait_for(2 * trip + 1) {
                    return;
                }
                line.store(2 * trip + 2, Ordering::Release);
            }
        });
        let here = scope.spawn(|| {
            failed.fetch_or(!pin(cores[0]), Ordering::Relaxed);
            let mut readings = Vec::new();
            for reading in 0..READINGS {
                let start = Instant::now();
                for trip in reading * TRIPS..(reading + 1) * TRIPS {
                    line.store(2 * trip + 1, Ordering::Release);
                    if !wait_for(2 * trip + 2) {
                        return None;
                    }
                }
                readings.push(start.elapsed().as_secs_f64() * 1e9 / (2 * TRIPS) as f64);
            }
            readings.sort_by(f64::total_cmp);
            readings.get(readings.len() / 2).copied()
        });
        here.join().ok().flatten()
    })
}

fn pin(core: usize) -> bool {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_is_not_there_has_no_distance() {
        assert_eq!(nanoseconds([CpuSet::MAX_CPU - 1, 0]), None);
        assert_eq!(nanoseconds([0, CpuSet::MAX_CPU - 1]), None);
    }

    #[test]
    fn a_hop_takes_time() {
        let cores = std::thread::available_parallelism().unwrap().get();
        assert!(nanoseconds([0, cores - 1]).unwrap() > 0.0);
    }
}
