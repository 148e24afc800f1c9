//! Traffic selectors: what is configured, what is agreed (RFC 7296 2.9), and the address pairs that
//! become policies.

use std::net::IpAddr;

use crate::wire::TrafficSelector;

/// Selectors of one side that are kept; more of a peer's are ignored.
pub(crate) const MAX_SELECTORS: usize = 64;

/// A configured selector (`local_ts`, `remote_ts`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectorSpec {
    /// First and last address, both of one family. `None` is `dynamic`: the IKE address of that
    /// side.
    pub range: Option<(IpAddr, IpAddr)>,
    /// IP protocol, 0 for any.
    pub protocol: u8,
    /// First and last port; (0, 65535) is any, (65535, 0) is opaque; ICMP type and code as in
    /// RFC 7296 3.13.1.
    pub ports: (u16, u16),
}

impl SelectorSpec {
    /// `dynamic`, any protocol: the default of both sides.
    pub const DYNAMIC: Self = Self {
        range: None,
        protocol: 0,
        ports: (0, u16::MAX),
    };

    /// A range of addresses, any protocol.
    #[must_use]
    pub const fn addresses(first: IpAddr, last: IpAddr) -> Self {
        Self {
            range: Some((first, last)),
            protocol: 0,
            ports: (0, u16::MAX),
        }
    }

    /// The selector on the wire, with `address` in place of `dynamic`.
    pub(crate) fn resolve(&self, address: IpAddr) -> TrafficSelector {
        let (first, last) = self.range.unwrap_or((address, address));
        let (start_port, end_port) = self.ports;
        TrafficSelector {
            protocol: self.protocol,
            start_port,
            end_port,
            first,
            last,
        }
    }
}

/// One policy of a Child SA in each direction. Ports as in `SelectorSpec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectorPair {
    /// First and last address of this side.
    pub local: (IpAddr, IpAddr),
    /// First and last address of the peer's side, of the same family.
    pub remote: (IpAddr, IpAddr),
    /// IP protocol, 0 for any.
    pub protocol: u8,
    /// Ports of this side.
    pub local_ports: (u16, u16),
    /// Ports of the peer's side.
    pub remote_ports: (u16, u16),
}

/// Selectors of both sides, as agreed or as proposed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// This side.
    pub local: Vec<TrafficSelector>,
    /// The peer's side.
    pub remote: Vec<TrafficSelector>,
}

impl Selectors {
    /// Configured selectors of both sides.
    pub(crate) fn resolve(
        local: &[SelectorSpec],
        remote: &[SelectorSpec],
        addresses: (IpAddr, IpAddr),
    ) -> Self {
        let side = |specs: &[SelectorSpec], address| match specs {
            [] => vec![SelectorSpec::DYNAMIC.resolve(address)],
            _ => specs.iter().map(|spec| spec.resolve(address)).collect(),
        };
        Self {
            local: side(local, addresses.0),
            remote: side(remote, addresses.1),
        }
    }

    /// What both allow, `None` if some side or every pair is empty (TS_UNACCEPTABLE).
    pub(crate) fn intersect(&self, other: &Self) -> Option<Self> {
        let agreed = Self {
            local: intersect_all(&self.local, &other.local),
            remote: intersect_all(&self.remote, &other.remote),
        };
        (!agreed.pairs().is_empty()).then_some(agreed)
    }

    /// True if each of our selectors lies in one of `other`'s: the answer of a responder may only
    /// narrow (RFC 7296 2.9).
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let within = |ours: &[TrafficSelector], theirs: &[TrafficSelector]| {
            ours.iter()
                .all(|inner| theirs.iter().any(|outer| contains(outer, inner)))
        };
        within(&self.local, &other.local) && within(&self.remote, &other.remote)
    }

    /// Every combination of a local and a remote selector that some packet can match.
    pub fn pairs(&self) -> Vec<SelectorPair> {
        let combine = |local: &TrafficSelector, remote: &TrafficSelector| {
            if local.first.is_ipv4() != remote.first.is_ipv4() {
                return None;
            }
            Some(SelectorPair {
                local: (local.first, local.last),
                remote: (remote.first, remote.last),
                protocol: intersect_protocol(local.protocol, remote.protocol)?,
                local_ports: (local.start_port, local.end_port),
                remote_ports: (remote.start_port, remote.end_port),
            })
        };
        let remote = &self.remote;
        let pairs = self
            .local
            .iter()
            .flat_map(|l| remote.iter().filter_map(move |r| combine(l, r)));
        pairs.take(MAX_SELECTORS * MAX_SELECTORS).collect()
    }
}

fn intersect_all(ours: &[TrafficSelector], theirs: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut agreed: Vec<TrafficSelector> = Vec::new();
    // The peer's order rules: its first selector is the one it needs most (RFC 7296 2.9).
    for their in theirs.iter().take(MAX_SELECTORS) {
        for our in ours {
            let Some(common) = intersect(our, their) else {
                continue;
            };
            if agreed.iter().any(|outer| contains(outer, &common)) {
                continue;
            }
            agreed.retain(|inner| !contains(&common, inner));
            agreed.push(common);
        }
    }
    agreed.truncate(MAX_SELECTORS);
    agreed
}

fn intersect(a: &TrafficSelector, b: &TrafficSelector) -> Option<TrafficSelector> {
    if a.first.is_ipv4() != b.first.is_ipv4() {
        return None;
    }
    let (first, last) = (a.first.max(b.first), a.last.min(b.last));
    let (start_port, end_port) = intersect_ports(a, b)?;
    let protocol = intersect_protocol(a.protocol, b.protocol)?;
    (first <= last).then_some(TrafficSelector {
        protocol,
        start_port,
        end_port,
        first,
        last,
    })
}

const fn intersect_protocol(a: u8, b: u8) -> Option<u8> {
    match (a, b) {
        (0, any) | (any, 0) => Some(any),
        (a, b) if a == b => Some(a),
        _ => None,
    }
}

/// ANY includes OPAQUE, a range does not (RFC 4301 4.4.1.1).
fn intersect_ports(a: &TrafficSelector, b: &TrafficSelector) -> Option<(u16, u16)> {
    if a.any_port() {
        return Some((b.start_port, b.end_port));
    }
    if b.any_port() || (a.opaque_port() && b.opaque_port()) {
        return Some((a.start_port, a.end_port));
    }
    let (start, end) = (a.start_port.max(b.start_port), a.end_port.min(b.end_port));
    (start <= end && !a.opaque_port() && !b.opaque_port()).then_some((start, end))
}

fn contains(outer: &TrafficSelector, inner: &TrafficSelector) -> bool {
    intersect(outer, inner).as_ref() == Some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(protocol: u8, ports: (u16, u16), first: &str, last: &str) -> TrafficSelector {
        let (first, last) = (first.parse().unwrap(), last.parse().unwrap());
        TrafficSelector {
            protocol,
            start_port: ports.0,
            end_port: ports.1,
            first,
            last,
        }
    }

    fn net(third: u8) -> TrafficSelector {
        ts(
            0,
            (0, 65535),
            &format!("10.0.{third}.0"),
            &format!("10.0.{third}.255"),
        )
    }

    fn wide() -> TrafficSelector {
        ts(0, (0, 65535), "10.0.0.0", "10.0.255.255")
    }

    #[test]
    fn a_wide_request_is_narrowed_to_every_configured_net() {
        let ours = Selectors {
            local: vec![net(1), net(2)],
            remote: vec![net(9)],
        };
        let theirs = Selectors {
            local: vec![wide()],
            remote: vec![wide()],
        };
        let agreed = ours.intersect(&theirs).unwrap();
        assert_eq!(agreed, ours);
        assert!(agreed.is_within(&theirs));
        assert!(!theirs.is_within(&agreed));
        assert_eq!(agreed.pairs().len(), 2);
    }

    #[test]
    fn no_overlap_is_refused() {
        let ours = Selectors {
            local: vec![net(1)],
            remote: vec![net(9)],
        };
        let theirs = Selectors {
            local: vec![net(1)],
            remote: vec![net(8)],
        };
        assert_eq!(ours.intersect(&theirs), None);
    }

    #[test]
    fn families_that_do_not_meet_are_refused() {
        let six = ts(0, (0, 65535), "fd00::", "fd00::ffff");
        let ours = Selectors {
            local: vec![net(1)],
            remote: vec![six],
        };
        assert_eq!(ours.intersect(&ours), None);
    }

    #[test]
    fn the_selectors_of_one_packet_are_absorbed() {
        let packet = ts(17, (7, 7), "10.0.1.5", "10.0.1.5");
        assert_eq!(intersect_all(&[net(1)], &[packet, net(1)]), vec![net(1)]);
    }

    #[test]
    fn protocols_and_ports() {
        let any = ts(0, (0, 65535), "10.0.1.0", "10.0.1.255");
        let udp = ts(17, (0, 65535), "10.0.1.0", "10.0.1.255");
        let port = ts(17, (7000, 7001), "10.0.1.0", "10.0.1.255");
        let tcp = ts(6, (0, 65535), "10.0.1.0", "10.0.1.255");
        let opaque = ts(17, (65535, 0), "10.0.1.0", "10.0.1.255");
        assert_eq!(intersect(&any, &udp), Some(udp));
        assert_eq!(intersect(&udp, &port), Some(port));
        assert_eq!(intersect(&tcp, &port), None);
        assert_eq!(intersect(&udp, &opaque), Some(opaque));
        assert_eq!(intersect(&port, &opaque), None);
    }

    #[test]
    fn dynamic_is_the_address_of_the_side() {
        let addresses = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let selectors = Selectors::resolve(&[], &[SelectorSpec::DYNAMIC], addresses);
        assert_eq!(selectors.pairs()[0].local, (addresses.0, addresses.0));
        assert_eq!(selectors.pairs()[0].remote, (addresses.1, addresses.1));
    }
}
