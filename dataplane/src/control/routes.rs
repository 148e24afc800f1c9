//! The kernel's routes, and what becomes of them in our FIB.
//!
//! The tables `local` and `main` are merged as Linux looks them up: `local` first, then the longest
//! prefix, then the lowest metric. Of a route with several next hops the first usable one is taken.
//! What a route says is kept apart from what it means for us: a route through a device that is no
//! twin is a discard, since a packet that workers hold must not be routed around IPsec. So are the
//! entries of `local`: the machine's addresses are known apart, and looked at first.

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
    RouteType, RouteVia,
};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::id::Vrf;

use crate::port::PortIndex;
use crate::tables::fib::{Route, Target};

/// RT_TABLE_MAIN and RT_TABLE_LOCAL of linux/rtnetlink.h.
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// The port of each twin's interface index, and its routing instance.
pub type Twins = HashMap<u32, (PortIndex, Vrf)>;

/// A network: its first address and how many bits count.
type Prefix = (IpAddr, u8);

/// One next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    pub ifindex: u32,
    pub gateway: Option<IpAddr>,
}

/// One route of the kernel, of a table that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    prefix: Prefix,
    table: u32,
    metric: u32,
    kind: RouteType,
    hops: Vec<Hop>,
}

impl KernelRoute {
    /// Reads a route message; `None` for what plays no part: other tables, cached routes, and
    /// routes for one type of service or one source, which the FIB does not know.
    #[must_use]
    pub fn parse(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let cloned = header.flags.contains(RouteFlags::Cloned);
        if cloned || header.tos != 0 || header.source_prefix_length != 0 {
            return None;
        }
        let table = table_of(message);
        if table != TABLE_MAIN && table != TABLE_LOCAL {
            return None;
        }
        Some(Self {
            prefix: (destination_of(message)?, header.destination_prefix_length),
            table,
            metric: find(message, |attribute| match attribute {
                RouteAttribute::Priority(metric) => Some(*metric),
                _ => None,
            })
            .unwrap_or(0),
            kind: header.kind,
            hops: hops_of(message),
        })
    }

    /// Whether this one is taken before `other`, which has the same prefix.
    fn precedes(&self, other: &Self) -> bool {
        let rank = |route: &Self| (route.table != TABLE_LOCAL, route.metric);
        rank(self) < rank(other)
    }

    /// What the route means for workers, and in which routing instance: that of the port it leads
    /// to. `None` if it has no living next hop.
    fn target(&self, twins: &Twins) -> Option<(Vrf, Target)> {
        let discard = (Vrf(0), Target::Discard);
        if self.kind != RouteType::Unicast {
            return Some(discard);
        }
        let ours = self.hops.iter().find_map(|hop| {
            let (port, vrf) = *twins.get(&hop.ifindex)?;
            let gateway = hop.gateway;
            Some((vrf, Target::Port { port, gateway }))
        });
        ours.or_else(|| (!self.hops.is_empty()).then_some(discard))
    }
}

/// Merges the kernel's routes into one for each prefix.
///
/// In each routing instance, that is; the kernel's main table serves them all.
#[must_use]
pub fn merge(routes: &[KernelRoute], twins: &Twins) -> Vec<Route> {
    let mut best: BTreeMap<(Vrf, Prefix), (&KernelRoute, Target)> = BTreeMap::new();
    for route in routes.iter().filter(|route| route.kind != RouteType::Throw) {
        let Some((vrf, target)) = route.target(twins) else {
            continue;
        };
        let key = (vrf, route.prefix);
        let better = best.get(&key).is_none_or(|(held, _)| route.precedes(held));
        if better {
            best.insert(key, (route, target));
        }
    }
    let rows = best.into_iter();
    rows.map(|((vrf, (prefix, length)), (_, target))| Route {
        vrf,
        prefix,
        length,
        target,
    })
    .collect()
}

/// The message that asks for all routes of a family.
#[must_use]
pub fn dump_request(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message
}

/// The table of a route; numbers past 255 stand in an attribute.
#[must_use]
pub fn table_of(message: &RouteMessage) -> u32 {
    find(message, |attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    })
    .unwrap_or_else(|| message.header.table.into())
}

pub fn destination_of(message: &RouteMessage) -> Option<IpAddr> {
    let given = find(message, |attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    });
    match (given, message.header.address_family) {
        (Some(address), _) => ip_of(address),
        (None, AddressFamily::Inet) => Some(Ipv4Addr::UNSPECIFIED.into()),
        (None, AddressFamily::Inet6) => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

fn hops_of(message: &RouteMessage) -> Vec<Hop> {
    let several = find(message, |attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    if let Some(hops) = several {
        let alive = hops
            .iter()
            .filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
        return alive
            .map(|hop| Hop {
                ifindex: hop.interface_index,
                gateway: hop.attributes.iter().find_map(gateway_of),
            })
            .collect();
    }
    if message.header.flags.contains(RouteFlags::Dead) {
        return Vec::new();
    }
    let oif = find(message, |attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    });
    let gateway = find(message, gateway_of);
    oif.map(|ifindex| Hop { ifindex, gateway })
        .into_iter()
        .collect()
}

/// The next hop that an attribute gives, of the route's family or of the other one (RFC 5549).
pub fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn find<'a, T>(
    message: &'a RouteMessage,
    pick: impl Fn(&'a RouteAttribute) -> Option<T>,
) -> Option<T> {
    message.attributes.iter().find_map(pick)
}

/// True if the kernel made the route by itself, from an address or for a group.
#[must_use]
pub fn is_kernel_made(header: &RouteHeader) -> bool {
    use netlink_packet_route::route::RouteProtocol;
    header.protocol == RouteProtocol::Kernel
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWIN: u32 = 7;
    const FOREIGN: u32 = 8;

    fn route(
        prefix: &str,
        length: u8,
        table: u8,
        kind: RouteType,
        attributes: Vec<RouteAttribute>,
    ) -> RouteMessage {
        let address: IpAddr = prefix.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.address_family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.destination_prefix_length = length;
        message.header.table = table;
        message.header.kind = kind;
        message.attributes = attributes;
        if length > 0 {
            message
                .attributes
                .push(RouteAttribute::Destination(address.into()));
        }
        message
    }

    fn port() -> PortIndex {
        PortIndex::new(0).unwrap()
    }

    fn merged(messages: &[RouteMessage]) -> Vec<Target> {
        let routes: Vec<_> = messages.iter().filter_map(KernelRoute::parse).collect();
        let rows = merge(&routes, &HashMap::from([(TWIN, (port(), Vrf(0)))]));
        rows.into_iter().map(|route| route.target).collect()
    }

    fn only(messages: &[RouteMessage]) -> Target {
        let targets = merged(messages);
        assert_eq!(targets.len(), 1, "{targets:?}");
        targets[0]
    }

    fn via(address: &str) -> RouteAttribute {
        RouteAttribute::Gateway(address.parse::<IpAddr>().unwrap().into())
    }

    #[test]
    fn a_route_through_a_twin_leads_to_its_port() {
        let plain = route(
            "10.0.0.0",
            8,
            254,
            RouteType::Unicast,
            vec![RouteAttribute::Oif(TWIN)],
        );
        assert_eq!(
            only(&[plain]),
            Target::Port {
                port: port(),
                gateway: None
            }
        );
        let attributes = vec![RouteAttribute::Oif(TWIN), via("192.0.2.2")];
        let default = route("0.0.0.0", 0, 254, RouteType::Unicast, attributes);
        let gateway = Some("192.0.2.2".parse().unwrap());
        assert_eq!(
            only(&[default]),
            Target::Port {
                port: port(),
                gateway
            }
        );
    }

    #[test]
    fn a_gateway_of_the_other_family_is_kept() {
        let other = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        let attributes = vec![RouteAttribute::Oif(TWIN), other];
        let message = route("10.2.0.0", 16, 254, RouteType::Unicast, attributes);
        let gateway = Some("fe80::1".parse().unwrap());
        assert_eq!(
            only(&[message]),
            Target::Port {
                port: port(),
                gateway
            }
        );
    }

    #[test]
    fn foreign_devices_and_unreachables_are_discards() {
        let foreign = vec![RouteAttribute::Oif(FOREIGN)];
        let message = route("10.0.0.0", 8, 254, RouteType::Unicast, foreign);
        assert_eq!(only(&[message]), Target::Discard);
        for kind in [
            RouteType::BlackHole,
            RouteType::Unreachable,
            RouteType::Prohibit,
        ] {
            assert_eq!(
                only(&[route("fd00::", 8, 254, kind, vec![])]),
                Target::Discard
            );
        }
    }

    #[test]
    fn local_wins_over_main_and_a_low_metric_over_a_high_one() {
        let main = route(
            "10.1.0.1",
            32,
            254,
            RouteType::Unicast,
            vec![RouteAttribute::Oif(TWIN)],
        );
        let local = route(
            "10.1.0.1",
            32,
            255,
            RouteType::Local,
            vec![RouteAttribute::Oif(FOREIGN)],
        );
        assert_eq!(only(&[main.clone(), local.clone()]), Target::Discard);
        assert_eq!(only(&[local, main]), Target::Discard);

        let low = vec![RouteAttribute::Oif(FOREIGN), RouteAttribute::Priority(10)];
        let high = vec![RouteAttribute::Oif(TWIN), RouteAttribute::Priority(20)];
        let low = route("10.0.0.0", 8, 254, RouteType::Unicast, low);
        let high = route("10.0.0.0", 8, 254, RouteType::Unicast, high);
        assert_eq!(only(&[high, low]), Target::Discard);
    }

    #[test]
    fn a_dead_route_gives_way_to_the_next_one() {
        let mut dead = route(
            "10.0.0.0",
            8,
            254,
            RouteType::Unicast,
            vec![RouteAttribute::Oif(TWIN)],
        );
        dead.header.flags = RouteFlags::Dead;
        assert!(merged(&[dead.clone()]).is_empty());
        let high = vec![
            RouteAttribute::Oif(TWIN),
            RouteAttribute::Priority(20),
            via("10.0.0.9"),
        ];
        let high = route("10.0.0.0", 8, 254, RouteType::Unicast, high);
        let gateway = Some("10.0.0.9".parse().unwrap());
        assert_eq!(
            only(&[dead, high]),
            Target::Port {
                port: port(),
                gateway
            }
        );
    }

    #[test]
    fn other_tables_and_special_routes_are_left_out() {
        let attributes = vec![RouteAttribute::Table(1000), RouteAttribute::Oif(TWIN)];
        assert!(merged(&[route("10.0.0.0", 8, 0, RouteType::Unicast, attributes)]).is_empty());
        let mut tos = route(
            "10.0.0.0",
            8,
            254,
            RouteType::Unicast,
            vec![RouteAttribute::Oif(TWIN)],
        );
        tos.header.tos = 8;
        assert!(merged(&[tos]).is_empty());
    }
}
