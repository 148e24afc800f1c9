//! Routes, neighbours and local addresses: what the control thread mirrors from the kernel.

use std::collections::HashMap;
use std::net::IpAddr;

use api::id::Vrf;

use crate::port::{Mac, PortIndex};

/// Most routes in all routing instances together.
pub const MAX_ROUTES: usize = 1 << 20;

/// Where packets for a prefix go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Out of this port, to the gateway, or to the destination itself where there is none.
    Port {
        /// Egress port.
        port: PortIndex,
        /// Next hop; `None` for a directly connected prefix.
        gateway: Option<IpAddr>,
    },
    /// Dropped: unreachable, blackhole, or through a device that is not ours.
    Discard,
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Routing instance.
    pub vrf: Vrf,
    /// First address of the prefix; bits past the length are ignored.
    pub prefix: IpAddr,
    /// Prefix length in bits, at most 32 or 128; longer is taken as that.
    pub length: u8,
    /// What to do.
    pub target: Target,
}

/// Longest-prefix match: one hash a prefix length, longest first.
///
/// A lookup probes only the lengths that have routes, a handful in practice.
#[derive(Debug, Default)]
pub struct Fib {
    v4: Vec<Level>,
    v6: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    mask: u128,
    routes: HashMap<(Vrf, u128), Target>,
}

impl Fib {
    /// Builds the table. Of two routes for one prefix the later one counts; routes past
    /// [`MAX_ROUTES`] are left out, so that what they covered falls to a shorter prefix.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut levels: [HashMap<u8, Level>; 2] = Default::default();
        for route in routes.into_iter().take(MAX_ROUTES) {
            let (bits, width) = bits(route.prefix);
            let length = route.length.min(width);
            let mask = mask(length, width);
            let [v4, v6] = &mut levels;
            let family = if width == 32 { v4 } else { v6 };
            let level = family.entry(length).or_insert_with(|| Level {
                mask,
                routes: HashMap::new(),
            });
            level.routes.insert((route.vrf, bits & mask), route.target);
        }
        let [v4, v6] = levels.map(longest_first);
        Self { v4, v6 }
    }

    /// The route for a destination, `None` where none covers it.
    #[must_use]
    pub fn lookup(&self, vrf: Vrf, destination: IpAddr) -> Option<Target> {
        let (bits, width) = bits(destination);
        let levels = if width == 32 { &self.v4 } else { &self.v6 };
        levels
            .iter()
            .find_map(|level| level.routes.get(&(vrf, bits & level.mask)).copied())
    }
}

fn longest_first(levels: HashMap<u8, Level>) -> Vec<Level> {
    let mut levels: Vec<(u8, Level)> = levels.into_iter().collect();
    levels.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    levels.into_iter().map(|(_, level)| level).collect()
}

/// Address bits, high address bit at bit `width - 1`, and the width of the family in bits.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u32::from(v4).into(), 32),
        IpAddr::V6(v6) => (v6.into(), 128),
    }
}

fn mask(length: u8, width: u8) -> u128 {
    let host_bits = u32::from(width.saturating_sub(length));
    u128::MAX.checked_shl(host_bits).unwrap_or(0)
}

/// Ethernet addresses of next hops.
pub type Neighbours = HashMap<(PortIndex, IpAddr), Mac>;

/// Addresses of the gateway itself. The port is the twin that carries the address; `None` for an
/// address on a device that is no port of ours, which is still local.
#[derive(Debug, Default)]
pub struct Locals {
    addresses: HashMap<(Vrf, IpAddr), Option<PortIndex>>,
    order: Vec<(Vrf, IpAddr, Option<PortIndex>)>,
}

impl Locals {
    /// Takes the gateway's addresses; the first of a port is the one that signs ICMP errors.
    #[must_use]
    pub fn new(addresses: impl IntoIterator<Item = (Vrf, IpAddr, Option<PortIndex>)>) -> Self {
        let order: Vec<_> = addresses.into_iter().collect();
        let addresses = order
            .iter()
            .map(|&(vrf, address, port)| ((vrf, address), port))
            .collect();
        Self { addresses, order }
    }

    /// True when the address is the gateway's own.
    #[must_use]
    pub fn contains(&self, vrf: Vrf, address: IpAddr) -> bool {
        self.addresses.contains_key(&(vrf, address))
    }

    /// An address of the gateway in the family of `peer`, of this port if it has one, else any:
    /// the source of ICMP errors (RFC 1812 4.3.2.4).
    #[must_use]
    pub fn source(&self, vrf: Vrf, port: PortIndex, peer: IpAddr) -> Option<IpAddr> {
        let fits = |address: &IpAddr| {
            address.is_ipv4() == peer.is_ipv4() && !address.is_loopback() && !link_local(address)
        };
        let here = self
            .order
            .iter()
            .filter(|(v, address, _)| *v == vrf && fits(address));
        let on_port = here.clone().find(|(_, _, on)| *on == Some(port));
        on_port
            .or_else(|| here.clone().next())
            .map(|(_, address, _)| *address)
    }
}

fn link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(index: usize) -> PortIndex {
        PortIndex::new(index).unwrap()
    }

    fn route(prefix: &str, length: u8, to: usize) -> Route {
        let target = Target::Port {
            port: port(to),
            gateway: None,
        };
        Route {
            vrf: Vrf(0),
            prefix: prefix.parse().unwrap(),
            length,
            target,
        }
    }

    fn lookup(fib: &Fib, destination: &str) -> Option<usize> {
        match fib.lookup(Vrf(0), destination.parse().unwrap())? {
            Target::Port { port, .. } => Some(port.index()),
            Target::Discard => None,
        }
    }

    #[test]
    fn the_longest_prefix_wins_in_both_families() {
        let fib = Fib::new([
            route("0.0.0.0", 0, 0),
            route("10.0.0.0", 8, 1),
            route("10.1.2.3", 32, 2),
            route("::", 0, 3),
            route("2001:db8::", 32, 4),
            route("2001:db8::1", 128, 5),
        ]);
        assert_eq!(lookup(&fib, "192.0.2.1"), Some(0));
        assert_eq!(lookup(&fib, "10.255.0.1"), Some(1));
        assert_eq!(lookup(&fib, "10.1.2.3"), Some(2));
        assert_eq!(lookup(&fib, "2001:db9::1"), Some(3));
        assert_eq!(lookup(&fib, "2001:db8::2"), Some(4));
        assert_eq!(lookup(&fib, "2001:db8::1"), Some(5));
    }

    #[test]
    fn families_and_instances_do_not_mix() {
        let fib = Fib::new([route("::", 0, 0)]);
        assert_eq!(lookup(&fib, "0.0.0.1"), None);
        assert_eq!(fib.lookup(Vrf(1), "::1".parse().unwrap()), None);
    }

    #[test]
    fn host_bits_of_a_prefix_are_ignored_and_a_long_length_is_clamped() {
        let fib = Fib::new([route("10.1.2.3", 16, 1), route("10.9.9.9", 200, 2)]);
        assert_eq!(lookup(&fib, "10.1.200.200"), Some(1));
        assert_eq!(lookup(&fib, "10.9.9.9"), Some(2));
        assert_eq!(lookup(&fib, "10.9.9.8"), None);
    }

    #[test]
    fn a_longer_discard_hides_a_shorter_route() {
        let discard = Route {
            target: Target::Discard,
            ..route("10.0.0.0", 8, 0)
        };
        let fib = Fib::new([route("0.0.0.0", 0, 0), discard]);
        assert_eq!(
            fib.lookup(Vrf(0), "10.0.0.1".parse().unwrap()),
            Some(Target::Discard)
        );
    }

    #[test]
    fn icmp_errors_come_from_the_port_and_never_from_link_local() {
        let v4 = |text: &str| text.parse::<IpAddr>().unwrap();
        let locals = Locals::new([
            (Vrf(0), v4("127.0.0.1"), None),
            (Vrf(0), v4("192.0.2.1"), Some(port(1))),
            (Vrf(0), v4("10.0.0.1"), Some(port(0))),
            (Vrf(0), v4("fe80::1"), Some(port(0))),
        ]);
        assert_eq!(
            locals.source(Vrf(0), port(0), v4("10.0.0.9")),
            Some(v4("10.0.0.1"))
        );
        assert_eq!(
            locals.source(Vrf(0), port(2), v4("10.0.0.9")),
            Some(v4("192.0.2.1"))
        );
        assert_eq!(locals.source(Vrf(0), port(0), v4("2001:db8::1")), None);
        assert!(locals.contains(Vrf(0), v4("fe80::1")));
        assert!(!locals.contains(Vrf(1), v4("10.0.0.1")));
    }
}
