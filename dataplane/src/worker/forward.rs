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
use api::id::Interface;
use api::record::FiveTuple;
use esp::head;
use esp::ip::{self, Family, Ports};

use super::View;
use super::answer::{Answer, Refusal};
use super::classify::{is_group_v4, is_group_v6};
use super::exits::{Exit, Exits};
use super::flight::Lane;
use super::search::{Begun, Search};
use crate::links::Class;
use crate::packet::Origin;
use crate::port::{PortIndex, PortInfo, Side};
use crate::tables::fib::{NextHop, Target};
use crate::tables::spd::{Match, Verdict};

/// Where a packet crosses the boundary to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Towards {
    /// Its destination is the protected side.
    Us,
    /// Its destination is the unprotected side.
    Others,
}

/// The packet as an acquire tells it.
pub(super) fn five_tuple(lane: &Lane<'_>) -> FiveTuple {
    let (local, remote) = head::addresses(lane.packet.network());
    let (local_port, remote_port) = match lane.head.ports.unpack() {
        Ports::None | Ports::Opaque => (0, 0),
        Ports::TypeCode(both) => (both, both),
        Ports::Pair {
            source,
            destination,
        } => (source, destination),
    };
    FiveTuple {
        local,
        remote,
        protocol: lane.head.protocol,
        local_port,
        remote_port,
    }
}

/// What is left to be done with a clear packet.
pub(super) enum Onward {
    /// Out of a port in clear.
    Port {
        /// Egress port.
        port: PortIndex,
        /// Next hop.
        next_hop: IpAddr,
    },
    /// Out of the twin's port as Linux made it.
    AsItIs,
    /// Into the tunnel of the lane's child.
    Protect,
}

/// Refuses what must not come in in clear, and gives to Linux what is for Linux.
#[inline(always)]
pub(super) fn admit(
    view: &View<'_>,
    lane: &Lane<'_>,
    search: &mut Search,
    exits: &mut Exits,
) -> Result<(), Exit> {
    match lane.packet.origin {
        Origin::Twin => Ok(()),
        Origin::Tunnel if is_local(view, lane) => Err(Exit::Punt(Class::Rest)),
        Origin::Tunnel if is_group(lane) => Err(DropReason::Multicast.into()),
        Origin::Tunnel => Ok(()),
        Origin::Wire => {
            let port = view.port(lane.port()).ok_or(DropReason::Internal)?;
            if !lane.to_us && port.side == Side::Inside {
                return Ok(());
            }
            admit_clear(view, lane, port, search, exits)
        }
    }
}

/// A clear packet from outside, or for the gateway itself, needs a bypass.
fn admit_clear(
    view: &View<'_>,
    lane: &Lane<'_>,
    port: &PortInfo,
    search: &mut Search,
    exits: &mut Exits,
) -> Result<(), Exit> {
    let (spd, interface) = (view.snapshot.policies.inbound_spd(), port.interface);
    let begun = search.begin(spd, lane, interface, Towards::Us);
    let found = search.end(begun, spd, lane, interface, Towards::Us);
    match found.map(|found| found.verdict) {
        Some(Verdict::Bypass) => exits.counts.add(Counter::Bypassed, 1),
        Some(Verdict::Protect { .. }) => return Err(DropReason::ClearOfProtected.into()),
        Some(Verdict::Discard) => return Err(DropReason::DiscardPolicy.into()),
        None => {
            let (_, destination) = head::addresses(lane.packet.network());
            return Err(no_inbound_policy(destination).into());
        }
    }
    if lane.to_us {
        Err(Exit::Punt(Class::Rest))
    } else {
        Ok(())
    }
}

/// Whether the destination is the gateway itself.
fn is_local(view: &View<'_>, lane: &Lane<'_>) -> bool {
    let (locals, vrf, packet) = (
        &view.snapshot.locals,
        lane.packet.vrf,
        lane.packet.network(),
    );
    match lane.head.family {
        Family::V4 => locals.contains_v4(vrf, head::addresses_v4(packet).1),
        Family::V6 => locals.contains_v6(vrf, head::addresses_v6(packet).1),
    }
}

/// Whether the destination is a group or the limited broadcast address.
fn is_group(lane: &Lane<'_>) -> bool {
    let packet = lane.packet.network();
    match lane.head.family {
        Family::V4 => is_group_v4(head::addresses_v4(packet).1),
        Family::V6 => is_group_v6(head::addresses_v6(packet).1),
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

/// Where a clear packet goes by the FIB, the interface of that, and the search for its policy that has
/// begun, if it needs one.
pub(super) struct Way {
    hop: Option<NextHop>,
    interface: Interface,
    search: Option<Begun>,
}

/// The route of a packet that leaves, and the first half of the search for its policy, if it needs
/// one.
#[inline(always)]
pub(super) fn look_for_way(view: &View<'_>, lane: &Lane<'_>, search: &Search) -> Result<Way, Exit> {
    let port = view.port(lane.port()).ok_or(DropReason::Internal)?;
    let mut hop = None;
    let (interface, needs_policy) = if lane.packet.origin == Origin::Twin {
        (port.interface, true)
    } else {
        hop = destination_hop(view, lane);
        let egress = match hop.and_then(|hop| view.snapshot.fib.target(hop)) {
            Some(Target::Port { port, .. }) => view.port(*port),
            Some(Target::Discard) | None => None,
        };
        let inside = egress.is_some_and(|port| port.side == Side::Inside);
        let admitted = lane.packet.origin == Origin::Tunnel || port.side == Side::Outside;
        let interface = egress.map(|port| port.interface).unwrap_or_default();
        (interface, !(inside && admitted))
    };
    let spd = view.snapshot.policies.outbound_spd();
    let begin = || search.begin(spd, lane, interface, Towards::Others);
    Ok(Way {
        hop,
        interface,
        search: needs_policy.then(begin),
    })
}

#[inline(always)]
fn destination_hop(view: &View<'_>, lane: &Lane<'_>) -> Option<NextHop> {
    let (fib, vrf, packet) = (&view.snapshot.fib, lane.packet.vrf, lane.packet.network());
    match lane.head.family {
        Family::V4 => fib.next_hop_v4(vrf, head::addresses_v4(packet).1),
        Family::V6 => fib.next_hop_v6(vrf, head::addresses_v6(packet).1),
    }
}

/// Route and policy of a packet that leaves.
#[inline(always)]
pub(super) fn route(
    view: &View<'_>,
    lane: &mut Lane<'_>,
    way: &Way,
    search: &mut Search,
    exits: &mut Exits,
) -> Result<Onward, Exit> {
    if let Some(begun) = way.search
        && leave(view, lane, (begun, way.interface), search, exits)?
    {
        return Ok(Onward::Protect);
    }
    if lane.packet.origin == Origin::Twin {
        return Ok(Onward::AsItIs);
    }
    match way.hop.and_then(|hop| view.snapshot.fib.target(hop)) {
        Some(Target::Port { port, gateway }) => Ok(Onward::Port {
            port: *port,
            next_hop: gateway.unwrap_or_else(|| head::addresses(lane.packet.network()).1),
        }),
        Some(Target::Discard) => Err(DropReason::DiscardRoute.into()),
        None => Err(DropReason::NoRoute.into()),
    }
}

/// The outbound policy: true for protect, false for a bypass.
#[inline(always)]
fn leave(
    view: &View<'_>,
    lane: &mut Lane<'_>,
    (begun, interface): (Begun, Interface),
    search: &mut Search,
    exits: &mut Exits,
) -> Result<bool, Exit> {
    let spd = view.snapshot.policies.outbound_spd();
    let found = search.end(begun, spd, lane, interface, Towards::Others);
    let Some(Match { rule, verdict }) = found else {
        return Err(DropReason::NoPolicy.into());
    };
    match verdict {
        Verdict::Protect { slot } => {
            (lane.rule, lane.child) = (rule, slot);
            Ok(true)
        }
        Verdict::Bypass => {
            exits.counts.add(Counter::Bypassed, 1);
            Ok(false)
        }
        Verdict::Discard => Err(DropReason::DiscardPolicy.into()),
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
#[inline(always)]
pub(super) fn hop(lane: &mut Lane<'_>) -> Result<(), Refusal> {
    if lane.packet.origin == Origin::Twin {
        return Ok(());
    }
    match ip::decrement_ttl(lane.packet.network_mut()) {
        Some(ttl) => {
            lane.head.ttl = ttl;
            Ok(())
        }
        None => Err(no_hop_left()),
    }
}

/// RFC 1812 5.3.1.
pub(super) fn no_hop_left() -> Refusal {
    Refusal {
        reason: DropReason::TtlExceeded,
        answer: Some(Answer::TimeExceeded),
    }
}
