//! Kernel routes for protected traffic of the gateway itself.
//!
//! A forwarded packet never needs them: the dataplane's policies decide. But what a program on the
//! gateway sends to the far side must leave through the twin of an outside port to meet those
//! policies at all. The next hop is a name that only the twin knows (a link-local address with a
//! permanent neighbour entry), since the true next hop is the outer header's affair, and may be of
//! the other family.
//!
//! Our routes carry protocol number [`PROTOCOL`], so that what an earlier process left is known.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio::sync::mpsc;

/// `proto` of our routes, one that `/etc/iproute2/rt_protos` leaves free.
pub(crate) const PROTOCOL: u8 = 77;
const METRIC: u32 = 77;
/// A prefix wider than this cannot be told from "everything" and is left to the operator's routes.
const WIDEST_COVER: usize = 64;
const NEXT_HOP_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 77);
const NEXT_HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xc077);
/// Hardware address of that next hop: locally administered, never seen on a wire.
const NEXT_HOP_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x77, 0x77];

/// A closed range of addresses of one family.
pub(crate) type Range = (IpAddr, IpAddr);

enum Order {
    Add {
        child: u32,
        peer: IpAddr,
        local: Vec<Range>,
        remote: Vec<Range>,
    },
    Remove {
        child: u32,
    },
    /// Remove what an earlier process left and no child of this one wants.
    Sweep,
    Clear(tokio::sync::oneshot::Sender<()>),
}

/// Handle to the task that keeps the routes.
#[derive(Clone)]
pub(crate) struct Routes {
    orders: mpsc::UnboundedSender<Order>,
}

impl Routes {
    /// Starts the task.
    ///
    /// # Errors
    /// No netlink socket could be opened.
    pub(crate) fn start(twins: Vec<String>) -> std::io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let (orders, mut queue) = mpsc::unbounded_channel();
        let mut table = Table {
            handle,
            twins,
            installed: HashMap::new(),
            children: HashMap::new(),
        };
        tokio::spawn(async move {
            while let Some(order) = queue.recv().await {
                match order {
                    Order::Add {
                        child,
                        peer,
                        local,
                        remote,
                    } => {
                        table.add(child, peer, &local, &remote).await;
                    }
                    Order::Remove { child } => table.remove(child).await,
                    Order::Sweep => table.sweep().await,
                    Order::Clear(done) => {
                        table.children.clear();
                        table.installed.clear();
                        table.sweep().await;
                        let _ = done.send(());
                    }
                }
            }
        });
        Ok(Self { orders })
    }

    /// Leads `remote` through the twin that leads to `peer`.
    pub(crate) fn add(&self, child: u32, peer: IpAddr, local: Vec<Range>, remote: Vec<Range>) {
        let _ = self.orders.send(Order::Add {
            child,
            peer,
            local,
            remote,
        });
    }

    pub(crate) fn remove(&self, child: u32) {
        let _ = self.orders.send(Order::Remove { child });
    }

    /// Removes routes that an earlier process left and no child wants, once the children are said.
    pub(crate) fn sweep(&self) {
        let _ = self.orders.send(Order::Sweep);
    }

    /// Removes every route of ours, known or left over.
    pub(crate) async fn clear(&self) {
        let (done, cleared) = tokio::sync::oneshot::channel();
        if self.orders.send(Order::Clear(done)).is_ok() {
            let _ = cleared.await;
        }
    }
}

struct Table {
    handle: Handle,
    twins: Vec<String>,
    /// How many children want a prefix, and the message that deletes it.
    installed: HashMap<IpNet, (usize, RouteMessage)>,
    children: HashMap<u32, Vec<IpNet>>,
}

impl Table {
    async fn add(&mut self, child: u32, peer: IpAddr, local: &[Range], remote: &[Range]) {
        self.remove(child).await;
        let Some(twin) = self.twin_towards(peer).await else {
            tracing::debug!("no route through a twin leads to {peer}: none made for its children");
            return;
        };
        let prefixes: Vec<IpNet> = remote
            .iter()
            .map(|range| cover(*range))
            .filter(|nets| nets.len() <= WIDEST_COVER)
            .flatten()
            // The way to the peer itself must stay as it is.
            .filter(|net| !net.contains(&peer) && net.prefix_len() > 0)
            .collect();
        for net in &prefixes {
            if let Some((users, _)) = self.installed.get_mut(net) {
                *users += 1;
                continue;
            }
            let source = self.source_within(local, net).await;
            match self.install(twin, *net, source).await {
                Ok(message) => {
                    self.installed.insert(*net, (1, message));
                }
                Err(error) => tracing::warn!("route to {net} through the twin: {error}"),
            }
        }
        self.children.insert(child, prefixes);
    }

    async fn install(
        &self,
        twin: u32,
        net: IpNet,
        source: Option<IpAddr>,
    ) -> Result<RouteMessage, Box<dyn std::error::Error + Send + Sync>> {
        let next_hop: IpAddr = if net.addr().is_ipv4() {
            NEXT_HOP_V4.into()
        } else {
            NEXT_HOP_V6.into()
        };
        let neighbour = self.handle.neighbours().add(twin, next_hop);
        neighbour
            .link_layer_address(&NEXT_HOP_MAC)
            .replace()
            .execute()
            .await?;
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(net.addr(), net.prefix_len())?
            .gateway(next_hop)?
            .output_interface(twin)
            .onlink()
            .priority(METRIC)
            .protocol(RouteProtocol::Other(PROTOCOL));
        if let Some(source) = source {
            builder = builder.pref_source(source)?;
        }
        let message = builder.build();
        self.handle
            .route()
            .add(message.clone())
            .replace()
            .execute()
            .await?;
        Ok(message)
    }

    async fn remove(&mut self, child: u32) {
        for net in self.children.remove(&child).unwrap_or_default() {
            let Some((users, message)) = self.installed.get_mut(&net) else {
                continue;
            };
            *users -= 1;
            if *users == 0 {
                let message = message.clone();
                self.installed.remove(&net);
                if let Err(error) = self.handle.route().del(message).execute().await {
                    tracing::debug!("route to {net} was gone already: {error}");
                }
            }
        }
    }

    async fn sweep(&self) {
        for family in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let mut routes = self.handle.route().get(family).execute();
            while let Ok(Some(route)) = routes.try_next().await {
                let wanted =
                    destination(&route).is_some_and(|net| self.installed.contains_key(&net));
                if route.header.protocol == RouteProtocol::Other(PROTOCOL) && !wanted {
                    let _ = self.handle.route().del(route).execute().await;
                }
            }
        }
    }

    /// Index of the twin through which the kernel would reach `peer`.
    async fn twin_towards(&self, peer: IpAddr) -> Option<u32> {
        let bits = if peer.is_ipv4() { 32 } else { 128 };
        let query = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(peer, bits)
            .ok()?
            .build();
        let route = Box::pin(self.handle.route().get(query).execute())
            .try_next()
            .await
            .ok()??;
        let index = route
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })?;
        let link = self.handle.link().get().match_index(index).execute();
        let link = Box::pin(link).try_next().await.ok()??;
        let named = link.attributes.iter().any(|attribute| {
            matches!(attribute, LinkAttribute::IfName(name) if self.twins.contains(name))
        });
        named.then_some(index)
    }

    /// An address of this machine inside the local selectors, of the family of `net`.
    async fn source_within(&self, local: &[Range], net: &IpNet) -> Option<IpAddr> {
        let mut addresses = Box::pin(self.handle.address().get().execute());
        while let Ok(Some(message)) = addresses.try_next().await {
            for attribute in &message.attributes {
                let (AddressAttribute::Local(address) | AddressAttribute::Address(address)) =
                    attribute
                else {
                    continue;
                };
                let fits = |(first, last): &Range| {
                    first.is_ipv4() == address.is_ipv4() && first <= address && address <= last
                };
                if address.is_ipv4() == net.addr().is_ipv4() && local.iter().any(fits) {
                    return Some(*address);
                }
            }
        }
        None
    }
}

/// The prefix that a route is for.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

/// The prefixes that make up a range; nothing if its ends do not fit.
fn cover((first, last): Range) -> Vec<IpNet> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => Ipv4Subnets::new(first, last, 0)
            .map(|net: Ipv4Net| net.into())
            .collect(),
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => Ipv6Subnets::new(first, last, 0)
            .map(|net: Ipv6Net| net.into())
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(first: &str, last: &str) -> Vec<String> {
        let nets = cover((first.parse().unwrap(), last.parse().unwrap()));
        nets.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_subnet_is_one_prefix() {
        assert_eq!(covered("10.2.0.0", "10.2.0.255"), ["10.2.0.0/24"]);
        assert_eq!(
            covered("fd00:2::", "fd00:2::ffff:ffff:ffff:ffff"),
            ["fd00:2::/64"]
        );
        assert_eq!(covered("10.2.0.1", "10.2.0.1"), ["10.2.0.1/32"]);
        assert_eq!(covered("0.0.0.0", "255.255.255.255"), ["0.0.0.0/0"]);
    }

    #[test]
    fn a_range_is_several_and_nonsense_is_none() {
        assert_eq!(
            covered("10.0.0.1", "10.0.0.4"),
            ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"]
        );
        assert!(covered("10.0.0.4", "10.0.0.1").is_empty());
        assert!(covered("10.0.0.4", "fd00::").is_empty());
    }
}
