//! Random routes: the tries against a scan for the longest prefix, through changes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::tables::random::Random;

fn address(random: &mut Random, v4: bool) -> IpAddr {
    let near = random.next();
    let low = u32::try_from(near & 0xffff_ffff).unwrap();
    if v4 {
        let spread = [0x0000_0007, 0x0000_0fff, 0x00ff_00ff, u32::MAX][random.at(4)];
        Ipv4Addr::from_bits(0x0a01_0000 ^ low & spread).into()
    } else {
        let wide = u128::from(near) << 64 | u128::from(random.next());
        let spread = [7, 0xfff_0000, 0xff << 96 | 0xff, 0xffff << 64, u128::MAX][random.at(5)];
        Ipv6Addr::from_bits((0x2001_0db8 << 96) ^ wide & spread).into()
    }
}

fn route(random: &mut Random) -> Route {
    let v4 = random.one_in(2);
    let prefix = address(random, v4);
    let lengths: [u8; 12] = if v4 {
        [0, 1, 7, 8, 15, 16, 17, 24, 25, 30, 31, 32]
    } else {
        [0, 1, 16, 17, 32, 48, 63, 64, 65, 120, 127, 128]
    };
    let any = u8::try_from(random.below(if v4 { 33 } else { 129 })).unwrap();
    let length = if random.one_in(2) {
        any
    } else {
        lengths[random.at(12)]
    };
    let gateway = Ipv4Addr::from_bits(random.below(50));
    let port = Target::Port {
        port: PortIndex::new(random.at(4)).unwrap(),
        gateway: Some(gateway.into()),
    };
    let discard = random.one_in(10);
    Route {
        vrf: Vrf([0, 0, 1, 9][random.at(4)]),
        prefix,
        length,
        target: if discard { Target::Discard } else { port },
    }
}

fn covers(route: &Route, destination: IpAddr) -> bool {
    let bits = u32::from(route.length);
    match (route.prefix, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.to_bits().common_bits(b.to_bits()) >= bits,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits().common_bits(b.to_bits()) >= bits,
        _ => false,
    }
}

/// The later of the longest.
fn scan(routes: &[Route], vrf: Vrf, destination: IpAddr) -> Option<Target> {
    let covering = routes
        .iter()
        .filter(|route| route.vrf == vrf && covers(route, destination));
    covering
        .max_by_key(|route| route.length)
        .map(|route| route.target)
}

fn run(seed: u64, size: usize) {
    println!("seed {seed}, {size} routes");
    let mut random = Random::new(seed);
    let mut routes: Vec<Route> = Vec::new();
    for _ in 0..6 {
        routes.truncate(size - size / 4);
        routes.extend((routes.len()..size).map(|_| route(&mut random)));
        for _ in 0..size / 8 {
            let at = random.at(size);
            routes.swap_remove(at);
            routes.push(route(&mut random));
        }
        let fib = Fib::new(routes.iter().copied());
        for _ in 0..500 {
            let v4 = random.one_in(2);
            let some = (!routes.is_empty()).then(|| routes[random.at(routes.len())]);
            let destination = match some.filter(|_| random.one_in(2)) {
                Some(route) => route.prefix,
                None => address(&mut random, v4),
            };
            let vrf = Vrf([0, 1, 9, 5][random.at(4)]);
            let expected = scan(&routes, vrf, destination);
            assert_eq!(
                fib.lookup(vrf, destination),
                expected,
                "{vrf:?} {destination}"
            );
        }
    }
}

#[test]
fn the_tries_agree_with_a_scan() {
    let start = Random::seed();
    for n in 0..20 {
        for size in [0, 1, 4, 5, 40, 400] {
            run(start.wrapping_add(n), size);
        }
    }
}

/// Prefixes that differ at the very end only: what they have in common is skipped.
#[test]
fn a_long_common_prefix_takes_no_chain_of_nodes() {
    let prefix = |n: u32| Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n));
    let routes = (0..200).map(|n| Route {
        vrf: Vrf(0),
        prefix: prefix(n).into(),
        length: 128,
        target: Target::Discard,
    });
    let fib = Fib::new(routes);
    let root = 4 << 16;
    assert!(fib.bytes() < root + 4096, "{} bytes", fib.bytes());
    for n in 0..200 {
        assert_eq!(fib.lookup(Vrf(0), prefix(n).into()), Some(Target::Discard));
    }
    assert_eq!(fib.lookup(Vrf(0), prefix(200).into()), None);
    assert_eq!(fib.lookup(Vrf(0), prefix(1 << 20).into()), None);
}
