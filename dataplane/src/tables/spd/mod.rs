//! The SPD (RFC 4301 4.4.1): one immutable version of all policies.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::id::{ChildId, Interface, PolicyId, Vrf};
use api::selector::Selector;

use super::child::Child;

/// Most policies of one version.
pub const MAX_POLICIES: usize = 1 << 18;

/// What a packet is matched by. "Local" is the protected side whatever the direction: the source
/// of an outbound packet, the destination of an inbound one (RFC 4301 4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Routing instance.
    pub vrf: Vrf,
    /// The port that the packet crosses the boundary by.
    pub interface: Interface,
    /// Address on the protected side.
    pub local: IpAddr,
    /// Address on the unprotected side.
    pub remote: IpAddr,
    /// Upper protocol.
    pub protocol: u8,
    /// Ports, or ICMP type and code in both; `None` where the packet shows none (a fragment
    /// other than the first, a protocol without ports), which only ANY and OPAQUE match.
    pub ports: Option<Ports>,
}

/// Port numbers of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// On the protected side.
    pub local: u16,
    /// On the unprotected side.
    pub remote: u16,
}

/// What is to be done with a packet.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Through the child's SA.
    Protect(Arc<Child>),
    /// As it is.
    Bypass,
    /// Not at all.
    Discard,
}

/// One policy, with its child at hand.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The policy's number.
    pub id: PolicyId,
    /// Lower goes first; equal ones go by number.
    pub priority: u32,
    /// Routing instance it belongs to.
    pub vrf: Vrf,
    /// Port it is bound to; 0 is any.
    pub interface: Interface,
    /// Packets it is for.
    pub selector: Selector,
    /// What happens to them.
    pub decision: Decision,
}

impl Rule {
    /// True when the packet is one of this policy's.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        let any_interface = self.interface == Interface(0);
        self.vrf == flow.vrf
            && (any_interface || self.interface == flow.interface)
            && self.selector.matches(
                (flow.local, flow.ports.map(|ports| ports.local)),
                (flow.remote, flow.ports.map(|ports| ports.remote)),
                flow.protocol,
            )
    }
}

/// All policies of one version, in the order they are tried.
#[derive(Debug, Default)]
pub struct Policies {
    inbound: Vec<Rule>,
    outbound: Vec<Rule>,
    /// Positions in `inbound` of the protect policies of each child.
    by_child: HashMap<ChildId, Vec<usize>>,
}

impl Policies {
    /// Puts the policies of both directions in order.
    #[must_use]
    pub fn new(mut inbound: Vec<Rule>, mut outbound: Vec<Rule>) -> Self {
        let order = |rule: &Rule| (rule.priority, rule.id.0);
        inbound.sort_by_key(order);
        outbound.sort_by_key(order);
        let mut by_child: HashMap<ChildId, Vec<usize>> = HashMap::new();
        for (position, rule) in inbound.iter().enumerate() {
            if let Decision::Protect(child) = &rule.decision {
                by_child.entry(child.id).or_default().push(position);
            }
        }
        Self {
            inbound,
            outbound,
            by_child,
        }
    }

    /// The policy for a packet that comes in clear; `None` is a discard.
    #[must_use]
    pub fn inbound(&self, flow: &Flow) -> Option<&Rule> {
        self.inbound.iter().find(|rule| rule.matches(flow))
    }

    /// The policy for a packet that goes out; `None` is a discard.
    #[must_use]
    pub fn outbound(&self, flow: &Flow) -> Option<&Rule> {
        self.outbound.iter().find(|rule| rule.matches(flow))
    }

    /// True when a packet that came out of an SA of this child is one that the child carries
    /// (RFC 4301 5.2 step 4).
    #[must_use]
    pub fn child_carries(&self, child: ChildId, flow: &Flow) -> bool {
        let positions = self
            .by_child
            .get(&child)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut rules = positions
            .iter()
            .filter_map(|&position| self.inbound.get(position));
        rules.any(|rule| rule.matches(flow))
    }
}

#[cfg(test)]
mod tests {
    use api::selector::AddrRange;

    use super::*;

    fn range(first: &str, last: &str) -> AddrRange {
        AddrRange {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
        }
    }

    fn rule(id: u32, priority: u32, decision: Decision) -> Rule {
        let selector = Selector {
            local: range("10.1.0.0", "10.1.255.255"),
            remote: range("10.2.0.0", "10.2.255.255"),
            protocol: 0,
            local_ports: (0, u16::MAX),
            remote_ports: (0, u16::MAX),
        };
        let id = PolicyId(id);
        Rule {
            id,
            priority,
            vrf: Vrf(0),
            interface: Interface(0),
            selector,
            decision,
        }
    }

    fn flow() -> Flow {
        Flow {
            vrf: Vrf(0),
            interface: Interface(1),
            local: "10.1.0.1".parse().unwrap(),
            remote: "10.2.0.1".parse().unwrap(),
            protocol: 17,
            ports: Some(Ports {
                local: 1000,
                remote: 53,
            }),
        }
    }

    #[test]
    fn the_lowest_priority_number_goes_first_then_the_lowest_id() {
        let rules = vec![
            rule(3, 20, Decision::Bypass),
            rule(2, 10, Decision::Bypass),
            rule(1, 10, Decision::Discard),
        ];
        let policies = Policies::new(Vec::new(), rules);
        assert_eq!(policies.outbound(&flow()).unwrap().id, PolicyId(1));
        assert!(policies.inbound(&flow()).is_none());
    }

    #[test]
    fn the_edges_of_a_range_belong_to_it() {
        let rule = rule(1, 1, Decision::Bypass);
        let with = |local: &str| Flow {
            local: local.parse().unwrap(),
            ..flow()
        };
        assert!(rule.matches(&with("10.1.0.0")));
        assert!(rule.matches(&with("10.1.255.255")));
        assert!(!rule.matches(&with("10.0.255.255")));
        assert!(!rule.matches(&with("10.2.0.0")));
        assert!(!rule.matches(&with("::ffff:10.1.0.1")), "another family");
    }

    #[test]
    fn vrf_interface_and_protocol_are_part_of_the_key() {
        let mut rule = rule(1, 1, Decision::Bypass);
        assert!(!rule.matches(&Flow {
            vrf: Vrf(1),
            ..flow()
        }));
        rule.interface = Interface(2);
        assert!(!rule.matches(&flow()));
        assert!(rule.matches(&Flow {
            interface: Interface(2),
            ..flow()
        }));
        rule.selector.protocol = 6;
        assert!(!rule.matches(&Flow {
            interface: Interface(2),
            ..flow()
        }));
    }

    #[test]
    fn a_packet_that_hides_its_ports_matches_any_but_no_port() {
        let mut rule = rule(1, 1, Decision::Bypass);
        let fragment = Flow {
            ports: None,
            ..flow()
        };
        assert!(rule.matches(&fragment));
        rule.selector.remote_ports = (53, 53);
        assert!(rule.matches(&flow()));
        assert!(!rule.matches(&fragment));
    }
}
