//! Routes, neighbours and local addresses: what the control thread mirrors from the kernel.

#[cfg(test)]
mod differential;
mod locals;
mod trie;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;

use api::id::Vrf;

use super::address::Address;
use crate::port::PortIndex;
pub use locals::{Locals, Neighbours, NextHops};
use trie::{Leaf, Trie};

/// Most routes in all routing instances together.
pub const MAX_ROUTES: usize = 1 << 20;

/// Where packets for a prefix go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// Longest-prefix match.
///
/// A full table of 2^20 routes is built in well under a second; it takes up to 64 bytes a route
/// for IPv4, 128 for IPv6, and 1,024 bytes for each node where prefixes are dense.
#[derive(Debug, Default)]
pub struct Fib {
    v4: Trie<u32>,
    v6: Trie<u128>,
    targets: Vec<Target>,
}

/// A route's target by number: the same for as long as the version of the FIB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop(NonZeroU32);

impl Fib {
    /// Builds the table. Of two routes for one prefix the later one counts; routes past
    /// [`MAX_ROUTES`] are left out, so that what they covered falls to a shorter prefix.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut targets = Targets::default();
        for route in routes.into_iter().take(MAX_ROUTES) {
            let value = targets.number(route.target);
            v4.extend(leaf(&route, value));
            v6.extend(leaf(&route, value));
        }
        Self {
            v4: Trie::new(v4),
            v6: Trie::new(v6),
            targets: targets.targets,
        }
    }

    /// The route for a destination, `None` where none covers it.
    #[must_use]
    pub fn lookup(&self, vrf: Vrf, destination: IpAddr) -> Option<Target> {
        match destination {
            IpAddr::V4(v4) => self.lookup_v4(vrf, v4.to_bits()),
            IpAddr::V6(v6) => self.lookup_v6(vrf, v6.to_bits()),
        }
    }

    /// The route for an IPv4 destination, `None` where none covers it.
    #[inline]
    #[must_use]
    pub fn lookup_v4(&self, vrf: Vrf, destination: u32) -> Option<Target> {
        self.target(self.next_hop_v4(vrf, destination)?).copied()
    }

    /// The route for an IPv6 destination, `None` where none covers it.
    #[inline]
    #[must_use]
    pub fn lookup_v6(&self, vrf: Vrf, destination: u128) -> Option<Target> {
        self.target(self.next_hop_v6(vrf, destination)?).copied()
    }

    /// As [`lookup_v4`](Self::lookup_v4), by number: to group packets by it.
    #[inline(always)]
    #[must_use]
    pub fn next_hop_v4(&self, vrf: Vrf, destination: u32) -> Option<NextHop> {
        NonZeroU32::new(self.v4.lookup(vrf, destination)).map(NextHop)
    }

    /// As [`lookup_v6`](Self::lookup_v6), by number: to group packets by it.
    #[inline]
    #[must_use]
    pub fn next_hop_v6(&self, vrf: Vrf, destination: u128) -> Option<NextHop> {
        NonZeroU32::new(self.v6.lookup(vrf, destination)).map(NextHop)
    }

    /// What a number of this version stands for.
    #[inline(always)]
    #[must_use]
    pub fn target(&self, hop: NextHop) -> Option<&Target> {
        let place = usize::try_from(hop.0.get() - 1).ok()?;
        self.targets.get(place)
    }

    /// Bytes that the tables take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes() + size_of_val(self.targets.as_slice())
    }
}

/// Different targets, numbered from 1.
#[derive(Default)]
struct Targets {
    targets: Vec<Target>,
    numbers: HashMap<Target, u32, foldhash::fast::RandomState>,
}

impl Targets {
    fn number(&mut self, target: Target) -> u32 {
        let targets = &mut self.targets;
        *self.numbers.entry(target).or_insert_with(|| {
            targets.push(target);
            u32::try_from(targets.len()).unwrap_or(0)
        })
    }
}

/// The route, if it is of the family.
fn leaf<A: Address>(route: &Route, value: u32) -> Option<Leaf<A>> {
    let bits = A::BITS.min(route.length.into());
    Some(Leaf {
        vrf: route.vrf,
        first: A::of(route.prefix)?.and(A::prefix_mask(bits)),
        bits,
        value,
    })
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
}
