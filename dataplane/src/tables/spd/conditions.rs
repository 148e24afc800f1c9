//! What a rule asks for besides an address prefix, small enough to lie beside it.

use api::id::{Interface, Vrf};
use api::selector::{ANY_PORTS, OPAQUE_PORTS};

use super::Ports;
use super::Rule;
use super::flow::{FlowOf, Packed};
use crate::tables::address::Address;

/// Interface, protocol and ports of a rule (RFC 4301 4.4.1.1).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conditions {
    pub(super) interface: Interface,
    pub(super) protocol: u8,
    /// A packet that shows no ports fits.
    hidden: bool,
    pub(super) local_ports: (u16, u16),
    pub(super) remote_ports: (u16, u16),
}

impl Conditions {
    pub(super) fn new(rule: &Rule) -> Self {
        let (local_ports, remote_ports) = (rule.selector.local_ports, rule.selector.remote_ports);
        Self {
            interface: rule.interface,
            protocol: rule.selector.protocol,
            hidden: fits_hidden(local_ports) && fits_hidden(remote_ports),
            local_ports,
            remote_ports,
        }
    }

    /// Whether any protocol and all ports fit.
    pub(super) fn is_all(&self) -> bool {
        self.protocol == 0 && self.local_ports == ANY_PORTS && self.remote_ports == ANY_PORTS
    }

    #[inline]
    pub(super) fn fit<A>(&self, flow: &FlowOf<A>) -> bool {
        fits_frame(self.interface, self.protocol, flow)
            && match flow.ports {
                Some(ports) => {
                    within(self.local_ports, ports.local) && within(self.remote_ports, ports.remote)
                }
                None => self.hidden,
            }
    }
}

/// Whether interface and protocol, 0 being any, fit.
#[inline]
pub(super) fn fits_frame<A>(interface: Interface, protocol: u8, flow: &FlowOf<A>) -> bool {
    (interface == Interface(0) || interface == flow.interface)
        && (protocol == 0 || protocol == flow.protocol)
}

/// Whether one of a packet's ports, the one that `chosen` takes, fits.
#[inline]
pub(super) fn fits_port(
    range: (u16, u16),
    ports: Option<Ports>,
    chosen: impl Fn(Ports) -> u16,
) -> bool {
    match ports {
        Some(ports) => within(range, chosen(ports)),
        None => fits_hidden(range),
    }
}

#[inline]
fn fits_hidden(range: (u16, u16)) -> bool {
    range == ANY_PORTS || range == OPAQUE_PORTS
}

/// OPAQUE ends before it begins, so no visible port is within.
#[inline]
fn within(range: (u16, u16), port: u16) -> bool {
    range.0 <= port && port <= range.1
}

/// A whole rule of one family, for lists that are scanned.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RangeRule<A> {
    local: (A, A),
    remote: (A, A),
    pub(super) rule: u32,
    pub(super) verdict: Packed,
    conditions: Conditions,
    vrf: Vrf,
}

impl<A: Address> RangeRule<A> {
    /// The rule with this number; `None` if its addresses are of the other family.
    pub(super) fn new(number: u32, rule: &Rule) -> Option<Self> {
        let (local, remote) = (rule.selector.local, rule.selector.remote);
        Some(Self {
            local: (A::of(local.first)?, A::of(local.last)?),
            remote: (A::of(remote.first)?, A::of(remote.last)?),
            rule: number,
            verdict: Packed::new(&rule.decision),
            conditions: Conditions::new(rule),
            vrf: rule.vrf,
        })
    }

    /// A rule that stands for itself, without a number.
    pub(super) fn from_parts(
        vrf: Vrf,
        local: (A, A),
        remote: (A, A),
        conditions: Conditions,
    ) -> Self {
        Self {
            local,
            remote,
            rule: 0,
            verdict: Packed::default(),
            conditions,
            vrf,
        }
    }

    #[inline]
    pub(super) fn matches(&self, flow: &FlowOf<A>) -> bool {
        self.vrf == flow.vrf
            && (self.local.0 <= flow.local && flow.local <= self.local.1)
            && (self.remote.0 <= flow.remote && flow.remote <= self.remote.1)
            && self.conditions.fit(flow)
    }

    /// Whether it asks for nothing but addresses and perhaps an interface.
    pub(super) fn is_all(&self) -> bool {
        self.conditions.is_all()
    }
}
