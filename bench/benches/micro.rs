//! Core cycles of the small things that every packet needs: `cargo bench -p culvert-bench`.
//!
//! Words behind `--` choose benchmarks whose name has them.
#![forbid(unsafe_code)]

// The same clock as in the program: cycles of the core, scaled by a chain of multiplications.
#[path = "../src/measure/clock.rs"]
mod clock;

use std::error::Error;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicU64;

use api::id::{Geometry, Interface, PathId, PolicyId, Vrf};
use api::record::{Command, Status};
use api::region::{CommandSizes, StateSizes};
use api::selector::{ANY_PORTS, AddrRange, Selector};
use api::side::{DataplaneSide, IkePreparation};
use culvert_dataplane::port::PortIndex;
use culvert_dataplane::tables::fib::{Fib, Route, Target};
use culvert_dataplane::tables::spd::{Decision, Flow, Policies, Ports, Rule};
use esp::head::Head;
use esp::ip::Family;
use esp::replay::{Window, words_for};
use esp::{checksum, decap, protocol};
use fastrand::Rng;

use clock::cycles_per_item;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const RUN_NS: f64 = 50e6;
const RUNS: usize = 5;
/// Items of one call that is timed.
const ITEMS: u32 = 1 << 14;
const WINDOW_BITS: u32 = 4096;

struct Benches {
    words: Vec<String>,
}

impl Benches {
    /// Prints the median of several runs with their ends.
    fn run(&self, name: &str, mut work: impl FnMut()) {
        if !self.words.is_empty() && !self.words.iter().any(|word| name.contains(word)) {
            return;
        }
        let mut runs: Vec<f64> = (0..RUNS)
            .map(|_| cycles_per_item(ITEMS, RUN_NS, || {}, &mut work))
            .collect();
        runs.sort_by(f64::total_cmp);
        let [min, .., max] = runs[..] else { return };
        let median = runs[RUNS / 2];
        println!("{name:<44} {median:>8.1} cycles   {min:.1} .. {max:.1}");
    }
}

fn main() -> Result<()> {
    // cargo says --bench.
    let words = std::env::args().skip(1);
    let benches = Benches {
        words: words.filter(|word| !word.starts_with('-')).collect(),
    };
    replay(&benches)?;
    classify(&benches);
    policies(&benches);
    routes(&benches);
    ring(&benches)
}

/// The window of one SA, as a batch of packets goes through it.
fn replay(benches: &Benches) -> Result<()> {
    let words: Vec<AtomicU64> = (0..words_for(WINDOW_BITS))
        .map(|_| AtomicU64::new(0))
        .collect();
    let newest = [const { AtomicU64::new(0) }; 2];
    let window = Window::new(&words, &newest, WINDOW_BITS)?;
    let mut next = 0_u64;
    benches.run("replay window, in order: check, commit", || {
        for _ in 0..ITEMS {
            next += 1;
            black_box(window.check(black_box(next)));
            black_box(window.commit(next));
        }
    });
    benches.run("replay window, pairs swapped: check, commit", || {
        for _ in 0..ITEMS / 2 {
            for sequence in [next + 2, next + 1] {
                black_box(window.check(black_box(sequence)));
                black_box(window.commit(sequence));
            }
            next += 2;
        }
    });
    benches.run("replay window, seen before: check", || {
        for behind in 0..ITEMS {
            black_box(window.check(black_box(next - u64::from(behind % WINDOW_BITS))));
        }
    });
    Ok(())
}

/// An IPv4 packet of 64 bytes with that protocol and its header's checksum.
fn packet_v4(protocol: u8) -> [u8; 64] {
    let mut packet = [7; 64];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 64, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 8, 0, 1, 10, 16, 0, 1,
    ]);
    let sum = checksum::internet(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// What a usual frame is, behind its Ethernet header.
fn classify(benches: &Benches) {
    let (flow, outer) = (packet_v4(protocol::UDP), packet_v4(protocol::ESP));
    assert!(Head::plain(Family::V4, &flow).is_some() && decap::usual_esp_v4(&outer).is_some());
    benches.run("classify, IPv4 with ports", || {
        for _ in 0..ITEMS {
            black_box(Head::plain(Family::V4, black_box(&flow)));
        }
    });
    benches.run("classify, ESP over IPv4", || {
        for _ in 0..ITEMS {
            black_box(decap::usual_esp_v4(black_box(&outer)));
        }
    });
}

fn far(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a10_0000 + number).into()
}

/// Numbers below `count` in random order, one for each item.
fn picks(count: u32) -> Vec<u32> {
    let mut rng = Rng::with_seed(7);
    (0..ITEMS).map(|_| rng.u32(..count)).collect()
}

fn rule(number: u32) -> Rule {
    Rule {
        id: PolicyId(number),
        priority: 10_000,
        vrf: Vrf(0),
        interface: Interface(0),
        selector: Selector {
            local: AddrRange {
                first: [10, 8, 0, 0].into(),
                last: [10, 8, 255, 255].into(),
            },
            remote: AddrRange::single(far(number)),
            protocol: 0,
            local_ports: ANY_PORTS,
            remote_ports: ANY_PORTS,
        },
        decision: Decision::Discard,
    }
}

/// Policies of one remote host each; flows hit them in random order.
fn policies(benches: &Benches) {
    for count in [1, 1_000, 10_000] {
        let policies = Policies::new(Vec::new(), (0..count).map(rule).collect());
        let picks = picks(count);
        benches.run(&format!("policy lookup, {count} policies"), || {
            for pick in &picks {
                let flow = Flow {
                    vrf: Vrf(0),
                    interface: Interface(1),
                    local: [10, 8, 0, 1].into(),
                    remote: far(*pick),
                    protocol: 17,
                    ports: Some(Ports {
                        local: 4000,
                        remote: 5000,
                    }),
                };
                black_box(policies.outbound(black_box(&flow)));
            }
        });
    }
}

/// A default route, some networks, and /24s.
fn routes(benches: &Benches) {
    let Some(port) = PortIndex::new(0) else {
        return;
    };
    let target = Target::Port {
        port,
        gateway: Some([192, 0, 2, 1].into()),
    };
    let route = |prefix: IpAddr, length| Route {
        vrf: Vrf(0),
        prefix,
        length,
        target,
    };
    for count in [1_u32, 1_000, 100_000] {
        let nets = (0..count).map(|number| route(Ipv4Addr::from_bits(number << 8).into(), 24));
        let wide = [route([0; 4].into(), 0), route([10, 0, 0, 0].into(), 8)];
        let fib = Fib::new(wide.into_iter().chain(nets));
        let picks = picks(count);
        benches.run(&format!("route lookup, {count} routes"), || {
            for pick in &picks {
                let to = Ipv4Addr::from_bits(pick << 8 | 1).into();
                black_box(fib.lookup(Vrf(0), black_box(to)));
            }
        });
    }
}

/// A command there and its completion back, both ends in one thread.
fn ring(benches: &Benches) -> Result<()> {
    let geometry = Geometry::new(64, 1, 0)?;
    let mut dataplane = DataplaneSide::create(&StateSizes::new(geometry, 1, 64))?;
    let preparation = IkePreparation::new(&CommandSizes::default())?;
    let welcome = dataplane.attach(preparation.hello(None, Vec::new())?)?;
    let (mut ike, _) = preparation.start(welcome)?;
    let mut result = Ok(());
    benches.run("contract: submit, poll, complete, poll", || {
        for number in 0..ITEMS {
            let mut turn = || -> Result<()> {
                ike.submit(&Command::PathDelete(PathId(number)))?;
                if let Some((command, _)) = dataplane.poll()? {
                    dataplane.complete(command, Status::Ok)?;
                }
                black_box(ike.poll()?);
                Ok(())
            };
            if let Err(error) = turn() {
                result = Err(error);
            }
        }
    });
    result
}
