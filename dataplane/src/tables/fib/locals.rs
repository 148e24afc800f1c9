//! The gateway's own addresses, and neighbours.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use api::id::Vrf;
use foldhash::fast::RandomState;

use crate::port::{Mac, PortIndex};
use crate::tables::address::Address;
use crate::tables::compact::Compact;

/// Ethernet addresses of next hops.
pub type Neighbours = HashMap<(PortIndex, IpAddr), Mac, RandomState>;

/// The same for workers.
#[derive(Clone, Debug, Default)]
pub struct NextHops {
    all: Neighbours,
    /// Those of IPv4: the address as the low six bytes.
    v4: Compact,
}

impl NextHops {
    /// Takes all neighbours.
    #[must_use]
    pub fn new(all: Neighbours) -> Self {
        let v4 = all.iter().filter_map(|(&(port, address), &mac)| {
            let [a, b, c, d, e, f] = mac.0;
            let mac = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
            Some((key(number(port), u32::of(address)?), mac))
        });
        let v4 = Compact::new(v4);
        Self { all, v4 }
    }

    /// The Ethernet address of a next hop.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, port: PortIndex, address: IpAddr) -> Option<Mac> {
        match address {
            IpAddr::V4(v4) => self.get_v4(port, v4.to_bits()),
            IpAddr::V6(_) => self.all.get(&(port, address)).copied(),
        }
    }

    /// The Ethernet address of a next hop in IPv4.
    #[inline(always)]
    #[must_use]
    pub fn get_v4(&self, port: PortIndex, address: u32) -> Option<Mac> {
        let mac = self.v4.get(key(number(port), address))?;
        let [_, _, mac @ ..] = mac.to_be_bytes();
        Some(Mac(mac))
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &Neighbours {
        &self.all
    }
}

fn number(port: PortIndex) -> u16 {
    u16::try_from(port.index()).unwrap_or(u16::MAX)
}

/// Addresses of the gateway itself. The port is the twin that carries the address; `None` for an
/// address on a device that is no port of ours, which is still local.
#[derive(Debug, Default)]
pub struct Locals {
    v4: Compact,
    v6: HashSet<(Vrf, u128), RandomState>,
    order: Vec<(Vrf, IpAddr, Option<PortIndex>)>,
}

impl Locals {
    /// Takes the gateway's addresses; the first of a port is the one that signs ICMP errors.
    #[must_use]
    pub fn new(addresses: impl IntoIterator<Item = (Vrf, IpAddr, Option<PortIndex>)>) -> Self {
        let order: Vec<_> = addresses.into_iter().collect();
        Self {
            v4: Compact::new(of_family(&order).map(|(vrf, v4)| (key(vrf.0, v4), 0))),
            v6: of_family(&order).collect(),
            order,
        }
    }

    /// True when the address is the gateway's own.
    #[must_use]
    pub fn contains(&self, vrf: Vrf, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.contains_v4(vrf, v4.to_bits()),
            IpAddr::V6(v6) => self.contains_v6(vrf, v6.to_bits()),
        }
    }

    /// True when the IPv4 address is the gateway's own.
    #[inline(always)]
    #[must_use]
    pub fn contains_v4(&self, vrf: Vrf, address: u32) -> bool {
        self.v4.get(key(vrf.0, address)).is_some()
    }

    /// True when the IPv6 address is the gateway's own.
    #[inline]
    #[must_use]
    pub fn contains_v6(&self, vrf: Vrf, address: u128) -> bool {
        self.v6.contains(&(vrf, address))
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

fn of_family<A: Address>(
    order: &[(Vrf, IpAddr, Option<PortIndex>)],
) -> impl Iterator<Item = (Vrf, A)> {
    let addresses = order.iter();
    addresses.filter_map(|&(vrf, address, _)| Some((vrf, A::of(address)?)))
}

/// An IPv4 address and what it belongs to, as the key of a [`Compact`].
#[inline(always)]
fn key(owner: u16, address: u32) -> u64 {
    u64::from(owner) << 32 | u64::from(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(index: usize) -> PortIndex {
        PortIndex::new(index).unwrap()
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
