//! Clear packets: the boundary's rules (RFC 4301 5.1, 5.2) and the FIB.
//!
//! ```text
//! from           to us                      to an inside port      to an outside port
//! outside port   inbound bypass             inbound bypass         inbound and outbound
//! inside port    inbound bypass             outbound               outbound
//! twin           -                          outbound               outbound
//! tunnel         selectors checked: twin    selectors checked      outbound
//! ```
//! "Outbound" is the policy for packets that leave, whose answer may be protect. A packet without
//! a route has no interface, but a protect policy for any interface still takes it: the tunnel has
//! a route of its own.

use std::net::IpAddr;

use api::counters::{Counter, DropReason};
use api::id::{Interface, Vrf};
use api::record::FiveTuple;
use esp::head;
use esp::ip::{self, Family, Ports as Shown};

use super::View;
use super::answer::{Answer, Refusal};
use super::classify::is_group_v4;
use super::exits::{Exit, Exits};
use super::flight::Lane;
use crate::links::Class;
use crate::packet::Origin;
use crate::port::{PortIndex, Side};
use crate::tables::fib::Target;
use crate::tables::spd::{Decision, Flow, Ports, Rule};

/// Where a packet crosses the boundary to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Towards {
    /// Its destination is the protected side.
    Us,
    /// Its destination is the unprotected side.
    Others,
}

/// What a packet is matched by.
pub(super) fn flow(lane: &Lane<'_>, vrf: Vrf, interface: Interface, towards: Towards) -> Flow {
    let ports = match lane.head.ports {
        Shown::None | Shown::Opaque => None,
        Shown::TypeCode(both) => Some((both, both)),
        Shown::Pair {
            source,
            destination,
        } => Some((source, destination)),
    };
    let (source, destination) = head::addresses(lane.packet.network());
    let (local, remote, ports) = match towards {
        Towards::Us => (destination, source, ports.map(|(a, b)| (b, a))),
        Towards::Others => (source, destination, ports),
    };
    let ports = ports.map(|(local, remote)| Ports { local, remote });
    Flow {
        vrf,
        interface,
        local,
        remote,
        protocol: lane.head.protocol,
        ports,
    }
}

/// The flow as an acquire tells it.
pub(super) fn five_tuple(flow: &Flow) -> FiveTuple {
    let ports = flow.ports.unwrap_or(Ports {
        local: 0,
        remote: 0,
    });
    FiveTuple {
        local: flow.local,
        remote: flow.remote,
        protocol: flow.protocol,
        local_port: ports.local,
        remote_port: ports.remote,
    }
}

/// What is left to be done with a clear packet.
pub(super) enum Onward<'t> {
    /// Out of a port in clear.
    Port {
        /// Egress port.
        port: PortIndex,
        /// Next hop.
        next_hop: IpAddr,
    },
    /// Out of the twin's port as Linux made it.
    AsItIs,
    /// Into a tunnel, by this policy.
    Protect(&'t Rule),
}

/// Refuses what must not come in in clear, and gives to Linux what is for Linux.
pub(super) fn admit(view: &View<'_>, lane: &Lane<'_>, exits: &mut Exits) -> Result<(), Exit> {
    let port = view.port(lane.port()).ok_or(DropReason::Internal)?;
    match lane.packet.origin {
        Origin::Twin => return Ok(()),
        Origin::Tunnel if lane.to_us => return Err(Exit::Punt(Class::Rest)),
        Origin::Tunnel if is_group(lane) => {
            return Err(DropReason::Multicast.into());
        }
        Origin::Tunnel => return Ok(()),
        Origin::Wire => {}
    }
    if !lane.to_us && port.side == Side::Inside {
        return Ok(());
    }
    let flow = flow(lane, lane.packet.vrf, port.interface, Towards::Us);
    let rule = view.snapshot.policies.inbound(&flow);
    match rule.map(|rule| &rule.decision) {
        Some(Decision::Bypass) => exits.counts.add(Counter::Bypassed, 1),
        Some(Decision::Protect(_)) => return Err(DropReason::ClearOfProtected.into()),
        Some(Decision::Discard) => return Err(DropReason::DiscardPolicy.into()),
        None => return Err(no_inbound_policy(flow.local).into()),
    }
    if lane.to_us {
        Err(Exit::Punt(Class::Rest))
    } else {
        Ok(())
    }
}

/// Whether the destination is a group or the limited broadcast address.
fn is_group(lane: &Lane<'_>) -> bool {
    let packet = lane.packet.network();
    match lane.head.family {
        Family::V4 => is_group_v4(head::addresses_v4(packet).1),
        Family::V6 => head::addresses_v6(packet).1 >> 120 == 0xff,
    }
}

/// Groups that nobody asked for are background noise, and counted as such.
fn no_inbound_policy(destination: IpAddr) -> DropReason {
    match destination {
        IpAddr::V4(v4) if v4.is_broadcast() => DropReason::Broadcast,
        address if address.is_multicast() => DropReason::Multicast,
        _ => DropReason::NoPolicy,
    }
}

/// Route and policy of a packet that leaves.
pub(super) fn route<'t>(
    view: &View<'t>,
    lane: &Lane<'t>,
    exits: &mut Exits,
) -> Result<Onward<'t>, Exit> {
    if lane.packet.origin == Origin::Twin {
        let port = view.port(lane.port()).ok_or(DropReason::Internal)?;
        let protect = leave(view, lane, Some(port.interface), exits)?;
        return Ok(protect.map_or(Onward::AsItIs, Onward::Protect));
    }
    let (_, destination) = head::addresses(lane.packet.network());
    let target = view.snapshot.fib.lookup(lane.packet.vrf, destination);
    let egress = match target {
        Some(Target::Port { port, .. }) => view.port(port),
        Some(Target::Discard) | None => None,
    };
    let inside = egress.is_some_and(|port| port.side == Side::Inside);
    let admitted = match lane.packet.origin {
        Origin::Tunnel => true,
        Origin::Wire => view
            .port(lane.port())
            .is_some_and(|p| p.side == Side::Outside),
        Origin::Twin => false,
    };
    if !(inside && admitted) {
        let interface = egress.map(|port| port.interface);
        if let Some(rule) = leave(view, lane, interface, exits)? {
            return Ok(Onward::Protect(rule));
        }
    }
    match target {
        Some(Target::Port { port, gateway }) => Ok(Onward::Port {
            port,
            next_hop: gateway.unwrap_or(destination),
        }),
        Some(Target::Discard) => Err(DropReason::DiscardRoute.into()),
        None => Err(DropReason::NoRoute.into()),
    }
}

/// The outbound policy: protect, or `None` for a bypass.
fn leave<'t>(
    view: &View<'t>,
    lane: &Lane<'_>,
    interface: Option<Interface>,
    exits: &mut Exits,
) -> Result<Option<&'t Rule>, Exit> {
    let interface_or_none = interface.unwrap_or_default();
    let flow = flow(lane, lane.packet.vrf, interface_or_none, Towards::Others);
    let rule = view.snapshot.policies.outbound(&flow);
    match rule.map(|rule| (rule, &rule.decision)) {
        Some((rule, Decision::Protect(_))) => Ok(Some(rule)),
        Some((_, Decision::Bypass)) => {
            exits.counts.add(Counter::Bypassed, 1);
            Ok(None)
        }
        Some((_, Decision::Discard)) => Err(DropReason::DiscardPolicy.into()),
        None => Err(DropReason::NoPolicy.into()),
    }
}

/// Makes a clear packet ready to leave by a port: hop limit and size (RFC 1812 5.2, RFC 8200 5).
pub(super) fn forward(
    view: &View<'_>,
    lane: &mut Lane<'_>,
    port: PortIndex,
) -> Result<(), Refusal> {
    let mtu = view.port(port).map_or(0, |port| port.mtu_bytes);
    let fragmentable = !lane.head.df;
    if lane.head.total_len > mtu {
        let answer = (!fragmentable).then_some(Answer::TooBig { mtu: mtu.into() });
        return Err(Refusal {
            reason: DropReason::TooBig,
            answer,
        });
    }
    hop(lane)
}

/// Takes one hop off a forwarded packet; Linux has not routed its own packets, only sent them.
#[inline]
pub(super) fn hop(lane: &mut Lane<'_>) -> Result<(), Refusal> {
    if lane.packet.origin == Origin::Twin {
        return Ok(());
    }
    match ip::decrement_ttl(lane.packet.network_mut()) {
        Some(ttl) => {
            lane.head.ttl = ttl;
            Ok(())
        }
        None => {
            let answer = Some(Answer::TimeExceeded);
            Err(Refusal {
                reason: DropReason::TtlExceeded,
                answer,
            })
        }
    }
}
