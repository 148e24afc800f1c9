//! IKE messages at the parser and at endpoints.

mod chain;
mod endpoint;
mod parser;
mod seal;

use std::error::Error;
use std::time::Instant;

use fastrand::Rng;

/// Most that the process may grow by while messages go through it, in KiB.
const MAX_GROWTH_KIB: u64 = 256 << 10;

/// Sends three messages of four at the parser and one at endpoints.
pub(super) fn run(messages: u64, seed: u64) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let mut random = Rng::with_seed(seed);
    let corpus = endpoint::corpus(&mut random)?;
    let before_kib = resident_kib();
    let parsed = messages / 4 * 3;
    let tally = parser::run(parsed, &corpus, &mut random)?;
    let report = endpoint::run(messages - parsed, &mut random)?;
    let growth_kib = resident_kib().saturating_sub(before_kib);
    if growth_kib > MAX_GROWTH_KIB {
        return Err(format!("memory grew by {} MiB", growth_kib >> 10).into());
    }
    for (outcome, count) in &tally {
        println!("{:9} {outcome:24} {count:>12}", "parser");
    }
    println!(
        "soak: {parsed} messages at the parser, {} at endpoints in {} lives ({} handshakes spoiled, \
         {} times working after the fire, {} ended by an insider), {:.1} s: no panic, memory \
         +{} MiB",
        report.messages,
        report.lives,
        report.spoiled,
        report.survived,
        report.closed_by_insider,
        start.elapsed().as_secs_f64(),
        growth_kib >> 10,
    );
    Ok(())
}

/// Memory of this process, KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}
