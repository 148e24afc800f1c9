//! Time in cycles of the core, whatever its frequency is at the moment.
//!
//! A multiplication takes 3 cycles on every x86-64 core of the last ten years, so a chain of them,
//! each needing the last one's result, is a clock that runs with the core. It is timed before and
//! after each run, which scales the run's nanoseconds to cycles.

use std::hint::black_box;
use std::time::Instant;

const CHAIN: u32 = 20_000;
/// Chains of one reading: some microseconds each, so that on a busy machine one is left alone.
const CHAINS: u32 = 40;
const CYCLES_PER_MULTIPLY: f64 = 3.0;

/// Cycles of this core in one nanosecond, now.
pub(super) fn cycles_per_ns() -> f64 {
    // The fastest: a preempted one tells nothing about the core.
    let fastest = (0..CHAINS)
        .map(|_| chain_ns())
        .fold(f64::INFINITY, f64::min);
    f64::from(CHAIN) * CYCLES_PER_MULTIPLY / fastest
}

fn chain_ns() -> f64 {
    let start = Instant::now();
    // Squares cannot be reordered or taken together as factors could.
    let mut value = black_box(0x9e37_79b9_7f4a_7c15_u64);
    for _ in 0..CHAIN {
        value = value.wrapping_mul(value);
    }
    black_box(value);
    nanoseconds(start)
}

/// Nanoseconds since `start`.
pub(super) fn nanoseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e9
}

/// Cycles that `work` takes for each of its `count` items: the median of calls that go on for
/// `at_least_ns`, so that one which was interrupted does not count. `prepare` runs before each call
/// and is not timed.
pub(super) fn cycles_per_item(
    count: u32,
    at_least_ns: f64,
    mut prepare: impl FnMut(),
    mut work: impl FnMut(),
) -> f64 {
    let before = cycles_per_ns();
    let (mut spent_ns, mut calls) = (0.0, Vec::new());
    while spent_ns < at_least_ns {
        prepare();
        let start = Instant::now();
        work();
        let ns = nanoseconds(start);
        spent_ns += ns;
        calls.push(ns);
    }
    let scale = (before + cycles_per_ns()) / 2.0;
    calls.sort_by(f64::total_cmp);
    let median = calls.get(calls.len() / 2).copied().unwrap_or(f64::NAN);
    median * scale / f64::from(count)
}
