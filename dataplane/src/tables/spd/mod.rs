//! The SPD (RFC 4301 4.4.1): one immutable version of all policies.
//!
//! A policy takes about 104 bytes, and in its direction's hash table 96 to 192 bytes for IPv4 and
//! twice that for IPv6; a child takes 64 bytes more for what it carries inbound.

mod carried;
mod conditions;
#[cfg(test)]
mod differential;
mod flow;
mod hash;
mod index;
mod order;
mod prefixes;

use std::net::IpAddr;
use std::sync::Arc;

use api::id::{ChildId, Interface, PolicyId, Vrf};
use api::selector::Selector;

use super::child::Child;
use carried::Carried;
pub(in crate::tables) use flow::{Best, Packed};
pub use flow::{FlowOf, FlowV4, FlowV6, Match, Verdict};
pub use index::{Index, Probe};
use order::Order;

/// Most policies of one version: a million children, one each way.
pub const MAX_POLICIES: usize = 1 << 21;

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

/// What changed in one direction since a base was made.
#[derive(Debug, Default)]
pub struct Changes {
    /// Rules of the base that were deleted or replaced: priority and number that they have there.
    pub gone: Vec<(u32, PolicyId)>,
    /// New rules, and the new ones of those that were replaced.
    pub rules: Vec<Rule>,
}

/// The policies of one direction: a base in the order they are tried, which many versions share,
/// and the rules that changed since, in order too.
#[derive(Debug, Default)]
pub struct Spd {
    base: Arc<[Rule]>,
    changed: Vec<Rule>,
    order: Arc<Order>,
    v4: Index<u32>,
    v6: Index<u128>,
}

impl Spd {
    fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_unstable_by_key(order::key);
        Self {
            v4: Index::new(&rules),
            v6: Index::new(&rules),
            base: rules.into(),
            changed: Vec::new(),
            order: Arc::default(),
        }
    }

    /// The base of this version with other changes.
    fn with(&self, changes: Changes) -> Self {
        let Changes { gone, mut rules } = changes;
        if gone.is_empty() && rules.is_empty() {
            return Self {
                base: Arc::clone(&self.base),
                v4: self.v4.without_changes(),
                v6: self.v6.without_changes(),
                ..Self::default()
            };
        }
        rules.sort_unstable_by_key(order::key);
        let gone: Vec<_> = gone
            .iter()
            .map(|(priority, id)| (*priority, id.0))
            .collect();
        let order = Arc::new(Order::new(&self.base, &gone, &rules));
        Self {
            v4: self.v4.with(&rules, &order),
            v6: self.v6.with(&rules, &order),
            base: Arc::clone(&self.base),
            changed: rules,
            order,
        }
    }

    /// The policies for IPv4.
    #[must_use]
    pub fn v4(&self) -> &Index<u32> {
        &self.v4
    }

    /// The policies for IPv6.
    #[must_use]
    pub fn v6(&self) -> &Index<u128> {
        &self.v6
    }

    /// The policy that a [`Match`] of this direction and version names.
    #[must_use]
    pub fn rule(&self, rule: u32) -> Option<&Rule> {
        let at = usize::try_from(rule).ok()?;
        let changed = || self.changed.get(at - self.base.len());
        self.base.get(at).or_else(changed)
    }

    /// The policy for a packet; `None` is a discard.
    #[must_use]
    pub fn lookup(&self, flow: &Flow) -> Option<&Rule> {
        let found = match FlowV4::of(flow) {
            Some(flow) => self.v4.lookup(&flow),
            None => self.v6.lookup(&FlowV6::of(flow)?),
        };
        self.rule(found?.rule)
    }
}

/// All policies of one version.
#[derive(Debug, Default)]
pub struct Policies {
    inbound: Spd,
    outbound: Spd,
    carried: Carried,
}

impl Policies {
    /// Puts the policies of both directions in order. Selectors are valid, see
    /// [`Selector::validate`].
    #[must_use]
    pub fn new(inbound: Vec<Rule>, outbound: Vec<Rule>) -> Self {
        let inbound = Spd::new(inbound);
        Self {
            carried: Carried::new(&inbound.base),
            inbound,
            outbound: Spd::new(outbound),
        }
    }

    /// The base of this version, which [`new`](Self::new) made, with other changes. What it costs
    /// depends on the changes, not on the base.
    #[must_use]
    pub fn with(&self, inbound: Changes, outbound: Changes) -> Self {
        let inbound = self.inbound.with(inbound);
        Self {
            carried: self.carried.with(&inbound),
            inbound,
            outbound: self.outbound.with(outbound),
        }
    }

    /// Rules of the base, both ways.
    #[must_use]
    pub fn base_len(&self) -> usize {
        self.inbound.base.len() + self.outbound.base.len()
    }

    /// The policies for packets that come in.
    #[must_use]
    pub fn inbound_spd(&self) -> &Spd {
        &self.inbound
    }

    /// The policies for packets that go out.
    #[must_use]
    pub fn outbound_spd(&self) -> &Spd {
        &self.outbound
    }

    /// The policy for a packet that comes in clear; `None` is a discard.
    #[must_use]
    pub fn inbound(&self, flow: &Flow) -> Option<&Rule> {
        self.inbound.lookup(flow)
    }

    /// The policy for a packet that goes out; `None` is a discard.
    #[must_use]
    pub fn outbound(&self, flow: &Flow) -> Option<&Rule> {
        self.outbound.lookup(flow)
    }

    /// True when a packet that came out of an SA of this child is one that the child carries
    /// (RFC 4301 5.2 step 4).
    #[must_use]
    pub fn child_carries(&self, child: ChildId, flow: &Flow) -> bool {
        let Some(slot) = self.carried.slot(child) else {
            return false;
        };
        match (FlowV4::of(flow), FlowV6::of(flow)) {
            (Some(flow), _) => self.carries_v4(slot, &flow),
            (_, Some(flow)) => self.carries_v6(slot, &flow),
            (None, None) => false,
        }
    }

    /// Whether the child with this [`slot`](Child::slot) carries the packet (RFC 4301 5.2 step 4).
    #[inline]
    #[must_use]
    pub fn carries_v4(&self, slot: u32, flow: &FlowV4) -> bool {
        self.carried.v4(slot, flow, false)
    }

    /// Whether the child with this [`slot`](Child::slot) carries the packet (RFC 4301 5.2 step 4).
    #[inline]
    #[must_use]
    pub fn carries_v6(&self, slot: u32, flow: &FlowV6) -> bool {
        self.carried.v6(slot, flow, false)
    }

    /// Whether that child carries any packet between the addresses of this one, whatever is in it.
    #[must_use]
    pub fn carries_all_v4(&self, slot: u32, flow: &FlowV4) -> bool {
        self.carried.v4(slot, flow, true)
    }

    /// Whether that child carries any packet between the addresses of this one, whatever is in it.
    #[must_use]
    pub fn carries_all_v6(&self, slot: u32, flow: &FlowV6) -> bool {
        self.carried.v6(slot, flow, true)
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
