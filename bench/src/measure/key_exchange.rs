//! Key exchange methods: one side's share of a handshake.

use std::error::Error;

use ike::crypto::KeyExchange;
use ike::wire::KeGroup;

use super::clock::cycles_per_item;
use super::table::Section;

const GROUPS: [(&str, KeGroup); 6] = [
    ("x25519", KeGroup::CURVE_25519),
    ("ecp256", KeGroup::ECP_256),
    ("ecp384", KeGroup::ECP_384),
    ("modp2048", KeGroup::MODP_2048),
    ("modp3072", KeGroup::MODP_3072),
    ("modp4096", KeGroup::MODP_4096),
];
const RUN_NS: f64 = 100e6;

/// Microseconds to draw a private value, compute the public one and agree with a peer's.
pub(super) fn run(runs: usize) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("Key exchange, one side: generate and agree", "ke");
    for (name, group) in GROUPS {
        let peer = KeyExchange::generate(group, &mut |bytes| fastrand::fill(bytes))?;
        let mut figures = Vec::new();
        for _ in 0..runs {
            let mut ok = true;
            let cycles = cycles_per_item(1, RUN_NS, || {}, || ok &= share(group, peer.public()));
            if !ok {
                return Err(format!("{name}: the key exchange failed").into());
            }
            figures.push(cycles / 1e3);
        }
        section.push(name.to_owned(), library(group), "k cycles", figures);
    }
    Ok(section)
}

/// What the `ike` crate takes for it.
fn library(group: KeGroup) -> &'static str {
    match group {
        KeGroup::CURVE_25519 | KeGroup::ECP_256 | KeGroup::ECP_384 => "aws-lc",
        _ => "crypto-bigint",
    }
}

fn share(group: KeGroup, peer: &[u8]) -> bool {
    KeyExchange::generate(group, &mut |bytes| fastrand::fill(bytes))
        .and_then(|own| own.agree(peer))
        .is_ok()
}
