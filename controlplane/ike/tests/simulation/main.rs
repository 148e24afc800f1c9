//! Two endpoints in virtual time. A failure prints its seed and what had happened.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a helper of a test may panic as the test, and its numbers are small"
)]

mod net;
mod plane;

use ike::config::{AddressSpec, ChildConfig, Connection, Lifetime, Secret};
use ike::proposal::{EspProposal, IkeProposal};
use ike::{Reason, SelectorSpec, Target, Verb};
use net::{Faults, Sim};
use zeroize::Zeroizing;

fn secret(text: &str) -> Vec<Secret> {
    vec![Secret {
        ids: Vec::new(),
        key: Zeroizing::new(text.as_bytes().to_vec()),
    }]
}

fn net_spec(text: &str) -> SelectorSpec {
    let first: std::net::Ipv4Addr = text.parse().unwrap();
    let last = std::net::Ipv4Addr::from(u32::from(first) | 0xff);
    SelectorSpec::addresses(first.into(), last.into())
}

fn child(side: u8, name: &str, third: u8, proposal: &str) -> ChildConfig {
    let mut child = ChildConfig::new(name, EspProposal::parse_list(&[proposal]).unwrap());
    child.local_ts = vec![net_spec(&format!("10.{side}.{third}.0"))];
    child.remote_ts = vec![net_spec(&format!("10.{}.{third}.0", 3 - side))];
    child.time_s = Lifetime::NEVER;
    child
}

fn connection(side: u8) -> Connection {
    let (own, peer) = match side {
        1 => ("192.0.2.1", "192.0.2.2"),
        _ => ("192.0.2.2", "192.0.2.1"),
    };
    let proposals = IkeProposal::parse_list(&["aes256gcm16-prfsha256-x25519"]).unwrap();
    let remote_id = format!("gw{}.example.org", 3 - side).parse().unwrap();
    let mut connection = Connection::new("conn", proposals, remote_id);
    connection.local_addrs = vec![AddressSpec::single(own.parse().unwrap())];
    connection.remote_addrs = vec![AddressSpec::single(peer.parse().unwrap())];
    connection.local_id = Some(format!("gw{side}.example.org").parse().unwrap());
    connection.rekey_time_s = 0;
    connection.dpd_delay_s = 20;
    connection.children = vec![
        child(side, "net", 0, "aes256gcm16"),
        child(side, "pfs", 1, "aes128gcm16-x25519"),
        child(side, "esn", 2, "aes256gcm16-esn-noesn"),
    ];
    connection
}

fn pair(seed: u64) -> Sim {
    pair_with(seed, |_, _| {})
}

fn pair_with(seed: u64, change: impl Fn(usize, &mut Connection)) -> Sim {
    let (mut a, mut b) = (connection(1), connection(2));
    change(0, &mut a);
    change(1, &mut b);
    Sim::new(
        seed,
        vec![a],
        vec![b],
        [secret("one secret"), secret("one secret")],
    )
}

mod exchanges;
mod random;
