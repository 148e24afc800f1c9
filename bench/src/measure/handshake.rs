//! Whole handshakes between two endpoints in memory.

use std::error::Error;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::clock::nanoseconds;
use super::table::Section;
use crate::pair::Pair;

const GROUPS: [&str; 4] = ["x25519", "ecp256", "modp2048", "modp3072"];
const RUN: Duration = Duration::from_millis(400);

/// IKE_SA_INIT and IKE_AUTH with PSK and one child, a second of one core that does both sides.
pub(super) fn run(runs: usize) -> Result<Section, Box<dyn Error>> {
    let title = "IKE handshakes with PSK and one child, initiator and responder on one core";
    let mut section = Section::new(title, "handshake");
    for group in GROUPS {
        let proposal = format!("aes256gcm16-prfsha256-{group}");
        let figures: Result<Vec<f64>, _> = (0..runs).map(|_| rate(&proposal)).collect();
        section.push(group.to_owned(), "culvert", "per second", figures?);
    }
    Ok(section)
}

fn rate(proposal: &str) -> Result<f64, Box<dyn Error>> {
    let mut pair = Pair::new(proposal, &mut Rng::new())?;
    let (mut handshakes, mut spent_ns, start) = (0_u32, 0.0, Instant::now());
    while start.elapsed() < RUN {
        let begin = Instant::now();
        let request = pair.initiate();
        pair.settle()?;
        spent_ns += nanoseconds(begin);
        handshakes += 1;
        if pair.result(request).is_none_or(|result| result.is_err()) {
            return Err(format!("{proposal}: the handshake failed").into());
        }
        // Ended without being counted, drained SAs included.
        pair.terminate();
        pair.settle()?;
        pair.pass_ms(60_000)?;
    }
    Ok(f64::from(handshakes) / spent_ns * 1e9)
}
